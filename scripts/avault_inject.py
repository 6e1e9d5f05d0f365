"""avault inject: values into a template, written as the form around them wants it.

A value is put where its reference stands, so that whoever reads the file gets that very value and nothing else of the
file changes its meaning. What a template is written in tell its name, the output's name, its first bytes, or --for. Where
nothing tells it, or where a place can hold no such value, a value that could break the file is refused.

    forms     what a template is written in
    places    where in a text of that form a reference stands
    writing   a value, as it must stand there
    filling   all references of a template
    command   avault inject
"""

from __future__ import annotations

import bisect
import json
import os
import re
import shlex
import stat
import sys
from collections.abc import Callable, Iterator

from avault_forms import Secrets
from avault_run import find_references, resolve, reveal

import avault
from avault import AvaultError, Denied, Fields, NotFound, Terminal, Usage, command, option, printable, put, regex, say

# ----------------------------------------------------------------- forms ----

FORMS = ("json", "yaml", "toml", "dotenv", "shell", "xml", "text")
ENDINGS = {
    "json": "json", "jsonc": "json", "yaml": "yaml", "yml": "yaml", "toml": "toml", "env": "dotenv", "sh": "shell",
    "bash": "shell", "zsh": "shell", "envrc": "shell", "profile": "shell", "bashrc": "shell", "zshrc": "shell", "xml": "xml",
    "plist": "xml", "svg": "xml", "xhtml": "xml", "txt": "text", "md": "text", "pem": "text", "key": "text", "crt": "text",
}  # fmt: skip
OF_TEMPLATES = frozenset("tmpl tpl template in j2 jinja example sample dist".split())
REFERENCE = regex("avault://([A-Za-z0-9][A-Za-z0-9._-]{0,63}/[A-Za-z_][A-Za-z0-9_]{0,127})")


def form_of_name(path: str | None) -> str | None:
    """What a file of that name is written in: config.json, config.json.tmpl, .env.production; None where it does not tell."""
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
            json.loads(REFERENCE.sub("0", text))
            return "json"
        except (ValueError, RecursionError):
            return None
    if re.match(r"\s*<[?!A-Za-z]", text):
        return "xml"
    return "shell" if re.match(r"#!.*\b(ba|da|z|k)?sh\b", text) else None


# ---------------------------------------------------------------- places ----


class Place(Fields, frozen=True):
    """A piece of a text in which the same rules hold: what it is, and where it begins and ends.

    `indent` is that of a YAML block; `is_flow` tells whether a YAML scalar is in brackets.
    """

    kind: str
    start: int
    end: int
    indent: int = 0
    is_flow: bool = False


DOUBLE = r'"(?:\\.|[^"\\])*"'
TOKENS = {
    "json": rf"""(?P<string>{DOUBLE}?) | (?P<comment>(?<!:)//[^\n]*|/\*.*?\*/)""",
    "toml": r"""(?P<string>\"{3}(?:\\.|[^\\])*?\"{3}|"(?:\\.|[^"\\\n])*"?)
        | (?P<lines>'{3}.*?'{3}) | (?P<literal>'[^'\n]*'?) | (?P<comment>\#[^\n]*)""",
    "dotenv": rf"""(?m:(?P<comment>^[ \t]*\#[^\n]*)
        | ^[ \t]*(?:export[ \t]+)?[A-Za-z_][A-Za-z0-9_]*[ \t]*=[ \t]*
        (?:(?P<single>'(?:\\.|[^'\\])*') | (?P<double>{DOUBLE}) | (?P<other>`[^`]*`)
        | (?P<plain>[^\n]*?)(?=[ \t]+\#|[ \t\r]*$)))""",
    "shell": rf"""(?P<document>(?<!<)<<-?[ \t]*['"\\]?(?P<end>\w+)['"]?[^\n]*\n.*?^\t*(?P=end)$)
        | (?P<single>'[^']*') | (?P<double>{DOUBLE}) | (?P<other>\$'(?:\\.|[^'\\])*'|`(?:\\.|[^`\\])*`) | \\.
        | (?P<comment>(?:^|(?<=[\s;&|(]))\#[^\n]*)""",
    "xml": r"""(?P<comment><!--.*?-->) | (?P<cdata><!\[CDATA\[.*?\]\]>) | (?P<other><[?!].*?>)
        | (?P<tag></?[A-Za-z_:](?:"[^"]*"|'[^']*'|[^<>"'])*>)""",
}


