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

import contextlib
import errno
import fcntl
import os
import re
import resource
import select
import signal
import socket
import stat
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import avault_forms
import click
from avault_dotenv import EMPTY, read_dotenv, tell_of_lines
from avault_forms import SHORTEST, Secrets

import avault
from avault import (
    AvaultError,
    Denied,
    Terminal,
    Unavailable,
    Usage,
    command,
    option,
    printable,
    regex,
    say,
    warn,
)

# --------------------------------------------------------------- secrets ----
# A secret is named by its place, GROUP/KEY. It has one value, or more where
# two machines set it and nobody has settled that: the first one counts.

REFERENCE = regex(rb"avault://(?:([A-Za-z0-9][A-Za-z0-9._-]{0,63}/[A-Za-z_][A-Za-z0-9_]{0,127}))?")


def reveal(terminal: Terminal, purpose: str, groups: Iterable[str] = (), only: Iterable[str] = ()) -> Secrets:
    """Secrets from the daemon, for the `purpose` that the access log is told; raises what it answers."""
    rows = terminal.ask("reveal", groups=list(groups), only=list(only), **{"for": purpose})["secrets"]
    return {f"{row['group']}/{row['key']}": [row["value"], *row["conflicts"]] for row in rows}


def reveal_for_masks(terminal: Terminal, given: Secrets) -> Secrets:
    """All secrets of the vault, for masks: a command can ask the daemon for those too that were not given to it."""
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
            raise Usage(f"{where}: a reference without group and key", "as in avault://openai/API_KEY")
        places.add(found[1].decode())
    return places


def resolve(data: bytes, secrets: Secrets) -> bytes:
    """`data` with values for its references. A value is not looked into."""
    return REFERENCE.sub(lambda found: secrets[found[1].decode()][0].encode(), data)


def read_env_file(path: str) -> dict[str, str]:
    """The variables of a dotenv file; says what is left of it, and what others read differently. Raises NotFound, Usage."""
    return parse_env_file(avault.read_file(os.path.expanduser(path), avault.MAX_FRAME, only_regular=False), printable(path))


def parse_env_file(data: bytes, name: str) -> dict[str, str]:
    """The variables in the bytes of a dotenv file, whose `name` is for people. Raises Usage."""
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


def read_project_file() -> dict[str, str] | None:
    """The variables of avault.env in the current directory, each with its reference; None if there is no such file.

    It comes with a project, so it may be a stranger's: it chooses among the secrets, and has nothing of its own to give.
    Raises Usage, and Denied where somebody else than the user could write it.
    """
    path = avault.PROJECT_FILE
    if not os.path.lexists(path):  # a link that leads nowhere is no wish for all secrets
        return None
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
            info = os.fstat(file.fileno())  # of what is read: in a directory of others a name is soon that of another file
            if not stat.S_ISREG(info.st_mode) or info.st_uid not in (0, os.getuid()) or info.st_mode & stat.S_IWOTH:
                raise Denied(f"{path} is no file of yours, or others can write it", f"without it: {WITHOUT}")
            data = file.read(avault.MAX_VALUE + 1)
    except OSError as error:
        raise AvaultError(f"cannot read {path}: {error.strerror}", f"without it: {WITHOUT}") from None
    if len(data) > avault.MAX_VALUE:
        raise Usage(f"{path} is too large; the limit is {avault.MAX_VALUE:,} bytes", f"without it: {WITHOUT}")
    variables = parse_env_file(data, path)
    for name, value in variables.items():
        if not (found := REFERENCE.fullmatch(value.encode())) or not found[1]:
            hint = f"as in {name}=avault://GROUP/KEY; a file with values is for: avault run --env-file {path}"
            raise Usage(f"{path}: {name} is no reference to a secret", hint)
    return variables


WITHOUT = "avault run --all"


