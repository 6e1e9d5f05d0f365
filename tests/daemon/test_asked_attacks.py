"""What was tried against secrets that ask: to have one without approvals, to lose one, to have the phone asked without end."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from test_asked import PLACE, VALUE, House, house

import avault

__all__ = ["house"]
OLD = "a-value-of-long-ago"


async def set_clear(house: House, name: str, value: str) -> None:
    """Set a value that nothing guards."""
    group, _, key = name.partition("/")
    client = await house.begin("set", group=group, key=key)
    assert (await house.end(client))["ready"]
    client.sendall(avault.encode_frame({"value": value}))
    assert (await house.end(client))["ok"]


async def approve_all(house: House, client: socket.socket, count: int = 2) -> dict[str, Any]:
    """The answer after so many approvals of what is asked next."""
    first = len(house.man.questions)
    for number in range(first + 1, first + count + 1):
        await house.man.approve(number)
    return await house.end(client)


def vault_of(house: House) -> avault.Vault:
    assert house.holding.store
    return house.holding.store.vault


async def is_asked_for(house: House, name: str) -> bool:
    """Whether the phone is asked before a secret goes out; nobody approves."""
    before = len(house.man.questions)
    group, _, key = name.partition("/")
    for seconds in (0.3, 3.0, 30.0):  # a busy machine may not come to the question in so short a time
        house.keyholder.askings.restraint = avault.Restraint()
        answer = await house.end(await house.begin("get", group=group, key=key, timeout=seconds))
        assert answer["ok"] or answer["error"]["code"] == "timed_out", answer
        if answer["ok"] or len(house.man.questions) > before:
            break
    return len(house.man.questions) > before


# -- an older value, under another name


@pytest.mark.parametrize("then", ["stays", "another value", "deleted"])
async def test_an_older_value_comes_back_under_another_name_and_is_asked_for(house: House, then: str) -> None:
    await set_clear(house, "old/KEY", OLD)
    house.example.path("copy.enc").write_bytes(house.own("avault.enc"))
    assert (await house.ask("delete", group="old", key="KEY"))["ok"]
    await set_clear(house, "new/KEY", OLD)
    assert (await house.ask("guard", group="new", key="KEY", ask=0))["ok"]
    assert avault.is_sealed(vault_of(house).secrets("new", "KEY")[0].value)
    if then == "another value":
        assert (await house.ask("set", group="new", key="KEY", generate=20))["ok"]
    elif then == "deleted":
        assert (await house.ask("delete", group="new", key="KEY"))["ok"]
    assert (await house.ask("restore", file="copy.enc", group="old", key="KEY"))["ok"]
    assert OLD not in vault_of(house).to_json()
    assert await is_asked_for(house, "old/KEY")


async def test_what_a_copy_shows_of_a_guarded_name_is_known_too(house: House) -> None:
    """The value was another one when the guard came; the copy has the one before, under both names."""
    await set_clear(house, "one/KEY", OLD)
    await set_clear(house, "two/KEY", OLD)
    house.example.path("copy.enc").write_bytes(house.own("avault.enc"))
    await set_clear(house, "one/KEY", "the-value-after-it")
    assert (await house.ask("delete", group="two", key="KEY"))["ok"]
    assert (await house.ask("guard", group="one", ask=0))["ok"]
    assert (await house.ask("restore", file="copy.enc", group="two", key="KEY"))["ok"]
    assert OLD not in vault_of(house).to_json()
    assert await is_asked_for(house, "two/KEY")


async def test_what_is_parted_by_the_phone_is_known_no_more(house: House) -> None:
    """And what never was here in clear leaves nothing by which it could be guessed."""
    store = house.holding.store
    assert store and not store.vault.facts_of("had")
    await set_clear(house, "new/KEY", OLD)
    assert (await house.ask("guard", group="new", key="KEY", ask=0))["ok"]
    assert len(store.vault.facts_of("had")) == 1 and OLD not in store.vault.to_json()
    await house.keyholder.change(lambda vault: avault.take_off(vault, "new/KEY", 1, store.machine))
    assert not store.vault.facts_of("had")


async def test_what_is_remembered_of_a_name_has_an_end(house: House) -> None:
    assert (await house.ask("guard", group="new", ask=0))["ok"]
    store = house.holding.store
    assert store

    def put(value: str) -> Callable[[avault.Vault], None]:
        return lambda vault: vault.put("new", "KEY", value, 1, store.machine)

    for number in range(avault.MOST_HAD + 3):
        await house.keyholder.change(put(f"value-number-{number}"))
    assert len(store.vault.facts_of("had")) == avault.MOST_HAD
    assert avault.read_had(store.vault)[avault.print_value(store.vault, "value-number-0")] == ["new/KEY"], (
        "the first are kept: nobody pushes them out"
    )


# -- questions without end


async def test_who_has_the_process_killed_that_asks_pauses(house: House) -> None:
    client = await house.begin("get", **PLACE)
    await house.man.asked(1)
    house.openers[-1].control.close()
    assert (await house.end(client))["error"]["code"] == "unavailable"
    paused = await house.ask("get", **PLACE)
    assert "not asked again for" in paused["error"]["message"] and len(house.man.questions) == 1


async def test_who_leaves_before_the_phone_is_asked_makes_no_pause(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    there = house.man.open
    monkeypatch.setattr(house.man, "open", hang)
    count = len(house.openers)
    client = await house.begin("get", **PLACE)
    async with asyncio.timeout(60):
        while len(house.openers) == count or not house.keyholder.openers.assigned:
            await asyncio.sleep(0.01)
    [link] = house.keyholder.openers.assigned
    client.close()
    async with asyncio.timeout(60):
        while house.logged()[-1] != "timed_out":
            await asyncio.sleep(0.01)
    restraint = house.keyholder.askings.restraint
    assert not restraint.in_vain and not restraint.latest
    monkeypatch.setattr(house.man, "open", there)
    await house.begin("get", **PLACE)
    await house.man.asked(1)
    link.hear({"asking": "CODE"}, None)  # it had asked when it heard that nobody waits


async def test_a_question_that_goes_out_when_nobody_waits_any_more_is_in_vain(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(house.man, "open", hang)
    client = await house.begin("get", **PLACE)
    async with asyncio.timeout(60):
        while not house.keyholder.openers.assigned:
            await asyncio.sleep(0.01)
    [link] = house.keyholder.openers.assigned
    client.close()
    async with asyncio.timeout(60):
        while house.logged()[-1] != "timed_out":
            await asyncio.sleep(0.01)
    for _ in range(2):
        link.hear({"asking": "CODE"}, None)
    async with asyncio.timeout(60):
        while not house.keyholder.askings.restraint.latest:
            await asyncio.sleep(0.01)
    assert len(house.keyholder.askings.restraint.latest) == 1, "once"


def test_who_was_approved_before_does_not_ask_for_all_there_is_without_end() -> None:
    restraint, who = avault.Restraint(), (1, "node", "sh")
    names = [f"a/K{number}" for number in range(avault.FLOOD + 1)]
    restraint.forgive(who, names)
    for name in names[:-1]:
        restraint.check(who, [name])
        restraint.note(who, [name])
    with pytest.raises(avault.Denied, match="not asked again for"):
        restraint.check(who, names[-1:])
    other = (1, "python", "sh")
    restraint.forgive(other, names[-1:])
    restraint.check(other, names[-1:])


# -- through a grant


async def test_a_grants_last_use_may_be_one_that_asks(house: House) -> None:
    """It was counted before the phone is asked, and is not counted again."""
    assert (await house.ask("grant", name="web", only=["stripe/KEY"], times=1))["ok"]
    client = await house.begin("get", through="web", **PLACE)
    assert (await approve_all(house, client))["value"] == VALUE
    assert house.keyholder.grants.known["web"].times == 0
    again = await house.ask("get", through="web", **PLACE)
    assert "as often as it may be" in again["error"]["message"] and len(house.man.questions) == 2


async def test_a_grant_whose_time_ends_while_the_phone_is_asked_gives_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await house.ask("grant", name="web", only=["stripe/KEY"], lasts=60))["ok"]
    client = await house.begin("get", through="web", **PLACE)
    await house.man.approve(1)
    house.keyholder.grants.known["web"].until = 0.0
    await house.man.approve(2)
    answer = await house.end(client)
    assert "the grant web has ended" in answer["error"]["message"] and VALUE not in json.dumps(answer)


async def test_a_grant_has_two_questions_at_once_and_leaves_the_others(house: House) -> None:
    assert (await house.ask("guard", group="many", ask=0))["ok"]
    for number in range(6):
        assert (await house.ask("set", group="many", key=f"K{number}", generate=9))["ok"]
    for name in ("web", "other", "third"):
        assert (await house.ask("grant", name=name, groups=["many"]))["ok"]
    clients = [await house.begin("get", through="web", group="many", key=f"K{number}") for number in range(2)]
    await house.man.asked(2)
    full = await house.ask("get", through="web", group="many", key="K2")
    assert "too many wait for the phone" in full["error"]["message"]
    clients += [await house.begin("get", through="other", group="many", key=f"K{number}") for number in (2, 3)]
    await house.man.asked(4)
    full = await house.ask("get", through="third", group="many", key="K4")
    assert "too many wait for the phone" in full["error"]["message"], "all grants together have half"
    for client in clients[:2]:
        client.close()
    async with asyncio.timeout(60):
        while len(house.keyholder.askings.late) < 2:
            await asyncio.sleep(0.01)
    await house.begin("get", group="many", key="K5")
    assert "wants many/K5 of" in await house.man.asked(5), "who left in vain keeps nobody else away"
    assert len(house.keyholder.askings.late) == 2


async def test_a_refusal_at_the_first_look_is_noted(house: House) -> None:
    session, noted = SimpleNamespace(caller=None), list[str]()

    def admit() -> Any:
        raise avault.Denied("the guards have changed")

    desk: Any = SimpleNamespace(identify=lambda session: {}, release=lambda session, request, outcome: noted.append(outcome))
    with pytest.raises(avault.Denied):
        await avault.serve_asked(desk, session, {"op": "get"}, admit)
    assert noted == ["denied"]


# -- what was opened for a time


async def test_a_value_that_is_set_ends_what_has_the_one_before(house: House) -> None:
    slow = {"group": "slow", "key": "KEY"}
    assert (await house.ask("guard", group="slow", ask=900))["ok"]
    assert (await house.ask("set", **slow, generate=9))["ok"]
    value = (await approve_all(house, await house.begin("get", **slow)))["value"]
    async with asyncio.timeout(60):
        while not house.keyholder.askings.staying:
            await asyncio.sleep(0.01)
    opener = house.openers[-1]
    assert (await house.ask("get", **slow))["value"] == value and len(house.man.questions) == 2
    assert (await house.ask("set", **slow, generate=9))["ok"]
    async with asyncio.timeout(60):
        await opener.ended.wait()
    assert not house.keyholder.askings.staying
    found = await approve_all(house, await house.begin("get", **slow))
    assert found["ok"] and found["value"] != value
    assert (await house.ask("get", **slow))["value"] == found["value"] and len(house.man.questions) == 4


# -- two machines


async def test_what_another_machine_has_set_in_clear_beside_what_is_sealed_is_opened(house: House) -> None:
    store = house.holding.store
    assert store
    now = int(time.time())

    def clash(vault: avault.Vault) -> None:
        there = vault.groups["stripe"].keys["KEY"]
        for number, name in enumerate(("other", "third")):
            there.insert(0, avault.Secret(f"of the {name}", now, now + number + 5, name, 1))

    await house.holding.writer.change(store, clash)
    client = await house.begin("get", **PLACE)
    told = await approve_all(house, client, 4)
    assert (told["value"], told["conflicts"]) == ("of the third", ["of the other", VALUE])
    assert "of the" not in vault_of(house).to_json()
    assert await house.ask("set", **PLACE, generate=9) == {"ok": True, "replaced": True}
    assert (await approve_all(house, await house.begin("get", **PLACE)))["ok"], "that settles it"


async def test_a_merge_of_a_guard_and_of_what_was_set_before_it_was_known_loses_neither(house: House) -> None:
    """One machine sets the guard, the other a value: the later value is the one that counts."""
    await set_clear(house, "both/KEY", "the-first-value")
    store = house.holding.store
    assert store
    theirs = store.vault.copy()
    assert (await house.ask("guard", group="both", ask=0))["ok"]
    theirs.put("both", "KEY", "the-later-value", int(time.time()) + 1, "other")
    theirs.generation["other"] = theirs.generation.get("other", 0) + 1
    house.example.path("theirs.enc").write_bytes(avault.seal_vault(theirs, store.keys))
    assert (await house.ask("merge", theirs="theirs.enc"))["ok"]
    told = await approve_all(house, await house.begin("get", group="both", key="KEY"), 3)
    assert (told["value"], told["conflicts"]) == ("the-later-value", ["the-first-value"])


async def test_a_merge_that_brings_a_known_value_under_another_name_has_it_guarded(house: House) -> None:
    await set_clear(house, "both/KEY", OLD)
    store = house.holding.store
    assert store
    theirs = store.vault.copy()
    assert (await house.ask("guard", group="both", ask=0))["ok"]
    theirs.put("tmp", "KEY", OLD, 1, "other")
    theirs.generation["other"] = theirs.generation.get("other", 0) + 1
    assert theirs.merge(store.vault).to_json() == store.vault.merge(theirs).to_json()
    house.example.path("theirs.enc").write_bytes(avault.seal_vault(theirs, store.keys))
    assert (await house.ask("merge", theirs="theirs.enc"))["ok"]
    assert await is_asked_for(house, "tmp/KEY")


async def test_what_the_operator_has_parted_stays_so_by_a_merge(house: House) -> None:
    """The other machine has it sealed yet; and what was set here by who knew it stays in clear, too."""
    await set_clear(house, "both/KEY", OLD)
    store = house.holding.store
    assert store
    assert (await house.ask("guard", group="both", ask=0))["ok"]
    assert (await house.ask("move", group="both", key="KEY", to_group="tmp", to_key="KEY"))["ok"]
    theirs = store.vault.copy()
    theirs.put("else", "KEY", "elsewhere", 1, "other")
    theirs.generation["other"] = theirs.generation.get("other", 0) + 1
    ours = store.vault.copy()
    avault.take_off(ours, "tmp/KEY", 1, store.machine)
    ours.put("tmp", "KEY", OLD, 1, store.machine)
    ours.generation[store.machine] += 1
    for merged in (ours.merge(theirs), theirs.merge(ours), ours.merge(theirs).merge(theirs.merge(ours))):
        assert merged.secrets("tmp", "KEY")[0].value == OLD
        assert not avault.Guards(merged.facts).of("tmp/KEY") and avault.Guards(merged.facts).of("both/KEY")


async def test_an_older_vault_that_was_accepted_has_known_values_guarded(house: House) -> None:
    """What guards.enc knows of the value counts for the name that it had then."""
    await set_clear(house, "old/KEY", OLD)
    before = house.own("avault.enc")
    assert (await house.ask("delete", group="old", key="KEY"))["ok"]
    await set_clear(house, "new/KEY", OLD)
    assert (await house.ask("guard", group="new", ask=0))["ok"]
    store = house.holding.store
    assert store
    older = avault.open_vault(before, store.keys)
    assert not avault.Guards(older.facts).of("old/KEY")
    joined = avault.KeptGuards(house.places, store.keys).join(older, {})
    assert avault.Guards(joined.facts).of("old/KEY") and joined.secrets("old", "KEY")[0].value == OLD


# -- words


async def test_a_guard_on_many_says_what_it_costs(house: House) -> None:
    store = house.holding.store
    assert store

    def fill(vault: avault.Vault) -> None:
        for number in range(26):
            vault.put("many", f"K{number}", "in clear", 1, store.machine)

    await house.holding.writer.change(store, fill)
    assert (await house.ask("guard", group="many", only=["run"])).get("warning") is None
    told = await house.ask("guard", group="many", ask=0)
    assert told["warning"].startswith("that asks for 26 secrets, each by itself")
