"""The signer's side without a signer: what its URIs, its answers and a keychain's are taken for."""

from __future__ import annotations

import asyncio
import base64
import ctypes
import io
import itertools
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import nostr_sdk
import pytest
from PIL import Image

import avault

SIGNER = avault.public_hex(avault.parse_keys("1" * 64))


def test_a_bunker_uri() -> None:
    uri = f" bunker://{SIGNER}?relay=wss%3A%2F%2Fone.example&relay=ws://127.0.0.1:7777/&secret=s%20x\n"
    assert avault.parse_bunker(uri) == (SIGNER, ["wss://one.example", "ws://127.0.0.1:7777"], "s x")
    assert avault.parse_bunker(f"bunker://{SIGNER}?relay=wss://one.example")[2] == ""


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("", "not a bunker:// URI"),
        (f"nostrconnect://{SIGNER}?relay=wss://one.example", "not a bunker:// URI"),
        (f"bunker://{SIGNER}", "names no relay"),
        (f"bunker://{SIGNER}?secret=s", "names no relay"),
        (f"bunker://{SIGNER}?relay=https://one.example", "not a relay URL"),
        (f"bunker://{SIGNER[:-1]}?relay=wss://one.example", "not a Nostr public key"),
    ],
)
def test_what_is_no_bunker_uri(uri: str, says: str) -> None:
    with pytest.raises(avault.Usage, match=says):
        avault.parse_bunker(uri)


def test_answers_that_count() -> None:
    avault.accept_token("t0ken")('{"avault": "t0ken"}')
    with pytest.raises(avault.Tampered, match="something else"):
        avault.accept_token("t0ken")('{"avault": "other"}')
    for right in ("ack", "s3cret"):
        avault.accept_connect("s3cret")(right)
    for secret, wrong in (("s3cret", "s3cre"), ("s3cret", ""), ("", "")):
        with pytest.raises(avault.Denied, match="something else"):
            avault.accept_connect(secret)(wrong)


def test_a_clock_is_looked_at_where_the_kernel_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """TIME_ERROR is 5 (adjtimex(2)); every other state is that of a clock which somebody keeps right."""
    monkeypatch.setattr(sys, "platform", "linux")
    for state in range(6):
        monkeypatch.setattr(ctypes, "CDLL", lambda name, state=state: SimpleNamespace(adjtimex=lambda buffer: state))
        assert avault.is_clock_unsynchronised() is (state == 5)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not avault.is_clock_unsynchronised()


@pytest.mark.parametrize("name", ["vault", "name", "agent"])
async def test_a_custodian_opens_its_own_vault_only(name: str) -> None:
    agent, operator = nostr_sdk.Keys.generate(), avault.public_hex(nostr_sdk.Keys.generate())
    unlock, sealed = avault.seal_keys(agent, "00" * 16, operator, "test", "box")

    def box(called: str = "box", **answer: Any) -> avault.KeptKey:
        return avault.KeptKey(called, sealed, json.dumps(answer).encode(), False)

    assert avault.public_hex(await box(outcome="ok", value=unlock).get_key(sealed)) == avault.public_hex(agent)
    said = "before the rotation" if name == "agent" else "of another vault"
    with pytest.raises(avault.Tampered, match=said):
        await box(outcome="ok", value=unlock).get_key({**sealed, name: "another"})
    for wrong in (
        {"outcome": "ok", "value": "00" * 32},
        {"outcome": "ok", "value": unlock, "called": "another"},
        {"outcome": "ok"},
    ):
        with pytest.raises(avault.Tampered, match="does not open"):
            await box(**wrong).get_key(sealed)
    for outcome, kind in (("denied", avault.Denied), ("not_found", avault.NotFound), ("odd", avault.AvaultError)):
        with pytest.raises(kind, match="a reason"):
            await box(outcome=outcome, detail="a reason").get_key(sealed)
    for broken in (b"", b"[", b"null", b"[]"):
        with pytest.raises(avault.AvaultError, match="without an answer"):
            await avault.KeptKey("box", sealed, broken, False).get_key(sealed)


# What is sent, when, and what an answer is taken for: with a clock of our own


