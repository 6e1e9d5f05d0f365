"""What changes an open vault. It stands in the access log before it happens."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

from avault.daemon.asked import take_sealed
from avault.daemon.recalling import take_left
from avault.daemon.wire import Session
from avault.errors import AvaultError, Denied, Usage
from avault.keys.keyholder import Keyholder
from avault.vault.files import VAULT_LIMIT, read_file
from avault.vault.formats import conflicts
from avault.vault.guard_changes import adopt_guards, copy_guard, refuse_more, values_of
from avault.vault.guards import Guards
from avault.vault.locks import adopt_locks, drop_locks, keep_lock, used_locks
from avault.vault.names import DIGITS, LETTERS, check_group, check_key, check_note, check_value
from avault.vault.older import open_older
from avault.vault.records import Vault
from avault.vault.signing_keys import refuse_over_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from avault.protocol import Message


async def write(
    keyholder: Keyholder,
    session: Session,
    request: Message,
    change: Callable[[Vault], None],
    only_try: bool = False,
) -> Message:
    """Note a change in the access log and make it, or note why it is refused.

    One that fails when it is written, as on a full disk, is noted twice: first as what is to
    happen.
    """
    try:
        vault = keyholder.open_store().vault
        changed = vault.copy()
        change(changed)
        if request["op"] != "merge":
            refuse_over_keys(vault, changed)
        keyholder.release(session, request)
        return {"ok": True} if only_try else await keyholder.change(change)
    except AvaultError as error:
        keyholder.release(session, request, error.code)
        raise


async def serve_set(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Set a key, to a value in the next frame or to a generated one."""
    group, key = check_group(request.get("group")), check_key(request.get("key"))
    note, size = check_note(request.get("note")), request.get("generate")
    machine = keyholder.open_store().machine
    if size is not None and not (type(size) is int and 1 <= size <= 4096):
        raise Usage(
            "a generated value has 1 to 4,096 characters",
            f"avault set {group} --key {key} --generate 32",
        )
    sealed = await take_sealed(keyholder, session, f"{group}/{key}", size)
    if sealed:
        value = sealed.value
    elif size is None:
        value = check_value((await session.frame()).get("value"))
    else:
        value = "".join(secrets.choice(sorted(LETTERS | DIGITS)) for _ in range(size))
    is_replaced = False

    def change(vault: Vault) -> None:
        nonlocal is_replaced
        there = vault.groups[group].keys.get(key, []) if group in vault.groups else []
        is_replaced = any(secret.value != value for secret in there)
        vault.put(group, key, value, int(time.time()), machine)
        if sealed:
            keep_lock(vault, sealed.lock, int(time.time()), machine)
            drop_locks(vault, {f"{group}/{key}"}, int(time.time()), machine)
        if note is not None:
            vault.annotate(group, note, machine)

    answer = await write(keyholder, session, request, change)
    if sealed:
        await keyholder.openers.keep_made(keyholder.open_store(), sealed.own)
    return {**answer, "replaced": True} if is_replaced else answer


async def serve_delete(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Take a key away, or a group."""
    group, key = check_group(request.get("group")), request.get("key")
    return await write(
        keyholder,
        session,
        request,
        lambda vault: vault.remove(group, None if key is None else check_key(key)),
    )


async def serve_move(keyholder: Keyholder, session: Session, request: Message) -> Message:
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
        note, before = vault.group(group).note[0], Guards(vault.facts)
        found = [((group, name), (to, other)) for name, other in moves(vault)]
        vault.move_all(found, now, store.machine)
        if key is None:
            copy_guard(vault, group, to, now, store.machine)
        places = ["/".join(new) for _, new in found]
        refuse_more(before, vault, places if key is not None else [to, *places])
        if note and key is None and not vault.groups[to].note[0]:
            vault.annotate(to, note, store.machine)

    names = [name for old, new in moves(store.vault) for name in (f"{group}/{old}", f"{to}/{new}")]
    return await write(keyholder, session, {**request, "only": names}, change)


async def serve_import(keyholder: Keyholder, session: Session, request: Message) -> Message:
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
            sealed = {*used_locks(vault).values()} & {*names["replaced"]}
            how = (
                "with another value, or sealed and not compared" if sealed else "with another value"
            )
            listed = ", ".join(names["replaced"][:20])
            raise Denied(
                f"in the vault {how}: {listed}",
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


def read_copy(keyholder: Keyholder, name: object) -> bytes:
    """The bytes of a copy of avault.enc that a client has put into the state directory.

    Raises Usage, NotFound.
    """
    stem = str(name).removesuffix(".enc")
    if (
        not isinstance(name, str)
        or stem == name
        or not stem
        or set(stem) - LETTERS - DIGITS - {"-"}
    ):
        raise Usage("a copy is named by letters, digits and -, and ends in .enc")
    return read_file(keyholder.places.own(name), VAULT_LIMIT)


async def serve_merge(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Merge two copies of the vault, for git; or one into the vault that is served: a write."""
    store, theirs = keyholder.open_store(), read_copy(keyholder, request.get("theirs"))
    if request.get("ours") is None:
        if not store.vault.is_after(store.open_copy(theirs).generation):
            await write(keyholder, session, request, lambda vault: store.absorb(vault, theirs))
        return {"ok": True, "conflicts": conflicts(store.vault)}
    # not beside another: each takes a count
    data, merged = store.offer(read_copy(keyholder, request["ours"]), theirs)
    return {"ok": True, "merged": data.decode(), "conflicts": conflicts(merged)}


async def serve_restore(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Set a key, or those of a group, to what they were in a copy of the vault.

    Or, for `unsaved`, write back what is served.
    """
    if request.get("unsaved"):
        keyholder.release(session, {"op": "restore", "for": "unsaved"})
        await keyholder.holding.writer.finish()
        needed = await keyholder.holding.writer.put_back(keyholder.open_store())
        return {"ok": True, "needed": needed, "restored": await take_left(keyholder)}
    store, key = keyholder.open_store(), request.get("key")
    old = open_older(store, read_copy(keyholder, request.get("file")))
    group = check_group(request.get("group"))
    values = {
        check_key(name): old.secrets(group, name)[0].value
        for name in ([key] if key else sorted(old.group(group).keys))
    }

    names = [f"{group}/{name}" for name in values]

    def change(vault: Vault) -> None:
        now, before = int(time.time()), Guards(vault.facts)
        news = [
            f"{group}/{name}"
            for name, value in values.items()
            if value not in values_of(vault, f"{group}/{name}")
        ]
        adopt_guards(vault, old, news, now, store.machine)
        adopt_locks(vault, old, [*values.values()], now, store.machine)
        for name, value in values.items():
            vault.put(group, name, value, now, store.machine)
        refuse_more(before, vault, names)

    await write(keyholder, session, request, change)
    return {"ok": True, "restored": names}
