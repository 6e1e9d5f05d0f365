"""What other programs and password managers keep, as secrets: a login becomes a group.

Each reader takes a text and gives entries, the names and values of one login, and the lines that
it leaves. What cannot be read is refused by its line, never by what it says; so is what is
encrypted.
"""

from __future__ import annotations

import re

from avault.errors import Usage
from avault.intake.dotenv import Assignment, check_kept
from avault.late import Fields, field
from avault.vault.names import KEY_CHARACTERS

ImportedSecrets = dict[tuple[str, str], str]  # the value of a group's key
SETTING = "it is a setting, not a secret"
NOTHING = "it has no value"
BINARY = "it is binary"


class Login(Fields):
    """A login: what the file calls it, and its values by key.

    '' is the one that has no name of its own.
    """

    name: str
    values: dict[str, str] = field(repr=False)


class FileSecrets(Fields):
    """What a file has: entries, lines that are left, and problems of those that cannot be read."""

    entries: list[Login] = field(default_factory=list)
    left: list[Assignment] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def add(self, name: str, values: dict[str, str], line: int = 0) -> None:
        """Take an entry's values, but those that are empty; one that has none is left."""
        values = {key: value for key, value in values.items() if value}
        if values:
            self.entries.append(Login(name, values))
        else:
            self.leave(line, name, NOTHING)

    def leave(self, line: int, name: str, problem: str) -> None:
        """Leave something, by its name."""
        self.left.append(Assignment(line, line, name if name.isprintable() else "", None, problem))


def as_group(name: str) -> str:
    """A group's name, of what a file calls something."""
    return re.sub("[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:60] or "unnamed"


def as_key(name: str) -> str:
    """A key's name, of what a file calls something: as it is where it can be."""
    if name and not set(name) - KEY_CHARACTERS and not name[0].isdigit():
        return name[:128]
    key = re.sub("[^A-Z0-9]+", "_", name.upper()).strip("_")[:100] or "VALUE"
    return f"_{key}" if key[0].isdigit() else key


def place(found: FileSecrets, group: str | None, base: str | None) -> ImportedSecrets:
    """Secrets by group and key; raises Usage that names all that cannot be kept.

    A group for each entry: its name; or, with a `group` or a `base` for the format, that alone for
    the only entry and for the one without a name, and GROUP-NAME for others. Two of one name are
    told apart by a number.
    """
    first, bad = group or base, list(found.bad)
    secrets: ImportedSecrets = {}
    groups: dict[str, dict[str, str]] = {}
    for entry in found.entries:
        is_only = group is not None and len(found.entries) == 1
        name = (
            first
            if first and (is_only or not entry.name)
            else as_group(f"{first}-{entry.name}" if base else entry.name)
        )
        if group and not base and not is_only:
            name = f"{group}-{name}"[:64]
        elif group and base and name != first:
            name = f"{group}-{as_group(entry.name)}"[:64]
        number, wanted = 1, name
        while wanted in groups and groups[wanted] != entry.values:
            number += 1
            wanted = f"{name[:60]}-{number}"
        groups[wanted] = entry.values
        for key, value in entry.values.items():
            try:
                secrets[wanted, key] = check_kept(value, f"{wanted}/{key}")
            except Usage as error:
                bad.append(error.message)
    if bad:
        more = f"; and {len(bad) - 20:,} more" if len(bad) > 20 else ""
        raise Usage("; ".join(bad[:20]) + more, "mend the file, or take these out; nothing is done")
    return secrets
