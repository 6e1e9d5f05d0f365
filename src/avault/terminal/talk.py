"""What is said to a person, on stderr, and what is given out, on stdout."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from avault.errors import AvaultError, printable
from avault.hints import call
from avault.plain import write_all

if TYPE_CHECKING:
    from collections.abc import Sequence


def say(text: str) -> None:
    """Talk to the person, on stderr."""
    print(f"avault: {call.complete(text)}", file=sys.stderr, flush=True)


def warn(text: str, hint: str | None = None) -> None:
    """Say what should not be so, and what to do about it."""
    say(f"warning: {text}")
    if hint:
        say(f"hint: {hint}")


_has_put = False


def put(text: str) -> None:
    """Write data to stdout, at once; raises AvaultError."""
    global _has_put
    _has_put = True
    try:
        write_all(1, text.encode("utf-8", "backslashreplace"))
    except BrokenPipeError:
        sys.exit(141)  # what a shell reports for SIGPIPE
    except OSError as error:
        raise AvaultError(f"cannot write the output: {error.strerror}") from None


def put_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Write rows of as many cells each to stdout, in columns; the first is their heads."""
    rows = [tuple(printable(cell, 1000) for cell in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        put("  ".join(cells).rstrip() + "\n")


def confirm(question: str) -> bool:
    """Ask on a terminal; without one the answer is no."""
    if not sys.stdin.isatty():
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def is_person() -> bool:
    """Whether somebody types this at a terminal: a matter of manners, which secures nothing."""
    return sys.stdin.isatty() and sys.stderr.isatty()
