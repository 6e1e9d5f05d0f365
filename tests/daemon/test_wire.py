"""The socket protocol, as a client in another language speaks it: references/protocol.md and nothing of avault's."""

import base64
import contextlib
import hashlib
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from harness import AVAULT, Machine, wait_until

import avault

PROTOCOL = Path(__file__).resolve().parents[2] / "references" / "protocol.md"
Message = dict[str, Any]


class Client:
    """A connection; requests get version and vault unless they have their own."""

    def __init__(self, machine: Machine) -> None:
        directory = os.path.realpath(machine.vault)
        digest = hashlib.sha256(directory.encode()).digest()
        self.vault = "avault1-" + base64.urlsafe_b64encode(digest).decode()[:16]
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(machine.runtime / "avault.sock"))  # with a time limit, it fails where many wait
        self.socket.settimeout(60)

    def frame(self, op: str, **fields: Any) -> bytes:
        return as_frame({"v": 1, "vault": self.vault, "op": op, **fields})

    def send(self, op: str, **fields: Any) -> None:
        self.socket.sendall(self.frame(op, **fields))

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (piece := self.socket.recv(size - len(data))):
            data += piece
        return data

    def receive(self) -> Message | None:
        """The next frame; None if the daemon closed the connection."""
        header = self.read(4)
        if len(header) < 4:
            assert header == b""
            return None
        size = int.from_bytes(header, "big")
        data = self.read(size)
        assert len(data) == size
        return dict(json.loads(data))

    def ask(self, op: str, **fields: Any) -> Message:
        self.send(op, **fields)
        answer = self.receive()
        assert answer
        return answer

    def is_closed(self, timeout: float = 60) -> bool:
        self.socket.settimeout(timeout)
        with contextlib.suppress(ConnectionResetError):
            return self.socket.recv(1) == b""
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def as_frame(message: object) -> bytes:
    data = json.dumps(message).encode()
    return len(data).to_bytes(4, "big") + data


def get(machine: Machine) -> Message:
    with Client(machine) as client:
        return client.ask("get", group="a", key="B")


def prepare(machine: Machine) -> None:
    machine.init_unproven()
    machine("set", "a/B", input="b")


@pytest.fixture
def vault(lend: Callable[..., Machine]) -> Machine:
    """An open vault with a/B = "b"."""
    return lend(prepare)


# Frames


def test_get(vault: Machine) -> None:
    assert get(vault) == {"ok": True, "group": "a", "key": "B", "value": "b"}


def test_example_of_the_document(vault: Machine, tmp_path: Path) -> None:
    code = PROTOCOL.read_text().split("## A client in 25 lines")[1]
    script = tmp_path / "client.py"
    program = "".join(line.removeprefix("    ") for line in code.splitlines(True))
    script.write_text(program.replace("openai", "a").replace("API_KEY", "B"))
    done = subprocess.run([sys.executable, "-I", script], env=vault.env, capture_output=True, text=True, check=True)
    assert done.stdout == "{'ok': True, 'group': 'a', 'key': 'B', 'value': 'b'}\n"


def test_byte_by_byte(vault: Machine) -> None:
    with Client(vault) as client:
        for _ in range(2):  # the first frame is the supervisor's, the second the keyholder's
            for byte in client.frame("get", group="a", key="B"):
                client.socket.sendall(bytes([byte]))
                time.sleep(0.001)
            assert client.receive() == {"ok": True, "group": "a", "key": "B", "value": "b"}


@pytest.mark.parametrize("size", [65_533, 1 << 24, 0xFFFFFFFF])
def test_first_frame_that_is_too_long(vault: Machine, size: int) -> None:
    with Client(vault) as client:
        client.socket.sendall(size.to_bytes(4, "big") + b"{")
        answer = client.receive()
        assert answer and answer["error"]["code"] == "usage"
        assert client.is_closed()
    assert get(vault)["value"] == "b"


