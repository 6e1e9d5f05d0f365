"""avault daemon start, daemon stop, unlock, lock, version."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from avault import __version__
from avault.cli.custody import Person
from avault.client import Interrupted, ask_daemon
from avault.daemon.start import start_daemon
from avault.errors import AvaultError, Denied, Tampered, Unavailable, Usage
from avault.hints import call
from avault.keys.obtaining import GivenKey
from avault.places import Places
from avault.systemd import NoDaemon, explain_absence, find_unit, hasten_service
from avault.terminal.commands import command, option
from avault.terminal.talk import confirm, is_person, put, say, warn
from avault.terminal.terminal import Terminal
from avault.terminal.waiting import Waiting
from avault.terminal.words import parse_duration
from avault.vault.files import make_private_directory
from avault.vault.machine import read_pin
from avault.vault.presence import need_vault, read_unlock
from avault.vault.store import Store
from avault.vault.times import render_duration

if TYPE_CHECKING:
    from typing import Any


@command(
    "daemon start",
    option("--background", "-b", is_flag=True),
    option("--timeout"),
    option("--accept-rollback", is_flag=True),
    option("--lock-after"),
    option("--lock-idle"),
    option("--notify"),
)
def cmd_daemon_start(
    terminal: Terminal,
    background: bool,
    notify: str | None,
    accept_rollback: bool,
    **limits: str | None,
) -> int:
    """usage: avault daemon start [-b] [--timeout D] [--lock-after D] [--lock-idle D]
                           [--notify CMD] [--accept-rollback]

    Asks the phone, and serves the secrets once the operator has approved.
    -b returns when the daemon listens, and says whether it waits or is open.
    --timeout ends the asking after D; the daemon stays, locked. By default it
    asks until somebody answers.

    --lock-after locks D after each unlock, --lock-idle when no secret was used
    for D; not before the phone has shown that it opens the vault. --notify runs
    a shell command at each change, with AVAULT_STATE (waiting, unlocked, locked,
    unpaired), AVAULT_NAME and AVAULT_DIR, so that the operator notices.

      avault daemon start -b --lock-after 8h
      avault daemon start --notify 'mail -s "avault: $AVAULT_STATE" me@example.com </dev/null'
    """
    limit, after, idle = (
        parse_duration(limits[name]) for name in ("timeout", "lock_after", "lock_idle")
    )
    if 0 in (after, idle):
        raise Usage("a limit of 0 would be none", "as in: --lock-after 8h --lock-idle 1h")
    is_hastened = not terminal.is_running() and hasten_service(terminal.places)
    try:
        status = ask_daemon(terminal.places, "status")
        there = status["locks_after"], status["locks_idle"]
        if notify:
            raise Usage(
                "a daemon is running, and a --notify cannot be changed",
                "avault daemon stop, then start it again",
            )
        if (after or there[0], idle or there[1]) != there:
            options = [
                f"--{name} {limits[f'lock_{name}']}"
                for name in ("after", "idle")
                if limits[f"lock_{name}"]
            ]
            raise Usage(
                "a daemon is running, with other limits",
                f"change them: avault lock {' '.join(options)}",
            )
        if status["state"] == "locked":
            fields = {"timeout": limit, "accept_rollback": accept_rollback, "person": is_person()}
            status = ask_daemon(terminal.places, "unlock", **fields, detach=True)
        pid, state = status["pid"], status["state"]
        say(
            f"systemd has started it (PID {pid}), {state}"
            if is_hastened
            else f"already running (PID {pid}), {state}"
        )
        if status["hint"]:
            say(f"hint: {status['hint']}")
        return 0
    except NoDaemon:
        pass
    need_vault(terminal.places)
    if os.environ.get("NOSTR_NSEC"):
        warn(
            "the key comes from NOSTR_NSEC: whoever reads this environment opens the vault "
            "without the phone"
        )
    try:
        wanted = {
            "timeout": limit,
            "accept_rollback": accept_rollback,
            "lock_after": after,
            "lock_idle": idle,
            "notify": notify,
        }
        start_daemon(terminal.places, background, ask=True, **wanted)
    except Unavailable as error:
        terminal.wait_daemon(error)  # another start at the same time was quicker
    status = ask_daemon(terminal.places, "wait", settled=True, timeout=60)
    if status["error"]:
        say(f"the daemon listens (PID {status['pid']})")
        raise AvaultError.from_dict(status)
    warn_of_logout(terminal.places)
    meaning = {
        "waiting": "it waits for the operator's approval on the phone",
        "unlocked": "the vault is open",
        "unpaired": "this machine is not paired with a signer",
    }
    say(
        f"the daemon listens (PID {status['pid']}); {meaning.get(status['state'], status['state'])}"
    )
    if status["state"] == "unpaired":
        say(f"hint: {status['hint']}")
    return 0


def warn_of_logout(places: Places) -> None:
    """Say so where the end of the session is the end of the daemon: no lingering (loginctl(1))."""
    import getpass

    session = places.socket.startswith("/run/user/") and os.path.isdir("/run/systemd/system")
    if session and not os.path.exists(f"/var/lib/systemd/linger/{getpass.getuser()}"):
        warn("lingering is off: the daemon ends when you log out", "loginctl enable-linger")


@command("daemon stop", option("--force", is_flag=True))
def cmd_daemon_stop(terminal: Terminal, force: bool) -> int:
    """usage: avault daemon stop [--force]

    Ends the daemon; the secrets go with it. Where nobody has shown yet that the
    phone opens this vault, it asks first; --force does not.
    """
    return end("stop", terminal, force)


@command("lock", option("--after"), option("--idle"), option("--force", is_flag=True))
def cmd_lock(terminal: Terminal, after: str | None, idle: str | None, force: bool) -> int:
    """usage: avault lock [--force]
           avault lock [--after D] [--idle D]

    The process that holds the secrets exits; the daemon stays. Where nobody has
    shown yet that the phone opens this vault, it asks first; --force does not.

    --after and --idle lock nothing yet: they change when the running daemon
    locks by itself, until it ends; what it began with are --lock-after and
    --lock-idle of: avault daemon start. D is 90, 90s, 5m, 8h, 7d, or never.

      avault lock --after 8h --idle never
    """
    if after is None and idle is None:
        return end("lock", terminal, force)
    limits = {
        name: 0.0 if text == "never" else parse_limit(text)
        for name, text in (("after", after), ("idle", idle))
        if text
    }
    status = terminal.ask("limit", **{f"lock_{name}": seconds for name, seconds in limits.items()})
    if not terminal.want_json:
        say(describe_limits(status))
    return 0


def parse_limit(text: str) -> float:
    """A duration that is more than none; raises Usage."""
    seconds = parse_duration(text)
    if not seconds:
        raise Usage(
            "a limit of 0 would be none", "as in: avault lock --after 8h --idle 1h, or never"
        )
    return seconds


def describe_limits(status: dict[str, Any]) -> str:
    """When the vault locks by itself."""
    after, idle = status["locks_after"], status["locks_idle"]
    limits = [f"{render_duration(after)} after an unlock"] if after else []
    limits += [f"after {render_duration(idle)} without a use"] if idle else []
    rule = f"it locks {' and '.join(limits)}" if limits else "it does not lock by itself"
    return rule + (f"; this time at {status['until']}" if status["until"] else "")


def end(op: str, terminal: Terminal, force: bool) -> int:
    """`lock` or `stop`; nothing to do is done."""
    try:
        ask_daemon(terminal.places, op, force=force)
    except Denied as error:
        if not confirm(f"avault: {error.message}. {op} all the same?"):
            raise
        ask_daemon(terminal.places, op, force=True)
    except Interrupted:
        if op != "stop":
            raise
    except NoDaemon:
        need_vault(terminal.places)  # else it is another one that stays open
        if op == "stop" and cancel_restart(terminal.places):
            say("no daemon is running, and systemd does not start it again before the next boot")
        else:
            say("no daemon is running")
    return 0


def cancel_restart(places: Places) -> bool:
    """Keep systemd from starting a daemon again that has ended; whether it was about to.

    Raises Unavailable.
    """
    reason = explain_absence(places)
    found = find_unit(places)
    if reason.state != "starting" or not found:
        return False
    try:
        found[0].ask("stop", found[0].name)
    except AvaultError:
        raise Unavailable(reason.message, f"to stop it: {found[0].command('stop')}") from None
    return True


@command("version")
def cmd_version(terminal: Terminal) -> int:
    """usage: avault version

    Prints the version, as --version does.
    """
    put(f"avault {__version__}\n")
    return 0


@command(
    "unlock",
    option("--timeout"),
    option("--for", "how_long"),
    option("--again", is_flag=True),
    option("--accept-rollback", is_flag=True),
    option("--with", "custodian"),
    option("--passphrase-file"),
)
def cmd_unlock(
    terminal: Terminal,
    timeout: str | None,
    how_long: str | None,
    again: bool,
    accept_rollback: bool,
    custodian: str | None,
    passphrase_file: str | None,
) -> int:
    """usage: avault unlock [--timeout D] [--for D] [--again] [--accept-rollback]
                     [--with NAME [--passphrase-file FILE]]

    Asks the phone, and waits until the operator has approved or refused. Starts
    the daemon if none runs. The phone shows the code that is printed here.
    --timeout gives up after D. --for locks it D from now on, this time, whatever
    the daemon's own limit is. After a refusal, programs have to wait before they
    may ask again: 15 minutes, then an hour, then four. Who types this in a
    terminal does not, nor does a program with --again, for when the operator has
    told it to ask again.

    --accept-rollback takes a vault that is older than what this machine has
    seen, and asks by itself, not together with others. --with opens it with one
    custodian, and with no other (avault custody list; phone is one). What that
    asks, it asks at this terminal, or finds in --passphrase-file. With NOSTR_NSEC
    and no daemon, it only looks whether the vault opens.

      avault unlock --timeout 5m --for 1h
    """
    limit, nsec = parse_duration(timeout), os.environ.get("NOSTR_NSEC")
    lasting = {"for": parse_limit(how_long)} if how_long is not None else {}
    if nsec and not terminal.is_running():
        content, _ = read_unlock(terminal.places)
        make_private_directory(terminal.places.state)
        keys = asyncio.run(GivenKey(nsec).get_key(content))
        store = Store.read(terminal.places, keys, {**content, "operator": None})
        refusal = store.compare(pin) if (pin := read_pin(terminal.places)) else None
        if refusal and not accept_rollback:
            raise Tampered(refusal, "get the latest (git pull), or insist with --accept-rollback")
        say(
            f"the vault opens with NOSTR_NSEC: {store.vault.count()} secret(s); no daemon runs, "
            "and none was started"
        )
        return 0
    need_vault(terminal.places)
    terminal.need_daemon()
    if nsec:
        warn(
            "the key comes from NOSTR_NSEC: whoever reads this environment opens the vault "
            "without the phone"
        )
        ask_daemon(
            terminal.places,
            "open",
            value={"nsec": nsec},
            private=True,
            accept_rollback=accept_rollback,
        )
        status = ask_daemon(terminal.places, "limit", **lasting)
    else:
        asked: dict[str, Any] = {
            "timeout": limit,
            "accept_rollback": accept_rollback,
            "person": again or is_person(),
            **lasting,
        }
        call.farewell = "stopped; the phone is not asked any longer for this"
        asked |= {"with": custodian} if custodian else {}
        with Person(passphrase_file) as person, Waiting() as waiting:
            status = ask_daemon(terminal.places, "unlock", progress=waiting, **asked, **person)
    for text in status["warnings"]:
        warn(text)
    if lasting and not status["until"]:
        warn(
            "it does not lock by itself: no phone has shown yet that it opens this vault",
            status["hint"],
        )
    say(
        f"unlocked: {status['secrets']} secret(s)"
        + (f", until {status['until']}" if status["until"] else "")
    )
    return 0
