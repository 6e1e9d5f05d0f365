"""The two processes: who lives when, what each may know, and what other processes can learn of them."""

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import nostr_sdk
import peers
import pytest
from harness import Machine, wait_until

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def is_there(pid: int) -> bool:
    """Whether a process has an entry in the process table, be it dead and not yet reaped."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def is_alive(pid: int) -> bool:
    """Whether a process runs; an orphan that a lazy init has not reaped does not."""
    if not is_there(pid):
        return False
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
        return False
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], check=False, capture_output=True, text=True)
    return done.stdout.strip()[:1] not in ("", "Z")


def state_directory(machine: Machine) -> Path:
    """Where this vault's state is, found without the daemon."""
    (path,) = (machine.state / "avault").glob("avault1-*")
    return path


class Open:
    """A machine with an open vault whose key comes from NOSTR_NSEC, and its two processes."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.nsec = nostr_sdk.Keys.generate().secret_key().to_bech32()
        machine.init_unproven(NOSTR_NSEC=self.nsec)
        self.look()

    def look(self) -> None:
        status = self.machine.status()
        self.supervisor, self.keyholder = status["pid"], status["keyholder_pid"]

    def unlock(self) -> None:
        self.machine("unlock", NOSTR_NSEC=self.nsec)
        self.look()


@pytest.fixture
def vault(machine: Machine) -> Open:
    return Open(machine)


# Life and death


def test_lock_ends_the_keyholder(vault: Open) -> None:
    for _ in range(2):
        assert is_alive(vault.keyholder)
        vault.machine("lock", "--force")
        assert not is_there(vault.keyholder), "gone and reaped"
        assert is_alive(vault.supervisor)
        status = vault.machine.status()
        assert (status["pid"], status["keyholder_pid"], status["error"]) == (vault.supervisor, None, None), "by itself"
        vault.unlock()


def test_stop_ends_both(vault: Open) -> None:
    vault.machine("daemon", "stop", "--force")
    assert not is_there(vault.keyholder)
    wait_until(lambda: not is_alive(vault.supervisor))
    assert list(vault.machine.runtime.iterdir()) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_both(vault: Open, signum: signal.Signals) -> None:
    os.kill(vault.supervisor, signum)
    wait_until(lambda: not is_alive(vault.supervisor))
    assert not is_alive(vault.keyholder)
    assert list(vault.machine.runtime.iterdir()) == []
    assert vault.machine("status", code=6).stdout.startswith("Daemon: stopped\n")


def test_kill_of_the_supervisor(vault: Open) -> None:
    vault.machine("set", "a/B", input="b")
    os.kill(vault.supervisor, signal.SIGKILL)
    wait_until(lambda: not is_alive(vault.keyholder))
    assert (vault.machine.runtime / "avault.sock").exists(), "nobody was there to remove it"
    vault.machine("get", "a/B", code=6)
    assert vault.machine("status", code=6).stdout.startswith("Daemon: stopped\n")
    vault.machine("daemon", "start", "-b", NOSTR_NSEC=vault.nsec)
    vault.machine.wait_state("unlocked")
    assert vault.machine("get", "a/B").stdout == "b\n"


def test_kill_of_the_keyholder(vault: Open) -> None:
    vault.machine("set", "a/B", input="b")
    os.kill(vault.keyholder, signal.SIGKILL)
    status = vault.machine.wait_state("unpaired")
    assert (status["pid"], status["keyholder_pid"]) == (vault.supervisor, None)
    assert not is_there(vault.keyholder)
    assert "signal 9" in status["error"]["message"]
    assert "signal 9" in vault.machine("status", code=3).stdout
    vault.machine("get", "a/B", code=3)
    vault.unlock()
    assert vault.machine("get", "a/B").stdout == "b\n"
    assert vault.machine.status()["error"] is None


@pytest.mark.slow
def test_kill_of_the_keyholder_asks_nobody(machine: Machine) -> None:
    """A crash must not look to the operator like a request."""
    with peers.local_relay() as relay, peers.rogue([relay.url]) as signer:
        machine("init", "--bunker", "-", "--no-drill", "--name", "n", input=signer.uri)
        before = len(signer.seen("request"))
        os.kill(machine.status()["keyholder_pid"], signal.SIGKILL)
        assert "signal 9" in machine.wait_state("locked")["error"]["message"]
        time.sleep(2)
        assert machine.status()["state"] == "locked"
        assert len(signer.seen("request")) == before


@pytest.mark.slow
def test_lock_of_a_keyholder_that_does_not_listen(vault: Open) -> None:
    os.kill(vault.keyholder, signal.SIGSTOP)
    begun = time.monotonic()
    vault.machine("lock", "--force")
    assert time.monotonic() - begun > 4
    assert not is_there(vault.keyholder)
    assert "signal 9" in vault.machine.status()["error"]["message"]
    vault.unlock()


@pytest.mark.slow
def test_stop_of_a_keyholder_that_does_not_listen(vault: Open) -> None:
    os.kill(vault.keyholder, signal.SIGSTOP)
    vault.machine("daemon", "stop", "--force")
    assert not is_there(vault.keyholder)
    wait_until(lambda: not is_alive(vault.supervisor))


# One writer


def test_ctrl_c_in_the_foreground_asks_twice(vault: Open) -> None:
    """A terminal sends it to every process of its group; the first must not cost an unproven vault its key."""
    vault.machine("daemon", "stop", "--force")
    wait_until(lambda: not is_alive(vault.supervisor))
    log = vault.machine.top / "log"
    with log.open("w") as stderr:
        daemon = subprocess.Popen(
            [*vault.machine.command, "daemon", "start"],
            env={**vault.machine.env, "NOSTR_NSEC": vault.nsec},
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
    vault.machine.wait_state("unlocked")
    vault.look()
    os.killpg(daemon.pid, signal.SIGINT)
    wait_until(lambda: "press Ctrl-C again" in log.read_text())
    assert is_alive(vault.keyholder) and vault.machine.status()["state"] == "unlocked"
    os.killpg(daemon.pid, signal.SIGINT)
    assert daemon.wait(60) == 0 and not is_alive(vault.keyholder)


@pytest.mark.slow
def test_second_daemon(vault: Open) -> None:
    """With a socket of its own and no way to find the first: it is not started, whatever its start says."""
    elsewhere = str(vault.machine.top / "b.sock")
    vault.machine("daemon", "start", "-b")  # runs already: done
    (state_directory(vault.machine) / "socket").unlink()
    vault.machine("daemon", "start", "-b", AVAULT_SOCKET=elsewhere, NOSTR_NSEC=vault.nsec, code=6)
    assert not os.path.exists(elsewhere)
    status = vault.machine.status()
    assert (status["pid"], status["keyholder_pid"]) == (vault.supervisor, vault.keyholder)


@pytest.mark.slow
def test_second_daemon_through_a_link(vault: Open) -> None:
    link = vault.machine.top / "link"
    link.symlink_to(vault.machine.vault)
    other = {"AVAULT_DIR": str(link), "XDG_STATE_HOME": str(vault.machine.top / "state2"), "NOSTR_NSEC": vault.nsec}
    done = vault.machine("daemon", "start", "-b", code=6, **other)
    assert "another daemon holds the vault" in done.stderr


def test_no_second_writer_while_an_orphan_lives(vault: Open) -> None:
    """A keyholder that cannot even die yet keeps the vault's lock."""
    os.kill(vault.keyholder, signal.SIGSTOP)
    os.kill(vault.supervisor, signal.SIGKILL)
    wait_until(lambda: not is_alive(vault.keyholder))  # PR_SET_PDEATHSIG does not wait for it to listen
    vault.machine("daemon", "start", "-b", NOSTR_NSEC=vault.nsec)


