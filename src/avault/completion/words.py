"""Commands as they are typed, for whatever shell: their options, arguments, and what follows those.

From the table of commands; and what follows an option from the usage line that people read:
`--key KEY` is followed by a key, `--file F` by a file.
"""

from __future__ import annotations

import re

import click

from avault.late import Fields
from avault.terminal.commands import COMMANDS


class Parameter(Fields, frozen=True, order=True):
    """An option, or an argument, which has no names.

    `takes` is what the usage line calls its value; nothing for a flag.
    """

    names: tuple[str, ...]
    takes: str
    is_optional: bool = False  # the value of the option
    repeats: bool = False


class Words(Fields, frozen=True, order=True):
    """A command as it is typed: its name, what it does, its options and its arguments."""

    name: str
    about: str
    options: list[Parameter]
    arguments: list[Parameter]


def common_options() -> list[Parameter]:
    """The options of every command."""
    return [
        Parameter(("--dir",), "DIR"),
        Parameter(("--json",), ""),
        Parameter(("--help", "-h"), ""),
    ]


def all_words() -> list[Words]:
    """Every command that people type."""
    # those are for git to call
    return [describe_command(name) for name in sorted(COMMANDS) if not name.startswith("git ")]


def describe_command(name: str) -> Words:
    """A command.

    What an option takes stands in one of the forms of its usage, and the arguments in the first.
    """
    function, makers, interspersed = COMMANDS[name]
    usage, _, prose = (function.__doc__ or "").partition("\n\n")
    forms = [
        [
            word.rstrip("…")
            for word in re.findall(r"[^\s\[\]]+", form)
            if word not in ("|", "--", "…")
        ]
        for form in usage.split(f"avault {name}")[1:]
    ]
    options, arguments = [], []
    for parameter in (make() for make in makers):
        names = tuple(parameter.opts)
        if not isinstance(parameter, click.Option):
            arguments.append(parameter)
        elif parameter.is_flag:
            options.append(Parameter(names, ""))
        else:
            found = next(
                (
                    (form, place)
                    for form in forms
                    for place, word in enumerate(form)
                    if word in names
                ),
                None,
            )
            takes = found[0].pop(found[1] + 1) if found else "VALUE"
            is_optional = any(f"{each} [" in usage for each in names)
            options.append(
                Parameter(
                    names, "KEY" if "--allow" in names else takes, is_optional, parameter.multiple
                )
            )
    has_key = "GROUP[/KEY]" in usage or any("--key" in each.names for each in options)
    named = (
        [word for form in forms[:1] for word in form if not word.startswith("-")]
        if interspersed
        else ["COMMAND"]
    )
    taken = [
        Parameter(
            (), "GROUP/KEY" if word == "GROUP" and has_key else word, repeats=each.nargs == -1
        )
        for each, word in zip(arguments, named, strict=False)
    ]
    return Words(
        name,
        re.split(r"[.:;](?:\s|$)", " ".join(prose.split()))[0],
        [*options, *common_options()],
        taken,
    )


def choices(takes: str) -> list[str]:
    """The words that a usage line spells out, as in `sh|fish`."""
    return takes.split("|") if re.fullmatch(r"[a-z0-9-]+(\|[a-z0-9-]+)+", takes) else []


def takes_name(takes: str) -> bool:
    """Whether it is a name in the vault, or of a grant."""
    return takes in ("GROUP/KEY", "GROUP", "G", "KEY", "KEY,", "GRANT")


def takes_host(takes: str) -> bool:
    """Whether it is a host of the fleet."""
    return takes in ("HOST", "PATTERN")


def is_file(takes: str) -> bool:
    """Whether it is a file."""
    return takes in ("F", "FILE", "PATH", "TEMPLATE") or takes.startswith("FILE.")


def tree(commands: list[Words]) -> dict[str, list[str]]:
    """What may follow `avault`, and what each first word that needs a second one."""
    found: dict[str, list[str]] = {"": []}
    for each in commands:
        first, _, second = each.name.partition(" ")
        if first not in found[""]:
            found[""].append(first)
        if second:
            found.setdefault(first, []).append(second)
    return found
