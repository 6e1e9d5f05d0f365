"""What the keyholder does for relays that keep the vault: it signs, and reads heads.

It sends nothing: what it signs is ciphertext, for a process that holds no key.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING

from avault.daemon.introducing import introduce_to_relay
from avault.daemon.replica_relays import change_relays, list_relays
from avault.daemon.wire import Session
from avault.errors import AvaultError, Denied, Tampered, Usage
from avault.keys.keyholder import Keyholder
from avault.keys.nostr import decrypt, parse_npub, public_hex, read_keys, to_npub
from avault.keys.root import replica_keys, seal_root
from avault.places import sha256
from avault.signer.replica import (
    MOST_HEADS,
    compose_copy,
    compose_farewell,
    compose_root,
    describe_head,
    join_copy,
    name_event,
    name_root,
    read_head,
    read_root,
)
from avault.vault.presence import read_vault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from avault.keys.nostr import Keys
    from avault.protocol import Message
    from avault.vault.store import Store

    Replicate = Callable[["Keyholder", "Session", Message], Awaitable[Message]]

AHEAD = 900  # seconds that a head may be later than the write that it was made for
FARTHEST = 3600  # seconds from now that an event may be signed for


async def tell_about(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Which relays there are, and where what they keep is found; and roots of agents before."""
    store = keyholder.open_store()
    if store.doubted:
        raise store.doubted
    replica, before = replica_keys(store.keys), find_agents_before(store)
    return {
        "relays": [*(named := list_relays(store.vault))],
        "named": named,
        "author": public_hex(replica),
        "heads": name_event(replica, "heads"),
        "agent": store.vault.agent,
        "operator": store.vault.operator,
        "roots": {agent: name_root(agent) for agent in (store.vault.agent, *before)},
        "statements": {agent: said for agent, (_, said) in before.items()},
        "rollback": store.remarks.accepted,
        "machine": store.machine,
        "generation": store.vault.generation,
        "digest": store.digest,
    }


def find_agents_before(store: Store) -> dict[str, tuple[Keys, str]]:
    """By agents (hex) that others have replaced: their keys, and what they have said of that."""
    found = {}
    for text in store.vault.facts_of("agent").values():
        with contextlib.suppress(Tampered, ValueError, TypeError, KeyError, RecursionError):
            kept = json.loads(text)
            keys = read_keys(kept["nsec"])
            found[public_hex(keys)] = keys, str(kept["statement"])
    return found


