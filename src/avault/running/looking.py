"""All forms of all values, in all views of a text."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from avault.errors import AvaultError
from avault.late import Fields
from avault.places import Places
from avault.running.forms import MANY, exact_forms_of, forms_of
from avault.running.strings import Strings
from avault.running.views import Exact, View, views_of
from avault.vault.files import read_file, write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


# values by place, GROUP/KEY: one, or more where two machines set it and nobody has settled that
Secrets = dict[str, list[str]]


class Form(Fields, frozen=True, order=True):
    """What a string says when it is found: a value of which place, in which form."""

    place: str
    kind: str


def meanings_of(secrets: Secrets) -> dict[bytes, list[Form]]:
    """All strings by which these secrets can be known, less their noise, and what each says."""
    meanings: dict[bytes, list[Form]] = {}
    for place in sorted(secrets):
        for value in secrets[place]:
            for string, kind in forms_of(value, len(secrets) <= MANY).items():
                meanings.setdefault(string, []).append(Form(place, kind))
    return meanings


def exact_of(secrets: Secrets) -> dict[bytes, list[Form]]:
    """The same for those that are to be found with their noise."""
    meanings: dict[bytes, list[Form]] = {}
    for place in sorted(secrets):
        for value in secrets[place]:
            for string, kind in exact_forms_of(value).items():
                meanings.setdefault(string, []).append(Form(place, kind))
    return meanings


def untold(places: Places, purpose: str, names: list[str]) -> list[str]:
    """Of the names of short values those that were not yet told for that purpose.

    They are noted in the state directory.
    """
    path = places.own("told")
    try:
        told = read_file(path).decode().splitlines()
    except (AvaultError, OSError, UnicodeDecodeError):
        told = []
    new = [name for name in names if f"{purpose} {name}" not in told]
    if new:
        with contextlib.suppress(OSError, AvaultError):  # then they are told again
            write_file(
                path,
                "".join(
                    f"{line}\n" for line in [*told, *(f"{purpose} {name}" for name in new)]
                ).encode(),
            )
    return new


class Search:
    """The search for strings in all views of some data, and for some in the data as it is."""

    def __init__(self, strings: Iterable[bytes], exact: Iterable[bytes]) -> None:
        solid_ones, exact_ones = list(strings), list(exact)
        self.strings = Strings(solid_ones) if solid_ones else None
        self.exact = Strings(exact_ones) if exact_ones else None
        self.longest = max(map(len, solid_ones + exact_ones), default=0)

    def views(self, data: bytes) -> Iterator[tuple[View, Strings]]:
        """The views in which to look, each with the strings to look for."""
        if self.strings:
            for view in views_of(data):
                yield view, self.strings
        if self.exact:
            yield Exact(data), self.exact
