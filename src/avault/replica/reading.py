"""What relays have of the vault: the heads of all, and the parts that a head names, from any."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from avault.errors import Unavailable
from avault.signer.stored import StoredEvent, StoringRelay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType
    from typing import Any, Self

BUDGET_OF_COPY = 60.0  # seconds that a relay is given for the parts of a copy


class Readers:
    """Relays that are read, for the length of an `async with`; `silent` are those that are away."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = list(dict.fromkeys(urls))
        self.relays: list[StoringRelay] = []
        self.silent: list[str] = []
        self.stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async def open_one(url: str) -> None:
            try:
                self.relays.append(await self.stack.enter_async_context(StoringRelay(url)))
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
        """What each relay has; one that does not say counts as silent."""
        found: dict[str, list[StoredEvent]] = {}

        async def ask_one(relay: StoringRelay) -> None:
            try:
                found[relay.url] = await ask(relay)
            except Unavailable:
                self.silent.append(relay.url)

        await asyncio.gather(*(ask_one(relay) for relay in self.relays))
        return found

    async def find_roots(self, agent: str, name: str) -> dict[str, list[StoredEvent]]:
        """The roots of an agent (hex), by relay."""
        return await self.ask_all(lambda relay: relay.fetch(agent, names=[name]))

    async def find_heads(self, author: str, topic: str) -> dict[str, list[StoredEvent]]:
        """The heads of all machines, by relay."""
        return await self.ask_all(lambda relay: relay.fetch(author, topic=topic))

    async def find_copy(self, author: str, head: dict[str, Any]) -> list[str] | None:
        """The contents of a head's parts; None where not all of them are to be had.

        A part counts with the head's time, from whatever relay.
        """
        parts: dict[str, str] = {}
        for relay in self.relays:
            missing = [name for name in head["parts"] if name not in parts]
            if not missing:
                break
            with contextlib.suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(BUDGET_OF_COPY):
                    for each in await relay.fetch(author, names=missing):
                        if each.time == head["time"]:
                            parts[each.name] = each.content
        if all(name in parts for name in head["parts"]):
            return [parts[name] for name in head["parts"]]
        return None


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
    """How many relays are other people's: a host with several paths is one."""
    return len({url.partition("://")[2].partition("/")[0].rpartition("@")[2] for url in urls})


def is_after(one: dict[str, int], other: dict[str, int]) -> bool:
    """Whether a generation has everything that another has."""
    return all(one.get(machine, 0) >= count for machine, count in other.items())


def add_up(generations: Iterable[dict[str, int]]) -> dict[str, int]:
    """The generation of all of these together."""
    whole: dict[str, int] = {}
    for each in generations:
        whole |= {machine: max(count, whole.get(machine, 0)) for machine, count in each.items()}
    return whole


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
