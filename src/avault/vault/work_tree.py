"""Whether git is at work around the vault: it takes no lock of ours (gitrepository-layout(5))."""

from __future__ import annotations

import os

from avault.vault.files import read_file


def find_git(directory: str) -> str | None:
    """Git's own directory for the work tree that a directory is in.

    None where there is none (gitrepository-layout(5)).
    """
    while not os.path.lexists(found := os.path.join(directory, ".git")):
        if directory == (directory := os.path.dirname(directory)):
            return None
    if not os.path.isfile(found):
        return found
    return os.path.join(
        directory, os.fsdecode(read_file(found)).removeprefix("gitdir: ").rstrip("\n")
    )


def is_git_at_work(directory: str) -> bool:
    """Whether git is at work in the work tree that a directory is in.

    A file there may be another in a moment.
    """
    return has_git(directory, "index.lock", "rebase-merge", "rebase-apply")


def is_amid_git(directory: str) -> bool:
    """Whether git waits for a person to finish or abort something (gitrepository-layout(5))."""
    return has_git(
        directory, "rebase-merge", "rebase-apply", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD"
    )


def has_git(directory: str, *names: str) -> bool:
    """Whether git's own directory has one of these files."""
    found = find_git(os.path.realpath(directory)) or directory
    return any(os.path.lexists(os.path.join(found, name)) for name in names)
