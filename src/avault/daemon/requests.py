"""What a client may ask of an open vault.

What gives a value out stands in the access log before it happens; what changes one, also.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.daemon.answers import ANSWERED, tell_of_held
from avault.daemon.asked import serve_asked
from avault.daemon.bunker_requests import serve_bunker
from avault.daemon.changes import (
    serve_delete,
    serve_import,
    serve_merge,
    serve_move,
    serve_restore,
    serve_set,
)
from avault.daemon.gate import Passage
from avault.daemon.grant_requests import serve_grant, serve_grants, serve_revoke
from avault.daemon.guard_requests import serve_guard, serve_guards
from avault.daemon.key_requests import serve_key
from avault.daemon.nostr_signing import serve_signature
from avault.daemon.replicating import serve_replica
from avault.daemon.revoking import show_exposed, show_machines
from avault.daemon.showing import (
    serve_has,
    serve_inspect,
    serve_list,
    serve_verify,
    serve_verify_log,
)
from avault.daemon.standing import PROXY_REQUESTS
from avault.daemon.wallets import serve_keys
from avault.daemon.wire import Session
from avault.daemon.words import serve_word
from avault.errors import AvaultError, Denied, NotFound, Usage
from avault.keys.keyholder import Keyholder
from avault.vault.choosing import check_named, check_names, choose_keys
from avault.vault.records import Vault
from avault.vault.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from avault.daemon.gate import Pick
    from avault.keys.keyholder import Answer, Serve
    from avault.protocol import Message


def released(op: str, pick: Pick) -> Serve:
    """A request that gives values out: let through, its answer made, noted in the log, and sent.

    `pick` says which secrets it is about, and whether they were named.
    """

    def serve(keyholder: Keyholder, session: Session, request: Message) -> Answer:
        def admit() -> Passage:
            vault = keyholder.open_store().vault
            return keyholder.gate.admit(vault, request, pick, session.grant)

        try:
            passage = admit()
            found = ANSWERED[op](passage.vault, request)
            is_empty = session.grant is not None and not passage.vault.groups
            if session.grant and not is_empty:
                session.grant.use(passage.way)
        except AvaultError as error:
            keyholder.release(session, request, error.code)
            raise
        if passage.held:
            held = {"op": "reveal", "for": request["op"], "only": passage.held}
            keyholder.release(session, held, Denied.code)
            found = tell_of_held(found, passage.held)
        if is_empty:  # nothing goes out: no use, which would keep the vault open
            return found
        if passage.asked:
            return serve_asked(keyholder, session, request, admit)
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
        if session.grant:
            session.grant.check_way(passage.way)  # it may have ended meanwhile
    except AvaultError as error:
        keyholder.release(session, request, error.code)
        raise
    keyholder.release(session, request)
    return found


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
            passage = keyholder.gate.admit(store.vault, one, pick_get, session.grant)
            if session.grant and each not in values:
                session.grant.use(passage.way)
            if passage.is_counted and each not in values:
                await keyholder.change(passage.count(store.machine))
                if session.grant:
                    session.grant.check_way(passage.way)
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
    "get": released("get", pick_get),
    "export": released("export", pick_export),
    "reveal": released("reveal", pick_export),
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
    "key": serve_key,
    "keys": serve_keys,
    **PROXY_REQUESTS,
    "sign": serve_signature,
    "bunker": serve_bunker,
    "word": serve_word,
    "grant": serve_grant,
    "grants": serve_grants,
    "revoke": serve_revoke,
}
