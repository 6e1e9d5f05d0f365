"""The engines of OpenBao and Vault that an unlock key is entrusted to: transit, KV version 2."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

from avault import AvaultError, NotFound, Tampered

if TYPE_CHECKING:
    from avault import Errand
    from avault_extras.custody_openbao_server import Server


def encode(text: str) -> str:
    """Text in base64, as transit takes it."""
    return base64.b64encode(text.encode()).decode()


class Transit:
    """A key of transit: what it wraps lies in the vault's own file, bound to whose it is."""

    kind, version, usual_mount, needed = "transit", None, "transit", "update"

    def __init__(self, server: Server, errand: Errand) -> None:
        self.server, self.errand = server, errand
        self.mount, self.key = server.settings["mount"], server.settings["key"]
        self.where = f"{self.mount}/decrypt/{self.key}"

    def set(self, secret: str) -> str:
        """The wrapped secret, once it was seen to open for us, and not for another."""
        key = f"{self.mount}/keys/{self.key}"
        if self.server.ask("GET", key).status == 404:  # `encrypt` would make one
            raise self.missing()
        told = {"plaintext": encode(secret), **self.bound(self.errand.bound)}
        wrapped = str(self.server.give(f"{self.mount}/encrypt/{self.key}", told).get("ciphertext"))
        if self.unwrap(wrapped) != secret:
            raise AvaultError(f"{self.server.url} did not give back what was wrapped")
        another = {"ciphertext": wrapped, **self.bound("another")}
        if self.server.ask("POST", self.where, another).status < 300:
            raise AvaultError(f"{self.server.url} does not bind what it wraps", "it is too old")
        return wrapped

    def get(self) -> str:
        """The secret."""
        return self.unwrap(str(self.errand.kept))

    def unwrap(self, wrapped: str) -> str:
        """What was wrapped; raises Tampered where it was not wrapped for us."""
        told = {"ciphertext": wrapped, **self.bound(self.errand.bound)}
        answer = self.server.ask("POST", self.where, told)
        if answer.says("encryption key not found"):
            raise self.missing()
        if answer.status == 400:
            whose = "another vault, custodian or transit key"
            raise Tampered(f"the wrapped key was changed, or is of {whose}")
        text = self.server.need(answer, self.where).data().get("plaintext")
        try:
            return base64.b64decode(str(text), validate=True).decode()
        except ValueError:
            raise self.server.stranger() from None

    def missing(self) -> NotFound:
        """What is said where there is no such key."""
        make = f"make it: bao write -f {self.mount}/keys/{self.key}"
        return NotFound(f"{self.server.url} has no transit key {self.key}", make)

    def look(self) -> None:
        """What its policy does not tell, only its use would."""

    def delete(self) -> None:
        """Nothing of it is on the server."""

    @staticmethod
    def bound(text: str) -> dict[str, str]:
        """What a request is bound to; a derived key takes it as its context."""
        return {"associated_data": encode(text), "context": encode(text)}


class KeyValue:
    """An entry of KV: it keeps the secret; which version is ours stands in the vault's own file.

    A new secret is a new version. The older stay: until the vault's file names the new one, it is
    the old one that opens the vault.
    """

    kind, version, usual_mount, needed = "kv", "2", "secret", "read"

    def __init__(self, server: Server, errand: Errand) -> None:
        self.server, self.errand = server, errand
        self.mount, self.path = server.settings["mount"], server.settings["path"]
        self.where = f"{self.mount}/data/{self.path}"
        self.named = f"{self.where} of {server.url}"

    def ours(self) -> int:
        """The version that is ours; raises Tampered."""
        if not re.fullmatch(r"[1-9][0-9]{0,8}", str(self.errand.kept)):
            raise Tampered("the vault's file does not say which version is ours")
        return int(str(self.errand.kept))

    def entry(self, version: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a version holds, and what is known of it; of the newest for 0.

        The first is {} where it is deleted, both are where there is none. Raises Tampered where it
        is not ours.
        """
        answer = self.server.ask("GET", self.where + (f"?version={version}" if version else ""))
        known = answer.data().get("metadata") or {}
        if answer.status == 404 and (known or answer.body.get("errors") == []):
            return {}, known  # any other 404 says what there is not
        held = self.server.need(answer, self.where).data().get("data")
        if not isinstance(held, dict) or held.get("bound") != self.errand.bound:
            message = f"{self.named} is not this vault's, or another custodian's"
            raise Tampered(message, "name another path")
        return held, known

    def newest(self) -> int:
        """The number of the newest version; 0 where there is none."""
        return int(self.entry()[1].get("version") or 0)

    def set(self, secret: str) -> str:
        """The version that was written, after the newest; it is read back."""
        held = {"unlock_key": secret, "bound": self.errand.bound, "label": self.errand.names.label}
        told = {"options": {"cas": self.newest()}, "data": held}
        answer = self.server.ask("POST", self.where, told)
        if answer.says("check-and-set"):
            raise AvaultError(f"{self.named} was written by another meanwhile", "try again")
        version = self.server.need(answer, self.where).data().get("version")
        if not isinstance(version, int) or self.entry(version)[0].get("unlock_key") != secret:
            raise AvaultError(f"{self.server.url} did not keep what was written")
        return str(version)

    def get(self) -> str:
        """The secret; raises NotFound where our version is deleted, whatever came after it."""
        version = self.ours()
        held, known = self.entry(version)
        if held:
            return str(held.get("unlock_key"))
        how = "destroyed" if known.get("destroyed") else "deleted" if known else "gone"
        undo = f"bao kv undelete -mount={self.mount} -versions={version} {self.path}"
        hint = f"if it was a mistake: {undo}" if how == "deleted" else None
        raise NotFound(f"version {version} of {self.named} is {how}", hint)

    def look(self) -> None:
        """Whether our version is there."""
        if self.errand.kept:
            self.get()

    def delete(self) -> None:
        """Destroy our version; with the newest goes all that was ever there."""
        version, newest = self.ours(), self.newest()
        if not newest:
            raise NotFound(f"{self.named} is gone")
        if newest == version:
            where = f"{self.mount}/metadata/{self.path}"
            self.server.need(self.server.ask("DELETE", where), where)
        else:
            self.server.give(f"{self.mount}/destroy/{self.path}", {"versions": [version]})


ENGINES: dict[str, type[Transit | KeyValue]] = {"transit": Transit, "kv": KeyValue}
