"""Who gives relays the copies, and reads them there: what relays are told that want to know it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from avault.client import ask_daemon
from avault.errors import AvaultError
from avault.places import Places

if TYPE_CHECKING:
    from typing import Any

    from avault.signer.relays import Introduce


def introduce_by(places: Places) -> Introduce:
    """Have the keyholder say it (NIP-42): the key under which the copies are, never the agent's.

    A relay that gets copies learns of that key anyway. Of a locked vault nothing is said, as that
    key is away then. Roots come and go without it: it is not to be linked to the agent.
    """

    async def introduce(url: str, challenge: str) -> dict[str, Any] | None:
        asked = {"action": "auth", "relay": url, "challenge": challenge}
        with contextlib.suppress(AvaultError):
            answer = await asyncio.to_thread(ask_daemon, places, "replica", **asked)
            return dict(answer["event"])
        return None

    return introduce
