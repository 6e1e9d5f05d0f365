"""avault fleet enroll, unlock --together, leave: one approval of the phone for many machines."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from avault.cli.fleet_pairing import DESK_LIMIT, MEETING, Meeting
from avault.errors import Denied, NotFound, Usage, printable
from avault.fleet.board import Board
from avault.fleet.desk_file import MOST_TOGETHER, DeskFile, DeskLock
from avault.fleet.hosts import Host
from avault.fleet.looking import see_state
from avault.fleet.opening import Together, name_desk
from avault.fleet.outcomes import NOT_DONE, Outcome
from avault.fleet.reaching import Crew
from avault.fleet.rounds import (
    WHICH,
    Round,
    ask_all,
    conclude,
    go_round,
    run_shown,
    try_host,
)
from avault.fleet.together import (
    derive_key,
    leave_host,
    let_in,
    look_at_host,
    make_fleet_key,
)
from avault.keys.hardening import harden
from avault.keys.nostr import parse_npub
from avault.keys.seal import CODE_LETTERS
from avault.terminal.commands import command, option
from avault.terminal.talk import confirm, say
from avault.vault.names import check_operator

if TYPE_CHECKING:
    from typing import Any

    from avault.terminal.terminal import Terminal

MEANING_OF_TOGETHER = """\
  ONE approval on the phone then opens all machines of the group, from this desk.
    One careless tap opens them all.
    What runs on this desk as you at that moment gets the key of each; it has your ssh, and so
    their disks, already.
    This desk asks the phone by a key of its own, which lies on its disk: keep its disk encrypted.
  Each machine's phone is asked now, once, whether that is meant. At most 20 machines are a group.
