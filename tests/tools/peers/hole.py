"""A relay that never answers.

Configuration: mode "tcp" (connections open, nothing else) or "ws" (the websocket opens and swallows everything).
"""

import asyncio
from typing import Any

from lines import Commands, emit, run
from websockets.asyncio.server import ServerConnection, serve


async def swallow(client: ServerConnection) -> None:
    async for text in client:
        emit("swallowed", text=text)


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    emit("swallowed", text=None)
    held.append(writer)


held: list[asyncio.StreamWriter] = []  # else the connection would be closed as garbage


async def main(config: dict[str, Any]) -> Commands:
    global server
    port = config.get("port", 0)
    if config["mode"] == "ws":
        server = await serve(swallow, "127.0.0.1", port)
    else:
        server = await asyncio.start_server(silence, "127.0.0.1", port)
    port = next(iter(server.sockets)).getsockname()[1]
    emit("ready", url=f"ws://127.0.0.1:{port}", keep={"port": port})
    return {}


run(main)
