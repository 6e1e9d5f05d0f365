"""The order of the tests: xdist cuts them into a share for each worker, and a share begins with its part of the long ones."""

from __future__ import annotations

import pytest


def begin_with_long(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """The tests in shares as `--dist worksteal` cuts them, so that no worker is left alone with a long test at the end."""
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    ordered: list[pytest.Item] = []
    for left in range(workers, 0, -1):
        share = (len(long) + len(others)) // left
        first = min(share, -(-len(long) // left))
        ordered += long[:first] + others[: share - first]
        del long[:first], others[: share - first]
    return ordered
