"""The supervisor in this process: what it answers itself, what it hands on, and how it stays reachable."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from test_seal import Example

import avault

OPTIONS = {
    "ask": False,
    "nsec": None,
    "notify": None,
    "timeout": None,
    "accept_rollback": False,
    "lock_after": None,
    "lock_idle": None,
}


class Client:
    """One connection."""

    def __init__(self, places: avault.Places) -> None:
        self.places = places

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_unix_connection(self.places.socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def hear(self) -> dict[str, Any]:
        size = int.from_bytes(await self.reader.readexactly(4), "big")
        return avault.decode_frame(await self.reader.readexactly(size))

    async def say(self, **message: Any) -> dict[str, Any]:
        self.writer.write(avault.encode_frame(message))
        return await self.hear()

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        return await self.say(v=1, vault=self.places.id, op=op, **fields)


class Desk:
    """A vault on the disk, and a supervisor that runs."""

    def __init__(self, example: Example) -> None:
        self.example, self.places = example, example.places
        self.said: list[str] = []
        self.supervisor = avault.Supervisor(self.places, dict(OPTIONS), avault.ANSWERS, self.said.append)

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        async with Client(self.places) as client:
            return await client.ask(op, **fields)

    async def fail(self, op: str, **fields: Any) -> str:
        return str((await self.ask(op, **fields))["error"]["code"])


@pytest.fixture
async def desk(place: Any, tmp_path: Path) -> AsyncIterator[Desk]:
    example = Example(tmp_path)
    digest = avault.sha256(example.path("avault.enc").read_bytes()).hex()
    example.write("pin.json", avault.encode_file("pin", {"generation": {"m": 1}, "hash": digest}))
    desk = Desk(example)
    ready = asyncio.Event()
    running = asyncio.create_task(desk.supervisor.run(ready.set))
    await ready.wait()
    yield desk
    desk.supervisor.stopping.set()
    await running
    assert not os.path.lexists(desk.places.socket)
    for task in desk.supervisor.tasks:
        task.cancel()
    await asyncio.gather(*desk.supervisor.tasks, return_exceptions=True)


def test_each_request_of_the_door_has_its_answer() -> None:
    assert set(avault.ANSWERS) == avault.DOOR


async def test_a_locked_vault(desk: Desk) -> None:
    assert (await desk.ask("status", format="short"))["output"] == "locked\n"
    status = await desk.ask("status")
    daemon = {"ok", "warnings", "version", "state", "dir", "vault_id", "socket"}  # what `status` adds to these
    assert set(status) == daemon | {*avault.STATUS_FIELDS}
    assert (status["state"], status["pid"], status["keyholder_pid"]) == ("locked", os.getpid(), None)
    assert (status["hint"], status["git"], status["proven"]) == ("ask the phone with: avault unlock", None, False)
    assert await desk.fail("get", group="openai", key="API_KEY") == "locked"
    assert await desk.fail("wait", timeout=0) == "timed_out"
    assert await desk.fail("nonsense") == "usage"
    assert (await desk.ask("limit", lock_after=60))["locks_after"] == 60
    assert (await desk.ask("limit", lock_after=0))["locks_after"] is None


async def test_a_connection_is_handed_to_a_keyholder_which_locking_ends(desk: Desk) -> None:
    nsec = desk.example.agent.secret_key().to_bech32()
    async with Client(desk.places) as client:
        assert (await client.ask("open", private=True))["ready"]
        assert (await client.say(nsec=nsec))["ok"]
    status = await desk.ask("status")
    assert (status["state"], status["secrets"]) == ("unlocked", 1) and status["keyholder_pid"]
    assert (await desk.ask("get", group="openai", key="API_KEY"))["value"] == "a value"
    assert await desk.fail("lock") == "denied", "nobody has shown that the phone opens it"
    assert (await desk.ask("lock", force=True))["state"] == "locked"
    assert not os.path.exists(f"/proc/{status['keyholder_pid']}")
    assert desk.said.count("unlocked") == 1 and desk.said[-1] == "locked"


@pytest.mark.parametrize("through", ["its own socket", "a grant"])
async def test_what_a_frame_may_be_the_other_process_can_read(desk: Desk, monkeypatch: pytest.MonkeyPatch, through: str) -> None:
    """Else one frame of anybody locks the vault for everybody: what follows it could not be read either."""
    came: list[dict[str, Any]] = []
    lost: list[bool] = []

    def take(message: dict[str, Any], fd: int | None) -> None:
        came.append(message)
        os.close(fd or -1)

    ours, theirs = socket.socketpair()
    sides = [avault.Control(ours, lambda *_: None, lambda: None), avault.Control(theirs, take, lambda: lost.append(True))]
    monkeypatch.setattr(desk.supervisor.warden.child, "control", sides[0])
    grant: Any = SimpleNamespace(is_closed=False, identity="f" * 32, leave=lambda sock: None)
    for lists in range(95, 103):
        frame: dict[str, Any] = {"v": 1, "vault": desk.places.id, "op": "init", "x": json.loads("[" * lists + "]" * lists)}
        client, served = socket.socketpair()
        with client:
            client.setblocking(False)
            client.sendall(avault.encode_frame(frame))
            if through == "a grant":
                await desk.supervisor.serve(served, grant)
            else:
                monkeypatch.setattr(desk.supervisor.warden, "start", nothing)
                await desk.supervisor.serve(served)
            if lists < avault.NESTED:
                async with asyncio.timeout(60):
                    while not lost and len(came) < lists - 94:
                        await asyncio.sleep(0)
            assert not lost, lists
            assert lists >= avault.NESTED or json.dumps(frame) in json.dumps(came[-1])
    assert len(came) == avault.NESTED - 95, "what is deeper is refused before it is handed on"
    for side in sides:
        side.close()


async def nothing() -> None: ...


async def test_a_path_that_is_gone_is_bound_again(desk: Desk) -> None:
    os.unlink(desk.places.socket)
    assert not desk.supervisor.listener.is_bound()
    while not desk.supervisor.listener.is_bound():
        await asyncio.sleep(0.05)
    assert (await desk.ask("status", format="short"))["ok"]


async def test_stop_answers_and_then_ends(desk: Desk) -> None:
    assert await desk.ask("stop") == {"ok": True}
    assert desk.supervisor.stopping.is_set()


class Less:
    """What is asked for in place of less guard: the phone is, until somebody answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: asyncio.Future[dict[str, Any]] | None = None

    async def ask(self, warden: Any, request: dict[str, Any], caller: dict[str, Any]) -> dict[str, Any]:
        if request["group"] == "nothing":
            raise avault.Denied("nobody is asked for that")
        warden.custody.tell("7K3F")
        self.asked.append(request["group"])
        self.answer = asyncio.get_running_loop().create_future()
        return await self.answer

    async def come(self, count: int) -> None:
        """Until so many have come so far that the phone is asked."""
        async with asyncio.timeout(60):
            while len(self.asked) < count:
                await asyncio.sleep(0.01)


