"""What a hostile command sends through the proxy, and what a hostile API answers: each trap one test.

mitmproxy runs in a thread of the test's process; in the place of the keyholder are a dict, and a list of what was asked.
"""

from __future__ import annotations

import asyncio
import base64
import html
import json
import logging
import os
import re
import socket
import ssl
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import avault

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

from api_server import Api

proxy_broker = avault.load_extra("proxy_broker", "proxy")
engine, gate_of = proxy_broker.proxy_engine, proxy_broker.proxy_gate
scrub, headers = gate_of.proxy_filling.proxy_scrub, gate_of.proxy_headers

VALUE, OTHER = "sk-proj-Abcdefghijklmnopqrst0123456789", "the-other-value-0123456789"
KEY, AWAY = avault.make_placeholder(VALUE), avault.make_placeholder(OTHER)
TOKEN = "t" * 43
LOGIN = b"Proxy-Authorization: Basic " + base64.b64encode(f"avault:{TOKEN}".encode()) + b"\r\n"
BEARER = f"Authorization: Bearer {KEY}".encode()


class Running:
    """A session of the proxy in a thread, with a real API behind it."""

    def __init__(self, top: Path, api: Api, egress: str = "rules", places: tuple[str, ...] = ("",)) -> None:
        self.api, self.port, self.bundle, self.uses = api, 0, top / "bundle.pem", 0
        self.values: dict[str, Any] = {"openai/API_KEY": VALUE, "other/KEY": OTHER}
        self.asked: list[dict[str, Any]] = []
        self.refused: list[dict[str, Any]] = []
        self.session = {"secrets": self.list_secrets(places), "egress": egress}
        self.top, self.ready = top, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        assert self.ready.wait(60)

    def list_secrets(self, places: tuple[str, ...]) -> list[dict[str, Any]]:
        """What the proxy is told of secrets."""
        api = self.api
        near = (f"api.localhost:{api.port}", f"*.wild.localhost:{api.port}", f"127.0.0.1:{api.port}")
        hosts = {
            "openai/API_KEY": [[place + each for each in near for place in places]],
            "other/KEY": [[f"other.localhost:{api.port}"]],
        }
        return [
            {"name": name, "placeholder": {"openai/API_KEY": KEY, "other/KEY": AWAY}[name], "hosts": hosts[name]}
            for name in hosts
        ]

    def run(self) -> None:
        self.loop = engine.Loop()
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self.work())

    async def work(self) -> None:
        self.gate = gate_of.Gate(self.session, TOKEN, self.ask, self.refused.append)
        names = [avault.part_host(each)[1].partition(":")[0] for one in self.session["secrets"] for each in one["hosts"][0]]
        authority = engine.Authority(names)
        proxy_broker.write_bundle(str(self.bundle), str(self.api.roots), authority.to_pem())
        self.engine = engine.Engine(self.gate, authority, str(self.api.roots), self.loop)
        self.unix = await asyncio.start_unix_server(self.engine.serve_checked, str(self.top / "proxy.sock"))
        self.tcp = await asyncio.start_server(self.engine.serve, "127.0.0.1", 0)
        self.port = self.tcp.sockets[0].getsockname()[1]
        running = asyncio.ensure_future(self.engine.master.run())
        self.over = asyncio.Event()
        self.ready.set()
        await self.over.wait()
        running.cancel()

    async def ask(self, fields: dict[str, Any]) -> dict[str, str]:
        """All that one request wants is one question; `asked` has each secret of it by itself."""
        self.uses += 1
        said = {name: fields[name] for name in ("host", "port", "method", "path")}
        return {name: await self.ask_one({"name": name, **said, "in": places}) for name, places in fields["names"].items()}

    async def ask_one(self, fields: dict[str, Any]) -> str:
        self.asked.append(fields)
        value = self.values[fields["name"]]
        if isinstance(value, Exception):
            raise value
        return str(await value() if callable(value) else value)

    def forget(self) -> None:
        """Be as at the beginning, but for the values: what was asked for, and what came, is of an earlier test."""
        for each in (self.asked, self.refused, self.api.heads, self.api.bodies):
            each.clear()
        self.api.proceed.clear()

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join(60)
        logging.disable(logging.NOTSET)

    # clients

    def connect(self, target: str, login: bytes = LOGIN, more: bytes = b"") -> tuple[socket.socket, bytes]:
        """A connection to the proxy that has asked for a target; and what it said to that."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        sock.sendall(b"CONNECT %s HTTP/1.1\r\n%s%s\r\n" % (target.encode(), login, more))
        said = b""
        while b"\r\n\r\n" not in said and (piece := sock.recv(65536)):
            said += piece
        if b" 200 " not in said.split(b"\r\n")[0]:
            said += read_rest(sock, said)
        return sock, said

    def greet(self, host: str = "api.localhost", sni: str | None = None, port: int | None = None, newer: bool = False):
        """TLS to a host, through the proxy, with the bundle trusted."""
        sock, said = self.connect(f"{host}:{port or self.api.port}")
        assert b" 200 " in said, said
        context = ssl.create_default_context(cafile=str(self.bundle))
        if newer:
            context.set_alpn_protocols(["h2"])
        return context.wrap_socket(sock, server_hostname=sni or host)

    def send(self, request: bytes, host: str = "api.localhost") -> bytes:
        """The answer to one request, with its head; Host is filled in, and the connection ends after it."""
        with self.greet(host) as tls:
            tls.sendall(request.replace(b"HOST", f"{host}:{self.api.port}".encode()))
            try:
                return read_answer(tls)
            except (ConnectionError, ssl.SSLError):  # it was cut off
                return b""


def read_rest(sock: Any, said: bytes) -> bytes:
    length = re.search(rb"(?i)content-length: (\d+)", said)
    wanted = int(length[1]) if length else 0
    rest = b""
    have = len(said.partition(b"\r\n\r\n")[2])
    while have + len(rest) < wanted and (piece := sock.recv(65536)):
        rest += piece
    return rest


def read_answer(tls: Any) -> bytes:
    """A whole answer: by its length, or to its last chunk."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (piece := tls.recv(65536)):
            return data
        data += piece
    if b"transfer-encoding: chunked" in data.lower():
        while not data.endswith(b"0\r\n\r\n") and (piece := tls.recv(65536)):
            data += piece
        return data
    return data + read_rest(tls, data)


def send_together(proxy: Running, *requests: bytes) -> bytes:
    """All that comes back when requests are sent at once on one connection, until each has an answer or it is cut."""
    with proxy.greet() as tls:
        tls.sendall(b"".join(requests).replace(b"HOST", f"api.localhost:{proxy.api.port}".encode()))
        data = b""
        try:
            while data.count(b"X-Echo: ") + data.count(b"HTTP/1.1 403") < len(requests) and (piece := tls.recv(65536)):
                data += piece
        except (ConnectionError, ssl.SSLError):
            pass
    return data


def get(path: str = "/echo", *lines: bytes, method: bytes = b"GET", body: bytes = b"") -> bytes:
    head = [b"%s %s HTTP/1.1" % (method, path.encode()), b"Host: HOST", *lines]
    if body:
        head.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*head, b"", body])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, api: Api) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("s"), api)
    yield running
    running.end()


