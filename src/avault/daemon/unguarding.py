"""Guards that are taken away or weakened, in the keyholder: one at a time, if a person agrees."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avault.daemon.guarding import (
    Plan,
    changed_meanwhile,
    check_given,
    describe_guard,
    read_place,
)
from avault.daemon.openers import Openers
from avault.errors import Denied, TimedOut, Usage
from avault.keys.entrusting import ask_operator, explain_change, tell_of_change
from avault.keys.holding import Holding
from avault.vault.guards import Guards
from avault.vault.records import Vault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from avault.protocol import Message
    from avault.vault.store import Store

    AgreedWork = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Unguarding:
    """The one that is under way, which ends when nobody waits for it any more; or another wish."""

    def __init__(self, holding: Holding, openers: Openers) -> None:
        self.holding, self.openers, self.ticket = holding, openers, ""
        self.task: asyncio.Task[None] | None = None

    def weigh(self, message: Message) -> None:
        """Tell what a person has to agree to, where the operator's phone does not ask it."""
        said, failed = None, None
        try:
            said = {"said": plan(self.need_store(), message).said}
        except Exception as error:
            failed = explain_change(error)
        tell_of_change(self.holding, message, said, failed)

    def begin(self, message: Message, work: AgreedWork | None = None) -> None:
        """Take a guard away, or weaken it, if the operator agrees, and tell what came of it.

        Or do another `work`, which is given the message.
        """
        if self.task and not (self.task.done() or self.task.cancelling()):
            busy = Denied("another change waits for the operator", "let that end first")
            tell_of_change(self.holding, message, None, busy)
            return
        self.ticket = str(message["ticket"])
        self.task = asyncio.get_running_loop().create_task(self.run(message, work or self.loosen))

    def drop(self, ticket: str) -> None:
        """Nobody waits for what has this ticket: an approval that comes now is for nothing."""
        if self.task and ticket == self.ticket:
            self.task.cancel()

    async def run(self, message: Message, work: AgreedWork) -> None:
        """Do it, and tell."""
        row, failed = None, None
        try:
            row = await work(message)
        except Exception as error:
            failed = explain_change(error)
        tell_of_change(self.holding, message, row, failed)

    def need_store(self) -> Store:
        """The open store; raises Denied."""
        if not self.holding.store or not self.holding.log:
            raise Denied("only an open vault can be changed", "open it: avault unlock")
        return self.holding.store

    async def loosen(self, message: Message) -> dict[str, Any]:
        """Ask, write, and give what is left of the guard; raises what came in between."""
        store, holding = self.need_store(), self.holding
        verb = "unguard" if message.get("rules") is None else "weaken"
        noted = {"op": verb, "group": message["group"], "key": message.get("key")}
        if message.get("all"):
            noted["for"] = "all in it"
        try:
            agreed = plan(store, message)
            if (agreed.change.given or {}).get("ask") is not None:
                self.openers.need_pairing(store)
            if agreed.said:
                if message.get("said") not in (None, agreed.said):
                    raise changed_meanwhile()
                title = f"less guard on {agreed.change.place}"
                await ask_operator(holding, store, message, title, f"avault: {agreed.said}")
            self.note(noted, message, "ok")

            def change(vault: Vault) -> None:
                planned = plan(store, message, vault)
                planned.check(agreed)
                planned.write(vault)

            await self.openers.change(store, change)
        except asyncio.CancelledError:
            self.note(noted, message, TimedOut.code)
            raise
        except Exception as error:
            self.note(noted, message, explain_change(error).code)
            raise
        return describe_guard(Guards(store.vault.facts), read_place(message))

    def note(self, what: dict[str, Any], message: Message, outcome: str) -> None:
        """Put a line into the access log; raises AvaultError where what was agreed to cannot be."""
        if log := self.holding.log:
            log.write(what, message["caller"], outcome)


def plan(store: Store, message: Message, vault: Vault | None = None) -> Plan:
    """What a message asks for, on the vault as it is, or on the draft that is written."""
    place, given, is_all = read_place(message), message.get("rules"), bool(message.get("all"))
    if is_all and (given is not None or "/" in place):
        raise Usage("all is what is in a group, to be taken off", "avault unguard GROUP --all")
    if given is not None:
        given = check_given(given if isinstance(given, dict) else {})
    return Plan(vault or store.vault, store.machine, place, given, is_all)
