"""Giving a custodian an unlock key of its own, if the operator agrees."""

from __future__ import annotations

import asyncio
import secrets
import socket
from typing import TYPE_CHECKING

from avault.daemon.errands import asks_phones
from avault.daemon.sentences import describe_entrusting
from avault.errors import (
    AvaultError,
    Denied,
    Tampered,
    TimedOut,
    Unavailable,
    complain,
)
from avault.keys.hardening import is_hardened, meet
from avault.keys.holding import Holding
from avault.keys.nostr import public_hex, to_npub
from avault.keys.obtaining import mark_agreed
from avault.keys.opening import obtain_key
from avault.keys.seal import make_envelope, request_code, seal_keys
from avault.signer.question import accept_token

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.keys.nostr import Keys
    from avault.keys.obtaining import KeptKey
    from avault.protocol import Message
    from avault.vault.records import Vault
    from avault.vault.store import Store


async def ask_operator(
    holding: Holding,
    store: Store,
    message: Message,
    title: str,
    sentence: str,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Have the operator of the open vault agree to a change, by phone.

    Phone and terminal both show a code, which is nobody else's: another change that waits for an
    approval at the same time has another. Raises Denied, TimedOut, and Tampered where the pairing
    is another's. Where the vault was made without a phone, see `Consent`. `tell` is given the code,
    where it is not the supervisor who shows it.
    """
    pairing, vault = holding.contact.find(store), store.vault
    if not pairing:
        if holding.consent.take(str(message["ticket"])):
            return
        raise Denied(
            "only a paired vault can ask whether that is meant", "pair it with: avault pair"
        )
    token = secrets.token_hex(32)
    code = request_code(token)
    if tell:
        tell(code)
    else:
        holding.reporter.control.send({"asking": code, "ticket": message["ticket"]})
    said = f"{sentence}, code {code}. Approve only if you want that."
    envelope = make_envelope(store.keys, pairing.operator, title, said, token)
    connected = holding.contact.connect(pairing, pairing.signer)
    async with asyncio.timeout(300), connected as signer:
        await signer.request("nip44_decrypt", [vault.agent, envelope], accept_token(token))
    holding.need(store)


def need_open_store(holding: Holding) -> Store:
    """The store of an open vault; raises Denied."""
    if not holding.store or not holding.log:
        raise Denied("only an open vault can be entrusted", "open it: avault unlock")
    return holding.store


def note_custodian(holding: Holding, message: Message, verb: str, name: str, kind: str) -> None:
    """Have the access log say it, before it is done; raises AvaultError where it cannot."""
    if holding.log:
        said = {"op": "custody", "for": f"{verb} {name}, {kind}"}
        holding.log.write(said, message["caller"], "ok")


async def entrust(holding: Holding, fd: int, message: Message) -> None:
    """If the operator agrees, seal the agent's key for a custodian too; tell what came of it.

    What opens that goes to the helper's process alone, through the socket `fd`.
    """
    helper, pid = None, message["helper"]
    custodian, sealed, failed = message["custodian"], None, None
    with socket.socket(fileno=fd) as door:
        try:
            store = need_open_store(holding)
            helper = await meet(door, pid)
            note_custodian(holding, message, "add", custodian, message["kind"])
            vault = store.vault
            refuse_stranger(vault, message)
            question = describe_entrusting(vault.name, holding.host, message)
            await ask_operator(holding, store, message, *question)
            sealed = give_key(holding, store.keys, vault, message, helper)
        except Exception as error:
            failed = explain_change(error)
        finally:
            if helper:
                helper.close()
    tell_of_change(holding, message, sealed, failed)


def give_key(
    holding: Holding, keys: Keys, vault: Vault, message: Message, helper: socket.socket
) -> dict[str, Any]:
    """Seal an agent's key for a custodian, whose helper alone gets what opens that; see `Unsigned`.

    Raises Unavailable where the helper is gone, or traced.
    """
    if not is_hardened(message["helper"]):
        raise Unavailable("the custodian's process has ended, or is traced", "try the same again")
    names = vault.identity, vault.operator, vault.name, message["custodian"]
    unlock, sealed = seal_keys(keys, *names, holding.consent.phoneless)
    sealed["agreed"] = mark_agreed(keys, message)
    if message["shared"]:
        holding.unsigned.expect(keys, {**message, **sealed})
    helper.sendall(unlock.encode())
    return sealed


def sign_shared(holding: Holding, message: Message) -> None:
    """Sign a shared custodian that was agreed to, with what it keeps; tell what came of it."""
    signed, failed = None, None
    try:
        signed = holding.unsigned.sign(message["content"])
    except Exception as error:
        failed = explain_change(error)
    tell_of_change(holding, message, signed, failed)


def refuse_stranger(vault: Vault, message: Message) -> None:
    """Raise Denied for the phone of somebody who is no operator of the vault."""
    known = vault.other_operators().get(message["custodian"])
    whose = message["settings"].get("operator")
    if message["kind"] == "phone" and (not known or to_npub(known) != whose):
        raise Denied(
            f"no operator {message['custodian']} of this vault has that key",
            "add the operator first: avault operator add NPUB --name NAME",
        )


def explain_change(error: Exception) -> AvaultError:
    """Why a change was not made."""
    if isinstance(error, TimeoutError):
        return TimedOut("nobody approved in time")
    if isinstance(error, OSError):
        return Unavailable("the custodian's process has ended")
    return complain(error)


def tell_of_change(
    holding: Holding,
    message: Message,
    sealed: dict[str, Any] | None,
    failed: AvaultError | None,
) -> None:
    """Tell the supervisor what came of the change that has the message's ticket."""
    error = failed.to_dict()["error"] if failed else None
    what = {"changed": message["ticket"], "sealed": sealed, "failed": error}
    holding.reporter.control.send(what)


async def part_with_phone(holding: Holding, message: Message) -> None:
    """Have the operator agree that the phone opens this vault no more; tell what came of it."""
    store, failed = holding.store, None
    try:
        if not store:
            raise Denied("only an open vault can do without the phone", "open it: avault unlock")
        name = store.vault.name
        sentence = (
            f"avault: from now on your phone does NOT open {name} on {holding.host}, only its"
            " custodians"
        )
        await ask_operator(holding, store, message, f"{name} without your phone", sentence)
    except Exception as error:
        failed = explain_change(error)
    tell_of_change(holding, message, None, failed)


async def agree(holding: Holding, custodian: KeptKey, ticket: str) -> None:
    """Let who opens the vault with a custodian agree to the change that has the ticket.

    Only in a vault without a phone: else the operator agrees, by phone. Raises AvaultError.
    """
    store = holding.store
    if not store or not holding.consent.phoneless or holding.contact.is_paired():
        raise Denied("the operator agrees by phone", "pair it with: avault pair")
    if asks_phones(custodian.kept):
        raise Denied("a phone that is shown the words for an unlock agrees to nothing else")
    custodian.check(store.vault, store.keys)
    keys, _, _ = await obtain_key(holding.places, custodian)
    if public_hex(keys) != store.vault.agent:
        raise Tampered("that custodian opens another vault")
    holding.consent.give(ticket)


async def note_proof(holding: Holding) -> None:
    """A custodian has opened this vault in a trial: that proves one without a phone."""
    holding.consent.first = ""
    if holding.store and holding.consent.phoneless and not holding.ratchet.proven:
        holding.ratchet.prove()
        content = holding.ratchet.content
        await holding.ratchet.turn(holding.store.keys, content)
        holding.reporter.report()
