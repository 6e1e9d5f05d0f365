"""Clients that look for their key in a file of their own: for a session of the proxy, one with a placeholder."""

from __future__ import annotations

import configparser
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nostr_sdk
import pytest
from harness import Machine
from test_sandbox import WHY_NONE

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

import real_clients as clients
from api_server import Api
from service_api import Services
from test_proxy_clients import QUIET, SAY

import avault

NSEC = nostr_sdk.Keys.generate().secret_key().to_bech32()
VALUES = {
    "claude/OAUTH_ACCESS_TOKEN": "sk-ant-oat01-Abcdefghijklmnopqrst0123456789",
    "codex/OPENAI_API_KEY": "sk-proj-Abcdefghijklmnopqrst0123456789",
    "github/TOKEN": "ghp_Abcdefghijklmnopqrstuvwxyz0123456789",
    "aws/AWS_ACCESS_KEY_ID": "AKIAABCDEFGHIJKLMNOP",
    "aws/AWS_SECRET_ACCESS_KEY": "Abcdefghijklmnopqrstuvwxyz0123456789+/AB",
}
pytestmark = [
    pytest.mark.starts,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the proxy is for Linux for now"),
    pytest.mark.skipif(not shutil.which("curl"), reason="no curl here"),
]


@pytest.fixture
def vault(lend: Callable[..., Machine], api: Api) -> Iterator[Machine]:
    machine = lend(prepare, str(api.roots), api.port)
    (machine.top / "project").mkdir()
    machine.top = machine.top / "project"
    yield machine
    machine.top = machine.top.parent


def prepare(machine: Machine, roots: str, port: int) -> None:
    machine.init_unproven(NOSTR_NSEC=NSEC, AVAULT_ROOTS=roots)
    for name, value in VALUES.items():
        machine("set", name, input=value)
        place = "sign" if name.endswith("SECRET_ACCESS_KEY") else "header"
        machine("guard", name, "--only", "proxy", "--host", f"api.localhost:{port}", "--in", place)
    machine("set", "bare/TOKEN", input="a-token-without-a-host-0123")


def read_store(client: str, path: Path) -> dict[str, str]:
    """The keys in a client's store, by where they stand, and nothing that the client would look for besides."""
    text = path.read_text()
    if client == "claude":
        login = json.loads(text)["claudeAiOauth"]
        assert login["expiresAt"] > 4e12 and not login["refreshToken"]
        return {"accessToken": login["accessToken"]}
    if client == "codex":
        return {"OPENAI_API_KEY": json.loads(text)["OPENAI_API_KEY"]}
    if client == "gh":
        yaml = pytest.importorskip("yaml")
        host = yaml.safe_load(text)["github.com"]
        assert host["users"][host["user"]]["oauth_token"] == host["oauth_token"]
        return {"oauth_token": host["oauth_token"]}
    found = configparser.ConfigParser()
    found.read_string(text)
    return dict(found["default"])


STORES = {
    "claude": ("claude", "CLAUDE_CONFIG_DIR", ".claude/.credentials.json", ["claude/OAUTH_ACCESS_TOKEN"]),
    "codex": ("codex", "CODEX_HOME", ".codex/auth.json", ["codex/OPENAI_API_KEY"]),
    "gh": ("gh=github/TOKEN", "GH_CONFIG_DIR", ".config/gh/hosts.yml", ["github/TOKEN"]),
    "aws": ("aws", "AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials", ["aws/AWS_ACCESS_KEY_ID", "aws/AWS_SECRET_ACCESS_KEY"]),
}


@pytest.mark.parametrize("client", STORES)
def test_a_store_has_placeholders_for_the_session_alone(vault: Machine, api: Api, client: str) -> None:
    """What the client reads there is filled in by the proxy; its own store is as it was, and what is beside it is there."""
    word, variable, path, places = STORES[client]
    own = vault.home / path
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text("what a person has logged in with\n")
    (own.parent / "settings").write_text("mine\n")
    script = f"""
    set -e; env >"{vault.top}/variables"; place="${variable}"; [ -d "$place" ] && file="$place/{own.name}" || file="$place"
    cp "$file" "{vault.top}/store"; stat -c %a "$file"; [ ! -d "$place" ] || cat "$place/settings"; echo changed >>"$file"
    """
    inherited = {"GH_TOKEN": "another-token-0123456789", "CODEX_API_KEY": "another", "AWS_ACCESS_KEY_ID": "another"}
    done = vault("run", "--proxy", "--store", word, "--", "sh", "-c", script, **inherited)
    assert done.stdout == "600\n" + ("" if client == "aws" else "mine\n")
    variables = (vault.top / "variables").read_text()
    [left] = [line.partition("=")[2] for line in variables.splitlines() if line.startswith(f"{variable}=")]
    assert not Path(left).exists() and own.read_text() == "what a person has logged in with\n"
    hidden = set(avault.STORED_CLIENTS[client].instead)
    assert not hidden & {line.partition("=")[0] for line in variables.splitlines()}
    found = read_store(client, vault.top / "store")
    assert len(found) == len(places)
    for name, instead in zip(places, found.values(), strict=True):
        assert instead != VALUES[name] and len(instead) >= len(VALUES[name]) and VALUES[name] not in variables


