"""Git through the proxy: clone and push over HTTPS, by git's own server, with a token that git never has."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nostr_sdk
import pytest
from harness import Machine

pytest.importorskip("mitmproxy", reason="needs mitmproxy (extra `proxy`), and so Python 3.12")

from api_server import Api

NSEC = nostr_sdk.Keys.generate().secret_key().to_bech32()
VALUE = "ghp_Abcdefghijklmnopqrstuvwxyz0123456789"
pytestmark = [
    pytest.mark.starts,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the proxy is for Linux for now"),
    pytest.mark.skipif(not shutil.which("git"), reason="no git here"),
]


class Backend(BaseHTTPRequestHandler):
    """What `git http-backend` says to who has the token (gitprotocol-http)."""

    protocol_version = "HTTP/1.1"
    root = ""
    seen: list[tuple[str, str]]

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        said = self.headers.get("Authorization", "")
        self.seen.append((self.command, said))
        if said != "Basic " + base64.b64encode(f"x-access-token:{VALUE}".encode()).decode():
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": self.root,
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "HTTP_GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_USER": "x-access-token",
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=True)
        head, _, rest = done.stdout.partition(b"\r\n\r\n")
        lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(lines.pop("Status", "200").split()[0]))
        for name, value in lines.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest)

    def do_POST(self) -> None:
        self.do_GET()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int, type[Backend]]]:
    """The authority to trust, the port, and what has come."""
    top = tmp_path_factory.mktemp("git")
    api = Api(top)
    repository = top / "repos" / "project.git"
    subprocess.run(["git", "init", "-q", "--bare", repository], check=True)
    subprocess.run(["git", "-C", repository, "config", "http.receivepack", "true"], check=True)
    handler = type("Here", (Backend,), {"root": str(top / "repos"), "seen": []})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    running.socket = api.context.wrap_socket(running.socket, server_side=True)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield api.roots, running.server_address[1], handler
    running.shutdown()
    running.server_close()
    api.close()


@pytest.fixture
def vault(lend: Callable[..., Machine], server: tuple[Path, int, Any]) -> Machine:
    return lend(prepare, str(server[0]))


def prepare(machine: Machine, roots: str) -> None:
    machine.init_unproven(NOSTR_NSEC=NSEC, AVAULT_ROOTS=roots)
    machine("set", "github/TOKEN", input=VALUE)


SCRIPT = """
set -e
export GIT_CONFIG_GLOBAL=/dev/null GIT_TERMINAL_PROMPT=0
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@a
url="https://x-access-token:$TOKEN@api.localhost:$1/project.git"
rm -rf work again; git init -q work; cd work; git checkout -q -b main
head -c 3000000 /dev/urandom >large; echo hello >file; git add .; git commit -qm one
git -c http.postBuffer=1000000 push -q "$url" main
cd ..; git clone -q -b main "$url" again; cmp work/large again/large; cat again/file
grep -rF "$TOKEN" again/.git/config >/dev/null && echo "placeholder in config"
"""


def test_push_and_clone(vault: Machine, server: tuple[Path, int, type[Backend]]) -> None:
    """With a token of the proxy's, for which git waits until a 407 asks; a pack that goes up in chunks; and what git keeps."""
    _, port, handler = server
    handler.seen.clear()
    away = ("env", "NO_PROXY=", "no_proxy=")
    host = ("--host", f"github/TOKEN=api.localhost:{port}")
    done = vault("run", "--proxy", *host, "--", *away, "sh", "-c", SCRIPT, "sh", str(port))
    assert done.stdout == "hello\nplaceholder in config\n", done.stderr
    assert VALUE not in done.stdout + done.stderr
    meant = "Basic " + base64.b64encode(f"x-access-token:{VALUE}".encode()).decode()
    assert {said for _, said in handler.seen} == {"", meant} and ("POST", meant) in handler.seen
    kept = [path for path in (vault.top / "again").rglob("*") if path.is_file() and VALUE.encode() in path.read_bytes()]
    assert not kept


def test_a_helper_gives_git_the_placeholder(vault: Machine, server: tuple[Path, int, type[Backend]]) -> None:
    """As `gh auth git-credential` does: nothing is in an address, nor in a file."""
    _, port, handler = server
    handler.seen.clear()
    helper = '!f() { echo username=x-access-token; echo "password=$TOKEN"; }; f'
    words = ["git", "-c", f"credential.helper={helper}", "ls-remote", f"https://api.localhost:{port}/project.git"]
    host = ("--host", f"github/TOKEN=api.localhost:{port}")
    done = vault("run", "--proxy", *host, "--", "env", "NO_PROXY=", "no_proxy=", *words)
    assert len(handler.seen) >= 2 and handler.seen[-1][1].startswith("Basic ") and VALUE not in done.stdout + done.stderr
