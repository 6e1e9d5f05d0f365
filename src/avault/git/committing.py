"""How a commit of the vault is made.

Our files, and no others, are committed. A commit is made with git's plumbing, of which no hook,
filter, signing program that the repository names, editor or pager runs, and beside the index, so
that what the user has staged stays staged.
"""

from __future__ import annotations

import os
import shlex
import tempfile

from avault.errors import AvaultError, printable
from avault.git.committed import MESSAGE, NOBODY, UNDER_WAY_HINT, Refused, Verified
from avault.git.repository import Head, IndexEntry, Repository
from avault.git.run import NO_HOOKS, reason, run_git


def commit_files(repository: Repository, verified: Verified) -> str | None:
    """Commit our files, and no others, as they are on the disk: the commit, or None if it has them.

    Raises Refused where the repository is to be left alone, Tampered and Locked for what is not
    `verified`, and AvaultError.
    """
    for _ in range(3):
        if operation := repository.operation():
            raise Refused(f"{operation} is under way", UNDER_WAY_HINT)
        head, files = repository.head(), repository.files()
        refuse_marked(repository.index())
        tree = repository.tree(head.commit)
        files = dict(files.items() - tree.items())
        for name, path in repository.paths.items():
            if path in files:  # as git has it now, whatever becomes of the file
                verified.check(name, repository.blob(files[path]))
        files |= dict.fromkeys(repository.removed(tree), "")
        if not files:
            return None
        commit = make_commit(repository, head, files)
        repository.stage(files)
        moved = run_git(
            repository.top,
            "update-ref",
            "-m",
            MESSAGE,
            head.branch,
            commit,
            head.commit or "0" * len(commit),
        )
        if not moved.returncode:
            return commit
    raise Refused(f"the branch could not be moved: {reason(moved.stderr)}", "see: git status")


def refuse_marked(index: dict[str, list[IndexEntry]]) -> None:
    """Raise Refused where our files are in conflict, or git was told not to look at them."""
    for path, entries in index.items():
        if any(entry.stage for entry in entries):
            raise Refused(f"{path} is in conflict", "see: git status")
        if entries[0].tag.islower() or entries[0].tag == "S":
            mark = "skip-worktree" if entries[0].tag in "Ss" else "assume-unchanged"
            raise Refused(
                f"{path} is marked {mark}", f"git update-index --no-{mark} {shlex.quote(path)}"
            )


def make_commit(repository: Repository, head: Head, files: dict[str, str]) -> str:
    """A commit of these files on top of the head, that no branch has yet.

    Made in an index of its own. A file without an object is one that goes.
    """
    with tempfile.TemporaryDirectory(prefix="avault-") as place:
        index, alone = os.path.join(place, "index"), ("core.splitIndex=false",)
        if head.commit:
            repository.run("read-tree", head.commit, index=index, settings=alone)
        none = "0" * len(head.commit or "")
        lines = "".join(
            f"{'100644' if name else '0'} {name or none}\t{path}\0" for path, name in files.items()
        )
        repository.run(
            "update-index",
            "-z",
            "--index-info",
            data=os.fsencode(lines),
            index=index,
            settings=alone,
        )
        tree = (
            repository.run("write-tree", "--missing-ok", index=index, settings=alone)
            .decode()
            .strip()
        )
    changed = (
        ("diff-tree", "-r", "-z", "--no-renames", "--name-only", head.commit, tree)
        if head.commit
        else ()
    )
    names = repository.run(
        *(changed or ("ls-tree", "-r", "-z", "--full-tree", "--name-only", tree))
    )
    if others := files.keys() ^ set(os.fsdecode(names).split("\0")[:-1]):
        raise Refused(
            f"a commit of the vault would change {printable(min(others))}", "see: git status"
        )
    parents = ("-p", head.commit) if head.commit else ()
    words = (
        "commit-tree",
        *(["-S"] if is_signing(repository) else []),
        tree,
        *parents,
        "-m",
        MESSAGE,
    )
    done = run_git(repository.top, *words, settings=(NO_HOOKS, *commit_settings(repository)))
    if done.returncode and is_signing(repository):
        raise AvaultError(
            f"the commit could not be signed: {reason(done.stderr)}",
            "is the key at hand? Then: avault sync. "
            "To leave ours unsigned: git config avault.sign false",
        )
    if done.returncode:
        raise AvaultError(f"git commit-tree: {reason(done.stderr)}", "see: git status")
    return done.stdout.decode().strip()


def is_signing(repository: Repository) -> bool:
    """Whether our commits are signed.

    As git config avault.sign says, else as commit.gpgSign does.
    """
    return repository.is_on(
        "avault.sign" if "avault.sign" in repository.settings else "commit.gpgsign", default="false"
    )


def commit_settings(repository: Repository) -> tuple[str, ...]:
    """Settings for a commit: a name where git knows none of the user, and what signs, if wanted.

    What signs is the user's choice, in the user's or the system's configuration: a repository
    names no program.
    """
    settings = tuple(
        f"user.{name}={value}"
        for name, value in NOBODY.items()
        if not repository.settings.get(f"user.{name}")
    )
    if not is_signing(repository):
        return settings
    own = {
        name: value
        for scope, name, value in repository.scoped_settings
        if scope in ("system", "global")
    }
    gpg = own.get("gpg.openpgp.program") or own.get("gpg.program") or "gpg"
    programs = {
        "gpg.program": gpg,
        "gpg.openpgp.program": gpg,
        "gpg.x509.program": own.get("gpg.x509.program", "gpgsm"),
        "gpg.ssh.program": own.get("gpg.ssh.program", "ssh-keygen"),
        "gpg.ssh.defaultKeyCommand": own.get("gpg.ssh.defaultkeycommand", "false"),
    }
    return (
        *settings,
        "commit.gpgSign=true",
        *(f"{name}={value}" for name, value in programs.items()),
    )
