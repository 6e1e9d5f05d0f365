"""Where the SSH agent's clients come in: a listening socket, and the connections of those who came.

ssh and git connect anew for nearly every signature. asyncio's own server takes three turns of its
loop until it reads from such a one; here it is read from in the turn in which it came.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from avault.fronts.ssh_agent import LONGEST_MESSAGE, AgentClient

if TYPE_CHECKING:
    from typing import Any

    from avault.fronts.vault_link import VaultLink


NO_ROOM_TIME = 1.0  # seconds until it is tried again, where the system has no room for one more
MOST_READ = 1 << 16  # bytes that are read at once


class AgentDoor:
    """A listening socket that does not block; `clients` are those who are there."""

    def __init__(self, vault: VaultLink, sock: socket.socket) -> None:
        self.vault, self.sock = vault, sock
        self.clients: dict[AgentClient, None] = {}
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(sock, self.accept)

    def accept(self) -> None:
        """Take the next who has come; the loop comes back for more."""
        try:
            sock, _ = self.sock.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it has left again
            return
        except OSError:
            self.loop.remove_reader(self.sock)
            self.loop.call_later(NO_ROOM_TIME, self.go_on)
            return
        sock.setblocking(False)
        AgentWire(self.loop, sock, AgentClient(self.vault, self.clients)).open()

    def go_on(self) -> None:
        """Take clients again."""
        if self.sock.fileno() >= 0:
            self.loop.add_reader(self.sock, self.accept)

    def close(self) -> None:
        """Take nobody any more; who is there stays."""
        self.loop.remove_reader(self.sock)
        self.sock.close()


class AgentWire:
    """A client's connection, with as much of an asyncio transport as `client` uses."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, client: AgentClient
    ) -> None:
        self.loop, self.sock, self.client = loop, sock, client
        self.fd = sock.fileno()  # of a socket, the loop would make words each time
        self.unsent, self.is_full, self.is_over = b"", False, False

    def open(self) -> None:
        """It is there, and often its first request with it."""
        self.client.connection_made(self)
        if not self.is_over:
            self.loop.add_reader(self.fd, self.read)
            self.read()

    def read(self) -> None:
        """Take what has come; nothing is the end: who has no more to ask waits for nothing."""
        try:
            data = self.sock.recv(MOST_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.client.data_received(data)
        elif not self.is_over:
            self.end()
            self.leave()

    def write(self, data: bytes) -> None:
        """Send it, now or when there is room; who lets more than an answer pile up, has to go."""
        if self.is_over:
            return
        self.unsent += data
        if len(self.unsent) == len(data):
            self.flush()
        elif len(self.unsent) > 2 * LONGEST_MESSAGE:
            self.abort()

    def flush(self) -> None:
        """Send what there is room for."""
        try:
            self.unsent = self.unsent[self.sock.send(self.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.abort()
            return
        if self.unsent:
            self.loop.add_writer(self.fd, self.flush)
        elif self.is_full:
            self.loop.remove_writer(self.fd)
        self.is_full = bool(self.unsent)

    def get_extra_info(self, name: str) -> Any:
        """The `socket`; nothing else is asked for."""
        return self.sock

    def is_closing(self) -> bool:
        """Whether nothing goes out any more."""
        return self.is_over

    def abort(self) -> None:
        """End it, in the next turn; what has not gone yet, never does."""
        if not self.is_over:
            self.end()
            self.loop.call_soon(self.leave)

    def end(self) -> None:
        """Take nothing, and send nothing more."""
        self.is_over = True
        self.loop.remove_reader(self.fd)
        if self.is_full:
            self.loop.remove_writer(self.fd)

    def leave(self) -> None:
        """Tell the client's side, once that has ended what it is at."""
        self.client.connection_lost(None)
        self.sock.close()
