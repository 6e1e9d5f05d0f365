"""What is known of who was invited while the vault is open: what was asked, when, how often."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING

from avault.errors import Denied
from avault.process import uptime
from avault.vault.invitations import Invitation
from avault.vault.times import parse_rendered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

OLDEST, EARLIEST = 120, 30  # seconds that a request may be old; or of the time to come: it waits
UNINVITED = 20  # requests a minute that all together have who are not the client
MOST_KEPT = 64  # answers that are kept for a client that asks again
KEPT_TIME = 300.0  # seconds
STRANGERS_TOLD = 300.0  # seconds between two lines in refused.log about those who are not invited
LOG_TAIL = 1 << 18  # bytes at the end of the access log that are looked at


class Budget:
    """So many in a minute; `used` is when some were, as `uptime` counts."""

    def __init__(self, most: int, used: list[float] | None = None) -> None:
        self.most, self.used = most, used or []

    def take(self) -> bool:
        """Whether there is room for one more now, which is used by that."""
        self.used = [each for each in self.used if each > uptime() - 60]
        if len(self.used) >= self.most:
            return False
        self.used.append(uptime())
        return True


class Guest:
    """What is known of an invitation while the vault is open: what was asked, and how often."""

    def __init__(self, rate: int, used: list[float]) -> None:
        self.own, self.strangers = Budget(rate, used), Budget(UNINVITED)
        self.seen: dict[str, int] = {}  # ids of events, and when they say that they were made
        self.answers: dict[str, tuple[str, float, str]] = {}  # by the request's id
        self.under_way: dict[str, asyncio.Event] = {}  # by the same: set when that is answered
        self.joining = asyncio.Lock()  # of who comes by its secret, one at a time

    def refuse_seen(self, event: str) -> None:
        """Raise Denied for an event that was here."""
        if event in self.seen:
            raise Denied("this request was here already")

    def note(self, event: str, made: int, oldest: float) -> None:
        """Remember that an event was here."""
        self.seen = {each: at for each, at in self.seen.items() if at >= oldest}
        self.seen[event] = made

    async def answer_once(self, number: str, asked: str, make: Callable[[], Awaitable[str]]) -> str:
        """The answer to a request, made unless it was: also for who asks again meanwhile.

        Raises Denied where another request had its id, and what `make` does.
        """
        while before := self.under_way.get(number):
            await before.wait()
        if answer := self.find_answer(number, asked):
            return answer
        done = self.under_way[number] = asyncio.Event()
        try:
            answer = await make()
            self.keep_answer(number, asked, answer)
            return answer
        finally:
            del self.under_way[number]
            done.set()

    def find_answer(self, number: str, asked: str) -> str | None:
        """What was answered to the same request; raises Denied where it was another one."""
        now = uptime()
        self.answers = {
            each: found for each, found in self.answers.items() if found[1] > now - KEPT_TIME
        }
        if number not in self.answers:
            return None
        before, _, answer = self.answers[number]
        if before != asked:
            raise Denied("another request had this id")
        return answer

    def keep_answer(self, number: str, asked: str, answer: str) -> None:
        """Keep what was answered, for who asks again."""
        if len(self.answers) >= MOST_KEPT:
            del self.answers[next(iter(self.answers))]
        self.answers[number] = asked, uptime(), answer


class Guests:
    """Who has asked by which invitation, since this vault was opened.

    No request counts that is older than the last line in the access log, at that path, was before:
    so what was answered then is not answered again, also where the clock was set back.
    """

    def __init__(self, log: str) -> None:
        self.guests: dict[str, Guest] = {}
        self.untold = 0  # strangers who were refused and are in no line yet
        self.told: float | None = None  # when a line told of some, as `uptime` counts
        last, self.recent = read_recent(log)
        self.latest, self.floor = (
            last,
            last + 1,
        )  # what the clock has said; from when requests count

    def count_stranger(self) -> int:
        """How many strangers were refused since the last line that told of them, with this one.

        0 where it is not time for another line: else they would leave no room for others' lines.
        """
        self.untold += 1
        if self.told is not None and uptime() < self.told + STRANGERS_TOLD:
            return 0
        found, self.untold, self.told = self.untold, 0, uptime()
        return found

    def find(self, invitation: Invitation) -> Guest:
        """What is known of an invitation."""
        if invitation.identity not in self.guests:
            used = self.recent.get(f"bunker {invitation.name}", [])
            self.guests[invitation.identity] = Guest(invitation.terms.rate, used)
        return self.guests[invitation.identity]

    def now(self) -> float:
        """The time: what the clock says, or has said, if that was later."""
        self.latest = max(self.latest, time.time())
        return self.latest

    def count_until(self, made: int) -> float:
        """Seconds until a request of that time is due; raises Denied for one that is too old."""
        if made < self.now() - OLDEST or made < self.floor:
            raise Denied("the request is old, or the clock was set back", "is the clock right?")
        if made > time.time() + EARLIEST:
            raise Denied("the request is of the time to come", "is the clock right?")
        return max(0.0, made - time.time())


def read_recent(path: str) -> tuple[float, dict[str, list[float]]]:
    """When the last line of the access log was written; and uses of the last minute.

    By what they were for, as `uptime` counts. The last lines may be in the file before.
    """
    last, recent, now = 0.0, dict[str, list[float]](), time.time()
    for line in [*read_tail(f"{path}.1"), *read_tail(path)]:
        try:
            entry = json.loads(line)
            at, what = parse_rendered(entry["time"]), str(entry["for"])
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        last = max(last, at)
        if at > now - 60:
            recent.setdefault(what, []).append(uptime() - max(0.0, now - at))
    return last, recent


def read_tail(path: str) -> list[bytes]:
    """The last lines of a file; none where it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - LOG_TAIL))
            return file.read(LOG_TAIL).splitlines()
    except OSError:
        return []
