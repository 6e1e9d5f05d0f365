"""Marks of what was removed or rotated, and which values that leaves to be set anew.

A mark is a fact, "revoked/WHAT/NAME". It has a digest of each value that was in the vault then:
a value that was known stays known, whatever is done with its key, and whatever clocks say.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from typing import TYPE_CHECKING

from avault.errors import printable
from avault.vault.machines import HOST_LIMIT, read_fact
from avault.vault.records import Vault
from avault.vault.secret import LATEST, Secret
from avault.vault.times import render_time

if TYPE_CHECKING:
    from typing import Any


def digest_value(salt: str, value: str) -> str:
    """What tells a value from others to whom has the mark's salt."""
    return hmac.digest(bytes.fromhex(salt), value.encode(), "sha256")[:8].hex()


def add_mark(vault: Vault, what: str, name: str, shown: str, now: int, machine: str) -> None:
    """Note that something (`what`: machine, agent, operator) is to open this vault no more.

    `shown` is how people call it. Where it was removed before, what was known then stays known.
    """
    before = vault.facts.get(f"revoked/{what}/{name}")
    known = read_mark(before[0]) if before else None
    salt = known["salt"] if known and known["salt"] else secrets.token_hex(16)
    values = [
        digest_value(salt, secret.value)
        for group in vault.groups.values()
        for found in group.keys.values()
        for secret in found
    ]
    values += known["values"] if known else []
    mark = {"what": what, "shown": shown, "at": now, "salt": salt, "values": sorted({*values})}
    vault.state(f"revoked/{what}/{name}", json.dumps(mark), now, machine)


def read_marks(vault: Vault) -> list[dict[str, Any]]:
    """All marks, the newest first."""
    facts = [name for name in vault.facts if name.startswith("revoked/")]
    found = [read_mark(each) for name in facts for each in vault.facts[name]]
    return sorted(found, key=lambda mark: -int(mark["at"]))


def read_mark(fact: Secret) -> dict[str, Any]:
    """A mark; of one that cannot be read, that something was removed when it was written."""
    mark = read_fact(fact.value)
    is_whole = [
        mark.get("what") in ("machine", "agent", "operator"),
        isinstance(mark.get("shown"), str),
        type(mark.get("at")) is int and abs(mark["at"]) <= LATEST,
        isinstance(mark.get("salt"), str) and re.fullmatch("[0-9a-f]{32}", mark["salt"]),
        isinstance(mark.get("values"), list)
        and all(isinstance(each, str) for each in mark["values"]),
    ]
    if all(is_whole):
        return {**mark, "shown": printable(mark["shown"], HOST_LIMIT)}
    return {"what": "mark", "shown": "?", "at": fact.updated, "salt": "", "values": []}


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
    done = {"agent": "replaced", "mark": "written"}.get(mark["what"], "removed")
    what = "agent's key" if mark["what"] == "agent" else mark["what"]
    return f"{what} {mark['shown']} {done} {render_time(mark['at'])}"
