"""avault fleet: many machines, over OpenSSH: the list of hosts, and how they are."""

from __future__ import annotations

import json
import shlex
import sys
import time
from typing import TYPE_CHECKING

from avault.cli.log import render_line
from avault.cli.status import render_age
from avault.errors import AvaultError, Denied, Usage
from avault.fleet.board import Board, stdout_height
from avault.fleet.desk_file import DeskFile
from avault.fleet.hosts import Host, add_hosts, check_host, fleet_file, parse_host, remove_hosts
from avault.fleet.looking import as_text, examine_host, read_log, render_clock, see_state
from avault.fleet.outcomes import Outcome
from avault.fleet.reaching import Crew
from avault.fleet.rounds import WHICH, Round, conclude, describe_outcome, go_round
from avault.hints import call
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import put, say
from avault.terminal.terminal import Terminal
from avault.terminal.words import parse_duration
from avault.vault.times import render_time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


STATUS_TITLES = (("FOR", 6), ("SECRETS", 7), ("VERSION", 9))
DOCTOR_TITLES = (("CLOCK", 8), ("VERSION", 9))
PAUSE = 5.0  # seconds between two looks of --watch
DOCTOR_DEADLINE = 60.0  # seconds


def status_cells(outcome: Outcome) -> Sequence[str]:
    """Since when, how many, which version."""
    try:
        begun = time.strptime(str(outcome.fields.get("since")), "%Y-%m-%dT%H:%M:%SZ")
        # Unix time of a UTC time, without a table of zones
        age = render_age(time.time() - (time.mktime(begun) - time.timezone))
    except (ValueError, OverflowError):
        age = "-"
    return age, as_text(outcome.fields.get("secrets")), as_text(outcome.fields.get("version"))


@command(
    "fleet add",
    argument("host", nargs=-1, required=True),
    option("--hosts", "file"),
    option("--vault"),
    option("--program"),
)
def cmd_fleet_add(
    terminal: Terminal,
    host: tuple[str, ...],
    file: str | None,
    vault: str | None,
    program: str | None,
) -> int:
    """usage: avault fleet add HOST… [--vault DIR] [--program PATH] [--hosts FILE]

    Puts hosts into the list of the fleet, as ssh takes them (web1, deploy@web1, a
    Host of ~/.ssh/config), and looks at them. --vault is the vault's directory
    there, if not the usual one; --program avault's command, if it is not on the
    PATH of a plain `ssh HOST avault`, as ~/.local/bin/avault. The list is a file
    of one host a line, to be edited and kept as you like: ~/.config/avault/fleet.

      avault fleet add web1 web2 deploy@db1
      avault fleet add bot7 --program '~/.local/bin/avault'
    """
    given = {"vault": vault, "program": program}
    said = shlex.join(f"{name}={text}" for name, text in given.items() if text is not None)
    hosts = [parse_host(f"{check_host(name)} {said}") for name in host]
    new = add_hosts(file, [each for each in hosts if each])
    say(f"{len(new)} of {len(host)} added to {file or fleet_file()}")
    if not new:
        return 0
    chosen = Round(False, file, (), False, 16, None)
    chosen.hosts = new
    board = status_board(terminal, new)
    go_round(chosen, board, see_state)
    conclude(terminal, board)
    return 0


def status_board(terminal: Terminal, hosts: list[Host]) -> Board:
    """The table of states."""
    return Board(hosts, STATUS_TITLES, status_cells, not terminal.want_json)


@command("fleet remove", argument("host", nargs=-1, required=True), option("--hosts", "file"))
def cmd_fleet_remove(terminal: Terminal, host: tuple[str, ...], file: str | None) -> int:
    """usage: avault fleet remove HOST… [--hosts FILE]

    Takes hosts out of the list of the fleet. Nothing is done there. One that this
    desk may open (avault fleet enroll) has to leave first: avault fleet leave.

      avault fleet remove web2
    """
    desk = DeskFile.load()
    for name in host:
        if desk and (group := desk.group_of(name)):
            leave = f"avault fleet leave --group {group} --only {name}"
            raise Denied(f"this desk may open {name}, which is in the group {group}", leave)
    gone = remove_hosts(file, list(host))
    say(f"{len(gone)} removed from the list; what is there stays as it is, open or locked")
    return 0


@command("fleet status", *WHICH, option("--watch", is_flag=True))
def cmd_fleet_status(terminal: Terminal, watch: bool, **which: Any) -> int:
    """usage: avault fleet status [--watch] [--hosts FILE] [--only PATTERN]… [--local]
                           [--jobs N] [--deadline D]

    The vaults of the fleet, each in a row: unlocked, waiting for the phone, locked,
    stopped; and hosts that are down, do not answer, have another host key than
    ssh knows, do not let us in, or have no avault or an older one. What went
    wrong stands last. Exit code 0: all are unlocked; 8: a host key is not right;
    else the code that all others have in common, or 1.

    ssh is used with your own configuration. Nothing is asked, and no host key is
    accepted. --only takes hosts by name (web*), --hosts another list; --local are
    your vaults on this machine. --jobs hosts are asked at once (16), and each has
    --deadline to answer (15s). --watch looks again every few seconds, until
    Ctrl-C. --json is one object, with an entry for each host.

      avault fleet status --only 'web*'
      avault fleet status --json | jq -r '.hosts[] | select(.ok | not) | .host'
    """
    chosen = Round(False, **which)
    if watch:
        watch_fleet(terminal, chosen)
    board = status_board(terminal, chosen.hosts)
    go_round(chosen, board, see_state)
    return conclude(terminal, board)


