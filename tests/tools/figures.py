"""What a proof counted: shown at the end of the run, and held against the table in references/proofs.md.

    figures.at_least("points of a write at which it was killed", 412)
    figures.at_most("longest answer beside a flood, in ms", 180)

The table's row of that name has a bound for every run, and one for the full form (AVAULT_TEST_FULL=1), as `≥ 1,200` or
`≤ 250`: what the document says is what the test holds to. `pick(small, full)` chooses the size of either form.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

FULL = bool(os.environ.get("AVAULT_TEST_FULL"))
DOCUMENT = Path(__file__).resolve().parents[2] / "references" / "proofs.md"
book: Any = None  # of the run; conftest.py sets it


def pick(small: Any, full: Any) -> Any:
    """What every run takes, or what the full one does."""
    return full if FULL else small


def table() -> dict[str, list[str]]:
    """The rows of the document's table of figures: name, then the two bounds and the test."""
    rows = [line.strip("| \n").split(" | ") for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    return {name: rest for name, *rest in rows if len(rest) == 3 and rest[0][:1] in "≥≤"}


def bound(name: str, sign: str) -> float:
    """What the document promises of a figure."""
    assert name in table(), f"references/proofs.md has no figure {name!r}"
    said, number = table()[name][FULL].split(" ")
    assert said == sign, f"{name!r} is {said} in references/proofs.md"
    return float(number.replace(",", ""))


def note(name: str, value: float) -> None:
    """Have a figure shown at the end of the run."""
    assert book is not None, "no test is running"
    book.write(figure=name, value=value)


def at_least(name: str, value: float) -> None:
    """Note a figure; fails if the document promises more."""
    note(name, value)
    assert value >= bound(name, "≥"), f"{name}: {value}"


def at_most(name: str, value: float) -> None:
    """Note a figure; fails if the document promises less."""
    note(name, value)
    assert value <= bound(name, "≤"), f"{name}: {value}"
