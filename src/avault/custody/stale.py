"""Files of custodians that open nothing: of another agent's key, of another vault, or of nobody."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from avault.custody.custodians import Custodians
from avault.errors import AvaultError
from avault.places import Places
from avault.vault.presence import read_sealed
from avault.vault.rotation import REFUSED

if TYPE_CHECKING:
    from collections.abc import Iterator


def find_stale(places: Places) -> Iterator[tuple[str, str]]:
    """What is wrong with a custodian's file here, and what to do, as far as it tells without a key.

    What is damaged says so itself, when it is tried.
    """
    custodians = Custodians(places)
    try:
        mine, order = read_sealed("unlock", places.own("unlock.json")), custodians.order()
    except AvaultError:
        return
    for name in custodians.names():
        again = f"avault custody add KIND --name {name}"
        try:
            content = custodians.load(name)
        except AvaultError:
            continue
        path = custodians.path_of(name)
        if name not in order:
            yield f"{path} is of no custodian that is tried", f"if it is needed no more: rm {path}"
        elif content["vault"] != mine["vault"]:
            yield f"the custodian {name} is of another vault", f"avault custody remove {name}"
        elif content["agent"] != mine["agent"]:
            hint = f"{again} --replace, or: avault custody remove {name}"
            yield f"the custodian {name} opens another agent's key, not this one's", hint
    for name in custodians.names(candidate=True):
        path = custodians.path_of(name, candidate=True)
        hint = f"add it again: avault custody add KIND --name {name}; or: rm {path}"
        yield f"{path} is of an add that was cut off, and opens nothing", hint


def warn_of_stale(places: Places) -> list[str]:
    """The same for `status`, and a rotation that was put there by somebody else."""
    found = [f"{text}; {hint}" for text, hint in find_stale(places)]
    if os.path.lexists(path := places.own(REFUSED)):
        found.append(f"{path} is no rotation by this vault's agent; see: avault doctor rotation")
    return found
