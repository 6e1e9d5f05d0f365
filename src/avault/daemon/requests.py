"""What a client may ask of an open vault.

What gives a value out, or changes one, stands in the access log before it happens.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING

from avault.daemon.keyholder import Keyholder
from avault.daemon.wire import Session
from avault.errors import AvaultError, Denied, NotFound, Usage
from avault.vault.files import VAULT_LIMIT, read_file
from avault.vault.formats import (
    check_names,
    choose,
    choose_keys,
    conflicts,
    describe_vault,
    render_export,
    render_list,
    warn_of_readers,
)
from avault.vault.records import (
    DIGITS,
    LETTERS,
    Vault,
    check_group,
    check_key,
    check_note,
    check_value,
)
from avault.vault.recovery import verify_recovery

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.daemon.keyholder import Answer, Serve


def released(answer: Callable[[Vault, dict[str, Any]], dict[str, Any]]) -> Serve:
    """A request that gives values out: its answer is made, noted in the access log, and sent."""

    def serve(keyholder: Keyholder, session: Session, request: dict[str, Any]) -> Answer:
        try:
            found = answer(keyholder.open_store().vault, request)
        except AvaultError as error:
            keyholder.release(session, request, error.code)
            raise
        keyholder.release(session, request)
        return found

    return serve


def answer_get(vault: Vault, request: dict[str, Any]) -> dict[str, Any]:
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


def answer_export(vault: Vault, request: dict[str, Any]) -> dict[str, Any]:
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


def answer_reveal(vault: Vault, request: dict[str, Any]) -> dict[str, Any]:
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


def serve_has(keyholder: Keyholder, session: Session, request: dict[str, Any]) -> Answer:
    """Whether a group or key is there."""
    groups = keyholder.open_store().vault.groups
    group, key = check_group(request.get("group")), request.get("key")
    return {
        "ok": True,
        "has": group in groups and (key is None or check_key(key) in groups[group].keys),
    }


def serve_list(keyholder: Keyholder, session: Session, request: dict[str, Any]) -> Answer:
    """What there is; names, never values."""
    vault, form, wanted = (
        keyholder.open_store().vault,
        request.get("format"),
        check_names(request, "groups"),
    )
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


def serve_verify_log(keyholder: Keyholder, session: Session, request: dict[str, Any]) -> Answer:
    """Whether the access log is what was written to it."""
    return {"ok": True, **(keyholder.holding.log.verify() if keyholder.holding.log else {})}


async def serve_verify(
    keyholder: Keyholder, session: Session, request: dict[str, Any]
) -> dict[str, Any]:
    """The hashes of the vault's files that this daemon vouches for; or whether a copy of nsec.enc opens."""
    store = keyholder.open_store()
    if (name := request.get("file")) is not None:
        verify_recovery(read_copy(keyholder, name), store.keys, store.vault)
        return {"ok": True}
    await keyholder.holding.verify_recovery()
    return {
        "ok": True,
        "verified": {"avault.enc": store.digest, "nsec.enc": keyholder.holding.recovery.digest},
    }


async def serve_set(
    keyholder: Keyholder, session: Session, request: dict[str, Any]
) -> dict[str, Any]:
    """Set a key, to a value in the next frame or to a generated one."""
    group, key = check_group(request.get("group")), check_key(request.get("key"))
    note, size, machine = (
        check_note(request.get("note")),
        request.get("generate"),
        keyholder.open_store().machine,
    )
    if size is None:
        value = check_value((await session.frame()).get("value"))
    elif type(size) is int and 1 <= size <= 4096:
        value = "".join(secrets.choice(sorted(LETTERS | DIGITS)) for _ in range(size))
    else:
        raise Usage(
            "a generated value has 1 to 4,096 characters",
            f"avault set {group} --key {key} --generate 32",
        )
    is_replaced = False

    def change(vault: Vault) -> None:
        nonlocal is_replaced
        there = vault.groups[group].keys.get(key, []) if group in vault.groups else []
        is_replaced = any(secret.value != value for secret in there)
        vault.put(group, key, value, int(time.time()), machine)
        if note is not None:
            vault.annotate(group, note, machine)

    answer = await write(keyholder, session, request, change)
    return {**answer, "replaced": True} if is_replaced else answer


async def serve_delete(
    keyholder: Keyholder, session: Session, request: dict[str, Any]
) -> dict[str, Any]:
    """Take a key away, or a group."""
    group, key = check_group(request.get("group")), request.get("key")
    return await write(
        keyholder,
        session,
        request,
        lambda vault: vault.remove(group, None if key is None else check_key(key)),
    )


async def serve_move(
    keyholder: Keyholder, session: Session, request: dict[str, Any]
) -> dict[str, Any]:
    """Give a key, or a group, another name."""
    group, key = check_group(request.get("group")), request.get("key")
    to, to_key = check_group(request.get("to_group")), request.get("to_key")
    store, now = keyholder.open_store(), int(time.time())
    if (group, key) == (to, to_key) or (key is None and (to_key is not None or group == to)):
        raise Usage("that is no move", "avault mv GROUP/KEY GROUP/KEY, or avault mv GROUP GROUP")

    def moves(vault: Vault) -> list[tuple[str, str]]:
        names = [check_key(key)] if key is not None else sorted(vault.group(group).keys)
        return [(name, name if to_key is None else check_key(to_key)) for name in names]

    def change(vault: Vault) -> None:
        note = vault.group(group).note[0]
        for name, other in moves(vault):
            vault.move((group, name), (to, other), now, store.machine)
        if note and key is None and not vault.groups[to].note[0]:
            vault.annotate(to, note, store.machine)

    names = [name for old, new in moves(store.vault) for name in (f"{group}/{old}", f"{to}/{new}")]
    return await write(keyholder, session, {**request, "only": names}, change)


