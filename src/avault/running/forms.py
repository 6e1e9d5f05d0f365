"""All forms of a value that avault knows: what `run` and `mcp` mask is what `scan` finds.

A value leaves a program as it is, or encoded, quoted, coloured, or broken into lines. What quoting,
colours and line breaks add is noise: it is taken away from the text before it is searched, and from
the forms too. What an encoding makes of a value is a string of its own. So what remains is to find
some thousand strings in a text, fast.
"""

from __future__ import annotations

import base64
import html
import json
import re
import urllib.parse
from typing import TYPE_CHECKING

from avault.late import regex

if TYPE_CHECKING:
    from collections.abc import Iterator


# bytes of a value, or of a part of it, that is looked for; shorter ones are all over any text by
# chance
SHORTEST = 8
LONG = 8 << 10  # bytes of a value of which only the usual encodings are looked for
MANY = 200  # secrets beyond which it is only the usual encodings of each
MOST_PARTS = 64  # of one value
NOISE = (
    # what line breaks, indentation, quoting in any language, and UTF-16 put between the bytes of a
    # value
    b" \t\r\n\v\f\0\\'\""
)

BLANK = " \t\r\n\v\f"  # and not what else Unicode calls so: that is part of a value
ARMOUR = regex(r"-----(BEGIN|END) [^-]*-----")  # RFC 7468: says only that here begins or ends a key
# without its scheme, which would be quadratic
URL = regex(r"(?<=[A-Za-z0-9+.-])://([^\s/?#@]*(?:@[^\s/?#@]+)*)@")
PAIR = regex(r"([^\s:/@]+):(?!//)(\S+)")
SIMPLE = regex("[A-Za-z0-9_.-]+")  # nobody quotes or escapes that
WORD = regex(r"[a-z_.-]+")
COMMON = {
    "postgres",
    "postgresql",
    "username",
    "password",
    "anonymous",
    "administrator",
    "x-access-token",
    "x-token-auth",
}
SECRET = regex(r"(?i)pass|pwd|secret|token|key|auth|cred|priv|pin\b")


def solid(data: bytes) -> bytes:
    """`data` less its noise."""
    return data.translate(None, NOISE)


def forms_of(value: str, rare: bool = True) -> dict[bytes, str]:
    """The strings by which a value can be recognized in a text less its noise, each with its kind.

    There are none for a short value.

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
    """The strings to be found in a text with its noise.

    They are for a value that consists of little else (`"" "" "a"`).
    """
    text = value.strip(BLANK)
    if is_short(text) or len(solid(text.encode())) >= SHORTEST:
        return {}
    spelled = [
        ("plain", [text]),
        ("json", in_json(text)),
        ("escaped", in_programs(text)),
        ("html", in_html(text)),
    ]
    return {form.encode(): kind for kind, forms in reversed(spelled) for form in forms}


def parts_of(text: str) -> list[str]:
    """What is secret by itself in a structured value.

    Strings inside JSON; user and password of URLs, as they stand there and decoded; of
    user:password both.
    """
    found: list[str] = []
    if text[:1] in ("{", "["):
        try:
            found += strings_in(json.loads(text), False)
        except (ValueError, RecursionError):
            pass
    for url in URL.finditer(text):
        user, _, password = url[1].partition(":")
        found += (
            each
            for name in (user, password)
            for each in (name, urllib.parse.unquote(name))
            if name not in COMMON
        )
    if pair := PAIR.fullmatch(text):
        found += (each for each in pair.groups() if each not in COMMON)
    kept = [
        part
        for part in dict.fromkeys(map(str.strip, found))
        if part != text and len(part.encode()) >= SHORTEST
    ]
    return kept[:MOST_PARTS]


def strings_in(tree: object, is_named: bool) -> Iterator[str]:
    """The strings in JSON that may be secret.

    What a key's name says, and what is more than a word or an address.
    """
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
    """What encodings make of a text, less its noise, each with its kind.

    The rare ones if they are wanted.
    """
    raw = text.encode()
    yield solid(raw), "plain"
    if not SIMPLE.fullmatch(text):
        for kind, spell in (
            ("json", in_json),
            ("escaped", in_programs),
            ("url", in_urls),
            ("html", in_html),
        ):
            yield from ((solid(each.encode()), kind) for each in spell(text))
        yield (
            solid(re.sub(rb"[^!-<>-~\s]", lambda found: b"=%02X" % found[0][0], raw)),
            "quoted-printable",
        )
        for width in ("utf-16-le", "utf-16-be"):  # of ASCII they add noise alone
            yield solid(text.encode(width)), "utf-16"
    for kind, encode in (("hex", in_hex), ("base64", in_base64)):
        yield from ((each, kind) for each in encode(raw))
    if rare and len(raw) <= LONG:
        for kind, encode in (
            ("hex", in_hex_apart),
            ("base64", in_base64_twice),
            ("base32", in_base32),
        ):
            yield from ((each, kind) for each in encode(raw))
        numbers = str([*raw])[1:-1].replace(" ", "")
        yield from ((numbers.encode(), "decimal"), (numbers.replace(",", "").encode(), "decimal"))
        yield f"&#{str([*map(ord, text)])[1:-1].replace(', ', ';&#')};".encode(), "html"
        for digits in (raw.hex(" "), raw.hex(" ").upper()):
            yield f"&#x{digits.replace(' ', ';&#x')};".encode(), "html"


def in_json(text: str) -> Iterator[str]:
    """As JSON has it; as Go, .NET and PHP escape it; with an escape's digits in either case."""
    for ascii_only in (True, False):
        escaped = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        quoted = escaped.replace('\\"', "\\u0022")
        in_go, in_net = (
            re.sub(letters, lambda found: f"\\u{ord(found[0]):04x}", each)
            for letters, each in (("[<>&]", escaped), ("[<>&'+`]", quoted))
        )
        for each in (escaped, in_go, in_net, escaped.replace("/", "\\/")):
            yield each
            yield re.sub(r"(?<=\\u)[0-9a-f]{4}", lambda found: found[0].upper(), each)


