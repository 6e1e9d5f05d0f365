"""Tokens that expire, renewed by the proxy: a local server that rotates, and takes a token that is used twice for stolen."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import nostr_sdk
import pytest
from harness import Machine, find_processes, wait_until

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

from api_server import Api

NSEC = nostr_sdk.Keys.generate().secret_key().to_bech32()
pytestmark = [
    pytest.mark.starts,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the proxy is for Linux for now"),
    pytest.mark.skipif(not shutil.which("curl"), reason="no curl here"),
]


class Login:
    """A server of tokens and of an API: one access and one refresh token are good, each once (RFC 6749, 10.4)."""

    def __init__(self, top: Path) -> None:
        self.api = Api(top)
        self.number, self.is_revoked, self.life, self.status = 0, False, 3600, 200
        self.asked: list[dict[str, str]] = []
        self.used: list[str] = []  # access tokens that came to the API
        self.before: Callable[[], None] = lambda: None  # done once a token is used up, before the answer
        self.lock = threading.Lock()
        login = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                login.used.append(token)
                is_good = token == login.access and not login.is_revoked
                self.reply(200 if is_good else 401, {"you": token})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                is_json = self.headers["Content-Type"] == "application/json"
                fields = json.loads(body) if is_json else {name: each[0] for name, each in parse_qs(body).items()}
                self.reply(*login.renew(fields))

            def reply(self, status: int, content: dict[str, Any]) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = self.api.context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def access(self) -> str:
        return f"access-token-number-{self.number}-0123456789"

    @property
    def refresh(self) -> str:
        return f"refresh-token-number-{self.number}-9876543210"

    def renew(self, fields: dict[str, str]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            self.asked.append(fields)
            if self.status != 200:
                return self.status, {"error": "temporarily_unavailable"}
            if fields.get("refresh_token") != self.refresh or self.is_revoked:
                self.is_revoked = True
                return 400, {"error": "invalid_grant"}
            self.number += 1
        self.before()
        return 200, {"access_token": self.access, "refresh_token": self.refresh, "expires_in": self.life, "token_type": "Bearer"}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.api.close()


@pytest.fixture
def login(tmp_path: Path) -> Iterator[Login]:
    login = Login(tmp_path)
    yield login
    login.close()


@pytest.fixture
def vault(machine: Machine, login: Login) -> Machine:
    machine.init_unproven(NOSTR_NSEC=NSEC, AVAULT_ROOTS=str(login.api.roots))
    place = f"api.localhost:{login.port}"
    store(machine, login, OAUTH_EXPIRES=str(int(time.time()) - 5))
    machine("guard", "claude/OAUTH_ACCESS_TOKEN", "--host", place)
    machine("guard", "claude/OAUTH_REFRESH_TOKEN", "--host", place, "--in", "refresh", "--path", "/token")
    return machine


def store(machine: Machine, login: Login, **more: str) -> None:
    values = {
        "OAUTH_ACCESS_TOKEN": login.access,
        "OAUTH_REFRESH_TOKEN": login.refresh,
        "OAUTH_TOKEN_URL": f"https://api.localhost:{login.port}/token",
        "OAUTH_CLIENT_ID": "client-1",
        **more,
    }
    for key, value in values.items():
        machine("set", f"claude/{key}", input=value)


def run(vault: Machine, login: Login, script: str, code: int | None = 0) -> str:
    """What a command prints, whose $call is a request with its token's placeholder."""
    call = f'curl -sS -H "Authorization: Bearer $OAUTH_ACCESS_TOKEN" https://api.localhost:{login.port}/me'
    words = (
        "--only",
        "claude/OAUTH_ACCESS_TOKEN",
        "--",
        "env",
        "NO_PROXY=",
        "no_proxy=",
        "sh",
        "-c",
        f"call() {{ {call}; }}; {script}",
    )
    done = vault("run", "--proxy", *words, code=code)
    for token in ("access-token-number", "refresh-token-number"):
        assert token not in done.stdout + done.stderr
    return done.stdout


def kept(vault: Machine) -> list[Path]:
    return [*vault.top.rglob("token-*.sealed")]


