"""A command on pipes: its output, its signals, its end.

The command is our child, in our process group. Where an output is a terminal, it gets one that is
only for output, so that it still looks like one; keys, Ctrl-C and Ctrl-Z go from the real terminal
to the command.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import time
import tty
from typing import TYPE_CHECKING

from avault.errors import AvaultError
from avault.running.keeper import EXITED, FAILED, REPORT_SIZE, STOPPED, Keeper
from avault.running.masks import SETTLED, Patterns
from avault.running.output import PIPE_SIZE, Output
from avault.running.process import (
    CannotRun,
    passed_signals,
    stop_signals,
    terminal_signals,
    wake_up,
)
from avault.running.terminals import copy_size, is_in_background, is_typed, open_screen

if TYPE_CHECKING:
    from collections.abc import Callable


class Job:
    """A command whose output is masked; `run` gives its exit code."""

    def __init__(
        self, command: list[str], environment: dict[bytes, bytes], patterns: Patterns
    ) -> None:
        self.command, self.environment, self.patterns = command, environment, patterns
        self.outputs: list[Output] = []
        # terminals of ours, each with the one whose size it has
        self.screens: list[tuple[int, int]] = []
        self.ends: list[int] = []  # what the command writes to, and we close when it is started
        self.code: int | None = None
        self.keeper: int | None = None  # its number, once it is started
        self.orders, self.keeper_end = socket.socketpair()
        self.woken, wake = os.pipe()
        for end in (self.woken, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def run(self) -> int:
        """Start the command, pass on what it writes and what we are told, until it ends.

        Raises CannotRun.
        """
        self.start(*self.open_outputs())
        for end in self.ends:
            os.close(end)
        try:
            while self.code is None:
                self.turn(None)
            for number in passed_signals():  # from here on they are for us
                if signal.getsignal(number) == self.forward:
                    signal.signal(number, signal.SIG_DFL)
            self.drain()
        finally:
            self.let_go()
        self.leave_behind()
        return self.code

    # -- starting

    def open_outputs(self) -> tuple[int, int]:
        """What the command is to have as stdout and stderr.

        That is one for both where ours are the same, so that order is kept.
        """
        stdout = self.open_output(1)
        one, other = os.fstat(1), os.fstat(2)
        same = (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
        return stdout, stdout if same else self.open_output(2)

    def open_output(self, sink: int) -> int:
        """A pipe, or a terminal that is only for output; it comes out masked at `sink`."""
        if os.isatty(sink):
            source, end = open_screen()
            tty.setraw(end)  # the real one turns \n into \r\n
            copy_size(sink, source)
            self.screens.append((source, sink))
        else:
            source, end = os.pipe()
            if hasattr(fcntl, "F_SETPIPE_SZ"):
                with contextlib.suppress(OSError):  # beyond what this user may have
                    fcntl.fcntl(source, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self.outputs.append(Output(source, sink, self.patterns))
        self.ends.append(end)
        return end

    def start(self, stdout: int, stderr: int) -> None:
        """Start the keeper, which starts the command; raises CannotRun."""
        self.catch(signal.SIGCHLD, action=reap)
        self.catch(*passed_signals(), action=self.forward)
        self.catch(signal.SIGWINCH, action=wake_up)
        self.start_keeper(self.make_keeper(), stdout, stderr, True)

    def make_keeper(self) -> Keeper:
        """What the forked process is to be, which starts the command."""
        return Keeper(self.keeper_end, self.command, self.environment)

    def start_keeper(self, keeper: Keeper, stdout: int, stderr: int, foreground: bool) -> None:
        """Fork the process that starts the command, and hear whether it could; raises CannotRun."""
        self.keeper = os.fork()
        if self.keeper == 0:
            self.orders.close()
            os.close(self.woken)
            for output in self.outputs:
                output.close()
            keeper.lead(stdout, stderr, foreground)
        self.keeper_end.close()
        kind, number = self.hear_report()
        if kind == FAILED:
            raise CannotRun(self.command, number)

    def catch(self, *numbers: int, action: Callable[..., None]) -> None:
        """Handle signals, but not those that who started us has had ignored (nohup)."""
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGCHLD:
                signal.signal(number, action)

    # -- signals; a handler acts at once, as we may be in the middle of a long write

    def forward(self, number: int, frame: object) -> None:
        """Pass a signal on, unless the command has it already."""
        if number in terminal_signals() and is_in_background():
            self.stop(number)
        elif not is_typed(number):
            self.order(number)

    def order(self, number: int) -> None:
        """Tell the keeper: a signal for the command, or to let it go on."""
        with contextlib.suppress(OSError):  # it has ended
            self.orders.send(bytes([number]))

    def hear_report(self) -> tuple[int, int]:
        """What the keeper reports next; raises AvaultError when somebody has killed it."""
        try:
            kind, number = self.orders.recv(REPORT_SIZE)
        except (OSError, ValueError):
            raise AvaultError(
                "the process that keeps the command was killed", "the command was ended"
            ) from None
        return kind, number

    def hear(self) -> None:
        """Do what a report asks for."""
        kind, number = self.hear_report()
        if kind == STOPPED:
            if number in stop_signals():  # who reports may be the command itself, in a sandbox
                self.stop(number)
        else:
            self.code = number if kind == EXITED else 128 + number

    def stop(self, number: int) -> None:
        """Stop, as the command has, for who started us to see; not if nobody could continue us."""
        if number != signal.SIGSTOP:
            handler = signal.getsignal(number)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            signal.signal(number, handler)

    def wake(self) -> None:
        """See what woke us: the size of the terminal."""
        if signal.SIGWINCH in os.read(self.woken, 4096):
            self.resize()
            self.order(signal.SIGWINCH)  # it may have looked before we had changed the size

    def resize(self) -> bool:
        """Give our terminals the sizes of those that they stand for; whether one has changed."""
        changed = [copy_size(terminal, screen) for screen, terminal in self.screens]
        return any(changed)

    # -- passing on

    def readers(self) -> dict[int, Callable[[], object]]:
        """What to read, and how; reports last, as `stop` takes its time.

        What is not yet written holds up only its own source.
        """
        open_outputs = [
            output for output in self.outputs if output.source is not None and not output.pending
        ]
        readers: dict[int, Callable[[], object]] = {self.woken: self.wake}
        readers |= {
            output.source: output.read for output in open_outputs if output.source is not None
        }
        return readers if self.code is not None else {**readers, self.orders.fileno(): self.hear}

    def writers(self) -> dict[int, Callable[[], object]]:
        """What to write, and how."""
        return {output.sink: output.write for output in self.outputs if output.pending}

    def turn(self, timeout: float | None) -> bool:
        """Wait, for so long at most, and pass on what there is; whether there was something."""
        readers, writers = self.readers(), self.writers()
        now = time.monotonic()
        waits = [
            max(0, output.due - now)
            for output in self.outputs
            if output.due is not None and not output.pending
        ]
        limits = [*waits, *([] if timeout is None else [timeout])]
        readable, writable, _ = select.select(
            list(readers), list(writers), [], min(limits, default=None)
        )
        for action in [*(writers[fd] for fd in writable), *(readers[fd] for fd in readable)]:
            action()
        now = time.monotonic()
        for output in self.outputs:
            if output.due is not None and not output.pending and now >= output.due:
                output.pause()
        return bool(writable or set(readable) - {self.woken, self.orders.fileno()})

    def drain(self) -> None:
        """Pass on what the command has written: to the end, a silence, or what a pipe holds."""
        ends = [output.count + PIPE_SIZE for output in self.outputs]
        while any(
            output.pending or (output.source is not None and output.count < end)
            for output, end in zip(self.outputs, ends, strict=True)
        ):
            if not self.turn(SETTLED) and not any(output.pending for output in self.outputs):
                return

    # -- the end

    def let_go(self) -> None:
        """Give back what we had: the keeper, and of the terminal."""
        self.orders.close()

    def leave_behind(self) -> None:
        """Stay, as a process that nobody waits for, where what the command left may still write."""
        if all(output.source is None for output in self.outputs) or os.fork():
            return
        try:
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, signal.SIG_IGN)
            for fd in {0, 1, 2} - {
                output.sink for output in self.outputs if output.source is not None
            }:
                os.close(fd)
            while any(output.pending or output.source is not None for output in self.outputs):
                self.turn(None)
        finally:
            os._exit(0)


def reap(number: int, frame: object) -> None:
    """Take the exit statuses of the keeper and, as process 1, of all whose parent has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
