"""The process that owns the socket. It never holds a secret.

It reads the first frame of a connection, which carries none, and hands the connection on.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from typing import TYPE_CHECKING

from avault import __version__
from avault.daemon.asking import Caller
from avault.daemon.callers import describe_caller
from avault.daemon.keeper import Guard, run_program
from avault.errors import (
    AvaultError,
    Denied,
    Locked,
    TimedOut,
    Unavailable,
    Usage,
    complain,
    printable,
)
from avault.places import Places
from avault.plain import FastConnection, is_same_user
from avault.process import lock_directory, own_command, report_quietly, room
from avault.protocol import (
    DOOR,
    FIRST_FRAME,
    FIRST_FRAME_TIME,
    SESSIONS,
    VALUES,
    decode_frame,
    encode_frame,
    read_limit,
)
from avault.tasks import spawn
from avault.vault.files import make_private_directory, read_file, write_file
from avault.vault.formats import render_time
from avault.vault.own_files import clean_directory, decode_file
from avault.vault.presence import read_unlock
from avault.vault.recovery import check_recovery
from avault.vault.seal import request_code
from avault.vault.work_tree import find_git

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any


class Supervisor:
    """The daemon: socket, state, and a keyholder when somebody asks to unlock."""

    def __init__(self, places: Places, options: dict[str, Any], say: Callable[[str], None]) -> None:
        self.places, self.options, self.say = places, options, say
        limits = options["lock_after"], options["lock_idle"]
        self.guard = Guard(places, lock_directory(places.dir), say, self.tell_git, limits)
        self.git: dict[str, Any] | None = None  # what `avault git record` said last
        self.recording = self.unrecorded = False
        clean_directory(places.dir)
        clean_directory(places.state)
        self.stopping = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        # who has not been answered or handed on, the oldest first
        self.clients: list[socket.socket] = []
        self.bound: tuple[int, int] | None = None
        self.warned = False

    # -- the socket

    async def run(self, ready: Callable[[], None]) -> None:
        """Listen until stopped; ask the phone at once if `ask` is set, or open with NOSTR_NSEC from the pipe `nsec`."""
        import signal

        options = self.options
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(report_quietly)
        loop.add_signal_handler(signal.SIGTERM, self.stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self.stopping.set)
        loop.add_signal_handler(signal.SIGINT, self.interrupt)
        self.listen()
        write_file(self.places.own("python"), os.fsencode(sys.executable))
        write_file(self.places.pid_file, f"{os.getpid()}\n".encode())
        self.say(f"listening at {self.places.socket}")
        if options["ask"] or options["nsec"] is not None:
            limit = options["timeout"]
            first = Caller(
                limit,
                options["accept_rollback"],
                is_restrained=False,
                is_attended=limit is not None,
            )
            spawn(self.tasks, self.first_unlock(first, options["nsec"]))
        if options["notify"]:
            spawn(self.tasks, self.notify(options["notify"]))
        ready()
        spawn(self.tasks, self.stay_reachable())
        await self.stopping.wait()
        await self.guard.end()
        for path in (self.places.socket, self.places.pid_file, self.places.own("socket")):
            if os.path.lexists(path) and (path != self.places.socket or self.is_bound()):
                os.unlink(path)
        # who sees our connections end may start another daemon at once
        os.close(self.guard.lock_fd)
        self.say("stopped")

    def listen(self) -> None:
        """Bind the socket (0600) in a directory of ours; raises Unavailable, AvaultError."""
        path = self.places.socket
        directory = os.path.dirname(path)
        if directory == self.places.state:
            make_private_directory(directory)
        info = os.lstat(directory) if os.path.lexists(directory) else None
        if not info or info.st_mode & 0o170022 != 0o040000 or info.st_uid != os.getuid():
            raise AvaultError(
                f"{directory} is not a directory that only we can write to",
                "choose another place: AVAULT_SOCKET",
            )
        if len(os.fsencode(path)) > (107 if sys.platform == "linux" else 103):
            raise AvaultError(
                f"the socket's path is too long: {path}", "choose a shorter one with AVAULT_SOCKET"
            )
        if os.path.lexists(path):
            if os.lstat(path).st_mode & 0o170000 != 0o140000:
                raise AvaultError(
                    f"{path} is there, and is no socket", "choose another place: AVAULT_SOCKET"
                )
            try:
                FastConnection(self.places).socket.close()
            except OSError:
                os.unlink(path)
            else:
                raise Unavailable(
                    f"another daemon listens at {path}",
                    "stop it, or choose another place with AVAULT_SOCKET",
                )
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(path)  # 0700 by our umask
        self.socket.listen(1024)
        self.socket.setblocking(False)
        info = os.lstat(path)
        self.bound = (info.st_dev, info.st_ino)
        write_file(self.places.own("socket"), os.fsencode(path))
        self.accepting = asyncio.get_running_loop().create_task(self.accept(self.socket))

    def is_bound(self) -> bool:
        """Whether the socket's path still names our socket."""
        try:
            info = os.lstat(self.places.socket)
        except OSError:
            return False
        return (info.st_dev, info.st_ino) == self.bound

    async def stay_reachable(self) -> None:
        """Bind again when the path is gone, as when a logout removes /run/user; in the state directory if need be."""
        while True:
            await asyncio.sleep(2.0)
            if self.is_bound():
                continue
            self.accepting.cancel()  # before the descriptor's number is anybody else's
            await asyncio.gather(self.accepting, return_exceptions=True)
            self.socket.close()
            try:
                if not os.path.isdir(os.path.dirname(self.places.socket)):
                    self.places.socket = self.places.own(os.path.basename(self.places.socket))
                self.listen()
                self.say(f"listening at {self.places.socket}, as the path before was removed")
            except (AvaultError, OSError) as error:
                self.say(f"cannot listen at {self.places.socket}: {type(error).__name__}")

    async def accept(self, listener: socket.socket) -> None:
        """Take connections, for as long as the listener is open."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError:  # out of descriptors
                await asyncio.sleep(0.1)
                continue
            spawn(self.tasks, self.serve(sock))
            await asyncio.sleep(0)  # one at a time, so that none is taken without room for it

    async def serve(self, sock: socket.socket) -> None:
        """Read the first frame of a connection, and answer it or hand it on."""
        request = None
        try:
            sock.setblocking(False)
            if not is_same_user(sock):
                return
            self.clients.append(sock)
            if len(self.clients) > room():
                self.clients.pop(0).shutdown(socket.SHUT_RDWR)  # as if it had left
            try:
                async with asyncio.timeout(FIRST_FRAME_TIME):
                    request = await self.first_frame(sock)
                answer = None if request is None else await self.handle(sock, request)
            except OSError:
                # too slow; or out of descriptors: what cannot be handed on is closed, and the
                # client tries again
                raise
            except Exception as error:
                answer = complain(error).to_dict()
            if answer is not None:
                async with asyncio.timeout(FIRST_FRAME_TIME):
                    await asyncio.get_running_loop().sock_sendall(sock, encode_frame(answer))
                if request and request.get("op") == "stop" and answer["ok"]:
                    self.stopping.set()
                    await asyncio.Event().wait()  # so that the connection ends when we do
        except (OSError, TimeoutError):
            return  # a client that went away, or that was too slow
        finally:
            if sock in self.clients:
                self.clients.remove(sock)
            sock.close()

    async def first_frame(self, sock: socket.socket) -> dict[str, Any] | None:
        """Exactly the first frame, and no byte of what follows; None for a client that left. Raises Usage."""
        loop = asyncio.get_running_loop()
        data, wanted = b"", 4
        while len(data) < wanted:
            piece = await loop.sock_recv(sock, wanted - len(data))
            if not piece:
                return None
            data += piece
            if wanted == 4 == len(data):
                wanted += int.from_bytes(data, "big")
                if wanted > FIRST_FRAME:
                    raise Usage("the first frame is too long")
        return decode_frame(data[4:])

    async def handle(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a first frame; None if the keyholder has the connection now. Raises AvaultError."""
        if request.get("v") != 1:
            hint = "avault daemon stop, then avault daemon start -b"
            raise Usage(
                "the running daemon speaks version 1 of the protocol, and this client another", hint
            )
        if request.get("vault") != self.places.id:
            raise Unavailable(
                f"the daemon here serves another vault, {self.places.dir}",
                "name yours with --dir, and unset AVAULT_SOCKET",
            )
        op = str(request.get("op"))
        if op in VALUES:
            if self.guard.state != "unlocked":
                raise self.guard.locked()
        elif op in SESSIONS:
            await self.guard.start()
        elif op in DOOR:
            if request.get("ask_again"):
                self.guard.ask_again()
            door = (
                self.status,
                self.unlock,
                self.lock,
                self.limit,
                self.wait,
                self.stop,
                self.keychain,
                self.record,
            )
            return await next(each for each in door if each.__name__ == op)(sock, request)
        else:
            raise Usage(f"no such request: {printable(op)}", "see references/protocol.md")
        if not self.guard.control:
            raise self.guard.locked()
        self.guard.control.send({"do": "connection", "frame": request}, sock.fileno())
        return None

    async def record(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """Look at the repository again, as a command of git's has changed it."""
        self.tell_git()
        return {"ok": True}

    def tell_git(self) -> None:
        """Have git told of what was written; nobody waits for it."""
        self.unrecorded = True
        if not self.recording:
            self.recording = True
            spawn(self.tasks, self.run_git())

    async def run_git(self) -> None:
        """Run `avault git record`, once more if something was written meanwhile."""
        try:
            while self.unrecorded:
                self.unrecorded = False
                if find_git(os.path.realpath(self.places.dir)):
                    # hashes; git outlives us, and a lock
                    verified = json.dumps(self.guard.report.get("verified", {}))
                    self.git = await run_program(
                        own_command(
                            "git", "record", "--dir", self.places.dir, "--verified", verified
                        )
                    )
        finally:
            self.recording = False

    async def notify(self, command: str) -> None:
        """Run the operator's command whenever the state is another one."""
        told = ""
        while True:
            changed, state = self.guard.changed, self.guard.current_state()
            if state != told:
                told = state
                name = self.guard.report.get("name") or ""
                variables = {
                    "AVAULT_STATE": state,
                    "AVAULT_NAME": name,
                    "AVAULT_DIR": self.places.dir,
                }
                try:
                    async with asyncio.timeout(60):
                        await run_program(["/bin/sh", "-c", command], variables=variables)
                except TimeoutError:
                    self.say(
                        "the command of --notify takes longer than a minute; it is not waited for"
                    )
                continue
            await changed.wait()

    def interrupt(self) -> None:
        """Ctrl-C in the foreground: stop, but ask twice where that may lose a key."""
        try:
            self.guard.refuse_to_lose({"force": self.warned})
            self.stopping.set()
        except Denied as error:
            self.warned = True
            self.say(f"{error.message}; press Ctrl-C again to stop all the same")

    # -- door requests

    async def first_unlock(self, caller: Caller, nsec: int | None = None) -> None:
        """What `daemon start` asks for: with no `timeout`, for ever."""
        try:
            await self.guard.ask(caller, nsec)
        except AvaultError as error:
            if not isinstance(error, Locked):
                self.guard.failure = self.guard.failure or error
            self.say(error.message)

    async def while_connected(
        self, sock: socket.socket, work: Coroutine[Any, Any, None], caller: Caller | None = None
    ) -> None:
        """Do something for a client, for as long as it stays; a `caller` that leaves without a word has died."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(work)
        gone = loop.create_task(loop.sock_recv(sock, 1))
        try:
            await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
            if caller and gone.done() and (gone.exception() or not gone.result()):
                caller.has_died = True
        finally:
            task.cancel()
            gone.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)
        await task

    async def unlock(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """Ask the phone, and answer when the vault is open; or, to `detach`, at once."""
        wish = bool(request.get("accept_rollback")), bool(request.get("person"))
        caller = Caller(read_limit(request), *wish, stay=read_limit(request, "stay"))
        if request.get("detach"):
            caller.is_attended = caller.timeout is not None
            spawn(self.tasks, self.first_unlock(caller))
            await asyncio.sleep(0)
            return await self.wait(sock, {"settled": True})
        telling = asyncio.get_running_loop().create_task(self.tell(sock))
        try:
            await self.while_connected(sock, self.guard.ask(caller), caller)
        finally:
            telling.cancel()
        if seconds := read_limit(request, "for"):
            await self.change_limits({"for": seconds})
        return await self.status(sock, request)

    async def tell(self, sock: socket.socket) -> None:
        """Send what is being waited for, whenever it changes."""
        while True:
            if self.guard.state == "waiting":
                progress = {"progress": "waiting"} | {
                    name: self.guard.report[name] for name in ("waiting", "relays", "code")
                }
                await asyncio.get_running_loop().sock_sendall(sock, encode_frame(progress))
            await self.guard.changed.wait()

    async def wait(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """Answer when the vault is open, or when it is clear what is waited for (`settled`); asks nobody."""

        async def wait() -> None:
            while self.guard.state != "unlocked":
                if request.get("settled") and (
                    self.guard.state == "waiting" or not self.guard.question.callers
                ):
                    return
                await self.guard.changed.wait()

        try:
            if self.guard.state != "unlocked":  # else even `timeout` 0 is enough
                async with asyncio.timeout(read_limit(request)):
                    await self.while_connected(sock, wait())
        except TimeoutError:
            raise TimedOut("the vault did not open in time", "see: avault status") from None
        return await self.status(sock, request)

    async def lock(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """Lock the vault."""
        await self.guard.look()
        self.guard.refuse_to_lose(request)
        self.guard.failure = None
        await self.guard.lock()
        return await self.status(sock, request)

    async def limit(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """Change when the vault locks by itself, from now on; a limit of 0 is none."""
        given = {name: read_limit(request, name) for name in ("lock_after", "lock_idle")}
        changed = {name: seconds or None for name, seconds in given.items() if seconds is not None}
        self.options |= changed
        self.guard.limits = self.options["lock_after"], self.options["lock_idle"]
        if seconds := read_limit(request, "for"):
            changed["for"] = seconds
        await self.change_limits(changed)
        return await self.status(sock, request)

    async def change_limits(self, limits: dict[str, Any]) -> None:
        """Tell the keyholder of an open vault, and wait until it says what that means."""
        if self.guard.state == "unlocked" and self.guard.control:
            changed = self.guard.changed
            self.guard.control.send({"do": "limit", **limits})
            await changed.wait()

    async def stop(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """End the daemon, once it has answered."""
        await self.guard.look()
        self.guard.refuse_to_lose(request)
        await self.guard.end()
        return {"ok": True}

    async def keychain(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """Keep an unlock key of its own in the platform's keychain, take it away, or look whether it is there."""
        action, path = request.get("action"), self.places.own("keychain.json")
        if action == "enable":
            answer = await self.guard.fill_keychain(describe_caller(sock))
        else:
            answer = await run_program(
                self.guard.keychain_command("delete" if action == "disable" else "look")
            )
        outcome = str(answer.get("outcome", "error"))
        if action == "disable" and os.path.lexists(path):
            os.unlink(path)
        return {
            "ok": True,
            "outcome": outcome,
            "detail": answer.get("detail"),
            "enabled": os.path.lexists(path),
        }

    def next_step(self, fields: dict[str, Any]) -> str | None:
        """What the operator might type next."""
        if self.guard.state != "unlocked":
            return self.guard.locked().hint
        return self.guard.pairing_hint() if fields["proven"] is False else None

    async def status(self, sock: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """Everything that is known, without a secret; or with the format `short` the state, as a line."""
        if request.get("format") == "short":
            return {"ok": True, "output": f"{self.guard.current_state()}\n"}
        await self.guard.look()
        public: dict[str, Any] = {}
        relays: list[Any] | None = None
        problem = ""
        try:
            public, own = read_unlock(self.places)
            path = self.places.own("pairing.json")
            pairing = decode_file("pairing", read_file(path), path) if os.path.lexists(path) else {}
            relays = (
                [{"url": url, "connected": None, "said": None} for url in pairing["relays"]]
                if pairing
                else None
            )
            if own and self.guard.state != "unlocked":  # an open vault knows more
                check_recovery(self.places)
        except AvaultError as error:
            pairing, problem = {}, error.message
        fields: dict[str, Any] = dict.fromkeys(
            ("groups", "secrets", "since", "until", "waiting", "listening")
        )
        fields |= {
            "agent_npub": public.get("agent"),
            "signer_npub": public.get("operator"),
            "name": public.get("name"),
        }
        fields["code"] = (
            request_code(public["sealed"]) if public and self.guard.state != "unlocked" else None
        )
        fields |= {
            "proven": bool(public.get("proven")) if public else None,
            "relays": relays,
            "warnings": [],
        }
        fields["signer_approves_by_itself"] = pairing.get("approves_by_itself")
        if self.guard.control:
            fields |= {
                name: value
                for name, value in self.guard.report.items()
                if value is not None and name in fields
            }
        if problem:
            fields["warnings"] = [*fields["warnings"], problem]
        if self.guard.state != "unlocked" and os.path.lexists(self.places.own("unsaved.enc")):
            kept = "avault.enc could not be used when the vault locked; what was served is kept: the next unlock serves it"
            fields["warnings"] = [*fields["warnings"], kept]
        pause = self.guard.question.pauses.end()
        return {
            "ok": True,
            **fields,
            "state": self.guard.current_state(),
            "asks_again": None if pause is None else render_time(pause),
            "hint": self.next_step(fields),
            "error": self.guard.failure.to_dict()["error"]
            if self.guard.failure and self.guard.state == "locked"
            else None,
            "dir": self.places.dir,
            "vault_id": self.places.id,
            "socket": self.places.socket,
            "pid": os.getpid(),
            "keyholder_pid": self.guard.pid(),
            "locks_after": self.options["lock_after"],
            "locks_idle": self.options["lock_idle"],
            "git": self.git,
            "keychain": os.path.lexists(self.places.own("keychain.json")),
            "version": __version__,
        }
