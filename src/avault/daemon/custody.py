"""The custodians, as the supervisor has them: which are tried, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from typing import TYPE_CHECKING

from avault.custody.custodians import Custodians
from avault.custody.shared import (
    REMOVED,
    Shared,
    digest_shared,
    is_shared,
    read_described,
    refuse_retired,
)
from avault.daemon.asking import Caller
from avault.daemon.child import Child
from avault.daemon.errands import Helper, asks_phones
from avault.errors import AvaultError, Denied, Locked, NotFound, Tampered, printable
from avault.keys.custodian import SLACK
from avault.places import Places
from avault.vault.machine import GIVEN, RETIRED, read_given, read_pin, read_retired
from avault.vault.names import PHONE
from avault.vault.presence import read_unlock

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.daemon.errands import Reach
    from avault.protocol import Message


class Custody:
    """Opens the vault with a custodian, of which the keyholder gets the key and we do not.

    `changes` has what is awaited of the keyholder about a change, by its ticket: what the
    custodian's unlock key opens, if it is about one.
    """

    def __init__(self, places: Places, child: Child) -> None:
        self.places, self.child = places, child
        self.custodians = Custodians(places)
        self.changes: dict[str, asyncio.Future[dict[str, Any] | None]] = {}
        self.tried: dict[str, asyncio.Future[Any]] = {}  # by the number of the trial
        self.helpers: dict[str, Helper] = {}  # at work, by that number
        self.trying = asyncio.Lock()  # one caller's custodians at a time
        # what the keyholder last said of itself
        self.report: Callable[[], dict[str, Any]] = dict
        # is told the code of what the phone is asked for a change
        self.tell: Callable[[str], None] = lambda code: None

    def order(self) -> list[str]:
        """The names in their order; of a damaged register, the phone alone."""
        try:
            return self.custodians.order()
        except AvaultError:
            return [PHONE]

    def has_phone(self) -> bool:
        """Whether a phone may be asked: this machine is paired, and the phone is one of them."""
        return os.path.lexists(self.places.own("pairing.json")) and PHONE in self.order()

    def has_any(self) -> bool:
        """Whether there is one besides the phone."""
        return any(name != PHONE for name in self.order())

    def ways(self, caller: Caller) -> list[str]:
        """Which are tried for a caller before the phone; raises NotFound.

        The one that it names; else those before the phone, without those that ask a person where
        none is reached.
        """
        if caller.custodian == PHONE:
            return []
        if caller.custodian:
            self.find(caller.custodian, caller.agent)
            return [caller.custodian]
        order = self.order()
        names = order[: order.index(PHONE)] if self.has_phone() else order
        phones = [PHONE, *self.phones()]
        names = [name for name in names if name not in phones]
        return [name for name in names if self.is_reached(name, caller.reach)]

    def is_reached(self, name: str, reach: Reach) -> bool:
        """Whether whom a custodian asks, if it asks anybody, can be there to answer."""
        try:
            content = self.custodians.load(name)
        except AvaultError:
            return True  # it is tried, and says what is wrong
        return reach.is_there() or not content["asks"] or asks_phones(content)

    def phones(self) -> list[str]:
        """The other operators' phones, which are asked together with this machine's."""
        return [name for name in self.order() if name != PHONE and self.is_phone(name)]

    def strangers(self, report: Message) -> list[str]:
        """The phones and desks of who is no operator of the vault now, by what it reports."""
        found, others = [], report.get("operators") or {}
        anybody = {report.get("first_operator"), *others.values()} - {None}
        for name in self.order():
            with contextlib.suppress(AvaultError):
                content = self.custodians.load(name)
                known = {PHONE: {others.get(name)}, "desk": anybody}.get(content["kind"])
                if known is not None and content["settings"].get("operator") not in known:
                    found.append(name)
        return found

    def asks_phones(self, name: str) -> bool:
        """Whether a custodian asks people by their phones."""
        try:
            return asks_phones(self.custodians.load(name))
        except AvaultError:
            return False

    def is_phone(self, name: str) -> bool:
        """Whether a custodian is an operator's phone."""
        return self.is_of_kind(name, PHONE)

    def is_of_kind(self, name: str, kind: str) -> bool:
        """Whether a custodian is of that kind; one that cannot be read is of none."""
        try:
            return bool(self.custodians.load(name)["kind"] == kind)
        except AvaultError:
            return False

    def find(self, name: str, agent: str | None = None) -> dict[str, Any]:
        """What a custodian needs that is in the order, or shared; raises NotFound, Tampered."""
        if name in self.custodians.order() and not agent:
            return self.custodians.load(name)
        return self.find_shared(name, agent)

    def find_shared(self, name: str, agent: str | None) -> dict[str, Any]:
        """What a shared custodian needs, if the vault's agent has signed that; raises Tampered.

        Who that is, a machine knows that has opened the vault; for another a person has said it:
        `agent`, an npub. Raises NotFound.
        """
        if name not in Shared(self.places).names():
            raise NotFound(
                f"there is no custodian {printable(name)}",
                "see which there are: avault custody list",
            )
        if not os.path.lexists(self.places.own("unlock.json")) and not agent:
            raise Denied(
                "this machine has never opened this vault, and what git brought is nobody's word",
                f"avault recover --with {name}",
            )
        content, _ = read_unlock(self.places)
        if agent not in (None, content["agent"]):
            raise Tampered("that is not this vault's agent", "compare: avault recover")
        found = Shared(self.places).load(name, content["agent"])
        refuse_retired(found, self.retired(), self.given())
        return found

    def retired(self) -> dict[str, str]:
        """The digests of shared custodians that are used no more, and what became of each.

        An open vault knows; of another, pin.json says which it knew. Raises Tampered.
        """
        known: dict[str, str] | None = self.report().get(RETIRED)
        return read_retired(self.places) if known is None else known

    def given(self) -> dict[str, dict[str, Any]]:
        """What an open vault knows of shared custodians, by digest; of another, what pin.json did.

        See `list_given`. Raises Tampered.
        """
        known: dict[str, dict[str, Any]] | None = self.report().get(GIVEN)
        return read_described(read_given(read_pin(self.places) or {})) if known is None else known

    def complete_shared(self) -> None:
        """Give to all what the open vault knows as given, where that was cut off."""
        for name in self.custodians.names(candidate=True):
            with contextlib.suppress(AvaultError):
                self.complete(name)

    def complete(self, name: str) -> None:
        """Give a custodian to all whose add was cut off, if the vault knows it as given.

        It has been tried, and the operator has agreed: see `let_count`. Raises AvaultError.
        """
        content = self.custodians.load(name, candidate=True)
        is_known = digest_shared(content) in self.given().keys() - self.retired().keys()
        if is_shared(content) and is_known:
            if name in self.order():
                self.custodians.save(content)
            Shared(self.places).save(content)
            self.custodians.drop_candidate(name)

    def leave_retired(self) -> list[str]:
        """Use no more what another machine has taken away for all, but for the last way in."""
        left = []
        for name in self.order():
            others = [each for each in self.order() if each != name]
            is_last = not others or (others == [PHONE] and not self.has_phone())
            if name == PHONE or is_last:
                continue
            with contextlib.suppress(AvaultError):
                content = self.custodians.load(name)
                if content.get("signed") and self.retired().get(digest_shared(content)) == REMOVED:
                    self.custodians.forget(name)
                    left.append(name)
        return left

    def follow(self, agent: str) -> None:
        """After a rotation on another machine, use what that has shared under the new key."""
        for name in self.order():
            try:
                mine = self.custodians.load(name) if name != PHONE else {}
                if mine.get("signed") and mine["agent"] != agent:
                    content = self.find_shared(name, agent)
                    same = ("vault", "kind", "asks", "settings")
                    if all(content[each] == mine[each] for each in same):
                        self.custodians.save(content)
            except AvaultError:
                continue  # it says so itself when it is tried

    def nobody_here(self) -> Locked:
        """Why none can be tried: all ask a person, and none is reached."""
        return Locked(
            "what opens this vault asks a person, and there is no terminal",
            "in a terminal: avault unlock; in a script: --with NAME --passphrase-file FILE",
        )

    def asks(self, name: str) -> bool:
        """Whether a custodian asks a person; one that cannot be read asks nobody."""
        try:
            return bool(self.custodians.load(name)["asks"])
        except AvaultError:
            return False

    def is_final(self, name: str, error: AvaultError) -> bool:
        """Whether nothing comes after this: a person has refused, or the vault is no more."""
        return isinstance(error, Denied) and self.asks(name)

    async def open(self, name: str, caller: Caller) -> None:
        """Have a custodian open the vault; raises what it, or the vault, said."""
        wish = {"accept_rollback": caller.accept_rollback}
        wish["offered"] = bool(caller.agent) or name not in self.order()
        await self.hand_over(self.find(name, caller.agent), caller.reach, wish)
        self.note_opened(name)

    async def agree(self, name: str, reach: Reach, ticket: str, change: str) -> None:
        """Have who opens the vault with a custodian agree to one change of it."""
        await self.hand_over(self.find(name), reach, {"ticket": ticket}, f"so that {change}")

    def note_opened(self, name: str) -> None:
        """Remember it; a disk that is full keeps nobody out."""
        try:
            self.custodians.note_opened(name)
        except AvaultError:
            pass

    async def hand_over(
        self, content: dict[str, Any], reach: Reach, wish: dict[str, Any], purpose: str = ""
    ) -> None:
        """Start a custodian's helper, and give the keyholder the end that its answer comes from."""
        control, name = self.child.control, content["custodian"]
        if not control:
            raise Locked("the vault was locked meanwhile", "ask again with: avault unlock")
        answer, end = socket.socketpair()
        with answer:
            with end:
                told = purpose, bool(purpose)  # an unlock is for nothing else
                helper = Helper(self.places, "get", content, reach, end.fileno(), *told)
            number = secrets.token_hex(8)
            tried = self.tried[number] = asyncio.get_running_loop().create_future()
            self.helpers[number] = helper
            about = {"content": content, "asks": content["asks"], "kind": content["kind"]}
            message = {"do": "try", "custodian": name, "number": number, **about, **wish}
            message["limit"] = helper.limit
            control.send(message, answer.fileno())
        try:
            async with asyncio.timeout(helper.limit + 2 * SLACK):
                await tried
        except TimeoutError:
            raise AvaultError(f"the custodian {name} did not end in time") from None
        finally:
            helper.end()
            del self.tried[number], self.helpers[number]

    def tell_helpers(self, is_wanted: bool) -> None:
        """Let the helpers know whether anybody waits: a phone is asked no longer than that."""
        for helper in self.helpers.values():
            helper.tell(is_wanted)

    def hear(self, message: Message) -> bool:
        """Take a message of the keyholder that is about custodians: whether it is."""
        if "changed" in message:
            change = self.changes.get(str(message["changed"]))
            self.conclude(change, message["failed"], message["sealed"])
        elif "asking" in message:
            if message["ticket"] in self.changes:  # and not one that is given up
                self.tell(str(message["asking"]))
        elif "tried" in message:
            self.conclude(self.tried.get(str(message["tried"])), message["failed"], None)
        else:
            return False
        return True

    def conclude(
        self,
        awaited: asyncio.Future[Any] | None,
        failed: dict[str, Any] | None,
        came: dict[str, Any] | None,
    ) -> None:
        """What came of something that the keyholder was to do, if that is still awaited."""
        if awaited and not awaited.done():
            if failed:
                awaited.set_exception(AvaultError.from_dict({"error": failed}))
            else:
                awaited.set_result(came)

    def lose(self) -> None:
        """The keyholder is gone."""
        gone = Locked("the vault was locked meanwhile", "ask again with: avault unlock").to_dict()
        for awaited in (*self.tried.values(), *self.changes.values()):
            self.conclude(awaited, gone["error"], None)

    async def change(
        self, ticket: str, wish: dict[str, Any], fd: int | None = None
    ) -> dict[str, Any] | None:
        """Have the keyholder agree to a change, or have it agreed to; raises why it is not."""
        if not self.child.control:
            raise Locked("the vault was locked meanwhile", "ask again with: avault unlock")
        awaited = self.changes[ticket] = asyncio.get_running_loop().create_future()
        try:
            self.child.control.send({**wish, "ticket": ticket}, fd)
            came: dict[str, Any] | None = await awaited
            return came
        finally:
            del self.changes[ticket]
            if awaited.cancelled() and self.child.control:  # who wanted it is gone
                self.child.control.send({"do": "drop", "ticket": ticket})
