"""The proxy through a grant, one that stays, and the phone that it asks: the keyholder alone, without mitmproxy."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from proxy_use import use_one
from test_asked import House
from test_keyholder_alone import CALLER

import avault

VALUE = "sk-proj-Abcdefghijklmnopqrst0123456789"
SEALED = "sk-proj-0123456789abcdefghijklmnopqrst"
NAME, ASKED_OF = "openai/API_KEY", "asked/KEY"
CALL = {"host": "api.openai.com", "port": 443, "method": "POST", "path": "/v1/chat"}


class Counter(House):
    """A keyholder with a key that goes to a host, one that goes nowhere, and one of which the phone is asked."""

    async def fill(self) -> None:
        await self.open()
        for name, value in ((NAME, VALUE), ("plain/TOKEN", "plain-value-0123"), ("other/KEY", "other-value-0123")):
            group, key = name.split("/")
            await self.serve("set", group=group, key=key, value=value)
        for name in (NAME, "other/KEY"):
            group, key = name.split("/")
            await self.serve("guard", group=group, key=key, hosts=["api.openai.com", "api.test:8443"])
        self.brokers: dict[str, socket.socket] = {}
        self.consents: list[tuple[str, Any, asyncio.Future[Any]]] = []
        self.phone.request = self.put  # type: ignore[method-assign]

    async def put(self, method: str, params: list[str], accept: Any, **_: Any) -> Any:
        """A question of a first use, on the phone."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        envelope = json.loads(avault.decrypt(self.example.operator, *params))
        self.consents.append((envelope["content"], lambda: accept(json.dumps(envelope)), answer))
        return await answer

    async def asked(self, number: int = 1) -> tuple[str, Any, asyncio.Future[Any]]:
        async with asyncio.timeout(60):
            while len(self.consents) < number:
                await asyncio.sleep(0.01)
        return self.consents[number - 1]

    async def agree(self, number: int = 1) -> str:
        said, accept, answer = await self.asked(number)
        answer.set_result(accept())
        return said

    async def refuse(self, number: int = 1) -> None:
        (await self.asked(number))[2].set_exception(avault.Denied("the signer refused: user rejected"))

    def hear(self, message: dict[str, Any], fd: int | None = None) -> None:
        """What the keyholder tells the supervisor: a proxy's process is there at once, and says that it listens."""
        super().hear(message, fd)
        if "broker" in message and not message.get("is_over"):
            ours, theirs = socket.socketpair()
            self.brokers[message["broker"]] = theirs
            theirs.setblocking(False)
            theirs.send(avault.encode_frame({"ready": {"directory": "/run/d", "token": "the-token", "port": 1}}))
            answer = {"do": "broker", "number": message["broker"], "pid": 1}
            asyncio.get_running_loop().call_soon(self.keyholder.receive, answer, ours.detach())

    async def grant(self, name: str = "web", **fields: Any) -> avault.Grant:
        await self.serve("grant", name=name, **({"groups": ["openai"], "can": ["proxy"]} | fields))
        return self.keyholder.grants.known[name]

    def begin(  # type: ignore[override]
        self, grant: avault.Grant | None = None, is_owner: bool = False, **request: Any
    ) -> avault.ProxiedUses:
        caller = {**CALLER, "exe": "/usr/bin/curl", **({"grant": grant.name} if grant else {})}
        session = avault.ProxyCaller(caller, grant)
        return avault.ProxiedUses(self.keyholder, session, request, is_owner=is_owner or not grant)

    async def use(self, session: avault.ProxiedUses, name: str = NAME, **asked: Any) -> dict[str, Any]:
        return await use_one(session, name, CALL, asked)

    async def seal(self, ask: str = "") -> None:
        """A key of which the phone is asked at each use, or at the first one in that time."""
        await self.serve("set", group="asked", key="KEY", value=SEALED)
        seconds = {"": 0, "15m": 900}[ask]
        await self.serve("guard", group="asked", key="KEY", hosts=["api.openai.com"], ask=seconds)

    async def begin_client(self, op: str, **fields: Any) -> socket.socket:
        return await House.begin(self, op, **fields)

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in Path(self.places.own(name)).read_text().splitlines()]


@pytest.fixture
async def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Counter]:
    counter = Counter(tmp_path, monkeypatch)
    await counter.fill()
    yield counter
    for each in [*counter.keyholder.grants.known.values()]:
        counter.keyholder.grants.end([each])
    for found in counter.keyholder.openers.assigned.copy():
        found.end()
    await asyncio.sleep(0)
    counter.close()


# through a grant


