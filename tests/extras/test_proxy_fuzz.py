"""Requests that nobody would write, through the proxy's engine: a value goes where it may, and nowhere else.

Of each connection the API has seen no request that the proxy did not look at: what one of them reads as one request, and the
other as two, would show. mitmproxy runs in a thread, as in test_proxy_traps.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

from api_server import Api
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_proxy_traps import BEARER, KEY, VALUE, Running, get, send_newer

pytestmark = [pytest.mark.slow, pytest.mark.proof]
EXAMPLES = 3000 if os.environ.get("AVAULT_TEST_FULL") else 120
QUIET = 0.15  # seconds without an answer, after which a connection is left
FUZZED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def passed() -> list[tuple[bytes, bytes]]:
    """The method and path of each request that the proxy has let go on."""
    return []


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, api: Api, passed: list[tuple[bytes, bytes]]) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("s"), api)
    admit = running.gate.admit

    async def note(flow: Any) -> None:
        await admit(flow)
        passed.append((flow.request.data.method, flow.request.data.path))

    running.gate.admit = note
    yield running
    running.end()


# What is put together: lines that are odd by themselves, in requests that are odd as a whole

ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r\n"])
ODD = st.sampled_from(
    [
        b"Content-Length: 0", b"Content-Length: 5", b"Content-Length: +5", b"Content-Length: 5, 5", b"Content-Length : 5",
        b"Content-Length: 0x5", b"Content-Length:\t7", b"Transfer-Encoding: chunked", b"Transfer-Encoding: Chunked",
        b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: identity", b"Transfer-Encoding:\x0bchunked",
        b"Transfer_Encoding: chunked", b"X: y\r\n folded", b"Transfer-Encoding: x, chunked", b"TE: trailers",
        b"Expect: 100-continue", b"Upgrade: websocket",
        b"Connection: keep-alive, Authorization", b"Connection: close", b"Connection: Upgrade", b"Upgrade: h2c",
        b"Host: other.localhost", b"host: HOST", b"Host: HOST, HOST", b"X-Forwarded-Host: evil.localhost", b": nameless",
        b"Cookie: " + KEY.encode(), b"X-Api-Key: " + KEY.encode(), b"Authorization: Basic " + KEY.encode(), b"\x00: y",
        b"Authorization: " + KEY.encode(),
        BEARER, BEARER.replace(b" ", b"\t"), BEARER + b" ", BEARER + b"x", b"Trailer: Authorization", b"no colon",
        b"Content-Encoding: gzip",
    ]
)  # fmt: skip
LINES = st.one_of(ODD, ODD, st.binary(min_size=1, max_size=20))
PATHS = st.sampled_from(
    [b"/echo", b"/", b"/echo?" + KEY.encode(), b"//echo", b"/a b", b"/echo#x", b"*", b"https://api.localhost/echo", b"/\xc3\xa9",
     b"", b"/" + KEY.encode(), b"/%2e%2e/echo", b"/echo HTTP/1.1\r\nX: y"]
)  # fmt: skip
FIRST = st.tuples(
    st.sampled_from([b"GET", b"POST", b"PUT", b"get", b"CONNECT", b"TRACE", b"GET ", b"\nGET", b"P\x00ST", b"DELETE"]),
    st.one_of(st.just(b"/echo"), PATHS),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"HTTP/0.9"]),
)
BODIES = st.sampled_from(
    [
        b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"5\nhello\n0\n\n", b"5;x=\r\ny\r\nhello\r\n0\r\n\r\n",
        b"0\r\n\r\n", b"-1\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"0\r\nAuthorization: x\r\n\r\n", get("/hidden", BEARER),
        b"0\r\n\r\n" + get("/hidden", BEARER), b"ffffffffffffffff1\r\nx", KEY.encode(),
    ]
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One: mostly as it should be, with some of it odd."""
    method, path, version = draw(st.one_of(st.just((b"POST", b"/echo", b"HTTP/1.1")), FIRST))
    lines = [b"Host: HOST", BEARER, *draw(st.lists(LINES, max_size=3))]
    if draw(st.booleans()):
        lines = draw(st.permutations(lines))
    end = draw(ENDS)
    return (
        b" ".join([method, path, version])
        + end
        + b"".join(line + draw(st.one_of(st.just(end), ENDS)) for line in lines)
        + end
        + draw(BODIES)
    )


