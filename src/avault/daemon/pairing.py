"""Pairing with a signer, and the proof that the phone behind it opens this vault."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from avault.custody.custodians import Custodians
from avault.daemon.operators import succeed
from avault.daemon.wire import Session
from avault.errors import AvaultError, Denied, Locked, Tampered
from avault.keys.keyholder import Keyholder
from avault.keys.nostr import make_keys, parse_npub, to_npub
from avault.keys.obtaining import Phone
from avault.keys.seal import request_code, seal_nsec
from avault.signer.pairing import Pairing, forget_begun, parse_bunker
from avault.signer.question import NOT_PAIRED, join_signer, says_any
from avault.vault.own_files import read_hints

if TYPE_CHECKING:
    from typing import Any


def choose_relays(keyholder: Keyholder, session: Session) -> list[str]:
    """The relays of this machine's pairing, or for a first one those of nip46.json.

    Where these differ, it is said.
    """
    try:
        known = keyholder.holding.contact.pairing or Pairing.load(keyholder.places)
    except Tampered:  # it is about to be replaced
        known = None
    try:
        hinted = [str(url) for url in read_hints(keyholder.places.file("nip46.json"))["relays"]]
    except AvaultError:
        if not known:
            raise
        hinted = []
    if known and hinted and known.relays != hinted:
        session.send({"progress": "relays", "relays": known.relays, "hinted": hinted})
    return known.relays if known else hinted


async def shake_hands(
    keyholder: Keyholder,
    session: Session,
    relays: list[str],
    name: str,
    bunker: str | None,
    operator: str | None,
    agent: str,
    confirm: bool = False,
) -> Pairing:
    """Connect with a signer, by a bunker URI or by one that it scans, and learn whose it is.

    An `operator` that is known must be the one; else, with `confirm`, a person says whether it is.
    """
    signer_key, secret = None, secrets.token_hex(16)
    if bunker:
        signer_key, relays, secret = parse_bunker(bunker)
    pairing = Pairing(make_keys(), signer_key or "", agent, "", relays)
    keyholder.unlocking.pause()
    session.send({"progress": "connecting", "relays": len(relays)})
    async with keyholder.holding.contact.connect(pairing, signer_key, session) as signer:

        def show(uri: str) -> None:
            session.send({"progress": "uri", "uri": uri})

        pairing.signer = await join_signer(signer, relays, secret, name, show)
        if not signer_key:
            pairing.token = secret
        session.send({"progress": "connected", "client_key": signer.me})
        pairing.operator = await signer.request("get_public_key", [], parse_npub, False)
        # still listening: a second signer may answer while the person looks
        if confirm and not operator:
            said = await signer.code.unless_alarmed(
                session.frame(operator=to_npub(pairing.operator))
            )
            if said.get("confirmed") is not True:
                raise Denied(
                    "the operator was not confirmed, and nothing was made",
                    "pair again, with the right account: avault init",
                )
    if operator and pairing.operator != operator:
        found, wanted = to_npub(pairing.operator), to_npub(operator)
        other = f"the signer answers for {found}, but the operator is {wanted}"
        raise Denied(other, "choose the operator's account in the signer, and pair again")
    return pairing


async def prove(
    keyholder: Keyholder,
    session: Session,
    pairing: Pairing,
    content: dict[str, Any],
    accept_rollback: bool = False,
) -> None:
    """Have the phone open this machine's own envelope: now it is known that it can.

    A refusal leaves the pairing as it is, to be gone on with, unless the signer does not know it.
    """
    try:
        await ask_for_proof(keyholder, session, pairing, content, accept_rollback)
    except Denied as refused:
        if says_any(refused.message, NOT_PAIRED):
            forget_begun(keyholder.places)
        else:
            refused.hint = "the pairing is kept; ask again with: avault pair"
        raise


async def ask_for_proof(
    keyholder: Keyholder,
    session: Session,
    pairing: Pairing,
    content: dict[str, Any],
    accept_rollback: bool,
) -> None:
    """Ask the phone to open this machine's own envelope, and keep a pairing by which it has."""
    holding, store = keyholder.holding, keyholder.holding.store
    # an envelope for this once, which is on no disk: until the phone has opened it, all stays as it
    # was
    if store:
        if pairing.agent != store.vault.agent:
            raise Locked("the agent's key was rotated meanwhile", "pair again")
        content = seal_nsec(
            store.keys, store.vault.identity, pairing.operator, store.vault.name, holding.host
        )
    sentence = f"unlock {content['name']}, code {request_code(content['sealed'])}"
    session.send({"progress": "approve", "sentence": sentence})
    async with holding.contact.connect(pairing, pairing.signer, session) as signer:
        phone = Phone(pairing, signer)
        if not store:
            await keyholder.unlocking.open(phone, accept_rollback)
        else:
            await phone.get_key(content)
            holding.need(store)
            ratchet = holding.ratchet
            ratchet.note_quickness(signer.answered_in, ratchet.content)
            ratchet.prove()
            store.note_seen()
            content = {**ratchet.content, "operator": to_npub(pairing.operator)}
            await ratchet.turn(store.keys, content)
            holding.contact.keep(pairing)
            await holding.register()
            await succeed(holding)
    holding.consent.end()
    Custodians(keyholder.places).admit_phone()
    session.send({"progress": "proven", "seconds": signer.answered_in})
    keyholder.reporter.report()
