"""A peer's end of the conversation: JSON lines, commands on stdin, events on stdout."""

import asyncio
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what a library prints is no event

Commands = dict[str, Callable[..., Awaitable[dict[str, Any] | None]]]


def emit(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), file=out, flush=True)


def run(main: Callable[[dict[str, Any]], Awaitable[Commands]]) -> None:
    """Run a peer: `main` turns the configuration, the first line, into a table of commands.

    Every later line is a command, and is acknowledged once it is carried out. The peer ends with `stop`, or when its
    parent does; with os._exit, for the relay of nostr_sdk may crash an interpreter that ends in an orderly way.
    """
    code = 1
    try:
        asyncio.run(_converse(main))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


async def _converse(main: Callable[[dict[str, Any]], Awaitable[Commands]]) -> None:
    stdin = asyncio.StreamReader(limit=2**26)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    commands = await main(json.loads(await stdin.readline()))
    while line := await stdin.readline():
        fields = json.loads(line)
        cmd, n = fields.pop("cmd"), fields.pop("n")
        if cmd == "stop":
            return
        try:
            emit("done", n=n, **(await commands[cmd](**fields) or {}))
        except Exception as error:
            emit("failed", n=n, error=f"{type(error).__name__}: {error}")
