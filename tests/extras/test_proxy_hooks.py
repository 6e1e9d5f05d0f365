"""What is done in mitmproxy's place, so that a request takes less time: it lets nothing by."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import avault

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

from api_server import Api
from mitmproxy.proxy.layers import http as layers
from mitmproxy.test import tflow
from test_proxy_traps import BEARER, VALUE, Running, engine, get, scrub

hooks_of = engine.proxy_hooks


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, api: Api) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("s"), api)
    running.values["openai/API_KEY"] = VALUE
    yield running
    running.end()


@pytest.mark.parametrize("hook", ["requestheaders", "request", "responseheaders", "response"])
def test_a_hook_that_fails_lets_nothing_by(proxy: Running, monkeypatch: pytest.MonkeyPatch, hook: str) -> None:
    """mitmproxy by itself goes on as if the hook had nothing to do: with a value that nobody took out of an answer."""

    def fail(flow: Any) -> None:
        raise KeyError(VALUE)

    monkeypatch.setattr(proxy.gate if hook.startswith("request") else proxy.gate.answers, hook, fail)
    answer = proxy.send(get("/echo", BEARER))
    assert VALUE.encode() not in answer
    assert hook == "response" or b" 200 " not in answer  # then, the body is out already, without the value
    monkeypatch.undo()
    assert b" 200 " in proxy.send(get("/echo", BEARER))


def test_what_nothing_escapes_is_written_in_one_way() -> None:
    plain = "".join(filter(scrub.PLAIN.fullmatch, map(chr, range(128))))
    assert len(plain) == 66 and {*scrub.list_spellings(plain)} == {plain}
    assert len(scrub.list_forms(plain)) == len(scrub.list_forms("&é"))


def test_a_hook_that_would_wait_where_nobody_does_ends_the_request() -> None:
    """Else it would be taken for done: with an answer that nobody has looked through."""

    class Slow:
        async def response(self, flow: Any) -> None:
            await asyncio.sleep(0)

    flow = tflow.tflow(resp=True)
    flow.live = True
    hooks_of.Hooks([Slow()]).call_at_once(layers.HttpResponseHook(flow))
    assert flow.error and flow.error.msg == flow.error.KILLED_MESSAGE


def test_most_hooks_pass_no_layers(proxy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what may ask for a value goes mitmproxy's way, and waits."""
    slow, quick = list[str](), list[str]()
    hooks, call = hooks_of.WatchedStream.hooks, hooks_of.WatchedStream.hooks.call_at_once
    monkeypatch.setattr(hooks, "call_at_once", lambda hook: (quick.append(hook.name), call(hook)))
    whole = proxy.engine.master.addons.handle_lifecycle

    async def note(hook: Any) -> None:
        slow.append(hook.name)
        await whole(hook)

    monkeypatch.setattr(proxy.engine.master.addons, "handle_lifecycle", note)
    assert b" 200 " in proxy.send(get("/echo", BEARER))
    assert quick == ["request", "responseheaders", "response"]
    assert not {*slow} & {*quick} and "requestheaders" in slow


def test_an_answer_to_what_was_not_let_through_ends_there(proxy: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever may have kept a request from being looked at: with it, what to take out of its answer is not known."""

    async def forget(flow: Any) -> None:
        flow.request.stream = True

    monkeypatch.setattr(proxy.gate, "requestheaders", forget)
    answer = proxy.send(get("/echo", f"Authorization: Bearer {VALUE}".encode()))
    assert answer == b"" and "not let through" in proxy.refused[-1]["why"]
    monkeypatch.undo()
    proxy.values["openai/API_KEY"] = avault.Denied("no more")
    assert b"no more" in proxy.send(get("/echo", BEARER))
    proxy.values["openai/API_KEY"] = VALUE
