"""`avault run --proxy`: real commands, processes and clients, before a local API with TLS."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nostr_sdk
import pytest
from canary import Canary
from harness import Machine, find_processes, wait_until

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

from api_server import Api

NSEC = nostr_sdk.Keys.generate().secret_key().to_bech32()
VALUE = "sk-proj-Abcdefghijklmnopqrst0123456789"
pytestmark = [
    pytest.mark.starts,
    pytest.mark.skipif(sys.platform != "linux", reason="the proxy is for Linux for now"),
    pytest.mark.skipif(not shutil.which("curl"), reason="no curl here"),
]


@pytest.fixture(autouse=True)
def watched(canary: Canary) -> None:
    """The value is looked for in what each test leaves."""
    canary.watch(VALUE)


@pytest.fixture
def vault(lend: Callable[..., Machine], api: Api) -> Machine:
    """An open vault whose daemon takes the API's authority for the system's."""
    return lend(prepare, str(api.roots))


def prepare(machine: Machine, roots: str) -> None:
    machine.init_unproven(NOSTR_NSEC=NSEC, AVAULT_ROOTS=roots)
    machine("set", "openai/API_KEY", input=VALUE)
    machine("set", "plain/TOKEN", input="a-value-without-any-host")


def through(vault: Machine, api: Api, *command: str, words: tuple[str, ...] = (), code: int | None = 0) -> str:
    """What a command through the proxy prints; names under localhost are asked of the proxy too."""
    host = ("--host", f"openai/API_KEY=api.localhost:{api.port}")
    away = ("env", "NO_PROXY=", "no_proxy=")
    done = vault("run", "--proxy", *host, *words, "--", *away, *command, code=code)
    return done.stdout


def test_the_value_reaches_the_host_and_the_command_has_a_placeholder(vault: Machine, api: Api) -> None:
    printed = through(vault, api, "sh", "-c", f'echo "$API_KEY"; {" ".join(curl_line(api, "/echo"))}')
    placeholder = printed.splitlines()[0]
    assert placeholder.startswith("sk-proj-") and len(placeholder) == len(VALUE) and placeholder != VALUE
    assert f"Bearer {VALUE}".encode() in api.heads[-1]
    assert VALUE not in printed and f"Bearer {placeholder}" in printed


@pytest.mark.skipif(not shutil.which("bwrap"), reason="needs bubblewrap")
def test_in_a_sandbox(vault: Machine, api: Api) -> None:
    """It has no network but the proxy; the value is put in upstream, and is nowhere inside."""
    (vault.top / "project").mkdir(exist_ok=True)
    line = f'echo "$API_KEY"; {" ".join(curl_line(api, "/echo"))}; env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline'
    straight = f"curl -sS --noproxy '*' -m 5 https://api.localhost:{api.port}/straight; echo straight $?"
    before, top = len(api.heads), vault.top
    vault.top = top / "project"
    try:
        printed = through(vault, api, "sh", "-c", f"{line} 2>&1; {straight} 2>&1", words=("--sandbox",))
    finally:
        vault.top = top
    placeholder = printed.splitlines()[0]
    assert placeholder.startswith("sk-proj-") and placeholder != VALUE and len(placeholder) == len(VALUE)
    assert len(api.heads) == before + 1 and f"Bearer {VALUE}".encode() in api.heads[-1]
    assert VALUE not in printed and f"Bearer {placeholder}" in printed
    assert "straight 0" not in printed and "straight " in printed


def test_authorities_that_the_daemon_was_given_are_shown(vault: Machine, api: Api) -> None:
    """Whoever starts the daemon says whom the proxy trusts; it is to be seen."""
    assert vault.status()["roots"] == str(api.roots)
    assert f"Proxy: it trusts the authorities in {api.roots}" in vault("status").stdout


def processes(vault: Machine) -> list[int]:
    """The proxies of a vault."""
    return find_processes("proxy-session", vault.runtime)


def sessions(vault: Machine) -> list[Path]:
    return [*vault.runtime.glob("*-proxy-*")]


def hold(vault: Machine, api: Api, after: str = "", then: str = "sleep 60") -> tuple[subprocess.Popen[str], Path]:
    """A command with a connection through the proxy that is open, and the file where it says how that ended."""
    api.proceed.clear()
    ended, before = vault.top / "ended", len(api.heads)
    ended.unlink(missing_ok=True)
    line = f"({' '.join(curl_line(api, '/hold'))}; echo $? >ended) & {then}"
    away = ["env", "NO_PROXY=", "no_proxy="]
    words = ["run", "--proxy", "--host", f"openai/API_KEY=api.localhost:{api.port}", "--", *away, "sh", "-c", line]
    running = subprocess.Popen([*vault.command, *words], env=vault.env, cwd=vault.top, text=True, stdout=subprocess.PIPE)
    wait_until(lambda: len(api.heads) > before)
    assert VALUE.encode() in api.heads[-1] and len(processes(vault)) == len(sessions(vault)) == 1
    return running, ended


def has_ended(vault: Machine, ended: Path) -> None:
    """The connection was cut, the process is gone, and what it had on the disk."""
    wait_until(lambda: not processes(vault) and not sessions(vault))
    wait_until(lambda: ended.exists() and ended.read_text().strip())
    assert ended.read_text().strip() not in ("", "0")


# when it ends


@pytest.mark.slow
def test_it_ends_with_the_command_though_a_connection_is_open(vault: Machine, api: Api) -> None:
    running, ended = hold(vault, api, then="while [ ! -e go ]; do sleep 0.1; done")
    (vault.top / "go").touch()
    assert running.wait(60) == 0
    has_ended(vault, ended)
    (vault.top / "go").unlink()


def test_it_ends_with_the_lock(vault: Machine, api: Api) -> None:
    running, ended = hold(vault, api)
    vault("lock", "--force")
    has_ended(vault, ended)
    assert running.poll() is None
    running.kill()
    running.wait()


@pytest.mark.slow
def test_it_ends_with_the_lock_though_it_is_stopped(vault: Machine, api: Api) -> None:
    running, ended = hold(vault, api)
    os.kill(processes(vault)[0], signal.SIGSTOP)
    vault("lock", "--force")
    has_ended(vault, ended)
    running.kill()
    running.wait()


@pytest.mark.slow
def test_it_ends_with_the_command_though_it_is_stopped(vault: Machine, api: Api) -> None:
    running, ended = hold(vault, api, then="while [ ! -e go ]; do sleep 0.1; done")
    os.kill(processes(vault)[0], signal.SIGSTOP)
    (vault.top / "go").touch()
    assert running.wait(60) == 0
    has_ended(vault, ended)
    (vault.top / "go").unlink()


@pytest.mark.slow
def test_it_ends_with_avault_run(vault: Machine, api: Api) -> None:
    running, _ = hold(vault, api)
    running.kill()
    running.wait()
    wait_until(lambda: not processes(vault) and not sessions(vault))


@pytest.mark.slow
def test_it_ends_with_the_daemon(vault: Machine, api: Api) -> None:
    running, ended = hold(vault, api)
    os.kill(int(next(vault.runtime.glob("*.pid")).read_text()), signal.SIGKILL)
    wait_until(lambda: not processes(vault))
    wait_until(lambda: ended.exists() and ended.read_text().strip() not in ("", "0"))
    running.kill()
    running.wait()
    assert sessions(vault)  # nobody was there to take it away; the key of its authority is gone
    vault("daemon", "start", "-b", AVAULT_ROOTS=str(api.roots))
    assert not sessions(vault)


@pytest.mark.slow
def test_a_session_on_the_disk(vault: Machine, api: Api) -> None:
    """What a sandbox is given: a directory of ours alone, with a socket and a bundle."""
    said = through(vault, api, "sh", "-c", 'd=$(dirname "$SSL_CERT_FILE"); stat -c "%a %n" $d $d/*; grep -c BEGIN $SSL_CERT_FILE')
    *lines, count = said.splitlines()
    assert [line.split()[0] for line in lines] == ["700", "644", "700"] and int(count) == 2
    assert [Path(line.split()[1]).name for line in lines[1:]] == ["bundle.pem", "proxy.sock"]


@pytest.mark.slow
def test_what_is_inherited_leads_nowhere_else(vault: Machine, api: Api) -> None:
    given = {"HTTPS_PROXY": "http://evil:1", "https_proxy": "http://evil:1", "SSL_CERT_DIR": "/evil", "no_proxy": "*",
             "NODE_TLS_REJECT_UNAUTHORIZED": "0", "GIT_SSL_NO_VERIFY": "1", "SSLKEYLOGFILE": "/tmp/keys"}  # fmt: skip
    host = ("--host", f"openai/API_KEY=api.localhost:{api.port}")
    said = vault("run", "--proxy", *host, "--", "env", **given).stdout
    assert "evil" not in said and "SSLKEYLOGFILE" not in said and "REJECT" not in said and "NO_VERIFY" not in said
    names = dict(line.partition("=")[::2] for line in said.splitlines())
    assert names["no_proxy"] == "localhost,127.0.0.1,::1" and names["HTTPS_PROXY"].startswith("http://avault:")
    assert "TOKEN" not in names and VALUE not in said


@pytest.mark.slow
def test_what_is_named_besides_comes_as_run_gives_it(vault: Machine, api: Api) -> None:
    said = through(vault, api, "sh", "-c", 'test "$TOKEN" = a-value-without-any-host && echo "$API_KEY"',
                   words=("--only", "plain/TOKEN,openai/API_KEY"))  # fmt: skip
    assert said.startswith("sk-proj-")


@pytest.mark.slow
def test_a_projects_file_gives_placeholders_only(vault: Machine, api: Api) -> None:
    (vault.top / "avault.env").write_text("A=avault://openai/API_KEY\nB=avault://plain/TOKEN\n")
    done = vault("run", "--proxy", "--host", f"openai/API_KEY=api.localhost:{api.port}", "--", "sh", "-c", 'echo "$A:${B-none}"')
    assert done.stdout.startswith("sk-proj-") and done.stdout.endswith(":none\n") and "plain/TOKEN" in done.stderr
    (vault.top / "avault.env").unlink()


@pytest.mark.slow
def test_what_is_for_the_proxy_alone(vault: Machine, api: Api) -> None:
    vault("guard", "openai/API_KEY", "--host", f"api.localhost:{api.port}", "--method", "GET")
    vault("guard", "plain/TOKEN", "--only", "proxy")  # nothing is left that could be masked
    assert "only proxy" in vault("get", "openai/API_KEY", code=5).stderr
    printed = vault("run", "--proxy", "--", "env", "NO_PROXY=", "no_proxy=", "sh", "-c", " ".join(curl_line(api, "/echo"))).stdout
    assert VALUE.encode() in api.heads[-1] and VALUE not in printed
    refused = vault(
        "run", "--proxy", "--", "env", "NO_PROXY=", "no_proxy=", "sh", "-c", " ".join([*curl_line(api, "/echo"), "-d", "x"])
    ).stdout
    assert json.loads(refused)["error"]["message"] == "openai/API_KEY may not be used by POST"
    assert "proxy GET api.localhost/echo openai/API_KEY" in vault("log").stdout
    assert json.loads(vault("log", "--hosts", "--json").stdout)["hosts"][0]["host"] == "api.localhost"


def test_options_that_do_not_go_together(vault: Machine) -> None:
    assert "--no-mask" in vault("run", "--proxy", "--no-mask", "--", "true", code=2).stderr
    assert "--proxy" in vault("run", "--host", "a/B=c.example", "--", "true", code=2).stderr
    assert "egress" in vault("run", "--proxy", "--egress", "all", "--", "true", code=2).stderr
    assert "--host" in vault("run", "--proxy", "--", "true", code=4).stderr


# more of curl and git; the other clients are in test_proxy_clients.py


@pytest.mark.slow
def test_git_with_basic(vault: Machine, api: Api) -> None:
    if not shutil.which("git"):
        pytest.skip("no git here")
    url = f"https://x-access-token:$API_KEY@api.localhost:{api.port}/repo.git"
    through(vault, api, "sh", "-c", f'git ls-remote "{url}"; true')
    sent = base64.b64encode(f"x-access-token:{VALUE}".encode())
    assert any(b"Basic " + sent in head for head in api.heads)


@pytest.mark.slow
def test_http_2(vault: Machine, tmp_path: Path, api: Api) -> None:
    if "HTTP2" not in subprocess.run(["curl", "-V"], capture_output=True, text=True).stdout:
        pytest.skip("this curl has no HTTP/2")
    newer = Api(tmp_path, is_newer=True)
    api.roots.write_bytes(api.roots.read_bytes() + newer.roots.read_bytes())
    said = through(vault, newer, "sh", "-c", " ".join([*curl_line(newer, "/echo"), "-v", "2>&1"]))
    assert f"authorization: Bearer {VALUE}".encode() in newer.heads[-1] and VALUE not in said
    assert "HTTP/2 200" in said and "authorization: Bearer sk-proj-" in said and "x-trailer: sk-proj-" in said
    newer.close()


def curl_line(api: Api, path: str) -> list[str]:
    return ["curl", "-sS", "-H", '"Authorization: Bearer $API_KEY"', f"https://api.localhost:{api.port}{path}"]
