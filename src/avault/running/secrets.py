"""Which secrets a command gets, and under which names: the vault's choice, .env files, references.

A secret is named by its place, GROUP/KEY. It has one value, or more where two machines set it and
nobody has settled that: the first one counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from typing import TYPE_CHECKING

from avault.daily import PROJECT_FILE
from avault.errors import AvaultError, Denied, Unavailable, Usage, printable
from avault.intake.dotenv import EMPTY, read_dotenv, tell_of_lines
from avault.late import regex
from avault.plain import MAX_FRAME, MAX_VALUE, write_all
from avault.running.guarded import is_empty_directory
from avault.running.looking import Secrets
from avault.terminal.talk import warn
from avault.terminal.terminal import Terminal
from avault.vault.choosing import as_name
from avault.vault.dangerous import is_dangerous
from avault.vault.files import read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


REFERENCE = regex(rb"avault://(?:([A-Za-z0-9][A-Za-z0-9._-]{0,63}/[A-Za-z_][A-Za-z0-9_]{0,127}))?")


def reveal(
    terminal: Terminal, purpose: str, groups: Iterable[str] = (), only: Iterable[str] = ()
) -> Secrets:
    """Secrets from the daemon, for the `purpose` that the access log is told.

    Raises what it answers.
    """
    rows = terminal.ask("reveal", groups=list(groups), only=list(only), **{"for": purpose})[
        "secrets"
    ]
    return {f"{row['group']}/{row['key']}": [row["value"], *row["conflicts"]] for row in rows}


def reveal_for_masks(terminal: Terminal, given: Secrets) -> Secrets:
    """All secrets of the vault, for masks.

    A command can ask the daemon for those too that were not given to it.
    """
    secrets = reveal(terminal, "mask")
    for place, values in given.items():  # somebody may have changed one meanwhile
        secrets[place] = list(dict.fromkeys([*values, *secrets.get(place, [])]))
    return secrets


def find_references(data: bytes, where: str) -> set[str]:
    """The places that avault://GROUP/KEY in `data` name; raises Usage for one that names none."""
    places = set()
    for found in REFERENCE.finditer(data):
        if not found[1]:
            line = data.count(b"\n", 0, found.start()) + 1
            where = f"{where}, line {line}" if b"\n" in data else where
            raise Usage(
                f"{where}: a reference without group and key", "as in avault://openai/API_KEY"
            )
        places.add(found[1].decode())
    return places


def resolve(data: bytes, secrets: Secrets) -> bytes:
    """`data` with values for its references. A value is not looked into."""
    return REFERENCE.sub(lambda found: secrets[found[1].decode()][0].encode(), data)


def read_env_file(path: str) -> dict[str, str]:
    """The variables of a dotenv file; says what is left of it, and what others read differently.

    Raises NotFound, Usage.
    """
    return parse_env_file(
        read_file(os.path.expanduser(path), MAX_FRAME, only_regular=False), printable(path)
    )


def parse_env_file(data: bytes, name: str) -> dict[str, str]:
    """The variables in the bytes of a dotenv file, whose `name` is for people. Raises Usage."""
    try:
        text = data.decode()
        if "\0" in text:
            raise Usage(f"{name} is not text", "a dotenv file has lines like NAME=value")
        variables, told = read_dotenv(text, takes_references=True)
    except UnicodeDecodeError:
        raise Usage(
            f"{name} is not text in UTF-8", "a dotenv file has lines like NAME=value"
        ) from None
    except Usage as error:
        raise Usage(f"{name}, {error.message}", error.hint) from None
    tell_of_lines([each for each in told if each.problem != EMPTY], name)
    return variables


def read_project_file() -> dict[str, str] | None:
    """The variables of avault.env in the current directory, each with its reference.

    None if there is no such file.

    It comes with a project, so it may be a stranger's: it chooses among the secrets, and has
    nothing of its own to give. Raises Usage, and Denied where somebody else than the user could
    write it.
    """
    path = PROJECT_FILE
    # a link that leads nowhere is no wish for all secrets; a directory holds the place of none
    if not os.path.lexists(path) or is_empty_directory(path):
        return None
    try:
        with open(
            os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0
        ) as file:
            # of what is read: in a directory of others a name is soon that of another file
            info = os.fstat(file.fileno())
            if (
                not stat.S_ISREG(info.st_mode)
                or info.st_uid not in (0, os.getuid())
                or info.st_mode & stat.S_IWOTH
            ):
                raise Denied(
                    f"{path} is no file of yours, or others can write it", f"without it: {WITHOUT}"
                )
            data = file.read(MAX_VALUE + 1)
    except OSError as error:
        raise AvaultError(
            f"cannot read {path}: {error.strerror}", f"without it: {WITHOUT}"
        ) from None
    if len(data) > MAX_VALUE:
        raise Usage(
            f"{path} is too large; the limit is {MAX_VALUE:,} bytes", f"without it: {WITHOUT}"
        )
    variables = parse_env_file(data, path)
    for name, value in variables.items():
        if not (found := REFERENCE.fullmatch(value.encode())) or not found[1]:
            hint = (
                f"as in {name}=avault://GROUP/KEY; "
                f"a file with values is for: avault run --env-file {path}"
            )
            raise Usage(f"{path}: {name} is no reference to a secret", hint)
    return variables


