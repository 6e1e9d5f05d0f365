r"""The one reader of .env files: `import`, `audit` and `run --env-file` read a file alike.

There is no standard. Where python-dotenv and npm's dotenv agree, that is what a line says. Where
they differ, it is python-dotenv's reading, but that backticks are quotes as to npm's dotenv, and
that \$ and \` in double quotes are what sh, docker compose and `avault export` mean by them; the
remark of such a line says so. references/dotenv.md shows who reads what how.
"""

from __future__ import annotations

import bisect
import dataclasses
import re

from avault.errors import Usage
from avault.late import Fields, field, regex
from avault.terminal.talk import say, warn
from avault.vault.names import check_key, check_value

NAME = r"[A-Za-z_][A-Za-z0-9_]*"


class Assignment(Fields, frozen=True):
    """One variable that a file sets, and the lines where it does.

    `value` is None where it cannot be known without running something. `problem` says why this
    assignment alone does not decide what the variable is. `remark` says what else reads the file
    differently. What cannot be read at all has no name.
    """

    line: int
    last: int
    name: str
    value: str | None = field(repr=False)
    problem: str = ""
    remark: str = ""
    exported: bool = True


class Lines:
    """Tells the line, from 1, of a position in a text."""

    def __init__(self, text: str) -> None:
        self.ends = [match.start() for match in re.finditer("\n", text)]

    def at(self, position: int) -> int:
        """The line of the character at `position`; the end of a line belongs to it."""
        return bisect.bisect_left(self.ends, position) + 1


def is_dos(text: str) -> bool:
    """Whether every line of a text ends as in Windows."""
    return "\r\n" in text and not re.search(r"(?<!\r)\n", text)


START = regex(r"[ \t]*(?:export[ \t]+)?([^=\s#'\"]+)[ \t]*=([ \t]*)")
QUOTED = regex(r"""(?s)'((?:\\.|[^'\\])*)'|"((?:\\.|[^"\\])*)"|`([^`]*)`""")
REST = regex(r"[ \t]*(?:#[^\n]*?)?(\r?(?:\n|\Z))")
BARE_NAME = regex(rf"\s*({NAME})\s*")
PUBLIC_NAME = regex(r"[A-Z]+[0-9]*([_.-][A-Z0-9]+)*|[a-z]+[0-9]?([_.-][a-z]+[0-9]?)+")
C_ESCAPES = dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True))
DOTENV_ESCAPES = {**C_ESCAPES, **{c: c for c in "\\'\"$`"}}

REFERS = "it refers to another variable"
NO_VALUE = "it is a name without a value"
NO_KEY = "it is not a key name"
# problems of a line that is left where it is; any other is an error
LEFT = frozenset((REFERS, NO_VALUE, NO_KEY))
BACKTICKS = "backticks are quotes to npm's dotenv, and to others not"
SINGLE_ESCAPES = r"\\ and \' are escapes to python-dotenv in single quotes, and to others not"
DOUBLE_ESCAPES = (
    r"in double quotes npm's dotenv knows no escape but \n and \r, python-dotenv neither \$ nor \`"
)
CARRIAGE_RETURN = (
    "a carriage return stays in it, which python-dotenv and npm's dotenv take for the end of a line"
)
QUOTED_REFERENCE = (
    "python-dotenv puts another variable's value for ${NAME} in single quotes and backticks too, "
    "and others do not"
)
DOLLAR = "a $ begins a variable to docker compose and others, and not to python-dotenv"
HASH = "a # ends the value to npm's dotenv, and to others not"
ODD_SPACE = "the odd white space around it belongs to the value for some, and for others not"
NOT_FOR_SHELLS = (
    "quotes and backslashes belong to the value, but not to a shell that reads this line"
)
TWO_EXPORTS = "a shell that reads this line exports more than one variable"


def parse_dotenv(text: str) -> list[Assignment]:
    """The variables of a .env file, in order.

    A line that is none has a problem, and no name that may be a secret.
    """
    text = text.removeprefix("\ufeff")
    if "\n" not in text:
        text = text.replace("\r", "\n")  # as old as that
    lines, at, found = Lines(text), 0, []
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        line = text[at:end]
        if re.fullmatch(rf"\s*(?:#.*|export[ \t]+{NAME}\s*)?", line):
            at = end + 1
            continue
        name = START.match(text, at, end)
        if name:
            made, at = read_assignment(text, name, end, lines)
        else:
            made, at = read_bare(line, lines.at(at)), end + 1
        found.append(made)
    return found


