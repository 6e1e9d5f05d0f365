"""avault sync: fetch, merge and push."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from typing import TYPE_CHECKING

from avault.client import ask_daemon
from avault.errors import AvaultError, Locked, Tampered, Unavailable, printable
from avault.git.committed import MERGE_MESSAGE, UNDER_WAY_HINT, VAULT, Conflict, Refused, Verified
from avault.git.committing import commit_files, commit_settings
from avault.git.copies import inspect
from avault.git.driver import is_set_up, set_up
from avault.git.merge import tell_conflicts
from avault.git.publishing import (
    Upstream,
    are_ours,
    find_upstream,
    is_behind,
    is_fetched,
    new_commits,
    push_words,
)
from avault.git.repository import Repository
from avault.git.run import NO_HOOKS, run_git, watch_git
from avault.git.settling import settle
from avault.places import Places, sha256
from avault.terminal.commands import command
from avault.terminal.talk import put, say
from avault.terminal.terminal import Terminal
from avault.vault.files import VAULT_LIMIT, read_file
from avault.vault.machine import read_pin
from avault.vault.presence import need_vault, read_sealed
from avault.vault.statements import explain_successor

if TYPE_CHECKING:
    from typing import Any


@command("sync")
def cmd_sync(terminal: Terminal) -> int:
    """usage: avault sync [--json]

    Brings the vault's repository level with its upstream: commits the vault,
    fetches, merges and pushes. Commits that are not avault's are pushed with it,
    past your pre-push hook. What two machines have set is merged by key; needs
    the vault open if both have. Where both set the same key it stops and names
    it: settle it (avault set) and sync again. Your own changes stay as they are;
    if they are in the way of the merge, git says so and nothing is merged.

      avault sync
    """
    need_vault(terminal.places)
    repository = Repository(terminal.places.dir)
    if repository.paths[VAULT] in repository.ignored:
        raise Refused("the repository ignores avault.enc", "see: git check-ignore -v avault.enc")
    operation = repository.operation()
    if operation and operation != "a merge":
        raise Refused(f"{operation} is under way", UNDER_WAY_HINT)
    with repository.hold():
        told = bring_level(repository, terminal.places)
    told["conflicts"] = served_conflicts(terminal)
    with contextlib.suppress(AvaultError):
        terminal.ask("record")  # so that `status` says how it is now
    tell_conflicts(told["conflicts"])
    if terminal.want_json:
        put(json.dumps(told, indent=2) + "\n")
    elif told["upstream"]:
        done = [f"{word} {told[word]} commit(s)" for word in ("merged", "pushed") if told[word]]
        say(f"{' and '.join(done) or 'nothing to do'}: level with {printable(told['upstream'])}")
    else:
        say(
            f"{'committed' if told['commit'] else 'nothing to do'}: "
            "there is no remote to be level with"
        )
    return 0


def bring_level(repository: Repository, places: Places) -> dict[str, Any]:
    """Commit what is here, and have both sides the same; what was done. Raises AvaultError."""
    if not is_set_up(repository):
        set_up(repository)
    told: dict[str, Any] = {
        "repository": repository.top,
        "upstream": None,
        "commit": None,
        "merged": 0,
        "pushed": 0,
    }
    settle(repository, places)
    conclude_merge(repository)
    if repository.is_on("avault.commit"):
        commit = commit_files(repository, Verified(places))
        told["commit"] = commit and commit[:12]
    if repository.run("remote"):
        upstream = find_upstream(repository, repository.head().branch)
        told["upstream"] = upstream.name
        exchange_commits(repository, upstream, places, told)
    return told


def exchange_commits(
    repository: Repository, upstream: Upstream, places: Places, told: dict[str, Any]
) -> None:
    """Fetch, merge and push until both sides have the same, and count it.

    Raises Unavailable, and what merging raises.
    """
    for _ in range(3):
        if watch_git(
            repository.top, "fetch", "--no-recurse-submodules", "--", upstream.remote
        ).returncode:
            raise Unavailable(
                f"cannot fetch from {upstream.remote}",
                "git says why above; the vault itself is written",
            )
        if is_fetched(repository, upstream):  # an empty remote has nothing to merge
            told["merged"] += merge_upstream(repository, upstream, places)
        pushed = publish(repository, upstream)
        if pushed is not None:
            told["pushed"] = pushed
            return
    raise Unavailable(
        f"{upstream.name} changes faster than it can be merged", "try again: avault sync"
    )


def conclude_merge(repository: Repository) -> None:
    """Commit a merge of the upstream in which nothing is in conflict any more.

    Raises Refused for anything else.
    """
    other = repository.line("rev-parse", "-q", "--verify", "MERGE_HEAD")
    if not other:
        return
    upstream = find_upstream(repository, repository.head().branch)
    is_upstreams = not run_git(
        repository.top, "merge-base", "--is-ancestor", other, upstream.ref
    ).returncode
    unmerged = repository.run("ls-files", "-z", "-u")
    if not is_upstreams or unmerged:
        raise Refused("a merge is under way", UNDER_WAY_HINT)
    words = ("commit", "-q", "--no-edit", "--no-verify")
    done = watch_git(repository.top, *words, settings=(NO_HOOKS, *commit_settings(repository)))
    if done.returncode:
        raise AvaultError("the merge could not be committed", "see: git status")


def merge_upstream(repository: Repository, upstream: Upstream, places: Places) -> int:
    """Merge what was fetched: how many commits there were.

    Raises Locked, Conflict and AvaultError.
    """
    count = int(repository.run("rev-list", "--count", f"HEAD..{upstream.ref}", "--"))
    if not count:
        return 0
    base = repository.line("merge-base", "HEAD", upstream.ref)
    vault = repository.paths[VAULT]
    before, ours, theirs = (
        repository.tree(commit).get(vault) for commit in (base, "HEAD", upstream.ref)
    )
    if len({before, ours, theirs}) == 3 and ask_daemon(places, "status")["state"] != "unlocked":
        raise Locked(
            "both sides have written to the vault, which is locked",
            "avault unlock, then avault sync",
        )
    if before and ours and not repository.is_file(upstream.ref, vault):
        raise Tampered(
            f"{upstream.name} has no avault.enc any more, and yours would go with it",
            f"nothing was merged. To keep yours: git merge -s ours {shlex.quote(upstream.name)}; "
            "then: avault sync",
        )
    if theirs and theirs != ours:
        verify_incoming(repository, upstream, places, repository.blob(theirs))
    words = (
        "merge",
        "-q",
        "--no-edit",
        "--no-stat",
        "--ff",
        "--no-verify",
        "-m",
        MERGE_MESSAGE,
        upstream.ref,
    )
    done = watch_git(repository.top, *words, settings=(NO_HOOKS, *commit_settings(repository)))
    if done.returncode:
        unmerged = os.fsdecode(
            repository.run("diff", "-z", "--name-only", "--diff-filter=U")
        ).split("\0")[:-1]
        if others := [path for path in unmerged if path not in repository.paths.values()]:
            named = printable(", ".join(others))
            raise Conflict(
                f"conflicts in file(s) of yours: {named}",
                "resolve them, git add, git commit, then: avault sync",
            )
        if not unmerged:
            for line in os.fsdecode(done.stdout).splitlines():
                say(printable(line, 1000))
            raise AvaultError(
                f"git could not merge {upstream.name}", "git says why above; nothing was changed"
            )
        settle(repository, places)
        conclude_merge(repository)
    return count


def verify_incoming(
    repository: Repository, upstream: Upstream, places: Places, data: bytes
) -> None:
    """Open the vault of the other side before it takes the place of one that works.

    Raises Tampered and Locked.

    What this machine has opened before works. Without that there is nothing to lose, and nothing to
    open the other with.
    """
    try:
        inspect(places, data)
    except (Locked, Unavailable):
        pin = read_pin(places)
        path = places.file(VAULT)
        if (
            pin
            and os.path.lexists(path)
            and pin["hash"] == sha256(read_file(path, VAULT_LIMIT)).hex()
        ):
            raise Locked(
                "what the other side has written is to be verified, and the vault is locked",
                "avault unlock, then avault sync",
            ) from None
    except Tampered as error:
        recovery = repository.tree(upstream.ref).get(repository.paths["nsec.enc"])
        successor = find_rotated(places, repository.blob(recovery) if recovery else b"")
        if isinstance(successor, Locked):
            successor.hint = f"git pull; then, {successor.hint}"
            raise successor from None
        raise Tampered(
            f"the avault.enc of {upstream.name} does not open: {(successor or error).message}",
            f"nothing was merged. To keep yours: git merge -s ours {shlex.quote(upstream.name)}; "
            "then: avault sync",
        ) from None


def find_rotated(places: Places, recovery: bytes) -> AvaultError | None:
    """What is said where the agent's key was rotated on the other side, by its nsec.enc."""
    own = read_sealed("unlock", places.own("unlock.json"))
    names, before = (own["vault"], own["agent"], own["operator"]), own.get("rotated", [])
    return explain_successor(recovery, *names, before)


def publish(repository: Repository, upstream: Upstream) -> int | None:
    """Push the branch: how many commits that were; None if the other side has more again.

    Raises Unavailable.
    """
    head = repository.head()
    commits = new_commits(repository, upstream, head.commit) if head.commit else []
    if not commits or not head.commit:
        return 0
    settings = (NO_HOOKS,) if are_ours(repository, commits) else ()
    done = watch_git(repository.top, *push_words(upstream, head.commit), settings=settings)
    if is_behind(done.stdout):
        return None
    if done.returncode:
        raise Unavailable(
            f"cannot push to {upstream.name}",
            "git says why above; what was merged is committed here",
        )
    return len(commits)


def served_conflicts(terminal: Terminal) -> list[str]:
    """The keys that two machines set, once the daemon has looked at what was merged.

    There are none while it is locked.
    """
    try:
        groups = terminal.ask("list")["groups"]
    except (Locked, Unavailable):
        return []
    return [
        f"{group['name']}/{key['name']}"
        for group in groups
        for key in group["keys"]
        if key["conflict"]
    ]
