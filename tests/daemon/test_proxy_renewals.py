"""Tokens that are renewed for the proxy: the keyholder alone; what a server has answered is put where its process puts it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from test_proxy_grants import Counter

import avault

ACCESS, REFRESH = "an-access-token-0123456789", "a-refresh-token-0123456789"
NAME = "claude/OAUTH_ACCESS_TOKEN"
EXPIRED = "100"


class Renewer(Counter):
    """A group with tokens. Its server gives `refresh` and `expires`; `before` is done when it has answered."""

    async def fill(self) -> None:
        await super().fill()
        self.jobs: list[dict[str, Any]] = []
        self.refresh: Callable[[int], str | None] = lambda number: f"refresh-token-{number}-0123456789"
        self.expires = int(time.time()) + 3600
        self.before: Callable[[], Awaitable[Any]] | None = None
        self.asked: Callable[[], Awaitable[Any]] | None = None  # until which nothing is answered
        self.fault: avault.AvaultError | None = None
        for key, value in (("ACCESS_TOKEN", ACCESS), ("REFRESH_TOKEN", REFRESH), ("TOKEN_URL", "https://id.example.com/t")):
            await self.put_key(f"OAUTH_{key}", value)
        await self.put_key("OAUTH_EXPIRES", EXPIRED)
        await self.serve("guard", group="claude", key="OAUTH_ACCESS_TOKEN", hosts=["api.openai.com"])
        self.start = self.keyholder.brokers.start
        self.keyholder.brokers.start = self.answer  # type: ignore[assignment,method-assign]

    async def put_key(self, key: str, value: str) -> None:
        await self.serve("set", group="claude", key=key, value=value)

    async def answer(self, session: dict[str, Any], *_: Any) -> tuple[str, None, dict[str, Any]]:
        job = session["refresh"]
        if self.fault:
            raise self.fault
        if Path(job["kept"]).exists():  # as `ask_for_token` does
            return "", None, {}
        self.jobs.append(job)
        if self.asked:
            await self.asked()
        number = len(self.jobs)
        given = {"access": f"access-token-{number}-0123456789", "refresh": self.refresh(number), "expires": self.expires}
        sealed = avault.seal_value(job["to"], json.dumps({**given, "was": job["was"], "over": job.get("over")}))
        Path(job["kept"]).write_text(sealed)
        if self.before:
            await self.before()
        return "", None, {}

    async def send(self, session: avault.ProxiedUses | None = None, **asked: Any) -> Any:
        """The value that a request gets, or its error."""
        found = await self.use(session or self.begin(only=[NAME]), NAME, **asked)
        return found["value"] if found["ok"] else found["error"]

    def values(self, key: str) -> list[str]:
        vault = self.keyholder.open_store().vault
        return [each.value for each in vault.groups["claude"].keys.get(f"OAUTH_{key}", [])]

    def kept(self) -> bool:
        return Path(self.jobs[-1]["kept"]).exists()

    def add_second(self, key: str) -> None:
        """As from a merge: another machine has set it as well."""
        keys = self.keyholder.open_store().vault.groups["claude"].keys
        keys[key] = [*keys[key], avault.Secret("another-value-0123456789", 1, 1, "m2", 1)]


@pytest.fixture
async def renewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Renewer]:
    renewer = Renewer(tmp_path, monkeypatch)
    await renewer.fill()
    yield renewer
    for each in [*renewer.keyholder.grants.known.values()]:
        renewer.keyholder.grants.end([each])
    for found in renewer.keyholder.openers.assigned.copy():
        found.end()
    await asyncio.sleep(0)
    renewer.close()


async def test_a_guard_on_another_key_meanwhile_loses_no_token(renewer: Renewer) -> None:
    """Anybody may set one: the server has used up the old token by then."""
    session = renewer.begin(only=[NAME])

    async def guard() -> None:
        await renewer.serve("guard", group="claude", key="OAUTH_TOKEN_URL", ask=0)

    renewer.before = guard
    assert await renewer.send(session) == "access-token-1-0123456789"
    assert renewer.values("REFRESH_TOKEN") == ["refresh-token-1-0123456789"] and not renewer.kept()


async def test_a_group_that_is_renamed_while_its_server_is_asked_asks_no_second_time(renewer: Renewer) -> None:
    """There the token comes a second time, and is taken for stolen; who asks by the new name waits, and has the answer."""
    session, waiting = renewer.begin(only=[NAME]), list[asyncio.Task[Any]]()

    async def move() -> None:
        renewer.asked = None
        await renewer.serve("move", group="claude", key=None, to_group="work", to_key=None)
        later = renewer.begin(hosts=["work/OAUTH_ACCESS_TOKEN=api.openai.com"], only=["work/OAUTH_ACCESS_TOKEN"])
        waiting.append(asyncio.create_task(renewer.use(later, "work/OAUTH_ACCESS_TOKEN")))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting[0].done()

    renewer.asked = move
    await renewer.send(session)
    assert (await waiting[0])["value"] == "access-token-1-0123456789" and len(renewer.jobs) == 1


async def test_an_answer_stays_while_nobody_can_say_for_which_token_it_is(renewer: Renewer) -> None:
    session = renewer.begin(only=[NAME])

    async def merge() -> None:
        renewer.add_second("OAUTH_REFRESH_TOKEN")

    renewer.before = merge
    for _ in range(2):
        assert await renewer.send(session) == ACCESS and renewer.kept() and len(renewer.jobs) == 1
    await renewer.put_key("OAUTH_REFRESH_TOKEN", REFRESH)  # the one that was used up
    assert await renewer.send(session) == "access-token-1-0123456789"
    assert renewer.values("REFRESH_TOKEN") == ["refresh-token-1-0123456789"] and not renewer.kept()


async def test_an_answer_for_a_group_that_has_another_name_by_now(renewer: Renewer) -> None:
    async def move() -> None:
        await renewer.serve("move", group="claude", key=None, to_group="work", to_key=None)

    renewer.before = move
    await renewer.send()
    assert renewer.kept() and len(renewer.jobs) == 1
    session = renewer.begin(hosts=["work/OAUTH_ACCESS_TOKEN=api.openai.com"], only=["work/OAUTH_ACCESS_TOKEN"])
    found = await renewer.use(session, "work/OAUTH_ACCESS_TOKEN")
    assert found["value"] == "access-token-1-0123456789" and not renewer.kept() and len(renewer.jobs) == 1


async def test_but_not_where_a_guard_keeps_its_token_to_its_name(renewer: Renewer) -> None:
    """Else who moves it has the new access token put where no guard is."""
    hosts, place = ["refresh@id.example.com"], {"group": "claude", "key": "OAUTH_REFRESH_TOKEN"}
    await renewer.serve("guard", **place, hosts=hosts)

    async def move() -> None:
        await renewer.serve("move", **place, to_group="work", to_key="OAUTH_REFRESH_TOKEN")

    renewer.before = move
    await renewer.send()
    assert renewer.kept() and len(renewer.jobs) == 1
    for key, value in (("ACCESS_TOKEN", ACCESS), ("TOKEN_URL", "https://id.example.com/t"), ("EXPIRES", EXPIRED)):
        await renewer.serve("set", group="work", key=f"OAUTH_{key}", value=value)
    session = renewer.begin(hosts=["work/OAUTH_ACCESS_TOKEN=api.openai.com"], only=["work/OAUTH_ACCESS_TOKEN"])
    found = await renewer.use(session, "work/OAUTH_ACCESS_TOKEN")
    assert "another name" in found["error"]["message"] and renewer.kept() and len(renewer.jobs) == 1


@pytest.mark.parametrize("text", [None, "[]", "[" * 50_000])
async def test_an_answer_that_nobody_can_open_is_no_answer_and_stays_aside(renewer: Renewer, text: str | None) -> None:
    """It may be for a key that the agent had before, or from whoever seals to it. The server is asked, and nothing is stuck."""
    path, public = Path(avault.find_answer(renewer.keyholder, "claude")), avault.public_hex(renewer.keyholder.open_store().keys)
    path.write_text(sealed := avault.seal_value(public, text) if text else "not ours")
    assert await renewer.send() == "access-token-1-0123456789" and not path.exists()
    assert Path(f"{path}.unread").read_text() == sealed


async def test_a_new_login_meanwhile_is_not_written_over(renewer: Renewer, monkeypatch: pytest.MonkeyPatch) -> None:
    change = renewer.keyholder.change

    async def log_in_first(function: Callable[[avault.Vault], None]) -> Any:
        monkeypatch.setattr(renewer.keyholder, "change", change)
        await renewer.put_key("OAUTH_REFRESH_TOKEN", "of-a-new-login-0123456789")
        return await change(function)

    session = renewer.begin(only=[NAME])
    monkeypatch.setattr(renewer.keyholder, "change", log_in_first)
    await renewer.send(session)
    assert renewer.values("REFRESH_TOKEN") == ["of-a-new-login-0123456789"] and not renewer.kept()


async def test_an_old_answer_of_a_server_that_does_not_rotate_is_none(renewer: Renewer) -> None:
    renewer.refresh = lambda number: None
    session = renewer.begin(only=[NAME])

    async def keep() -> None:
        old.append(Path(renewer.jobs[0]["kept"]).read_text())

    old: list[str] = []
    renewer.before = keep
    assert await renewer.send(session) == "access-token-1-0123456789"
    await renewer.put_key("OAUTH_EXPIRES", EXPIRED)
    assert await renewer.send(session) == "access-token-2-0123456789"
    Path(renewer.jobs[0]["kept"]).write_text(old[0])
    await renewer.put_key("OAUTH_EXPIRES", str(int(time.time()) + 9999))
    assert await renewer.send(session, refused=True) == "access-token-2-0123456789"
    assert renewer.values("REFRESH_TOKEN") == [REFRESH] and not renewer.kept()


async def test_a_server_that_does_not_say_for_how_long_is_not_asked_at_each_request(renewer: Renewer) -> None:
    renewer.expires = 0
    session = renewer.begin(only=[NAME])
    for _ in range(4):
        assert await renewer.send(session) == "access-token-1-0123456789"
    assert len(renewer.jobs) == 1 and renewer.values("EXPIRES") == []


async def test_one_that_lives_for_less_than_it_is_renewed_early_is_renewed_once_a_minute(renewer: Renewer) -> None:
    renewer.expires = int(time.time()) + 90
    session = renewer.begin(only=[NAME])
    for _ in range(3):
        assert await renewer.send(session) == "access-token-1-0123456789"
    renewer.keyholder.brokers.renewed["claude"] -= 61
    assert await renewer.send(session) == "access-token-2-0123456789"


@pytest.mark.parametrize("key", ["ACCESS_TOKEN", "REFRESH_TOKEN", "CLIENT_ID"])
async def test_what_is_sealed_or_double_renews_nothing_and_is_used(renewer: Renewer, key: str) -> None:
    await renewer.put_key("OAUTH_CLIENT_ID", "client-1")
    if key == "ACCESS_TOKEN":
        await renewer.serve("guard", group="claude", key="OAUTH_ACCESS_TOKEN", ask=900)
        vault = renewer.keyholder.open_store().vault
        assert avault.is_sealed(vault.groups["claude"].keys["OAUTH_ACCESS_TOKEN"][0].value)
        session = avault.ProxyCaller({}, None)
        await avault.renew_token(renewer.keyholder, session, NAME, is_refused=False)
    else:
        session_of = renewer.begin(only=[NAME])
        renewer.add_second(f"OAUTH_{key}")
        assert await renewer.send(session_of) == ACCESS
    assert not renewer.jobs


async def test_a_number_that_is_no_time_keeps_nobody_from_it(renewer: Renewer) -> None:
    await renewer.put_key("OAUTH_EXPIRES", "9" * 5000)
    assert await renewer.send() == ACCESS and not renewer.jobs


async def test_what_goes_wrong_names_nothing_that_a_grant_does_not_have(renewer: Renewer) -> None:
    renewer.fault = avault.Denied("id.example.com gives no new token for claude/OAUTH_REFRESH_TOKEN", "avault import FILE")
    grant = await renewer.grant(groups=[], only=[NAME])
    for session, is_told in ((renewer.begin(grant), False), (renewer.begin(only=[NAME]), True)):
        error = json.dumps(await renewer.send(session))
        assert ("id.example.com" in error, "REFRESH" in error, NAME in error) == (is_told, is_told, not is_told)
    whys = [str(line.get("why")) for line in renewer.lines("refused.log")]
    assert sum("id.example.com" in why for why in whys) == 2  # the owner reads it


async def test_sessions_leave_room_for_who_renews(renewer: Renewer) -> None:
    """They do not count among each other; those that renew have a number of their own."""
    brokers, session = renewer.keyholder.brokers, renewer.begin(only=[NAME])
    for _ in range(brokers.MOST):
        await renewer.start({}, session.use, lambda told: None)
    started = [await renewer.start({"refresh": {}}, session.use, lambda told: None) for _ in range(brokers.MOST_RENEWING)]
    for job, said in (({}, "too many proxies"), ({"refresh": {}}, "too many tokens")):
        with pytest.raises(avault.Unavailable, match=said):
            await renewer.start(job, session.use, lambda told: None)
    for number, _, _ in started:
        brokers.end(number)
    assert not brokers.renewing and len(brokers.through) == brokers.MOST
