"""What this machine has put on relays, and what it has yet to: in its state directory."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Unavailable
from avault.late import context
from avault.places import Places
from avault.process import take_lock
from avault.vault.files import read_file, write_file
from avault.vault.own_files import decode_file, encode_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

PROGRESS, OUTBOX = "replica.json", "replica-outbox.json"
OUTBOX_LIMIT = 16 << 20  # bytes
SEEN = 1000  # heads whose copies are known not to be new
LOCK_WAIT = 300.0  # seconds that a process waits for another one of ours
MOST_NOTES = 8
SENT = 64  # roots of ours that are known to have been sent
MOST_AHEAD = 900  # seconds that an event of ours may be ahead, which many relays allow
FAR = 3600  # seconds from now after which the time of a root is a wrong clock's
UNKNOWN_RELAY: dict[str, Any] = {  # what is known of a relay at first; `head` and `root` are ids
    "slot": None, "head": "", "hash": "", "time": 0, "trying": None,
    "checked": 0, "looked": 0, "root": "", "farewells": [],
    "sent": [], "sent_of": "", "failures": 0, "next": 0, "said": None,
}  # fmt: skip


@context
def hold_lock(places: Places, name: str) -> Iterator[None]:
    """One process of this machine at a time, for the length of a `with`; raises Unavailable."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        fd = os.open(places.own(name), flags, 0o600)
    except OSError as error:
        raise AvaultError(f"cannot write {places.own(name)}: {error.strerror}") from None
    try:
        end = time.monotonic() + LOCK_WAIT
        while not take_lock(fd):
            if time.monotonic() > end:
                raise Unavailable(
                    "another avault is at the relays", "try again: avault replica push"
                )
            time.sleep(0.05)
        yield
    finally:
        os.close(fd)


def name_of(event: dict[str, Any]) -> str:
    """The address of an event of ours."""
    return str(event["tags"][0][1])


class ReplicaProgress:
    """replica.json: of each relay, what it keeps of this machine, and what it said.

    `last` is the latest time that a copy of ours has, `roots` has the latest of each agent's root,
    and `latest` that root; `put` are the roots of ours that were sent, `judged` is the last that
    the keyholder has looked at. `late` are heads whose parts did not come. `rotated` are the agents
    (npubs) that take this one's place, as it has signed: another machine has rotated its key.
    A `slot` is taken from here and never from a relay, which may answer with what it had a moment
    ago. While it is not known whether a relay took a head, that is what it is `trying`.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    @staticmethod
    def load(places: Places) -> ReplicaProgress:
        """What is written there; a damaged one tells nothing."""
        content: dict[str, Any] = {
            "machine": "", "author": "", "last": 0, "epoch": 0, "anew": False, "roots": {},
            "wants": [], "rollback": "", "holds": False, "notes": [], "seen": [], "relays": {},
            "latest": {}, "put": [], "judged": "", "late": [], "rotated": [],
        }  # fmt: skip
        path = places.own(PROGRESS)
        try:
            if os.path.lexists(path):
                content |= decode_file("replica", read_file(path), path)
        except AvaultError:
            pass  # slots are not known then, and are looked for
        return ReplicaProgress(content)

    def belong(self, machine: str, author: str) -> None:
        """Begin anew where machine or key are others: then the addresses are others too."""
        content = self.content
        if (content["machine"], content["author"]) != (machine, author):
            is_same_key = content["author"] == author
            content |= {"machine": machine, "author": author, "seen": [], "epoch": 0}
            content["rotated"] = content["rotated"] if is_same_key else []
            self.forget_copies(("root", "farewells") if is_same_key else ())

    def note(self, said: str) -> None:
        """Have a person told of something, until `replica push`."""
        self.content["notes"] = [*(each for each in self.content["notes"] if each != said), said]
        self.content["notes"] = self.content["notes"][-MOST_NOTES:]

    def move_on(self) -> None:
        """Go to other addresses where what lies at these is of a time that is yet to come."""
        roots = self.content["roots"]
        self.content["roots"] = {each: made for each, made in roots.items() if not is_far(made)}
        ahead = self.content["last"] - int(time.time())
        if ahead <= MOST_AHEAD:
            return
        self.content |= {"last": 0, "epoch": self.content["epoch"] + 1, "anew": True}
        self.forget_copies(("root", "farewells"))
        self.note(
            f"a clock was ahead: copies of this machine are {ahead:,} s from now, which relays take"
            " for the latest; it puts what comes now at other addresses"
        )

    def forget_copies(self, kept: tuple[str, ...]) -> None:
        """Know nothing more of what relays have, but these fields."""
        self.content["relays"] = {
            url: {**UNKNOWN_RELAY, **{name: about[name] for name in kept if name in about}}
            for url, about in self.content["relays"].items()
        }

    def want_root(self, agent: str, after: int = 0) -> None:
        """Have a new root signed for an agent (hex), later than what is there."""
        self.content["wants"] = sorted({*self.content["wants"], agent})
        self.know_root(agent, after)

    def know_root(self, agent: str, time: int) -> None:
        """Note that an agent (hex) has a root of that time; an older one counts no more.

        One that a wrong clock has made counts for the relay alone that has it.
        """
        if not is_far(time):
            self.content["roots"][agent] = max(self.content["roots"].get(agent, 0), time)

    def note_root(self, agent: str, event: dict[str, Any], is_sent: bool) -> None:
        """Note what an agent's latest root is, as far as is known, and whether we have sent it."""
        self.know_root(agent, event["created_at"])
        if self.content["roots"].get(agent) == event["created_at"]:
            self.content["latest"][agent] = event
        if is_sent:
            self.content["put"] = [*({*self.content["put"]} - {event["id"]}), event["id"]][-SENT:]

    def relay(self, url: str) -> dict[str, Any]:
        """What is known of a relay."""
        return {**UNKNOWN_RELAY, **self.content["relays"].get(url, {})}

    def see(self, head: str) -> None:
        """Note that a head has nothing new."""
        self.content["seen"] = [*(each for each in self.content["seen"] if each != head), head]
        self.content["seen"] = self.content["seen"][-SEEN:]


