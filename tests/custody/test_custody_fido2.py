"""FIDO2 as a custodian: a security key of software behind the real library, and a passkey in a real Chromium.

Chromium's authenticator is virtual (WebAuthn.addVirtualAuthenticator, Chrome DevTools Protocol); all above it is real.
"""

from __future__ import annotations

import base64
import contextlib
import html
import http.client
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from canary import Canary, record
from errands import BOUND, SECRET, send_errand
from harness import AVAULT, Machine, Screen, wait_until
from person import Person
from websockets.sync.client import connect

pytest.importorskip("fido2", reason="the package fido2 is not installed")
import soft_ctap
from soft_ctap import Key

pytestmark = pytest.mark.usefixtures("forks")

PIN = "a PIN of the key"
QUESTION = "PIN of the security key: "
TOUCH = "touch the security key"
WRONG_PIN = "the PIN is wrong; it is not tried again"
LOCKED = "the security key's PIN is locked"
POWER = "the security key wants to be taken out and put in again first"
NOT_SEEN = "the security key did not recognise the person"
REFUSED = "it was refused at the security key"
LATE = "the security key was not touched in time"
NOT_ALLOWED = "the browser says no: it was refused, the person was not verified, or it has no such passkey"
NONE = "there is no FIDO2 security key, or none that we may use"
TAKEN_OUT = "the security key was taken out"
NO_PIN = "the security key has no PIN yet"
NO_EXTENSION = "the security key can make no keys of its own (hmac-secret)"
NO_PRF = "that passkey can make no keys (WebAuthn PRF); take another kind"
NOBODY = "somebody has to answer, and there is no terminal"
SEVERAL = "there are several security keys; leave one in"
UNANSWERED = "the fido2 did not answer in {} s"
IN_USE = "port {} of localhost: Address already in use"
UNKNOWN = "the security key has no credential of this vault"
OPENS_NOTHING = "it does not open: another credential's, another vault's, or damaged"


def send(action: str, person: Person | None = None, via: str = "key", **fields: Any) -> dict[str, Any]:
    given = {"settings": {"via": via, "port": "0"}, "terminal": person.path if person else None}
    answer = send_errand(action, "fido2", **{**given, **fields})
    if action != "get":
        record(f"fido2 {action}", json.dumps(answer))
    return answer


def refusal(outcome: str, detail: str) -> dict[str, Any]:
    return {"outcome": outcome, "detail": detail}


def ok(value: Any) -> dict[str, Any]:
    return {"outcome": "ok", "value": value}


def changed(kept: str, **fields: bytes) -> str:
    """What was kept, with other bytes in some fields."""
    return json.dumps({**json.loads(kept), **{name: base64.b64encode(data).decode() for name, data in fields.items()}})


def read(kept: str, name: str) -> bytes:
    return base64.b64decode(json.loads(kept)[name])


# What it is told


def test_the_document_says_what_is_said() -> None:
    """Each message of this file, in the row of its outcome."""
    text = (Path(__file__).parents[2] / "references" / "custody.md").read_text(encoding="utf-8")
    section = text.split("\n## fido2\n")[1].split("\n## ")[0]
    said = {
        "denied": [WRONG_PIN, LOCKED, POWER, NOT_SEEN, REFUSED, LATE, NOT_ALLOWED, UNANSWERED.format(120)],
        "not_found": [UNKNOWN],
        "unavailable": [NONE, TAKEN_OUT, NO_PIN, NO_EXTENSION, NO_PRF, NOBODY, IN_USE.format(8022)],
        "tampered": [OPENS_NOTHING],
        "error": [SEVERAL],
    }
    rows = re.findall(r'^\| `(\w+)` \|[^|]+\| "(.*)" \|$', section, re.MULTILINE)
    assert sorted(rows) == sorted((outcome, each) for outcome, texts in said.items() for each in texts)


