"""Checks of the state directory: this machine's own part, and what other copies left of theirs."""

from __future__ import annotations

import functools
import os
import shlex
import stat
from typing import TYPE_CHECKING

from avault.doctor.directories import check_private, filesystem_of, make_private
from avault.doctor.patient import Finding, Patient, bad
from avault.errors import AvaultError, NotFound
from avault.places import state_home, vault_id
from avault.process import lock_directory
from avault.service.state import is_listening
from avault.systemd import NoDaemon
from avault.vault.files import VAULT_LIMIT, read_file, sync_directory
from avault.vault.locks import check_lock
from avault.vault.own_files import FIELDS, clean_directory, decode_file, is_leftover
from avault.vault.presence import read_sealed

if TYPE_CHECKING:
    from collections.abc import Iterator


JSON_KINDS = (
    "unlock", "pairing", "pin", "machine", "offered", "custodians", "recovery", "log",
    "locks",
)  # fmt: skip
STATE_KINDS = {f"{kind}.json": kind for kind in JSON_KINDS if kind in FIELDS}


def check_state(patient: Patient) -> Iterator[Finding]:
    """The state directory: this machine's own part, which is in no repository."""
    places = patient.places
    if not os.path.isdir(places.state):
        if patient.has_vault():
            yield Finding(
                "bad",
                f"this machine has never opened this vault: there is no {places.state}",
                "avault recover",
            )
        else:
            yield Finding("off", "no vault, no state")
        return
    yield from check_private(places.state)
    for name in sorted(os.listdir(places.state)):
        yield from check_own_file(places.own(name))
    try:
        ours, theirs = (
            read_sealed(*each)
            for each in (("unlock", places.own("unlock.json")), ("nsec", places.file("nsec.enc")))
        )
        if any(ours[name] != theirs[name] for name in ("vault", "agent", "operator")):
            yield Finding(
                "bad",
                f"{places.state} is of another vault than {places.dir}",
                "put the right directory back; if it is right now: avault forget, then avault "
                "recover",
            )
    except AvaultError:
        pass  # said already
    if filesystem_of(places.state) in ("tmpfs", "ramfs"):
        yield Finding(
            "warn",
            f"{places.state} is in memory: a reboot removes the pairing",
            "set XDG_STATE_HOME to a place on a disk",
        )
    yield Finding("ok", f"{places.state} is whole and private")


def check_own_file(path: str) -> Iterator[Finding]:
    """A file of the state directory: private, and whole.

    One that is gone meanwhile was somebody's temporary file.
    """
    name = os.path.basename(path)
    try:
        mode = os.lstat(path).st_mode
        if (open_to := stat.S_IMODE(mode) & 0o077) and not stat.S_ISLNK(mode):
            yield Finding(
                "bad",
                f"others may read {path}",
                f"chmod go= {shlex.quote(path)}",
                functools.partial(make_private, path, open_to),
            )
        is_custodian = name.startswith("custody-") and name.endswith(".json")
        if kind := "custody" if is_custodian else STATE_KINDS.get(name):
            found = decode_file(kind, read_file(path, VAULT_LIMIT), path)
            if kind == "locks" and not all(map(check_lock, found["locks"].values())):
                yield Finding(
                    "bad",
                    f"{path} has locks that open nothing",
                    f"rm {shlex.quote(path)}; the vault's own locks are opened then",
                )
    except (FileNotFoundError, NotFound):
        return
    except AvaultError as error:
        yield bad(error)


def check_leftovers(patient: Patient) -> Iterator[Finding]:
    """Temporary files that a killed write left behind; while a daemon runs, they may be its own."""
    places = patient.places
    found = [
        os.path.join(directory, name)
        for directory in (places.dir, places.state)
        if os.path.isdir(directory)
        for name in sorted(os.listdir(directory))
        if is_leftover(name)
    ]

    def clean() -> str:
        fd = lock_directory(places.dir)
        try:
            for directory in (places.dir, places.state):
                if os.path.isdir(directory):
                    clean_directory(directory)
        finally:
            os.close(fd)
        return "removed what killed writes left behind"

    if found and isinstance(patient.silence, NoDaemon):
        yield Finding("warn", f"a killed write left {found[0]}", f"rm {shlex.join(found)}", clean)
    else:
        yield Finding("ok", "no write left anything behind")


def check_orphans(patient: Patient) -> Iterator[Finding]:
    """State of this vault under another name, as of a directory that was moved or restored."""
    places, home = patient.places, state_home()
    try:
        identity = read_sealed("nsec", places.file("nsec.enc"))["vault"]
    except AvaultError:
        identity = None
    is_new = not patient.has("unlock.json") and not patient.has("pairing.json")
    for name in sorted(os.listdir(home)) if identity and os.path.isdir(home) else []:
        other = os.path.join(home, name)
        if name == places.id or not is_state_of(other, identity) or is_in_use(other):
            continue
        if is_new:
            text = f"{other} is this vault's state, from where the directory was before"
            yield Finding(
                "bad",
                text,
                "avault doctor --fix",
                functools.partial(take_over, other, places.state),
            )
            is_new = False
        else:
            text = f"{other} is of another copy of this vault"
            yield Finding("warn", text, f"if that copy is no more: rm -r {shlex.quote(other)}")
    yield Finding(
        "ok" if identity else "off",
        "no state of this vault under another name" if identity else "no vault to compare with",
    )


def is_state_of(directory: str, identity: str) -> bool:
    """Whether a state directory is that of a vault."""
    try:
        return bool(
            read_sealed("unlock", os.path.join(directory, "unlock.json"))["vault"] == identity
        )
    except AvaultError:
        return False


def is_in_use(directory: str) -> bool:
    """Whether a state directory is of a vault in a usual place, or of a daemon that runs."""
    usual = map(os.path.expanduser, ("~/clawd/.avault", "~/.openclaw/workspace/.avault"))
    if os.path.basename(directory) in {vault_id(path) for path in usual if os.path.isdir(path)}:
        return True
    try:
        return is_listening([os.fsdecode(read_file(os.path.join(directory, "socket")))])
    except AvaultError:
        return False


def take_over(other: str, own: str) -> str:
    """Make another state directory ours.

    It is renamed; where ours was begun already, moved file by file, unlock.json last.
    """
    if not os.path.isdir(own):
        os.rename(other, own)
    else:
        for name in sorted(os.listdir(other), key=lambda name: name == "unlock.json"):
            os.replace(os.path.join(other, name), os.path.join(own, name))
        os.rmdir(other)
    sync_directory(os.path.dirname(own))
    return f"took {other} over as {own}"
