"""Heads of requests that some read otherwise, and what is no request at all."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

from api_server import Api
from test_proxy_traps import BEARER, VALUE, Running, gate_of, get


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, api: Api) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("s"), api)
    yield running
    running.end()


@pytest.fixture
def proxy(shared: Running) -> Running:
    shared.forget()
    shared.values["openai/API_KEY"] = VALUE
    return shared


@pytest.mark.parametrize(
    "line",
    [b"Transfer-Encoding: xchunked", b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: gzip, chunked", b"X: a\rb",
     b"Transfer-Encoding : chunked", b"Content-Length: +1", b"Content-Length: 0x1", b"Content-Length: 1, 1", b"X\tY: b"],
)  # fmt: skip
def test_what_says_its_end_in_an_odd_way(proxy: Running, line: bytes) -> None:
    answer = proxy.send(get("/echo", BEARER, line, method=b"POST"))
    assert b" 200 " not in answer and not proxy.asked and not proxy.api.heads


def test_lines_that_end_in_half_an_end_go_on_whole(proxy: Running) -> None:
    """Or not at all: what arrives is read in one way."""
    proxy.send(get("/echo", BEARER).replace(b"\r\n", b"\n"))
    assert not any(re.search(rb"(?<!\r)\n", head) for head in proxy.api.heads)


def test_a_line_that_is_folded_is_one_or_none(proxy: Running) -> None:
    proxy.send(get("/echo", BEARER, b"X-Long: a\r\n Authorization: Bearer other"))
    assert not any(re.search(rb"\r\n[ \t]", head) for head in proxy.api.heads)


@pytest.mark.parametrize("said", [b"\x00" * 40, b"SSH-2.0-OpenSSH_9.9\r\n", b"*1\r\n$4\r\nPING\r\n"])
def test_what_is_no_http_is_not_waited_for(proxy: Running, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    """Within the TLS of a tunnel: it is refused, or the time until the first request is over."""
    monkeypatch.setattr(gate_of, "SILENCE", 0.5)
    with proxy.greet() as tls:
        tls.sendall(said)
        answer = b""
        try:
            while piece := tls.recv(4096):
                answer += piece
        except OSError:
            pass  # it is cut
    assert b" 200 " not in answer and not proxy.asked and not proxy.api.heads
