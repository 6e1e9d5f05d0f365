"""A value for hosts: sent on stdin, kept there, compared again; and what runs there restarted.

Nothing here goes through a connection that is already there. A value is in no command line.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.fleet.hosts import Host
from avault.fleet.looking import read_state, see_state
from avault.fleet.outcomes import (
    NO_ANSWER,
    Outcome,
    find_error,
    find_objects,
    judge_answer,
    judge_error,
    judge_transport,
    last_line,
    strange,
)
from avault.fleet.reaching import Crew, command_line

if TYPE_CHECKING:
    from typing import Any


SAME, OTHER, NEW = "same", "other", "new"


class Gift:
    """A value under the name GROUP/KEY, as each host is given it."""

    def __init__(self, group: str, key: str, value: str) -> None:
        self.group, self.key, self.value = group, key, value
        self.name = f"{group}/{key}"

    def __repr__(self) -> str:
        return f"Gift({self.name})"

    async def compare(self, crew: Crew, host: Host) -> str | Outcome:
        """What a host has under that name: the same, another, none, or one that is sealed.

        The host compares: it is told the value, and answers with a word. It notes that in its
        access log. A value that is sealed for the phone is not compared.
        """
        check = ("import", "-", "--format", "json", "--dry-run", "--json")
        data = json.dumps({self.group: {self.key: self.value}}).encode()
        ended = await crew.reach(host, command_line(host, *check), data)
        objects = find_objects(ended.out)
        answer = next((each for each in objects if {"new", "same", "differs"} <= {*each}), None)
        if answer is None:
            return judge_answer(ended) or strange(ended)
        found = [kind for kind in ("same", "new", "differs") if self.name in answer[kind]]
        return {"same": SAME, "new": NEW, "differs": OTHER}[found[0]] if found else strange(ended)

    async def confirm(self, crew: Crew, host: Host, fields: dict[str, Any]) -> Outcome:
        """What a host serves that was given it: it compares. One that is sealed is not compared."""
        there = await self.compare(crew, host)
        if isinstance(there, Outcome):
            note = f"given, and then: {there.word} {there.note}".rstrip()
            return Outcome("unknown", NO_ANSWER, note, fields)
        if there == SAME:
            return Outcome("has it", 0, "", fields)
        ready = await self.prepare(crew, host)
        if there == OTHER and ready.fields.get("sealed"):
            note = "kept; sealed for the phone, so it was not compared"
            return Outcome("has it", 0, note, fields)
        return Outcome("has another", 1, "given, and served otherwise: look there", fields)

    async def prepare(self, crew: Crew, host: Host) -> Outcome:
        """Whether a host could be given it now, and has some value of it (`has`): none is sent.

        That it has none is what it says itself, in as many words.
        """
        look = command_line(host, "list", self.group, "--json")
        ended = await crew.reach(host, f"{look}; {command_line(host, 'status', '--json')}")
        state = read_state(ended)
        if state.code:
            return state
        objects = find_objects(ended.out)
        groups: list[Any] | None = next(
            (each["groups"] for each in objects if type(each.get("groups")) is list), None
        )
        error = find_error(objects)
        if error and error["code"] != "not_found":
            return judge_error(error)
        if groups is None and not error:
            return strange(ended)  # it has said nothing of the secret: it may have it
        found = [
            key
            for group in groups or []
            if group["name"] == self.group
            for key in group["keys"]
            if key["name"] == self.key
        ]
        fields = {"has": bool(found), "sealed": bool(found) and found[0].get("sealed") is True}
        return Outcome("ready", 0, "", fields) if found else Outcome("has none", 0, "", fields)

    async def give(self, crew: Crew, host: Host) -> Outcome:
        """Set it on a host, unless it has it; the host says so after its disk, and compares again.

        What was cut off half-way is unknown, not failed.
        """
        ready = await self.prepare(crew, host)  # what a host lacks is known before a value is sent
        return ready if ready.code else await self.put(crew, host, ready)

    async def put(self, crew: Crew, host: Host, ready: Outcome) -> Outcome:
        """The same on a host that is `ready`."""
        there = await self.compare(crew, host) if ready.fields["has"] else NEW
        if isinstance(there, Outcome):
            return there
        if there == SAME:
            return Outcome("has it", 0, "it had it already", {"changed": False})
        # `set` takes one newline off
        data = f"{self.value}\n".encode()
        ended = await crew.reach(host, command_line(host, "set", self.name), data)
        if failed := judge_transport(ended, has_written=True):
            return failed
        if ended.code:
            return await self.refused(crew, host, ended.code, last_error(ended.err))
        return await self.confirm(crew, host, {"changed": True})

    async def refused(self, crew: Crew, host: Host, code: int, said: str) -> Outcome:
        """The outcome of a `set` that a host refused: what it said, with its exit code."""
        state = await see_state(crew, host)
        if state.code:
            return state
        return Outcome("refused", code if code in (2, 3, 4, 5, 8) else 1, said)

    async def rotate(
        self, crew: Crew, host: Host, ready: Outcome, restart: str | None, wait: float
    ) -> Outcome:
        """Give it to a host that is `ready`, have what uses it restarted, and look again.

        `restart` is a line for the host's shell, with `wait` seconds for it. It is run where the
        value was there already too: the last time may have ended before it.
        """
        given = await self.put(crew, host, ready)
        if given.code or restart is None:
            return given
        ended = await crew.reach(host, restart, None, wait, is_once=True)
        if failed := judge_transport(ended, has_written=True):
            return Outcome("not restarted", failed.code, f"it has it; {failed.word} {failed.note}")
        if ended.code:
            said = last_line(ended.err) or last_line(ended.out)
            note = f"it has it; the restart ended with {ended.code}: {said}"
            return Outcome("not restarted", 1, note, given.fields)
        again = await self.confirm(crew, host, {**given.fields, "restarted": True})
        notes = [given.note, "restarted", again.note]
        note = again.note if again.code else "; ".join(note for note in notes if note)
        return Outcome(again.word, again.code, note, again.fields)


def last_error(text: str) -> str:
    """The error that avault said on stderr; the last line where it said none."""
    lines = [line for line in text.splitlines() if line.startswith("avault: error: ")]
    return last_line(lines[-1].removeprefix("avault: error: ")) if lines else last_line(text)
