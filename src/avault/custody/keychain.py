"""The keychain as a custodian: the platform's own, or none.

Whatever is installed or configured for the package keyring is not taken. references/keychain.md
says what it is worth, and where it works.
"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, NotFound, Unavailable, printable
from avault.keys.custodian import Errand

if TYPE_CHECKING:
    from typing import Any, ClassVar

    from avault.keys.nostr import KeyText


# what exceptions, D-Bus names and OSStatus (SecBase.h) mean
KEYCHAIN_ERRORS = {
    "ItemNotFoundException -25300": (NotFound, "the keychain has no entry for this vault"),
    "LockedException PromptDismissedException org.freedesktop.Secret.Error.IsLocked -128 -25293"
    " -25308 -25315": (
        Denied,
        "the keychain is locked, and its prompt was dismissed or has no screen",
    ),
    "SecretServiceNotAvailableException org.freedesktop.DBus.Error.Spawn.ChildExited -25291 -25294"
    " -25307": (Unavailable, "the keychain of this session does not run"),
}


def secret_service(action: str, account: str, label: str, secret: KeyText | None) -> list[str]:
    """What the Secret Service (gnome-keyring, KWallet, KeePassXC) keeps once `action` is done.

    By secretstorage, on which keyring stands: keyring's label tells nobody anything, and its
    prompt has no end.
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
    # Only `set` makes a default collection. It is unlocked first: not every service shows what is
    # in a locked one.
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


def macos_keychain(action: str, account: str, label: str, secret: KeyText | None) -> list[str]:
    """What the macOS Keychain keeps once `action` is done.

    By keyring's bindings, as its class sets no label.
    """
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


class Keychain:
    """The platform's own keychain; an entry of the service avault. A write is read back."""

    needs_person: ClassVar[bool] = False
    SETTINGS: ClassVar[dict[str, tuple[str, str | None]]] = {}

    def __init__(self, errand: Errand) -> None:
        self.errand = errand

    def settle(self) -> dict[str, str]:
        """Nothing is to be said; but a keychain has to be there."""
        try:
            self.ask("look")
        except (NotFound, Denied):
            pass
        return {}

    def probe(self) -> str:
        """Whether the entry is there, without a prompt."""
        self.ask("look")
        return "it is there"

    def set(self, secret: KeyText) -> None:
        """Keep the secret in an entry, and take out what was there before."""
        if self.ask("set", secret) != [secret]:
            raise AvaultError("the keychain did not keep what was written")

    def get(self) -> KeyText:
        """The entry's secret."""
        return self.ask("get")[0]

    def delete(self) -> None:
        """Take the entry out."""
        if self.ask("delete"):
            raise AvaultError("the keychain still has what was deleted")

    def ask(self, action: str, secret: KeyText | None = None) -> list[str]:
        """What the keychain keeps once `action` is done; raises what its error means."""
        ask = macos_keychain if sys.platform == "darwin" else secret_service
        try:
            return ask(action, self.errand.names.account, self.errand.names.label, secret)
        except AvaultError:
            raise
        except ImportError:
            install = f"{shlex.quote(sys.executable)} -m pip install 'keyring>=25,<26'"
            raise Unavailable(f"the package keyring is not installed; {install}") from None
        except Exception as error:  # its text comes from elsewhere, and may carry what it was about
            given = getattr(error, "name", None) or type(error).__name__
            names = {str(given), *map(str, error.args[:1])}
            for meant, (kind, reason) in KEYCHAIN_ERRORS.items():
                if names & set(meant.split()):
                    raise kind(reason) from None
            raise AvaultError(f"the keychain failed: {printable(given)}") from None
