"""What a command in a sandbox sees of this machine's files, as mounts for bubblewrap (bwrap(1)).

Nothing is seen that is not bound: what programs are made of can be read, the current directory and
what the caller names can be written too. Where that would show the vault, its state or its sockets,
an empty directory stands in their place; where it would let the command change what runs outside
later, unasked (avault, its Python, the git around the vault), it can only be read. What can be
neither is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import sys
from typing import TYPE_CHECKING

from avault.errors import Denied, NotFound, printable
from avault.process import take_lock
from avault.running.guarded import (
    empty_places,
    hidden_directories,
    home_ways,
    is_empty_directory,
    is_imported,
    links_on_way,
    program_directory,
    protected_names,
)
from avault.vault.files import read_file

if TYPE_CHECKING:
    from collections.abc import Iterable

    from avault.places import Places

SYSTEM = ("/usr", "/etc")  # what every program may need: read only
ROOTS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")  # mostly links into /usr
FRESH = ("/tmp", "/run", "/var/tmp")  # there, private, and gone with the sandbox  # noqa: S108
WRITABLE, READABLE, MASKED = "--bind", "--ro-bind", "--tmpfs"  # how a path is there, for bwrap


def is_below(path: str, top: str) -> bool:
    """Whether a path is `top`, or in it; both absolute and resolved."""
    return path == top or path.startswith(top.rstrip("/") + "/")


class Mount:
    """A mount as the kernel tells of it: which file system, which part of it, and where."""

    def __init__(self, line: bytes) -> None:
        """Of a line of /proc/PID/mountinfo (proc(5)), whose blanks are \\040 and the like."""
        _, _, device, *words = line.split(b" ")[:5]
        unescaped = (
            re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), word)
            for word in words
        )
        self.root, self.point = map(os.fsdecode, unescaped)
        self.device = device


def other_ways(path: str, mounts: list[Mount]) -> set[str]:
    """All paths by which mounts show what is at a path, that one among them."""
    holders = [mount for mount in mounts if is_below(path, mount.point)]
    if not holders:
        return {path}
    holder = max(enumerate(holders), key=lambda pair: (len(pair[1].point), pair[0]))[1]
    inner = os.path.normpath(os.path.join(holder.root, os.path.relpath(path, holder.point)))
    return {path} | {
        os.path.normpath(os.path.join(mount.point, os.path.relpath(inner, mount.root)))
        for mount in mounts
        if mount.device == holder.device and is_below(inner, mount.root)
    }


def read_mounts() -> list[Mount]:
    """What is mounted, in the order in which it was."""
    lines = read_file("/proc/self/mountinfo", only_regular=False).splitlines()
    return [Mount(line) for line in lines]


class Sight:
    """The mounts of one sandbox. `held` are empty directories that keep places free, until `end`.

    `writable` and `readable` are paths besides the current directory, that a person names.
    Raises Denied for what would show the vault, or let the command change what guards it;
    NotFound.
    """

    def __init__(self, places: Places, writable: Iterable[str], readable: Iterable[str]) -> None:
        self.here = os.getcwd()
        self.places = places
        self.named = [os.path.abspath(os.path.expanduser(each)) for each in (*writable, *readable)]
        self.writes: dict[str, bool] = {self.here: True}
        for path in writable:
            self.writes[resolve_path(path)] = True
        for path in readable:
            self.writes[resolve_path(path)] = False
        mounts = read_mounts()
        self.hidden = {
            way for place in hidden_directories(places) for way in other_ways(place, mounts)
        }
        names = protected_names(places)
        real = {os.path.realpath(each) for each in names}
        self.protected = real | {
            way for each in real for way in other_ways(each, mounts) if is_same(each, way)
        }
        sockets = {os.path.realpath(path) for path in (*places.sockets(), places.pid_file)}
        self.sockets = {way for each in sockets for way in other_ways(each, mounts)}
        self.held: dict[str, int] = {}
        for path, writes in self.writes.items():
            self.check(path, writes)
        self.mounts: dict[str, str] = {}
        self.list_mounts()
        for name in sorted(names | {places.dir}):
            self.check_links(name)
        self.bound: dict[str, tuple[int, int]] = {}  # which file each is: device and inode
        self.identify()

    def check(self, path: str, writes: bool) -> None:
        """Raise Denied where what is named must not be in a sandbox."""
        told = printable(path)
        if any(is_below(path, each) for each in self.hidden):
            raise Denied(
                f"{told} is the vault's, or of its state or sockets: no sandbox shows it",
                "go to another directory, or leave it out",
            )
        if any(os.path.dirname(each) == path or each == path for each in self.sockets):
            raise Denied(
                f"the vault's socket is in {told}: no sandbox shows it",
                "go to another directory, or have the socket elsewhere: AVAULT_SOCKET=PATH",
            )
        if path == "/" or any(is_below(path, each) for each in ("/proc", "/sys", "/dev")):
            raise Denied(f"{told} is the kernel's, and a sandbox has its own", "leave it out")
        if not writes:
            return
        home = os.path.realpath(os.path.expanduser("~"))
        starts = any(is_below(each, path) for each in (home, *home_ways(), "/run", *SYSTEM))
        if starts or any(is_below(path, each) for each in home_ways()):
            raise Denied(
                f"{told} holds what starts by itself outside: a sandbox cannot write there",
                "go to a project's own directory: cd DIR",
            )
        if os.stat(path).st_mode & stat.S_IWOTH and os.path.isdir(path):
            raise Denied(
                f"others can write to {told}, and have sockets there", "cd to a directory of yours"
            )
        for each in self.protected - set(SYSTEM):
            if is_below(path, each) and (each != program_directory() or is_imported(path, each)):
                raise Denied(
                    f"{told} is of avault's program, or of the git around the vault",
                    "run it from another directory, or: pipx install avault-nostr",
                )

    def check_links(self, name: str) -> None:
        """Raise Denied where the command could put another link in place of one on this way."""
        for link in sorted(links_on_way(name)):
            if self.kind_at(os.path.realpath(os.path.dirname(link))) == WRITABLE:
                raise Denied(
                    f"{printable(link)} is a link, which a sandbox could replace, and leads to"
                    " what avault trusts",
                    "put there what it leads to, or run it from another directory",
                )

    def identify(self) -> None:
        """Note which files are bound, to be compared in the sandbox; raises Denied, NotFound."""
        followed = {*SYSTEM, *self.interpreter()}
        for path, kind in self.mounts.items():
            if kind != MASKED:
                try:
                    found = os.stat(path)
                except FileNotFoundError:
                    raise NotFound(f"there is no {printable(path)} any more", "again") from None
                self.bound[path] = found.st_dev, found.st_ino
                if path not in followed and os.path.realpath(path) != path:
                    raise Denied(f"{printable(path)} has just been replaced", "run it again")

    # -- what bubblewrap is told

    def arguments(self) -> list[str]:
        """The options of bwrap(1) for it, in the order in which they count."""
        found = [word for path in FRESH for word in ("--tmpfs", path)]
        found += ["--proc", "/proc", "--dev", "/dev"]
        found += ["--dir", os.path.expanduser("~")]
        for path in filter(os.path.lexists, ROOTS):
            found += (
                ["--symlink", os.readlink(path), path]
                if os.path.islink(path)
                else ["--ro-bind", path, path]
            )
        self.bar_places()
        for path, kind in sorted(self.mounts.items()):  # a directory before what is in it
            found += [kind, path] if kind == MASKED else [kind, path, path]
        for path in self.named:  # one that is a link leads there in the sandbox too
            real = os.path.realpath(path)
            if real != path and not any(is_below(path, each) for each in self.roots()):
                found += ["--symlink", real, path]
        for path in sorted(path for path, kind in self.mounts.items() if kind == MASKED):
            found += ["--remount-ro", path]
        return found

    def list_mounts(self) -> None:
        """Say of each path how it is there, once: a second mount would uncover what is below it."""
        self.mounts = dict.fromkeys([*SYSTEM, *self.interpreter()], READABLE)
        for path, writes in self.writes.items():
            self.mounts[path] = WRITABLE if writes else READABLE
        for path in sorted(self.masks()):
            if self.kind_at(path) != MASKED:
                self.mounts[path] = MASKED
        for path in sorted(self.protected):
            if self.kind_at(path) == WRITABLE:
                self.mounts[path] = READABLE
        for path, kind in list(self.mounts.items()):
            if kind != WRITABLE:
                self.pin(path)

    def kind_at(self, path: str) -> str | None:
        """How a path is there: as the nearest one at it or above that is listed; None: not."""
        while path not in self.mounts and path != os.path.dirname(path):
            path = os.path.dirname(path)
        return self.mounts.get(path)

    def pin(self, path: str) -> None:
        """Bind each directory on the way there to itself: what is a mount cannot be renamed.

        Else the way could be moved aside, and another one made, with other things at its end.
        Only where the way can be written, and never in place of what is listed.
        """
        way = os.path.dirname(path)
        while kind := self.kind_at(way):
            if kind == WRITABLE:
                self.mounts[way] = WRITABLE
            way = os.path.dirname(way)

    def interpreter(self) -> set[str]:
        """Where Python is that runs avault, and what is installed for it, unless in /usr."""
        found = {sys.prefix, sys.base_prefix}
        found |= {os.path.realpath(each) for each in found}
        elsewhere = (*SYSTEM, *self.hidden)
        return {path for path in found if not any(is_below(path, each) for each in elsewhere)}

    def roots(self) -> list[str]:
        """All that is bound."""
        return [*SYSTEM, *self.interpreter(), *self.writes]

    def masks(self) -> set[str]:
        """What is bound, and not to be seen."""
        wanted = self.hidden | {os.path.dirname(each) for each in self.sockets}
        return {
            path
            for path in wanted
            if os.path.isdir(path) and any(is_below(path, top) for top in self.roots())
        }

    def bar_places(self) -> None:
        """Keep the command from making what would be used outside, where none is.

        An empty directory in its place is no repository to git, no file and no vault to us.
        """
        for path in empty_places(self.places):
            is_free = not os.path.lexists(path) or is_empty_directory(path)
            if is_free and self.kind_at(os.path.dirname(path)) == WRITABLE:
                try:
                    self.held[path] = hold_place(path)
                except Denied:
                    self.end()
                    raise
                self.mounts[path] = MASKED
                self.pin(path)

    def end(self) -> None:
        """Give places back that no other sandbox holds: what is removed there is masked no more."""
        for path, fd in self.held.items():
            if take_lock(fd):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
            os.close(fd)
        self.held.clear()


def is_same(path: str, other: str) -> bool:
    """Whether both are there, and are one file."""
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def hold_place(path: str) -> int:
    """Make an empty directory, if it is not there, and share a lock on it (flock(2)).

    Raises Denied where we may not.
    """
    try:
        return make_and_lock(path)
    except OSError as error:
        raise Denied(
            f"cannot hold the place of {printable(path)}: {error.strerror}",
            "let avault write there, or run it from another directory",
        ) from None


def make_and_lock(path: str) -> int:
    """The descriptor of a directory that is there, locked; raises OSError."""
    while True:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(fd, fcntl.LOCK_SH)
            if os.path.isdir(path) and os.path.samestat(os.stat(path), os.fstat(fd)):
                return fd
            os.close(fd)


def resolve_path(path: str) -> str:
    """Where a path leads that a person names; raises NotFound."""
    found = os.path.realpath(os.path.expanduser(path))
    if not os.path.exists(found):
        raise NotFound(f"there is no {printable(path)} to bind", "check its name")
    return found
