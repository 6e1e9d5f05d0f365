"""NIP-44 v2 written down once more, slowly and from the specification alone, to judge the library by."""

import base64
import hashlib
import hmac
import struct

P = 2**256 - 2**32 - 977  # the field of secp256k1, its order and its generator
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
G = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)

Point = tuple[int, int] | None


def add(a: Point, b: Point) -> Point:
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % P == 0:
        return None
    slope = 3 * a[0] * a[0] * pow(2 * a[1], -1, P) if a == b else (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def multiply(scalar: int, point: Point) -> tuple[int, int]:
    total: Point = None
    while scalar:
        if scalar & 1:
            total = add(total, point)
        point, scalar = add(point, point), scalar >> 1
    assert total is not None
    return total


def public_key(secret: str) -> str:
    return f"{multiply(int(secret, 16), G)[0]:064x}"


def conversation_key(secret: str, public: str) -> bytes:
    x = int(public, 16)
    y = pow(x**3 + 7, (P + 1) // 4, P)  # either root: only x of the product is used
    assert 0 < int(secret, 16) < N
    assert x < P
    assert (y * y - x**3 - 7) % P == 0, "not on the curve"
    shared = multiply(int(secret, 16), (x, y))[0].to_bytes(32, "big")
    return hmac.digest(b"nip44-v2", shared, "sha256")  # HKDF-extract


def message_keys(conversation: bytes, nonce: bytes) -> tuple[bytes, bytes, bytes]:
    """The ChaCha20 key, the ChaCha20 nonce, the HMAC key: HKDF-expand to 76 bytes."""
    stream, block = b"", b""
    for counter in (1, 2, 3):
        block = hmac.digest(conversation, block + nonce + bytes([counter]), "sha256")
        stream += block
    return stream[:32], stream[32:44], stream[44:76]


def chacha20(key: bytes, nonce: bytes, data: bytes) -> bytes:
    def rotate(value: int, bits: int) -> int:
        return (value << bits | value >> (32 - bits)) & 0xFFFFFFFF

    quarters = [(i, i + 4, i + 8, i + 12) for i in range(4)]
    quarters += [(i, (i + 1) % 4 + 4, (i + 2) % 4 + 8, (i + 3) % 4 + 12) for i in range(4)]
    stream = bytearray()
    for counter in range(-(-len(data) // 64)):
        start = struct.unpack("<16I", b"expand 32-byte k" + key + struct.pack("<I", counter) + nonce)
        s = list(start)
        for a, b, c, d in quarters * 10:
            for left, right, target, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                s[left] = (s[left] + s[right]) & 0xFFFFFFFF
                s[target] = rotate(s[target] ^ s[left], bits)
        stream += struct.pack("<16I", *((x + y) & 0xFFFFFFFF for x, y in zip(s, start, strict=True)))
    return bytes(x ^ y for x, y in zip(data, stream, strict=False))


def padded_length(length: int) -> int:
    if length <= 32:
        return 32
    power = 1 << (length - 1).bit_length()
    chunk = max(32, power // 8)
    return chunk * ((length - 1) // chunk + 1)


def pad(plain: bytes) -> bytes:
    short = len(plain) < 65536  # longer ones: the extended prefix of 2026
    prefix = struct.pack(">H", len(plain)) if short else struct.pack(">HI", 0, len(plain))
    return prefix + plain.ljust(padded_length(len(plain)), b"\0")


def seal_padded(conversation: bytes, nonce: bytes, padded: bytes) -> str:
    key, chacha_nonce, mac_key = message_keys(conversation, nonce)
    body = chacha20(key, chacha_nonce, padded)
    mac = hmac.digest(mac_key, nonce + body, "sha256")
    return base64.b64encode(b"\2" + nonce + body + mac).decode()


def encrypt(conversation: bytes, nonce: bytes, plain: bytes) -> str:
    return seal_padded(conversation, nonce, pad(plain))


def open_padded(conversation: bytes, payload: str) -> tuple[bytes, bool]:
    """The padded plaintext, and whether the MAC was right."""
    raw = base64.b64decode(payload)
    nonce, body, mac = raw[1:33], raw[33:-32], raw[-32:]
    key, chacha_nonce, mac_key = message_keys(conversation, nonce)
    good = hmac.compare_digest(mac, hmac.digest(mac_key, nonce + body, hashlib.sha256))
    return chacha20(key, chacha_nonce, body), good


def decrypt(conversation: bytes, payload: str) -> bytes:
    padded, good = open_padded(conversation, payload)
    length = int.from_bytes(padded[:2], "big")
    plain = padded[2 : 2 + length]
    assert good
    assert length > 0, "empty, or the extended prefix, which no test opens with this"
    assert padded == pad(plain)
    return plain
