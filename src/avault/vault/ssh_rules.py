"""What a guard says of signing for SSH: to which servers, as which users, for which files.

Each is a list of which one has to fit. What a key is guarded by when it is made names no server
and no namespace, so it signs nothing: whatever is to be signed has to be named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.vault.names import DIGITS, LETTERS

if TYPE_CHECKING:
    from typing import Any


ANY_SERVER, UNPROVEN_SERVER, FORWARDED_TOO = "any", "unproven", "forwarded"
WORDS_FOR_SERVERS = {  # what stands for no one server, in words
    ANY_SERVER: "any server",
    UNPROVEN_SERVER: "a server that is not proven",
    FORWARDED_TOO: "one behind a forwarded agent",
}
BASE64 = LETTERS | DIGITS | set("+/")
VISIBLE = frozenset(map(chr, range(0x21, 0x7F)))
SERVER_CHARACTERS = LETTERS | DIGITS | set(".-_:[]")


def is_server(text: str) -> bool:
    """Whether it is NAME=SHA256:…, a server with its host key's fingerprint; or one of the words.

    `any` is each server that proves who it is, `unproven` a client that has none prove it,
    `forwarded` one behind another server.
    """
    name, equals, found = text.partition("=")
    if not equals:
        return text in WORDS_FOR_SERVERS
    digest = found.removeprefix("SHA256:")
    return (
        0 < len(name) <= 255
        and set(name) <= SERVER_CHARACTERS
        and name not in WORDS_FOR_SERVERS
        and found != digest
        and len(digest) == 43
        and set(digest) <= BASE64
    )


def describe_servers(members: frozenset[str]) -> str:
    """Servers in words: each name once, and how the fingerprints of its keys begin (96 bits)."""
    names: dict[str, list[str]] = {}
    for each in sorted(members):
        name, _, found = each.partition("=")
        names.setdefault(name, []).append(f"{found[:23]}…")
    shown = [WORDS_FOR_SERVERS.get(name) or f"{name} ({', '.join(names[name])})" for name in names]
    return " or ".join(shown) or "no server"


def is_user(text: str) -> bool:
    """Whether it can be a user's name on a server."""
    return 0 < len(text) <= 64 and set(text) <= VISIBLE


def is_namespace(text: str) -> bool:
    """Whether it can be the namespace of a signature (PROTOCOL.sshsig): git, file, a@b."""
    return 0 < len(text) <= 64 and set(text) <= VISIBLE


def is_server_within(narrow: str, wide: frozenset[str]) -> bool:
    """Whether a member of `servers` is among what others stand for."""
    return narrow in wide or (ANY_SERVER in wide and "=" in narrow)


def server_name(use: dict[str, Any], servers: list[frozenset[str]]) -> str | None:
    """What all the rules call the server of a use, by its host key; None where they do not.

    Anybody may add a rule that is narrower: it gives no server another name, nor one at all.
    """
    found = [
        {name for name, _, known in (each.partition("=") for each in one) if known == use["server"]}
        for one in servers
    ]
    return min(set.intersection(*found), default=None) if found else None


def find_ssh_fault(
    use: dict[str, Any],
    servers: list[frozenset[str]],
    users: list[frozenset[str]],
    namespaces: list[frozenset[str]],
) -> str | None:
    """Why rules do not let a use of a key through, in words; None where they do.

    `use` is what was decoded: see signing/ssh_uses.
    """
    if use["through"] and not lets_forward(servers):
        return "sign through a forwarded agent"
    if use["as"] == "sshsig":
        if not namespaces or any(use["namespace"] not in each for each in namespaces):
            return f"sign for the namespace {use['namespace']}"
        return None
    if not servers or not all(fits_server(use, each) for each in servers):
        if use["server"] is None:
            return "sign in to a server that has not proven which it is"
        where = server_name(use, servers) or f"the server with the key {use['server']}"
        return f"sign in to {where}"
    if any(use["user"] not in each for each in users):
        return f"sign in as {use['user']}"
    return None


def lets_forward(servers: list[frozenset[str]]) -> bool:
    """Whether a use may come through a forwarded agent: whoever is root there may ask for it."""
    return bool(servers) and all(FORWARDED_TOO in each for each in servers)


def fits_server(use: dict[str, Any], servers: frozenset[str]) -> bool:
    """Whether the server of a use is among these."""
    if use["server"] is None:
        return UNPROVEN_SERVER in servers
    return ANY_SERVER in servers or any(each.endswith(f"={use['server']}") for each in servers)


def may_offer(
    use: dict[str, Any], servers: list[frozenset[str]], namespaces: list[frozenset[str]]
) -> bool:
    """Whether a key is shown to who asks which there are: some use of it may fit.

    A server takes no more than a few keys before it ends the connection.
    """
    if use["through"] and not lets_forward(servers):
        return False
    if use["server"] is None and namespaces and all(namespaces):
        return True
    return bool(servers) and all(fits_server(use, each) for each in servers)
