"""How fast avault is: each row's two sides run alternately in the same run, and the table gives medians.

    python tests/tools/bench.py [--quick] [--rounds N] [--here]             all but signatures
    python tests/tools/bench.py --signatures [--rounds N] [--here] [--write]

--write puts the table of signatures between its marks in references/performance.md (the other: documents.py --write --bench).

It installs avault in a fresh venv (--here: takes the one beside this interpreter), builds vaults of 10, 1,000 and 10,000
secrets with avault's own Store, serves each from a machine of its own, and prints a Markdown table.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import itertools
import json
import os
import random
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), *(str(path) for path in (REPOSITORY / "tests").iterdir() if path.is_dir())]

import documents  # noqa: E402
import nostr_sdk  # noqa: E402
import peers  # noqa: E402

import avault  # noqa: E402

SIZES = (10, 1_000, 10_000)
PAYEE = "0x" + "b0" * 20


class Vault:
    """A vault of so many secrets on a machine of its own, served by a daemon."""

    def __init__(self, top: Path, size: int, command: Path, operator: str | None = None) -> None:
        self.top, self.size, self.command = top, size, str(command)
        self.keys = nostr_sdk.Keys.generate()
        self.vault, self.runtime = top / "vault", top / "run"
        for directory in (self.vault, self.runtime, top / "home", top / "state"):
            directory.mkdir(mode=0o700, parents=True)
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(top / "home"),
            "XDG_STATE_HOME": str(top / "state"),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "AVAULT_DIR": str(self.vault),
        }
        with changed_environment(self.env):
            self.places = avault.Places()
        self.build(operator or avault.public_hex(nostr_sdk.Keys.generate()))

    def build(self, operator: str) -> None:
        """The files of a vault, as `init` makes them."""
        agent, identity = avault.public_hex(self.keys), "00" * 16
        vault = avault.Vault(identity, agent, operator, "bench")
        for number in range(self.size):
            vault.put(
                f"group{number % (self.size // 10)}", f"KEY_{number}", f"value-{number}-{'x' * 30}", 1_700_000_000, "0" * 16
            )
        avault.make_private_directory(self.places.state)
        sealed = avault.seal_nsec(self.keys, identity, operator, "bench", "host")
        avault.write_file(self.places.file("nsec.enc"), avault.encode_file("nsec", sealed))
        avault.write_file(self.places.own("unlock.json"), avault.encode_file("unlock", {**sealed, "proven": None, "quick": 0}))
        avault.write_file(self.places.file("nip46.json"), avault.encode_hints(agent, operator, [], "bench"))
        avault.Store.create(self.places, self.keys, vault)

    def run(self, *words: str, input: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        command = [self.command, *words]
        return subprocess.run(command, env={**self.env, **env}, input=input, capture_output=True, text=True, check=True)

    def status(self) -> dict[str, Any]:
        return avault.ask_daemon(self.places, "status")

    def start(self) -> None:
        self.run("daemon", "start", "-b", NOSTR_NSEC=self.keys.secret_key().to_bech32())
        avault.ask_daemon(self.places, "wait", timeout=60)

    def stop(self) -> None:
        subprocess.run([self.command, "daemon", "stop", "--force"], env=self.env, check=False, capture_output=True)


@contextlib.contextmanager
def changed_environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    for name in ("AVAULT_SOCKET", "AVAULT_PID", "WORKSPACE", "NOSTR_NSEC"):
        os.environ.pop(name, None)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# Measuring


def alternate(rounds: int, **sides: Callable[[], object]) -> dict[str, float]:
    """Seconds that each side takes, the median of so many rounds; A B A B …, so that a busy moment hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(rounds + 2):
        for name, side in sides.items():
            begun = time.perf_counter()
            side()
            if index >= 2:  # the first rounds warm the caches
                times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in times.items()}


