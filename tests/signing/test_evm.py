"""Ethereum's forms: official vectors, and eth-account as the judge of what they do not have."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import avault

pytest.importorskip("cryptography", reason="needs cryptography (extra `sign`)")
evm = avault.load_extra("evm", "sign")

COW = avault.keccak256(b"cow")
MAIL: dict[str, Any] = {  # the example of EIP-712
    "types": {
        "EIP712Domain": [
            {"name": "name", "type": "string"},
            {"name": "version", "type": "string"},
            {"name": "chainId", "type": "uint256"},
            {"name": "verifyingContract", "type": "address"},
        ],
        "Person": [{"name": "name", "type": "string"}, {"name": "wallet", "type": "address"}],
        "Mail": [{"name": "from", "type": "Person"}, {"name": "to", "type": "Person"}, {"name": "contents", "type": "string"}],
    },
    "primaryType": "Mail",
    "domain": {
        "name": "Ether Mail",
        "version": "1",
        "chainId": 1,
        "verifyingContract": "0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC",
    },
    "message": {
        "from": {"name": "Cow", "wallet": "0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"},
        "to": {"name": "Bob", "wallet": "0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB"},
        "contents": "Hello, Bob!",
    },
}


def changed(**fields: Any) -> dict[str, Any]:
    """The example with something else in it, by the path to it."""
    copy = json.loads(json.dumps(MAIL))
    for path, value in fields.items():
        *way, last = path.split("__")
        place = copy
        for each in way:
            place = place[each]
        place[last] = value
    return dict(copy)


def signed(secret: bytes, what: str, payload: object) -> str:
    """What comes of a use by a key, in the process that signs."""
    keys, value = evm.EvmKeys(), evm.keep_evm_key(evm.load_secret(secret))
    keys.take(value)
    identity = avault.identify_key(value)
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    public = base64.b64encode(keys.public(identity)).decode()
    return str(keys.sign(identity, avault.decode_evm({"as": what, "payload": base64.b64encode(data).decode(), "public": public})))


# addresses and keys


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"),
        (b"abc", "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"),
        (b"cow", "c85ef7d79691fe79573b1a7064c19c1a9819ebdbd1faaab1a8ec92344438aaf4"),
    ],
)
def test_keccak(data: bytes, digest: str) -> None:
    assert avault.keccak256(data).hex() == digest


def test_keccak_is_what_another_library_says() -> None:
    other = pytest.importorskip("Crypto.Hash.keccak", reason="needs pycryptodome (extra `test-wallet`)")
    for size in (1, 7, 8, 135, 136, 137, 271, 272, 1000):
        data = random.Random(size).randbytes(size)
        assert avault.keccak256(data) == other.new(digest_bits=256, data=data).digest()


@pytest.mark.parametrize(
    "text",
    [
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
        "0x52908400098527886E0F7030069857D2E4169EE7",
        "0xde709f2102306220921060314715629080e2fb77",
    ],
)
def test_addresses_of_eip_55(text: str) -> None:
    assert avault.show_address(avault.parse_address(text.lower())) == text
    assert avault.parse_address(text) == bytes.fromhex(text[2:])
    if text.lower() != text and text.upper() != text[:2].upper() + text[2:]:
        with pytest.raises(ValueError, match="mistyped"):
            avault.parse_address(text[:-1] + text[-1].swapcase() if text[-1].isalpha() else text[:2] + text[2:].swapcase())


@pytest.mark.parametrize(
    "text", ["", "0x", "5aaeb6053f3e94c9b9a09f33669435e7ef1beaed", "0x" + "0" * 39, "0x" + "0" * 41, "0x" + "g" * 40, 7, None]
)
def test_what_is_no_address(text: object) -> None:
    with pytest.raises(ValueError, match="not an address"):
        avault.parse_address(text)


SECRET = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"
KEYSTORES: dict[str, dict[str, Any]] = {  # of the Web3 Secret Storage Definition
    "pbkdf2": {
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
            "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
            "kdf": "pbkdf2",
            "kdfparams": {
                "c": 262144,
                "dklen": 32,
                "prf": "hmac-sha256",
                "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
            },
            "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
        },
        "version": 3,
    },
    "scrypt": {
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": "83dbcc02d8ccb40e466191a123791e0e"},
            "ciphertext": "d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c",
            "kdf": "scrypt",
            "kdfparams": {
                "dklen": 32,
                "n": 262144,
                "p": 8,
                "r": 1,
                "salt": "ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19",
            },
            "mac": "2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097",
        },
        "version": 3,
    },
}


def test_a_keystore_as_geth_writes_it() -> None:
    keyfile = pytest.importorskip("eth_keyfile", reason="needs eth-account (extra `test-wallet`)")
    made = keyfile.create_keyfile_json(bytes.fromhex(SECRET), b"testpassword", kdf="scrypt", iterations=4096)
    assert evm.take_evm_key(json.dumps(made), "testpassword").endswith(f":{SECRET}")


def test_keystores() -> None:
    text = json.dumps(KEYSTORES["pbkdf2"])
    assert evm.take_evm_key(text, None) is None
    assert evm.take_evm_key(text, "testpassword").endswith(f":{SECRET}")
    with pytest.raises(avault.Denied, match="the passphrase is not the key's"):
        evm.take_evm_key(text, "wrong")


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"n": 1 << 30, "r": 8},
        {"n": 1 << 20, "r": 1 << 20},
        {"n": 3},
        {"n": -2},
        {"n": True},
        {"p": 1 << 40},
        {"salt": "zz"},
        {"dklen": 64},
        {"n": "2"},
    ],
)
def test_a_keystore_that_is_too_much_work_is_refused_before_any(params: dict[str, Any]) -> None:
    found = json.loads(json.dumps(KEYSTORES["scrypt"]))
    found["crypto"]["kdfparams"] |= params
    with pytest.raises(avault.Usage):
        evm.take_evm_key(json.dumps(found), "testpassword")


@pytest.mark.parametrize(
    "text", ["", "0x", "0" * 64, "f" * 64, SECRET[:-1], SECRET + "00", "{}", "[", '{"version": 3}', "{" * 5000]
)
def test_what_is_no_private_key(text: str) -> None:
    with pytest.raises(avault.Usage):
        evm.take_evm_key(text, "x")


def test_a_key_is_read_without_its_secret() -> None:
    value = evm.take_evm_key(f"0x{SECRET}\n", None)
    known = avault.read_signing_key(value)
    assert known and known.to_dict() == {
        "kind": "evm",
        **dict.fromkeys(("public", "fingerprint"), "0x008AeEda4D805471dF9b2A5B0f38A0C3bCBA786b"),
    }
    forged = value.replace("008aeeda", "108aeeda")
    with pytest.raises(avault.Usage, match="the address of another key"):
        evm.EvmKeys().take(forged)
    assert avault.read_signing_key(value[:-1]) is None and avault.read_signing_key(value.replace(":", ";")) is None


# what is signed


def test_the_transaction_of_eip_155() -> None:
    tx = {
        "nonce": "0x9",
        "gasPrice": "0x4a817c800",
        "gas": "0x5208",
        "to": "0x" + "35" * 20,
        "value": "0xde0b6b3a7640000",
        "chainId": "0x1",
    }
    assert signed(b"F" * 32, "evm-tx", tx) == (
        "0xf86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a028ef61340bd939bc2195fe537567866003e1a15d3c71ff"
        "63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83"
    )


def test_the_typed_data_of_eip_712() -> None:
    assert avault.TypedData(MAIL).digest.hex() == "be609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2"
    assert signed(COW, "evm-typed", MAIL) == (
        "0x4355c47d63924e8a72e509b65029052eb6c299d53a04e167c5775fd466751c9d07299936d304c153f6443dfa05f40ff007d72911b6f72307f996231605b915621c"
    )


def test_transactions_and_messages_are_byte_for_byte_those_of_eth_account() -> None:
    account = pytest.importorskip("eth_account", reason="needs eth-account (extra `test-wallet`)")
    messages = pytest.importorskip("eth_account.messages")
    dice = random.Random(7)
    for round_ in range(30):
        secret = dice.randbytes(32)
        theirs = account.Account.from_key(secret)
        tx = {"nonce": hex(dice.randrange(300)), "gas": hex(dice.randrange(21_000, 10**6)), "to": "0x" + dice.randbytes(20).hex()}
        tx |= {"value": hex(dice.choice([0, 1, 10**18, 2**200])), "chainId": hex(dice.choice([1, 8453, 31337, 2**40]))}
        tx["data"] = "0x" + dice.randbytes(dice.choice([0, 1, 4, 55, 56, 300])).hex()
        if tx["data"][2:10] in avault.MONEY_SELECTORS:
            continue
        if round_ % 2:
            tx["gasPrice"] = hex(dice.randrange(1, 10**11))
        else:
            tx |= {"maxFeePerGas": hex(10**10), "maxPriorityFeePerGas": hex(dice.choice([0, 10**9])), "type": "0x2"}
        made = theirs.sign_transaction({**tx, "to": bytes.fromhex(tx["to"][2:])})
        assert signed(secret, "evm-tx", tx) == "0x" + made.raw_transaction.hex().removeprefix("0x")
        text = "".join(dice.choice("abc äß€😀 \n") for _ in range(dice.randrange(1, 200))) + "."
        made = theirs.sign_message(messages.encode_defunct(text=text))
        assert signed(secret, "evm-message", text.encode()) == "0x" + made.signature.hex().removeprefix("0x")


KINDS = [
    "address",
    "bool",
    "string",
    "bytes",
    "bytes4",
    "bytes32",
    "uint8",
    "uint256",
    "int24",
    "int256",
    "uint256[]",
    "string[2]",
    "Inner",
    "Inner[]",
    "address[][2]",
]


def value_of(kind: str, dice: random.Random) -> Any:
    """A value of a type."""
    if kind.endswith("]"):
        base, _, size = kind.rpartition("[")
        return [value_of(base, dice) for _ in range(int(size[:-1] or dice.randrange(3)))]
    if kind == "Inner":
        return {"x": dice.randrange(2**64), "y": "ok"}
    if kind == "address":
        return "0x" + dice.randbytes(20).hex()
    if kind == "bool":
        return bool(dice.randrange(2))
    if kind == "string":
        return "ä" * dice.randrange(200)
    if kind.startswith("bytes"):
        return "0x" + dice.randbytes(int(kind[5:] or dice.randrange(99))).hex()
    bits = int(kind.lstrip("uint"))
    number = dice.randrange(2**bits) - (0 if kind[0] == "u" else 2 ** (bits - 1))
    return dice.choice([number, str(number)])


def test_typed_data_is_hashed_as_eth_account_does() -> None:
    messages = pytest.importorskip("eth_account.messages", reason="needs eth-account (extra `test-wallet`)")
    dice = random.Random(8)
    for _ in range(40):
        fields = [{"name": f"f{at}", "type": dice.choice(KINDS)} for at in range(dice.randrange(1, 8))]
        types = {"Thing": fields, "Inner": [{"name": "x", "type": "uint256"}, {"name": "y", "type": "string"}]}
        if not any("Inner" in each["type"] for each in fields):
            del types["Inner"]
        domain = {"name": "T", "version": "1", "chainId": 8453, "verifyingContract": "0x" + "11" * 20}
        whole = {
            "types": types,
            "primaryType": "Thing",
            "domain": domain,
            "message": {each["name"]: value_of(each["type"], dice) for each in fields},
        }
        given = {**whole, "types": {"EIP712Domain": MAIL["types"]["EIP712Domain"], **types}}
        theirs = messages._hash_eip191_message(messages.encode_typed_data(full_message=given))
        assert avault.TypedData(whole).digest == bytes(theirs)


# what is refused


TX = {"to": "0x" + "35" * 20, "value": "0x1", "gas": "0x5208", "gasPrice": "0x1", "chainId": "0x1", "nonce": "0x0"}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"to": None}, "a deployment is not signed"),
        ({"type": "0x4", "authorizationList": []}, "has no authorizationList"),
        ({"type": "0x4"}, "another type"),
        ({"type": "0x1"}, "another type"),
        ({"accessList": [{}]}, "another type"),
        ({"blobs": []}, "has no blobs"),
        ({"chainId": None}, "has a chainId"),
        ({"chainId": 1}, "chainId is a number"),
        ({"chainId": "0x"}, "chainId is a number"),
        ({"chainId": "0x20000000000001"}, "too large"),
        ({"value": "0x" + "f" * 65}, "value is a number"),
        ({"value": "-0x1"}, "value is a number"),
        ({"value": "1"}, "value is a number"),
        ({"gas": None}, "has a chainId, and gas"),
        ({"gasPrice": None}, "gasPrice, or maxFeePerGas"),
        ({"maxFeePerGas": "0x1"}, "gasPrice, or maxFeePerGas"),
        ({"type": "0x2"}, "another type of transaction"),
        ({"gasPrice": None, "maxFeePerGas": "0x1", "maxPriorityFeePerGas": "0x2"}, "is more than"),
        ({"data": "0x1"}, "data is bytes"),
        ({"data": "0x01", "input": "0x02"}, "differ"),
        ({"from": "0x" + "11" * 20}, "from another account"),
        ({"to": "0x" + "35" * 19}, "not an address"),
    ],
)
def test_a_transaction_that_is_not_understood(fields: dict[str, Any], says: str) -> None:
    wanted = {name: value for name, value in {**TX, **fields}.items() if value is not None}
    with pytest.raises(avault.Usage, match=says):
        signed(COW, "evm-tx", wanted)


def test_a_transaction_without_a_nonce_is_understood_and_not_signed() -> None:
    """Its nonce is said after the approval; one that nobody said was taken for 0."""
    fields = {name: value for name, value in TX.items() if name != "nonce"}
    with pytest.raises(avault.Usage, match="has no nonce"):
        signed(COW, "evm-tx", fields)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (changed(message__extra=1), "other fields than its type"),
        (changed(message__to={"name": "Bob"}), "other fields than its type"),
        (changed(domain__extra=1), "other fields than its type"),
        (changed(primaryType="Nope"), "primaryType"),
        (changed(primaryType="EIP712Domain"), "a domain alone"),
        (changed(more=1), "typed data has"),
        (changed(types__Mail=[{"name": "from", "type": "Nope"}]), "no such type"),
        (changed(types__Mail=[{"name": "from", "type": "uint7"}]), "no such type"),
        (changed(types__Mail=[{"name": "from", "type": "uint256[["}]), "not a list"),
        (changed(types__string=[]), "name of another"),
        (changed(types=[]), "types are lists of fields"),
        (changed(types__Mail=7), "a type is a list of fields"),
        (changed(types__Mail=[{"name": "to", "type": "string"}] * 2), "a field that is there twice"),
        (changed(types__EIP712Domain=[{"name": "name", "type": "bytes"}]), "other fields than those of EIP-712"),
        (changed(types__Mail=["to"]), "a field has a name and a type"),
        (changed(types__Mail=[{"name": 7, "type": "string"}]), "a field has a name and a type"),
        (changed(types__Mail=[{"name": "a b", "type": "string"}]), "a field has a name and a type"),
        (changed(types__Mail=[{"name": "x", "type": "uint8[2]"}], message={"x": [1]}), "not a list, or not of that length"),
        (changed(types__Mail=[{"name": "x", "type": "uint8[]"}], message={"x": 1}), "not a list, or not of that length"),
        (changed(types__Mail=[{"name": "x", "type": "bool"}], message={"x": 1}), "neither true nor false"),
        (changed(types__Mail=[{"name": "x", "type": "bytes4"}], message={"x": "0x00"}), "another length than their type"),
        (changed(types__Mail=[{"name": "x", "type": "uint8"}], message={"x": 256}), "no room for"),
        (changed(types__Mail=[{"name": "x", "type": "uint8"}], message={"x": -1}), "no room for"),
        (changed(types__Mail=[{"name": "x", "type": "int8"}], message={"x": 128}), "no room for"),
        (changed(types__Mail=[{"name": "x", "type": "int8"}], message={"x": -129}), "no room for"),
        (changed(message__contents=7), "not a text"),
        (changed(domain__chainId=-1), "no such chain"),
        (changed(domain__chainId=True), "not a whole number"),
        (changed(domain__chainId="0xzz"), "invalid literal"),
    ],
)
def test_typed_data_that_is_not_understood(given: dict[str, Any], says: str) -> None:
    with pytest.raises(avault.Usage, match=says):
        signed(COW, "evm-typed", given)


def test_typed_data_with_too_much_in_it_is_given_up_soon() -> None:
    types = {"A": [{"name": "x", "type": "B[]"}], "B": []}
    given = {"types": types, "primaryType": "A", "domain": {"chainId": 1}, "message": {"x": [{}] * 5000}}
    with pytest.raises(avault.Usage, match="too much in it"):
        signed(COW, "evm-typed", given)
    loop = {"types": {"A": [{"name": "x", "type": "A[]"}]}, "primaryType": "A", "domain": {"chainId": 1}}
    message: dict[str, Any] = {"x": []}
    for _ in range(40):
        message = {"x": [message]}
    with pytest.raises(avault.Usage, match="too much in it"):
        signed(COW, "evm-typed", {**loop, "message": message})


@pytest.mark.parametrize("data", [b"", b" \n", COW, b"\xff", "a\u202eb".encode(), b"a\x1b[2J", b"a\0b"])
def test_a_message_that_nobody_can_read(data: bytes) -> None:
    with pytest.raises(avault.Usage, match="not understood"):
        signed(COW, "evm-message", data)


def address_of(secret: bytes) -> str:
    return avault.show_address(evm.address_of(evm.load_secret(secret)))


SIGN_IN = (
    "shop.example wants you to sign in with your Ethereum account:\n{0}\n\nHello\n\n"
    "URI: https://shop.example\nVersion: 1\nChain ID: 8453\nNonce: abcd1234\nIssued At: 2026-01-01T00:00:00Z"
)


def test_a_sign_in_says_where_and_what_is_like_one_is_refused() -> None:
    use = avault.decode_message(SIGN_IN.format(address_of(COW)).encode(), bytes.fromhex(address_of(COW)[2:]))
    assert (use["does"], use["domain"], use["chain"], use["nonce"]) == ("sign-in", "shop.example", 8453, "abcd1234")
    for wrong in (
        SIGN_IN.format("0x" + "11" * 20),
        SIGN_IN.format(address_of(COW)).replace("Nonce", "nonce"),
        "x " + SIGN_IN.format(address_of(COW)),
        SIGN_IN.format(address_of(COW)) + "\nNonce: other",
        SIGN_IN.format(address_of(COW)).replace("8453", "x"),
    ):
        with pytest.raises(avault.Usage, match="a sign-in"):
            signed(COW, "evm-message", wrong.encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.sampled_from(avault.EVM_USES),
    JSON | st.fixed_dictionaries(dict.fromkeys(TX, JSON)) | st.fixed_dictionaries(dict.fromkeys(MAIL, JSON)),
)
def test_whatever_comes_is_understood_or_refused(what: str, payload: object) -> None:
    data = payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()
    request = {"as": what, "payload": base64.b64encode(data).decode(), "public": base64.b64encode(b"\1" * 20).decode()}
    try:
        assert len(avault.decode_evm(request)["digest"]) == 32
    except avault.Usage:
        pass


@given(st.sampled_from(sorted(avault.MONEY_SELECTORS)), st.binary(max_size=260))
def test_hostile_calls_of_a_token_are_never_another_transfer(selector: str, words: bytes) -> None:
    """What is read is what is there: encoded again, it is the same call."""
    own = b"\1" * 20
    try:
        found = avault.read_token_call(selector, words, own)
    except ValueError:
        return
    if found:
        _, to, amount = found
        first = own.rjust(32, b"\0") if selector == "23b872dd" else b""
        assert words == first + to.rjust(32, b"\0") + amount.to_bytes(32, "big")
