"""What a shell's command sets and exports, where it does nothing else."""

from __future__ import annotations

import itertools
import re

from avault.intake.dotenv import NAME, Assignment, Lines
from avault.intake.shell_words import Word
from avault.late import Fields, field

CONDITIONAL = "it depends on the commands around it"


class Statement(Fields):
    """A command that sets or exports variables, and does nothing else."""

    first: int
    last: int
    sets: list[Assignment] = field(default_factory=list)
    # the name, and whether it surely runs
    exports: list[tuple[str, bool]] = field(default_factory=list)

    def names(self) -> set[str]:
        """The variables."""
        return {each.name for each in self.sets} | {name for name, _ in self.exports}


def take_assignments(words: list[Word], statement: Statement, lines: Lines, surely: bool) -> bool:
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
        take_assignment(word, statement, lines, problem, exported)
    return True


def take_assignment(
    word: Word, statement: Statement, lines: Lines, problem: str, exported: bool
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
        first, last = lines.at(word.start), lines.at(word.end - 1)
        statement.sets.append(
            Assignment(first, last, name, known, problem or word.problem, exported=exported)
        )
    if exported and name:
        statement.exports.append((name, not problem))
