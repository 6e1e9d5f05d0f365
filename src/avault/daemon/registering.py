"""This machine's entry in the vault: its host, and the client key by which it asks the phone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from avault.daemon.contact import Contact
from avault.daemon.writing import Writer
from avault.errors import AvaultError
from avault.keys.nostr import public_hex
from avault.vault.machines import KIND, read_machine, render_machine
from avault.vault.store import Store

if TYPE_CHECKING:
    from avault.vault.records import Vault


async def register(store: Store, writer: Writer, contact: Contact, host: str) -> None:
    """Have the vault know this machine as it is; written only where it knows another, or none.

    A client key that is known stays, whatever is on the disk: it tells that a phone agrees here.
    Best effort: a vault that cannot be written is served all the same.
    """
    pairing = contact.pairing or contact.seen
    name = f"{KIND}/{store.machine}"
    known = read_machine(store.vault.fact(name) or "{}")["client_key"]
    said = render_machine(host, public_hex(pairing.keys) if pairing else known or "")
    if store.trouble or store.vault.fact(name) == said:
        return

    def change(vault: Vault) -> None:
        vault.state(name, said, int(time.time()), store.machine)

    try:
        await writer.change(store, change)
    except AvaultError:
        pass  # told at the next write that somebody waits for
