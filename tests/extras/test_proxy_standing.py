"""The proxy through a grant, and one that stays: real processes and clients, before a local API with TLS."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nostr_sdk
import pytest
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


@pytest.fixture
def vault(lend: Callable[..., Machine], api: Api) -> Machine:
    """An open vault with a guarded key, and one that no grant here has."""
    return lend(prepare, str(api.roots), api.port)


def prepare(machine: Machine, roots: str, port: int) -> None:
    machine.init_unproven(NOSTR_NSEC=NSEC, AVAULT_ROOTS=roots)
    machine("set", "openai/API_KEY", input=VALUE)
    machine("set", "other/KEY", input="the-other-value-0123456789")
    for name in ("openai/API_KEY", "other/KEY"):
        machine("guard", name, "--host", f"api.localhost:{port}")


def grant(vault: Machine, name: str = "web", *words: str) -> str:
    return vault("grant", name, "--group", "openai", "--can", "proxy", *words).stdout.rstrip("\n")


def read(printed: str) -> dict[str, str]:
    """The variables that `start` prints for a shell."""
    said = subprocess.run(["sh", "-c", f"{printed}\nenv -0"], check=True, capture_output=True, text=True, env={}).stdout
    return dict(each.partition("=")[::2] for each in said.split("\0") if each)


def curl(api: Api, path: str = "/echo", **env: str) -> subprocess.CompletedProcess[str]:
    """curl in a process that has no more of ours than these variables."""
    words = ["curl", "-sS", "-m", "20", "-H", f"Authorization: Bearer {env.get('API_KEY', 'none')}"]
    words.append(f"https://api.localhost:{api.port}{path}")
    env = {**env, "NO_PROXY": "", "no_proxy": "", "PATH": os.environ["PATH"]}
    return subprocess.run(words, check=False, env=env, capture_output=True, text=True, timeout=60)


def proxies(vault: Machine) -> list[dict[str, Any]]:
    return list(json.loads(vault("proxy", "status", "--json").stdout)["proxies"])


def is_gone(vault: Machine) -> bool:
    return not processes(vault) and not [*vault.runtime.glob("*-grants/*/proxy*")]


def processes(vault: Machine) -> list[int]:
    """The proxies of a vault."""
    return find_processes("proxy-session", vault.runtime)


def test_one_that_stays(vault: Machine, api: Api) -> None:
    """Started, used by its port and token, shown, stopped; the value is in nothing that its caller has or sees."""
    grant(vault)
    made = vault("proxy", "start", "web", "--port", "0")
    env = read(made.stdout)
    token = env["HTTPS_PROXY"].partition("avault:")[2].partition("@")[0]
    assert len(token) == 43 and token not in made.stderr and VALUE not in made.stdout + made.stderr
    done = curl(api, **env)
    assert f"Bearer {env['API_KEY']}" in done.stdout and VALUE not in done.stdout + done.stderr
    assert f"Bearer {VALUE}".encode() in api.heads[-1] and token.encode() not in api.heads[-1]
    for wrong in ("http://127.0.0.1:", "http://avault:wrong@127.0.0.1:"):
        other = {**env, "HTTPS_PROXY": wrong + env["HTTPS_PROXY"].rpartition(":")[2], "https_proxy": ""}
        assert "407" in curl(api, **other).stderr
    [shown] = proxies(vault)
    assert (shown["grant"], shown["requests"], shown["hosts"]) == ("web", 1, ["api.localhost"])
    said = vault("proxy", "status").stdout + vault("log").stdout + vault("status", "--json").stdout
    assert "web  since " in said and token not in said and VALUE not in said
    assert "proxy GET api.localhost/echo openai/API_KEY" in said
    line = [json.loads(each) for each in (vault.own / "access.log").read_text().splitlines()][-1]
    assert (line["op"], line["grant"]) == ("proxy", "web")
    daemon = int(next(vault.runtime.glob("*.pid")).read_text())
    for pid in (daemon, *processes(vault)):
        seen = Path(f"/proc/{pid}/cmdline").read_text()
        assert token not in seen and VALUE not in seen
    assert "ended: web" in vault("proxy", "stop", "web").stderr
    wait_until(lambda: is_gone(vault))
    assert curl(api, **env).returncode and proxies(vault) == []
    assert read(vault("proxy", "start", "web", "--port", "0").stdout)["HTTPS_PROXY"] != env["HTTPS_PROXY"]


def pass_on(path: Path) -> tuple[subprocess.Popen[bytes], int]:
    """What a container has in front of the socket: a port of its own that leads there."""
    code = f"""if True:
        import socket, threading
        def copy(a, b):
            try:
                while data := a.recv(65536):
                    b.sendall(data)
                b.shutdown(socket.SHUT_WR)
            except OSError:
                for end in (a, b):
                    try:
                        end.shutdown(socket.SHUT_RDWR)
                    except OSError:
                        pass
        server = socket.create_server(("127.0.0.1", 0))
        print(server.getsockname()[1], flush=True)
        while True:
            one, _ = server.accept()
            other = socket.socket(socket.AF_UNIX)
            other.connect({str(path)!r})
            threading.Thread(target=copy, args=(one, other), daemon=True).start()
            threading.Thread(target=copy, args=(other, one), daemon=True).start()"""
    process = subprocess.Popen([sys.executable, "-I", "-c", code], stdout=subprocess.PIPE)
    assert process.stdout
    return process, int(process.stdout.readline())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["revoke", "lock", "kill"])
def test_it_ends_at_once_with_what_is_open_through_it(vault: Machine, api: Api, how: str) -> None:
    """By its socket, which a container has mounted; without a token, as the kernel tells who is there."""
    path = Path(grant(vault))
    told = json.loads(vault("proxy", "start", "web", "--json").stdout)
    assert told["socket"] == str(path.parent / "proxy" / "proxy.sock") and told["port"] is None
    assert "HTTPS_PROXY" not in told["variables"] and Path(told["bundle"]).exists()
    forwarder, port = pass_on(Path(told["socket"]))
    env = {**told["variables"], "HTTPS_PROXY": f"http://127.0.0.1:{port}"}
    try:
        assert f"Bearer {env['API_KEY']}" in curl(api, **env).stdout
        api.proceed.clear()
        before = len(api.heads)
        words = ["curl", "-sS", "-H", f"Authorization: Bearer {env['API_KEY']}", f"https://api.localhost:{api.port}/hold"]
        held = subprocess.Popen(
            words, env={**env, "NO_PROXY": "", "no_proxy": "", "PATH": os.environ["PATH"]}, stderr=subprocess.PIPE
        )
        wait_until(lambda: len(api.heads) > before)
        if how == "kill":
            os.kill(processes(vault)[0], signal.SIGKILL)
        else:
            vault(*{"revoke": ("revoke", "web"), "lock": ("lock", "--force")}[how])
        assert held.wait(60) != 0
        wait_until(lambda: is_gone(vault))
        assert curl(api, **env).returncode
    finally:
        forwarder.kill()
        forwarder.wait()
    if how == "kill":
        wait_until(lambda: proxies(vault) == [])
        vault("proxy", "start", "web")


def test_run_through_a_grant(vault: Machine, api: Api) -> None:
    """By a port of its own with a token, and the session's socket beside the grant's; never more than the grant."""
    env = {"AVAULT_SOCKET": grant(vault)}
    line = shlex.join(["curl", "-sS", "-H", "X", f"https://api.localhost:{api.port}/echo"]).replace(
        "-H X", '-H "Authorization: Bearer $API_KEY"'
    )
    words = ["env", "NO_PROXY=", "no_proxy=", "sh", "-c", f"{line}; env; ls $(dirname $SSL_CERT_FILE)"]
    done = vault("run", "--proxy", "--", *words, **env)
    assert "Bearer sk-proj-" in done.stdout and VALUE not in done.stdout + done.stderr
    assert f"Bearer {VALUE}".encode() in api.heads[-1] and "OTHER" not in done.stdout and "\nKEY=" not in done.stdout
    assert "through the proxy: openai/API_KEY\n" in done.stderr
    wait_until(lambda: is_gone(vault))
    assert "only to proxy" in vault("get", "openai/API_KEY", code=5, **env).stderr
    assert "nobody says" in vault("run", "--proxy", "--host", "openai/API_KEY=x.example", "--", "true", code=5, **env).stderr
    assert "nobody says" in vault("run", "--proxy", "--egress", "open", "--", "true", code=5, **env).stderr
    assert "other/KEY" in vault("run", "--proxy", "--only", "other/KEY", "--", "true", code=4, **env).stderr
    assert "may not be asked" in vault("proxy", "start", "web", code=5, **env).stderr


@pytest.mark.slow
def test_nothing_is_left_when_the_daemon_stops(vault: Machine) -> None:
    grant(vault)
    vault("proxy", "start", "web")
    assert [*vault.runtime.glob("*-grants/web/proxy/proxy.sock")]
    vault("daemon", "stop", "--force")
    assert not processes(vault) and not [*vault.runtime.glob("*-grants")] and not [*vault.runtime.glob("*-proxy-*")]


@pytest.mark.slow
def test_what_start_refuses(vault: Machine) -> None:
    assert "no grant web" in vault("proxy", "start", "web", code=4).stderr
    vault("grant", "web", "--group", "openai")
    assert "only to get or run" in vault("proxy", "start", "web", code=5).stderr
    vault("revoke", "web")
    grant(vault)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen at port {port}" in vault("proxy", "start", "web", "--port", port, code=6).stderr
    assert "a number" in vault("proxy", "start", "web", "--port", "x", code=2).stderr
    assert proxies(vault) == [] and "which proxy" in vault("proxy", "stop", code=2).stderr


CONTAINER = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "sh", "-c"]


@pytest.mark.slow
def test_in_a_container_that_has_only_the_grants_directory(vault: Machine, api: Api) -> None:
    """Its network is its own, with nothing in it; the vault, its state and its sockets are not there; the API is reached."""
    if subprocess.run([*CONTAINER, "ip link set lo up"], check=False, capture_output=True).returncode:
        pytest.skip("no namespaces here, or no ip")
    path = Path(grant(vault))
    line = f'curl -sS -m 20 -H "Authorization: Bearer $API_KEY" https://api.localhost:{api.port}/echo'
    straight = f"curl -sS -m 5 --noproxy '*' https://api.localhost:{api.port}/echo; echo straight $?"
    inner = shlex.join(
        [*vault.command, "run", "--proxy", "--", "env", "NO_PROXY=", "no_proxy=", "sh", "-c", f"{line}; {straight}"]
    )
    hide = f"mount -t tmpfs none {vault.home} && mount -t tmpfs none {vault.state}"
    set_up = f"mount -t tmpfs none /mnt && mkdir /mnt/run && mount --bind {path.parent} /mnt/run && ip link set lo up"
    script = f"{set_up} && {hide} && mount -t tmpfs none {vault.runtime} && exec {inner}"
    env = {**vault.env, "AVAULT_SOCKET": "/mnt/run/grant.sock"}
    done = subprocess.run([*CONTAINER, script], check=False, env=env, cwd="/", capture_output=True, text=True, timeout=90)
    assert "Bearer sk-proj-" in done.stdout and VALUE not in done.stdout + done.stderr, done
    assert f"Bearer {VALUE}".encode() in api.heads[-1]
    assert "straight 0" not in done.stdout and "straight " in done.stdout
