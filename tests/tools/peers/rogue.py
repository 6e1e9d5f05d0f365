"""A remote signer that does what a correct one never will.

It answers each request by a list of steps, [{"honest": true}] unless told otherwise, [] is silence. A step sends one
event. Its fields:
    honest      with the right result
    say         fields of the answer, over {"id": the request's} and the honest result
    plain       instead: this text, encrypted, be it JSON or not
    garbage     instead: this text as the event's content, not encrypted
    key         "stranger": from another key
    age         seconds by which created_at lies in the past (negative: in the future)
    copies      the same event so many times
    after_ms    wait first
    wait        wait first for the command `go`

Configuration, all but `relays` optional: nsec, key, secret; behave {method: steps}.
Commands:
    behave(method, steps, requests)   for the next so many requests of that method (default: all), then honest again
    go()                              release what waits
    nostrconnect(uri, steps)          answer the URI; the honest result is its secret
    tell(to, steps)                   send to that client though it asked nothing
Events: request {id, event_id, created_at, at, relay, client, method, params}, each arrival, also of the same event
again; listening {relay}; unreadable {error}. The steps are taken once per event: an event that met silence may be
heard when it comes again.
"""

import asyncio
import contextlib
import json
import secrets
import time
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import nostr_sdk as n
from lines import Commands, emit, run
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

Step = dict[str, Any]
HONEST: list[Step] = [{"honest": True}]


