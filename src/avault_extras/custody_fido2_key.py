"""A FIDO2 security key at USB: its hmac-secret, after its PIN and a touch (CTAP 2.1).

The credential belongs to "avault", which no web page can name, and is not stored in the key.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

from fido2.client import ClientError, DefaultClientDataCollector, Fido2Client, UserInteraction
from fido2.ctap import CtapError
from fido2.ctap2 import ClientPin, Ctap2
from fido2.ctap2.extensions import HmacSecretExtension
from fido2.hid import ConnectionFailure, CtapHidDevice
from fido2.utils import websafe_decode
from fido2.webauthn import PublicKeyCredentialCreationOptions, PublicKeyCredentialRequestOptions

from avault import AvaultError, Denied, Errand, NotFound, Unavailable

RP = "avault"
ALGORITHMS = (-7, -8, -257)  # ES256, EdDSA, RS256: which does not matter, no signature is checked
FEW = 3  # tries of a PIN that are left
ERR = CtapError.ERR
UNKNOWN = "the security key has no credential of this vault"

# What the key may answer (CTAP 2.1, section 8.2), and what it means; anything else is an error by
# its name
MEANINGS: dict[int, tuple[type[AvaultError], str]] = {
    ERR.NO_CREDENTIALS: (NotFound, UNKNOWN),
    ERR.OPERATION_DENIED: (Denied, "it was refused at the security key"),
    ERR.NOT_ALLOWED: (Denied, "it was refused at the security key"),
    ERR.USER_ACTION_TIMEOUT: (Denied, "the security key was not touched in time"),
    ERR.ACTION_TIMEOUT: (Denied, "the security key was not touched in time"),
    ERR.KEEPALIVE_CANCEL: (Denied, "the security key was not touched in time"),
    ERR.PIN_INVALID: (Denied, "the PIN is wrong; it is not tried again"),
    ERR.PIN_AUTH_BLOCKED: (Denied, "the security key wants to be taken out and put in again first"),
    ERR.PIN_BLOCKED: (Denied, "the security key's PIN is locked"),
    ERR.UV_INVALID: (Denied, "the security key did not recognise the person"),
    ERR.UV_BLOCKED: (Denied, "the security key recognises nobody any more; its PIN may help"),
    ERR.PIN_NOT_SET: (Unavailable, "the security key has no PIN yet"),
    ERR.KEY_STORE_FULL: (Unavailable, "the security key is full"),
}


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raise what an answer of the key means."""
    try:
        yield
    except (ClientError, CtapError) as error:
        cause = error.cause if isinstance(error, ClientError) else error
        code = getattr(cause, "code", None)
        if code in MEANINGS:
            kind, reason = MEANINGS[code]
            raise kind(reason) from None
        name = getattr(code, "name", None) or getattr(error.code, "name", "")
        raise AvaultError(f"the security key failed: {name}") from None
    except (OSError, ConnectionFailure):
        raise Unavailable("the security key was taken out") from None


def knows(ctap: Ctap2, credential: bytes) -> bool:
    """Whether a key made a credential, without a touch; where it does not tell, it may have."""
    allowed = [{"type": "public-key", "id": credential}]
    try:
        ctap.get_assertion(RP, bytes(32), allowed, options={"up": False})
    except CtapError as error:
        return bool(error.code != ERR.NO_CREDENTIALS)
    return True


def find_device(credential: bytes | None) -> Any:
    """The security key that made the credential, or the only one that could make one.

    Raises NotFound, Unavailable, and AvaultError where there are two.
    """
    found, are_there = [], False
    for device in CtapHidDevice.list_devices():
        with explained():
            try:
                ctap = Ctap2(device)
            except ValueError:  # it is older than FIDO2
                continue
            are_there = True
            if HmacSecretExtension.NAME in ctap.info.extensions and (
                credential is None or knows(ctap, credential)
            ):
                found.append(device)
    if len(found) > 1:
        raise AvaultError("there are several security keys; leave one in")
    if found:
        return found[0]
    if not are_there:
        raise Unavailable("there is no FIDO2 security key, or none that we may use")
    if credential is None:
        raise Unavailable("the security key can make no keys of its own (hmac-secret)")
    raise NotFound(UNKNOWN)


