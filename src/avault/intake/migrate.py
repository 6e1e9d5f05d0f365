"""avault migrate: takes the secrets out of ~/.profile."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import stat
import sys
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, NotFound, Usage, printable
from avault.intake.dotenv import NAME, Assignment
from avault.intake.importing import tell_stored
from avault.intake.keeping import compare, show_stored, some, store, tell_of_keys, tell_of_twins
from avault.intake.looks import is_secret
from avault.intake.shell import SCRIPT, Script, assignments_of, to_text
from avault.intake.shell_assignments import CONDITIONAL, Statement
from avault.keys.hardening import harden
from avault.plain import write_all
from avault.terminal.commands import command, option
from avault.terminal.talk import put, say, warn
from avault.terminal.terminal import Terminal
from avault.vault.dangerous import is_dangerous
from avault.vault.files import open_named, read_named, sync_directory
from avault.vault.names import check_group, check_key, check_value

if TYPE_CHECKING:
    from collections.abc import Iterable


OF_THE_SESSION = frozenset("LANG LANGUAGE TZ TERM COLORTERM DISPLAY WAYLAND_DISPLAY".split())


def take_shell(script: Script) -> tuple[dict[str, str], list[Assignment]]:
    """The exported variables that a script surely leaves.

    Gives also those that are left to it, each with the reason.

    As in the shell the last assignment counts. Where one of a variable's assignments may or may not
    happen, or another command is given its name, nobody knows without running it.
    """
    by_name: dict[str, list[Assignment]] = {}
    for each in assignments_of(script):
        by_name.setdefault(each.name, []).append(each)
    surely = {
        name for statement in script.statements for name, is_sure in statement.exports if is_sure
    }
    taken: dict[str, str] = {}
    left = list(by_name.pop("", []))
    for name, found in by_name.items():
        last = found[-1]
        doubtful = next((each for each in found if each.problem == CONDITIONAL), None)
        if not any(each.exported for each in found):
            if not is_secret(name, last.value or ""):
                continue
            reason, where = "it is not exported", last
        elif is_dangerous(name) or name in OF_THE_SESSION or name.startswith("LC_"):
            reason, where = "it changes what other programs do", last
        elif doubtful or name in script.words:
            reason, where = (
                doubtful.problem if doubtful else "another command is given its name",
                doubtful or last,
            )
        elif last.problem or last.value is None:
            reason, where = last.problem, last
        elif name not in surely:
            reason, where = CONDITIONAL, last
        elif not last.value:
            reason, where = "it is empty", last
        else:
            try:
                taken[check_key(name)] = check_value(last.value)
                continue
            except Usage as error:
                reason, where = error.message, last
        left.append(dataclasses.replace(where, value=None, problem=reason))
    return taken, sorted(left, key=lambda each: each.line)


def removable(script: Script, taken: dict[str, str]) -> tuple[set[int], list[Assignment]]:
    """The lines to take out once the vault has the variables in `taken`.

    Gives also the assignments that stay, with reasons.

    A line goes if all that stands on it is in the vault then, and a variable goes from all its
    lines or from none: it stays where an earlier, other value would count again, and where the rest
    of the file uses it.
    """
    assignments = [each for each in assignments_of(script) if each.name in taken]
    reasons = {
        each.name: "it has had another value before"
        for each in assignments
        if each.value != taken[each.name]
    }
    source = script.source.split("\n")
    while True:
        going = [
            each for each in script.statements if each.names() <= taken.keys() - reasons.keys()
        ]
        busy = script.busy | statement_lines(
            each for each in script.statements if each not in going
        )
        while crowded := [each for each in going if busy & statement_lines([each])]:
            # they stay, and so does what shares another of their lines
            busy |= statement_lines(crowded)
            going = [each for each in going if each not in crowded]
        lines = statement_lines(going)
        rest = "\n".join(text for number, text in enumerate(source, 1) if number not in lines)
        used = set(re.findall(rf"\$\{{?[^\w\s{{}}$'\"]?({NAME})", rest))
        staying = {name for each in script.statements if each not in going for name in each.names()}
        more = dict.fromkeys(staying, "something else stands on its line") | dict.fromkeys(
            used, "the rest of the file uses it"
        )
        more = {name: more[name] for name in taken if name in more and name not in reasons}
        if not more:
            break
        reasons |= more
    kept = [
        dataclasses.replace(each, value=None, problem=reasons[each.name])
        for each in assignments
        if each.name in reasons
    ]
    return lines, kept


def statement_lines(statements: Iterable[Statement]) -> set[int]:
    """The lines on which statements stand."""
    return {line for each in statements for line in range(each.first, each.last + 1)}


def without_lines(data: bytes, lines: set[int]) -> bytes:
    """A file's bytes without some of its lines."""
    return b"".join(
        line
        for number, line in enumerate(re.findall(rb"[^\n]*\n|[^\n]+", data), 1)
        if number not in lines
    )


def attributes(fd: int) -> list[str]:
    """The names of a file's extended attributes: access lists, SELinux's label.

    None where the system has none.
    """
    try:
        return os.listxattr(fd) if sys.platform == "linux" else []
    except OSError:
        return []


