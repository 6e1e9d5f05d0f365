"""The process that asks the keychain: the platform's own, or none.

An unlock key passes through it, between keychain and keyholder, and opens nothing by itself.
Whatever is installed or configured for the package keyring is not taken. references/keychain.md
says what it is worth, and where it works.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Unavailable, printable
from avault.plain import write_all
from avault.process import harden, introduce_helper

if TYPE_CHECKING:
    from typing import Any, NoReturn


KEYCHAIN_TIME = 30.0  # seconds that the keychain, and the person whom it asks, have for an answer
# what it may mean: a reason, and the exceptions, D-Bus names and OSStatus (SecBase.h); others are
# `error`
KEYCHAIN_ERRORS = {
    "not_found": ("the keychain has no entry for this vault", "ItemNotFoundException -25300"),
    "denied": (
        "the keychain is locked, and its prompt was dismissed or has no screen",
        "LockedException PromptDismissedException org.freedesktop.Secret.Error.IsLocked -128 -25293 -25308 -25315",
    ),
    "unavailable": (
        "the keychain of this session does not run",
        "SecretServiceNotAvailableException org.freedesktop.DBus.Error.Spawn.ChildExited -25291 -25294 -25307",
    ),
}


def secret_service(action: str, account: str, label: str, secret: str | None) -> list[str]:
    """What the Secret Service (gnome-keyring, KWallet, KeePassXC) keeps once `action` is done.

    By secretstorage, on which keyring stands: keyring's label tells nobody anything, and its prompt has no end.
    """
    import secretstorage

    try:
        bus = secretstorage.dbus_init()
    except (
        Exception
    ):  # unset, gone, deaf, another user's; none is started, not even for `autolaunch:`
        raise Unavailable("no session bus answers (DBUS_SESSION_BUS_ADDRESS)") from None
    if not secretstorage.check_service_availability(bus):
        raise Unavailable(
            "nothing on the session bus keeps secrets: no gnome-keyring, KWallet or KeePassXC"
        )

    def unlocked(kept: Any) -> Any:
        if kept.is_locked() and (action == "look" or kept.unlock() or kept.is_locked()):
            raise secretstorage.LockedException
        return kept

    def items() -> list[Any]:
        return [unlocked(item) for item in secretstorage.search_items(bus, attributes)]

    attributes = {"service": "avault", "username": account}  # as keyring calls them
    # Only `set` makes a default collection. It is unlocked first: not every service shows what is in a locked one.
    collection = unlocked(
        (secretstorage.get_default_collection if action == "set" else secretstorage.Collection)(bus)
    )
    found = items()
    if not found and action != "set":
        raise secretstorage.ItemNotFoundException
    if action in ("set", "delete"):
        for item in found:
            item.delete()
    if action == "set":
        collection.create_item(label, attributes, str(secret).encode(), replace=True)
    return [] if action == "look" else [item.get_secret().decode() for item in items()]


def macos_keychain(action: str, account: str, label: str, secret: str | None) -> list[str]:
    """What the macOS Keychain keeps once `action` is done; by keyring's bindings, as its class sets no label."""
    from keyring.backends.macOS import api

    entry = {
        "kSecClass": api.k_("kSecClassGenericPassword"),
        "kSecAttrService": "avault",
        "kSecAttrAccount": account,
    }
    if action == "look":  # its value is not asked for, nor is the person
        api.Error.raise_for_status(api.SecItemCopyMatching(api.create_query(**entry), None))
        return []
    status = 0 if action == "get" else api.SecItemDelete(api.create_query(**entry))
    if action == "set":
        status = api.SecItemAdd(
            api.create_query(**entry, kSecAttrLabel=label, kSecValueData=secret), None
        )
    api.Error.raise_for_status(status)
    try:
        return [api.find_generic_password(None, "avault", account)]
    except api.NotFound:
        if action == "delete":
            return []
        raise


def keychain(
    action: str, account: str, label: str, secret: str | None, limit: float = KEYCHAIN_TIME
) -> tuple[str, str | None]:
    """`get`, `set`, `delete`, or `look` for, the entry `account` of the service `avault`: the outcome, and the value or why.

    `ok`; `not_found`; `denied`: locked, dismissed, or no answer for `limit` seconds; `unavailable`: no bus, no service,
    nothing installed; `error`. A write is read back. A look shows no prompt. Raises nothing.
    """
    import threading

    result: tuple[str, str | None] = (
        "denied",
        f"the keychain did not answer in {limit:g} s; is it locked?",
    )

    def ask() -> None:
        nonlocal result
        try:
            if action not in ("get", "set", "delete", "look") or (action == "set") != bool(secret):
                raise AvaultError("nothing came that the keychain could do, or keep")
            kept = (macos_keychain if sys.platform == "darwin" else secret_service)(
                action, account, label, secret
            )
            if kept != {"set": [secret], "delete": []}.get(action, kept):
                raise AvaultError("the keychain did not keep what was written")
            result = "ok", kept[0] if action == "get" else None
        except AvaultError as error:
            result = error.code, error.message
        except ImportError:
            install = f"{shlex.quote(sys.executable)} -m pip install 'keyring>=25,<26'"
            result = "unavailable", f"the package keyring is not installed; {install}"
        except Exception as error:  # its text comes from elsewhere, and may carry what it was about
            names = [
                str(getattr(error, "name", None) or type(error).__name__),
                *map(str, error.args[:1]),
            ]
            result = "error", f"the keychain failed: {printable(names[0])}"
            for outcome, (reason, meant) in KEYCHAIN_ERRORS.items():
                if set(names) & set(meant.split()):
                    result = outcome, reason

    # and no signal: macOS waits for its prompt outside of Python
    worker = threading.Thread(target=ask, daemon=True)
    worker.start()
    worker.join(limit)
    return result


def take_secret() -> str:
    """The secret of `set`, over a socket that is made now that we are hardened; "" where nobody gives one."""
    with introduce_helper(0) as own:
        read = bytearray()
        while piece := own.recv(4096):
            read += piece
    return read.decode()


def main_keychain(argv: list[str]) -> NoReturn:
    """The process `avault.py keychain get|set|delete|look ACCOUNT LABEL [SECONDS]`; ends by _exit, whoever still waits.

    Stdin is a socket, over which the one who has the secret of `set` is met; the answer goes to stdout: {"outcome", "value"
    or "detail"}.
    """
    try:
        harden("avault-keychain", die_with_parent=True)
        action, account, label, *limit = argv
        secret = take_secret() if action == "set" else None
        outcome, said = keychain(action, account, label, secret, *map(float, limit))
        write_all(
            1,
            json.dumps(
                {"outcome": outcome, "value" if outcome == "ok" else "detail": said}
            ).encode(),
        )
    except BaseException as error:
        write_all(1, json.dumps({"outcome": "error", "detail": type(error).__name__}).encode())
    finally:
        os._exit(0)
