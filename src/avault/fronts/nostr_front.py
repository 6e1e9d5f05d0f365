"""The process before those who are invited: `avault.py nostr DIR SOCKET`. It holds no key.

It carries events between relays and the vault, and has a relay of its own on the loopback. It
outlives the lock: a client that has lost its relay may never subscribe again. For each line on
stdin it looks at who is invited, and then says on stdout how its relays are.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from avault.daemon.bunker_requests import is_local
from avault.daemon.guests import Budget
from avault.errors import AvaultError, Unavailable, complain
from avault.fronts.vault_link import VaultLink
from avault.keys.hardening import harden
from avault.keys.nostr import make_keys
from avault.places import Places
from avault.plain import write_all
from avault.process import report_quietly
from avault.protocol import FIRST_FRAME, encode_frame
from avault.signer.relays import Relays, start_narrow_relay, wanted_answers
from avault.tasks import spawn
from avault.vault.rule_members import is_port

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from avault.keys.nostr import Event
    from avault.protocol import Message


MOST_CONNECTIONS = 256  # of the relay
MOST_UNDER_WAY = 32  # requests of an invitation; what comes beyond is dropped
OF_CLIENT, OF_OTHERS = 1_200, 30  # events a minute that are brought to the vault
OWN_SHARE = 2_000  # bytes of a frame that are not the event's
READY_TIME = 5.0  # seconds that a relay has to take a subscription


class Visitors:
    """Who asks by one invitation: at `address` (hex), the `client` (hex) who came, and others."""

    def __init__(self, vault: VaultLink, found: Message) -> None:
        self.vault, self.address = vault, str(found["address"])
        self.client: str | None = found["client"]
        self.budget, self.others = Budget(OF_CLIENT), Budget(OF_OTHERS)
        self.tasks: set[asyncio.Task[None]] = set()
        # a key of the moment, for relays that want to know who is there
        urls = [*map(str, found["relays"])]
        wanted = wanted_answers(self.address)
        self.relays = Relays(make_keys(), urls, self.hear, lambda: None, wanted)

    def hear(self, event: Event) -> None:
        """An event of a relay's; one of the client's does not wait behind those of others."""
        is_own = event.author().to_hex() == self.client
        budget = self.budget if is_own else self.others
        if len(self.tasks) < MOST_UNDER_WAY * (2 if is_own else 1) and budget.take():
            spawn(self.tasks, self.carry(event.as_json()))

    async def carry(self, text: str) -> None:
        """Bring a request to the vault, and its answer back; none where it is locked."""
        fields = {"action": "event", "event": text}
        if len(encode_frame(fields)) > FIRST_FRAME - OWN_SHARE:
            return
        try:
            answer = await self.vault.ask("bunker", **fields)
        except AvaultError:
            return
        await self.relays.publish(str(answer["event"]))

    async def close(self) -> None:
        """Listen no more."""
        for task in list(self.tasks):
            task.cancel()
        await self.relays.close()


class NostrFront:
    """The front end: who is invited, and the relay of its own."""

    def __init__(self, places: Places) -> None:
        self.vault = VaultLink(places)
        self.visitors: dict[str, Visitors] = {}
        self.relay: Any = None
        self.port = 0

    async def look(self) -> Message:
        """Listen for those who are invited, and for nobody else; how the relays are.

        While the vault is locked, all stays as it is. Raises Unavailable where the relay of our own
        is not there; who is invited elsewhere is listened for all the same.
        """
        found = {each["address"]: each for each in await self.find_invited()}
        for address in [each for each in self.visitors if each not in found]:
            await self.visitors.pop(address).close()
        fault: Unavailable | None = None
        try:  # before there is who connects to it
            await self.keep_relay([url for each in found.values() for url in each["relays"]])
        except Unavailable as error:
            fault = error
        for address, each in found.items():
            if address not in self.visitors:
                self.visitors[address] = Visitors(self.vault, each)
                await self.visitors[address].relays.open()
            self.visitors[address].client = each["client"]
        ready = [each.relays.wait_ready(READY_TIME) for each in self.visitors.values()]
        await asyncio.gather(*ready, return_exceptions=True)
        shown: dict[str, Any] = {}
        for visitor in self.visitors.values():
            visitor.relays.look()
            shown |= visitor.relays.shown
        if fault:
            raise fault
        return {"ok": True, "relays": [*shown.values()], "listening": len(self.visitors)}

    async def find_invited(self) -> list[Message]:
        """Who is invited on this machine; those that are known, where the vault is locked."""
        try:
            return list((await self.vault.ask("bunker", action="listen"))["listen"])
        except AvaultError:
            return [
                {"address": each.address, "client": each.client, "relays": [*each.relays.shown]}
                for each in self.visitors.values()
            ]

    async def keep_relay(self, urls: list[str]) -> None:
        """Have the relay of our own that these name; raises Unavailable."""
        port = next((read_port(url) for url in urls if is_local(url)), 0)
        if port and port != self.port:
            if self.relay:
                self.relay.shutdown()
            self.relay, self.port = None, 0
            self.relay, self.port = await start_narrow_relay(port, MOST_CONNECTIONS), port


def read_port(url: str) -> int:
    """The port of a relay of our own."""
    number = url.partition("://")[2].partition(":")[2].partition("/")[0]
    return int(number) if is_port(number) else 0


async def serve_invited(places: Places) -> None:
    """Look whenever that is asked for on stdin, until that ends."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(report_quietly)
    front, lines = NostrFront(places), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        try:
            answer = await front.look()
        except Exception as error:
            answer = complain(error).to_dict()
        write_all(1, encode_frame(answer))


def main_nostr_front(argv: list[str]) -> NoReturn:
    """Serve until the daemon ends; then end by _exit, as the library does not end well."""
    try:
        harden("avault-nostr", die_with_parent=True)
        directory, where = argv
        places = Places(directory)
        places.socket = where
        asyncio.run(serve_invited(places))
    finally:
        os._exit(0)
