"""systemd as a custodian: what systemd-creds(1) seals to this machine, or a unit's credential.

With `credential`, a unit's own LoadCredentialEncrypted= holds a key that the operator made, and the
unlock key is sealed with that (NIP-44, from the key to its own public key).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from avault.custody.tools import find_tool, run_tool
from avault.errors import NotFound, Tampered, Unavailable, Usage, printable
from avault.keys.nostr import decrypt, encrypt, public_hex, read_keys
from avault.places import sha256
from avault.vault.files import read_file

if TYPE_CHECKING:
    from typing import ClassVar

    from avault.keys.custodian import Errand
    from avault.keys.nostr import Keys, KeyText


SEALING_KEYS = ("auto", "host", "tpm2", "host+tpm2")
CREDENTIAL_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}"


class SystemdCreds:
    """A credential that this machine's systemd seals; it needs nobody."""

    needs_person: ClassVar[bool] = False
    SETTINGS: ClassVar[dict[str, tuple[str, str | None]]] = {
        "key": (f"what seals it: {', '.join(SEALING_KEYS)}", "auto"),
        "credential": ("instead: the name of a credential that the service's unit loads", ""),
    }

    def __init__(self, errand: Errand) -> None:
        self.errand = errand
        self.credential = errand.settings.get("credential") or ""

    def settle(self) -> dict[str, str]:
        """What seals it, and whether that can be used here; raises Usage, Unavailable."""
        key = self.errand.settings.get("key") or "auto"
        if key not in SEALING_KEYS:
            raise Usage(f"key is one of: {', '.join(SEALING_KEYS)}")
        if not self.credential:
            self.prepare()
        elif not re.fullmatch(CREDENTIAL_NAME, self.credential):
            raise Usage(f"not the name of a credential: {printable(self.credential)}")
        return {"key": key, "credential": self.credential}

    def probe(self) -> str:
        """Whether systemd-creds can be run, or the credential is there."""
        self.find_kept()
        if self.credential:
            self.read_credential()
            return f"the credential {self.credential} is there"
        self.prepare()
        return "systemd-creds is there"

    def set(self, secret: KeyText) -> str:
        """What systemd-creds, or the unit's credential, makes of the secret."""
        if self.credential:
            keys = self.read_credential()
            return encrypt(keys, public_hex(keys), f"{self.errand.bound}\n{secret}")
        key = self.errand.settings.get("key") or "auto"
        sealed = self.run("encrypt", [f"--with-key={key}"], secret.encode())
        return "".join(sealed.decode("ascii", "replace").split())

    def get(self) -> KeyText:
        """The secret; raises NotFound, Unavailable, Tampered, AvaultError."""
        kept = self.find_kept()
        if not self.credential:
            return self.run("decrypt", [], kept.encode()).decode(errors="replace")
        keys = self.read_credential()
        try:
            bound, _, secret = decrypt(keys, public_hex(keys), kept).partition("\n")
        except ValueError:
            raise Tampered(f"the credential {self.credential} is another than at first") from None
        if bound != self.errand.bound:
            raise Tampered("what the credential opens is another custodian's, or another vault's")
        return secret

    def delete(self) -> None:
        """Nothing: it goes with the vault's own file."""

    def find_kept(self) -> str:
        """What was sealed; raises NotFound."""
        if not self.errand.kept:
            raise NotFound("there is nothing that systemd could open")
        return self.errand.kept

    def read_credential(self) -> Keys:
        """The key in the unit's credential (CREDENTIALS_DIRECTORY, systemd.exec(5))."""
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise Unavailable("no unit has given the daemon credentials (CREDENTIALS_DIRECTORY)")
        try:
            text = read_file(os.path.join(directory, self.credential), 4096).decode()
        except NotFound:
            raise NotFound(f"the unit has no credential {self.credential}") from None
        except UnicodeDecodeError:
            text = ""
        digits = text.removesuffix("\n")
        try:
            if not re.fullmatch("[0-9a-f]{64}", digits):
                raise ValueError
            return read_keys(digits)
        except ValueError:
            raise Tampered(f"the credential {self.credential} is not 64 hex digits") from None

    def prepare(self) -> tuple[str, list[str]]:
        """systemd-creds and what it needs to be told without root; raises Unavailable, Denied."""
        path = find_tool("systemd-creds", self.errand)
        if os.getuid() == 0:
            return path, []
        said = run_tool([path, "--version"], b"", self.errand).decode(errors="replace").split()
        version = int(said[1]) if len(said) > 1 and said[1].isdecimal() else 0
        if version < 256:
            raise Unavailable(
                "systemd-creds works for root alone here: for others it needs systemd 256,"
                f" and this is {version}",
                "load a credential in the service's unit, and add it: credential=NAME",
            )
        return path, ["--user"]

    def run(self, verb: str, options: list[str], given: bytes) -> bytes:
        """What systemd-creds prints; it binds a name that is of vault, agent and custodian."""
        path, more = self.prepare()
        name = f"avault-{sha256(self.errand.bound.encode()).hex()[:32]}"
        return run_tool(
            [path, verb, *more, *options, f"--name={name}", "-", "-"], given, self.errand
        )
