"""A file of signed lines, of which none can be changed or taken away unnoticed.

A line's mac shows that we wrote it; `n` and `after`, the mac before, that none is missing.
"""

from __future__ import annotations

import errno
import hmac
import json
import os
from typing import TYPE_CHECKING

from avault.errors import AvaultError
from avault.plain import write_all
from avault.vault.files import read_file

if TYPE_CHECKING:
    from typing import Any


class Ledger:
    """A file of signed lines, and the older ones beside it, PATH.1 to PATH.<older>.

    Each has some `limit` bytes. `starts` are the numbers of the first lines of its files, the
    oldest first; `number` and `mac` are of the last line; `size` is that of our lines in the newest
    file, whatever else others have put there; `lost` is the number of the first line after the
    bounds of the ledger were taken away, or 0.
    """

    LONGEST = 1 << 16  # bytes of a line

    def __init__(
        self, path: str, key: bytes, limit: int, older: int, bounds: dict[str, Any] | None
    ) -> None:
        self.path, self.limit, self.older = path, limit, older
        self.signing = hmac.new(key, digestmod="sha256")
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
        """What is to be remembered, so that a part of the ledger cannot pass for the whole."""
        return {
            "starts": list(self.starts),
            "size": self.size,
            "number": self.number,
            "mac": self.mac,
            "lost": self.lost,
        }

    def open(self) -> int:
        """A descriptor to append with, kept open.

        A process that has no other left can still say what it releases.
        """
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
        signed = self.signing.copy()  # to look up how to sign takes longer than to sign
        signed.update(body)
        mac = signed.hexdigest()
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
        """Write the next line.

        Raises AvaultError, and then it is as if nothing had been written.
        """
        number = self.number + 1
        mac, line = self.sign({"n": number, **entry, "after": self.mac})
        try:
            own = os.fstat(self.file)
            if not self.is_there(own):
                fresh = self.open()  # somebody took the file away
                os.close(self.file)
                self.file = fresh
                own = os.fstat(fresh)
            size = own.st_size
            if os.write(self.file, line) != len(line):
                os.ftruncate(self.file, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self.refusal(error) from None
        self.number, self.mac, self.size = number, mac, self.size + len(line)

    def is_there(self, own: os.stat_result) -> bool:
        """Whether the file that we write to is the one at the path."""
        try:
            return os.path.samestat(os.stat(self.path), own)
        except FileNotFoundError:
            return False

    def is_full(self) -> bool:
        """Whether it is time for a new file.

        That is by our own lines: else who adds others would have ours go.
        """
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
        """The number of lines and of files, and what is wrong.

        That is a line that is not ours, or one that is missing.
        """
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
