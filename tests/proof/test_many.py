"""Many at once: 64 who write and 64 who read one vault, while it is locked, opened, stopped, started, and pulled from git.

What each of them saw, and when, is held against a model: a register that has one value at a time. A write that was
acknowledged and is not found, or a read of what was overwritten before it began, breaks it. Then one after the other, many
times: what the two processes hold in memory and descriptors does not grow with gets and unlocks.
"""

import contextlib
import itertools
import json
import math
import os
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import figures
import git_helpers
import pytest
from canary import Canary
from crowd import text
from harness import AVAULT, Machine, wait_until
from test_wire import Client, as_frame, memory

pytestmark = [pytest.mark.proof, pytest.mark.timeout(figures.pick(300, 7200))]

WRITERS = 64  # and as many who read
PROCESSES = 4
SHARED = [f"K{number}" for number in range(8)]


# The model


class Write(NamedTuple):
    """A value that a key may have had: from when on, and when that was certain; and whether it is known that it was written."""

    what: str
    begun: float
    ended: float
    known: bool = True


class Read(NamedTuple):
    """A value that somebody got."""

    what: str
    begun: float
    ended: float


def faults(writes: list[Write], reads: list[Read]) -> Iterator[str]:
    """Why no register, with one value at a time, can have answered so (Gibbons and Korach, Testing Shared Memories, 1997).

    A write and the reads of it are a cluster. From the first end in it to the last beginning, the register must have had
    its value: so two such stretches do not overlap, and no other write lies wholly within one.
    """
    clusters: dict[str, list[Write | Read]] = {write.what: [write] for write in writes}
    assert len(clusters) == len(writes), "values that tell nothing"
    for read in reads:
        if read.what not in clusters:
            yield f"{read.what} was read, and nobody wrote it"
        elif read.ended < clusters[read.what][0].begun:
            yield f"{read.what} was read before it was written"
        else:
            clusters[read.what].append(read)
    known = {write.what for write in writes if write.known}
    zones = [
        (min(each.ended for each in cluster), max(each.begun for each in cluster), what)
        for what, cluster in clusters.items()
        if what in known or len(cluster) > 1
    ]
    certain = sorted(zone for zone in zones if zone[0] < zone[1])
    for (_, end, what), (begun, _, other) in itertools.pairwise(certain):
        if begun < end:
            yield f"{what} was read although {other} was there, {end - begun:.3f} s"
    for begun, end, what in certain:
        for last, first, other in zones:
            if last >= first and begun < first and last < end:
                yield f"{other} was written while {what} was there, and was lost"


def absences(writes: list[Write], gone: list[Write]) -> list[tuple[float, float, str]]:
    """From when to when each delete of one writer's key may have been what was there: until the next set was certain."""
    sets = sorted(write.ended for write in writes if write.known)
    return [(each.begun, next((end for end in sets if end > each.ended), math.inf), each.what) for each in gone]


def check(journal: list[dict[str, Any]]) -> tuple[int, int, list[str]]:
    """The acknowledged writes, the reads that were held against them, and what was wrong."""
    keys: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in journal:
        if line["did"] in ("set", "get"):
            keys[line["key"]].append(line)
    written = read = 0
    wrong = [line["why"] for line in journal if line["did"] == "wrong"]
    for key, lines in keys.items():
        did = [line for line in lines if line["did"] == "set"]
        writes = [Write(x["what"], x["begun"], x["ended"], x["known"]) for x in did if x["what"] is not None]
        deletes = [x for x in did if x["what"] is None]
        gone = [Write("nothing", -math.inf, -math.inf)]  # as at the beginning
        gone += [Write(f"delete {n}", x["begun"], x["ended"], x["known"]) for n, x in enumerate(deletes)]
        spans, reads = absences(writes, gone), []
        for line in (line for line in lines if line["did"] == "get"):
            if line["what"] is not None:
                reads.append(Read(line["what"], line["begun"], line["ended"]))
                continue
            may = [what for begun, end, what in spans if begun < line["ended"] and line["begun"] < end]
            if not may:
                wrong.append(f"{key}: nothing was read, and nobody had deleted it")
            elif len(may) == 1:  # of several, it does not tell which one it saw
                reads.append(Read(may[0], line["begun"], line["ended"]))
        wrong += [f"{key}: {fault}" for fault in faults([*writes, *gone], reads)]
        written += sum(x["known"] for x in did)
        read += len(reads)
    return written, read, wrong


