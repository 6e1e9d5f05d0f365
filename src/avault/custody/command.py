"""Any program that encrypts as a custodian: age, gpg, pass, sops, a KMS's own command, a TPM.

It is given two lines on stdin, whose secret it is and the secret, and gives the same two back.
"""

from __future__ import annotations

import binascii
import shlex
from typing import TYPE_CHECKING

from avault.custody.tools import Tool, check_tool, find_tool, run_tool
from avault.errors import AvaultError, NotFound, Tampered, Usage, printable

if TYPE_CHECKING:
    from typing import ClassVar

    from avault.keys.nostr import KeyText


AZ_OPTIONS = (
    "--id {key} --algorithm RSA-OAEP-256 --data-type plaintext --value @-"
    " --query result --output tsv"
)
# Of each: wrap, unwrap, and delete where the program keeps it itself. No secret is in the words.
TOOL_RECIPES = {
    "age": ("age --encrypt --recipient {recipient}", "age --decrypt --identity {identity}"),
    "gpg": (
        "gpg --batch --quiet --encrypt --recipient {recipient}",
        "gpg --batch --quiet --decrypt",
    ),
    "pass": (
        "pass insert --multiline --force {key}",
        "pass show {key}",
        "pass rm --force {key}",
    ),
    "sops": (
        "sops --encrypt --input-type binary --output-type json --age {recipient} /dev/stdin",
        "sops --decrypt --input-type json --output-type binary /dev/stdin",
    ),
    "op": (
        "op document create - --title {key}",
        "op document get {key}",
        "op document delete {key}",
    ),
    "gcloud-kms": (
        "gcloud --quiet kms encrypt --key {key} --plaintext-file - --ciphertext-file -",
        "gcloud --quiet kms decrypt --key {key} --plaintext-file - --ciphertext-file -",
    ),
    "az-keyvault": (
        f"az keyvault key encrypt {AZ_OPTIONS}",
        f"az keyvault key decrypt {AZ_OPTIONS}",
    ),
    "tpm2": (
        # SHA-1 leaves room for 214 bytes; OAEP does not need it to be free of collisions
        "tpm2_rsaencrypt --key-context {key} --scheme oaep-sha1",
        "tpm2_rsadecrypt --key-context {key} --scheme oaep-sha1",
    ),
}


class Command(Tool):
    """What a program wraps and unwraps; with `delete`, the program keeps it itself."""

    SETTINGS: ClassVar[dict[str, tuple[str, str | None]]] = {
        "wrap": ("the command that encrypts stdin to stdout", ""),
        "unwrap": ("the command that gives back what was encrypted", ""),
        "delete": ("the command that deletes it, where the program keeps it itself", ""),
        "recipe": (f"instead of these, one of: {', '.join(TOOL_RECIPES)}", ""),
        "recipient": ("of age, gpg or sops: for whom it is encrypted", ""),
        "identity": ("of age: the file that decrypts", ""),
        "key": ("of the others: the key's name, or the entry's", ""),
        "person": ("whether somebody has to be there when it decrypts: yes or no", "no"),
    }

    def settle(self) -> dict[str, str]:
        """The command lines, each with the whole path of its program; raises Usage."""
        told = self.errand.settings
        lines = {name: told.get(name) or "" for name in ("wrap", "unwrap", "delete")}
        if recipe := told.get("recipe"):
            if any(lines.values()):
                raise Usage("either a recipe, or wrap and unwrap")
            lines = self.expand(recipe)
        if not lines["wrap"] or not lines["unwrap"]:
            raise Usage("it needs wrap and unwrap, or a recipe")
        person = self.read_person()
        settled = {name: self.resolve(line) if line else "" for name, line in lines.items()}
        return {**settled, "person": person}

    def expand(self, recipe: str) -> dict[str, str]:
        """The command lines of a recipe, with what they were told in them; raises Usage."""
        if recipe not in TOOL_RECIPES:
            known = ", ".join(TOOL_RECIPES)
            raise Usage(f"there is no recipe {printable(recipe)}: one of {known}")
        told = self.errand.settings
        parts = {name: told.get(name) or "" for name in ("recipient", "identity", "key")}
        if parts["identity"]:
            parts["identity"] = self.errand.path(parts["identity"])
        if recipe in ("pass", "op") and not parts["key"]:
            parts["key"] = f"avault/{self.errand.names.account}"
        lines = []
        for line in TOOL_RECIPES[recipe]:
            for name, part in parts.items():
                if f"{{{name}}}" in line and (not part or part.startswith("-")):
                    raise Usage(f"the recipe {recipe} needs {name}=…")
            lines.append(shlex.join(word.format(**parts) for word in line.split()))
        return dict(zip(("wrap", "unwrap", "delete"), [*lines, ""], strict=False))

    def resolve(self, line: str) -> str:
        """A command line with the whole path of its program; raises Usage, Unavailable, Denied."""
        try:
            words = shlex.split(line)
        except ValueError:
            words = []
        if not words:
            raise Usage(f"not a command line: {printable(line)}")
        return shlex.join([find_tool(words[0], self.errand), *words[1:]])

    def probe(self) -> str:
        """Whether the program is there, and nobody else can change it."""
        self.find_kept()
        return f"{check_tool(self.argv('unwrap')[0])} is there"

    def set(self, secret: KeyText) -> str | None:
        """Have the program encrypt it; what it prints is kept, unless it keeps it itself."""
        kept = self.run("wrap", f"{self.errand.bound}\n{secret}\n".encode())
        if self.argv("delete"):
            return None
        if not kept:
            raise AvaultError("the program that is to wrap the unlock key printed nothing")
        return binascii.b2a_base64(kept, newline=False).decode()

    def get(self) -> KeyText:
        """Have the program decrypt it; raises Tampered for another vault's or custodian's."""
        printed = self.run("unwrap", self.find_kept())
        bound, _, secret = printed.decode(errors="replace").removesuffix("\n").partition("\n")
        if bound != self.errand.bound or not secret or not secret.isalnum():
            raise Tampered(
                "what the program gave is not what this custodian was given for this vault"
            )
        return secret

    def delete(self) -> None:
        """Have the program delete it, where it keeps it itself."""
        if self.argv("delete"):
            self.run("delete", b"")

    def find_kept(self) -> bytes:
        """What unwrap is given: nothing, where the program keeps it; raises NotFound, Tampered."""
        if self.argv("delete"):
            return b""
        if not self.errand.kept:
            raise NotFound("there is nothing that the program could decrypt")
        try:
            return binascii.a2b_base64(self.errand.kept, strict_mode=True)
        except ValueError:
            raise Tampered("what the program is to decrypt is damaged") from None

    def argv(self, name: str) -> list[str]:
        """One of the command lines, as words."""
        return shlex.split(self.errand.settings.get(name) or "")

    def run(self, name: str, given: bytes) -> bytes:
        """What one of the programs prints."""
        asks = self.asks(self.errand.settings) and name == "unwrap"
        return run_tool(self.argv(name), given, self.errand, person=asks)
