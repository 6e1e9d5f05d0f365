"""The process that holds the agent's key and the secrets.

It starts no program, and locking is its exit: Python cannot wipe a string, the kernel can.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

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
from avault.errors import Locked
from avault.keys.holding import Holding
from avault.keys.unlocking import Unlocking
from avault.places import Places
from avault.process import uptime
from avault.tasks import spawn
from avault.vault.locks import find_asked
from avault.vault.records import Vault
from avault.vault.store import Store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any

    from avault.daemon.orders import Order
    from avault.protocol import Limits, Message

    Answer = dict[str, Any] | Coroutine[Any, Any, dict[str, Any]]

    Talk = Callable[["Keyholder", "Session", Message, Message], Awaitable[Message]]

    Serve = Callable[["Keyholder", "Session", Message], Answer]


MOST_ASKED = 100  # names in `status` of which the phone is asked


class Keyholder:
    """The keyholder process: obtains the key, holds the vault, exits to lock it.

    It is what requests are answered from; who asks, and what may be asked, is in `Reception`.
    """

    def __init__(self, places: Places, control: socket.socket, limits: Limits) -> None:
        ended = asyncio.Event()
        self.control = Control(control, self.receive, ended.set)
        self.gate, self.signing = Gate(), SigningLink(self.control)
        self.guests = Guests(places.own("access.log"))
        self.holding = Holding(places, Reporter(self.control, self.describe), limits)
        self.unlocking = Unlocking(self.holding, ended)
        self.openers, self.askings = Openers(self.holding), Askings()
        self.brokers = Brokers(self.control)
        self.grants = Grants(self.control, {}, self.reporter.report, self.brokers)
        self.tasks: set[asyncio.Task[None]] = set()
        self.orders = Orders(self.unlocking, self.openers, self.tasks)
        self.orders.rows |= self.own_orders()

    @property
    def places(self) -> Places:
        """Where the vault lies."""
        return self.holding.places

    @property
    def reporter(self) -> Reporter:
        """What the supervisor is told by."""
        return self.holding.reporter

    @property
    def ended(self) -> asyncio.Event:
        """Whether this process is to end."""
        return self.unlocking.ended

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

    # -- what requests are answered from

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
