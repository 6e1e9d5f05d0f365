"""What avault takes of nostr-sdk that is not about relays: keys, ciphers, and events.

Every release of nostr-sdk breaks calls, so few rooms know it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import nostr_sdk

from avault.errors import Usage

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Event: TypeAlias = nostr_sdk.Event
    Keys: TypeAlias = nostr_sdk.Keys
    KeyText: TypeAlias = str  # a secret key as text: hex or nsec, the agent's or one that unlocks


def make_keys() -> Keys:
    """A new key pair."""
    return nostr_sdk.Keys.generate()


def read_keys(text: KeyText) -> Keys:
    """The key pair of an nsec or hex secret key that we have written; raises ValueError."""
    try:
        return nostr_sdk.Keys.parse(text)
    except nostr_sdk.NostrSdkError:
        raise ValueError("not a Nostr secret key") from None


def parse_npub(text: str) -> str:
    """The hex public key of an npub (NIP-19) or of hex; raises Usage."""
    try:
        return str(nostr_sdk.PublicKey.parse(text.strip()).to_hex())
    except nostr_sdk.NostrSdkError:
        hint = (
            "that is a secret key; it does not belong here"
            if text.strip().startswith("nsec1")
            else "an npub1…"
        )
        raise Usage("not a Nostr public key", hint) from None


def to_npub(public: str) -> str:
    """A hex public key as an npub (NIP-19)."""
    return str(nostr_sdk.PublicKey.parse(public).to_bech32())


def encrypt(keys: Keys, peer: str, text: str) -> str:
    """`text` as a NIP-44 v2 payload from `keys` to a public key (hex)."""
    secret, public = keys.secret_key(), nostr_sdk.PublicKey.parse(peer)
    return str(nostr_sdk.nip44_encrypt(secret, public, text, nostr_sdk.Nip44Version.V2))


def decrypt(keys: Keys, peer: str, payload: str) -> str:
    """The text of a NIP-44 payload between `keys` and a public key (hex); raises ValueError.

    The payload's base64 must be the one encoding of its bytes: the MAC of
    NIP-44 does not cover the unused bits of the last character.
    """
    import binascii

    if binascii.b2a_base64(binascii.a2b_base64(payload), newline=False) != payload.encode():
        raise ValueError("not canonical base64")
    try:
        public = nostr_sdk.PublicKey.parse(peer)
        return str(nostr_sdk.nip44_decrypt(keys.secret_key(), public, payload))
    except nostr_sdk.NostrSdkError:
        raise ValueError("not a payload between these keys") from None


STATEMENT_KIND = 26_047  # ephemeral and unused: no relay keeps it, no app knows it


def sign_text(keys: Keys, text: str) -> str:
    """A text that a key has signed, as the JSON of a Nostr event (NIP-01)."""
    return str(
        nostr_sdk.EventBuilder(nostr_sdk.Kind(STATEMENT_KIND), text).finalize(keys).as_json()
    )


def read_signed(text: str) -> tuple[str, str]:
    """Whose key (hex) has signed a text, and the text; raises ValueError."""
    try:
        event = nostr_sdk.Event.from_json(text)
        is_whole = event.verify() and event.as_json() == text  # which has one encoding
        if is_whole and event.kind().as_u16() == STATEMENT_KIND:
            return str(event.author().to_hex()), str(event.content())
    except nostr_sdk.NostrSdkError:
        pass
    raise ValueError("not signed")


def parse_keys(text: KeyText) -> Keys:
    """The key pair of an nsec or hex secret key; raises Usage without repeating it."""
    try:
        return read_keys(text.strip())
    except ValueError:
        raise Usage("not a Nostr secret key", "an nsec1… or 64 hex characters") from None


def public_hex(keys: Keys) -> str:
    """The public key of a key pair, in hex."""
    return str(keys.public_key().to_hex())


def encrypt_key(secret: KeyText, passphrase: str, log_n: int) -> str:
    """A secret key (hex) as ncryptsec (NIP-49), of which nobody knows that it was handled badly."""
    key, security = nostr_sdk.SecretKey.parse(secret), nostr_sdk.KeySecurity.MEDIUM
    return str(nostr_sdk.EncryptedSecretKey(key, passphrase, log_n, security).to_bech32())


class TooHard(ValueError):
    """What an ncryptsec asks for is more memory than the library allows: log_n is above 18."""


def decrypt_key(ncryptsec: str, passphrase: str) -> KeyText | None:
    """The secret key (hex) of an ncryptsec (NIP-49); None where the passphrase is another.

    Raises ValueError for what is no ncryptsec, and TooHard.
    """
    try:
        encrypted = nostr_sdk.EncryptedSecretKey.from_bech32(ncryptsec)
    except nostr_sdk.NostrSdkError:
        raise ValueError("not an ncryptsec") from None
    try:
        return str(encrypted.decrypt(passphrase).to_hex())
    except nostr_sdk.NostrSdkError as error:
        if "log_n" in str(error):
            raise TooHard from None
        return None


MESSAGE_KIND = 14  # a private message (NIP-17); it travels in two wraps (NIP-59)
INBOX_KIND = 10_050  # by which relays somebody takes such messages (NIP-17)


def wrap_message(keys: Keys, receiver: str, text: str) -> str:
    """A private message (NIP-17) to a public key (hex), as the JSON of the event to be sent."""
    public = nostr_sdk.PublicKey.parse(receiver)
    return str(nostr_sdk.nip17_make_private_msg(keys, public, text).as_json())


def open_message(keys: Keys, event: str) -> tuple[str, int, str]:
    """Who wrote a private message (hex), when (seconds), and what; raises ValueError.

    The author is whose key signed the seal, and the time is the message's own: that of the
    wraps is chosen at random (NIP-59).
    """
    try:
        gift = nostr_sdk.UnwrappedGift.from_gift_wrap(keys, nostr_sdk.Event.from_json(event))
        message, author = gift.rumor(), gift.sender()
        if message.kind().as_u16() == MESSAGE_KIND and message.author() == author:
            return str(author.to_hex()), int(message.created_at().as_secs()), str(message.content())
    except nostr_sdk.NostrSdkError:
        pass
    raise ValueError("no private message to these keys")


AUTH_KIND = 22_242  # who asks a relay (NIP-42)


def sign_auth(keys: Keys, url: str, challenge: str) -> str:
    """Who asks a relay, as it wants to know (NIP-42), as JSON: for it and this challenge alone."""
    tags = [nostr_sdk.Tag.parse(tag) for tag in (["relay", url], ["challenge", challenge])]
    builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(AUTH_KIND), "").tags(tags)
    return str(builder.finalize(keys).as_json())


def sign_inbox(keys: Keys, urls: list[str]) -> str:
    """The event that says by which relays a key takes private messages (NIP-17), as JSON."""
    tags = [nostr_sdk.Tag.parse(["relay", url]) for url in urls]
    builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(INBOX_KIND), "").tags(tags)
    return str(builder.finalize(keys).as_json())


RPC_KIND = 24_133


def compose_event(keys: Keys, peer: str, text: str) -> Event:
    """An event of NIP-46 with a text for a public key (hex), encrypted; raises ValueError."""
    public = nostr_sdk.PublicKey.parse(peer)
    try:
        content = encrypt(keys, peer, text)
    except nostr_sdk.NostrSdkError:
        raise ValueError("longer than NIP-44 has it") from None
    builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(RPC_KIND), content)
    return builder.tags([nostr_sdk.Tag.public_key(public)]).finalize(keys)


def is_to(keys: Keys, event: Event) -> bool:
    """Whether an event is signed as it says, and for us."""
    me = ["p", public_hex(keys)]
    return event.verify() and me in [tag.to_vec()[:2] for tag in event.tags()]


def read_event(keys: Keys, event: Event) -> tuple[Any, bool]:
    """What an event to us says, as JSON; and whether it is encrypted in the old form (NIP-04).

    Raises ValueError.
    """
    is_old_form = "?iv=" in event.content()
    read = nostr_sdk.nip04_decrypt if is_old_form else nostr_sdk.nip44_decrypt
    try:
        text = read(keys.secret_key(), event.author(), event.content())
    except nostr_sdk.NostrSdkError:
        raise ValueError("not between these keys") from None
    return json.loads(text), is_old_form


def open_request(keys: Keys, text: str) -> tuple[Event, Any]:
    """An event of NIP-46 to a key, as JSON, and what it says; raises ValueError."""
    try:
        event = nostr_sdk.Event.from_json(text)
        if event.kind().as_u16() == RPC_KIND and is_to(keys, event):
            return event, read_event(keys, event)[0]
    except (RecursionError, nostr_sdk.NostrSdkError):
        pass
    raise ValueError("no request to this key")


def derive_keys(words: str, passphrase: str | None = None, *steps: int) -> Keys:
    """The key pair of words (NIP-06), by account, kind and index; raises ValueError.

    What that says is the library's: of a word that is in no list it has the number, not the word.
    """
    try:
        account, kind, index = steps or (None, None, None)
        return nostr_sdk.Keys.from_mnemonic(words, passphrase, account, kind, index)
    except nostr_sdk.NostrSdkError as error:
        raise ValueError(str(error)) from None


def use_cipher(keys: Keys, cipher: str, peer: str, text: str) -> str:
    """A text encrypted to a public key (hex), or decrypted from it; raises ValueError.

    `cipher` is as NIP-46 names its methods: nip04_encrypt, nip04_decrypt, nip44_encrypt and so on.
    """
    name, out = cipher.split("_")
    try:
        if name == "nip44":
            return (encrypt if out == "encrypt" else decrypt)(keys, peer, text)
        change = nostr_sdk.nip04_encrypt if out == "encrypt" else nostr_sdk.nip04_decrypt
        return str(change(keys.secret_key(), nostr_sdk.PublicKey.parse(peer), text))
    except nostr_sdk.NostrSdkError:
        raise ValueError("not for this key, peer and text") from None


def sign_unsigned(keys: Keys, wanted: dict[str, Any]) -> tuple[str, str]:
    """The id (hex) and the JSON of an event (NIP-01) that a key has signed; raises ValueError."""
    try:
        made = nostr_sdk.UnsignedEvent.from_json(json.dumps(wanted)).sign(keys)
    except nostr_sdk.NostrSdkError:
        raise ValueError("no event that can be signed") from None
    return str(made.id().to_hex()), str(made.as_json())
