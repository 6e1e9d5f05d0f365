"""The NIP-46 client ("Nostr Remote Signing"), over the library's relay client; pairing.

What comes from a relay is dropped unless it is the answer that we wait for.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import sys
import time
from typing import TYPE_CHECKING

import nostr_sdk

from avault.errors import AvaultError, Denied, Tampered, Unavailable, Usage, printable
from avault.nostr import parse_npub, public_hex, to_npub
from avault.places import Places
from avault.tasks import spawn
from avault.vault.files import read_file, write_file
from avault.vault.formats import render_time
from avault.vault.own_files import check_relay, decode_file, encode_file

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from typing import Any


RPC_KIND = 24_133
DEFAULT_RELAYS = ["wss://relay.primal.net", "wss://theforest.nostr1.com", "wss://nos.lol"]
# seconds into an asking; signers know an event id that they have seen
SAME_EVENT_AGAIN = (15.0, 30.0, 45.0)
# seconds; a new event with the same request id, as relays and signers drop old events
FRESH_EVENT_EVERY = 60.0
# seconds for which it is that often; a phone that wakes later is asked by whoever wakes it
FRESH_EVENT_AT_FIRST = 600.0
FRESH_EVENT_LATER = 300.0
JUST_ASKED = 1.0  # seconds; who asks so soon after another shares the event
STALE_EVENT = 10.0  # seconds; a relay that comes back after them gets a fresh event
OLD_ANSWER = 600.0  # seconds after which an answer to an earlier question counts for that one alone
NOBODY_ASKED = 2.5  # seconds; no person reads a sentence and taps faster
QUICK_IN_A_ROW = 3  # approvals within that time, after which the drill is advised
# seconds; none that gives up by itself is known to do so sooner (nsec.app: 60 s, Signet: 65 s)
SIGNER_WAITS = 55.0
# nobody was asked
NOT_A_REFUSAL = ("no permission", "not paired", "unknown client", "unsupported", "unrecognized")
NOT_PAIRED = (
    "no permission", "not paired", "invalid secret", "secret not in use", "no secret", "already connected", "unknown client",
)  # fmt: skip
# said of a refusal and of a stranger alike
UNCLEAR = ("not authorized", "unauthorized", "not authorised", "unauthorised")
# events of other keys that are looked at for one request: one of them may tell of a page to open
STRANGERS = 100
# of the signer's own time, not of a person
GAVE_UP = ("timeout", "timed out", "time out", "expired")
# 16 x 16 pixels, a padlock; its length is a multiple of three, so that no = stands in the pairing
# URI
PICTURE = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQAAAAA3iMLMAAAAMElEQVR42kXIsQEAEAxFwffDHvbfgljDFgqpROnKU0I07aUTBgb0YqDhmtTrfxKDB2RODHZTp1uOAAAAAElFTkSuQmCC"
)

UNPROVEN = "pairing-unproven.json"  # in the state directory: what `avault pair` goes on with


class Pairing:
    """What a machine remembers of its signer: pairing.json in the state directory."""

    __slots__ = ("agent", "by_itself", "keys", "operator", "relays", "signer", "token")

    def __init__(
        self, keys: nostr_sdk.Keys, signer: str, agent: str, operator: str, relays: list[str]
    ) -> None:
        self.keys, self.signer, self.agent, self.operator, self.relays = (
            keys,
            signer,
            agent,
            operator,
            relays,
        )
        # whether the signer approves without asking a person; None: not known
        self.by_itself: bool | None = None
        # the secret of the code by which it was paired just now; not kept
        self.token: str | None = None

    @staticmethod
    def load(places: Places, name: str = "pairing.json") -> Pairing | None:
        """This machine's pairing, or None; raises Tampered."""
        path = places.own(name)
        if not os.path.lexists(path):
            return None
        content = decode_file("pairing", read_file(path), path)
        try:
            keys = nostr_sdk.Keys.parse(content["client_key"])
            signer, agent, operator = (
                parse_npub(content[name]) for name in ("signer", "agent", "operator")
            )
            pairing = Pairing(
                keys, signer, agent, operator, [check_relay(url) for url in content["relays"]]
            )
        except (Usage, nostr_sdk.NostrSdkError):
            raise Tampered(f"{path} is damaged", "pair anew with: avault pair --replace") from None
        pairing.by_itself = content["approves_by_itself"]
        return pairing

    @staticmethod
    def begun(places: Places, agent: str, operator: str, bunker: str | None) -> Pairing | None:
        """A pairing whose signer is connected, but has not opened an envelope of this vault yet; None if there is none.

        It is believed no more than a signer that connects just now: the envelope decides.
        With a `bunker` URI only if it is of that signer.
        """
        try:
            found = Pairing.load(places, UNPROVEN)
        except Tampered:
            return None
        if not found or (found.agent, found.operator) != (agent, operator):
            return None
        return found if not bunker or parse_bunker(bunker)[0] == found.signer else None

    def save(self, places: Places, name: str = "pairing.json") -> None:
        """Write pairing.json. Only for one by which the phone has opened an envelope of this vault: see `keep_pairing`."""
        content = {
            "client_key": self.keys.secret_key().to_hex(), "signer": self.signer, "agent": to_npub(self.agent),
            "operator": to_npub(self.operator), "relays": self.relays, "approves_by_itself": self.by_itself,
        }  # fmt: skip
        write_file(places.own(name), encode_file("pairing", content))

    def is_same(self, other: Pairing) -> bool:
        """Whether another pairing asks the same signer in the same way, for the same agent and operator."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("agent", "keys", "operator", "relays", "signer")
        )


def forget_begun(places: Places) -> None:
    """Remove what an interrupted pairing has left."""
    if os.path.lexists(path := places.own(UNPROVEN)):
        os.unlink(path)


def parse_bunker(uri: str) -> tuple[str, list[str], str]:
    """The signer's public key (hex), relays and secret of a bunker:// URI (NIP-46); raises Usage."""
    from urllib.parse import parse_qs, urlsplit

    parts = urlsplit(uri.strip())
    if parts.scheme != "bunker":
        raise Usage(
            "not a bunker:// URI", "the signer shows it, as bunker://…?relay=wss://…&secret=…"
        )
    query = parse_qs(parts.query)
    relays = [check_relay(url) for url in query.get("relay", [])]
    if not relays:
        raise Usage("the bunker:// URI names no relay", "make a new one in the signer")
    return parse_npub(parts.netloc), relays, query.get("secret", [""])[0]


