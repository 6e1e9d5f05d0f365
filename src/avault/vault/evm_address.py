"""Ethereum's addresses: keccak-256, of which they are a part, and their checksum (EIP-55).

Keccak is as the Keccak team submitted it to NIST, with its padding: not SHA3-256 of FIPS 202.
"""

from __future__ import annotations

KECCAK_RATE = 136  # bytes of a block, for 256 bits
KECCAK_LANE = 0xFFFF_FFFF_FFFF_FFFF
HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
KECCAK_ROUNDS = (  # the constants of the 24 rounds (The Keccak reference, 1.2)
    0x0000_0000_0000_0001, 0x0000_0000_0000_8082, 0x8000_0000_0000_808A, 0x8000_0000_8000_8000,
    0x0000_0000_0000_808B, 0x0000_0000_8000_0001, 0x8000_0000_8000_8081, 0x8000_0000_0000_8009,
    0x0000_0000_0000_008A, 0x0000_0000_0000_0088, 0x0000_0000_8000_8009, 0x0000_0000_8000_000A,
    0x0000_0000_8000_808B, 0x8000_0000_0000_008B, 0x8000_0000_0000_8089, 0x8000_0000_0000_8003,
    0x8000_0000_0000_8002, 0x8000_0000_0000_0080, 0x0000_0000_0000_800A, 0x8000_0000_8000_000A,
    0x8000_0000_8000_8081, 0x8000_0000_0000_8080, 0x0000_0000_8000_0001, 0x8000_0000_8000_8008,
)  # fmt: skip
KECCAK_OFFSETS = (  # of the steps rho and pi: which lane is next, and by how many bits it turns
    (10, 1), (7, 3), (11, 6), (17, 10), (18, 15), (3, 21),
    (5, 28), (16, 36), (8, 45), (21, 55), (24, 2), (4, 14),
    (15, 27), (23, 41), (19, 56), (13, 8), (12, 25), (2, 43),
    (20, 62), (14, 18), (22, 39), (9, 61), (6, 20), (1, 44),
)  # fmt: skip


def permute(lanes: list[int]) -> None:
    """Keccak-f[1600], on 25 lanes of 64 bits."""
    for constant in KECCAK_ROUNDS:
        sums = [
            lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20]
            for x in range(5)
        ]
        for x in range(5):
            one = sums[(x + 1) % 5]
            mixed = sums[(x + 4) % 5] ^ ((one << 1 | one >> 63) & KECCAK_LANE)
            for y in range(0, 25, 5):
                lanes[x + y] ^= mixed
        moved = lanes[1]
        for place, turn in KECCAK_OFFSETS:
            lanes[place], moved = (moved << turn | moved >> (64 - turn)) & KECCAK_LANE, lanes[place]
        for y in range(0, 25, 5):
            row = lanes[y : y + 5]
            for x in range(5):
                lanes[x + y] = row[x] ^ (~row[(x + 1) % 5] & KECCAK_LANE & row[(x + 2) % 5])
        lanes[0] ^= constant


def keccak256(data: bytes) -> bytes:
    """The digest that Ethereum uses for all things: 32 bytes."""
    padded = bytearray(data) + b"\1" + bytes(-(len(data) + 1) % KECCAK_RATE)
    padded[-1] |= 0x80
    lanes = [0] * 25
    for at in range(0, len(padded), KECCAK_RATE):
        for lane in range(KECCAK_RATE // 8):
            begin = at + 8 * lane
            lanes[lane] ^= int.from_bytes(padded[begin : begin + 8], "little")
        permute(lanes)
    return b"".join(lane.to_bytes(8, "little") for lane in lanes[:4])


def show_address(address: bytes) -> str:
    """An address of 20 bytes as people are shown it, with its checksum (EIP-55)."""
    plain = address.hex()
    digest = keccak256(plain.encode()).hex()
    return "0x" + "".join(
        each.upper() if int(mark, 16) > 7 else each
        for each, mark in zip(plain, digest, strict=False)
    )


def parse_address(text: object) -> bytes:
    """The 20 bytes of an address; raises ValueError.

    One with small and capital letters has to have them where its checksum wants them.
    """
    if not isinstance(text, str) or len(text) != 42 or text[:2] != "0x" or {*text[2:]} - HEX_DIGITS:
        raise ValueError("not an address: 0x and 40 hex digits")
    address = bytes.fromhex(text[2:])
    is_mixed = text[2:] not in (text[2:].lower(), text[2:].upper())
    if is_mixed and show_address(address) != text:
        raise ValueError("a mistyped address: its checksum is wrong (EIP-55)")
    return address
