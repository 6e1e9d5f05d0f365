"""What copies under a key before have, and the open vault never had: it is taken over."""

from __future__ import annotations

import time

from avault.keys.keyholder import Keyholder
from avault.vault.guard_changes import refuse_more
from avault.vault.guards import Guards
from avault.vault.leftovers import count_ranks, find_left, recall
from avault.vault.records import Vault
from avault.vault.rotation import drop


async def take_left(keyholder: Keyholder) -> list[str]:
    """Take over what copies under a key before have; the names. Each goes when that is written."""
    store, taken = keyholder.open_store(), list[str]()
    for name, copy in find_left(store).items():
        if copy:
            for rank in range(count_ranks(copy)):
                taken += await recall_rank(keyholder, copy, rank)
            drop(store.places.own(name))
    await keyholder.holding.note_left()
    return [*dict.fromkeys(taken)]


async def recall_rank(keyholder: Keyholder, copy: Vault, rank: int) -> list[str]:
    """Write what a copy has of a rank, and the vault never had; the names."""
    store, taken = keyholder.open_store(), list[str]()

    def change(vault: Vault) -> None:
        before = Guards(vault.facts)
        taken[:] = recall(vault, copy, rank, int(time.time()), store.machine)
        refuse_more(before, vault, taken)

    change(store.vault.copy())
    if taken:
        await keyholder.change(change)
    return taken