class Rogue:
    def __init__(self, config: dict[str, Any]) -> None:
        self.user = n.Keys.parse(config.get("nsec") or n.Keys.generate().secret_key().to_hex())
        self.keys = n.Keys.parse(config.get("key") or n.Keys.generate().secret_key().to_hex())
        self.secret = config.get("secret", secrets.token_hex(8))
        self.stranger = n.Keys.generate()
        self.behaviour: dict[str, list[Step]] = config.get("behave", {})
        self.left: dict[str, int] = {}  # requests until honest again
        self.gate = asyncio.Event()
        self.heard: set[str] = set()  # ids of events that were acted upon
        self.tasks: set[asyncio.Task[None]] = set()
        self.sockets: dict[str, ClientConnection] = {}
        self.ready = False
        self.listen_to(config["relays"])

    # relays

    def listen_to(self, relays: list[str]) -> None:
        self.relays = relays
        for url in relays:
            if url not in self.sockets:
                self.do(self.listen(url))

    def do(self, job: Any) -> None:
        self.tasks.add(task := asyncio.create_task(job))
        task.add_done_callback(self.tasks.discard)

    async def listen(self, url: str) -> None:
        while True:
            try:
                async with connect(url, proxy=None, compression=None, max_size=None) as socket:
                    me = self.keys.public_key().to_hex()
                    await socket.send(json.dumps(["REQ", "rogue", {"kinds": [24133], "#p": [me], "limit": 0}]))
                    async for text in socket:
                        message = json.loads(text)
                        if message[0] == "EOSE":
                            self.sockets[url] = socket
                            self.listening(url)
                        if message[0] == "EVENT":
                            self.receive(url, n.Event.from_json(json.dumps(message[2])))
            except (OSError, ConnectionClosed):
                pass
            self.sockets.pop(url, None)
            await asyncio.sleep(0.2)

    def listening(self, url: str) -> None:
        emit("listening", relay=url)
        if self.ready:
            return
        self.ready = True
        query = [f"relay={quote(url, safe='')}" for url in self.relays]
        query += [f"secret={self.secret}"] if self.secret else []
        emit(
            "ready",
            uri=f"bunker://{self.keys.public_key().to_hex()}?{'&'.join(query)}",
            user=self.user.public_key().to_hex(),
            signer=self.keys.public_key().to_hex(),
            stranger=self.stranger.public_key().to_hex(),
            keep={
                "nsec": self.user.secret_key().to_hex(),
                "key": self.keys.secret_key().to_hex(),
                "secret": self.secret,
            },
        )

    def receive(self, url: str, event: n.Event) -> None:
        client, event_id = event.author(), event.id().to_hex()
        try:
            request = json.loads(n.nip44_decrypt(self.keys.secret_key(), client, event.content()))
        except (n.NostrSdkError, ValueError) as error:
            emit("unreadable", error=str(error))
            return
        emit(
            "request",
            **request,
            event_id=event_id,
            created_at=event.created_at().as_secs(),
            at=time.time(),
            relay=url,
            client=client.to_hex(),
        )
        if event_id not in self.heard and (steps := self.steps_for(request["method"])):
            self.heard.add(event_id)
            self.do(self.act(client, request["id"], self.truth(request), steps))

    # behaviour

    def steps_for(self, method: str) -> list[Step]:
        steps = self.behaviour.get(method, HONEST)
        if method in self.left:
            self.left[method] -= 1
            if self.left[method] == 0:
                del self.left[method], self.behaviour[method]
        return steps

    def truth(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["method"], request["params"]:
            case "connect", [_, secret, *_] if self.secret and secret != self.secret:
                return {"result": "", "error": "invalid secret"}
            case "connect", _:
                return {"result": "ack"}
            case "get_public_key", _:
                return {"result": self.user.public_key().to_hex()}
            case "ping", _:
                return {"result": "pong"}
            case "nip44_decrypt", [peer, payload]:
                try:
                    return {"result": n.nip44_decrypt(self.user.secret_key(), n.PublicKey.parse(peer), payload)}
                except n.NostrSdkError as error:
                    return {"result": "", "error": str(error)}
            case method, _:
                return {"result": "", "error": f"Unrecognized method: {method}"}

    async def act(self, client: n.PublicKey, request_id: str, truth: dict[str, Any], steps: list[Step]) -> None:
        for step in steps:
            if step.get("wait"):
                await self.gate.wait()
            await asyncio.sleep(step.get("after_ms", 0) / 1000)
            keys = self.stranger if step.get("key") == "stranger" else self.keys
            answer = {"id": request_id, **(truth if step.get("honest") else {}), **step.get("say", {})}
            text = step.get("plain", json.dumps(answer))
            content = n.nip44_encrypt(keys.secret_key(), client, text, n.Nip44Version.V2)
            event = (
                n.EventBuilder(n.Kind(24133), step.get("garbage", content))
                .tags([n.Tag.public_key(client)])
                .custom_created_at(n.Timestamp.from_secs(int(time.time()) - step.get("age", 0)))
                .finalize(keys)
            )
            for socket in list(self.sockets.values()) * step.get("copies", 1):
                with contextlib.suppress(ConnectionClosed):
                    await socket.send(f'["EVENT",{event.as_json()}]')

    # commands

    async def behave(self, method: str, steps: list[Step], requests: int | None = None) -> None:
        self.gate.clear()
        self.behaviour[method] = steps
        self.left.pop(method, None)
        if requests is not None:
            self.left[method] = requests

    async def go(self) -> None:
        self.gate.set()

    async def nostrconnect(self, uri: str, steps: list[Step] = HONEST) -> None:
        parts = urlsplit(uri)
        query = parse_qs(parts.query)
        self.listen_to(query["relay"])
        while not all(url in self.sockets for url in query["relay"]):
            await asyncio.sleep(0.02)
        client = n.PublicKey.parse(parts.netloc)
        await self.act(client, secrets.token_hex(4), {"result": query["secret"][0]}, steps)

    async def tell(self, to: str, steps: list[Step]) -> None:
        await self.act(n.PublicKey.parse(to), secrets.token_hex(4), {}, steps)


async def main(config: dict[str, Any]) -> Commands:
    rogue = Rogue(config)
    return {"behave": rogue.behave, "go": rogue.go, "nostrconnect": rogue.nostrconnect, "tell": rogue.tell}


run(main)
