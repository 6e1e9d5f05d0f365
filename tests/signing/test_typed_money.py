"""Typed data that moves money under another name: decoded and held against rules, with no process."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

import avault

OWN, BOB, EVE, USDC, WETH = ("0x" + each * 20 for each in ("aa", "b0", "e1", "dc", "ee"))
PERMIT2 = "0x000000000022d473030f116ddee9f6b43ac78ba3"
UNLIMITED = 2**256 - 1
FORMS = {
    "TokenPermissions": "address token,uint256 amount",
    "PermitDetails": "address token,uint160 amount,uint48 expiration,uint48 nonce",
    "PermitSingle": "PermitDetails details,address spender,uint256 sigDeadline",
    "PermitBatch": "PermitDetails[] details,address spender,uint256 sigDeadline",
    "PermitTransferFrom": "TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline",
    "PermitBatchTransferFrom": "TokenPermissions[] permitted,address spender,uint256 nonce,uint256 deadline",
}


def fields(text: str) -> list[dict[str, str]]:
    return [dict(zip(("type", "name"), each.split(" "), strict=True)) for each in text.split(",")]


def typed(primary: str, message: dict[str, Any], contract: str | None = PERMIT2, **forms: str) -> dict[str, Any]:
    """Typed data whose types are those of Permit2 that it names, and others that are given."""
    known = {**FORMS, **forms}
    used, todo = {primary}, [primary]
    while todo:
        for each in fields(known[todo.pop()]):
            base = each["type"].partition("[")[0]
            if base in known and base not in used:
                used.add(base)
                todo.append(base)
    domain = {"name": "Permit2", "chainId": 8453} | ({"verifyingContract": contract} if contract else {})
    return {"types": {each: fields(known[each]) for each in used}, "primaryType": primary, "domain": domain, "message": message}


def decode(given: object, what: str = "evm-typed") -> dict[str, Any]:
    data = given.encode() if isinstance(given, str) else json.dumps(given).encode()
    public = base64.b64encode(bytes.fromhex(OWN[2:])).decode()
    return avault.decode_evm({"as": what, "payload": base64.b64encode(data).decode(), "public": public})


def weigh(use: dict[str, Any], *rules: str) -> avault.Verdict:
    return avault.Verdict(use, [frozenset(rules)], bytes.fromhex(OWN[2:]))


# permits


DETAILS = {"token": USDC, "amount": 7, "expiration": 0, "nonce": 0}
ALLOWED = {"spender": BOB, "sigDeadline": 0}
ONCE = {"spender": BOB, "nonce": 0, "deadline": 0}


@pytest.mark.parametrize(
    ("primary", "message", "moves"),
    [
        ("PermitSingle", {"details": DETAILS, **ALLOWED}, [(USDC, 7)]),
        ("PermitBatch", {"details": [DETAILS, {**DETAILS, "token": WETH, "amount": 8}], **ALLOWED}, [(USDC, 7), (WETH, 8)]),
        ("PermitTransferFrom", {"permitted": {"token": USDC, "amount": UNLIMITED}, **ONCE}, [(USDC, UNLIMITED)]),
        ("PermitBatchTransferFrom", {"permitted": [{"token": WETH, "amount": 1}], **ONCE}, [(WETH, 1)]),
    ],
)
def test_the_permits_of_permit2_are_allowances(primary: str, message: dict[str, Any], moves: list[tuple[str, int]]) -> None:
    use = decode(typed(primary, message))
    to = bytes.fromhex(BOB[2:])
    assert use["does"] == "approve" and use["moves"] == [(bytes.fromhex(token[2:]), to, amount) for token, amount in moves]


WITNESSED = "TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline"
PERMITTED = {"permitted": {"token": WETH, "amount": str(UNLIMITED)}, "spender": EVE, "nonce": 1, "deadline": 2**40}


@pytest.mark.parametrize("name", ["details", "permitted2", "witness", "order"])
@pytest.mark.parametrize("amount", [0, 1])
def test_a_witness_hides_no_permission(name: str, amount: int) -> None:
    """The spender says what a witness is called: a decoy was read in the place of what is permitted."""
    for primary in ("PermitWitnessTransferFrom", "PermitTransferFrom"):
        form, message = f"{WITNESSED},PermitDetails {name}", {**PERMITTED, name: {**DETAILS, "amount": amount}}
        with pytest.raises(avault.Usage, match="another form"):
            decode(typed(primary, message, **{primary: form}))


@pytest.mark.parametrize(
    ("primary", "form"),
    [
        ("PermitSingle", "PermitDetails details,address spender,uint256 sigDeadline,uint256 more"),
        ("PermitSingle", "address spender,PermitDetails details,uint256 sigDeadline"),
        ("PermitBatch", "PermitDetails[1] details,address spender,uint256 sigDeadline"),
        ("Other", "PermitDetails details,address spender,uint256 sigDeadline"),
    ],
)
def test_a_permit_that_differs_from_permit2s_own_is_refused(primary: str, form: str) -> None:
    message = {"details": DETAILS, **ALLOWED, **({"more": 1} if "more" in form else {})}
    with pytest.raises(avault.Usage, match="another form"):
        decode(typed(primary, {**message, "details": [DETAILS]} if "[" in form else message, **{primary: form}))


TOKENS = {
    "Permit": "address owner,address spender,uint256 value,uint256 nonce,uint256 deadline",
    "TransferWithAuthorization": "address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce",
}


@pytest.mark.parametrize("primary", sorted({*FORMS, *TOKENS} - {"TokenPermissions"}))
@pytest.mark.parametrize("extra", ["uint256 more", "bool allowed"])
def test_what_is_named_as_what_moves_money_has_its_form_to_the_letter(primary: str, extra: str) -> None:
    """On a token, and on a Permit2 that lies elsewhere."""
    form = f"{({**FORMS, **TOKENS})[primary]},{extra}"
    message: dict[str, Any] = {"owner": OWN, "from": OWN, "to": BOB, "value": 0, "validAfter": 0, "validBefore": 1}
    message |= {"nonce": "0x" + "00" * 32 if "bytes32" in form else 0, "deadline": 0, **ALLOWED, "more": 1, "allowed": True}
    message |= {"details": DETAILS, "permitted": {"token": USDC, "amount": 0}, "token": USDC, "amount": 0, "expiration": 0}
    message = {each["name"]: message[each["name"]] for each in fields(form)}
    for name in ("details", "permitted"):
        if f"[] {name}" in form:
            message[name] = [message[name]]
    for contract in (USDC, None):
        with pytest.raises(avault.Usage, match=r"another form|on no chain or of no token"):
            decode(typed(primary, message, contract, **{**TOKENS, primary: form}))


def test_a_permit_of_no_token_and_typed_data_of_a_thousand_addresses_are_refused() -> None:
    with pytest.raises(avault.Usage, match="a permit of nothing"):
        decode(typed("PermitBatch", {"details": [], **ALLOWED}))
    with pytest.raises(avault.Usage, match="too much in it"):
        decode(typed("Many", {"all": [OWN] * 800}, Many="address[] all"))


def test_permission_of_nothing_is_free_where_it_is_surely_nothing() -> None:
    rule = f"chain 8453 token {USDC}:USDC:6 to {BOB}:Bob tx 5 day 20"
    verdict = weigh(decode(typed("PermitSingle", {"details": {**DETAILS, "amount": 0}, **ALLOWED})), rule)
    assert (verdict.asks, verdict.costs) == (False, [])
    with pytest.raises(avault.Denied, match="no rule lets it let others take"):
        weigh(decode(typed("PermitSingle", {"details": DETAILS, **ALLOWED})), rule)


# what is hidden in other typed data


@pytest.mark.parametrize("name", ["functionSignature", "data", "callData", "call_data", "calldata", "callDatas"])
@pytest.mark.parametrize("kind", ["bytes", "bytes[]"])
def test_a_call_inside_typed_data_is_refused(name: str, kind: str) -> None:
    """As in the meta-transactions of Polygon's USDC: whoever has the signature makes the call."""
    call = "0xa9059cbb" + EVE[2:].rjust(64, "0") + "ff" * 32
    forms = {"MetaTransaction": "uint256 nonce,Part part", "Part": f"address from,{kind} {name}"}
    message = {"nonce": 1, "part": {"from": OWN, name: [call] if "[" in kind else call}}
    with pytest.raises(avault.Usage, match="a call inside"):
        decode(typed("MetaTransaction", message, WETH, **forms))


