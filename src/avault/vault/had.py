"""Values that a secret had in clear before it was sealed, as they are known again.

`had/ID` says which name had one, by a fingerprint under the vault's identity: who has not opened
the vault reads none. Who has could guess a short value by it; but only one that was in the vault in
clear. What is sealed before the keyholder sees it leaves none.
"""

from __future__ import annotations

import hmac
import json
import secrets
from typing import TYPE_CHECKING

from avault.vault.guards import Guards

if TYPE_CHECKING:
    from typing import Any

    AnyVault = Any  # of vault/records, which needs this room

TELLING = 8  # characters from which on a value is hardly another's by chance
MOST_HAD = 16  # of one name: the first, which nobody pushes out by later ones


def print_value(vault: AnyVault, value: str) -> str:
    """The fingerprint of a value in a vault."""
    return hmac.new(bytes.fromhex(vault.identity), value.encode(), "sha256").hexdigest()[:32]


def read_had(vault: AnyVault) -> dict[str, list[str]]:
    """The names that had a value, by its fingerprint."""
    found: dict[str, list[str]] = {}
    for text in sorted(vault.facts_of("had").values()):
        had = json.loads(text)
        found.setdefault(had["is"], []).append(had["on"])
    return found


def note_had(vault: AnyVault, name: str, value: str, now: int, machine: str) -> None:
    """Note that GROUP/KEY has a value in clear, which is about to be sealed."""
    if len(value) < TELLING:
        return
    text = json.dumps({"on": name, "is": print_value(vault, value)}, sort_keys=True)
    known = [each for each in vault.facts_of("had").values() if json.loads(each)["on"] == name]
    if text not in known and len(known) < MOST_HAD:
        vault.state(f"had/{secrets.token_hex(8)}", text, now, machine)


def mark_had(vault: AnyVault) -> dict[str, int]:
    """What is known of values of which the phone is asked no more: ids, and counts."""
    guards, marks = Guards(vault.facts), dict[str, int]()
    for identity, text in vault.facts_of("had").items():
        if not is_asked(guards, json.loads(text)["on"]):
            marks[identity] = vault.facts[f"had/{identity}"][0].count
    return marks


def is_asked(guards: Guards, name: str) -> bool:
    """Whether the phone is asked for uses of GROUP/KEY."""
    return guards.rules_of(guards.of(name)).ask is not None
