"""How much of a connection is held: what nobody takes is not read any further, or is cut.

mitmproxy keeps what comes while a request waits, for the phone or for its upstream; what the other
end does not take by HTTP/2; and heads, as long as they come. Here, who sends waits for that: by
HTTP/1.1 as no more is read of it, by HTTP/2 as its window stays as it is (RFC 9113, 5.2).
"""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING, Any

import h11
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer
from mitmproxy.addons import next_layer
from mitmproxy.proxy import commands, events, layers
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http import _http1, _http2

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

LONGEST_HEAD = 256 << 10  # bytes of a head, or of what stands before a chunk
LONGEST_NEXT = 64 << 10  # bytes of what a client sends after a request that is not answered yet
LONGEST_HELLO = 16 << 10  # bytes of a client's first message of TLS, each look at which begins anew
MOST_HELLO = 64  # pieces in which it comes
LONGEST_BODY = 9 << 20  # bytes of a body that is here, whole; see LONGEST_SIGNED
MOST_WAITING = 64  # pieces that came while a request waits, each of at most 64 KiB
MOST_FRAMES = 1 << 14  # by HTTP/2, of all requests of a connection: they may be empty
MOST_UNSENT = 16  # pieces that the other end does not take by HTTP/2, of 16 KiB
WINDOW = 2 << 20  # bytes of one request, or answer, that may be under way to us by HTTP/2
WHOLE = 32 << 20  # bytes of all of a connection
Buffered = _http2.BufferedH2Connection  # mitmproxy's own
LOOK = 0.01  # seconds at least between two looks at whether something was taken by HTTP/2
LONGEST_STILL = 1.0  # seconds until a stream that nobody reads is looked at, as it may be over


class Ends:
    """The ends of the connections of a session, by their ids."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}

    def get(self, connection: Any) -> Any:
        """What reads a connection; None for one of which nothing is known."""
        return self.known.get(connection.id)

    def is_full(self, connection: Any) -> bool:
        """Whether nothing more is to be read of a connection for now."""
        end = self.get(connection)
        if isinstance(end, layers.TCPLayer):
            return count_waiting(end) > MOST_WAITING
        if not isinstance(end, _http1.Http1Connection):
            return False
        if end.state == end.wait and len(end.buf) > LONGEST_NEXT:
            return True
        stream = end.all_of_it.streams.get(end.stream_id)
        if stream and count_waiting(stream) > MOST_WAITING:
            return True
        other = self.get(end.context.client)
        return isinstance(other, BoundedNewServer) and other.has_unsent(end.stream_id)

    def next_layer(self, nextlayer: Any) -> None:
        """Keep the layer of a tunnel, too, so that what waits in it is counted."""
        if isinstance(nextlayer.layer, layers.TCPLayer):
            self.known[nextlayer.context.client.id] = nextlayer.layer

    def client_disconnected(self, client: Any) -> None:
        """Forget a client's connection, which has ended."""
        self.known.pop(client.id, None)

    def server_disconnected(self, data: Any) -> None:
        """Forget an upstream's connection, which has ended."""
        self.known.pop(data.server.id, None)


def count_waiting(layer: Any) -> int:
    """How many pieces wait until a layer, or one in it, goes on."""
    found = 0
    while layer is not None:
        found += len(layer._paused_event_queue)
        layer = getattr(layer, "child_layer", None)
    return found


def is_closed(sock: socket.socket) -> bool:
    """Whether the other end of a connection sends nothing any more."""
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), getattr(select, "POLLRDHUP", 0))
    return bool(poll.poll(0))