W, R = Write, Read
HISTORIES: dict[str, tuple[list[Write], list[Read], str]] = {
    "right": ([W("a", 0, 1), W("b", 2, 3)], [R("a", 1, 2), R("a", 2, 4), R("b", 2, 4), R("b", 5, 6)], ""),
    "right, of two at once": ([W("a", 0, 5), W("b", 0, 5)], [R("b", 1, 2), R("a", 3, 9)], ""),
    "right, of one that nobody knows of": ([W("a", 0, 1), W("b", 2, 3, False)], [R("a", 4, 5)], ""),
    "a lost update": ([W("a", 0, 1), W("b", 2, 3)], [R("a", 4, 5)], "b was written while a was there, and was lost"),
    "a stale read": ([W("a", 0, 1), W("b", 2, 3)], [R("b", 4, 5), R("a", 6, 7)], "a was read although b was there"),
    "to and fro, of two at once": ([W("a", 0, 5), W("b", 0, 5)], [R("a", 1, 2), R("b", 3, 4), R("a", 6, 7)], "while a was there"),
    "what was not known and came": ([W("a", 0, 1), W("b", 2, 3, False)], [R("b", 4, 5), R("a", 6, 7)], "although b"),
    "a value of nobody's": ([W("a", 0, 1)], [R("c", 2, 3)], "nobody wrote it"),
    "a value of the future": ([W("a", 4, 5)], [R("a", 2, 3)], "before it was written"),
}


@pytest.mark.parametrize("history", HISTORIES)
def test_the_model(history: str) -> None:
    """It takes what one register may answer, and nothing else."""
    writes, reads, fault = HISTORIES[history]
    found = list(faults(writes, reads))
    assert (found == []) if not fault else any(fault in each for each in found), found


def test_the_model_of_deletes() -> None:
    """What was deleted does not come back, and what was set is not gone."""

    def line(did: str, what: str | None, begun: float) -> dict[str, Any]:
        return {"did": did, "key": "g/K", "what": what, "begun": begun, "ended": begun + 1, "known": True}

    history = [line("get", None, 0), line("set", "a", 2), line("get", "a", 4), line("set", None, 6), line("get", None, 8)]
    assert check(history) == (2, 3, [])
    assert "a was read although delete 0 was there" in str(check([*history, line("get", "a", 10)]))
    assert "nothing was read, and nobody had deleted it" in str(check([*history[:2], line("get", None, 4)]))
    assert "delete 0 was written while a was there" in str(check([*history[:4], line("get", "a", 8)]))


# The crowd, and who disturbs it


