"""What a key that signs is in the vault: which kind, and its public half. No secret is needed.

It is the value of a secret, in a form that says what it is: OpenSSH's of a private key, without a
passphrase, whose public half stands in it in the clear. So it moves, merges and comes back with it.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING

from avault.errors import NotFound
from avault.ssh_wire import SshReader, encode_base64, fingerprint_of
from avault.vault.guards import Guards
from avault.vault.records import Vault

if TYPE_CHECKING:
    from typing import Any


KIND_OF = {  # of OpenSSH's names, how a key's kind is called here
    "ssh-ed25519": "ed25519",
    "ecdsa-sha2-nistp256": "ecdsa-p256",
    "ecdsa-sha2-nistp384": "ecdsa-p384",
    "ecdsa-sha2-nistp521": "ecdsa-p521",
    "ssh-rsa": "rsa",
}
KINDS_MADE = ("ed25519", "ecdsa-p256", "rsa")  # what `key generate` makes
OPENSSH = "-----BEGIN OPENSSH PRIVATE KEY-----", "-----END OPENSSH PRIVATE KEY-----"
OPENSSH_MAGIC = b"openssh-key-v1\0"  # PROTOCOL.key of OpenSSH


class SigningKey:
    """The public half of one: its `kind`, OpenSSH's name of that, and the public key as bytes."""

    __slots__ = ("blob", "kind", "named")

    def __init__(self, named: str, blob: bytes) -> None:
        self.kind, self.named, self.blob = KIND_OF[named], named, blob

    def to_line(self) -> str:
        """As it stands in an authorized_keys, without a comment."""
        return f"{self.named} {encode_base64(self.blob)}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON: its kind, its public half, and the fingerprint of that."""
        shown = {"kind": self.kind, "public": self.to_line()}
        return {**shown, "fingerprint": fingerprint_of(self.blob)}


def read_signing_key(value: str) -> SigningKey | None:
    """What a secret's value is, as a key that signs; None for all that is none."""
    begin, end = OPENSSH
    text = value.strip()
    if not (text.startswith(begin) and text.endswith(end)):
        return None
    try:
        data = binascii.a2b_base64(text[len(begin) : -len(end)])
        reader = SshReader(data)
        if reader.take(len(OPENSSH_MAGIC)) != OPENSSH_MAGIC:
            return None
        cipher, derivation, _, count = (
            reader.text(),
            reader.text(),
            reader.string(),
            reader.number(),
        )
        if (cipher, derivation, count) != ("none", "none", 1):
            return None
        blob = reader.string()
        named = SshReader(blob).text()
    except ValueError:
        return None
    return SigningKey(named, blob) if named in KIND_OF else None


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

    def find(self, vault: Vault, blob: bytes, way: str, guards: Guards) -> str:
        """The name of the key with this public half that a guard lets sign; raises NotFound.

        Where the same one is there twice, the first that may sign this way.
        """
        names = [name for name, key in self.look(vault).items() if key.blob == blob]
        if not names:
            raise NotFound("no such key in the vault", "see which there are: avault list")
        may = [name for name in names if way in (guards.rules_of(guards.of(name)).ways() or ())]
        return (may or names)[0]
