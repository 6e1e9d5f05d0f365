"""The command's parent, so that somebody is there when we are killed (SIGKILL).

A process of its own: the command then ends, and all that it started. It also takes the exit
statuses of what the command's children leave behind, as the first process of a container must.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from avault.execute import execute
from avault.running.process import (
    GRACE,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_PDEATHSIG,
    allow_cores,
    passed_signals,
    wake_up,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


# orders: go on, with the keys or without; smaller ones are signals
FOREGROUND, BACKGROUND = 128, 129
STARTED, FAILED, STOPPED, EXITED, KILLED = range(5)  # reports, each with a number
REPORT_SIZE = 2  # bytes: which, and its number


def prctl(option: int, value: int) -> None:
    """Ask something of Linux's kernel about this process (prctl(2)).

    Others have nothing like it.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """The processes below one, as /proc knows them; none where there is no /proc."""
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                for child in map(int, file.read().split()):
                    found += [child, *descendants(child)]
    except OSError:  # it has ended
        pass
    return found


class Keeper:
    """The command's parent, at the orders of a Job."""

    def __init__(
        self, orders: socket.socket, command: list[str], environment: dict[bytes, bytes]
    ) -> None:
        self.orders, self.command, self.environment = orders, command, environment
        self.pid: int | None = None  # of the command, while it runs

    def lead(self, stdout: int, stderr: int, foreground: bool) -> NoReturn:
        """Start the command.

        Serve until nobody gives orders any more, and then see that it ends.
        """
        try:
            prctl(PR_SET_CHILD_SUBREAPER, 1)
            self.prepare(stdout)
            woken, wake = os.pipe()
            os.set_blocking(wake, False)
            signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
            for number in (*passed_signals(), signal.SIGCHLD):
                if number == signal.SIGCHLD or signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, self.action(number))
            if self.start(stdout, stderr, foreground):
                self.close(stdout, stderr)
                self.serve(woken)
                if self.pid is not None:
                    self.end_all(woken)
        finally:
            os._exit(0)

    def prepare(self, terminal: int) -> None:
        """What is to be done before the command is started."""

    def action(self, number: int) -> Callable[..., None] | signal.Handlers:
        """What a signal does here: nothing, as it was for all of our process group.

        A command starts without that.
        """
        return wake_up

    def close(self, stdout: int, stderr: int) -> None:
        """Close what only the command writes to, and what is ours only by inheritance."""
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        for fd in {stdout, stderr, null} - {0, 1, 2}:
            os.close(fd)

    def start(self, stdout: int, stderr: int, foreground: bool) -> bool:
        """Start the command; whether it could be."""
        keeper, (heard, told) = os.getpid(), os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(stdout, 1)
                os.dup2(stderr, 2)
                self.enter(foreground)
                allow_cores()
                # which Python ignores, and what is ignored is inherited
                for number in (signal.SIGPIPE, signal.SIGXFSZ):
                    signal.signal(number, signal.SIG_DFL)
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() == keeper:
                    os.write(told, bytes([execute(self.command, self.environment)]))
            finally:
                os._exit(127)
        os.close(told)
        with open(heard, "rb") as pipe:
            problem = pipe.read()
        if problem:
            os.waitpid(pid, 0)
            self.report(FAILED, problem[0])
            return False
        self.pid = pid
        self.report(STARTED, 0)
        return True

    def enter(self, foreground: bool) -> None:
        """What the command's process does first."""

    def report(self, kind: int, number: int) -> None:
        """Tell what happened."""
        with contextlib.suppress(OSError):  # nobody is there; `serve` will see it
            self.orders.send(bytes((kind, number)))

    def serve(self, woken: int) -> None:
        """Obey, and report, until the other side is gone."""
        while True:
            orders_end = self.orders.fileno()
            readable, _, _ = select.select([orders_end, woken], [], [])
            if woken in readable:
                os.read(woken, 4096)
                self.look()
            if orders_end in readable:
                orders = self.orders.recv(64)
                for order in orders:
                    self.obey(order)
                if not orders:
                    return

    def look(self) -> None:
        """Report whether the command has stopped or ended; take the exit statuses of others."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
                if not pid:
                    return
                if pid == self.pid and os.WIFSTOPPED(status):
                    self.report(STOPPED, os.WSTOPSIG(status))
                elif pid == self.pid:
                    self.pid, code = None, os.waitstatus_to_exitcode(status)
                    self.leave(code)
        except ChildProcessError:
            return

    def leave(self, code: int) -> None:
        """The command has ended."""
        self.report(KILLED if code < 0 else EXITED, abs(code))

    def obey(self, order: int) -> None:
        """Pass a signal on to the command."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, order)

    def end_all(self, woken: int) -> None:
        """We alone are left: end the command and what it started, with a word first."""
        for number in (self.farewell(), signal.SIGCONT):
            self.tell_all(number)
        end = time.monotonic() + GRACE
        while self.pid is not None and time.monotonic() < end:
            if select.select([woken], [], [], end - time.monotonic())[0]:
                os.read(woken, 4096)
            self.look()
        # what one leaves behind is ours then
        while self.tell_all(signal.SIGKILL) and time.monotonic() < end + GRACE:
            time.sleep(0.02)
            self.look()

    def farewell(self) -> int:
        """The signal that tells the command to end."""
        return signal.SIGTERM

    def tell_all(self, number: int) -> bool:
        """A signal for the command and all below us; whether there was one."""
        found = {*descendants(os.getpid()), *([] if self.pid is None else [self.pid])}
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        return bool(found)