def find_tokens(form: str, text: str) -> Iterator[Place]:
    """The places of a text in a form whose tokens an expression tells."""
    flags = re.DOTALL | re.VERBOSE | (re.MULTILINE if form == "shell" else 0)
    for found in re.compile(TOKENS[form], flags).finditer(text):
        kind = next((name for name, piece in found.groupdict().items() if piece is not None and name != "end"), None)
        if kind == "tag":
            yield Place("other", *found.span())
            for value in re.finditer(r"""=\s*("[^"]*"|'[^']*')""", found[0]):
                yield Place("attribute", found.start() + value.start(1), found.start() + value.end(1))
        elif kind:
            yield Place(kind, *found.span(kind))


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
        elif c in "[{]}" or c in " \t\r\n" or (c in "-?:" and (not following or following in " \t\r\n")) or (c == "," and flow):
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
    """The block scalar whose header stands there: its lines have an indent that is more than the header's line has."""
    line = text.rfind("\n", 0, header) + 1
    outer = len(text[line:header]) - len(text[line:header].lstrip(" "))
    first = re.compile(r"(?:[ \t\r]*\n)*( *)[^ \n]").match(text, start)
    indent = len(first[1]) if first else 0
    if indent <= outer:
        return Place("other", header, start)
    end = re.compile(rf"(?m)^ {{0,{indent - 1}}}[^ \n\r]").search(text, start)
    return Place("literal" if text[header] == "|" else "folded", start, end.start() if end else len(text), indent)


# --------------------------------------------------------------- writing ----


class Breaks(Exception):
    """Why a value cannot stand in a place."""


CONTROL = regex(r"[\x00-\x08\x0b-\x1f\x7f]")
YAML_UNPRINTABLE = regex("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufdd0-\ufdef\ufffe\uffff]")
YAML_WORDS = frozenset("null yes no on off y n".split())
SURE = regex(r"-?(0|[1-9][0-9]{0,17})|true|false")  # mean the same to all, as a string or not
BREAKERS = regex(r"""[\s'"`\\$#;&<>\x00-\x1f\x7f]""")


def refuse(value: str, pattern: str, what: str) -> str:
    """`value`, if it has nothing of a pattern; raises Breaks."""
    if re.search(pattern, value):
        raise Breaks(f"it has {what}")
    return value


def one_line(value: str) -> str:
    """`value`, if it is one line of text."""
    return refuse(value, r"[\x00-\x1f\x7f\x85\u2028\u2029]", "line ends or control characters")


