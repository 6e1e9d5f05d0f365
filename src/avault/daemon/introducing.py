"""Who asks a relay that wants to know it (NIP-42): signed for that relay and its challenge."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.errors import Denied, Usage
from avault.keys.nostr import sign_auth
from avault.vault.own_files import normalise_relay

if TYPE_CHECKING:
    from collections.abc import Collection

    from avault.keys.nostr import Keys
    from avault.protocol import Message


LONGEST_CHALLENGE = 256  # characters


def introduce_to_relay(keys: Keys, request: Message, urls: Collection[str]) -> Message:
    """The event for the `relay` of a request, which is one of `urls`, and its `challenge`.

    Nobody else can use it, and it says nothing but who is there. Raises Denied, Usage.
    """
    challenge = request.get("challenge")
    if not isinstance(challenge, str) or not 0 < len(challenge) <= LONGEST_CHALLENGE:
        raise Usage(f"challenge is a text of at most {LONGEST_CHALLENGE} characters")
    url = normalise_relay(request.get("relay")).rstrip("/")  # as the library has it
    if url not in {each.rstrip("/") for each in urls}:
        raise Denied(f"{url} is no relay that this key is used at", "see: avault status")
    return {"ok": True, "event": json.loads(sign_auth(keys, url, challenge))}
