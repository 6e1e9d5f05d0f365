"""Keys that pay, as a client sees them: their addresses, and what is left of their limits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from avault.daemon.signing import look_at_keys, serve_signing_keys
from avault.daemon.solana_signing import solana_account
from avault.daemon.wallet_signing import WAY_FOR_WALLETS, account_of
from avault.daemon.wire import Session
from avault.keys.keyholder import Keyholder
from avault.protocol import refuse_unknown
from avault.signing.evm_words import render_units
from avault.vault.evm_address import show_address
from avault.vault.pay_rules import is_for_ethereum, is_for_solana, read_pay_rule
from avault.vault.signing_keys import way_of_kind
from avault.vault.solana_rules import SolanaRule
from avault.vault.solana_text import encode_base58
from avault.vault.spent import find_release, sum_spent
from avault.vault.times import render_time

if TYPE_CHECKING:
    from typing import Any

    from avault.protocol import Message
    from avault.vault.rules import Rules
    from avault.vault.wallet_rules import WalletRule

SOLANA_PUBLIC = 32  # bytes of a key's public half; Ethereum's addresses have 20


async def serve_keys(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """The keys that may sign by a way: of those that pay, with what is left of their limits."""
    if request.get("as") != WAY_FOR_WALLETS:
        return await serve_signing_keys(keyholder, session, request)
    refuse_unknown(request, frozenset({"as"}))
    if session.grant:
        session.grant.check_way("sign")
    vault = keyholder.open_store().vault
    guards = keyholder.gate.look(vault)
    rows = []
    for name, key in look_at_keys(keyholder, vault, session.grant).items():
        if way_of_kind(key.kind) == WAY_FOR_WALLETS:
            rules = guards.rules_of(guards.of(name))
            limits = describe_spending(vault.facts, key.blob, rules)
            rows.append({"name": name, **key.to_dict(), "rules": str(rules), "limits": limits})
    return {"ok": True, "keys": rows}


def describe_spending(facts: dict[str, Any], public: bytes, rules: Rules) -> list[dict[str, Any]]:
    """Of each asset that rules name, how much a day, and what of that is spent: the lowest."""
    found: dict[tuple[object, ...], WalletRule] = {}
    is_for = is_for_solana if len(public) == SOLANA_PUBLIC else is_for_ethereum
    texts = [each for members in rules.named["wallet"] for each in sorted(members) if is_for(each)]
    for each in map(read_pay_rule, texts):
        if each.is_asset:
            before = found.get(each.about())
            found[each.about()] = each if not before or each.day < before.day else before
    return [describe_limit(facts, public, each) for each in found.values()]


def describe_limit(facts: dict[str, Any], public: bytes, rule: WalletRule) -> dict[str, Any]:
    """An asset's limit for a day, what is spent and left of it, and when some is free again."""
    is_solana = isinstance(rule, SolanaRule)
    account = (solana_account if is_solana else account_of)(public, rule)
    show, now = encode_base58 if is_solana else show_address, time.time()
    spent, until = sum_spent(facts, account, now), find_release(facts, account, now)
    amounts = {"day": rule.day, "spent": spent, "left": max(rule.day - spent, 0)}
    return {
        "chain": rule.cluster if isinstance(rule, SolanaRule) else rule.chain,
        "token": show(rule.token) if rule.token else None,
        "symbol": rule.symbol,
        **{name: render_units(amount, rule.decimals) for name, amount in amounts.items()},
        "until": render_time(until) if until else None,
    }
