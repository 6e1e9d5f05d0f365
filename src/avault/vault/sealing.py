"""Values that are sealed for themselves, and their locks: made, and opened; see vault/locks."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from avault.errors import Denied, Tampered
from avault.keys.nostr import decrypt, encrypt, make_keys, public_hex, read_keys
from avault.keys.seal import make_envelope, request_code
from avault.vault.guards import Guards
from avault.vault.had import is_asked, note_had
from avault.vault.locks import drop_locks, keep_lock, read_payload
from avault.vault.secret import SEAL_MARK, Secret, arrange, is_sealed
from avault.vault.signing_keys import read_signing_key

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.nostr import Keys, KeyText
    from avault.vault.locks import Lock
    from avault.vault.records import Vault


PIECE = 16_000  # characters of a value in one NIP-44 payload, which holds 65,408 bytes


def seal_value(public: str, value: str) -> str:
    """A value, as only who has the secret key of `public` (hex) reads it.

    Of a key that signs, its public half stands beside it in clear: it is listed, and asked for.
    """
    once = make_keys()
    pieces = [value[start : start + PIECE] for start in range(0, len(value), PIECE)]
    parts = [
        encrypt(once, public, json.dumps([index, len(pieces)]) + piece)
        for index, piece in enumerate(pieces)
    ]
    sealed = {"to": public, "from": public_hex(once), "parts": parts}
    if known := read_signing_key(value):
        sealed["signs"] = known.to_text()
    return SEAL_MARK + json.dumps(sealed)


def open_value(keys: Keys, value: str) -> str:
    """What is sealed, with the secret's own key; raises Tampered."""
    found = read_payload(value)
    try:
        parts = [decrypt(keys, found["from"], part) for part in found["parts"]]
        heads = [json.dumps([index, len(parts)]) for index in range(len(parts))]
        if parts and all(map(str.startswith, parts, heads)):
            return "".join(map(str.removeprefix, parts, heads))
    except ValueError:
        pass
    raise Tampered("what is sealed for itself does not open", "take it from git history")


def make_secret(place: str) -> dict[str, Any]:
    """A new key pair for a secret, as `open_lock` gives it."""
    return {"place": place, "key": make_keys().secret_key().to_hex()}


def make_lock(
    vault: tuple[str, str],
    place: str,
    operators: list[str],
    secret: dict[str, Any],
    host: str | None = None,
) -> Lock:
    """A lock on a secret, which operators' phones open.

    `vault` is its identity and its name, `place` the secret as GROUP/KEY, `secret` is as
    `open_lock` gives it, `host` the machine whose own lock it is. Only for a process that ends with
    what it was made for.
    """
    identity, name = vault
    own, first, unlock = read_keys(secret["key"]), secret["place"], make_keys()
    opens, to = public_hex(unlock), public_hex(own)
    content = {"type": "avault/lock", "vault": identity, "place": first, "to": to}
    sealed = encrypt(unlock, opens, json.dumps({**content, "key": own.secret_key().to_hex()}))
    shown = place if place == first else f"{place}, which is or was {first},"
    shown += f" of {name} on {host}" if host else f" of {name}"
    envelopes = {}
    for operator in operators:
        peer = make_keys()
        code = request_code(public_hex(peer))
        said = f"avault: open {shown} for one use, code {code}."
        said += " Approve only if you have just agreed to who gets it."
        title = f"open {shown} for one use, code {code}"
        envelope = make_envelope(peer, operator, title, said, unlock.secret_key().to_hex())
        envelopes[operator] = [public_hex(peer), envelope]
    made = {"place": first, "to": to, "opens": opens, "sealed": sealed, "envelopes": envelopes}
    open_lock(made, unlock.secret_key().to_hex(), identity)
    return made


def open_lock(lock: Lock, unlock: KeyText, identity: str) -> dict[str, Any]:
    """The secret's own `key` (hex) and first `place`, by the unlock key (hex); raises Tampered."""
    try:
        keys = read_keys(unlock)
        found = json.loads(decrypt(keys, public_hex(keys), lock["sealed"]))
        named = found["type"], found["vault"], found["to"], public_hex(read_keys(found["key"]))
        if named == ("avault/lock", identity, lock["to"], lock["to"]):
            return dict(found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise Tampered("the answer does not open that secret", "see: avault doctor")


class Unsealed(Denied):
    """There are values that a guard wants sealed, and no locks for them yet: `names`."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"not sealed yet: {', '.join(names[:5])}", "try again")
        self.names = names


def find_unsealed(vault: Vault) -> list[str]:
    """The names of those whose guard asks, and that have a value in clear."""
    guards = Guards(vault.facts)
    if not guards.guards:
        return []
    return [
        f"{group}/{key}"
        for group, each in vault.groups.items()
        for key, found in each.keys.items()
        if find_clear(found) and is_asked(guards, f"{group}/{key}")
    ]


def find_clear(found: list[Secret]) -> Secret | None:
    """The value of a key that is in clear: of several the latest."""
    return next((each for each in found if not is_sealed(each.value)), None)


def seal_loose(vault: Vault, made: dict[str, Lock], names: list[str], machine: str) -> None:
    """Seal values that are in clear, by locks that were `made` for their names; raises Unsealed.

    Each value has a lock of its own: who has opened the one before opens no later value. Of what
    two machines have set, one is sealed by each write, as that has one dot for a key. Which of
    them is the later one stays as it is.
    """
    if lacking := [name for name in names if name not in made]:
        raise Unsealed(lacking)
    now, count = int(time.time()), vault.generation.get(machine, 0) + 1
    for name in names:
        group, _, key = name.partition("/")
        found = vault.groups[group].keys[key]
        mine = [each for each in found if (each.machine, each.count) == (machine, count)]
        there = find_clear(mine or found)
        if there:
            value = seal_value(made[name]["to"], there.value)
            sealed = Secret(value, there.created, there.updated, machine, count)
            others = [each for each in found if each is not there]
            vault.groups[group].keys[key] = arrange([sealed, *others])
            note_had(vault, name, there.value, now, machine)
            keep_lock(vault, made[name], now, machine)
    if names:
        drop_locks(vault, {*names}, now, machine)