def in_programs(text: str) -> Iterator[str]:
    r"""As Python's repr has it, of text and of bytes, and shells in $'…'.

    Control characters stand there by letters or in octal.
    """
    raw = text.encode()
    for shown in (repr(text)[1:-1], ascii(text)[1:-1], repr(raw)[2:-1]):
        yield shown
        yield re.sub(r"(?<=\\x)[0-9a-f]{2}", lambda found: found[0].upper(), shown)
    letters = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 27: "E"}
    # from where on there is octal: bash in a locale of UTF-8, and in one of ASCII
    for last in ("\x1f", "~"):
        yield "".join(
            letters[ord(c)]
            if ord(c) in letters
            else "".join(f"{b:03o}" for b in c.encode())
            if c < " " or c > "~" >= last
            else c
            for c in text
        )


def in_urls(text: str) -> Iterator[str]:
    """Percent-encoded, in either case, and once more.

    As Python, encodeURIComponent, encodeURI and HTML forms do it.
    """
    once = [
        urllib.parse.quote(text, safe=safe)
        for safe in ("", "/", "*", "!~*'()", "!*'()", "!~*'();,/?:@&=+$#")
    ]
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


def cut_encoding(encoded: bytes, before: int, length: int, bits: int) -> bytes:
    """The letters that only `length` bytes after the first `before` decide.

    They are of an encoding of some bits to a letter.
    """
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
            letters = cut_encoding(encode(bytes(before) + raw), before, len(raw), 6)
            yield letters
            yield letters.replace(b"+", b"%2B").replace(b"/", b"%2F")


def in_base64_twice(raw: bytes) -> Iterator[bytes]:
    """The letters of base64 in base64.

    It stands alone with all of its end, and as it is printed, in lines of 76.
    """
    inner = [
        cut_encoding(base64.b64encode(bytes(before) + raw), before, len(raw), 6)
        for before in range(3)
    ]
    for each in (
        base64.b64encode(raw),
        base64.encodebytes(raw),
        base64.encodebytes(raw + b"\n"),
        *inner,
    ):
        for before in range(3):
            yield cut_encoding(base64.b64encode(bytes(before) + each), before, len(each), 6)


def in_base32(raw: bytes) -> Iterator[bytes]:
    """As base32, alone or within more."""
    for before in range(5):
        yield cut_encoding(base64.b32encode(bytes(before) + raw), before, len(raw), 5)
