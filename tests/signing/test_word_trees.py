"""Keys from words: against the vectors of BIP-32, BIP-39, SLIP-10 and NIP-06, and against solders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import avault

pytest.importorskip("cryptography", reason="needs cryptography (extra `sign`)")
from test_signing import Office, office

__all__ = ("office",)

made = avault.load_extra("word_keys", "sign")

KNOWN = "test test test test test test test test test test test junk"
AREA = "weather area salt hollow arm fade"
TREZOR = f"{'abandon ' * 11}about"


# vectors


def test_the_seed_is_the_one_of_bip_39() -> None:
    seed = avault.grow_seed(avault.check_words(TREZOR), "TREZOR")
    assert seed.hex() == (
        "c55257c360c07c72029aebc1b53c05ed0362ada38ead3e3e9efa3708e5349553"
        "1f09a6987599d18264c1e1c92f2cf141630c7a3c4ab7c81b2f001698e7463b04"
    )


ONE = "000102030405060708090a0b0c0d0e0f"  # seeds of the test vectors of BIP-32
TWO = (
    "fffcf9f6f3f0edeae7e4e1dedbd8d5d2cfccc9c6c3c0bdbab7b4b1aeaba8a5a2"
    "9f9c999693908d8a8784817e7b7875726f6c696663605d5a5754514e4b484542"
)
FOUR = "3ddd5602285899a946114506157c7997e5444528f3003f6134712147db19b678"


@pytest.mark.parametrize(
    ("seed", "path", "key"),
    [
        (ONE, "m/0'", "edb2e14f9ee77d26dd93b4ecede8d16ed408ce149b6cd80b0715a2d911a0afea"),
        (ONE, "m/0'/1", "3c6cb8d0f6a264c91ea8b5030fadaa8e538b020f0a387421a12de9319dc93368"),
        (ONE, "m/0'/1/2'/2/1000000000", "471b76e389e528d6de6d816857e012c5455051cad6660850e58372a6c3e6e7c8"),
        (TWO, "m/0", "abe74a98f6c7eabee0428f53798f0ab8aa1bd37873999041703c742f15ac7e1e"),
        (TWO, "m/0/2147483647'/1/2147483646'/2", "bb7d39bdb83ecf58f2fd82b6d918341cbef428661ef01ab97c28a4842125ac23"),
        # the fourth has zero bytes in front
        (FOUR, "m/0'", "00d948e9261e41362a688b916f297121ba6bfb2274a3575ac0e456551dfd7f7e"),
        (FOUR, "m/0'/1'", "3a2086edd7d9df86c3487a5905a1712a9aa664bce8cc268141e07549eaa8661d"),
    ],
)
def test_keys_on_secp256k1_are_those_of_bip_32(seed: str, path: str, key: str) -> None:
    assert avault.derive_secp256k1(bytes.fromhex(seed), path, made.compress_public).hex() == key


@pytest.mark.parametrize(
    ("seed", "path", "key"),
    [
        (ONE, "m/0'", "68e0fe46dfb67e368c75379acec591dad19df3cde26e63b93a8e704f1dade7a3"),
        (ONE, "m/0'/1'/2'/2'/1000000000'", "8f94d394a8e8fd6b1bc2f3f49f5c47e385281d5c17e65324b0f62483e37e8793"),
        (TWO, "m/0'/2147483647'/1'", "3757c7577170179c7868353ada796c839135b3d30554bbb74a4b1e4a5a58505c"),
    ],
)
def test_keys_on_ed25519_are_those_of_slip_10(seed: str, path: str, key: str) -> None:
    assert avault.derive_ed25519(bytes.fromhex(seed), path).hex() == key


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (
            "leader monkey parrot ring guide accident before fence cannon height naive bean",
            "7f7ff03d123792d6ac594bfa67bf6d0c0ab55b6b1fdb6249303fe861f1ccba9a",
        ),
        (
            "what bleak badge arrange retreat wolf trade produce cricket blur garlic valid proud rude strong choose busy staff "
            + AREA,
            "c15d739894c81a2fcfd3a2df85a0d2c0dbc47a280d092799f144d73d7ae78add",
        ),
    ],
)
def test_keys_for_nostr_are_those_of_nip_06(words: str, key: str) -> None:
    for said in (words, f"  {words.upper()}\n", words.replace(" ", "\n")):
        value = avault.take_nostr_key(said, "")
        assert value and avault.split_nostr_key(value)[1] == key
    path = avault.DEFAULT_PATHS["nostr"]
    assert avault.derive_secp256k1(avault.grow_seed(words, ""), path, made.compress_public).hex() == key


@pytest.mark.parametrize("path", ["m/44'/1237'/0'/0/0", "m/44'/1237'/7'/1/2147483647", "m/44'/1237'/2147483647'/0/3"])
@pytest.mark.parametrize("passphrase", ["", "öffne dich"])
def test_a_path_and_a_passphrase_are_the_same_for_both_ways_to_a_key(path: str, passphrase: str) -> None:
    """The Nostr library's, and our own, which is for other kinds."""
    value = avault.take_nostr_key(KNOWN, passphrase, path)
    seed = avault.grow_seed(KNOWN, passphrase)
    assert value and avault.split_nostr_key(value)[1] == avault.derive_secp256k1(seed, path, made.compress_public).hex()


