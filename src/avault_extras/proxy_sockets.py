"""What goes over a session's WebSockets: an addon of mitmproxy beside the gate.

What the server says has secrets taken out; what a client says may have one put in, where a guard
lets it. A message is looked at whole, and none is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mitmproxy.proxy.layers import websocket
from wsproto.events import CloseConnection, Message, Ping, Pong

import avault
from avault import AvaultError, complain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mitmproxy import http

try:
    proxy_places = avault.load_extra("proxy_places", "proxy")
    proxy_scrub = avault.load_extra("proxy_scrub", "proxy")
except AvaultError:
    raise

LONGEST_CONTROL = 125  # bytes of a control frame (RFC 6455, 5.5)
LONGEST_MESSAGE = 16 << 20  # bytes of a message, as it is once unpacked
MOST_TOLD = 64 << 20  # bytes of messages of a session that are not whole yet
FRAME = 64  # bytes that a frame takes here, if it is empty, too
PLACE = "websocket"


class Talks:
    """The WebSockets of a session; `gate` knows the rules, asks, and ends connections."""

    def __init__(self, gate: Any) -> None:
        self.gate = gate
        self.needles: dict[str, list[tuple[bytes, bytes]]] = {}  # by client
        self.clients: dict[str, Any] = {}  # by either end
        self.held: dict[str, int] = {}  # bytes of a message that is not whole, by end

    def websocket_start(self, flow: http.HTTPFlow) -> None:
        """What else a server says is looked at, too: see `SparingWebSocket`."""
        client = flow.client_conn
        self.needles[client.id] = flow.metadata.get("needles", [])
        self.clients[client.id] = self.clients[flow.server_conn.id] = client

    def clean(self, end: Any, data: bytes) -> bytes:
        """What goes to an end of a WebSocket: to a client, without secrets.

        Raises AvaultError of one of which nothing is known, and so not what to take out.
        """
        client = self.clients.get(end.id)
        if client is None or client.id not in self.needles:
            raise AvaultError("nothing is known of that WebSocket")
        is_client = client.id == end.id
        needles = self.needles[client.id] if is_client else []
        return bytes(proxy_scrub.replace_needles(data, needles))

    def client_disconnected(self, client: Any) -> None:
        """It is gone."""
        self.needles.pop(client.id, None)
        self.clients = {one: each for one, each in self.clients.items() if each is not client}
        self.held = {one: size for one, size in self.held.items() if one in self.clients}

    async def websocket_message(self, flow: http.HTTPFlow) -> None:
        """A message, whole; what the server says is scrubbed, and none is kept.

        One that may not have what it asks for ends the connection: nothing of it has gone out.
        """
        if flow.websocket is None:
            return
        message = flow.websocket.messages[-1]
        del flow.websocket.messages[:-1]
        if not message.from_client:
            message.content = self.clean(flow.client_conn, message.content)
        elif message.is_text:
            try:
                await self.gate.waiters.hold(flow, self.put_in(flow, message))
            except Exception as error:
                known = error if isinstance(error, AvaultError) else AvaultError("not understood")
                self.gate.note(flow, complain(known))
                message.drop()
                self.gate.cut(flow.client_conn)

    async def put_in(self, flow: http.HTTPFlow, message: Any) -> None:
        """Have secrets in a client's message where their placeholders are; raises AvaultError."""
        filling = self.gate.filling
        texts = filling.texts_for(flow, PLACE)
        if not (names := proxy_places.find_forms(message.content, texts)):
            return
        values = await filling.get_values({name: [PLACE] for name in names}, flow)
        how = "json" if message.content.lstrip()[:1] in (b"{", b"[") else "text"
        pairs = proxy_places.list_pairs(how, values, texts)
        filling.add_needles(flow, values, pairs)
        self.needles[flow.client_conn.id] = flow.metadata.get("needles", [])
        message.content = proxy_scrub.replace_needles(message.content, pairs)

    def end_long(self, end: Any, is_one: bool) -> None:
        """A message is longer than any may be, or all are: no more of it is held."""
        if client := self.clients.get(end.id):
            target = self.gate.targets.get(client.id)
            said = f"WebSockets' messages of more than {MOST_TOLD} bytes together"
            if is_one:
                said = f"a WebSocket's message of more than {LONGEST_MESSAGE} bytes"
            self.gate.tell({"host": target.host if target else "", "why": said, "code": "error"})
            self.gate.cut(client)


class SparingWebSocket(websocket.WebsocketConnection):  # type: ignore[misc]
    """An end of a WebSocket that has secrets taken out of pings, and of the reason of its end.

    mitmproxy shows these to no addon; and holds a message until it is whole, however long it is.
    One process has one session, and so one `talks`.
    """

    talks: Any = None
    held = 0

    def events(self) -> Iterator[Any]:
        """As of mitmproxy's, until a message is too long."""
        for event in super().events():
            if isinstance(event, Message):
                is_more = event.frame_finished and not event.message_finished
                self.held += len(event.data) + FRAME * is_more
                self.talks.held[self.conn.id] = self.held
                is_one = self.held > LONGEST_MESSAGE
                if is_one or sum(self.talks.held.values()) > MOST_TOLD:
                    self.talks.end_long(self.conn, is_one)
                    return
                if event.message_finished:
                    self.held = 0
                    del self.talks.held[self.conn.id]
            yield event

    def send2(self, event: Any) -> Any:
        """As of mitmproxy's; what is no secret stays, for a pong has what its ping had."""
        if isinstance(event, Ping | Pong):
            payload = self.talks.clean(self.conn, bytes(event.payload))
            event = type(event)(payload[:LONGEST_CONTROL])
        elif isinstance(event, CloseConnection) and event.reason:
            reason = self.talks.clean(self.conn, event.reason.encode())
            event = CloseConnection(event.code, reason.decode(errors="replace"))
        return super().send2(event)
