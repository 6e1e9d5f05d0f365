"""A command on a terminal of its own: keys, size, job control.

Our stdout is a terminal: the command gets one of its own, a whole one, and we are between the two.
As in any terminal emulator there is a session, and a leader of it: a fork of ours that starts the
command as a job, sees it stop and go on, and tells us. (Without a parent in its session the command
could not be stopped: POSIX drops Ctrl-Z for orphaned process groups.)

    terminal -- avault run --- pseudoterminal
                   |              |
                   '-- leader -- the command, in a process group of its own
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import termios
import tty
from typing import TYPE_CHECKING

from avault.running.job import Job, reap
from avault.running.keeper import BACKGROUND, FOREGROUND, Keeper
from avault.running.masks import Patterns
from avault.running.output import Output
from avault.running.process import passed_signals, terminal_signals, typed_signals, wake_up
from avault.running.terminals import is_foreground, open_screen, open_terminal

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class TerminalJob(Job):
    """A command on a terminal of its own."""

    def __init__(
        self, command: list[str], environment: dict[bytes, bytes], patterns: Patterns
    ) -> None:
        super().__init__(command, environment, patterns)
        self.terminal = 0 if os.isatty(0) else open_terminal()  # where keys come from
        self.saved: list[Any] | None = None  # its modes, while its keys are ours
        self.typed = b""  # keys that are not yet passed on
        self.wanted = os.isatty(0)  # whether the command is to have the keys, not only the screen
        self.was_continued = False

    # -- starting

    def open_outputs(self) -> tuple[int, int]:
        """One terminal for all that is a terminal of ours; stderr may be something else."""
        self.screen, end = open_screen()
        termios.tcsetattr(end, termios.TCSANOW, termios.tcgetattr(1))
        self.modes = termios.tcgetattr(end)
        self.screens.append((self.screen, 1))
        self.resize()
        self.outputs.append(Output(self.screen, 1, self.patterns))
        ends_lines = termios.OPOST | termios.ONLCR  # it turns \n into \r\n
        self.outputs[0].undoes_crlf = self.makes_crlf = self.modes[1] & ends_lines == ends_lines
        self.ends.append(end)
        same = os.isatty(2) and os.fstat(1).st_rdev == os.fstat(2).st_rdev
        return end, end if same else self.open_output(2)

    def start(self, stdout: int, stderr: int) -> None:
        """Start the leader, which starts the command; raises CannotRun."""
        self.catch(signal.SIGCHLD, action=reap)
        self.catch(
            *(number for number in passed_signals() if number not in terminal_signals()),
            action=self.forward,
        )
        self.catch(signal.SIGWINCH, action=wake_up)
        self.catch(signal.SIGCONT, action=self.note_continued)
        foreground = self.terminal is None or is_foreground(self.terminal)
        self.start_keeper(self.make_keeper(), stdout, stderr, foreground)
        if foreground and self.wanted:
            self.take_keys()

    def make_keeper(self) -> Keeper:
        return Leader(self.keeper_end, self.command, self.environment)

    # -- signals and jobs

    def forward(self, number: int, frame: object) -> None:
        """Pass a signal on; no key has sent it to the command, which is in another session."""
        self.order(number)

    def note_continued(self, number: int, frame: object) -> None:
        """SIGCONT: we are back, in the foreground or not."""
        self.was_continued = True

    def wake(self) -> None:
        """See what woke us: the size of the terminal, `fg` or `bg`."""
        woken = os.read(self.woken, 4096)
        if signal.SIGWINCH in woken and not self.resize():  # else the kernel tells the command
            self.order(signal.SIGWINCH)
        if signal.SIGCONT in woken:
            self.go_on()

    def stop(self, number: int) -> None:
        """The command has stopped: so does our process group, as the terminal would have had it."""
        wants_keys = number in (signal.SIGTTIN, signal.SIGTTOU)
        if (
            wants_keys
            and self.terminal is not None
            and self.saved is None
            and is_foreground(self.terminal)
        ):
            self.wanted = True
            self.go_on()
            return
        self.drain()
        self.let_go()
        self.was_continued = False
        handler = signal.getsignal(number)
        if number != signal.SIGSTOP:
            signal.signal(number, signal.SIG_DFL)
        os.killpg(0, number)
        if number != signal.SIGSTOP:
            signal.signal(number, handler)
        if wants_keys and not self.was_continued:
            # we cannot be stopped, as no shell is there to continue us: it will never get keys
            self.order(signal.SIGHUP)
        self.go_on()

    def go_on(self) -> None:
        """Let the command go on, with the keys if they are ours now."""
        if self.terminal is not None and not is_foreground(self.terminal):
            self.saved = None  # the shell has it, and its modes
            self.outputs[0].undoes_crlf = self.makes_crlf
            self.order(BACKGROUND)
            return
        if self.wanted:
            self.take_keys()
        self.resize()
        self.order(FOREGROUND)

    # -- keys

    def take_keys(self) -> None:
        """Every key goes to the command's terminal, which knows what Ctrl-C means there."""
        if self.terminal is None:
            return
        while self.outputs[0].pending:
            self.outputs[0].write()  # its line ends are for the modes that the terminal still has
        if self.saved is None:
            self.saved = termios.tcgetattr(self.terminal)
            # they are ours: a shell has others while it is at its prompt
            if termios.tcgetattr(self.screen) == self.modes:
                termios.tcsetattr(self.screen, termios.TCSANOW, self.saved)
                self.modes = termios.tcgetattr(self.screen)
        tty.setraw(self.terminal, termios.TCSADRAIN)
        self.outputs[0].undoes_crlf = False

    def let_go(self) -> None:
        """Give the keys back.

        The leader is given up with the terminal, as what the command leaves behind keeps both.
        """
        if self.terminal is not None and self.saved is not None:
            with contextlib.suppress(termios.error):  # it is gone
                termios.tcsetattr(self.terminal, termios.TCSADRAIN, self.saved)
        self.saved = None
        self.outputs[0].undoes_crlf = self.makes_crlf

    def read_keys(self) -> None:
        """Take what was typed. The end: the terminal is gone."""
        try:
            self.typed = os.read(self.terminal, 4096) if self.terminal is not None else b""
        except OSError:
            self.typed = b""
        if not self.typed:
            self.terminal = self.saved = None
            self.order(signal.SIGHUP)

    def pass_keys(self) -> None:
        """Type them on the command's terminal."""
        with contextlib.suppress(BlockingIOError):
            self.typed = self.typed[os.write(self.screen, self.typed) :]

    # -- passing on

    def readers(self) -> dict[int, Callable[[], object]]:
        """Keys too, as long as the command runs."""
        readers = super().readers()
        if (
            self.code is None
            and self.terminal is not None
            and self.saved is not None
            and not self.typed
        ):
            readers = {self.terminal: self.read_keys, **readers}
        return readers

    def writers(self) -> dict[int, Callable[[], object]]:
        """Keys too."""
        return super().writers() | (
            {self.screen: self.pass_keys} if self.typed and self.code is None else {}
        )

    def turn(self, timeout: float | None) -> bool:
        """As above; but where stdin is no terminal, the keys may be for others, until wanted.

        As in `fzf | avault run …`. That they are wanted shows when the command changes the modes of
        its terminal, as what asks for a password does, or a pager.
        """
        watching = self.terminal is not None and not self.wanted and self.code is None
        went = super().turn(0.1 if watching and timeout is None else timeout)
        is_open = self.outputs[0].source is not None
        if watching and is_open and self.terminal is not None and is_foreground(self.terminal):
            changed = termios.tcgetattr(self.screen)[3] ^ self.modes[3]
            if changed & (termios.ICANON | termios.ECHO):
                self.wanted = True
                self.take_keys()
        return went


