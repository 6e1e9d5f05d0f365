"""The word that an operator may send, as the keyholder takes it: who wrote it, when, and what it says. No relay, no daemon."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest import mock

import nostr_sdk
import pytest
from test_keyholder_alone import Desk

import avault

HOUR = 3600
NOTHING = {"ok": True, "word": None}


def wrap(rumor: nostr_sdk.UnsignedEvent, sender: nostr_sdk.Keys, receiver: nostr_sdk.Keys) -> dict[str, Any]:
    event = nostr_sdk.nip59_make_gift_wrap(sender, receiver.public_key(), rumor)
    return dict(json.loads(event.as_json()))


def wrap_seal(seal: nostr_sdk.Event, receiver: nostr_sdk.Keys) -> dict[str, Any]:
    """A seal, whoever made it, in a wrap of the moment, as anybody can."""
    keys, to = avault.make_keys(), avault.public_hex(receiver)
    tags = [nostr_sdk.Tag.parse(["p", to])]
    event = nostr_sdk.EventBuilder(nostr_sdk.Kind(1059), avault.encrypt(keys, to, seal.as_json())).tags(tags).finalize(keys)
    return dict(json.loads(event.as_json()))


def seal(rumor: str, signer: nostr_sdk.Keys, author: nostr_sdk.Keys, receiver: nostr_sdk.Keys) -> nostr_sdk.Event:
    """A rumor, encrypted by its `author` and signed by the `signer`."""
    content = avault.encrypt(author, avault.public_hex(receiver), rumor)
    return nostr_sdk.EventBuilder(nostr_sdk.Kind(13), content).finalize(signer)


class Post(Desk):
    """A keyholder, and who writes to its agent."""

    def rumor(self, text: str, ago: float = 0, kind: int = 14, author: nostr_sdk.Keys | None = None) -> nostr_sdk.UnsignedEvent:
        builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(kind), text)
        builder = builder.tags([nostr_sdk.Tag.parse(["p", avault.public_hex(self.example.agent)])])
        builder = builder.custom_created_at(nostr_sdk.Timestamp.from_secs(int(time.time() - ago)))
        return builder.finalize_unsigned((author or self.example.operator).public_key())

    def write(self, text: str, ago: float = 0, kind: int = 14, author: nostr_sdk.Keys | None = None) -> dict[str, Any]:
        return wrap(self.rumor(text, ago, kind, author), author or self.example.operator, self.example.agent)

    async def read(self, event: Any, **fields: Any) -> dict[str, Any]:
        return await self.serve("word", action="read", event=event, **fields)

    def log(self) -> list[dict[str, Any]]:
        """What stands in the access log of words."""
        lines = Path(self.places.own("access.log")).read_text().splitlines()
        return [entry for line in lines if (entry := json.loads(line)).get("op") == "word"]


@pytest.fixture
async def post(tmp_path: Path) -> AsyncIterator[Post]:
    post = Post(tmp_path)
    await post.open()
    post.holding.autolock.since = time.time() - HOUR
    yield post
    post.close()


@pytest.mark.parametrize("text", ["lock", "Lock", " LOCK\n"])
async def test_the_word_of_an_operator_counts_and_its_answer_is_true(post: Post, text: str) -> None:
    """Whoever has the answer that it locks has it lock, whatever comes then. Nobody has proven this vault: it is not locked."""
    said = await post.read(post.write(text))
    assert (said["word"], said["to"], said["locks"]) == ("lock", avault.public_hex(post.example.operator), False)
    assert abs(said["written"] - time.time()) < 60
    sender, _, reply = avault.open_message(post.example.operator, json.dumps(said["reply"]))
    assert sender == avault.public_hex(post.example.agent) and reply.startswith("avault: test@machine is NOT locked, ")
    post.holding.ratchet.proven = "2026-01-31T12:00:00Z"
    post.holding.reporter.warnings["unsaved"] = "what is served is nowhere on the disk"
    assert not (await post.read(post.write(text)))["locks"]
    del post.holding.reporter.warnings["unsaved"]
    with mock.patch.object(avault, "LATEST_LOCK", 0.0):
        said = await post.read(post.write(text))
    _, _, reply = avault.open_message(post.example.operator, json.dumps(said["reply"]))
    assert said["locks"] and reply.startswith("avault: test@machine locks, ")
    async with asyncio.timeout(60):
        await post.keyholder.ended.wait()


async def test_a_log_that_cannot_be_written_keeps_nothing_open(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise avault.AvaultError("no space left on the device")

    monkeypatch.setattr(post.keyholder, "release", refuse)
    assert (await post.read(post.write("lock")))["word"] == "lock"


async def test_another_operator_may_say_it_and_a_stranger_may_not(post: Post) -> None:
    other = avault.make_keys()
    assert await post.read(post.write("lock", author=other)) == NOTHING
    store = post.holding.store
    assert store
    fact = "operator/bob"

    def add(vault: avault.Vault) -> None:
        vault.state(fact, avault.public_hex(other), 1, store.machine)

    await post.keyholder.change(add)
    assert avault.public_hex(other) in post.keyholder.open_store().vault.operators()
    assert (await post.read(post.write("lock", author=other)))["word"] == "lock"


@pytest.mark.parametrize(
    "text", ["unlock", "lock please", "lock\0", "locked", "get openai", "", "stop", '{"op": "lock"}', "lock lock"]
)
async def test_no_other_word_is_obeyed(post: Post, text: str) -> None:
    assert await post.read(post.write(text)) == NOTHING


async def test_a_word_is_void_that_is_old_or_ahead_or_from_before_the_unlock(post: Post) -> None:
    for ago in (11 * 60, 30 * 24 * HOUR, -11 * 60):
        assert await post.read(post.write("lock", ago)) == NOTHING
    assert (await post.read(post.write("lock", 9 * 60)))["word"] == "lock"
    post.holding.autolock.since = time.time()
    assert await post.read(post.write("lock", 3 * 60)) == NOTHING
    assert (await post.read(post.write("lock", 60)))["word"] == "lock"  # a phone whose clock is behind


async def test_the_same_word_in_another_wrap_is_not_obeyed_again(post: Post) -> None:
    rumor = post.rumor("lock")
    said = await post.read(wrap(rumor, post.example.operator, post.example.agent))
    again = wrap(rumor, post.example.operator, post.example.agent)
    assert said["word"] == "lock"
    assert await post.read(again, after=said["written"]) == NOTHING


async def test_a_forged_word_is_not_obeyed(post: Post) -> None:
    """Neither a rumor in the operator's name, nor a seal that somebody else signed, nor what is for somebody else."""
    operator, agent, other = post.example.operator, post.example.agent, avault.make_keys()
    rumor = post.rumor("lock")
    as_json = rumor.as_json()
    assert (await post.read(wrap_seal(seal(as_json, operator, operator, agent), agent)))["word"] == "lock", "the control"
    assert await post.read(wrap_seal(seal(as_json, other, other, agent), agent)) == NOTHING
    assert await post.read(wrap_seal(seal(as_json, other, operator, agent), agent)) == NOTHING
    changed = json.loads(seal(as_json, operator, operator, agent).as_json())
    changed["sig"] = changed["sig"][:-2] + ("00" if changed["sig"][-2:] != "00" else "11")
    content = avault.encrypt(keys := avault.make_keys(), avault.public_hex(agent), json.dumps(changed))
    unsigned = nostr_sdk.EventBuilder(nostr_sdk.Kind(1059), content)
    tags = [nostr_sdk.Tag.parse(["p", avault.public_hex(agent)])]
    assert await post.read(json.loads(unsigned.tags(tags).finalize(keys).as_json())) == NOTHING
    assert await post.read(wrap(rumor, operator, other)) == NOTHING
    assert await post.read(post.write("lock", kind=1)) == NOTHING


