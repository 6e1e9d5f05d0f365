"""Who was invited to have a key sign for Nostr: facts of the vault, each with rules of its own.

`bunker/ID` is an invitation, which is never changed, only taken away: so no merge brings it back.
`bunker-client/ID` is the public key of who came. An invitation has a key of its own, under which
it is asked and answers (NIP-46), and of its secret a hash.
"""

from __future__ import annotations

import hmac
import json
import secrets
from typing import TYPE_CHECKING

from avault.errors import Denied, NotFound, Usage, printable
from avault.keys.nostr import parse_npub, to_npub
from avault.places import sha256
from avault.vault.names import is_group
from avault.vault.nostr_rules import (
    CIPHERS,
    find_nostr_fault,
    is_hex_key,
    is_kind,
    is_peer,
)
from avault.vault.records import Vault
from avault.vault.signing_keys import is_nostr_key, split_nostr_key
from avault.vault.times import render_time

if TYPE_CHECKING:
    from typing import Any


INVITED, CAME = "bunker", "bunker-client"
MOST_INVITED = 32
MOST_RATE = 600  # requests a minute
SIGN_EVENT = "sign_event"
METHODS = (SIGN_EVENT, *CIPHERS)  # what an invitation can name; to ask for the public key is free
FIELDS_INVITED = frozenset(
    {
        "name",
        "key",
        "public",
        "kinds",
        "methods",
        "peers",
        "until",
        "rate",
        "secret",
        "transport",
        "relays",
    }
)


