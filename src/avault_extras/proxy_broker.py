"""The broker of one session: between a command's HTTPS and the keyholder.

It is told of a session's rules and placeholders, and gets a secret for each request that it needs
one for. It ends with the stream to the keyholder, at once, whatever is under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import secrets
import select
import socket
import threading
from typing import TYPE_CHECKING

import avault
from avault import (
    AvaultError,
    Control,
    Unavailable,
    complain,
    part_host,
    peer_uid,
    report_quietly,
)

if TYPE_CHECKING:
    from avault import Message

try:
    proxy_engine = avault.load_extra("proxy_engine", "proxy")
    proxy_gate = avault.load_extra("proxy_gate", "proxy")
    proxy_refresh = avault.load_extra("proxy_refresh", "proxy")
except AvaultError:
    raise

SOCKET, BUNDLE = "proxy.sock", "bundle.pem"  # in a session's directory
SENT_TIME = 10.0  # seconds for what another process sends
LONGEST_SENT = 1 << 20  # bytes of it
MOST_ASKED = 1000  # requests that wait for a value at once, each of which the keyholder holds, too
MOST_MEMORY = 512 << 20  # bytes; more is a fault, and ends the session
LOOK = 5.0  # seconds between two looks at it


class Broker:
    """A session; `sock` is the stream to the keyholder, `directory` where its files are."""

    def __init__(self, sock: socket.socket, directory: str) -> None:
        self.directory = directory
        self.control, self.is_alone = Control(sock, self.hear, self.lose), False
        self.answers: dict[int, asyncio.Future[Message]] = {}
        self.last = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def hear(self, message: Message, fd: int | None) -> None:
        """What the keyholder says."""
        if message.get("do") == "begin":
            task = asyncio.get_running_loop().create_task(self.begin(message))
            self.tasks.add(task)
            return
        waiting = self.answers.get(int(message.get("id", 0)))
        if waiting and not waiting.done():
            waiting.set_result({**message, "end": fd})
        elif fd is not None:
            os.close(fd)

    def lose(self) -> None:
        """The keyholder is gone."""
        self.is_alone = True
        end_at_once()

    async def begin(self, session: Message) -> None:
        """Listen, and say where; or why not."""
        try:
            if job := session.get("refresh"):
                await proxy_refresh.ask_for_token(job, proxy_engine.find_roots)
                self.control.send({"ready": {}})
                return
            self.control.send({"ready": await self.listen(session)})
        except Exception as error:
            known = error if isinstance(error, AvaultError) else None
            told = known or Unavailable(f"the proxy did not start: {type(error).__name__}")
            with contextlib.suppress(AvaultError):
                self.control.send({"failed": complain(told).to_dict()["error"]})
        finally:
            if self.is_alone:
                end_at_once()

    async def listen(self, session: Message) -> Message:
        """What a client needs to know: the port and the token, if one is wanted."""
        token = secrets.token_urlsafe(32)
        loop = asyncio.get_running_loop()
        gate = proxy_gate.Gate(session, token, self.ask, self.tell)
        hosts = [
            part_host(each)[1].partition(":")[0]
            for secret in session["secrets"]
            for one in secret["hosts"]
            for each in one
        ]
        authority = proxy_engine.Authority(hosts)
        roots = proxy_engine.find_roots()
        write_bundle(os.path.join(self.directory, BUNDLE), roots, authority.to_pem())
        self.engine = proxy_engine.Engine(gate, authority, roots, loop)
        path = os.path.join(self.directory, SOCKET)
        self.uids, self.is_login = {*session["uids"]}, bool(session.get("login"))
        mask = os.umask(0o111) if self.uids - {os.getuid()} else None  # the kernel says who it is
        try:
            self.near = await asyncio.start_unix_server(self.take_near, path)
        finally:
            if mask is not None:
                os.umask(mask)
        said: Message = {"directory": self.directory}
        if session.get("tcp"):
            said |= {"port": await self.listen_far(int(session.get("port", 0))), "token": token}
        elif self.is_login:
            said |= {"token": token}
        self.running = asyncio.get_running_loop().create_task(self.engine.master.run())
        self.watching = asyncio.get_running_loop().create_task(watch_memory(self.control))
        return said

    async def take_near(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection to the Unix socket, if it is of those whose session it is.

        Where it is passed on from a port, others may be behind it: they need the token.
        """
        if peer_uid(writer.get_extra_info("socket")) not in self.uids:
            writer.close()
        elif self.is_login:
            self.engine.count += 1
            await self.engine.serve(reader, proxy_engine.Peer(writer, -self.engine.count))
        else:
            await self.engine.serve_checked(reader, writer)

    async def listen_far(self, port: int) -> int:
        """Listen at a port of this machine, 0 for one that is free: its number."""
        try:
            self.far = await asyncio.start_server(self.engine.serve, "127.0.0.1", port)
        except OSError as error:
            raise Unavailable(
                f"cannot listen at port {port}: {os.strerror(error.errno or 0)}"
            ) from None
        return int(self.far.sockets[0].getsockname()[1])

    async def ask(self, fields: Message) -> dict[str, str]:
        """Secrets for a request, by their names; raises what the keyholder says, and Unavailable.

        Where nobody waits for it any more (see `Waiters`), the keyholder is told, and what has come
        is closed.
        """
        if len(self.answers) >= MOST_ASKED:
            raise Unavailable("too many requests wait for a value", "try again in a while")
        self.last += 1
        number = self.last
        waiting: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.answers[number] = waiting
        try:
            self.control.send({"use": number, **fields})
            answer = await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.result()["end"] is not None:
                os.close(waiting.result()["end"])
            with contextlib.suppress(AvaultError):  # it is gone
                self.control.send({"drop": number})
            raise
        finally:
            del self.answers[number]
        if not answer.get("ok"):
            error = AvaultError.from_dict(answer)
            error.is_noted = True  # type: ignore[attr-defined]
            raise error
        sent = answer["end"] is not None
        values = await read_sent(answer["end"]) if sent else dict(answer["values"])
        for name in fields["names"] if sent else ():
            if fault := avault.find_form_fault(name, values[name]):
                raise fault
        return values

    def tell(self, fields: Message) -> None:
        """Have what was refused here in the log."""
        self.control.send({"refused": fields})


