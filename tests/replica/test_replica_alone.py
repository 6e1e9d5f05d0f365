"""What a machine puts on one relay, by itself: cut off, with its state lost, with a clock that was wrong. No daemon, no vault."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fickle import Event, Fickle

import avault

KEYS = avault.make_keys()
REPLICA = avault.replica_keys(KEYS)
AUTHOR, AGENT = avault.public_hex(REPLICA), avault.public_hex(KEYS)
MACHINE = "0" * 16
SIZE = 120_000  # of a copy: of two parts, and a head


class Cut(BaseException):
    """The process is killed."""


class Sender:
    """A machine whose vault is any bytes, and one relay."""

    def __init__(self, top: Path, relay: Fickle) -> None:
        self.places, self.relay, self.count = avault.Places(str(top / "vault")), relay, 0
        self.places.state = str(top / "state")
        (top / "state").mkdir(mode=0o700)

    def write(self) -> None:
        """A write, laid ready."""
        self.count += 1
        self.sign(f"{self.count:08}" * (SIZE // 8))

    def sign(self, text: str) -> None:
        with avault.change_progress(self.places) as progress:
            progress.belong(MACHINE, AUTHOR)
            outbox, slots, last = avault.Outbox.load(self.places), [], progress.content["last"]
            for slot in (0, 1):
                generation = {MACHINE: self.count}
                slots.append(avault.compose_copy(REPLICA, MACHINE, generation, text.encode(), slot, last))
                last = slots[-1][-1]["created_at"]
            progress.content["last"] = last
            outbox.machine, outbox.author, outbox.agent, outbox.relays = MACHINE, AUTHOR, AGENT, [self.relay.url]
            outbox.names, outbox.slots, outbox.hash = {AGENT: avault.name_root(AGENT)}, slots, avault.sha256(text.encode()).hex()
            outbox.roots = outbox.roots or {AGENT: root(0)}
            outbox.save(self.places)

    def send(self, insist: bool = True) -> bool:
        """Send it; whether something else is to be signed first."""
        return asyncio.run(avault.send_all(self.places, insist))

    def lose_state(self, is_read: bool = True) -> None:
        """And know nothing but what the keyholder has read of what the relay has."""
        Path(self.places.own("replica.json")).write_text("damaged")
        with avault.change_progress(self.places) as progress:
            progress.belong(MACHINE, AUTHOR)
            for each in self.relay.events.values():
                if is_read and len(each["tags"]) == 2:
                    progress.see(each["id"])

    def about(self) -> dict[str, Any]:
        return avault.ReplicaProgress.load(self.places).relay(self.relay.url)

    def change(self, **changes: Any) -> None:
        avault.note_relay(self.places, self.relay.url, **changes)

    def there(self) -> list[int]:
        """Of which writes the relay has a whole copy."""

        async def find() -> list[int]:
            async with avault.Readers([self.relay.url]) as readers:
                found = avault.merge_found(await readers.find_heads(AUTHOR, avault.name_event(REPLICA, "heads")))
                heads = [avault.read_head(REPLICA, each.event) for each in found]
                whole = [head for head in heads if await readers.find_copy(AUTHOR, head) is not None]
                return [head["generation"][MACHINE] for head in whole]

        return asyncio.run(find())


def root(after: int, text: str = "x") -> Event:
    return avault.compose_root(KEYS, {"envelope": text, "sealed": text}, after)


def roots(relay: Fickle) -> list[str]:
    return [event["id"] for event in relay.events.values() if event["pubkey"] == AGENT]


@pytest.fixture
def fickle() -> Iterator[Fickle]:
    with Fickle() as relay:
        yield relay


@pytest.fixture
def sender(tmp_path: Path, fickle: Fickle) -> Sender:
    """Its first write is on the relay."""
    sender = Sender(tmp_path, fickle)
    sender.write()
    assert sender.send() is False
    assert sender.there() == [1]
    return sender


def refuse_after(relay: Fickle, number: int) -> None:
    relay.reset(refuse=dict.fromkeys(range(number, 100), "rate-limited: slow down"))


def be_cut_off(sender: Sender, fickle: Fickle) -> None:
    """Write once more, and send of it one part."""
    sender.write()
    refuse_after(fickle, 1)
    sender.send()


# The live slot is never written


def test_a_head_that_was_taken_though_its_answer_was_lost(sender: Sender, fickle: Fickle) -> None:
    """The next write goes to the other slot, and is cut off after one part: what the head names is whole."""
    sender.write()
    fickle.reset(keep_cut={2})
    sender.send()
    assert sender.there() == [2]
    be_cut_off(sender, fickle)
    assert sender.there() == [2]
    fickle.reset()
    sender.send()
    assert sender.there() == [3]


def test_a_head_that_was_not_taken(sender: Sender, fickle: Fickle) -> None:
    sender.write()
    fickle.reset(drop={2})
    sender.send()
    be_cut_off(sender, fickle)
    assert sender.there() == [1]


def test_killed_when_the_head_is_there(sender: Sender, fickle: Fickle, monkeypatch: pytest.MonkeyPatch) -> None:
    async def killed(*_: object) -> None:
        raise Cut

    sender.write()
    with monkeypatch.context() as patch:
        patch.setattr(avault.Delivery, "send_roots", killed)
        with pytest.raises(Cut):
            sender.send()
    assert sender.there() == [2]
    be_cut_off(sender, fickle)
    assert sender.there() == [2]


@pytest.mark.parametrize("writes", [0, 1])
def test_a_lost_state_is_found_by_the_head(sender: Sender, fickle: Fickle, writes: int) -> None:
    """One that is laid ready is kept as it is: nothing is sent again, and the next goes to the other slot."""
    for _ in range(writes):
        sender.write()
        sender.send()
    sender.lose_state(is_read=False)
    with avault.change_progress(sender.places) as progress:
        progress.content["last"] = avault.Outbox.load(sender.places).latest()
    begun = len(fickle.received)
    sender.send()
    assert len(fickle.received) == begun
    assert sender.about()["slot"] == writes
    be_cut_off(sender, fickle)
    assert sender.there() == [writes + 1]


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_lost_state_is_found_by_the_parts(sender: Sender, fickle: Fickle, writes: int) -> None:
    """Also where the relay gives old events after the new ones."""
    old = [*fickle.events.values()]
    for _ in range(writes):
        sender.write()
        sender.send()
    sender.lose_state()
    fickle.answer = lambda events: [*events, *(each for each in old if each["pubkey"] == AUTHOR)]
    be_cut_off(sender, fickle)
    assert max(sender.there()) == writes + 1


def test_a_lost_state_puts_nothing_away_that_was_not_read(
    sender: Sender, fickle: Fickle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a backup from before relays kept it. What each relay has of this machine is read, not the latest of all alone."""
    sender.write()
    sender.send()
    with Fickle() as later:
        later.events = {key: event for key, event in fickle.events.items() if event["pubkey"] == AUTHOR}
        for event in avault.compose_copy(REPLICA, MACHINE, {MACHINE: 3}, b"a" * SIZE, 0, int(time.time()) + 5):
            later.keep(event)
        os.unlink(sender.places.own("replica-outbox.json"))
        sender.lose_state(is_read=False)
        sender.count = 0
        for _ in range(2):
            sender.write()
            sender.send()
            assert (sender.there(), sender.about()["said"]) == ([2], "has a later copy of this machine")
        about = {"relays": [fickle.url, later.url], "author": AUTHOR, "heads": avault.name_event(REPLICA, "heads")}
        monkeypatch.setattr(avault, "ask_daemon", know_all)
        asyncio.run(avault.take_in(sender.places, about, {"taken": 0, "problems": []}))
    for _ in range(2):  # it may have to be signed for a later second
        sender.write()
        sender.send()
    assert sender.there() == [4]


