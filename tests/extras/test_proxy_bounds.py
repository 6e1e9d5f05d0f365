"""How much a session holds of what nobody takes: a client that floods it, one that reads nothing, upstreams that do."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

import h2.config
import h2.connection
import h2.events
from api_server import Api
from test_proxy_traps import BEARER, KEY, VALUE, Running, engine, get, read_answer, refused, send_newer

MUCH = 24 << 20  # bytes of what is more than anything that is held
LITTLE = 12 << 20  # bytes that a session, and the buffers of sockets, may take of it
MORE = 8 << 20  # bytes that are more than a window of HTTP/2
LESS = 4 << 20  # bytes of two windows


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, api: Api) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("s"), api)
    yield running
    running.end()


@pytest.fixture
def proxy(shared: Running) -> Running:
    shared.forget()
    return shared


def fill_in(proxy: Running, request: bytes) -> bytes:
    return request.replace(b"HOST", f"api.localhost:{proxy.api.port}".encode())


def push(tls: ssl.SSLSocket, much: int = MUCH, piece: bytes = b"y" * (1 << 16)) -> int:
    """How many bytes go out until nobody takes them for a while, or they are all."""
    sent = 0
    tls.settimeout(0.4)
    with contextlib.suppress(TimeoutError):
        while sent < much:
            sent += tls.send(piece[: much - sent])
    tls.settimeout(60)
    return sent


def test_what_comes_while_a_request_waits(proxy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the phone, as here, or for its upstream."""
    may_go = threading.Event()

    async def ask(fields: dict[str, Any]) -> dict[str, str]:
        while not may_go.is_set():
            await asyncio.sleep(0.01)
        return dict.fromkeys(fields["names"], VALUE)

    monkeypatch.setattr(proxy.gate, "ask", ask)
    with proxy.greet() as tls:
        tls.sendall(fill_in(proxy, get("/echo", BEARER, b"Content-Length: %d" % MUCH, method=b"POST")))
        sent = push(tls)
        assert sent < LITTLE
        may_go.set()
        while sent < MUCH:
            sent += tls.send(b"y" * min(1 << 16, MUCH - sent))
        assert read_answer(tls).startswith(b"HTTP/1.1 200") and proxy.api.bodies == [b"%d" % MUCH]


def test_requests_that_come_while_another_is_answered(proxy: Running) -> None:
    with proxy.greet() as tls:
        tls.sendall(fill_in(proxy, get("/hold")))
        assert push(tls, piece=fill_in(proxy, get("/echo")) * 1000) < LITTLE
        proxy.api.proceed.set()
        assert tls.recv(100)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /echo HTTP/1.1\r\nHost: HOST\r\nX: ",
        b"POST /echo HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        b"POST /echo HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: ",
    ],
)
def test_a_head_without_an_end(proxy: Running, head: bytes) -> None:
    with proxy.greet() as tls:
        tls.sendall(fill_in(proxy, head))
        with pytest.raises((ConnectionError, ssl.SSLError)):
            push(tls, 8 << 20)


def test_an_upstreams_head_without_an_end(proxy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def say(path: str, head: bytes, body: bytes) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nX: "
        yield b"y" * (8 << 20)

    monkeypatch.setattr(proxy.api, "pieces", say)
    assert proxy.send(get("/echo", BEARER)).startswith(b"HTTP/1.1 502")


def test_the_first_message_of_tls(proxy: Running) -> None:
    """It would be read from its beginning with each piece of it: in records of a byte, that takes minutes."""
    sock, _ = proxy.connect(f"api.localhost:{proxy.api.port}")
    with sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"\x16\x03\x01\x00\x04\x01\xff\xff\xff" + b"\x16\x03\x01\x00\x01x" * 20_000)
        sock.settimeout(60)
        with contextlib.suppress(ConnectionError):
            assert sock.recv(1) in (b"", b"\x15")  # an alert
    assert b" 200 " in proxy.send(get("/echo"))