@pytest.mark.parametrize(
    ("told", "settled"),
    [({}, ("key", "0")), ({"via": "page"}, ("page", "0")), ({"via": "page", "port": "08022"}, ("page", "8022"))],
)
def test_settings_are_completed(told: dict[str, str], settled: tuple[str, str]) -> None:
    answer = send("settle", settings=told)
    assert answer == {**ok(dict(zip(("via", "port"), settled, strict=True))), "asks": True}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"via": "nfc"}, "via is key or page"),
        ({"port": "65536"}, "port is a number from 0 to 65535"),
        ({"port": "-1"}, "port is a number from 0 to 65535"),
    ],
)
def test_settings_that_are_none(told: dict[str, str], said: str) -> None:
    assert send("settle", settings=told) == refusal("usage", said)


@pytest.mark.parametrize("kept", ["", "{}", "[]", "null", '{"credential": "?", "salt": "", "sealed": ""}'])
def test_what_is_damaged_asks_nobody(kept: str) -> None:
    with Person() as person:
        assert send("get", person, kept=kept) == refusal("tampered", "what was sealed for it is damaged")
    assert person.shown == ""
    assert send("get") == refusal("not_found", "nothing was sealed for it")


def test_the_package_is_missing(place) -> None:
    (place.top / "fido2.py").write_text("raise ModuleNotFoundError('hidden', name='fido2')\n")
    answer = send("probe", env={"PYTHONPATH": str(place.top)})
    hint = "in avault's folder: pip install '.[fido2]'"
    assert answer == {**refusal("unavailable", "the package fido2 is not installed"), "hint": hint}


# A security key


@pytest.fixture
def key(place, allow: Callable[[Path], Path]) -> Key:
    return Key(allow(place.top / "key.json"), pin=PIN)


def keep(key: Key, secret: str = SECRET, **fields: Any) -> str:
    with Person({QUESTION: PIN}) as person:
        answer = send("set", person, secret=secret, before=key.plugged, **fields)
    assert answer["outcome"] == "ok", answer
    return str(answer["value"])


def get(key: Key, kept: str, pin: str = PIN, **fields: Any) -> dict[str, Any]:
    with Person({QUESTION: pin}) as person:
        return send("get", person, kept=kept, **{"before": key.plugged, **fields})


def test_a_key_seals_and_opens(key: Key, canary: Canary) -> None:
    canary.watch(PIN)
    with Person({QUESTION: PIN}) as person:
        answer = send("set", person, secret=canary.value, before=key.plugged)
    assert person.shown == f"avault: {QUESTION}\r\navault: {TOUCH}\r\navault: {TOUCH}\r\n", "one PIN, two touches"
    with Person({QUESTION: PIN}) as person:
        assert send("get", person, kept=answer["value"], before=key.plugged) == ok(canary.value)
    assert person.shown == f"avault: {QUESTION}\r\navault: {TOUCH}\r\n"


@pytest.mark.parametrize("secret", ["é" * 2000, "x"])
def test_texts_of_any_length(key: Key, secret: str) -> None:
    assert get(key, keep(key, secret)) == ok(secret)


def test_the_credential_is_the_vaults_alone(key: Key) -> None:
    """Not stored in the key, for a name that no web page has, and new for each."""
    first, second = keep(key), keep(key)
    assert [(each["rp"], each["resident"]) for each in key.memory["made"].values()] == [("avault", {})] * 2
    assert read(first, "salt") != read(second, "salt")
    assert get(key, changed(first, credential=read(second, "credential"))) == refusal("tampered", OPENS_NOTHING)


def test_a_look_touches_nothing(key: Key) -> None:
    assert send("probe", before=key.plugged) == ok("the security key is there")
    kept = keep(key)
    asked = key.memory["asked"]
    assert send("probe", kept=kept, before=key.plugged) == ok("the security key is there")
    assert key.memory["asked"] == asked
    key.change(made={})
    assert send("probe", kept=kept, before=key.plugged) == refusal("not_found", UNKNOWN)


def test_nothing_is_to_be_deleted(key: Key) -> None:
    assert send("delete", kept=keep(key), before=key.plugged) == ok(None)