async def test_it_gets_what_the_grant_has_and_nothing_else(counter: Counter) -> None:
    grant = await counter.grant()
    session = counter.begin(grant)
    assert session.placeholders.keys() == {NAME} and session.variables == {"API_KEY": NAME}
    assert (await counter.use(session))["value"] == VALUE
    line = counter.lines("access.log")[-1]
    assert (line["op"], line["grant"], line["host"]) == ("proxy", "web", "api.openai.com")
    assert (await counter.use(session, "other/KEY"))["error"]["code"] == "denied"
    for wish in ({"only": ["other/KEY"]}, {"groups": ["other"]}, {"also": ["other/KEY"]}):
        with pytest.raises(avault.NotFound):
            counter.begin(grant, **wish)


@pytest.mark.parametrize("wish", [{"hosts": [f"{NAME}=evil.example.com"]}, {"egress": "open"}])
async def test_where_to_is_not_said_through_a_grant(counter: Counter, wish: dict[str, Any]) -> None:
    """Else who has no value sends it to a server of its own; or a container without a network has ours."""
    grant = await counter.grant()
    with pytest.raises(avault.Denied, match="nobody says to which hosts"):
        counter.begin(grant, **wish)
    assert counter.begin(grant, is_owner=True, **wish).placeholders


@pytest.mark.parametrize("can", [["get"], ["run"], ["sign"]])
async def test_one_that_is_for_something_else(counter: Counter, can: list[str]) -> None:
    grant = await counter.grant(can=can)
    with pytest.raises(avault.Denied, match="only to"):
        counter.begin(grant)
    with pytest.raises(avault.Denied, match="only to"):
        await counter.serve("proxy_start", grant="web")


async def test_each_request_is_a_use_of_the_grant(counter: Counter) -> None:
    session = counter.begin(await counter.grant(times=2))
    for _ in range(2):
        assert (await counter.use(session))["ok"]
    assert "as often as it may" in (await counter.use(session))["error"]["message"]
    assert counter.keyholder.grants.known["web"].times == 0


async def test_a_refused_request_is_no_use_of_it(counter: Counter) -> None:
    grant = await counter.grant(times=1)
    session = counter.begin(grant)
    assert not (await counter.use(session, host="evil.example.com"))["ok"]
    assert grant.times == 1 and counter.lines("refused.log")[-1]["grant"] == "web"


async def test_after_the_end_of_the_grant_nothing_comes(counter: Counter) -> None:
    grant = await counter.grant()
    session = counter.begin(grant)
    await counter.serve("revoke", name="web")
    assert (await counter.use(session))["error"]["code"] == "denied"


async def test_no_hint_leads_to_what_a_grant_does_not_have(counter: Counter) -> None:
    session = counter.begin(await counter.grant())
    await counter.serve("guard", group="openai", only=["run"])
    error = (await counter.use(session))["error"]
    assert error["code"] == "denied" and "unguard" not in error["hint"]


async def test_a_proxys_grant_masks_with_nothing(counter: Counter) -> None:
    """`avault run` wants all values to mask them; who may only use them gets none."""
    grant = await counter.grant()
    assert grant.is_mask({"op": "reveal", "for": "mask"})
    assert not (await counter.grant("both", can=["proxy", "get"])).is_mask({"op": "reveal", "for": "mask"})


async def test_no_hint_leads_to_the_name_that_a_guard_is_on(counter: Counter) -> None:
    """Of a secret that was moved into the group: neither at the start, nor at a use."""
    await counter.serve("set", group="payroll", key="CEO_KEY", value=VALUE)
    await counter.serve("guard", group="payroll", key="CEO_KEY", only=["proxy"])
    await counter.serve("set", group="shop", key="A", value=VALUE)
    await counter.serve("move", group="payroll", key="CEO_KEY", to_group="shop", to_key="MOVED")
    grant = await counter.grant(groups=["shop"])
    session = avault.Session({}, lambda session, request: {}, lambda: None, {}, 0.0, grant)
    with pytest.raises(avault.Denied) as refused:
        counter.begin(grant, only=["shop/MOVED"])
    told = session.explain(refused.value)
    assert "payroll" not in json.dumps(told) and told["error"]["hint"] == avault.ASK_MAKER


async def test_what_renews_a_token_is_not_told_through_a_grant(counter: Counter) -> None:
    """Neither that it is there, nor its server; the log has both."""
    tokens = {"ACCESS_TOKEN": "access-0123456789", "REFRESH_TOKEN": "refresh-0123456789", "EXPIRES": "100"}
    for key, value in (tokens | {"TOKEN_URL": "https://id.internal.example.com/token"}).items():
        await counter.serve("set", group="claude", key=f"OAUTH_{key}", value=value)
    name = "claude/OAUTH_ACCESS_TOKEN"
    await counter.serve("guard", group="claude", key="OAUTH_ACCESS_TOKEN", hosts=["api.openai.com"])
    await counter.serve("guard", group="claude", key="OAUTH_REFRESH_TOKEN", hosts=["refresh@elsewhere.example.com"])
    session = counter.begin(await counter.grant(groups=[], only=[name]))
    told = json.dumps(await counter.use(session, name))
    assert "there is no new one" in told and "REFRESH" not in told and "internal" not in told
    assert "REFRESH" in counter.lines("refused.log")[-1]["why"]


