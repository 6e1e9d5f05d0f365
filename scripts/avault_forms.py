"""All forms of a value that avault knows, and their search: what `run` and `mcp` mask is what `scan` finds.

A value leaves a program as it is, or encoded, quoted, coloured, or broken into lines. What quoting, colours and line
breaks add is noise: it is taken away from the text before it is searched, and from the forms too. What an encoding makes
of a value is a string of its own. So what remains is to find some thousand strings in a text, fast.

    forms     the strings by which a value can be recognized
    views     a text less its noise, and where in the text each byte of it stands
    strings   the search for many strings at once
    looking   all forms of all values, in all views of a text
"""

from __future__ import annotations

import base64
import bisect
import contextlib
import html
import itertools
import json
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import avault
from avault import Fields, regex

# ----------------------------------------------------------------- forms ----

SHORTEST = 8  # bytes of a value, or of a part of it, that is looked for; shorter ones are all over any text by chance
LONG = 8 << 10  # bytes of a value of which only the usual encodings are looked for
MANY = 200  # secrets beyond which it is only the usual encodings of each
MOST_PARTS = 64  # of one value
NOISE = (
    b" \t\r\n\v\f\0\\'\""  # what line breaks, indentation, quoting in any language, and UTF-16 put between the bytes of a value
)

BLANK = " \t\r\n\v\f"  # and not what else Unicode calls so: that is part of a value
ARMOUR = regex(r"-----(BEGIN|END) [^-]*-----")  # RFC 7468: says only that here begins or ends a key
URL = regex(r"(?<=[A-Za-z0-9+.-])://([^\s/?#@]*(?:@[^\s/?#@]+)*)@")  # without its scheme, which would be quadratic
PAIR = regex(r"([^\s:/@]+):(?!//)(\S+)")
SIMPLE = regex("[A-Za-z0-9_.-]+")  # nobody quotes or escapes that
WORD = regex(r"[a-z_.-]+")
COMMON = {"postgres", "postgresql", "username", "password", "anonymous", "administrator", "x-access-token", "x-token-auth"}
SECRET = regex(r"(?i)pass|pwd|secret|token|key|auth|cred|priv|pin\b")


def solid(data: bytes) -> bytes:
    """`data` less its noise."""
    return data.translate(None, NOISE)


def forms_of(value: str, rare: bool = True) -> dict[bytes, str]:
    """The strings by which a value can be recognized in a text less its noise, each with its kind; none for a short value.

    The kind is `plain`, `line` or `part` of a value that has several, or the name of an encoding.
    """
    found: dict[bytes, str] = {}
    text = value.strip(BLANK)  # a newline at the end gets lost on the way
    if is_short(text):
        return {}
    for form, kind in encodings(text, rare):
        found.setdefault(form, kind)
    for part in parts_of(text):
        for form, kind in encodings(part, rare):
            found.setdefault(form, "part" if kind == "plain" else kind)
    lines = [line.strip() for line in text.splitlines()]
    if len(lines) > 1:
        for line in lines:
            if not ARMOUR.fullmatch(line):
                found.setdefault(solid(line.encode()), "line")
    return {form: kind for form, kind in found.items() if len(form) >= SHORTEST}


def is_short(value: str) -> bool:
    """Whether a value is too short to be looked for."""
    return len(value.strip(BLANK).encode()) < SHORTEST


def exact_forms_of(value: str) -> dict[bytes, str]:
    """The strings to be found in a text with its noise, for a value that consists of little else (`"" "" "a"`)."""
    text = value.strip(BLANK)
    if is_short(text) or len(solid(text.encode())) >= SHORTEST:
        return {}
    spelled = [("plain", [text]), ("json", in_json(text)), ("escaped", in_programs(text)), ("html", in_html(text))]
    return {form.encode(): kind for kind, forms in reversed(spelled) for form in forms}


