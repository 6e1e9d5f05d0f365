"""Words that stand for a tree of keys (BIP-39), and the one key of it that a path leads to.

The words are not kept: a key that is taken from them is an entry of its own, with no way back.
That they are of the English list and their checksum fits is the Nostr library's to say.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import unicodedata
from typing import TYPE_CHECKING

from avault.errors import Usage

if TYPE_CHECKING:
    from collections.abc import Callable


WORD_COUNTS = (12, 15, 18, 21, 24)  # BIP-39
SEED_ROUNDS = 2_048  # of PBKDF2, BIP-39
HARDENED = 1 << 31  # BIP-32
MOST_LEVELS = 10  # of a path
SOLANA_KEYGEN = "solana-keygen"  # stands for the path of `solana-keygen` that is given none
DEFAULT_PATHS = {  # of a kind, what every wallet takes first
    "evm": "m/44'/60'/0'/0/0",  # BIP-44, SLIP-44
    "nostr": "m/44'/1237'/0'/0/0",  # NIP-06
    "solana": "m/44'/501'/0'/0'",
}
SECP256K1_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141


def are_words(text: str) -> bool:
    """Whether a text is words of a tree, by its look: as many as there are, and letters alone."""
    words = text.split()
    return len(words) in WORD_COUNTS and all(each.isascii() and each.isalpha() for each in words)


def normalize_words(text: str) -> str:
    """Words as BIP-39 has them: in lower case, with one space between."""
    return " ".join(text.lower().split())


def normalize_passphrase(text: str) -> str:
    """A passphrase as BIP-39 has it: however a keyboard writes an ö, it is the same key."""
    return unicodedata.normalize("NFKD", text)


def grow_seed(words: str, passphrase: str) -> bytes:
    """The seed (64 bytes) of words that are checked, and a passphrase, which may be empty."""
    salt = f"mnemonic{normalize_passphrase(passphrase)}".encode()
    return hashlib.pbkdf2_hmac("sha512", words.encode(), salt, SEED_ROUNDS)


def read_steps(text: str) -> list[int]:
    """The steps of a path, m/44'/60'/0'/0/0, the hardened ones from 2**31; raises Usage."""
    first, *steps = text.split("/")
    found = []
    for each in steps:
        digits = each.removesuffix("'")
        is_number = digits.isascii() and digits.isdigit() and len(digits) <= 10
        if not is_number or digits != str(int(digits)) or int(digits) >= HARDENED:
            break
        found.append(int(digits) + (HARDENED if digits != each else 0))
    if first != "m" or not 0 < len(steps) <= MOST_LEVELS or len(found) != len(steps):
        raise Usage("that is no path to one key", "as in: --path \"m/44'/60'/0'/0/0\"")
    return found


def hash_step(key: bytes, data: bytes) -> tuple[bytes, bytes]:
    """Both halves of HMAC-SHA512."""
    made = hmac.digest(key, data, "sha512")
    return made[:32], made[32:]


def pack_step(step: int) -> bytes:
    """A step of a path, as it is hashed."""
    return struct.pack(">I", step)


def derive_ed25519(seed: bytes, path: str) -> bytes:
    """The private key (32 bytes) at a path of hardened steps (SLIP-10); raises Usage."""
    key, chain = hash_step(b"ed25519 seed", seed)
    for step in read_steps(path):
        if step < HARDENED:
            raise Usage("each step of a path to such a key ends with '", "m/44'/501'/0'/0'")
        key, chain = hash_step(chain, b"\0" + key + pack_step(step))
    return key


def derive_secp256k1(seed: bytes, path: str, public: Callable[[bytes], bytes]) -> bytes:
    """The private key (32 bytes) at a path (BIP-32); raises Usage.

    `public` gives the compressed public key (33 bytes) of a private one.
    """
    key, chain = hash_step(b"Bitcoin seed", seed)
    check_secp256k1(int.from_bytes(key, "big"))
    for step in read_steps(path):
        parent = b"\0" + key if step >= HARDENED else public(key)
        left, chain = hash_step(chain, parent + pack_step(step))
        number = int.from_bytes(left, "big")
        total = (number + int.from_bytes(key, "big")) % SECP256K1_ORDER
        check_secp256k1(number, total)
        key = total.to_bytes(32, "big")
    return key


def check_secp256k1(*numbers: int) -> None:
    """Raise Usage for what is no private key: BIP-32 says to go on to the next path."""
    if not all(0 < each < SECP256K1_ORDER for each in numbers):
        raise Usage("there is no key at that path", "take the next one")
