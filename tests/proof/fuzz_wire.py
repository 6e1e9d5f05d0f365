"""A keyholder in this process, fed by a fuzzer that is guided by what of avault.py it reaches (atheris, libFuzzer).

    fuzz_wire.py VAULT MARK REPORT [libFuzzer's options]      the agent's nsec comes by stdin

Each input is a connection: whole, half and false frames, cut into pieces anywhere, for an open vault or a locked one. It goes
through `Supervisor.first_frame`, `Frames`, `decode_frame`, `Session` and `Reception.answer`, as in the daemon; only the
phone is not there, and nothing waits for the disk. What must never be is an assertion, which ends the run.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["avault"]):
    import avault

    avault.Session, avault.nostr_sdk.Keys  # noqa: B018  imported now, not in the first input
from hostile import READS, WRITES, faults, frame, message

directory, mark, report = sys.argv[1:4]
counts = dict.fromkeys(("inputs", "frames", "answers"), 0)
os.fsync = lambda fd: None
avault.AccessLog.FILES = (
    ("access.log", 1 << 15, 4),
    ("refused.log", 1 << 15, 1),
)  # to look through it takes the time that it is long


class Bytes:
    """Choices by the fuzzer's bytes; when they are used up, the lowest."""

    def __init__(self, data: bytes) -> None:
        self.data = atheris.FuzzedDataProvider(data)

    def number(self, low: int, high: int) -> int:
        return int(self.data.ConsumeIntInRange(low, high))

    def some(self, size: int) -> bytes:
        return bytes(self.data.ConsumeBytes(self.number(0, size)))


class Wire:
    """The client's end of a session: a transport whose every frame is looked at."""

    def __init__(self, hear: Callable[[dict[str, Any]], None]) -> None:
        self.hear, self.closed, self.paused = hear, False, False

    def write(self, data: bytes) -> None:
        assert int.from_bytes(data[:4], "big") == len(data) - 4
        self.hear(json.loads(data[4:]))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def set_write_buffer_limits(self, high: int) -> None:
        assert high == avault.MAX_FRAME