async def test_garbage_is_refused_and_nothing_is_told_of_it(post: Post) -> None:
    for event in ({}, {"kind": 1059}, {"content": "\ud800"}, {"a": [[]] * 9}):
        assert await post.read(event) == NOTHING
    for event in (None, "lock", [], {"content": "x" * 5000}):
        with pytest.raises(avault.Usage):
            await post.read(event)
    with pytest.raises(avault.Usage):
        await post.read(post.write("lock"), after="0")
    with pytest.raises(avault.Usage):
        await post.serve("word", action="read", event={}, force=True)
    with pytest.raises(avault.Usage):
        await post.serve("word", action="unlock")


async def test_it_opens_nothing_for_who_asks(post: Post) -> None:
    """Whoever gives it the envelope, or the vault, as the content of a wrap gets no word of what is in it."""
    envelope = json.loads(post.own("unlock.json"))["envelope"]
    line = post.own("avault.enc").decode().splitlines()[0]
    agent, operator = avault.public_hex(post.example.agent), avault.public_hex(post.example.operator)
    for author, content in ((operator, envelope), (agent, line), (agent, envelope)):
        event = {"id": "00" * 32, "pubkey": author, "created_at": int(time.time()), "kind": 1059}
        assert await post.read({**event, "tags": [["p", agent]], "content": content, "sig": "00" * 64}) == NOTHING


async def test_where_the_agent_takes_messages_is_signed_by_it_and_logged(post: Post) -> None:
    said = await post.serve("word", action="inbox", relays=["wss://Relay.example/"])
    event = nostr_sdk.Event.from_json(json.dumps(said["event"]))
    assert event.verify() and event.author().to_hex() == said["agent"] == avault.public_hex(post.example.agent)
    assert [str(url) for url in nostr_sdk.nip17_extract_relay_list(event)] == ["wss://relay.example"]
    with pytest.raises(avault.Usage):
        await post.serve("word", action="inbox", relays=["wss://a.example"] * 11)
    with pytest.raises(avault.Usage):
        await post.serve("word", action="inbox", relays=["https://a.example"])


async def test_an_event_that_the_keyholder_would_not_take_ends_nothing(post: Post) -> None:
    """What is short as it came may be long as it goes on: such a one is left out, and the next is read."""
    ear, keys = avault.Ear(), avault.make_keys()
    for text in ("é" * 1500, "x" * 3900, "y" * 5000):
        ear.hear(nostr_sdk.EventBuilder(nostr_sdk.Kind(1059), text).finalize(keys))
    ear.hear(nostr_sdk.Event.from_json(json.dumps(post.write("lock"))))
    assert [len(json.dumps(each)) <= 4096 for each in ear.unread] == [True]
    assert (await post.read(await ear.next()))["word"] == "lock"
