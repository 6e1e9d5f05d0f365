"""A secret whose guard asks, from the request to the answer: in one process, with a phone that says what the test wants.

That the keyholder's memory has nothing of it is tried in test_asked_processes.py, with the processes that there are.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_gate import VALUES, asks
from test_keyholder_alone import Desk

import avault

PLACE = {"group": "stripe", "key": "KEY"}
VALUE = "the-value-that-is-asked-for"


class Phone:
    """In the place of `RemoteSigner`: what it is asked waits until the test says something."""

    def __init__(self, operator: avault.Keys) -> None:
        self.operator, self.questions = operator, list[tuple[list[str], Any, asyncio.Future[Any]]]()
        self.overhear: Callable[[str], None] | None = None
        self.is_resting = False
        self.answered_in = 9.0

    def __call__(self, *_: object) -> Phone:
        self.is_resting = False
        return self

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def rest(self) -> None:
        self.is_resting = True

    async def request(self, method: str, params: list[str], accept: Any) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.questions.append((params, accept, answer))
        return await answer

    async def asked(self, number: int) -> str:
        """What the question of that number says, once it is there."""
        async with asyncio.timeout(60):
            while len(self.questions) < number:
                await asyncio.sleep(0.01)
        return str(json.loads(self.read(number))["content"])

    def read(self, number: int) -> str:
        """The plaintext that the phone has for that question."""
        params = self.questions[number - 1][0]
        return avault.decrypt(self.operator, *params)

    async def approve(self, number: int) -> str:
        said = await self.asked(number)
        _, accept, answer = self.questions[number - 1]
        answer.set_result(accept(self.read(number)))
        return said

    async def refuse(self, number: int) -> None:
        await self.asked(number)
        self.questions[number - 1][2].set_exception(avault.Denied("the signer refused: user rejected"))


class House(Desk):
    """An open vault; what the supervisor starts elsewhere, runs here."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(top)
        self.openers: list[avault.KeyOpener] = []
        self.man = Phone(self.example.operator)
        self.clients: list[socket.socket] = []
        monkeypatch.setattr(avault, "RemoteSigner", self.man)

        async def meet(door: socket.socket, pid: int) -> socket.socket:
            return door.dup()

        monkeypatch.setattr(avault, "meet", meet)
        monkeypatch.setattr(avault.Opener, "lose", lambda opener: opener.ended.set())
        self.keyholder.control.send = self.hear  # type: ignore[method-assign]

    def hear(self, message: dict[str, Any], fd: int | None = None) -> None:
        self.take(message, fd)
        if "opener" in message:
            ours, theirs = socket.socketpair()
            self.openers.append(avault.KeyOpener(theirs))
            self.keyholder.receive({"do": "opener", "number": message["opener"], "pid": 1}, ours.detach())

    async def begin(self, op: str, through: str | None = None, front: bool = False, **fields: Any) -> socket.socket:
        """A client that has sent a request, perhaps through a grant, or by the SSH agent."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.clients.append(ours)
        request = {"v": 1, "vault": self.places.id, "op": op, **fields}
        identity = self.keyholder.grants.known[through].identity if through else None
        await self.reception.take_over(theirs.detach(), request, avault.uptime(), identity, front)
        return ours

    async def end(self, client: socket.socket) -> dict[str, Any]:
        """The answer that a client gets, after what it is told meanwhile."""
        async with asyncio.timeout(60):
            while "progress" in (found := await avault.read_frame(client)):
                self.told.append(found)
        return found

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:  # type: ignore[override]
        return await self.end(await self.begin(op, **fields))

    def sealed(self) -> str:
        assert self.holding.store
        return self.holding.store.vault.secrets("stripe", "KEY")[0].value

    def lock(self) -> dict[str, Any]:
        assert self.holding.store
        return self.keyholder.openers.own.read()[avault.sealed_to(self.sealed())]

    def logged(self) -> list[str]:
        return [
            json.loads(line)["outcome"] for name in ("access.log", "refused.log")
            for line in (self.own(name).splitlines() if self.example.path(name).exists() else [])
        ]  # fmt: skip


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    house = House(tmp_path, monkeypatch)
    await house.open()
    await house.ask("set", generate=20, group="free", key="KEY")
    found = await house.ask("guard", **PLACE, ask=0)
    assert found["guard"]["words"] == "the phone is asked for each use"
    client = await house.begin("set", **PLACE)
    assert await house.end(client) == {"ok": True, "ready": True}
    client.sendall(avault.encode_frame({"value": VALUE}))
    assert await house.end(client) == {"ok": True}
    yield house
    for client in house.clients:
        client.close()
    for task in (*house.keyholder.tasks,):
        task.cancel()
    await asyncio.gather(*house.keyholder.tasks, return_exceptions=True)
    house.close()


async def test_a_value_is_set_and_sealed_without_a_question(house: House) -> None:
    assert avault.is_sealed(house.sealed()) and not house.man.questions
    assert house.holding.store and VALUE not in house.holding.store.vault.to_json()
    found = await house.ask("set", **PLACE, generate=30)
    assert found["ok"] and avault.is_sealed(house.sealed())


async def test_two_approvals_release_it_and_turn_the_lock(house: House) -> None:
    before = house.lock()
    client = await house.begin("get", **PLACE, format="text")
    said = await house.man.approve(1)
    assert f"(pid {os.getpid()})" in said and "wants stripe/KEY of test@machine, to get it; question 1 of 2, code " in said
    [code] = re.findall("question 1 of 2, code [0-9A-Z]{4}, then ([0-9A-Z]{4})[.]", said)
    said = await house.man.approve(2)
    assert said.startswith(f"avault: open stripe/KEY of test@machine on {house.holding.host} for one use, code {code}.")
    assert await house.end(client) == {"ok": True, "output": VALUE + "\n"}
    assert f", then {code}" in next(each["code"] for each in house.told if each.get("progress") == "asking")
    after = house.lock()
    assert (after["to"], after["place"]) == (before["to"], before["place"]) and after["opens"] != before["opens"]
    client.sendall(avault.encode_frame({"v": 1, "vault": house.places.id, "op": "has", **PLACE}))
    assert (await house.end(client))["has"] is True  # the connection goes on
    again = await house.begin("get", **PLACE, format="text")
    await house.man.approve(3)
    await house.man.approve(4)
    assert await house.end(again) == {"ok": True, "output": VALUE + "\n"}


@pytest.mark.parametrize("which", [1, 2])
async def test_a_refusal_gives_nothing_and_pauses(house: House, which: int) -> None:
    before, client = house.lock(), await house.begin("get", **PLACE)
    for number in range(1, which):
        await house.man.approve(number)
    await house.man.refuse(which)
    refused = await house.end(client)
    assert refused["error"]["code"] == "denied" and house.lock() == before
    paused = await house.ask("get", **PLACE)
    assert paused["error"]["code"] == "denied" and "not asked again for" in paused["error"]["message"]
    assert len(house.man.questions) == which


async def test_pauses_grow(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(time=1000.0)
    monkeypatch.setattr(avault, "uptime", lambda: now.time)
    restraint, who = avault.Restraint(), (1, "node", "sh")
    for seconds in (30, 120, 600, 3600, 3600):
        restraint.check(who, ["a/K"])
        restraint.note(who, ["a/K"])
        now.time += seconds - 1
        restraint.check(who, ["b/K"])
        with pytest.raises(avault.Denied):
            restraint.check(who, ["a/K"])
        now.time += 2
    restraint.forgive(who, ["a/K"])
    restraint.check(who, ["a/K"])


async def test_a_caller_that_dies_takes_its_question_with_it(house: House) -> None:
    client = await house.begin("get", **PLACE)
    await house.man.approve(1)
    await house.man.asked(2)
    before = house.lock()
    client.close()
    async with asyncio.timeout(60):
        while not house.man.is_resting:
            await asyncio.sleep(0.01)
    await house.man.approve(2)  # late
    async with asyncio.timeout(60):
        while house.lock() == before:
            await asyncio.sleep(0.01)
    assert house.lock()["to"] == before["to"]


async def test_who_leaves_again_and_again_waits_longer(house: House) -> None:
    client = await house.begin("get", **PLACE)
    await house.man.asked(1)
    client.close()
    async with asyncio.timeout(60):
        while not house.openers[-1].ended.is_set():
            await asyncio.sleep(0.01)
    paused = await house.ask("get", **PLACE)
    assert "not asked again for" in paused["error"]["message"] and len(house.man.questions) == 1
    assert house.logged()[-2:] == ["timed_out", "denied"]


async def test_a_value_that_came_before_it_was_asked_for_is_sealed_too(house: House) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    house.clients.append(ours)
    request = {"v": 1, "vault": house.places.id, "op": "has", **PLACE}
    ours.sendall(avault.encode_frame({**request, "op": "set"}) + avault.encode_frame({"value": "sent at once"}))
    await house.reception.take_over(theirs.detach(), request, avault.uptime())
    assert [(await house.end(ours)).get("ok") for _ in range(3)] == [True, True, True]
    assert avault.is_sealed(house.sealed())


async def test_a_client_that_leaves_while_it_sets_a_value(house: House) -> None:
    before = house.sealed()
    for sent in (b"", b"\0\0", avault.encode_frame({"value": "cut off"})[:-1]):
        client = await house.begin("set", **PLACE)
        assert (await house.end(client))["ready"]
        client.sendall(sent)
        client.close()
        async with asyncio.timeout(60):
            while not house.openers[-1].ended.is_set():
                await asyncio.sleep(0.01)
    for wrong in ({}, {"value": ""}, {"value": "with\0nul"}, {"value": 5}):
        client = await house.begin("set", **PLACE)
        assert (await house.end(client))["ready"]
        client.sendall(avault.encode_frame(wrong))
        assert (await house.end(client))["error"]["code"] == "usage"
    assert house.sealed() == before


async def test_there_are_no_more_processes_than_may_be_and_late_ones_give_way(house: House) -> None:
    assert (await house.ask("guard", group="many", ask=0))["ok"]
    for number in range(9):
        assert (await house.ask("set", group="many", key=f"K{number}", generate=9))["ok"]
    clients = [await house.begin("get", group="many", key=f"K{number}") for number in range(8)]
    await house.man.asked(8)
    refused = await house.ask("get", group="many", key="K8")
    assert "too many wait for the phone" in refused["error"]["message"]
    await house.man.approve(1)
    await house.man.asked(9)
    clients[0].close()
    async with asyncio.timeout(60):
        while not house.keyholder.askings.late:
            await asyncio.sleep(0.01)
    house.keyholder.askings.restraint = avault.Restraint()
    await house.begin("get", group="many", key="K8")
    assert "wants many/K8 of" in await house.man.asked(10)


async def test_a_late_answer_gives_nothing(house: House) -> None:
    before, client = house.lock(), await house.begin("get", **PLACE, timeout=3)
    await house.man.approve(1)
    await house.man.asked(2)
    assert (await house.end(client))["error"]["code"] == "timed_out"
    await house.man.approve(2)
    async with asyncio.timeout(60):
        while house.lock() == before:
            await asyncio.sleep(0.01)
        for opener in house.openers[-1:]:
            await opener.ended.wait()


async def test_an_answer_to_an_earlier_question_turns_the_lock_and_releases_nothing(house: House) -> None:
    before, client = house.lock(), await house.begin("get", **PLACE)
    await house.man.approve(1)
    await house.man.asked(2)
    assert house.man.overhear
    house.man.overhear("nonsense")
    house.man.overhear(house.man.read(2))
    await house.man.refuse(2)
    assert (await house.end(client))["error"]["code"] == "denied"
    async with asyncio.timeout(60):
        while house.lock() == before:
            await asyncio.sleep(0.01)


async def test_who_asks_for_one_of_two_hears_the_late_answer_to_the_other(house: House) -> None:
    assert (await house.ask("guard", group="two", ask=0))["ok"]
    for key in ("K0", "K1"):
        assert (await house.ask("set", group="two", key=key, generate=9))["ok"]
    store, own = house.holding.store, house.keyholder.openers.own
    assert store
    to = avault.sealed_to(store.vault.secrets("two", "K1")[0].value)
    before, client = own.read()[to], await house.begin("export", groups=["two"], format="null")
    await house.man.approve(1)
    await house.man.approve(2)
    await house.man.asked(3)
    client.close()
    async with asyncio.timeout(60):
        while not house.keyholder.askings.late:
            await asyncio.sleep(0.01)
    house.keyholder.askings.restraint = avault.Restraint()
    other = await house.begin("get", group="two", key="K0")
    await house.man.asked(4)
    assert house.man.overhear
    house.man.overhear(house.man.read(3))
    await house.man.refuse(4)
    assert (await house.end(other))["error"]["code"] == "denied"
    async with asyncio.timeout(60):
        while own.read()[to] == before:
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_who_sends_no_value_keeps_no_other_program_from_setting_one(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault, "VALUE_TIME", 4.0)
    silent = [await house.begin("set", **PLACE) for _ in range(8)]
    for client in silent[:2]:
        assert (await house.end(client))["ready"]
    for client in silent[2:]:
        assert "this program sets are waited for already" in (await house.end(client))["error"]["message"]
    which = avault.which_asks
    monkeypatch.setattr(avault, "which_asks", lambda caller: (*(which(caller) or ()), "another"))
    assert (await house.ask("set", **PLACE, generate=9))["ok"]
    monkeypatch.setattr(avault, "which_asks", which)
    for client in silent[:2]:
        assert (await house.end(client))["error"]["code"] == "timed_out"
    assert (await house.ask("set", **PLACE, generate=9))["ok"]


async def test_who_sends_no_value_keeps_nobody_from_the_phone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault, "VALUE_TIME", 4.0)
    monkeypatch.setattr(avault, "MOST_TAKES", 9)  # as by programs that are not known as one
    silent = [await house.begin("set", **PLACE) for _ in range(8)]
    for client in silent:
        assert (await house.end(client))["ready"]
    assert "too many values are set at once" in (await house.ask("set", **PLACE, generate=9))["error"]["message"]
    await house.begin("get", **PLACE)
    await house.man.asked(1)
    assert (await house.end(silent[0]))["error"]["code"] == "timed_out"


async def test_one_question_at_a_time(house: House) -> None:
    one, other = await house.begin("get", **PLACE, format="text"), await house.begin("get", **PLACE, format="text")
    await house.man.approve(1)
    await house.man.approve(2)
    assert (await house.end(one))["output"] == VALUE + "\n"
    await house.man.approve(3)
    await house.man.approve(4)
    assert (await house.end(other))["output"] == VALUE + "\n"


async def test_who_waits_its_turn_waits_no_longer_than_it_says(house: House) -> None:
    await house.begin("get", **PLACE)
    await house.man.asked(1)
    waited = await house.ask("get", **PLACE, timeout=0.2)
    assert waited["error"]["code"] == "timed_out" and house.logged()[-1] == "timed_out"
    for _ in range(avault.MOST_WAITING):
        await house.begin("get", **PLACE)
    assert "wait for the phone already" in (await house.ask("get", **PLACE))["error"]["message"]


async def test_what_is_not_named_is_not_asked_for(house: House) -> None:
    found = await house.ask("export", format="dotenv")
    assert "left out, as guarded: stripe/KEY" in found["warning"]
    client = await house.begin("provide")
    assert (await house.end(client))["ready"]
    client.sendall(avault.encode_frame({"value": json.dumps({"protocolVersion": 1, "ids": ["stripe/KEY"]})}))
    told = json.loads((await house.end(client))["output"])
    assert told["values"] == {} and told["errors"]["stripe/KEY"]["code"] == "DENIED"
    assert not house.man.questions


async def test_once_in_a_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = {
        "pid": os.getpid(),
        "uid": 1,
        "exe": "/usr/bin/python3",
        "name": "python3",
        "parent": {"pid": os.getppid(), "exe": "/usr/bin/node"},
    }
    monkeypatch.setattr(avault, "describe_caller", lambda *_: dict(caller))
    later = {"group": "later", "key": "KEY"}
    assert (await house.ask("guard", group="later", ask=900))["ok"]
    assert (await house.ask("set", **later, generate=20))["ok"]
    assert (await house.ask("set", group="later", key="OTHER", generate=20))["ok"]
    client = await house.begin("get", **later)
    said = await house.man.approve(1)
    assert said.startswith(f"avault: python3 (pid {os.getpid()}), started by node (pid {os.getppid()}) on ")
    assert "wants, and again for 15 min, later/KEY of test@machine, to get it; question" in said
    await house.man.approve(2)
    value = (await house.end(client))["value"]
    with subprocess.Popen(["sleep", "30"]) as brother:
        caller["pid"] = brother.pid
        assert (await house.ask("get", **later))["value"] == value
        brother.kill()
    caller["pid"] = os.getpid()
    assert (await house.ask("get", **later))["value"] == value
    assert len(house.man.questions) == 2
    asked = 2
    for other in (
        {"parent": {"pid": 1, "exe": "/sbin/init"}},
        {"parent": {"pid": os.getpid(), "exe": "/usr/bin/node"}},
        {"exe": "/x"},
    ):
        before, asked = dict(caller), asked + 1
        caller |= other
        await house.begin("get", **later)
        await house.man.asked(asked)
        house.clients.pop().close()
        caller.clear()
        caller.update(before)
        async with asyncio.timeout(60):
            while not house.openers[-1].ended.is_set():
                await asyncio.sleep(0.01)
        house.keyholder.askings.restraint = avault.Restraint()
    client = await house.begin("get", group="later")  # with one that was not opened
    await house.man.asked(asked + 1)
    assert (await house.ask("guard", **later, ask=0))["ok"]
    client.close()
    async with asyncio.timeout(60):
        while not house.openers[-1].ended.is_set():
            await asyncio.sleep(0.01)
    house.keyholder.askings.restraint = avault.Restraint()
    await house.begin("get", **later)
    assert "again" not in await house.man.asked(asked + 2), "what is stricter now, counts now"


async def test_who_has_its_value_and_leaves_was_not_asked_for_in_vain(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may end before the process that has sent it the value comes to say so; given again, too."""
    caller = {"pid": os.getpid(), "uid": 1, "exe": "/usr/bin/python3", "name": "python3"}
    parent = {"pid": os.getppid(), "exe": "/usr/bin/node"}
    monkeypatch.setattr(avault, "describe_caller", lambda *_: {**caller, "parent": parent})
    send, look = avault.send_frame, avault.has_left
    is_said, left = asyncio.Event(), list[bool]()

    async def send_and_linger(*sent: Any) -> None:
        await send(*sent)
        await is_said.wait()

    def see(fd: int) -> bool:
        left.append(look(fd))
        return left[-1]

    monkeypatch.setattr(avault, "send_frame", send_and_linger)
    monkeypatch.setattr(avault, "has_left", see)
    assert (await house.ask("guard", group="later", ask=900))["ok"]
    assert (await house.ask("set", group="later", key="KEY", generate=20))["ok"]
    logged = house.logged()
    for given in (1, 2):
        is_said.clear()
        left.clear()
        client = await house.begin("get", group="later", key="KEY")
        if given == 1:
            await house.man.approve(1)
            await house.man.approve(2)
        assert (await house.end(client))["ok"]
        client.close()
        async with asyncio.timeout(5):
            while left.count(True) < 2:
                await asyncio.sleep(0.01)
        is_said.set()
        async with asyncio.timeout(5):
            while any(each.task for each in house.reception.sessions):
                await asyncio.sleep(0.01)
        assert house.logged() == logged + ["ok"] * given
    assert len(house.man.questions) == 2 and not house.man.is_resting
    assert house.keyholder.askings.describe() == {"questions": [], "pauses": []}