async def test_the_hosts_that_are_remembered_are_few(counter: Counter) -> None:
    await counter.serve("set", group="wild", key="KEY", value=VALUE)
    await counter.serve("guard", group="wild", key="KEY", hosts=["*.example.com"])
    session = counter.begin(only=["wild/KEY"])
    for number in range(150):
        assert (await counter.use(session, "wild/KEY", host=f"h{number}.example.com"))["ok"]
    assert session.count == 150 and len(session.reached) == 100


# one that stays


async def start(counter: Counter, **fields: Any) -> dict[str, Any]:
    return await counter.serve("proxy_start", grant="web", **fields)


async def test_one_that_stays_is_started_shown_and_ended(counter: Counter) -> None:
    await counter.grant()
    told = await start(counter)
    assert told["names"] == {"API_KEY": NAME} and VALUE not in json.dumps(told)
    with pytest.raises(avault.Denied, match="has a proxy already"):
        await start(counter)
    [shown] = (await counter.serve("proxies"))["proxies"]
    assert (shown["grant"], shown["requests"], shown["hosts"]) == ("web", 0, [])
    standing = counter.keyholder.brokers.standing[counter.keyholder.grants.known["web"]]
    assert (await counter.use(standing.proxied))["value"] == VALUE
    [shown] = (await counter.serve("proxies"))["proxies"]
    assert (shown["requests"], shown["hosts"]) == (1, ["api.openai.com"]) and "token" not in json.dumps(shown)
    assert (await counter.serve("proxies", format="names"))["output"] == "web\n"
    assert (await counter.serve("proxy_stop", grant="web"))["stopped"] == ["web"]
    assert (await counter.serve("proxies"))["proxies"] == [] and "web" in counter.keyholder.grants.known
    with pytest.raises(avault.NotFound, match="has no proxy"):
        await counter.serve("proxy_stop", grant="web")
    await start(counter)  # and again
    assert (await counter.serve("proxy_stop"))["stopped"] == ["web"]


async def test_no_log_has_its_token(counter: Counter) -> None:
    await counter.grant()
    assert (await start(counter, port=0))["token"] == "the-token"
    written = "".join(Path(counter.places.own(each)).read_text() for each in ("access.log", "log.json"))
    assert "the-token" not in written and "proxy_start" in written


@pytest.mark.parametrize("how", ["revoke", "process"])
async def test_it_ends_with_its_grant_and_with_its_process(counter: Counter, how: str) -> None:
    """When `revoke` answers, the supervisor was told to kill it, before all else."""
    grant = await counter.grant()
    await start(counter)
    [number] = counter.brokers
    if how == "revoke":
        await counter.serve("revoke", name="web")
        over, closed = (counter.told.index(each) for each in (
            {"broker": number, "is_over": True}, {"grant": "close", "identity": grant.identity}))  # fmt: skip
        assert over < closed
    else:
        counter.brokers[number].close()
        async with asyncio.timeout(60):
            while counter.keyholder.brokers.standing:
                await asyncio.sleep(0.01)
        assert {"broker": number, "is_over": True} in counter.told
    await asyncio.sleep(0.01)
    assert not counter.keyholder.brokers.standing and not counter.keyholder.brokers.through


