"""This machine goes over to the agent's key that another machine has rotated to."""

from __future__ import annotations

import os

from avault.nostr import parse_npub, to_npub
from avault.places import Places
from avault.signer.pairing import UNPROVEN, Pairing
from avault.vault.presence import as_operator, read_sealed
from avault.vault.rotation import set_logs_aside
from avault.vault.statements import is_superseded


class Following:
    """Sets aside what this machine has of the old key, for the length of a `with`.

    Its pairing asks for the new one. Where the phone does not open nsec.enc, all is as it was.
    """

    def __init__(self, places: Places) -> None:
        self.own, self.aside = places.own("unlock.json"), places.own("unlock-before.json")
        self.places, self.is_needed = places, False

    def __enter__(self) -> None:
        if not os.path.lexists(self.own):
            return
        known = read_sealed("unlock", self.own)
        self.is_needed = is_superseded(self.places, known)
        if not self.is_needed:
            return
        content = read_sealed("nsec", self.places.file("nsec.enc"))
        pairing = Pairing.load(self.places)
        if pairing and as_operator(content, to_npub(pairing.operator)):
            pairing.agent = parse_npub(content["agent"])
            pairing.save(self.places, UNPROVEN)
        set_logs_aside(self.places, parse_npub(known["agent"]))
        os.rename(self.own, self.aside)

    def __exit__(self, *_: object) -> None:
        if self.is_needed and os.path.lexists(self.own):
            os.unlink(self.aside)
        elif self.is_needed:
            os.rename(self.aside, self.own)
