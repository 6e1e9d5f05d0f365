"""Messages to and from the operator, over relays: the word lock out of three apps, its answer, and the notice."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nostr_sdk
import peers
import pytest
from fickle import Event, Fickle
from harness import Machine, wait_until
from peers import Relay
from test_supervisor_alone import Desk, desk  # noqa: F401

import avault

GENEROUS = {"max_reqs": 1000, "notes_per_minute": 10_000}


@pytest.fixture(autouse=True)
def no_loop_of_another_test() -> None:
    """What is told to the library of an event loop is for its process, and tests share one."""
    nostr_sdk.uniffi_set_event_loop(None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    with peers.local_relay(rate_limit=GENEROUS) as relay:
        yield relay


def read_messages(relay: Relay, keys: nostr_sdk.Keys) -> list[tuple[str, str]]:
    """Who wrote to these keys, and what, as far as the relay has it."""

    async def introduce(url: str, challenge: str) -> dict[str, Any]:
        return dict(json.loads(avault.sign_auth(keys, url, challenge)))

    async def read() -> list[tuple[str, str]]:
        found: list[nostr_sdk.Event] = []
        async with avault.StoringRelay(relay.url, introduce) as storing:
            await storing.collect(avault.wanted_messages(avault.public_hex(keys), 0), found.append)
        opened = [avault.open_message(keys, event.as_json()) for event in found]
        return [(author, text) for author, _, text in opened]

    return asyncio.run(read())


def announce_inbox(relay: Relay, keys: nostr_sdk.Keys, *urls: str) -> None:
    """Have the relay know by which relays these keys take messages."""
    event = json.loads(avault.sign_inbox(keys, [*urls]))
    assert asyncio.run(avault.put_event(event, [relay.url])) == {relay.url: "accepted"}


def write(relay: Relay, machine: Machine, text: str) -> None:
    """The operator writes to the agent."""
    event = avault.wrap_message(machine.operator, agent_of(machine), text)
    assert asyncio.run(avault.put_event(json.loads(event), [relay.url])) == {relay.url: "accepted"}


def agent_of(machine: Machine) -> str:
    return avault.parse_npub(str(machine.status()["agent_npub"]))


def turn_on(machine: Machine, relay: Relay) -> None:
    machine("message", "on", "--lock", "--relay", relay.url, "--yes")
    wait_until_heard(machine)


def wait_until_heard(machine: Machine) -> None:
    def is_heard() -> bool:
        told = machine.status()["messages"]
        return bool(told and [each for each in told["relays"] if each["connected"]])

    wait_until(is_heard, what="the word is heard")


def wait_until_locked(machine: Machine) -> None:
    machine.wait_state("unpaired")  # as a locked vault is called where no phone opens it


def open_again(machine: Machine) -> None:
    machine("daemon", "stop")
    machine("daemon", "start", "-b", NOSTR_NSEC=machine.nsec)
    machine.wait_state("unlocked")


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
@pytest.mark.parametrize("library", ["nostr-tools", "ndk", "applesauce"])
def test_the_word_out_of_an_app_locks_and_is_answered(machine: Machine, relay: Relay, library: str) -> None:
    machine.init_proven()
    turn_on(machine, relay)
    agent, operator = agent_of(machine), machine.operator
    with peers.writer(library, operator.secret_key().to_hex()) as app:
        app.send("write", to=agent, relay=relay.url, text="unlock everything")
        app.send("write", to=agent, relay=relay.url, text="Lock")
    wait_until_locked(machine)
    [(author, text)] = wait_until(lambda: read_messages(relay, operator), what="the answer")
    assert author == agent and text.startswith("avault: test@machine locks, ") and text.endswith(" UTC")
    # it was obeyed: it does not lock the vault that is opened after it
    open_again(machine)
    wait_until_heard(machine)
    obeyed = json.loads((machine.own / "messages.json").read_text())["obeyed"]
    wait_until(lambda: time.time() >= obeyed + 1, what="a later second: nostr-tools' are ahead by up to one")
    write(relay, machine, "a word that comes after it, and is read")
    write(relay, machine, "lock")
    wait_until_locked(machine)
    assert len(wait_until(lambda: len(found := read_messages(relay, operator)) > 1 and found, what="the second answer")) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_a_relay_that_gives_messages_to_their_receiver_alone(machine: Machine) -> None:
    """NIP-42: as strfry does by its usual settings. The agent's key says who is there, and a stranger's gets nothing."""
    with peers.local_relay(rate_limit=GENEROUS, auth_dm=True) as relay:
        machine.init_proven()
        turn_on(machine, relay)
        agent = agent_of(machine)
        write(relay, machine, "lock")
        wait_until_locked(machine)
        [(author, text)] = wait_until(lambda: read_messages(relay, machine.operator), what="the answer")
        assert author == agent and "locks, " in text

        async def read_as_a_stranger() -> list[nostr_sdk.Event]:
            found: list[nostr_sdk.Event] = []
            async with avault.StoringRelay(relay.url) as storing:
                await storing.collect(avault.wanted_messages(agent, 0), found.append)
            return found

        with pytest.raises(avault.Unavailable, match="another user's gift wrap"):
            asyncio.run(read_as_a_stranger())


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_a_relay_is_told_only_who_is_there_and_only_one_that_is_listened_to(machine: Machine) -> None:
    machine.init_proven()
    with Fickle() as fickle, Fickle() as quiet:
        fickle.challenge = "c1"
        machine("message", "on", "--lock", "--relay", f"{fickle.url}/", "--yes")
        agent = agent_of(machine)

        def of_agent() -> list[Event]:
            return [event for told in fickle.introduced for event in told if event["pubkey"] == agent]

        [event] = wait_until(of_agent, what="the agent is there")
        assert nostr_sdk.Event.from_json(json.dumps(event)).verify() and event["kind"] == 22_242
        assert event["tags"] == [["relay", fickle.url], ["challenge", "c1"]] and event["content"] == ""
        assert quiet.introduced == []
        places, asked = avault.Places(str(machine.vault)), {"action": "auth", "challenge": "c"}
        places.socket = machine.status()["socket"]
        for given, error in (
            ({"relay": quiet.url}, avault.Denied),
            ({"relay": "x"}, avault.Usage),
            ({"challenge": ""}, avault.Usage),
        ):
            with pytest.raises(error):
                avault.ask_daemon(places, "word", **{"relay": fickle.url, **asked, **given})
        machine("message", "off")
        with pytest.raises(avault.Denied):
            avault.ask_daemon(places, "word", relay=fickle.url, **asked)


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_a_word_that_cannot_be_done_is_answered_so(machine: Machine, relay: Relay) -> None:
    """Nobody has shown that the phone opens this vault: to lock it could lose it."""
    machine.init_unproven(NOSTR_NSEC=avault.make_keys().secret_key().to_bech32())
    turn_on(machine, relay)
    write(relay, machine, "lock")
    [(_, text)] = wait_until(lambda: read_messages(relay, machine.operator), what="the answer")
    assert text.startswith("avault: test@machine is NOT locked, ")
    assert machine.status()["state"] == "unlocked"


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_a_flood_of_strangers_does_nothing(machine: Machine, relay: Relay) -> None:
    """Each is opened, slowly, and the latest first: the operator's word comes through."""
    machine.init_proven()
    turn_on(machine, relay)
    agent, stranger = agent_of(machine), avault.make_keys()

    async def flood() -> None:
        async with avault.StoringRelay(relay.url) as storing:
            for text in [*["lock"] * 100, "x" * 20_000]:
                assert await storing.send(json.loads(avault.wrap_message(stranger, agent, text))) == "accepted"

    asyncio.run(flood())
    assert machine.status()["state"] == "unlocked"
    write(relay, machine, "lock")
    wait_until_locked(machine)
    assert read_messages(relay, stranger) == []


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_off_is_off_and_relays_are_told(machine: Machine, relay: Relay) -> None:
    machine.init_proven()
    turn_on(machine, relay)
    agent = agent_of(machine)
    assert asyncio.run(avault.find_inbox(agent, [relay.url])) == [relay.url]
    assert "lock is heard at" in machine("status").stdout
    time.sleep(1)  # what replaces an event is of a later second (NIP-01)
    machine("message", "off")
    assert asyncio.run(avault.find_inbox(agent, [relay.url])) == []
    assert machine.status()["messages"] is None
    write(relay, machine, "lock")
    assert machine("message", "status").stdout == "the word lock: off\nnotice after five minutes: off\n"
    # what was written meanwhile is not obeyed later, when it is on again: it would be, were it heard now
    assert machine.status()["state"] == "unlocked"


