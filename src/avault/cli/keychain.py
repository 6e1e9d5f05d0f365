"""avault keychain: the custodian that most have at hand, by a shorter name."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from avault.cli.custody import manage, show
from avault.errors import Denied, NotFound
from avault.keys.custodian import raise_outcome
from avault.places import Places
from avault.terminal.commands import command, option
from avault.terminal.talk import confirm, put, say
from avault.terminal.terminal import Terminal
from avault.vault.presence import need_vault

if TYPE_CHECKING:
    from typing import Any


SERVICE = "avault"
KEYCHAIN = "keychain"
MEANING = """\
the keychain of your login session is to open this vault, so that a reboot needs no phone. \
Whoever has
that session, or this disk and the session's password, then opens the vault without you"""


def account(places: Places) -> str:
    """The account under which the keychain has a vault's unlock key."""
    return f"{places.id}:{KEYCHAIN}"


def describe_keychain(places: Places, **fields: Any) -> dict[str, Any]:
    """What the commands print with --json."""
    return {"ok": True, "enabled": False, "service": SERVICE, "account": account(places), **fields}


def removal(places: Places) -> str:
    """The command that takes the entry out by hand."""
    if sys.platform == "darwin":
        return f"security delete-generic-password -s {SERVICE} -a {account(places)}"
    return f"secret-tool clear service {SERVICE} username {account(places)}"


@command("keychain enable", option("--yes", is_flag=True))
def cmd_keychain_enable(terminal: Terminal, yes: bool) -> int:
    """usage: avault keychain enable [--yes]

    Lets this machine open the vault without the phone: a key made for that goes
    into the keychain of your login session (macOS Keychain, gnome-keyring,
    KWallet, KeePassXC), under the service avault. Whoever has that session, or
    this disk and the session's password, then opens the vault without you.

    The vault must be open, and the phone must have opened it here before. It
    asks first (--yes does not), then the phone has to agree. Where there is no
    keychain, nothing is changed. The same as: avault custody add keychain
    """
    if not terminal.is_running():
        need_vault(terminal.places)
    if not yes and not confirm(f"avault: {MEANING}. Enable it?"):
        raise Denied("not confirmed; the phone stays the only way", "avault keychain enable --yes")
    say("asking the phone whether it agrees, then the keychain; it may ask you on the screen")
    manage(terminal, "add", kind=KEYCHAIN, name=KEYCHAIN, replace=True)
    say("enabled: the keychain opens this vault from now on, and the phone when it does not")
    return show(terminal, describe_keychain(terminal.places, enabled=True))


@command("keychain disable")
def cmd_keychain_disable(terminal: Terminal) -> int:
    """usage: avault keychain disable

    Deletes the key in the keychain, and the sealed copy of the vault's key that
    only it opens. From now on the phone is asked. Works while the vault is
    locked, too.
    """
    try:
        answer = manage(terminal, "remove", name=KEYCHAIN)
    except NotFound:
        answer = {"outcome": "not_found"}
    if answer.get("outcome") != "not_found":
        raise_outcome(
            answer,
            "the phone is asked from now on, but the keychain still has its entry, "
            "which opens nothing any more: {}",
            f"try again when it is unlocked, or: {removal(terminal.places)}",
        )
    say("disabled: the phone is asked")
    return show(terminal, describe_keychain(terminal.places))


@command("keychain status")
def cmd_keychain_status(terminal: Terminal) -> int:
    """usage: avault keychain status [--json]

    Whether the keychain may open this vault, and whether it has what it needs
    for that; it is asked without a prompt. Works while the vault is locked;
    without a daemon the keychain is not asked.
    """
    places = terminal.places
    found: dict[str, Any] = {}
    is_enabled = os.path.lexists(places.own(f"custody-{KEYCHAIN}.json"))
    if terminal.is_running():
        listed = terminal.ask("custody", action="list")["custodians"]
        found = next((each for each in listed if each["name"] == KEYCHAIN), {})
        is_enabled = bool(found)
    else:
        need_vault(places)
    detail = None if found.get("outcome") == "ok" else found.get("said")
    fields = describe_keychain(
        places, enabled=is_enabled, outcome=found.get("outcome"), detail=detail
    )
    if terminal.want_json:
        return show(terminal, fields)
    opens = (
        "opens this vault without the phone" if is_enabled else "off; the phone opens this vault"
    )
    said = "it is there" if fields["outcome"] == "ok" else detail
    said = f"; {said}" if said else ""
    put(f"Keychain: {opens}\nEntry: service {SERVICE}, account {fields['account']}{said}\n")
    return 0
