"""A desk that opens many machines together, as one of these has it: let in, used, its key turned.

The desk has a key for each machine, of one that its operator's phone opens. Here is the public
half of this machine's, and an unlock key that is encrypted to it: that opens one sealed copy of the
agent's key and nothing else, as with every custodian. So the machine can seal anew for the next key
without ever knowing one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.custody.desk import DESK, check_desk, find_desk
from avault.errors import Denied, Usage
from avault.keys.custodian import render_answer
from avault.keys.entrusting import (
    ask_operator,
    explain_change,
    need_open_store,
    note_custodian,
    tell_of_change,
)
from avault.keys.nostr import (
    decrypt,
    encrypt,
    make_keys,
    parse_keys,
    parse_npub,
    public_hex,
    read_signed,
    to_npub,
)
from avault.keys.obtaining import KeptKey, check_agreed, mark_agreed
from avault.keys.seal import seal_keys
from avault.vault.own_files import check_name

if TYPE_CHECKING:
    from typing import Any

    from avault.daemon.unguarding import Unguarding
    from avault.keys.holding import Holding
    from avault.keys.nostr import KeyText
    from avault.places import Places
    from avault.protocol import Message
    from avault.vault.store import Store


def wrap_for_desk(public: str, unlock: KeyText) -> str:
    """An unlock key, as only who has the secret key of `public` (hex) reads it."""
    once = make_keys()
    return json.dumps({"from": public_hex(once), "sealed": encrypt(once, public, unlock)})


def open_with_desk(places: Places, name: str, secret: KeyText) -> KeptKey:
    """The way in by a desk's secret key for this machine; raises Denied where that is another."""
    content, keys = find_desk(places, name), parse_keys(secret)
    try:
        kept = json.loads(content["kept"])
        unlock = decrypt(keys, kept["from"], kept["sealed"])
    except (ValueError, TypeError, KeyError):
        said = f"the desk {name} has another key than the one that opens this machine"
        raise Denied(said, "at the desk: avault fleet doctor") from None
    return KeptKey(name, content, render_answer("ok", unlock), False)


def seal_for_desk(
    holding: Holding, store: Store, name: str, settings: dict[str, str]
) -> dict[str, Any]:
    """What a desk's file is to be, with a fresh unlock key for the key in `settings`."""
    vault = store.vault
    names = vault.identity, vault.operator, vault.name, name
    unlock, sealed = seal_keys(store.keys, *names, holding.consent.phoneless)
    about = {"custodian": name, "kind": DESK, "account": name, "asks": True, "settings": settings}
    agreed = mark_agreed(store.keys, {**about, "shared": False})
    return {**about, **sealed, "kept": wrap_for_desk(settings["key"], unlock), "agreed": agreed}


def read_statement(text: object, agent: str, name: str) -> tuple[str, dict[str, Any]]:
    """Who has signed a statement (hex) about an agent's desk, and what it says; raises Denied."""
    try:
        author, said = read_signed(str(text))
        told = json.loads(said)
        if (told["agent"], told["desk"]) == (agent, name):
            return author, dict(told)
    except (ValueError, TypeError, KeyError, Usage, RecursionError):
        pass
    raise unsigned()


def unsigned() -> Denied:
    """Why nothing comes of a statement."""
    return Denied("the desk's key has not signed that", "at the desk: avault fleet doctor")


async def let_desk_in(holding: Holding, message: Message) -> dict[str, Any]:
    """What a desk's file is to be that opens this vault from now on, if the operator agrees.

    The desk's key for this machine has signed what is asked; its secret half is not here.
    """
    store, name = need_open_store(holding), str(message["name"])
    key, said = read_statement(message["statement"], store.vault.agent, name)
    label, operator = check_name(str(said.get("label"))), parse_npub(str(said.get("operator")))
    settings = {"key": key, "label": label, "operator": to_npub(operator)}
    check_desk({"custodian": name, "settings": settings}, store.vault)
    note_custodian(holding, message, "add", name, DESK)
    sentence = (
        f"avault: let the desk {label} open {store.vault.name} on {holding.host} TOGETHER with"
        f" other machines, by ONE approval there, of {settings['operator']}"
    )
    await ask_operator(
        holding, store, message, f"the desk {label} for {store.vault.name}", sentence
    )
    check_desk({"custodian": name, "settings": settings}, store.vault)  # as it is by now
    return seal_for_desk(holding, store, name, settings)


def turn_desk_key(holding: Holding, message: Message) -> dict[str, Any]:
    """What a desk's file is to be for its next key, which its present one has signed.

    No phone is asked. Raises Denied for what that key has not signed, and where it is nobody's who
    is an operator now; Tampered for a file that was not agreed to.
    """
    store, content, name = need_open_store(holding), message["content"], str(message["name"])
    check_agreed(content, store.keys)
    check_desk(content, store.vault)
    author, said = read_statement(message["statement"], store.vault.agent, name)
    try:
        following, salt = parse_npub(said["next"]), bytes.fromhex(said["salt"])
    except (ValueError, TypeError, KeyError, Usage):
        raise unsigned() from None
    if len(salt) != 32 or author != content["settings"]["key"]:
        raise unsigned()
    note_custodian(holding, message, "turn", name, DESK)
    return seal_for_desk(holding, store, name, {**content["settings"], "key": following})


def take_desk(holding: Holding, unguarding: Unguarding, message: Message) -> None:
    """Do what the supervisor wants for a desk: tell it what its file is to be, or why not.

    To be let in ends when nobody waits for it any more.
    """
    if message["action"] == "join":
        unguarding.begin(message, lambda wish: let_desk_in(holding, wish))
        return
    content, failed = None, None
    try:
        content = turn_desk_key(holding, message)
    except Exception as error:
        failed = explain_change(error)
    tell_of_change(holding, message, content, failed)
