"""How large a vault is on relays, and how long it takes to put it there and to fetch it.

    python tests/tools/bench_replica.py            prints a Markdown table
    python tests/tools/bench_replica.py --write    writes it into references/replica.md

Each relay alone, on the loopback: what is measured is avault's and the relay's work, without a network between them. Of three
rounds the median. `put there`: `avault replica push` after a write, in this process; `fetched`: heads and parts, joined and
compared with the hash.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import documents
import peers
from bench import SIZES, Vault, changed_environment

import avault

RELAYS = {"LocalRelay": peers.local_relay, "nostr-relay, SQLite": peers.nostr_relay}
ROUNDS = 3
DOCUMENT = "references/replica.md"


def fetch(vault: Vault, url: str) -> float:
    """Seconds to find and join the latest copy."""
    replica = avault.replica_keys(vault.keys)
    author = avault.public_hex(replica)

    async def find() -> None:
        async with avault.Readers([url]) as readers:
            found = avault.merge_found(await readers.find_heads(author, avault.name_event(replica, "heads")))
            head = avault.read_head(replica, found[0].event)
            data = avault.join_copy(replica, head, await readers.find_copy(author, head) or [])
        assert avault.open_vault(data, vault.keys).count() == vault.size

    begun = time.perf_counter()
    asyncio.run(find())
    return time.perf_counter() - begun


def publish(vault: Vault, number: int) -> float:
    """Seconds to have the latest write on the relays."""
    vault.run("set", "group0/KEY_0", input=f"value {number}")
    begun = time.perf_counter()
    told = avault.bring_replica_level(vault.places, send=True, insist=True)
    took = time.perf_counter() - begun
    assert all(row["kept"] for row in told["relays"]), told
    return took


def measure(top: Path) -> list[tuple[str, ...]]:
    """The rows of the table."""
    rows = []
    command = Path(sys.executable).parent / "avault"
    for size in SIZES:
        row: list[str] = []
        for number, make in enumerate(RELAYS.values()):
            vault = Vault(top / f"{size}-{number}", size, command)
            options = {"rate_limit": {"max_reqs": 100, "notes_per_minute": 100_000}} if make is peers.local_relay else {}
            with contextlib.ExitStack() as stack:
                relay = stack.enter_context(make(**options))
                stack.callback(vault.stop)
                vault.start()
                vault.run("replica", "add", relay.url, "--yes")
                with changed_environment(vault.env):
                    put = statistics.median(publish(vault, number) for number in range(ROUNDS))
                    got = statistics.median(fetch(vault, relay.url) for _ in range(ROUNDS))
                file = (vault.vault / "avault.enc").stat().st_size
                events = len(avault.Outbox.load(vault.places).slots[0])
                row = row or [f"{size:,}", f"{file:,} B", str(events)]
                row.append(f"{put:.2f} s, {got:.2f} s")
        rows.append(tuple(row))
    return rows


def main() -> None:
    top = Path(tempfile.mkdtemp(prefix="avb", dir="/tmp"))
    try:
        rows = measure(top)
    finally:
        shutil.rmtree(top, ignore_errors=True)
    heads = ("secrets", "avault.enc", "events", *(f"{name}: put there, fetched" for name in RELAYS))
    table = "\n".join("| " + " | ".join(row) + " |" for row in [heads, ("---",) * len(heads), *rows])
    print(table)
    if "--write" in sys.argv[1:]:
        path = documents.ROOT / DOCUMENT
        path.write_text(documents.refresh(path.read_text(encoding="utf-8"), replica=table), encoding="utf-8")


if __name__ == "__main__":
    main()
