"""The signer's side without a signer: what its URIs, its answers and a keychain's are taken for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nostr_sdk
import pytest

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
    assert avault.is_clock_unsynchronised() in (True, False)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not avault.is_clock_unsynchronised()


@pytest.mark.parametrize("name", ["vault", "name", "agent", "operator"])
async def test_a_keychain_opens_its_own_vault_only(tmp_path: Path, name: str) -> None:
    agent, operator = nostr_sdk.Keys.generate(), avault.public_hex(nostr_sdk.Keys.generate())
    unlock, sealed = avault.seal_keys(agent, "00" * 16, operator, "test")
    places = avault.Places(str(tmp_path))
    places.state = str(tmp_path)
    Path(places.own("keychain.json")).write_bytes(avault.encode_file("keychain", sealed))

    def keychain(**answer: Any) -> avault.Keychain:
        return avault.Keychain(places, json.dumps(answer).encode())

    assert avault.public_hex(await keychain(outcome="ok", value=unlock).obtain(sealed)) == avault.public_hex(agent)
    with pytest.raises(avault.Unavailable, match="of another vault"):
        await keychain(outcome="ok", value=unlock).obtain({**sealed, name: "another"})
    for answer, says in ({"outcome": "ok", "value": "00" * 32}, "does not open"), ({"outcome": "locked"}, "locked: it did not"):
        with pytest.raises(avault.Unavailable, match=says):
            await keychain(**answer).obtain(sealed)
    for broken in (b"", b"[", b"null", b"[]"):
        with pytest.raises(avault.Unavailable):
            await avault.Keychain(places, broken).obtain(sealed)
