"""The process that holds the agent's key and the secrets.

It starts no program, and locking is its exit: Python cannot wipe a string, the kernel can.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

from avault.daemon.approving import approve_grant
from avault.daemon.broker_link import Brokers
from avault.daemon.describing import describe_keyholder
from avault.daemon.gate import Gate
from avault.daemon.grants import Grants
from avault.daemon.guests import Guests
from avault.daemon.openers import Openers
from avault.daemon.orders import Orders
from avault.daemon.reporter import Reporter
from avault.daemon.restraint import Askings
from avault.daemon.signing_link import SigningLink
from avault.daemon.wire import Control, Session
from avault.errors import Locked, TimedOut, Usage, printable
from avault.keys.holding import Holding
from avault.keys.unlocking import Unlocking
from avault.places import Places
from avault.process import room, uptime
from avault.protocol import FIRST_FRAME_TIME, RELEASING, SESSIONS, VALUES, read_limit
from avault.signer.pairing import UNPROVEN
from avault.tasks import spawn
from avault.vault.locks import find_asked
from avault.vault.records import Vault
from avault.vault.store import Store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any

    from avault.daemon.grant import Grant
    from avault.daemon.orders import Order
    from avault.protocol import Limits, Message

    Answer = dict[str, Any] | Coroutine[Any, Any, dict[str, Any]]

    Talk = Callable[["Keyholder", "Session", Message, Message], Awaitable[Message]]

    Serve = Callable[["Keyholder", "Session", Message], Answer]


MOST_ASKED = 100  # names in `status` of which the phone is asked


class Keyholder:
    """The keyholder process: obtains the key, serves the vault, exits to lock it.

    `talks` and `requests` are the tables of what clients may ask.
    """

    def __init__(
        self,
        places: Places,
        control: socket.socket,
        talks: dict[str, Talk],
        requests: dict[str, Serve],
        limits: Limits,
    ) -> None:
        self.places, self.talks, self.requests = places, talks, requests
        self.ended = asyncio.Event()
        self.control = Control(control, self.receive, self.ended.set)
        self.reporter = Reporter(self.control, self.describe)
        self.gate, self.signing = Gate(), SigningLink(self.control)
        self.guests = Guests(places.own("access.log"))
        self.holding = Holding(places, self.reporter, limits)
        self.unlocking = Unlocking(self.holding, self.ended)
        self.openers, self.askings = Openers(self.holding), Askings()
        self.brokers = Brokers(self.control)
        self.sessions: dict[Session, None] = {}
        self.grants = Grants(self.control, self.sessions, self.reporter.report, self.brokers)
        self.tasks: set[asyncio.Task[None]] = set()
        self.orders = Orders(self.unlocking, self.openers, self.tasks)
        self.orders.rows |= self.own_orders()
        self.orders.handed["connection"] = self.connect

    # -- the supervisor's side

    async def run(self) -> None:
        """Serve until the supervisor says so or is gone, or until it is time to lock.

        By itself it locks only when what is served is on the disk.
        """
        holding = self.holding
        while not self.ended.is_set() and (
            (left := holding.time_left()) > 0 or not await holding.save(is_last=True)
        ):
            try:  # the loop's clock stands still while the machine sleeps: look every now and then
                async with asyncio.timeout(min(max(left, 0.1), 5.0)):
                    await self.ended.wait()
            except TimeoutError:
                self.grants.end_over()
                if holding.store and holding.store.trouble:
                    await holding.save()
                await holding.verify_recovery()
                await holding.keep_log()
                if holding.store:
                    self.askings.end_stale(holding.store.vault)
                    spawn(self.tasks, self.openers.settle(holding.store))
        if not self.ended.is_set():
            why = holding.autolock.explain()
            self.reporter.fail(Locked(why, "ask the phone with: avault unlock"))
        await holding.writer.finish()
        await holding.save(is_last=True)
        await holding.keep_log(at_once=True)
        while self.control.queue:
            await asyncio.sleep(0.01)

    def receive(self, message: Message, fd: int | None) -> None:
        """A message from the supervisor."""
        self.orders.follow(message, fd)

    def own_orders(self) -> dict[str, Order]:
        """Those that are about clients, and about this process."""
        return {
            "grant": lambda message, fd: self.grants.hear(message),
            "signing": self.signing.take,
            "broker": self.brokers.take,
            "look": lambda message, fd: None if self.ended.is_set() else self.look(),
            "lock": lambda message, fd: self.ended.set(),
        }

    def describe(self) -> Message:
        """What `status` shows."""
        store, known = self.holding.store, describe_keyholder(self.holding, self.unlocking)
        if not store:
            return known
        asked = find_asked(store.vault, self.gate.look(store.vault))
        told = {**self.askings.describe(), **self.signing.describe(store)}
        told["grants"] = [*self.grants.known]
        return {**known, "asks": asked[:MOST_ASKED], **told}

    async def look(self) -> None:
        """Hold the disk against what the open vault knows, and say so when it is done."""
        try:
            await self.holding.look()
        finally:
            if not self.ended.is_set():
                self.control.send({"looked": True})

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
        grant = self.grants.find(identity, sock) if identity is not None else None
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
                self.signing.fronts.add(session)
            return session

        await asyncio.get_running_loop().connect_accepted_socket(make, sock)

    def settle(self) -> None:
        """A session's work is done: end, where there is no vault and no task to get one."""
        converse = any(session.task and session.is_conversation for session in self.sessions)
        unlocking = self.unlocking
        is_busy = unlocking.task or unlocking.talking or unlocking.tries.count or converse
        if not (self.holding.store or is_busy):
            self.ended.set()

    # -- requests

    def answer(self, session: Session, request: Message) -> Answer:
        """The answer to a request, or the work that leads to it; raises AvaultError."""
        op, grant = str(request.get("op")), session.grant
        if grant:
            grant.check_request(op, lambda known: self.release(session, {"op": known}, "denied"))
        if request.get("v") != 1 or (request.get("vault") != self.places.id and not grant):
            raise Usage(
                "that is for another vault, or another version of avault", "see: avault status"
            )
        if op in SESSIONS:
            return self.converse(session, request)
        if op not in VALUES:
            raise Usage(f"not on this connection: {printable(op)}", "open another one for it")
        store = self.open_store()
        before = store.trouble, store.digest
        # those are about copies, and git is at work beside
        if op != "inspect" and not request.get("ours"):
            store.refresh()
            self.signing.tidy(store.vault)
        if (store.trouble, store.digest) != before:
            self.reporter.report()
            # perhaps by us: what a git pull has brought is merged
            self.reporter.wrote()
            spawn(self.tasks, self.holding.save())
        if grant and grant.asks and op in RELEASING:
            return self.ask_first(session, grant, request)
        return self.requests[op](self, session, request)

    async def ask_first(self, session: Session, grant: Grant, request: Message) -> Message:
        """Have the operator agree to the first use of a grant, then answer; raises AvaultError."""
        self.identify(session)

        def note(outcome: str) -> None:
            self.release(session, request, outcome)

        await approve_grant(self.holding, self.grants, session, grant, note)
        answer = self.requests[str(request["op"])](self, session, request)
        return answer if isinstance(answer, dict) else await answer

    def see(self, session: Session) -> Vault:
        """What a caller may know of the open vault; raises Locked."""
        return self.gate.see(self.open_store().vault, session.grant)

    def open_store(self) -> Store:
        """The store of an open vault; raises Locked.

        Also when it is about to lock, or was to and `run` has slept through it.
        """
        store = self.holding.store
        if not store or self.ended.is_set() or self.holding.time_left() <= 0:
            raise Locked("the vault is locked", "ask the phone with: avault unlock")
        return store

    def identify(self, session: Session) -> dict[str, Any]:
        """Who is at the other end, as it is at this moment."""
        session.caller = session.describe()
        return session.caller

    def release(self, session: Session, request: Message, outcome: str = "ok") -> None:
        """Note in the access log what is about to be released or changed.

        Raises AvaultError if that cannot be.
        """
        caller = session.caller or self.identify(session)
        if self.holding.log:
            self.holding.log.write(request, caller, outcome)
        is_guest = session.grant or request["op"] in ("bunker", "proxy") or request.get("child")
        if is_guest and outcome != "ok":
            return  # who gets nothing keeps nothing open
        autolock = self.holding.autolock
        autolock.used = uptime()
        if autolock.idle and autolock.used - self.reporter.reported >= 1:
            self.reporter.report()

    async def change(self, function: Callable[[Vault], None]) -> Message:
        """Have a change written, with those that wait meanwhile; raises what refused it."""
        # it may have been locked while the value was awaited
        store = self.open_store()
        await self.openers.change(store, function)
        self.signing.tidy(store.vault)
        self.askings.end_stale(store.vault)
        return {"ok": True}

    async def converse(self, session: Session, request: Message) -> Message:
        """A request that talks with the operator; one at a time, with an end."""
        if request["op"] == "open":  # it asks nobody: any number at once
            async with asyncio.timeout(FIRST_FRAME_TIME):
                private = await session.frame()
            return await self.talks["open"](self, session, request, private)
        if self.unlocking.talking:
            raise Usage(
                "another pairing is under way", "let it end first, or stop it with: avault lock"
            )
        self.unlocking.begin_talk()
        try:
            async with asyncio.timeout(FIRST_FRAME_TIME):
                private = await session.frame() if request.get("private") else {}
            async with asyncio.timeout(read_limit(request)):
                return await self.talks[request["op"]](self, session, request, private)
        except TimeoutError:
            # the signer is connected, and was to open the vault
            if os.path.lexists(self.places.own(UNPROVEN)):
                again = "recover" if request["op"] == "recover" else "pair"
            else:
                again = {"init": "init", "recover": "recover"}.get(request["op"], "pair --replace")
            hint = f"is the app open, and on the same relays? Try again with: avault {again}"
            raise TimedOut("the signer did not answer in time", hint) from None
        finally:
            self.unlocking.end_talk()
