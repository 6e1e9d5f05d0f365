"""What a private key's file would have the process that signs do: looked at before any of it.

Who writes a file chooses how often its passphrase is hashed, and how long its numbers are.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING

from avault.errors import Usage
from avault.late import regex
from avault.vault.openssh_key import MOST_RSA

if TYPE_CHECKING:
    from collections.abc import Iterator


LONGEST_FILE = 16_384  # bytes; RSA of 8192 bits takes half of that
LONGEST_PASSPHRASE = 1_024  # characters
MOST_ROUNDS = 2_000_000  # of PBKDF2: seconds
MOST_SCRYPT = 1 << 20  # N * r * p of RFC 7914: as much memory in units of 128 bytes
SCRYPT = b"\x06\x09\x2b\x06\x01\x04\x01\xda\x47\x04\x0b"  # its name in DER, RFC 7914, section 7
INTEGER, OCTET_STRING, IS_CONSTRUCTED = 0x02, 0x04, 0x20  # tags of X.690, section 8
PEM_BLOCK = regex(rb"(?s)-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END")


def check_key_file(data: bytes) -> None:
    """Raise Usage where a file wants more work than a key is worth."""
    if len(data) > LONGEST_FILE:
        raise Usage("that is no key", "name the file of a private key")
    for label, body in PEM_BLOCK.findall(data):
        is_encrypted = label.startswith(b"ENCRYPTED")
        try:
            der = binascii.a2b_base64(body)
            numbers = [*find_numbers(der)]
        except (ValueError, RecursionError):
            if is_encrypted:  # how often its passphrase is hashed would be its secret
                raise Usage("that is no private key", "as openssl writes one") from None
            continue
        if any(number.bit_length() > MOST_RSA for number in numbers):
            raise Usage("a key with longer numbers than a key has", f"at most {MOST_RSA} bits")
        if is_encrypted:
            check_rounds(der, numbers)


def check_rounds(der: bytes, numbers: list[int]) -> None:
    """Raise Usage where a passphrase is hashed too often (RFC 8018, RFC 7914)."""
    work, most = max(numbers, default=0), MOST_ROUNDS
    if SCRYPT in der:
        work, most = 1, MOST_SCRYPT
        for number in numbers[:3]:
            work *= number
    if work > most:
        raise Usage(
            "a key whose passphrase takes too long to try",
            "write a copy with fewer rounds: openssl pkcs8 -topk8 -iter 100000",
        )


def find_numbers(der: bytes) -> Iterator[int]:
    """The numbers in DER, also in what is wrapped in it; raises ValueError where it is none."""
    at = 0
    while at < len(der):
        if at + 2 > len(der):
            raise ValueError("cut off")
        tag, size = der[at], der[at + 1]
        at += 2
        if size >= 0x80:
            count = size & 0x7F
            size, at = int.from_bytes(der[at : at + count], "big"), at + count
        content, at = der[at : at + size], at + size
        if len(content) != size:
            raise ValueError("cut off")
        if tag == INTEGER:
            yield int.from_bytes(content, "big", signed=True)
        elif tag & IS_CONSTRUCTED:
            yield from find_numbers(content)
        elif tag == OCTET_STRING:
            try:
                yield from [*find_numbers(content)]
            except ValueError:
                pass  # bytes of another kind
