"""The one request behind all that signs: decode, rule, count, sign, log; or refuse.

Whoever asks, a front end or a program, gets a signature and never a key.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from avault.daemon.gate import Passage, check, take_out
from avault.daemon.keyholder import Keyholder
from avault.daemon.wire import Session
from avault.errors import AvaultError, Denied, TimedOut, Usage
from avault.signing.ssh_uses import LONGEST_BIND, decode_use
from avault.signing.ssh_words import describe_use
from avault.ssh_wire import decode_base64, encode_base64
from avault.vault.names import check_group, check_key
from avault.vault.rules import join_rules
from avault.vault.ssh_rules import find_ssh_fault, may_offer

if TYPE_CHECKING:
    from typing import Any

    from avault.protocol import Message


WAYS_TO_SIGN = {"ssh": "ssh", "sshsig": "ssh"}  # what is signed, and the way that a guard names


async def serve_sign(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Sign what a guard lets be signed: decode, rule, count, sign, log.

    A caller that leaves takes the request along: this task is cancelled with its connection.
    """
    way = WAYS_TO_SIGN.get(str(request.get("as")))
    noted: Message = {"op": "sign", "for": request.get("as") if way else "?"}
    try:
        if not way:
            raise Usage("as is ssh or sshsig", "what is not understood is not signed")
        name, public = choose_signing_key(keyholder, request, way)
        group, _, key = name.partition("/")
        noted |= {"group": group, "key": key}
        said = {each: request.get(each) for each in ("as", "payload", "binds", "flags")}
        said["binds"] = said["binds"] or []
        use = await decode(keyholder, {"public": public, **said})
        guards = keyholder.gate.look(keyholder.open_store().vault)
        sentence = describe_use(use, name, guards.rules_of(guards.of(name)).servers, request)
        noted["signed"] = sentence
        passage = admit_use(keyholder, name, public, way, use)
        if passage.is_counted:
            await keyholder.change(passage.count(keyholder.open_store().machine))
        value = passage.vault.groups[group].keys[key][0].value
        signature = await keyholder.signing.sign(public, value, **said)
        admit_use(keyholder, name, public, way, use, True)  # what has changed meanwhile counts
        keyholder.release(session, noted)
    except asyncio.CancelledError:
        keyholder.release(session, noted, TimedOut.code)
        raise
    except AvaultError as error:
        keyholder.release(session, {**noted, "why": error.message}, error.code)
        raise
    return {"ok": True, "signature": signature, "name": name, "said": sentence}


async def decode(keyholder: Keyholder, said: Message) -> dict[str, Any]:
    """What is to be signed; raises Usage, Denied. Servers are proven by the process that signs."""
    if said["binds"]:
        return dict((await keyholder.signing.ask(do="decode", **said))["use"])
    return decode_use(said, None)


def choose_signing_key(keyholder: Keyholder, request: Message, way: str) -> tuple[str, str]:
    """The name of the key that is asked for, by GROUP and KEY or by its public half, and that.

    Raises Usage, NotFound.
    """
    vault = keyholder.open_store().vault
    if request.get("public") is not None:
        try:
            blob = decode_base64(request["public"], LONGEST_BIND)
        except ValueError:
            raise Usage("public is a public key in base64") from None
        guards = keyholder.gate.look(vault)
        return keyholder.signing.keys.find(vault, blob, way, guards), str(request["public"])
    group, key = check_group(request.get("group")), check_key(request.get("key"))
    vault.secrets(group, key)
    return f"{group}/{key}", encode_public(keyholder, f"{group}/{key}")


def encode_public(keyholder: Keyholder, name: str) -> str:
    """The public half of a key that signs, in base64; raises Usage."""
    known = keyholder.signing.keys.look(keyholder.open_store().vault).get(name)
    if not known:
        raise Usage("that is no key that signs", "see which there are: avault list")
    return encode_base64(known.blob)


def admit_use(
    keyholder: Keyholder,
    name: str,
    public: str,
    way: str,
    use: dict[str, Any],
    is_reserved: bool = False,
) -> Passage:
    """What of the vault may be used so: the key alone; raises Denied, NotFound.

    A key signs only where a guard names the way. One whose use `is_reserved` may have no more left.
    """
    vault = keyholder.open_store().vault
    guards = keyholder.gate.look(vault)
    group, _, key = name.partition("/")
    vault.secrets(group, key)
    if encode_public(keyholder, name) != public:
        raise Denied(f"{name} is another key meanwhile", "ask again")
    found = guards.of(name)
    rules = guards.rules_of(found)
    if rules.ways() is None:
        raise Denied(
            f"{name} is guarded by nothing that lets it sign", f"avault guard {name} --only {way}"
        )
    if is_reserved:
        rules = join_rules([rules])
        rules.times = None
    if not rules.lets(way, time.time()):
        check(guards, name, way, time.time())
    if fault := find_ssh_fault(use, rules.servers, rules.users, rules.namespaces):
        raise Denied(f"{name} may not {fault}", f"see what it may: avault guard {name}")
    return Passage(take_out(vault, [(group, key)]), way, rules.times is not None, [])


async def serve_signing_keys(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """The public halves of the keys that may sign by a way; for SSH those that fit the server.

    It is what an agent lists: a server ends the connection after a few keys that are not its.
    """
    way = WAYS_TO_SIGN.get(str(request.get("as")))
    bound: dict[str, Any] = {"server": None, "hops": 0}
    if not way:
        raise Usage("as is ssh or sshsig")
    vault = keyholder.open_store().vault
    keys = keyholder.signing.keys.look(vault)
    if keys and request.get("binds"):
        bound = await keyholder.signing.ask(do="binds", binds=request["binds"])
    guards, now = keyholder.gate.look(vault), time.time()
    fits = {name: guards.rules_of(guards.of(name)) for name in keys}
    may = [
        {"name": name, **keys[name].to_dict()}
        for name, rules in fits.items()
        if rules.ways() is not None
        and rules.lets(way, now)
        and may_offer(bound["server"], bound["hops"], rules.servers, rules.namespaces)
    ]
    return {"ok": True, "keys": may}
