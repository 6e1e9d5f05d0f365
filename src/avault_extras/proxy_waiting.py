"""Requests that wait for a secret, as long as their clients do; the phone may be asked for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from avault import AvaultError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mitmproxy import http

LOOK = 0.25  # seconds between two looks at whether clients are still there
LONGEST_WAIT = 200.0  # seconds for the keyholder, which may have the phone asked meanwhile


class Waiter:
    """A request that waits, in a `task`; `looks` is how often it was looked at since it began."""

    def __init__(self, task: asyncio.Task[Any], flow: http.HTTPFlow) -> None:
        self.task, self.flow, self.looks = task, flow, 0
        self.fault: AvaultError | None = None

    def end(self, fault: AvaultError) -> None:
        """End the waiting, and say why."""
        if not self.fault:
            self.fault = fault
            self.task.cancel()


class Waiters:
    """Those of a session, by their flows. `has_left` says of a client whether its connection ended.

    One look is for all of them, and there is none where nobody waits: most are answered before it.
    """

    def __init__(self, has_left: Callable[[Any], bool]) -> None:
        self.has_left = has_left
        self.waiting: dict[str, Waiter] = {}
        self.looking: asyncio.TimerHandle | None = None

    async def hold(self, flow: http.HTTPFlow, work: Awaitable[None]) -> None:
        """Wait for what a request needs; raises what that does, Unavailable if its client
        leaves, or nobody answers in time.

        A client has left when its connection has ended, or its stream in that (`note_left`).
        """
        task: Any = asyncio.current_task()
        waiter = self.waiting[flow.id] = Waiter(task, flow)
        if self.looking is None:
            self.looking = asyncio.get_running_loop().call_later(LOOK, self.look)
        try:
            await work
        except asyncio.CancelledError:
            if not waiter.fault:
                raise
            raise waiter.fault from None
        finally:
            del self.waiting[flow.id]
            if waiter.fault:
                task.uncancel()

    def look(self) -> None:
        """Look who is still there, of those that waited at the last look as well."""
        self.looking = None
        for each in [*self.waiting.values()]:
            if each.looks and self.has_left(each.flow.client_conn):
                each.end(Unavailable("the client has left"))
            elif each.looks > LONGEST_WAIT / LOOK:
                each.end(Unavailable("the keyholder does not answer", "see: avault status"))
            each.looks += 1
        if self.waiting:
            self.looking = asyncio.get_running_loop().call_later(LOOK, self.look)

    def note_left(self, flow: http.HTTPFlow) -> None:
        """A request was taken back by its client, which may go on with others."""
        if waiter := self.waiting.get(flow.id):
            waiter.end(Unavailable("the client has left"))
