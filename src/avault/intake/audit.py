"""avault audit: what still stands in clear."""

from __future__ import annotations

import collections
import glob
import json
import os
import re
from typing import TYPE_CHECKING

from avault.errors import AvaultError, printable
from avault.intake.dotenv import Assignment, Lines, foreign, parse_dotenv
from avault.intake.lines import parse_fish, parse_fish_variables, parse_pam, parse_unit
from avault.intake.looks import TOKEN_FORMS, is_secret
from avault.intake.shell import SCRIPT, parse_shell, to_text
from avault.keys.hardening import harden
from avault.late import Fields
from avault.places import Places
from avault.terminal.commands import command, option
from avault.terminal.talk import put, say, warn
from avault.terminal.terminal import Terminal
from avault.vault.choosing import as_name
from avault.vault.files import open_named, read_file, read_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any


# bytes of a value that is looked for in all of a text: what is shorter stands everywhere by chance
SHORTEST_IN_CLEAR = 8


class Held:
    """What the vault holds.

    Names by value, and values by what a variable for them may be called.
    """

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.names: dict[str, list[str]] = {}
        self.keys: dict[str, list[str]] = {}
        for row in rows:
            place = f"{row['group']}/{row['key']}"
            for value in (row["value"], *row["conflicts"]):
                self.names.setdefault(value, []).append(place)
            for name in {row["key"], as_name(row["group"], row["key"])}:
                self.keys.setdefault(name, []).append(place)
        self.long = sorted(
            (value for value in self.names if len(value.encode()) >= SHORTEST_IN_CLEAR),
            key=len,
            reverse=True,
        )


class Exposure(Fields, frozen=True, order=True):
    """Something that stands in clear: where, which variable, and what the vault knows of it."""

    file: str
    line: int
    variable: str | None
    state: str  # "missing", "differs" or "same"
    secrets: tuple[str, ...] = ()

    def __str__(self) -> str:
        known = {
            "missing": "not in the vault",
            "differs": "differs from ",
            "same": "in the vault too: ",
        }[self.state]
        place = f"{printable(self.file, 4096)}:{self.line}"
        name = self.variable or "(in the text)"
        return f"{place}  {name}  {known}{', '.join(self.secrets)}"


def judge(each: Assignment, file: str, held: Held) -> Exposure | None:
    """What is to be said of a variable.

    None where it is no secret, or its value is not in the file.
    """
    if not each.value:
        return None
    if places := held.names.get(each.value):
        return Exposure(file, each.line, each.name, "same", tuple(places))
    if (places := held.keys.get(each.name)) and not foreign(each.value):
        return Exposure(file, each.line, each.name, "differs", tuple(places))
    return (
        Exposure(file, each.line, each.name, "missing")
        if is_secret(each.name, each.value)
        else None
    )


def look_into(
    file: str, text: str, parse: Callable[[str], list[Assignment]], held: Held
) -> list[Exposure]:
    """What stands in clear in a file.

    Its variables, then whatever else its text holds, comments included.
    """
    found, lines, seen = [], Lines(text), set()
    for each in parse(text):
        if finding := judge(each, file, held):
            found.append(finding)
            seen |= set(range(each.line, each.last + 1))
    for value in held.long:
        for match in re.finditer(re.escape(value), text):
            if (line := lines.at(match.start())) not in seen:
                found.append(Exposure(file, line, None, "same", tuple(held.names[value])))
                seen |= set(range(line, lines.at(match.end() - 1) + 1))
    for match in TOKEN_FORMS.finditer(text):
        if (line := lines.at(match.start())) not in seen and len(set(match[0])) > 7:
            found.append(Exposure(file, line, None, "missing"))
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
    home, config = (
        os.path.expanduser("~"),
        os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"),
    )
    names = (
        ".profile .bash_profile .bash_login .bashrc .bash_aliases "
        ".zshenv .zprofile .zshrc .zlogin .pam_environment"
    )
    for directory in dict.fromkeys((home, os.environ.get("ZDOTDIR") or home)):
        yield from (os.path.join(directory, name) for name in names.split())
    for pattern in (
        "environment.d/*.conf", "fish/config.fish", "fish/conf.d/*.fish", "fish/fish_variables",
        "systemd/user/*.service", "systemd/user/*.service.d/*.conf",
    ):  # fmt: skip
        yield from sorted(glob.glob(os.path.join(glob.escape(config), pattern)))
    for directory in (
        os.getcwd(),
        os.path.dirname(places.dir),
        home,
        os.path.join(home, ".openclaw"),
    ):
        for pattern in (".env", ".env.*", ".envrc"):
            found = sorted(glob.glob(os.path.join(glob.escape(directory), pattern)))
            yield from (
                path
                for path in found
                if not path.endswith((".example", ".sample", ".template", ".dist"))
            )


