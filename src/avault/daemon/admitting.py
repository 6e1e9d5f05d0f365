"""Changes of who may approve for a vault, as the supervisor has them made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.daemon.errands import Reach
from avault.daemon.keeper import Warden
from avault.daemon.managing import agree_otherwise, any_opens, need_open
from avault.errors import Denied, Usage
from avault.keys.nostr import parse_npub, to_npub
from avault.vault.names import PHONE, SUCCESSOR, check_operator

if TYPE_CHECKING:
    from typing import Any

    from avault.daemon.managing import Manage
    from avault.protocol import Message


async def change_operator(
    warden: Warden, name: str, npub: str | None, reach: Reach, caller: dict[str, Any]
) -> None:
    """Have an operator added, or with no key taken away, if who is there agrees to it."""
    need_open(warden)
    said = f"{name} may approve for this vault" + ("" if npub else " no more")
    ticket = await agree_otherwise(warden, reach, said)
    wish = {"do": "operator", "name": name, "npub": npub, "caller": caller}
    await warden.custody.change(ticket, wish)


async def admit_operator(warden: Warden, request: Message, caller: dict[str, Any]) -> Message:
    """Add an operator, who may then approve on every machine that is paired with that phone."""
    succeeds, npub = bool(request.get("succeeds")), request.get("npub")
    name = SUCCESSOR if succeeds else check_operator(request.get("name"))
    if name == SUCCESSOR and not succeeds:
        raise Usage("that name is for who takes your place", "avault rotate operator --to NPUB")
    if not isinstance(npub, str):
        raise Usage("whose key is it?", "as in: avault operator add npub1… --name alice")
    npub = to_npub(parse_npub(npub))
    await change_operator(warden, name, npub, Reach(request), caller)
    return {"name": name, "npub": npub}


async def dismiss_operator(warden: Warden, request: Message, caller: dict[str, Any]) -> Message:
    """Take an operator away, and here the phone and desks; others do so at their next unlock."""
    need_open(warden)
    name, custody, reach = check_operator(request.get("name")), warden.custody, Reach(request)
    report = warden.condition.report
    left = {each: npub for each, npub in report["operators"].items() if each != name}
    leaving = custody.strangers({**report, "operators": left})
    others = [each for each in custody.order() if each not in leaving]
    is_last = leaving and not (custody.has_phone() and PHONE in others)
    if is_last and not await any_opens(warden, others, reach):
        raise Denied(
            f"what is of {name} is the last that opens this vault here",
            "add another before: avault custody add, or: avault pair",
        )
    await change_operator(warden, name, None, reach, caller)
    had_phone = custody.is_phone(name)
    for each in custody.strangers(warden.condition.report):
        custody.custodians.forget(each)
    return {"name": name, "had_phone": had_phone}


ADMIT: dict[str, Manage] = {"admit": admit_operator, "dismiss": dismiss_operator}
