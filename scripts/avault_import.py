"""avault import, migrate and audit: secrets that stand in files, into the vault or at least noticed.

Files are read, never run. What a file says is taken only where every program that reads such files agrees about it, or
where this page says whose reading is taken; everything else is left in place and named, by file, line and variable.
A value is in no message, no error and no argument list.

The regions, in order; each calls only what stands above it:

    shell        ~/.profile and its like, for sh, bash and zsh
    others       fish, systemd's units, pam_env
    json         what `avault export`, `avault get` and other tools print
    looks        what looks like a secret
    vault        asking the daemon to keep many secrets
    import       avault import
    migrate      avault migrate
    audit        avault audit
"""

from __future__ import annotations

import dataclasses
import glob
import itertools
import json
import math
import os
import re
import secrets
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from avault_dotenv import (
    C_ESCAPES,
    EMPTY,
    FOREIGN,
    NAME,
    Assignment,
    Lines,
    check_kept,
    foreign,
    is_dos,
    parse_dotenv,
    read_dotenv,
    tell_of_lines,
)
from avault_importers import FORMS, READERS, Secrets, form_of, place, refuse_encrypted

from avault import (
    AvaultError,
    Denied,
    Fields,
    NotFound,
    Places,
    Terminal,
    Usage,
    argument,
    as_name,
    check_group,
    check_key,
    check_value,
    command,
    field,
    harden,
    is_dangerous,
    option,
    printable,
    put,
    read_file,
    regex,
    say,
    sync_directory,
    warn,
    write_all,
)

LARGEST = 256 << 20  # bytes of a file to import
SCRIPT = 16 << 20  # bytes of a file that is looked at


NEEDS_THE_SHELL = "it needs the shell"
DIFFERS = "shells read it differently"
CONDITIONAL = "it depends on the commands around it"
NOT_TEXT = "it is not UTF-8 text"


def to_text(data: bytes, path: str) -> str:
    """A file's bytes as text from which the same bytes can be made again; raises Usage for what is none."""
    if b"\0" in data:
        raise Usage(f"{path} is not a text file")
    return data.decode("utf-8", "surrogateescape")


# ----------------------------------------------------------------- shell ----
# The grammar: POSIX.1-2017, volume 3, chapter 2; with what bash(1) and zshmisc(1) add. What a word becomes was tried
# in dash, bash, zsh and busybox; only what comes out of all of them alike, or is unknown to the older, is taken.

OPERATOR = regex(r"<<<|<<-?|&>>|&>|>>|[<>]&|<>|>\||&&|\|\||\|&|;;&|;;|;&|;\||[;&|<>()\n]")
REDIRECTIONS = frozenset("<<< << <<- &> &>> >> <& >& <> >| < >".split())
OPENERS = {
    "if": "fi", "while": "done", "until": "done", "for": "done", "select": "done", "case": "esac", "{": "}", "foreach": "end",
}  # fmt: skip
CLOSERS = frozenset(OPENERS.values())
HEADS = frozenset("for select case foreach function".split())  # words follow that are no command
JOINERS = frozenset("then elif else do ! time".split())  # a command follows
GROUP = "()"  # an open parenthesis in the stack; among a command's words, a closed pair
ESCAPED = regex(r"(?s)\\(.)")
SINGLE = regex(r"'([^']*)'")
BACKTICKS = regex(r"(?s)`(?:\\.|[^`\\])*`")
PLAIN = regex(r"[^ \t\n;&|<>()\\'\"$`]+")
DOUBLE = regex(r'[^"\\$`]+')
LITERAL_DOLLAR = frozenset(" \t\n%,./:;&|<>)")  # after them a $ is a $, in every shell, quoted or not
ANSI = regex(r"(?s)'((?:\\.|[^'\\])*)'")
ANSI_ESCAPE = regex(
    rb"""\\(?:([abefnrtvE\\'"?!])|([0-3]?[0-7]{1,2})|x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|C-([^\\]))"""
)
ANSI_LETTERS = dict(zip(b"abefnrtvE\\'\"?!", b"\a\b\x1b\f\n\r\t\v\x1b\\'\"?!", strict=True))


