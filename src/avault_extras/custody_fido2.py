"""A FIDO2 security key, or a passkey in a browser, as a custodian.

Both give 32 bytes that only they can make from a salt: a key by CTAP's hmac-secret, a passkey by
WebAuthn's PRF. From these comes the key that seals the unlock key, in the vault's own file. The
person is verified each time, by PIN, finger or face: what was stolen with the disk opens nothing.
"""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING, Any, ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

import avault
from avault import Errand, NotFound, Tampered, Usage

if TYPE_CHECKING:
    from avault_extras import custody_fido2_key, custody_fido2_page
else:
    custody_fido2_key = avault.load_extra("custody_fido2_key", "fido2")
    custody_fido2_page = avault.load_extra("custody_fido2_page", "fido2")

INFO = b"avault custody prf v1"
BYTES = 32  # of a salt, and of what comes of it
NONCE = 12


def make_key(secret: bytes, salt: bytes, bound: str) -> AESGCM:
    """The key that seals, from what the authenticator made of the salt (HKDF, RFC 5869)."""
    derived = HKDF(SHA256(), 32, salt, INFO + bound.encode()).derive(secret)
    return AESGCM(derived)


def seal(secret: str, made: bytes, salt: bytes, bound: str) -> bytes:
    """The secret, sealed for `bound` alone."""
    nonce = os.urandom(NONCE)
    key = make_key(made, salt, bound)
    return nonce + bytes(key.encrypt(nonce, secret.encode(), bound.encode()))


def unseal(sealed: bytes, made: bytes, salt: bytes, bound: str) -> str:
    """What `seal` was given; raises Tampered."""
    nonce, rest = sealed[:NONCE], sealed[NONCE:]
    try:
        return bytes(make_key(made, salt, bound).decrypt(nonce, rest, bound.encode())).decode()
    except (InvalidTag, ValueError):
        reason = "it does not open: another credential's, another vault's, or damaged"
        raise Tampered(reason) from None


class Custodian:
    """What makes 32 bytes of a salt when a person touches it, by USB or in a browser's page."""

    needs_person = True
    SETTINGS: ClassVar[dict[str, tuple[str, str | None]]] = {
        "via": ("key, a security key at USB; or page, a passkey in a browser", "key"),
        "port": ("of the page at localhost; 0 takes any free one", "0"),
    }

    def __init__(self, errand: Errand) -> None:
        self.errand = errand
        self.settings = {
            name: errand.settings.get(name) or str(default)
            for name, (_, default) in self.SETTINGS.items()
        }

    def settle(self) -> dict[str, str]:
        """The settings, complete; raises Usage."""
        via, port = self.settings["via"], self.settings["port"]
        if via not in ("key", "page"):
            raise Usage("via is key or page")
        if not (port.isascii() and port.isdecimal() and len(port) < 6 and int(port) < 1 << 16):
            raise Usage("port is a number from 0 to 65535")
        return {**self.settings, "port": str(int(port))}

    def probe(self) -> str:
        """Whether the security key is there; asks for no touch.

        A passkey shows itself to nobody.
        """
        if self.settings["via"] == "page":
            return "a browser is to open its page"
        credential = self.read_kept()[0] if self.errand.kept else None
        custody_fido2_key.find_device(credential)
        return "the security key is there"

    def set(self, secret: str) -> str:
        """Seal the secret for a new credential, which is used at once; give what `get` needs."""
        salt = os.urandom(BYTES)
        credential, made = self.authenticator().make(salt)
        sealed = seal(secret, made, salt, self.errand.bound)
        content = {"credential": credential, "salt": salt, "sealed": sealed}
        return json.dumps({name: base64.b64encode(data).decode() for name, data in content.items()})

    def get(self) -> str:
        """The secret, with the credential that sealed it."""
        credential, salt, sealed = self.read_kept()
        made = self.authenticator().use(credential, salt)
        return unseal(sealed, made, salt, self.errand.bound)

    def delete(self) -> None:
        """Nothing of the vault's is in the authenticator; a passkey is removed where it is kept."""

    def authenticator(self) -> Any:
        """What makes a credential, and uses it."""
        if self.settings["via"] == "page":
            return custody_fido2_page.Passkey(self.errand, int(self.settings["port"]))
        return custody_fido2_key.SecurityKey(self.errand)

    def read_kept(self) -> tuple[bytes, bytes, bytes]:
        """Credential, salt and what is sealed, as `set` gave them; raises Tampered, NotFound."""
        if self.errand.kept is None:
            raise NotFound("nothing was sealed for it")
        try:
            content = json.loads(self.errand.kept)
            names = ("credential", "salt", "sealed")
            credential, salt, sealed = (base64.b64decode(content[x], validate=True) for x in names)
            if credential and len(salt) == BYTES:
                return credential, salt, sealed
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        raise Tampered("what was sealed for it is damaged")
