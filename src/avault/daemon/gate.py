"""The one place where guards decide, before anything is made: what goes out, by which way.

Whoever makes an answer has a vault that holds no more than what was let out.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from avault.errors import Denied
from avault.vault.guard_changes import count_use
from avault.vault.guards import Guard, Guards
from avault.vault.records import Group, Vault
from avault.vault.rules import BROKERED, WAYS, Rules

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
    and stay in.
    """

    def __init__(self, vault: Vault, way: str, is_counted: bool, held: list[str]) -> None:
        self.vault, self.way, self.is_counted, self.held = vault, way, is_counted, held

    def count(self, machine: str) -> Callable[[Vault], None]:
        """The change that counts these uses; refuses what is guarded otherwise meanwhile."""

        def change(vault: Vault) -> None:
            guards, now = Guards(vault.facts), int(time.time())
            counted: set[str] = set()
            for group, each in self.vault.groups.items():
                for key in each.keys:
                    found = guards.of(f"{group}/{key}")
                    check(guards, f"{group}/{key}", self.way, now)
                    counted |= {each.identity for each in found if each.rules.times is not None}
            for identity in sorted(counted):
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
    """What is known of the guards of the vault that is served."""

    def __init__(self) -> None:
        self.vault: Vault | None = None
        self.guards = Guards({})

    def look(self, vault: Vault) -> Guards:
        """The guards of a vault, which does not change."""
        if vault is not self.vault:
            self.vault, self.guards = vault, Guards(vault.facts)
        return self.guards

    def admit(self, vault: Vault, request: Message, pick: Pick) -> Passage:
        """What of a request may go out; raises Denied, and what `pick` raises.

        What was named and may not refuses the whole. Of all there is, what may not stays in, and
        what is counted: it would be used up by who never needed it; and of what is revealed to be
        looked for or masked, whatever is guarded.
        """
        guards = self.look(vault)
        if not guards.guards:
            return Passage(vault, way_of(request), False, [])
        names, is_named = pick(vault, request)
        way, now = way_of(request), time.time()
        allowed: list[tuple[str, str]] = []
        held: list[str] = []
        is_counted = False
        for group, key in names:
            name = f"{group}/{key}"
            found = guards.of(name)
            rules = guards.rules_of(found)
            is_meant = is_named or (way != "reveal" and rules.times is None)
            if not found or (rules.lets(way, now) and is_meant):
                allowed.append((group, key))
                is_counted = is_counted or rules.times is not None
            elif is_named:
                check(guards, name, way, now)
            else:
                held.append(name)
        return Passage(take_out(vault, allowed), way, is_counted, held)


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
        if ways <= BROKERED:
            hint = f"nothing here can be a {shown} yet; {lift}"
        return Denied(f"{name} is guarded: only {shown} may use it", hint)
    if rules.times == 0:
        return Denied(f"{name} is guarded, and has been used as often as it may be", lift)
    return Denied(f"{name} is guarded, and its time is over", lift)
