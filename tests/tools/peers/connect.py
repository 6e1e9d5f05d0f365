"""A client of a remote signer: the NostrConnect of nostr_sdk. Commands as those of client.mjs."""

import json
from datetime import timedelta
from typing import Any

import nostr_sdk as n
from lines import Commands, emit, run


async def main(config: dict[str, Any]) -> Commands:
    keys = n.Keys.parse(config["key"]) if config.get("key") else n.Keys.generate()
    emit("ready", keep={"key": keys.secret_key().to_hex()})
    client: Any = None

    async def attempt(work: Any) -> dict[str, Any]:
        try:
            return {"result": await work}
        except n.NostrSdkError as error:
            return {"refused": str(error)}

    async def connect(uri: str) -> dict[str, Any]:
        nonlocal client
        client = n.NostrConnect(n.NostrConnectUri.parse(uri), keys, timedelta(seconds=20), None)
        return await pubkey()

    async def pubkey() -> dict[str, Any]:
        async def work() -> str:
            return str((await client.get_public_key_async()).to_hex())

        return await attempt(work())

    async def sign(event: dict[str, Any]) -> dict[str, Any]:
        async def work() -> Any:
            public = (await client.get_public_key_async()).to_hex()
            made = n.UnsignedEvent.from_json(json.dumps({**event, "pubkey": public}))
            return json.loads((await client.sign_event_async(made)).as_json())

        return await attempt(work())

    async def cipher(method: str, peer: str, text: str) -> dict[str, Any]:
        async def work() -> str:
            return str(await getattr(client, f"{method}_async")(n.PublicKey.parse(peer), text))

        return await attempt(work())

    return {"connect": connect, "pubkey": pubkey, "sign": sign, "cipher": cipher}


run(main)
