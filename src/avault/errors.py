"""One base class for what went wrong; exit codes and hints."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avault.hints import EXIT_CODES
from avault.places import NoPlace

if TYPE_CHECKING:
    from typing import Any


class AvaultError(Exception):
    """What went wrong, for a person: a message, and a hint that says what to type next.

    `code` is its name in the socket protocol, `exit_code` that of the command.
    """

    code = "error"
    exit_code = 1

    def __init_subclass__(cls) -> None:
        cls.exit_code = EXIT_CODES.get(cls.code, 1)

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def to_dict(self) -> dict[str, Any]:
        """The error object of the socket protocol and of `--json`."""
        return {
            "ok": False,
            "error": {"code": self.code, "message": self.message, "hint": self.hint},
        }

    @staticmethod
    def from_dict(answer: dict[str, Any]) -> AvaultError:
        """The error that an answer with `ok: false` describes."""
        error = answer.get("error") or {}
        kind = next((each for each in ERRORS if each.code == error.get("code")), AvaultError)
        return kind(
            str(error.get("message", "the daemon refused without a reason")), error.get("hint")
        )


class Usage(AvaultError):
    """Bad arguments."""

    code = "usage"


class Locked(AvaultError):
    """The vault is locked, waiting for the phone, or not paired."""

    code = "locked"


class NotFound(AvaultError):
    """No such group or key."""

    code = "not_found"


class Denied(AvaultError):
    """The operator or a rule said no."""

    code = "denied"


class Unavailable(AvaultError):
    """No daemon, no relay, no keychain."""

    code = "unavailable"


class TimedOut(AvaultError):
    """Nobody answered in time."""

    code = "timed_out"


class Tampered(AvaultError):
    """Ciphertext damaged, rolled back, or not this agent's."""

    code = "tampered"


ERRORS = (Usage, Locked, NotFound, Denied, Unavailable, TimedOut, Tampered)


def is_somewhere() -> bool:
    """Whether the current directory is there."""
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def complain(error: Exception) -> AvaultError:
    """`error` itself if it is ours; else one that says its type, and nothing that it may carry."""
    if isinstance(error, AvaultError):
        return error
    if isinstance(error, RecursionError):
        return Usage("nested too deep")
    if isinstance(error, NoPlace):
        return AvaultError(*error.args)
    if isinstance(error, FileNotFoundError) and not is_somewhere():
        return AvaultError("the current directory is gone", "go to one that is there, as with: cd")
    return AvaultError(
        f"avault failed: {type(error).__name__}",
        "this should not happen; please report what you did",
    )


def printable(text: object, limit: int = 200) -> str:
    """`text` from elsewhere, cut and escaped, so that it cannot drive a terminal."""
    shown = str(text)
    shown = shown if len(shown) <= limit else shown[: limit - 1] + "…"
    if shown.isprintable():
        return shown
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in shown
    )
