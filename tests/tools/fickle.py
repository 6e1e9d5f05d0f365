"""A relay in a thread of the test's: it keeps what relays keep (NIP-01), but for the faults that it is told to have.

    with Fickle() as relay:
        relay.fault = {"drop": {2}}        # of the events that it is sent, the third is accepted and not kept
        relay.events                       # what it has, by address

`drop`: accepted, and not kept. `refuse`: {number: what it says}. `cut`: it hangs up in place of an answer; `keep_cut`: it
keeps the event, and hangs up. `silent`: no answer. Numbers count from when the fault is set. `answer` changes what a REQ is
answered with, and where it does not `ends`, nothing says that this was all; `on_event` is called for each event, before
anything else. With a `challenge` it wants to know who asks (NIP-42): `introduced` is what it was told, by connection.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

Event = dict[str, Any]


def address(event: Event) -> tuple[str, int, str]:
    """Where an addressable event is kept."""
    return event["pubkey"], event["kind"], next((tag[1] for tag in event["tags"] if tag[0] == "d"), "")


def matches(event: Event, wanted: dict[str, Any]) -> bool:
    """Whether an event is one that a filter asks for (NIP-01)."""
    for name, values in wanted.items():
        if name == "ids" and event["id"] not in values:
            return False
        if name == "authors" and event["pubkey"] not in values:
            return False
        if name == "kinds" and event["kind"] not in values:
            return False
        if name.startswith("#") and not any(tag[0] == name[1:] and tag[1] in values for tag in event["tags"]):
            return False
    return True


class Fickle:
    """See above. `received` are all events that it was sent, in order."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, int, str], Event] = {}
        self.received: list[Event] = []
        self.reset()
        self.ends = True
        self.on_event: Callable[[Event], None] = lambda event: None
        self.answer: Callable[[list[Event]], list[Event]] = lambda events: events
        self.challenge = ""
        self.introduced: list[list[Event]] = []
        self.lock = threading.Lock()
        self.server = serve(self.talk, "127.0.0.1", 0, max_size=1 << 20)
        self.url = f"ws://127.0.0.1:{self.server.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def reset(self, **fault: Any) -> None:
        """Have other faults, or none."""
        self.fault, self.count = fault, 0

    def talk(self, connection: ServerConnection) -> None:
        told: list[Event] = []
        try:
            if self.challenge:
                self.introduced.append(told)
                connection.send(json.dumps(["AUTH", self.challenge]))
            for text in connection:
                kind, *rest = json.loads(text)
                if kind == "AUTH":
                    told.append(rest[0])
                    connection.send(json.dumps(["OK", rest[0]["id"], True, ""]))
                elif self.challenge and not told and kind == "EVENT":
                    connection.send(json.dumps(["OK", rest[0]["id"], False, "auth-required: who are you?"]))
                elif self.challenge and not told and kind == "REQ":
                    connection.send(json.dumps(["CLOSED", rest[0], "auth-required: who are you?"]))
                elif kind == "EVENT":
                    if not self.take(connection, rest[0]):
                        return
                elif kind == "REQ":
                    with self.lock:
                        found = [event for event in self.events.values() if any(matches(event, each) for each in rest[1:])]
                    for event in self.answer(found):
                        connection.send(json.dumps(["EVENT", rest[0], event]))
                    if self.ends:
                        connection.send(json.dumps(["EOSE", rest[0]]))
        except ConnectionClosed:
            pass

    def take(self, connection: ServerConnection, event: Event) -> bool:
        """Take an event, or not; whether the connection stays."""
        self.on_event(event)
        with self.lock:
            number, self.count = self.count, self.count + 1
            self.received.append(event)
            if number in self.fault.get("cut", ()):
                return False
            if number in self.fault.get("refuse", {}):
                connection.send(json.dumps(["OK", event["id"], False, self.fault["refuse"][number]]))
                return True
            if number not in self.fault.get("drop", ()):
                self.keep(event)
            if number in self.fault.get("keep_cut", ()):
                return False
        if number not in self.fault.get("silent", ()):
            connection.send(json.dumps(["OK", event["id"], True, ""]))
        return True

    def keep(self, event: Event) -> None:
        """Keep it, unless a later one is there; of equal ones the lower id."""
        there = self.events.get(address(event))
        if not there or (-there["created_at"], there["id"]) > (-event["created_at"], event["id"]):
            self.events[address(event)] = event

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
