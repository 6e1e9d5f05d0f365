"""Keys of which the phone is asked at each use, in the keyholder: it never has them.

Who wants the same thing of one at the same time shares a question, and its answer; each signature
is let through, counted and logged by itself, for who is still there.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avault.daemon.asked import ASK_TIME, describe_questions, release
from avault.daemon.gate import Passage
from avault.daemon.key_wishes import Wish
from avault.daemon.leaving import has_left
from avault.daemon.openers import Openers
from avault.daemon.releasing import Release
from avault.daemon.wire import Session
from avault.errors import AvaultError, Denied, TimedOut, Unavailable
from avault.keys.keyholder import Keyholder
from avault.process import uptime

if TYPE_CHECKING:
    from typing import Any

    from avault.daemon.opener_link import OpenerLink
    from avault.daemon.restraint import Who
    from avault.protocol import Message
    from avault.vault.guards import Guards

    KeyPlace = tuple[object, ...]


USE_TIME = 60.0  # seconds for one signature


class Unused(Passage):
    """A key that is opened: its uses are counted one by one, each before it is signed."""

    def counted(self, guards: Guards) -> set[str]:
        """None with the opening."""
        return set()


class KeyRelease(Release):
    """A key on its way to a process that signs with it, and what is signed there.

    `seconds` is for how long it is there, for the same errand (`place`) of the same asker; 0 for
    those who waited.
    """

    def __init__(
        self,
        keyholder: Keyholder,
        question: KeyQuestion,
        passage: Passage,
        assignment: OpenerLink,
    ) -> None:
        self.question, self.seconds = question, question.seconds
        self.uses: dict[int, asyncio.Future[Message]] = {}
        self.last = 0
        super().__init__(keyholder, question.session, question.wish.noted, passage, assignment)
        self.which = question.place

    def caller(self) -> dict[str, Any]:
        """For whom it is."""
        return self.question.wish.asker.caller

    def who(self) -> Who:
        """The same, as pauses know it again."""
        return self.question.wish.asker.who

    def note_question(self, code: str) -> None:
        """The phone is asked: all who wait are told."""
        super().note_question(code)
        for each in {*self.question.waiting} - {self.session}:
            each.send({"progress": "asking", "code": code})

    def note_given(self) -> None:
        """Nothing goes out with that: each signature has a line of its own."""

    def stay(self, which: KeyPlace) -> None:
        """Be there for the same errand, where the guard gives it a time."""
        if not self.seconds:
            return
        staying, self.assignment.is_staying = self.keyholder.askings.staying, True
        staying[which, (self.question.wish.name,)] = self
        for each in [*staying.values()][: -Openers.MOST_STAYING]:
            each.assignment.end()

    def hear_more(self, told: Message) -> None:
        """What came of a use."""
        waiting = self.uses.pop(told["used"]["id"], None) if "used" in told else None
        if waiting and not waiting.done():
            waiting.set_result(told)

    def forget(self) -> None:
        """The process is gone, and with it the key."""
        super().forget()
        for each in self.uses.values():
            if not each.done():
                each.set_exception(Unavailable("the process that signs has ended", "try again"))

    async def sign(self, session: Session, wish: Wish) -> Message:
        """The answer to one use: let through as it is now, for who is there, and counted."""
        async with self.giving:
            keyholder = self.keyholder
            refuse_left(session)
            passage = wish.admit(None)
            if self.is_stale(keyholder.open_store().vault):
                raise Denied("another value was set meanwhile", "ask again")
            if session.grant:
                session.grant.use("sign")
            if passage.is_counted:
                await keyholder.change(passage.count(keyholder.open_store().machine))
            told = await self.use(wish.said)
            refuse_left(session)
            wish.admit(passage)  # what has changed meanwhile counts
            if values := told["values"]:  # of a key that no guard wants sealed any more
                await self.thaw(values)
            return dict(told["used"])

    async def use(self, said: Message) -> Message:
        """What the process says of one use; raises AvaultError."""
        if self.assignment.is_gone:
            raise Unavailable("the process that signs has ended", "try again")
        self.last += 1
        waiting = self.uses[self.last] = asyncio.get_running_loop().create_future()
        self.assignment.send({"do": "use", "id": self.last, "said": said})
        try:
            async with asyncio.timeout(USE_TIME):
                told: Message = await waiting
        except TimeoutError:
            self.assignment.end()
            raise Unavailable("the process that signs does not answer", "try again") from None
        if not told["used"].get("ok"):
            raise AvaultError.from_dict(told["used"])
        return told


def refuse_left(session: Session) -> None:
    """Raise TimedOut where a caller is not there any more: nothing is signed for it."""
    sock = session.transport.get_extra_info("socket")
    if session.transport.is_closing() or has_left(sock.fileno()):
        raise TimedOut("the caller has left", "try again")


class KeyQuestion:
    """One question about a key, for all (`waiting`) who want the same of it; `place` says what."""

    def __init__(
        self, keyholder: Keyholder, session: Session, wish: Wish, seconds: int, place: KeyPlace
    ) -> None:
        self.keyholder, self.session, self.wish = keyholder, session, wish
        self.seconds, self.place = seconds, place
        self.waiting: set[Session] = {session}
        self.found: KeyRelease | None = None
        self.task = asyncio.ensure_future(self.ask())
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def ask(self) -> KeyRelease:
        """The key, once the phone has opened it; raises AvaultError."""
        keyholder, wish = self.keyholder, self.wish
        askings, openers = keyholder.askings, keyholder.openers
        names, who, grant = [wish.name], wish.asker.who, self.session.grant
        try:
            askings.restraint.check(who, names)
            async with asyncio.timeout(ASK_TIME) as waiting, askings.alone(who, names):
                await openers.settle(keyholder.open_store(), names)
                askings.restraint.check(who, names)  # it may have been refused to another one
                passage = wish.admit(None)
                through = grant.name if grant else None
                is_full = openers.is_full(through=through)
                job = describe_job_of_key(keyholder, self, passage)
                job["overheard"] = askings.end_late(names, is_full, through)
                opener = await openers.start(through=through)
                opened = Unused(passage.vault, passage.way, asked=passage.asked)
                opened.thawed = passage.thawed
                self.found = KeyRelease(keyholder, self, opened, opener)
                await release(self.found, job, waiting, None)
                askings.restraint.forgive(who, names)
                return self.found
        except TimeoutError:
            why = "others are asked for, and it was not its turn in time"
            raise TimedOut(why, "try again") from None
        finally:
            if askings.signing.get(self.place) is self:
                del askings.signing[self.place]

    async def wait(self, session: Session) -> KeyRelease:
        """What the question comes to, for one who wants the same."""
        self.waiting.add(session)
        return await asyncio.shield(self.task)

    def leave(self, session: Session) -> None:
        """One waits no more, or has what it wanted; with the last one, what is open ends."""
        self.waiting.discard(session)
        if self.waiting:
            return
        self.task.cancel()
        if self.found and not self.seconds and self.found.opened_at:
            self.found.assignment.end()


def describe_job_of_key(keyholder: Keyholder, question: KeyQuestion, passage: Passage) -> Message:
    """What a process needs that has the phone open a key, and signs with it."""
    wish = question.wish
    group, _, key = wish.name.partition("/")
    value = passage.vault.groups[group].keys[key][0].value
    host = keyholder.holding.host
    return {
        "do": "key",
        **describe_questions(keyholder, {wish.name: [value]}),
        "sentence": wish.describe(host, question.seconds, bool(passage.thawed)),
        "sealed": value,
        "needs": passage.way,
        "stay": question.seconds,
    }


async def sign_asked(
    keyholder: Keyholder, session: Session, wish: Wish, passage: Passage
) -> Message:
    """What comes of a use of a key that the phone opens; raises AvaultError.

    Within the time of a guard the same errand of the same asker is not asked again; others who
    wait for the same have the same answer. A caller that leaves takes along what is its own.
    """
    askings = keyholder.askings
    askings.end_stale(keyholder.open_store().vault)
    ask = min(passage.asked.values())
    seconds, asker = wish.count_seconds(ask), wish.asker
    same = wish.errand() if seconds else wish.exact()
    place: KeyPlace = (asker.which, wish.name, same)
    found = askings.staying.get((place, (wish.name,))) if seconds else None
    if found and uptime() < found.opened_at + seconds and not found.assignment.is_gone:
        return dict(await found.sign(session, wish))
    is_alone = not (asker.which and same)
    question = None if is_alone else askings.signing.get(place)
    if not question:
        question = KeyQuestion(keyholder, session, wish, seconds, place)
        if not is_alone:
            askings.signing[place] = question
    try:
        opened = await question.wait(session)
        return await opened.sign(session, wish)
    except asyncio.CancelledError:
        wish.noted["why"] = "nobody has approved before the caller left"
        raise
    finally:
        question.leave(session)
