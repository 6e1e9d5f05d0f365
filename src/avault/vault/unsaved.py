"""What is served and avault.enc has not: unsaved.enc, in the state directory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avault.errors import AvaultError
from avault.places import Places
from avault.vault.files import VAULT_LIMIT, find_free, read_file, write_file
from avault.vault.presence import is_of
from avault.vault.records import Vault
from avault.vault.seal import open_vault, seal_vault

if TYPE_CHECKING:
    from typing import Any

    from avault.nostr import Keys


class Unsaved:
    """A sealed copy of the vault, whose one source is the avault.enc that it goes on from.

    `digest` is the hash of that avault.enc, once the copy is kept; "" where there is none.
    """

    def __init__(self, places: Places, keys: Keys) -> None:
        self.places, self.keys, self.digest = places, keys, ""
        self.path = places.own("unsaved.enc")

    def read(self, content: dict[str, Any]) -> Vault | None:
        """The vault in it; None where there is none that is ours."""
        if not os.path.lexists(self.path):
            return None
        try:
            vault = open_vault(read_file(self.path, VAULT_LIMIT), self.keys)
        except AvaultError:
            return None
        # with other sources it is an avault.enc that somebody has put here
        return vault if is_of(vault, content) and len(vault.sources) == 1 else None

    def keep(self, vault: Vault, digest: str) -> None:
        """Write what is served, and goes on from the avault.enc of that hash.

        Raises AvaultError.
        """
        twin = vault.copy()
        twin.sources = [digest]

        def check(written: bytes) -> None:
            open_vault(written, self.keys)

        write_file(self.path, seal_vault(twin, self.keys), check)
        self.digest = digest

    def forget(self) -> None:
        """Remove it: avault.enc has all that is in it.

        What the agent's key does not open is set aside: it may be of the key before.
        """
        self.digest = ""
        if not os.path.lexists(self.path):
            return
        try:
            open_vault(read_file(self.path, VAULT_LIMIT), self.keys)
            os.unlink(self.path)
        except AvaultError:
            os.rename(self.path, find_free(self.places.own("unsaved-before"), ".enc"))
