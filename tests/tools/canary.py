"""Canaries: made-up secrets with a mark that is new in every run, and the search for that mark in all the run leaves.

    def test_something(canary, allow, tmp_path):
        value = canary.value                       # or .odd, .long, or canary.new("label")
        canary.watch(nsec)                         # a secret that has no mark: looked for in this test's files
        allow(tmp_path / "input.env")              # a file that is to hold a value, because the test put it there
        record("stderr of set", process.stderr)    # all output goes in here, except that which is to carry a value

conftest.py does the rest: when all tests are over, it searches every file below the run's directories (git objects and
packs unpacked), our files in /tmp, /var/tmp and /dev/shm, and the output that pytest captured. A hit outside the
allowed files fails the run.
"""

import base64
import contextlib
import functools
import gzip
import json
import os
import secrets
import stat
import string
import urllib.parse
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

MARK_LENGTH = 14
BOOK = ".canary"  # in the run's directory: what the workers tell the search; not searched itself


def new_mark() -> str:
    """Letters and digits, so that quoting, URLs and JSON leave it as it is."""
    letters = string.ascii_lowercase + string.digits
    return "cnry" + "".join(secrets.choice(letters) for _ in range(MARK_LENGTH - 4))


def forms(secret: str) -> dict[bytes, str]:
    """The ways in which a text may lie in a file, each with its name."""
    raw = secret.encode()
    found = {raw: "raw"}
    for ascii_only in (True, False):
        found.setdefault(json.dumps(secret, ensure_ascii=ascii_only)[1:-1].encode(), "JSON")
    for quoted in (urllib.parse.quote(secret, safe=""), urllib.parse.quote(secret), urllib.parse.quote_plus(secret)):
        found.setdefault(quoted.encode(), "URL")
    for text in (raw.hex(), raw.hex().upper()):
        found.setdefault(text.encode(), "hex")
    for before in range(3):  # what stands before the secret decides how its bits fall into letters
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(bytes(before) + raw)
            first, last = -(-before * 8 // 6), (before + len(raw)) * 8 // 6  # letters that only the secret decides
            found.setdefault(text[first:last], f"base64 at {before}")
    for before in range(5):  # the same, with five bits to a letter
        text = base64.b32encode(bytes(before) + raw)
        first, last = -(-before * 8 // 5), (before + len(raw)) * 8 // 5
        found.setdefault(text[first:last], f"base32 at {before}")
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        found.setdefault(secret.encode(encoding), encoding[:-3].upper())
    return found


class Canary:
    """What a test gets: values that carry the mark, and a way to name secrets that do not."""

    def __init__(self, mark: str, book: "Book", directories: Iterable[Path]):
        self.mark, self._book, self._directories = mark, book, [str(x) for x in directories]
        self.value = self.new("value")
        self.odd = f"{mark} 'single' \"double\" \\ $HOME `id` %41 é 🦄\n\tsecond line = & # {mark}"
        self.long = self.new("x" * 70_000)  # more than one NIP-44 payload

    def __eq__(self, other: object) -> bool:
        """Of one mark, all values are the same."""
        return isinstance(other, Canary) and other.mark == self.mark

    def __hash__(self) -> int:
        return hash(self.mark)

    def new(self, label: str) -> str:
        return f"{self.mark}-{label}"

    def watch(self, secret: str) -> str:
        assert len(secret) >= 12, "too short to search for"
        self._book.write(watch=secret, directories=self._directories)
        return secret


class Book:
    """Lines that tests write and the search at the end reads; one file for each process, so that none waits."""

    def __init__(self, run: Path):
        self.directory = run / BOOK
        self.directory.mkdir(mode=0o700, exist_ok=True)

    def write(self, **entry: object) -> None:
        with (self.directory / str(os.getpid())).open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def read(self) -> list[dict]:
        return [json.loads(line) for file in self.directory.iterdir() for line in file.read_text().splitlines()]


transcript: Path | None = None  # of the test that runs; conftest.py sets it


def record(name: str, data: bytes | str) -> None:
    """Keeps what a command printed, for the search. Not for output that is to carry a value."""
    assert transcript is not None, "no test is running"
    with transcript.open("ab") as file:
        file.write(
            b"--- " + name.encode("utf-8", "surrogateescape") + b"\n" + (data.encode() if isinstance(data, str) else data) + b"\n"
        )


# The search


def search(mark: str, book: list[dict]) -> list[str]:
    """One line for each leak below the roots that the book names."""
    roots = {x["root"] for x in book if "root" in x}
    allowed = {x["allow"] for x in book if "allow" in x}
    tests = {x["directory"]: x["test"] for x in book if "test" in x}
    watched = [(x["directories"], forms(x["watch"])) for x in book if "watch" in x]
    marks, leaks = forms(mark), []
    for path in (*files(roots), *shared()):
        above = {str(path), *around(path.parent)}
        if above & allowed:
            continue
        patterns = marks
        for directories, more in watched:
            if above.intersection(directories):
                patterns = patterns | more
        whose = "".join(f" ({tests[x]})" for x in above & tests.keys())
        try:
            leaks += [f"{path}: {what}{whose}" for what in find(path, patterns)]
        except FileNotFoundError:
            continue  # gone meanwhile
    return leaks


@functools.lru_cache
def around(directory: Path) -> set[str]:
    """A directory, and those that it is in."""
    return {str(directory), *map(str, directory.parents)}


def files(roots: Iterable[str]) -> Iterator[Path]:
    """Regular files, also those whose mode a test has taken away; links are not followed."""
    for root in roots:
        for directory, inner, names in os.walk(root):
            inner[:] = [name for name in inner if name != BOOK]
            for path in (Path(directory, name) for name in inner):
                if not path.is_symlink() and not os.access(path, os.R_OK | os.X_OK):
                    with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                        path.chmod(0o700)
            for path in (Path(directory, name) for name in names):
                if not path.is_symlink() and path.is_file():
                    if not os.access(path, os.R_OK):
                        with contextlib.suppress(FileNotFoundError):
                            path.chmod(0o600)
                    yield path


def shared() -> Iterator[Path]:
    """What lies where everybody may put something, and shared memory's files: ours, not those in directories there."""
    for place in ("/dev/shm", "/tmp", "/var/tmp"):
        for path in Path(place).glob("*") if os.path.isdir(place) else ():
            with contextlib.suppress(OSError):  # gone meanwhile
                if stat.S_ISREG(path.lstat().st_mode) and path.lstat().st_uid == os.getuid():
                    yield path


def find(path: Path, patterns: dict[bytes, str]) -> list[str]:
    """What of the patterns is in a file or in its name: each form once."""
    found = set(hits(os.fsencode(path.name), patterns, "in the name, "))
    data = path.read_bytes()
    found.update(hits(data, patterns))
    for kind, inner in unpacked(data):
        found.update(hits(inner, patterns, f"{kind}, "))
    return sorted(found)


def hits(data: bytes, patterns: dict[bytes, str], prefix: str = "") -> Iterator[str]:
    unwrapped = data.translate(None, b"\r\n") if b"\n" in data else data  # base64 comes in lines
    return (prefix + name for pattern, name in patterns.items() if pattern in data or pattern in unwrapped)


def unpacked(data: bytes) -> Iterator[tuple[str, bytes]]:
    """What is compressed: git's loose objects and packs, zlib, gzip."""
    try:
        if data[:4] == b"PACK":
            for inner in pack_objects(data):
                yield "in a git pack", inner
        elif data[:2] == b"\x1f\x8b":
            yield "in gzip", gzip.decompress(data)
        elif data[:1] == b"\x78":
            yield "in a git object", zlib.decompress(data)
    except (zlib.error, OSError, EOFError, IndexError):
        return  # not what its first bytes promised


def pack_objects(data: bytes) -> Iterator[bytes]:
    """Every object or delta of a pack; a delta holds whatever is new in it, as it is."""
    position = 12
    for _ in range(int.from_bytes(data[8:12], "big")):
        kind = data[position] >> 4 & 7
        while data[position] & 0x80:
            position += 1
        position += 1
        if kind == 6:  # a delta against an earlier offset, written like the size
            while data[position] & 0x80:
                position += 1
            position += 1
        elif kind == 7:  # a delta against an object by name
            position += 20
        unzip = zlib.decompressobj()
        yield unzip.decompress(data[position:])
        position = len(data) - len(unzip.unused_data)
