"""A FIDO2 security key of software (CTAP 2.1): hmac-secret, a PIN with its counter, a touch; told by a file how to behave.

    Key(tmp_path / "key.json", pin="1234")            # made, or changed, by a test
    send_errand(…, before=key.plugged)                # the helper's process finds it, and those of other files, at USB

The library's own side of the protocol is the one that is tested: this is what answers it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from fido2 import cbor
from fido2.cose import ES256
from fido2.ctap import STATUS, CtapDevice, CtapError
from fido2.ctap2.pin import PinProtocolV2
from fido2.hid import CAPABILITY
from fido2.webauthn import AttestedCredentialData, AuthenticatorData

ERR = CtapError.ERR
FLAG = AuthenticatorData.FLAG


class Key:
    """A key's memory, as the tests see it: the file at `path`."""

    def __init__(self, path: Path, **memory: Any) -> None:
        self.path = path
        self.change(
            **{"pin": "1234", "tries": 8, "power": False, "touch": "yes", "eye": "", "can": ["hmac-secret"], "made": {}, **memory}
        )

    @property
    def memory(self) -> dict[str, Any]:
        return dict(json.loads(self.path.read_text())) if self.path.exists() else {}

    def change(self, **memory: Any) -> None:
        """`pin` "" for none; `tries` left; `power`: it wants to be taken out; `touch`: yes, refused, late, never, gone;
        `eye`: "" for none, yes, or no, where it looks at the person itself; `can`: extensions; `asked`: how often it waited."""
        self.path.write_text(json.dumps({"asked": 0, "tokens": 0, **self.memory, **memory}))

    @property
    def plugged(self) -> str:
        return plug(self)


def plug(*keys: Key) -> str:
    """The program that makes these keys those that are at USB."""
    paths = [str(key.path) for key in keys]
    here = str(Path(__file__).parent)
    return f"import sys; sys.path.append({here!r}); import soft_ctap; soft_ctap.replace({paths!r}); sys.path.pop(); "


def replace(paths: list[str]) -> None:
    from fido2.hid import CtapHidDevice

    CtapHidDevice.list_devices = classmethod(lambda cls: iter([Device(Key.__new__(Key), path) for path in paths]))  # type: ignore[method-assign]