class Injection:
    """What a command is given: `variables`, `files` (both by variable), and all `secrets` that are in them."""

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self.files: dict[str, str] = {}
        self.secrets: Secrets = {}
        self.places: dict[str, str] = {}  # by variable, for what the vault has named

    def take(
        self, terminal: Terminal, groups: list[str], only: list[str], named: list[str], prefix: bool, allow: list[str]
    ) -> None:
        """Add secrets of the vault, as `avault export` names them; raises what the daemon answers."""
        choice = {"groups": groups, "only": only, "as": named, "prefix": prefix, "allow": allow}
        answer = terminal.ask("export", **choice, **{"for": "run"})
        self.places, self.variables = answer["names"], answer["variables"]
        self.secrets = {place: [self.variables[name]] for name, place in self.places.items()}

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
    hint = "use a variable, or: avault inject -o FILE"
    if not hasattr(os, "memfd_create"):
        raise Unavailable("--as-file needs Linux", hint)
    fd = os.memfd_create("avault", os.MFD_ALLOW_SEALING)  # not close-on-exec: with --no-mask the command inherits it
    avault.write_all(fd, value.encode())
    os.fchmod(fd, 0o400)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
    path = f"/proc/{os.getpid()}/fd/{fd}"
    with contextlib.suppress(OSError):
        if os.path.samestat(os.stat(path), os.fstat(fd)):
            return path
    raise Unavailable("--as-file needs /proc, which is not here", hint)


# ----------------------------------------------------------------- masks ----
# All forms of a value are byte strings (avault_forms.py). What remains is to
# find them in a stream also where a read ends in the middle of one.

QUIET = 0.02  # seconds of silence after which a held beginning is let out
SETTLED = 0.05  # seconds of silence after which a terminal has passed on what was written to it
TILE = 128  # bytes of the pieces in which a long form is looked for
MOST_TILES = 64
STRETCH = 32, 4096  # a string is held while it is at most so many times as long as its form, and so many bytes: colours, blanks
LEAST_WORD = 4  # bytes of a short value that is masked where it stands alone

Span = tuple[int, int, bytes]  # start, end and mask


