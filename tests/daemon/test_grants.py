"""`avault grant`, `grants` and `revoke`, with real processes: what a caller gets through a grant's socket, and when it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import nostr_sdk
import pytest
from canary import Canary
from harness import SOURCE, Machine, wait_until

import avault

pytestmark = pytest.mark.usefixtures("forks")

NSEC = nostr_sdk.Keys.generate().secret_key().to_bech32()


def prepare(machine: Machine, canary: Canary) -> None:
    machine.init_unproven(NOSTR_NSEC=NSEC)
    machine("set", "openai/API_KEY", "--note", "billing", input=canary.value)
    machine("set", "openai/ORG", input=canary.new("org"))
    machine("set", "db/PASSWORD", input=canary.new("db"))


@pytest.fixture
def vault(lend: Callable[..., Machine], canary: Canary) -> Machine:
    """An open vault with three secrets; nobody can agree to anything."""
    return lend(prepare, canary)


def make(machine: Machine, *words: str) -> str:
    """The path of a new grant."""
    return machine("grant", *words).stdout.rstrip("\n")


class Caller:
    """A connection to a socket; `ask` gives the answer to a request, or None where it has ended."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)

    def say(self, **message: Any) -> None:
        self.socket.sendall(avault.encode_frame({"v": 1, "vault": "any", **message}))

    def hear(self) -> dict[str, Any] | None:
        data = b""
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
            try:
                piece = self.socket.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not piece:
                return None
            data += piece
        return avault.decode_frame(data[4:])

    def ask(self, op: str, **fields: Any) -> dict[str, Any] | None:
        try:
            self.say(op=op, **fields)
        except OSError:
            return None
        return self.hear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def test_a_day_with_a_grant(vault: Machine, canary: Canary) -> None:
    path = make(vault, "web", "--only", "openai/API_KEY", "--for", "8h", "--times", "5")
    assert stat.S_IMODE(os.stat(path).st_mode) & 0o077 == 0 and stat.S_IMODE(os.stat(Path(path).parents[1]).st_mode) == 0o700
    web = {"AVAULT_SOCKET": path}
    assert vault("get", "openai/API_KEY", secret=True, **web).stdout == canary.value + "\n"
    assert vault("list", "--names", **web).stdout == "openai/API_KEY\n"
    assert "billing" not in vault("list", **web).stdout, "the note is about the whole group"
    for name in ("openai/ORG", "db/PASSWORD", "none/NONE"):
        refused = vault("get", name, code=4, **web)
        vault("has", name, code=4, **web)
        assert refused.stderr.replace(name, "N").replace(name.partition("/")[0], "G").count("avault: error:") == 1
    vault("has", "openai/API_KEY", **web)
    for words in (("set", "openai/API_KEY"), ("delete", "openai/API_KEY"), ("guard", "openai/API_KEY", "--only", "run"),
                  ("unguard", "openai", "--yes"), ("lock",), ("daemon", "stop"), ("unlock",), ("status",), ("status", "--short"),
                  ("grant", "more", "--group", "db"), ("grants",), ("revoke", "web"), ("revoke", "--all"), ("log", "--verify"),
                  ("mv", "openai/API_KEY", "openai/B"), ("wait",), ("machine", "list"),
                  ("custody", "list"), ("key", "generate", "ed25519", "a/B")):  # fmt: skip
        refused = vault(*words, code=5, input="value", **web)
        assert "through a grant that may not be asked" in refused.stderr and "hint" in refused.stderr, words
    assert vault("run", "--no-mask", "--", "sh", "-c", 'echo "$API_KEY"', secret=True, **web).stdout == canary.value + "\n"
    assert vault("run", "--", "sh", "-c", 'echo "$API_KEY"', **web).stdout == "<avault:openai/API_KEY>\n"
    shown = vault("grants", "--json").json["grants"][0]
    assert shown["name"] == "web" and shown["times"] == 2 and shown["path"] == path and shown["used"] and shown["until"]
    assert vault.status()["grants"] == ["web"] and "Grants: web; see: avault grants" in vault("status").stdout
    assert "get, run: openai/API_KEY; until" in vault("grants").stdout
    lines = [json.loads(line) for line in (vault.own / "access.log").read_text().splitlines()]
    assert [line["op"] for line in lines if line.get("grant") == "web"] == ["get", "export", "export"], "masking is none"
    refused_lines = [json.loads(line) for line in (vault.own / "refused.log").read_text().splitlines()]
    assert {"set", "delete", "lock", "grant", "revoke"} <= {line["op"] for line in refused_lines if line.get("grant") == "web"}
    assert "through the grant web: denied" in vault("log").stdout
    assert vault("revoke", "web").stderr == "avault: ended: web\n"
    assert not os.path.lexists(path)
    ended = vault("get", "openai/API_KEY", code=6, **web)
    assert "no grant answers at" in ended.stderr and "avault grants" in ended.stderr
    vault("revoke", "web", code=4)
    assert "there are no grants" in vault("grants").stderr