def know_all(_places: object, _op: str, **fields: Any) -> Any:
    """A keyholder whose vault has what all heads have."""
    return {"heads": [], "known": [event["id"] for event in fields["value"]["events"]]}


def test_a_lost_outbox_leaves_what_is_there_whole(sender: Sender, fickle: Fickle) -> None:
    """The same vault, signed anew: its events are others, and are not put into the slot that is live."""
    sender.sign("00000001" * (SIZE // 8))
    refuse_after(fickle, 1)
    sender.send()
    assert sender.there() == [1]


@pytest.mark.parametrize("is_read", [False, True])
def test_a_state_from_a_backup_puts_no_newer_copy_away(sender: Sender, tmp_path: Path, is_read: bool) -> None:
    """Of what it does not know; what the keyholder has read, it knows."""
    shutil.copytree(tmp_path / "state", tmp_path / "night")
    sender.write()
    sender.send()
    [head] = [each["id"] for each in sender.relay.events.values() if len(each["tags"]) == 2]
    shutil.rmtree(tmp_path / "state")
    shutil.copytree(tmp_path / "night", tmp_path / "state")
    if is_read:
        with avault.change_progress(sender.places) as progress:
            progress.see(head)
    sender.count = 6
    for _ in range(2):  # it may have to be signed for a later second
        sender.write()
        sender.send()
    assert sender.there() == [8 if is_read else 2]
    assert sender.about()["said"] == (None if is_read else "has a later copy of this machine")


def test_a_copy_of_ours_from_a_time_to_come(sender: Sender, fickle: Fickle) -> None:
    """The state is lost, and the clock was ahead once: it is seen, so that other addresses are taken."""
    far = int(time.time()) + 86_400
    for event in avault.compose_copy(REPLICA, MACHINE, {MACHINE: 7}, b"a" * SIZE, 0, far):
        fickle.keep(event)
    sender.lose_state()
    sender.write()
    assert sender.send() is True
    with avault.change_progress(sender.places) as progress:
        assert progress.content["last"] > far
        progress.move_on()
        assert "a clock was ahead" in progress.content["notes"][0]
        assert (progress.content["epoch"], progress.content["last"]) == (1, 0)
        progress.move_on()
        assert (progress.content["epoch"], len(progress.content["notes"])) == (1, 1)
    there = avault.name_parts(REPLICA, avault.name_place(MACHINE, 1), 0, 1)
    assert there != avault.name_parts(REPLICA, MACHINE, 0, 1)


def test_after_each_accepted_rollback_nothing_comes_in_by_itself(sender: Sender) -> None:
    """Also after a second one in a row, be it to the same copy: until somebody says so."""
    for accepted in ("one", "two"):
        for _ in range(2):
            with avault.change_progress(sender.places) as progress:
                avault.note_rollback(progress, {"rollback": accepted})
            assert not avault.may_take(sender.places, {"problems": []}, insist=False)
        assert avault.may_take(sender.places, {"problems": []}, insist=True)
        with avault.change_progress(sender.places) as progress:
            avault.note_rollback(progress, {"rollback": accepted})
        assert avault.may_take(sender.places, {"problems": []}, insist=False)


# Roots


def test_a_root_that_a_later_one_has_followed_is_never_sent_again(sender: Sender, fickle: Fickle) -> None:
    """The phone may have opened it. Another is signed for a relay that has none."""
    first = avault.Outbox.load(sender.places).roots[AGENT]
    later = root(first["created_at"] + 100, "later")
    with avault.change_progress(sender.places) as progress:
        progress.know_root(AGENT, later["created_at"])
    sender.change(root="", checked=0)
    for kept in ({}, {first["id"]: first}):
        fickle.events = {key: event for key, event in fickle.events.items() if event["pubkey"] != AGENT}
        for event in kept.values():
            fickle.keep(event)
        begun = len(fickle.received)
        assert sender.send() is True
        assert [event["id"] for event in fickle.received[begun:]] == []
        assert avault.ReplicaProgress.load(sender.places).content["wants"] == [AGENT]
    outbox = avault.Outbox.load(sender.places)
    outbox.roots = {AGENT: (fresh := root(later["created_at"], "fresh"))}
    outbox.save(sender.places)
    assert sender.send() is False
    assert roots(fickle) == [fresh["id"]]
    assert sender.about()["root"] == fresh["id"]


def test_a_later_root_of_another_machine_stays(sender: Sender, fickle: Fickle) -> None:
    later = root(int(time.time()) + 100, "later")
    fickle.keep(later)
    sender.change(looked=0)
    assert sender.send(insist=False) is False
    assert roots(fickle) == [later["id"]]
    assert avault.ReplicaProgress.load(sender.places).content["roots"][AGENT] == later["created_at"]


def test_farewells(sender: Sender, fickle: Fickle) -> None:
    """Of an agent before: put there, and put there again where whoever has its key has put another root."""
    old, outbox = avault.make_keys(), avault.Outbox.load(sender.places)
    before = avault.public_hex(old)
    statement = avault.make_statement(old, "v", AGENT)
    outbox.names |= {before: avault.name_root(before)}
    outbox.statements = {before: statement}
    outbox.save(sender.places)
    assert sender.send() is True
    for _ in range(2):
        after = avault.ReplicaProgress.load(sender.places).content["roots"].get(before, 0)
        outbox.roots |= {before: avault.compose_farewell(old, statement, after)}
        outbox.save(sender.places)
        assert sender.send() is False
        [there] = [event for event in fickle.events.values() if event["pubkey"] == before]
        assert avault.read_farewell(there, before) == AGENT
        assert sender.about()["farewells"] == [before]
        thief = avault.compose_root(old, {"envelope": "x", "sealed": "x"}, there["created_at"] + 5)
        fickle.keep(thief)
        sender.change(checked=0)
        assert sender.send() is True


def test_a_farewell_that_names_another_is_put_away_and_spread_to_no_relay(sender: Sender, fickle: Fickle) -> None:
    """Whoever has the key that was rotated away can say that a key of theirs takes its place."""
    old, outbox = avault.make_keys(), avault.Outbox.load(sender.places)
    before, stranger = avault.public_hex(old), avault.public_hex(avault.make_keys())
    statement = avault.make_statement(old, "v", AGENT)
    ours = avault.compose_farewell(old, statement, int(time.time()) - 20)
    forged = avault.compose_farewell(old, avault.make_statement(old, "v", stranger), ours["created_at"] + 5)
    fickle.keep(forged)
    with Fickle() as other:
        outbox.relays.append(other.url)
        outbox.names |= {before: avault.name_root(before)}
        outbox.statements, outbox.roots = {before: statement}, {**outbox.roots, before: ours}
        outbox.save(sender.places)
        assert sender.send() is True
        assert forged["id"] not in {event["id"] for event in other.events.values()}
        after = avault.ReplicaProgress.load(sender.places).content["roots"][before]
        assert after >= forged["created_at"]
        outbox.roots[before] = avault.compose_farewell(old, statement, after)
        outbox.save(sender.places)
        assert sender.send() is False
        for relay in (fickle, other):
            [there] = [event for event in relay.events.values() if event["pubkey"] == before]
            assert avault.read_farewell(there, before) == AGENT


def test_a_rotation_is_noted_and_stays_noted(sender: Sender, fickle: Fickle) -> None:
    """Whoever has the old key can have the statement put away, or make another: then nobody is named."""
    sender.write()

    def note(event: dict[str, Any] | None) -> list[str]:
        fickle.events.clear()
        if event:
            fickle.keep(event)
        asyncio.run(avault.note_rotated(sender.places))
        return avault.explain_rotated(sender.places)

    def say(by: Any, named: str) -> dict[str, Any]:
        return avault.compose_farewell(by, avault.make_statement(by, "v", named), int(time.time()))

    one, two = (avault.public_hex(avault.make_keys()) for _ in range(2))
    assert note(root(0)) == note(None) == note(say(avault.make_keys(), one)) == []
    [told] = note(say(KEYS, one))
    assert "avault lock; avault recover --from-relays NPUB, the npub that rotate agent has shown" in told
    assert "npub1" not in told and len(told) < 200
    assert note(None) == note(root(0)) == [told]
    [told] = note(say(KEYS, two))
    assert "several keys" in told and "npub1" not in told and len(told) < 200
    with avault.change_progress(sender.places) as progress:
        progress.belong(MACHINE, "another key")
    assert avault.explain_rotated(sender.places) == []


def test_no_root_is_put_over_a_farewell(sender: Sender, fickle: Fickle) -> None:
    """Another machine has rotated the key that this one still has."""
    said = avault.compose_farewell(KEYS, avault.make_statement(KEYS, "v", "0" * 64), int(time.time()) + 5)
    fickle.keep(said)
    sender.change(checked=0)
    sender.send()
    assert sender.about()["said"] == "says that the agent's key was rotated"
    assert roots(fickle) == [said["id"]]


def lose_root(relay: Fickle) -> None:
    relay.events = {key: event for key, event in relay.events.items() if event["pubkey"] != AGENT}


def is_kept(sender: Sender) -> bool:
    [row] = avault.describe_relays(sender.places)["relays"]
    return bool(row["kept"])


def test_a_root_is_looked_at_each_week_however_often_copies_are_sent(
    sender: Sender, fickle: Fickle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And as long as nobody has looked, nobody says that it is there."""
    lose_root(fickle)
    begun = time.time()
    monkeypatch.setattr(time, "time", lambda: begun + 6 * 86_400)
    sender.write()
    assert sender.send(insist=False) is False
    assert is_kept(sender)
    monkeypatch.setattr(time, "time", lambda: begun + 9 * 86_400)
    assert not is_kept(sender)
    assert avault.describe_relays(sender.places)["next"] <= begun + 7 * 86_400
    sender.write()
    assert sender.send(insist=False) is True
    assert sender.about()["said"] == "has no root yet"


def test_who_insists_has_the_root_looked_at(sender: Sender, fickle: Fickle) -> None:
    lose_root(fickle)
    assert sender.send() is True
    assert not is_kept(sender)


def test_a_root_that_another_relay_has_is_put_where_it_lacks(sender: Sender, fickle: Fickle) -> None:
    """As it is: nothing is signed, and nothing that it has followed is sent."""
    with Fickle() as other:
        later = root(int(time.time()) + 5, "later")
        other.keep(later)
        lose_root(fickle)
        outbox = avault.Outbox.load(sender.places)
        outbox.relays.append(other.url)
        outbox.save(sender.places)
        begun = len(fickle.received)
        assert sender.send() is False
        assert [event["id"] for event in fickle.received[begun:]] == roots(other) == [later["id"]]
        other.keep(avault.compose_farewell(KEYS, avault.make_statement(KEYS, "v", "0" * 64), later["created_at"]))
        lose_root(fickle)
        sender.send()
        assert "another relay says that the agent's key was rotated" in sender.about()["said"]
        assert roots(fickle) == []


def sign(sender: Sender, event: Event) -> None:
    """A root, as the keyholder has signed it."""
    with avault.change_progress(sender.places) as progress:
        outbox = avault.Outbox.load(sender.places)
        avault.keep_root(progress, outbox, AGENT, event)
        outbox.save(sender.places)


def test_a_root_of_a_wrong_clock_counts_where_it_is(sender: Sender, fickle: Fickle) -> None:
    """It keeps no root from a relay that does not take such a time, then or later."""
    far = root(int(time.time()) + 365 * 86_400, "far")
    with Fickle() as other:
        other.keep(far)
        lose_root(fickle)
        outbox = avault.Outbox.load(sender.places)
        outbox.relays.append(other.url)
        outbox.save(sender.places)
        assert sender.send() is True
        assert roots(fickle) == []
        sign(sender, fresh := root(0, "fresh"))
        assert sender.send() is False
        assert (roots(fickle), roots(other)) == ([fresh["id"]], [far["id"]])
    with avault.change_progress(sender.places) as progress:
        progress.content["roots"][AGENT] = far["created_at"]
        progress.move_on()
        assert progress.content["roots"] == {}


def ask_keyholder(sender: Sender, monkeypatch: pytest.MonkeyPatch, store: Any, others: Event) -> Any:
    """The keyholder's answer to a stage: of an open vault whose latest root is that."""
    keyholder = SimpleNamespace(open_store=lambda: store, release=lambda *_: None)

    def ask(_places: object, _op: str, **fields: Any) -> Any:
        return asyncio.run(avault.sign_root(keyholder, None, fields))

    monkeypatch.setattr(avault, "ask_daemon", ask)
    with avault.change_progress(sender.places) as progress:
        progress.note_root(AGENT, others, is_sent=False)
        outbox = avault.Outbox.load(sender.places)
        avault.sign_roots(sender.places, {"roots": {AGENT: 1}}, progress, outbox)
        return outbox.roots[AGENT]


def test_no_root_for_an_operator_before_takes_the_place_of_another(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that does not know of the new one signs none; one that does puts its own over one of before."""
    old, new = avault.make_keys(), avault.make_keys()
    vault = avault.Vault("0" * 32, AGENT, avault.public_hex(old), "bot")
    store = SimpleNamespace(keys=KEYS, vault=vault, trouble=None)
    made = int(time.time())

    def root_for(operator: Any, after: int) -> Event:
        content = avault.seal_root(KEYS, vault.identity, avault.public_hex(operator), vault.name)
        return avault.compose_root(KEYS, content, after)

    with pytest.raises(avault.Denied, match="another first operator"):
        ask_keyholder(sender, monkeypatch, store, root_for(new, made))
    vault.state(avault.SUCCEEDED, avault.public_hex(new), 1, MACHINE)
    before = avault.Outbox.load(sender.places).roots[AGENT]
    assert ask_keyholder(sender, monkeypatch, store, root_for(new, made + 1)) == before
    late = root_for(old, made + 2)
    fresh = ask_keyholder(sender, monkeypatch, store, late)
    assert fresh["created_at"] > late["created_at"]
    avault.decrypt(new, AGENT, json.loads(fresh["content"])["envelope"])
    store.trouble = avault.Locked("another first operator")
    with pytest.raises(avault.Locked):
        ask_keyholder(sender, monkeypatch, store, root_for(old, made + 5))


@pytest.mark.parametrize("wrong", ["author", "statement", "type", "agent", "none"])
def test_what_is_no_farewell(wrong: str) -> None:
    stranger = avault.make_keys()
    statement = avault.make_statement(stranger if wrong == "statement" else KEYS, "v", "xyz" if wrong == "agent" else "0" * 64)
    if wrong == "type":
        statement = avault.sign_text(KEYS, json.dumps({"type": "avault/other", "agent": "0" * 64}))
    event = avault.compose_farewell(stranger if wrong == "author" else KEYS, statement, 0)
    event = root(0) if wrong == "none" else event
    assert avault.read_farewell(event, AGENT) is None


# Clocks


def test_a_pause_that_a_wrong_clock_has_made(sender: Sender) -> None:
    sender.write()
    year = int(time.time()) + 365 * 86_400
    sender.change(said="refused", failures=1, next=year, checked=year)
    sender.send(insist=False)
    assert sender.there() == [2]


def test_a_look_that_a_wrong_clock_has_noted(sender: Sender, fickle: Fickle) -> None:
    fickle.events.clear()
    sender.change(checked=int(time.time()) + 365 * 86_400)
    sender.send(insist=False)
    assert sender.there() == [1]


# Relays that say nothing, or slowly


def test_an_answer_without_its_end_is_none(fickle: Fickle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault, "PATIENCE", 2.0)
    fickle.keep(root(0))
    fickle.ends = False

    async def ask() -> None:
        async with avault.StoringRelay(fickle.url) as relay:
            await relay.fetch(AGENT, names=[avault.name_root(AGENT)])

    with pytest.raises(avault.Unavailable, match="does not say what it has"):
        asyncio.run(ask())


def test_a_silent_relay_vouches_for_nothing(fickle: Fickle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault, "PATIENCE", 2.0)
    fickle.ends = False

    async def ask() -> tuple[dict[str, Any], list[str]]:
        async with avault.Readers([fickle.url]) as readers:
            return await readers.find_roots(AGENT, "x"), readers.silent

    assert asyncio.run(ask()) == ({}, [fickle.url])


async def find(*relays: Fickle) -> tuple[list[str] | None, list[str]]:
    """The parts of the one copy, and who is silent."""
    async with avault.Readers([each.url for each in relays]) as readers:
        [found] = avault.merge_found(await readers.find_heads(AUTHOR, avault.name_event(REPLICA, "heads")))
        head = avault.read_head(REPLICA, found.event)
        return await readers.find_copy(AUTHOR, head), readers.silent


def test_a_relay_that_never_ends_keeps_nothing_out(sender: Sender, fickle: Fickle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither heads nor parts: it is waited for as long as one is after another has answered, and parts come from both."""
    monkeypatch.setattr(avault, "GRACE_OF_RELAYS", 0.3)
    monkeypatch.setattr(avault, "PATIENCE", 60.0)
    with Fickle() as endless:
        endless.events = dict(fickle.events)
        endless.ends = False
        begun = time.monotonic()
        parts, silent = asyncio.run(find(endless, fickle))
        assert parts and len(parts) == 2
        assert silent == [endless.url]
        assert time.monotonic() - begun < 30


def test_parts_count_as_they_come(sender: Sender, fickle: Fickle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of an answer without its end; where no other comes, it is not whole."""
    monkeypatch.setattr(avault, "PATIENCE", 1.5)
    monkeypatch.setattr(avault, "PATIENCE_FOR_PARTS", 3.0)
    heads = [each for each in fickle.events.values() if len(each["tags"]) == 2]
    head = avault.read_head(REPLICA, heads[0])
    fickle.ends = False

    async def fetch() -> list[str] | None:
        async with avault.Readers([fickle.url]) as readers:
            return await readers.find_copy(AUTHOR, head)

    assert asyncio.run(fetch())
    first = head["parts"][0]
    fickle.answer = lambda events: [each for each in events if ["d", first] not in each["tags"]]
    assert asyncio.run(fetch()) is None


def test_what_one_copy_meets_keeps_no_other_out(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused for its operator, or its parts do not come: the others are taken, and what is wrong is said."""
    machines = ["a" * 16, "b" * 16, "c" * 16]
    for machine in machines:
        for event in avault.compose_copy(REPLICA, machine, {machine: 3}, b"x" * SIZE, 0, 0):
            if machine != "b" * 16 or len(event["tags"]) == 2:
                sender.relay.keep(event)

    def ask(_places: object, _op: str, **fields: Any) -> Any:
        if fields["action"] == "heads":
            heads = [avault.read_head(REPLICA, event) for event in fields["value"]["events"]]
            return {"heads": [avault.describe_head(head) for head in heads], "known": []}
        return {"generation": {MACHINE: 9}, "copy": ""}

    def take(_places: object, _about: object, head: dict[str, Any], _data: bytes) -> None:
        if head["machine"] == "a" * 16:
            raise avault.Locked("it has another first operator")

    monkeypatch.setattr(avault, "ask_daemon", ask)
    monkeypatch.setattr(avault, "take_copy", take)
    about = {"relays": [sender.relay.url], "author": AUTHOR, "heads": avault.name_event(REPLICA, "heads")}
    told = asyncio.run(avault.try_to_take(sender.places, about))
    assert told["taken"] == 1
    assert sorted(told["problems"]) == [
        f"a copy of machine {'b' * 16} is not whole on any relay",
        "it has another first operator",
    ]
    progress = avault.ReplicaProgress.load(sender.places).content
    assert len(progress["late"]) == 1


def test_a_slow_relay_has_a_budget(sender: Sender, fickle: Fickle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault, "BUDGET", 1.0)
    sender.write()
    fickle.reset(silent=range(100))
    begun = time.monotonic()
    sender.send()
    assert time.monotonic() - begun < 30
    assert sender.about()["said"] == "did not take it all in 1 s"


def test_a_lock_is_waited_for_and_not_for_ever(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault, "LOCK_WAIT", 0.2)
    with (
        avault.hold_lock(sender.places, "replica.sending"),
        pytest.raises(avault.Unavailable),
        avault.hold_lock(sender.places, "replica.sending"),
    ):
        pass
    with avault.hold_lock(sender.places, "replica.sending"):
        pass


def test_one_look_at_a_time_and_each_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's process that hangs is killed; no second one is begun beside it."""
    replicator = avault.Replicator(avault.Places(str(tmp_path)))
    replicator.LONGEST = 0.5
    lines = tmp_path / "lines"
    hang = f"import time; open({str(lines)!r}, 'a').write('begun\\n'); time.sleep(60)"
    monkeypatch.setattr(avault, "own_command", lambda *_: [sys.executable, "-c", hang])

    async def keep() -> None:
        await asyncio.gather(replicator.keep(False, True), replicator.keep(False, True))

    started = []
    real = avault.start_program

    def start(*words: Any, **fields: Any) -> Any:
        assert all(each.poll() is not None for each in started), "one is under way"
        started.append(real(*words, **fields))
        return started[-1]

    monkeypatch.setattr(avault, "start_program", start)
    asyncio.run(keep())
    assert [each.returncode for each in started] == [-signal.SIGKILL] * 2
    assert replicator.is_unsent
    assert replicator.due["send"] < avault.NEVER


def test_what_a_look_said_stays_until_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is laid ready afterwards asks no relay, and so has nothing to say of them; what it has to say comes to it."""
    replicator = avault.Replicator(avault.Places(str(tmp_path)))
    look = {"relays": [], "asked": 5, "taken": 1, "problems": ["an older copy was taken"], "problem": None}
    laid = {"relays": [], "asked": None, "taken": 0, "problems": ["a clock was ahead"], "problem": "not as it should be"}

    async def ask(*words: str) -> dict[str, Any]:
        return look if words else laid

    monkeypatch.setattr(replicator, "ask", ask)
    asyncio.run(replicator.keep(True, False))
    asyncio.run(replicator.stage())
    problems = ["an older copy was taken", "a clock was ahead"]
    assert replicator.said == look | {"problem": "not as it should be", "problems": problems}


async def test_a_lock_waits_for_what_is_being_laid_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was begun before the lock, and would find the vault locked."""
    replicator = avault.Replicator(avault.Places(str(tmp_path)))
    may, told = asyncio.Event(), list[str]()

    async def ask(*words: str) -> dict[str, Any]:
        await may.wait()
        told.append("laid ready")
        return {}

    monkeypatch.setattr(replicator, "ask", ask)
    begun = asyncio.ensure_future(replicator.stage())
    await asyncio.sleep(0)
    settled = asyncio.ensure_future(replicator.settle())
    await asyncio.sleep(0)
    assert not settled.done()
    may.set()
    await asyncio.gather(begun, settled)
    assert told


# What is counted


def test_one_relay_has_many_spellings() -> None:
    one = "wss://relay.example"
    same = ("wss://relay.example/", "wss://Relay.Example", "wss://relay.example:443", "wss://relay.example.", one)
    assert {avault.normalise_relay(url) for url in same} == {one}
    assert avault.normalise_relay("ws://relay.example:80/Path") == "ws://relay.example/Path"
    assert avault.normalise_relay("wss://relay.example:444") == "wss://relay.example:444"
    assert avault.count_hosts([one, one + "/a", "wss://me@relay.example"]) == 1
    assert avault.count_hosts([one, "wss://other.example"]) == 2
    assert avault.normalise_relay("wss://relay.example:0443") == one
    assert avault.normalise_relay("ws://[::1]:0070") == "ws://[::1]:70"
    assert avault.count_hosts([one, "wss://relay.example:444", "wss://relay.example:445/a"]) == 1
    assert avault.count_hosts(["ws://127.0.0.1:1", "ws://127.0.0.1:2", "ws://[::1]:3", "ws://[2001:db8::1]"]) == 4
    for begin in ("localhost", "127.0.0.1", "127"):
        assert avault.count_hosts([f"wss://{begin}.evil.example:1", f"wss://{begin}.evil.example:2"]) == 1


@pytest.mark.parametrize(
    ("url", "private"),
    [("ws://127.0.0.1:7000", True), ("ws://[::1]:7000", True), ("ws://10.1.2.3", True), ("ws://169.254.169.254/x", True),
     ("ws://localhost:6379", True), ("ws://nas.local", True), ("wss://relay.example", False), ("wss://8.8.8.8", False)],
)  # fmt: skip
def test_private_networks(url: str, private: bool) -> None:
    assert avault.is_private(url) is private


def stored(name: str, made: int) -> avault.StoredEvent:
    event = avault.compose_stored(REPLICA, [["d", name]], f"{name} {made}", made)
    return avault.read_stored(event, AUTHOR)


def test_many_old_events_of_one_address_put_no_other_away() -> None:
    crowd = [stored("a", made) for made in range(200, 100, -1)]
    other = stored("b", 50)
    assert avault.merge_found({"x": crowd, "y": [other]})[:2] == [crowd[0], other]
    assert avault.find_latest([*crowd, other]) == {"a": crowd[0], "b": other}
    two = sorted(
        [stored("c", 7), avault.read_stored(avault.compose_stored(REPLICA, [["d", "c"]], "z", 7), AUTHOR)], key=lambda e: e.id
    )
    assert avault.find_latest(two)["c"] == avault.find_latest(two[::-1])["c"] == two[0]
    assert avault.merge_found({"x": two[::-1]})[0] == two[0]


def test_what_a_machine_has_named_a_relay_is_looked_at() -> None:
    """Any machine of the vault writes them; what is none is left out, and there are not endlessly many."""
    vault = avault.Vault("v", AGENT, AGENT, "name")
    named = [
        "wss://one.example",
        "wss://One.example:443",
        "nonsense",
        "wss://x\x1b[2J.example",
        *(f"wss://r{n}.example" for n in range(40)),
    ]
    for name in named:
        vault.state(f"replica/{name}", "on", 1, "m")
    named = avault.list_relays(vault)
    found = [*named]
    assert found[0] == "wss://one.example" and len(found) == 20
    assert {*named.values()} == {"m"}
    assert all(avault.normalise_relay(url) == url for url in found)
    assert avault.parse_profile(avault.render_profile(AGENT, ["wss://one.example", "wss://x:99999"]))[1] == ["wss://one.example"]
