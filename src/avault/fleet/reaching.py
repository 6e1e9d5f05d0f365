"""How a host is reached: by OpenSSH, with a deadline of our own, a few at once through one door."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import random
import shlex
import shutil
import signal
from typing import TYPE_CHECKING

from avault.errors import Unavailable
from avault.fleet.hosts import Host
from avault.late import Fields
from avault.process import clean_environment, own_command

if TYPE_CHECKING:
    from collections.abc import Callable


HOSTS_AT_ONCE = 16  # hosts; key exchange costs, and more at once were not faster
AT_A_DOOR = 8  # connections through one door: sshd's MaxStartups drops from 10 on
MOST_ANSWER = 1 << 20  # bytes of stdout that are read
MOST_OUTPUT = 32 << 20  # the same, of a log or of a command that a person has run
MOST_TALK = 64 << 10  # bytes of stderr
LONGEST_LINE = 1_000  # bytes of a line of stderr that are heard
LAST_LINES = 20  # lines of stderr that are kept where the deadline ends it
AFTERWARDS = 1.0  # seconds for the rest of the output, once ssh has ended
DOOR_PAUSES = (0.4, 1.2)  # seconds before a door that was shut is tried again

# The user's own configuration counts for all else: names, keys, jump hosts, certificates.
SSH_OPTIONS = {
    "BatchMode": "yes",  # nothing is asked: 50 questions fly by unread
    "StrictHostKeyChecking": "yes",  # no host key is accepted here
    "UpdateHostKeys": "no",
    "ConnectTimeout": "4",  # it covers the banner too
    "ServerAliveInterval": "4",
    "ServerAliveCountMax": "2",
    "ClearAllForwardings": "yes",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "LogLevel": "ERROR",  # what went wrong is read
}
SHUT_OUT = (  # said before anything was run there
    "kex_exchange_identification:",
    "ssh_exchange_identification:",
    "Exceeded MaxStartups",
    "Not allowed at this time",
)


class Ended(Fields, frozen=True):
    """What came of a connection: ssh's exit code, None where the deadline ended it.

    `out` is what the line printed, without what the host's shell printed before it; `begun`:
    the line was begun there, and what is on stderr may not be ssh's.
    """

    code: int | None
    out: str
    err: str
    begun: bool = False


def ssh_command(host: Host, line: str, is_fresh: bool) -> list[str]:
    """The command that has a line run on a host.

    A fresh one goes through no connection that is already there: behind that, a changed host key
    is not noticed.
    """
    if not host.name:
        return ["sh", "-c", line]
    options = {**SSH_OPTIONS}
    if is_fresh:
        options |= {"ControlPath": "none", "ControlMaster": "no"}
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    # no terminal, no agent and no X11 there
    return ["ssh", "-T", "-a", "-x", *words, "--", host.name, line]


def command_line(host: Host, *words: str) -> str:
    """A command of avault's for the shell of a host; ssh joins words by spaces, so each is quoted.

    `~/` at the beginning of its program is left to that shell.
    """
    if not host.name:
        return shlex.join([*own_command(), "--dir", host.vault, *words])
    tilde = "~/" if host.program.startswith("~/") else ""
    program = tilde + shlex.quote(host.program.removeprefix("~/"))
    place = ["--dir", host.vault] if host.vault else []
    return f"{program} {shlex.join([*place, *words])}"


def ssh_environment(host: Host) -> dict[str, str]:
    """What ssh is started with: no secret of ours. A vault of this machine is named by --dir."""
    if host.name:
        return {name: value for name, value in os.environ.items() if name != "NOSTR_NSEC"}
    others = ("AVAULT_DIR", "AVAULT_SOCKET", "AVAULT_PID", "WORKSPACE")
    return {name: value for name, value in clean_environment().items() if name not in others}


async def end_group(process: asyncio.subprocess.Process) -> None:
    """End a process with all that it started: first so that ssh can take its socket away."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, sent)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await process.wait()


async def collect(
    stream: asyncio.StreamReader | None,
    most: int,
    found: bytearray,
    hear: Callable[[str], None] | None,
) -> None:
    """Take what comes, up to so many bytes; what is more is read, and forgotten.

    `hear` is told each line, of a long one the beginning.
    """
    half = b""
    while stream and (piece := await stream.read(1 << 16)):
        found += piece[: most - len(found)]
        if hear:
            *lines, half = (half + piece).split(b"\n")
            half = half[:LONGEST_LINE]
            for line in lines:
                hear(line[:LONGEST_LINE].decode(errors="replace"))


async def feed(stream: asyncio.StreamWriter | None, data: bytes) -> None:
    """Give a process its stdin; one that does not want it ends."""
    if stream:
        with contextlib.suppress(OSError):
            stream.write(data)
            await stream.drain()
        stream.close()


