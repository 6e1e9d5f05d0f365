"""Clients that leave while something is done for them: they take it along."""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING

from avault.daemon.wire import Session

if TYPE_CHECKING:
    from collections.abc import Collection

LOOK_AFTER = 0.5  # seconds, and again: whether who asks has left


class ClientWatch:
    """Looks every now and then, for the length of a `with`, whether a client is still there.

    If not, its connection ends, and with that its task. Who is `given` its answer by another
    process may leave as soon as it has that.
    """

    def __init__(self, session: Session, given: Collection[Session] = ()) -> None:
        self.session, self.given = session, given

    def __enter__(self) -> None:
        self.look_later()

    def __exit__(self, *_: object) -> None:
        self.timer.cancel()

    def look_later(self) -> None:
        """Look once more, in a while."""
        self.timer = asyncio.get_running_loop().call_later(LOOK_AFTER, self.look)

    def look(self) -> None:
        """End the connection, or look again later."""
        transport = self.session.transport
        if transport.is_closing():
            return
        is_left = has_left(transport.get_extra_info("socket").fileno())
        if is_left and self.session not in self.given:
            transport.abort()
        else:
            self.look_later()


def has_left(fd: int) -> bool:
    """Whether the other end of a connection is closed, and has not only said its last."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))
