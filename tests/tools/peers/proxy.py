"""A man in the middle, in front of a relay. It records every frame, and does to NIP-46 traffic what it is told.

Configuration: upstream, the relay's URL; port, optional. "up" is from a client to the relay, "down" the other way.
Commands:
    rule(dir, drop, delay_ms, copies, reorder, count)
                        for events of kind 24133 in that direction, for the next `count` of them or until the next rule:
                        drop them (True; "ok" says to the client that they were accepted), hold them back, send so many
                        copies, or send them in pairs with the second first; no argument but `dir`: pass them on
    refuse(text)        answer every EVENT with OK false and the text; None: no longer
    frames(clear)       -> frames: [{n, at, dir, text}], all that went through, also what was then dropped or refused
    replay(frames)      -> send recorded frames again by number, each in its direction: up with a connection of our own
                        (-> replies: what the relay said), down to all subscribers
    inject(event)       -> subscribers: send an event to every subscription of every client, whatever its filter
    cut(stay)           break all connections, without goodbye; with `stay`, take none until `back()`
Events: passed, dropped, held or refused {n, dir, id}, for each NIP-46 event, when that was done to it.
"""

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

from lines import Commands, emit, run
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

OPTIONS: dict[str, Any] = {"max_size": None, "compression": None, "ping_interval": None}


@dataclass
class Rule:
    drop: bool | str = False
    delay_ms: int = 0
    copies: int = 1
    reorder: bool = False
    count: float = float("inf")


@dataclass(eq=False)
class Link:
    """A client, and its connection to the relay."""

    client: ServerConnection
    relay: ClientConnection
    subscriptions: set[str] = field(default_factory=set)

    async def send(self, direction: str, text: str | bytes) -> None:
        with contextlib.suppress(ConnectionClosed):
            await (self.relay if direction == "up" else self.client).send(text)


class Proxy:
    def __init__(self, upstream: str, port: int) -> None:
        self.upstream, self.port = upstream, port
        self.links: set[Link] = set()
        self.frames: list[dict[str, Any]] = []
        self.rules = {"up": Rule(), "down": Rule()}
        self.held: dict[str, tuple[Link, str]] = {}
        self.refusal: str | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.server: Server

    async def listen(self) -> None:
        self.server = await serve(self.attend, "127.0.0.1", self.port, **OPTIONS)
        self.port = next(iter(self.server.sockets)).getsockname()[1]

    async def attend(self, client: ServerConnection) -> None:
        try:
            async with connect(self.upstream, proxy=None, **OPTIONS) as relay:
                self.links.add(link := Link(client, relay))
                ways = [asyncio.create_task(self.carry(link, way)) for way in ("up", "down")]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                self.links.discard(link)
        except OSError:
            client.transport.abort()  # the relay is down, and so are we

    async def carry(self, link: Link, direction: str) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in link.client if direction == "up" else link.relay:
                await self.frame(link, direction, str(text))

    async def frame(self, link: Link, direction: str, text: str) -> None:
        number = len(self.frames)
        self.frames.append({"n": number, "at": time.time(), "dir": direction, "text": text})
        message = json.loads(text)
        if direction == "up" and message[0] == "REQ":
            link.subscriptions.add(message[1])
        if direction == "up" and message[0] == "CLOSE":
            link.subscriptions.discard(message[1])
        if message[0] != "EVENT":
            await link.send(direction, text)
        elif direction == "up" and self.refusal is not None:
            await link.send("down", json.dumps(["OK", message[1]["id"], False, self.refusal]))
            emit("refused", n=number, dir=direction, id=message[1]["id"])
        elif message[-1]["kind"] != 24133:
            await link.send(direction, text)
        else:
            fate = await self.apply(link, direction, text, message[-1]["id"])
            emit(fate, n=number, dir=direction, id=message[-1]["id"])

    async def apply(self, link: Link, direction: str, text: str, event_id: str) -> str:
        rule = self.rules[direction]
        if rule.count <= 0:
            rule = Rule()
        rule.count -= 1
        if rule.drop:
            if rule.drop == "ok" and direction == "up":
                await link.send("down", json.dumps(["OK", event_id, True, ""]))
            return "dropped"
        if rule.delay_ms:
            self.tasks.add(asyncio.create_task(self.later(rule.delay_ms / 1000, link, direction, text)))
            return "held"
        if rule.reorder and direction not in self.held:
            self.held[direction] = link, text
            return "held"
        for _ in range(rule.copies):
            await link.send(direction, text)
        if rule.reorder:
            earlier, text = self.held.pop(direction)
            await earlier.send(direction, text)
        return "passed"

    async def later(self, delay: float, link: Link, direction: str, text: str) -> None:
        await asyncio.sleep(delay)
        await link.send(direction, text)

    # commands

    async def rule(self, dir: str, **rule: Any) -> None:
        self.rules[dir] = Rule(**rule)
        if dir in self.held:
            link, text = self.held.pop(dir)
            await link.send(dir, text)

    async def refuse(self, text: str | None = None) -> None:
        self.refusal = text

    async def recorded(self, clear: bool = False) -> dict[str, Any]:
        frames = self.frames
        if clear:
            self.frames = []
        return {"frames": frames}

    async def replay(self, frames: list[int]) -> dict[str, Any]:
        replies = []
        for frame in [self.frames[number] for number in frames]:
            if frame["dir"] == "down":
                await self.inject(json.loads(frame["text"])[-1])
            else:
                async with connect(self.upstream, proxy=None, **OPTIONS) as relay:
                    await relay.send(frame["text"])
                    replies.append(json.loads(await relay.recv()))
        return {"replies": replies}

    async def inject(self, event: dict[str, Any]) -> dict[str, Any]:
        targets = [(link, name) for link in self.links for name in link.subscriptions]
        for link, name in targets:
            await link.send("down", json.dumps(["EVENT", name, event]))
        return {"subscribers": len(targets)}

    async def cut(self, stay: bool = False) -> None:
        if stay:
            self.server.close(close_connections=False)
        for link in list(self.links):
            link.client.transport.abort()
            link.relay.transport.abort()
        if stay:
            await self.server.wait_closed()

    async def back(self) -> None:
        await self.listen()


async def main(config: dict[str, Any]) -> Commands:
    proxy = Proxy(config["upstream"], config.get("port", 0))
    await proxy.listen()
    emit("ready", url=f"ws://127.0.0.1:{proxy.port}", keep={"port": proxy.port})
    return {
        "rule": proxy.rule,
        "refuse": proxy.refuse,
        "frames": proxy.recorded,
        "replay": proxy.replay,
        "inject": proxy.inject,
        "cut": proxy.cut,
        "back": proxy.back,
    }


run(main)
