"""Writers and readers of one vault, a thread each, until they are told to stop; and the journal of what they saw.

The first line of stdin says who: {"vault", "runtime", "mark", "writers", "shared", "keys", "pause", "hold", "journal"}.
While there is a file `hold`, nobody writes; when stdin ends, all end. A line of the journal is one of

    {"did": "set", "key": "w3/OWN", "what": "3.17", "begun": 12.5, "ended": 12.6, "known": true}   ("what" is null in a delete)
    {"did": "get", "key": "w3/OWN", "what": "3.17", "begun": 12.7, "ended": 12.8}       ("what" is null where nothing was found)
    {"did": "refused", "why": "locked"}             a client that is to try again
    {"did": "wrong", "why": "…"}                    what must not happen

A write whose connection ended without an answer is not `known`. Times are CLOCK_MONOTONIC, one clock for all processes.
"""

import contextlib
import json
import os
import random
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from test_wire import Client, as_frame

import avault

PASSING = {"locked", "unavailable", "tampered"}  # what a client may be told while somebody locks, stops, starts and pulls
LONG = 20_000  # bytes that every sixteenth writer's value has more, so that the vault has several parts


class Refused(Exception):
    """The daemon said no, or is not there: nothing was done."""


class Ended(Exception):
    """The connection ended without an answer: nobody knows what was done."""


class Crowd:
    """Those who write and read in this process."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.machine = job, SimpleNamespace(vault=job["vault"], runtime=Path(job["runtime"]))
        self.over = threading.Event()
        self.journal = open(job["journal"], "a", buffering=1)
        self.lock = threading.Lock()

    def note(self, **line: Any) -> None:
        with self.lock:
            self.journal.write(json.dumps(line) + "\n")

    def run(self) -> None:
        members = [(self.write, name) for name in self.job["writers"]] + [(self.read, name) for name in self.job["writers"]]
        threads = [threading.Thread(target=self.repeat, args=member) for member in members]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        self.over.set()
        for thread in threads:
            thread.join()
        self.journal.close()

    def repeat(self, act: Any, name: int) -> None:
        """Act again and again, on a connection that is kept while it lasts."""
        member = Member(self, name)
        while not self.over.is_set():
            try:
                act(member)
                self.over.wait(member.chance.uniform(0, self.job["pause"]))
            except Refused as refused:
                self.note(did="refused", why=str(refused))
                self.over.wait(member.chance.uniform(0.05, 0.2))
            except Exception as error:  # whatever it is, it is told, and the test fails
                self.note(did="wrong", why=f"{type(error).__name__}: {error}")
                return
        member.leave()

    def write(self, member: "Member") -> None:
        """Set a key of one's own, delete it, or set one that all others set too."""
        if os.path.exists(self.job["hold"]):
            time.sleep(0.01)
            return
        chance = member.chance.random()
        member.number += 1
        group, key = ("shared", member.chance.choice(self.job["shared"])) if chance < 0.3 else (f"w{member.name}", "OWN")
        what = None if chance > 0.9 else f"{member.name}.{member.number}"
        begun = time.monotonic()
        known = True
        try:
            member.ask(group, key, what)
        except Ended:
            known = False
        ended = time.monotonic()
        self.note(did="set", key=f"{group}/{key}", what=what, begun=begun, ended=ended, known=known)

    def read(self, member: "Member") -> None:
        """Get a key, or a whole group; over the kept connection, a new one, or by the module's own function."""
        group, _, key = member.chance.choice(self.job["keys"]).partition("/")
        way = member.chance.randrange(4)
        begun = time.monotonic()
        try:
            if way == 0:
                found = {key: member.get_by_function(group, key)}
            else:
                if way == 1:
                    member.leave()
                found = member.get(group, None if way == 2 else key)
        except Ended:
            raise Refused("the connection ended") from None
        ended = time.monotonic()
        for name in self.job["shared"] if way == 2 and group == "shared" else [key]:
            what = self.shown(f"{group}/{name}", found.get(name))
            self.note(did="get", key=f"{group}/{name}", what=what, begun=begun, ended=ended)

    def shown(self, key: str, value: str | None) -> str | None:
        """Which write made a value; a value that no write can have made is wrong."""
        if value is None:
            return None
        what = value.removeprefix(self.job["mark"] + "-").partition(" ")[0]
        assert value == text(self.job["mark"], what), f"{key} has a mixture, of {what}"
        return what


def text(mark: str, what: str) -> str:
    """The value with which a write is known again, whole."""
    writer, _, number = what.partition(".")
    length = int(number) % 300 + (LONG if writer.isdigit() and int(writer) % 16 == 0 else 0)
    return f"{mark}-{what} " + f"{number}," * (length // 4)


class Member:
    """One writer or reader, and its connection."""

    def __init__(self, crowd: Crowd, name: int) -> None:
        self.crowd, self.name, self.number = crowd, name, 0
        self.chance = random.Random()
        self.client: Client | None = None

    def leave(self) -> None:
        if self.client:
            self.client.socket.close()
        self.client = None

    def send(self, op: str, **fields: Any) -> dict[str, Any]:
        """The first answer; raises Refused where nothing can have been done, and Ended."""
        try:
            if not self.client:
                self.client = Client(self.crowd.machine)  # type: ignore[arg-type]
                self.client.socket.settimeout(100)  # many wait beside it
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:
            raise Refused(type(error).__name__) from None
        return self.receive(self.client.frame(op, **fields))

    def receive(self, frame: bytes) -> dict[str, Any]:
        assert self.client
        answer = None
        with contextlib.suppress(ConnectionError):
            self.client.socket.sendall(frame)
            answer = self.client.receive()
        if answer is None:
            self.leave()
            raise Ended
        if not answer["ok"] and answer["error"]["code"] in PASSING:
            self.leave()
            raise Refused(answer["error"]["code"])
        return answer

    def ask(self, group: str, key: str, what: str | None) -> None:
        """Write; None deletes."""
        if what is None:
            answer = self.send("delete", group=group, key=key)
            assert answer["ok"] or answer["error"]["code"] == "not_found", answer
        else:
            assert self.send("set", group=group, key=key) == {"ok": True, "ready": True}
            answer = self.receive(as_frame({"value": text(self.crowd.job["mark"], what)}))
            assert answer in ({"ok": True}, {"ok": True, "replaced": True}), answer

    def get(self, group: str, key: str | None) -> dict[str, str]:
        answer = self.send("get", group=group, key=key)
        if not answer["ok"]:
            assert answer["error"]["code"] == "not_found", answer
            return {}
        assert "conflicts" not in answer, group
        return {answer["key"]: answer["value"]} if key else dict(answer["values"])

    def get_by_function(self, group: str, key: str) -> str | None:
        try:
            return avault.get(group, key)
        except avault.NotFound:
            return None
        except (avault.Locked, avault.Unavailable) as error:
            raise Refused(error.code) from None


if __name__ == "__main__":
    Crowd(json.loads(sys.stdin.readline())).run()
