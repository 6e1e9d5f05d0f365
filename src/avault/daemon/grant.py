"""A grant's rules: what one caller may have of an open vault, how, how often, and until when.

They touch no value: what of the vault a grant has is taken out in `daemon/gate`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, Usage
from avault.process import uptime
from avault.protocol import DOOR, GRANTED, SESSIONS, VALUES, read_limit, refuse_unknown
from avault.vault.choosing import check_names
from avault.vault.names import DIGITS, GROUP_CHARACTERS, LETTERS, check_group, check_key
from avault.vault.times import render_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from avault.protocol import Message
    from avault.vault.records import Vault


GRANT_USES = ("get", "run", "proxy", "sign")  # what a grant can be for
NEEDED = {  # by which way values go out, or are used: what a grant has to be for
    "get": "get", "export": "get", "reveal": "get", "provide": "get", "run": "run",
    "sign": "sign", "ssh": "sign", "wallet": "sign", "proxy": "proxy",
}  # fmt: skip
GRANT_FIELDS = frozenset({"name", "groups", "only", "can", "lasts", "times", "uids", "ask", "stay"})
MOST_NAMED = 1000  # groups and keys of one
MOST_UIDS = 64
LONGEST_GRANT_NAME = 32  # characters
MOST_TIMES = 1_000_000
ASK_MAKER = "ask whoever made the grant"


class Pause:
    """How often one who makes grants has had the phone asked in vain, and until when it is not.

    It outlasts its grants: else a new one would be asked for at once. One question at a time.
    """

    def __init__(self) -> None:
        self.in_vain, self.until = 0, 0.0
        self.asking = asyncio.Lock()


class Share:
    """What of a vault a grant has: all of `groups`, and `only` (GROUP/KEY), for what it `can`."""

    def __init__(self, groups: list[str], only: list[str], can: list[str]) -> None:
        self.groups, self.only, self.can = frozenset(groups), frozenset(only), frozenset(can)

    def has(self, group: str, key: str) -> bool:
        """Whether a secret of that name is in it."""
        return group in self.groups or f"{group}/{key}" in self.only

    def describe_uses(self) -> str:
        """What it is for, in words."""
        return " or ".join(self.list_uses())

    def list_uses(self) -> list[str]:
        """What it is for, in one order."""
        return sorted(self.can, key=GRANT_USES.index)


class Grant:
    """What one caller may have of an open vault: its `share`, and how long and how often.

    `until` is as `uptime` counts (None: until the lock), `times` how many uses are left (None:
    any number), `uids` whose processes may connect. `asks` says whether the phone is still to be
    asked before the first use.
    """

    def __init__(self, name: str, groups: list[str], only: list[str], can: list[str]) -> None:
        self.name, self.identity = name, secrets.token_hex(16)
        self.share = Share(groups, only, can)
        self.uids: frozenset[int] = frozenset()
        self.until: float | None = None
        self.times: int | None = None
        self.asks = self.is_ended = False
        self.used: float | None = None  # Unix seconds of the last use
        self.path = ""
        self.seen: tuple[Vault, Vault] | None = None  # a vault, and what it has of it
        self.pause = Pause()  # of who made it

    def is_over(self) -> bool:
        """Whether it was revoked, or its time is over."""
        return self.is_ended or (self.until is not None and uptime() >= self.until)

    def check_request(self, op: str, note: Callable[[str], None] | None = None) -> None:
        """Raise Denied for a request that may not be made through a grant; `note` is told of it."""
        if self.is_over():
            raise Denied(f"the grant {self.name} has ended", ASK_MAKER)
        if op not in GRANTED:
            if note:  # what is no request is not repeated: it may be anything
                note(op if op in VALUES | SESSIONS | DOOR else "?")
            raise Denied("through a grant that may not be asked", "with the vault's own socket")

    def check_way(self, way: str) -> None:
        """Raise Denied where it has ended, or is not for that way: whatever is asked for."""
        self.check_request("get")
        can = self.share.can
        if NEEDED.get(way) not in can:
            hint = "avault run -- CMD" if "run" in can else ASK_MAKER
            if "proxy" in can and way == "run":
                hint = "avault run --proxy -- CMD"
            raise Denied(f"the grant {self.name} is only to {self.share.describe_uses()}", hint)

    def is_mask(self, request: Message) -> bool:
        """Whether a request wants all values so that `run` can mask them, which is no use.

        Where they may not be had for nothing, it gets none; what it was given itself is masked.
        """
        wants = request["op"] == "reveal" and request.get("for") == "mask"
        is_all = not (request.get("groups") or request.get("only"))
        can = self.share.can
        is_free = self.times is None and "get" in can
        return wants and is_all and bool(can & {"run", "proxy"}) and not is_free

    def use(self, way: str) -> None:
        """Count a use, before anything is given out; raises Denied where none is left.

        What was counted is looked at by `check_way` alone while the phone is asked of it.
        """
        self.check_way(way)
        if self.times == 0:
            raise Denied(f"the grant {self.name} has been used as often as it may be", ASK_MAKER)
        if self.times is not None:
            self.times -= 1
        self.used = time.time()

    def describe(self) -> Message:
        """What `grants` shows of it."""
        left = None if self.until is None else time.time() + self.until - uptime()
        return {
            "name": self.name,
            "groups": sorted(self.share.groups),
            "only": sorted(self.share.only),
            "can": self.share.list_uses(),
            "until": None if left is None else render_time(left),
            "times": self.times,
            "uids": sorted(self.uids),
            "ask": self.asks,
            "used": None if self.used is None else render_time(self.used),
            "path": self.path,
        }


def is_grant_name(name: object) -> bool:
    """Whether a grant can have that name: [A-Za-z0-9][A-Za-z0-9._-]{0,31}."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= LONGEST_GRANT_NAME
        and name[0] in LETTERS | DIGITS
        and set(name) <= GROUP_CHARACTERS
    )


