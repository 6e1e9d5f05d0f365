"""What is served and avault.enc has not: unsaved.enc, in the state directory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avault.errors import AvaultError
from avault.keys.seal import open_vault, seal_vault
from avault.places import Places
from avault.vault.files import VAULT_LIMIT, find_free, read_file, write_file
from avault.vault.records import Vault

if TYPE_CHECKING:
    from avault.keys.nostr import Keys


class Unsaved:
    """A sealed copy of the vault, whose one source is the avault.enc that it goes on from.

    `digest` is the hash of that avault.enc, once the copy is kept; "" where there is none.
    """

    def __init__(self, places: Places, keys: Keys) -> None:
        self.places, self.keys, self.digest = places, keys, ""
        self.path = places.own("unsaved.enc")

    def read(self, identity: str) -> Vault | None:
        """The vault in it; None where there is none that is ours."""
        if not os.path.lexists(self.path):
            return None
        try:
            vault = open_vault(read_file(self.path, VAULT_LIMIT), self.keys)
        except AvaultError:
            return None
        # with other sources it is an avault.enc that somebody has put here
        return vault if vault.identity == identity and len(vault.sources) == 1 else None

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

    def forget(self, vault: Vault) -> None:
        """Remove it, where `vault`, which avault.enc is, has all that is in it.

        Else it is set aside, as what the agent's key does not open: that may be of the key before.
        """
        self.digest = ""
        if not os.path.lexists(self.path):
            return
        try:
            kept = open_vault(read_file(self.path, VAULT_LIMIT), self.keys)
            is_all = kept.is_of(vault) and vault.is_after(kept.generation)
        except AvaultError:
            is_all = False
        if is_all:
            os.unlink(self.path)
        else:
            os.rename(self.path, find_free(self.places.own("unsaved-before"), ".enc"))
