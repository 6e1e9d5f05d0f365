"""What becomes of guards where less is asked for, and the words by which a person agrees to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, NotFound, Usage
from avault.vault.guard_changes import add_guard, remove_marks, take_off
from avault.vault.guards import Guards
from avault.vault.names import check_group, check_key
from avault.vault.records import Vault
from avault.vault.rules import NUMBERS, SETS, Rules

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.protocol import Message


def read_place(request: Message) -> str:
    """The group or key that a request is about, as GROUP or GROUP/KEY; raises Usage."""
    group, key = check_group(request.get("group")), request.get("key")
    return group if key is None else f"{group}/{check_key(key)}"


def describe_guard(guards: Guards, place: str) -> dict[str, Any]:
    """What counts for a place: in words, as fields, and where it comes from."""
    found = guards.of(place)
    rules = guards.rules_of(found)
    by = sorted({each.on for each in found})
    return {"name": place, "words": str(rules), **rules.to_dict(), "by": by}


class GuardChange:
    """What becomes of the guard on a place where fields of it are given, or all is taken away.

    `marks` are those that are to go, `added` the fields of those that come, and `weakens` whether
    the operator has to agree to that.
    """

    def __init__(self, vault: Vault, place: str, given: dict[str, Any] | None) -> None:
        guards = Guards(vault.facts)
        own, self.place, self.given = guards.guards.get(place, []), place, given
        self.marks: dict[str, int] = {}
        self.added: list[dict[str, Any]] = []
        if given is None:
            self.marks, self.weakens = guards.marks_of(place), True
            return
        gone = {*given, *(SETS[1:] if "proxy" not in given.get("only", ["proxy"]) else ())}
        touched = [each for each in own if each.rules.is_known and names_any(each.rules, gone)]
        rest = [keep_fields(guards.left(each), gone) for each in touched]
        wanted = guards.rules_of([each for each in own if each not in touched])
        for fields in (given, *rest):
            wanted = wanted & Rules(**fields)
        self.weakens, self.added = not wanted.asks_at_least(guards.rules_of(own)), [given]
        if self.weakens:
            self.marks = {each.identity: guards.counts[each.identity] for each in touched}
            self.added = [fields for fields in (*rest, given) if fields]

    def make(self, machine: str) -> Callable[[Vault], None]:
        """The change of the vault. What came meanwhile stays."""

        def change(vault: Vault) -> None:
            now = int(time.time())
            if self.given is None:
                take_off(vault, self.place, now, machine)
            else:
                remove_marks(vault, self.marks, now, machine)
            for fields in self.added:
                add_guard(vault, self.place, fields, now, machine)

        return change


def names_any(rules: Rules, fields: set[str]) -> bool:
    """Whether rules ask something in one of these fields."""
    return any(getattr(rules, name) not in (None, []) for name in fields)


def keep_fields(rules: Rules, gone: set[str]) -> dict[str, Any]:
    """The fields of a guard, as they are kept, but for some."""
    fields: dict[str, Any] = {name: getattr(rules, name) for name in NUMBERS}
    for name in SETS:
        fields[name] = next((sorted(each) for each in getattr(rules, name)), None)
    return {name: value for name, value in fields.items() if value is not None and name not in gone}


class Plan:
    """A change of a guard on the vault as it is: what is written, and the words to agree to.

    `said` is "" where nobody has to agree. Raises NotFound, AvaultError where there is nothing to
    take away, and Usage where it is more than a phone shows.
    """

    def __init__(
        self, vault: Vault, machine: str, place: str, given: dict[str, Any] | None
    ) -> None:
        self.change = GuardChange(vault, place, given)
        guards = Guards(vault.facts)
        if given is None and not guards.guards.get(place):
            refuse_without(guards, place)
        after = vault.copy()
        self.write = self.change.make(machine)
        self.write(after)
        self.said = describe_loosening(vault, after, place) if self.change.weakens else ""

    def check(self, agreed: Plan) -> None:
        """Raise Denied where that is not what was agreed to: something came in between."""
        if (self.said, self.change.marks) != (agreed.said, agreed.change.marks):
            raise Denied("the guards have changed meanwhile; nothing was changed", "ask again")


def refuse_without(guards: Guards, place: str) -> None:
    """Raise why nothing can be taken off a place that has no guard of its own.

    What is guarded by a name that it had can be parted from that.
    """
    found = guards.of(place)
    if not found:
        raise NotFound(f"there is no guard on {place}", "see which there are: avault guard")
    if not guards.neighbours(place):
        others = sorted({each.on for each in found})
        raise AvaultError(
            f"{place} is guarded as {' and '.join(others)} is",
            f"take that away: avault unguard {others[0]}",
        )


SENTENCE = 1200  # characters that a phone shows
SHOWN = 4  # names of a secret that are shown, besides those that carry a guard


def describe_loosening(before: Vault, after: Vault, place: str) -> str:
    """The words by which a person agrees: exactly what becomes possible, of what, and what was.

    Raises Usage where that is more than a phone shows.
    """
    old, new = Guards(before.facts), Guards(after.facts)
    names = {f"{group}/{key}" for group, each in before.groups.items() for key in each.keys}
    steps: dict[tuple[str, str], list[str]] = {}
    for name in sorted({*names, *old.links, place}):
        was, to_be = old.rules_of(old.of(name)), new.rules_of(new.of(name))
        if not to_be.asks_at_least(was):
            shown = str(to_be) if new.of(name) else "anything, by any program here"
            steps.setdefault((shown, was.describe(SHOWN)), []).append(name)
    said = [
        f"{name_secrets(old, new, place, found, names)} may be used by: {shown} (until now: {was})"
        for (shown, was), found in steps.items()
    ]
    sentence = f"in {before.name}, from now on {'; and '.join(said)}"
    if len(sentence) > SENTENCE:
        raise Usage("that is more than a phone shows", "with fewer rules; or take guards off first")
    return sentence


def name_secrets(old: Guards, new: Guards, place: str, found: list[str], there: set[str]) -> str:
    """Which secrets something becomes possible with: by the names that they have, or had.

    The name that was asked for is first; then all that carry a guard which is lost.
    """
    inner = [name for name in found if name.startswith(f"{place}/")]
    shown = [name for name in found if name not in inner]
    if place in shown and "/" not in place:
        count = len([name for name in inner if name in there])
        shown.remove(place)
        shown.insert(0, f"all in {place} ({count} now, and later ones)")
    else:
        shown = sorted({*shown, *inner}, key=lambda name: (name != place, name))
    others = [each for name in found for each in old.names_of(name) if each not in found]
    lost = {on for name in found for on in lost_places(old, new, name)}
    text = join_names(shown, lost)
    if others:
        text += f", which is or was {join_names(sorted({*others}), lost)},"
    return text


def lost_places(old: Guards, new: Guards, name: str) -> set[str]:
    """The places whose guards count for a name no more."""
    still = {each.identity for each in new.of(name)}
    return {each.on for each in old.of(name) if each.identity not in still}


def join_names(names: list[str], needed: set[str]) -> str:
    """Names in words: the first, and those on which, or on whose group, is what is needed.

    Of the others no more than a few, and how many there are.
    """
    first = [n for n in names[1:] if n in needed or n.partition("/")[0] in needed]
    rest = [n for n in names[1:] if n not in first]
    shown = [*names[:1], *first, *rest[:SHOWN]]
    if left := len(rest[SHOWN:]):
        shown.append(f"{left} other name{'s' * (left > 1)} of it")
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
