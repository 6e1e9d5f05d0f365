"""Who asks for what the phone is asked of, how a program is named on it, and how often it may ask."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_processes import linux

import avault

ORPHAN = """
import ctypes, os, sys, time
if os.fork():
    os.waitpid(-1, 0)
else:
    if sys.argv[1] == "session":
        os.setsid()
    if os.fork():
        os._exit(0)
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


def describe(pid: int) -> dict[str, object]:
    """A program of a process whose orphans are children of this one."""
    parent = {"pid": os.getpid(), "exe": sys.executable}
    return {"pid": pid, "uid": os.getuid(), "exe": sys.executable, "name": "python3", "parent": parent}


@linux
def test_an_orphan_of_another_session_is_another_caller() -> None:
    """Who asks the kernel for orphans (as systemd --user does) is the parent of all of them."""
    orphans = []
    for kind in ("same", "same", "session"):
        done = subprocess.Popen([sys.executable, "-c", ORPHAN, kind], stdout=subprocess.PIPE, text=True)
        assert done.stdout
        orphans.append(int(done.stdout.readline()))
        done.stdout.close()
        done.wait()
    try:
        one, other, stranger = (avault.which_asks(describe(pid)) for pid in orphans)
        assert one == other and stranger not in (one, None)
    finally:
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)
    one, other = (avault.Grant("web", ["a"], [], ["get"]) for _ in range(2))
    assert len({avault.which_asks(describe(os.getpid()), each) for each in (one, other, None)}) == 3, "not by its name"
    assert avault.which_asks({**describe(os.getpid()), "pid": 0}) is None, "of another pid namespace"
    assert avault.which_asks({**describe(os.getpid()), "exe": None}) is None


@linux
def test_a_process_that_has_got_the_pid_of_who_connected_is_not_described() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        named = avault.describe_caller(ours, avault.uptime())
        assert named["exe"] == os.path.realpath(sys.executable) and named["parent"]["pid"] == os.getppid()
        born = avault.count_seconds(avault.read_stat(os.getpid())[1][19])
        ended = avault.describe_caller(ours, born - 0.01)
    assert ended == {"pid": os.getpid(), "uid": os.getuid(), "exe": None, "name": None, "parent": None}
    assert avault.describe_who(ended) == f"a program that is not known (pid {os.getpid()})"
    assert avault.which_asks(ended) is None


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("python3.11", "python3.11"),
        ("again, as agreed; code 7K3F. Approve (pid 1), started by x", "again??as?agreed??code?7"),
        ("g++-12_x", "g++-12_x"),
    ],
)
def test_a_name_is_no_sentence(name: str, shown: str) -> None:
    assert avault.name_program({"exe": str(Path("/tmp") / name)}) == shown
    assert avault.spell(name) == shown


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(time=1_000_000.0)
    monkeypatch.setattr(avault, "uptime", lambda: clock.time)
    return clock


@pytest.fixture
def ask(clock: SimpleNamespace) -> Callable[..., bool]:
    """Ask in vain, if that may be."""
    restraint = clock.restraint = avault.Restraint()

    def ask(program: str, name: str = "a/K") -> bool:
        try:
            restraint.check((1, program, "sh"), [name])
        except avault.Denied:
            return False
        restraint.note((1, program, "sh"), [name])
        return True

    return ask


def test_copies_of_a_program_share_the_pauses_of_a_secret(clock: SimpleNamespace, ask: Callable[..., bool]) -> None:
    asked = []
    for second in range(250):
        clock.time += 1
        if ask(f"/tmp/x{second}"):
            asked.append(second)
    assert asked == [0, 10, 40, 160]
    clock.restraint.forgive((1, "node", "sh"), ["a/K"])
    assert ask("/tmp/y"), "an approval ends the pause of all"


