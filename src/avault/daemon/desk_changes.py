"""Desks that open this machine with others, as the supervisor has them let in, and turned.

The keyholder says what a desk's file is to be; it is written here, by who writes all of them.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from avault.custody.custodians import check_custodian
from avault.custody.desk import find_desk
from avault.daemon.keeper import Warden
from avault.daemon.managing import need_open
from avault.daemon.sharing import write_order
from avault.errors import AvaultError, Denied
from avault.protocol import refuse_unknown

if TYPE_CHECKING:
    from typing import Any

    from avault.daemon.managing import Manage
    from avault.protocol import Message


DESK_FIELDS = frozenset({"action", "name", "statement"})


async def have_desk(
    warden: Warden, request: Message, caller: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """What a desk's file is to be, as the keyholder says it; raises why it is to be none."""
    about = {"name": str(request["name"]), "statement": str(request.get("statement"))}
    wish = {"do": "desk", "action": request["action"], **about, **more, "caller": caller}
    if content := await warden.custody.change(secrets.token_hex(16), wish):
        return content
    raise AvaultError("the keyholder gave nothing for the desk", "try again")


async def join_desk(warden: Warden, request: Message, caller: dict[str, Any]) -> Message:
    """Have a desk open this vault from now on, if the operator agrees on this machine's phone."""
    need_open(warden)
    refuse_unknown(request, DESK_FIELDS)
    custodians, name = warden.custody.custodians, check_custodian(str(request.get("name")))
    if name in custodians.order():
        find_desk(warden.places, name)  # what it replaces is one, too
    content = await have_desk(warden, {**request, "name": name}, caller)
    is_new = name not in custodians.order()
    custodians.save(content)
    if is_new:
        write_order(warden, name, asks=True)
    return {"name": name, "key": content["settings"]["key"]}


async def turn_desk(warden: Warden, request: Message, caller: dict[str, Any]) -> Message:
    """Seal anew for a desk's next key, which its present one has signed; no phone is asked.

    Raises Denied where the desk was taken away meanwhile, or turned.
    """
    if warden.condition.state != "unlocked":
        raise warden.condition.locked()
    refuse_unknown(request, DESK_FIELDS)
    name = check_custodian(str(request.get("name")))
    before = find_desk(warden.places, name)
    content = await have_desk(warden, {**request, "name": name}, caller, content=before)
    if find_desk(warden.places, name) != before:
        raise Denied(f"the desk {name} is another meanwhile", "at the desk: avault fleet doctor")
    warden.custody.custodians.save(content)
    return {"name": name, "key": content["settings"]["key"]}


DESKS: dict[str, Manage] = {"join": join_desk, "turn": turn_desk}
