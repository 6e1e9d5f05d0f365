"""What is to be signed for Nostr, decoded strictly and whole, and in words.

A use is a dictionary with `as`. Of an event `kind`, `created_at`, `tags`, `content`, and the `id`
that NIP-01 gives it. Of a text the `cipher` (NIP-44, NIP-04), the `peer` (hex) that it is for or
from, and the `text`.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from avault.errors import Denied, Usage, printable
from avault.signing.ssh_words import quote_words
from avault.ssh_wire import decode_base64
from avault.vault.nostr_rules import HIGHEST_KIND, NOSTR_USES, is_hex_key, shorten_npub

if TYPE_CHECKING:
    from typing import Any


LONGEST_NOSTR = 40_000  # bytes of an event or a text: a request's first frame has it, in base64
MOST_TAGS = 2_000
LATEST_TIME = 1 << 33  # of an event, in Unix seconds
LATER, EARLIER = (
    900,
    3 * 86_400,
)  # seconds: an event is not dated later, or earlier; NIP-59 needs 2d
EVENT_FIELDS = frozenset({"kind", "content", "tags", "created_at"})
IGNORED_FIELDS = frozenset({"pubkey", "id", "sig"})  # which we make; but `pubkey` has to fit
KIND_WORDS = {
    0: "its profile",
    1: "a note",
    3: "whom it follows",
    4: "a private message",
    5: "a deletion",
    6: "a repost",
    7: "a reaction",
    13: "a sealed private message",
    1_984: "a report",
    9_734: "a zap request",
    10_002: "its relays",
    22_242: "a proof to a relay of who it is",
    24_133: "a request to a remote signer",
    27_235: "a proof to a web server of who it is",
    30_023: "an article",
}


def decode_nostr(request: dict[str, Any]) -> dict[str, Any]:
    """What a request wants signed, encrypted or decrypted; raises Usage.

    It has `as`, `payload` (UTF-8 in base64), `public` (the key's 32 bytes, in base64), and of a
    text `peer`.
    """
    try:
        public = decode_base64(request.get("public"), 32).hex()
        text = decode_base64(request.get("payload"), LONGEST_NOSTR).decode()
        if request.get("as") == "nostr-event":
            return decode_event(text, public)
    except (ValueError, RecursionError) as error:
        raise Usage(f"not understood, so not signed: {error}") from None
    if request.get("as") not in NOSTR_USES:
        raise Usage(f"as is one of: {', '.join(NOSTR_USES)}", "what is not understood stays so")
    peer = request.get("peer")
    if not isinstance(peer, str) or not is_hex_key(peer.lower()):
        raise Usage("peer is no public key", "64 hex digits")
    cipher = str(request["as"]).replace("-", "_")
    return {"as": request["as"], "cipher": cipher, "peer": peer.lower(), "text": text}


def decode_event(text: str, public: str) -> dict[str, Any]:
    """An event without its signature (NIP-01), to be signed by this key (hex).

    Raises ValueError; Denied for one that says it is another key's, or by delegation (NIP-26).
    """
    event = json.loads(text)
    if not isinstance(event, dict) or not {*event} >= EVENT_FIELDS:
        raise ValueError(f"an event has {', '.join(sorted(EVENT_FIELDS))}")
    if unknown := sorted({*event} - EVENT_FIELDS - IGNORED_FIELDS):
        raise ValueError(f"an event has no {printable(unknown[0], 40)}")
    kind, made, tags = event["kind"], event["created_at"], event["tags"]
    if type(kind) is not int or not 0 <= kind <= HIGHEST_KIND:
        raise ValueError("kind is a number to 65535")
    if type(made) is not int or not 0 <= made <= LATEST_TIME:
        raise ValueError("created_at is a time in Unix seconds")
    if not isinstance(event["content"], str):
        raise ValueError("content is a text")
    if not isinstance(tags, list) or len(tags) > MOST_TAGS or not all(map(is_tag, tags)):
        raise ValueError(f"tags are at most {MOST_TAGS} lists of texts")
    if event.get("pubkey") not in (None, "", public):
        raise Denied("that is an event of another key's")
    if any(tag[0] == "delegation" for tag in tags):
        raise Denied("an event in the name of another key is not signed (NIP-26)")
    row = [0, public, made, kind, tags, event["content"]]
    whole = json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode()
    found = {"kind": kind, "created_at": made, "tags": tags, "content": event["content"]}
    return {"as": "nostr-event", "id": hashlib.sha256(whole).hexdigest(), **found}


def is_tag(tag: object) -> bool:
    """Whether it can be an event's tag."""
    return isinstance(tag, list) and bool(tag) and all(isinstance(each, str) for each in tag)


def check_event_time(use: dict[str, Any], now: float) -> None:
    """Raise Denied for an event that is dated long ago, or in the time to come.

    It would be a signature for when the key may sign no more.
    """
    if use["as"] == "nostr-event" and not now - EARLIER <= use["created_at"] <= now + LATER:
        raise Denied("the event's created_at is not about now", "is the clock right?")


def describe_nostr(use: dict[str, Any], name: str, child: str = "") -> str:
    """A use of a key, in words; `child` is who asks by an invitation."""
    who = f"{child}: " if child else ""
    if use["as"] != "nostr-event":
        peer, form = shorten_npub(use["peer"]), use["cipher"].partition("_")[0].upper()
        is_out = use["cipher"].endswith("_encrypt")
        done = f"encrypt {len(use['text'])} characters for" if is_out else "read a text of"
        return f"{who}{done} {peer} ({form}) with {name}"
    kind = use["kind"]
    what = KIND_WORDS.get(kind, "an event")
    done = f"{who}sign {what} (kind {kind}) with {name}"
    if kind == 27_235:
        told = [tag[1] for tag in use["tags"] if tag[0] in ("method", "u") and len(tag) > 1]
        return f"{done}, for {quote_words(' '.join(told).encode(), 80)}"
    if kind == 5:
        return f"{done}, of {sum(tag[0] in ('e', 'a') for tag in use['tags'])}"
    return f"{done}: {quote_words(use['content'].encode(), 60)}" if use["content"] else done