class Leader(Keeper):
    """The leader of the command's session."""

    def farewell(self) -> int:
        return signal.SIGHUP

    def prepare(self, terminal: int) -> None:
        """Begin a session on the terminal."""
        self.terminal = terminal
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        # or we could not say whose the terminal is
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])

    def action(self, number: int) -> Callable[..., None] | signal.Handlers:
        """Keys are the command's affair; another signal is for us alone, in our process group.

        But SIGHUP, by which the kernel tells us that the terminal is gone, is not our end: the
        command, which would be killed with us, is to have its time (`end_all`).
        """
        survived = {signal.SIGHUP, signal.SIGCHLD, signal.SIGWINCH, signal.SIGCONT}
        return wake_up if number in survived | typed_signals() else signal.SIG_DFL

    def close(self, stdout: int, stderr: int) -> None:
        """Close what only the command writes to."""
        if stderr != self.terminal:
            os.close(stderr)

    def enter(self, foreground: bool) -> None:
        """Begin a process group of its own on the terminal."""
        if os.isatty(0):
            os.dup2(self.terminal, 0)
        os.setpgid(0, 0)
        if foreground:
            os.tcsetpgrp(self.terminal, os.getpid())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTTOU])

    def leave(self, code: int) -> None:
        """The command has ended: what it leaves behind stays in our session, and keeps us."""
        # the kernel's SIGHUP at our end is for us, not for what stays behind
        self.give_terminal(os.getpgrp())
        super().leave(code)
        os.close(self.terminal)  # the other side may then end, and that is the end of us

    def obey(self, order: int) -> None:
        """Pass a signal on to the command and its process group, or let it go on."""
        if self.pid is None:
            return
        if order in (FOREGROUND, BACKGROUND):
            self.give_terminal(self.pid if order == FOREGROUND else os.getpgrp())
            order = signal.SIGCONT
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, order)

    def give_terminal(self, group: int) -> None:
        """Put a process group into the foreground; a terminal that is gone has none."""
        with contextlib.suppress(OSError):
            os.tcsetpgrp(self.terminal, group)
