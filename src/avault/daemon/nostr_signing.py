"""The one request behind all that signs, for Nostr: events, and texts that are encrypted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from avault.daemon.asked_keys import sign_asked
from avault.daemon.askers import Asker, ask_invited, find_asker
from avault.daemon.gate import Passage
from avault.daemon.key_wishes import Wish
from avault.daemon.leaving import ClientWatch
from avault.daemon.signing import (
    WAY_FOR_NOSTR,
    admit_key,
    check_base64,
    choose_to_sign,
    note_failure,
    serve_sign,
    sign_at_once,
)
from avault.daemon.solana_signing import sign_for_solana
from avault.daemon.wallet_signing import sign_for_wallet
from avault.daemon.wire import Session
from avault.errors import Denied
from avault.keys.keyholder import Keyholder
from avault.protocol import refuse_unknown
from avault.signing.evm_uses import EVM_USES
from avault.signing.nostr_uses import (
    LONGEST_NOSTR,
    check_event_time,
    decode_nostr,
    describe_nostr,
)
from avault.signing.solana_uses import SOLANA_USES
from avault.ssh_wire import decode_base64
from avault.vault.invitations import refuse_own_keys
from avault.vault.nostr_rules import NOSTR_USES, find_nostr_fault

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.protocol import Message

    # raises Denied for a use that an invitation does not let through
    Narrow = Callable[[dict[str, Any]], None]


NOSTR_FIELDS = frozenset({"as", "payload", "peer", "public", "group", "key"})


async def serve_signature(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Sign what a guard lets be signed, for SSH, for Nostr or a payment: what is understood.

    Who has closed the connection is gone, and takes along what it asked for: this task.
    """
    with ClientWatch(session):
        return await sign_understood(keyholder, session, request)


async def sign_understood(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """The same, for who is there."""
    if request.get("as") in EVM_USES:
        return await sign_for_wallet(keyholder, session, request)
    if request.get("as") in SOLANA_USES:
        return await sign_for_solana(keyholder, session, request)
    if request.get("as") not in NOSTR_USES:
        return await serve_sign(keyholder, session, request)
    noted: Message = {"op": "sign", "for": request["as"]}
    return await sign_noted(keyholder, session, request, noted)


async def sign_noted(
    keyholder: Keyholder,
    session: Session,
    request: Message,
    noted: Message,
    narrow: Narrow | None = None,
) -> Message:
    """The answer to a request to sign for Nostr, with its line in the access log.

    `noted` is what that says besides; `narrow` refuses what an invitation does not let through.
    """
    with note_failure(keyholder, session, noted):
        refuse_unknown(request, NOSTR_FIELDS)
        payload = check_base64(request.get("payload"), "payload", LONGEST_NOSTR)
        name, public = await choose_to_sign(keyholder, session, request, WAY_FOR_NOSTR, noted)
        said = {"as": request["as"], "payload": payload, "public": public}
        if request.get("peer") is not None:
            said["peer"] = request["peer"]
        answer, sentence = await sign_use(keyholder, session, name, said, noted, narrow)
        keyholder.release(session, noted)
    return {"ok": True, "signature": answer, "public": public, "name": name, "said": sentence}


async def sign_use(
    keyholder: Keyholder,
    session: Session,
    name: str,
    said: Message,
    noted: Message,
    narrow: Narrow | None,
) -> tuple[str, str]:
    """Decode, refuse, rule, count, and have it signed: what came of it, and that in words.

    What has changed meanwhile counts. Raises AvaultError.
    """
    use, public, grant = decode_nostr(said), str(said["public"]), session.grant
    sentence = noted["signed"] = describe_nostr(use, name, str(noted.get("child") or ""))

    def admit(reserved: Passage | None = None) -> Passage:
        if grant:
            grant.check_request("sign")  # it may have ended meanwhile
        vault = keyholder.open_store().vault
        refuse_own_keys(vault, decode_base64(public, 32).hex(), use)
        check_event_time(use, time.time())
        if narrow:
            narrow(use)
        rules, passage = admit_key(keyholder, name, public, WAY_FOR_NOSTR, reserved)
        if fault := find_nostr_fault(
            use, rules.named["kinds"], rules.named["ciphers"], rules.named["peers"]
        ):
            raise Denied(f"{name} may not {fault}", f"see what it may: avault guard {name}")
        return passage

    passage = admit()
    if passage.asked:
        asker = find_nostr_asker(keyholder, session, noted)
        wish = Wish(name, said, use, describe_nostr(use, name), noted, asker, admit)
        answer = await sign_asked(keyholder, session, wish, passage)
    else:
        answer = await sign_at_once(keyholder, name, said, admit, passage, grant)
    return str(answer["signature"]), sentence


def find_nostr_asker(keyholder: Keyholder, session: Session, noted: Message) -> Asker:
    """Who asks: a program here, or the child of an invitation, whose key is proven."""
    if not (child := noted.get("child")):
        return find_asker(keyholder, session, None)
    invited = keyholder.signing.invited.look(keyholder.open_store().vault)
    found = next((each for each in invited if each.name == child), None)
    if not found:
        raise Denied(f"the invitation of {child} was taken back")
    return ask_invited(keyholder.identify(session), found)
