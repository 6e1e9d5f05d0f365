"""The keyholder's process, as its parent has it: started, spoken to, ended."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from typing import TYPE_CHECKING

from avault.daemon.wire import Control
from avault.places import Places
from avault.process import clean_environment, own_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from avault.protocol import Limits, Message


class Child:
    """One keyholder at a time. `control` is the stream to it, None when there is none.

    `receive` is given its messages, `lost` its exit code. It inherits `lock_fd`, the vault's lock.
    """

    LOCK_TIME = 5.0  # seconds that a keyholder has to exit
    LOOK_TIME = 1.0  # seconds that it has to look at the disk

    def __init__(
        self,
        places: Places,
        lock_fd: int,
        limits: Limits,
        receive: Callable[[Message], None],
        lost: Callable[[int], None],
    ) -> None:
        self.places, self.lock_fd, self.limits = places, lock_fd, limits
        self.receive, self.lost = receive, lost
        self.process: asyncio.subprocess.Process | None = None
        self.control: Control | None = None
        self.helper: asyncio.subprocess.Process | None = None  # what signs for the keyholder
        self.brokers: dict[str, subprocess.Popen[bytes]] = {}  # proxies, by their numbers
        self.farewell: asyncio.Future[None] | None = None
        # who waits for the keyholder to have looked at the disk
        self.lookers: list[asyncio.Future[None]] = []

    async def leave(self) -> None:
        """Wait until one that is on its way out is gone, and that was told."""
        if self.farewell and not self.control:
            await asyncio.shield(self.farewell)

    async def start(self) -> None:
        """Start one."""
        ours, theirs = socket.socketpair()
        self.control = Control(ours, self.hear, self.say_farewell)
        with theirs:
            fd, limits = theirs.fileno(), json.dumps(self.limits)
            self.process = await asyncio.create_subprocess_exec(
                *own_command("keyholder", str(fd), self.places.dir, limits),
                pass_fds=(fd, self.lock_fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=clean_environment(),
                # the terminal's Ctrl-C is for the supervisor, which may refuse it
                start_new_session=True,
            )

    def hear(self, message: Message, fd: int | None) -> None:
        """A message from the keyholder, which sends no descriptor."""
        if "looked" not in message:
            self.receive(message)
        elif self.lookers:
            self.lookers.pop(0).cancel()

    def say_farewell(self) -> None:
        """The control stream ended."""
        self.control = None
        while self.lookers:
            self.lookers.pop().cancel()
        self.farewell = asyncio.ensure_future(self.bury(self.process))

    async def bury(self, process: asyncio.subprocess.Process | None) -> None:
        """Tell that one is gone, once it is, with what has keys that it gave."""
        for broker in self.brokers.values():
            broker.kill()
        await self.end_helper()
        self.lost(await process.wait() if process else 0)

    async def look(self) -> None:
        """Have it look at the disk; a busy one is not waited for long."""
        if self.control:
            looked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.lookers.append(looked)
            self.control.send({"do": "look"})
            await asyncio.wait([looked], timeout=self.LOOK_TIME)

    async def end(self) -> None:
        """Have it finish a write that is under way, and exit; one that does not is killed."""
        process = self.process
        if not process or process.returncode is not None:
            return
        if self.control:
            self.control.send({"do": "lock"})
        try:
            await asyncio.wait_for(asyncio.shield(process.wait()), self.LOCK_TIME)
        except TimeoutError:
            process.kill()
            await process.wait()
        if self.farewell:
            await asyncio.shield(self.farewell)

    async def end_helper(self) -> None:
        """End what signs for it, also where that is stopped, or at work."""
        helper, self.helper = self.helper, None
        if helper and helper.returncode is None:
            helper.kill()
            await helper.wait()

    def pid(self) -> int | None:
        """The keyholder's process id, while it lives."""
        return self.process.pid if self.process and self.process.returncode is None else None
