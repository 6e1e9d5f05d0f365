"""A rotation whose keyholder is killed at each call that touches its files: the old key opens the vault, or the new one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import figures
import pytest
from canary import Canary
from harness import Machine, Running, wait_until
from peers import Rogue
from test_custodians import Stage
from test_leaks import descendants

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(sys.platform != "linux", reason="strace is Linux's"),
]

OWN = ("unlock.json", "pairing.json", "pin.json", "log.json", "recovery.json", "custody-box.json", "access.log", "forget.json")
IN_VAULT = ("avault.enc", "nsec.enc", "nip46.json")


class Turned(Stage):
    """The same, where strace follows the daemon to its keyholder."""

    @contextlib.contextmanager
    def traced(self, *words: str) -> Iterator[Running]:
        staged = [self.own / top / name for top in ("rotation.new", "rotation") for name in (*OWN, *IN_VAULT, "manifest", ".")]
        files = [*(self.own / name for name in OWN), *(self.machine.vault / name for name in IN_VAULT), *staged]
        paths = [word for path in files for word in ("-P", str(path))]
        command, self.machine.command = self.machine.command, ["strace", "-f", "-qq", *paths, *words]
        running = self.machine.start(*command, "daemon", "start")
        self.machine.command = command
        try:
            wait_until(lambda: any("avault: unlocked" in line for line in list(running.stderr)), what="unlocked")
            yield running
        finally:
            with contextlib.suppress(ProcessLookupError):
                for pid in descendants(running.process.pid):
                    os.kill(pid, signal.SIGKILL)
            running.kill()

    def rotate(self, *traced: str) -> tuple[int | None, list[tuple[str, int]]]:
        """The command's exit code, and the keyholder's calls, each the so-manieth of its name."""
        self.put_back()
        with self.traced(*traced) as running:
            keyholder = self.machine.status()["keyholder_pid"]
            before = len(self.made_by(running, keyholder))
            done = self.machine("rotate", "agent", "--yes", code=None)
            names = self.made_by(running, keyholder)
        return done.returncode, [(name, names[: number + 1].count(name)) for number, name in enumerate(names)][before:]

    def made_by(self, running: Running, pid: int) -> list[str]:
        found = (re.match(rf"\[pid +{pid}\] (\w+)\(", line) for line in list(running.stderr))
        return [match[1] for match in found if match]


STORING = {"write", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "link", "linkat"}


@pytest.fixture
def turned(machine: Machine, rogue: Rogue) -> Turned:
    return Turned(machine, rogue)


def prepare(turned: Turned, canary: Canary) -> str:
    """Have a value in the vault that is put back before each try; whose it is."""
    machine = turned.machine
    machine("daemon", "start", "-b")
    machine.wait_state("unlocked")
    machine("set", "openai/API_KEY", input=canary.value)
    machine("daemon", "stop")
    shutil.rmtree(turned.kept)
    for name, place in turned.places().items():
        shutil.copytree(place, turned.kept / name)
    return agent_of(turned.own / "unlock.json")


def agent_of(path: Path) -> str:
    return str(json.loads(path.read_text())["agent"])


@pytest.mark.long
@pytest.mark.root
@pytest.mark.skipif(not shutil.which("strace"), reason="no strace")
def test_killed_at_every_call_one_key_opens_the_vault(turned: Turned, canary: Canary) -> None:
    machine, old = turned.machine, prepare(turned, canary)
    code, calls = turned.rotate()
    assert code == 0 and len(calls) > 20
    killed, agents = 0, set()
    for name, count in calls[:: 1 if figures.FULL else max(1, len(calls) // 8)]:
        code, _ = turned.rotate("-e", f"inject={name}:signal=KILL:when={count}")
        killed += code != 0
        machine("daemon", "start", "-b")
        machine.wait_state("unlocked")
        assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n", (name, count)
        named = {
            agent_of(turned.own / "unlock.json"),
            agent_of(turned.own / "pairing.json"),
            agent_of(machine.vault / "nsec.enc"),
        }
        assert len(named) == 1, (name, count)
        agents.add("old" if named == {old} else "new")
        machine("lock")
        machine("unlock", "--with", "phone")
        machine("custody", "test", "box")
        machine("rotate", "agent", "--yes")
        machine("daemon", "stop")
    assert agents == {"old", "new"}, "some were killed before it counted, and some after"
    figures.at_least("calls of a rotation at which the keyholder was killed", killed)


@pytest.mark.long
@pytest.mark.root
@pytest.mark.skipif(not shutil.which("strace"), reason="no strace")
def test_where_a_call_fails_nothing_that_was_confirmed_is_lost(turned: Turned, canary: Canary) -> None:
    """As on a full disk: what is written afterwards, with whatever key, is there after the next start."""
    machine, old = turned.machine, prepare(turned, canary)
    code, calls = turned.rotate()
    assert code == 0
    failed, written, agents = 0, 0, set()
    if not figures.FULL:  # a few of those that put something on the disk
        calls = [(name, count) for name, count in calls if name in STORING]
    for name, count in calls[:: 1 if figures.FULL else max(1, len(calls) // 8)]:
        turned.put_back()
        with turned.traced("-e", f"inject={name}:error=ENOSPC:when={count}"):
            failed += machine("rotate", "agent", "--yes", code=None).returncode != 0
            machine("unlock", "--timeout", "20", code=None)
            is_written = machine("set", "later/KEY", input=canary.value, code=None).returncode == 0
        machine("daemon", "start", "-b")
        machine.wait_state("unlocked")
        for key in ["openai/API_KEY", *["later/KEY"] * is_written]:
            assert machine("get", key, secret=True).stdout == canary.value + "\n", (name, count)
        written += is_written
        agents.add("old" if agent_of(turned.own / "unlock.json") == old else "new")
        machine("daemon", "stop")
    assert agents == {"old", "new"} and written, "some failed before it counted, and some after"
    figures.at_least("calls of a rotation that failed, with a write afterwards", failed)
