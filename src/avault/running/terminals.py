"""Terminals: the one that a command gets, and the one that we are in."""

from __future__ import annotations

import fcntl
import os
import termios

from avault.errors import Unavailable
from avault.running.process import typed_signals


def open_screen() -> tuple[int, int]:
    """A terminal of our own: our end, and the command's; raises Unavailable."""
    try:
        return os.openpty()
    except OSError as error:
        raise Unavailable(
            f"no terminal for the command: {error.strerror}", "without one: avault run … | cat"
        ) from None


def copy_size(terminal: int, other: int) -> bool:
    """Give a terminal the size of another one; whether it has changed."""
    try:
        size, there = (
            fcntl.ioctl(each, termios.TIOCGWINSZ, bytes(8)) for each in (terminal, other)
        )
        fcntl.ioctl(other, termios.TIOCSWINSZ, size)
    except OSError:
        return False
    return size != there


def is_foreground(terminal: int) -> bool:
    """Whether keys on the terminal are for us.

    One that is not our session's has no jobs, and is for anybody.
    """
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return True


def open_terminal() -> int | None:
    """Our session's terminal, if there is one."""
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return None


def is_typed(number: int) -> bool:
    """Whether that signal came from the keys of our terminal, and so to all of our process group.

    Python does not tell who sent a signal. In the foreground of a terminal, SIGINT, SIGQUIT and
    SIGTSTP are keys.
    """
    return number in typed_signals() and is_at_terminal(foreground=True)


def is_in_background() -> bool:
    """Whether we have a terminal that others are in the foreground of."""
    return is_at_terminal(foreground=False)


def is_at_terminal(foreground: bool) -> bool:
    """Whether our session has a terminal, and we are in its foreground, or are not."""
    terminal = open_terminal()
    if terminal is None:
        return False
    try:
        return is_foreground(terminal) == foreground
    finally:
        os.close(terminal)
