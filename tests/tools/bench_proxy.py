"""How fast the proxy is: against the API directly, and against mitmdump with nothing to do, in one run.

    python tests/tools/bench_proxy.py                                       prints a Markdown table
    python tests/tools/bench_proxy.py --rounds 0 --requests 100000          what many requests do to its memory, in some minutes
    python tests/tools/bench_proxy.py --write                               writes that into references/performance.md

An API and who asks it are Node's (peers/load.mjs), all on the loopback. Each request through avault carries a placeholder: the
keyholder is asked, the log has a line, and the answer, in which the value comes back, is scrubbed. Of each row the best of some
rounds, in which the three take turns; with --rounds 0 there are none. --requests is how many go through one session while its
memory is looked at, 0 for none.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import documents
import peers
from api_server import make_certificates
from bench import Vault
from harness import find_processes

LOAD = Path(peers.HERE) / "load.mjs"
DOCUMENT = "references/performance.md"
PLACE = "group0/KEY_0"
LARGE = 100 << 20
STEPS = 10  # at which memory is looked at
ROWS = (  # what, protocol, callers, requests, way, bytes; and the least that it is to be of mitmdump
    ("1 connection", "h1", 1, 400, "", 0, 1.0),
    ("20 connections", "h1", 20, 1000, "", 0, 1.0),
    ("100 MB down", "h1", 1, 1, "down", LARGE, 1.0),
    ("100 MB up", "h1", 1, 1, "up", LARGE, 1.0),
    ("1 connection", "h2", 1, 400, "", 0, 0.6),
    ("20 connections", "h2", 20, 1000, "", 0, 0.6),
    ("100 MB down", "h2", 1, 1, "down", LARGE, 0.6),
    ("100 MB up", "h2", 1, 1, "up", LARGE, 0.6),
)
Asker = Callable[..., dict]


def begin(words: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)


@contextlib.contextmanager
def upstream(certificate: Path) -> Iterator[dict[str, int]]:
    """The API; gives its ports."""
    process = begin([*peers.node(), str(LOAD), "serve", str(certificate)], peers.ENVIRON)
    assert process.stdout
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def mitmdump(top: Path, roots: Path) -> Iterator[tuple[dict[str, str], int]]:
    """mitmproxy's own program, as it comes; gives the variables of who goes through it, and its process."""
    with peers.socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    options = [f"confdir={top / 'mitm'}", f"ssl_verify_upstream_trusted_ca={roots}", "flow_detail=0", "termlog_verbosity=error"]
    words = [str(Path(sys.executable).parent / "mitmdump"), "-p", str(port), "--listen-host", "127.0.0.1"]
    process = begin([*words, *(word for each in options for word in ("--set", each))], peers.ENVIRON)
    try:
        bundle = top / "mitm" / "mitmproxy-ca-cert.pem"
        while True:
            with contextlib.suppress(OSError), peers.socket.create_connection(("127.0.0.1", port)):
                if bundle.exists():
                    break
            assert process.poll() is None
            time.sleep(0.1)
        yield {"HTTPS_PROXY": f"http://127.0.0.1:{port}", "NODE_EXTRA_CA_CERTS": str(bundle), "REACHED": "127.0.0.1"}, process.pid
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def ours(vault: Vault, ports: dict[str, int]) -> Iterator[tuple[dict[str, str], int]]:
    """A session of `avault run --proxy`, held open by a command that waits."""
    hosts = [word for port in ports.values() for word in ("--host", f"api.localhost:{port}")]
    vault.run("set", PLACE, input=f"sk-proj-{secrets.token_hex(20)}")
    vault.run("guard", PLACE, "--only", "proxy", *hosts)
    words = [vault.command, "run", "--proxy", "--", "sh", "-c", "env -0 >variables; echo begun; exec cat"]
    pipes = {"stdout": subprocess.PIPE, "stdin": subprocess.PIPE}
    process = subprocess.Popen(words, env=vault.env, cwd=vault.top, text=True, **pipes)
    assert process.stdout
    try:
        assert process.stdout.readline() == "begun\n"
        said = (vault.top / "variables").read_text().split("\0")
        told = dict(word.partition("=")[::2] for word in said if word)
        given = {name: told[name] for name in ("HTTPS_PROXY", "NODE_EXTRA_CA_CERTS")}
        [pid] = find_processes("proxy-session", vault.runtime)
        yield {**given, "KEY": told["KEY_0"]}, pid
    finally:
        process.kill()
        process.wait()


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def ask(env: dict[str, str], port: int, protocol: str, callers: int, requests: int, way: str = "", size: int = 0) -> dict:
    """One run of who asks; what it tells."""
    words = [
        *peers.node(),
        str(LOAD),
        "ask",
        f"https://api.localhost:{port}",
        protocol,
        *map(str, (callers, requests, way, size)),
    ]
    plain = {name: value for name, value in peers.ENVIRON.items() if "proxy" not in name.lower()}
    done = subprocess.run(words, env={**plain, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert not told["errors"] and not told["kept"], told
    return dict(told)


def megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def measure_many(mine: dict[str, str], ports: dict[str, int], pid: int, requests: int) -> list[str]:
    """Many callers, and many requests of some: what is said of errors, of which there is to be none, and of memory."""
    notes = [f"memory of the proxy's process at its start: {megabytes(resident(pid))}"]
    for protocol, name in (("h1", "HTTP/1.1"), ("h2", "HTTP/2")):
        ask(mine, ports[protocol], protocol, 200, 2000)
        notes.append(f"200 callers at once by {name}: 2,000 requests, no error")
    looked, begun = [resident(pid)], time.monotonic()
    for _ in range(STEPS):
        ask(mine, ports["h1"], "h1", 20, requests // STEPS)
        looked.append(resident(pid))
        print("memory", megabytes(looked[-1]), f"{time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    took = time.monotonic() - begun
    notes.append(
        f"{requests:,} requests more by 20 callers, in {took:,.0f} s: no error. Its memory before them, and after each "
        f"{requests // STEPS:,}: {', '.join(map(megabytes, looked))}"
    )
    return notes


def measure(top: Path, requests: int, rounds: int, only: str = "") -> tuple[list[tuple[str, ...]], list[str]]:
    """The rows of the table, and what is said below it."""
    roots, server = make_certificates(top)
    vault = Vault(top / "vault", 10, Path(sys.executable).parent / "avault")
    vault.env["AVAULT_ROOTS"] = str(roots)
    rows, notes = [], []
    with contextlib.ExitStack() as stack:
        ports = stack.enter_context(upstream(server))
        stack.callback(vault.stop)
        vault.start()
        theirs, their_pid = stack.enter_context(mitmdump(top, roots))
        mine, my_pid = stack.enter_context(ours(vault, ports))
        sides = {
            "direct": {"NODE_EXTRA_CA_CERTS": str(roots), "KEY": "x" * 40},
            "mitmdump": {**theirs, "KEY": "x" * 40},
            "avault": mine,
        }
        wanted = [row for row in ROWS if only in f"{row[1]} {row[0]}"]
        for what, protocol, callers, count, way, size, least in wanted if rounds else ():
            best: dict[str, float] = {}
            for _ in range(rounds):
                for side, env in sides.items():
                    took = ask(env, ports[protocol], protocol, callers, count, way, size)["seconds"]
                    best[side] = min(took, best.get(side, took))
            unit = (
                (lambda took, size=size: f"{size / took / 1e6:,.0f} MB/s")
                if size
                else (lambda took, count=count: f"{count / took:,.0f}/s")
            )
            ratio = best["mitmdump"] / best["avault"]
            name = {"h1": "HTTP/1.1", "h2": "HTTP/2"}[protocol]
            rows.append((f"{name}, {what}", *(unit(best[side]) for side in sides), f"{ratio:.2f}", f"{least:.1f}"))
            print(rows[-1], megabytes(resident(my_pid)), file=sys.stderr)
        kept = [f"mitmdump after the same rows: {megabytes(resident(their_pid))}"] if rounds else []
        if requests:
            notes += measure_many(mine, ports, my_pid, requests)
        notes += kept
    return rows, notes


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="rows whose protocol and name have this in them, as 'h1 1 conn'")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    top = Path(tempfile.mkdtemp(prefix="bench", dir="/tmp"))
    try:
        rows, notes = measure(top, given.requests, given.rounds, given.only)
    finally:
        shutil.rmtree(top, ignore_errors=True)
    heads = ("", "direct", "mitmdump", "avault", "of mitmdump", "at least")
    table = "\n".join("| " + " | ".join(row) + " |" for row in [heads, ("---",) * len(heads), *rows])
    load = os.getloadavg()[0]
    head = f"{time.strftime('%-d %B %Y')}, Python {platform.python_version()}, {os.cpu_count()} processors, load {load:.1f}"
    said = "\n".join(f"- {note}" for note in notes)
    parts = {"proxy-memory": f"{head}\n\n{said}"} if not given.rounds else {"proxy": f"{head}\n\n{table}\n\n{said}"}
    print(*parts.values())
    if given.write:
        path = documents.ROOT / DOCUMENT
        path.write_text(documents.refresh(path.read_text(encoding="utf-8"), **parts), encoding="utf-8")


if __name__ == "__main__":
    main()
