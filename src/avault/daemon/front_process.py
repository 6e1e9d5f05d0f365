"""The processes of front ends, as the supervisor has them. They hold no key."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING

from avault.daemon.callers import peer_pid
from avault.daemon.programs import start_own
from avault.errors import AvaultError, Unavailable, Usage
from avault.places import Places
from avault.process import uptime
from avault.protocol import decode_frame

if TYPE_CHECKING:
    import socket

    from avault.protocol import Message


class Fronts:
    """The front ends: for SSH, and for those who are invited; each is one for all who ask."""

    START_TIME = 15.0  # seconds
    LONGEST = 1 << 16  # bytes that one says of itself

    def __init__(self, places: Places) -> None:
        self.places = places
        self.carrier: asyncio.subprocess.Process | None = None  # for those who are invited
        self.looking = asyncio.Lock()
        self.process: asyncio.subprocess.Process | None = None
        self.starting = asyncio.Lock()
        self.since = 0.0  # uptime at which the one for SSH was started

    def is_ssh(self, sock: socket.socket, since: float) -> bool:
        """Whether the SSH agent is at the other end of a connection that is there `since` then.

        A pid is given again: one that connected before it was started is another.
        """
        process = self.process
        is_there = process and process.returncode is None and since > self.since
        return bool(is_there and process and peer_pid(sock) == process.pid)

    def ssh_path(self) -> str:
        """Where its socket is: beside the daemon's own."""
        return self.places.socket.removesuffix(".sock") + "-ssh.sock"

    async def ssh(self) -> str:
        """The path of a socket that an SSH agent listens at; raises what kept it from that."""
        path = self.ssh_path()
        async with self.starting:
            if not self.process or self.process.returncode is not None or not os.path.exists(path):
                self.end()
                await self.start(path)
        return path

    async def start(self, path: str) -> None:
        """Start it, and wait until it listens."""
        words = ("ssh-agent", self.places.dir, self.places.socket, path)
        self.since = uptime()
        self.process = await start_own(*words, stdout=subprocess.PIPE)
        said = b""
        try:
            async with asyncio.timeout(self.START_TIME):
                if self.process.stdout:
                    said = await self.process.stdout.read(1 << 16)
        except TimeoutError:
            pass
        answer = decode_frame(said[4:]) if said else {}
        if not answer.get("ok"):
            self.end()
            if answer:
                raise AvaultError.from_dict(answer)
            raise Unavailable("the SSH agent did not start", "try again")

    async def nostr(self) -> Message:
        """Have the front end look at who is invited, started if it is not; how its relays are.

        Raises what kept it from that.
        """
        async with self.looking:
            if not self.carrier or self.carrier.returncode is not None:
                words = ("nostr", self.places.dir, self.places.socket)
                pipe = subprocess.PIPE
                self.carrier = await start_own(*words, stdin=pipe, stdout=pipe)
            try:
                async with asyncio.timeout(self.START_TIME):
                    answer = await self.ask_carrier(self.carrier)
            except (TimeoutError, OSError, EOFError, Usage):
                self.end_carrier()
                raise Unavailable("the front end for Nostr does not answer", "try again") from None
        if not answer.get("ok"):
            raise AvaultError.from_dict(answer)
        return answer

    async def ask_carrier(self, process: asyncio.subprocess.Process) -> Message:
        """What the front end says once it has looked; raises OSError, EOFError, Usage."""
        if not (process.stdin and process.stdout):
            raise EOFError
        process.stdin.write(b"\n")
        await process.stdin.drain()
        size = int.from_bytes(await process.stdout.readexactly(4), "big")
        if size > self.LONGEST:
            raise Usage("a frame that is too long")
        return decode_frame(await process.stdout.readexactly(size))

    def has_lost_carrier(self) -> bool:
        """Whether the front end for those who are invited has ended by itself."""
        return bool(self.carrier and self.carrier.returncode is not None)

    def end_carrier(self) -> None:
        """Have the front end for those who are invited end."""
        if self.carrier and self.carrier.returncode is None:
            self.carrier.kill()
        self.carrier = None

    def end(self) -> None:
        """Have the one for SSH end, and its socket gone."""
        if self.process and self.process.returncode is None:
            self.process.kill()
        self.process = None
        try:
            os.unlink(self.ssh_path())
        except OSError:
            pass
