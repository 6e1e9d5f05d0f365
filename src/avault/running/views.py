"""A text less its noise, and where in the text each byte of it stands.

The noise is taken away at C's speed. Where a byte of what remains stood is asked only for what was
found, which is seldom.
"""

from __future__ import annotations

import bisect
import itertools
import re
from typing import TYPE_CHECKING

from avault.late import regex
from avault.running.forms import NOISE, solid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


BLOCK = 1024
IS_TEXT = bytes(byte not in NOISE for byte in range(256))
# ECMA-48; of the last one not all may be there
COLOURS = regex(rb"\x1b(?:\[[0-?]*[ -/]*(?:[@-~]|\Z)|[ -/]*(?:[0-Z\\^-~]|\Z))")
SOFT = regex(rb"=\r?(?:\n|\Z)")  # quoted-printable: the line goes on


class View:
    """The bytes of some stretches of `data`, less the noise: `text`.

    From `open` on it may mean something else with more data.
    """

    def __init__(self, data: bytes, stretches: list[tuple[int, int]]) -> None:
        self.data, self.stretches, self.open = data, stretches, len(data)
        whole = (
            data
            if stretches == [(0, len(data))]
            else b"".join(data[start:end] for start, end in stretches)
        )
        self.text = solid(whole)
        # of the data: how much of the text is before, start, end
        self.blocks: list[tuple[int, int, int]] = []
        # the places of the text's bytes in the block that was asked for last
        self.here: tuple[int, list[int]] = -1, []

    def place(self, index: int) -> int:
        """Where in the data a byte of the text stands."""
        if not self.blocks:
            count = 0
            for first, last in self.stretches:
                for start in range(first, last, BLOCK):
                    end = min(start + BLOCK, last)
                    self.blocks.append((count, start, end))
                    count += len(solid(self.data[start:end]))
        number = bisect.bisect_right(self.blocks, (index, len(self.data))) - 1
        before, start, end = self.blocks[number]
        if self.here[0] != number:
            self.here = (
                number,
                list(
                    itertools.compress(range(start, end), self.data[start:end].translate(IS_TEXT))
                ),
            )
        return self.here[1][index - before]

    def end(self, index: int) -> int:
        """Where in the data a string ends whose last byte this is."""
        return self.place(index) + 1

    def beginning(self, index: int) -> int:
        """From where on the data is wanted when more comes, if a string may begin at that byte."""
        return self.place(index) if index < len(self.text) else len(self.data)


class Exact(View):
    """The data as it is."""

    def __init__(self, data: bytes) -> None:
        self.data, self.text, self.open = data, data, len(data)

    def place(self, index: int) -> int:
        return index


ROW = regex(rb"(?m)^[0-9a-fA-F]{6,16}(:?)[ \t]+(\S[^\n]*)(\n?)")
OPEN_ROW = regex(rb"[0-9a-fA-F]{1,16}:?|[0-9a-fA-F]{6,16}:?[ \t][^\n]*")
# how the numbers of a row are written
DUMP_NUMBERS: list[tuple[re.Pattern[bytes], Callable[[bytes], bytes]]] = [
    (regex(rb"[0-9a-fA-F]{2}"), lambda word: bytes([int(word, 16)])),
    (regex(rb"[0-7]{3}"), lambda word: bytes([int(word, 8) & 255])),
    (regex(rb"[0-9a-fA-F]{4}"), lambda word: int(word, 16).to_bytes(2, "little")),
    (regex(rb"[0-7]{6}"), lambda word: (int(word, 8) & 65535).to_bytes(2, "little")),
    (
        regex(rb"[^ ]|\\.|[0-7]{3}"),
        lambda word: bytes([int(word, 8) & 255]) if len(word) == 3 else word[-1:],
    ),
]


def open_row(data: bytes) -> int:
    """Where the last line begins, if it may become a row of a dump; else the length."""
    start = data.rfind(b"\n") + 1
    return start if OPEN_ROW.fullmatch(data, start) else len(data)


class Dump(View):
    """What a dump in rows shows, as xxd, hexdump and od print it.

    A row has an offset, numbers, and often the text beside them.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.places: list[int] = []
        self.ends: list[int] = []  # of the rows: the text beside the numbers belongs to them
        self.rows: list[int] = []  # where they begin
        self.open = open_row(data)
        text = bytearray()
        for row in ROW.finditer(data):
            for place, byte in self.read(row):
                if byte not in NOISE:
                    text.append(byte)
                    self.places.append(place)
                    self.ends.append(row.end(2))
                    self.rows.append(row.start())
        self.text = bytes(text)

    def read(self, row: re.Match[bytes]) -> list[tuple[int, int]]:
        """The bytes of a row, and where each stands."""
        shown = row[2].split(b"  ")[0] if row[1] else re.split(rb"  [|>]", row[2])[0]
        words = [(row.start(2) + word.start(), word[0]) for word in re.finditer(rb"\S+", shown)]
        if row[1]:  # xxd, in groups of any size
            words = [
                (at + n, word[n : n + 2]) for at, word in words for n in range(0, len(word), 2)
            ]
        if words and not row[3] and row.end() == len(self.data):
            words.pop()  # of the last one not all may be there
        for pattern, read in DUMP_NUMBERS:
            if all(pattern.fullmatch(word) for _, word in words):
                return [(at, byte) for at, word in words for byte in read(word)]
        return []

    def place(self, index: int) -> int:
        return self.places[index]

    def end(self, index: int) -> int:
        return self.ends[index]

    def beginning(self, index: int) -> int:
        return self.rows[index] if index < len(self.text) else self.open


def without(data: bytes, pattern: re.Pattern[bytes]) -> View:
    """A view of the data less what the pattern finds."""
    stretches, start = [], 0
    for found in pattern.finditer(data):
        stretches.append((start, found.start()))
        start = found.end()
    return View(data, [*stretches, (start, len(data))])


def views_of(data: bytes) -> Iterator[View]:
    """The data less its noise.

    Where there are colours, soft line breaks or rows of a dump, less those too.
    """
    yield View(data, [(0, len(data))])
    if b"\x1b" in data:
        yield without(data, COLOURS)
    if b"=\n" in data or b"=\r\n" in data or data.endswith((b"=", b"=\r")):
        yield without(data, SOFT)
    if b"\n000" in data or data.startswith(b"000"):
        yield Dump(data)
