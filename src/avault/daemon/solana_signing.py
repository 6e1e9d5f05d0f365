"""Payments on Solana, by the one request behind all that signs; see daemon/wallet_signing.

A transaction names no cluster and no owner of a token account. The cluster is the one that all the
rules of a key name; an owner is found again by making the account of each that the rules name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.daemon.gate import Passage
from avault.daemon.signing import admit_key
from avault.daemon.wallet_signing import (
    WAY_FOR_WALLETS,
    Payment,
    Verdict,
    sign_payment,
)
from avault.daemon.wire import Session
from avault.errors import Denied, Usage
from avault.keys.keyholder import Keyholder
from avault.signing.solana_accounts import find_token_account
from avault.signing.solana_messages import put_blockhash
from avault.signing.solana_uses import LONGEST_SOLANA, decode_solana
from avault.signing.solana_words import describe_solana
from avault.ssh_wire import decode_base64, encode_base64
from avault.vault.pay_rules import read_pay_rule
from avault.vault.solana_rules import SolanaRule
from avault.vault.solana_text import decode_base58, encode_base58
from avault.vault.spent import identify_account
from avault.vault.wallet_rules import WalletRule

if TYPE_CHECKING:
    from typing import Any

    from avault.protocol import Message


class SolanaVerdict(Verdict):
    """What rules let of a use for Solana; raises Denied."""

    def __init__(self, use: dict[str, Any], sets: list[frozenset[str]], public: bytes) -> None:
        self.use = {"does": "transfer", **use}
        self.public, self.asks, self.costs = public, False, []
        self.sums, self.moved = {}, {}
        if not sets:
            raise Denied("no rule lets it sign anything")
        for rules in ([read_pay_rule(each) for each in sorted(members)] for members in sets):
            self.weigh_for_solana(rules)

    def weigh_for_solana(self, rules: list[WalletRule]) -> None:
        """Hold the use against the rules of one guard."""
        if self.use["as"] == "sol-text":
            if not any(each.about() == (None, "messages") for each in rules):
                raise Denied("no rule lets it sign messages")
            self.asks = True
            return
        mine = [each for each in rules if isinstance(each, SolanaRule)]
        for pay in self.use["pays"]:
            self.weigh_pay(mine, pay)
        if spent := self.use["fee"] + sum_rents(self.use):
            for each in find_rules(mine, b""):
                if spent > each.fee:
                    raise Denied("fees and new accounts cost more than the rule's fee")
                self.add(each, spent)

    def weigh_pay(self, rules: list[SolanaRule], pay: dict[str, Any]) -> None:
        """Hold one payment against the rules; to make an account pays its owner, if nothing."""
        is_sol, is_rent = pay["what"] == "sol", pay["what"] == "rent"
        same = find_rules(rules, b"" if is_sol else decode_base58(pay["mint"], 32))
        to = pay["to"] if is_sol else pay["owner"] or pay["to"]
        for each in same:
            if not is_sol and not is_rent and pay["decimals"] != each.decimals:
                raise Denied(f"{each.symbol} has {each.decimals} decimals by the rule")
            if each.to is not None and not is_sol and pay["owner"] is None:
                raise Denied(f"it pays a token account whose owner no rule for {each.symbol} names")
            self.weigh_move(each, decode_base58(to, 32), 0 if is_rent else pay["amount"])

    def add(self, rule: WalletRule, amount: int) -> None:
        """Count an amount of a rule's asset."""
        if amount:
            super().add(rule, amount)

    def account_of(self, rule: WalletRule) -> str:
        """The account of a rule's asset."""
        return solana_account(self.public, rule)


def solana_account(public: bytes, rule: WalletRule) -> str:
    """The account of a key's asset: the same under every name, and on every machine."""
    return identify_account("solana", public.hex(), str(rule.about()[0]), rule.token.hex())


def find_rules(rules: list[SolanaRule], token: bytes) -> list[SolanaRule]:
    """The rules about a mint, or SOL for b""; raises Denied where there is none."""
    found = [each for each in rules if each.token == token]
    if not found:
        what = f"the token {encode_base58(token)}" if token else "SOL"
        raise Denied(f"no rule lets it spend {what}")
    return found


def sum_rents(use: dict[str, Any]) -> int:
    """What new token accounts cost, in lamports."""
    return sum(each["amount"] for each in use["pays"] if each["what"] == "rent")


def read_solana_rules(sets: list[frozenset[str]]) -> tuple[list[SolanaRule], str]:
    """The rules for Solana of all guards, and the one cluster that they name; raises Denied.

    What is signed for one cluster is good on each, where its blockhash is.
    """
    found = [read_pay_rule(each) for members in sets for each in sorted(members)]
    mine = [each for each in found if isinstance(each, SolanaRule)]
    clusters = sorted({each.cluster for each in mine})
    if len(clusters) > 1:
        said = " and ".join(clusters)
        raise Denied(f"its rules name {said}, and a transaction does not say which it is for")
    return mine, "".join(clusters)


def recognize_owners(use: dict[str, Any], rules: list[SolanaRule]) -> None:
    """Find whose token accounts are paid, among the owners that rules name."""
    for pay in use.get("pays", ()):
        if pay["what"] != "token" or pay["owner"] is not None:
            continue
        mint = decode_base58(pay["mint"], 32)
        owners = {each for rule in rules if rule.token == mint for each in rule.to or ()}
        for owner in map(encode_base58, sorted(owners)):
            if find_token_account(owner, pay["mint"], pay["program"]) == pay["to"]:
                pay["owner"] = owner


async def sign_for_solana(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """The answer to a request to sign for Solana."""
    return await sign_payment(keyholder, session, request, SolanaPayment)


class SolanaPayment(Payment):
    """One use of a key that pays on Solana, until it is signed or refused."""

    LONGEST = LONGEST_SOLANA

    def admit(self, reserved: Passage | None = None) -> tuple[Passage, Verdict]:
        """What the rules, as they are now, let of it; raises AvaultError."""
        if self.session.grant:
            self.session.grant.check_request("sign")
        use, public = decode_solana(self.said), str(self.said["public"])
        rules, passage = admit_key(self.keyholder, self.name, public, WAY_FOR_WALLETS, reserved)
        mine, cluster = read_solana_rules(rules.named["wallet"])
        recognize_owners(use, mine)
        self.noted["signed"] = describe_solana(use, self.name, mine, cluster)
        try:
            return passage, SolanaVerdict(use, rules.named["wallet"], decode_base64(public, 32))
        except Denied as error:
            why = f"{self.name} may not {self.noted['signed']}: {error.message}"
            raise Denied(why, f"see what it may: avault guard {self.name}") from None

    def complete(self, told: Message) -> None:
        """Put a fresh blockhash into a transaction, if it was said; raises Usage.

        One lives about a minute, and a person may take longer.
        """
        if told.get("blockhash") is None:
            return
        if self.said["as"] != "sol-tx":
            raise Usage("only a transaction has a blockhash")
        content = decode_base64(self.said["payload"], LONGEST_SOLANA)
        try:
            fresh = put_blockhash(content, decode_base58(told["blockhash"], 32))
        except ValueError as error:
            raise Usage(f"not understood, so not signed: {error}") from None
        self.said["payload"] = encode_base64(fresh)
