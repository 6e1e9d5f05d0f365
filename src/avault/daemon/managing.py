"""Changes of the custodians, as the supervisor makes them: each is tried before it counts."""

from __future__ import annotations

import contextlib
import secrets
import socket
from typing import TYPE_CHECKING

from avault.custody.custodians import check_custodian
from avault.custody.shared import digest_shared, is_shared, refuse_local
from avault.daemon.errands import Helper, Reach, asks_phones, read_end, run_errand, try_custodian
from avault.daemon.keeper import Warden
from avault.daemon.sharing import (
    find_stated,
    forget_key,
    give_to_all,
    name_account,
    refuse_anothers,
    retire,
    write_order,
)
from avault.errors import AvaultError, Denied, NotFound, Tampered, Usage
from avault.keys.custodian import raise_outcome
from avault.tasks import see_through
from avault.vault.names import PHONE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from avault.protocol import Message

    Manage = Callable[["Warden", "Message", dict[str, Any]], Awaitable["Message"]]


def read_settings(request: Message) -> dict[str, str]:
    """The settings of a request; raises Usage."""
    given = request.get("settings") or {}
    if isinstance(given, dict) and all(isinstance(each, str) for each in given.values()):
        return given
    raise Usage("the settings of a custodian are words", "as in: address=https://bao.example:8200")


def need_open(warden: Warden) -> None:
    """Raise Locked, Denied where custodians cannot be changed: nobody could agree to it."""
    if warden.condition.state != "unlocked" or not warden.child.control:
        raise warden.condition.locked()
    consent = warden.condition.report.get("consent")
    if consent is None or (consent == "phone" and not warden.condition.report.get("proven")):
        raise Denied(
            "nobody has shown yet that the phone opens this vault", warden.condition.pairing_hint()
        )


async def add_custodian(warden: Warden, request: Message, caller: dict[str, Any]) -> Message:
    """Have a custodian keep an unlock key, and try whether it opens the vault: only then it counts.

    What it replaces, if anything, stays as it is until then. One that is `shared` is for all
    machines of the vault.
    """
    need_open(warden)
    kind, name = str(request.get("kind")), check_custodian(str(request.get("name")))
    for_all = request.get("shared") is True
    if for_all:
        refuse_local(kind, {})
        refuse_anothers(warden, name, bool(request.get("replace")))
    custody, reach = warden.custody, Reach(request)
    old = find_replaced(warden, name, bool(request.get("replace")))
    content: dict[str, Any] = {
        "custodian": name,
        "kind": kind,
        "account": name,
        "asks": False,
        "settings": read_settings(request),
        "kept": None,
        "vault": warden.condition.report["identity"],
        "name": warden.condition.report["name"],
        "agent": warden.condition.report["agent_npub"],
    }
    if old or for_all:
        content["account"] = name_account(content, for_all)
    content |= await settle_custodian(warden, content, reach)
    if for_all:
        refuse_local(kind, content["settings"])
    if content["asks"] and not (reach.is_there() or asks_phones(content)):
        raise Usage(f"{kind} asks a person, and there is no terminal", "type it in a terminal")
    refuse_one_place(warden, content)
    ticket = str(request.get("ticket") or "") or await agree_otherwise(
        warden, reach, f"{name} ({kind}) may open this vault{' on every machine' * for_all}"
    )
    await drop_candidate(warden, name)  # of an add that was cut off
    content = await entrust_to(warden, content, reach, ticket, caller, for_all)
    custody.custodians.save(content, candidate=True)
    try:
        tried = await try_custodian(warden.places, content, reach, "candidate")
        raise_outcome(tried, "the custodian has its key, and does not open the vault: {}")
    except BaseException:
        await drop_candidate(warden, name)
        raise
    # from here on it is no matter whether the client stays
    await see_through(let_count(warden, content, old, caller))
    return {"name": name, "asks": content["asks"], "shared": for_all}


