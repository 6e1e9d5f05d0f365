"""The one place where guards decide, before anything is made: what goes out, by which way.

Whoever makes an answer has a vault that holds no more than what was let out.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from avault.daemon.grant import Grant
from avault.errors import Denied
from avault.vault.guard_changes import count_use
from avault.vault.guards import Guard, Guards
from avault.vault.records import Group, Vault
from avault.vault.rule_members import WAYS
from avault.vault.rules import Rules
from avault.vault.secret import is_sealed

if TYPE_CHECKING:
    from collections.abc import Callable

    from avault.protocol import Message

    Pick = Callable[["Vault", Message], tuple[list[tuple[str, str]], bool]]


def way_of(request: Message) -> str:
    """By which way a request wants values out: `run`, or its own name.

    That a program is `avault run` is its own word: no more is known of a caller than its user.
    """
    is_run = request["op"] in ("export", "reveal") and request.get("for") == "run"
    return "run" if is_run else str(request["op"])


class Passage:
    """What is let out by a `way`: a `vault` with nothing else in it.

    `is_counted` says whether its uses count; `held` are names that were not asked for one by one,
    and stay in; `asked` those of which the phone is asked, with the seconds that an approval is
    good for; `thawed` those of them that are sealed, though no guard wants that any more.
    """

    def __init__(
        self,
        vault: Vault,
        way: str,
        is_counted: bool = False,
        held: list[str] | None = None,
        asked: dict[str, int] | None = None,
    ) -> None:
        self.vault, self.way, self.is_counted = vault, way, is_counted
        self.held, self.asked = held or [], asked or {}
        self.thawed: list[str] = []

    def counted(self, guards: Guards) -> set[str]:
        """Which guards count these uses, as they are now."""
        return {
            each.identity
            for group, found in self.vault.groups.items()
            for key in found.keys
            for each in guards.of(f"{group}/{key}")
            if each.rules.times is not None
        }

    def count(self, machine: str) -> Callable[[Vault], None]:
        """The change that counts these uses; refuses what is guarded otherwise meanwhile."""

        def change(vault: Vault) -> None:
            guards, now = Guards(vault.facts), int(time.time())
            for group, each in self.vault.groups.items():
                for key in each.keys:
                    check(guards, f"{group}/{key}", self.way, now)
            for identity in sorted(self.counted(guards)):
                count_use(vault, identity, now, machine)

        return change


def check(guards: Guards, name: str, way: str, now: float) -> None:
    """Raise Denied where what guards a secret does not let it out by a way."""
    found = guards.of(name)
    rules = guards.rules_of(found)
    if found and not rules.lets(way, now):
        why = [each for each in found if not guards.left(each).lets(way, now)]
        raise refuse(name, why or found, rules, way)


class Gate:
    """What is known of the guards, and of what is sealed, of the vault that is served."""

    def __init__(self) -> None:
        self.vault: Vault | None = None
        self.guards, self.is_free = Guards({}), True

    def look(self, vault: Vault) -> Guards:
        """The guards of a vault, which does not change."""
        if vault is not self.vault:
            self.vault, self.guards = vault, Guards(vault.facts)
            self.is_free = not self.guards.guards and not vault.facts_of("lock")
        return self.guards

    def see(self, vault: Vault, grant: Grant | None) -> Vault:
        """What a caller may know of a vault: all, or no more than its grant has.

        What is not granted is not there for it: it is refused by the same steps.
        """
        if not grant:
            return vault
        if not grant.seen or grant.seen[0] is not vault:
            names = [(name, key) for name, each in vault.groups.items() for key in each.keys]
            seen = take_out(vault, [each for each in names if grant.share.has(*each)])
            for name in {*seen.groups} - grant.share.groups:  # a note is about the whole
                seen.groups[name].note = Group({}).note
            grant.seen = vault, seen
        return grant.seen[1]

    def admit(
        self, vault: Vault, request: Message, pick: Pick, grant: Grant | None = None
    ) -> Passage:
        """What of a request may go out; raises Denied, and what `pick` raises.

        What was named and may not refuses the whole. Of all there is, what may not stays in, and
        what is counted (it would be used up by who never needed it) and what the phone is to be
        asked of; and of what is revealed to be looked for or masked, whatever is guarded.
        """
        guards, way, now = self.look(vault), way_of(request), time.time()
        vault = self.see(vault, grant)
        if grant and grant.is_mask(request):
            vault = take_out(vault, [])
        elif grant:
            grant.check_way(way)
        if self.is_free and not grant:  # whether anything is guarded, no grant's answer tells
            return Passage(vault, way)
        names, is_named = pick(vault, request)
        passage = Passage(vault, way)
        allowed: list[tuple[str, str]] = []
        for group, key in names:
            name = f"{group}/{key}"
            found = guards.of(name)
            rules = guards.rules_of(found)
            sealed = [each for each in vault.groups[group].keys[key] if is_sealed(each.value)]
            asks = rules.ask is not None or bool(sealed)
            is_meant = is_named or not (asks or way == "reveal" or rules.times is not None)
            if not (found or asks):
                allowed.append((group, key))
            elif rules.lets(way, now) and is_meant:
                allowed.append((group, key))
                passage.is_counted = passage.is_counted or rules.times is not None
                if asks:
                    refuse_without_asking(name, way)
                    passage.asked[name] = rules.ask or 0
                    passage.thawed += [name] if rules.ask is None else []
            elif is_named:
                check(guards, name, way, now)
            else:
                passage.held.append(name)
        passage.vault = take_out(vault, allowed)
        return passage


SILENT = ("provide",)  # ways on which nobody waits for a phone


def refuse_without_asking(name: str, way: str) -> None:
    """Raise Denied where the phone cannot be asked of a secret by this way."""
    if way in SILENT:
        raise Denied(
            f"{name} is guarded: the phone is asked for each use",
            f"avault get {name}, or avault run",
        )


def take_out(vault: Vault, names: list[tuple[str, str]]) -> Vault:
    """A vault that has these keys, and nothing else."""
    seen = Vault(vault.identity, vault.agent, vault.operator, vault.name)
    for group, key in sorted({*names}):
        there = vault.groups[group]
        seen.groups.setdefault(group, Group({}, there.note)).keys[key] = there.keys[key]
    return seen


def refuse(name: str, found: list[Guard], rules: Rules, way: str) -> Denied:
    """Why a guarded secret does not go out by a way, and what to do."""
    places = [f"avault unguard {place}" for place in sorted({each.on for each in found})]
    lift = f"only the operator can lift it, by phone: {' && '.join(places)}"
    ways = rules.ways()
    if not rules.is_known:
        return Denied(f"{name} is guarded by a rule of a later avault", "install that one")
    if ways is not None and way not in ways:
        if not ways:
            return Denied(f"{name} is guarded: nobody may use it", lift)
        shown = " or ".join(sorted(ways, key=WAYS.index))
        hint = f"avault run --only {name} -- CMD" if "run" in ways else lift
        if "proxy" in ways and "run" not in ways:
            hint = f"to use it: avault run --proxy --only {name} -- CMD; {lift}"
        elif "run" not in ways:
            how = "avault ssh -- CMD" if "ssh" in ways else "avault wallet, bunker, or sign"
            hint = f"to sign with it: {how}; {lift}"
        return Denied(f"{name} is guarded: only {shown} may use it", hint)
    if rules.times == 0:
        return Denied(f"{name} is guarded, and has been used as often as it may be", lift)
    return Denied(f"{name} is guarded, and its time is over", lift)
