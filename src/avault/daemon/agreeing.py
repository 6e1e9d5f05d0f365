"""The words by which a person agrees to less guard: what becomes possible, of what, what was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.errors import Usage
from avault.vault.guards import Guards

if TYPE_CHECKING:
    from collections.abc import Iterable

    from avault.vault.records import Vault
    from avault.vault.rules import Rules


SENTENCE = 1200  # characters that a phone shows
SHOWN = 4  # of a list that is not said in full
ALL = 10_000
# what is tried, until it is short enough: whether it says what was, whether it says all as one, and
# how many names it says. Of a key, all: else somebody chooses which are not said
SHORTER = ((True, False, ALL), (False, False, ALL), (False, True, ALL))
OF_GROUP = (*SHORTER, (False, True, SHOWN))
ANYTHING = "anything, by any program here"


class Step:
    """What becomes of some secrets in the same way.

    `may` is by what they may be used, "" where other guards let no more through than before; `lost`
    are the places whose guards count less for them, or not at all.
    """

    def __init__(self, may: str, was: str, lost: tuple[str, ...]) -> None:
        self.may, self.was, self.lost = may, was, lost
        self.names: list[str] = []
        self.rules: set[str] = set()  # the ids of what guarded them


class Loosening:
    """What the guards of a vault let through after a change of those on a place, and not before."""

    def __init__(self, before: Vault, after: Vault, place: str) -> None:
        self.vault, self.place = before.name, place
        self.old, self.new = Guards(before.facts), Guards(after.facts)
        self.there = {
            f"{group}/{key}" for group, each in before.groups.items() for key in each.keys
        }
        self.weaker = {each for each in self.old.guards if self.is_weaker(each)}
        self.steps: dict[tuple[str, str, tuple[str, ...]], Step] = {}
        self.compared: dict[tuple[int, int], tuple[str, str]] = {}
        for name in sorted({*self.there, *self.old.links, place}):
            self.add(name)

    def is_weaker(self, place: str) -> bool:
        """Whether what is on a place asks less than before."""
        old, new = self.old.guards[place], self.new.guards.get(place, [])
        return not self.new.rules_of(new).asks_at_least(self.old.rules_of(old))

    def add(self, name: str) -> None:
        """Find what becomes of a name."""
        old, new = self.old.of(name), self.new.of(name)
        still = {each.on for each in new} - self.weaker
        lost = tuple(sorted({each.on for each in old} - still))
        if not lost:
            return
        may, was = self.compare(self.old.rules_of(old), self.new.rules_of(new), bool(new))
        step = self.steps.setdefault((may, was, () if may else lost), Step(may, was, lost))
        step.names.append(name)
        step.rules |= {each.identity for each in old}
        step.lost = tuple(sorted({*step.lost, *lost}))

    def compare(self, was: Rules, to_be: Rules, is_guarded: bool) -> tuple[str, str]:
        """What becomes possible and what was, in words; both "" where nothing does.

        Both rules are what is kept of them: those of many names are the same, and compared once.
        """
        which = id(was), id(to_be)
        if which not in self.compared:
            found = str(to_be) if is_guarded else ANYTHING
            is_less = not to_be.asks_at_least(was)
            self.compared[which] = (found, was.describe(SHOWN)) if is_less else ("", "")
        return self.compared[which]

    def to_list(self) -> list[list[str]]:
        """All of it, to be compared."""
        return [[step.may, step.was, *step.lost, *step.names] for step in self.steps.values()]

    def describe(self) -> str:
        """In words, as exact as a phone has room for; "" where nothing becomes less.

        What is not whole says more than becomes possible, and never less. Raises Usage where even
        that is too long: what is not named is not asked for.
        """
        if not self.steps:
            return ""
        apart = sorted(self.steps.values(), key=lambda each: self.place not in each.names)
        for is_whole, is_one, most in SHORTER if "/" in self.place else OF_GROUP:
            steps = [self.join_steps()] if is_one else apart
            said = "; and ".join(self.describe_step(step, is_whole, most) for step in steps)
            if len(sentence := f"in {self.vault}, from now on {said}") <= SENTENCE:
                return sentence
        raise Usage(
            "that is more than a phone shows",
            "with fewer rules; or set the value anew, under a name that nothing guards",
        )

    def join_steps(self) -> Step:
        """All steps as one: what may be is what any of the guards that are left lets through."""
        lost, joined = list[str](), Step("", "", ())
        for step in self.steps.values():
            joined.names += step.names
            joined.rules |= step.rules
            lost += step.lost
        joined.lost = tuple(dict.fromkeys(lost))
        are_guarded = {bool(self.new.of(name)) for name in joined.names}
        found = [ANYTHING] if False in are_guarded else []
        found += ["what the guards that are left on them let"] if True in are_guarded else []
        if here := self.new.guards.get(self.place):
            found.append(f"with this one on {self.place}: {self.new.rules_of(here)}")
        joined.may = ", or ".join(found[:2]) + "".join(f", {each}" for each in found[2:])
        return joined

    def describe_step(self, step: Step, is_whole: bool, most: int) -> str:
        """A step in words; what was, and the names, perhaps only in number."""
        names, is_many = self.name_secrets(step, most)
        if step.may:
            count = len(step.rules)
            was = step.was if is_whole else f"{count} rule{'s' * (count > 1)}"
            return f"{names} may be used by: {step.may} (until now: {was})"
        by = {each.on for name in step.names for each in self.new.of(name)}
        gone, few = not by & {*step.lost}, len(by) <= SHOWN
        return (
            f"{names} {'are' if is_many else 'is'} {'no more guarded' if gone else 'guarded less'}"
            f" by what is on {self.join_names(step.lost, most)}"
            f" (for now as before, by {self.join_names(by, most) if few else f'{len(by)} guards'})"
        )

    def name_secrets(self, step: Step, most: int) -> tuple[str, bool]:
        """Which secrets a step is about: by the names that they have, or had; whether several.

        The name that was asked for is first.
        """
        place, found = self.place, {*step.names}
        inner = {name for name in found if name.startswith(f"{place}/")}
        head = [place] if place in found else []
        others = self.names_besides(step.names)
        if head and "/" not in place:
            head = [f"all in {place} ({len(inner & self.there)} now, and later ones)"]
            found -= inner
        elif len(inner) > SHOWN:
            head, found = [f"{len(inner)} in {place}"], found - inner
        found -= {place}
        text = self.join_names(found, most, head)
        if others:
            text += f", which is or was {self.join_names(others, most)},"
        return text, len(step.names) > 1 or "/" not in step.names[0]

    def names_besides(self, names: list[str]) -> set[str]:
        """The other names that are, or were, of the same secrets."""
        found: set[str] = set()
        for name in names:
            if name not in found:
                found |= {*self.old.names_of(name)}
        return found - {*names}

    def join_names(self, names: Iterable[str], most: int, head: Iterable[str] = ()) -> str:
        """Names in words, those first that are in the vault; and how many more there are."""
        found = sorted({*names}, key=lambda name: (name not in self.there, name))
        shown = [*head, *found[:most]]
        if left := len(found[most:]):
            shown.append(f"{left} other name{'s' * (left > 1)} of it")
        return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