class Crowds:
    """Processes of writers and readers, and what they have noted."""

    def __init__(self, machine: Machine, mark: str, top: Path) -> None:
        self.machine, self.mark, self.top, self.hold = machine, mark, top, top / "hold"
        self.own = [f"w{number}/OWN" for number in range(WRITERS)]
        self.shared = [f"shared/{key}" for key in SHARED]
        self.processes: list[subprocess.Popen[str]] = []
        self.noted: list[dict[str, Any]] = []

    def keys(self) -> list[str]:
        return [*self.own, *self.shared * 4, *CLONE]

    def __enter__(self) -> Self:
        paths = [str(Path(__file__).parent), *(str(Path(__file__).parents[1] / each) for each in ("daemon", "tools"))]
        env = self.machine.env | {"PYTHONPATH": ":".join(paths)}
        for number in range(PROCESSES):
            job = {
                "vault": str(self.machine.vault), "runtime": str(self.machine.runtime), "mark": self.mark, "hold": str(self.hold),
                "journal": str(self.top / f"journal-{number}"), "writers": list(range(number, WRITERS, PROCESSES)),
                "shared": SHARED, "keys": self.keys(), "pause": figures.pick(2.0, 0.05),
            }  # fmt: skip
            command = [sys.executable, str(Path(__file__).with_name("crowd.py"))]
            process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, text=True)
            self.processes.append(process)
            assert process.stdin
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        journals = [self.top / f"journal-{number}" for number in range(PROCESSES)]
        wait_until(lambda: all(path.exists() and '"set"' in path.read_text() for path in journals), what="all write")
        return self

    def __exit__(self, *_: object) -> None:
        """Have all come to an end, and read what they have noted."""
        for process in self.processes:
            assert process.stdin
            process.stdin.close()
        for process in self.processes:
            assert process.wait(200) == 0
        for path in self.top.glob("journal-*"):
            self.noted += map(json.loads, path.read_text().splitlines())

    def note(self, key: str, what: str | None, did: str, begun: float) -> None:
        self.noted.append({"did": did, "key": key, "what": what, "begun": begun, "ended": time.monotonic(), "known": True})

    def put(self, machine: Machine, key: str, what: str) -> float:
        """Set a key by the command; when it began."""
        begun = time.monotonic()
        machine("set", key, input=text(self.mark, what))
        return begun

    def look(self, machine: Machine) -> dict[str, str]:
        """All that the vault has, by the command: which write made each value."""
        groups = machine("export", "--prefix", "--format", "json", secret=True).json
        return {key: value.removeprefix(self.mark + "-").partition(" ")[0] for key, value in groups.items()}


CLONE = [f"clone/K{number}" for number in range(4)]  # what the other machine sets


@contextlib.contextmanager
def held(crowd: Crowds) -> Iterator[None]:
    """Nobody writes meanwhile: git merges nothing into a work tree that changes."""
    crowd.hold.touch()
    try:
        yield
    finally:
        crowd.hold.unlink(missing_ok=True)


