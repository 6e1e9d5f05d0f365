"""Where the vault's branch is published, and the push of what is ours.

A push goes the way of the user's own `git push`: remotes, ssh and credential helpers are the
repository's settings.
"""

from __future__ import annotations

import os
import re
import shlex

from avault.errors import TimedOut, printable
from avault.git.committed import MESSAGE, Refused
from avault.git.repository import Repository
from avault.git.run import NO_HOOKS, reason, run_git
from avault.late import Fields


class Upstream(Fields, frozen=True, order=True):
    """Where a branch is published.

    Git's own copy of it here, its name for people, the remote, and its name there.
    """

    ref: str
    name: str
    remote: str
    branch: str


def find_upstream(repository: Repository, branch: str) -> Upstream:
    """Where a branch is published; raises Refused if nowhere."""
    fields = (
        "%(upstream)%00%(upstream:short)%00%(upstream:remotename)%00%(upstream:remoteref)"
        "%00%(push:remotename)"
    )
    short = branch.removeprefix("refs/heads/")
    found = repository.run("for-each-ref", f"--format={fields}", branch).decode().strip("\n")
    if not found:
        raise Refused(f"the branch {short} has no commit yet", "avault sync")
    ref, name, remote, there, push = found.split("\0")
    if not ref or not there or remote == ".":
        remotes = repository.run("remote").decode().split()
        likely = "origin" if "origin" in remotes else shlex.quote(remotes[0]) if remotes else None
        hint = (
            f"git push -u {likely} {shlex.quote(short)}" if likely else "git remote add origin URL"
        )
        raise Refused(f"the branch {short} has no upstream", hint)
    if push and push != remote:
        raise Refused(f"the branch {short} is pushed elsewhere than it is pulled from", "git push")
    return Upstream(ref, name, remote, there)


def is_fetched(repository: Repository, upstream: Upstream) -> bool:
    """Whether there is an upstream's branch here.

    Not before the first fetch, and not as long as its remote is empty.
    """
    return bool(repository.line("rev-parse", "-q", "--verify", f"{upstream.ref}^{{commit}}"))


def new_commits(repository: Repository, upstream: Upstream, commit: str) -> list[str]:
    """The commits that a push of `commit` would publish."""
    without = [f"^{upstream.ref}"] if is_fetched(repository, upstream) else []
    return repository.run("rev-list", commit, *without, "--").decode().split()


def are_ours(repository: Repository, commits: list[str]) -> bool:
    """Whether commits are ours, all of them.

    With our message, of one parent, touching nothing but our files.
    """
    # git drops a line without an end
    names = "".join(commit + "\n" for commit in commits).encode()
    stream = repository.run("cat-file", "--batch", data=names)
    for _ in commits:
        header, _, stream = stream.partition(b"\n")
        size = int(header.split()[2])
        head, _, message = stream[:size].partition(b"\n\n")
        if message != MESSAGE.encode() + b"\n" or head.count(b"\nparent ") > 1:
            return False
        stream = stream[size + 1 :]
    touched = repository.run(
        "diff-tree",
        "--stdin",
        "-r",
        "-z",
        "--root",
        "--no-renames",
        "--no-commit-id",
        "--name-only",
        data=names,
    )
    return repository.are_ours(path for path in os.fsdecode(touched).split("\0") if path)


def push_commits(repository: Repository) -> dict[str, str | None]:
    """Push the branch if all that would be published is ours.

    What became of it: push, push_reason, hint.
    """
    if not repository.is_on("avault.push"):
        return {"push": "off", "push_reason": "git config avault.push is false"}
    try:
        head = repository.head()
        upstream = find_upstream(repository, head.branch)
        if not is_fetched(repository, upstream):
            raise Refused(f"{upstream.name} was never fetched", "avault sync")
    except Refused as error:
        return {
            "push": "none",
            "push_reason": error.message,
            "hint": error.hint if repository.run("remote") else None,
        }
    commits = new_commits(repository, upstream, head.commit) if head.commit else []
    if not commits or not head.commit:
        return {"push": "clean"}
    if not are_ours(repository, commits):
        why = f"commits that are not avault's would be published with it to {upstream.name}"
        return {"push": "refused", "push_reason": why, "hint": "avault sync"}
    ssh = (
        ()
        if "core.sshcommand" in repository.settings
        else ("core.sshCommand=ssh -o BatchMode=yes",)
    )
    words = push_words(upstream, head.commit)
    try:
        done = run_git(repository.top, *words, settings=(NO_HOOKS, *ssh))
    except TimedOut as error:
        return {"push": "failed", "push_reason": error.message, "hint": "avault sync"}
    if not done.returncode:
        return {"push": "pushed"}
    if is_behind(done.stdout):
        return {
            "push": "rejected",
            "push_reason": f"{upstream.name} has commits that are not here",
            "hint": "avault sync",
        }
    refused = re.search(rb"^!\t[^\t]*\t(.*)", done.stdout, re.MULTILINE)
    why = printable(refused[1].decode(errors="replace")) if refused else reason(done.stderr)
    return {"push": "failed", "push_reason": why, "hint": "avault sync"}


def push_words(upstream: Upstream, commit: str) -> tuple[str, ...]:
    """The push of this very commit, whatever the branch has become meanwhile."""
    return ("push", "--porcelain", "--", upstream.remote, f"{commit}:{upstream.branch}")


def is_behind(output: bytes) -> bool:
    """Whether a push was rejected because the other side has more."""
    return b"[rejected]" in output
