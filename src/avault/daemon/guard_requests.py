"""What a client may ask about guards: to see them, to set one, to make one stricter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.daemon.changes import write
from avault.daemon.guarding import GuardChange, check_given, describe_guard, read_place
from avault.daemon.wire import Session
from avault.daemon.wishing import SHOWN_NAMES
from avault.errors import Denied, Usage
from avault.keys.keyholder import Keyholder
from avault.vault.guard_changes import refuse_more
from avault.vault.guards import Guards
from avault.vault.locks import find_asked
from avault.vault.records import Vault
from avault.vault.signing_keys import way_of_kind

if TYPE_CHECKING:
    from avault.keys.keyholder import Answer
    from avault.protocol import Message


MOST_QUIETLY = 25  # secrets that ask, from which on it is said what opening all of them takes


def serve_guards(keyholder: Keyholder, session: Session, request: Message) -> Answer:
    """The guards that are in force: all, or those that count for a group or a key."""
    guards = keyholder.gate.look(keyholder.open_store().vault)
    places = guards.places()
    if request.get("group") is not None:
        place = read_place(request)
        inner = [each for each in places if each.startswith(f"{place}/")]
        places = [place, *inner] if guards.of(place) else inner
    return {"ok": True, "guards": [describe_guard(guards, each) for each in places]}


async def serve_guard(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Put a guard on a group or a key, or make it stricter.

    Where that would let out what the guard there does not, nothing is written, and `weakens` says
    so: the operator has to agree.
    """
    place = read_place(request)
    given = check_given(request)
    store = keyholder.open_store()
    if given.get("ask") is not None:
        keyholder.openers.need_pairing(store)
        key = keyholder.signing.keys.look(store.vault).get(place)
        if key and way_of_kind(key.kind) == "wallet":
            raise Usage(f"{place} pays, and is asked of by its rules", "have them say: ask always")
    if GuardChange(store.vault, place, given).weakens:
        told = describe_guard(keyholder.gate.look(store.vault), place)
        return {"ok": True, "weakens": True, "guard": told}

    def change(vault: Vault) -> None:
        planned = GuardChange(vault, place, given)
        if planned.weakens:
            raise Denied(f"the guard on {place} is another one meanwhile", "try again")
        before = Guards(vault.facts)
        planned.make(store.machine)(vault)
        refuse_more(before, vault, [place])

    group, _, inner = place.partition("/")
    await write(keyholder, session, {**request, "for": None}, change)
    vault = keyholder.open_store().vault
    guards = keyholder.gate.look(vault)
    warning = warn_of_many(find_asked(vault, guards), place) if given.get("ask") is not None else ""
    there = group in vault.groups and (not inner or inner in vault.groups[group].keys)
    return {
        "ok": True,
        "weakens": False,
        "there": there,
        "guard": describe_guard(guards, place),
        **({"warning": warning} if warning else {}),
    }


def warn_of_many(names: list[str], place: str) -> str:
    """What is to be known of a place where the phone is asked for many secrets; "" for few."""
    many = len([each for each in names if each == place or each.startswith(f"{place}/")])
    if many <= MOST_QUIETLY:
        return ""
    return (
        f"that asks for {many} secrets, each by itself: opening all takes {many} approvals, and one"
        f" more for every {SHOWN_NAMES} of them"
    )