class Changes:
    """Wakes who waits until something happens to a client's connection, or to its upstreams'.

    What was not taken is taken then, and at no other time: nobody has to look again and again.
    """

    def __init__(self) -> None:
        self.waiting: set[asyncio.Future[None]] = set()

    def note(self) -> None:
        """Something has happened."""
        for each in self.waiting:
            if not each.done():
                each.set_result(None)

    async def wait(self, longest: float | None = None) -> None:
        """Wait for that, `longest` seconds, None for as long as it takes."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.add(future)
        try:
            await asyncio.wait([future], timeout=longest)
        finally:
            self.waiting.discard(future)
            future.cancel()


class Look(commands.RequestWakeup):  # type: ignore[misc]
    """Wants to be woken once something has happened, and not before its time."""

    needs_change = True


class Paced:
    """A stream of which nothing is read while it `is_full`, unless it `is_over`."""

    def __init__(
        self,
        reader: Any,
        is_full: Callable[[], bool],
        is_over: Callable[[], bool],
        changes: Changes,
    ) -> None:
        self.reader, self.is_full, self.is_over, self.changes = reader, is_full, is_over, changes

    async def read(self, size: int) -> bytes:
        """Read from the stream, at most `size` bytes, once it may be read."""
        while self.is_full() and not self.is_over():
            await self.changes.wait(LONGEST_STILL)
        return bytes(await self.reader.read(size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)


class End:
    """What is the same for all ends; one process has one session, and so the same `ends`."""

    ends: Any = None
    context: Any
    conn: Any

    def __init__(self, context: Any) -> None:
        super().__init__(context)  # type: ignore[call-arg]
        self.ends.known[self.conn.id] = self
        self.all_of_it = next(
            each for each in reversed(self.context.layers) if isinstance(each, http.HttpLayer)
        )


class Older(End):
    """An end that speaks HTTP/1.1: a head that does not end is cut."""

    buf: Any
    state: Any
    wait: Any
    passthrough: Any
    done: Any
    stream_id: Any
    ReceiveProtocolError: Any

    def _handle_event(self, event: Any) -> Iterator[Any]:
        yield from super()._handle_event(event)  # type: ignore[misc]
        is_reading = self.state not in (self.wait, self.passthrough, self.done)
        if len(self.buf) > LONGEST_HEAD and is_reading:
            self.buf, self.state = ReceiveBuffer(), self.done
            yield commands.CloseConnection(self.conn)
            kind = self.ReceiveProtocolError
            if self.stream_id is not None:
                yield http.ReceiveHttp(kind(self.stream_id, "its head is too long", kind.code))


class BoundedServer(Older, _http1.Http1Server):  # type: ignore[misc]
    """The end of a connection with a client, by HTTP/1.1."""


class BoundedClient(Older, _http1.Http1Client):  # type: ignore[misc]
    """The end of a connection with an upstream, by HTTP/1.1."""


class OwingConnection(Buffered):  # type: ignore[misc,valid-type]
    """HTTP/2 that gives nothing back of a window by itself: `owed` are bytes by stream."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.local_settings.initial_window_size = WINDOW
        self.local_settings.acknowledge()
        self.owed: dict[int, int] = {}

    def initiate_connection(self) -> None:
        """Begin with a window of WHOLE; mitmproxy begins with the largest that there is."""
        super(Buffered, self).initiate_connection()
        self.increment_flow_control_window(WHOLE - self.inbound_flow_control_window)

    def acknowledge_received_data(self, acknowledged_size: int, stream_id: int) -> None:
        """Note it; the window opens in give_back."""
        self.owed[stream_id] = self.owed.get(stream_id, 0) + acknowledged_size

    def give_back(self, stream_id: int) -> None:
        """Open the window by what a stream owed, once it was taken."""
        super().acknowledge_received_data(self.owed.pop(stream_id), stream_id)