class Unclear(Exception):
    """A quote or a bracket without its end, or one about which shells differ; where it stands."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class Word:
    """A word of a command: where it is, its text without quotes, and why that is not all that it says, if so.

    `bare` is the same with a " for whatever is quoted: there a shell looks for characters that mean something.
    """

    __slots__ = ("bare", "end", "problem", "start", "text")

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self.text = self.bare = self.problem = ""

    def add(self, text: str, quoted: bool = True) -> None:
        """Take a piece."""
        self.text += text
        self.bare += '"' if quoted else text

    def doubt(self, problem: str) -> None:
        """Note a problem, if it is the first."""
        self.problem = self.problem or problem

    def finish(self, end: int, is_zsh: bool) -> Word:
        """The word, with the problems that only the whole of it shows."""
        self.end = end
        value = self.bare.partition("=")[2]
        try:
            self.text = self.text.encode("utf-8", "surrogateescape").decode()  # of bytes that came one by one
        except UnicodeDecodeError:
            self.doubt(NOT_TEXT)
        if value.startswith("~") or ":~" in value:
            self.doubt(NEEDS_THE_SHELL)
        if re.search(r"(^|:)=." if is_zsh else r"\{.*(,|\.\.).*\}", value, re.DOTALL):
            self.doubt(NEEDS_THE_SHELL if is_zsh else DIFFERS)  # zsh's =command; bash's braces
        return self


class Statement(Fields):
    """A command that sets or exports variables and does nothing else: its lines, and what it sets and exports."""

    first: int
    last: int
    sets: list[Assignment] = field(default_factory=list)
    exports: list[tuple[str, bool]] = field(default_factory=list)  # the name, and whether it surely runs

    def names(self) -> set[str]:
        """The variables."""
        return {each.name for each in self.sets} | {name for name, _ in self.exports}


class Script:
    """A shell script, read and not run.

    `statements` are the commands that only set variables, `busy` the lines on which anything else stands, `words`
    what other commands are given by name. A command surely runs when it stands at the top: in no if, loop, function,
    pipeline, after no && and after no exit. When the reading loses its way (a quote without an end, a parenthesis too
    many) nothing is sure any more.
    """

    def __init__(self, text: str, is_zsh: bool = False) -> None:
        self.source, self.is_zsh = text, is_zsh
        self.is_dos = is_dos(text)
        self.lines = Lines(text)
        self.at = 0
        self.stack: list[str] = []  # what has to close
        self.documents: list[tuple[str, bool]] = []  # here-documents that begin after this line
        self.statements: list[Statement] = []
        self.words: set[str] = set()
        self.busy: set[int] = set()
        self.complete = 0  # how many statements stand before the line that is being read, which shells run as a whole
        self.lost = False
        self.unclear = 0  # the line of a quote without an end
        try:
            self.read_commands()
        except (Unclear, RecursionError) as error:
            self.unclear = self.lines.at(error.position if isinstance(error, Unclear) else self.at)
            self.busy |= set(range(self.unclear, len(self.lines.ends) + 2))

    # Words

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
        if self.is_dos and word.bare[-1:] == "\r":
            word.doubt("a carriage return belongs to it")
        return word.finish(self.at, self.is_zsh)

    def read_piece(self, word: Word) -> None:
        """A part of a word: quoted, expanded by the shell, or plain."""
        c = self.peek()
        if c == "\\":
            escaped = self.take(ESCAPED)[1]
            if escaped != "\n":
                word.add(escaped)
        elif c == "'":
            word.add(self.take(SINGLE)[1])
        elif c == '"':
            self.read_double(word)
        elif c == "$":
            self.read_dollar(word)
        elif c == "`":
            self.take(BACKTICKS)
            word.doubt(NEEDS_THE_SHELL)
        else:
            word.add(self.take(PLAIN)[0], quoted=False)

    def read_double(self, word: Word) -> None:
        """What is in double quotes."""
        opened = self.at
        self.at += 1
        word.add("")
        while (c := self.peek()) != '"':
            if not c:
                raise Unclear(opened)
            if c == "\\":
                escaped = self.take(ESCAPED)[1]
                word.add("" if escaped == "\n" else escaped if escaped in '$`"\\' else c + escaped)
            elif c == "$":
                self.read_dollar(word, quoted=True)
            elif c == "`":
                self.read_piece(word)
            else:
                word.add(self.take(DOUBLE)[0])
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

    # Commands

    def read_group(self) -> None:
        """From a parenthesis to the one that closes it: a substitution, a subshell, an array, a pattern."""
        opened = self.at
        documents, self.documents = self.documents, []
        self.at += 1
        self.stack.append(GROUP)
        depth = len(self.stack)
        self.read_commands()
        if len(self.stack) >= depth:
            raise Unclear(opened)
        self.documents = documents

    def read_commands(self) -> None:
        """Commands, to the end of the text or of the group that they are in."""
        depth = len(self.stack)
        words: list[Word] = []
        begin: int | None = None  # of the command, where an && or a | joins it to the one before
        listed = len(self.statements)  # where the list begins that && and || make
        plain = sure = True
        while True:
            self.skip_blanks()
            start = self.at
            found = OPERATOR.match(self.source, start)
            operator = found[0] if found else ""
            if operator == "(":
                plain = self.read_parenthesis(words) and plain
            elif operator in REDIRECTIONS:
                self.at += len(operator)
                self.read_redirection(operator)
                plain = False
            elif not operator and self.peek():
                word = self.read_word()
                if self.is_reserved(word, words):
                    words, plain = self.read_reserved(word, words), True
                else:
                    words.append(word)
            elif operator == "\n" and len(words) == 2 and words[1].bare == GROUP:
                self.at += 1  # `name ()`: its body follows
            else:
                self.at += len(operator)
                if words or operator != "\n":
                    done = self.end_command(words, begin, start, plain and operator not in ("|", "|&"), sure)
                    sure = sure and done if operator == "&&" else operator not in ("||", "|", "|&")
                    begin = start if operator in ("&&", "||", "|", "|&") else None
                    if operator == "&" and not self.stack:
                        self.doubt(self.statements[listed:])
                    listed = len(self.statements) if begin is None and not self.stack else listed
                words, plain = [], True
                if operator == "\n":
                    self.skip_documents()
                    self.complete = self.complete if self.stack or begin is not None else len(self.statements)
                elif operator == ")" and self.stack[-1:] != ["esac"]:
                    self.close(GROUP)
                    if len(self.stack) < depth:
                        return
                elif not operator:
                    if self.stack:
                        self.doubt(self.statements[self.complete :])
                    return

    def skip_blanks(self) -> None:
        """Blanks, continued lines, and a comment."""
        found = re.compile(r"(?:[ \t]|\\\n)*(?:#[^\n]*)?").match(self.source, self.at)
        self.at = found.end() if found else self.at

    def read_parenthesis(self, words: list[Word]) -> bool:
        """What stands in parentheses, as a word; whether it only gives an array to the word before."""
        group = Word(self.at)
        if self.peek(2) == "((" and (not words or words[0].bare == "for"):
            self.skip_brackets("(", ")", False)
        else:
            self.read_group()
        if words and words[-1].end == group.start and words[-1].bare[-1:] == "=":
            words[-1].end = self.at
            words[-1].doubt("it is an array")
            return True
        group.text = group.bare = GROUP
        group.end = self.at
        words.append(group)
        return False

    def read_redirection(self, operator: str) -> None:
        """The word after a redirection; a here-document begins after the line."""
        self.skip_blanks()
        word = self.read_word() if not OPERATOR.match(self.source, self.at) else Word(self.at)
        if operator in ("<<", "<<-"):
            self.documents.append((word.text, operator == "<<-"))

    def skip_documents(self) -> None:
        """The here-documents that begin after this line."""
        for delimiter, is_indented in self.documents:
            while self.at < len(self.source):
                end = self.source.find("\n", self.at)
                end = len(self.source) if end < 0 else end
                line = self.source[self.at : end]
                self.busy.add(self.lines.at(self.at))
                self.at = min(end + 1, len(self.source))
                if (line.lstrip("\t") if is_indented else line) == delimiter:
                    break
        self.documents = []

    def is_reserved(self, word: Word, words: list[Word]) -> bool:
        """Whether a word is one of the grammar's, and stands where it means something."""
        if word.bare == "}" and self.is_zsh:
            return True
        is_after_closer = len(words) == 1 and words[0].bare in CLOSERS
        is_body = bool(words) and (words[-1].bare == GROUP or (words[0].bare == "function" and word.bare == "{"))
        if words and not is_after_closer and not is_body:
            return False
        if word.bare in ("foreach", "end") and not self.is_zsh:
            return False
        return word.bare in JOINERS or word.bare in HEADS or word.bare in OPENERS or word.bare in CLOSERS

    def read_reserved(self, word: Word, words: list[Word]) -> list[Word]:
        """Deal with a word of the grammar; the words of the command that is begun then."""
        self.end_command(words, None, max(word.start - 1, 0), False, False)
        self.busy.add(self.lines.at(word.start))
        if word.bare in OPENERS:
            self.stack.append(OPENERS[word.bare])
        elif word.bare in CLOSERS:
            self.close(word.bare)
        return [word] if word.bare in CLOSERS or word.bare in HEADS else []

    def close(self, closer: str) -> None:
        """The end of what has to close next; if it is another's, nothing is sure any more."""
        if self.stack[-1:] == [closer]:
            self.stack.pop()
        else:
            self.lost = True
            self.doubt(self.statements[self.complete :])

    def end_command(self, words: list[Word], begin: int | None, end: int, plain: bool, sure: bool) -> bool:
        """Note what a command sets; whether it surely ran and surely succeeded."""
        if not words:
            return False
        first = words[0].start if begin is None else begin
        statement = Statement(self.lines.at(first), self.lines.at(end))
        surely = plain and sure and not self.stack and not self.lost
        if self.read_assignments(words, statement, surely):
            self.statements.append(statement)
            return surely and not any(each.problem for each in statement.sets)
        self.busy |= set(range(statement.first, statement.last + 1))
        self.words |= {word.text.partition("=")[0] for word in words}
        if surely and words[0].text in ("return", "exit", "exec", "logout"):
            self.lost = True  # nothing of what follows is run
        return False

    def doubt(self, statements: list[Statement]) -> None:
        """Take back that these surely run here: the rest of their line says otherwise."""
        for each in statements:
            each.sets = [dataclasses.replace(one, problem=one.problem or CONDITIONAL) for one in each.sets]
            each.exports = [(name, False) for name, _ in each.exports]

    def read_assignments(self, words: list[Word], statement: Statement, surely: bool) -> bool:
        """Fill a statement from a command's words, if that is what they are."""
        name = words[0].text
        if re.match(NAME + r"(\[.*\])?\+?=", words[0].bare, re.DOTALL):
            if not all(re.match(NAME + r"(\[.*\])?\+?=", word.bare, re.DOTALL) for word in words):
                return False  # of that one command
            exported, problem = False, ""
        elif name in ("export", "declare", "typeset", "readonly"):
            options = list(itertools.takewhile(lambda word: re.match("[-+].", word.bare), words[1:]))
            words = words[1 + len(options) :]
            letters = "".join(word.text[1:] for word in options if word.text != "--")
            exported = name == "export" or "x" in letters
            known = "" if name == "export" else "xgr"
            problem = "it has options" if set(letters) - set(known) or any(word.text[0] == "+" for word in options) else ""
            if not words:
                return False
        else:
            return False
        problem = problem or ("" if surely else CONDITIONAL)
        for word in words:
            self.read_assignment(word, statement, problem, exported)
        return True

    def read_assignment(self, word: Word, statement: Statement, problem: str, exported: bool) -> None:
        """One word: NAME=value, or the NAME of an export."""
        name, equals, value = word.text.partition("=")
        adds = re.fullmatch(f"({NAME})" + r"(\[.*\]|\+)", name, re.DOTALL)
        if adds:
            name, problem = adds[1], problem or "it adds to what is there"
        elif not re.fullmatch(NAME, name):
            name, problem = "", problem or word.problem or "it names no variable"
        if equals or problem:
            known = None if word.problem or adds or not name else value
            lines = self.lines.at(word.start), self.lines.at(word.end - 1)
            statement.sets.append(Assignment(*lines, name, known, problem or word.problem, exported=exported))
        if exported and name:
            statement.exports.append((name, not problem))