@pytest.fixture
def proxy(shared: Running) -> Running:
    shared.forget()
    shared.values.update({"openai/API_KEY": VALUE, "other/KEY": OTHER})
    return shared


def refused(proxy: Running, answer: bytes, *words: str) -> None:
    """It was a refusal that says so, nothing was asked for, and nothing reached the API."""
    assert answer.startswith(b"HTTP/1.1 403"), answer
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert error["code"] == "denied" and all(word in error["message"] for word in words), error
    assert not proxy.asked and not proxy.api.heads and VALUE.encode() not in answer
    assert proxy.refused and proxy.refused[-1]["why"] == error["message"]


# what goes


def test_a_bearer(proxy: Running) -> None:
    answer = proxy.send(get("/echo?a=1", BEARER))
    assert f"Authorization: Bearer {VALUE}\r\n".encode() in proxy.api.heads[0]
    assert VALUE.encode() not in answer and KEY.encode() in answer
    said = {"host": "api.localhost", "port": proxy.api.port, "method": "GET", "path": "/echo"}
    assert proxy.asked == [{"name": "openai/API_KEY", **said, "in": ["header"]}]


@pytest.mark.parametrize("header", ["x-api-key", "X-Goog-Api-Key", "PRIVATE-TOKEN", "Authorization"])
def test_headers_for_keys(proxy: Running, header: str) -> None:
    proxy.send(get("/echo", f"{header}: {KEY}".encode()))
    assert f"{header}: {VALUE}\r\n".encode() in proxy.api.heads[0]


@pytest.mark.parametrize("pair", ["x-access-token:KEY", "KEY:", "KEY:x", ":KEY"])
def test_basic(proxy: Running, pair: str) -> None:
    sent = base64.b64encode(pair.replace("KEY", KEY).encode()).decode()
    answer = proxy.send(get("/echo", f"Authorization: Basic {sent}".encode()))
    meant = base64.b64encode(pair.replace("KEY", VALUE).encode())
    assert b"Basic " + meant in proxy.api.heads[0]
    assert meant not in answer and sent.encode() in answer


def test_basic_with_a_value_with_a_colon_for_a_name(proxy: Running) -> None:
    proxy.values["openai/API_KEY"] = "name:and-more-0123"
    answer = proxy.send(get("/echo", b"Authorization: Basic " + base64.b64encode(f"{KEY}:x".encode())))
    assert b" 403 " in answer and not proxy.api.heads


def test_what_asks_for_nothing_goes_as_it_is(proxy: Running) -> None:
    answer = proxy.send(get("/echo", b"Accept-Encoding: gzip", b"User-Agent: me"))
    assert b"Accept-Encoding: gzip" in proxy.api.heads[0] and b"User-Agent: me" in answer and not proxy.asked


def test_a_wildcard_is_of_one_label(proxy: Running) -> None:
    proxy.send(get("/echo", BEARER), "a.wild.localhost")
    assert VALUE.encode() in proxy.api.heads[0]
    for host in ("wild.localhost", "b.a.wild.localhost"):
        _, said = proxy.connect(f"{host}:{proxy.api.port}")
        assert b" 403 " in said


def test_an_address_that_a_rule_names(proxy: Running) -> None:
    with proxy.greet("127.0.0.1") as tls:
        tls.sendall(get("/echo", BEARER).replace(b"HOST", f"127.0.0.1:{proxy.api.port}".encode()))
        assert b" 200 " in read_answer(tls)
    assert VALUE.encode() in proxy.api.heads[0]


def test_two_secrets_of_two_hosts(proxy: Running) -> None:
    refused_answer = proxy.send(get("/echo", f"Authorization: Bearer {AWAY}".encode()))
    proxy.values["other/KEY"] = avault.Denied("other/KEY may not go to api.localhost")
    assert b" 200 " in refused_answer  # the keyholder decides, which here says yes to all
    assert b" 403 " in proxy.send(get("/echo", f"Authorization: Bearer {AWAY}".encode()))


# H3: where it goes


@pytest.mark.parametrize(
    "header",
    ["Cookie", "User-Agent", "Referer", "Origin", "Forwarded", "X-Forwarded-For", "X-Whatever", "Accept", "Range", "Via", "From"],
)
def test_no_other_header_takes_a_value(proxy: Running, header: str) -> None:
    refused(proxy, proxy.send(get("/echo", f"{header}: {KEY}".encode())), "openai/API_KEY", header.lower())


@pytest.mark.parametrize("path", ["/echo?key=KEY", "/KEY/x", "/echo?q=PERCENT", "/echo?q=TWICE", "/echo?q=BASE64", "/echo#KEY"])
def test_no_path_and_no_query_takes_one(proxy: Running, path: str) -> None:
    percent = "".join(f"%{each:02x}" for each in KEY.encode())
    path = path.replace("PERCENT", percent).replace("TWICE", quote(percent)).replace("KEY", KEY)
    path = path.replace("BASE64", base64.urlsafe_b64encode(b"x" + KEY.encode()).decode())
    words = ("path",) if "#" in path else ("openai/API_KEY", "of a request to api.localhost")
    refused(proxy, proxy.send(get(path)), *words)


@pytest.mark.parametrize(
    "value", ["Bearer xKEY", "Bearer KEYx", "Bearer KEY KEY", "Bearer KEY, x", 'Digest username="KEY", a="b"']
)
def test_a_value_stands_by_itself(proxy: Running, value: str) -> None:
    answer = proxy.send(get("/echo", b"Authorization: " + value.replace("KEY", KEY).encode()))
    refused(proxy, answer, "among other text")


@pytest.mark.parametrize("pair", ["aKEY:b", "a:KEYb", "a:bKEY"])
def test_nor_within_basic_beside_other_text(proxy: Running, pair: str) -> None:
    said = base64.b64encode(pair.replace("KEY", KEY).encode())
    refused(proxy, proxy.send(get("/echo", b"Authorization: Basic " + said)), "among other text")


def test_a_header_whose_name_is_a_placeholder(proxy: Running) -> None:
    refused(proxy, proxy.send(get("/echo", f"{KEY}: x".encode())), "openai/API_KEY")


def test_a_placeholder_in_a_body_is_worth_nothing(proxy: Running) -> None:
    answer = proxy.send(get("/echo", BEARER, method=b"POST", body=f"key={KEY}".encode()))
    assert proxy.api.bodies == [f"key={KEY}".encode()] and b" 200 " in answer


def test_a_known_service_takes_it_in_its_own_header_alone() -> None:
    assert avault.headers_for("api.anthropic.com") == {"authorization", "x-api-key"}
    assert avault.headers_for("api.openai.com") == {"authorization"}
    assert "cookie" not in avault.headers_for("api.example.com") and "x-api-key" in avault.headers_for("api.example.com")


def test_no_usual_header_says_anything_else() -> None:
    assert not avault.KEY_HEADERS & {"cookie", "user-agent", "referer", "origin", "host", "forwarded", "x-forwarded-for"}


# one name


