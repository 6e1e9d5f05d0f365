"""Custodians that are added, moved and removed by a daemon that is killed; and what their processes hold.

The supervisor writes their files. strace starts it, and kills it at each call that touches one of them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import figures
import nostr_sdk
import peers
import pytest
from box import Box
from canary import Canary
from harness import Machine, Running, wait_until
from peers import Relay, Rogue
from test_leaks import Memory, cmdline, descendants

pytestmark = [
    pytest.mark.proof,
    pytest.mark.timeout(figures.pick(300, 7200)),
    pytest.mark.skipif(sys.platform != "linux", reason="strace is Linux's"),
]

NAMES = ("custodians.json", "custody-box.json", "custody-second.json")
SHARED = "custody-second.json"  # in the vault's directory too


class Stage:
    """A machine with a vault that a box opens, as it is put back before each try."""

    def __init__(self, machine: Machine, phone: Rogue) -> None:
        self.machine, self.phone, self.box = machine, phone, Box(machine.top)
        machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=phone.uri)
        self.own, self.kept = machine.own, machine.top / "kept"
        machine("custody", "add", "program", f"path={self.box.path}", "--name", "box", "--yes")
        machine("daemon", "stop")
        self.keep()

    def keep(self) -> None:
        """From now on each try begins so."""
        shutil.rmtree(self.kept, ignore_errors=True)
        for name, place in self.places().items():
            shutil.copytree(place, self.kept / name)

    def places(self) -> dict[str, Path]:
        return {"own": self.own, "vault": self.machine.vault, "box": self.box.place}

    def put_back(self) -> None:
        for name, place in self.places().items():
            shutil.rmtree(place)
            shutil.copytree(self.kept / name, place)

    def asked(self) -> int:
        return len(self.phone.requests("nip44_decrypt"))

    @contextlib.contextmanager
    def traced(self, *words: str) -> Iterator[Running]:
        """An open daemon under strace, which says on stderr what calls are about custodians' files. It is ended."""
        files = [*(self.own / name for name in NAMES), self.machine.vault / SHARED]
        paths = [word for path in files for word in ("-P", str(path))]
        command, self.machine.command = self.machine.command, ["strace", "-qq", *paths, *words]
        running = self.machine.start(*command, "daemon", "start")
        self.machine.command = command
        try:
            running.line("avault: unlocked")  # and no status, which makes calls
            yield running
        finally:
            with contextlib.suppress(ProcessLookupError):
                for pid in descendants(running.process.pid):
                    os.kill(pid, signal.SIGKILL)
            running.kill()

    def change(self, words: tuple[str, ...], *traced: str) -> tuple[int | None, list[tuple[str, int]]]:
        """A change of custodians: the command's exit code, and the calls about their files, each the so-manieth of its name."""
        self.put_back()
        with self.traced(*traced) as running:
            before = len(self.calls(running))
            done = self.machine(*words, code=None)
            names = self.calls(running)
        calls = [(name, names[: number + 1].count(name)) for number, name in enumerate(names)]
        return done.returncode, calls[before:]

    def calls(self, running: Running) -> list[str]:
        """The names of the calls so far."""
        return [match[1] for line in list(running.stderr) if (match := re.match(r"(\w+)\(", line))]


@pytest.fixture
def stage(machine: Machine, rogue: Rogue) -> Stage:
    return Stage(machine, rogue)


CHANGES = ("add", "move", "remove")


