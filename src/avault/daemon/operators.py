"""The operators of a vault besides the first: who they are is kept in the vault itself."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, NotFound, Usage, printable
from avault.keys.entrusting import ask_operator, explain_change, tell_of_change
from avault.keys.holding import Holding
from avault.keys.nostr import parse_npub, to_npub
from avault.vault.locks import find_closed
from avault.vault.marks import add_mark
from avault.vault.names import SUCCESSOR, check_operator
from avault.vault.records import OTHERS, SUCCEEDED, Vault
from avault.vault.recovery import seal_recovery

if TYPE_CHECKING:
    from avault.protocol import Message
    from avault.vault.store import Store


async def change_operators(holding: Holding, message: Message) -> None:
    """If the operator agrees, have another one, or one less; tell what came of it."""
    failed = None
    try:
        store = holding.store
        if not store or not holding.log:
            raise Denied("only an open vault can have other operators", "open it: avault unlock")
        name, npub = check_operator(message["name"]), message.get("npub")
        public = parse_npub(npub) if npub else None
        refuse_wrong(store.vault, name, public)
        pairing = holding.contact.find(store)
        if name == SUCCESSOR and public and pairing and pairing.operator != store.vault.operator:
            raise Denied(
                "this machine's phone is not the first operator's, whose place that is",
                f"type it on a machine that is paired with {to_npub(store.vault.operator)}",
            )
        verb = "add" if public else "remove"
        said = {"op": "operator", "for": f"{verb} {name}"}
        holding.log.write(said, message["caller"], "ok")
        await ask_operator(holding, store, message, *describe_operator(store.vault, name, public))
        await write_operators(holding, store, name, public)
    except Exception as error:
        failed = explain_change(error)
    tell_of_change(holding, message, None, failed)


def refuse_wrong(vault: Vault, name: str, public: str | None) -> None:
    """Raise Usage, NotFound where an operator cannot be added, or is not there."""
    known = vault.other_operators().get(name)
    if not public and not known:
        raise NotFound(f"there is no operator {name}", "see who there is: avault operator list")
    if public and known and (name != SUCCESSOR or public != known):
        raise Usage(f"there is an operator {name} already", f"avault operator remove {name}")
    is_there = vault.operators() if name != SUCCESSOR else [vault.operator]
    if public and public in is_there:
        raise Usage("that is an operator of this vault already", "see: avault operator list")
    if public and len(vault.other_operators()) >= OTHERS:
        raise Usage(f"a vault has at most {OTHERS} other operators", "avault operator remove NAME")
    if public == vault.agent:
        raise Usage("that is the agent's own key", "an operator's is the one in a phone")
    refuse_loss(vault, None if public else known, public if name == SUCCESSOR else None)


def refuse_loss(vault: Vault, removed: str | None, successor: str | None) -> None:
    """Raise Denied where nobody could open a secret any more that was sealed for who goes."""
    gone = vault.operator if successor else removed
    if not gone or gone == successor or (not successor and gone == vault.operator):
        return
    left = {*vault.operators(), *filter(None, [successor])} - {gone}
    if closed := find_closed(vault, [*left]):
        more = f" and {len(closed) - 5} more" if len(closed) > 5 else ""
        raise Denied(
            f"only the phone that goes opens {', '.join(closed[:5])}{more}",
            "let the other one approve first (avault operator add NPUB --name NAME), use each once"
            " with the phone that is there, and then try again",
        )


def describe_operator(vault: Vault, name: str, public: str | None) -> tuple[str, str]:
    """The title and the sentence by which a change of the operators is agreed to."""
    if public and name == SUCCESSOR:
        sentence = (
            f"avault: {to_npub(public)} approves for {vault.name} in your place, once that phone"
            " has opened it; yours approves NO MORE then, on any machine"
        )
        return f"another operator of {vault.name}", sentence
    who = f"{name} ({to_npub(public)})" if public else name
    if public:
        sentence = f"avault: let {who} approve for {vault.name} as you do, on every machine"
        return f"{name} as an operator of {vault.name}", sentence
    sentence = f"avault: {who} approves no more for {vault.name}, on any machine"
    return f"{vault.name} without {name}", sentence


async def write_operators(holding: Holding, store: Store, name: str, public: str | None) -> None:
    """Write the vault with the change, then nsec.enc, which is for all of them."""

    def change(vault: Vault) -> None:
        refuse_wrong(vault, name, public)
        now, known = int(time.time()), vault.other_operators().get(name)
        vault.state(f"operator/{name}", public, now, store.machine)
        if known and not public and known not in vault.operators():
            add_mark(vault, "operator", to_npub(known), name, now, store.machine)

    await holding.writer.change(store, change)
    await seal_anew(holding, store)


async def seal_anew(holding: Holding, store: Store) -> None:
    """Make nsec.enc anew, for the operators that the vault has."""
    recovery = await asyncio.to_thread(
        seal_recovery, store.keys, store.vault, printable(holding.host)
    )
    await holding.ratchet.turn(store.keys, holding.ratchet.content, recovery)
    await holding.verify_recovery()
    holding.reporter.wrote()
    holding.reporter.report()


async def succeed(holding: Holding) -> None:
    """Have the successor, whose phone has opened the vault here, be the first operator.

    The one before has agreed to that, and approves no more. What cannot be written is tried again
    at the next unlock.
    """
    store, pairing = holding.store, holding.contact.pairing
    successor = store.vault.other_operators().get(SUCCESSOR) if store else None
    if not store or not pairing or pairing.operator != successor:
        return

    def change(vault: Vault) -> None:
        refuse_loss(vault, None, successor)
        now, old = int(time.time()), to_npub(vault.operator)
        for name, public in vault.other_operators().items():
            if public == successor:
                vault.state(f"operator/{name}", None, now, store.machine)
        vault.state(SUCCEEDED, successor, now, store.machine)
        add_mark(vault, "operator", old, f"{old[:16]}…", now, store.machine)

    try:
        await holding.writer.change(store, change)
        await seal_anew(holding, store)
        holding.reporter.warnings.pop("successor", None)
    except AvaultError as error:
        holding.reporter.warnings["successor"] = (
            f"both operators' phones open the vault until the next unlock: {error.message}"
        )
