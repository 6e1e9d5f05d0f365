"""A key for Nostr whose guard asks, by an invitation: the phone is told which child, and what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nostr_sdk
import pytest
from signing_thread import signing_for
from test_asked import House
from test_bunker import CIPHERS, HEX, Client, encode, template

import avault


class Parlour(House):
    """An open vault with a key for Nostr, of which the phone is asked; requests come by the front end's connections."""

    public: str

    async def fill(self, ask: int) -> None:
        await self.open()
        uses = {"kinds": ["1", "7", "27235"], "ciphers": CIPHERS, "peers": [HEX]}
        made = await self.ask("key", action="generate", kind="nostr", group="nostr", key="CHILD", ask=ask, **uses)
        self.public = avault.parse_npub(made["public"])

    async def serve(self, op: str, value: Any = None, **fields: Any) -> dict[str, Any]:
        return await self.ask(op, **fields)

    async def invite(self) -> Client:
        answer = await self.ask("bunker", action="invite", name="writer", group="nostr", key="CHILD", kinds=["1"], seconds=3600)
        return Client(self, str(answer["uri"]))  # type: ignore[arg-type]


@pytest.fixture
async def parlour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> AsyncIterator[Parlour]:
    parlour = Parlour(tmp_path, monkeypatch)
    with signing_for(parlour.keyholder):
        await parlour.fill(getattr(request, "param", 0))
        yield parlour
        for client in parlour.clients:
            client.close()
        for opener in parlour.openers:
            opener.ended.set()
        for task in (*parlour.keyholder.tasks,):
            task.cancel()
        await asyncio.gather(*parlour.keyholder.tasks, return_exceptions=True)
    parlour.close()


async def test_a_child_is_named_and_its_event_shown(parlour: Parlour) -> None:
    client = await (await parlour.invite()).connect()
    signing = asyncio.ensure_future(client.sign(content="by a child"))
    said = await parlour.man.approve(1)
    assert said.startswith('avault: sign a note (kind 1) with nostr/CHILD: "by a child"; child "writer" on ')
    await parlour.man.approve(2)
    assert (await signing)["pubkey"] == parlour.public
    signing = asyncio.ensure_future(client.refuse("sign_event", json.dumps(template()), says="refused"))
    await parlour.man.refuse(3)
    await signing
    await client.refuse("sign_event", json.dumps(template()), says="is not asked again for")
    assert len(parlour.man.questions) == 3


@pytest.mark.parametrize("parlour", [300], indirect=True)
async def test_a_time_is_for_one_child_and_one_kind(parlour: Parlour) -> None:
    client = await (await parlour.invite()).connect()
    signing = asyncio.ensure_future(client.sign(content="one"))
    assert "now and for 5 min, any event of kind 1: sign a note" in await parlour.man.approve(1)
    await parlour.man.approve(2)
    await signing
    assert (await client.sign(content="two"))["content"] == "two"
    named = {"group": "nostr", "key": "CHILD", "as": "nostr-event", "payload": encode(json.dumps(template()))}
    asked = await parlour.begin("sign", **named)  # a program here is not that child
    await parlour.man.approve(3)
    await parlour.man.approve(4)
    assert nostr_sdk.Event.from_json((await parlour.end(asked))["signature"]).verify()


@pytest.mark.parametrize("parlour", [300], indirect=True)
async def test_a_proof_to_a_server_is_asked_for_by_itself(parlour: Parlour) -> None:
    """One for another server would be another's."""
    for number, url in ((1, "https://a.example"), (3, "https://b.example")):
        event = template(27_235, "", tags=[["u", url], ["method", "GET"]])
        named = {"group": "nostr", "key": "CHILD", "as": "nostr-event", "payload": encode(json.dumps(event))}
        asked = await parlour.begin("sign", **named)
        said = await parlour.man.approve(number)
        assert said.startswith("avault: sign a proof to a web server of who it is (kind 27235)") and url in said
        await parlour.man.approve(number + 1)
        assert (await parlour.end(asked))["ok"]
