"""avault run: secrets for one command, without holding them.

`run` asks the daemon, starts the command with the secrets in its environment, and stands between it and the terminal:
what it prints is masked. Masking is best effort: it finds the values and their usual encodings. A program that means to
tell a secret can.

    secrets      which ones, under which names: the vault's choice, dotenv files, references
    masks        the forms in which a value may appear, and their search in a stream
    relay        a command on pipes: its output, its signals, its end
    terminal     a command on a terminal of its own: keys, size, job control
    commands     run
"""

from __future__ import annotations

import base64
import bisect
import contextlib
import errno
import fcntl
import json
import os
import re
import resource
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import termios
import time
import tty
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NoReturn

import click
from avault_dotenv import EMPTY, read_dotenv, tell_of_lines

import avault
from avault import (
    AvaultError,
    Denied,
    Terminal,
    Unavailable,
    Usage,
    argument,
    command,
    find_program,
    option,
    printable,
    say,
    warn,
)

# --------------------------------------------------------------- secrets ----
# A secret is named by its place, GROUP/KEY. It has one value, or more where
# two machines set it and nobody has settled that: the first one counts.

Secrets = dict[str, list[str]]  # values by place

REFERENCE = re.compile(rb"avault://(?:([A-Za-z0-9][A-Za-z0-9._-]{0,63}/[A-Za-z_][A-Za-z0-9_]{0,127}))?")


def reveal(terminal: Terminal, purpose: str, groups: Iterable[str] = (), only: Iterable[str] = ()) -> Secrets:
    """Secrets from the daemon, for the `purpose` that the access log is told; raises what it answers."""
    rows = terminal.ask("reveal", groups=list(groups), only=list(only), **{"for": purpose})["secrets"]
    return {f"{row['group']}/{row['key']}": [row["value"], *row["conflicts"]] for row in rows}


def find_references(data: bytes, where: str) -> set[str]:
    """The places that avault://GROUP/KEY in `data` name; raises Usage for one that names none."""
    places = set()
    for found in REFERENCE.finditer(data):
        if not found[1]:
            line = data.count(b"\n", 0, found.start()) + 1
            where = f"{where}, line {line}" if b"\n" in data else where
            raise Usage(f"{where}: a reference without group and key", "as in avault://openai/API_KEY")
        places.add(found[1].decode())
    return places


def resolve(data: bytes, secrets: Secrets) -> bytes:
    """`data` with values for its references. A value is not looked into."""
    return REFERENCE.sub(lambda found: secrets[found[1].decode()][0].encode(), data)


def read_env_file(path: str) -> dict[str, str]:
    """The variables of a dotenv file; says what is left of it, and what others read differently. Raises NotFound, Usage."""
    data, name = avault.read_file(os.path.expanduser(path), avault.MAX_FRAME, only_regular=False), printable(path)
    try:
        text = data.decode()
        if "\0" in text:
            raise Usage(f"{name} is not text", "a dotenv file has lines like NAME=value")
        variables, told = read_dotenv(text, takes_references=True)
    except UnicodeDecodeError:
        raise Usage(f"{name} is not text in UTF-8", "a dotenv file has lines like NAME=value") from None
    except Usage as error:
        raise Usage(f"{name}, {error.message}", error.hint) from None
    tell_of_lines([each for each in told if each.problem != EMPTY], name)
    return variables


class Injection:
    """What a command is given: `variables`, `files` (both by variable), and all `secrets` that are in them."""

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self.files: dict[str, str] = {}
        self.secrets: Secrets = {}
        self.places: dict[str, str] = {}  # by variable, for what the vault has named

    def take(self, terminal: Terminal, groups: list[str], only: list[str], prefix: bool, allow: list[str]) -> None:
        """Add secrets of the vault, as `avault export` names them; raises what the daemon answers."""
        choice = {"groups": groups, "only": only}
        answer = terminal.ask("export", **choice, prefix=prefix, allow=allow, **{"for": "run"})
        self.places, self.variables = answer["names"], answer["variables"]
        self.secrets = reveal(terminal, "run", **choice)
        for name, place in self.places.items():  # somebody may have changed one meanwhile
            self.secrets[place] = list(dict.fromkeys([self.variables[name], *self.secrets.get(place, [])]))

    def set(self, terminal: Terminal, variables: dict[str, str], allow: list[str]) -> None:
        """Add variables of a dotenv file, with values for their references; raises Usage, NotFound, Denied."""
        refuse_dangerous(variables, allow)
        wanted = {place for name, value in variables.items() for place in find_references(value.encode(), name)}
        if missing := sorted(wanted - self.secrets.keys()):
            self.secrets |= reveal(terminal, "run", only=missing)
        for name, value in variables.items():
            self.places.pop(name, None)
            self.variables[name] = resolve(value.encode(), self.secrets).decode()

    def move_to_file(self, terminal: Terminal, word: str, prefix: bool, allow: list[str]) -> None:
        """Give a variable, KEY or GROUP/KEY as a file, under its name and _FILE; raises NotFound, Usage, Denied."""
        names = [name for name, place in self.places.items() if word in (name, place, place.partition("/")[2])]
        if word in self.variables:
            names = [word]
        elif not names:
            found = reveal(terminal, "run", only=[word])
            self.secrets |= found
            for place, values in found.items():
                group, _, key = place.partition("/")
                name = avault.as_name(group, key) if prefix else key
                names.append(name)
                self.places[name], self.variables[name] = place, values[0]
            if len(found) > 1:
                raise Usage(f"{word} is in more than one group: {', '.join(found)}", f"name one: --as-file {min(found)}")
        for name in names:
            if f"{name}_FILE" in self.variables:
                raise Usage(f"{name}_FILE is a variable already", "choose others with --only or --group")
            refuse_dangerous([f"{name}_FILE"], allow)
            self.files[f"{name}_FILE"] = self.variables.pop(name)

    def environment(self) -> dict[bytes, bytes]:
        """The environment of the command: what is there, and over it what was chosen. Makes the files."""
        given = {name: value.encode() for name, value in self.variables.items()}
        given |= {name: make_file(value).encode() for name, value in self.files.items()}
        return {**os.environb, **{name.encode(): value for name, value in given.items()}}


