"""Signing for Nostr: who is invited, what they may, and what is refused; by a keyholder that is alone with what signs for it.

Each row of the dangers is a test: what a hostile client sends, and that nothing is signed, encrypted or decrypted.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nostr_sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st
from signing_thread import signing_for
from test_gate import asks
from test_keyholder_alone import Desk

import avault

V2 = nostr_sdk.Nip44Version.V2
FRIEND = nostr_sdk.Keys.parse("01" * 32)
HEX = FRIEND.public_key().to_hex()
CIPHERS = ["nip04_decrypt", "nip04_encrypt", "nip44_decrypt", "nip44_encrypt"]


def template(kind: int = 1, content: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "content": content, "tags": [], "created_at": int(time.time()), **fields}


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Hall(Desk):
    """A keyholder with what signs for it, and a key for Nostr that may sign notes and reactions, and write with a friend."""

    signer: avault.KeySigner

    async def fill(self) -> None:
        await self.open()
        self.npub = await self.generate("nostr", "CHILD", kinds=["1", "7"], ciphers=CIPHERS, peers=[HEX])
        self.public = avault.parse_npub(self.npub)

    async def generate(self, group: str, key: str, **uses: Any) -> str:
        answer = await self.serve("key", action="generate", kind="nostr", group=group, key=key, **uses)
        return str(answer["public"])

    async def sign(self, what: str, payload: str, **fields: Any) -> str:
        named = {"group": "nostr", "key": "CHILD", **fields}
        return str((await self.serve("sign", **{"as": what, "payload": encode(payload), **named}))["signature"])

    async def invite(self, name: str = "writer", **fields: Any) -> Client:
        given = {"kinds": ["1", "7"], "seconds": 3600, "group": "nostr", "key": "CHILD", **fields}
        answer = await self.serve("bunker", action="invite", name=name, **given)
        return Client(self, str(answer["uri"]))

    def lines(self, name: str) -> list[dict[str, Any]]:
        path = Path(self.places.own(name))
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def why(self) -> str:
        assert self.holding.log
        self.holding.log.settle(at_once=True)
        return str(self.lines("refused.log")[-1].get("why"))


class Client:
    """A client by hand, of an invitation."""

    def __init__(self, hall: Hall, uri: str) -> None:
        self.hall, self.uri, self.keys, self.count = hall, uri, nostr_sdk.Keys.generate(), 0
        self.address, _, self.secret = uri.removeprefix("bunker://").replace("?", "&").split("&")
        self.secret = self.secret.removeprefix("secret=")
        self.to = nostr_sdk.PublicKey.parse(self.address)

    def other(self) -> Client:
        """Another client with the same address."""
        return Client(self.hall, self.uri)

    def event(self, body: Any, created_at: int | None = None, kind: int = 24133, keys: nostr_sdk.Keys | None = None) -> str:
        keys, text = keys or self.keys, body if isinstance(body, str) else json.dumps(body)
        content = nostr_sdk.nip44_encrypt(keys.secret_key(), self.to, text, V2)
        builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(kind), content).tags([nostr_sdk.Tag.public_key(self.to)])
        if created_at is not None:
            builder = builder.custom_created_at(nostr_sdk.Timestamp.from_secs(created_at))
        return str(builder.finalize(keys).as_json())

    def body(self, method: str, *params: str, number: str | None = None) -> dict[str, Any]:
        self.count += 1
        return {"id": number or f"r{self.count}", "method": method, "params": [*params]}

    async def bring(self, event: str) -> dict[str, Any]:
        """The answer to an event, as the client reads it."""
        answer = json.loads((await self.hall.serve("bunker", action="event", event=event))["event"])
        assert answer["kind"] == 24133 and answer["pubkey"] == self.address
        assert ["p", self.keys.public_key().to_hex()] in answer["tags"]
        found = json.loads(nostr_sdk.nip44_decrypt(self.keys.secret_key(), self.to, answer["content"]))
        assert isinstance(found, dict)
        return found

    async def ask(self, method: str, *params: str, number: str | None = None, **event: Any) -> dict[str, Any]:
        body = self.body(method, *params, number=number)
        found = await self.bring(self.event(body, **event))
        assert found["id"] == body["id"]
        return found

    async def get(self, method: str, *params: str) -> str:
        """The result of a request that is answered."""
        found = await self.ask(method, *params)
        assert "error" not in found, found
        return str(found["result"])

    async def refuse(self, method: str, *params: str, says: str = "", **more: Any) -> None:
        """That a request is refused, in a form that all clients read."""
        found = await self.ask(method, *params, **more)
        assert found["result"] == "error" and found["error"] and says in found["error"], found

    async def connect(self) -> Client:
        assert await self.get("connect", self.address, self.secret) == "ack"
        return self

    async def sign(self, **fields: Any) -> dict[str, Any]:
        event = nostr_sdk.Event.from_json(await self.get("sign_event", json.dumps(template(**fields))))
        assert event.verify()
        return dict(json.loads(event.as_json()))


@pytest.fixture
async def hall(tmp_path: Path) -> AsyncIterator[Hall]:
    hall = Hall(tmp_path)
    with signing_for(hall.keyholder) as hall.signer:
        await hall.fill()
        yield hall
    hall.close()


async def again(hall: Hall) -> None:
    """Lock the vault and open it again: what was known only in memory is gone."""
    hall.close()
    hall.set_up()
    await hall.open()


# keys


async def test_a_key_is_made_and_signs_what_its_guard_names(hall: Hall) -> None:
    event = json.loads(await hall.sign("nostr-event", json.dumps(template(content="grüße \u2028\x01"))))
    assert event["pubkey"] == hall.public and event["content"] == "grüße \u2028\x01"
    assert nostr_sdk.Event.from_json(json.dumps(event)).verify()
    line = hall.lines("access.log")[-1]
    assert line["op"] == "sign" and line["signed"].startswith("sign a note (kind 1) with nostr/CHILD: ")


async def test_texts_are_encrypted_and_decrypted_with_a_friend(hall: Hall) -> None:
    mine = nostr_sdk.PublicKey.parse(hall.public)
    for name, encrypt, decrypt in (
        ("nip44", lambda *a: nostr_sdk.nip44_encrypt(*a, V2), nostr_sdk.nip44_decrypt),
        ("nip04", nostr_sdk.nip04_encrypt, nostr_sdk.nip04_decrypt),
    ):
        sealed = await hall.sign(f"{name}-encrypt", "for you", peer=HEX)
        assert decrypt(FRIEND.secret_key(), mine, sealed) == "for you"
        theirs = encrypt(FRIEND.secret_key(), mine, "for me")
        assert await hall.sign(f"{name}-decrypt", theirs, peer=HEX.upper()) == "for me"


async def test_list_shows_the_kind_and_the_npub(hall: Hall) -> None:
    (key,) = next(each["keys"] for each in (await hall.serve("list"))["groups"] if each["name"] == "nostr")
    assert key["signs"] == {"kind": "nostr", "public": hall.npub, "fingerprint": hall.npub}
    assert key["guard"]["only"] == ["sign"] and hall.npub.startswith("npub1")


@pytest.mark.parametrize("form", ["nsec", "hex", "ncryptsec"])
async def test_a_key_is_taken_in_every_usual_form(hall: Hall, form: str) -> None:
    keys = nostr_sdk.Keys.generate()
    secret = keys.secret_key()
    forms = {"nsec": secret.to_bech32(), "hex": secret.to_hex()}
    text = forms.get(form) or avault.encrypt_key(secret.to_hex(), "open, sesame", 16)
    fields: dict[str, Any] = {"action": "import", "kind": "nostr", "group": "nostr", "key": "TAKEN", "kinds": ["1"]}
    answer = await hall.serve("key", {"file": f"{text}\n"}, **fields)
    if form == "ncryptsec":
        assert answer == {"ok": True, "needs_passphrase": True}
        with pytest.raises(avault.Denied, match="the passphrase is not the key's"):
            await hall.serve("key", {"file": text, "passphrase": "wrong"}, **fields)
        answer = await hall.serve("key", {"file": text, "passphrase": "open, sesame"}, **fields)
    assert answer["public"] == keys.public_key().to_bech32()
    assert json.loads(await hall.sign("nostr-event", json.dumps(template()), key="TAKEN"))["pubkey"] == keys.public_key().to_hex()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("npub1abc", "a public key"),
        ("nsec1x", "not a Nostr secret key"),
        ("", "not a"),
    ],
)
async def test_what_is_no_key_is_refused_with_what_to_do(hall: Hall, text: str, says: str) -> None:
    with pytest.raises(avault.Usage, match=says) as refused:
        await hall.serve("key", {"file": text}, action="import", kind="nostr", group="nostr", key="TAKEN", kinds=["1"])
    assert refused.value.hint


@pytest.mark.parametrize("whose", ["agent", "operator"])
async def test_a_key_that_opens_the_vault_is_not_taken(hall: Hall, whose: str) -> None:
    nsec = getattr(hall.example, whose).secret_key().to_bech32()
    with pytest.raises(avault.Denied, match="that key opens the vault"):
        await hall.serve("key", {"file": nsec}, action="import", kind="nostr", group="nostr", key="AGENT", kinds=["1"])


@pytest.mark.parametrize("whose", ["agent", "operator"])
async def test_a_key_that_opens_the_vault_signs_nothing_however_it_came_in(hall: Hall, whose: str) -> None:
    keys = getattr(hall.example, whose)
    value = avault.pack_nostr_key(avault.public_hex(keys), keys.secret_key().to_hex())
    await hall.serve("set", value, group="nostr", key="AGENT")
    await hall.serve("guard", group="nostr", key="AGENT", kinds=["1"], ciphers=CIPHERS, peers=["any"])
    for what, fields in (("nostr-event", {}), ("nip44-decrypt", {"peer": HEX})):
        with pytest.raises(avault.Denied, match="that key opens the vault"):
            await hall.sign(what, json.dumps(template()), key="AGENT", **fields)
    with pytest.raises(avault.Denied, match="that key opens the vault"):
        await hall.invite(key="AGENT")


async def test_a_value_with_the_public_half_of_another_key_signs_nothing(hall: Hall) -> None:
    value = avault.pack_nostr_key(hall.public, nostr_sdk.Keys.generate().secret_key().to_hex())
    await hall.serve("set", value, group="nostr", key="FALSE")
    await hall.serve("guard", group="nostr", key="FALSE", kinds=["1"])
    with pytest.raises(avault.Usage, match="the public half of another key"):
        await hall.sign("nostr-event", json.dumps(template()), key="FALSE")


async def test_a_value_that_is_no_point_of_the_curve_does_not_disturb_the_list(hall: Hall) -> None:
    await hall.serve("set", avault.pack_nostr_key("f" * 64, "0" * 64), group="nostr", key="ODD")
    assert (await hall.serve("list"))["ok"] and (await hall.serve("bunker", action="list"))["ok"]


async def test_no_request_gives_the_private_half_or_an_invitations_key(hall: Hall) -> None:
    client = await (await hall.invite()).connect()
    store = hall.holding.store
    assert store
    value = store.vault.groups["nostr"].keys["CHILD"][0].value
    [invitation] = avault.list_invitations(store.vault)
    secrets = [value.rpartition(":")[2], invitation.transport.rpartition(":")[2], client.secret]
    Path(hall.places.own("copy.enc")).write_bytes(hall.own("avault.enc"))
    reads = ("get", "export", "reveal", "provide", "has", "list", "inspect", "machines", "exposed", "guards", "keys", "verify")
    asked = [(op, json.dumps(each)) for op in reads for each in asks(op, "free")]
    for op, text in asked:
        fields = json.loads(text.replace("free", "nostr").replace("KEY", "CHILD"))
        try:
            answer = json.dumps(await hall.serve(op, **fields))
        except avault.AvaultError as error:
            answer = json.dumps(error.to_dict())
        assert not [each for each in secrets if each in answer], fields
    for action in ("list", "listen"):
        answer = json.dumps(await hall.serve("bunker", action=action))
        assert not [each for each in secrets if each in answer]


# what is refused, by whichever way it is asked


EVENTS_REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"kind": 0}, "may not sign an event of kind 0"),
    ({"kind": 13}, "kind 13"),
    ({"kind": 22242}, "kind 22242"),
    ({"kind": 24133}, "kind 24133"),
    ({"kind": 27235}, "kind 27235"),
    ({"kind": 30078}, "kind 30078"),
    ({"kind": True}, "kind is a number"),
    ({"kind": 1.0}, "kind is a number"),
    ({"kind": "1"}, "kind is a number"),
    ({"kind": 65537}, "kind is a number"),
    ({"pubkey": HEX}, "an event of another key's"),
    ({"tags": [["delegation", HEX, "kind=1", "00" * 64]]}, "in the name of another key"),
    ({"tags": [[]]}, "lists of texts"),
    ({"tags": [["p", 1]]}, "lists of texts"),
    ({"tags": {}}, "lists of texts"),
    ({"content": None}, "content is a text"),
    ({"content": "\ud800"}, "not understood"),
    ({"created_at": 1}, "not about now"),
    ({"created_at": 5_000_000_000}, "not about now"),
    ({"created_at": -1}, "created_at is a time"),
    ({"extra": 1}, "an event has no extra"),
]


async def test_an_event_that_is_not_meant_is_not_signed(hall: Hall) -> None:
    client = await (await hall.invite(rate=200)).connect()
    for change, says in EVENTS_REFUSED:
        wanted = json.dumps({**template(), **change})
        with pytest.raises(avault.AvaultError, match=says):
            await hall.sign("nostr-event", wanted)
        assert says in hall.why()
        await client.refuse("sign_event", wanted, says=says)


async def test_what_is_no_event_is_not_signed(hall: Hall) -> None:
    for text in ["", "null", "[]", "{}", "x", "1", '{"kind":1}', "[" * 5000]:
        with pytest.raises(avault.AvaultError):
            await hall.sign("nostr-event", text)


@pytest.mark.slow
@given(st.text(max_size=200) | st.dictionaries(st.text(max_size=10), st.integers() | st.text(max_size=9)).map(json.dumps))
def test_any_text_is_an_event_or_refused(text: str) -> None:
    said = {"as": "nostr-event", "payload": base64.b64encode(text.encode("utf-8", "replace")).decode()}
    try:
        use = avault.decode_nostr({**said, "public": base64.b64encode(bytes(32)).decode()})
    except (avault.Usage, avault.Denied):
        return
    assert use["kind"] <= 65535


@given(st.text(max_size=60), st.lists(st.lists(st.text(max_size=9), min_size=1, max_size=4), max_size=4))
def test_what_is_decoded_is_what_is_signed(content: str, tags: list[list[str]]) -> None:
    """The id is that of the library, for any text."""
    keys = nostr_sdk.Keys.generate()
    public, at = keys.public_key().to_hex(), int(time.time())
    tags = [tag for tag in tags if tag[0] != "delegation"]
    try:
        payload = json.dumps({"kind": 1, "content": content, "tags": tags, "created_at": at})
        use = avault.decode_event(payload, public)
    except ValueError:
        return
    assert json.loads(avault.sign_event(keys, use))["id"] == use["id"]


@pytest.mark.parametrize("whose", ["agent", "operator", "other"])
async def test_nothing_goes_to_or_comes_from_who_opens_the_vault(hall: Hall, whose: str) -> None:
    """Whatever a guard or an invitation says: also of an operator who came later."""
    store = hall.holding.store
    assert store
    keys = {"agent": hall.example.agent, "operator": hall.example.operator, "other": nostr_sdk.Keys.generate()}[whose]
    peer = keys.public_key().to_hex()
    await hall.generate("nostr", "WIDE", ciphers=CIPHERS, peers=["any"])
    client = await (await hall.invite(key="WIDE", kinds=[], methods=CIPHERS, peers=["any"])).connect()
    if whose == "other":
        await hall.keyholder.change(lambda vault: vault.state("operator/alice", peer, 1, store.machine))
    mine = nostr_sdk.PublicKey.parse(avault.list_invitations(store.vault)[0].public)
    for cipher, said in itertools.product(CIPHERS, (peer, peer.upper())):
        text = nostr_sdk.nip44_encrypt(keys.secret_key(), mine, "sealed", V2)
        if "nip04" in cipher:
            text = nostr_sdk.nip04_encrypt(keys.secret_key(), mine, "sealed")
        with pytest.raises(avault.Denied, match="nothing is encrypted to the agent or an operator"):
            await hall.sign(cipher.replace("_", "-"), text, key="WIDE", peer=said)
        await client.refuse(cipher, said, text, says="nothing is encrypted to the agent or an operator")


async def test_a_peer_in_another_spelling_is_none(hall: Hall) -> None:
    for peer in ["", "00", "npub1xyz", "g" * 64, f" {HEX}", HEX + "\n", f"02{HEX}"]:
        with pytest.raises(avault.Usage, match="peer is no public key"):
            await hall.sign("nip44-encrypt", "x", peer=peer)


async def test_there_is_no_raw_signature(hall: Hall) -> None:
    for what in ["raw", "ecdh", "get_conversation_key", "digest", "nip44", "schnorr", "", None, 1, []]:
        with pytest.raises(avault.Usage, match="as is "):
            await hall.serve("sign", **{"as": what, "payload": "AAAA", "group": "nostr", "key": "CHILD"})


async def test_a_key_signs_for_its_own_kind_alone(hall: Hall) -> None:
    await hall.serve("guard", group="nostr", key="CHILD", times=100)
    for what in ("ssh", "sshsig"):
        with pytest.raises(avault.AvaultError):
            await hall.sign(what, "x")
    assert not [key for key in (await hall.serve("keys", **{"as": "ssh"}))["keys"] if key["kind"] == "nostr"]


async def test_more_needs_the_operator_and_less_does_not(hall: Hall) -> None:
    for more in ({"kinds": ["1", "7", "0"]}, {"peers": ["any"]}, {"only": ["run"]}):
        assert (await hall.serve("guard", group="nostr", key="CHILD", **more))["weakens"], more
    assert not (await hall.serve("guard", group="nostr", key="CHILD", kinds=["1"]))["weakens"]
    with pytest.raises(avault.Denied, match="may not sign an event of kind 7"):
        await hall.sign("nostr-event", json.dumps(template(7, "+")))


async def test_a_key_for_which_nothing_is_named_gets_a_use_from_the_operator_alone(hall: Hall) -> None:
    keys = nostr_sdk.Keys.generate()
    await hall.serve("set", avault.keep_nostr_key(keys), group="nostr", key="BARE")
    await hall.serve("guard", group="nostr", key="BARE", only=["sign"])
    for more in ({"kinds": ["1", "4"]}, {"ciphers": CIPHERS, "peers": [HEX]}):
        assert (await hall.serve("guard", group="nostr", key="BARE", **more))["weakens"], more
    with pytest.raises(avault.Denied, match="may not sign an event of kind 1"):
        await hall.sign("nostr-event", json.dumps(template()), key="BARE")
    assert not (await hall.serve("guard", group="nostr", key="BARE", times=3))["weakens"]


@pytest.mark.parametrize("uses", [{}, {"kinds": ["1"]}, {"ciphers": ["nip44_encrypt"]}])
async def test_what_is_not_named_is_not_signed(hall: Hall, uses: dict[str, Any]) -> None:
    await hall.generate("nostr", "BARE", **uses)
    if "kinds" not in uses:
        with pytest.raises(avault.Denied, match="may not sign an event of kind 1"):
            await hall.sign("nostr-event", json.dumps(template()), key="BARE")
    with pytest.raises(avault.Denied, match="may not do nip44_encrypt"):
        await hall.sign("nip44-encrypt", "x", key="BARE", peer=HEX)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kinds": ["01"]},
        {"kinds": ["65536"]},
        {"kinds": [1]},
        {"kinds": ["any"]},
        {"kinds": []},
        {"ciphers": ["nip44"]},
        {"peers": ["npub1"]},
    ],
)
async def test_a_typo_makes_no_key(hall: Hall, wrong: dict[str, Any]) -> None:
    with pytest.raises(avault.Usage):
        await hall.generate("nostr", "TYPO", **wrong)


async def test_uses_are_counted_before_they_are_signed(hall: Hall) -> None:
    await hall.serve("guard", group="nostr", key="CHILD", times=3)

    async def one() -> bool:
        try:
            return bool(await hall.sign("nostr-event", json.dumps(template())))
        except avault.Denied:
            return False

    hall.session = SimpleNamespace(caller=None, grant=None, send=lambda message: None, transport=hall.session.transport)
    hall.keyholder.identify = lambda session: {}  # type: ignore[method-assign]
    assert sum(await asyncio.gather(*(one() for _ in range(8)))) == 3


# invitations


async def test_who_is_invited_gets_what_is_named(hall: Hall) -> None:
    client = await (await hall.invite(methods=["sign_event", *CIPHERS], peers=[HEX])).connect()
    assert await client.get("ping") == "pong" and await client.get("switch_relays") == "null"
    assert await client.get("get_public_key") == hall.public
    assert (await client.sign(content="by a child"))["pubkey"] == hall.public
    mine = nostr_sdk.PublicKey.parse(hall.public)
    assert nostr_sdk.nip44_decrypt(FRIEND.secret_key(), mine, await client.get("nip44_encrypt", HEX, "hi")) == "hi"
    assert await client.get("nip44_decrypt", HEX, nostr_sdk.nip44_encrypt(FRIEND.secret_key(), mine, "ho", V2)) == "ho"
    assert await client.get("nip04_decrypt", HEX, nostr_sdk.nip04_encrypt(FRIEND.secret_key(), mine, "he")) == "he"
    line = next(each for each in hall.lines("access.log") if "by a child" in each.get("signed", ""))
    assert line["for"] == "bunker writer" and line["signed"].startswith("writer: sign a note")
    [told] = (await hall.serve("bunker", action="list"))["invitations"]
    assert told["client"] == client.keys.public_key().to_bech32() and told["kinds"] == [1, 7]


async def test_an_invitation_is_narrower_than_the_keys_guard(hall: Hall) -> None:
    client = await (await hall.invite(kinds=["1"])).connect()
    await client.refuse("sign_event", json.dumps(template(7, "+")), says="writer may not sign an event of kind 7")
    await client.refuse("nip44_encrypt", HEX, "x", says="writer may not do nip44_encrypt")
    other = await (await hall.invite("reader", kinds=[], methods=["nip44_decrypt"], peers=[HEX])).connect()
    await other.refuse("sign_event", json.dumps(template()), says="reader may not sign an event of kind 1")
    await other.refuse("nip44_encrypt", HEX, "x", says="reader may not do nip44_encrypt")
    stranger = nostr_sdk.Keys.generate().public_key().to_hex()
    await other.refuse("nip44_decrypt", stranger, "x", says="reader may not do nip44_decrypt with npub1")


INVITATIONS_REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"kinds": ["0"]}, "is guarded, and does less"),
    ({"kinds": ["1"], "methods": ["sign_event", "nip44_decrypt"], "peers": ["any"]}, "is guarded, and does less"),
    ({"kinds": []}, "which kinds"),
    ({"kinds": ["1"], "methods": ["nip44_decrypt"], "peers": [HEX]}, "which kinds"),
    ({"methods": ["sign_event", "nip44_decrypt"]}, "with whom"),
    ({"methods": ["sign"]}, "not one of methods"),
    ({"methods": ["get_conversation_key"]}, "not one of methods"),
    ({"kinds": ["1 "]}, "not one of kinds"),
    ({"seconds": 0}, "for how long"),
    ({"seconds": 10**9}, "for how long"),
    ({"seconds": None}, "for how long"),
    ({"rate": 0}, "a rate is"),
    ({"rate": 10**6}, "a rate is"),
    ({"relays": ["http://x"]}, "not a relay URL"),
    ({"peer": [HEX]}, "no such field"),
    ({"name": "a/b"}, "name"),
    ({"key": "NONE"}, "no key that signs"),
]


async def test_an_invitation_that_says_too_much_or_nothing_is_refused(hall: Hall) -> None:
    for fields, says in INVITATIONS_REFUSED:
        with pytest.raises(avault.AvaultError, match=says):
            await hall.invite(**fields)
    assert (await hall.serve("bunker", action="list"))["invitations"] == []


@pytest.mark.parametrize("whose", ["agent", "operator"])
async def test_nobody_is_invited_to_write_with_who_opens_the_vault(hall: Hall, whose: str) -> None:
    await hall.generate("nostr", "WIDE", ciphers=CIPHERS, peers=["any"])
    peer = getattr(hall.example, whose).public_key().to_hex()
    with pytest.raises(avault.Denied, match="nothing is encrypted to the agent"):
        await hall.invite(key="WIDE", kinds=[], methods=CIPHERS, peers=[peer])


async def test_a_name_is_invited_once(hall: Hall) -> None:
    await hall.invite()
    with pytest.raises(avault.Denied, match="writer is invited already"):
        await hall.invite()


async def test_the_secret_is_kept_as_a_hash_and_its_key_is_none_of_the_users(hall: Hall) -> None:
    client = await hall.invite()
    store = hall.holding.store
    assert store
    text = store.vault.to_json()
    assert client.secret not in text and avault.sha256(client.secret.encode()).hex() in text
    assert client.address not in (hall.public, store.vault.agent, store.vault.operator)
    assert (await hall.invite("other")).address != client.address


# who asks


async def test_a_wrong_secret_is_refused(hall: Hall) -> None:
    client = await hall.invite()
    for secret in ("", "0" * 32, client.secret.upper(), client.secret[:-1]):
        if secret != client.secret:
            await client.refuse("connect", client.address, secret, says="invalid secret")
    await client.refuse("connect", client.address, says="invalid secret")
    await client.refuse("connect", says="another key")
    await client.refuse("connect", HEX, client.secret, says="another key")
    await client.refuse("get_public_key", says="not connected")
    await client.connect()


async def test_a_spent_secret_is_good_for_nobody_else(hall: Hall) -> None:
    client = await (await hall.invite()).connect()
    thief = client.other()
    await thief.refuse("connect", client.address, client.secret, says="invalid secret")
    await thief.refuse("sign_event", json.dumps(template()), says="not connected")
    await client.connect()  # the same client's key, again
    assert hall.why() == "invalid secret"


async def test_of_two_at_once_with_a_secret_one_comes_in(hall: Hall) -> None:
    client = await hall.invite()
    clients = [client, *(client.other() for _ in range(4))]
    found = await asyncio.gather(*(each.ask("connect", each.address, each.secret) for each in clients))
    assert sorted(each["result"] for each in found) == ["ack", *["error"] * 4]


@pytest.mark.parametrize("method", ["get_public_key", "sign_event", "nip44_decrypt", "nip44_encrypt", "ping"])
async def test_who_is_not_connected_gets_nothing(hall: Hall, method: str) -> None:
    client = await hall.invite()
    await client.refuse(method, HEX, "x", says="not connected")


@pytest.mark.parametrize(
    "method",
    ["describe", "get_conversation_key", "nip44_get_key", "sign_message", "create_account", "", "CONNECT"],
)
async def test_an_unknown_method_is_refused(hall: Hall, method: str) -> None:
    client = await (await hall.invite()).connect()
    await client.refuse(method, HEX, "x", says="no such method")


async def test_too_few_or_too_many_parameters_are_refused(hall: Hall) -> None:
    client = await (await hall.invite(methods=["sign_event", *CIPHERS], peers=[HEX])).connect()
    note = json.dumps(template())
    for method, params in (
        ("sign_event", []),
        ("sign_event", [note, note]),
        ("nip44_encrypt", [HEX]),
        ("nip44_encrypt", [HEX, "x", "y"]),
    ):
        await client.refuse(method, *params, says="no such method, or not its parameters")


async def test_who_is_revoked_is_answered_no_more(hall: Hall) -> None:
    client, other = await (await hall.invite()).connect(), await (await hall.invite("other")).connect()
    await hall.serve("bunker", action="revoke", name="writer")
    for body in (client.body("sign_event", json.dumps(template())), client.body("connect", client.address, client.secret)):
        with pytest.raises(avault.NotFound, match="nobody is invited under this key"):
            await client.bring(client.event(body))
    await other.sign()
    with pytest.raises(avault.NotFound, match="nobody is invited as writer"):
        await hall.serve("bunker", action="revoke", name="writer")
    await again(hall)
    assert [each["name"] for each in (await hall.serve("bunker", action="list"))["invitations"]] == ["other"]


async def test_who_is_revoked_while_a_request_is_under_way_gets_nothing(hall: Hall) -> None:
    client = await (await hall.invite()).connect()
    use = hall.keyholder.signing.use

    async def slow(do: str, value: str, **message: Any) -> dict[str, Any]:
        found = await use(do, value, **message)
        if do == "sign":
            await hall.serve("bunker", action="revoke", name="writer")
        return found

    hall.keyholder.signing.use = slow  # type: ignore[method-assign]
    with pytest.raises(avault.NotFound, match="nobody is invited under this key"):
        await client.ask("sign_event", json.dumps(template()))
    assert "was taken back" in hall.why()
    hall.keyholder.signing.use = use  # type: ignore[method-assign]
    await hall.sign("nostr-event", json.dumps(template()))  # which comes after what the process is told of it
    assert len(hall.signer.nostr.loaded) == 1, "the key of the invitation is not brought back for a refusal"


async def test_the_key_of_who_is_revoked_is_forgotten_where_it_was_used(hall: Hall) -> None:
    await (await hall.invite()).connect()
    store = hall.holding.store
    assert store
    identity = avault.identify_key(avault.list_invitations(store.vault)[0].transport)
    assert identity in hall.signer.nostr.loaded
    await hall.serve("bunker", action="revoke", name="writer")
    await hall.sign("nostr-event", json.dumps(template()))  # which comes after that at the process
    assert identity not in hall.signer.nostr.loaded


async def test_an_invitation_ends(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    late = await hall.invite("late", seconds=60)
    client = await (await hall.invite(seconds=60)).connect()
    began, real = time.time(), time.time
    monkeypatch.setattr(avault.time, "time", lambda: real() + 70)
    await client.refuse("sign_event", json.dumps(template(created_at=int(began))), says="is over", created_at=int(began))
    await late.refuse("connect", late.address, late.secret, says="is over")
    monkeypatch.setattr(avault.time, "time", real)  # the clock is set back
    await client.refuse("sign_event", json.dumps(template()), says="is over")


# when, and how often


async def test_an_event_is_answered_once(hall: Hall) -> None:
    client = await (await hall.invite()).connect()
    event = client.event(client.body("sign_event", json.dumps(template())))
    assert "error" not in await client.bring(event)
    for _ in range(2):
        with pytest.raises(avault.Denied, match="was here already"):
            await client.bring(event)


async def test_who_sends_a_clients_event_again_uses_up_nothing_of_its_rate(hall: Hall) -> None:
    client = await (await hall.invite(rate=3)).connect()
    event = client.event(client.body("ping"))
    await client.bring(event)
    for _ in range(9):
        with pytest.raises(avault.Denied, match="was here already"):
            await client.bring(event)
    await client.sign()
    await client.sign()
    await client.refuse("ping", says="more than 3 requests a minute")


async def test_a_request_that_is_sent_anew_gets_the_same_answer(hall: Hall) -> None:
    """As clients do that have lost the answer: a fresh event with the id of before."""
    client = await (await hall.invite()).connect()
    note = json.dumps(template())
    first = await client.ask("sign_event", note, number="same")
    signed = len(hall.lines("access.log"))
    assert await client.ask("sign_event", note, number="same") == first
    assert len(hall.lines("access.log")) == signed
    await client.refuse("sign_event", json.dumps(template(content="another")), number="same", says="another request had this id")


@pytest.mark.parametrize("ago", [121, 3600, 10**9])
async def test_an_old_request_is_not_answered(hall: Hall, ago: int) -> None:
    client = await (await hall.invite()).connect()
    event = client.event(client.body("sign_event", json.dumps(template())), created_at=int(time.time()) - ago)
    with pytest.raises(avault.Denied, match="the request is old"):
        await client.bring(event)


async def test_a_request_of_the_time_to_come_is_not_answered(hall: Hall) -> None:
    client = await (await hall.invite()).connect()
    with pytest.raises(avault.Denied, match="of the time to come"):
        await client.bring(client.event(client.body("ping"), created_at=int(time.time()) + 60))


async def test_a_request_that_is_a_little_early_waits_for_its_time(hall: Hall) -> None:
    """So that it is never answered anew after the next unlock."""
    client = await (await hall.invite()).connect()
    due = int(time.time()) + 2
    await client.bring(client.event(client.body("ping"), created_at=due))
    assert time.time() >= due


async def test_what_was_answered_before_a_lock_is_not_answered_after_it(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await (await hall.invite()).connect()
    event = client.event(client.body("sign_event", json.dumps(template())))
    await client.bring(event)
    await again(hall)
    real = time.time
    with signing_for(hall.keyholder):
        with pytest.raises(avault.Denied, match="the request is old, or the clock was set back"):
            await client.bring(event)
        monkeypatch.setattr(avault.time, "time", lambda: real() - 60)  # the clock is set back
        with pytest.raises(avault.Denied, match="the request is old, or the clock was set back"):
            await client.bring(event)
        monkeypatch.setattr(avault.time, "time", lambda: real() + 2)
        event = client.event(client.body("ping"), created_at=int(real()) + 2)
        assert (await client.bring(event))["result"] == "pong"


async def test_a_clock_that_is_set_back_while_the_vault_is_open_lets_nothing_through(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await (await hall.invite()).connect()
    real = time.time
    event = client.event(client.body("sign_event", json.dumps(template())))
    await client.bring(event)
    monkeypatch.setattr(avault.time, "time", lambda: real() + 1000)
    await client.bring(client.event(client.body("ping"), created_at=int(real()) + 1000))
    monkeypatch.setattr(avault.time, "time", real)
    with pytest.raises(avault.Denied, match="the request is old, or the clock was set back"):
        await client.bring(event)


async def test_no_more_than_a_rate_is_answered_also_after_a_lock(hall: Hall) -> None:
    client = await (await hall.invite(rate=4)).connect()
    for _ in range(4):
        await client.sign()
    await client.refuse("sign_event", json.dumps(template()), says="more than 4 requests a minute")
    await client.refuse("ping", says="more than 4 requests a minute")
    await again(hall)
    hall.keyholder.guests.floor = 0
    with signing_for(hall.keyholder):
        await client.refuse("sign_event", json.dumps(template()), says="more than 4 requests a minute")


def test_the_last_line_of_the_log_counts_also_where_a_new_file_was_begun(tmp_path: Path) -> None:
    log, now = tmp_path / "access.log", int(time.time())
    assert avault.read_recent(str(log)) == (0.0, {})
    line = {"time": avault.render_time(now - 5), "for": "bunker writer"}
    (tmp_path / "access.log.1").write_text(json.dumps(line) + "\n")
    log.write_text('[]\n{"time": 1}\nnot a line\n')
    last, recent = avault.read_recent(str(log))
    assert last == now - 5 and len(recent["bunker writer"]) == 1


async def test_strangers_do_not_use_up_what_the_client_has(hall: Hall) -> None:
    client = await (await hall.invite(rate=5)).connect()
    thief = client.other()
    for _ in range(avault.UNINVITED - 1):
        await thief.refuse("connect", client.address, "guess", says="invalid secret")
    with pytest.raises(avault.Denied, match="who is not invited"):
        await thief.ask("ping")
    await client.sign()


async def test_what_is_refused_for_the_rate_is_not_signed_when_it_is_sent_again(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await (await hall.invite(rate=2)).connect()
    await client.get("ping")
    await client.get("ping")
    event = client.event(client.body("sign_event", json.dumps(template())))
    assert "more than 2 requests a minute" in (await client.bring(event))["error"]
    hall.keyholder.guests.find(avault.find_addressed(hall.keyholder, event)).own.used.clear()  # a minute later
    with pytest.raises(avault.Denied, match="was here already"):
        await client.bring(event)


def slow(hall: Hall, monkeypatch: pytest.MonkeyPatch, what: str) -> tuple[asyncio.Event, asyncio.Event]:
    """Have the process that signs wait before an answer of a kind: what says that it waits, and what lets it go on."""
    use, waits, may = hall.keyholder.signing.use, asyncio.Event(), asyncio.Event()

    async def slowly(do: str, value: str, **message: Any) -> dict[str, Any]:
        found = await use(do, value, **message)
        if do == what:
            waits.set()
            await may.wait()
        return found

    monkeypatch.setattr(hall.keyholder.signing, "use", slowly)
    return waits, may


async def test_a_request_that_is_there_twice_at_once_is_signed_once(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await (await hall.invite()).connect()
    note, (waits, may) = json.dumps(template()), slow(hall, monkeypatch, "sign")
    asked = [asyncio.create_task(client.ask("sign_event", note, number="same")) for _ in range(3)]
    other = asyncio.create_task(client.ask("sign_event", json.dumps(template(content="x")), number="same"))
    await waits.wait()
    await asyncio.sleep(0)
    may.set()
    first, *same = await asyncio.gather(*asked)
    assert "error" not in first and same == [first, first]
    assert "another request had this id" in (await other)["error"]
    assert len([each for each in hall.lines("access.log") if each["op"] == "sign"]) == 1


async def test_a_request_that_failed_is_tried_by_who_waited_for_it(hall: Hall) -> None:
    guest, made = avault.Guest(1, []), iter([avault.Usage("no"), None])

    async def make() -> str:
        await asyncio.sleep(0)
        if error := next(made):
            raise error
        return "yes"

    found = await asyncio.gather(*(guest.answer_once("1", "x", make) for _ in range(3)), return_exceptions=True)
    assert isinstance(found[0], avault.Usage) and found[1:] == ["yes", "yes"] and not guest.under_way


async def test_who_is_revoked_while_an_answer_is_sealed_gets_nothing(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await (await hall.invite()).connect()
    waits, may = slow(hall, monkeypatch, "seal")
    asked = asyncio.create_task(client.ask("sign_event", json.dumps(template())))
    await waits.wait()
    await hall.serve("bunker", action="revoke", name="writer")
    may.set()
    with pytest.raises(avault.NotFound, match="nobody is invited under this key"):
        await asked
    await hall.sign("nostr-event", json.dumps(template()))  # which comes after what the process is told of it


async def test_who_gets_nothing_keeps_no_vault_open(hall: Hall) -> None:
    client = await (await hall.invite()).connect()
    autolock = hall.holding.autolock
    autolock.used = 0.0
    thief = client.other()
    await thief.refuse("connect", client.address, "guess", says="invalid secret")
    await thief.refuse("connect", HEX, "guess", says="another key")
    await client.refuse("sign_event", json.dumps(template(kind=0)), says="may not sign")
    assert autolock.used == 0.0
    await client.sign()
    assert autolock.used > 0.0


async def test_strangers_leave_room_in_the_log_of_what_was_refused(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = [await (await hall.invite(f"writer{number}")).connect() for number in range(3)]
    for client in clients:
        thief = client.other()
        for _ in range(avault.UNINVITED - 1):
            await thief.refuse("connect", client.address, "guess", says="invalid secret")
    with pytest.raises(avault.Denied):
        await hall.sign("nostr-event", json.dumps(template(kind=0)))
    assert hall.why() == "nostr/CHILD may not sign an event of kind 0"
    lines = hall.lines("refused.log")
    assert [each["op"] for each in lines] == ["bunker", "sign"] and not any(each["skipped"] for each in lines)
    real = avault.uptime()
    monkeypatch.setattr(avault, "uptime", lambda: real + avault.STRANGERS_TOLD + 1)
    await clients[0].other().refuse("connect", clients[0].address, "guess", says="invalid secret")
    assert hall.why() == f"invalid secret ({3 * (avault.UNINVITED - 1)} refusals since the last line)"


async def test_the_log_says_which_client_came_and_only_of_who_did(hall: Hall) -> None:
    client = await hall.invite()
    clients = [client, *(client.other() for _ in range(2))]
    found = await asyncio.gather(*(each.ask("connect", each.address, each.secret) for each in clients))
    [one] = [each for each, answer in zip(clients, found, strict=True) if answer["result"] == "ack"]
    [line] = [each for each in hall.lines("access.log") if each["for"] == "connect writer"]
    assert line["client"] == one.keys.public_key().to_bech32() in avault.render_line(json.dumps(line).encode())
    assert [each["client"] != line["client"] for each in hall.lines("refused.log")] == [True]


# through a grant


def through(hall: Hall, **fields: Any) -> avault.Grant:
    """A grant, through which the next requests come."""
    grant = avault.Grant("web", ["nostr"], [], fields.pop("can", ["sign"]))
    grant.times = fields.get("times")
    hall.session = SimpleNamespace(**{**vars(hall.session), "grant": grant})
    return grant


async def test_who_has_a_grant_for_something_else_signs_nothing(hall: Hall) -> None:
    through(hall, can=["get"])
    with pytest.raises(avault.Denied, match="the grant web is only to get"):
        await hall.sign("nostr-event", json.dumps(template()))
    grant = through(hall, times=2)
    for _ in range(2):
        await hall.sign("nostr-event", json.dumps(template()))
    with pytest.raises(avault.Denied, match="as often as it may be"):
        await hall.sign("nostr-event", json.dumps(template()))
    assert grant.times == 0


async def test_a_grant_that_ends_while_a_request_is_under_way_gets_nothing(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    grant, (waits, may) = through(hall), slow(hall, monkeypatch, "sign")
    asked = asyncio.create_task(hall.sign("nostr-event", json.dumps(template())))
    await waits.wait()
    grant.is_ended = True
    may.set()
    with pytest.raises(avault.Denied, match="the grant web has ended"):
        await asked


# the front end


@pytest.mark.slow
async def test_a_port_that_is_taken_silences_nobody_elsewhere(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault, "READY_TIME", 2.0)
    relay, url = await avault.start_relay()
    front = avault.NostrFront(hall.places)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        here = {"address": HEX, "client": None, "relays": [f"ws://127.0.0.1:{port}/avault"]}
        elsewhere = {"address": hall.public, "client": None, "relays": [url]}

        async def ask(op: str, **fields: Any) -> dict[str, Any]:
            return {"ok": True, "listen": [here, elsewhere]}

        monkeypatch.setattr(front.vault, "ask", ask)
        with pytest.raises(avault.Unavailable, match=f"cannot listen at port {port}"):
            await front.look()
        assert front.visitors[hall.public].relays.is_any_connected() and not front.port
    try:
        assert (await front.look())["listening"] == 2 and front.port == port
    finally:
        for each in front.visitors.values():
            await each.close()
        front.relay.shutdown()
        relay.shutdown()


async def test_the_front_end_is_looked_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault, "LOOK_AGAIN", 0.01)
    outcomes, said, lost, done = ["port", "port", "", "", "x"], list[str](), [False], asyncio.Event()

    async def nostr() -> None:
        outcome = outcomes.pop(0)
        lost[0] = len(outcomes) == 2  # it ends once, by itself
        if not outcomes:
            done.set()
        if outcome:
            raise avault.Unavailable(outcome)

    fronts = SimpleNamespace(nostr=nostr, has_lost_carrier=lambda: lost[0])
    warden: Any = SimpleNamespace(invited=asyncio.Event())
    warden.invited.set()
    follows = asyncio.create_task(avault.Companions.follow_invited(SimpleNamespace(fronts=fronts, say=said.append), warden))  # type: ignore[arg-type]
    async with asyncio.timeout(60):
        while len(outcomes) > 1:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert len(outcomes) == 1, "where all is well nothing is asked"
        warden.invited.set()
        await done.wait()
    follows.cancel()
    assert said == [f"who is invited is not served: {each}" for each in ("port", "x")]


# what is no request


async def test_a_forged_author_is_not_believed(hall: Hall) -> None:
    client = await (await hall.invite()).connect()
    body = client.body("sign_event", json.dumps(template()))
    theirs = json.loads(client.event(body, keys=nostr_sdk.Keys.generate()))
    mine = json.loads(client.event(body))
    for forged in (
        {**theirs, "pubkey": client.keys.public_key().to_hex()},
        {**mine, "sig": theirs["sig"]},
        {**mine, "content": theirs["content"]},
        {**mine, "created_at": mine["created_at"] + 1},
        {**mine, "tags": [*mine["tags"], ["x", "y"]]},
        {**mine, "id": theirs["id"]},
    ):
        with pytest.raises(avault.Usage, match="no request for this key, or not its author's"):
            await client.bring(json.dumps(forged))


async def test_an_event_for_another_key_is_none(hall: Hall) -> None:
    client, other = await (await hall.invite()).connect(), await hall.invite("other")
    event = json.loads(client.event(client.body("ping")))
    with pytest.raises(avault.Usage):
        await client.bring(json.dumps({**event, "tags": [["p", other.address]]}))
    with pytest.raises(avault.NotFound):
        await client.bring(json.dumps({**event, "tags": [["p", hall.public]]}))


async def test_an_event_of_another_kind_is_no_request(hall: Hall) -> None:
    client = await (await hall.invite()).connect()
    with pytest.raises(avault.Usage, match="no request for this key"):
        await client.bring(client.event(client.body("ping"), kind=4))


@pytest.mark.parametrize(
    "body",
    [
        *("x", "null", "[]", "{}", "1", "[" * 4000),
        {"id": 1, "method": "ping", "params": []},
        {"id": "", "method": "ping"},
        {"id": "a", "method": 1},
        {"id": "a", "method": "ping", "params": {}},
        {"id": "x" * 200, "method": "ping"},
    ],
)
async def test_what_is_no_request_is_not_answered(hall: Hall, body: Any) -> None:
    client = await (await hall.invite()).connect()
    with pytest.raises(avault.Usage):
        await client.bring(client.event(body))
    assert await client.get("ping") == "pong"


@pytest.mark.parametrize("more", ["deep", "many", "wide"])
async def test_what_a_stranger_writes_does_not_end_the_process_that_signs(hall: Hall, more: str) -> None:
    client = await (await hall.invite()).connect()
    link = hall.keyholder.signing.link
    deep = '"params": [], "more": ' + "[" * 150 + "]" * 150
    said = {"deep": deep, "many": '"params": [' + "1," * 10_000 + "1]", "wide": '"params": [{}, [[]], 1, null]'}[more]
    event = client.other().event('{"id": "a", "method": "ping", ' + said + "}")
    if more == "many":
        with pytest.raises(avault.Usage, match="not a request of NIP-46"):
            await hall.serve("bunker", action="event", event=event)
    else:
        assert (await hall.serve("bunker", action="event", event=event))["ok"]
    assert await client.get("ping") == "pong" and hall.keyholder.signing.link is link


@pytest.mark.parametrize("event", [None, 1, "", "{}", "[]", "null", '{"tags":[["p"]]}', '{"tags":1}', "x" * 70_000, "[" * 9000])
async def test_what_is_no_event_is_not_answered(hall: Hall, event: Any) -> None:
    await hall.invite()
    with pytest.raises((avault.Usage, avault.NotFound)):
        await hall.serve("bunker", action="event", event=event)


@pytest.mark.parametrize(
    "fields", [{}, {"action": "x"}, {"action": []}, {"action": "event", "as": 1}, {"action": "list", "name": "x"}]
)
async def test_other_requests_about_invitations_are_refused(hall: Hall, fields: dict[str, Any]) -> None:
    with pytest.raises(avault.Usage):
        await hall.serve("bunker", **fields)


async def test_a_text_that_is_too_long_for_an_answer_is_refused(hall: Hall) -> None:
    client = await (await hall.invite(methods=["sign_event", "nip44_encrypt"], peers=[HEX])).connect()
    await client.refuse("nip44_encrypt", HEX, "x" * 36_000, says="that is too long")
    assert await client.get("ping") == "pong"


async def test_a_request_in_the_old_form_is_read(hall: Hall) -> None:
    """NIP-46 had NIP-04 before; who asks so is answered in the form of now."""
    client = await hall.invite()
    body = json.dumps(client.body("connect", client.address, client.secret))
    content = nostr_sdk.nip04_encrypt(client.keys.secret_key(), client.to, body)
    builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(24133), content).tags([nostr_sdk.Tag.public_key(client.to)])
    assert (await client.bring(builder.finalize(client.keys).as_json()))["result"] == "ack"


async def test_a_key_that_is_another_one_meanwhile_signs_nothing_for_who_was_invited(hall: Hall) -> None:
    client = await (await hall.invite()).connect()
    await hall.serve("delete", group="nostr", key="CHILD")
    await client.refuse("sign_event", json.dumps(template()), says="no group nostr")
    await hall.generate("nostr", "CHILD", kinds=["1", "7"])
    await client.refuse("sign_event", json.dumps(template()), says="another key than the one of the invitation")


async def test_who_was_invited_elsewhere_is_not_served_here(hall: Hall) -> None:
    client = await hall.invite()
    store = hall.holding.store
    assert store
    [invitation] = avault.list_invitations(store.vault)

    def elsewhere(vault: avault.Vault) -> None:
        vault.state(f"bunker/{invitation.identity}", vault.fact(f"bunker/{invitation.identity}"), 1, "other")

    await hall.keyholder.change(elsewhere)
    assert (await hall.serve("bunker", action="listen"))["listen"] == []
    with pytest.raises(avault.NotFound):
        await client.ask("ping")


async def test_a_merge_brings_no_invitation_back(hall: Hall) -> None:
    """A copy that another machine has, and where the client came in meanwhile."""
    await hall.invite()
    store = hall.holding.store
    assert store
    theirs, [invitation] = store.vault.copy(), avault.list_invitations(store.vault)
    avault.admit_client(theirs, invitation.identity, HEX, 1, "other")
    theirs.generation["other"] = 1
    await hall.serve("bunker", action="revoke", name="writer")
    assert not avault.list_invitations(store.vault.merge(theirs)) and not avault.list_invitations(theirs.merge(store.vault))


async def test_hostile_facts_are_no_invitations(hall: Hall) -> None:
    client = await hall.invite()
    store = hall.holding.store
    assert store
    [invitation] = avault.list_invitations(store.vault)

    def change(vault: avault.Vault) -> None:
        for number, fields in enumerate(
            (
                {},
                {**invitation.fields, "more": 1},
                {**invitation.fields, "methods": ["all"]},
                {**invitation.fields, "transport": "x"},
                [],
                1,
            )
        ):
            vault.state(f"bunker/{number}", json.dumps(fields), 1, store.machine)
        vault.state("bunker/x", "[" * 5000, 1, store.machine)

    await hall.keyholder.change(change)
    assert [each.identity for each in avault.list_invitations(store.vault)] == [invitation.identity]
    await client.connect()
