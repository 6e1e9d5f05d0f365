"""What every command is given: the vault's places, and the way to its daemon."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from avault.client import EndedGrant, ask_daemon
from avault.daemon.start import start_daemon
from avault.errors import AvaultError, Denied, Unavailable, printable
from avault.places import Places
from avault.plain import FastConnection
from avault.systemd import NoDaemon, explain_absence, hasten_service
from avault.terminal.talk import say
from avault.vault.files import owner_of
from avault.vault.presence import need_vault

if TYPE_CHECKING:
    from typing import Any


def find_owner(directory: str) -> str | None:
    """The account that a directory belongs to, if that is not ours.

    Under sudo, where the directory is not there, it is who called sudo.
    """
    place = directory
    while True:
        try:
            is_ours = os.stat(place).st_uid == os.getuid()
            return (
                None
                if is_ours or (place != directory and owner_of(place) == "root")
                else owner_of(place)
            )
        except PermissionError:
            place = os.path.dirname(place)
        except FileNotFoundError:
            return os.environ.get("SUDO_USER") if os.getuid() == 0 else None
        except OSError:
            return None


def refuse_elses(places: Places) -> None:
    """Raise Denied where the vault is another account's, as under sudo.

    Its daemon answers that one alone.
    """
    if owner := find_owner(places.dir):
        raise Denied(
            f"{places.dir} is {owner}'s, and its daemon answers nobody else",
            f"as {owner}: avault status",
        )


def tell_of_asking(step: dict[str, Any]) -> None:
    """Say that the phone is asked before the answer comes; it shows the same code."""
    if step["progress"] == "asking":
        say(f"asking the phone, code {step['code']}")
    elif step["progress"] == "page":
        say(f"the signer wants to be opened at {printable(step['url'])}")
    elif step["progress"] == "warning":
        say(f"warning: {step['text']}")


class Terminal:
    """What every command is given: the places, and whether `--json` was asked for."""

    def __init__(self, directory: str | None, want_json: bool, creating: bool = False) -> None:
        self.places = Places(directory, creating)
        self.want_json = want_json

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """One request to the daemon; says so where there is no vault at all."""
        fields.setdefault("progress", tell_of_asking)
        try:
            return ask_daemon(self.places, op, **fields)
        except NoDaemon:
            raise self.no_daemon() from None

    def no_daemon(self) -> AvaultError:
        """Why nobody listens: there is no vault, we may not look, or the daemon does not run."""
        try:
            if os.path.isdir(self.places.dir):
                refuse_elses(self.places)
            need_vault(self.places)
        except AvaultError as reason:
            return reason
        return explain_absence(self.places)

    def is_running(self) -> bool:
        """Whether a daemon listens."""
        try:
            FastConnection(self.places).socket.close()
        except OSError:
            return False
        return True

    def need_daemon(self) -> None:
        """Start a daemon that asks nobody, unless one runs or systemd is about to start its own."""
        if self.places.is_grant():
            if not self.is_running():
                raise EndedGrant(self.places)
            return
        try:
            if not self.is_running() and not hasten_service(self.places):
                start_daemon(self.places, background=True)
        except Unavailable as error:
            self.wait_daemon(error)

    def wait_daemon(self, error: Unavailable) -> None:
        """Wait for a daemon that somebody else starts just now.

        Raises the error of our own start if none comes.
        """
        end = time.monotonic() + 5
        while not self.is_running():
            if time.monotonic() > end:
                raise error
            time.sleep(0.05)