@pytest.mark.slow
def test_many_starts_at_once(vault: Open) -> None:
    vault.machine("daemon", "stop", "--force")
    wait_until(lambda: not is_alive(vault.supervisor))
    starts = [vault.machine.start("daemon", "start", "-b", NOSTR_NSEC=vault.nsec) for _ in range(6)]
    assert [start.wait().returncode for start in starts] == [0] * 6
    assert vault.machine.wait_state("unlocked")["keyholder_pid"]


@pytest.mark.slow
def test_sets_at_once(vault: Open) -> None:
    """From 32 processes: every one is there afterwards."""
    sets = [vault.machine.start("set", f"g{number % 4}/K{number}", input=f"v{number}") for number in range(32)]
    assert [each.wait(60).returncode for each in sets] == [0] * 32
    vault.machine("lock", "--force")
    vault.unlock()
    for group in range(4):
        values = json.loads(vault.machine("get", f"g{group}", "--json").stdout)["values"]
        assert values == {f"K{number}": f"v{number}" for number in range(group, 32, 4)}


# The socket


@pytest.mark.slow
def test_socket_that_is_removed(vault: Open) -> None:
    path = vault.machine.runtime / "avault.sock"
    vault.machine("set", "a/B", input="b")
    for _ in range(3):
        path.unlink()
        wait_until(path.exists)
        wait_until(lambda: vault.machine("get", "a/B", code=None).returncode == 0, what="it listens, once it is there")
        for _ in range(5):
            assert vault.machine("get", "a/B").stdout == "b\n"
    vault.look()