class Clock:
    """The time, as a test sets it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class Ear:
    """A relay that takes what it is sent, or says why not."""

    def __init__(self) -> None:
        self.refusal: str | None = None
        self.calls: list[str] = []

    async def send_event(self, event: nostr_sdk.Event, ok_timeout: object) -> None:
        if self.refusal:
            raise nostr_sdk.NostrSdkError.Generic(self.refusal)

    def disconnect(self) -> None:
        self.calls.append("disconnect")

    def connect(self) -> None:
        self.calls.append("connect")


class Asking:
    """A request under way to a signer whose keys are ours."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.signer, self.client, self.stranger = (nostr_sdk.Keys.generate() for _ in range(3))
        self.remote = avault.RemoteSigner(self.client, ["ws://one", "ws://two"], avault.public_hex(self.signer), lambda: None)
        self.request = self.remote.pending = avault.Request("nip44_decrypt", ["a", "b"], lambda result: result, patient=True)
        self.sending = self.remote.compose(self.request)

    def sent_at(self, seconds: float, *anew: str) -> str:
        """The id of the event that is to be with the relays so many seconds after the start."""
        self.clock.now = 1000.0 + seconds
        self.sending = self.remote.attend(self.request, self.sending, list(anew))
        return str(self.sending.event.id().to_hex())

    def hear(self, author: nostr_sdk.Keys | None = None, old_form: bool = False, **answer: Any) -> None:
        """Let an answer arrive."""
        author, me = author or self.signer, self.client.public_key()
        text = json.dumps({"id": self.request.id, **answer})
        if old_form:
            content = nostr_sdk.nip04_encrypt(author.secret_key(), me, text)
        else:
            content = nostr_sdk.nip44_encrypt(author.secret_key(), me, text, nostr_sdk.Nip44Version.V2)
        builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(24133), content).tags([nostr_sdk.Tag.public_key(me)])
        self.remote.hear(builder.finalize(author))


@pytest.fixture
async def asking(monkeypatch: pytest.MonkeyPatch) -> Asking:
    clock = Clock()
    monkeypatch.setattr(avault, "time", clock)
    return Asking(clock)


def test_when_a_question_goes_out_again() -> None:
    """A phone that wakes late: each minute a fresh event for ten minutes, then every five."""
    steps = list(itertools.islice(avault.plan_requests(patient=True), 15))
    assert steps[:3] == [(15.0, False), (30.0, False), (45.0, False)]
    assert steps[3:13] == [(60.0 * minute, True) for minute in range(1, 11)]
    assert steps[13:] == [(900.0, True), (1200.0, True)]
    assert next(avault.plan_requests(patient=False)) == (3.0, False)


async def test_the_events_of_a_question(asking: Asking) -> None:
    first = asking.sent_at(0)
    assert {asking.sent_at(second) for second in (14, 15, 31, 45, 59)} == {first}
    assert asking.sending.request == asking.request.id
    assert asking.sent_at(60) != first
    assert asking.remote.next_time() is None, "no relay is connected"
    asking.remote.relays.shown["ws://one"]["connected"] = True
    begun = time.time()
    assert avault.render_time(begun + 60) <= str(asking.remote.next_time()) <= avault.render_time(time.time() + 60)


async def test_who_asks_again_is_heard_at_once(asking: Asking) -> None:
    first = asking.sent_at(0)
    asking.remote.ask_again()
    assert asking.sent_at(0.5) == first, "just asked"
    asking.remote.ask_again()
    second = asking.sent_at(5)
    assert second != first
    assert asking.sending.request == asking.request.id, "the same card, where the signer knows the id"
    assert asking.sent_at(20) == second, "and again as at the start"
    assert asking.sent_at(65) != second


async def test_a_relay_that_comes_back_is_asked_at_once(asking: Asking) -> None:
    first = asking.sent_at(0)
    asking.sending.said |= {"ws://one": "accepted", "ws://two": "accepted"}
    assert asking.sent_at(8, "ws://one") == first
    assert asking.sending.said == {"ws://two": "accepted"}, "the same event, for who has missed it"
    assert asking.sent_at(12, "ws://one") != first, "relays and signers drop what is old"
    assert not asking.sending.said