class Newer(End):
    """An end that speaks HTTP/2: more may come of what is taken at the other end."""

    h2_conn: Any
    looking: Any = None

    def _handle_event(self, event: Any) -> Iterator[Any]:
        if isinstance(event, events.Wakeup) and event.command is self.looking:
            self.looking = None
        else:
            yield from super()._handle_event(event)  # type: ignore[misc]
        yield from self.settle()

    def settle(self) -> Iterator[Any]:
        """Give back what was taken; look again when something has happened, if there is more."""
        if not self.h2_conn.owed or not self.conn.connected:
            return
        for stream_id in [*self.h2_conn.owed]:
            if not self.is_slow(stream_id):
                self.h2_conn.give_back(stream_id)
        if data := self.h2_conn.data_to_send():
            yield commands.SendData(self.conn, data)
        if self.h2_conn.owed and self.looking is None:
            self.looking = Look(LOOK)
            yield self.looking

    def is_slow(self, stream_id: int) -> bool:
        """Whether what comes by a stream is not taken as fast."""
        raise NotImplementedError

    def has_unsent(self, stream_id: int) -> bool:
        """Whether the peer does not take what goes out by a stream."""
        return len(self.h2_conn.stream_buffers.get(stream_id, ())) > MOST_UNSENT


class BoundedNewServer(Newer, _http2.Http2Server):  # type: ignore[misc]
    """The end of a connection with a client, by HTTP/2; one that sends too much is cut."""

    def _handle_event(self, event: Any) -> Iterator[Any]:
        yield from super()._handle_event(event)
        streams = [*self.all_of_it.streams.values()]
        frames = sum(len(each._paused_event_queue) for each in streams)
        if frames > MOST_FRAMES or any(len(s.request_body_buf) > LONGEST_BODY for s in streams):
            yield commands.CloseConnection(self.conn)

    def is_slow(self, stream_id: int) -> bool:
        """Whether a request waits, or its upstream does not take it."""
        stream = self.all_of_it.streams.get(stream_id)
        flow = getattr(stream, "flow", None)
        if not stream or not flow:
            return False
        other = self.ends.get(flow.server_conn)
        is_queued = isinstance(other, BoundedNewClient) and other.holds(stream_id)
        return count_waiting(stream) > 0 or is_queued


class BoundedNewClient(Newer, _http2.Http2Client):  # type: ignore[misc]
    """The end of a connection with an upstream, by HTTP/2."""

    def is_slow(self, stream_id: int) -> bool:
        """Whether the client does not take an answer."""
        theirs = self.their_stream_id.get(stream_id)
        stream = self.all_of_it.streams.get(theirs)
        other = self.ends.get(self.context.client)
        is_unsent = isinstance(other, BoundedNewServer) and other.has_unsent(theirs)
        return bool(stream) and (count_waiting(stream) > 0 or is_unsent)

    def holds(self, theirs: int) -> bool:
        """Whether a client's request is not taken, by its number there."""
        return theirs in self.stream_queue or self.has_unsent(self.our_stream_id.get(theirs, 0))


class ShortHello(layers.ClientTLSLayer):  # type: ignore[misc]
    """TLS with a client, which says soon, and shortly, what it wants (RFC 8446, 4.1.2)."""

    pieces = 0

    def receive_handshake_data(self, data: bytes) -> Any:
        """Cut a first message that is too long, or in too many pieces; else as mitmproxy does."""
        self.pieces += 1
        is_long = len(self.recv_buffer) + len(data) > LONGEST_HELLO or self.pieces > MOST_HELLO
        if is_long and not self.client_hello_parsed:
            return False, "its first message is too long"
        return (yield from super().receive_handshake_data(data))


class WithoutTrailers(ChunkedReader):  # type: ignore[misc]
    """A body in chunks; trailers are dropped (RFC 9112, 7.1.2), as mitmproxy stops at them."""

    def __call__(self, buf: Any) -> Any:
        found = super().__call__(buf)
        return h11.EndOfMessage() if isinstance(found, h11.EndOfMessage) else found


def bound_connections(ends: Ends) -> None:
    """Replace mitmproxy's private classes; made for the pinned version."""
    End.ends = ends
    http.Http1Server, http.Http1Client = BoundedServer, BoundedClient
    http.Http2Server, http.Http2Client = BoundedNewServer, BoundedNewClient
    layers.ClientTLSLayer = next_layer.ClientTLSLayer = ShortHello
    _http1.ChunkedReader = WithoutTrailers
    _http2.BufferedH2Connection = OwingConnection
