"""A relay that others wrote, and that stores every event: the PyPI package nostr-relay.

Configuration: dir, for its database; port, optional; skew, the seconds by which its clock is wrong, optional.
"""

import asyncio
import json
import os
import socket
import time
from typing import Any

import uvicorn
from alembic import command
from alembic.config import Config as Alembic
from lines import Commands, emit, run
from nostr_relay import __file__ as package
from nostr_relay import validators
from nostr_relay.config import Config
from nostr_relay.web import create_app

VALIDATORS = ["is_not_too_large", "is_signed", "is_recent"]


async def main(config: dict[str, Any]) -> Commands:
    os.chdir(config["dir"])
    validators.time = lambda: time.time() + config.get("skew", 0)
    with open("relay.json", "w") as file:  # JSON is YAML
        json.dump(
            {
                "max_event_size": 65536,  # its default is 4096
                "storage": {
                    "sqlalchemy.url": "sqlite+aiosqlite:///relay.sqlite3",
                    "validators": [f"nostr_relay.validators.{name}" for name in VALIDATORS],
                },
                "logging": {"version": 1},
            },
            file,
        )
    Config.load("relay.json")
    await asyncio.to_thread(command.upgrade, Alembic(os.path.join(os.path.dirname(package), "alembic.ini")), "head")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", config.get("port", 0)))
    server = uvicorn.Server(uvicorn.Config(create_app(), log_level="warning"))
    global task
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not task.done():
        await asyncio.sleep(0.01)
    port = listener.getsockname()[1]
    emit("ready", url=f"ws://127.0.0.1:{port}", keep={"port": port})
    return {}


run(main)
