"""What comes before a keychain is asked: its process, and whose vault it is about."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

from avault.errors import Denied, Tampered
from avault.places import Places
from avault.process import clean_environment
from avault.vault.files import decode_file, read_file

if TYPE_CHECKING:
    from typing import Any


def open_keychain(command: list[str]) -> int:
    """Ask the keychain for the unlock key, by this command.

    Returns the end of the socket that its answer comes through, for the keyholder. Not a pipe: its
    reading end could be had from outside, through /proc/PID/fd, before the process is hardened.
    """
    answer, end = socket.socketpair()
    quiet = subprocess.DEVNULL
    with end:
        subprocess.Popen(
            command,
            stdin=quiet,
            stdout=end.fileno(),
            stderr=quiet,
            cwd="/",
            env=clean_environment(),
        )
    return answer.detach()


def refuse_other_pairing(places: Places, report: dict[str, Any]) -> None:
    """Raise Denied, Tampered where no pairing is for the open vault of a keyholder's report.

    The keyholder looks more closely before it asks.
    """
    path = places.own("pairing.json")
    if not os.path.lexists(path):
        raise Denied(
            "only a paired, open vault can be given to a keychain", "pair it with: avault pair"
        )
    found = decode_file("pairing", read_file(path), path)
    if (found["agent"], found["operator"]) != (report["agent_npub"], report["signer_npub"]):
        hint = "avault status, which puts back the one that opened it; then try again"
        raise Tampered("pairing.json is for another agent or operator than the open vault", hint)
