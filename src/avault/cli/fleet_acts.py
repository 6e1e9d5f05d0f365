"""avault fleet: what is done on many machines: lock, unlock, set, rotate, run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from avault.cli.fleet_together import unlock_together
from avault.cli.secrets import read_value
from avault.errors import Denied, NotFound, Usage, printable
from avault.fleet.board import Board
from avault.fleet.giving import Gift, last_error
from avault.fleet.hosts import Host
from avault.fleet.looking import lock_host, read_state, see_state
from avault.fleet.outcomes import (
    Outcome,
    find_error,
    find_objects,
    judge_asking,
    judge_error,
    judge_transport,
)
from avault.fleet.reaching import MOST_OUTPUT, Crew, Ended, command_line
from avault.fleet.rounds import WHICH, Round, ask_all, conclude, go_round, run_shown, try_host
from avault.hints import EXIT_CODES
from avault.keys.seal import CODE_LETTERS
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import confirm, is_person, put, say, warn
from avault.terminal.terminal import Terminal
from avault.terminal.words import parse_duration, split_name
from avault.vault.names import check_value

if TYPE_CHECKING:
    from typing import Any

ASKED = ("locked", "waiting", "stopped", "starting")  # states that the phone can end
RUN_DEADLINE = 300.0  # seconds for a command
RESTART_TIME = 60.0  # seconds for what restarts


@command("fleet lock", *WHICH)
def cmd_fleet_lock(terminal: Terminal, **which: Any) -> int:
    """usage: avault fleet lock [--hosts FILE] [--only PATTERN]… [--local] [--jobs N]
                         [--deadline D]

    Locks all vaults of the fleet, everywhere at once, and looks whether they are.
    A host that was not reached is a failure, and stands last: it may be open.
    Exit code 0: none is open.

      avault fleet lock
    """
    chosen = Round(True, **which)
    board = Board(chosen.hosts, is_shown=not terminal.want_json)
    go_round(chosen, board, lock_host)
    return conclude(terminal, board)


@command(
    "fleet unlock", *WHICH, option("--timeout", default="2m"),
    option("--together", is_flag=True), option("--group", default="fleet"),
)  # fmt: skip
def cmd_fleet_unlock(
    terminal: Terminal, timeout: str, together: bool, group: str, **which: Any
) -> int:
    """usage: avault fleet unlock [--timeout D] [--together [--group NAME]] [--hosts FILE]
                           [--only PATTERN]… [--local] [--jobs N] [--deadline D]

    Has the locked vaults of the fleet ask the phone, strictly one after another,
    so that it never shows two questions at once. Each host waits for --timeout
    (2m). One that is refused, or not answered, is passed over; Ctrl-C ends the
    asking, and a host that is asking then asks until its time is over. --deadline
    is for the look at all hosts before.

    --together opens the hosts of a group by ONE approval, which this desk asks
    for: see avault fleet enroll. Then each gets the desk's next key; one that is
    not reached stays with the one before, and is asked for separately.

      avault fleet unlock --only 'web*'
      avault fleet unlock --together
    """
    limit = parse_duration(timeout)
    if not limit:
        raise Usage("--timeout takes more than nothing", "--timeout 2m")
    chosen = Round(True, **which)
    if together:
        return unlock_together(terminal, chosen, group, limit)
    board = Board(chosen.hosts, is_shown=not terminal.want_json)

    async def run() -> None:
        crew = chosen.crew()
        first = Board(chosen.hosts, is_shown=False)
        await ask_all(crew, chosen.hosts, first, see_state)
        states = [(host, first.outcomes[host.label()]) for host in chosen.hosts]
        asked = [host for host, state in states if state.word in ASKED]
        for host, state in states:
            if state.word not in ASKED:
                board.show(host, state)
        for number, host in enumerate(asked, 1):
            board.clear()
            say(f"{number} of {len(asked)}: approve {printable(host.label())} on the phone")

            async def open_it(crew: Crew, host: Host) -> Outcome:
                return await unlock_host(crew, host, limit)

            board.show(host, await try_host(crew, host, open_it))

    run_shown(board, run())
    return conclude(terminal, board)


async def unlock_host(crew: Crew, host: Host, limit: float) -> Outcome:
    """Have a host ask the phone, for so many seconds; its state afterwards, or why it is not."""
    is_told = False

    def hear(line: str) -> None:
        nonlocal is_told
        # one code, and nothing else: what a host says besides could pass for ours, or for another's
        code = line.partition("asking the phone, code ")[2][:4]
        if not is_told and len(code) == 4 and {*code} <= {*CODE_LETTERS}:
            is_told = True
            say(f"the phone shows the code {code}")

    # a program has to wait after a refusal; a person who types this does not
    again = ["--again"] if is_person() else []
    words = ("unlock", "--timeout", f"{int(limit)}s", *again, "--json")
    line = f"{command_line(host, *words)}; {command_line(host, 'status', '--json')}"
    ended = await crew.reach(host, line, None, limit + crew.deadline, hear)
    state = read_state(ended)
    error = find_error(find_objects(ended.out))
    return judge_asking(error) if error and state.word in ASKED else state


@command("fleet set", argument("group"), *WHICH, option("--key"))
def cmd_fleet_set(terminal: Terminal, group: str, key: str | None, **which: Any) -> int:
    """usage: avault fleet set GROUP --key KEY [--hosts FILE] [--only PATTERN]… [--local]
                        [--jobs N] [--deadline D]

    Keeps a secret on all hosts of the fleet, or those of --only. The value comes
    from stdin, or once from a prompt without echo. Each host is looked at first;
    one that has it already is not written. It goes through ssh's stdin, over a
    connection of its own, never in a command line; the host answers when it is on
    its disk, and is then asked to compare. After a failure, the same command
    again gives it to those that do not have it. GROUP/KEY is short for GROUP
    --key KEY.

      pass show openai | avault fleet set openai/API_KEY --only 'web*'
    """
    chosen, gift = take_gift("avault fleet set GROUP/API_KEY", group, key, which)
    board = Board(chosen.hosts, is_shown=not terminal.want_json)
    go_round(chosen, board, gift.give)
    return conclude(terminal, board)


def take_gift(hint: str, group: str, key: str | None, which: dict[str, Any]) -> tuple[Round, Gift]:
    """The hosts and the value of `set` and `rotate`: what is wrong is said before it is typed."""
    group, key = split_name(group, key)
    if key is None:
        raise Usage("no key is named", hint)
    chosen = Round(True, **which)
    return chosen, Gift(group, key, check_value(read_value(group, key, None, None)))


@command(
    "fleet rotate", argument("group"), *WHICH, option("--key"), option("--restart"),
    option("--yes", is_flag=True),
)  # fmt: skip
def cmd_fleet_rotate(
    terminal: Terminal, group: str, key: str | None, restart: str | None, yes: bool, **which: Any
) -> int:
    """usage: avault fleet rotate GROUP --key KEY [--restart CMD] [--yes] [--hosts FILE]
                           [--only PATTERN]… [--local] [--jobs N] [--deadline D]

    Gives the new value of a secret to every host of the fleet that has it. First
    all are looked at: if one cannot be reached, or is not open, nothing is
    changed. Then each gets it, as with `fleet set`, runs the shell command CMD,
    which restarts what uses it, and is asked to compare again. A host that never
    had the secret is not given it.

    That a host has the secret is the host's own word: one that was taken over can
    say so of any secret, and gets the value. So the hosts are shown before it is
    sent; who types it on a terminal is asked, unless --yes. For a value from a
    pipe nothing is asked: there, list the hosts that are meant, with --hosts.

    The last line says whether the old value can be revoked where it was issued:
    "42 of 42 have it: revoke the old one", or "3 do not: DO NOT revoke". It
    counts the whole list, also what --only leaves out. Exit code 0 only then.

      avault fleet rotate stripe/SECRET_KEY --restart 'systemctl --user restart shop'
    """
    if restart is not None and not restart.strip():
        raise Usage("--restart names no command", "--restart 'systemctl --user restart shop'")
    chosen, gift = take_gift("avault fleet rotate GROUP/API_KEY", group, key, which)
    board = Board(chosen.hosts, is_shown=not terminal.want_json)
    ready = Board(chosen.hosts, is_shown=False)
    begun = False

    async def rotate(crew: Crew, host: Host) -> Outcome:
        state = ready.outcomes[host.label()]
        return await gift.rotate(crew, host, state, restart, RESTART_TIME)

    try:
        go_round(chosen, ready, gift.prepare)
        if any(outcome.code for outcome in ready.outcomes.values()):
            return tell_not_begun(terminal, ready)
        having = [host for host in chosen.hosts if ready.outcomes[host.label()].fields["has"]]
        show_receivers(gift, having, yes)
        for host in chosen.hosts:
            if host not in having:
                board.show(host, ready.outcomes[host.label()])
        begun = True
        go_round(chosen, board, rotate, having)
    except KeyboardInterrupt:
        have = sum(not outcome.code and not is_none(outcome) for outcome in board.outcomes.values())
        known = (
            f"{have} of {len(chosen.all)} are known to have it" if begun else "nothing was changed"
        )
        put(f"stopped; {known}: DO NOT revoke the old one\n")
        raise
    code, verdict = judge_rotation(chosen, board, ready)
    code = conclude(terminal, board, code, verdict=verdict)
    if restart is None and not code:
        warn(
            "programs that run have the old value until they are restarted",
            "restart them now; the next time: --restart CMD",
        )
    if not terminal.want_json:
        put(verdict + "\n")
    return code


def show_receivers(gift: Gift, having: list[Host], yes: bool) -> None:
    """Show which hosts are to get a value, as they say that they have it; a person is asked.

    Raises NotFound where there is none, Denied.
    """
    if not having:
        raise NotFound(f"no host has {gift.name}", f"avault fleet set {gift.name}")
    count = f"{len(having)} host{'' if len(having) == 1 else 's'}"
    labels = ", ".join(printable(host.label()) for host in having)
    say(f"the new {gift.name} goes to {count}, by what they say of themselves: {labels}")
    if not yes and is_person() and not confirm("avault: are these all, and no others?"):
        raise Denied(
            "not confirmed; nothing was changed: do not revoke the old one",
            f"list those that are meant: avault fleet rotate {gift.name} --hosts FILE",
        )


def tell_not_begun(terminal: Terminal, ready: Board) -> int:
    """Say that nothing was changed, as not all hosts are ready."""
    ready.is_shown = not terminal.want_json
    count = sum(bool(outcome.code) for outcome in ready.outcomes.values())
    verdict = f"nothing was changed, as {count} of {len(ready.hosts)} are not ready: DO NOT revoke"
    worst = max(outcome.code for outcome in ready.outcomes.values())
    code = conclude(terminal, ready, 8 if worst == 8 else 1, verdict=verdict)
    if not terminal.want_json:
        put(verdict + "\n")
    return code


def judge_rotation(chosen: Round, board: Board, ready: Board) -> tuple[int, str]:
    """The exit code and the last line of `rotate`."""
    none = [host for host in chosen.hosts if not ready.outcomes[host.label()].fields.get("has")]
    meant = len(chosen.all) - len(none)
    outcomes = [board.outcomes.get(host.label()) for host in chosen.hosts if host not in none]
    have = sum(outcome is not None and not outcome.code for outcome in outcomes)
    left = len(chosen.all) - len(chosen.hosts)
    if have == meant:
        return 0, f"{have} of {meant} have it: revoke the old one"
    besides = f", {left} of them left out" if left else ""
    is_tampered = any(outcome and outcome.code == 8 for outcome in outcomes)
    verb = "does" if meant - have == 1 else "do"
    verdict = f"{have} of {meant} have it, {meant - have} {verb} not{besides}: DO NOT revoke"
    return 8 if is_tampered else 1, f"{verdict} the old one"


def is_none(outcome: Outcome) -> bool:
    """Whether it is that of a host that never had the secret."""
    return outcome.fields.get("has") is False


@command(
    "fleet run", *WHICH, option("--group", "groups", multiple=True),
    argument("words", nargs=-1, required=True), interspersed=False,
)  # fmt: skip
def cmd_fleet_run(
    terminal: Terminal, groups: tuple[str, ...], words: tuple[str, ...], **which: Any
) -> int:
    """usage: avault fleet run [--group G]… [--hosts FILE] [--only PATTERN]… [--local]
                        [--jobs N] [--deadline D] -- CMD…

    Runs a command with secrets on each host, as `avault run` there does: with
    those of --group, else with what avault.env names, or all. What it prints is
    masked there, and each line is printed here behind its host's name when the
    command has ended. A host has --deadline (5m); after that the command may
    still run there. Exit code 0: it ended with 0 everywhere. Its words are seen
    by who looks at processes there: never write a value among them.

      avault fleet run --group stripe -- ./check-balance
    """
    chosen = Round(True, **which, usual=RUN_DEADLINE)
    board = Board(chosen.hosts, is_shown=False)

    async def work(crew: Crew, host: Host) -> Outcome:
        options = [word for group in groups for word in ("--group", group)]
        line = command_line(host, "run", *options, "--", *words)
        ended = await crew.reach(host, line, most=MOST_OUTPUT, is_once=True)
        outcome = judge_run(ended)
        if not terminal.want_json and ended.begun:  # else ssh failed; its message is in the summary
            print_output(board, host, ended.out, ended.err)
        fields = {"stdout": ended.out, "stderr": ended.err, "exit": ended.code}
        return Outcome(outcome.word, outcome.code, outcome.note, fields)

    go_round(chosen, board, work)
    if not terminal.want_json:
        for host, outcome in board.failures():
            say(f"{host.label()}: {outcome.word}: {outcome.note}")
    return conclude(terminal, board)


def judge_run(ended: Ended) -> Outcome:
    """The outcome of a command that ended, that avault did not run, or that nobody knows of."""
    is_avault = "avault: error: " in ended.err
    if ended.code in (None, 255) or ended.code < 0 or (ended.code == 127 and not is_avault):
        found = judge_transport(ended, has_written=True)
        return found or Outcome("failed", 1)
    kind = next((name for name, number in EXIT_CODES.items() if number == ended.code), "usage")
    if is_avault and kind != "usage":
        return judge_error({"code": kind, "message": last_error(ended.err), "hint": ""})
    if ended.code:
        return Outcome("failed", 1, f"exit code {ended.code}: {last_error(ended.err)}")
    return Outcome("done")


def print_output(board: Board, host: Host, out: str, err: str) -> None:
    """What a command printed, each line behind its host's name; escaped for a terminal."""
    name = host.label().ljust(board.host_width)
    for line in out.splitlines():
        put(f"{name}  {printable(line, 100_000)}\n")
    for line in err.splitlines():
        sys.stderr.write(f"{name}  {printable(line, 100_000)}\n")
    sys.stderr.flush()