async def sign_copy(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """The vault as it is on the disk, as events for one of the two slots."""
    await keyholder.holding.writer.finish()
    store, data = keyholder.open_store(), read_vault(keyholder.places)
    if store.trouble or store.writing or sha256(data).hex() != store.digest:
        raise store.trouble or AvaultError("avault.enc is being written", "try again")
    slot, epoch = read_count(request, "slot", 1), read_count(request, "epoch", 1 << 20)
    what = (replica_keys(store.keys), store.machine, dict(store.vault.generation), data)
    digest, after = store.digest, read_time(request)
    events = await asyncio.to_thread(compose_copy, *what, slot, after, epoch)
    return {"digest": digest, "events": events}


async def sign_root(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """A new root, with an unlock key of its own; an agent's before says who has its place.

    None if it is to be signed only in place of one for an operator before (`judge`), and the
    `latest` is not. Raises Denied where that is for an operator whom this vault does not know.
    """
    store, after, agent = keyholder.open_store(), read_time(request), str(request.get("agent"))
    vault, before = store.vault, find_agents_before(store)
    if agent not in (vault.agent, *before):
        raise Usage("not an agent of this vault")
    if store.trouble:
        raise store.trouble
    is_latest_ours = agent != vault.agent or is_root_ours(store, request.get("latest"))
    if request.get("judge") and is_latest_ours:
        return {"event": None}
    keyholder.release(session, {"op": "replica", "for": f"root of {to_npub(agent)[:19]}…"})
    if agent != vault.agent:
        return {"event": compose_farewell(*before[agent], after)}
    content = seal_root(store.keys, vault.identity, vault.operator, vault.name)
    return {"event": compose_root(store.keys, content, after)}


def is_root_ours(store: Store, latest: object) -> bool:
    """Whether a root is for this vault's first operator, or none; not, where for one before.

    Raises Denied where it is for another: this vault may not know yet whom that one succeeds.
    """
    try:
        root, _ = read_root(latest, store.vault.agent)
    except Tampered:
        return True
    marked = [name.partition("/")[2] for name in store.vault.facts_of("revoked")]
    before = [parse_npub(name) for name in marked if name.startswith("npub1")]
    for operator in (store.vault.operator, store.vault.made_for, *before):
        with contextlib.suppress(ValueError):
            decrypt(store.keys, operator, root["envelope"])
            return operator == store.vault.operator
    raise Denied(
        "relays have a root for another first operator than this vault knows, so none is put there",
        "take in what other machines have written: git pull, or avault replica push",
    )


async def tell_of_heads(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """What heads say whose copies have what is not in the vault; of those `known`, the ids.

    Raises Tampered where one has writes of this machine that it never made.
    """
    given = (await session.frame()).get("events")
    store = keyholder.open_store()
    heads: list[dict[str, Any]] = []
    for event in given[:MOST_HEADS] if isinstance(given, list) else []:
        with contextlib.suppress(Tampered):
            heads.append(read_head(replica_keys(store.keys), event))
    for head in sorted(heads, key=lambda head: int(head["time"])):
        doubt_writer(keyholder, store, head)
    new = [head for head in heads if not store.vault.is_after(head["generation"])]
    known = [head["id"] for head in heads if head not in new]
    return {"heads": [describe_head(head) for head in new], "known": known}


def doubt_writer(keyholder: Keyholder, store: Store, head: dict[str, Any]) -> None:
    """Raise Tampered where a head has writes of this machine that it never made.

    The keyholder knows which states it has served, and takes nobody's word for it.
    """
    served = head["hash"] if head["machine"] == store.machine else ""
    try:
        store.doubt(head["generation"], min(head["time"], int(time.time())) - AHEAD, served)
    except Tampered:
        keyholder.reporter.report()
        raise


async def join_parts(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """The avault.enc that a head and the contents of its parts make."""
    said = await session.frame()
    replica, parts = replica_keys(keyholder.open_store().keys), said.get("parts")
    head = read_head(replica, said.get("event"))
    joined = join_copy(replica, head, parts if isinstance(parts, list) else [])
    return {"copy": joined.decode()}


def read_time(request: Message) -> int:
    """The time that an event is to be later than; none that is signed is far in the future.

    Whoever runs as this user could have one signed that no later one ever replaces.
    """
    after = read_count(request, "after", 1 << 40)
    if after > time.time() + FARTHEST:
        raise Denied("relays have an event of a time that is yet to come", "is the clock right?")
    return after


def read_count(request: Message, field: str, most: int) -> int:
    """A number of a request; raises Usage."""
    value = request.get(field)
    if type(value) is not int or not 0 <= value <= most:
        raise Usage(f"{field} is a number from 0 to {most}")
    return value


async def introduce_copies(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Who gives a relay the copies, where it wants to know that (NIP-42); only to one of ours."""
    store = keyholder.open_store()
    return introduce_to_relay(replica_keys(store.keys), request, list_relays(store.vault))


REPLICATE: dict[str, Replicate] = {
    "about": tell_about,
    "auth": introduce_copies,
    "add": change_relays,
    "remove": change_relays,
    "copy": sign_copy,
    "root": sign_root,
    "heads": tell_of_heads,
    "join": join_parts,
}


async def serve_replica(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """What is asked of an open vault for the relays that keep it."""
    action = request.get("action")
    replicate = REPLICATE.get(action) if isinstance(action, str) else None
    if not replicate:
        raise Usage("no such action", "see references/protocol.md")
    return {**await replicate(keyholder, session, request), "ok": True}
