"""Which messages this machine sends and takes: messages.json, in its state directory."""

from __future__ import annotations

import os

from avault.errors import Tampered, Usage
from avault.places import Places
from avault.vault.files import read_file, write_file
from avault.vault.own_files import decode_file, encode_file, normalise_relay

MESSAGES = "messages.json"


class MessageSettings:
    """Whether the word `lock` is taken, at which relays, and whether a `notice` is sent.

    `obeyed` is when the last word was written that was obeyed (seconds): none before it counts.
    """

    def __init__(
        self, lock: bool = False, notice: bool = False, relays: list[str] | None = None
    ) -> None:
        self.lock, self.notice, self.relays = lock, notice, relays or []
        self.obeyed = 0

    @staticmethod
    def load(places: Places) -> MessageSettings:
        """This machine's; nothing is on where nobody has said so. Raises Tampered."""
        path, settings = places.own(MESSAGES), MessageSettings()
        if os.path.lexists(path):
            content = decode_file("messages", read_file(path), path)
            try:
                settings.relays = [normalise_relay(url) for url in content["relays"]]
            except Usage:
                raise Tampered(f"{path} is damaged", "write it anew: avault message on") from None
            settings.lock, settings.notice = content["lock"], content["notice"]
            settings.obeyed = content["obeyed"]
        return settings

    def save(self, places: Places) -> None:
        """Write messages.json."""
        content = {"lock": self.lock, "notice": self.notice, "relays": self.relays}
        data = encode_file("messages", {**content, "obeyed": self.obeyed})
        write_file(places.own(MESSAGES), data)
