"""What changes the guards of a vault. None of it is undone by a copy that has not heard of it."""

from __future__ import annotations

import itertools
import json
import secrets
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Usage
from avault.places import sha256
from avault.vault.guards import (
    Guard,
    Guards,
    carrying_moves,
    is_kept,
    join_facts,
    only_additions,
    without_removals,
)
from avault.vault.had import TELLING, is_asked, mark_had, print_value, read_had
from avault.vault.secret import Secret

if TYPE_CHECKING:
    from typing import Any

    from avault.vault.had import AnyVault

GUARDS_TOGETHER = 64  # guards that may count for one name
IN_ALL = 1_000  # guards, and moves that carry some
WORDS = 400  # characters that the rules of one name may have: the phone has to show them
NAMES_TOGETHER = 600  # and those of the names that are one with it


def say_facts(
    vault: AnyVault,
    kind: str,
    wanted: list[list[str]],
    now: int,
    machine: str,
    since: int | None = None,
) -> None:
    """Of each of these, note the first, or say again what this machine has said already.

    As what is said again is later, nobody takes it away who has not heard of that. It is there
    `since` a time, where it takes the place of what was.
    """
    said = {
        found[0].value: name
        for name, found in vault.facts.items()
        if name.startswith(f"{kind}/") and found[0].machine == machine
    }
    for texts in wanted:
        text = next((each for each in texts if each in said), texts[0])
        name = said.setdefault(text, f"{kind}/{secrets.token_hex(8)}")
        vault.state(name, text, now, machine)
        vault.facts[name][0].created = min(vault.facts[name][0].created, since or now)


def add_guard(
    vault: AnyVault,
    on: str,
    fields: dict[str, Any],
    now: int,
    machine: str,
    since: int | None = None,
) -> None:
    """Put a guard on a group or a key; `fields` are as `check_rules` gives them.

    Each field is a guard by itself: where one is taken away, the others are what they were. It
    counts as old as what it takes the place of: `since`.
    """
    texts = [json.dumps({"on": on, name: value}, sort_keys=True) for name, value in fields.items()]
    say_facts(vault, "guard", [[text] for text in texts], now, machine, since)


def copy_guard(vault: AnyVault, old: str, new: str, now: int, machine: str) -> None:
    """Have a group guarded as another one is."""
    found = [json.loads(text) for text in vault.facts_of("guard").values()]
    copied = [{**fields, "on": new} for fields in found if fields["on"] == old]
    texts = [[json.dumps(fields, sort_keys=True)] for fields in copied]
    say_facts(vault, "guard", texts, now, machine)


def note_moves(vault: AnyVault, moves: list[tuple[str, str]], now: int, machine: str) -> None:
    """Have the guards on either name count for both, also what another machine sets meanwhile.

    What nothing guards begins anew where it had many names before: else a guard that is to come
    were for more of them than a phone shows.
    """
    guards, marks = Guards(vault.facts), dict[str, int]()
    for name in dict.fromkeys(itertools.chain(*moves)):
        names = guards.names_of(name)
        if len(", ".join(names)) > NAMES_TOGETHER // 2 and not guards.of(name):
            marks |= guards.marks_of_links(names)
    if marks:
        remove_marks(vault, marks, now, machine)
    wanted = [
        [json.dumps({"from": one, "to": other}) for one, other in ((old, new), (new, old))]
        for old, new in moves
    ]
    say_facts(vault, "moved", wanted, now, machine)


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
    if marks := mark_had(vault):
        remove_marks(vault, marks, now, machine)
    note_moves(vault, list(itertools.pairwise(others)), now, machine)


def adopt_guards(vault: AnyVault, copy: AnyVault, names: list[str], now: int, machine: str) -> None:
    """Have what guards these names in a copy of the vault that a value is taken from.

    Its removals are not taken: what it knew to be gone may be back. What was taken away here stays
    so, but for the names which a value had: it may be the one that was guarded under another. So it
    is where it equals what is guarded here, or what the phone is asked of and had that value in
    clear, as far as is known here or seen in the copy; by what does not count for it yet. What a
    copy has in clear that knew of that value stays as it was: else a guess, which any program sets,
    would show by its guard that it is right.
    """
    is_sure = copy.agent == vault.agent
    found = without_removals(copy.facts)
    theirs = found if is_sure else only_additions(vault.facts, found, now)
    vault.facts |= join_facts(vault.facts, theirs)
    here, there = Guards(vault.facts), Guards(copy.facts)
    guarded, moves = guarded_values(vault, here, copy), list[tuple[str, str]]()
    had, known_there = read_had(vault), read_had(copy)
    for name in names:
        one, known = {*here.names_of(name)}, {*here.of(name)}
        for other in there.names_of(name):
            if other not in one:
                moves.append((name, other))
                one |= {*here.names_of(other)}
                known |= {*here.of(other)}
        for value in values_of(copy, name):
            printed = print_value(vault, value)
            known_as = [] if printed in known_there else had.get(printed, [])
            told = [(frozenset(here.of(other)), other) for other in known_as]
            for by, other in (*guarded.get(value, {}).items(), *told):
                if not known >= by:
                    moves.append((name, other))
                    known |= by
    note_moves(vault, moves, now, machine)


