"""What one phone and one relay see when all agents of a fleet start at once.

    python tests/tools/bench_reboot.py            prints a Markdown table
    python tests/tools/bench_reboot.py --write    writes it into references/fleet.md

See reboot.py. The relay is the library's own on the loopback, with room for 6,000 events a minute of each who writes, as the
phone's answers are of one; the phone takes 10 ms for each, where a person takes seconds.
"""

from __future__ import annotations

import asyncio
import sys

import documents
import peers
from reboot import reboot

DOCUMENT = "references/fleet.md"
SIZES = (10, 100, 1000)
TAP = 0.01  # seconds
LIMIT = {"max_reqs": 500, "notes_per_minute": 6_000}
HEADS = ("agents", "questions shown", "all shown after", "events", "in the fullest second", "answered", "all answered after")


def main() -> None:
    rows = []
    for size in SIZES:
        with peers.local_relay(rate_limit=LIMIT) as relay:
            told = asyncio.run(reboot(relay.url, size, TAP))
        row = [f"{size:,}", f"{told['prompts']:,}", f"{told['asked']:.1f} s", f"{told['events']:,}", f"{told['peak']:,}"]
        rows.append([*row, f"{told['answered']:,}", f"{told['took']:.1f} s"])
    table = "\n".join("| " + " | ".join(row) + " |" for row in [HEADS, ("---",) * len(HEADS), *rows])
    print(table)
    if "--write" in sys.argv[1:]:
        path = documents.ROOT / DOCUMENT
        path.write_text(documents.refresh(path.read_text(encoding="utf-8"), reboot=table), encoding="utf-8")


if __name__ == "__main__":
    main()
