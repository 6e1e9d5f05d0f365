"""The processes of front ends, as the supervisor has them. They hold no key."""

from __future__ import annotations

import asyncio
import os
import subprocess

from avault.errors import AvaultError, Unavailable
from avault.places import Places
from avault.process import clean_environment, own_command
from avault.protocol import decode_frame


class Fronts:
    """The front end for SSH, one for all who ask."""

    START_TIME = 15.0  # seconds

    def __init__(self, places: Places) -> None:
        self.places = places
        self.process: asyncio.subprocess.Process | None = None
        self.starting = asyncio.Lock()

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
        self.process = await asyncio.create_subprocess_exec(
            *own_command("ssh-agent", self.places.dir, self.places.socket, path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=clean_environment(),
            start_new_session=True,
        )
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

    def end(self) -> None:
        """Have it end, and its socket gone."""
        if self.process and self.process.returncode is None:
            self.process.kill()
        self.process = None
        try:
            os.unlink(self.ssh_path())
        except OSError:
            pass