@pytest.mark.parametrize("rule", [f"chain 8453 token {USDC}:USDC:6 day 20", f"chain 1 token {USDC}:USDC:6 day 20"])
def test_typed_data_for_a_token_of_a_rule_is_refused(rule: str) -> None:
    use = decode(typed("Order", {"price": 1}, USDC, Order="uint256 price"))
    with pytest.raises(avault.Denied, match="typed data for a token that a rule names"):
        weigh(use, rule, "chain 8453 typed ask")
    other = decode(typed("Order", {"price": 1}, WETH, Order="uint256 price"))
    assert weigh(other, rule, "chain 8453 typed ask").asks
    said = avault.describe_evm(other, "shop/PAY", [])
    assert said.endswith(" on Base, which MAY MOVE MONEY, with shop/PAY")


def test_types_that_are_long_are_hashed_once_and_no_more_than_so_many_bytes() -> None:
    """A struct with nothing in it, and 300 long fields behind its type: each cost 50 ms."""
    long = ",".join(f"string {'a' * 58}{at:02}" for at in range(60))  # 68 bytes each
    forms = {f"Z{at}": long for at in range(4)} | {"X": "Y[] y", "Y": ",".join(f"Z{at}[] q{at}" for at in range(4))}
    given = typed("Q", {"x": [{"y": []}] * 130}, None, Q="X[] x", **forms)
    assert len(json.dumps(given)) < avault.LONGEST_EVM
    hashed, keccak256 = [0], avault.keccak256

    def count(data: bytes) -> bytes:
        hashed[0] += len(data)
        return keccak256(data) if len(data) < 1_000 else b"\0" * 32

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(avault, "keccak256", count)
        decode(given)
        assert hashed[0] < avault.MOST_HASHED_BYTES
        chain = {f"A{at}": f"A{at + 1}[] next,{long[: 68 * 13 - 1]}" for at in range(15)} | {"A15": "A0[] x"}
        deep = typed(
            "Q",
            {f"f{at}": {"next": []} | dict.fromkeys(names_of(chain[f"A{at}"]), "") for at in range(5)},
            None,
            Q=",".join(f"A{at} f{at}" for at in range(5)),
            **chain,
        )
        assert len(json.dumps(deep)) < avault.LONGEST_EVM
        hashed[0] = 0
        with pytest.raises(avault.Usage, match="too much in it"):
            decode(deep)
        assert hashed[0] < avault.MOST_HASHED_BYTES