@pytest.mark.long
@pytest.mark.root  # the daemon is closed to others of its user: they trace it, but see no path
@pytest.mark.skipif(not shutil.which("strace"), reason="no strace")
@pytest.mark.parametrize("change", CHANGES)
def test_killed_at_every_call_one_opens_the_vault(stage: Stage, change: str, canary: Canary) -> None:
    """The old custodian or the new one, without the phone; or after a removal the phone. And all can be done again."""
    path = f"path={stage.box.path}"
    words = {
        "add": ("custody", "add", "program", path, "--name", "second", "--yes"),
        "move": ("custody", "move", "box", "program", path, "--name", "second", "--yes"),
        "remove": ("custody", "remove", "box", "--yes"),
    }[change]
    code, calls = stage.change(words)
    assert code == 0 and calls
    killed = 0
    for name, count in calls[:: 1 if figures.FULL else max(1, len(calls) // 12)]:
        code, _ = stage.change(words, "-e", f"inject={name}:signal=KILL:when={count}")
        killed += code != 0
        machine, asked = stage.machine, stage.asked()
        machine("daemon", "start", "-b")
        machine.wait_state("unlocked")
        assert stage.asked() == asked or change == "remove", (change, name, count)
        machine("custody", "add", "program", path, "--name", "third", "--yes")
        machine("lock")
        machine("unlock")
        machine("daemon", "stop")
    figures.at_least(f"calls of a custodian's {change} at which the daemon was killed", killed)


@pytest.mark.long
@pytest.mark.root
@pytest.mark.skipif(not shutil.which("strace"), reason="no strace")
@pytest.mark.parametrize("change", ["share", "unshare"])
def test_killed_at_every_call_what_is_shared_is_whole_or_not_there(stage: Stage, change: str, canary: Canary) -> None:
    """The other custodian opens the vault. A file for all machines is signed; and the same can be done again."""
    machine, path = stage.machine, f"path={stage.box.path}"
    words = ("custody", "add", "program", path, "--name", "second", "--shared", "--yes")
    if change == "unshare":
        machine("daemon", "start", "-b")
        machine.wait_state("unlocked")
        machine(*words)
        machine("daemon", "stop")
        stage.keep()
        words = ("custody", "remove", "second", "--yes")
    code, calls = stage.change(words)
    assert code == 0 and calls
    killed = 0
    for name, count in calls[:: 1 if figures.FULL else max(1, len(calls) // 6)]:
        code, _ = stage.change(words, "-e", f"inject={name}:signal=KILL:when={count}")
        killed += code != 0
        asked = stage.asked()
        machine("daemon", "start", "-b")
        machine.wait_state("unlocked")
        assert stage.asked() == asked, (change, name, count)
        found = machine("custody", "list", "--json").json
        whys = [each["why"] for each in found["offered"] if each["why"]]
        assert not whys or (change == "unshare" and "its old file is back" in whys[0]), (change, name, count)
        is_used = "second" in machine.status()["custodians"]
        if change == "share" and (machine.vault / SHARED).exists():
            machine("custody", *(("test",) if is_used else ("take",)), "second", *(() if is_used else ("--yes",)))
        elif change == "share":
            machine(*words, "--replace")
        elif is_used or (machine.vault / SHARED).exists():
            machine(*words, code=None)  # its key may be gone already, which the box calls an error
        assert (machine.vault / SHARED).exists() == (change == "share"), (name, count)
        machine("daemon", "stop")
    figures.at_least(f"calls of a custodian's {change} at which the daemon was killed", killed)


@pytest.mark.root
@pytest.mark.starts
def test_memory_of_custodians_processes(machine: Machine, relay: Relay, canary: Canary) -> None:
    """The supervisor never has an unlock key, nor the agent's; a helper is gone when its answer is out, and a trial."""
    agent = nostr_sdk.Keys.generate()
    with peers.rogue([relay.url]) as phone:
        box = Box(machine.top)
        nsec = str(agent.secret_key().to_bech32())
        machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=phone.uri, NOSTR_NSEC=nsec)
        memory = Memory()
        memory.want_key("agent", agent)

        def look() -> int | None:
            status = machine.status()
            if (box.place / "box").exists():
                key = box.kept()
                canary.watch(key)
                memory.wanted |= {"unlock key": key.encode(), "unlock key (bytes)": bytes.fromhex(key)}
            assert memory.found(status["pid"], 4 << 20) == set()
            others = {*descendants(status["pid"])} - {status["keyholder_pid"]}
            assert not [pid for pid in others if b"custodian" in cmdline(pid) or b"trial" in cmdline(pid)]
            return status["keyholder_pid"]

        machine("custody", "add", "program", f"path={box.path}", "--name", "box", "--yes")
        look()
        machine("custody", "test", "box")
        keyholder = look()
        assert keyholder and memory.found(keyholder, 1 << 20) >= {"agent (bytes)"}, "the control"
        machine("lock")
        assert look() is None
        box.mode("hangs")
        running = machine.start("unlock", "--with", "box")
        pid = machine.status()["pid"]
        wait_until(lambda: [each for each in descendants(pid) if b"avault-custodian-box" in cmdline(each)], what="the box")
        assert memory.found(pid, 4 << 20) == set()
        running.kill()
        wait_until(lambda: not [each for each in descendants(pid) if b"custodian" in cmdline(each)], what="its end")
        box.mode("ok")
        machine("unlock", "--with", "box")
        look()
        (box.place / "box").unlink()
