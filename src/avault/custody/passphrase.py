"""A passphrase as a custodian: the unlock key as ncryptsec (NIP-49), in the vault's own file."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, NotFound, Usage
from avault.keys.nostr import decrypt_key, encrypt_key

if TYPE_CHECKING:
    from typing import ClassVar

    from avault.keys.custodian import Errand
    from avault.keys.nostr import KeyText


PASSPHRASE_LEAST = 12  # characters
SCRYPT_SIZES = (
    "16",
    "17",
    "18",
)  # log2 of its rounds: 64, 128 and 256 MiB; the library takes no more


class Passphrase:
    """A passphrase that a person types, or that is among a service's credentials."""

    needs_person: ClassVar[bool] = True
    SETTINGS: ClassVar[dict[str, tuple[str, str | None]]] = {
        "log-n": ("scrypt's cost, 16 to 18: each step doubles time and memory", "17"),
        "from": ("terminal, or credential: a service has it as avault-passphrase", "terminal"),
    }

    def __init__(self, errand: Errand) -> None:
        self.errand = errand

    @staticmethod
    def asks(settings: dict[str, str]) -> bool:
        """Whether somebody has to be there when it opens the vault, by its settings."""
        return settings.get("from") != "credential"

    def settle(self) -> dict[str, str]:
        """The cost of scrypt, and who is asked; raises Usage."""
        log_n = self.errand.settings.get("log-n") or "17"
        if log_n not in SCRYPT_SIZES:
            raise Usage("log-n is 16, 17 or 18", "as in: log-n=18")
        origin = self.errand.settings.get("from") or "terminal"
        if origin not in ("terminal", "credential"):
            raise Usage("from is terminal or credential", "as in: from=credential")
        return {"log-n": log_n, "from": origin}

    def probe(self) -> str:
        """Whether there is something that a passphrase opens."""
        self.find_kept()
        return "it asks for the passphrase"

    def set(self, secret: KeyText) -> str:
        """Ask for a new passphrase, twice; raises Denied."""
        log_n = int(self.settle()["log-n"])
        passphrase = self.ask("a new passphrase for the vault")
        if len(passphrase) < PASSPHRASE_LEAST:
            raise Denied(
                f"the passphrase has fewer than {PASSPHRASE_LEAST} characters",
                "six words drawn by dice are good, and can be remembered",
            )
        if self.ask("the same once more") != passphrase:
            raise Denied("the two passphrases are not the same")
        return encrypt_key(secret, passphrase, log_n)

    def get(self) -> KeyText:
        """Ask for the passphrase, once; a wrong one is Denied."""
        kept = self.find_kept()
        passphrase = self.ask("the vault's passphrase")
        try:
            found = decrypt_key(kept, passphrase)
        except ValueError:
            raise AvaultError("what the passphrase opens is damaged") from None
        if found is None:
            raise Denied("the passphrase is wrong")
        return found

    def delete(self) -> None:
        """Nothing: it goes with the vault's own file."""

    def find_kept(self) -> str:
        """The ncryptsec; raises NotFound."""
        if not self.errand.kept:
            raise NotFound("there is nothing that a passphrase opens")
        return self.errand.kept

    def ask(self, question: str) -> str:
        """What the person types, in the one form (NFKC) that NIP-49 asks for."""
        credential = "" if self.asks(self.errand.settings) else "avault-passphrase"
        typed = self.errand.prompt.ask(question, credential)
        return unicodedata.normalize("NFKC", typed)
