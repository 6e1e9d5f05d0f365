"""Writes of this machine that it never made: its disk is from a backup, or there is a clone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.errors import AvaultError, Tampered
from avault.places import Places, sha256
from avault.vault.files import write_file
from avault.vault.machine import Machine
from avault.vault.presence import read_vault
from avault.vault.records import Vault
from avault.vault.unsaved import Unsaved

if TYPE_CHECKING:
    from collections.abc import Callable


class Doubter:
    """What a Store does where another writes under this machine's name."""

    places: Places
    me: Machine
    vault: Vault
    digest: str
    unsaved: Unsaved
    trouble: AvaultError | None
    pin: Callable[[], None]
    absorb: Callable[[Vault, bytes], None]
    replace: Callable[[Vault, str], None]
    doubted: Tampered | None = None  # a trouble that no change of the file ends

    def doubt(self, generation: dict[str, int], since: int, served: str = "") -> None:
        """Raise Tampered, and write nothing more, where writes of this machine are not its own.

        A copy, of that time, counts more of them than were made here; or it was served under this
        name (`served`, its hash), and not here: the disk was restored from a backup, or cloned.
        Each write would be taken for one of those. It is pinned, so that a restart does not end it.
        """
        count = generation.get(self.me.name, 0)
        ours = max(self.vault.generation.get(self.me.name, 0), self.me.counted)
        is_strange = bool(served) and self.me.is_strange(count, served)
        if self.doubted or not (is_strange or count > ours):
            return
        self.me.overtaken, self.me.since = max(count, ours + 1), since
        self.trouble = self.doubted = Tampered(
            "there are writes of this machine that it never made:"
            " was it restored from a backup, or is there a clone?",
            "to go on under another name: avault restore --unsaved; then: avault replica push",
        )
        self.pin()
        raise self.doubted

    def go_on(self) -> bool:
        """Write what is served under another name, and what was written since the doubt's time."""
        data = read_vault(self.places)
        write_file(self.places.own("damaged.enc"), data)
        draft = self.vault.copy()
        self.rename(draft, self.me.since)
        draft.sources = [self.digest]
        if (found := sha256(data).hex()) != self.digest:
            self.absorb(draft, data)
        self.replace(draft, found)
        self.trouble = self.doubted = None
        self.unsaved.forget(self.vault)
        return True

    def rename(self, draft: Vault, since: int | None) -> None:
        """Take another name, under which a draft has what was written since the doubt's time."""
        before = self.me.name
        self.me.rename()
        if since is not None:
            draft.hand_over(before, self.me.name, since)


def last_write_of(vault: Vault, machine: str) -> int:
    """When the latest was written of what is there of a machine."""
    values = [found for group in vault.groups.values() for found in group.keys.values()]
    mine = [each.updated for found in values for each in found if each.machine == machine]
    return max(mine, default=0)