def refuse_dangerous(names: Iterable[str], allow: list[str]) -> None:
    """Refuse variables that change what programs do, as `avault export` does; raises Denied."""
    if refused := sorted(name for name in names if avault.is_dangerous(name) and name not in allow):
        raise Denied(
            f"{', '.join(refused)} would change what other programs do",
            "if you mean it: " + " ".join(f"--allow {name}" for name in refused),
        )


def make_file(value: str) -> str:
    """Put a value into memory that has a path, and no name on any disk (memfd_create(2)); raises Unavailable.

    It cannot be changed, only its owner may read it (ssh refuses keys of others), and it ends with this process, which
    stays as long as the command, or becomes it. The path names this process and not /proc/self: many programs close
    descriptors that they do not know, in themselves or in what they start, and must find it all the same.
    """
    if not hasattr(os, "memfd_create"):
        raise Unavailable("--as-file needs Linux", "use a variable, or: avault inject -o FILE")
    fd = os.memfd_create("avault", os.MFD_ALLOW_SEALING)  # not close-on-exec: with --no-mask the command inherits it
    avault.write_all(fd, value.encode())
    os.fchmod(fd, 0o400)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
    return f"/proc/{os.getpid()}/fd/{fd}"


# ----------------------------------------------------------------- masks ----
# A value may leave a program as it is, or encoded. All its forms are plain
# byte strings, and what remains is to find some hundred strings in a stream,
# fast, and also where a read ends in the middle of one.

SHORTEST = 8  # bytes of a value that is masked; shorter ones are all over any output by chance
LONG_LINE = 16  # bytes of a line that is masked by itself
STEPS: list[tuple[Literal["Q", "I"], int, int]] = [("Q", 8, 16), ("Q", 8, 8), ("I", 4, 4)]  # see Patterns
QUIET = 0.02  # seconds of silence after which a held beginning is let out
SETTLED = 0.05  # seconds of silence after which a terminal has passed on what was written to it


def forms(value: str) -> Iterator[bytes]:
    """The byte strings by which a value can be recognized; none for a short one.

    As it is, with the line ends of a terminal, and the long lines of a value that has several; in JSON (also as Go and
    PHP write it), percent-encoded (as Python, browsers and HTML forms do it), in hex, in base64 and base64url: alone or
    within a longer text, where those letters count that only the value decides. Alone also as base64, openssl and xxd
    break it into lines.
    """
    text = value.strip()  # a newline at the end gets lost on the way
    raw = text.encode()
    if len(raw) < SHORTEST:
        return
    yield from with_line_ends(raw)
    if b"\n" in raw:
        for line in map(bytes.strip, raw.splitlines()):
            if len(line) >= LONG_LINE and not line.startswith(b"-----"):  # -----BEGIN …: not a secret, and in every other key
                yield line
    for ascii_only in (True, False):
        escaped = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield escaped.encode()
        yield escaped.replace("/", "\\/").encode()
        yield escaped.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").encode()
    for safe in ("", "/", "!~*'()", "!~*'();,/?:@&=+$#"):  # Python's; encodeURIComponent, encodeURI
        yield from with_lower_escapes(urllib.parse.quote(raw, safe=safe))
    yield from with_lower_escapes(urllib.parse.quote_plus(raw))
    for digits in (raw.hex(), raw.hex().upper()):
        yield digits.encode()
        yield from broken(digits.encode(), 60)
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for alone in (encode(raw), encode(raw + b"\n")):  # as `echo` pipes it
            yield from (alone, alone.rstrip(b"="))
            yield from (*broken(alone, 76), *broken(alone, 64))
        for before in range(3):  # bytes that stand before the value in its first three
            first, last = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
            yield encode(bytes(before) + raw)[first:last]


def with_line_ends(data: bytes) -> Iterator[bytes]:
    r"""`data`, and as a terminal shows it: \n becomes \r\n."""
    yield data
    yield data.replace(b"\n", b"\r\n")


def with_lower_escapes(quoted: str) -> Iterator[bytes]:
    """Percent-encoded text, and the same in lower case: %2f."""
    yield quoted.encode()
    yield re.sub("%..", lambda found: found[0].lower(), quoted).encode()


def broken(data: bytes, width: int) -> Iterator[bytes]:
    """`data` in lines of so many bytes, with both line ends."""
    if len(data) > width:
        yield from with_line_ends(b"\n".join(data[start : start + width] for start in range(0, len(data), width)))


