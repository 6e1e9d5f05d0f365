"""avault status: what the daemon does, and what it waits for."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING

from avault import __version__
from avault.client import ask_daemon
from avault.errors import AvaultError, NotFound, printable
from avault.fast import STATES
from avault.hints import call
from avault.places import Places
from avault.signer.pairing import shorten_key
from avault.systemd import NoDaemon, explain_absence
from avault.terminal.commands import command, option
from avault.terminal.talk import put
from avault.terminal.terminal import Terminal, refuse_elses
from avault.vault.names import PHONE
from avault.vault.presence import has_vault, need_vault, read_unlock

if TYPE_CHECKING:
    from typing import Any


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
    """The daemon's status, or what stands for it where none runs.

    The hint is for this very vault.
    """
    try:
        status = ask_daemon(places, "status", **fields)
    except NoDaemon:
        refuse_elses(places)
        status = describe_stopped(places)
    status["hint"] = call.complete(status["hint"]) if status["hint"] else None
    return status


def describe_stopped(places: Places) -> dict[str, Any]:
    """The status where no daemon runs, as far as the files tell.

    Raises AvaultError where we may not look at them.
    """
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
        need_vault(places)
        is_new = not own and not os.path.lexists(places.own("pairing.json"))
        status["hint"] = NEVER_OPENED if is_new else absence.hint
    except AvaultError as error:
        status["warnings"], status["hint"] = [error.message], error.hint
    return status


NEVER_OPENED = "this machine has never opened this vault; open it with: avault recover"

STATUS_FIELDS = (
    "pid", "keyholder_pid", "listening", "asks_again", "agent_npub", "signer_npub", "name",
    "code", "groups", "secrets", "guards",
    "proven", "phone_opened",
    "since", "relays", "waiting", "signer_approves_by_itself", "hint", "error",
    "warnings", "version",
    "until", "locks_after", "locks_idle", "git", "custodians", "first_operator", "operators",
    "asked", "asks", "questions", "pauses", "replica", "messages", "grants", "roots",
)  # fmt: skip


SHOWN_ASKED = 5  # names


def render_asking(status: dict[str, Any]) -> list[str]:
    """Of what the phone is asked at each use, is asked now, and is not asked for a while."""
    names = status["asks"] or []
    more = f", and others: {call.complete('avault list')}" if len(names) > SHOWN_ASKED else ""
    shown = f"{', '.join(names[:SHOWN_ASKED])}{more}"
    lines = [f"Asks the phone: {shown}"] if names else []
    lines += [
        f"Asked now: {', '.join(each['names'])}, by {printable(each['by'])},"
        f" code {each['code']}, since {each['since']}"
        for each in status["questions"] or []
    ]
    lines += [
        f"Pause: {printable(each['program'])} may ask for {each['name']} again at {each['until']}"
        for each in status["pauses"] or []
    ]
    return lines


def render_replica(told: dict[str, Any]) -> list[str]:
    """How the relays are that keep the vault: a line, and one for each thing that is wrong."""
    rows = told.get("relays") or []
    if not rows:
        return []
    kept = [row for row in rows if row["kept"]]
    latest = max((row["checked"] or 0 for row in kept), default=0)
    ago = f", {render_age(time.time() - latest)} ago" if latest else ""
    lines = [f"{len(kept)} of {len(rows)} relay{'s' if len(rows) > 1 else ''}{ago}"]
    lines += [f"{row['url']}: {printable(row['said'])}" for row in rows if row["said"]]
    wrong = [told["problem"]] if told.get("problem") else []
    return lines + [printable(each) for each in [*wrong, *(told.get("problems") or [])]]


def render_messages(told: dict[str, Any] | None) -> list[str]:
    """Whether the word lock is heard, and what came of the last notice."""
    lines = []
    if told and told["lock"]:
        heard = [relay["url"] for relay in told["relays"] if relay["connected"]]
        lines.append(f"Word: lock is heard at {', '.join(heard) or 'no relay now'}")
    if told and (last := told["last_notice"]):
        sent = [url for url, said in (last.get("said") or {}).items() if said == "accepted"]
        lines.append(f"Notice: {'sent to ' + ', '.join(sent) if sent else 'not sent'}")
    return lines


def render_age(seconds: float) -> str:
    """How long ago, roughly."""
    size, unit = next(
        (each for each in ((86_400, "d"), (3_600, "h"), (60, "min")) if seconds >= each[0]),
        (1, "s"),
    )
    return f"{max(int(seconds // size), 0)} {unit}"


def render_status(status: dict[str, Any]) -> str:
    """Status for a person."""
    state = status["state"]
    lines = [f"Daemon: running (PID {status['pid']})" if status["pid"] else "Daemon: stopped"]
    if status["agent_npub"]:
        lines += [f"Agent: {status['agent_npub']}", f"Operator: {status['signer_npub']}"]
    others = [
        name for name, npub in (status["operators"] or {}).items() if npub != status["signer_npub"]
    ]
    lines += [f"Other operators: {', '.join(others)}"] if others else []
    if status["secrets"] is not None:
        guards = f", {status['guards']} guard(s)" if status["guards"] else ""
        lines.append(f"Vault: {status['secrets']} secret(s){guards}")
    else:
        lines.append(
            "Vault: locked"
            if status["agent_npub"] or status["pid"]
            else "Vault: none that can be opened"
        )
    if status.get("grants"):
        see = call.complete("avault grants")
        lines.append(f"Grants: {', '.join(status['grants'])}; see: {see}")
    lines += render_asking(status)
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
    if status["custodians"] not in (None, [PHONE]):
        see = call.complete("avault custody list")
        lines.append(f"Opened by: {', '.join(status['custodians'])}; see: {see}")
    if status.get("phone_opened"):
        lines.append(f"Phone: it last opened this vault at {printable(status['phone_opened'], 40)}")
    if status["git"] and status["git"].get("hint"):
        lines.append(
            f"Git: {printable(status['git'].get('reason') or status['git'].get('push_reason'))}; "
            + call.complete(status["git"]["hint"])
        )
    if replica := status.get("replica"):
        lines += [f"Replica: {line}" for line in render_replica(replica)]
    lines += render_messages(status.get("messages"))
    if roots := status.get("roots"):
        lines.append(f"Proxy: it trusts the authorities in {printable(roots)}, by AVAULT_ROOTS")
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
    for each in status["asked"] or []:
        lines.append(f"Also asked: the phone of {each['name']}, code {each['code']}")
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