def watch_fleet(terminal: Terminal, chosen: Round) -> None:
    """Show the states whenever one changes, until Ctrl-C."""
    shown, call.farewell = "", ""
    is_screen = sys.stdout.isatty() and not terminal.want_json
    while True:
        board = Board(chosen.hosts, STATUS_TITLES, status_cells, is_shown=False)
        go_round(chosen, board, see_state)
        pairs = [(host, board.outcomes[host.label()]) for host in chosen.hosts]
        if terminal.want_json:
            rows = [describe_outcome(*pair) for pair in pairs]
            text = json.dumps({"hosts": rows}) + "\n"
        else:
            well = [pair for pair in pairs if not pair[1].code]
            blocks = [board.render(*pair) for pair in (*well, *board.failures())]
            lines = [board.head().rstrip(), *(line for block in blocks for line in block)]
            text = "".join(line + "\n" for line in (fit(lines) if is_screen else lines))
        if text != shown:
            put(("\x1b[H\x1b[2J" if is_screen else "") + text)
        shown = text
        time.sleep(PAUSE)


def fit(lines: list[str]) -> list[str]:
    """Lines as a screen has room for them: what went wrong, which is last, stays."""
    height = stdout_height() - 1
    if len(lines) <= height:
        return lines
    left = len(lines) - height + 1
    return [lines[0], f"… {left} more lines", *lines[left + 2 :]]


@command("fleet doctor", *WHICH)
def cmd_fleet_doctor(terminal: Terminal, **which: Any) -> int:
    """usage: avault fleet doctor [--hosts FILE] [--only PATTERN]… [--local] [--jobs N]
                           [--deadline D]

    What is wrong on each host, as found there with: avault doctor --offline; its
    clock against the one here, whether its vault is proven, and its version.
    Nothing is changed.
    Exit code 0: all is well. Each host has --deadline (60s).

      avault fleet doctor --only db1
    """

    def cells(outcome: Outcome) -> Sequence[str]:
        clock = outcome.fields.get("clock")
        return render_clock(clock), as_text(outcome.fields.get("version"))

    chosen = Round(False, **which, usual=DOCTOR_DEADLINE)
    board = Board(chosen.hosts, DOCTOR_TITLES, cells, not terminal.want_json)
    go_round(chosen, board, examine_host)
    code = conclude(terminal, board)
    versions = {
        str(outcome.fields["version"])
        for outcome in board.outcomes.values()
        if outcome.fields.get("version")
    }
    if len(versions) > 1:
        say(f"warning: {len(versions)} versions: {', '.join(map(as_text, sorted(versions)))}")
    for label, group in sorted(find_laggards().items()):
        say(
            f"warning: an older key of this desk may open {label}: avault fleet unlock --together"
            f" --group {group}, once it is locked"
        )
    return code


def find_laggards() -> dict[str, str]:
    """Hosts that an older key of this desk may open, by their group; none of a damaged file."""
    try:
        desk = DeskFile.load()
    except AvaultError as error:
        say(f"warning: {error.message}")
        return {}
    return desk.laggards() if desk else {}


@command("fleet log", *WHICH, option("--since", default="1d"))
def cmd_fleet_log(terminal: Terminal, since: str, **which: Any) -> int:
    """usage: avault fleet log [--since D] [--hosts FILE] [--only PATTERN]… [--local]
                        [--jobs N] [--deadline D]

    The access logs of the fleet as one, by time, each line with its host: of the
    last day, or since D (90s, 5m, 8h, 7d). Each host with an open vault verifies
    its own log first; of the others it is said that it was not verified. Exit
    code 8: one was changed.

      avault fleet log --since 7d | grep stripe/
    """
    age = parse_duration(since)
    if not age:
        raise Usage("--since takes more than nothing", "--since 8h")
    first = render_time(time.time() - age)
    chosen = Round(False, **which, usual=60.0)
    board = Board(chosen.hosts, is_shown=False)
    found: list[tuple[str, str, dict[str, Any]]] = []

    async def look(crew: Crew, host: Host) -> Outcome:
        outcome, entries = await read_log(crew, host, first)
        found.extend((str(entry["time"]), host.label(), entry) for entry in entries)
        return outcome

    go_round(chosen, board, look)
    # those of a second stay in the order in which their host has them
    found.sort(key=lambda each: each[0])
    if terminal.want_json:
        lines = [{"host": label, **entry} for _, label, entry in found]
        return conclude(terminal, board, lines=lines)
    for _, label, entry in found:
        line = render_line(json.dumps(entry).encode())
        put(f"{label.ljust(board.host_width)}  {line}\n")
    for host in chosen.hosts:
        outcome = board.outcomes[host.label()]
        if outcome.word != "whole":
            say(f"{host.label()}: {outcome.word}: {outcome.note}")
    return conclude(terminal, board)
