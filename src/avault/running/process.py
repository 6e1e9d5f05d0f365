"""What a command's process starts with: signals, core files, and its place."""

from __future__ import annotations

import errno
import os
import resource
import signal
from typing import TYPE_CHECKING

from avault.errors import AvaultError, printable
from avault.execute import execute

if TYPE_CHECKING:
    from typing import NoReturn


GRACE = 2.0  # seconds that a command has to end when we were killed
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)


def passed_signals() -> list[int]:
    """Those that go on to the command.

    Not what cannot be caught, what only a fault of ours sends, and what our own writing does.
    """
    ours = {
        signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGSEGV, signal.SIGBUS,
        signal.SIGFPE, signal.SIGILL, signal.SIGPIPE, signal.SIGXFSZ,
    }  # fmt: skip
    return sorted(signal.valid_signals() - ours)


def typed_signals() -> set[int]:
    """Those that keys send to all of the terminal's foreground."""
    return {signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP}


def terminal_signals() -> set[int]:
    """Those that the kernel sends to all of a process group in the background."""
    return {signal.SIGTTIN, signal.SIGTTOU}


def stop_signals() -> set[int]:
    """Those by which a process stops (signal(7))."""
    return {signal.SIGSTOP, signal.SIGTSTP, *terminal_signals()}


class CannotRun(AvaultError):
    """The command could not be started: 127 where it is not there, else 126, as a shell has it."""

    def __init__(self, command: list[str], number: int) -> None:
        hint = {
            errno.ENOENT: "is it installed, and in PATH?",
            errno.EACCES: f"make it executable: chmod +x {printable(command[0])}",
            errno.ENOEXEC: "a script begins with a line like #!/bin/sh, "
            "and that program has to be there",
            errno.E2BIG: "too much for an environment; choose with --only, "
            "or give the largest with --as-file KEY",
        }.get(number)
        super().__init__(f"cannot run {printable(command[0])}: {os.strerror(number)}", hint)
        self.exit_code = 127 if number == errno.ENOENT else 126


def become_command(command: list[str], environment: dict[bytes, bytes]) -> NoReturn:
    """Execute the command in our place; raises CannotRun."""
    # which Python ignores, and what is ignored is inherited
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    raise CannotRun(command, execute(command, environment))


_cores: tuple[int, int] | None = None  # the limit that we were started with, once it is another


def forbid_cores() -> None:
    """Leave no core file if we crash: we have all the values.

    The limit is 1 byte and not 0: that alone also keeps the kernel from handing a core to a program
    (core(5): piped).
    """
    global _cores
    _cores = _cores or resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (1 if _cores[1] else 0, _cores[1]))


def allow_cores() -> None:
    """As we were started, for the command: its cores are its own affair."""
    if _cores:
        resource.setrlimit(resource.RLIMIT_CORE, _cores)


def wake_up(number: int, frame: object) -> None:
    """Handle a signal by nothing but its number in the pipe of signal.set_wakeup_fd."""
