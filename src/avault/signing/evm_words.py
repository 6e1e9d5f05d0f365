"""What is signed by a key that pays, in words: amounts exact, what is not known called unknown.

Addresses are whole, and nobody has a name: rules, which give names, come without the phone too, on
a new key or a group. A symbol is the rule's, and stands beside the token's address and decimals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.errors import printable
from avault.signing.evm_transactions import DEAREST, OF_THE_OP_STACK, WHOLE_FEES
from avault.signing.ssh_words import quote_words
from avault.vault.evm_address import show_address
from avault.vault.wallet_rules import (
    NATIVE_DECIMALS,
    WalletRule,
    describe_token,
    name_chain,
    name_coin,
)

if TYPE_CHECKING:
    from typing import Any


UNLIMITED = 1 << 95  # of a token's smallest unit: no amount is as much, but in permission for all
LONGEST_SHOWN = 600  # characters of a message


def render_units(amount: int, decimals: int) -> str:
    """An amount in whole units, exactly: 1500000 with 6 decimals is 1.5."""
    whole, rest = divmod(amount, 10**decimals)
    shown = str(rest).rjust(decimals, "0").rstrip("0") if rest else ""
    return f"{whole}.{shown}" if shown else str(whole)


def describe_evm(use: dict[str, Any], name: str, rules: list[WalletRule]) -> str:
    """A use of a key, in words; `rules` are those that name assets.

    Their order is that of what they are about: each that fits says the same, or none counts.
    """
    chain = use["chain"]
    where = name_chain(chain) if chain else "ANY chain"
    does = use["does"]
    if does == "sign-in":
        said = quote_words(use["statement"].encode(), 200)
        saying = f", saying {said}," if use["statement"] else ""
        return (
            f"sign in to {printable(use['domain'], 80)}{saying} with {name} on {where},"
            f" nonce {printable(use['nonce'], 40)}"
        )
    if does == "message":
        text = use["made"]
        more = f" (the first {LONGEST_SHOWN} of {len(text)} characters)"
        is_long = len(text) > LONGEST_SHOWN
        return (
            f"sign the message {quote_words(text.encode(), LONGEST_SHOWN)}"
            f"{more if is_long else ''} with {name}"
        )
    if does == "typed":
        data = use["made"]
        whom = f"for {show_address(data.contract)} " if data.contract else ""
        said = quote_words(str(data.domain.get("name", "")).encode(), 40)
        kind = quote_words(data.primary.encode(), 40)
        return (
            f"sign UNKNOWN typed data {kind} of {said} {whom}on {where},"
            f" which MAY MOVE MONEY, with {name}"
        )
    moves = [describe_move(use, each, rules) for each in use["moves"]]
    if does == "call":
        paid = f", and {moves[0]}" if moves else ""
        contract = show_address(use["to"])
        selector = f"0x{use['selector']}"
        return (
            f"make an UNKNOWN call {selector} ({use['size']} bytes) of {contract}{paid}"
            f" on {where} with {name}{describe_fee(use, rules)}"
        )
    return f"{' and '.join(moves)} on {where} with {name}{describe_fee(use, rules)}"


def describe_fee(use: dict[str, Any], rules: list[WalletRule]) -> str:
    """The most that a transaction costs besides; what has no fee says nothing."""
    chain = use["chain"]
    if not use["fee"]:
        return ""
    coins = {each.symbol for each in rules if (each.chain, each.token) == (chain, b"")}
    symbol = coins.pop() if len(coins) == 1 else "of the chain's own coin"
    more = ", and what that chain takes besides, which is not known"
    if chain in OF_THE_OP_STACK:
        more = f", more if Ethereum is above {DEAREST} gwei"
    elif chain in WHOLE_FEES:
        more = ""
    return f", fee up to {render_units(use['fee'], NATIVE_DECIMALS)} {symbol}{more}"


def describe_move(
    use: dict[str, Any], move: tuple[bytes, bytes, int], rules: list[WalletRule]
) -> str:
    """What is paid to whom, or what who is let take."""
    token, to, amount = move
    known = [each for each in rules if (each.chain, each.token) == (use["chain"], token)]
    who = show_address(to)
    forms = {(each.symbol, each.decimals) for each in known}
    if not token:
        symbol = name_coin(use["chain"])
        shown = f"{render_units(amount, NATIVE_DECIMALS)} {symbol}"
    elif len(forms) == 1:
        symbol, decimals = forms.pop()
        symbol = describe_token(symbol, show_address(token), decimals)
        shown = f"{render_units(amount, decimals)} {symbol}"
    else:
        symbol = f"of the UNKNOWN token {show_address(token)}"
        shown = f"{amount} units {symbol}"
    if use["does"] != "approve":
        return f"pay {shown} to {who}"
    if not amount:
        return f"let {who} take no {symbol} any more"
    how = f"UNLIMITED {symbol}" if amount >= UNLIMITED else f"up to {shown}"
    return f"let {who} take {how} at any time"
