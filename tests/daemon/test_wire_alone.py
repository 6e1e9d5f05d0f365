"""The socket protocol's parts without a process: frames, the control stream, a session, and a client whose daemon fails it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import avault

Message = dict[str, Any]


# Frames


def test_frames_come_out_as_they_went_in_however_they_are_cut() -> None:
    messages: list[Message] = [{"a": 1}, {}, {"b": "é" * 300}]
    stream = b"".join(avault.encode_frame(each) for each in messages)
    for size in (1, 3, 4, 5, len(stream)):
        frames, found = avault.Frames(), []
        for start in range(0, len(stream), size):
            frames.feed(stream[start : start + size])
            while (data := frames.next()) is not None:
                found.append(avault.decode_frame(data))
        assert found == messages and frames.next() is None and not frames.buffer


def test_the_longest_frame_and_one_byte_more() -> None:
    frames = avault.Frames(limit=10)
    frames.feed((10).to_bytes(4, "big") + b"x" * 10)
    assert frames.next() == b"x" * 10
    frames.feed((11).to_bytes(4, "big"))
    with pytest.raises(avault.Usage, match="a frame of 11 bytes; the limit is 10"):
        frames.next()


@pytest.mark.parametrize("kind", ['{"x":@}', "[@]"])
def test_how_deep_a_frame_is_nested_is_not_left_to_the_stack(kind: str) -> None:
    """The supervisor passes a frame on, and the keyholder has less room for it."""

    def nest(levels: int) -> bytes:
        text = "0"
        for _ in range(levels - 1):
            text = kind.replace("@", text)
        return b'{"op":"get","also":["{[{["],"x":' + text.encode() + b"}"

    assert avault.decode_frame(nest(avault.NESTED))["op"] == "get"
    with pytest.raises(avault.Usage, match="nested too deep"):
        avault.decode_frame(nest(avault.NESTED + 1))


@pytest.mark.parametrize("data", [b"", b"x", b"[]", b"1", b"null", b'"x"', b"\xff", b"[" * 100_000, b'{"a": 1} x'])
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(avault.Usage, match="not a JSON object"):
        avault.decode_frame(data)


@pytest.mark.parametrize(
    ("given", "limit"),
    [({}, None), ({"timeout": None}, None), ({"timeout": "5"}, None)]
    + [({"timeout": number}, seconds) for number, seconds in ((5, 5.0), (-1, 0.0), (1e300, 1e9), (float("nan"), 0.0))],
)
def test_how_long_a_request_may_take(given: Message, limit: float | None) -> None:
    assert avault.read_limit(given) == limit


async def test_work_beside_is_held_while_it_runs() -> None:
    tasks: set[asyncio.Task[None]] = set()
    avault.spawn(tasks, asyncio.sleep(0))
    [task] = tasks
    await task
    await asyncio.sleep(0)
    assert not tasks


# The stream between the two processes


class Ends:
    """A control stream, both ends in this process; what each took, and how often it was lost."""

    def __init__(self) -> None:
        self.got: dict[int, list[tuple[Message, int | None]]] = {0: [], 1: []}
        self.lost = [0, 0]
        self.sides = [self.end(number, sock) for number, sock in enumerate(socket.socketpair())]

    def end(self, number: int, sock: socket.socket) -> avault.Control:
        def lost() -> None:
            self.lost[number] += 1

        return avault.Control(sock, lambda message, fd: self.got[number].append((message, fd)), lost)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_messages_and_descriptors_stay_together_and_in_order() -> None:
    ends = Ends()
    pipes = [os.pipe() for _ in range(40)]
    for number, (start, end) in enumerate(pipes):
        os.write(end, b"%d" % number)
        ends.sides[0].send({"n": number}, start if number % 3 else None)
        os.close(end)
    await until(lambda: len(ends.got[1]) == len(pipes))
    for number, (message, fd) in enumerate(ends.got[1]):
        assert message["n"] == number and (fd is not None) == bool(number % 3) == ("fd" in message)
        if fd is not None:
            assert os.read(fd, 9) == b"%d" % number
            os.close(fd)
    for start, _ in pipes:
        os.close(start)
    for side in ends.sides:
        side.close()


async def test_a_full_stream_waits_and_loses_nothing() -> None:
    ends = Ends()
    big = "x" * 300_000
    for number in range(8):
        ends.sides[0].send({"n": number, "big": big})
    assert ends.sides[0].queue, "the stream took all at once"
    await until(lambda: len(ends.got[1]) == 8)
    assert [message["n"] for message, _ in ends.got[1]] == list(range(8)) and not ends.sides[0].queue
    assert not asyncio.get_running_loop().remove_writer(ends.sides[0].sock), "nobody is called whenever it takes more"
    ends.sides[1].close()
    await until(lambda: ends.lost[0])
    assert ends.lost == [1, 1]
    ends.sides[0].close()
    assert ends.lost == [1, 1], "lost once"
    with pytest.raises(avault.Locked, match="locked meanwhile"):
        ends.sides[0].send({"n": 9})


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


async def test_closing_closes_what_was_not_handed_over() -> None:
    ends = Ends()
    start, end = os.pipe()
    ends.sides[0].queue = [(b"x", os.dup(start)), (b"y", None)]
    ends.sides[0].fds = [os.dup(start), -1]
    kept = [ends.sides[0].queue[0][1], ends.sides[0].fds[0]]
    ends.sides[0].close()
    assert not any(is_open(fd) for fd in kept if fd is not None) and is_open(start)
    ends.sides[1].close()
    os.close(start)
    os.close(end)


async def test_no_descriptor_is_left_of_one_that_was_handed_over() -> None:
    ends = Ends()
    before = len(os.listdir("/dev/fd"))
    start, end = os.pipe()
    ends.sides[0].send({}, start)
    await until(lambda: ends.got[1])
    for fd in (start, end, ends.got[1][0][1]):
        os.close(fd or -1)
    assert len(os.listdir("/dev/fd")) == before
    for side in ends.sides:
        side.close()


async def test_an_end_that_is_closed_is_watched_no_more() -> None:
    ends = Ends()
    ends.sides[0].send({"big": "x" * 3_000_000})
    numbers = [side.sock.fileno() for side in ends.sides]
    assert ends.sides[0].queue, "the stream took all at once"
    for side in ends.sides:
        side.close()
    loop = asyncio.get_running_loop()
    assert not any(loop.remove_reader(number) or loop.remove_writer(number) for number in numbers)


async def test_too_many_descriptors_under_way_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = Ends()
    real, refused = socket.send_fds, []

    def send(*arguments: Any) -> int:
        if len(refused) < 2:
            refused.append(1)
            raise OSError(avault.errno.ETOOMANYREFS, "")
        return real(*arguments)

    monkeypatch.setattr(socket, "send_fds", send)
    ends.sides[0].send({"n": 1})
    await until(lambda: ends.got[1])
    assert ends.lost == [0, 0] and len(refused) == 2
    for side in ends.sides:
        side.close()


async def test_the_last_words_of_one_that_has_gone_are_heard_though_it_takes_no_more() -> None:
    """Who sends to it meanwhile learns that first; what it has written, and not what is sent to it, comes out."""
    ends = Ends()
    start, end = os.pipe()
    ends.sides[1].send({"n": 1})
    ends.sides[1].send({"wrote": True}, start)
    ends.sides[1].close()
    before = len(os.listdir("/dev/fd"))
    for _ in range(2):
        ends.sides[0].send({"do": "connection"}, end)
    assert len(os.listdir("/dev/fd")) == before and ends.sides[0].is_over
    await until(lambda: ends.lost[0])
    assert [message for message, _ in ends.got[0]] == [{"n": 1}, {"wrote": True, "fd": True}] and ends.lost == [1, 1]
    for fd in (start, end, ends.got[0][1][1]):
        os.close(fd or -1)
    with pytest.raises(avault.Locked):
        ends.sides[0].send({"n": 2})


async def test_an_end_that_cannot_be_read_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = Ends()

    def fail(*_: Any) -> None:
        raise BlockingIOError

    with monkeypatch.context() as patched:
        patched.setattr(socket, "recv_fds", fail)
        ends.sides[1].readable()
        assert ends.lost == [0, 0]

    def reset(*_: Any) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(socket, "recv_fds", reset)
    ends.sides[1].readable()
    assert ends.lost == [0, 1]
    ends.sides[0].close()


# A session


class Wire:
    """What asyncio gives a protocol to write to; here it keeps what is written."""

    def __init__(self) -> None:
        self.written, self.closed, self.aborted, self.reading, self.high = bytearray(), False, False, True, 0

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Talk:
    """A session of a client that asks `first`; `answer` answers."""

    def __init__(self, answer: Callable[..., Any], first: Message | None = None, grant: avault.Grant | None = None) -> None:
        self.wire, self.settled = Wire(), 0
        self.sessions: dict[avault.Session, None] = {}
        self.session = avault.Session(first or {"op": "first"}, answer, self.settle, self.sessions, 0.0, grant)
        self.session.connection_made(self.wire)

    def settle(self) -> None:
        self.settled += 1

    def say(self, *messages: Message) -> None:
        self.session.data_received(b"".join(avault.encode_frame(each) for each in messages))

    @property
    def said(self) -> list[Message]:
        frames, found = avault.Frames(), []
        frames.feed(bytes(self.wire.written))
        while (data := frames.next()) is not None:
            found.append(avault.decode_frame(data))
        return found


def echo(session: avault.Session, request: Message) -> Message:
    return {"ok": True, "op": request["op"]}


class Slow:
    """Answers requests named "slow" when it is told to, others at once."""

    def __init__(self) -> None:
        self.go, self.cancelled = asyncio.Event(), False

    def __call__(self, session: avault.Session, request: Message) -> Message | Coroutine[Any, Any, Message]:
        return self.work(request) if request["op"] in ("slow", "pair") else echo(session, request)

    async def work(self, request: Message) -> Message:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return {"ok": True, "op": request["op"]}


async def test_requests_are_answered_in_order_and_one_that_takes_time_holds_the_next() -> None:
    slow = Slow()
    talk = Talk(slow)
    assert talk.wire.high == avault.MAX_FRAME and [*talk.sessions] == [talk.session]
    talk.say({"op": "second"}, {"op": "slow"}, {"op": "last"})
    assert [each["op"] for each in talk.said] == ["first", "second"]
    slow.go.set()
    await until(lambda: len(talk.said) == 4)
    assert [each["op"] for each in talk.said] == ["first", "second", "slow", "last"]
    assert talk.settled == 1 and not talk.wire.closed and talk.session.inflow.stall.timer is None
    talk.session.connection_lost(None)
    assert not talk.sessions


@pytest.mark.parametrize("slowly", [True, False])
async def test_an_error_is_an_answer_and_says_nothing_that_it_carries(slowly: bool) -> None:
    def fail(session: avault.Session, request: Message) -> Any:
        async def work() -> Message:
            return fail_now()

        return work() if slowly else fail_now()

    def fail_now() -> Message:
        raise ValueError("a secret")

    talk = Talk(fail)
    await until(lambda: talk.said)
    [answer] = talk.said
    assert answer["ok"] is False and answer["error"]["message"] == "avault failed: ValueError"
    assert "a secret" not in json.dumps(answer) and not talk.wire.closed


async def test_a_request_may_ask_for_one_more_frame() -> None:
    async def work(session: avault.Session) -> Message:
        return {"ok": True, "got": await session.frame()}

    talk = Talk(lambda session, request: work(session) if request["op"] == "set" else echo(session, request))
    talk.say({"op": "set"})
    await until(lambda: len(talk.said) == 2)
    assert talk.said[1] == {"ok": True, "ready": True}
    talk.say({"value": "x"}, {"op": "after"})
    await until(lambda: len(talk.said) == 4)
    assert talk.said[2:] == [{"ok": True, "got": {"value": "x"}}, {"ok": True, "op": "after"}]


async def test_what_is_no_frame_ends_the_connection() -> None:
    talk = Talk(echo)
    talk.session.data_received((3).to_bytes(4, "big") + b"[1]")
    assert talk.wire.closed and talk.said[1]["error"]["code"] == "usage"
    talk = Talk(echo)
    talk.session.data_received((avault.MAX_FRAME + 1).to_bytes(4, "big"))
    assert talk.wire.closed and "the limit" in talk.said[1]["error"]["message"]
    talk.session.send({"late": True})
    assert len(talk.said) == 2, "nothing is written to a connection that closes"
    asked: list[str] = []
    talk = Talk(lambda session, request: asked.append(request["op"]) or echo(session, request))
    talk.session.data_received((3).to_bytes(4, "big") + b"[1]" + avault.encode_frame({"op": "behind it"}))
    talk.say({"op": "later"})
    assert asked == ["first"], "nor is done what comes on it"


async def test_one_frame_is_received_and_no_byte_of_what_follows() -> None:
    """The next reader of the socket, which may be another process, finds the next frame."""
    frame = avault.encode_frame({"op": "x"})
    for limit, sent, found in (
        (len(frame) - 4, frame + b"next", frame[4:]),
        (len(frame) - 4, (0).to_bytes(4, "big") + b"next", b""),
        (len(frame) - 4, frame[:-1], None),
        (len(frame) - 4, frame[:2], None),
    ):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            received = asyncio.create_task(avault.receive_frame(ours, limit))
            for byte in sent:
                theirs.send(bytes([byte]))
                await asyncio.sleep(0)
            theirs.shutdown(socket.SHUT_WR)
            assert await received == found
            assert ours.recv(9) == (b"" if found is None else b"next")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(frame)
        with pytest.raises(avault.Usage, match=f"the limit is {len(frame) - 5}"):
            await avault.receive_frame(ours, len(frame) - 5)


async def test_half_a_frame_is_waited_for_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault.Stall, "TIME", 0.05)
    talk = Talk(echo)
    talk.session.data_received(avault.encode_frame({"op": "x"})[:6])
    assert talk.session.inflow.stall.timer and not talk.wire.aborted
    talk.session.data_received(avault.encode_frame({"op": "x"})[6:])
    assert talk.session.inflow.stall.timer is None
    await asyncio.sleep(0.1)
    assert not talk.wire.aborted and len(talk.said) == 2
    talk.session.data_received(b"\0")
    await until(lambda: talk.wire.aborted)
    gone = Talk(echo)
    gone.session.data_received(b"\0")
    gone.session.connection_lost(None)
    await asyncio.sleep(0.1)
    assert not gone.wire.aborted


async def test_a_held_frame_is_no_stalled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    talk = Talk(slow, {"op": "slow"})
    talk.session.data_received(b"\0")
    assert talk.session.inflow.stall.timer is None
    slow.go.set()
    await until(lambda: talk.said)
    assert talk.session.inflow.stall.timer
    talk.session.connection_lost(None)


async def test_a_client_that_sends_without_end_is_cut_off() -> None:
    slow = Slow()
    talk = Talk(slow, {"op": "slow"})
    talk.session.data_received(bytes(2 * avault.MAX_FRAME))
    assert not talk.wire.aborted
    talk.session.data_received(b"\0")
    assert talk.wire.aborted
    talk.session.connection_lost(None)


async def test_who_has_sent_all_and_reads_slowly_is_answered_to_the_end() -> None:
    talk = Talk(echo)
    talk.session.pause_writing()
    talk.say({"op": "one"}, {"op": "two"})
    talk.session.eof_received()
    assert len(talk.said) == 1 and not talk.wire.closed
    talk.session.resume_writing()
    assert [each["op"] for each in talk.said] == ["first", "one", "two"] and talk.wire.closed


async def test_through_a_grant_one_frame_is_answered_in_a_turn_of_the_loop() -> None:
    """Who sends many at once keeps nobody else waiting."""
    talk, other = Talk(echo, grant=avault.Grant("web", ["a"], [], ["get"])), Talk(echo)
    for _ in range(3):
        talk.say(*({"op": "has"} for _ in range(100)))
    talk.session.eof_received()
    assert len(talk.said) <= 4, "as many as it was called, and its first"
    for turn in range(1, 4):
        before = len(talk.said)
        await asyncio.sleep(0)
        other.say({"op": "has"})
        assert len(talk.said) <= before + 1 and len(other.said) == turn + 1
    await until(lambda: len(talk.said) == 301 and talk.wire.closed)
    assert not talk.wire.aborted
    for each in (talk, other):
        each.session.connection_lost(None)


async def test_through_a_grant_little_is_kept() -> None:
    made, most = avault.Grant("web", ["a"], [], ["get"]), 1 << 18
    talk = Talk(Slow(), {"op": "slow"}, grant=made)
    assert talk.wire.high == most
    talk.session.data_received(bytes(2 * most))
    assert not talk.wire.aborted
    talk.session.data_received(b"\0")
    assert talk.wire.aborted
    talk.session.connection_lost(None)
    talk = Talk(echo, grant=made)
    talk.session.data_received((most + 1).to_bytes(4, "big"))
    assert "the limit is 262,144" in talk.said[-1]["error"]["message"] and talk.wire.closed
    talk.session.connection_lost(None)


async def test_a_client_that_does_not_read_is_asked_no_more() -> None:
    talk = Talk(echo)
    talk.session.pause_writing()
    assert not talk.wire.reading
    talk.say({"op": "x"})
    assert len(talk.said) == 1
    talk.session.resume_writing()
    assert talk.wire.reading and len(talk.said) == 2


async def test_who_asked_last_is_last_among_the_sessions() -> None:
    """Who was quiet the longest has to go where there are too many."""
    talk = Talk(echo)
    other: Any = object()
    talk.sessions[other] = None
    talk.say({"op": "again"})
    assert list(talk.sessions) == [other, talk.session]
    talk.session.connection_lost(None)


@pytest.mark.parametrize(("op", "stays"), [("slow", True), ("pair", False), ("quick", False)])
async def test_a_client_that_sends_no_more_still_gets_its_answer(op: str, stays: bool) -> None:
    """Unless nobody can want it: a pairing that has lost its person."""
    slow = Slow()
    talk = Talk(slow, {"op": op})
    await asyncio.sleep(0)
    if stays:
        talk.say({"op": "behind it"})
    assert talk.session.eof_received(), "asyncio is not to close it"
    assert talk.wire.closed is not stays
    if stays:
        slow.go.set()
        await until(lambda: talk.wire.closed)
        assert talk.said == [{"ok": True, "op": op}, {"ok": True, "op": "behind it"}]
    talk.session.connection_lost(None)


@pytest.mark.parametrize("early", [True, False], ids=["before it was asked for", "after"])
async def test_a_client_that_leaves_before_the_second_frame_is_waited_for_no_more(early: bool) -> None:
    async def work(session: avault.Session) -> Message:
        return {"ok": True, "got": await session.frame()}

    talk = Talk(lambda session, request: work(session))
    if not early:
        await until(lambda: talk.said)
    talk.session.eof_received()
    await until(lambda: talk.wire.closed)
    talk.session.connection_lost(None)
    await until(lambda: talk.session.task is None)


async def test_a_second_frame_that_is_none_ends_the_request() -> None:
    async def work(session: avault.Session) -> Message:
        return {"ok": True, "got": await session.frame()}

    talk = Talk(lambda session, request: work(session))
    await until(lambda: talk.said)
    talk.session.data_received(b"\0\0\0\1[")
    assert talk.wire.closed and talk.said[-1]["error"]["code"] == "usage"
    talk.session.connection_lost(None)
    await until(lambda: talk.settled)


async def test_what_a_client_asked_for_goes_with_it() -> None:
    slow = Slow()
    talk = Talk(slow, {"op": "slow"})
    await asyncio.sleep(0)
    talk.session.connection_lost(None)
    await until(lambda: slow.cancelled)
    assert talk.settled == 1 and not talk.sessions and not talk.said


# A client whose daemon fails it


class Daemon:
    """A daemon that follows a script: for each connection, what it says after each frame that comes. Then it is gone."""

    def __init__(self, places: avault.Places, *connections: list[list[Message]], stays: float = 0.0) -> None:
        self.connections, self.stays = connections, stays
        self.got: list[Message] = []
        Path(places.socket).parent.mkdir(parents=True, exist_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(places.socket)
        self.listener.listen()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        for script in self.connections:
            connection = self.listener.accept()[0]
            frames = avault.Frames()
            for answers in script:
                while (data := frames.next()) is None and (piece := connection.recv(1 << 16)):
                    frames.feed(piece)
                self.got.append(json.loads(data or b"{}"))
                connection.sendall(b"".join(avault.encode_frame(each) for each in answers))
            if self.stays:
                time.sleep(self.stays)
                self.got.append({"left": True})
            connection.close()
        self.listener.close()


@pytest.fixture
def places(place: Any) -> avault.Places:
    return avault.Places(str(place.home / "vault"))


def test_a_request_and_its_answer(places: avault.Places) -> None:
    daemon = Daemon(places, [[{"progress": "page", "url": "u"}, {"ok": True, "ready": True}], [{"ok": True, "done": 1}]])
    connection, seen = avault.Connection(places), []
    assert connection.request("set", {"value": "v"}, seen.append, group="g") == {"ok": True, "done": 1}
    connection.close()
    assert daemon.got == [{"v": 1, "vault": places.id, "op": "set", "group": "g"}, {"value": "v"}]
    assert seen == [{"progress": "page", "url": "u"}]


def test_an_answer_that_is_an_error(places: avault.Places) -> None:
    for error in avault.ERRORS:
        Daemon(places, [[{"progress": "x"}, error("m", "h").to_dict()]])
        with pytest.raises(error) as refused:
            avault.Connection(places).request("get")
        assert (refused.value.message, refused.value.hint) == ("m", "h")
        os.unlink(places.socket)


@pytest.mark.parametrize(("op", "script"), [("set", [[{"ok": True, "ready": True}], []]), ("delete", [[]]), ("restore", [[]])])
def test_a_write_without_an_answer_is_not_known_to_be_written(
    places: avault.Places, op: str, script: list[list[Message]]
) -> None:
    """And it is not tried again: it may have been."""
    daemon = Daemon(places, script, script)
    connection = avault.Connection(places)
    with pytest.raises(avault.AvaultError, match="unknown whether it was written") as refused:
        connection.request(op, {"value": "v"})
    assert not isinstance(refused.value, avault.Interrupted)
    assert len(daemon.got) == len(script)


def test_stop_is_answered_when_the_daemon_has_left(places: avault.Places) -> None:
    daemon = Daemon(places, [[{"ok": True}]], stays=0.3)
    assert avault.Connection(places).request("stop") == {"ok": True}
    assert daemon.got[-1] == {"left": True}


def test_a_read_without_an_answer_is_tried_once_more(places: avault.Places) -> None:
    daemon = Daemon(places, [[]], [[{"ok": True, "value": "v", "values": {}}]])
    assert avault.ask_daemon(places, "get", group="g")["value"] == "v"
    assert len(daemon.got) == 2
    os.unlink(places.socket)
    daemon = Daemon(places, [[]], [[]], [[]])
    with pytest.raises(avault.Interrupted, match="before it answered"):
        avault.ask_daemon(places, "get")
    assert len(daemon.got) == 2
    os.unlink(places.socket)
    daemon = Daemon(places, [[]], [[]])
    with pytest.raises(avault.Interrupted):
        avault.ask_daemon(places, "pair")
    assert len(daemon.got) == 1, "the phone is not asked twice"


def test_where_nobody_listens(places: avault.Places) -> None:
    with pytest.raises(avault.NoDaemon, match="no daemon is running"):
        avault.Connection(places)
    with pytest.raises(avault.NoDaemon):
        avault.ask_daemon(places, "get")


def test_for_programs(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVAULT_DIR", str(place.home / "vault"))
    answers = {"ok": True, "value": "v", "values": {"K": "v"}}
    daemon = Daemon(avault.Places(), [[answers]], [[answers]], [[{"ok": True, "signature": "signed"}]])
    assert avault.get("g", "K") == "v" and avault.env("g") == {"K": "v"}
    assert [(each["op"], each["group"], each.get("key")) for each in daemon.got] == [("get", "g", "K"), ("get", "g", None)]
    assert avault.sign("g", "K", "nip44-encrypt", b"text", peer="ab" * 32) == "signed"
    asked = {"op": "sign", "as": "nip44-encrypt", "group": "g", "key": "K", "payload": "dGV4dA==", "peer": "ab" * 32}
    assert daemon.got[2] == {"v": 1, "vault": avault.Places().id, **asked}


def test_a_daemon_of_somebody_else(place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not as if there was none: nobody is told to start one."""
    places = avault.Places(str(place.home / "vault"))
    with pytest.raises(avault.NoDaemon):
        avault.Connection(places)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(places.socket)
        listener.listen()
        monkeypatch.setattr(avault, "peer_uid", lambda _: os.getuid() + 1)
        with pytest.raises(avault.Unavailable, match="is another user's") as caught:
            avault.Connection(places)
        assert not isinstance(caught.value, avault.NoDaemon)
        if os.geteuid():
            os.chmod(places.socket, 0)
            with pytest.raises(avault.Unavailable, match="is another user's"):
                avault.Connection(places)


@pytest.mark.parametrize("is_good", [True, False])
async def test_what_is_seen_through_ends_though_who_wanted_it_leaves_twice(is_good: bool) -> None:
    goes_on, done = asyncio.Event(), list[str]()

    async def work() -> None:
        await goes_on.wait()
        done.append("all of it")
        if not is_good:
            raise avault.Denied("no")

    task = asyncio.create_task(avault.see_through(work()))
    for _ in range(2):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["all of it"]
