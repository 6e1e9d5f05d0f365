"""What a client may look at in an open vault: names, times and hashes. Never a value."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.daemon.changes import read_copy
from avault.daemon.wire import Session
from avault.keys.keyholder import Keyholder
from avault.vault.choosing import check_names, choose_keys
from avault.vault.formats import describe_vault, render_list
from avault.vault.names import check_group, check_key
from avault.vault.older import open_older
from avault.vault.recovery import verify_recovery

if TYPE_CHECKING:
    from avault.keys.keyholder import Answer
    from avault.protocol import Message


def serve_has(keyholder: Keyholder, session: Session, request: Message) -> Answer:
    """Whether a group or key is there."""
    groups = keyholder.see(session).groups
    group, key = check_group(request.get("group")), request.get("key")
    return {
        "ok": True,
        "has": group in groups and (key is None or check_key(key) in groups[group].keys),
    }


def serve_list(keyholder: Keyholder, session: Session, request: Message) -> Answer:
    """What there is; names, never values."""
    vault, form, wanted = (
        keyholder.see(session),
        request.get("format"),
        check_names(request, "groups"),
    )
    rows = choose_keys(vault, wanted, [])
    if form == "names":
        return {"ok": True, "output": "".join(f"{group}/{key}\n" for group, key, _ in rows)}
    groups = describe_vault(vault, wanted)
    if form == "text":
        return {"ok": True, "output": render_list(groups)}
    if form == "json":
        return {
            "ok": True,
            "output": json.dumps({"groups": groups}, indent=2, ensure_ascii=False) + "\n",
        }
    return {"ok": True, "groups": groups}


def serve_verify_log(keyholder: Keyholder, session: Session, request: Message) -> Answer:
    """Whether the access log is what was written to it."""
    return {"ok": True, **(keyholder.holding.log.verify() if keyholder.holding.log else {})}


async def serve_verify(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """The hashes of the vault's files that this daemon vouches for.

    Or, for a copy of nsec.enc, whether that opens.
    """
    store = keyholder.open_store()
    if (name := request.get("file")) is not None:
        verify_recovery(read_copy(keyholder, name), store.keys, store.vault)
        return {"ok": True}
    await keyholder.holding.verify_recovery()
    return {
        "ok": True,
        "verified": {"avault.enc": store.digest, "nsec.enc": keyholder.holding.recovery.digest},
    }


def serve_inspect(keyholder: Keyholder, session: Session, request: Message) -> Answer:
    """What is in a copy of the vault, of any generation: names and times, never values.

    One of an agent's key before is told only to who asks for `older` ones.
    """
    store, data = keyholder.open_store(), read_copy(keyholder, request.get("file"))
    vault = open_older(store, data) if request.get("older") else store.open_copy(data)
    groups = describe_vault(vault)
    for group in groups:
        for key in group["keys"]:
            found = vault.groups[group["name"]].keys[key["name"]]
            key["version"] = ",".join(f"{secret.machine}.{secret.count}" for secret in found)
    return {"ok": True, "groups": groups, "generation": vault.generation}
