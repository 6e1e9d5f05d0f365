"""What the keyholder holds: an open vault, and this machine's own files of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avault.custody.shared import Unsigned
from avault.daemon.autolock import AutoLock
from avault.daemon.callers import describe_ourselves
from avault.daemon.consent import Consent
from avault.daemon.contact import Contact
from avault.daemon.log import AccessLog
from avault.daemon.registering import register
from avault.daemon.reporter import Reporter
from avault.daemon.writing import Writer
from avault.errors import AvaultError, Locked
from avault.keys.ratchet import Ratchet
from avault.places import Places
from avault.process import place_name
from avault.vault.files import has_bytes
from avault.vault.kept_guards import known_guards
from avault.vault.leftovers import describe_left
from avault.vault.presence import doubt_hints
from avault.vault.recovery import Recovery
from avault.vault.store import Store

if TYPE_CHECKING:
    from typing import Any

    from avault.protocol import Limits


class Holding:
    """The vault once it is open, and this machine's files of it.

    `store` and `log` are None while it is locked.
    """

    def __init__(self, places: Places, reporter: Reporter, limits: Limits) -> None:
        self.places, self.reporter = places, reporter
        self.host = place_name()
        self.contact = Contact(places, reporter)
        self.ratchet = Ratchet(places, self.host, reporter)
        self.recovery = Recovery(places, self.host)
        self.autolock = AutoLock(limits)
        self.writer = Writer(reporter)
        self.store: Store | None = None
        self.log: AccessLog | None = None
        self.consent, self.unsigned = Consent(), Unsigned()

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