def test_one_that_has_expired_is_renewed_once_for_all_who_wait(vault: Machine, login: Login) -> None:
    said = run(vault, login, "for i in 1 2 3 4 5; do call & done; wait")
    assert login.used == [login.access] * 5 and login.number == 1 and said.count('"you"') == 5
    assert login.asked == [
        {"grant_type": "refresh_token", "refresh_token": "refresh-token-number-0-9876543210", "client_id": "client-1"}
    ]
    assert not kept(vault) and "proxy POST api.localhost/token claude/OAUTH_REFRESH_TOKEN" in vault("log").stdout
    run(vault, login, "call")  # it is good for an hour now
    assert login.number == 1 and login.used[-1] == login.access


def test_one_that_is_refused_is_renewed_for_the_next_request(vault: Machine, login: Login) -> None:
    """And not again at once, whatever the API says."""
    vault("set", "claude/OAUTH_EXPIRES", input=str(int(time.time()) + 9999))
    vault("set", "claude/OAUTH_ENCODING", input="json")
    vault("set", "claude/OAUTH_ACCESS_TOKEN", input="an-access-of-old-0123456789")
    run(vault, login, "call; call; call")
    assert login.used == ["an-access-of-old-0123456789", login.access, login.access] and login.number == 1
    login.is_revoked = True
    run(vault, login, "call; call; call")
    assert login.number == 1 and len(login.asked) == 1


@pytest.mark.parametrize("end", ["kill", "lock", "stop"])
def test_what_the_server_answered_is_not_lost_with_the_keyholder(vault: Machine, login: Login, end: str) -> None:
    """It ends when the old token is used up, and the answer is not here yet. The old one is never used again."""

    def strike() -> None:
        login.before = lambda: None
        if end == "kill":
            for pid in find_processes("keyholder", vault.vault):
                os.kill(pid, signal.SIGKILL)
        else:
            vault(*{"lock": ("lock",), "stop": ("daemon", "stop")}[end], "--force")
        wait_until(lambda: not find_processes("keyholder", vault.vault))

    login.before = strike
    run(vault, login, "call", code=None)
    wait_until(lambda: len(kept(vault)) == 1)
    assert login.number == 1 and b"token-number" not in kept(vault)[0].read_bytes()
    if end == "stop":
        vault("daemon", "start", "-b", AVAULT_ROOTS=str(login.api.roots), NOSTR_NSEC=NSEC)
    vault("unlock", NOSTR_NSEC=NSEC)
    run(vault, login, "call")
    assert login.used == [login.access] and login.number == 1 and not login.is_revoked and not kept(vault)
    vault("set", "claude/OAUTH_EXPIRES", input="1")
    run(vault, login, "call")
    assert login.number == 2 and not login.is_revoked and login.used[-1] == login.access


def test_who_comes_while_another_one_still_asks_waits_for_that_answer(vault: Machine, login: Login) -> None:
    """The keyholder was killed, and another one has the vault, before the server has answered: it is asked once."""
    proceed, struck = threading.Event(), threading.Event()

    def strike() -> None:
        login.before = lambda: None
        for pid in find_processes("keyholder", vault.vault):
            os.kill(pid, signal.SIGKILL)
        struck.set()
        assert proceed.wait(60)

    login.before = strike
    first = threading.Thread(target=run, args=(vault, login, "call", None))
    first.start()
    assert struck.wait(60)
    late = time.monotonic() + 9  # the first one waits for 15 seconds, and the machine may be busy
    first.join()
    vault("unlock", NOSTR_NSEC=NSEC)
    second = threading.Thread(target=run, args=(vault, login, "call"))
    second.start()
    wait_until(
        lambda: len(find_processes("proxy-session", vault.runtime)) >= 3 or time.monotonic() > late
    )  # it asks, a session, and who wants to ask
    proceed.set()
    second.join()
    assert len(login.asked) == 1 and login.used == [login.access] and not login.is_revoked and not kept(vault)