def parse_shell(text: str, is_zsh: bool = False) -> list[Assignment]:
    """The variables that a shell script sets, in order; nothing is run.

    Those with an empty `problem` surely have that value when the script has come to that line. `exported` says
    whether the script exports a variable of that name anywhere.
    """
    return assignments_of(Script(text, is_zsh))


def assignments_of(script: Script) -> list[Assignment]:
    """What a script sets, and after all the place where its reading lost its way."""
    exported = {name for statement in script.statements for name, _ in statement.exports}
    found = [
        dataclasses.replace(
            each, exported=each.exported or each.name in exported, problem=each.problem or (CONDITIONAL if script.unclear else "")
        )
        for statement in script.statements
        for each in statement.sets
    ]
    if script.unclear:
        problem = "the quote or bracket that opens here has no clear end"
        found.append(Assignment(script.unclear, script.unclear, "", None, problem))
    return found


# ---------------------------------------------------------------- others ----

ESCAPES = {**C_ESCAPES, "e": "\x1b", "\n": ""}
ESCAPE = regex(r"(?s)\\(?:[xX]([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{1,4})|U([0-9A-Fa-f]{1,8})|([0-7]{1,3})|c(.)|(.))")
FISH_WORD = regex(r"""(?s)(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\\.|[^ \t\n'"\\;&|<>#()]|(?<=[^ \t\n])#)+""")


