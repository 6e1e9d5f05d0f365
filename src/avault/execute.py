"""A command in our place, as execvp(3) has it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avault.plain import write_all

if TYPE_CHECKING:
    from collections.abc import Mapping


def places_of(command: str, environment: Mapping[bytes, bytes]) -> list[bytes]:
    """The paths where execvp(3) looks for a command.

    That is in the PATH that it is given, unless it is a path itself.
    """
    word = os.fsencode(command)
    if b"/" in word or not word:
        return [word] if word else []
    usual = os.fsencode(os.confstr("CS_PATH") or os.defpath)
    return [os.path.join(place, word) for place in environment.get(b"PATH", usual).split(b":")]


def execute(command: list[str], environment: Mapping[bytes, bytes]) -> int:
    """Execute a command in our place, as execvp(3) does; the errno of why it cannot be.

    A place that is not there, or may not be entered, is passed over; a script whose first line
    names no program is sh's.
    """
    import errno

    missing = (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ESTALE,
        errno.ENODEV,
        errno.ETIMEDOUT,
        errno.ELOOP,
        errno.ENAMETOOLONG,
    )
    found = errno.ENOENT
    for place in places_of(command[0], environment):
        try:
            os.execve(place, command, environment)  # noqa: S606
        except OSError as error:
            number = error.errno or errno.ENOENT
        if number == errno.ENOEXEC and is_text(place):
            try:
                words = ["sh", os.fsdecode(place), *command[1:]]
                os.execve("/bin/sh", words, environment)  # noqa: S606
            except OSError as error:
                number = error.errno or number
        if number == errno.EACCES and os.path.lexists(place):
            found = number
        elif number in missing and os.path.isfile(place):
            return errno.ENOEXEC  # it is there: what its first line names is not
        elif number not in (*missing, errno.EACCES):
            return number
    return found


def is_text(path: bytes) -> bool:
    """Whether a file may be a script: its first line has no NUL."""
    try:
        with open(path, "rb") as file:
            return b"\0" not in file.read(256).partition(b"\n")[0]
    except OSError:
        return False


def become(command: list[str], variables: list[str]) -> int:
    """Execute a command with these variables, NAME=value, over those that are there.

    126 or 127 if it cannot be.
    """
    import _signal  # type: ignore[import-not-found]  # as `signal` imports half of Python

    for pair in variables:
        name, _, value = pair.encode().partition(b"=")
        os.environb[name] = value
    # by Python; and what is ignored is inherited
    for ignored in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(ignored, _signal.SIG_DFL)
    number = execute(command, os.environb)
    missing = number == 2  # ENOENT
    why = "no such command" if missing else os.strerror(number)
    write_all(2, f"avault: error: cannot run {command[0]!a}: {why}\n".encode())
    return 127 if missing else 126
