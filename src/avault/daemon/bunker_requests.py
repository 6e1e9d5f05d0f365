"""What a client may ask about invitations: to invite, to see who is invited, to take one back."""

from __future__ import annotations

import secrets
import socket
import time
from typing import TYPE_CHECKING

from avault.daemon.bunker import answer_event
from avault.daemon.changes import write
from avault.daemon.signing import WAY_FOR_NOSTR, admit_key, encode_public
from avault.daemon.wire import Session
from avault.errors import Denied, Usage
from avault.keys.keyholder import Keyholder
from avault.places import sha256
from avault.protocol import refuse_unknown
from avault.ssh_wire import decode_base64
from avault.vault.invitations import (
    METHODS,
    MOST_RATE,
    SIGN_EVENT,
    Invitation,
    add_invitation,
    refuse_own_keys,
    remove_invitation,
)
from avault.vault.names import check_group, check_key
from avault.vault.nostr_rules import CIPHERS, is_kind, is_peer
from avault.vault.own_files import check_relay
from avault.vault.records import Vault
from avault.vault.rules import MOST, Rules, join_rules

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from avault.protocol import Message

    Act = Callable[["Keyholder", "Session", "Message"], Awaitable["Message"]]


LONGEST_INVITED = 366 * 86_400  # seconds
USUAL_RATE = 60  # requests a minute
MOST_RELAYS_INVITED = 4
INVITE_FIELDS = frozenset("action name group key kinds methods peers seconds rate relays".split())
LOOPBACK = "127.0.0.1"
OWN_RELAY = "/avault"  # the path that tells a relay of ours from others on this machine