class Chaos:
    """Locks, stops and pulls, one after the other, while the crowd goes on."""

    def __init__(self, crowd: Crowds, a: Machine, b: Machine) -> None:
        self.crowd, self.a, self.b = crowd, a, b
        self.sets = self.acts = self.amid = 0

    def lock(self) -> None:
        self.a("lock", "--force")
        time.sleep(random.uniform(0, 0.3))
        self.a("unlock", NOSTR_NSEC=git_helpers.NSEC)

    def stop(self) -> None:
        self.a("daemon", "stop", "--force")
        time.sleep(random.uniform(0, 0.3))
        git_helpers.start(self.a)

    def set_elsewhere(self) -> list[tuple[str, str, float]]:
        """What the other machine has set and published."""
        made = []
        for key in random.sample(CLONE, 2):
            self.sets += 1
            what = f"clone.{self.sets}"
            made.append((key, what, self.crowd.put(self.b, key, what)))
        wait_until(lambda: self.b("sync", code=None).returncode == 0, what="a push that no other one crosses")
        return made

    def arrived(self, made: list[tuple[str, str, float]]) -> None:
        """From the next acknowledged write on, everybody sees what was pulled: a write merges what lies on the disk."""
        self.sets += 1
        key, what = "clone/OURS", f"ours.{self.sets}"
        self.crowd.note(key, what, "set", self.crowd.put(self.a, key, what))
        for key, what, begun in made:
            self.crowd.note(key, what, "set", begun)

    def pull(self) -> None:
        """Between two writes, while all go on reading: git that meets a write in the middle of its own is another matter."""
        made = self.set_elsewhere()
        with held(self.crowd):
            wait_until(lambda: git_helpers.is_committed(self.a), what="a commit")
            git_helpers.git(self.a, "pull", "-q", "--no-rebase", "--no-edit")
        self.arrived(made)

    def pull_amid(self) -> None:
        """All write on in the middle of it: git may refuse, or leave an older file, and writers are refused. A sync mends it.

        Where git has left an older file, sync does not commit what is not served, and what is served is written back first.
        """
        made = self.set_elsewhere()
        with held(self.crowd):
            wait_until(lambda: git_helpers.is_committed(self.a), what="a commit")
            pull = subprocess.Popen(
                ["git", "pull", "-q", "--no-rebase", "--no-edit"],
                cwd=self.a.vault, env=self.a.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            time.sleep(random.uniform(0, 0.4))
        self.amid += not pull.wait(120)
        self.sync()
        self.arrived(made)

    def sync(self) -> None:
        def is_level() -> bool:
            done = self.a("sync", code=None)
            if "is not what is served" in done.stderr:
                self.a("restore", "--unsaved")
            return done.returncode == 0

        with held(self.crowd):
            wait_until(is_level, what="a sync")

    def pull_locked(self) -> None:
        """git cannot merge it; the next unlock does."""
        made = self.set_elsewhere()
        self.arrived([])  # a write that the other side does not have: else git would have nothing to merge
        with held(self.crowd):
            wait_until(lambda: git_helpers.is_committed(self.a), what="a commit")
            self.a("lock", "--force")
        git_helpers.git(self.a, "pull", "-q", "--no-rebase", "--no-edit", code=1)
        self.a("unlock", NOSTR_NSEC=git_helpers.NSEC)
        git_helpers.told(self.a, "merged")
        self.sync()
        self.arrived(made)

    def run(self, seconds: float, rounds: int) -> None:
        """Until the time is over, and each has been done so often."""
        end = time.monotonic() + seconds
        acts: list[Callable[[], None]] = [self.lock, self.stop, self.pull, self.pull_amid, self.pull_locked]
        for number in itertools.count():
            if number >= rounds and time.monotonic() > end:
                return
            random.shuffle(acts)
            for act in acts:
                act()
                self.acts += 1
                time.sleep(random.uniform(0, 0.5))


@pytest.mark.long
def test_many_writers_and_readers(place, canary: Canary, tmp_path: Path) -> None:
    """No acknowledged write is lost, and nobody reads what was overwritten before, whatever is done to the daemon."""
    with git_helpers.level(place.top, "a", "b") as (a, b):
        git_helpers.git(a, "config", "avault.push", "false")
        crowd = Crowds(a, canary.mark, tmp_path)
        with crowd:
            chaos = Chaos(crowd, a, b)
            chaos.run(*figures.pick((0, 1), (180, 10)))
        a("daemon", "stop", "--force")
        git_helpers.start(a)
        names = [*crowd.own, *crowd.shared, *CLONE, "clone/OURS"]
        for machine in (a, b):
            if machine is b:
                git_helpers.recorded(a)
                a("sync")
                b("sync")
            begun = time.monotonic()
            found = crowd.look(machine)
            for name in names:
                crowd.note(name, found.get(name.replace("/", "_").upper()), "get", begun)
    kinds = Counter(line["why"] for line in crowd.noted if line["did"] == "refused")
    unknown = sum(line["did"] == "set" and not line["known"] for line in crowd.noted)
    written, read, wrong = check(crowd.noted)
    print(f"{written} written, {unknown} of unknown end, {read} read; {kinds}")
    assert wrong == [], f"{len(wrong)}: {wrong[:20]}"
    figures.at_least("writes by 64 at once that were acknowledged, and none lost", written)
    figures.at_least("reads by 64 at once beside them, none of them stale", read)
    figures.at_least("locks, stops and pulls in the middle of them", chaos.acts)
    figures.at_least("of these, pulls during which all went on writing, that git carried out", chaos.amid)


# One after the other


class Sizes:
    """What supervisor and keyholder have in memory (MB, resident) and in descriptors, each for itself."""

    def __init__(self, machine: Machine) -> None:
        status = machine.status()
        pids = [status["pid"], status["keyholder_pid"]]
        self.memory = [memory(pid) / (1 << 20) for pid in pids]
        self.descriptors = [len(os.listdir(f"/proc/{pid}/fd")) if os.access(f"/proc/{pid}/fd", os.R_OK) else 0 for pid in pids]

    def grown(self, before: "Sizes") -> tuple[float, int]:
        """By how much the one of the two grew that grew more: memory, descriptors."""
        return (
            max(now - then for now, then in zip(self.memory, before.memory, strict=True)),
            max(now - then for now, then in zip(self.descriptors, before.descriptors, strict=True)),
        )


@pytest.fixture
def narrow(machine: Machine) -> Machine:
    """An open vault of a daemon that may have 64 descriptors: one that kept one for each request would soon be at its end."""
    machine.command = ["sh", "-c", 'ulimit -n 64; exec "$0" "$@"', AVAULT]
    git_helpers.make(machine)
    git_helpers.put(machine, "a/B", "b")
    return machine


def calm(machine: Machine) -> Sizes:
    """The sizes, when nothing is under way any more: the connections that ended are noticed one by one."""
    sizes = [Sizes(machine)]

    def is_calm() -> bool:
        time.sleep(0.1)
        sizes.append(Sizes(machine))
        return sizes[-1].descriptors == sizes[-2].descriptors

    wait_until(is_calm, what="descriptors that stay as they are")
    return sizes[-1]


def get_often(machine: Machine, count: int) -> None:
    """Half of them on a connection of their own, half on one that is kept."""
    right = {"ok": True, "group": "a", "key": "B", "value": "b"}
    with Client(machine) as kept:
        for _ in range(count // 2):
            with Client(machine) as client:
                assert client.ask("get", group="a", key="B") == right
            assert kept.ask("get", group="a", key="B") == right


def lock_and_open(machine: Machine, count: int) -> None:
    """As `avault lock` and `avault unlock` do it, where NOSTR_NSEC is set."""
    for _ in range(count):
        with Client(machine) as client:
            assert client.ask("lock", force=True)["state"] == "unpaired"
        with Client(machine) as client:
            assert client.ask("open", private=True) == {"ok": True, "ready": True}
            client.socket.sendall(as_frame({"nsec": git_helpers.NSEC}))
            answer = client.receive()
            while answer and "progress" in answer:
                answer = client.receive()
            assert answer and answer["ok"], answer
        with Client(machine) as client:
            assert client.ask("wait", timeout=30)["state"] == "unlocked"


def growth(machine: Machine, act: Callable[[Machine, int], None], warm: int, count: int) -> tuple[Sizes, float, int]:
    """The sizes once the heap has found its own, after some; and by how much they grow in `count` more: memory, descriptors."""
    act(machine, warm)
    before = calm(machine)
    act(machine, count)
    return before, *calm(machine).grown(before)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_no_growth_in_gets(narrow: Machine, canary: Canary) -> None:
    count = figures.pick(1_000, 100_000)
    before, grown, more = growth(narrow, get_often, figures.pick(500, 2_000), count)
    figures.at_least("gets, one after the other", count)
    figures.at_most("growth of memory in them, in MB", round(grown, 1))
    figures.at_most("growth of open descriptors in them", more)
    # What it would see: connections that are kept, in either process, and 4 MB in the vault
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(Client(narrow)) for _ in range(16)]
        assert all(client.ask("has", group="a")["ok"] for client in kept[8:])
        now = Sizes(narrow)
        if before.descriptors[0]:
            assert all(count - then >= 8 for count, then in zip(now.descriptors, before.descriptors, strict=True))
    for number in range(16):
        git_helpers.put(narrow, f"big/K{number}", canary.mark + "x" * (255 << 10))
    assert Sizes(narrow).grown(before)[0] > 4


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_no_growth_in_unlocks(narrow: Machine) -> None:
    count = figures.pick(8, 1_000)
    _, grown, more = growth(narrow, lock_and_open, 4, count)
    figures.at_least("unlocks, one after the other", count)
    figures.at_most("growth of memory in these, in MB", round(grown, 1))
    figures.at_most("growth of open descriptors in these", more)
