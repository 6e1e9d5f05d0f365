"""The kinds of custodians: those of the tool itself, and those that need another package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.custody.command import Command
from avault.custody.desk import DeskCustodian
from avault.custody.keychain import Keychain
from avault.custody.passphrase import Passphrase
from avault.custody.phone import OperatorPhone
from avault.custody.program import Program
from avault.custody.systemd_creds import SystemdCreds
from avault.errors import Usage, printable
from avault.extras import load_extra

if TYPE_CHECKING:
    from avault.keys.custodian import Custodian


KINDS: dict[str, type[Custodian]] = {
    "keychain": Keychain,
    "passphrase": Passphrase,
    "systemd": SystemdCreds,
    "command": Command,
    "program": Program,
    "phone": OperatorPhone,
    "desk": DeskCustodian,
}
# their rooms are avault_extras/custody_KIND.py, with a class Custodian
EXTRA_KINDS = ("aws-kms", "openbao", "pkcs11", "fido2", "paper", "quorum")
EXTRAS = {"paper": "shares", "quorum": "shares"}  # those whose extra has another name than the kind


def find_kind(kind: str) -> type[Custodian]:
    """The class of a kind; raises Usage, and Unavailable where its package is not installed."""
    if kind in KINDS:
        return KINDS[kind]
    if kind not in EXTRA_KINDS:
        known = ", ".join((*KINDS, *EXTRA_KINDS))
        raise Usage(f"there is no custodian of the kind {printable(kind)}", f"one of: {known}")
    room, extra = f"custody_{kind.replace('-', '_')}", EXTRAS.get(kind, kind)
    found: type[Custodian] = load_extra(room, extra).Custodian
    return found


def asks_person(kind: str, settings: dict[str, str]) -> bool:
    """Whether somebody has to be there when a custodian opens the vault, by its settings."""
    found = find_kind(kind)
    asks = getattr(found, "asks", None)  # where it depends on the settings
    return bool(asks(settings) if asks else found.needs_person)