def replace_file(path: str, before: bytes, after: bytes) -> None:
    """Put other bytes into a person's file, atomically, with its mode and owner.

    It is done only if the file is as it was.

    `path` is no symlink (the target of one is what its owner edits). Raises AvaultError; the file
    is as it was then.
    """
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    unchanged = "nothing was taken out; the file is as it was"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
                raise AvaultError(f"{path} has another name too, a hard link", unchanged)
            new = os.open(
                temporary,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
            )
            with open(new, "wb", buffering=0):
                os.fchown(new, info.st_uid, info.st_gid)
                os.fchmod(new, stat.S_IMODE(info.st_mode))
                for name in attributes(fd):
                    os.setxattr(new, name, os.getxattr(fd, name))
                write_all(new, after)
                os.fsync(new)
            now = os.stat(path, follow_symlinks=False)
            if file.read() != before or (now.st_dev, now.st_ino) != (info.st_dev, info.st_ino):
                raise AvaultError(f"{path} changed meanwhile", unchanged)
            os.rename(temporary, path)
        sync_directory(os.path.dirname(path))
    except OSError as error:
        raise AvaultError(f"cannot write {path}: {error.strerror}", unchanged) from None
    finally:
        try:
            os.unlink(temporary)
        except OSError:
            pass  # renamed, or never made


@command(
    "migrate",
    option("--file"),
    option("--group", default="profile"),
    option("--dry-run", is_flag=True),
    option("--remove", is_flag=True),
)
def cmd_migrate(
    terminal: Terminal, file: str | None, group: str, dry_run: bool, remove: bool
) -> int:
    """usage: avault migrate [--file F] [--group G] [--dry-run] [--remove]

    Takes the variables that ~/.profile (or F) exports into the vault, group
    `profile` or G, without running anything: export KEY=value in all its
    spellings, and KEY=value with an export of KEY elsewhere. The last value
    counts. A line that needs the shell ($(…), $X, ~), or that an if, a loop or
    another command decides about, is left and named; so are PATH and others that
    change what programs do. Nothing in the vault is replaced. F is - for stdin.

    --remove takes the lines out afterwards, once the vault was asked whether it
    holds them all: only lines on which nothing else stands, and only if the file
    is as it was read. --dry-run shows all of this and does nothing.

      avault migrate --dry-run --remove
      avault migrate --file ~/.zshrc --group shell
    """
    check_group(group)
    shown = os.path.expanduser(file or "~/.profile")
    place = printable(shown, 4096)
    # dotfiles are often symlinks into a repository: what they lead to is edited
    path = os.path.realpath(shown)
    can_edit = os.path.isfile(path)
    try:
        fd = open_named(shown)
    except NotFound as error:
        raise NotFound(error.message, "name another with --file") from None
    if remove and not can_edit:
        raise Usage(f"{place} is no file to take lines out of", "without --remove it is only read")
    harden("avault migrate")
    data = read_named(fd, shown, SCRIPT)
    script = Script(to_text(data, place), is_zsh=".z" in os.path.basename(shown))
    taken, left = take_shell(script)
    found = {(group, name): value for name, value in taken.items()}
    stored = compare(terminal, found)
    if stored.differs and not dry_run:
        raise Denied(
            f"in the vault with another value: {some(stored.differs)}",
            "keep both with --group NAME, or take one away first: "
            f"avault delete {stored.differs[0]}",
        )
    lines, kept = removable(script, taken) if remove and not stored.differs else (set(), [])
    if lines and not dry_run and not terminal.ask("status")["proven"]:
        raise Denied(
            "nobody has shown yet that the phone opens this vault: nothing is taken out",
            "avault pair, then once more",
        )
    if not dry_run:
        store(terminal, found, stored, {}, False)
        if lines:
            if len(compare(terminal, found).same) < len(found):
                raise AvaultError(
                    "the vault does not hold all that was imported",
                    "nothing was taken out; see: avault list",
                )
            replace_file(path, data, without_lines(data, lines))
    for each in left:
        say(f"left {place}:{each.line}{' ' + each.name if each.name else ''}: {each.problem}")
    for each in kept:
        say(f"stays in {place}:{each.line} {each.name}: {each.problem}")
    if terminal.want_json:
        answer = {
            "file": shown,
            **vars(stored),
            "left": [
                {"line": each.line, "name": each.name or None, "reason": each.problem}
                for each in left
            ],
            "removed": sorted(lines),
            "kept": [
                {"line": each.line, "name": each.name, "reason": each.problem} for each in kept
            ],
            "dry_run": dry_run,
        }
        put(json.dumps(answer, indent=2) + "\n")
    else:
        show_stored(stored)
    tell_stored(
        dry_run,
        found,
        stored,
        f"--group NAME, or avault delete {stored.differs[0]}" if stored.differs else "",
    )
    if lines:
        many = f"{len(lines):,} line{'s' if len(lines) > 1 else ''}"
        say(f"{'would take' if dry_run else 'took'} {many} out of {path}")
        if not dry_run and (repository := repository_of(path)):
            warn(
                f"the values may stand in the history of {repository}",
                "a secret that was pushed is to be revoked where it was issued",
            )
    elif found and can_edit and not remove and not dry_run:
        say(
            "hint: take them out of the file with: avault migrate --remove"
            + (f" --file {file}" if file else "")
        )
    if found and not dry_run:
        tell_of_twins(terminal, found)
        tell_of_keys(found)
    return 0


def repository_of(path: str) -> str | None:
    """The git repository that a file is in."""
    while (path := os.path.dirname(path)) != os.path.dirname(path):
        if os.path.lexists(os.path.join(path, ".git")):
            return path
    return None
