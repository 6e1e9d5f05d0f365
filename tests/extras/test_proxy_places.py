"""Where a key goes besides headers, for who asked for it: path, query, body, a WebSocket's messages."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import ssl
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import avault

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

from api_server import Api
from test_proxy_traps import AWAY, BEARER, KEY, VALUE, Running, get, proxy_broker, read_answer, refused, resident, send_newer

places = proxy_broker.proxy_gate.proxy_places
sockets = proxy_broker.proxy_engine.proxy_sockets  # the one whose class mitmproxy makes its ends of
ODD = 'a"b\\c &+/?%#:=@é-0123456789'
JSON = b"Content-Type: application/json"
FORM = b"Content-Type: application/x-www-form-urlencoded; charset=utf-8"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, api: Api) -> Iterator[Running]:
    everywhere = ("", *(f"{place}@" for place in avault.PLACES))
    running = Running(tmp_path_factory.mktemp("s"), api, places=everywhere)
    yield running
    running.end()


@pytest.fixture
def proxy(shared: Running) -> Running:
    shared.forget()
    shared.values["openai/API_KEY"] = VALUE
    return shared


def target(proxy: Running) -> bytes:
    return proxy.api.heads[-1].split(b" ")[1]


# path and query


def test_a_path(proxy: Running) -> None:
    assert b" 200 " in proxy.send(get(f"/bot{KEY}/getMe?a=1"))
    assert target(proxy) == f"/bot{VALUE}/getMe?a=1".encode()
    assert proxy.asked[0]["in"] == ["path"] and proxy.asked[0]["path"] == f"/bot{KEY}/getMe"


def test_a_query(proxy: Running) -> None:
    answer = proxy.send(get(f"/echo?key={KEY}&b=2"))
    assert target(proxy) == f"/echo?key={VALUE}&b=2".encode() and proxy.asked[0]["in"] == ["query"]
    assert VALUE.encode() not in answer and f"key={KEY}&b=2".encode() in answer


def test_what_a_path_and_a_query_cannot_hold_is_written_by_percent(proxy: Running) -> None:
    proxy.values["openai/API_KEY"] = ODD
    proxy.send(get(f"/x/{KEY}/y"))
    assert target(proxy) == b"/x/" + quote(ODD, safe="&+:=@").encode() + b"/y"
    answer = joined(proxy.send(get(f"/echo?k={KEY}")))
    assert target(proxy) == b"/echo?k=" + quote(ODD, safe="").encode()
    assert quote(ODD, safe="").encode() not in answer and f"k={KEY}".encode() in answer


def test_in_several_places_it_is_asked_for_once(proxy: Running) -> None:
    proxy.send(get(f"/{KEY}?{KEY}", BEARER))
    assert [each["in"] for each in proxy.asked] == [["path", "query", "header"]]
    assert target(proxy) == f"/{VALUE}?{VALUE}".encode() and f"Bearer {VALUE}".encode() in proxy.api.heads[0]


def test_in_head_and_body_too_that_is_one_use(proxy: Running) -> None:
    """Its body is waited for before anything is asked."""
    before, body = proxy.uses, b'{"key": "%s"}' % KEY.encode()
    proxy.send(post(body, JSON, f"Authorization: Bearer {KEY}".encode()))
    assert [each["in"] for each in proxy.asked] == [["header", "body"]] and proxy.uses == before + 1
    assert VALUE.encode() in proxy.api.heads[0] and VALUE.encode() in proxy.api.bodies[0]


def test_two_secrets_are_asked_for_at_once(proxy: Running) -> None:
    before, pair = proxy.uses, base64.b64encode(f"{KEY}:{AWAY}".encode())
    answer = proxy.send(get("/echo", b"Authorization: Basic " + pair))
    assert [each["name"] for each in proxy.asked] == ["openai/API_KEY", "other/KEY"] and proxy.uses == before + 1
    assert base64.b64encode(f"{VALUE}:{proxy.values['other/KEY']}".encode()) in proxy.api.heads[0] and pair in answer


def test_one_in_the_head_and_another_in_a_body_that_goes_by(proxy: Running) -> None:
    request = chunked(b'{"key": "%s"}' % KEY.encode()).replace(JSON, JSON + b"\r\nAuthorization: Bearer " + AWAY.encode())
    assert b" 200 " in proxy.send(request)
    assert proxy.values["other/KEY"].encode() in proxy.api.heads[0] and VALUE.encode() in proxy.api.bodies[0]


def test_a_body_that_is_expected_is_waited_for(proxy: Running) -> None:
    """The client has its 100 of us, and the API sees no Expect."""
    body = b'{"key": "%s"}' % KEY.encode()
    with proxy.greet() as tls:
        head, _, rest = post(body, JSON, b"Expect: 100-continue").partition(b"\r\n\r\n")
        tls.sendall(head.replace(b"HOST", f"api.localhost:{proxy.api.port}".encode()) + b"\r\n\r\n")
        assert tls.recv(1000).startswith(b"HTTP/1.1 100")
        tls.sendall(rest)
        assert b" 200 " in read_answer(tls)
    assert VALUE.encode() in proxy.api.bodies[0] and b"xpect" not in proxy.api.heads[0]


def test_a_bots_token_with_its_colon_by_percent() -> None:
    text = avault.make_placeholder("123456789:" + "A" * 35)
    for form in (text, quote(text, safe=""), text.replace(":", "%3a")):
        found = places.find_in_target("path", f"/bot{form}/x".encode(), "h", {"t/K": text}, {"t/K": text})
        assert found == ["t/K"]


@pytest.mark.parametrize("form", ["PERCENT", "BASE64", "UPPER"])
def test_in_a_form_that_is_not_put_in(proxy: Running, form: str) -> None:
    """Also beside one that is."""
    hidden = {
        "PERCENT": "".join(f"%{each:02x}" for each in KEY.encode()),
        "BASE64": places.proxy_headers.base64.urlsafe_b64encode(b"x" + KEY.encode()).decode(),
        "UPPER": KEY.upper(),
    }[form]
    for path in (f"/a/{hidden}", f"/a/{KEY}/{hidden}", f"/?{hidden}"):
        proxy.refused.clear()
        refused(proxy, proxy.send(get(path)), "openai/API_KEY", "in a form that is not put in")


def test_another_secret_in_the_same_place(proxy: Running) -> None:
    for path, place in ((f"/{AWAY}", "path"), (f"/?{AWAY}", "query"), (f"/{KEY}?{AWAY}", "query")):
        proxy.refused.clear()
        refused(proxy, proxy.send(get(path)), "other/KEY", f"the {place} of a request to api.localhost")


@pytest.mark.parametrize("value", ["a\r\nX-Injected: 1-0123456", "a\nb-0123456789", "a\0b-0123456789"])
def test_line_ends_go_nowhere(proxy: Running, value: str) -> None:
    proxy.values["openai/API_KEY"] = value
    for request in (get(f"/{KEY}"), get(f"/?{KEY}"), post(json.dumps({"k": KEY}).encode(), JSON)):
        assert b" 403 " in proxy.send(request) and not proxy.api.heads


# bodies


def joined(answer: bytes) -> bytes:
    """The body of an answer, without what is between its chunks."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b"chunked" not in head.lower():
        return rest
    body = b""
    while size := int(rest.partition(b"\r\n")[0], 16):
        rest = rest.partition(b"\r\n")[2]
        body, rest = body + rest[:size], rest[size + 2 :]
    return body