@pytest.mark.slow
def test_directory_of_the_socket_that_is_removed(vault: Open) -> None:
    vault.machine("set", "a/B", input="b")
    shutil.rmtree(vault.machine.runtime)
    wait_until(lambda: vault.machine("get", "a/B", code=None).stdout == "b\n")
    status = vault.machine.status()
    assert status["socket"] == str(vault.machine.own / "avault.sock")
    assert status["pid"] == vault.supervisor
    vault.machine.runtime.mkdir(mode=0o700)
    assert vault.machine("get", "a/B").stdout == "b\n", "found through the record, as the usual place is empty"
    vault.machine("daemon", "stop", "--force")
    wait_until(lambda: not is_alive(vault.supervisor))
    assert not (state_directory(vault.machine) / "avault.sock").exists()


@pytest.mark.slow
def test_socket_that_is_replaced(vault: Open) -> None:
    """What took our place is not removed, neither while we run nor when we end."""
    path = vault.machine.runtime / "avault.sock"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        inode = path.stat().st_ino
        time.sleep(2.5)
        assert path.stat().st_ino == inode
        os.kill(vault.supervisor, signal.SIGTERM)
        wait_until(lambda: not is_alive(vault.supervisor))
        assert path.stat().st_ino == inode
    path.unlink()


def test_start_without_standard_streams(vault: Open) -> None:
    vault.machine("daemon", "stop", "--force")
    wait_until(lambda: not is_alive(vault.supervisor))
    script = f'"{vault.machine.command[0]}" daemon start -b <&- >&- 2>&-'
    env = {**vault.machine.env, "NOSTR_NSEC": vault.nsec}
    assert subprocess.run(["sh", "-c", script], check=False, env=env, timeout=60).returncode == 0
    assert vault.machine.wait_state("unlocked")
    vault.machine("set", "a/B", input="b")
    assert vault.machine("get", "a/B").stdout == "b\n"


def test_start_keeps_no_stream_of_the_caller(vault: Open) -> None:
    """A daemon that kept the pipe would let `$(avault daemon start -b)` wait for ever."""
    vault.machine("daemon", "stop", "--force")
    wait_until(lambda: not is_alive(vault.supervisor))
    script = f'"{vault.machine.command[0]}" daemon start -b 2>&1 | cat'
    env = {**vault.machine.env, "NOSTR_NSEC": vault.nsec}
    done = subprocess.run(["sh", "-c", script], env=env, timeout=60, check=False, capture_output=True, text=True)
    assert "the daemon listens" in done.stdout


# Files


def entries(top: Path) -> Iterable[Path]:
    return (Path(directory, name) for directory, inner, names in os.walk(top) for name in [*inner, *names])