async def read_sent(fd: int) -> dict[str, str]:
    """What the process sends that has opened it, by names: one frame (raises AvaultError)."""
    with socket.socket(fileno=fd) as end:
        end.setblocking(False)
        try:
            async with asyncio.timeout(SENT_TIME):
                data = await avault.receive_frame(end, LONGEST_SENT)
        except (OSError, TimeoutError):
            data = None
    if data is None:
        raise Unavailable("the process that opened it has ended", "try again")
    answer = avault.decode_frame(data)
    if not answer.get("ok"):
        raise AvaultError.from_dict(answer)
    return {f"{each['group']}/{each['key']}": str(each["value"]) for each in answer["secrets"]}


def end_at_once() -> None:
    """The kernel cuts what is open, and takes the memory; but for a token that is being renewed."""
    if not proxy_refresh.STAYS.is_set():
        os._exit(0)


def write_bundle(path: str, roots: str, own: bytes) -> None:
    """The authorities of the system, and ours, in one file: most clients read no second."""
    with open(roots, "rb") as file:
        data = file.read().rstrip(b"\n") + b"\n"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:
        file.write(data + own)
        os.fchmod(fd, 0o644)  # the directory is closed, and a sandbox may have it at another place


async def watch_memory(control: Control) -> None:
    """End where more is held than a proxy that streams can need."""
    page = resource.getpagesize()
    while True:
        await asyncio.sleep(LOOK)
        try:
            with open("/proc/self/statm", "rb") as file:
                used = int(file.read().split()[1]) * page
        except OSError:  # not on this system
            return
        if used > MOST_MEMORY:
            control.send({"ended": "the proxy held more memory than it may"})
            await asyncio.sleep(0.1)
            end_at_once()


def watch_end(fd: int) -> None:
    """In a thread: end when the keyholder's end is closed, also while the loop is at work."""
    poll = select.poll()
    poll.register(fd, getattr(select, "POLLRDHUP", 0))
    while True:
        if any(event & ~select.POLLIN for _, event in poll.poll()):
            end_at_once()
            return


def serve_proxy_session(sock: socket.socket, directory: str) -> None:
    """Serve one session, until it ends."""
    threading.Thread(target=watch_end, args=(os.dup(sock.fileno()),), daemon=True).start()
    loop = proxy_engine.Loop()
    loop.is_let = lambda host, port: True  # as long as no session says more: what it is sent to

    async def work() -> None:
        loop.set_exception_handler(report_quietly)
        broker = Broker(sock, directory)
        await asyncio.Event().wait()
        del broker

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(work())
