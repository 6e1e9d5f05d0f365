"""What OpenSSH sends to an agent, made by hand: logins, sessions that servers prove, signatures of files."""

from __future__ import annotations

import base64
import hashlib
import os
import struct

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HOSTBOUND = b"publickey-hostbound-v00@openssh.com"


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


class Server:
    """A server with an Ed25519 host key."""

    def __init__(self) -> None:
        self.key = ed25519.Ed25519PrivateKey.generate()
        self.blob = string(b"ssh-ed25519") + string(self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def bind(self, session: bytes, forwarding: bool = False) -> bytes:
        """What it says of a session, as session-bind@openssh.com carries it."""
        signature = string(b"ssh-ed25519") + string(self.key.sign(session))
        return string(self.blob) + string(session) + string(signature) + bytes([forwarding])


def private_form(public: bytes, private: bytes) -> str:
    """OpenSSH's form of a key, by hand: a public key, and the private fields behind its own."""
    section = b"abcdabcd" + private + string(b"a comment")
    section += bytes(range(1, 9))[: -len(section) % 8]
    data = b"openssh-key-v1\0" + string(b"none") + string(b"none") + string(b"") + struct.pack(">I", 1)
    text = base64.b64encode(data + string(public) + string(section)).decode()
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{text}\n-----END OPENSSH PRIVATE KEY-----\n"


def twin_of(public: bytes) -> str:
    """An Ed25519 key that says that this public half is its own."""
    return private_form(public, public + string(os.urandom(32) + public[-32:]))


def pack_rsa(bits: int) -> str:
    """An "RSA key" of so many bits."""
    number = string(b"\0" + b"\xff" * (bits // 8))
    rest = string(b"\x7f" + b"\xff" * (bits // 16))
    public, exponent = string(b"ssh-rsa"), string(b"\1\0\1")
    return private_form(public + exponent + number, public + number + exponent + rest * 4)


def new_session() -> bytes:
    return os.urandom(32)


def login(
    session: bytes, key: bytes, user: bytes = b"git", host_key: bytes | None = None, algorithm: bytes = b"ssh-ed25519"
) -> bytes:
    method = b"publickey" if host_key is None else HOSTBOUND
    body = string(session) + b"\x32" + string(user) + string(b"ssh-connection") + string(method) + b"\x01"
    return body + string(algorithm) + string(key) + (b"" if host_key is None else string(host_key))


def sshsig(namespace: bytes = b"git", content: bytes = b"x", algorithm: bytes = b"sha512", reserved: bytes = b"") -> bytes:
    digest = hashlib.new(algorithm.decode(), content).digest()
    return b"SSHSIG" + string(namespace) + string(reserved) + string(algorithm) + string(digest)
