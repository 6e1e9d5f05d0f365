"""Custodians that are taken away, as the supervisor does it: never the last that works."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from avault.custody.shared import Shared, digest_shared, is_shared, name_given
from avault.daemon.errands import Reach, run_errand
from avault.daemon.keeper import Warden
from avault.daemon.managing import agree_otherwise, any_opens, need_open
from avault.daemon.sharing import find_given, find_stated, retire
from avault.errors import AvaultError, Denied, NotFound, Tampered, Usage
from avault.vault.names import PHONE

if TYPE_CHECKING:
    from typing import Any

    from avault.daemon.managing import Manage
    from avault.protocol import Message


async def remove_custodian(warden: Warden, request: Message, caller: dict[str, Any]) -> Message:
    """Take a custodian away, with what it keeps; never the last that works.

    A shared one goes from the vault directory too, and other machines use it no more, unless that
    is to be `here` only: so the operator has to agree, as to what is added for all.
    """
    name, custody, shared = str(request.get("name")), warden.custody, Shared(warden.places)
    is_here = request.get("here") is True
    others = [each for each in custody.custodians.order() if each != name]
    if name == PHONE:
        return await remove_phone(warden, others, Reach(request))
    is_used = custody.custodians.is_there(name)
    is_last = is_used and not (custody.has_phone() and PHONE in others)
    if is_last and not await any_opens(warden, others, Reach(request)):
        raise Denied(
            f"{name} is the last that opens this vault",
            "add another before: avault custody add, or: avault pair",
        )
    is_for_all = is_signed(warden, name) if is_used else name in shared.names()
    if is_here and not (is_for_all and is_used):
        raise Usage(f"{name} is no shared custodian that is used here", "see: avault custody list")
    outcome: dict[str, Any] = {"outcome": "ok"}
    is_known = True
    if not is_here:
        kept = find_kept(warden, name)  # of what is taken away nobody is told any more
        is_known = await retire_for_all(warden, name, Reach(request), caller, is_for_all)
        outcome = await forget_secret(warden, kept, Reach(request))
    if is_for_all and not is_here:
        shared.drop(name)
        warden.wrote()
    custody.custodians.forget(name)
    if not is_known:
        raise Tampered(
            f"an old file of {name} is taken away; whether another took its place is not known",
            f"see: git log custody-{name}.json; if one did, put that back, with the vault open, and"
            f" again: avault custody remove {name}",
        )
    return {"name": name, "shared": is_for_all, **outcome}


def is_signed(warden: Warden, name: str) -> bool:
    """Whether a custodian that this machine uses is one for all: its own copy says it."""
    try:
        return is_shared(warden.custody.custodians.load(name))
    except AvaultError:
        return False


def find_kept(warden: Warden, name: str) -> dict[str, Any] | AvaultError:
    """What a custodian needs to forget its key, or why nobody knows; raises NotFound."""
    try:
        is_there = warden.custody.custodians.is_there(name)
        content = warden.custody.custodians.load(name) if is_there else None
        return content or warden.custody.find_shared(name, None)
    except NotFound:
        raise
    except AvaultError as error:
        return error


async def forget_secret(
    warden: Warden, kept: dict[str, Any] | AvaultError, reach: Reach
) -> dict[str, Any]:
    """Have a custodian forget its key: what it said."""
    if isinstance(kept, AvaultError):
        return {"outcome": kept.code, "detail": kept.message}
    answer = await run_errand(warden.places, "delete", kept, reach)
    return {"outcome": answer.get("outcome"), "detail": answer.get("detail")}


async def retire_for_all(
    warden: Warden, name: str, reach: Reach, caller: dict[str, Any], is_for_all: bool
) -> bool:
    """Have the vault know that a shared custodian is taken away, if there is one of that name.

    Whether none of that name is left: an old file says that of itself alone, unless the vault knows
    what else was given to all.
    """
    stated, given = find_stated(warden, name), find_given(warden, name)
    if is_for_all and not (stated or given):
        refuse_untrue(warden, name)
    if stated or given:
        need_open(warden)
        about = {"custodian": name, **(stated or [*given.values()])[-1]}
        digests = sorted({*map(digest_shared, stated), *given})
        said = f"{name} opens this vault no more, on every machine"
        ticket = await agree_otherwise(warden, reach, said)
        await retire(warden, about, digests, ticket, caller)
    return not is_for_all or bool(stated or name_given(warden.custody.given(), name))


def refuse_untrue(warden: Warden, name: str) -> None:
    """Raise Tampered where what is there of a shared custodian is not what the agent signed of it.

    Who can push puts that in its file's place. What it is then is not known here, so the vault
    would not know that it is taken away, and its true file would open the vault again. What the
    vault knows to be used no more is left out.
    """
    custody = warden.custody
    for load in (Shared(warden.places).read, custody.custodians.load):
        try:
            content = load(name)
        except NotFound:
            continue
        except AvaultError:  # damaged: nobody knows which it is
            content = {}
        if not content.get("signed") or digest_shared(content) not in custody.retired():
            raise Tampered(
                f"{name} is not taken away: its true file is not here, as the agent has signed it",
                f"take it from git history, then again: git log custody-{name}.json; only on this"
                " machine: --here; what is from before the agent's key was rotated: git rm",
            )


async def remove_phone(warden: Warden, others: list[str], reach: Reach) -> Message:
    """Take the phone out of the order, if the operator agrees and another opens the vault."""
    if PHONE not in warden.custody.custodians.order():
        raise NotFound("the phone is not in the order", "see: avault custody list")
    need_open(warden)
    if not await any_opens(warden, others, reach):
        raise Denied(
            "nothing but the phone opens this vault", "add another before: avault custody add"
        )
    await warden.custody.change(secrets.token_hex(16), {"do": "part"})
    warden.custody.custodians.write(others)
    return {"name": PHONE, "outcome": "ok"}


REMOVE: dict[str, Manage] = {"remove": remove_custodian}
