"""Keys that sign for Nostr, in the process that signs; and the keys of a bunker's own.

Of a key nothing goes out but what was made with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.errors import Denied, Usage
from avault.keys.nostr import (
    TooHard,
    compose_event,
    decrypt_key,
    derive_keys,
    make_keys,
    open_request,
    parse_keys,
    public_hex,
    read_keys,
    sign_unsigned,
    use_cipher,
)
from avault.late import regex
from avault.signing.nostr_uses import LONGEST_NOSTR
from avault.signing.word_trees import (
    DEFAULT_PATHS,
    HARDENED,
    are_words,
    normalize_passphrase,
    normalize_words,
    read_steps,
)
from avault.vault.signing_keys import pack_nostr_key, read_signing_key, split_nostr_key

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.nostr import Keys


LONGEST_FROM_CLIENT = 60_000  # bytes of an event that asks something
MOST_PARAMETERS = 16  # of a request; NIP-46 has at most three
WORD_NUMBER = regex(r"\(word (\d{1,2})\)")  # how the library says which one, from 0


def keep_nostr_key(keys: Keys) -> str:
    """A key pair as it is kept."""
    return pack_nostr_key(public_hex(keys), str(keys.secret_key().to_hex()))


def make_nostr_key() -> str:
    """A new key, as it is kept."""
    return keep_nostr_key(make_keys())


def take_nostr_key(text: str, passphrase: str | None, path: str | None = None) -> str | None:
    """The key in a file, an nsec, its hex, or an ncryptsec (NIP-49), as it is kept; raises Usage.

    Or that of words (NIP-06), at a path. None where no passphrase is there, and it is encrypted or
    words; Denied for a wrong one.
    """
    text = text.strip()
    if text.startswith("npub1"):
        raise Usage("that is a public key", "the private one begins with nsec1")
    if are_words(text):
        return None if passphrase is None else take_nostr_words(text, passphrase, path)
    if path is not None:
        raise Usage("a path is for words", "leave --path out")
    if not text.startswith("ncryptsec1"):
        return keep_nostr_key(parse_keys(text))
    if not passphrase:
        return None
    try:
        found = decrypt_key(text, passphrase)
    except TooHard:
        found = None
    except ValueError as error:
        raise Usage(f"that is {error}", "as another program writes it: ncryptsec1…") from None
    if not found:
        raise Denied("the passphrase is not the key's, or it needs more than log_n 18", "try again")
    return keep_nostr_key(read_keys(found))


def check_words(text: str) -> str:
    """Words of a tree as BIP-39 has them: of its English list, with their checksum; raises Usage.

    The library says which word is none of the list's by its number, and never the word.
    """
    words = normalize_words(text)
    try:
        derive_keys(words)
    except ValueError as error:
        found = WORD_NUMBER.search(str(error))
        if found:
            which = f"word {int(found[1]) + 1} is not in BIP-39's English list"
            raise Usage(which, "look for a slip of the pen") from None
        why = "these words do not belong together: their checksum is wrong"
        raise Usage(why, "look for words that are swapped, or another's") from None
    return words


def take_nostr_words(text: str, passphrase: str, path: str | None) -> str:
    """The key of words at a path of NIP-06, as it is kept; raises Usage."""
    steps = read_steps(path or DEFAULT_PATHS["nostr"])
    account, kind, index = [*steps, 0, 0, 0][2:5]
    forms = [44 + HARDENED, 1237 + HARDENED, account | HARDENED, kind % HARDENED, index % HARDENED]
    if steps != forms:
        raise Usage("that is no path of NIP-06", "as in: --path \"m/44'/1237'/0'/0/0\"")
    words = check_words(text)
    number = account - HARDENED
    said = normalize_passphrase(passphrase)  # which the library leaves as it is
    return keep_nostr_key(derive_keys(words, said, number, kind, index))


class NostrKeys:
    """The keys that this process was given, each by what its private value is named."""

    def __init__(self) -> None:
        self.loaded: dict[str, Keys] = {}

    def take(self, value: str) -> None:
        """Have one, as it is kept; raises Usage where its public half is not its own."""
        known = read_signing_key(value)
        public, secret = split_nostr_key(value)
        keys = read_keys(secret)
        if not known or public_hex(keys) != public:
            raise Usage("that has the public half of another key", "so it signs nothing: delete it")
        self.loaded[known.identity] = keys

    def find(self, identity: str) -> Keys:
        """One of them; raises Usage."""
        if identity not in self.loaded:
            raise Usage("there is no such key here", "try again")
        return self.loaded[identity]

    def sign(self, identity: str, use: dict[str, Any]) -> str:
        """The JSON of an event that is signed, or what becomes of a text; raises Usage, Denied."""
        keys = self.find(identity)
        if use["as"] == "nostr-event":
            return sign_event(keys, use)
        try:
            made = use_cipher(keys, use["cipher"], use["peer"], use["text"])
        except ValueError:
            raise Usage(f"{use['cipher']} does not work with this key, peer and text") from None
        if len(made.encode()) > LONGEST_NOSTR:
            raise Usage("that is too long", f"at most {LONGEST_NOSTR} bytes come of it")
        return made

    def open(self, identity: str, text: object) -> dict[str, Any]:
        """What an event of NIP-46 to one of these says, and who it is by (hex); raises Usage.

        It is signed by that one: the id of the event, author, time and content are what was signed.
        `said` is None where that is no request.
        """
        keys = self.find(identity)
        try:
            if not isinstance(text, str) or len(text.encode()) > LONGEST_FROM_CLIENT:
                raise ValueError
            event, said = open_request(keys, text)
        except ValueError:
            raise Usage("no request for this key, or not its author's") from None
        return {
            "event": str(event.id().to_hex()),
            "author": str(event.author().to_hex()),
            "created_at": int(event.created_at().as_secs()),
            "said": read_said(said),
        }

    def seal(self, identity: str, peer: str, text: str) -> str:
        """The JSON of an event of NIP-46 with a text for a client; raises Usage for a long one."""
        try:
            return str(compose_event(self.find(identity), peer, text).as_json())
        except ValueError:
            raise Usage("that is too long for an answer") from None


def read_said(said: object) -> dict[str, Any] | None:
    """The fields of a request of NIP-46, without those that it has not; None for what is none.

    So whoever writes to us cannot have more, or deeper, than the keyholder reads. A parameter that
    is no text is "".
    """
    found = said if isinstance(said, dict) else {}
    number, method, params = found.get("id"), found.get("method"), found.get("params", [])
    if not (isinstance(number, str) and isinstance(method, str) and isinstance(params, list)):
        return None
    if len(params) > MOST_PARAMETERS:
        return None
    texts = [each if isinstance(each, str) else "" for each in params]
    return {"id": number, "method": method, "params": texts}


def sign_event(keys: Keys, use: dict[str, Any]) -> str:
    """The JSON of an event that is signed: what was decoded, and nothing else."""
    fields = {each: use[each] for each in ("kind", "created_at", "tags", "content")}
    try:
        identity, made = sign_unsigned(keys, {"pubkey": public_hex(keys), **fields})
    except ValueError:
        raise Usage("not understood, so not signed") from None
    if identity != use["id"]:
        raise Usage("not understood, so not signed: it would be another event")
    return made
