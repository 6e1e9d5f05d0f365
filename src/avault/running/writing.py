"""A value, as it must stand in a place of a template."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING

from avault.late import regex
from avault.running.templates import Place
from avault.vault.formats import PLAIN, quote_dotenv

if TYPE_CHECKING:
    from collections.abc import Callable


class Breaks(Exception):
    """Why a value cannot stand in a place."""


YAML_UNPRINTABLE = regex("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufdd0-\ufdef\ufffe\uffff]")
YAML_WORDS = frozenset("null yes no on off y n".split())
SURE = regex(r"-?(0|[1-9][0-9]{0,17})|true|false")  # mean the same to all, as a string or not
BREAKERS = regex(r"""[\s'"`\\$#;&<>\x00-\x1f\x7f]""")


def refuse_characters(value: str, pattern: str, what: str) -> str:
    """`value`, if it has nothing of a pattern; raises Breaks."""
    if re.search(pattern, value):
        raise Breaks(f"it has {what}")
    return value


def one_line(value: str) -> str:
    """`value`, if it is one line of text."""
    return refuse_characters(
        value, r"[\x00-\x1f\x7f\x85\u2028\u2029]", "line ends or control characters"
    )


def quote_json(value: str) -> str:
    """The inside of a JSON string; of a TOML string too."""
    return json.dumps(value, ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f")


def quote_yaml(value: str) -> str:
    """The inside of a double-quoted YAML scalar."""
    quoted = (
        value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    )
    return YAML_UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def write_json(text: str, start: int, end: int, place: Place | None, value: str) -> str:
    """A value in JSON: in a string, or as JSON of its own."""
    if place:
        return (
            quote_json(value)
            if place.kind == "string"
            else one_line(refuse_characters(value, r"\*/", "the end of a comment"))
        )
    try:
        json.loads(value, parse_constant=lambda _: int("not JSON"))
        return value
    except (ValueError, RecursionError):
        raise Breaks("it is not JSON, and stands outside of quotes") from None


def write_toml(text: str, start: int, end: int, place: Place | None, value: str) -> str:
    """A value in TOML: in a string of one of four kinds, or as a value of its own."""
    if place is None:
        if text[:start].rstrip(" \t")[-1:] not in ("=", "[", ",", "\n") or text[end:].lstrip(
            " \t\r"
        )[:1] not in (
            "",
            "\n",
            ",",
            "]",
            "#",
            "}",
        ):
            raise Breaks("it stands in a longer word without quotes")
        return value if SURE.fullmatch(value) else f'"{quote_json(value)}"'
    if place.kind == "string":
        return quote_json(value)
    if place.kind == "comment":
        return one_line(value)
    refuse_characters(
        value, r"'|\A\n", "a single quote or begins with a line end, and stands in single quotes"
    )
    return (
        refuse_characters(value, r"[\x00-\x08\x0b-\x1f\x7f]", "control characters")
        if place.kind == "lines"
        else one_line(value)
    )


def write_yaml(text: str, start: int, end: int, place: Place | None, value: str) -> str:
    """A value in YAML: in a scalar of one of five kinds, or as one."""
    kind = place.kind if place else "other"
    if place is None or kind == "other":
        return refuse_characters(
            value, r"[^A-Za-z0-9_./@+-]", "characters that mean something there"
        )
    if kind == "double":
        return quote_yaml(value)
    if kind == "single":
        return one_line(value).replace("'", "''")
    if kind == "comment":
        return one_line(value)
    if kind in ("literal", "folded"):
        return write_block(text, start, end, place, value)
    is_whole = text[place.start : place.end] == text[start:end]
    if SURE.fullmatch(value) or (
        re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./@+-]*", value) and value.lower() not in YAML_WORDS
    ):
        return value
    if is_whole:
        return f'"{quote_yaml(value)}"'
    one_line(
        refuse_characters(value, r"\s", "white space, and stands in a longer word without quotes")
    )
    if place.is_flow:
        refuse_characters(
            value, r"[,\[\]{}]", "brackets or commas, and stands in brackets without quotes"
        )
    is_first = start == place.start and not re.match("[A-Za-z0-9_./]", value)
    if is_first or value[-1] == ":" or (value[0] == "#" and text[start - 1] in " \t"):
        raise Breaks("it begins or ends with a character that means something there")
    return value


def write_block(text: str, start: int, end: int, place: Place, value: str) -> str:
    """A value in the lines of a YAML block.

    They get the indent of the line that the reference is on.
    """
    refuse_characters(
        value, "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff]", "control characters"
    )
    if value[0] in " \t\n":
        raise Breaks("it begins with white space")
    if place.kind == "folded":
        return one_line(value)
    line = text.rfind("\n", 0, start) + 1
    before = text[line:start]
    indent = before if not before.strip(" ") else " " * place.indent
    is_alone = indent is before and text[end : end + 1] in ("", "\n", "\r")
    return (value.removesuffix("\n") if is_alone else value).replace("\n", "\n" + indent)


def write_dotenv(text: str, start: int, end: int, place: Place | None, value: str) -> str:
    """A value in a .env file: in quotes, or as a value of its own, as `avault export` writes it."""
    refuse_characters(value, "\r", "a carriage return")
    kind = place.kind if place else "other"
    if kind == "double":
        return re.sub(r'([\\"$`])', r"\\\1", value)
    if kind == "single":
        return refuse_characters(
            value, r"'|\\\\|\\$|\\\Z", "quotes or backslashes, and stands in single quotes"
        )
    if kind == "comment":
        return one_line(value)
    if place and kind == "plain" and text[place.start : place.end] == text[start:end]:
        return quote_dotenv("K", value)[2:-1]
    return refuse_characters(
        value,
        f"[^{re.escape(''.join(sorted(PLAIN)))}]",
        "characters that need quotes around the whole",
    )


def write_shell(text: str, start: int, end: int, place: Place | None, value: str) -> str:
    """A value in a shell script: in quotes, or as a word or a part of one."""
    kind = place.kind if place else "bare"
    quoted = text[place.start : start] if place and kind == "double" else ""
    line = text[text.rfind("\n", 0, start) + 1 : start]
    if re.search(r"\$\(|`", quoted) or re.search(r'"[^"\n]*(?:\$\(|`)', line):
        kind = "other"  # quotes in a command in quotes
    if kind == "double":
        return re.sub(r'([\\"$`])', r"\\\1", value)
    if kind == "single":
        return value.replace("'", "'\\''")
    if kind == "bare":
        return shlex.quote(value)
    if kind == "comment":
        return one_line(value)
    return refuse_characters(
        value,
        f"[^{re.escape(''.join(sorted(PLAIN)))}]",
        "characters that mean something to a shell there",
    )


def write_xml(text: str, start: int, end: int, place: Place | None, value: str) -> str:
    """A value in XML: in text, in an attribute, in CDATA, in a comment."""
    refuse_characters(value, "[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "control characters")
    kind = place.kind if place else "text"
    if kind == "cdata":
        return refuse_characters(
            value, r"\]\]|\]\Z|\r", "the end of a CDATA section, or a carriage return"
        )
    if kind == "comment":
        return refuse_characters(value, r"-(-|\Z)", "the end of a comment")
    if kind == "other":
        return refuse_characters(value, "[^A-Za-z0-9_.-]", "characters that mean something there")
    value = (
        value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")
    )
    if kind == "attribute":
        for character, written in (
            ('"', "&quot;"),
            ("'", "&apos;"),
            ("\n", "&#10;"),
            ("\t", "&#9;"),
        ):
            value = value.replace(character, written)
    return value


WRITERS: dict[str, Callable[[str, int, int, Place | None, str], str]] = {
    "json": write_json, "yaml": write_yaml, "toml": write_toml, "dotenv": write_dotenv,
    "shell": write_shell, "xml": write_xml,
}  # fmt: skip