class Patterns:
    """Byte strings to look for, none shorter than SHORTEST, and the mask for each.

    The search looks at few places. A string that is long enough covers some place whose offset is a multiple of `step`,
    with a word of 8 or 4 bytes after it, wherever it begins; that word is one of the first `step` in the string. So
    the words at those places are looked up in a set, at C's speed, in one pass for any number of strings; only a string
    of which a word was seen is searched for.
    """

    def __init__(self, masks: dict[bytes, bytes]) -> None:
        self.masks = masks
        self.sorted = sorted(masks)
        shortest = min(map(len, masks))
        self.type, self.size, self.step = next(each for each in STEPS if each[1] + each[2] - 1 <= shortest)
        self.covered = self.size + self.step - 1  # of so many bytes in a row, some word is looked at
        self.words: dict[int, set[bytes]] = {}
        for pattern in masks:
            for start in range(self.step):
                word = int.from_bytes(pattern[start : start + self.size], sys.byteorder)
                self.words.setdefault(word, set()).add(pattern)

    @classmethod
    def of(cls, secrets: Secrets) -> Patterns | None:
        """All forms of these secrets' values; None if there is nothing to look for."""
        masks: dict[bytes, bytes] = {}
        for place in sorted(secrets):
            for value in secrets[place]:
                for form in forms(value):
                    masks.setdefault(form, f"<avault:{place}>".encode())
        return cls(masks) if masks else None

    def suspects(self, data: bytes) -> set[bytes]:
        """The strings that may be in `data`, whole or with their first `covered` bytes or more."""
        words = memoryview(data)[: len(data) // self.size * self.size].cast(self.type)[:: self.step // self.size]
        return {pattern for word in self.words.keys() & words for pattern in self.words[word]}

    def occurrences(self, data: bytes, suspects: set[bytes]) -> list[tuple[int, int, bytes]]:
        """Where strings are in `data`, overlapping ones too: start, end and mask, by start, the longest first."""
        found = []
        for pattern in suspects:
            start = data.find(pattern)
            while start >= 0:
                found.append((start, -start - len(pattern), self.masks[pattern]))
                start = data.find(pattern, start + 1)
        return [(start, -end, mask) for start, end, mask in sorted(found)]

    def beginning(self, data: bytes, suspects: set[bytes]) -> int:
        """Where the longest end of `data` begins that is the beginning of a string, but not all of it; else its length."""
        longest = len(data)
        for pattern in suspects:
            start = data.find(pattern[: self.covered], max(0, len(data) - len(pattern) + 1))
            while 0 <= start < longest:
                if pattern.startswith(data[start:]):
                    longest = start
                start = data.find(pattern[: self.covered], start + 1)
        for start in range(max(0, len(data) - self.covered + 1), longest):
            end = data[start:]
            place = bisect.bisect_left(self.sorted, end)
            if place < len(self.sorted) and self.sorted[place].startswith(end):
                return start
        return longest


class Mask:
    """One stream on its way through: no byte of a string that was found comes out.

    Where the stream stops within a string, its beginning is held until the rest comes. After a silence (`pause`) up to
    seven bytes of it are let out, so that a prompt or an echo appears that happens to end like that; more are held until
    the next byte decides, or the end. What was let out still counts: the rest of that string is masked.
    """

    def __init__(self, patterns: Patterns) -> None:
        self.patterns = patterns
        self.held = b""  # the longest beginning of a string with which the stream ends
        self.done = 0  # so many bytes of it are out, or masked
        self.last: bytes | None = None  # the mask that reaches exactly to there

    def feed(self, data: bytes) -> bytes:
        """What can be shown after more of the stream."""
        data = self.held + data
        suspects = self.patterns.suspects(data)
        beginning = self.patterns.beginning(data, suspects)
        return self.show(data, self.patterns.occurrences(data, suspects), beginning, beginning)

    def pause(self) -> bytes:
        """What can be shown when nothing came for a while."""
        found = self.patterns.occurrences(self.held, self.patterns.suspects(self.held))
        end = 0 if len(self.held) >= SHORTEST else len(self.held)
        for start, stop, _ in found:  # a string that is the beginning of another one
            end = max(end, stop) if start <= end else end
        return self.show(self.held, found, end, 0)

    def end(self) -> bytes:
        """The rest."""
        found = self.patterns.occurrences(self.held, self.patterns.suspects(self.held))
        return self.show(self.held, found, len(self.held), len(self.held))

    def show(self, data: bytes, found: list[tuple[int, int, bytes]], end: int, keep: int) -> bytes:
        """`data` from where we are up to `end`, masked; it is kept from `keep` on.

        A mask stands for each string, whatever it overlaps; only one that overlaps itself (aaaaaaaaa) gets no second.
        """
        shown, position = [], self.done
        for start, stop, mask in found:
            if start >= end:
                break
            if start > position:
                shown.append(data[position:start])
            if stop > position:
                if start >= position or mask != self.last:
                    shown.append(mask)
                position, self.last = stop, mask
        if position < end:
            shown.append(data[position:end])
            position, self.last = end, None
        self.held, self.done = data[keep:], position - keep
        return b"".join(shown)


# ----------------------------------------------------------------- relay ----
# The command is our child, in our process group. Where an output is a
# terminal, it gets one that is only for output, so that it still looks like
# one; keys, Ctrl-C and Ctrl-Z go from the real terminal to the command.

FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
CORES = resource.getrlimit(resource.RLIMIT_CORE)  # what we were started with
PIPE_SIZE = 1 << 20  # bytes; Linux gives so much to anybody, and each read then brings more


class CannotRun(AvaultError):
    """The command could not be started: 127 where it is not there, else 126, as a shell has it."""

    def __init__(self, command: list[str], number: int) -> None:
        hint = {
            errno.ENOENT: "is it installed, and in PATH?",
            errno.EACCES: f"make it executable: chmod +x {printable(command[0])}",
            errno.ENOEXEC: "a script begins with a line like: #!/bin/sh",
            errno.E2BIG: "too much for an environment; choose with --only, or give the largest with --as-file KEY",
        }.get(number)
        super().__init__(f"cannot run {printable(command[0])}: {os.strerror(number)}", hint)
        self.exit_code = 127 if number == errno.ENOENT else 126


def become(command: list[str], environment: dict[bytes, bytes]) -> NoReturn:
    """Execute the command in our place; raises CannotRun."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and what is ignored is inherited
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(find_program(command[0], environment), command, environment)  # noqa: S606
    except OSError as error:
        raise CannotRun(command, error.errno or 0) from None


def forbid_cores() -> None:
    """Leave no core file if we crash: we have all the values.

    The limit is 1 byte and not 0: that alone also keeps the kernel from handing a core to a program (core(5): piped).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (1 if CORES[1] else 0, CORES[1]))


