"""The keyholder without a supervisor, a client or a phone: how it comes by the key, and what it does with the open vault."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_seal import Example

import avault

CALLER = {"pid": 1, "uid": 0, "exe": None, "name": None, "parent": None}


class Phone:
    """A signer's connection: it approves once it `may`. `asked` counts the questions."""

    def __init__(self, example: Example) -> None:
        self.example, self.may, self.asked = example, asyncio.Event(), 0
        self.is_old = self.is_attended = self.is_resting = False
        self.me, self.answered_in = "ab" * 32, 9.0
        self.relays, self.remarks = SimpleNamespace(shown={}), avault.Remarks()
        self.sent = SimpleNamespace(requests=["sent"], busy=set())

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def describe(self) -> dict[str, Any]:
        return {}

    def rest(self) -> None:
        self.is_resting = True

    def wake(self, anew: bool, at_once: bool) -> None:
        self.is_resting = False

    async def request(self, method: str, params: list[str], accept: Any, **_: Any) -> Any:
        self.asked += 1
        await self.may.wait()
        return accept(self.example.answer(params[1]))


class Desk:
    """A vault on the disk, and a keyholder for it; `told` is what it tells the supervisor."""

    def __init__(self, top: Path) -> None:
        self.example = Example(top)
        digest = avault.sha256(self.example.path("avault.enc").read_bytes()).hex()
        self.example.write("pin.json", avault.encode_file("pin", {"generation": {"m": 1}, "hash": digest}))
        self.places = self.example.places
        self.nsec = self.example.agent.secret_key().to_bech32()
        self.phone = Phone(self.example)
        self.set_up()

    def set_up(self) -> None:
        """Have a keyholder that knows nothing yet."""
        ours, self.theirs = socket.socketpair()
        self.keyholder = avault.Keyholder(self.places, ours, (None, None))
        self.reception = avault.Reception(self.keyholder, avault.TALKS, avault.REQUESTS)
        self.holding, self.unlocking = self.keyholder.holding, self.keyholder.unlocking
        self.told: list[dict[str, Any]] = []
        self.keyholder.control.send = self.take  # type: ignore[method-assign]
        self.holding.contact.connect = lambda *_: avault.Connected(self.holding.contact, self.phone)  # type: ignore[assignment, method-assign]
        there = SimpleNamespace(get_extra_info=lambda name: self.theirs, is_closing=lambda: False)  # who does not leave
        self.session: Any = SimpleNamespace(caller=CALLER, send=lambda message: None, grant=None, transport=there)

    def take(self, message: dict[str, Any], fd: int | None = None) -> None:
        """What the keyholder tells; a grant's socket is made and closed at once."""
        self.told.append(message)
        if "grant" in message:
            answer = {"do": "grant", "identity": message["identity"], "path": "/grant.sock", "failed": None}
            asyncio.get_running_loop().call_soon(self.keyholder.receive, answer, None)

    def state(self) -> str:
        return str(next(each["report"]["state"] for each in reversed(self.told) if "report" in each))

    def failures(self) -> list[str]:
        return [each["failed"]["code"] for each in self.told if "failed" in each]

    def own(self, name: str) -> bytes:
        return self.example.path(name).read_bytes()

    async def open(self) -> None:
        await self.unlocking.open(avault.GivenKey(self.nsec))

    def close(self) -> None:
        """End it, with its descriptors."""
        self.keyholder.control.close()
        self.theirs.close()
        if self.holding.log:
            for ledger in (self.holding.log.releases, self.holding.log.refusals):
                os.close(ledger.file)

    async def ask(self, **wish: Any) -> None:
        """The supervisor wants the vault open; the phone has the question then."""
        self.keyholder.receive({"do": "unlock", **wish}, None)
        while not self.phone.asked:
            await asyncio.sleep(0)

    async def serve(self, op: str, value: str | dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        """The answer to a request, whose second frame is or has the value."""

        async def frame() -> dict[str, Any]:
            return value if isinstance(value, dict) else {"value": value}

        self.session.frame = frame
        found = self.reception.answer(self.session, {"v": 1, "vault": self.places.id, "op": op, **fields})
        return found if isinstance(found, dict) else await found


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    if desk.unlocking.task:
        desk.unlocking.task.cancel()
    await asyncio.gather(*filter(None, [desk.unlocking.task]), return_exceptions=True)
    desk.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(avault, "uptime", lambda: clock.now)
    return clock


async def test_who_was_removed_agrees_to_nothing_on_a_machine_that_stayed_open(desk: Desk) -> None:
    """Also where the pairing's file is gone: it is the pairing that counts."""
    await desk.open()
    store, contact = desk.holding.store, desk.holding.contact
    assert store and contact.find(store)
    contact.pairing = contact.find(store)
    desk.example.path("pairing.json").unlink()
    assert contact.find(store)
    store.vault.state(avault.SUCCEEDED, avault.public_hex(avault.make_keys()), 1, store.machine)
    with pytest.raises(avault.Tampered, match="another agent or operator"):
        contact.find(store)


async def test_a_recovery_copy_for_who_came_meanwhile_stays(desk: Desk) -> None:
    """Another machine has put another in the operator's place: what an open vault knows is no longer what is published."""
    await desk.open()
    store, keys = desk.holding.store, desk.example.agent
    assert store
    draft, other = store.vault.copy(), avault.public_hex(avault.make_keys())
    draft.state(avault.SUCCEEDED, other, 1, "other")
    draft.generation["other"] = 1
    data = avault.encode_file("nsec", avault.seal_recovery(keys, draft, "h"))
    desk.example.write("avault.enc", avault.seal_vault(draft, keys))
    desk.example.write("nsec.enc", data)
    await desk.holding.verify_recovery()
    assert desk.own("nsec.enc") == data and "but is of the avault.enc there" in desk.holding.recovery.warning
    store.refresh()
    assert isinstance(store.trouble, avault.Locked) and "another first operator" in store.trouble.message
    desk.example.write("nsec.enc", b"damaged")
    await desk.holding.verify_recovery()
    assert "was made anew" in desk.holding.recovery.warning


async def test_a_machine_that_had_a_phone_says_so_for_ever(desk: Desk) -> None:
    """Its pairing's file may be taken away: else a custodian could agree in the phone's place."""
    desk.example.path("pairing.json").unlink()
    await desk.open()
    store = desk.holding.store
    assert store and not avault.knows_phone(store.vault)
    name = f"machine/{store.machine}"
    store.write([lambda vault: vault.state(name, avault.render_machine("u@h", "ab" * 32), 1, store.machine)])
    await desk.holding.register()
    assert avault.read_machine(str(store.vault.fact(name)))["client_key"] == "ab" * 32 and avault.knows_phone(store.vault)


def test_what_was_agreed_to_for_one_machine_is_not_for_all() -> None:
    keys = avault.make_keys()
    about = {"custodian": "box", "kind": "program", "asks": False, "settings": {"path": "/x"}, "shared": False}
    text = json.dumps([about[each] for each in ("custodian", "kind", "asks", "settings")], sort_keys=True)
    secret = bytes.fromhex(keys.secret_key().to_hex())
    assert avault.mark_agreed(keys, about) == hmac.digest(secret, f"avault/custodian {text}".encode(), "sha256").hex()
    assert avault.mark_agreed(keys, {**about, "shared": True}) != avault.mark_agreed(keys, about)


async def test_a_rotation_is_for_those_who_were_shown(desk: Desk) -> None:
    """Who agrees was told of the operators that the supervisor knew: no other one comes with it."""
    await desk.open()
    shown = {"": avault.to_npub("ab" * 32)}
    with pytest.raises(avault.Denied, match="operators were changed meanwhile"):
        await desk.keyholder.orders.rotating.begin({"custodians": [], "caller": CALLER, "operators": shown, "ticket": "t"})


# The limits


def test_limits_count_from_the_opening_and_from_the_last_use(clock: SimpleNamespace) -> None:
    lock = avault.AutoLock((60.0, 10.0))
    clock.now += 4
    assert lock.time_left() == 6
    lock.used = clock.now
    assert lock.time_left() == 10
    clock.now += 10
    assert (lock.time_left(), lock.explain()) == (0, "it locked by itself after 10 s without a use")
    lock.change({"lock_idle": None})
    assert lock.time_left() == 46
    lock.change({"for": 100})
    assert lock.time_left() == 100
    clock.now += 100
    assert (lock.time_left(), lock.explain()) == (0, "it locked by itself after 114 s")
    lock.start()
    assert lock.time_left() == 114
    assert avault.AutoLock((None, None)).time_left() == float("inf")


# The ways to the key


async def test_a_given_key_comes_through_a_pipe(desk: Desk) -> None:
    before = desk.own("unlock.json")
    fd, end = os.pipe()
    os.write(end, desk.nsec.encode())
    os.close(end)
    desk.keyholder.receive({"do": "unlock"}, fd)
    assert desk.unlocking.task
    await desk.unlocking.task
    assert (desk.state(), desk.failures(), desk.phone.asked, desk.unlocking.task) == ("unlocked", [], 0, None)
    assert desk.own("unlock.json") != before, "the ratchet has turned"


async def test_a_phone_that_approves_opens_the_vault(desk: Desk) -> None:
    await desk.ask()
    assert desk.state() == "waiting"
    desk.phone.may.set()
    assert desk.unlocking.task
    await desk.unlocking.task
    assert desk.state() == "unlocked" and desk.holding.ratchet.proven


@pytest.mark.parametrize("opens_for", [60.0, 0.0])
async def test_what_comes_late_turns_the_ratchet_and_opens_only_for_who_is_remembered(desk: Desk, opens_for: float) -> None:
    before = desk.own("unlock.json")
    await desk.ask()
    desk.keyholder.receive({"do": "rest", "opens_for": opens_for}, None)
    assert desk.phone.is_resting and desk.state() == "locked" and not desk.keyholder.ended.is_set()
    desk.phone.may.set()
    assert desk.unlocking.task
    await desk.unlocking.task
    assert bool(desk.holding.store) == (opens_for > 0) != desk.keyholder.ended.is_set()
    assert desk.own("unlock.json") != before
    assert desk.failures() == ([] if opens_for else ["locked"])


@pytest.mark.parametrize("is_taken", [True, False])
async def test_who_gives_up_while_a_relay_has_not_said_whether_it_took_the_question(desk: Desk, is_taken: bool) -> None:
    """The phone may have it already: only then somebody stays to hear the answer."""
    desk.phone.sent.requests, desk.phone.sent.busy = [], {"wss://relay"}
    await desk.ask()
    desk.keyholder.receive({"do": "rest", "opens_for": 0.0}, None)
    await asyncio.sleep(0.2)
    assert not desk.keyholder.ended.is_set() and not desk.phone.is_resting
    desk.phone.sent.requests += ["sent"] * is_taken
    desk.phone.sent.busy.clear()
    async with asyncio.timeout(60):
        while not (desk.keyholder.ended.is_set() or desk.phone.is_resting):
            await asyncio.sleep(0.01)
    assert desk.phone.is_resting == is_taken != desk.keyholder.ended.is_set()
    assert desk.unlocking.task
    desk.unlocking.task.cancel()


async def test_who_gives_up_waits_for_one_relay_and_not_for_all(desk: Desk) -> None:
    """Some never say anything: then what was sent counts as sent."""
    desk.phone.sent.requests, desk.phone.sent.busy = [], {"wss://relay", "wss://silent"}
    await desk.ask()
    desk.keyholder.receive({"do": "rest", "opens_for": 0.0}, None)
    desk.phone.sent.requests += ["sent"]
    async with asyncio.timeout(60):
        while not desk.phone.is_resting:
            await asyncio.sleep(0.01)
    assert desk.unlocking.task
    desk.unlocking.task.cancel()


@pytest.mark.parametrize("ticket", ["", "00" * 16, "é", "\ud800"])
def test_a_ticket_that_is_none_agrees_to_nothing(ticket: str) -> None:
    consent = avault.Consent()
    consent.begin()
    consent.give("11" * 16)
    assert not consent.take(ticket) and consent.take(consent.first)


async def test_nobody_to_ask_is_nothing_to_stay_for(desk: Desk) -> None:
    desk.example.path("pairing.json").unlink()
    desk.keyholder.receive({"do": "unlock"}, None)
    assert desk.unlocking.task
    await desk.unlocking.task
    assert desk.failures() == ["locked"] and desk.keyholder.ended.is_set()


async def test_a_talk_stops_the_question_which_goes_on_after_it(desk: Desk) -> None:
    await desk.ask()
    stopped = desk.unlocking.task
    desk.unlocking.begin_talk()
    desk.unlocking.pause()
    assert desk.unlocking.task is None and desk.unlocking.resume
    desk.unlocking.end_talk()
    assert desk.unlocking.task not in (None, stopped)
    desk.phone.may.set()
    assert desk.unlocking.task
    await desk.unlocking.task
    assert desk.state() == "unlocked" and stopped and stopped.cancelled()


async def test_a_key_that_comes_in_another_way_ends_the_question(desk: Desk) -> None:
    await desk.ask()
    asking = desk.unlocking.task
    assert asking
    await desk.open()
    await asyncio.gather(asking, return_exceptions=True)
    assert asking.cancelled() and desk.state() == "unlocked"


# The open vault


async def test_a_locked_vault_serves_nothing(desk: Desk) -> None:
    with pytest.raises(avault.Locked):
        await desk.serve("get", group="openai", key="API_KEY")
    await desk.open()
    desk.keyholder.ended.set()
    with pytest.raises(avault.Locked):
        await desk.serve("get", group="openai", key="API_KEY")


async def test_what_is_released_or_refused_stands_in_the_log(desk: Desk) -> None:
    await desk.open()
    assert (await desk.serve("get", group="openai", key="API_KEY"))["value"] == "a value"
    with pytest.raises(avault.NotFound):
        await desk.serve("get", group="openai", key="OTHER")
    assert b'"op": "get"' in desk.own("access.log") and b"OTHER" in desk.own("refused.log")
    found = await desk.serve("verify_log")
    assert (found["lines"], found["refused"]) == (2, 1), "the unlock and the get; what was refused"


async def test_changes_that_wait_are_written_together(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.open()
    sizes, write = [], avault.Store.write

    def count(store: avault.Store, changes: list[Any]) -> Any:
        sizes.append(len(changes))
        return write(store, changes)

    monkeypatch.setattr(avault.Store, "write", count)
    change = desk.keyholder.change

    def refuse(vault: avault.Vault) -> None:
        raise avault.Denied("no")

    puts = [change(lambda vault, key=key: vault.put("g", key, "x", 1, "m")) for key in "ABC"]
    done = await asyncio.gather(*puts, change(refuse), return_exceptions=True)
    assert sizes == [4], "all wait for one write"
    assert done[:3] == [{"ok": True}] * 3 and isinstance(done[3], avault.Denied)
    await desk.holding.writer.finish()
    assert sorted(avault.open_vault(desk.own("avault.enc"), desk.example.agent).groups["g"].keys) == ["A", "B", "C"]


async def test_own_files_are_mended_and_it_is_said(desk: Desk) -> None:
    await desk.ask()
    desk.phone.may.set()
    assert desk.unlocking.task
    await desk.unlocking.task
    good = desk.own("pairing.json"), desk.own("pin.json")
    for name in ("unlock.json", "pairing.json", "pin.json"):
        desk.example.path(name).write_bytes(b"{}")
    await desk.keyholder.look()
    assert (desk.own("pairing.json"), desk.own("pin.json")) == good
    assert desk.own("unlock.json") == avault.encode_file("unlock", desk.holding.ratchet.content)
    assert {"unlock.json", "pairing.json", "pin.json"} <= desk.keyholder.reporter.warnings.keys()
    assert desk.told[-1] == {"looked": True}


async def test_all_that_copies_have_is_taken_over(desk: Desk) -> None:
    """Of a key in conflict each value, and of two copies both: none covers another, also after a merge."""
    await desk.open()
    store = desk.holding.store
    assert store
    old = store.vault.copy()
    await desk.keyholder.change(lambda vault: vault.put("a", "B", "ours", 9, store.machine))
    for name, values in (("unsaved-before.enc", ["one", "two"]), ("replaced.enc", ["three"])):
        copy = old.copy()
        copy.generation |= dict.fromkeys(values, 1)
        copy.groups["a"] = avault.Group({"B": [avault.Secret(value, 1, 1, value, 1) for value in values]})
        Path(desk.places.own(name)).write_bytes(avault.seal_vault(copy, store.keys))
    assert await avault.take_left(desk.keyholder) == ["a/B"]
    wanted, found = {"ours", "one", "two", "three"}, store.vault.secrets("a", "B")
    assert {each.value for each in found} == wanted and len({(each.machine, each.count) for each in found}) == 4
    assert {each.value for each in store.vault.merge(old).secrets("a", "B")} == wanted
    assert not [*Path(desk.places.state).glob("unsaved-before*"), *Path(desk.places.state).glob("replaced*")]
