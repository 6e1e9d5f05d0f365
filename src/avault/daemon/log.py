"""The access log: who got what, and when.

A line of JSON before each release, and one for what was refused, in a file of its own.
"""

from __future__ import annotations

import hmac
import json
import os
import time
from typing import TYPE_CHECKING

from avault.daemon.ledger import Ledger
from avault.errors import AvaultError, printable
from avault.process import uptime
from avault.vault.files import read_file, write_file
from avault.vault.names import SAID_MORE, is_choice, is_group
from avault.vault.own_files import decode_file, encode_file
from avault.vault.times import render_time

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.nostr import Keys


def summarize(request: dict[str, Any], most: int, width: int) -> dict[str, Any]:
    """What a line says of a request.

    At most so many names, none wider, and how many there were besides.
    """
    # each op with the fields that it looks at
    many = request["op"] in ("export", "reveal", "provide", "import", "move", "grant", "proxy")
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
    # what can be no name may be a secret that was typed in the wrong place
    groups = [group if is_group(group) else "?" for group in groups]
    keys = [key if is_choice(key) else "?" for key in keys]
    return {
        "op": request["op"],
        "for": printable(request["for"], 64) if request.get("for") else None,
        "group": ",".join(printable(group, width) for group in groups[:most]) or None,
        "keys": [printable(key, width) for key in keys[:most]] or None,
        "more": len(groups[most:]) + len(keys[most:]),
        **{name: printable(request[name], 300) for name in SAID_MORE if request.get(name)},
    }


class AccessLog:
    """The two ledgers of a vault: access.log for what was released, refused.log for what was not.

    Who asks for nonsense all day fills only the second, and that slowly: beyond a burst one line a
    minute, which counts the others. log.json keeps the bounds of both, signed.
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
        """The bounds of both ledgers; none where log.json is gone or not ours.

        Only that of a new vault may be gone.
        """
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
        write_file(self.path, self.encode())
        self.saved = content

    def encode(self) -> bytes:
        """log.json."""
        content = self.bounds()
        return encode_file("log", {**content, "mac": self.sign_bounds(content)})

    def close(self) -> None:
        """Write no more."""
        for ledger in (self.releases, self.refusals):
            os.close(ledger.file)

    def write(self, request: dict[str, Any], caller: dict[str, Any], outcome: str = "ok") -> None:
        """Note what is about to be released, or was refused.

        Raises AvaultError, and then nothing may be released.
        """
        if outcome == "ok":
            self.append(self.releases, summarize(request, 100, 200), caller, outcome)
            return
        self.untold = request, caller, outcome
        self.skipped += 1
        self.settle()

    def settle(self, at_once: bool = False) -> None:
        """Write the last refusal, if there is room, with how many before it were only counted.

        Raises AvaultError.
        """
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
        """Whether every line is as it was written, and none is missing since each ledger begins."""
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
