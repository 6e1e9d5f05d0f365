"""A private key as JSON (JWK, RFC 7517): of Ed25519 (RFC 8037), or of P-256 (RFC 7518, 6.2).

It runs in the process that signs, as all that has a private key.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from avault import Usage

JWK_KINDS = {("OKP", "Ed25519"): "an Ed25519 key", ("EC", "P-256"): "a P-256 key"}
JWK_ALGORITHMS = (None, "EdDSA", "Ed25519", "ES256")  # that sign with these (RFC 8037, 9864, 7518)
NUMBER = 32  # bytes of each half
NO_GOOD = "take another copy of it, or make a new key: avault key generate"


def take_jwk(data: bytes) -> Any:
    """The private key in a JWK, as cryptography has it.

    Raises Usage for what is none, has another's public half, or says that it does not sign.
    """
    try:
        said = json.loads(data, object_pairs_hook=refuse_twice)
    except (ValueError, RecursionError):
        raise Usage("that is no private key", "as ssh-keygen or openssl writes one") from None
    if not isinstance(said, dict) or not isinstance(said.get("kty"), str):
        which = "of a keystore or an id.json say what it is: --kind evm, or solana"
        raise Usage("this JSON is no JWK", which)
    kind = said["kty"], str(said.get("crv"))
    if kind not in JWK_KINDS:
        raise Usage("a JWK of another kind", f"what is taken is {' or '.join(JWK_KINDS.values())}")
    if "d" not in said:
        raise Usage("that is a public key", "name the file of the private one")
    operations = said.get("key_ops", ["sign"])
    if said.get("use", "sig") != "sig" or said.get("alg") not in JWK_ALGORITHMS:
        hint = "its use or alg says it may not sign: take another key"
        raise Usage("a JWK that says that it does not sign", hint)
    if not isinstance(operations, list) or "sign" not in operations:
        hint = "its key_ops say it may not sign: take another key"
        raise Usage("a JWK that says that it does not sign", hint)
    secret, public = read_number(said, "d"), read_number(said, "x")
    if kind[0] == "OKP":
        key = ed25519.Ed25519PrivateKey.from_private_bytes(secret)
        form = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        is_own = key.public_key().public_bytes(*form) == public
        return check_own(key, is_own)
    try:
        number = int.from_bytes(secret, "big")
        made = ec.derive_private_key(number, ec.SECP256R1())
    except ValueError:
        raise Usage("a JWK whose number is none of its curve's", NO_GOOD) from None
    point = made.public_key().public_numbers()
    said_point = public + read_number(said, "y")
    return check_own(made, point.x.to_bytes(32, "big") + point.y.to_bytes(32, "big") == said_point)


def check_own(key: Any, is_own: bool) -> Any:
    """The key, if its public half is its own; raises Usage."""
    if not is_own:
        raise Usage("its public half is another key's", "make a new one: avault key generate")
    return key


def read_number(said: dict[str, Any], name: str) -> bytes:
    """A member of 32 bytes, in base64url without padding (RFC 7515, 2); raises Usage."""
    text = said.get(name)
    try:
        data = base64.b64decode(str(text) + "=", altchars=b"-_", validate=True)
        if len(data) == NUMBER and base64.urlsafe_b64encode(data).rstrip(b"=").decode() == text:
            return data
    except ValueError:
        pass
    raise Usage(f"a JWK whose {name} is not {NUMBER} bytes in base64url", NO_GOOD)


def refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, each of whose members stands there once (RFC 7517, 4); raises ValueError."""
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a member stands twice")
    return dict(pairs)