def post(body: bytes, *lines: bytes) -> bytes:
    return get("/echo", *lines, method=b"POST", body=body)


@pytest.mark.parametrize("value", [VALUE, ODD])
@pytest.mark.parametrize("kind", [JSON, b"Content-Type: application/vnd.api+json"])
def test_json(proxy: Running, value: str, kind: bytes) -> None:
    proxy.values["openai/API_KEY"] = value
    answer = proxy.send(post(json.dumps({"token": KEY, "text": f"<{KEY}>"}).encode(), kind))
    assert json.loads(proxy.api.bodies[0]) == {"token": value, "text": f"<{value}>"}
    assert proxy.asked[0]["in"] == ["body"] and len(proxy.asked) == 1
    answer = joined(answer)
    assert json.dumps(value)[1:-1].encode() not in answer and answer.count(KEY.encode()) == 2


@pytest.mark.parametrize("value", [VALUE, ODD])
def test_a_form(proxy: Running, value: str) -> None:
    from urllib.parse import parse_qs

    proxy.values["openai/API_KEY"] = value
    proxy.send(post(f"token={KEY}&channel=c".encode(), FORM))
    assert parse_qs(proxy.api.bodies[0].decode()) == {"token": [value], "channel": ["c"]}


@pytest.mark.parametrize("lines", [[b"Content-Type: text/plain"], [], [b"Content-Type: multipart/form-data; boundary=x"]])
def test_other_bodies_are_not_looked_at(proxy: Running, lines: list[bytes]) -> None:
    proxy.send(post(KEY.encode(), *lines))
    assert proxy.api.bodies == [KEY.encode()] and not proxy.asked


