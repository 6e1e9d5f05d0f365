"""Copies of the vault that lie here under a key before the agent's: what only they have.

They are what this machine could not write before the key was rotated, and what git had put in the
place of avault.enc while that was cut off. Whoever got the old key could have made one: so what is
in them is told, and taken over only where a person says so.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Unavailable, printable
from avault.vault.files import VAULT_LIMIT, read_file
from avault.vault.guard_changes import adopt_guards, values_of
from avault.vault.locks import adopt_locks
from avault.vault.older import open_older
from avault.vault.records import Vault
from avault.vault.secret import Secret, arrange

if TYPE_CHECKING:
    from avault.vault.store import Store


RANKS = 16  # values of one key that are taken from a copy: no more machines set it at once
BEGINNINGS = ("unsaved-before", "replaced")  # how their names begin


def find_left(store: Store) -> dict[str, Vault | None]:
    """The copies by their names; None for one that no key of the vault opens."""
    found: dict[str, Vault | None] = {}
    for name in sorted(os.listdir(store.places.state)):
        if name.startswith(BEGINNINGS) and name.endswith(".enc"):
            try:
                data = read_file(store.places.own(name), VAULT_LIMIT)
                found[name] = open_older(store, data)
            except AvaultError:
                found[name] = None
    return found


def describe_left(store: Store) -> str:
    """What of them the open vault never had, or what does not open; "" for nothing."""
    try:
        copies = find_left(store)
    except OSError as error:
        return f"what else lies in {store.places.state} cannot be read: {error.strerror}"
    if not copies:
        return ""
    names = [name for copy in copies.values() if copy for name in find_missing(store.vault, copy)]
    said = []
    if names:
        shown = printable(", ".join(dict.fromkeys(names)), 200)
        said.append(
            f"written here before, and not in the vault: {shown};"
            " if that was you, take it over with: avault restore --unsaved"
        )
    if closed := [name for name, copy in copies.items() if not copy]:
        said.append(f"{', '.join(closed)} does not open with any key that the vault knows")
    return "; ".join(said)


def find_missing(vault: Vault, old: Vault) -> list[str]:
    """The keys of which an older copy has a value that the vault never had."""
    return [
        f"{name}/{key}"
        for name, its in sorted(old.groups.items())
        for key, each in sorted(its.keys.items())
        if lacks_any(vault, each, values_of(vault, f"{name}/{key}"))
    ]


def lacks_any(vault: Vault, found: list[Secret], values: set[str]) -> bool:
    """Whether the vault never had one of these, and has not what it says under that name either."""
    return any(not vault.knows(e.machine, e.count) and e.value not in values for e in found)


def count_ranks(old: Vault) -> int:
    """How many values of a key are taken from a copy: more than one where it is in conflict.

    There is an end to them, as who has a key that was rotated away makes as many as he likes.
    """
    found = (len(each) for its in old.groups.values() for each in its.keys.values())
    return min(max(found, default=0), RANKS)


def recall(draft: Vault, old: Vault, rank: int, now: int, machine: str) -> list[str]:
    """Have a draft of the next generation have what an older copy has, and it never had.

    Nothing is deleted by it, no fact is believed but guards and locks, and no count. What was set
    on both sides is in conflict. A write has one dot for each key, so it takes one value of each:
    that of a `rank`, the first being 0. The names of the keys are given. Raises Unavailable where
    such a write sets one of them too.
    """
    taken = []
    found = [
        (name, key, each[rank])
        for name, its in sorted(old.groups.items())
        for key, each in sorted(its.keys.items())
        if rank < len(each)
    ]
    for group, key, secret in found:
        ours = draft.groups[group].keys.get(key, []) if group in draft.groups else []
        is_known = draft.knows(secret.machine, secret.count)
        if is_known or any(each.value == secret.value for each in ours):
            continue
        if any(each.machine == machine and not draft.knows(machine, each.count) for each in ours):
            raise Unavailable(f"{group}/{key} is being set this very moment", "try it again")
        its = {each.value for each in old.groups[group].keys[key]}
        # who has a key that was rotated away says of a copy what he likes
        is_sure = old.agent == draft.agent
        others = [
            each
            for each in ours
            if not (is_sure and old.knows(each.machine, each.count)) or each.value in its
        ]
        draft.put(group, key, secret.value, now, machine)
        keys = draft.groups[group].keys
        keys[key] = arrange([*keys[key], *others])
        taken.append(f"{group}/{key}")
    adopt_guards(draft, old, taken, now, machine)
    adopt_locks(draft, old, [secret.value for _, _, secret in found], now, machine)
    return taken
