"""What of the vault may be committed."""

from __future__ import annotations

import contextlib
import os
import re

from avault.client import ask_daemon
from avault.custody.shared import FILE_NAME, check_custodian_of
from avault.errors import AvaultError, Locked, NotFound, Tampered, Unavailable
from avault.places import Places, sha256
from avault.vault.machine import read_pin
from avault.vault.own_files import decode_file
from avault.vault.presence import read_unlock
from avault.vault.recovery import read_verified

VAULT, RECOVERY, HINTS, ATTRIBUTES = "avault.enc", "nsec.enc", "nip46.json", ".gitattributes"
NAMES = (VAULT, RECOVERY, HINTS, ATTRIBUTES)
# tells nothing; with what a commit touches, it tells which commits are ours
MESSAGE = "avault: update the vault"
MERGE_MESSAGE = "avault: merge"
NOBODY = {"name": "avault", "email": "avault@localhost"}  # who commits where git knows no user
LOCK_PATIENCE = 5.0  # seconds to wait for another git's index.lock

OPERATIONS = {
    "MERGE_HEAD": "a merge",
    "CHERRY_PICK_HEAD": "a cherry-pick",
    "REVERT_HEAD": "a revert",
    "rebase-merge": "a rebase",
    "rebase-apply": "a rebase",
    "sequencer": "a cherry-pick or revert",
}

# neither loses what is confirmed: an open vault writes it again
UNDER_WAY_HINT = "finish or abort it; see: git status"


class NoRepository(NotFound):
    """The vault is in no work tree of git's."""


class Refused(AvaultError):
    """The repository is in a state in which we leave it alone."""


class Conflict(AvaultError):
    """Git left a conflict in our files that needs a person, or the vault open."""


class Verified:
    """Which bytes of our files may be committed: those that the daemon serves, or has verified.

    `given` are the hashes that it knew when it asked for the commit. For others it is asked; a
    vault that is locked has the pin, which is the hash of what was served last.
    """

    def __init__(self, places: Places, given: dict[str, str] | None = None) -> None:
        self.places, self.hashes = places, [given or {}]
        self.is_asked = False

    def check(self, name: str, data: bytes) -> None:
        """Raise Tampered for bytes that nobody vouches for.

        A file that opens nothing is not looked at. A custodian's has the agent's signature.
        """
        if is_custodian(name):
            agent = read_unlock(self.places)[0]["agent"]
            check_custodian_of(decode_file("custody", data, name), agent)
        if name not in (VAULT, RECOVERY):
            return
        if not self.knows(name, data) and not self.is_asked:
            self.is_asked = True
            self.hashes.append(self.ask())
        if not self.knows(name, data):
            if "pin" in self.hashes[-1]:
                raise Locked(
                    f"nobody has verified {name} on the disk, so it is not committed",
                    "avault unlock",
                )
            if name == RECOVERY:
                raise Tampered(
                    f"{name} on the disk does not open the vault, so it is not committed",
                    "see: avault status",
                )
            raise Tampered(
                f"{name} on the disk is not what is served, so it is not committed",
                "see: avault status",
            )

    def knows(self, name: str, data: bytes) -> bool:
        """Whether these bytes were vouched for."""
        return any(found.get(name) == sha256(data).hex() for found in self.hashes)

    def ask(self) -> dict[str, str]:
        """The hashes that the daemon knows now; of a locked vault the one of its pin, and `pin`."""
        try:
            return dict(ask_daemon(self.places, "verify")["verified"])
        except (Locked, Unavailable):
            with contextlib.suppress(AvaultError):
                if pin := read_pin(self.places):
                    return {
                        VAULT: pin["hash"],
                        RECOVERY: read_verified(self.places),
                        "pin": pin["hash"],
                    }
            return {"pin": ""}


def is_custodian(name: str) -> bool:
    """Whether a file of that name is a shared custodian's; there may be any number."""
    return bool(re.fullmatch(FILE_NAME, name))


def quote_pattern(path: str) -> bytes:
    """A path from the top as gitattributes(5) reads it: no wildcards, quoted where it must be."""
    plain = os.fsencode("/" + re.sub(r"([*?\[\\])", r"\\\1", path))
    if not re.search(rb'[\x00-\x20"\x7f]', plain):
        return plain
    return (
        b'"' + re.sub(rb'[\x00-\x1f"\\\x7f]', lambda found: b"\\%03o" % ord(found[0]), plain) + b'"'
    )
