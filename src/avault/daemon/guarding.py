"""What becomes of guards where other ones are asked for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from avault.daemon.agreeing import Loosening
from avault.errors import AvaultError, Denied, NotFound, Usage
from avault.vault.guard_changes import add_guard, refuse_more, remove_marks, take_off
from avault.vault.guards import Guards
from avault.vault.names import check_group, check_key
from avault.vault.records import Vault
from avault.vault.rule_members import SETS, SETS_OF
from avault.vault.rules import NUMBERS, Rules, check_rules, gather_rules

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.protocol import Message


def read_place(request: Message) -> str:
    """The group or key that a request is about, as GROUP or GROUP/KEY; raises Usage."""
    group, key = check_group(request.get("group")), request.get("key")
    return group if key is None else f"{group}/{check_key(key)}"


def check_given(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a guard that a request names; raises Usage, also for none."""
    if given := check_rules(fields, int(time.time())):
        return given
    raise Usage("no rule is named", "as in: avault guard openai/API_KEY --only run")


def changed_meanwhile() -> Denied:
    """What is said where something came between the words and what they are about."""
    return Denied("the guards have changed meanwhile; nothing was changed", "ask again")


def describe_guard(guards: Guards, place: str) -> dict[str, Any]:
    """What counts for a place: in words, as fields, and where it comes from."""
    found = guards.of(place)
    rules = guards.rules_of(found)
    by = sorted({each.on for each in found})
    return {"name": place, "words": str(rules), **rules.to_dict(), "by": by}


class GuardChange:
    """What becomes of the guard on a place where fields of it are given, or all is taken away.

    `marks` are those that are to go, `added` the fields of those that come, which are as old as
    those; and `weakens` says whether the operator has to agree to that. With `is_all` it is taken
    away from a group and from all that has one in it: `places`.
    """

    def __init__(
        self, vault: Vault, place: str, given: dict[str, Any] | None, is_all: bool = False
    ) -> None:
        guards = Guards(vault.facts)
        own, self.place, self.given = guards.guards.get(place, []), place, given
        inside = [each for each in guards.guards if is_all and each.startswith(f"{place}/")]
        self.places = [place, *sorted(inside)]
        self.marks: dict[str, int] = {}
        self.added: list[dict[str, Any]] = []
        self.since: int | None = None
        if given is None:
            for each in self.places:
                self.marks |= guards.marks_of(each)
            self.weakens = True
            return
        ways, sets = given.get("only", [*SETS_OF]), SETS_OF.items()
        gone = {*given, *(name for way, names in sets if way not in ways for name in names)}
        touched = [each for each in own if each.rules.is_known and names_any(each.rules, gone)]
        rest = [keep_fields(guards.left(each), gone) for each in touched]
        stays = guards.rules_of([each for each in own if each not in touched])
        wanted = gather_rules([stays, *(Rules(**fields) for fields in (given, *rest))])
        unnamed = [name for way, names in sets for name in names if wanted.names_none(way, name)]
        self.weakens = not wanted.asks_at_least(guards.rules_of(own))
        # said, so that a guard that was set elsewhere meanwhile does not name them either
        self.added = [{**given, **{name: [] for name in unnamed}}]
        if self.weakens:
            self.marks = {each.identity: guards.counts[each.identity] for each in touched}
            self.added = [fields for fields in (*rest, *self.added) if fields]
            self.since = min((each.since for each in touched), default=None)

    def make(self, machine: str) -> Callable[[Vault], None]:
        """The change of the vault. What came meanwhile stays."""

        def change(vault: Vault) -> None:
            now = int(time.time())
            if self.given is None:
                for each in self.places:
                    take_off(vault, each, now, machine)
            else:
                remove_marks(vault, self.marks, now, machine)
            for fields in self.added:
                add_guard(vault, self.place, fields, now, machine, self.since)

        return change


def names_any(rules: Rules, fields: set[str]) -> bool:
    """Whether rules ask something in one of these fields."""
    if any(rules.named[name] for name in fields & {*SETS}):
        return True
    return any(getattr(rules, name) is not None for name in fields & {*NUMBERS})


def keep_fields(rules: Rules, gone: set[str]) -> dict[str, Any]:
    """The fields of a guard, as they are kept, but for some."""
    fields: dict[str, Any] = {name: getattr(rules, name) for name in NUMBERS}
    for name in SETS:
        fields[name] = next((sorted(each) for each in rules.named[name]), None)
    return {name: value for name, value in fields.items() if value is not None and name not in gone}


class Plan:
    """A change of a guard on the vault as it is: what is written, and the words to agree to.

    `said` is "" where nobody has to agree. Raises NotFound, AvaultError where there is nothing to
    take away, or where more guards would come together than may; and Usage where it is more than a
    phone shows.
    """

    def __init__(
        self,
        vault: Vault,
        machine: str,
        place: str,
        given: dict[str, Any] | None,
        is_all: bool = False,
    ) -> None:
        self.change = GuardChange(vault, place, given, is_all)
        guards = Guards(vault.facts)
        if given is None and not any(map(guards.guards.get, self.change.places)):
            refuse_without(guards, place)
        after = vault.copy()
        self.write = self.change.make(machine)
        self.write(after)
        self.said, self.steps = "", list[list[str]]()
        if not self.change.weakens:
            refuse_more(guards, after, [place])
            return
        if not any(map(guards.of, self.change.places)):
            return  # it is parted from other names, and nothing counts for it
        less = Loosening(vault, after, place)
        if not less.steps:
            refuse_parting(guards, place)
        self.said, self.steps = less.describe(), less.to_list()

    def check(self, agreed: Plan) -> None:
        """Raise Denied where that is not what was agreed to: something came in between."""
        ours, theirs = [(each.said, each.steps, each.change.marks) for each in (self, agreed)]
        if ours != theirs:
            raise changed_meanwhile()


def refuse_without(guards: Guards, place: str) -> None:
    """Raise why nothing can be taken off a place that has no guard of its own.

    What is guarded by a name that it had can be parted from that.
    """
    if not guards.of(place) and not guards.neighbours(place):
        raise NotFound(f"there is no guard on {place}", "see which there are: avault guard")
    if guards.of(place) and not guards.neighbours(place):
        refuse_parting(guards, place)


def refuse_parting(guards: Guards, place: str) -> None:
    """Raise AvaultError where nothing would be guarded less by what is asked: nobody is asked."""
    others = sorted({each.on for each in guards.of(place)})
    raise AvaultError(
        f"{place} is guarded as {' and '.join(others)} is",
        f"take that away: avault unguard {others[0]}",
    )
