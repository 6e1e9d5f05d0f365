"""The notice to the operator that a vault waits for the phone: one in an asking, and no link in it.

It is signed by the key that asks the phone, as the agent's own is away then. Anybody can write such
a text: it opens nothing, and approved is only what appears in the signer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.errors import Unavailable, Usage
from avault.keys.nostr import wrap_message
from avault.late import regex
from avault.messages.delivery import find_inbox, put_event
from avault.places import Places
from avault.signer.pairing import Pairing
from avault.vault.messages import MessageSettings
from avault.vault.own_files import check_name

if TYPE_CHECKING:
    from typing import Any


SINCE = regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
CODE = regex(r"[0-9A-Z]{4}")


def compose_notice(name: str, since: str, code: str) -> str:
    """What the operator reads: since when (RFC 3339), and the code of the phone's sentence.

    Raises Usage for what none of these can be.
    """
    if not SINCE.fullmatch(since) or not CODE.fullmatch(code):
        raise Usage("not a time, or not a code")
    name, at = check_name(name).replace(".", " "), f"{since[11:16]} UTC"  # apps make links of dots
    return f"avault: {name} has waited since {at}, code {code}. Approve only in your signer app."


async def send_notice(places: Places, name: str, since: str, code: str) -> dict[str, Any]:
    """Send it, and say what relays `said`; raises Unavailable where it can go nowhere."""
    pairing, settings = Pairing.load(places), MessageSettings.load(places)
    if not pairing:
        raise Unavailable("this machine is not paired with a signer", "avault pair")
    known = await find_inbox(pairing.operator, [*settings.relays, *pairing.relays])
    urls = known or settings.relays
    if not urls:
        raise Unavailable(
            "no relay says where the operator takes private messages (kind 10050)",
            "name one where they are read: avault message on --notice --relay wss://…",
        )
    event = wrap_message(pairing.keys, pairing.operator, compose_notice(name, since, code))
    said = await put_event(json.loads(event), urls)
    return {"ok": "accepted" in said.values(), "said": said}