async def let_count(
    warden: Warden, content: dict[str, Any], old: dict[str, Any] | None, caller: dict[str, Any]
) -> None:
    """Use a custodian from now on that has opened the vault, and not what it replaces.

    Its file of one to be tried goes last: once the vault knows that it took the place of another,
    that one is used no more, and all that is cut off here is completed by it (see `Custody`).
    """
    name, custodians, for_all = content["custodian"], warden.custody.custodians, is_shared(content)
    if for_all:
        before = [digest_shared(each) for each in find_stated(warden, name)]
        digest = digest_shared(content)
        await retire(warden, content, before, secrets.token_hex(16), caller, digest)
    custodians.save(content)
    if not old:
        write_order(warden, name, bool(content["asks"]))
    if for_all:
        give_to_all(warden, content)
    custodians.drop_candidate(name)
    if old and for_all:  # what took its place is for all, too
        await run_errand(warden.places, "delete", old, Reach({}))
    elif old:
        await forget_key(warden, old)
    warden.custody.note_opened(name)
    if warden.child.control:
        warden.child.control.send({"do": "proven"})
        if asks_phones(content):
            warden.child.control.send({"do": "renew"})


def refuse_one_place(warden: Warden, content: dict[str, Any]) -> None:
    """Raise Usage where another custodian's program keeps its key in the same place.

    To add the one would overwrite the other's, and to take one away delete both. Such a program
    has a setting `delete`, its own or as a member of a quorum.
    """

    def places(settings: dict[str, str]) -> set[str]:
        return {
            value
            for name, value in settings.items()
            if value and (name == "delete" or name.endswith(".delete"))
        }

    wanted = places(content["settings"])
    for name in warden.custody.custodians.names() if wanted else []:
        with contextlib.suppress(Tampered, NotFound):
            if wanted & places(warden.custody.custodians.load(name)["settings"]):
                raise Usage(
                    f"{name} keeps its key in that very place",
                    "give this one another: key=…, or other commands",
                )


async def drop_candidate(warden: Warden, name: str) -> None:
    """Have a custodian that does not count forget its key, and take its file away.

    One that counts for the vault already is completed instead; raises AvaultError where it cannot.
    """
    custodians = warden.custody.custodians
    with contextlib.suppress(NotFound, Tampered):
        warden.custody.complete(name)
    with contextlib.suppress(AvaultError):
        content = custodians.load(name, candidate=True)
        counts = custodians.load(name)["account"] if custodians.is_there(name) else None
        if content["account"] != counts:  # else it was cut off when it counted, and has its key
            await forget_key(warden, content)
    custodians.drop_candidate(name)


def find_replaced(warden: Warden, name: str, is_meant: bool) -> dict[str, Any] | None:
    """What a custodian of that name has, which is to be replaced; raises Usage where it is not."""
    if name not in warden.custody.custodians.order():
        return None
    if not is_meant:
        raise Usage(
            f"there is a custodian {name} already",
            f"choose another name with --name, or: avault custody remove {name}",
        )
    return warden.custody.custodians.load(name)


async def settle_custodian(warden: Warden, content: dict[str, Any], reach: Reach) -> dict[str, Any]:
    """The settings as they are kept, and whether a person is asked; raises what is wrong."""
    said = raise_outcome(await run_errand(warden.places, "settle", content, reach))
    settings = said.get("settings") if isinstance(said, dict) else None
    return {"settings": read_settings({"settings": settings}), "asks": said.get("asks") is True}


