"""The order of the tests (order.py): none is lost, and each worker begins with its part of the long ones."""

from __future__ import annotations

from typing import Any

import pytest
from order import begin_with_long


class Item:
    """As much of a test as the order looks at."""

    def __init__(self, name: int, is_long: bool) -> None:
        self.name, self.is_long = name, is_long

    def get_closest_marker(self, name: str) -> bool:
        return name == "long" and self.is_long


def shares(items: list[Any], workers: int) -> list[list[Any]]:
    """The first share of each worker, as xdist's WorkStealingScheduling.check_schedule cuts them."""
    found, rest = [], list(items)
    for left in range(workers, 0, -1):
        count = len(rest) // left
        found.append(rest[:count])
        del rest[:count]
    return found


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("number", [0, 1, 3, 10, 11, 97])
@pytest.mark.parametrize("every", [1, 2, 3, 10, 1000])
def test_long_tests_begin_the_shares(workers: int, number: int, every: int) -> None:
    items = [Item(name, name % every == every - 1) for name in range(number)]
    ordered: list[Any] = begin_with_long(items, workers)  # type: ignore[arg-type]
    assert sorted(item.name for item in ordered) == list(range(number))
    cut = shares(ordered, workers)
    for share in cut:
        kinds = [item.is_long for item in share]
        assert kinds == sorted(kinds, reverse=True), "the long ones first"
        for kind in (True, False):
            names = [item.name for item in share if item.is_long is kind]
            assert names == sorted(names), "and else as they were"
    each = [sum(item.is_long for item in share) for share in cut if share]
    assert not each or max(each) - min(each) <= 1 or every == 1