def test_the_key_for_evm_is_the_one_that_every_test_chain_knows() -> None:
    assert made.take_evm_words(KNOWN, "", None) != made.take_evm_words(KNOWN, "", "m/44'/60'/0'/0/1")
    assert made.take_evm_words(KNOWN, "", None).hex() == "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"


# what is refused


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (KNOWN.replace("junk", "abandon"), "checksum"),
        (KNOWN.replace("junk", "junkk"), "word 12 is not in"),
        (f"xyzzy {KNOWN[5:]}", "word 1 is not in"),
        (" ".join(["junk", *KNOWN.split()[:-1]]), "checksum"),
    ],
)
@pytest.mark.parametrize("kind", ["nostr", "evm", "solana"])
async def test_words_with_a_slip_are_refused_and_not_repeated(office: Office, words: str, says: str, kind: str) -> None:
    with pytest.raises(avault.Usage, match=says) as refused:
        await take(office, words, kind=kind, passphrase="")
    assert "xyzzy" not in str(refused.value) and "junkk" not in str(refused.value) and refused.value.hint
    assert "TAKEN" not in office.keyholder.open_store().vault.groups["ops"].keys


@pytest.mark.parametrize("count", [11, 13, 25, 48])
def test_other_numbers_of_words_are_no_words(count: int) -> None:
    assert not avault.are_words(" ".join(["abandon"] * count))


BAD_PATHS = ["m", "", "/", "m/", "m//0", "44'/1237'/0'/0/0", "m/44'/x", "m/-1", "m/01", "m/0''", "m/2147483648", "m/٣"]


@pytest.mark.parametrize("path", [*BAD_PATHS, "m/" + "/".join(["0'"] * 11), "m/*", "M/0", "any"])
def test_what_is_no_path_to_one_key_is_refused(path: str) -> None:
    with pytest.raises(avault.Usage, match="no path to one key"):
        avault.read_steps(path)


@pytest.mark.parametrize("path", ["m/44'/60'/0'/0/0", "m/44'/1237'/0'/0", "m/44'/1237'/0/0/0", "m/44'/1237'/0'/0'/0"])
def test_a_path_of_another_kind_is_none_for_nostr(path: str) -> None:
    with pytest.raises(avault.Usage, match="no path of NIP-06"):
        avault.take_nostr_key(KNOWN, "", path)


@given(
    st.text(max_size=60)
    | st.lists(st.integers(-1, 1 << 33).map(lambda n: f"/{n}'"), max_size=12).map(lambda each: "m" + "".join(each))
)
def test_any_text_is_a_path_or_is_refused(text: str) -> None:
    try:
        steps = avault.read_steps(text)
    except avault.Usage:
        return
    assert "m/" + "/".join(f"{n % 2**31}'" if n >= 2**31 else str(n) for n in steps) == text


# through the request


async def take(office: Office, text: str, passphrase: str | None = None, **fields: Any) -> dict[str, Any]:
    given = {"file": text, "passphrase": passphrase}
    return await office.serve("key", given, **{"action": "import", "group": "ops", "key": "TAKEN", **fields})


