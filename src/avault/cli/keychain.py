"""avault keychain: opening the vault without the phone.

The commands ask the daemon; no key passes through them.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from avault.client import ask_daemon
from avault.errors import AvaultError, Denied, NotFound, Unavailable
from avault.places import Places
from avault.systemd import NoDaemon
from avault.terminal.commands import command, option
from avault.terminal.talk import confirm, put, say
from avault.terminal.terminal import Terminal
from avault.vault.presence import need_vault

if TYPE_CHECKING:
    from typing import Any


SERVICE = "avault"
MEANING = """\
the keychain of your login session is to open this vault, so that a reboot needs no phone. Whoever has
that session, or this disk and the session's password, then opens the vault without you"""


def account(places: Places) -> str:
    """The account under which the keychain has a vault's unlock key."""
    return f"{places.id}:unlock-key"


def describe_keychain(places: Places, **fields: Any) -> dict[str, Any]:
    """What the commands print with --json."""
    return {"ok": True, "enabled": False, "service": SERVICE, "account": account(places), **fields}


def removal(places: Places) -> str:
    """The command that takes the entry out by hand."""
    if sys.platform == "darwin":
        return f"security delete-generic-password -s {SERVICE} -a {account(places)}"
    return f"secret-tool clear service {SERVICE} username {account(places)}"


def raise_answer(answer: dict[str, Any], message: str, hint: str) -> None:
    """Raise the error that the keychain's outcome is; `ok` is none."""
    kinds = {"ok": None, "not_found": NotFound, "denied": Denied, "unavailable": Unavailable}
    if kind := kinds.get(answer["outcome"], AvaultError):
        raise kind(message.format(answer.get("detail") or answer["outcome"]), hint)


def show_object(terminal: Terminal, fields: dict[str, Any]) -> None:
    """Print the object, where JSON is wanted."""
    if terminal.want_json:
        put(json.dumps(fields, indent=2, ensure_ascii=False) + "\n")


@command("keychain enable", option("--yes", is_flag=True))
def cmd_keychain_enable(terminal: Terminal, yes: bool) -> int:
    """usage: avault keychain enable [--yes]

    Lets this machine open the vault without the phone: a key made for that goes
    into the keychain of your login session (macOS Keychain, gnome-keyring,
    KWallet, KeePassXC), under the service avault. Whoever has that session, or
    this disk and the session's password, then opens the vault without you.

    The vault must be open, and the phone must have opened it here before. It
    asks first (--yes does not), then the phone has to agree. Where there is no
    keychain, nothing is changed.
    """
    if not terminal.is_running():
        need_vault(terminal.places)
    if not yes and not confirm(f"avault: {MEANING}. Enable it?"):
        raise Denied("not confirmed; the phone stays the only way", "avault keychain enable --yes")
    say("asking the phone whether it agrees, then the keychain; it may ask you on the screen")
    answer = terminal.ask("keychain", action="enable")
    raise_answer(
        answer,
        "not enabled: {}",
        "the phone opens the vault as before; see: avault keychain status",
    )
    say("enabled: the keychain opens this vault from now on, and the phone when it does not")
    show_object(terminal, describe_keychain(terminal.places, enabled=True))
    return 0


@command("keychain disable")
def cmd_keychain_disable(terminal: Terminal) -> int:
    """usage: avault keychain disable

    Deletes the key in the keychain, and the sealed copy of the vault's key that
    only it opens. From now on the phone is asked. Works while the vault is
    locked, too.
    """
    terminal.need_daemon()
    answer = terminal.ask("keychain", action="disable")
    if answer["outcome"] != "not_found":
        raise_answer(
            answer,
            "the phone is asked from now on, but the keychain still has its entry, which opens nothing any more: {}",
            f"try again when it is unlocked, or: {removal(terminal.places)}",
        )
    say("disabled: the phone is asked")
    show_object(terminal, describe_keychain(terminal.places))
    return 0


@command("keychain status")
def cmd_keychain_status(terminal: Terminal) -> int:
    """usage: avault keychain status [--json]

    Whether the keychain may open this vault, and whether it has what it needs
    for that; it is asked without a prompt. Works while the vault is locked;
    without a daemon the keychain is not asked.
    """
    places = terminal.places
    try:
        answer = ask_daemon(places, "keychain", action="status")
    except NoDaemon:
        need_vault(places)
        answer = {"enabled": os.path.lexists(places.own("keychain.json"))}
    fields = describe_keychain(
        places,
        enabled=answer["enabled"],
        outcome=answer.get("outcome"),
        detail=answer.get("detail"),
    )
    if terminal.want_json:
        show_object(terminal, fields)
        return 0
    opens = (
        "opens this vault without the phone"
        if fields["enabled"]
        else "off; the phone opens this vault"
    )
    said = "it is there" if fields["outcome"] == "ok" else fields["detail"]
    put(
        f"Keychain: {opens}\nEntry: service {SERVICE}, account {fields['account']}{f'; {said}' if said else ''}\n"
    )
    return 0
