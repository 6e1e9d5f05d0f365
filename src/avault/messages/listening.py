"""The process that hears the one word that is obeyed: `avault message listen`. It holds no key.

What is too large, too much or not signed goes no further. Of the rest the keyholder says whether
it is an operator's word; then this asks for the lock, as anybody may, and sends the answer.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING

from avault.daemon.words import LONGEST_WORD
from avault.errors import AvaultError, Locked, Unavailable, Usage
from avault.fronts.vault_link import VaultLink
from avault.keys.nostr import make_keys, parse_npub
from avault.messages.delivery import find_inbox, put_event
from avault.places import Places
from avault.signer.relays import Relays, wanted_messages
from avault.tasks import spawn
from avault.terminal.talk import put
from avault.vault.messages import MessageSettings

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.nostr import Event
    from avault.protocol import Message

BACK = 49 * 3600  # seconds: what wraps a message is up to two days older than it (NIP-59)
SEARCH_TIME = 10.0  # seconds
PACE = 0.2  # seconds between two that the keyholder is given
MOST_UNREAD = 100  # what came before these is not read
MOST_HEARD = 10_000  # events that are not looked at twice


class Ear:
    """What relays send, as far as it may be the word; the latest is taken first."""

    def __init__(self) -> None:
        self.unread: collections.deque[dict[str, Any]] = collections.deque(maxlen=MOST_UNREAD)
        self.known: dict[str, None] = {}
        self.came = asyncio.Event()

    def hear(self, event: Event) -> None:
        """Take an event that is small, signed and new."""
        text, identity = event.as_json(), event.id().to_hex()
        if len(text) > LONGEST_WORD or identity in self.known:
            return
        found = json.loads(text)
        if len(json.dumps(found)) > LONGEST_WORD or not event.verify():  # as it goes on
            return
        self.known[identity] = None
        if len(self.known) > MOST_HEARD:
            del self.known[next(iter(self.known))]
        self.unread.append(found)
        self.came.set()

    async def next(self) -> dict[str, Any]:
        """The latest that was not read yet."""
        while not self.unread:
            self.came.clear()
            await self.came.wait()
        return self.unread.pop()


class Listening:
    """Hears a word, and has the vault locked. `is_answering` is set from then to the end."""

    def __init__(self, places: Places, agent: str) -> None:
        self.places, self.settings = places, MessageSettings.load(places)
        self.vault, self.ear, self.is_answering = VaultLink(places), Ear(), False
        wanted = wanted_messages(agent, int(time.time()) - BACK)
        heard = self.settings.relays, self.ear.hear, self.report
        self.relays = Relays(make_keys(), *heard, wanted, self.introduce)

    async def introduce(self, url: str, challenge: str) -> dict[str, Any] | None:
        """What a relay is told that gives messages to their receiver alone (NIP-42): it is here.

        The keyholder signs that, for relays at which the word is heard. What asks here holds no
        key.
        """
        asked = {"action": "auth", "relay": url, "challenge": challenge}
        with contextlib.suppress(AvaultError):
            return dict((await self.vault.ask("word", **asked))["event"])
        return None

    def report(self) -> None:
        """Tell the daemon how the relays are: a line of JSON."""
        put(json.dumps({"relays": [*self.relays.shown.values()]}) + "\n")

    async def watch(self) -> None:
        """Notice what changes with the relays, for ever."""
        while True:
            self.relays.look()
            self.relays.move()
            await asyncio.sleep(1.0)

    async def obey(self) -> None:
        """Wait for the word, and do it; raises what the vault says, as Locked."""
        watching: set[asyncio.Task[None]] = set()
        self.report()
        await self.relays.open()
        spawn(watching, self.watch())
        try:
            while True:
                event, after = await self.ear.next(), self.settings.obeyed
                said: Message = {}
                try:
                    said = await self.vault.ask("word", action="read", event=event, after=after)
                except Usage:
                    pass  # of one that is not taken, nothing comes
                except Unavailable:  # a busy daemon; of one that is gone, stdin tells
                    self.ear.unread.append(event)
                    await asyncio.sleep(1.0)
                if said.get("word"):
                    return await self.lock(said)
                await asyncio.sleep(PACE)
        finally:
            for task in watching:
                task.cancel()
            await self.relays.close()

    async def lock(self, said: Message) -> None:
        """Lock the vault, and tell who wanted it what came of that."""
        self.is_answering = True
        self.settings.obeyed = int(said["written"])
        with contextlib.suppress(AvaultError):  # it locks, be there room on the disk or not
            self.settings.save(self.places)  # the same word does not lock the next time
        if said["locks"]:
            with contextlib.suppress(AvaultError):  # else the keyholder does it by itself
                await VaultLink(self.places).ask("lock")  # which is not for the keyholder
        await asyncio.gather(
            put_event(said["reply"], self.settings.relays), self.answer_elsewhere(said)
        )

    async def answer_elsewhere(self, said: Message) -> None:
        """Send the answer where the operator takes messages, if that is found out soon."""
        urls = self.settings.relays
        try:
            async with asyncio.timeout(SEARCH_TIME):
                known = await find_inbox(str(said["to"]), urls)
        except TimeoutError:
            return
        await put_event(said["reply"], [url for url in known if url not in urls])


async def listen_for_word(places: Places, agent: str) -> None:
    """Hear and obey until the vault is locked, which the end of stdin says."""
    listening = Listening(places, parse_npub(agent))
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin.buffer)
    obeying, ended = loop.create_task(listening.obey()), loop.create_task(stdin.read())
    await asyncio.wait([obeying, ended], return_when=asyncio.FIRST_COMPLETED)
    if not listening.is_answering:
        obeying.cancel()
    try:
        await obeying
    except (asyncio.CancelledError, Locked, Unavailable):
        pass  # nobody is there to obey
    finally:
        ended.cancel()
