"""daemon start and stop, status, unlock, lock."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import TYPE_CHECKING

from avault import __version__
from avault.client import Interrupted, ask_daemon
from avault.custody.custodian import GivenKey
from avault.daemon.start import start_daemon
from avault.errors import AvaultError, Denied, NotFound, Tampered, Unavailable, Usage, printable
from avault.fast import STATES
from avault.hints import call
from avault.places import Places
from avault.signer.pairing import shorten_key
from avault.systemd import NoDaemon, explain_absence, find_unit, hasten_service
from avault.terminal.commands import command, option
from avault.terminal.talk import confirm, is_person, put, say, warn
from avault.terminal.terminal import Terminal, refuse_elses
from avault.terminal.waiting import Waiting
from avault.terminal.words import parse_duration
from avault.vault.files import make_private_directory
from avault.vault.formats import render_duration
from avault.vault.machine import read_pin
from avault.vault.presence import has_vault, need_vault, read_unlock
from avault.vault.store import Store

if TYPE_CHECKING:
    from typing import Any


@command(
    "daemon start", option("--background", "-b", is_flag=True), option("--timeout"), option("--accept-rollback", is_flag=True),
    option("--lock-after"), option("--lock-idle"), option("--notify"),
)  # fmt: skip
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
            "the key comes from NOSTR_NSEC: whoever reads this environment opens the vault without the phone"
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
    """Say so where the end of the session is the end of the daemon: systemd without lingering (loginctl(1))."""
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
    """Keep systemd from starting a daemon again that has ended; whether it was about to. Raises Unavailable."""
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


@command("status", option("--watch", is_flag=True), option("--short", is_flag=True))
@command("daemon status", option("--watch", is_flag=True), option("--short", is_flag=True))
def cmd_status(terminal: Terminal, watch: bool, short: bool) -> int:
    """usage: avault status [--watch] [--short] [--json]

    What the daemon does and what it waits for. Exit code 0: unlocked; 3: locked,
    waiting or unpaired; 4: no vault; 6: no daemon.
    --watch shows it again whenever it changes, until Ctrl-C. --short is one word
    (unlocked, waiting, locked, unpaired, starting, stopped), and quick enough
    for a prompt.

      PS1='$(avault status --short) \\$ '
    """
    shown = ""
    while True:
        status = look(terminal.places, **({"ask_again": True} if watch and not shown else {}))
        if terminal.want_json:
            text = (
                json.dumps({"ok": True, **status}, indent=None if watch else 2, ensure_ascii=False)
                + "\n"
            )
        else:
            text = status["state"] + "\n" if short else render_status(status)
        if text != shown:
            redraw = watch and not short and not terminal.want_json and sys.stdout.isatty()
            put(("\x1b[H\x1b[2J" if redraw else "") + text)
        shown = text
        call.farewell = ""
        if not watch:
            return (
                STATES[status["state"]]
                if status["pid"] or has_vault(terminal.places)
                else NotFound.exit_code
            )
        time.sleep(0.5)


def look(places: Places, **fields: Any) -> dict[str, Any]:
    """The daemon's status, or what stands for it where none runs; the hint is for this very vault."""
    try:
        status = ask_daemon(places, "status", **fields)
    except NoDaemon:
        refuse_elses(places)
        status = describe_stopped(places)
    status["hint"] = call.complete(status["hint"]) if status["hint"] else None
    return status


def describe_stopped(places: Places) -> dict[str, Any]:
    """The status where no daemon runs, as far as the files tell; raises AvaultError where we may not look at them."""
    absence = explain_absence(places)
    status: dict[str, Any] = {
        "state": absence.state,
        "dir": places.dir,
        "vault_id": places.id,
        "socket": places.socket,
    }
    status |= dict.fromkeys(STATUS_FIELDS) | {"warnings": [], "version": __version__}
    if absence.reason:
        status["error"] = {"code": absence.code, "message": absence.reason, "hint": None}
    has_vault(places)
    try:
        content, own = read_unlock(places)
        status |= {
            "agent_npub": content["agent"],
            "signer_npub": content["operator"],
            "name": content["name"],
        }
        is_new = not own and not os.path.lexists(places.own("pairing.json"))
        status["hint"] = NEVER_OPENED if is_new else absence.hint
    except AvaultError as error:
        status["warnings"], status["hint"] = [error.message], error.hint
    return status


NEVER_OPENED = "this machine has never opened this vault; open it with: avault recover"

STATUS_FIELDS = (
    "pid", "keyholder_pid", "listening", "asks_again", "agent_npub", "signer_npub", "name", "code", "groups", "secrets",
    "proven", "since", "relays", "waiting", "signer_approves_by_itself", "hint", "error", "warnings", "version",
    "until", "locks_after", "locks_idle", "git", "keychain",
)  # fmt: skip


