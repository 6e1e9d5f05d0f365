"""Callers of a wallet on real connections: one that is gone has nothing signed, and has spent nothing."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from signing_thread import signing_for
from test_asked import House

import avault

pytest.importorskip("cryptography", reason="needs cryptography (extra `sign`)")

BOB = "0x" + "b0" * 20
PAY = {"to": BOB, "value": hex(10**17), "gas": "0x5208", "gasPrice": "0x1", "chainId": "0x1", "nonce": "0x0"}
RULE = f"chain 1 token ETH to {BOB} tx 1 day 2 fee 0.01 ask always"


@pytest.mark.parametrize("confirms", [False, True])
async def test_one_that_is_gone_is_noticed_while_the_phone_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, confirms: bool
) -> None:
    """It has closed its connection, and nothing is written to it meanwhile that would show so."""
    house = House(tmp_path, monkeypatch)
    asked, ended = asyncio.Event(), asyncio.Event()

    async def ask(*_: Any) -> None:
        asked.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    monkeypatch.setattr(avault, "ask_operator", ask)
    house.holding.contact.find = lambda store: True  # type: ignore[assignment,method-assign,return-value]
    with signing_for(house.keyholder):
        await house.open()
        made = await house.ask("key", action="generate", kind="evm", group="shop", key="PAY", wallet=[RULE])
        account = avault.identify_account("evm", made["public"][2:].lower(), "1", "")
        payload = base64.b64encode(json.dumps(PAY).encode()).decode()
        request = {"as": "evm-tx", "group": "shop", "key": "PAY", "payload": payload, "confirm": confirms}
        client = await house.begin("sign", **request)
        async with asyncio.timeout(60):
            await asked.wait()
            assert avault.spent_today(house.keyholder, account)
            client.close()
            await ended.wait()
            while avault.spent_today(house.keyholder, account):
                await asyncio.sleep(0.01)
            while "timed_out" not in house.logged():
                await asyncio.sleep(0.01)
    house.close()
