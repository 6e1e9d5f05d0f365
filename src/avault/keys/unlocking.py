"""How the keyholder comes by the key: at once, by asking the phone, or by listening to it."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

from avault.daemon.operators import succeed
from avault.daemon.waiters import Tries, Waiters
from avault.errors import AvaultError, Locked, complain
from avault.keys.custodian import read_answer, read_whole
from avault.keys.entrusting import agree
from avault.keys.holding import Holding
from avault.keys.obtaining import GivenKey, KeptKey, Phone
from avault.keys.opening import Opening, obtain_key
from avault.process import uptime
from avault.signer.pairing import Pairing
from avault.signer.remarks import is_clock_unsynchronised
from avault.signer.remote import RemoteSigner
from avault.tasks import spawn
from avault.vault.presence import read_unlock

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.opening import Way
    from avault.protocol import Message


class Unlocking:
    """The keyholder's part of the question to the operator: `task` has it, while there is one.

    The phone is asked one thing at a time: while we are `talking` about a pairing, the question for
    the key waits, and we `resume` it afterwards. Without a key or a way to one, the process has
    `ended`.
    """

    def __init__(self, holding: Holding, ended: asyncio.Event) -> None:
        self.holding, self.ended = holding, ended
        self.opening = Opening(holding)
        self.task: asyncio.Task[None] | None = None
        # what the disk says of a vault that is locked: to be shown, and for nothing else
        self.shown: dict[str, Any] = {}
        self.waiters, self.tries = Waiters(), Tries()
        self.is_out = False  # the phone may have the question
        self.talking = self.resume = False
        self.tasks: set[asyncio.Task[None]] = set()
        # what this machine's phone said, while other operators' phones are still asked
        self.refused: AvaultError | None = None

    # -- what the supervisor wants

    def ask(self, message: Message, fd: int | None) -> None:
        """Obtain the key: begin with it, or go on with the question that the phone may have."""
        others = self.waiters.is_asked and self.waiters.is_attended
        self.waiters.is_asked, self.refused = True, None
        self.want(bool(message.get("accept_rollback")))
        self.holding.reporter.warnings.pop("refused", None)
        self.waiters.is_attended = others or not message.get("unattended")
        if not self.talking and not self.task and not self.holding.store:
            self.begin(fd)
            return
        self.resume = self.talking
        signer = self.holding.contact.signer
        if signer and self.task and self.is_paired_anew():
            self.task.cancel()
            self.begin(fd)
            return
        if signer and self.task:
            signer.is_attended = self.waiters.is_attended
            signer.wake(bool(message.get("anew")), bool(message.get("at_once")))
            self.holding.reporter.report()
        if fd is not None:
            os.close(fd)

    def is_paired_anew(self) -> bool:
        """Whether the locked vault's pairing is another than the one that we listen by."""
        try:
            found = Pairing.load(self.holding.places)
        except AvaultError:
            return False
        known = self.holding.contact.pairing
        return bool(found and known and not found.is_same(known) and not self.talking)

    def ask_again(self) -> None:
        """Have the question go out at once, if there is one."""
        if signer := self.holding.contact.signer:
            signer.ask_again()

    def want(self, accept_rollback: bool) -> None:
        """Somebody waits for the key, however it comes."""
        self.waiters.is_left, self.waiters.accept_rollback = False, accept_rollback

    def rest(self, opens_for: float) -> None:
        """Nobody waits any more: ask no more, and listen, if the phone can have the question.

        For so many seconds a late answer still opens the vault. Then, and always, it turns the
        ratchet.
        """
        self.waiters.leave(opens_for)
        self.note_question()
        signer = self.holding.contact.signer
        if self.talking:
            self.resume = self.is_out
        elif signer and self.task and (self.is_out or self.tries.count):
            signer.rest()
            self.holding.reporter.report()
        elif signer and self.task and signer.sent.busy:
            spawn(self.tasks, self.rest_when_known(signer))
        elif not self.holding.store and not self.tries.count:
            self.ended.set()

    async def rest_when_known(self, signer: RemoteSigner) -> None:
        """Rest once a relay has taken the question that is on its way, or has had its time."""
        while signer.sent.busy and not signer.sent.requests and self.waiters.is_left:
            await asyncio.sleep(0.05)
        if self.waiters.is_left:
            self.rest(self.waiters.opens_until - uptime())

    def note_question(self) -> None:
        """Note whether the phone may have the question for the key."""
        signer = self.holding.contact.signer
        self.is_out = self.is_out or bool(self.task and signer and signer.sent.requests)

    def is_waiting(self) -> bool:
        """Whether the phone is asked, for the key or in a talk, and not only listened to."""
        is_wanted = self.waiters.is_asked or self.talking or not self.task
        are_asked = self.tries.phones and not self.waiters.is_left
        return bool((self.holding.contact.signer and is_wanted) or are_asked)

    # -- what talks want

    def begin_talk(self) -> None:
        """From now on, one talk is under way."""
        self.talking = True
        self.holding.reporter.report()

    def end_talk(self) -> None:
        """It is over: go on with the question that it had stopped."""
        self.talking = False
        self.holding.reporter.report()
        if self.resume and not self.holding.store and not self.task:
            self.begin()
        self.resume = False

    def pause(self) -> None:
        """Stop asking for the key until the talk is over."""
        self.note_question()
        if self.task:
            self.task.cancel()
            self.task, self.resume = None, True

    async def open(
        self, custodian: Way, accept_rollback: bool = False, is_late: bool = False
    ) -> None:
        """Obtain the key in another way than by the question, and serve the vault."""
        await self.opening.open(custodian, accept_rollback, is_late)
        self.refused = None
        self.holding.reporter.warnings.pop("refused", None)
        if self.task and self.task is not asyncio.current_task():
            self.task.cancel()  # it waits for a key that is here

    # -- the way to the key

    def begin(self, fd: int | None = None) -> None:
        """Begin to obtain the key; or only to listen for it, where nobody waits."""
        self.task = asyncio.get_running_loop().create_task(self.unlock(fd))

    async def unlock(self, fd: int | None) -> None:
        """Obtain the key from NOSTR_NSEC, which comes through a pipe, or by the phone."""
        try:
            self.shown, _ = read_unlock(self.holding.places)
            if fd is not None:
                with open(fd, "rb") as pipe:
                    given = await asyncio.to_thread(pipe.read)
                key = GivenKey(given.decode(errors="replace"))
                await self.open(key, self.waiters.accept_rollback)
            else:
                await self.open_by_phone()
        except Exception as error:
            if not self.holding.store:
                self.refused = complain(error)
        finally:
            if self.task is asyncio.current_task():
                self.task = None
            self.give_up()

    def give_up(self) -> None:
        """End, where the phone's question was in vain and nothing else is tried.

        Else it is said: another operator may still approve.
        """
        if self.holding.store or not self.refused:
            return
        if not self.tries.count:
            self.holding.reporter.fail(self.refused)
            self.ended.set()
            return
        said = f"this machine's phone did not open the vault: {self.refused.message}"
        self.holding.reporter.warnings["refused"] = f"{said}; other operators' phones are asked"
        self.holding.reporter.report()

    async def try_custodian(self, message: Message, fd: int) -> None:
        """Open the vault with what a custodian's helper answers through `fd`; tell what came of it.

        With a `ticket` it is open, and who opens it with the custodian agrees to that change.
        """
        holding, name, failed = self.holding, str(message["custodian"]), None
        is_phone = message.get("kind") == "phone"
        self.tries.count, self.tries.phones = self.tries.count + 1, self.tries.phones + is_phone
        self.holding.reporter.report()
        try:
            with socket.socket(fileno=fd) as end:
                answer = await read_whole(end, float(message["limit"]))
            # what lay there when it was asked counts
            custodian = KeptKey(name, message["content"], answer, message.get("offered") is True)
            if ticket := message.get("ticket"):
                await agree(holding, custodian, str(ticket))
            elif not holding.store:
                self.shown, _ = read_unlock(holding.places)
                is_late = is_phone and self.waiters.is_left and uptime() >= self.waiters.opens_until
                is_late = is_late or read_answer(answer).get("old") is True
                told = bool(message["accept_rollback"])
                accepts = self.waiters.accept_rollback if is_phone else told
                await self.open(custodian, accepts, is_late)
        except Exception as error:
            failed = complain(error).to_dict()["error"]
        finally:
            self.tries.count, self.tries.phones = self.tries.count - 1, self.tries.phones - is_phone
        if not message.get("ticket"):
            self.note_custodian(name, bool(message.get("asks")), failed)
        self.holding.reporter.control.send({"tried": message["number"], "failed": failed})
        self.give_up()
        is_busy = self.task or self.tries.count or self.talking
        if self.waiters.is_left and not (self.holding.store or is_busy):
            self.ended.set()

    def note_custodian(self, name: str, asks: bool, failed: dict[str, Any] | None) -> None:
        """Say in `status` what a custodian did."""
        warnings = self.holding.reporter.warnings
        if failed:
            warnings["custody"] = (
                f"the custodian {name} did not open the vault: {failed['message']}"
            )
        elif not asks:
            warnings["custody"] = f"the custodian {name} opens this vault: nobody was asked"
        else:
            warnings.pop("custody", None)
        self.holding.reporter.report()

    async def open_by_phone(self) -> None:
        """Ask the phone, or listen for its answer, and open the vault."""
        holding, contact = self.holding, self.holding.contact
        pairing = contact.pairing = Pairing.load(holding.places)
        if not pairing:
            raise Locked("this machine is not paired with a signer", "pair it with: avault pair")
        async with contact.connect(pairing, pairing.signer) as signer:
            signer.is_attended = self.waiters.is_attended
            if is_clock_unsynchronised():
                self.holding.reporter.warnings["ntp"] = (
                    "nothing keeps this machine's clock right (NTP): if no request arrives,"
                    " look there"
                )
            signer.is_resting = not self.waiters.is_asked
            phone = Phone(pairing, signer)
            keys, content, own = await obtain_key(holding.places, phone)
            while signer.is_old and self.waiters.is_asked and not holding.store:
                async with self.opening.serving:
                    await self.opening.use_up(keys, content, own)
                keys, content, own = await obtain_key(holding.places, phone)
            is_late = signer.is_old or self.waiters.are_late()
            await self.opening.serve(
                phone, keys, content, own, self.waiters.accept_rollback, is_late
            )
            await succeed(holding)
