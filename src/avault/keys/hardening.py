"""A process that holds a secret is closed to others of the same user, and shows that it is."""

from __future__ import annotations

import asyncio
import os
import socket
import sys

from avault.errors import AvaultError, Unavailable


def harden(title: str, die_with_parent: bool = False) -> None:
    """No core dumps, no ptrace by the same user, private files; before any secret arrives.

    `title` (15 bytes) is the process's name in `ps` and `top`.
    """
    import resource

    # asyncio does without it, and each process with 4 MB less
    sys.modules["ssl"] = None  # type: ignore[assignment]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # usual are 1,024, and a client's is one of them
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4_096), most))
    os.umask(0o077)
    if sys.platform == "linux":
        import ctypes

        prctl = ctypes.CDLL(None).prctl
        if prctl(4, 0, 0, 0, 0):  # PR_SET_DUMPABLE
            raise AvaultError("the kernel refuses PR_SET_DUMPABLE")
        prctl(15, title.encode(), 0, 0, 0)  # PR_SET_NAME
        if die_with_parent:
            prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL


def is_hardened(pid: int) -> bool:
    """Whether a process of ours is closed to others of the same user, as the kernel says it.

    On Linux: it is not dumpable, so that root owns what is in its /proc (proc(5)), or /proc hides
    it (hidepid); and nobody traces it. Root may look into all, and other systems do not tell.
    """
    if sys.platform != "linux" or os.getuid() == 0:
        return True
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            return (
                os.fstat(status.fileno()).st_uid != os.getuid()
                and b"\nTracerPid:\t0\n" in status.read()
            )
    except FileNotFoundError:
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return True
    except OSError:
        return False


async def meet(door: socket.socket, pid: int, timeout: float = 10.0) -> socket.socket:
    """A socket to a helper process, once that says through `door` that it is hardened.

    Nobody else can hold it. What a process is started with, others of the same user may have taken
    before it was hardened: a pipe is opened through /proc/PID/fd, a socket by pidfd_getfd(2). So
    the helper makes a socket of its own afterwards, and sends that (see `introduce_helper`). That
    it is the helper who sends, and what it is, the kernel says. Raises Unavailable.
    """
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()
    loop.add_reader(door, lambda: None if told.done() else told.set_result(None))
    try:
        async with asyncio.timeout(timeout):
            await told
        space = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(12)
        _, ancillary, _, _ = door.recvmsg(64, space, socket.MSG_DONTWAIT)
    except OSError:  # also of the time
        ancillary = []
    finally:
        loop.remove_reader(door)
    found = {kind: data for _, kind, data in ancillary}
    if socket.SCM_RIGHTS in found:
        own = socket.socket(fileno=int.from_bytes(found[socket.SCM_RIGHTS][:4], sys.byteorder))
        # SCM_CREDENTIALS: pid, uid, gid
        sender = int.from_bytes(found.get(2, b"")[:4], sys.byteorder)
        if (sys.platform != "linux" or sender == pid) and is_hardened(pid):
            return own
        own.close()
    raise Unavailable(
        "the helper process did not show that it is closed to other programs, so it gets no key",
        "try again",
    )


def introduce_helper(door: int) -> socket.socket:
    """The helper's side of `meet`, once it is hardened: a socket whose other end it sends."""
    own, theirs = socket.socketpair()
    with theirs, socket.socket(fileno=os.dup(door)) as out:
        socket.send_fds(out, [b"hardened"], [theirs.fileno()])
    return own