async def serve_import(
    keyholder: Keyholder, session: Session, request: dict[str, Any]
) -> dict[str, Any]:
    """Set many keys at once; what is there with another value only if they may be replaced."""
    given = await session.frame()
    try:
        rows = [
            (check_group(group), check_key(key), check_value(value))
            for group, key, value in given["secrets"]
        ]
        notes = [
            (check_group(group), check_note(note) or "")
            for group, note in (given.get("notes") or {}).items()
        ]
    except (TypeError, ValueError, KeyError, AttributeError):
        raise Usage("secrets is a list of group, key and value") from None
    store, result = keyholder.open_store(), {}

    def change(vault: Vault) -> None:
        names: dict[str, list[str]] = {"new": [], "same": [], "replaced": []}
        for group, key, value in rows:
            there = vault.groups[group].keys.get(key) if group in vault.groups else None
            kind = (
                "new"
                if not there
                else "same"
                if [secret.value for secret in there] == [value]
                else "replaced"
            )
            names[kind].append(f"{group}/{key}")
            if kind != "same":
                vault.put(group, key, value, int(time.time()), store.machine)
        if names["replaced"] and not request.get("replace") and not request.get("dry_run"):
            listed = ", ".join(names["replaced"][:20])
            raise Denied(
                f"in the vault with another value: {listed}",
                "to replace them: --replace; to look: --dry-run",
            )
        for group, note in notes:
            vault.annotate(group, note, store.machine)
        result.update(names)

    noted = {**request, "only": [f"{group}/{key}" for group, key, _ in rows]}
    await write(keyholder, session, noted, change, only_try=True)  # a guess at a value is noted too
    if not request.get("dry_run") and (result["new"] or result["replaced"] or notes):
        await keyholder.change(change)
    return {"ok": True, **result}


async def serve_provide(
    keyholder: Keyholder, session: Session, request: dict[str, Any]
) -> dict[str, Any]:
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


def read_copy(keyholder: Keyholder, name: object) -> bytes:
    """The bytes of a copy of avault.enc that a client has put into the state directory; raises Usage, NotFound."""
    stem = str(name).removesuffix(".enc")
    if (
        not isinstance(name, str)
        or stem == name
        or not stem
        or set(stem) - LETTERS - DIGITS - {"-"}
    ):
        raise Usage("a copy is named by letters, digits and -, and ends in .enc")
    return read_file(keyholder.places.own(name), VAULT_LIMIT)


def serve_inspect(keyholder: Keyholder, session: Session, request: dict[str, Any]) -> Answer:
    """What is in a copy of the vault, of any generation: names and times, never values."""
    vault = keyholder.open_store().open_copy(read_copy(keyholder, request.get("file")))
    groups = describe_vault(vault)
    for group in groups:
        for key in group["keys"]:
            found = vault.groups[group["name"]].keys[key["name"]]
            key["version"] = ",".join(f"{secret.machine}.{secret.count}" for secret in found)
    return {"ok": True, "groups": groups, "generation": vault.generation}


async def serve_merge(
    keyholder: Keyholder, session: Session, request: dict[str, Any]
) -> dict[str, Any]:
    """Merge two copies of the vault, for git; or one into the vault that is served, which is a write."""
    store, theirs = keyholder.open_store(), read_copy(keyholder, request.get("theirs"))
    if request.get("ours") is None:
        if not store.vault.is_after(store.open_copy(theirs).generation):
            await write(keyholder, session, request, lambda vault: store.absorb(vault, theirs))
        return {"ok": True, "conflicts": conflicts(store.vault)}
    # not beside another: each takes a count
    data, merged = store.offer(read_copy(keyholder, request["ours"]), theirs)
    return {"ok": True, "merged": data.decode(), "conflicts": conflicts(merged)}


async def serve_restore(
    keyholder: Keyholder, session: Session, request: dict[str, Any]
) -> dict[str, Any]:
    """Set a key, or those of a group, to what they were in a copy of the vault; or `unsaved`: write back what is served."""
    if request.get("unsaved"):
        keyholder.release(session, {"op": "restore", "for": "unsaved"})
        return {"ok": True, "needed": await keyholder.put_back()}
    store, key = keyholder.open_store(), request.get("key")
    old = store.open_copy(read_copy(keyholder, request.get("file")))
    group = check_group(request.get("group"))
    values = {
        check_key(name): old.secrets(group, name)[0].value
        for name in ([key] if key else sorted(old.group(group).keys))
    }

    def change(vault: Vault) -> None:
        for name, value in values.items():
            vault.put(group, name, value, int(time.time()), store.machine)

    await write(keyholder, session, request, change)
    return {"ok": True, "restored": [f"{group}/{name}" for name in values]}


async def write(
    keyholder: Keyholder,
    session: Session,
    request: dict[str, Any],
    change: Callable[[Vault], None],
    only_try: bool = False,
) -> dict[str, Any]:
    """Note a change in the access log and make it, or note why it is refused.

    One that fails when it is written, as on a full disk, is noted twice: first as what is to happen.
    """
    try:
        change(keyholder.open_store().vault.copy())
        keyholder.release(session, request)
        return {"ok": True} if only_try else await keyholder.change(change)
    except AvaultError as error:
        keyholder.release(session, request, error.code)
        raise


REQUESTS: dict[str, Serve] = {
    "get": released(answer_get), "export": released(answer_export), "reveal": released(answer_reveal),
    "has": serve_has, "list": serve_list, "provide": serve_provide, "verify_log": serve_verify_log, "inspect": serve_inspect,
    "verify": serve_verify,
    "set": serve_set, "delete": serve_delete, "move": serve_move, "import": serve_import, "merge": serve_merge,
    "restore": serve_restore,
}  # fmt: skip