def test_nothing_is_sent_to_a_server_that_the_guard_does_not_name(vault: Machine, login: Login) -> None:
    """Whoever may set where it is renewed does not get it."""
    vault("set", "claude/OAUTH_TOKEN_URL", input=f"https://other.localhost:{login.port}/token")
    said = run(vault, login, "call")
    error = json.loads(said)["error"]
    assert error["code"] == "denied" and "claude/OAUTH_REFRESH_TOKEN may not" in error["message"]
    assert "--in refresh" in error["hint"] and not login.asked and not login.used
    vault("set", "claude/OAUTH_TOKEN_URL", input=f"https://api.localhost:{login.port}/elsewhere")
    assert "at this path" in json.loads(run(vault, login, "call"))["error"]["message"]
    for url in (f"http://api.localhost:{login.port}/token", "nothing", "https://u:p@api.localhost/token"):
        vault("set", "claude/OAUTH_TOKEN_URL", input=url)
        assert "no https:// address" in json.loads(run(vault, login, "call"))["error"]["message"]
    assert not login.asked and not login.used


def test_what_renews_a_token_goes_nowhere_else(vault: Machine, login: Login) -> None:
    """Else a command could have itself given a new one, by its placeholder: also under another name."""
    vault("set", "claude/OAUTH_EXPIRES", input=str(int(time.time()) + 9999))
    vault("mv", "claude/OAUTH_REFRESH_TOKEN", "claude/OTHER")
    host = ("--host", f"claude/OTHER=body@api.localhost:{login.port}")
    for words in ((), ("--group", "claude"), host):
        done = vault("run", "--proxy", *words, "--", "env", code=None)
        assert "refresh-token-number" not in done.stdout + done.stderr and "OTHER=" not in done.stdout
    assert done.returncode == 5 and not login.asked


def test_what_renews_a_token_does_so_under_its_own_name(vault: Machine, login: Login) -> None:
    """Else the new token came to a name that nobody guards, or with a guard for another host."""
    vault("mv", "claude/OAUTH_REFRESH_TOKEN", "mine/OAUTH_REFRESH_TOKEN")
    for key, value in (("ACCESS_TOKEN", "an-old-token-0123456789"), ("EXPIRES", "1")):
        vault("set", f"mine/OAUTH_{key}", input=value)
    vault("set", "mine/OAUTH_TOKEN_URL", input=f"https://api.localhost:{login.port}/token")
    call = f'curl -sS -H "Authorization: Bearer $OAUTH_ACCESS_TOKEN" https://api.localhost:{login.port}/me'
    words = ("--host", f"mine/OAUTH_ACCESS_TOKEN=api.localhost:{login.port}", "--only", "mine/OAUTH_ACCESS_TOKEN")
    done = vault("run", "--proxy", *words, "--", "env", "NO_PROXY=", "no_proxy=", "sh", "-c", call)
    assert "another name" in json.loads(done.stdout)["error"]["message"] and not login.asked and not login.used


def test_what_a_server_refuses(vault: Machine, login: Login) -> None:
    vault("set", "claude/OAUTH_REFRESH_TOKEN", input="refresh-token-number-9-9876543210")
    error = json.loads(run(vault, login, "call"))["error"]
    assert error["code"] == "denied" and "invalid_grant" in error["message"] and "avault import" in error["hint"]
    login.status = 503
    error = json.loads(run(vault, login, "call"))["error"]
    assert error["code"] == "unavailable" and not login.used


def test_one_that_is_good_for_a_while_is_used_where_no_other_is_to_be_had(vault: Machine, login: Login) -> None:
    login.status = 503
    vault("set", "claude/OAUTH_EXPIRES", input=str(int(time.time()) + 60))
    run(vault, login, "call")
    assert login.used == [login.access] and len(login.asked) == 1


def test_what_somebody_else_has_put_there_is_no_answer(vault: Machine, login: Login) -> None:
    """Sealed for the agent, as anybody can: it does not know the token that it would be for."""
    import hashlib

    import avault

    agent = vault.status()["agent_npub"]
    state = next(vault.top.rglob("access.log")).parent
    path = state / f"token-{hashlib.sha256(b'claude').hexdigest()[:16]}.sealed"
    forged = {"access": "forged-0123456789", "refresh": "forged", "expires": 9999999999, "was": "0" * 64}
    vault("set", "claude/OAUTH_EXPIRES", input=str(int(time.time()) + 9999))
    path.write_text(avault.seal_value(avault.parse_npub(agent), json.dumps(forged)))
    run(vault, login, "call")
    assert login.used == [login.access] and not path.exists()
