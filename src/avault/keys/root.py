"""The root at relays, which leads the operator to the agent's key, and the key of all other events.

That key is derived from the agent's secret: by itself it does not lead to the agent's.
"""

from __future__ import annotations

import hmac
import json
from typing import TYPE_CHECKING

from avault.errors import Tampered
from avault.keys.nostr import decrypt, public_hex, read_keys, to_npub
from avault.keys.seal import make_envelope, open_nsec, request_code, seal_keys

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.nostr import Keys


def replica_keys(keys: Keys) -> Keys:
    """The key under which relays keep the vault, from the agent's."""
    secret = bytes.fromhex(keys.secret_key().to_hex())
    return read_keys(hmac.digest(secret, b"avault replica", "sha256").hex())


def describe_return(name: str, sealed: str) -> str:
    """What the operator is asked for by a root, as phone and terminal both say it.

    No host is named: which one it will be is not known when it is made.
    """
    return f"bring {name} back on ANOTHER machine, from relays, code {request_code(sealed)}"


def seal_root(keys: Keys, identity: str, operator: str, name: str) -> dict[str, Any]:
    """What is in a root, as in nsec.enc: an unlock key of its own, and its own sentence."""
    unlock, sealed = seal_keys(keys, identity, operator, name)
    what = describe_return(name, sealed["sealed"])
    sentence = f"avault: {what}. Approve only if you typed avault recover."
    content = {**sealed, "envelope": make_envelope(keys, operator, what, sentence, unlock)}
    open_nsec(content, decrypt(keys, operator, content["envelope"]))
    return content


def open_root(
    root: dict[str, str], agent: str, operator: str, answer: str
) -> tuple[Keys, dict[str, Any]]:
    """The agent's keys, by this operator's (hex) answer to a root; and what nsec.enc would hold.

    Raises Tampered for another agent or operator.
    """
    try:
        unlock = read_keys(json.loads(answer)["avault"])
        sealed = json.loads(decrypt(unlock, public_hex(unlock), root["sealed"]))
        names = {name: str(sealed[name]) for name in ("vault", "name")}
        who = {"agent": to_npub(agent), "operator": to_npub(operator)}
        content = {**names, **who, "envelope": root["envelope"], "sealed": root["sealed"]}
        keys = open_nsec(content, answer)
        # only agent and operator can have made it
        if public_hex(open_nsec(content, decrypt(keys, operator, root["envelope"]))) == agent:
            return keys, content
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise Tampered("the answer does not open this root", "is it the operator's own signer?")
