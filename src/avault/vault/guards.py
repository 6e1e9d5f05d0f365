"""The guards of a vault: facts that are only added, so that no copy of it has a guard less.

`guard/ID` is a guard on a group or a key, `moved/ID` that a key was given another name,
`used/ID/MACHINE` how often a machine has used what a guard counts, `had/ID` a value that a name had
before it was sealed (see vault/had), `spent/ID/MACHINE` what it has paid (see vault/spent). The
machine that has written one may say it again, under a higher count. `unguarded/ID` is up to which
count the operator took one away: what is said later, or elsewhere, stays.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from avault.places import sha256
from avault.vault.rule_members import SETS_OF
from avault.vault.rules import NONE, Rules, gather_rules, is_place, join_rules, read_rules
from avault.vault.secret import Secret
from avault.vault.spent import (
    SPENT,
    choose_spent,
    join_spent,
    lacks_spent,
    list_spent,
    read_spent,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Facts = dict[str, list[Any]]


IDENTITY = frozenset("0123456789abcdef")  # of 16 of these is the name of a guard
MOST_KNOWN = 2_500  # guards and moves that are sealed beside the key
SPENT_SHARE = 6  # as many of them are as long as what is sealed of one account's spending
GUARD_FACTS = ("guard", "had", "moved", SPENT, "unguarded", "used")


def is_kept(name: str) -> bool:
    """Whether a fact is about guards."""
    return name.partition("/")[0] in GUARD_FACTS


def check_fact(name: str, text: str) -> None:
    """Raise ValueError unless a fact about guards can be one; of another fact nothing is said."""
    kind, *rest = name.split("/")
    if kind not in GUARD_FACTS:
        return
    if len(rest) != 1 + (kind in ("used", SPENT)) or not all(rest):
        raise ValueError("a guard without a name")
    if len(rest[0]) != 16 or set(rest[0]) - IDENTITY:
        raise ValueError("not the name of a guard")
    if kind == "guard":
        read_rules(text)
    elif kind == SPENT:
        read_spent(text)
    elif kind == "moved":
        link = json.loads(text)
        if not all(is_place(link[each]) and "/" in link[each] for each in ("from", "to")):
            raise ValueError("not a move")
    elif kind == "had":
        had = json.loads(text)
        if not (is_place(had["on"]) and "/" in had["on"] and type(had["is"]) is str):
            raise ValueError("not a value that was there")
    elif not (text.isascii() and text.isdigit() and len(text) < 16):
        raise ValueError("not a number")


def check_facts(facts: Facts) -> None:
    """Raise ValueError unless all facts about guards can be some."""
    for name, found in facts.items():
        for each in found:
            check_fact(name, each.value)
        if is_kept(name) and len(found) != 1:
            raise ValueError("a guard that is two")


def version_of(facts: Facts) -> int:
    """The format's version: a vault that has guards is opened by no avault that knows none."""
    return 2 if any(name.startswith(("guard/", "lock/")) for name in facts) else 1


def join_facts(ours: Facts, theirs: Facts) -> Facts:
    """The facts about guards of both; without what the operator took away in either.

    It is the same in whatever order copies are joined, and however often.
    """
    joined: Facts = {}
    for name in sorted(filter(is_kept, {*ours, *theirs})):
        found = [*ours.get(name, []), *theirs.get(name, [])]
        if name.startswith(f"{SPENT}/"):
            joined[name] = join_spent(found)
            continue
        is_number = name.startswith(("used/", "unguarded/"))
        joined[name] = [
            max(
                found,
                key=lambda each: (int(each.value) if is_number else each.count, each.to_list()),
            )
        ]
    return {name: found for name, found in joined.items() if not is_gone(joined, name)}


def is_gone(facts: Facts, name: str) -> bool:
    """Whether the operator took away what a fact says."""
    kind, _, identity = name.partition("/")
    mark = facts.get(f"unguarded/{identity}", []) if kind in ("guard", "had", "moved") else []
    return any(int(each.value) >= facts[name][0].count for each in mark)


def own_facts(facts: Facts) -> Facts:
    """Those that are about guards."""
    return {name: found for name, found in facts.items() if is_kept(name)}


def without_removals(facts: Facts) -> Facts:
    """Those that can only make a vault's guards stricter."""
    return {name: each for name, each in own_facts(facts).items() if "unguarded/" not in name}


