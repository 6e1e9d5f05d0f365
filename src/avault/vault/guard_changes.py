"""What changes the guards of a vault. None of it is undone by a copy that has not heard of it."""

from __future__ import annotations

import itertools
import json
import secrets
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Usage
from avault.vault.guards import Guards, is_kept, join_facts, without_removals

if TYPE_CHECKING:
    from typing import Any

    AnyVault = Any  # of vault/records, which needs this room

GUARDS_TOGETHER = 64  # guards that may count for one name
IN_ALL = 1_000  # guards, and moves that carry some
WORDS = 400  # characters that the rules of one name may have: the phone has to show them


def say_fact(vault: AnyVault, kind: str, texts: list[str], now: int, machine: str) -> None:
    """Note the first of these, or say again what this machine has said already, of one of them.

    As what is said again is later, nobody takes it away who has not heard of that.
    """
    for name, found in vault.facts.items():
        is_ours = name.startswith(f"{kind}/") and found[0].machine == machine
        if is_ours and found[0].value in texts:
            vault.state(name, found[0].value, now, machine)
            return
    vault.state(f"{kind}/{secrets.token_hex(8)}", texts[0], now, machine)


def add_guard(vault: AnyVault, on: str, fields: dict[str, Any], now: int, machine: str) -> None:
    """Put a guard on a group or a key; `fields` are as `check_rules` gives them.

    Each field is a guard by itself: where one is taken away, the others are what they were.
    """
    for name, value in fields.items():
        text = json.dumps({"on": on, name: value}, sort_keys=True)
        say_fact(vault, "guard", [text], now, machine)


def copy_guard(vault: AnyVault, old: str, new: str, now: int, machine: str) -> None:
    """Have a group guarded as another one is."""
    for name in [each for each in vault.facts if each.startswith("guard/")]:
        fields = json.loads(vault.fact(name))
        if fields["on"] == old:
            text = json.dumps({**fields, "on": new}, sort_keys=True)
            say_fact(vault, "guard", [text], now, machine)


def note_move(vault: AnyVault, old: str, new: str, now: int, machine: str) -> None:
    """Have the guards on either name count for both, also what another machine sets meanwhile."""
    texts = [json.dumps({"from": one, "to": other}) for one, other in ((old, new), (new, old))]
    say_fact(vault, "moved", texts, now, machine)


def remove_marks(vault: AnyVault, marks: dict[str, int], now: int, machine: str) -> None:
    """Take guards and moves away, as the operator agreed; what is not among them stays.

    `marks` are ids, each with the count up to which it is meant.
    """
    for identity, count in marks.items():
        vault.state(f"unguarded/{identity}", str(count), now, machine)
    others = {name: found for name, found in vault.facts.items() if not is_kept(name)}
    vault.facts = {**others, **join_facts(vault.facts, {})}


def take_off(vault: AnyVault, place: str, now: int, machine: str) -> None:
    """Take all guards off a place, and part it from the names that it is one with.

    Those stay one with each other.
    """
    guards = Guards(vault.facts)
    others = guards.neighbours(place)
    remove_marks(vault, guards.marks_of(place), now, machine)
    for one, other in itertools.pairwise(others):
        note_move(vault, one, other, now, machine)


def adopt_guards(vault: AnyVault, copy: AnyVault, names: list[str], now: int, machine: str) -> None:
    """Have what guards these names in a copy of the vault that a value is taken from.

    Its removals are not taken: what it knew to be gone may be back. What was taken away here stays
    so, but for the names which a value had: it may be the one that was guarded under another.
    """
    vault.facts |= join_facts(vault.facts, without_removals(copy.facts))
    here, there = Guards(vault.facts), Guards(copy.facts)
    for name in names:
        for other in {*there.names_of(name)} - {*here.names_of(name)}:
            note_move(vault, name, other, now, machine)


def count_use(vault: AnyVault, identity: str, now: int, machine: str) -> None:
    """Count a use of what a guard counts, if that is still there."""
    if f"guard/{identity}" in vault.facts:
        name = f"used/{identity}/{machine}"
        vault.state(name, str(int(vault.fact(name) or 0) + 1), now, machine)


def refuse_more(vault: AnyVault, names: list[str]) -> None:
    """Raise AvaultError where too many guards come together for these names."""
    guards = Guards(vault.facts)
    for name in names:
        found = guards.of(name)
        if len(found) > GUARDS_TOGETHER:
            raise AvaultError(
                f"more than {GUARDS_TOGETHER} guards would count for {name}",
                "see them with: avault guard; and part names with: avault unguard",
            )
        if len(str(guards.rules_of(found))) > WORDS:
            raise Usage(
                f"the rules for {name} would be more than a phone shows",
                "name fewer hosts and paths, perhaps with * in them",
            )
    carried = {each for name in guards.links if guards.of(name) for each, _ in guards.links[name]}
    if max(len(carried), sum(map(len, guards.guards.values()))) > IN_ALL:
        raise AvaultError(
            f"this vault would have more than {IN_ALL} guards, or moves that carry some",
            "see them with: avault guard; and part names with: avault unguard",
        )
