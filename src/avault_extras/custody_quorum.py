"""A quorum as a custodian: the unlock key in shares, each kept by another custodian.

Some are enough.

No member is given its share. Each keeps a fresh key of its own, as it would keep an unlock key; its
share (SLIP-39) lies in the vault's own file, encrypted under that key (NIP-44). So every kind that
keeps an unlock key can be a member, and the disk alone has no share.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import time
from typing import TYPE_CHECKING, Any, ClassVar

import avault
from avault import AvaultError, Denied, Errand, NotFound, Tampered, Unavailable, Usage, printable

if TYPE_CHECKING:
    from avault_extras import custody_quorum_member, shares
else:
    custody_quorum_member = avault.load_extra("custody_quorum_member", "shares")
    shares = avault.load_extra("shares", "shares")

SHARE = 0.9  # of the errand's time, so that it is still said which member took too long
NO_MEMBERS = {
    "paper": "paper cannot be a member: its sheets are a quorum already,"
    " and say that they open the vault",
    "quorum": "a quorum cannot be a member of another: name its members here",
}
# what decides where several have failed: the first of these that is among them, else an error
WORST = (Tampered, Denied, NotFound, Unavailable)


class Custodian:
    """Several custodians, of which some are enough: each keeps a share of the unlock key."""

    needs_person: ClassVar[bool] = True
    SETTINGS: ClassVar[dict[str, tuple[str, str | None]]] = {
        "need": ("how many members open the vault", "2"),
        "of": ("the members: kinds, or KIND:NAME, with commas between them", None),
        "MEMBER.SETTING": ("a setting of a member, as its kind has it", ""),
    }

    def __init__(self, errand: Errand) -> None:
        self.errand = errand
        self.end = time.monotonic() + errand.limit * SHARE

    @functools.cached_property
    def members(self) -> list[custody_quorum_member.Member]:
        """The members, in the order in which they were named; raises Usage."""
        found = read_members(self.errand.settings)
        return [
            custody_quorum_member.Member(name, kind, self.errand) for name, kind in found.items()
        ]

    @staticmethod
    def asks(settings: dict[str, str]) -> bool:
        """Whether too few members ask nobody, by its settings."""
        asking = [
            custody_quorum_member.does_ask(kind, custody_quorum_member.own_settings(settings, name))
            for name, kind in read_members(settings).items()
        ]
        return asking.count(False) < int(settings["need"])

    # What it is told

    def settle(self) -> dict[str, str]:
        """How many of which members, and what each of them has settled; raises Usage and theirs."""
        members = self.members
        need = read_need(self.errand.settings.get("need") or "2", len(members))
        names = {member.name for member in members}
        for setting in self.errand.settings:
            owner, dot, _ = setting.partition(".")
            if dot and owner not in names:
                raise Usage(f"there is no member {printable(owner)}", "name it: of=KIND:NAME,…")
            if not dot and setting not in ("need", "of"):
                raise Usage(
                    f"quorum has no setting {printable(setting)}",
                    "these are: need, of, and MEMBER.SETTING",
                )
        of = ",".join(
            each.name if each.name == each.kind else f"{each.kind}:{each.name}" for each in members
        )
        settled = {"need": str(need), "of": of}
        for place, member in enumerate(members):
            own = self.ask(member, "settle", len(members) - place)["settings"]
            settled |= {f"{member.name}.{setting}": value for setting, value in own.items()}
        return settled

    # What it does

    def probe(self) -> str:
        """How many of the members are there, and which are not; raises where they are too few."""
        records, members = self.read_kept()["members"], self.members
        failed: dict[str, AvaultError] = {}
        for place, member in enumerate(members):
            try:
                self.ask(member, "probe", len(members) - place, records[member.name]["kept"])
            except AvaultError as error:
                failed[member.name] = error
        there = len(members) - len(failed)
        said = f"{there} of {len(members)} members are there, and {self.need()} are needed"
        if there < self.need():
            raise worst_of(failed)(said + explain(failed))
        return said + explain(failed)

    def set(self, secret: str) -> str:
        """Have each member keep a fresh key; what is given has the shares, encrypted under these.

        Those that ask nobody give theirs back before it counts. Where one fails, the others forget.
        """
        members, need = self.in_order(), self.need()
        texts = shares.split(secret, need, len(members))
        records: dict[str, dict[str, str | None]] = {}
        try:
            for place, (member, share) in enumerate(zip(members, texts, strict=True)):
                key = avault.make_keys().secret_key().to_hex()
                left = len(members) - place
                kept = self.ask(member, "set", left, secret=key)
                records[member.name] = {"kept": kept, "share": member.seal(key, share)}
                if not member.asks and self.ask(member, "get", left, kept) != key:
                    raise AvaultError(f"{member.name}: it did not keep what it was given")
        except AvaultError:
            self.forget(records)
            raise
        return render_kept(
            {"members": records, "need": need, "set": shares.read_share(texts[0]).identifier}
        )

    def get(self) -> str:
        """The secret, from the first members that are enough; those that ask nobody are first.

        A person's refusal ends it. Nobody is asked in vain, where those left cannot be enough.
        """
        kept, need = self.read_kept(), self.need()
        found: dict[str, str] = {}
        failed: dict[str, AvaultError] = {}
        waiting = self.in_order()
        while waiting and len(found) < need:
            member = waiting[0]
            if member.asks and len(found) + len(waiting) < need:
                break
            try:
                found[member.name] = self.get_share(member, kept, len(waiting))
            except AvaultError as error:
                if isinstance(error, Denied) and member.asks:
                    raise
                failed[member.name] = error
            del waiting[0]
        if len(found) < need:
            told = [f"{name} ok" for name in found]
            told += [f"{name} {error.code}" for name, error in failed.items()]
            told += [f"{member.name} not asked" for member in waiting]
            came = f"{len(found)} of {need} shares that are needed came: {', '.join(told)}"
            raise worst_of(failed)(came + explain(failed))
        if failed and self.errand.prompt.path:
            with contextlib.suppress(AvaultError):  # nobody is there to be told
                self.errand.prompt.tell("the others were enough" + explain(failed))
        return shares.combine(found.values())

    def delete(self) -> None:
        """Have all members forget their keys; raises where one did not, and says which."""
        try:
            records = self.read_kept()["members"]
        except AvaultError:  # they may have keys all the same
            records = {}
        if failed := self.forget(records, everybody=True):
            raise worst_of(failed)("not all members forgot their keys" + explain(failed))

    # Its parts

    def need(self) -> int:
        """How many members are needed."""
        return int(self.errand.settings["need"])

    def in_order(self) -> list[custody_quorum_member.Member]:
        """The members as they are asked: those that ask nobody are first."""
        return sorted(self.members, key=lambda member: member.asks)

    def ask(
        self,
        member: custody_quorum_member.Member,
        action: str,
        left: int,
        kept: str | None = None,
        secret: str = "",
    ) -> Any:
        """What comes of a member's errand; raises what went wrong, with the member's name.

        It has the time that it would have alone, and at most its part of what is there for the
        `left` ones, itself among them.
        """
        try:
            person_time = avault.Helper.LONGER.get(member.kind, avault.Helper.PERSON_TIME)
            usual = person_time if member.asks else avault.Helper.TIME
            if action in ("set", "get"):
                member.announce()
            limit = min(usual, (self.end - time.monotonic()) / left)
            return member.send(action, limit, kept, secret)
        except AvaultError as error:
            raise type(error)(f"{member.name}: {error.message}", error.hint) from None

    def get_share(
        self, member: custody_quorum_member.Member, kept: dict[str, Any], left: int
    ) -> str:
        """A member's share of this very set; raises what went wrong, with the member's name."""
        record = kept["members"][member.name]
        key = self.ask(member, "get", left, record["kept"])
        try:
            text = member.open(str(key), record["share"])
            share = shares.read_share(text)
            if (share.identifier, share.member_threshold) != (kept["set"], kept["need"]):
                raise Tampered("its share is of another set")
        except AvaultError as error:
            raise Tampered(f"{member.name}: {error.message}") from None
        return text

    def forget(self, records: dict[str, Any], everybody: bool = False) -> dict[str, AvaultError]:
        """Have members forget their keys, those with a record or all: which did not, and why."""
        failed: dict[str, AvaultError] = {}
        members = [each for each in self.members if everybody or each.name in records]
        for place, member in enumerate(members):
            kept = records.get(member.name, {}).get("kept")
            try:
                self.ask(member, "delete", len(members) - place, kept)
            except NotFound:
                pass
            except AvaultError as error:
                failed[member.name] = error
        return failed

    def read_kept(self) -> dict[str, Any]:
        """What `set` gave; raises NotFound, and Tampered where it is not that of these members."""
        if not self.errand.kept:
            raise NotFound("its members have no shares")
        try:
            kept: dict[str, Any] = json.loads(self.errand.kept)
            records = kept["members"]
            whole = [
                kept.keys() == {"members", "need", "set"},
                records.keys() == {member.name for member in self.members},
                kept["need"] == self.need(),
                isinstance(kept["set"], int),
                all(each.keys() == {"kept", "share"} for each in records.values()),
                all(isinstance(each["share"], str) for each in records.values()),
                all(isinstance(each["kept"], str | None) for each in records.values()),
                render_kept(kept) == self.errand.kept,
            ]
            if all(whole):
                return kept
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass
        raise Tampered("what is kept about its shares is damaged")


def read_members(settings: dict[str, str]) -> dict[str, str]:
    """The members' kinds by their names, in the order in which they were named; raises Usage."""
    words = [word.strip() for word in (settings.get("of") or "").split(",")]
    if not any(words):
        raise Usage("which members has the quorum?", "as in: need=2 of=openbao,keychain,passphrase")
    members: dict[str, str] = {}
    for word in words:
        kind, _, name = word.partition(":")
        name = name or kind
        for each in (name, kind):
            if each in NO_MEMBERS:
                raise Usage(NO_MEMBERS[each])
        if avault.check_custodian(name) in members:
            raise Usage(f"the member {name} is named twice", "name them apart: of=KIND:NAME,…")
        members[name] = kind
    return members


def read_need(text: str, of: int) -> int:
    """How many of so many members are needed; raises Usage."""
    if not re.fullmatch("[0-9]{1,2}", text):
        raise Usage(f"not a number of members: {printable(text)}", "as in: need=2")
    need = int(text)
    if need < 2:
        raise Usage("a quorum needs two members, or more: one alone would be the key", "need=2")
    shares.check_counts(need, of)
    return need


def render_kept(kept: dict[str, Any]) -> str:
    """What is kept, in its only form."""
    return json.dumps(kept, sort_keys=True, separators=(",", ":"))


def worst_of(failed: dict[str, AvaultError]) -> type[AvaultError]:
    """What it comes to, where these members have failed."""
    kinds = (kind for kind in WORST if any(isinstance(each, kind) for each in failed.values()))
    return next(kinds, AvaultError)


def explain(failed: dict[str, AvaultError]) -> str:
    """What those members said that have failed, to follow a sentence."""
    return "".join(f"; {error.message}" for error in failed.values())