def only_additions(ours: Facts, theirs: Facts, now: int | None = None) -> Facts:
    """What facts that a rotated-away key has sealed add to ours, which are no less by it.

    Who got that key says anything under each name, of any count and time. So what ours do not say
    in the same words is named by its own, as said once and just now: it takes the place of nothing.
    What the operator took away stays so; of uses, the higher number counts. What lets nothing
    through until it is named is named by none of them. Of what was spent: see `choose_spent`.
    """
    added: Facts = {}
    here = Guards(ours)
    said = now or int(time.time())
    names: dict[str, str] = {}  # of guards, by what theirs call them
    for name, [fact] in sorted(own_facts(theirs).items()):
        kind, identity, *machine = name.split("/")
        is_gone_here = f"unguarded/{identity}" in ours
        if kind in ("had", SPENT, "unguarded") or is_gone_here or len(added) >= MOST_KNOWN:
            continue
        if kind == "used":
            if identity in names:
                added["/".join([kind, names[identity], *machine])] = [fact]
            continue
        is_ours = name in ours and ours[name][0].value == fact.value
        text = fact.value if is_ours or kind != "guard" else here.name_no_more(fact.value)
        own = identity if is_ours else sha256(f"{name} {text}".encode()).hex()[:16]
        if kind == "guard":
            names[identity] = own
        if f"{kind}/{own}" not in ours:
            added[f"{kind}/{own}"] = [Secret(text, said, said, fact.machine, 1)]
    spent = {name: found for name, found in theirs.items() if name.startswith(f"{SPENT}/")}
    return added | choose_spent(ours, spent, said)


def count_guards(facts: Facts) -> int:
    """How many guards there are."""
    return sum(name.startswith("guard/") for name in facts)


class Guard:
    """One that is in force: its id, the place that it is on, its rules, and since when."""

    def __init__(self, identity: str, on: str, rules: Rules, since: int) -> None:
        self.identity, self.on, self.rules, self.since = identity, on, rules, since


