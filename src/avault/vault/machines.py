"""The machines that a vault is on: one fact each, which the machine writes itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.errors import NotFound, Usage, printable
from avault.vault.formats import render_time
from avault.vault.records import Vault

if TYPE_CHECKING:
    from typing import Any


KIND = "machine"  # of the facts: "machine/ID", as ids are in generations


def render_machine(host: str, client_key: str) -> str:
    """What a machine says of itself: user and host, its pairing's public key (hex; "": none)."""
    return json.dumps({"host": host, "client_key": client_key})


def read_fact(text: str) -> dict[str, Any]:
    """What stands in a fact of avault's own; empty where it is none that we know."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def list_machines(vault: Vault, me: str) -> list[dict[str, Any]]:
    """Each machine that is known, or that has written, and was not removed; the first seen first.

    `me` is this one's id. What is not known of a machine is null.
    """
    known, removed = vault.facts_of(KIND), vault.facts_of("revoked")
    writers = [name for name in vault.generation if not name.endswith("-git")]
    silent = [each for each in writers if f"{KIND}/{each}" not in removed]
    rows = []
    for each in sorted({*known, *silent}):
        said = read_fact(known.get(each, "{}"))
        since = vault.facts[f"{KIND}/{each}"][0].created if each in known else None
        rows.append(
            {
                "id": each,
                "host": said.get("host"),
                "client_key": said.get("client_key") or None,
                "first_seen": None if since is None else render_time(since),
                "writes": vault.generation.get(each, 0),
                "this": each == me,
            }
        )
    return sorted(rows, key=lambda row: (row["first_seen"] or "", row["id"]))


def find_machine(vault: Vault, me: str, name: str) -> dict[str, Any]:
    """The one other machine of that host name or id; raises NotFound, Usage."""
    rows = list_machines(vault, me)
    found = [row for row in rows if name in (row["id"], row["host"])] or [
        row for row in rows if row["host"] and row["host"].partition("@")[2] == name
    ]
    if not found:
        raise NotFound(f"no machine {printable(name)}", "see which there are: avault machine list")
    if len(found) > 1:
        ids = ", ".join(row["id"] for row in found)
        raise Usage(f"{printable(name)} is more than one machine", f"name it by its id: {ids}")
    if found[0]["this"]:
        raise Usage("that is this machine", "to leave nothing of the vault here: avault forget")
    return found[0]
