"""What keys that pay may spend: a limit that neither haste, a restart, a copy nor a clock gets around."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_keyholder_alone import Desk

import avault

ACCOUNT = avault.identify_account("0xkey", "8453", "USDC")
NOON = 1_800_000_000 // 86_400 * 86_400 + 43_200


def usdc(amount: int, most: int | None = 20) -> avault.Cost:
    return avault.Cost(ACCOUNT, amount * 10**6, None if most is None else most * 10**6, "USDC", 6)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=NOON)
    monkeypatch.setattr(time, "time", lambda: clock.now)
    return clock


@pytest.fixture
async def desk(tmp_path: Path, clock: SimpleNamespace) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path)
    await desk.open()
    yield desk
    desk.close()


def left(desk: Desk) -> int:
    return avault.spent_today(desk.keyholder, ACCOUNT) // 10**6


async def test_twenty_at_once_do_not_pass_a_limit_together(desk: Desk) -> None:
    found = await asyncio.gather(*(avault.reserve(desk.keyholder, [usdc(3)]) for _ in range(20)), return_exceptions=True)
    refused = [each for each in found if isinstance(each, avault.Denied)]
    assert (len(refused), left(desk)) == (14, 18)
    assert "over the day's limit: 3 USDC of 20, with 2 left; some of it is free again at" in refused[0].message


async def test_many_small_payments_are_one_sum(desk: Desk) -> None:
    for _ in range(20):
        await avault.reserve(desk.keyholder, [usdc(1)])
    with pytest.raises(avault.Denied, match="with 0 left"):
        await avault.reserve(desk.keyholder, [avault.Cost(ACCOUNT, 1, 20 * 10**6, "USDC", 6)])


async def test_what_was_given_back_is_there_again_and_once(desk: Desk) -> None:
    reservation = await avault.reserve(desk.keyholder, [usdc(12)])
    await avault.reserve(desk.keyholder, [usdc(8)])
    await reservation.release()
    await reservation.release()
    assert left(desk) == 8
    settled = await avault.reserve(desk.keyholder, [usdc(12)])
    settled.settle()
    await settled.release()
    assert left(desk) == 20


async def test_all_of_a_use_is_reserved_or_none(desk: Desk) -> None:
    other = avault.identify_account("0xkey", "8453", "ETH")
    with pytest.raises(avault.Denied, match="of 20"):
        await avault.reserve(desk.keyholder, [avault.Cost(other, 5, 10, "ETH", 18), usdc(21)])
    assert avault.spent_today(desk.keyholder, other) == left(desk) == 0
    with pytest.raises(avault.Denied, match="over the day's limit"):  # twice the same account in one use
        await avault.reserve(desk.keyholder, [usdc(11), usdc(11, None)])


async def test_a_restart_and_a_kill_leave_it_spent(desk: Desk, tmp_path: Path) -> None:
    """It is on the disk before anything is asked or signed: who is killed in between has spent it."""
    await avault.reserve(desk.keyholder, [usdc(15)])
    disk = avault.open_vault(desk.own("avault.enc"), desk.example.agent)
    assert avault.sum_spent(disk.facts, ACCOUNT, NOON) == 15 * 10**6
    desk.close()
    desk.set_up()
    await desk.open()
    with pytest.raises(avault.Denied, match="with 5 left"):
        await avault.reserve(desk.keyholder, [usdc(6)])


async def test_an_older_copy_of_the_vault_does_not_have_less(desk: Desk) -> None:
    """Also where somebody insists on the older copy: what was spent is kept with the guards."""
    old = desk.own("avault.enc")
    await avault.reserve(desk.keyholder, [usdc(15)])
    await desk.holding.save()
    desk.close()
    desk.example.path("avault.enc").write_bytes(old)
    desk.set_up()
    await desk.unlocking.open(avault.GivenKey(desk.nsec), True)
    assert left(desk) == 15


async def test_a_day_has_no_end_at_which_twice_as_much_goes(desk: Desk, clock: SimpleNamespace) -> None:
    clock.now = NOON // 86_400 * 86_400 + 86_399
    await avault.reserve(desk.keyholder, [usdc(20)])
    for later in (2, 3600, 23 * 3600):
        clock.now = NOON // 86_400 * 86_400 + 86_399 + later
        with pytest.raises(avault.Denied, match="with 0 left"):
            await avault.reserve(desk.keyholder, [usdc(1)])
    clock.now += 2 * 3600
    await avault.reserve(desk.keyholder, [usdc(20)])


@pytest.mark.parametrize("back", [1, 3600, 86_400, 40 * 86_400])
async def test_a_clock_that_is_set_back_frees_nothing(desk: Desk, clock: SimpleNamespace, back: int) -> None:
    await avault.reserve(desk.keyholder, [usdc(12)])
    clock.now = NOON - back
    await avault.reserve(desk.keyholder, [usdc(8)])
    with pytest.raises(avault.Denied, match="with 0 left"):
        await avault.reserve(desk.keyholder, [usdc(1)])
    clock.now = NOON + 3600
    assert left(desk) == 20, "what was spent meanwhile counts as spent at the later time"


async def test_two_machines_are_one_sum(desk: Desk) -> None:
    await avault.reserve(desk.keyholder, [usdc(12)])
    store = desk.keyholder.open_store()
    other = store.vault.copy()
    avault.note_spent(other, ACCOUNT, "other", (NOON // 3600, "r"), 8 * 10**6, 0)
    other.generation["other"] = 1
    for merged in (store.vault.merge(other), other.merge(store.vault), other.merge(store.vault).merge(store.vault)):
        assert avault.sum_spent(merged.facts, ACCOUNT, NOON) == 20 * 10**6


async def test_two_machines_that_have_not_heard_of_each_other_have_each_the_whole_limit(desk: Desk) -> None:
    """What no machine can know, none refuses; once they have heard of each other, all of it counts on both."""
    other = desk.keyholder.open_store().vault.copy()
    await avault.reserve(desk.keyholder, [usdc(20)])
    avault.refuse_over(other, [usdc(20)], NOON)  # it lets it through, and counts it
    avault.note_spent(other, ACCOUNT, "other", (NOON // 3600, "r"), 20 * 10**6, 0)
    other.generation["other"] = 1
    ours = desk.keyholder.open_store().vault
    for merged in (ours.merge(other), other.merge(ours)):
        assert avault.sum_spent(merged.facts, ACCOUNT, NOON) == 40 * 10**6
        for later in (0, 23 * 3600):
            with pytest.raises(avault.Denied, match="with 0 left"):
                avault.refuse_over(merged, [usdc(1)], NOON + later)
        avault.refuse_over(merged, [usdc(20)], NOON + 25 * 3600)


def test_a_key_that_was_rotated_away_gives_nothing_back() -> None:
    ours = avault.Vault("v", "a", "o", "n")
    avault.note_spent(ours, ACCOUNT, "m", (NOON // 3600, "r"), 20, 0)
    forged = ours.copy()
    avault.note_spent(forged, ACCOUNT, "m", (NOON // 3600, "r"), 0, 20)
    assert avault.sum_spent(forged.facts, ACCOUNT, NOON) == 0
    added = avault.only_additions(ours.facts, forged.facts, NOON)
    assert avault.sum_spent(avault.join_facts(ours.facts, added), ACCOUNT, NOON) == 20


def test_what_a_key_before_has_sealed_is_the_same_whenever_it_is_read() -> None:
    """It is read again at each unlock, by clocks that differ: no payment is lost by that, and none counts twice."""
    ours = avault.Vault("v", "a", "o", "n")
    theirs = ours.copy()
    avault.note_spent(theirs, ACCOUNT, "m", (NOON // 3600 + 5, "r"), 20, 0)
    facts = ours.facts
    for later in (-48 * 3600, 0, 3600, 2 * 3600):
        facts = avault.join_facts(facts, avault.only_additions(facts, theirs.facts, NOON + later))
        assert avault.sum_spent(facts, ACCOUNT, NOON) == 20


def forge(facts: Any, account: str, machine: str, hours: Any) -> None:
    """Write a fact as who has a key does, past all that counts here."""
    facts[f"spent/{account}/{machine}"] = [avault.Secret(avault.render_spent(hours), 1, 2, machine, 9)]


def join_former(ours: avault.Vault, forged: Any, now: int = NOON) -> Any:
    """The facts of ours with what a rotated-away key has sealed: they are read again, and are the same."""
    once = avault.join_facts(ours.facts, avault.only_additions(ours.facts, forged, now))
    avault.check_facts(once)
    twice = avault.join_facts(once, avault.only_additions(once, forged, now))
    assert avault.list_facts(once) == avault.list_facts(twice)
    return once


@pytest.mark.parametrize("machine", ["m", "n"])
@pytest.mark.parametrize("ahead", [1, 72, 73, 200, 1 << 24])
def test_hours_to_come_that_a_former_key_has_sealed_free_nothing(machine: str, ahead: int) -> None:
    """A counter forgets what is long before its last hour; and so does what is known beside the key."""
    ours, forged = avault.Vault("v", "a", "o", "n"), dict[str, Any]()
    when = NOON // 3600
    avault.note_spent(ours, ACCOUNT, "m", (when - 3, "r"), 8, 0)
    forge(forged, ACCOUNT, machine, {(when + ahead, "f"): (1, 0)})
    facts = ours.facts = join_former(ours, forged)
    assert avault.sum_spent(facts, ACCOUNT, NOON) == 8 + (ahead <= 72)
    assert avault.sum_spent(facts, ACCOUNT, NOON + 98 * 3600) == 0, "and for some days at most"
    old = ours.copy()
    avault.note_spent(ours, ACCOUNT, "m", (when, "r"), 12, 0)
    assert avault.sum_spent(ours.facts, ACCOUNT, NOON) == 20 + (ahead <= 72)
    known = avault.list_known(avault.Guards(ours.facts))
    assert avault.lacks_known(old.facts, known), "an older copy is seen to be one"
    assert not avault.lacks_known(ours.facts, known)


@pytest.mark.parametrize("later", [0, 23, 24])
def test_hours_to_come_do_not_say_that_what_counts_yet_is_long_over(later: int) -> None:
    """With an older copy of the vault, by which what is known beside the key is looked at."""
    ours, forged = avault.Vault("v", "a", "o", "n"), dict[str, Any]()
    when = NOON // 3600
    old = ours.copy()
    avault.note_spent(ours, ACCOUNT, "m", (when, "r"), 20, 0)
    known = avault.list_known(avault.Guards(ours.facts))
    forge(forged, ACCOUNT, "m", {(when + later + avault.AHEAD_HOURS, "f"): (1, 0)})
    assert avault.lacks_known(join_former(old, forged, NOON + later * 3600), known)


def test_what_was_paid_in_too_many_runs_is_refused_and_not_forgotten() -> None:
    vault, when = avault.Vault("v", "a", "o", "n"), NOON // 3600
    forge(vault.facts, ACCOUNT, "m", {(when, f"x{each}"): (1, 0) for each in range(avault.MOST_COUNTED)})
    avault.note_spent(vault, ACCOUNT, "m", (when, "x1"), 1, 0)
    with pytest.raises(avault.Denied, match="this key has paid in 4,096 runs of the daemon"):
        avault.note_spent(vault, ACCOUNT, "m", (when, "more"), 1, 0)
    avault.check_facts(vault.facts)
    assert avault.sum_spent(vault.facts, ACCOUNT, NOON) == avault.MOST_COUNTED + 1


def test_of_what_a_former_key_has_sealed_the_latest_is_taken_as_far_as_there_is_room() -> None:
    ours, forged = avault.Vault("v", "a", "o", "n"), dict[str, Any]()
    when = NOON // 3600
    runs = {(when - hour, f"r{each}"): (1, 0) for hour in (0, 90, 99) for each in range(1_300)}
    forge(forged, ACCOUNT, "m", runs)
    facts = join_former(ours, forged)
    assert avault.sum_spent(facts, ACCOUNT, NOON) == 1_300, "what counts today is all there"
    assert len(avault.read_spent(facts[f"spent/{ACCOUNT}/m"][0].value)) == avault.MOST_COUNTED // 2


def test_what_counts_is_taken_before_what_a_thief_has_put_beside_it() -> None:
    """Nothing, thousands of times and far ahead, takes no room; nor do other accounts, from one that is ours."""
    ours, forged = avault.Vault("v", "a", "o", "n"), dict[str, Any]()
    when = NOON // 3600
    for account in (ACCOUNT, "f" * 16):
        avault.note_spent(ours, account, "o", (when, "r"), 1, 0)
    nothing = {(when + 72, f"z{each}"): (0, 0) for each in range(2_048)}
    forge(forged, ACCOUNT, "m", {**nothing, (when, "real"): (100, 0)})
    for number in range(9):
        forge(forged, f"{number:016x}", "m", {(when, f"x{each}"): (1, 0) for each in range(2_048)})
    forge(forged, "f" * 16, "n", {(when, "real"): (100, 0)})
    facts = join_former(ours, forged)
    assert avault.sum_spent(facts, ACCOUNT, NOON) == avault.sum_spent(facts, "f" * 16, NOON) == 101


def test_however_much_a_former_key_has_sealed_the_vault_can_be_read() -> None:
    ours, forged = avault.Vault("v", "a", "o", "n"), dict[str, Any]()
    when = NOON // 3600
    avault.note_spent(ours, ACCOUNT, "m", (when, "r"), 20, 0)
    for number in range(3):
        runs = {(when, f"{number}x{each}"): (1, 0) for each in range(avault.MOST_COUNTED)}
        forge(forged, avault.identify_account(str(number)), "m", runs)
    forge(forged, ACCOUNT, "m", {(when, f"x{each}"): (1, 0) for each in range(avault.MOST_COUNTED)})
    facts = join_former(ours, forged)
    assert 20 <= avault.sum_spent(facts, ACCOUNT, NOON) <= 20 + avault.MOST_COUNTED // 2
    assert sum(len(avault.read_spent(each.value)) for [each] in facts.values()) <= avault.MOST_ENTRIES


def test_a_count_has_an_end_and_stays_one() -> None:
    ours, forged = avault.Vault("v", "a", "o", "n"), dict[str, Any]()
    forge(forged, ACCOUNT, "m", {(NOON // 3600, "r"): (avault.MOST_SPENT, 0)})
    ours.facts = join_former(ours, forged)
    avault.note_spent(ours, ACCOUNT, "m", (NOON // 3600, "r"), 1, 0)
    avault.check_facts(ours.facts)
    assert avault.sum_spent(ours.facts, ACCOUNT, NOON) == avault.MOST_SPENT


def test_a_key_that_was_rotated_away_keeps_nobody_from_paying() -> None:
    """However many accounts it names, as many are left to ours, and none of ours is forgotten beside the key."""
    ours, forged = avault.Vault("v", "a", "o", "n"), dict[str, Any]()
    when = NOON // 3600
    avault.note_spent(ours, ACCOUNT, "m", (when, "r"), 20, 0)
    for number in range(150):
        forge(forged, f"{number:016x}", "m", {(when + 60, "f"): (1, 0)})
    forge(forged, ACCOUNT, "n", {(when, "f"): (1, 0)})
    facts = join_former(ours, forged)
    assert len(avault.find_spending(facts, NOON)) == avault.MOST_ACCOUNTS // 2
    assert avault.sum_spent(facts, ACCOUNT, NOON) == 21, "what is of an account of ours counts all the same"
    assert any(ACCOUNT in name for name in avault.list_known(avault.Guards(facts)))


def test_what_two_runs_of_a_machine_have_counted_adds_up() -> None:
    """One went on with an older copy: that it gave all of its own back frees nothing of the other's."""
    one = avault.Vault("v", "a", "o", "n")
    other = one.copy()
    avault.note_spent(one, ACCOUNT, "m", (NOON // 3600, "r"), 20, 0)
    avault.note_spent(other, ACCOUNT, "m", (NOON // 3600, "s"), 20, 0)
    avault.note_spent(other, ACCOUNT, "m", (NOON // 3600, "s"), 0, 20)
    assert avault.sum_spent(avault.join_facts(one.facts, other.facts), ACCOUNT, NOON) == 20


def test_what_was_spent_is_known_beside_the_key() -> None:
    """Who puts back what the vault was, with what is kept beside it, does not put that back."""
    vault = avault.Vault("v", "a", "o", "n")
    avault.note_spent(vault, ACCOUNT, "m", (NOON // 3600 - 3, "r"), 5, 0)
    old = vault.copy()
    avault.note_spent(vault, ACCOUNT, "m", (NOON // 3600, "r"), 15, 0)
    known = avault.list_known(avault.Guards(vault.facts))
    assert known == {f"spent/{ACCOUNT}/{NOON // 3600}": 20}
    assert avault.lacks_known(old.facts, known) and avault.lacks_known({}, known)
    assert not avault.lacks_known(vault.facts, known)
    avault.note_spent(vault, ACCOUNT, "m", (NOON // 3600, "r"), 0, 15)
    assert not avault.lacks_known(vault.facts, known), "what was given back later is no lack"
    avault.note_spent(vault, ACCOUNT, "m", (NOON // 3600 + 90, "s"), 1, 0)
    assert not avault.lacks_known(vault.facts, known), "nor is what is long over"


def test_accounts_of_long_ago_keep_none_from_being_known(clock: SimpleNamespace) -> None:
    vault = avault.Vault("v", "a", "o", "n")
    for number in range(avault.MOST_ACCOUNTS):
        avault.note_spent(vault, avault.identify_account(str(number)), "m", (NOON // 3600 - 900, "r"), 5, 0)
    clock.now += 1
    old = vault.copy()
    avault.note_spent(vault, ACCOUNT, "m", (NOON // 3600, "r"), 20, 0)
    assert avault.lacks_known(old.facts, avault.list_known(avault.Guards(vault.facts)))


async def test_nothing_is_spent_that_could_not_be_known_beside_the_key(desk: Desk, clock: SimpleNamespace) -> None:
    """Anybody makes keys, and pays from them: a hundred accounts of such push out none of the operator's."""
    for number in range(avault.MOST_ACCOUNTS):
        await avault.reserve(desk.keyholder, [avault.Cost(avault.identify_account(str(number)), 1, 9, "ETH", 18)])
    with pytest.raises(avault.Denied, match="payments of 100 keys and assets were asked for"):
        await avault.reserve(desk.keyholder, [usdc(1)])
    known = avault.identify_account("0")
    await avault.reserve(desk.keyholder, [avault.Cost(known, 1, 9, "ETH", 18)])
    clock.now += 26 * 3600
    await avault.reserve(desk.keyholder, [usdc(1)])
    listed = avault.list_known(avault.Guards(desk.keyholder.open_store().vault.facts))
    assert f"spent/{ACCOUNT}/{clock.now // 3600}" in listed


async def test_all_that_has_the_limits_put_back_is_seen(desk: Desk) -> None:
    files = [desk.example.path("avault.enc"), Path(desk.places.own("guards.enc")), Path(desk.places.own("pin.json"))]
    await avault.reserve(desk.keyholder, [usdc(1)])
    old = [each.read_bytes() for each in files]
    await avault.reserve(desk.keyholder, [usdc(15)])
    await desk.holding.save()
    desk.close()
    for path, content in zip(files, old, strict=True):
        path.write_bytes(content)
    desk.set_up()
    with pytest.raises(avault.Tampered, match="guards or payments known to this machine"):
        await desk.unlocking.open(avault.GivenKey(desk.nsec), False)


async def test_a_caller_that_leaves_while_it_is_written_has_spent_nothing(desk: Desk) -> None:
    for _ in range(3):
        task = asyncio.ensure_future(avault.reserve(desk.keyholder, [usdc(15)]))
        while not desk.holding.writer.task:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await desk.holding.writer.finish()
        assert left(desk) == 0


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}x", '{"1.r":[1]}', '{"1.r":[-1,0]}', '{"1.r":[1,true]}', '{"01.r":[1,0]}', '{"x.r":[1,0]}', '{"1.r":[1.0,0]}',
     '{"99999999.r":[1,0]}', '{"².r":[1,0]}', '{"1":[1,0]}', '{"1.":[1,0]}', '{"1.r.s":[1,0]}', '{"1.é":[1,0]}',
     json.dumps({f"{each}.r": [1, 0] for each in range(5000)})],
)  # fmt: skip
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        avault.check_fact(f"spent/{ACCOUNT}/m", text)


WHEN = st.tuples(st.integers(400_000, 400_200), st.sampled_from("rs"))
COUNTS = st.dictionaries(WHEN, st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6)


@given(st.lists(COUNTS, min_size=3, max_size=3))
def test_copies_are_joined_to_the_same_in_whatever_order(found: list[Any]) -> None:
    def fact(hours: Any) -> list[Any]:
        return [avault.Secret(avault.render_spent(hours), 1, 2, "m", 3)]

    name = f"spent/{ACCOUNT}/m"
    results = set()
    for one, two, three in itertools.permutations(map(fact, found)):
        joined = avault.join_facts(avault.join_facts({name: one}, {name: two}), {name: [*three, *one]})
        results.add(json.dumps(joined[name][0].to_list()))
    assert len(results) == 1