def names_of(form: str) -> list[str]:
    return [each["name"] for each in fields(form) if each["name"] != "next"]


# calls


@pytest.mark.parametrize(
    "call",
    [
        "transferAndCall(address,uint256)",
        "transferAndCall(address,uint256,bytes)",
        "transferFromAndCall(address,address,uint256)",
        "transferFromAndCall(address,address,uint256,bytes)",
        "approveAndCall(address,uint256)",
        "approveAndCall(address,uint256,bytes)",
        "setApprovalForAll(address,bool)",
        "safeTransferFrom(address,address,uint256)",
        "safeTransferFrom(address,address,uint256,bytes)",
        "safeTransferFrom(address,address,uint256,uint256,bytes)",
        "safeBatchTransferFrom(address,address,uint256[],uint256[],bytes)",
        "send(address,uint256,bytes)",
        "authorizeOperator(address)",
        "permit(address,address,uint256,uint256,bool,uint8,bytes32,bytes32)",
        "approve(address,address,uint160,uint48)",
        "transferFrom(address,address,uint160,address)",
    ],
)
def test_a_call_that_is_known_to_move_tokens_cannot_be_named(call: str) -> None:
    selector = avault.keccak256(call.encode())[:4].hex()
    assert not avault.is_pay_rule(f"chain 1 calls {EVE}:0x{selector}"), f"0x{selector}"


def test_no_rule_lets_it_make_unknown_calls_of_a_token_of_a_rule() -> None:
    tx = {"to": USDC, "data": "0x12345678", "gas": "0x1", "gasPrice": "0x0", "chainId": hex(8453), "nonce": "0x0"}
    token, coin = f"chain 8453 token {USDC}:USDC:6 day 20", "chain 8453 token ETH day 1 fee 1"
    for calls in ("ask", f"{USDC}:0x12345678"):
        with pytest.raises(avault.Denied, match="calls of a token that a rule names"):
            weigh(decode(tx, "evm-tx"), token, f"chain 8453 calls {calls}")
        weigh(decode({**tx, "to": WETH}, "evm-tx"), token, coin, "chain 8453 calls ask")
        weigh(decode({**tx, "chainId": "0x1"}, "evm-tx"), token, f"chain 1 calls {calls}")


# fees


MORE = ", more if Ethereum is above 150 gwei"
UNKNOWN = ", and what that chain takes besides, which is not known"


@pytest.mark.parametrize(
    ("chain", "coin", "fee", "more"),
    [
        (1, "ETH", "0.000021", ""),
        (42161, "ETH", "0.000021", ""),
        (10, "ETH", "0.000054", MORE),
        (8453, "ETH", "0.000054", MORE),
        (480, "COIN", "0.000054", UNKNOWN),
    ],
)
def test_the_fee_is_said(chain: int, coin: str, fee: str, more: str) -> None:
    """Chains of the OP stack take another one, which no transaction bounds; of a chain that nobody knows, each may."""
    tx = {"to": WETH, "value": "0x1", "gas": hex(21_000), "gasPrice": hex(10**9), "chainId": hex(chain), "nonce": "0x0"}
    rule = avault.WalletRule(f"chain {chain} token {coin} to any tx 1 day 2 fee 1")
    said = avault.describe_evm(decode(tx, "evm-tx"), "shop/PAY", [rule])
    assert said.endswith(f" with shop/PAY, fee up to {fee} {coin}{more}")
    said = avault.describe_evm(decode({**tx, "data": "0x12345678"}, "evm-tx"), "shop/PAY", [])
    dearer = "0.0000546" if more else fee
    assert said.endswith(f" with shop/PAY, fee up to {dearer} of the chain's own coin{more}")
    assert "fee" not in avault.describe_evm(decode("hello", "evm-message"), "shop/PAY", [rule])


