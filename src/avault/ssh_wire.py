"""The data types of SSH (RFC 4251, section 5): read strictly, and written."""

from __future__ import annotations

import binascii

from avault.places import sha256


class SshReader:
    """Reads what SSH wrote; each method raises ValueError where that is not there."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        """So many bytes."""
        piece = self.data[self.at : self.at + size]
        if len(piece) != size:
            raise ValueError("cut off")
        self.at += size
        return piece

    def byte(self) -> int:
        """A byte."""
        return self.take(1)[0]

    def flag(self) -> bool:
        """A boolean, as it is written: 0 or 1."""
        found = self.byte()
        if found > 1:
            raise ValueError("not a boolean")
        return bool(found)

    def number(self) -> int:
        """An uint32."""
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        """A string."""
        return self.take(self.number())

    def mpint(self) -> int:
        """A number that is not negative, in its one form."""
        found = self.string()
        number = int.from_bytes(found, "big", signed=True)
        if number < 0 or found != pack_number(number):
            raise ValueError("not a number")
        return number

    def text(self) -> str:
        """A string that is printable ASCII, as names and users are."""
        found = self.string()
        text = found.decode("ascii") if found.isascii() else "\0"
        if not text.isprintable() or " " in text:
            raise ValueError("not a name")
        return text

    def end(self) -> None:
        """Nothing more."""
        if self.at != len(self.data):
            raise ValueError("more than there should be")


def ssh_number(number: int) -> bytes:
    """An uint32 of SSH."""
    return number.to_bytes(4, "big")


def ssh_string(data: bytes) -> bytes:
    """A string of SSH."""
    return ssh_number(len(data)) + data


def pack_number(number: int) -> bytes:
    """What an mpint has, of a number that is not negative."""
    return number.to_bytes(number.bit_length() // 8 + 1, "big") if number else b""


def fingerprint_of(blob: bytes) -> str:
    """A public key's fingerprint, as ssh-keygen -l has it: SHA256 and base64 without padding."""
    return "SHA256:" + binascii.b2a_base64(sha256(blob), newline=False).decode().rstrip("=")


def encode_base64(data: bytes) -> str:
    """Bytes as base64."""
    return binascii.b2a_base64(data, newline=False).decode()


def decode_base64(text: object, most: int) -> bytes:
    """The bytes of base64, at most so many; raises ValueError for anything else."""
    if not isinstance(text, str) or len(text) > most * 4 // 3 + 4:
        raise ValueError("not base64, or too long")
    found = binascii.a2b_base64(text, strict_mode=True)
    if encode_base64(found) != text:
        raise ValueError("not the base64 of this")
    return found
