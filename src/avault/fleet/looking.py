"""What a host says of its vault: its state, its health and its log."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from avault.errors import printable
from avault.fleet.hosts import Host
from avault.fleet.outcomes import (
    MOST_OBJECTS,
    Outcome,
    find_error,
    find_objects,
    judge_error,
    judge_transport,
    last_line,
    read_objects,
    shorten,
    strange,
)
from avault.fleet.reaching import MOST_OUTPUT, Crew, Ended, command_line

if TYPE_CHECKING:
    from typing import Any


STATE_CODES = {
    "unlocked": 0, "waiting": 3, "locked": 3, "unpaired": 3, "starting": 6, "stopped": 6,
}  # fmt: skip
CLOCK_LIMIT = 60  # seconds that a clock may be wrong


def read_state(ended: Ended, has_written: bool = False) -> Outcome:
    """The outcome of `status --json`, which stands last in what came."""
    if failed := judge_transport(ended, has_written):
        return failed
    objects = find_objects(ended.out)
    status = next((each for each in reversed(objects) if each.get("state") in STATE_CODES), None)
    if status is None:
        error = find_error(objects)
        is_older = ended.code == 2 and not objects
        return (
            judge_error(error)
            if error
            else Outcome("too old", 2, last_line(ended.err))
            if is_older
            else strange(ended)
        )
    told = {name: status.get(name) for name in TOLD}
    state = str(status["state"])
    if ended.code == 4:
        return Outcome("no vault", 4, shorten(status.get("dir") or ""), told)
    return Outcome(state, STATE_CODES[state], describe_state(status), told)


TOLD = (  # of a status, in --json
    "state", "since", "until", "name", "agent_npub", "secrets", "version", "proven",
    "waiting", "git", "replica", "warnings", "dir", "signer_npub", "custodian",
)  # fmt: skip


def describe_state(status: dict[str, Any]) -> str:
    """What there is to say of a state, on one line: what to be known first."""
    said = []
    waiting = status.get("waiting")
    if status["state"] == "waiting" and isinstance(waiting, dict):
        said.append(f"for the phone, code {status.get('code')}, since {waiting.get('since')}")
        said += [f"the signer says: {waiting['error']}"] if waiting.get("error") else []
    error = status.get("error")
    said += [str(error.get("message"))] if isinstance(error, dict) else []
    said += ["not proven"] if status.get("proven") is False else []
    git = status.get("git")
    if isinstance(git, dict) and git.get("hint"):
        said.append(f"git: {git.get('reason') or git.get('push_reason')}")
    replica = status.get("replica")
    if isinstance(replica, dict) and replica.get("problem"):
        said.append(f"replica: {replica['problem']}")
    warnings = status.get("warnings")
    said += [str(each) for each in warnings[:2]] if isinstance(warnings, list) else []
    return shorten("; ".join(said))


async def see_state(crew: Crew, host: Host, has_written: bool = False) -> Outcome:
    """The state of a host's vault."""
    return read_state(await crew.reach(host, command_line(host, "status", "--json")), has_written)


async def lock_host(crew: Crew, host: Host) -> Outcome:
    """Lock a host's vault. That it is, is read from its state afterwards, not taken for granted."""
    line = f"{command_line(host, 'lock', '--json')}; {command_line(host, 'status', '--json')}"
    ended = await crew.reach(host, line)
    state = read_state(ended, has_written=True)
    if state.word in ("locked", "stopped", "unpaired"):
        return Outcome(state.word, 0, state.note, state.fields)
    error = find_error(find_objects(ended.out))
    if state.word in STATE_CODES:
        if error:
            return judge_error(error)
        return Outcome(f"still {state.word}", 1, last_line(ended.err), state.fields)
    return state


async def examine_host(crew: Crew, host: Host) -> Outcome:
    """The health of a host's vault: doctor there, its clock against ours, whether it is proven."""
    words = ("doctor", "--offline", "--json")
    line = f"date +%s; {command_line(host, *words)}; {command_line(host, 'status', '--json')}"
    begun = time.time()
    ended = await crew.reach(host, line)
    state = read_state(ended)
    if state.word not in STATE_CODES:
        return state
    troubles = []
    clock = ahead_of(ended.out, begun)
    if clock is None:
        troubles.append("its clock is not known")
    elif abs(clock) > CLOCK_LIMIT:
        troubles.append(f"clock {abs(clock):.0f} s {'ahead' if clock > 0 else 'behind'}")
    troubles += ["not proven: avault drill there"] if state.fields["proven"] is False else []
    checks = next(
        (
            each["checks"]
            for each in find_objects(ended.out)
            if isinstance(each.get("checks"), list)
        ),
        None,
    )
    if checks is None:
        return Outcome("too old", 2, "it has no doctor that speaks JSON", state.fields)
    bad = [each for each in checks if isinstance(each, dict) and each.get("state") == "bad"]
    troubles += [shorten(f"{each.get('name')}: {each.get('text')}") for each in bad]
    fields = {**state.fields, "clock": clock, "bad": bad}
    if troubles:
        return Outcome(f"{len(troubles)} wrong", 1, "; ".join(troubles), fields)
    return Outcome("well", 0, state.word, fields)


def ahead_of(text: str, begun: float) -> float | None:
    """By how many seconds a host's clock is ahead of ours.

    0 if what it said may be right; None if it said nothing. It answered between `begun` and now.
    """
    said = next((line for line in text.splitlines() if line.isascii() and line.isdigit()), None)
    if said is None or len(said) > 12:
        return None
    if begun - 1 <= int(said) <= time.time() + 1:
        return 0.0
    return int(said) - (begun if int(said) < begun else time.time())


async def read_log(crew: Crew, host: Host, first: str) -> tuple[Outcome, list[dict[str, Any]]]:
    """A host's access log: its entries since a time (RFC 3339), and whether it vouches for them."""
    verify = command_line(host, "log", "--verify", "--json")
    line = f"{verify}; {command_line(host, 'log', '--json')}"
    ended = await crew.reach(host, line, most=MOST_OUTPUT)
    others: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    for number, each in enumerate(read_objects(ended.out), 1):
        if number % 1_000 == 0:
            await asyncio.sleep(0)  # a long log keeps no other host waiting
        if "op" not in each or "time" not in each:
            others += [each] if len(others) < MOST_OBJECTS else []
        elif str(each["time"]) >= first:
            entries.append(each)
    note = f"{len(entries):,} lines"
    if failed := judge_transport(ended):
        return failed, entries
    if any(each.get("intact") is True for each in others):
        return Outcome("whole", 0, note), entries
    error = find_error(others)
    if error and error["code"] in ("locked", "unavailable") and ended.code == 0:
        return Outcome("not verified", 0, f"{note}; the vault is not open"), entries
    if error:
        return judge_error(error), entries
    return strange(ended), entries


def render_clock(seconds: float | None) -> str:
    """How wrong a clock is, in short."""
    return "?" if seconds is None else "ok" if abs(seconds) <= CLOCK_LIMIT else f"{seconds:+.0f} s"


def as_text(value: object) -> str:
    """A field of a stranger's JSON in a cell; - for what is not there."""
    return "-" if value is None else printable(value, 24)