def allow_cores() -> None:
    """As we were started, for the command: its cores are its own affair."""
    resource.setrlimit(resource.RLIMIT_CORE, CORES)


def open_screen() -> tuple[int, int]:
    """A terminal of our own: our end, and the command's; raises Unavailable."""
    try:
        return os.openpty()
    except OSError as error:
        raise Unavailable(f"no terminal for the command: {error.strerror}", "without one: avault run … | cat") from None


def copy_size(terminal: int, other: int) -> None:
    """Give a terminal the size of another one."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(other, termios.TIOCSWINSZ, fcntl.ioctl(terminal, termios.TIOCGWINSZ, bytes(8)))


class Output:
    """What the command writes: read from `source`, masked, written to `sink`."""

    def __init__(self, source: int, sink: int, patterns: Patterns) -> None:
        self.source: int | None = source
        os.set_blocking(source, False)
        self.sink = sink
        self.mask = Mask(patterns)
        self.pending = memoryview(b"")  # masked, not yet written
        self.quiet: float | None = QUIET  # None: nobody waits for a prompt
        self.due: float | None = None  # when the silence has been long enough
        self.count = 0  # bytes read
        self.undoes_crlf = False  # \r\n becomes \n: the terminal behind will make the same of it again
        kind = os.fstat(sink).st_mode
        # A write that a full pipe would block is not begun: the other output, and the keys, would wait too.
        self.piece = select.PIPE_BUF if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) else PIPE_SIZE

    def read(self) -> None:
        """Take what has come, a pipe's content at most. The end of the stream closes the source."""
        data, piece = bytearray(), b"?"
        try:
            while piece and self.source is not None and len(data) < PIPE_SIZE:
                data += (piece := os.read(self.source, 1 << 16))  # of a terminal, 4 KiB at most
        except BlockingIOError:  # that is all
            pass
        except OSError:  # EIO: the last holder of a terminal has closed it
            piece = b""
        self.count += len(data)
        shown = self.mask.feed(bytes(data))
        if not piece:
            shown += self.mask.end()
            self.close()
        self.pending = memoryview(shown.replace(b"\r\n", b"\n") if self.undoes_crlf else shown)
        self.due = time.monotonic() + self.quiet if self.mask.held and self.quiet else None

    def pause(self) -> None:
        """Let out what is held and short."""
        self.pending, self.due = memoryview(self.mask.pause()), None

    def write(self) -> None:
        """Write some of what is pending. Where nobody reads any more, the command shall find that out in its turn."""
        try:
            self.pending = self.pending[os.write(self.sink, self.pending[: self.piece]) :]
        except BlockingIOError:  # somebody has made it so, and has filled it
            return
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                say(f"cannot write the output: {error.strerror}")
            self.pending = memoryview(b"")
            self.close()

    def close(self) -> None:
        """Read no more."""
        if self.source is not None:
            os.close(self.source)
        self.source, self.due = None, None


