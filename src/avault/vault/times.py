"""Times and durations, as people and the protocol have them."""

from __future__ import annotations

import time


def render_duration(seconds: float) -> str:
    """A duration as people say it: 90 s, 5 min, 8 h, 7 d."""
    units = {"d": 86400, "h": 3600, "min": 60, "s": 1}
    unit = next((name for name, size in units.items() if seconds % size == 0), "s")
    return f"{seconds / units[unit]:g} {unit}"


def render_time(seconds: float) -> str:
    """A time as RFC 3339 UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def parse_rendered(text: str) -> int:
    """Unix seconds of a time that `render_time` has written; raises ValueError."""
    import calendar

    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))
