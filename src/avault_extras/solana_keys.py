"""Keys for Solana, by the package cryptography: made, taken in, and used.

It runs in the process that signs, and decides nothing: see signing, beside it.
"""

from __future__ import annotations

import json

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

import avault
from avault import Usage

RAW = serialization.Encoding.Raw
KEY_BYTES = 64  # what solana-keygen writes: the private half (a seed of RFC 8032), and the public


def public_of(key: ed25519.Ed25519PrivateKey) -> bytes:
    """The public half of a key, 32 bytes."""
    return bytes(key.public_key().public_bytes(RAW, serialization.PublicFormat.Raw))


def keep_seed(seed: bytes) -> str:
    """The key that grows from 32 bytes, as it is kept."""
    public = public_of(ed25519.Ed25519PrivateKey.from_private_bytes(seed))
    return str(avault.pack_solana_key(seed, public))


def make_solana_key() -> str:
    """A new key, as it is kept."""
    key = ed25519.Ed25519PrivateKey.generate()
    clear = serialization.NoEncryption()
    return keep_seed(key.private_bytes(RAW, serialization.PrivateFormat.Raw, clear))


def take_solana_key(
    text: str, passphrase: str | None, path: str | None
) -> str | dict[str, str] | None:
    """The key in a file, as it is kept: id.json of solana-keygen, base58 of 64 bytes, or words.

    None where no passphrase is there, and it is words. Of words without a path the addresses that
    wallets take of them, by path: which one is meant, they do not say. Raises Usage.
    """
    text = text.strip()
    if avault.are_words(text):
        return None if passphrase is None else take_solana_words(text, passphrase, path)
    if path is not None:
        raise Usage("a path is for words", "leave --path out")
    try:
        data = read_numbers(text) if text.startswith("[") else avault.decode_base58(text, KEY_BYTES)
    except (ValueError, RecursionError):
        raise Usage(
            "that is no private key for Solana",
            "solana-keygen's id.json, base58 of 64 bytes, or 12 to 24 words",
        ) from None
    value = keep_seed(data[:32])
    if avault.split_solana_key(value)[1] != data[32:]:
        raise Usage("its public half is another key's", "make a new one: avault key generate")
    return value


def read_numbers(text: str) -> bytes:
    """The 64 bytes of a list of numbers in JSON; raises ValueError."""
    found = json.loads(text)
    if len(found) != KEY_BYTES or not all(type(each) is int for each in found):
        raise ValueError("not 64 numbers")
    return bytes(found)


def take_solana_words(text: str, passphrase: str, path: str | None) -> str | dict[str, str]:
    """The key of words at a path, as it is kept; without one the addresses that there are."""
    seed = avault.grow_seed(avault.check_words(text), passphrase)
    wallets, keygen = avault.DEFAULT_PATHS["solana"], avault.SOLANA_KEYGEN
    if path is not None:
        return keep_seed(seed[:32] if path == keygen else avault.derive_ed25519(seed, path))
    found = {wallets: keep_seed(avault.derive_ed25519(seed, wallets)), keygen: keep_seed(seed[:32])}
    halves = {path: avault.split_solana_key(value) for path, value in found.items()}
    return {path: avault.encode_base58(public) for path, (_, public) in halves.items()}


class SolanaKeys:
    """The keys that this process was given, each by what its private value is named."""

    def __init__(self) -> None:
        self.loaded: dict[str, ed25519.Ed25519PrivateKey] = {}

    def take(self, value: str) -> None:
        """Have one, as it is kept; raises Usage where its public half is not its own."""
        seed, public = avault.split_solana_key(value)
        key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
        if public_of(key) != public:
            raise Usage("that has the public half of another key", "so it signs nothing: delete it")
        self.loaded[avault.identify_key(value)] = key

    def public(self, identity: str) -> bytes:
        """The public half of one, 32 bytes; raises Usage."""
        return public_of(self.find(identity))

    def sign(self, identity: str, content: bytes) -> str:
        """The signature of a message or a text, in base58, as Solana's programs write it."""
        return str(avault.encode_base58(self.find(identity).sign(content)))

    def find(self, identity: str) -> ed25519.Ed25519PrivateKey:
        """One of them; raises Usage."""
        if identity not in self.loaded:
            raise Usage("there is no such key here", "try again")
        return self.loaded[identity]
