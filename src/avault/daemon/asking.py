"""The question to the operator: who waits for it, and when it may be put again.

As the supervisor sees it; the keyholder carries it out.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from avault.daemon.errands import Reach
from avault.errors import AvaultError, Denied, TimedOut, Unavailable
from avault.places import Places
from avault.process import uptime
from avault.vault.files import read_file, write_file
from avault.vault.own_files import decode_file, encode_file
from avault.vault.times import render_time

if TYPE_CHECKING:
    from typing import Any


# seconds for which it is one question, whoever asks again, and for which a caller that died is
# remembered
TOGETHER = 600.0
# seconds for which callers that ask on their own leave the phone alone, after one question in vain,
# two, …
PAUSES = {
    "unanswered": (60, 300, 900, 3600),
    "refused": (900, 3600, 14400),
}


class Caller:
    """Somebody who wants the vault open, and waits for it.

    A `person` typed it; others ask on their own, and are restrained by pauses,
    except for a daemon that starts. With `stay` the daemon goes on
    asking for so many seconds after the question began, with or without the
    caller. `has_died` is true once its connection ended without a word. One that
    names a `custodian` wants that one, and no other; `reach` is how a person is.
    One that is to recover the vault says whose it is: the `agent`, an npub.
    """

    def __init__(
        self,
        timeout: float | None,
        accept_rollback: bool = False,
        person: bool = False,
        stay: float | None = None,
        is_restrained: bool = True,
        is_attended: bool = True,
    ) -> None:
        self.timeout, self.accept_rollback, self.person, self.stay = (
            timeout,
            accept_rollback,
            person,
            stay,
        )
        self.is_restrained = is_restrained and not person
        # somebody is to hear of a refusal that nobody can have given
        self.is_attended = is_attended
        self.reach = Reach({})
        self.custodian: str | None = None
        self.agent: str | None = None
        self.since, self.has_died = uptime(), False


class Pauses:
    """How long callers that ask on their own leave the phone alone.

    It is kept in pauses.json, which the daemon alone writes.

    Each question in vain makes the next pause longer. A person who asks, and an
    unlock, end them.
    """

    def __init__(self, places: Places) -> None:
        self.path = places.own("pauses.json")

    def read(self) -> dict[str, Any]:
        """How many questions were in vain, whether the last was refused, and when.

        What cannot be read counts as none.
        """
        try:
            found = decode_file("pauses", read_file(self.path), self.path)
            if 0 <= found["last"] < 1 << 40:  # a time that others than us have written may be none
                return found
        except AvaultError:
            pass
        return {"in_vain": 0, "refused": False, "last": 0}

    def end(self) -> float | None:
        """When the pause ends, in Unix seconds; None where there is none.

        A clock that went back makes none longer.
        """
        found, now = self.read(), time.time()
        if found["in_vain"] < 1 or found["last"] > now:
            return None
        steps = PAUSES["refused" if found["refused"] else "unanswered"]
        end = float(found["last"] + steps[min(found["in_vain"], len(steps)) - 1])
        return end if end > now else None

    def check(self, hint: str = "if the operator agreed, at once: avault unlock --again") -> None:
        """Raise Denied after a refusal, TimedOut where nobody answered, while the pause lasts."""
        if (end := self.end()) is None:
            return
        found = self.read()
        when = f"programs may ask again at {render_time(end)}; {hint}"
        if found["refused"]:
            raise Denied(
                f"the operator refused at {render_time(found['last'])}, "
                "and the phone is left alone",
                when,
            )
        raise TimedOut(
            f"nobody had answered by {render_time(found['last'])}, and the phone is left alone",
            when,
        )

    def note(self, refused: bool) -> None:
        """A question was in vain."""
        content = {
            "in_vain": self.read()["in_vain"] + 1,
            "refused": refused,
            "last": int(time.time()),
        }
        try:
            write_file(self.path, encode_file("pauses", content))
        except AvaultError:
            pass  # a disk that is full keeps nobody from asking

    def clear(self) -> None:
        """Forget what was in vain."""
        try:
            os.unlink(self.path)
        except OSError:
            pass


class Question:
    """The one question that the operator has at a time: all states of an unlock.

                  somebody asks                    the phone approves
        at rest ─────────────────────► asked ─────────────────────────────► open
          ▲ ▲                          │   ▲                                  ▲
          │ └──── the phone refuses ───┤   │ somebody asks: within ten        │ the phone approves,
          │                            │   │ minutes the same question        │ and a caller that
          │    nobody waits any more   ▼   │                                  │ died had asked in
          │                          listening ───────────────────────────────┘ the last ten minutes
          │                            │
          └────────────────────────────┘
            the phone refuses; or it approves: then the ratchet turns, and nothing is opened

    While it is asked, the keyholder sends the request again and again; while it
    listens, it sends nothing (`rest`). What all callers share is one wish: one
    that accepts an older vault is not answered by a question without that.
    """

    def __init__(self, places: Places) -> None:
        self.pauses = Pauses(places)
        self.callers: set[Caller] = set()
        self.accepts_rollback = False
        self.begun: float | None = None  # uptime of the first asking
        self.wanted_until = 0.0  # uptime until which a late answer opens the vault

    def join(self, caller: Caller, asks_phone: bool) -> bool:
        """Take in a caller, and say whether that begins another question.

        Raises Unavailable, and what a pause says.
        """
        if self.callers and caller.accept_rollback != self.accepts_rollback:
            asked = (
                "with --accept-rollback" if self.accepts_rollback else "without --accept-rollback"
            )
            raise Unavailable(
                f"the phone is being asked {asked}, and both cannot share the answer",
                "end that first: avault lock",
            )
        if caller.person:
            self.pauses.clear()
        elif asks_phone and caller.is_restrained and not self.callers:
            self.pauses.check()
        is_new = self.begun is None or (not self.callers and uptime() - self.begun >= TOGETHER)
        if is_new:
            self.begun, self.wanted_until = uptime(), 0.0
        self.callers.add(caller)
        self.accepts_rollback = caller.accept_rollback
        return is_new

    def patience(self, caller: Caller) -> float | None:
        """For how many seconds a caller may wait; None for ever."""
        if caller.stay is None:
            return caller.timeout
        left = max((self.begun or uptime()) + caller.stay - uptime(), 0.0)
        return left if caller.timeout is None else min(left, caller.timeout)

    def leave(self, caller: Caller) -> None:
        """A caller waits no more."""
        if caller in self.callers and caller.has_died and not caller.accept_rollback:
            self.wanted_until = max(self.wanted_until, caller.since + TOGETHER)
        self.callers.discard(caller)
        if not self.callers and self.begun is not None and uptime() - self.begun >= TOGETHER - 1:
            self.close(refused=False)

    def give_up(self) -> None:
        """Nobody waits any more, nor wants what comes late."""
        self.callers.clear()
        self.wanted_until = 0.0

    def close(self, refused: bool) -> None:
        """It was in vain: the next one is another."""
        if self.begun is not None:
            self.begun = None
            self.pauses.note(refused)

    def succeed(self) -> None:
        """The vault is open."""
        self.begun, self.wanted_until = None, 0.0
        self.pauses.clear()
