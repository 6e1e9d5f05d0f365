"""The socket, attacked: nothing dies, nothing is released that should not be, and others are served meanwhile."""

import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import figures
import nostr_sdk
import pytest
from canary import Canary, record
from harness import AVAULT, Machine, wait_until
from hostile import READS, WRITES, Dice, faults, frame, message
from hypothesis import given, settings
from hypothesis import strategies as st
from test_wire import Client, memory

import avault

pytestmark = [pytest.mark.proof, pytest.mark.usefixtures("forks")]

HERE = Path(__file__).resolve().parent
HARD = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1 << 16)


class Bystander:
    """A process that asks for one value over and over, each time on a new connection, while others misbehave.

    A connection that ends without an answer is tried once more, as every client does. `quick` has to come.
    """

    SCRIPT = """if True:
        import json, socket, sys, threading, time
        frame, expected = bytes.fromhex(sys.argv[2]), sys.argv[3]
        ended = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
        times, unanswered, wrong = [], 0, 0
        def ask():
            daemon = socket.socket(socket.AF_UNIX)
            try:
                daemon.connect(sys.argv[1])
                daemon.sendall(frame)
                data = b""
                while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
                    piece = daemon.recv(65536)
                    if not piece:
                        return None
                    data += piece
                return json.loads(data[4:]).get("value")
            except OSError:
                return None
            finally:
                daemon.close()
        while not ended.is_set() or len(times) < 20:
            begun = time.monotonic()
            value = ask() or ask()
            times.append(time.monotonic() - begun)
            unanswered += value is None
            wrong += value not in (None, expected)
            time.sleep(0.002)
        times.sort()
        p99 = times[len(times) * 99 // 100]
        print(json.dumps({"asked": len(times), "unanswered": unanswered, "wrong": wrong, "p99": p99 * 1000}))"""

    def __init__(self, machine: Machine, value: str, name: str) -> None:
        self.machine, self.value, self.name = machine, value, name

    def __enter__(self) -> Self:
        question = Client(self.machine)
        words = [str(self.machine.runtime / "avault.sock"), question.frame("get", group="a", key="C").hex(), self.value]
        question.socket.close()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", self.SCRIPT, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        output, _ = self.process.communicate(timeout=60)
        if not kind:
            found = json.loads(output)
            assert found["unanswered"] == found["wrong"] == 0, found
            figures.at_most(self.name, round(found["p99"], 1))


@pytest.fixture
def vault(machine: Machine, canary: Canary) -> Machine:
    """An open vault with canaries in a/B and a/C."""
    return opened(machine, canary)


def opened(machine: Machine, canary: Canary) -> Machine:
    machine.init_unproven()
    machine("set", "a/B", input=canary.new("B"))
    machine("set", "a/C", input=canary.new("C"))
    return machine


@pytest.fixture
def few(machine: Machine, canary: Canary) -> Machine:
    """The same, with a daemon that may have 64 descriptors, and 32 clients."""
    machine.command = ["sh", "-c", 'ulimit -n 64; exec "$0" "$@"', AVAULT]
    return opened(machine, canary)


