"""Keys that sign, as a client has them made or taken in: guarded from the first."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from avault.daemon.asked import Sealed
from avault.daemon.changes import write
from avault.daemon.guarding import describe_guard
from avault.daemon.wire import Session
from avault.errors import Denied, Usage
from avault.keys.keyholder import Keyholder
from avault.protocol import refuse_unknown
from avault.signing.key_files import LONGEST_FILE, LONGEST_PASSPHRASE
from avault.vault.guard_changes import add_guard, refuse_more
from avault.vault.guards import Guards
from avault.vault.had import is_asked
from avault.vault.invitations import refuse_own_keys
from avault.vault.locks import keep_lock
from avault.vault.names import check_group, check_key, check_value
from avault.vault.records import Vault
from avault.vault.rule_members import NOSTR_SETS, SETS_OF, SSH_SETS, WALLET_SETS
from avault.vault.rules import check_rules
from avault.vault.signing_keys import KINDS_MADE, KINDS_NAMED, read_signing_key, way_of_kind

if TYPE_CHECKING:
    from typing import Any

    from avault.protocol import Message


MAKE_TIME = 60.0  # seconds: an RSA key takes some to be made
KEY_SETS = (*SSH_SETS, *NOSTR_SETS, *WALLET_SETS)
KEY_FIELDS = frozenset({"action", "group", "key", "kind", "path", "ask", *KEY_SETS})
LONGEST_TREE_PATH = 100  # characters


async def serve_key(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Make a key that signs, or take the one in the next frame; its public half.

    It is guarded by the same write: it signs what is named, and leaves in no other way. One of
    which the phone is asked is made where it is sealed, and was never here.
    Where its file has a passphrase that did not come along, nothing is written, and
    `needs_passphrase` says so. Where words give several keys, and no path says which is meant,
    neither: `paths` has their public halves.
    """
    group, key = check_group(request.get("group")), check_key(request.get("key"))
    name, action = f"{group}/{key}", request.get("action")
    refuse_unknown(request, KEY_FIELDS)
    given = name_uses(request)
    kind = request.get("kind")
    refuse_existing(keyholder.open_store().vault, group, key)
    sealed: Sealed | None = None
    if asks := is_asked_for(keyholder.gate.look(keyholder.open_store().vault), name, given):
        keyholder.openers.need_pairing(keyholder.open_store())
    if action == "generate":
        if kind not in KINDS_MADE:
            raise Usage("no such kind of key", f"one of: {', '.join(KINDS_MADE)}")
        if asks:
            sealed = await make_sealed(keyholder, name, str(kind))
            made = {"value": sealed.value}
        else:
            made = await keyholder.signing.ask(do="make", kind=kind)
    elif action == "import":
        if kind not in (None, *KINDS_NAMED):
            which = ", ".join(KINDS_NAMED)
            raise Usage("no such kind of key", f"one of: {which}; of others the file says it")
        path = read_path(request.get("path"))
        file, passphrase = read_key_frame(await session.frame())
        given_file = {"file": file, "passphrase": passphrase, "kind": kind, "path": path}
        made = await keyholder.signing.ask(do="take", **given_file)
        if made.get("needs_passphrase"):
            return {"ok": True, "needs_passphrase": True}
        if found := made.get("paths"):
            return {"ok": True, "paths": found}
    else:
        raise Usage("no such action", "generate, or import")
    value, machine = str(made["value"]), keyholder.open_store().machine
    if not sealed:
        check_value(value)
    known = read_signing_key(value)
    if not known:
        raise Usage("no key that SSH signs with", "one of: ed25519, ecdsa, rsa")
    if known.kind == "nostr":
        refuse_own_keys(keyholder.open_store().vault, known.blob.hex())

    def change(vault: Vault) -> None:
        now = int(time.time())
        refuse_existing(vault, group, key)
        before = Guards(vault.facts)
        vault.put(group, key, value, now, machine)
        add_guard(vault, name, given, now, machine)
        if sealed:
            keep_lock(vault, sealed.lock, now, machine)
        refuse_more(before, vault, [name])

    await write(keyholder, session, {**request, "for": action}, change)
    if sealed:
        await keyholder.openers.keep_made(keyholder.open_store(), sealed.own)
    guard = describe_guard(Guards(keyholder.open_store().vault.facts), name)
    return {"ok": True, "name": name, **known.to_dict(), "guard": guard}


def is_asked_for(guards: Guards, name: str, given: dict[str, Any]) -> bool:
    """Whether the phone is to be asked of a new key: by its own guard, or its group's."""
    return given.get("ask") is not None or is_asked(guards, name)


async def make_sealed(keyholder: Keyholder, name: str, kind: str) -> Sealed:
    """A new key, made and sealed in a process that ends with that; raises AvaultError."""
    openers, store = keyholder.openers, keyholder.open_store()
    made, own = await openers.make_locks(store, [name])
    assignment = await openers.start(is_asking=False)
    try:
        assignment.send({"do": "take", "to": made[name]["to"], "kind": kind})
        found = await assignment.hear_answer(MAKE_TIME)
        return Sealed(str(found["sealed"]), made[name], own)
    finally:
        assignment.end()


def name_uses(request: Message) -> dict[str, Any]:
    """The guard of a new key: what is not named, it does not sign; raises Usage."""
    way = way_of_kind(str(request.get("kind")))
    sets = SETS_OF[way]
    others = [name for each in ("ssh", "sign", "wallet") if each != way for name in SETS_OF[each]]
    if wrong := next((name for name in others if request.get(name) is not None), None):
        raise Usage(f"{wrong} is for keys of another kind", f"one of: {', '.join(sets)}")
    named = {name: request[name] for name in sets if request.get(name) is not None}
    for name, members in named.items():
        if members == []:  # of users, none would be any
            raise Usage(f"{name} is a list that is empty", "name some, or leave it out")
    if request.get("ask") is not None:
        named["ask"] = request["ask"]
    kept = check_rules(named, int(time.time()))
    least = ("servers", "namespaces") if way == "ssh" else sets
    return {**{name: [] for name in least}, **kept, "only": [way]}


def read_path(path: object) -> str | None:
    """The path to a key of words, which the process that signs reads; raises Usage."""
    if path is not None and not (isinstance(path, str) and 0 < len(path) <= LONGEST_TREE_PATH):
        raise Usage("path is the path to one key", "as in: m/44'/501'/0'/0'")
    return path


def read_key_frame(frame: Message) -> tuple[str, str | None]:
    """The text of a key's file, and its passphrase; raises Usage."""
    file, passphrase = frame.get("file"), frame.get("passphrase")
    if not isinstance(file, str) or not isinstance(passphrase, str | None):
        raise Usage("file and passphrase are texts")
    if len(file) > LONGEST_FILE:
        raise Usage("that is no key", "name the file of a private key")
    if passphrase and len(passphrase) > LONGEST_PASSPHRASE:
        raise Usage(f"a passphrase has at most {LONGEST_PASSPHRASE} characters")
    return file, passphrase


def refuse_existing(vault: Vault, group: str, key: str) -> None:
    """Raise Denied where there is a secret of that name: a key is not written over."""
    if group in vault.groups and key in vault.groups[group].keys:
        name = f"{group}/{key}"
        raise Denied(f"there is a {name} already", f"take it away first: avault delete {name}")
