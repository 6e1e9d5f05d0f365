"""Changes of the custodians, as the supervisor makes them: each is tried before it counts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from avault.custody.custodian import raise_outcome
from avault.custody.custodians import PHONE, check_custodian
from avault.daemon.errands import Helper, Reach, read_end, run_errand, try_custodian
from avault.daemon.keeper import Guard
from avault.errors import AvaultError, Denied, NotFound, Usage, printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from avault.protocol import Message

    Manage = Callable[["Guard", "Message", dict[str, Any]], Awaitable["Message"]]


def read_settings(request: Message) -> dict[str, str]:
    """The settings of a request; raises Usage."""
    given = request.get("settings") or {}
    if isinstance(given, dict) and all(isinstance(each, str) for each in given.values()):
        return given
    raise Usage("the settings of a custodian are words", "as in: address=https://bao.example:8200")


def need_open(guard: Guard) -> None:
    """Raise Locked, Denied where no custodian can be added."""
    if guard.state != "unlocked" or not guard.child.control:
        raise guard.locked()
    if not guard.report.get("proven") and not guard.report.get("phoneless"):
        raise Denied("nobody has shown yet that the phone opens this vault", guard.pairing_hint())


async def add_custodian(guard: Guard, request: Message, caller: dict[str, Any]) -> Message:
    """Have a custodian keep an unlock key, and try whether it opens the vault: only then it counts."""
    need_open(guard)
    kind, name = str(request.get("kind")), check_custodian(str(request.get("name")))
    custody, reach = guard.custody, Reach(request)
    if name in custody.custodians.order() and not request.get("replace"):
        raise Usage(
            f"there is a custodian {name} already",
            f"choose another name with --name, or: avault custody remove {name}",
        )
    if name in custody.order() and not guard.custody.has_phone() and len(custody.order()) == 1:
        raise Denied(
            f"{name} alone opens this vault, and would open nothing if this were cut off",
            "add another before, with a name of its own: --name NAME",
        )
    content = {
        "custodian": name,
        "kind": kind,
        "asks": False,
        "settings": read_settings(request),
        "kept": None,
        "vault": guard.report["identity"],
        "name": guard.report["name"],
        "agent": guard.report["agent_npub"],
    }
    settled = raise_outcome(await run_errand(guard.places, "settle", content, reach), "{}")
    content |= settled
    if content["asks"] and not reach.is_there():
        raise Usage(f"{kind} asks a person, and there is no terminal", "type it in a terminal")
    await agree_otherwise(guard, reach)
    kept, sealed = await entrust_to(guard, content, reach, caller)
    custody.custodians.save({**content, **sealed, "kept": kept})
    tried = await try_custodian(guard.places, {**content, "kept": kept}, reach)
    raise_outcome(tried, "the custodian has its key, and does not open the vault: {}")
    order = [each for each in custody.custodians.order() if each != name]
    # one that asks nobody comes before the phone, one that asks a person after it
    place = order.index(PHONE) if PHONE in order and not content["asks"] else len(order)
    custody.custodians.write([*order[:place], name, *order[place:]])
    custody.note_opened(name)
    if guard.child.control:
        guard.child.control.send({"do": "proven"})
    return {"name": name, "asks": content["asks"]}


async def agree_otherwise(guard: Guard, reach: Reach) -> None:
    """In a vault without a phone, have who opens it with a custodian agree; else the phone is asked."""
    if guard.custody.has_phone():
        return
    failed: AvaultError | None = None
    for name in guard.custody.order():
        try:
            if name != PHONE:
                await guard.custody.agree(name, reach)
                return
        except AvaultError as error:
            failed = error
    if failed:
        raise failed


async def entrust_to(
    guard: Guard, content: dict[str, Any], reach: Reach, caller: dict[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    """Have the keyholder give a helper an unlock key: what is kept, and what that key opens."""
    custody, control = guard.custody, guard.child.control
    if not control:
        raise guard.locked()
    answer, end = socket.socketpair()
    with answer:
        with end:
            helper = Helper(guard.places, "set", content, reach, end.fileno())
        try:
            guard.failure = custody.sealed = None
            who = {"custodian": content["custodian"], "kind": content["kind"]}
            message = {"do": "entrust", **who, "asks": content["asks"], "caller": caller}
            control.send({**message, "helper": helper.process.pid}, helper.door.fileno())
            helper.door.close()
            said = await read_end(answer)
        finally:
            helper.end()
    if guard.failure:
        failure, guard.failure = guard.failure, None
        raise failure
    kept = raise_outcome(said, "the custodian did not take its key: {}")
    if not custody.sealed:
        raise AvaultError("the keyholder gave nothing for the custodian", "try again")
    return kept, custody.sealed


async def list_custodians(guard: Guard, request: Message, caller: dict[str, Any]) -> Message:
    """Each custodian, and whether it is there now."""
    found = guard.custody.custodians.read()
    names = [name for name in found["order"] if name != PHONE]

    async def probe(name: str) -> dict[str, Any]:
        shown: dict[str, Any] = {"name": name, "opened": found["opened"].get(name)}
        try:
            content = guard.custody.custodians.load(name)
        except AvaultError as error:
            return {
                **shown,
                "kind": None,
                "asks": None,
                "outcome": error.code,
                "said": error.message,
            }
        answer = await run_errand(guard.places, "probe", content, Reach({}))
        outcome = str(answer.get("outcome"))
        said = printable(answer.get("value") or answer.get("detail") or outcome)
        about = {"kind": content["kind"], "asks": content["asks"], "settings": content["settings"]}
        return {**shown, **about, "outcome": outcome, "said": said}

    probed = dict(zip(names, await asyncio.gather(*map(probe, names)), strict=True))
    phone: dict[str, Any] = {
        "name": PHONE,
        "kind": PHONE,
        "asks": True,
        "settings": {},
        "opened": guard.report.get("proven_at"),
        "outcome": "ok" if guard.custody.has_phone() else "not_found",
        "said": "this machine is paired"
        if guard.custody.has_phone()
        else "this machine is not paired",
    }
    return {"custodians": [probed.get(name, phone) for name in found["order"]]}


async def test_custodian(guard: Guard, request: Message, caller: dict[str, Any]) -> Message:
    """Open the vault with a custodian, in a process that is thrown away."""
    name = str(request.get("name"))
    content = guard.custody.custodians.load(name)
    raise_outcome(await try_custodian(guard.places, content, Reach(request)))
    guard.custody.note_opened(name)
    return {"name": name}


async def remove_custodian(guard: Guard, request: Message, caller: dict[str, Any]) -> Message:
    """Take a custodian away, with what it keeps; never the last that works."""
    name, custody = str(request.get("name")), guard.custody
    order = custody.custodians.order()
    others = [each for each in order if each != name]
    if name == PHONE:
        return await remove_phone(guard, others)
    if name in order and not guard.custody.has_phone() and not await any_opens(guard, others):
        raise Denied(
            f"{name} is the last that opens this vault",
            "add another before: avault custody add, or: avault pair",
        )
    outcome = await forget_secret(guard, name, Reach(request))
    custody.custodians.forget(name)
    return {"name": name, **outcome}


async def forget_secret(guard: Guard, name: str, reach: Reach) -> dict[str, Any]:
    """Have a custodian forget its key: what it said."""
    try:
        content = guard.custody.custodians.load(name)
    except NotFound:
        raise
    except AvaultError as error:
        return {"outcome": error.code, "detail": error.message}
    answer = await run_errand(guard.places, "delete", content, reach)
    return {"outcome": answer.get("outcome"), "detail": answer.get("detail")}


async def any_opens(guard: Guard, names: list[str]) -> bool:
    """Whether one of these, of those that ask nobody, opens the vault now."""
    for name in names:
        with contextlib.suppress(AvaultError):
            content = guard.custody.custodians.load(name)
            if content["asks"]:
                continue
            raise_outcome(await try_custodian(guard.places, content, Reach({})))
            return True
    return any(guard.custody.asks(name) for name in names if name != PHONE)


async def remove_phone(guard: Guard, others: list[str]) -> Message:
    """Take the phone out of the order, if the operator agrees and another opens the vault."""
    if PHONE not in guard.custody.custodians.order():
        raise NotFound("the phone is not in the order", "see: avault custody list")
    need_open(guard)
    if not await any_opens(guard, others):
        raise Denied(
            "nothing but the phone opens this vault", "add another before: avault custody add"
        )
    guard.failure = None
    guard.custody.agreed.clear()
    if guard.child.control:
        guard.child.control.send({"do": "part"})
    while not guard.custody.agreed.is_set():
        if guard.failure:
            failure, guard.failure = guard.failure, None
            raise failure
        if not guard.child.control:
            raise guard.locked()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(guard.custody.agreed.wait(), 0.2)
    guard.custody.custodians.write(others)
    return {"name": PHONE, "outcome": "ok"}


async def forget_phone(guard: Guard, request: Message, caller: dict[str, Any]) -> Message:
    """Take the phone out of the order of a vault that was made without one."""
    if guard.custody.has_phone() or not guard.custody.has_any():
        raise Denied("the phone, or nothing else, opens this vault", "see: avault custody list")
    order = [name for name in guard.custody.custodians.order() if name != PHONE]
    guard.custody.custodians.write(order)
    return {"order": order}


async def order_custodians(guard: Guard, request: Message, caller: dict[str, Any]) -> Message:
    """Have the custodians tried in another order."""
    wanted, order = request.get("order"), guard.custody.custodians.order()
    if not isinstance(wanted, list) or sorted(map(str, wanted)) != sorted(order):
        raise Usage("that does not name each of them once", f"these are: {' '.join(order)}")
    guard.custody.custodians.write([str(each) for each in wanted])
    return {"order": wanted}


MANAGE: dict[str, Manage] = {
    "add": add_custodian,
    "list": list_custodians,
    "test": test_custodian,
    "remove": remove_custodian,
    "order": order_custodians,
    "forget_phone": forget_phone,
}