class Job:
    """A command whose output is masked; `run` gives its exit code."""

    def __init__(self, command: list[str], environment: dict[bytes, bytes], patterns: Patterns) -> None:
        self.command, self.environment, self.patterns = command, environment, patterns
        self.outputs: list[Output] = []
        self.screens: list[tuple[int, int]] = []  # terminals of ours, each with the one whose size it has
        self.ends: list[int] = []  # what the command writes to, and we close when it is started
        self.process: subprocess.Popen[bytes] | None = None
        self.early: list[int] = []  # signals from before it was started
        self.code: int | None = None
        self.woken, wake = os.pipe()
        for end in (self.woken, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def run(self) -> int:
        """Start the command, pass on what it writes and what we are told, until it ends; raises CannotRun."""
        self.start(*self.open_outputs())
        for end in self.ends:
            os.close(end)
        try:
            while self.code is None:
                self.turn(None)
            for number in FORWARDED:  # from here on they are for us
                if signal.getsignal(number) == self.forward:
                    signal.signal(number, signal.SIG_DFL)
            self.drain()
        finally:
            self.let_go()
        self.leave_behind()
        return self.code

    # -- starting

    def open_outputs(self) -> tuple[int, int]:
        """What the command is to have as stdout and stderr: one for both where ours are the same, so that order is kept."""
        stdout = self.open_output(1)
        one, other = os.fstat(1), os.fstat(2)
        same = (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
        return stdout, stdout if same else self.open_output(2)

    def open_output(self, sink: int) -> int:
        """A pipe, or a terminal that is only for output, whose other end comes out masked at `sink`."""
        if os.isatty(sink):
            source, end = open_screen()
            tty.setraw(end)  # the real one turns \n into \r\n
            copy_size(sink, source)
            self.screens.append((source, sink))
        else:
            source, end = os.pipe()
            if hasattr(fcntl, "F_SETPIPE_SZ"):
                with contextlib.suppress(OSError):  # beyond what this user may have
                    fcntl.fcntl(source, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self.outputs.append(Output(source, sink, self.patterns))
        self.ends.append(end)
        return end

    def start(self, stdout: int, stderr: int) -> None:
        """Start the command; raises CannotRun."""
        self.catch(signal.SIGCHLD, signal.SIGWINCH, action=wake_up)
        self.catch(*FORWARDED, action=self.forward)
        try:
            self.process = subprocess.Popen(
                self.command,
                executable=find_program(self.command[0], self.environment),
                env=self.environment,
                stdout=stdout,
                stderr=stderr,
                close_fds=False,
                preexec_fn=allow_cores,  # noqa: PLW1509  there are no threads
            )
        except OSError as error:
            raise CannotRun(self.command, error.errno or 0) from None
        for number in self.early:
            self.process.send_signal(number)

    def catch(self, *numbers: int, action: Callable[..., None]) -> None:
        """Handle signals, but not those that are ignored because who started us wants it (nohup)."""
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGCHLD:
                signal.signal(number, action)

    # -- signals; a handler acts at once, as we may be in the middle of a long write

    def forward(self, number: int, frame: object) -> None:
        """Pass a signal on, unless the command has it already."""
        if self.process is None:
            self.early.append(number)
        elif not is_typed(number):
            self.process.send_signal(number)

    def wake(self) -> None:
        """See what woke us: the size of the terminal, the end of the command."""
        woken = os.read(self.woken, 4096)
        if signal.SIGWINCH in woken and self.screens:
            self.resize()
            if self.process:
                self.process.send_signal(signal.SIGWINCH)  # it may have looked before we had changed the size
        if self.process and self.code is None and self.process.poll() is not None:
            self.code = self.process.returncode if self.process.returncode >= 0 else 128 - self.process.returncode

    def resize(self) -> None:
        """Give our terminals the sizes of those that they stand for."""
        for screen, terminal in self.screens:
            copy_size(terminal, screen)

    # -- passing on

    def readers(self) -> dict[int, Callable[[], object]]:
        """What to read, and how. What is not yet written holds up only its own source."""
        open_outputs = [output for output in self.outputs if output.source is not None and not output.pending]
        return {self.woken: self.wake, **{output.source: output.read for output in open_outputs if output.source is not None}}

    def writers(self) -> dict[int, Callable[[], object]]:
        """What to write, and how."""
        return {output.sink: output.write for output in self.outputs if output.pending}

    def turn(self, timeout: float | None) -> bool:
        """Wait, for so long at most, and pass on what there is; whether there was something."""
        readers, writers = self.readers(), self.writers()
        now = time.monotonic()
        waits = [max(0, output.due - now) for output in self.outputs if output.due is not None and not output.pending]
        limits = [*waits, *([] if timeout is None else [timeout])]
        readable, writable, _ = select.select(list(readers), list(writers), [], min(limits, default=None))
        for action in [*(writers[fd] for fd in writable), *(readers[fd] for fd in readable)]:
            action()
        now = time.monotonic()
        for output in self.outputs:
            if output.due is not None and not output.pending and now >= output.due:
                output.pause()
        return bool(writable or set(readable) - {self.woken})

    def drain(self) -> None:
        """Pass on what the command had written before now: to the end, or to a silence, or as much as a pipe holds."""
        ends = [output.count + PIPE_SIZE for output in self.outputs]
        while any(
            output.pending or (output.source is not None and output.count < end)
            for output, end in zip(self.outputs, ends, strict=True)
        ):
            if not self.turn(SETTLED) and not any(output.pending for output in self.outputs):
                return

    # -- the end

    def let_go(self) -> None:
        """Give back what we had of the terminal."""

    def leave_behind(self) -> None:
        """Stay, as a process that nobody waits for, where something that the command left running may still write."""
        if all(output.source is None for output in self.outputs) or os.fork():
            return
        try:
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, signal.SIG_IGN)
            for fd in {0, 1, 2} - {output.sink for output in self.outputs if output.source is not None}:
                os.close(fd)
            while any(output.pending or output.source is not None for output in self.outputs):
                self.turn(None)
        finally:
            os._exit(0)


def wake_up(number: int, frame: object) -> None:
    """Handle a signal by nothing but its number in the pipe of signal.set_wakeup_fd."""


def is_foreground(terminal: int) -> bool:
    """Whether keys on the terminal are for us; one that is not our session's has no jobs, and is for anybody."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return True


def open_terminal() -> int | None:
    """Our session's terminal, if there is one."""
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return None


def is_typed(number: int) -> bool:
    """Whether that signal came from the keys of our terminal, and so to all of our process group.

    Python does not tell who sent a signal. In the foreground of a terminal, SIGINT and SIGQUIT are Ctrl-C and Ctrl-\\.
    """
    terminal = open_terminal() if number in (signal.SIGINT, signal.SIGQUIT) else None
    if terminal is None:
        return False
    try:
        return is_foreground(terminal)
    finally:
        os.close(terminal)


# -------------------------------------------------------------- terminal ----
# Our stdout is a terminal: the command gets one of its own, a whole one, and
# we are between the two. As in any terminal emulator there is a session, and a
# leader of it: a fork of ours that starts the command as a job, sees it stop
# and go on, and tells us. (Without a parent in its session the command could
# not be stopped: POSIX drops Ctrl-Z for orphaned process groups.)
#
#     terminal -- avault run --- pseudoterminal
#                    |              |
#                    '-- leader -- the command, in a process group of its own

FOREGROUND, BACKGROUND = 128, 129  # orders to the leader: go on, with the keys or without; smaller ones are signals
STARTED, FAILED, STOPPED, EXITED, KILLED = range(5)  # reports of the leader, each with a number
REPORT = struct.Struct("BB")
ONLCR = termios.OPOST | termios.ONLCR  # a terminal turns \n into \r\n


class TerminalJob(Job):
    """A command on a terminal of its own."""

    def __init__(self, command: list[str], environment: dict[bytes, bytes], patterns: Patterns) -> None:
        super().__init__(command, environment, patterns)
        self.orders, self.leader_end = socket.socketpair()
        self.terminal = 0 if os.isatty(0) else open_terminal()  # where keys come from
        self.saved: list[Any] | None = None  # its modes, while its keys are ours
        self.keys = b""  # typed, not yet passed on
        self.wanted = os.isatty(0)  # whether the command is to have the keys, not only the screen
        self.was_continued = False

    # -- starting

    def open_outputs(self) -> tuple[int, int]:
        """One terminal for all that is a terminal of ours; stderr may be something else."""
        self.screen, end = open_screen()
        termios.tcsetattr(end, termios.TCSANOW, termios.tcgetattr(1))
        self.modes = termios.tcgetattr(end)
        self.screens.append((self.screen, 1))
        self.resize()
        self.outputs.append(Output(self.screen, 1, self.patterns))
        self.outputs[0].undoes_crlf = self.makes_crlf = self.modes[1] & ONLCR == ONLCR
        self.ends.append(end)
        same = os.isatty(2) and os.fstat(1).st_rdev == os.fstat(2).st_rdev
        return end, end if same else self.open_output(2)

    def start(self, stdout: int, stderr: int) -> None:
        """Start the leader, which starts the command; raises CannotRun."""
        self.catch(signal.SIGWINCH, action=wake_up)
        self.catch(signal.SIGCONT, action=self.note_continued)
        self.catch(*FORWARDED, signal.SIGTSTP, action=self.forward)
        foreground = self.terminal is None or is_foreground(self.terminal)
        if os.fork() == 0:
            self.orders.close()
            for output in self.outputs:
                output.close()
            Leader(self.leader_end, stdout, self.command, self.environment).lead(stderr, foreground)
        self.leader_end.close()
        kind, number = self.hear_report()
        if kind == FAILED:
            raise CannotRun(self.command, number)
        if foreground and self.wanted:
            self.take_keys()

    # -- orders and reports

    def order(self, number: int) -> None:
        """Tell the leader: a signal for the command, or to let it go on."""
        with contextlib.suppress(OSError):  # it has ended
            self.orders.send(bytes([number]))

    def hear_report(self) -> tuple[int, int]:
        """What the leader reports next; raises AvaultError when somebody has killed it."""
        try:
            kind, number = REPORT.unpack(self.orders.recv(REPORT.size))
        except (OSError, struct.error):
            raise AvaultError("the leader of the command's session was killed", "the command got SIGHUP") from None
        return kind, number

    def hear(self) -> None:
        """Do what a report asks for."""
        kind, number = self.hear_report()
        if kind == STOPPED:
            self.stop(number)
        else:
            self.code = number if kind == EXITED else 128 + number

    # -- signals and jobs

    def forward(self, number: int, frame: object) -> None:
        """Pass a signal on; no key of our terminal has sent it to the command, which is in another session."""
        self.order(number)

    def note_continued(self, number: int, frame: object) -> None:
        """SIGCONT: we are back, in the foreground or not."""
        self.was_continued = True

    def wake(self) -> None:
        """See what woke us: the size of the terminal, `fg` or `bg`."""
        woken = os.read(self.woken, 4096)
        if signal.SIGWINCH in woken:
            self.resize()
        if signal.SIGCONT in woken:
            self.go_on()

    def stop(self, number: int) -> None:
        """The command has stopped: so do we, with our process group, as the terminal would have had it."""
        wants_keys = number in (signal.SIGTTIN, signal.SIGTTOU)
        if wants_keys and self.terminal is not None and self.saved is None and is_foreground(self.terminal):
            self.wanted = True
            self.go_on()
            return
        self.drain()
        self.let_go()
        self.was_continued = False
        handler = signal.getsignal(number)
        if number != signal.SIGSTOP:
            signal.signal(number, signal.SIG_DFL)
        os.killpg(0, number)
        if number != signal.SIGSTOP:
            signal.signal(number, handler)
        if wants_keys and not self.was_continued:
            self.order(signal.SIGHUP)  # we cannot be stopped, as no shell is there to continue us: it will never get keys
        self.go_on()

    def go_on(self) -> None:
        """Let the command go on, with the keys if they are ours now."""
        if self.terminal is not None and not is_foreground(self.terminal):
            self.saved = None  # the shell has it, and its modes
            self.outputs[0].undoes_crlf = self.makes_crlf
            self.order(BACKGROUND)
            return
        if self.wanted:
            self.take_keys()
        self.resize()
        self.order(FOREGROUND)

    # -- keys

    def take_keys(self) -> None:
        """Every key goes to the command's terminal, which knows what Ctrl-C means there."""
        if self.terminal is None:
            return
        while self.outputs[0].pending:
            self.outputs[0].write()  # its line ends are for the modes that the terminal still has
        if self.saved is None:
            self.saved = termios.tcgetattr(self.terminal)
            if termios.tcgetattr(self.screen) == self.modes:  # they are ours: a shell has others while it is at its prompt
                termios.tcsetattr(self.screen, termios.TCSANOW, self.saved)
                self.modes = termios.tcgetattr(self.screen)
        tty.setraw(self.terminal, termios.TCSADRAIN)
        self.outputs[0].undoes_crlf = False

    def let_go(self) -> None:
        """Give the keys back."""
        if self.terminal is not None and self.saved is not None:
            with contextlib.suppress(termios.error):  # it is gone
                termios.tcsetattr(self.terminal, termios.TCSADRAIN, self.saved)
        self.saved = None
        self.outputs[0].undoes_crlf = self.makes_crlf

    def read_keys(self) -> None:
        """Take what was typed. The end: the terminal is gone."""
        try:
            self.keys = os.read(self.terminal, 4096) if self.terminal is not None else b""
        except OSError:
            self.keys = b""
        if not self.keys:
            self.terminal = self.saved = None
            self.order(signal.SIGHUP)

    def pass_keys(self) -> None:
        """Type them on the command's terminal."""
        with contextlib.suppress(BlockingIOError):
            self.keys = self.keys[os.write(self.screen, self.keys) :]

    # -- passing on

    def readers(self) -> dict[int, Callable[[], object]]:
        """Keys and reports too, as long as the command runs; reports last, since `stop` takes its time."""
        readers = super().readers()
        if self.code is None:
            if self.terminal is not None and self.saved is not None and not self.keys:
                readers[self.terminal] = self.read_keys
            readers[self.orders.fileno()] = self.hear
        return readers

    def writers(self) -> dict[int, Callable[[], object]]:
        """Keys too."""
        return super().writers() | ({self.screen: self.pass_keys} if self.keys and self.code is None else {})

    def turn(self, timeout: float | None) -> bool:
        """As above. Where stdin is no terminal, the keys may be for others (`fzf | avault run …`), until they are wanted.

        That shows when the command changes the modes of its terminal, as what asks for a password does, or a pager.
        """
        watching = self.terminal is not None and not self.wanted and self.code is None
        went = super().turn(0.1 if watching and timeout is None else timeout)
        is_open = self.outputs[0].source is not None
        if watching and is_open and self.terminal is not None and is_foreground(self.terminal):
            changed = termios.tcgetattr(self.screen)[3] ^ self.modes[3]
            if changed & (termios.ICANON | termios.ECHO):
                self.wanted = True
                self.take_keys()
        return went


class Leader:
    """The leader of the command's session, in a process of its own: the command's parent, at the orders of a TerminalJob."""

    def __init__(self, orders: socket.socket, terminal: int, command: list[str], environment: dict[bytes, bytes]) -> None:
        self.orders, self.terminal, self.command, self.environment = orders, terminal, command, environment
        self.pid: int | None = None  # of the command, while it runs

    def lead(self, stderr: int, foreground: bool) -> NoReturn:
        """Start the command; serve until nobody gives orders any more."""
        try:
            os.setsid()
            fcntl.ioctl(self.terminal, termios.TIOCSCTTY, 0)
            woken, wake = os.pipe()
            os.set_blocking(wake, False)
            signal.set_wakeup_fd(wake)
            for number in (*FORWARDED, signal.SIGTSTP, signal.SIGCONT):
                if signal.getsignal(number) != signal.SIG_IGN:
                    is_key = number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)
                    signal.signal(number, wake_up if is_key else signal.SIG_DFL)
            signal.signal(signal.SIGCHLD, wake_up)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])  # or we could not say whose the terminal is
            if self.start(stderr, foreground):
                if stderr != self.terminal:
                    os.close(stderr)
                self.serve(woken)
        finally:
            os._exit(0)

    def start(self, stderr: int, foreground: bool) -> bool:
        """Start the command in a process group of its own; whether it could be."""

        def prepare() -> None:
            allow_cores()
            os.setpgid(0, 0)
            if foreground:
                os.tcsetpgrp(self.terminal, os.getpid())
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTTOU])

        try:
            self.process = subprocess.Popen(  # kept, as its end would take the exit status
                self.command,
                executable=find_program(self.command[0], self.environment),
                env=self.environment,
                stdin=self.terminal if os.isatty(0) else None,
                stdout=self.terminal,
                stderr=stderr,
                close_fds=False,
                preexec_fn=prepare,  # noqa: PLW1509  there are no threads
            )
        except OSError as error:
            self.report(FAILED, error.errno or 0)
            return False
        self.pid = self.process.pid
        self.report(STARTED, 0)
        return True

    def report(self, kind: int, number: int) -> None:
        """Tell what happened."""
        with contextlib.suppress(OSError):  # nobody is there; `serve` will see it
            self.orders.send(REPORT.pack(kind, number))

    def serve(self, woken: int) -> None:
        """Obey, and report, until the other side is gone; what it leaves behind stays in our session, and keeps us."""
        while True:
            orders_end = self.orders.fileno()
            readable, _, _ = select.select([orders_end, woken], [], [])
            if woken in readable:
                os.read(woken, 4096)
                self.look()
            if orders_end in readable:
                orders = self.orders.recv(64)
                for order in orders or [signal.SIGHUP, signal.SIGCONT]:
                    self.obey(order)
                if not orders:
                    return

    def look(self) -> None:
        """Report whether the command has stopped or ended."""
        while self.pid is not None:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if not pid:
                return
            if os.WIFSTOPPED(status):
                self.report(STOPPED, os.WSTOPSIG(status))
                continue
            self.pid, code = None, os.waitstatus_to_exitcode(status)
            os.tcsetpgrp(self.terminal, os.getpgrp())  # the kernel's SIGHUP at our end is for us, not for what stays behind
            self.report(KILLED if code < 0 else EXITED, abs(code))
            os.close(self.terminal)  # the other side may then close it too, and that is the end of us

    def obey(self, order: int) -> None:
        """Pass a signal on to the command and its process group, or let it go on."""
        if self.pid is None:
            return
        if order in (FOREGROUND, BACKGROUND):
            os.tcsetpgrp(self.terminal, self.pid if order == FOREGROUND else os.getpgrp())
            order = signal.SIGCONT
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, order)