async def serve_bunker(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """A request about invitations, or by one: see `BUNKER`."""
    act = BUNKER.get(str(request.get("action")))
    if not act:
        raise Usage("no such action", f"one of: {', '.join(BUNKER)}")
    return await act(keyholder, session, request)


async def invite(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Invite a client to have a key sign; its address, with a secret that is good once.

    No more than the key's guard lets through: so nobody has to agree.
    """
    refuse_unknown(request, INVITE_FIELDS)
    store = keyholder.open_store()
    place = f"{check_group(request.get('group'))}/{check_key(request.get('key'))}"
    fields = {"name": check_group(request.get("name")), "key": place, **check_limits(request)}
    public = encode_public(keyholder, place)
    rules, _ = admit_key(keyholder, place, public, WAY_FOR_NOSTR)
    fields["public"] = decode_base64(public, 32).hex()
    refuse_own_keys(store.vault, fields["public"])
    for peer in fields["peers"]:
        refuse_own_keys(store.vault, fields["public"], {"peer": peer})
    refuse_wider(place, fields, rules)
    relays = check_given_relays(request.get("relays"))
    fields["relays"] = relays or [find_local_relay(keyholder)]
    from urllib.parse import quote

    secret = secrets.token_hex(16)
    fields["secret"] = sha256(secret.encode()).hex()
    made = await keyholder.signing.ask(do="make", kind="nostr")
    fields["transport"], now = made["value"], int(time.time())

    def change(vault: Vault) -> None:
        add_invitation(vault, fields, now, store.machine)

    noted = {**request, "for": f"invite {fields['name']}"}
    await write(keyholder, session, noted, change)
    keyholder.reporter.report()
    made_one = Invitation("", store.machine, fields, "")
    where = "&".join(f"relay={quote(url, safe='')}" for url in fields["relays"])
    uri = f"bunker://{made_one.address}?{where}&secret={secret}"
    return {"ok": True, "uri": uri, "invitation": made_one.to_dict()}


def check_limits(request: Message) -> dict[str, Any]:
    """What an invitation lets through, of the fields of a request; raises Usage."""
    kinds = check_members(request, "kinds", is_kind, "a number, as in 1 or 30023")
    peers = check_members(request, "peers", is_peer, "64 hex digits of a public key, or any")
    usual = [SIGN_EVENT] if kinds else []
    given = {**request, "methods": request.get("methods") or usual}
    methods = check_members(given, "methods", METHODS.__contains__, f"one of: {', '.join(METHODS)}")
    if not methods or (SIGN_EVENT in methods) != bool(kinds):
        raise Usage("which kinds of events may be signed?", "as in: --kinds 1,7")
    if bool({*methods} & {*CIPHERS}) != bool(peers):
        raise Usage("with whom may texts be encrypted, or decrypted?", "as in: --peer NPUB")
    seconds, rate = request.get("seconds"), request.get("rate", USUAL_RATE)
    if type(seconds) is not int or not 0 < seconds <= LONGEST_INVITED:
        raise Usage("for how long?", "as in: --for 7d; at most a year")
    if type(rate) is not int or not 0 < rate <= MOST_RATE:
        raise Usage(f"a rate is 1 to {MOST_RATE} requests a minute")
    until = int(time.time()) + seconds
    limits = {"kinds": kinds, "methods": methods, "peers": peers}
    return {**limits, "until": until, "rate": rate}


def check_members(
    request: Message, field: str, is_member: Callable[[str], bool], example: str
) -> list[str]:
    """A list of words of a request, each once; raises Usage."""
    found = request.get(field) or []
    if not isinstance(found, list) or len(found) > MOST:
        raise Usage(f"{field} is a list of at most {MOST} words")
    if not all(isinstance(each, str) and is_member(each) for each in found):
        raise Usage(f"not one of {field}", example)
    return sorted({*found})


def refuse_wider(place: str, fields: dict[str, Any], rules: Rules) -> None:
    """Raise Denied where an invitation would let through what the key's guard does not."""
    ciphers = [each for each in fields["methods"] if each != SIGN_EVENT]
    named = {"kinds": fields["kinds"], "ciphers": ciphers, "peers": fields["peers"]}
    for name, members in named.items():
        wanted = Rules(**{name: members})
        own = Rules()
        own.named[name] = rules.named[name]
        if members and (not own.named[name] or not wanted.asks_at_least(join_rules([own]))):
            words = f"--{name} {','.join(members)}"
            if name == "peers":
                words = " ".join(f"--peer {each}" for each in members)
            raise Denied(
                f"{place} is guarded, and does less: {rules}",
                f"the phone has to agree to more: avault guard {place} {words}",
            )


def check_given_relays(found: object) -> list[str]:
    """Relays where an invitation is good; raises Usage."""
    if found in (None, []):
        return []
    if not isinstance(found, list) or len(found) > MOST_RELAYS_INVITED:
        raise Usage(f"relays is a list of at most {MOST_RELAYS_INVITED} URLs")
    return [check_relay(str(each)) for each in found]


def is_local(url: str) -> bool:
    """Whether it is the URL of a relay of our own."""
    return url.startswith(f"ws://{LOOPBACK}:") and url.endswith(OWN_RELAY)


def find_local_relay(keyholder: Keyholder) -> str:
    """The URL of this machine's own relay: that of those who are invited, or at a free port."""
    store = keyholder.open_store()
    for each in keyholder.signing.invited.look(store.vault):
        if each.machine == store.machine and (local := [*filter(is_local, each.relays)]):
            return local[0]
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        return f"ws://{LOOPBACK}:{free.getsockname()[1]}{OWN_RELAY}"


async def show_invited(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Who is invited, and for what; no secret."""
    refuse_unknown(request, frozenset({"action"}))
    found = keyholder.signing.invited.look(keyholder.open_store().vault)
    return {"ok": True, "invitations": [each.to_dict() for each in found]}


async def revoke(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Take an invitation back, on all machines: its client is answered no more."""
    refuse_unknown(request, frozenset({"action", "name"}))
    machine, name = keyholder.open_store().machine, request.get("name")

    def change(vault: Vault) -> None:
        remove_invitation(vault, name, int(time.time()), machine)

    said = name if isinstance(name, str) else "?"
    await write(keyholder, session, {**request, "for": f"revoke {said}"}, change)
    keyholder.reporter.report()
    return {"ok": True}


async def serve_front(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Under which keys (hex) a front end is to listen, at which relays, and for whom."""
    refuse_unknown(request, frozenset({"action"}))
    store = keyholder.open_store()
    mine = [
        {"address": each.address, "relays": each.relays, "client": each.client}
        for each in keyholder.signing.invited.look(store.vault)
        if each.machine == store.machine
    ]
    return {"ok": True, "listen": mine}


async def hear_event(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """The answer to an event of a client's."""
    refuse_unknown(request, frozenset({"action", "event"}))
    return await answer_event(keyholder, session, request)


BUNKER: dict[str, Act] = {
    "invite": invite,
    "list": show_invited,
    "revoke": revoke,
    "listen": serve_front,
    "event": hear_event,
}
