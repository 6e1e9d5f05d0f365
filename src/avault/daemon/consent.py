"""Who agrees to a change of the ways into the vault, where that is not the phone."""

from __future__ import annotations

from avault.process import uptime


class Consent:
    """What the keyholder knows of that, and no file can tell it.

    `phoneless`: the vault was made without a phone, so that who opens it with a custodian agrees.
    `is_fresh`: it has just been made, or opened with the operator's own key, and no custodian has
    been tried yet: the first one needs nobody's word.
    """

    TIME = 120.0  # seconds from an agreement to the change

    def __init__(self) -> None:
        self.phoneless = self.is_fresh = False
        self.ticket, self.until = "", 0.0

    def give(self, ticket: str) -> None:
        """Somebody has agreed to the one change that has this ticket."""
        self.ticket, self.until = ticket, uptime() + self.TIME

    def take(self, ticket: str) -> bool:
        """Whether the change with this ticket is agreed to; whatever was, is used up."""
        given, self.ticket = self.ticket, ""
        return self.is_fresh or (bool(ticket) and given == ticket and uptime() < self.until)
