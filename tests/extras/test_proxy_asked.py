"""Secrets of which a real phone is asked, used by the proxy: real processes, a signer, a relay, an API with TLS."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import nostr_sdk
import peers
import pytest
from canary import Canary
from harness import Machine, files_with, wait_until
from peers import Relay, misdeeds
from test_guard_commands import Office

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

from api_server import Api

REFUSED = misdeeds.REFUSALS["amber, clave"]
pytestmark = [
    pytest.mark.starts,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the proxy is for Linux for now"),
    pytest.mark.skipif(not shutil.which("curl"), reason="no curl here"),
]


@pytest.fixture
def office(machine: Machine, relay: Relay, canary: Canary, api: Api) -> Iterator[Office]:
    """A vault that the phone has opened, with a key that is sealed, and one that is only for that host."""
    keys = nostr_sdk.Keys.generate()
    machine.env["AVAULT_ROOTS"] = str(api.roots)
    with peers.rogue([relay.url], nsec=keys.secret_key().to_bech32()) as phone:
        office = Office(machine, phone, keys)
        host = f"api.localhost:{api.port}"
        machine("guard", "sealed/KEY", "--ask", "--host", host)
        machine("set", "sealed/KEY", input=canary.value)
        machine("set", "open/TOKEN", input=canary.new("open"))
        machine("guard", "open/TOKEN", "--host", host)
        yield office


def lines(api: Api, name: str, *paths: str) -> list[str]:
    """A command that sends a key to some paths, one after the other, and shows all that it has."""
    url = f"https://api.localhost:{api.port}"
    calls = [f'curl -sS -m 60 -w " %{{http_code}}\\n" -H "Authorization: Bearer ${name}" {url}{path}' for path in paths]
    return ["env", "NO_PROXY=", "no_proxy=", "sh", "-c", "; ".join([*calls, "env", "cat /proc/self/environ"])]


def test_a_sealed_key_is_opened_for_a_request_and_no_more(office: Office, api: Api, canary: Canary) -> None:
    """The phone says which request; the value reaches the API, and nothing that the command has, nor any process's file."""
    machine, asked = office.machine, len(office.sentences())
    done = machine("run", "--proxy", "--only", "sealed/KEY", "--", *lines(api, "KEY", "/echo", "/echo?again"))
    assert canary.value not in done.stdout + done.stderr and done.stdout.count(" 200\n") == 2
    assert f"Bearer {canary.value}".encode() in api.heads[-1] and f"Bearer {canary.value}".encode() in api.heads[-2]
    first, second, *again = office.sentences()[asked:]
    assert (
        f"wants sealed/KEY of test@machine, to send it by the proxy: GET api.localhost:{api.port}/echo; question 1 of 2" in first
    )
    assert second.startswith("avault: open sealed/KEY of test@machine on ") and len(again) == 2
    assert not files_with(canary.value, machine.home, machine.state, machine.runtime)
    assert "proxy GET api.localhost/echo sealed/KEY" in machine("log").stdout
    machine("unguard", "sealed/KEY", "--yes")


def test_refused_is_403_and_stays_it(office: Office, api: Api) -> None:
    machine, before = office.machine, len(api.heads)
    office.phone.behave("nip44_decrypt", REFUSED, requests=1)
    done = machine("run", "--proxy", "--only", "sealed/KEY", "--", *lines(api, "KEY", "/echo", "/echo"))
    assert done.stdout.count(" 403\n") == 2 and "asked in vain" in done.stdout and len(api.heads) == before


def test_the_first_use_of_a_host(office: Office, api: Api, canary: Canary) -> None:
    """By `--ask`: once, with method, host and path. A client that is gone leaves no question behind."""
    machine, asked = office.machine, len(office.sentences())
    run = ("run", "--proxy", "--ask", "--only", "open/TOKEN", "--")
    done = machine(*run, *lines(api, "TOKEN", "/echo?query", "/echo/two"))
    assert done.stdout.count(" 200\n") == 2
    [said] = office.sentences()[asked:]
    assert "wants to use open/TOKEN of test@machine by the proxy, for the first time with this host: GET" in said
    assert f" api.localhost:{api.port}/echo, code " in said
    assert "query" not in said
    office.phone.behave("nip44_decrypt", [{"honest": True, "wait": True}])
    process = machine.start(*run, *lines(api, "TOKEN", "/echo"))
    wait_until(lambda: machine.status()["questions"])
    [question] = machine.status()["questions"]
    assert question["names"] == ["open/TOKEN"] and question["code"]
    process.kill()
    wait_until(lambda: not machine.status()["questions"])


def test_one_that_stays_asks_too(office: Office, api: Api) -> None:
    """By a grant that asks, and for a sealed key: its first request begins it, each has the key opened."""
    machine = office.machine
    machine("grant", "web", "--only", "sealed/KEY", "--can", "proxy", "--ask")
    told = json.loads(machine("proxy", "start", "web", "--port", "0", "--json").stdout)
    env = {**told["variables"], "NO_PROXY": "", "no_proxy": "", "PATH": os.environ["PATH"]}
    asked = len(office.sentences())
    url = f"https://api.localhost:{api.port}/echo"
    words = ["curl", "-sS", "-m", "60", "-H", f"Authorization: Bearer {env['KEY']}", url]
    done = subprocess.run(words, check=True, env=env, capture_output=True, text=True, timeout=90)
    assert f"Bearer {env['KEY']}" in done.stdout
    first, second, third = office.sentences()[asked:]
    assert "wants to begin using the grant web" in first and "by the grant web, on" in second and "open sealed/KEY" in third
