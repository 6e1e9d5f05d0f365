"""The access log: who got what, and when.

A line of JSON before each release, and one for what was refused, in a file of its own. A line's
mac shows that the keyholder wrote it; `n` and `after`, the mac before, that none is missing.
"""

from __future__ import annotations

import errno
import hmac
import json
import os
import socket
import sys
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, printable
from avault.plain import write_all
from avault.process import uptime
from avault.vault.files import read_file, write_file
from avault.vault.formats import render_time
from avault.vault.own_files import decode_file, encode_file

if TYPE_CHECKING:
    from typing import Any

    from avault.nostr import Keys


def describe_caller(sock: socket.socket) -> dict[str, Any]:
    """The process at the other end of a connection: pid, uid, executable, name and parent, as far as the system tells."""
    if sys.platform == "linux":
        pid = int.from_bytes(sock.getsockopt(1, 17, 12)[:4], sys.byteorder)  # SO_PEERCRED
    else:
        pid = int.from_bytes(sock.getsockopt(0, 2, 4), sys.byteorder)  # LOCAL_PEERPID
    caller: dict[str, Any] = {
        "pid": pid,
        "uid": os.getuid(),
        "exe": read_executable(pid),
        "name": None,
        "parent": None,
    }
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            start, _, rest = file.read().rpartition(b")")  # proc_pid_stat(5)
        caller["name"] = printable(start.partition(b"(")[2].decode(errors="replace"), 40)
        parent = int(rest.split()[1])
        caller["parent"] = {"pid": parent, "exe": read_executable(parent)}
    except OSError:
        pass  # it has ended, or there is no /proc
    return caller


def read_executable(pid: int) -> str | None:
    """The path of a process's executable, where the system tells; of a long one its end, where the name is."""
    try:
        path = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None
    return path if len(path) <= 500 else "…" + path[-499:]


def summarize(request: dict[str, Any], most: int, width: int) -> dict[str, Any]:
    """What a line says of a request: at most so many names, none wider, and how many there were besides."""
    # each op with the fields that it looks at
    many = request["op"] in ("export", "reveal", "provide", "import", "move")
    groups, keys = (
        (request.get(field) for field in ("groups", "only"))
        if many
        else ([request.get("group")], [request.get("key")])
    )
    lists = (groups, keys, request.get("as") if many else [])
    groups, keys, named = (
        [each for each in names if each] if isinstance(names, list) else [] for names in lists
    )
    keys += named
    if {*map(type, groups + keys)} <= {str}:
        groups, keys = list(dict.fromkeys(groups)), list(dict.fromkeys(keys))
    return {
        "op": request["op"],
        "for": printable(request["for"], 64) if request.get("for") else None,
        "group": ",".join(printable(group, width) for group in groups[:most]) or None,
        "keys": [printable(key, width) for key in keys[:most]] or None,
        "more": len(groups[most:]) + len(keys[most:]),
    }


