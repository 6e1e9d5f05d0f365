"""The keychain, and forgetting: opening the vault without the phone, and leaving nothing of it on a machine.

The commands ask the daemon, or clear up behind it; no key passes through them. What speaks to the keychain is a process
of its own, at the end: an unlock key passes through that, between keychain and keyholder, and opens nothing by itself.
references/keychain.md says what it is worth, and where it works.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import time
from typing import Any, NoReturn

from avault import (
    AvaultError,
    Denied,
    Interrupted,
    NoDaemon,
    NotFound,
    Places,
    Tampered,
    Terminal,
    Unavailable,
    ask_daemon,
    check_recovery,
    clean_environment,
    command,
    confirm,
    harden,
    introduce_helper,
    lock_directory,
    need_vault,
    option,
    own_command,
    printable,
    put,
    read_sealed,
    say,
    warn,
    write_all,
)

SERVICE = "avault"
MEANING = """\
the keychain of your login session is to open this vault, so that a reboot needs no phone. Whoever has
that session, or this disk and the session's password, then opens the vault without you"""


def account(places: Places) -> str:
    """The account under which the keychain has a vault's unlock key."""
    return f"{places.id}:unlock-key"


def describe(places: Places, **fields: Any) -> dict[str, Any]:
    """What the commands print with --json."""
    return {"ok": True, "enabled": False, "service": SERVICE, "account": account(places), **fields}


def removal(places: Places) -> str:
    """The command that takes the entry out by hand."""
    if sys.platform == "darwin":
        return f"security delete-generic-password -s {SERVICE} -a {account(places)}"
    return f"secret-tool clear service {SERVICE} username {account(places)}"


def refuse(answer: dict[str, Any], message: str, hint: str) -> None:
    """Raise the error that the keychain's outcome is; `ok` is none."""
    kinds = {"ok": None, "not_found": NotFound, "denied": Denied, "unavailable": Unavailable}
    if kind := kinds.get(answer["outcome"], AvaultError):
        raise kind(message.format(answer.get("detail") or answer["outcome"]), hint)


def show(terminal: Terminal, fields: dict[str, Any]) -> None:
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
    refuse(answer, "not enabled: {}", "the phone opens the vault as before; see: avault keychain status")
    say("enabled: the keychain opens this vault from now on, and the phone when it does not")
    show(terminal, describe(terminal.places, enabled=True))
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
        refuse(
            answer,
            "the phone is asked from now on, but the keychain still has its entry, which opens nothing any more: {}",
            f"try again when it is unlocked, or: {removal(terminal.places)}",
        )
    say("disabled: the phone is asked")
    show(terminal, describe(terminal.places))
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
    fields = describe(places, enabled=answer["enabled"], outcome=answer.get("outcome"), detail=answer.get("detail"))
    if terminal.want_json:
        show(terminal, fields)
        return 0
    opens = "opens this vault without the phone" if fields["enabled"] else "off; the phone opens this vault"
    said = "it is there" if fields["outcome"] == "ok" else fields["detail"]
    put(f"Keychain: {opens}\nEntry: service {SERVICE}, account {fields['account']}{f'; {said}' if said else ''}\n")
    return 0


@command("forget", option("--yes", is_flag=True), option("--force", is_flag=True))
def cmd_forget(terminal: Terminal, yes: bool, force: bool) -> int:
    """usage: avault forget [--yes] [--force]

    Removes from this machine all that belongs to the vault, but never the vault
    itself: ends the daemon, deletes the keychain's entry and the state directory
    (pairing, unlock.json, the access log). It asks first; --yes does not. It
    prints what it removed, and says what is left and how to remove that.

    Where the daemon alone could still open the vault, or nsec.enc is damaged, it
    refuses; --force does not. To use the vault here again: avault recover.
    """
    places = terminal.places
    if not force:
        keep_way_back(places)
    if not yes and not confirm(f"avault: {places.state} is to go: pairing, access log, and what opens {places.dir}. Forget it?"):
        raise Denied("not confirmed; nothing was removed", "avault forget --yes")
    lock = end_daemon(places, force)
    removed: list[str] = []
    left: list[dict[str, str]] = []
    try:
        if os.path.lexists(places.own("keychain.json")):
            forget_entry(places, removed, left)
        forget_files(places, removed)
    finally:
        if lock is not None:
            os.close(lock)
    left += find_settings(places)
    if terminal.want_json:
        show(terminal, {"ok": True, "removed": removed, "left": left})
        return 0
    put("".join(f"removed: {what}\n" for what in removed))
    for each in left:
        warn(f"left: {each['what']}", each["remove"])
    say("the phone still lists this machine; delete its connection there" if removed else "nothing of this vault was here")
    return 0


