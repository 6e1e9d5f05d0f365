"""A guard's rules: how a secret may be used. Of two that count, each field has the stricter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.errors import Usage
from avault.vault.names import is_group, is_key
from avault.vault.nostr_rules import is_peer_within
from avault.vault.pay_rules import are_pay_rules_within
from avault.vault.proxy_rules import is_host_within
from avault.vault.rule_members import (
    EXAMPLES,
    MEMBERS,
    NAMED_TO_LET,
    SAID,
    SETS,
    SETS_OF,
    USERS_OF,
    WAYS,
    describe_members,
    find_hosts_fault,
)
from avault.vault.ssh_rules import is_server_within
from avault.vault.times import render_time

if TYPE_CHECKING:
    from typing import Any


NUMBERS = ("until", "times", "ask")
NONE: frozenset[str] = frozenset()
KEPT_IN = frozenset(WAYS) - {"run"}  # ways by which nobody gets the value
MOST = 32  # of one field
LATEST_UNTIL = 1 << 37  # Unix seconds
LONGEST_ASK = 86_400  # seconds for which one approval may do


def is_place(text: object) -> bool:
    """Whether it names a group, or a key of one: GROUP or GROUP/KEY."""
    group, slash, key = str(text).partition("/")
    return isinstance(text, str) and is_group(group) and (is_key(key) if slash else True)


class Rules:
    """What is asked of each use of a secret; a field that is None asks nothing.

    In `named` are those of SETS, each a list of sets: of each set, one member has to fit.
    `until` is in Unix seconds, `times` how often; `ask` for how many seconds an approval by phone
    is good for a caller, 0 for one use. Rules of a later avault, which this one does
    not know, let nobody through: `is_known` is false.
    """

    def __init__(self, **fields: Any) -> None:
        self.named = {
            name: [frozenset[str](fields[name])] if fields.get(name) is not None else []
            for name in SETS
        }
        self.until: int | None = fields.get("until")
        self.times: int | None = fields.get("times")
        self.ask: int | None = fields.get("ask")
        self.is_known = True

    def __and__(self, other: Rules) -> Rules:
        """What both ask."""
        return join_rules([self, other])

    def ways(self) -> frozenset[str] | None:
        """The ways that are left; None for all.

        What is about requests is for the proxy alone, what is about servers for SSH, what is about
        events for Nostr, what is about money for wallets. That none of them is named, is for any
        that gives no value out.
        """
        found = list(self.named["only"])
        for way, names in SETS_OF.items():
            for name in names:
                for each in self.named[name]:
                    is_none = not each and name in NAMED_TO_LET
                    found.append(KEPT_IN if is_none else frozenset({way}))
        return frozenset.intersection(*found) if found else None

    def names_none(self, way: str, name: str) -> bool:
        """Whether a set of a way that is left is not named, and nothing is let through for that.

        Where the value goes out by itself, who gets it does with it as he likes.
        """
        ways = self.ways()
        is_kept_in = ways is not None and way in ways and ways <= KEPT_IN
        return is_kept_in and name in NAMED_TO_LET and not self.named[name]

    def sets(self, way: str, name: str) -> list[frozenset[str]]:
        """The sets of a way that have to fit: one without a member where that has to be named."""
        return [NONE] if self.names_none(way, name) else list(self.named[name])

    def lets(self, way: str, now: float) -> bool:
        """Whether a use by a way goes through; none of those of a broker does by itself."""
        ways = self.ways()
        is_way = ways is None or way in ways
        is_time = self.until is None or now < self.until
        return self.is_known and is_way and is_time and self.times != 0

    def asks_at_least(self, other: Rules) -> bool:
        """Whether nothing gets through these that would not through the other's.

        To name what lets nothing through where it is not named, is to let more.
        """
        ways, others = self.ways(), other.ways()
        if others is not None and (ways is None or not ways <= others):
            return False
        for name in NUMBERS:
            mine, theirs = getattr(self, name), getattr(other, name)
            if theirs is not None and (mine is None or mine > theirs):
                return False
        for way, name in ((way, name) for way, names in SETS_OF.items() for name in names):
            if ways is None or way in ways:
                mine = self.sets(way, name)
                for wide in other.sets(way, name):
                    if not any(is_within(name, narrow, wide) for narrow in mine):
                        return False
        return other.is_known or not self.is_known

    def to_dict(self) -> dict[str, Any]:
        """The fields that ask something, for JSON; of sets, which all have to fit, a list of lists.

        But `only`, which is the ways that are left.
        """
        ways = self.ways()
        shown: dict[str, Any] = {} if ways is None else {"only": sorted(ways)}
        for name in SETS[1:]:
            if found := self.named[name]:
                shown[name] = [sorted(each) for each in found]
        if self.until is not None:
            shown["until"] = render_time(self.until)
        if self.times is not None:
            shown["times"] = self.times
        if self.ask is not None:
            shown["ask"] = self.ask
        return shown if self.is_known else {**shown, "unknown": True}

    def __str__(self) -> str:
        """In words."""
        return self.describe(MOST)

    def describe(self, most: int) -> str:
        """In words; of a list with more than so many members, how many it has."""
        if not self.is_known:
            return "nobody: a later avault has a rule here that this one does not know"
        words = []
        ways = self.ways()
        if ways is not None:
            words.append(f"only {' or '.join(sorted(ways, key=WAYS.index))}" if ways else "nobody")
        if self.ask is not None:
            words.append(f"the phone is asked {describe_asking(self.ask)}")
        for name, word in SAID.items():
            for each in self.named[name]:
                shown = describe_members(name, each)
                many = f"one of {len(each)} {name}"
                words.append(f"{word} {shown or 'none' if len(each) <= most else many}")
        if self.until is not None:
            words.append(f"until {render_time(self.until)}")
        if self.times is not None:
            words.append(f"{self.times} more {'time' if self.times == 1 else 'times'}")
        return ", ".join(words) or "no rule"


def describe_asking(seconds: int) -> str:
    """How often the phone is asked, in words."""
    if not seconds:
        return "for each use"
    size, unit = next(each for each in ((3600, "h"), (60, "m"), (1, "s")) if not seconds % each[0])
    return f"once in {seconds // size}{unit} by each caller"


def join_rules(rules: list[Rules]) -> Rules:
    """What all of these ask together: nothing gets through that would not through each.

    What one names is let by none that has to name it, and does not.
    """
    joined = gather_rules(rules)
    for way, names in SETS_OF.items():
        for name in filter(joined.named.get, names):
            if any(each.names_none(way, name) for each in rules):
                joined.named[name] = [NONE]
    return joined


def gather_rules(rules: list[Rules]) -> Rules:
    """What is said of one place in several rules: what one of them names, no other has to."""
    joined = Rules()
    every = [ways for one in rules if (ways := one.ways()) is not None]
    joined.named["only"] = simplify("only", every)
    for name in SETS[1:]:
        every = [each for one in rules for each in one.named[name]]
        joined.named[name] = simplify(name, every)
    for name in NUMBERS:
        found = [getattr(one, name) for one in rules if getattr(one, name) is not None]
        setattr(joined, name, min(found, default=None))
    joined.is_known = all(one.is_known for one in rules)
    return joined


def is_within(name: str, narrow: frozenset[str], wide: frozenset[str]) -> bool:
    """Whether all that fits the one set fits the other, as far as that shows."""
    if name == "servers":
        return all(is_server_within(each, wide) for each in narrow)
    if name == "peers":
        return all(is_peer_within(each, wide) for each in narrow)
    if name == "wallet":
        return are_pay_rules_within(narrow, wide)
    rest = narrow - wide
    patterns = [each for each in wide if "*" in each] if rest else []
    return all(any(fits(name, each, pattern) for pattern in patterns) for each in rest)


def fits(name: str, text: str, pattern: str) -> bool:
    """Whether a member, which may be a pattern itself, is among what a pattern stands for."""
    if text == pattern:
        return True
    if name == "hosts":
        return is_host_within(text, pattern)
    is_open = pattern.endswith("*") and "*" not in pattern[:-1]
    return name == "paths" and is_open and text.startswith(pattern[:-1])


def simplify(name: str, sets: list[frozenset[str]]) -> list[frozenset[str]]:
    """The sets without those that another one is within, in one order."""
    if name == "only":
        return [frozenset.intersection(*sets)] if sets else []
    unique = sorted({*sets}, key=sorted)
    return [
        each
        for each in unique
        if not any(
            other != each
            and is_within(name, other, each)
            and (not is_within(name, each, other) or sorted(other) < sorted(each))
            for other in unique
        )
    ]


def check_rules(given: dict[str, Any], now: int) -> dict[str, Any]:
    """The fields of a request that ask something, as they are kept; raises Usage."""
    kept: dict[str, Any] = {}
    for name, is_member in MEMBERS.items():
        found = given.get(name)
        if found in (None, []):
            continue
        if not isinstance(found, list) or len(found) > MOST:
            raise Usage(f"{name} is a list of at most {MOST} words")
        for each in found:
            if not isinstance(each, str) or not is_member(each):
                raise Usage(f"not one of {name}", EXAMPLES[name])
        kept[name] = sorted({*found})
    if fault := find_hosts_fault(kept.get("hosts", [])):
        raise Usage(fault, "a guard for each key: see AWS in references/proxy.md")
    for way, names in SETS_OF.items():
        if any(name in kept for name in names):
            if kept.get("only", [way]) != [way]:
                many = "are" if len(names) > 1 else "is"
                about = f"{' and '.join(names)} {many} for {USERS_OF[way]}"
                raise Usage(about, "leave --only out")
            kept["only"] = [way]
    for name, least, most, what in (
        ("until", now + 1, LATEST_UNTIL, "a time to come"),
        ("times", 1, LATEST_UNTIL, "a number from 1"),
        ("ask", 0, LONGEST_ASK, "a number of seconds, at most a day"),
    ):
        number = given.get(name)
        if number is None:
            continue
        if type(number) is not int or not least <= number <= most:
            raise Usage(f"{name} is {what}")
        kept[name] = number
    return kept


def read_rules(text: str) -> tuple[str, Rules]:
    """What a fact of a guard says: the place that it is on, and its rules; raises ValueError.

    What it says besides, a later avault has said: nobody gets through.
    """
    found = json.loads(text)
    if not isinstance(found, dict) or not is_place(found.get("on")):
        raise ValueError("not a guard")
    on = found.pop("on")
    rules = Rules()
    for name in SETS:
        members = found.pop(name, None)
        if members is not None:
            is_list = isinstance(members, list) and all(isinstance(each, str) for each in members)
            is_sound = is_list and all(map(MEMBERS[name], members))
            is_sound = is_sound and not (name == "hosts" and find_hosts_fault(members))
            rules.named[name] = [frozenset(members if is_sound else ())]
            rules.is_known = rules.is_known and is_sound
    for name in NUMBERS:
        number = found.pop(name, None)
        if number is not None:
            is_sound = type(number) is int and 0 <= number <= LATEST_UNTIL
            setattr(rules, name, number if is_sound else 0)
            rules.is_known = rules.is_known and is_sound
    rules.is_known = rules.is_known and not found
    return on, rules