def test_nor_is_what_is_packed(proxy: Running) -> None:
    body = gzip.compress(KEY.encode())
    proxy.send(post(body, JSON, b"Content-Encoding: gzip"))
    assert proxy.api.bodies == [body] and not proxy.asked


def test_a_short_body_without_one_asks_for_nothing(proxy: Running) -> None:
    assert b" 200 " in proxy.send(post(b'{"a": 1}', JSON)) and not proxy.asked
    assert b" 200 " in proxy.send(post(AWAY.encode(), FORM)) and not proxy.asked
    assert proxy.api.bodies == [b'{"a": 1}', AWAY.encode()]


def test_what_the_keyholder_refuses_of_a_body_does_not_go(proxy: Running) -> None:
    proxy.values["openai/API_KEY"] = avault.Denied("openai/API_KEY may not be used by POST")
    answer = proxy.send(post(json.dumps(KEY).encode(), JSON))
    assert b" 403 " in answer and b"may not be used by POST" in answer and not proxy.api.heads


def chunked(*pieces: bytes) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in pieces) + b"0\r\n\r\n"
    return get("/echo", JSON, b"Transfer-Encoding: chunked", method=b"POST") + body


@pytest.mark.parametrize("value", [VALUE, ODD])
def test_a_body_of_no_length_in_pieces(proxy: Running, value: str) -> None:
    """Cut at each place in a placeholder: asked for once, before it goes."""
    proxy.values["openai/API_KEY"] = value
    body = json.dumps({"k": KEY}).encode()
    for cut in range(len(body) - len(KEY) - 3, len(body), 5):
        assert b" 200 " in proxy.send(chunked(body[:cut], body[cut:]))
        assert json.loads(proxy.api.bodies[-1]) == {"k": value}
    assert all(each["in"] == ["body"] for each in proxy.asked)


@pytest.mark.parametrize("value", [VALUE, ODD])
def test_a_long_body_is_not_held(proxy: Running, value: str) -> None:
    """Its length stays, where the value is as long as the placeholder."""
    proxy.values["openai/API_KEY"] = value
    is_same = value == VALUE
    before, size, host = resident(), (48 if is_same else 2) << 20, f"api.localhost:{proxy.api.port}".encode()
    end = json.dumps(KEY).encode()
    with proxy.greet() as tls:
        line = get("/long", JSON, b"Content-Length: %d" % (size + len(end)), method=b"POST")
        tls.sendall(line.replace(b"HOST", host))
        for _ in range(size >> 20):
            tls.sendall(b" " * (1 << 20))
        tls.sendall(end)
        assert b" 200 " in read_answer(tls)
    assert resident() - before < 40 << 20 and len(proxy.asked) == 1
    assert (b"content-length: %d" % (size + len(end)) in proxy.api.heads[0].lower()) == is_same
    if not is_same:
        assert proxy.api.bodies[-1][-len(json.dumps(value)) :] == json.dumps(value).encode()