# -------------------------------------------------------------- commands ----


class OptionalDuration(click.Option):
    """--wait [D]: a next word that is no duration is not its value, but begins the command."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        super().add_to_parser(parser, ctx)
        entry = parser._long_opt[self.opts[0]]
        process = entry.process

        def process_duration(value: Any, state: Any) -> None:
            if isinstance(value, str) and not re.fullmatch(r"(\d+[smhd]?)?", value):
                state.rargs.insert(0, value)
                value = ""
            process(value, state)

        entry.process = process_duration


@command(
    "run",
    option("--group", "groups", multiple=True),
    option("--only", multiple=True),
    option("--env-file"),
    option("--prefix", is_flag=True),
    lambda: OptionalDuration(["--wait"], is_flag=False, flag_value=""),
    option("--no-mask", is_flag=True),
    option("--allow", multiple=True),
    option("--as-file", "files", multiple=True),
    argument("words", nargs=-1, type=click.UNPROCESSED),
    interspersed=False,
)
def cmd_run(
    terminal: Terminal,
    groups: tuple[str, ...],
    only: tuple[str, ...],
    env_file: str | None,
    prefix: bool,
    wait: str | None,
    no_mask: bool,
    allow: tuple[str, ...],
    files: tuple[str, ...],
    words: tuple[str, ...],
) -> int:
    """usage: avault run [--group G]… [--only KEY,…] [--env-file F] [--prefix] [--wait [D]]
                  [--no-mask] [--allow NAME]… [--as-file KEY]… [--] CMD…

    Runs a command with secrets in its environment, over what is there: all of
    them, or what --group, --only (KEY or GROUP/KEY) and --env-file choose. That
    file has lines NAME=value; avault://GROUP/KEY in a value is replaced.
    --prefix tells groups apart (DATABASE_PASSWORD). PATH, LD_*, BASH_ENV and
    their like are refused without --allow NAME, in the file too.
    --wait waits until the vault is open (at most D: 90, 90s, 5m, 8h); it asks nobody.

    What the command prints is masked, <avault:openai/API_KEY> in place of the
    value, also in base64, hex, URL and JSON form; on a terminal it has one of
    its own. That is best effort: it keeps a value out of a log or a chat, not
    from a command that means to tell it. Values under 8 bytes are not masked.
    --no-mask executes the command in avault's place: nothing is in between.

    --as-file KEY puts the path of a file in memory into KEY_FILE, and KEY not
    into the environment. It can be read as long as the command runs (Linux).

    Exit code: the command's; 128 + n if signal n ended it; 126 it cannot be
    executed, 127 it is not there.

      avault run -- my-agent --port 80
      avault run --only API_KEY --wait 5m -- python3 agent.py
      avault run --env-file .env -- docker compose up
      avault run --as-file tls/CERT -- sh -c 'openssl x509 -in "$CERT_FILE" -subject'
    """
    if not words:
        raise Usage("no command is named", "avault run -- my-agent")
    timeout = avault.parse_duration(wait or None)
    variables = None if env_file is None else read_env_file(env_file)
    if wait is not None:
        avault.wait_open(terminal, timeout)
    names = [name for each in only for name in each.split(",")]
    forbid_cores()
    injection = Injection()
    if groups or names or variables is None:
        injection.take(terminal, list(groups), names, prefix, list(allow))
    if variables is not None:
        injection.set(terminal, variables, list(allow))
    for word in files:
        injection.move_to_file(terminal, word, prefix, list(allow))
    environment = injection.environment()
    patterns = None if no_mask else Patterns.of(injection.secrets)
    if not no_mask:
        warn_of_short(injection.secrets)
    if patterns is None:
        allow_cores()
        become(list(words), environment)
    return (TerminalJob if os.isatty(1) else Job)(list(words), environment, patterns).run()


def warn_of_short(secrets: Secrets) -> None:
    """Name the secrets that no mask can stand for."""
    if short := sorted(place for place, values in secrets.items() if not all(any(forms(value)) for value in values)):
        warn(f"too short to be masked (under {SHORTEST} bytes): {', '.join(short)}")
