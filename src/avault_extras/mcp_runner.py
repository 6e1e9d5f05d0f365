"""The runner (running/runner) as the server of `avault mcp` sees it: started, heard, and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import avault
from avault import AvaultError, Usage

GRACE = 2.0  # seconds between SIGTERM and SIGKILL
BEAT = 10.0  # seconds between two signs of life of a command


class Kept:
    """The first and last bytes of an output: a model reads no more, and errors are at its end."""

    HALF = 16 * 1024

    def __init__(self) -> None:
        self.first, self.last, self.total = b"", b"", 0

    def add(self, data: bytes) -> None:
        """More of the output."""
        self.total += len(data)
        room = self.HALF - len(self.first)
        self.first += data[:room]
        self.last = (self.last + data[room:])[-self.HALF :]

    def text(self) -> str:
        """What is kept, as text."""
        left_out = self.total - len(self.first) - len(self.last)
        between = f"\n<avault: {left_out} bytes are left out>\n".encode() if left_out else b""
        return (self.first + between + self.last).decode("utf-8", "replace")


GROUPS: set[int] = set()  # the process groups of runners, which a signal to the server ends too


def runner_command(request: dict[str, Any], told: int) -> list[str]:
    """The command line of a runner."""
    return avault.own_command("runner", json.dumps(request), str(told))


def end_group(group: int, number: int) -> None:
    """A signal for a runner and all that it started."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        GROUPS.discard(group)


def end_all(number: int, frame: object) -> NoReturn:
    """The server was told to end: at once, as the thread that reads its stdin cannot be woken."""
    for group in list(GROUPS):
        end_group(group, signal.SIGKILL)
    os._exit(128 + number)


async def run(
    request: dict[str, Any],
    directory: str | None,
    timeout: float,
    beat: Callable[[float], Awaitable[None]],
) -> dict[str, Any]:
    """Run a command through a runner; how it ended and what it printed.

    Raises what the runner reports. `beat` is awaited now and then, with the seconds that have
    passed.
    """
    import anyio

    read, told = os.pipe()
    with open(read, "rb") as report:
        try:
            words, quiet = runner_command(request, told), subprocess.DEVNULL
            process = await anyio.open_process(
                words, stdin=quiet, cwd=directory, start_new_session=True, pass_fds=[told]
            )
        except OSError as error:
            raise Usage(
                f"cannot start it: {error.strerror}",
                "is the directory one, and the command not too long?",
            ) from None
        finally:
            os.close(told)
        GROUPS.add(process.pid)
        outputs = {name: Kept() for name in ("stdout", "stderr")}

        async def keep(name: str) -> None:
            async for data in getattr(process, name):
                outputs[name].add(data)

        begun, timed_out = time.monotonic(), False
        async with process:
            try:
                async with anyio.create_task_group() as readers:
                    for name in outputs:
                        readers.start_soon(keep, name)
                    while process.returncode is None and not timed_out:
                        left = begun + timeout - time.monotonic()
                        with anyio.move_on_after(min(left, BEAT)):
                            await process.wait()
                        timed_out = process.returncode is None and left <= BEAT
                        await beat(time.monotonic() - begun)
                    if timed_out:
                        end_group(process.pid, signal.SIGTERM)
                        with anyio.move_on_after(GRACE):
                            await process.wait()
                    end_group(process.pid, signal.SIGKILL)
            finally:
                end_group(process.pid, signal.SIGKILL)  # cancelled
                GROUPS.discard(process.pid)
        if problem := report.read():
            raise AvaultError.from_dict(json.loads(problem))
    ended = {"timed_out": True} if timed_out else {"exit_code": process.returncode}
    return {**ended, **{name: output.text() for name, output in outputs.items()}}
