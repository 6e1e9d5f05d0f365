"""How our processes start, in a clean environment; the lock on a vault; and where this runs."""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import TYPE_CHECKING

from avault.errors import Unavailable, printable
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
