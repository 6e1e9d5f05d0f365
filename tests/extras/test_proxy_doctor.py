"""`avault proxy doctor`: what it says of this machine, and of real clients that do as they should, or do not."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import Machine

import avault

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

pytestmark = [
    pytest.mark.starts,
    pytest.mark.skipif(sys.platform != "linux", reason="the proxy is for Linux for now"),
    pytest.mark.skipif(not shutil.which("curl"), reason="no curl here"),
]
PROBED = "https://probe.avault.test/"


def checks(machine: Machine, *words: str, code: int = 0, **env: str) -> list[tuple[str, str, str]]:
    said = machine("proxy", "doctor", "--json", *words, code=code, **env).stdout
    return [(each["state"], each["text"], each["hint"] or "") for each in json.loads(said)["checks"]]


def test_this_machine(machine: Machine) -> None:
    """Without a vault, a daemon or a client."""
    found = {text: state for state, text, _ in checks(machine)}
    assert any(text.startswith("mitmproxy 12") and state == "ok" for text, state in found.items())
    assert found["TLS here takes a session's authority for its hosts, and for no other"] == "ok"
    assert "bubblewrap" in machine("proxy", "doctor", PATH=os.environ["PATH"]).stdout


def test_a_client_that_does_all(machine: Machine) -> None:
    """By its name alone; inherited variables lead it nowhere."""
    asks, trusts = checks(machine, "--", "curl", HTTPS_PROXY="http://127.0.0.1:1", NO_PROXY="*", CURL_CA_BUNDLE="/nothing")
    assert asks[:2] == ("ok", "curl asks the proxy, by https_proxy: for probe.avault.test")
    assert trusts[0] == "ok" and trusts[1].startswith("curl trusts the bundle")


def test_clients_that_go_around_or_do_not_trust(machine: Machine) -> None:
    [around] = checks(machine, "--", "curl", "-sS", "--noproxy", "*", "{}", code=1)
    assert around[:2] == ("bad", "curl did not ask the proxy: it goes around it, or asked for nothing")
    assert "--sandbox" in around[2]
    _, mistrusts = checks(machine, "--", "curl", "-sS", "--cacert", "/etc/ssl/certs/ca-certificates.crt", "{}", code=1)
    assert mistrusts[0] == "bad" and "does not trust the bundle" in mistrusts[1] and "UNKNOWN_CA" in mistrusts[1]


@pytest.mark.slow
def test_nothing_goes_out(machine: Machine) -> None:
    """What asks for another host is refused by the stand-in, and one that asks in clear, too."""
    asks, trusts = checks(machine, "--", "curl", "-sS", "https://api.openai.com/v1/models")
    assert asks[1].endswith("for api.openai.com") and trusts[0] == "off" and PROBED in trusts[2]
    _, clear, _ = checks(machine, "--", "curl", "-sS", "http://probe.avault.test/", code=1)
    assert clear[0] == "bad" and "in clear" in clear[1]


@pytest.mark.slow
def test_what_is_no_program(machine: Machine) -> None:
    assert "cannot run nothing-there" in machine("proxy", "doctor", "--", "nothing-there", code=1).stderr


@pytest.mark.slow
def test_python_and_git(machine: Machine, tmp_path: Path) -> None:
    for name in ("python3", "git"):
        if shutil.which(name):
            assert [state for state, _, _ in checks(machine, "--", name)] == ["ok", "ok"], name
    ignores = "import socket\ntry:\n    socket.getaddrinfo('probe.avault.test', 443)\nexcept OSError:\n    pass"
    [around] = checks(machine, "--", sys.executable, "-c", ignores, code=1)
    assert "python3 did not ask the proxy" in around[1] and "trust_env" in around[2]


def test_a_machine_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, extra: str = "") -> Any:
        raise avault.Unavailable("the package mitmproxy is not installed", "in avault's folder: pip install '.[proxy]'")

    monkeypatch.setattr(avault, "load_extra", load)
    found = avault.check_machine()
    assert [each.text for each in found if each.state == "bad"] == ["the package mitmproxy is not installed"]