def test_sni_is_the_host_of_the_connection(proxy: Running) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        proxy.greet("api.localhost", sni="other.localhost")
    assert not proxy.api.heads


def test_no_sni_for_a_name(proxy: Running) -> None:
    sock, _ = proxy.connect(f"api.localhost:{proxy.api.port}")
    context = ssl.create_default_context(cafile=str(proxy.bundle))
    context.check_hostname = False
    with pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(sock)


@pytest.mark.parametrize(
    "host",
    ["other.localhost:PORT", "api.localhost", "api.localhost:1", "api.localhost:PORT@x", "", "a b", "api.localhost:PORT, x"],
)
def test_host_is_the_host_of_the_connection(proxy: Running, host: str) -> None:
    request = get("/echo", BEARER).replace(b"HOST", host.replace("PORT", str(proxy.api.port)).encode())
    answer = proxy.send(request)
    assert answer.startswith((b"HTTP/1.1 403", b"HTTP/1.1 400")) and not proxy.asked and not proxy.api.heads


def test_two_hosts_and_none(proxy: Running) -> None:
    refused(proxy, proxy.send(get("/echo", BEARER, b"Host: HOST")), "another host")
    proxy.refused.clear()
    refused(proxy, proxy.send(b"GET /echo HTTP/1.1\r\n%s\r\n\r\n" % BEARER), "another host")


@pytest.mark.parametrize("host", ["API.localhost", "api.localhost.", "API.LOCALHOST."])
def test_other_spellings_are_the_same_name(proxy: Running, host: str) -> None:
    sock, said = proxy.connect(f"{host}:{proxy.api.port}")
    assert b" 200 " in said
    tls = ssl.create_default_context(cafile=str(proxy.bundle)).wrap_socket(sock, server_hostname="api.localhost")
    with tls:
        tls.sendall(get("/echo", BEARER).replace(b"HOST", f"{host}:{proxy.api.port}".encode()))
        assert b" 200 " in read_answer(tls)


@pytest.mark.parametrize(
    "target", ["/TARGET", "http://api.localhost:PORT/echo", "https://other.localhost/echo", "//other/echo", "*", "echo"]
)
def test_only_a_path_is_a_target(proxy: Running, target: str) -> None:
    target = target.replace("/TARGET", "//x").replace("PORT", str(proxy.api.port))
    answer = proxy.send(get(target, BEARER, method=b"OPTIONS"))
    assert answer.startswith((b"HTTP/1.1 403", b"HTTP/1.1 400")) and not proxy.asked and not proxy.api.heads


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "get", "CONNECT"])
def test_methods_that_do_not_go(proxy: Running, method: str) -> None:
    answer = proxy.send(get("/echo", BEARER, method=method.encode()))
    assert not answer.startswith(b"HTTP/1.1 200") and not proxy.asked and not proxy.api.heads


# where to


@pytest.mark.parametrize(
    "target",
    ["evil.localhost:PORT", "api.localhost:443", "api.localhost:1", "10.0.0.1:443", "[::1]:PORT", "0x7f.1:PORT",
     "2130706433:PORT", "169.254.169.254:80", "127.1:PORT", "xn--e1afmkfd.localhost:PORT", "localhost:PORT"],
)  # fmt: skip
def test_no_rule_names_it(proxy: Running, target: str) -> None:
    sock, said = proxy.connect(target.replace("PORT", str(proxy.api.port)))
    sock.close()
    assert said.startswith((b"HTTP/1.1 403", b"HTTP/1.1 400")), said
    assert not proxy.asked and not proxy.api.heads


def test_plain_http_to_the_proxy(proxy: Running) -> None:
    sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=60)
    target = f"http://api.localhost:{proxy.api.port}/echo"
    sock.sendall(b"GET %s HTTP/1.1\r\nHost: api.localhost:%d\r\n%s%s\r\n\r\n" % (target.encode(), proxy.api.port, LOGIN, BEARER))
    refused(proxy, read_answer(sock), "in clear")


def test_plain_http_in_the_tunnel(proxy: Running) -> None:
    sock, _ = proxy.connect(f"api.localhost:{proxy.api.port}")
    sock.sendall(get("/echo", BEARER).replace(b"HOST", f"api.localhost:{proxy.api.port}".encode()))
    refused(proxy, read_answer(sock), "in clear")


@pytest.mark.parametrize("login", [b"", b"Proxy-Authorization: Basic YXZhdWx0Ong=\r\n", b"Proxy-Authorization: Bearer x\r\n"])
def test_who_has_no_token(proxy: Running, login: bytes) -> None:
    _, said = proxy.connect(f"api.localhost:{proxy.api.port}", login)
    assert b" 407 " in said and b'Proxy-Authenticate: Basic realm="avault"' in said


def test_the_unix_socket_needs_none(proxy: Running) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(proxy.top / "proxy.sock"))
        sock.sendall(b"CONNECT api.localhost:%d HTTP/1.1\r\n\r\n" % proxy.api.port)
        assert b" 200 " in sock.recv(4096)


def test_a_name_that_is_not_of_the_internet(proxy: Running) -> None:
    async def look(host: str, port: int = 443) -> Any:
        return await proxy.loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)

    for host in ("localhost", "evil.localhost", "0.0.0.0", "10.1.2.3", "::1", "64:ff9b::7f00:1"):  # as a resolver might find it
        with pytest.raises(socket.gaierror):
            asyncio.run_coroutine_threadsafe(look(host), proxy.loop).result(10)
    with pytest.raises(socket.gaierror):  # another port than the rule's
        asyncio.run_coroutine_threadsafe(look("api.localhost", 22), proxy.loop).result(10)
    assert asyncio.run_coroutine_threadsafe(look("api.localhost", proxy.api.port), proxy.loop).result(10)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.1.1",
        "::1",
        "fe80::1%eth0",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "224.0.0.1",
        "100.64.0.1",
        "::127.0.0.1",
        "fec0::1",
    ],
)
def test_addresses_that_are_not_global(address: str) -> None:
    assert not engine.is_global(address)
    assert engine.is_global("1.1.1.1") and engine.is_global("2606:4700:4700::1111")


def test_an_upstream_that_nobody_vouches_for(proxy: Running, tmp_path: Path) -> None:
    stranger = Api(tmp_path)
    try:
        stranger.listener, proxy.api.listener = stranger.listener, proxy.api.listener
        host = f"api.localhost:{stranger.port}"
        proxy.gate.rules.append([frozenset({host})])
        with proxy.greet(port=stranger.port) as tls:
            tls.sendall(get("/echo", BEARER).replace(b"HOST", host.encode()))
            assert b" 502 " in read_answer(tls)
        assert not stranger.heads
    finally:
        proxy.gate.rules.pop()
        stranger.close()


@pytest.mark.parametrize("path", ["/echo?\u00fc", "/\u00fc", "/echo?a\x7f", "/echo#a", "/echo?a\x01"])
def test_a_target_of_other_letters(proxy: Running, path: str) -> None:
    answer = proxy.send(get(path, BEARER))
    assert answer.startswith((b"HTTP/1.1 403", b"HTTP/1.1 400")) and not proxy.asked and not proxy.api.heads


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/3", b"HTTP/1.0", b"HTTP/1.2"])
def test_another_version_than_the_connections(proxy: Running, version: bytes) -> None:
    """By HTTP/2 two hosts, and none, are another thing; so who says so has to speak it."""
    answer = proxy.send(get("/echo", BEARER).replace(b"HTTP/1.1", version))
    assert b" 200 " not in answer and not proxy.asked and not proxy.api.heads


