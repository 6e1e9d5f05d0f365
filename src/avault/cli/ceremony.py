"""The talk with the operator while a signer is paired: what is said, shown and asked."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from avault.cli.kit import write_kit
from avault.errors import AvaultError
from avault.signer.pairing import parse_bunker, shorten_key
from avault.signer.question import NOBODY_ASKED
from avault.terminal.qr import save_qr, show_qr
from avault.terminal.talk import confirm, put, say, warn
from avault.terminal.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


SIGNER_SETTINGS = """\
  Amber     Connections, this one, Permissions: "Manually approve each permission"
  nsec.app  Clear all permissions; untick "Remember my decision" every time
  Primal    trust level Low
  Clave     client details: NIP-44 Decrypt off
  others    no standing permission for nip44_decrypt
"""


def read_bunker(uri: str | None) -> str | None:
    """The bunker:// URI of --bunker, a line of stdin for `-`; raises Usage."""
    if uri == "-":
        if sys.stdin.isatty():
            say("paste the bunker:// URI, then Enter")
        uri = sys.stdin.buffer.readline(8192).decode(errors="replace").strip()
    elif uri is not None:
        warn(
            "the bunker:// URI holds a secret, which stands in the process list now",
            "better: --bunker -",
        )
    if uri is not None:
        parse_bunker(uri)
    return uri


def warn_if_quick(seconds: float) -> None:
    """Say of a refusal of a drill that nobody may have given it."""
    if seconds < NOBODY_ASKED:
        warn(
            f"it was refused within {seconds:.1f} s; if that was not you, the app remembers a"
            " refusal"
        )


class Ceremony:
    """The talk with the operator while a signer is paired."""

    def __init__(
        self, terminal: Terminal, qr: str | None, number: str = "2. ", sheet: str | None = None
    ) -> None:
        self.terminal, self.qr, self.number, self.sheet = terminal, qr, number, sheet
        self.pages: set[str] = set()  # and notices, which were shown
        self.answers: dict[str, Callable[[Any], dict[str, Any]]] = {}  # to what else is asked

    def request(self, op: str, private: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """A pairing request, with what it says and asks on the way."""

        def reply(ready: dict[str, Any]) -> dict[str, Any]:
            for name in self.answers.keys() & ready.keys():
                return self.answers[name](ready[name])
            if "kit" in ready:
                return {"confirmed": self.show_kit(ready["kit"])}
            if "operator" not in ready:
                return private
            say(f"the signer answers for {ready['operator']}")
            return {"confirmed": confirm("avault: is that you, the operator?")}

        is_private = any(private.values())
        return self.terminal.ask(
            op,
            progress=self.progress,
            value=reply,
            private=is_private,
            **fields,
        )

    def show_kit(self, kit: dict[str, str]) -> bool:
        """Show the recovery kit, once, at the terminal: whether the person keeps it."""
        sys.stderr.write(
            f"""
  RECOVERY KIT of the vault {kit["name"]}: write this down, or print it, and keep it where
  the vault is not. It opens the vault with what lies in its directory, and nothing else
  does when the custodian is gone. It is shown this once, and kept nowhere.

    operator  {kit["operator"]}
    key       {kit["nsec"]}

  To use it, on a machine with a copy of the vault: avault recover --operator-key - --with KIND

"""
        )
        if sys.stderr.isatty():
            show_qr(kit["nsec"])
        if not self.sheet:
            return confirm("avault: is it written down?")
        write_kit(self.sheet, kit)
        warn(
            f"whoever reads {self.sheet} has that key",
            "open it in a browser here, print it, and remove it",
        )
        is_kept = False
        try:
            is_kept = confirm("avault: is it written down, or printed?")
        finally:
            if not is_kept:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.sheet)
        return is_kept

    def progress(self, step: dict[str, Any]) -> None:
        """Tell the operator what happened, and what to do."""
        kind = step["progress"]
        if kind == "wrote":
            put(f"wrote {step['path']}\n")
        elif kind == "uri":
            self.show_uri(step["uri"])
        elif kind == "page" and step["url"] not in self.pages:
            self.pages.add(step["url"])
            say(f"open this page to approve: {step['url']}")
        elif kind == "relays":
            say(f"by this machine's own relays: {', '.join(step['relays'])}")
            warn(
                f"nip46.json names others: {', '.join(step['hinted'])}",
                "if those are meant, name each with --relay",
            )
        elif kind == "connecting":
            say(f"connecting to {step['relays']} relay{'' if step['relays'] == 1 else 's'}")
        elif kind == "resumed":
            say(
                "the signer was connected before: going on from there; to pair anew: avault pair "
                "--replace"
            )
            say(f"the app may show who asks as {shorten_key(step['client_key'])}")
        elif kind == "connected":
            say("the signer is connected")
            say(f"the app may show who asks as {shorten_key(step['client_key'])}")
        elif kind == "operator":
            say(f"operator: {step['npub']}")
        elif kind == "notice" and step["text"] not in self.pages:
            self.pages.add(step["text"])
            say(step["text"])
        elif kind == "approve":
            say(f"1. APPROVE the request on the phone: {step['sentence']}")
        elif kind == "proven":
            say("the phone opens this vault")
        elif kind == "reject":
            say(
                f"{self.number}a drill: REJECT the next request on the phone, without "
                "remembering it"
            )

    def show_uri(self, uri: str) -> None:
        """The pairing URI as a QR code, as a picture, and as a line."""
        if self.qr:
            save_qr(uri, self.qr)
            say(f"the QR code is in {self.qr}")
        say(
            "scan this in the signer app (Amber, Primal, …) or paste the line; let it ask for "
            "every request"
        )
        say('Amber: choose "Manually approve each permission". Primal: trust level Low')
        put(uri + "\n")
        if sys.stderr.isatty():
            show_qr(uri)

    def drill(self, is_alone: bool = False) -> int:
        """Have the operator reject a request; repeat while somebody is there to change a setting.

        A pairing that it ends has worked, whatever it shows; alone, what it shows is its exit code.
        """
        while True:
            answer = self.request("drill", {}, timeout=600)
            seconds = answer["seconds"]
            if answer["refused"]:
                say("the drill passed: nothing is opened without you")
                warn_if_quick(seconds)
                return 0
            warn(
                f"the request to reject was approved after {seconds:.1f} s: if that was not you, "
                "the signer approves by itself"
            )
            sys.stderr.write(SIGNER_SETTINGS)
            if not sys.stdin.isatty() or not confirm(
                "avault: change the setting, then try the drill again?"
            ):
                if is_alone:
                    raise AvaultError(
                        "the drill did not pass: the signer approves by itself",
                        "change the setting, then: avault drill",
                    )
                say("paired, but the drill did not pass; try it again with: avault drill")
                return 0
