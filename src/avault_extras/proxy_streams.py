"""The streams of a proxy's connections: how much is read, and how what is written goes out."""

from __future__ import annotations

import contextlib
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from mitmproxy.proxy import events, server

import avault
from avault import AvaultError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

try:
    proxy_bounds = avault.load_extra("proxy_bounds", "proxy")
except AvaultError:
    raise

LONGEST_EARLY = 1 << 16  # bytes that a client may send before it is let through to a host


class Early:
    """A client's stream, until it `is_known`: what comes before that is no more than a head."""

    def __init__(self, reader: asyncio.StreamReader, is_known: Callable[[], bool]) -> None:
        self.reader, self.is_known, self.left = reader, is_known, LONGEST_EARLY

    async def read(self, size: int) -> bytes:
        """As of a stream; its end, where too much came."""
        if self.is_known():
            return await self.reader.read(size)
        data = await self.reader.read(min(size, self.left)) if self.left else b""
        self.left -= len(data)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)


class Gathered:
    """A stream's writer that sends what is written once it is told to, by `flush`.

    mitmproxy writes an answer's head, its body and its end one by one; each that is sent by itself
    wakes up who reads.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        """As of a stream's writer."""
        self.pieces.append(data)

    def flush(self) -> None:
        """Send what is there."""
        if self.pieces:
            data, self.pieces = b"".join(self.pieces), []
            if not self.writer.is_closing():
                with contextlib.suppress(RuntimeError):  # nothing goes out there any more
                    self.writer.write(data)

    async def drain(self) -> None:
        """As of a stream's writer."""
        self.flush()
        await self.writer.drain()

    def write_eof(self) -> None:
        """As of a stream's writer."""
        self.flush()
        self.writer.write_eof()

    def close(self) -> None:
        """As of a stream's writer."""
        self.flush()
        self.writer.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.writer, name)


class Turn:
    """What happens to a client's connection, and its upstreams', in its order; and who waits."""

    def __init__(self) -> None:
        self.coming: deque[Any] = deque()
        self.changes = proxy_bounds.Changes()


TURNS: WeakKeyDictionary[Any, Turn] = WeakKeyDictionary()  # by mitmproxy's handler of the client


def turn_of(handler: Any) -> Turn:
    """That of a client's connection."""
    if (found := TURNS.get(handler)) is None:
        found = TURNS[handler] = Turn()
    return found


async def handle_in_turn(self: Any, event: Any) -> None:
    """Handle what happens to a connection, and what comes of it at once; then send what is written.

    In the place of mitmproxy's, which is called within itself by each hook that waits for nothing,
    and then waits for a turn of the event loop, four times a request.
    """
    turn, is_new = turn_of(self), False
    coming = turn.coming
    coming.append(event)
    if len(coming) > 1:  # it is called within itself
        return
    try:
        while coming:
            is_new |= not isinstance(coming[0], events.Wakeup)
            await HANDLE(self, coming[0])
            coming.popleft()
    finally:
        coming.clear()
        if is_new:
            turn.changes.note()
        for each in self.transports.values():
            if isinstance(each.writer, Gathered):
                each.writer.flush()


async def wake(self: Any, request: Any) -> None:
    """Have a layer look again, as mitmproxy does after a time; a `Look` only if there is why."""
    if getattr(request, "needs_change", False):
        await turn_of(self).changes.wait(proxy_bounds.LONGEST_STILL)
    await WAKE(self, request)


HANDLE, WAKE = server.ConnectionHandler.server_event, server.ConnectionHandler.wakeup


class Streams:
    """An addon of mitmproxy: it has both ends of each connection write as `Gathered` does.

    And read as `ends` say.
    """

    def __init__(self, proxies: Any, gate: Any, ends: Any) -> None:
        self.proxies, self.gate, self.ends = proxies, gate, ends
        server.ConnectionHandler.server_event = handle_in_turn
        server.ConnectionHandler.wakeup = wake

    def limit(self, client: Any) -> None:
        """Have no more read of a client than a head, until it is let through to a host."""
        if found := self.find(client, client):
            found.reader = Early(found.reader, lambda: client.id in self.gate.targets)
            self.pace(found, client, client)

    def server_connected(self, data: Any) -> None:
        """We are connected to an upstream."""
        if found := self.find(data.client, data.server):
            self.pace(found, data.client, data.server)

    def client_disconnected(self, client: Any) -> None:
        """It is gone: what mitmproxy leaves open, where more came as it closed it, is closed."""
        if found := self.find(client, client):
            found.writer.close()

    def server_disconnected(self, data: Any) -> None:
        """The same of an upstream."""
        if found := self.find(data.client, data.server):
            found.writer.close()

    def pace(self, found: Any, client: Any, connection: Any) -> None:
        """Have it written, and read, so."""
        found.writer = writer = Gathered(found.writer)
        is_full = partial(self.ends.is_full, connection)
        changes = turn_of(self.proxies.connections[client.id]).changes
        found.reader = proxy_bounds.Paced(found.reader, is_full, writer.is_closing, changes)

    def find(self, client: Any, connection: Any) -> Any:
        """What mitmproxy has of a connection: its reader and writer; None where it has ended."""
        handler = self.proxies.connections.get(client.id)
        return handler.transports.get(connection) if handler else None
