"""The machines that a vault is on: one fact each, which the machine writes itself."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from avault.errors import NotFound, Usage, printable
from avault.vault.records import Vault
from avault.vault.times import render_time

if TYPE_CHECKING:
    from typing import Any


KIND = "machine"  # of the facts: "machine/ID", as ids are in generations
HOST_LIMIT = 97  # characters of USER@HOST, see place_name


def render_machine(host: str, client_key: str) -> str:
    """What a machine says of itself: user and host, its pairing's public key (hex; "": none)."""
    return json.dumps({"host": host, "client_key": client_key})


def read_fact(text: str) -> dict[str, Any]:
    """What stands in a fact of avault's own; empty where it is none that we know."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_machine(text: str) -> dict[str, Any]:
    """What a machine says of itself, as people may be shown it; null for what is of no use."""
    said = read_fact(text)
    host, key = said.get("host"), said.get("client_key")
    is_key = isinstance(key, str) and re.fullmatch("[0-9a-f]{64}", key)
    return {
        "host": printable(host, HOST_LIMIT) if isinstance(host, str) and host else None,
        "client_key": key if is_key else None,
    }


def knows_phone(vault: Vault) -> bool:
    """Whether any machine that the vault is on asks a phone."""
    return any(read_machine(text)["client_key"] for text in vault.facts_of(KIND).values())


def list_machines(vault: Vault, me: str) -> list[dict[str, Any]]:
    """Each machine that is known, or that has written, and was not removed; the first seen first.

    `me` is this one's id. What is not known of a machine is null.
    """
    known, removed = vault.facts_of(KIND), vault.facts_of("revoked")
    writers = [name for name in vault.generation if not name.endswith("-git")]
    silent = [each for each in writers if f"{KIND}/{each}" not in removed]
    rows = []
    for each in sorted({*known, *silent}):
        since = vault.facts[f"{KIND}/{each}"][0].created if each in known else None
        rows.append(
            {
                "id": each,
                **read_machine(known.get(each, "{}")),
                "first_seen": None if since is None else render_time(since),
                "writes": vault.generation.get(each, 0),
                "this": each == me,
            }
        )
    return sorted(rows, key=lambda row: (row["first_seen"] or "", row["id"]))


def find_machine(vault: Vault, me: str, name: str) -> dict[str, Any]:
    """The one other machine of that host name or id; raises NotFound, Usage."""
    rows = list_machines(vault, me)
    found = (
        [row for row in rows if row["id"] == name]
        or [row for row in rows if row["host"] == name]
        or [row for row in rows if row["host"] and row["host"].partition("@")[2] == name]
    )
    if not found:
        raise NotFound(f"no machine {printable(name)}", "see which there are: avault machine list")
    if len(found) > 1:
        ids = printable(", ".join(row["id"] for row in found))
        raise Usage(f"{printable(name)} is more than one machine", f"name it by its id: {ids}")
    if found[0]["this"]:
        raise Usage("that is this machine", "to leave nothing of the vault here: avault forget")
    return found[0]
