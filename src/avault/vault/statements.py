"""What an agent's key said of the one that takes its place: signed, so that anybody can see it.

nsec.enc carries these statements. A machine that still has the old key finds the vault sealed for
another one, and learns from them that nobody has put a stranger's there.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Locked, Tampered
from avault.keys.nostr import parse_npub, read_signed, sign_text, to_npub
from avault.places import Places
from avault.vault.files import read_file
from avault.vault.own_files import decode_file, others_of
from avault.vault.records import Vault

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.nostr import Keys


STATEMENTS = 64  # that nsec.enc carries, and that are read of one


def make_statement(keys: Keys, identity: str, agent: str) -> str:
    """An agent's key says that another (hex) takes its place in a vault."""
    said = {"type": "avault/rotated", "version": 1, "vault": identity, "agent": agent}
    return sign_text(keys, json.dumps(said))


def read_successor(statement: object, agent: str) -> str | None:
    """Who takes an agent's place (both hex), by a statement; None where that agent says none."""
    try:
        author, said = read_signed(str(statement))
        told = json.loads(said)
        if author == agent and told["type"] == "avault/rotated":
            return bytes.fromhex(told["agent"]).hex()
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return None


def statements_of(vault: Vault) -> list[str]:
    """What the vault's agents before have said, the last first; what is none is left out.

    Backwards from the agent that it has: who had a key before can add as many as he likes.
    """
    naming: dict[str, list[str]] = {}
    for text in vault.facts_of("agent").values():
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            statement = str(json.loads(text)["statement"])
            said = json.loads(json.loads(statement)["content"])
            naming.setdefault(str(said["agent"]), []).append(statement)
    rest, known = [vault.agent], {vault.agent}
    found = list[str]()
    while rest and len(found) < STATEMENTS:
        for statement in naming.get(rest.pop(0), []):
            with contextlib.suppress(ValueError):
                author, _ = read_signed(statement)
                found.append(statement)
                rest += {author} - known
                known.add(author)
    return found[:STATEMENTS]


def follow(next_of: dict[str, set[str]], agent: str) -> str:
    """Which agent (hex) statements lead to from another.

    Those of one who has named two lead nowhere: one of them is forged, or two have rotated at once.
    """
    for _ in range(len(next_of)):
        named = next_of.get(agent, set())
        agent = min(named) if len(named) == 1 else agent
    return agent


def descend(next_of: dict[str, set[str]], agent: str) -> set[str]:
    """All agents (hex) to whom any statement leads from another, which is one of them."""
    found, rest = {agent}, [agent]
    while rest:
        new = next_of.get(rest.pop(), set()) - found
        found |= new
        rest += new
    return found


def read_statements(statements: list[object], identity: str) -> dict[str, set[str]]:
    """By each agent (hex) of a vault who has signed that another takes its place, which ones."""
    next_of: dict[str, set[str]] = {}
    for text in statements[:STATEMENTS]:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            author, said = read_signed(str(text))
            content = json.loads(said)
            if content["type"] == "avault/rotated" and content["vault"] == identity:
                next_of.setdefault(author, set()).add(str(content["agent"]))
    return next_of


def succeed_vault(places: Places, vault: Vault) -> AvaultError | None:
    """`find_successor` of an open vault's agent."""
    before: list[object] = [*statements_of(vault)]
    return find_successor(places, vault.identity, vault.agent, before=before)


def succeed_known(places: Places, known: dict[str, Any]) -> AvaultError | None:
    """`find_successor` of the agent of unlock.json's content."""
    before = known.get("rotated", [])
    return find_successor(places, known["vault"], known["agent"], before=before)


def find_successor(
    places: Places,
    identity: str,
    agent: str,
    operator: str | None = None,
    before: list[object] | None = None,
) -> AvaultError | None:
    """What is said where nsec.enc is for another agent, to whom this one leads: Locked; else None.

    Tampered where it is another branch: one that was rotated away, whom this agent comes from by
    what those `before` have said, leads there too. Whoever has that one's key can make this.
    """
    try:
        data = read_file(places.file("nsec.enc"))
    except AvaultError:
        return None
    return explain_successor(data, identity, agent, operator, before)


def explain_successor(
    data: bytes,
    identity: str,
    agent: str,
    operator: str | None,
    before: list[object] | None = None,
) -> AvaultError | None:
    """`find_successor`, by the bytes of an nsec.enc."""
    try:
        content = decode_file("nsec", data, "nsec.enc")
        agent, found = parse_npub(agent), parse_npub(content["agent"])
        is_there = operator in [each["operator"] for each in (content, *others_of(content))]
        operator = parse_npub(operator if operator and is_there else content["operator"])
    except AvaultError:
        return None
    if content["vault"] != identity or found == agent:
        return None
    said = read_statements(content.get("rotated", []), identity)
    if follow(said, agent) == found:
        names = f"--agent {to_npub(found)} --signer-npub {to_npub(operator)} --no-drill"
        return Locked(
            "the agent's key of this vault was rotated on another machine",
            f"if that was you, one approval is enough: avault recover {names}",
        )
    known = read_statements(before or [], identity)
    is_branch = any(
        agent in descend(known, each) and found in descend(said, each) for each in {agent, *known}
    )
    if found in known or not is_branch:  # an old copy, or a stranger's
        return None
    return Tampered(
        "one agent's key of this vault was rotated to two: whoever has a key that was rotated away"
        " can make this, and it is an attack unless two people rotated at once",
        "put avault.enc and nsec.enc back (git). Only if two people did, and to go over to the"
        " other's: save what only this machine has (avault export), compare nsec.enc's agent with"
        " what `avault status` shows on the other's machine, and type the npub from there: avault"
        " recover --agent NPUB --signer-npub NPUB",
    )
