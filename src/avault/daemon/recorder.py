"""Having git told of what was written."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

from avault.daemon.programs import run_program
from avault.places import Places
from avault.process import own_command
from avault.tasks import spawn
from avault.vault.work_tree import find_git

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Recorder:
    """Runs `avault git record`, one at a time. `said` is what it said last.

    `verified` gives the hashes of the files that the keyholder vouches for.
    """

    def __init__(self, places: Places, verified: Callable[[], dict[str, Any]]) -> None:
        self.places, self.verified = places, verified
        self.said: dict[str, Any] | None = None
        self.is_recording = self.is_due = False
        self.tasks: set[asyncio.Task[None]] = set()

    def record(self) -> None:
        """Have git told of what was written; nobody waits for it."""
        self.is_due = True
        if not self.is_recording:
            self.is_recording = True
            spawn(self.tasks, self.run())

    async def run(self) -> None:
        """Run it, once more if something was written meanwhile."""
        try:
            while self.is_due:
                self.is_due = False
                if find_git(os.path.realpath(self.places.dir)):
                    # hashes; git outlives us, and a lock
                    verified = json.dumps(self.verified())
                    words = ("git", "record", "--dir", self.places.dir, "--verified", verified)
                    self.said = await run_program(own_command(*words))
        finally:
            self.is_recording = False
