"""A member of a quorum: a custodian that keeps a share."""

from __future__ import annotations

from typing import Any

import avault
from avault import AvaultError, Errand, Tampered


class Member:
    """One of those that keep a share, with an errand of its own.

    Its name follows that of the quorum, with a dot, which no custodian's name has: it is nobody
    else's, where several are kept side by side.
    """

    def __init__(self, name: str, kind: str, whole: Errand) -> None:
        self.name, self.kind, self.whole = name, kind, whole
        self.settings = own_settings(whole.settings, name)
        self.asks = does_ask(kind, self.settings)
        self.bound = f"{whole.bound}.{name}"

    def send(self, action: str, limit: float, kept: str | None, secret: str) -> Any:
        """What comes of an errand of its own; raises what went wrong, with its name."""
        whole = self.whole
        request = {
            "name": f"{whole.name}.{self.name}", "settings": self.settings, "kept": kept,
            "bound": self.bound, "account": f"{whole.names.account}.{self.name}",
            "label": f"{whole.names.label}, share of {self.name}", "title": whole.names.title,
            "directory": whole.directory, "limit": max(limit, 0.0),
        }  # fmt: skip
        errand = Errand(request, whole.prompt, whole)
        answer = avault.answer_errand(action, self.kind, errand, secret)
        return avault.raise_outcome(avault.read_answer(answer))

    def announce(self) -> None:
        """Tell the person at the terminal whose share is asked for."""
        prompt = self.whole.prompt
        if self.asks and prompt.path and not prompt.answers:
            prompt.tell(f"the share of {self.name} ({self.kind})")

    def seal(self, key: str, share: str) -> str:
        """Its share, encrypted under its key, and bound to it."""
        keys = avault.read_keys(key)
        return avault.encrypt(keys, avault.public_hex(keys), f"{self.bound}\n{share}")

    def open(self, key: str, sealed: str) -> str:
        """Its share; raises Tampered for another's, or one that another key has sealed."""
        try:
            keys = avault.read_keys(key)
            text = avault.decrypt(keys, avault.public_hex(keys), sealed)
            bound, _, share = text.partition("\n")
            if bound == self.bound:
                return share
        except ValueError:
            pass
        raise Tampered("what lies here is not the share that its key was made for")


def own_settings(settings: dict[str, str], name: str) -> dict[str, str]:
    """Those settings of a quorum that are a member's."""
    start = f"{name}."
    found = {each: value for each, value in settings.items() if each.startswith(start)}
    return {each.removeprefix(start): value for each, value in found.items()}


def does_ask(kind: str, settings: dict[str, str]) -> bool:
    """Whether somebody has to be there when a member gives its key."""
    try:
        return avault.asks_person(kind, settings)
    except AvaultError:  # its package is gone: its errand says so, and the others may be enough
        return False
