"""avault openclaw-provider where the fast part had no answer: asks the phone, with restraint.

OpenClaw runs the provider at each start, reload and audit, gives it two minutes, and kills it when
it restarts. So the question stays with the daemon, which asks the phone once for all, and pauses
after what was in vain. What OpenClaw does and demands was measured on version 2026.9.6;
references/openclaw.md has it in short.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import time

from avault.client import ask_daemon
from avault.daemon.asking import TOGETHER
from avault.errors import Locked, TimedOut, Usage
from avault.plain import read_stdin
from avault.systemd import NoDaemon
from avault.terminal.commands import command, option
from avault.terminal.talk import put, say
from avault.terminal.terminal import Terminal
from avault.terminal.waiting import Waiting
from avault.terminal.words import parse_duration

PROVIDER_WAIT = 100.0  # seconds; OpenClaw waits 120 at most


def ask_phone(terminal: Terminal, timeout: float) -> None:
    """Have the operator open the vault, and wait so long.

    The daemon goes on asking without us, for ten minutes in all.

    Starts the daemon if none runs. Raises Denied, TimedOut, and what else keeps the vault locked.
    """
    terminal.need_daemon()
    with Waiting() as waiting:
        ask_daemon(
            terminal.places, "unlock", timeout=max(timeout, 0), stay=TOGETHER, progress=waiting
        )


def seconds_until(when: str) -> float:
    """Seconds from now to a time of the protocol (RFC 3339)."""
    return max(datetime.datetime.fromisoformat(when).timestamp() - time.time(), 0.0)


def read_request() -> str:
    """OpenClaw's request from stdin; raises Usage for anything else."""
    data = read_stdin()
    try:
        asked = json.loads(data)
        version, ids = asked["protocolVersion"], asked["ids"]
    except (ValueError, TypeError, KeyError, RecursionError):
        version, ids = None, None
    if version != 1 or not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
        raise Usage(
            "not a request of OpenClaw's exec secret provider, version 1",
            "see references/openclaw.md",
        )
    return data.decode()


@command("openclaw-provider", option("--wait"), option("--no-prompt", is_flag=True))
def cmd_provider(terminal: Terminal, wait: str | None, no_prompt: bool) -> int:
    """usage: avault openclaw-provider [--wait S] [--no-prompt]

    OpenClaw's exec secret provider, protocol version 1: a request on stdin, the
    answer on stdout. Ids are GROUP/KEY. OpenClaw runs it; by hand it looks so:

      echo '{"protocolVersion":1,"provider":"avault","ids":["openai/API_KEY"]}' |
          avault openclaw-provider --no-prompt

    Where the vault is locked it asks the phone and waits up to S (100) seconds. If
    it stays locked, the exit code says why (3 locked, 5 refused, 7 nobody answered),
    so that OpenClaw names it once, and not for each secret. The daemon goes on
    asking, for ten minutes in all, one question for all who wait. Then it pauses,
    and after a refusal, as for every program: meanwhile the exit code comes at once.
    --no-prompt never asks, and starts no daemon.
    """
    seconds = parse_duration(wait)
    deadline = time.monotonic() + (PROVIDER_WAIT if seconds is None else seconds)
    request = read_request()
    try:
        answer = terminal.ask("provide", value={"value": request})
    except (Locked, NoDaemon):
        if no_prompt or seconds == 0:
            raise
        ask_phone(terminal, deadline - time.monotonic())
        answer = terminal.ask("provide", value={"value": request})
    put(answer["output"])
    return 0


@command("openclaw unlock", option("--timeout"))
def cmd_openclaw_unlock(terminal: Terminal, timeout: str | None) -> int:
    """usage: avault openclaw unlock [--timeout D]

    What OpenClaw's hook avault-unlock runs: avault unlock, but where nobody had
    answered it waits for the end of the pause, and asks again. A refusal ends it,
    and so does a pause after a refusal.

      avault openclaw unlock --timeout 15m
    """
    seconds = parse_duration(timeout)
    deadline = float("inf") if seconds is None else time.monotonic() + seconds
    said = ""
    while True:
        try:
            ask_phone(terminal, min(deadline - time.monotonic(), 10**6))
            break
        except TimedOut as error:
            left = deadline - time.monotonic()
            pause = terminal.ask("status")["asks_again"]
            if left <= 0 or not pause:
                raise
            if pause != said:
                say(f"{error.message}; it is asked again at {pause}")
            said = pause
            with contextlib.suppress(TimedOut):
                ask_daemon(terminal.places, "wait", timeout=min(left, seconds_until(pause)))
    say("the vault is open")
    return 0
