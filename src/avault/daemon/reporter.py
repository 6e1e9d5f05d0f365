"""What the keyholder tells the supervisor: no secret, ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.daemon.wire import Control
from avault.errors import AvaultError
from avault.process import uptime

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Reporter:
    """Tells the supervisor how things are, what was written, and what failed.

    `describe` makes what `status` shows. Each of the `warnings` has a name, under which it ends.
    """

    def __init__(self, control: Control, describe: Callable[[], dict[str, Any]]) -> None:
        self.control, self.describe = control, describe
        self.warnings: dict[str, str] = {}
        self.reported = uptime()

    def warn_of_a_change(self, name: str) -> None:
        """Remember that a file of this machine was changed while the vault was open."""
        why = "was changed while the vault was open, and was written anew"
        self.warnings[name] = f"{name} {why}"

    def report(self) -> None:
        """Tell what `status` shows."""
        self.reported = uptime()
        self.control.send({"report": self.describe()})

    def wrote(self) -> None:
        """Tell that git has something to record."""
        self.control.send({"wrote": True})

    def fail(self, error: AvaultError) -> None:
        """Tell why something failed."""
        self.control.send({"failed": error.to_dict()["error"]})