def parts_of(text: str) -> list[str]:
    """What is secret by itself in a structured value.

    Strings inside JSON; user and password of URLs, as they stand there and decoded; of user:password both.
    """
    found: list[str] = []
    if text[:1] in ("{", "["):
        try:
            found += strings_in(json.loads(text), False)
        except (ValueError, RecursionError):
            pass
    for url in URL.finditer(text):
        user, _, password = url[1].partition(":")
        found += (each for name in (user, password) for each in (name, urllib.parse.unquote(name)) if name not in COMMON)
    if pair := PAIR.fullmatch(text):
        found += (each for each in pair.groups() if each not in COMMON)
    kept = [part for part in dict.fromkeys(map(str.strip, found)) if part != text and len(part.encode()) >= SHORTEST]
    return kept[:MOST_PARTS]


def strings_in(tree: object, is_named: bool) -> Iterator[str]:
    """The strings in JSON that may be secret: what a key's name says, and what is more than a word or an address."""
    if isinstance(tree, dict):
        for name, item in tree.items():
            yield from strings_in(item, bool(SECRET.search(name)))
    elif isinstance(tree, list):
        for item in tree:
            yield from strings_in(item, is_named)
    elif isinstance(tree, str):
        if "://" in tree:
            yield from parts_of(tree)
        elif is_named or not WORD.fullmatch(tree):
            yield tree


def encodings(text: str, rare: bool) -> Iterator[tuple[bytes, str]]:
    """What encodings make of a text, less its noise, each with its kind; the rare ones if they are wanted."""
    raw = text.encode()
    yield solid(raw), "plain"
    if not SIMPLE.fullmatch(text):
        for kind, spell in (("json", in_json), ("escaped", in_programs), ("url", in_urls), ("html", in_html)):
            yield from ((solid(each.encode()), kind) for each in spell(text))
        yield solid(re.sub(rb"[^!-<>-~\s]", lambda found: b"=%02X" % found[0][0], raw)), "quoted-printable"
        for width in ("utf-16-le", "utf-16-be"):  # of ASCII they add noise alone
            yield solid(text.encode(width)), "utf-16"
    for kind, encode in (("hex", in_hex), ("base64", in_base64)):
        yield from ((each, kind) for each in encode(raw))
    if rare and len(raw) <= LONG:
        for kind, encode in (("hex", in_hex_apart), ("base64", in_base64_twice), ("base32", in_base32)):
            yield from ((each, kind) for each in encode(raw))
        numbers = str([*raw])[1:-1].replace(" ", "")
        yield from ((numbers.encode(), "decimal"), (numbers.replace(",", "").encode(), "decimal"))
        yield f"&#{str([*map(ord, text)])[1:-1].replace(', ', ';&#')};".encode(), "html"
        for digits in (raw.hex(" "), raw.hex(" ").upper()):
            yield f"&#x{digits.replace(' ', ';&#x')};".encode(), "html"


def in_json(text: str) -> Iterator[str]:
    """As JSON has it; as Go escapes it; with the digits of an escape in either case."""
    for ascii_only in (True, False):
        escaped = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        for each in (escaped, re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", escaped)):
            yield each
            yield re.sub(r"(?<=\\u)[0-9a-f]{4}", lambda found: found[0].upper(), each)


def in_programs(text: str) -> Iterator[str]:
    r"""As Python's repr has it, of text and of bytes, and shells in $'…': control characters by letters or in octal."""
    raw = text.encode()
    for shown in (repr(text)[1:-1], ascii(text)[1:-1], repr(raw)[2:-1]):
        yield shown
        yield re.sub(r"(?<=\\x)[0-9a-f]{2}", lambda found: found[0].upper(), shown)
    letters = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 27: "E"}
    for last in ("\x1f", "~"):  # from where on there is octal: bash in a locale of UTF-8, and in one of ASCII
        yield "".join(
            letters[ord(c)] if ord(c) in letters else "".join(f"{b:03o}" for b in c.encode()) if c < " " or c > "~" >= last else c
            for c in text
        )


