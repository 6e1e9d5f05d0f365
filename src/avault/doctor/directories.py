"""Whose a directory is, who may enter it, and what file system it is on."""

from __future__ import annotations

import functools
import os
import shlex
import stat
from typing import TYPE_CHECKING

from avault.doctor.patient import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_private(directory: str) -> Iterator[Finding]:
    """A directory that should be ours alone."""
    try:
        info = os.stat(directory)
    except OSError as error:
        yield Finding("bad", f"cannot look at {directory}: {error.strerror}")
        return
    if info.st_uid != os.getuid():
        is_home = os.path.realpath(directory).startswith(
            os.path.realpath(os.path.expanduser("~")) + os.sep
        )
        give_back = (
            f"sudo chown -R {os.getuid()} {shlex.quote(directory)}"
            if os.getuid() and is_home
            else None
        )
        yield Finding("bad", f"{directory} belongs to another user", give_back)
    elif mode := stat.S_IMODE(info.st_mode) & 0o077:
        text = f"others can enter {directory} ({stat.S_IMODE(info.st_mode):04o})"
        yield Finding(
            "bad",
            text,
            f"chmod 700 {shlex.quote(directory)}",
            functools.partial(make_private, directory, mode),
        )


def make_private(path: str, mode: int) -> str:
    """Take the rights of others away from a file or directory."""
    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) & ~mode)
    return f"made {path} private"


NETWORKED = {
    "9p", "afs", "ceph", "cifs", "drvfs", "fuse.glusterfs", "fuse.rclone", "fuse.sshfs", "nfs",
    "nfs4", "prl_fs", "smb3", "smbfs", "vboxsf", "virtiofs",
}  # fmt: skip


def filesystem_of(path: str, mounts: str = "/proc/self/mountinfo") -> str | None:
    """The type of the file system that a path is on; None where nobody says.

    See proc_pid_mountinfo(5).
    """
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.split(" ") for line in file]
    except OSError:
        return None
    real, longest = os.path.realpath(path), ""
    kind = None
    for line in lines:
        point = line[4].encode().decode("unicode_escape") if "\\" in line[4] else line[4]
        if len(point) >= len(longest) and (real + "/").startswith(point.rstrip("/") + "/"):
            longest, kind = point, line[line.index("-", 6) + 1]
    return kind
