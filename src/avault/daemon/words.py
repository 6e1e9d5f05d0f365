"""The one word that an operator may send to an agent: lock, as a private message (NIP-17).

Nothing else that a message says is obeyed. Locking is harmless to repeat; whatever else would make
of a chat app what only the signer is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING

from avault.daemon.introducing import introduce_to_relay
from avault.daemon.wire import Session
from avault.errors import AvaultError, Usage
from avault.keys.keyholder import Keyholder
from avault.keys.nostr import open_message, public_hex, sign_inbox, wrap_message
from avault.protocol import refuse_unknown
from avault.vault.messages import MessageSettings
from avault.vault.own_files import normalise_relay

if TYPE_CHECKING:
    from avault.protocol import Message


WORD_OBEYED = "lock"
LONGEST_WORD = 4096  # characters of an event; one with this word has 1,701
LATEST_LOCK = 5.0  # seconds after which it locks, whether or not somebody asks for it
FRESH_WORD = 600  # seconds that a word may be old, or ahead
SKEW = 120  # seconds by which the phone's clock may be behind, when it is sent after an unlock
MOST_INBOXES = 10  # relays


async def serve_word(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Whether an event is the word of an operator; or by which relays the agent takes messages.

    Of what does not count nothing is told: who asks could be anybody who has read an event.
    """
    fields = {"action", "event", "after", "relays", "relay", "challenge"}
    refuse_unknown(request, frozenset(fields))
    if request.get("action") == "inbox":
        return announce_inbox(keyholder, session, request)
    if request.get("action") == "auth":
        settings = MessageSettings.load(keyholder.places)
        heard = settings.relays if settings.lock else []
        return introduce_to_relay(keyholder.open_store().keys, request, heard)
    if request.get("action") != "read":
        raise Usage("no such action", "auth, inbox, or read")
    event, after = request.get("event"), request.get("after", 0)
    if not isinstance(event, dict) or len(text := json.dumps(event)) > LONGEST_WORD:
        raise Usage(f"event is an object of at most {LONGEST_WORD} characters")
    if type(after) is not int:
        raise Usage("after is a number of seconds")
    store, unlocked = keyholder.open_store(), keyholder.holding.autolock.since
    try:
        sender, written, said = await asyncio.to_thread(open_message, store.keys, text)
    except ValueError:
        return {"ok": True, "word": None}
    is_fresh = abs(time.time() - written) <= FRESH_WORD and written > max(unlocked - SKEW, after)
    is_obeyed = sender in store.vault.operators() and said.strip().lower() == WORD_OBEYED
    if not is_obeyed or not is_fresh:
        return {"ok": True, "word": None}
    with contextlib.suppress(AvaultError):  # a full disk keeps nothing open
        keyholder.release(session, {"op": "word", "for": WORD_OBEYED})
    locks = bool(keyholder.holding.ratchet.proven) and not is_unsaved(keyholder)
    said = describe_lock(store.vault.name, time.time(), locks)
    reply = json.loads(await asyncio.to_thread(wrap_message, store.keys, sender, said))
    if locks:  # whoever has that reply, and what they do with it: it is true
        asyncio.get_running_loop().call_later(LATEST_LOCK, keyholder.ended.set)
    told = {"word": WORD_OBEYED, "written": written, "to": sender}
    return {"ok": True, **told, "locks": locks, "reply": reply}


def is_unsaved(keyholder: Keyholder) -> bool:
    """Whether what is served is not on the disk: to lock now may lose it."""
    return "unsaved" in keyholder.holding.reporter.warnings


def announce_inbox(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """The event that says by which relays the agent takes messages; with none, by none."""
    given = request.get("relays")
    if not isinstance(given, list) or len(given) > MOST_INBOXES:
        raise Usage(f"relays is a list of at most {MOST_INBOXES}")
    urls, store = [normalise_relay(url) for url in given], keyholder.open_store()
    keyholder.release(session, {"op": "word", "for": f"inbox {' '.join(urls)}".strip()})
    event = json.loads(sign_inbox(store.keys, urls))
    return {"ok": True, "event": event, "agent": public_hex(store.keys)}


def describe_lock(name: str, now: float, locks: bool) -> str:
    """What the operator is answered: made before the key is gone."""
    at = time.strftime("%H:%M UTC", time.gmtime(now))
    if locks:
        return f"avault: {name} locks, {at}"
    return f"avault: {name} is NOT locked, {at}: see avault status there"
