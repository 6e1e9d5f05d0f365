"""Keys for Ethereum and chains like it, by the package cryptography: made, taken in, and used.

It runs in the process that signs, and decides nothing. A private half is given to OpenSSL as it is
kept, and all that is calculated here is of public values.
"""

from __future__ import annotations

import hmac
import json
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

import avault
from avault import Denied, Usage, keccak256, pack_evm_key, split_evm_key

FIELD = (1 << 256) - (1 << 32) - 977  # secp256k1 (SEC 2, 2.4.1)
ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
BASE = (
    0x79BE667E_F9DCBBAC_55A06295_CE870B07_029BFCDB_2DCE28D9_59F2815B_16F81798,
    0x483ADA77_26A3C465_5DA4FBFC_0E1108A8_FD17B448_A6855419_9C47D08F_FB10D4B8,
)
MOST_SCRYPT = 1 << 22  # N * r * p of a keystore's: 512 MB
MOST_ROUNDS = 2_000_000  # of PBKDF2
Point = tuple[int, int]


def make_evm_key() -> str:
    """A new key, as it is kept."""
    return keep_evm_key(ec.generate_private_key(ec.SECP256K1()))


def keep_evm_key(key: ec.EllipticCurvePrivateKey) -> str:
    """A private key as it is kept."""
    secret = key.private_numbers().private_value.to_bytes(32, "big")
    return str(pack_evm_key(address_of(key), secret))


def load_secret(secret: bytes) -> ec.EllipticCurvePrivateKey:
    """The key of 32 bytes; raises Usage for what is none of the curve."""
    number = int.from_bytes(secret, "big")
    if len(secret) != 32 or not 0 < number < ORDER:
        raise Usage("that is no private key of secp256k1", "32 bytes, as 0x and 64 hex digits")
    return ec.derive_private_key(number, ec.SECP256K1())


def address_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key's address: the end of the hash of its public half (Yellow Paper, appendix F)."""
    numbers = key.public_key().public_numbers()
    whole = numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    return bytes(keccak256(whole)[12:])


def take_evm_key(text: str, passphrase: str | None) -> str | None:
    """The key in a file, as it is kept: 64 hex digits, or a keystore (Web3 Secret Storage, 3).

    None where it wants a passphrase; raises Usage, Denied for a wrong one.
    """
    text = text.strip()
    if text.startswith("{"):
        if not passphrase:
            return None
        return keep_evm_key(load_secret(open_keystore(text, passphrase)))
    digits = text.removeprefix("0x")
    if len(digits) != 64 or not set(digits) <= avault.HEX_DIGITS:
        raise Usage("that is no private key", "0x and 64 hex digits, or a keystore's JSON")
    return keep_evm_key(load_secret(bytes.fromhex(digits)))


def open_keystore(text: str, passphrase: str) -> bytes:
    """The private half in a keystore; raises Usage, Denied. Its work is bounded beforehand."""
    try:
        found = json.loads(text)
        crypto = found.get("crypto", found.get("Crypto"))
        params, kdf = crypto["kdfparams"], crypto["kdf"]
        if found["version"] != 3 or crypto["cipher"] != "aes-128-ctr" or params["dklen"] != 32:
            raise ValueError
        salt, text_mac = bytes.fromhex(params["salt"]), bytes.fromhex(crypto["mac"])
        vector = bytes.fromhex(crypto["cipherparams"]["iv"])
        sealed = bytes.fromhex(crypto["ciphertext"])
        if len(sealed) != 32 or len(vector) != 16 or len(text_mac) != 32 or len(salt) > 1024:
            raise ValueError
        derived = derive_keystore(kdf, params, salt, passphrase)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError):
        raise Usage("that is no keystore of version 3", "as geth or cast writes one") from None
    if not hmac.compare_digest(bytes(keccak256(derived[16:] + sealed)), text_mac):
        raise Denied("the passphrase is not the key's", "try again")
    opened = Cipher(algorithms.AES(derived[:16]), modes.CTR(vector)).decryptor()
    return bytes(opened.update(sealed) + opened.finalize())


