"""The relay client: connections to relays, what they are sent, and what they send to us."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from typing import TYPE_CHECKING

import nostr_sdk

from avault.errors import AvaultError, Unavailable, printable
from avault.keys.nostr import RPC_KIND, compose_event, make_keys, public_hex
from avault.signer.network import network
from avault.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, TypeAlias

    from avault.keys.nostr import Event, Keys

    Introduce: TypeAlias = Callable[[str, str], Awaitable[dict[str, Any] | None]]


WRAP_KIND = 1059  # a gift wrap (NIP-59)
RELAY_QUOTES = "'\""  # which the library puts around what a relay says


class Relays:
    """Relays that are connected under one key: `await open()`, and `await close()` at the end.

    `hear` is given each event that they send, `changed` is called when `shown`, which is what
    `status` shows of them, says something new. `wanted` are events of NIP-46 to the key, or others.
    Relays that want to know who asks are told of the key, or what `introduce` says.
    """

    def __init__(
        self,
        keys: Keys,
        urls: list[str],
        hear: Callable[[Event], None],
        changed: Callable[[], None],
        wanted: nostr_sdk.Filter | None = None,
        introduce: Introduce | None = None,
    ) -> None:
        self.keys, self.hear, self.changed = keys, hear, changed
        self.authenticator = make_authenticator(keys, introduce)
        self.wanted = wanted or wanted_answers(public_hex(keys))
        self.shown: dict[str, dict[str, Any]] = {
            url: {"url": url, "connected": False, "said": None} for url in urls
        }
        self.ready = asyncio.Event()  # one has confirmed our subscription
        self.clients: list[nostr_sdk.Client] = []
        self.pool: dict[str, nostr_sdk.Relay] = {}
        self.network = network()
        # told that a relay lets us listen, or why it does not
        self.noted: Callable[[str, str | None], None] = lambda url, why: None
        self.tasks: set[asyncio.Task[None]] = set()

    def is_any_connected(self) -> bool:
        """Whether one is there to take what we send."""
        return any(relay["connected"] for relay in self.shown.values())

    async def open(self) -> None:
        """Connect and subscribe in the background.

        Relays that are down are tried again every 5 s.
        """
        from datetime import timedelta

        options = (
            nostr_sdk.RelayOptions()
            .retry_interval(timedelta(seconds=5))
            .adjust_retry_interval(False)
        )
        # for NIP-42: relays that want to know who asks
        nostr_sdk.uniffi_set_event_loop(asyncio.get_running_loop())
        # a client for each: the library drops what it cannot hand on, and one may flood us
        for url in self.shown:
            client = nostr_sdk.ClientBuilder().authenticator(self.authenticator).build()
            self.clients.append(client)
            await client.add_relay(address := nostr_sdk.RelayUrl.parse(url), opts=options)
            self.pool[url] = await client.relay(address)
            stream = client.notifications()  # before connecting, so that nothing is missed
            await client.connect()
            await self.subscribe(client)
            spawn(self.tasks, self.listen(url, client, stream))

    async def subscribe(self, client: nostr_sdk.Client, after: float = 0.0) -> None:
        """Ask a relay for the events that are wanted."""
        await asyncio.sleep(after)
        await client.subscribe(nostr_sdk.ReqTarget.auto([self.wanted]), id="avault")

    async def close(self) -> None:
        """Disconnect."""
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*(client.shutdown() for client in self.clients))

    async def listen(self, url: str, client: nostr_sdk.Client, stream: Any) -> None:
        """Take what a relay sends, for ever."""
        again = 0.0
        while notification := await stream.next():
            if notification.is_NEW_EVENT():
                try:
                    self.hear(notification.event)
                except (
                    ValueError,
                    TypeError,
                    KeyError,
                    AttributeError,
                    RecursionError,
                    nostr_sdk.NostrSdkError,
                ):
                    continue  # garbage is free to send; it must not end a wait
            elif notification.is_MESSAGE():
                message = notification.message.as_enum()
                if message.is_END_OF_STORED_EVENTS():
                    self.ready.set()
                    self.noted(url, None)
                elif message.is_CLOSED():
                    self.noted(url, message.message)
                    # once, though it be closed a thousand times meanwhile
                    if time.monotonic() >= again:
                        again = time.monotonic() + 5.0
                        # the library does not, and would be deaf
                        spawn(self.tasks, self.subscribe(client, after=5.0))
            elif notification.is_SHUTDOWN():
                return

    async def wait_ready(self, timeout: float) -> None:
        """Wait until a relay has our subscription; raises Unavailable."""
        try:
            await asyncio.wait_for(self.ready.wait(), timeout)
        except TimeoutError:
            raise Unavailable(
                f"no relay answers: {', '.join(self.shown)}",
                "check the network, or choose others: --relay",
            ) from None
        self.look()

    def look(self) -> list[str]:
        """Bring `connected` up to date; the relays that are connected anew."""
        anew = []
        for url, relay in self.pool.items():
            connected = relay.status() == nostr_sdk.RelayStatus.CONNECTED
            if connected != self.shown[url]["connected"]:
                self.shown[url]["connected"] = connected
                anew += [url] if connected else []
                self.changed()
        return anew

    def move(self) -> bool:
        """Connect anew where the machine is in another network, or has slept: whether it is so.

        A dead connection is noticed late.
        """
        if (here := network()) == self.network:
            return False
        self.network = here
        for relay in self.pool.values():
            relay.disconnect()
            relay.connect()
        return True

    async def send(self, url: str, event: Event) -> str:
        """Send an event to one relay: what it says, "accepted" if it took it, or why not."""
        from datetime import timedelta

        try:
            await self.pool[url].send_event(event, ok_timeout=timedelta(seconds=5))
        except nostr_sdk.NostrSdkError as error:
            text = printable(str(error).strip(RELAY_QUOTES))
            # it has the event already (NIP-01)
            return "accepted" if text.startswith("duplicate:") else text
        return "accepted"

    async def publish(self, text: str) -> None:
        """Send an event, as JSON, to all of them."""
        event = nostr_sdk.Event.from_json(text)
        await asyncio.gather(*(self.send(url, event) for url in self.pool))


def make_authenticator(keys: Keys, introduce: Introduce | None = None) -> nostr_sdk.Authenticator:
    """What answers relays that want to know who asks (NIP-42): as the owner of the keys.

    Or by the event that `introduce` gives for a relay's URL and its challenge, or by none; no
    more than one a second for each, however many challenges a relay sends.
    """
    if not introduce:
        return nostr_sdk.SignerAuthenticator(keys)
    answered: dict[str, float] = {}
    say = introduce

    class Introduction(nostr_sdk.Authenticator):  # type: ignore[misc]
        async def make_auth_event(
            self, relay_url: nostr_sdk.RelayUrl, challenge: str
        ) -> nostr_sdk.Event | None:
            url, now = str(relay_url), time.monotonic()
            if now < answered.get(url, 0.0) + 1.0:
                return None
            answered[url] = now
            event = await say(url, challenge)
            return nostr_sdk.Event.from_json(json.dumps(event)) if event else None

    return Introduction()


def wanted_answers(public: str) -> nostr_sdk.Filter:
    """The events of NIP-46 to a public key (hex).

    Neither `since` nor `limit`, as a wrong clock or a gap must not hide an answer.
    """
    wanted = nostr_sdk.Filter().kind(nostr_sdk.Kind(RPC_KIND))
    return wanted.pubkey(nostr_sdk.PublicKey.parse(public))


def wanted_requests(public: str) -> nostr_sdk.Filter:
    """The same, of the last minute and from now on."""
    since = nostr_sdk.Timestamp.from_secs(int(time.time()) - 60)
    return wanted_answers(public).since(since)


def wanted_messages(public: str, since: int) -> nostr_sdk.Filter:
    """The private messages (NIP-17) to a public key (hex), as they travel, from a time on."""
    wanted = nostr_sdk.Filter().kind(nostr_sdk.Kind(WRAP_KIND))
    wanted = wanted.pubkey(nostr_sdk.PublicKey.parse(public))
    return wanted.since(nostr_sdk.Timestamp.from_secs(since))


async def probe_relays(urls: list[str], seconds: float) -> list[tuple[str | None, float]]:
    """What `probe` says of each relay, all at once, within so many seconds."""
    nostr_sdk.uniffi_set_event_loop(asyncio.get_running_loop())  # for NIP-42
    return await asyncio.gather(*(probe(url, seconds) for url in urls))


async def probe(url: str, seconds: float) -> tuple[str | None, float]:
    """Send a message of the kind that NIP-46 uses, to ourselves, and wait until it is back.

    It is sent under a key of the moment. What is wrong with the relay, or None; and the seconds
    that the message took.
    """
    from datetime import timedelta

    keys = make_keys()
    address, limit = nostr_sdk.RelayUrl.parse(url), timedelta(seconds=seconds)
    client = nostr_sdk.ClientBuilder().authenticator(nostr_sdk.SignerAuthenticator(keys)).build()
    stage = "does not answer"
    try:
        async with asyncio.timeout(seconds):
            await client.add_relay(address)
            relay = await client.relay(address)
            stream = client.notifications()
            await relay.try_connect(timeout=limit)
            stage = "takes no subscription"
            await client.subscribe(
                nostr_sdk.ReqTarget.auto([wanted_answers(public_hex(keys))]), id="avault"
            )
            await heard(stream, lambda message: bool(message.is_END_OF_STORED_EVENTS()))
            stage = "takes no message"
            event = compose_event(keys, public_hex(keys), secrets.token_hex(300))
            sent = time.monotonic()
            await relay.send_event(event, ok_timeout=limit)
            stage = "does not deliver what it takes"
            await heard(
                stream,
                lambda message: bool(message.is_EVENT_MSG() and message.event.id() == event.id()),
            )
            return None, time.monotonic() - sent
    except TimeoutError:
        return stage, 0.0
    except (AvaultError, nostr_sdk.NostrSdkError) as error:
        return f"{stage}: {printable(str(error).strip(RELAY_QUOTES))}", 0.0
    finally:
        await client.shutdown()


async def heard(stream: Any, wanted: Callable[[Any], bool]) -> None:
    """Wait for a message of the relay.

    Raises AvaultError when it closes the subscription, but not to ask who we are.
    """
    while notification := await stream.next():
        message = notification.message.as_enum() if notification.is_MESSAGE() else None
        if message and wanted(message):
            return
        if message and message.is_CLOSED() and not message.message.startswith("auth-required:"):
            raise AvaultError(message.message)


async def start_relay() -> tuple[nostr_sdk.LocalRelay, str]:
    """A relay of our own on the loopback, which lives as long as it is held, and its URL."""
    relay = nostr_sdk.LocalRelayBuilder().addr("127.0.0.1").build()
    await relay.run()
    return relay, str(await relay.url())


async def start_narrow_relay(port: int, most: int) -> nostr_sdk.LocalRelay:
    """A relay of our own on the loopback that carries nothing but NIP-46, and keeps none of it.

    It has at most so many connections, and lives as long as it is held. Raises Unavailable.
    """

    class OnlyRequests(nostr_sdk.WritePolicy):  # type: ignore[misc]
        async def admit_event(
            self, event: nostr_sdk.Event, socket_addr: str
        ) -> nostr_sdk.WritePolicyResult:
            if event.kind().as_u16() == RPC_KIND:
                return nostr_sdk.WritePolicyResult.ACCEPT()
            return nostr_sdk.WritePolicyResult.REJECT("only kind 24133 is carried here")

    nostr_sdk.uniffi_set_event_loop(asyncio.get_running_loop())
    limit = nostr_sdk.RateLimit(max_reqs=500, notes_per_minute=6_000)
    builder = nostr_sdk.LocalRelayBuilder().addr("127.0.0.1").port(port)
    relay = builder.rate_limit(limit).max_connections(most).write_policy(OnlyRequests()).build()
    try:
        await relay.run()
    except nostr_sdk.NostrSdkError as error:
        raise Unavailable(
            f"the relay for who is invited cannot listen at port {port}: {printable(str(error))}",
            "end what has it; or revoke all, and invite anew",
        ) from None
    return relay
