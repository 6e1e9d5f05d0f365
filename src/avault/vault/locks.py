"""Secrets that are sealed for themselves: which locks are on them, and whom these are for.

A secret whose guard asks has a key pair of its own. Its value is sealed to the public key, by
whoever sets it. The secret key is in the vault too, sealed under an unlock key; and that is in an
envelope which only an operator's phone opens, for each operator one. It is from a key that is
thrown away: neither the agent's key nor all that lies on a machine opens it. This is the lock.

One lock is in the vault, as a fact `lock/ID`; it is opened by a machine that has none of its own.
Each machine has its own beside the vault, in locks.json, which is another one after each use, on
the same key pair: what the phone answered last opens nothing that is on the disk, nor in git. Of
two machines that have turned the vault's, either's opens. A merge takes none away, as a value that
it is on may come from either side.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from avault.errors import Tampered
from avault.vault.guards import Guards
from avault.vault.had import is_asked
from avault.vault.secret import SEAL_MARK, is_sealed

if TYPE_CHECKING:
    from typing import Any

    from avault.vault.records import Vault

    Lock = dict[str, Any]


def name_lock(public: str) -> str:
    """The fact that has the lock on what is sealed to a public key (hex)."""
    return f"lock/{public[:32]}"


def sealed_to(value: str) -> str:
    """To which public key (hex) a value is sealed; raises Tampered."""
    return str(read_payload(value)["to"])


def read_payload(value: str) -> dict[str, Any]:
    """The fields of a sealed value; raises Tampered."""
    try:
        found = json.loads(value.removeprefix(SEAL_MARK))
        texts = [found["to"], found["from"], *found["parts"], found.get("signs", "")]
        is_whole = is_sealed(value) and found.keys() - {"signs"} == {"to", "from", "parts"}
        if is_whole and all(isinstance(each, str) for each in texts):
            return dict(found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise Tampered("what is sealed for itself is damaged", "take it from git history")


def read_lock(text: str | None) -> Lock | None:
    """The lock of a fact; None where there is none, or none that can be used."""
    try:
        return check_lock(json.loads(text or "null"))
    except (ValueError, RecursionError):
        return None


def check_lock(found: Any) -> Lock | None:
    """`found` if it can be a lock, else None."""
    try:
        texts = [found[each] for each in ("place", "to", "opens", "sealed")]
        for public, (peer, envelope) in found["envelopes"].items():
            texts += [public, peer, envelope]
        return dict(found) if all(isinstance(each, str) for each in texts) else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def find_lock(vault: Vault, value: str) -> Lock:
    """The lock on a sealed value; raises Tampered."""
    if found := find_locks(vault, sealed_to(value), vault.operators()):
        return found[0]
    raise Tampered("what opens that secret is not in the vault", "get the latest, or set it anew")


def find_locks(vault: Vault, to: str, operators: list[str]) -> list[Lock]:
    """The locks on what is sealed to a public key (hex): first the one that counts.

    Two machines may each have made one. Of these it is the one that most of the operators open, so
    that nobody is shut out by who has not heard of him; then the one for nobody else; the later.
    """
    read = [read_lock(each.value) for each in vault.facts.get(name_lock(to), [])]
    found = [lock for lock in read if lock and lock["to"] == to]
    return sorted(found, key=lambda lock: (-count_open(lock, operators), len(lock["envelopes"])))


def count_open(lock: Lock, operators: list[str]) -> int:
    """How many of these operators' phones open a lock."""
    return len({*lock["envelopes"]} & {*operators})


def find_asked(vault: Vault, guards: Guards) -> list[str]:
    """The names of which the phone is asked: a guard says so, or they are sealed yet."""
    return [
        f"{group}/{key}"
        for group, each in sorted(vault.groups.items())
        for key, found in sorted(each.keys.items())
        if any(is_sealed(each.value) for each in found) or is_asked(guards, f"{group}/{key}")
    ]


def keep_lock(vault: Vault, lock: Lock, now: int, machine: str) -> None:
    """Have a lock in the vault, in place of the one that was on the same key pair.

    Not of one that more operators open: they have become some while the phone was asked.
    """
    text, operators = json.dumps(lock, sort_keys=True), vault.operators()
    opened = [count_open(each, operators) for each in find_locks(vault, lock["to"], operators)]
    is_better = max(opened, default=0) > count_open(lock, operators)
    if not is_better and vault.fact(name_lock(lock["to"])) != text:
        vault.state(name_lock(lock["to"]), text, now, machine)


def drop_locks(vault: Vault, places: set[str], now: int, machine: str) -> None:
    """Take away the locks that were made for these names, and that no value is sealed with."""
    used = used_locks(vault)
    for identity, text in vault.facts_of("lock").items():
        lock = read_lock(text)
        if lock and lock["place"] in places and lock["to"] not in used:
            vault.state(f"lock/{identity}", None, now, machine)


def used_locks(vault: Vault) -> dict[str, str]:
    """The names of the secrets that are sealed, by the public keys (hex) that it is to."""
    used = {}
    for group, each in vault.groups.items():
        for key, found in each.keys.items():
            for secret in filter(lambda one: is_sealed(one.value), found):
                with contextlib.suppress(Tampered):  # nothing opens what is damaged
                    used[sealed_to(secret.value)] = f"{group}/{key}"
    return used


def find_closed(vault: Vault, operators: list[str]) -> list[str]:
    """The names of sealed secrets that not one of these operators' phones opens."""
    closed = []
    for to, name in sorted(used_locks(vault).items(), key=lambda each: each[1]):
        if not any(count_open(lock, operators) for lock in find_locks(vault, to, operators)):
            closed.append(name)
    return closed


def adopt_locks(vault: Vault, copy: Vault, values: list[str], now: int, machine: str) -> None:
    """Have the locks of a copy on values that are taken from it, where there are none that open.

    Or where those of the copy are for more of the operators, if it is of the same agent: of one
    before, whoever got that key could have made it.
    """
    operators = vault.operators()
    for to in dict.fromkeys(sealed_to(value) for value in values if is_sealed(value)):
        ours, theirs = find_locks(vault, to, operators), find_locks(copy, to, operators)
        known = count_open(ours[0], operators) if ours else -1
        is_sure = copy.agent == vault.agent or not ours
        if theirs and is_sure and count_open(theirs[0], operators) > known:
            text = json.dumps(theirs[0], sort_keys=True)
            vault.state(name_lock(to), text, now, machine)
