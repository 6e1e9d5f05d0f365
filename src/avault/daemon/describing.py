"""What the keyholder tells of itself: what `status` shows of a vault, or of the way to one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from avault.custody.shared import list_given, list_retired
from avault.errors import Denied, Locked
from avault.keys.holding import Holding
from avault.keys.nostr import to_npub
from avault.keys.seal import request_code
from avault.keys.unlocking import Unlocking
from avault.vault.guards import count_guards
from avault.vault.times import render_time

if TYPE_CHECKING:
    from avault.protocol import Message


def describe_keyholder(holding: Holding, unlocking: Unlocking) -> Message:
    """What `status` shows of an open vault, or of the way to one; no secret."""
    store, contact, ratchet = holding.store, holding.contact, holding.ratchet
    signer, is_waiting = contact.signer, unlocking.is_waiting()
    shown, left = ratchet.content or unlocking.shown, holding.time_left()
    digests = {}
    if store:
        digests = {"avault.enc": store.digest, "nsec.enc": holding.recovery.digest}
    return {
        "state": "unlocked" if store else "waiting" if is_waiting else "locked",
        "listening": bool(signer and not store and not is_waiting),
        "since": render_time(holding.autolock.since),
        "until": None if left == float("inf") else render_time(time.time() + max(left, 0)),
        "agent_npub": shown.get("agent"),
        "signer_npub": shown.get("operator"),
        "name": shown.get("name"),
        "identity": shown.get("vault"),
        "consent": describe_consent(holding),
        "custodian": holding.consent.custodian,
        "refused": isinstance(unlocking.refused, Denied),
        "first_operator": to_npub(store.vault.operator) if store else None,
        "operators": {
            name: to_npub(public) for name, public in store.vault.other_operators().items()
        }
        if store
        else None,
        "code": request_code(shown["sealed"]) if shown and not store else None,
        "replicas": sorted(store.vault.facts_of("replica")) if store else None,
        "retired": list_retired(store.vault) if store else None,
        "given": list_given(store.vault) if store else None,
        "writes": not store.trouble if store else None,
        "groups": len(store.vault.groups) if store else None,
        "secrets": store.vault.count() if store else None,
        "guards": count_guards(store.vault.facts) if store else None,
        "proven": bool(ratchet.proven if store else shown.get("proven")),
        "signer_approves_by_itself": contact.pairing.by_itself if contact.pairing else None,
        "relays": list(signer.relays.shown.values()) if signer else contact.relays,
        "waiting": signer.describe() if signer and is_waiting else None,
        "warnings": list(collect_warnings(holding).values()),
        "talking": unlocking.talking,
        "unsaved": "unsaved" in holding.reporter.warnings,
        "verified": digests,
    }


def describe_consent(holding: Holding) -> str | None:
    """Who agrees to changes of custodians: the phone, a custodian, or nobody can."""
    consent, contact = holding.consent, holding.contact
    if contact.pairing or contact.seen:
        return "phone"
    return "custodian" if consent.phoneless else None


def collect_warnings(holding: Holding) -> dict[str, str]:
    """All that the operator should know, by what it is about."""
    store, contact, recovery = holding.store, holding.contact, holding.recovery
    warnings = dict(holding.reporter.warnings)
    if store and isinstance(store.trouble, Locked):
        warnings["file"] = f"{store.trouble.message}; {store.trouble.hint}"
    elif store and store.trouble:
        warnings["file"] = (
            f"{store.trouble.message}; what was loaded before is served, nothing is written;"
            " to write it back: avault restore --unsaved"
        )
    if store and store.remarks.succeeded:
        warnings["first"] = (
            f"{store.remarks.succeeded}: unless you know of that, take its key away from who did"
            " it, on a machine with a phone that you trust: avault rotate agent"
        )
    if store and store.remarks.lacks:
        warnings["lacks"] = f"{store.remarks.lacks}: see avault history, and avault restore"
    if store and store.warning:
        warnings["pin"] = store.warning
    if recovery.warning:
        warnings["nsec.enc"] = recovery.warning
    if store or not contact.signer:
        warnings.pop("ntp", None)  # of use only while an answer does not come
    if contact.signer and contact.signer.remarks.clock:
        warnings["clock"] = contact.signer.remarks.clock
    if store and store.remarks.rollback:
        warnings["rollback"] = (
            f"ROLLED BACK, as --accept-rollback was given: {store.remarks.rollback};"
            " what was written since is missing"
        )
    if contact.pairing and contact.pairing.by_itself:
        warnings["signer"] = (
            "the signer approves by itself, as the drill showed: change its setting, then:"
            " avault drill"
        )
    return warnings
