"""What relays have of the vault: the heads of all, and the parts that a head names, from any."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from typing import TYPE_CHECKING

from avault.errors import Unavailable
from avault.signer.stored import AT_ONCE, StoredEvent, StoringRelay
from avault.vault.generations import is_after

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType
    from typing import Any, Self

    from avault.signer.relays import Introduce

GRACE_OF_RELAYS = 10.0  # seconds that others are waited for, when one has answered
PATIENCE_FOR_PARTS = 60.0  # seconds without another part of a copy


class Readers:
    """Relays that are read, for the length of an `async with`; `silent` are those that are away.

    Those that want to know who reads are told what `introduce` says (see StoringRelay).
    """

    def __init__(self, urls: list[str], introduce: Introduce | None = None) -> None:
        self.urls, self.introduce = list(dict.fromkeys(urls)), introduce
        self.relays: list[StoringRelay] = []
        self.silent: list[str] = []
        self.stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async def open_one(url: str) -> None:
            try:
                self.relays.append(
                    await self.stack.enter_async_context(StoringRelay(url, self.introduce))
                )
            except Unavailable:
                self.silent.append(url)

        await asyncio.gather(*(open_one(url) for url in self.urls))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stack.__aexit__(kind, error, trace)

    async def ask_all(
        self, ask: Callable[[StoringRelay], Awaitable[list[StoredEvent]]]
    ) -> dict[str, list[StoredEvent]]:
        """What each relay has; one that does not say, or long after another, counts as silent."""
        found: dict[str, list[StoredEvent]] = {}
        now = asyncio.get_running_loop().time

        async def ask_one(relay: StoringRelay) -> None:
            with contextlib.suppress(Unavailable):
                found[relay.url] = await ask(relay)
                if limit.when() is None:
                    limit.reschedule(now() + GRACE_OF_RELAYS)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None) as limit:
                await asyncio.gather(*(ask_one(relay) for relay in self.relays))
        self.silent += [relay.url for relay in self.relays if relay.url not in found]
        return found

    async def find_roots(self, agent: str, name: str) -> dict[str, list[StoredEvent]]:
        """The roots of an agent (hex), by relay."""
        return await self.ask_all(lambda relay: relay.fetch(agent, names=[name]))

    async def find_heads(self, author: str, topic: str) -> dict[str, list[StoredEvent]]:
        """The heads of all machines, by relay."""
        return await self.ask_all(lambda relay: relay.fetch(author, topic=topic))

    async def find_copy(self, author: str, head: dict[str, Any]) -> list[str] | None:
        """The contents of a head's parts; None where not all of them are to be had.

        A part counts with the head's time, from whatever relay, and as it comes. All relays are
        asked at the same time, each from another part on; the end is that no other part comes.
        """
        parts: dict[str, str] = {}
        names, now = head["parts"], asyncio.get_running_loop().time

        def take(each: StoredEvent) -> None:
            if each.time == head["time"] and each.name in names and each.name not in parts:
                parts[each.name] = each.content
                is_whole = len(parts) == len(names)
                limit.reschedule(now() + (0.0 if is_whole else PATIENCE_FOR_PARTS))

        async def ask(relay: StoringRelay, first: int) -> None:
            left = [*names[first:], *names[:first]]
            while left := [name for name in left if name not in parts]:
                some, before = left[:AT_ONCE], len(parts)
                try:
                    await relay.fetch(author, names=some, take=take)
                    left = left[len(some) :]  # what it has not given of these it has not
                except Unavailable:
                    if len(parts) == before:
                        return

        begins = [len(names) * number // len(self.relays) for number in range(len(self.relays))]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_FOR_PARTS) as limit:
                await asyncio.gather(*map(ask, self.relays, begins))
        is_whole = all(name in parts for name in names)
        return [parts[name] for name in names] if is_whole else None


def merge_found(found: dict[str, list[StoredEvent]]) -> list[StoredEvent]:
    """What relays have, each event once: of each address the latest first, then those before.

    Of equal ones the lower id (NIP-01). A relay that has kept old events puts no other one away.
    """
    once = {each.id: each for events in found.values() for each in events}
    ranks: dict[str, int] = {}
    ranked = []
    for each in sorted(once.values(), key=lambda each: (-each.time, each.id)):
        ranks[each.name] = rank = ranks.get(each.name, -1) + 1
        ranked.append((rank, each))
    return [each for _, each in sorted(ranked, key=lambda pair: pair[0])]


def find_latest(events: list[StoredEvent]) -> dict[str, StoredEvent]:
    """By address the event that counts: the latest, of equal ones that of the lower id (NIP-01)."""
    ordered = sorted(events, key=lambda each: (-each.time, each.id))
    return {each.name: each for each in reversed(ordered)}


def count_hosts(urls: Iterable[str]) -> int:
    """How many relays are other people's: a host with several paths or ports is one.

    At this machine itself each port is one.
    """
    return len({name_host(url) for url in urls})


def name_host(url: str) -> str:
    """The host of a relay's URL, which is in one spelling (see `normalise_relay`)."""
    address = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
    name, colon, port = address.rpartition(":")
    host = name if colon and port.isdecimal() else address
    return address if is_this_machine(host) else host


def is_this_machine(host: str) -> bool:
    """Whether a host is this machine itself, by its name or address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def choose_latest(heads: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The heads of copies that no other has all of, the latest first."""
    return [
        head
        for head in heads
        if not any(
            is_after(other["generation"], head["generation"])
            and other["generation"] != head["generation"]
            for other in heads
        )
    ]
