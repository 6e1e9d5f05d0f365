"""The process that owns the socket. It never holds a secret.

It reads the first frame of a connection, which carries none, and hands the connection on.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import TYPE_CHECKING

from avault.daemon.asking import Caller
from avault.daemon.broker_start import sweep_sessions
from avault.daemon.companions import Companions
from avault.daemon.grant_sockets import GrantSocket
from avault.daemon.keeper import Warden
from avault.daemon.listener import Listener
from avault.daemon.precedence import Precedence
from avault.daemon.programs import run_program
from avault.errors import (
    AvaultError,
    Denied,
    Locked,
    Unavailable,
    Usage,
    complain,
    printable,
)
from avault.places import Places, read_record
from avault.plain import is_same_user
from avault.process import lock_directory, report_quietly, room, uptime
from avault.protocol import (
    DOOR,
    FIRST_FRAME,
    FIRST_FRAME_TIME,
    SESSIONS,
    VALUES,
    decode_frame,
    encode_frame,
    receive_frame,
)
from avault.tasks import spawn
from avault.vault.files import write_file
from avault.vault.own_files import clean_directory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from avault.protocol import Message

    Respond = Callable[["Supervisor", socket.socket, Message], Awaitable[Message]]


class Supervisor:
    """The daemon: socket, state, and a keyholder when somebody asks to unlock.

    `answers` is the table of what it answers itself.
    """

    def __init__(
        self,
        places: Places,
        options: dict[str, Any],
        answers: dict[str, Respond],
        say: Callable[[str], None],
    ) -> None:
        self.places, self.options, self.answers, self.say = places, options, answers, say
        limits = options["lock_after"], options["lock_idle"]
        self.companions = Companions(
            places, lambda: self.warden.condition.report.get("verified", {}), say
        )
        wrote = self.companions.note_written
        self.warden = Warden(places, lock_directory(places.dir), say, wrote, limits)
        clean_directory(places.dir)
        clean_directory(places.state)
        try:
            self.warden.complete_rotation()
        except AvaultError as error:
            say(error.message)  # told again to who unlocks
        self.stopping = asyncio.Event()
        self.precedence = Precedence(self.warden.question.pauses)
        self.tasks: set[asyncio.Task[None]] = set()
        # who has not been answered or handed on, the oldest first
        self.clients: list[socket.socket] = []
        self.listener = Listener(places, say, lambda sock: spawn(self.tasks, self.serve(sock)))
        self.warden.grants.take = lambda sock, grant: spawn(self.tasks, self.serve(sock, grant))
        self.warned = False

    # -- the socket

    async def run(self, ready: Callable[[], None]) -> None:
        """Listen until stopped.

        Ask the phone at once if `ask` is set, or open with NOSTR_NSEC from the pipe `nsec`.
        """
        import signal

        options = self.options
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(report_quietly)
        loop.add_signal_handler(signal.SIGTERM, self.stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self.stopping.set)
        loop.add_signal_handler(signal.SIGINT, self.interrupt)
        self.listener.open()
        self.warden.grants.clean()
        sweep_sessions(self.places)
        write_file(self.places.own("python"), os.fsencode(sys.executable))
        here, record = os.path.realpath(self.places.dir), self.places.own("place")
        if read_record(record) != here:  # by it, `fleet --local` finds a vault that is stopped
            write_file(record, os.fsencode(here))
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
        spawn(self.tasks, self.listener.stay_reachable())
        self.companions.begin(self.tasks, self.warden)
        await self.stopping.wait()
        await self.warden.child.end()
        sweep_sessions(
            self.places
        )  # the proxies are killed; their directories are in those of grants
        self.warden.grants.leave()
        self.companions.leave()
        self.listener.close()
        # who sees our connections end may start another daemon at once
        os.close(self.warden.child.lock_fd)
        self.say("stopped")

    async def serve(self, sock: socket.socket, grant: GrantSocket | None = None) -> None:
        """Read the first frame of a connection, and answer it or hand it on.

        One through a `grant` is only handed on.
        """
        request, since = None, uptime()
        try:
            sock.setblocking(False)
            if not grant:
                if not is_same_user(sock):
                    return
                self.clients.append(sock)
            if len(self.clients) > room():
                self.clients.pop(0).shutdown(socket.SHUT_RDWR)  # as if it had left
            try:
                async with asyncio.timeout(FIRST_FRAME_TIME):
                    request = await self.first_frame(sock)
                if grant:
                    if request is not None and not grant.is_closed:
                        self.hand_on(sock, request, since, grant.identity)
                    return
                answer = None if request is None else await self.handle(sock, request, since)
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
            if grant:
                grant.leave(sock)
            sock.close()

    async def first_frame(self, sock: socket.socket) -> dict[str, Any] | None:
        """Exactly the first frame, and no byte of what follows; None for a client that left.

        Raises Usage.
        """
        data = await receive_frame(sock, FIRST_FRAME - 4)  # with its length
        return None if data is None else decode_frame(data)

    async def handle(
        self, sock: socket.socket, request: dict[str, Any], since: float
    ) -> dict[str, Any] | None:
        """The answer to a first frame; None if the keyholder has the connection now.

        `since` is when it was accepted. Raises AvaultError.
        """
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
            if self.warden.condition.state != "unlocked":
                raise self.warden.condition.locked()
        elif op in SESSIONS:
            await self.warden.start()
        elif op in DOOR:
            if request.get("ask_again"):
                self.warden.ask_again()
            return await self.answers[op](self, sock, request)
        else:
            raise Usage(f"no such request: {printable(op)}", "see references/protocol.md")
        self.hand_on(sock, request, since)
        return None

    def hand_on(
        self,
        sock: socket.socket,
        request: dict[str, Any],
        since: float,
        identity: str | None = None,
    ) -> None:
        """Give a connection to the keyholder, with the identity of the grant that it came through.

        Raises AvaultError.
        """
        control = self.warden.child.control
        if not control or control.is_over:
            raise self.warden.condition.locked()
        # one level around the frame, and no more: the other end reads no more (see `Control`)
        taken = {"do": "connection", "frame": request, "since": since, "identity": identity}
        taken["front"] = self.companions.fronts.is_ssh(sock, since)
        control.send(taken, sock.fileno())

    async def notify(self, command: str) -> None:
        """Run the operator's command whenever the state is another one."""
        told = ""
        while True:
            changed, state = self.warden.condition.changed, self.warden.condition.current_state()
            if state != told:
                told = state
                name = self.warden.condition.report.get("name") or ""
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
            self.warden.condition.refuse_to_lose({"force": self.warned})
            self.stopping.set()
        except Denied as error:
            self.warned = True
            self.say(f"{error.message}; press Ctrl-C again to stop all the same")

    async def first_unlock(self, caller: Caller, nsec: int | None = None) -> None:
        """What `daemon start` asks for: with no `timeout`, for ever."""
        try:
            await self.warden.ask(caller, nsec)
        except AvaultError as error:
            if not isinstance(error, Locked):
                self.warden.condition.failure = self.warden.condition.failure or error
            self.say(error.message)
