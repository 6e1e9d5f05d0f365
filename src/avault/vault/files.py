"""Files as people and disks need them: atomic, durable, checked.

Written whole or not at all, of one valid encoding, refused when they are not. Nothing here opens
anything.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from avault.errors import AvaultError, NotFound, Tampered, Usage, printable
from avault.places import sha256, state_home
from avault.plain import write_all

if TYPE_CHECKING:
    from collections.abc import Callable


VAULT_LIMIT = 64 << 20  # bytes of avault.enc that we are willing to read


def read_file(path: str, limit: int = 1 << 20, only_regular: bool = True) -> bytes:
    """The bytes of a file; raises NotFound, Tampered or AvaultError.

    One that is not regular is refused, unless a person named it: a FIFO in the
    vault's place would hold us for ever.
    """
    try:
        with open(
            path,
            "rb",
            opener=lambda name, flags: os.open(
                name, flags | (os.O_NONBLOCK if only_regular else 0)
            ),
        ) as file:
            if only_regular and os.fstat(file.fileno()).st_mode & 0o170000 != 0o100000:
                raise Tampered(f"{path} is not a regular file")
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise NotFound(f"no file {path}") from None
    except OSError as error:
        raise AvaultError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > limit:
        raise (Tampered if only_regular else Usage)(
            f"{path} is too large; the limit is {limit:,} bytes"
        )
    return data


def open_named(file: str) -> int:
    """A descriptor of a file that a person named, `-` being stdin; raises NotFound, AvaultError.

    For a process that is hardened afterwards: what `<(…)` gives, /dev/fd/63, is closed to it then.
    """
    try:
        if file == "-":
            return os.dup(0)
        return os.open(os.path.expanduser(file), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"no file {printable(file, 4096)}") from None
    except OSError as error:
        raise AvaultError(f"cannot read {printable(file, 4096)}: {error.strerror}") from None


def read_named(fd: int, file: str, limit: int) -> bytes:
    """What is in a file that open_named has opened, which is closed; raises Usage, AvaultError."""
    try:
        with open(fd, "rb") as opened:
            data = opened.read(limit + 1)
    except OSError as error:
        raise AvaultError(f"cannot read {printable(file, 4096)}: {error.strerror}") from None
    if len(data) > limit:
        raise Usage(f"{printable(file, 4096)} is too large; the limit is {limit:,} bytes")
    return data


def refuse_foreign(path: str) -> None:
    """Raise Tampered where a path names what is no regular file of ours.

    That is a link, a directory, a FIFO, somebody else's file. Who can push to the repository
    chooses what lies in the vault's directory, and where its links lead.
    """
    try:
        info = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    if info.st_mode & 0o170000 != 0o100000 or info.st_uid != os.getuid() != 0:
        raise Tampered(
            f"{path} is not a regular file of ours", "look at what it is, and move it away"
        )


class FileChanged(AvaultError):
    """A file is not the one that it was to replace."""


def exchange(one: str, other: str) -> bool:
    """Exchange two files in one step, where system and file system can.

    See renameat2(2), and renamex_np(2) on macOS.
    """
    import ctypes

    libc, names = ctypes.CDLL(None), [os.fsencode(one), os.fsencode(other)]
    if hasattr(libc, "renameat2"):
        return not libc.renameat2(-100, names[0], -100, names[1], 2)  # AT_FDCWD, RENAME_EXCHANGE
    return hasattr(libc, "renamex_np") and not libc.renamex_np(*names, 2)  # RENAME_SWAP


def hash_file(path: str) -> str:
    """The SHA-256 of a file in hex; "" where there is none."""
    try:
        return sha256(read_file(path, VAULT_LIMIT)).hex()
    except NotFound:
        return ""


def take_place(new: str, path: str, over: str) -> None:
    """Rename a file over the one whose SHA-256 is `over`, "" for none.

    Raises FileChanged where it is another, and OSError.

    Git takes no lock of ours, and may come at any moment: what is exchanged is looked at
    afterwards.
    """
    changed = FileChanged(f"{path} was changed by another process meanwhile", "try again")

    def is_at(place: str) -> bool:
        return hash_file(place) == over

    if not (is_at(path) and exchange(new, path)):
        if not is_at(path):  # git removes a file and makes it anew
            raise changed
        os.rename(new, path)
        return
    try:
        # some file systems rename when they are asked to exchange
        if os.path.lexists(new) and not is_at(new):
            raise changed
    except BaseException:
        exchange(new, path)
        raise


def find_free(stem: str, end: str) -> str:
    """A path where nothing is: `stem` and `end`, with a number between where there is something."""
    path, number = stem + end, 1
    while os.path.lexists(path):
        number += 1
        path = f"{stem}-{number}{end}"
    return path


def has_bytes(path: str, data: bytes) -> bool:
    """Whether a file is there, and holds exactly these bytes."""
    try:
        return read_file(path, len(data)) == data  # a longer one is another
    except AvaultError:
        return False


def write_file(
    path: str, data: bytes, check: Callable[[bytes], None] | None = None, over: str | None = None
) -> None:
    """Replace a file by a whole, durable, checked new one, or leave it as it was.

    A temporary file beside it (0600) is written, synced, read back and given to
    `check`, then renamed; then the directory is synced. Where `over` is given,
    it replaces only what has that SHA-256 ("" for none), or raises FileChanged.
    Raises Tampered where there is no regular file of ours, AvaultError when the
    disk refuses, and whatever `check` raises.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(8)}.tmp")
    try:
        refuse_foreign(path)
        fd = os.open(
            temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        with open(fd, "r+b", buffering=0) as file:
            write_all(fd, data)
            os.fsync(fd)
            file.seek(0)
            written = file.read()
        if written != data:
            raise AvaultError(
                f"the disk did not keep what was written to {path}", "the file is as it was before"
            )
        if check:
            check(written)
        if over is None:
            os.rename(temporary, path)
        else:
            take_place(temporary, path, over)
    except OSError as error:
        raise AvaultError(
            f"cannot write {path}: {error.strerror}", "the file is as it was before"
        ) from None
    finally:
        try:
            os.unlink(temporary)
        except OSError:
            pass  # renamed, or never made; what a dead disk keeps is cleaned at the next start
    try:
        sync_directory(directory)
    except OSError as error:
        raise AvaultError(
            f"{path} is written, but perhaps not for good: {error.strerror}", "look at the disk"
        ) from None


def sync_directory(path: str) -> None:
    """Make renames in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def owner_of(path: str) -> str:
    """The name of the user whose file it is, or the number; raises OSError."""
    import pwd

    uid = os.stat(path).st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def make_private_directory(path: str) -> None:
    """Make a directory and its parents, or make one private (0700) that is there.

    Raises AvaultError.
    """
    mask = os.umask(0o077)  # for the parents too
    try:
        os.makedirs(path, exist_ok=True)
        if os.stat(path).st_uid != os.getuid():
            import shlex

            owner, other = owner_of(path), "or choose another place with --dir or XDG_STATE_HOME"
            take_back = f'sudo chown -R "$USER" {shlex.quote(path)}'
            made_under_sudo = f"was it made under sudo? Take it back: {take_back}; {other}"
            raise AvaultError(
                f"{path} belongs to {owner}",
                made_under_sudo if owner == "root" else f"do it as {owner}, {other}",
            )
        os.chmod(path, 0o700)
    except OSError as error:
        own = path == state_home() or path.startswith(state_home() + "/")
        hint = (
            "name a place that can be written: XDG_STATE_HOME=DIR"
            if own
            else "is it a directory, and ours?"
        )
        raise AvaultError(f"cannot make the directory {path}: {error.strerror}", hint) from None
    finally:
        os.umask(mask)


def look_at(path: str) -> tuple[int, ...] | None:
    """What tells one state of a file from another, without reading it; None where there is none."""
    try:
        info = os.stat(path)
    except OSError:
        return None
    return (info.st_mtime_ns, info.st_size, info.st_ino, info.st_ctime_ns)
