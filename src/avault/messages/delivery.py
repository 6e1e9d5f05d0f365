"""Private messages delivered: put on the relays by which somebody takes them (NIP-17)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from avault.errors import Unavailable, Usage
from avault.signer.stored import StoringRelay
from avault.vault.own_files import normalise_relay

if TYPE_CHECKING:
    from typing import Any

MOST_ADDRESSES = 10  # relays that a message is put on


async def find_inbox(public: str, urls: list[str]) -> list[str]:
    """The relays by which somebody (hex) takes private messages, as these relays know it.

    The latest word counts; none where nobody knows.
    """

    async def ask(url: str) -> tuple[int, list[str]]:
        try:
            async with StoringRelay(url) as relay:
                return await relay.fetch_inbox(public)
        except Unavailable:
            return 0, []

    answers = await asyncio.gather(*(ask(url) for url in dict.fromkeys(urls)))
    found: dict[str, None] = {}
    for url in max(answers, default=(0, []), key=lambda answer: answer[0])[1]:
        with contextlib.suppress(Usage):
            found[normalise_relay(url)] = None
    return [*found][:MOST_ADDRESSES]


async def put_event(event: dict[str, Any], urls: list[str]) -> dict[str, str]:
    """Put an event on relays: what each says, "accepted" if it took it."""

    async def put_on(url: str) -> str:
        try:
            async with StoringRelay(url) as relay:
                return await relay.send(event)
        except Unavailable as error:
            return error.message

    urls = [*dict.fromkeys(urls)]
    return dict(zip(urls, await asyncio.gather(*map(put_on, urls)), strict=True))
