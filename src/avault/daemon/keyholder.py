"""The process that holds the agent's key and the secrets.

It starts no program, and locking is its exit: Python cannot wipe a string, the kernel can.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from typing import TYPE_CHECKING

import nostr_sdk

from avault.custody.custodian import GivenKey, Keychain, Phone
from avault.daemon.callers import describe_caller
from avault.daemon.log import AccessLog
from avault.daemon.wire import Control, Session
from avault.errors import (
    AvaultError,
    Denied,
    Locked,
    Tampered,
    TimedOut,
    Unavailable,
    Usage,
    complain,
    printable,
)
from avault.places import Places
from avault.process import is_hardened, meet, place_name, room, uptime
from avault.protocol import FIRST_FRAME_TIME, SESSIONS, VALUES, read_limit
from avault.signer.remote import (
    NOBODY_ASKED,
    QUICK_IN_A_ROW,
    UNPROVEN,
    Pairing,
    RemoteSigner,
    accept_token,
    forget_begun,
    is_clock_unsynchronised,
    shorten_hex,
)
from avault.tasks import spawn
from avault.vault.files import encode_file, has_bytes, parse_npub, read_hints, write_file
from avault.vault.formats import render_duration, render_time
from avault.vault.records import Vault
from avault.vault.recovery import Recovery
from avault.vault.seal import (
    decrypt,
    make_envelope,
    open_nsec,
    public_hex,
    request_code,
    seal_keys,
    seal_nsec,
)
from avault.vault.store import Store, read_unlock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any

    from avault.protocol import Limits

    Answer = dict[str, Any] | Coroutine[Any, Any, dict[str, Any]]

    Talk = Callable[
        ["Keyholder", "Session", dict[str, Any], dict[str, Any]], Awaitable[dict[str, Any]]
    ]

    Serve = Callable[["Keyholder", "Session", dict[str, Any]], Answer]


class Keyholder:
    """The keyholder process: obtains the key, serves the vault, exits to lock it."""

    def __init__(
        self,
        places: Places,
        control: socket.socket,
        talks: dict[str, Talk],
        requests: dict[str, Serve],
        limits: Limits,
    ) -> None:
        self.places, self.talks, self.requests = places, talks, requests
        self.lock_after, self.lock_idle = limits
        self.opened = self.used = self.reported = uptime()
        self.host = place_name()
        self.ended = asyncio.Event()
        self.control = Control(control, self.receive, self.ended.set)
        self.sessions: dict[Session, None] = {}
        self.store: Store | None = None
        self.recovery = Recovery(places, self.host)
        self.log: AccessLog | None = None
        self.pairing: Pairing | None = None
        # whose signer is connected, and has not opened an envelope yet
        self.begun: Pairing | None = None
        self.signer: RemoteSigner | None = None
        # what they said when the signer was last asked
        self.relays: list[dict[str, Any]] | None = None
        self.content: dict[str, Any] = {}  # of the open vault's unlock.json, as it was written
        # what the disk says of a vault that is locked: to be shown, and for nothing else
        self.asked: dict[str, Any] = {}
        self.proven: str | None = None
        self.since = time.time()
        self.warnings: dict[str, str] = {}
        self.quick = 0  # approvals in a row that came faster than a person reads
        self.unlocking: asyncio.Task[None] | None = None
        self.turning = asyncio.Lock()  # of the ratchet: unlock.json is written by one at a time
        self.is_attended = True  # somebody waits for the key, and not only `daemon start`
        # somebody waits for the key: ask for it; else listen for what comes late
        self.is_asked = False
        self.accept_rollback = False  # what they wish
        self.opens_until = 0.0  # uptime until which a late answer opens the vault
        self.is_out = False  # the phone may have the question
        self.talking = False  # with the operator, about a pairing
        self.resume = False  # obtaining the key, once the talk is over
        self.serving = asyncio.Lock()
        self.queue: list[tuple[Callable[[Vault], None], asyncio.Future[AvaultError | None]]] = []
        self.writer: asyncio.Task[None] | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    # -- the supervisor's side

    async def run(self) -> None:
        """Serve until the supervisor says so, or is gone, or until it is time to lock and what is served is on the disk."""
        while not self.ended.is_set() and (
            (left := self.time_left()) > 0 or not await self.save(is_last=True)
        ):
            try:  # the loop's clock stands still while the machine sleeps: look every now and then
                async with asyncio.timeout(min(max(left, 0.1), 5.0)):
                    await self.ended.wait()
            except TimeoutError:
                if self.store and self.store.trouble:
                    await self.save()
                await self.verify_recovery()
                await self.keep_log()
        if not self.ended.is_set():
            self.control.send(
                {
                    "failed": Locked(
                        self.why_locked(), "ask the phone with: avault unlock"
                    ).to_dict()["error"]
                }
            )
        if self.writer:
            await self.writer
        await self.save(is_last=True)
        await self.keep_log(at_once=True)
        while self.control.queue:
            await asyncio.sleep(0.01)

    async def save(self, is_last: bool = False) -> bool:
        """See to it that what is served is on the disk: in avault.enc, or in unsaved.enc while that cannot be used."""
        store = self.store
        if not store or self.writer:
            return not store
        before = store.trouble, store.kept, self.warnings.get("unsaved")
        if is_last:
            store.notice()  # a file that covers what was written is merged while it can be
        else:
            store.refresh()
        try:
            if not store.is_safe():
                await asyncio.to_thread(store.keep)
            self.warnings.pop("unsaved", None)
        except AvaultError as error:
            self.warnings["unsaved"] = f"what is served is nowhere on the disk: {error.message}"
        if (store.trouble, store.kept, self.warnings.get("unsaved")) != before:
            self.report()
        return store.is_safe()

    async def save_beside(self) -> None:
        """`save`, beside the request that has noticed a change of the file."""
        await self.save()

    async def put_back(self) -> bool:
        """Write what is served over an avault.enc that cannot be used; whether it was needed. Raises AvaultError."""
        while self.writer:
            await self.writer
        store = self.open_store()
        store.writing = True
        try:
            return await asyncio.to_thread(store.put_back)
        finally:
            store.writing = False
            self.report()
            self.control.send({"wrote": True})

    async def keep_log(self, at_once: bool = False) -> None:
        """Write what the access log has only counted, and remember where it ends."""
        try:
            if self.log:
                self.log.settle(at_once)
                if not self.log.is_saved():
                    await asyncio.to_thread(self.log.save)
            self.warnings.pop("log", None)
        except AvaultError as error:
            self.warnings["log"] = error.message

    def time_left(self) -> float:
        """Seconds until the vault locks by itself; a vault that nobody has proven yet does not."""
        if not self.store or not self.proven or self.writer or not self.store.is_safe():
            return float("inf")
        ends = [self.opened + self.lock_after] if self.lock_after else []
        ends += [self.used + self.lock_idle] if self.lock_idle else []
        return min(ends) - uptime() if ends else float("inf")

    def why_locked(self) -> str:
        """Which limit it was, and how long."""
        if self.lock_after and self.opened + self.lock_after <= uptime():
            return f"it locked by itself after {render_duration(self.lock_after)}"
        return f"it locked by itself after {render_duration(self.lock_idle or 0)} without a use"

    def limit(self, message: dict[str, Any]) -> None:
        """Take other limits, of which one that is not named stays as it is; `for` counts from now."""
        if "for" in message:
            self.lock_after = round(uptime() - self.opened) + message["for"]
        self.lock_after = message.get("lock_after", self.lock_after)
        self.lock_idle = message.get("lock_idle", self.lock_idle)
        self.report()

    def receive(self, message: dict[str, Any], fd: int | None) -> None:
        """A message from the supervisor."""
        if message["do"] == "connection" and fd is not None:
            spawn(self.tasks, self.take_over(fd, message["frame"]))
        elif message["do"] == "unlock":
            self.ask(message, fd)
        elif message["do"] == "keychain" and fd is not None:
            spawn(self.tasks, self.fill_keychain(fd, message["helper"], message["caller"]))
        elif message["do"] == "ask" and self.signer:
            self.signer.ask_again()
        elif message["do"] == "look":
            spawn(self.tasks, self.look())
        elif message["do"] == "rest":
            self.rest(message["opens_for"])
        elif message["do"] == "limit":
            self.limit(message)
        elif message["do"] == "lock":
            self.ended.set()

    async def take_over(self, fd: int, frame: dict[str, Any]) -> None:
        """Serve a connection from now on."""
        sock = socket.socket(fileno=fd)
        if len(self.sessions) >= room():
            if not (
                idle := next(
                    (each for each in self.sessions if not each.task or each.awaited), None
                )
            ):
                sock.close()
                return
            del self.sessions[idle]
            idle.transport.abort()
        make: Any = lambda: Session(frame, self.answer, self.settle, self.sessions)  # noqa: E731  a protocol, though not derived from asyncio's
        await asyncio.get_running_loop().connect_accepted_socket(make, sock)

    def report(self) -> None:
        """Tell the supervisor what `status` shows; it holds no secret."""
        store, signer, left = self.store, self.signer, self.time_left()
        self.reported = uptime()
        warnings = dict(self.warnings)
        if store and store.trouble:
            now = "what was loaded before is served, nothing is written; to write it back: avault restore --unsaved"
            warnings["file"] = f"{store.trouble.message}; {now}"
        if store and store.warning:
            warnings["pin"] = store.warning
        if self.recovery.warning:
            warnings["nsec"] = self.recovery.warning
        if store or not signer:
            warnings.pop("ntp", None)  # of use only while an answer does not come
        if signer and signer.clock:
            warnings["clock"] = signer.clock
        if store and store.rollback:
            warnings["rollback"] = (
                f"ROLLED BACK, as --accept-rollback was given: {store.rollback}; what was written since is missing"
            )
        if self.pairing and self.pairing.by_itself:
            warnings["signer"] = (
                "the signer approves by itself, as the drill showed: change its setting, then: avault drill"
            )
        is_waiting = signer and (self.is_asked or self.talking or not self.unlocking)
        shown = self.content or self.asked
        report = {
            "state": "unlocked" if store else "waiting" if is_waiting else "locked",
            "listening": bool(signer and not store and not is_waiting),
            "since": render_time(self.since),
            "until": None if left == float("inf") else render_time(time.time() + max(left, 0)),
            "agent_npub": shown.get("agent"),
            "signer_npub": shown.get("operator"),
            "name": shown.get("name"),
            "code": request_code(shown["sealed"]) if shown and not store else None,
            "groups": len(store.vault.groups) if store else None,
            "secrets": store.vault.count() if store else None,
            "proven": bool(self.proven if store else shown.get("proven")),
            "signer_approves_by_itself": self.pairing.by_itself if self.pairing else None,
            "relays": list(signer.relays.values()) if signer else self.relays,
            "waiting": signer.describe() if signer and is_waiting else None,
            "warnings": list(warnings.values()),
            "talking": self.talking,
            "unsaved": "unsaved" in self.warnings,
            "verified": {"avault.enc": store.digest, "nsec.enc": self.recovery.digest}
            if store
            else {},
        }
        self.control.send({"report": report})

    async def look(self) -> None:
        """Hold the disk against what the open vault knows, and say so when it is done: for `status`, `lock` and `stop`."""
        try:
            if store := self.store:
                before = store.trouble, store.digest
                await self.save()
                if (store.trouble, store.digest) != before:
                    self.control.send({"wrote": True})
                await self.verify_recovery()
                await self.restore_own_files(store)
                self.report()
        finally:
            if not self.ended.is_set():
                self.control.send({"looked": True})

    async def restore_own_files(self, store: Store) -> None:
        """This machine's own files, as the open vault knows them: where the disk has others, it is said, and mended."""
        changed = "was changed while the vault was open, and was written anew"
        async with self.turning:
            is_turned = "ratchet" not in self.warnings
            if not is_turned or not has_bytes(
                self.places.own("unlock.json"), encode_file("unlock", self.content)
            ):
                await self.turn(store.keys, self.content, also_recovery=False)
                if is_turned:
                    self.warnings["unlock.json"] = f"unlock.json {changed}"
        if self.pairing:
            try:
                found = Pairing.load(self.places)
            except AvaultError:
                found = None
            if not found or not found.is_same(self.pairing):
                self.keep_pairing(self.pairing)
                self.warnings["pairing.json"] = f"pairing.json {changed}"
        pin = encode_file("pin", {"generation": store.vault.generation, "hash": store.digest})
        if (
            not store.trouble
            and not store.writing
            and not has_bytes(self.places.own("pin.json"), pin)
        ):
            if not store.warning:  # else it could not be written before
                self.warnings["pin.json"] = f"pin.json {changed}"
            store.pin()

    async def verify_recovery(self) -> None:
        """Look at nsec.enc if it has changed, and have git told if it was made anew."""
        store = self.store
        if store and self.recovery.is_changed():
            was_made = await asyncio.to_thread(self.recovery.verify, store.keys, store.vault)
            self.report()
            if was_made:
                self.control.send({"wrote": True})

    def settle(self) -> None:
        """A session's work is done: without a vault and without a task to get one, there is nothing to stay for."""
        converse = any(session.task and session.is_conversation for session in self.sessions)
        if not self.store and not self.unlocking and not self.talking and not converse:
            self.ended.set()

    # -- getting the key

    def ask(self, message: dict[str, Any], fd: int | None) -> None:
        """Obtain the key: begin with it, or go on with the question that the phone may have."""
        others = self.is_asked and self.is_attended
        self.is_asked, self.accept_rollback = True, bool(message.get("accept_rollback"))
        self.is_attended = others or not message.get("unattended")
        if not self.talking and not self.unlocking and not self.store:
            self.begin_unlock(fd, bool(message.get("keychain")))
            return
        self.resume = self.talking
        if self.signer and self.unlocking:
            self.signer.is_attended = self.is_attended
            self.signer.wake(bool(message.get("anew")), bool(message.get("at_once")))
            self.report()
        if fd is not None:
            os.close(fd)

    def rest(self, opens_for: float) -> None:
        """Nobody waits any more: ask no more, and listen for what the phone may yet say, if it can have the question.

        For so many seconds a late answer still opens the vault. Then, and always, it turns the ratchet.
        """
        self.is_asked, self.accept_rollback, self.opens_until = False, False, uptime() + opens_for
        self.note_question()
        if self.talking:
            self.resume = self.is_out
        elif self.is_out and self.signer and self.unlocking:
            self.signer.rest()
            self.report()
        elif not self.store:
            self.ended.set()

    def note_question(self) -> None:
        """Note whether the phone may have the question for the key."""
        self.is_out = self.is_out or bool(self.unlocking and self.signer and self.signer.requests)

    def begin_unlock(self, fd: int | None = None, by_keychain: bool = False) -> None:
        """Begin to obtain the key; or only to listen for it, where nobody waits."""
        self.unlocking = asyncio.get_running_loop().create_task(self.unlock(fd, by_keychain))

    async def fill_keychain(self, fd: int, pid: int, caller: dict[str, Any]) -> None:
        """If the phone agrees, seal the agent's key once more: what opens that goes to the keychain's process `pid` alone."""
        store, token = self.store, secrets.token_hex(32)
        helper = None
        with socket.socket(fileno=fd) as door:
            try:
                pairing = self.find_pairing()
                if not pairing or not store or not self.log:
                    raise Denied(
                        "only a paired, open vault can be given to a keychain",
                        "pair it with: avault pair",
                    )
                helper = await meet(door, pid)
                self.log.write({"op": "keychain", "for": "enable"}, caller, "ok")
                vault = store.vault
                sentence = f"avault: let a keychain open {vault.name} on {self.host} WITHOUT you, always. Approve only if you want that."
                envelope = make_envelope(
                    store.keys, vault.operator, f"a keychain for {vault.name}", sentence, token
                )
                async with asyncio.timeout(300), self.connected(pairing, pairing.signer) as signer:
                    await signer.request(
                        "nip44_decrypt", [vault.agent, envelope], accept_token(token)
                    )
                if not is_hardened(pid):
                    raise Unavailable(
                        "the keychain's process has ended, or is traced",
                        "try again: avault keychain enable",
                    )
                unlock, sealed = seal_keys(store.keys, vault.identity, vault.operator, vault.name)
                # for the disk, once the keychain has what opens it
                self.control.send({"sealed": sealed})
                helper.sendall(unlock.encode())
            except AvaultError as error:
                self.control.send({"failed": error.to_dict()["error"]})
            except TimeoutError:
                self.control.send(
                    {"failed": TimedOut("nobody approved in time").to_dict()["error"]}
                )
            except OSError:
                self.control.send(
                    {"failed": Unavailable("the keychain's process has ended").to_dict()["error"]}
                )
            finally:
                if helper:
                    helper.close()

    async def unlock(self, fd: int | None, by_keychain: bool) -> None:
        """Obtain the key through a pipe, from NOSTR_NSEC or the keychain, or by the phone; and open the vault."""
        try:
            self.asked, _ = read_unlock(self.places)
            if fd is not None:
                with open(fd, "rb") as pipe:
                    given = await asyncio.to_thread(pipe.read)
                if not by_keychain:
                    await self.open(GivenKey(given.decode(errors="replace")), self.accept_rollback)
                    return
                try:
                    self.warnings["keychain"] = (
                        "this machine's keychain opens the vault: nobody was asked"
                    )
                    await self.open(Keychain(self.places, given), self.accept_rollback)
                    return
                except Unavailable as error:
                    self.warnings["keychain"] = (
                        f"the keychain did not open the vault, so the phone is asked: {error.message}"
                    )
            pairing = self.pairing = Pairing.load(self.places)
            if not pairing:
                raise Locked(
                    "this machine is not paired with a signer", "pair it with: avault pair"
                )
            async with self.connected(pairing, pairing.signer) as signer:
                signer.is_attended = self.is_attended
                if is_clock_unsynchronised():
                    self.warnings["ntp"] = (
                        "nothing keeps this machine's clock right (NTP): if no request arrives, look there"
                    )
                signer.is_resting = not self.is_asked
                phone = Phone(pairing, signer)
                keys, content, own = await self.obtain(phone)
                while signer.is_old and self.is_asked and not self.store:
                    async with self.serving:
                        await self.use_up(keys, content, own)
                    keys, content, own = await self.obtain(phone)
                is_late = signer.is_old or (not self.is_asked and uptime() >= self.opens_until)
                await self.serve(phone, keys, content, own, self.accept_rollback, is_late)
        except Exception as error:
            if not self.store:
                self.control.send({"failed": complain(error).to_dict()["error"]})
                self.ended.set()
        finally:
            if self.unlocking is asyncio.current_task():
                self.unlocking = None

    def connected(
        self, pairing: Pairing, signer: str | None, session: Session | None = None
    ) -> Connected:
        """A connection to the signer, shown in `status` while it lasts; its pages are shown to the `session`."""

        def changed() -> None:
            self.report()
            if session and remote.auth_url:
                session.send({"progress": "page", "url": remote.auth_url})
            if session and remote.notice:
                session.send({"progress": "notice", "text": remote.notice})

        remote = RemoteSigner(pairing.keys, pairing.relays, signer, changed)
        remote.token = pairing.token
        return Connected(self, remote)

    async def open(
        self, custody: GivenKey | Keychain | Phone, accept_rollback: bool = False
    ) -> None:
        """Obtain the key and serve the vault."""
        await self.serve(custody, *await self.obtain(custody), accept_rollback)

    async def obtain(
        self, custody: GivenKey | Keychain | Phone
    ) -> tuple[nostr_sdk.Keys, dict[str, Any], bool]:
        """The agent's key, the content that it was obtained by, and whether that is this machine's own; raises AvaultError.

        What was read before the phone was asked counts to the end: meanwhile others may write to the disk, and ask too.
        """
        content, own = read_unlock(self.places)
        keys = await custody.obtain(content)
        # The envelope binds agent and operator: before anything is sealed for an operator, it must be the one.
        operator = parse_npub(content["operator"])
        try:
            bound = open_nsec(content, decrypt(keys, operator, content["envelope"]))
        except ValueError:
            bound = None
        if not bound or public_hex(bound) != public_hex(keys):
            raise Tampered(
                "the vault's files name another operator than they were made for",
                "take them from git history",
            )
        return keys, content, own

    async def serve(
        self,
        custody: GivenKey | Keychain | Phone,
        keys: nostr_sdk.Keys,
        content: dict[str, Any],
        own: bool,
        accept_rollback: bool,
        is_late: bool = False,
    ) -> None:
        """Serve the vault with its key, if nobody does yet; one whose key `is_late` is not opened any more: raises Locked.

        Whatever the vault says, the answer must open nothing tomorrow.
        """
        async with self.serving:
            if self.store:
                await self.take_answer(self.store, custody, keys, content)
            elif is_late:
                await self.use_up(keys, content, own)
                raise Locked(
                    "the phone approved when nobody waited any more: nothing was opened",
                    "ask again with: avault unlock",
                )
            else:
                await self.load(custody, keys, content, own, accept_rollback)
        if self.unlocking and self.unlocking is not asyncio.current_task():
            self.unlocking.cancel()  # it waits for a key that is here

    async def use_up(self, keys: nostr_sdk.Keys, content: dict[str, Any], own: bool) -> None:
        """Turn the ratchet by an answer that opens nothing, unless somebody has opened the vault meanwhile."""
        if not self.store:
            self.proven = render_time(time.time())
            await self.turn_ratchet(keys, content, also_recovery=not own)

    async def take_answer(
        self,
        store: Store,
        custody: GivenKey | Keychain | Phone,
        keys: nostr_sdk.Keys,
        content: dict[str, Any],
    ) -> None:
        """Turn the ratchet of a vault that is open already, by an answer that is about it; raises Tampered for another."""
        if (public_hex(keys), parse_npub(content["operator"])) != (
            store.vault.agent,
            store.vault.operator,
        ):
            raise Tampered("the answer opens another vault than the one that is open")
        if custody.proves:
            self.proven = render_time(time.time())
        if isinstance(custody, Phone):
            self.note_quickness(custody.signer.answered_in, self.content)
        await self.turn_ratchet(store.keys, self.content, also_recovery=False)

    async def load(
        self,
        custody: GivenKey | Keychain | Phone,
        keys: nostr_sdk.Keys,
        content: dict[str, Any],
        own: bool,
        accept_rollback: bool,
    ) -> None:
        """Load the vault, and turn the ratchet also if it cannot be."""
        self.proven = render_time(time.time()) if custody.proves else content.get("proven")
        if isinstance(custody, Phone):
            self.note_quickness(custody.signer.answered_in, content)
        loading = asyncio.to_thread(Store.load, self.places, keys, content, accept_rollback)
        try:
            store = await loading
            asked_as = (
                f", asked as {shorten_hex(custody.signer.me)}" if isinstance(custody, Phone) else ""
            )
            self.begin(store, content, type(custody).__name__ + asked_as, is_new=not own)
        finally:
            is_lost = not own or not os.path.lexists(self.places.file("nsec.enc"))
            await self.turn_ratchet(keys, content, also_recovery=is_lost)
            if isinstance(custody, Phone):
                self.keep_pairing(custody.pairing)
        if not own:
            self.warnings["recovery"] = (
                "the phone opened nsec.enc, which git keeps: who recorded its answer and gets this machine's pairing.json has the"
                " key; against that: avault pair --replace (from the next unlock on, this machine has its own envelope)"
            )
        await self.verify_recovery()
        self.note_hints()
        self.report()

    def note_quickness(self, seconds: float | None, content: dict[str, Any]) -> None:
        """Remark on an approval that came faster than a person reads; what the app does is known from the drill alone."""
        self.quick = (
            content.get("quick", 0) + 1 if seconds is not None and seconds < NOBODY_ASKED else 0
        )
        self.warnings.pop("quick", None)
        if self.quick >= QUICK_IN_A_ROW:
            self.warnings["quick"] = (
                f"{self.quick} approvals in a row came within {NOBODY_ASKED} s: see whether the app asks: avault drill"
            )
        elif self.quick:
            self.warnings["quick"] = (
                f"approved within {seconds:.1f} s; if that was not you, see whether the app asks: avault drill"
            )

    def begin(self, store: Store, content: dict[str, Any], custody: str, is_new: bool) -> None:
        """Serve a vault from now on, opened by this custody; raises AvaultError if the access log cannot be written.

        Only one that `is_new` on this machine may be without bounds of an earlier log.
        """
        log = AccessLog(self.places.state, store.keys, is_new)
        custody += ", rollback accepted" if store.rollback else ""
        log.write(
            {"op": "unlock", "for": custody},
            {"pid": os.getpid(), "uid": os.getuid(), "exe": None, "name": None, "parent": None},
        )
        log.save()
        self.store, self.content, self.log = store, content, log
        self.since, self.opened, self.used = time.time(), uptime(), uptime()
        self.report()

    async def turn_ratchet(
        self, keys: nostr_sdk.Keys, content: dict[str, Any], also_recovery: bool
    ) -> None:
        """Replace the envelope that was opened by a fresh one, with a fresh sealed copy, for whom `content` names.

        That is the open vault's, or what has just been opened: never what the disk says by now.
        """
        async with self.turning:
            await self.turn(keys, content, also_recovery)

    async def turn(
        self, keys: nostr_sdk.Keys, content: dict[str, Any], also_recovery: bool
    ) -> None:
        """`turn_ratchet`, for who holds `turning`."""
        identity, name, operator = (
            content["vault"],
            content["name"],
            parse_npub(content["operator"]),
        )

        def turn() -> dict[str, Any]:
            if also_recovery:
                recovery = seal_nsec(keys, identity, operator, name, self.host)
                write_file(self.places.file("nsec.enc"), encode_file("nsec", recovery))
            fresh = {
                **seal_nsec(keys, identity, operator, name, self.host),
                "proven": self.proven,
                "quick": self.quick,
            }
            write_file(self.places.own("unlock.json"), encode_file("unlock", fresh))
            return fresh

        try:
            self.content = await asyncio.to_thread(turn)
            if also_recovery:
                self.control.send({"wrote": True})
            self.warnings.pop("ratchet", None)
        except AvaultError as error:
            self.warnings["ratchet"] = (
                f"the phone's last answer still opens unlock.json, as no fresh one could be written: {error.message}"
            )

    def keep_pairing(self, pairing: Pairing) -> None:
        """Write a pairing by which the phone has just opened an envelope of this vault; until then the one before stays."""
        self.pairing = pairing
        try:
            pairing.save(self.places)
            forget_begun(self.places)
            self.warnings.pop("pairing", None)
        except AvaultError as error:
            self.warnings["pairing"] = (
                f"the pairing could not be written, and ends with this daemon: {error.message}"
            )

    def find_pairing(self) -> Pairing | None:
        """This machine's pairing, for the open vault; None where there is none.

        Raises Tampered where pairing.json is for another agent or operator, or is not the one by which the vault was opened.
        """
        found, store = Pairing.load(self.places), self.store
        if found and self.pairing and not found.is_same(self.pairing):
            hint = "avault status, which puts back the one that did; then try again"
            raise Tampered("pairing.json is not the pairing that opened this vault", hint)
        if (
            found
            and store
            and (found.agent, found.operator) != (store.vault.agent, store.vault.operator)
        ):
            raise Tampered(
                "pairing.json is for another agent or operator than the open vault",
                "avault pair --replace",
            )
        return self.pairing or found

    def note_hints(self) -> None:
        """Report where nip46.json differs from what the vault pins; it is never believed."""
        try:
            hints = read_hints(self.places.file("nip46.json"))
            mine = [self.content["agent"], self.content["operator"], self.content["name"]]
            if [hints["agent_npub"], hints["signer_npub"], hints["name"]] != mine:
                self.warnings["hints"] = (
                    "nip46.json names another agent, operator or name than the vault does; it is not believed"
                )
        except AvaultError as error:
            self.warnings["hints"] = error.message

    # -- requests

    def answer(
        self, session: Session, request: dict[str, Any]
    ) -> dict[str, Any] | Coroutine[Any, Any, dict[str, Any]]:
        """The answer to a request, or the work that leads to it; raises AvaultError."""
        op = str(request.get("op"))
        if request.get("v") != 1 or request.get("vault") != self.places.id:
            raise Usage(
                "that is for another vault, or another version of avault", "see: avault status"
            )
        if op in SESSIONS:
            return self.converse(session, request)
        if op not in VALUES:
            raise Usage(f"not on this connection: {printable(op)}", "open another one for it")
        store = self.open_store()
        before = store.trouble, store.digest
        # those are about copies, and git is at work beside
        if op != "inspect" and not request.get("ours"):
            store.refresh()
        if (store.trouble, store.digest) != before:
            self.report()
            # perhaps by us: what a git pull has brought is merged
            self.control.send({"wrote": True})
            spawn(self.tasks, self.save_beside())
        return self.requests[op](self, session, request)

    def open_store(self) -> Store:
        """The store of an open vault; raises Locked, also when it is about to lock, or was to and `run` has slept through it."""
        if not self.store or self.ended.is_set() or self.time_left() <= 0:
            raise Locked("the vault is locked", "ask the phone with: avault unlock")
        return self.store

    def release(self, session: Session, request: dict[str, Any], outcome: str = "ok") -> None:
        """Note in the access log what is about to be released or changed; raises AvaultError if that cannot be."""
        session.caller = session.caller or describe_caller(
            session.transport.get_extra_info("socket")
        )
        if self.log:
            self.log.write(request, session.caller, outcome)
        self.used = uptime()
        if self.lock_idle and self.used - self.reported >= 1:
            self.report()

    async def change(self, function: Callable[[Vault], None]) -> dict[str, Any]:
        """Have a change written, together with those that wait meanwhile; raises what refused it."""
        self.open_store()  # it may have been locked while the value was awaited
        done: asyncio.Future[AvaultError | None] = asyncio.get_running_loop().create_future()
        self.queue.append((function, done))
        self.writer = self.writer or asyncio.get_running_loop().create_task(self.write_queue())
        if refused := await done:
            raise refused
        return {"ok": True}

    async def write_queue(self) -> None:
        """Write all changes that wait, until none does."""
        store = self.store
        while self.queue and store:
            batch, self.queue = self.queue, []
            results: list[AvaultError | None]
            store.writing = True
            try:
                results = await asyncio.to_thread(store.write, [function for function, _ in batch])
            except Exception as error:
                results = [complain(error)] * len(batch)
            finally:
                store.writing = False
            for (_, done), result in zip(batch, results, strict=True):
                if not done.done():
                    done.set_result(result)
            self.report()
            if not all(results):
                self.control.send({"wrote": True})
        self.writer = None

    async def converse(self, session: Session, request: dict[str, Any]) -> dict[str, Any]:
        """A request that talks with the operator; one at a time, with an end."""
        if request["op"] == "open":  # it asks nobody: any number at once
            async with asyncio.timeout(FIRST_FRAME_TIME):
                private = await session.frame()
            return await self.talks["open"](self, session, request, private)
        if self.talking:
            raise Usage(
                "another pairing is under way", "let it end first, or stop it with: avault lock"
            )
        self.talking = True
        self.report()
        try:
            async with asyncio.timeout(FIRST_FRAME_TIME):
                private = await session.frame() if request.get("private") else {}
            async with asyncio.timeout(read_limit(request)):
                return await self.talks[request["op"]](self, session, request, private)
        except TimeoutError:
            # the signer is connected, and was to open the vault
            if os.path.lexists(self.places.own(UNPROVEN)):
                again = "recover" if request["op"] == "recover" else "pair"
            else:
                again = {"init": "init", "recover": "recover"}.get(request["op"], "pair --replace")
            hint = f"is the app open, and on the same relays? Try again with: avault {again}"
            raise TimedOut("the signer did not answer in time", hint) from None
        finally:
            self.talking = False
            self.report()
            if self.resume and not self.store and not self.unlocking:
                self.begin_unlock()
            self.resume = False

    def pause(self) -> None:
        """Stop asking for the key until the talk is over: the phone is asked one thing at a time."""
        self.note_question()
        if self.unlocking:
            self.unlocking.cancel()
            self.unlocking, self.resume = None, True


class Connected:
    """A signer's connection for the length of a `with`, shown by the keyholder's report."""

    def __init__(self, keyholder: Keyholder, signer: RemoteSigner) -> None:
        self.keyholder, self.signer = keyholder, signer

    async def __aenter__(self) -> RemoteSigner:
        await self.signer.open()
        self.keyholder.signer = self.signer
        self.keyholder.report()
        return self.signer

    async def __aexit__(self, *_: object) -> None:
        self.keyholder.signer = None
        if self.signer.clock:
            self.keyholder.warnings["clock"] = self.signer.clock
        self.keyholder.relays = [
            {**relay, "connected": None} for relay in self.signer.relays.values()
        ]
        await self.signer.close()
        self.keyholder.report()
