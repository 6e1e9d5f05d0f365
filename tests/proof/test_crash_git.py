"""`avault git record` killed at each change that a git of its makes, alone or together with it.

No commit is lost and none is half made: the next one commits what is on the disk. Where git's own lock is left (a git that
is killed cannot remove it), avault names the file, and never removes what may be another's.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import figures
import pytest
from git_helpers import by_hand, git, make, put, stop
from harness import Machine

pytestmark = [
    pytest.mark.proof,
    pytest.mark.usefixtures("forks"),
    pytest.mark.skipif(sys.platform != "linux", reason="strace is Linux's"),
]

# The number of this git among those of one command; the one that is asked for runs under strace. `all`: and we die with it.
SHIM = """#!/bin/sh
cd=$(dirname "$0"); n=$(($(cat "$cd/count") + 1)); echo $n >"$cd/count"; echo "$*" >>"$cd/said"
[ "$n" = "$(cat "$cd/at")" ] || exec "$(cat "$cd/real")" "$@"
strace -f -o "$cd/log" $(cat "$cd/words") "$(cat "$cd/real")" "$@"; code=$?
[ "$(cat "$cd/who")" != all ] || [ $code -lt 128 ] || kill -9 $PPID
exit $code
"""
CHANGES = "openat,creat,open,link,linkat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,write,ftruncate"


class Shim:
    """A git of the test's own before the real one in $PATH."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.dir = machine, machine.top / "shim"
        self.dir.mkdir()
        found = shutil.which("git")
        assert found and shutil.which("strace"), "the tests of crashes need git and strace"
        (self.dir / "bin").mkdir()
        (self.dir / "bin" / "git").write_text(SHIM)
        (self.dir / "bin" / "git").chmod(0o755)
        self.path = f"{self.dir / 'bin'}:{machine.env['PATH']}"
        self.set("real", found)

    def set(self, name: str, text: str) -> None:
        (self.dir / "bin" / name).write_text(text)

    def get(self, name: str) -> str:
        path = self.dir / "bin" / name
        return path.read_text() if path.exists() else ""

    def record(self, at: int, words: str, who: str = "git") -> int:
        """`avault git record`, its git of that number under strace with these words; the exit code."""
        for name, text in (("count", "0"), ("said", ""), ("at", str(at)), ("words", words), ("who", who), ("log", "")):
            self.set(name, text)
        return self.machine("git", "record", code=None, PATH=self.path).returncode


def changes(shim: Shim, at: int) -> list[tuple[str, int]]:
    """The system calls by which that git changes a file: name, and the how manyth of that name it is."""
    shim.record(at, f"-e trace={CHANGES}")
    counts: dict[str, int] = {}
    found = []
    for name, words in re.findall(r"^\d+ +(\w+)\((.*)", shim.get("log"), re.MULTILINE):
        counts[name] = counts.get(name, 0) + 1
        if "O_CREAT" in words or (name == "write" and not re.match("[12],", words)) or name not in ("open", "openat", "write"):
            found.append((name, counts[name]))
    return found


def try_again(machine: Machine, locks: list[Path]) -> None:
    """The next `avault git record` commits; where a lock of git's own is left, it names it, and takes nothing from anybody."""
    said = by_hand(machine, code=None)
    if said["state"] not in ("committed", "clean"):
        assert any(lock.name in f"{said['reason']} {said['hint']}" for lock in locks), (said, locks)
    for lock in locks:
        lock.unlink(missing_ok=True)
    assert said["state"] in ("committed", "clean") or by_hand(machine)["state"] == "committed"


@pytest.mark.timeout(figures.pick(120, 7200))
def test_record_killed_at_every_change(machine: Machine) -> None:
    make(machine)
    git(machine, "init", "-q")
    put(machine, "g/K", "first")
    stop(machine)
    by_hand(machine)
    shim, repository, before = Shim(machine), machine.vault / ".git", machine.top / "before"
    shutil.copytree(repository, before)
    hints = machine.vault / "nip46.json"
    hints.write_bytes(hints.read_bytes() + b"\n")  # other bytes, as after a write; git is not to look into them

    def put_back() -> None:
        shutil.rmtree(repository)
        shutil.copytree(before, repository)

    shim.record(0, "")
    commands = shim.get("said").splitlines()
    killed = stuck = 0
    for at, command in enumerate(commands, 1):
        if not figures.FULL and not command.startswith(("update-index --add", "update-ref")):
            continue
        put_back()
        for name, number in changes(shim, at)[:: figures.pick(8, 1)]:
            put_back()
            who = ("all", "git")[number % 2]
            shim.record(at, f"-e trace={name} -e inject={name}:signal=KILL:when={number}", who)
            killed += "killed by SIGKILL" in shim.get("log")
            locks = [path for path in repository.rglob("*.lock") if path.name != "maintenance.lock"]  # that one git minds itself
            stuck += bool(locks)
            try:
                try_again(machine, locks)
                assert git(machine, "rev-parse", "HEAD:nip46.json") == git(machine, "hash-object", "--no-filters", str(hints))
                git(machine, "commit", "-q", "--allow-empty", "-m", "the user's")
                git(machine, "fsck", "--no-dangling")
            except BaseException as error:
                error.add_note(f"killed at {name} number {number} of git {command[:100]}; {locks}")
                raise
    figures.at_least("changes of a git commit at which it was killed", killed)
    # Git's own locks outlive a git that is killed while it holds one; whose a lock is, it does not say.
    figures.at_most("changes at which a killed git leaves a lock that a person removes", stuck)
