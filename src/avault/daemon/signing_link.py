"""The process that signs, as the keyholder has it: what it is asked, and which keys it has."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from avault.daemon.wire import Control
from avault.errors import AvaultError, Unavailable
from avault.vault.signing_keys import SigningKeys

if TYPE_CHECKING:
    from avault.protocol import Message


class SigningLink:
    """The process that signs, which the supervisor starts when there is something for it to do.

    `control` is the stream to the supervisor, `keys` what is known of the vault's.
    """

    START_TIME = 15.0  # seconds
    ANSWER_TIME = 60.0  # an RSA key takes some to be made

    def __init__(self, control: Control) -> None:
        self.control, self.keys = control, SigningKeys()
        self.link: Control | None = None
        self.coming: asyncio.Future[Control] | None = None
        self.answers: dict[int, asyncio.Future[Message]] = {}
        self.given: set[str] = set()  # the public halves of the keys that it has
        self.last = 0

    def take(self, message: Message, fd: int | None) -> None:
        """What the supervisor has: a socket to that process, or why there is none."""
        coming, self.coming = self.coming, None
        if fd is None:
            if coming and not coming.done():
                coming.set_exception(AvaultError.from_dict({"error": message.get("failed")}))
            return
        link = self.link = Control(socket.socket(fileno=fd), self.hear, self.lose)
        if coming and not coming.done():
            coming.set_result(link)

    def hear(self, answer: Message, fd: int | None) -> None:
        """An answer of that process, which sends no descriptor."""
        waiting = self.answers.pop(int(answer.get("id", 0)), None)
        if waiting and not waiting.done():
            waiting.set_result(answer)

    def lose(self) -> None:
        """It is gone, and what it was asked is not answered; the next is started anew."""
        self.link, waiting = None, [*self.answers.values()]
        self.given.clear()
        self.answers.clear()
        for each in waiting:
            if not each.done():
                each.set_exception(Unavailable("the process that signs has ended", "try again"))

    async def ask(self, **message: object) -> Message:
        """The process's answer; raises what it says, and Unavailable."""
        try:
            async with asyncio.timeout(self.ANSWER_TIME):
                link = self.link or await self.reach()
                self.last += 1
                waiting: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
                self.answers[self.last] = waiting
                link.send({"id": self.last, **message})
                answer = await waiting
        except TimeoutError:
            raise Unavailable("the process that signs does not answer", "try again") from None
        if not answer.get("ok"):
            raise AvaultError.from_dict(answer)
        return answer

    async def sign(self, public: str, key: str, **message: object) -> str:
        """A signature; the key goes to the process once."""
        if public not in self.given:
            message["key"] = key
        answer = await self.ask(do="sign", public=public, **message)
        self.given.add(public)
        return str(answer["signature"])

    async def reach(self) -> Control:
        """The stream to the process, which is started unless it is on its way."""
        if not self.coming:
            self.coming = asyncio.get_running_loop().create_future()
            self.control.send({"need": "signing"})
        coming = self.coming
        try:
            async with asyncio.timeout(self.START_TIME):
                return await asyncio.shield(coming)
        except TimeoutError:
            if self.coming is coming:
                self.coming = None  # who asks next has another one started
            raise