@pytest.fixture
def descriptors() -> Iterator[None]:
    """As many as we may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (HARD, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def pids(machine: Machine) -> tuple[int, int]:
    """Supervisor and keyholder; both must live to the end."""
    status = machine.status()
    return status["pid"], status["keyholder_pid"]


# Frames and sessions, by a fuzzer that sees what it reaches


@pytest.mark.timeout(figures.pick(300, 7200))
@pytest.mark.skipif(
    not importlib.util.find_spec("atheris")
    and not (sys.platform == "linux" and os.uname().machine == "x86_64" and "CI" in os.environ),
    reason="no atheris for this platform",
)
def test_fuzzed_wire(machine: Machine, canary: Canary, tmp_path: Path) -> None:
    """A million frames into first_frame, Session and Reception.answer: each is answered as the protocol says, or ends it.

    How often it gets a value depends on what it finds; test_hostile_requests is the control that there are some to get.
    """
    nsec = nostr_sdk.Keys.generate().secret_key().to_bech32()
    machine.init_unproven(NOSTR_NSEC=nsec)
    machine("daemon", "stop", "--force")
    report, corpus = tmp_path / "report", tmp_path / "corpus"
    corpus.mkdir()
    argv = [sys.executable, str(HERE / "fuzz_wire.py"), str(machine.vault), canary.mark, str(report)]
    size = [
        f"-runs={figures.pick(2_500, 400_000)}",
        "-max_len=2048",
        "-len_control=0",
        "-seed=1",
        f"-artifact_prefix={tmp_path}/",
    ]
    env = {**machine.env, "PYTHONPATH": f"{HERE}:{HERE.parent / 'tools'}"}
    done = subprocess.run([*argv, *size, str(corpus)], input=nsec, env=env, cwd=tmp_path, capture_output=True, text=True)
    record("fuzzer", done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    counts = json.loads(report.read_text())
    figures.at_least("hostile frames, guided by coverage", counts["frames"])


@given(st.lists(st.binary(max_size=40), max_size=8), st.data())
def test_frames_of_any_pieces(bodies: list[bytes], data: st.DataObject) -> None:
    """However a stream is cut, the same frames come out of it."""
    stream = b"".join(frame(body) for body in bodies)
    frames, found = avault.Frames(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        frames.feed(stream[:size])
        stream = stream[size:]
        while (body := frames.next()) is not None:
            found.append(body)
    assert found == bodies


@settings(max_examples=figures.pick(60, 3_000), deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 200_000)), max_size=30))
def test_control_keeps_descriptors_with_their_frames(plan: list[tuple[bool, int]]) -> None:
    """Whatever is queued between supervisor and keyholder arrives in order, each descriptor with its own frame."""
    got: list[tuple[int, int | None]] = []

    async def run() -> None:
        ours, theirs = socket.socketpair()

        def receive(received: dict[str, Any], fd: int | None) -> None:
            got.append((received["n"], None if fd is None else os.fstat(fd).st_ino))
            if fd is not None:
                os.close(fd)

        sender = avault.Control(ours, lambda received, fd: None, lambda: None)
        taker = avault.Control(theirs, receive, lambda: None)
        expected: list[tuple[int, int | None]] = []
        for number, (with_fd, size) in enumerate(plan):
            start, end = os.pipe()
            sender.send({"n": number, "pad": "x" * size}, start if with_fd else None)
            expected.append((number, os.fstat(start).st_ino if with_fd else None))
            os.close(start)
            os.close(end)
        async with asyncio.timeout(60):
            while len(got) < len(plan):
                await asyncio.sleep(0)
        assert got == expected
        sender.close()
        taker.close()

    asyncio.run(run())


# Over the socket


def converse(machine: Machine, stream: bytes) -> list[dict[str, Any]]:
    """All answers to what a client sends before it closes its half."""
    with Client(machine) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.socket.sendall(stream)
            client.socket.shutdown(socket.SHUT_WR)
        answers = []
        with contextlib.suppress(ConnectionResetError):  # it closed while there was more of ours
            while answer := client.receive():
                answers.append(answer)
        return answers


DOORS = ["status", "wait", "unlock", "lock", "init", "open", "custody"]  # not stop: a locked daemon does


def harmless(request: dict[str, Any]) -> dict[str, Any]:
    """A door request that neither insists nor lasts, nor tries custodians each time."""
    request.pop("force", None)
    if request["op"] == "custody":
        request["action"] = "add"
    if request["op"] in ("wait", "unlock", "init", "open"):
        request["timeout"] = 0.01
        request.pop("private", None)
    return request


@pytest.mark.timeout(figures.pick(300, 7200))
@pytest.mark.parametrize("is_open", [True, False], ids=["open", "locked"])
def test_hostile_requests(vault: Machine, canary: Canary, is_open: bool) -> None:
    """Every op with hostile fields, on a connection of its own and behind others; a locked vault releases nothing at all."""
    client = Client(vault)
    client.socket.close()
    alive = pids(vault)
    if not is_open:
        vault("lock", "--force")
    dice, answered, released = Dice(46), 0, 0
    size = figures.pick(8_000, 500_000) if is_open else figures.pick(2_000, 50_000)
    ops = [op for op in [*READS * 20, *WRITES * 2, *DOORS[:2]] if op != "verify_log"] + ["verify_log"]  # which takes long
    with Bystander(vault, canary.new("C"), "99 of 100 gets beside hostile frames, ms") if is_open else contextlib.nullcontext():
        while answered < size:
            if dice.number(0, 9) == 0:
                requests = [harmless(message(dice, DOORS, client.vault))]
                requests[0].update(v=1, vault=client.vault)
                requests[0]["op"] = requests[0]["op"] if requests[0]["op"] in DOORS else "status"
            else:
                requests = [message(dice, ops, client.vault) for _ in range(dice.number(1, 40) if is_open else 1)]
            for request in requests:
                if request["op"] in WRITES and request.get("group") == "a":
                    request["group"] = "z"  # the canaries stay
            tail = [b"", dice.some(30), frame(dice.some(30)), frame(b"{}", dice.number(0, 0xFFFFFFFF))][dice.number(0, 3)]
            for answer in converse(vault, b"".join(map(frame, requests)) + tail):
                text = json.dumps(answer)
                released += canary.mark in text
                asked = {request["op"] for request in requests if isinstance(request["op"], str)}
                op = next(iter(asked & {"get", "export", "reveal", "provide"}), None)
                assert not (wrong := faults(answer, op, canary.mark, is_open)), (wrong, requests, text[:500])
                answered += 1
    locked = "hostile frames that a locked vault's daemon answered"
    figures.at_least("hostile frames that an open vault's daemon answered" if is_open else locked, answered)
    if is_open:
        assert released > 50, "nothing was released: that it was to the right ones proves nothing"
        assert pids(vault) == alive
        assert get_c(vault) == canary.new("C")
    else:
        assert released == 0
        assert vault.status()["pid"] == alive[0]


def get_c(machine: Machine) -> str:
    return str(machine("get", "a/C", secret=True).stdout.removesuffix("\n"))


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_nested_to_the_limit(vault: Machine, canary: Canary, first: bool) -> None:
    """Around the depth that is the limit, each is answered or refused, and the next client gets its own answer."""

    def ask(depth: int) -> str:
        with Client(vault) as client:
            if not first:
                assert client.ask("has", group="a")["has"] is True
            bare = client.frame("get", group="a", key="B", x="@")[4:]
            client.socket.sendall(frame(bare.replace(b'"@"', b"[" * depth + b"]" * depth)))
            answer = client.receive()
            assert answer
        if answer["ok"]:
            assert answer["value"] == canary.new("B")
            return "ok"
        assert answer["error"]["code"] == "usage", answer
        return "refused"

    low, high = 1, 32_000  # as many as a first frame holds
    if ask(high) == "refused":
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if ask(middle) == "ok" else (low, middle)
    for depth in range(max(1, low - 8), low + 8):
        if depth <= 32_000:
            ask(depth)
            with Client(vault) as client:
                assert client.ask("get", group="a", key="C")["value"] == canary.new("C"), depth


# Crowds


def connect_all(machine: Machine, stack: contextlib.ExitStack, number: int, *questions: bytes) -> list[Client]:
    """So many connections that stay; with questions, in turn, each has its answer."""
    clients = []
    for _, question in zip(range(number), itertools.cycle(questions or [b""]), strict=False):
        clients.append(client := stack.enter_context(Client(machine)))
        if question:
            client.socket.sendall(question)
            assert client.receive()
    return clients


@pytest.mark.timeout(figures.pick(300, 1200))
@pytest.mark.parametrize("kind", ["silent", "asked", "half asked", "waiting"])
def test_idle_connections(machine: Machine, canary: Canary, descriptors: None, kind: str) -> None:
    """10,000 that say nothing, have asked, stop in the middle, or wait for an unlock: all others are served meanwhile."""
    opened(machine, canary)
    number = min(10_000, HARD - 200) if kind == "silent" or figures.FULL else 2_600
    alive = pids(machine)
    question = Client(machine)
    asks = {
        "silent": [b""],
        "asked": [question.frame("has", group="a")],
        "half asked": [question.frame("set", group="a", key="B")],  # "ready", and then no value comes
        "waiting": [b""],
    }
    question.socket.close()
    if kind == "waiting":
        machine("lock", "--force")
    with contextlib.ExitStack() as stack:
        if kind == "waiting":
            begun, clients = time.monotonic(), connect_all(machine, stack, number)
            for client in clients:
                with contextlib.suppress(BrokenPipeError):
                    client.send("wait")
            assert machine.status()["state"] == "unpaired"  # it answers
            assert time.monotonic() - begun < 100
            assert machine.status()["pid"] == alive[0]
            figures.at_least("clients that wait at once for an unlock", sum(not is_gone(client) for client in clients))
            return
        storm = "99 of 100 gets while 10,000 connect and say nothing, ms"
        with Bystander(
            machine, canary.new("C"), storm if kind == "silent" else "99 of 100 gets while a crowd asks and stays, ms"
        ):
            clients = connect_all(machine, stack, number, *asks[kind])
            assert get_c(machine) == canary.new("C")
            stay = sum(not is_gone(client) for client in clients)
            assert not is_gone(clients[-1])
        names = {
            "silent": "idle connections that said nothing, opened",
            "asked": "idle connections that had asked before, opened",
            "half asked": "idle connections that owed us a value, opened",
        }
        figures.at_least(names[kind], number)
        assert stay <= avault_room(), stay
    assert pids(machine) == alive
    assert get_c(machine) == canary.new("C")


def avault_room() -> int:
    """How many clients each process of a daemon keeps, if it is started here; and some on their way."""
    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4_096) // 2 + 50


def is_gone(client: Client) -> bool:
    """Whether the daemon has closed the connection."""
    client.socket.setblocking(False)
    try:
        return client.socket.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_too_few_descriptors(few: Machine, canary: Canary) -> None:
    """With 64 descriptors, and two crowds that would take them all: nobody who asks goes away empty."""
    alive = pids(few)
    question = Client(few)
    has = question.frame("has", group="a")
    question.socket.close()
    with (
        contextlib.ExitStack() as stack,
        Bystander(few, canary.new("C"), "99 of 100 gets beside two crowds and 64 descriptors, ms"),
    ):
        for _ in range(figures.pick(3, 100)):
            with contextlib.ExitStack() as crowd:
                connect_all(few, crowd, 150)
                for client in connect_all(few, crowd, 150):
                    with contextlib.suppress(BrokenPipeError):
                        client.socket.sendall(has)
        connect_all(few, stack, 100)
    assert pids(few) == alive


def test_descriptors_with_a_frame(few: Machine, canary: Canary) -> None:
    """What a client attaches to its frames is not kept: the pipes end when the client's own copies do."""
    alive, number = pids(few), figures.pick(300, 20_000)
    for _ in range(number):
        with Client(few) as client:
            for _ in range(2):  # the first frame is the supervisor's, the second the keyholder's
                start, end = os.pipe()
                socket.send_fds(client.socket, [client.frame("get", group="a", key="C")], [end, end, client.socket.fileno()])
                os.close(end)
                answer = client.receive()
                assert answer and answer["value"] == canary.new("C")
                assert os.read(start, 1) == b""
                os.close(start)
    for _ in range(number):  # closed before it can be handed over
        with Client(few) as client:
            client.send("get", group="a", key="C")
    assert pids(few) == alive
    assert get_c(few) == canary.new("C")
    figures.at_least("descriptors sent with frames, none kept", number * 6)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_slow_and_half(vault: Machine, canary: Canary) -> None:
    """Readers that do not read, writers that stop in the middle of 4 MiB, and some that send a byte at a time."""
    alive, number = pids(vault), figures.pick(16, 64)
    before = sum(map(memory, alive))
    vault("set", "a/D", input="x" * (256 << 10))
    question = Client(vault)
    export, asked = question.frame("export"), question.frame("get", group="a", key="C")
    question.socket.close()
    ended = threading.Event()

    def dribble() -> None:
        while not ended.is_set():
            with Client(vault) as client:
                for byte in asked:
                    client.socket.sendall(bytes([byte]))
                    time.sleep(0.001)
                answer = client.receive()
                assert answer and answer["value"] == canary.new("C")

    with contextlib.ExitStack() as stack, Bystander(vault, canary.new("C"), "99 of 100 gets beside slow and half clients, ms"):
        threads = [threading.Thread(target=dribble) for _ in range(4)]
        for thread in threads:
            thread.start()
        for client in connect_all(vault, stack, number, asked):
            client.socket.sendall(frame(b'{"x": "' + b"x" * ((3 << 20) - 7), 4 << 20))
        for client in connect_all(vault, stack, number):
            client.socket.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                client.socket.sendall(export * 200)
        wait_until(lambda: get_c(vault) == canary.new("C"))
        figures.at_most(
            "memory for each slow or half client, MB", round((sum(map(memory, alive)) - before) / number / 2 / (1 << 20), 1)
        )
        ended.set()
        for thread in threads:
            thread.join()
    assert pids(vault) == alive


