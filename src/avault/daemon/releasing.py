"""Secrets on their way from the process that has opened them to a caller, as seen from here."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from avault.daemon.gate import Passage
from avault.daemon.opener_link import OpenerLink
from avault.daemon.openers import Openers
from avault.daemon.restraint import describe_who, which_asks, who_asks
from avault.daemon.wire import Session
from avault.errors import AvaultError, Denied, TimedOut, Unavailable, complain
from avault.keys.keyholder import Keyholder
from avault.process import uptime
from avault.tasks import spawn
from avault.vault.guard_changes import values_of
from avault.vault.guards import Guards
from avault.vault.had import is_asked
from avault.vault.locks import keep_lock

if TYPE_CHECKING:
    from typing import Any

    from avault.daemon.restraint import Who
    from avault.protocol import Message
    from avault.vault.records import Vault


def describe_answer(request: Message, passage: Passage) -> Message:
    """What an answer is made of."""
    return {"request": request, "body": passage.vault.to_json(), "held": passage.held}


class Release:
    """Secrets on their way to a caller; `outcome` is done when that has them, or gets none."""

    def __init__(
        self,
        keyholder: Keyholder,
        session: Session,
        request: Message,
        passage: Passage,
        assignment: OpenerLink,
    ) -> None:
        self.keyholder, self.session, self.request = keyholder, session, request
        self.passage, self.assignment = passage, assignment
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.which = which_asks(session.caller or {}, session.grant)  # one approval is good for it
        self.opened_at, self.giving = 0.0, asyncio.Lock()
        self.is_asked = self.is_in_vain = self.is_noted = False
        spawn(keyholder.tasks, self.attend())

    def caller(self) -> dict[str, Any]:
        """For whom it is."""
        return self.session.caller or {}

    def who(self) -> Who:
        """The same, as pauses know it again."""
        return who_asks(self.caller())

    def fail(self, error: AvaultError) -> None:
        """The caller gets nothing."""
        if not self.outcome.done():
            self.outcome.set_exception(error)
            self.outcome.exception()  # perhaps nobody waits for it

    def note_question(self, code: str) -> None:
        """The phone is asked: the caller is told, and `status` shows it."""
        self.session.send({"progress": "asking", "code": code})
        names, who = sorted(self.passage.asked), describe_who(self.caller())
        self.keyholder.askings.show(self, names, who, code)
        self.keyholder.reporter.report()

    def note_in_vain(self) -> None:
        """Where the phone was asked, and nothing was to go out for whatever reason: it pauses."""
        if self.is_asked and self.is_in_vain and not self.is_noted:
            self.is_noted = True
            self.keyholder.askings.restraint.note(self.who(), sorted(self.passage.asked))

    def is_stale(self, vault: Vault) -> bool:
        """Whether what it has opened is another value by now, in the vault that is served."""
        there = self.passage.vault
        return any(values_of(vault, each) != values_of(there, each) for each in self.passage.asked)

    def leave(self) -> None:
        """The caller has what it gets; who is asked yet is asked no more, and heard."""
        done = self.outcome.done() and not self.outcome.cancelled()
        self.is_in_vain = not (self.opened_at or (done and self.outcome.exception() is None))
        self.note_in_vain()
        self.keyholder.askings.given.discard(self.session)
        self.keyholder.askings.questions.pop(self, None)
        self.keyholder.reporter.report()
        if not self.outcome.done():
            self.outcome.cancel()
            self.assignment.send({"do": "drop"})
            late = dict.fromkeys(self.passage.asked, self.assignment)
            self.keyholder.askings.late.update(late)

    async def give_again(self, session: Session, request: Message, passage: Passage) -> bool:
        """Give another answer, of what is open; whether it was yet. Raises AvaultError."""
        async with self.giving:
            keyholder = self.keyholder
            self.outcome = asyncio.get_running_loop().create_future()
            if self.assignment.is_gone:
                return False
            store = keyholder.open_store()
            if passage.counted(keyholder.gate.look(store.vault)):
                await keyholder.change(passage.count(store.machine))
            else:  # it may be guarded otherwise since it waits here
                passage.count(store.machine)(store.vault.copy())
            if session.grant:
                session.grant.check_way(passage.way)  # it may have ended meanwhile
            keyholder.release(session, request)
            job = {"do": "again", **describe_answer(request, passage)}
            self.assignment.send(job, session.transport.get_extra_info("socket").fileno())
            keyholder.askings.given.add(session)
            try:
                await asyncio.shield(self.outcome)
            finally:
                keyholder.askings.given.discard(session)
            return True

    async def attend(self) -> None:
        """Hear what becomes of it, also when nobody waits any more."""
        try:
            await self.hear()
        except Exception as error:
            self.fail(complain(error))
            self.assignment.end()
        self.fail(Unavailable("the process that asked the phone has ended", "try again"))
        self.forget()

    def forget(self) -> None:
        """The process is gone."""
        askings: Any = self.keyholder.askings
        for known in (askings.late, askings.staying):
            for each in [name for name, found in known.items() if found in (self, self.assignment)]:
                del known[each]

    async def hear(self) -> None:
        """Take what the process says, until it is gone."""
        late = self.keyholder.askings.late
        while (told := await self.assignment.said.get()) is not None:
            if "asking" in told:
                self.is_asked = True
                self.note_in_vain()  # who has left when it was asked
                if not self.outcome.done():
                    self.note_question(str(told["asking"]))
            elif "page" in told and not self.outcome.done():
                self.session.send({"progress": "page", "url": told["page"]})
            elif "turned" in told:
                is_written = await self.turn(told)
                thawed = self.find_thawed() if is_written else []
                self.assignment.send({"do": "written", "written": is_written, "thawed": thawed})
            elif "late" in told:
                late.update(dict.fromkeys(self.passage.asked, self.assignment))
                self.fail(TimedOut("nobody approved in time", "is the signer app open?"))
            elif "failed" in told:
                self.fail(AvaultError.from_dict({"error": told["failed"]}))
            elif "sent" in told:
                if told["stays"] and self.which:
                    self.stay(self.which)
                if values := told.get("values"):
                    await self.thaw(values)
                if not self.outcome.done():
                    self.outcome.set_result(None)
            else:
                self.hear_more(told)

    def hear_more(self, told: Message) -> None:
        """A word of the process that is none of these."""

    def stay(self, which: Who) -> None:
        """Be there for the same caller; of too many, the one that is there longest ends."""
        staying, self.assignment.is_staying = self.keyholder.askings.staying, True
        staying[which, (*sorted(self.passage.asked),)] = self
        for each in [*staying.values()][: -Openers.MOST_STAYING]:
            each.assignment.end()

    def note_quickness(self, seconds: float | None) -> None:
        """Warn of approvals that came faster than a person reads, here and who waits."""
        ratchet = self.keyholder.holding.ratchet
        ratchet.note_quickness(seconds, {"quick": ratchet.quick})
        if warning := ratchet.reporter.warnings.get("quick"):
            self.session.send({"progress": "warning", "text": warning})

    async def turn(self, told: Message) -> bool:
        """Write the locks that come after those that were opened.

        Whether the caller may have it now: the use is counted and in the log then.
        """
        keyholder, shared = self.keyholder, told["shared"]
        store = keyholder.open_store()

        def turn(vault: Vault) -> None:
            for lock in shared:
                keep_lock(vault, lock, int(time.time()), store.machine)

        def use(vault: Vault) -> None:
            self.passage.count(store.machine)(vault)
            turn(vault)

        if told["approved"]:
            self.note_quickness(told["answered_in"])
        is_used, is_turned = told["approved"] and not self.outcome.done(), False
        refused: Denied | None = None
        try:
            try:
                guards = keyholder.gate.look(store.vault)
                if is_used and (shared or self.passage.counted(guards)):
                    await keyholder.change(use)
                elif is_used:  # it may be guarded otherwise meanwhile
                    use(store.vault.copy())
                elif shared:
                    await keyholder.change(turn)
            except Denied as error:  # guarded otherwise meanwhile; it was opened all the same
                refused = error
                if shared:
                    await keyholder.change(turn)
            # this machine's come last: what it has opens it again, where the vault's is not written
            await keyholder.openers.keep_own(store, told["turned"])
            is_turned = True
            if is_used and self.session.grant:
                self.session.grant.check_way(self.passage.way)  # it may have ended meanwhile
            if refused:
                self.fail(refused)
            elif is_used and not self.outcome.done():
                self.note_given()
                keyholder.askings.given.add(self.session)
                self.opened_at = uptime()
                return True
        except AvaultError as error:
            self.fail(error)
            if not is_turned:
                self.warn_of_lock(error)
        return False

    def note_given(self) -> None:
        """Have it in the log, before it is given; raises AvaultError."""
        self.keyholder.release(self.session, self.request)

    def warn_of_lock(self, error: AvaultError) -> None:
        """Say that an answer of the phone still opens something."""
        names = ", ".join(sorted(self.passage.asked))
        self.keyholder.holding.reporter.warnings["locks"] = (
            f"what the phone answered last still opens {names}, as no other lock could be written:"
            f" {error.message}; use it once more when that is mended"
        )

    def find_thawed(self) -> list[str]:
        """What no guard wants sealed any more: it was looked at before, and is again."""
        guards, groups = Guards(self.keyholder.open_store().vault.facts), self.passage.vault.groups
        names = [(name, name.partition("/")) for name in self.passage.thawed]
        return [
            name
            for name, (group, _, key) in names
            if len(groups[group].keys[key]) == 1 and not is_asked(guards, name)
        ]

    async def thaw(self, values: dict[str, str]) -> None:
        """Keep values in clear that no guard wants sealed any more."""

        def thaw(vault: Vault) -> None:
            for name, value in values.items():
                self.put_in_clear(vault, name, value, self.keyholder.open_store().machine)

        with contextlib.suppress(AvaultError):  # else it is sealed until the next use
            await self.keyholder.change(thaw)

    def put_in_clear(self, vault: Vault, name: str, value: str, machine: str) -> None:
        """Keep a value, where it is what was opened, and no guard asks again meanwhile."""
        group, _, key = name.partition("/")
        there = vault.groups[group].keys.get(key, []) if group in vault.groups else []
        same = self.passage.vault.groups[group].keys[key]
        is_same = [each.value for each in there] == [each.value for each in same]
        if is_same and not is_asked(Guards(vault.facts), name):
            vault.put(group, key, value, int(time.time()), machine)
