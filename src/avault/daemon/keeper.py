"""The question to the operator, shared by all who wait, and the keyholder that asks it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avault.daemon.asking import Caller, Question
from avault.daemon.broker_start import end_broker, run_broker
from avault.daemon.child import Child
from avault.daemon.condition import Condition
from avault.daemon.custody import Custody
from avault.daemon.errands import run_opener
from avault.daemon.following import settle_cut_off
from avault.daemon.forgetting import forget_left
from avault.daemon.grant_sockets import GrantSockets
from avault.daemon.others import Phones
from avault.daemon.signing_start import start_signing
from avault.errors import AvaultError, Denied, Locked, TimedOut
from avault.places import Places
from avault.process import uptime
from avault.tasks import spawn
from avault.vault.names import PHONE
from avault.vault.rotation import complete_rotation

if TYPE_CHECKING:
    from collections.abc import Callable

    from avault.protocol import Limits, Message


class Warden:
    """The question that the keyholder may ask, and who waits for it; `say` is told what happens."""

    def __init__(
        self,
        places: Places,
        lock_fd: int,
        say: Callable[[str], None],
        wrote: Callable[[], None],
        limits: Limits,
    ) -> None:
        self.places, self.say, self.wrote = places, say, wrote
        self.child = Child(places, lock_fd, limits, self.receive, self.lost)
        self.custody, self.grants = Custody(places, self.child), GrantSockets(places, self.child)
        self.condition = Condition(places, self.custody, say)
        self.custody.report = lambda: self.condition.report
        self.invited = asyncio.Event()  # others are invited than before, or the vault is open
        self.question = Question(places)
        self.tasks: set[asyncio.Task[None]] = set()
        self.staying: asyncio.Task[None] | None = None  # the daemon's own wait for the answer
        self.phones = Phones(
            self.custody,
            lambda: self.condition.turn(self.condition.state),
            say,
            lambda: bool(self.question.callers) and self.condition.state != "unlocked",
        )

    async def start(self) -> None:
        """Start a keyholder, if there is none; one that is on its way out is waited for."""
        if self.condition.state == "locked":
            await self.child.look()  # which that one does not answer any more
        await self.child.leave()
        if not self.child.control:
            self.condition.report, self.condition.failure = {}, None
            self.complete_rotation()
            await self.child.start()

    def complete_rotation(self) -> None:
        """Put in place what a rotation that was cut off here has left, or a `recover`.

        That one went over to a key that another machine had rotated to. Raises AvaultError.
        """
        settle_cut_off(self.places)
        if refused := complete_rotation(self.places):
            self.say(refused)

    def receive(self, message: Message) -> None:
        """A message from the keyholder."""
        if "report" in message:
            before, was, self.condition.report = (
                self.condition.report.get("invited"),
                self.condition.state,
                message["report"],
            )
            has_opened = self.condition.report["state"] == "unlocked" and was != "unlocked"
            now = self.condition.report.get("invited")
            if (now and has_opened) or (now != before and None not in (now, before)):
                self.invited.set()
            if has_opened:
                # the key that counts has opened it: what is left of another one goes
                spawn(self.tasks, forget_left(self.places))
                self.custody.complete_shared()
                self.wrote()  # what git could not merge while it was locked can be merged now
                self.question.succeed()
            is_waited_for = self.question.callers or self.condition.report["talking"]
            self.condition.turn(
                "locked"
                if self.condition.report["state"] == "waiting" and not is_waited_for
                else self.condition.report["state"]
            )
            if has_opened:
                self.tidy_phones()
                for name in self.custody.leave_retired():
                    self.say(f"another machine has taken {name} away, for all: it is left here too")
                self.custody.follow(str(self.condition.report["agent_npub"]))
        elif "wrote" in message:
            self.wrote()
        elif "opener" in message:
            spawn(self.tasks, run_opener(self.child, str(message["opener"])))
        elif "broker" in message and message.get("is_over"):
            end_broker(self.child, str(message["broker"]))
        elif "broker" in message:
            spawn(self.tasks, run_broker(self.child, self.places, message))
        elif "need" in message:
            spawn(self.tasks, start_signing(self.child))
        elif self.custody.hear(message) or self.grants.hear(message):
            pass
        elif "failed" in message:
            self.condition.failure = AvaultError.from_dict({"error": message["failed"]})

    def tidy_phones(self) -> None:
        """The vault is open: ask no other phone any more, and none of who is no operator now."""
        opened = self.condition.report.get("custodian")
        self.phones.end()
        try:
            if opened in self.phones.asked or (opened and self.custody.is_of_kind(opened, "desk")):
                self.custody.note_opened(opened)
            for name in self.custody.strangers(self.condition.report):
                self.custody.custodians.forget(name)
        except AvaultError as error:
            self.say(f"the phone of who is no operator is still listed here: {error.message}")

    def lost(self, code: int) -> None:
        """The keyholder is gone: locked, with the reason."""
        self.custody.lose()
        self.grants.end()
        if code and not self.condition.failure:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self.condition.failure = AvaultError(f"the keyholder ended by {how}")
        if self.condition.failure:
            self.say(self.condition.failure.message)
            if self.condition.failure.code == Denied.code:
                self.question.close(refused=True)
        self.condition.turn("locked")

    async def look(self) -> None:
        """Have the keyholder look at the disk, before its state is told or ended."""
        if self.condition.state == "unlocked":
            await self.child.look()

    async def ask(self, caller: Caller, nsec: int | None = None) -> None:
        """Ask for the key until the vault is open: one question, shared by all who wait.

        Raises TimedOut, and what ended it.
        """
        if self.condition.state == "unlocked":
            return
        asks_phone = nsec is None and caller.custodian in (None, PHONE) and self.custody.has_phone()
        ways = [] if nsec is not None else self.custody.ways(caller)
        phones = self.custody.phones() if nsec is None and not caller.custodian else []
        if nsec is None and not asks_phone and not ways and not phones:
            raise self.custody.nobody_here() if self.custody.has_any() else self.condition.locked()
        cards = [name for name in ways if self.custody.asks_phones(name)]
        asks = bool(asks_phone or phones) and not ways
        is_new = self.question.join(caller, asks or bool(cards))
        if len(self.question.callers) == 1:
            self.condition.failure = None
            if is_new or caller.person:
                self.phones.begin()
        self.stay(caller)
        try:
            async with asyncio.timeout(self.question.patience(caller)):
                await self.start()
                if self.child.control:
                    wish = {"accept_rollback": caller.accept_rollback}
                    self.child.control.send({"do": "wanted", **wish})
                    self.custody.tell_helpers(is_wanted=True)
                if ways:
                    async with self.custody.trying:  # who comes later waits for what comes of them
                        if self.child.control and self.condition.state != "unlocked":
                            await self.try_ways(ways, caller, bool(asks_phone or phones))
                if self.child.control and self.condition.state != "unlocked" and phones:
                    self.phones.ask(phones)
                    await asyncio.sleep(0)  # they are tried before this machine's phone can fail
                is_refused = self.condition.report.get("refused") and caller.is_restrained
                if (
                    self.child.control
                    and self.condition.state != "unlocked"
                    and ((asks_phone and not is_refused) or nsec is not None)
                ):
                    # who goes on waiting, again and again, makes no more cards
                    at_once = caller.stay is None
                    wish = {"accept_rollback": caller.accept_rollback, "anew": is_new}
                    wish |= {"at_once": at_once, "unattended": not caller.is_attended}
                    self.child.control.send({"do": "unlock", **wish}, nsec)
                while self.condition.state != "unlocked":
                    if not self.child.control:
                        raise self.condition.failure or Locked(
                            "the vault was locked meanwhile", "ask again with: avault unlock"
                        )
                    if caller not in self.question.callers:
                        raise Locked(
                            "the vault was locked meanwhile", "ask again with: avault unlock"
                        )
                    if phones and not asks_phone and (refused := self.phones.refusal(phones)):
                        self.question.close(refused=isinstance(refused, Denied))
                        raise refused
                    await self.condition.changed.wait()
        except TimeoutError:
            raise TimedOut(
                "nobody approved in time", "is the signer app open? See: avault status"
            ) from None
        finally:
            self.question.leave(caller)
            self.condition.turn(
                self.condition.state
            )  # those who wait for a settled state look again
            if not self.question.callers:
                self.rest()

    async def try_ways(self, ways: list[str], caller: Caller, asks_phone: bool) -> None:
        """Have custodians open the vault, one after the other, until one does.

        One that has nothing, or is not there, gives way to the next, and at last to the phone. A
        person's refusal ends it. Raises what the last said, where no phone comes after it.
        """
        failed = None
        for name in ways:
            try:
                await self.custody.open(name, caller)
                return
            except AvaultError as error:
                self.say(f"the custodian {name} did not open the vault: {error.message}")
                if self.custody.is_final(name, error):
                    if self.custody.asks_phones(name):
                        self.question.close(refused=True)
                    raise
                failed = error
        if failed and not asks_phone:
            raise failed
        if ways and asks_phone and caller.is_restrained and self.condition.state != "waiting":
            self.question.pauses.check()

    def stay(self, caller: Caller) -> None:
        """Where a caller wants that, wait for the answer as long as it may come.

        Also when the caller is gone.
        """
        if caller.stay is None or (self.staying and not self.staying.done()):
            return
        daemon = Caller(None, caller.accept_rollback, stay=caller.stay)

        async def wait() -> None:
            try:
                await self.ask(daemon)
            except AvaultError:
                pass  # those who asked are told

        self.staying = asyncio.get_running_loop().create_task(wait())

    def rest(self) -> None:
        """Nobody waits for the question: have the keyholder ask no more, and listen."""
        if self.condition.state == "unlocked":
            return
        self.custody.tell_helpers(is_wanted=False)
        if self.child.control:
            left = max(self.question.wanted_until - uptime(), 0.0)
            self.child.control.send({"do": "rest", "opens_for": left})
        if self.condition.state == "waiting" and not self.condition.report.get("talking"):
            self.condition.turn("locked")

    async def lock(self) -> None:
        """Lock; a keyholder whose phone has a question stays, without a secret, and listens."""
        if "unlocked" in (
            self.condition.state,
            self.condition.report.get("state"),
        ) or self.condition.report.get("talking"):
            await self.child.end()
        else:
            self.question.give_up()
            self.rest()
            self.condition.turn(self.condition.state)

    def ask_again(self) -> None:
        """Have the phone's question go out at once, if there is one."""
        if self.condition.state == "waiting" and self.child.control:
            self.child.control.send({"do": "ask"})
