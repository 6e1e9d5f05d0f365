"""What the supervisor has the keyholder do: each order has a row."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avault.daemon.desks import take_desk
from avault.daemon.openers import Openers
from avault.daemon.operators import change_operators
from avault.daemon.retiring import retire_shared
from avault.daemon.revoking import remove_machine
from avault.daemon.rotating import Rotating
from avault.daemon.unguarding import Unguarding
from avault.keys.entrusting import entrust, note_proof, part_with_phone, sign_shared
from avault.keys.unlocking import Unlocking
from avault.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from avault.protocol import Message

    Beside = Coroutine[Any, Any, None] | None
    Order = Callable[["Message", int | None], "Beside"]
    Handing = Callable[["Message", int], "Beside"]


class Orders:
    """The `rows` of all that are known: what is done at once, or by work that goes on beside.

    Those of `handed` have a descriptor with them, and are none without it.
    """

    def __init__(
        self, unlocking: Unlocking, openers: Openers, tasks: set[asyncio.Task[None]]
    ) -> None:
        self.unlocking, self.tasks = unlocking, tasks
        self.rotating = Rotating(unlocking.holding, unlocking)
        self.unguarding = Unguarding(unlocking.holding, openers)
        self.rows = {**self.list_ways(), **self.list_changes()}
        self.handed: dict[str, Handing] = {
            "try": unlocking.try_custodian,
            "opener": openers.take,
            "entrust": lambda message, fd: entrust(unlocking.holding, fd, message),
        }

    def list_ways(self) -> dict[str, Order]:
        """Those about how the vault is opened, and for how long it stays so."""
        unlocking, holding = self.unlocking, self.unlocking.holding
        return {
            "unlock": unlocking.ask,
            "ask": lambda message, fd: unlocking.ask_again(),
            "wanted": lambda message, fd: unlocking.want(bool(message["accept_rollback"])),
            "rest": lambda message, fd: unlocking.rest(message["opens_for"]),
            "proven": lambda message, fd: note_proof(holding),
            "renew": lambda message, fd: unlocking.opening.renew_own_phones(),
            "limit": lambda message, fd: self.change_limits(message),
        }

    def list_changes(self) -> dict[str, Order]:
        """Those that the operator has to agree to."""
        holding, unguarding = self.unlocking.holding, self.unguarding
        return {
            "sign": lambda message, fd: sign_shared(holding, message),
            "retire": lambda message, fd: retire_shared(holding, message),
            "part": lambda message, fd: part_with_phone(holding, message),
            "operator": lambda message, fd: change_operators(holding, message),
            "remove machine": lambda message, fd: remove_machine(holding, message),
            "rotate": self.rotating.step,
            "loosen": lambda message, fd: unguarding.begin(message),
            "desk": lambda message, fd: take_desk(holding, unguarding, message),
            "weigh": lambda message, fd: unguarding.weigh(message),
            "drop": lambda message, fd: unguarding.drop(message["ticket"]),
        }

    def follow(self, message: Message, fd: int | None) -> None:
        """Do what a message says; nothing, where that is not known."""
        name, work = message["do"], None
        if order := self.rows.get(name):
            work = order(message, fd)
        elif fd is not None and (handing := self.handed.get(name)):
            work = handing(message, fd)
        if work:
            spawn(self.tasks, work)

    def change_limits(self, message: Message) -> None:
        """Have the vault lock itself sooner or later."""
        self.unlocking.holding.autolock.change(message)
        self.unlocking.holding.reporter.report()
