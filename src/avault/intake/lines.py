"""fish, systemd's units, pam_env: files of which a line sets a variable."""

from __future__ import annotations

import itertools
import re

from avault.intake.dotenv import C_ESCAPES, NAME, Assignment, Lines, parse_dotenv
from avault.intake.shell_words import NEEDS_THE_SHELL
from avault.late import regex

FISH_ESCAPES = {**C_ESCAPES, "e": "\x1b", "\n": ""}
FISH_ESCAPE = regex(
    r"(?s)\\(?:[xX]([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{1,4})|U([0-9A-Fa-f]{1,8})"
    r"|([0-7]{1,3})|c(.)|(.))"
)
FISH_WORD = regex(
    r"""(?s)(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\\.|[^ \t\n'"\\;&|<>#()]|(?<=[^ \t\n])#)+"""
)


def unescape(text: str) -> str:
    """What the backslashes of fish and of systemd stand for."""

    def decode(match: re.Match[str]) -> str:
        byte, short, long, octal, control, letter = match.groups()
        if control or letter:
            return chr(ord(control) & 0x1F) if control else FISH_ESCAPES.get(letter, letter)
        code = int(octal, 8) if octal else int(byte or short or long, 16)
        if (byte or octal) and code > 127:  # one byte of a character's several
            return bytes([code & 255]).decode("utf-8", "surrogateescape")
        return "" if code > 0x10FFFF or 0xD800 <= code < 0xE000 else chr(code)

    return (
        FISH_ESCAPE.sub(decode, text)
        .encode("utf-8", "surrogateescape")
        .decode("utf-8", "surrogateescape")
    )


def read_fish_word(word: str) -> str | None:
    """A word of fish without its quotes; None where it needs the shell."""
    text = ""
    for piece in re.findall(
        r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|(?:\\.|[^'"\\])+""", word, re.DOTALL
    ):
        if piece[0] == "'":
            text += re.sub(r"\\([\\'])", r"\1", piece[1:-1])
        elif "$" in re.sub(r"\\.", "", piece):
            return None
        elif piece[0] == '"':
            text += re.sub(r'\\(\n|[\\"$])', lambda escape: escape[1].strip("\n"), piece[1:-1])
        else:
            text += unescape(piece)
    return text


def parse_fish(text: str) -> list[Assignment]:
    """The variables that a fish script sets: `set -gx NAME value`, `export NAME=value`."""
    lines, found, at = Lines(text), [], 0
    space, comment = re.compile(r"(?:[ \t]|\\\n)*"), re.compile(r"[ \t]*#")
    for match in re.finditer(
        r"(?:^|[;\n]|\b(?:and|or|begin|then)\b)[ \t]*(set|export)[ \t]+", text
    ):
        if match.start(1) < at:  # a word of the command before
            continue
        is_word = match[0][0].isalpha()  # as a comment may have, too
        if is_word and comment.match(text, text.rfind("\n", 0, match.start()) + 1):
            continue
        words, at = [], match.end()
        while word := FISH_WORD.match(text, at):
            words.append(word[0])
            at = space.match(text, word.end()).end()  # type: ignore[union-attr]
        if text[at : at + 1] == "(":
            words.append("$")
        options = list(itertools.takewhile(lambda word: word[0] == "-", words))
        name, *rest = words[len(options) :] or [""]
        if match[1] == "export":
            name, _, value = name.partition("=")
            rest = [value]
        values = [read_fish_word(word) for word in rest]
        exported = match[1] == "export" or any(
            re.match(r"-\w*x|--export", word) for word in options
        )
        if re.fullmatch(NAME, name) and values:
            known = None if None in values else " ".join(value or "" for value in values)
            line = lines.at(match.start(1))
            problem = NEEDS_THE_SHELL if known is None else ""
            found.append(
                Assignment(line, lines.at(at - 1), name, known, problem, exported=exported)
            )
    return found


def parse_fish_variables(text: str) -> list[Assignment]:
    """The universal variables that fish keeps in fish_variables."""
    return [
        Assignment(number, number, match[1], unescape(match[2]).replace("\x1e", " "))
        for number, line in enumerate(text.split("\n"), 1)
        if (match := re.fullmatch(rf"SETUVAR (?:--\w+ )*({NAME}):(.*)", line))
    ]


def parse_unit(text: str) -> list[Assignment]:
    """The variables in a systemd unit's Environment= lines, quoted as systemd.syntax(7) says."""
    lines, found = Lines(text), []
    for match in re.finditer(r"(?m)^[ \t]*Environment[ \t]*=((?:\\\n|[^\n])*)", text):
        for word in re.finditer(
            r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\\.|[^ \t\r\n"'\\])+""", match[1], re.DOTALL
        ):
            plain = "".join(
                unescape(piece[1:-1] if piece[0] in "\"'" else piece)
                for piece in re.findall(
                    r"""(?s)"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|(?:\\.|[^"'\\])+""", word[0]
                )
            ).replace("%%", "%")
            name, equals, value = plain.partition("=")
            if equals and re.fullmatch(NAME, name):
                begin = match.start(1) + word.start()
                found.append(
                    Assignment(
                        lines.at(begin), lines.at(match.start(1) + word.end() - 1), name, value
                    )
                )
    return found


def parse_pam(text: str) -> list[Assignment]:
    """The variables of ~/.pam_environment (pam_env.conf(5)).

    `NAME DEFAULT=value`, or `NAME=value`.
    """
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        match = re.match(rf"\s*({NAME})\s+(?:DEFAULT|OVERRIDE)=(?:\"([^\"]*)\"|(\S*))", line)
        if match:
            value = match[2] or match[3] or ""
            known = None if "${" in value else value
            found.append(
                Assignment(
                    number, number, match[1], known, NEEDS_THE_SHELL if known is None else ""
                )
            )
    return found or parse_dotenv(text)