def process(env: dict[str, str], *argv: str, input: bytes | None = None) -> Callable[[], object]:
    """A side that runs a program to its end; posix_spawn, as little around it as there can be."""

    def run() -> None:
        done = subprocess.run(argv, env=env, input=input, stdout=subprocess.DEVNULL, check=False, close_fds=False)
        assert done.returncode == 0, argv

    return run


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"


def open_connection(vault: Vault, count: int) -> float:
    """Seconds for one get over an open connection: the median."""
    connection = avault.Connection(vault.places)
    times = []
    for number in range(count):
        begun = time.perf_counter()
        connection.request("get", group=f"group{number % (vault.size // 10)}", key=None, format="text")
        times.append(time.perf_counter() - begun)
    connection.close()
    return statistics.median(times)


LOADER = """
import json, os, select, socket, sys, time
path, vault, count, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
body = json.dumps({"v": 1, "vault": vault, "op": "get", "group": "group0", "key": "KEY_0", "format": "text"}).encode()
frame, poll, sockets, done = len(body).to_bytes(4, "big") + body, select.epoll(), {}, 0
for _ in range(count):
    each = socket.socket(socket.AF_UNIX)
    each.connect(path)
    each.sendall(frame)
    sockets[each.fileno()] = each
    poll.register(each, select.EPOLLIN)
end = time.monotonic() + seconds
begun = time.monotonic()
while time.monotonic() < end:
    for fd, _ in poll.poll(1):
        data = sockets[fd].recv(4096)
        assert int.from_bytes(data[:4], "big") == len(data) - 4, data
        sockets[fd].sendall(frame)
        done += 1
print(done / (time.monotonic() - begun))
"""


def throughput(vault: Vault, connections: int, seconds: float) -> float:
    """Gets per second over so many open connections, one request under way on each."""
    argv = [sys.executable, "-I", "-c", LOADER, vault.places.socket, vault.places.id, str(connections), str(seconds)]
    return float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def first_get(top: Path, command: Path, rounds: int) -> float:
    """Seconds from the signer's answer on the relay to the first served get, 1,000 secrets: the median.

    The signer is the tests' rogue, told to wait; the proxy before the relay tells when it took the answer from it.
    """
    times = []
    with peers.local_relay() as relay, peers.proxy(relay.url) as proxy, peers.rogue([proxy.url]) as signer:
        vault = Vault(top, 1_000, command, signer.user)
        pairing = avault.Pairing(
            nostr_sdk.Keys.generate(), signer.signer, avault.public_hex(vault.keys), signer.user, [proxy.url]
        )
        pairing.save(vault.places)
        try:
            signer.behave("nip44_decrypt", [{"wait": True, "honest": True}])
            vault.run("daemon", "start", "-b")  # which asks
            for _ in range(rounds):
                signer.behave("nip44_decrypt", [{"wait": True, "honest": True}])
                unlock = subprocess.Popen([vault.command, "unlock"], env=vault.env, stderr=subprocess.DEVNULL)
                while vault.status()["state"] != "waiting":
                    time.sleep(0.01)
                signer.wait_for("request", method="nip44_decrypt")
                time.sleep(0.3)
                served: list[float] = []

                def poll(served: list[float] = served) -> None:
                    while not served:
                        try:
                            avault.ask_daemon(vault.places, "get", group="group0", key="KEY_0", format="text")
                            served.append(time.time())
                        except avault.AvaultError:
                            time.sleep(0.001)

                threads = [threading.Thread(target=poll)]
                for thread in threads:
                    thread.start()
                released = time.time()
                signer.go()
                for thread in threads:
                    thread.join()
                unlock.wait()
                times.append(served[0] - answered_at(proxy, released))
                vault.run("lock", "--force")
        finally:
            vault.stop()
    return statistics.median(times)


def answered_at(proxy: peers.Relay, released: float) -> float:
    """When the relay was given the first event after the signer was let go: its answer."""
    frames = proxy.send("frames", clear=True)["frames"]
    return float(
        min(frame["at"] for frame in frames if frame["at"] >= released and frame["dir"] == "up" and '"EVENT"' in frame["text"])
    )