# Where the socket is


def test_directory_that_others_could_write_to(machine: Machine) -> None:
    """No daemon listens in one, nor behind a symlink, nor over a file."""
    machine.init_unproven()
    machine("daemon", "stop", "--force")
    for name, mode in (("world", 0o777), ("sticky", 0o1777), ("group", 0o770)):
        (machine.top / name).mkdir()
        (machine.top / name).chmod(mode)
    (machine.top / "private").mkdir(mode=0o700)
    (machine.top / "link").symlink_to(machine.top / "private")
    (machine.top / "private" / "file").write_text("mine")
    for place in ("world/s", "sticky/s", "group/s", "link/s", "private/file", "missing/s"):
        done = machine("daemon", "start", "-b", AVAULT_SOCKET=str(machine.top / place), code=1)
        assert "choose another place" in done.stderr, place
    assert (machine.top / "private" / "file").read_text() == "mine"
    for name in ("world", "link"):  # as the usual place: not taken, but the next one is
        machine("daemon", "start", "-b", XDG_RUNTIME_DIR=str(machine.top / name))
        socket_path = machine("status", "--json", code=3, XDG_RUNTIME_DIR=str(machine.top / name)).json["socket"]
        assert not socket_path.startswith(str(machine.top / name))
        machine("daemon", "stop")


