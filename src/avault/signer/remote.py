"""The NIP-46 client ("Nostr Remote Signing"): asks the signer, and reads what it answers.

What comes from a relay is dropped unless it is the answer that we wait for.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, printable
from avault.keys.nostr import RPC_KIND, compose_event, is_to, public_hex, read_event
from avault.signer.pairing import PairingCode, old_form
from avault.signer.question import (
    GAVE_UP,
    NOBODY_ASKED,
    NOT_PAIRED,
    UNCLEAR,
    Request,
    Sending,
    Sent,
    is_own_timeout,
    says_any,
)
from avault.signer.relays import Relays
from avault.signer.remarks import Remarks
from avault.tasks import spawn
from avault.vault.times import render_time

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.keys.nostr import Event, Keys


JUST_ASKED = 1.0  # seconds; who asks so soon after another shares the event
STALE_EVENT = 10.0  # seconds; a relay that comes back after them gets a fresh event
OLD_ANSWER = 600.0  # seconds after which an answer to an earlier question counts for that one alone


class RemoteSigner:
    """A NIP-46 client: `await open()`, then `greet` or `request`, then `await close()`.

    `signer` is the remote signer's public key (hex); None until `greet` or a
    bunker URI has told it. `changed` is called when `describe()` would say
    something new. `pair_anew` is the command that hints name.
    """

    def __init__(
        self,
        keys: Keys,
        relays: list[str],
        signer: str | None,
        changed: Callable[[], None],
        pair_anew: str = "avault pair --replace",
    ) -> None:
        self.signer, self.changed = signer, changed
        self.relays = Relays(keys, relays, self.hear, changed)
        self.code = PairingCode(pair_anew)
        self.remarks = Remarks()
        self.pending: Request | None = None
        self.sent = Sent()
        # somebody waits at a terminal, who is to hear of a refusal that nobody can have given
        self.is_attended = True
        self.is_resting = False  # it listens for an answer, and sends nothing
        # is given what answers an earlier question
        self.overhear: Callable[[str], None] | None = None
        # the answer was given long ago, to an earlier question: who held it back chose the time
        self.is_old = False
        # seconds from the first relay's acceptance to the answer
        self.answered_in: float | None = None

    @property
    def me(self) -> str:
        """Our public key (hex), which the signer knows us by."""
        return public_hex(self.relays.keys)

    async def open(self) -> None:
        """Connect to the relays, in the background."""
        await self.relays.open()

    async def close(self) -> None:
        """Disconnect."""
        await self.relays.close()

    def describe(self) -> dict[str, Any]:
        """What is being waited for, as `status` shows it."""
        return {
            "since": render_time(self.sent.since),
            "requests": self.sent.requests,
            "next": self.next_time(),
            "client_key": self.me,
            "error": self.remarks.error,
            "notice": self.remarks.notice,
            "auth_url": self.remarks.auth_url,
        }

    def next_time(self) -> str | None:
        """When the question goes out again; None while no relay is there to take it."""
        if not self.pending or not self.relays.is_any_connected():
            return None
        return render_time(time.time() + max(self.pending.repeats.due - time.monotonic(), 0.0))

    def ask_again(self) -> None:
        """Have the question go out at once, as somebody is there who waits for it."""
        if self.pending:
            self.pending.repeats.is_urged = True

    def hear(self, event: Event) -> None:
        """Handle one event: author, signature, p-tag and id must be right, else nothing happens."""
        author = event.author().to_hex()
        if event.kind().as_u16() != RPC_KIND:
            return
        is_stranger = self.signer and author != self.signer and not self.code.secret
        if is_stranger and not (self.pending and self.pending.is_looked_at()):
            return
        if not is_to(self.relays.keys, event):
            return
        message, is_old_form = read_event(self.relays.keys, event)
        result, error = message.get("result"), message.get("error")
        if self.code.is_echo(result):
            self.note_echo(author, is_old_form)
            return
        request = self.pending
        if not request or request.answer.done():
            return
        made = event.created_at().as_secs()  # as the signer has signed it
        self.is_old = message.get("id") != request.id and made < time.time() - OLD_ANSWER
        if message.get("id") not in request.ids:
            if self.overhear and author == self.signer and isinstance(result, str) and not error:
                self.overhear(result)
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
                self.show_page(error, author)
            return
        if is_old_form:
            request.answer.set_exception(old_form(self.code.pair_anew))
            return
        if self.remarks.check_clock(made):
            self.changed()
        if result == "auth_url":
            self.show_page(error)
        elif error:
            self.refuse(
                request,
                error if isinstance(error, str) else json.dumps(error),
                message["id"] == request.id,
            )
        elif isinstance(result, str) and not error:
            try:
                request.answer.set_result(request.accept(result))
                self.answered_in = request.arrival.age()
            except Denied as refused:  # an answer that can only be wrong
                request.answer.set_exception(refused)
            except AvaultError as refused:
                # not the answer to our question: say so, and wait for the right one
                self.remarks.error = refused.message
                self.changed()

    def note_echo(self, author: str, is_old_form: bool) -> None:
        """The secret of our pairing code came back: from the signer, or from a second one."""
        self.signer = self.code.take(author, self.signer, is_old_form)
        if self.code.rival and self.pending and not self.pending.answer.done():
            self.pending.answer.set_exception(self.code.rival)

    def show_page(self, url: object, author: str | None = None) -> None:
        """Show the page that the signer, or an `author` that it has told, wants to be opened."""
        if self.remarks.note_page(url, author):
            self.changed()

    def refuse(self, request: Request, text: str, is_current: bool) -> None:
        """End the request as refused, unless the signer only gave up.

        An authorization error leaves 5 s for another signer.
        """
        is_stranger = says_any(text, NOT_PAIRED)
        is_unclear = says_any(text, (*UNCLEAR, *GAVE_UP))
        if is_unclear and not is_current:
            return  # it gave up, and says so again
        said = self.remarks.error = printable(text)
        seconds = self.answered_in = request.arrival.age()
        patient = request.repeats.patient
        if patient and is_own_timeout(text, seconds):
            self.renew(
                request,
                f"the signer gave up by itself after {seconds:.0f} s ({said}): "
                "nobody refused, it is asked anew",
            )
            return
        if patient and not self.is_attended and not is_stranger and seconds < NOBODY_ASKED:
            self.renew(
                request,
                f"the signer refused at once ({said}), which nobody can: it may remember a "
                "refusal, so delete that in the app's permissions for this connection; "
                "it is asked anew",
            )
            return
        if is_stranger or request.method == "connect":
            hint = f"approve it there, or pair again with: {self.code.pair_anew}"
        else:
            hint = "ask again with: avault unlock"
        refused = Denied(f"the signer refused: {said}", hint)
        if not is_stranger and not is_unclear:
            request.answer.set_exception(refused)
        elif request.refusal is None:
            self.changed()

            def end() -> None:
                if not request.answer.done():
                    request.answer.set_exception(refused)

            request.refusal = asyncio.get_running_loop().call_later(5.0, end)

    def renew(self, request: Request, notice: str) -> None:
        """Ask under another id, and say why."""
        self.remarks.notice = notice
        request.renew()
        self.changed()

    async def greet(self, secret: str) -> str:
        """Wait for the signer that scanned our URI: who echoes its `secret`."""
        greeted = asyncio.get_running_loop().create_future()
        self.code.secret, self.code.greeted = secret, greeted
        while not greeted.done():
            self.relays.look()
            await asyncio.wait([greeted], timeout=1.0)
        return str(greeted.result())

    def rest(self) -> None:
        """Send nothing any more, and go on listening for the answer."""
        self.is_resting = True

    def wake(self, anew: bool, at_once: bool) -> None:
        """Go on asking: after a rest at once.

        `anew` it is under another id, as a signer may have done with the one before.
        """
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
        if self.code.rival:
            raise self.code.rival
        request = self.pending = Request(method, params, accept, patient)
        request.is_told_by_content = is_told_by_content
        self.answered_in = None
        self.remarks.clear()
        sending = self.compose(request)
        busy = self.sent.busy = set()
        try:
            while not request.answer.done():
                if self.relays.move():
                    self.ask_again()
                anew = self.relays.look()
                if not self.is_resting:
                    sending = self.attend(request, sending, anew)
                for url, shown in self.relays.shown.items():
                    is_free = shown["connected"] and url not in sending.said and url not in busy
                    if is_free and not self.is_resting:
                        busy.add(url)
                        work = self.publish(request, url, sending, busy)
                        spawn(self.relays.tasks, work)
                quick = time.monotonic() - request.arrival.asked_at < 5 and not sending.said
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
        repeats = request.repeats
        is_urged, repeats.is_urged = repeats.is_urged, False
        if (is_urged and age > JUST_ASKED) or (anew and age > STALE_EVENT):
            repeats.begin()
            return self.compose(request)
        if now < repeats.due:
            return sending
        is_fresh = repeats.pass_steps(now) or sending.request != request.id
        return (
            self.compose(request)
            if is_fresh
            else Sending(sending.event, sending.request, sending.made)
        )

    def compose(self, request: Request) -> Sending:
        """A fresh event with the request, for the signer."""
        event = compose_event(self.relays.keys, str(self.signer), request.body())
        return Sending(event, request.id, time.monotonic())

    async def publish(self, request: Request, url: str, sending: Sending, busy: set[str]) -> None:
        """Send an event to one relay and note what it says.

        Silence or a lost connection is tried again.
        """
        try:
            text = await self.relays.send(url, sending.event)
        finally:
            busy.discard(url)
        if text not in ("timeout", "relay not connected"):
            sending.said[url] = text
        if text == "accepted":
            request.arrival.note_accepted(sending.request)
        if text != "relay not connected" and not sending.is_sent:
            sending.is_sent = True
            self.sent.requests += 1
        self.relays.shown[url]["said"] = sending.said.get(url, "no answer")
        self.changed()