WITHOUT = "avault run --all"


class Injection:
    """What a command is given.

    `variables`, `files` (both by variable), and all `secrets` that are in them.
    """

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self.files: dict[str, str] = {}
        self.secrets: Secrets = {}
        self.places: dict[str, str] = {}  # by variable, for what the vault has named

    def take(
        self,
        terminal: Terminal,
        groups: list[str],
        only: list[str],
        named: list[str],
        prefix: bool,
        allow: list[str],
    ) -> None:
        """Add secrets of the vault, as `avault export` names them.

        Raises what the daemon answers.
        """
        choice = {"groups": groups, "only": only, "as": named, "prefix": prefix, "allow": allow}
        answer = terminal.ask("export", **choice, **{"for": "run"})
        self.places, self.variables = answer["names"], answer["variables"]
        if held := answer.get("guarded"):
            warn(f"left out, as guarded: {', '.join(held)}")
        self.secrets = {place: [self.variables[name]] for name, place in self.places.items()}

    def set(self, terminal: Terminal, variables: dict[str, str], allow: list[str]) -> None:
        """Add variables of a dotenv file, with values for their references.

        Raises Usage, NotFound, Denied.
        """
        refuse_dangerous(variables, allow)
        wanted = {
            place
            for name, value in variables.items()
            for place in find_references(value.encode(), name)
        }
        if missing := sorted(wanted - self.secrets.keys()):
            self.secrets |= reveal(terminal, "run", only=missing)
        for name, value in variables.items():
            self.places.pop(name, None)
            self.variables[name] = resolve(value.encode(), self.secrets).decode()

    def move_to_file(self, terminal: Terminal, word: str, prefix: bool, allow: list[str]) -> None:
        """Give a variable, KEY or GROUP/KEY as a file, under its name and _FILE.

        Raises NotFound, Usage, Denied.
        """
        names = [
            name
            for name, place in self.places.items()
            if word in (name, place, place.partition("/")[2])
        ]
        if word in self.variables:
            names = [word]
        elif not names:
            found = reveal(terminal, "run", only=[word])
            self.secrets |= found
            for place, values in found.items():
                group, _, key = place.partition("/")
                name = as_name(group, key) if prefix else key
                names.append(name)
                self.places[name], self.variables[name] = place, values[0]
            if len(found) > 1:
                raise Usage(
                    f"{word} is in more than one group: {', '.join(found)}",
                    f"name one: --as-file {min(found)}",
                )
        for name in names:
            if f"{name}_FILE" in self.variables:
                raise Usage(
                    f"{name}_FILE is a variable already", "choose others with --only or --group"
                )
            refuse_dangerous([f"{name}_FILE"], allow)
            self.files[f"{name}_FILE"] = self.variables.pop(name)

    def environment(self) -> dict[bytes, bytes]:
        """The environment of the command: what is there, and over it what was chosen.

        Makes the files.
        """
        return {**os.environb, **self.given(lambda name, value: make_file(value))}

    def given(self, keep: Callable[[str, str], str]) -> dict[bytes, bytes]:
        """The chosen variables; `keep` makes a file for one of that name, and gives its path."""
        given = {**self.variables}
        given |= {name: keep(name, value) for name, value in self.files.items()}
        return {name.encode(): value.encode() for name, value in given.items()}


def refuse_dangerous(names: Iterable[str], allow: list[str]) -> None:
    """Refuse variables that change what programs do, as `avault export` does; raises Denied."""
    if refused := sorted(name for name in names if is_dangerous(name) and name not in allow):
        raise Denied(
            f"{', '.join(refused)} would change what other programs do",
            "if you mean it: " + " ".join(f"--allow {name}" for name in refused),
        )


def make_file(value: str) -> str:
    """Put a value into memory that has a path, and no name on any disk (memfd_create(2)).

    Raises Unavailable.

    It cannot be changed, only its owner may read it (ssh refuses keys of others), and it ends with
    this process, which stays as long as the command, or becomes it. The path names this process and
    not /proc/self: many programs close descriptors that they do not know, in themselves or in what
    they start, and must find it all the same.
    """
    hint = "use a variable, or: avault inject -o FILE"
    if not hasattr(os, "memfd_create"):
        raise Unavailable("--as-file needs Linux", hint)
    # not close-on-exec: with --no-mask the command inherits it
    fd = os.memfd_create("avault", os.MFD_ALLOW_SEALING)
    write_all(fd, value.encode())
    os.fchmod(fd, 0o400)
    fcntl.fcntl(
        fd,
        fcntl.F_ADD_SEALS,
        fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL,
    )
    path = f"/proc/{os.getpid()}/fd/{fd}"
    with contextlib.suppress(OSError):
        if os.path.samestat(os.stat(path), os.fstat(fd)):
            return path
    raise Unavailable("--as-file needs /proc, which is not here", hint)