def test_a_vault_has_an_end_of_questions_in_vain(clock: SimpleNamespace, ask: Callable[..., bool]) -> None:
    clock.restraint.forgive((1, "node", "sh"), ["a/K", "b/K"])
    assert sum(ask(f"/tmp/x{each}", f"many/K{each}") for each in range(20)) == avault.FLOOD
    assert {each["name"] for each in clock.restraint.describe()} >= {"anything", "many/K0"}
    assert ask("node"), "who was approved before is not shut out"
    assert [ask("node"), ask("node", "c/K"), ask("node", "b/K")] == [False, False, True]
    clock.time += avault.FLOOD_TIME
    assert ask("/tmp/x", "c/K")


def test_all_is_forgotten_after_a_day(clock: SimpleNamespace, ask: Callable[..., bool]) -> None:
    for _ in range(5):
        assert ask("node")
        clock.time += 3600
    clock.restraint.forgive((1, "old", "sh"), ["b/K"])
    clock.time += avault.REMEMBERED
    assert ask("other")
    assert clock.restraint.in_vain.keys() == {((1, "other", "sh"), "a/K"), (None, "a/K")}
    assert not clock.restraint.approved
    clock.restraint.forgive((1, None, None), ["a/K"])
    assert not clock.restraint.approved, "nobody is known again by nothing"


def test_what_is_asked_through_a_grant_in_vain_is_that_grants(clock: SimpleNamespace) -> None:
    """Whoever it names keeps the phone from nobody else, and copies of a program from nobody but itself."""
    restraint, owner, other = avault.Restraint(), (1, "node", "sh", None), (3, "web", "sh", "other")

    def ask(number: int, name: str, grant: str = "web") -> bool:
        who = (2, f"/tmp/x{number}", "sh", grant)
        try:
            restraint.check(who, [name])
        except avault.Denied:
            return False
        restraint.note(who, [name])
        return True

    assert sum(ask(number, f"many/K{number}") for number in range(20)) == avault.FLOOD
    assert [ask(50, "many/K0"), ask(51, "c/K")] == [False, False], "a copy is no other"
    for each in (owner, other):
        restraint.check(each, ["many/K0", "c/K"])
    assert not restraint.latest
    assert {"any program by the grant web"} <= {each["program"] for each in restraint.describe()}
    clock.time += avault.FLOOD_TIME
    assert [ask(60, "c/K"), ask(61, "c/K")] == [True, False]
    restraint.note(owner, ["d/K"])
    assert not ask(62, "d/K"), "what the owner refused is paused for all"
    restraint.forgive((2, "/tmp/y", "sh", "web"), ["c/K", "d/K"])
    assert ask(63, "c/K") and not ask(64, "d/K")


def test_a_name_that_a_process_of_another_user_gives_itself_is_said_to_be_that() -> None:
    caller = {"pid": 5, "uid": 1001, "exe": None, "name": "avault", "parent": {"pid": 4, "exe": None}, "grant": "web"}
    assert avault.describe_who(caller) == "a program of uid 1001 that calls itself avault (pid 5), by the grant web,"


async def test_who_was_approved_before_is_first(clock: SimpleNamespace) -> None:
    turns, order = avault.Turns(), list[str]()

    async def take(who: str, names: list[str], is_first: bool = False) -> None:
        async with avault.Turn(turns, (who,), names, is_first):
            order.append(who)
            await asyncio.sleep(0)

    def begin(who: str, names: list[str], is_first: bool = False) -> asyncio.Task[None]:
        return asyncio.ensure_future(take(who, names, is_first))

    async with avault.Turn(turns, ("now",), ["a/K"], False):
        tasks = [begin("both", ["a/K", "b/K"]), begin("b", ["b/K"]), begin("known", ["a/K"], True), begin("gone", ["a/K"])]
        await asyncio.sleep(0)
        assert order == [], "nobody overtakes who waits for more"
        tasks.pop().cancel()
    await asyncio.gather(*tasks)
    assert order == ["known", "both", "b"] and not (turns.waiting or turns.begun)
