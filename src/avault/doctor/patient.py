"""avault doctor: what a check is given, and what it finds.

It looks at what has to be right for the vault to open, and names the command that mends what is
not. It works in every state (no vault, no daemon, locked, waiting, open, damaged files), asks
nothing of the phone, and changes nothing without --fix. Each check is a function that yields what
it finds; the table in doctor/command has their order.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avault.client import Connection
from avault.errors import AvaultError
from avault.late import Fields, field
from avault.places import Places
from avault.vault.presence import has_vault, read_sealed

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


DAEMON_PATIENCE = 5.0  # seconds that the daemon has for an answer
RELAY_TIME = 10.0  # seconds that the relays have, all at once
CUSTODY_PATIENCE = 40.0  # seconds that custodians have, which may be slow to start
AUDIT_TIME = 60.0  # seconds for looking into the files where secrets usually stand


class Finding(Fields):
    """What a check found.

    `ok`, `warn` (it works, but should be known), `bad` (it does not, or will not), or `off`.

    `hint` is the command that mends it. `fix` mends it where that can do no
    harm, and returns what it did.
    """

    state: str
    text: str
    hint: str | None = None
    fix: Callable[[], str] | None = None
    more: dict[str, Any] = field(default_factory=dict)  # for --json


def bad(error: AvaultError, fix: Callable[[], str] | None = None) -> Finding:
    """What an error says, as a finding."""
    return Finding("bad", error.message, error.hint, fix)


class Patient:
    """The vault that is examined: its `places`, and what the daemon says of it.

    `status` is None where it says nothing, and `silence` why.
    """

    def __init__(self, places: Places, offline: bool) -> None:
        self.places, self.offline = places, offline
        self.status: dict[str, Any] | None = None
        self.silence: AvaultError | None = None
        try:
            self.status = self.ask("status")
        except AvaultError as error:
            self.silence = error

    def ask(self, op: str, patience: float = DAEMON_PATIENCE, **fields: Any) -> dict[str, Any]:
        """A request to the daemon, which does not have for ever; raises AvaultError."""
        connection = Connection(self.places)
        try:
            connection.fast.socket.settimeout(patience)
            return connection.request(op, **fields)
        finally:
            connection.close()

    def is_open(self) -> bool:
        """Whether the vault is unlocked."""
        return bool(self.status and self.status["state"] == "unlocked")

    def has(self, name: str) -> bool:
        """Whether there is a file of that name in the state directory."""
        return os.path.lexists(self.places.own(name))

    def has_vault(self) -> bool:
        """Whether there is anything of a vault in the directory."""
        return has_vault(self.places)

    def sealed(self) -> dict[str, Any]:
        """What names vault, agent and operator: unlock.json, else nsec.enc, whichever can be read.

        Raises AvaultError.
        """
        try:
            return read_sealed("unlock", self.places.own("unlock.json"))
        except AvaultError:
            return read_sealed("nsec", self.places.file("nsec.enc"))