def test_what_is_in_it_goes_out_as_the_key(vault: Machine, api: Api) -> None:
    script = f"""
    token=$(sed -n 's/^    oauth_token: "\\(.*\\)"/\\1/p' "$GH_CONFIG_DIR/hosts.yml")
    curl -sS -H "Authorization: Bearer $token" https://api.localhost:{api.port}/echo"""
    done = vault("run", "--proxy", "--store", "gh=github", "--", "env", "NO_PROXY=", "no_proxy=", "sh", "-c", script)
    assert VALUES["github/TOKEN"].encode() in api.heads[-1] and VALUES["github/TOKEN"] not in done.stdout


def test_what_is_none(vault: Machine, api: Api) -> None:
    for words, code, said in (
        (["--store", "emacs"], 2, "no store of emacs is known"),
        (["--store", "gh=bare", "--store", "aws"], 5, "no host is named for bare/TOKEN"),
        (["--store", "gh=nowhere"], 4, "nowhere has no GH_TOKEN or GITHUB_TOKEN or TOKEN"),
        (["--store", "aws=aws/AWS_ACCESS_KEY_ID"], 2, "more than one key"),
        (["--store", "gh=github/NONE"], 4, "NONE"),
    ):
        done = vault("run", "--proxy", *words, "--", "true", code=code)
        assert said in done.stderr, done.stderr
    assert "are for --proxy" in vault("run", "--store", "gh", "--", "true", code=2).stderr


REAL = {
    "claude": ("{quiet} ANTHROPIC_BASE_URL={url} {program} -p '{say}'", "claude/OAUTH_ACCESS_TOKEN", "/v1/messages"),
    "codex": ("{program} exec --skip-git-repo-check -c openai_base_url='\"{url}/v1\"' '{say}' </dev/null",
              "codex/OPENAI_API_KEY", "/v1/responses"),
}  # fmt: skip


@pytest.mark.parametrize("client", REAL)
def test_a_real_client_finds_it(lend: Callable[..., Machine], services: Services, client: str) -> None:
    """It has no variable with a key: what the API gets, is filled in for what is in the file."""
    machine = lend(prepare, str(services.roots), services.port)
    line, place, path = REAL[client]
    line = line.format(quiet=QUIET, url=services.url, program=clients.program(client), say=SAY)
    home = machine.top / "away"
    home.mkdir(exist_ok=True)
    words = ["env", "NO_PROXY=", "no_proxy=", f"HOME={home}", "sh", "-c", line]
    done = machine("run", "--proxy", "--store", client, "--", *words, code=None)
    assert path in services.found(VALUES[place]), (done.stdout[-2000:], done.stderr[-2000:])
    assert VALUES[place] not in done.stdout + done.stderr


@pytest.mark.skipif(bool(WHY_NONE), reason=WHY_NONE)
def test_in_a_sandbox(vault: Machine, api: Api) -> None:
    """It is there to be read and written, and nothing else of its client's is."""
    own = vault.home / ".config/gh"
    own.mkdir(parents=True, exist_ok=True)
    (own / "hosts.yml").write_text("what a person has logged in with\n")
    script = f"""
    token=$(sed -n 's/^    oauth_token: "\\(.*\\)"/\\1/p' "$GH_CONFIG_DIR/hosts.yml"); : >"$GH_CONFIG_DIR/more"
    ls "$GH_CONFIG_DIR"; curl -sS -o /dev/null -H "Authorization: Bearer $token" https://api.localhost:{api.port}/echo
    cat {own}/hosts.yml 2>&1"""
    words = ["env", "NO_PROXY=", "no_proxy=", "sh", "-c", script]
    done = vault("run", "--proxy", "--sandbox", "--store", "gh=github", "--", *words, code=None)
    assert done.stdout.startswith("hosts.yml\nmore\n") and "logged in" not in done.stdout, done.stderr
    assert VALUES["github/TOKEN"].encode() in api.heads[-1]
