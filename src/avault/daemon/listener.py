"""The daemon's socket, and its path in the file system."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Unavailable
from avault.places import Places
from avault.plain import FastConnection
from avault.vault.files import make_private_directory, write_file

if TYPE_CHECKING:
    from collections.abc import Callable


class Listener:
    """The socket that clients connect to; `take` is given each connection."""

    def __init__(
        self, places: Places, say: Callable[[str], None], take: Callable[[socket.socket], None]
    ) -> None:
        self.places, self.say, self.take = places, say, take
        self.bound: tuple[int, int] | None = None  # what the path named when we bound it

    def open(self) -> None:
        """Bind the socket (0600) in a directory of ours; raises Unavailable, AvaultError."""
        path = self.places.socket
        if self.places.is_grant():
            raise AvaultError("AVAULT_SOCKET names a grant's socket", "unset AVAULT_SOCKET")
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
        """Bind again when the path is gone, as when a logout removes /run/user.

        In the state directory if need be.
        """
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
                self.open()
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
            self.take(sock)
            await asyncio.sleep(0)  # one at a time, so that none is taken without room for it

    def close(self) -> None:
        """Take the path away, if it is still ours, and what leads to it."""
        for path in (self.places.socket, self.places.pid_file, self.places.own("socket")):
            if os.path.lexists(path) and (path != self.places.socket or self.is_bound()):
                os.unlink(path)