@pytest.fixture
def newer(proxy: Running, tmp_path: Path) -> Iterator[Api]:
    api = Api(tmp_path, is_newer=True, certificate=proxy.api.server)
    with ruled(proxy, api.port):
        yield api
    api.close()


@contextmanager
def ruled(proxy: Running, port: int, *more: str) -> Iterator[None]:
    """A rule for another port of the host, while it lasts."""
    rules = proxy.gate.sets["openai/API_KEY"]
    before = rules[0]
    rules[0] = before | {f"{place}api.localhost:{port}" for place in ("", "body@", "path@", *more)}
    yield
    rules[0] = before


@pytest.mark.parametrize("with_length", [True, False])
def test_by_http_2(proxy: Running, newer: Api, with_length: bool) -> None:
    proxy.values["openai/API_KEY"] = ODD
    body = json.dumps({"k": KEY}).encode()
    lines = [("content-type", "application/json"), *([("content-length", str(len(body)))] if with_length else [])]
    status, answer = send_newer(proxy, newer, *lines, sent=body, path=f"/{KEY}")
    assert status == "200" and json.loads(newer.bodies[0]) == {"k": ODD}
    assert b":path: /" + quote(ODD, safe="&+:=@").encode() in newer.heads[0]
    assert json.dumps(ODD)[1:-1].encode() not in answer and KEY.encode() in answer


def test_a_body_that_is_shorter_than_it_says(proxy: Running, newer: Api) -> None:
    status, _ = send_newer(proxy, newer, ("content-type", "application/json"), ("content-length", "99"), sent=b"{}")
    assert status in ("403", "") and not newer.heads and not proxy.asked


# WebSocket


@contextmanager
def live(proxy: Running, answer: Callable[[Any], Any], *places: str) -> Iterator[tuple[Any, list[Any]]]:
    """A client of a WebSocket through the proxy, and what came to the server, which says `answer` of it."""
    server = pytest.importorskip("websockets.sync.server")
    from websockets.sync.client import connect

    came: list[Any] = []

    def serve(socket: Any) -> None:
        for message in socket:
            came.append(message)
            socket.send(answer(message))

    with server.serve(serve, "127.0.0.1", 0, ssl=proxy.api.context, max_size=None) as running:
        port = running.socket.getsockname()[1]
        threading.Thread(target=running.serve_forever, daemon=True).start()
        with ruled(proxy, port, *places):
            sock, said = proxy.connect(f"api.localhost:{port}")
            assert b" 200 " in said
            context = ssl.create_default_context(cafile=str(proxy.bundle))
            url = f"wss://api.localhost:{port}/live"
            with connect(url, sock=sock, ssl=context, proxy=None, max_size=None) as client:
                yield client, came
        running.shutdown()


def test_messages(proxy: Running) -> None:
    """As text it is put in as it is, in JSON as JSON has it; and taken out of what comes back."""
    proxy.values["openai/API_KEY"] = ODD
    with live(proxy, lambda message: message, "websocket@") as (client, came):
        for sent, meant in ((f"AUTH {KEY}", f"AUTH {ODD}"), (json.dumps({"k": KEY}), json.dumps({"k": ODD}))):
            client.send(sent)
            assert client.recv(60) == sent and came[-1] == meant
        client.send(KEY.encode())  # what is not text, is not looked at
        assert client.recv(60) == KEY.encode() == came[-1]
        client.send([KEY[:9], KEY[9:]])  # a message in pieces is one
        assert client.recv(60) == KEY and came[-1] == ODD
    assert [each["in"] for each in proxy.asked] == [["websocket"]] * 3 and proxy.asked[0]["path"] == "/live"


def test_messages_where_no_rule_has_them(proxy: Running) -> None:
    with live(proxy, lambda message: message) as (client, came):
        client.send(KEY)
        assert client.recv(60) == KEY == came[-1] and not proxy.asked


def test_a_message_that_is_refused_is_the_last(proxy: Running) -> None:
    from websockets.exceptions import ConnectionClosed

    proxy.values["openai/API_KEY"] = avault.Denied("no more")
    with live(proxy, lambda message: message, "websocket@") as (client, came):
        client.send(KEY)
        with pytest.raises(ConnectionClosed):
            client.recv(60)
    assert not came


