"""Many agents start at once, and one phone answers: no question is lost, none is shown twice, and there is no storm."""

from __future__ import annotations

import asyncio

import nostr_sdk
import peers
import pytest
from reboot import reboot

AGENTS = 60


@pytest.mark.slow
def test_after_a_common_reboot_each_is_asked_and_answered_once() -> None:
    try:
        with peers.local_relay(rate_limit={"max_reqs": 500, "notes_per_minute": 6_000}) as relay:
            told = asyncio.run(reboot(relay.url, AGENTS, tap=0.05))
    finally:
        nostr_sdk.uniffi_set_event_loop(None)  # type: ignore[arg-type]
    assert (told["answered"], told["prompts"]) == (AGENTS, AGENTS)
    times = 3 + told["took"] // 15
    assert told["events"] <= times * AGENTS, "who waits sends again at 15, 30 and 45 s, and not in between"


@pytest.mark.slow
def test_a_relay_with_the_usual_limit_loses_none() -> None:
    """60 events a minute of each who writes: the phone's answers are refused for a while, and sent again."""
    try:
        with peers.local_relay() as relay:
            told = asyncio.run(reboot(relay.url, 62, tap=0.0))
    finally:
        nostr_sdk.uniffi_set_event_loop(None)  # type: ignore[arg-type]
    assert told["answered"] == told["prompts"] == 62 and told["refused"] > 0
