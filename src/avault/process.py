"""How our processes start: a clean environment, hardened, the vault's lock."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Unavailable, printable
from avault.own_python import python_flags
from avault.plain import write_all

if TYPE_CHECKING:
    from typing import Any


KEPT_VARIABLES = {
    "HOME", "PATH", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "SYSTEMROOT",
    "SSH_AUTH_SOCK", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME",
    "DBUS_SESSION_BUS_ADDRESS", "WORKSPACE", "AVAULT_DIR", "AVAULT_SOCKET", "AVAULT_PID",
    # where git finds the user's settings and keys
    "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GNUPGHOME",
    # paths: of authorities for the proxy; where systemd puts a service's credentials
    "AVAULT_ROOTS", "CREDENTIALS_DIRECTORY",
}  # fmt: skip


def clean_environment() -> dict[str, str]:
    """The environment of the daemon: what it needs, and nothing that may be a secret."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in KEPT_VARIABLES or name.startswith("LC_")
    }


def own_command(*arguments: str) -> list[str]:
    """The command line that runs this file with the same interpreter.

    Imported, not run as a script, which would have to be compiled each time: a third of a second.
    """
    place = os.path.dirname(os.path.realpath(__file__))
    program = "AVAULT_COMMAND = True; import sys; sys.path.insert(0, sys.argv.pop(1)); "
    program += "import avault; del sys.path[0]; avault.main()"
    return [sys.executable, *python_flags(), "-c", program, place, *arguments]


def lock_directory(path: str) -> int:
    """Lock a vault directory for this process and its keyholders; raises Unavailable if it is.

    The lock is on the directory itself, beside no file that git would see, and
    on the open file: a keyholder inherits it, so that there is no second
    writer until both are gone.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    if take_lock(fd):
        return fd
    os.close(fd)
    hint = "stop it from where it was started: another AVAULT_SOCKET, HOME or XDG_STATE_HOME"
    raise Unavailable(f"another daemon holds the vault {path}", hint)


def take_lock(fd: int) -> bool:
    """Lock what is open, until all who have it have closed it; False if somebody else has."""
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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


def room() -> int:
    """How many clients a process keeps: half of its descriptors. Beyond, the quietest has to go."""
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2


def place_name() -> str:
    """Where this runs, as the operator knows it: USER@HOST, which tells two users' vaults apart."""
    import pwd

    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        user = str(os.getuid())
    return f"{printable(user, 32)}@{printable(socket.gethostname().split('.')[0], 64)}"


def uptime() -> float:
    """Seconds of a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(
        time.CLOCK_BOOTTIME if sys.platform == "linux" else time.CLOCK_MONOTONIC
    )


def report_quietly(loop: object, context: dict[str, Any]) -> None:
    """asyncio's word of an unhandled exception, less its text: that may hold what it was about."""
    error = context.get("exception")
    write_all(
        2, f"avault: error: {type(error).__name__ if error else 'an event loop error'}\n".encode()
    )
