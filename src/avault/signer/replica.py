"""The vault as events for relays: at which addresses, and how they are read again.

Under which key, and what leads to that, is in `keys/root`.
"""

from __future__ import annotations

import hmac
import json
import time
from typing import TYPE_CHECKING

from avault.errors import Denied, Tampered
from avault.keys.nostr import decrypt, encrypt, public_hex
from avault.places import sha256
from avault.signer.stored import compose_stored, read_stored
from avault.vault.generations import check_generation
from avault.vault.statements import read_successor

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.nostr import Keys

# bytes that are encrypted in an event, which fits then where 64 KiB are the most: NIP-44 pads more
# of them to too much
PART = 40_960
REPLICA_LIMIT = 2 << 20  # bytes of avault.enc that relays are asked to keep
MOST_HEADS = 48  # that are read at a time: of so many one frame has room
MOST_REPLICA_PARTS = REPLICA_LIMIT // PART + 1


def name_event(replica: Keys, *words: str) -> str:
    """An address under that key: who has not the key can tell nothing from it."""
    secret = bytes.fromhex(replica.secret_key().to_hex())
    return hmac.digest(secret, "\0".join(words).encode(), "sha256").hex()[:32]


def name_root(agent: str) -> str:
    """The address of the root under the agent's own public key (hex): whoever has that finds it."""
    return sha256(b"avault root\0" + bytes.fromhex(agent)).hex()[:32]


def compose_root(keys: Keys, content: dict[str, Any], after: int) -> dict[str, Any]:
    """The event that leads the operator to the agent's key.

    `content` is a sealed copy as in nsec.enc, made for this event alone. What names vault and
    operator stays out of it.
    """
    told = {"v": 1, "envelope": content["envelope"], "sealed": content["sealed"]}
    tags = [["d", name_root(public_hex(keys))]]
    return compose_stored(keys, tags, json.dumps(told), next_time(after))


def compose_farewell(keys: Keys, statement: str, after: int) -> dict[str, Any]:
    """The event in a root's place that says who takes the place of an agent before."""
    tags = [["d", name_root(public_hex(keys))]]
    told = {"v": 1, "rotated": statement}
    return compose_stored(keys, tags, json.dumps(told), next_time(after))


def read_farewell(event: object, agent: str) -> str | None:
    """Who takes this agent's place (hex), by what it signed itself; None where that is not said."""
    try:
        return read_successor(json.loads(read_stored(event, agent).content)["rotated"], agent)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def read_root(event: object, agent: str) -> tuple[dict[str, str], int]:
    """The envelope and the sealed copy of a root, and when it was made; raises Tampered."""
    try:
        stored = read_stored(event, agent)
        told = json.loads(stored.content)
        names = ("envelope", "sealed")
        if told["v"] == 1 and {type(told[name]) for name in names} == {str}:
            return {name: told[name] for name in names}, stored.time
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise Tampered("what the relay has is no root of that agent")


def next_time(after: int) -> int:
    """When an event is made that is to replace one: relays keep the later of two."""
    return max(int(time.time()), after + 1)


def compose_copy(
    replica: Keys,
    machine: str,
    generation: dict[str, int],
    data: bytes,
    slot: int,
    after: int,
    epoch: int = 0,
) -> list[dict[str, Any]]:
    """avault.enc as events: parts, and last the head, which names them.

    Each machine has addresses of its own, others in each `epoch`, and two `slot`s for parts: what
    is there stays whole until the head names the other. Raises Denied for one that is too large.
    """
    if len(data) > REPLICA_LIMIT:
        raise Denied(
            f"avault.enc has {len(data):,} bytes; relays are given at most {REPLICA_LIMIT:,}",
            "keep it in git, or take large values out",
        )
    text, created_at, me = data.decode("ascii"), next_time(after), public_hex(replica)
    place, told = name_place(machine, epoch), {"type": "avault/head", "version": 1}
    told |= {"machine": machine, "epoch": epoch, "slot": slot}
    told |= {"generation": generation, "size": len(data), "hash": sha256(data).hex()}
    room = PART - len(json.dumps({**told, "count": MOST_REPLICA_PARTS})) - 1
    if room < PART // 4:
        raise Denied("this vault was written by too many machines for a head")
    pieces = [text[start : start + PART] for start in range(room, len(text), PART)]
    events = [
        compose_stored(replica, [["d", name]], encrypt(replica, me, piece), created_at)
        for name, piece in zip(name_parts(replica, place, slot, len(pieces)), pieces, strict=True)
    ]
    line = json.dumps({**told, "count": len(pieces)})
    content = encrypt(replica, me, f"{line}\n{text[:room]}")
    tags = [["d", name_event(replica, "head", place)], ["t", name_event(replica, "heads")]]
    return [*events, compose_stored(replica, tags, content, created_at)]


def name_place(machine: str, epoch: int) -> str:
    """The word for a machine in its addresses: another in each epoch."""
    return f"{machine}/{epoch}" if epoch else machine


def name_parts(replica: Keys, place: str, slot: int, count: int) -> list[str]:
    """The addresses of a copy's parts, in their order."""
    return [
        name_event(replica, "part", place, str(slot), str(number)) for number in range(1, count + 1)
    ]


def join_copy(replica: Keys, head: dict[str, Any], parts: list[Any]) -> bytes:
    """The avault.enc of a head, with the contents of its parts; raises Tampered.

    Encrypted once more they are not what anybody has seen in git.
    """
    try:
        me = public_hex(replica)
        pieces = [decrypt(replica, me, str(part)) for part in parts[:MOST_REPLICA_PARTS]]
        data = "".join([head["first"], *pieces]).encode("ascii")
        if len(data) == head["size"] and sha256(data).hex() == head["hash"]:
            return data
    except (ValueError, TypeError):
        pass
    raise Tampered(f"a copy of machine {head['machine']} is not what its head says")


def describe_head(head: dict[str, Any]) -> dict[str, Any]:
    """What who fetches the parts is told of a head."""
    return {name: value for name, value in head.items() if name != "first"}


def read_head(replica: Keys, event: object) -> dict[str, Any]:
    """What a head says, and the addresses of its `parts`; raises Tampered."""
    try:
        stored = read_stored(event, public_hex(replica))
        line, _, first = decrypt(replica, public_hex(replica), stored.content).partition("\n")
        told = json.loads(line)
        machine, slot, count = str(told["machine"]), int(told["slot"]), int(told["count"])
        is_ours, place = told["type"] == "avault/head", name_place(machine, int(told["epoch"]))
        is_there = stored.name == name_event(replica, "head", place)
        if not is_ours or told["version"] != 1 or not is_there or slot not in (0, 1):
            raise ValueError("not a head")
        if not 0 <= count <= MOST_REPLICA_PARTS or not 0 < int(told["size"]) <= REPLICA_LIMIT:
            raise ValueError("not a size")
        return {
            "id": stored.id,
            "time": stored.time,
            "machine": machine,
            "generation": check_generation(told["generation"]),
            "size": int(told["size"]),
            "hash": str(told["hash"]),
            "first": first,
            "parts": name_parts(replica, place, slot, count),
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Tampered("what the relay has is no head of this vault") from None