def test_what_begins_a_websocket_has_no_body(proxy: Running) -> None:
    """It would be waited for, whole."""
    lines = [BEARER, b"Upgrade: websocket", b"Connection: Upgrade", b"Content-Length: 5"]
    refused(proxy, proxy.send(get("/echo", *lines) + b"hello"), "WebSocket")


def test_trailers_of_http_1(proxy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """mitmproxy knows none: it stopped in the middle, and said nothing more."""
    with proxy.greet() as tls:
        tls.settimeout(60)
        line = b"Transfer-Encoding: chunked"
        tls.sendall(fill_in(proxy, get("/echo", BEARER, line, method=b"POST")) + b"1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n")
        assert read_answer(tls).startswith(b"HTTP/1.1 200") and proxy.api.bodies == [b"a"]

    def say(path: str, head: bytes, body: bytes) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: %s\r\n\r\n" % VALUE.encode()

    monkeypatch.setattr(proxy.api, "pieces", say)
    with proxy.greet() as tls:
        tls.settimeout(60)
        tls.sendall(fill_in(proxy, get("/echo", BEARER)))
        assert read_answer(tls).endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")


# HTTP/2


class Newer:
    """A client's connection by HTTP/2 with one request; it gives back of its window what it `takes`."""

    def __init__(self, tls: ssl.SSLSocket, port: int, method: str, *lines: tuple[str, str]) -> None:
        self.tls, self.count, self.over = tls, 0, False
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(validate_outbound_headers=False))
        self.h2.initiate_connection()
        head = [(":method", method), (":scheme", "https"), (":path", "/echo"), (":authority", f"api.localhost:{port}")]
        self.h2.send_headers(1, [*head, *lines], end_stream=method == "GET" and not lines)
        self.tls.sendall(self.h2.data_to_send())

    def read(self, takes: bool) -> None:
        """What comes next; raises TimeoutError, and ConnectionError at the end."""
        if not (data := self.tls.recv(1 << 16)):
            raise ConnectionError
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.count += len(event.data)
                if takes:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, 1)
            self.over |= isinstance(event, h2.events.StreamEnded)
        self.tls.sendall(self.h2.data_to_send())

    def push(self, sent: int = 0, much: int = MORE, patience: float = 0.4) -> int:
        """How many bytes have gone out when the window stays closed for a while, or they are all."""
        self.tls.settimeout(patience)
        with contextlib.suppress(TimeoutError):
            while sent < much:
                window = min(self.h2.local_flow_control_window(1), 16384, much - sent)
                if not window:
                    self.read(takes=True)
                    continue
                self.h2.send_data(1, b"y" * window)
                self.tls.sendall(self.h2.data_to_send())
                sent += window
        self.tls.settimeout(60)
        return sent


class Upstream(Api):
    """By HTTP/2: takes what is sent, and says MORE, as far as the other end lets it; the first once it `may_take`."""

    def serve_newer(self, tls: ssl.SSLSocket) -> None:
        self.took = self.said = owed = 0
        self.may_take = getattr(self, "may_take", threading.Event())
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        connection.initiate_connection()
        tls.sendall(connection.data_to_send())
        tls.settimeout(0.05)
        is_asked = False
        while True:
            with contextlib.suppress(TimeoutError):
                if not (data := tls.recv(1 << 16)):
                    return
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.DataReceived):
                        self.took += len(event.data)
                        owed += event.flow_controlled_length
                    elif isinstance(event, h2.events.RequestReceived) and event.stream_ended:
                        is_asked = True
                        connection.send_headers(1, [(":status", "200")])
            if owed and self.may_take.is_set():
                connection.acknowledge_received_data(owed, 1)
                owed = 0
            while is_asked and self.said < MORE and (window := min(connection.local_flow_control_window(1), 16384)):
                self.said += window
                connection.send_data(1, b"x" * window, end_stream=self.said >= MORE)
                tls.settimeout(None)
                tls.sendall(connection.data_to_send())
                tls.settimeout(0.05)
            tls.sendall(connection.data_to_send())


