"""What a guard says of keys that pay on Solana: how much of what, to whom.

A rule is a text of words and their values, in one order:

    cluster mainnet mint SOL to any tx 0.1 day 0.5 fee 0.005
    cluster mainnet mint EPjF…Dt1v:USDC:6 to 4Nd1…9pQz:Bob tx 5 day 20 ask always

A transaction does not say for which cluster it is: a key's rules all name the same one.
"""

from __future__ import annotations

from avault.vault.solana_text import decode_base58, encode_base58
from avault.vault.wallet_rules import (
    ANYBODY,
    LONGEST_RULE,
    NAME_LETTERS,
    WalletRule,
    describe_token,
    read_amount,
    read_bounded,
)

CLUSTERS = {  # as a rule says it, and as people call them
    "mainnet": "Solana",
    "devnet": "Solana's devnet",
    "testnet": "Solana's testnet",
    "localnet": "a Solana cluster for tests",
}
SOLANA_ORDER = ("cluster", "mint", "to", "tx", "day", "fee", "ask")
SOL_SYMBOL, SOL_DECIMALS = "SOL", 9
MOST_DECIMALS = 18


class SolanaRule(WalletRule):
    """One, read: as a `WalletRule` of an asset, with the `cluster`, and the mint as `token`.

    `fee` bounds the fee of a transaction, and what is paid to make token accounts in it, together.
    Raises ValueError.
    """

    chain, is_asset = None, True
    calls: frozenset[tuple[bytes, str]] = frozenset()

    def __init__(self, text: str) -> None:
        words = text.split(" ")
        found = dict(zip(words[::2], words[1::2], strict=False))
        order = [each for each in SOLANA_ORDER if each in found]
        if len(text) > LONGEST_RULE or len(words) != 2 * len(found) or [*found] != order:
            said = ", ".join(SOLANA_ORDER)
            raise ValueError(f"not words and their values, each once, in this order: {said}")
        if found.get("cluster") not in CLUSTERS or not {"mint", "day"} <= {*found}:
            raise ValueError(f"a rule has a cluster ({', '.join(CLUSTERS)}), a mint and a day")
        self.text, self.found = text, found
        self.token, self.symbol, self.decimals = read_mint(found["mint"])
        if (self.token and "fee" in found) or found.get("ask", "always") != "always":
            raise ValueError("a fee is of SOL; ask always")
        if ("to" in found) != ("tx" in found):
            raise ValueError("who is paid, and how much at once, go together")
        self.to = read_owners(found.get("to", ""))
        self.tx = read_amount(found.get("tx", "0"), self.decimals)
        self.day = read_amount(found["day"], self.decimals)
        self.fee = read_amount(found.get("fee", "0"), self.decimals)
        self.asks = "ask" in found

    @property
    def cluster(self) -> str:
        """For which cluster it is."""
        return self.found["cluster"]

    def about(self) -> tuple[object, ...]:
        """What it is about: of rules about the same, all count."""
        return self.cluster, "asset", self.token

    def __str__(self) -> str:
        """In words: addresses whole, as an operator agrees to them."""
        asset = self.symbol
        if self.token:
            asset = describe_token(self.symbol, encode_base58(self.token), self.decimals)
        words = [f"{self.found['day']} {asset} a day on {CLUSTERS[self.cluster]}"]
        if "tx" in self.found:
            words.append(f"{self.found['tx']} at once to {describe_owners(self.to)}")
        if "fee" in self.found:
            words.append(f"{self.found['fee']} for fees and new accounts")
        words += ["each asked by phone"] if self.asks else []
        return ", ".join(words)


def read_mint(text: str) -> tuple[bytes, str, int]:
    """The address of a mint, its symbol and decimals; b"" for SOL. Raises ValueError."""
    if text == SOL_SYMBOL:
        return b"", SOL_SYMBOL, SOL_DECIMALS
    address, _, rest = text.partition(":")
    symbol, _, decimals = rest.partition(":")
    if not 0 < len(symbol) <= 12 or {*symbol} - NAME_LETTERS or symbol.upper() == SOL_SYMBOL:
        raise ValueError("a mint is SOL, or ADDRESS:SYMBOL:DECIMALS")
    return decode_base58(address, 32), symbol, read_bounded(decimals, MOST_DECIMALS, least=0)


def read_owners(text: str) -> dict[bytes, str] | None:
    """Names by address, None for anybody; raises ValueError. They stand in order, each once."""
    if text == ANYBODY:
        return None
    found: dict[bytes, str] = {}
    parts = text.split(",") if text else []
    for each in parts:
        address, colon, name = each.partition(":")
        if (colon and not 0 < len(name) <= 24) or {*name} - NAME_LETTERS:
            raise ValueError("a name has 1 to 24 letters and digits")
        found[decode_base58(address, 32)] = name
    if parts != sorted(parts) or len(found) != len(parts):
        raise ValueError("who is paid stands in order, each once")
    return found


def describe_owners(to: dict[bytes, str] | None) -> str:
    """Who may be paid, in words."""
    if to is None:
        return "anybody"
    shown = [f"{name} {encode_base58(each)}".lstrip() for each, name in to.items()]
    return " or ".join(shown) or "nobody"