@pytest.mark.usefixtures("forks")
@pytest.mark.slow
def test_what_cannot_be_is_refused_with_the_next_step(machine: Machine) -> None:
    machine.init_proven()
    assert "avault message on --notice, or --lock, or both" in machine("message", "on", code=2).stderr
    assert "avault pair" in machine("message", "on", "--notice", code=4).stderr
    assert "--relay wss://" in machine("message", "on", "--lock", "--yes", code=2).stderr
    refused = machine("message", "on", "--lock", "--relay", "ws://127.0.0.1:9", "--yes", code=6).stderr
    assert "no relay takes it" in refused
    assert machine.status()["messages"] is None
    (machine.own / "messages.json").write_text("{}")
    assert "messages.json is damaged" in machine("message", "status", code=8).stderr
    assert machine.status()["messages"] is None


@pytest.fixture
def waiting(desk: Desk, relay: Relay) -> Desk:  # noqa: F811
    """A supervisor whose vault waits for the phone, and that tells the operator of it at once."""
    pairing = avault.Pairing.load(desk.places)
    assert pairing
    pairing.relays = [relay.url]
    pairing.save(desk.places)
    avault.MessageSettings(notice=True).save(desk.places)
    desk.supervisor.companions.messenger.WAIT = 0.0  # type: ignore[misc]
    return desk


