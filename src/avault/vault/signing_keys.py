"""What a key that signs is in the vault: which kind, and its public half. No secret is needed.

It is the value of a secret, in a form that says what it is: OpenSSH's of a private key, without a
passphrase, whose public half stands in it in the clear; of a key for Nostr nostr-key:PUBLIC:PRIVATE
in hex. So it moves, merges and comes back with it. Where it is sealed for itself, as its guard asks
the phone, what is sealed says its public half beside it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.errors import Denied, NotFound
from avault.nostr import to_npub
from avault.places import sha256
from avault.ssh_wire import SshReader, decode_base64, encode_base64, fingerprint_of
from avault.vault.guards import Guards
from avault.vault.nostr_rules import is_hex_key
from avault.vault.openssh_key import read_public_half
from avault.vault.records import Vault
from avault.vault.secret import SEAL_MARK, is_sealed

if TYPE_CHECKING:
    from typing import Any


KIND_OF = {  # of OpenSSH's names, how a key's kind is called here
    "ssh-ed25519": "ed25519",
    "ecdsa-sha2-nistp256": "ecdsa-p256",
    "ecdsa-sha2-nistp384": "ecdsa-p384",
    "ecdsa-sha2-nistp521": "ecdsa-p521",
    "ssh-rsa": "rsa",
    "nostr": "nostr",
}
NOSTR_KEY = "nostr-key:"
LONGEST_PUBLIC = 2_048  # bytes; RSA of 8192 bits takes half of that
KINDS_MADE = ("ed25519", "ecdsa-p256", "rsa", "nostr")  # what `key generate` makes


class SigningKey:
    """The public half of one: its `kind`, OpenSSH's name of that, and the public key as bytes.

    `identity` names the private one: see `identify_key`.
    """

    __slots__ = ("blob", "identity", "kind", "named")

    def __init__(self, named: str, blob: bytes, identity: str) -> None:
        self.kind, self.named, self.blob = KIND_OF[named], named, blob
        self.identity = identity

    def to_line(self) -> str:
        """As it stands in an authorized_keys, without a comment; for Nostr an npub."""
        if self.kind == "nostr":
            return to_npub(self.blob.hex())
        return f"{self.named} {encode_base64(self.blob)}"

    def to_text(self) -> str:
        """As `read_half` reads it again."""
        return f"{self.named} {encode_base64(self.blob)}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON: its kind, its public half, and the fingerprint of that; of an npub itself."""
        line, is_nostr = self.to_line(), self.kind == "nostr"
        fingerprint = line if is_nostr else fingerprint_of(self.blob)
        return {"kind": self.kind, "public": line, "fingerprint": fingerprint}


def is_nostr_key(value: object) -> bool:
    """Whether a value is a key for Nostr, by its form."""
    return (
        isinstance(value, str)
        and value.startswith(NOSTR_KEY)
        and len(value) == len(NOSTR_KEY) + 129
        and all(map(is_hex_key, value.removeprefix(NOSTR_KEY).split(":", 1)))
    )


def pack_nostr_key(public: str, secret: str) -> str:
    """A key for Nostr as it is kept, of its halves in hex."""
    return f"{NOSTR_KEY}{public}:{secret}"


def split_nostr_key(value: str) -> tuple[str, str]:
    """The public and the private half (hex) of a key for Nostr; raises ValueError."""
    if not is_nostr_key(value):
        raise ValueError("not a key for Nostr")
    public, _, secret = value.removeprefix(NOSTR_KEY).partition(":")
    return public, secret


def identify_key(value: str) -> str:
    """What names a key where it signs: its private value and no other has it, and tells nothing."""
    return sha256(value.encode()).hex()


def read_half(value: str) -> SigningKey | None:
    """What is sealed for itself, as the key that it says it is; None where it says nothing.

    Whether it is that one shows where it is opened: no other one signs in its place.
    """
    try:
        if '"signs":' not in value:
            return None  # and it is not looked through
        named, _, text = json.loads(value.removeprefix(SEAL_MARK))["signs"].partition(" ")
        blob = decode_base64(text, LONGEST_PUBLIC)
        if (len(blob) != 32) if named == "nostr" else (SshReader(blob).text() != named):
            return None
        return SigningKey(named, blob, identify_key(value))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def read_signing_key(value: str) -> SigningKey | None:
    """What a secret's value is, as a key that signs; None for all that is none."""
    if is_sealed(value):
        return read_half(value)
    if is_nostr_key(value):
        blob = bytes.fromhex(split_nostr_key(value)[0])
        return SigningKey("nostr", blob, identify_key(value))
    try:
        blob = read_public_half(value)
    except ValueError:
        return None
    return SigningKey(SshReader(blob).text(), blob, identify_key(value))


def describe_signing_key(value: str) -> dict[str, Any] | None:
    """What `list` shows of a secret that is a key that signs; None for another one."""
    known = read_signing_key(value)
    return known.to_dict() if known else None


def list_signing_keys(vault: Vault) -> dict[str, SigningKey]:
    """The keys that sign, by GROUP/KEY: where two machines set one, the one that is served."""
    found = {
        f"{group}/{key}": read_signing_key(secrets[0].value)
        for group, each in sorted(vault.groups.items())
        for key, secrets in sorted(each.keys.items())
    }
    return {name: key for name, key in found.items() if key}


def refuse_over_keys(vault: Vault, changed: Vault) -> None:
    """Raise Denied where a key that signs has got another value: nobody has it any more then.

    To take one away is said by itself: delete. What another machine has done is done.
    """
    for name in list_signing_keys(vault):
        group, _, key = name.partition("/")
        there = changed.groups[group].keys.get(key, []) if group in changed.groups else []
        had = {secret.value for secret in vault.groups[group].keys[key]}
        if not {secret.value for secret in there} <= had:
            raise Denied(
                f"{name} is a key that signs, and is not written over",
                f"take it away first, for good: avault delete {name}",
            )


class SigningKeys:
    """The keys that sign of the vault that is served: looked for once in each."""

    def __init__(self) -> None:
        self.vault: Vault | None = None
        self.keys: dict[str, SigningKey] = {}

    def look(self, vault: Vault) -> dict[str, SigningKey]:
        """Those of a vault, which does not change, by GROUP/KEY."""
        if vault is not self.vault:
            self.vault, self.keys = vault, list_signing_keys(vault)
        return self.keys

    def identities(self, vault: Vault) -> set[str]:
        """What names the keys of a vault where they sign."""
        return {key.identity for key in self.look(vault).values()}

    def find(self, vault: Vault, blob: bytes, way: str, guards: Guards) -> list[str]:
        """The names of the keys that say this public half of themselves; raises NotFound.

        Those that a guard lets sign this way come first.
        """
        names = [name for name, key in self.look(vault).items() if key.blob == blob]
        if not names:
            raise NotFound("no such key in the vault", "see which there are: avault list")
        return sorted(
            names, key=lambda name: way not in (guards.rules_of(guards.of(name)).ways() or ())
        )
