"""The process of the SSH agent's socket: `avault.py ssh-agent DIR SOCKET PATH`. It holds no key.

It outlives the lock, and lists nothing then. Stdout tells that it listens, or why it does not.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import tempfile
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Unavailable, complain
from avault.fronts.agent_door import AgentDoor
from avault.fronts.vault_link import VaultLink
from avault.keys.hardening import harden
from avault.places import Places
from avault.plain import write_all
from avault.process import own_command, report_quietly
from avault.protocol import decode_frame, encode_frame

if TYPE_CHECKING:
    from typing import NoReturn


LOOK_TIME = 0.5  # seconds until it is looked whether its command is there yet


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
    asyncio.get_running_loop().set_exception_handler(report_quietly)
    AgentDoor(VaultLink(places), sock)
    await asyncio.Event().wait()


async def end_with(command: int, path: str) -> None:
    """End with the command that it is for, and take the socket and its directory away."""
    while os.getppid() == command:
        await asyncio.sleep(LOOK_TIME)
    os.unlink(path)
    os.rmdir(os.path.dirname(path))
    os._exit(0)


async def serve_command(places: Places, sock: socket.socket, command: int, path: str) -> None:
    """Answer the clients of one command, which has a grant, as long as that is there."""
    await asyncio.gather(serve_agent(places, sock), end_with(command, path))


def start_agent(places: Places) -> str:
    """Have an agent for this process, and what it becomes, by a grant: the path of its socket.

    It is this user's, holds no key, and ends with this process. Raises AvaultError.
    """
    path = os.path.join(tempfile.mkdtemp(prefix="avault-ssh-"), "agent.sock")
    words = own_command("ssh-agent", places.dir, places.socket, path, str(os.getpid()))
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    agent = subprocess.Popen(words, stdin=null, stdout=pipe, stderr=null, start_new_session=True)
    said = agent.stdout.read() if agent.stdout else b""
    answer = decode_frame(said[4:]) if said else {}
    if not answer.get("ok"):
        os.rmdir(os.path.dirname(path))
        if answer:
            raise AvaultError.from_dict(answer)
        raise Unavailable("the SSH agent did not start", "try again")
    return path


def main_ssh_agent(argv: list[str]) -> NoReturn:
    """Listen, say so, and serve until the daemon ends, or the command that it is for."""
    try:
        directory, where, path, *command = argv
        harden("avault-ssh", die_with_parent=not command)
        places = Places(directory)
        places.socket = where
        sock = bind_front(path)
        write_all(1, encode_frame({"ok": True}))
        os.close(1)
        if command:
            asyncio.run(serve_command(places, sock, int(command[0]), path))
        asyncio.run(serve_agent(places, sock))
    except Exception as error:
        write_all(1, encode_frame(complain(error).to_dict()))
    finally:
        os._exit(0)
