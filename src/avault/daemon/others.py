"""The other operators' phones, asked together with this machine's own: the first approval opens."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from avault.daemon.asking import Caller
from avault.daemon.custody import Custody
from avault.errors import AvaultError, Denied, Locked, Unavailable, complain
from avault.keys.seal import request_code
from avault.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Phones:
    """What the supervisor knows of them.

    `asked` are those whose helper waits for an approval; `refusals` what those said that opened
    nothing. `changed` is called when one has ended, `is_wanted` says whether anybody waits. One
    that refuses ends nobody else's asking. Where nobody waits any more, they are listened to until
    their helpers end.
    """

    PAUSE = 5.0  # seconds before one whose helper has ended is asked anew

    def __init__(
        self,
        custody: Custody,
        changed: Callable[[], None],
        say: Callable[[str], None],
        is_wanted: Callable[[], bool],
    ) -> None:
        self.custody, self.changed, self.say, self.is_wanted = custody, changed, say, is_wanted
        self.asked: set[str] = set()
        self.refusals: dict[str, AvaultError] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """A question begins: who has refused the last one is asked again."""
        self.refusals = {}

    def ask(self, names: list[str]) -> None:
        """Have those asked that are not yet."""
        for name in names:
            if name not in self.asked and name not in self.refusals:
                self.asked.add(name)
                spawn(self.tasks, self.wait_for(name))

    async def wait_for(self, name: str) -> None:
        """Ask one phone, until it has approved or refused, or nobody waits any more."""
        try:
            while True:
                try:
                    await self.custody.open(name, Caller(None))
                    return
                except Exception as error:
                    failed = complain(error)
                    self.say(f"the phone of {name} did not open the vault: {failed.message}")
                if not isinstance(failed, Unavailable | Locked):
                    self.refusals[name] = failed
                    return
                if not self.custody.child.control or not self.is_wanted():
                    return
                await asyncio.sleep(self.PAUSE)
        finally:
            self.asked.discard(name)
            self.changed()

    def refusal(self, names: list[str]) -> AvaultError | None:
        """Why none of these opens the vault, once all have said so; a refusal counts most."""
        if any(name not in self.refusals for name in names):
            return None
        found = [self.refusals[name] for name in names]
        return next((each for each in found if isinstance(each, Denied)), found[0])

    def end(self) -> None:
        """Ask nobody any more."""
        for task in list(self.tasks):
            task.cancel()

    def describe(self) -> list[dict[str, Any]]:
        """Who is asked, and the code that the phone shows."""
        shown = []
        for name in sorted(self.asked):
            try:
                kept = json.loads(self.custody.custodians.load(name)["kept"])
                shown.append({"name": name, "code": request_code(kept["peer"])})
            except (AvaultError, ValueError, TypeError, KeyError):
                continue
        return shown
