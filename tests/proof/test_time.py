"""Clocks that are wrong, are set, or stood still while the machine slept.

No clock that anybody can set decides how long a vault stays open or how long a wait lasts; and none decides what a merge keeps.
The daemons are real, with clocks of the test's own (skewed.py); nobody sets the machine's.
"""

import itertools
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import figures
import nostr_sdk
import peers
import pytest
from canary import Canary
from harness import Machine, wait_until
from skewed import Clocks

import avault

pytestmark = [pytest.mark.proof]

AGENT = nostr_sdk.Keys.generate()
NSEC = AGENT.secret_key().to_bech32()
DAY = 86_400
JUMPS = [-20_000 * DAY, -365 * DAY, -DAY, -3600, -1, 1, 3600, DAY, 365 * DAY, 100_000 * DAY]


@pytest.fixture
def clocks(tmp_path: Path) -> Clocks:
    return Clocks(tmp_path)


@pytest.fixture
def skewed(place, clocks: Clocks) -> Iterator[Machine]:
    """A machine with clocks of the test's own; its vault is proven, and no daemon runs."""
    with Machine(place.top, command=clocks.command) as machine:
        machine.init_unproven(NOSTR_NSEC=NSEC)
        machine("daemon", "stop", "--force")
        [path] = (machine.state / "avault").glob("*/unlock.json")
        content = avault.decode_file("unlock", path.read_bytes(), str(path))
        path.write_bytes(avault.encode_file("unlock", {**content, "proven": "2026-01-31T12:00:00Z"}))
        yield machine


def start(machine: Machine, *words: str) -> None:
    machine("daemon", "start", "-b", *words, NOSTR_NSEC=NSEC)


# An end that is set


def test_an_end_that_passed_in_a_sleep_locks_at_once(skewed: Machine, clocks: Clocks, canary: Canary) -> None:
    """The first request after the machine woke gets nothing, though the loop's own clock has seen no time pass."""
    slept = 0
    rows = [("--lock-after", 0), ("--lock-idle", -DAY)]
    for option, jump in figures.pick(rows, [*rows, *itertools.product(("--lock-after", "--lock-idle"), JUMPS)]):
        clocks.set(wall=0)
        start(skewed, option, "1h")
        skewed("set", "a/B", input=canary.value)
        clocks.set(asleep=clocks.shifts["asleep"] + 3500)
        assert skewed("get", "a/B", secret=True).stdout == canary.value + "\n", "not yet"
        clocks.set(asleep=clocks.shifts["asleep"] + 3700, wall=jump)
        done = skewed("get", "a/B", code=3, secret=True)
        assert canary.value not in done.stdout and "avault: hint: " in done.stderr
        status = wait_until(lambda: (now := skewed.status())["state"] != "unlocked" and now, what="the keyholder's end")
        assert status["keyholder_pid"] is None and "it locked by itself after" in status["error"]["message"]
        skewed("daemon", "stop")
        slept += 1
    figures.at_least("ends passed in a sleep after which nothing was given out", slept)


def test_no_clock_that_is_set_moves_an_end(skewed: Machine, clocks: Clocks, canary: Canary) -> None:
    """Set back, it prolongs nothing; set forward, it ends nothing."""
    start(skewed)
    skewed("set", "a/B", input=canary.value)
    skewed("daemon", "stop")
    begun = time.monotonic()
    start(skewed, "--lock-after", "4s")
    for jump in itertools.cycle(JUMPS[::-1]):
        clocks.set(wall=jump)
        asked = time.monotonic()
        done = skewed("get", "a/B", code=None, secret=True)
        if done.returncode:
            break
        assert done.stdout == canary.value + "\n"
        assert asked - begun < 30, "it was to lock after 4 s"
    assert done.returncode == 3 and time.monotonic() - begun >= 4
    wait_until(lambda: skewed.status()["keyholder_pid"] is None, what="the keyholder's end")


