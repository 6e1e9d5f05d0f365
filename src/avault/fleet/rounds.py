"""A round through the fleet: which hosts, how many at once, and what is said at the end."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from avault.errors import Usage
from avault.fleet.board import Board
from avault.fleet.hosts import Host, choose_hosts, local_vaults, read_hosts
from avault.fleet.outcomes import NEXT, Outcome, count_words, judge_all
from avault.fleet.reaching import HOSTS_AT_ONCE, Crew
from avault.terminal.commands import option
from avault.terminal.talk import put, say
from avault.terminal.terminal import Terminal
from avault.terminal.words import parse_duration

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from typing import Any

    HostWork = Callable[["Crew", "Host"], Awaitable["Outcome"]]


WHICH = (  # the options of every command that goes round
    option("--hosts", "file"),
    option("--only", "patterns", multiple=True),
    option("--local", is_flag=True),
    option("--jobs", type=int, default=HOSTS_AT_ONCE),
    option("--deadline"),
)
MOST_JOBS = 256
DEADLINE = 15.0  # seconds for a host
WIRE = "what came makes no sense"


class Round:
    """Which hosts a command is about, and how it reaches them.

    `all` are those of the list, `hosts` those that were chosen; `deadline` is in seconds.
    """

    def __init__(
        self,
        is_fresh: bool,
        file: str | None,
        patterns: tuple[str, ...],
        local: bool,
        jobs: int,
        deadline: str | None,
        usual: float = DEADLINE,
    ) -> None:
        if local and file is not None:
            raise Usage("--local and --hosts exclude each other")
        if not 0 < jobs <= MOST_JOBS:
            raise Usage(f"--jobs takes 1 to {MOST_JOBS}", "--jobs 16")
        if any(not each.strip(", ") for each in patterns):
            # an empty variable of a shell: never all of them
            raise Usage("--only names no host", "--only 'web*'")
        self.all = local_vaults() if local else read_hosts(file)
        names = [name for each in patterns for name in each.split(",") if name]
        self.hosts = choose_hosts(self.all, names)
        self.deadline = parse_duration(deadline) or usual
        self.jobs, self.is_fresh = jobs, is_fresh

    def crew(self) -> Crew:
        """What reaches them; for one event loop."""
        return Crew(self.hosts, self.deadline, self.jobs, self.is_fresh)


async def try_host(crew: Crew, host: Host, work: HostWork) -> Outcome:
    """What comes of a host. Whatever it said, it is the end of nothing else."""
    try:
        return await work(crew, host)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, RecursionError):
        return Outcome("no sense", 1, WIRE)
    except OSError as error:
        return Outcome("failed", 1, f"ssh could not be started: {error.strerror}")


async def ask_all(crew: Crew, hosts: Sequence[Host], board: Board, work: HostWork) -> None:
    """Do something with hosts, many at once; the board has what came of each."""

    async def one(host: Host) -> None:
        board.show(host, await try_host(crew, host, work))

    board.wait()
    async with asyncio.TaskGroup() as group:
        for host in hosts:
            group.create_task(one(host))


def run_shown(board: Board, work: Coroutine[Any, Any, Any]) -> Any:
    """Run this to its end. Ctrl-C ends what is under way; what is known is shown."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        board.finish()
        raise


def go_round(
    chosen: Round, board: Board, work: HostWork, hosts: Sequence[Host] | None = None
) -> None:
    """Do something with all hosts that were chosen, or with these of them."""

    async def run() -> None:
        await ask_all(chosen.crew(), chosen.hosts if hosts is None else hosts, board, work)

    run_shown(board, run())


def describe_outcome(host: Host, outcome: Outcome) -> dict[str, Any]:
    """A host in --json."""
    told = {"ok": not outcome.code, "word": outcome.word, "code": outcome.code}
    return {"host": host.label(), **told, "note": outcome.note, **outcome.fields}


def conclude(terminal: Terminal, board: Board, code: int | None = None, **more: Any) -> int:
    """Say how many, and what to do about the others; the exit code, which may be given."""
    outcomes = board.finish()
    code = judge_all(outcomes) if code is None else code
    if terminal.want_json:
        rows = [
            describe_outcome(host, board.outcomes[host.label()])
            for host in board.hosts
            if host.label() in board.outcomes
        ]
        told = {"ok": not code, "code": code, "hosts": rows, **more}
        # all but ASCII is escaped: what a host said may drive the terminal that shows it
        put(json.dumps(told, indent=2) + "\n")
    failed = [outcome for outcome in outcomes if outcome.code]
    others = count_words(outcome for outcome in outcomes if not outcome.code)
    if failed:
        besides = f"; the others: {others}" if others else ""
        say(f"error: {len(failed)} of {len(board.hosts)}: {count_words(failed)}{besides}")
    else:
        say(others)
    seen = dict.fromkeys(outcome.word for outcome in outcomes if outcome.code)
    for word in seen:
        if word in NEXT:
            say(f"hint: {word}: {NEXT[word]}")
    return code
