"""What is said of Nostr on a command line: kinds of events, ciphers, peers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.errors import Usage, printable
from avault.keys.nostr import parse_npub
from avault.terminal.commands import option
from avault.vault.nostr_rules import ANY_PEER, is_kind

if TYPE_CHECKING:
    from typing import Any


NOSTR_OPTIONS = (option("--kinds"), option("--ciphers"), option("--peer", "peers", multiple=True))


def split_words(text: str | None) -> list[str]:
    """The words of a list with commas."""
    return [each.strip() for each in (text or "").split(",") if each.strip()]


def name_kinds(text: str | None) -> list[str]:
    """Kinds of events, of a list with commas; raises Usage."""
    found = split_words(text)
    if wrong := next((each for each in found if not is_kind(each)), None):
        raise Usage(f"not a kind of event: {printable(wrong, 40)}", "as in: --kinds 1,7")
    return found


def name_peers(given: tuple[str, ...]) -> list[str]:
    """Public keys in hex, of npubs; raises Usage."""
    return [each if each == ANY_PEER else parse_npub(each) for each in given]


def name_nostr_uses(
    kinds: str | None, ciphers: str | None, peers: tuple[str, ...]
) -> dict[str, Any]:
    """The fields of a request that say what a key for Nostr may sign; raises Usage."""
    found = {
        "kinds": name_kinds(kinds),
        "ciphers": split_words(ciphers),
        "peers": name_peers(peers),
    }
    return {name: value for name, value in found.items() if value}
