"""Guards that are taken away or weakened, as the supervisor has it done."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from avault.daemon.errands import Reach
from avault.daemon.keeper import Warden
from avault.daemon.managing import agree_otherwise, need_open
from avault.vault.names import check_group, check_key

if TYPE_CHECKING:
    from typing import Any

    from avault.daemon.managing import Manage
    from avault.protocol import Message


async def loosen(warden: Warden, request: Message, caller: dict[str, Any]) -> Message:
    """Take the guard off a group or a key, or give it weaker rules, if the operator agrees."""
    need_open(warden)
    group, key = check_group(request.get("group")), request.get("key")
    if key is not None:
        check_key(key)
    about = {"group": group, "key": key, "rules": request.get("rules")}
    about["all"] = bool(request.get("all"))
    ticket, wish = secrets.token_hex(16), {"do": "loosen", **about, "caller": caller}
    if warden.condition.report.get("consent") == "custodian":
        told = await warden.custody.change(ticket, {"do": "weigh", **about}) or {}
        if said := wish.setdefault("said", told.get("said")):
            ticket = await agree_otherwise(warden, Reach(request), str(said), person=True)
    return await warden.custody.change(ticket, wish) or {}


LOOSEN: dict[str, Manage] = {"unguard": loosen}
