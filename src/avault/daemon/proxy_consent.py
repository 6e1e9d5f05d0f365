"""The phone, asked for a use by the proxy: of a host, of a grant, of a secret that is sealed.

The request waits for that; others go on. A client that leaves takes its question with it.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from typing import TYPE_CHECKING

from avault.daemon.approving import approve_grant
from avault.daemon.asked import obtain
from avault.daemon.phone_share import share_phone
from avault.daemon.proxy_asks import name_places
from avault.daemon.restraint import describe_who, who_asks
from avault.daemon.wire import Session
from avault.daemon.wishing import describe_call, show_names
from avault.errors import Denied, TimedOut
from avault.keys.entrusting import ask_operator
from avault.keys.keyholder import Keyholder
from avault.process import uptime
from avault.vault.rule_members import HEADER

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.daemon.gate import Passage
    from avault.daemon.grant import Grant
    from avault.daemon.proxy_asks import Wanted
    from avault.protocol import Message


PROXY_ASK_TIME = 120.0  # seconds that a request waits for the phone; then it is 504
LONGEST_SEALED = 1 << 16  # bytes of what is sealed: no header carries more
CONSENT_TITLE = "a first use by the proxy"


class PairEnd:
    """One of a pair of sockets, as the transport of a connection is asked for it."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        self.sock = sock

    def get_extra_info(self, name: str) -> socket.socket | None:
        """The socket."""
        return self.sock


class ProxyCaller(Session):
    """Who uses secrets by the proxy, as a connection of its own would be; it is told nothing.

    What a secret is opened for, is put into `sock`. The caller stays who it was.
    """

    def __init__(
        self, caller: Message, grant: Grant | None, sock: socket.socket | None = None
    ) -> None:
        super().__init__({}, lambda session, request: {}, lambda: None, {}, uptime(), grant)
        self.caller, self.transport = caller, PairEnd(sock)

    def describe(self) -> dict[str, Any]:
        return dict(self.caller or {})

    def send(self, message: dict[str, Any]) -> None:
        """Nobody is told: HTTP has no place for it."""


class HostQuestion:
    """A question that is put to the phone for some requests; it ends with the last of them."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task, self.waiting = task, 0


class ProxyConsent:
    """What the operator has agreed to for one session: if it `asks`, each use of a host.

    What is opened for it is for nobody else, by whatever way: its `identity` says whose it is.
    """

    def __init__(self, keyholder: Keyholder, asks: bool) -> None:
        self.keyholder, self.asks = keyholder, asks
        if asks:
            keyholder.openers.need_pairing(keyholder.open_store())
        self.identity = secrets.token_hex(8)
        self.agreed: set[str] = set()
        self.turn = asyncio.Lock()  # one question at a time
        self.questions: dict[tuple[str, ...], HostQuestion] = {}

    async def obtain(self, session: Session, wanted: Wanted, asked: Message) -> None:
        """Have the phone agree to what it has to agree to first; raises AvaultError.

        What one request wants is one question. A secret is agreed to with the place where it is.
        """
        grant = session.grant
        if grant and grant.asks:
            caller = ProxyCaller(session.caller or {}, grant)
            keyholder = self.keyholder

            def note(outcome: str) -> None:
                keyholder.release(caller, asked, outcome)

            try:
                async with asyncio.timeout(PROXY_ASK_TIME):
                    await approve_grant(keyholder.holding, keyholder.grants, caller, grant, note)
            except TimeoutError:
                raise TimedOut("nobody approved in time", "is the signer app open?") from None
        if not self.asks:
            return
        port = "" if asked["port"] == 443 else f":{asked['port']}"
        labels = {
            f"{name} to {asked['host']}{port}{name_places(wanted[name])}": name
            for name in sorted(wanted)
        }
        named = {label: name for label, name in labels.items() if label not in self.agreed}
        if not named:
            return
        number = (*named,)
        question = self.questions.get(number)
        if not question:
            work = self.ask(session, named, asked)
            question = self.questions[number] = HostQuestion(asyncio.ensure_future(work))
        question.waiting += 1
        try:
            await asyncio.shield(question.task)
        finally:
            question.waiting -= 1
            if not question.waiting:
                question.task.cancel()
                self.questions.pop(number, None)

    async def ask(self, session: Session, named: dict[str, str], asked: Message) -> None:
        """Ask whether secrets may go to a host; raises Denied, TimedOut, Locked.

        `named` has their names, by what is agreed to. What was refused, or not answered, is not
        asked again for a while, ever longer.
        """
        keyholder, who, labels = self.keyholder, who_asks(session.caller or {}), [*named]
        askings, holding = keyholder.askings, keyholder.holding
        askings.restraint.check(who, labels)
        store = keyholder.open_store()
        names = [*named.values()]
        sentence = (
            f"avault: {describe_who(session.caller or {})} on {holding.host} wants to use"
            f" {show_names(names)} of {store.vault.name} by the proxy, for the first time with this"
            f" host: {describe_call(asked)}"
        )
        number = (*labels, self)

        def tell(code: str) -> None:
            askings.show(number, names, describe_who(session.caller or {}), code)
            keyholder.reporter.report()

        try:
            async with asyncio.timeout(PROXY_ASK_TIME), self.turn, askings.alone(who, labels):
                askings.restraint.check(who, labels)
                with share_phone(keyholder, session):
                    await ask_operator(holding, store, {}, CONSENT_TITLE, sentence, tell)
        except (Denied, TimeoutError, asyncio.CancelledError) as error:
            if number in askings.questions:
                askings.restraint.note(who, labels)
            if isinstance(error, TimeoutError):
                raise TimedOut("nobody approved in time", "is the signer app open?") from None
            raise
        finally:
            askings.questions.pop(number, None)
            keyholder.reporter.report()
        askings.restraint.forgive(who, labels)
        self.agreed |= {*labels}

    async def open(
        self, session: Session, asked: Message, admit: Callable[[bool], Passage]
    ) -> socket.socket:
        """Have secrets opened for one request: a socket on which they come to who reads that.

        With them comes what else that wants. Who opens them is a process that ends with that, or
        that stays as long as a guard says, for this session, host, and place in a request. What it
        says is not read here. Raises AvaultError.
        """
        where = f"{self.identity} {asked['host']}:{asked['port']} {asked.get('place', HEADER)}"
        caller = {**(session.caller or {}), "proxy": where}
        for group, there in admit(False).vault.groups.items():
            for key, found in there.keys.items():
                if any(len(each.value) > LONGEST_SEALED for each in found):
                    raise Denied(f"{group}/{key} is too long for a header")
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                given = ProxyCaller(caller, session.grant, theirs)
                request = {**asked, "timeout": PROXY_ASK_TIME}
                names = sorted(admit(False).asked)
                try:
                    async with asyncio.timeout(PROXY_ASK_TIME + 60):
                        await obtain(self.keyholder, given, request, lambda: admit(False), names)
                except TimeoutError:
                    raise TimedOut("nobody approved in time", "is the signer app open?") from None
            self.keyholder.open_store().refresh()
            admit(True)  # its rules may be others by now; this use is counted
            return ours
        except BaseException:
            ours.close()
            raise

    def end(self) -> None:
        """The session is over: so is what is open for it."""
        for (who, _), found in [*self.keyholder.askings.staying.items()]:
            if any(str(each).startswith(self.identity) for each in who):
                found.assignment.end()
