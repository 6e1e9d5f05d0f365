"""What keys that pay have spent: counters that only grow, so that no copy of a vault has less.

`spent/ACCOUNT/MACHINE` is a fact of the vault, by hours since 1970 and runs of the keyholder: what
a machine has reserved of an account, and how much of that it has given back. A machine writes its
own alone; what counts is the sum of all machines'. A run knows all that it has counted itself: so
of two copies of it the higher is the later. What counted on with an older copy was another run, and
both count.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.places import sha256
from avault.vault.secret import Secret

if TYPE_CHECKING:
    from typing import Any

    # by an hour, and the run of the keyholder that counted in it
    Hours = dict[tuple[int, str], tuple[int, int]]


SPENT = "spent"
HOUR = 3600  # seconds
DAY_HOURS = 24  # that count, and the one under way
AHEAD_HOURS = 72  # that a machine's clock may be before another's
KNOWN_HOURS = AHEAD_HOURS + DAY_HOURS  # before the last, of which is known beside the key
# before a machine's latest: else what is ahead would say that what counts yet is long over
KEPT_HOURS = KNOWN_HOURS + AHEAD_HOURS + DAY_HOURS + 1
MOST_SPENT = 1 << 300  # of an account in an hour, in its smallest unit: more than any chain has
LATEST_HOUR = 1 << 25
MOST_ACCOUNTS = 100  # that are remembered beside the key, and of which something is spent in a day
MOST_COUNTED = 4_096  # hours and runs of one machine's
MOST_ENTRIES = 4 * MOST_COUNTED  # of all machines', with what a rotated-away key says of them
LONGEST_RUN = 16  # characters


def identify_account(*words: str) -> str:
    """What an account is called in a vault, of what makes it one: a key's public half, an asset."""
    return sha256("\n".join(words).encode()).hex()[:16]


def read_spent(text: str) -> Hours:
    """By hour and run what was reserved, and given back of that; raises ValueError for others."""
    found = json.loads(text)
    if not isinstance(found, dict) or len(found) > MOST_COUNTED:
        raise ValueError("not what was spent")
    hours: Hours = {}
    for when, counted in found.items():
        hour, _, run = when.partition(".")
        is_hour = hour.isascii() and hour.isdigit() and str(int(hour[:9])) == hour
        if not is_hour or int(hour) > LATEST_HOUR:
            raise ValueError("not an hour")
        if not (run.isascii() and run.isalnum() and len(run) <= LONGEST_RUN):
            raise ValueError("not a run")
        if not isinstance(counted, list) or len(counted) != 2:
            raise ValueError("not two counts")
        if not all(type(each) is int and 0 <= each <= MOST_SPENT for each in counted):
            raise ValueError("not a count")
        hours[int(hour), run] = counted[0], counted[1]
    return hours


def render_spent(hours: Hours) -> str:
    """The same as it is kept, without hours that are long before the last of them."""
    first = max((hour for hour, _ in hours), default=0) - KEPT_HOURS
    kept = {f"{when[0]}.{when[1]}": list(hours[when]) for when in sorted(hours) if when[0] >= first}
    return json.dumps(kept, separators=(",", ":"))


def join_spent(found: list[Any]) -> list[Any]:
    """One fact of several that a machine has written: of each counter the higher."""
    joined: Hours = {}
    for each in found:
        for when, (reserved, returned) in read_spent(each.value).items():
            before = joined.get(when, (0, 0))
            joined[when] = max(before[0], reserved), max(before[1], returned)
    last = max(found, key=lambda each: (each.count, each.updated, each.machine, each.created))
    return [Secret(render_spent(joined), last.created, last.updated, last.machine, last.count)]