class Device(CtapDevice):
    """What the library talks to."""

    def __init__(self, key: Key, path: str) -> None:
        self.key = key
        key.path = Path(path)
        self.protocol = PinProtocolV2()
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.token = b""

    capabilities = CAPABILITY.CBOR

    @classmethod
    def list_devices(cls) -> Any:
        return iter(())

    def call(self, cmd: int, data: bytes = b"", event: Any = None, on_keepalive: Any = None) -> bytes:
        given = cbor.decode(data[1:]) if data[1:] else {}
        handlers: dict[int, Callable[..., Any]] = {1: self.make, 2: self.use, 4: self.info, 6: self.client_pin}
        try:
            return b"\0" + cbor.encode(handlers[data[0]](given, event, on_keepalive))
        except CtapError as error:
            return bytes([error.code])

    def info(self, *_: object) -> dict[int, Any]:
        memory = self.key.memory
        options = {"rk": True, "up": True, "clientPin": bool(memory["pin"]), "pinUvAuthToken": True}
        if memory["eye"]:
            options["uv"] = True
        return {1: ["FIDO_2_0", "FIDO_2_1"], 2: memory["can"], 3: bytes(16), 4: options, 5: 1200, 6: [2]}

    def client_pin(self, given: dict[int, Any], *_: object) -> dict[int, Any]:
        memory = self.key.memory
        match given[2]:
            case 1:  # getPINRetries
                return {3: memory["tries"], 4: memory["power"]}
            case 2:  # getKeyAgreement
                return {1: dict(self.agreement())}
            case 6:  # getPinUvAuthTokenUsingUvWithPermissions
                if memory["eye"] != "yes":
                    raise CtapError(ERR.UV_INVALID)
            case 9:  # getPinUvAuthTokenUsingPinWithPermissions
                self.check_pin(memory, self.protocol.decrypt(self.shared(given[3]), given[6]))
        self.token = os.urandom(32)
        self.key.change(tokens=memory["tokens"] + 1)
        return {2: self.protocol.encrypt(self.shared(given[3]), self.token)}

    def check_pin(self, memory: dict[str, Any], digest: bytes) -> None:
        """Section 6.5.5.7.1: the counter first, then the comparison; three in a row, and it wants to be taken out."""
        if not memory["tries"] or memory["power"]:
            raise CtapError(ERR.PIN_AUTH_BLOCKED if memory["tries"] else ERR.PIN_BLOCKED)
        if hashlib.sha256(memory["pin"].encode()).digest()[:16] == digest:
            self.key.change(tries=8)
            return
        left = memory["tries"] - 1
        self.key.change(tries=left)
        raise CtapError(ERR.PIN_INVALID if left else ERR.PIN_BLOCKED)

    def agreement(self) -> Any:
        numbers = self.private.public_key().public_numbers()
        return {1: 2, 3: -25, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}

    def shared(self, theirs: dict[int, bytes]) -> bytes:
        x, y = (int.from_bytes(theirs[name], "big") for name in (-2, -3))
        public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        return self.protocol.kdf(self.private.exchange(ec.ECDH(), public))

    def is_verified(self, digest: bytes, parameter: bytes | None) -> bool:
        """Whether the request carries the token; raises where it carries another."""
        if parameter is None:
            return False
        if not self.token or self.protocol.authenticate(self.token, digest) != parameter:
            raise CtapError(ERR.PIN_AUTH_INVALID)
        return True

    def wait_for_touch(self, event: Any, on_keepalive: Any) -> None:
        memory = self.key.memory
        self.key.change(asked=memory["asked"] + 1)
        if on_keepalive:
            on_keepalive(STATUS.UPNEEDED)
        match memory["touch"]:
            case "refused":
                raise CtapError(ERR.OPERATION_DENIED)
            case "late":
                raise CtapError(ERR.USER_ACTION_TIMEOUT)
            case "never":
                event.wait()
                raise CtapError(ERR.KEEPALIVE_CANCEL)
            case "gone":
                raise OSError(19, "No such device")

    def make(self, given: dict[int, Any], event: Any, on_keepalive: Any) -> dict[int, Any]:
        memory = self.key.memory
        if not self.is_verified(given[1], given.get(8)):
            raise CtapError(ERR.PUAT_REQUIRED)
        self.wait_for_touch(event, on_keepalive)
        identity, private = os.urandom(48), ec.generate_private_key(ec.SECP256R1())
        made = {"rp": given[2]["id"], "with": os.urandom(32).hex(), "without": os.urandom(32).hex(), "resident": given.get(7, {})}
        self.key.change(made={**memory["made"], identity.hex(): made})
        credential = AttestedCredentialData.create(bytes(16), identity, ES256.from_cryptography_key(private.public_key()))
        has = "hmac-secret" in memory["can"] and given.get(6, {}).get("hmac-secret")
        flags = FLAG.UP | FLAG.UV | FLAG.AT | (FLAG.ED if has else 0)
        extensions = {"hmac-secret": True} if has else None
        return {1: "none", 2: bytes(self.data(given[2]["id"], flags, credential, extensions)), 3: {}}

    def use(self, given: dict[int, Any], event: Any, on_keepalive: Any) -> dict[int, Any]:
        known = self.key.memory["made"]
        found = [each["id"] for each in given[3] if known.get(each["id"].hex(), {}).get("rp") == given[1]]
        verified = self.is_verified(given[2], given.get(6))
        if given.get(5, {}).get("up", True):
            self.wait_for_touch(event, on_keepalive)
        if not found:
            raise CtapError(ERR.NO_CREDENTIALS)
        secret = bytes.fromhex(known[found[0].hex()]["with" if verified else "without"])
        extensions = None
        if asked := given.get(4, {}).get("hmac-secret"):
            shared = self.shared(asked[1])
            if self.protocol.authenticate(shared, asked[2]) != asked[3]:
                raise CtapError(ERR.INVALID_PARAMETER)
            output = hmac.digest(secret, self.protocol.decrypt(shared, asked[2]), "sha256")
            extensions = {"hmac-secret": self.protocol.encrypt(shared, output)}
        flags = FLAG.UP | (FLAG.UV if verified else 0) | (FLAG.ED if extensions else 0)
        data = self.data(given[1], flags, None, extensions)
        return {1: {"id": found[0], "type": "public-key"}, 2: bytes(data), 3: b"not looked at"}

    def data(self, rp: str, flags: int, credential: Any, extensions: Any) -> AuthenticatorData:
        return AuthenticatorData.create(hashlib.sha256(rp.encode()).digest(), FLAG(flags), 1, credential or b"", extensions)
