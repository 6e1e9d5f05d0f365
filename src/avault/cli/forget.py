"""avault forget: leaving nothing of a vault on a machine but the vault."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import socket
import stat
import time

from avault.cli.custody import show
from avault.cli.keychain import KEYCHAIN, SERVICE, account, removal
from avault.client import Interrupted, ask_daemon
from avault.custody.custodians import Custodians
from avault.custody.shared import is_shared
from avault.daemon.errands import Reach, run_errand
from avault.errors import AvaultError, Denied, Tampered, Unavailable, printable
from avault.git.run import run_git
from avault.places import Places
from avault.process import lock_directory
from avault.service.unit import Service
from avault.terminal.commands import command, option
from avault.terminal.talk import confirm, put, say, warn
from avault.terminal.terminal import Terminal
from avault.vault.presence import read_sealed
from avault.vault.recovery import check_recovery


@command("forget", option("--yes", is_flag=True), option("--force", is_flag=True))
def cmd_forget(terminal: Terminal, yes: bool, force: bool) -> int:
    """usage: avault forget [--yes] [--force]

    Removes from this machine all that belongs to the vault, but never the vault
    itself: ends the daemon, has the custodians forget, deletes the state directory
    (pairing, unlock.json, the access log). It asks first; --yes does not. It
    prints what it removed, and says what is left and how to remove that.

    Where the daemon alone could still open the vault, or nsec.enc is damaged, it
    refuses; --force does not. To use the vault here again: avault recover.
    """
    places = terminal.places
    if not force:
        keep_way_back(places)
    if not yes and not confirm(
        f"avault: {places.state} is to go: pairing, access log, and what opens {places.dir}. "
        "Forget it?"
    ):
        raise Denied("not confirmed; nothing was removed", "avault forget --yes")
    lock = end_daemon(places, force)
    removed: list[str] = []
    left: list[dict[str, str]] = []
    try:
        forget_custodians(places, removed, left)
        forget_files(places, removed)
    finally:
        if lock is not None:
            os.close(lock)
    left += find_settings(places)
    if terminal.want_json:
        return show(terminal, {"ok": True, "removed": removed, "left": left})
    put("".join(f"removed: {what}\n" for what in removed))
    for each in left:
        warn(f"left: {each['what']}", each["remove"])
    say(
        "the phone still lists this machine; delete its connection there"
        if removed
        else "nothing of this vault was here"
    )
    return 0


def keep_way_back(places: Places) -> None:
    """Refuse to forget what may be the only way into the vault; raises Denied."""
    if not os.path.lexists(places.file("avault.enc")) or not os.path.lexists(
        places.own("unlock.json")
    ):
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
            "avault unlock, which mends nsec.enc; or put it back, from git or from a backup; "
            "or insist with --force",
        ) from None


def end_daemon(places: Places, force: bool) -> int | None:
    """Stop the daemon, and keep the vault's lock so that none starts meanwhile.

    None where there is no directory.

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


def forget_custodians(places: Places, removed: list[str], left: list[dict[str, str]]) -> None:
    """Have the custodians forget their keys, from this session: the daemon is gone."""
    custodians = Custodians(places)
    both = [
        (name, candidate) for candidate in (False, True) for name in custodians.names(candidate)
    ]
    for name, candidate in both:
        try:
            content = custodians.load(name, candidate)
        except AvaultError:
            continue  # its file goes with the others, and cannot be read by anybody
        if is_shared(content):
            continue  # other machines use it
        answer = asyncio.run(run_errand(places, "delete", content, Reach({})))
        entry, by_hand = f"the key of the custodian {name}", "take it away there"
        if name == KEYCHAIN:
            entry = f"the keychain's entry {SERVICE}, {account(places)}"
            by_hand = removal(places)
        if answer["outcome"] == "ok":
            removed.append(entry)
        elif answer["outcome"] != "not_found":
            why = answer.get("detail") or answer["outcome"]
            left.append(
                {"what": f"{entry}, which opens nothing any more: {why}", "remove": by_hand}
            )


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
        raise AvaultError(
            f"cannot remove {error.filename}: {error.strerror}",
            "mend that, and: avault forget --yes",
        ) from None


def is_abandoned(path: str) -> bool:
    """Whether a path is not there, or a socket at which nobody listens.

    It may be that of another vault.
    """
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

    found = []
    try:
        driver = run_git(places.dir, "config", "--local", "--get-regexp", r"^merge\.avault\.")
        attributes = run_git(
            places.dir, "rev-parse", "--path-format=absolute", "--git-path", "info/attributes"
        )
    except AvaultError:
        pass  # no git, no driver
    else:
        # in this order: by a driver that it does not know, git would merge line by line
        if driver.stdout:
            lines = printable(os.fsdecode(attributes.stdout).strip(), 4096)
            config = f"git -C {shlex.quote(places.dir)} config --remove-section merge.avault"
            remove = f"take the lines with merge=avault out of {lines}, then: {config}"
            found.append(
                {"what": f"git's merge driver, in the repository of {places.dir}", "remove": remove}
            )
    for system in (False, True):
        unit = Service(places, system, "").path
        if os.path.lexists(unit):
            found.append(
                {
                    "what": f"the service {unit}",
                    "remove": "avault service uninstall" + (" --system" if system else ""),
                }
            )
    return found
