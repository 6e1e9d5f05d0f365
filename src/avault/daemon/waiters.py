"""Who waits for the key, and what is tried for them, as the keyholder knows it."""

from __future__ import annotations

from avault.process import uptime


class Waiters:
    """What those who wait for the key wish."""

    def __init__(self) -> None:
        # somebody waits for the key: ask for it; else listen for what comes late
        self.is_asked = False
        self.is_attended = True  # one of them is a person or a program, not only `daemon start`
        self.accept_rollback = False
        self.opens_until = 0.0  # uptime until which a late answer opens the vault
        self.is_left = False  # nobody waits any more

    def leave(self, opens_for: float) -> None:
        """The last of them is gone; for so many seconds a late answer still opens the vault."""
        self.is_asked, self.accept_rollback, self.is_left = False, False, True
        self.opens_until = uptime() + opens_for

    def are_late(self) -> bool:
        """Whether they are gone for so long that an answer opens the vault no more."""
        return not self.is_asked and uptime() >= self.opens_until


class Tries:
    """How many custodians are tried at this moment, and how many of them are phones."""

    def __init__(self) -> None:
        self.count = self.phones = 0