def test_what_a_chain_takes_for_ethereum_counts_by_each_byte() -> None:
    """Else a call with much data, at a fee of nothing, spends what no limit knows of."""
    tx = {"to": WETH, "data": "0x12345678" + "ab" * 15_000, "gas": hex(21_000), "gasPrice": "0x1", "nonce": "0x0"}
    rules = "chain {0} calls ask", "chain {0} token ETH day 0.002 fee 0.0001"
    with pytest.raises(avault.Denied, match=r"a fee of up to 0\.002283600000021 ETH is more than the rule's 0\.0001"):
        weigh(decode({**tx, "chainId": hex(8453)}, "evm-tx"), *(each.format(8453) for each in rules))
    [cost] = weigh(decode({**tx, "chainId": "0x1"}, "evm-tx"), *(each.format(1) for each in rules)).costs
    assert cost.amount == 21_000
    for nonce in (None, "0x0", "0xffffffff"):  # the phone is asked before there is one
        tx |= {"chainId": hex(8453), "nonce": nonce}
        assert decode(tx, "evm-tx")["fee"] == 2_283_600_000_021_000


# messages, sign-ins


@pytest.mark.parametrize("text", ['q8#V(z"kT~s2%>Wm[d0*Yp&Lx!c9+Ju{', "{" * 32, "é" * 16])
def test_a_message_that_could_be_a_digest_is_refused(text: str) -> None:
    """A Safe takes an owner's signature of a digest as a message: one of 2^45 of them is a text that can be shown."""
    assert len(text.encode()) == 32
    with pytest.raises(avault.Usage, match="the digest of something else"):
        decode(text, "evm-message")
    for plain in (text + " ", text[:-1], "0123456789abcdef" * 2, "Sign in to the shop. Nonce: 1234"):
        assert decode(plain, "evm-message")["does"] == "message"


def test_what_is_signed_of_a_message_is_shown_as_far_as_a_phone_shows_it() -> None:
    text = "a text of some length, " * 25 + "and then: all is yours"
    assert 'and then: all is yours" with shop/PAY' in avault.describe_evm(decode(text, "evm-message"), "shop/PAY", [])


SIGN_IN = (
    "shop.example wants you to sign in with your Ethereum account:\n{0}\n\nI agree to the terms\n\n"
    "URI: https://shop.example/login\nVersion: 1\nChain ID: 8453\nNonce: abcd1234\nIssued At: 2026-01-01T00:00:00Z"
)


def test_a_sign_in_is_said_with_its_statement() -> None:
    whole = SIGN_IN.format(OWN)
    said = avault.describe_evm(decode(whole, "evm-message"), "shop/PAY", [])
    assert said == 'sign in to shop.example, saying "I agree to the terms", with shop/PAY on Base, nonce abcd1234'
    more = "\nExpiration Time: 2026-01-02T00:00:00Z\nNot Before: 2026-01-01T00:00:00Z\nRequest ID: 7"
    bare = whole.replace("I agree to the terms\n", "").replace("https://shop.example/login", "https://shop.example") + more
    assert avault.describe_evm(decode(bare, "evm-message"), "shop/PAY", []) == (
        "sign in to shop.example with shop/PAY on Base, nonce abcd1234"
    )
    local = whole.replace("shop.example", "localhost:3000").replace("https:", "http:")
    assert "sign in to localhost:3000, saying" in avault.describe_evm(decode(local, "evm-message"), "shop/PAY", [])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("URI: https://shop.example/", "URI: https://evil.example/"),
        ("URI: https://shop.example/", "URI: https://shop.example.evil.example/"),
        ("URI: https://shop.example/", "URI: https://shop.example@evil.example/"),
        ("URI: https://shop.example/login", "URI: did:key:z6Mk"),
        ("00Z", "00Z\nResources:\n- urn:recap:eyJhdHQiOnt9fQ"),
        ("00Z", "00Z\nResources:\n- https://shop.example"),
        ("00Z", "00Z\nMore: 1"),
        ("00Z", "00Z\n"),
        ("terms\n", "terms\nand give all away\n"),
        ("terms", "terms " * 40),
        ("Version: 1", "Version: 2"),
    ],
)
def test_a_sign_in_for_another_or_with_more_is_refused(old: str, new: str) -> None:
    whole = SIGN_IN.format(OWN)
    assert whole.count(old) == 1 and decode(whole, "evm-message")["does"] == "sign-in"
    with pytest.raises(avault.Usage, match="a sign-in"):
        decode(whole.replace(old, new), "evm-message")