def test_modes(machine: Machine) -> None:
    """Whatever the umask."""
    machine.command = ["sh", "-c", 'umask 000; exec "$0" "$@"', *machine.command]
    machine.vault = machine.top / "new" / "vault"
    machine.env["AVAULT_DIR"] = str(machine.vault)
    machine.init_unproven("--qr", str(machine.top / "qr.png"))
    machine("set", "a/B", input="b")
    found = [*entries(machine.state), *entries(machine.runtime), machine.vault, *entries(machine.vault)]
    wrong = {str(path): oct(path.lstat().st_mode) for path in found if stat.S_IMODE(path.lstat().st_mode) & 0o077}
    assert wrong == {}
    assert {path.name for path in entries(machine.vault)} == {"avault.enc", "nsec.enc", "nip46.json", ".gitattributes"}


def test_no_temporary_files_stay(vault: Open) -> None:
    leftover = vault.machine.vault / ".avault.enc.0123456789abcdef.tmp"
    leftover.write_text("half a write")
    vault.machine("daemon", "stop", "--force")
    wait_until(lambda: not is_alive(vault.supervisor))
    vault.machine("daemon", "start", "-b", NOSTR_NSEC=vault.nsec)
    vault.machine.wait_state("unlocked")
    vault.machine("set", "a/B", input="b")
    assert not [path for path in [*entries(vault.machine.vault), *entries(vault.machine.state)] if path.suffix == ".tmp"]


# What others can learn


def start_among_secrets(vault: Open, canary) -> None:
    """Start the daemon anew from an environment that holds secrets."""
    vault.machine("daemon", "stop", "--force")
    wait_until(lambda: not is_alive(vault.supervisor))
    variables = {"NOSTR_NSEC": vault.nsec, "CANARY": canary.value, "AWS_SECRET_ACCESS_KEY": canary.new("aws")}
    vault.machine("daemon", "start", "-b", **variables)
    vault.machine.wait_state("unlocked")
    vault.look()


