"""What a client may ask about grants: to make one, to see them, to end them. Never through one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avault.daemon.grant import Grant, Pause, check_grant_name, read_grant
from avault.daemon.restraint import who_asks
from avault.daemon.wire import Session
from avault.errors import Usage
from avault.keys.keyholder import Keyholder
from avault.protocol import refuse_unknown
from avault.vault.records import Vault

if TYPE_CHECKING:
    from avault.keys.keyholder import Answer
    from avault.protocol import Message


def find_not_there(vault: Vault, grant: Grant) -> list[str]:
    """What a grant names that is not in the vault, or not yet."""
    only = [each.partition("/") for each in sorted(grant.share.only)]
    return [each for each in sorted(grant.share.groups) if each not in vault.groups] + [
        f"{group}/{key}"
        for group, _, key in only
        if group not in vault.groups or key not in vault.groups[group].keys
    ]


def summarize_grant(grant: Grant) -> Message:
    """What the access log says of one."""
    named = {"groups": sorted(grant.share.groups), "only": sorted(grant.share.only)}
    return {"op": "grant", "for": grant.name, **named}


async def serve_grant(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Make a grant; or one that ends with the connection that it was made on (`stay`)."""
    grant = read_grant(request, os.getuid())
    if request.get("stay") and session.ended:
        raise Usage("a grant ends with this connection already", "make the other on another one")
    if grant.asks:
        keyholder.openers.need_pairing(keyholder.open_store())
    keyholder.release(session, summarize_grant(grant))
    if grant.asks:
        maker = who_asks(session.caller or keyholder.identify(session))
        grant.pause = keyholder.grants.pauses.setdefault(maker, Pause())
    await keyholder.grants.make(grant)
    if request.get("stay"):

        def end() -> None:
            if not grant.is_ended and not keyholder.ended.is_set():
                keyholder.grants.end([grant])

        session.ended = end
        if session.transport.is_closing():
            end()
    missing = find_not_there(keyholder.open_store().vault, grant)
    return {"ok": True, "grant": grant.describe(), "missing": missing}


def serve_grants(keyholder: Keyholder, session: Session, request: Message) -> Answer:
    """The grants there are; with the format `names` their names, a line each."""
    refuse_unknown(request, frozenset({"format"}))
    keyholder.open_store()
    keyholder.grants.end_over()
    known = sorted(keyholder.grants.known.values(), key=lambda each: each.name)
    if request.get("format") == "names":
        return {"ok": True, "output": "".join(f"{each.name}\n" for each in known)}
    return {"ok": True, "grants": [each.describe() for each in known]}


async def serve_revoke(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """End a grant, or all (no `name`). From the answer on nobody gets anything through it."""
    refuse_unknown(request, frozenset({"name"}))
    keyholder.open_store()
    name = request.get("name")
    if name is not None:
        check_grant_name(name)
    keyholder.release(session, {"op": "revoke", "for": name or "all"})
    ended = await keyholder.grants.revoke(name)
    return {"ok": True, "revoked": ended}