def unescape(text: str) -> str:
    """What the backslashes of fish and of systemd stand for."""

    def decode(match: re.Match[str]) -> str:
        byte, short, long, octal, control, letter = match.groups()
        if control or letter:
            return chr(ord(control) & 0x1F) if control else ESCAPES.get(letter, letter)
        code = int(octal, 8) if octal else int(byte or short or long, 16)
        if (byte or octal) and code > 127:  # one byte of a character's several
            return bytes([code & 255]).decode("utf-8", "surrogateescape")
        return "" if code > 0x10FFFF or 0xD800 <= code < 0xE000 else chr(code)

    return ESCAPE.sub(decode, text).encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def read_fish_word(word: str) -> str | None:
    """A word of fish without its quotes; None where it needs the shell."""
    text = ""
    for piece in re.findall(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|(?:\\.|[^'"\\])+""", word, re.DOTALL):
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
    """The variables that a fish script sets, wherever: `set -gx NAME value`, `export NAME=value`."""
    lines, found = Lines(text), []
    for match in re.finditer(r"(?:^|[;\n]|\b(?:and|or|begin|then)\b)[ \t]*(set|export)[ \t]+", text):
        words, at = [], match.end()
        while word := FISH_WORD.match(text, at):
            words.append(word[0])
            at = re.compile(r"(?:[ \t]|\\\n)*").match(text, word.end()).end()  # type: ignore[union-attr]
        if text[at : at + 1] == "(":
            words.append("$")
        options = list(itertools.takewhile(lambda word: word[0] == "-", words))
        name, *rest = words[len(options) :] or [""]
        if match[1] == "export":
            name, _, value = name.partition("=")
            rest = [value]
        values = [read_fish_word(word) for word in rest]
        exported = match[1] == "export" or any(re.match(r"-\w*x|--export", word) for word in options)
        if re.fullmatch(NAME, name) and values:
            known = None if None in values else " ".join(value or "" for value in values)
            line = lines.at(match.start(1))
            problem = NEEDS_THE_SHELL if known is None else ""
            found.append(Assignment(line, lines.at(at - 1), name, known, problem, exported=exported))
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
        for word in re.finditer(r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\\.|[^ \t\r\n"'\\])+""", match[1], re.DOTALL):
            plain = "".join(
                unescape(piece[1:-1] if piece[0] in "\"'" else piece)
                for piece in re.findall(r"""(?s)"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|(?:\\.|[^"'\\])+""", word[0])
            ).replace("%%", "%")
            name, equals, value = plain.partition("=")
            if equals and re.fullmatch(NAME, name):
                begin = match.start(1) + word.start()
                found.append(Assignment(lines.at(begin), lines.at(match.start(1) + word.end() - 1), name, value))
    return found


def parse_pam(text: str) -> list[Assignment]:
    """The variables of ~/.pam_environment: `NAME DEFAULT=value`, or `NAME=value` (pam_env.conf(5))."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        match = re.match(rf"\s*({NAME})\s+(?:DEFAULT|OVERRIDE)=(?:\"([^\"]*)\"|(\S*))", line)
        if match:
            value = match[2] or match[3] or ""
            known = None if "${" in value else value
            found.append(Assignment(number, number, match[1], known, NEEDS_THE_SHELL if known is None else ""))
    return found or parse_dotenv(text)


# ------------------------------------------------------------------ json ----


def refuse_json(problem: str) -> Usage:
    """The error for a JSON text that is not of one of the forms."""
    return Usage(f"in the JSON {problem}", 'as in {"API_KEY": "…"} or {"openai": {"API_KEY": "…"}}; jq makes it so')


def load_json(text: str) -> dict[str, Any]:
    """The object that a JSON text is; numbers as the text that they are written as. Raises Usage."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise refuse_json("a name stands twice")
        return dict(pairs)

    def constant(_: str) -> str:
        raise refuse_json("stands NaN or Infinity")

    try:
        content = json.loads(text, object_pairs_hook=unique, parse_int=str, parse_float=str, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise Usage(f"line {error.lineno} is not JSON", "for KEY=value lines: --format dotenv") from None
    except RecursionError:
        raise refuse_json("too many brackets stand in each other") from None
    if not isinstance(content, dict):
        raise refuse_json("is a list or a value, not an object of names and values")
    if isinstance(content.get("sops"), dict) and "mac" in content["sops"]:
        raise Usage("sops has encrypted it", FOREIGN["ENC["][1])
    return content


def groups_of(content: dict[str, Any], group: str | None) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The keys of each group in a JSON object, and the groups' notes; raises Usage.

    It is {KEY: value}, for `group`; or {GROUP: {KEY: value}}; or what `avault get --json` prints.
    """
    named, values = content.get("group"), content.get("values")
    if isinstance(named, str) and content.keys() - {"conflicts"} == {"group", "key", "value"}:
        return {group or named: {str(content["key"]): content["value"]}}, {}
    if isinstance(named, str) and isinstance(values, dict) and content.keys() == {"group", "note", "values"}:
        return {group or named: values}, {group or named: content["note"]} if content["note"] else {}
    if not content or not all(isinstance(each, dict) for each in content.values()):
        return {group or "env": content}, {}
    if group:
        raise Usage("the JSON names its groups", "leave --group out")
    return content, {}


def parse_json(text: str, group: str | None) -> tuple[Secrets, dict[str, str], list[str]]:
    """The secrets of a JSON text, the notes of their groups, and the names of those that are empty; raises Usage.

    A number is the text that it is written as, true and false are these words, null is empty.
    """
    groups, notes = groups_of(load_json(text), group)
    found: Secrets = {}
    empty = []
    for name in groups:
        check_group(name)
        for number, (key, given) in enumerate(groups[name].items(), 1):
            try:
                check_key(key)
            except Usage as error:
                raise Usage(f"in the JSON name {number} of group {name} is not a key name", error.hint) from None
            value = str(given).lower() if isinstance(given, bool) else given or ""
            if not isinstance(value, str) or isinstance(given, (dict, list)):
                raise refuse_json(f"{name}/{key} is a list or an object, not a value")
            if value:
                found[name, key] = check_kept(value, f"{name}/{key}")
            else:
                empty.append(f"{name}/{key}")
    return found, notes, empty


# ----------------------------------------------------------------- looks ----
# What looks like a secret: a variable with one of these words in its name, a token that shows by its beginning what it
# is, and what seems to come from a random number generator.

SECRET_WORDS = frozenset(
    """
    KEY KEYS APIKEY TOKEN TOKENS SECRET SECRETS PASSWORD PASSWD PASS PASSPHRASE PWD PW PASSCODE PIN CREDENTIAL CREDENTIALS AUTH
    PRIVATE PRIVKEY NSEC MNEMONIC SEED PAT DSN COOKIE BEARER JWT WEBHOOK SIGNATURE SALT
    """.split()
)
OPEN_WORDS = frozenset("PUBKEY FILE PATH DIR SOCK SOCKET NAME HOST PORT ID TTL LENGTH SIZE TYPE MODE".split())
TOKENS = regex(
    r"""(?x)(?<![A-Za-z0-9])(?:
    sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{16,} | [sr]k_(?:live|test)_[A-Za-z0-9]{16,} | whsec_[A-Za-z0-9]{24,} |
    gh[pousr]_[A-Za-z0-9]{30,} | github_pat_[A-Za-z0-9_]{30,} | glpat-[A-Za-z0-9_-]{20,} |
    xox[abeoprs]-[A-Za-z0-9-]{10,} | xapp-[A-Za-z0-9-]{20,} | (?:AKIA|ASIA)[A-Z0-9]{16} | AIza[A-Za-z0-9_-]{35} |
    ya29\.[A-Za-z0-9_-]{20,} | nsec1[02-9ac-hj-np-z]{58} | ncryptsec1[02-9ac-hj-np-z]{50,} | AGE-SECRET-KEY-1[A-Z0-9]{50,} |
    npm_[A-Za-z0-9]{36} | hf_[A-Za-z0-9]{30,} | gsk_[A-Za-z0-9]{40,} | pypi-[A-Za-z0-9_-]{50,} | dop_v1_[a-f0-9]{64} |
    SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,} | shp(?:at|ss|ca|pa)_[a-fA-F0-9]{32} | r8_[A-Za-z0-9]{30,} |
    pplx-[A-Za-z0-9]{32,} | xai-[A-Za-z0-9]{40,} | tvly-[A-Za-z0-9-]{20,} | lin_api_[A-Za-z0-9]{30,} | ntn_[A-Za-z0-9]{40,} |
    eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,} | [0-9]{8,10}:[A-Za-z0-9_-]{35} |
    -----BEGIN\ (?:[A-Z]+\ )*PRIVATE\ KEY----- | [a-z][a-z0-9+.-]*://[^\s/:@"'$]*:[^\s/@"'$]+@
    )""",
)


def is_random(text: str) -> bool:
    """Whether a text looks random: one long word of letters and digits, mixed and evenly used."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9+/_-]{23,}={0,2}", text):
        return False
    if re.fullmatch(r"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}", text):
        return False  # a UUID names something
    bits = -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())
    if re.fullmatch("[0-9a-fA-F]{32,}", text):
        return bits > 3.0
    upper, lower, digits = (sum(map(kind, text)) for kind in (str.isupper, str.islower, str.isdigit))
    return bits > 3.7 and ((upper > 1 and lower > 1 and digits > 1) or digits * 6 >= len(text))


def is_secret(name: str, value: str) -> bool:
    """Whether a variable looks like a secret, by its name or by its value."""
    if not value or foreign(value):
        return False
    if TOKENS.search(value) or is_random(value):
        return True
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper().split("_")
    if not SECRET_WORDS.intersection(words) or words[-1] in OPEN_WORDS or "PUBLIC" in words or name in ("PWD", "OLDPWD"):
        return False
    is_setting = value.lower() in ("true", "false", "yes", "no", "on", "off", "none", "null", "0", "1")
    return not is_setting and not os.path.isabs(os.path.expanduser(value))


# ----------------------------------------------------------------- vault ----

BATCH_BYTES = 3 << 20  # of JSON; a frame of the protocol has at most 4 MiB
BATCH_COUNT = 1000  # secrets in one request: each is one write of the vault, and a step of the progress


class Stored(Fields):
    """What became of secrets, by GROUP/KEY: new to the vault, there already, or there with another value."""

    new: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)


