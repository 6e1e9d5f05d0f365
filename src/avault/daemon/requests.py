"""What a client may ask of an open vault.

What gives a value out stands in the access log before it happens; what changes one, also.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.daemon.changes import (
    read_copy,
    serve_delete,
    serve_import,
    serve_merge,
    serve_move,
    serve_restore,
    serve_set,
)
from avault.daemon.keyholder import Keyholder
from avault.daemon.replicating import serve_replica
from avault.daemon.revoking import show_exposed, show_machines
from avault.daemon.wire import Session
from avault.errors import AvaultError, NotFound, Usage
from avault.vault.choosing import check_names, choose, choose_keys
from avault.vault.formats import describe_vault, render_export, render_list, warn_of_readers
from avault.vault.names import check_group, check_key
from avault.vault.older import open_older
from avault.vault.records import Vault
from avault.vault.recovery import verify_recovery
from avault.vault.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.daemon.keyholder import Answer, Serve
    from avault.protocol import Message


def released(answer: Callable[[Vault, Message], Message]) -> Serve:
    """A request that gives values out: its answer is made, noted in the access log, and sent."""

    def serve(keyholder: Keyholder, session: Session, request: Message) -> Answer:
        try:
            found = answer(keyholder.open_store().vault, request)
        except AvaultError as error:
            keyholder.release(session, request, error.code)
            raise
        keyholder.release(session, request)
        return found

    return serve


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


def serve_has(keyholder: Keyholder, session: Session, request: Message) -> Answer:
    """Whether a group or key is there."""
    groups = keyholder.open_store().vault.groups
    group, key = check_group(request.get("group")), request.get("key")
    return {
        "ok": True,
        "has": group in groups and (key is None or check_key(key) in groups[group].keys),
    }


def serve_list(keyholder: Keyholder, session: Session, request: Message) -> Answer:
    """What there is; names, never values."""
    vault, form = keyholder.open_store().vault, request.get("format")
    wanted = check_names(request, "groups")
    rows = choose_keys(vault, wanted, [])
    if form == "names":
        return {"ok": True, "output": "".join(f"{group}/{key}\n" for group, key, _ in rows)}
    groups = [group for group in describe_vault(vault) if not wanted or group["name"] in wanted]
    if form == "text":
        return {"ok": True, "output": render_list(groups)}
    if form == "json":
        return {
            "ok": True,
            "output": json.dumps({"groups": groups}, indent=2, ensure_ascii=False) + "\n",
        }
    return {"ok": True, "groups": groups}


def serve_verify_log(keyholder: Keyholder, session: Session, request: Message) -> Answer:
    """Whether the access log is what was written to it."""
    return {"ok": True, **(keyholder.holding.log.verify() if keyholder.holding.log else {})}


async def serve_verify(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """The hashes of the vault's files that this daemon vouches for.

    Or, for a copy of nsec.enc, whether that opens.
    """
    store = keyholder.open_store()
    if (name := request.get("file")) is not None:
        verify_recovery(read_copy(keyholder, name), store.keys, store.vault)
        return {"ok": True}
    await keyholder.holding.verify_recovery()
    return {
        "ok": True,
        "verified": {"avault.enc": store.digest, "nsec.enc": keyholder.holding.recovery.digest},
    }


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
    vault, values, errors = keyholder.open_store().vault, {}, {}
    for each in ids:
        group, _, key = each.partition("/")
        try:
            values[each] = vault.secrets(group, key)[0].value
        except (NotFound, Usage):
            errors[each] = {"code": "NOT_FOUND"}
    if errors:
        keyholder.release(session, {"op": "provide", "only": [*errors]}, NotFound.code)
    if values:
        keyholder.release(session, {"op": "provide", "only": [*values]})
    return {
        "ok": True,
        "output": json.dumps({"protocolVersion": 1, "values": values, "errors": errors}) + "\n",
    }


def serve_inspect(keyholder: Keyholder, session: Session, request: Message) -> Answer:
    """What is in a copy of the vault, of any generation: names and times, never values.

    One of an agent's key before is told only to who asks for `older` ones.
    """
    store, data = keyholder.open_store(), read_copy(keyholder, request.get("file"))
    vault = open_older(store, data) if request.get("older") else store.open_copy(data)
    groups = describe_vault(vault)
    for group in groups:
        for key in group["keys"]:
            found = vault.groups[group["name"]].keys[key["name"]]
            key["version"] = ",".join(f"{secret.machine}.{secret.count}" for secret in found)
    return {"ok": True, "groups": groups, "generation": vault.generation}


def shown(answer: Callable[[Store], Message]) -> Serve:
    """A request that only looks, and gives no value out."""
    return lambda keyholder, session, request: answer(keyholder.open_store())


REQUESTS: dict[str, Serve] = {
    "get": released(answer_get),
    "export": released(answer_export),
    "reveal": released(answer_reveal),
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
}