def test_directory_that_is_replaced(vault: Machine, canary: Canary) -> None:
    """The daemon listens again at its path; in a directory that others can write to, it does not."""
    vault.runtime.rename(vault.top / "away")
    vault.runtime.mkdir(mode=0o700)
    wait_until(lambda: vault("get", "a/C", code=None, secret=True).stdout == canary.new("C") + "\n")
    assert (vault.runtime / "avault.sock").stat().st_mode & 0o777 == 0o700
    vault.runtime.rename(vault.top / "again")
    vault.runtime.mkdir()
    vault.runtime.chmod(0o777)
    vault("get", "a/C", code=6)
    ended = time.monotonic() + 3  # longer than the daemon needs to look
    while time.monotonic() < ended:
        assert not os.listdir(vault.runtime)
        time.sleep(0.1)
    shutil.rmtree(vault.runtime)
    vault.runtime.mkdir(mode=0o700)
    wait_until(lambda: vault("get", "a/C", code=None, secret=True).stdout == canary.new("C") + "\n")


def test_socket_of_a_dead_daemon(machine: Machine, canary: Canary) -> None:
    """A daemon that was killed leaves its socket: no client hangs at it, and the next daemon takes its place."""
    nsec = nostr_sdk.Keys.generate().secret_key().to_bech32()
    machine.init_unproven(NOSTR_NSEC=nsec)
    machine("set", "a/C", input=canary.new("C"))
    for pid in reversed(pids(machine)):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: machine.status()["state"] == "stopped")
    assert (machine.runtime / "avault.sock").is_socket()
    machine("get", "a/C", code=6, timeout=60)
    machine("daemon", "start", "-b", NOSTR_NSEC=nsec)
    machine.wait_state("unlocked")
    assert get_c(machine) == canary.new("C")