def batches(found: Secrets) -> Iterator[list[list[str]]]:
    """Secrets as they fit into one request."""
    batch: list[list[str]] = []
    size = 0
    for (group, key), value in found.items():
        row = [group, key, value]
        length = len(json.dumps(row)) + 2
        if batch and (size + length > BATCH_BYTES or len(batch) == BATCH_COUNT):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += length
    if batch:
        yield batch


def compare(terminal: Terminal, found: Secrets) -> Stored:
    """What the vault has of these secrets; nothing is written."""
    stored = Stored()
    for batch in batches(found):
        answer = terminal.ask("import", value={"secrets": batch}, dry_run=True)
        stored.new += answer["new"]
        stored.same += answer["same"]
        stored.differs += answer["replaced"]
    return stored


def store(terminal: Terminal, found: Secrets, stored: Stored, notes: dict[str, str], replacing: bool) -> None:
    """Write what `compare` found to be new, and what differs if it may be replaced; the rest is there already."""
    wanted = {*stored.new, *(stored.differs if replacing else ())}
    todo = {name: value for name, value in found.items() if "/".join(name) in wanted}
    done, drawn = 0, sys.stderr.isatty() and len(todo) > BATCH_COUNT
    for batch in batches(todo):
        of_these = {group: notes[group] for group, _, _ in batch if group in notes}
        try:
            terminal.ask("import", value={"secrets": batch, "notes": of_these}, replace=replacing)
        except AvaultError as error:
            if not done:
                raise
            message = f"{error.message}; {done:,} of {len(todo):,} are imported"
            raise type(error)(message, "the same command again goes on where this one ended") from None
        done += len(batch)
        if drawn:
            end = "\n" if done == len(todo) else ""
            print(f"\r\x1b[Kavault: imported {done:,} of {len(todo):,}", end=end, file=sys.stderr, flush=True)
    if replacing:
        stored.replaced, stored.differs = stored.differs, []


def some(names: Iterable[str], limit: int = 10) -> str:
    """Names for a sentence; not more than a person reads."""
    listed = list(names)
    more = f" and {len(listed) - limit:,} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def show(stored: Stored) -> None:
    """A line for each key: what became of it, and its name."""
    for kind in ("new", "same", "differs", "replaced"):
        put("".join(f"{kind:<8}  {name}\n" for name in getattr(stored, kind)))


def tell_of_twins(terminal: Terminal, found: Secrets) -> None:
    """Warn of keys that other groups have too: a variable can have one value."""
    groups: dict[str, set[str]] = {}
    for group in terminal.ask("list")["groups"]:
        for key in group["keys"]:
            groups.setdefault(key["name"], set()).add(group["name"])
    twins = sorted({key for _, key in found if len(groups.get(key, ())) > 1})
    if twins:
        warn(f"in more than one group: {some(twins)}", "choose with --group, or tell them apart with --prefix, in export and run")


# ---------------------------------------------------------------- import ----


def read_input(file: str) -> str:
    """What is in a file, or comes from stdin; raises NotFound, Usage, AvaultError.

    The file is opened before this process is hardened: /dev/fd/63, which `<(…)` gives, is closed to it afterwards.
    """
    if file == "-" and sys.stdin.isatty():
        say("reading from the terminal, to the end of input (Ctrl-D)")
    try:
        fd = 0 if file == "-" else os.open(os.path.expanduser(file), os.O_RDONLY | os.O_CLOEXEC)
        harden("avault import")
        with open(fd, "rb", closefd=fd != 0) as opened:
            data = opened.read(LARGEST + 1)
    except FileNotFoundError:
        raise NotFound(f"no file {printable(file)}") from None
    except OSError as error:
        raise AvaultError(f"cannot read {printable(file)}: {error.strerror}") from None
    if len(data) > LARGEST:
        raise Usage(f"{printable(file)} is too large; the limit is {LARGEST:,} bytes")
    refuse_encrypted(data)
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise Usage(f"{'what came' if file == '-' else printable(file)} is not UTF-8 text")
    return text


def take(text: str, form: str, group: str | None) -> tuple[Secrets, dict[str, str], list[Assignment]]:
    """The secrets of a text of that form, the notes of their groups, and what there is to say about lines; raises Usage."""
    if form == "json":
        found, notes, empty = parse_json(text.removeprefix("\ufeff"), group)
        return found, notes, [Assignment(0, 0, name, None, EMPTY) for name in empty]
    if form == "dotenv":
        variables, told = read_dotenv(text)
        return {(group or "env", name): value for name, value in variables.items() if value}, {}, told
    read = READERS[form](text.removeprefix("\ufeff"))
    return place(read, group, "aws" if form == "aws" else None), {}, read.left


