"""The grants there are, in the keyholder: in its memory alone, and gone with it.

Their sockets the supervisor has, which hands on what connects there.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from avault.daemon.grant import Grant, Pause
from avault.daemon.wire import Control, Session
from avault.errors import AvaultError, Denied, NotFound, Unavailable
from avault.plain import peer_uid
from avault.process import uptime

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.daemon.broker_link import Brokers
    from avault.daemon.restraint import Who
    from avault.protocol import Message


MOST_GRANTS = 100
MOST_SESSIONS = 100  # connections of one grant: else it could have those of all others


class Grants:
    """Those there are, by their names. `sessions` are the open connections of all.

    `brokers` are the proxies of all. `changed` is called when there are others.
    """

    ANSWER_TIME = 10.0  # seconds that the supervisor has to make a socket, or to close it

    def __init__(
        self,
        control: Control,
        sessions: dict[Session, None],
        changed: Callable[[], None],
        brokers: Brokers,
    ) -> None:
        self.control, self.sessions, self.changed = control, sessions, changed
        self.brokers = brokers
        self.known: dict[str, Grant] = {}
        self.pauses: dict[Who, Pause] = {}  # by who makes grants that ask
        self.awaited: dict[str, asyncio.Future[Message]] = {}

    def find(self, identity: str, sock: socket.socket) -> Grant | None:
        """The grant of a connection that has come; None where it is to be closed.

        Of too many connections of one grant, the one that is quiet for longest has to go.
        """
        grant = next((each for each in self.known.values() if each.identity == identity), None)
        if not grant or grant.is_over() or peer_uid(sock) not in grant.uids:
            return None
        own = [each for each in self.sessions if each.grant is grant]
        if len(own) >= MOST_SESSIONS:
            idle = next((each for each in own if not each.task or each.awaited), None)
            if not idle:
                return None
            self.cut(idle)
        return grant

    def cut(self, session: Session) -> None:
        """End a connection: nothing more is sent on it."""
        self.sessions.pop(session, None)
        session.cut()

    async def make(self, grant: Grant) -> None:
        """Have a socket made for a grant, which counts from then on; raises AvaultError."""
        if grant.name in self.known:
            raise Denied(
                f"there is a grant {grant.name} already", f"avault revoke {grant.name}, then again"
            )
        if len(self.known) >= MOST_GRANTS:
            raise Denied(f"there are {MOST_GRANTS} grants", "avault revoke those that nobody needs")
        self.known[grant.name] = grant
        try:
            wish = {"name": grant.name, "uids": sorted(grant.uids)}
            grant.path = str((await self.order(grant, "listen", **wish))["path"])
        except BaseException:
            self.end([grant])
            raise
        if (
            grant.until is not None
        ):  # a loop's clock stands still while the machine sleeps: see `run`
            later = max(grant.until - uptime(), 0.0) + 0.01
            asyncio.get_running_loop().call_later(later, self.end_over)
        self.changed()

    async def order(self, grant: Grant, what: str, **about: Any) -> Message:
        """What the supervisor answers when it was told to make, or to close, a grant's socket."""
        awaited: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.awaited[grant.identity] = awaited
        self.control.send({"grant": what, "identity": grant.identity, **about})
        try:
            async with asyncio.timeout(self.ANSWER_TIME):
                answer = await awaited
        except TimeoutError:
            raise Unavailable("the daemon's other process does not answer", "try again") from None
        finally:
            if self.awaited.get(grant.identity) is awaited:
                del self.awaited[grant.identity]
        if answer.get("failed"):
            raise AvaultError.from_dict({"error": answer["failed"]})
        return answer

    def hear(self, message: Message) -> None:
        """The supervisor's answer."""
        awaited = self.awaited.get(str(message["identity"]))
        if awaited and not awaited.done():
            awaited.set_result(message)

    def end(self, grants: list[Grant]) -> None:
        """End some: from here on nothing is answered on any of their connections."""
        for grant in grants:
            grant.is_ended, grant.seen = True, None
            self.brokers.end_of(grant)
            if self.known.get(grant.name) is grant:
                del self.known[grant.name]
            self.control.send({"grant": "close", "identity": grant.identity})
        for session in [each for each in self.sessions if each.grant in grants]:
            self.cut(session)
        self.changed()

    async def revoke(self, name: str | None) -> list[str]:
        """End the grant of a name, or all: the names of those that ended. Raises NotFound.

        Their sockets are gone then.
        """
        if name is not None and name not in self.known:
            raise NotFound(f"no grant {name}", "see which there are: avault grants")
        ended = [each for each in self.known.values() if name in (None, each.name)]
        self.end(ended)
        for grant in ended:
            await self.order(grant, "close")
        return [each.name for each in ended]

    def end_over(self) -> None:
        """End those whose time is over."""
        if over := [each for each in self.known.values() if each.is_over()]:
            self.end(over)