class Ledger:
    """A file of signed lines, and the older ones beside it, PATH.1 to PATH.<older>, each of some `limit` bytes.

    `starts` are the numbers of the first lines of its files, the oldest first; `number` and `mac` are of
    the last line; `size` is that of our lines in the newest file, whatever else others have put there;
    `lost` is the number of the first line after the bounds of the ledger were taken away, or 0.
    """

    LONGEST = 1 << 16  # bytes of a line

    def __init__(
        self, path: str, key: bytes, limit: int, older: int, bounds: dict[str, Any] | None
    ) -> None:
        self.path, self.key, self.limit, self.older = path, key, limit, older
        self.paths = [*(f"{path}.{age}" for age in range(older, 0, -1)), path]
        self.end = b""  # what the last line lacks
        self.number, self.mac = self.find_end()
        self.lost = self.size = 0
        if bounds is None:
            self.lost, self.starts = self.number + 1, [self.number + 1]
        else:
            self.starts, self.size, self.lost = (
                list(bounds["starts"]),
                bounds["size"],
                bounds["lost"],
            )
            # the last lines were taken away: those to come show it
            if bounds["number"] > self.number:
                self.number, self.mac = bounds["number"], bounds["mac"]
        self.file = self.open()

    def bounds(self) -> dict[str, Any]:
        """What is to be remembered of the ledger, so that a part of it cannot pass for the whole."""
        return {
            "starts": list(self.starts),
            "size": self.size,
            "number": self.number,
            "mac": self.mac,
            "lost": self.lost,
        }

    def open(self) -> int:
        """A descriptor to append with, kept open: a process that has no other left can still say what it releases."""
        flags = (
            os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        )
        try:
            fd = os.open(self.path, flags, 0o600)
            write_all(fd, self.end)
            self.end = b""
            return fd
        except OSError as error:
            raise self.refusal(error) from None

    def refusal(self, error: OSError) -> AvaultError:
        """Why nothing is released."""
        return AvaultError(
            f"the access log cannot be written: {error.strerror}",
            f"nothing is released without it; look at {self.path}",
        )

    def find_end(self) -> tuple[int, str]:
        """The number and mac of the last line that is whole, and ours."""
        for path in (self.path, f"{self.path}.1"):
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    file.seek(max(0, os.path.getsize(path) - 2 * self.LONGEST))
                    ends = file.read(2 * self.LONGEST).splitlines(keepends=True)
                if path == self.path and ends and not ends[-1].endswith(b"\n"):
                    self.end = b"\n"  # a power loss has cut it off: the next is to stand by itself
                for line in reversed(ends):
                    if entry := self.read_line(line):
                        return entry["n"], entry["mac"]
        return 0, ""

    def sign(self, entry: dict[str, Any]) -> tuple[str, bytes]:
        """The mac of an entry, and its line, where that stands last."""
        body = json.dumps(entry).encode()
        mac = hmac.digest(self.key, body, "sha256").hex()
        return mac, body[:-1] + f', "mac": "{mac}"}}\n'.encode()

    def read_line(self, line: bytes) -> dict[str, Any] | None:
        """The entry of a line that was written with our key; None for any other."""
        try:
            entry = json.loads(line)
            del entry["mac"]
            mac, signed = self.sign(entry)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        return {**entry, "mac": mac} if hmac.compare_digest(line, signed) else None

    def append(self, entry: dict[str, Any]) -> None:
        """Write the next line; raises AvaultError, and then it is as if nothing had been written."""
        number = self.number + 1
        mac, line = self.sign({"n": number, **entry, "after": self.mac})
        try:
            if not os.path.exists(self.path) or not os.path.samestat(
                os.stat(self.path), os.fstat(self.file)
            ):
                fresh = self.open()  # somebody took the file away
                os.close(self.file)
                self.file = fresh
            size = os.fstat(self.file).st_size
            if os.write(self.file, line) != len(line):
                os.ftruncate(self.file, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self.refusal(error) from None
        self.number, self.mac, self.size = number, mac, self.size + len(line)

    def is_full(self) -> bool:
        """Whether it is time for a new file: by our own lines, or who adds others would have ours go."""
        return self.size > self.limit

    def turn_page(self) -> None:
        """The next line begins a new file, and the oldest file is to go."""
        self.starts, self.size = [*self.starts, self.number + 1][-len(self.paths) :], 0

    def rename(self) -> None:
        """Move every file to the next older place; raises AvaultError."""
        try:
            for newer, older in zip(self.paths[1:-1], self.paths[:-2], strict=True):
                if os.path.lexists(newer):
                    os.rename(newer, older)
            os.rename(self.path, self.paths[-2])
        except OSError as error:
            raise self.refusal(error) from None

    def verify(self) -> tuple[int, int, str | None]:
        """The number of lines and of files, and what is wrong: a line that is not ours, or one that is missing."""
        count = files = last = 0
        after = ""
        for path in self.paths:
            if not os.path.lexists(path):
                continue
            files += 1
            for line in read_file(path, 4 * self.limit).splitlines(keepends=True):
                count += 1
                if not (entry := self.read_line(line)):
                    return (
                        count,
                        files,
                        f"line {count} was not written by the keyholder, or was changed",
                    )
                if count == 1 and entry["n"] > self.starts[0]:
                    return (
                        count,
                        files,
                        f"lines {self.starts[0]:,} to {entry['n'] - 1:,} are missing",
                    )
                if count > 1 and (entry["n"], entry["after"]) != (last + 1, after):
                    return (
                        count,
                        files,
                        f"lines are missing, or in another order, before line {count}",
                    )
                last, after = entry["n"], entry["mac"]
        if after != self.mac:
            return count, files, "the last lines are missing"
        if self.lost >= self.starts[0]:
            return (
                count,
                files,
                f"what was before line {self.lost:,} was taken away while the vault was locked",
            )
        return count, files, None


class AccessLog:
    """The two ledgers of a vault: access.log for what was released, refused.log for what was not.

    Who asks for nonsense all day fills only the second, and that slowly: beyond a burst one line a minute,
    which counts the others. log.json keeps the bounds of both, signed.
    """

    BURST = 30.0  # refusals that are written as they come, when there were none before
    FILES = (("access.log", 4 << 20, 4), ("refused.log", 1 << 20, 1))  # name, bytes, older ones

    def __init__(self, directory: str, keys: Keys, is_new: bool) -> None:
        secret = bytes.fromhex(keys.secret_key().to_hex())

        def key(use: bytes) -> bytes:
            return hmac.digest(secret, use, "sha256")

        self.path, self.key = os.path.join(directory, "log.json"), key(b"avault access log: bounds")
        kept = self.read_bounds(is_new)
        self.releases, self.refusals = (
            Ledger(
                os.path.join(directory, name),
                key(f"avault access log: {name}".encode()),
                limit,
                older,
                kept.get(name),
            )
            for name, limit, older in self.FILES
        )
        self.room, self.counted = self.BURST, uptime()
        # the last refusal, until it is written
        self.untold: tuple[dict[str, Any], dict[str, Any], str] | None = None
        self.skipped = 0  # how many are not written
        self.saved: dict[str, Any] = {}

    def read_bounds(self, is_new: bool) -> dict[str, Any]:
        """The bounds of both ledgers; none where log.json is gone or not ours, which only that of a new vault may be."""
        try:
            content = decode_file("log", read_file(self.path), self.path)
            if hmac.compare_digest(content.pop("mac"), self.sign_bounds(content)):
                return dict(content["ledgers"])
        except (AvaultError, TypeError):
            pass
        empty = {"starts": [1], "size": 0, "number": 0, "mac": "", "lost": 0}
        return {name: empty for name, _, _ in self.FILES} if is_new else {}

    def sign_bounds(self, content: dict[str, Any]) -> str:
        """The mac of log.json."""
        return hmac.digest(self.key, json.dumps(content).encode(), "sha256").hex()

    def bounds(self) -> dict[str, Any]:
        """The content of log.json, but for its mac."""
        return {
            "ledgers": {
                os.path.basename(each.path): each.bounds()
                for each in (self.releases, self.refusals)
            }
        }

    def is_saved(self) -> bool:
        """Whether log.json knows the last lines."""
        return self.saved == self.bounds()

    def save(self) -> None:
        """Write log.json; raises AvaultError."""
        content = self.bounds()
        write_file(self.path, encode_file("log", {**content, "mac": self.sign_bounds(content)}))
        self.saved = content

    def write(self, request: dict[str, Any], caller: dict[str, Any], outcome: str = "ok") -> None:
        """Note what is about to be released, or was refused; raises AvaultError, and then nothing may be released."""
        if outcome == "ok":
            self.append(self.releases, summarize(request, 100, 200), caller, outcome)
            return
        self.untold = request, caller, outcome
        self.skipped += 1
        self.settle()

    def settle(self, at_once: bool = False) -> None:
        """Write the last refusal, with how many before it were only counted, if there is room; raises AvaultError."""
        self.room, self.counted = (
            min(self.BURST, self.room + (uptime() - self.counted) / 60),
            uptime(),
        )
        if self.untold and (self.room >= 1 or at_once):
            request, caller, outcome = self.untold
            about = {
                **summarize(request, 3, 70),
                "follows": self.releases.number,
                "skipped": self.skipped - 1,
            }
            self.append(self.refusals, about, caller, outcome)
            self.room, self.untold, self.skipped = self.room - 1, None, 0

    def append(
        self, ledger: Ledger, about: dict[str, Any], caller: dict[str, Any], outcome: str
    ) -> None:
        """A line in one of the ledgers, and a new file if that one is full."""
        ledger.append({"time": render_time(time.time()), **about, **caller, "outcome": outcome})
        if ledger.is_full():
            before = ledger.starts, ledger.size
            ledger.turn_page()
            # before the oldest lines go: else their absence would look like somebody's work
            self.save()
            try:
                ledger.rename()
            except AvaultError:
                # nothing has gone, and what is missing later is missed
                ledger.starts, ledger.size = before
                raise

    def verify(self) -> dict[str, Any]:
        """Whether every line is as it was written, and none is missing from where each ledger begins."""
        lines, files, problem = self.releases.verify()
        refused, more, other = self.refusals.verify()
        problem = problem or (f"refused.log: {other}" if other else None)
        begins = self.releases.starts[0]
        found = {
            "lines": lines,
            "begins": begins,
            "refused": refused + self.skipped,
            "files": files + more,
        }
        return {**found, "intact": not problem, "problem": problem}