async def agree_otherwise(warden: Warden, reach: Reach, change: str, person: bool = False) -> str:
    """The ticket of a change. In a vault without a phone, who opens it with a custodian has agreed.

    Where one asks a person, or a `person` it has to be, only such a one can agree: another would do
    it by itself. No operator's phone: it would be shown the words for an unlock.
    """
    ticket = secrets.token_hex(16)
    if warden.condition.report.get("consent") != "custodian":
        return ticket  # the phone is asked
    order = [name for name in warden.custody.custodians.order() if name != PHONE]
    names = [name for name in order if not warden.custody.asks_phones(name)]
    asking = [name for name in names if warden.custody.asks(name)]
    hint = "with the recovery kit: avault recover --operator-key - --with KIND"
    failed: AvaultError = Denied("nobody can agree to that", hint)
    for name in asking or ([] if person else names):
        try:
            await warden.custody.agree(name, reach, ticket, change)
            return ticket
        except AvaultError as error:
            if warden.custody.is_final(name, error):
                raise
            failed = error
    raise failed


async def entrust_to(
    warden: Warden,
    content: dict[str, Any],
    reach: Reach,
    ticket: str,
    caller: dict[str, Any],
    for_all: bool,
    errand: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Have the keyholder give a helper an unlock key: the file, with what that opens.

    One that is shared gets the agent's signature too. `errand` is what the keyholder is to do, if
    that is not to add the custodian.
    """
    answer, end = socket.socketpair()
    with answer:
        with end:
            helper = Helper(warden.places, "set", content, reach, end.fileno())
        try:
            about = ("custodian", "kind", "account", "asks", "settings")
            what = {name: content[name] for name in about} | {"shared": for_all}
            do = errand or {"do": "entrust"}
            wish = {**do, **what, "caller": caller, "helper": helper.process.pid}
            sealed = await warden.custody.change(ticket, wish, helper.door.fileno())
            said = await read_end(answer, helper.limit)
        finally:
            helper.end()
    kept = raise_outcome(said, "the custodian did not take its key: {}")
    if not sealed:
        raise AvaultError("the keyholder gave nothing for the custodian", "try again")
    content = {**content, **sealed, "kept": kept}
    if for_all:
        wish = {"do": "sign", "content": content}
        content |= await warden.custody.change(secrets.token_hex(16), wish) or {}
    return content


async def test_custodian(warden: Warden, request: Message, caller: dict[str, Any]) -> Message:
    """Open the vault with a custodian, in a process that is thrown away."""
    name, reach = str(request.get("name")), Reach(request)
    await try_here(warden, warden.custody.find(name), reach)
    warden.custody.note_opened(name)
    return {"name": name}


async def try_here(warden: Warden, content: dict[str, Any], reach: Reach) -> None:
    """Open the vault with a custodian of this machine, as `try_custodian` does; raises why not.

    A phone is asked only where what it has answered is made anew, and not again and again.
    """
    asks = asks_phones(content)
    if asks:
        need_open(warden)
        if not reach.is_there():
            warden.question.pauses.check()
    try:
        raise_outcome(await try_custodian(warden.places, content, reach))
    finally:
        if asks and warden.child.control:
            warden.child.control.send({"do": "renew"})


async def any_opens(warden: Warden, names: list[str], reach: Reach) -> bool:
    """Whether one of these opens the vault now; those that ask a person last, where one is."""
    for name in sorted((each for each in names if each != PHONE), key=warden.custody.asks):
        with contextlib.suppress(AvaultError):
            if warden.custody.is_reached(name, reach):
                content = warden.custody.custodians.load(name)
                await try_here(warden, content, reach)
                return True
    return False


async def order_custodians(warden: Warden, request: Message, caller: dict[str, Any]) -> Message:
    """Have the custodians tried in another order."""
    wanted, order = request.get("order"), warden.custody.custodians.order()
    if not isinstance(wanted, list) or sorted(map(str, wanted)) != sorted(order):
        raise Usage("that does not name each of them once", f"these are: {' '.join(order)}")
    warden.custody.custodians.write([str(each) for each in wanted])
    return {"order": wanted}


MANAGE: dict[str, Manage] = {
    "add": add_custodian,
    "test": test_custodian,
    "order": order_custodians,
}
