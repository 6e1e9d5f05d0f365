"""Machines that are removed, and keys that are rotated, as the supervisor has it done."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from avault.custody.custodians import Custodians
from avault.custody.shared import Shared, is_shared
from avault.daemon.errands import Reach, try_custodian
from avault.daemon.forgetting import FORGET, encode_forgetting, forget_keys, forget_left
from avault.daemon.keeper import Warden
from avault.daemon.managing import agree_otherwise, entrust_to, need_open
from avault.daemon.sentences import describe_openers
from avault.daemon.sharing import name_account
from avault.errors import AvaultError, Denied, Usage, printable
from avault.keys.custodian import raise_outcome
from avault.keys.obtaining import AGREED
from avault.places import sha256
from avault.process import place_name
from avault.tasks import see_through
from avault.vault.names import PHONE
from avault.vault.own_files import encode_file
from avault.vault.rotation import Stage, drop, is_committed

if TYPE_CHECKING:
    from typing import Any

    from avault.daemon.managing import Manage
    from avault.protocol import Message


async def remove_machine_of(warden: Warden, request: Message, caller: dict[str, Any]) -> Message:
    """Take a machine out of the vault, if the operator agrees."""
    need_open(warden)
    name = str(request.get("name"))
    change = f"the machine {printable(name, 70)} is taken out"
    ticket = await agree_otherwise(warden, Reach(request), change)
    wish = {"do": "remove machine", "name": name, "caller": caller}
    return await warden.custody.change(ticket, wish) or {}


async def rotate_agent(warden: Warden, request: Message, caller: dict[str, Any]) -> Message:
    """Give the vault a new agent's key, if the operator agrees.

    Until all is sealed with it, and what custodians can be has opened it, nothing has changed.
    """
    need_open(warden)
    reach, custody = Reach(request), warden.custody
    names = [each for each in custody.order() if each != PHONE and not custody.is_phone(each)]
    known, left = load_custodians(warden, names)
    told = [{**content, "shared": is_shared(content)} for content in known]
    offered = [{each: content[each] for each in (*AGREED, "agreed")} for content in told]
    operators = {
        "": warden.condition.report["first_operator"],
        **warden.condition.report["operators"],
    }
    openers = describe_openers(operators, offered, place_name())
    change = f"it has a new agent's key; opened then by: {openers}"
    ticket = await agree_otherwise(warden, reach, change)
    about = {"caller": caller, "custodians": offered, "operators": operators}
    wish = {"do": "rotate", "step": "begin", **about}
    begun = await custody.change(ticket, wish) or {}
    changed = begun.pop("changed", [])
    why = "it is not as it was agreed to"
    left += [{"name": name, "why": why} for name in changed]
    stage = Stage(warden.places)
    added: list[dict[str, Any]] = []
    try:
        for content in (each for each in known if each["custodian"] not in changed):
            name = content["custodian"]
            try:
                agent = begun["agent"]
                added.append(await entrust_anew(warden, stage, content, agent, reach, caller))
            except AvaultError as error:
                if custody.is_final(name, error):
                    raise
                left.append({"name": name, "why": error.message})
        if left and not added and not custody.has_phone():
            why = "; ".join(f"{each['name']}: {each['why']}" for each in left)
            raise Denied(f"no custodian would open the vault with the new key: {why}")
        renewed = [each["custodian"] for each in added]
        old = [each for each in known if each["custodian"] in renewed]
        left += [
            {"name": name, "why": "it is shared, and not used on this machine"}
            for name in Shared(warden.places).names()
            if name not in custody.order()
        ]
    except BaseException:
        await forget_keys(warden.places, added)
        drop(stage.at)
        raise
    # from here on it is no matter whether the client stays
    done = await see_through(turn_over(warden, begun["agent"], old, added))
    return {**begun, **done, "custodians": [each["custodian"] for each in added], "left": left}


def load_custodians(
    warden: Warden, names: list[str]
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """What these custodians have, before anybody is asked; and which of them cannot be read."""
    known: list[dict[str, Any]] = []
    left: list[dict[str, str]] = []
    for name in names:
        try:
            known.append(warden.custody.custodians.load(name))
        except AvaultError as error:
            left.append({"name": name, "why": error.message})
    return known, left


async def turn_over(
    warden: Warden, agent: str, old: list[dict[str, Any]], added: list[dict[str, Any]]
) -> dict[str, Any]:
    """Have the new key count, and custodians forget what no longer does."""
    places, stage = warden.places, Stage(warden.places)
    try:
        stage.put(FORGET, encode_forgetting(places, old))
        for content in added:  # as they were written when they had opened the vault
            name, data = content["custodian"], encode_file("custody", content)
            path = Custodians(stage).path_of(name)
            stage.files[os.path.basename(path)] = sha256(data).hex()
            if "signed" in content:
                stage.put(os.path.basename(Shared(stage).path_of(name)), data)
        wish = {"do": "rotate", "step": "turn over", "agent": agent, "files": stage.files}
        done = await warden.custody.change(secrets.token_hex(16), wish)
    except BaseException:
        if not is_committed(places, agent):
            await forget_keys(places, added)
            drop(stage.at)
        raise
    await forget_left(places)
    return done or {}


async def entrust_anew(
    warden: Warden,
    stage: Stage,
    content: dict[str, Any],
    agent: str,
    reach: Reach,
    caller: dict[str, Any],
) -> dict[str, Any]:
    """Have a custodian keep what opens the new key, beside what it has, and try it.

    Raises AvaultError where that cannot be, as where it asks a person and none is there.
    """
    name = content["custodian"]
    if content["asks"] and not reach.is_there():
        raise Usage("it asks a person, and there is no terminal")
    if any(each == "delete" or each.endswith(".delete") for each in content["settings"]):
        raise Usage("it keeps its key in one place, which is still needed")
    shared = is_shared(content)
    content = {each: value for each, value in content.items() if each != "signed"}
    content |= {"account": name_account(content, shared), "agent": agent, "kept": None}
    ticket = secrets.token_hex(16)
    errand = {"do": "rotate", "step": "entrust", "agent": agent}
    content = await entrust_to(warden, content, reach, ticket, caller, shared, errand)
    Custodians(stage).save(content)
    try:
        tried = await try_custodian(warden.places, content, reach, "staged")
        raise_outcome(tried, "it has its key, and does not open the vault: {}")
    except BaseException:
        Custodians(stage).drop(name)
        await forget_keys(warden.places, [content])
        raise
    return content


ROTATE: dict[str, Manage] = {"remove": remove_machine_of, "agent": rotate_agent}
