"""Machines that are removed, and keys that are rotated, as the supervisor has it done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.daemon.errands import Reach
from avault.daemon.keeper import Guard
from avault.daemon.managing import agree_otherwise, need_open
from avault.errors import printable

if TYPE_CHECKING:
    from typing import Any

    from avault.daemon.managing import Manage
    from avault.protocol import Message


async def remove_machine_of(guard: Guard, request: Message, caller: dict[str, Any]) -> Message:
    """Take a machine out of the vault, if the operator agrees."""
    need_open(guard)
    name = str(request.get("name"))
    change = f"the machine {printable(name, 70)} is taken out"
    ticket = await agree_otherwise(guard, Reach(request), change)
    wish = {"do": "remove machine", "name": name, "caller": caller}
    return await guard.custody.change(ticket, wish) or {}


ROTATE: dict[str, Manage] = {"remove": remove_machine_of}
