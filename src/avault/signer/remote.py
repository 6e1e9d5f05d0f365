"""The NIP-46 client ("Nostr Remote Signing"), over the library's relay client.

What comes from a relay is dropped unless it is the answer that we wait for.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import sys
import time
from typing import TYPE_CHECKING

import nostr_sdk

from avault.errors import AvaultError, Denied, Unavailable, printable
from avault.nostr import public_hex
from avault.signer.pairing import shorten_key
from avault.signer.question import (
    GAVE_UP,
    NOBODY_ASKED,
    NOT_PAIRED,
    UNCLEAR,
    Request,
    Sending,
    is_own_timeout,
)
from avault.tasks import spawn
from avault.vault.formats import render_time

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any


RPC_KIND = 24_133
JUST_ASKED = 1.0  # seconds; who asks so soon after another shares the event
STALE_EVENT = 10.0  # seconds; a relay that comes back after them gets a fresh event
OLD_ANSWER = 600.0  # seconds after which an answer to an earlier question counts for that one alone
# events of other keys that are looked at for one request: one of them may tell of a page to open
STRANGERS = 100


def network() -> tuple[object, ...]:
    """What is another when the machine has moved to another network, or slept.

    Its addresses towards the world.
    """
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
        """Ask a relay for our events.

        Neither `since` nor `limit`, as a wrong clock or a gap must not hide an answer.
        """
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
        """The secret of our pairing code came back: from the signer.

        Or from a second one, which ends the pairing.

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
        """What `work` gives.

        Raises Denied as soon as a second signer has answered the pairing code.
        """
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
        """End the request as refused, unless the signer only gave up.

        An authorization error leaves 5 s for another signer.
        """
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
        """Notice that the signer's clock and ours differ.

        Relays and signers drop what is too old or too new.
        """
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
        """Connect anew where the machine is in another network, or has slept.

        A dead connection is noticed late.
        """
        if (here := network()) != self.network:
            self.network = here
            for relay in self.pool.values():
                relay.disconnect()
                relay.connect()
            self.ask_again()

    async def greet(self, secret: str) -> str:
        """Wait for the signer that scanned our URI.

        The author of the reply that echoes `secret`.
        """
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
        """What is to be sent at this moment.

        The event of before, the same once more, or a fresh one.
        """
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
        """Send an event to one relay and note what it says.

        Silence or a lost connection is tried again.
        """
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
    """Whether the kernel says that nothing keeps its clock right (adjtimex(2), TIME_ERROR).

    Linux only.
    """
    if sys.platform != "linux":
        return False
    import ctypes

    return bool(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024)) == 5)
