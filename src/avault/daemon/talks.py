"""The keyholder's talks with operator and signer: init, pair, recover, drill."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from typing import TYPE_CHECKING

from avault.daemon.desks import open_with_desk
from avault.daemon.following import Following
from avault.daemon.pairing import choose_relays, prove, shake_hands
from avault.daemon.retrieving import retrieve
from avault.daemon.wire import Session
from avault.errors import Denied, Locked, Usage
from avault.keys.holding import Holding
from avault.keys.keyholder import Keyholder
from avault.keys.nostr import make_keys, parse_keys, parse_npub, public_hex, to_npub
from avault.keys.obtaining import GivenKey, OperatorKey
from avault.keys.seal import make_envelope, seal_nsec
from avault.signer.pairing import DEFAULT_RELAYS, UNPROVEN, Pairing
from avault.signer.question import NOT_A_REFUSAL, accept_token, says_any
from avault.vault.files import has_bytes, write_file
from avault.vault.machine import machine_id
from avault.vault.machines import KIND, render_machine
from avault.vault.own_files import (
    check_name,
    check_relay,
    complete_attributes,
    encode_file,
    encode_hints,
)
from avault.vault.presence import read_unlock, refuse_to_overwrite
from avault.vault.records import Vault
from avault.vault.store import Store

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.keyholder import Talk
    from avault.protocol import Message


async def talk_init(
    keyholder: Keyholder, session: Session, request: Message, private: Message
) -> Message:
    """Make the agent's key and the vault's files; pair first unless the operator is given."""
    places, holding = keyholder.places, keyholder.holding
    if holding.store:
        raise Denied(
            "a vault is open, whose key may be nowhere else", "avault lock, then: avault init"
        )
    refuse_to_overwrite(places)
    name, host = check_name(str(request.get("name"))), holding.host
    relays = [check_relay(url) for url in request.get("relays") or []] or DEFAULT_RELAYS
    keys = parse_keys(private["nsec"]) if private.get("nsec") else make_keys()
    agent, given = public_hex(keys), request.get("signer_npub")
    operator = parse_npub(given) if given else None
    if operator == agent:
        raise Usage(
            "that is the agent's own key", "--signer-npub is the operator's, the one in the phone"
        )
    identity, pairing = secrets.token_hex(16), None
    if request.get("kit"):
        operator = await make_kit(session, name)
    elif not operator or private.get("bunker"):
        confirm = bool(request.get("confirm"))
        pairing = await shake_hands(
            keyholder, session, relays, name, private.get("bunker"), operator, agent, confirm
        )
        operator, relays = pairing.operator, pairing.relays
        if operator == agent:
            raise Usage(
                "the signer holds the agent's own key",
                "choose the operator's account in the signer",
            )
    vault = Vault(identity, agent, operator, name)
    said = render_machine(host, public_hex(pairing.keys) if pairing else "")
    me = machine_id(places)
    vault.state(f"{KIND}/{me}", said, int(time.time()), me)
    content = {**seal_nsec(keys, identity, operator, name, host), "proven": None, "quick": 0}

    def write(path: str, data: bytes) -> None:
        write_file(path, data)
        session.send({"progress": "wrote", "path": path})

    write(places.file(".gitattributes"), complete_attributes(places.file(".gitattributes")))
    write(places.file("nip46.json"), encode_hints(agent, operator, relays, name))
    write(places.own("unlock.json"), encode_file("unlock", content))
    # cut off before, init begins anew; after, it opens
    store = await asyncio.to_thread(Store.create, places, keys, vault)
    session.send({"progress": "wrote", "path": places.file("avault.enc")})
    write(
        places.file("nsec.enc"),
        encode_file("nsec", seal_nsec(keys, identity, operator, name, host)),
    )
    if request.get("kit"):
        holding.consent.begin()
    holding.begin(store, content, "init", is_new=True)
    await holding.verify_recovery()
    keyholder.reporter.wrote()
    if pairing:
        pairing.save(places, UNPROVEN)
        await prove(keyholder, session, pairing, content)
        session.send({"progress": "wrote", "path": places.own("pairing.json")})
    return {
        "ok": True,
        "agent_npub": to_npub(agent),
        "signer_npub": to_npub(operator),
        "paired": bool(pairing),
        "ticket": holding.consent.first or None,
    }


async def make_kit(session: Session, name: str) -> str:
    """An operator's key that is in nobody's phone, shown once and kept nowhere: its public half.

    Raises Denied where the person does not say that it is written down.
    """
    keys = make_keys()
    kit = {"nsec": keys.secret_key().to_bech32(), "operator": to_npub(public_hex(keys))}
    said = await session.frame(kit={**kit, "name": name})
    if said.get("confirmed") is not True:
        raise Denied("the recovery kit is not kept, and nothing was made", "begin again")
    return public_hex(keys)


async def talk_pair(
    keyholder: Keyholder, session: Session, request: Message, private: Message
) -> Message:
    """Pair this machine and prove the vault; `recover` does it where the vault was never open.

    An open vault knows its names, and its machine's relays: what the disk says about them counts
    only for a closed one.
    """
    places, holding, contact = keyholder.places, keyholder.holding, keyholder.holding.contact
    content, own = read_for(holding, request.get("operator"))
    is_paired = bool(contact.pairing) or os.path.lexists(places.own("pairing.json"))
    if request["op"] == "recover":
        if request.get("agent") != content["agent"] or not request.get("operator"):
            raise not_of_them()
    elif not own and not is_paired:
        raise Locked(
            "this machine has never opened this vault, and cannot tell it from another",
            "look at it once with: avault recover",
        )
    relays = [check_relay(url) for url in request.get("relays") or []]
    agent, operator = parse_npub(content["agent"]), parse_npub(content["operator"])
    is_anew = relays or request.get("replace")
    pairing = None if is_anew else Pairing.begun(places, agent, operator, private.get("bunker"))
    if (
        pairing
        and holding.store
        and contact.pairing
        and not (contact.begun and pairing.is_same(contact.begun))
    ):
        pairing = None  # what opened the vault is known, and what was begun since: this is neither
    if is_paired and not pairing and not request.get("replace"):
        raise Usage(
            "this machine is paired already",
            "ask the phone with: avault unlock, or pair anew: avault pair --replace",
        )
    if pairing:
        keyholder.unlocking.pause()
        session.send(
            {
                "progress": "resumed",
                "client_key": public_hex(pairing.keys),
                "relays": pairing.relays,
            }
        )
    else:
        if not relays and not private.get("bunker"):
            relays = choose_relays(keyholder, session)
        pairing = await shake_hands(
            keyholder, session, relays, content["name"], private.get("bunker"), operator, agent
        )
        pairing.save(places, UNPROVEN)
    contact.begun = pairing
    await prove(keyholder, session, pairing, content, bool(request.get("accept_rollback")))
    hints = encode_hints(agent, operator, pairing.relays, content["name"])
    if not has_bytes(path := places.file("nip46.json"), hints):
        write_file(path, hints)
        keyholder.reporter.wrote()
        holding.note_hints()
        keyholder.reporter.report()
    return {
        "ok": True,
        "agent_npub": content["agent"],
        "signer_npub": content["operator"],
        "relays": pairing.relays,
    }


def read_for(holding: Holding, operator: str | None) -> tuple[dict[str, Any], bool]:
    """What the phone of an operator (an npub; None: of this machine's) is to open.

    And whether it is this machine's own. Raises Denied for who is no operator of the vault.
    """
    if store := holding.store:
        content, own = holding.ratchet.content, True
        if operator and parse_npub(operator) in store.vault.operators():
            content = {**content, "operator": operator}
    else:
        content, own = read_unlock(holding.places, operator)
    if operator not in (None, content["operator"]):
        raise not_of_them()
    return content, own


def not_of_them() -> Denied:
    """Why somebody is not asked."""
    return Denied(
        "nsec.enc is not of that agent and operator",
        "compare with what you wrote down: nothing was asked",
    )


async def talk_recover(
    keyholder: Keyholder, session: Session, request: Message, private: Message
) -> Message:
    """Open a copy of a vault here, also one whose agent's key another machine has rotated."""
    if keyholder.holding.store:
        raise Denied("the vault is open", "avault lock, then: avault recover")
    if private.get("root"):
        return await retrieve(keyholder, session, request, private)
    with Following(keyholder.places, lambda: bool(keyholder.holding.store)):
        return await talk_pair(keyholder, session, request, private)


async def talk_open(
    keyholder: Keyholder, session: Session, request: Message, private: Message
) -> Message:
    """Open the vault with NOSTR_NSEC, with the operator's own key, or with a desk's."""
    ticket = None
    if private.get("desk") and not keyholder.holding.store:
        name = str(private["desk"])
        desk = open_with_desk(keyholder.places, name, str(private.get("key")))
        await keyholder.unlocking.open(desk)
        said = "opened this vault together with others, by one approval there"
        keyholder.reporter.warnings["custody"] = f"the desk {name} {said}"
        keyholder.reporter.report()
    elif not keyholder.holding.store:
        operator = private.get("operator_nsec")
        way = OperatorKey(str(operator)) if operator else GivenKey(str(private.get("nsec")))
        await keyholder.unlocking.open(way, bool(request.get("accept_rollback")))
        ticket = keyholder.holding.consent.first or None
    return {"ok": True, "ticket": ticket}


async def talk_drill(
    keyholder: Keyholder, session: Session, request: Message, private: Message
) -> Message:
    """Ask for something that the operator is to reject: an app that approves by itself cannot."""
    contact, ratchet = keyholder.holding.contact, keyholder.holding.ratchet
    store = keyholder.holding.store
    pairing = contact.find(store)
    if not pairing or not store:
        is_paired = os.path.lexists(keyholder.places.own("pairing.json"))
        raise Locked(
            "the drill needs a paired, open vault",
            "first: avault unlock" if is_paired else "pair it with: avault pair",
        )
    token, vault = secrets.token_hex(32), store.vault
    envelope = make_envelope(
        store.keys,
        pairing.operator,
        "a drill: REJECT this one",
        "avault: this is a drill. REJECT this one.",
        token,
    )
    session.send({"progress": "reject"})
    async with contact.connect(pairing, pairing.signer, session) as signer:
        try:
            await signer.request("nip44_decrypt", [vault.agent, envelope], accept_token(token))
            refused = False
        except Denied as error:
            if says_any(error.message, NOT_A_REFUSAL):
                raise
            refused = True
    keyholder.holding.need(store)
    pairing.by_itself = not refused
    contact.keep(pairing)
    ratchet.forget_quickness()
    await ratchet.turn(store.keys, ratchet.content)
    keyholder.reporter.report()
    return {"ok": True, "refused": refused, "seconds": signer.answered_in}


TALKS: dict[str, Talk] = {
    "init": talk_init,
    "open": talk_open,
    "pair": talk_pair,
    "recover": talk_recover,
    "drill": talk_drill,
}
