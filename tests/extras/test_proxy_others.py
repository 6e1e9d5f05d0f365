"""A proxy that stays, for another user of this machine: by its socket, which no third one may use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nostr_sdk
import pytest
from canary import Canary
from harness import Machine

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

from api_server import Api

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.getuid() != 0, reason="needs root"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux"),
]
WEB, OTHER = 54321, 54322  # users of this machine
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
CLIENT = """if True:
    import json, os, socket, ssl, sys
    path, bundle, host, port = sys.argv[1:5]
    def send(head):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(path)
            sock.sendall(f"CONNECT {host}:{port} HTTP/1.1\\r\\nHost: {host}:{port}\\r\\n\\r\\n".encode())
            said = sock.recv(65536)
            if b" 200 " not in said:
                return repr(said)
            with ssl.create_default_context(cafile=bundle).wrap_socket(sock, server_hostname=host) as tls:
                tls.sendall(head)
                return repr(tls.recv(65536))
    lines = ["GET /echo HTTP/1.1", f"Host: {host}:{port}", "Authorization: Bearer " + os.environ["API_KEY"], "", ""]
    print(send("\\r\\n".join(lines).encode()))"""


@pytest.fixture
def vault(canary: Canary, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Machine, Api]]:
    """An open vault whose socket is where others may come by."""
    api = Api(tmp_path)
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        top = Path(name)
        top.chmod(0o711)
        with Machine(top / "home") as machine:
            run = top / "run"
            run.mkdir(mode=0o711)
            machine.env["AVAULT_SOCKET"] = str(run / "avault.sock")
            nsec = nostr_sdk.Keys.generate().secret_key().to_bech32()
            machine.init_unproven(NOSTR_NSEC=nsec, AVAULT_ROOTS=str(api.roots))
            machine("set", "openai/API_KEY", input=canary.value)
            machine("guard", "openai/API_KEY", "--host", f"api.localhost:{api.port}")
            yield machine, api
    api.close()


def test_another_user_and_a_third_one(vault: tuple[Machine, Api], canary: Canary) -> None:
    machine, api = vault
    machine("grant", "web", "--group", "openai", "--can", "proxy", "--uid", str(WEB))
    told = json.loads(machine("proxy", "start", "web", "--json").stdout)

    def use(uid: int) -> subprocess.CompletedProcess[str]:
        words = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", PYTHON, "-I", "-c", CLIENT]
        given = [told["socket"], told["bundle"], "api.localhost", str(api.port)]
        env = {"API_KEY": told["variables"]["API_KEY"], "PATH": "/usr/bin:/bin"}
        return subprocess.run([*words, *given], check=False, env=env, cwd="/", capture_output=True, text=True, timeout=60)

    done = use(WEB)
    assert "200" in done.stdout and told["variables"]["API_KEY"] in done.stdout, done
    assert canary.value not in done.stdout + done.stderr and canary.value.encode() in api.heads[-1]
    before = len(api.heads)
    for stranger in (OTHER, 0):  # not even who has the vault: it is the grant's
        refused = use(stranger)
        assert "200" not in refused.stdout and len(api.heads) == before, (stranger, refused)
    line = [json.loads(each) for each in (machine.own / "access.log").read_text().splitlines()][-1]
    assert (line["op"], line["grant"], line["uid"]) == ("proxy", "web", WEB)
    machine("revoke", "web")
    assert "200" not in use(WEB).stdout and not Path(told["socket"]).exists()
