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
    next_of = read_statements(statements, identity)
    for _ in range(len(next_of)):
        agent = next_of.get(agent, agent)
    return agent


def read_statements(statements: list[object], identity: str) -> dict[str, str]:
    """By each agent (hex) of a vault who has signed that another takes its place, which."""
    next_of = {}
    for text in statements:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            author, said = read_signed(str(text))
            content = json.loads(said)
            if content["type"] == "avault/rotated" and content["vault"] == identity:
                next_of[author] = str(content["agent"])
    return next_of


def explain_stranger(places: Places, vault: Vault, error: AvaultError) -> AvaultError:
    """Why an avault.enc cannot be used: its key was rotated elsewhere, or what is known already."""
    return succeed_vault(places, vault) or error


def explain_refusal(places: Places, known: dict[str, Any], error: AvaultError) -> AvaultError:
    """The same for one that has not been opened, by unlock.json's content."""
    names, before = (known["vault"], known.get("agent", "")), known.get("rotated", [])
    return find_successor(places, *names, before=before) or error


def succeed_vault(places: Places, vault: Vault) -> AvaultError | None:
    """`find_successor` of an open vault's agent."""
    before: list[object] = [*statements_of(vault)]
    return find_successor(places, vault.identity, vault.agent, before=before)


def is_superseded(places: Places, known: dict[str, Any]) -> bool:
    """Whether the agent's key was rotated since unlock.json's content was written, or besides."""
    before = known.get("rotated", [])
    return bool(find_successor(places, known["vault"], known["agent"], before=before))


def find_successor(
    places: Places,
    identity: str,
    agent: str,
    operator: str | None = None,
    before: list[object] | None = None,
) -> AvaultError | None:
    """What is said where nsec.enc is for another agent, to whom this one leads; else None.

    Or one `before` it does, by what those have said: then two machines have rotated at once.
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
        operator = parse_npub(operator or content["operator"])
    except AvaultError:
        return None
    if content["vault"] != identity or found == agent:
        return None
    said, known = content.get("rotated", []), before or []
    names = f"--agent {to_npub(found)} --signer-npub {to_npub(operator)} --no-drill"
    if follow(said, identity, agent) == found:
        return Locked(
            "the agent's key of this vault was rotated on another machine",
            f"if that was you, one approval is enough: avault recover {names}",
        )
    before_us = read_statements(known, identity)
    shared = [
        each
        for each in before_us
        if follow(known, identity, each) == agent and follow(said, identity, each) == found
    ]
    if found in before_us or not shared:  # an old copy, or a stranger's
        return None
    return Locked(
        "the agent's key of this vault was rotated on two machines at once, and nsec.enc is the"
        " other's",
        "to keep this one, put avault.enc and nsec.enc back (git); to go over to the other one,"
        f" save first what only this one has (avault export), then: avault recover {names}",
    )
