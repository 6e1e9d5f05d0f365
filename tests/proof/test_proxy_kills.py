"""Whatever ends while a proxy that stays is started, used or stopped: nothing is left of it, and it can be had again."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nostr_sdk
import pytest
from canary import Canary
from harness import Machine, wait_until

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

from api_server import Api
from test_proxy_standing import curl, is_gone, processes, proxies

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(sys.platform != "linux", reason="the proxy is for Linux for now"),
    pytest.mark.skipif(not shutil.which("curl"), reason="no curl here"),
]
NSEC = nostr_sdk.Keys.generate().secret_key().to_bech32()
ROUNDS = 6


def daemon(machine: Machine) -> int:
    return int(next(machine.runtime.glob("*.pid")).read_text())


def begin(machine: Machine, api: Api) -> None:
    """An open vault with a grant, whatever there was before."""
    machine("daemon", "start", "-b", NOSTR_NSEC=NSEC, AVAULT_ROOTS=str(api.roots), code=None)
    machine("unlock", NOSTR_NSEC=NSEC, code=None)
    if "web" not in machine("grants", "--names").stdout.split():
        machine("grant", "web", "--group", "openai", "--can", "proxy")


def test_kills_at_any_point_of_start_and_stop(machine: Machine, api: Api, canary: Canary) -> None:
    machine.init_unproven(NOSTR_NSEC=NSEC, AVAULT_ROOTS=str(api.roots))
    machine("set", "openai/API_KEY", input=canary.value)
    machine("guard", "openai/API_KEY", "--host", f"api.localhost:{api.port}")
    dice = random.Random(21)
    for number in range(ROUNDS):
        begin(machine, api)
        words = dice.choice([["proxy", "start", "web", "--port", "0"], ["proxy", "stop", "--all"]])
        if words[1] == "stop":
            machine("proxy", "start", "web")
        client = subprocess.Popen([*machine.command, *words], env=machine.env, cwd=machine.top,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        time.sleep(dice.random() * (3.0 if words[1] == "start" else 0.5))
        victim = dice.choice(["client", "proxy", "daemon", "revoke", "lock"])
        if victim == "client":
            client.kill()
        elif victim == "proxy":
            for pid in processes(machine):
                os.kill(pid, signal.SIGKILL)
        elif victim == "daemon":
            os.kill(daemon(machine), signal.SIGKILL)
        else:
            machine(*{"revoke": ("revoke", "web"), "lock": ("lock", "--force")}[victim], code=None)
        client.wait(60)
        if victim in ("daemon", "revoke", "lock"):
            wait_until(lambda: not processes(machine))
        begin(machine, api)
        machine("proxy", "stop", "--all")
        wait_until(lambda: is_gone(machine), what=f"round {number}: {words} {victim}")
        assert proxies(machine) == [] and Path(machine.own).exists()
        told = json.loads(machine("proxy", "start", "web", "--port", "0", "--json").stdout)
        done = curl(api, **told["variables"])
        assert f"Bearer {told['variables']['API_KEY']}" in done.stdout, (number, words, victim, done.stderr)
        assert canary.value not in done.stdout + done.stderr and canary.value.encode() in api.heads[-1]
        machine("proxy", "stop", "--all")
