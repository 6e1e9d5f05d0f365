"""The table of hosts: it fills as answers come, what went wrong stands last, and it fits."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TYPE_CHECKING

from avault.errors import printable
from avault.fleet.hosts import Host
from avault.fleet.outcomes import Outcome
from avault.terminal.talk import put

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Cells = Callable[["Outcome"], Sequence[str]]


NARROW = 64  # columns, under which what there is to say of a host gets lines of its own
SHORTEST_NOTE = 8  # columns, with fewer of which a note says nothing
WORD_WIDTH = 16  # columns of the word
HOST_WIDTH = 32  # columns of a host, at most
OUTCOME_COLOURS = {0: "32", 3: "33"}  # by exit code (ECMA-48): green, yellow; all else is red


def stdout_width() -> int | None:
    """The columns of the terminal that stdout is; None for no terminal, which has no limit."""
    if not sys.stdout.isatty():
        return None
    try:
        return max(os.get_terminal_size(1).columns, 20)
    except OSError:
        return 80


def stdout_height() -> int:
    """The lines of that terminal."""
    try:
        return max(os.get_terminal_size(1).lines, 5)
    except OSError:
        return 24


class Board:
    """A table on stdout: a row for each host that has answered, as it answers.

    Failures are kept for the end, where they are seen. `titles` are the columns between word and
    note, with their widths, and `cells` what stands in them; they are left out where it is
    narrow. On a terminal a last line says who is waited for.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        titles: Sequence[tuple[str, int]] = (),
        cells: Cells = lambda _: (),
        is_shown: bool = True,
    ) -> None:
        self.hosts, self.titles, self.cells, self.is_shown = hosts, titles, cells, is_shown
        self.outcomes: dict[str, Outcome] = {}
        self.width = stdout_width()
        dumb = os.environ.get("TERM", "dumb") == "dumb"
        self.is_live = is_shown and self.width is not None and not dumb
        self.is_coloured = self.is_live and not os.environ.get("NO_COLOR")
        longest = max([4, *(len(host.label()) for host in hosts)])
        self.host_width = min(
            longest, HOST_WIDTH if self.width is None else max(self.width // 3, 8)
        )
        if self.width is None:
            self.host_width = longest
        self.is_narrow = self.width is not None and self.width < NARROW
        taken = self.host_width + 2 + WORD_WIDTH + sum(2 + width for _, width in self.titles)
        if self.width is not None and taken >= self.width:
            self.titles, self.cells = (), lambda _: ()
        self.has_head = self.has_line = False

    def head(self) -> str:
        """The line of titles."""
        titles = [title.rjust(width) for title, width in self.titles]
        word = "STATE" if self.is_narrow else "STATE".ljust(WORD_WIDTH)
        note = [] if self.is_narrow else ["NOTE"]
        return "  ".join(["HOST".ljust(self.host_width), word, *titles, *note])

    def render(self, host: Host, outcome: Outcome) -> list[str]:
        """The lines of a host: one, and more where a failure has more to say than fits."""
        name = printable(host.label(), max(self.host_width, 8))
        word = outcome.word.ljust(WORD_WIDTH)
        if self.is_coloured:
            colour = OUTCOME_COLOURS.get(outcome.code, "31")
            word = f"\x1b[{colour}m{outcome.word}\x1b[0m" + " " * (WORD_WIDTH - len(outcome.word))
        start = f"{name.ljust(self.host_width)}  {word}"
        indent = self.host_width + 2 + WORD_WIDTH + 2
        if not outcome.code:
            cells = self.cells(outcome)
            pairs = zip(cells, self.titles, strict=False)
            shown = [cell[:width].rjust(width) for cell, (_, width) in pairs]
            start = "  ".join([start, *shown])
            indent += sum(width + 2 for _, width in self.titles)
        if self.is_narrow:
            room = (self.width or NARROW) - 3
            note = outcome.note if outcome.code else printable(outcome.note, room)
            lines = textwrap.wrap(note, room)
            return [start.rstrip(), *(f"  {line}" for line in lines)]
        if self.width is None or not outcome.note:
            return [f"{start}  {outcome.note}".rstrip()]
        room = self.width - indent - 1
        if not outcome.code:  # of what went well, what there is room for
            return [
                f"{start}  {printable(outcome.note, room)}"
                if room > SHORTEST_NOTE
                else start.rstrip()
            ]
        first, *rest = textwrap.wrap(outcome.note, room) or [""]
        return [f"{start}  {first}".rstrip(), *(" " * indent + line for line in rest)]

    def show(self, host: Host, outcome: Outcome) -> None:
        """Take what came of a host. A row of what went well is written at once."""
        self.outcomes[host.label()] = outcome
        if self.is_shown and not outcome.code:
            self.write(host, outcome)
        self.wait()

    def write(self, host: Host, outcome: Outcome) -> None:
        """Write a row, below its head."""
        self.clear()
        if not self.has_head:
            self.has_head = True
            put(self.head()[: self.width].rstrip() + "\n")
        put("".join(line + "\n" for line in self.render(host, outcome)))

    def clear(self) -> None:
        """Take the last line away."""
        if self.has_line:
            put("\r\x1b[K")
            self.has_line = False

    def wait(self) -> None:
        """Say on the last line of a terminal who is waited for."""
        if not self.is_live:
            return
        missing = [host.label() for host in self.hosts if host.label() not in self.outcomes]
        self.clear()
        if missing:
            done = f"{len(self.outcomes)} of {len(self.hosts)}"
            text = f"{done}; waiting for {', '.join(missing[:20])}"
            put(printable(text, max((self.width or 80) - 1, 10)))
            self.has_line = True

    def failures(self) -> list[tuple[Host, Outcome]]:
        """What went wrong, by word: locked ones first, and last what has to do with keys."""
        found = [(host, self.outcomes.get(host.label())) for host in self.hosts]
        failed = [(host, outcome) for host, outcome in found if outcome and outcome.code]
        return sorted(failed, key=lambda each: (each[1].code == 8, each[1].code != 3, each[1].word))

    def finish(self) -> list[Outcome]:
        """Write what went wrong; all outcomes, in the order of the hosts."""
        self.clear()
        if self.is_shown:
            for host, outcome in self.failures():
                self.write(host, outcome)
        return [self.outcomes[host.label()] for host in self.hosts if host.label() in self.outcomes]
