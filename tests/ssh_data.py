"""What OpenSSH sends to an agent, made by hand: logins, sessions that servers prove, signatures of files."""

from __future__ import annotations

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