@pytest.fixture
def less(monkeypatch: pytest.MonkeyPatch) -> Less:
    less = Less()
    monkeypatch.setitem(avault.LOOSEN, "unguard", less.ask)
    return less


async def want_less(desk: Desk, group: str, person: bool = False) -> dict[str, Any]:
    """What comes of asking for it, but for the code."""
    async with Client(desk.places) as client:
        answer = await client.ask("unguard", group=group, **({"terminal": "/dev/pts/9"} if person else {}))
        return await client.hear() if answer.get("progress") else answer


async def test_of_less_guard_a_person_is_served_before_programs(desk: Desk, less: Less) -> None:
    """One that asks in a loop keeps nobody out."""
    programs = [asyncio.create_task(want_less(desk, f"p{number}")) for number in range(3)]
    await less.come(1)
    person = asyncio.create_task(want_less(desk, "mine", person=True))
    await less.come(2)
    for each in programs:
        assert "a person asks for less guard" in (await each)["error"]["message"]
    assert "a person asks" in (await want_less(desk, "p4"))["error"]["message"]
    assert less.asked[1] == "mine" and less.answer
    less.answer.set_result({"guard": None})
    assert (await person)["ok"] and len(less.asked) == 2


@pytest.mark.parametrize("how", ["refused", "unanswered", "left"])
async def test_programs_that_ask_for_less_guard_in_vain_leave_the_phone_alone(desk: Desk, less: Less, how: str) -> None:
    assert "nobody is asked" in (await want_less(desk, "nothing"))["error"]["message"]
    async with Client(desk.places) as client:
        assert (await client.ask("unguard", group="g"))["progress"] == "asking", "that was no question in vain"
        await less.come(1)
        answer = less.answer
        assert answer
        if how != "left":
            answer.set_exception(avault.Denied("no") if how == "refused" else avault.TimedOut("late"))
            assert "error" in await client.hear()
    async with asyncio.timeout(60):
        while not answer.done():
            await asyncio.sleep(0.01)
    again = (await want_less(desk, "g"))["error"]
    assert again["code"] == ("denied" if how == "refused" else "timed_out") and "the phone is left alone" in again["message"]
    assert "in a terminal, at once: avault unguard" in again["hint"] and len(less.asked) == 1
    person = asyncio.create_task(want_less(desk, "g", person=True))
    await less.come(2)
    assert less.answer
    less.answer.set_exception(avault.Denied("no"))
    assert (await person)["error"]["message"] == "no"
    program = asyncio.create_task(want_less(desk, "g"))
    await less.come(3)
    less.answer.set_result({})
    assert (await program)["ok"], "a person ends the pause, and makes none"


# The keyholder as its child


async def test_who_waits_for_a_keyholder_to_leave_waits_until_its_end_was_told(desk: Desk) -> None:
    """What signed for it may take longer to end: the next one is not taken for it, nor started before its sockets are gone."""
    lost: list[int] = []
    child = avault.Child(desk.places, 0, {}, lambda message: None, lost.append)
    child.process = await asyncio.create_subprocess_exec("sh", "-c", "exit 7")
    may_end = asyncio.Event()

    async def end_slowly() -> None:
        await may_end.wait()

    child.end_helper = end_slowly  # type: ignore[method-assign]
    await child.process.wait()
    child.say_farewell()
    impatient = asyncio.create_task(child.leave())
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    waits = asyncio.create_task(child.leave())
    done, _ = await asyncio.wait([waits], timeout=0.05)
    assert not done and not lost
    child.process = await asyncio.create_subprocess_exec("sh", "-c", "sleep 60")
    may_end.set()
    await asyncio.wait_for(waits, 10)
    assert lost == [7], "the one that was on its way out, and not the next one"
    child.process.kill()
    await child.process.wait()