def keep_way_back(places: Places) -> None:
    """Refuse to forget what may be the only way into the vault; raises Denied."""
    if not os.path.lexists(places.file("avault.enc")) or not os.path.lexists(places.own("unlock.json")):
        return
    try:
        with contextlib.suppress(AvaultError):
            ask_daemon(places, "status")  # an open vault looks at nsec.enc, and mends it
        check_recovery(places)
        recovery = read_sealed("nsec", places.file("nsec.enc"))
        mine = read_sealed("unlock", places.own("unlock.json"))
        if any(recovery[name] != mine[name] for name in ("vault", "agent", "operator")):
            raise Tampered("nsec.enc is another vault's")
    except AvaultError as error:
        raise Denied(
            f"{error.message}: what this machine keeps may be the only way into the vault",
            "avault unlock, which mends nsec.enc; or put it back, from git or from a backup; or insist with --force",
        ) from None


def end_daemon(places: Places, force: bool) -> int | None:
    """Stop the daemon, and keep the vault's lock so that none starts meanwhile; None where there is no directory.

    Raises Denied where that may lose a key, and Unavailable for a daemon that cannot be reached.
    """
    try:
        ask_daemon(places, "stop", force=force)
        patience = 10.0  # seconds: it has answered, and is about to exit
    except Unavailable as error:  # none, or another vault's, which is not in the way
        patience = 10.0 if isinstance(error, Interrupted) else 0.0
    end = time.monotonic() + patience
    while True:
        try:
            return lock_directory(places.dir)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Unavailable:
            if time.monotonic() > end:
                raise
        time.sleep(0.05)


def forget_entry(places: Places, removed: list[str], left: list[dict[str, str]]) -> None:
    """Delete the keychain's entry, from this session: the daemon is gone."""
    words = own_command("keychain", "delete", account(places), places.dir)
    done = subprocess.run(words, check=False, env=clean_environment(), stdin=subprocess.DEVNULL, capture_output=True)
    answer = json.loads(done.stdout)
    entry = f"the keychain's entry {SERVICE}, {account(places)}"
    if answer["outcome"] == "ok":
        removed.append(entry)
    elif answer["outcome"] != "not_found":
        left.append({"what": f"{entry}, which opens nothing any more: {answer['detail']}", "remove": removal(places)})


def forget_files(places: Places, removed: list[str]) -> None:
    """Remove what the daemon left behind, and the state directory; raises AvaultError."""
    usual, *recorded = places.sockets()
    files = [usual, places.pid_file] if is_abandoned(usual) else []
    files += [path for path in recorded if path != usual and is_abandoned(path)]
    try:
        for path in files:
            if os.path.lexists(path):
                os.unlink(path)
                removed.append(path)
        if os.path.isdir(places.state):
            shutil.rmtree(places.state)
            removed.append(places.state)
    except OSError as error:
        raise AvaultError(f"cannot remove {error.filename}: {error.strerror}", "mend that, and: avault forget --yes") from None


def is_abandoned(path: str) -> bool:
    """Whether a path is not there, or a socket at which nobody listens; it may be that of another vault."""
    if not os.path.lexists(path):
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return stat.S_ISSOCK(os.lstat(path).st_mode)
        except OSError:
            return False
    return False


def find_settings(places: Places) -> list[dict[str, str]]:
    """What others keep for the vault: git's merge driver in its repository, and its services."""
    from avault_run_git import run_git
    from avault_service import Service

    found = []
    try:
        driver = run_git(places.dir, "config", "--local", "--get-regexp", r"^merge\.avault\.")
        attributes = run_git(places.dir, "rev-parse", "--path-format=absolute", "--git-path", "info/attributes")
    except AvaultError:
        pass  # no git, no driver
    else:
        if driver.stdout:  # in this order: by a driver that it does not know, git would merge line by line
            lines = printable(os.fsdecode(attributes.stdout).strip(), 4096)
            config = f"git -C {shlex.quote(places.dir)} config --remove-section merge.avault"
            remove = f"take the lines with merge=avault out of {lines}, then: {config}"
            found.append({"what": f"git's merge driver, in the repository of {places.dir}", "remove": remove})
    for system in (False, True):
        unit = Service(places, system, "").path
        if os.path.lexists(unit):
            found.append({"what": f"the service {unit}", "remove": "avault service uninstall" + (" --system" if system else "")})
    return found