@pytest.fixture
def upstream(proxy: Running, tmp_path: Path) -> Iterator[Upstream]:
    api = Upstream(tmp_path, is_newer=True, certificate=proxy.api.server)
    proxy.gate.rules.append([frozenset({f"api.localhost:{api.port}"})])
    yield api
    proxy.gate.rules.pop()
    api.close()


def take_all(client: Newer) -> int:
    """How much there is of an answer of which nothing was taken yet."""
    client.h2.acknowledge_received_data(client.count, 1)
    client.tls.sendall(client.h2.data_to_send())
    while not client.over:
        client.read(takes=True)
    return client.count


def wait_still(client: Newer) -> None:
    """Until all is there that may come, and nothing more does for a while."""
    while client.count < 65535:
        client.read(takes=False)
    client.tls.settimeout(0.4)
    with contextlib.suppress(TimeoutError):
        while True:
            client.read(takes=False)
    client.tls.settimeout(60)


@pytest.mark.slow
def test_an_answer_that_a_client_does_not_take(proxy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[int] = []

    def say(path: str, head: bytes, body: bytes) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MUCH
        for _ in range(MUCH >> 16):
            said.append(1 << 16)
            yield b"x" * (1 << 16)

    monkeypatch.setattr(proxy.api, "pieces", say)
    with proxy.greet(newer=True) as tls:
        client = Newer(tls, proxy.api.port, "GET")
        wait_still(client)
        assert client.count == 65535 and sum(said) < LITTLE
        assert take_all(client) == MUCH == sum(said)


@pytest.mark.slow
def test_one_of_an_upstream_of_http_2(proxy: Running, upstream: Upstream) -> None:
    with proxy.greet(port=upstream.port, newer=True) as tls:
        client = Newer(tls, upstream.port, "GET")
        wait_still(client)
        assert client.count == 65535 and upstream.said < LESS
        assert take_all(client) == MORE == upstream.said


def test_a_request_that_an_upstream_does_not_take(proxy: Running, upstream: Upstream) -> None:
    upstream.may_take = threading.Event()
    with proxy.greet(port=upstream.port, newer=True) as tls:
        client = Newer(tls, upstream.port, "POST", ("authorization", f"Bearer {KEY}"))
        sent = client.push()
        assert sent < LESS
        wait_until(lambda: upstream.took == 65535)
        upstream.may_take.set()
        assert client.push(sent, patience=60) == MORE
        wait_until(lambda: upstream.took == MORE)


def test_who_takes_nothing_wakes_nobody(proxy: Running, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be given back of a window is looked at when something happens, and not again and again."""
    looks: list[Any] = []
    ends = engine.proxy_bounds.Newer
    settle = ends.settle

    def spy(self: Any) -> Iterator[Any]:
        looks.append(self)
        yield from settle(self)

    upstream.may_take = threading.Event()
    with proxy.greet(port=upstream.port, newer=True) as tls:
        client = Newer(tls, upstream.port, "POST", ("authorization", f"Bearer {KEY}"))
        sent = client.push()
        monkeypatch.setattr(ends, "settle", spy)
        threading.Event().wait(0.5)
        assert len(looks) < 5
        upstream.may_take.set()
        assert client.push(sent, patience=20) == MORE and len(looks) > 5
        wait_until(lambda: upstream.took == MORE)


def wait_until(is_so: Callable[[], bool]) -> None:
    over = threading.Event()
    for _ in range(1200):
        if is_so():
            return
        over.wait(0.05)
    raise AssertionError


def test_a_refused_request_with_a_body_of_no_length(proxy: Running) -> None:
    """A GET has none as a rule, so it is answered."""
    with proxy.greet(newer=True) as tls:
        client = Newer(tls, proxy.api.port, "GET", ("cookie", KEY))
        with pytest.raises((ConnectionError, ssl.SSLError)):
            client.push(much=MUCH, patience=60)
    assert send_newer(proxy, proxy.api, ("cookie", KEY))[0] == "403"
