"""The programs that run beside the daemon, as the supervisor has them. None is given a secret."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avault.daemon.front_process import Fronts
from avault.daemon.messenger import Messenger
from avault.daemon.recorder import Recorder
from avault.daemon.replicator import Replicator
from avault.errors import AvaultError, complain
from avault.places import Places
from avault.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.daemon.keeper import Warden


LOOK_AGAIN = 30.0  # seconds until the front end for those who are invited is looked after


class Companions:
    """Git is told, relays are given, the operator is written to, and front ends are served.

    `verified` gives the digests of the files that the open vault has looked at, `say` is told what
    goes wrong.
    """

    def __init__(
        self, places: Places, verified: Callable[[], dict[str, str]], say: Callable[[str], None]
    ) -> None:
        self.say = say
        self.recorder, self.replicator = Recorder(places, verified), Replicator(places)
        self.messenger, self.fronts = Messenger(places), Fronts(places)

    def note_written(self) -> None:
        """Have git told, and relays given, what was written."""
        self.recorder.record()
        self.replicator.note()

    def begin(self, tasks: set[asyncio.Task[None]], warden: Warden) -> None:
        """Have them follow the vault's state."""
        spawn(tasks, self.replicator.run(warden))
        spawn(tasks, self.messenger.run(warden))
        spawn(tasks, self.follow_invited(warden))

    async def follow_invited(self, warden: Warden) -> None:
        """Have the front end for those who are invited look, whenever they are others.

        And again, after a while, where it was kept from that, or has ended.
        """
        fault = ""
        while True:
            try:
                async with asyncio.timeout(LOOK_AGAIN):
                    await warden.invited.wait()
            except TimeoutError:
                if not fault and not self.fronts.has_lost_carrier():
                    continue
            warden.invited.clear()
            said, fault = fault, ""
            try:
                await self.fronts.nostr()
            except (AvaultError, OSError) as error:
                fault = complain(error).message
                if fault != said:
                    self.say(f"who is invited is not served: {fault}")

    def describe(self) -> dict[str, Any]:
        """What `status` shows of them."""
        shown = {"git": self.recorder.said, "replica": self.replicator.said}
        return {**shown, "messages": self.messenger.describe()}

    def leave(self) -> None:
        """The daemon ends."""
        self.replicator.leave()
        self.fronts.end()
        self.fronts.end_carrier()