# who has no token


def test_who_has_no_token_ends_nothing_and_keeps_nothing_open(proxy: Running) -> None:
    """Nothing of it is in the log, by which a vault would stay open, and it is not waited for."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as sock:
        sock.sendall(b"POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000000\r\n\r\n")
        assert read_to_end(sock) == b""
    assert not proxy.refused and not proxy.asked


def test_who_has_no_token_is_not_kept(proxy: Running) -> None:
    """Nor what it sends: a head without an end."""
    before = resident()
    with pytest.raises(ConnectionError):
        flood(proxy.port)
    assert resident() - before < 20 << 20 and not proxy.refused


def flood(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nX: ")
        for _ in range(64):
            sock.sendall(b"x" * (1 << 20))


def read_to_end(sock: socket.socket) -> bytes:
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionError:
        pass
    return data


# what is stripped


@pytest.mark.parametrize("line", [LOGIN.strip(), b"Proxy-Connection: keep-alive", b"TE: gzip", b"Upgrade: h2c", b"Keep-Alive: 5"])
def test_what_is_for_a_proxy_goes_no_further(proxy: Running, line: bytes) -> None:
    proxy.send(get("/echo", BEARER, line, b"Connection: X-Hop, keep-alive", b"X-Hop: 1"))
    head = proxy.api.heads[0].lower()
    assert line.split(b":")[0].lower() + b":" not in head and b"x-hop" not in head and b"connection:" not in head
    assert TOKEN.encode() not in proxy.api.heads[0]


@pytest.mark.parametrize("name", [b"Host", b"Content-Length", b"Authorization"])
def test_connection_that_names_what_it_may_not(proxy: Running, name: bytes) -> None:
    refused(proxy, proxy.send(get("/echo", BEARER, b"Connection: " + name)), "Connection")


@pytest.mark.parametrize("value", ["a\r\nX-Injected: 1-0123456", "a\nb-0123456789", "a\0b-0123456789", "a\x7fb-0123456789"])
def test_line_ends_in_a_value(proxy: Running, value: str) -> None:
    proxy.values["openai/API_KEY"] = value
    answer = proxy.send(get("/echo", BEARER))
    assert b" 403 " in answer and b"X-Injected" not in answer and not proxy.api.heads


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 1", b"Transfer-Encoding: chunked"],
        [b"Content-Length: 1", b"Content-Length: 2"],
        [b"X : y"],
        [b"X: a\0b"],
    ],
)
def test_requests_that_can_be_read_in_two_ways(proxy: Running, lines: list[bytes]) -> None:
    answer = proxy.send(get("/echo", BEARER, *lines, method=b"POST"))
    assert b" 200 " not in answer and not proxy.asked and not proxy.api.heads


@pytest.mark.parametrize(
    "line", [b"X_HTTP_Method_Override: DELETE", b"x-method_override: DELETE", b"X-Original-URL: /admin", b"X_Rewrite_Url: /admin"]
)
def test_a_header_that_says_another_method_or_path(proxy: Running, line: bytes) -> None:
    """CGI, and its like, read _ as -; some APIs read the path there."""
    refused(proxy, proxy.send(get("/echo", BEARER, line)), "another method, or path")


def test_each_of_many_requests_at_once_is_looked_at(proxy: Running) -> None:
    with proxy.greet() as tls:
        many = [get("/echo", BEARER), get("/echo", b"Cookie: " + KEY.encode()), get("/echo", BEARER)]
        tls.sendall(b"".join(many).replace(b"HOST", f"api.localhost:{proxy.api.port}".encode()))
        answers = b""
        while answers.count(b"HTTP/1.1 ") < 3 or not answers.endswith(b"\r\n\r\n"):
            if not (piece := tls.recv(65536)):
                break
            answers += piece
    assert [each[:3] for each in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"403", b"200"]
    assert len(proxy.api.heads) == 2


# answers that come in the place of others


@pytest.mark.parametrize(
    "lines", [[b"Expect: 100-continue, x"], [b"Expect: 100-continue", b"Expect: 100-continue"], [b"Expect: x"], [b"expect:"]]
)
def test_an_expectation_that_would_shift_the_answers(proxy: Running, lines: list[bytes]) -> None:
    """An upstream says 100, which would be taken for the answer; and the answer for that to the next request."""
    data = send_together(proxy, get("/echo?a", BEARER, *lines), get("/echo?b"))
    assert VALUE.encode() not in data and data.startswith(b"HTTP/1.1 403") and b"Expect" in data
    assert not any(b"?a" in head for head in proxy.api.heads) and not proxy.asked


def test_an_expectation_as_clients_have_it(proxy: Running) -> None:
    data = send_together(proxy, get("/echo", BEARER, b"Expect: 100-Continue", method=b"POST", body=b"x"))
    assert data.startswith(b"HTTP/1.1 100 ") and b"HTTP/1.1 200 " in data and VALUE.encode() not in data
    assert proxy.api.bodies == [b"x"] and b"expect" not in proxy.api.heads[0].lower()


@pytest.mark.parametrize("path", ["/100", "/102", "/103", "/101"])
def test_what_an_upstream_says_before_its_answer(proxy: Running, path: str) -> None:
    """mitmproxy takes it for the answer: nothing more is to come on that connection."""
    data = send_together(proxy, get(path, BEARER), get("/echo?b"))
    assert VALUE.encode() not in data and b"?b" not in data
    assert "before its answer" in proxy.refused[-1]["why"]


def test_a_refused_upload_is_not_read_to_its_end(proxy: Running) -> None:
    line = get("/echo", b"Cookie: " + KEY.encode(), b"Content-Length: 100000000", method=b"POST")
    line = line.replace(b"HOST", f"api.localhost:{proxy.api.port}".encode())
    with pytest.raises((ConnectionError, ssl.SSLError)):
        upload(proxy, line)
    assert not proxy.api.heads and proxy.refused


def upload(proxy: Running, head: bytes) -> None:
    with proxy.greet() as tls:
        tls.sendall(head)
        for _ in range(1000):
            tls.sendall(b"x" * 65536)


@pytest.mark.parametrize(("error", "status"), [(avault.Denied, 403), (avault.Locked, 503), (avault.TimedOut, 504)])
def test_what_the_keyholder_refuses(proxy: Running, error: type[avault.AvaultError], status: int) -> None:
    proxy.values["openai/API_KEY"] = error("not now", "ask later")
    answer = proxy.send(get("/echo", BEARER))
    assert answer.startswith(b"HTTP/1.1 %d" % status) and b"not now" in answer and not proxy.api.heads


# answers


def test_a_value_that_comes_back_in_pieces(proxy: Running) -> None:
    answer = proxy.send(get("/split", BEARER))
    assert VALUE.encode()[:20] not in answer and KEY.encode() in re.sub(rb"\r\n[0-9a-f]+\r\n", b"", answer)


def test_a_value_that_comes_back_in_headers(proxy: Running) -> None:
    answer = proxy.send(get("/redirect", BEARER))
    assert f"Location: https://other.localhost/?k={KEY}".encode() in answer and len(proxy.api.heads) == 1


@pytest.mark.parametrize("path", ["/gzip", "/gzip-for-the-way"])
def test_an_answer_that_is_encoded_is_not_passed(proxy: Running, path: str) -> None:
    answer = proxy.send(get(path, BEARER))
    assert answer.startswith(b"HTTP/1.1 502") and b"gzip" in answer and VALUE.encode() not in answer
    assert b"accept-encoding: identity" in proxy.api.heads[0].lower()


@pytest.mark.parametrize("at", range(1, len(VALUE)))
def test_a_scrubber_misses_no_split(at: int) -> None:
    cut = scrub.Scrubber(scrub.list_needles(VALUE, KEY))
    found = b"".join([*cut(b"a " + VALUE[:at].encode()), *cut(VALUE[at:].encode() + b" b"), *cut(b"")])
    assert found == f"a {KEY} b".encode()


def test_a_scrubber_byte_by_byte() -> None:
    cut = scrub.Scrubber(scrub.list_needles(VALUE, KEY))
    text = f"{VALUE}{VALUE[:-1]}\n{VALUE}"
    assert b"".join(each for one in text.encode() for each in cut(bytes([one]))) + b"".join(cut(b"")) == (
        f"{KEY}{VALUE[:-1]}\n{KEY}".encode()
    )


@pytest.mark.parametrize(
    "form",
    [
        lambda text: text,
        lambda text: quote(text, safe=""),
        lambda text: quote(text, safe="").lower(),
        lambda text: json.dumps(text)[1:-1],
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
        lambda text: text.encode().hex(),
        lambda text: text.encode().hex().upper(),
        lambda text: text.encode().hex(" "),
        lambda text: text.encode().hex(":").upper(),
        lambda text: text.encode().hex("-"),
        lambda text: json.dumps(text).replace("/", "\\/")[1:-1],  # PHP
        lambda text: json.dumps(text).replace("&", "\\u0026")[1:-1],  # Go
        lambda text: re.sub('[^ -~]|[&+"]', lambda found: f"\\u{ord(found[0]):04X}", text.replace("\\", "\\\\")),  # .NET
        html.escape,
    ],
)
def test_full_encodings_are_taken_out(form: Any) -> None:
    value, instead = 'p/w+ü"\\=&0123456789', "placeholder-0123456789"
    needles = scrub.sort_needles(scrub.list_needles(value, instead))
    assert form(value).encode() not in scrub.replace_needles(f"<{form(value)}>".encode(), needles)


def test_a_value_as_an_upstream_reads_it() -> None:
    """Without the blanks around it, or as Latin-1."""
    needles = scrub.list_needles(" pässword-0123456789 ", "placeholder-0123456789")
    read = "pässword-0123456789".encode().decode("latin-1")
    for form in ("pässword-0123456789", read, json.dumps(read)[1:-1], quote(read)):
        assert scrub.replace_needles(f"<{form}>".encode(), needles) == b"<placeholder-0123456789>"
    assert scrub.replace_needles(b"<short>", scrub.list_needles("short   ", "placeholder-0123456789")) == b"<short>"


# the keyholder's answers


class Ear:
    """A stream to the keyholder that nobody answers on; what is said there is kept."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.said.append(message)


