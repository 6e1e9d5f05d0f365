"""What the keyholder holds: an open vault, and this machine's own files of it."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from avault.custody.obtaining import GivenKey, KeptKey, OperatorKey, Phone
from avault.custody.shared import Unsigned
from avault.daemon.autolock import AutoLock
from avault.daemon.callers import describe_ourselves
from avault.daemon.consent import Consent
from avault.daemon.contact import Contact
from avault.daemon.following import leave_logs
from avault.daemon.log import AccessLog
from avault.daemon.phones import Renewal
from avault.daemon.ratchet import Ratchet
from avault.daemon.registering import register
from avault.daemon.reporter import Reporter
from avault.daemon.writing import Writer
from avault.errors import AvaultError, Locked, Tampered
from avault.nostr import decrypt, parse_npub, public_hex, to_npub
from avault.places import Places
from avault.process import place_name
from avault.signer.pairing import shorten_hex
from avault.vault.files import has_bytes
from avault.vault.kept_guards import known_guards, read_known
from avault.vault.leftovers import describe_left
from avault.vault.machine import SET_ASIDE
from avault.vault.machines import knows_phone
from avault.vault.presence import doubt_hints, is_of, read_unlock
from avault.vault.recovery import Recovery, is_for_several, seal_recovery
from avault.vault.seal import open_nsec, seal_nsec
from avault.vault.store import Store

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from avault.nostr import Keys
    from avault.protocol import Limits

    Way: TypeAlias = "GivenKey | KeptKey | OperatorKey | Phone"


class Holding:
    """The vault once it is open, and how it is opened with a key that a custodian obtains.

    `store` and `log` are None while it is locked.
    """

    def __init__(self, places: Places, reporter: Reporter, limits: Limits) -> None:
        self.places, self.reporter = places, reporter
        self.host = place_name()
        self.contact = Contact(places, reporter)
        self.ratchet = Ratchet(places, self.host, reporter)
        self.recovery = Recovery(places, self.host)
        self.renewal = Renewal(places, self.host, reporter)
        self.autolock = AutoLock(limits)
        self.writer = Writer(reporter)
        self.store: Store | None = None
        self.log: AccessLog | None = None
        self.consent, self.unsigned = Consent(), Unsigned()
        self.custodian: str | None = None  # by which it was opened, if by one
        self.serving = asyncio.Lock()  # one key at a time

    # -- opening it

    async def open(
        self, custodian: Way, accept_rollback: bool = False, is_late: bool = False
    ) -> None:
        """Obtain the key and serve the vault; see `serve`."""
        await self.serve(custodian, *await self.obtain(custodian), accept_rollback, is_late)

    async def obtain(self, custodian: Way) -> tuple[Keys, dict[str, Any], bool]:
        """The agent's key, the content that it was obtained by, and whether that is this machine's.

        What was read before the phone was asked counts to the end: meanwhile others may write to
        the disk, and ask too. Raises AvaultError.
        """
        content, own = read_unlock(self.places, custodian.operator)
        keys = await custodian.obtain(content)
        # The envelope binds agent and operator: before anything is sealed for an operator, it must
        # be the one.
        operator = parse_npub(content["operator"])
        try:
            bound = open_nsec(content, decrypt(keys, operator, content["envelope"]))
        except ValueError:
            bound = None
        if not bound or public_hex(bound) != public_hex(keys):
            raise Tampered(
                "the vault's files name another operator than they were made for",
                "take them from git history",
            )
        return keys, content, own

    async def serve(
        self,
        custodian: Way,
        keys: Keys,
        content: dict[str, Any],
        own: bool,
        accept_rollback: bool,
        is_late: bool = False,
    ) -> None:
        """Serve the vault with its key, if nobody does yet.

        One whose key `is_late` is not opened any more: raises Locked. Whatever the vault says, the
        answer must open nothing tomorrow.
        """
        async with self.serving:
            if self.store:
                await self.take_answer(self.store, custodian, keys, content)
            elif is_late:
                is_phoneless = isinstance(custodian, KeptKey) and custodian.phoneless
                await self.use_up(keys, content, own, is_phoneless, custodian.proves)
                raise Locked(
                    "the phone approved when nobody waited any more: nothing was opened",
                    "ask again with: avault unlock",
                )
            else:
                await self.load(custodian, keys, content, own, accept_rollback)

    async def use_up(
        self,
        keys: Keys,
        content: dict[str, Any],
        own: bool,
        is_phoneless: bool = False,
        proves: bool = True,
    ) -> None:
        """Turn the ratchet by an answer that opens nothing, unless the vault is open meanwhile."""
        if not self.store:
            self.ratchet.proven = content.get("proven")
            if proves:
                self.ratchet.prove()
            recovery = None if own else self.seal_recovery(keys, content)
            await self.ratchet.turn(keys, content, recovery)
            await self.renewal.renew(self.store, keys, content, is_phoneless)

    async def renew_own_phones(self) -> None:
        """Make what the other operators' phones open anew, as one of them was asked in a trial."""
        if store := self.store:
            is_phoneless = self.consent.phoneless
            await self.renewal.renew(store, store.keys, self.ratchet.content, is_phoneless)

    def seal_recovery(self, keys: Keys, content: dict[str, Any]) -> dict[str, Any] | None:
        """What nsec.enc is to have: for all operators.

        If the vault does not open, these are not known: one that is there stays as it is.
        """
        try:
            store = self.store or Store.read(self.places, keys, content)
        except AvaultError:
            if is_for_several(self.places):
                self.reporter.warnings["recovery"] = (
                    "what the phone has answered opens nsec.enc, which stays as it is until"
                    " the vault opens"
                )
                return None
            operator = parse_npub(content["operator"])
            return seal_nsec(keys, content["vault"], operator, content["name"], self.host)
        return seal_recovery(keys, store.vault, self.host)

    async def take_answer(
        self, store: Store, custodian: Way, keys: Keys, content: dict[str, Any]
    ) -> None:
        """Turn the ratchet of a vault that is open already, by an answer that is about it.

        Raises Tampered for another.
        """
        is_others = bool(custodian.operator) and not is_of(store.vault, content)
        if public_hex(keys) != store.vault.agent or is_others:
            raise Tampered("the answer opens another vault than the one that is open")
        ratchet = self.ratchet
        if custodian.proves:
            ratchet.prove()
        if isinstance(custodian, Phone):
            ratchet.note_quickness(custodian.signer.answered_in, ratchet.content)
        await ratchet.turn(store.keys, ratchet.content)

    async def load(
        self,
        custodian: Way,
        keys: Keys,
        content: dict[str, Any],
        own: bool,
        accept_rollback: bool,
    ) -> None:
        """Load the vault; turn the ratchet even if it cannot be, but where all has to stay."""
        self.ratchet.proven, self.ratchet.guards = content.get("proven"), read_known(keys, content)
        if custodian.proves or (isinstance(custodian, KeptKey) and not own):  # see `Shared`
            self.ratchet.prove()
        self.custodian = custodian.custodian if isinstance(custodian, KeptKey) else None
        way = f"the custodian {self.custodian}" if self.custodian else type(custodian).__name__
        if isinstance(custodian, Phone):
            self.ratchet.note_quickness(custodian.signer.answered_in, content)
            way += f", asked as {shorten_hex(custodian.signer.me)}"
        named = {**content, "operator": custodian.operator and content["operator"]}
        named["guards"] = self.ratchet.guards
        try:
            store = await asyncio.to_thread(Store.load, self.places, keys, named, accept_rollback)
            if not (custodian.operator or is_of(store.vault, content)):  # another is in that place
                content = {**content, "operator": to_npub(store.vault.operator)}
            if isinstance(custodian, KeptKey):
                custodian.check(store.vault)
            leave_logs(self.places)
            self.begin(store, content, way, is_new=not own)
            if custodian.proves:
                store.note_seen()
        finally:
            is_left = os.path.lexists(self.places.own(SET_ASIDE)) or not (own or custodian.operator)
            if self.store or not is_left:
                await self.use(custodian, keys, content, own)
        await self.note_left()
        if not own and not isinstance(custodian, KeptKey):
            self.reporter.warnings["recovery"] = (
                "the phone opened nsec.enc, which git keeps: who recorded its answer and gets this"
                " machine's pairing.json has the key; against that: avault pair --replace"
                " (from the next unlock on, this machine has its own envelope)"
            )
        await self.verify_recovery()
        self.note_hints()
        if not isinstance(custodian, GivenKey):
            await self.register()
        self.reporter.report()

    async def use(self, custodian: Way, keys: Keys, content: dict[str, Any], own: bool) -> None:
        """Turn the ratchet by what has obtained the key, and keep the pairing that it came by."""
        is_told = not own and not isinstance(custodian, KeptKey)
        is_lost = is_told or not os.path.lexists(self.places.file("nsec.enc"))
        recovery = self.seal_recovery(keys, content) if is_lost else None
        await self.ratchet.turn(keys, content, recovery)
        if isinstance(custodian, Phone):
            self.contact.keep(custodian.pairing)
        self.note_consent(custodian)
        await self.renewal.renew(self.store, keys, content, self.consent.phoneless)

    async def note_left(self) -> None:
        """Say what lies here under a key before the agent's, and is not in the vault."""
        self.reporter.warnings.pop("left", None)
        if self.store and (left := await asyncio.to_thread(describe_left, self.store)):
            self.reporter.warnings["left"] = left

    async def register(self) -> None:
        """Enter this machine in the vault, with the client key by which it asks."""
        if self.store:
            await register(self.store, self.writer, self.contact, self.host)

    def begin(self, store: Store, content: dict[str, Any], custody: str, is_new: bool) -> None:
        """Serve a vault from now on, opened by this custody.

        Only one that `is_new` on this machine may be without bounds of an earlier log. Raises
        AvaultError if the access log cannot be written.
        """
        log = AccessLog(self.places.state, store.keys, is_new)
        custody += ", rollback accepted" if store.remarks.rollback else ""
        log.write({"op": "unlock", "for": custody}, describe_ourselves())
        log.save()
        self.store, self.ratchet.content, self.log = store, content, log
        self.ratchet.agent, self.ratchet.guards = store.vault.agent, known_guards(store.vault)
        store.know = self.ratchet.know
        self.reporter.warnings.pop("refused", None)
        self.autolock.start()
        self.reporter.report()

    def note_consent(self, custodian: Way) -> None:
        """Who agrees to changes from now on: the phone, where this machine is paired."""
        self.contact.note_seen(self.store)
        if self.contact.is_paired():
            self.consent.end()
        elif isinstance(custodian, OperatorKey) and self.store:
            self.consent.begin()
        elif isinstance(custodian, KeptKey) and self.store:
            # also where another machine has been paired since it was entrusted
            self.consent.phoneless = custodian.phoneless and not knows_phone(self.store.vault)

    # -- while it is open

    def need(self, store: Store) -> None:
        """Raise Locked unless this is what is open: a talk took its time, and all may be another's.

        Who goes on with what was open before would write the key before.
        """
        if self.store is not store:
            raise Locked("the agent's key was rotated meanwhile", "try again")

    def time_left(self) -> float:
        """Seconds until it locks by itself; a vault that nobody has proven yet does not."""
        is_busy = not self.store or self.writer.task or not self.store.is_safe()
        if is_busy or not self.ratchet.proven:
            return float("inf")
        return self.autolock.time_left()

    async def save(self, is_last: bool = False) -> bool:
        """See to it that what is served is on the disk, and say whether it is."""
        return not self.store or await self.writer.save(self.store, is_last)

    async def keep_log(self, at_once: bool = False) -> None:
        """Write what the access log has only counted, and remember where it ends."""
        async with self.ratchet.turning:  # a rotation begins another log
            try:
                if self.log:
                    self.log.settle(at_once)
                    if not self.log.is_saved():
                        await asyncio.to_thread(self.log.save)
                self.reporter.warnings.pop("log", None)
            except AvaultError as error:
                self.reporter.warnings["log"] = error.message

    async def look(self) -> None:
        """Hold the disk against what the open vault knows: for `status`, `lock` and `stop`."""
        if store := self.store:
            before = store.trouble, store.digest
            await self.save()
            if (store.trouble, store.digest) != before:
                self.reporter.wrote()
            await self.verify_recovery()
            await self.ratchet.restore(store.keys)
            if self.store is store:
                self.restore_own_files(store)
            self.reporter.report()

    def restore_own_files(self, store: Store) -> None:
        """This machine's own files, as the open vault knows them.

        Where the disk has others, it is said, and mended.
        """
        self.contact.restore()
        if store.kept_guards.restore(store.vault):
            self.reporter.warn_of_a_change("guards.enc")
        pin = store.me.encode_pin(store.vault, store.digest)
        if not (store.trouble or store.writing or has_bytes(self.places.own("pin.json"), pin)):
            if not store.warning:  # else it could not be written before
                self.reporter.warn_of_a_change("pin.json")
            store.pin()

    async def verify_recovery(self) -> None:
        """Look at nsec.enc if it has changed, and have git told if it was made anew."""
        store = self.store
        if store and self.recovery.is_changed(store.vault):
            was_made = await asyncio.to_thread(self.recovery.verify, store.keys, store.vault)
            self.reporter.report()
            if was_made:
                self.reporter.wrote()

    def note_hints(self) -> None:
        """Report where nip46.json differs from what the vault pins; it is never believed."""
        if self.store and (problem := doubt_hints(self.places, self.store.vault)):
            self.reporter.warnings["hints"] = problem