# The process that asks the keychain: the platform's own or none, whatever is installed or configured for the package
# keyring. It is one of its own so that the libraries stay out of those that hold keys, and so that a prompt that nobody
# answers ends with it.

KEYCHAIN_TIME = 30.0  # seconds that the keychain, and the person whom it asks, have for an answer
KEYCHAIN_ERRORS = {  # what it may mean: a reason, and the exceptions, D-Bus names and OSStatus (SecBase.h); others are `error`
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
    except Exception:  # unset, gone, deaf, another user's; none is started, not even for `autolaunch:`
        raise Unavailable("no session bus answers (DBUS_SESSION_BUS_ADDRESS)") from None
    if not secretstorage.check_service_availability(bus):
        raise Unavailable("nothing on the session bus keeps secrets: no gnome-keyring, KWallet or KeePassXC")

    def unlocked(kept: Any) -> Any:
        if kept.is_locked() and (action == "look" or kept.unlock() or kept.is_locked()):
            raise secretstorage.LockedException
        return kept

    def items() -> list[Any]:
        return [unlocked(item) for item in secretstorage.search_items(bus, attributes)]

    attributes = {"service": "avault", "username": account}  # as keyring calls them
    # Only `set` makes a default collection. It is unlocked first: not every service shows what is in a locked one.
    collection = unlocked((secretstorage.get_default_collection if action == "set" else secretstorage.Collection)(bus))
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

    entry = {"kSecClass": api.k_("kSecClassGenericPassword"), "kSecAttrService": "avault", "kSecAttrAccount": account}
    if action == "look":  # its value is not asked for, nor is the person
        api.Error.raise_for_status(api.SecItemCopyMatching(api.create_query(**entry), None))
        return []
    status = 0 if action == "get" else api.SecItemDelete(api.create_query(**entry))
    if action == "set":
        status = api.SecItemAdd(api.create_query(**entry, kSecAttrLabel=label, kSecValueData=secret), None)
    api.Error.raise_for_status(status)
    try:
        return [api.find_generic_password(None, "avault", account)]
    except api.NotFound:
        if action == "delete":
            return []
        raise


def keychain(action: str, account: str, label: str, secret: str | None, limit: float = KEYCHAIN_TIME) -> tuple[str, str | None]:
    """`get`, `set`, `delete`, or `look` for, the entry `account` of the service `avault`: the outcome, and the value or why.

    `ok`; `not_found`; `denied`: locked, dismissed, or no answer for `limit` seconds; `unavailable`: no bus, no service,
    nothing installed; `error`. A write is read back. A look shows no prompt. Raises nothing.
    """
    import threading

    result: tuple[str, str | None] = "denied", f"the keychain did not answer in {limit:g} s; is it locked?"

    def ask() -> None:
        nonlocal result
        try:
            if action not in ("get", "set", "delete", "look") or (action == "set") != bool(secret):
                raise AvaultError("nothing came that the keychain could do, or keep")
            kept = (macos_keychain if sys.platform == "darwin" else secret_service)(action, account, label, secret)
            if kept != {"set": [secret], "delete": []}.get(action, kept):
                raise AvaultError("the keychain did not keep what was written")
            result = "ok", kept[0] if action == "get" else None
        except AvaultError as error:
            result = error.code, error.message
        except ImportError:
            install = f"{shlex.quote(sys.executable)} -m pip install 'keyring>=25,<26'"
            result = "unavailable", f"the package keyring is not installed; {install}"
        except Exception as error:  # its text comes from elsewhere, and may carry what it was about
            names = [str(getattr(error, "name", None) or type(error).__name__), *map(str, error.args[:1])]
            result = "error", f"the keychain failed: {printable(names[0])}"
            for outcome, (reason, meant) in KEYCHAIN_ERRORS.items():
                if set(names) & set(meant.split()):
                    result = outcome, reason

    worker = threading.Thread(target=ask, daemon=True)  # and no signal: macOS waits for its prompt outside of Python
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
        write_all(1, json.dumps({"outcome": outcome, "value" if outcome == "ok" else "detail": said}).encode())
    except BaseException as error:
        write_all(1, json.dumps({"outcome": "error", "detail": type(error).__name__}).encode())
    finally:
        os._exit(0)
