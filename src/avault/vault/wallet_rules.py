"""What a guard says of keys that pay: how much of what, to whom, on which chain.

A rule is a text of words and their values, in one order. It is about an asset:

    chain 8453 token 0x8335…2913:USDC:6 to 0x7099…79c8:Bob tx 5 day 20
    chain 8453 token ETH to any tx 0.01 day 0.05 fee 0.001 ask always

or about what else a key signs: `chain 8453 calls ask`, `chain 8453 calls 0xADDRESS:0xSELECTOR`,
`chain 8453 typed ask`, `chain 8453 typed 0xADDRESS`, `messages ask`. What no rule names is not
signed. Of several that are about the same, all count.
"""

from __future__ import annotations

from avault.vault.evm_address import HEX_DIGITS, parse_address, show_address
from avault.vault.names import DIGITS, LETTERS

ANYBODY = "any"
CHAINS = {  # ids, as people call them (https://chainid.network)
    1: "Ethereum",
    10: "Optimism",
    56: "BNB Chain",
    100: "Gnosis",
    137: "Polygon",
    8453: "Base",
    42161: "Arbitrum",
    43114: "Avalanche",
    31337: "a chain for tests",
    84532: "Base Sepolia",
    11155111: "Sepolia",
}
COINS = {  # a chain's own, by its id
    1: "ETH",
    10: "ETH",
    56: "BNB",
    100: "xDAI",
    137: "POL",
    8453: "ETH",
    42161: "ETH",
    43114: "AVAX",
}
COIN = "COIN"  # of any other chain
ORDER = ("chain", "token", "to", "tx", "day", "fee", "approve", "ask", "calls", "typed", "messages")
OF_ASSET = frozenset({"chain", "token", "to", "tx", "day", "fee", "approve", "ask"})
HIGHEST_CHAIN = 1 << 53
NATIVE_DECIMALS = 18
LONGEST_RULE = 1_000  # characters
LONGEST_AMOUNT = 90
NAME_LETTERS = LETTERS | DIGITS | set("._-")
TRANSFER, TRANSFER_FROM = "a9059cbb", "23b872dd"
APPROVE, INCREASE = "095ea7b3", "39509351"
MONEY_SELECTORS = {TRANSFER, TRANSFER_FROM, APPROVE, INCREASE, "d505accf"}  # the last is permit
OTHER_MONEY = {  # not decoded, and known to move tokens, or to let others
    "1296ee62", "4000aea0",  # transferAndCall (ERC-1363, ERC-677)
    "d8fbe994", "c1d34b89",  # transferFromAndCall
    "3177029f", "cae9ca51",  # approveAndCall
    "a22cb465",  # setApprovalForAll (ERC-721, ERC-1155)
    "42842e0e", "b88d4fde", "f242432a", "2eb2c2d6",  # safeTransferFrom, safeBatchTransferFrom
    "9bd9bbc6", "959b8c3f",  # send, authorizeOperator (ERC-777)
    "8fcbaf0c",  # permit of DAI's
    "87517c45", "36c78516",  # approve, transferFrom of Permit2
}  # fmt: skip


class WrongCoin(ValueError):
    """The chain's own coin by another name than it has here; `right` is the rule's word for it."""

    def __init__(self, chain: int, name: str) -> None:
        super().__init__(f"{name} without an address is the chain's own coin, called otherwise")
        other = "token 0xADDRESS:SYMBOL:DECIMALS"
        self.right = f"token {name_coin(chain)}; or of another token: {other}"


