"""avault git record: what happens by itself after every write."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Locked, Tampered, TimedOut, Usage
from avault.git.committed import UNDER_WAY_HINT, VAULT, Conflict, NoRepository, Refused, Verified
from avault.git.committing import commit_files, refuse_marked
from avault.git.copies import remove_old_copies
from avault.git.driver import is_set_up, set_up
from avault.git.publishing import find_upstream, new_commits, push_commits
from avault.git.repository import Repository
from avault.git.run import run_git
from avault.git.settling import settle
from avault.places import Places
from avault.terminal.commands import command, option
from avault.terminal.talk import put
from avault.terminal.terminal import Terminal

if TYPE_CHECKING:
    from typing import Any


def record(places: Places, given: dict[str, str] | None = None) -> dict[str, Any]:
    """Commit and push what was written, and merge what git could not while the vault was locked.

    Gives what became of it.

    `state` is committed, clean, merged (only the merge's own commit is missing), conflict, ignored,
    off, no_repository, refused or failed; `push` is pushed, clean, none, off, refused, rejected or
    failed.
    """
    told: dict[str, Any] = dict.fromkeys(
        ("repository", "state", "reason", "commit", "push", "push_reason", "hint")
    )
    try:
        repository = Repository(places.dir)
        told["repository"] = repository.top
        # objects for those who read the others
        os.umask(0o777 & ~stat.S_IMODE(os.stat(repository.git_dir).st_mode) & 0o077)
        if repository.paths[VAULT] in repository.ignored:
            return told | {"state": "ignored", "reason": "the repository ignores avault.enc"}
        with repository.hold():
            told |= record_in(repository, places, given)
    except NoRepository as error:
        told |= {"state": "no_repository", "reason": error.message}
    except AvaultError as error:
        state = {
            Refused: "refused",
            Conflict: "conflict",
            Tampered: "refused",
            Locked: "refused",
        }.get(type(error), "failed")
        told |= {"state": state, "reason": error.message, "hint": error.hint}
    return told


def record_in(
    repository: Repository, places: Places, given: dict[str, str] | None
) -> dict[str, Any]:
    """What `record` does where nothing speaks against it; raises AvaultError."""
    told: dict[str, Any] = set_up_quietly(repository)
    settled = settle(repository, places)
    operation = repository.operation()
    if operation and (
        settled or (operation == "a merge" and not repository.run("ls-files", "-z", "-u"))
    ):
        hint = "avault sync" if operation == "a merge" else "git status says how to go on"
        why = f"{operation} is under way; the vault is merged in it"
        return told | {"state": "merged", "reason": why, "hint": hint}
    if not repository.is_on("avault.commit"):
        return told | {"state": "off", "reason": "git config avault.commit is false"}
    commit = commit_files(repository, Verified(places, given))
    told |= {"state": "committed" if commit else "clean", "commit": commit and commit[:12]}
    told |= push_commits(repository)
    if commit:
        with contextlib.suppress(TimedOut):
            # as `git commit` does
            run_git(repository.top, "maintenance", "run", "--auto", "--quiet")
    return told


def set_up_quietly(repository: Repository) -> dict[str, str | None]:
    """Set up the merge driver where it is not.

    Why it cannot be must not keep anything from being committed.
    """
    try:
        if not is_set_up(repository):
            set_up(repository)
    except AvaultError as error:
        return {"reason": f"no merge driver: {error.message}", "hint": error.hint}
    return {}


@command("git record", option("--verified", default="{}"))
def cmd_record(terminal: Terminal, verified: str) -> int:
    """usage: avault git record [--verified HASHES]

    Commits and pushes the vault's files, and says in JSON what became of it.
    The daemon runs this after every write; `avault status` shows what it said.

    Only avault.enc, nsec.enc, nip46.json, .gitattributes and shared custodians
    (custody-NAME.json, signed by the agent) are committed, with a constant
    message; what else is staged stays so. Pushed is only what is ours.
    avault.enc and nsec.enc are committed only as the daemon has verified them: by
    the HASHES that it gives (a JSON object of file and SHA-256), or when asked.
    To switch it off: git config avault.commit false; git config avault.push false
    """
    os.nice(10)  # nobody waits for it
    remove_old_copies(terminal.places)
    try:
        given = {str(name): str(value) for name, value in json.loads(verified).items()}
    except (ValueError, AttributeError):
        raise Usage("--verified takes a JSON object", "see: avault git record --help") from None
    told = record(terminal.places, given)
    put(json.dumps(told) + "\n")
    return AvaultError.exit_code if told["state"] == "failed" else 0


def examine_repository(directory: str) -> dict[str, Any]:
    """What `doctor` says about git: facts, and problems, each with what is wrong and what mends it.

    `repository` is None where there is none; then, and where it ignores the vault, nothing is
    wrong. Changes nothing.
    """
    names = (
        "repository ignored branch operation committed commit push upstream unpublished "
        "merge_driver"
    )
    facts: dict[str, Any] = dict.fromkeys(names.split())
    problems: list[AvaultError] = []
    try:
        repository = Repository(directory)
        facts["repository"] = repository.top
        facts["ignored"] = repository.paths[VAULT] in repository.ignored
        facts["commit"], facts["push"] = (
            repository.is_on("avault.commit"),
            repository.is_on("avault.push"),
        )
        if not facts["ignored"]:
            examine_commits(repository, facts, problems)
    except NoRepository:
        pass
    except AvaultError as error:
        problems.append(error)
    return {
        **facts,
        "problems": [{"problem": error.message, "hint": error.hint} for error in problems],
    }


def examine_commits(
    repository: Repository, facts: dict[str, Any], problems: list[AvaultError]
) -> None:
    """What `examine` says of a repository that keeps the vault.

    Raises what keeps it from keeping it.
    """
    facts["merge_driver"] = is_set_up(repository)
    if not facts["merge_driver"]:
        problems.append(AvaultError("git does not merge the vault by key", "avault doctor --fix"))
    if operation := repository.operation():
        facts["operation"] = operation
        raise Refused(f"{operation} is under way, so nothing is committed", UNDER_WAY_HINT)
    head = repository.head()
    facts["branch"] = head.branch.removeprefix("refs/heads/")
    refuse_marked(repository.index())
    tree = repository.tree(head.commit)
    is_whole = repository.files(keep=False).items() <= tree.items()
    facts["committed"] = is_whole and not repository.removed(tree)
    if facts["commit"] and not facts["committed"]:
        problems.append(AvaultError("what is on the disk is not committed", "avault sync"))
    if facts["push"] and repository.run("remote"):
        upstream = find_upstream(repository, head.branch)
        facts["upstream"] = upstream.name
        facts["unpublished"] = (
            len(new_commits(repository, upstream, head.commit)) if head.commit else 0
        )
        if facts["unpublished"]:
            problems.append(
                AvaultError(
                    f"{facts['unpublished']} commit(s) are not published to {upstream.name}",
                    "avault sync",
                )
            )
