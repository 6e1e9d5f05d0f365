"""Checks of the daemon: its version, its service."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import stat
import sys
from typing import TYPE_CHECKING

from avault import __version__
from avault.doctor.patient import Finding, Patient
from avault.errors import printable
from avault.signer.remarks import is_clock_unsynchronised
from avault.systemd import NoDaemon, explain_absence, find_unit
from avault.vault.files import read_file

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_socket(patient: Patient) -> Iterator[Finding]:
    """Where the daemon listens, or is going to."""
    path = patient.places.socket
    directory, limit = os.path.dirname(path), 107 if sys.platform == "linux" else 103
    if patient.status:
        used = patient.status["socket"]
        yield Finding(
            "ok",
            used if used == path else f"{used}, found by what the daemon recorded; usual is {path}",
        )
    elif len(os.fsencode(path)) > limit:
        yield Finding(
            "bad",
            f"the socket's path is longer than {limit} bytes: {path}",
            "choose a shorter one with AVAULT_SOCKET",
        )
    elif directory != patient.places.state and not is_ours(directory):
        text = f"{directory} is not a directory that only we can write to"
        yield Finding("bad", text, "choose another place with AVAULT_SOCKET")
    elif os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
        yield Finding(
            "bad", f"{path} is there, and is no socket", f"rm {shlex.quote(path)}, or AVAULT_SOCKET"
        )
    else:
        yield Finding("ok", f"{path}, where nobody listens now")


def is_ours(directory: str) -> bool:
    """Whether only we can write to a directory, as the daemon wants it."""
    try:
        info = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and not info.st_mode & 0o022 and info.st_uid == os.getuid()


def check_daemon(patient: Patient) -> Iterator[Finding]:
    """Whether a daemon runs, of this version, and what troubles it."""
    status, silence = patient.status, patient.silence
    if silence and not isinstance(silence, NoDaemon):
        yield Finding("bad", f"the daemon gives no answer: {silence.message}", silence.hint)
        return
    if not status:
        is_new = not patient.has("unlock.json") and not patient.has("pairing.json")
        absence = explain_absence(patient.places)
        hint = ("avault recover" if is_new else absence.command) if patient.has_vault() else None
        text = "no daemon is running" + (f": {absence.reason}" if absence.reason else "")
        yield Finding("bad" if patient.has_vault() else "off", text, hint)
        return
    if status["version"] != __version__:
        text = f"the daemon is avault {status['version']}, and this is {__version__}"
        unit, shown = find_unit(patient.places) or (None, {})
        is_its_own = shown.get("MainPID") == str(status["pid"])
        yield Finding(
            "bad",
            text,
            unit.command("restart")
            if unit and is_its_own
            else "avault daemon stop && avault daemon start -b",
        )
    if status["error"]:
        yield Finding(
            "bad",
            f"locked: {status['error']['message']}",
            status["error"]["hint"] or status["hint"],
        )
    for text in status["warnings"]:
        yield Finding("warn", printable(text, 300))
    said = {
        "unlocked": f"open, {status['secrets']} secret(s)",
        "waiting": "waits for the operator's approval on the phone",
        "locked": "locked; the phone is asked by: avault unlock",
        "unpaired": "locked, and not paired",
    }
    yield Finding(
        "ok",
        f"avault {status['version']} (PID {status['pid']}), "
        f"{said.get(status['state'], status['state'])}",
    )


def check_python(patient: Patient) -> Iterator[Finding]:
    """The interpreter, and the one that the daemon was started with.

    Also nostr-sdk, in the version that avault was made for.
    """
    wanted = read_file(__file__, 16 << 20).partition(b'"nostr-sdk==')[2].partition(b'"')[0].decode()
    found = importlib.metadata.version("nostr-sdk")
    if found != wanted:
        yield Finding(
            "bad",
            f"nostr-sdk is {found}, and avault needs {wanted}",
            f"{sys.executable} -m pip install nostr-sdk=={wanted}",
        )
    if patient.has("python"):
        recorded = read_file(patient.places.own("python")).decode(errors="replace")
        if not (os.path.isfile(recorded) and os.access(recorded, os.X_OK)):
            yield Finding(
                "bad",
                f"{printable(recorded)}, which the daemon ran with, is gone",
                "avault daemon start -b",
            )
    yield Finding("ok", f"Python {sys.version.split()[0]}, nostr-sdk {found}")


def check_clock(patient: Patient) -> Iterator[Finding]:
    """Whether somebody keeps the clock right.

    Relays and signers drop what seems too old or too new.
    """
    if is_clock_unsynchronised():
        yield Finding(
            "warn",
            "nothing keeps this machine's clock right: relays and phones drop what is off",
            "timedatectl set-ntp true",
        )
    elif sys.platform == "linux":
        yield Finding("ok", "the clock is kept right")
    else:
        yield Finding("off", "this system does not tell whether the clock is kept right")