def test_a_websocket_of_which_nothing_is_known_says_nothing(proxy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be taken out of its messages is not known either: the server's answer has the value, and stays outside."""
    from websockets.exceptions import ConnectionClosed

    answered = threading.Event()

    def fail(flow: Any) -> None:
        raise KeyError

    def answer(message: str) -> str:
        answered.set()
        return VALUE

    monkeypatch.setattr(proxy.gate.talks, "websocket_start", fail)
    with live(proxy, answer, "websocket@") as (client, _):
        client.send("hello")
        assert answered.wait(10)
        with pytest.raises((ConnectionClosed, TimeoutError)):
            client.recv(0.5)
    with pytest.raises(avault.AvaultError, match="nothing is known"):
        proxy.gate.talks.clean(types.SimpleNamespace(id="no such end"), VALUE.encode())


def test_who_closes_a_websocket_takes_the_question_along(proxy: Running) -> None:
    asked, left = threading.Event(), threading.Event()

    async def wait() -> str:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return VALUE

    proxy.values["openai/API_KEY"] = wait
    with live(proxy, lambda message: message, "websocket@") as (client, came):
        client.send(KEY)
        assert asked.wait(60) and not left.is_set()
        client.socket.close()
        assert left.wait(60)
    assert not came and proxy.refused[-1]["why"] == "the client has left"


def test_no_message_is_kept_and_none_is_without_end(proxy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from websockets.exceptions import ConnectionClosed

    seen: list[Any] = []
    look = type(proxy.gate.talks).websocket_message

    async def spy(self: Any, flow: Any) -> None:
        await look(self, flow)
        seen.append(len(flow.websocket.messages))

    monkeypatch.setattr(sockets, "LONGEST_MESSAGE", 1 << 16)
    monkeypatch.setattr(proxy.gate.talks, "websocket_message", spy.__get__(proxy.gate.talks))
    with live(proxy, lambda message: message) as (client, came):
        for _ in range(5):
            client.send("x" * 60_000)
            client.recv(60)
        assert {*seen} == {1}
        client.send("x" * (1 << 17))
        with pytest.raises(ConnectionClosed):
            client.recv(60)
    assert len(came) == 5 and "a WebSocket's message of more than" in proxy.refused[-1]["why"]


def test_pieces_of_a_message_that_are_empty_are_held_as_well(proxy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from websockets.exceptions import ConnectionClosed

    monkeypatch.setattr(sockets, "LONGEST_MESSAGE", 1 << 12)
    with live(proxy, lambda message: message) as (client, came):
        client.send(["a"] + [""] * 20 + ["b"])
        assert client.recv(60) == "ab"
        client.send(["a"] + [""] * 100 + ["b"])
        with pytest.raises(ConnectionClosed):
            client.recv(60)
    assert len(came) == 1


@pytest.mark.slow
def test_messages_that_come_while_one_waits(proxy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the phone, as here: no more is read than some of them."""
    may_go, sent = threading.Event(), [0]

    async def ask(fields: dict[str, Any]) -> dict[str, str]:
        while not may_go.is_set():
            await asyncio.sleep(0.01)
        return dict.fromkeys(fields["names"], VALUE)

    def flood(client: Any) -> None:
        much = os.urandom(1 << 20)  # else it is packed
        for _ in range(24):
            client.send(much)
            sent[0] += 1

    monkeypatch.setattr(proxy.gate, "ask", ask)
    with live(proxy, lambda message: "ok", "websocket@") as (client, came):
        client.send(KEY)
        thread = threading.Thread(target=flood, args=(client,), daemon=True)
        thread.start()
        last = -1
        while sent[0] != last:
            last = sent[0]
            thread.join(0.5)
        assert thread.is_alive() and sent[0] < 16
        may_go.set()
        for _ in range(25):
            assert client.recv(60) == "ok"
    assert came[0] == VALUE and len(came) == 25
