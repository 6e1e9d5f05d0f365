"""AWS credentials, netrc, pgpass, npmrc."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from avault.intake.dotenv import REFERS, has_reference
from avault.intake.logins import SETTING, FileSecrets, as_group, as_key

if TYPE_CHECKING:
    from collections.abc import Iterator


def text_lines(text: str) -> list[str]:
    """The lines of a text, whatever ends them."""
    return re.split("\r\n|\n|\r", text)


def settings(text: str, comments: str) -> Iterator[tuple[int, str, str | None, str]]:
    """The lines of an INI file: number, section, name (None for a line that is none), value."""
    section = ""
    for number, line in enumerate(text_lines(text), 1):
        if not line.strip() or line.lstrip()[0] in comments:
            continue
        header = line.strip()
        if header.startswith("[") and header.find("]") == len(header) - 1 and header[1:-1].strip():
            section = header[1:-1].strip()
            continue
        name, equals, value = line.partition("=")
        yield number, section, name.strip() if equals and name.strip() else None, value.strip()


def read_aws(text: str) -> FileSecrets:
    """~/.aws/credentials: a group for each profile.

    Its keys have the names that the AWS tools take from the environment.
    """
    found, profiles = FileSecrets(), dict[str, dict[str, str]]()
    for number, section, name, value in settings(text, "#;"):
        profile = section.removeprefix("profile ").strip()
        if name is None or not section:
            found.bad.append(f"line {number}: not a setting of a profile")
        elif not name.lower().startswith("aws_"):
            found.leave(number, name if re.fullmatch("[a-z_]+", name) else "", SETTING)
        else:
            profiles.setdefault(profile, {})[as_key(name.upper())] = value
    for profile, values in profiles.items():
        found.add("" if profile == "default" else profile, values)
    return found


def read_netrc(text: str) -> FileSecrets:
    """~/.netrc, as netrc(5) and curl read it: a group for each machine."""
    found = FileSecrets()
    text = re.sub(r"(?ms)^[ \t]*macdef\b.*?(\n[ \t]*\n|\Z)", "\n", text)
    text = re.sub(r"(?m)^[ \t]*#.*", "", text)
    words = [
        re.sub(r"\\(.)", r"\1", quoted) if plain == "" else plain
        for quoted, plain in re.findall(r'"((?:\\.|[^"\\])*)"|(\S+)', text)
    ]
    machine, values, has_begun = "", dict[str, str](), False
    rest = iter(words)
    for word in rest:
        if word in ("machine", "default"):
            if has_begun:
                found.add(machine, values)
            machine, values, has_begun = (
                next(rest, "") if word == "machine" else "default",
                {},
                True,
            )
        elif has_begun and word in ("login", "user", "password", "account"):
            values["LOGIN" if word == "user" else word.upper()] = next(rest, "")
        else:
            found.bad.append(
                "a word that is no netrc"
                + (f", after machine {machine}" if as_group(machine) == machine else "")
            )
            break
    if has_begun:
        found.add(machine, values)
    return found


def read_pgpass(text: str) -> FileSecrets:
    r"""~/.pgpass: host:port:database:user:password, with \: and \\ (libpq-pgpass).

    Each becomes a group, with libpq's names.
    """
    found = FileSecrets()
    for number, line in enumerate(text_lines(text), 1):
        if not line.strip() or line[0] == "#":
            continue
        fields = [
            re.sub(r"\\(.)", r"\1", each)
            for each in re.findall(r"((?:\\.|[^:\\]|\\\Z)*)(?::|\Z)", line)
        ]
        if len(fields) < 5 or any(fields[5:]):
            found.bad.append(f"line {number}: not host:port:database:user:password")
            continue
        names = ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD")
        values = {
            name: value
            for name, value in zip(names, fields, strict=False)
            if value != "*" or name == "PGPASSWORD"
        }
        name = "-".join(values[each] for each in ("PGHOST", "PGDATABASE") if values.get(each))
        found.add(name or "postgres", values, number)
    return found


NPM = {
    "_authToken": "NPM_TOKEN",
    "_auth": "NPM_AUTH",
    "_password": "NPM_PASSWORD",
    "username": "NPM_USERNAME",
}


def read_npmrc(text: str) -> FileSecrets:
    """~/.npmrc: a group for each registry, with what npm logs in with; its other settings stay."""
    found, registries = FileSecrets(), dict[str, dict[str, str]]()
    for number, _, name, value in settings(text, "#;"):
        registry, _, last = (name or "").rpartition(":")
        if name is None or last not in NPM:
            is_plain = name is not None and re.fullmatch("[A-Za-z@:_-]+", name)
            found.leave(number, str(name) if is_plain else "", SETTING)
        elif has_reference(value):
            found.leave(number, last, REFERS)
        else:
            quoted = value[:1] == value[-1:] == '"' and len(value) > 1
            registries.setdefault(registry.strip("/") or "npm", {})[NPM[last]] = (
                value[1:-1] if quoted else value
            )
    for registry, values in registries.items():
        found.add(registry, values)
    return found