@linux
def test_hardening(vault: Open, canary) -> None:
    start_among_secrets(vault, canary)
    for pid in (vault.supervisor, vault.keyholder):
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert next(line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core")) == ["0", "0"]
        assert Path(f"/proc/{pid}/environ").stat().st_uid == 0, "dumpable"
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert vault.nsec.encode() not in command
        assert canary.mark.encode() not in command
        for name in ("environ", "mem", "maps"):
            if os.geteuid():
                with pytest.raises(PermissionError):
                    Path(f"/proc/{pid}/{name}").read_bytes()
    assert resource.getrlimit(resource.RLIMIT_CORE)  # the test process itself is another matter


@linux
@pytest.mark.root
def test_environment(vault: Open, canary) -> None:
    start_among_secrets(vault, canary)
    for pid in (vault.supervisor, vault.keyholder):
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"HOME=" in environ
        names = {line.partition(b"=")[0] for line in environ.split(b"\0") if line}
        assert not names & {b"NOSTR_NSEC", b"CANARY", b"AWS_SECRET_ACCESS_KEY"}
        assert vault.nsec.encode() not in environ
        assert canary.mark.encode() not in environ
        assert f"{pid} (avault" in Path(f"/proc/{pid}/stat").read_text()


@linux
def test_descriptors(vault: Open) -> None:
    """Neither process holds a file of the vault open, or a stream of the command that started it."""
    for pid in (vault.supervisor, vault.keyholder):
        try:
            found = {name: os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
        except PermissionError:
            pytest.skip("hardened, as it should be: only root sees its descriptors")
        assert [found[name] for name in "012"] == ["/dev/null"] * 3
        assert not [target for target in found.values() if target.startswith("pipe:")]
        assert [target for target in found.values() if str(vault.machine.vault) in target] == [str(vault.machine.vault)]


# Memory


class Memory:
    """Looks for secrets in a process's memory, in every mapping that can be read."""

    def __init__(self) -> None:
        self.wanted: dict[str, bytes] = {}

    def want(self, name: str, secret: str | bytes) -> None:
        data = secret.encode() if isinstance(secret, str) else secret
        self.wanted[name] = data
        if isinstance(secret, str):
            self.wanted[f"{name}, UTF-16"] = secret.encode("utf-16-le")
            self.wanted[f"{name}, UTF-32"] = secret.encode("utf-32-le")

    def want_key(self, name: str, keys: nostr_sdk.Keys) -> None:
        text = keys.secret_key().to_hex()
        self.want(f"{name} (hex)", text)
        self.want(f"{name} (nsec)", keys.secret_key().to_bech32())
        self.want(f"{name} (bytes)", bytes.fromhex(text))
        self.want(f"{name} (bytes, reversed)", bytes.fromhex(text)[::-1])

    def found(self, pid: int, least: int = 5 << 20) -> set[str]:
        """The names of what is there; `least` is how much a process of its kind has at any rate."""
        found, seen = set(), 0
        longest = max(map(len, self.wanted.values()))
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            for line in maps:
                span, access = line.split()[:2]
                if "r" not in access or line.rstrip().endswith(("[vvar]", "[vvar_vclock]", "[vsyscall]")):
                    continue
                start, end = (int(number, 16) for number in span.split("-"))
                tail = b""
                while start < end:
                    memory.seek(start)
                    try:
                        piece = memory.read(min(end - start, 1 << 24))
                    except OSError:
                        break  # a guard page
                    if not piece:
                        break
                    found |= {name for name, data in self.wanted.items() if data in tail + piece}
                    tail = piece[-longest:]
                    start += len(piece)
                    seen += len(piece)
        assert seen > least, "hardly anything was read"
        return found


@linux
@pytest.mark.root
@pytest.mark.slow
def test_memory(machine: Machine, canary) -> None:
    """The supervisor never holds a secret, in no state; the keyholder, as a control, holds them all."""
    agent, operator = nostr_sdk.Keys.generate(), nostr_sdk.Keys.generate()
    canary.watch(agent.secret_key().to_hex())
    memory = Memory()
    memory.want("value", canary.value)
    memory.want("set while open", canary.new("second"))
    memory.want_key("agent", agent)
    held = {"value", "set while open", "agent (bytes)"}

    def unlock_key(path: Path) -> str:
        """The key in an envelope that is on the disk: the operator can open it."""
        content = json.loads(path.read_text())
        text = nostr_sdk.nip44_decrypt(operator.secret_key(), agent.public_key(), content["envelope"])
        return str(json.loads(text)["avault"])

    def look(state: str) -> int | None:
        """Look at the supervisor, and for the unlock keys that are on the disk by now; the keyholder's pid."""
        for path in (machine.vault / "nsec.enc", state_directory(machine) / "unlock.json"):
            key = unlock_key(path)
            memory.want_key(f"unlock key {key[:8]}", nostr_sdk.Keys.parse(key))
        status = machine.wait_state(state)
        assert memory.found(status["pid"]) == set(), state
        pid = status["keyholder_pid"]
        return int(pid) if pid else None

    with peers.local_relay() as relay, peers.rogue([relay.url], nsec=operator.secret_key().to_hex()) as signer:
        machine("init", "--bunker", "-", "--no-drill", "--name", "n", input=signer.uri, NOSTR_NSEC=agent.secret_key().to_hex())
        machine("set", "a/B", input=canary.value)
        keyholder = look("unlocked")
        assert keyholder
        assert memory.found(keyholder) >= held - {"set while open"}
        assert machine("get", "a/B", secret=True).stdout == canary.value + "\n"
        machine("export", secret=True)
        look("unlocked")

        machine("lock")
        assert look("locked") is None

        signer.behave("nip44_decrypt", [{"honest": True, "wait": True}])
        unlock = machine.start("unlock")
        signer.wait_for("request", method="nip44_decrypt")
        keyholder = look("waiting")
        assert keyholder
        assert memory.found(keyholder) == set(), "before the approval nobody has anything"
        signer.go()
        assert unlock.wait().returncode == 0

        machine("set", "a/C", input=canary.new("second"))
        keyholder = look("unlocked")
        assert keyholder
        assert memory.found(keyholder) >= held
        machine("delete", "a/C")
        look("unlocked")
        machine("lock")
        assert look("locked") is None
        status = machine.status()
        os.kill(status["pid"], 0)
