"""The process that asks the phone for a secret, opens it, and ends: `avault.py opener`.

The keyholder has what is sealed, and not what opens it. It hands the question to a process of its
own, with the caller's connection: that gets the value here, and from nobody else. Its exit is the
wipe. The same process makes locks, and seals what a caller sets: the keyholder sees neither.

The phone is asked twice. What the first question says is made for it: who wants what, and what
for. It opens nothing, as whoever makes an envelope knows what is in it. The second is the envelope
that was sealed with the secret; its words are as old as that, and it opens it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from typing import TYPE_CHECKING

from avault.custody.phone import accept_unlock_key
from avault.daemon.answers import ANSWERED, tell_of_held
from avault.daemon.wire import Control
from avault.errors import AvaultError, Denied, Tampered, TimedOut, complain, printable
from avault.keys.nostr import make_keys, public_hex, read_keys
from avault.keys.seal import make_envelope, request_code
from avault.plain import MAX_FRAME
from avault.protocol import decode_frame, encode_frame, receive_frame
from avault.signer.question import accept_token
from avault.signer.remote import RemoteSigner
from avault.tasks import spawn
from avault.vault.locks import sealed_to
from avault.vault.names import DIGITS, LETTERS, check_value
from avault.vault.records import Vault
from avault.vault.sealing import make_lock, make_secret, open_lock, open_value, seal_value
from avault.vault.secret import Secret, is_sealed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from avault.keys.nostr import KeyText
    from avault.protocol import Message


LATE = 600.0  # seconds for which an answer is awaited that is for nobody any more
CLIENT_TIME = 300.0  # seconds that a client has to read a value
VALUE_TIME = 30.0  # seconds that it has to send one


class Opened:
    """A `secret`, as `open_lock` gives it, its name, and whether the vault's lock is made anew."""

    def __init__(self, secret: dict[str, Any], name: str, is_shared: bool) -> None:
        self.secret, self.name, self.is_shared = secret, name, is_shared


