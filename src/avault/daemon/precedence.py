"""Whose turn it is to change custodians, keys and guards: one at a time, persons first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avault.daemon.asking import Pauses
from avault.errors import Denied

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from avault.protocol import Message

    Work = Callable[[], Awaitable[Message]]


class Precedence:
    """One change at a time; and of less guard, a program's wish gives way to one from a terminal.

    What the phone was asked for a program, in vain, makes programs pause, as for an unlock.
    """

    def __init__(self, pauses: Pauses) -> None:
        self.pauses, self.lock = pauses, asyncio.Lock()
        self.persons = 0  # who want less guard, and wait in a terminal
        self.program: asyncio.Future[Message] | None = None  # the wish of one that is under way
        self.is_asked = False  # whether the phone was asked for that

    async def take(self, work: Work) -> Message:
        """Do something when its turn has come."""
        async with self.lock:
            return await work()

    async def loosen(self, work: Work, person: bool, hint: str) -> Message:
        """Ask for less guard; raises Denied, TimedOut where a program is to wait, with a hint."""
        if not person:
            return await self.loosen_for_program(work, hint)
        self.persons += 1
        self.pauses.clear()
        if self.program:
            self.program.cancel()
        try:
            return await self.take(work)
        finally:
            self.persons -= 1

    async def loosen_for_program(self, work: Work, hint: str) -> Message:
        """`loosen`, if no person waits, also when its turn has come."""
        self.check(hint)
        async with self.lock:
            self.check(hint)
            refused, self.is_asked = False, False
            self.program = wish = asyncio.ensure_future(work())
            try:
                answer = await wish
                self.is_asked = False
                return answer
            except asyncio.CancelledError:
                if wish.cancelled() and self.persons:
                    self.check(hint)
                raise
            except Denied:
                refused = True
                raise
            finally:
                self.program = None
                if self.is_asked and not self.persons:  # also where nobody waited for the answer
                    self.pauses.note(refused)

    def check(self, hint: str) -> None:
        """Raise Denied, TimedOut where a program is to leave the phone alone."""
        if self.persons:
            raise Denied("a person asks for less guard in a terminal", "let that end first")
        self.pauses.check(hint)
