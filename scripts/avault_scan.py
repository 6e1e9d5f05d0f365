"""avault scan: looks for the vault's own values where they should not be.

Which forms of a value there are, and how they are found, is avault_forms.py's. Files are read in parts, as there may be
more of them than memory. The values are in this process alone: in no file, and on no command line.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any, cast

import avault_forms
from avault_forms import SHORTEST, Form
from avault_run_git import NO_HOOKS, QUIET, reason, start_git

from avault import (
    AvaultError,
    Fields,
    NotFound,
    Terminal,
    Unavailable,
    Usage,
    argument,
    command,
    harden,
    option,
    own_command,
    printable,
    put,
    read_file,
    say,
    warn,
    write_file,
)

BATCH = 8 << 20  # bytes that are searched at once
STDIN = "-"
WIDE = 4096  # characters of a path that are shown
INDEX = {  # where a hook's git has the index and the objects of the commit that is being made
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES",
}  # fmt: skip


# What is looked for


class Needles:
    """All forms of all values. `left_out` names what is too short to be looked for."""

    def __init__(self, answer: list[dict[str, Any]]) -> None:
        secrets = {f"{each['group']}/{each['key']}": [each["value"], *each["conflicts"]] for each in answer}
        self.left_out = sorted(place for place, values in secrets.items() if any(map(avault_forms.is_short, values)))
        solid, exact = avault_forms.meanings_of(secrets), avault_forms.exact_of(secrets)
        self.meanings = {string: solid.get(string, []) + exact.get(string, []) for string in solid | exact}
        self.search = avault_forms.Search(solid, exact)
        self.overlap = 2 * self.search.longest + 4096  # bytes in which any form fits, and what breaks it into lines


# The search


class Part(Fields, frozen=True, order=True):
    """Some or all bytes of a file, and the number of the line that they begin in."""

    path: str
    line: int
    data: bytes


class Found(Fields, frozen=True, order=True):
    """A value in a file, by its GROUP/KEY. Sorts as it is to be printed."""

    path: str
    line: int
    name: str
    kind: str

    def __str__(self) -> str:
        about = {"plain": "", "line": " (a line of it)"}.get(self.kind, f" ({self.kind})")
        return f"{printable(self.path, WIDE)}:{self.line}: {self.name}{about}"

    def to_dict(self) -> dict[str, Any]:
        """It, as --json prints it."""
        group, _, key = self.name.partition("/")
        return {"path": self.path, "line": self.line, "group": group, "key": key, "form": self.kind}


def search(part: Part, needles: Needles) -> set[Found]:
    """The values in a part of a file; of several forms of one value at one place, the one that has the others in it."""
    places: set[tuple[str, int, int, str]] = set()
    for view, strings in needles.search.views(part.data):
        for string in strings.suspects(view.text):
            for start, end in avault_forms.occurrences(string, view.text):
                span = view.place(start), -view.end(end - 1)
                places.update((form.place, *span, form.kind) for form in needles.meanings[string])
    kept: list[tuple[int, Form]] = []
    name, reached = "", 0
    for place, start, minus_end, kind in sorted(places, key=lambda each: (*each[:3], each[3] != "plain", each[3])):
        if place != name or -minus_end > reached:
            kept.append((start, Form(place, kind)))
            name, reached = place, -minus_end
    found: set[Found] = set()
    line, counted = part.line, 0
    for start, form in sorted(kept):
        line += part.data.count(b"\n", counted, start)
        counted = start
        found.add(Found(part.path, line, form.place, form.kind))
    return found


def search_all(parts: Iterable[Part], needles: Needles, progress: Progress) -> list[Found]:
    """Search parts of files as they come."""
    found: set[Found] = set()
    for part in parts:
        progress.add(part)
        found |= search(part, needles)
    progress.end()
    return sorted(found)


def without_neighbours(found: Iterable[Found]) -> list[Found]:
    """Of the lines of one value, one below the other, the first."""
    kept = []
    last: dict[tuple[str, str], int] = {}
    for each in found:
        if each.kind != "line" or last.get((each.path, each.name)) != each.line - 1:
            kept.append(each)
        if each.kind == "line":
            last[each.path, each.name] = each.line
    return kept


class Progress:
    """How much was read; on a terminal a line of it, drawn in place once it takes more than a second."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.bytes = 0
        self.next = time.monotonic() + 1 if sys.stderr.isatty() else float("inf")
        self.is_drawn = False

    def add(self, part: Part) -> None:
        """A part of a file was read."""
        self.files.add(part.path)
        self.bytes += len(part.data)
        if time.monotonic() > self.next:
            self.next += 0.2
            self.is_drawn = True
            print(f"\r\x1b[Kavault: {len(self.files):,} files, {self.bytes / 1e6:,.0f} MB", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Take the line away."""
        if self.is_drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


# Where it is looked for


class Blob:
    """The object that `git cat-file --batch` prints next, to be read like a file; raises AvaultError if there is none."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        try:
            self.left = int(stream.readline().split(b" ")[2])
        except IndexError:
            raise AvaultError("git does not have all that is staged", "see: git fsck") from None

    def read(self, limit: int) -> bytes:
        """At most so many bytes; none at the end."""
        data = self.stream.read(min(limit, self.left))
        self.left -= len(data)
        return data


def cut(path: str, file: Blob | IO[bytes], overlap: int) -> Iterator[Part]:
    """A file in parts that can be held, which overlap by so many bytes."""
    line, data = 1, file.read(BATCH)
    while True:
        yield Part(path, line, data)
        more = file.read(BATCH)
        if not more:
            return
        kept = max(0, len(data) - overlap)
        line += data.count(b"\n", 0, kept)
        data = data[kept:] + more


def is_stream(path: str) -> bool:
    """Whether a path is a pipe or a device, as <(…) and /dev/stdin are: read to its end, and once."""
    try:
        kind = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(kind) and not stat.S_ISDIR(kind) and not stat.S_ISSOCK(kind)


class Tree:
    """Files as they lie on the disk; links are not followed. `unread` names what could not be read."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = paths
        self.unread: list[str] = []

    def read(self, overlap: int) -> Iterator[Part]:
        """What is in the files, in parts; raises NotFound for a path that is not there.

        - is stdin. A pipe that is named is read, one that lies in a directory is not: nobody may ever write to it.
        """
        for path in self.paths:
            if path == STDIN or is_stream(path):
                with open(0 if path == STDIN else path, "rb", closefd=path != STDIN) as stream:
                    yield from cut(path, stream, overlap)
                continue
            named = os.path.realpath(path) if os.path.islink(path) else path
            if not os.path.exists(named):
                raise NotFound(f"no file {printable(path, WIDE)}", "see: avault scan --help")
            for each in self.files(named):
                try:
                    with open(os.open(each, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", buffering=0) as file:
                        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                            yield from cut(each, file, overlap)
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO):  # gone; a link; a socket
                        self.skip(each, error)

    def skip(self, path: str, error: OSError) -> None:
        """Say what cannot be read, and remember it."""
        warn(f"cannot read {printable(path, WIDE)}: {error.strerror}")
        self.unread.append(path)

    def files(self, path: str) -> Iterator[str]:
        """The files of a path: itself, or what git knows there and would add, or all below it.

        A repository within the repository is looked into.
        """
        if os.path.islink(path) or not os.path.isdir(path):
            yield path
            return
        for name in known_to_git(path) or self.walk(path):
            yield from self.files(name if path == "." else os.path.join(path, name))

    def walk(self, directory: str) -> Iterator[str]:
        """All files below a directory, but git's own."""
        for top, inner, names in os.walk(directory, onerror=lambda error: self.skip(error.filename, error)):
            inner[:] = sorted(name for name in inner if name != ".git")
            for name in sorted(names):
                if name != ".git":
                    yield os.path.relpath(os.path.join(top, name), directory)


def known_to_git(directory: str) -> list[str]:
    """The files below a directory that git tracks or would add; none outside of a repository, or where git ignores it."""
    try:
        listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", directory=directory)
    except AvaultError:
        return []
    names = (os.fsdecode(name).rstrip("/") for name in listed.split(b"\0"))
    return [name for name in dict.fromkeys(names) if name not in ("", ".")]  # a submodule that is not filled contains itself


def git(*words: str, directory: str | None = None, settings: tuple[str, ...] = (NO_HOOKS,)) -> bytes:
    """What git prints; raises AvaultError with what it complains of.

    In a directory that is named the environment's GIT_DIR and the like are not meant. Without one they are: a hook is
    given another index by `git commit FILE`.
    """
    keep = INDEX if directory is None else ()
    try:
        process = start_git(directory or ".", words, settings, keep, env=QUIET, stdin=subprocess.DEVNULL)
    except Unavailable as error:
        raise Unavailable(error.message, "without it: avault scan PATH…") from None
    output, errors = process.communicate()
    if process.returncode:
        raise AvaultError(f"git: {reason(errors)}", "in a directory without git: avault scan PATH…")
    return output


def read_staged(paths: Iterable[str], overlap: int) -> Iterator[Part]:
    """What the next commit would change: the index's own content, whatever the working tree holds; raises AvaultError."""
    git("rev-parse", "--git-dir")  # outside of a repository `git diff` compares files
    words = ("diff", "--cached", "--raw", "-z", "--no-abbrev", "--no-renames", "--no-ext-diff", "--no-relative")
    fields = git(*words, "--diff-filter=d", "--", *paths).split(b"\0")
    blobs = []
    for about, name in zip(fields[0::2], fields[1::2], strict=False):
        _, mode, _, blob, _ = about.split(b" ")
        if mode != b"160000" and blob.strip(b"0"):  # not a submodule's commit, nor a path that is not merged yet
            blobs.append((os.fsdecode(name), blob))
    with start_git(".", ("cat-file", "--batch"), keep=INDEX, env=QUIET, stderr=subprocess.DEVNULL) as process:
        names, objects = cast("tuple[IO[bytes], IO[bytes]]", (process.stdin, process.stdout))
        for path, blob in blobs:
            names.write(blob + b"\n")
            names.flush()
            yield from cut(path, Blob(objects), overlap)
            objects.read(1)  # the newline after each object


# The hooks

HOOKS = {
    "pre-commit": """\
#!/bin/sh
# avault: no commit carries a value of the vault
{command} scan --staged || {{
    echo 'avault: nothing was committed; to commit without looking: git commit --no-verify' >&2
    exit 1
}}
""",
    "commit-msg": """\
#!/bin/sh
# avault: no message of a commit carries a value of the vault; what `git commit -v` shows below the scissors is no part of it
sed '/^.* -\\{{8,\\}} >8 -\\{{8,\\}}$/,$d' "$1" | {command} scan - || {{
    echo 'avault: nothing was committed; the message is kept in' "$1" >&2
    exit 1
}}
""",
}
IN_OTHERS = {"pre-commit": "scan --staged || exit 1", "commit-msg": 'scan "$1" || exit 1'}  # the line for somebody's own hook


def install_hooks(terminal: Terminal, directory: str) -> int:
    """Make the hooks that look at each commit and its message; raises AvaultError where there is another."""
    top = os.fsdecode(git("rev-parse", "--show-toplevel", directory=directory).removesuffix(b"\n"))
    place = os.fsdecode(git("rev-parse", "--git-path", "hooks", directory=top, settings=()).removesuffix(b"\n"))
    typed = os.path.abspath(sys.argv[0])
    words = [typed] if os.path.basename(typed).startswith("avault") and os.access(typed, os.X_OK) else own_command()
    line = shlex.join([*words, "--dir", terminal.places.dir])
    paths = {name: os.path.join(top, place, name) for name in HOOKS}  # knows core.hooksPath, and a worktree's repository
    texts = {name: text.format(command=line) for name, text in HOOKS.items()}
    others = []
    try:
        for name, path in paths.items():
            there = read_file(path).decode(errors="replace") if os.path.lexists(path) else ""
            if not there or there.split("\n")[:2] == texts[name].split("\n")[:2]:
                install_hook(path, texts[name])
            elif f"{line} {IN_OTHERS[name]}" not in there:
                others.append((path, f"{line} {IN_OTHERS[name]}"))
    except OSError as error:
        raise AvaultError(f"cannot make the hooks in {place}: {error.strerror}", "see: git config core.hooksPath") from None
    for path, missing in others:
        raise AvaultError(f"there is another hook: {path}", f"add this line to it: {missing}")
    say("they stop every commit while the vault is locked; to commit all the same: git commit --no-verify")
    if terminal.want_json:
        put(json.dumps({"hooks": list(paths.values())}, indent=2) + "\n")
    return 0


def install_hook(path: str, hook: str) -> None:
    """Make one hook, unless it is there; raises OSError."""
    if os.path.lexists(path) and read_file(path) == hook.encode() and os.access(path, os.X_OK):
        say(f"the hook is there: {path}")
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write_file(path, hook.encode())
    os.chmod(path, 0o700)
    say(f"made the hook {path}")


# The command


@command(
    "scan",
    argument("paths", nargs=-1),
    option("--staged", is_flag=True),
    option("--install-hook", "hook", is_flag=True),
)
def cmd_scan(terminal: Terminal, paths: tuple[str, ...], staged: bool, hook: bool) -> int:
    """usage: avault scan [--staged] [PATH | -]…
           avault scan --install-hook [DIR]

    Looks for the vault's values in files: as they are, quoted, broken into
    lines, in UTF-16, and in base64, hex, URL, JSON, HTML form and more. Prints
    where, and which; never a value. Exit code 1: found one, or a file could not
    be read; 0: found none; 3: the vault is locked. PATH is a file, a directory
    (this one, if none is named), or - for stdin. Of a git repository it is what
    git tracks or would add; elsewhere every file. Values under 8 bytes are not
    looked for, and nothing is unpacked.
    --staged looks into what the next commit would change.
    --install-hook has git do that before each commit, and look at its message
    too, and stop one that carries a value. While the vault is locked it stops
    all: git commit --no-verify

      avault scan
      git diff main | avault scan -
      avault scan --install-hook ~/clawd
    """
    if hook:
        if staged or len(paths) > 1:
            raise Usage("--install-hook takes one directory", "avault scan --install-hook ~/clawd")
        return install_hooks(terminal, paths[0] if paths else ".")
    harden("avault scan")
    needles = Needles(terminal.ask("reveal", groups=[], only=[], **{"for": "scan"})["secrets"])
    if short := avault_forms.untold(terminal.places, "scan", needles.left_out):
        say(f"not looked for, as they are under {SHORTEST} bytes: {', '.join(short)}")
    tree, progress = Tree(paths or (".",)), Progress()
    parts = read_staged(paths, needles.overlap) if staged else tree.read(needles.overlap)
    found = without_neighbours(search_all(parts, needles, progress))
    if terminal.want_json:
        places = [each.to_dict() for each in found]
        put(json.dumps({"found": places, "left_out": needles.left_out, "unread": tree.unread}, indent=2) + "\n")
    else:
        put("".join(f"{each}\n" for each in found))
    files = "1 file" if len(progress.files) == 1 else f"{len(progress.files):,} files"
    if found:
        say(f"values of the vault stand in {len({each.path for each in found}):,} of {files}")
    elif sys.stderr.isatty() and not staged:
        say(f"no value of the vault is in {files}")
    return 1 if found or tree.unread else 0
