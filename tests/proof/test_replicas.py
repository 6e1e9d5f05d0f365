"""Relays as the place where three machines meet: killed at each event that they send, in any order, and with git at once.

What a relay has is whole at every moment, the old copy or the new one; and no write that was acknowledged is lost, by a model.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import figures
import pytest
from canary import Canary
from fickle import Event, Fickle
from git_helpers import clone, get, git_run, make, put, share, values
from harness import Machine, wait_until
from test_replica import AUTHOR, add, copy_vault, kept, large, of_author, push, read_back

pytestmark = [pytest.mark.proof, pytest.mark.usefixtures("forks"), pytest.mark.timeout(figures.pick(600, 3600))]

SHARED = "shared/KEY"
FAULTS = ("drop", "cut", "keep_cut", "refuse")


@pytest.fixture
def fickle() -> Iterator[Fickle]:
    with Fickle() as relay:
        yield relay


def test_killed_at_each_event(machine: Machine, fickle: Fickle, canary: Canary) -> None:
    """The process that sends is killed when the relay gets its first event, its second, …; before it keeps it, and after."""
    make(machine)
    machine("import", "-", "--format", "json", input=large(canary))
    put(machine, "a/B", "first")
    add(machine, fickle.url)
    machine.may_fork = False
    count, points = len(of_author(fickle, AUTHOR)), 0
    for fault in ("cut", "keep_cut"):
        for number in range(count):
            value = f"{fault} {number}"
            put(machine, "a/B", value)
            before = kept(fickle.url)
            running = machine.start("replica", "push")
            seen = [0]

            def kill(_: Any, number: int = number, pid: int = running.process.pid, seen: list[int] = seen) -> None:
                if seen[0] == number:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                seen[0] += 1

            fickle.reset(**{fault: {number}})
            fickle.on_event = kill
            assert running.process.wait(60) == -signal.SIGKILL
            fickle.on_event = lambda _: None
            fickle.reset()
            now = kept(fickle.url)
            assert now == before or (value in now and number == count - 1 and fault == "keep_cut")
            assert push(machine)[fickle.url]["kept"]
            assert value in kept(fickle.url)
            points += 1
    give_nothing_away(fickle)
    figures.at_least("events of a copy at which the process that sends it was killed", points)


class Model:
    """What must be there in the end: of each machine's own key the last value; of the shared one each that nobody replaced."""

    def __init__(self, machines: list[Machine], seed: int) -> None:
        self.machines, self.random = machines, random.Random(seed)
        self.own = dict.fromkeys(range(len(machines)), "")
        self.shared: set[str] = set()
        self.count = 0

    def write(self, number: int) -> None:
        """A write of one machine, which replaces what that machine sees."""
        self.count += 1
        value, machine = f"value {self.count} of {number}", self.machines[number]
        if self.random.random() < 0.5:
            put(machine, f"own/K{number}", value)
            self.own[number] = value
        else:
            seen = values(machine, SHARED) if machine("has", SHARED, code=None).returncode == 0 else set()
            put(machine, SHARED, value)
            assert values(machine, SHARED) == {value}
            self.shared = (self.shared - seen) | {value}

    def check(self) -> None:
        """Hold each machine against it."""
        for machine in self.machines:
            for number, value in self.own.items():
                if value:
                    assert get(machine, f"own/K{number}") == value
            if self.shared:
                assert values(machine, SHARED) == self.shared


def give_nothing_away(*relays: Fickle) -> None:
    """No name and no value of the vault is in anything that a relay was ever sent."""
    sent = json.dumps([relay.received for relay in relays])
    assert len(sent) > 10_000 and not re.search(r"value \d|cut \d|shared/KEY|avault/head|generation", sent)


def muddle(seed: int) -> Callable[[list[Event]], list[Event]]:
    """How a relay answers that says all twice, in any order."""
    chance = random.Random(seed)
    return lambda events: chance.sample([*events, *events], 2 * len(events))


@contextlib.contextmanager
def three(place: Any, first: Machine) -> Iterator[list[Machine]]:
    with Machine(place.top / "two") as two, Machine(place.top / "three") as other:
        for each in (two, other):
            copy_vault(first, each)
        yield [first, two, other]


@pytest.mark.parametrize("seed", range(figures.pick(2, 20)))
def test_three_machines_in_any_order(machine: Machine, fickle: Fickle, place: Any, seed: int) -> None:
    """One relay loses events, refuses them, and hangs up before and after it has kept them; both say all twice, in any order."""
    make(machine)
    with Fickle() as second:
        fickle.answer, second.answer = muddle(seed), muddle(seed + 1)
        add(machine, fickle.url, second.url)
        with three(place, machine) as machines:
            model = Model(machines, seed)
            for _ in range(figures.pick(18, 60)):
                number = model.random.randrange(3)
                if model.random.random() < 0.6:
                    model.write(number)
                else:
                    kind, event = model.random.choice(FAULTS), model.random.randrange(2)
                    fault = {event: "error: not now"} if kind == "refuse" else {event}
                    fickle.reset(**({kind: fault} if model.random.random() < 0.4 else {}))
                    push(machines[number], code=None)
            fickle.reset()
            for _ in range(2):
                for each in machines:
                    push(each)
            push(machines[0])
            model.check()
            files = {(each.vault / "avault.enc").read_bytes() for each in machines}
            assert len(files) == 1, "they are level"
            assert len(read_back(fickle.url)) == len(read_back(second.url)) == 1
            give_nothing_away(fickle, second)
            figures.note("writes of three machines that met on relays", model.count)


def sync(machine: Machine) -> None:
    """`avault sync`; the daemon's own commit may be under way."""
    wait_until(lambda: machine("sync", code=None).returncode == 0, what="a sync")


@pytest.mark.parametrize("seed", range(figures.pick(1, 10)))
def test_git_and_relays_in_any_order(machine: Machine, fickle: Fickle, place: Any, seed: int) -> None:
    make(machine)
    origin: Path = place.top / "origin.git"
    share(machine, origin)
    add(machine, fickle.url)
    sync(machine)
    with Machine(place.top / "two") as two, Machine(place.top / "three") as other:
        machines = [machine, two, other]
        for each in (two, other):
            clone(each, origin)
        model = Model(machines, seed)
        for _ in range(figures.pick(15, 50)):
            number = model.random.randrange(3)
            step = model.random.random()
            if step < 0.5:
                model.write(number)
            elif step < 0.75:
                push(machines[number], code=None)
            else:
                sync(machines[number])
        for each in [*machines, *machines]:
            push(each)
            sync(each)
        for each in machines:
            push(each)
        model.check()
        give_nothing_away(fickle)
        assert git_run(machine, "fsck").returncode == 0
        assert subprocess.run(["git", "-C", str(origin), "fsck"], capture_output=True).returncode == 0
