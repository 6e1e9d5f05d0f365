"""What callers of a wallet want signed, each made once: also for one who hung up and asks again.

Two equal payments are two. But who asks for the same as one that hung up joins its question, and
gets the answer that was not delivered; a client that gives up and tries again pays once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avault.errors import Unavailable
from avault.process import uptime

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    Make = Callable[["Deal"], Awaitable[Any]]


WALLET_GRACE = 60.0  # seconds that a question stays open for who asks again
UNDELIVERED_TIME = 600.0  # seconds that an answer is kept for whom it did not reach
MOST_DEALS = 1_000  # that are under way, or whose answer reached nobody


class Deal:
    """One thing to be signed, in words of `what`; `callers` is how many wait for it now.

    `raw` is a transaction that was signed for it, with its `nonce`, and that a node may have taken
    or not; `replaced_at` since when a node says that another one has its place.
    """

    def __init__(self, what: str) -> None:
        self.what, self.callers, self.left_at = what, 0, 0.0
        self.is_delivered, self.raw, self.nonce = False, "", 0
        self.replaced_at = 0.0
        self.task: asyncio.Task[Any] | None = None

    def is_open(self) -> bool:
        """Whether who asks for the same takes part: nobody waits for it, and nobody has it."""
        if self.callers or self.is_delivered or not self.task:
            return False
        if self.is_vain() and not self.raw:
            return False
        return uptime() < self.left_at + (UNDELIVERED_TIME if self.task.done() else WALLET_GRACE)

    def is_vain(self) -> bool:
        """Whether making it has failed."""
        task = self.task
        return bool(task and task.done() and (task.cancelled() or task.exception()))

    def end(self, is_delivered: bool) -> None:
        """A caller has its answer, which is nobody else's then; or it left without."""
        self.is_delivered = self.is_delivered or is_delivered
        self.callers -= 1
        self.left_at = uptime()


class Deals:
    """Those that are under way, or whose answer reached nobody."""

    def __init__(self) -> None:
        self.deals: list[Deal] = []

    async def take_part(self, what: str, make: Make) -> tuple[Any, Deal]:
        """The answer to what a caller wants, made or found; raises what making it does.

        Raises Unavailable where there are too many: of one that is forgotten nobody would know that
        it was asked for, and who asks again would pay twice.

        Who gets it says what became of it: see `end`. A caller that leaves meanwhile, which is a
        cancelled task, leaves it open for a while.
        """
        self.tidy()
        found = [each for each in self.deals if each.what == what and each.is_open()]
        deal = found[0] if found else Deal(what)
        if not found and len(self.deals) >= MOST_DEALS:
            raise Unavailable("too much is asked for at once", "try again in a while")
        if not found:
            self.deals.append(deal)
        if not found or deal.is_vain():
            deal.task = asyncio.get_running_loop().create_task(self.run(deal, make))
        deal.callers += 1
        try:
            if not deal.task:
                raise asyncio.CancelledError
            return await asyncio.shield(deal.task), deal
        except BaseException as error:
            deal.end(False)
            if isinstance(error, asyncio.CancelledError):
                self.leave(deal)
            raise

    async def run(self, deal: Deal, make: Make) -> Any:
        """Make it."""
        return await make(deal)

    def leave(self, deal: Deal) -> None:
        """A caller has left: if nobody comes, the question ends."""
        asyncio.get_running_loop().call_later(WALLET_GRACE, self.give_up, deal)

    def give_up(self, deal: Deal) -> None:
        """End what nobody waits for."""
        is_left = not deal.callers and uptime() >= deal.left_at + WALLET_GRACE - 1
        if deal.task and not deal.task.done() and is_left:
            deal.task.cancel()

    def tidy(self) -> None:
        """Forget those of which nobody can get anything."""
        self.deals = [e for e in self.deals if e.callers or e.is_open() or is_busy(e)]


def is_busy(deal: Deal) -> bool:
    """Whether it is under way."""
    return bool(deal.task and not deal.task.done())
