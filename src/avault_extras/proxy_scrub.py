"""Takes a secret out of an answer again, whole; and tells nothing of a guess that is not whole.

Nothing is looked for but the value and its full encodings, and only in the answer to a request
that carried it. How long bytes are held back does not depend on the value, only on its length: else
who has an upstream echo guesses could see by the time that one begins as the value does.
"""

from __future__ import annotations

import base64
import functools
import re
from urllib.parse import quote, quote_plus

import avault

PLAIN = re.compile("[A-Za-z0-9._~-]*")  # what nothing escapes (RFC 3986, 2.3)
FREE = re.compile(rb"[^\x00-\x1f]*\Z")  # no value that a header may carry has any of these


def list_needles(value: str, placeholder: str) -> list[tuple[bytes, bytes]]:
    """What is looked for, the longest first, each with what takes its place."""

    pairs = list[tuple[bytes, bytes]]()
    for text in list_texts(value):
        pairs += zip(list_forms(text), known_forms(placeholder), strict=True)
    return sort_needles(pairs)


def list_texts(value: str) -> list[str]:
    """As what an upstream reads a value: blanks around it are none of a header's (RFC 9110, 5.5).

    And many read what is no ASCII as Latin-1.
    """
    shown = value.encode().decode("latin-1")
    texts = dict.fromkeys((value, value.strip(" \t"), shown, shown.strip(" \t")))
    return [each for each in texts if len(each.encode()) >= avault.SHORTEST_PROXIED]


def list_spellings(text: str) -> list[str]:
    """How a text may be escaped; all are the text itself where it is `PLAIN`."""
    percent = quote(text, safe="")
    return [
        text,
        percent,
        re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), percent),
        quote_plus(text),
        *avault.in_json(text),
        *avault.in_html(text),
    ]


SPELLINGS = len(list_spellings(""))


def list_forms(text: str) -> list[bytes]:
    """All that is looked for of a text, as bytes, in the same order for each."""
    plain = text.encode()
    digits = [plain.hex(), *(plain.hex(apart) for apart in " :-")]
    shown = [
        *([text] * SPELLINGS if PLAIN.fullmatch(text) else list_spellings(text)),
        base64.b64encode(plain).decode().rstrip("="),
        base64.urlsafe_b64encode(plain).decode().rstrip("="),
        *(spell for each in digits for spell in (each, each.upper())),
    ]
    return [each.encode() for each in shown]


known_forms = functools.lru_cache(256)(list_forms)  # of placeholders alone: no value stays


def sort_needles(pairs: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Each once, the longest first: what is within another is looked for after it."""
    return sorted(dict(reversed(pairs)).items(), key=lambda pair: (-len(pair[0]), pair[0]))


def replace_needles(data: bytes, needles: list[tuple[bytes, bytes]]) -> bytes:
    """Bytes that are whole, without what is looked for."""
    for needle, instead in needles:
        data = data.replace(needle, instead)
    return data


class Scrubber:
    """A body that comes in pieces; called with b"" at its end, as mitmproxy does.

    What is held back of a piece is what follows its last control character, and no more than may
    begin a needle. So events, and lines, go on at once. `length` is that of the whole body, if it
    is known: its last piece is not held back, and goes out in one with what is before.
    """

    def __init__(self, needles: list[tuple[bytes, bytes]], length: int | None = None) -> None:
        self.needles, self.left = needles, length
        self.most = max((len(needle) for needle, _ in needles), default=1) - 1
        self.rest = b""

    def __call__(self, piece: bytes) -> list[bytes]:
        data = replace_needles(self.rest + piece, self.needles)
        if not piece:
            self.rest = b""
            return [data] if data else []
        if self.left is not None:
            self.left -= len(piece)
            if self.left == 0:
                self.rest = b""
                return [data]
        found = FREE.search(data, max(0, len(data) - self.most))
        cut = found.start() if found else len(data)
        self.rest = data[cut:]
        return [data[:cut]] if cut else []