def quote_json(value: str) -> str:
    """The inside of a JSON string; of a TOML string too."""
    return json.dumps(value, ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f")


def quote_yaml(value: str) -> str:
    """The inside of a double-quoted YAML scalar."""
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return YAML_UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def write_json(text: str, start: int, end: int, place: Place | None, value: str) -> str:
    """A value in JSON: in a string, or as JSON of its own."""
    if place:
        return quote_json(value) if place.kind == "string" else one_line(refuse(value, r"\*/", "the end of a comment"))
    try:
        json.loads(value, parse_constant=lambda _: int("not JSON"))
        return value
    except (ValueError, RecursionError):
        raise Breaks("it is not JSON, and stands outside of quotes") from None


def write_toml(text: str, start: int, end: int, place: Place | None, value: str) -> str:
    """A value in TOML: in a string of one of four kinds, or as a value of its own."""
    if place is None:
        if text[:start].rstrip(" \t")[-1:] not in ("=", "[", ",", "\n") or text[end:].lstrip(" \t\r")[:1] not in (
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
    refuse(value, r"'|\A\n", "a single quote or begins with a line end, and stands in single quotes")
    return refuse(value, r"[\x00-\x08\x0b-\x1f\x7f]", "control characters") if place.kind == "lines" else one_line(value)


def write_yaml(text: str, start: int, end: int, place: Place | None, value: str) -> str:
    """A value in YAML: in a scalar of one of five kinds, or as one."""
    kind = place.kind if place else "other"
    if place is None or kind == "other":
        return refuse(value, r"[^A-Za-z0-9_./@+-]", "characters that mean something there")
    if kind == "double":
        return quote_yaml(value)
    if kind == "single":
        return one_line(value).replace("'", "''")
    if kind == "comment":
        return one_line(value)
    if kind in ("literal", "folded"):
        return write_block(text, start, end, place, value)
    is_whole = text[place.start : place.end] == text[start:end]
    if SURE.fullmatch(value) or (re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./@+-]*", value) and value.lower() not in YAML_WORDS):
        return value
    if is_whole:
        return f'"{quote_yaml(value)}"'
    one_line(refuse(value, r"\s", "white space, and stands in a longer word without quotes"))
    if place.is_flow:
        refuse(value, r"[,\[\]{}]", "brackets or commas, and stands in brackets without quotes")
    is_first = start == place.start and not re.match("[A-Za-z0-9_./]", value)
    if is_first or value[-1] == ":" or (value[0] == "#" and text[start - 1] in " \t"):
        raise Breaks("it begins or ends with a character that means something there")
    return value


def write_block(text: str, start: int, end: int, place: Place, value: str) -> str:
    """A value in the lines of a YAML block: they get the indent of the line that the reference is on."""
    refuse(value, "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff]", "control characters")
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
    refuse(value, "\r", "a carriage return")
    kind = place.kind if place else "other"
    if kind == "double":
        return re.sub(r'([\\"$`])', r"\\\1", value)
    if kind == "single":
        return refuse(value, r"'|\\\\|\\$|\\\Z", "quotes or backslashes, and stands in single quotes")
    if kind == "comment":
        return one_line(value)
    if place and kind == "plain" and text[place.start : place.end] == text[start:end]:
        return avault.quote_dotenv("K", value)[2:-1]
    return refuse(value, f"[^{re.escape(''.join(sorted(avault.PLAIN)))}]", "characters that need quotes around the whole")


def write_shell(text: str, start: int, end: int, place: Place | None, value: str) -> str:
    """A value in a shell script: in quotes, or as a word or a part of one."""
    kind = place.kind if place else "bare"
    if re.search(r'"[^"\n]*(?:\$\(|`)', text[text.rfind("\n", 0, start) + 1 : start]):
        kind = "other"  # quotes in a command in quotes
    if kind == "double":
        return re.sub(r'([\\"$`])', r"\\\1", value)
    if kind == "single":
        return value.replace("'", "'\\''")
    if kind == "bare":
        return shlex.quote(value)
    if kind == "comment":
        return one_line(value)
    return refuse(value, f"[^{re.escape(''.join(sorted(avault.PLAIN)))}]", "characters that mean something to a shell there")


def write_xml(text: str, start: int, end: int, place: Place | None, value: str) -> str:
    """A value in XML: in text, in an attribute, in CDATA, in a comment."""
    refuse(value, "[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "control characters")
    kind = place.kind if place else "text"
    if kind == "cdata":
        return refuse(value, r"\]\]|\]\Z|\r", "the end of a CDATA section, or a carriage return")
    if kind == "comment":
        return refuse(value, r"-(-|\Z)", "the end of a comment")
    if kind == "other":
        return refuse(value, "[^A-Za-z0-9_.-]", "characters that mean something there")
    value = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")
    if kind == "attribute":
        for character, written in (('"', "&quot;"), ("'", "&apos;"), ("\n", "&#10;"), ("\t", "&#9;")):
            value = value.replace(character, written)
    return value


WRITERS: dict[str, Callable[[str, int, int, Place | None, str], str]] = {
    "json": write_json, "yaml": write_yaml, "toml": write_toml, "dotenv": write_dotenv, "shell": write_shell, "xml": write_xml,
}  # fmt: skip


# --------------------------------------------------------------- filling ----


def fill(template: bytes, form: str | None, secrets: Secrets, where: str) -> bytes:
    """A template with values for its references, written as its form wants it; raises Usage for one that would break it."""
    text = template.decode("utf-8", "surrogateescape")
    form = form or form_of_text(text)
    if form == "text" or (form is None and REFERENCE.fullmatch(text.strip())):
        return resolve(template, secrets)
    places = list(find_yaml(text) if form == "yaml" else find_tokens(form, text) if form else ())
    starts = [place.start for place in places]
    writer = WRITERS.get(form or "")

    def write(found: re.Match[str]) -> str:
        value = secrets[found[1]][0]
        index = bisect.bisect_right(starts, found.start()) - 1
        while index > 0 and places[index].kind == "attribute" and places[index].end <= found.start():
            index -= 1  # to the tag that it is in
        place = places[index] if index >= 0 and found.start() < places[index].end else None
        try:
            if writer:
                return writer(text, *found.span(), place, value)
            if BREAKERS.search(value):
                raise Breaks("it has characters that may mean something there")
            return value
        except Breaks as reason:
            line = text.count("\n", 0, found.start()) + 1
            hint = (
                "--for text puts it there as it is"
                if writer
                else "say what the template is: --for json, yaml, toml, dotenv, shell, xml, text"
            )
            raise Usage(f"{where}, line {line}: {found[1]} would break it: {reason}", hint) from None

    return REFERENCE.sub(write, text).encode("utf-8", "surrogateescape")


# --------------------------------------------------------------- command ----


@command("inject", option("-i", "--input", "source"), option("-o", "--output", "target"), option("--for", "form"))
def cmd_inject(terminal: Terminal, source: str | None, target: str | None, form: str | None) -> int:
    """usage: avault inject [-i TEMPLATE] [-o FILE] [--for json|yaml|toml|dotenv|shell|xml|text]

    Replaces avault://GROUP/KEY in a template by its value, written as it must be
    where it stands: escaped in a JSON string, indented in a YAML block, quoted
    for a shell. What the template is tells its name (config.json.tmpl), else
    FILE's, else its first bytes, else --for. Where nothing tells it, or where no
    writing helps, a value that could break the file is refused; --for text puts
    values there as they are. The rest stays as it is, byte for byte.

    From stdin to stdout if not told otherwise. FILE is written whole or not at
    all, for its owner alone (0600), and never through a symlink. If a reference
    is to what is not there, nothing is written.

      avault inject -i config.tmpl.json -o config.json
      echo 'machine api.example.com password avault://api/TOKEN' | avault inject -o ~/.netrc
    """
    if form not in (None, *FORMS):
        raise Usage(f"no form {printable(form)!r}", f"one of: {', '.join(FORMS)}")
    path = None if target is None else os.path.abspath(os.path.expanduser(target))
    if path is not None:
        refuse_target(path, source)
    template, where = read_template(source)
    places = sorted(find_references(template, where))
    secrets = reveal(terminal, "inject", only=places) if places else {}
    data = fill(template, form or form_of_name(source) or form_of_name(path), secrets, where)
    if path is None:
        put_bytes(data)
        return 0
    avault.write_file(path, data)
    if terminal.want_json:
        put(json.dumps({"file": path, "references": places}, indent=2, ensure_ascii=False) + "\n")
    elif sys.stderr.isatty():
        say(f"wrote {printable(path)}, with {len(places)} secrets")
    return 0


def refuse_target(path: str, source: str | None) -> None:
    """Refuse to write over the template, through a symlink, or in place of what is no file; raises Denied, NotFound."""
    if not os.path.isdir(os.path.dirname(path)):
        raise NotFound(
            f"no directory {printable(os.path.dirname(path))}", f"mkdir -p {shlex.quote(printable(os.path.dirname(path)))}"
        )
    try:
        kind = os.lstat(path).st_mode
    except OSError:
        return  # not there; or writing will say what is wrong
    if stat.S_ISLNK(kind):
        raise Denied(f"{printable(path)} is a symlink", f"name the file itself: {printable(os.path.realpath(path))}")
    if not stat.S_ISREG(kind):
        raise Denied(f"{printable(path)} is not a regular file", "without -o the output goes to stdout")
    template = os.path.expanduser(source or "-")
    if os.path.exists(template) and os.path.samefile(template, path):
        raise Denied(
            f"{printable(path)} is the template", "give the output another name; a template may go into git, its output may not"
        )


def read_template(source: str | None) -> tuple[bytes, str]:
    """The template, and what to call it; raises NotFound, AvaultError."""
    path: int | str = 0 if source in (None, "-") else os.path.expanduser(str(source))
    name = "stdin" if path == 0 else printable(source)
    try:
        with open(path, "rb", closefd=path != 0) as file:
            return file.read(), name
    except FileNotFoundError:
        raise NotFound(f"no file {name}") from None
    except OSError as error:
        raise AvaultError(f"cannot read {name}: {error.strerror}") from None


def put_bytes(data: bytes) -> None:
    """Write data that may be no text to stdout; raises AvaultError."""
    try:
        avault.write_all(1, data)
    except BrokenPipeError:
        sys.exit(141)  # as `put` does
    except OSError as error:
        raise AvaultError(f"cannot write the output: {error.strerror}") from None
