"""The search for many strings at once."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Literal


# see Strings
STEPS: list[tuple[Literal["Q", "I"], int, int]] = [("Q", 8, 16), ("Q", 8, 8), ("I", 4, 4)]


class Strings:
    """Byte strings to look for, none shorter than SHORTEST.

    The search looks at few places. A string that is long enough covers some place whose offset is a
    multiple of `step`, with a word of 8 or 4 bytes after it, wherever it begins; that word is one
    of the first `step` in the string. So the words at those places are looked up in a set, at C's
    speed, in one pass for any number of strings; only a string of which a word was seen is searched
    for.
    """

    def __init__(self, strings: Iterable[bytes]) -> None:
        self.sorted = sorted(strings)
        shortest = min(map(len, self.sorted))
        self.type, self.size, self.step = next(
            each for each in STEPS if each[1] + each[2] - 1 <= shortest
        )
        # of so many bytes in a row, some word is looked at
        self.covered = self.size + self.step - 1
        self.words: dict[int, bytes] = {}
        self.others: dict[int, list[bytes]] = {}  # more strings with the same word
        for start in range(self.step):
            joined = b"".join([string[start : start + self.size] for string in self.sorted])
            for word, string in zip(memoryview(joined).cast(self.type), self.sorted, strict=True):
                if self.words.setdefault(word, string) is not string:
                    self.others.setdefault(word, []).append(string)

    def suspects(self, text: bytes) -> set[bytes]:
        """The strings that may be in `text`, whole or with their first `covered` bytes or more."""
        words = memoryview(text)[: len(text) // self.size * self.size].cast(self.type)[
            :: self.step // self.size
        ]
        seen = self.words.keys() & words
        return {
            string for word in seen for string in (self.words[word], *self.others.get(word, ()))
        }

    def beginning(self, text: bytes, suspects: set[bytes]) -> int:
        """Where the longest end of `text` begins that is the beginning of a string, not all of it.

        Else the length of `text`.
        """
        longest = len(text)
        for string in suspects:
            start = text.find(string[: self.covered], max(0, len(text) - len(string) + 1))
            while 0 <= start < longest:
                if string.startswith(text[start:]):
                    longest = start
                start = text.find(string[: self.covered], start + 1)
        for start in range(max(0, len(text) - self.covered + 1), longest):
            end = text[start:]
            place = bisect.bisect_left(self.sorted, end)
            if place < len(self.sorted) and self.sorted[place].startswith(end):
                return start
        return longest


def occurrences(string: bytes, text: bytes) -> Iterator[tuple[int, int]]:
    """Where a string is in a text: starts and ends.

    Those that overlap by a repetition in the string are one.

    Of one that repeats itself (abababab) there may be one at every other byte. So a repetition is
    followed to its end by comparing the text with itself, in pieces that double. What overlaps
    otherwise does so by less than half: that is linear in the text for any string.
    """
    start = text.find(string)
    while start >= 0:
        end = start + len(string)
        last = start
        near = text.find(string, start + 1, end + len(string) - 1)
        if 0 <= near < end and near - start <= len(string) // 2:
            period, piece = near - start, 1 << 6
            while piece:
                if text[end : end + piece] == text[
                    end - period : end - period + piece
                ] and end + piece <= len(text):
                    end, piece = end + piece, piece * 2
                else:
                    piece //= 2
            last = end - len(string) - (end - len(string) - start) % period
            end = last + len(string)
            near = text.find(string, last + 1)
        elif near < 0:
            near = text.find(string, end)
        yield start, end
        start = near
