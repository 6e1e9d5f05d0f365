"""What a guard says of signing for Nostr: events of which kinds, and texts for or from whom.

What a key is guarded by when it is made names no kind and no cipher, so it signs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.keys.nostr import to_npub

if TYPE_CHECKING:
    from typing import Any


HEX = frozenset("0123456789abcdef")
ANY_PEER = "any"
HIGHEST_KIND = 65_535  # NIP-01
CIPHERS = ("nip44_encrypt", "nip44_decrypt", "nip04_encrypt", "nip04_decrypt")
NOSTR_USES = (  # of a request's `as`
    "nostr-event",
    "nip44-encrypt",
    "nip44-decrypt",
    "nip04-encrypt",
    "nip04-decrypt",
)
TELLING_KINDS = {  # kinds that do more than publish, and what
    0: "its profile",
    3: "whom it follows",
    5: "deletions",
    13: "seals of private messages",
    10_002: "its relays",
    22_242: "who it is, to relays",
    24_133: "requests to remote signers",
    27_235: "who it is, to web servers",
}


def is_hex_key(text: object) -> bool:
    """Whether it is a public key as Nostr writes it: 64 lower-case hex digits."""
    return isinstance(text, str) and len(text) == 64 and set(text) <= HEX


def is_kind(text: str) -> bool:
    """Whether it is an event's kind, as a number is written: 0 to 65535."""
    is_number = text.isascii() and text.isdigit() and len(text) < 6 and text == str(int(text))
    return is_number and int(text) <= HIGHEST_KIND


def is_peer(text: str) -> bool:
    """Whether it is a public key in hex, or `any`."""
    return text == ANY_PEER or is_hex_key(text)


def is_peer_within(narrow: str, wide: frozenset[str]) -> bool:
    """Whether a peer is among those that others stand for."""
    return narrow in wide or ANY_PEER in wide


def shorten_npub(public: str) -> str:
    """The beginning of an npub: 120 bits of the key, which nobody finds another one for."""
    return f"{to_npub(public)[:29]}…"


def describe_peers(members: frozenset[str]) -> str:
    """Peers in words."""
    shown = [shorten_npub(each) for each in sorted(members - {ANY_PEER})]
    return " or ".join(["anybody"] if ANY_PEER in members else shown) or "nobody"


def find_nostr_fault(
    use: dict[str, Any],
    kinds: list[frozenset[str]],
    ciphers: list[frozenset[str]],
    peers: list[frozenset[str]],
) -> str | None:
    """Why rules do not let a use of a key through, in words; None where they do.

    `use` is what was decoded: see signing/nostr_uses.
    """
    if use["as"] == "nostr-event":
        kind = str(use["kind"])
        if not kinds or any(kind not in each for each in kinds):
            return f"sign an event of kind {kind}"
        return None
    if not ciphers or any(use["cipher"] not in each for each in ciphers):
        return f"do {use['cipher']}"
    if not peers or any(not is_peer_within(use["peer"], each) for each in peers):
        return f"do {use['cipher']} with {shorten_npub(use['peer'])}"
    return None
