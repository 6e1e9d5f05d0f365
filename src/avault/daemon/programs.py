"""The programs that the supervisor runs: those that print a JSON object, and those that stay."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING

from avault.errors import Usage
from avault.process import clean_environment, own_command
from avault.protocol import decode_frame

if TYPE_CHECKING:
    from typing import Any


def start_program(
    command: list[str], stdin: int | None = None, variables: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program in a clean environment, with these variables besides.

    What it prints is for `hear_program`. It outlives us, which asyncio's own subprocesses do not:
    git is not to be killed because the daemon stops.
    """
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        command,
        stdin=quiet if stdin is None else stdin,
        stdout=subprocess.PIPE,
        stderr=quiet,
        cwd="/",
        env=clean_environment() | (variables or {}),
        start_new_session=True,
    )


async def run_program(
    command: list[str], variables: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run a program: the JSON object that it prints."""
    return await hear_program(start_program(command, variables=variables))


async def hear_program(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The JSON object that a program prints, when it has ended."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), process.stdout
    )
    output = await reader.read()
    try:
        return decode_frame(output)
    except Usage:
        while process.poll() is None:  # it may have closed its stdout, and go on
            await asyncio.sleep(0.05)
        return {"state": "failed", "reason": f"it ended with exit code {process.returncode}"}


async def start_own(
    *words: str, stdin: int | None = None, stdout: int | None = None
) -> asyncio.subprocess.Process:
    """Start a program of our own that stays beside us (see `own_command`); raises OSError.

    It is in a clean environment, and ends with us at the latest.
    """
    quiet = subprocess.DEVNULL
    return await asyncio.create_subprocess_exec(
        *own_command(*words),
        stdin=quiet if stdin is None else stdin,
        stdout=quiet if stdout is None else stdout,
        stderr=quiet,
        cwd="/",
        env=clean_environment(),
        start_new_session=True,
    )
