"""What a template is written in, and where in it a reference stands.

A value is put where its reference stands, so that whoever reads the file gets that very value and
nothing else of the file changes its meaning. What a template is written in tell its name, the
output's name, its first bytes, or --for. Where nothing tells it, or where a place can hold no such
value, a value that could break the file is refused.
"""

from __future__ import annotations

import bisect
import json
import os
import re
from typing import TYPE_CHECKING

from avault.late import Fields, regex

if TYPE_CHECKING:
    from collections.abc import Iterator


TEMPLATE_FORMS = ("json", "yaml", "toml", "dotenv", "shell", "xml", "text")
ENDINGS = {
    "json": "json", "jsonc": "json", "yaml": "yaml", "yml": "yaml", "toml": "toml", "env": "dotenv",
    "sh": "shell", "bash": "shell", "zsh": "shell", "envrc": "shell", "profile": "shell",
    "bashrc": "shell", "zshrc": "shell", "xml": "xml", "plist": "xml", "svg": "xml", "xhtml": "xml",
    "txt": "text", "md": "text", "pem": "text", "key": "text", "crt": "text",
}  # fmt: skip
OF_TEMPLATES = frozenset("tmpl tpl template in j2 jinja example sample dist".split())
TEMPLATE_REFERENCE = regex(
    "avault://([A-Za-z0-9][A-Za-z0-9._-]{0,63}/[A-Za-z_][A-Za-z0-9_]{0,127})"
)


def form_of_name(path: str | None) -> str | None:
    """What a file of that name is written in: config.json, config.json.tmpl, .env.production.

    None where it does not tell.
    """
    parts = os.path.basename(path or "").split(".")
    while len(parts) > 1 and parts[-1] in OF_TEMPLATES:
        parts.pop()
    if parts[0] == "" and parts[1:2] == ["env"]:
        return "dotenv"
    return ENDINGS.get(parts[-1].lower()) if len(parts) > 1 else None


def form_of_text(text: str) -> str | None:
    """What a text is written in, if it shows: JSON is what JSON parses."""
    if text.lstrip()[:1] in ("{", "["):
        try:
            json.loads(TEMPLATE_REFERENCE.sub("0", text))
            return "json"
        except (ValueError, RecursionError):
            return None
    if re.match(r"\s*<[?!A-Za-z]", text):
        return "xml"
    return "shell" if re.match(r"#!.*\b(ba|da|z|k)?sh\b", text) else None


class Place(Fields, frozen=True):
    """A piece of a text in which the same rules hold: what it is, and where it begins and ends.

    `indent` is that of a YAML block; `is_flow` tells whether a YAML scalar is in brackets.
    """

    kind: str
    start: int
    end: int
    indent: int = 0
    is_flow: bool = False


DOUBLE_QUOTED = r'"(?:\\.|[^"\\])*"'
TEMPLATE_TOKENS = {
    "json": rf"""(?P<string>{DOUBLE_QUOTED}?) | (?P<comment>(?<!:)//[^\n]*|/\*.*?(?:\*/|\Z))""",
    "toml": r"""(?P<string>\"{3}(?:\\.|[^\\]|\\\Z)*?(?:\"{3}|\Z)|"(?:\\.|[^"\\\n])*"?)
        | (?P<lines>'{3}.*?(?:'{3}|\Z)) | (?P<literal>'[^'\n]*'?) | (?P<comment>\#[^\n]*)""",
    "dotenv": rf"""(?m:(?P<comment>^[ \t]*\#[^\n]*)
        | ^[ \t]*(?:export[ \t]+)?[A-Za-z_][A-Za-z0-9_]*[ \t]*=[ \t]*
        (?:(?P<single>'(?:\\.|[^'\\])*') | (?P<double>{DOUBLE_QUOTED}) | (?P<other>`[^`]*`)
        | (?P<plain>(?:[^ \t\r\n]++|[ \t\r]++(?![\#\n]|\Z))*+)))""",
    "shell": rf"""(?P<document>(?<!<)<<-?[ \t]*['"\\]?(?P<end>\w+))
        | (?P<single>'[^']*') | (?P<double>{DOUBLE_QUOTED})
        | (?P<other>\$'(?:\\.|[^'\\])*'|`(?:\\.|[^`\\])*`|\\.)
        | (?P<comment>(?:^|(?<=[\s;&|(]))\#[^\n]*)""",
    "xml": r"""(?P<comment><!--.*?(?:-->|\Z)) | (?P<cdata><!\[CDATA\[.*?(?:\]\]>|\Z))
        | (?P<other><[?!].*?(?:>|\Z)) | (?P<tag></?[A-Za-z_:](?:"[^"]*"|'[^']*'|[^<>"'])*+>?)""",
}


