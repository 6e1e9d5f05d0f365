"""The ways in which a key of a PKCS#11 token wraps a secret."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.mechanisms import GCMParams

# Ways to wrap: the mechanism, what a token has to do with it, and what a key has to be allowed
WAYS = {
    "gcm": (
        Mechanism.AES_GCM,
        MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
        (Attribute.ENCRYPT, Attribute.DECRYPT),
    ),
    "wrap": (
        Mechanism.AES_KEY_WRAP,
        MechanismFlag.WRAP | MechanismFlag.UNWRAP,
        (Attribute.WRAP, Attribute.UNWRAP),
    ),
}


NONCE = 12  # bytes


def does(slot: pkcs11.Slot, way: str) -> bool:
    """Whether a token wraps in that way."""
    mechanism, needed, _ = WAYS[way]
    return (
        mechanism in slot.get_mechanisms()
        and slot.get_mechanism_info(mechanism).flags & needed == needed
    )


def may(key: Any, way: str) -> bool:
    """Whether a key is allowed to wrap in that way."""
    return all(key[attribute] for attribute in WAYS[way][2])


def wrap(key: Any, way: str, secret: bytes, bound: bytes) -> bytes:
    """The secret, wrapped by the token's key, for `bound` alone."""
    if way == "gcm":
        nonce = os.urandom(NONCE)
        given = GCMParams(nonce, bound)
        data: bytes = key.encrypt(secret, mechanism=Mechanism.AES_GCM, mechanism_param=given)
        return nonce + data
    whole = hashlib.sha256(bound).digest() + secret
    carrier = key.session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
            Attribute.VALUE: whole + bytes(-len(whole) % 8),
            Attribute.TOKEN: False,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: False,
            Attribute.EXTRACTABLE: True,
        }
    )
    wrapped: bytes = key.wrap_key(carrier, mechanism=Mechanism.AES_KEY_WRAP)
    return wrapped


def unwrap(key: Any, way: str, data: bytes, bound: bytes) -> bytes:
    """What `wrap` was given; raises PKCS11Error, and ValueError where it is bound to another."""
    if way == "gcm":
        given = GCMParams(data[:NONCE], bound)
        secret: bytes = key.decrypt(
            data[NONCE:], mechanism=Mechanism.AES_GCM, mechanism_param=given
        )
        return secret
    template = {
        Attribute.TOKEN: False,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: False,
        Attribute.EXTRACTABLE: True,
    }
    carrier = key.unwrap_key(
        ObjectClass.SECRET_KEY,
        KeyType.GENERIC_SECRET,
        data,
        mechanism=Mechanism.AES_KEY_WRAP,
        template=template,
    )
    whole = bytes(carrier[Attribute.VALUE])
    head = hashlib.sha256(bound).digest()
    if whole[: len(head)] != head:
        raise ValueError("bound to another")
    return whole[len(head) :].rstrip(b"\0")