def memory(vault: Vault, kind: str) -> float | None:
    """Megabytes of supervisor and keyholder: RSS, or PSS, which counts shared pages by share; None if not readable."""
    status, total = vault.status(), 0
    for pid in (status["pid"], status["keyholder_pid"]):
        name, path = ("VmRSS", f"/proc/{pid}/status") if kind == "RSS" else ("Pss", f"/proc/{pid}/smaps_rollup")
        try:
            line = next(line for line in Path(path).read_text().splitlines() if line.startswith(f"{name}:"))
        except (OSError, StopIteration):
            return None
        total += int(line.split()[1])
    return total / 1024


def masked_throughput(top: Path, vault: Vault, megabytes: int) -> float:
    """Megabytes per second that `avault run` masks: text, with the 10 secrets of a group in the environment, through a pipe."""
    text = top / "text"
    line = b"2026-01-31 12:00:00 INFO request 4711 to https://api.example.com/v1/models answered 200 in 12.5 ms (key ...1f3a)\n"
    text.write_bytes(line * ((megabytes << 20) // len(line)))
    side = process(vault.env, vault.command, "run", "--group", "group0", "--", "cat", str(text))
    nothing = process(vault.env, vault.command, "run", "--group", "group0", "--", "true")
    took = alternate(3, side=side, nothing=nothing)
    text.unlink()
    return megabytes / (took["side"] - took["nothing"])


def scan_against_grep(top: Path, command: Path, rounds: int) -> tuple[float, float]:
    """Seconds of `avault scan` and of `grep -rF -f` for 100 values in 100 MB of files."""
    tree, choose = top / "tree", random.Random(1)
    tree.mkdir()
    words = ["".join(choose.choices("abcdefghijklmnopqrstuvwxyz0123456789_=-/", k=choose.randint(2, 12))) for _ in range(5000)]
    for number in range(200):
        lines = [" ".join(choose.choices(words, k=12)) for _ in range(5600)]
        (tree / f"file{number}.txt").write_text("\n".join(lines)[: 500 << 10])
    vault = Vault(top / "scan", 100, command)
    try:
        vault.start()
        names = [(secret["group"], secret["key"]) for secret in avault.ask_daemon(vault.places, "reveal")["secrets"]]
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
        values = ["".join(choose.choices(letters, k=choose.randint(16, 64))) for _ in names]  # as tokens are
        secrets = [[*name, value] for name, value in zip(names, values, strict=True)]
        avault.ask_daemon(vault.places, "import", replace=True, value={"secrets": secrets})
        patterns = top / "patterns"
        patterns.write_text("".join(value + "\n" for value in values))

        def grep() -> None:
            done = subprocess.run(
                ["grep", "-rF", "-f", patterns, tree], env={"LC_ALL": "C", "PATH": os.environ["PATH"]}, check=False
            )
            assert done.returncode == 1, "the values are not there"

        took = alternate(rounds, scan=process(vault.env, vault.command, "scan", str(tree)), grep=grep)
        return took["scan"], took["grep"]
    finally:
        vault.stop()
        shutil.rmtree(tree)


def set_with_git(top: Path, command: Path, rounds: int) -> tuple[float, float]:
    """Seconds of `avault set` of 1,000, in a repository, where each is committed, and without one."""
    vaults = [Vault(top / name, 1_000, command) for name in ("with-git", "without-git")]
    subprocess.run(["git", "init", "-q", vaults[0].vault], check=True)
    times: list[list[float]] = [[], []]
    try:
        for vault in vaults:
            vault.start()
        for number in range(rounds + 2):
            for vault, took in zip(vaults, times, strict=True):
                begun = time.perf_counter()
                process(vault.env, vault.command, "set", "group0/KEY_0", input=f"value {number}".encode())()
                took.append(time.perf_counter() - begun)
                time.sleep(0.7)  # the commit is made beside; it is not to be measured with the other side
        commits = subprocess.run(["git", "-C", vaults[0].vault, "rev-list", "--count", "HEAD"], capture_output=True, check=True)
        assert int(commits.stdout) > rounds, "nothing was committed"
        return statistics.median(times[0][2:]), statistics.median(times[1][2:])
    finally:
        for vault in vaults:
            vault.stop()


# Others


def with_pass(top: Path) -> Callable[[], object] | None:
    """`pass show`, with a GnuPG key of its own without a passphrase."""
    if not shutil.which("pass") or not shutil.which("gpg"):
        return None
    home = top / "pass"
    home.mkdir(mode=0o700)
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "GNUPGHOME": str(home / "g"), "PASSWORD_STORE_DIR": str(home / "store")}
    (home / "g").mkdir(mode=0o700)

    def run(*argv: str, input: str = "") -> None:
        subprocess.run(argv, env=env, input=input, text=True, capture_output=True, check=True)

    run("gpg", "--batch", "--passphrase", "", "--quick-generate-key", "bench@example.com", "future-default", "default", "never")
    run("pass", "init", "bench@example.com")
    run("pass", "insert", "-e", "openai/API_KEY", input="value\n")
    return process(env, "pass", "show", "openai/API_KEY")


@contextlib.contextmanager
def with_keyring(top: Path) -> Iterator[Callable[[], object] | None]:
    """`keyring get`, from gnome-keyring on a D-Bus of its own."""
    keyring = Path(sys.executable).parent / "keyring"
    if not keyring.exists() or not all(map(shutil.which, ("gnome-keyring-daemon", "dbus-daemon"))):
        yield None
        return
    home = top / "keyring"
    (home / "run").mkdir(mode=0o700, parents=True)
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")}
    argv = ["dbus-daemon", "--session", "--nofork", "--print-address"]
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL) as bus:
        try:
            assert bus.stdout
            env["DBUS_SESSION_BUS_ADDRESS"] = bus.stdout.readline().strip()
            unlock = ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"]
            daemon = subprocess.Popen(
                unlock, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                assert daemon.stdin
                daemon.stdin.write(b"\n")
                daemon.stdin.close()
                time.sleep(1)
                made = subprocess.run(
                    [keyring, "set", "openai", "API_KEY"],
                    env=env,
                    input="value",
                    text=True,
                    capture_output=True,
                    check=False,
                    timeout=30,
                )
                yield process(env, str(keyring), "get", "openai", "API_KEY") if made.returncode == 0 else None
            finally:
                daemon.terminate()
                daemon.wait()
        finally:
            bus.terminate()


# The table


# Signatures


def ssh_string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def signature_of(path: str, public: bytes) -> Callable[[], object]:
    """A side that has an SSH agent sign a file's digest, over a connection of its own, as ssh and git do."""
    request = b"\x0d" + ssh_string(public)

    def run() -> None:
        digest = ssh_string(b"sha512") + ssh_string(os.urandom(64))
        payload = b"SSHSIG" + ssh_string(b"file") + ssh_string(b"") + digest
        with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rb") as answers:
            sock.connect(path)
            sock.sendall(ssh_string(request + ssh_string(payload) + bytes([0, 0, 0, 2])))
            assert answers.read(int.from_bytes(answers.read(4), "big"))[:1] == b"\x0e"

    return run


def ask_for_signatures(vault: Vault, rounds: int, name: str, form: str, make: Callable[[int], bytes]) -> float:
    """Seconds for one over an open connection, each of something else: the median. OpenSSH's agent has no such kind."""
    connection, numbers = avault.Connection(vault.places), itertools.count()
    group, _, key = name.partition("/")

    def sign() -> None:
        payload = base64.b64encode(make(next(numbers))).decode()
        connection.request("sign", **{"as": form, "group": group, "key": key, "payload": payload})

    took = alternate(rounds, ours=sign)
    connection.close()
    return took["ours"]


def nostr_event(number: int) -> bytes:
    event = {"kind": 1, "content": f"the {number}th", "tags": [], "created_at": int(time.time())}
    return json.dumps(event).encode()


def evm_payment(number: int) -> bytes:
    fees = {"gas": "0x5208", "maxFeePerGas": "0x1", "maxPriorityFeePerGas": "0x1"}
    return json.dumps({"to": PAYEE, "value": "0x1", "nonce": hex(number), "chainId": "0x7a69", **fees}).encode()


def solana_payment(us: str) -> Callable[[int], bytes]:
    """Messages of one lamport to somebody, each with another blockhash."""

    def make(number: int) -> bytes:
        keys = avault.decode_base58(us, 32) + b"\7" * 32 + bytes(32)
        transfer = b"\2\2\0\1\x0c" + struct.pack("<IQ", 2, 1)
        return b"\1\0\1\3" + keys + number.to_bytes(32, "big") + b"\1" + transfer

    return make


def other_signatures(vault: Vault, rounds: int) -> list[tuple[str, str, str, str]]:
    """The rows of the kinds that are not SSH's."""
    words = {
        "nostr": ("--kinds", "1"),
        "evm": ("--wallet", f"chain 31337 token COIN to {PAYEE} tx 1 day 1000 fee 0.001"),
        "solana": ("--wallet", "cluster localnet mint SOL to any tx 1 day 1000 fee 0.005"),
    }
    made = {kind: vault.run("key", "generate", kind, f"keys/{kind}", *each).stdout.split()[0] for kind, each in words.items()}
    forms = {
        "nostr": ("a Nostr event", "nostr-event", nostr_event, "2 ms", "1 ms"),
        "evm": ("a payment on Ethereum, reserved on the disk", "evm-tx", evm_payment, "150 ms", "60 ms"),
        "solana": ("a payment on Solana, reserved on the disk", "sol-tx", solana_payment(made["solana"]), "100 ms", "40 ms"),
    }
    rows = []
    for kind, (what, form, make, bound, aim) in forms.items():
        count = rounds * 10 if kind == "nostr" else rounds
        took = milliseconds(ask_for_signatures(vault, count, f"keys/{kind}", form, make))
        rows.append((f"{what}, signed over an open connection", took, bound, aim))
    return rows


def signatures(top: Path, command: Path, rounds: int) -> list[tuple[str, str, str, str]]:
    """The rows of signatures: by `avault ssh`, against OpenSSH's own agent; each kind, and a file by ssh-keygen."""
    rows = []
    vault, theirs = Vault(top / "signing", 10, command), str(top / "agent.sock")
    with contextlib.ExitStack() as stack:
        stack.callback(vault.stop)
        vault.start()
        agent = stack.enter_context(subprocess.Popen(["ssh-agent", "-D", "-a", theirs], stdout=subprocess.DEVNULL))
        stack.callback(agent.kill)
        ours = vault.run("ssh", "--print-env").stdout.split("'")[1]
        while not os.path.exists(theirs):
            time.sleep(0.01)
        with_theirs, with_ours = ({**vault.env, "SSH_AUTH_SOCK": path} for path in (theirs, ours))
        for kind, form, size in (("ed25519", "ed25519", "256"), ("ecdsa-p256", "ecdsa", "256"), ("rsa", "rsa", "3072")):
            file = top / form
            subprocess.run(["ssh-keygen", "-q", "-t", form, "-b", size, "-N", "", "-f", file], check=True)
            subprocess.run(["ssh-add", "-q", file], env=with_theirs, check=True)
            vault.run("key", "import", str(file), f"keys/{form}", "--namespace", "file")
            public = base64.b64decode(Path(f"{file}.pub").read_text().split()[1])
            took = alternate(rounds * 10, ours=signature_of(ours, public), theirs=signature_of(theirs, public))
            figure = f"{took['ours'] / took['theirs']:.2f} ({milliseconds(took['ours'])} / {milliseconds(took['theirs'])})"
            rows.append((f"a signature by `avault ssh`, {kind}, against OpenSSH's agent", figure, "2", "1.0"))
            file.unlink()  # so that the agent is asked
        rows += other_signatures(vault, rounds)
        words = ("ssh-keygen", "-q", "-Y", "sign", "-U", "-n", "file", "-f", f"{top}/ed25519.pub")
        sides = {"ours": process(with_ours, *words, input=b"x"), "theirs": process(with_theirs, *words, input=b"x")}
        took = alternate(rounds, **sides)
        figure = f"{took['ours'] / took['theirs']:.2f} ({milliseconds(took['ours'])} / {milliseconds(took['theirs'])})"
        rows.append(("`ssh-keygen -Y sign` with the same, ed25519", figure, "2", "1.0"))
    return rows


def install(top: Path) -> Path:
    """avault in a fresh venv, as pip installs it; the command."""
    venv = top / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    source = top / "source"
    shutil.copytree(REPOSITORY, source, ignore=shutil.ignore_patterns(".git", "tests", "__pycache__", "*.egg-info", "build"))
    subprocess.run([venv / "bin/pip", "install", "-q", "--disable-pip-version-check", f"{source}[sign]"], check=True)
    return venv / "bin" / "avault"


def measure(top: Path, command: Path, rounds: int, quick: bool) -> list[tuple[str, str, str, str]]:
    """The rows: what, measured, bound, aim."""
    rows: list[tuple[str, str, str, str]] = []
    python = str(command.parent / "python3")
    vaults = {size: Vault(top / str(size), size, command) for size in SIZES}
    try:
        for vault in vaults.values():
            vault.start()
        small, middle, large = (vaults[size] for size in SIZES)

        def get(vault: Vault) -> Callable[[], object]:
            return process(vault.env, vault.command, "get", "group0/KEY_0")

        with with_keyring(top) as keyring:
            sides = {
                "python": process(middle.env, python, "-c", "pass"),
                "get": get(middle),
                "get10": get(small),
                "get10000": get(large),
                "export": process(middle.env, middle.command, "export", "--shell"),
                "set": process(middle.env, middle.command, "set", "group0/KEY_0", input=b"another value"),
                "run": process(middle.env, middle.command, "run", "--no-mask", "--group", "group0", "--", "true"),
                "env": process(middle.env, "env", "true"),
                "names": process(middle.env, middle.command, "list", "--names"),
                "import": process({**middle.env, "PYTHONPATH": str(top)}, python, "-c", "import avault"),
                "empty": process({**middle.env, "PYTHONPATH": str(top)}, python, "-c", "import empty"),
            }
            (top / "empty.py").touch()
            lone = shutil.copyfile(REPOSITORY / "avault.py", top / "lone.py")
            sides["lone"] = process(middle.env, python, str(lone), "get", "group0/KEY_0")
            others = {"pass show": with_pass(top), "keyring get": keyring}
            sides |= {name: side for name, side in others.items() if side}
            took = alternate(rounds, **sides)

        def ratio(one: str, other: str) -> str:
            return f"{took[one] / took[other]:.2f} ({milliseconds(took[one])} / {milliseconds(took[other])})"

        rows += [
            ("`avault get`, against `python3 -c pass`", ratio("get", "python"), "1.2", "1.0"),
            ("`python3 avault.py get`, a lone copy, against `python3 -c pass`", ratio("lone", "python"), "25", ""),
            ("`avault get` of 10,000, against of 10", ratio("get10000", "get10"), "1.05", "1.0"),
            ("`avault export --shell` of 1,000, against `avault get`", ratio("export", "get"), "2", "1.3"),
        ]
        both = took["env"] + took["get"]
        run = f"{took['run'] / both:.2f} ({milliseconds(took['run'])} / {milliseconds(both)})"
        rows.append(("`avault run --no-mask -- true`, against `env true` and `avault get`", run, "1.5", ""))
        rows.append(("names for completion, 1,000 secrets, against `avault get`", ratio("names", "get"), "1.2", ""))
        rows.append(
            ("`import avault` in a program, over an empty module", milliseconds(took["import"] - took["empty"]), "40 ms", "")
        )
        rate = masked_throughput(top, middle, 100 if quick else 300)
        rows.append(("masked by `avault run`, 10 secrets", f"{rate:,.0f} MB/s", "50 MB/s", ""))
        scan, grep = scan_against_grep(top, command, 3 if quick else 9)
        figure = f"{scan / grep:.2f} ({milliseconds(scan)} / {milliseconds(grep)})"
        rows.append(("`avault scan` of 100 MB for 100 values, against `grep -rF -f`", figure, "3", ""))
        with_git, without = set_with_git(top, command, 5 if quick else 15)
        figure = f"{with_git / without:.2f} ({milliseconds(with_git)} / {milliseconds(without)})"
        rows.append(("`avault set` in a git repository, against outside of one", figure, "1.2", ""))
        one = open_connection(middle, 200 if quick else 2000)
        rows.append(("a get over an open connection", milliseconds(one), "0.3 ms", "0.1 ms"))
        rate = throughput(middle, 50, 1 if quick else 3)
        rows.append(("gets per second, 50 connections", f"{rate:,.0f}", "5,000", "20,000"))
        unlock = first_get(top / "unlock", command, 3 if quick else 9)
        rows.append(("signer's answer to the first served get, 1,000 secrets", milliseconds(unlock), "150 ms", "50 ms"))
        rows.append(("`avault set` of 1,000, against `avault get`", ratio("set", "get"), "5", "3"))
        with contextlib.ExitStack() as stack:
            fresh = Vault(top / "memory", 1_000, command)
            stack.callback(fresh.stop)
            fresh.start()
            fresh.run("get", "group0/KEY_0")
            rss, pss = memory(fresh, "RSS"), memory(fresh, "PSS")
        if rss:
            shared = f" (PSS {pss:.0f} MB)" if pss else ""
            rows.append(("resident memory, supervisor + keyholder, 1,000 secrets", f"{rss:.0f} MB{shared}", "70 MB", "45 MB"))
        for name in others:
            rows.append(
                (
                    f"for comparison: `{name}`, against `python3 -c pass`",
                    ratio(name, "python") if name in took else "not installed",
                    "",
                    "",
                )
            )
    finally:
        for vault in vaults.values():
            vault.stop()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--rounds", type=int, help="of the commands (40; quick: 10)")
    parser.add_argument("--signatures", action="store_true", help="nothing but these")
    parser.add_argument("--here", action="store_true", help="measure the avault beside this interpreter")
    parser.add_argument("--write", action="store_true", help="put the table of signatures into its page")
    options = parser.parse_args()
    if options.write and not options.signatures:
        parser.error("--write is for --signatures; the other table: python tests/tools/documents.py --write --bench")
    top = Path(tempfile.mkdtemp(prefix="avb", dir="/tmp"))
    try:
        command = Path(sys.executable).parent / "avault" if options.here else install(top)
        rounds = options.rounds or (10 if options.quick else 40)
        rows = signatures(top, command, rounds) if options.signatures else measure(top, command, rounds, options.quick)
    finally:
        shutil.rmtree(top, ignore_errors=True)
    machine = f"Python {sys.version.split()[0]}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"
    lines = [("what", "measured", "bound", "aim"), ("---",) * 4, *rows]
    table = f"{time.strftime('%-d %B %Y')}, {machine}\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in lines)
    print(table, end="")
    if options.write:
        page = REPOSITORY / "references" / "performance.md"
        page.write_text(documents.refresh(page.read_text(encoding="utf-8"), signatures=table), encoding="utf-8")


if __name__ == "__main__":
    main()
