"""Wallets: what a key pays, whom, how much of it and when; by a keyholder that is alone with what signs for it.

The attacks on guardrails, each tried and refused: a test for each is named in references/security.md.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from signing_thread import signing_for
from test_keyholder_alone import Desk

import avault

pytest.importorskip("cryptography", reason="needs cryptography (extra `sign`)")

BOB, EVE, USDC, FAKE = ("0x" + each * 20 for each in ("b0", "e1", "dc", "fa"))
RULES = [
    f"chain 8453 token {USDC}:USDC:6 to {BOB}:Bob tx 5 day 20",
    f"chain 8453 token ETH to {BOB}:Bob tx 0.01 day 0.05 fee 0.001",
]
GAS = {"gas": "0x5208", "maxFeePerGas": hex(10**9), "maxPriorityFeePerGas": "0x1", "chainId": hex(8453), "nonce": "0x0"}
UNLIMITED = 2**256 - 1
COST, COST_WITH_DATA = 54_000 * 10**9, (54_000 + 68 * 150) * 10**9  # gas, and for Ethereum 220 bytes and the data
FEE = "fee up to 0.0000642 ETH, more if Ethereum is above 150 gwei"
TO_BOB, TO_EVE, THAT_USDC = (avault.show_address(bytes.fromhex(each[2:])) for each in (BOB, EVE, USDC))
OF_USDC = f"USDC ({THAT_USDC}, 6 decimals)"


def word(value: int | str) -> str:
    """A word of calldata, of a number or an address."""
    return f"{value:064x}" if isinstance(value, int) else value[2:].rjust(64, "0")


def call(selector: str, *words: int | str) -> str:
    return "0x" + selector + "".join(map(word, words))


def transfer(to: str, amount: int, token: str = USDC, **fields: Any) -> dict[str, Any]:
    return {**GAS, "to": token, "data": call("a9059cbb", to, amount), **fields}


def pay(to: str, amount: float, **fields: Any) -> dict[str, Any]:
    return {**GAS, "to": to, "value": hex(int(amount * 10**6) * 10**12), **fields}


def typed(name: str, fields: dict[str, str], message: dict[str, Any], contract: str = USDC, **domain: Any) -> dict[str, Any]:
    return {
        "types": {name: [{"name": each, "type": kind} for each, kind in fields.items()]},
        "primaryType": name,
        "domain": {"name": "USD Coin", "version": "2", "chainId": 8453, "verifyingContract": contract, **domain},
        "message": message,
    }


class Purse(Desk):
    """A keyholder with what signs for it, and a key that pays; `asked` is what the phone was shown, `says` what it answers."""

    async def fill(self, *rules: str) -> None:
        await self.open()
        self.asked: list[str] = []
        self.says: Any = None
        self.gate = asyncio.Event()
        self.gate.set()
        answer = await self.serve("key", action="generate", kind="evm", group="shop", key="PAY", wallet=list(rules or RULES))
        self.own_address = answer["public"]

    async def phone_asked(self, *words: Any) -> None:
        self.asked.append(words[4])
        words[5]("7K3F")
        await self.gate.wait()
        if self.says:
            raise self.says

    async def sign(self, payload: object, what: str = "evm-tx", **fields: Any) -> dict[str, Any]:
        data = payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()
        named = {"group": "shop", "key": "PAY", "as": what, "payload": base64.b64encode(data).decode()}
        return await self.serve("sign", **{**named, **fields})

    async def refuse(self, payload: object, says: str, what: str = "evm-tx", **fields: Any) -> str:
        """Nothing is signed, nothing is spent, and the log says why."""
        before = self.spent("USDC"), self.spent("ETH")
        with pytest.raises(avault.AvaultError, match=says) as refused:
            await self.sign(payload, what, **fields)
        assert (self.spent("USDC"), self.spent("ETH")) == before
        line = json.loads(Path(self.places.own("refused.log")).read_text().splitlines()[-1])
        assert line["op"] == "sign" and line["why"] == refused.value.message
        return refused.value.message

    def spent(self, symbol: str) -> int:
        token = USDC[2:] if symbol == "USDC" else ""
        account = avault.identify_account("evm", self.own_address[2:].lower(), "8453", token)
        return avault.spent_today(self.keyholder, account)

    def last(self) -> str:
        return str(json.loads(Path(self.places.own("access.log")).read_text().splitlines()[-1])["signed"])


@pytest.fixture
async def purse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Purse]:
    purse = Purse(tmp_path)
    monkeypatch.setattr(avault, "ask_operator", purse.phone_asked)
    purse.holding.contact.find = lambda store: True  # type: ignore[assignment,method-assign,return-value]
    with signing_for(purse.keyholder):
        yield purse
    purse.close()


# what is paid


async def test_a_payment_within_its_rule_is_signed_and_counted(purse: Purse) -> None:
    await purse.fill()
    answer = await purse.sign(transfer(BOB, 5 * 10**6))
    assert answer["signature"].startswith("0x02f8") and answer["asked"] is False
    assert purse.last() == f"pay 5 {OF_USDC} to {TO_BOB} on Base with shop/PAY, {FEE}"
    assert (purse.spent("USDC"), purse.spent("ETH")) == (5 * 10**6, COST_WITH_DATA)
    await purse.sign(pay(BOB, 0.01))
    assert purse.spent("ETH") == 10**16 + COST + COST_WITH_DATA, "fees are money"


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (transfer(BOB, 5 * 10**6 + 1), "5.000001 USDC is more than the 5 that may be spent at once"),
        (transfer(EVE, 1), "no rule lets it pay that address USDC"),
        (transfer(BOB, 1, FAKE), "no rule lets it spend that token on Base"),
        (transfer(BOB, 1, chainId="0x1"), "no rule lets it spend that token on Ethereum"),
        (transfer(BOB, 1, value="0x1"), "no rule lets it make calls on Base"),
        (transfer(BOB, 1, maxFeePerGas=hex(10**12)), "a fee of up to 0.0210432 ETH is more than the rule's 0.001"),
        (pay(BOB, 0.010001), "0.010001 ETH is more than the 0.01"),
        (pay(EVE, 0.001), "no rule lets it pay that address ETH"),
        ({**GAS, "to": USDC, "data": call("a9059cbb", BOB, 1) + "00"}, "longer, or shorter"),
        ({**GAS, "to": USDC, "data": call("a9059cbb", BOB, 1)[:-2]}, "longer, or shorter"),
        ({**GAS, "to": USDC, "data": call("a9059cbb", int("1" + BOB[2:], 16), 1)}, "an address that is none"),
        (
            {**GAS, "to": USDC, "data": call("095ea7b3", EVE, UNLIMITED)},
            "no rule lets it let others take USDC; that was to let 0x.* take UNLIMITED USDC .* at any time",
        ),
        ({**GAS, "to": USDC, "data": call("39509351", EVE, 1)}, "no rule lets it let others take USDC"),
        ({**GAS, "to": USDC, "data": call("23b872dd", EVE, BOB, 1)}, "no rule lets it make calls"),
        ({**GAS, "to": USDC, "data": call("d505accf", EVE, BOB, 1, 1, 1, 1, 1)}, "no rule lets it make calls"),
        (
            {**GAS, "to": USDC, "data": "0xac9650d8" + word(32)},
            "no rule lets it make calls on Base; that was to make an UNKNOWN call 0xac9650d8",
        ),
        ({**GAS, "to": USDC, "data": "0xa9"}, "UNKNOWN call 0xa9"),
        ({**GAS, "to": None, "data": "0x6000"}, "not an address|a deployment"),
        ({**transfer(BOB, 1), "authorizationList": []}, "has no authorizationList"),
    ],
    ids=lambda each: each[:30] if isinstance(each, str) else "",
)
async def test_what_no_rule_lets_is_not_signed(purse: Purse, payload: dict[str, Any], says: str) -> None:
    await purse.fill()
    await purse.refuse(payload, says)


async def test_a_signature_alone_counts_as_a_payment(purse: Purse) -> None:
    """Of x402 (ERC-3009): else a cap on transactions were no cap."""
    await purse.fill()
    fields = {
        "from": "address",
        "to": "address",
        "value": "uint256",
        "validAfter": "uint256",
        "validBefore": "uint256",
        "nonce": "bytes32",
    }
    message = {
        "from": purse.own_address,
        "to": BOB,
        "value": str(4 * 10**6),
        "validAfter": 0,
        "validBefore": 2**40,
        "nonce": "0x" + "07" * 32,
    }
    given = typed("TransferWithAuthorization", fields, message)
    for _ in range(5):
        await purse.sign(given, "evm-typed")
    assert purse.last() == f"pay 4 {OF_USDC} to {TO_BOB} on Base with shop/PAY"
    await purse.refuse(given, "over the day's limit: 4 USDC of 20, with 0 left", "evm-typed")
    await purse.refuse(transfer(BOB, 1), "over the day's limit")
    for wrong, says in (
        ({**message, "to": EVE}, "no rule lets it pay"),
        ({**message, "from": EVE}, "another account's money"),
    ):
        await purse.refuse(typed("TransferWithAuthorization", fields, wrong), says, "evm-typed")
    await purse.refuse(typed("TransferWithAuthorization", fields, message, FAKE), "that token", "evm-typed")
    await purse.refuse(typed("TransferWithAuthorization", fields, message, chainId=1), "on Ethereum", "evm-typed")
    hidden = typed("TransferWithAuthorization", {**fields, "value": "bytes32"}, {**message, "value": "0x" + "00" * 32})
    await purse.refuse(hidden, "another form", "evm-typed")


PERMIT = {"owner": "address", "spender": "address", "value": "uint256", "nonce": "uint256", "deadline": "uint256"}
DAI = {"holder": "address", "spender": "address", "nonce": "uint256", "expiry": "uint256", "allowed": "bool"}
SINGLE = {"details": "PermitDetails", "spender": "address", "sigDeadline": "uint256"}
DETAIL = {"token": "address", "amount": "uint160", "expiration": "uint48", "nonce": "uint48"}
DETAILS = {"PermitDetails": [{"name": name, "type": kind} for name, kind in DETAIL.items()]}
PERMIT2 = "0x000000000022d473030f116ddee9f6b43ac78ba3"


async def test_an_allowance_is_asked_counted_and_never_unlimited(purse: Purse) -> None:
    """Approve, then transferFrom: what another may take is spent when it is allowed."""
    await purse.fill(f"chain 8453 token {USDC}:USDC:6 to {BOB}:Bob tx 5 day 20 approve ask", RULES[1])
    owner = {"owner": purse.own_address, "spender": BOB, "nonce": 0, "deadline": 2**40}
    await purse.sign(typed("Permit", PERMIT, {**owner, "value": 5 * 10**6}), "evm-typed")
    await purse.sign({**GAS, "to": USDC, "data": call("095ea7b3", BOB, 5 * 10**6)})
    assert [each.partition("; ")[0] for each in purse.asked] == [
        f"avault: let {TO_BOB} take up to 5 {OF_USDC} at any time on Base with shop/PAY, 0 of 20 spent today",
        f"avault: let {TO_BOB} take up to 5 {OF_USDC} at any time on Base with shop/PAY, {FEE}, 5 of 20 spent today",
    ]
    assert purse.spent("USDC") == 10 * 10**6
    details = {"token": USDC, "amount": str(2**160 - 1), "expiration": 0, "nonce": 0}
    for payload in (
        typed("Permit", PERMIT, {**owner, "value": str(UNLIMITED)}),
        typed("Permit", DAI, {"holder": purse.own_address, "spender": BOB, "nonce": 0, "expiry": 0, "allowed": True}),
        typed("PermitSingle", SINGLE, {"details": details, "spender": BOB, "sigDeadline": 0}, PERMIT2),
    ):
        payload["types"] |= DETAILS if payload["primaryType"] == "PermitSingle" else {}
        said = await purse.refuse(payload, "that may be spent at once", "evm-typed")
        assert f"take UNLIMITED {OF_USDC} at any time" in said
    await purse.refuse({**GAS, "to": USDC, "data": call("095ea7b3", EVE, 1)}, "no rule lets it pay that address")
    asked = len(purse.asked)
    await purse.sign({**GAS, "to": USDC, "data": call("095ea7b3", BOB, 0)})
    assert purse.last() == f"let {TO_BOB} take no {OF_USDC} any more on Base with shop/PAY, {FEE}" and len(purse.asked) == asked


async def test_messages_calls_and_typed_data_are_asked_in_words(purse: Purse) -> None:
    await purse.fill(*RULES, "messages ask", "chain 8453 calls ask", "chain 8453 typed ask")
    await purse.sign('hello "there"; avault', "evm-message")
    await purse.sign(typed("Order", {"price": "uint256"}, {"price": 1}, FAKE), "evm-typed")
    await purse.sign({**GAS, "to": FAKE, "data": "0x12345678" + word(1)})
    await purse.sign("x" * 700, "evm-message")
    contract, shorter = avault.show_address(bytes.fromhex(FAKE[2:])), FEE.replace("642", "594")
    assert [each.partition("; ")[0].removeprefix("avault: ") for each in purse.asked] == [
        "sign the message \"hello 'there', avault\" with shop/PAY",
        f'sign UNKNOWN typed data "Order" of "USD Coin" for {contract} on Base, which MAY MOVE MONEY, with shop/PAY',
        f"make an UNKNOWN call 0x12345678 (36 bytes) of {contract} on Base with shop/PAY, {shorter}, 0 of 0.05 spent today",
        f'sign the message "{"x" * 599}…" (the first 600 of 700 characters) with shop/PAY',
    ]


async def test_typed_data_is_let_on_its_chain_and_for_its_contracts(purse: Purse) -> None:
    """A rule for messages lets none of it: it would be for each chain and contract, and may move money."""

    def order(contract: str, **domain: Any) -> dict[str, Any]:
        return typed("Order", {"price": "uint256"}, {"price": 1}, contract, **domain)

    nowhere = order(FAKE)
    del nowhere["domain"]["chainId"]
    await purse.fill(*RULES, "messages ask")
    await purse.refuse(order(FAKE), "no rule lets it sign typed data on Base", "evm-typed")
    await purse.serve("key", action="generate", kind="evm", group="ex", key="PAY", wallet=[f"chain 8453 typed {FAKE}", RULES[0]])
    named = {"group": "ex", "key": "PAY"}
    await purse.sign(order(FAKE), "evm-typed", **named)
    assert len(purse.asked) == 1, "each is asked"
    await purse.refuse(order(EVE), "no rule lets it sign typed data for that contract", "evm-typed", **named)
    await purse.refuse(order(FAKE, chainId=1), "no rule lets it sign typed data on Ethereum", "evm-typed", **named)
    await purse.refuse(nowhere, "no rule lets it sign typed data that is for any chain", "evm-typed", **named)
    await purse.refuse("hello", "no rule lets it sign messages", "evm-message", **named)


async def test_no_sentence_has_a_name_or_a_short_address(purse: Purse) -> None:
    """Rules come without the phone, with a new key or on a group: the address is said, and whole."""
    await purse.fill("chain 8453 token ETH to any tx 1 day 5 fee 0.001 ask always")
    told = await purse.serve("guard", group="shop", wallet=[f"chain 8453 token ETH to {EVE}:Bob tx 1 day 5 fee 0.001 ask always"])
    assert not told["weakens"]
    await purse.sign(pay(EVE, 1))
    assert purse.asked[0].startswith(f"avault: pay 1 ETH to {TO_EVE} on Base with shop/PAY, ")
    await purse.serve(
        "key",
        action="generate",
        kind="evm",
        group="new",
        key="PAY",
        wallet=[f"chain 8453 token {FAKE}:USDC:18 to {EVE}:Bob tx 1 day 5"],
    )
    fake = avault.show_address(bytes.fromhex(FAKE[2:]))
    with pytest.raises(avault.Denied, match=rf"pay 2 USDC \({fake}, 18 decimals\) to {TO_EVE} on Base"):
        await purse.sign(transfer(EVE, 2 * 10**18, FAKE), group="new", key="PAY")


async def test_two_guards_on_one_asset_count_a_payment_once_by_the_lower_limit(purse: Purse) -> None:
    coin = "chain 8453 token ETH to any tx 0.01 day 0.05 fee 0.001"
    await purse.fill(f"chain 8453 token {USDC}:USDC:6 to {BOB} tx 5 day 20", coin)
    await purse.serve("guard", group="shop", wallet=[f"chain 8453 token {USDC}:USDC:6 to any tx 5 day 11", coin])
    await purse.sign(transfer(BOB, 5 * 10**6))
    assert (purse.spent("USDC"), purse.spent("ETH")) == (5 * 10**6, COST_WITH_DATA)
    await purse.sign(pay(BOB, 0.01))
    assert purse.spent("ETH") == 10**16 + COST + COST_WITH_DATA
    await purse.sign(transfer(BOB, 5 * 10**6))
    await purse.refuse(transfer(BOB, 2 * 10**6), "over the day's limit: 2 USDC of 11, with 1 left")


async def test_value_in_an_unknown_call_is_held_against_the_rules_too(purse: Purse) -> None:
    await purse.fill(f"chain 8453 token ETH to {BOB}:Bob tx 0.01 day 0.05 fee 0.001", f"chain 8453 calls {FAKE}:0x12345678")
    await purse.sign({**GAS, "to": FAKE, "data": "0x12345678"})
    assert not purse.asked
    await purse.refuse({**GAS, "to": FAKE, "data": "0x12345678", "value": "0x1"}, "no rule lets it pay that address ETH")
    await purse.refuse({**GAS, "to": FAKE, "data": "0x12345679"}, "no rule lets it make that call")
    await purse.refuse({**GAS, "to": USDC, "data": "0x12345678"}, "no rule lets it make that call")


# limits


async def test_twenty_at_once_against_a_day(purse: Purse) -> None:
    await purse.fill()
    found = await asyncio.gather(*(purse.sign(transfer(BOB, 3 * 10**6)) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(each, dict) for each in found) == 6 and purse.spent("USDC") == 18 * 10**6
    assert {type(each) for each in found} == {dict, avault.Denied}


async def test_a_refusal_gives_back_and_stays_a_refusal(purse: Purse) -> None:
    await purse.fill(f"{RULES[0]} ask always", RULES[1])
    purse.says = avault.Denied("the operator said no")
    await purse.refuse(transfer(BOB, 10**6), "the operator said no")
    await purse.refuse(transfer(BOB, 10**6), "the phone was asked in vain")
    assert len(purse.asked) == 1


async def test_two_payments_are_asked_one_after_the_other_each_with_what_is_spent_then(purse: Purse) -> None:
    """Who waits for a turn was not refused; what is spent meanwhile is said, and not itself."""
    await purse.fill(f"{RULES[0]} ask always", RULES[1])
    purse.gate.clear()
    async with asyncio.timeout(60):
        first = asyncio.get_running_loop().create_task(purse.sign(transfer(BOB, 2 * 10**6)))
        while not purse.asked:
            await asyncio.sleep(0.01)
        second = asyncio.get_running_loop().create_task(purse.sign(transfer(BOB, 3 * 10**6)))
        while purse.spent("USDC") < 5 * 10**6 and not second.done():
            await asyncio.sleep(0.01)
        purse.gate.set()
        await asyncio.gather(first, second)
    assert [each.partition(" spent today")[0].rpartition(", ")[2] for each in purse.asked] == ["0 of 20", "2 of 20"]


async def test_a_question_about_a_payment_is_shown_and_counts_among_all(purse: Purse) -> None:
    await purse.fill(f"{RULES[0]} ask always", RULES[1])
    openers, questions = purse.keyholder.openers, purse.keyholder.askings.questions
    openers.starting = [(True, None)] * openers.MOST
    await purse.refuse(transfer(BOB, 1), "too many wait for the phone")
    openers.starting = []
    purse.gate.clear()
    task = asyncio.get_running_loop().create_task(purse.sign(transfer(BOB, 10**6)))
    while not purse.asked:
        await asyncio.sleep(0.01)
    [question] = questions.values()
    assert (question["names"], question["code"]) == (["shop/PAY"], "7K3F") and question["by"] and question["since"]
    assert openers.starting == [(True, None)]
    purse.gate.set()
    await task
    assert not questions and not openers.starting


async def test_a_caller_that_leaves_while_the_phone_is_asked_pays_nothing(purse: Purse) -> None:
    await purse.fill(f"{RULES[0]} ask always", RULES[1])
    purse.gate.clear()
    task = asyncio.get_running_loop().create_task(purse.sign(transfer(BOB, 10**6)))
    while not purse.asked:
        await asyncio.sleep(0.01)
    assert purse.spent("USDC") == 10**6, "reserved before anybody is asked"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert purse.spent("USDC") == 0


@pytest.mark.parametrize(
    ("told", "is_signed"), [({"go": True, "nonce": "0x7"}, True), ({"go": False}, False), ({}, False), ({"go": 1}, False)]
)
async def test_an_approval_that_finds_no_caller_signs_nothing(purse: Purse, told: dict[str, Any], is_signed: bool) -> None:
    await purse.fill(f"{RULES[0]} ask always", RULES[1])

    async def frame(**_: Any) -> dict[str, Any]:
        assert purse.asked
        return told

    work = purse.reception.requests["sign"]
    purse.session.frame = frame
    given = {**transfer(BOB, 10**6)}
    request = {"op": "sign", "as": "evm-tx", "group": "shop", "key": "PAY", "confirm": True}
    request["payload"] = base64.b64encode(json.dumps(given).encode()).decode()
    answer: Any = work(purse.keyholder, purse.session, request)
    if not is_signed:
        with pytest.raises(avault.Denied, match="nobody waits for it any more"):
            await answer
        assert purse.spent("USDC") == 0
        return
    signature = (await answer)["signature"]
    assert signature[8:].startswith("82210507"), "with the nonce of after the approval"
    assert purse.spent("USDC") == 10**6


async def test_a_guard_that_gets_stricter_while_the_phone_is_asked_counts(purse: Purse) -> None:
    await purse.fill(f"{RULES[0]} ask always", RULES[1])
    purse.gate.clear()
    task = asyncio.get_running_loop().create_task(purse.sign(transfer(BOB, 10**6)))
    while not purse.asked:
        await asyncio.sleep(0.01)
    await purse.serve(
        "guard", group="shop", wallet=[f"chain 8453 token {USDC}:USDC:6 to {BOB}:Bob tx 0.5 day 20 ask always", RULES[1]]
    )
    purse.gate.set()
    with pytest.raises(avault.Denied, match=r"more than the 0\.5"):
        await task
    assert purse.spent("USDC") == 0


async def test_a_key_whose_value_is_asked_for_pays_nothing(purse: Purse) -> None:
    """Of another machine, as a merge brings it: the guard is there, and the value in clear yet; or it is sealed."""
    await purse.fill()
    store = purse.keyholder.open_store()

    def ask(vault: avault.Vault) -> None:
        avault.add_guard(vault, "shop/PAY", {"ask": 0, "only": ["wallet"]}, int(time.time()), store.machine)

    with pytest.raises(avault.Usage, match="is asked of by its rules"):
        await purse.serve("guard", group="shop", key="PAY", ask=0)
    clear = store.vault.groups["shop"].keys["PAY"][0].value
    await purse.holding.writer.change(store, ask)
    await purse.refuse(transfer(BOB, 1), "has a guard that asks for its value")
    sealed = avault.seal_value(avault.public_hex(avault.make_keys()), clear)
    purse.keyholder.open_store().vault.groups["shop"].keys["PAY"][0].value = sealed
    purse.keyholder.signing.keys.vault = None  # it is looked through again
    await purse.refuse(transfer(BOB, 1), "is sealed, and a key that pays is asked of by its rules alone")
    assert [each["public"] for each in (await purse.serve("keys", **{"as": "wallet"}))["keys"]] == [purse.own_address]


def test_a_sealed_key_that_pays_is_listed_yet() -> None:
    for value in (avault.pack_evm_key(b"\1" * 20, b"\2" * 32), avault.pack_solana_key(b"\1" * 32, b"\2" * 32)):
        known = avault.read_signing_key(value)
        sealed = avault.read_signing_key(avault.seal_value(avault.public_hex(avault.make_keys()), value))
        assert known and sealed and sealed.to_dict() == known.to_dict()


async def test_another_name_for_the_key_has_the_same_limit(purse: Purse) -> None:
    await purse.fill()
    for _ in range(4):
        await purse.sign(transfer(BOB, 5 * 10**6))
    await purse.serve("move", group="shop", key="PAY", to_group="other", to_key="NAME")
    await purse.refuse(transfer(BOB, 1), "over the day's limit", group="other", key="NAME")


# rules


GOOD = [
    *RULES,
    "chain 8453 token ETH day 0.01 fee 0.001",
    f"chain 1 token {USDC}:USDC:6 to any tx 5 day 20 approve ask ask always",
    "chain 1 calls ask",
    f"chain 1 calls {FAKE}:0x12345678",
    "messages ask",
    "chain 1 typed ask",
    f"chain 1 typed {EVE},{FAKE}",
    "chain 137 token POL day 1",
    "chain 100 token xDAI day 1",
    "chain 31337 token COIN day 1",
]
BAD = [
    "",
    "chain 8453",
    "chain 8453 token ETH",
    "chain 8453 token ETH to any day 1",
    "chain 8453 token ETH tx 1 day 1",
    "chain 0 token ETH day 1",
    "chain 8453 token ETH day 1 tx 1 to any",
    "chain 8453  token ETH day 1",
    "chain 08453 token ETH day 1",
    "chain 8453 token ETH day 1 day 2",
    "chain 8453 token ETH day -1",
    "chain 8453 token ETH day 1e3",
    "chain 8453 token ETH day 1.0",
    "chain 8453 token ETH day 01",
    "chain 8453 token ETH day .5",
    "chain 8453 token ETH day 0.0000000000000000001",
    "chain 8453 token ETH day ²",
    "chain 8453 token ETH day unlimited",
    "chain 8453 token ETH day 1 limit 5",
    f"chain 8453 token {USDC}:USDC to {BOB} tx 5 day 20",
    f"chain 8453 token {USDC}:USDC:6 to {BOB} tx 5 day 20 fee 1",
    f"chain 8453 token {USDC[:-1]}:USDC:6 to any tx 5 day 20",
    f"chain 8453 token {USDC}:USDC:6 to {BOB},{BOB} tx 5 day 20",
    f"chain 8453 token {USDC}:USDC:6 to {EVE},{BOB} tx 5 day 20",
    f"chain 8453 token {USDC}:USDC:6 to {BOB.upper()} tx 5 day 20",
    "chain 8453 token ETH to any tx 1 day 2 ask never",
    "chain 8453 token ETH to any tx 1 day 2 approve ask",
    f"chain 8453 token {USDC}:USDC:6 to any tx 1 day 2 approve yes",
    "messages allow",
    "chain 1 messages ask",
    "chain 1 calls any",
    f"chain 1 calls {USDC}:0xa9059cbb",
    f"chain 1 calls {USDC}:0x1234",
    "calls ask",
    "typed ask",
    "chain 1 typed any",
    f"chain 1 typed {FAKE},{EVE}",
    f"chain 1 typed {FAKE}:0x12345678",
    "chain 1 calls ask typed ask",
    f"chain 8453 token {USDC}:US DC:6 day 20",
    f"chain 8453 token {EVE}:{USDC}:USDC:6 day 20",
    f"chain 8453 token x{USDC}:USDC:6 day 20",
    "chain 8453 token USDC to any tx 5 day 20",
    "chain 8453 token eth day 1",
    "chain 137 token ETH day 1",
    "chain 31337 token ETH day 1",
    "chain 8453 token COIN day 1",
    f"chain 8453 token {USDC}:Eth:18 day 20",
    f"chain 8453 token {USDC}:USDC day 20",
    f"chain 8453 token {USDC}::6 day 20",
    f"chain 8453 token ETH to {BOB}: tx 1 day 2",
    f"chain 8453 token ETH to {BOB}:{'x' * 25} tx 1 day 2",
    f"chain 8453 token ETH to {BOB}:B*b tx 1 day 2",
    f"chain 1 calls {FAKE}:0x12345678,{FAKE}:0x12345678",
    f"chain 1 calls {FAKE}:0x12345679,{FAKE}:0x12345678",
]


@pytest.mark.parametrize("rule", GOOD)
def test_a_rule_is_kept_in_one_form(rule: str) -> None:
    assert avault.is_pay_rule(rule) and avault.arrange_wallet_rule(rule) == rule
    words = rule.split(" ")
    turned = " ".join(f"{name}  {value}" for name, value in reversed([*zip(words[::2], words[1::2], strict=True)]))
    assert avault.arrange_wallet_rule(turned) == rule
    assert len(avault.describe_pay_rules(frozenset({rule}))) < 250


@pytest.mark.parametrize("rule", BAD)
def test_a_typo_is_no_rule(rule: str) -> None:
    assert not avault.is_pay_rule(rule)


@pytest.mark.parametrize("rule", ["chain 8453 token ETH day 1", "cluster mainnet mint SOL day 1"])
def test_a_word_that_is_none_is_named(rule: str) -> None:
    assert avault.is_pay_rule(avault.arrange_pay_rule(rule))
    with pytest.raises(ValueError, match="no such word: speed"):
        avault.arrange_pay_rule(f"{rule} speed 9")
    with pytest.raises(ValueError, match="not words and their values, each once"):
        avault.arrange_pay_rule(f"{rule} day 2")


def test_an_address_of_solana_has_so_many_bytes() -> None:
    assert avault.decode_base58(avault.encode_base58(b"\0" + b"x" * 31), 32) == b"\0" + b"x" * 31
    for text, says in (
        ("z" * 44, "too long"),
        ("z" * 40, "not 32 bytes"),
        ("0" * 32, "not base58"),
        ("", "not base58"),
        (7, "not base58"),
    ):
        with pytest.raises(ValueError, match=says):
            avault.decode_base58(text, 32)


@pytest.mark.parametrize("amount", ["1.5.0", "1..0", "1.", ".0", "1.0.", "1 .0", "1_0.0"])
@pytest.mark.parametrize("word", ["tx", "day", "fee"])
def test_an_amount_has_one_point(word: str, amount: str) -> None:
    amounts = {"tx": "1", "day": "2", "fee": "1", word: amount}
    said = " ".join(f"{name} {value}" for name, value in amounts.items())
    for rule in ("chain 8453 token ETH to any", "cluster mainnet mint SOL to any"):
        with pytest.raises(ValueError):
            avault.arrange_pay_rule(f"{rule} {said}")


def test_the_coin_of_a_chain_has_one_name() -> None:
    """Else USDC without its address were ether, at a price a thousand times as high."""
    for chain, token, right in ((8453, "USDC", "ETH"), (56, "ETH", "BNB"), (43114, "BNB", "AVAX"), (5, "ETH", "COIN")):
        with pytest.raises(avault.Usage) as refused:
            avault.name_wallet_uses((f"chain {chain} token {token} to any tx 5 day 20",))
        assert "is the chain's own coin" in refused.value.message
        assert refused.value.hint == f"token {right}; or of another token: token 0xADDRESS:SYMBOL:DECIMALS"


def test_the_words_of_a_rule_have_the_address_of_a_token_and_its_decimals() -> None:
    assert str(avault.read_pay_rule(RULES[0])) == f"20 {OF_USDC} a day on Base, 5 at once to Bob {TO_BOB}"


NAMED = "chain 8453 token ETH to {} tx 1 day 2"
WIDER = [
    (NAMED.format("any"), NAMED.format(f"{EVE}:Bob")),
    (NAMED.format(EVE), NAMED.format(f"{EVE}:Bob")),
    (RULES[0], f"chain 8453 token {USDC}:USDC:6 to {BOB}:Bob tx 6 day 20"),
    (RULES[0], f"chain 8453 token {USDC}:USDC:6 to {BOB}:Bob tx 5 day 21"),
    (RULES[0], f"chain 8453 token {USDC}:USDC:6 to any tx 5 day 20"),
    (RULES[0], f"chain 8453 token {USDC}:USDC:6 to {BOB}:Bob,{EVE} tx 5 day 20"),
    (RULES[0], f"chain 8453 token {USDC}:USDC:6 to {BOB}:Alice tx 5 day 20"),
    (RULES[0], f"chain 8453 token {USDC}:USDC:5 to {BOB}:Bob tx 5 day 20"),
    (RULES[0], f"chain 8453 token {USDC}:USDC:6 to {BOB}:Bob tx 5 day 20 approve ask"),
    (f"{RULES[0]} ask always", RULES[0]),
    (RULES[0], f"chain 1 token {USDC}:USDC:6 to {BOB}:Bob tx 5 day 20"),
    (RULES[1], f"chain 8453 token ETH to {BOB}:Bob tx 0.01 day 0.05 fee 0.002"),
    (f"chain 1 calls {FAKE}:0x12345678", "chain 1 calls ask"),
    ("chain 1 calls ask", f"chain 1 calls {FAKE}:0x12345678"),
    (f"chain 1 calls {FAKE}:0x12345678", f"chain 1 calls {FAKE}:0x12345678,{FAKE}:0x12345679"),
    (RULES[0], "messages ask"),
    ("messages ask", "chain 1 typed ask"),
    ("chain 8453 typed ask", "chain 1 typed ask"),
    (f"chain 1 typed {FAKE}", "chain 1 typed ask"),
    (f"chain 1 typed {FAKE}", f"chain 1 typed {EVE},{FAKE}"),
]


@pytest.mark.parametrize(("before", "after"), WIDER)
async def test_a_rule_that_lets_more_needs_the_phone(purse: Purse, before: str, after: str) -> None:
    assert avault.are_pay_rules_within([before], [before]) and not avault.are_pay_rules_within([after], [before])
    await purse.fill(before)
    told = await purse.serve("guard", group="shop", key="PAY", wallet=[after])
    assert told["weakens"], "nothing is changed without the phone"


def test_typed_data_for_fewer_contracts_is_no_more() -> None:
    assert avault.are_pay_rules_within([f"chain 1 typed {FAKE}"], ["chain 1 typed ask"])
    assert avault.are_pay_rules_within([f"chain 1 typed {FAKE}"], [f"chain 1 typed {EVE},{FAKE}"])


def test_to_take_a_name_away_or_to_name_an_address_alone_is_no_more() -> None:
    assert avault.are_pay_rules_within([NAMED.format(EVE)], [NAMED.format(f"{EVE}:Bob")])
    assert avault.are_pay_rules_within([NAMED.format(EVE)], [NAMED.format("any")])
    assert not avault.are_pay_rules_within([NAMED.format("any")], [NAMED.format(EVE)])


async def test_one_rule_more_is_more_and_one_about_the_same_less(purse: Purse) -> None:
    rules = [RULES[0], "chain 8453 token ETH day 0.05 fee 0.001"]
    await purse.fill(*rules)
    strict = f"chain 8453 token {USDC}:USDC:6 to {BOB}:Bob tx 1 day 20"
    assert not avault.are_pay_rules_within([*rules, "messages ask"], rules)
    assert avault.are_pay_rules_within([*rules, strict], rules) and not avault.are_pay_rules_within(rules, [*rules, strict])
    assert not (await purse.serve("guard", group="shop", key="PAY", wallet=[*rules, strict]))["weakens"]
    await purse.refuse(transfer(BOB, 2 * 10**6), "more than the 1 that may be spent at once")


async def test_a_key_without_a_rule_or_with_another_kind_of_rule_signs_nothing(purse: Purse) -> None:
    await purse.fill()
    await purse.serve("key", action="generate", kind="evm", group="bare", key="PAY")
    await purse.refuse(transfer(BOB, 1), "no rule lets it spend", group="bare", key="PAY")
    with pytest.raises(avault.Usage, match="is for keys of another kind"):
        await purse.serve("key", action="generate", kind="evm", group="x", key="Y", kinds=["1"])
    with pytest.raises(avault.Usage, match="is for keys of another kind"):
        await purse.serve("key", action="generate", kind="nostr", group="x", key="Y", wallet=RULES)
    with pytest.raises(avault.Usage, match="not one of wallet"):
        await purse.serve("key", action="generate", kind="evm", group="x", key="Y", wallet=["chain 1 token ETH dya 1"])
    await purse.serve("key", action="generate", kind="nostr", group="n", key="KEY", kinds=["1"])
    with pytest.raises(avault.AvaultError, match=r"no key that signs this|may use it|not understood"):
        await purse.sign(transfer(BOB, 1), group="n", key="KEY")


async def test_the_key_leaves_in_no_other_way(purse: Purse) -> None:
    await purse.fill()
    secret = purse.holding.store.vault.groups["shop"].keys["PAY"][0].value  # type: ignore[union-attr]
    for op in ("get", "export", "reveal"):
        with pytest.raises(avault.Denied, match="only wallet may use it"):
            await purse.serve(op, group="shop", key="PAY", **({} if op == "get" else {"groups": ["shop"], "only": ["shop/PAY"]}))
    shown = json.dumps(await purse.serve("list"))
    assert purse.own_address in shown and secret[-64:] not in shown
    for what in ("nostr-event", "ssh", "sshsig", "raw", "evm-raw", "digest"):
        with pytest.raises(avault.AvaultError):
            await purse.sign("00" * 32, what)


async def test_a_grant_signs_with_what_it_has_and_no_more(purse: Purse) -> None:
    await purse.fill()
    nothing = {"check_way": lambda way: None, "check_request": lambda *_: None, "use": lambda _: None}
    share = SimpleNamespace(has=lambda group, key: group == "own", groups=set())
    seen = {"share": share, "asks": False, "name": "x", "seen": None}
    purse.session.grant = SimpleNamespace(**nothing, **seen)
    with pytest.raises(avault.NotFound):
        await purse.sign(transfer(BOB, 1))


async def test_a_clock_set_back_and_a_replay_pay_nothing_more(purse: Purse, monkeypatch: pytest.MonkeyPatch) -> None:
    await purse.fill()
    given = transfer(BOB, 5 * 10**6)
    signed = {(await purse.sign(given))["signature"] for _ in range(4)}
    assert len(signed) == 1, "the same transaction, with the same nonce: a chain takes it once"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86_400)
    await purse.refuse(given, "over the day's limit")