def environment_files(text: str) -> Iterator[str]:
    """The files that a unit's EnvironmentFile= lines name.

    %h is the home directory, other % are not known here.
    """
    for match in re.finditer(r"(?m)^[ \t]*EnvironmentFile[ \t]*=[ \t]*-?(\S+)", text):
        pattern = (
            match[1]
            .strip("\"'")
            .replace("%h", glob.escape(os.path.expanduser("~")))
            .replace("%%", "%")
        )
        if os.path.isabs(pattern):
            yield from sorted(glob.glob(pattern))


class Audit:
    """The files that were looked at, by their real paths, and what was found in them."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.files: list[str] = []
        self.seen: set[str] = set()
        self.findings: list[Exposure] = []

    def look(self, path: str, parse: Callable[[str], list[Assignment]] | None = None) -> None:
        """Look into a file that may be there, and into those that it names if it is a unit.

        One that cannot be read is said.
        """
        if not self.is_new(path) or not os.path.isfile(path):
            return
        try:
            self.look_at(path, read_file(os.path.realpath(path), SCRIPT), parse)
        except AvaultError as error:
            warn(printable(error.message))

    def is_new(self, path: str) -> bool:
        """Whether a file was not looked at yet, under whatever name."""
        real = os.path.realpath(path)
        is_new = real not in self.seen
        self.seen.add(real)
        return is_new

    def look_at(
        self, path: str, data: bytes, parse: Callable[[str], list[Assignment]] | None = None
    ) -> None:
        """Look into what is in a file, and into the files that it names; raises Usage."""
        text = to_text(data, path)
        self.files.append(path)
        parse = parse or parser_of(path, text)
        self.findings += look_into(path, text, parse, self.held)
        if parse is parse_unit:
            for each in environment_files(text):
                self.look(each, parse_dotenv)


@command("audit", option("--file", "files", multiple=True))
def cmd_audit(terminal: Terminal, files: tuple[str, ...]) -> int:
    """usage: avault audit [--file F]… [--json]

    Looks for secrets that stand in clear where they usually do: the files that
    sh, bash, zsh and fish begin with, ~/.config/environment.d, ~/.pam_environment,
    .env files here, in the workspace and at home, the units in
    ~/.config/systemd/user and the files that they name. With --file: there only;
    - is stdin.

    A line for each: file, line, variable, and whether the vault has it too, has
    another value, or has it not. Never a value. What the vault does not have is
    judged by its name (API_KEY, …_TOKEN, …) and by its value (sk-…, ghp_…, long and
    random). Exit code 1: something is found; 0: nothing; 3: the vault is locked.

      avault audit
      avault audit --file ~/project/.env --json
      avault migrate --remove      takes what ~/.profile exports
    """
    named = [(file, open_named(file)) for file in files]
    harden("avault audit")
    answer = terminal.ask("reveal", groups=[], only=[], **{"for": "audit"})
    audit = Audit(Held(answer["secrets"]))
    if guarded := answer.get("guarded"):
        say(f"not compared, as they are guarded: {', '.join(guarded)}")
    for file, fd in named:
        path = file if file == "-" else os.path.abspath(os.path.expanduser(file))
        data = read_named(fd, file, SCRIPT)
        if audit.is_new(path):
            audit.look_at(path, data)
    for file in () if files else usual_files(terminal.places):
        audit.look(file)
    states = collections.Counter(finding.state for finding in audit.findings)
    if terminal.want_json:
        rows = [{**vars(finding), "secrets": list(finding.secrets)} for finding in audit.findings]
        put(
            json.dumps({"findings": rows, "files": audit.files, "clean": not rows}, indent=2) + "\n"
        )
    else:
        put("".join(f"{finding}\n" for finding in audit.findings))
    many = "1 file" if len(audit.files) == 1 else f"{len(audit.files):,} files"
    if not audit.findings:
        say(f"nothing found in {many}")
        return 0
    missing, differs, same = (states[state] for state in ("missing", "differs", "same"))
    say(
        f"in clear in {many}: {missing} not in the vault, {differs} with another value, "
        f"{same} in both"
    )
    say(
        "hint: avault migrate --remove takes them out of ~/.profile, "
        "avault import FILE takes a .env file in; then: rm FILE"
    )
    return 1
