"""Looking for the vault's own values in files.

Files are read in parts, as there may be more of them than memory. The values are in this process
alone: in no file, and on no command line.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from avault.errors import printable
from avault.late import Fields
from avault.running.forms import is_short
from avault.running.looking import Form, Search, exact_of, meanings_of
from avault.running.strings import occurrences

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


BATCH = 8 << 20  # bytes that are searched at once
STDIN = "-"
PATH_WIDTH = 4096  # characters of a path that are shown
INDEX = {  # where a hook's git has the index and the objects of the commit that is being made
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
}  # fmt: skip


class Needles:
    """All forms of all values. `left_out` names what is too short to be looked for."""

    def __init__(self, answer: list[dict[str, Any]]) -> None:
        secrets = {
            f"{each['group']}/{each['key']}": [each["value"], *each["conflicts"]] for each in answer
        }
        self.left_out = sorted(
            place for place, values in secrets.items() if any(map(is_short, values))
        )
        solid, exact = meanings_of(secrets), exact_of(secrets)
        self.meanings = {
            string: solid.get(string, []) + exact.get(string, []) for string in solid | exact
        }
        self.search = Search(solid, exact)
        # bytes in which any form fits, and what breaks it into lines
        self.overlap = 2 * self.search.longest + 4096


class Part(Fields, frozen=True, order=True):
    """Some or all bytes of a file, and the number of the line that they begin in."""

    path: str
    line: int
    data: bytes


class Hit(Fields, frozen=True, order=True):
    """A value in a file, by its GROUP/KEY. Sorts as it is to be printed."""

    path: str
    line: int
    name: str
    kind: str

    def __str__(self) -> str:
        about = {"plain": "", "line": " (a line of it)"}.get(self.kind, f" ({self.kind})")
        return f"{printable(self.path, PATH_WIDTH)}:{self.line}: {self.name}{about}"

    def to_dict(self) -> dict[str, Any]:
        """It, as --json prints it."""
        group, _, key = self.name.partition("/")
        return {"path": self.path, "line": self.line, "group": group, "key": key, "form": self.kind}


def search(part: Part, needles: Needles) -> set[Hit]:
    """The values in a part of a file.

    Of several forms of one value at one place it is the one that has the others in it.
    """
    places: set[tuple[str, int, int, str]] = set()
    for view, strings in needles.search.views(part.data):
        for string in strings.suspects(view.text):
            for start, end in occurrences(string, view.text):
                span = view.place(start), -view.end(end - 1)
                places.update((form.place, *span, form.kind) for form in needles.meanings[string])
    kept: list[tuple[int, Form]] = []
    name, reached = "", 0
    for place, start, minus_end, kind in sorted(
        places, key=lambda each: (*each[:3], each[3] != "plain", each[3])
    ):
        if place != name or -minus_end > reached:
            kept.append((start, Form(place, kind)))
            name, reached = place, -minus_end
    found: set[Hit] = set()
    line, counted = part.line, 0
    for start, form in sorted(kept):
        line += part.data.count(b"\n", counted, start)
        counted = start
        found.add(Hit(part.path, line, form.place, form.kind))
    return found


def search_all(parts: Iterable[Part], needles: Needles, progress: Progress) -> list[Hit]:
    """Search parts of files as they come."""
    found: set[Hit] = set()
    for part in parts:
        progress.add(part)
        found |= search(part, needles)
    progress.end()
    return sorted(found)


def without_neighbours(found: Iterable[Hit]) -> list[Hit]:
    """Of the lines of one value, one below the other, the first."""
    kept = []
    last: dict[tuple[str, str], int] = {}
    for each in found:
        if each.kind != "line" or last.get((each.path, each.name)) != each.line - 1:
            kept.append(each)
        if each.kind == "line":
            last[each.path, each.name] = each.line
    return kept


class Progress:
    """How much was read.

    On a terminal a line of it, drawn in place once it takes more than a second.
    """

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.bytes = 0
        self.next = time.monotonic() + 1 if sys.stderr.isatty() else float("inf")
        self.is_drawn = False

    def add(self, part: Part) -> None:
        """A part of a file was read."""
        self.files.add(part.path)
        self.bytes += len(part.data)
        if time.monotonic() > self.next:
            self.next += 0.2
            self.is_drawn = True
            print(
                f"\r\x1b[Kavault: {len(self.files):,} files, {self.bytes / 1e6:,.0f} MB",
                end="",
                file=sys.stderr,
                flush=True,
            )

    def end(self) -> None:
        """Take the line away."""
        if self.is_drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
