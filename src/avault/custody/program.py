"""A third party's program as a custodian: an executable avault-custodian-NAME.

It is told and answers what a custodian's helper is; references/custody.md says it in full.
"""

from __future__ import annotations

import json
import os
import shlex
from typing import TYPE_CHECKING

from avault.custody.tools import Tool, find_tool, run_tool
from avault.errors import AvaultError, Usage, printable
from avault.keys.custodian import raise_outcome, read_answer

if TYPE_CHECKING:
    from typing import Any, ClassVar

    from avault.keys.nostr import KeyText


PROGRAM_PREFIX = "avault-custodian-"


class Program(Tool):
    """What an executable keeps; owner and mode are looked at before each use, its bytes are not."""

    SETTINGS: ClassVar[dict[str, tuple[str, str | None]]] = {
        "path": (f"the executable {PROGRAM_PREFIX}NAME", None),
        "options": ("its own settings, as words: NAME=VALUE …", ""),
        "person": ("whether somebody has to be there when it opens the vault: yes or no", "no"),
    }

    def settle(self) -> dict[str, str]:
        """Its whole path, and its own settings as it completes them; raises Usage."""
        told = self.errand.settings
        path = self.errand.path(told.get("path") or "")
        if not os.path.basename(path).startswith(PROGRAM_PREFIX):
            raise Usage(f"the executable's name begins with {PROGRAM_PREFIX}")
        person = self.read_person()
        self.errand.settings = {**told, "path": path}
        own = self.ask("settle")
        if not isinstance(own, dict):
            raise AvaultError("the program's settings are not an object")
        words = [f"{name}={value}" for name, value in own.items()]
        return {"path": path, "options": shlex.join(words), "person": person}

    def probe(self) -> str:
        """What it says of itself."""
        return printable(self.ask("probe"))

    def set(self, secret: KeyText) -> str | None:
        """Have it keep the secret; what it answers, if anything, is kept here."""
        kept = self.ask("set", secret)
        if kept is not None and not isinstance(kept, str):
            raise AvaultError("what the program wants to be kept is not a text")
        return kept

    def get(self) -> KeyText:
        """The secret, as it answers."""
        secret = self.ask("get")
        if not isinstance(secret, str) or not secret:
            raise AvaultError("the program answered ok, and no secret")
        return secret

    def delete(self) -> None:
        """Have it forget the secret."""
        self.ask("delete")

    def own_settings(self) -> dict[str, str]:
        """The settings that are the program's; raises Usage."""
        try:
            words = shlex.split(self.errand.settings.get("options") or "")
        except ValueError:
            words = ["?"]
        pairs = [word.partition("=") for word in words]
        if not all(name and mark for name, mark, _ in pairs):
            raise Usage("options are words: NAME=VALUE …")
        return {name: value for name, _, value in pairs}

    def ask(self, action: str, secret: KeyText | None = None) -> Any:
        """The value that it answers; raises what its outcome means."""
        errand = self.errand
        request = {
            "name": errand.name, "settings": self.own_settings(), "kept": errand.kept,
            "bound": errand.bound, "account": errand.names.account, "label": errand.names.label,
            "directory": errand.directory, "limit": errand.limit, "terminal": errand.prompt.path,
        }  # fmt: skip
        if secret is not None:
            request["secret"] = secret
        path = find_tool(errand.settings["path"], errand)
        asks = self.asks(errand.settings) and action in ("set", "get")
        answer = read_answer(
            run_tool([path, action], json.dumps(request).encode(), errand, person=asks)
        )
        answer.pop("hint", None)  # hints are ours
        if secret and secret in str(answer.get("detail")):
            answer["detail"] = "its answer held the secret, and is not shown"
        return raise_outcome(answer)