class Opener:
    """One job, or several of one kind.

    `opened` are the secrets whose envelopes the phone has opened, by their public keys; `thawed`
    the names of those that no guard wants sealed any more.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.control = Control(sock, self.receive, self.lose)
        self.opened: dict[str, Opened] = {}
        self.answered_in: list[float] = []  # seconds, of each approval
        self.thawed: list[str] = []
        self.dropped, self.ended = asyncio.Event(), asyncio.Event()
        self.written: asyncio.Future[bool] | None = None
        self.is_staying = False
        self.is_opening = False  # the second question is out, whose answer opens something
        self.job: Message = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def receive(self, message: Message, fd: int | None) -> None:
        """A word of the keyholder."""
        if message["do"] == "written" and self.written:
            self.thawed = message["thawed"]
            self.written.set_result(bool(message["written"]))
        elif message["do"] == "drop":
            self.dropped.set()
        else:
            spawn(self.tasks, self.run(message, fd))

    def lose(self) -> None:
        """The keyholder is gone: so is what it was for."""
        os._exit(0)

    async def run(self, job: Message, fd: int | None) -> None:
        """Do a job, and tell what came of it."""
        try:
            told = await self.jobs()[job["do"]](job, fd)
        except Exception as error:
            told = {"failed": complain(error).to_dict()["error"]}
        self.control.send(told)
        while self.control.queue:
            await asyncio.sleep(0.01)
        if not (told.get("stays") or self.is_staying):  # one may leave, and the next one comes
            self.ended.set()

    def jobs(self) -> dict[str, Callable[[Message, int | None], Awaitable[Message]]]:
        """What it can be told to do."""
        taken = {"make": self.make, "take": self.take}
        return {**taken, "release": self.release, "again": self.again}

    async def make(self, job: Message, fd: int | None) -> Message:
        """Locks for secrets that have none."""
        vault = job["vault"][0], job["vault"][1]
        made: dict[str, Any] = {}
        own: list[dict[str, Any]] = []
        for place in job["places"]:
            secret = make_secret(place)
            made[place] = make_lock(vault, place, job["operators"], secret)
            if job["operator"]:  # the phone of this machine
                own.append(make_lock(vault, place, [job["operator"]], secret, job["host"]))
        return {"made": made, "own": own, "stays": True}

    async def take(self, job: Message, fd: int | None) -> Message:
        """A value that the client sends, or that is generated: sealed."""
        if size := job.get("generate"):
            letters = sorted(LETTERS | DIGITS)
            return {"sealed": seal_value(job["to"], "".join(map(secrets.choice, [letters] * size)))}
        with socket.socket(fileno=fd) as client:
            try:
                async with asyncio.timeout(VALUE_TIME):
                    await send_frame(client, {"ok": True, "ready": True})
                    value = check_value((await read_frame(client)).get("value"))
            except TimeoutError:
                raise TimedOut("no value came in time", "try again") from None
        return {"sealed": seal_value(job["to"], value)}

    # -- releasing

    async def release(self, job: Message, fd: int | None) -> Message:
        """Ask, open, have the locks turned, and give the answer to the client."""
        client = socket.socket(fileno=fd)
        if not await self.obtain(job):
            return {"ended": True}
        told = await self.answer(job, client)
        return {**told, "values": self.thaw()} if self.thawed else told

    async def obtain(self, job: Message) -> bool:
        """Ask, open, and have the locks turned: whether somebody is to have it; raises Denied."""
        self.job, page = job, ""

        def tell_of_page() -> None:
            nonlocal page
            if remote.remarks.auth_url not in (None, page):
                page = str(remote.remarks.auth_url)
                self.control.send({"page": printable(page, 500)})

        keys = read_keys(job["client_key"])
        remote = RemoteSigner(keys, job["relays"], job["signer"], tell_of_page)
        remote.overhear = self.overhear
        await remote.open()
        try:
            await self.ask(remote)
        except AvaultError:
            await self.turn(is_approved=False)
            raise
        finally:
            await remote.close()
        return await self.turn(is_approved=True)

    async def ask(self, remote: RemoteSigner) -> None:
        """Put the questions, for as long as somebody waits; then only listen.

        Raises Denied, TimedOut.
        """
        asking = asyncio.ensure_future(self.put_questions(remote))
        dropped = asyncio.ensure_future(self.dropped.wait())
        first = asyncio.FIRST_COMPLETED
        try:
            await asyncio.wait([asking, dropped], timeout=self.job["limit"], return_when=first)
            if not asking.done():
                self.dropped.set()
                self.control.send({"late": True})
                remote.rest()
                if self.is_opening:
                    await asyncio.wait([asking], timeout=LATE)
            if self.dropped.is_set():
                raise TimedOut("nobody approved in time", "is the signer app open?")
            try:
                asking.result()
            except Denied as error:
                hint = "if that was a mistake, ask again after a pause: avault status"
                raise Denied(error.message, hint) from None
        finally:
            asking.cancel()
            dropped.cancel()
            await asyncio.gather(asking, dropped, return_exceptions=True)

    async def put_questions(self, remote: RemoteSigner) -> None:
        """Who wants what; then each envelope, of which the answer opens a secret."""
        job, token, peer = self.job, secrets.token_hex(32), make_keys()
        follow = [
            request_code(question["locks"][0]["envelopes"][job["operator"]][0])
            for question in job["questions"]
        ]
        code = f"{request_code(token)}, then {', '.join(follow)}"
        self.control.send({"asking": code})
        number = f"question 1 of {1 + len(follow)}, code {code}"
        said = f"avault: {job['sentence']}; {number}. Approve only if you expect it."
        envelope = make_envelope(peer, job["operator"], f"{job['sentence']}, {code}", said, token)
        params = [public_hex(peer), envelope]
        await remote.request("nip44_decrypt", params, accept_token(token))
        self.answered_in.append(remote.answered_in or 0.0)
        for question in job["questions"]:
            if not await self.open_one(remote, question):
                return

    async def open_one(self, remote: RemoteSigner, question: Message) -> bool:
        """Have the phone open a secret, by this machine's lock, or else by the vault's.

        Whether somebody waits for it yet. Raises Denied, Tampered.
        """
        *_, last = question["locks"]
        for lock in question["locks"]:
            if self.dropped.is_set():
                return False
            self.is_opening = True
            params = lock["envelopes"][self.job["operator"]]
            self.control.send({"asking": request_code(params[0])})
            accept = accept_unlock_key(lock["opens"])
            try:
                unlock = await remote.request("nip44_decrypt", params, accept)
                self.answered_in.append(remote.answered_in or 0.0)
                self.note_opened(question, lock, unlock)
                break
            except Tampered:
                if lock is last:
                    raise
        return True

    def note_opened(self, question: Message, lock: Message, unlock: KeyText) -> None:
        """Have what an answer opens; raises Tampered."""
        found = open_lock(lock, unlock, self.job["vault"][0])
        is_shared = lock is question["locks"][-1]  # the vault's, which git keeps
        before = self.opened.get(lock["to"])
        is_anew = is_shared or question["anew"] or bool(before and before.is_shared)
        self.opened[lock["to"]] = Opened(found, question["name"], is_anew)

    def overhear(self, result: str) -> None:
        """An answer to an earlier question: it releases nothing, and the lock is turned."""
        for question in self.job["overheard"] + self.job["questions"]:
            for lock in question["locks"]:
                with contextlib.suppress(AvaultError):
                    self.note_opened(question, lock, accept_unlock_key(lock["opens"])(result))

    async def turn(self, is_approved: bool) -> bool:
        """Have other locks in the place of those that were opened; whether that is written.

        And, where all was approved, whether the caller may have it.
        """
        if not self.opened:
            return False
        job, opened = self.job, self.opened.values()
        vault = job["vault"][0], job["vault"][1]
        operator, host = job["operator"], job["host"]
        told = {
            "turned": [
                make_lock(vault, each.name, [operator], each.secret, host) for each in opened
            ],
            "shared": [
                make_lock(vault, each.name, job["operators"], each.secret)
                for each in opened
                if each.is_shared
            ],
            "approved": is_approved,
            # a person reads one of them at least; that the next one comes is known then
            "answered_in": max(self.answered_in, default=None),
        }
        self.written = asyncio.get_running_loop().create_future()
        self.control.send(told)
        return await self.written

    def thaw(self) -> dict[str, str]:
        """The values that are to be sealed no more, by name."""
        vault = Vault("", "", "", "")
        vault.load_json(self.job["body"])
        self.fill(vault)
        names = [name.partition("/") for name in self.thawed]
        return {f"{group}/{key}": vault.groups[group].keys[key][0].value for group, _, key in names}

    async def again(self, job: Message, fd: int | None) -> Message:
        """Give another answer to the caller for whom the phone has opened it."""
        return await self.answer(job, socket.socket(fileno=fd))

    async def answer(self, job: Message, client: socket.socket) -> Message:
        """Make the answer of what was let out, and send it."""
        vault = Vault("", "", "", "")
        vault.load_json(job["body"])
        try:
            self.fill(vault)
            found = tell_of_held(ANSWERED[job["request"]["op"]](vault, job["request"]), job["held"])
        except AvaultError as error:
            found = error.to_dict()
        with client:
            async with asyncio.timeout(CLIENT_TIME):
                await send_frame(client, found)
        stays = bool(self.job["stay"])
        if stays and not self.is_staying:
            self.is_staying = True
            asyncio.get_running_loop().call_later(self.job["stay"], self.ended.set)
        return {"sent": True, "stays": stays}

    def fill(self, vault: Vault) -> None:
        """Put what is sealed for itself there in clear."""
        keys = {to: read_keys(found.secret["key"]) for to, found in self.opened.items()}
        for group in vault.groups.values():
            for name, found in group.keys.items():
                group.keys[name] = [clear(keys, each) for each in found]


def clear(keys: dict[str, Any], secret: Secret) -> Secret:
    """A secret in clear; raises Tampered."""
    if not is_sealed(secret.value):
        return secret
    to = sealed_to(secret.value)
    if to not in keys:
        raise Denied("another value was set meanwhile", "ask again")
    value = open_value(keys[to], secret.value)
    return Secret(value, secret.created, secret.updated, secret.machine, secret.count)


async def send_frame(client: socket.socket, message: Message) -> None:
    """Send a client one frame."""
    client.setblocking(False)
    await asyncio.get_running_loop().sock_sendall(client, encode_frame(message))


async def read_frame(client: socket.socket) -> Message:
    """One frame of a client, and no byte of what follows; raises AvaultError."""
    data = await receive_frame(client, MAX_FRAME)
    if data is None:
        raise AvaultError("the client has left")
    return decode_frame(data)