def tiles(form: bytes) -> list[bytes]:
    """The pieces of a form: a long one is masked also where only a part of it comes, and little of it is ever held."""
    if len(form) <= 2 * TILE:
        return [form]
    size = max(TILE, -(-len(form) // MOST_TILES))
    return [form[start : start + size] for start in range(0, len(form) - size, size)] + [form[-size:]]


class Patterns:
    """Strings to look for, and the mask for each: `masks`; of a stream less its noise, and for `exact` as it is.

    `followers` get no mask of their own directly behind one of the same secret. `words` are short values, masked where they
    stand alone.
    """

    def __init__(
        self,
        masks: dict[bytes, bytes],
        exact: Iterable[bytes] = (),
        followers: Iterable[bytes] = (),
        words: dict[bytes, bytes] | None = None,
    ) -> None:
        self.masks, self.followers, self.words = masks, set(followers), words or {}
        exact = set(exact)
        self.search = avault_forms.Search(masks.keys() - exact, exact)
        alone = b"|".join(re.escape(word) for word in sorted(self.words, key=len, reverse=True))
        self.alone = re.compile(rb"(?<![0-9A-Za-z_])(?:" + alone + rb")(?![0-9A-Za-z_])") if self.words else None

    @classmethod
    def of(cls, secrets: Secrets, with_short: bool = False) -> Patterns | None:
        """All forms of these secrets' values, and short values too if they are wanted; None if there is nothing to look for."""
        masks: dict[bytes, bytes] = {}
        followers: set[bytes] = set()
        for form, meanings in avault_forms.meanings_of(secrets).items():
            first, *others = tiles(form)
            for piece in (first, *others):
                masks.setdefault(piece, mask_of(meanings[0].place))
            followers.update(others)
        exact = {string: mask_of(meanings[0].place) for string, meanings in avault_forms.exact_of(secrets).items()}
        short = [(value.strip().encode(), place) for place in sorted(secrets, reverse=True) for value in secrets[place]]
        words = {value: mask_of(place) for value, place in short if LEAST_WORD <= len(value) < avault_forms.SHORTEST}
        words = words if with_short else {}
        return cls(exact | masks, exact.keys() - masks.keys(), followers, words) if masks or exact or words else None

    def look(self, data: bytes) -> tuple[list[Span], int, int]:
        """What is in `data`: where strings are, the longest first of those that begin together; where the longest end
        begins that may be the beginning of one, and how many bytes of it are there."""
        spans: list[Span] = []
        beginning, size = avault_forms.open_row(data), 0
        for view, strings in self.search.views(data):
            suspects = strings.suspects(view.text)
            for first, end, mask in self.joined(view.text, suspects):
                spans.append((view.place(first), view.end(end - 1), mask))
                if spans[-1][1] > view.open:
                    beginning = min(beginning, view.beginning(first))
            index = strings.beginning(view.text, suspects)
            beginning = min(beginning, view.beginning(index))
            size = max(size, len(view.text) - index)
        beginning = max(beginning, len(data) - STRETCH[0] * self.search.longest - STRETCH[1])
        if self.alone:
            spans += ((found.start(), found.end(), self.words[found[0]]) for found in self.alone.finditer(data))
            beginning = min(beginning, self.word_beginning(data))
        return sorted(spans, key=lambda span: (span[0], -span[1])), beginning, size

    def joined(self, text: bytes, suspects: set[bytes]) -> list[Span]:
        """Where strings are in a text; what follows the same secret's string directly is one with it."""
        found = [(start, -end, string) for string in suspects for start, end in avault_forms.occurrences(string, text)]
        spans: list[Span] = []
        for start, minus_end, string in sorted(found):
            mask = self.masks[string]
            if spans and string in self.followers and spans[-1][2] == mask and spans[-1][0] < start <= spans[-1][1]:
                spans[-1] = spans[-1][0], max(spans[-1][1], -minus_end), mask
            else:
                spans.append((start, -minus_end, mask))
        return spans

    def word_beginning(self, data: bytes) -> int:
        """Where a short value begins that the next byte may make a longer word, or complete."""
        for start in range(max(0, len(data) - avault_forms.SHORTEST + 1), len(data)):
            alone = start == 0 or not re.match(rb"[0-9A-Za-z_]", data[start - 1 :])
            if alone and any(word.startswith(data[start:]) for word in self.words):
                return start
        return len(data)


def mask_of(place: str) -> bytes:
    """What stands for a secret."""
    return f"<avault:{place}>".encode()


class Mask:
    """One stream on its way through: no byte of a string that was found comes out.

    Where the stream stops within a string, its beginning is held until the rest comes. After a silence (`pause`) up to
    seven bytes of it are let out, so that a prompt or an echo appears that happens to end like that; more are held until
    the next byte decides, or the end. What was let out still counts: the rest of that string is masked.
    """

    def __init__(self, patterns: Patterns) -> None:
        self.patterns = patterns
        self.held = b""  # the longest beginning of a string with which the stream ends
        self.size = 0  # bytes of that string which it has
        self.done = 0  # so many bytes of it are out, or masked
        self.last: bytes | None = None  # the mask that reaches exactly to there

    def feed(self, data: bytes) -> bytes:
        """What can be shown after more of the stream."""
        data = self.held + data
        found, beginning, self.size = self.patterns.look(data)
        return self.show(data, found, beginning, beginning)

    def pause(self) -> bytes:
        """What can be shown when nothing came for a while."""
        found, _, _ = self.patterns.look(self.held)
        end = 0 if self.size >= SHORTEST else len(self.held)
        for start, stop, _ in found:  # a string that is the beginning of another one
            end = max(end, stop) if start <= end else end
        return self.show(self.held, found, end, 0)

    def end(self) -> bytes:
        """The rest."""
        found, _, _ = self.patterns.look(self.held)
        return self.show(self.held, found, len(self.held), len(self.held))

    def show(self, data: bytes, found: list[Span], end: int, keep: int) -> bytes:
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

GRACE = 2.0  # seconds that a command has to end when we were killed
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
PIPE_SIZE = 1 << 20  # bytes; Linux gives so much to anybody, and each read then brings more


def passed_signals() -> list[int]:
    """Those that go on to the command.

    Not what cannot be caught, what only a fault of ours sends, and what our own writing does.
    """
    ours = {
        signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL,
        signal.SIGPIPE, signal.SIGXFSZ,
    }  # fmt: skip
    return sorted(signal.valid_signals() - ours)


def typed_signals() -> set[int]:
    """Those that keys send to all of the terminal's foreground."""
    return {signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP}


def terminal_signals() -> set[int]:
    """Those that the kernel sends to all of a process group in the background."""
    return {signal.SIGTTIN, signal.SIGTTOU}


class CannotRun(AvaultError):
    """The command could not be started: 127 where it is not there, else 126, as a shell has it."""

    def __init__(self, command: list[str], number: int) -> None:
        hint = {
            errno.ENOENT: "is it installed, and in PATH?",
            errno.EACCES: f"make it executable: chmod +x {printable(command[0])}",
            errno.ENOEXEC: "a script begins with a line like #!/bin/sh, and that program has to be there",
            errno.E2BIG: "too much for an environment; choose with --only, or give the largest with --as-file KEY",
        }.get(number)
        super().__init__(f"cannot run {printable(command[0])}: {os.strerror(number)}", hint)
        self.exit_code = 127 if number == errno.ENOENT else 126


def become(command: list[str], environment: dict[bytes, bytes]) -> NoReturn:
    """Execute the command in our place; raises CannotRun."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and what is ignored is inherited
        signal.signal(number, signal.SIG_DFL)
    raise CannotRun(command, avault.execute(command, environment))


_cores: tuple[int, int] | None = None  # the limit that we were started with, once it is another


def forbid_cores() -> None:
    """Leave no core file if we crash: we have all the values.

    The limit is 1 byte and not 0: that alone also keeps the kernel from handing a core to a program (core(5): piped).
    """
    global _cores
    _cores = _cores or resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (1 if _cores[1] else 0, _cores[1]))


def allow_cores() -> None:
    """As we were started, for the command: its cores are its own affair."""
    if _cores:
        resource.setrlimit(resource.RLIMIT_CORE, _cores)


def open_screen() -> tuple[int, int]:
    """A terminal of our own: our end, and the command's; raises Unavailable."""
    try:
        return os.openpty()
    except OSError as error:
        raise Unavailable(f"no terminal for the command: {error.strerror}", "without one: avault run … | cat") from None


def copy_size(terminal: int, other: int) -> bool:
    """Give a terminal the size of another one; whether it has changed."""
    try:
        size, there = (fcntl.ioctl(each, termios.TIOCGWINSZ, bytes(8)) for each in (terminal, other))
        fcntl.ioctl(other, termios.TIOCSWINSZ, size)
    except OSError:
        return False
    return size != there


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
        self.code: int | None = None
        self.orders, self.keeper_end = socket.socketpair()
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
            for number in passed_signals():  # from here on they are for us
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
        """Start the keeper, which starts the command; raises CannotRun."""
        self.catch(signal.SIGCHLD, action=reap)
        self.catch(*passed_signals(), action=self.forward)
        self.catch(signal.SIGWINCH, action=wake_up)
        self.start_keeper(Keeper(self.keeper_end, self.command, self.environment), stdout, stderr, True)

    def start_keeper(self, keeper: Keeper, stdout: int, stderr: int, foreground: bool) -> None:
        """Fork the process that starts the command, and hear whether it could; raises CannotRun."""
        if os.fork() == 0:
            self.orders.close()
            os.close(self.woken)
            for output in self.outputs:
                output.close()
            keeper.lead(stdout, stderr, foreground)
        self.keeper_end.close()
        kind, number = self.hear_report()
        if kind == FAILED:
            raise CannotRun(self.command, number)

    def catch(self, *numbers: int, action: Callable[..., None]) -> None:
        """Handle signals, but not those that are ignored because who started us wants it (nohup)."""
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGCHLD:
                signal.signal(number, action)

    # -- signals; a handler acts at once, as we may be in the middle of a long write

    def forward(self, number: int, frame: object) -> None:
        """Pass a signal on, unless the command has it already."""
        if number in terminal_signals() and is_in_background():
            self.stop(number)
        elif not is_typed(number):
            self.order(number)

    def order(self, number: int) -> None:
        """Tell the keeper: a signal for the command, or to let it go on."""
        with contextlib.suppress(OSError):  # it has ended
            self.orders.send(bytes([number]))

    def hear_report(self) -> tuple[int, int]:
        """What the keeper reports next; raises AvaultError when somebody has killed it."""
        try:
            kind, number = self.orders.recv(REPORT_SIZE)
        except (OSError, ValueError):
            raise AvaultError("the process that keeps the command was killed", "the command was ended") from None
        return kind, number

    def hear(self) -> None:
        """Do what a report asks for."""
        kind, number = self.hear_report()
        if kind == STOPPED:
            self.stop(number)
        else:
            self.code = number if kind == EXITED else 128 + number

    def stop(self, number: int) -> None:
        """The command has stopped: so do we, for who started us to see; not where nobody could continue us."""
        if number != signal.SIGSTOP:
            handler = signal.getsignal(number)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            signal.signal(number, handler)

    def wake(self) -> None:
        """See what woke us: the size of the terminal."""
        if signal.SIGWINCH in os.read(self.woken, 4096):
            self.resize()
            self.order(signal.SIGWINCH)  # it may have looked before we had changed the size

    def resize(self) -> bool:
        """Give our terminals the sizes of those that they stand for; whether one has changed."""
        changed = [copy_size(terminal, screen) for screen, terminal in self.screens]
        return any(changed)

    # -- passing on

    def readers(self) -> dict[int, Callable[[], object]]:
        """What to read, and how. What is not yet written holds up only its own source. Reports last, as `stop` takes its time."""
        open_outputs = [output for output in self.outputs if output.source is not None and not output.pending]
        readers: dict[int, Callable[[], object]] = {self.woken: self.wake}
        readers |= {output.source: output.read for output in open_outputs if output.source is not None}
        return readers if self.code is not None else {**readers, self.orders.fileno(): self.hear}

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
        return bool(writable or set(readable) - {self.woken, self.orders.fileno()})

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
        """Give back what we had: the keeper, and of the terminal."""
        self.orders.close()

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


def reap(number: int, frame: object) -> None:
    """Take the exit statuses of children: of the keeper and, as process 1, of all whose parent has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


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

    Python does not tell who sent a signal. In the foreground of a terminal, SIGINT, SIGQUIT and SIGTSTP are keys.
    """
    return number in typed_signals() and is_at_terminal(foreground=True)


def is_in_background() -> bool:
    """Whether we have a terminal that others are in the foreground of."""
    return is_at_terminal(foreground=False)


def is_at_terminal(foreground: bool) -> bool:
    """Whether our session has a terminal, and we are in its foreground, or are not."""
    terminal = open_terminal()
    if terminal is None:
        return False
    try:
        return is_foreground(terminal) == foreground
    finally:
        os.close(terminal)


# ---------------------------------------------------------------- keeper ----
# The command's parent is a process of its own, so that somebody is there when
# we are killed (SIGKILL): the command then ends, and all that it started. It
# also takes the exit statuses of what the command's children leave behind, as
# the first process of a container must.

FOREGROUND, BACKGROUND = 128, 129  # orders: go on, with the keys or without; smaller ones are signals
STARTED, FAILED, STOPPED, EXITED, KILLED = range(5)  # reports, each with a number
REPORT_SIZE = 2  # bytes: which, and its number


def prctl(option: int, value: int) -> None:
    """Ask something of Linux's kernel about this process (prctl(2)); others have nothing like it."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """The processes below one, as /proc knows them; none where there is no /proc."""
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                for child in map(int, file.read().split()):
                    found += [child, *descendants(child)]
    except OSError:  # it has ended
        pass
    return found


class Keeper:
    """The command's parent, at the orders of a Job."""

    def __init__(self, orders: socket.socket, command: list[str], environment: dict[bytes, bytes]) -> None:
        self.orders, self.command, self.environment = orders, command, environment
        self.pid: int | None = None  # of the command, while it runs

    def lead(self, stdout: int, stderr: int, foreground: bool) -> NoReturn:
        """Start the command; serve until nobody gives orders any more, and then see that it ends."""
        try:
            prctl(PR_SET_CHILD_SUBREAPER, 1)
            self.prepare(stdout)
            woken, wake = os.pipe()
            os.set_blocking(wake, False)
            signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
            for number in (*passed_signals(), signal.SIGCHLD):
                if number == signal.SIGCHLD or signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, self.action(number))
            if self.start(stdout, stderr, foreground):
                self.close(stdout, stderr)
                self.serve(woken)
                if self.pid is not None:
                    self.end_all(woken)
        finally:
            os._exit(0)

    def prepare(self, terminal: int) -> None:
        """What is to be done before the command is started."""

    def action(self, number: int) -> Callable[..., None] | signal.Handlers:
        """What a signal does here: nothing, as it was for all of our process group. A command starts without that."""
        return wake_up

    def close(self, stdout: int, stderr: int) -> None:
        """Close what only the command writes to, and what is ours only by inheritance."""
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        for fd in {stdout, stderr, null} - {0, 1, 2}:
            os.close(fd)

    def start(self, stdout: int, stderr: int, foreground: bool) -> bool:
        """Start the command; whether it could be."""
        keeper, (heard, told) = os.getpid(), os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(stdout, 1)
                os.dup2(stderr, 2)
                self.enter(foreground)
                allow_cores()
                for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and what is ignored is inherited
                    signal.signal(number, signal.SIG_DFL)
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() == keeper:
                    os.write(told, bytes([avault.execute(self.command, self.environment)]))
            finally:
                os._exit(127)
        os.close(told)
        with open(heard, "rb") as pipe:
            problem = pipe.read()
        if problem:
            os.waitpid(pid, 0)
            self.report(FAILED, problem[0])
            return False
        self.pid = pid
        self.report(STARTED, 0)
        return True

    def enter(self, foreground: bool) -> None:
        """What the command's process does first."""

    def report(self, kind: int, number: int) -> None:
        """Tell what happened."""
        with contextlib.suppress(OSError):  # nobody is there; `serve` will see it
            self.orders.send(bytes((kind, number)))

    def serve(self, woken: int) -> None:
        """Obey, and report, until the other side is gone."""
        while True:
            orders_end = self.orders.fileno()
            readable, _, _ = select.select([orders_end, woken], [], [])
            if woken in readable:
                os.read(woken, 4096)
                self.look()
            if orders_end in readable:
                orders = self.orders.recv(64)
                for order in orders:
                    self.obey(order)
                if not orders:
                    return

    def look(self) -> None:
        """Report whether the command has stopped or ended; take the exit statuses of others."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
                if not pid:
                    return
                if pid == self.pid and os.WIFSTOPPED(status):
                    self.report(STOPPED, os.WSTOPSIG(status))
                elif pid == self.pid:
                    self.pid, code = None, os.waitstatus_to_exitcode(status)
                    self.leave(code)
        except ChildProcessError:
            return

    def leave(self, code: int) -> None:
        """The command has ended."""
        self.report(KILLED if code < 0 else EXITED, abs(code))

    def obey(self, order: int) -> None:
        """Pass a signal on to the command."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, order)

    def end_all(self, woken: int) -> None:
        """We alone are left: end the command and what it started, with a word first."""
        for number in (self.farewell(), signal.SIGCONT):
            self.tell_all(number)
        end = time.monotonic() + GRACE
        while self.pid is not None and time.monotonic() < end:
            if select.select([woken], [], [], end - time.monotonic())[0]:
                os.read(woken, 4096)
            self.look()
        while self.tell_all(signal.SIGKILL) and time.monotonic() < end + GRACE:  # what one leaves behind is ours then
            time.sleep(0.02)
            self.look()

    def farewell(self) -> int:
        """The signal that tells the command to end."""
        return signal.SIGTERM

    def tell_all(self, number: int) -> bool:
        """A signal for the command and all below us; whether there was one."""
        found = {*descendants(os.getpid()), *([] if self.pid is None else [self.pid])}
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        return bool(found)


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


class TerminalJob(Job):
    """A command on a terminal of its own."""

    def __init__(self, command: list[str], environment: dict[bytes, bytes], patterns: Patterns) -> None:
        super().__init__(command, environment, patterns)
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
        ends_lines = termios.OPOST | termios.ONLCR  # it turns \n into \r\n
        self.outputs[0].undoes_crlf = self.makes_crlf = self.modes[1] & ends_lines == ends_lines
        self.ends.append(end)
        same = os.isatty(2) and os.fstat(1).st_rdev == os.fstat(2).st_rdev
        return end, end if same else self.open_output(2)

    def start(self, stdout: int, stderr: int) -> None:
        """Start the leader, which starts the command; raises CannotRun."""
        self.catch(signal.SIGCHLD, action=reap)
        self.catch(*(number for number in passed_signals() if number not in terminal_signals()), action=self.forward)
        self.catch(signal.SIGWINCH, action=wake_up)
        self.catch(signal.SIGCONT, action=self.note_continued)
        foreground = self.terminal is None or is_foreground(self.terminal)
        self.start_keeper(Leader(self.keeper_end, self.command, self.environment), stdout, stderr, foreground)
        if foreground and self.wanted:
            self.take_keys()

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
        if signal.SIGWINCH in woken and not self.resize():  # else the kernel tells the command
            self.order(signal.SIGWINCH)
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
        """Give the keys back. The leader is given up with the terminal, as what the command leaves behind keeps both."""
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
        """Keys too, as long as the command runs."""
        readers = super().readers()
        if self.code is None and self.terminal is not None and self.saved is not None and not self.keys:
            readers = {self.terminal: self.read_keys, **readers}
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


class Leader(Keeper):
    """The leader of the command's session."""

    def farewell(self) -> int:
        return signal.SIGHUP

    def prepare(self, terminal: int) -> None:
        """Begin a session on the terminal."""
        self.terminal = terminal
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])  # or we could not say whose the terminal is

    def action(self, number: int) -> Callable[..., None] | signal.Handlers:
        """Keys are the command's affair; another signal is for us, as nobody else is in our process group."""
        return wake_up if number in {*typed_signals(), signal.SIGCHLD, signal.SIGWINCH, signal.SIGCONT} else signal.SIG_DFL

    def close(self, stdout: int, stderr: int) -> None:
        """Close what only the command writes to."""
        if stderr != self.terminal:
            os.close(stderr)

    def enter(self, foreground: bool) -> None:
        """Begin a process group of its own on the terminal."""
        if os.isatty(0):
            os.dup2(self.terminal, 0)
        os.setpgid(0, 0)
        if foreground:
            os.tcsetpgrp(self.terminal, os.getpid())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTTOU])

    def leave(self, code: int) -> None:
        """The command has ended: what it leaves behind stays in our session, and keeps us."""
        os.tcsetpgrp(self.terminal, os.getpgrp())  # the kernel's SIGHUP at our end is for us, not for what stays behind
        super().leave(code)
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