def wait_for_the_phone(desk: Desk, begun: float) -> None:  # noqa: F811
    warden = desk.supervisor.warden
    warden.condition.report = {"name": "test@machine", "code": "7K3F", "waiting": {"since": "2026-11-27T12:03:04Z"}}
    warden.question.begun = begun
    warden.condition.turn("waiting")


async def test_who_lets_the_vault_wait_gets_one_notice_in_an_asking(waiting: Desk, relay: Relay) -> None:
    operator, messenger = waiting.example.operator, waiting.supervisor.companions.messenger
    await asyncio.to_thread(announce_inbox, relay, operator, relay.url)
    wait_for_the_phone(waiting, 1.0)
    async with asyncio.timeout(60):
        while not messenger.notice:
            await asyncio.sleep(0.02)
    assert messenger.notice == {"ok": True, "said": {relay.url: "accepted"}}
    pairing = avault.Pairing.load(waiting.places)
    assert pairing
    text = "avault: test@machine has waited since 12:03 UTC, code 7K3F. Approve only in your signer app."
    found = await asyncio.to_thread(read_messages, relay, operator)
    assert found == [(avault.public_hex(pairing.keys), text)]
    messenger.notice = None
    wait_for_the_phone(waiting, 1.0)  # still the same asking
    for _ in range(20):
        await asyncio.sleep(0)
    assert not messenger.tasks
    wait_for_the_phone(waiting, 2.0)
    async with asyncio.timeout(60):
        while not messenger.notice:
            await asyncio.sleep(0.02)
    assert len(await asyncio.to_thread(read_messages, relay, operator)) == 2


async def test_a_notice_that_can_go_nowhere_is_said(waiting: Desk) -> None:
    messenger = waiting.supervisor.companions.messenger
    wait_for_the_phone(waiting, 1.0)
    async with asyncio.timeout(60):
        while not messenger.notice:
            await asyncio.sleep(0.02)
    assert messenger.notice["ok"] is False and "kind 10050" in messenger.notice["problem"]


def test_a_notice_has_no_link() -> None:
    text = avault.compose_notice("evil.example.com on db1", "2026-11-27T12:03:04Z", "7K3F")
    assert text.startswith("avault: evil example com on db1 has waited since 12:03 UTC, code 7K3F. ") and "://" not in text
    for name, since, code in (
        ("x" * 65, "2026-11-27T12:03:04Z", "7K3F"),
        ("a", "now, go to", "7K3F"),
        ("a", "2026-11-27T12:03:04Z", "b.co"),
    ):
        with pytest.raises(avault.Usage):
            avault.compose_notice(name, since, code)


async def test_settings_that_cannot_be_read_are_off(desk: Desk) -> None:  # noqa: F811
    path = desk.example.path("messages.json")
    path.symlink_to(path)
    assert desk.supervisor.companions.messenger.describe() is None
    assert (await desk.ask("status"))["messages"] is None


def test_settings_are_read_as_they_were_written(tmp_path: Path, place: Any) -> None:
    places = avault.Places(str(tmp_path))
    (Path(places.state)).mkdir(parents=True)
    assert (avault.MessageSettings.load(places).lock, avault.MessageSettings.load(places).notice) == (False, False)
    settings = avault.MessageSettings(lock=True, relays=["wss://a.example"])
    settings.obeyed = 7
    settings.save(places)
    found = avault.MessageSettings.load(places)
    assert (found.lock, found.notice, found.relays, found.obeyed) == (True, False, ["wss://a.example"], 7)
