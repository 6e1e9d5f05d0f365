"""avault scan: looks for the vault's own values where they should not be.

A value may stand in a file as it is, in base64, hex, URL or JSON form, and in an encoded form it may be broken into
lines. Hundreds of values have thousands of such forms. So the search has two steps: `grep -F`, which takes no longer for
thousands of words than for one, looks for a piece of each form (an anchor); where it finds one, the whole form is
compared. The values are in this process and go to grep through a pipe: they are in no file and on no command line.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import secrets
import shlex
import signal
import stat
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, NamedTuple, cast

from avault_run_git import NO_HOOKS, QUIET, reason, start_git

from avault import (
    AvaultError,
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
    write_all,
    write_file,
)

SHORTEST = 8  # bytes of a value, or of one line of it: what is shorter stands everywhere by chance
ANCHOR = 48  # bytes of a form that grep looks for, at most
WRAPPED = {"base64", "hex", "url"}  # have no white space of their own, so that a line break in them means nothing
BLANK = b" \t\r\n"
BATCH = 8 << 20  # bytes that one grep is given
WIDE = 4096  # characters of a path that are shown
INDEX = {  # where a hook's git has the index and the objects of the commit that is being made
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES",
}  # fmt: skip


# What is looked for


class Form(NamedTuple):
    """One way in which one value may stand in a file: its GROUP/KEY, "plain" or the name of the encoding, the bytes."""

    name: str
    kind: str
    text: bytes


def forms_of(value: str) -> dict[bytes, str]:
    """The forms of a value, each with its kind; none for a value that is too short to look for.

    A value of several lines is looked for line by line, as an indented or quoted copy is a copy too; what says only
    that here begins or ends a key (RFC 7468) is left out.
    """
    raw = value.strip().encode()
    lines = [line.strip() for line in raw.splitlines()]
    kind = "line" if len(lines) > 1 else "plain"
    found = {line: kind for line in lines if len(line) >= SHORTEST and not re.fullmatch(rb"-----(BEGIN|END) [^-]*-----", line)}
    if not found:
        return {}
    for ascii_only in (True, False):
        found.setdefault(json.dumps(value.strip(), ensure_ascii=ascii_only)[1:-1].encode(), "json")
    for before in range(3):  # the bytes before it decide how its bits fall into letters
        first, last = -(-before * 8 // 6), (before + len(raw)) * 8 // 6  # the letters that depend on nothing else
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.setdefault(encode(bytes(before) + raw)[first:last], "base64")
    for text in (raw.hex(), raw.hex().upper()):
        found.setdefault(text.encode(), "hex")
    for safe in ("", "/", "*", "!'()*", "!'()*;,/?:@&=+$#"):  # Python's quote, HTML forms, encodeURIComponent, encodeURI
        text = urllib.parse.quote(raw, safe=safe)
        for quoted in (text, text.replace("%20", "+"), text.replace("%20", "+").replace("~", "%7E")):
            found.setdefault(quoted.encode(), "url")
            found.setdefault(re.sub("%..", lambda escape: escape[0].lower(), quoted).encode(), "url")
    return found


def anchors_of(form: Form) -> Iterator[tuple[int, bytes]]:
    """What grep looks for to find a form: bytes of it, and where they stand in it.

    They come from its middle, as what is secret in a token, a URL or a PEM block is seldom its beginning. Two halves,
    where a line break may divide one of them: encoders break lines after 48 characters or more.
    """
    begin = max(0, (len(form.text) - ANCHOR) // 2)
    middle = form.text[begin : begin + ANCHOR]
    half = len(middle) // 2
    if form.kind in WRAPPED and half >= SHORTEST:
        yield begin, middle[:half]
        yield begin + half, middle[half:]
    else:
        yield begin, middle


class Needles:
    """All forms of all values, and their anchors. `left_out` names what is too short to be looked for."""

    def __init__(self, answer: list[dict[str, Any]]) -> None:
        self.anchors: dict[bytes, list[tuple[int, Form]]] = defaultdict(list)
        self.beginnings: dict[bytes, list[bytes]] = defaultdict(list)  # the first bytes of an anchor: the anchors
        self.left_out: list[str] = []
        self.longest = 0
        for secret in answer:
            for value in (secret["value"], *secret["conflicts"]):
                self.add(f"{secret['group']}/{secret['key']}", value)
        for anchor in self.anchors:
            self.beginnings[anchor[:SHORTEST]].append(anchor)
        self.mark = secrets.token_hex(16).encode()
        self.patterns = b"".join(anchor + b"\n" for anchor in (self.mark, *self.anchors))

    def add(self, name: str, value: str) -> None:
        """Look for one more value."""
        forms = forms_of(value)
        if not forms and name not in self.left_out:
            self.left_out.append(name)
        for text, kind in forms.items():
            form = Form(name, kind, text)
            self.longest = max(self.longest, len(text))
            for place, anchor in anchors_of(form):
                self.anchors[anchor].append((place, form))


# The search


class Part(NamedTuple):
    """Some or all bytes of a file, and the number of the line that they begin in."""

    path: str
    line: int
    data: bytes


class Found(NamedTuple):
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


def search(parts: list[Part], needles: Needles) -> set[Found]:
    """Every form of every value in these parts of files."""
    data = b"\n".join([needles.mark, *(part.data for part in parts), needles.mark])
    hits = grep(data, needles)
    if hits is None:
        hits = sorted(find(data, needles))
    left = deque(hits)
    found: set[Found] = set()
    begin = len(needles.mark) + 1
    for part in parts:
        end = begin + len(part.data)
        places: set[tuple[int, Form]] = set()
        while left and left[0][0] < end:
            at, length = left.popleft()
            for place in range(at - begin, at - begin + length):  # grep tells nothing that overlaps what it has told
                places.update(whole(part.data, place, needles))
        line, counted = part.line, 0
        for place, form in sorted(places):
            line += part.data.count(b"\n", counted, place)
            counted = place
            found.add(Found(part.path, line, form.name, form.kind))
        begin = end + 1
    return found


def whole(data: bytes, place: int, needles: Needles) -> Iterator[tuple[int, Form]]:
    """The forms that are in `data` with an anchor at `place`, and where they begin."""
    for anchor in needles.beginnings.get(data[place : place + SHORTEST], ()):
        if data.startswith(anchor, place):
            for distance, form in needles.anchors[anchor]:
                if data.startswith(form.text, place - distance) and place >= distance:
                    yield place - distance, form
                elif form.kind in WRAPPED:
                    yield from wrapped(data, place, distance, form)


def wrapped(data: bytes, place: int, distance: int, form: Form) -> Iterator[tuple[int, Form]]:
    """The form, if it is around `place` but for white space in it, and where it begins."""
    low = max(0, place - 2 * distance - ANCHOR)
    window = data[low : place + 2 * (len(form.text) - distance) + ANCHOR]
    index = window.translate(None, BLANK).find(form.text)
    if index >= 0:
        solid = [number for number, byte in enumerate(window) if byte not in BLANK]
        yield low + solid[index], form


def grep(data: bytes, needles: Needles) -> list[tuple[int, int]] | None:
    """Where grep finds anchors in `data`: places and lengths. None where it cannot be trusted.

    It is trusted if it finds the mark at both ends: not every grep knows -a, -b and -o, or reads /dev/fd. Only the
    system's own is asked, not what $PATH names.
    """
    words, words_end = os.pipe()
    text, text_end = os.pipe()
    argv = ["grep", "-a", "-b", "-o", "-F", "-f", f"/dev/fd/{words}"]
    usual = {"PATH": os.confstr("CS_PATH") or os.defpath, "LC_ALL": "C"}
    feeder = threading.Thread(target=feed, args=([(words_end, needles.patterns), (text_end, data)],))
    feeder.start()
    try:
        done = subprocess.run(argv, env=usual, pass_fds=[words], stdin=text, capture_output=True, check=False)
    except OSError:
        return None
    finally:
        os.close(words)
        os.close(text)
        feeder.join()
    if done.returncode == -signal.SIGINT:
        raise KeyboardInterrupt  # Ctrl-C reaches both
    lines = done.stdout.split(b"\n")
    ends = (b"0:" + needles.mark, b"%d:%s" % (len(data) - len(needles.mark), needles.mark))
    if done.returncode or len(lines) < 3 or (lines[0], lines[-2]) != ends:
        return None
    return [(int(place), len(anchor)) for place, _, anchor in (line.partition(b":") for line in lines[1:-2])]


def feed(pipes: Iterable[tuple[int, bytes]]) -> None:
    """Write to pipes, one after the other, and close them; the reader may have gone."""
    for fd, data in pipes:
        try:
            write_all(fd, data)
        except BrokenPipeError:
            pass
        finally:
            os.close(fd)


def find(data: bytes, needles: Needles) -> Iterator[tuple[int, int]]:
    """What `grep` gives, without grep: slow, but here."""
    for anchor in needles.anchors:
        place = data.find(anchor)
        while place >= 0:
            yield place, len(anchor)
            place = data.find(anchor, place + 1)


def search_all(parts: Iterable[Part], needles: Needles, progress: Progress) -> set[Found]:
    """Search parts of files as they come, in batches, two at a time."""
    found: set[Found] = set()
    under_way: deque[Future[set[Found]]] = deque()
    with ThreadPoolExecutor(2) as pool:
        batch: list[Part] = []
        size = 0
        for part in parts:
            batch.append(part)
            size += len(part.data)
            progress.add(part)
            if size >= BATCH:
                under_way.append(pool.submit(search, batch, needles))
                batch, size = [], 0
            if len(under_way) > 2:
                found |= under_way.popleft().result()
        under_way.append(pool.submit(search, batch, needles))
        for each in under_way:
            found |= each.result()
    progress.end()
    return found


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


def cut(path: str, file: Blob | IO[bytes], longest: int) -> Iterator[Part]:
    """A file in parts that can be held, which overlap by more than the longest form."""
    line, data = 1, file.read(BATCH)
    while True:
        yield Part(path, line, data)
        more = file.read(BATCH)
        if not more:
            return
        kept = max(0, len(data) - 2 * longest - ANCHOR)
        line += data.count(b"\n", 0, kept)
        data = data[kept:] + more


class Tree:
    """Files as they lie on the disk; links are not followed. `unread` names what could not be read."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = paths
        self.unread: list[str] = []

    def read(self, longest: int) -> Iterator[Part]:
        """What is in the files, in parts; raises NotFound for a path that is not there."""
        for path in self.paths:
            named = os.path.realpath(path) if os.path.islink(path) else path
            if not os.path.exists(named):
                raise NotFound(f"no file {printable(path, WIDE)}", "see: avault scan --help")
            for each in self.files(named):
                try:
                    with open(os.open(each, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", buffering=0) as file:
                        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                            yield from cut(each, file, longest)
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


def read_staged(paths: Iterable[str], longest: int) -> Iterator[Part]:
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
            yield from cut(path, Blob(objects), longest)
            objects.read(1)  # the newline after each object


# The hook

HOOK = """\
#!/bin/sh
# avault: no commit carries a value of the vault
{command} scan --staged || {{
    echo 'avault: nothing was committed; to commit without looking: git commit --no-verify' >&2
    exit 1
}}
"""


def install_hook(terminal: Terminal, directory: str) -> int:
    """Make a pre-commit hook where git looks for it; raises AvaultError where there is another."""
    top = os.fsdecode(git("rev-parse", "--show-toplevel", directory=directory).removesuffix(b"\n"))
    hooks = os.fsdecode(git("rev-parse", "--git-path", "hooks", directory=top, settings=()).removesuffix(b"\n"))
    path = os.path.join(top, hooks, "pre-commit")  # `hooks` knows core.hooksPath, and the repository of a worktree
    typed = os.path.abspath(sys.argv[0])
    words = [typed] if os.path.basename(typed).startswith("avault") and os.access(typed, os.X_OK) else own_command()
    line = shlex.join([*words, "--dir", terminal.places.dir])
    hook = HOOK.format(command=line)
    try:
        there = read_file(path).decode(errors="replace") if os.path.lexists(path) else ""
        if there and there.split("\n")[:2] != hook.split("\n")[:2]:
            raise AvaultError(f"there is another hook: {path}", f"add this line to it: {line} scan --staged || exit 1")
        if there == hook and os.access(path, os.X_OK):
            say(f"the hook is there: {path}")
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write_file(path, hook.encode())
            os.chmod(path, 0o700)
            say(f"made the hook {path}")
    except OSError as error:
        raise AvaultError(f"cannot make the hook {path}: {error.strerror}", "see: git config core.hooksPath") from None
    say("it stops every commit while the vault is locked; to commit all the same: git commit --no-verify")
    if terminal.want_json:
        put(json.dumps({"hook": path}, indent=2) + "\n")
    return 0


# The command


@command(
    "scan",
    argument("paths", nargs=-1),
    option("--staged", is_flag=True),
    option("--install-hook", "hook", is_flag=True),
)
def cmd_scan(terminal: Terminal, paths: tuple[str, ...], staged: bool, hook: bool) -> int:
    """usage: avault scan [--staged] [PATH]…
           avault scan --install-hook [DIR]

    Looks for the vault's values in files: as they are, and in base64, hex, URL
    and JSON form. Prints where, and which; never a value. Exit code 1: found
    one, or a file could not be read; 0: found none; 3: the vault is locked.
    PATH is a file or a directory (this one, if none is named). Of a git
    repository it is what git tracks or would add; elsewhere every file. Values
    under 8 bytes are not looked for, and nothing is unpacked.
    --staged looks into what the next commit would change.
    --install-hook has git do that before each commit, and stop one that carries
    a value. While the vault is locked it stops all: git commit --no-verify

      avault scan
      avault scan --install-hook ~/clawd
    """
    if hook:
        if staged or len(paths) > 1:
            raise Usage("--install-hook takes one directory", "avault scan --install-hook ~/clawd")
        return install_hook(terminal, paths[0] if paths else ".")
    harden("avault scan")
    needles = Needles(terminal.ask("reveal", groups=[], only=[], **{"for": "scan"})["secrets"])
    if needles.left_out and not staged:
        say(f"not looked for, as they are under {SHORTEST} bytes: {', '.join(needles.left_out)}")
    tree, progress = Tree(paths or (".",)), Progress()
    parts = read_staged(paths, needles.longest) if staged else tree.read(needles.longest)
    found = without_neighbours(sorted(search_all(parts, needles, progress)))
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
