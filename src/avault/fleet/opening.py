"""A group of machines opened together: by one approval for each of their keys, which turns then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.errors import AvaultError, printable
from avault.fleet.board import Board
from avault.fleet.desk_file import PAIR_ANEW, DeskFile
from avault.fleet.hosts import Host
from avault.fleet.outcomes import Outcome, judge_asking
from avault.fleet.reaching import Crew
from avault.fleet.rounds import Round, ask_all
from avault.fleet.together import (
    DeskSigner,
    derive_key,
    look_at_host,
    make_fleet_key,
    open_host,
    sign_next,
    turn_host,
)
from avault.keys.seal import request_code
from avault.signer.question import NOT_PAIRED, says_any
from avault.terminal.talk import say

if TYPE_CHECKING:
    from typing import Any

NOT_ASKED = "not asked: the one before it was not opened"
LOCKED_STATES = ("locked", "waiting", "stopped", "starting", "unpaired")


def name_desk(group: str) -> str:
    """What a machine calls the custodian that a desk is to it."""
    return f"desk-{group}"


class Together:
    """One unlocking of a group: looked at, asked for, opened, and its key turned."""

    def __init__(
        self, desk: DeskFile, chosen: Round, board: Board, group: str, limit: float
    ) -> None:
        self.desk, self.chosen, self.board = desk, chosen, board
        self.group, self.name, self.limit = group, name_desk(group), limit
        self.opened: dict[str, tuple[dict[str, Any], str]] = {}  # by label: which key, and itself

    async def run(self) -> None:
        """See the class."""
        crew = self.chosen.crew()
        first = Board(self.chosen.hosts, is_shown=False)

        async def look(crew: Crew, host: Host) -> Outcome:
            return await look_at_host(crew, host, self.name)

        await ask_all(crew, self.chosen.hosts, first, look)
        self.open_hosts: list[Host] = []
        waiting: dict[int, list[Host]] = {}
        for host in self.chosen.hosts:
            state = first.outcomes[host.label()]
            number = self.find_key(host, state.fields.get("key"))
            if state.word not in (*LOCKED_STATES, "unlocked"):
                self.board.show(host, state)
            elif number is None:
                label = printable(host.label())
                note = f"this desk has no key for it: avault fleet enroll --only {label}"
                self.board.show(host, Outcome("not enrolled", 5, note))
            elif state.word == "unlocked":
                self.board.show(host, state)
                self.open_hosts.append(host)
            else:
                waiting.setdefault(number, []).append(host)
        kept = [*self.desk.keys_of(self.group)]
        for place, number in enumerate(sorted(waiting), 1):
            which = f"{place} of {len(waiting)}: " if len(waiting) > 1 else ""
            if not await self.open_with(crew, kept[number], waiting[number], which):
                for later in [each for each in sorted(waiting) if each > number]:
                    for host in waiting[later]:
                        self.board.show(host, Outcome("locked", 3, NOT_ASKED))
                break
        await self.turn(crew)

    def find_key(self, host: Host, public: object) -> int | None:
        """Which of the group's keys opens a host, by what it says of itself; that is noted."""
        for number, key in enumerate(self.desk.keys_of(self.group)):
            mine = key["hosts"].get(host.label())
            if mine and mine["key"] == public:
                self.desk.forget(host.label(), key)
                return number
        return None

    async def open_with(
        self, crew: Crew, kept: dict[str, Any], hosts: list[Host], which: str
    ) -> bool:
        """Ask the phone for a key, and open hosts with it; False where it was not given.

        `which` of several askings it is, as it is said.
        """
        self.board.clear()
        code = request_code(kept["peer"])
        say(f"{which}approve {len(hosts)} of {self.group} on the phone, ONE approval, code {code}")
        try:
            async with DeskSigner(self.desk, self.limit) as signer:
                fleet = await signer.open_key(kept)
        except AvaultError as error:
            told = error.to_dict()["error"]
            if says_any(error.message, NOT_PAIRED):
                told["message"] += f"; if this desk is gone from the app: {PAIR_ANEW}"
            outcome = judge_asking(
                {name: told.get(name) or "" for name in ("code", "message", "hint")}
            )
            for host in hosts:
                self.board.show(host, outcome)
            return False

        async def open_it(crew: Crew, host: Host) -> Outcome:
            mine = kept["hosts"][host.label()]
            keys = derive_key(fleet, mine["salt"], mine["agent"])
            return await open_host(crew, host, self.name, keys)

        await ask_all(crew, hosts, self.board, open_it)
        for host in [*hosts, *self.open_hosts]:
            found = self.board.outcomes.get(host.label())
            if found and found.word == "unlocked" and host.label() in kept["hosts"]:
                self.opened[host.label()] = kept, fleet
        return True

    async def turn(self, crew: Crew) -> None:
        """Give all that are open, and whose key is here, the next key; others keep theirs."""
        if not self.opened:
            self.desk.save()
            return
        agents = {label: kept["hosts"][label]["agent"] for label, (kept, _) in self.opened.items()}
        _, following, _ = make_fleet_key(self.desk, self.group, agents)
        self.desk.groups[self.group] = [following, *self.desk.groups[self.group]]
        self.desk.save()  # before a machine knows it: each may be on either, from now on
        failed = Board(self.chosen.hosts, is_shown=False)

        async def turn_it(crew: Crew, host: Host) -> Outcome:
            kept, fleet = self.opened[host.label()]
            mine, later = kept["hosts"][host.label()], following["hosts"][host.label()]
            keys = derive_key(fleet, mine["salt"], mine["agent"])
            statement = sign_next(keys, mine["agent"], self.name, later)
            return await turn_host(crew, host, self.name, statement, later["key"])

        hosts = [host for host in self.chosen.hosts if host.label() in self.opened]
        await ask_all(crew, hosts, failed, turn_it)
        for label, outcome in failed.outcomes.items():
            if not outcome.code:  # else it has the one or the other, and says which the next time
                self.desk.forget(label, following)
        self.desk.save()
