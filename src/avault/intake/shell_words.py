"""The words of a shell's command, and what each becomes: quotes, escapes, expansions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from avault.intake.dotenv import is_dos
from avault.late import regex

if TYPE_CHECKING:
    from collections.abc import Callable


NEEDS_THE_SHELL = "it needs the shell"
DIFFERS = "shells read it differently"
NOT_TEXT = "it is not UTF-8 text"
SHELL_ESCAPED = regex(r"(?s)\\(.)")
SHELL_SINGLE = regex(r"'([^']*)'")
SHELL_BACKTICKS = regex(r"(?s)`(?:\\.|[^`\\])*`")
SHELL_PLAIN = regex(r"[^ \t\n;&|<>()\\'\"$`]+")
SHELL_DOUBLE = regex(r'[^"\\$`]+')
# after them a $ is a $, in every shell, quoted or not
LITERAL_DOLLAR = frozenset(" \t\n%,./:;&|<>)")
ANSI = regex(r"(?s)'((?:\\.|[^'\\])*)'")
ANSI_ESCAPE = regex(
    rb"""\\(?:([abefnrtvE\\'"?!])|([0-3]?[0-7]{1,2})|x([0-9A-Fa-f]{1,2})"""
    rb"""|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|C-([^\\]))"""
)
ANSI_LETTERS = dict(zip(b"abefnrtvE\\'\"?!", b"\a\b\x1b\f\n\r\t\v\x1b\\'\"?!", strict=True))


class Unclear(Exception):
    """A quote or a bracket without its end, or one about which shells differ; where it stands."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class Word:
    """A word of a command: where it is, and its text without quotes.

    `problem` is why that is not all that it says, if so. `bare` is the same text with a " for
    whatever is quoted: there a shell looks for characters that mean something.
    """

    __slots__ = ("bare", "end", "pieces", "problem", "start", "text")

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self.text = self.bare = self.problem = ""
        self.pieces: list[tuple[str, str]] = []  # of both

    def add(self, text: str, quoted: bool = True) -> None:
        """Take a piece."""
        self.pieces.append((text, '"' if quoted else text))

    def doubt(self, problem: str) -> None:
        """Note a problem, if it is the first."""
        self.problem = self.problem or problem

    def finish(self, end: int, is_zsh: bool, is_dos: bool) -> Word:
        """The word, with the problems that only the whole of it shows."""
        self.end = end
        self.text, self.bare = (
            "".join(each) for each in zip(*self.pieces or [("", "")], strict=True)
        )
        if is_dos and self.bare[-1:] == "\r":
            self.doubt("a carriage return belongs to it")
        value = self.bare.partition("=")[2]
        try:
            # of bytes that came one by one
            self.text = self.text.encode("utf-8", "surrogateescape").decode()
        except UnicodeDecodeError:
            self.doubt(NOT_TEXT)
        if value.startswith("~") or ":~" in value:
            self.doubt(NEEDS_THE_SHELL)
        braces = value.partition("{")[2].rpartition("}")[0]
        if re.search(r"(?s)(^|:)=.", value) if is_zsh else "," in braces or ".." in braces:
            self.doubt(NEEDS_THE_SHELL if is_zsh else DIFFERS)  # zsh's =command; bash's braces
        return self


class WordReader:
    """Reads the words of a shell script, each from where it is in it (`at`).

    The commands of a substitution are no words: `read_group` reads them, from its parenthesis to
    the one that closes it.
    """

    def __init__(self, source: str, is_zsh: bool, read_group: Callable[[], None]) -> None:
        self.source, self.is_zsh, self.read_group = source, is_zsh, read_group
        self.is_dos = is_dos(source)
        self.at = 0

    def peek(self, count: int = 1) -> str:
        """The next characters."""
        return self.source[self.at : self.at + count]

    def take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """What stands here, if the pattern fits; raises Unclear."""
        found = pattern.match(self.source, self.at)
        if not found:
            raise Unclear(self.at)
        self.at = found.end()
        return found

    def read_word(self) -> Word:
        """The word that begins here."""
        word = Word(self.at)
        while (c := self.peek()) and c not in " \t\n;&|<>()":
            self.read_piece(word)
        return word.finish(self.at, self.is_zsh, self.is_dos)

    def read_piece(self, word: Word) -> None:
        """A part of a word: quoted, expanded by the shell, or plain."""
        c = self.peek()
        if c == "\\":
            escaped = self.take(SHELL_ESCAPED)[1]
            if escaped != "\n":
                word.add(escaped)
        elif c == "'":
            word.add(self.take(SHELL_SINGLE)[1])
        elif c == '"':
            self.read_double(word)
        elif c == "$":
            self.read_dollar(word)
        elif c == "`":
            self.take(SHELL_BACKTICKS)
            word.doubt(NEEDS_THE_SHELL)
        else:
            word.add(self.take(SHELL_PLAIN)[0], quoted=False)

    def read_double(self, word: Word) -> None:
        """What is in double quotes."""
        opened = self.at
        self.at += 1
        word.add("")
        while (c := self.peek()) != '"':
            if not c:
                raise Unclear(opened)
            if c == "\\":
                escaped = self.take(SHELL_ESCAPED)[1]
                word.add("" if escaped == "\n" else escaped if escaped in '$`"\\' else c + escaped)
            elif c == "$":
                self.read_dollar(word, quoted=True)
            elif c == "`":
                self.read_piece(word)
            else:
                word.add(self.take(SHELL_DOUBLE)[0])
        self.at += 1

    def read_dollar(self, word: Word, quoted: bool = False) -> None:
        """A dollar: an expansion, which is skipped, or $'…', or itself."""
        following = self.peek(2)[1:]
        self.at += 1
        if following == "'" and not quoted:
            self.read_ansi(word)
        elif following in LITERAL_DOLLAR or following in (("'", '"') if quoted else ("",)):
            word.add("$")
        elif following == '"':
            word.doubt(DIFFERS)  # bash translates it
        else:
            word.doubt(NEEDS_THE_SHELL)
            if following == "(" and self.peek(2) != "((":
                self.read_group()
            elif following in ("(", "[", "{"):
                self.skip_brackets(following, {"(": ")", "[": "]", "{": "}"}[following], quoted)
            elif re.match(r"[\w@*#?$!-]", following):
                self.at += 1

    def read_ansi(self, word: Word) -> None:
        """$'…', as bash, zsh and newer shells read it; with the escapes that they read alike."""

        def decode(match: re.Match[bytes]) -> bytes:
            letter, octal, hexadecimal, short, long, control = match.groups()
            if letter and (letter != b"!" or self.is_zsh):
                return bytes([ANSI_LETTERS[letter[0]]])
            if control:  # as zsh prints control characters
                return b"\x7f" if control == b"?" else bytes([control[0] & 0x1F])
            code = int(octal, 8) if octal else int(hexadecimal or short or long or "0", 16)
            if not code:
                raise ValueError
            return bytes([code]) if octal or hexadecimal else chr(code).encode()

        raw = self.take(ANSI)[1].encode("utf-8", "surrogateescape")
        try:
            if b"\\" in ANSI_ESCAPE.sub(b"", raw):
                raise ValueError
            word.add(ANSI_ESCAPE.sub(decode, raw).decode("utf-8", "surrogateescape"))
        except (ValueError, OverflowError):
            word.doubt(DIFFERS)

    def skip_brackets(self, opening: str, closing: str, quoted: bool) -> None:
        """From an opening bracket to the one that closes it."""
        opened, depth = self.at, 0
        while c := self.peek():
            if c == "'" and quoted:
                raise Unclear(opened)  # in "${…}" it is a quote to some shells
            if c in "'\"\\`" or self.peek(2) in ("${", "$(", "$'"):
                self.read_piece(Word(self.at))
                continue
            self.at += 1
            depth += (c == opening and not (c == "{" and depth)) - (c == closing)
            if not depth:
                return
        raise Unclear(opened)