class WalletRule:
    """One, read: of an asset `token` is its address (b"" for the chain's own coin).

    `to` is None for anybody, else names by address ("" without one); `tx`, `day` and `fee` are in
    the asset's smallest unit, `tx` 0 where nothing may be paid. `calls` are (address, selector),
    None for none; empty with `asks`. Raises ValueError.
    """

    def __init__(self, text: str) -> None:
        words = text.split(" ")
        found = dict(zip(words[::2], words[1::2], strict=False))
        order = [each for each in ORDER if each in found]
        if len(text) > LONGEST_RULE or len(words) % 2 or [*found] != order or "" in words:
            raise ValueError(f"not words and their values, in this order: {', '.join(ORDER)}")
        if len(found) * 2 != len(words):
            raise ValueError("a word stands twice")
        self.found = found
        self.chain = read_bounded(found["chain"], HIGHEST_CHAIN) if "chain" in found else None
        self.is_asset = "token" in found
        self.token, self.symbol, self.decimals = b"", "", NATIVE_DECIMALS
        self.calls: frozenset[tuple[bytes, str]] = frozenset()
        if self.is_asset:
            self.read_asset()
        elif {*found} == {"chain", "calls"} and self.chain:
            self.calls = read_calls(found["calls"])
        elif {*found} == {"chain", "typed"} and self.chain:
            read_contracts(found["typed"])
        elif found != {"messages": "ask"}:
            raise ValueError("about no asset, no calls, no typed data, no messages")
        self.asks = not self.calls if not self.is_asset else "ask" in found

    def read_asset(self) -> None:
        """Read what is about an asset."""
        found = self.found
        if not {*found} <= OF_ASSET or not self.chain or "day" not in found:
            raise ValueError("an asset has a chain, and a limit for a day")
        if found.get("ask", "always") != "always" or found.get("approve", "ask") != "ask":
            raise ValueError("ask always, approve ask")
        first, colon, rest = found["token"].partition(":")
        self.symbol = coin = name_coin(self.chain)
        if colon:
            self.token = read_address(first)
            self.symbol, _, decimals = rest.partition(":")
            self.decimals = read_bounded(decimals, 36, least=0)
            if self.symbol.upper() == coin.upper():
                raise ValueError(f"{coin} is the chain's own coin, and no token")
        elif first != coin:
            raise WrongCoin(self.chain, first)
        if not 0 < len(self.symbol) <= 12 or {*self.symbol} - NAME_LETTERS:
            raise ValueError("a token has a symbol, and one with an address its decimals")
        if (self.token and "fee" in found) or (not self.token and "approve" in found):
            raise ValueError("a fee is of the chain's own coin, an allowance of another token")
        self.to = read_payees(found.get("to", ""))
        self.tx = read_amount(found.get("tx", "0"), self.decimals)
        self.day = read_amount(found["day"], self.decimals)
        self.fee = read_amount(found.get("fee", "0"), self.decimals)
        if ("to" in found) != ("tx" in found):
            raise ValueError("who is paid, and how much at once, go together")

    @property
    def contracts(self) -> frozenset[bytes]:
        """For which contracts typed data is let, each asked for; none where it is for any."""
        return read_contracts(self.found.get("typed", "ask"))

    def about(self) -> tuple[object, ...]:
        """What it is about: of rules about the same, all count."""
        if self.is_asset:
            return self.chain, "asset", self.token
        what = next(each for each in ("calls", "typed", "messages") if each in self.found)
        return self.chain, what

    def lets_no_more_than(self, other: WalletRule) -> bool:
        """Whether all that it lets another lets, which is about the same.

        To give somebody a name, or another one, is more: whoever reads it may believe it.
        """
        if not self.is_asset:
            if other.contracts:
                return bool(self.contracts) and self.contracts <= other.contracts
            if self.chain and not other.asks:
                return self.calls <= other.calls and not self.asks
            return self.asks or not other.asks
        same = (self.symbol, self.decimals) == (other.symbol, other.decimals)
        less = self.tx <= other.tx and self.day <= other.day and self.fee <= other.fee
        named = other.to if other.to is not None else dict.fromkeys(self.to or (), "")
        to = self.to is not None and all(
            each in named and name in ("", named[each]) for each, name in self.to.items()
        )
        to = to or (self.to is None and other.to is None)
        asks = self.asks or not other.asks
        approves = "approve" in other.found or "approve" not in self.found
        return same and less and to and asks and approves

    def __str__(self) -> str:
        """In words: addresses whole, as an operator agrees to them."""
        where = name_chain(self.chain) if self.chain else ""
        if not self.is_asset:
            if not self.chain:
                return "messages, each asked by phone"
            if "typed" in self.found:
                of = " or ".join(map(show_address, sorted(self.contracts))) or "any contract"
                return f"typed data for {of} on {where}, each asked by phone"
            shown = [f"{show_address(each)}:0x{selector}" for each, selector in sorted(self.calls)]
            return f"calls on {where}" + (f" of {' and '.join(shown)}" if shown else ", asked")
        asset = self.symbol
        if self.token:
            asset = describe_token(self.symbol, show_address(self.token), self.decimals)
        words = [f"{self.found['day']} {asset} a day on {where}"]
        if "tx" in self.found:
            words.append(f"{self.found['tx']} at once to {describe_payees(self.to)}")
        if "fee" in self.found:
            words.append(f"{self.found['fee']} as a fee")
        words += ["allowances, asked"] if "approve" in self.found else []
        words += ["each asked by phone"] if self.asks else []
        return ", ".join(words)


def read_bounded(text: str, most: int, least: int = 1) -> int:
    """A number as it is written; raises ValueError."""
    if not text.isascii() or not text.isdigit() or len(text) > 20 or text != str(int(text)):
        raise ValueError("not a number")
    if not least <= int(text) <= most:
        raise ValueError("a number that is too large, or too small")
    return int(text)


