"""What avault takes of nostr-sdk that is not about relays: keys, and NIP-44.

Every release of nostr-sdk breaks calls, so few rooms know it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import nostr_sdk

from avault.errors import Usage

if TYPE_CHECKING:
    from typing import TypeAlias

    Event: TypeAlias = nostr_sdk.Event
    Keys: TypeAlias = nostr_sdk.Keys


def make_keys() -> Keys:
    """A new key pair."""
    return nostr_sdk.Keys.generate()


def read_keys(text: str) -> Keys:
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


def parse_keys(text: str) -> Keys:
    """The key pair of an nsec or hex secret key; raises Usage without repeating it."""
    try:
        return read_keys(text.strip())
    except ValueError:
        raise Usage("not a Nostr secret key", "an nsec1… or 64 hex characters") from None


def public_hex(keys: Keys) -> str:
    """The public key of a key pair, in hex."""
    return str(keys.public_key().to_hex())


def encrypt_key(secret: str, passphrase: str, log_n: int) -> str:
    """A secret key (hex) as ncryptsec (NIP-49), of which nobody knows that it was handled badly."""
    key, security = nostr_sdk.SecretKey.parse(secret), nostr_sdk.KeySecurity.MEDIUM
    return str(nostr_sdk.EncryptedSecretKey(key, passphrase, log_n, security).to_bech32())


def decrypt_key(ncryptsec: str, passphrase: str) -> str | None:
    """The secret key (hex) of an ncryptsec (NIP-49); None where the passphrase is another.

    Raises ValueError for what is no ncryptsec.
    """
    try:
        encrypted = nostr_sdk.EncryptedSecretKey.from_bech32(ncryptsec)
    except nostr_sdk.NostrSdkError:
        raise ValueError("not an ncryptsec") from None
    try:
        return str(encrypted.decrypt(passphrase).to_hex())
    except nostr_sdk.NostrSdkError:
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