def read_bare(line: str, number: int) -> Assignment:
    """A line that assigns nothing.

    A word alone is a name to docker, and may be a piece of a secret: few are repeated.
    """
    word = BARE_NAME.fullmatch(line)
    if not word:
        return Assignment(number, number, "", None, "not KEY=value")
    is_public = word[1].isupper() and PUBLIC_NAME.fullmatch(word[1])
    return Assignment(number, number, word[1] if is_public else "", None, NO_VALUE)


def read_assignment(
    text: str, name: re.Match[str], end: int, lines: Lines
) -> tuple[Assignment, int]:
    """The assignment whose name was found, and where the next line begins.

    `end` is the end of this one.
    """
    line, start = lines.at(name.start()), name.end()

    def made(value: str | None, last: int, problem: str = "", remark: str = "") -> Assignment:
        return Assignment(
            line, lines.at(last), name[1], None if problem else value, problem, remark
        )

    if not re.fullmatch(NAME, name[1]):
        is_public = PUBLIC_NAME.fullmatch(name[1]) and len(name[1]) <= 64
        return Assignment(line, line, name[1] if is_public else "", None, NO_KEY), end + 1
    quoted = QUOTED.match(text, start)
    rest = REST.match(text, quoted.end()) if quoted else None
    if quoted and rest:
        is_windows = rest[1] == "\r\n" or (rest[1] != "\n" and is_dos(text))
        return made(*read_quoted(quoted, is_windows)), rest.end()
    if quoted and text[start] != "`":
        end = text.find("\n", quoted.end())
        return made(
            None, quoted.end(), "text after the closing quote"
        ), end + 1 if end >= 0 else len(text)
    if text[start : start + 1] in ("'", '"') and start < end:
        return made(None, end, "the quote is not closed"), end + 1
    return made(*read_plain(text, name, end)), end + 1


def read_quoted(quoted: re.Match[str], is_windows: bool) -> tuple[str, int, str, str]:
    """The value in quotes, its last position, a problem and a remark.

    A line end in it is the file's where the assignment's own line ends in the same way, and the
    value's where it does not.
    """
    single, double, back = (
        piece and piece.replace("\r\n", "\n") if is_windows else piece for piece in quoted.groups()
    )
    problem = remark = ""
    if single is not None:
        value = re.sub(r"\\([\\'])", r"\1", single)
        remark = SINGLE_ESCAPES if value != single else ""
    elif double is not None:
        value = re.sub(
            r"\\(.)",
            lambda escape: DOTENV_ESCAPES.get(escape[1], escape[0]),
            double,
            flags=re.DOTALL,
        )
        problem, remark = read_references(re.sub(r"\\.", "", double, flags=re.DOTALL))
        if any(
            escape in DOTENV_ESCAPES.keys() - set("nr") for escape in re.findall(r"\\(.)", double)
        ):
            remark = DOUBLE_ESCAPES
    else:
        value, remark = back, BACKTICKS
    if double is None and read_references(value)[0]:
        remark = QUOTED_REFERENCE
    if any("\r" in piece for piece in (single, double, back) if piece):
        remark = CARRIAGE_RETURN
    return value, quoted.end() - 1, problem, remark


def read_plain(text: str, name: re.Match[str], end: int) -> tuple[str, int, str, str]:
    """The value without quotes, to the end of the line or of what is before a comment; as above."""
    start = name.end()
    value = (
        ""
        if name[2] and text[start : start + 1] == "#"
        else re.sub(r"(?<!\s)\s+#.*", "", text[start:end]).rstrip()
    )
    if re.fullmatch(r"-----BEGIN [A-Z0-9 ]+-----", value):
        return value, end, "a value of several lines needs quotes", ""
    problem, remark = read_references(value)
    if value[:1] == "`":
        remark = BACKTICKS
    if "#" in value:
        remark = HASH
    bare = text[start:end].strip(" \t\r")
    if bare != bare.strip():
        remark = ODD_SPACE
    if not remark and re.search(r"[\\'\"]", value):
        remark = NOT_FOR_SHELLS
    if "export" in name[0][: name.start(1) - name.start()] and re.search(rf"\s{NAME}=", value):
        remark = TWO_EXPORTS
    if "\r" in value:
        remark = CARRIAGE_RETURN
    return value, end, problem, remark