def find_tokens(form: str, text: str) -> Iterator[Place]:
    """The places of a text in a form whose tokens an expression tells."""
    flags = re.DOTALL | re.VERBOSE | (re.MULTILINE if form == "shell" else 0)
    pattern, ends, at = re.compile(TEMPLATE_TOKENS[form], flags), find_words(form, text), 0
    while found := pattern.search(text, at):
        at = found.end()
        kind = next(
            (
                name
                for name, piece in found.groupdict().items()
                if piece is not None and name != "end"
            ),
            None,
        )
        if kind == "tag":
            yield Place("other", *found.span())
            for value in re.finditer(r"""=\s*("[^"]*"|'[^']*')""", found[0]):
                yield Place(
                    "attribute", found.start() + value.start(1), found.start() + value.end(1)
                )
        elif kind == "document":
            known = ends.get(found["end"], [])
            if known and known[-1] > at and (line := text.find("\n", at)) >= 0:
                following = bisect.bisect_left(known, line + 1)
            else:
                following = len(known)
            if following < len(known):
                at = known[following]
                yield Place(kind, found.start(), at)
            else:  # no here-document, as in $((1 << 2)); or one of another form: its quotes count
                at = found.start() + 2
        elif kind:
            yield Place(kind, *found.span(kind))


def find_words(form: str, text: str) -> dict[str, list[int]]:
    """Where the lines of a shell script end that may end a here-document, by what they say."""
    found: dict[str, list[int]] = {}
    end = -1
    for line in text.split("\n") if form == "shell" else []:
        end += len(line) + 1
        found.setdefault(line.lstrip("\t"), []).append(end)
    return found


YAML_DOUBLE = regex(r'(?s)"(?:\\.|[^"\\])*"?')
YAML_SINGLE = regex(r"'(?:''|[^'])*'?")
YAML_PROPERTY = regex(r"[&*!][^\s,\[\]{}]*")
YAML_BLOCK = regex(r"[|>][-+0-9]*[ \t]*(?:#[^\n]*)?\r?(?:\n|\Z)")
YAML_PLAIN = regex(r"(?:[^\n:#]|:(?=[^ \t\r\n])|(?<![ \t])#)+")
YAML_FLOW = regex(r"(?:[^\n:#,\[\]{}]|:(?=[^ \t\r\n,\[\]{}])|(?<![ \t])#)+")


def find_yaml(text: str) -> Iterator[Place]:
    """The scalars and comments of a YAML text (YAML 1.2, chapters 6 to 8)."""
    at = flow = 0
    while at < len(text):
        c, following = text[at], text[at + 1 : at + 2]
        found: re.Match[str] | None = None
        if c == "#" and (at == 0 or text[at - 1] in " \t\n"):
            found, kind = re.compile("[^\n]*").match(text, at), "comment"
        elif c == '"':
            found, kind = YAML_DOUBLE.match(text, at), "double"
        elif c == "'":
            found, kind = YAML_SINGLE.match(text, at), "single"
        elif c in "&*!":
            found, kind = YAML_PROPERTY.match(text, at), "other"
        elif c in "|>" and not flow and (header := YAML_BLOCK.match(text, at)):
            block = read_block(text, at, header.end())
            yield block
            at = block.end
            continue
        elif (
            c in "[{]}"
            or c in " \t\r\n"
            or (c in "-?:" and (not following or following in " \t\r\n"))
            or (c == "," and flow)
        ):
            flow = max(flow + (c in "[{") - (c in "]}"), 0)
        elif c != ":" or text[at - 1 : at] not in ('"', "'"):
            found, kind = (YAML_FLOW if flow else YAML_PLAIN).match(text, at), "plain"
        if found:
            end = at + len(found[0].rstrip()) if kind == "plain" else found.end()
            yield Place(kind, at, end, is_flow=flow > 0)
            at = max(end, at + 1)
        else:
            at += 1


def read_block(text: str, header: int, start: int) -> Place:
    """The block scalar whose header stands there.

    Its lines have an indent that is more than the header's line has.
    """
    line = text.rfind("\n", 0, header) + 1
    outer = len(text[line:header]) - len(text[line:header].lstrip(" "))
    first = re.compile(r"(?:[ \t\r]*\n)*( *)[^ \n]").match(text, start)
    indent = len(first[1]) if first else 0
    if indent <= outer:
        return Place("other", header, start)
    end = re.compile(rf"(?m)^ {{0,{indent - 1}}}[^ \n\r]").search(text, start)
    return Place(
        "literal" if text[header] == "|" else "folded",
        start,
        end.start() if end else len(text),
        indent,
    )
