"""The supervisor in this process: what it answers itself, what it hands on, and how it stays reachable."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
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


async def test_a_path_that_is_gone_is_bound_again(desk: Desk) -> None:
    os.unlink(desk.places.socket)
    assert not desk.supervisor.listener.is_bound()
    while not desk.supervisor.listener.is_bound():
        await asyncio.sleep(0.05)
    assert (await desk.ask("status", format="short"))["ok"]


async def test_stop_answers_and_then_ends(desk: Desk) -> None:
    assert await desk.ask("stop") == {"ok": True}
    assert desk.supervisor.stopping.is_set()
