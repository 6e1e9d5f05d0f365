"""A write that is cut off: killed at every system call, refused by the disk at every one, or followed by a power loss.

Whatever happens, the vault of before or the vault of after opens: with the operator's key, by what is on the disk, and
under the real daemon; and the next write goes through.

strace holds the process that writes (writer.py: the keyholder's own code, before hardening, which no tracer gets into
without root) from before its first call. Its fault injection kills at the entry of a call, or
has it fail without being made.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import figures
import nostr_sdk
import pytest
from canary import Canary
from harness import Machine

import avault

pytestmark = [
    pytest.mark.proof,
    pytest.mark.usefixtures("forks"),
    pytest.mark.skipif(sys.platform != "linux", reason="strace is Linux's"),
]

HERE = Path(__file__).parent
AGENT = nostr_sdk.Keys.generate()
NSEC = AGENT.secret_key().to_bech32()
RELAYS = ["wss://one.example", "wss://two.example"]
KINDS = ["put", "merge", "insist", "unlock", "recover", "pair", "init"]
SAID = 200  # as in writer.py
ERRORS = ("ENOSPC", "EIO", "EROFS", "EDQUOT")
# Calls that a disk can refuse; the others (memory, events, time) do not end in it.
DISK = set(
    """
    access chmod close fchmod fcntl fdatasync flock fstat fstatfs fsync ftruncate getdents64 link linkat lseek lstat mkdir mkdirat
    newfstatat open openat pread64 pwrite64 read readlink rename renameat renameat2 rmdir stat statx unlink unlinkat write
    """.split()
)


class Disk:
    """The two directories of a vault, which can be put back as they were."""

    def __init__(self, machine: Machine, own: Path) -> None:
        self.tops = (machine.vault, own)
        self.places = avault.Places()

    def read(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for top in self.tops if top.is_dir() for path in top.iterdir() if path.is_file()}

    def put_back(self, files: dict[str, bytes]) -> None:
        for top in self.tops:
            shutil.rmtree(top, ignore_errors=True)
            top.mkdir(mode=0o700, parents=True)
        for path, data in files.items():
            Path(path).write_bytes(data)
            Path(path).chmod(0o600)


def shape(files: dict[str, bytes], before: dict[str, bytes]) -> tuple[tuple[str, str], ...]:
    """What tells one disk from another to who opens it: which files are old, new, empty, left over."""
    names = {}
    for path, data in files.items():
        name = re.sub(r"\.[0-9a-f]{16}\.tmp$", ".tmp", path)
        names[name] = "empty" if not data else "old" if before.get(path) == data else "new"
    return tuple(sorted(names.items()))


Begin = Callable[[str], "Case"]


class Writer:
    """writer.py, and strace on what it runs."""

    def __init__(self, machine: Machine, strace: str) -> None:
        self.strace, self.log = strace, machine.top / "strace.log"
        env = {**machine.env, "AVAULT_DIR": str(machine.vault), "PYTHONPATH": "", "PYTHONHASHSEED": "0"}
        self.process = subprocess.Popen(
            [sys.executable, HERE / "writer.py"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def line(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "writer.py ended"
        return dict(json.loads(line))

    def run(self, job: dict[str, Any], *words: str, meddle: Any = None) -> dict[str, Any]:
        """One write under strace with these options; `meddle` is called whenever it stops."""
        assert self.process.stdin
        print(json.dumps(job), file=self.process.stdin, flush=True)
        pid = self.line()["stopped"]
        argv = [self.strace, "-f", "-o", str(self.log), "-p", str(pid), *words]
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr
            first = tracer.stderr.readline()
            assert "attached" in first, f"strace cannot trace (is ptrace allowed here?): {first}"
            os.kill(pid, signal.SIGCONT)
            while "stopped" in (line := self.line()):
                if meddle:
                    meddle()
                os.kill(pid, signal.SIGCONT)
            tracer.stderr.read()
        return line

    def calls(self) -> list[tuple[str, str]]:
        """The calls of the last write, up to its word that it is done: name and whole line."""
        found = []
        for line in self.log.read_text().splitlines():
            if match := re.match(r"\d+ +(\w+)\((.*)", line):
                if match[1] == "write" and match[2].startswith(f"{SAID},"):
                    break
                found.append((match[1], line))
        return found

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)


class Case:
    """A kind of write: the disk before it, and what may be found after it."""

    def __init__(self, kind: str, machine: Machine, value: str, writer: Writer) -> None:
        self.kind, self.machine, self.writer = kind, machine, writer
        self.agent, self.operator = avault.public_hex(AGENT), machine.operator
        machine.init_unproven(NOSTR_NSEC=NSEC)
        machine("set", "g/K", input=value + "-old")
        own = machine.own
        self.disk = Disk(machine, own)
        first = self.disk.read()
        machine("set", "g/OTHER", input=value + "-other")
        machine("daemon", "stop", "--force")
        self.job = {"kind": "unlock" if kind == "recover" else kind, "nsec": NSEC, "value": value + "-new"}
        self.old, self.new = {value + "-old"}, {value + "-old"}
        if kind == "put":
            self.new = {value + "-new"}
        elif kind == "merge":
            vault = avault.open_vault(first[self.disk.places.file("avault.enc")], AGENT)
            vault.put("g", "K", value + "-new", 3, "another")
            vault.generation["another"] = 1
            vault.generation = dict(sorted(vault.generation.items()))
            self.job["theirs"] = avault.seal_vault(vault, AGENT).decode()
            self.old, self.new = {value + "-new"}, {value + "-new"}
        elif kind == "insist":
            self.job["theirs"] = first[self.disk.places.file("avault.enc")].decode()
        elif kind == "recover":
            os.unlink(self.disk.places.own("unlock.json"))
        elif kind == "pair":
            self.job["value"] = RELAYS[0]
            assert not writer.run(self.job)["said"]["error"]
            self.job["value"] = RELAYS[1]
        elif kind == "init":
            self.job["value"] = machine.npub()
            self.disk.put_back({})
        self.start = self.before = self.disk.read()  # as the process finds it, and as it is when the write begins
        if "theirs" in self.job:
            self.before = {**self.start, self.disk.places.file("avault.enc"): self.job["theirs"].encode()}

    def run(self, *words: str, **more: Any) -> dict[str, Any]:
        """The write, under strace with these options."""
        self.disk.put_back(self.start)
        return self.writer.run(self.job, *words, **more)

    def phone(self, content: dict[str, Any]) -> nostr_sdk.Keys:
        """The agent's key by the operator's: as the phone does it."""
        return avault.open_nsec(content, avault.decrypt(self.operator, self.agent, content["envelope"]))

    def examine(self, files: dict[str, bytes], said: dict[str, Any] | None, note: str) -> str:
        """`look`, at that disk; what it was is told when it fails."""
        self.disk.put_back(files)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda fd: None)  # nobody cuts this off
            try:
                return self.look(said)
            except BaseException as error:
                error.add_note(f"{self.kind}: {note}: {said}: {shape(files, self.before)}")
                raise

    def look(self, said: dict[str, Any] | None) -> str:
        """Open what is on the disk, write once more, open again. `said`: what the write told, if it lived. Old or new?"""
        places, files = self.disk.places, self.disk.read()
        avault.clean_directory(places.dir)  # as the daemon does
        avault.clean_directory(places.state)
        path = places.file("avault.enc")
        told_good = said is not None and not (said["error"] or said["warnings"] or said["pin"])
        kept = bool(said and said["error"] and said["error"]["hint"] == "the file is as it was before")
        if self.kind == "init" and path not in files:
            assert not told_good
            avault.refuse_to_overwrite(places)  # nothing stands in the way of another init
            return "old"
        content, _ = avault.read_unlock(places)
        keys = self.phone(content)
        assert avault.public_hex(keys) == self.agent
        if self.kind != "init" or told_good:
            recovery = avault.read_sealed("nsec", places.file("nsec.enc"))
            assert avault.public_hex(self.phone(recovery)) == self.agent
        if self.kind in ("merge", "insist") and files[path] == self.job["theirs"].encode():
            # The other file lies there still; it is not ours to lose, and what is pinned is not in it.
            assert not told_good
            if self.kind == "merge":
                with pytest.raises(avault.Tampered):
                    avault.Store.load(places, keys, content)
            store = avault.Store.load(places, keys, content, accept_rollback=True)
            found = "old"
        else:
            again = self.kind == "insist" and not told_good  # who insisted and was cut off may have to insist again
            store = avault.Store.load(places, keys, content, accept_rollback=again)
            assert not store.trouble
            found = "old" if files.get(path) == self.before.get(path) else "new"
        if self.kind != "init":
            assert store.vault.secrets("g", "K")[0].value in (self.new if found == "new" else self.old)
            if self.kind != "insist":  # which gives up what the older vault does not have
                there = "OTHER" in store.vault.groups["g"].keys
                assert there or found == "old", "what was there before is there after"
        if self.kind in ("unlock", "recover"):
            changed = [files.get(at) != self.before.get(at) for at in (places.own("unlock.json"), places.file("nsec.enc"))]
            found = "new" if changed[0] else "old"
            if told_good and said and said["served"]:
                assert changed[0], "it says so when the ratchet did not turn"
                assert changed[1] or self.kind == "unlock"
        if self.kind == "pair":
            pairing = avault.Pairing.load(places)
            assert pairing and pairing.relays in ([RELAYS[0]], [RELAYS[1]])
            found = "new" if pairing.relays == [RELAYS[1]] else "old"
        if told_good:
            assert found == "new", "what it said is done"
        if kept and self.kind in ("put", "pair"):
            assert found == "old", "what it said is not done"
        assert store.write([lambda vault: vault.put("h", "AFTER", "x", 4, store.machine)]) == [None]
        assert avault.Store.load(places, keys, content).vault.secrets("h", "AFTER")
        self.look_at_log(keys)
        return found

    def look_at_log(self, keys: nostr_sdk.Keys) -> None:
        """What is released next stands in the access log on a line of its own, whatever its end looks like."""
        log = avault.AccessLog(self.disk.places.state, keys, is_new=False)
        log.write({"op": "get", "group": "g", "key": "K"}, {"pid": 1}, "ok")
        for ledger in (log.releases, log.refusals):
            os.close(ledger.file)
        last = Path(log.releases.path).read_bytes().splitlines()[-1]
        assert json.loads(last)["mac"] == log.releases.mac

    def start_daemon(self, files: dict[str, bytes], found: str) -> None:
        """The real daemon on that disk: it starts, serves, writes, and leaves nothing lying about."""
        self.disk.put_back(files)
        if self.disk.places.file("avault.enc") not in files:
            self.machine.init_unproven(NOSTR_NSEC=NSEC)
        else:
            insist = self.kind == "insist" or (self.kind == "merge" and found == "old")
            words = ("--accept-rollback",) if insist else ()
            self.machine("daemon", "start", "-b", *words, NOSTR_NSEC=NSEC)
        self.machine("set", "h/AFTER", input="x")
        assert self.machine("get", "h/AFTER").stdout == "x\n"
        if self.kind not in ("init", "merge", "insist"):
            assert self.machine("get", "g/K", secret=True).stdout.strip() in self.old | self.new
        left = self.disk.read()
        assert not [path for path in left if path.endswith(".tmp")]
        assert self.disk.places.file("nsec.enc") in left
        self.machine("daemon", "stop", "--force")


@pytest.fixture(scope="session")
def strace() -> str:
    """strace, on Linux always: a proof that is skipped without a word proves nothing."""
    found = shutil.which("strace")
    assert found, "the tests of crashes need strace"
    return found


@pytest.fixture
def begin(place, strace: str, canary: Canary, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Case]]:
    """Makes the case of a kind of write, on a machine of its own."""
    with contextlib.ExitStack() as stack:

        def begin(kind: str) -> Case:
            monkeypatch.delenv("AVAULT_DIR", raising=False)
            machine = stack.enter_context(Machine(place.top / kind))
            monkeypatch.setenv("AVAULT_DIR", str(machine.vault))
            monkeypatch.setenv("XDG_STATE_HOME", str(machine.state))
            writer = Writer(machine, strace)
            stack.callback(writer.end)
            return Case(kind, machine, canary.value, writer)

        yield begin


def points(case: Case) -> list[tuple[str, int]]:
    """Every system call of the write: its name, and the how manyth of that name it is."""
    line = case.run()
    assert line["said"] and not line["said"]["error"], line
    assert case.examine(case.disk.read(), line["said"], "undisturbed") == "new"
    counts: dict[str, int] = {}
    found = []
    for name, _ in case.writer.calls():
        counts[name] = counts.get(name, 0) + 1
        found.append((name, counts[name]))
    return found


# Killed, and refused


@pytest.mark.long
@pytest.mark.timeout(figures.pick(300, 7200))
def test_killed_or_refused_at_every_call(begin: Begin) -> None:
    killed = refused = started = 0
    for case in map(begin, figures.pick(["put"], KINDS)):
        disks: dict[Any, tuple[dict[str, bytes], str]] = {}
        for index, (name, number) in enumerate(points(case)):
            errors = figures.pick([ERRORS[index % len(ERRORS)]], ERRORS) if name in DISK else ()
            for fault in ("signal=KILL", *(f"error={error}" for error in errors)):
                line = case.run("-e", f"trace={name}", "-e", f"inject={name}:{fault}:when={number}")
                files = case.disk.read()
                if fault == "signal=KILL":
                    assert (line["said"] is None) == (line["status"] == signal.SIGKILL)
                    killed += line["said"] is None
                else:
                    refused += "(INJECTED)" in case.writer.log.read_text()
                found = case.examine(files, line["said"], f"{fault} at {name} number {number}")
                disks.setdefault((shape(files, case.before), found), (files, found))
        assert {found for _, found in disks.values()} == {"old", "new"}
        for files, found in list(disks.values())[: figures.pick(4, None)]:
            case.start_daemon(files, found)
            started += 1
    figures.at_least("system calls of a write at which it was killed", killed)
    figures.at_least("system calls of a write that the disk refused", refused)
    figures.at_least("disks of a broken write on which the daemon started", started)


def test_after_a_directory_that_could_not_be_synced(begin: Begin) -> None:
    """The file is there under its new name: the process that wrote it knows it again, and goes on writing."""
    case = begin("put")
    points(case)
    names = [(name, text) for name, text in case.writer.calls() if name in ("openat", "fsync")]
    case.job["again"] = True
    for index, (name, _) in enumerate(names):
        if "O_DIRECTORY" not in names[max(index - 1, 0)][1] + names[index][1]:
            continue  # neither a directory that is opened nor its fsync, which follows
        number = sum(each == name for each, _ in names[: index + 1])
        said = case.run("-e", f"trace={name}", "-e", f"inject={name}:error=EIO:when={number}")["said"]
        assert not said["error"] or "perhaps not for good" in said["error"]["message"], said
        found = avault.open_vault(case.disk.read()[case.disk.places.file("avault.enc")], AGENT)
        assert found.secrets("g", "K")[0].value in case.new and found.secrets("g", "AGAIN")


# Power loss


class Journal:
    """A file system between two syncs. What was synced is there after a power loss; of the rest, each change or not.

    `safe` is what a name or a file certainly holds, `now` what programs see. A change of a directory's names is one
    thing: it happened, whole, or not; which of them did, nobody knows.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.now_names = {path: number for number, path in enumerate(files)}
        self.safe_names = dict(self.now_names)
        self.now = {number: files[path] for path, number in self.now_names.items()}
        self.safe = dict(self.now)
        self.pending: list[tuple[str, dict[str, int | None]]] = []
        self.open: dict[int, tuple[str, int | None, int]] = {}  # descriptor: path, file (None: a directory), position

    def change(self, names: dict[str, int | None]) -> None:
        self.pending.append((os.path.dirname(next(iter(names))), names))
        apply(self.now_names, names)

    def take(self, name: str, words: str, result: int) -> bool:
        """One call, and what it gave; whether it changed anything."""
        strings = [bytes.fromhex(text.replace("\\x", "")) for text in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', words)]
        number = re.match(r"\d+", words)
        fd = int(number[0]) if number else -1
        if name == "openat":
            path = os.fsdecode(strings[0])
            if "O_CREAT" in words and path not in self.now_names:
                new = len(self.now)
                self.now[new] = self.safe[new] = b""
                self.change({path: new})
            file = self.now_names.get(path)
            if file is not None and "O_TRUNC" in words:
                self.now[file] = b""
            self.open[result] = (path, file, len(self.now[file]) if file is not None and "O_APPEND" in words else 0)
            return "O_CREAT" in words
        if name == "rename":
            source, target = map(os.fsdecode, strings)
            self.change({source: None, target: self.now_names[source]})
            return True
        if name == "renameat2" and "RENAME_EXCHANGE" in words:
            one, other = map(os.fsdecode, strings)
            self.change({one: self.now_names[other], other: self.now_names[one]})
            return True
        if name == "unlink":
            self.change({os.fsdecode(strings[0]): None})
            return True
        if fd not in self.open:
            return False
        path, file, at = self.open[fd]
        if name == "write" and file is not None:
            self.now[file] = self.now[file][:at] + strings[0][:result] + self.now[file][at + result :]
            self.open[fd] = (path, file, at + result)
        elif name == "ftruncate" and file is not None:
            self.now[file] = self.now[file][: int(words.split(", ")[1].rstrip(")"))]
        elif name in ("fsync", "fdatasync") and file is not None:
            self.safe[file] = self.now[file]
        elif name == "fsync":
            for directory, names in self.pending:
                if directory == path:
                    apply(self.safe_names, names)
            self.pending = [each for each in self.pending if each[0] != path]
        else:
            return False
        return True

    def disks(self) -> Iterator[dict[str, bytes]]:
        """Every disk that a power loss may leave now."""
        for taken in itertools.product((False, True), repeat=len(self.pending)):
            names = dict(self.safe_names)
            for (_, changed), is_taken in zip(self.pending, taken, strict=True):
                if is_taken:
                    apply(names, changed)
            for torn in (all_of, none_of, half_of, zeros_of):
                yield {path: torn(self.safe[file], self.now[file]) for path, file in names.items()}


def apply(names: dict[str, int], changes: dict[str, int | None]) -> None:
    for path, file in changes.items():
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file


def all_of(safe: bytes, now: bytes) -> bytes:
    return now


def none_of(safe: bytes, now: bytes) -> bytes:
    return safe


def half_of(safe: bytes, now: bytes) -> bytes:
    return now[: (len(safe) + len(now)) // 2]


def zeros_of(safe: bytes, now: bytes) -> bytes:
    """The file has its new length, and not its bytes."""
    return safe + bytes(len(now) - len(safe))


@pytest.mark.timeout(figures.pick(300, 7200))
def test_power_loss_at_every_point(begin: Begin) -> None:
    """A recorded write, replayed up to each of its changes, with only what was synced and any choice of the rest."""
    lost = 0
    for case in map(begin, figures.pick(["put", "unlock"], KINDS)):
        said = case.run("-xx", "-s", "100000000", "-e", "trace=%file,%desc")["said"]
        assert said and not said["error"]
        whole, journal = case.disk.read(), Journal(case.before)
        seen: dict[tuple[tuple[str, bytes], ...], str] = {}
        for name, text in [("", ""), *case.writer.calls()]:
            end = re.search(r" = (\d+)$", text)
            if name and not (end and journal.take(name, text[text.index("(") + 1 : end.start()], int(end[1]))):
                continue
            for files in journal.disks():
                lost += 1
                key = tuple(sorted(files.items()))
                if key not in seen:
                    seen[key] = case.examine(files, None, f"power loss after {name} {text[:200]}")
        assert set(seen.values()) == {"old", "new"}
        for files in journal.disks():  # what it said is done stays done
            assert case.examine(files, said, "power loss after the end") == "new"
        assert {path: journal.now[file] for path, file in journal.now_names.items()} == whole, "the replay is what happened"
    figures.at_least("disks that a power loss may leave of a write", lost)


# Another process comes in between


@pytest.mark.long
@pytest.mark.timeout(figures.pick(300, 7200))
def test_meddled_with_at_every_call(begin: Begin, canary: Canary) -> None:
    """avault.enc is removed, replaced by another machine's, made anew as git does it, or the temporary file is removed."""
    case = begin("put")
    path = Path(case.disk.places.file("avault.enc"))
    vault = avault.open_vault(case.before[str(path)], AGENT)
    vault.put("g", "THEIRS", canary.value, 3, "another")
    vault.sources = [avault.sha256(case.before[str(path)]).hex()]
    vault.generation = dict(sorted({**vault.generation, "another": 1}.items()))
    theirs = avault.seal_vault(vault, AGENT)
    meddled: list[str] = []
    overwritten = 0

    def meddle() -> None:
        meddled.append(what)
        if what == "removed":
            path.unlink(missing_ok=True)
        elif what == "replaced":
            path.with_name("new").write_bytes(theirs)
            path.with_name("new").replace(path)
        elif what == "anew" and len(meddled) - before == 1:
            path.unlink()
        elif what == "anew":
            with path.open("xb") as file:  # as git does it: nobody may have put a file there
                file.write(theirs)
        else:
            for each in path.parent.glob(".*.tmp"):
                each.unlink()

    calls = points(case)
    case.job["again"] = True  # and then there are others, which notice
    for what, (name, number) in itertools.product(("replaced", "removed", "anew", "temporary"), calls[:: figures.pick(6, 1)]):
        before = len(meddled)
        when = f"{number}..{number + 1}" if what == "anew" else number
        said = case.run("-e", f"trace={name}", "-e", f"inject={name}:signal=STOP:when={when}", meddle=meddle)["said"]
        files = case.disk.read()
        if before == len(meddled) or str(path) not in files:
            assert what in ("removed", "anew") or before == len(meddled)
            continue  # nothing else was taken, and what is served goes on being served (test_store.py)
        found = avault.open_vault(files[str(path)], AGENT)
        is_new = found.secrets("g", "K")[0].value in case.new
        assert is_new == (not said["error"]), f"{what} at {name} number {number}: {said}"
        was_pulled = what == "replaced" or (what == "anew" and len(meddled) - before == 2)
        overwritten += was_pulled and "THEIRS" not in found.groups["g"].keys
    figures.at_least("system calls of a write at which its file was taken or changed", len(meddled))
    figures.at_most("system calls of a write in which a git pull is lost", overwritten)
