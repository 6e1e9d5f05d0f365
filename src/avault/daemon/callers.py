"""Who is at the other end of a connection."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

from avault.errors import printable

if TYPE_CHECKING:
    from typing import Any


def describe_caller(sock: socket.socket) -> dict[str, Any]:
    """The process at the other end of a connection, as far as the system tells.

    Its pid, uid, executable, name and parent.
    """
    if sys.platform == "linux":
        pid = int.from_bytes(sock.getsockopt(1, 17, 12)[:4], sys.byteorder)  # SO_PEERCRED
    else:
        pid = int.from_bytes(sock.getsockopt(0, 2, 4), sys.byteorder)  # LOCAL_PEERPID
    caller: dict[str, Any] = {
        "pid": pid,
        "uid": os.getuid(),
        "exe": read_executable(pid),
        "name": None,
        "parent": None,
    }
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            start, _, rest = file.read().rpartition(b")")  # proc_pid_stat(5)
        caller["name"] = printable(start.partition(b"(")[2].decode(errors="replace"), 40)
        parent = int(rest.split()[1])
        caller["parent"] = {"pid": parent, "exe": read_executable(parent)}
    except OSError:
        pass  # it has ended, or there is no /proc
    return caller


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