def test_a_key_that_looks_at_the_person_itself(place) -> None:
    key = Key(place.top / "key.json", pin="", eye="yes")
    with Person() as person:
        answer = send("set", person, secret=SECRET, before=key.plugged)
        assert send("get", person, kept=answer["value"], before=key.plugged) == ok(SECRET)
    assert "avault: the security key wants to see that it is you\r\n" in person.shown
    key.change(eye="no")
    said = NOT_SEEN
    assert get(key, answer["value"]) == refusal("denied", said)


@pytest.mark.parametrize(
    ("touch", "outcome", "said"),
    [
        ("refused", "denied", REFUSED),
        ("late", "denied", LATE),
        ("gone", "unavailable", TAKEN_OUT),
    ],
)
def test_a_touch_that_does_not_come(key: Key, touch: str, outcome: str, said: str) -> None:
    kept = keep(key)
    key.change(touch=touch)
    assert get(key, kept) == refusal(outcome, said)
    with Person({QUESTION: PIN}) as person:
        assert send("set", person, secret=SECRET, before=key.plugged) == refusal(outcome, said)


@pytest.mark.slow
def test_nobody_touches_it(key: Key) -> None:
    """The key is told to stop before our time is over."""
    kept = keep(key)
    key.change(touch="never")
    assert get(key, kept, limit=8.0) == refusal("denied", LATE)


def test_a_wrong_pin_is_given_once(key: Key) -> None:
    kept = keep(key)
    with Person({QUESTION: "0000"}) as person:
        assert send("get", person, kept=kept, before=key.plugged) == refusal("denied", WRONG_PIN)
    assert (person.typed, key.memory["tries"]) == (1, 7)
    assert "left" not in person.shown


def test_few_tries_are_said_before(key: Key) -> None:
    kept = keep(key)
    key.change(tries=3)
    with Person({QUESTION: PIN}) as person:
        assert send("get", person, kept=kept, before=key.plugged) == ok(SECRET)
    assert person.shown.startswith(f"avault: tries of the PIN that are left before the key locks: 3\r\navault: {QUESTION}")
    key.change(tries=1)
    assert get(key, kept, "0000") == refusal("denied", LOCKED)


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        ({"tries": 0}, LOCKED),
        ({"power": True}, POWER),
    ],
)
def test_no_pin_is_asked_that_cannot_help(key: Key, memory: dict[str, Any], said: str) -> None:
    kept = keep(key)
    key.change(**memory)
    with Person({QUESTION: PIN}) as person:
        assert send("get", person, kept=kept, before=key.plugged) == refusal("denied", said)
    assert person.shown == ""


def test_a_key_that_asks_for_no_person_is_refused(place) -> None:
    key = Key(place.top / "key.json", pin="")
    with Person() as person:
        answer = send("set", person, secret=SECRET, before=key.plugged)
    assert answer == refusal("unavailable", NO_PIN)
    assert key.memory["made"] == {}


def test_a_key_without_the_extension(place) -> None:
    key = Key(place.top / "key.json", can=[])
    assert send("probe", before=key.plugged) == refusal("unavailable", NO_EXTENSION)


def test_no_key_is_there(key: Key) -> None:
    kept = keep(key)
    said = NONE
    for action in ("probe", "get"):
        assert send(action, kept=kept, before=soft_ctap.plug()) == refusal("unavailable", said)


def test_another_key_is_there(key: Key, place) -> None:
    """Neither its PIN nor a touch is asked."""
    kept = keep(key)
    other = Key(place.top / "other.json", pin=PIN)
    with Person({QUESTION: PIN}) as person:
        assert send("get", person, kept=kept, before=other.plugged) == refusal("not_found", UNKNOWN)
    assert (person.shown, other.memory["asked"]) == ("", 0)


def test_two_keys_are_there(key: Key, place) -> None:
    """The right one is found; a new credential wants one alone."""
    kept = keep(key)
    other = Key(place.top / "other.json", pin="another")
    both = soft_ctap.plug(other, key)
    assert get(key, kept, before=both) == ok(SECRET)
    with Person({QUESTION: PIN}) as person:
        answer = send("set", person, secret=SECRET, before=both)
    assert answer == refusal("error", SEVERAL)