def test_first_frame_that_is_just_short_enough(vault: Machine) -> None:
    with Client(vault) as client:
        bare = len(client.frame("get", group="a", key="B", padding=""))
        assert client.ask("get", group="a", key="B", padding="x" * (65_536 - bare))["value"] == "b"


def test_later_frame_that_is_too_long(vault: Machine) -> None:
    with Client(vault) as client:
        assert client.ask("has", group="a")["has"] is True
        client.socket.sendall(((4 << 20) + 1).to_bytes(4, "big"))
        answer = client.receive()
        assert answer and answer["error"]["code"] == "usage"
        assert client.is_closed()
    assert get(vault)["value"] == "b"


GARBAGE = [
    b"GET / HTTP/1.1\r\n\r\n",
    (0).to_bytes(4, "big"),
    (4).to_bytes(4, "big") + b"\xff\xfe\x00\x01",
    (2).to_bytes(4, "big") + b"[]",
    (4).to_bytes(4, "big") + b"null",
    (7).to_bytes(4, "big") + b'{"v": 1',
    (60_000).to_bytes(4, "big") + b"[" * 60_000,
    (60_000).to_bytes(4, "big") + b'{"a":' * 12_000,
    (50_000).to_bytes(4, "big") + b"9" * 50_000,
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_garbage(vault: Machine, garbage: bytes, first: bool) -> None:
    with Client(vault) as client:
        if not first:
            assert client.ask("has", group="a")["ok"]
        client.socket.sendall(garbage)
        answer = client.receive()
        assert answer and answer["error"]["code"] == "usage"
        assert client.is_closed()
    assert get(vault)["value"] == "b"


# What is refused


def refusal(answer: Message | None) -> str:
    assert answer and answer["ok"] is False
    assert set(answer["error"]) == {"code", "message", "hint"}
    assert not answer["error"]["message"].endswith(".")
    return str(answer["error"]["code"])


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_version(vault: Machine, version: object) -> None:
    with Client(vault) as client:
        answer = client.ask("get", group="a", key="B", v=version)
        assert refusal(answer) == "usage"
        assert "version 1" in answer["error"]["message"]
        assert "avault daemon stop" in answer["error"]["hint"]
    with Client(vault) as client:
        assert client.ask("has", group="a")["ok"]
        assert refusal(client.ask("get", group="a", key="B", v=version)) == "usage"


@pytest.mark.parametrize("other", ["avault1-rXLkVhjE9UBwKgm8", "", None, ["x"], {}])
def test_other_vault(vault: Machine, other: object) -> None:
    for op in ("get", "status", "stop", "open"):
        with Client(vault) as client:
            answer = client.ask(op, group="a", key="B", vault=other, force=True)
            assert refusal(answer) == "unavailable"
            assert str(vault.vault) in answer["error"]["message"]
    with Client(vault) as client:
        assert client.ask("has", group="a")["ok"]
        assert refusal(client.ask("get", group="a", key="B", vault=other)) in ("usage", "unavailable")


@pytest.mark.parametrize("op", ["", "nonsense", "__class__", 1, None, ["get"], {"get": 1}])
def test_unknown_op(vault: Machine, op: Any) -> None:
    with Client(vault) as client:
        assert refusal(client.ask(op)) == "usage"
    with Client(vault) as client:
        assert client.ask("has", group="a")["ok"]
        assert refusal(client.ask(op)) == "usage"


def test_door_request_on_a_value_connection(vault: Machine) -> None:
    with Client(vault) as client:
        assert client.ask("has", group="a")["ok"]
        for op in sorted(avault.DOOR):
            assert refusal(client.ask(op, force=True)) == "usage"
        assert client.ask("get", group="a", key="B")["value"] == "b"
    assert vault.status()["state"] == "unlocked"


BAD_FIELDS: list[Message] = [
    {"op": "get", "group": 7, "key": "B"},
    {"op": "get", "group": "a", "key": ["B"]},
    {"op": "get", "group": "a/B"},
    {"op": "has", "group": None},
    {"op": "delete", "group": "a", "key": ""},
    {"op": "export", "groups": "a"},
    {"op": "export", "only": [1]},
    {"op": "export", "allow": {"PATH": True}},
    {"op": "export", "format": "csv"},
    {"op": "export", "format": ["sh"]},
    {"op": "set", "group": "a"},
    {"op": "set", "group": "a", "key": "B", "generate": 0},
    {"op": "set", "group": "a", "key": "B", "generate": 4097},
    {"op": "set", "group": "a", "key": "B", "generate": "32"},
    {"op": "set", "group": "a", "key": "B", "generate": 3, "note": 4},
    {"op": "set", "group": "a", "key": "B", "generate": 3, "note": "\udcff"},
]


@pytest.mark.parametrize("request_", BAD_FIELDS, ids=map(str, BAD_FIELDS))
def test_bad_fields(vault: Machine, request_: Message) -> None:
    with Client(vault) as client:
        assert refusal(client.ask(**request_)) == "usage"
        assert client.ask("get", group="a", key="B")["value"] == "b"


@pytest.mark.parametrize("timeout", [float("nan"), -1, 0, 0.01])
@pytest.mark.slow
def test_timeouts_that_end_at_once(machine: Machine, timeout: float) -> None:
    machine.init_unproven()
    machine("lock", "--force")
    with Client(machine) as client:
        assert refusal(client.ask("wait", timeout=timeout)) in ("timed_out", "usage")
    assert machine.status()["state"] == "unpaired"


# One connection, many requests


def test_pipelined(vault: Machine) -> None:
    with Client(vault) as client:
        frames = [client.frame("get", group="a", key="B"), client.frame("has", group="no")] * 500
        client.socket.sendall(b"".join(frames))
        for _ in range(500):
            answers = client.receive(), client.receive()
            assert answers == ({"ok": True, "group": "a", "key": "B", "value": "b"}, {"ok": True, "has": False})


def test_pipelined_set_and_get(vault: Machine) -> None:
    """Requests behind one that takes time are answered after it, with what it wrote."""
    with Client(vault) as client:
        value = as_frame({"value": "new"})
        client.socket.sendall(client.frame("set", group="a", key="B") + value + client.frame("get", group="a", key="B"))
        assert client.receive() == {"ok": True, "ready": True}
        assert client.receive() == {"ok": True, "replaced": True}
        answer = client.receive()
        assert answer and answer["value"] == "new"


def test_set(vault: Machine) -> None:
    with Client(vault) as client:
        for value in ("x", "é\n🦄", "y" * (256 << 10)):
            assert client.ask("set", group="a", key="B", note="n") == {"ok": True, "ready": True}
            client.socket.sendall(as_frame({"value": value}))
            assert client.receive() == {"ok": True, "replaced": True}
            assert client.ask("get", group="a", key="B")["value"] == value


@pytest.mark.parametrize("value", ["", None, 7, "a\0b", "\udc00", "x" * 262_145], ids=range(6))
def test_bad_second_frame(vault: Machine, value: object) -> None:
    with Client(vault) as client:
        assert client.ask("set", group="a", key="B")["ready"]
        client.socket.sendall(as_frame({"value": value}))
        assert refusal(client.receive()) == "usage"
        assert client.ask("get", group="a", key="B")["value"] == "b"


def test_client_that_leaves_before_the_second_frame(vault: Machine) -> None:
    for how in ("close", "half"):
        with Client(vault) as client:
            assert client.ask("set", group="a", key="B")["ready"]
            client.socket.sendall(as_frame({"value": "never"})[:-3] if how == "half" else b"")
    assert get(vault)["value"] == "b"


# Clients that behave oddly


def keyholder_descriptors(machine: Machine) -> int:
    return len(os.listdir(f"/proc/{machine.status()['keyholder_pid']}/fd"))


def test_half_closed_client_gets_its_answer(vault: Machine) -> None:
    for op, fields in [("get", {"key": "B"}), ("set", {"key": "C", "generate": 3}), ("delete", {"key": "C"}), ("has", {})]:
        with Client(vault) as client:
            client.send(op, group="a", **fields)
            client.socket.shutdown(socket.SHUT_WR)
            answer = client.receive()
            assert answer and answer["ok"], op
            assert client.is_closed(), op
    with Client(vault) as client:
        client.socket.sendall(client.frame("set", group="a", key="D") + as_frame({"value": "d"}))
        client.socket.shutdown(socket.SHUT_WR)
        assert client.receive() == {"ok": True, "ready": True}
        assert client.receive() == {"ok": True}
        assert client.is_closed()


def big_value(machine: Machine) -> None:
    for key in ("X", "Y", "Z"):
        machine("set", f"a/{key}", input="x" * (256 << 10))


def test_slow_reader(vault: Machine) -> None:
    """A client that reads its huge answer slowly gets all of it, and nobody waits for it."""
    big_value(vault)
    with Client(vault) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(8):
            client.send("export")
        time.sleep(0.3)
        begun = time.monotonic()
        assert get(vault)["value"] == "b"
        assert time.monotonic() - begun < 10
        for _ in range(8):
            answer = client.receive()
            assert answer and answer["variables"]["X"] == "x" * (256 << 10)


def memory(pid: int) -> int:
    """The resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_client_that_never_reads(vault: Machine) -> None:
    """It asks for 2,000 answers of 800 KB: the daemon keeps a few, not 1.6 GB."""
    big_value(vault)
    keyholder = vault.status()["keyholder_pid"]
    before = memory(keyholder)
    with Client(vault) as client:
        client.socket.settimeout(1)
        with contextlib.suppress(TimeoutError):
            client.socket.sendall(client.frame("export") * 2000)
        for _ in range(5):
            begun = time.monotonic()
            assert get(vault)["value"] == "b"
            assert time.monotonic() - begun < 10
            assert memory(keyholder) - before < 100 << 20
            time.sleep(0.1)


def test_idle_connections(vault: Machine) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(vault)) for _ in range(200)]
        for client in clients[100:]:
            assert client.ask("has", group="a")["ok"]
        begun = time.monotonic()
        for _ in range(50):
            assert get(vault)["value"] == "b"
        assert time.monotonic() - begun < 60
        assert all(client.ask("get", group="a", key="B")["value"] == "b" for client in clients)
    if sys.platform == "linux" and os.access(f"/proc/{vault.status()['keyholder_pid']}/fd", os.R_OK):
        wait_until(lambda: keyholder_descriptors(vault) < 50)


def test_many_clients_at_once(vault: Machine) -> None:
    wrong: list[Message] = []

    def work() -> None:
        for _ in range(20):
            answer = get(vault)
            wrong.extend([answer] if answer.get("value") != "b" else [])

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_few_descriptors(machine: Machine) -> None:
    """A daemon that may have 64 open files refuses the rest, answers nobody else's question, and recovers."""
    limit = ["sh", "-c", 'ulimit -n 64; exec "$0" "$@"', AVAULT]
    machine.command = limit
    machine.init_unproven()
    for name in ("B", "C", "D", "E"):
        machine("set", f"a/{name}", input=name.lower())
    with contextlib.ExitStack() as stack:
        clients = []
        for number in range(120):
            client = stack.enter_context(Client(machine))
            clients.append((client, "BCDE"[number % 4]))
            client.send("get", group="a", key=clients[-1][1])
        served = 0
        for client, key in clients:
            client.socket.settimeout(0.5 if served > 20 else 60)  # the first are served, the rest may be left without an answer
            with contextlib.suppress(TimeoutError, ConnectionError):
                if answer := client.receive():
                    served += 1
                    assert answer.get("value") == key.lower(), answer
        assert served > 20
    assert wait_until(lambda: machine("get", "a/C", code=None).stdout == "c\n")


@pytest.mark.slow
def test_client_that_stops_in_the_first_frame(vault: Machine) -> None:
    begun = time.monotonic()
    with Client(vault) as one, Client(vault) as other:
        other.socket.sendall(other.frame("get", group="a", key="B")[:9])
        assert one.is_closed(28)
        assert other.is_closed(28)
        assert 9 < time.monotonic() - begun < 28
    assert get(vault)["value"] == "b"


@pytest.mark.slow
@pytest.mark.parametrize("second", [False, True], ids=["in a request", "in the second frame"])
def test_client_that_stops_in_a_later_frame(vault: Machine, second: bool) -> None:
    with Client(vault) as client:
        if second:
            assert client.ask("set", group="a", key="B")["ready"]
        else:
            assert client.ask("has", group="a")["ok"]
        begun = time.monotonic()
        client.socket.sendall(b"\0\0")
        assert client.is_closed(90)
        assert time.monotonic() - begun > 28
    assert get(vault)["value"] == "b"


# The door


def test_wait(vault: Machine) -> None:
    with Client(vault) as client:
        assert client.ask("wait")["state"] == "unlocked"
    vault("lock", "--force")
    with Client(vault) as client:
        begun = time.monotonic()
        assert refusal(client.ask("wait", timeout=0.5)) == "timed_out"
        assert 0.4 < time.monotonic() - begun < 30
    with Client(vault) as client:
        assert client.ask("wait", settled=True)["state"] == "unpaired"
    with Client(vault) as client:
        assert refusal(client.ask("get", group="a", key="B")) == "locked"
        assert client.is_closed()


@pytest.mark.slow
def test_wait_ends_with_the_state(vault: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    import nostr_sdk

    other = Machine(vault.top / "other")
    nsec = nostr_sdk.Keys.generate().secret_key().to_bech32()
    with other:
        other.init_unproven(NOSTR_NSEC=nsec)
        other("lock", "--force")
        with Client(other) as client:
            client.send("wait")
            other("unlock", NOSTR_NSEC=nsec)
            answer = client.receive()
            assert answer and answer["state"] == "unlocked"


def test_stop(vault: Machine) -> None:
    with Client(vault) as client:
        answer = client.ask("stop")
        assert refusal(answer) == "denied"
        assert "--force" in answer["error"]["hint"]
    with Client(vault) as idle:
        assert idle.ask("has", group="a")["ok"]
        with Client(vault) as client:
            assert client.ask("stop", force=True) == {"ok": True}
            assert client.is_closed(30)
        assert idle.is_closed()
    assert not (vault.runtime / "avault.sock").exists()


def test_when_stop_has_ended_another_daemon_can_start(vault: Machine) -> None:
    """At once, without a look at the process: `avault daemon stop && avault daemon start` is what people type."""
    with Client(vault) as client:
        client.ask("stop", force=True)
        assert client.is_closed(30)
        os.close(avault.lock_directory(str(vault.vault)))


# Other users


@pytest.mark.root
def test_other_user(vault: Machine) -> None:
    """Even with the way to the socket wide open, the daemon serves nobody else, and no client trusts another's daemon."""
    path = vault.runtime / "avault.sock"
    for directory in (vault.runtime, *vault.runtime.parents):
        if directory.stat().st_uid == 0 and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o755)
    path.chmod(0o777)
    frame = Client(vault).frame("get", group="a", key="B")
    script = f"""if True:
        import socket
        daemon = socket.socket(socket.AF_UNIX)
        daemon.settimeout(5)
        daemon.connect({str(path)!r})
        try:
            daemon.sendall({frame!r})
            print(daemon.recv(100))
        except ConnectionError:
            print(b"")"""
    python = shutil.which("python3", path="/usr/bin") or pytest.skip("no python3 that another user can run")
    as_other = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
    done = subprocess.run([*as_other, python, "-I", "-c", script], check=False, capture_output=True, text=True, cwd="/")
    assert (done.stdout, done.stderr) == ("b''\n", "")
    as_self = subprocess.run([python, "-I", "-c", script], check=False, capture_output=True, text=True, cwd="/")
    assert '"value": "b"' in as_self.stdout


@pytest.mark.root
def test_daemon_of_another_user(machine: Machine) -> None:
    """The client sends nothing to a socket that another user listens at."""
    python = shutil.which("python3", path="/usr/bin") or pytest.skip("no python3 that another user can run")
    machine.init_unproven()
    machine("daemon", "stop", "--force")  # else it is found where it says that it listens
    machine.top.chmod(0o755)
    machine.top.parent.chmod(0o755)
    public = machine.top / "public"
    public.mkdir()
    public.chmod(0o777)
    path = public / "a.sock"
    script = f"""if True:
        import socket
        daemon = socket.socket(socket.AF_UNIX)
        daemon.bind({str(path)!r})
        daemon.listen()
        print("ready", flush=True)
        print(daemon.accept()[0].recv(100), flush=True)"""
    as_other = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", python, "-I", "-c", script]
    with subprocess.Popen(as_other, stdout=subprocess.PIPE, text=True, cwd="/") as listener:
        assert listener.stdout and listener.stdout.readline() == "ready\n"
        path.chmod(0o777)
        machine("get", "a/B", AVAULT_SOCKET=str(path), code=6)
        assert listener.stdout.readline() == "b''\n"


# The stream between the two processes


async def test_control_stream_whose_end_is_gone() -> None:
    """A connection that can no longer be handed over is closed: its client must not wait for ever."""
    ours, theirs = socket.socketpair()
    control = avault.Control(ours, lambda message, fd: None, lambda: None)
    theirs.close()
    for _ in range(3):
        client, handed = socket.socketpair()
        with client, handed:
            with contextlib.suppress(avault.Locked):
                control.send({"do": "connection"}, handed.fileno())
            handed.close()
            client.settimeout(1)
            assert client.recv(1) == b""
    control.close()


async def test_descriptor_that_cannot_be_taken() -> None:
    """With too many open files the kernel drops it; the next connection must not get its question."""
    ours, theirs = socket.socketpair()
    got: list[tuple[int, bytes]] = []
    control = avault.Control(theirs, lambda message, fd: got.append((message["n"], os.read(fd, 1))), lambda: None)
    pipes = [os.pipe(), os.pipe()]
    for number, (_, end) in enumerate(pipes):
        os.write(end, b"%d" % number)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for number, (start, _) in enumerate(pipes):
        socket.send_fds(ours, [avault.encode_frame({"n": number, "fd": True})], [start])
        resource.setrlimit(resource.RLIMIT_NOFILE, (3 if number == 0 else soft, hard))
        try:
            control.readable()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert got == [(1, b"1")]
    control.close()
    ours.close()


# The document


def test_document_names_everything(vault: Machine) -> None:
    text = PROTOCOL.read_text()
    for op in sorted(avault.DOOR | avault.SESSIONS | avault.VALUES):
        assert f"**{op}**" in text, op
    bare = set(re.findall(r"`([a-z_]+)`", text))
    fields = set(vault.status()) - {"ok"}
    assert fields <= bare, fields - bare
    assert {"url", "connected", "said", "since", "requests", "error", "auth_url"} <= bare
    assert {error.code for error in avault.ERRORS} | {"error"} <= bare
    for status in ("unlocked", "waiting", "locked", "unpaired", "stopped"):
        assert f"`{status}`" in text
    for number in (avault.FIRST_FRAME, avault.MAX_VALUE):
        assert f"{number:,}" in text


def test_document_names_no_field_that_is_gone(vault: Machine) -> None:
    table = PROTOCOL.read_text().split("**status**: ")[1].split("**wait**: ")[0]
    documented = set(re.findall(r"^\| `([a-z_]+)`", table, re.MULTILINE))
    assert documented == set(vault.status()) - {"ok"}


def test_times_are_rfc_3339(vault: Machine) -> None:
    form = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    assert re.fullmatch(form, vault.status()["since"])
    with Client(vault) as client:
        key = client.ask("list")["groups"][0]["keys"][0]
        assert re.fullmatch(form, key["created"])
        assert re.fullmatch(form, key["updated"])