async def test_another_network_is_asked_through_at_once(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    asking.remote.relays.pool = {"ws://one": (ear := Ear())}
    assert not asking.remote.relays.move()
    assert not ear.calls
    monkeypatch.setattr(avault, "network", lambda: ("192.0.2.7", None, 0))
    assert asking.remote.relays.move(), "so the question goes out at once"
    assert ear.calls == ["disconnect", "connect"], "what looks connected may be dead"
    assert not asking.remote.relays.move(), "once"


def test_a_network() -> None:
    assert avault.network() == avault.network()


async def test_what_was_sent_is_counted(asking: Asking) -> None:
    ears = asking.remote.relays.pool = {"ws://one": Ear(), "ws://two": Ear()}
    ears["ws://one"].refusal = "relay not connected"
    await asking.remote.publish(asking.request, "ws://one", asking.sending, set())
    assert asking.remote.sent.requests == 0
    await asking.remote.publish(asking.request, "ws://two", asking.sending, set())
    ears["ws://one"].refusal = "blocked: no"
    await asking.remote.publish(asking.request, "ws://one", asking.sending, set())
    assert asking.remote.sent.requests == 1, "one question, to two relays"
    assert asking.remote.describe()["requests"] == 1


async def test_a_question_does_not_wait_for_what_a_relay_says_of_the_one_before(asking: Asking) -> None:
    """The signer may answer before the relay says that it took the question; and some never say it."""
    relays, sent = asking.remote.relays, []
    relays.look, relays.move = list, lambda: False
    relays.shown["ws://one"]["connected"] = True

    async def send(url: str, event: nostr_sdk.Event) -> str:
        sent.append(event)
        asking.request = asking.remote.pending
        asking.hear(result="yes")
        await asyncio.Event().wait()
        return ""

    relays.send = send
    async with asyncio.timeout(60):
        for number in (1, 2):
            assert await asking.remote.request("get_public_key", [], str, False) == "yes"
            assert len(sent) == number


@pytest.mark.parametrize(
    ("text", "seconds", "is_own"),
    [
        ("Not authorized", 65, True),  # Signet, with nobody there
        ("unauthorized", 60, True),
        ("Not authorized", 20, False),  # a person in nsec.app, Signet, NDK
        ("request expired", 20, True),
        ("Timed out", 1, True),
        ("user rejected", 65, False),
        ("User rejected this request.", 600, False),
        ("NIP-44 decryption denied", 65, False),
        ("no permission", 65, False),
    ],
)
async def test_a_signers_own_time_out_is_no_refusal(asking: Asking, text: str, seconds: float, is_own: bool) -> None:
    asking.sent_at(0)
    asking.request.arrival.accepted_id, asking.request.arrival.accepted_at = asking.request.id, asking.clock.now
    first = asking.request.id
    asking.clock.now += seconds
    asking.hear(result="error", error=text)
    assert (asking.request.id != first) is is_own, "a signer that has answered an id ignores it from then on"
    ended = asking.request.answer.done() or asking.request.refusal is not None
    assert ended is not is_own
    if is_own:
        assert f"gave up by itself after {seconds} s" in asking.remote.describe()["notice"]
        event = asking.sent_at(seconds + 60)
        assert asking.sending.request == asking.request.id
        assert asking.sending.event.id().to_hex() == event
        asking.hear(id=first, result="error", error=text)
        assert not asking.request.answer.done(), "it says so again"
        asking.hear(id=first, result="late")
        assert await asking.request.answer == "late", "and may yet answer"
    elif asking.request.refusal:
        asking.request.refusal.cancel()
    else:
        with pytest.raises(avault.Denied):
            await asking.request.answer


async def test_a_person_may_refuse_an_earlier_card(asking: Asking) -> None:
    asking.request.renew()
    asking.hear(id=min(asking.request.ids - {asking.request.id}), result="", error="user rejected")
    with pytest.raises(avault.Denied, match="user rejected"):
        await asking.request.answer


async def test_an_answer_in_an_old_form(asking: Asking) -> None:
    asking.hear(old_form=True, author=asking.stranger, result="x")
    assert not asking.request.answer.done()
    asking.hear(old_form=True, result="x")
    with pytest.raises(avault.AvaultError, match="an old form"):
        await asking.request.answer
    told = asyncio.get_running_loop().create_future()
    asking.remote.signer, asking.remote.code.secret, asking.remote.code.greeted = None, "s3cret", told
    asking.hear(old_form=True, result="other")
    assert not told.done()
    asking.hear(old_form=True, result="s3cret")
    with pytest.raises(avault.AvaultError, match="an old form"):
        await told


async def test_who_pairs_anew_otherwise_is_told_that(asking: Asking) -> None:
    """A desk of a fleet has no vault: its hints name its own command."""
    asking.remote.code.pair_anew = avault.RemoteSigner(asking.client, [], None, lambda: None, "avault fleet pair").code.pair_anew
    asking.hear(old_form=True, result="x")
    with pytest.raises(avault.AvaultError) as told:
        await asking.request.answer
    assert told.value.hint == "update the app, or pair with another: avault fleet pair"


async def test_a_page_that_another_key_wants_opened(asking: Asking) -> None:
    """Signet's admin key does; it knows the question's id, which only the signer can have told it."""
    url = "https://signet.example/requests/1"
    asking.hear(author=asking.stranger, id="0" * 32, result="auth_url", error=url)
    asking.hear(author=asking.stranger, result="", error="user rejected")
    asking.hear(author=asking.stranger, result="x")
    assert asking.remote.describe()["notice"] is None
    assert not asking.request.answer.done()
    asking.hear(author=asking.stranger, result="auth_url", error=url)
    notice = asking.remote.describe()["notice"]
    assert "another key than the signer's" in notice
    assert avault.shorten_key(avault.public_hex(asking.stranger)) in notice
    assert url in notice
    assert asking.remote.remarks.auth_url is None


async def test_before_somebody_is_paired_nobody_shows_a_page(asking: Asking) -> None:
    """Whoever sees our key on a relay could send the operator to a page of his own."""
    asking.remote.signer, asking.remote.pending = None, None
    asking.remote.code.secret, asking.remote.code.greeted = "s3cret", asyncio.get_running_loop().create_future()
    for author in (asking.signer, asking.stranger):
        asking.hear(author=author, result="auth_url", error="https://evil.example/")
    shown = asking.remote.describe()
    assert (shown["auth_url"], shown["notice"]) == (None, None)
    asking.hear(result="s3cret")
    assert await asking.remote.code.greeted == asking.remote.signer, "from whom the secret comes"


async def test_strangers_cost_little(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault, "STRANGERS", 2)
    for _ in range(2):
        asking.hear(author=asking.stranger, id="0" * 32, result="x")
    asking.hear(author=asking.stranger, result="auth_url", error="https://signet.example/")
    assert asking.remote.describe()["notice"] is None
    asking.hear(result="right")
    assert await asking.request.answer == "right"


# What a signer is told, and shows


def test_how_we_introduce_ourselves() -> None:
    told = avault.introduce("my agent.7@DB 1")
    assert told["name"] == "my agent.7@DB 1"
    assert told["url"] == "https://my.agent.7.db.1.avault.invalid"
    assert avault.introduce("…")["url"] == "https://avault.invalid"
    assert "=" not in told["image"], "Amber takes a URI apart at each"
    picture = Image.open(io.BytesIO(base64.b64decode(told["image"].partition(",")[2])))
    assert (picture.size, picture.format) == ((16, 16), "PNG")
    assert avault.nostrconnect_uri(SIGNER, ["wss://one.example"], "s", "a@b").endswith("&image=" + quote(told["image"], safe=""))


def test_a_key_as_apps_cut_it() -> None:
    shown = avault.shorten_key(SIGNER)
    assert shown.startswith(f"{SIGNER[:8]}…{SIGNER[-8:]} or npub1")
    npub = avault.to_npub(SIGNER)
    assert npub[:10] in shown, "nsec.app"
    assert shown.endswith(npub[-4:])


# What a bunker keeps


def test_pairings_survive_a_restart(tmp_path: Path) -> None:
    place, relay = str(tmp_path / "signer"), "wss://one.example"
    pairings = avault.Pairings(place, [relay])
    uri = f"nostrconnect://{SIGNER}?relay=wss%3A%2F%2Ftwo.example&relay={relay}&secret=s3cret&name=an%0Aagent"
    assert pairings.learn(uri) == (SIGNER, "s3cret")
    again = avault.Pairings(place, ["wss://three.example"])
    assert avault.public_hex(again.keys) == avault.public_hex(pairings.keys)
    assert again.clients == pairings.clients and list(again.clients) == [SIGNER]
    assert "\n" not in again.clients[SIGNER], "a name is shown in a terminal"
    assert again.relays == ["wss://three.example", relay, "wss://two.example"]
    assert avault.parse_bunker(again.uri()) == (avault.public_hex(pairings.keys), again.relays, pairings.secret)


def test_a_bunkers_secret_pairs_one_client(tmp_path: Path) -> None:
    pairings = avault.Pairings(str(tmp_path / "signer"), [])
    secret = pairings.secret
    assert not pairings.spend("") and not pairings.spend(secret[:-1]) and pairings.secret == secret
    assert pairings.spend(secret)
    assert not pairings.spend(secret) and pairings.secret != secret
    pairings.add(SIGNER, "x" * 100)
    again = avault.Pairings(str(tmp_path / "signer"), [])
    assert again.secret == pairings.secret and not again.spend(secret)
    assert len(again.clients[SIGNER]) <= 65


@pytest.mark.parametrize("uri", ["", f"bunker://{SIGNER}?relay=wss://one.example&secret=s", f"nostrconnect://{SIGNER}?secret=s"])
def test_what_a_bunker_does_not_take(tmp_path: Path, uri: str) -> None:
    pairings = avault.Pairings(str(tmp_path / "signer"), [])
    with pytest.raises(avault.Usage, match="not a nostrconnect:// URI"):
        pairings.learn(uri)
    assert pairings.clients == {} and pairings.relays == []


def test_a_sentence_is_shown_to_its_end() -> None:
    """Who else opens the vault stands there."""
    others = "; ".join(f"operator{number} (npub1{number:014}…)" for number in range(avault.OTHERS))
    assert avault.read_sentence(json.dumps({"content": others})) == others
    assert len(avault.read_sentence(json.dumps({"content": "x" * 100_000}))) < 10_000
