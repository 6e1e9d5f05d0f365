"""The custodians as `custody list` shows them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avault.custody.shared import Shared
from avault.daemon.errands import Reach, run_errand
from avault.daemon.keeper import Warden
from avault.errors import AvaultError, printable
from avault.vault.names import PHONE
from avault.vault.presence import read_sealed

if TYPE_CHECKING:
    from typing import Any

    from avault.daemon.managing import Manage
    from avault.protocol import Message


async def list_custodians(warden: Warden, request: Message, caller: dict[str, Any]) -> Message:
    """Each custodian, and whether it is there now; and those that came by git and are not used."""
    found = warden.custody.custodians.read()
    names = [name for name in found["order"] if name != PHONE]

    async def probe(name: str) -> dict[str, Any]:
        shown: dict[str, Any] = {"name": name, "opened": found["opened"].get(name)}
        try:
            content = warden.custody.custodians.load(name)
        except AvaultError as error:
            unknown = dict.fromkeys(("kind", "asks", "shared"))
            return {**shown, **unknown, "outcome": error.code, "said": error.message}
        answer = await run_errand(warden.places, "probe", content, Reach({}))
        outcome = str(answer.get("outcome"))
        said = printable(answer.get("value") or answer.get("detail") or outcome)
        about = {each: content[each] for each in ("kind", "asks", "settings")}
        about["shared"] = is_own(warden, name)
        if content["kind"] == PHONE:
            about["operator"] = content["settings"].get("operator")
        return {**shown, **about, "outcome": outcome, "said": said}

    probed = dict(zip(names, await asyncio.gather(*map(probe, names)), strict=True))
    probed[PHONE] = describe_phone(warden)
    return {
        "custodians": [probed[name] for name in found["order"]],
        "offered": list_offered(warden),
    }


def describe_phone(warden: Warden) -> dict[str, Any]:
    """This machine's own phone, as the others are described; no relay is asked."""
    is_paired = warden.custody.has_phone()
    opened, operator = find_opened(warden) if is_paired else (None, None)
    return {
        "name": PHONE,
        "kind": PHONE,
        "asks": True,
        "shared": False,
        "settings": {},
        "operator": operator,
        "opened": opened,
        "outcome": "ok" if is_paired else "not_found",
        "said": "this machine is paired" if is_paired else "this machine is not paired",
    }


def find_opened(warden: Warden) -> tuple[str | None, str | None]:
    """When this machine's own phone last opened the vault, and whose it is (an npub)."""
    try:
        unlock = read_sealed("unlock", warden.places.own("unlock.json"))
        return unlock["proven"], unlock["operator"]
    except AvaultError:
        return None, None


def list_offered(warden: Warden) -> list[dict[str, Any]]:
    """The shared custodians that this machine does not use: what came by git, and is nobody's word.

    `why` is what speaks against one.
    """
    offered = []
    for name in Shared(warden.places).names():
        if name in warden.custody.order() and is_own(warden, name):
            continue
        shown: dict[str, Any] = {"name": name, "why": None}
        try:
            content = warden.custody.find_shared(name, None)
            shown |= {each: content[each] for each in ("kind", "asks", "settings")}
        except AvaultError as error:
            shown["why"] = error.message
        offered.append(shown)
    return offered


def is_own(warden: Warden, name: str) -> bool:
    """Whether what lies in the vault directory under a name is what this machine uses."""
    try:
        return Shared(warden.places).read(name) == warden.custody.custodians.load(name)
    except AvaultError:
        return False


LIST: dict[str, Manage] = {"list": list_custodians}