async def test_a_grant_that_ends_while_its_proxy_starts(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    grant = await counter.grant()
    meet = avault.meet

    async def meet_late(door: socket.socket, pid: int) -> socket.socket:
        counter.keyholder.grants.end([grant])
        return await meet(door, pid)

    monkeypatch.setattr(avault, "meet", meet_late)
    with pytest.raises(avault.AvaultError):
        await start(counter)
    assert not counter.keyholder.brokers.standing and not counter.keyholder.brokers.through


async def test_how_many_a_grant_has(counter: Counter) -> None:
    grant = await counter.grant()
    brokers = counter.keyholder.brokers
    for _ in range(brokers.MOST_OF_GRANT):
        await brokers.start({}, counter.begin(grant).use, lambda told: None, grant)
    with pytest.raises(avault.Unavailable, match="too many"):
        await start(counter)
    await brokers.start({}, counter.begin().use, lambda told: None)


@pytest.mark.parametrize("fields", [{"port": -1}, {"port": 70000}, {"port": "1"}, {"grant": "a/b"}, {"also": []}, {"tcp": True}])
async def test_fields_of_start_that_are_none(counter: Counter, fields: dict[str, Any]) -> None:
    await counter.grant()
    with pytest.raises(avault.Usage):
        await counter.serve("proxy_start", **{"grant": "web", **fields})
    with pytest.raises(avault.NotFound, match="no grant nobody"):
        await counter.serve("proxy_start", grant="nobody")


# the phone


async def test_the_first_use_of_a_host_asks_in_words(counter: Counter) -> None:
    session = counter.begin(ask=True)
    asked = [asyncio.create_task(counter.use(session)) for _ in range(6)]
    said = await counter.agree()
    assert f"curl (pid 1) on {counter.holding.host} wants to use {NAME} of test@machine by the proxy, for the first time" in said
    assert "with this host: POST api.openai.com/v1/chat, code " in said
    assert [each["value"] for each in await asyncio.gather(*asked)] == [VALUE] * 6
    assert (await counter.use(session, path="/v1/other"))["ok"] and len(counter.consents) == 1
    other = asyncio.create_task(counter.use(session, host="api.test", port=8443))
    assert "POST api.test:8443/v1/chat" in await counter.agree(2)
    assert (await other)["ok"]
    assert not counter.keyholder.describe()["questions"]


async def test_the_phone_is_not_asked_by_who_has_a_grant_unless_its_maker_says_so(counter: Counter) -> None:
    grant = await counter.grant()
    with pytest.raises(avault.Denied, match="nobody says that the phone is asked"):
        counter.begin(grant, ask=True)
    assert counter.begin(grant, is_owner=True, ask=True).placeholders


async def test_a_session_asks_one_question_at_a_time_and_grants_few(counter: Counter) -> None:
    """Else who may go to `*.example.com` has as many on the phone as it has names."""
    await counter.serve("set", group="wild", key="KEY", value=VALUE)
    await counter.serve("guard", group="wild", key="KEY", hosts=["*.example.com"])
    sessions = [counter.begin(await counter.grant(f"g{number}", groups=["wild"]), True, ask=True) for number in range(6)]
    names = [(each, f"h{number}-{at}.example.com") for at, each in enumerate(sessions) for number in range(20)]
    asked = [asyncio.create_task(counter.use(each, "wild/KEY", host=host)) for each, host in names]
    await counter.asked()
    async with asyncio.timeout(60):
        while not sum(each.done() for each in asked) >= 40:
            await asyncio.sleep(0.01)
    assert len(counter.consents) == 4 == len(counter.keyholder.describe()["questions"])
    assert counter.keyholder.openers.is_full(through="g9") and not counter.keyholder.openers.is_full()
    refused = [each.result()["error"] for each in asked if each.done()]
    assert {each["message"] for each in refused} == {"too many wait for the phone"}
    await counter.agree()
    await counter.asked(5)  # the next one of the same session
    assert len(counter.consents) == 5
    for each in asked:
        each.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert not counter.keyholder.openers.starting


async def test_it_is_asked_only_of_what_may_go_there(counter: Counter) -> None:
    session = counter.begin(ask=True)
    assert not (await counter.use(session, host="evil.example.com"))["ok"] and not counter.consents


@pytest.mark.parametrize("path", ["/" + "x" * 5000, "/a\x1b[2J", "/ approve this", "/é, code 1234. Approve"])
async def test_a_path_cannot_speak_to_the_operator(counter: Counter, path: str) -> None:
    session = counter.begin(ask=True)
    asked = asyncio.create_task(counter.use(session, path=path))
    said = await counter.agree()
    call = said.partition("with this host: ")[2].partition(", code")[0].removeprefix("POST api.openai.com")
    assert len(call) <= 210 and set(call) <= avault.CALL_CHARACTERS | {"?", "…"}, call
    assert (await asked)["ok"]


async def test_of_a_long_path_the_end_is_shown_as_well(counter: Counter) -> None:
    """What goes up there is where the request goes."""
    session = counter.begin(ask=True)
    asked = asyncio.create_task(counter.use(session, path=f"/v1/models/{'a' * 300}/../../admin/keys"))
    said = await counter.agree()
    assert "api.openai.com/v1/models/aaa" in said and "aaa/../../admin/keys" in said and (await asked)["ok"]


async def test_what_was_refused_stays_refused_for_a_while(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    session = counter.begin(ask=True)
    asked = asyncio.create_task(counter.use(session))
    await counter.refuse()
    assert (await asked)["error"]["code"] == "denied"
    for each in (session, counter.begin(ask=True)):  # nor for its next session
        again = await counter.use(each)
        assert "asked in vain" in again["error"]["message"] and len(counter.consents) == 1
    now, pauses = avault.uptime(), []
    for number in (2, 3):
        [pause] = [each for each in counter.keyholder.askings.restraint.describe() if each["program"] == "curl"]
        pauses.append(avault.ASK_PAUSES[number - 2])
        now += pauses[-1] + 1
        monkeypatch.setattr(avault, "uptime", lambda now=now: now)
        asked = asyncio.create_task(counter.use(session))
        await counter.refuse(number)
        assert (await asked)["error"]["code"] == "denied" and pause
    assert pauses == [30.0, 120.0]


async def test_who_leaves_takes_the_question_along(counter: Counter) -> None:
    """Of several that wait, the last one; it was asked in vain then."""
    session = counter.begin(ask=True)
    first, second = (asyncio.create_task(counter.use(session)) for _ in range(2))
    _, _, answer = await counter.asked()
    first.cancel()
    await asyncio.sleep(0.01)
    assert not answer.done()
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    await asyncio.sleep(0.01)
    assert answer.cancelled() and not session.consent.questions and not counter.keyholder.describe()["questions"]
    assert counter.keyholder.askings.restraint.describe()


async def test_nobody_answers_in_time(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault, "PROXY_ASK_TIME", 0.05)
    assert (await counter.use(counter.begin(ask=True)))["error"]["code"] == "timed_out"


async def test_a_lock_while_it_is_asked(counter: Counter) -> None:
    asked = asyncio.create_task(counter.use(counter.begin(ask=True)))
    await counter.asked()
    counter.keyholder.ended.set()
    await counter.agree()
    assert (await asked)["error"]["code"] == "locked"


async def test_a_guard_that_comes_while_it_is_asked(counter: Counter) -> None:
    session = counter.begin(ask=True)
    asked = asyncio.create_task(counter.use(session))
    await counter.asked()
    await counter.serve("guard", group="openai", key="API_KEY", methods=["GET"])
    await counter.agree()
    assert "may not be used by POST" in (await asked)["error"]["message"]


async def test_a_grant_that_asks_does_so_at_the_first_request(counter: Counter) -> None:
    grant = await counter.grant(ask=True)
    session = counter.begin(grant)
    asked = asyncio.create_task(counter.use(session))
    assert "wants to begin using the grant web of test@machine, for all of openai" in await counter.agree()
    assert (await asked)["value"] == VALUE and not grant.asks


async def read_end(answer: dict[str, Any]) -> dict[str, Any]:
    """What the proxy's process reads, of a secret that was opened."""
    with answer["end"] as end:
        end.setblocking(False)
        found = await avault.read_frame(end)
        return {"values": {f"{each['group']}/{each['key']}": each["value"] for each in found["secrets"]}}


async def test_a_sealed_secret_is_opened_for_one_request_and_the_keyholder_never_has_it(counter: Counter) -> None:
    await counter.seal()
    session = counter.begin(only=[ASKED_OF])
    assert session.placeholders.keys() == {ASKED_OF} and session.variables
    for number in (1, 3):
        asked = asyncio.create_task(counter.use(session, ASKED_OF))
        said = await counter.man.approve(number)
        assert "wants asked/KEY of test@machine, to send it by the proxy: POST api.openai.com/v1/chat" in said
        await counter.man.approve(number + 1)
        answer = await asked
        assert answer["ok"] and "value" not in answer
        assert (await read_end(answer))["values"][ASKED_OF] == SEALED
    assert counter.holding.store and SEALED not in counter.holding.store.vault.to_json()


async def test_each_use_is_agreed_to_with_its_whole_path(counter: Counter) -> None:
    """What the phone does not show, it does not agree to: the middle of a long path may say anything. It is no use."""
    await counter.seal()
    session = counter.begin(only=[ASKED_OF])
    shown = "/v1/" + "a" * (avault.SHOWN_PATH - 4)
    for path in (f"{shown}b", f"/v1/models/{'a' * 400}/delete/{'b' * 90}"):
        refused = (await counter.use(session, ASKED_OF, path=path))["error"]
        assert refused["code"] == "denied" and "shows no longer one" in refused["message"] and "--ask 15m" in refused["hint"]
    assert not counter.keyholder.askings.questions
    asked = asyncio.create_task(counter.use(session, ASKED_OF, path=shown))
    assert f"api.openai.com{shown}" in await counter.man.approve(1)
    await counter.man.approve(2)
    assert (await read_end(await asked))["values"][ASKED_OF] == SEALED


async def test_the_last_use_of_a_sealed_secret_is_one(counter: Counter) -> None:
    """It is counted when it is opened: that none is left then keeps it from nothing."""
    await counter.serve("set", group="asked", key="KEY", value=SEALED)
    await counter.serve("guard", group="asked", key="KEY", hosts=["api.openai.com"], ask=900, times=2)
    session = counter.begin(only=[ASKED_OF])
    asked = asyncio.create_task(counter.use(session, ASKED_OF))
    await counter.man.approve(1)
    await counter.man.approve(2)
    assert (await read_end(await asked))["values"][ASKED_OF] == SEALED
    asked = asyncio.create_task(counter.use(session, ASKED_OF))  # of what stays open
    answer = await asked
    assert answer.get("ok") and (await read_end(answer))["values"][ASKED_OF] == SEALED
    assert "as often as it may" in (await counter.use(session, ASKED_OF))["error"]["message"]


async def test_one_approval_is_good_for_this_session_and_host_alone(counter: Counter) -> None:
    """And for no `get` by the same program: the phone has agreed to a use, not to the value."""
    await counter.seal("15m")
    session = counter.begin(only=[ASKED_OF])
    asked = asyncio.create_task(counter.use(session, ASKED_OF))
    assert "and again for 15 m" in await counter.man.approve(1)
    await counter.man.approve(2)
    await read_end(await asked)
    again = await counter.use(session, ASKED_OF, path="/v1/other")
    assert (await read_end(again))["values"][ASKED_OF] == SEALED and len(counter.man.questions) == 2
    other = asyncio.create_task(counter.use(counter.begin(only=[ASKED_OF]), ASKED_OF))
    client = await counter.begin_client("get", group="asked", key="KEY")
    await counter.man.asked(3)
    await counter.man.refuse(3)
    assert not (await other)["ok"]
    client.close()
    session.consent.end()
    assert not [each for each in counter.keyholder.askings.staying.values() if not each.assignment.is_gone]


async def test_one_approval_is_good_for_the_place_in_a_request_that_the_phone_has_shown(counter: Counter) -> None:
    """What an API is sent in a body, it may show to others: who agreed to a header, has not agreed to that."""
    await counter.serve("set", group="asked", key="KEY", value=SEALED)
    hosts = ["api.openai.com", "body@api.openai.com"]
    await counter.serve("guard", group="asked", key="KEY", hosts=hosts, ask=900)
    session = counter.begin(only=[ASKED_OF])
    for number, places, shown in ((1, ["header"], "/v1/chat, "), (3, ["body"], "/v1/chat (body), ")):
        asked = asyncio.create_task(counter.use(session, ASKED_OF, **{"in": places}))
        assert shown in (await counter.man.approve(number)).replace(";", ",")
        await counter.man.approve(number + 1)
        await read_end(await asked)
    for places in (["header"], ["body"]):
        again = await counter.use(session, ASKED_OF, **{"in": places})
        assert (await read_end(again))["values"][ASKED_OF] == SEALED and len(counter.man.questions) == 4


async def test_a_refusal_of_a_sealed_secret(counter: Counter) -> None:
    await counter.seal()
    session = counter.begin(only=[ASKED_OF])
    asked = asyncio.create_task(counter.use(session, ASKED_OF))
    await counter.man.refuse(1)
    assert (await asked)["error"]["code"] == "denied"
    assert "asked in vain" in (await counter.use(session, ASKED_OF))["error"]["message"]
    assert counter.lines("refused.log")[-1]["host"] == "api.openai.com"


async def test_a_guard_that_comes_while_a_sealed_secret_is_opened(counter: Counter) -> None:
    await counter.seal()
    session = counter.begin(only=[ASKED_OF])
    asked = asyncio.create_task(counter.use(session, ASKED_OF))
    await counter.man.approve(1)
    await counter.man.asked(2)
    await counter.serve("guard", group="asked", key="KEY", methods=["GET"])
    await counter.man.approve(2)
    assert (await asked)["error"]["code"] == "denied"


# what one request wants

TWO = {"openai/API_KEY": ["header"], "other/KEY": ["header"]}


async def test_one_request_is_one_use_of_each_secret_and_of_the_grant(counter: Counter) -> None:
    """In however many places a secret is; two secrets are one each."""
    grant = await counter.grant(groups=["many", "other"], times=3)
    await counter.serve("set", group="many", key="KEY", value=VALUE)
    await counter.serve("guard", group="many", key="KEY", times=2, hosts=["api.openai.com", "path@api.openai.com"])
    session, two = counter.begin(grant, prefix=True), {"many/KEY": ["header"], "other/KEY": ["header"]}
    answer = await session.use({"names": {"many/KEY": ["path", "header"]}, **CALL})
    assert answer["values"] == {"many/KEY": VALUE} and grant.times == 2
    answer = await session.use({"names": two, **CALL})
    assert answer["values"] == {"many/KEY": VALUE, "other/KEY": "other-value-0123"} and grant.times == 1
    assert "as often as it may" in (await session.use({"names": two, **CALL}))["error"]["message"]
    assert grant.times == 1 and (await counter.use(session, "other/KEY"))["ok"] and grant.times == 0
    first, second = counter.lines("access.log")[-3:-1]
    assert (first["group"], first["keys"], first["place"]) == ("many", ["KEY"], "path and header")
    assert (second["group"], second["keys"]) == (None, ["many/KEY", "other/KEY"])


async def test_a_guard_of_a_group_counts_a_request_once(counter: Counter) -> None:
    await counter.serve("set", group="openai", key="ORG", value=VALUE)
    await counter.serve("guard", group="openai", hosts=["api.openai.com"], times=1)
    session = counter.begin()
    assert (await session.use({"names": {NAME: ["header"], "openai/ORG": ["header"]}, **CALL}))["ok"]
    assert "as often as it may" in (await counter.use(session))["error"]["message"]


async def test_of_what_one_request_wants_none_is_given_where_one_is_refused(counter: Counter) -> None:
    await counter.serve("guard", group="other", key="KEY", methods=["GET"])
    await counter.serve("guard", group="openai", key="API_KEY", times=1)
    session = counter.begin()
    answer = await session.use({"names": TWO, **CALL})
    assert "other/KEY may not be used by POST" in answer["error"]["message"] and VALUE not in str(answer)
    assert (await counter.use(session))["ok"], "it was no use"


async def test_one_question_names_all_that_a_request_wants(counter: Counter) -> None:
    session = counter.begin(ask=True)
    asked = asyncio.create_task(session.use({"names": TWO, **CALL}))
    assert "wants to use openai/API_KEY, other/KEY of test@machine by the proxy, for the first time" in await counter.agree()
    assert (await asked)["values"].keys() == TWO.keys()
    assert (await counter.use(session, "other/KEY"))["ok"] and len(counter.consents) == 1


async def test_what_is_agreed_to_is_a_secret_where_it_stands(counter: Counter) -> None:
    """That another secret of the request stood in its query, says nothing of this one."""
    for key in ("ONE", "TWO"):
        await counter.serve("set", group="both", key=key, value=VALUE)
    await counter.serve("guard", group="both", hosts=["api.openai.com", "query@api.openai.com"])
    session = counter.begin(ask=True)
    for number, (one, two) in enumerate((("header", "query"), ("query", "header")), 1):
        asked = asyncio.create_task(session.use({"names": {"both/ONE": [one], "both/TWO": [two]}, **CALL}))
        assert "both/ONE, both/TWO" in await counter.agree(number)
        assert (await asked)["ok"]


async def test_sealed_ones_of_a_request_are_one_question_and_come_with_the_others(counter: Counter) -> None:
    """Not one for each: who wants what is asked once. Each is opened by an answer of its own."""
    await counter.seal()
    await counter.serve("set", group="asked", key="ID", value=f"{SEALED}-id")
    await counter.serve("guard", group="asked", key="ID", hosts=["api.openai.com"], ask=0)
    session = counter.begin(groups=["asked", "openai"])
    wanted = {"asked/ID": ["header"], "asked/KEY": ["header"], NAME: ["header"]}
    asked = asyncio.create_task(session.use({"names": wanted, **CALL}))
    said = await counter.man.approve(1)
    assert "wants asked/ID, asked/KEY of test@machine, to send it by the proxy: POST api.openai.com/v1/chat" in said
    for number in (2, 3):
        await counter.man.approve(number)
    assert (await read_end(await asked))["values"] == {"asked/ID": f"{SEALED}-id", "asked/KEY": SEALED, NAME: VALUE}
    assert len(counter.man.questions) == 3


# by chance


HOSTS = ["a.example.com", "*.b.example.com", "c.example.com:8443"]
ASKED_HOSTS = [
    ("a.example.com", 443),
    ("x.b.example.com", 443),
    ("b.example.com", 443),
    ("c.example.com", 8443),
    ("c.example.com", 443),
]
PATHS = ["/*", "/v1/*", "/v1/chat"]
METHODS = ["GET", "POST"]


def some(dice: random.Random, among: list[str]) -> list[str]:
    return sorted(dice.sample(among, dice.randint(1, len(among))))


def is_host(host: str, port: int, pattern: str) -> bool:
    """As the documents say it."""
    name, _, number = pattern.partition(":")
    fits = host == name if name[:2] != "*." else host.count(".") == name.count(".") and host.endswith(name[1:])
    return fits and port == int(number or 443)


def is_path(path: str, pattern: str) -> bool:
    """As the documents say it."""
    return path == pattern or (pattern[-1] == "*" and path.startswith(pattern[:-1]))


@pytest.mark.proof
async def test_guards_and_grants_by_chance_let_out_what_all_of_them_let_and_nothing_else(counter: Counter) -> None:
    """Against what the documents say of each rule, one by one."""
    store, dice, came = counter.holding.store, random.Random(13), 0
    assert store
    plain = store.vault
    for number in range(1500):
        vault, guards, named = plain.copy(), [], dict[str, bool]()
        vault.facts = {name: fact for name, fact in vault.facts.items() if not name.startswith("guard")}
        for _ in range(dice.randint(0, 3)):
            rules: dict[str, Any] = {"hosts": some(dice, HOSTS)} if dice.random() < 0.95 else {}
            rules |= {"methods": some(dice, METHODS)} if dice.random() < 0.4 else {}
            rules |= {"paths": some(dice, PATHS)} if dice.random() < 0.4 else {}
            rules |= {"only": [["proxy"], ["run"], []][dice.randrange(3)]} if dice.random() < 0.15 else {}
            if rules:
                on = dice.choice(["openai", NAME, "plain"])
                guards += [rules] if on != "plain" else []
                named[on] = named.get(on, on == "plain") or "hosts" in rules
                avault.add_guard(vault, on, rules, number + 1, f"m{dice.random()}")
        store.vault = vault
        grant = avault.Grant("web", dice.choice([["openai"], ["plain"]]), [], some(dice, ["get", "run", "proxy", "sign"]))
        grant.times = times = dice.choice([None, None, 0, 1])
        host, port = dice.choice(ASKED_HOSTS)
        path, method = dice.choice(["/v1/chat", "/v1/other", "/v2", "/v1/../x"]), dice.choice(METHODS)
        try:
            session = counter.begin(grant)
        except avault.AvaultError:
            session = None
        answer = await counter.use(session, host=host, port=port, path=path, method=method) if session else {"ok": False}
        sets = [rules["hosts"] for rules in guards if "hosts" in rules]
        meant = "openai" in grant.share.groups and "proxy" in grant.share.can and times != 0
        meant = meant and bool(sets) and all(named.values())  # each place that is guarded says to where
        meant = meant and all(any(is_host(host, port, each) for each in one) for one in sets)
        meant = meant and all("proxy" in rules.get("only", ["proxy"]) for rules in guards)
        meant = meant and all(method in rules.get("methods", METHODS) for rules in guards)
        paths = [rules["paths"] for rules in guards if "paths" in rules]
        meant = meant and all(any(is_path(path, each) for each in one) for one in paths)
        meant = meant and not (paths and ".." in path)
        assert answer["ok"] is bool(meant), json.dumps([answer, number, guards, grant.describe(), host, port, method, path])
        came += answer["ok"]
    assert came > 25


@pytest.mark.proof
async def test_64_callers_while_their_grants_are_revoked(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the line that says so, no line of the log lets that grant use anything; each caller's stream is cut."""
    monkeypatch.setattr(avault.Brokers, "MOST", 200)
    await counter.serve("guard", group="openai", key="API_KEY", times=100_000)  # each use is written, and takes its time
    dice = random.Random(64)
    for number in range(64):
        await counter.grant(f"g{number}")
        told = await counter.serve("proxy_start", grant=f"g{number}")
        assert told["names"]
    streams, got = [*counter.brokers.values()], [0] * 64

    async def call(number: int) -> None:
        """A proxy's process that asks without a pause, until it is cut."""
        loop, each = asyncio.get_running_loop(), streams[number]
        try:
            for count in range(100_000):
                await loop.sock_sendall(each, avault.encode_frame({"use": count, "names": {NAME: ["header"]}, **CALL}))
                while True:
                    answer = await avault.read_frame(each)
                    if answer.get("id") == count:
                        break
                assert answer.get("ok") or answer["error"]["code"] in ("denied", "locked"), answer
                got[number] += bool(answer.get("ok"))
        except (OSError, avault.AvaultError):
            pass

    callers = [asyncio.create_task(call(number)) for number in range(64)]
    for number in dice.sample(range(64), 64):
        await asyncio.sleep(dice.random() / 50)
        await counter.serve("revoke", name=f"g{number}")
    async with asyncio.timeout(30):
        await asyncio.gather(*callers)
    revoked = set()
    for line in counter.lines("access.log"):
        if line["op"] == "revoke":
            revoked.add(line["for"])
        assert line["op"] != "proxy" or line["grant"] not in revoked, line
    assert len(revoked) == 64 and sum(got) > 64 and not counter.keyholder.brokers.through