def test_a_lock_ends_it_and_nothing_of_it_comes_back(vault: Machine, canary: Canary) -> None:
    path = make(vault, "web", "--group", "openai")
    assert "not in the vault yet: soon" in vault("grant", "soon", "--group", "soon").stderr
    with Caller(path) as idle, Caller(path) as used:
        assert (used.ask("get", group="openai", key="API_KEY") or {})["ok"]
        vault("lock", "--force")
        assert idle.ask("get", group="openai", key="API_KEY") is None
        assert used.ask("get", group="openai", key="API_KEY") is None
    assert not os.path.lexists(path)
    assert "locked" in vault("grant", "web", "--group", "openai", code=3).stderr
    vault("grants", code=3)
    vault("unlock", NOSTR_NSEC=NSEC)
    assert vault.status()["grants"] == [] and not os.path.lexists(path)
    assert vault("get", "openai/API_KEY", code=6, AVAULT_SOCKET=path).stdout == ""
    assert make(vault, "web", "--group", "db") == path, "found again by who has its directory mounted"
    vault("get", "openai/API_KEY", code=4, AVAULT_SOCKET=path)
    assert vault("get", "db/PASSWORD", secret=True, AVAULT_SOCKET=path).stdout == canary.new("db") + "\n"


@pytest.mark.parametrize("which", ["keyholder_pid", "pid"])
def test_a_daemon_that_is_killed_leaves_nothing_that_answers(vault: Machine, which: str) -> None:
    path = make(vault, "web", "--group", "openai")
    status = vault.status()
    with Caller(path) as caller:
        assert (caller.ask("has", group="openai") or {})["has"]
        os.kill(status[which], signal.SIGKILL)
        assert caller.hear() is None
    wait_until(lambda: not os.path.exists(f"/proc/{status['keyholder_pid']}"), what="the keyholder's end")
    assert vault("get", "openai/API_KEY", code=6, AVAULT_SOCKET=path).stdout == ""
    vault("daemon", "start", "-b", NOSTR_NSEC=NSEC)
    vault("unlock", NOSTR_NSEC=NSEC)
    assert not os.path.lexists(path) and vault.status()["grants"] == []


def test_it_lasts_as_long_as_a_command(vault: Machine, canary: Canary) -> None:
    script = f"""if True:
        import os, subprocess, sys
        print(subprocess.run([sys.executable, {str(SOURCE)!r}, "get", "openai/API_KEY"], capture_output=True).stdout.decode())
        print(sorted(int(each) for each in os.listdir("/proc/self/fd") if int(each) > 2)[:-1], file=sys.stderr)
        sys.exit(7)"""
    ran = vault("grant", "child", "--only", "openai/API_KEY", "--", sys.executable, "-c", script, code=7, secret=True)
    assert ran.stdout == canary.value + "\n\n" and ran.stderr.splitlines()[-1] == "[]", "no connection is inherited"
    assert vault("grants", "--json").json["grants"] == []
    assert "cannot run" in vault("grant", "child", "--group", "db", "--", "/none/such", code=127).stderr
    assert vault("grant", "child", "--group", "db", "--", "sh", "-c", "kill -9 $$", code=137).stdout == ""
    assert "after --" in vault("grant", "child", "true", "--group", "db", code=2).stderr
    running = vault.start("grant", "child", "--group", "openai", "--", "sh", "-c", "echo $AVAULT_SOCKET; exec sleep 600")
    path = running.line("/")
    with Caller(path) as caller:
        assert (caller.ask("has", group="openai") or {})["has"]
        running.process.send_signal(signal.SIGTERM)
        assert running.wait().returncode == 128 + signal.SIGTERM
        wait_until(lambda: vault.status()["grants"] == [], what="the end of the grant")
        assert caller.ask("has", group="openai") is None and not os.path.lexists(path)
    running = vault.start("grant", "child", "--group", "openai", "--", "sh", "-c", "echo $AVAULT_SOCKET $$; exec sleep 600")
    path, pid = running.line("/").split()
    running.kill()  # then the command goes on, with nothing
    wait_until(lambda: not os.path.lexists(path), what="the end of the grant")
    os.kill(int(pid), signal.SIGKILL)


def test_64_callers_while_it_is_revoked(vault: Machine, canary: Canary) -> None:
    """From the moment that `revoke` has returned, none gets anything, on no connection."""
    path = make(vault, "web", "--group", "openai")
    revoked, late, counts = threading.Event(), list[Any](), list[int]()

    def call() -> None:
        count = 0
        with contextlib.suppress(OSError), Caller(path) as caller:  # some come when it is gone
            while True:
                was_over = revoked.is_set()
                answer = caller.ask("get", group="openai", key="API_KEY")
                if was_over and answer is not None:
                    late.append(answer)
                if answer is None:
                    break
                count += answer["value"] == canary.value
        counts.append(count)

    threads = [threading.Thread(target=call) for _ in range(64)]
    for thread in threads:
        thread.start()
    wait_until(lambda: vault("grants", "--json").json["grants"][0]["used"], what="a use")
    vault("revoke", "--all")
    revoked.set()
    for thread in threads:
        thread.join(60)
    assert not late and len(counts) == 64 and sum(counts) > 0


