"""Base58, as Solana writes keys, addresses and signatures."""

from __future__ import annotations

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
LONGEST_BASE58 = 128  # characters that are read: 64 bytes are at most 88


def encode_base58(content: bytes) -> str:
    """Bytes in base58: each zero byte before the others is a 1."""
    number, found = int.from_bytes(content, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        found = BASE58[digit] + found
    return "1" * (len(content) - len(content.lstrip(b"\0"))) + found


def decode_base58(text: object, size: int) -> bytes:
    """So many bytes of base58; raises ValueError, also for what nobody would write so."""
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST_BASE58:
        raise ValueError("not base58")
    number = 0
    for each in text:
        digit = BASE58.find(each)
        if digit < 0:
            raise ValueError("not base58")
        number = number * 58 + digit
    try:
        data = number.to_bytes(size, "big")
    except OverflowError:
        raise ValueError("too long") from None
    if encode_base58(data) != text:
        raise ValueError(f"not {size} bytes")
    return data