def make_broker() -> Any:
    broker = proxy_broker.Broker.__new__(proxy_broker.Broker)
    broker.control, broker.answers, broker.last = Ear(), {}, 0
    return broker


async def test_so_many_wait_for_the_keyholder_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds something of each, for as long as the phone is asked."""
    broker = make_broker()
    monkeypatch.setattr(proxy_broker, "MOST_ASKED", 3)
    asked = [asyncio.ensure_future(broker.ask({"name": "openai/API_KEY"})) for _ in range(5)]
    for each in asked[3:]:
        with pytest.raises(avault.Unavailable, match="too many requests wait"):
            await each
    for each in asked[:3]:
        each.cancel()
    await asyncio.wait(asked)
    assert sum("use" in each for each in broker.control.said) == 3 and not broker.answers


async def test_who_waits_no_longer_takes_the_question_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is the keyholder whose time is over."""
    broker, waiting = make_broker(), gate_of.proxy_waiting
    monkeypatch.setattr(waiting, "LOOK", 0.01)
    monkeypatch.setattr(waiting, "LONGEST_WAIT", 0.02)
    waiters, flow = waiting.Waiters(lambda client: False), types.SimpleNamespace(id="1", client_conn=None)
    with pytest.raises(avault.Unavailable, match="does not answer"):
        await waiters.hold(flow, broker.ask({"names": {"openai/API_KEY": ["header"]}}))
    assert not waiters.waiting and not asyncio.current_task().cancelling()
    said = [{"use": 1, "names": {"openai/API_KEY": ["header"]}}, {"drop": 1}]
    assert broker.control.said == said and not broker.answers


async def test_a_client_that_leaves_is_noticed_at_the_second_look() -> None:
    """One that has ended its side, and reads on, has its answer where that comes soon; nobody is looked at when nobody waits."""
    waiting = gate_of.proxy_waiting
    gone, flow = asyncio.Event(), types.SimpleNamespace(id="1", client_conn=None)
    waiters = waiting.Waiters(lambda client: True)
    held = asyncio.ensure_future(waiters.hold(flow, gone.wait()))
    await asyncio.sleep(0)
    waiters.look()
    await asyncio.sleep(0)
    assert not held.done()
    waiters.look()
    with pytest.raises(avault.Unavailable, match="the client has left"):
        await held
    waiters.look()
    assert waiters.looking is None and not waiters.waiting


async def test_a_value_that_comes_as_its_client_leaves_is_closed() -> None:
    broker = make_broker()
    asking = asyncio.create_task(broker.ask({"names": {"openai/API_KEY": ["header"]}}))
    await asyncio.sleep(0)
    ours, theirs = socket.socketpair()
    broker.hear({"id": 1, "ok": True}, theirs.detach())
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    with ours:
        ours.settimeout(60)
        assert ours.recv(1) == b"", "the other end is closed"


# H1: no oracle


def test_no_part_of_a_value_is_looked_for() -> None:
    """Each thing that is looked for has the whole value in it: no guess that is shorter, or wrong in one place, shows."""
    needles = scrub.list_needles(VALUE, KEY)
    for length in range(1, len(VALUE)):
        for part in (VALUE[:length], VALUE[-length:]):
            for guess in (part, base64.b64encode(part.encode()).decode().rstrip("=")[: len(part)], part.encode().hex()):
                assert scrub.replace_needles(guess.encode(), needles) == guess.encode()
    for place in range(len(VALUE)):
        guess = VALUE[:place] + ("~" if VALUE[place] != "~" else "!") + VALUE[place + 1 :]
        assert scrub.replace_needles(guess.encode(), needles) == guess.encode()


