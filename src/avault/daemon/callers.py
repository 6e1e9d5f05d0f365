"""Who is at the other end of a connection."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

from avault.errors import printable
from avault.plain import peer_uid

if TYPE_CHECKING:
    from typing import Any


def peer_pid(sock: socket.socket) -> int:
    """The pid of the process at the other end of a connection, as the kernel has it."""
    if sys.platform == "linux":
        return int.from_bytes(sock.getsockopt(1, 17, 12)[:4], sys.byteorder)  # SO_PEERCRED
    return int.from_bytes(sock.getsockopt(0, 2, 4), sys.byteorder)  # LOCAL_PEERPID


def describe_caller(sock: socket.socket, since: float | None = None) -> dict[str, Any]:
    """The process at the other end of a connection, as far as the system tells.

    Its pid, uid, executable, name and parent. A pid is given again: of a process that was started
    after the connection was there (`since`, as `uptime` counts) nothing is told but the pid.
    """
    return describe_process(peer_pid(sock), peer_uid(sock), since)


def describe_process(pid: int, uid: int, since: float | None = None) -> dict[str, Any]:
    """A process of a user's, as `describe_caller` has it."""
    caller: dict[str, Any] = {"pid": pid, "uid": uid, "exe": None, "name": None}
    exe, (name, fields) = read_executable(pid), read_stat(pid)
    if not fields or (since is not None and count_seconds(fields[19]) > since):
        return {**caller, "parent": None}  # it has ended, or there is no /proc
    parent = int(fields[1])
    caller |= {"exe": exe, "name": name}
    return {**caller, "parent": {"pid": parent, "exe": read_executable(parent)}}


def read_proc(pid: int, name: str, most: int) -> bytes:
    """What the system tells of a process, in one piece; raises OSError.

    By a plain descriptor: a file of Python's asks the system five things more.
    """
    fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, most)
    finally:
        os.close(fd)


def read_stat(pid: int) -> tuple[str | None, list[bytes]]:
    """The name of a process, and what the system tells of it: proc_pid_stat(5), from `state` on.

    None, and nothing, where there is no such process.
    """
    try:
        start, _, rest = read_proc(pid, "stat", 4096).rpartition(b")")
    except OSError:
        return None, []
    return printable(start.partition(b"(")[2].decode(errors="replace"), 40), rest.split()


def count_seconds(ticks: bytes) -> float:
    """Ticks since the system was booted, as `uptime` counts."""
    return int(ticks) / os.sysconf("SC_CLK_TCK")


def describe_ourselves() -> dict[str, Any]:
    """This process, as `describe_caller` has others."""
    return {"pid": os.getpid(), "uid": os.getuid(), "exe": None, "name": None, "parent": None}


def read_executable(pid: int) -> str | None:
    """The path of a process's executable, where the system tells.

    Of a long one its end, where the name is.
    """
    try:
        path = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None
    return path if len(path) <= 500 else "…" + path[-499:]