class Person(UserInteraction):  # type: ignore[misc]
    """What the person is asked and told at the terminal; a PIN once, and never again."""

    def __init__(self, errand: Errand, device: Any) -> None:
        self.prompt, self.ctap = errand.prompt, Ctap2(device)
        self.pin: str | None = None

    def prompt_up(self) -> None:
        """The key waits for a touch."""
        self.prompt.tell("touch the security key")

    def request_uv(self, permissions: Any, rp_id: str | None) -> bool:
        """The key looks at the person itself."""
        self.prompt.tell("the security key wants to see that it is you")
        return True

    def request_pin(self, permissions: Any, rp_id: str | None) -> str:
        """The key's PIN.

        That few tries are left is said before, and none is taken where none is.
        """
        if self.pin is None:
            left, needs_power = ClientPin(self.ctap).get_pin_retries()
            if not left or needs_power:
                raise CtapError(ERR.PIN_AUTH_BLOCKED if left else ERR.PIN_BLOCKED)
            if left <= FEW:
                self.prompt.tell(f"tries of the PIN that are left before the key locks: {left}")
            self.pin = self.prompt.ask("PIN of the security key", "avault-pin")
        return self.pin


class SecurityKey:
    """The security key that is there, and the person who touches it."""

    def __init__(self, errand: Errand) -> None:
        self.errand = errand
        # the key is to stop waiting a little before we do
        self.end = time.monotonic() + errand.limit * 0.8

    def make(self, salt: bytes) -> tuple[bytes, bytes]:
        """A new credential's id, and what it makes of the salt: two touches."""
        device = find_device(None)
        with explained():
            client = self.client(device)
            self.need_verification(client)
            options = {
                "rp": {"id": RP, "name": "avault"},
                "user": {"id": os.urandom(16), "name": "avault", "displayName": "avault"},
                "challenge": os.urandom(32),
                "pubKeyCredParams": [{"type": "public-key", "alg": each} for each in ALGORITHMS],
                "authenticatorSelection": {
                    "residentKey": "discouraged",
                    "userVerification": "required",
                },
                "timeout": self.milliseconds(),
                "extensions": {"hmacCreateSecret": True},
            }
            made = client.make_credential(PublicKeyCredentialCreationOptions.from_dict(options))
            if not made.client_extension_results.get("hmacCreateSecret"):
                raise Unavailable("the security key can make no keys of its own (hmac-secret)")
        return made.raw_id, self.ask(client, made.raw_id, salt)

    def use(self, credential: bytes, salt: bytes) -> bytes:
        """What the credential makes of the salt: one touch."""
        device = find_device(credential)
        with explained():
            client = self.client(device)
        return self.ask(client, credential, salt)

    def milliseconds(self) -> int:
        """The time that is left."""
        return max(int((self.end - time.monotonic()) * 1000), 1)

    def client(self, device: Any) -> Fido2Client:
        """The library's side of the talk."""
        return Fido2Client(
            device,
            DefaultClientDataCollector(f"https://{RP}"),
            user_interaction=Person(self.errand, device),
            extensions=[HmacSecretExtension(allow_hmac_secret=True)],
        )

    def need_verification(self, client: Fido2Client) -> None:
        """Raise Unavailable where the key would open for whoever touches it."""
        if not any(client.info.options.get(name) for name in ("clientPin", "uv")):
            raise Unavailable("the security key has no PIN yet")

    def ask(self, client: Fido2Client, credential: bytes, salt: bytes) -> bytes:
        """What the credential makes of the salt."""
        options = {
            "challenge": os.urandom(32),
            "rpId": RP,
            "allowCredentials": [{"type": "public-key", "id": credential}],
            "userVerification": "required",
            "timeout": self.milliseconds(),
            "extensions": {"hmacGetSecret": {"salt1": salt}},
        }
        with explained():
            asked = client.get_assertion(PublicKeyCredentialRequestOptions.from_dict(options))
            results = asked.get_response(0).client_extension_results
            output = results.get("hmacGetSecret", {}).get("output1")
        if not output:
            raise AvaultError("the security key made nothing of the salt")
        return websafe_decode(output) if isinstance(output, str) else bytes(output)