def values_of(vault: AnyVault, name: str) -> set[str]:
    """The values that are under a name; none where there is no such name."""
    group, _, key = name.partition("/")
    there = vault.groups[group].keys.get(key, []) if group in vault.groups else []
    return {secret.value for secret in there}


def guarded_values(
    vault: AnyVault, guards: Guards, copy: AnyVault
) -> dict[str, dict[frozenset[Guard], str]]:
    """What is guarded: for each value that tells of something, by what, and a name that has it.

    And of what the phone is asked of, what it was in a copy.
    """
    found: dict[str, dict[frozenset[Guard], str]] = {}
    for one in (vault, copy):
        for group, each in one.groups.items() if guards.guards else ():
            for name in (f"{group}/{key}" for key in each.keys):
                by = frozenset(guards.of(name))
                counts = by and (one is vault or is_asked(guards, name))
                for value in values_of(one, name) if counts else ():
                    if len(value) >= TELLING:
                        found.setdefault(value, {}).setdefault(by, name)
    return found


def link_known(vault: AnyVault, *sides: AnyVault) -> None:
    """Have values in clear guarded as those which the phone is asked of and had them before.

    Of a vault that was merged of two sides, what is new to who knows of that value; the same
    whichever is which. What such a side has in clear under that name stays so: the operator has
    parted it, or somebody has set it who knew it.
    """
    if not (had := read_had(vault)):
        return
    knowing = [(side, read_had(side)) for side in sides]
    guards = Guards(vault.facts)
    links: dict[str, list[Any]] = {}
    for group, each in vault.groups.items():
        for key, found in each.keys.items():
            name = f"{group}/{key}"
            for secret in found:
                printed, value = print_value(vault, secret.value), secret.value
                if any(
                    printed in known and value in values_of(side, name) for side, known in knowing
                ):
                    continue
                for other in had.get(printed, []):
                    if not {*guards.of(name)} >= {*guards.of(other)}:
                        text = json.dumps({"from": other, "to": name})
                        identity = sha256(f"{vault.identity} {text}".encode()).hex()[:16]
                        dot = secret.updated, secret.updated, secret.machine, secret.count
                        links[f"moved/{identity}"] = [Secret(text, *dot)]
    if links:
        others = {name: found for name, found in vault.facts.items() if not is_kept(name)}
        vault.facts = dict(sorted({**others, **join_facts(vault.facts, links)}.items()))


def count_use(vault: AnyVault, identity: str, now: int, machine: str) -> None:
    """Count a use of what a guard counts, if that is still there."""
    if f"guard/{identity}" in vault.facts:
        name = f"used/{identity}/{machine}"
        vault.state(name, str(int(vault.fact(name) or 0) + 1), now, machine)


def refuse_more(before: Guards, vault: AnyVault, places: list[str]) -> None:
    """Raise AvaultError where too many guards come together for these, or are there in all.

    Of a group, for all names in it, also those that are not in the vault. What was more before, as
    by a merge, may stay so.
    """
    after = Guards(vault.facts)
    seen: set[str] = set()
    for name in names_in(vault, after, places) if after.guards else ():
        if name not in seen:
            seen |= {*after.names_of(name)}
            refuse_more_for(before, after, name)
    if count_all(after) > IN_ALL and count_all(after) > count_all(before):
        raise AvaultError(
            f"this vault would have more than {IN_ALL} guards, or moves that carry some",
            "see them with: avault guard; and part names with: avault unguard",
        )


def names_in(vault: AnyVault, guards: Guards, places: list[str]) -> list[str]:
    """These places, and what is in those that are groups: keys, and names of them before."""
    groups = {each for each in places if "/" not in each}
    keys = [
        f"{group}/{key}" for group in groups & {*vault.groups} for key in vault.groups[group].keys
    ]
    known = [each for each in (*guards.links, *guards.guards) if "/" in each]
    return [*places, *keys, *(each for each in known if each.partition("/")[0] in groups)]


def refuse_more_for(before: Guards, after: Guards, name: str) -> None:
    """Raise AvaultError where more comes together for a name than may, and than did."""
    names, found = after.names_of(name), after.of(name)
    if len(found) > max(GUARDS_TOGETHER, *(len(before.of(each)) for each in names)):
        raise AvaultError(
            f"more than {GUARDS_TOGETHER} guards would count for {name}",
            "see them with: avault guard; and part names with: avault unguard",
        )
    many = len(", ".join(names))
    if found and many > max(
        NAMES_TOGETHER, *(len(", ".join(before.names_of(each))) for each in names)
    ):
        raise Usage(
            f"{name} would be guarded as one with more names than a phone shows",
            "part one from the others: avault unguard",
        )
    length = len(str(after.rules_of(found)))
    if length > WORDS and length > max(len(str(before.rules_of(before.of(n)))) for n in names):
        raise Usage(
            f"the rules for {name} would be more than a phone shows",
            "name fewer hosts and paths, perhaps with * in them",
        )


def count_all(guards: Guards) -> int:
    """How many guards there are, or moves that carry some, if these are more."""
    return max(len(carrying_moves(guards)), sum(map(len, guards.guards.values())))
