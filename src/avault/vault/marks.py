"""Marks of what was removed or rotated, and which values that leaves to be set anew.

A mark is a fact, "revoked/WHAT/NAME". It has a digest of each value that was in the vault then:
a value that was known stays known, whatever is done with its key, and whatever clocks say.
"""

from __future__ import annotations

import hmac
import json
import secrets
from typing import TYPE_CHECKING

from avault.vault.formats import render_time
from avault.vault.machines import read_fact
from avault.vault.records import Vault

if TYPE_CHECKING:
    from typing import Any


def digest_value(salt: str, value: str) -> str:
    """What tells a value from others to whom has the mark's salt."""
    return hmac.digest(bytes.fromhex(salt), value.encode(), "sha256")[:8].hex()


def add_mark(vault: Vault, what: str, name: str, shown: str, now: int, machine: str) -> None:
    """Note that something (`what`: machine, agent, operator) is to open this vault no more.

    `shown` is how people call it.
    """
    salt = secrets.token_hex(16)
    values = [
        digest_value(salt, secret.value)
        for group in vault.groups.values()
        for found in group.keys.values()
        for secret in found
    ]
    mark = {"what": what, "shown": shown, "at": now, "salt": salt, "values": sorted({*values})}
    vault.state(f"revoked/{what}/{name}", json.dumps(mark), now, machine)


def read_marks(vault: Vault) -> list[dict[str, Any]]:
    """All marks, the newest first."""
    found = [read_fact(text) for text in vault.facts_of("revoked").values()]
    return sorted((mark for mark in found if "at" in mark), key=lambda mark: -int(mark["at"]))


def find_exposed(vault: Vault, now: float) -> list[dict[str, Any]]:
    """Each key whose value somebody may have who was removed since, with why; no value.

    That is one that was set before the newest mark, or that was in the vault at any.
    """
    marks = [(mark, {*mark["values"]}) for mark in read_marks(vault)]
    rows = []
    for group, each in sorted(vault.groups.items()):
        for key, found in sorted(each.keys.items()):
            mark = next(
                (
                    mark
                    for mark, values in marks
                    for secret in found
                    if secret.updated < mark["at"]
                    or digest_value(mark["salt"], secret.value) in values
                ),
                None,
            )
            if mark:
                rows.append(
                    {
                        "group": group,
                        "key": key,
                        "set": render_time(found[0].updated),
                        "age": max(int(now) - found[0].updated, 0),
                        "why": describe_mark(mark),
                    }
                )
    return rows


def describe_mark(mark: dict[str, Any]) -> str:
    """Why a value is to be set anew, for people."""
    done = {"machine": "removed", "agent": "replaced", "operator": "replaced"}
    what = "agent's key" if mark["what"] == "agent" else mark["what"]
    return f"{what} {mark['shown']} {done[mark['what']]} {render_time(mark['at'])}"
