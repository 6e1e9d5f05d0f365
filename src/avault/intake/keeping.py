"""Asking the daemon to keep many secrets."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from avault.errors import AvaultError
from avault.intake.key_forms import SAYS_ITSELF, WORDS_OF_KINDS, find_key_kind
from avault.intake.logins import ImportedSecrets
from avault.late import Fields, field
from avault.terminal.talk import put, warn
from avault.terminal.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


BATCH_BYTES = 3 << 20  # of JSON; a frame of the protocol has at most 4 MiB
# secrets in one request: each is one write of the vault, and a step of the progress
BATCH_COUNT = 1000


class Stored(Fields):
    """What became of secrets, by GROUP/KEY.

    They are new to the vault, there already, or there with another value.
    """

    new: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)


def batches(found: ImportedSecrets) -> Iterator[list[list[str]]]:
    """Secrets as they fit into one request."""
    batch: list[list[str]] = []
    size = 0
    for (group, key), value in found.items():
        row = [group, key, value]
        length = len(json.dumps(row)) + 2
        if batch and (size + length > BATCH_BYTES or len(batch) == BATCH_COUNT):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += length
    if batch:
        yield batch


def compare(terminal: Terminal, found: ImportedSecrets) -> Stored:
    """What the vault has of these secrets; nothing is written."""
    stored = Stored()
    for batch in batches(found):
        answer = terminal.ask("import", value={"secrets": batch}, dry_run=True)
        stored.new += answer["new"]
        stored.same += answer["same"]
        stored.differs += answer["replaced"]
    return stored


def store(
    terminal: Terminal,
    found: ImportedSecrets,
    stored: Stored,
    notes: dict[str, str],
    replacing: bool,
) -> None:
    """Write what `compare` found to be new, and what differs if it may be replaced.

    The rest is there already.
    """
    wanted = {*stored.new, *(stored.differs if replacing else ())}
    todo = {name: value for name, value in found.items() if "/".join(name) in wanted}
    done, drawn = 0, sys.stderr.isatty() and len(todo) > BATCH_COUNT
    for batch in batches(todo):
        of_these = {group: notes[group] for group, _, _ in batch if group in notes}
        try:
            terminal.ask("import", value={"secrets": batch, "notes": of_these}, replace=replacing)
        except AvaultError as error:
            if not done:
                raise
            message = f"{error.message}; {done:,} of {len(todo):,} are imported"
            raise type(error)(
                message, "the same command again goes on where this one ended"
            ) from None
        done += len(batch)
        if drawn:
            end = "\n" if done == len(todo) else ""
            print(
                f"\r\x1b[Kavault: imported {done:,} of {len(todo):,}",
                end=end,
                file=sys.stderr,
                flush=True,
            )
    if replacing:
        stored.replaced, stored.differs = stored.differs, []


def some(names: Iterable[str], limit: int = 10) -> str:
    """Names for a sentence; not more than a person reads."""
    listed = list(names)
    more = f" and {len(listed) - limit:,} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def show_stored(stored: Stored) -> None:
    """A line for each key: what became of it, and its name."""
    for kind in ("new", "same", "differs", "replaced"):
        put("".join(f"{kind:<8}  {name}\n" for name in getattr(stored, kind)))


def tell_of_twins(terminal: Terminal, found: ImportedSecrets) -> None:
    """Warn of keys that other groups have too: a variable can have one value."""
    groups: dict[str, set[str]] = {}
    for group in terminal.ask("list")["groups"]:
        for key in group["keys"]:
            groups.setdefault(key["name"], set()).add(group["name"])
    twins = sorted({key for _, key in found if len(groups.get(key, ())) > 1})
    if twins:
        warn(
            f"in more than one group: {some(twins)}",
            "choose with --group, or tell them apart with --prefix, in export and run",
        )


def tell_of_keys(found: ImportedSecrets) -> None:
    """Say of private keys that sign that they need not be given out at all."""
    kinds = {f"{group}/{key}": find_key_kind(value) for (group, key), value in found.items()}
    for name, kind in sorted((name, kind) for name, kind in kinds.items() if kind):
        take = f"avault key import - GROUP/KEY{WORDS_OF_KINDS.get(kind, '')}"
        choice = "; KIND is evm, solana or nostr" if kind == "mnemonic" else ""
        warn(
            f"{name} {'is' if kind in SAYS_ITSELF else 'seems to be'} a private key ({kind}): "
            "whoever gets it can sign anything",
            f"to have it sign and never go out: avault get {name} | {take}, "
            f"then avault delete {name}{choice}",
        )
