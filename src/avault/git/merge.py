"""avault git merge, git diff: two machines' work on the vault, by key.

Git merges avault.enc through the keyholder, and compares its names instead of its bytes. It is
told to in .git/config and .git/info/attributes, which no clone gets: there the .gitattributes that
we commit makes it a conflict.
"""

from __future__ import annotations

import contextlib
import os

from avault.client import ask_daemon
from avault.errors import AvaultError, Locked, Unavailable, printable
from avault.git.committed import VAULT
from avault.git.copies import Described, copies, inspect
from avault.git.repository import Repository
from avault.git.run import run_git
from avault.git.settling import merge_public
from avault.places import Places, sha256
from avault.terminal.commands import argument, command
from avault.terminal.talk import put, say
from avault.terminal.terminal import Terminal
from avault.vault.files import VAULT_LIMIT, read_file
from avault.vault.machine import read_pin


@command("git merge", argument("base"), argument("ours"), argument("theirs"), argument("path"))
def cmd_merge(terminal: Terminal, base: str, ours: str, theirs: str, path: str) -> int:
    """usage: avault git merge %O %A %B %P

    The merge driver, as git calls it (gitattributes(5)): merges the other side's
    vault into OURS, by key, through the daemon. No base is needed: each secret
    says which machine wrote it when. Exit code 1, and the names: a key was set on
    both sides, and both values are in the vault. Any other: nothing was changed.
    """
    directory, name = os.path.split(os.path.abspath(path))
    mine, others = read_file(ours, VAULT_LIMIT), read_file(theirs, VAULT_LIMIT)
    if name != VAULT:
        merge_public(name, mine, others)
        return 0
    places = Places(directory)
    try:
        with copies(places, mine, others) as [one, other]:
            answer = ask_daemon(places, "merge", ours=one, theirs=other)
        known = (
            {*inspect(places, mine).conflicts, *inspect(places, others).conflicts}
            if answer["conflicts"]
            else set()
        )
    except AvaultError as error:
        say(f"{path} is left in conflict, with both sides in git, as it could not be merged")
        if isinstance(error, (Locked, Unavailable)):
            error.hint = after_failure(places, mine)
        raise
    with open(ours, "wb") as file:
        file.write(answer["merged"].encode())
    conflicts = [each for each in answer["conflicts"] if each not in known]
    tell_conflicts(conflicts, Repository(directory).operation() if conflicts else None)
    return 1 if conflicts else 0


def tell_conflicts(names: list[str], operation: str | None = None) -> None:
    """Name the keys that were set on two machines, and how each is settled.

    In the middle of a rebase the daemon leaves the work tree alone, and serves what it had.
    """
    for name in names:
        say(f"conflict: two machines set {name}; the vault has both values")
    if names and operation:
        say(
            f"hint: git add avault.enc, and go on; then look: avault get {names[0]} --json; "
            f"settle it: avault set {names[0]}"
        )
    elif names:
        say(
            f"hint: look: avault get {names[0]} --json; settle it: avault set {names[0]}; "
            "then: avault sync"
        )


def after_failure(places: Places, ours: bytes) -> str:
    """What brings the merge about that just failed as the vault was locked.

    In a merge the work tree has what this machine has seen last, so that the next unlock can merge
    the other side into it. In a rebase it has the other side, without our last writes, which does
    not open here.
    """
    with contextlib.suppress(AvaultError):
        pin = read_pin(places)
        if pin and pin["hash"] == sha256(ours).hex():
            return "avault unlock, which merges it"
    return "abort what you began (git rebase --abort), then avault unlock, then begin again"


@command("git diff", argument("file"))
def cmd_diff(terminal: Terminal, file: str) -> int:
    """usage: avault git diff FILE

    The diff filter, as git calls it (textconv in gitattributes(5)): a line for
    each key of a copy of the vault, with its times. Names, never values.
    """
    data = read_file(file, VAULT_LIMIT)
    problem = AvaultError("in no repository")
    for places in vaults_here():
        try:
            put("".join(line + "\n" for line in render_copy(inspect(places, data, older=True))))
            return 0
        except AvaultError as error:
            problem = error
    put(f"# avault: {printable(problem.message)}\nsha256 {sha256(data).hex()}\n")
    return 0


def vaults_here() -> list[Places]:
    """The vaults in the work tree that git has made the current directory."""
    listed = run_git(
        ".", "--no-literal-pathspecs", "ls-files", "-z", "--", f":(glob)**/{VAULT}"
    ).stdout
    return [
        Places(os.path.dirname(os.path.abspath(path)))
        for path in os.fsdecode(listed).split("\0")[:-1]
    ]


def render_copy(vault: Described) -> list[str]:
    """Lines that tell one state of the vault from another, each by itself.

    Two writes in one second are two too.
    """
    lines = []
    for group in vault.groups:
        if group["note"]:
            lines.append(f"{group['name']}  # {printable(group['note'])}")
        for key in group["keys"]:
            mark = "  conflict: two machines set it" if key["conflict"] else ""
            write = sha256(key["version"].encode())[:4].hex()
            lines.append(
                f"{group['name']}/{key['name']}  created {key['created']}  "
                f"updated {key['updated']}  write {write}{mark}"
            )
    return lines
