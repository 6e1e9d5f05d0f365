"""The connections of the SSH agent's clients: read at once, written as there is room, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from typing import Any

import pytest

import avault


class Echo:
    """What stands in for an agent: it says again what it hears, so many times."""

    def __init__(self, times: int = 1) -> None:
        self.times, self.heard, self.lost = times, b"", asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self.transport.write(data * self.times)

    def connection_lost(self, error: Exception | None) -> None:
        assert not self.lost.is_set(), "it is told once"
        self.lost.set()


def open_wire(client: Echo) -> socket.socket:
    """The other end of a connection."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    avault.AgentWire(asyncio.get_running_loop(), ours, client).open()  # type: ignore[arg-type]
    return theirs


async def hear(sock: socket.socket, size: int) -> bytes:
    heard = b""
    while len(heard) < size and (piece := await asyncio.get_running_loop().sock_recv(sock, 1 << 16)):
        heard += piece
    return heard


async def test_more_than_there_is_room_for_is_sent_when_there_is() -> None:
    client = Echo(8)
    with open_wire(client) as other:
        sent = os.urandom(50_000)
        async with asyncio.timeout(20):
            await asyncio.get_running_loop().sock_sendall(other, sent)
            assert len(await hear(other, 400_000)) == 400_000
            await asyncio.get_running_loop().sock_sendall(other, b"x")
            assert await hear(other, 8) == b"x" * 8, "and it goes on"
        assert not client.lost.is_set()
    await asyncio.wait_for(client.lost.wait(), 10)


async def test_who_asks_on_and_does_not_read_has_to_go() -> None:
    """What it leaves unread is kept for nobody."""
    client = Echo(64)
    with open_wire(client) as other:
        async with asyncio.timeout(20):
            while not client.lost.is_set():
                with contextlib.suppress(OSError):
                    await asyncio.get_running_loop().sock_sendall(other, bytes(16_384))


async def test_what_is_said_to_who_has_left_is_no_error() -> None:
    client = Echo()
    with open_wire(client):
        pass
    await asyncio.wait_for(client.lost.wait(), 10)
    assert client.transport.is_closing()
    client.transport.abort()
    client.transport.write(b"too late")
    await asyncio.sleep(0)


class Full:
    """A listening socket of a system that has no room at first."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.refused = sock, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def accept(self) -> Any:
        self.refused += 1
        if self.refused < 3:
            raise OSError(errno.EMFILE, "too many")
        return self.sock.accept()


class Nowhere:
    """A vault that is locked."""

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        raise avault.Locked("the vault is locked")


async def test_where_there_is_no_room_it_is_tried_again(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault, "NO_ROOM_TIME", 0.01)
    path = str(place.top / "agent.sock")
    listening = Full(avault.bind_front(path))
    door = avault.AgentDoor(Nowhere(), listening)  # type: ignore[arg-type]
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"\0\0\0\x01\x0b")
        assert await reader.readexactly(9) == b"\0\0\0\x05\x0c\0\0\0\0" and listening.refused == 3
    writer.close()
    door.close()
    door.go_on()


class Slow:
    """A vault that answers nobody."""

    def __init__(self) -> None:
        self.asked = list[asyncio.Task[Any] | None]()

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        self.asked.append(asyncio.current_task())
        await asyncio.Event().wait()
        raise AssertionError("it waits for ever")


async def test_for_who_has_left_nothing_more_is_begun() -> None:
    """Of two requests at once the second waits for the first; who leaves meanwhile wants neither."""
    vault = Slow()
    client = avault.AgentClient(vault, {})  # type: ignore[arg-type]
    with open_wire(client) as other:  # type: ignore[arg-type]
        other.send(b"\0\0\0\x01\x0b" * 2)
        async with asyncio.timeout(10):
            while not vault.asked:
                await asyncio.sleep(0.01)
    [first] = vault.asked
    assert first
    await asyncio.wait([first], timeout=10)
    await asyncio.sleep(0)
    assert client.transport.is_closing() and len(vault.asked) == 1 and client.task is None
