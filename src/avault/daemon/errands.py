"""The helpers of custodians, as the supervisor starts them. It never sees an unlock key."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from avault.custody.custodian import bind, read_answer
from avault.places import Places
from avault.process import clean_environment, own_command
from avault.protocol import encode_frame

if TYPE_CHECKING:
    from typing import Any, ClassVar


class Reach:
    """How the person is reached who waits for the vault: a terminal, or a file that answers.

    `directory` is where that person stands.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        names = ("terminal", "answers", "directory")
        self.fields = {name: str(request[name]) for name in names if request.get(name)}

    def is_there(self) -> bool:
        """Whether there is anybody to answer."""
        return bool(self.fields.get("terminal") or self.fields.get("answers"))


class Helper:
    """A custodian's helper on its errand: a process, and the `door` to it."""

    PERSON_TIME, TIME = 120.0, 30.0  # seconds for an errand with a person, and without
    # kinds whose person prints and types, or that ask several
    LONGER: ClassVar[dict[str, float]] = {"paper": 1800.0, "quorum": 600.0}

    def __init__(
        self, places: Places, action: str, content: dict[str, Any], reach: Reach, stdout: int
    ) -> None:
        name, agent = content["custodian"], content["agent"]
        person_time = self.LONGER.get(content["kind"], self.PERSON_TIME)
        request = {
            **{each: content.get(each) for each in ("settings", "kept")},
            "name": name,
            "bound": bind(content["vault"], agent, name),
            "account": f"{places.id}:{name}",
            "label": f"avault: unlock key of {content['name']} ({places.dir})",
            "limit": person_time if reach.is_there() else self.TIME,
            **reach.fields,
        }
        self.door, end = socket.socketpair()
        if sys.platform == "linux":
            # the keyholder is to know who speaks
            self.door.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with end:
            self.process = subprocess.Popen(
                own_command("custodian", action, content["kind"]),
                stdin=end.fileno(),
                stdout=stdout,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=clean_environment(),
                start_new_session=True,
            )
        self.door.sendall(encode_frame(request))

    def end(self) -> None:
        """Let it go; where it is still at work, it is stopped, and leaves the terminal as it was."""
        self.door.close()
        if self.process.poll() is None:
            self.process.terminate()


async def read_end(end: socket.socket) -> dict[str, Any]:
    """The answer that comes through a socket, until that ends."""
    loop, read = asyncio.get_running_loop(), bytearray()
    end.setblocking(False)
    while len(read) < 1 << 20 and (piece := await loop.sock_recv(end, 1 << 16)):
        read += piece
    return read_answer(bytes(read))


async def run_errand(
    places: Places, action: str, content: dict[str, Any], reach: Reach
) -> dict[str, Any]:
    """The answer of a helper whose errand gives no unlock key."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            helper = Helper(places, action, content, reach, theirs.fileno())
        try:
            return await read_end(ours)
        finally:
            helper.end()


async def try_custodian(places: Places, content: dict[str, Any], reach: Reach) -> dict[str, Any]:
    """Whether a custodian opens the vault, in a process that is thrown away: its answer.

    The unlock key passes from helper to trial, through a socket: its reading end could be had from
    outside, were it a pipe, before the trial is hardened.
    """
    key, end = socket.socketpair()
    ours, theirs = socket.socketpair()
    with ours, key:
        with end:
            helper = Helper(places, "get", content, reach, end.fileno())
        with theirs:
            trial = subprocess.Popen(  # noqa: ASYNC220 - it does not wait
                own_command("trial", places.dir, content["custodian"]),
                stdin=key.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=clean_environment(),
                start_new_session=True,
            )
        key.close()
        try:
            return await read_end(ours)
        finally:
            helper.end()
            if trial.poll() is None:
                trial.kill()
