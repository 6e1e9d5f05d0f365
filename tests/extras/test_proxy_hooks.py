"""What is done in mitmproxy's place, so that a request takes less time: it lets nothing by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

from api_server import Api
from test_proxy_traps import BEARER, VALUE, Running, get, scrub


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
