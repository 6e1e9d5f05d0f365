"""Many agents that ask one phone at the same time, as after a common reboot: with avault's own NIP-46 client, in this process.

    told = asyncio.run(reboot(relay.url, agents=1000, tap=0.01))

The relay is a process of its own. The phone stands in for a person: it takes what comes, shows each question once, and answers
one after another, each after `tap` seconds; what its relay refuses it sends again.
"""

from __future__ import annotations

import asyncio
import json
import resource
import secrets
import time
from typing import Any

import avault

TIMEOUT = 900.0  # seconds for all


class OneByOne:
    """The phone. `events` are the times of what came, `prompts` the ids of questions that were shown."""

    def __init__(self, url: str, tap: float) -> None:
        self.keys, self.operator, self.url, self.tap = avault.make_keys(), avault.make_keys(), url, tap
        self.events: list[float] = []
        self.prompts: dict[str, float] = {}
        self.refused = 0
        self.queue: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self.relays = avault.Relays(self.keys, [url], self.hear, lambda: None)

    def hear(self, event: avault.Event) -> None:
        if not avault.is_to(self.keys, event):
            return
        message, _ = avault.read_event(self.keys, event)
        self.events.append(time.monotonic())
        if message["id"] not in self.prompts:
            self.prompts[message["id"]] = self.events[-1]
            self.queue.put_nowait((event.author().to_hex(), message))

    async def answer(self) -> None:
        """Answer one after another, for ever."""
        while True:
            client, message = await self.queue.get()
            await asyncio.sleep(self.tap)
            agent, envelope = message["params"]
            result = avault.decrypt(self.operator, agent, envelope)
            text = json.dumps({"id": message["id"], "result": result, "error": ""})
            while await self.relays.send(self.url, avault.compose_event(self.keys, client, text)) != "accepted":
                self.refused += 1
                await asyncio.sleep(1.0)


async def ask(phone: OneByOne, number: int) -> float:
    """One agent, from its start to the phone's answer: when that came."""
    agent, token = avault.make_keys(), secrets.token_hex(32)
    said = f"avault: unlock agent {number}. Approve only if you expect it."
    envelope = avault.make_envelope(agent, avault.public_hex(phone.operator), f"unlock agent {number}", said, token)
    signer = avault.RemoteSigner(avault.make_keys(), [phone.url], avault.public_hex(phone.keys), lambda: None)
    await signer.open()
    try:
        await signer.request("nip44_decrypt", [avault.public_hex(agent), envelope], avault.accept_token(token))
        return time.monotonic()
    finally:
        await signer.close()


async def reboot(url: str, agents: int, tap: float) -> dict[str, Any]:
    """Start so many agents at once: what came of it, in seconds and numbers."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
    phone = OneByOne(url, tap)
    await phone.relays.open()
    await phone.relays.wait_ready(30.0)
    answering = asyncio.create_task(phone.answer())
    begun = time.monotonic()
    try:
        async with asyncio.timeout(TIMEOUT):
            ends = await asyncio.gather(*(ask(phone, number) for number in range(agents)), return_exceptions=True)
    finally:
        answering.cancel()
        await phone.relays.close()
    answered = [end for end in ends if isinstance(end, float)]
    seconds: dict[int, int] = {}
    for at in phone.events:
        seconds[int(at - begun)] = seconds.get(int(at - begun), 0) + 1
    return {
        "agents": agents,
        "events": len(phone.events),
        "peak": max(seconds.values(), default=0),
        "asked": max(phone.prompts.values(), default=begun) - begun,
        "prompts": len(phone.prompts),
        "refused": phone.refused,
        "answered": len(answered),
        "took": max(answered, default=begun) - begun,
    }