class Impostor:
    """A program that listens where the daemon should, and says "ready" to all: what does it learn?"""

    SCRIPT = """if True:
        import json, socket, sys
        def frame(message):
            data = json.dumps(message).encode()
            return len(data).to_bytes(4, "big") + data
        daemon = socket.socket(socket.AF_UNIX)
        daemon.bind(sys.argv[1])
        daemon.listen()
        print("ready", flush=True)
        while True:
            client, _ = daemon.accept()
            client.settimeout(60)
            heard = b""
            try:
                heard = client.recv(65536)
                if heard:
                    client.sendall(frame({"ok": True, "ready": True}))
                    heard += client.recv(65536)
                client.sendall(frame({"ok": True}))
            except OSError:
                pass
            client.close()
            print(heard.hex() or "-", flush=True)"""

    def __init__(self, path: Path, *prefix: str) -> None:
        python = shutil.which("python3", path="/usr/bin") if prefix else sys.executable
        self.argv = [*prefix, python or pytest.skip("no python3 that another user can run"), "-I", "-c", self.SCRIPT, str(path)]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self.argv, stdout=subprocess.PIPE, text=True, cwd="/")
        assert self.line() == "ready"
        return self

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def test_impostor_of_the_same_user(machine: Machine, canary: Canary) -> None:
    """What remains: who runs as we do can take the daemon's place while it is down, and gets what is set then."""
    secret = canary.new("given away")
    with Impostor(machine.runtime / "avault.sock") as impostor:
        machine("set", "a/B", input=secret)
        heard = bytes.fromhex(impostor.line())
    request, second = heard[4 : 4 + int.from_bytes(heard[:4], "big")], heard[4 + int.from_bytes(heard[:4], "big") :]
    assert secret.encode() not in request  # not before it said that it is ready
    assert json.loads(second[4:]) == {"value": secret}


