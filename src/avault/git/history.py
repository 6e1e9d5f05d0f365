"""avault history, restore: looking back."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Locked, NotFound, Tampered, Unavailable, Usage, printable
from avault.git.committed import VAULT
from avault.git.copies import Described, copies, inspect
from avault.git.repository import Repository
from avault.late import Fields
from avault.places import Places
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import put, say
from avault.terminal.terminal import Terminal
from avault.terminal.words import split_name
from avault.vault.presence import need_vault
from avault.vault.times import render_time

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


CHANGE_SIGNS = {"added": "+", "changed": "~", "deleted": "-", "conflicts": "!"}


class Change(Fields, frozen=True, order=True):
    """A commit that changed the vault.

    The keys that it changed, of each of KINDS, or why that cannot be told.
    """

    commit: str
    time: str
    author: str
    is_merge: bool
    keys: dict[str, list[str]]
    problem: str | None

    def about(self, group: str, key: str | None) -> Change | None:
        """What of it is about one group, or one key of it; None if nothing is."""

        def is_meant(name: str) -> bool:
            return name == f"{group}/{key}" if key else name.startswith(group + "/")

        keys = {
            kind: [name for name in names if is_meant(name)] for kind, names in self.keys.items()
        }
        return dataclasses.replace(self, keys=keys) if any(keys.values()) else None

    def render(self) -> str:
        """It, for a person."""
        lines = [
            f"{self.commit[:12]}  {self.time}  {printable(self.author)}"
            + ("  (merge)" if self.is_merge else "")
        ]
        lines += [
            f"  {CHANGE_SIGNS[kind]} {name}" for kind, names in self.keys.items() for name in names
        ]
        lines += [f"    {self.problem}"] if self.problem else []
        return "".join(line + "\n" for line in lines)

    def to_dict(self) -> dict[str, Any]:
        """It, as --json prints it."""
        about = {
            "commit": self.commit,
            "time": self.time,
            "author": self.author,
            "merge": self.is_merge,
        }
        return {**about, **self.keys, "problem": self.problem}


class History:
    """The commits of a repository that changed its vault, the latest first.

    They are read through the keyholder.
    """

    def __init__(self, repository: Repository, places: Places) -> None:
        self.repository, self.places = repository, places
        self.known: dict[str, Described | AvaultError] = {}  # by commit

    def changes(self) -> Iterator[Change]:
        """Each commit with what it changed.

        Raises Locked, Unavailable, NotFound where there is no commit.
        """
        if not self.repository.line("rev-parse", "-q", "--verify", "HEAD^{commit}"):
            raise NotFound("the repository has no commit yet", "the first is made by: avault sync")
        path = self.repository.paths[VAULT]
        listed = self.repository.run(
            "rev-list", "--parents", "--format=%ct %an", "HEAD", "--", path
        )
        lines = iter(listed.decode("utf-8", "replace").split("\n")[:-1])
        for line in lines:
            _, commit, *parents = line.split(" ")
            seconds, _, author = next(lines).partition(" ")
            yield Change(
                commit,
                render_time(int(seconds)),
                author,
                len(parents) > 1,
                *self.compare(commit, parents),
            )

    def compare(self, commit: str, parents: list[str]) -> tuple[dict[str, list[str]], str | None]:
        """What a commit did that none of its parents had, of each of KINDS; or the problem."""
        keys: dict[str, list[str]] = {kind: [] for kind in CHANGE_SIGNS}
        vault = self.describe(commit)
        if isinstance(vault, AvaultError):
            return keys, vault.message
        before = [
            found
            for parent in parents
            if not isinstance(found := self.describe(parent), AvaultError)
        ]
        if len(before) < len(parents):
            return keys, "what was before does not open, so what changed is unknown"
        for name in sorted({name for found in (vault, *before) for name in found.versions}):
            old, new = [found.versions.get(name) for found in before], vault.versions.get(name)
            if new and not any(old):
                keys["added"].append(name)
            elif new and new not in old:
                keys["changed"].append(name)
            elif not new and all(old):
                keys["deleted"].append(name)
            if name in vault.conflicts and not any(name in found.conflicts for found in before):
                keys["conflicts"].append(name)
        return keys, None

    def describe(self, commit: str) -> Described | AvaultError:
        """What is in the vault of a commit, or why it does not open."""
        if commit not in self.known:
            found = self.repository.tree(commit).get(self.repository.paths[VAULT])
            try:
                self.known[commit] = (
                    inspect(self.places, self.repository.blob(found), older=True)
                    if found
                    else Described([], {}, {}, [])
                )
            except (Locked, Unavailable):
                raise
            except AvaultError as error:
                self.known[commit] = error
        return self.known[commit]


def need_directory(places: Places) -> None:
    """Raise NotFound where no vault can be; what git has checked out may be without one."""
    if not os.path.isdir(places.dir):
        need_vault(places)


@command("history", argument("group", required=False), option("-n", "--limit", type=int))
def cmd_history(terminal: Terminal, group: str | None, limit: int | None) -> int:
    """usage: avault history [GROUP[/KEY]] [-n N] [--json]

    What changed in the vault, by commit, the latest first: + added, ~ changed,
    - deleted, ! set on two machines. Names and times, never values; the vault
    has to be open. A version that does not open is named, and does not stop it.

      avault history openai
    """
    need_directory(terminal.places)
    about = split_name(group, None) if group is not None else None
    shown: list[Change] = []
    for change in History(Repository(terminal.places.dir), terminal.places).changes():
        if limit is not None and len(shown) >= limit:
            break
        part = change.about(*about) if about else change
        if part:
            shown.append(part)
            if not terminal.want_json:
                put(part.render())
    if group and not shown:
        raise NotFound(f"no commit changed {group}", "see: avault history")
    if terminal.want_json:
        put(
            json.dumps(
                {"commits": [change.to_dict() for change in shown]}, indent=2, ensure_ascii=False
            )
            + "\n"
        )
    return 0


def restore_unsaved(terminal: Terminal) -> int:
    """Have what is served written over an avault.enc that cannot be used."""
    done = terminal.ask("restore", unsaved=True)
    if done["restored"]:
        say(f"taken over from before the rotation: {', '.join(done['restored'])}")
    elif not done["needed"]:
        say("avault.enc is whole: there is nothing to write back")
    else:
        say(
            f"{terminal.places.file('avault.enc')} is what is served; "
            f"what was there is {terminal.places.own('damaged.enc')}"
        )
    return 0


@command(
    "restore", argument("commit", required=False), argument("group", required=False),
    option("--key"), option("--unsaved", is_flag=True),
)  # fmt: skip
def cmd_restore(
    terminal: Terminal, commit: str | None, group: str | None, key: str | None, unsaved: bool
) -> int:
    """usage: avault restore COMMIT GROUP [--key KEY] [--json]
           avault restore --unsaved

    Sets a key, or all keys of a group, to what they were in a commit. That is a
    new write: what is there now stays in git's history, and keys that the group
    has got since stay. GROUP/KEY is short for GROUP --key KEY.
    --unsaved is for an avault.enc that is damaged, gone or too old while the vault
    is open: writes what is served in its place. What was there stays in the state
    directory, as damaged.enc. It also takes over what was written here under the
    agent's key before, as status names it.

      avault history openai
      avault restore 3f2a91c openai/API_KEY
    """
    if unsaved:
        if commit is not None:
            raise Usage(
                "--unsaved is about the whole vault, as it is served", "avault restore --unsaved"
            )
        return restore_unsaved(terminal)
    if commit is None:
        raise Usage(
            "COMMIT and GROUP are missing", "see: avault history, then: avault restore COMMIT GROUP"
        )
    if group is None:
        if re.fullmatch("[0-9a-f]{4,64}|HEAD.*", commit):
            raise Usage("GROUP is missing", f"avault restore {commit} GROUP, or GROUP/KEY")
        meant, _ = split_name(commit, key)
        raise Usage(
            f"COMMIT is missing: as of when is {printable(commit)} to be restored?",
            f"avault history {meant}",
        )
    need_directory(terminal.places)
    group, key = split_name(group, key)
    repository = Repository(terminal.places.dir)
    found = repository.line(
        "rev-parse", "-q", "--verify", "--end-of-options", f"{commit}^{{commit}}"
    )
    name = repository.tree(found).get(repository.paths[VAULT])
    if not found or not name:
        what = "has no vault" if found else "is no commit"
        raise NotFound(f"{printable(commit)} {what}", "see: avault history")
    with copies(terminal.places, repository.blob(name)) as [file]:
        try:
            restored = terminal.ask("restore", file=file, group=group, key=key)["restored"]
        except NotFound as error:
            raise NotFound(
                f"{error.message} in {found[:12]}", f"see: avault history {group}"
            ) from None
        except Tampered as error:
            raise Tampered(
                f"the vault of {found[:12]} does not open: {error.message}",
                "choose another: avault history",
            ) from None
    if terminal.want_json:
        put(json.dumps({"commit": found, "restored": restored}, indent=2) + "\n")
    else:
        say(f"restored {', '.join(restored)} as of {found[:12]}")
    return 0
