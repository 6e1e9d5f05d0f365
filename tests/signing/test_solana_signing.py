"""Payments on Solana: by a keyholder that is alone with what signs for it, and LiteSVM as the cluster that takes them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from signing_thread import signing_for
from test_keyholder_alone import Desk

import avault

pytest.importorskip("cryptography", reason="needs cryptography (extra `sign`)")
pytest.importorskip("solders", reason="needs solders (extra `test-wallet`)")
from solders import compute_budget as budget
from solders.hash import Hash
from solders.instruction import Instruction
from solders.litesvm import LiteSVM
from solders.message import Message, MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction
from test_solana_uses import BOB, MINT, OTHER, make_account, memo, pay_token
from test_solana_uses import pay as pay_sol

EVE = Pubkey.from_bytes(bytes([9] * 32))
RULES = [
    f"cluster localnet mint SOL to {BOB}:Bob tx 1 day 2 fee 0.005",
    f"cluster localnet mint {MINT}:USDC:6 to {BOB}:Bob tx 5 day 20",
]
USDC, SOL = 10**6, 10**9


class SolanaPurse(Desk):
    """A keyholder with what signs for it, and a key that pays; `asked` is what the phone was shown, `says` what it answers."""

    async def fill(self, *rules: str) -> None:
        await self.open()
        self.asked: list[str] = []
        self.says: Any = None
        fields = {"action": "generate", "kind": "solana", "group": "pay", "key": "SOL"}
        answer = await self.serve("key", **fields, wallet=list(rules or RULES))
        self.us = Pubkey.from_string(answer["public"])

    async def phone_asked(self, *words: Any) -> None:
        self.asked.append(words[4])
        if self.says:
            raise self.says

    def message(self, *instructions: Instruction, payer: Pubkey | None = None, blockhash: Hash | None = None) -> bytes:
        made = MessageV0.try_compile(payer or self.us, [*instructions], [], blockhash or Hash.default())
        return to_bytes_versioned(made)

    async def sign(self, content: bytes, what: str = "sol-tx", **fields: Any) -> dict[str, Any]:
        named = {"group": "pay", "key": "SOL", "as": what, "payload": base64.b64encode(content).decode()}
        return await self.serve("sign", **{**named, **fields})

    async def refuse(self, content: bytes, says: str, what: str = "sol-tx", **fields: Any) -> str:
        """Nothing is signed, nothing is spent, and the log says why."""
        before = self.spent("SOL"), self.spent("USDC")
        with pytest.raises(avault.AvaultError, match=says) as refused:
            await self.sign(content, what, **fields)
        assert (self.spent("SOL"), self.spent("USDC")) == before
        line = json.loads(Path(self.places.own("refused.log")).read_text().splitlines()[-1])
        assert line["op"] == "sign" and refused.value.message.startswith(line["why"].removesuffix("…"))
        return refused.value.message

    def spent(self, symbol: str, cluster: str = "localnet") -> int:
        token = bytes(MINT).hex() if symbol == "USDC" else ""
        account = avault.identify_account("solana", bytes(self.us).hex(), cluster, token)
        return avault.spent_today(self.keyholder, account)

    def last(self) -> str:
        return str(json.loads(Path(self.places.own("access.log")).read_text().splitlines()[-1])["signed"])

    def pay(self, amount: int = SOL, to: Pubkey = BOB) -> Instruction:
        return pay_sol(amount, self.us, to)

    def pay_token(self, amount: int = USDC, **fields: Any) -> Instruction:
        return pay_token(amount, who=self.us, **fields)


@pytest.fixture
async def purse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SolanaPurse]:
    purse = SolanaPurse(tmp_path)
    monkeypatch.setattr(avault, "ask_operator", purse.phone_asked)
    purse.holding.contact.find = lambda store: True  # type: ignore[assignment,method-assign,return-value]
    with signing_for(purse.keyholder):
        yield purse
    purse.close()


async def test_what_may_be_spent_at_once_is_of_the_whole_transaction(purse: SolanaPurse) -> None:
    await purse.fill()
    await purse.refuse(purse.message(purse.pay(SOL * 3 // 5), purse.pay(SOL * 3 // 5)), "1.2 SOL is more than the 1 that")


async def test_what_a_phone_is_shown_has_the_most_first_and_an_end(purse: SolanaPurse) -> None:
    await purse.fill("cluster localnet mint SOL to any tx 1 day 2 fee 0.005 ask always")
    dust = [purse.pay(1) for _ in range(15)]
    await purse.sign(purse.message(*dust, purse.pay(SOL // 10, EVE)))
    assert purse.asked[0].startswith(f"avault: pay 0.1 SOL to {EVE} and pay 0.000000015 SOL to {BOB} on")
    many = [purse.pay(1, Pubkey.from_bytes(bytes([each] * 32))) for each in range(20, 38)]
    await purse.refuse(purse.message(*many), "more than a phone shows")
    assert len(purse.asked) == 1


def test_an_answer_of_the_node_that_is_lost_leaves_the_signature() -> None:
    """Else who does not know what was signed pays again."""
    us = Pubkey.from_bytes(bytes([1] * 32))
    content = to_bytes_versioned(MessageV0.try_compile(us, [pay_sol(1, us, BOB)], [], Hash.default()))
    signature = str(Signature.new_unique())

    class Node:
        def fresh_blockhash(self) -> str:
            return str(Hash.new_unique())

        def call(self, *_: object) -> None:
            raise avault.Unavailable("the node does not answer")

    def sign(go_on: Any) -> dict[str, Any]:
        go_on({})
        return {"signature": signature}

    node: Any = Node()
    with pytest.raises(avault.Unavailable, match="does not answer") as lost:
        avault.sign_and_send(sign, node, content)
    assert signature in lost.value.message and lost.value.hint and "look before you pay again" in lost.value.hint


async def test_a_payment_within_its_rule_is_signed_and_counted_and_the_cluster_takes_it(purse: SolanaPurse) -> None:
    await purse.fill()
    cluster = LiteSVM()
    cluster.airdrop(purse.us, 10 * SOL)
    for form in (Message, MessageV0):
        fresh = cluster.latest_blockhash()
        if form is Message:
            message: Any = Message.new_with_blockhash([purse.pay(SOL // 2), memo("for Bob", purse.us)], purse.us, fresh)
        else:
            message = MessageV0.try_compile(purse.us, [purse.pay(SOL // 2)], [], fresh)
        content = bytes(message) if form is Message else to_bytes_versioned(message)
        answer = await purse.sign(content)
        made = VersionedTransaction.populate(message, [Signature.from_string(answer["signature"])])
        assert not hasattr(cluster.send_transaction(made), "err"), "the cluster takes it"
    assert cluster.get_balance(BOB) == SOL
    assert purse.spent("SOL") == SOL + 2 * 5_000, "fees are money"
    assert purse.last() == f"pay 0.5 SOL to {BOB} on a Solana cluster for tests with pay/SOL, for a fee of up to 0.000005 SOL"


async def test_tokens_go_to_the_account_of_an_owner_that_the_rule_names(purse: SolanaPurse) -> None:
    await purse.fill()
    await purse.sign(purse.message(purse.pay_token(5 * USDC)))
    assert purse.last().startswith(f"pay 5 USDC ({MINT}, 6 decimals) to {BOB} on a Solana cluster")
    assert (purse.spent("USDC"), purse.spent("SOL")) == (5 * USDC, 5_000)
    await purse.sign(purse.message(make_account(payer=purse.us), purse.pay_token(USDC)))
    assert purse.spent("SOL") == 10_000 + avault.RENT, "what a new account costs is money"
    assert f"make a token account for {BOB} (" in purse.last()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda us: [us.pay(SOL + 1)], "1.000000001 SOL is more than the 1 that may be spent at once"),
        (lambda us: [us.pay(1, EVE)], "no rule lets it pay that address SOL"),
        (lambda us: [us.pay(1), us.pay(1, EVE)], "no rule lets it pay that address SOL"),
        (lambda us: [us.pay_token(5 * USDC + 1)], "5.000001 USDC is more than the 5"),
        (lambda us: [us.pay_token(to=EVE)], "whose owner no rule for USDC names"),
        (lambda us: [us.pay_token(to=BOB)], "whose owner no rule for USDC names"),
        (lambda us: [us.pay_token(decimals=5)], "UNKNOWN token .* 6 decimals by the rule"),
        (lambda us: [make_account(EVE, payer=us.us), us.pay_token()], "no rule lets it pay that address USDC"),
        (lambda us: [make_account(EVE, payer=us.us)], "no rule lets it pay that address USDC"),
        (lambda us: [budget.set_compute_unit_price(10**9), us.pay(1)], "more than the rule's fee"),
        (
            lambda us: [make_account(payer=us.us), make_account(payer=us.us), make_account(payer=us.us)],
            "more than the rule's fee",
        ),
        (lambda us: [Instruction(EVE, b"", []), us.pay(1)], "the program .* can do all"),
        (lambda us: [memo("x", us.us)], "pays nothing"),
    ],
    ids=range(13),
)
async def test_what_no_rule_lets_is_refused(purse: SolanaPurse, make: Any, says: str) -> None:
    await purse.fill()
    await purse.refuse(purse.message(*make(purse)), says)


async def test_what_is_left_is_shown(purse: SolanaPurse) -> None:
    await purse.fill()
    await purse.sign(purse.message(purse.pay(SOL // 2), purse.pay_token(USDC)))
    [wallet] = (await purse.serve("keys", **{"as": "wallet"}))["keys"]
    shown = {each["symbol"]: (each["chain"], each["token"], each["spent"], each["left"]) for each in wallet["limits"]}
    assert shown["SOL"] == ("localnet", None, "0.500005", "1.499995")
    assert shown["USDC"] == ("localnet", str(MINT), "1", "19")


async def test_two_payments_at_once_count_together(purse: SolanaPurse) -> None:
    await purse.fill()
    await purse.sign(purse.message(purse.pay(SOL // 2), purse.pay(SOL // 2)))
    await purse.refuse(purse.message(purse.pay(SOL)), "over the day's limit: 1.000005 SOL of 2, with 0.999995 left")


async def test_two_rules_about_one_mint_count_a_payment_once(purse: SolanaPurse) -> None:
    await purse.fill(RULES[0], "cluster localnet mint SOL to any tx 1 day 1.5 fee 0.005")
    await purse.sign(purse.message(purse.pay(SOL // 2), purse.pay(SOL // 4)))
    assert purse.spent("SOL") == SOL * 3 // 4 + 5_000
    await purse.refuse(purse.message(purse.pay(SOL)), "over the day's limit: 1.000005 SOL of 1.5")


async def test_many_at_once_do_not_spend_more_than_the_day(purse: SolanaPurse) -> None:
    await purse.fill(f"cluster localnet mint SOL to {BOB} tx 1 day 1 fee 0.005")
    asked = [purse.sign(purse.message(purse.pay(SOL // 4))) for _ in range(8)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(each, dict) for each in found) == 3, "with the fee, a fourth quarter is too much"
    assert purse.spent("SOL") == 3 * (SOL // 4 + 5_000)


async def test_a_token_to_anybody_says_to_which_account(purse: SolanaPurse) -> None:
    await purse.fill(f"cluster localnet mint {MINT}:USDC:6 to any tx 5 day 20", RULES[0])
    await purse.sign(purse.message(purse.pay_token(USDC, to=EVE)))
    assert f"pay 1 USDC ({MINT}, 6 decimals) to the token account {EVE}" in purse.last()


async def test_where_another_pays_the_fee_only_the_payment_counts(purse: SolanaPurse) -> None:
    """As with x402: the one who is paid sends it, and signs for the fee."""
    await purse.fill(RULES[1])
    await purse.sign(purse.message(make_account(payer=OTHER.pubkey()), purse.pay_token(), payer=OTHER.pubkey()))
    assert (purse.spent("USDC"), purse.spent("SOL")) == (USDC, 0)


async def test_rules_of_two_clusters_let_nothing(purse: SolanaPurse) -> None:
    """A payment for a cluster for tests is one for the real one, where its blockhash is."""
    await purse.fill(RULES[0], "cluster mainnet mint SOL to any tx 1 day 2 fee 0.005")
    await purse.refuse(purse.message(purse.pay(1)), "a transaction does not say which it is for")


async def test_a_rule_that_asks_asks_the_phone_and_a_no_gives_back(purse: SolanaPurse) -> None:
    await purse.fill(f"{RULES[0]} ask always")
    await purse.sign(purse.message(purse.pay(SOL)))
    assert len(purse.asked) == 1 and f"pay 1 SOL to {BOB} on" in purse.asked[0] and "0 of 2 spent today" in purse.asked[0]
    purse.says = avault.Denied("the operator said no")
    await purse.refuse(purse.message(purse.pay(SOL // 2)), "said no")


async def test_after_the_approval_a_fresh_blockhash_is_put_in(purse: SolanaPurse, monkeypatch: pytest.MonkeyPatch) -> None:
    await purse.fill(f"{RULES[0]} ask always")
    cluster = LiteSVM()
    cluster.airdrop(purse.us, 10 * SOL)
    old = cluster.latest_blockhash()
    told: dict[str, Any] = {"go": True}

    async def frame(**fields: Any) -> dict[str, Any]:
        assert fields == {"approved": True} and purse.asked
        cluster.expire_blockhash()
        return {**told, "blockhash": str(cluster.latest_blockhash())}

    monkeypatch.setattr(purse, "frame", frame, raising=False)
    content = purse.message(purse.pay(SOL), blockhash=old)
    answer = await serve_with(purse, frame, content)
    fresh = avault.put_blockhash(content, bytes(cluster.latest_blockhash()))
    made = VersionedTransaction.populate(MessageV0.from_bytes(fresh[1:]), [Signature.from_string(answer["signature"])])
    assert not hasattr(cluster.send_transaction(made), "err")
    assert cluster.get_balance(BOB) == SOL


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({}, "nobody waits"),
        ({"go": False, "blockhash": "1" * 32}, "nobody waits"),
        ({"go": True, "blockhash": "x"}, "not understood"),
        ({"go": True, "blockhash": 7}, "not understood"),
    ],
)
async def test_a_caller_that_does_not_wait_is_signed_nothing(purse: SolanaPurse, told: dict[str, Any], says: str) -> None:
    await purse.fill()

    async def frame(**fields: Any) -> dict[str, Any]:
        return told

    with pytest.raises(avault.AvaultError, match=says):
        await serve_with(purse, frame, purse.message(purse.pay(SOL)))
    assert purse.spent("SOL") == 0


async def serve_with(purse: SolanaPurse, frame: Any, content: bytes) -> dict[str, Any]:
    """Ask with `confirm`: a caller that says that it waits still."""
    purse.session.frame = frame
    request = {"as": "sol-tx", "group": "pay", "key": "SOL", "payload": avault.encode_base64(content), "confirm": True}
    return dict(await avault.sign_for_solana(purse.keyholder, purse.session, request))


async def test_a_text_is_asked_and_no_transaction(purse: SolanaPurse) -> None:
    await purse.fill(*RULES, "messages ask")
    answer = await purse.sign(b"sign in to example.com", "sol-text")
    assert Signature.from_string(answer["signature"]).verify(purse.us, b"sign in to example.com")
    assert 'sign the message "sign in to example.com"' in purse.asked[0]
    await purse.refuse(purse.message(purse.pay(1)), "no text", "sol-text")
    await purse.refuse(b"text", "not understood", "sol-tx")


async def test_texts_are_signed_only_by_a_rule(purse: SolanaPurse) -> None:
    await purse.fill()
    await purse.refuse(b"text", "no rule lets it sign messages", "sol-text")


@pytest.mark.parametrize("what", [*avault.EVM_USES, "ssh", "sshsig", *avault.NOSTR_USES])
async def test_it_signs_nothing_for_another_chain(purse: SolanaPurse, what: str) -> None:
    await purse.fill(*RULES, "messages ask")
    fields = {"peer": "00" * 32} if what.startswith("nip") else {}
    with pytest.raises(avault.AvaultError):
        await purse.sign(purse.message(purse.pay(1)), what, **fields)
    assert not purse.asked


async def test_rules_of_ethereum_let_nothing_here_nor_these_there(purse: SolanaPurse) -> None:
    await purse.fill("chain 1 token ETH to any tx 1 day 1 fee 1")
    await purse.refuse(purse.message(purse.pay(1)), "no rule lets it spend SOL")
    await purse.serve("key", action="generate", kind="evm", group="pay", key="EVM", wallet=RULES)
    fields = {"to": "0x" + "b0" * 20, "value": "0x1", "chainId": "0x1", "nonce": "0x0", "gas": "0x5208"}
    data = json.dumps({**fields, "maxFeePerGas": "0x1", "maxPriorityFeePerGas": "0x1"}).encode()
    with pytest.raises(avault.Denied, match="no rule"):
        await purse.sign(data, "evm-tx", key="EVM")


@pytest.mark.parametrize(
    "rule",
    [
        "cluster localnet mint SOL day 1 to any",
        "cluster localnet mint SOL to any tx 1",
        "cluster localnet mint SOL to any tx 1 day 1 fee 1 calls ask",
        "cluster moon mint SOL to any tx 1 day 1",
        "cluster localnet mint SOL to any tx 1 day 1 day 2",
        "cluster localnet mint sol to any tx 1 day 1",
        "cluster localnet mint SOL to any tx 1.0000000001 day 1",
        "cluster localnet mint SOL to any tx -1 day 1",
        "cluster localnet mint SOL to any tx 1e3 day 1",
        "cluster localnet mint SOL to bob tx 1 day 1",
        "cluster localnet mint SOL to any tx 1 day 1 ask never",
        f"cluster localnet mint {MINT}:USDC to any tx 1 day 1",
        f"cluster localnet mint {MINT}:SOL:9 to any tx 1 day 1",
        f"cluster localnet mint {MINT}:USDC:6 to any tx 1 day 1 fee 1",
        f"cluster localnet mint {MINT}:USDC:60 to any tx 1 day 1",
        f"cluster localnet mint SOL to {BOB},{BOB} tx 1 day 1",
        f"cluster localnet mint SOL to {BOB}, tx 1 day 1",
    ],
)
async def test_a_rule_with_a_slip_is_none(purse: SolanaPurse, rule: str) -> None:
    assert not avault.is_pay_rule(rule)
    with pytest.raises((avault.Usage, ValueError)):
        await purse.fill(rule)
    with pytest.raises(ValueError):
        avault.arrange_pay_rule(rule)


def test_a_rule_is_kept_in_one_form() -> None:
    said = f"mint SOL fee 0.0050 to {EVE},{BOB}:Bob day 2.0 tx 1 cluster mainnet"
    first, second = sorted([f"{BOB}:Bob", str(EVE)])
    assert avault.arrange_pay_rule(said) == f"cluster mainnet mint SOL to {first},{second} tx 1 day 2 fee 0.005"
    assert (
        str(avault.read_pay_rule(RULES[1]))
        == f"20 USDC ({MINT}, 6 decimals) a day on a Solana cluster for tests, 5 at once to Bob {BOB}"
    )


@pytest.mark.parametrize(
    ("change", "is_less"),
    [
        (("tx 1", "tx 0.5"), True),
        (("day 2", "day 2.5"), False),
        (("fee 0.005", "fee 0.006"), False),
        ((f"{BOB}:Bob", "any"), False),
        ((f"{BOB}:Bob", f"{BOB}:Eve"), False),
        ((f"{BOB}:Bob", f"{BOB}"), True),
        ((f"{BOB}:Bob", f"{EVE}:Bob"), False),
        (("localnet", "mainnet"), False),
        (("fee 0.005", "fee 0.005 ask always"), True),
        (("SOL", f"{MINT}:SOLX:9"), False),
    ],
)
def test_what_lets_more_needs_the_operator(change: tuple[str, str], is_less: bool) -> None:
    rule = RULES[0]
    other = rule.replace(*change)
    if "SOLX" in other:
        other = other.replace(" fee 0.005", "")
    assert avault.are_pay_rules_within([other], [rule]) is is_less
    assert avault.is_pay_rule(other)