def read_amount(text: str, decimals: int) -> int:
    """An amount in whole units, as in 20 or 0.5, in the smallest unit; raises ValueError."""
    whole, dot, rest = text.partition(".")
    if len(text) > LONGEST_AMOUNT or not text.isascii() or not whole.isdigit():
        raise ValueError("not an amount, as in 20 or 0.5")
    if whole != str(int(whole)) or (dot and (not rest.isdigit() or rest[-1] == "0")):
        raise ValueError("not an amount, as in 20 or 0.5")
    if len(rest) > decimals:
        raise ValueError(f"an amount with more than {decimals} decimals")
    scale: int = 10**decimals
    return int(whole) * scale + (int(rest.ljust(decimals, "0")) if rest else 0)


def trim_amount(text: str) -> str:
    """An amount without the zeros at the end of its decimals; what is none stays as it is."""
    whole, dot, rest = text.partition(".")
    if not dot or not rest.isdigit():
        return text
    return f"{whole}.{rest.rstrip('0')}".rstrip(".")


def read_address(text: str) -> bytes:
    """An address in small letters, as rules are kept; raises ValueError."""
    if text != text.lower():
        raise ValueError("an address in small letters")
    return parse_address(text)


def read_payees(text: str) -> dict[bytes, str] | None:
    """Names by address, None for anybody; raises ValueError. They stand in order, each once."""
    if text == ANYBODY:
        return None
    found: dict[bytes, str] = {}
    for each in text.split(",") if text else ():
        address, colon, name = each.partition(":")
        if (colon and not 0 < len(name) <= 24) or {*name} - NAME_LETTERS:
            raise ValueError("a name has 1 to 24 letters and digits")
        found[read_address(address)] = name
    if [*found] != sorted(found) or len(found) != len(text.split(",") if text else ()):
        raise ValueError("who is paid stands in order, each once")
    return found


def read_calls(text: str) -> frozenset[tuple[bytes, str]]:
    """Addresses and selectors; none for `ask`. Raises ValueError, also for what moves tokens."""
    if text == "ask":
        return frozenset()
    found = []
    for each in text.split(","):
        address, _, selector = each.partition(":")
        if len(selector) != 10 or selector[:2] != "0x" or {*selector[2:]} - HEX_DIGITS:
            raise ValueError("a call is 0xADDRESS:0xSELECTOR")
        if selector[2:] in MONEY_SELECTORS | OTHER_MONEY or selector != selector.lower():
            raise ValueError("what moves a token is let by a rule with token")
        found.append((read_address(address), selector[2:]))
    if found != sorted({*found}):
        raise ValueError("calls stand in order, each once")
    return frozenset(found)


def read_contracts(text: str) -> frozenset[bytes]:
    """Addresses; none for `ask`. Raises ValueError."""
    if text == "ask":
        return frozenset()
    found = [read_address(each) for each in text.split(",")]
    if found != sorted({*found}):
        raise ValueError("contracts stand in order, each once")
    return frozenset(found)


def arrange_wallet_rule(text: str) -> str:
    """A rule as it is kept, of one in any order of its words; raises ValueError for what is none.

    Addresses are in small letters then, and those that have a checksum are held against it.
    """
    words = text.split()
    pairs = dict(zip(words[::2], words[1::2], strict=False))
    if len(words) % 2 or len(pairs) * 2 != len(words):
        raise ValueError("not words and their values, each once")
    for word, split in (("token", 1), ("to", None), ("calls", None), ("typed", None)):
        if word in pairs:
            parts = pairs[word].split(",") if split is None else [pairs[word]]
            pairs[word] = ",".join(sorted(map(lower_address, parts)))
    for word in ("tx", "day", "fee"):
        if word in pairs:
            pairs[word] = trim_amount(pairs[word])
    if unknown := next((each for each in pairs if each not in ORDER), None):
        raise ValueError(f"no such word: {unknown}")
    arranged = " ".join(f"{each} {pairs[each]}" for each in ORDER if each in pairs)
    WalletRule(arranged)
    return arranged


def lower_address(text: str) -> str:
    """A part of a rule with its address in small letters; raises ValueError for a mistyped one."""
    address, colon, rest = text.partition(":")
    if not address.startswith("0x"):
        return text
    return f"0x{parse_address(address).hex()}{colon}{rest.lower() if rest[:2] == '0x' else rest}"


def name_chain(chain: int) -> str:
    """What people call a chain, with its number where that is not known to all."""
    return CHAINS.get(chain, f"the chain {chain}")


def name_coin(chain: int) -> str:
    """What a chain's own coin is called, in a rule and in words."""
    return COINS.get(chain, COIN)


def describe_token(symbol: str, address: str, decimals: int) -> str:
    """A token in words: by a rule's symbol, and by what nobody can choose, whole."""
    return f"{symbol} ({address}, {decimals} decimals)"


def describe_payees(to: dict[bytes, str] | None) -> str:
    """Who may be paid, in words."""
    if to is None:
        return "anybody"
    shown = [f"{name} {show_address(each)}".lstrip() for each, name in to.items()]
    return " or ".join(shown) or "nobody"