def test_times_under_20_parallel_callers(vault: Machine, canary: Canary) -> None:
    path = make(vault, "few", "--group", "openai", "--times", "7")
    together, got = threading.Barrier(20), list[dict[str, Any] | None]()

    def call() -> None:
        with Caller(path) as caller:
            together.wait()
            got.extend(caller.ask("get", group="openai", key="API_KEY") for _ in range(3))

    threads = [threading.Thread(target=call) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(got) == 60 and sum(bool(each and each["ok"]) for each in got) == 7
    assert "as often as it may be" in vault("get", "openai/API_KEY", code=5, AVAULT_SOCKET=path).stderr
    vault("has", "openai/API_KEY", AVAULT_SOCKET=path)


def test_its_time(vault: Machine) -> None:
    path = make(vault, "short", "--group", "openai", "--for", "5")
    with Caller(path) as caller:
        assert (caller.ask("has", group="openai") or {"has": None})["has"] is not None
        assert caller.hear() is None, "who is connected is cut off when it is over"
    wait_until(lambda: not os.path.lexists(path), what="the end of the socket")
    assert vault.status()["grants"] == []


def test_what_is_in_its_place(vault: Machine, tmp_path: Path) -> None:
    """A directory that is a link, or that others can write to, takes no socket; what was put in its place is left there."""
    path = Path(make(vault, "web", "--group", "openai"))
    os.replace(path, path.with_name("ours"))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        vault("revoke", "web")
        assert stat.S_ISSOCK(path.lstat().st_mode), "another's socket in its place is not taken away"
    path.unlink()
    path.with_name("ours").unlink()
    path.parent.rmdir()
    path.parent.symlink_to(tmp_path, target_is_directory=True)
    assert "only we can write to" in vault("grant", "web", "--group", "openai", code=1).stderr
    path.parent.unlink()
    path.parent.mkdir()
    path.parent.chmod(0o777)
    assert "only we can write to" in vault("grant", "web", "--group", "openai", code=1).stderr
    path.parent.chmod(0o700)
    path.write_text("mine")
    assert "is no socket" in vault("grant", "web", "--group", "openai", code=1).stderr
    assert path.read_text() == "mine" and vault.status()["grants"] == []
    path.unlink()
    assert make(vault, "web", "--group", "openai") == str(path)


def test_odd_words(vault: Machine) -> None:
    for name in ("..", "../x", "a/b", "", "-a", "a b", "a\n", "é", "x" * 33, ".a"):
        refused = vault("grant", "--group", "openai", "--", name, code=2)
        assert "not a name for a grant" in refused.stderr or "argument" in refused.stderr, name
    for words, says in (
        ((), "a grant of nothing"),
        (("--only", "API_KEY"), "not a key name"),
        (("--group", "a/b"), "not a group name"),
        (("--group", "a", "--can", "fly"), "nothing that a grant can"),
        (("--group", "a", "--times", "0"), "from 1"),
        (("--group", "a", "--for", "0"), "above 0"),
        (("--group", "a", "--uid", "no-such-user"), "no user no-such-user"),
        (("--group", "a", "--uid", "4294967295"), "a uid is a number"),
    ):
        assert says in vault("grant", "web", *words, code=2).stderr, words
    many = [word for number in range(1001) for word in ("--only", f"g{number}/K")]
    assert "at most 1,000" in vault("grant", "web", *many, code=2).stderr
    assert make(vault, "web", *many[:1000])
    assert "there is a grant web already" in vault("grant", "web", "--group", "a", code=5).stderr
    vault("revoke", code=2)
    vault("revoke", "web", "--all", code=2)


def test_only_python_and_the_file(vault: Machine, canary: Canary, tmp_path: Path) -> None:
    """As a client of another machine's image has it: no packages, no home, no vault's directory."""
    path = make(vault, "web", "--only", "openai/API_KEY")
    (tmp_path / "avault.py").write_bytes(SOURCE.read_bytes())
    bare = {"AVAULT_SOCKET": path, "HOME": str(tmp_path / "none"), "PATH": os.environ["PATH"]}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-I", "-S", str(tmp_path / "avault.py"), *words]
        return subprocess.run(argv, check=False, env=bare, capture_output=True, text=True, timeout=60)

    assert run("get", "openai/API_KEY").stdout == canary.value + "\n"
    assert run("list", "--names").stdout == "openai/API_KEY\n"
    assert (run("has", "openai/API_KEY").returncode, run("has", "db/PASSWORD").returncode) == (0, 4)
    assert run("run", "--no-mask", "--", "sh", "-c", 'echo "$API_KEY"').stdout == canary.value + "\n"
    began = time.monotonic()
    vault("revoke", "web")
    ended = run("get", "openai/API_KEY")
    assert ended.returncode == 6 and "no grant answers at" in ended.stderr and time.monotonic() - began < 60
