"""What the keyholder decides of the proxy: who gets placeholders, and which request a value. No process, no mitmproxy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from proxy_use import use_one
from test_keyholder_alone import Desk

import avault

VALUE = "sk-proj-Abcdefghijklmnopqrst0123456789"
ASKED = {"host": "api.openai.com", "port": 443, "method": "GET", "path": "/v1/models"}


class Counter(Desk):
    """A keyholder with keys: one with a host, one without, one whose use the phone is asked of."""

    async def fill(self) -> None:
        await self.open()
        for name, value in (("openai/API_KEY", VALUE), ("plain/TOKEN", "plain-value-0123"), ("lines/KEY", "one\ntwo-0123456")):
            group, key = name.split("/")
            await self.serve("set", group=group, key=key, value=value)
        await self.guard("openai/API_KEY", hosts=["api.openai.com"])

    async def guard(self, name: str, **rules: Any) -> None:
        group, key = name.split("/")
        assert not (await self.serve("guard", group=group, key=key, **rules))["weakens"]

    def begin(self, **request: Any) -> avault.ProxiedUses:
        return avault.ProxiedUses(self.keyholder, self.session, request)

    async def use(self, session: avault.ProxiedUses, name: str = "openai/API_KEY", **asked: Any) -> dict[str, Any]:
        return await use_one(session, name, ASKED, asked)

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in Path(self.places.own(name)).read_text().splitlines()]


@pytest.fixture
async def counter(tmp_path: Path) -> AsyncIterator[Counter]:
    counter = Counter(tmp_path)
    await counter.fill()
    yield counter
    counter.close()


async def test_who_names_nothing_gets_what_goes_to_a_host(counter: Counter) -> None:
    session = counter.begin()
    assert session.variables == {"API_KEY": "openai/API_KEY"} and not session.rest
    assert session.placeholders.keys() == {"openai/API_KEY"} and VALUE not in session.placeholders.values()
    told = session.to_broker(True)
    assert VALUE not in json.dumps(told) and told["secrets"][0]["hosts"] == [["api.openai.com"]]


async def test_what_is_named_and_goes_to_no_host_is_left_to_run(counter: Counter) -> None:
    session = counter.begin(only=["plain/TOKEN", "API_KEY"])
    assert session.rest == ["plain/TOKEN"] and session.others == {"TOKEN": "plain/TOKEN"}
    assert session.placeholders.keys() == {"openai/API_KEY"}


async def test_a_host_may_be_given_for_a_session(counter: Counter) -> None:
    session = counter.begin(hosts=["plain/TOKEN=api.example.com"])
    assert session.placeholders.keys() == {"openai/API_KEY", "plain/TOKEN"}
    assert (await counter.use(session, "plain/TOKEN", host="api.example.com"))["value"] == "plain-value-0123"
    assert not (await counter.use(session, "plain/TOKEN", host="api.openai.com"))["ok"]


async def test_what_is_given_does_not_widen_a_guard(counter: Counter) -> None:
    session = counter.begin(hosts=["openai/API_KEY=evil.example.com"])
    for host in ("evil.example.com", "api.openai.com"):
        answer = await counter.use(session, host=host)
        assert answer["error"]["code"] == "denied"


@pytest.mark.parametrize(
    "text", ["openai/API_KEY", "openai=api.example.com", "openai/API_KEY=", "openai/API_KEY=a b", "openai/API_KEY=https://x"]
)
async def test_hosts_that_are_none(counter: Counter, text: str) -> None:
    with pytest.raises(avault.Usage):
        counter.begin(hosts=[text])


async def test_fields_that_are_none(counter: Counter) -> None:
    with pytest.raises(avault.Usage):
        counter.begin(egress="all")
    with pytest.raises(avault.Usage, match="no such field"):
        await counter.serve("proxy", host=["openai/API_KEY=x.example.com"])


@pytest.mark.parametrize(
    "asked",
    [
        {"host": "api.openai.com.evil.example"},
        {"host": "evil-api.openai.com"},
        {"host": "openai.com"},
        {"port": 8443},
        {"host": "10.0.0.1"},
        {"path": None},
        {"port": "443"},
    ],
)
async def test_only_the_host_of_the_rule_gets_it(counter: Counter, asked: dict[str, Any]) -> None:
    session = counter.begin()
    answer = await counter.use(session, **asked)
    assert not answer["ok"] and VALUE not in json.dumps(answer)
    assert counter.lines("refused.log")[-1]["op"] == "proxy"


async def test_methods_and_paths(counter: Counter) -> None:
    await counter.guard("openai/API_KEY", methods=["GET"], paths=["/v1/*"])
    session = counter.begin()
    assert (await counter.use(session))["value"] == VALUE
    for asked in (
        {"method": "POST"},
        {"path": "/v2/models"},
        {"path": "/v1/../v2"},
        {"path": "/v1/%2e%2e/v2"},
        {"path": "/v1/a%2fb"},
        {"path": "/v1//x"},
        {"path": "/v1/x;y"},
        {"path": "/v1\\x"},
        *({"path": f"/v1/a{each}b"} for each in ("%25", "%3F", "%23", "%0a", "%0D", "%09", "%20", "%u0041", "%c0%af", "%E2")),
    ):
        assert (await counter.use(session, **asked))["error"]["code"] == "denied"


async def test_times_and_until_count_for_each_request(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    await counter.guard("openai/API_KEY", times=2)
    session = counter.begin()
    for _ in range(2):
        assert (await counter.use(session))["ok"]
    assert "as often as it may" in (await counter.use(session))["error"]["message"]


async def test_a_time_that_is_over(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    await counter.guard("openai/API_KEY", until=int(avault.time.time()) + 100)
    session = counter.begin()
    assert (await counter.use(session))["ok"]
    later = avault.time.time() + 200
    monkeypatch.setattr(avault.time, "time", lambda: later)
    assert "time is over" in (await counter.use(session))["error"]["message"]


async def test_what_came_while_the_last_use_was_counted(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    """That none is left is no fault then; that the time is over is one."""
    await counter.guard("openai/API_KEY", times=1, until=int(avault.time.time()) + 100)
    session, change = counter.begin(), counter.keyholder.change

    async def change_late(function: Any) -> Any:
        answer = await change(function)
        later = avault.time.time() + 200
        monkeypatch.setattr(avault.time, "time", lambda: later)
        return answer

    monkeypatch.setattr(counter.keyholder, "change", change_late)
    assert (await counter.use(session))["error"]["code"] == "denied"


async def test_what_is_refused_keeps_no_vault_open(counter: Counter) -> None:
    """Else who asks for what is refused, also without the token, keeps it from being locked when it is idle."""
    session, autolock = counter.begin(), counter.keyholder.holding.autolock
    autolock.used = 0.0
    session.note_refused({"host": "evil.example", "method": "GET", "why": "no rule names it", "code": "denied"})
    assert not (await counter.use(session, host="evil.example.com"))["ok"]
    assert [line["op"] for line in counter.lines("refused.log")[-2:]] == ["proxy", "proxy"] and autolock.used == 0.0
    assert (await counter.use(session))["ok"] and autolock.used > 0


async def test_a_guard_counts_for_a_session_that_is_under_way(counter: Counter) -> None:
    session = counter.begin()
    assert (await counter.use(session))["ok"]
    await counter.guard("openai/API_KEY", methods=["POST"])
    assert not (await counter.use(session))["ok"]
    await counter.serve("delete", group="openai", key="API_KEY")
    assert (await counter.use(session, method="POST"))["error"]["code"] == "not_found"


async def test_only_proxy_is_refused_to_all_else(counter: Counter) -> None:
    await counter.guard("plain/TOKEN", only=["proxy"])
    with pytest.raises(avault.Denied, match="only proxy") as refused:
        await counter.serve("get", group="plain", key="TOKEN")
    assert "avault run --proxy" in (refused.value.hint or "")
    for given in ([], ["plain/TOKEN=evil.example.com"]):  # who asks for it does not say where to
        with pytest.raises(avault.Denied, match="no host is named by its guard"):
            counter.begin(only=["plain/TOKEN"], hosts=given)
    told = await counter.serve("guard", group="plain", key="TOKEN", hosts=["evil.example.com"])
    assert told["weakens"], "nor does who names it by a guard, unless the operator agrees"
    with pytest.raises(avault.Denied, match="no host is named by its guard"):
        counter.begin(only=["plain/TOKEN"])
    named = avault.check_rules({"hosts": ["api.example.com"]}, 0)
    agreed = avault.GuardChange(counter.keyholder.open_store().vault, "plain/TOKEN", named)
    await counter.keyholder.change(agreed.make("m"))
    session = counter.begin(only=["plain/TOKEN"], hosts=["plain/TOKEN=api.example.com"])
    assert (await counter.use(session, "plain/TOKEN", host="api.example.com"))["ok"]


async def test_a_group_for_the_proxy_is_escaped_by_no_host_on_a_key(counter: Counter) -> None:
    assert not (await counter.serve("guard", group="plain", only=["proxy"]))["weakens"]
    await counter.guard("plain/TOKEN", hosts=["evil.example.com"])
    with pytest.raises(avault.Denied, match="no host is named by its guard") as refused:
        counter.begin(only=["plain/TOKEN"])
    assert refused.value.hint == "avault guard plain --host HOST", "that of the group names none"


async def test_what_goes_out_in_other_ways_only(counter: Counter) -> None:
    await counter.guard("plain/TOKEN", only=["run"])
    with pytest.raises(avault.Denied):
        counter.begin(only=["plain/TOKEN"], hosts=["plain/TOKEN=api.example.com"])


async def test_values_that_no_header_carries(counter: Counter) -> None:
    with pytest.raises(avault.Denied, match="line ends"):
        counter.begin(hosts=["lines/KEY=api.example.com"])
    await counter.serve("set", group="short", key="PIN", value="1234567")
    with pytest.raises(avault.Denied, match="too short"):
        counter.begin(hosts=["short/PIN=api.example.com"])


async def test_a_name_that_is_not_of_the_session(counter: Counter) -> None:
    session = counter.begin()
    assert (await counter.use(session, "plain/TOKEN"))["error"]["code"] == "denied"


async def test_each_request_with_a_secret_is_a_line_of_the_log_before_it_goes(counter: Counter) -> None:
    session = counter.begin()
    await counter.use(session, path="/v1/models")
    line = counter.lines("access.log")[-1]
    assert {name: line[name] for name in ("op", "group", "keys", "host", "method", "path", "outcome")} == {
        "op": "proxy", "group": "openai", "keys": ["API_KEY"], "host": "api.openai.com", "method": "GET", "path": "/v1/models",
        "outcome": "ok",
    }  # fmt: skip
    shown = avault.render_line(json.dumps(line).encode())
    assert "proxy GET api.openai.com/v1/models openai/API_KEY" in shown


async def test_a_locked_vault_gives_nothing(counter: Counter) -> None:
    session = counter.begin()
    counter.keyholder.ended.set()
    assert (await counter.use(session))["error"]["code"] == "locked"


async def test_none_of_the_keys_goes_to_a_host(counter: Counter) -> None:
    with pytest.raises(avault.NotFound, match="nothing to send"):
        await counter.serve("proxy", only=["plain/TOKEN"])


async def test_where_python_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avault.sys, "version_info", (3, 11, 4))
    with pytest.raises(avault.Unavailable, match=r"needs Python 3\.12 or later, and the daemon runs on 3\.11"):
        avault.need_python()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("API.example.com", ("api.example.com", 443)),
        ("api.example.com.:8443", ("api.example.com", 8443)),
        ("bücher.example", ("xn--bcher-kva.example", 443)),
        ("[::1]:443", ("::1", 443)),
        ("[0:0::1]", ("::1", 443)),
    ],
)
def test_authorities(text: str, found: tuple[str, int]) -> None:
    assert avault.read_authority(text) == found


@pytest.mark.parametrize(
    "text", ["", "a@b", "a b", "a:b", "a:0", "a:65536", "a/b", "a..b", ".a", "[::1", "a:1:2", "*", "a\tb", "[x]"]
)
def test_what_is_no_authority(text: str) -> None:
    with pytest.raises(ValueError):
        avault.read_authority(text)


# where in a request


async def test_where_it_may_be_is_said_with_the_host(counter: Counter) -> None:
    await counter.guard("plain/TOKEN", hosts=["path@api.example.com", "body@api.example.com"])
    session = counter.begin()
    for places in (["path"], ["body"], ["body", "path"]):
        assert (await counter.use(session, "plain/TOKEN", host="api.example.com", **{"in": places}))[
            "value"
        ] == "plain-value-0123"
    for wrong in (["header"], ["query"], ["path", "header"], ["websocket"]):
        answer = await counter.use(session, "plain/TOKEN", host="api.example.com", **{"in": wrong})
        assert answer["error"]["code"] == "denied" and "of a request to api.example.com" in answer["error"]["message"]
    assert not (await counter.use(session, "plain/TOKEN", host="api.example.com"))["ok"]  # a header, where nothing is said
    for odd in ([], ["cookie"], "path", None, [["path"]], [1]):
        assert not (await counter.use(session, "plain/TOKEN", host="api.example.com", **{"in": odd}))["ok"]


async def test_of_two_guards_for_two_places_nothing_is_left(counter: Counter) -> None:
    """As after a merge: one machine had it in headers, the other in the path."""
    await counter.guard("plain/TOKEN", hosts=["api.example.com"])
    session = counter.begin(hosts=["plain/TOKEN=path@api.example.com"])
    for place in ("header", "path"):
        assert not (await counter.use(session, "plain/TOKEN", host="api.example.com", **{"in": [place]}))["ok"]


@pytest.mark.parametrize(
    "host", ["cookie@api.example.com", "header@api.example.com", "@api.example.com", "path@", "path@path@a.b"]
)
async def test_places_that_are_none(counter: Counter, host: str) -> None:
    with pytest.raises(avault.Usage):
        await counter.guard("plain/TOKEN", hosts=[host])


async def test_what_renews_a_token_is_in_no_request(counter: Counter) -> None:
    await counter.guard("plain/TOKEN", hosts=["refresh@api.example.com"])
    assert counter.begin().placeholders.keys() == {"openai/API_KEY"}
    assert counter.begin(groups=["plain", "openai"]).rest == []
    with pytest.raises(avault.Denied):
        counter.begin(hosts=["plain/TOKEN=body@api.example.com"])
    session = counter.begin()
    session.placeholders["plain/TOKEN"] = "x" * 24
    for place in ("refresh", "body", "header"):
        assert not (await counter.use(session, "plain/TOKEN", host="api.example.com", **{"in": [place]}))["ok"]


async def test_what_signs_is_in_no_place_of_a_request(counter: Counter) -> None:
    """An API that is sent it says it again, in forms that nobody takes out."""
    await counter.guard("plain/TOKEN", hosts=["sign@s3.example.com"])
    session = counter.begin(groups=["plain", "openai"])
    assert (await counter.use(session, "plain/TOKEN", host="s3.example.com", **{"in": ["sign"]}))["value"] == "plain-value-0123"
    assert counter.lines("access.log")[-1]["place"] == "sign"
    for places in (["header"], ["body"], ["sign", "header"]):
        answer = await counter.use(session, "plain/TOKEN", host="s3.example.com", **{"in": places})
        assert answer["error"]["code"] == "denied" and "plain-value" not in json.dumps(answer)
    answer = await counter.use(session, host="api.openai.com", **{"in": ["sign"]})  # nor does a header's key sign
    assert "sign requests to api.openai.com" in answer["error"]["message"]


@pytest.mark.parametrize(
    "hosts",
    [
        ["sign@s3.example.com", "s3.example.com"],
        ["sign@s3.example.com", "body@other.example.com"],
        ["sign@sts.amazonaws.com"],
        ["sign@sts-fips.us-east-1.amazonaws.com:443"],
        ["sign@*.iam.amazonaws.com"],
    ],
)
async def test_hosts_for_which_no_key_signs(counter: Counter, hosts: list[str]) -> None:
    with pytest.raises(avault.Usage):
        await counter.guard("plain/TOKEN", hosts=hosts)
    with pytest.raises(avault.Usage):
        counter.begin(hosts=[f"plain/TOKEN={each}" for each in hosts])
    on, rules = avault.read_rules(json.dumps({"on": "plain/TOKEN", "only": ["proxy"], "hosts": hosts}))
    assert on == "plain/TOKEN" and not rules.is_known  # as another machine may have it


async def test_a_pattern_of_hosts_signs_for_no_issuer(counter: Counter) -> None:
    session = counter.begin(hosts=["plain/TOKEN=sign@*.amazonaws.com"])
    assert (await counter.use(session, "plain/TOKEN", host="sqs.amazonaws.com", **{"in": ["sign"]}))["ok"]
    for host in ("sts.amazonaws.com", "iam.amazonaws.com"):
        answer = await counter.use(session, "plain/TOKEN", host=host, **{"in": ["sign"]})
        assert "gives out credentials" in answer["error"]["message"]
