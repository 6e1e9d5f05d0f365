"""The process that signs, as the keyholder has it: what it is asked, and which keys it has."""

from __future__ import annotations

import asyncio
import secrets
import socket
import weakref
from typing import TYPE_CHECKING

from avault.daemon.wire import Control, Session
from avault.errors import AvaultError, Unavailable, Usage
from avault.places import sha256
from avault.vault.invitations import Invitations
from avault.vault.records import Vault
from avault.vault.signing_keys import SigningKeys, identify_key
from avault.vault.store import Store

if TYPE_CHECKING:
    from avault.protocol import Message


class SigningLink:
    """The process that signs, which the supervisor starts when there is something for it to do.

    `control` is the stream to the supervisor, `keys` what is known of the vault's.
    """

    START_TIME = 15.0  # seconds
    ANSWER_TIME = 60.0  # an RSA key takes some to be made

    def __init__(self, control: Control) -> None:
        self.control, self.keys, self.invited = control, SigningKeys(), Invitations()
        self.link: Control | None = None
        self.coming: asyncio.Future[Control] | None = None
        self.answers: dict[int, asyncio.Future[Message]] = {}
        self.given: set[str] = set()  # which keys it has: see `identify_key`
        self.last = 0
        self.run_id = secrets.token_hex(4)  # under which it is counted what keys that pay spend
        # sessions of the SSH agent, which says for whom it asks
        self.fronts: weakref.WeakSet[Session] = weakref.WeakSet()

    def take(self, message: Message, fd: int | None) -> None:
        """What the supervisor has: a socket to that process, or why there is none."""
        coming, self.coming = self.coming, None
        if fd is None:
            if coming and not coming.done():
                coming.set_exception(AvaultError.from_dict({"error": message.get("failed")}))
            return
        if self.link:
            self.link.close()
        link = Control(socket.socket(fileno=fd), self.hear, lambda: self.lose(link))
        self.link = link
        if coming and not coming.done():
            coming.set_result(link)

    def hear(self, answer: Message, fd: int | None) -> None:
        """An answer of that process, which sends no descriptor."""
        waiting = self.answers.get(int(answer.get("id", 0)))
        if waiting and not waiting.done():
            waiting.set_result(answer)

    def lose(self, link: Control) -> None:
        """It is gone, and what it was asked is not answered; the next is started anew."""
        if self.link is not link:
            return
        self.link = None
        self.given.clear()
        for each in self.answers.values():
            if not each.done():
                each.set_exception(Unavailable("the process that signs has ended", "try again"))

    async def ask(self, **message: object) -> Message:
        """The process's answer; raises what it says, and Unavailable.

        One that does not answer is asked nothing more: the supervisor ends it for the next.
        """
        self.last += 1
        number, loop = self.last, asyncio.get_running_loop()
        waiting: asyncio.Future[Message] = loop.create_future()
        late = loop.call_later(self.ANSWER_TIME, give_up, waiting)
        try:
            link = self.link or await self.reach()
            self.answers[number] = waiting
            link.send({"id": number, **message})
            answer = await waiting
        except TimeoutError:
            if self.link:
                self.link.close()
            raise Unavailable("the process that signs does not answer", "try again") from None
        finally:
            late.cancel()
            self.answers.pop(number, None)
        if not answer.get("ok"):
            raise AvaultError.from_dict(answer)
        return answer

    async def use(self, do: str, value: str, **message: object) -> Message:
        """The answer to what is to be done with a key, which goes to the process once.

        It is named by its private value, so that no other one is used in its place.
        """
        identity = identify_key(value)
        if identity not in self.given:
            message["value"] = value
        answer = await self.ask(do=do, key=identity, **message)
        self.given.add(identity)
        return answer

    async def owns(self, value: str, public: str) -> bool:
        """Whether the public half that a value says of itself, in base64, is its own."""
        try:
            return bool((await self.use("prove", value))["public"] == public)
        except Usage:
            return False

    def describe(self, store: Store) -> Message:
        """What the supervisor needs to know: another `invited` where a front end has to look."""
        mine = [each for each in self.invited.look(store.vault) if each.machine == store.machine]
        said = " ".join(f"{each.identity} {each.client}" for each in mine)
        return {"invited": sha256(said.encode()).hex() if mine else ""}

    def tidy(self, vault: Vault) -> None:
        """Have the process drop the keys that a vault has no more."""
        if not self.given:
            return
        transports = {identify_key(each.transport) for each in self.invited.look(vault)}
        gone = self.given - self.keys.identities(vault) - transports
        if gone and self.link:
            self.given -= gone
            self.link.send({"id": 0, "do": "forget", "keys": sorted(gone)})

    async def reach(self) -> Control:
        """The stream to the process, which is started unless it is on its way."""
        if not self.coming:
            self.coming = asyncio.get_running_loop().create_future()
            self.control.send({"need": "signing"})
        coming = self.coming
        try:
            async with asyncio.timeout(self.START_TIME):
                return await asyncio.shield(coming)
        except TimeoutError:
            if self.coming is coming:
                self.coming = None  # who asks next has another one started
            raise


def give_up(waiting: asyncio.Future[Message]) -> None:
    """Have an answer awaited no longer; for one, `asyncio.timeout` takes as long as all of this."""
    if not waiting.done():
        waiting.set_exception(TimeoutError())
