"""Asking the keyholder about copies of the vault."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from typing import TYPE_CHECKING

from avault.client import ask_daemon
from avault.errors import AvaultError
from avault.late import Fields, context
from avault.places import Places
from avault.systemd import explain_absence

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


@context
def copies(places: Places, *contents: bytes) -> Iterator[list[str]]:
    """Ciphertexts as files in the state directory, for the length of a `with`.

    The keyholder reads them there.

    Raises NoDaemon where there was never one, and AvaultError.
    """
    paths = [places.own(f"copy-{secrets.token_hex(8)}.enc") for _ in contents]
    try:
        for path, content in zip(paths, contents, strict=True):
            write_copy(places, path, content)
        yield [os.path.basename(path) for path in paths]
    finally:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def write_copy(places: Places, path: str, content: bytes) -> None:
    """Write a file that is not there yet (0600).

    Raises NoDaemon where its directory is not, and AvaultError.
    """
    try:
        with open(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb"
        ) as file:
            file.write(content)
    except FileNotFoundError:
        raise explain_absence(places) from None
    except OSError as error:
        raise AvaultError(f"cannot write {path}: {error.strerror}", "see: df, ls -ld") from None


def remove_old_copies(places: Places) -> None:
    """Remove copies that a killed command has left behind."""
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(places.state):
            if (
                re.fullmatch(r"copy-[0-9a-f]{16}\.enc", entry.name)
                and time.time() - entry.stat().st_mtime > 3600
            ):
                os.unlink(entry.path)


class Described(Fields, frozen=True, order=True):
    """What is in a copy of the vault: groups, generation, and the version of each GROUP/KEY."""

    groups: list[dict[str, Any]]
    generation: dict[str, int]
    versions: dict[str, str]
    conflicts: list[str]


def inspect(places: Places, data: bytes, older: bool = False) -> Described:
    """Names, times and versions in a copy of the vault; raises Tampered, Locked, Unavailable.

    With `older` also in one of an agent's key before: to be looked at, and put nowhere.
    """
    with copies(places, data) as [name]:
        answer = ask_daemon(places, "inspect", file=name, older=older)
    keys = [
        (f"{group['name']}/{key['name']}", key)
        for group in answer["groups"]
        for key in group["keys"]
    ]
    return Described(
        answer["groups"],
        answer["generation"],
        {name: key["version"] for name, key in keys},
        [name for name, key in keys if key["conflict"]],
    )


def has_all(vault: Described, other: Described) -> bool:
    """Whether a copy of the vault has everything that another has."""
    return all(
        vault.generation.get(machine, 0) >= count for machine, count in other.generation.items()
    )
