"""What is to be signed for SSH, decoded strictly and whole: what is not understood is refused.

A use is a dictionary: `as`, and what is proven. `through` are the host keys (fingerprints) of the
servers that it comes through, by a forwarded agent. Of `ssh` the `user`, and the `server` (its host
key, None where nothing proves it). Of `sshsig` the `namespace`, and the `digest` (hex) of the file,
by a `hash`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.errors import Denied, Usage
from avault.ssh_wire import SshReader, decode_base64, fingerprint_of, ssh_string

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    # a public key, a signature over the data, and the data: whether it is that key's
    Verify = Callable[[bytes, bytes, bytes], bool]


SSHSIG_MAGIC = b"SSHSIG"
DIGESTS = {"sha256": 32, "sha512": 64}
USERAUTH_REQUEST = 50  # RFC 4252, section 6
HOSTBOUND = "publickey-hostbound-v00@openssh.com"  # PROTOCOL of OpenSSH, section 2.6
MOST_BINDS = 16
LONGEST_BIND = 16_384  # bytes
LONGEST_SSH = 24_576  # bytes of what is to be signed: a request's first frame has it


class Bind:
    """What session-bind@openssh.com tells of a connection (PROTOCOL.agent of OpenSSH, section 1).

    Raises ValueError where it is not one.
    """

    def __init__(self, data: bytes) -> None:
        reader = SshReader(data)
        self.host_key, self.session = reader.string(), reader.string()
        self.signature, self.is_forwarding = reader.string(), reader.flag()
        reader.end()
        if not self.host_key or not 16 <= len(self.session) <= 128:
            raise ValueError("not a host key, or not a session")


def check_next_bind(binds: list[Bind], bind: Bind) -> None:
    """Raise ValueError where a connection cannot be bound to one more session.

    A session is bound once. Behind one that signs in, and does not forward, there is none.
    """
    if len(binds) >= MOST_BINDS:
        raise ValueError("too many")
    if any(each.session == bind.session for each in binds):
        raise ValueError("this session is bound already")
    if any(not each.is_forwarding for each in binds):
        raise ValueError("it does not forward")


def read_binds(found: object, verify: Verify | None) -> list[Bind]:
    """The sessions that a connection is bound to, each proven by its server; raises Denied.

    Where nothing verifies, none is.
    """
    binds: list[Bind] = []
    try:
        if not isinstance(found, list) or len(found) > MOST_BINDS:
            raise ValueError("not a list of them")
        for each in found:
            bind = Bind(decode_base64(each, LONGEST_BIND))
            check_next_bind(binds, bind)
            if not verify or not verify(bind.host_key, bind.signature, bind.session):
                raise ValueError("the server did not sign this")
            binds.append(bind)
    except ValueError as error:
        raise Denied(f"what is said of the server is not proven: {error}") from None
    return binds


def describe_binds(binds: list[Bind]) -> dict[str, Any]:
    """The server that a connection signs in to, and those that it comes through."""
    hosts = [(fingerprint_of(each.host_key), each.is_forwarding) for each in binds]
    ends = [host for host, is_forwarding in hosts if not is_forwarding]
    through = [host for host, is_forwarding in hosts if is_forwarding]
    return {"server": ends[-1] if ends else None, "through": through}


def decode_login(payload: bytes, key: bytes, binds: list[Bind]) -> dict[str, Any]:
    """What is signed to sign in to a server, with the public key that it is for.

    Raises Usage for what is nothing of the kind, and Denied where it is for another session than
    the one that was proven.
    """
    try:
        reader = SshReader(payload)
        session = reader.string()
        if not 16 <= len(session) <= 128 or reader.byte() != USERAUTH_REQUEST:
            raise ValueError("no request to sign in")
        user, service, method = reader.text(), reader.text(), reader.text()
        if service != "ssh-connection" or method not in ("publickey", HOSTBOUND):
            raise ValueError("another service, or another method")
        if not reader.flag():
            raise ValueError("it wants no signature")
        algorithm, signed = reader.text(), reader.string()
        host_key = reader.string() if method == HOSTBOUND else None
        reader.end()
        if signed != key or not fits_key(algorithm, key):
            raise ValueError("it is for another key")
        if not user:
            raise ValueError("no user")
    except ValueError as error:
        raise Usage(f"not understood, so not signed: {error}") from None
    if binds and (session != binds[-1].session or binds[-1].is_forwarding):
        raise Denied("that is for another session than the one that the server has proven")
    if host_key is not None and (not binds or host_key != binds[-1].host_key):
        raise Denied("that is for another server than the one that is proven")
    return {"as": "ssh", "user": user, **describe_binds(binds)}


def fits_key(algorithm: str, key: bytes) -> bool:
    """Whether a signature's algorithm is one for this public key; SHA-1 is none."""
    named = SshReader(key).text()
    return algorithm in (("rsa-sha2-256", "rsa-sha2-512") if named == "ssh-rsa" else (named,))


def decode_sshsig(payload: bytes, binds: list[Bind]) -> dict[str, Any]:
    """What is signed of a file or a commit (PROTOCOL.sshsig of OpenSSH); raises Usage."""
    try:
        reader = SshReader(payload)
        if reader.take(len(SSHSIG_MAGIC)) != SSHSIG_MAGIC:
            raise ValueError("no signature of a file")
        namespace, reserved = reader.text(), reader.string()
        algorithm, digest = reader.text(), reader.string()
        reader.end()
        if not namespace or reserved or len(digest) != DIGESTS.get(algorithm):
            raise ValueError("no namespace, or no digest")
    except ValueError as error:
        raise Usage(f"not understood, so not signed: {error}") from None
    said = {"as": "sshsig", "namespace": namespace, "hash": algorithm, "digest": digest.hex()}
    return {**said, "through": describe_binds(binds)["through"]}


def decode_use(request: dict[str, Any], verify: Verify | None) -> dict[str, Any]:
    """What a request wants signed; raises Usage, Denied.

    It has `as`, `payload`, `public` (the key's, as bytes in base64) and `binds`.
    """
    try:
        payload = decode_base64(request.get("payload"), LONGEST_SSH)
        key = decode_base64(request.get("public"), LONGEST_BIND)
    except ValueError as error:
        raise Usage(f"not understood, so not signed: {error}") from None
    binds = read_binds(request.get("binds", []), verify)
    if request.get("as") == "sshsig":
        return decode_sshsig(payload, binds)
    if request.get("as") == "ssh":
        return decode_login(payload, key, binds)
    raise Usage("as is ssh or sshsig", "what is not understood is not signed")


def pack_signature(algorithm: str, signature: bytes) -> bytes:
    """A signature as SSH has it (RFC 4253, section 6.6)."""
    return ssh_string(algorithm.encode()) + ssh_string(signature)