async def test_who_leaves_amid_the_answer_keeps_it_from_no_other(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = {"pid": os.getpid(), "uid": 1, "exe": "/usr/bin/python3", "name": "python3"}
    parent = {"pid": os.getppid(), "exe": "/usr/bin/node"}
    monkeypatch.setattr(avault, "describe_caller", lambda *_: {**caller, "parent": parent})
    assert (await house.ask("guard", group="later", ask=900))["ok"]
    assert (await house.ask("set", group="later", key="KEY", generate=20))["ok"]
    client = await house.begin("get", group="later", key="KEY")
    await house.man.approve(1)
    await house.man.approve(2)
    value = (await house.end(client))["value"]
    opener = house.openers[-1]
    ours, theirs = socket.socketpair()
    ours.close()
    job = {"do": "again", "held": [], "request": opener.job["request"], "body": opener.job["body"]}
    await opener.run(job, theirs.detach())
    assert not opener.ended.is_set()
    assert (await house.ask("get", group="later", key="KEY"))["value"] == value and len(house.man.questions) == 2


async def test_it_is_given_again_no_longer_than_was_said(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await house.ask("guard", group="later", ask=1))["ok"]
    assert (await house.ask("set", group="later", key="KEY", generate=20))["ok"]
    client = await house.begin("get", group="later", key="KEY")
    await house.man.approve(1)
    await house.man.approve(2)
    assert (await house.end(client))["ok"]
    async with asyncio.timeout(60):
        await house.openers[-1].ended.wait()
    await house.begin("get", group="later", key="KEY")
    await house.man.asked(3)


async def test_who_waits_to_be_given_it_again_gets_what_the_guards_let_out_then(house: House) -> None:
    assert (await house.ask("guard", group="later", ask=900))["ok"]
    later = {"group": "later", "key": "KEY"}
    assert (await house.ask("set", **later, generate=20))["ok"]
    client = await house.begin("get", **later)
    await house.man.approve(1)
    await house.man.approve(2)
    assert (await house.end(client))["ok"]
    async with asyncio.timeout(60):
        while not house.keyholder.askings.staying:
            await asyncio.sleep(0.01)
    [open_yet] = house.keyholder.askings.staying.values()
    async with open_yet.giving:
        client = await house.begin("get", **later)
        async with asyncio.timeout(60):
            while not open_yet.giving._waiters:
                await asyncio.sleep(0.01)
        assert (await house.ask("guard", **later, only=["run"]))["ok"]
    assert "only run may use it" in (await house.end(client))["error"]["message"]
    assert len(house.man.questions) == 2


async def test_what_was_there_before_the_guard_is_sealed(house: House) -> None:
    assert (await house.ask("guard", group="openai", ask=0))["ok"]
    assert house.holding.store
    vault = house.holding.store.vault
    assert avault.is_sealed(vault.secrets("openai", "API_KEY")[0].value)
    client = await house.begin("export", only=["openai/API_KEY", "stripe/KEY"], format="null", **{"for": "run"})
    assert (
        "wants openai/API_KEY, stripe/KEY of test@machine, to export it (as it says, for a command); question 1 of 3"
        in await house.man.approve(1)
    )
    await house.man.approve(2)
    await house.man.approve(3)
    assert (await house.end(client))["output"] == f"API_KEY=a value\0KEY={VALUE}\0"


async def test_what_no_guard_asks_for_any_more_is_sealed_until_its_next_use(house: House) -> None:
    store = house.holding.store
    assert store
    await house.keyholder.change(lambda vault: avault.take_off(vault, "stripe/KEY", 1, store.machine))
    assert avault.is_sealed(house.sealed())
    client = await house.begin("get", **PLACE, format="text")
    assert (
        "wants stripe/KEY (which is sealed no more then) of test@machine, to get it; question 1 of 2"
        in await house.man.approve(1)
    )
    await house.man.approve(2)
    assert (await house.end(client))["output"] == VALUE + "\n"
    async with asyncio.timeout(60):
        while house.sealed() != VALUE:
            await asyncio.sleep(0.01)
    assert (await house.ask("get", **PLACE))["value"] == VALUE and len(house.man.questions) == 2


async def test_what_comes_in_clear_is_sealed_before_it_is_asked_for(house: House) -> None:
    store = house.holding.store
    assert store
    await house.holding.writer.change(store, lambda vault: vault.put("stripe", "KEY", "in clear", 1, store.machine))
    assert house.sealed() == "in clear"
    client = await house.begin("get", **PLACE, format="text")
    await house.man.approve(1)
    assert avault.is_sealed(house.sealed())
    await house.man.approve(2)
    assert (await house.end(client))["output"] == "in clear\n"


async def test_a_guard_that_comes_while_the_phone_is_asked_counts(house: House) -> None:
    before, client = house.lock(), await house.begin("get", **PLACE)
    await house.man.approve(1)
    await house.man.asked(2)
    assert (await house.ask("guard", **PLACE, only=["run"]))["ok"]
    await house.man.approve(2)
    assert "only run may use it" in (await house.end(client))["error"]["message"]
    assert house.lock() != before


async def test_a_use_writes_no_vault_and_a_machine_without_a_lock_opens_the_vaults(house: House) -> None:
    def shared() -> dict[str, Any]:
        assert house.holding.store
        return avault.find_lock(house.holding.store.vault, house.sealed())

    async def use() -> None:
        number = len(house.man.questions)
        client = await house.begin("get", **PLACE, format="text")
        await house.man.approve(number + 1)
        await house.man.approve(number + 2)
        assert (await house.end(client))["output"] == VALUE + "\n"

    before, data = shared(), house.own("avault.enc")
    await use()
    assert shared() == before and house.own("avault.enc") == data
    for broken in (None, b"", b"{}"):
        house.example.path("locks.json").unlink()
        if broken is not None:
            house.example.write("locks.json", broken)
        before = shared()
        await use()
        assert shared()["opens"] != before["opens"] and shared()["to"] == before["to"]
        assert house.lock()["opens"] != shared()["opens"]
    answers = [house.man.read(number) for number in range(1, len(house.man.questions) + 1)]
    for lock in (shared(), house.lock()):
        for answer in answers:
            with pytest.raises(avault.Tampered):
                avault.accept_unlock_key(lock["opens"])(answer)


async def test_another_operator_is_one_after_the_next_use(house: House) -> None:
    store, other = house.holding.store, avault.public_hex(avault.make_keys())
    assert store
    await house.keyholder.change(lambda vault: vault.state("operator/other", other, 1, store.machine))
    client = await house.begin("get", **PLACE)
    await house.man.approve(1)
    await house.man.approve(2)
    assert (await house.end(client))["value"] == VALUE
    assert other in avault.find_lock(store.vault, house.sealed())["envelopes"]


async def test_uses_are_counted(house: House) -> None:
    assert (await house.ask("guard", **PLACE, times=1))["ok"]
    client = await house.begin("get", **PLACE, format="text")
    await house.man.approve(1)
    await house.man.approve(2)
    assert (await house.end(client))["output"] == VALUE + "\n"
    assert "as often as it may be" in (await house.ask("get", **PLACE))["error"]["message"]


async def test_uses_are_counted_by_a_guard_that_came_while_the_phone_was_asked(house: House) -> None:
    client = await house.begin("get", **PLACE)
    await house.man.approve(1)
    assert (await house.ask("guard", **PLACE, times=1))["ok"]
    await house.man.approve(2)
    assert (await house.end(client))["value"] == VALUE
    assert "as often as it may be" in (await house.ask("get", **PLACE))["error"]["message"]


async def test_a_phone_that_approves_by_itself_is_noticed(house: House) -> None:
    house.man.answered_in, warnings = 0.4, house.holding.reporter.warnings
    for number in (0, 2, 4):
        client = await house.begin("get", **PLACE)
        await house.man.approve(number + 1)
        await house.man.approve(number + 2)
        assert (await house.end(client))["value"] == VALUE
        [told] = [each["text"] for each in house.told if each.get("progress") == "warning"][number // 2 :]
        assert warnings["quick"] == told and "see whether the app asks: avault drill" in told
    assert told.startswith("3 approvals in a row came within 2.5 s")
    client, house.man.answered_in = await house.begin("get", **PLACE), 5.0
    await house.man.approve(7)
    await house.man.asked(8)
    house.man.answered_in = 0.4
    await house.man.approve(8)
    assert (await house.end(client))["ok"] and "quick" not in warnings, "one of them was read"


async def test_a_move_keeps_it_sealed_and_the_phone_is_told_both_names(house: House) -> None:
    assert (await house.ask("move", **PLACE, to_group="tmp", to_key="KEY"))["ok"]
    for said in ("open stripe/KEY of", "open tmp/KEY, which is or was stripe/KEY, of"):
        count = len(house.man.questions)
        client = await house.begin("get", group="tmp", key="KEY", format="text")
        assert "wants tmp/KEY of" in await house.man.approve(count + 1)
        assert said in await house.man.approve(count + 2)
        assert (await house.end(client))["output"] == VALUE + "\n"


@pytest.mark.parametrize(
    "op", ["get", "has", "list", "export", "reveal", "provide", "inspect", "verify", "machines", "exposed", "guards"]
)
async def test_no_request_gives_it_out_while_nobody_approves(house: House, op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    house.example.path("copy.enc").write_bytes(house.own("avault.enc"))
    monkeypatch.setitem(VALUES, "stripe", VALUE)
    for fields in asks(op, "stripe"):
        house.keyholder.askings.restraint = avault.Restraint()
        value = fields.pop("value", None)
        client = await house.begin(op, **fields, timeout=0.01)
        answer = await house.end(client)
        if answer.get("ready"):
            client.sendall(avault.encode_frame({"value": value}))
            answer = await house.end(client)
        assert VALUE not in json.dumps(answer) and "\\u0000{" not in json.dumps(answer), fields
        if op in ("get", "reveal") and answer["ok"]:
            assert answer["guarded"] == ["stripe/KEY"]


async def test_what_cannot_be_sealed_is_said_and_tried_again(house: House) -> None:
    store, openers, warnings = house.holding.store, house.keyholder.openers, house.holding.reporter.warnings
    assert store
    await house.holding.writer.change(store, lambda vault: vault.put("stripe", "KEY", "in clear", 1, store.machine))
    await house.holding.writer.change(store, lambda vault: avault.add_guard(vault, "free", {"ask": 0}, 1, store.machine))
    openers.MOST = 0  # type: ignore[misc]
    await openers.settle(store)
    assert warnings["unsealed"].startswith("not sealed, though the guard on it asks: free/KEY, stripe/KEY: too many")
    assert (await house.ask("get", group="free", key="KEY"))["error"]["code"] == "denied"
    assert (await house.ask("set", group="other", key="KEY", generate=9))["ok"], (
        "what was in clear before refuses no other change"
    )
    refused = await house.ask("guard", group="other", ask=0)
    assert refused["error"]["code"] == "unavailable", "what a change would leave in clear does"
    openers.MOST = 8  # type: ignore[misc]
    await openers.settle(store)
    assert "unsealed" not in warnings and avault.find_unsealed(store.vault) == []


async def test_a_vault_without_a_phone_asks_nobody(house: House) -> None:
    house.example.path("pairing.json").unlink()
    house.holding.contact.seen = house.holding.contact.pairing = None
    refused = await house.ask("guard", group="free", ask=0)
    assert refused["error"]["code"] == "denied" and "only a paired vault" in refused["error"]["message"]


@pytest.mark.slow
async def test_many_are_sealed_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as come, in answers of a size that can be read."""
    store, sent = house.holding.store, list[int]()
    assert store
    send = avault.Control.send

    def watch(control: avault.Control, message: dict[str, Any], fd: int | None = None) -> None:
        sent.append(len(json.dumps(message)))
        send(control, message, fd)

    monkeypatch.setattr(avault.Control, "send", watch)

    def fill(vault: avault.Vault) -> None:
        for number in range(250):
            vault.put("many", f"K{number}", "in clear", 1, store.machine)

    await house.holding.writer.change(store, fill)
    assert (await house.ask("guard", group="many", ask=0))["ok"]
    assert avault.find_unsealed(store.vault) == [] and 100_000 < max(sent) < 1 << 20
    assert len(house.keyholder.openers.own.read()) == 251


async def test_what_another_machine_has_just_set_is_left_to_it(house: House) -> None:
    """Two that seal one value make two of it; but who is asked for it here, seals it."""
    store, openers = house.holding.store, house.keyholder.openers
    assert store
    now = int(time.time())
    await house.holding.writer.change(store, lambda vault: vault.put("stripe", "KEY", "in clear", now, "other"))
    await openers.settle(store)
    assert house.sealed() == "in clear"
    client = await house.begin("get", **PLACE, format="text")
    await house.man.approve(1)
    await house.man.approve(2)
    assert (await house.end(client))["output"] == "in clear\n" and avault.is_sealed(house.sealed())
    await house.holding.writer.change(store, lambda vault: vault.put("stripe", "KEY", "of old", now - 7200, "other"))
    await openers.settle(store)
    assert avault.is_sealed(house.sealed())


async def test_of_what_two_machines_have_sealed_both_are_opened(house: House) -> None:
    store = house.holding.store
    assert store
    made, _ = await house.keyholder.openers.make_locks(store, ["stripe/KEY"])
    lock = made["stripe/KEY"]

    def clash(vault: avault.Vault) -> None:
        there = vault.groups["stripe"].keys["KEY"]
        there.append(avault.Secret(avault.seal_value(lock["to"], "of the other"), 1, 1, "other", 1))
        avault.keep_lock(vault, lock, 1, store.machine)

    await house.holding.writer.change(store, clash)
    client = await house.begin("get", **PLACE)
    assert "question 1 of 3, code " in await house.man.approve(1)
    await house.man.approve(2)
    await house.man.approve(3)
    told = await house.end(client)
    assert (told["value"], told["conflicts"]) == (VALUE, ["of the other"])


async def test_a_value_that_is_set_anew_is_on_another_key(house: House) -> None:
    """Who has what the phone has answered once reads no later value."""
    before = house.lock()
    assert (await house.ask("set", **PLACE, generate=30))["ok"]
    assert house.lock()["to"] != before["to"]
    assert [*house.keyholder.openers.own.read()] == [house.lock()["to"]], "of the key before nothing is kept"
    assert house.holding.store and len(house.holding.store.vault.facts_of("lock")) == 1


async def test_a_lock_of_this_machine_that_is_damaged_is_made_anew(house: House) -> None:
    own, good = house.keyholder.openers.own, house.lock()
    own.keep([{**good, "sealed": good["sealed"][:-8] + "AAAAAAA="}], {good["to"]})
    client = await house.begin("get", **PLACE, format="text")
    for number in (1, 2, 3):
        await house.man.approve(number)
    assert (await house.end(client))["output"] == VALUE + "\n"
    client = await house.begin("get", **PLACE, format="text")
    await house.man.approve(4)
    await house.man.approve(5)
    assert (await house.end(client))["output"] == VALUE + "\n"


async def test_what_does_not_open_pauses_too(house: House) -> None:
    store, own, good = house.holding.store, house.keyholder.openers.own, house.lock()
    assert store
    bad = {**good, "sealed": good["sealed"][:-8] + "AAAAAAA="}
    own.keep([], set())
    await house.holding.writer.change(store, lambda vault: avault.keep_lock(vault, bad, 1, store.machine))
    client = await house.begin("get", **PLACE)
    await house.man.approve(1)
    await house.man.approve(2)
    assert (await house.end(client))["error"]["code"] == "tampered"
    assert "in vain" in (await house.ask("get", **PLACE))["error"]["message"]


async def test_the_vaults_lock_is_turned_before_this_machines(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the first can be written, it is opened by this machine's, and both are made anew."""
    store, openers = house.holding.store, house.keyholder.openers
    assert store
    openers.own.keep([], set())
    before = avault.find_lock(store.vault, house.sealed())
    keep = openers.keep_own

    async def fail(*_: object) -> None:
        raise avault.AvaultError("disk full")

    monkeypatch.setattr(openers, "keep_own", fail)
    client = await house.begin("get", **PLACE)
    await house.man.approve(1)
    await house.man.approve(2)
    assert (await house.end(client))["error"]["message"] == "disk full"
    assert avault.find_lock(store.vault, house.sealed()) != before
    assert "still opens stripe/KEY" in house.holding.reporter.warnings["locks"]
    monkeypatch.setattr(openers, "keep_own", keep)
    house.keyholder.askings.restraint = avault.Restraint()
    client = await house.begin("get", **PLACE)
    await house.man.approve(3)
    await house.man.approve(4)
    assert (await house.end(client))["value"] == VALUE and house.lock()


async def test_what_is_too_much_is_refused_before_the_phone_is_asked(house: House) -> None:
    store = house.holding.store
    assert store

    def fill(vault: avault.Vault) -> None:
        for number in range(10):
            vault.put("big", f"K{number}", "x" * 250_000, 1, store.machine)

    await house.holding.writer.change(store, fill)
    refused = await house.ask("export", only=[*(f"big/K{number}" for number in range(10)), "stripe/KEY"])
    assert "too much to be asked for at once" in refused["error"]["message"] and not house.man.questions


async def test_who_leaves_goes_while_only_that_phone_opens_it(house: House) -> None:
    """An operator is not taken out, nor another put in the place, where a secret would be lost."""
    store = house.holding.store
    assert store
    new = avault.public_hex(avault.make_keys())
    with pytest.raises(avault.Denied, match="only the phone that goes opens stripe/KEY"):
        avault.refuse_wrong(store.vault, avault.SUCCESSOR, new)
    await house.keyholder.change(lambda vault: vault.state("operator/next", new, 1, store.machine))
    with pytest.raises(avault.Denied, match="only the phone that goes"):
        avault.refuse_wrong(store.vault, avault.SUCCESSOR, new)
    avault.refuse_wrong(store.vault, "next", None)
    client = await house.begin("get", **PLACE)
    await house.man.approve(1)
    await house.man.approve(2)
    await house.end(client)
    avault.refuse_wrong(store.vault, avault.SUCCESSOR, new)


async def test_a_process_that_has_ended_is_asked_for_nothing(house: House) -> None:
    """What it had for a time is asked for anew, and nobody hangs."""
    assert (await house.ask("guard", group="slow", ask=900))["ok"]
    assert (await house.ask("set", group="slow", key="KEY", generate=9))["ok"]
    client = await house.begin("get", group="slow", key="KEY")
    await house.man.approve(1)
    await house.man.approve(2)
    assert (await house.end(client))["ok"]
    async with asyncio.timeout(60):
        while not house.keyholder.askings.staying:
            await asyncio.sleep(0.01)
    [found] = house.keyholder.askings.staying.values()
    found.assignment.is_gone = True
    client = await house.begin("get", group="slow", key="KEY")
    await house.man.approve(3)
    await house.man.approve(4)
    assert (await house.end(client))["ok"]


async def test_many_approvals_for_a_time_shut_nobody_out(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault.Openers, "MOST", 2)
    monkeypatch.setattr(avault.Openers, "MOST_STAYING", 2)
    assert (await house.ask("guard", group="slow", ask=900))["ok"]
    for number in range(4):
        assert (await house.ask("set", group="slow", key=f"K{number}", generate=9))["ok"]
        client = await house.begin("get", group="slow", key=f"K{number}")
        await house.man.approve(2 * number + 1)
        await house.man.approve(2 * number + 2)
        assert (await house.end(client))["ok"]
    async with asyncio.timeout(60):
        while len(house.keyholder.askings.staying) != 2:
            await asyncio.sleep(0.01)
    for number in (2, 3):
        assert (await house.ask("get", group="slow", key=f"K{number}"))["ok"]
    assert len(house.man.questions) == 8