def in_urls(text: str) -> Iterator[str]:
    """Percent-encoded, as Python, encodeURIComponent, encodeURI and HTML forms do it, in either case; and once more."""
    once = [urllib.parse.quote(text, safe=safe) for safe in ("", "/", "*", "!~*'()", "!*'()", "!~*'();,/?:@&=+$#")]
    once += [each.replace("%20", "+") for each in once]
    once += [each.replace("~", "%7E") for each in once]
    for each in dict.fromkeys(once):
        for quoted in (each, re.sub("%..", lambda found: found[0].lower(), each)):
            yield quoted
            yield quoted.replace("%", "%25")


def in_html(text: str) -> Iterator[str]:
    """With the entities of HTML and XML, by name or number."""
    named = html.escape(text, quote=False)
    for double in ("&quot;", "&#34;", '"'):
        for single in ("&#x27;", "&#39;", "&apos;", "'"):
            yield named.replace('"', double).replace("'", single)
    yield re.sub("[^ -~]", lambda found: f"&#{ord(found[0])};", named)


def cut(encoded: bytes, before: int, length: int, bits: int) -> bytes:
    """Of an encoding of some bits to a letter, the letters that only `length` bytes after the first `before` decide."""
    return encoded[-(-before * 8 // bits) : (before + length) * 8 // bits]


def in_hex(raw: bytes) -> Iterator[bytes]:
    """Digits in either case; what breaks them into groups or lines is noise."""
    yield raw.hex().encode()
    yield raw.hex().upper().encode()


def in_hex_apart(raw: bytes) -> Iterator[bytes]:
    r"""Bytes apart: 73:65, 73-65, 0x73,0x65, \x73\x65, %73%65."""
    for digits in (raw.hex(" "), raw.hex(" ").upper()):
        for before, between in (("", ":"), ("", "-"), ("0x", ",0x"), ("x", "x"), ("%", "%")):
            yield (before + digits.replace(" ", between)).encode()


def in_base64(raw: bytes) -> Iterator[bytes]:
    """As base64 and base64url, alone or within more, also in a URL."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for alone in (encode(raw), encode(raw + b"\n")):  # as `echo` pipes it
            yield from (alone, alone.rstrip(b"="))
        for before in range(3):  # bytes that stand before the value in its first three
            letters = cut(encode(bytes(before) + raw), before, len(raw), 6)
            yield letters
            yield letters.replace(b"+", b"%2B").replace(b"/", b"%2F")


def in_base64_twice(raw: bytes) -> Iterator[bytes]:
    """The letters of base64 in base64; alone with all of its end, and as it is printed, in lines of 76."""
    inner = [cut(base64.b64encode(bytes(before) + raw), before, len(raw), 6) for before in range(3)]
    for each in (base64.b64encode(raw), base64.encodebytes(raw), base64.encodebytes(raw + b"\n"), *inner):
        for before in range(3):
            yield cut(base64.b64encode(bytes(before) + each), before, len(each), 6)


def in_base32(raw: bytes) -> Iterator[bytes]:
    """As base32, alone or within more."""
    for before in range(5):
        yield cut(base64.b32encode(bytes(before) + raw), before, len(raw), 5)


# ----------------------------------------------------------------- views ----
# The noise is taken away at C's speed. Where a byte of what remains stood is
# asked only for what was found, which is seldom.

BLOCK = 1024
IS_TEXT = bytes(byte not in NOISE for byte in range(256))
COLOURS = regex(rb"\x1b(?:\[[0-?]*[ -/]*(?:[@-~]|\Z)|[ -/]*(?:[0-Z\\^-~]|\Z))")  # ECMA-48; of the last one not all may be there
SOFT = regex(rb"=\r?(?:\n|\Z)")  # quoted-printable: the line goes on


class View:
    """The bytes of some stretches of `data`, less the noise: `text`. From `open` on it may mean something else with more data."""

    def __init__(self, data: bytes, stretches: list[tuple[int, int]]) -> None:
        self.data, self.stretches, self.open = data, stretches, len(data)
        whole = data if stretches == [(0, len(data))] else b"".join(data[start:end] for start, end in stretches)
        self.text = solid(whole)
        self.blocks: list[tuple[int, int, int]] = []  # of the data: how much of the text is before, start, end
        self.here: tuple[int, list[int]] = -1, []  # the places of the text's bytes in the block that was asked for last

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
            self.here = number, list(itertools.compress(range(start, end), self.data[start:end].translate(IS_TEXT)))
        return self.here[1][index - before]

    def end(self, index: int) -> int:
        """Where in the data a string ends whose last byte this is."""
        return self.place(index) + 1

    def beginning(self, index: int) -> int:
        """From where on the data is wanted when more of it comes, if a string may begin at that byte."""
        return self.place(index) if index < len(self.text) else len(self.data)


class Exact(View):
    """The data as it is."""

    def __init__(self, data: bytes) -> None:
        self.data, self.text, self.open = data, data, len(data)

    def place(self, index: int) -> int:
        return index


ROW = regex(rb"(?m)^[0-9a-fA-F]{6,16}(:?)[ \t]+(\S[^\n]*)(\n?)")
OPEN_ROW = regex(rb"[0-9a-fA-F]{1,16}:?|[0-9a-fA-F]{6,16}:?[ \t][^\n]*")
DIGITS: list[tuple[re.Pattern[bytes], Callable[[bytes], bytes]]] = [  # how the numbers of a row are written
    (regex(rb"[0-9a-fA-F]{2}"), lambda word: bytes([int(word, 16)])),
    (regex(rb"[0-7]{3}"), lambda word: bytes([int(word, 8) & 255])),
    (regex(rb"[0-9a-fA-F]{4}"), lambda word: int(word, 16).to_bytes(2, "little")),
    (regex(rb"[0-7]{6}"), lambda word: (int(word, 8) & 65535).to_bytes(2, "little")),
    (regex(rb"[^ ]|\\.|[0-7]{3}"), lambda word: bytes([int(word, 8) & 255]) if len(word) == 3 else word[-1:]),
]


def open_row(data: bytes) -> int:
    """Where the last line begins, if it may become a row of a dump; else the length."""
    start = data.rfind(b"\n") + 1
    return start if OPEN_ROW.fullmatch(data, start) else len(data)


class Dump(View):
    """What a dump in rows shows, as xxd, hexdump and od print it: an offset, numbers, and often the text beside them."""

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
            words = [(at + n, word[n : n + 2]) for at, word in words for n in range(0, len(word), 2)]
        if words and not row[3] and row.end() == len(self.data):
            words.pop()  # of the last one not all may be there
        for pattern, read in DIGITS:
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
    """The data less its noise; and where there are colours, soft line breaks or rows of a dump, less those."""
    yield View(data, [(0, len(data))])
    if b"\x1b" in data:
        yield without(data, COLOURS)
    if b"=\n" in data or b"=\r\n" in data or data.endswith((b"=", b"=\r")):
        yield without(data, SOFT)
    if b"\n000" in data or data.startswith(b"000"):
        yield Dump(data)


# --------------------------------------------------------------- strings ----

STEPS: list[tuple[Literal["Q", "I"], int, int]] = [("Q", 8, 16), ("Q", 8, 8), ("I", 4, 4)]  # see Strings


class Strings:
    """Byte strings to look for, none shorter than SHORTEST.

    The search looks at few places. A string that is long enough covers some place whose offset is a multiple of `step`,
    with a word of 8 or 4 bytes after it, wherever it begins; that word is one of the first `step` in the string. So
    the words at those places are looked up in a set, at C's speed, in one pass for any number of strings; only a string
    of which a word was seen is searched for.
    """

    def __init__(self, strings: Iterable[bytes]) -> None:
        self.sorted = sorted(strings)
        shortest = min(map(len, self.sorted))
        self.type, self.size, self.step = next(each for each in STEPS if each[1] + each[2] - 1 <= shortest)
        self.covered = self.size + self.step - 1  # of so many bytes in a row, some word is looked at
        self.words: dict[int, bytes] = {}
        self.others: dict[int, list[bytes]] = {}  # more strings with the same word
        for start in range(self.step):
            joined = b"".join([string[start : start + self.size] for string in self.sorted])
            for word, string in zip(memoryview(joined).cast(self.type), self.sorted, strict=True):
                if self.words.setdefault(word, string) is not string:
                    self.others.setdefault(word, []).append(string)

    def suspects(self, text: bytes) -> set[bytes]:
        """The strings that may be in `text`, whole or with their first `covered` bytes or more."""
        words = memoryview(text)[: len(text) // self.size * self.size].cast(self.type)[:: self.step // self.size]
        seen = self.words.keys() & words
        return {string for word in seen for string in (self.words[word], *self.others.get(word, ()))}

    def beginning(self, text: bytes, suspects: set[bytes]) -> int:
        """Where the longest end of `text` begins that is the beginning of a string, but not all of it; else its length."""
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
    """Where a string is in a text: starts and ends, those that overlap by a repetition in the string as one.

    Of one that repeats itself (abababab) there may be one at every other byte. So a repetition is followed to its end by
    comparing the text with itself, in pieces that double. What overlaps otherwise does so by less than half: that is
    linear in the text for any string.
    """
    start = text.find(string)
    while start >= 0:
        end = start + len(string)
        last = start
        near = text.find(string, start + 1, end + len(string) - 1)
        if 0 <= near < end and near - start <= len(string) // 2:
            period, piece = near - start, 1 << 6
            while piece:
                if text[end : end + piece] == text[end - period : end - period + piece] and end + piece <= len(text):
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


# --------------------------------------------------------------- looking ----

Secrets = dict[str, list[str]]  # values by place, GROUP/KEY: one, or more where two machines set it and nobody has settled that


class Form(Fields, frozen=True, order=True):
    """What a string says when it is found: a value of which place, in which form."""

    place: str
    kind: str


def meanings_of(secrets: Secrets) -> dict[bytes, list[Form]]:
    """All strings by which these secrets can be recognized, less their noise, and what each says."""
    meanings: dict[bytes, list[Form]] = {}
    for place in sorted(secrets):
        for value in secrets[place]:
            for string, kind in forms_of(value, len(secrets) <= MANY).items():
                meanings.setdefault(string, []).append(Form(place, kind))
    return meanings


def exact_of(secrets: Secrets) -> dict[bytes, list[Form]]:
    """The same for those that are to be found with their noise."""
    meanings: dict[bytes, list[Form]] = {}
    for place in sorted(secrets):
        for value in secrets[place]:
            for string, kind in exact_forms_of(value).items():
                meanings.setdefault(string, []).append(Form(place, kind))
    return meanings


def untold(places: avault.Places, purpose: str, names: list[str]) -> list[str]:
    """Of the names of short values those that were not yet told for that purpose; they are noted in the state directory."""
    path = places.own("told")
    try:
        told = avault.read_file(path).decode().splitlines()
    except (avault.AvaultError, OSError, UnicodeDecodeError):
        told = []
    new = [name for name in names if f"{purpose} {name}" not in told]
    if new:
        with contextlib.suppress(OSError, avault.AvaultError):  # then they are told again
            avault.write_file(path, "".join(f"{line}\n" for line in [*told, *(f"{purpose} {name}" for name in new)]).encode())
    return new


class Search:
    """The search for strings in all views of some data, and for some in the data as it is."""

    def __init__(self, strings: Iterable[bytes], exact: Iterable[bytes]) -> None:
        solid_ones, exact_ones = list(strings), list(exact)
        self.strings = Strings(solid_ones) if solid_ones else None
        self.exact = Strings(exact_ones) if exact_ones else None
        self.longest = max(map(len, solid_ones + exact_ones), default=0)

    def views(self, data: bytes) -> Iterator[tuple[View, Strings]]:
        """The views in which to look, each with the strings to look for."""
        if self.strings:
            for view in views_of(data):
                yield view, self.strings
        if self.exact:
            yield Exact(data), self.exact
