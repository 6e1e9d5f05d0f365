"""The connections of the daemon: between its two processes, and of clients to the keyholder."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING

from avault.daemon.callers import describe_caller
from avault.daemon.grant import Grant, hide_names
from avault.errors import Locked, Usage, complain
from avault.plain import MAX_FRAME
from avault.protocol import FIRST_FRAME, NESTED, SESSIONS, Frames, decode_frame, encode_frame
from avault.tasks import Stall

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any


FRAME_OF_GRANT = 4 * FIRST_FRAME  # bytes; no value comes in through a grant, only names


class Control:
    """The stream between supervisor and keyholder: frames, some with a file descriptor.

    `receive(message, fd)` is called for each frame, `lost()` when the other end
    is gone: what that has said before it went is received first. Sending never blocks.
    """

    def __init__(
        self,
        sock: socket.socket,
        receive: Callable[[dict[str, Any], int | None], None],
        lost: Callable[[], None],
    ) -> None:
        self.sock, self.receive, self.lost = sock, receive, lost
        self.frames = Frames()
        self.fds: list[int] = []
        self.queue: list[tuple[bytes, int | None]] = []
        self.loop = asyncio.get_running_loop()
        self.is_full = False  # whether the stream takes no more for now
        self.is_over = False  # whether the other end takes nothing any more
        sock.setblocking(False)
        self.loop.add_reader(sock, self.readable)

    def send(self, message: dict[str, Any], fd: int | None = None) -> None:
        """Send a frame; `fd` is duplicated into the other process.

        Raises Locked if that is gone. One that is going gets nothing more, and `lost` follows.
        """
        data = encode_frame({**message, "fd": True} if fd is not None else message)
        if self.sock.fileno() < 0:
            raise Locked("the vault was locked meanwhile", "ask the phone with: avault unlock")
        if not self.is_over:
            self.queue.append((data, None if fd is None else os.dup(fd)))
            self.flush()

    def flush(self) -> None:
        """Send what the stream takes; go on when it takes more."""
        while self.queue:
            data, fd = self.queue[0]
            try:
                sent = socket.send_fds(self.sock, [data], [] if fd is None else [fd])
            except BlockingIOError:
                self.loop.add_writer(self.sock, self.flush)
                self.is_full = True
                return
            except OSError as error:
                # descriptors under way are counted too: some are taken soon
                if error.errno == errno.ETOOMANYREFS:
                    self.loop.call_later(0.02, self.flush)
                elif error.errno in (errno.EPIPE, errno.ECONNRESET):
                    self.drop()  # its last words may lie here unread, and its end behind them
                else:
                    self.close()
                return
            if fd is not None:
                os.close(fd)
            self.queue[0] = (data[sent:], None)
            if sent == len(data):
                self.queue.pop(0)
        if self.is_full:
            self.loop.remove_writer(self.sock)
            self.is_full = False

    def drop(self) -> None:
        """Give up what is still to be sent, and every descriptor in it."""
        self.is_over, self.is_full = True, False
        self.loop.remove_writer(self.sock)
        for _, fd in self.queue:
            if fd is not None:
                os.close(fd)
        self.queue = []

    def readable(self) -> None:
        """Take what has come."""
        try:
            data, fds, flags, _ = socket.recv_fds(self.sock, 1 << 16, 64)
        except BlockingIOError:
            return
        except OSError:
            data, fds, flags = b"", [], 0
        # The kernel gives one descriptor at a time. One that it could not give, as we have too
        # many, keeps its place:
        # else the next connection would get the answer to this one's question.
        self.fds += [-1] if flags & socket.MSG_CTRUNC else fds
        if not data:
            self.close()
            return
        self.frames.feed(data)
        while self.sock.fileno() >= 0:
            try:
                if (frame := self.frames.next()) is None:
                    return
                message = decode_frame(frame, NESTED + 1)  # what a client has sent may be in it
            except Usage:  # nothing that follows can be read either
                self.close()
                return
            fd = self.fds.pop(0) if message.get("fd") else None
            if fd != -1:
                self.receive(message, fd)

    def close(self) -> None:
        """Close this end and every descriptor that was not handed over, and call `lost`, once."""
        if self.sock.fileno() < 0:
            return
        self.drop()
        self.loop.remove_reader(self.sock)
        self.sock.close()
        for fd in self.fds:
            if fd != -1:
                os.close(fd)
        self.fds = []
        self.lost()


class Inflow:
    """What has come from a client and is not handled yet, beginning with its `first` frame.

    It `is_paused` where the client does not read: nothing more is taken from it. The frame there
    `is_last` where it will send no more, and `is_next` where it is for the next turn of the loop.
    """

    def __init__(self, first: dict[str, Any], limit: int) -> None:
        self.first, self.frames = first, Frames(limit)
        self.is_paused = self.is_last = self.is_next = False
        self.stall = Stall()

    def is_too_much(self) -> bool:
        """Whether a client sends on, though nothing is taken from it."""
        return len(self.frames.buffer) > 2 * self.frames.limit

    def watch(self, is_held: bool, give_up: Callable[[], None]) -> None:
        """Have a client given up that leaves a frame half, unless it is ours to go on."""
        self.stall.watch(bool(self.frames.buffer) and not is_held, give_up)


class Session:
    """A client's connection in the keyholder; an asyncio protocol.

    Requests are given to `answer` in order. One that takes time is a coroutine,
    which may ask for the next frame with `await session.frame()`; `settled` is
    called when it has ended. `sessions` are the open ones, by their last requests.
    Through a `grant` frames are shorter, and one is answered in a turn of the loop.
    """

    def __init__(
        self,
        first: dict[str, Any],
        answer: Callable[
            [Session, dict[str, Any]], dict[str, Any] | Coroutine[Any, Any, dict[str, Any]]
        ],
        settled: Callable[[], None],
        sessions: dict[Session, None],
        since: float,
        grant: Grant | None = None,
    ) -> None:
        self.answer, self.settled, self.sessions = answer, settled, sessions
        self.since = since  # when the connection was accepted, as `uptime` counts
        self.caller: dict[str, Any] | None = None
        self.inflow = Inflow(first, FRAME_OF_GRANT if grant else MAX_FRAME)
        self.task: asyncio.Task[None] | None = None
        self.awaited: asyncio.Future[dict[str, Any]] | None = None
        self.is_conversation = False
        self.grant = grant  # through whose socket it came
        self.ended: Callable[[], None] | None = None  # called once, when the client is gone

    def connection_made(self, transport: Any) -> None:
        """The connection was taken over; its first frame came with it."""
        self.transport = transport
        transport.set_write_buffer_limits(high=self.inflow.frames.limit)
        if self.grant and self.grant.is_over():  # it has ended on the way to here
            transport.abort()
            return
        self.handle(self.inflow.first)

    def data_received(self, data: bytes) -> None:
        """More bytes from the client."""
        self.inflow.frames.feed(data)
        if self.inflow.is_too_much():
            self.transport.abort()
        self.advance()

    def advance(self) -> None:
        """Handle the frames that are there, until one takes time.

        Through a grant one, and in the next turn the next: others are answered in between.
        """
        inflow = self.inflow
        if inflow.is_next:
            return
        try:
            while not self.is_held() and (data := inflow.frames.next()) is not None:
                if self.awaited:
                    self.awaited.set_result(decode_frame(data))
                    self.awaited = None
                else:
                    self.handle(decode_frame(data))
                if self.grant:
                    inflow.is_next = True
                    asyncio.get_running_loop().call_soon(self.go_on)
                    return
        except Usage as error:
            self.send(error.to_dict())
            self.transport.close()
        if (
            inflow.is_last
            and not inflow.is_paused
            and (not self.task or self.awaited or self.is_conversation)
        ):
            self.transport.close()
        inflow.watch(bool(self.task and not self.awaited), self.transport.abort)

    def go_on(self) -> None:
        """Handle the next frame, in another turn of the loop."""
        self.inflow.is_next = False
        if not self.transport.is_closing():
            self.advance()

    def handle(self, request: dict[str, Any]) -> None:
        """Answer one request, now or by a task."""
        self.sessions.pop(self, None)
        self.sessions[self] = None
        try:
            self.is_conversation = str(request.get("op")) in SESSIONS
            answer = self.answer(self, request)
        except Exception as error:
            answer = self.explain(error)
        if isinstance(answer, dict):
            self.send(answer)
        else:
            self.task = asyncio.get_running_loop().create_task(self.work(answer))

    async def work(self, answer: Coroutine[Any, Any, dict[str, Any]]) -> None:
        """Run a request that takes time, then go on with the frames that came meanwhile."""
        try:
            if found := await answer:  # else another process has answered
                self.send(found)
        except Exception as error:
            self.send(self.explain(error))
        finally:
            self.task = None
            self.settled()
        self.advance()

    def explain(self, error: Exception) -> dict[str, Any]:
        """What is answered where something went wrong."""
        known = complain(error)
        return hide_names(known).to_dict() if self.grant else known.to_dict()

    def cut(self) -> None:
        """End it at once: nothing more is sent on it, by nobody else who has it either."""
        with contextlib.suppress(OSError):
            self.transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self.transport.abort()
        if self.task:
            self.task.cancel()

    def is_held(self) -> bool:
        """Whether the next frame has to wait.

        It does for a request that takes time, and for a client that does not read.
        """
        is_busy = bool(self.task and not self.awaited)
        return is_busy or self.inflow.is_paused or self.transport.is_closing()

    async def frame(self, **fields: Any) -> dict[str, Any]:
        """The next frame, after telling the client that it may send it.

        With `fields` it is told what that is about.
        """
        awaited: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.awaited = awaited
        try:
            self.send({"ok": True, "ready": True, **fields})
            self.advance()
            return await awaited
        finally:
            if self.awaited is awaited:  # given up: what comes yet is a request like any other
                self.awaited = None

    def send(self, message: dict[str, Any]) -> None:
        """Send a frame."""
        if not self.transport.is_closing():
            self.transport.write(encode_frame(message))

    def describe(self) -> dict[str, Any]:
        """Who is at the other end, as it is at this moment."""
        caller = describe_caller(self.transport.get_extra_info("socket"), self.since)
        return {**caller, "grant": self.grant.name} if self.grant else caller

    def pause_writing(self) -> None:
        """The client does not read: take no more requests from it."""
        self.inflow.is_paused = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self.inflow.is_paused = False
        self.transport.resume_reading()
        self.advance()

    def eof_received(self) -> bool:
        """The client will send no more; what it asked before is still answered."""
        self.inflow.is_last = True
        self.advance()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone; so is what it asked for, except a write that is under way."""
        self.sessions.pop(self, None)
        self.inflow.stall.end()
        if self.task:
            self.task.cancel()
        if self.ended:
            self.ended()