def optional_duration(name: str) -> click.Option:
    """--wait [D]: a next word that is no duration is not its value, but begins the command."""

    class OptionalDuration(click.Option):
        """An option that gives back a word that is not for it."""

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

    return OptionalDuration([name], is_flag=False, flag_value="")


@command(
    "run",
    option("--group", "groups", multiple=True),
    option("--only", multiple=True),
    option("--as", "named", multiple=True),
    option("--all", "everything", is_flag=True),
    option("--env-file"),
    option("--prefix", is_flag=True),
    lambda: optional_duration("--wait"),
    option("--no-mask", is_flag=True),
    option("--allow", multiple=True),
    option("--as-file", "files", multiple=True),
    lambda: click.Argument(["words"], nargs=-1, type=click.UNPROCESSED),
    interspersed=False,
)
def cmd_run(
    terminal: Terminal,
    groups: tuple[str, ...],
    only: tuple[str, ...],
    named: tuple[str, ...],
    everything: bool,
    env_file: str | None,
    prefix: bool,
    wait: str | None,
    no_mask: bool,
    allow: tuple[str, ...],
    files: tuple[str, ...],
    words: tuple[str, ...],
) -> int:
    """usage: avault run [--group G]… [--only KEY,…] [--as NAME=GROUP/KEY]… [--env-file F]
                  [--all] [--prefix] [--wait [D]] [--no-mask] [--allow NAME]…
                  [--as-file KEY]… [--] CMD…

    Runs a command with secrets in its environment, over what is there: those
    that --group, --only (KEY or GROUP/KEY), --as and --env-file choose. That file
    has lines NAME=value; avault://GROUP/KEY in a value is replaced. Without any
    of these: what avault.env in this directory names, by lines like
    OPENAI_API_KEY=avault://openai/API_KEY; and without that file, or with --all,
    all secrets, each by its key. --prefix tells groups apart (DATABASE_PASSWORD).
    PATH, LD_*, BASH_ENV and their like are refused without --allow NAME, in
    files too.
    --wait waits until the vault is open (at most D: 90, 90s, 5m, 8h); it asks nobody.

    What the command prints is masked, <avault:openai/API_KEY> in place of the
    value, for all secrets of the vault, also in base64, hex, URL, JSON form and
    more; on a terminal it has one of its own. That is best effort: it keeps a
    value out of a log or a chat, not from a command that means to tell it.
    Values under 8 bytes are not masked. If avault is killed, the command ends.
    --no-mask executes the command in avault's place: nothing is in between.

    --as-file KEY puts the path of a file in memory into KEY_FILE, and KEY not
    into the environment. It can be read as long as the command runs (Linux).

    Exit code: the command's; 128 + n if signal n ended it; 126 it cannot be
    executed, 127 it is not there.

      avault run -- my-agent --port 80
      avault run --as OPENAI_API_KEY=openai/API_KEY --wait 5m -- python3 agent.py
      avault run --env-file .env -- docker compose up
      avault run --as-file tls/CERT -- sh -c 'openssl x509 -in "$CERT_FILE" -subject'
    """
    if not words:
        raise Usage("no command is named", "avault run -- my-agent")
    timeout = avault.parse_duration(wait or None)
    names = [name for each in only for name in each.split(",")]
    if everything and (groups or names or named):
        raise Usage("--all excludes --group, --only and --as", "leave it out")
    variables = None if env_file is None else read_env_file(env_file)
    if not (groups or names or named or everything) and variables is None:
        variables = read_project_file()
        if variables is not None:
            given = (f"{name}={value.removeprefix('avault://')}" for name, value in variables.items())
            say(f"{avault.PROJECT_FILE} gives {', '.join(given) or 'nothing'}")
    if wait is not None:
        avault.wait_open(terminal, timeout)
    forbid_cores()
    injection = Injection()
    if groups or names or named or everything or variables is None:
        injection.take(terminal, list(groups), names, list(named), prefix, list(allow))
    if variables is not None:
        injection.set(terminal, variables, list(allow))
    for word in files:
        injection.move_to_file(terminal, word, prefix, list(allow))
    environment = injection.environment()
    patterns = None if no_mask else Patterns.of(reveal_for_masks(terminal, injection.secrets))
    if not no_mask:
        warn_of_short(terminal, injection.secrets)
    if patterns is None:
        allow_cores()
        become(list(words), environment)
    return (TerminalJob if os.isatty(1) else Job)(list(words), environment, patterns).run()


def warn_of_short(terminal: Terminal, secrets: Secrets) -> None:
    """Name the secrets that no mask can stand for, once each."""
    short = sorted(place for place, values in secrets.items() if any(map(avault_forms.is_short, values)))
    if untold := avault_forms.untold(terminal.places, "run", short):
        warn(f"too short to be masked (under {SHORTEST} bytes): {', '.join(untold)}")
