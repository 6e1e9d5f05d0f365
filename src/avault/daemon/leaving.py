"""Work for a client, which ends when that leaves."""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING

from avault.daemon.wire import Session

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine
    from typing import Any, TypeVar

    Made = TypeVar("Made")


async def while_there(
    session: Session, work: Coroutine[Any, Any, Made], given: Collection[Session] = ()
) -> Made:
    """What comes of something for a client, done for as long as that is there.

    Who is `given` its answer by another process may leave as soon as it has that.
    """
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=0.5))[0]:
            is_left = has_left(session.transport.get_extra_info("socket").fileno())
            if is_left and session not in given:
                session.transport.abort()
                raise asyncio.CancelledError
        return await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def has_left(fd: int) -> bool:
    """Whether the other end of a connection is closed, and has not only said its last."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))
