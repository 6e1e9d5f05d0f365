"""The processes of proxies, as the keyholder has them: one for each session."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
import weakref
from typing import TYPE_CHECKING

from avault.daemon.grant import ASK_MAKER
from avault.daemon.wire import Control
from avault.errors import AvaultError, Denied, Locked, Unavailable
from avault.keys.hardening import meet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any

    from avault.daemon.grant import Grant
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
        self.uses: dict[Any, asyncio.Task[None]] = {}  # that are not answered yet
        self.why = ""
        self.control = Control(sock, self.hear, self.lose)

    def hear(self, message: Message, fd: int | None) -> None:
        """What the process says; it sends no descriptor."""
        if "use" in message:
            task = start_at_once(self.answer(message))
            self.uses[message["use"]] = task
            task.add_done_callback(lambda _: self.uses.pop(message["use"], None))
        elif "drop" in message:
            if found := self.uses.get(message["drop"]):
                found.cancel()
        elif "refused" in message and isinstance(message["refused"], dict):
            self.refused(message["refused"])
        elif "ready" in message and not self.ready.done():
            self.ready.set_result(message["ready"])
        elif "failed" in message and not self.ready.done():
            self.ready.set_exception(AvaultError.from_dict({"error": message["failed"]}))
        elif "ended" in message:
            self.why = str(message["ended"])

    async def answer(self, message: Message) -> None:
        """Answer what it asks for, whatever comes of it.

        What the phone has opened is not here: it comes by a descriptor, from who has opened it.
        """
        answer = await self.use(message)
        end = answer.pop("end", None)
        try:
            self.control.send({"id": message["use"], **answer}, end and end.fileno())
        except Locked:
            pass  # the process has ended
        finally:
            if end:
                end.close()

    def lose(self) -> None:
        """It is gone."""
        if not self.ready.done():
            self.ready.set_exception(Unavailable("the proxy's process has ended", "try again"))
            self.ready.exception()  # perhaps nobody waits for it
        if not self.ended.done():
            self.ended.set_result(self.why)

    def end(self) -> None:
        """Have it end: it does when nobody is at the other end."""
        for task in [*self.uses.values()]:
            task.cancel()
        self.control.close()


def start_at_once(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that begins before this returns, where Python can; most are done by then."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=asyncio.get_running_loop(), eager_start=True)
    return asyncio.get_running_loop().create_task(work)


class Brokers:
    """Starts them, through the supervisor; `control` is the stream to that."""

    START_TIME = 20.0  # seconds: mitmproxy takes a few on a busy machine
    MOST = 16  # sessions at once: each has some 140 MB
    MOST_OF_GRANT = 2  # of one grant; and half of them of all grants
    MOST_RENEWING = 8  # besides, that have a token renewed, for some seconds

    def __init__(self, control: Control) -> None:
        self.control = control
        self.wanted: dict[str, asyncio.Future[tuple[int, socket.socket]]] = {}
        self.links: dict[str, BrokerLink] = {}
        self.through: dict[str, Grant | None] = {}  # those there are, or are to be: by which grant
        self.standing: dict[Grant, Any] = {}  # those that stay; None for one that starts
        self.renewing: set[str] = set()  # the numbers of those that renew a token
        self.turns = weakref.WeakValueDictionary[str, asyncio.Lock]()  # of who renews what
        self.renewed: dict[str, float] = {}  # when that was, by time.monotonic

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
        self,
        session: Message,
        use: Use,
        refused: Callable[[Message], None],
        grant: Grant | None = None,
        is_standing: bool = False,
    ) -> tuple[str, BrokerLink, Message]:
        """One that listens, by a number, and what it says of that; raises AvaultError.

        That of a grant ends with it; its files are where those of the grant's users can be.
        """
        through = [each for each in self.through.values() if each]
        mine, renews = sum(each is grant for each in through), "refresh" in session
        is_much = mine >= self.MOST_OF_GRANT or len(through) >= self.MOST // 2
        if renews and len(self.renewing) >= self.MOST_RENEWING:
            raise Unavailable("too many tokens are renewed at once", "try again in a while")
        is_full = len(self.through) - len(self.renewing) >= self.MOST
        if (grant and is_much) or (is_full and not renews):
            raise Unavailable(
                "too many proxies at once", "end one of them; see: avault proxy status"
            )
        number, link = secrets.token_hex(8), None
        self.through[number] = grant
        self.renewing |= {number} if renews else set()
        place = None
        if grant:
            is_shared = bool(grant.uids - {os.getuid()})
            place = {"name": grant.name, "shared": is_shared, "standing": is_standing}
        wanted = self.wanted[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self.START_TIME):
                told = {"broker": number, "grant_of": place, "stays": renews}
                self.control.send(told)
                pid, door = await wanted
                with door:
                    door.setblocking(False)
                    own = await meet(door, pid)
                link = self.links[number] = BrokerLink(own, use, refused)
                link.control.send({"do": "begin", **session})
                found = await link.ready
            if number not in self.through:
                raise Denied("the grant has ended", ASK_MAKER)
            return number, link, found
        except BaseException as error:
            self.end(number)
            if isinstance(error, TimeoutError):
                raise Unavailable("the proxy did not start in time", "try again") from None
            raise
        finally:
            self.wanted.pop(number, None)

    def end_of(self, grant: Grant) -> None:
        """End those of a grant, before anything else is said of its end."""
        for number, each in [*self.through.items()]:
            if each is grant:
                self.end(number)

    def end(self, number: str) -> None:
        """End a session's process: by the stream to it, and where it is stopped by a signal."""
        self.through.pop(number, None)
        self.renewing.discard(number)
        if link := self.links.pop(number, None):
            link.end()
        try:
            self.control.send({"broker": number, "is_over": True})
        except Locked:
            pass  # the supervisor is gone, and it with that
