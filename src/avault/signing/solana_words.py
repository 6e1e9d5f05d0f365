"""What is signed for Solana, in words: amounts exact, addresses whole, and no names.

A symbol is the rule's, and stands beside the mint's address and its decimals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.signing.evm_words import LONGEST_SHOWN, render_units
from avault.signing.ssh_words import quote_words
from avault.vault.solana_rules import CLUSTERS, SOL_DECIMALS, SOL_SYMBOL, SolanaRule
from avault.vault.solana_text import decode_base58
from avault.vault.wallet_rules import describe_token

if TYPE_CHECKING:
    from typing import Any


WIDEST_DECIMALS = 255  # a mint has them in a byte


def describe_solana(use: dict[str, Any], name: str, rules: list[SolanaRule], cluster: str) -> str:
    """A use of a key, in words; `rules` are those for the cluster that they name."""
    if use["as"] == "sol-text":
        text = use["text"]
        is_long = len(text) > LONGEST_SHOWN
        more = f" (the first {LONGEST_SHOWN} of {len(text)} characters)" if is_long else ""
        return f"sign the message {quote_words(text.encode(), LONGEST_SHOWN)}{more} with {name}"
    said = [describe_pay(each, rules) for each in sum_pays(use["pays"])]
    where = CLUSTERS.get(cluster, "an UNKNOWN cluster of Solana")
    memos = [f", with the memo {quote_words(each.encode(), 60)}" for each in use["memos"]]
    fee = f", for a fee of up to {render_units(use['fee'], SOL_DECIMALS)} SOL" if use["fee"] else ""
    return f"{' and '.join(said)} on {where} with {name}{fee}{''.join(memos)}"


def sum_pays(pays: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Payments of one asset to one payee as one, the largest first: none is lost among others."""
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    for each in pays:
        which = tuple(each.get(field) for field in ("what", "mint", "decimals", "owner", "to"))
        before = found.get(which, {"amount": 0})
        found[which] = {**each, "amount": before["amount"] + each["amount"]}

    def size(pay: dict[str, Any]) -> tuple[bool, int]:
        decimals = pay["decimals"] if pay["what"] == "token" else SOL_DECIMALS
        return pay["what"] == "rent", -pay["amount"] * 10 ** (WIDEST_DECIMALS - decimals)

    return sorted(found.values(), key=size)


def describe_pay(pay: dict[str, Any], rules: list[SolanaRule]) -> str:
    """What is paid to whom."""
    if pay["what"] == "rent":
        amount = render_units(pay["amount"], SOL_DECIMALS)
        return f"make a token account for {pay['owner']} ({amount} SOL)"
    mint = decode_base58(pay["mint"], 32) if pay["what"] == "token" else b""
    known = [each for each in rules if each.token == mint]
    forms = {(each.symbol, each.decimals) for each in known}
    if not mint:
        asset = f"{render_units(pay['amount'], SOL_DECIMALS)} {SOL_SYMBOL}"
    elif known and forms == {(known[0].symbol, pay["decimals"])}:
        token = describe_token(known[0].symbol, pay["mint"], pay["decimals"])
        asset = f"{render_units(pay['amount'], pay['decimals'])} {token}"
    else:
        amount = render_units(pay["amount"], pay["decimals"])
        asset = f"{amount} of the UNKNOWN token {pay['mint']}"
    owner = pay.get("owner") if mint else pay["to"]
    if owner is None:
        return f"pay {asset} to the token account {pay['to']}"
    return f"pay {asset} to {owner}"
