"""The process of the SSH agent's socket: `avault.py ssh-agent DIR SOCKET PATH`. It holds no key.

It outlives the lock, and lists nothing then. Stdout tells that it listens, or why it does not.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

from avault.errors import AvaultError, complain
from avault.fronts.ssh_agent import AgentClient
from avault.fronts.vault_link import VaultLink
from avault.places import Places
from avault.plain import write_all
from avault.process import harden, report_quietly
from avault.protocol import encode_frame

if TYPE_CHECKING:
    from typing import Any, NoReturn


def bind_front(path: str) -> socket.socket:
    """A socket at a path, in place of one that was left there; raises AvaultError."""
    if os.path.lexists(path):
        if os.lstat(path).st_mode & 0o170000 != 0o140000:
            raise AvaultError(f"{path} is there, and is no socket", "take it away")
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)  # 0700 by our umask
    except OSError as error:
        raise AvaultError(f"cannot listen at {path}: {error.strerror or error}") from None
    sock.listen(128)
    sock.setblocking(False)
    return sock


async def serve_agent(places: Places, sock: socket.socket) -> None:
    """Answer the agent's clients, as long as the daemon is there."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(report_quietly)
    vault, clients = VaultLink(places), dict[AgentClient, None]()

    def make() -> Any:  # a protocol, though not derived from asyncio's
        return AgentClient(vault, clients)

    server = await loop.create_unix_server(make, sock=sock)
    await server.serve_forever()


def main_ssh_agent(argv: list[str]) -> NoReturn:
    """Listen, say so, and serve until the daemon ends."""
    try:
        harden("avault-ssh", die_with_parent=True)
        directory, where, path = argv
        places = Places(directory)
        places.socket = where
        sock = bind_front(path)
        write_all(1, encode_frame({"ok": True}))
        os.close(1)
        asyncio.run(serve_agent(places, sock))
    except Exception as error:
        write_all(1, encode_frame(complain(error).to_dict()))
    finally:
        os._exit(0)
