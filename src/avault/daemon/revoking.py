"""What the keyholder does with machines and marks: it shows them, and takes a machine out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from avault.errors import Denied, printable
from avault.keys.entrusting import ask_operator, explain_change, tell_of_change
from avault.keys.holding import Holding
from avault.signer.pairing import shorten_hex
from avault.vault.machines import HOST_LIMIT, KIND, find_machine, list_machines
from avault.vault.marks import add_mark, describe_mark, find_exposed, read_marks

if TYPE_CHECKING:
    from typing import Any

    from avault.protocol import Message
    from avault.vault.records import Vault
    from avault.vault.store import Store


def show_machines(store: Store) -> Message:
    """The machines that the vault is on."""
    return {"ok": True, "machines": list_machines(store.vault, store.machine)}


def show_exposed(store: Store) -> Message:
    """What was removed or rotated, and the keys that are to be set anew since; no value."""
    marks = [describe_mark(mark) for mark in read_marks(store.vault)]
    return {"ok": True, "exposed": find_exposed(store.vault, time.time()), "marks": marks}


async def remove_machine(holding: Holding, message: Message) -> None:
    """Take a machine out of the vault, if the operator agrees; tell what came of it."""
    store, failed, row = holding.store, None, None
    try:
        if not store or not holding.log:
            raise Denied("only an open vault can be changed", "open it: avault unlock")
        row = find_machine(store.vault, store.machine, str(message["name"]))
        shown = row["host"] or row["id"]
        said = {"op": "machine", "for": f"remove {shown}"}
        holding.log.write(said, message["caller"], "ok")
        await ask_operator(holding, store, message, *describe_removal(store.vault, row))
        await holding.writer.change(store, forget_machine(store, row["id"], shown))
    except Exception as error:
        failed = explain_change(error)
    tell_of_change(holding, message, None if failed else row, failed)


def describe_removal(vault: Vault, row: dict[str, Any]) -> tuple[str, str]:
    """The title and the sentence by which the operator agrees that a machine goes."""
    key = f", client key {shorten_hex(row['client_key'])}" if row["client_key"] else ""
    shown, identity = printable(row["host"] or row["id"], HOST_LIMIT), printable(row["id"], 40)
    return (
        f"{vault.name} without the machine {shown}",
        f"avault: take the machine {shown} (id {identity}{key}) out of {vault.name}",
    )


def forget_machine(store: Store, identity: str, shown: str) -> Any:
    """The change that takes a machine's entry away, and leaves a mark."""

    def change(vault: Vault) -> None:
        now = int(time.time())
        vault.state(f"{KIND}/{identity}", None, now, store.machine)
        add_mark(vault, KIND, identity, shown, now, store.machine)

    return change
