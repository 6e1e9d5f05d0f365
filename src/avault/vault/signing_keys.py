"""What a key that signs is in the vault: which kind, and its public half. No secret is needed.

It is the value of a secret, in a form that says what it is: OpenSSH's of a private key, without a
passphrase, whose public half stands in it in the clear; of a key for Nostr nostr-key:PUBLIC:PRIVATE
in hex, of one for Ethereum evm-key:ADDRESS:PRIVATE, of one for Solana solana-key: and what
solana-keygen writes, in base58. So it moves, merges and comes back with it. Where it is sealed for
itself, as its guard asks the phone, what is sealed says its public half beside it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.errors import Denied, NotFound
from avault.keys.nostr import to_npub
from avault.places import sha256
from avault.ssh_wire import SshReader, decode_base64, encode_base64, fingerprint_of
from avault.vault.evm_address import show_address
from avault.vault.guards import Guards
from avault.vault.nostr_rules import is_hex_key
from avault.vault.openssh_key import read_public_half
from avault.vault.records import Vault
from avault.vault.secret import SEAL_MARK, is_sealed
from avault.vault.solana_text import decode_base58, encode_base58

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.nostr import KeyText


KIND_OF = {  # of OpenSSH's names, how a key's kind is called here
    "ssh-ed25519": "ed25519",
    "ecdsa-sha2-nistp256": "ecdsa-p256",
    "ecdsa-sha2-nistp384": "ecdsa-p384",
    "ecdsa-sha2-nistp521": "ecdsa-p521",
    "ssh-rsa": "rsa",
    "nostr": "nostr",
    "evm": "evm",
    "solana": "solana",
}
NOSTR_KEY, EVM_KEY, SOLANA_KEY = "nostr-key:", "evm-key:", "solana-key:"
LONGEST_PUBLIC = 2_048  # bytes; RSA of 8192 bits takes half of that
KINDS_MADE = ("ed25519", "ecdsa-p256", "rsa", "nostr", "evm", "solana")  # by `key generate`
KINDS_NAMED = ("nostr", "evm", "solana")  # of a file that is imported: of others it says so itself
SIZES = {"nostr": 32, "evm": 20, "solana": 32}  # bytes of a public half that does not say its kind
WAYS_OF_KINDS = {"nostr": "sign", "evm": "wallet", "solana": "wallet"}  # all others for SSH


class SigningKey:
    """The public half of one: its `kind`, OpenSSH's name of that, and the public key as bytes.

    `identity` names the private one: see `identify_key`.
    """

    __slots__ = ("blob", "identity", "kind", "named")

    def __init__(self, named: str, blob: bytes, identity: str) -> None:
        self.kind, self.named, self.blob = KIND_OF[named], named, blob
        self.identity = identity

    def to_line(self) -> str:
        """As it stands in an authorized_keys, without a comment; an npub; an address."""
        if self.kind == "nostr":
            return to_npub(self.blob.hex())
        if self.kind == "evm":
            return show_address(self.blob)
        if self.kind == "solana":
            return encode_base58(self.blob)
        return f"{self.named} {encode_base64(self.blob)}"

    def to_text(self) -> str:
        """As `read_half` reads it again."""
        return f"{self.named} {encode_base64(self.blob)}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON: its kind, its public half, and the fingerprint of that; or itself, if short."""
        line, is_short = self.to_line(), self.kind in WAYS_OF_KINDS
        fingerprint = line if is_short else fingerprint_of(self.blob)
        return {"kind": self.kind, "public": line, "fingerprint": fingerprint}


def is_nostr_key(value: object) -> bool:
    """Whether a value is a key for Nostr, by its form."""
    return (
        isinstance(value, str)
        and value.startswith(NOSTR_KEY)
        and len(value) == len(NOSTR_KEY) + 129
        and all(map(is_hex_key, value.removeprefix(NOSTR_KEY).split(":", 1)))
    )


def pack_nostr_key(public: str, secret: KeyText) -> str:
    """A key for Nostr as it is kept, of its halves in hex."""
    return f"{NOSTR_KEY}{public}:{secret}"


def split_nostr_key(value: str) -> tuple[str, str]:
    """The public and the private half (hex) of a key for Nostr; raises ValueError."""
    if not is_nostr_key(value):
        raise ValueError("not a key for Nostr")
    public, _, secret = value.removeprefix(NOSTR_KEY).partition(":")
    return public, secret


def is_evm_key(value: object) -> bool:
    """Whether a value is a key for Ethereum and chains like it, by its form."""
    if not isinstance(value, str) or len(value) != len(EVM_KEY) + 105:
        return False
    address, colon, secret = value.removeprefix(EVM_KEY).partition(":")
    is_hex = is_hex_key(address + "0" * 24) and is_hex_key(secret)
    return value.startswith(EVM_KEY) and bool(colon) and is_hex


def pack_evm_key(address: bytes, secret: bytes) -> str:
    """A key for Ethereum as it is kept, of its address and its private half."""
    return f"{EVM_KEY}{address.hex()}:{secret.hex()}"


def split_evm_key(value: str) -> tuple[bytes, bytes]:
    """The address, and the private half, of a key for Ethereum; raises ValueError."""
    if not is_evm_key(value):
        raise ValueError("not a key for Ethereum")
    address, _, secret = value.removeprefix(EVM_KEY).partition(":")
    return bytes.fromhex(address), bytes.fromhex(secret)


def way_of_kind(kind: str) -> str:
    """The way that a guard names for a kind of key."""
    return WAYS_OF_KINDS.get(kind, "ssh")


def is_solana_key(value: object) -> bool:
    """Whether a value is a key for Solana, by its form."""
    try:
        return isinstance(value, str) and bool(split_solana_key(value))
    except ValueError:
        return False


def pack_solana_key(secret: bytes, public: bytes) -> str:
    """A key for Solana as it is kept, of its halves of 32 bytes."""
    return f"{SOLANA_KEY}{encode_base58(secret + public)}"


def split_solana_key(value: str) -> tuple[bytes, bytes]:
    """The private and the public half (32 bytes each) of a key for Solana; raises ValueError."""
    if not value.startswith(SOLANA_KEY):
        raise ValueError("not a key for Solana")
    found = decode_base58(value.removeprefix(SOLANA_KEY), 64)
    return found[:32], found[32:]


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
        size = SIZES.get(named)
        if (len(blob) != size) if size else (SshReader(blob).text() != named):
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
    if is_evm_key(value):
        return SigningKey("evm", split_evm_key(value)[0], identify_key(value))
    if is_solana_key(value):
        return SigningKey("solana", split_solana_key(value)[1], identify_key(value))
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