def introduce(name: str) -> dict[str, str]:
    """What a signer is told about us, to show it at each request: the client metadata of NIP-46.

    Some apps show no name, only the host of `url`: so that names the vault, in a
    domain that leads nowhere (RFC 6761).
    """
    import re

    host = re.sub("[^a-z0-9]+", ".", name.lower()).strip(".")[:63].strip(".")
    return {
        "name": name,
        "url": f"https://{host + '.' if host else ''}avault.invalid",
        "image": PICTURE,
    }


def nostrconnect_uri(client: str, relays: list[str], secret: str, name: str) -> str:
    """The URI that the signer scans (NIP-46, "Direct connection initiated by the client").

    Asks for no decrypt permission: asking for it makes several signers approve
    for ever. Percent-encoded throughout, with %20 for a space. The picture stands
    last, so that a QR code can do without it.
    """
    from urllib.parse import quote

    pairs = [("relay", url) for url in relays] + [("secret", secret), ("perms", "get_public_key")]
    pairs += introduce(name).items()
    return f"nostrconnect://{client}?" + "&".join(
        f"{key}={quote(value, safe='')}" for key, value in pairs
    )


def shorten_hex(public: str) -> str:
    """A public key (hex) by its ends."""
    return f"{public[:8]}…{public[-8:]}"


def shorten_key(public: str) -> str:
    """A public key (hex) as signer apps cut it: 8 and 8 hex digits (Amber), or the ends of its npub (nsec.app, Signet)."""
    npub = to_npub(public)
    return f"{shorten_hex(public)} or {npub[:16]}…{npub[-4:]}"


