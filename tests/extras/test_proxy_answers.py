"""What a server of tokens answers, by connections that end in other ways than the answer does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import gzip
import json
import os
import resource
import socket
import ssl
import struct
import time
from pathlib import Path
from typing import Any

import pytest

import avault

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

from api_server import make_certificates

proxy_refresh = avault.load_extra("proxy_refresh", "proxy")
GIVEN = {"access_token": "new-access-0123456789", "refresh_token": "new-refresh-0123456789", "expires_in": 3600}
BODY = json.dumps(GIVEN).encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SIZED = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n%04x\r\n%s\r\n0\r\n\r\n" % (
    20,
    BODY[:20],
    len(BODY) - 20,
    BODY[20:],
)
UNSIZED = HEAD + b"\r\n" + BODY


async def ask(top: Path, pieces: list[bytes], end: str) -> tuple[int, bytes]:
    """What comes of an answer in pieces, after which the connection is `open`, or has a `reset` or an `end`."""
    roots, server = make_certificates(top)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server)
    asked, over = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"grant_type=refresh_token")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        asked.set()
        if end == "open":
            await over.wait()
        elif end == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        with contextlib.suppress(OSError):
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    job = {"host": "localhost", "port": port, "path": "/t", "json": False, "fields": {"grant_type": "refresh_token"}}
    try:
        found: tuple[int, bytes] = await proxy_refresh.post(job, str(roots))
        return found
    finally:
        over.set()
        listener.close()


@pytest.mark.parametrize("end", ["open", "reset", "end"])
@pytest.mark.parametrize("answer", [SIZED, CHUNKED, UNSIZED])
@pytest.mark.parametrize("cut", [0, 40, -10])
async def test_an_answer_that_is_there_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, answer: bytes, cut: int
) -> None:
    """It may be the only one: the old token is used up."""
    monkeypatch.setattr(proxy_refresh, "ASK_TIME", 1.5 if (end, answer) == ("open", UNSIZED) else 60.0)
    began = time.monotonic()
    status, body = await ask(tmp_path, [each for each in (answer[:cut], answer[cut:]) if each], end)
    assert (status, proxy_refresh.read_answer("h", status, body)["access"]) == (200, GIVEN["access_token"])
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("end", ["open", "reset", "end"])
@pytest.mark.parametrize("there", [0, 12, len(SIZED) - 5])
async def test_half_an_answer_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, there: int) -> None:
    monkeypatch.setattr(proxy_refresh, "ASK_TIME", 0.5)
    with pytest.raises((OSError, avault.Unavailable)):
        proxy_refresh.read_answer("h", *await ask(tmp_path, [SIZED[:there]] if there else [], end))


EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


@pytest.mark.parametrize("answer", [
    EARLY + b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED,
    SIZED.replace(b"200 OK", b"201 Created"),
    HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(BODY),
    HEAD + b"\r\n" + json.dumps({**GIVEN, "expires_in": 10**400}).encode(),
])  # fmt: skip
async def test_an_answer_in_another_form_is_taken(tmp_path: Path, answer: bytes) -> None:
    found = proxy_refresh.read_answer("h", *await ask(tmp_path, [answer], "end"))
    assert (found["access"], found["refresh"]) == (GIVEN["access_token"], GIVEN["refresh_token"])


async def test_no_more_is_unpacked_than_an_answer_may_have(tmp_path: Path) -> None:
    answer = HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(1 << 22))
    status, body = await ask(tmp_path, [answer], "end")
    assert status == 200 and len(body) <= proxy_refresh.LONGEST_ANSWER


def test_an_empty_refresh_token_is_no_other_one() -> None:
    found = proxy_refresh.read_answer("h", 200, json.dumps({**GIVEN, "refresh_token": ""}).encode())
    assert found["access"] == GIVEN["access_token"] and found["refresh"] is None


async def test_nobody_is_asked_where_there_is_no_room_for_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full, or its quota: what was answered would be lost."""
    asked: list[Any] = []

    async def post(job: dict[str, Any], roots: str) -> tuple[int, bytes]:
        asked.append(job)
        if len(asked) == 1:
            raise ConnectionError
        return 200, BODY

    monkeypatch.setattr(proxy_refresh, "post", post)
    monkeypatch.setattr(proxy_refresh, "outlive_others", lambda: None)
    kept, keys = tmp_path / "token", avault.make_keys()
    job = {"kept": str(kept), "host": "h", "to": avault.public_hex(keys), "was": "", "over": ""}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (proxy_refresh.ROOM // 2, limits[1]))
    try:
        with pytest.raises(avault.Unavailable, match="no room"):
            await proxy_refresh.ask_for_token(job, lambda: "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not asked and not kept.exists()
    with pytest.raises(avault.Unavailable, match="no answer"):
        await proxy_refresh.ask_for_token(job, lambda: "")
    assert {each.name for each in tmp_path.iterdir()} == {"token.lock"}
    await proxy_refresh.ask_for_token(job, lambda: "")
    assert asked and {each.name for each in tmp_path.iterdir()} == {"token", "token.lock"}


async def test_nobody_takes_the_room_for_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full as soon as the server has answered: no file can be made, and none can grow."""
    kept, keys, limits = tmp_path / "token", avault.make_keys(), resource.getrlimit(resource.RLIMIT_FSIZE)
    job = {"kept": str(kept), "host": "h", "to": avault.public_hex(keys), "was": "", "over": ""}
    create = os.open

    def fill_up(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_CREAT and str(tmp_path) in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return create(path, flags, *rest, **more)

    async def post(job: dict[str, Any], roots: str) -> tuple[int, bytes]:
        monkeypatch.setattr(os, "open", fill_up)
        resource.setrlimit(resource.RLIMIT_FSIZE, (proxy_refresh.ROOM, limits[1]))
        return 200, BODY

    monkeypatch.setattr(proxy_refresh, "post", post)
    monkeypatch.setattr(proxy_refresh, "outlive_others", lambda: None)
    try:
        await proxy_refresh.ask_for_token(job, lambda: "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert json.loads(avault.open_value(keys, kept.read_text()))["access"] == GIVEN["access_token"]
    assert kept.stat().st_size < proxy_refresh.ROOM and kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("url", ["https://h/t x", "https://h/t\tx", "https://h /t", "https://h/t\x7f"])
def test_a_servers_address_has_no_blanks(url: str) -> None:
    """They would end what a request says of where it goes."""
    tokens = object.__new__(avault.Tokens)
    tokens.group, tokens.url = "g", url
    with pytest.raises(avault.Denied, match="no https"):
        tokens.where()


def make_token(expires: float) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": expires}).encode()).decode().rstrip("=")
    return f"e30.{claims}.c2ln"


@pytest.mark.parametrize(("more", "seconds"), [
    ({"expires_in": 3600}, 3600), ({}, 0), ({"expires_in": None}, 0), ({"expires_in": 1}, 0), ({"expires_in": 1e300}, 0),
    ({"expires_in": float("nan")}, 0), ({"access_token": 1800}, 1800), ({"access_token": -5}, 0), ({"access_token": 1e300}, 0),
    ({"access_token": 1800, "expires_in": 60}, 60), ({"expires_in": "3600"}, 3600), ({"expires_in": "soon"}, 0),
])  # fmt: skip
def test_for_how_long_a_token_is_good(more: dict[str, Any], seconds: int) -> None:
    """By what the server says, else by what the token says; 0 if neither does so that it can be believed."""
    now = time.time()
    access = make_token(now + more["access_token"]) if "access_token" in more else "opaque-0123456789"
    given = {**GIVEN, "expires_in": None} | more | {"access_token": access}
    found = proxy_refresh.read_answer("h", 200, json.dumps(given).encode())["expires"]
    assert (abs(found - now - seconds) < 5) if seconds else found == 0
