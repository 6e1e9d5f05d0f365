"""A process that opens secrets, or seals them, as the keyholder hears it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avault.daemon.wire import Control
from avault.errors import AvaultError, TimedOut, Unavailable

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from avault.protocol import Message


class OpenerLink:
    """A process that has a job, and what it says; None once it is gone."""

    def __init__(
        self,
        sock: socket.socket,
        ended: Callable[[OpenerLink], None],
        is_asking: bool,
        through: str | None = None,
    ) -> None:
        self.is_asking, self.through = is_asking, through  # through which grant it was asked for
        self.questions: list[Message] = []  # whose answers it hears
        self.said: asyncio.Queue[Message | None] = asyncio.Queue()
        self.ended, self.is_gone, self.is_staying = ended, False, False
        self.control = Control(sock, self.hear, self.lose)

    def hear(self, message: Message, fd: int | None) -> None:
        """A word of the process."""
        self.said.put_nowait(message)

    def lose(self) -> None:
        """It is gone."""
        self.is_gone = True
        self.said.put_nowait(None)
        self.ended(self)

    def send(self, message: Message, fd: int | None = None) -> None:
        """Tell it something, if it is still there."""
        if not self.is_gone:
            self.control.send(message, fd)

    def end(self) -> None:
        """Have it end at once."""
        if not self.is_gone:
            self.control.close()

    async def hear_answer(self, seconds: float) -> Message:
        """What it says of a job that nobody is asked for; raises what went wrong."""
        try:
            async with asyncio.timeout(seconds):
                found = await self.said.get() or {}
        except TimeoutError:
            raise TimedOut("the process that seals does not answer", "try again") from None
        if "failed" in found:
            raise AvaultError.from_dict({"error": found["failed"]})
        if not found:
            raise Unavailable("the process that seals has ended", "try again")
        return found
