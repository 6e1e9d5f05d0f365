"""A command as our child, with our terminal and descriptors: we are there until it has ended."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from avault.execute import execute
from avault.running.process import CannotRun

if TYPE_CHECKING:
    from typing import NoReturn


def run_child(command: list[str], environment: dict[bytes, bytes]) -> int:
    """Run a command: its exit code, or 128 + n where signal n ended it. Raises CannotRun.

    What keys send goes to the whole group: it is for the command, as system(3) has it. What is
    sent to us alone to end goes on to it.
    """
    told, failed = os.pipe()
    if (child := os.fork()) == 0:
        become_child(command, environment, failed)
    os.close(failed)

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for each in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(each, signal.SIG_IGN)
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, pass_on)
    with open(told, "rb") as pipe:
        reason = pipe.read()
    _, status = os.waitpid(child, 0)
    if reason:
        raise CannotRun(command, int(reason))
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def become_child(command: list[str], environment: dict[bytes, bytes], failed: int) -> NoReturn:
    """Execute the command; where that cannot be, say why on a pipe that closes with it."""
    try:
        # which Python ignores, and what is ignored is inherited
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.write(failed, str(execute(command, environment)).encode())
    finally:
        os._exit(127)
