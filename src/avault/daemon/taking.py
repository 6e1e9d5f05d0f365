"""Shared custodians that came by git: taken in here once they have opened the vault."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.custody.custodians import check_custodian
from avault.daemon.errands import Reach, try_custodian
from avault.daemon.keeper import Warden
from avault.daemon.sharing import write_order
from avault.errors import Usage
from avault.keys.custodian import raise_outcome

if TYPE_CHECKING:
    from typing import Any

    from avault.daemon.managing import Manage
    from avault.protocol import Message


async def take_custodian(warden: Warden, request: Message, caller: dict[str, Any]) -> Message:
    """Have this machine use a shared custodian, or what has taken its place: if it opens the vault.

    Nobody has to agree: the operator did, to that on every machine, when it was added.
    """
    name, reach, custodians = (
        check_custodian(str(request.get("name"))),
        Reach(request),
        warden.custody.custodians,
    )
    warden.custody.complete_shared()  # whose file is where this one's is to be
    content = warden.custody.find_shared(name, None)
    if name in custodians.order() and not custodians.load(name).get("signed"):
        raise Usage(
            f"this machine has a custodian {name} of its own", f"avault custody remove {name}"
        )
    custodians.save(content, candidate=True)
    try:
        raise_outcome(await try_custodian(warden.places, content, reach, "taken"))
    finally:
        custodians.drop_candidate(name)
    keep(warden, content)
    return {"name": name, "asks": content["asks"]}


def keep(warden: Warden, content: dict[str, Any]) -> None:
    """Use a shared custodian from now on, as it has opened the vault."""
    name, custodians = content["custodian"], warden.custody.custodians
    is_new = name not in custodians.order()
    custodians.save(content)
    if is_new:
        write_order(warden, name, content["asks"])
    warden.custody.note_opened(name)


SHARE: dict[str, Manage] = {"take": take_custodian}
