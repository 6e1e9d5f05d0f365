"""A question to the signer: when it goes out again, and what an answer that refuses it means."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from typing import TYPE_CHECKING

from avault.errors import Denied, Tampered
from avault.signer.pairing import introduce, nostrconnect_uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from avault.keys.nostr import Event


# seconds into an asking; signers know an event id that they have seen
SAME_EVENT_AGAIN = (15.0, 30.0, 45.0)
# seconds; a new event with the same request id, as relays and signers drop old events
FRESH_EVENT_EVERY = 60.0
# seconds for which it is that often; a phone that wakes later is asked by whoever wakes it
FRESH_EVENT_AT_FIRST = 600.0
FRESH_EVENT_LATER = 300.0
NOBODY_ASKED = 2.5  # seconds; no person reads a sentence and taps faster
QUICK_IN_A_ROW = 3  # approvals within that time, after which the drill is advised
# seconds; none that gives up by itself is known to do so sooner (nsec.app: 60 s, Signet: 65 s)
SIGNER_WAITS = 55.0
# nobody was asked
NOT_A_REFUSAL = ("no permission", "not paired", "unknown client", "unsupported", "unrecognized")
NOT_PAIRED = (
    "no permission",
    "not paired",
    "invalid secret",
    "secret not in use",
    "no secret",
    "already connected",
    "unknown client",
)
# said of a refusal and of a stranger alike
UNCLEAR = ("not authorized", "unauthorized", "not authorised", "unauthorised")
# of the signer's own time, not of a person
GAVE_UP = ("timeout", "timed out", "time out", "expired")


# events of other keys that are looked at for one request: one of them may tell of a page to open
STRANGERS = 100


def says_any(text: str, words: Iterable[str]) -> bool:
    """Whether a signer's words have any of these in them."""
    return any(each in text.lower() for each in words)


async def join_signer(
    remote: Any, relays: list[str], secret: str, name: str, show: Callable[[str], None]
) -> str:
    """Connect with the signer that is known, or with the first that answers a code: its key (hex).

    `show` is given the code: our key, the relays, the `secret` and our name (NIP-46, nostrconnect).
    Raises AvaultError.
    """
    await remote.relays.wait_ready(15.0)
    if remote.signer:
        told = [remote.signer, secret, "get_public_key", json.dumps(introduce(name))]
        await remote.request("connect", told, accept_connect(secret), False)
        return str(remote.signer)
    show(nostrconnect_uri(remote.me, relays, secret, name))
    return str(await remote.greet(secret))


def plan_requests(patient: bool) -> Iterator[tuple[float, bool]]:
    """When a question goes out again, and whether as a fresh event; without end.

    In seconds since it was first asked.
    """
    for seconds in SAME_EVENT_AGAIN if patient else (3.0, 6.0, 10.0, *SAME_EVENT_AGAIN):
        yield seconds, False
    seconds = FRESH_EVENT_EVERY
    while True:
        yield seconds, True
        seconds += FRESH_EVENT_EVERY if seconds < FRESH_EVENT_AT_FIRST else FRESH_EVENT_LATER


def is_own_timeout(text: str, seconds: float) -> bool:
    """Whether a signer's refusal, so many seconds after the question, is its own giving up.

    Then it is nobody's decision.
    """
    text = text.lower()
    if any(words in text for words in GAVE_UP):
        return True
    return seconds >= SIGNER_WAITS and any(words in text for words in UNCLEAR)


def accept_token(token: str) -> Callable[[str], None]:
    """What counts as the result of decrypting the drill."""

    def accept(result: str) -> None:
        if token not in result:
            raise Tampered("the signer answered with something else")

    return accept


def accept_connect(secret: str) -> Callable[[str], None]:
    """What counts as a result of `connect` to a bunker: "ack", or its secret (NIP-46)."""

    def accept(result: str) -> None:
        if result != "ack" and not (
            secret and secrets.compare_digest(result.encode(), secret.encode())
        ):
            raise Denied("the signer answered `connect` with something else")

    return accept


class Repeats:
    """When a request goes out again, and whether as a fresh event.

    A `patient` one waits for a person.
    """

    def __init__(self, patient: bool) -> None:
        self.patient = patient
        self.is_urged = False  # somebody is there who waits for it: it goes out at once
        self.begin()

    def begin(self) -> None:
        """Plan, from now on, when it is sent again."""
        self.begun, self.plan = time.monotonic(), plan_requests(self.patient)
        self.take_step()

    def take_step(self) -> None:
        """Go on in the plan."""
        after, self.is_fresh_next = next(self.plan)
        self.due = self.begun + after

    def pass_steps(self, now: float) -> bool:
        """Leave those behind that are due, and say whether one of them was a fresh event."""
        is_fresh = False
        while now >= self.due:
            is_fresh |= self.is_fresh_next
            self.take_step()
        return is_fresh


class Arrival:
    """When a request was first tried, and when a relay first took that of its present id."""

    def __init__(self) -> None:
        self.asked_at = time.monotonic()
        self.accepted_id, self.accepted_at = "", 0.0

    def note_accepted(self, sent: str) -> None:
        """A relay has taken the request of that id."""
        if sent != self.accepted_id:
            self.accepted_id, self.accepted_at = sent, time.monotonic()

    def age(self) -> float:
        """Seconds from the first relay's acceptance, or from the first try."""
        return time.monotonic() - (self.accepted_at or self.asked_at)


class Request:
    """A request under way: its id, what to do with a result, and the future of its answer."""

    def __init__(
        self, method: str, params: list[str], accept: Callable[[str], Any], patient: bool
    ) -> None:
        self.method, self.params, self.accept = method, params, accept
        self.ids: set[str] = set()
        self.renew()
        self.repeats, self.arrival = Repeats(patient), Arrival()
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.refusal: asyncio.TimerHandle | None = None
        self.is_told_by_content = False
        self.strangers = 0  # events of other keys that were looked at for it

    def renew(self) -> None:
        """Take another id, as a signer that has answered one ignores it from then on.

        What answers an old one still counts.
        """
        self.id = secrets.token_hex(16)
        self.ids.add(self.id)

    def is_looked_at(self) -> bool:
        """Whether one more event of another key is looked at: it may tell of a page to open."""
        self.strangers += 1
        return self.strangers <= STRANGERS

    def body(self) -> str:
        """The request as it is sent."""
        return json.dumps({"id": self.id, "method": self.method, "params": self.params})


class Sending:
    """An event on its way to the relays.

    Whose request, when it was made, what each relay said, and whether it has left us.
    """

    def __init__(self, event: Event, request: str, made: float) -> None:
        self.event, self.request, self.made = event, request, made
        self.said: dict[str, str] = {}
        self.is_sent = False


class Sent:
    """What went out of the question that is asked."""

    def __init__(self) -> None:
        self.since, self.requests = time.time(), 0
        # relays that have not said yet what they think of an event of it
        self.busy: set[str] = set()