def test_waits_end_when_they_are_to(skewed: Machine, clocks: Clocks) -> None:
    """`wait` and `unlock` have their time, however the clock jumps meanwhile."""
    with peers.hole() as hole:
        keys = nostr_sdk.Keys.generate()
        places = avault.Places(str(skewed.vault))
        places.state = str(skewed.own)
        operator = skewed.operator.public_key().to_hex()
        avault.Pairing(keys, operator, avault.public_hex(AGENT), operator, [hole.url]).save(places)
        skewed("daemon", "start", "-b")
        jumps = 0
        for words in (("wait", "--timeout", "2s"), ("unlock", "--timeout", "2s")):
            begun = time.monotonic()
            running = skewed.start(*words)
            while running.process.poll() is None:
                clocks.set(wall=JUMPS[jumps % len(JUMPS)])
                jumps += 1
                time.sleep(0.2)
                assert time.monotonic() - begun < 40
            assert running.wait().returncode == 7
            assert time.monotonic() - begun >= 2
        clocks.set(wall=0)
        figures.at_least("jumps of the clock in the middle of a wait", jumps)


# A relay with a wrong clock


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="nostr-relay has no wheel for it")
def test_relays_whose_clock_is_wrong(machine: Machine, relay, rogue, canary: Canary) -> None:
    """A relay that takes our events for old or for future ones refuses them: it is named, and the other one carries them."""
    machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=rogue.uri)
    machine("set", "a/B", input=canary.value)
    places = avault.Places(str(machine.vault))
    places.state = str(machine.own)
    for skew in figures.pick([-30 * DAY], [-20_000 * DAY, -30 * DAY, -7200, 400 * DAY, 20_000 * DAY]):
        with peers.nostr_relay(skew=skew) as wrong:
            machine("lock")
            pairing = avault.Pairing.load(places)
            assert pairing
            pairing.relays = [wrong.url]
            pairing.save(places)
            done = machine("unlock", "--timeout", "2s", code=7)
            assert "nobody approved in time" in done.stderr
            pairing.relays = [wrong.url, relay.url]
            pairing.save(places)
            machine("unlock")
            refused = next(each for each in machine.status()["relays"] if each["url"] == wrong.url)["said"]
            assert refused is None or refused.startswith("invalid: "), refused
            assert machine("get", "a/B", secret=True).stdout == canary.value + "\n"


# Times in the vault


def play(seed: int, clock: random.Random | None) -> dict[str, set[str]]:
    """What three machines have in the end that write, delete and meet at random: the values of each key, all of them."""
    chance = random.Random(seed)
    vaults = [avault.Vault("ab" * 16, "", "", "n") for _ in range(3)]
    now = 1_700_000_000
    for step in range(40):
        now = int(clock.uniform(-1e9, 4e9)) if clock else now + 1
        me = chance.randrange(3)
        vault, name, key = vaults[me], f"m{me}", f"K{chance.randrange(4)}"
        kind = chance.randrange(8)
        if kind < 4:
            vault.put("g", key, f"{name}-{step}", now, name)
        elif kind == 4 and "g" in vault.groups and key in vault.groups["g"].keys:
            vault.remove("g", key)
        else:
            vaults[me] = vault = vault.merge(vaults[chance.randrange(3)])
        vault.generation[name] = vault.generation.get(name, 0) + 1
    ends = []
    for order in itertools.permutations(vaults):
        merged = order[0]
        for other in order[1:]:
            merged = merged.merge(other)
        ends.append({key: [each.value for each in found] for key, found in merged.groups.get("g", avault.Group({})).keys.items()})
    assert all(end == ends[0] for end in ends), "whoever merges with whom, and in whatever order"
    return {key: set(found) for key, found in ends[0].items()}


def test_no_clock_decides_what_a_merge_keeps() -> None:
    """The same history with right clocks, and with one that jumps anywhere at each write: the same values are kept."""
    histories = figures.pick(300, 20_000)
    conflicts = 0
    for seed in range(histories):
        right, wrong = play(seed, None), play(seed, random.Random(-seed))
        assert right == wrong, seed
        conflicts += any(len(values) > 1 for values in right.values())
    assert conflicts > histories / 10, "there was something to decide"
    figures.at_least("histories merged with clocks that jump", histories)


def test_a_write_after_the_clock_went_back(skewed: Machine, clocks: Clocks, canary: Canary) -> None:
    """The last write is served, whatever time it bears, and times are shown as they are."""
    start(skewed)
    for number, jump in enumerate(figures.pick([DAY, -20_000 * DAY], JUMPS[::-1])):
        clocks.set(wall=jump)
        skewed("set", "a/B", input=canary.value + str(number))
        assert skewed("get", "a/B", secret=True).stdout == canary.value + f"{number}\n"
        skewed("list")
    clocks.set(wall=0)
    skewed("daemon", "stop")
    start(skewed)
    assert skewed("get", "a/B", secret=True).stdout == canary.value + f"{number}\n"