async def execute_once(
    argv: list[str],
    env: dict[str, str],
    data: bytes | None = None,
    hear: Callable[[str], None] | None = None,
    most: int = MOST_ANSWER,
) -> Ended:
    """Run a program in a process group of its own, to its end; cancelled, the group is ended."""
    nothing = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=nothing if data is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
        start_new_session=True,  # without a terminal, so that nothing can ask there
    )
    out, err = bytearray(), bytearray()
    tasks = [
        asyncio.ensure_future(collect(process.stdout, most, out, None)),
        asyncio.ensure_future(collect(process.stderr, MOST_TALK, err, hear)),
        asyncio.ensure_future(feed(process.stdin, data or b"")),
    ]
    try:
        await process.wait()
        # a connection that stays open for others may hold the pipes for ever
        await asyncio.wait(tasks, timeout=AFTERWARDS)
    finally:
        for task in tasks:
            task.cancel()
        if process.returncode is None:
            await end_group(process)
    return Ended(
        process.returncode, out.decode(errors="replace"), err.decode(errors="replace").strip()
    )


class Crew:
    """Reaches hosts: so many at once, fewer through one door, each with a deadline in seconds.

    What is `fresh` uses no connection that is already there. Raises Unavailable without ssh.
    """

    def __init__(self, hosts: list[Host], deadline: float, jobs: int, is_fresh: bool) -> None:
        self.deadline, self.is_fresh = deadline, is_fresh
        self.places = asyncio.Semaphore(jobs)
        self.doors: dict[str, asyncio.Semaphore] = {}
        self.ways: dict[Host, asyncio.Semaphore] = {}
        if any(host.name for host in hosts) and not shutil.which("ssh"):
            raise Unavailable("there is no ssh here", "install OpenSSH's client")

    async def find_door(self, host: Host) -> asyncio.Semaphore:
        """The door that a host is behind: its jump host, its proxy, or its own address."""
        said: dict[str, str] = {}
        if host.name:
            # not what is wrong in the configuration: the connection says it
            with contextlib.suppress(OSError):
                ended = await execute_once(["ssh", "-G", "--", host.name], ssh_environment(host))
                said = dict(line.partition(" ")[::2] for line in ended.out.splitlines())
        jump = said.get("proxyjump", "none").partition(",")[0]
        proxy = said.get("proxycommand", "none")
        door = f"{said.get('hostname', host.name)}:{said.get('port', '')}"
        door = proxy if proxy != "none" else door
        door = jump if jump != "none" else door
        return self.doors.setdefault(door, asyncio.Semaphore(AT_A_DOOR))

    async def reach(
        self,
        host: Host,
        line: str,
        data: bytes | None = None,
        deadline: float | None = None,
        hear: Callable[[str], None] | None = None,
        most: int = MOST_ANSWER,
        is_once: bool = False,
    ) -> Ended:
        """Have a line run on a host, with `data` on its stdin; what came of it.

        `hear` is told each line of stderr; `most` bytes of stdout are kept.

        A door that is shut is tried twice more: nothing was run behind it. What may be done only
        `is_once` is not, as a host can say of itself that its door was shut. The deadline counts
        from where the host's turn has come.
        """
        # what a shell prints when it starts may lack its newline, and is no part of the answer
        mark = f"avault-{os.urandom(8).hex()}"
        argv = ssh_command(host, f"echo; echo {mark}; {line}", self.is_fresh)
        env = ssh_environment(host)
        talk = collections.deque[str](maxlen=LAST_LINES)

        def listen(heard: str) -> None:
            talk.append(heard)
            if hear:
                hear(heard)

        limit = deadline or self.deadline
        try:
            async with self.places, asyncio.timeout(limit):
                door = self.ways.get(host) or await self.find_door(host)
                self.ways[host] = door
        except TimeoutError:
            return Ended(None, "", "")
        async with door, self.places:
            try:
                async with asyncio.timeout(limit):
                    for pause in (*DOOR_PAUSES, None):
                        ended = await execute_once(argv, env, data, listen, most)
                        if pause is None or is_once or not was_shut_out(ended):
                            break
                        await asyncio.sleep(pause * (0.5 + random.random()))  # noqa: S311
            except TimeoutError:
                return Ended(None, "", "\n".join(talk))
        before, begun, out = ended.out.partition(f"\n{mark}\n")
        return Ended(ended.code, out if begun else before, ended.err, bool(begun))


def was_shut_out(ended: Ended) -> bool:
    """Whether the door was shut before anything was run, as by MaxStartups (sshd_config(5))."""
    is_silent = ended.code == 255 and not ended.out
    return is_silent and any(text in ended.err for text in SHUT_OUT)
