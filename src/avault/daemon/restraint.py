"""Programs that ask too often: after a question in vain they leave the phone alone, ever longer."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from avault.daemon.callers import read_stat
from avault.errors import Denied, Unavailable
from avault.late import context
from avault.process import uptime
from avault.vault.names import DIGITS, LETTERS
from avault.vault.times import render_time

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from avault.daemon.grant import Grant
    from avault.daemon.wire import Session
    from avault.protocol import Message
    from avault.vault.records import Vault

    Who = tuple[Any, ...]


ASK_PAUSES = (30.0, 120.0, 600.0, 3600.0)  # seconds after one question in vain, two, …
MOST_SHOWN = 20  # pauses in `status`: the longest
WORD_CHARACTERS = LETTERS | DIGITS | set("._+-")
SECRET_PAUSES = (10.0, 30.0, 120.0)  # the same for a secret, whoever asked
FLOOD, FLOOD_TIME = 6, 300.0  # so many in vain, of the whole vault, in so many seconds
REMEMBERED = 86_400.0  # seconds
MOST_OVERHEARD = 40  # questions to which one process hears answers for nobody
MOST_WAITING = 4  # uses by one program that wait for their turn
MOST_TAKES = 2  # values that one program sets, which are waited for


def who_asks(caller: dict[str, Any]) -> Who:
    """A caller, as it is known again: what runs, and in what."""
    parent = caller.get("parent") or {}
    return caller["uid"], caller["exe"], parent.get("exe"), caller.get("grant")


def which_asks(caller: dict[str, Any], grant: Grant | None = None) -> Who | None:
    """A caller, as one approval is good for it: a program, started by one process, in one session.

    What is started by init, or from outside of a container, stands for itself. As orphans get
    another parent, which many may have, the kernel's session counts too: nobody can join one. Who
    comes through a grant comes through that one, and not through a later one of its name. None for
    who is not known: it is not known again either.
    """
    if caller.get("proxy"):  # a session of the proxy, and where to
        return caller["uid"], caller["proxy"], grant and grant.identity
    pid, parent = caller["pid"], (caller.get("parent") or {}).get("pid")
    if not (pid and caller["exe"] and parent is not None):
        return None
    starter = parent if parent > 1 else pid
    try:
        leader = os.getsid(pid)
    except OSError:  # it has ended
        return None
    who = caller["uid"], caller["exe"], *name_process(starter), *name_process(leader)
    return *who, grant and grant.identity


def name_process(pid: int) -> tuple[int, bytes]:
    """A process, as no other one is named: its pid, and when it was started."""
    _, fields = read_stat(pid)
    return pid, fields[19] if fields else b""


def describe_who(caller: dict[str, Any]) -> str:
    """A caller in words, as the kernel tells."""
    parent = caller.get("parent") or {}
    shown = name_program(caller) + (f" (pid {caller['pid']})" if caller["pid"] else "")
    if parent.get("exe"):
        shown += f", started by {name_program(parent)} (pid {parent['pid']})"
    return f"{shown}, by the grant {caller['grant']}," if caller.get("grant") else shown


def name_program(process: dict[str, Any]) -> str:
    """The name of what a process runs."""
    if exe := process.get("exe"):
        return spell(os.path.basename(str(exe)))
    if name := process.get("name"):  # that of another user: it has chosen the name itself
        return f"a program of uid {process['uid']} that calls itself {spell(str(name))}"
    return "a program that is not known"


def spell(word: str) -> str:
    """A word that others have chosen, as it cannot be taken for a part of the sentence."""
    return "".join(each if each in WORD_CHARACTERS else "?" for each in word[:24])


class Restraint:
    """How long callers leave the phone alone: who they are, what they asked for, and how many.

    `in_vain` has how many questions in a row were, and when the last; those of a secret by whoever
    asked (None) too, as who copies a program is another one. Who was approved before, for a secret,
    has its own pauses alone, so that others cannot keep it out. All is forgotten after a day.
    What was asked through a grant counts for that grant, and for nobody else.
    """

    def __init__(self) -> None:
        self.in_vain: dict[tuple[Who | None, str], tuple[int, float]] = {}
        self.latest: list[float] = []  # when the last questions of all were in vain
        self.latest_of: dict[Who, list[float]] = {}  # and of each caller
        self.approved: dict[tuple[Who, str], float] = {}

    def check(self, who: Who, names: list[str]) -> None:
        """Raise Denied while the pause of a caller lasts."""
        now = uptime()
        for name in names:
            end = max(self.end(who, name), end_of_flood(self.latest_of.get(who, [])))
            if not self.is_known(who, [name]):
                end = max(end, self.end(None, name), end_of_flood(self.latest))
                if grant := by_grant(who):
                    floods = end_of_flood(self.latest_of.get(grant, []))
                    end = max(end, self.end(grant, name), floods)
            if end > now:
                raise Denied(
                    f"the phone was asked in vain; for {name} it is not asked again for"
                    f" {end - now:.0f} s",
                    "wait, or see who asked: avault log",
                )

    def is_known(self, who: Who, names: list[str]) -> bool:
        """Whether the operator has agreed to a caller before, for all of these."""
        return all((who, name) in self.approved for name in names)

    def end(self, who: Who | None, name: str) -> float:
        """When the pause of a caller ends, or that of all; 0 where it has none."""
        count, last = self.in_vain.get((who, name), (0, 0.0))
        pauses = ASK_PAUSES if who and who[1:] else SECRET_PAUSES
        return last + pauses[min(count, len(pauses)) - 1] if count else 0.0

    def describe(self) -> list[Message]:
        """The pauses that last: of what, whose, and until when."""
        now = uptime()
        ends = [(end_of_flood(self.latest), name_who(None), "anything")]
        for who, latest in self.latest_of.items():
            ends.append((end_of_flood(latest), name_who(who), "anything"))
        for one, name in self.in_vain:
            ends.append((self.end(one, name), name_who(one), name))
        return [
            {"name": name, "program": program, "until": render_time(time.time() + end - now)}
            for end, program, name in sorted(ends)
            if end > now
        ][-MOST_SHOWN:]

    def note(self, who: Who, names: list[str]) -> None:
        """A question was in vain: refused, or nobody answered."""
        now, grant = uptime(), by_grant(who)
        self.forget(now - REMEMBERED)
        if not grant:
            self.latest = [*self.latest, now][-FLOOD:]
        for one in (who, grant) if grant else (who,):
            self.latest_of[one] = [*self.latest_of.get(one, []), now][-FLOOD:]
        for each in [(each, name) for each in (who, grant) for name in names]:
            self.in_vain[each] = (self.in_vain.get(each, (0, 0.0))[0] + 1, now)

    def forget(self, before: float) -> None:
        """Forget what is older."""
        self.in_vain = {each: found for each, found in self.in_vain.items() if found[1] > before}
        self.approved = {each: at for each, at in self.approved.items() if at > before}
        self.latest_of = {who: at for who, at in self.latest_of.items() if at[-1] > before}

    def forgive(self, who: Who, names: list[str]) -> None:
        """The operator has agreed."""
        for name in names:
            self.in_vain.pop((who, name), None)
            self.in_vain.pop((by_grant(who), name), None)
            if who[1]:  # else it is any program that is not known
                self.approved[who, name] = uptime()


def by_grant(who: Who) -> Who | None:
    """All who ask through the same grant as a caller; None for one who asks through none."""
    return who[3:] if any(who[3:]) else None


def name_who(who: Who | None) -> str:
    """Whose a pause is, in words."""
    if who is None:
        return "any other program"
    return name_program({"exe": who[1]}) if who[1:] else f"any program by the grant {who[0]}"


def end_of_flood(latest: list[float]) -> float:
    """When one may ask again after too many questions in vain, of which these are the last."""
    return latest[0] + FLOOD_TIME if len(latest) == FLOOD else 0.0


class Turn:
    """The only one who asks for some names, for the length of a `with`."""

    def __init__(self, turns: Turns, who: Who, names: list[str], is_first: bool) -> None:
        self.turns, self.who, self.names, self.is_first = turns, who, {*names}, is_first
        self.begun = asyncio.Event()

    async def __aenter__(self) -> None:
        self.turns.join(self)
        try:
            await self.begun.wait()
        except asyncio.CancelledError:
            self.turns.leave(self)
            raise

    async def __aexit__(self, *_: object) -> None:
        self.turns.leave(self)


class Turns:
    """Whose turn it is to ask: one at a time for each secret, and first who is to be first."""

    def __init__(self) -> None:
        self.waiting: list[Turn] = []
        self.begun: list[Turn] = []

    def join(self, turn: Turn) -> None:
        """Wait for a turn; raises Denied where too many of the same caller do."""
        if sum(each.who == turn.who for each in self.waiting) >= MOST_WAITING:
            raise Denied(
                f"{MOST_WAITING} uses by this program wait for the phone already",
                "try again when some have been answered",
            )
        self.waiting.append(turn)
        self.go_on()

    def leave(self, turn: Turn) -> None:
        """It has had its turn, or wants none any more."""
        (self.begun if turn.begun.is_set() else self.waiting).remove(turn)
        self.go_on()

    def go_on(self) -> None:
        """Begin the turns of which no name is taken, or is to be by who waits before them."""
        taken = {name for each in self.begun for name in each.names}
        for turn in sorted(self.waiting, key=lambda each: not each.is_first):
            if not taken & turn.names:
                self.waiting.remove(turn)
                self.begun.append(turn)
                turn.begun.set()
            taken |= turn.names


class Askings:
    """The questions of an open vault: one at a time for each secret.

    `questions` are those that the phone has now, as `status` shows them, by what becomes of them;
    `late` are processes that listen for an answer which is for nobody any more, by the names that
    they were to open; `staying` those that have opened something for a caller, for a time; `given`
    the callers to whom such a process sends what they asked for.
    """

    def __init__(self) -> None:
        self.restraint = Restraint()
        self.turns = Turns()
        self.questions: dict[Any, Message] = {}
        self.late: dict[str, Any] = {}
        self.staying: dict[Who, Any] = {}
        self.signing: dict[Any, Any] = {}  # questions about keys, by what they are about
        self.given: set[Session] = set()
        self.takes: list[Who | None] = []  # who sets a value that is to be sealed

    def show(self, which: Any, names: list[str], by: str, code: str) -> None:
        """Have `status` show a question that the phone has now."""
        since = render_time(time.time())
        self.questions[which] = {"names": names, "by": by, "code": code, "since": since}

    def alone(self, who: Who, names: list[str]) -> Turn:
        """Be the only one who asks for these, for the length of a `with`."""
        return Turn(self.turns, who, names, self.restraint.is_known(who, names))

    @context
    def take_from(self, who: Who | None) -> Iterator[None]:
        """Wait for a value of a caller's, for the length of a `with`.

        Each has a process, and there are few. Raises Unavailable where too many of it have.
        """
        if self.takes.count(who) >= MOST_TAKES:
            raise Unavailable(
                f"{MOST_TAKES} values that this program sets are waited for already",
                "send those first, then try again",
            )
        self.takes.append(who)
        try:
            yield
        finally:
            self.takes.remove(who)

    def end_stale(self, vault: Vault) -> None:
        """End what has opened values that are others by now, in the vault that is served."""
        for each, found in [*self.staying.items()]:
            if found.is_stale(vault):
                found.assignment.end()
                self.staying.pop(each, None)

    def describe(self) -> Message:
        """What `status` shows of them."""
        return {"questions": [*self.questions.values()], "pauses": self.restraint.describe()}

    def end_late(self, names: list[str], is_full: bool, through: str | None) -> list[Message]:
        """Who asks anew for a secret hears the late answers himself; for others there is room.

        Through a grant, only what was asked through it makes room. The questions whose answers
        are to be heard by who comes in their place.
        """
        questions: list[Message] = []
        late = [name for name, each in self.late.items() if through in (None, each.through)]
        for name in [*names, *(late[:1] if is_full else [])]:
            found = self.late.pop(name, None)
            if found and not found.is_gone:
                questions += found.questions
                found.end()
        return questions[-MOST_OVERHEARD:]
