"""Which relays keep the vault: facts of it, which its owner changes."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from avault.daemon.changes import write
from avault.daemon.wire import Session
from avault.errors import NotFound, Usage
from avault.keys.keyholder import Keyholder
from avault.vault.own_files import normalise_relay

if TYPE_CHECKING:
    from avault.protocol import Message
    from avault.vault.records import Vault

RELAY_FACT = "replica"  # of the facts: "replica/URL"
MOST_RELAYS = 20


async def change_relays(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Have relays keep the vault, or have them do it no more; on all its machines."""
    is_more, given = request["action"] == "add", request.get("relays")
    urls = [normalise_relay(url) for url in given] if isinstance(given, list) else []
    store = keyholder.open_store()
    machine, known = store.machine, list_relays(store.vault)
    if is_more and len({*known, *urls}) > MOST_RELAYS:
        raise Usage(f"at most {MOST_RELAYS} relays keep a vault", "see: avault replica status")

    def change(vault: Vault) -> None:
        for url in urls:
            if not is_more and vault.fact(f"{RELAY_FACT}/{url}") is None:
                raise NotFound(f"{url} does not keep this vault", "see: avault replica status")
            vault.state(f"{RELAY_FACT}/{url}", "on" if is_more else None, int(time.time()), machine)

    said = {"op": "replica", "for": f"{request['action']} {' '.join(urls)}"}
    answer = await write(keyholder, session, said, change) if urls else {}
    keyholder.reporter.report()
    return answer


def list_relays(vault: Vault) -> dict[str, str]:
    """The relays that keep the vault, and which of its machines has named each."""
    found: dict[str, str] = {}
    for url in sorted(vault.facts_of(RELAY_FACT)):
        with contextlib.suppress(Usage):
            if len(found) < MOST_RELAYS:
                machine = vault.facts[f"{RELAY_FACT}/{url}"][0].machine
                found.setdefault(normalise_relay(url), machine)
    return found