def send_raw(proxy: Running, data: bytes) -> bytes:
    """What comes back for some bytes, until nothing comes."""
    said = b""
    with contextlib.suppress(OSError), proxy.greet() as tls:
        tls.sendall(data.replace(b"HOST", f"api.localhost:{proxy.api.port}".encode()))
        tls.settimeout(QUIET)
        while piece := tls.recv(65536):
            said += piece
    return said


def clear(proxy: Running, passed: list[tuple[bytes, bytes]]) -> None:
    for each in (passed, proxy.asked, proxy.refused, proxy.api.heads, proxy.api.bodies):
        each.clear()


def check(proxy: Running, passed: list[tuple[bytes, bytes]], said: bytes) -> int:
    """What holds of each connection; gives how many requests the API had."""
    value, key = VALUE.encode(), KEY.encode()
    assert value not in said
    heads, bodies = [*proxy.api.heads], [*proxy.api.bodies]
    assert not any(value in body for body in bodies)
    seen = [tuple(head.split(b" ")[:2]) for head in heads]
    left = iter(passed)
    assert all(each in left for each in seen), (seen, passed)  # in that order, and no other
    for head in heads:
        first, *lines = head.split(b"\r\n")
        assert key not in head and value not in first and re.fullmatch(rb"[A-Z-]+ /[!-~]* HTTP/1\.1", first), head
        names = [line.partition(b":")[0].strip().lower() for line in lines if line]
        assert names.count(b"host") == 1 and f"api.localhost:{proxy.api.port}".encode() in head
        holding = {name for name, line in zip(names, lines, strict=False) if value in line}
        assert holding <= {b"authorization", b"x-api-key"}, head
    assert sum(value in head for head in heads) <= len(proxy.asked)
    return len(heads)


def test_requests_of_http_1(proxy: Running, passed: list[tuple[bytes, bytes]]) -> None:
    arrived = []

    @FUZZED
    @given(data=st.lists(requests(), min_size=1, max_size=2).map(b"".join))
    def send(data: bytes) -> None:
        clear(proxy, passed)
        arrived.append(check(proxy, passed, send_raw(proxy, data)))

    send()
    assert sum(arrived) > len(arrived) // 20  # not all were too odd to go


NAMES = st.sampled_from(
    ["authorization", "x-api-key", "cookie", "host", "content-length", "transfer-encoding", "connection", "te", "upgrade",
     "expect", "Authorization", "x\r\ny", "x y", "", KEY, ":path", ":authority", ":status", "x-\x00"]
)  # fmt: skip
VALUES = st.sampled_from(
    ["Bearer " + KEY, KEY, "x", "5", "0", "chunked", "trailers", "close, authorization", "h2c", "a\r\nAuthorization: b",
     "a\nb", "\x00", " x ", "other.localhost", "/hidden"]
)  # fmt: skip


def test_requests_of_http_2(proxy: Running, passed: list[tuple[bytes, bytes]]) -> None:
    """By HTTP/2 to the proxy, and from there by HTTP/1.1, where a line's end would be one."""
    arrived = []

    @FUZZED
    @given(
        lines=st.lists(st.tuples(NAMES, VALUES), max_size=4),
        path=st.sampled_from(["/echo", "/echo", "/" + KEY, "//x", "*", "", "/a\r\nX: y", "/a b", "https://other.localhost/"]),
        authority=st.sampled_from(["", "", "", "other.localhost", "api.localhost"]),
        sent=st.sampled_from([b"", b"hello", get("/hidden", BEARER)]),
    )
    def send(lines: list[tuple[str, str]], path: str, authority: str, sent: bytes) -> None:
        clear(proxy, passed)
        said = b""
        with contextlib.suppress(OSError, ssl.SSLError):
            said = send_newer(proxy, proxy.api, *lines, authority=authority, path=path, sent=sent)[1]
        arrived.append(check(proxy, passed, said))

    send()
    assert sum(arrived) > len(arrived) // 20


def test_that_the_search_would_find_it(proxy: Running, passed: list[tuple[bytes, bytes]]) -> None:
    """What is as it should be goes, so that the tests above look at something; and a request that was not let go is told."""
    clear(proxy, passed)
    said = send_raw(proxy, get("/echo", BEARER))
    assert check(proxy, passed, said) == 1 and KEY.encode() in said
    passed.clear()
    with pytest.raises(AssertionError):
        check(proxy, passed, said)
    with pytest.raises(AssertionError):
        check(proxy, [(b"GET", b"/echo")], said + VALUE.encode())
