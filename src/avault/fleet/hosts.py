"""The list of hosts of a fleet: a file that people write, and the vaults of this machine."""

from __future__ import annotations

import fnmatch
import os
import shlex

from avault.errors import NotFound, Usage, printable
from avault.late import Fields
from avault.places import absolute, read_record, state_home, vault_id
from avault.vault.files import make_private_directory, read_file, write_file

LONGEST_HOST = 255  # characters
MOST_HOSTS = 2_000


class Host(Fields, frozen=True):
    """A vault, and how it is reached.

    `name` is what ssh is told (HOST, USER@HOST or ssh://…), "" for a vault of this machine;
    `vault` its directory there, "" for the usual one; `program` avault's command there.
    """

    name: str
    vault: str = ""
    program: str = "avault"

    def label(self) -> str:
        """How people are told of it: the host, and the directory where it is not the usual one."""
        if not self.name:
            home = absolute("~") + "/"
            inner = self.vault.removeprefix(home)
            return self.vault if inner == self.vault else f"~/{inner}"
        return f"{self.name}:{self.vault}" if self.vault else self.name

    def line(self) -> str:
        """The host as a line of the list."""
        said = [f"vault={self.vault}"] if self.vault else []
        said += [f"program={self.program}"] if self.program != "avault" else []
        return shlex.join([self.name, *said])


def fleet_file() -> str:
    """$XDG_CONFIG_HOME/avault/fleet, or ~/.config/avault/fleet (XDG Base Directory)."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    base = base if os.path.isabs(base) else absolute("~/.config")
    return os.path.join(base, "avault", "fleet")


def list_path(path: str | None) -> str:
    """The list that was named; the usual one where none was. Raises Usage for an empty name."""
    if path == "":
        raise Usage("--hosts names no file", "--hosts FILE")
    return path or fleet_file()


def check_host(name: str) -> str:
    """A host as ssh takes it; raises Usage for what ssh or a shell could take for more."""
    is_plain = name.isprintable() and not set(name) & set(" \"'`\\#$;&|<>(){}*?!=,")
    if not is_plain or not 0 < len(name) <= LONGEST_HOST or name[0] == "-":
        raise Usage(
            f"not a host: {printable(name, 60)!r}", "as ssh takes it: web1, deploy@web1, ssh://…"
        )
    return name


def parse_host(line: str) -> Host | None:
    """The host of a line, None for none: HOST [vault=DIR] [program=PATH]; raises Usage."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise Usage(str(error).lower(), "HOST vault=DIR program=PATH") from None
    if not words:
        return None
    fields = {}
    for word in words[1:]:
        name, equals, text = word.partition("=")
        if name not in ("vault", "program") or not equals or not text or name in fields:
            raise Usage(f"not understood: {printable(word, 60)}", "HOST vault=DIR program=PATH")
        if not text.isprintable() or text[0] == "-":
            raise Usage(f"not a path: {printable(text, 60)}", "HOST vault=DIR program=PATH")
        fields[name] = text
    return Host(check_host(words[0]), **fields)


def read_lines(path: str) -> list[str]:
    """The lines of a list; raises NotFound, AvaultError, Usage for what is no text."""
    try:
        return read_file(os.path.realpath(path)).decode().splitlines()
    except UnicodeDecodeError:
        raise Usage(f"{printable(path)} is not UTF-8 text", "one host a line") from None


def read_hosts(path: str | None) -> list[Host]:
    """The hosts of a list, in its order; of the usual one where `path` is None.

    Raises NotFound where there is none, Usage with the line that is wrong.
    """
    try:
        lines = read_lines(list_path(path))
    except NotFound:
        if path:
            raise
        raise NotFound("no host is in the fleet yet", "avault fleet add HOST…") from None
    found: dict[str, Host] = {}
    for number, line in enumerate(lines, 1):
        try:
            host = parse_host(line)
            if host and host.label() in found:
                raise Usage(f"{host.label()} stands there twice", "take one away")
        except Usage as error:
            where = f"line {number} of {printable(path or fleet_file())}"
            raise Usage(f"{where}: {error.message}", error.hint) from None
        if host:
            found[host.label()] = host
    if len(found) > MOST_HOSTS:
        raise Usage(f"{len(found):,} hosts; the limit is {MOST_HOSTS:,}", "divide the list")
    if not found:
        raise NotFound("no host is in the fleet yet", "avault fleet add HOST…")
    return list(found.values())


def write_lines(path: str, lines: list[str]) -> None:
    """Replace a list by these lines; raises AvaultError."""
    path = os.path.realpath(path)
    if not os.path.isdir(os.path.dirname(path)):
        make_private_directory(os.path.dirname(path))
    write_file(path, "".join(line + "\n" for line in lines).encode())


def add_hosts(path: str | None, hosts: list[Host]) -> list[Host]:
    """Put hosts at the end of a list, those that are not in it; gives those."""
    path = list_path(path)
    try:
        lines = read_lines(path)
        there = {host.label() for line in lines if (host := parse_host(line))}
    except NotFound:
        lines = ["# the fleet, a host a line as ssh takes it: HOST [vault=DIR] [program=PATH]"]
        there = set()
    new = list({host.label(): host for host in hosts if host.label() not in there}.values())
    if new:
        write_lines(path, [*lines, *(host.line() for host in new)])
    return new


def remove_hosts(path: str | None, names: list[str]) -> list[Host]:
    """Take hosts out of a list, by name or as they are shown; gives those. Raises NotFound."""
    path = list_path(path)
    kept, gone = [], []
    for line in read_lines(path):
        host = parse_host(line)
        if host and {host.name, host.label()} & {*names}:
            gone.append(host)
        else:
            kept.append(line)
    there = {name for host in gone for name in (host.name, host.label())}
    if missing := [name for name in names if name not in there]:
        raise NotFound(f"not in the fleet: {printable(', '.join(missing))}", "avault fleet status")
    write_lines(path, kept)
    return gone


def local_vaults() -> list[Host]:
    """The vaults of this user on this machine, by what their state directories record.

    Nothing is searched for. One whose directory was moved is not among them: `doctor` finds it.
    Raises NotFound where there is none.
    """
    try:
        names = sorted(os.listdir(state_home()))
    except OSError:
        names = []
    found = []
    for name in names:
        path = read_record(os.path.join(state_home(), name, "place"))
        is_there = os.path.isabs(path) and os.path.isdir(path)
        if is_there and path.isprintable() and vault_id(path) == name:
            found.append(Host("", path))
    if not found:
        raise NotFound(
            "no vault of this machine is known", "one is, once its daemon was started: avault init"
        )
    return sorted(found, key=lambda host: host.vault)


def choose_hosts(hosts: list[Host], patterns: list[str]) -> list[Host]:
    """Those that a pattern fits (as a shell's, by name or as shown); all without one.

    Raises NotFound for a pattern that fits none.
    """
    chosen = set()
    for pattern in patterns:
        fitting = {
            host.label()
            for host in hosts
            if any(fnmatch.fnmatchcase(name, pattern) for name in (host.name, host.label()))
        }
        if not fitting:
            raise NotFound(f"no host is called {printable(pattern, 60)}", "avault fleet status")
        chosen |= fitting
    return [host for host in hosts if host.label() in chosen or not patterns]
