"""The vault's state as the supervisor sees it, and the question to the operator."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from avault.daemon.asking import Caller, Question
from avault.daemon.broker_start import end_broker, run_broker
from avault.daemon.child import Child
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
from avault.signer.pairing import shorten_key
from avault.tasks import spawn
from avault.vault.names import PHONE
from avault.vault.rotation import complete_rotation

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.protocol import Limits, Message


class Warden:
    """The vault's state, seen from the supervisor, and the question that the keyholder may ask.

    `state` is unlocked, waiting or locked; `report` is what the keyholder last said of itself.
    `say` is told what happens.
    """

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
        self.state = "locked"
        self.report: dict[str, Any] = {}
        # why the vault is locked, if it was not for being asked to
        self.failure: AvaultError | None = None
        self.custody, self.grants = Custody(places, self.child), GrantSockets(places, self.child)
        self.custody.report = lambda: self.report
        self.changed = asyncio.Event()  # replaced at every change of state
        self.invited = asyncio.Event()  # others are invited than before, or the vault is open
        self.question = Question(places)
        self.tasks: set[asyncio.Task[None]] = set()
        self.staying: asyncio.Task[None] | None = None  # the daemon's own wait for the answer
        self.phones = Phones(
            self.custody,
            lambda: self.turn(self.state),
            say,
            lambda: bool(self.question.callers) and self.state != "unlocked",
        )

    def current_state(self) -> str:
        """unlocked, waiting, locked or unpaired: without a phone, and without a custodian."""
        if self.state == "locked" and not self.custody.has_phone() and not self.custody.has_any():
            return "unpaired"
        return self.state

    def locked(self) -> AvaultError:
        """Why there are no secrets now, and what to do."""
        state = self.current_state()
        if state == "waiting":
            return Locked("the vault waits for the operator's approval", self.waiting_hint())
        if state == "unpaired":
            return Locked(
                "the vault is locked, and this machine is not paired with a signer",
                self.pairing_hint(),
            )
        because = f" ({self.failure.message})" if self.failure else ""
        how = "ask the phone with" if self.custody.has_phone() else "open it with"
        return Locked(f"the vault is locked{because}", f"{how}: avault unlock")

    def waiting_hint(self) -> str:
        """What the operator is to do while the phone is asked."""
        again = (self.report.get("waiting") or {}).get("next")
        when = f" (the question comes again at {again})" if again else ""
        return f"open the signer app and approve there{when}; see: avault status"

    def pairing_hint(self) -> str:
        """How this machine gets a signer."""
        if os.path.lexists(self.places.own("pairing.json")):
            return "prove it with: avault pair --replace"
        is_known = os.path.lexists(self.places.own("unlock.json"))
        return f"pair it with: avault {'pair' if is_known else 'recover'}"

    def turn(self, state: str) -> None:
        """Enter a state, and wake those who wait for a change."""
        if state != self.state:
            key = (self.report.get("waiting") or {}).get("client_key")
            shown = f", which may show who asks as {shorten_key(key)}" if key else ""
            self.say(f"waiting for the phone{shown}" if state == "waiting" else state)
        self.state = state
        self.changed.set()
        self.changed = asyncio.Event()

    async def start(self) -> None:
        """Start a keyholder, if there is none; one that is on its way out is waited for."""
        if self.state == "locked":
            await self.child.look()  # which that one does not answer any more
        await self.child.leave()
        if not self.child.control:
            self.report, self.failure = {}, None
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
            before, was, self.report = self.report.get("invited"), self.state, message["report"]
            has_opened = self.report["state"] == "unlocked" and was != "unlocked"
            now = self.report.get("invited")
            if (now and has_opened) or (now != before and None not in (now, before)):
                self.invited.set()
            if has_opened:
                # the key that counts has opened it: what is left of another one goes
                spawn(self.tasks, forget_left(self.places))
                self.wrote()  # what git could not merge while it was locked can be merged now
                self.question.succeed()
            is_waited_for = self.question.callers or self.report["talking"]
            self.turn(
                "locked"
                if self.report["state"] == "waiting" and not is_waited_for
                else self.report["state"]
            )
            if has_opened:
                self.tidy_phones()
                for name in self.custody.leave_retired():
                    self.say(f"another machine has taken {name} away, for all: it is left here too")
                self.custody.follow(str(self.report["agent_npub"]))
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
            self.failure = AvaultError.from_dict({"error": message["failed"]})

    def tidy_phones(self) -> None:
        """The vault is open: ask no other phone any more, and none of who is no operator now."""
        opened = self.report.get("custodian")
        self.phones.end()
        try:
            if opened in self.phones.asked:
                self.custody.note_opened(opened)
            for name in self.custody.strangers(self.report):
                self.custody.custodians.forget(name)
        except AvaultError as error:
            self.say(f"the phone of who is no operator is still listed here: {error.message}")

    def lost(self, code: int) -> None:
        """The keyholder is gone: locked, with the reason."""
        self.custody.lose()
        self.grants.end()
        if code and not self.failure:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self.failure = AvaultError(f"the keyholder ended by {how}")
        if self.failure:
            self.say(self.failure.message)
            if self.failure.code == Denied.code:
                self.question.close(refused=True)
        self.turn("locked")

    async def look(self) -> None:
        """Have the keyholder look at the disk, before its state is told or ended."""
        if self.state == "unlocked":
            await self.child.look()

    async def ask(self, caller: Caller, nsec: int | None = None) -> None:
        """Ask for the key until the vault is open: one question, shared by all who wait.

        Raises TimedOut, and what ended it.
        """
        if self.state == "unlocked":
            return
        asks_phone = nsec is None and caller.custodian in (None, PHONE) and self.custody.has_phone()
        ways = [] if nsec is not None else self.custody.ways(caller)
        phones = self.custody.phones() if nsec is None and not caller.custodian else []
        if nsec is None and not asks_phone and not ways and not phones:
            raise self.custody.nobody_here() if self.custody.has_any() else self.locked()
        cards = [name for name in ways if self.custody.asks_phones(name)]
        asks = bool(asks_phone or phones) and not ways
        is_new = self.question.join(caller, asks or bool(cards))
        if len(self.question.callers) == 1:
            self.failure = None
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
                        if self.child.control and self.state != "unlocked":
                            await self.try_ways(ways, caller, bool(asks_phone or phones))
                if self.child.control and self.state != "unlocked" and phones:
                    self.phones.ask(phones)
                    await asyncio.sleep(0)  # they are tried before this machine's phone can fail
                is_refused = self.report.get("refused") and caller.is_restrained
                if (
                    self.child.control
                    and self.state != "unlocked"
                    and ((asks_phone and not is_refused) or nsec is not None)
                ):
                    # who goes on waiting, again and again, makes no more cards
                    at_once = caller.stay is None
                    wish = {"accept_rollback": caller.accept_rollback, "anew": is_new}
                    wish |= {"at_once": at_once, "unattended": not caller.is_attended}
                    self.child.control.send({"do": "unlock", **wish}, nsec)
                while self.state != "unlocked":
                    if not self.child.control:
                        raise self.failure or Locked(
                            "the vault was locked meanwhile", "ask again with: avault unlock"
                        )
                    if caller not in self.question.callers:
                        raise Locked(
                            "the vault was locked meanwhile", "ask again with: avault unlock"
                        )
                    if phones and not asks_phone and (refused := self.phones.refusal(phones)):
                        self.question.close(refused=isinstance(refused, Denied))
                        raise refused
                    await self.changed.wait()
        except TimeoutError:
            raise TimedOut(
                "nobody approved in time", "is the signer app open? See: avault status"
            ) from None
        finally:
            self.question.leave(caller)
            self.turn(self.state)  # those who wait for a settled state look again
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
        if ways and asks_phone and caller.is_restrained and self.state != "waiting":
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
        if self.state == "unlocked":
            return
        self.custody.tell_helpers(is_wanted=False)
        if self.child.control:
            left = max(self.question.wanted_until - uptime(), 0.0)
            self.child.control.send({"do": "rest", "opens_for": left})
        if self.state == "waiting" and not self.report.get("talking"):
            self.turn("locked")

    async def lock(self) -> None:
        """Lock; a keyholder whose phone has a question stays, without a secret, and listens."""
        if "unlocked" in (self.state, self.report.get("state")) or self.report.get("talking"):
            await self.child.end()
        else:
            self.question.give_up()
            self.rest()
            self.turn(self.state)

    def ask_again(self) -> None:
        """Have the phone's question go out at once, if there is one."""
        if self.state == "waiting" and self.child.control:
            self.child.control.send({"do": "ask"})

    def refuse_to_lose(self, request: dict[str, Any]) -> None:
        """Refuse to end a keyholder that alone has a vault's key, or its content; raises Denied."""
        if self.state != "unlocked" or request.get("force"):
            return
        if self.report.get("unsaved"):
            hint = (
                "put the file back (git checkout), or write what is served:"
                " avault restore --unsaved; or insist with --force"
            )
            raise Denied(
                "avault.enc on the disk is not what is served: to lock now may lose it", hint
            )
        if not self.report.get("proven"):
            lost = (
                "nobody has shown yet that the phone opens this vault: to lock it now may lose it"
            )
            raise Denied(lost, f"{self.pairing_hint()}, or insist with --force")