def plan_requests(patient: bool) -> Iterator[tuple[float, bool]]:
    """When a question goes out again, in seconds since it was first asked, and whether as a fresh event; without end."""
    for seconds in SAME_EVENT_AGAIN if patient else (3.0, 6.0, 10.0, *SAME_EVENT_AGAIN):
        yield seconds, False
    seconds = FRESH_EVENT_EVERY
    while True:
        yield seconds, True
        seconds += FRESH_EVENT_EVERY if seconds < FRESH_EVENT_AT_FIRST else FRESH_EVENT_LATER


def is_own_timeout(text: str, seconds: float) -> bool:
    """Whether a signer's refusal, so many seconds after the question, is its own giving up and nobody's decision."""
    text = text.lower()
    if any(words in text for words in GAVE_UP):
        return True
    return seconds >= SIGNER_WAITS and any(words in text for words in UNCLEAR)


def network() -> tuple[object, ...]:
    """What is another when the machine has moved to another network, or slept: its addresses towards the world."""
    addresses: list[object] = []
    # for documentation: RFC 5737, 3849
    for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((address, 9))  # which sends nothing
                addresses.append(probe.getsockname()[0])
        except OSError:
            addresses.append(None)
    slept = (
        time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        if hasattr(time, "CLOCK_BOOTTIME")
        else 0.0
    )
    return *addresses, round(slept)


def accept_token(token: str) -> Callable[[str], None]:
    """What counts as the result of decrypting the drill."""

    def accept(result: str) -> None:
        if token not in result:
            raise Tampered("the signer answered with something else")

    return accept


class Request:
    """A request under way: its id, what to do with a result, and the future of its answer.

    A `patient` one waits for a person.
    """

    def __init__(
        self, method: str, params: list[str], accept: Callable[[str], Any], patient: bool
    ) -> None:
        self.method, self.params, self.accept, self.patient = method, params, accept, patient
        self.ids: set[str] = set()
        self.renew()
        self.begin_plan()
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.refusal: asyncio.TimerHandle | None = None
        self.is_told_by_content = False

    def renew(self) -> None:
        """Take another id, as a signer that has answered one ignores it from then on; what answers an old one still counts."""
        self.id = secrets.token_hex(16)
        self.ids.add(self.id)

    def body(self) -> str:
        """The request as it is sent."""
        return json.dumps({"id": self.id, "method": self.method, "params": self.params})

    def begin_plan(self) -> None:
        """Plan, from now on, when it is sent again."""
        self.begun, self.plan = time.monotonic(), plan_requests(self.patient)
        self.take_step()

    def take_step(self) -> None:
        """Go on in the plan."""
        after, self.is_fresh_next = next(self.plan)
        self.due = self.begun + after


class Sending:
    """An event on its way to the relays: whose request, when it was made, what each relay said, and whether it has left us."""

    def __init__(self, event: nostr_sdk.Event, request: str, made: float) -> None:
        self.event, self.request, self.made = event, request, made
        self.said: dict[str, str] = {}
        self.is_sent = False


