"""~/.profile and its like, for sh, bash and zsh: read, never run.

Its commands are read here, their words by intake/shell_words, and what they set by
intake/shell_assignments.

The grammar: POSIX.1-2017, volume 3, chapter 2; with what bash(1) and zshmisc(1) add. What a word
becomes was tried in dash, bash, zsh and busybox; only what comes out of all of them alike, or is
unknown to the older, is taken. Everything else is left in place and named, by file, line and
variable.
"""

from __future__ import annotations

import dataclasses
import re

from avault.errors import Usage
from avault.intake.dotenv import Assignment, Lines
from avault.intake.shell_assignments import CONDITIONAL, Statement, take_assignments
from avault.intake.shell_words import Unclear, Word, WordReader
from avault.late import regex

SCRIPT = 16 << 20  # bytes of a file that is looked at


def to_text(data: bytes, path: str) -> str:
    """A file's bytes as text that can become the same bytes again; raises Usage."""
    if b"\0" in data:
        raise Usage(f"{path} is not a text file")
    return data.decode("utf-8", "surrogateescape")


OPERATOR = regex(r"<<<|<<-?|&>>|&>|>>|[<>]&|<>|>\||&&|\|\||\|&|;;&|;;|;&|;\||[;&|<>()\n]")
REDIRECTIONS = frozenset("<<< << <<- &> &>> >> <& >& <> >| < >".split())
OPENERS = {
    "if": "fi", "while": "done", "until": "done", "for": "done", "select": "done", "case": "esac",
    "{": "}", "foreach": "end",
}  # fmt: skip
CLOSERS = frozenset(OPENERS.values())
HEADS = frozenset("for select case foreach function".split())  # words follow that are no command
JOINERS = frozenset("then elif else do ! time".split())  # a command follows
GROUP = "()"  # an open parenthesis in the stack; among a command's words, a closed pair


class Script:
    """A shell script, read and not run.

    `statements` are the commands that only set variables, `busy` the lines on which anything
    else stands, `words` what other commands are given by name. A command surely runs when it
    stands at the top: in no if, loop, function, pipeline, after no && and after no exit. When
    the reading loses its way (a quote without an end, a parenthesis too many) nothing is sure
    any more.
    """

    def __init__(self, text: str, is_zsh: bool = False) -> None:
        self.source = text
        self.reader = WordReader(text, is_zsh, self.read_group)
        self.lines = Lines(text)
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
            position = error.position if isinstance(error, Unclear) else self.reader.at
            self.unclear = self.lines.at(position)
            self.busy |= set(range(self.unclear, len(self.lines.ends) + 2))

    def read_group(self) -> None:
        """From a parenthesis to the one that closes it.

        That is a substitution, a subshell, an array or a pattern.
        """
        opened = self.reader.at
        documents, self.documents = self.documents, []
        self.reader.at += 1
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
            start = self.reader.at
            found = OPERATOR.match(self.source, start)
            operator = found[0] if found else ""
            if operator == "(":
                plain = self.read_parenthesis(words) and plain
            elif operator in REDIRECTIONS:
                self.reader.at += len(operator)
                self.read_redirection(operator)
                plain = False
            elif not operator and self.reader.peek():
                word = self.reader.read_word()
                if self.is_reserved(word, words):
                    words, plain = self.read_reserved(word, words), True
                else:
                    words.append(word)
            elif operator == "\n" and len(words) == 2 and words[1].bare == GROUP:
                self.reader.at += 1  # `name ()`: its body follows
            else:
                self.reader.at += len(operator)
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
        found = re.compile(r"(?:[ \t]|\\\n)*(?:#[^\n]*)?").match(self.source, self.reader.at)
        self.reader.at = found.end() if found else self.reader.at

    def read_parenthesis(self, words: list[Word]) -> bool:
        """Take what stands in parentheses as a word; whether it gives the word before an array."""
        group = Word(self.reader.at)
        if self.reader.peek(2) == "((" and (not words or words[0].bare == "for"):
            self.reader.skip_brackets("(", ")", False)
        else:
            self.read_group()
        if words and words[-1].end == group.start and words[-1].bare[-1:] == "=":
            words[-1].end = self.reader.at
            words[-1].doubt("it is an array")
            return True
        group.text = group.bare = GROUP
        group.end = self.reader.at
        words.append(group)
        return False

    def read_redirection(self, operator: str) -> None:
        """The word after a redirection; a here-document begins after the line."""
        self.skip_blanks()
        is_word = not OPERATOR.match(self.source, self.reader.at)
        word = self.reader.read_word() if is_word else Word(self.reader.at)
        if operator in ("<<", "<<-"):
            self.documents.append((word.text, operator == "<<-"))

    def skip_documents(self) -> None:
        """The here-documents that begin after this line."""
        for delimiter, is_indented in self.documents:
            while self.reader.at < len(self.source):
                end = self.source.find("\n", self.reader.at)
                end = len(self.source) if end < 0 else end
                line = self.source[self.reader.at : end]
                self.busy.add(self.lines.at(self.reader.at))
                self.reader.at = min(end + 1, len(self.source))
                if (line.lstrip("\t") if is_indented else line) == delimiter:
                    break
        self.documents = []

    def is_reserved(self, word: Word, words: list[Word]) -> bool:
        """Whether a word is one of the grammar's, and stands where it means something."""
        if word.bare == "}" and self.reader.is_zsh:
            return True
        is_after_closer = len(words) == 1 and words[0].bare in CLOSERS
        is_body = bool(words) and (
            words[-1].bare == GROUP or (words[0].bare == "function" and word.bare == "{")
        )
        if words and not is_after_closer and not is_body:
            return False
        if word.bare in ("foreach", "end") and not self.reader.is_zsh:
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
        if take_assignments(words, statement, self.lines, surely):
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


def parse_shell(text: str, is_zsh: bool = False) -> list[Assignment]:
    """The variables that a shell script sets, in order; nothing is run.

    Those with an empty `problem` surely have that value when the script has come to that line.
    `exported` says whether the script exports a variable of that name anywhere.
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