class Telling(scrub.Scrubber):  # type: ignore[misc,name-defined]
    """What is not to be: it holds back what begins as the value does, and no more. The control of what comes next."""

    def __call__(self, piece: bytes) -> list[bytes]:
        data = scrub.replace_needles(self.rest + piece, self.needles)
        ends = (size for needle, _ in self.needles for size in range(1, len(needle)) if data.endswith(needle[:size]))
        cut = len(data) - max(ends, default=0)
        self.rest = data[cut:]
        return [data[:cut]]


def count_telling(scrubber: Any, end: str) -> int:
    """How many guesses that begin as the value does come out in other pieces than those that do not."""
    told = 0
    for length in range(1, len(VALUE)):
        came = []
        for guess in (VALUE[:length], "x" * length):
            cut = scrubber(scrub.list_needles(VALUE, KEY))
            came.append([len(piece) for piece in cut(f"data: {guess}{end}".encode())])
        told += came[0] != came[1]
    return told


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_of_a_body_whose_length_is_known_the_last_piece_goes_on_at_once(size: int) -> None:
    """All else is held back as before, and the value is found however the body is cut."""
    body = f"<{VALUE}> and {VALUE}".encode()
    known = scrub.Scrubber(scrub.list_needles(VALUE, KEY), len(body))
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    came = [b"".join(known(piece)) for piece in pieces]
    assert b"".join(came) == f"<{KEY}> and {KEY}".encode() and known(b"") == []
    assert came[-1] and len(came[-1]) >= min(len(body), len(KEY))


async def test_what_is_written_in_one_turn_is_sent_at_once() -> None:
    """And before the end of the stream, and before anybody waits for it to be sent."""
    sent: list[bytes] = []

    class Writer:
        closed = False

        def write(self, data: bytes) -> None:
            sent.append(data)

        def is_closing(self) -> bool:
            return self.closed

        def close(self) -> None:
            self.closed = True

        async def drain(self) -> None:
            sent.append(b"drained")

    writer = engine.proxy_streams.Gathered(Writer())
    writer.write(b"head")
    writer.write(b"body")
    assert sent == []
    writer.flush()
    assert sent == [b"headbody"]
    writer.write(b"more")
    await writer.drain()
    assert sent[1:] == [b"more", b"drained"]
    writer.write(b"end")
    writer.close()
    writer.write(b"too late")
    writer.flush()
    assert sent[3:] == [b"end"]


async def test_a_hook_that_waits_for_nothing_waits_for_no_turn_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes of an event is handled after it, in its order, and before any of it is sent: once, for all of it."""
    done: list[str] = []

    async def handle(self: Any, event: str) -> None:
        done.append(f"begin {event}")
        if event == "request":
            for each in ("one", "two"):
                await streams.handle_in_turn(self, each)
        if event == "two":
            await streams.handle_in_turn(self, "three")
        done.append(f"end {event}")

    streams = engine.proxy_streams
    writer = streams.Gathered(None)
    monkeypatch.setattr(writer, "flush", lambda: done.append("sent"))
    monkeypatch.setattr(streams, "HANDLE", handle)
    handler = type("Handler", (), {"transports": {"client": types.SimpleNamespace(writer=writer)}})()
    await streams.handle_in_turn(handler, "request")
    assert done == [f"{part} {each}" for each in ("request", "one", "two", "three") for part in ("begin", "end")] + ["sent"]
    await streams.handle_in_turn(handler, "next")
    assert done[-3:] == ["begin next", "end next", "sent"]


@pytest.mark.parametrize("end", ["", "\n", " "])
def test_how_long_bytes_are_held_back_tells_nothing_of_a_value(end: str) -> None:
    """Letter by letter nothing shows."""
    assert count_telling(scrub.Scrubber, end) == 0
    assert end or count_telling(Telling, end) == len(VALUE) - 1


def test_nor_with_a_real_upstream_that_stops_in_the_middle(proxy: Running) -> None:
    """What comes of a body that ends as a value begins, while the upstream waits, is what comes of any other."""
    came = []
    for guess in (VALUE[:20], "x" * 20):
        proxy.api.proceed.clear()
        with proxy.greet() as tls:
            request = get("/part", BEARER, method=b"POST", body=f"{'-' * 200}{guess}".encode())
            tls.sendall(request.replace(b"HOST", f"api.localhost:{proxy.api.port}".encode()))
            data = b""
            try:
                while piece := tls.recv(65536):
                    data += piece
                    if len(data.partition(b"\r\n\r\n")[2]) > 100:  # and what else there may be, for a while
                        tls.settimeout(1)
            except TimeoutError:
                pass
            came.append(len(data.partition(b"\r\n\r\n")[2]))
            proxy.api.proceed.set()
    assert came[0] == came[1] > 100


def test_the_answer_to_a_request_without_a_secret_is_left_alone(proxy: Running) -> None:
    """So a guess costs a request that is in the log, and is told right only as a whole."""
    answer = proxy.send(get("/echo", method=b"POST", body=VALUE.encode()))
    assert VALUE.encode() in answer and not proxy.asked
    answer = proxy.send(get("/echo", BEARER, method=b"POST", body=OTHER.encode()))
    assert OTHER.encode() in answer and [each["name"] for each in proxy.asked] == ["openai/API_KEY"]


# streams


def test_events_come_one_by_one(proxy: Running) -> None:
    with proxy.greet() as tls:
        tls.sendall(get("/sse", BEARER).replace(b"HOST", f"api.localhost:{proxy.api.port}".encode()))
        data = b""
        while b"\n\n" not in data.partition(b"\r\n\r\n")[2]:
            data += tls.recv(65536)
        assert f"data: 0 {KEY}\n\n".encode() in data and b"data: 1" not in data
        proxy.api.proceed.set()
        while not data.endswith(b"0\r\n\r\n"):
            data += tls.recv(65536)
    assert f"data: 2 {KEY}\n\n".encode() in data and VALUE.encode() not in data


def test_what_is_big_is_not_held(proxy: Running) -> None:
    before = resident()
    with proxy.greet() as tls:
        tls.sendall(get("/big", BEARER).replace(b"HOST", f"api.localhost:{proxy.api.port}".encode()))
        count = 0
        while count < 64 << 20 and (piece := tls.recv(1 << 18)):
            count += len(piece)
        assert b"x" in piece
        tls.sendall(
            get("/echo", BEARER, b"Content-Length: %d" % (64 << 20), method=b"POST").replace(
                b"HOST", f"api.localhost:{proxy.api.port}".encode()
            )
        )
        for _ in range(64):
            tls.sendall(b"y" * (1 << 20))
        read_answer(tls)
    assert resident() - before < 40 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_who_says_nothing_is_not_waited_for(proxy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_of, "SILENCE", 0.2)
    sock, _ = proxy.connect(f"api.localhost:{proxy.api.port}")
    assert sock.recv(1) == b""


# WebSocket


def test_a_websocket(proxy: Running) -> None:
    """Its first request carries a key as any does; what the server says is scrubbed, and what the client says goes as it is."""
    server = pytest.importorskip("websockets.sync.server")
    from websockets.sync.client import connect

    came: list[Any] = []

    def serve(socket: Any) -> None:
        came.append(socket.request.headers["Authorization"])
        for message in socket:
            came.append(message)
            text = socket.request.headers["Authorization"].removeprefix("Bearer ")
            socket.send(f"you are {text}, and said {message}")
            socket.send(text.encode())

    with server.serve(serve, "127.0.0.1", 0, ssl=proxy.api.context) as running:
        port = running.socket.getsockname()[1]
        threading.Thread(target=running.serve_forever, daemon=True).start()
        proxy.gate.rules.append([frozenset({f"api.localhost:{port}"})])
        try:
            sock, said = proxy.connect(f"api.localhost:{port}")
            assert b" 200 " in said
            context = ssl.create_default_context(cafile=str(proxy.bundle))
            url, header = f"wss://api.localhost:{port}/live", {"Authorization": f"Bearer {KEY}"}
            with connect(url, sock=sock, ssl=context, additional_headers=header, proxy=None) as client:
                for _ in range(3):
                    client.send(f"hello {KEY}")
                    assert client.recv(20) == f"you are {KEY}, and said hello {KEY}"
                    assert client.recv(20) == KEY.encode()
        finally:
            proxy.gate.rules.pop()
            running.shutdown()
    assert came[0] == f"Bearer {VALUE}" and came[1] == f"hello {KEY}" and len(proxy.asked) == 1


def test_what_a_websocket_says_besides_messages(proxy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ping, and why it is closed."""
    server, protocol = pytest.importorskip("websockets.sync.server"), pytest.importorskip("websockets.protocol")
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    seen: list[bytes] = []
    answered: list[bool] = []
    receive = protocol.Protocol.recv_frame

    def spy(self: Any, frame: Any) -> None:
        if self.side is protocol.Side.CLIENT:
            seen.append(bytes(frame.data))
        receive(self, frame)

    monkeypatch.setattr(protocol.Protocol, "recv_frame", spy)

    def serve(socket: Any) -> None:
        text = socket.request.headers["Authorization"].removeprefix("Bearer ")
        answered.append(socket.ping(b"plain").wait(60))
        socket.ping(text.encode())
        socket.pong(text.encode())
        socket.close(1000, f"bye {text}")

    with server.serve(serve, "127.0.0.1", 0, ssl=proxy.api.context) as running:
        port = running.socket.getsockname()[1]
        threading.Thread(target=running.serve_forever, daemon=True).start()
        proxy.gate.rules.append([frozenset({f"api.localhost:{port}"})])
        try:
            sock, _ = proxy.connect(f"api.localhost:{port}")
            context = ssl.create_default_context(cafile=str(proxy.bundle))
            url, header = f"wss://api.localhost:{port}/live", {"Authorization": f"Bearer {KEY}"}
            with (
                connect(url, sock=sock, ssl=context, additional_headers=header, proxy=None) as client,
                pytest.raises(ConnectionClosed),
            ):
                client.recv(20)
        finally:
            proxy.gate.rules.pop()
            running.shutdown()
    assert answered == [True] and seen[:3] == [b"plain", KEY.encode(), KEY.encode()]
    assert client.close_reason == f"bye {KEY}" and not any(VALUE.encode() in each for each in seen)


