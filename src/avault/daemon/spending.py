"""What keys that pay may still spend: reserved on the disk before anybody is asked, or signs.

It is neutral as to chains. A `Cost` takes an amount of an account, which has a limit for a day:

    reservation = await reserve(keyholder, [Cost(account, 6_000_000, 20_000_000, "USDC", 6)])
    try:
        …ask, sign…
    except BaseException:
        await reservation.release()
        raise

A signature that went out stays spent, and so does what this process did not live to give back.
The counters are sealed in the vault (see vault/spent): a restart, another machine's copy, an older
copy and a clock that is set back give nothing free. A day is the last 24 hours, by whole hours.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied
from avault.keys.keyholder import Keyholder
from avault.signing.evm_words import render_units
from avault.vault.records import Vault
from avault.vault.spent import (
    HOUR,
    MOST_ACCOUNTS,
    MOST_COUNTED,
    MOST_SPENT,
    SPENT,
    find_release,
    find_spending,
    read_spent,
    render_spent,
    sum_spent,
)
from avault.vault.times import render_time

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


class Cost:
    """What a use takes of an `account` (see `identify_account`), in its smallest unit.

    `most` is what may be spent of it in a day; None where no rule says so: it counts all the same.
    `symbol` and `decimals` are for words.
    """

    def __init__(
        self, account: str, amount: int, most: int | None, symbol: str, decimals: int
    ) -> None:
        self.account, self.amount, self.most = account, amount, most
        self.symbol, self.decimals = symbol, decimals


class Reservation:
    """What was reserved, in which hour of this machine, until it is given back."""

    def __init__(self, keyholder: Keyholder, costs: list[Cost], hours: dict[str, int]) -> None:
        self.keyholder, self.costs, self.hours = keyholder, costs, hours
        self.is_open = True

    def settle(self) -> None:
        """It is spent: a signature is about to leave, and nothing of this comes back."""
        self.is_open = False

    async def release(self) -> None:
        """Give it back, once; what was settled is not. Raises AvaultError where the vault locks."""
        if not self.is_open or not self.costs:
            return
        self.is_open = False
        machine, run = self.keyholder.open_store().machine, self.keyholder.signing.run_id

        def change(vault: Vault) -> None:
            for cost in self.costs:
                when = self.hours[cost.account], run
                note_spent(vault, cost.account, machine, when, 0, cost.amount)

        await self.keyholder.change(change)


def note_spent(
    vault: Vault, account: str, machine: str, when: tuple[int, str], reserved: int, returned: int
) -> None:
    """Count in a vault what a machine reserves in an hour and a run, or gives back of it.

    Raises Denied where it has counted in too many.
    """
    name = f"{SPENT}/{account}/{machine}"
    hours = read_spent(vault.fact(name) or "{}")
    before = hours.get(when, (0, 0))
    total = min(before[0] + reserved, MOST_SPENT)  # what is more could not be read again
    hours[when] = total, min(before[1] + returned, total)
    text = render_spent(hours)
    try:
        read_spent(text)  # else nobody could read the vault again
    except ValueError:
        said = f"this key has paid in {MOST_COUNTED:,} runs of the daemon, of a week"
        raise Denied(said, "lock and unlock less often; the oldest are forgotten soon") from None
    vault.state(name, text, int(time.time()), machine)


def sum_costs(costs: Iterable[Cost]) -> list[Cost]:
    """Costs of one use, each account once: with the lower limit, where they have several."""
    found: dict[str, Cost] = {}
    for each in costs:
        before = found.get(each.account)
        if before:
            limits = [most for most in (before.most, each.most) if most is not None]
            total = before.amount + each.amount
            found[each.account] = Cost(
                each.account, total, min(limits, default=None), each.symbol, each.decimals
            )
        else:
            found[each.account] = each
    return list(found.values())


def refuse_over(vault: Vault, costs: list[Cost], now: float) -> None:
    """Raise Denied where a cost is more than is left of its day's limit."""
    for cost in costs:
        if cost.most is None:
            continue
        spent = sum_spent(vault.facts, cost.account, now)
        if spent + cost.amount > cost.most:
            left = render_units(max(cost.most - spent, 0), cost.decimals)
            wanted, most = (render_units(each, cost.decimals) for each in (cost.amount, cost.most))
            until = find_release(vault.facts, cost.account, now)
            when = f"; some of it is free again at {render_time(until)}" if until else ""
            raise Denied(
                f"over the day's limit: {wanted} {cost.symbol} of {most}, with {left} left{when}",
                "see what is left: avault wallet limits",
            )


def refuse_many(vault: Vault, costs: list[Cost], now: float) -> None:
    """Raise Denied where more accounts are spent from in a day than are remembered beside the key.

    Anybody makes a key, and spends from it: those must not push out what is known of another.
    """
    there = find_spending(vault.facts, now)
    if len(there | {each.account for each in costs}) > max(MOST_ACCOUNTS, len(there)):
        raise Denied(
            f"payments of {MOST_ACCOUNTS} keys and assets were asked for in the last 24 hours",
            "see which: avault wallet limits",
        )


async def reserve(keyholder: Keyholder, costs: Iterable[Cost]) -> Reservation:
    """Take costs from their limits, all or none, and have it on the disk; raises Denied.

    Changes of the vault are made one after the other, so no two see the same rest.
    """
    wanted, hours = [each for each in sum_costs(costs) if each.amount], dict[str, int]()
    machine, run = keyholder.open_store().machine, keyholder.signing.run_id

    def change(vault: Vault) -> None:
        now = time.time()
        refuse_over(vault, wanted, now)
        refuse_many(vault, wanted, now)
        for cost in wanted:
            own = read_spent(vault.fact(f"{SPENT}/{cost.account}/{machine}") or "{}")
            hour = max([int(now) // HOUR, *(each for each, _ in own)])
            hours[cost.account] = hour
            note_spent(vault, cost.account, machine, (hour, run), cost.amount, 0)

    reservation = Reservation(keyholder, wanted, hours)
    if wanted:
        writing = asyncio.ensure_future(keyholder.change(change))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.ensure_future(unreserve(writing, reservation)))
            raise
    return reservation


async def unreserve(writing: asyncio.Future[Any], reservation: Reservation) -> None:
    """Give back what is being reserved for a caller that left meanwhile."""
    with contextlib.suppress(AvaultError):
        await writing
        await reservation.release()


def spent_today(keyholder: Keyholder, account: str) -> int:
    """How much of an account was spent in the last 24 hours, on all machines that are known of."""
    return sum_spent(keyholder.open_store().vault.facts, account, time.time())