def choose_spent(
    ours: dict[str, list[Any]], theirs: dict[str, list[Any]], now: int
) -> dict[str, list[Any]]:
    """What facts that a rotated-away key has sealed add to ours of what was spent.

    Nothing of ours is less by it: nothing is given back, and no hour is so far ahead that ours
    would be forgotten (see `render_spent`). Hours are taken as they stand, so that they count once,
    however often they are read. And ours can still be read, and pay: of more hours and runs than
    leave as much room to ours, the highest are taken, and of more accounts none; first of those
    that are ours, too.
    """
    added: dict[str, list[Any]] = {}
    mine = [
        read_spent(found[0].value) for name, found in ours.items() if name.startswith(f"{SPENT}/")
    ]
    spending, room = find_spending(ours, now), max(MOST_ENTRIES - sum(map(len, mine)), 0)
    known = {name.split("/")[1] for name in ours if name.startswith(f"{SPENT}/")}
    found: list[tuple[bool, int, str, Hours]] = []
    for name, [fact] in theirs.items():
        hours = {
            when: (reserved, 0)
            for when, (reserved, _) in read_spent(fact.value).items()
            if reserved and now // HOUR - KNOWN_HOURS <= when[0] <= now // HOUR + AHEAD_HOURS
        }
        total = sum(reserved for reserved, _ in hours.values())
        found.append((name.split("/")[1] not in known, -total, name, hours))
    for is_new, _, name, hours in sorted(found, key=lambda each: each[:3]):
        account, [fact] = name.split("/")[1], theirs[name]
        own = read_spent(ours[name][0].value) if name in ours else {}
        fresh = sorted({*hours} - {*own}, key=lambda when: (hours[when][0], when), reverse=True)
        taken = min(len(fresh), room, max(MOST_COUNTED // 2 - len(own), 0))
        for when in fresh[taken:]:
            del hours[when]
        if not hours or (is_new and len(spending | {account}) > MOST_ACCOUNTS // 2):
            continue
        room -= taken
        spending.add(account)
        kept = fact.created, fact.updated, fact.machine, fact.count
        added[name] = [Secret(render_spent(hours), *kept)]
    return added


def list_spent(found: dict[str, list[Any]]) -> dict[str, int]:
    """What is remembered beside the key, of facts by account: of those that were spent from last.

    By `spent/ACCOUNT/HOUR` what was reserved in that last hour and the days before: later copies
    have no less. It is more than a day, as another machine's clock may be ahead of ours.
    """
    counted = {account: list_reserved(facts) for account, facts in found.items()}
    lasts = {each: max((hour for hour, _ in hours), default=0) for each, hours in counted.items()}
    known: dict[str, int] = {}
    for account in sorted(lasts, key=lambda each: (-lasts[each], each))[:MOST_ACCOUNTS]:
        first = lasts[account] - KNOWN_HOURS
        total = sum(reserved for hour, reserved in counted[account] if hour >= first)
        known[f"{SPENT}/{account}/{lasts[account]}"] = total
    return known


def find_spending(facts: dict[str, list[Any]], now: float) -> set[str]:
    """The accounts from which something was reserved in the 24 hours to a time, or later."""
    first = int(now) // HOUR - DAY_HOURS
    return {
        name.split("/")[1]
        for name, found in facts.items()
        if name.startswith(f"{SPENT}/")
        and any(hour >= first for hour, _ in read_spent(found[0].value))
    }


def lacks_spent(found: dict[str, list[Any]], name: str, total: int) -> bool:
    """Whether facts by account are without what was remembered so, and is not long over."""
    _, account, last = name.split("/")
    counted, first = list_reserved(found.get(account, [])), int(last) - KNOWN_HOURS
    if any(hour >= first + KEPT_HOURS for hour, _ in counted):
        return False
    return sum(reserved for hour, reserved in counted if hour >= first) < total


def list_reserved(facts: list[Any]) -> list[tuple[int, int]]:
    """Hours, and what was reserved in each, whatever was given back."""
    found = [read_spent(each.value).items() for each in facts]
    return [(hour, reserved) for counts in found for (hour, _), (reserved, _) in counts]


def spent_by(facts: dict[str, list[Any]], account: str) -> dict[str, Hours]:
    """What each machine has spent of an account."""
    return {
        name.split("/")[2]: read_spent(found[0].value)
        for name, found in facts.items()
        if name.startswith(f"{SPENT}/{account}/")
    }


def sum_spent(facts: dict[str, list[Any]], account: str, now: float) -> int:
    """How much of an account was spent in the 24 hours to a time (Unix seconds), by whole hours.

    Also what is of the time to come: a clock that is set back frees nothing.
    """
    first = int(now) // HOUR - DAY_HOURS
    return sum(
        reserved - returned
        for hours in spent_by(facts, account).values()
        for (hour, _), (reserved, returned) in hours.items()
        if hour >= first
    )


def find_release(facts: dict[str, list[Any]], account: str, now: float) -> int:
    """When (Unix seconds) some of what was spent counts no more; 0 where nothing counts."""
    first = int(now) // HOUR - DAY_HOURS
    counted = [
        hour
        for hours in spent_by(facts, account).values()
        for (hour, _), (reserved, returned) in hours.items()
        if hour >= first and reserved > returned
    ]
    return (min(counted) + DAY_HOURS + 1) * HOUR if counted else 0