"""


def hear_code(line: str) -> None:
    """Show the code of what a host says that it asks, and nothing else of what it says."""
    code = line.partition("asking the phone, code ")[2][:4]
    if len(code) == 4 and {*code} <= {*CODE_LETTERS}:
        say(f"the phone shows the code {code}")


@command(
    "fleet enroll", *WHICH, option("--group", default="fleet"), option("--yes", is_flag=True),
    *MEETING,
)  # fmt: skip
def cmd_fleet_enroll(
    terminal: Terminal,
    group: str,
    yes: bool,
    bunker: str | None,
    relays: tuple[str, ...],
    qr: str | None,
    label: str | None,
    no_drill: bool,
    **which: Any,
) -> int:
    """usage: avault fleet enroll [--group NAME] [--yes] [--relay URL]… [--qr FILE.png]
                           [--bunker URI|-] [--label NAME] [--no-drill] [--hosts FILE]
                           [--only PATTERN]… [--local] [--jobs N] [--deadline D]

    Lets this desk open the hosts of a group together, by one approval: see avault
    fleet unlock. It says what that means, and asks (--yes does not).
    Each host has to be open, and its phone agrees once, one after another; each
    has --deadline for that (2m). The first time the desk is paired with the
    signer before that, by a QR code or a bunker:// URI: see avault fleet pair,
    also for the other options. A group has at most 20.

      avault fleet enroll --only 'web*'
    """
    with DeskLock():
        harden("avault-desk")
        name = name_desk(check_operator(group))
        meeting = Meeting(terminal, bunker, relays, qr, label, no_drill)
        chosen = Round(True, **which, usual=DESK_LIMIT)
        desk, labels = DeskFile.load(), {host.label() for host in chosen.hosts}
        count = len(labels | (desk.members(group) if desk else set()))
        if count > MOST_TOGETHER:
            raise Usage(
                f"{count} machines; a group has at most {MOST_TOGETHER}",
                "another group: --group NAME --only PATTERN",
            )
        for line in MEANING_OF_TOGETHER.splitlines():
            say(line)
        if not yes and not confirm(f"avault: let this desk open {len(chosen.hosts)} together?"):
            raise Denied("not confirmed; nothing was changed", "avault fleet enroll --yes")
        board = Board(chosen.hosts, is_shown=not terminal.want_json)
        if not desk or meeting.is_wanted:
            # looked at before: no phone is paired for machines of which none can be let in
            first = Board(chosen.hosts, is_shown=False)
            go_round(chosen, first, see_state)
            if all(outcome.code for outcome in first.outcomes.values()):
                first.is_shown = board.is_shown
                return conclude(terminal, first)
            desk = meeting.pair(desk, find_operators(first))
        run_shown(board, enroll_all(desk, chosen, board, group, name))
        return conclude(terminal, board)


def find_operators(board: Board) -> set[str]:
    """Whose the hosts are that are open (hex), as they say themselves."""
    found = set[str]()
    for outcome in board.outcomes.values():
        with contextlib.suppress(Usage):
            if not outcome.code:
                found.add(parse_npub(str(outcome.fields.get("signer_npub"))))
    return found


async def enroll_all(desk: DeskFile, chosen: Round, board: Board, group: str, name: str) -> None:
    """Have each host let the desk in; what is not done stays as it was."""
    crew, first = chosen.crew(), Board(chosen.hosts, is_shown=False)

    async def look(crew: Crew, host: Host) -> Outcome:
        return await look_at_host(crew, host, name)

    await ask_all(crew, chosen.hosts, first, look)
    ready: dict[Host, str] = {}
    for host in chosen.hosts:
        state = first.outcomes[host.label()]
        if problem := refuse_member(desk, host, state, group):
            board.show(host, problem)
            continue
        agent = parse_npub(str(state.fields["agent_npub"]))
        if desk.is_let_in(group, host.label(), agent, state.fields.get("key")):
            board.show(host, Outcome("enrolled", 0, "it was already: its phone is not asked"))
        else:
            ready[host] = agent
    for host, problem in refuse_twice(desk, ready).items():
        board.show(host, problem)
        del ready[host]
    if not ready:
        return
    fleet, kept, _ = make_fleet_key(desk, group, {host.label(): ready[host] for host in ready})
    desk.groups[group] = [kept, *desk.groups.get(group, [])]
    desk.save()  # before a machine knows it: what is on no machine is forgotten later
    for number, (host, agent) in enumerate(ready.items(), 1):
        board.clear()
        say(f"{number} of {len(ready)}: approve {printable(host.label())} on the phone")
        keys = derive_key(fleet, kept["hosts"][host.label()]["salt"], agent)

        async def join(crew: Crew, host: Host, keys: Any = keys, agent: str = agent) -> Outcome:
            return await let_in(crew, host, name, desk, keys, agent, hear_code)

        outcome = await try_host(crew, host, join)
        if not outcome.code:
            desk.forget(host.label(), kept)
        elif outcome.word in NOT_DONE:
            kept["hosts"].pop(host.label())
        desk.save()
        board.show(host, outcome)


def refuse_member(desk: DeskFile, host: Host, state: Outcome, group: str) -> Outcome | None:
    """Why a host cannot be let in; None where it can."""
    if state.code:
        return state
    if desk.group_of(host.label()) not in (None, group):
        said = f"it is in the group {desk.group_of(host.label())}: avault fleet leave"
        return Outcome("refused", 5, said)
    try:
        operator = parse_npub(str(state.fields.get("signer_npub")))
        parse_npub(str(state.fields.get("agent_npub")))
    except Usage:
        return Outcome("no sense", 1, "it does not say whose it is")
    if operator != desk.operator:
        said = "another operator's phone opens it: enroll it from their desk"
        return Outcome("refused", 5, said)
    return None


def refuse_twice(desk: DeskFile, ready: dict[Host, str]) -> dict[Host, Outcome]:
    """The hosts that say they have the agent of another one: nobody can tell who has it."""
    agents = {**desk.agents(), **{host.label(): agent for host, agent in ready.items()}}
    found = {}
    for host, agent in ready.items():
        others = [each for each in agents if each != host.label() and agents[each] == agent]
        if others:
            said = f"it says that its vault is that of {printable(', '.join(others))} too:"
            said += " they are one machine, or copies of one vault, or one of them lies"
            found[host] = Outcome("refused", 5, said)
    return found


def unlock_together(terminal: Terminal, chosen: Round, group: str, limit: float) -> int:
    """Open the locked machines of a group, by one approval for each key; the exit code."""
    with DeskLock():
        harden("avault-desk")
        desk = DeskFile.need()
        desk.keys_of(group)
        members = desk.members(group)
        chosen.hosts = [host for host in chosen.hosts if host.label() in members]
        if not chosen.hosts:
            raise NotFound(f"no host of the list is in the group {group}", "avault fleet enroll")
        board = Board(chosen.hosts, is_shown=not terminal.want_json)
        run_shown(board, Together(desk, chosen, board, group, limit).run())
        left = desk.laggards().keys() & members
        if left:
            shown = ", ".join(sorted(map(printable, left)))
            say(f"an older key opens {len(left)} of them, for which it asks separately: {shown}")
        return conclude(terminal, board)


@command("fleet leave", *WHICH, option("--group", default="fleet"), option("--yes", is_flag=True))
def cmd_fleet_leave(terminal: Terminal, group: str, yes: bool, **which: Any) -> int:
    """usage: avault fleet leave [--group NAME] [--yes] [--hosts FILE] [--only PATTERN]…
                          [--local] [--jobs N] [--deadline D]

    Has the hosts of a group not be opened by this desk any more: what its key
    opens is taken away there, and this desk forgets them. A host that is not
    reached stays in the group. --yes does not ask.

      avault fleet leave --only web2
    """
    with DeskLock():
        desk = DeskFile.need()
        desk.keys_of(group)
        chosen, members = Round(True, **which), desk.members(group)
        chosen.hosts = [host for host in chosen.hosts if host.label() in members]
        if not chosen.hosts:
            raise NotFound(f"no host of the list is in the group {group}", "avault fleet status")
        if not yes and not confirm(f"avault: take this desk's key away on {len(chosen.hosts)}?"):
            raise Denied("not confirmed; nothing was changed", "avault fleet leave --yes")
        board = Board(chosen.hosts, is_shown=not terminal.want_json)

        async def leave(crew: Crew, host: Host) -> Outcome:
            outcome = await leave_host(crew, host, name_desk(group))
            if not outcome.code:
                desk.forget(host.label())
            return outcome

        run_shown(board, ask_all(chosen.crew(), chosen.hosts, board, leave))
        desk.save()
        return conclude(terminal, board)
