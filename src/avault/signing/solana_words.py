"""What is signed for Solana, in words: amounts exact, names and symbols those of the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.signing.evm_words import LONGEST_SHOWN, render_units
from avault.signing.ssh_words import quote_words
from avault.vault.solana_rules import CLUSTERS, SOL_DECIMALS, SOL_SYMBOL, SolanaRule
from avault.vault.solana_text import decode_base58, encode_base58

if TYPE_CHECKING:
    from typing import Any


def shorten_owner(address: bytes) -> str:
    """The ends of an address, for one that stands beside a name."""
    text = encode_base58(address)
    return f"{text[:6]}…{text[-6:]}"


def describe_solana(use: dict[str, Any], name: str, rules: list[SolanaRule], cluster: str) -> str:
    """A use of a key, in words; `rules` are those for the cluster that they name."""
    if use["as"] == "sol-text":
        text = use["text"]
        is_long = len(text) > LONGEST_SHOWN
        more = f" (the first {LONGEST_SHOWN} of {len(text)} characters)" if is_long else ""
        return f"sign the message {quote_words(text.encode(), LONGEST_SHOWN)}{more} with {name}"
    said = [describe_pay(each, rules) for each in use["pays"]]
    where = CLUSTERS.get(cluster, "an UNKNOWN cluster of Solana")
    memos = [f", with the memo {quote_words(each.encode(), 60)}" for each in use["memos"]]
    fee = f", for a fee of up to {render_units(use['fee'], SOL_DECIMALS)} SOL" if use["fee"] else ""
    return f"{' and '.join(said)} on {where} with {name}{fee}{''.join(memos)}"


def describe_pay(pay: dict[str, Any], rules: list[SolanaRule]) -> str:
    """What is paid to whom."""
    if pay["what"] == "rent":
        amount = render_units(pay["amount"], SOL_DECIMALS)
        whose = decode_base58(pay["owner"], 32)
        return f"make a token account for {name_owner(whose, rules)} ({amount} SOL)"
    mint = decode_base58(pay["mint"], 32) if pay["what"] == "token" else b""
    known = [each for each in rules if each.token == mint]
    forms = {(each.symbol, each.decimals) for each in known}
    if not mint:
        asset = f"{render_units(pay['amount'], SOL_DECIMALS)} {SOL_SYMBOL}"
    elif known and forms == {(known[0].symbol, pay["decimals"])}:
        asset = f"{render_units(pay['amount'], pay['decimals'])} {known[0].symbol}"
    else:
        amount = render_units(pay["amount"], pay["decimals"])
        asset = f"{amount} of the UNKNOWN token {pay['mint']}"
    owner = pay.get("owner") if mint else pay["to"]
    if owner is None:
        return f"pay {asset} to the token account {pay['to']}"
    return f"pay {asset} to {name_owner(decode_base58(owner, 32), known)}"


def name_owner(owner: bytes, rules: list[SolanaRule]) -> str:
    """Who is paid: by name, if the rules have one, and all the same."""
    names = {(each.to or {}).get(owner, "") for each in rules}
    if len(names) == 1 and (named := names.pop()):
        return f"{named} ({shorten_owner(owner)})"
    return encode_base58(owner)