@command(
    "import",
    argument("file"),
    option("--format", "form"),
    option("--group"),
    option("--dry-run", is_flag=True),
    option("--replace", is_flag=True),
)
def cmd_import(terminal: Terminal, file: str, form: str | None, group: str | None, dry_run: bool, replace: bool) -> int:
    """usage: avault import FILE [--format F] [--group G] [--dry-run] [--replace]

    Takes secrets from a file, or from stdin (-), into the vault: KEY=value lines
    as in .env, or JSON, {"KEY": "value"} or {"GROUP": {"KEY": "value"}}, into the
    group G, or `env`. Also AWS credentials, .netrc, .pgpass, .npmrc, a Secret of
    Kubernetes, and what password managers and browsers export: CSV, and JSON of
    Bitwarden; a group for each login, G-NAME with G. Which it is shows; --format
    insists: dotenv, json, aws, netrc, pgpass, npmrc, k8s, csv or bitwarden.
    Prints what is new, the same, or replaced.

    All of it or nothing: all bad lines are named, never what they say, and what
    the vault has with another value is refused without --replace. --dry-run
    writes nothing and shows all. A line that refers to ${ANOTHER} variable, is
    empty, or has no key name is left and named. Where readers of .env files
    differ, python-dotenv's reading counts, and a warning says so. The file
    stays; delete it when you are done.

      avault import .env --group web --dry-run
      avault import ~/.aws/credentials
      sops decrypt --output-type json secrets.yaml | avault import -
      kubectl get secret web -o json | avault import -
    """
    if form not in (None, *FORMS):
        raise Usage(f"no format {printable(form)!r}", f"one of: {', '.join(FORMS)}")
    if group is not None:
        check_group(group)
    text = read_input(file)
    found, notes, told = take(text, form or form_of(file, text), group)
    stored = compare(terminal, found)
    if stored.differs and not replace and not dry_run:
        raise Denied(
            f"in the vault with another value: {some(stored.differs)}",
            "keep both with --group NAME, or replace them with --replace; --dry-run shows all",
        )
    if not dry_run:
        store(terminal, found, stored, notes, replace)
    elif replace:
        stored.replaced, stored.differs = stored.differs, []
    tell_of_lines(told)
    if terminal.want_json:
        left = [{"line": each.line or None, "name": each.name or None, "reason": each.problem} for each in told if each.problem]
        remarks = [{"line": each.line, "name": each.name, "remark": each.remark} for each in told if each.remark]
        put(json.dumps({**vars(stored), "left": left, "remarks": remarks, "dry_run": dry_run}, indent=2) + "\n")
    else:
        show(stored)
    risky = sorted({key for _, key in found if is_dangerous(key)})
    if risky:
        warn(
            f"export and run refuse {some(risky)}", f"let them with --allow {risky[0]}, or: avault delete GROUP --key {risky[0]}"
        )
    tell(dry_run, found, stored, "--replace replaces what differs, --group NAME keeps both")
    if not dry_run:
        tell_of_twins(terminal, found)
    return 0


def tell(dry_run: bool, found: Secrets, stored: Stored, otherwise: str) -> None:
    """Say what was done, or would be."""
    groups = some(sorted({group for group, _ in found}))
    if not found:
        say("there is nothing to import")
    elif dry_run and stored.differs:
        say(f"nothing was written; {len(stored.differs):,} in the vault with another value: {otherwise}")
    elif dry_run:
        say("nothing was written")
    else:
        count = len(stored.new) + len(stored.replaced)
        there = f"; {len(stored.same):,} were there already" if stored.same else ""
        say(f"imported {count:,} of {len(found):,} into {groups}{there}")


# --------------------------------------------------------------- migrate ----

OF_THE_SESSION = frozenset("LANG LANGUAGE TZ TERM COLORTERM DISPLAY WAYLAND_DISPLAY".split())


def take_shell(script: Script) -> tuple[dict[str, str], list[Assignment]]:
    """The exported variables that a script surely leaves, and those that are left to it, each with the reason.

    As in the shell the last assignment counts. Where one of a variable's assignments may or may not happen, or
    another command is given its name, nobody knows without running it.
    """
    by_name: dict[str, list[Assignment]] = {}
    for each in assignments_of(script):
        by_name.setdefault(each.name, []).append(each)
    surely = {name for statement in script.statements for name, is_sure in statement.exports if is_sure}
    taken: dict[str, str] = {}
    left = list(by_name.pop("", []))
    for name, found in by_name.items():
        last = found[-1]
        doubtful = next((each for each in found if each.problem == CONDITIONAL), None)
        if not any(each.exported for each in found):
            if not is_secret(name, last.value or ""):
                continue
            reason, where = "it is not exported", last
        elif is_dangerous(name) or name in OF_THE_SESSION or name.startswith("LC_"):
            reason, where = "it changes what other programs do", last
        elif doubtful or name in script.words:
            reason, where = doubtful.problem if doubtful else "another command is given its name", doubtful or last
        elif last.problem or last.value is None:
            reason, where = last.problem, last
        elif name not in surely:
            reason, where = CONDITIONAL, last
        elif not last.value:
            reason, where = "it is empty", last
        else:
            try:
                taken[check_key(name)] = check_value(last.value)
                continue
            except Usage as error:
                reason, where = error.message, last
        left.append(dataclasses.replace(where, value=None, problem=reason))
    return taken, sorted(left, key=lambda each: each.line)


def removable(script: Script, taken: dict[str, str]) -> tuple[set[int], list[Assignment]]:
    """The lines to take out once the vault has the variables in `taken`, and the assignments that stay, with reasons.

    A line goes if all that stands on it is in the vault then, and a variable goes from all its lines or from none:
    it stays where an earlier, other value would count again, and where the rest of the file uses it.
    """
    assignments = [each for each in assignments_of(script) if each.name in taken]
    reasons = {each.name: "it has had another value before" for each in assignments if each.value != taken[each.name]}
    source = script.source.split("\n")
    while True:
        going = [each for each in script.statements if each.names() <= taken.keys() - reasons.keys()]
        busy = script.busy | lines_of(each for each in script.statements if each not in going)
        while crowded := [each for each in going if busy & lines_of([each])]:
            busy |= lines_of(crowded)  # they stay, and so does what shares another of their lines
            going = [each for each in going if each not in crowded]
        lines = lines_of(going)
        rest = "\n".join(text for number, text in enumerate(source, 1) if number not in lines)
        used = set(re.findall(rf"\$\{{?[^\w\s{{}}$'\"]?({NAME})", rest))
        staying = {name for each in script.statements if each not in going for name in each.names()}
        more = dict.fromkeys(staying, "something else stands on its line") | dict.fromkeys(used, "the rest of the file uses it")
        more = {name: more[name] for name in taken if name in more and name not in reasons}
        if not more:
            break
        reasons |= more
    kept = [dataclasses.replace(each, value=None, problem=reasons[each.name]) for each in assignments if each.name in reasons]
    return lines, kept


def lines_of(statements: Iterable[Statement]) -> set[int]:
    """The lines on which statements stand."""
    return {line for each in statements for line in range(each.first, each.last + 1)}


