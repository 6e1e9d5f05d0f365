"""The rules of keys that pay, whichever chain they are for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.vault.solana_rules import SOLANA_ORDER, SolanaRule
from avault.vault.wallet_rules import WalletRule, arrange_wallet_rule, trim_amount

if TYPE_CHECKING:
    from collections.abc import Iterable


def is_for_solana(text: str) -> bool:
    """Whether a rule, as it is kept, is for Solana."""
    return text.startswith("cluster ")


def is_for_ethereum(text: str) -> bool:
    """Whether a rule, as it is kept, is for Ethereum and chains like it, or for every key."""
    return not is_for_solana(text)


def read_pay_rule(text: str) -> WalletRule:
    """A rule, as it is kept; raises ValueError."""
    return SolanaRule(text) if is_for_solana(text) else WalletRule(text)


def is_pay_rule(text: str) -> bool:
    """Whether it is a rule, as it is kept."""
    try:
        read_pay_rule(text)
    except ValueError:
        return False
    return True


def arrange_pay_rule(text: str) -> str:
    """A rule as it is kept, of one in any order of its words; raises ValueError."""
    words = text.split()
    pairs = dict(zip(words[::2], words[1::2], strict=False))
    if "cluster" not in pairs:
        return arrange_wallet_rule(text)
    if len(words) != 2 * len(pairs):
        raise ValueError("not words and their values, each once")
    if unknown := next((each for each in pairs if each not in SOLANA_ORDER), None):
        raise ValueError(f"no such word: {unknown}")
    if "to" in pairs:
        pairs["to"] = ",".join(sorted(pairs["to"].split(",")))
    for word in ("tx", "day", "fee"):
        if word in pairs:
            pairs[word] = trim_amount(pairs[word])
    return SolanaRule(
        " ".join(f"{each} {pairs[each]}" for each in SOLANA_ORDER if each in pairs)
    ).text


def are_pay_rules_within(narrow: Iterable[str], wide: Iterable[str]) -> bool:
    """Whether rules let no more than others.

    Each is about something that those are about, and lets no more than any of them on that.
    """
    others = [read_pay_rule(each) for each in wide]
    for each in map(read_pay_rule, narrow):
        same = [other for other in others if other.about() == each.about()]
        if not same or not all(each.lets_no_more_than(other) for other in same):
            return False
    return True


def describe_pay_rules(members: frozenset[str]) -> str:
    """Rules in words."""
    return "; ".join(str(read_pay_rule(each)) for each in sorted(members)) or "nothing"