async def test_the_same_words_give_two_addresses_for_solana_and_the_path_says_which(office: Office) -> None:
    assert (await take(office, KNOWN, kind="solana"))["needs_passphrase"]
    answer = await take(office, KNOWN, "", kind="solana")
    assert {*answer["paths"]} == {"m/44'/501'/0'/0'", "solana-keygen"} and "public" not in answer
    for path, address in answer["paths"].items():
        made = await take(office, KNOWN, "", kind="solana", path=path, key=f"K{len(path)}")
        assert (made["kind"], made["public"], made["fingerprint"]) == ("solana", address, address)
        assert made["guard"]["only"] == ["wallet"]
    assert len({*answer["paths"].values()}) == 2


async def test_those_are_the_addresses_of_solders(office: Office) -> None:
    keypair = pytest.importorskip("solders.keypair", reason="needs solders (extra `test-wallet`)").Keypair
    for passphrase in ("", "öffne dich"):
        found = (await take(office, KNOWN, passphrase, kind="solana"))["paths"]
        seed = avault.grow_seed(KNOWN, passphrase)
        assert found == {
            "m/44'/501'/0'/0'": str(keypair.from_seed_and_derivation_path(seed, "m/44'/501'/0'/0'").pubkey()),
            "solana-keygen": str(
                keypair.from_seed_phrase_and_passphrase(KNOWN, avault.normalize_passphrase(passphrase)).pubkey()
            ),
        }


async def test_words_are_not_kept_and_nothing_of_them_is_told(office: Office) -> None:
    answers = [await take(office, TREZOR, "a passphrase", kind="nostr", path="m/44'/1237'/3'/0/0"), *office.told]
    answers.append(await take(office, TREZOR, "a passphrase", kind="solana", path="m/44'/501'/3'/0'", key="SOL"))
    lines = office.lines("access.log")
    for said in (*answers, *lines):
        assert "abandon" not in str(said) and "a passphrase" not in str(said)


async def test_words_of_the_agents_own_key_are_refused(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    own = office.example.agent
    monkeypatch.setattr(avault.nostr_sdk.Keys, "from_mnemonic", lambda *_: own)
    with pytest.raises(avault.Denied):
        await take(office, KNOWN, "", kind="nostr")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "a tree of keys"),
        ({"kind": "tree"}, "no such kind"),
        ({"kind": "solana", "path": 7}, "path is the path"),
        ({"kind": "solana", "path": "x" * 101}, "path is the path"),
        ({"kind": "solana", "path": "m/44'/501'/0'/0"}, "ends with '"),
        ({"kind": "solana", "kinds": ["1"]}, "another kind"),
        ({"kind": "solana", "servers": ["any"]}, "another kind"),
    ],
)
async def test_what_is_asked_of_words_has_a_form(office: Office, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(avault.Usage, match=says):
        await take(office, KNOWN, "", **fields)


async def test_a_path_is_for_words_alone(office: Office, tmp_path: Path) -> None:
    for kind, text in (("nostr", "11" * 32), ("solana", "[1]"), (None, "-----BEGIN OPENSSH PRIVATE KEY-----")):
        with pytest.raises(avault.Usage, match="a path is for words"):
            await take(office, text, "", kind=kind, path="m/0'")


@given(st.binary(max_size=70))
def test_base58_is_read_as_it_is_written(data: bytes) -> None:
    text = avault.encode_base58(data)
    assert not data or avault.decode_base58(text, len(data)) == data
    for wrong in (text + "1", "1" + text, text[:-1], text + "0", text + " ", f"{text}é"):
        try:
            found = avault.decode_base58(wrong, len(data))
        except ValueError:
            continue
        assert found != data and avault.encode_base58(found) == wrong


async def test_a_key_for_ethereum_is_taken_from_words(office: Office) -> None:
    """The addresses are those that every test chain has money for."""
    assert (await take(office, KNOWN, kind="evm"))["needs_passphrase"]
    answer = await take(office, KNOWN, "", kind="evm")
    assert answer["public"] == "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
    answer = await take(office, KNOWN, "", kind="evm", key="SECOND", path="m/44'/60'/0'/0/1")
    assert answer["public"] == "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