# HTTP/2


@pytest.fixture
def newer(proxy: Running, tmp_path: Path) -> Iterator[Api]:
    """The API by HTTP/2, whose certificates are of the same authority."""
    api = Api(tmp_path, is_newer=True, certificate=proxy.api.server)
    proxy.gate.rules.append([frozenset({f"api.localhost:{api.port}"})])
    yield api
    proxy.gate.rules.pop()
    api.close()


def send_newer(
    proxy: Running, api: Api, *lines: tuple[str, str], authority: str = "", path: str = "/echo", sent: bytes = b""
) -> tuple[str, bytes]:
    """The status and the text of an answer by HTTP/2, with its trailers; "" for none. `sent` is sent without its length."""
    import h2.config
    import h2.connection
    import h2.events

    status, body = "", b""
    with proxy.greet(port=api.port, newer=True) as tls:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(validate_outbound_headers=False))
        connection.initiate_connection()
        head = [
            (":method", "POST" if sent else "GET"),
            (":scheme", "https"),
            (":path", path),
            (":authority", authority or f"api.localhost:{api.port}"),
        ]
        connection.send_headers(1, [*head, *lines], end_stream=not sent)
        if sent:
            connection.send_data(1, sent, end_stream=True)
        tls.sendall(connection.data_to_send())
        while data := tls.recv(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    status = dict(event.headers)[b":status"].decode()
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                elif isinstance(event, h2.events.TrailersReceived):
                    body += repr(event.headers).encode()
                elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset | h2.events.ConnectionTerminated):
                    return status, body
    return status, body


def test_a_stream_that_is_reset_takes_the_question_along(proxy: Running, newer: Api) -> None:
    """The connection stays, and another request on it goes on: its question is another one."""
    import h2.connection
    import h2.events

    asked, left, answered = threading.Semaphore(0), threading.Event(), asyncio.Event()

    async def wait() -> str:
        asked.release()
        try:
            await answered.wait()
        except asyncio.CancelledError:
            left.set()
            raise
        return VALUE

    proxy.values["openai/API_KEY"] = wait
    with proxy.greet(port=newer.port, newer=True) as tls:
        connection = h2.connection.H2Connection()
        connection.initiate_connection()
        head = [(":method", "GET"), (":scheme", "https"), (":authority", f"api.localhost:{newer.port}")]
        for number in (1, 3):
            lines = [(":path", f"/echo?{number}"), ("authorization", f"Bearer {KEY}")]
            connection.send_headers(number, [*head, *lines], end_stream=True)
        tls.sendall(connection.data_to_send())
        for _ in range(2):
            assert asked.acquire(timeout=60)
        connection.reset_stream(1)
        tls.sendall(connection.data_to_send())
        assert left.wait(60)
        proxy.loop.call_soon_threadsafe(answered.set)
        ended: list[int] = []
        while not ended and (data := tls.recv(65536)):
            ended = [each.stream_id for each in connection.receive_data(data) if isinstance(each, h2.events.StreamEnded)]
            tls.sendall(connection.data_to_send())
    assert ended == [3] and len(newer.heads) == 1 and b"/echo?3" in newer.heads[0]
    assert proxy.refused[-1]["why"] == "the client has left" and not proxy.gate.waiters.waiting


def test_http_2(proxy: Running, newer: Api) -> None:
    status, body = send_newer(proxy, newer, ("authorization", f"Bearer {KEY}"))
    assert status == "200" and f"authorization: Bearer {VALUE}".encode() in newer.heads[0]
    assert VALUE.encode() not in body and body.count(KEY.encode()) == 2 and b"x-trailer" in body


@pytest.mark.parametrize("name", ["cookie", "user-agent", "x-whatever"])
def test_no_other_header_takes_a_value_by_http_2(proxy: Running, newer: Api, name: str) -> None:
    status, body = send_newer(proxy, newer, (name, KEY))
    assert status == "403" and b"openai/API_KEY" in body and not newer.heads and not proxy.asked