OTHER = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups")


@pytest.mark.root
def test_impostor_of_another_user(machine: Machine, canary: Canary) -> None:
    """To a daemon of another user nothing is sent: not a value, not the agent's key, not even a name."""
    nsec = canary.watch(nostr_sdk.Keys.generate().secret_key().to_bech32())
    for directory in (machine.top, machine.top.parent):
        directory.chmod(0o755)
    public = machine.top / "public"
    public.mkdir()
    public.chmod(0o777)
    with Impostor(public / "s", *OTHER) as impostor:
        (public / "s").chmod(0o777)
        for words in (["set", "a/B"], ["get", "a/B"], ["export", "--shell"], ["unlock"], ["lock"], ["status"], ["import", "-"]):
            machine(*words, input=canary.new("kept"), AVAULT_SOCKET=str(public / "s"), NOSTR_NSEC=nsec, code=None)
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as end:  # so that there is a line after all of them
                end.connect(str(public / "s"))
                end.sendall(b"end")
            while (heard := impostor.line()) == "-":
                continue
            assert bytes.fromhex(heard) == b"end", words


@pytest.mark.root
def test_crowd_of_another_user(vault: Machine, canary: Canary) -> None:
    """With the way to the socket wide open, another user's thousands get no word, and take no time from ours."""
    for directory in (vault.runtime, *vault.runtime.parents):
        if directory.stat().st_uid == 0 and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o755)
    path, number = vault.runtime / "avault.sock", figures.pick(3_000, 200_000)
    path.chmod(0o777)
    question = Client(vault)
    asked = question.frame("get", group="a", key="B")
    question.socket.close()
    script = f"""if True:
        import socket
        heard = 0
        for _ in range({number}):
            daemon = socket.socket(socket.AF_UNIX)
            daemon.connect({str(path)!r})
            try:
                daemon.sendall({asked!r})
                heard += len(daemon.recv(100))
            except ConnectionError:
                pass
            daemon.close()
        print(heard)"""
    python = shutil.which("python3", path="/usr/bin") or pytest.skip("no python3 that another user can run")
    with Bystander(vault, canary.new("C"), "99 of 100 gets beside another user's connections, ms"):
        done = subprocess.run([*OTHER, python, "-I", "-c", script], capture_output=True, text=True, cwd="/")
    assert (done.stdout, done.stderr) == ("0\n", "")
    figures.at_least("connections of another user, none answered", number)
    assert get_c(vault) == canary.new("C")