def without_lines(data: bytes, lines: set[int]) -> bytes:
    """A file's bytes without some of its lines."""
    return b"".join(line for number, line in enumerate(re.findall(rb"[^\n]*\n|[^\n]+", data), 1) if number not in lines)


def attributes(fd: int) -> list[str]:
    """The names of a file's extended attributes: access lists, SELinux's label. None where the system has none."""
    try:
        return os.listxattr(fd) if sys.platform == "linux" else []
    except OSError:
        return []


def replace_file(path: str, before: bytes, after: bytes) -> None:
    """Put other bytes into a person's file: atomically, with its mode and owner, only if it is as it was.

    `path` is no symlink (the target of one is what its owner edits). Raises AvaultError; the file is as it was then.
    """
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    unchanged = "nothing was taken out; the file is as it was"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
                raise AvaultError(f"{path} has another name too, a hard link", unchanged)
            new = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(new, "wb", buffering=0):
                os.fchown(new, info.st_uid, info.st_gid)
                os.fchmod(new, stat.S_IMODE(info.st_mode))
                for name in attributes(fd):
                    os.setxattr(new, name, os.getxattr(fd, name))
                write_all(new, after)
                os.fsync(new)
            now = os.stat(path, follow_symlinks=False)
            if file.read() != before or (now.st_dev, now.st_ino) != (info.st_dev, info.st_ino):
                raise AvaultError(f"{path} changed meanwhile", unchanged)
            os.rename(temporary, path)
        sync_directory(os.path.dirname(path))
    except OSError as error:
        raise AvaultError(f"cannot write {path}: {error.strerror}", unchanged) from None
    finally:
        try:
            os.unlink(temporary)
        except OSError:
            pass  # renamed, or never made


@command(
    "migrate",
    option("--file"),
    option("--group", default="profile"),
    option("--dry-run", is_flag=True),
    option("--remove", is_flag=True),
)
def cmd_migrate(terminal: Terminal, file: str | None, group: str, dry_run: bool, remove: bool) -> int:
    """usage: avault migrate [--file F] [--group G] [--dry-run] [--remove]

    Takes the variables that ~/.profile (or F) exports into the vault, group
    `profile` or G, without running anything: export KEY=value in all its
    spellings, and KEY=value with an export of KEY elsewhere. The last value
    counts. A line that needs the shell ($(…), $X, ~), or that an if, a loop or
    another command decides about, is left and named; so are PATH and others that
    change what programs do. Nothing in the vault is replaced.

    --remove takes the lines out afterwards, once the vault was asked whether it
    holds them all: only lines on which nothing else stands, and only if the file
    is as it was read. --dry-run shows all of this and does nothing.

      avault migrate --dry-run --remove
      avault migrate --file ~/.zshrc --group shell
    """
    check_group(group)
    shown = os.path.expanduser(file or "~/.profile")
    place = printable(shown, 4096)
    harden("avault migrate")
    path = os.path.realpath(shown)  # dotfiles are often symlinks into a repository: what they lead to is edited
    try:
        data = read_file(path, SCRIPT, only_regular=False)
    except NotFound:
        raise NotFound(f"no file {place}", "name another with --file") from None
    script = Script(to_text(data, place), is_zsh=".z" in os.path.basename(shown))
    taken, left = take_shell(script)
    found = {(group, name): value for name, value in taken.items()}
    stored = compare(terminal, found)
    if stored.differs and not dry_run:
        raise Denied(
            f"in the vault with another value: {some(stored.differs)}",
            f"keep both with --group NAME, or take one away first: avault delete {stored.differs[0]}",
        )
    lines, kept = removable(script, taken) if remove and not stored.differs else (set(), [])
    if lines and not dry_run and not terminal.ask("status")["proven"]:
        raise Denied("nobody has shown yet that the phone opens this vault: nothing is taken out", "avault pair, then once more")
    if not dry_run:
        store(terminal, found, stored, {}, False)
        if lines:
            if len(compare(terminal, found).same) < len(found):
                raise AvaultError("the vault does not hold all that was imported", "nothing was taken out; see: avault list")
            replace_file(path, data, without_lines(data, lines))
    for each in left:
        say(f"left {place}:{each.line}{' ' + each.name if each.name else ''}: {each.problem}")
    for each in kept:
        say(f"stays in {place}:{each.line} {each.name}: {each.problem}")
    if terminal.want_json:
        answer = {
            "file": shown,
            **vars(stored),
            "left": [{"line": each.line, "name": each.name or None, "reason": each.problem} for each in left],
            "removed": sorted(lines),
            "kept": [{"line": each.line, "name": each.name, "reason": each.problem} for each in kept],
            "dry_run": dry_run,
        }
        put(json.dumps(answer, indent=2) + "\n")
    else:
        show(stored)
    tell(dry_run, found, stored, f"--group NAME, or avault delete {stored.differs[0]}" if stored.differs else "")
    if lines:
        many = f"{len(lines):,} line{'s' if len(lines) > 1 else ''}"
        say(f"{'would take' if dry_run else 'took'} {many} out of {path}")
        if not dry_run and (repository := repository_of(path)):
            warn(
                f"the values may stand in the history of {repository}",
                "a secret that was pushed is to be revoked where it was issued",
            )
    elif found and not remove and not dry_run:
        say("hint: take them out of the file with: avault migrate --remove" + (f" --file {file}" if file else ""))
    if found and not dry_run:
        tell_of_twins(terminal, found)
    return 0


def repository_of(path: str) -> str | None:
    """The git repository that a file is in."""
    while (path := os.path.dirname(path)) != os.path.dirname(path):
        if os.path.lexists(os.path.join(path, ".git")):
            return path
    return None


# ----------------------------------------------------------------- audit ----
SHORTEST = 8  # bytes of a value that is looked for in all of a text: what is shorter stands everywhere by chance