def derive_keystore(kdf: str, params: Any, salt: bytes, passphrase: str) -> bytes:
    """The key of a keystore; raises Usage where that is too much work, ValueError."""
    if kdf == "scrypt":
        n, r, p = (params[each] for each in "nrp")
        if any(type(each) is not int or each < 1 for each in (n, r, p)) or n & (n - 1) or n < 2:
            raise ValueError
        if n * r * p > MOST_SCRYPT:
            raise Usage("opening that keystore takes too much work", "with n, r and p of geth's")
        return bytes(Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(passphrase.encode()))
    rounds = params["c"]
    if kdf != "pbkdf2" or params["prf"] != "hmac-sha256" or type(rounds) is not int or rounds < 1:
        raise ValueError
    if rounds > MOST_ROUNDS:
        raise Usage("opening that keystore takes too much work", f"at most {MOST_ROUNDS} rounds")
    return bytes(PBKDF2HMAC(hashes.SHA256(), 32, salt, rounds).derive(passphrase.encode()))


class EvmKeys:
    """The keys that this process was given, each by what its private value is named."""

    def __init__(self) -> None:
        self.loaded: dict[str, ec.EllipticCurvePrivateKey] = {}

    def take(self, value: str) -> None:
        """Have one, as it is kept; raises Usage where its address is not its own."""
        address, secret = split_evm_key(value)
        key = load_secret(secret)
        if address_of(key) != address:
            raise Usage("that has the address of another key", "so it signs nothing: delete it")
        self.loaded[avault.identify_key(value)] = key

    def public(self, identity: str) -> bytes:
        """The address of one."""
        return address_of(self.loaded[identity])

    def sign(self, identity: str, use: dict[str, Any]) -> str:
        """What comes of a use: a whole transaction, or a signature of 65 bytes, in hex.

        Raises Usage for a transaction whose nonce nobody has said.
        """
        if use["as"] == "evm-tx" and use["made"].nonce is None:
            raise Usage("a transaction that is to be signed has no nonce", "ask the node for it")
        parity, r, s = sign_digest(self.loaded[identity], use["digest"])
        if use["as"] == "evm-tx":
            return "0x" + bytes(use["made"].pack(parity, r, s)).hex()
        return "0x" + (r.to_bytes(32, "big") + s.to_bytes(32, "big")).hex() + f"{27 + parity:02x}"


def sign_digest(key: ec.EllipticCurvePrivateKey, digest: bytes) -> tuple[int, int, int]:
    """A signature of 32 bytes, by RFC 6979, with the lower s (EIP-2): parity of R, r and s."""
    algorithm = ec.ECDSA(Prehashed(hashes.SHA256()), deterministic_signing=True)
    r, s = decode_dss_signature(key.sign(digest, algorithm))
    s = min(s, ORDER - s)
    numbers = key.public_key().public_numbers()
    for parity in (0, 1):
        if recover(digest, parity, r, s) == (numbers.x, numbers.y):
            return parity, r, s
    raise Usage("the signature is not the key's own", "try again")


def recover(digest: bytes, parity: int, r: int, s: int) -> Point | None:
    """The public key of which a signature is (SEC 1, 4.1.6)."""
    y = pow(r**3 + 7, (FIELD + 1) // 4, FIELD)
    if y * y % FIELD != (r**3 + 7) % FIELD:
        return None
    point = (r, y if y % 2 == parity else FIELD - y)
    inverse, number = pow(r, -1, ORDER), int.from_bytes(digest, "big")
    return add_points(
        multiply(BASE, -number * inverse % ORDER), multiply(point, s * inverse % ORDER)
    )


def add_points(one: Point | None, other: Point | None) -> Point | None:
    """The sum of two points; None is that of infinity."""
    if not one or not other:
        return one or other
    if one[0] == other[0]:
        if (one[1] + other[1]) % FIELD == 0:
            return None
        slope = 3 * one[0] ** 2 * pow(2 * one[1], -1, FIELD) % FIELD
    else:
        slope = (other[1] - one[1]) * pow(other[0] - one[0], -1, FIELD) % FIELD
    x = (slope * slope - one[0] - other[0]) % FIELD
    return x, (slope * (one[0] - x) - one[1]) % FIELD


def multiply(point: Point, times: int) -> Point | None:
    """A point so many times, all of it public."""
    found: Point | None = None
    step: Point | None = point
    while times:
        if times & 1:
            found = add_points(found, step)
        step, times = add_points(step, step), times >> 1
    return found
