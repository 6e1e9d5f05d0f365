"""Who agrees to a change of the ways into the vault, where that is not the phone."""

from __future__ import annotations

import secrets

from avault.process import uptime


class Consent:
    """What the keyholder knows of that.

    `phoneless`: the vault was made without a phone, and this machine has no pairing; who opens it
    with a custodian agrees then. `custodian` is the one by which it was opened, if by one. `first`
    is the ticket of who made it, or has opened it with the operator's own key: it is told to that
    client alone, and is good until a custodian was tried.
    """

    TIME = 120.0  # seconds from an agreement to the change

    def __init__(self) -> None:
        self.phoneless = False
        self.custodian: str | None = None
        self.first = self.ticket = ""
        self.until = 0.0

    def begin(self) -> None:
        """The vault has no phone, and the operator is here."""
        self.phoneless, self.first = True, secrets.token_hex(16)

    def end(self) -> None:
        """From now on the phone agrees."""
        self.phoneless, self.first, self.ticket = False, "", ""

    def give(self, ticket: str) -> None:
        """Somebody has agreed to the one change that has this ticket."""
        self.ticket, self.until = ticket, uptime() + self.TIME

    def take(self, ticket: str) -> bool:
        """Whether the change with this ticket is agreed to; whatever was agreed is used up."""
        given, self.ticket = self.ticket, ""
        if not self.phoneless or not ticket or not ticket.isascii():
            return False
        is_given = secrets.compare_digest(given, ticket) and uptime() < self.until
        return is_given or secrets.compare_digest(self.first, ticket)
