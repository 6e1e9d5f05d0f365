"""Generations: how many writes of each machine a copy of the vault has."""

from __future__ import annotations

import itertools


def is_after(one: dict[str, int], other: dict[str, int]) -> bool:
    """Whether a generation has everything that another has."""
    return all(one.get(machine, 0) >= count for machine, count in other.items())


def maximum(*generations: dict[str, int]) -> dict[str, int]:
    """The highest count of each machine."""
    return {
        machine: max(each.get(machine, 0) for each in generations)
        for machine in sorted({*itertools.chain(*generations)})
    }


def check_generation(found: dict[str, int]) -> dict[str, int]:
    """`found` if it can be a vault's generation; raises ValueError."""
    for machine, count in found.items():
        check_dot(machine, count)
    return found


def check_dot(machine: object, count: object) -> None:
    """Raise ValueError unless these are a machine and a count of its writes."""
    if type(machine) is not str or type(count) is not int or count < 0:
        raise ValueError("not a dot")