async def at_once(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


async def unreachable(signer: avault.RemoteSigner) -> None:
    raise avault.Unavailable("no relay, in here")


class Target:
    """The keyholder, and what is done to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.places = loop, avault.Places(directory)
        self.ours, theirs = socket.socketpair()
        self.keyholder = avault.Keyholder(self.places, theirs, (None, None))
        self.reception = avault.Reception(self.keyholder, avault.TALKS, avault.REQUESTS)
        content, _ = avault.read_unlock(self.places)
        keys = avault.parse_keys(sys.stdin.read())
        self.store = avault.Store.load(self.places, keys, content)
        self.keyholder.holding.begin(self.store, content, "fuzz", is_new=True)
        self.log = self.keyholder.holding.log
        Path(self.places.own("copy.enc")).write_bytes(Path(self.places.file("avault.enc")).read_bytes())
        Path(self.places.own("bad.enc")).write_bytes(b"AgA\n")
        self.op: object = None

    def refill(self) -> None:
        """The vault as at first, if it is not."""

        def change(vault: avault.Vault) -> None:
            for group in list(vault.groups):
                vault.remove(group, None)
            for key in ("B", "C"):
                vault.put("a", key, f"{mark}-{key}", 1, self.store.machine)

        groups = self.store.vault.groups
        if len(groups) > 20 or not {"B", "C"} <= set(groups["a"].keys if "a" in groups else ()):
            assert self.store.write([change]) == [None]

    def answer(self, session: avault.Session, request: dict[str, Any]) -> Any:
        self.op = request.get("op")
        counts["frames"] += 1
        return self.reception.answer(session, request)

    def hear(self, answer: dict[str, Any]) -> None:
        """Look at what the client gets; it is for the request that came last."""
        counts["answers"] += 1
        assert not (wrong := faults(answer, self.op, mark, bool(self.keyholder.holding.store))), (
            wrong,
            self.op,
            str(answer)[:300],
        )

    async def first(self, stream: bytes) -> dict[str, Any] | None:
        """What the supervisor makes of a connection's first bytes; it must leave all that follow them."""
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            sent = here.send(stream[:60_000]) if stream else 0
            here.shutdown(socket.SHUT_WR)
            there.setblocking(False)
            try:
                found = await avault.Supervisor.first_frame(None, there)  # type: ignore[arg-type]
            except avault.Usage:
                return None
            if found is not None:
                size = 4 + int.from_bytes(stream[:4], "big")
                assert found == json.loads(stream[4:size]) or str(found) == str(json.loads(stream[4:size]))  # NaN
                rest = there.recv(1 << 20) if size < sent else b""
                assert rest == stream[size:sent]
            return found

    async def connect(self, choice: Bytes) -> None:
        """One connection, from its first frame to its end."""
        self.keyholder.holding.store = self.store if choice.number(0, 3) else None
        ops = [*READS, *WRITES, *READS, *avault.SESSIONS, *avault.DOOR, "", "__init__"]
        stream = b""
        for _ in range(choice.number(1, 12)):
            kind = choice.number(0, 39)
            if kind == 0:
                stream += choice.some(40)
            elif kind == 1:
                stream += frame(choice.some(60))
            elif kind == 2:
                stream += frame(choice.some(10), choice.number(0, 1 << 32) & 0xFFFFFFFF)
            elif kind == 3:
                deep = choice.number(1, 3_000)
                stream += frame(b'{"v": 1, "x": ' + b"[" * deep + b"]" * choice.number(deep - 1, deep) + b"}")
            else:
                stream += frame(message(choice, ops, self.places.id))
        found = await self.first(stream)
        if found is None:
            found, stream = {"v": 1, "vault": self.places.id, "op": "has", "group": "a"}, frame({}) + stream
        wire = Wire(self.hear)
        session = avault.Session(found, self.answer, self.reception.settle, self.reception.sessions, 0.0)
        session.caller = {"pid": 0, "uid": 0, "exe": None, "parent": None}
        session.connection_made(wire)
        rest = stream[4 + int.from_bytes(stream[:4], "big") :]
        while rest and not wire.closed:
            size = choice.number(0, len(rest)) or len(rest)
            if choice.number(0, 9) == 9:
                session.pause_writing()
            session.data_received(rest[:size])
            rest = rest[size:]
            await asyncio.sleep(0)
            if session.inflow.is_paused:
                session.resume_writing()
        for _ in range(1_000):
            if not session.task or session.awaited:
                break
            await asyncio.sleep(0)
        if not wire.closed:
            session.eof_received()
            while session.task and not wire.closed:
                await asyncio.sleep(0)
            assert wire.closed, "a session stays, though nothing more will come"
        await asyncio.sleep(0)
        session.connection_lost(None)
        while session.task and not session.task.done():
            await asyncio.sleep(0)
        assert not self.reception.sessions and not self.keyholder.unlocking.talking
        self.ours.setblocking(False)
        try:
            while self.ours.recv(1 << 20):
                pass
        except BlockingIOError:
            self.keyholder.holding.store = self.store

    def __call__(self, data: bytes) -> None:
        counts["inputs"] += 1
        self.refill()
        self.loop.run_until_complete(self.connect(Bytes(data)))
        if counts["inputs"] % 100 == 0:
            Path(report).write_text(json.dumps(counts))


async def make() -> Target:
    return Target(asyncio.get_running_loop())


avault.asyncio.to_thread = at_once  # type: ignore[assignment]
avault.RemoteSigner.open = unreachable  # type: ignore[method-assign]
loop = asyncio.new_event_loop()
target = loop.run_until_complete(make())
target.refill()
target(b"")
atheris.Setup([sys.argv[0], *sys.argv[4:]], target, enable_python_coverage=True)
atheris.Fuzz()
