"""Masks for the values in a stream, also where a read ends in the middle of one.

Masking is best effort: it finds the values and their usual encodings (running/forms). A program
that means to tell a secret can.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from avault.running.forms import SHORTEST
from avault.running.looking import Search, Secrets, exact_of, meanings_of
from avault.running.strings import occurrences
from avault.running.views import open_row

if TYPE_CHECKING:
    from collections.abc import Iterable


SILENCE = 0.02  # seconds of silence after which a held beginning is let out
SETTLED = 0.05  # seconds of silence after which a terminal has passed on what was written to it
TILE = 128  # bytes of the pieces in which a long form is looked for
MOST_TILES = 64
# a string is held while it is at most so many times as long as its form, and so many bytes:
# colours, blanks
STRETCH = 32, 4096
LEAST_WORD = 4  # bytes of a short value that is masked where it stands alone

Span = tuple[int, int, bytes]  # start, end and mask


def tiles(form: bytes) -> list[bytes]:
    """The pieces of a form.

    A long one is masked also where only a part of it comes, and little of it is ever held.
    """
    if len(form) <= 2 * TILE:
        return [form]
    size = max(TILE, -(-len(form) // MOST_TILES))
    return [form[start : start + size] for start in range(0, len(form) - size, size)] + [
        form[-size:]
    ]


class Patterns:
    """Strings to look for, and the mask for each: `masks`.

    They are looked for in a stream less its noise; those in `exact` in the stream as it is.

    `followers` get no mask of their own directly behind one of the same secret. `words` are short
    values, masked where they stand alone.
    """

    def __init__(
        self,
        masks: dict[bytes, bytes],
        exact: Iterable[bytes] = (),
        followers: Iterable[bytes] = (),
        words: dict[bytes, bytes] | None = None,
    ) -> None:
        self.masks, self.followers, self.words = masks, set(followers), words or {}
        exact = set(exact)
        self.search = Search(masks.keys() - exact, exact)
        alone = b"|".join(re.escape(word) for word in sorted(self.words, key=len, reverse=True))
        self.alone = (
            re.compile(rb"(?<![0-9A-Za-z_])(?:" + alone + rb")(?![0-9A-Za-z_])")
            if self.words
            else None
        )

    @classmethod
    def of(cls, secrets: Secrets, with_short: bool = False) -> Patterns | None:
        """All forms of these secrets' values, and short values too if they are wanted.

        None if there is nothing to look for.
        """
        masks: dict[bytes, bytes] = {}
        followers: set[bytes] = set()
        for form, meanings in meanings_of(secrets).items():
            first, *others = tiles(form)
            for piece in (first, *others):
                masks.setdefault(piece, mask_of(meanings[0].place))
            followers.update(others)
        exact = {
            string: mask_of(meanings[0].place) for string, meanings in exact_of(secrets).items()
        }
        short = [
            (value.strip().encode(), place)
            for place in sorted(secrets, reverse=True)
            for value in secrets[place]
        ]
        words = {
            value: mask_of(place) for value, place in short if LEAST_WORD <= len(value) < SHORTEST
        }
        words = words if with_short else {}
        return (
            cls(exact | masks, exact.keys() - masks.keys(), followers, words)
            if masks or exact or words
            else None
        )

    def look(self, data: bytes) -> tuple[list[Span], int, int]:
        """What is in `data`: where strings are, the longest first of those that begin together.

        Then where the longest end begins that may be the beginning of one, and how many bytes of it
        are there.
        """
        spans: list[Span] = []
        beginning, size = open_row(data), 0
        for view, strings in self.search.views(data):
            suspects = strings.suspects(view.text)
            for first, end, mask in self.joined(view.text, suspects):
                spans.append((view.place(first), view.end(end - 1), mask))
                if spans[-1][1] > view.open:
                    beginning = min(beginning, view.beginning(first))
            index = strings.beginning(view.text, suspects)
            beginning = min(beginning, view.beginning(index))
            size = max(size, len(view.text) - index)
        beginning = max(beginning, len(data) - STRETCH[0] * self.search.longest - STRETCH[1])
        if self.alone:
            spans += (
                (found.start(), found.end(), self.words[found[0]])
                for found in self.alone.finditer(data)
            )
            beginning = min(beginning, self.word_beginning(data))
        return sorted(spans, key=lambda span: (span[0], -span[1])), beginning, size

    def joined(self, text: bytes, suspects: set[bytes]) -> list[Span]:
        """Where strings are in a text.

        What follows the same secret's string directly is one with it.
        """
        found = [
            (start, -end, string) for string in suspects for start, end in occurrences(string, text)
        ]
        spans: list[Span] = []
        for start, minus_end, string in sorted(found):
            mask = self.masks[string]
            if (
                spans
                and string in self.followers
                and spans[-1][2] == mask
                and spans[-1][0] < start <= spans[-1][1]
            ):
                spans[-1] = spans[-1][0], max(spans[-1][1], -minus_end), mask
            else:
                spans.append((start, -minus_end, mask))
        return spans

    def word_beginning(self, data: bytes) -> int:
        """Where a short value begins that the next byte may make a longer word, or complete."""
        for start in range(max(0, len(data) - SHORTEST + 1), len(data)):
            alone = start == 0 or not re.match(rb"[0-9A-Za-z_]", data[start - 1 :])
            if alone and any(word.startswith(data[start:]) for word in self.words):
                return start
        return len(data)


def mask_of(place: str) -> bytes:
    """What stands for a secret."""
    return f"<avault:{place}>".encode()


class Mask:
    """One stream on its way through: no byte of a string that was found comes out.

    Where the stream stops within a string, its beginning is held until the rest comes. After a
    silence (`pause`) up to seven bytes of it are let out, so that a prompt or an echo appears that
    happens to end like that; more are held until the next byte decides, or the end. What was let
    out still counts: the rest of that string is masked.
    """

    def __init__(self, patterns: Patterns) -> None:
        self.patterns = patterns
        self.held = b""  # the longest beginning of a string with which the stream ends
        self.size = 0  # bytes of that string which it has
        self.done = 0  # so many bytes of it are out, or masked
        self.last: bytes | None = None  # the mask that reaches exactly to there

    def feed(self, data: bytes) -> bytes:
        """What can be shown after more of the stream."""
        data = self.held + data
        found, beginning, self.size = self.patterns.look(data)
        return self.show(data, found, beginning, beginning)

    def pause(self) -> bytes:
        """What can be shown when nothing came for a while."""
        found, _, _ = self.patterns.look(self.held)
        end = 0 if self.size >= SHORTEST else len(self.held)
        for start, stop, _ in found:  # a string that is the beginning of another one
            end = max(end, stop) if start <= end else end
        return self.show(self.held, found, end, 0)

    def end(self) -> bytes:
        """The rest."""
        found, _, _ = self.patterns.look(self.held)
        return self.show(self.held, found, len(self.held), len(self.held))

    def show(self, data: bytes, found: list[Span], end: int, keep: int) -> bytes:
        """`data` from where we are up to `end`, masked; it is kept from `keep` on.

        A mask stands for each string, whatever it overlaps; only one that overlaps itself
        (aaaaaaaaa) gets no second.
        """
        shown, position = [], self.done
        for start, stop, mask in found:
            if start >= end:
                break
            if start > position:
                shown.append(data[position:start])
            if stop > position:
                if start >= position or mask != self.last:
                    shown.append(mask)
                position, self.last = stop, mask
        if position < end:
            shown.append(data[position:end])
            position, self.last = end, None
        self.held, self.done = data[keep:], position - keep
        return b"".join(shown)
