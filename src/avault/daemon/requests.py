"""What a client may ask of an open vault.

What gives a value out stands in the access log before it happens; what changes one, also.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.daemon.changes import (
    serve_delete,
    serve_import,
    serve_merge,
    serve_move,
    serve_restore,
    serve_set,
)
from avault.daemon.gate import Passage
from avault.daemon.guard_requests import serve_guard, serve_guards
from avault.daemon.keyholder import Keyholder
from avault.daemon.replicating import serve_replica
from avault.daemon.revoking import show_exposed, show_machines
from avault.daemon.showing import (
    serve_has,
    serve_inspect,
    serve_list,
    serve_verify,
    serve_verify_log,
)
from avault.daemon.wire import Session
from avault.errors import AvaultError, Denied, NotFound, Usage
from avault.vault.choosing import check_named, check_names, choose, choose_keys
from avault.vault.formats import render_export, warn_of_readers
from avault.vault.records import Vault
from avault.vault.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.daemon.gate import Pick
    from avault.daemon.keyholder import Answer, Serve
    from avault.protocol import Message


def released(answer: Callable[[Vault, Message], Message], pick: Pick) -> Serve:
    """A request that gives values out: let through, its answer made, noted in the log, and sent.

    `pick` says which secrets it is about, and whether they were named.
    """

    def serve(keyholder: Keyholder, session: Session, request: Message) -> Answer:
        try:
            passage = keyholder.gate.admit(keyholder.open_store().vault, request, pick)
            found = answer(passage.vault, request)
        except AvaultError as error:
            keyholder.release(session, request, error.code)
            raise
        if passage.held:
            held = {"op": "reveal", "for": request["op"], "only": passage.held}
            keyholder.release(session, held, Denied.code)
            found = tell_of_held(found, passage.held)
        if passage.is_counted:
            return serve_counted(keyholder, session, request, passage, found)
        keyholder.release(session, request)
        return found

    return serve


async def serve_counted(
    keyholder: Keyholder, session: Session, request: Message, passage: Passage, found: Message
) -> Message:
    """Give an answer out once its use is counted, on the disk."""
    try:
        await keyholder.change(passage.count(keyholder.open_store().machine))
    except AvaultError as error:
        keyholder.release(session, request, error.code)
        raise
    keyholder.release(session, request)
    return found


def tell_of_held(answer: Message, held: list[str]) -> Message:
    """An answer that says what it is without, as that is guarded."""
    if "output" not in answer:
        return {**answer, "guarded": held}
    left_out = f"left out, as guarded: {', '.join(held)}"
    return {**answer, "warning": "; ".join(filter(None, [answer.get("warning"), left_out]))}


def pick_get(vault: Vault, request: Message) -> tuple[list[tuple[str, str]], bool]:
    """One key, or those of a group."""
    name, key = request.get("group"), request.get("key")
    if key is not None:
        vault.secrets(name, key)
    return [
        (str(name), each) for each in ([key] if key is not None else vault.group(name).keys)
    ], True


def pick_export(vault: Vault, request: Message) -> tuple[list[tuple[str, str]], bool]:
    """Those that are chosen, or all."""
    groups, only, named = (check_names(request, field) for field in ("groups", "only", "as"))
    is_named = bool(groups or only or named)
    chosen = choose_keys(vault, groups, only) if groups or only or not named else []
    return [(group, key) for group, key, _ in chosen] + [
        *check_named(vault, named).values()
    ], is_named


def answer_get(vault: Vault, request: Message) -> Message:
    """One value, or those of a group."""
    name, key, form = request.get("group"), request.get("key"), request.get("format")
    if key is not None:
        found = vault.secrets(name, key)
        if form == "text":
            return {"ok": True, "output": found[0].value + "\n"}
        answer: dict[str, Any] = {"group": name, "key": key, "value": found[0].value}
        if len(found) > 1:
            answer["conflicts"] = [secret.value for secret in found[1:]]
    else:
        group = vault.group(name)
        values = {key: found[0].value for key, found in sorted(group.keys.items())}
        if form == "text":
            if broken := [key for key, value in values.items() if "\n" in value]:
                hint = f"avault get {name} --json, or avault get {name}/{broken[0]}"
                raise Usage(f"{name}/{broken[0]} has more than one line", hint)
            return {
                "ok": True,
                "output": "".join(f"{key}={value}\n" for key, value in values.items()),
            }
        answer = {"group": name, "note": group.note[0], "values": values}
    if form == "json":
        return {"ok": True, "output": json.dumps(answer, indent=2, ensure_ascii=False) + "\n"}
    return {"ok": True, **answer}


def answer_export(vault: Vault, request: Message) -> Message:
    """Variables, rendered or as they are."""
    groups, only, allow, named = (
        check_names(request, field) for field in ("groups", "only", "allow", "as")
    )
    chosen = choose(vault, groups, only, bool(request.get("prefix")), allow, named)
    variables = {
        name: vault.groups[group].keys[key][0].value for name, (group, key) in chosen.items()
    }
    if (form := request.get("format")) is not None:
        places = {group for group, _ in chosen.values()}
        answer: dict[str, Any] = {
            "ok": True,
            "output": render_export(
                str(form), variables, places.pop() if len(places) == 1 else None
            ),
        }
        warning = warn_of_readers(str(form), variables)
        return {**answer, "warning": warning} if warning else answer
    return {
        "ok": True,
        "variables": variables,
        "names": {name: "/".join(place) for name, place in chosen.items()},
    }


def answer_reveal(vault: Vault, request: Message) -> Message:
    """Secrets by their names, with what is in conflict with them."""
    groups, only = check_names(request, "groups"), check_names(request, "only")
    rows = [
        {
            "group": group,
            "key": key,
            "value": found[0].value,
            "conflicts": [secret.value for secret in found[1:]],
        }
        for group, key, found in choose_keys(vault, groups, only)
    ]
    return {"ok": True, "secrets": rows}


async def serve_provide(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Values by GROUP/KEY, in the words of OpenClaw's exec secret provider, protocol version 1."""
    try:
        asked = json.loads((await session.frame())["value"])
        ids = asked["ids"]
        if (
            asked["protocolVersion"] != 1
            or not isinstance(ids, list)
            or len(ids) > 1000
            or {*map(type, ids)} - {str}
        ):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Usage(
            "not a request of OpenClaw's exec secret provider, version 1",
            "see references/openclaw.md",
        ) from None
    values: dict[str, str] = {}
    errors: dict[str, dict[str, str]] = {}
    for each in ids:
        group, _, key = each.partition("/")
        one = {"op": "provide", "group": group, "key": key}
        store = keyholder.open_store()
        try:
            passage = keyholder.gate.admit(store.vault, one, pick_get)
            if passage.is_counted and each not in values:
                await keyholder.change(passage.count(store.machine))
            values[each] = passage.vault.secrets(group, key)[0].value
        except (NotFound, Usage):
            errors[each] = {"code": "NOT_FOUND"}
        except Denied as error:
            errors[each] = {"code": "DENIED", "message": error.message}
        except AvaultError as error:
            keyholder.release(session, {"op": "provide", "only": [each]}, error.code)
            raise
    for code, outcome in (("NOT_FOUND", NotFound.code), ("DENIED", Denied.code)):
        if names := [each for each, error in errors.items() if error["code"] == code]:
            keyholder.release(session, {"op": "provide", "only": names}, outcome)
    if values:
        keyholder.release(session, {"op": "provide", "only": [*values]})
    return {
        "ok": True,
        "output": json.dumps({"protocolVersion": 1, "values": values, "errors": errors}) + "\n",
    }


def shown(answer: Callable[[Store], Message]) -> Serve:
    """A request that only looks, and gives no value out."""
    return lambda keyholder, session, request: answer(keyholder.open_store())


REQUESTS: dict[str, Serve] = {
    "get": released(answer_get, pick_get),
    "export": released(answer_export, pick_export),
    "reveal": released(answer_reveal, pick_export),
    "provide": serve_provide,
    "has": serve_has,
    "list": serve_list,
    "verify": serve_verify,
    "verify_log": serve_verify_log,
    "inspect": serve_inspect,
    "machines": shown(show_machines),
    "exposed": shown(show_exposed),
    "set": serve_set,
    "delete": serve_delete,
    "move": serve_move,
    "import": serve_import,
    "merge": serve_merge,
    "restore": serve_restore,
    "replica": serve_replica,
    "guard": serve_guard,
    "guards": serve_guards,
}
