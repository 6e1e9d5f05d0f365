"""Work that runs beside other work, in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeVar

    Result = TypeVar("Result")


def spawn(tasks: set[asyncio.Task[Any]], work: Coroutine[Any, Any, Any]) -> None:
    """Run something beside; while it runs it is in `tasks`, as the event loop does not hold it."""
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


class Stall:
    """Gives a client up that leaves half a frame for too long."""

    TIME = 30.0  # seconds that it may stay half

    def __init__(self) -> None:
        self.timer: asyncio.TimerHandle | None = None

    def watch(self, is_half: bool, give_up: Callable[[], None]) -> None:
        """Wait for the rest of a frame from now on, where there is half of one."""
        self.end()
        if is_half:
            self.timer = asyncio.get_running_loop().call_later(self.TIME, give_up)

    def end(self) -> None:
        """Wait no more."""
        if self.timer:
            self.timer.cancel()
        self.timer = None


async def see_through(work: Coroutine[Any, Any, Result]) -> Result:
    """What comes of something that is done to its end, also where who wanted it leaves meanwhile.

    Then that is told afterwards, by CancelledError.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):  # it is told below
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # is told to nobody, as nobody is there
        raise
