"""Keys on secp256k1 from words, by the package cryptography: those of EVM chains.

It runs in the process that signs, as all that has a private key.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import avault


def compress_public(secret: bytes) -> bytes:
    """The public half (33 bytes) of a private key on secp256k1, which is one."""
    key = ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256K1()).public_key()
    form = serialization.PublicFormat.CompressedPoint
    return bytes(key.public_bytes(serialization.Encoding.X962, form))


def take_evm_words(text: str, passphrase: str, path: str | None) -> bytes:
    """The private key (32 bytes) of words at a path, m/44'/60'/0'/0/0 if None; raises Usage."""
    seed = avault.grow_seed(avault.check_words(text), passphrase)
    wanted = path or avault.DEFAULT_PATHS["evm"]
    return bytes(avault.derive_secp256k1(seed, wanted, compress_public))
