"""A relay: the one inside nostr_sdk. It keeps no event of kind 24133: who is not subscribed misses it.

Configuration, all optional: port; rate_limit {max_reqs, notes_per_minute}; nip42 "read", "write" or "both";
auth_dm, to give private messages to their receivers alone; refuse, the text with which every event is refused; max_connections.
"""

import asyncio
from typing import Any

import nostr_sdk as n
from lines import Commands, emit, run


class Refusal(n.WritePolicy):
    def __init__(self, text: str) -> None:
        self.text = text

    async def admit_event(self, event: n.Event, socket_addr: str) -> n.WritePolicyResult:
        return n.WritePolicyResult.REJECT(self.text)


async def main(config: dict[str, Any]) -> Commands:
    n.uniffi_set_event_loop(asyncio.get_running_loop())
    builder = n.LocalRelayBuilder().addr("127.0.0.1")
    if port := config.get("port"):
        builder = builder.port(port)
    if limit := config.get("rate_limit"):
        builder = builder.rate_limit(n.RateLimit(**limit))
    if mode := config.get("nip42"):
        builder = builder.nip42(n.LocalRelayBuilderNip42(mode=n.LocalRelayBuilderNip42Mode[mode.upper()]))
    if config.get("auth_dm"):
        builder = builder.auth_dm(True)
    if text := config.get("refuse"):
        builder = builder.write_policy(Refusal(text))
    if most := config.get("max_connections"):
        builder = builder.max_connections(most)
    global relay
    relay = builder.build()
    await relay.run()
    url = str(await relay.url()).rstrip("/")
    emit("ready", url=url, keep={"port": int(url.rpartition(":")[2])})
    return {}


run(main)