class Terms:
    """What an invitation lets its client do, until when (Unix seconds), how often a minute.

    Raises ValueError, TypeError, KeyError for what are none.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self.kinds, self.peers = frozenset(fields["kinds"]), frozenset(fields["peers"])
        self.methods = frozenset(fields["methods"])
        self.until, self.rate = int(fields["until"]), int(fields["rate"])
        members = all(map(is_kind, self.kinds)) and all(map(is_peer, self.peers))
        if not (members and self.methods <= {*METHODS}):
            raise ValueError("not an invitation")

    def find_fault(self, use: dict[str, Any]) -> str | None:
        """Why they do not let a use through, in words; None where they do."""
        ciphers = self.methods - {SIGN_EVENT}
        kinds = self.kinds if SIGN_EVENT in self.methods else frozenset[str]()
        return find_nostr_fault(use, [kinds], [ciphers], [self.peers])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kinds": sorted(map(int, self.kinds)),
            "methods": sorted(self.methods, key=METHODS.index),
            "peers": [each if each == "any" else to_npub(each) for each in sorted(self.peers)],
            "until": render_time(self.until),
            "rate": self.rate,
        }


class Invitation:
    """One: which key its client may ask, and on what terms.

    `transport` is its own key, as it is kept; `machine` the one that made it, and serves it.
    Raises ValueError, TypeError, KeyError for what is none.
    """

    def __init__(self, identity: str, machine: str, fields: dict[str, Any], client: str) -> None:
        if {*fields} != FIELDS_INVITED:
            raise ValueError("not an invitation")
        self.identity, self.machine, self.fields = identity, machine, fields
        self.name, self.key, self.public = fields["name"], fields["key"], fields["public"]
        self.transport, self.relays = fields["transport"], [*map(str, fields["relays"])]
        self.terms = Terms(fields)
        self.client = client if is_hex_key(client) else None
        sound = is_group(self.name) and is_hex_key(self.public) and is_nostr_key(self.transport)
        if not sound:
            raise ValueError("not an invitation")
        self.address = split_nostr_key(self.transport)[0]  # under which it is asked (hex)

    def fits(self, secret: object) -> bool:
        """Whether it is this one's secret."""
        found = sha256(secret.encode()).hex() if isinstance(secret, str) else ""
        return hmac.compare_digest(found, str(self.fields["secret"]))

    def refuse(self, use: dict[str, Any]) -> None:
        """Raise Denied for what it does not let through."""
        if fault := self.terms.find_fault(use):
            raise Denied(f"{self.name} may not {fault}")

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without its secret and its key."""
        return {
            "name": self.name,
            "key": self.key,
            "public": to_npub(self.public),
            **self.terms.to_dict(),
            "relays": self.relays,
            "client": to_npub(self.client) if self.client else None,
            "machine": self.machine,
        }


def list_invitations(vault: Vault) -> list[Invitation]:
    """All that can be read, by name; of two with a name, both."""
    found = []
    for fact, said in vault.facts.items():
        kind, _, identity = fact.partition("/")
        if kind == INVITED:
            try:
                fields, client = json.loads(said[0].value), vault.fact(f"{CAME}/{identity}") or ""
                found.append(Invitation(identity, said[0].machine, fields, client))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue
    return sorted(found, key=lambda each: (each.name, each.identity))


def find_invitation(vault: Vault, name: object) -> list[Invitation]:
    """Those of a name; raises NotFound."""
    found = [each for each in list_invitations(vault) if each.name == name]
    if not found:
        shown = printable(name, 40) if isinstance(name, str) else "?"
        raise NotFound(f"nobody is invited as {shown}", "see who is: avault bunker list")
    return found


def add_invitation(vault: Vault, fields: dict[str, Any], now: int, machine: str) -> None:
    """Invite; raises Denied where there is one of that name, Usage where there are too many."""
    there = list_invitations(vault)
    if any(each.name == fields["name"] for each in there):
        name = fields["name"]
        raise Denied(
            f"{name} is invited already", f"take it back first: avault bunker revoke {name}"
        )
    if len(there) >= MOST_INVITED:
        raise Usage(f"at most {MOST_INVITED} are invited at once", "avault bunker revoke NAME")
    identity = secrets.token_hex(8)
    Invitation(identity, machine, fields, "")
    vault.state(f"{INVITED}/{identity}", json.dumps(fields, sort_keys=True), now, machine)


def admit_client(vault: Vault, identity: str, client: str, now: int, machine: str) -> None:
    """Have a client be who came by an invitation; raises Denied where that is gone, or used."""
    if f"{INVITED}/{identity}" not in vault.facts or f"{CAME}/{identity}" in vault.facts:
        raise Denied("invalid secret")
    vault.state(f"{CAME}/{identity}", client, now, machine)


def remove_invitation(vault: Vault, name: object, now: int, machine: str) -> None:
    """Take an invitation back; raises NotFound."""
    for each in find_invitation(vault, name):
        vault.state(f"{INVITED}/{each.identity}", None, now, machine)
        vault.state(f"{CAME}/{each.identity}", None, now, machine)


class Invitations:
    """Those of the vault that is served: looked for once in each."""

    def __init__(self) -> None:
        self.vault: Vault | None = None
        self.found: list[Invitation] = []

    def look(self, vault: Vault) -> list[Invitation]:
        """Those of a vault, which does not change."""
        if vault is not self.vault:
            self.vault, self.found = vault, list_invitations(vault)
        return self.found


def own_keys(vault: Vault) -> set[str]:
    """The public keys (hex) that open the vault, or did: of the agent and of the operators.

    None of them signs here, and nothing is encrypted to one, or decrypted from it.
    """
    before = {parse_npub(each) for each in vault.facts_of("agent")}
    return {vault.agent, vault.made_for, *vault.operators(), *before}


def refuse_own_keys(vault: Vault, public: str, use: dict[str, Any] | None = None) -> None:
    """Raise Denied for a key (hex) that opens the vault, and for a use with one."""
    own = own_keys(vault)
    if public in own:
        raise Denied(
            "that key opens the vault, or did: it signs nothing for others",
            "make a key of its own: avault key generate nostr GROUP/KEY",
        )
    if use and use.get("peer") in own:
        raise Denied(
            "nothing is encrypted to the agent or an operator, or decrypted from them: "
            "it would be as good as the vault's own"
        )
