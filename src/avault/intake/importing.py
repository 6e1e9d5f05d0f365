"""avault import.

A value is in no message, no error and no argument list.
"""

from __future__ import annotations

import json
import sys

from avault.errors import Denied, Usage, printable
from avault.intake.dotenv import EMPTY, Assignment, read_dotenv, tell_of_lines
from avault.intake.importers import FORM_READERS, IMPORT_FORMS, form_of
from avault.intake.json_files import parse_json
from avault.intake.keeping import (
    Stored,
    compare,
    show_stored,
    some,
    store,
    tell_of_keys,
    tell_of_twins,
)
from avault.intake.logins import ImportedSecrets, place
from avault.intake.managers import refuse_encrypted
from avault.keys.hardening import harden
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import put, say, warn
from avault.terminal.terminal import Terminal
from avault.vault.dangerous import is_dangerous
from avault.vault.files import open_named, read_named
from avault.vault.names import check_group

LARGEST = 256 << 20  # bytes of a file to import


def read_input(file: str) -> str:
    """What is in a file, or comes from stdin; raises NotFound, Usage, AvaultError."""
    if file == "-" and sys.stdin.isatty():
        say("reading from the terminal, to the end of input (Ctrl-D)")
    fd = open_named(file)
    harden("avault import")
    data = read_named(fd, file, LARGEST)
    refuse_encrypted(data)
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise Usage(f"{'what came' if file == '-' else printable(file)} is not UTF-8 text")
    return text


def take(
    text: str, form: str, group: str | None
) -> tuple[ImportedSecrets, dict[str, str], list[Assignment]]:
    """The secrets of a text of that form, and the notes of their groups.

    Gives also what there is to say about lines. Raises Usage.
    """
    if form == "json":
        found, notes, empty = parse_json(text.removeprefix("\ufeff"), group)
        return found, notes, [Assignment(0, 0, name, None, EMPTY) for name in empty]
    if form == "dotenv":
        variables, told = read_dotenv(text)
        return (
            {(group or "env", name): value for name, value in variables.items() if value},
            {},
            told,
        )
    read = FORM_READERS[form](text.removeprefix("\ufeff"))
    return place(read, group, "aws" if form == "aws" else None), {}, read.left


@command(
    "import",
    argument("file"),
    option("--format", "form"),
    option("--group"),
    option("--dry-run", is_flag=True),
    option("--replace", is_flag=True),
)
def cmd_import(
    terminal: Terminal, file: str, form: str | None, group: str | None, dry_run: bool, replace: bool
) -> int:
    """usage: avault import FILE [--format F] [--group G] [--dry-run] [--replace]

    Takes secrets from a file, or from stdin (-), into the vault: KEY=value lines
    as in .env, or JSON, {"KEY": "value"} or {"GROUP": {"KEY": "value"}}, into the
    group G, or `env`. Also AWS credentials, .netrc, .pgpass, .npmrc, a Secret of
    Kubernetes, and what password managers and browsers export: CSV, and JSON of
    Bitwarden; a group for each login, G-NAME with G. Which it is shows; --format
    insists: dotenv, json, aws, netrc, pgpass, npmrc, k8s, csv, bitwarden, claude
    or codex (the tokens that these two keep, with what renews them).
    Prints what is new, the same, or replaced.

    All of it or nothing: all bad lines are named, never what they say, and what
    the vault has with another value is refused without --replace. --dry-run
    writes nothing and shows all. A line that refers to ${ANOTHER} variable, is
    empty, or has no key name is left and named. Where readers of .env files
    differ, python-dotenv's reading counts, and a warning says so. The file
    stays; delete it when you are done.

      avault import .env --group web --dry-run
      avault import ~/.aws/credentials
      sops decrypt --output-type json secrets.yaml | avault import -
      kubectl get secret web -o json | avault import -
    """
    if form not in (None, *IMPORT_FORMS):
        raise Usage(f"no format {printable(form)!r}", f"one of: {', '.join(IMPORT_FORMS)}")
    if group is not None:
        check_group(group)
    text = read_input(file)
    found, notes, told = take(text, form or form_of(file, text), group)
    stored = compare(terminal, found)
    if stored.differs and not replace and not dry_run:
        raise Denied(
            f"in the vault with another value: {some(stored.differs)}",
            "keep both with --group NAME, or replace them with --replace; --dry-run shows all",
        )
    if not dry_run:
        store(terminal, found, stored, notes, replace)
    elif replace:
        stored.replaced, stored.differs = stored.differs, []
    tell_of_lines(told)
    if terminal.want_json:
        left = [
            {"line": each.line or None, "name": each.name or None, "reason": each.problem}
            for each in told
            if each.problem
        ]
        remarks = [
            {"line": each.line, "name": each.name, "remark": each.remark}
            for each in told
            if each.remark
        ]
        put(
            json.dumps(
                {**vars(stored), "left": left, "remarks": remarks, "dry_run": dry_run}, indent=2
            )
            + "\n"
        )
    else:
        show_stored(stored)
    risky = sorted({key for _, key in found if is_dangerous(key)})
    if risky:
        warn(
            f"export and run refuse {some(risky)}",
            f"let them with --allow {risky[0]}, or: avault delete GROUP --key {risky[0]}",
        )
    tell_stored(dry_run, found, stored, "--replace replaces what differs, --group NAME keeps both")
    if not dry_run:
        tell_of_twins(terminal, found)
        tell_of_keys(found)
    return 0


def tell_stored(dry_run: bool, found: ImportedSecrets, stored: Stored, otherwise: str) -> None:
    """Say what was done, or would be."""
    groups = some(sorted({group for group, _ in found}))
    if not found:
        say("there is nothing to import")
    elif dry_run and stored.differs:
        say(
            f"nothing was written; {len(stored.differs):,} in the vault with another value: "
            f"{otherwise}"
        )
    elif dry_run:
        say("nothing was written")
    else:
        count = len(stored.new) + len(stored.replaced)
        there = f"; {len(stored.same):,} were there already" if stored.same else ""
        say(f"imported {count:,} of {len(found):,} into {groups}{there}")