class Guards:
    """What the facts of a vault say of guards."""

    def __init__(self, facts: Facts) -> None:
        self.guards: dict[str, list[Guard]] = {}  # by the place that they are on
        self.moves: list[tuple[str, str]] = []  # ids, and texts, that `links` has not read yet
        self.joined: dict[str, list[tuple[str, str]]] = {}
        self.used: dict[str, int] = {}
        self.spent: dict[str, list[Any]] = {}  # facts, by account
        self.counts: dict[str, int] = {}  # by id: of its last write
        self.one: dict[str, list[str]] = {}  # the names that are one with a name, itself among them
        self.found: dict[str, list[Guard]] = {}  # what counts for a name, once it was asked for
        self.asked: dict[frozenset[str], Rules] = {}  # what guards ask together, by their ids
        for name in sorted(filter(is_kept, facts)):
            kind, _, rest = name.partition("/")
            self.add(kind, rest, facts[name][0])

    def add(self, kind: str, rest: str, fact: Any) -> None:
        """Take one fact."""
        if kind == "guard":
            on, rules = read_rules(fact.value)
            self.guards.setdefault(on, []).append(Guard(rest, on, rules, fact.created))
            self.counts[rest] = fact.count
        elif kind == "moved":
            self.moves.append((rest, fact.value))
            self.counts[rest] = fact.count
        elif kind == "used":
            identity = rest.partition("/")[0]
            self.used[identity] = self.used.get(identity, 0) + int(fact.value)
        elif kind == SPENT:
            self.spent.setdefault(rest.partition("/")[0], []).append(fact)

    @property
    def links(self) -> dict[str, list[tuple[str, str]]]:
        """By name: ids, and other names. Read once they are asked for: without a guard, never."""
        for identity, text in self.moves:
            link = json.loads(text)
            self.joined.setdefault(link["to"], []).append((identity, link["from"]))
            self.joined.setdefault(link["from"], []).append((identity, link["to"]))
        self.moves = []
        return self.joined

    def names_of(self, name: str) -> list[str]:
        """The names whose guards count for GROUP/KEY: its own, and all between which it was moved.

        Both ways, as another machine, a restore or an older copy may bring a value back.
        """
        if name not in self.one:
            found, todo, links = {name: None}, [name], self.links
            while todo:
                for _, other in links.get(todo.pop(), ()):
                    if other not in found:
                        found[other] = None
                        todo.append(other)
            names = list(found)
            self.one |= dict.fromkeys(names, names)
        return self.one[name]

    def neighbours(self, name: str) -> list[str]:
        """The names to or from which GROUP/KEY itself was moved, each once."""
        return [*dict.fromkeys(other for _, other in self.links.get(name, ()) if other != name)]

    def of(self, name: str) -> list[Guard]:
        """The guards that count for GROUP/KEY, or of a group those that are on it."""
        if not self.guards:
            return []
        if "/" not in name:
            return self.guards.get(name, [])
        if name not in self.found:
            names = self.names_of(name)
            places = {place for each in names for place in (each, each.partition("/")[0])}
            found = [guard for place in sorted(places) for guard in self.guards.get(place, ())]
            self.found |= dict.fromkeys(names, found)
        return self.found[name]

    def left(self, guard: Guard) -> Rules:
        """Its rules, with the times that are left."""
        rules = guard.rules
        if rules.times is None:
            return rules
        left = join_rules([rules])
        left.times = max(rules.times - self.used.get(guard.identity, 0), 0)
        return left

    def rules_of(self, guards: Iterable[Guard]) -> Rules:
        """What all of these ask together: what is named on one place, is named for that alone."""
        guards = list(guards)
        which = frozenset(each.identity for each in guards)
        if which not in self.asked:
            places: dict[str, list[Rules]] = {}
            for each in guards:
                places.setdefault(each.on, []).append(self.left(each))
            self.asked[which] = join_rules(
                [gather_rules(found) if found[1:] else found[0] for found in places.values()]
            )
        return self.asked[which]

    def naming_none(self, name: str, way: str, field: str) -> list[str]:
        """The places whose guards let nothing of GROUP/KEY through by a way, as they name none."""
        places: dict[str, list[Guard]] = {}
        for each in self.of(name):
            places.setdefault(each.on, []).append(each)
        return [on for on, found in places.items() if NONE in self.rules_of(found).sets(way, field)]

    def name_no_more(self, text: str) -> str:
        """A guard's fact, without what it names where these let nothing until it is named."""
        on, fields = read_rules(text)[0], json.loads(text)
        own = self.rules_of(self.guards.get(on, []))
        named = [(way, name) for way, names in SETS_OF.items() for name in names if name in fields]
        if not (gone := [name for way, name in named if NONE in own.sets(way, name)]):
            return text
        return json.dumps({**fields, **{name: [] for name in gone}}, sort_keys=True)

    def places(self) -> list[str]:
        """Where a guard is on, or comes to by another name."""
        linked = self.links if self.guards else ()
        return sorted({*self.guards, *(each for each in linked if self.of(each))})

    def marks_of(self, place: str) -> dict[str, int]:
        """All that the operator takes away to have nothing on this very place: ids, and counts."""
        found = {guard.identity for guard in self.guards.get(place, ())}
        own = {each: self.counts[each] for each in sorted(found)}
        return {**own, **self.marks_of_links([place])}

    def marks_of_links(self, names: list[str]) -> dict[str, int]:
        """What parts these from the names that they are one with: ids of moves, and counts."""
        found = {identity for name in names for identity, _ in self.links.get(name, ())}
        return {each: self.counts[each] for each in sorted(found)}


def carrying_moves(guards: Guards) -> list[str]:
    """The ids of the moves that carry a guard to another name."""
    if not guards.guards:
        return []
    return sorted(
        {each for name, on_it in guards.links.items() if guards.of(name) for each, _ in on_it}
    )


def list_known(guards: Guards) -> dict[str, int]:
    """What a machine knows of guards: how often each has been used, by id; the moves, too.

    And what was spent.

    Of moves only those that carry a guard; and no more than fit beside the key, the guards that are
    there longest before all others: nobody pushes them out by later ones.
    """
    found = [each for on_it in guards.guards.values() for each in on_it]
    found.sort(key=lambda each: (each.since, each.identity))
    known = {each.identity: guards.used.get(each.identity, 0) for each in found}
    known |= dict.fromkeys(carrying_moves(guards), 0)
    spent = list_spent(guards.spent)
    return spent | dict(list(known.items())[: MOST_KNOWN - SPENT_SHARE * len(spent)])


def lacks_known(facts: Facts, known: dict[str, int]) -> bool:
    """Whether facts are without what was known, and what the operator did not take away."""
    found = {
        name.split("/")[1] for name in facts if name.startswith(("guard/", "moved/", "unguarded/"))
    }
    guards = Guards(facts)
    used = guards.used
    if any(lacks_spent(guards.spent, *each) for each in known.items() if "/" in each[0]):
        return True
    known = {name: count for name, count in known.items() if "/" not in name}
    return any(
        identity not in found
        or (f"unguarded/{identity}" not in facts and used.get(identity, 0) < count)
        for identity, count in known.items()
    )
