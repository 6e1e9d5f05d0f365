"""The vault and its relays, brought level: what happens by itself, and by `avault replica push`."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Locked, Tampered, Unavailable
from avault.places import Places
from avault.replica.progress import change_progress, hold_lock
from avault.replica.roots import explain_rotated
from avault.replica.sending import describe_relays, send_all
from avault.replica.staging import stage
from avault.replica.taking import try_to_take

if TYPE_CHECKING:
    from typing import Any


def bring_replica_level(
    places: Places, take: bool = False, send: bool = False, insist: bool = False
) -> dict[str, Any]:
    """Lay ready what relays are to have; take in what they have; send: how the relays are then.

    Of a locked vault what was laid ready is sent, and nothing of one whose file or name is
    another's too. What is wrong with the vault itself is the `problem`; what is
    wrong with what relays have is in `problems`.
    """
    told: dict[str, Any] = {"problem": None, "asked": None, "taken": 0, "problems": []}
    told["halts"] = False  # whether nothing is to be sent
    about = stage_quietly(places, told)
    if take or send:
        with hold_lock(places, "replica.sending"):  # one at a time
            if take and about and about["relays"] and may_take(places, told, insist):
                came = asyncio.run(try_to_take(places, about))
                told |= {**came, "problems": told["problems"] + came["problems"]}
                stage_quietly(places, told)
            if send and not told["halts"]:
                send_staged(places, told, insist)
        told["asked"] = int(time.time())
    notes = [*take_notes(places, insist), *explain_rotated(places)]
    told["problems"] = [*notes, *told["problems"]]
    del told["halts"]
    return {**told, **describe_relays(places)}


def take_notes(places: Places, insist: bool) -> list[str]:
    """What a person should know; once somebody has asked for it, it is told no more."""
    with change_progress(places) as progress:
        notes: list[str] = progress.content["notes"]
        progress.content["notes"] = [] if insist else notes
        return notes


def may_take(places: Places, told: dict[str, Any], insist: bool) -> bool:
    """Whether what relays have may come in: not by itself, after an older copy was taken."""
    with change_progress(places) as progress:
        progress.content["holds"] = progress.content["holds"] and not insist
        if progress.content["holds"]:
            told["problems"].append(
                "an older copy was taken (--accept-rollback), so nothing comes in from relays until"
                " you say so: avault replica push"
            )
        return not progress.content["holds"]


def send_staged(places: Places, told: dict[str, Any], insist: bool) -> None:
    """Send what is laid ready; once more where a relay needs what had to be signed for it."""
    if asyncio.run(send_all(places, insist)) and stage_quietly(places, told):
        asyncio.run(send_all(places, insist=True))


def stage_quietly(places: Places, told: dict[str, Any]) -> dict[str, Any] | None:
    """What is known of the open vault, once it is laid ready; None of one that is locked.

    Nor of one whose file, or name, is not as it should be.
    """
    try:
        about, refused = stage(places)
    except AvaultError as error:
        about, refused = None, error
    if isinstance(refused, Locked | Unavailable):
        return None
    if refused:
        told["problem"] = f"{refused.message}; {refused.hint}" if refused.hint else refused.message
    if isinstance(refused, Tampered):
        told["halts"], about = True, None
    return about
