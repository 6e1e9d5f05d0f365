"""How a front end reaches the vault: requests on connections that are kept for the next."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Unavailable, Usage
from avault.places import Places
from avault.plain import FastConnection
from avault.protocol import Frames, decode_frame, encode_frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from avault.protocol import Message


class VaultEnd:
    """A connection to the daemon, with one request at a time; asyncio's protocol."""

    def __init__(self) -> None:
        self.frames = Frames()
        self.awaited: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        """It is there."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer, or of what is told before it; nobody sends more than that."""
        try:
            self.frames.feed(data)
            while (frame := self.frames.next()) is not None:
                message = decode_frame(frame)
                if "progress" not in message:
                    self.awaited.set_result(message)
        except (Usage, asyncio.InvalidStateError):
            self.transport.abort()

    def eof_received(self) -> bool:
        """The daemon is gone, or has locked."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """So is the answer."""
        if not self.awaited.done():
            self.awaited.set_exception(
                Unavailable("the daemon went away before it answered", "see: avault status")
            )
            self.awaited.exception()  # perhaps nobody waits for it

    async def ask(self, message: Message) -> Message:
        """The answer to a request; raises Unavailable."""
        self.awaited = asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            raise Unavailable("the daemon went away", "see: avault status")
        self.transport.write(encode_frame(message))
        return await self.awaited


class VaultLink:
    """Connections to the daemon. A request that is cancelled takes its connection along.

    So the vault knows that nobody waits any more, and signs nothing.
    """

    KEPT = 4  # connections that wait for the next request

    def __init__(self, places: Places) -> None:
        self.places = places
        self.idle: list[VaultEnd] = []

    async def ask(self, op: str, **fields: object) -> Message:
        """The answer to a request; raises what the daemon says, and Unavailable."""
        return await self.converse(op, None, fields)

    async def converse(
        self, op: str, second: Callable[[], Awaitable[Message]] | None, fields: Message
    ) -> Message:
        """The same; `second` makes the next frame, once the daemon is ready for one."""
        end = await self.take()
        try:
            answer = await end.ask({"v": 1, "vault": self.places.id, "op": op, **fields})
            if answer.get("ready") and second:
                answer = await end.ask(await second())
        except BaseException:
            end.transport.abort()
            raise
        if not answer.get("ok"):
            end.transport.close()  # what refuses a locked vault's first request answers no second
            raise AvaultError.from_dict(answer)
        self.keep(end)
        return answer

    async def take(self) -> VaultEnd:
        """A connection: one that waits, and that the other end has not left, or a new one."""
        while self.idle:
            end = self.idle.pop()
            if not end.transport.is_closing():
                return end
        try:
            fast = FastConnection(self.places)
            sock = socket.socket(fileno=fast.socket.detach())
            sock.setblocking(False)

            def make() -> Any:  # a protocol, though not derived from asyncio's
                return VaultEnd()

            _, end = await asyncio.get_running_loop().create_unix_connection(make, sock=sock)
        except OSError:
            raise Unavailable("no daemon listens", "start it: avault daemon start") from None
        found: VaultEnd = end
        return found

    def keep(self, end: VaultEnd) -> None:
        """Have a connection wait for the next request."""
        if len(self.idle) < self.KEPT:
            self.idle.append(end)
        else:
            end.transport.close()