class Held:
    """What the vault holds: names by value, and values by what a variable for them may be called."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.names: dict[str, list[str]] = {}
        self.keys: dict[str, list[str]] = {}
        for row in rows:
            place = f"{row['group']}/{row['key']}"
            for value in (row["value"], *row["conflicts"]):
                self.names.setdefault(value, []).append(place)
            for name in {row["key"], as_name(row["group"], row["key"])}:
                self.keys.setdefault(name, []).append(place)
        self.long = sorted((value for value in self.names if len(value.encode()) >= SHORTEST), key=len, reverse=True)


class Finding(Fields, frozen=True, order=True):
    """Something that stands in clear: where, which variable, and what the vault knows of it."""

    file: str
    line: int
    variable: str | None
    state: str  # "missing", "differs" or "same"
    secrets: tuple[str, ...] = ()

    def __str__(self) -> str:
        known = {"missing": "not in the vault", "differs": "differs from ", "same": "in the vault too: "}[self.state]
        return f"{printable(self.file, 4096)}:{self.line}  {self.variable or '(in the text)'}  {known}{', '.join(self.secrets)}"


def judge(each: Assignment, file: str, held: Held) -> Finding | None:
    """What is to be said of a variable; None where it is no secret, or its value is not in the file."""
    if not each.value:
        return None
    if places := held.names.get(each.value):
        return Finding(file, each.line, each.name, "same", tuple(places))
    if (places := held.keys.get(each.name)) and not foreign(each.value):
        return Finding(file, each.line, each.name, "differs", tuple(places))
    return Finding(file, each.line, each.name, "missing") if is_secret(each.name, each.value) else None


def look_into(file: str, text: str, parse: Callable[[str], list[Assignment]], held: Held) -> list[Finding]:
    """What stands in clear in a file: its variables, then whatever else its text holds, comments included."""
    found, lines, seen = [], Lines(text), set()
    for each in parse(text):
        if finding := judge(each, file, held):
            found.append(finding)
            seen |= set(range(each.line, each.last + 1))
    for value in held.long:
        for match in re.finditer(re.escape(value), text):
            if (line := lines.at(match.start())) not in seen:
                found.append(Finding(file, line, None, "same", tuple(held.names[value])))
                seen |= set(range(line, lines.at(match.end() - 1) + 1))
    for match in TOKENS.finditer(text):
        if (line := lines.at(match.start())) not in seen and len(set(match[0])) > 7:
            found.append(Finding(file, line, None, "missing"))
            seen.add(line)
    return sorted(found)


def parser_of(path: str, text: str) -> Callable[[str], list[Assignment]]:
    """How a file of that name and look is read."""
    name = os.path.basename(path)
    if name == "fish_variables":
        return parse_fish_variables
    if name.endswith(".fish"):
        return parse_fish
    if name == ".pam_environment":
        return parse_pam
    if re.search(r"(?m)^\[(Unit|Service|Install)\]", text):
        return parse_unit
    if re.match(r"\.env(\.|$)", name) or name.endswith((".env", ".conf")):
        return parse_dotenv
    return lambda text: parse_shell(text, is_zsh=".z" in name)


def usual_files(places: Places) -> Iterator[str]:
    """Where secrets usually stand in clear, whether the files are there or not."""
    home, config = os.path.expanduser("~"), os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    names = ".profile .bash_profile .bash_login .bashrc .bash_aliases .zshenv .zprofile .zshrc .zlogin .pam_environment"
    for directory in dict.fromkeys((home, os.environ.get("ZDOTDIR") or home)):
        yield from (os.path.join(directory, name) for name in names.split())
    for pattern in (
        "environment.d/*.conf", "fish/config.fish", "fish/conf.d/*.fish", "fish/fish_variables", "systemd/user/*.service",
        "systemd/user/*.service.d/*.conf",
    ):  # fmt: skip
        yield from sorted(glob.glob(os.path.join(glob.escape(config), pattern)))
    for directory in (os.getcwd(), os.path.dirname(places.dir), home, os.path.join(home, ".openclaw")):
        for pattern in (".env", ".env.*", ".envrc"):
            found = sorted(glob.glob(os.path.join(glob.escape(directory), pattern)))
            yield from (path for path in found if not path.endswith((".example", ".sample", ".template", ".dist")))


def environment_files(text: str) -> Iterator[str]:
    """The files that a unit's EnvironmentFile= lines name; %h is the home directory, other % are not known here."""
    for match in re.finditer(r"(?m)^[ \t]*EnvironmentFile[ \t]*=[ \t]*-?(\S+)", text):
        pattern = match[1].strip("\"'").replace("%h", glob.escape(os.path.expanduser("~"))).replace("%%", "%")
        if os.path.isabs(pattern):
            yield from sorted(glob.glob(pattern))


class Audit:
    """The files that were looked at, by their real paths, and what was found in them."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.files: list[str] = []
        self.seen: set[str] = set()
        self.findings: list[Finding] = []

    def look(self, path: str, is_named: bool, parse: Callable[[str], list[Assignment]] | None = None) -> None:
        """Look into a file, and into those that it names if it is a unit. One that was not named may be missing."""
        real = os.path.realpath(path)
        if real in self.seen or (not is_named and not os.path.isfile(real)):
            return
        self.seen.add(real)
        try:
            text = to_text(read_file(real, SCRIPT, only_regular=False), path)
        except AvaultError as error:
            if is_named:
                raise
            warn(printable(error.message))
            return
        self.files.append(path)
        parse = parse or parser_of(path, text)
        self.findings += look_into(path, text, parse, self.held)
        if parse is parse_unit:
            for each in environment_files(text):
                self.look(each, False, parse_dotenv)


@command("audit", option("--file", "files", multiple=True))
def cmd_audit(terminal: Terminal, files: tuple[str, ...]) -> int:
    """usage: avault audit [--file F]… [--json]

    Looks for secrets that stand in clear where they usually do: the files that
    sh, bash, zsh and fish begin with, ~/.config/environment.d, ~/.pam_environment,
    .env files here, in the workspace and at home, the units in
    ~/.config/systemd/user and the files that they name. With --file: there only.

    A line for each: file, line, variable, and whether the vault has it too, has
    another value, or has it not. Never a value. What the vault does not have is
    judged by its name (API_KEY, …_TOKEN, …) and by its value (sk-…, ghp_…, long and
    random). Exit code 1: something is found; 0: nothing; 3: the vault is locked.

      avault audit
      avault audit --file ~/project/.env --json
      avault migrate --remove      takes what ~/.profile exports
    """
    harden("avault audit")
    audit = Audit(Held(terminal.ask("reveal", groups=[], only=[], **{"for": "audit"})["secrets"]))
    for file in files:
        audit.look(os.path.abspath(os.path.expanduser(file)), is_named=True)
    for file in () if files else usual_files(terminal.places):
        audit.look(file, is_named=False)
    states = Counter(finding.state for finding in audit.findings)
    if terminal.want_json:
        rows = [{**vars(finding), "secrets": list(finding.secrets)} for finding in audit.findings]
        put(json.dumps({"findings": rows, "files": audit.files, "clean": not rows}, indent=2) + "\n")
    else:
        put("".join(f"{finding}\n" for finding in audit.findings))
    many = "1 file" if len(audit.files) == 1 else f"{len(audit.files):,} files"
    if not audit.findings:
        say(f"nothing found in {many}")
        return 0
    missing, differs, same = (states[state] for state in ("missing", "differs", "same"))
    say(f"in clear in {many}: {missing} not in the vault, {differs} with another value, {same} in both")
    say("hint: avault migrate --remove takes them out of ~/.profile, avault import FILE takes a .env file in; then: rm FILE")
    return 1