def is_far(made: int) -> bool:
    """Whether a time is yet to come, by more than clocks differ."""
    return made > time.time() + FAR


@context
def change_progress(places: Places) -> Iterator[ReplicaProgress]:
    """The progress, to be changed by nobody else meanwhile, and written at the end of a `with`."""
    with hold_lock(places, "replica.lock"):
        progress = ReplicaProgress.load(places)
        before = json.dumps(progress.content)
        yield progress
        if json.dumps(progress.content) != before:
            write_file(places.own(PROGRESS), encode_file("replica", progress.content))


def note_relay(places: Places, url: str, **changes: Any) -> None:
    """Note something of one relay."""
    with change_progress(places) as progress:
        progress.content["relays"][url] = {**progress.relay(url), **changes}


class Outbox:
    """What is to be on relays: events that the keyholder has signed. They need no open vault."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.hash = str(content.get("hash") or "")
        self.machine = str(content.get("machine") or "")
        self.author = str(content.get("author") or "")
        self.agent = str(content.get("agent") or "")
        self.names: dict[str, str] = content.get("names") or {}  # of the roots of all its agents
        # what each of those before has said of who takes its place
        self.statements: dict[str, str] = content.get("statements") or {}
        self.operator = str(content.get("operator") or "")
        self.relays: list[str] = list(content.get("relays") or [])
        self.slots: list[list[dict[str, Any]]] = content.get("slots") or [[], []]
        self.roots: dict[str, dict[str, Any]] = content.get("roots") or {}

    @staticmethod
    def load(places: Places) -> Outbox:
        """What is written there; where that cannot be read, nothing."""
        try:
            found = json.loads(read_file(places.own(OUTBOX), OUTBOX_LIMIT))
            return Outbox(found if isinstance(found, dict) else {})
        except (AvaultError, ValueError, RecursionError):
            return Outbox({})

    def latest(self) -> int:
        """The latest time that a copy in it has."""
        return max((int(slot[-1]["created_at"]) for slot in self.slots if slot), default=0)

    def save(self, places: Places) -> None:
        """Write it; raises AvaultError."""
        write_file(places.own(OUTBOX), json.dumps(vars(self)).encode())
