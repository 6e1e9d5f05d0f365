"""Copies of the vault that an agent's key before had sealed: to be looked at, and nothing else.

They are not merged: whoever got an old key could write such a copy.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from avault.errors import Tampered
from avault.keys.nostr import public_hex, to_npub
from avault.keys.seal import old_keys, open_vault
from avault.vault.statements import make_statement
from avault.vault.store import Store

if TYPE_CHECKING:
    from avault.keys.nostr import Keys
    from avault.vault.records import Vault


def open_older(store: Store, data: bytes) -> Vault:
    """Another copy of the vault, of any generation, and of any of its agents; raises Tampered."""
    try:
        return store.open_copy(data)
    except Tampered:
        for keys in old_keys(store.vault):
            with contextlib.suppress(Tampered):
                vault = open_vault(data, keys)
                if vault.identity == store.vault.identity:
                    return vault
        raise


def keep_old_key(draft: Vault, keys: Keys, now: int, machine: str) -> None:
    """Keep an agent's key that another one replaces, and what it says of that one.

    `draft` is of the new agent already.
    """
    statement = make_statement(keys, draft.identity, draft.agent)
    kept = {"nsec": keys.secret_key().to_bech32(), "statement": statement}
    draft.state(f"agent/{to_npub(public_hex(keys))}", json.dumps(kept), now, machine)