class RemoteSigner:
    """A NIP-46 client: `await open()`, then `greet` or `request`, then `await close()`.

    `signer` is the remote signer's public key (hex); None until `greet` or a
    bunker URI has told it. `changed` is called when `describe()` would say
    something new.
    """

    def __init__(
        self,
        keys: nostr_sdk.Keys,
        relays: list[str],
        signer: str | None,
        changed: Callable[[], None],
    ) -> None:
        self.keys, self.signer, self.changed = keys, signer, changed
        self.me = public_hex(keys)
        self.relays: dict[str, dict[str, Any]] = {
            url: {"url": url, "connected": False, "said": None} for url in relays
        }
        self.pending: Request | None = None
        # the secret of our pairing code: the first who echoes it is the signer
        self.token: str | None = None
        self.greeted: asyncio.Future[str] | None = None  # by whom
        self.rival: AvaultError | None = None  # a second one has echoed it
        self.alarmed = asyncio.Event()
        self.ready = asyncio.Event()  # a relay has confirmed our subscription
        self.clients: list[nostr_sdk.Client] = []
        self.pool: dict[str, nostr_sdk.Relay] = {}
        self.since, self.requests = time.time(), 0
        self.is_urged = False
        # somebody waits at a terminal, who is to hear of a refusal that nobody can have given
        self.is_attended = True
        self.is_resting = False  # it listens for an answer, and sends nothing
        self.strangers = 0
        self.network = network()
        self.error: str | None = None
        self.notice: str | None = None  # what the operator should know of the signer's behaviour
        self.auth_url: str | None = None
        self.clock: str | None = None
        # the answer was given long ago, to an earlier question: who held it back chose the time
        self.is_old = False
        # seconds from the first relay's acceptance to the answer
        self.answered_in: float | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Connect and subscribe in the background; relays that are down are tried again every 5 s."""
        from datetime import timedelta

        options = (
            nostr_sdk.RelayOptions()
            .retry_interval(timedelta(seconds=5))
            .adjust_retry_interval(False)
        )
        # for NIP-42: relays that want to know who asks
        nostr_sdk.uniffi_set_event_loop(asyncio.get_running_loop())
        # a client for each: the library drops what it cannot hand on, and one may flood us
        for url in self.relays:
            client = (
                nostr_sdk.ClientBuilder()
                .authenticator(nostr_sdk.SignerAuthenticator(self.keys))
                .build()
            )
            self.clients.append(client)
            await client.add_relay(address := nostr_sdk.RelayUrl.parse(url), opts=options)
            self.pool[url] = await client.relay(address)
            stream = client.notifications()  # before connecting, so that nothing is missed
            await client.connect()
            await self.subscribe(client)
            spawn(self.tasks, self.listen(client, stream))

    async def subscribe(self, client: nostr_sdk.Client, after: float = 0.0) -> None:
        """Ask a relay for our events: neither `since` nor `limit`, as a wrong clock or a gap must not hide an answer."""
        await asyncio.sleep(after)
        mine = nostr_sdk.Filter().kind(nostr_sdk.Kind(RPC_KIND)).pubkey(self.keys.public_key())
        await client.subscribe(nostr_sdk.ReqTarget.auto([mine]), id="avault")

    async def close(self) -> None:
        """Disconnect."""
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*(client.shutdown() for client in self.clients))

    def describe(self) -> dict[str, Any]:
        """What is being waited for, as `status` shows it."""
        return {
            "since": render_time(self.since),
            "requests": self.requests,
            "next": self.next_time(),
            "client_key": self.me,
            "error": self.error,
            "notice": self.notice,
            "auth_url": self.auth_url,
        }

    def next_time(self) -> str | None:
        """When the question goes out again; None while no relay is there to take it."""
        if not self.pending or not any(relay["connected"] for relay in self.relays.values()):
            return None
        return render_time(time.time() + max(self.pending.due - time.monotonic(), 0.0))

    def ask_again(self) -> None:
        """Have the question go out at once, as somebody is there who waits for it."""
        self.is_urged = True

    async def listen(self, client: nostr_sdk.Client, stream: Any) -> None:
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
            elif (
                notification.is_MESSAGE()
                and notification.message.as_enum().is_END_OF_STORED_EVENTS()
            ):
                self.ready.set()
            elif (
                notification.is_MESSAGE()
                and notification.message.as_enum().is_CLOSED()
                and time.monotonic() >= again
            ):
                # once, though it be closed a thousand times meanwhile
                again = time.monotonic() + 5.0
                # the library does not, and would be deaf
                spawn(self.tasks, self.subscribe(client, after=5.0))
            elif notification.is_SHUTDOWN():
                return

    def hear(self, event: nostr_sdk.Event) -> None:
        """Handle one event: author, signature, p-tag and id must be right, else nothing happens."""
        author = event.author().to_hex()
        if event.kind().as_u16() != RPC_KIND:
            return
        if self.signer and author != self.signer and not self.token:
            self.strangers += 1
            if self.strangers > STRANGERS:
                return
        if not event.verify() or ["p", self.me] not in [tag.to_vec()[:2] for tag in event.tags()]:
            return
        is_old_form = "?iv=" in event.content()
        decrypt = nostr_sdk.nip04_decrypt if is_old_form else nostr_sdk.nip44_decrypt
        message = json.loads(decrypt(self.keys.secret_key(), event.author(), event.content()))
        result, error = message.get("result"), message.get("error")
        if (
            self.token
            and isinstance(result, str)
            and secrets.compare_digest(result.encode(), self.token.encode())
        ):
            self.note_echo(author, is_old_form)
            return
        request = self.pending
        if not request or request.answer.done():
            return
        made = event.created_at().as_secs()  # as the signer has signed it
        self.is_old = message.get("id") != request.id and made < time.time() - OLD_ANSWER
        if message.get("id") not in request.ids:
            if (
                request.is_told_by_content
                and author == self.signer
                and isinstance(result, str)
                and not error
                and not is_old_form
            ):
                try:
                    request.answer.set_result(request.accept(result))
                except AvaultError:
                    pass  # the answer to something else
            return
        if author != self.signer:  # whoever it is has our question's id from the signer
            if result == "auth_url":
                self.show(error, author)
            return
        if is_old_form:
            request.answer.set_exception(self.old_form())
            return
        self.check_clock(made)
        if result == "auth_url":
            self.show(error)
        elif error:
            self.refuse(
                request,
                error if isinstance(error, str) else json.dumps(error),
                message["id"] == request.id,
            )
        elif isinstance(result, str) and not error:
            try:
                request.answer.set_result(request.accept(result))
                self.note_time()
            except Denied as refused:  # an answer that can only be wrong
                request.answer.set_exception(refused)
            except (
                AvaultError
            ) as refused:  # not the answer to our question: say so, and wait for the right one
                self.error = refused.message
                self.changed()

    def note_echo(self, author: str, is_old_form: bool) -> None:
        """The secret of our pairing code came back: from the signer; or from a second one, which ends the pairing.

        Both have seen the code, and nobody can tell which of them is the operator's.
        """
        if self.greeted and not self.greeted.done():
            if is_old_form:
                self.greeted.set_exception(self.old_form())
            else:
                self.signer = author
                self.greeted.set_result(author)
        elif self.signer and author != self.signer and not self.rival:
            self.rival = Denied(
                "ALARM: two signers answered this pairing code, so somebody else has seen it; the pairing is ended",
                "delete the connection in the app, and pair with a new code that nobody else sees",
            )
            self.alarmed.set()
            if self.pending and not self.pending.answer.done():
                self.pending.answer.set_exception(self.rival)

    async def unless_alarmed(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What `work` gives; raises Denied as soon as a second signer has answered the pairing code."""
        task, alarm = asyncio.ensure_future(work), asyncio.ensure_future(self.alarmed.wait())
        try:
            await asyncio.wait([task, alarm], return_when=asyncio.FIRST_COMPLETED)
            if self.rival:
                raise self.rival
            return task.result()
        finally:
            task.cancel()
            alarm.cancel()

    def note_time(self) -> None:
        """Note how long the answer took, from the first relay's acceptance, or from the first try."""
        self.answered_in = time.monotonic() - (self.accepted_at or self.asked_at)

    def old_form(self) -> AvaultError:
        """Why an answer of the signer cannot be read."""
        return AvaultError(
            "the signer answers in an old form (NIP-04), which avault does not read",
            "update the app, or pair with another: avault pair --replace",
        )

    def show(self, url: object, author: str | None = None) -> None:
        """Keep the page that the signer, or an `author` that it has told, wants the operator to open; we never open it."""
        if isinstance(url, str) and url.startswith(("https://", "http://")):
            page = printable(url, 500)
            if not author:
                self.auth_url = page
            elif not self.auth_url:
                self.notice = (
                    f"another key than the signer's, {shorten_key(author)}, wants a page opened: {page} "
                    "(Signet does so from its admin key; if yours is no Signet, do not open it)"
                )
            self.changed()

    def refuse(self, request: Request, text: str, is_current: bool) -> None:
        """End the request as refused, unless the signer only gave up; an authorization error leaves 5 s for another signer."""
        is_stranger = any(words in text.lower() for words in NOT_PAIRED)
        is_unclear = any(words in text.lower() for words in (*UNCLEAR, *GAVE_UP))
        if is_unclear and not is_current:
            return  # it gave up, and says so again
        self.error = printable(text)
        self.note_time()
        if request.patient and is_own_timeout(text, self.answered_in or 0.0):
            self.notice = f"the signer gave up by itself after {self.answered_in:.0f} s ({self.error}): nobody refused, it is asked anew"
            request.renew()
            self.changed()
            return
        if (
            request.patient
            and not self.is_attended
            and not is_stranger
            and (self.answered_in or 0.0) < NOBODY_ASKED
        ):
            self.notice = (
                f"the signer refused at once ({self.error}), which nobody can: it may remember a refusal, so delete that in the "
                "app's permissions for this connection; it is asked anew"
            )
            request.renew()
            self.changed()
            return
        if is_stranger or request.method == "connect":
            hint = "approve it there, or pair again with: avault pair --replace"
        else:
            hint = "ask again with: avault unlock"
        refused = Denied(f"the signer refused: {self.error}", hint)
        if not is_stranger and not is_unclear:
            request.answer.set_exception(refused)
        elif request.refusal is None:
            self.changed()
            end = lambda: None if request.answer.done() else request.answer.set_exception(refused)  # noqa: E731
            request.refusal = asyncio.get_running_loop().call_later(5.0, end)

    def check_clock(self, created_at: int) -> None:
        """Notice that the signer's clock and ours differ: relays and signers drop what is too old or too new."""
        skew = int(created_at - time.time())
        if abs(skew) > 60:
            self.clock = f"this machine's clock and the signer's differ by {abs(skew)} s"
            self.changed()

    async def wait_ready(self, timeout: float) -> None:
        """Wait until a relay has our subscription; raises Unavailable."""
        try:
            await asyncio.wait_for(self.ready.wait(), timeout)
        except TimeoutError:
            raise Unavailable(
                f"no relay answers: {', '.join(self.relays)}",
                "check the network, or choose others: --relay",
            ) from None
        self.look_at_relays()

    def look_at_relays(self) -> list[str]:
        """Bring `connected` up to date; the relays that are connected anew."""
        anew = []
        for url, relay in self.pool.items():
            connected = relay.status() == nostr_sdk.RelayStatus.CONNECTED
            if connected != self.relays[url]["connected"]:
                self.relays[url]["connected"] = connected
                anew += [url] if connected else []
                self.changed()
        return anew

    def look_at_network(self) -> None:
        """Connect anew where the machine is in another network, or has slept: a dead connection is noticed late."""
        if (here := network()) != self.network:
            self.network = here
            for relay in self.pool.values():
                relay.disconnect()
                relay.connect()
            self.ask_again()

    async def greet(self, secret: str) -> str:
        """Wait for the signer that scanned our URI: the author of the reply that echoes `secret`."""
        self.token, self.greeted = secret, asyncio.get_running_loop().create_future()
        while not self.greeted.done():
            self.look_at_relays()
            await asyncio.wait([self.greeted], timeout=1.0)
        return self.greeted.result()

    def rest(self) -> None:
        """Send nothing any more, and go on listening for the answer."""
        self.is_resting = True

    def wake(self, anew: bool, at_once: bool) -> None:
        """Go on asking: after a rest at once, `anew` under another id, as a signer may have done with the one before."""
        if self.is_resting and anew and self.pending:
            self.pending.renew()
        if self.is_resting or at_once:
            self.ask_again()
        self.is_resting = False

    async def request(
        self,
        method: str,
        params: list[str],
        accept: Callable[[str], Any],
        patient: bool = True,
        is_told_by_content: bool = False,
    ) -> Any:
        """Ask the signer, until it answers; what `accept` makes of the result.

        `accept` raises AvaultError for a result that is not the answer: the wait
        goes on. A refusal raises Denied. Silence never ends it; the caller may.
        The same event is sent again at first, then fresh ones with the same
        request id. For what no person is asked (not `patient`) it is sent more often.
        Where the answer `is_told_by_content`, one to a request of an earlier process
        is taken too: it is on nobody's phone twice, and opens nothing else.
        """
        if self.rival:
            raise self.rival
        request = self.pending = Request(method, params, accept, patient)
        request.is_told_by_content = is_told_by_content
        self.asked_at = time.monotonic()
        self.accepted_id = ""
        self.accepted_at: float | None = None  # when a relay first took the request of that id
        self.answered_in = self.error = self.notice = self.auth_url = None
        self.is_urged, self.strangers = False, 0
        sending = self.compose(request)
        busy: set[str] = set()  # relays that have not said yet what they think of an event
        try:
            while not request.answer.done():
                self.look_at_network()
                anew = self.look_at_relays()
                if not self.is_resting:
                    sending = self.attend(request, sending, anew)
                for url, relay in self.pool.items():
                    is_free = (
                        self.relays[url]["connected"]
                        and url not in sending.said
                        and url not in busy
                    )
                    if is_free and not self.is_resting:
                        busy.add(url)
                        spawn(self.tasks, self.publish(url, relay, sending, busy))
                quick = time.monotonic() - self.asked_at < 5 and not sending.said
                await asyncio.wait([request.answer], timeout=0.02 if quick else 1.0)
            return request.answer.result()
        finally:
            self.pending = None
            if request.refusal:
                request.refusal.cancel()

    def attend(self, request: Request, sending: Sending, anew: list[str]) -> Sending:
        """What is to be sent at this moment: the event of before, the same once more, or a fresh one."""
        now = time.monotonic()
        age = now - sending.made
        for url in anew:
            sending.said.pop(url, None)  # who listens there may have missed it
        if (self.is_urged and age > JUST_ASKED) or (anew and age > STALE_EVENT):
            self.is_urged = False
            request.begin_plan()
            return self.compose(request)
        self.is_urged = False
        if now < request.due:
            return sending
        is_fresh = sending.request != request.id
        while now >= request.due:
            is_fresh |= request.is_fresh_next
            request.take_step()
        return (
            self.compose(request)
            if is_fresh
            else Sending(sending.event, sending.request, sending.made)
        )

    def compose(self, request: Request) -> Sending:
        """A fresh event with the request, for the signer."""
        signer = nostr_sdk.PublicKey.parse(self.signer)
        content = nostr_sdk.nip44_encrypt(
            self.keys.secret_key(), signer, request.body(), nostr_sdk.Nip44Version.V2
        )
        builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(RPC_KIND), content)
        event = builder.tags([nostr_sdk.Tag.public_key(signer)]).finalize(self.keys)
        return Sending(event, request.id, time.monotonic())

    async def publish(self, url: str, relay: Any, sending: Sending, busy: set[str]) -> None:
        """Send an event to one relay and note what it says; silence or a lost connection is tried again."""
        from datetime import timedelta

        said = sending.said
        text = "accepted"
        try:
            await relay.send_event(sending.event, ok_timeout=timedelta(seconds=5))
        except nostr_sdk.NostrSdkError as error:
            text = printable(str(error).strip("'\""))
        finally:
            busy.discard(url)
        if text.startswith("duplicate:"):  # it has the event already (NIP-01)
            text = "accepted"
        if text not in ("timeout", "relay not connected"):
            said[url] = text
        if text == "accepted" and sending.request != self.accepted_id:
            self.accepted_id, self.accepted_at = sending.request, time.monotonic()
        if text != "relay not connected" and not sending.is_sent:
            sending.is_sent = True
            self.requests += 1
        self.relays[url]["said"] = said.get(url, "no answer")
        self.changed()


def is_clock_unsynchronised() -> bool:
    """Whether the kernel says that nothing keeps its clock right (adjtimex(2), TIME_ERROR); Linux only."""
    if sys.platform != "linux":
        return False
    import ctypes

    return bool(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024)) == 5)
