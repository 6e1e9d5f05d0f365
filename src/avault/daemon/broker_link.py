"""The processes of proxies, as the keyholder has them: one for each session."""

from __future__ import annotations

import asyncio
import secrets
import socket
from typing import TYPE_CHECKING

from avault.daemon.wire import Control
from avault.errors import AvaultError, Locked, Unavailable
from avault.process import meet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from avault.protocol import Message

    Use = Callable[[Message], Awaitable[Message]]


class BrokerLink:
    """A session's process. `use` is given what it asks for, `refused` what it did not let out.

    `ended` is done when it is gone, with the reason, "" for none.
    """

    def __init__(self, sock: socket.socket, use: Use, refused: Callable[[Message], None]) -> None:
        self.use, self.refused = use, refused
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[Message] = loop.create_future()
        self.ended: asyncio.Future[str] = loop.create_future()
        self.tasks: set[asyncio.Task[None]] = set()
        self.why = ""
        self.control = Control(sock, self.hear, self.lose)

    def hear(self, message: Message, fd: int | None) -> None:
        """What the process says; it sends no descriptor."""
        if "use" in message:
            task = asyncio.get_running_loop().create_task(self.answer(message))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        elif "refused" in message and isinstance(message["refused"], dict):
            self.refused(message["refused"])
        elif "ready" in message and not self.ready.done():
            self.ready.set_result(message["ready"])
        elif "failed" in message and not self.ready.done():
            self.ready.set_exception(AvaultError.from_dict({"error": message["failed"]}))
        elif "ended" in message:
            self.why = str(message["ended"])

    async def answer(self, message: Message) -> None:
        """Answer what it asks for, whatever comes of it."""
        answer = await self.use(message)
        try:
            self.control.send({"id": message["use"], **answer})
        except Locked:
            pass  # the process has ended

    def lose(self) -> None:
        """It is gone."""
        if not self.ready.done():
            self.ready.set_exception(Unavailable("the proxy's process has ended", "try again"))
            self.ready.exception()  # perhaps nobody waits for it
        if not self.ended.done():
            self.ended.set_result(self.why)

    def end(self) -> None:
        """Have it end: it does when nobody is at the other end."""
        for task in [*self.tasks]:
            task.cancel()
        self.control.close()


class Brokers:
    """Starts them, through the supervisor; `control` is the stream to that."""

    START_TIME = 20.0  # seconds: mitmproxy takes a few on a busy machine
    MOST = 16  # sessions at once: each has some 80 MB

    def __init__(self, control: Control) -> None:
        self.control = control
        self.wanted: dict[str, asyncio.Future[tuple[int, socket.socket]]] = {}
        self.links: dict[str, BrokerLink] = {}

    def take(self, message: Message, fd: int | None) -> None:
        """The supervisor has started one: its pid, and the door to it; or says why not."""
        door = socket.socket(fileno=fd) if fd is not None else None
        wanted = self.wanted.pop(str(message["number"]), None)
        if wanted and not wanted.done() and door:
            wanted.set_result((message["pid"], door))
        elif wanted and not wanted.done():
            wanted.set_exception(AvaultError.from_dict({"error": message.get("failed")}))
        elif door:
            door.close()

    async def start(
        self, session: Message, use: Use, refused: Callable[[Message], None]
    ) -> tuple[str, BrokerLink, Message]:
        """One that listens, by a number, and what it says of that; raises AvaultError."""
        if len(self.links) + len(self.wanted) >= self.MOST:
            raise Unavailable("too many proxies at once", "end one of the commands")
        number, link = secrets.token_hex(8), None
        wanted = self.wanted[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self.START_TIME):
                self.control.send({"broker": number})
                pid, door = await wanted
                with door:
                    door.setblocking(False)
                    own = await meet(door, pid)
                link = self.links[number] = BrokerLink(own, use, refused)
                link.control.send({"do": "begin", **session})
                return number, link, await link.ready
        except BaseException as error:
            self.end(number)
            if isinstance(error, TimeoutError):
                raise Unavailable("the proxy did not start in time", "try again") from None
            raise
        finally:
            self.wanted.pop(number, None)

    def end(self, number: str) -> None:
        """End a session's process: by the stream to it, and where it is stopped by a signal."""
        if link := self.links.pop(number, None):
            link.end()
        try:
            self.control.send({"broker": number, "is_over": True})
        except Locked:
            pass  # the supervisor is gone, and it with that
