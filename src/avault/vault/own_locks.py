"""This machine's own locks on what is sealed for itself: locks.json, beside the vault."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.errors import NotFound, Tampered
from avault.places import Places
from avault.vault.files import VAULT_LIMIT, read_file, write_file
from avault.vault.locks import check_lock
from avault.vault.own_files import decode_file, encode_file

if TYPE_CHECKING:
    from avault.vault.locks import Lock


class OwnLocks:
    """This machine's locks: locks.json, in the state directory. It has nothing that opens them."""

    def __init__(self, places: Places) -> None:
        self.path = places.own("locks.json")

    def read(self) -> dict[str, Lock]:
        """The locks, by the public key that they are on; where there are none, or what is there is
        damaged, the vault's are opened. Raises AvaultError where it cannot be read.
        """
        try:
            content = decode_file("locks", read_file(self.path, VAULT_LIMIT), self.path)
        except (NotFound, Tampered):
            return {}
        found = {to: check_lock(each) for to, each in content["locks"].items()}
        return {to: lock for to, lock in found.items() if lock and lock["to"] == to}

    def keep(self, locks: list[Lock], used: set[str]) -> None:
        """Write locks in place of those on the same keys, of those that the vault has a lock on.

        Raises AvaultError.
        """
        known = {**self.read(), **{lock["to"]: lock for lock in locks}}
        kept = {to: lock for to, lock in known.items() if to in used}
        write_file(self.path, encode_file("locks", {"locks": kept}))
