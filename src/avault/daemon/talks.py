"""The keyholder's talks with operator and signer: init, pair, recover, drill."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
from typing import TYPE_CHECKING

import nostr_sdk

from avault.custody.custodian import GivenKey, Phone
from avault.daemon.keyholder import Keyholder
from avault.daemon.requests import REQUESTS
from avault.daemon.wire import Session
from avault.errors import AvaultError, Denied, Locked, Tampered, Usage
from avault.fast import write_all
from avault.places import Places
from avault.process import harden, report_quietly
from avault.signer.remote import (
    DEFAULT_RELAYS,
    NOT_A_REFUSAL,
    NOT_PAIRED,
    UNPROVEN,
    Pairing,
    accept_token,
    forget_begun,
    introduce,
    nostrconnect_uri,
    parse_bunker,
)
from avault.vault.files import (
    check_name,
    check_relay,
    complete_attributes,
    encode_file,
    encode_hints,
    has_bytes,
    parse_npub,
    read_hints,
    to_npub,
    write_file,
)
from avault.vault.records import Vault
from avault.vault.seal import make_envelope, parse_keys, public_hex, request_code, seal_nsec
from avault.vault.store import Store, read_unlock, refuse_to_overwrite

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from avault.daemon.keyholder import Talk
    from avault.protocol import Limits, Message


def accept_connect(secret: str) -> Callable[[str], None]:
    """What counts as a result of `connect` to a bunker: "ack", or its secret (NIP-46)."""

    def accept(result: str) -> None:
        if result != "ack" and not (
            secret and secrets.compare_digest(result.encode(), secret.encode())
        ):
            raise Denied("the signer answered `connect` with something else")

    return accept


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
    keys = parse_keys(private["nsec"]) if private.get("nsec") else nostr_sdk.Keys.generate()
    agent, operator = (
        public_hex(keys),
        parse_npub(request["signer_npub"]) if request.get("signer_npub") else None,
    )
    if operator == agent:
        raise Usage(
            "that is the agent's own key", "--signer-npub is the operator's, the one in the phone"
        )
    identity, pairing = secrets.token_hex(16), None
    if not operator or private.get("bunker"):
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
    }


async def talk_pair(
    keyholder: Keyholder, session: Session, request: Message, private: Message
) -> Message:
    """Pair this machine and prove the vault; `recover` does it where the vault was never open.

    An open vault knows its names, and its machine's relays: what the disk says about them counts only for a closed one.
    """
    places, holding, contact = keyholder.places, keyholder.holding, keyholder.holding.contact
    content, own = (holding.ratchet.content, True) if holding.store else read_unlock(places)
    is_paired = bool(contact.pairing) or os.path.lexists(places.own("pairing.json"))
    if request["op"] == "recover":
        if (request.get("agent"), request.get("operator")) != (
            content["agent"],
            content["operator"],
        ):
            raise Denied(
                "nsec.enc is not of that agent and operator",
                "compare with what you wrote down: nothing was asked",
            )
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


def choose_relays(keyholder: Keyholder, session: Session) -> list[str]:
    """The relays of this machine's pairing, or for a first one those of nip46.json; where these differ, it is said."""
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
    pairing = Pairing(nostr_sdk.Keys.generate(), signer_key or "", agent, "", relays)
    keyholder.unlocking.pause()
    session.send({"progress": "connecting", "relays": len(relays)})
    async with keyholder.holding.contact.connect(pairing, signer_key, session) as signer:
        await signer.wait_ready(15.0)
        if signer_key:
            await signer.request(
                "connect",
                [signer_key, secret, "get_public_key", json.dumps(introduce(name))],
                accept_connect(secret),
                False,
            )
        else:
            session.send(
                {"progress": "uri", "uri": nostrconnect_uri(signer.me, relays, secret, name)}
            )
            pairing.signer = await signer.greet(secret)
            pairing.token = secret
        session.send({"progress": "connected", "client_key": signer.me})
        pairing.operator = await signer.request("get_public_key", [], parse_npub, False)
        # still listening: a second signer may answer while the person looks
        if confirm and not operator:
            said = await signer.unless_alarmed(session.frame(operator=to_npub(pairing.operator)))
            if said.get("confirmed") is not True:
                raise Denied(
                    "the operator was not confirmed, and nothing was made",
                    "pair again, with the right account: avault init",
                )
    if operator and pairing.operator != operator:
        other = f"the signer answers for {to_npub(pairing.operator)}, but the operator is {to_npub(operator)}"
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
        if any(words in refused.message.lower() for words in NOT_PAIRED):
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
        content = seal_nsec(
            store.keys, store.vault.identity, store.vault.operator, store.vault.name, holding.host
        )
    sentence = f"unlock {content['name']}, code {request_code(content['sealed'])}"
    session.send({"progress": "approve", "sentence": sentence})
    async with holding.contact.connect(pairing, pairing.signer, session) as signer:
        phone = Phone(pairing, signer)
        if not store:
            await keyholder.unlocking.open(phone, accept_rollback)
        else:
            await phone.obtain(content)
            ratchet = holding.ratchet
            ratchet.note_quickness(signer.answered_in, ratchet.content)
            ratchet.prove()
            await ratchet.turn(store.keys, ratchet.content, also_recovery=False)
            holding.contact.keep(pairing)
    session.send({"progress": "proven", "seconds": signer.answered_in})
    keyholder.reporter.report()


async def talk_open(
    keyholder: Keyholder, session: Session, request: Message, private: Message
) -> Message:
    """Open the vault with NOSTR_NSEC."""
    if not keyholder.holding.store:
        await keyholder.unlocking.open(
            GivenKey(str(private.get("nsec"))), bool(request.get("accept_rollback"))
        )
    return {"ok": True}


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
        vault.operator,
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
            if any(words in error.message.lower() for words in NOT_A_REFUSAL):
                raise
            refused = True
    pairing.by_itself = not refused
    contact.keep(pairing)
    ratchet.forget_quickness()
    await ratchet.turn(store.keys, ratchet.content, also_recovery=False)
    keyholder.reporter.report()
    return {"ok": True, "refused": refused, "seconds": signer.answered_in}


TALKS: dict[str, Talk] = {
    "init": talk_init,
    "open": talk_open,
    "pair": talk_pair,
    "recover": talk_pair,
    "drill": talk_drill,
}


async def hold(places: Places, fd: int, limits: Limits) -> None:
    """The keyholder's life; its control stream is the file descriptor `fd`."""
    asyncio.get_running_loop().set_exception_handler(report_quietly)
    await Keyholder(places, socket.socket(fileno=fd), TALKS, REQUESTS, limits).run()


def main_keyholder(argv: list[str]) -> NoReturn:
    """The keyholder process: `avault.py keyholder FD DIR LIMITS`. Ends by _exit: what it knew goes with it."""
    code = 0
    try:
        harden("avault-keys", die_with_parent=True)
        asyncio.run(hold(Places(argv[1]), int(argv[0]), json.loads(argv[2])))
    except BaseException as error:
        code = 70  # EX_SOFTWARE; no traceback: its text may carry what it was about
        write_all(2, f"avault: error: the keyholder failed: {type(error).__name__}\n".encode())
    finally:
        os._exit(code)