def test_nobody_is_there(key: Key) -> None:
    said = NOBODY
    assert send("get", kept=keep(key), before=key.plugged) == refusal("unavailable", said)


def test_nobody_answers(key: Key) -> None:
    kept = keep(key)
    with Person() as person:
        answer = send("get", person, kept=kept, before=key.plugged, limit=3.0)
    assert answer == refusal("denied", UNANSWERED.format(3))


def test_it_opens_for_nobody_else(key: Key) -> None:
    """Another vault, another custodian's name, another salt, a flipped bit, something cut off."""
    kept = keep(key)
    sealed = read(kept, "sealed")
    wrong = refusal("tampered", OPENS_NOTHING)
    assert get(key, kept, bound=BOUND + "2") == wrong
    for other in (
        changed(kept, salt=bytes(32)),
        changed(kept, sealed=sealed[:-1] + bytes([sealed[-1] ^ 1])),
        changed(kept, sealed=sealed[:5]),
    ):
        assert get(key, other) == wrong


# A page at localhost, as a browser talks to it


class Visit:
    """A helper that waits for its page to be used: `do(url)` is called once it said where that is."""

    def __init__(self, action: str, do: Callable[[str], None], **fields: Any) -> None:
        self.urls: list[str] = []
        self.failures: list[BaseException] = []

        def act(line: str) -> None:
            [url] = re.findall(r"http://\S+", line)
            self.urls.append(url)
            try:
                do(url)
            except BaseException as error:
                self.failures.append(error)

        with Person(acts={"open http://": act}) as person:
            self.answer = send(action, person, "page", **fields)
        self.shown = person.shown
        assert not self.failures, self.failures


