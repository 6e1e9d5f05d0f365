"""Attackers, by what they have: each tries to get a secret out, to lose one, or to open the vault without the phone.

What was answered is a test, and counts as an attack tried; what remains is shown too, marked so, that nobody takes it for
defended. references/proofs.md has the list ("Attacks, tried"); single attacks that once worked: test_attacks.py.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import figures
import nostr_sdk
import peers
import pytest
from canary import Canary
from git_helpers import NSEC, by_hand, get, git, make, put, share
from harness import AVAULT, Machine, wait_until
from peers import Rogue, misdeeds
from test_hostile_relay import bunker, message
from test_ratchet import HEX_KEY, PAYLOAD, Attacker, attack, copy_disk
from test_sessions import Liar
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection

import avault

pytestmark = [pytest.mark.proof, pytest.mark.usefixtures("forks")]


class Tries:
    """What an attacker has tried: `tries("…")` once it was answered."""

    def __init__(self, attacker: str) -> None:
        self.attacker, self.tried = attacker, []

    def __call__(self, what: str) -> None:
        print(f"answered: {what}")
        self.tried.append(what)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            figures.at_least(f"attacks tried with {self.attacker}", len(self.tried))


def places(machine: Machine) -> avault.Places:
    found = avault.Places(str(machine.vault))
    found.socket, found.state = machine.status()["socket"], str(machine.own)
    return found


def rewrite(path: Path, kind: str, **changes: Any) -> None:
    """Change a file of ours, checksum and all, as anybody can."""
    content = avault.decode_file(kind, path.read_bytes(), str(path))
    path.write_bytes(avault.encode_file(kind, {**content, **changes}))


# The repository, with push access: what a `git pull` brings is written into the work tree


SETTINGS = """\
[core]
repositoryformatversion = 0
bare = false
worktree = {vault}
fsmonitor = {program}
sshCommand = {program}
[remote "origin"]
url = /tmp
fetch = +refs/heads/*:refs/remotes/origin/*
receivepack = {program}
uploadpack = {program}
[branch "main"]
remote = origin
merge = refs/heads/main
"""


@pytest.mark.parametrize("where", [".", ".."], ids=["in the vault", "above it"])
def test_a_repository_within_the_repository_runs_nothing(machine: Machine, where: str) -> None:
    """Files named HEAD, config, objects/, refs/: git takes that directory for a bare repository, and runs what it names."""
    machine.vault = machine.home / "clawd" / "deep" / ".avault"
    machine.env["AVAULT_DIR"] = str(machine.vault)
    make(machine)
    git(machine, "init", "-q", cwd=machine.home / "clawd")
    put(machine, "g/K", "first")
    by_hand(machine)
    evil, trace, program = machine.vault / where, machine.top / "trace", machine.top / "program"
    program.write_text(f"#!/bin/sh\necho run >>{trace}\nexit 1\n")
    program.chmod(0o755)
    for directory in ("objects/x", "refs/heads", "refs/remotes/origin"):
        (evil / directory).mkdir(parents=True)
    (evil / "HEAD").write_text("ref: refs/heads/main\n")
    (evil / "config").write_text(SETTINGS.format(vault=machine.vault, program=program))
    for value in ("second", "third"):  # the first makes the commit that the second would push
        put(machine, "g/K", value)
        assert "for a repository of its own" in by_hand(machine)["reason"]
        if (ref := evil / "refs/heads/main").exists():
            shutil.copy(ref, evil / "refs/remotes/origin/main")
    machine("sync", code=1)
    machine("doctor", "--offline", "git", code=None)
    assert not trace.exists()


def test_the_repository(machine: Machine, canary: Canary) -> None:
    with Tries("the repository") as tried:
        make(machine)
        put(machine, "g/OLD", "deleted later")
        share(machine, machine.top / "origin")
        (older := machine.top / "older").write_bytes((machine.vault / "avault.enc").read_bytes())
        machine("delete", "g/OLD")
        put(machine, "g/K", canary.value)
        by_hand(machine)
        whole = {name: (machine.vault / name).read_bytes() for name in ("avault.enc", "nsec.enc", "nip46.json", ".gitattributes")}
        path, outside = machine.vault / "avault.enc", machine.top / "outside"
        outside.write_text("not the vault's")

        def other(text: bytes) -> Callable[[], object]:
            return lambda: path.write_bytes(text)

        def link() -> None:
            path.unlink()
            path.symlink_to(outside)

        def fifo() -> None:
            path.unlink()
            os.mkfifo(path)

        with Machine(machine.top / "attacker") as attacker:  # a vault of his own, for the same operator
            attacker.operator = machine.operator
            attacker.init_unproven()
            theirs = {name: (attacker.vault / name).read_bytes() for name in whole}
        lines = whole["avault.enc"]
        attempts: dict[str, Callable[[], object]] = {
            "delete the vault": path.unlink,
            "empty it": other(b""),
            "cut it": other(lines[: len(lines) // 2]),
            "double its lines": other(lines * 2),
            "put conflict marks into it": other(b"<<<<<<< HEAD\n" + lines + b"=======\n" + older.read_bytes() + b">>>>>>> x\n"),
            "put an older one back": other(older.read_bytes()),
            "put another's in its place": other(theirs["avault.enc"]),
            "make it a link": link,
            "make it a FIFO": fifo,
        }
        restarts = ("put an older one back", "put another's in its place")  # for what was never loaded, in every run
        for name, attempt in attempts.items():
            attempt()
            assert get(machine, "g/K") == canary.value, f"{name}: what was loaded is served"
            put(machine, "g/NEW", "x", code=8)
            if name in restarts or (figures.FULL and not name.startswith("make it")):
                machine("daemon", "stop", "--force")
                machine("daemon", "start", "-b", NOSTR_NSEC=NSEC)
                assert get(machine, "g/K") == canary.value, f"{name}: what was served is served again"
                put(machine, "g/NEW", "x", code=8)
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            path.write_bytes(lines)
            if machine.status()["state"] != "unlocked":
                machine("daemon", "stop")
                machine("daemon", "start", "-b", NOSTR_NSEC=NSEC)
                machine.wait_state("unlocked")
            put(machine, "g/NEW", name)
            lines = path.read_bytes()
            tried(name)
        assert outside.read_text() == "not the vault's"

        (machine.vault / "nip46.json").write_bytes(avault.encode_hints(*hostile_hints(machine)))
        assert not (machine.own / "pairing.json").exists()
        machine("daemon", "stop", "--force")
        machine("daemon", "start", "-b", NOSTR_NSEC=NSEC)
        assert any("nip46.json names another" in warning for warning in machine.wait_state("unlocked")["warnings"])
        tried("name another operator and a relay of one's own in nip46.json")

        victim = machine.top / "precious"
        victim.write_text("precious")
        (machine.vault / ".avault.enc.0123456789abcdef.tmp").symlink_to(victim)
        for name in ("unlock.json", "pairing.json", "pin.json", "access.log", "custodians.json", "custody-box.json"):
            (machine.vault / name).write_text("{}")
        machine("daemon", "stop", "--force")
        machine("daemon", "start", "-b", NOSTR_NSEC=NSEC)
        machine.wait_state("unlocked")
        assert victim.read_text() == "precious" and get(machine, "g/K") == canary.value
        tried("plant this machine's own files in the repository, and a leftover that is a link")

        other_place = machine.top / "project" / ".avault"  # whose nsec.enc says that it is this very vault
        shutil.copytree(machine.vault, other_place)
        machine("--dir", str(other_place), "doctor", "--offline", "--fix", "orphans", code=None)
        assert (machine.own / "unlock.json").exists()
        tried("have doctor --fix take the state for a directory of one's own")

        # On a machine that was never paired: another's vault, for the right operator
        with Machine(machine.top / "new") as new:
            shutil.copytree(machine.vault, new.vault)
            for name, data in theirs.items():
                (new.vault / name).write_bytes(data)
            words = ("--agent", machine.status()["agent_npub"], "--signer-npub", machine.npub())
            assert "of another agent or operator" in new("recover", *words, code=5).stderr
            assert "not confirmed" in new("recover", code=5).stderr
            tried("have a vault of one's own recovered")


def hostile_hints(machine: Machine) -> tuple[str, str, list[str], str]:
    agent = avault.parse_npub(machine.status()["agent_npub"])
    return agent, nostr_sdk.Keys.generate().public_key().to_hex(), ["wss://evil.example"], "test@machine"


# The disk, switched off


def test_the_disk(proven: Machine, canary: Canary) -> None:
    with Tries("the disk") as tried:
        proven("daemon", "start", "-b")
        proven.wait_state("unlocked")
        proven("set", "g/K", input=canary.value)
        proven("daemon", "stop")
        disk = copy_disk(proven, "off")
        npub = json.loads((disk / "vault/nip46.json").read_text())["agent_npub"]
        agent = nostr_sdk.PublicKey.parse(npub)
        found = attack(disk, [])
        assert found.keys, "the client key is there"
        assert agent.to_hex() not in found.keys and not found.plaintexts
        tried("every key on it with every public key on every ciphertext")
        data = b"".join(path.read_bytes() for path in disk.rglob("*") if path.is_file())
        assert canary.mark.encode() not in data and b"nsec1" not in data
        tried("look for secrets in clear")


# The disk, with write access, while the vault is closed


def test_the_disk_with_write_access(proven: Machine, rogue: Rogue, canary: Canary) -> None:
    with Tries("write access to the disk") as tried:
        proven("daemon", "start", "-b")
        proven.wait_state("unlocked")
        proven("set", "g/K", input=canary.value)
        own = proven.own
        evil = nostr_sdk.Keys.generate()
        npub = evil.public_key().to_bech32()

        def tell(**changes: Any) -> None:
            for kind in ("unlock", "pairing"):
                fits = {name: value for name, value in changes.items() if name in avault.FIELDS[kind]}
                rewrite(own / f"{kind}.json", kind, **fits)

        def pieces() -> None:
            other = avault.seal_nsec(evil, "0" * 32, rogue.user, "test@machine", "host")
            rewrite(own / "unlock.json", "unlock", sealed=other["sealed"])

        def recovery() -> None:
            (own / "unlock.json").unlink()
            content = avault.seal_nsec(evil, "0" * 32, rogue.user, "test@machine", "host")
            (proven.vault / "nsec.enc").write_bytes(avault.encode_file("nsec", content))

        def custodian() -> None:
            content = json.loads((own / "unlock.json").read_text())
            key, sealed = avault.seal_keys(evil, content["vault"], rogue.user, "test@machine", "his")
            sealed |= {name: content[name] for name in ("vault", "name", "agent", "operator")}
            program = proven.top / "avault-custodian-his"
            program.write_text(f'#!/bin/sh\ncat >/dev/null; echo \'{{"outcome": "ok", "value": "{key}"}}\'\n')
            program.chmod(0o700)
            his = {
                "custodian": "his",
                "kind": "program",
                "account": "his",
                "asks": False,
                "settings": {"path": str(program)},
                "kept": None,
                "agreed": "00" * 32,
            }
            (own / "custody-his.json").write_bytes(avault.encode_file("custody", his | sealed))
            order = {"order": ["his", "phone"], "opened": {}}
            (own / "custodians.json").write_bytes(avault.encode_file("custodians", order))

        attempts: dict[str, tuple[Callable[[], object], str]] = {
            "another operator in unlock.json": (
                lambda: rewrite(own / "unlock.json", "unlock", operator=npub),
                "asks the phone",
            ),
            "another operator everywhere": (lambda: tell(operator=npub), "waits"),
            "another name, and so another sentence": (
                lambda: rewrite(own / "unlock.json", "unlock", name="somebody else"),
                "waits",
            ),
            "another's sealed key": (pieces, "waits"),
            "another signer": (
                lambda: rewrite(own / "pairing.json", "pairing", signer=evil.public_key().to_hex()),
                "asks another",
            ),
            "no unlock.json, and another's nsec.enc": (recovery, "refused"),
            "an older vault": (lambda: (proven.vault / "avault.enc").write_bytes(older), "refused"),
            "a custodian that opens another's key": (custodian, "asks the phone"),
        }
        older = (proven.vault / "avault.enc").read_bytes()
        proven("set", "g/NEWER", input="newer")
        proven("lock")
        saved = {path: path.read_bytes() for path in (*own.iterdir(), *proven.vault.iterdir()) if path.is_file()}
        for name, (attempt, end) in attempts.items():
            proven("daemon", "stop")  # else it goes on with what it read before, whatever the disk says by then
            attempt()
            seen = len(rogue.requests("nip44_decrypt"))
            unlock = proven.start("unlock")
            if end == "waits":  # the phone has answered, and that opens nothing
                assert "does not open this vault" in wait_until(lambda: (proven.status()["waiting"] or {}).get("error")), name
            elif end == "asks another":
                wait_until(lambda: any(relay["said"] == "accepted" for relay in proven.wait_state("waiting")["relays"]))
                assert len(rogue.requests("nip44_decrypt")) == seen
            else:
                assert unlock.wait().returncode == (0 if end == "asks the phone" else 8), name
            if end == "asks the phone":
                assert len(rogue.requests("nip44_decrypt")) > seen
                assert proven("get", "g/K", secret=True).stdout == canary.value + "\n"
                assert json.loads((own / "unlock.json").read_text())["operator"] != npub, "it was made anew, for the operator"
            else:
                assert proven.status()["state"] != "unlocked"
            proven("daemon", "stop")
            unlock.wait()
            for path in {*own.iterdir(), *proven.vault.iterdir()} - saved.keys():
                if path.is_file():
                    path.unlink()
            for path, data in saved.items():
                path.write_bytes(data)
            tried(name)


def test_what_write_access_to_the_disk_can_do(proven: Machine, rogue: Rogue, canary: Canary) -> None:
    """What remains: a vault of his own in the place of this one, opened by a signer of his own. Nobody's secret is in it."""
    proven("daemon", "start", "-b")
    proven.wait_state("unlocked")
    proven("set", "g/K", input=canary.value)
    agent = proven.status()["agent_npub"]
    proven("daemon", "stop")
    own = next((proven.state / "avault").iterdir())
    with peers.rogue(rogue.config["relays"]) as his, Machine(proven.top / "his") as attacker:
        attacker("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=his.uri)
        for source, target in ((attacker.vault, proven.vault), (attacker.own, own)):
            for path in target.iterdir():
                path.unlink()
            for path in source.iterdir():
                if path.is_file() and path.name not in ("socket", "python"):
                    shutil.copy(path, target)
        asked = len(rogue.seen("request"))
        proven("unlock")
        assert proven.status()["agent_npub"] != agent, "and that is how it is seen"
        proven("get", "g/K", code=4)
        assert len(rogue.seen("request")) == asked


# The same uid, while the vault is open


SPY = """
import ctypes, json, os, signal, sys, time
libc, got = ctypes.CDLL(None, use_errno=True), []
pids = [int(word) for word in sys.argv[1:]]
for pid in pids:
    for name in ("mem", "environ", "maps", "syscall", "stack", "auxv"):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                got += [f"{name} of {pid}"] if name not in ("mem",) and file.read(1) or name == "mem" else []
        except OSError:
            pass
    for name in ("cwd", "root", "exe"):
        try:
            os.stat(f"/proc/{pid}/{name}/" if name != "exe" else f"/proc/{pid}/exe")
            got.append(f"{name} of {pid}")
        except OSError:
            pass
    for number in range(64):
        try:
            got.append(f"descriptor {os.readlink(f'/proc/{pid}/fd/{number}')} of {pid}")
        except OSError:
            pass
    if libc.ptrace(16, pid, 0, 0) == 0:  # PTRACE_ATTACH
        got.append(f"ptrace of {pid}")
    if libc.ptrace(0x4206, pid, 0, 0) == 0:  # PTRACE_SEIZE
        got.append(f"ptrace seize of {pid}")
    class Iov(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]
    buffer = ctypes.create_string_buffer(64)
    mine, theirs = Iov(ctypes.addressof(buffer), 64), Iov(0x400000, 64)
    if libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0) >= 0 or ctypes.get_errno() == 14:
        got.append(f"process_vm_readv of {pid}")
    try:
        fd = os.pidfd_open(pid)
        for number in range(64):
            if libc.syscall(438, fd, number, 0) >= 0:  # pidfd_getfd
                got.append(f"descriptor {number} of {pid}")
    except OSError:
        pass
print(json.dumps(got))
"""


def drop_capabilities() -> None:
    """Root without what makes it root: from the next exec on, a user like any other who owns these processes."""
    prctl = ctypes.CDLL(None).prctl
    for capability in range(64):
        prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.starts  # what is shown is a process's own
def test_the_same_user(machine: Machine, canary: Canary) -> None:
    with Tries("the same uid") as tried:
        machine.init_unproven()
        machine("set", "g/K", input=canary.value)
        status = machine.status()
        words = [sys.executable, "-c", SPY, str(status["pid"]), str(status["keyholder_pid"])]
        drop = None if os.geteuid() else drop_capabilities
        done = subprocess.run(words, capture_output=True, text=True, preexec_fn=drop, env=machine.env)
        assert json.loads(done.stdout) == [], done.stderr
        for what in ("/proc", "ptrace", "process_vm_readv", "pidfd_getfd"):
            tried(f"{what} of both processes")

        found = places(machine)
        hidden = [(machine.vault / name, machine.top / name) for name in ("avault.enc", "nsec.enc")]
        for path, away in hidden:
            path.rename(away)
        with pytest.raises(avault.Denied, match="a vault is open"):
            avault.ask_daemon(found, "init", name="x", signer_npub=nostr_sdk.Keys.generate().public_key().to_bech32())
        for path, away in hidden:
            away.rename(path)
        assert machine("get", "g/K", secret=True).stdout == canary.value + "\n"
        tried("have a new vault made over the open one, its files out of the way")

        secret = machine.top / "elsewhere.enc"
        shutil.copy(machine.vault / "avault.enc", secret)
        for name in ("../elsewhere.enc", str(secret), "x/../../elsewhere.enc", ".enc", "a\0.enc", 7):
            with pytest.raises(avault.Usage):
                avault.ask_daemon(found, "inspect", file=name)
        tried("have the keyholder read a file elsewhere")

        with pytest.raises(avault.Denied):
            avault.ask_daemon(found, "custody", action="add", kind="keychain", name="keychain")
        tried("have the key put into a keychain")
        for op in ("lock", "stop"):
            with pytest.raises(avault.Denied):
                avault.ask_daemon(found, op)
        tried("have an unproven vault locked, and its key lost")

        log = machine.own / "access.log"
        begun = log.read_bytes()
        log.unlink()
        log.symlink_to(machine.top / "nowhere")
        machine("get", "g/K", code=1)
        log.unlink()
        log.write_bytes(begun[: len(begun) // 2])
        machine("get", "g/K", secret=True)
        machine("log", "--verify", code=8)
        tried("read without a line in the log, or take lines out of it")

        evil = machine.top / "evil"
        evil.mkdir()
        trace = machine.top / "imported"
        for name in ("json", "click", "nostr_sdk", "asyncio", "socket", "avault", "avault_extras", "sitecustomize", "_sha2"):
            (evil / f"{name}.py").write_text(f"open({str(trace)!r}, 'a').write('{name}\\n')\n")
        for words in (["get", "g/K"], ["list", "--json"], ["git", "record"], ["daemon", "start", "-b"]):
            subprocess.run([AVAULT, *words], cwd=evil, env=machine.env, capture_output=True)
        assert not trace.exists()
        tried("have modules of the current directory imported")

        target = machine.top / "config"
        target.symlink_to(machine.top / "leak")
        machine("inject", "-o", str(target), input="avault://g/K", code=5)
        assert not (machine.top / "leak").exists()
        tried("have a template's output written through a link")
        for name in ("a$(touch pwned)/K", "g/K;touch pwned", "../g/K", "g/K\n", "-x/K", "g/`id`", "g/K=1"):
            assert machine("set", "--", name, input="x", code=None).returncode == 2
        tried("keep a secret under a name that a shell, a path or a completion would run")
        for name in ("LD_PRELOAD", "PATH", "BASH_ENV", "PYTHONPATH", "GIT_SSH_COMMAND", "NODE_OPTIONS", "HTTPS_PROXY"):
            machine("set", f"x/{name}", input="evil")
            machine("export", "--shell", "--group", "x", code=5)
            machine("run", "--group", "x", "--", "true", code=5)
            machine("delete", f"x/{name}")
        tried("have a variable exported that makes programs run others")


def test_the_same_user_writes_to_the_disk_while_the_vault_is_open(machine: Machine, rogue: Rogue) -> None:
    """An open vault knows its names and its signer: what the disk says of them is neither asked for nor sealed."""
    with Tries("the disk under an open vault") as tried:
        machine("init", "--name", "payments", "--no-drill", "--bunker", "-", input=rogue.uri)
        own, evil = machine.own, nostr_sdk.Keys.generate()
        files = {name: (own / name).read_bytes() for name in ("unlock.json", "pairing.json")}
        operator, found = machine.status()["signer_npub"], places(machine)  # and no status, which mends

        rewrite(own / "unlock.json", "unlock", name="newsletter. Nothing secret in it")
        with peers.rogue(rogue.config["relays"], nsec=evil.secret_key().to_bech32()) as his:
            his.behave("get_public_key", [{"say": {"result": rogue.user}}])  # he says that he is the operator
            machine("pair", "--replace", "--no-drill", "--bunker", "-", input=his.uri, code=5)
        assert json.loads((own / "unlock.json").read_bytes())["envelope"] == json.loads(files["unlock.json"])["envelope"]
        assert (own / "pairing.json").read_bytes() == files["pairing.json"]
        tried("choose the sentence on the phone, by the name in unlock.json")
        (own / "unlock.json").write_bytes(files["unlock.json"])

        box = machine.top / "avault-custodian-box"
        box.write_text('#!/bin/sh\ncat >/dev/null; echo \'{"outcome": "ok", "value": {}}\'\n')
        box.chmod(0o700)
        with peers.rogue(rogue.config["relays"], nsec=evil.secret_key().to_bech32()) as his:
            for changes in (
                {"signer": his.signer, "operator": evil.public_key().to_bech32()},
                {"agent": evil.public_key().to_bech32()},
                {"signer": his.signer},
                {"relays": ["wss://evil.example"]},
            ):
                rewrite(own / "pairing.json", "pairing", **changes)
                asked = len(rogue.requests("nip44_decrypt"))
                program = {"action": "add", "kind": "program", "name": "box", "settings": {"path": str(box)}}
                with pytest.raises(avault.Tampered, match=r"pairing\.json"):
                    avault.ask_daemon(found, "custody", **program)
                with pytest.raises(avault.Tampered, match=r"pairing\.json"):
                    avault.ask_daemon(found, "drill")
                (own / "pairing.json").write_bytes(files["pairing.json"])
                assert not his.requests("nip44_decrypt") and len(rogue.requests("nip44_decrypt")) == asked
                assert not (own / "custody-box.json").exists()
                tried(f"have a signer of his own asked, by {' and '.join(changes)} in pairing.json")
        assert machine.status()["signer_npub"] == operator


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
@pytest.mark.starts  # what is shown is a process's own
def test_a_process_that_is_not_hardened_yet(canary: Canary) -> None:
    """He holds a custodian's process before its first step, and takes what it was started with: no key comes that way."""
    with Tries("a process that is not hardened yet") as tried:
        for action in ("set", "get"):
            words = avault.own_command("custodian", action, "keychain")
            answer, door = hold_helper(["sh", "-c", 'kill -STOP $$; exec "$@"', "sh", *words])
            pid = door.pid
            wait_until(lambda pid=pid: b"State:\tT" in Path(f"/proc/{pid}/status").read_bytes(), what="it is held")
            for number in ("0", "1"):
                with pytest.raises(OSError, match="No such device or address"):
                    os.open(f"/proc/{pid}/fd/{number}", os.O_RDONLY | os.O_NONBLOCK)
            copy = steal(pid, 0 if action == "set" else 1)
            os.kill(pid, signal.SIGCONT)
            if action == "set":

                async def give(pid: int = pid, door: Any = door) -> None:
                    with await avault.meet(door.socket, pid) as own:
                        own.sendall(canary.value.encode())

                asyncio.run(give())
            door.process.wait(60)
            if copy:  # where nothing forbids it (kernel.yama.ptrace_scope)
                with copy:
                    copy.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        assert copy.recv(4096) == b""
            door.socket.close()
            assert json.loads(answer.recv(4096))["outcome"] == "unavailable", "no session bus: it has gone all its way"
            answer.close()
            tried(f"hold the process that is to {action} the key, and take its descriptors")


@dataclass
class Held:
    """A custodian's process, stopped, and the socket by which it is met."""

    process: subprocess.Popen[bytes]
    socket: socket.socket

    @property
    def pid(self) -> int:
        return self.process.pid


def hold_helper(words: list[str]) -> tuple[socket.socket, Held]:
    """What answers, and the process, started as the supervisor does it."""
    door, end = socket.socketpair()
    answer, out = socket.socketpair()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with end, out:
        process = subprocess.Popen(words, stdin=end, stdout=out)
    request = {"name": "keychain", "settings": {}, "bound": "", "account": "avault1-AAAAAAAAAAAAAAAA:keychain"}
    door.sendall(avault.encode_frame({**request, "label": "a label", "limit": 20}))
    return answer, Held(process, door)


def steal(pid: int, fd: int) -> socket.socket | None:
    """A copy of another process's socket, by pidfd_getfd(2); None where the system forbids it."""
    pidfd = os.pidfd_open(pid)
    try:
        copy = ctypes.CDLL(None).syscall(438, pidfd, fd, 0)
    finally:
        os.close(pidfd)
    return socket.socket(fileno=copy) if copy >= 0 else None


# Another uid


@pytest.mark.root
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.starts  # what is shown is a process's own
def test_another_user(machine: Machine, canary: Canary) -> None:
    """As `nobody`, with every directory above the vault's own open to him."""
    with Tries("another uid") as tried:
        machine.init_unproven()
        machine("set", "g/K", input=canary.value)
        status = machine.status()
        opened = [path for path in (machine.top, *machine.top.parents) if str(path).startswith("/tmp/avt")]
        for path in (*opened, machine.home, machine.vault.parent):
            path.chmod(0o755)

        def other(code: str, *words: str) -> str:
            argv = ["/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable, "-c", code, *words]
            done = subprocess.run(argv, user=65534, group=65534, extra_groups=[], capture_output=True, text=True, cwd="/")
            return done.stdout.strip() or done.stderr.strip().splitlines()[-1]

        refused = "PermissionError"
        for path in (machine.vault, machine.own, machine.runtime):
            assert refused in other("import os, sys; print(os.listdir(sys.argv[1]))", str(path))
        tried("list the directories")
        for path in (machine.vault / "avault.enc", machine.own / "unlock.json", machine.own / "access.log"):
            assert refused in other("import sys; print(open(sys.argv[1]).read())", str(path))
        tried("read the files")
        connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1]); print('in')"
        assert refused in other(connect, status["socket"])
        tried("connect to the socket")
        lock = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), 2 | 4); print('held')"
        assert refused in other(lock, str(machine.vault))
        tried("hold the vault's lock")
        assert other(SPY, str(status["pid"]), str(status["keyholder_pid"])) == "[]"
        tried("look into the processes")

        machine.runtime.chmod(0o755)  # were the directories open, the socket is not, and the daemon looks who calls
        assert refused in other(connect, status["socket"])
        os.chmod(status["socket"], 0o777)
        ask = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
            "s.sendall(bytes.fromhex(sys.argv[2])); print(s.recv(99))"
        )
        frame = avault.encode_frame({"v": 1, "vault": status["vault_id"], "op": "get", "group": "g", "key": "K"})
        assert canary.mark not in other(ask, status["socket"], frame.hex())
        tried("ask over a socket that somebody has opened to all")
        machine.runtime.chmod(0o700)

        script = 'cat "$K_FILE" >/dev/null; echo "$K_FILE $$"; sleep 30'
        run = machine.start("run", "--no-mask", "--as-file", "K", "--only", "g/K", "--", "sh", "-c", script)
        path, pid = run.line("/proc").split()
        assert refused in other("import sys; print(open(sys.argv[1]).read())", path)
        assert refused in other("import sys; print(open(sys.argv[1]).read())", f"/proc/{pid}/environ")
        run.kill()
        tried("read the file of --as-file, and the environment of what runs")

        trap = machine.top / "trap"
        trap.mkdir()
        os.chown(trap, 65534, 65534)
        listen = (
            "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); os.chmod(sys.argv[1], 0o777); "
            "s.listen(); print('up', flush=True); c, _ = s.accept(); print('got', c.recv(9999))"
        )
        argv = [sys.executable if os.access(sys.executable, os.X_OK) else "python3", "-c", listen, str(trap / "s")]
        argv[0] = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else argv[0]
        fake = subprocess.Popen(argv, user=65534, group=65534, extra_groups=[], stdout=subprocess.PIPE, text=True, cwd="/")
        assert fake.stdout and fake.stdout.readline() == "up\n"
        machine("set", "g/K2", input=canary.new("trapped"), code=None, AVAULT_SOCKET=str(trap / "s"))
        said = fake.communicate(timeout=60)[0]
        assert said == "got b''\n", said
        tried("listen in the daemon's place, and take what is set")

        runtime = machine.top / "planted"
        runtime.mkdir(mode=0o700)
        os.chown(runtime, 65534, 65534)
        machine("status", code=None, XDG_RUNTIME_DIR=str(runtime))
        assert not list(runtime.iterdir())
        tried("own the runtime directory")


# The relay: test_sessions.py has the rest


class Flood(Liar):
    """A relay that, once `line` is set, sends it without an end to whoever subscribes."""

    def __init__(self) -> None:
        self.line = ""
        super().__init__()

    def attend(self, client: ServerConnection) -> None:
        if not self.line:
            return super().attend(client)
        with contextlib.suppress(ConnectionClosed):
            while True:
                if json.loads(client.recv())[0] == "REQ":
                    while self.line:
                        client.send(self.line)
                        self.said += 1


@pytest.mark.parametrize("kind", figures.pick(["CLOSED"], ["CLOSED", "NOTICE", "EVENT"]))
def test_a_relay_that_floods_deafens_nobody(machine: Machine, kind: str) -> None:
    """What it sends is more than anybody can take; the answer comes through another relay, and is heard."""
    with peers.local_relay() as relay, peers.rogue([relay.url]) as rogue, Flood() as flood:
        machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=bunker(rogue, relay.url, flood.url))
        machine("lock")
        client = nostr_sdk.Keys.parse(json.loads((machine.own / "pairing.json").read_text())["client_key"])
        event = message(nostr_sdk.Keys.generate(), client.public_key().to_hex(), "x")
        flood.said = 0
        lines = {"CLOSED": ["CLOSED", "avault", "x"], "NOTICE": ["NOTICE", "x"], "EVENT": ["EVENT", "avault", event]}
        flood.line = json.dumps(lines[kind])
        rogue.behave("nip44_decrypt", [{"wait": True, "honest": True}])
        unlock = machine.start("unlock")
        wait_until(lambda: flood.said > 5_000 and rogue.requests("nip44_decrypt")[1:], 60)
        rogue.go()
        assert unlock.wait(60).returncode == 0
        flood.line = ""


# A stolen pairing


def test_a_stolen_pairing(machine: Machine, canary: Canary) -> None:
    with (
        Tries("a stolen pairing") as tried,
        peers.local_relay() as relay,
        peers.proxy(relay.url) as proxy,
        peers.rogue([relay.url]) as rogue,
    ):
        machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=bunker(rogue, proxy.url))
        machine("set", "g/K", input=canary.value)
        machine("lock")
        client = nostr_sdk.Keys.parse(json.loads((machine.own / "pairing.json").read_text())["client_key"])
        me = client.public_key().to_hex()
        agent = nostr_sdk.PublicKey.parse(machine.status()["agent_npub"]).to_hex()

        rogue.behave("nip44_decrypt", [{"wait": True, "honest": True}])
        unlock = machine.start("unlock")
        request = wait_until(lambda: rogue.requests("nip44_decrypt")[1:])[0]
        user = nostr_sdk.Keys.parse(rogue.config["nsec"])
        peer, payload = request["params"]
        right = nostr_sdk.nip44_decrypt(user.secret_key(), nostr_sdk.PublicKey.parse(peer), payload)
        for text in ({"result": right}, {"result": "", "error": "user rejected"}):
            # With the client key he has what encrypts between client and signer; the signature is what he has not.
            content = nostr_sdk.nip44_encrypt(
                client.secret_key(),
                nostr_sdk.PublicKey.parse(rogue.signer),
                json.dumps({"id": request["id"], **text}),
                nostr_sdk.Nip44Version.V2,
            )
            made = message(client, me, "x") | {"content": content}
            for forged in (made, made | {"pubkey": rogue.signer}):
                proxy.send("inject", event=forged)
        proxy.send("frames", clear=True)
        signer = nostr_sdk.Keys.parse(rogue.config["key"])
        page = message(signer, me, json.dumps({"id": request["id"], "result": "auth_url", "error": "https://signer.example/"}))
        proxy.send("inject", event=page)  # heard after what was sent before it
        wait_until(lambda: (machine.status()["waiting"] or {}).get("auth_url"))
        assert unlock.process.poll() is None
        tried("answer, or refuse, in the signer's place")
        rogue.go()
        assert unlock.wait().returncode == 0

        repository = machine.top / "stolen"
        shutil.copytree(machine.vault, repository / "vault")
        shutil.copy(machine.own / "pairing.json", repository / "pairing.json")
        frames = proxy.send("frames")["frames"]
        results = Attacker(repository).listen([f for f in frames if signer.public_key().to_hex() in f["text"]])
        assert any("avault" in result for result in results), "he hears the answer"
        heard = attack(repository, [f for f in frames if f["dir"] == "up" or rogue.signer in f["text"]])
        assert agent not in heard.keys and not any(canary.mark in text for text in heard.plaintexts)
        tried("hear an answer, and open the repository with it")

        rogue.behave("nip44_decrypt", misdeeds.HONEST)
        machine("lock")
        old = json.loads(right)["avault"]
        content = avault.decode_file("unlock", (machine.own / "unlock.json").read_bytes(), "")
        with pytest.raises(avault.Tampered):
            avault.open_nsec(content, json.dumps({"avault": old}))
        tried("open what is on the disk now with an answer that was heard before")


# The whole machine, and the agent's key: all but the phone


class Insider(Attacker):
    """Looks for ciphertexts and public keys in what he has opened, too."""

    def open_everything(self) -> None:
        known = -1
        while known < len(self.plaintexts):
            known = len(self.plaintexts)
            for text in [*self.plaintexts]:
                self.payloads |= {*PAYLOAD.findall(text)}
                self.publics |= {*HEX_KEY.findall(text)}
            super().open_everything()


def test_the_agents_key_and_the_machine(machine: Machine, canary: Canary) -> None:
    """Of a secret whose guard asks: before the phone has agreed, and after it has."""
    with (
        Tries("the agent's key and the machine") as tried,
        peers.local_relay() as relay,
        peers.proxy(relay.url) as proxy,
        peers.rogue([relay.url]) as rogue,
    ):
        agent = nostr_sdk.Keys.generate().secret_key().to_bech32()
        words = ["init", "--name", "test@machine", "--no-drill", "--bunker", "-"]
        machine(*words, input=bunker(rogue, proxy.url), NOSTR_NSEC=agent)
        machine("set", "free/K", input=canary.new("free"))
        machine("guard", "stripe", "--ask")
        machine("set", "stripe/K", input=canary.value)

        def intrude(disk: Path, results: list[str]) -> Insider:
            found = Insider(disk)
            for text in [*results, *found.texts, agent]:
                found.learn(text)
            found.open_everything()
            assert any(canary.new("free") in text for text in found.plaintexts), "he opens the vault"
            return found

        def has_it(found: Insider) -> bool:
            return any(canary.value in text for text in found.plaintexts)

        before = copy_disk(machine, "before")
        assert not has_it(intrude(before, []))
        tried("open everything on the disk and in the vault, before the phone has agreed")

        proxy.send("frames", clear=True)
        assert machine("get", "stripe/K", secret=True).stdout == canary.value + "\n"
        signer = rogue.signer
        results = Attacker(before).listen([each for each in proxy.send("frames")["frames"] if signer in each["text"]])
        assert len({each for each in results if "avault" in each}) == 2, "he hears both answers"
        assert has_it(intrude(before, results)), "the same, where he has the disk of before and the answers"
        after = copy_disk(machine, "after")
        assert not has_it(intrude(after, results))
        tried("open the disk of after a use with what the phone has answered")

        machine("set", "stripe/K", input=canary.new("later"))
        later = intrude(copy_disk(machine, "later"), [*results, *intrude(before, results).plaintexts])
        assert not any(canary.new("later") in text for text in later.plaintexts)
        tried("open a value that was set later with all that was opened before")


# A signer that approves by itself


def test_a_signer_that_approves_by_itself(machine: Machine) -> None:
    with Tries("a signer that approves by itself") as tried, peers.local_relay() as relay, peers.rogue([relay.url]) as rogue:
        machine("init", "--name", "test@machine", "--bunker", "-", input=rogue.uri)
        assert machine.status()["signer_approves_by_itself"] is True
        tried("approve at once")
        rogue.behave("nip44_decrypt", [{"honest": True, "after_ms": 3_000}])
        done = machine("pair", "--replace", "--bunker", "-", input=rogue.uri)
        assert "the drill did not pass" in done.stderr, "as slow as a person, and it approves what is to be rejected"
        tried("approve as slowly as a person")
        machine("lock")
        assert "the signer approves by itself, as the drill showed" in machine("unlock").stderr, "it is said at every unlock"
        tried("be forgotten")
