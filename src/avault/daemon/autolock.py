"""When an open vault locks by itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from avault.process import uptime
from avault.vault.times import render_duration

if TYPE_CHECKING:
    from avault.protocol import Limits, Message


class AutoLock:
    """The limits of an open vault: seconds `after` it was opened, and that it may be `idle`.

    None is no limit. `since` is when it was opened, by the clock that people read; a clock that
    nobody can set tells the rest.
    """

    def __init__(self, limits: Limits) -> None:
        self.after, self.idle = limits
        self.start()

    def start(self) -> None:
        """Count from now."""
        self.since = time.time()
        self.opened = self.used = uptime()

    def time_left(self) -> float:
        """Seconds until the first of the limits; infinite without one."""
        ends = [self.opened + self.after] if self.after else []
        ends += [self.used + self.idle] if self.idle else []
        return min(ends) - uptime() if ends else float("inf")

    def explain(self) -> str:
        """Which limit it was, and how long."""
        if self.after and self.opened + self.after <= uptime():
            return f"it locked by itself after {render_duration(self.after)}"
        return f"it locked by itself after {render_duration(self.idle or 0)} without a use"

    def change(self, message: Message) -> None:
        """Take other limits; one that is not named stays as it is, and `for` counts from now."""
        if "for" in message:
            self.after = round(uptime() - self.opened) + message["for"]
        self.after = message.get("lock_after", self.after)
        self.idle = message.get("lock_idle", self.idle)
