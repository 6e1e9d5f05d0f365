"""Keys for Solana: made, and taken from what solana-keygen and wallets write."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import avault

pytest.importorskip("cryptography", reason="needs cryptography (extra `sign`)")
from ssh_data import sshsig
from test_gate import asks
from test_signing import Office, office
from test_word_trees import take

__all__ = ("office",)

made = avault.load_extra("solana_keys", "sign")


async def test_a_key_that_is_made_is_shown_by_its_address_and_leaves_in_no_way(office: Office) -> None:
    answer = await office.serve("key", action="generate", kind="solana", group="pay", key="SOL")
    assert answer["kind"] == "solana" and len(avault.decode_base58(answer["public"], 32)) == 32
    assert answer["public"] in (await office.serve("list", format="text"))["output"]
    [secret] = office.keyholder.open_store().vault.groups["pay"].keys["SOL"]
    private = secret.value.removeprefix(avault.SOLANA_KEY)
    for op in ("get", "export", "reveal"):
        for fields in asks(op, "free"):
            renamed = json.loads(json.dumps(fields).replace('"KEY"', '"SOL"').replace("free", "pay").replace("/KEY", "/SOL"))
            try:
                answer = await office.serve(op, **renamed)
            except avault.Denied as error:
                answer = error.to_dict()
            assert private not in str(answer)


async def test_what_solana_keygen_and_wallets_write_is_taken(office: Office) -> None:
    keypair = pytest.importorskip("solders.keypair", reason="needs solders (extra `test-wallet`)").Keypair
    for number in range(4):
        key = keypair()
        for name, text in (("JSON", key.to_json()), ("TEXT", f"{key}\n")):
            answer = await take(office, text, kind="solana", key=f"{name}{number}")
            assert answer["public"] == str(key.pubkey())
    value = office.keyholder.open_store().vault.groups["ops"].keys["TEXT0"][0].value
    assert value == avault.SOLANA_KEY + str(keypair.from_bytes(avault.decode_base58(value[11:], 64)))


def numbers(change: Any) -> str:
    secret, public = avault.split_solana_key(made.make_solana_key())
    found = [*secret, *public]
    change(found)
    return json.dumps(found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (numbers(lambda found: found.__setitem__(63, found[63] ^ 1)), "another key's"),
        (numbers(lambda found: found.__setitem__(0, found[0] ^ 1)), "another key's"),
        (numbers(lambda found: found.pop()), "no private key"),
        (numbers(lambda found: found.append(1)), "no private key"),
        (numbers(lambda found: found.__setitem__(3, 256)), "no private key"),
        (numbers(lambda found: found.__setitem__(3, -1)), "no private key"),
        (numbers(lambda found: found.__setitem__(3, True)), "no private key"),
        (numbers(lambda found: found.__setitem__(3, 1.0)), "no private key"),
        ("[" * 9_000, "no private key"),
        ("[" + "9" * 9_000 + "]", "no private key"),
        (avault.encode_base58(bytes(32)), "no private key"),
        (avault.encode_base58(bytes(range(32)))[:-1], "no private key"),
        ("0x" + "11" * 32, "no private key"),
        ("", "no private key"),
    ],
    ids=range(14),
)
async def test_what_is_no_key_is_refused_without_repeating_it(office: Office, text: str, says: str) -> None:
    with pytest.raises(avault.Usage, match=says) as refused:
        await take(office, text, kind="solana")
    assert refused.value.hint and not any(text[at : at + 20] in str(refused.value) for at in range(0, len(text) - 20, 20))
    assert "TAKEN" not in office.keyholder.open_store().vault.groups["ops"].keys


@given(st.text(max_size=90) | st.lists(st.integers(0, 255), min_size=62, max_size=66).map(json.dumps))
def test_any_text_is_a_key_or_is_refused(text: str) -> None:
    for reads in (made.take_solana_key, avault.read_signing_key):
        try:
            found = reads(text, "", None) if reads is made.take_solana_key else reads(avault.SOLANA_KEY + text)
        except avault.Usage:
            continue
        assert found is None or reads is avault.read_signing_key


async def test_a_twin_with_the_public_half_signs_nothing(office: Office) -> None:
    """An entry that says it has the public half of a key that pays; the key is kept from nothing by it."""
    await office.serve("key", action="generate", kind="solana", group="pay", key="SOL")
    value = office.keyholder.open_store().vault.groups["pay"].keys["SOL"][0].value
    _, public = avault.split_solana_key(value)
    twin = avault.pack_solana_key(bytes(range(32)), public)
    assert not await office.keyholder.signing.owns(twin, avault.encode_base64(public))
    assert await office.keyholder.signing.owns(value, avault.encode_base64(public))


@pytest.mark.parametrize("what", ["ssh", "sshsig", *avault.NOSTR_USES])
async def test_a_key_for_solana_signs_nothing_of_another_kind(office: Office, what: str) -> None:
    await office.serve("key", action="generate", kind="solana", group="pay", key="SOL")
    event = json.dumps({"kind": 1, "created_at": 1, "tags": [], "content": "x"}).encode()
    payload = avault.encode_base64(sshsig() if what == "sshsig" else event)
    fields = {"peer": "00" * 32} if what.startswith("nip") else {}
    with pytest.raises(avault.AvaultError):
        await office.serve("sign", **{"as": what, "payload": payload, "group": "pay", "key": "SOL", **fields})
    assert office.lines("refused.log")[-1]["op"] == "sign"
    assert not office.keyholder.signing.given


async def test_it_is_not_written_over(office: Office) -> None:
    await office.serve("key", action="generate", kind="solana", group="pay", key="SOL")
    with pytest.raises(avault.Denied, match="not written over"):
        await office.serve("set", "x", group="pay", key="SOL")
