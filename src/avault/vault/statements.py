"""What an agent's key said of the one that takes its place: signed, so that anybody can see it.

nsec.enc carries these statements. A machine that still has the old key finds the vault sealed for
another one, and learns from them that nobody has put a stranger's there.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Locked
from avault.nostr import parse_npub, read_signed, sign, to_npub
from avault.places import Places
from avault.vault.files import read_file
from avault.vault.own_files import decode_file
from avault.vault.records import Vault

if TYPE_CHECKING:
    from typing import Any

    from avault.nostr import Keys


STATEMENTS = 64  # that nsec.enc carries


def make_statement(keys: Keys, identity: str, agent: str) -> str:
    """An agent's key says that another (hex) takes its place in a vault."""
    said = {"type": "avault/rotated", "version": 1, "vault": identity, "agent": agent}
    return sign(keys, json.dumps(said))


def statements_of(vault: Vault) -> list[str]:
    """What the vault's agents before have said, as the vault knows it; what is none is left out."""
    found = []
    for text in vault.facts_of("agent").values():
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            statement = str(json.loads(text)["statement"])
            read_signed(statement)
            found.append(statement)
    return found[:STATEMENTS]


def follow(statements: list[object], identity: str, agent: str) -> str:
    """Which agent (hex) statements lead to from another."""
    next_of = {}
    for text in statements:
        try:
            author, said = read_signed(str(text))
            content = json.loads(said)
            if content["type"] == "avault/rotated" and content["vault"] == identity:
                next_of[author] = str(content["agent"])
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    for _ in range(len(next_of)):
        agent = next_of.get(agent, agent)
    return agent


def explain_stranger(places: Places, vault: Vault, error: AvaultError) -> AvaultError:
    """Why an avault.enc cannot be used: its key was rotated elsewhere, or what is known already."""
    return find_successor(places, vault.identity, vault.agent) or error


def is_superseded(places: Places, known: dict[str, Any]) -> bool:
    """Whether the agent's key was rotated since unlock.json's content was written."""
    return bool(find_successor(places, known["vault"], known["agent"]))


def find_successor(
    places: Places, identity: str, agent: str, operator: str | None = None
) -> AvaultError | None:
    """What is said where nsec.enc is for another agent, to whom this one leads; else None."""
    try:
        data = read_file(places.file("nsec.enc"))
    except AvaultError:
        return None
    return explain_successor(data, identity, agent, operator)


def explain_successor(
    data: bytes, identity: str, agent: str, operator: str | None
) -> AvaultError | None:
    """`find_successor`, by the bytes of an nsec.enc."""
    try:
        content = decode_file("nsec", data, "nsec.enc")
        agent, found = parse_npub(agent), parse_npub(content["agent"])
        operator = parse_npub(operator or content["operator"])
        if content["vault"] != identity or found == agent:
            return None
        if follow(content.get("rotated", []), identity, agent) != found:
            return None
    except AvaultError:
        return None
    names = f"--agent {to_npub(found)} --signer-npub {to_npub(operator)}"
    return Locked(
        "the agent's key of this vault was rotated on another machine",
        f"if that was you, one approval is enough: avault recover {names} --no-drill",
    )
