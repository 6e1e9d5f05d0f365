"""Requests that wait for a secret, as long as their clients do: the phone may be asked meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from avault import Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mitmproxy import http

LOOK = 0.25  # seconds between two looks at whether clients are still there


class Waiter:
    """A request that waits, in a `task`; `is_looked_at` is whether it did so at the last look."""

    def __init__(self, task: asyncio.Task[Any], flow: http.HTTPFlow) -> None:
        self.task, self.flow = task, flow
        self.has_left, self.is_looked_at = False, False

    def leave(self) -> None:
        """End the waiting, as its client has left."""
        if not self.has_left:
            self.has_left = True
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
        """Wait for what a request needs; raises what that does, Unavailable if its client leaves.

        A client has left when its connection has ended, or its stream in that (`note_left`).
        """
        task: Any = asyncio.current_task()
        waiter = self.waiting[flow.id] = Waiter(task, flow)
        if self.looking is None:
            self.looking = asyncio.get_running_loop().call_later(LOOK, self.look)
        try:
            await work
        except asyncio.CancelledError:
            if not waiter.has_left:
                raise
            raise Unavailable("the client has left") from None
        finally:
            del self.waiting[flow.id]
            if waiter.has_left:
                task.uncancel()

    def look(self) -> None:
        """Look who is still there, of those that waited at the last look as well."""
        self.looking = None
        for each in [*self.waiting.values()]:
            if each.is_looked_at and self.has_left(each.flow.client_conn):
                each.leave()
            each.is_looked_at = True
        if self.waiting:
            self.looking = asyncio.get_running_loop().call_later(LOOK, self.look)

    def note_left(self, flow: http.HTTPFlow) -> None:
        """A request was taken back by its client, which may go on with others."""
        if waiter := self.waiting.get(flow.id):
            waiter.leave()
