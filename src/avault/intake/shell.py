"""~/.profile and its like, for sh, bash and zsh: read, never run.

The grammar: POSIX.1-2017, volume 3, chapter 2; with what bash(1) and zshmisc(1) add. What a word
becomes was tried in dash, bash, zsh and busybox; only what comes out of all of them alike, or is
unknown to the older, is taken. Everything else is left in place and named, by file, line and
variable.
"""

from __future__ import annotations

import dataclasses
import itertools
import re

from avault.errors import Usage
from avault.intake.dotenv import NAME, Assignment, Lines, is_dos
from avault.late import Fields, field, regex

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


OPERATOR = regex(r"<<<|<<-?|&>>|&>|>>|[<>]&|<>|>\||&&|\|\||\|&|;;&|;;|;&|;\||[;&|<>()\n]")
REDIRECTIONS = frozenset("<<< << <<- &> &>> >> <& >& <> >| < >".split())
OPENERS = {
    "if": "fi", "while": "done", "until": "done", "for": "done", "select": "done", "case": "esac", "{": "}", "foreach": "end",
}  # fmt: skip
CLOSERS = frozenset(OPENERS.values())
HEADS = frozenset("for select case foreach function".split())  # words follow that are no command
JOINERS = frozenset("then elif else do ! time".split())  # a command follows
GROUP = "()"  # an open parenthesis in the stack; among a command's words, a closed pair
SHELL_ESCAPED = regex(r"(?s)\\(.)")
SHELL_SINGLE = regex(r"'([^']*)'")
SHELL_BACKTICKS = regex(r"(?s)`(?:\\.|[^`\\])*`")
SHELL_PLAIN = regex(r"[^ \t\n;&|<>()\\'\"$`]+")
SHELL_DOUBLE = regex(r'[^"\\$`]+')
# after them a $ is a $, in every shell, quoted or not
LITERAL_DOLLAR = frozenset(" \t\n%,./:;&|<>)")
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
            # of bytes that came one by one
            self.text = self.text.encode("utf-8", "surrogateescape").decode()
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
    # the name, and whether it surely runs
    exports: list[tuple[str, bool]] = field(default_factory=list)

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
        # how many statements stand before the line that is being read, which shells run as a whole
        self.complete = 0
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
                    done = self.end_command(
                        words, begin, start, plain and operator not in ("|", "|&"), sure
                    )
                    sure = sure and done if operator == "&&" else operator not in ("||", "|", "|&")
                    begin = start if operator in ("&&", "||", "|", "|&") else None
                    if operator == "&" and not self.stack:
                        self.doubt(self.statements[listed:])
                    listed = len(self.statements) if begin is None and not self.stack else listed
                words, plain = [], True
                if operator == "\n":
                    self.skip_documents()
                    self.complete = (
                        self.complete if self.stack or begin is not None else len(self.statements)
                    )
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
        is_body = bool(words) and (
            words[-1].bare == GROUP or (words[0].bare == "function" and word.bare == "{")
        )
        if words and not is_after_closer and not is_body:
            return False
        if word.bare in ("foreach", "end") and not self.is_zsh:
            return False
        return (
            word.bare in JOINERS
            or word.bare in HEADS
            or word.bare in OPENERS
            or word.bare in CLOSERS
        )

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

    def end_command(
        self, words: list[Word], begin: int | None, end: int, plain: bool, sure: bool
    ) -> bool:
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
            each.sets = [
                dataclasses.replace(one, problem=one.problem or CONDITIONAL) for one in each.sets
            ]
            each.exports = [(name, False) for name, _ in each.exports]

    def read_assignments(self, words: list[Word], statement: Statement, surely: bool) -> bool:
        """Fill a statement from a command's words, if that is what they are."""
        name = words[0].text
        if re.match(NAME + r"(\[.*\])?\+?=", words[0].bare, re.DOTALL):
            if not all(re.match(NAME + r"(\[.*\])?\+?=", word.bare, re.DOTALL) for word in words):
                return False  # of that one command
            exported, problem = False, ""
        elif name in ("export", "declare", "typeset", "readonly"):
            options = list(
                itertools.takewhile(lambda word: re.match("[-+].", word.bare), words[1:])
            )
            words = words[1 + len(options) :]
            letters = "".join(word.text[1:] for word in options if word.text != "--")
            exported = name == "export" or "x" in letters
            known = "" if name == "export" else "xgr"
            problem = (
                "it has options"
                if set(letters) - set(known) or any(word.text[0] == "+" for word in options)
                else ""
            )
            if not words:
                return False
        else:
            return False
        problem = problem or ("" if surely else CONDITIONAL)
        for word in words:
            self.read_assignment(word, statement, problem, exported)
        return True

    def read_assignment(
        self, word: Word, statement: Statement, problem: str, exported: bool
    ) -> None:
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
            statement.sets.append(
                Assignment(*lines, name, known, problem or word.problem, exported=exported)
            )
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
            each,
            exported=each.exported or each.name in exported,
            problem=each.problem or (CONDITIONAL if script.unclear else ""),
        )
        for statement in script.statements
        for each in statement.sets
    ]
    if script.unclear:
        problem = "the quote or bracket that opens here has no clear end"
        found.append(Assignment(script.unclear, script.unclear, "", None, problem))
    return found
