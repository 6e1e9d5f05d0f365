"""avault log: who got what, and when; and what was refused.

The access log is read from the state directory, so that it can be read while the vault is locked.
Whether it is whole only the keyholder can tell, which has the key: `--verify` asks it. Until then
nothing in these files is trusted.
"""

from __future__ import annotations

import json
import os
import stat
import time
from typing import TYPE_CHECKING

from avault.daemon.log import AccessLog
from avault.errors import AvaultError, Tampered, Usage, printable
from avault.hints import call
from avault.terminal.commands import command, option
from avault.terminal.talk import put, say
from avault.terminal.terminal import Terminal
from avault.vault.presence import need_vault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, Any


POLL = 0.25  # seconds between two looks at the log
LINE_WIDTH = 100_000  # characters of a line that are shown


class Reader:
    """Reads a file after its older ones (access.log.4 to .1), and goes on where it stopped.

    It does so also if they were renamed.
    """

    def __init__(self, path: str, older: int) -> None:
        self.paths = [path, *(f"{path}.{age}" for age in range(1, older + 1))]  # the newest first
        self.place = 0  # among the releases, of the line that was read last
        # open for as long as it is the newest, so that its inode stays its own
        self.file: IO[bytes] | None = None
        self.half = b""  # a line without its end

    def lines(self) -> Iterator[bytes]:
        """The lines that are new since the last call; raises AvaultError."""
        try:
            if self.file:
                yield from self.rest(self.file)
                try:
                    if identity(self.file) == os.lstat(self.paths[0]).st_ino:
                        return
                except FileNotFoundError:
                    return  # renamed; the next line makes another
            for file in self.newer():
                if self.file:
                    # what was written between the last look and the renaming
                    yield from self.rest(self.file)
                    yield from self.end()
                    self.file.close()
                self.file = file
                yield from self.rest(file)
        except OSError as error:
            raise AvaultError(
                f"cannot read {error.filename or self.paths[0]}: {error.strerror}",
                "whose file is it?",
            ) from None

    def rest(self, file: IO[bytes]) -> Iterator[bytes]:
        """The whole lines from where the last call stopped."""
        *lines, self.half = (self.half + file.read()).split(b"\n")
        yield from lines

    def end(self) -> Iterator[bytes]:
        """What is left: a line without its end, if there is one."""
        if self.half:
            yield self.half
        self.half = b""

    def newer(self) -> list[IO[bytes]]:
        """The files after the one that was read last, opened, the oldest first.

        They are opened from the newest to the oldest, as that is how they are renamed: one may be
        met twice, none missed.
        """
        last = identity(self.file) if self.file else None
        found: dict[int, IO[bytes]] = {}
        for path in self.paths:
            try:
                file = open(  # noqa: SIM115
                    os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb"
                )
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Tampered(f"{path} is not a regular file", "move it away")
            if identity(file) == last:
                break
            found.setdefault(identity(file), file)
        return list(reversed(found.values()))


def in_order(readers: list[Reader], are_ended: bool) -> list[bytes]:
    """The lines that are new in both files: a refusal after the release that it follows."""
    found = []
    for reader in readers:
        for line in [*reader.lines(), *(reader.end() if are_ended else ())]:
            reader.place = max(reader.place, place_of(line))
            found.append((reader.place, line))
    # releases first, where the places are the same
    return [line for _, line in sorted(found, key=lambda each: each[0])]


