"""The keyholder's clients: how they come in, and which row their requests are given to."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

from avault.daemon.approving import approve_grant
from avault.daemon.wire import Session
from avault.errors import TimedOut, Usage, printable
from avault.keys.keyholder import Keyholder
from avault.process import room
from avault.protocol import FIRST_FRAME_TIME, RELEASING, SESSIONS, VALUES, read_limit
from avault.signer.pairing import UNPROVEN
from avault.tasks import spawn

if TYPE_CHECKING:
    from typing import Any

    from avault.daemon.grant import Grant
    from avault.keys.keyholder import Answer, Serve, Talk
    from avault.protocol import Message


class Reception:
    """Who is connected to a keyholder, in `sessions`, and what is answered them.

    `talks` and `requests` are the tables of what clients may ask.
    """

    def __init__(
        self, keyholder: Keyholder, talks: dict[str, Talk], requests: dict[str, Serve]
    ) -> None:
        self.keyholder, self.talks, self.requests = keyholder, talks, requests
        self.sessions = keyholder.grants.sessions
        keyholder.orders.handed["connection"] = self.connect

    async def connect(self, message: Message, fd: int) -> None:
        """A client, whose connection the supervisor hands on."""
        frame, since, identity = (message[each] for each in ("frame", "since", "identity"))
        await self.take_over(fd, frame, since, identity, message["front"])

    async def take_over(
        self,
        fd: int,
        frame: Message,
        since: float,
        identity: str | None = None,
        front: bool = False,
    ) -> None:
        """Serve a connection from now on, which is there `since` then.

        Perhaps by a grant's socket, or from the SSH agent (`front`), which says who its client is.
        """
        sock = socket.socket(fileno=fd)
        grant = self.keyholder.grants.find(identity, sock) if identity is not None else None
        if identity is not None and not grant:
            sock.close()
            return
        if len(self.sessions) >= room():
            idle = next((each for each in self.sessions if not each.task or each.awaited), None)
            if not idle:
                sock.close()
                return
            del self.sessions[idle]
            idle.transport.abort()

        def make() -> Any:  # a protocol, though not derived from asyncio's
            session = Session(frame, self.answer, self.settle, self.sessions, since, grant)
            if front:
                self.keyholder.signing.fronts.add(session)
            return session

        await asyncio.get_running_loop().connect_accepted_socket(make, sock)

    def settle(self) -> None:
        """A session's work is done: end, where there is no vault and no task to get one."""
        converse = any(session.task and session.is_conversation for session in self.sessions)
        unlocking = self.keyholder.unlocking
        is_busy = unlocking.task or unlocking.talking or unlocking.tries.count or converse
        if not (self.keyholder.holding.store or is_busy):
            self.keyholder.ended.set()

    def answer(self, session: Session, request: Message) -> Answer:
        """The answer to a request, or the work that leads to it; raises AvaultError."""
        keyholder, op, grant = self.keyholder, str(request.get("op")), session.grant
        if grant:
            grant.check_request(
                op, lambda known: keyholder.release(session, {"op": known}, "denied")
            )
        if request.get("v") != 1 or (request.get("vault") != keyholder.places.id and not grant):
            raise Usage(
                "that is for another vault, or another version of avault", "see: avault status"
            )
        if op in SESSIONS:
            return self.converse(session, request)
        if op not in VALUES:
            raise Usage(f"not on this connection: {printable(op)}", "open another one for it")
        store = keyholder.open_store()
        before = store.trouble, store.digest
        # those are about copies, and git is at work beside
        if op != "inspect" and not request.get("ours"):
            store.refresh()
            keyholder.signing.tidy(store.vault)
        if (store.trouble, store.digest) != before:
            keyholder.reporter.report()
            # perhaps by us: what a git pull has brought is merged
            keyholder.reporter.wrote()
            spawn(keyholder.tasks, keyholder.holding.save())
        if grant and grant.asks and op in RELEASING:
            return self.ask_first(session, grant, request)
        return self.requests[op](keyholder, session, request)

    async def ask_first(self, session: Session, grant: Grant, request: Message) -> Message:
        """Have the operator agree to the first use of a grant, then answer; raises AvaultError."""
        keyholder = self.keyholder
        keyholder.identify(session)

        def note(outcome: str) -> None:
            keyholder.release(session, request, outcome)

        await approve_grant(keyholder.holding, keyholder.grants, session, grant, note)
        answer = self.requests[str(request["op"])](keyholder, session, request)
        return answer if isinstance(answer, dict) else await answer

    async def converse(self, session: Session, request: Message) -> Message:
        """A request that talks with the operator; one at a time, with an end."""
        keyholder = self.keyholder
        if request["op"] == "open":  # it asks nobody: any number at once
            async with asyncio.timeout(FIRST_FRAME_TIME):
                private = await session.frame()
            return await self.talks["open"](keyholder, session, request, private)
        if keyholder.unlocking.talking:
            raise Usage(
                "another pairing is under way", "let it end first, or stop it with: avault lock"
            )
        keyholder.unlocking.begin_talk()
        try:
            async with asyncio.timeout(FIRST_FRAME_TIME):
                private = await session.frame() if request.get("private") else {}
            async with asyncio.timeout(read_limit(request)):
                return await self.talks[request["op"]](keyholder, session, request, private)
        except TimeoutError:
            # the signer is connected, and was to open the vault
            if os.path.lexists(keyholder.places.own(UNPROVEN)):
                again = "recover" if request["op"] == "recover" else "pair"
            else:
                again = {"init": "init", "recover": "recover"}.get(request["op"], "pair --replace")
            hint = f"is the app open, and on the same relays? Try again with: avault {again}"
            raise TimedOut("the signer did not answer in time", hint) from None
        finally:
            keyholder.unlocking.end_talk()
