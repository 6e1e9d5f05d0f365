"""A desk that opens many machines together, as one of these has it: let in, used, its key turned.

The desk has a key for each machine, of one that its operator's phone opens. Here is the public
half of this machine's, and an unlock key that is encrypted to it: that opens one sealed copy of the
agent's key and nothing else, as with every custodian. So the machine can seal anew for the next key
without ever knowing one.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from typing import TYPE_CHECKING

from avault.custody.custodian import render_answer
from avault.custody.custodians import Custodians, check_custodian
from avault.custody.obtaining import KeptKey, check_desk
from avault.daemon.entrusting import ask_operator, explain_change, mark_agreed
from avault.daemon.keyholder import Keyholder
from avault.daemon.wire import Session
from avault.errors import Denied, Tampered, Usage
from avault.nostr import (
    decrypt,
    encrypt,
    make_keys,
    parse_keys,
    parse_npub,
    public_hex,
    read_signed,
    to_npub,
)
from avault.places import Places
from avault.protocol import refuse_unknown
from avault.vault.own_files import check_name
from avault.vault.seal import seal_keys

if TYPE_CHECKING:
    from typing import Any

    from avault.daemon.holding import Holding
    from avault.protocol import Message


DESK = "desk"  # the kind of custodian


def wrap_for_desk(public: str, unlock: str) -> str:
    """An unlock key, as only who has the secret key of `public` (hex) reads it."""
    once = make_keys()
    return json.dumps({"from": public_hex(once), "sealed": encrypt(once, public, unlock)})


def find_desk(places: Places, name: str) -> dict[str, Any]:
    """The file of a desk; raises NotFound, Usage, Tampered."""
    content = Custodians(places).load(name)
    if content["kind"] != DESK:
        raise Usage(f"{name} is no desk", "see: avault custody list")
    return content


def open_with_desk(places: Places, name: str, secret: str) -> KeptKey:
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
    holding: Holding, name: str, settings: dict[str, str], replaces: dict[str, Any] | None
) -> None:
    """Write a desk's file, with a fresh unlock key for the key in `settings`; raises AvaultError.

    Until then what the one before opens stays, and after that it opens nothing on this disk.
    """
    store = holding.store
    if not store:
        raise Denied("only an open vault can be entrusted", "open it: avault unlock")
    vault, phoneless = store.vault, holding.consent.phoneless
    names = vault.identity, vault.operator, vault.name, name
    unlock, sealed = seal_keys(store.keys, *names, phoneless)
    about = {"custodian": name, "kind": DESK, "account": name, "asks": True, "settings": settings}
    agreed = mark_agreed(store.keys, {**about, "shared": False})
    kept = wrap_for_desk(settings["key"], unlock)
    custodians = Custodians(holding.places)
    custodians.save({**about, **sealed, "kept": kept, "agreed": agreed})
    if not replaces:
        custodians.write([*(each for each in custodians.order() if each != name), name])


async def let_desk_in(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Have a desk open this vault from now on, if the operator agrees on this machine's phone.

    Its secret key comes too, once, and is not kept: it shows that the desk has it. The phone has
    one such question at a time, for as long as its client is there.
    """
    holding, store = keyholder.holding, keyholder.open_store()
    name, label = check_custodian(str(request.get("name"))), check_name(str(request.get("label")))
    is_there = Custodians(keyholder.places).is_there(name)
    replaces = find_desk(keyholder.places, name) if is_there else None
    keys = parse_keys(str((await session.frame()).get("key")))
    operator = to_npub(parse_npub(str(request.get("operator"))))
    settings = {"key": public_hex(keys), "label": label, "operator": operator}
    check_desk({"custodian": name, "settings": settings}, store.vault)
    keyholder.release(session, {"op": "custody", "for": f"add {name}, {DESK}"})
    sentence = (
        f"avault: let the desk {label} open {store.vault.name} on {holding.host} TOGETHER with"
        f" other machines, by ONE approval there, of {operator}"
    )
    title = f"the desk {label} for {store.vault.name}"

    def tell(code: str) -> None:
        session.send({"progress": "asking", "code": code})

    if keyholder.askings.is_joining:
        raise Denied("another desk is just being let in", "let that end first")
    ask = ask_operator(holding, store, {"ticket": ""}, title, sentence, tell)
    asking = asyncio.ensure_future(ask)

    def give_up() -> None:
        asking.cancel()

    keyholder.askings.is_joining, session.ended = True, give_up
    try:
        await asking
    except TimeoutError as error:
        raise explain_change(error) from None
    finally:
        keyholder.askings.is_joining, session.ended = False, None
    seal_for_desk(holding, name, settings, replaces)
    await open_with_desk(keyholder.places, name, keys.secret_key().to_hex()).obtain(
        holding.ratchet.content  # what was written opens, with that key
    )
    keyholder.reporter.report()
    return {"ok": True, "name": name, "key": settings["key"]}


async def turn_desk(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Seal anew for the desk's next key, which its present one has signed; no phone is asked.

    Raises Denied for what that key has not signed, and where it is nobody's who is an operator
    now; Tampered for a file that was not agreed to.
    """
    store, name = keyholder.open_store(), check_custodian(str(request.get("name")))
    content = find_desk(keyholder.places, name)
    if not hmac.compare_digest(
        content["agreed"], mark_agreed(store.keys, {**content, "shared": False})
    ):
        raise Tampered(f"the desk {name} is not as it was agreed to", "enroll it anew at the desk")
    check_desk(content, store.vault)
    try:
        author, text = read_signed(str((await session.frame()).get("statement")))
        said = json.loads(text)
        following = parse_npub(said["next"])
        is_right = (said["agent"], said["desk"]) == (store.vault.agent, name)
        is_right = is_right and len(bytes.fromhex(said["salt"])) == 32
    except (ValueError, TypeError, KeyError, Usage, RecursionError):
        author, following, is_right = "", "", False
    if not is_right or author != content["settings"]["key"]:
        raise Denied(
            "the desk's present key has not signed that", "at the desk: avault fleet doctor"
        )
    keyholder.release(session, {"op": "custody", "for": f"turn {name}, {DESK}"})
    seal_for_desk(keyholder.holding, name, {**content["settings"], "key": following}, content)
    return {"ok": True, "name": name, "key": following}


async def serve_desk(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """What a desk has an open vault do; raises Usage."""
    refuse_unknown(request, frozenset({"action", "name", "label", "operator"}))
    if request.get("action") == "join":
        return await let_desk_in(keyholder, session, request)
    if request.get("action") == "turn":
        return await turn_desk(keyholder, session, request)
    raise Usage("no such action", "join, or turn")