def place_of(line: bytes) -> int:
    """The number of a release, or of the release that a refusal follows.

    0 for what is no line of the log.
    """
    try:
        entry = json.loads(line)
        place = entry.get("follows", entry["n"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return 0
    return place if isinstance(place, int) else 0


def identity(file: IO[bytes]) -> int:
    """What stays the same when a file is renamed."""
    return os.fstat(file.fileno()).st_ino


def render_line(line: bytes) -> str:
    """A line of the log for a person.

    What is not one is shown as it is; nothing in it can drive a terminal.
    """
    text = line.decode(errors="backslashreplace")
    try:
        entry = json.loads(text)
        about = f"{entry['op']} for {entry['for']}" if entry["for"] else entry["op"]
        if entry["op"] == "proxy":
            about = f"proxy {entry.get('method', '?')} {entry.get('host')}{entry.get('path', '')}"
            about += f" ({entry['place']})" if entry.get("place") else ""
        what = [entry["signed"]] if entry.get("signed") else [about, names(entry)]
        words = [entry["time"], *what, entry.get("client"), callers(entry)]
        why = f", as {entry['why']}" if entry.get("why") else ""
        besides = f", and {entry['skipped']:,} more before it" if entry.get("skipped") else ""
        text = " ".join(word for word in words if word) + f": {entry['outcome']}{why}{besides}"
    except (ValueError, TypeError, KeyError, RecursionError):
        text = f"not a line of the log: {text}"
    return printable(text, LINE_WIDTH)


def names(entry: dict[str, Any]) -> str:
    """The secrets that a line is about, as GROUP/KEY; "everything" where none is named."""
    group, keys = entry["group"], entry["keys"]
    besides = f" and {entry['more']:,} more" if entry["more"] else ""
    if keys:
        return (
            ", ".join(key if "/" in key or not group else f"{group}/{key}" for key in keys)
            + besides
        )
    return str(group or ("everything" if entry["op"] in ("export", "reveal") else "")) + besides


def callers(entry: dict[str, Any]) -> str:
    """Who asked: the program and what started it.

    Or that alone, where the program is avault itself; or through which grant.
    """
    if entry.get("grant"):
        return f"by {program(entry)} through the grant {entry['grant']}"
    if entry["op"] == "sign":  # for whom the SSH agent asks, it has said
        return f"by {program(entry)}"
    if entry["parent"] and str(entry["name"]).startswith("avault"):
        return f"by {program(entry['parent'])}"
    return f"by {program(entry)}" + (f" in {program(entry['parent'])}" if entry["parent"] else "")


def program(process: dict[str, Any]) -> str:
    """A process, by the name of its executable, or its own where that is not told, and its pid."""
    shown = os.path.basename(process["exe"] or "") or process.get("name") or "?"
    return f"{shown} ({process['pid']})"


@command(
    "log",
    option("--follow", "-f", is_flag=True),
    option("--verify", is_flag=True),
    option("--hosts", is_flag=True),
)
def cmd_log(terminal: Terminal, follow: bool, verify: bool, hosts: bool) -> int:
    """usage: avault log [-f] [--verify] [--hosts] [--json]

    Prints the access log, the newest line last: when, what for, which secrets,
    the program and what started it (that alone, where the program is avault),
    and the outcome. It is written before a secret is released. It can be read
    while the vault is locked. What was refused is kept apart (refused.log), and
    of very many only their number.
    -f goes on with what is added, until Ctrl-C.
    --verify has the keyholder check every line: that it wrote it, and that none
    is missing, from where the log begins: the oldest lines go when there are
    more than 20 MB. Exit code 8: it did not, or one is. The vault has to be open.
    --hosts sums up what went through the proxy: to which hosts, how often, and with
    which secrets; and how often it was refused.
    --json prints the lines as they stand in the files.

      avault log -f
      avault log --json | jq -r 'select(.group == "openai") | .exe' | sort | uniq -c
    """
    if follow + verify + hosts > 1:
        raise Usage("--verify, --hosts and -f exclude each other")
    if verify:
        return verify_log(terminal)
    readers = [Reader(terminal.places.own(name), older) for name, _, older in AccessLog.FILES]
    show = (
        (lambda line: printable(line.decode(errors="backslashreplace"), LINE_WIDTH))
        if terminal.want_json
        else render_line
    )
    lines = in_order(readers, are_ended=not follow)
    if hosts:
        return show_hosts(terminal, lines)
    if not lines and not readers[0].file:
        need_vault(terminal.places)
        say("nothing has been released yet")
    call.farewell = ""
    while True:
        put("".join(show(line) + "\n" for line in lines))
        if not follow:
            return 0
        time.sleep(POLL)
        lines = in_order(readers, are_ended=False)


def sum_hosts(lines: list[bytes]) -> list[dict[str, Any]]:
    """What the lines of the log say of the proxy, by host; the most used first."""
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        try:
            entry = json.loads(line)
            if entry["op"] != "proxy" or not isinstance(entry.get("host"), str):
                continue
            empty: dict[str, Any] = {"requests": 0, "refused": 0, "secrets": [], "last": ""}
            one = found.setdefault(entry["host"], {"host": entry["host"], **empty})
            one["requests" if entry["outcome"] == "ok" else "refused"] += 1
            one["secrets"] = sorted({*one["secrets"], *filter(None, names(entry).split(", "))})
            one["last"] = max(one["last"], str(entry["time"]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
    return sorted(found.values(), key=lambda one: (-one["requests"], one["host"]))


def show_hosts(terminal: Terminal, lines: list[bytes]) -> int:
    """Print what went through the proxy, by host."""
    found = sum_hosts(lines)
    if terminal.want_json:
        put(json.dumps({"hosts": found}, indent=2) + "\n")
        return 0
    if not found:
        say("nothing has gone through the proxy yet")
    for one in found:
        secrets = ", ".join(one["secrets"]) or "no secret"
        words = f"{one['requests']:,} requests, {one['refused']:,} refused, last {one['last']}"
        put(printable(f"{one['host']}: {words}, with {secrets}", LINE_WIDTH) + "\n")
    return 0


def verify_log(terminal: Terminal) -> int:
    """Say whether the log is whole; raises Tampered, with what is wrong."""
    answer = terminal.ask("verify_log")
    if not answer["intact"]:
        raise Tampered(
            f"the access log was changed: {printable(answer['problem'])}",
            f"keep a copy: {terminal.places.state}/*.log*",
        )
    if terminal.want_json:
        names = ("intact", "lines", "begins", "refused", "files")
        put(json.dumps({name: answer[name] for name in names}, indent=2) + "\n")
    else:
        begins = (
            f"; it begins at {answer['begins']:,}, what was before has rotated away"
            if answer["begins"] > 1
            else ""
        )
        put(f"the access log is whole: {answer['lines']:,} lines{begins}\n")
    return 0
