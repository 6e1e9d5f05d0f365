"""Events that relays keep (NIP-01, addressable): made, put on a relay, fetched, looked at.

A relay is reached under a key of the moment, unless it is told of another.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from typing import TYPE_CHECKING

import nostr_sdk

from avault.errors import Unavailable, Usage, printable
from avault.keys.nostr import INBOX_KIND, make_keys
from avault.late import Fields
from avault.signer.relays import RELAY_QUOTES, make_authenticator
from avault.vault.own_files import normalise_relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import Any, Self

    from avault.keys.nostr import Keys
    from avault.signer.relays import Introduce

STORED_KIND = 30_078  # of applications, each with data of its own (NIP-78)
MOST_EVENTS = 500  # that are taken of one answer of a relay
AT_ONCE = 20  # that are asked for in one request
PATIENCE = 9.0  # seconds for a relay's answer, and between two events of one
MOST_PATIENCE = 60.0  # seconds for all of an answer


class StoredEvent(Fields, frozen=True):
    """An event that a relay has, signed as it says: its `name` is the address (its tag d)."""

    id: str
    author: str
    name: str
    time: int
    content: str
    event: dict[str, Any]


def compose_stored(
    keys: Keys, tags: list[list[str]], content: str, created_at: int
) -> dict[str, Any]:
    """An event that replaces what is at its address, signed."""
    builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(STORED_KIND), content)
    builder = builder.tags([nostr_sdk.Tag.parse(tag) for tag in tags])
    builder = builder.custom_created_at(nostr_sdk.Timestamp.from_secs(created_at))
    return dict(json.loads(builder.finalize(keys).as_json()))


def read_stored(event: object, author: str) -> StoredEvent:
    """An event as it was made, if this author (hex) has signed it; raises ValueError."""
    try:
        read = nostr_sdk.Event.from_json(json.dumps(event))
        is_signed = read.verify() and read.author().to_hex() == author
        names = [tag.to_vec()[1] for tag in read.tags() if tag.to_vec()[:1] == ["d"]]
        if is_signed and read.kind().as_u16() == STORED_KIND and len(names) == 1:
            made = json.loads(read.as_json())
            time = read.created_at().as_secs()
            return StoredEvent(read.id().to_hex(), author, names[0], time, read.content(), made)
    except (nostr_sdk.NostrSdkError, IndexError, TypeError):
        pass
    raise ValueError("not an event of that author")


class StoringRelay:
    """A relay as a place that keeps events, connected for the length of an `async with`.

    One that wants to know who asks (NIP-42) is told of a key of the moment, which tells it
    nothing, or what `introduce` says. Raises Unavailable where it is not there.
    """

    def __init__(self, url: str, introduce: Introduce | None = None) -> None:
        self.url, self.introduce = url, introduce
        self.closed = ""  # why a subscription was, until it is known who asks

    async def __aenter__(self) -> Self:
        from datetime import timedelta

        nostr_sdk.uniffi_set_event_loop(asyncio.get_running_loop())
        authenticator = make_authenticator(make_keys(), self.introduce)
        self.client = nostr_sdk.ClientBuilder().authenticator(authenticator).build()
        try:
            await self.client.add_relay(address := nostr_sdk.RelayUrl.parse(self.url))
            self.relay = await self.client.relay(address)
            self.stream = self.client.notifications()
            await self.relay.try_connect(timeout=timedelta(seconds=PATIENCE))
        except nostr_sdk.NostrSdkError:
            await self.client.shutdown()
            raise Unavailable(f"{self.url} does not answer") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.shutdown()

    async def send(self, event: dict[str, Any]) -> str:
        """Have it keep an event: what it says, "accepted" if it took it, or why not."""
        from datetime import timedelta

        try:
            made = nostr_sdk.Event.from_json(json.dumps(event))
            await self.relay.send_event(made, ok_timeout=timedelta(seconds=PATIENCE))
        except nostr_sdk.NostrSdkError as error:
            text = printable(str(error).strip(RELAY_QUOTES))
            return "accepted" if text.startswith("duplicate") else text
        return "accepted"

    async def fetch(
        self,
        author: str,
        ids: list[str] | None = None,
        names: list[str] | None = None,
        topic: str | None = None,
        take: Callable[[StoredEvent], None] | None = None,
    ) -> list[StoredEvent]:
        """What it has of an author: by `ids`, by `names` (tag d), or by `topic` (tag t).

        What is not what was asked for is left out. `take` is given what comes at once, be there an
        end of the answer or not. Raises Unavailable.
        """
        wanted = nostr_sdk.Filter().kind(nostr_sdk.Kind(STORED_KIND))
        wanted = wanted.author(nostr_sdk.PublicKey.parse(author))
        if topic is not None:
            return await self.ask(wanted.hashtag(topic), author)
        found: list[StoredEvent] = []
        for some in range(0, len(ids or names or []), AT_ONCE):
            if ids:
                chosen = [nostr_sdk.EventId.parse(each) for each in ids[some : some + AT_ONCE]]
                found += await self.ask(wanted.ids(chosen), author)
            elif names:
                chosen_names = names[some : some + AT_ONCE]
                found += await self.ask_by_name(wanted, author, chosen_names, take)
        return found

    async def ask_by_name(
        self,
        wanted: nostr_sdk.Filter,
        author: str,
        names: list[str],
        take: Callable[[StoredEvent], None] | None = None,
    ) -> list[StoredEvent]:
        """What it has at these addresses; asked again for each, where it has said only some.

        The library's own relay gives one event of several addresses.
        """
        found = await self.ask(wanted.identifiers(names), author, take)
        missing = {*names} - {each.name for each in found}
        if found and missing:
            for name in sorted(missing):
                one = wanted.remove_identifiers(names).identifier(name)
                found += await self.ask(one, author, take)
        return found

    async def ask(
        self,
        wanted: nostr_sdk.Filter,
        author: str,
        take: Callable[[StoredEvent], None] | None = None,
    ) -> list[StoredEvent]:
        """What it answers to one filter, if it says that this is all (EOSE); raises Unavailable.

        The library's own call takes what came until it ran out of patience for all.
        """
        found: list[StoredEvent] = []

        def note(event: nostr_sdk.Event) -> None:
            if len(found) < MOST_EVENTS:
                found.append(read_stored(json.loads(event.as_json()), author))
                if take:
                    take(found[-1])

        await self.collect(wanted, note)
        return found

    async def fetch_inbox(self, author: str) -> tuple[int, list[str]]:
        """By which relays an author (hex) takes private messages (NIP-17), and since when.

        None of them, since 0, where the relay does not know; raises Unavailable.
        """
        wanted = nostr_sdk.Filter().kind(nostr_sdk.Kind(INBOX_KIND))
        wanted = wanted.author(nostr_sdk.PublicKey.parse(author))
        found: tuple[int, list[str]] = 0, []

        def note(event: nostr_sdk.Event) -> None:
            nonlocal found
            if event.verify() and event.created_at().as_secs() > found[0]:
                urls = [str(url) for url in nostr_sdk.nip17_extract_relay_list(event)]
                found = event.created_at().as_secs(), urls

        await self.collect(wanted, note)
        return found

    async def collect(
        self, wanted: nostr_sdk.Filter, take: Callable[[nostr_sdk.Event], None]
    ) -> None:
        """Give `take` what it answers to one filter, to the end; raises Unavailable.

        What `take` raises ValueError for is left out.
        """
        name, self.closed = secrets.token_hex(8), ""
        try:
            async with asyncio.timeout(PATIENCE) as limit:
                end = asyncio.get_running_loop().time() + MOST_PATIENCE
                await self.relay.subscribe(wanted, id=name)
                async for event in self.hear(name):
                    limit.reschedule(min(asyncio.get_running_loop().time() + PATIENCE, end))
                    with contextlib.suppress(ValueError):
                        if wanted.match_event(event):
                            take(event)
                await self.relay.unsubscribe(name)
        except TimeoutError:
            why = f": {printable(self.closed)}" if self.closed else ""
            raise Unavailable(f"{self.url} does not say what it has{why}") from None
        except nostr_sdk.NostrSdkError as error:
            said = printable(str(error).strip(RELAY_QUOTES))
            raise Unavailable(f"{self.url} does not say what it has: {said}") from None

    async def hear(self, name: str) -> AsyncIterator[nostr_sdk.Event]:
        """What comes of a subscription, to the end of what is stored; raises Unavailable.

        One that is closed until the relay knows who asks is opened again by the library.
        """
        while notification := await self.stream.next():
            message = notification.message.as_enum() if notification.is_MESSAGE() else None
            if not message or getattr(message, "subscription_id", None) != name:
                continue
            if message.is_EVENT_MSG():
                yield message.event
            elif message.is_END_OF_STORED_EVENTS():
                return
            elif message.is_CLOSED():
                if message.message.startswith("auth-required:") and not self.closed:
                    self.closed = message.message
                    continue
                said = printable(message.message)
                raise Unavailable(f"{self.url} does not say what it has: {said}")
        raise Unavailable(f"{self.url} does not say what it has")


def render_profile(public: str, urls: list[str]) -> str:
    """A public key (hex) and relays where its owner is found, as an nprofile (NIP-19)."""
    relays = []
    for url in urls:
        with contextlib.suppress(nostr_sdk.NostrSdkError):
            relays.append(nostr_sdk.RelayUrl.parse(url))
    return str(nostr_sdk.Nip19Profile(nostr_sdk.PublicKey.parse(public), relays).to_bech32())


def parse_profile(text: str) -> tuple[str, list[str]]:
    """The public key (hex) and the relays of an nprofile, or of an npub; raises Usage."""
    text = text.strip().removeprefix("nostr:")
    try:
        if not text.startswith("nprofile1"):
            return nostr_sdk.PublicKey.parse(text).to_hex(), []
        profile = nostr_sdk.Nip19Profile.from_bech32(text)
    except nostr_sdk.NostrSdkError:
        raise Usage("not an npub and not an nprofile", "avault replica status shows both") from None
    return profile.public_key().to_hex(), [normalise_relay(str(url)) for url in profile.relays()]