class Client:
    """An HTTP client that says what it is told to."""

    def __init__(self, url: str) -> None:
        self.host, _, path = url.removeprefix("http://").partition("/")
        self.path, self.port = "/" + path, int(self.host.partition(":")[2])
        self.origin = f"http://{self.host}"

    def ask(self, method: str, path: str | None = None, body: bytes = b"", **headers: str | None) -> tuple[int, str]:
        """Status and text. Headers by their names, with _ for -; None leaves one of the usual out."""
        usual = {"Host": self.host, **({"Origin": self.origin, "Content-Type": "application/json"} if method == "POST" else {})}
        if method == "POST":
            usual["Content-Length"] = str(len(body))
        told = {**usual, **{name.replace("_", "-"): value for name, value in headers.items()}}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest(method, path or self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in told.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(body or None)
        response = connection.getresponse()
        self.headers = dict(response.getheaders())
        return response.status, response.read().decode()

    def asked(self, page: str) -> dict[str, Any]:
        """What a page asks."""
        [ask] = re.findall(r'data-ask="([^"]*)"', page)
        return dict(json.loads(html.unescape(ask)))

    def post(self, **answer: Any) -> tuple[int, str]:
        return self.ask("POST", body=json.dumps(answer).encode())


MADE, CREDENTIAL = base64.b64encode(b"m" * 32).decode(), base64.b64encode(b"a credential").decode()


def answered(url: str, **given: Any) -> Client:
    """The page is fetched and answered, as its script would."""
    client = Client(url)
    status, page = client.ask("GET")
    assert status == 200
    ask = client.asked(page)
    assert client.post(**{"credential": CREDENTIAL, "made": MADE, "once": ask["once"], **given})[0] == 200
    return client


def test_a_page_is_answered(canary: Canary) -> None:
    kept: dict[str, Any] = Visit("set", answered, secret=canary.value).answer
    assert kept["outcome"] == "ok"
    assert read(kept["value"], "credential") == b"a credential"
    visit = Visit("get", answered, kept=kept["value"])
    assert visit.answer == ok(canary.value)
    [url] = visit.urls
    port = int(Client(url).port)
    assert re.fullmatch(
        rf"avault: open http://localhost:{port}/[\w-]{{43}}\r\n"
        rf"avault: from another machine, first there: ssh -L {port}:localhost:{port} \S+@\S+\r\n",
        visit.shown,
    )


def test_its_policy_is_strict() -> None:
    """Nothing but its own script and style run, nothing is sent elsewhere, nobody frames it or keeps it."""

    def see(url: str) -> None:
        client = Client(url)
        status, page = client.ask("GET")
        assert status == 200
        policy = dict(each.strip().split(" ", 1) for each in client.headers["Content-Security-Policy"].split(";"))
        assert policy.keys() == {
            "default-src", "script-src", "style-src", "connect-src", "base-uri", "form-action", "frame-ancestors",
        }  # fmt: skip
        assert {policy[name] for name in ("default-src", "base-uri", "form-action", "frame-ancestors")} == {"'none'"}
        assert policy["connect-src"] == "'self'"
        assert "unsafe" not in client.headers["Content-Security-Policy"]
        assert (client.headers["Cache-Control"], client.headers["Referrer-Policy"]) == ("no-store", "no-referrer")
        client.post(error="AbortError", once=client.asked(page)["once"])

    assert Visit("set", see, secret=SECRET).answer == refusal("denied", "it was cancelled in the browser")


def test_the_label_is_text() -> None:
    label = """avault: unlock key of <script>"'&lt; (/vault)"""

    def see(url: str) -> None:
        client = Client(url)
        page = client.ask("GET")[1]
        assert page.count("<script>") == 1
        assert client.asked(page)["label"] == label
        assert "so that &lt;script&gt; may be used" in page, "who uses the passkey sees what for"
        client.post(error="AbortError", once=client.asked(page)["once"])

    Visit("set", see, secret=SECRET, label=label, purpose="so that <script> may be used")


def test_who_is_refused() -> None:
    """Other hosts (DNS rebinding), other origins, other paths, other methods, a page that was shown before, too much, nonsense;
    the errand goes on all the while."""

    def try_all(url: str) -> None:
        client = Client(url)
        port = client.port
        assert client.ask("GET", Host=f"evil.example:{port}")[0] == 421
        assert client.ask("GET", Host=f"127.0.0.1:{port}")[0] == 421
        assert client.ask("GET", Host=None)[0] == 421
        assert client.ask("GET", "/")[0] == client.ask("GET", client.path + "x")[0] == 404
        assert client.ask("GET", Origin="http://evil.example")[0] == 403
        assert client.ask("GET", Sec_Purpose="prefetch;prerender")[0] == 503, "nobody looks at it yet"
        assert client.ask("PUT")[0] == client.ask("HEAD")[0] == 501
        status, page = client.ask("GET")
        assert status == 200
        assert client.ask("GET")[0] == 410, "it is shown once"
        once = client.asked(page)["once"]
        good = json.dumps({"error": "AbortError", "once": once}).encode()
        for origin in (
            None,
            "null",
            "http://evil.example",
            f"http://127.0.0.1:{port}",
            "http://localhost:1",
            f"https://{client.host}",
        ):
            assert client.ask("POST", body=good, Origin=origin)[0] == 403
        assert client.ask("POST", body=good, Host=f"evil.example:{port}")[0] == 421
        assert client.ask("POST", "/x", body=good)[0] == 404
        assert client.ask("POST", body=good, Content_Type="text/plain")[0] == 415
        for length in ("+5", "", "-1", None):
            assert client.ask("POST", body=good, Content_Length=length)[0] == 411
        assert client.ask("POST", body=good + b" " * 9000)[0] == 413
        for body in (b"", b"[]", b"{}", b'"x"', b"[" * 5000, b"\xff", b'{"once": 1}'):
            assert client.ask("POST", body=body)[0] == 400
        assert client.post(error="AbortError", once="x" * 43)[0] == client.post(error="AbortError", once="é")[0] == 403
        assert client.ask("POST", body=good)[0] == 200

    visit = Visit("set", try_all, secret=SECRET)
    assert visit.answer == refusal("denied", "it was cancelled in the browser")


def test_it_is_answered_once() -> None:
    """Of many at the same time one is taken; and afterwards nobody is there."""
    statuses: list[int | str] = []

    def rush(url: str) -> None:
        client = Client(url)
        once = client.asked(client.ask("GET")[1])["once"]

        def post(number: int) -> None:
            made = base64.b64encode(bytes([number]) * 32).decode()
            try:
                statuses.append(Client(url).post(credential=CREDENTIAL, made=made, once=once)[0])
            except OSError:
                statuses.append("gone")

        threads = [threading.Thread(target=post, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    visit = Visit("set", rush, secret=SECRET)
    assert visit.answer["outcome"] == "ok"
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 409, "gone"}
    with pytest.raises(ConnectionRefusedError):
        Client(visit.urls[0]).ask("GET")


@pytest.mark.parametrize(
    "given",
    [
        {"made": base64.b64encode(b"short").decode()}, {"made": ""}, {"made": "?"}, {"made": 5}, {"credential": ""},
        {"credential": base64.b64encode(bytes(1024)).decode()}, {"credential": None},
    ],
)  # fmt: skip
def test_an_answer_that_is_none(given: dict[str, Any]) -> None:
    visit = Visit("set", lambda url: answered(url, **given), secret=SECRET)
    assert visit.answer == refusal("error", "the page answered something else")


@pytest.mark.parametrize(
    ("name", "outcome", "said"),
    [
        ("NotSupportedError", "unavailable", "that browser can make no such passkey"),
        ("NoWebAuthn", "unavailable", "that browser knows no passkeys"),
        ("\x1b[2J" + "x" * 99, "error", "the browser failed: \\x1b[2J" + "x" * 36),
    ],
)
def test_an_error_of_the_browser(name: str, outcome: str, said: str) -> None:
    assert Visit("set", lambda url: answered(url, error=name), secret=SECRET).answer == refusal(outcome, said)


def test_it_listens_to_this_machine_alone() -> None:
    """And ::1 is kept, so that nobody else shows a page there."""

    def look(url: str) -> None:
        port = Client(url).port
        lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
        listening = [line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{port:04X}")]
        assert listening == [f"0100007F:{port:04X}"]
        if has_ipv6():
            with socket.socket(socket.AF_INET6) as other, pytest.raises(OSError, match="in use"):
                other.bind(("::1", port))
        answered(url)

    assert Visit("set", look, secret=SECRET).answer["outcome"] == "ok"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as other:
            other.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_port_that_was_given(family: socket.AddressFamily) -> None:
    if family == socket.AF_INET6 and not has_ipv6():
        pytest.skip("no ::1 here")
    with socket.socket(family) as other:
        other.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        settings = {"via": "page", "port": port}
        with Person() as person:
            answer = send("set", person, settings=settings, secret=SECRET)
        assert answer == refusal("unavailable", IN_USE.format(port))
    for _ in range(2):  # also at once after it was used
        visit = Visit("set", answered, settings=settings, secret=SECRET)
        assert visit.answer["outcome"] == "ok"
        assert visit.urls[0].startswith(f"http://localhost:{port}/")


def test_nobody_is_there_to_be_told() -> None:
    said = NOBODY
    assert send("set", via="page", secret=SECRET) == refusal("unavailable", said)


def test_a_look_opens_no_page() -> None:
    assert send("probe", via="page") == ok("a browser is to open its page")


def test_one_who_says_nothing_keeps_nobody_waiting() -> None:
    def stall(url: str) -> None:
        port = Client(url).port
        with socket.create_connection(("127.0.0.1", port)) as silent, socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n")
            answered(url)
            del silent

    assert Visit("set", stall, secret=SECRET).answer["outcome"] == "ok"


@pytest.mark.slow
def test_a_vault_that_a_page_opens(machine: Machine, canary: Canary) -> None:
    """By the installed command: the page is used to keep, to try, and to open."""

    def use(screen: Screen) -> None:
        answered(screen.expect(r"open (http://localhost:\d+/\S+)")[1].decode())

    with Screen(machine, AVAULT, "init", "--with", "fido2", "--setting", "via=page", lines=90, columns=120) as screen:
        screen.expect(r"is it written down\? \[y/N\] ")
        screen.type("y\n")
        use(screen)
        use(screen)
        screen.expect("fido2 opens this vault from now on")
        screen.wait()
    machine("set", "openai/API_KEY", input=canary.value)
    machine("lock")
    with Screen(machine, AVAULT, "unlock", columns=120) as screen:
        use(screen)
        screen.wait()
    assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"


# A passkey in Chromium


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """A Chromium without a screen, with one page, and an authenticator that a test tells how to behave."""

    def __init__(self, top: Path) -> None:
        words = [
            str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--remote-debugging-port=0", f"--user-data-dir={top}", "about:blank",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            words,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "HOME": str(top)},
        )
        told = top / "DevToolsActivePort"
        port, path = wait_until(lambda: told.exists() and told.read_text().split("\n")[1:] and told.read_text().split())
        self.stack = contextlib.ExitStack()
        self.socket = self.stack.enter_context(connect(f"ws://127.0.0.1:{port}{path}", max_size=None))
        self.number, self.session = 0, None
        page = next(each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("WebAuthn.enable")
        self.authenticator = ""

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.session = None
            self.call("Browser.close")
        self.stack.close()
        self.process.wait(60)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        self.socket.send(json.dumps({**message, "sessionId": self.session} if self.session else message))
        while True:
            answer = json.loads(self.socket.recv(60))
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def evaluate(self, source: str) -> Any:
        """The value of an expression in the page, with a person's gesture; awaited."""
        given = self.call("Runtime.evaluate", expression=source, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in given, given
        return given["result"].get("value")

    def carry(self, **options: Any) -> None:
        """Another authenticator: it verifies the person, and knows the PRF, unless told otherwise."""
        if self.authenticator:
            self.call("WebAuthn.removeVirtualAuthenticator", authenticatorId=self.authenticator)
        usual = {
            "protocol": "ctap2", "ctap2Version": "ctap2_1", "transport": "internal", "hasResidentKey": True,
            "hasUserVerification": True, "isUserVerified": True, "hasPrf": True,
        }  # fmt: skip
        given = self.call("WebAuthn.addVirtualAuthenticator", options={**usual, **options})
        self.authenticator = given["authenticatorId"]

    def tell(self, method: str, **params: Any) -> Any:
        return self.call(f"WebAuthn.{method}", authenticatorId=self.authenticator, **params)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        wait_until(lambda: self.evaluate(f"document.readyState == 'complete' && location.href == {url!r}"))

    def press(self, url: str) -> None:
        """The person opens the page, and presses its button."""
        self.open(url)
        self.evaluate("document.querySelector('button').click()")

    def use(self, url: str) -> None:
        """And reads what came of it."""
        self.press(url)
        self.said = wait_until(lambda: self.evaluate("document.querySelector('output').textContent"))


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def browser(started: Browser) -> Browser:
    started.carry()
    return started


def chromium(test: Callable[..., None]) -> Callable[..., None]:
    """A test that takes a browser, and its time."""
    return pytest.mark.slow(pytest.mark.skipif(not CHROMIUM, reason="no chromium")(test))


def made_by(browser: Browser, secret: str = SECRET) -> str:
    """What is kept of a secret that a new passkey sealed."""
    answer = Visit("set", browser.use, secret=secret).answer
    assert answer["outcome"] == "ok", (answer, browser.said)
    return str(answer["value"])


@chromium
def test_a_passkey_seals_and_opens(browser: Browser, canary: Canary) -> None:
    kept = made_by(browser, canary.value)
    [credential] = browser.tell("getCredentials")["credentials"]
    assert base64.b64decode(credential["credentialId"]) == read(kept, "credential")
    assert (credential["rpId"], credential["userName"]) == ("localhost", "avault: unlock key of test (/vault)")
    assert Visit("get", browser.use, kept=kept).answer == ok(canary.value)
    assert browser.said == "Done. You can close this page."


@chromium
def test_another_passkey_is_not_taken(browser: Browser) -> None:
    """Of another credential there is none, whatever is sealed."""
    first, second = made_by(browser), made_by(browser)
    mixed = changed(first, credential=read(second, "credential"))
    assert Visit("get", browser.use, kept=mixed).answer == refusal("tampered", OPENS_NOTHING)
    assert Visit("get", browser.use, kept=first, bound=BOUND + "2").answer == refusal("tampered", OPENS_NOTHING)


@chromium
def test_a_person_who_is_not_verified(browser: Browser) -> None:
    kept = made_by(browser)
    browser.tell("setUserVerified", isUserVerified=False)
    assert Visit("get", browser.use, kept=kept).answer == refusal("denied", NOT_ALLOWED)
    assert browser.said == "Nothing was opened: NotAllowedError."
    assert Visit("set", browser.use, secret=SECRET).answer == refusal("denied", NOT_ALLOWED)


@chromium
def test_a_passkey_that_was_deleted(browser: Browser) -> None:
    kept = made_by(browser)
    browser.tell("clearCredentials")
    assert Visit("get", browser.use, kept=kept).answer == refusal("denied", NOT_ALLOWED)


@chromium
def test_an_authenticator_without_prf(browser: Browser) -> None:
    browser.carry(hasPrf=False)
    said = NO_PRF
    assert Visit("set", browser.use, secret=SECRET).answer == refusal("unavailable", said)


@chromium
def test_a_passkey_that_nobody_confirms(browser: Browser) -> None:
    kept = made_by(browser)
    browser.tell("setAutomaticPresenceSimulation", enabled=False)
    visit = Visit("get", browser.press, kept=kept, limit=10.0)
    assert visit.answer["outcome"] == "denied"
    with pytest.raises(ConnectionRefusedError):
        Client(visit.urls[0]).ask("GET")


@chromium
def test_a_page_that_is_opened_again(browser: Browser) -> None:
    """Reloaded, or by somebody who learned its path: nothing is shown, and the first goes on."""

    def again(url: str) -> None:
        client = Client(url)
        once = client.asked(client.ask("GET")[1])["once"]
        browser.call("Page.navigate", url=url)
        wait_until(lambda: browser.evaluate("document.readyState == 'complete'"))
        assert browser.evaluate("document.querySelector('button')") is None
        client.post(error="AbortError", once=once)

    assert Visit("set", again, secret=SECRET).answer == refusal("denied", "it was cancelled in the browser")


@chromium
def test_another_page_of_the_browser(browser: Browser) -> None:
    """It neither reads the page nor answers it, nor frames it, though it knows where it is, and what is asked."""

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def attack(url: str) -> None:
        client = Client(url)
        once = client.asked(client.ask("GET")[1])["once"]
        browser.open(f"http://localhost:{server.server_address[1]}/")
        body = json.dumps({"credential": CREDENTIAL, "made": MADE, "once": once})
        for options in ("{mode: 'cors'}", "{mode: 'no-cors'}"):
            fetched = browser.evaluate(f"fetch({url!r}, {options}).then(each => each.type + each.status, each => each.name)")
            assert fetched in ("TypeError", "opaque0")
        for kind in ("application/json", "text/plain"):
            for mode in ("cors", "no-cors"):
                options = json.dumps({"method": "POST", "mode": mode, "headers": {"Content-Type": kind}, "body": body})
                sent = browser.evaluate(f"fetch({url!r}, {options}).then(each => each.type + each.status, each => each.name)")
                assert sent in ("TypeError", "opaque0")
        client.post(error="AbortError", once=once)

    with contextlib.closing(server.socket):
        assert Visit("set", attack, secret=SECRET).answer == refusal("denied", "it was cancelled in the browser")
        server.shutdown()


@chromium
def test_its_path_is_of_no_use_afterwards(browser: Browser) -> None:
    visit = Visit("set", browser.use, secret=SECRET)
    assert visit.answer["outcome"] == "ok"
    with pytest.raises(ConnectionRefusedError):
        Client(visit.urls[0]).ask("GET")
    again = Visit("set", browser.use, secret=SECRET)
    assert again.urls[0].rpartition("/")[2] != visit.urls[0].rpartition("/")[2]
