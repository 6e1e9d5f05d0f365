"""The vault's git repository: what git knows of our files, and which state it is in.

Git itself refuses a repository of somebody else's (safe.directory).
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import stat
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Unavailable, printable
from avault.git.committed import (
    ATTRIBUTES,
    LOCK_PATIENCE,
    NAMES,
    OPERATIONS,
    NoRepository,
    Refused,
    is_custodian,
)
from avault.git.run import NO_HOOKS, reason, run_git
from avault.late import Fields, context, once
from avault.process import take_lock
from avault.vault.files import read_file
from avault.vault.own_files import GITATTRIBUTES
from avault.vault.work_tree import find_git

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# what git says of a lock, which it does not wait for: of the index, and of its configuration
LOCKED = rb"create '(.*\.lock)': File exists|lock config file (.*): File exists"


class Head(Fields, frozen=True, order=True):
    """The branch that is checked out, and its commit; None before the first."""

    branch: str
    commit: str | None


class IndexEntry(Fields, frozen=True, order=True):
    """A line of the index.

    `tag` as in `git ls-files -v`, the object, and the stage, 0 for a path without a conflict.
    """

    tag: str
    object: str
    stage: int


class Repository:
    """The work tree that a vault directory is in.

    `top`, `git_dir`, and the `paths` of our files from the top.

    Raises NoRepository, and Refused for one that git itself will not touch.
    """

    def __init__(self, directory: str) -> None:
        self.directory = os.path.realpath(directory)
        try:
            found = run_git(
                self.directory,
                "rev-parse",
                "--is-inside-work-tree",
                "--show-cdup",
                "--absolute-git-dir",
            )
        except Unavailable as error:
            raise NoRepository(error.message, error.hint) from None
        if b"dubious ownership" in found.stderr:
            raise Refused(
                "the repository belongs to another user, and git does not trust it",
                "if you do: git config --global --add safe.directory "
                + shlex.quote(self.directory),
            )
        if found.returncode and b"not a git repository" not in found.stderr:
            raise AvaultError(f"git: {reason(found.stderr)}", "see: git status")
        if not found.stdout.startswith(b"true\n"):
            around = shlex.quote(os.path.dirname(self.directory))
            raise NoRepository(
                f"{directory} is in no git repository's work tree",
                f"to have its history kept: git -C {around} init; then: avault sync",
            )
        _, up, git_dir = os.fsdecode(found.stdout).split("\n", 2)
        self.top = os.path.realpath(os.path.join(self.directory, up))
        self.git_dir = git_dir.removesuffix("\n")
        # Whoever can push could make the vault's directory look like a bare repository, whose
        # settings name programs.
        if os.path.realpath(self.git_dir) != os.path.realpath(find_git(self.directory) or ""):
            raise Refused(
                f"git would take {printable(self.git_dir)} for a repository of its own, "
                "and its settings with it",
                "who put HEAD and config there? Take them out of it",
            )
        names = (*NAMES, *sorted({*os.listdir(self.directory), *self.tracked()}))
        self.paths = {
            name: self.path_of(name) for name in names if name in NAMES or is_custodian(name)
        }

    def path_of(self, name: str) -> str:
        """The path, from the top, of a file in the vault directory."""
        return os.path.relpath(os.path.join(self.directory, name), self.top)

    def tracked(self) -> list[str]:
        """What git knows in the vault directory that may be of custodians, gone or not.

        Also what the last commit alone has: a file may go while it is committed.
        """
        listing = ("--no-literal-pathspecs", "ls-files", "-z", "--", ":(glob)custody-*.json")
        found = [
            run_git(self.directory, *words).stdout
            for words in (listing, ("ls-tree", "-z", "--name-only", "HEAD"))
        ]
        return [name for each in found for name in os.fsdecode(each).split("\0")[:-1]]

    def are_ours(self, paths: Iterable[str]) -> bool:
        """Whether paths are all of our files, also of a custodian's that is gone."""
        for path in paths:
            name = os.path.basename(path)
            if path != self.path_of(name) or not (name in NAMES or is_custodian(name)):
                return False
        return True

    def removed(self, tree: dict[str, str]) -> list[str]:
        """The custodians' files in a commit's `tree` that are not on the disk any more."""
        found = [path for name, path in self.paths.items() if is_custodian(name) and path in tree]
        return [path for path in found if not os.path.lexists(os.path.join(self.top, path))]

    def run(
        self,
        *words: str,
        data: bytes = b"",
        index: str | None = None,
        settings: tuple[str, ...] = (),
    ) -> bytes:
        """What git prints; raises AvaultError with what it says.

        Waits a little for another git's lock, and never removes it; raises Refused.
        """
        end = time.monotonic() + LOCK_PATIENCE
        while True:
            done = run_git(self.top, *words, data=data, index=index, settings=(NO_HOOKS, *settings))
            if not done.returncode:
                return done.stdout
            lock = re.search(LOCKED, done.stderr)
            if not lock:
                raise AvaultError(f"git {words[0]}: {reason(done.stderr)}", "see: git status")
            if time.monotonic() > end:
                path = os.path.join(self.top, os.fsdecode(lock[1] or lock[2] + b".lock"))
                raise Refused(
                    f"another git holds the repository ({printable(os.path.basename(path))})",
                    f"if none is running: rm {shlex.quote(path)}",
                )
            time.sleep(0.1)

    @context
    def hold(self) -> Iterator[None]:
        """Keep other avaults out of the repository, as git does not wait for its own locks.

        Waits a little; whoever then still is there is met at git's locks, as are all where the file
        system has no such lock.
        """
        place = os.open(self.git_dir, os.O_RDONLY | os.O_DIRECTORY)
        end = time.monotonic() + LOCK_PATIENCE
        try:
            with contextlib.suppress(OSError):
                while not take_lock(place) and time.monotonic() < end:
                    time.sleep(0.05)
            yield
        finally:
            os.close(place)

    def line(self, *words: str) -> str | None:
        """The one line that git prints; None if it says no, or nothing."""
        done = run_git(self.top, *words)
        return os.fsdecode(done.stdout).removesuffix("\n") or None if not done.returncode else None

    @once
    def scoped_settings(self) -> list[tuple[str, str, str]]:
        """What git is set to.

        Scope, name and value, the last that is said of a name being the one that counts.
        """
        words = os.fsdecode(self.run("config", "-z", "--show-scope", "--list")).split("\0")[:-1]
        pairs = (
            (scope, entry.partition("\n"))
            for scope, entry in zip(words[::2], words[1::2], strict=True)
        )
        return [
            (scope, name, value if mark else "true")
            for scope, (name, mark, value) in pairs
            if scope != "command"
        ]

    @once
    def settings(self) -> dict[str, str]:
        """What git is set to, here and for the user."""
        return {name: value for _, name, value in self.scoped_settings}

    def forget_settings(self) -> None:
        """Look at the settings again when they are next asked for, as they are others now."""
        for name in ("scoped_settings", "settings"):
            self.__dict__.pop(name, None)

    def is_on(self, name: str, default: str = "true") -> bool:
        """Whether a setting is true; raises AvaultError for neither true nor false."""
        value = self.settings.get(name, default).lower()
        if value in ("true", "yes", "on", "1"):
            return True
        if value in ("false", "no", "off", "0", ""):
            return False
        raise AvaultError(f"git config {name} is neither true nor false", f"git config {name} true")

    def resolve(self, *names: str) -> list[str | None]:
        """The objects that these names are of, None for those that are of none."""
        told = self.run(
            "cat-file",
            "--batch-check=%(objectname)",
            data=os.fsencode("".join(name + "\n" for name in names)),
        )
        lines = os.fsdecode(told).splitlines()
        return [
            None if line == f"{name} missing" else line
            for name, line in zip(names, lines, strict=True)
        ]

    def head(self) -> Head:
        """What is checked out.

        Raises Refused for a commit that is on no branch, where the next one would be lost.
        """
        branch = self.line("symbolic-ref", "-q", "HEAD")
        if not branch:
            raise Refused("no branch is checked out (detached HEAD)", "git switch BRANCH")
        return Head(branch, *self.resolve(branch))

    def operation(self) -> str | None:
        """What git is in the middle of.

        A merge, a rebase and the like (gitrepository-layout(5)).
        """
        refs = [name for name in OPERATIONS if name.isupper()]
        found = [name for name, commit in zip(refs, self.resolve(*refs), strict=True) if commit]
        found += [
            name
            for name in OPERATIONS
            if name not in refs and os.path.lexists(os.path.join(self.git_dir, name))
        ]
        return OPERATIONS[found[0]] if found else None

    @once
    def ignored(self) -> set[str]:
        """Those of our files that the repository ignores and does not have."""
        # a path that begins with : would be something else
        asked = {"./" + path: path for path in self.paths.values()}
        words = ("--no-literal-pathspecs", "check-ignore", "-z", "--stdin")
        done = run_git(self.top, *words, data=os.fsencode("\0".join(asked) + "\0"))
        if done.returncode > 1:
            raise AvaultError(f"git check-ignore: {reason(done.stderr)}", "see: git status")
        return {asked[name] for name in os.fsdecode(done.stdout).split("\0")[:-1]}

    def index(self) -> dict[str, list[IndexEntry]]:
        """What the index has of our files."""
        entries: dict[str, list[IndexEntry]] = {}
        listed = self.run("ls-files", "-z", "-s", "-v", "--", *self.paths.values())
        for line in os.fsdecode(listed).split("\0")[:-1]:
            place, _, path = line.partition("\t")
            tag, _, name, stage = place.split(" ")
            entries.setdefault(path, []).append(IndexEntry(tag, name, int(stage)))
        return entries

    def tree(self, commit: str | None) -> dict[str, str]:
        """The objects of our files in a commit."""
        if not commit:
            return {}
        listed = os.fsdecode(
            self.run("ls-tree", "-z", "--full-tree", commit, "--", *self.paths.values())
        )
        lines = [line.partition("\t") for line in listed.split("\0")[:-1]]
        return {path: place.split(" ")[2] for place, _, path in lines}

    def is_file(self, commit: str, path: str) -> bool:
        """Whether a path is a file in a commit, and no link, directory or submodule."""
        return self.run("ls-tree", "-z", "--full-tree", commit, "--", path).startswith(b"100")

    def blob(self, name: str) -> bytes:
        """The content of an object; raises AvaultError."""
        return self.run("cat-file", "blob", name)

    def files(self, keep: bool = True) -> dict[str, str]:
        """Our files as they are on the disk, by path, each an object's name.

        Git has that object now if it is to `keep` it.

        No filter touches them. A .gitattributes that says more than ours is the user's to commit.
        """
        names = [
            name
            for name in self.paths
            if os.path.lexists(path := os.path.join(self.directory, name)) and is_regular(path)
        ]
        if (
            ATTRIBUTES in names
            and read_file(os.path.join(self.directory, ATTRIBUTES)) != GITATTRIBUTES
        ):
            names.remove(ATTRIBUTES)
        names = [name for name in names if self.paths[name] not in self.ignored]
        if not names:
            return {}
        paths = [self.paths[name] for name in names]
        objects = (
            self.run("hash-object", *(["-w"] if keep else []), "--no-filters", "--", *paths)
            .decode()
            .split()
        )
        return dict(zip(paths, objects, strict=True))

    def stage(self, paths: Iterable[str]) -> None:
        """Put files of ours into the index, before the branch has them.

        A commit of the user's must not take them back.

        Raises Refused, AvaultError. Whoever writes an index compares files that have just been
        changed, whosesoever they are, and runs their filters: here they have none, and git looks
        again.
        """
        filters = [
            name
            for name in self.settings
            if re.fullmatch(r"filter\..*\.(clean|process|required)", name, re.DOTALL)
        ]
        settings = tuple(f"{name}=" for name in filters)
        data = os.fsencode("".join(path + "\0" for path in paths))
        self.run("update-index", "--add", "--remove", "-z", "--stdin", data=data, settings=settings)


def is_regular(path: str) -> bool:
    """Whether a path is a file, and no link."""
    return stat.S_ISREG(os.lstat(path).st_mode)