def render_status(status: dict[str, Any]) -> str:
    """Status for a person."""
    state = status["state"]
    lines = [f"Daemon: running (PID {status['pid']})" if status["pid"] else "Daemon: stopped"]
    if status["agent_npub"]:
        lines += [f"Agent: {status['agent_npub']}", f"Operator: {status['signer_npub']}"]
    if status["secrets"] is not None:
        lines.append(f"Vault: {status['secrets']} secret(s)")
    else:
        lines.append(
            "Vault: locked"
            if status["agent_npub"] or status["pid"]
            else "Vault: none that can be opened"
        )
    lines.append(f"Directory: {status['dir']}")
    words = {
        "waiting": "waiting for the operator's approval",
        "unpaired": "locked, and not paired with a signer",
        "starting": "systemd starts it by itself",
    }
    lines.append(
        f"State: {words.get(state, state)}"
        + (f" since {status['since']}" if status["since"] else "")
    )
    lines += [f"Locks: {status['until']}"] if status["until"] else []
    lines += ["Keychain: opens the vault without the phone"] if status["keychain"] else []
    if status["git"] and status["git"].get("hint"):
        lines.append(
            f"Git: {printable(status['git'].get('reason') or status['git'].get('push_reason'))}; "
            + call.complete(status["git"]["hint"])
        )
    lines += [f"Reason: {status['error']['message']}"] if status["error"] else []
    waiting = status["waiting"]
    if state == "waiting" and waiting:
        lines.append(f"Code: {status['code']}, in the sentence on the phone")
        taken = any(relay["said"] == "accepted" for relay in status["relays"] or [])
        connected = any(relay["connected"] for relay in status["relays"] or [])
        lines.append(
            f"Asked: {waiting['requests']} time(s) since {waiting['since']}"
            + (
                "; no relay is connected; trying again"
                if not connected
                else ""
                if taken
                else "; no relay has it yet"
            )
        )
        lines += (
            [f"Asked again: {waiting['next']}; to open the signer app is enough"]
            if waiting["next"]
            else []
        )
        lines.append(f"Asked as: {shorten_key(waiting['client_key'])}")
        lines += [f"Open this page: {waiting['auth_url']}"] if waiting["auth_url"] else []
        lines += [f"Signer said: {waiting['error']}"] if waiting["error"] else []
        lines += [f"Notice: {waiting['notice']}"] if waiting["notice"] else []
        for relay in status["relays"] or []:
            link = "connected" if relay["connected"] else "not connected"
            lines.append(f"Relay: {relay['url']}, {link}, {relay['said'] or 'nothing said'}")
    if status.get("listening"):
        lines.append("Listening: for an answer to an earlier request; nothing is asked")
    if status.get("asks_again"):
        lines.append(f"Pause: programs may ask the phone again at {status['asks_again']}")
    if status["proven"] is False:
        lines.append("Proven: no; nobody has shown yet that the phone opens this vault")
    lines += [
        f"Warning: {call.complete(printable(text, 300))}" for text in status["warnings"] or []
    ]
    if status["hint"]:
        lines.append(f"Next: {status['hint'].removesuffix('; see: avault status')}")
    return "".join(line + "\n" for line in lines)


@command(
    "unlock", option("--timeout"), option("--for", "how_long"), option("--again", is_flag=True),
    option("--accept-rollback", is_flag=True),
)  # fmt: skip
def cmd_unlock(
    terminal: Terminal,
    timeout: str | None,
    how_long: str | None,
    again: bool,
    accept_rollback: bool,
) -> int:
    """usage: avault unlock [--timeout D] [--for D] [--again] [--accept-rollback]

    Asks the phone, and waits until the operator has approved or refused. Starts
    the daemon if none runs. The phone shows the code that is printed here.
    --timeout gives up after D. --for locks it D from now on, this time, whatever
    the daemon's own limit is. After a refusal, programs have to wait before they
    may ask again: 15 minutes, then an hour, then four. Who types this in a
    terminal does not, nor does a program with --again, for when the operator has
    told it to ask again.

    --accept-rollback takes a vault that is older than what this machine has
    seen, and asks by itself, not together with others. With NOSTR_NSEC and no
    daemon, it only looks whether the vault opens.

      avault unlock --timeout 5m --for 1h
    """
    limit, nsec = parse_duration(timeout), os.environ.get("NOSTR_NSEC")
    lasting = {"for": parse_limit(how_long)} if how_long is not None else {}
    if nsec and not terminal.is_running():
        content, _ = read_unlock(terminal.places)
        make_private_directory(terminal.places.state)
        store = Store.read(terminal.places, asyncio.run(GivenKey(nsec).obtain(content)), content)
        refusal = store.compare(pin) if (pin := read_pin(terminal.places)) else None
        if refusal and not accept_rollback:
            raise Tampered(refusal, "get the latest (git pull), or insist with --accept-rollback")
        say(
            f"the vault opens with NOSTR_NSEC: {store.vault.count()} secret(s); no daemon runs, and none was started"
        )
        return 0
    need_vault(terminal.places)
    terminal.need_daemon()
    if nsec:
        warn(
            "the key comes from NOSTR_NSEC: whoever reads this environment opens the vault without the phone"
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
        asked = {
            "timeout": limit,
            "accept_rollback": accept_rollback,
            "person": again or is_person(),
            **lasting,
        }
        call.farewell = "stopped; the phone is not asked any longer for this"
        with Waiting() as waiting:
            status = ask_daemon(terminal.places, "unlock", progress=waiting, **asked)
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