def has_reference(text: str) -> bool:
    """Whether there is a ${NAME} in a text, whatever the name is."""
    return "}" in text.partition("${")[2]


def read_references(text: str) -> tuple[str, str]:
    """The problem of a value that refers to other variables.

    Gives also the remark about one that does so to some readers.

    Only the program that reads the file knows which value ${NAME} has: such a line is left.
    """
    if has_reference(text):
        return REFERS, ""
    return "", DOLLAR if "$" in text else ""


FOREIGN = {  # how it begins: what it is, and how to get at the value
    "encrypted:": ("dotenvx has encrypted it", "dotenvx get | avault import - --format json"),
    "ENC[": ("sops has encrypted it", "sops decrypt --output-type json FILE | avault import -"),
    "op://": ("it is a reference to 1Password", "op inject -i FILE | avault import -"),
    "{{ op://": ("it is a reference to 1Password", "op inject -i FILE | avault import -"),
    "pass://": (
        "it is a reference to Proton Pass",
        "put the value there, or: avault set GROUP/KEY",
    ),
    "ref+": ("it is a reference of vals", "vals eval -f FILE -o json | avault import -"),
    "vault:secret/": (
        "it is a reference to HashiCorp Vault",
        "put the value there, or: avault set GROUP/KEY",
    ),
    "$ANSIBLE_VAULT;": (
        "Ansible has encrypted it",
        "ansible-vault decrypt --output - FILE | avault import -",
    ),
    "avault://": ("it is a reference to a vault", "avault run --env-file FILE"),
}
BEFORE = "it stands there before; the last one counts"
EMPTY = "it is empty"


def foreign(value: str) -> tuple[str, str] | None:
    """What another tool made of a value, and how to get at the value; None for a value."""
    return next((said for start, said in FOREIGN.items() if value.startswith(start)), None)


def check_kept(value: str, place: str) -> str:
    """`value` if the vault can keep it and it is one; raises Usage that says where it stands."""
    if said := foreign(value):
        raise Usage(f"{place}: {said[0]}", said[1])
    try:
        return check_value(value)
    except Usage as error:
        raise Usage(f"{place}: {error.message}", error.hint) from None


def check_line(each: Assignment, takes_references: bool) -> None:
    """Raises Usage if a line can neither be taken nor left."""
    place = f"line {each.line}"
    if each.value is None:
        raise Usage(f"{place}: {each.problem}", "mend the line, or take it out; nothing is done")
    try:
        check_key(each.name)
    except Usage as error:
        raise Usage(f"{place}: not a key name", error.hint) from None
    if each.value and not (takes_references and each.value.startswith("avault://")):
        check_kept(each.value, f"{place}, {each.name}")


def read_dotenv(
    text: str, takes_references: bool = False
) -> tuple[dict[str, str], list[Assignment]]:
    """The variables of a .env file, empty ones too.

    Gives also the lines about which there is something to say, without values.

    avault:// is another vault's unless `takes_references`. Raises Usage that names all the bad
    lines, never what they say.
    """
    variables: dict[str, str] = {}
    told: list[Assignment] = []
    bad: list[Usage] = []
    for each in parse_dotenv(text):
        if each.problem in LEFT:
            told.append(dataclasses.replace(each, value=None))
            continue
        try:
            check_line(each, takes_references)
        except Usage as error:
            bad.append(error)
            continue
        if variables.pop(each.name, None) is not None:
            told.append(dataclasses.replace(each, value=None, problem="", remark=BEFORE))
        variables[each.name] = each.value or ""
        if each.remark or not each.value:
            told.append(dataclasses.replace(each, value=None, problem="" if each.value else EMPTY))
    if bad:
        more = f"; and {len(bad) - 20:,} more" if len(bad) > 20 else ""
        hint = bad[0].hint if len(bad) == 1 else "mend the lines, or take them out; nothing is done"
        raise Usage("; ".join(error.message for error in bad[:20]) + more, hint)
    return variables, told


def tell_of_lines(told: list[Assignment], file: str = "") -> None:
    """Say what was left in a file, and warn of what others read differently."""
    for each in told:
        words = [file, f"line {each.line}" if each.line else "", each.name]
        place = ", ".join(word for word in words if word)
        if each.remark:
            warn(f"{place}: {each.remark}")
        else:
            say(f"left {place}: {each.problem}")
