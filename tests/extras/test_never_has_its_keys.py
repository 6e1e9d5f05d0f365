"""references/never-has-its-keys.md: its commands, with the real programs, before a local API in the services' place."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import documents
import nostr_sdk
import pytest
from canary import Canary, record
from harness import AVAULT, Machine, wait_until
from test_sandbox import WHY_NONE

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

import real_clients as clients
from openclaw_gateway import Claw, Gateway
from service_api import PLEASED, Services

TEXT = documents.read("references/never-has-its-keys.md")
RUN = dict(re.findall(r"<!-- run: ([\w-]+) -->\n```sh\n(.*?)\n```", TEXT, re.DOTALL))
FILES = dict(re.findall(r"<!-- file: ([\w.]+) -->\n```python\n(.*?)```", TEXT, re.DOTALL))
NSEC = nostr_sdk.Keys.generate().secret_key().to_bech32()
PLACES = {"openai/OPENAI_API_KEY": "sk-proj-", "anthropic/ANTHROPIC_API_KEY": "sk-ant-api03-"}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the proxy is for Linux for now"),
]


@pytest.fixture
def machine(lend: Callable[..., Machine], services: Services, canary: Canary) -> Machine:
    """One on which the page's first commands were typed."""
    services.heads.clear()
    return lend(begin, services, canary.mark)


def begin(machine: Machine, services: Services, mark: str) -> None:
    machine.init_unproven(NOSTR_NSEC=NSEC, AVAULT_ROOTS=str(services.roots))
    install, *lines = RUN["once"].splitlines()
    assert install == "pip install '.[proxy]'"  # which the test's environment has
    for line in lines:
        words = shlex.split(line)
        asked = words[2] if words[1] == "set" else ""
        machine(
            *shlex.split(put_services(line, services))[1:], input=f"{PLACES[asked]}{mark}0123456789abcdefghij" if asked else ""
        )


def put_services(line: str, services: Services) -> str:
    """A command of the page, for the local API."""
    return re.sub(r"--preset \w+", f"--host api.localhost:{services.port}", line)


def provide(machine: Machine, services: Services, **programs: str) -> dict[str, str]:
    """The variables of who types the page's commands: these programs are on PATH, and know where the API is."""
    place = machine.home / ".local" / "bin"
    place.mkdir(parents=True, exist_ok=True)
    for name, path in programs.items():
        (place / name).write_text(f'#!/bin/sh\nexport NO_PROXY= no_proxy=\nexec {path} "$@"\n')
        (place / name).chmod(0o755)
    for name in (".claude", ".codex"):
        (machine.home / name).mkdir(exist_ok=True)
    (machine.home / ".codex" / "config.toml").write_text(f'openai_base_url = "{services.url}/v1"\n')
    return {
        "PATH": f"{place}:{machine.env['PATH']}",
        "ANTHROPIC_BASE_URL": services.url,
        "OPENAI_BASE_URL": f"{services.url}/v1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }


def type_line(machine: Machine, line: str, given: dict[str, str]) -> str:
    """What a line of the page prints, typed into a shell in a project."""
    project = machine.top / "project"
    project.mkdir(exist_ok=True)
    for name, text in FILES.items():
        (project / name).write_text(text)
    more = f" --bind-ro {clients.peers.CACHE}"  # where the programs really are
    line = line.replace(" --sandbox", f" --sandbox{more}{' --bind-ro ~/.local' if '.local' not in line else ''}")
    done = subprocess.run(
        ["sh", "-c", line], env={**machine.env, **given}, cwd=project, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    record(line, done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "<avault:" not in done.stdout
    return done.stdout


def check_said(printed: str, services: Services, canary: Canary, place: str, path: str) -> None:
    """The API got the value at that path, and what it said of it is a placeholder."""
    value = f"{PLACES[place]}{canary.mark}0123456789abcdefghij"
    assert path in services.found(value)
    assert re.search(f"{PLEASED} {PLACES[place]}[A-Za-z0-9]+", printed) and value not in printed


@pytest.mark.parametrize("name", ["claude", "claude-sandbox"])
def test_claude_code(machine: Machine, services: Services, canary: Canary, name: str) -> None:
    if "sandbox" in name and WHY_NONE:
        pytest.skip(WHY_NONE)
    given = provide(machine, services, claude=clients.program("claude"))
    printed = type_line(machine, RUN[name], given)
    check_said(printed, services, canary, "anthropic/ANTHROPIC_API_KEY", "/v1/messages")


def test_codex(machine: Machine, services: Services, canary: Canary) -> None:
    given = provide(machine, services, codex=clients.program("codex"))
    printed = type_line(machine, RUN["codex"], given)
    check_said(printed, services, canary, "openai/OPENAI_API_KEY", "/v1/responses")


@pytest.mark.skipif(bool(WHY_NONE), reason=WHY_NONE)
def test_a_program_of_ones_own(machine: Machine, services: Services, canary: Canary) -> None:
    given = provide(machine, services, python3=clients.python())
    printed = type_line(machine, RUN["python"], given)
    check_said(printed, services, canary, "openai/OPENAI_API_KEY", "/v1/responses")


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


@pytest.mark.timeout(600)
def test_openclaw(machine: Machine, services: Services, canary: Canary) -> None:
    """The gateway in a session of the proxy; a turn of its agent."""
    [settings] = re.findall(r'^    ("models": .*)$', TEXT, re.MULTILINE)
    reference = json.loads(f"{{{settings}}}")["models"]["providers"]["openai"]["apiKey"]
    claw = Claw(machine, SimpleNamespace(url=f"{services.url}/v1"))  # type: ignore[arg-type]
    token = nostr_sdk.Keys.generate().public_key().to_hex()
    claw.write(
        lab={"apiKey": reference}, gateway={"auth": {"token": token}}, proxy={"loopbackMode": "proxy"}
    )  # for our API's name
    claw.command.write_text(claw.command.read_text().replace("exec ", "export NO_PROXY= no_proxy=\nexec ", 1))
    words = shlex.split(RUN["openclaw"])
    assert words[0] == "avault" and words[-3:] == ["openclaw", "gateway", "run"]
    real, claw.command = claw.command, machine.top / "bin" / "through"
    claw.command.write_text(f'#!/bin/sh\nexec {AVAULT} {shlex.join(words[1:-2])} "$@"\n')
    claw.command.chmod(0o755)
    with Gateway(claw) as gateway:
        wait_until(lambda: gateway.is_up() and listens(claw.port), 180, "the gateway")
        claw.command = real
        said = claw.say("Say hello").stdout
    check_said(said, services, canary, "openai/OPENAI_API_KEY", "/v1/chat/completions")


def test_what_shows_it(machine: Machine, services: Services, canary: Canary) -> None:
    first, second = RUN["look"].splitlines()
    given = provide(machine, services)
    placeholder, count = type_line(machine, first, given).splitlines()  # and nothing of `get` between them
    assert placeholder.startswith("sk-proj-") and canary.mark not in placeholder and int(count) >= 5
    type_line(machine, second, given)


def test_every_command_is_tried() -> None:
    assert {*RUN} == {"once", "claude", "claude-sandbox", "codex", "openclaw", "python", "look"} and {*FILES} == {"agent.py"}