@pytest.mark.parametrize("authority", ["other.localhost:PORT", "api.localhost", "api.localhost:1"])
def test_the_authority_is_the_host_of_the_connection(proxy: Running, newer: Api, authority: str) -> None:
    authority = authority.replace("PORT", str(newer.port))
    status, _ = send_newer(proxy, newer, ("authorization", f"Bearer {KEY}"), authority=authority)
    assert status in ("403", "") and not newer.heads and not proxy.asked


def test_a_host_besides_the_authority(proxy: Running, newer: Api) -> None:
    status, _ = send_newer(proxy, newer, ("authorization", f"Bearer {KEY}"), ("host", "other.localhost"))
    assert status in ("403", "") and not newer.heads and not proxy.asked


def test_no_second_request_in_a_body_of_http_2(proxy: Running) -> None:
    """An upstream of HTTP/1.1 reads a body without a length as the next request, which nobody has looked at."""
    hidden = get("/hidden", BEARER).replace(b"HOST", f"api.localhost:{proxy.api.port}".encode())
    status, body = send_newer(proxy, proxy.api, ("authorization", f"Bearer {KEY}"), sent=hidden)
    assert status == "200" and proxy.api.bodies == [hidden] and len(proxy.api.heads) == 1
    head = proxy.api.heads[0].lower()
    assert b"transfer-encoding: chunked\r\n" in head and b"connection: close\r\n" in head and VALUE.encode() not in body


def test_a_body_of_http_2_with_its_length(proxy: Running) -> None:
    status, _ = send_newer(proxy, proxy.api, ("content-length", "3"), sent=b"abc")
    assert status == "200" and proxy.api.bodies == [b"abc"] and b"chunked" not in proxy.api.heads[0].lower()
    assert send_newer(proxy, proxy.api)[0] == "200" and b"chunked" not in proxy.api.heads[1].lower()


def test_a_length_of_http_2_without_a_body(proxy: Running) -> None:
    status, _ = send_newer(proxy, proxy.api, ("content-length", "5"), ("authorization", f"Bearer {KEY}"))
    assert status in ("403", "") and not proxy.api.heads


# egress


def test_with_open_egress_others_are_reached_untouched(proxy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a tunnel: the client sees the host's own certificate, and a placeholder is worth nothing."""
    monkeypatch.setattr(proxy.gate, "is_open", True)
    _, said = proxy.connect(f"evil.localhost:{proxy.api.port}")
    assert b" 200 " in said  # but it is not of the internet, so nothing is there
    monkeypatch.setattr(engine, "is_global", lambda address: True)
    sock, said = proxy.connect(f"evil.localhost:{proxy.api.port}")
    context = ssl.create_default_context(cafile=str(proxy.api.roots))
    with context.wrap_socket(sock, server_hostname="evil.localhost") as tls:
        assert "test authority" in str(tls.getpeercert())
        tls.sendall(get("/echo", BEARER).replace(b"HOST", b"evil.localhost"))
        assert KEY.encode() in read_answer(tls)
    assert KEY.encode() in proxy.api.heads[-1] and not proxy.asked
    for address in ("10.0.0.1:443", "1.1.1.1:443", "[::1]:443", "0x7f.1:443"):
        assert b" 403 " in proxy.connect(address)[1]


# the authority


def test_no_client_takes_a_certificate_of_ours_for_another_host(proxy: Running, tmp_path: Path) -> None:
    from cryptography import x509

    certificate = x509.load_pem_x509_certificates(proxy.bundle.read_bytes())[-1]
    named = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert named.critical and certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    names = {each.value for each in named.value.permitted_subtrees if isinstance(each, x509.DNSName)}
    assert names == {"api.localhost", "wild.localhost", "other.localhost"}
    server, trusted = forge(tmp_path, "bank.localhost", ["api.localhost"])
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
        shake(server, trusted, "bank.localhost")
    shake(*forge(tmp_path, "api.localhost", ["api.localhost"]), "api.localhost")


def forge(top: Path, host: str, allowed: list[str]) -> tuple[Path, Path]:
    """What who has stolen an authority's key could make: a certificate for a host, with the key; and what clients trust."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from mitmproxy import certs

    authority = engine.Authority(allowed)
    store = certs.CertStore(authority.key, certs.Cert(authority.certificate), None, b"", None)
    entry = store.get_cert(host, [x509.DNSName(host)], None, None)
    private = authority.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    server, trusted = top / f"{host}.pem", top / f"{host}-trusted.pem"
    server.write_bytes(entry.cert.to_pem() + private)
    trusted.write_bytes(authority.to_pem())
    return server, trusted


def shake(server: Path, trusted: Path, host: str) -> None:
    """TLS between the two, in memory; raises what the client says."""
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(trusted))
    theirs.load_cert_chain(server)
    ends = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ours.wrap_bio(ends[0], ends[1], server_hostname=host)
    answering = theirs.wrap_bio(ends[1], ends[0], server_side=True)
    for _ in range(4):
        for each in (client, answering):
            try:
                each.do_handshake()
            except ssl.SSLWantReadError:
                pass


# placeholders


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("sk-proj-" + "a1" * 20, r"sk-proj-[A-Za-z0-9]{40}"),
        ("sk-ant-api03-" + "a1" * 40, r"sk-ant-api03-[A-Za-z0-9]{80}"),
        ("ghp_" + "a1" * 18, r"ghp_[A-Za-z0-9]{36}"),
        ("SG." + "a" * 22 + "." + "b" * 43, r"SG\.[A-Za-z0-9]{22}\.[A-Za-z0-9]{43}"),
        ("123456789:" + "A" * 35, r"[1-9][0-9]{8}:[A-Za-z0-9]{35}"),
        ("0" * 40, r"[0-9a-f]{40}"),
        ("AKIAIOSFODNN7EXAMPLE", r"AKIA[A-Z2-7]{16}"),
        ("ASIA" + "Q3EG" * 4, r"ASIA[A-Z2-7]{16}"),
        ("AKIAIOSFODNN7EXAMPLe", r"[A-Za-z0-9]{24}"),
        ("short", r"[A-Za-z0-9]{24}"),
        ("Pa$$w0rd with spaces, long enough!", r"[A-Za-z0-9]{34}"),
    ],
)
def test_a_placeholder_has_the_form_of_its_key(value: str, form: str) -> None:
    made = {avault.make_placeholder(value) for _ in range(20)}
    assert len(made) == 20 and all(re.fullmatch(form, each) for each in made) and value not in made


def test_a_placeholder_tells_nothing_else_of_a_value() -> None:
    """What is kept of it is how keys of that service begin: of all other characters, none depends on the value's."""
    assert not any(avault.make_placeholder("correct-horse-battery-staple-1")[:7] == "correct" for _ in range(50))


def test_an_authority_for_no_host() -> None:
    """With --egress open, and no secret that goes to a host: it vouches for nobody."""
    from cryptography import x509

    found = engine.Authority([]).certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    assert [each.value for each in found.permitted_subtrees] == ["none.invalid"] and len(found.excluded_subtrees) == 2