def check_grant_name(name: object) -> str:
    """`name`, if a grant can have it; raises Usage. What is none is not repeated."""
    if not is_grant_name(name):
        hint = "a letter or digit, then up to 31 of A-Z a-z 0-9 . _ -, as in: avault grant web"
        raise Usage("not a name for a grant", hint)
    return str(name)


def read_grant(request: Message, own_uid: int) -> Grant:
    """The grant that a request is for; raises Usage."""
    refuse_unknown(request, GRANT_FIELDS)
    name, can = check_grant_name(request.get("name")), check_names(request, "can")
    groups, only = check_names(request, "groups"), check_names(request, "only")
    if len(groups) + len(only) > MOST_NAMED:
        raise Usage(f"at most {MOST_NAMED:,} groups and keys in one grant")
    for each in groups:
        check_group(each)
    for each in only:
        group, _, key = each.partition("/")
        check_group(group)
        check_key(key)
    if not groups and not only:
        raise Usage("a grant of nothing", "name what: --group GROUP, or --only GROUP/KEY")
    if {*can} - {*GRANT_USES}:
        raise Usage("no such use", f"--can is of: {', '.join(GRANT_USES)}")
    grant = Grant(name, groups, only, can or ["get", "run"])
    if request.get("lasts") is not None:
        if not (lasts := read_limit(request, "lasts")):
            raise Usage("lasts is a number of seconds, above 0", "--for 8h")
        grant.until = uptime() + lasts
    if (times := request.get("times")) is not None:
        if type(times) is not int or not 0 < times <= MOST_TIMES:
            raise Usage(f"times is a number from 1 to {MOST_TIMES:,}", "--times 3")
        grant.times = times
    uids = request.get("uids") or [own_uid]
    if not isinstance(uids, list) or len(uids) > MOST_UIDS:
        raise Usage(f"uids is a list of at most {MOST_UIDS} numbers")
    if any(type(each) is not int or not 0 <= each < 2**32 - 1 for each in uids):
        raise Usage("a uid is a number of 32 bits", "--uid web, or --uid 1001")
    grant.uids, grant.asks = frozenset(uids), bool(request.get("ask"))
    return grant


def hide_names(error: AvaultError) -> AvaultError:
    """An error as it is told through a grant: no hint leads to names that guards are on."""
    if "guard" in (error.hint or ""):
        error.hint = ASK_MAKER
    return error
