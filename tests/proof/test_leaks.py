"""Where a secret may be, and that it is nowhere else: what our processes hand to the kernel, hold in memory, say when they
fail, and leave when they crash; and who can read what."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import documents as d
import figures
import nostr_sdk
import peers
import pytest
from canary import Canary, forms, hits
from harness import AVAULT, Machine, Running, imported_avault, wait_until
from peers import Relay, Rogue
from test_processes import Memory, state_directory

import avault

pytestmark = [
    pytest.mark.proof,
    pytest.mark.timeout(figures.pick(300, 7200)),
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and strace"),
]

HEX = "5a" * 31 + "01"


@pytest.fixture
def operator() -> nostr_sdk.Keys:
    return nostr_sdk.Keys.generate()


@pytest.fixture
def phone(relay: Relay, operator: nostr_sdk.Keys) -> Iterator[Rogue]:
    with peers.rogue([relay.url], nsec=operator.secret_key().to_hex()) as phone:
        yield phone


@pytest.fixture
def agent(canary: Canary) -> nostr_sdk.Keys:
    """The agent's key, known to the test, and searched for at the end of the run in both its written forms."""
    agent = nostr_sdk.Keys.generate()
    canary.watch(agent.secret_key().to_hex())
    canary.watch(agent.secret_key().to_bech32())
    return agent


@pytest.fixture
def vault(machine: Machine, phone: Rogue, agent: nostr_sdk.Keys) -> Machine:
    """A vault in a git repository, proven by a phone that approves; closed, and no daemon."""
    subprocess.run(["git", "init", "-q", machine.home / "clawd"], check=True)
    words = ("init", "--bunker", "-", "--no-drill", "--name", "test@machine")
    machine(*words, input=phone.uri, NOSTR_NSEC=agent.secret_key().to_hex())
    machine("daemon", "stop")
    return machine


def unlock_keys(machine: Machine, agent: nostr_sdk.Keys, operator: nostr_sdk.Keys) -> set[str]:
    """Those in the envelopes that are on the disk: the operator can open them."""
    found = set()
    for path in (machine.vault / "nsec.enc", state_directory(machine) / "unlock.json"):
        envelope = json.loads(path.read_text())["envelope"]
        found.add(str(json.loads(nostr_sdk.nip44_decrypt(operator.secret_key(), agent.public_key(), envelope))["avault"]))
    return found


# What our processes hand to the kernel
#
# strace writes down every byte that a process, its threads and its children write to anything, every program that they start,
# with its arguments and its environment, and every file that they open for writing or other memory that they share. Root's
# strace, that is: of supervisor and keyholder, which are hardened, their user's sees nothing but addresses.

WRITES = "write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,sendmmsg,vmsplice,process_vm_writev"
SHARED = "shmget,msgget,semget,mq_open,add_key"
STRACE = ["strace", "-qq", "-f", "-ff", "-yy", "-v", "-xx", "-s", "4000000", "-e", "signal=none", "--seccomp-bpf"]
CALLS = f"trace={WRITES},{SHARED},memfd_create,execve,execveat,openat,?open,?creat,clone,clone3,?fork,?vfork"


class Call(NamedTuple):
    """A system call: of which process, what that is, and what was in it."""

    pid: int
    role: str
    name: str
    target: str  # what the first argument, a descriptor, stands for
    strings: list[bytes]
    text: str


def role(words: list[str]) -> str:
    """What a program is to us, by its arguments."""
    for ours in ("supervisor", "keyholder"):
        if ours in words[:7]:
            return ours
    if words[-4:-2] == ["git", "record"]:
        return "git record"
    if Path(words[0]).name == "avault" or words[1:2] == [AVAULT]:
        return "client " + " ".join(words[words.index(AVAULT) + 1 :] if AVAULT in words else words[1:])
    return Path(words[0]).name


def in_quotes(line: str) -> list[bytes]:
    """The strings of a call."""
    return [bytes.fromhex(each.replace("\\x", "")) for each in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', line)]


def plain(text: str) -> str:
    """As it was, before strace wrote it in hexadecimal."""
    return re.sub(r"(?:\\x[0-9a-f]{2})+", lambda found: os.fsdecode(bytes.fromhex(found[0].replace("\\x", ""))), text)


def read_trace(directory: Path) -> list[Call]:
    """All calls of a trace; a process has its parent's role until it becomes another program."""
    files = {int(path.suffix[1:]): path for path in directory.iterdir()}
    lines = {pid: path.read_text(errors="surrogateescape").splitlines() for pid, path in files.items()}
    made = re.compile(r"^(?:clone3?|v?fork)\(.*= (\d+)")
    children = {int(found[1]) for each in lines.values() for line in each if (found := made.match(line))}
    waiting = [(pid, "?") for pid in lines if pid not in children]
    calls = []
    while waiting:
        pid, what = waiting.pop()
        for line in lines.get(pid, []):
            name = line.partition("(")[0]
            if found := made.match(line):
                waiting.append((int(found[1]), what))
                continue
            target = re.match(r"\w+\((?:AT_FDCWD|\d+)<((?:[^<>]|<[^<>]*>)*)>", line)
            if name == "execve" and line.endswith(" = 0"):
                what = role([os.fsdecode(each) for each in in_quotes(line.partition("], [")[0])[1:]])
            strings = in_quotes(line)
            calls.append(Call(pid, what, name, plain(target[1]) if target else "", strings, line))
    return calls


@contextlib.contextmanager
def traced(machine: Machine, directory: Path) -> Iterator[None]:
    """The machine's commands run under strace, which writes into a directory."""
    directory.mkdir()
    command = machine.command
    machine.command = [*STRACE, "-e", CALLS, "-o", str(directory / "t"), *command]
    try:
        yield
    finally:
        machine.command = command


@pytest.mark.root
def test_what_is_handed_to_the_kernel(
    vault: Machine,
    canary: Canary,
    agent: nostr_sdk.Keys,
    operator: nostr_sdk.Keys,
    allow: Callable[[Path], Path],
) -> None:
    """A day: opened by the phone, and by a key; values set, imported, read, given to commands; and git told of it."""
    directory = allow(vault.top / "trace")
    keys = unlock_keys(vault, agent, operator)
    value, other = canary.value, canary.new("other one")
    told = vault.top / "told"

    def day(daemon: Running) -> None:
        vault.wait_state("unlocked")
        vault("set", "a/B", input=value)
        vault("import", str(allow(vault.top / "input.env")), "--group", "b", "--replace")
        vault("list")
        vault("has", "a/B")
        assert vault("get", "a/B", secret=True).stdout == value + "\n"
        vault("export", "--shell", secret=True)
        vault("run", "--as-file", "a/B", "--", "sh", "-c", 'cat "$B_FILE"; echo "$C"')
        vault("run", "--no-mask", "--", "sh", "-c", "true")
        (vault.top / "x.tmpl").write_text("avault://a/B")
        vault("inject", "-i", str(vault.top / "x.tmpl"), "-o", str(allow(vault.top / "injected")))
        request = json.dumps({"protocolVersion": 1, "provider": "avault", "ids": ["a/B"]})
        vault("openclaw-provider", input=request, secret=True)
        vault("scan", str(vault.home), code=None)
        vault("log")
        vault("delete", "a/B")
        keys.update(unlock_keys(vault, agent, operator))
        vault("daemon", "stop")
        assert daemon.wait().returncode == 0

    (vault.top / "input.env").write_text(f"C={other}\n")
    with traced(vault, directory):
        day(vault.start("daemon", "start", "--notify", f"env >>{told}"))
        if figures.FULL:
            day(vault.start("daemon", "start", NOSTR_NSEC=agent.secret_key().to_hex()))
    calls = read_trace(directory)
    shutil.rmtree(directory)

    wanted = forms(canary.mark)
    private = [agent.secret_key().to_hex(), agent.secret_key().to_bech32(), *keys]
    hidden = {form: "key" for each in private for form in forms(each)}
    hidden |= {bytes.fromhex(each): "key" for each in private if not each.startswith("nsec")}
    carried = [(call, "value") for call in calls if any(any(hits(each, wanted)) for each in call.strings)]
    carried += [(call, "key") for call in calls if any(any(hits(each, hidden)) for each in call.strings)]
    wrong = [f"{call.role[:60]}: {call.name} {call.target} {what}" for call, what in carried if not is_meant(call, what, vault)]
    assert not wrong, "\n".join(wrong)

    seen = {(call.role.removeprefix("client ").split(" ")[0], call.name) for call, _ in carried}
    for who, how in (("set", "sendto"), ("keyholder", "sendto"), ("get", "write"), ("sh", "execve")):
        assert any(role == who and name.startswith(how[:4]) for role, name in seen), (who, how, seen)
    roles = {call.role.split(" ")[0] for call in calls}
    assert {"supervisor", "keyholder", "git", "client"} <= roles, roles
    places = [str(vault.top), "/dev/null", "/dev/tty", "/dev/ptmx", "/dev/pts/", "/proc/self/", "pipe:"]
    opened = {
        os.fsdecode(call.strings[0])
        for call in calls
        if call.name in ("openat", "open", "creat") and re.search(r"O_WRONLY|O_RDWR|O_CREAT|^creat", call.text) and call.strings
    }
    elsewhere = [path for path in opened if path.startswith("/") and not path.startswith(tuple(places))]
    assert elsewhere == [], "opened for writing"
    shared = [call for call in calls if call.name in (*SHARED.split(","), "vmsplice", "process_vm_writev")]
    assert shared == []
    assert {call.role.split(" ")[1] for call in calls if call.name == "memfd_create"} == {"run"}
    figures.at_least("system calls of a day that were read, byte for byte", len(calls))
    figures.at_least(
        "programs that were started in it, with arguments and environment",
        sum(call.name == "execve" and call.text.endswith(" = 0") for call in calls),
    )
    figures.at_least("of those calls, that carried a secret where it is meant to go", len(carried))


def is_meant(call: Call, what: str, machine: Machine) -> bool:
    """Whether a secret may be in that call."""
    kind, _, words = call.role.partition(" ")
    word = words.split(" ")[0]
    if call.name in ("execve", "execveat"):  # in the environment, not in the arguments; of nothing but what `run` starts
        told = in_quotes(call.text.partition("], [")[0])
        if any(b"cnry" in each for each in told) or what == "key":
            return what == "key" and words.startswith("daemon start")  # NOSTR_NSEC, in the test's own environment
        return call.role in ("sh", "cat", "env") or word == "run"  # which looks for the program in all of PATH
    socket = call.target.startswith("UNIX")
    if kind == "keyholder":
        return what == "value" and socket
    if kind in ("supervisor", "git"):
        return False
    if kind == "client":
        if what == "key":
            return words.startswith("daemon start") and call.target.startswith("pipe:")
        if word in ("set", "import", "scan"):
            return socket or (word == "scan" and call.target.startswith("pipe:"))
        if word == "inject":
            return call.target.startswith(str(machine.top / ".injected")) or call.target.startswith(str(machine.top / "injected"))
        if word == "run":
            return "memfd:avault" in call.target
        return word in ("get", "export", "openclaw-provider") and call.name == "write" and call.text.startswith("write(1<")
    return call.role in ("sh", "cat", "grep") and call.target.startswith("pipe:")


# What they say when they fail
#
# A copy of avault in which an exception that carries a secret is raised wherever the test wants it: no answer, no message,
# and no line of the daemon's, which a service's journal would keep, may have its text.

TRAPS = {  # the function, and the commands that come to it
    "Vault.secrets": ["get a/B", "openclaw-provider"],
    "Vault.group": ["get a"],
    "choose": ["export --shell", "run -- true"],
    "select": ["run -- true"],
    "render_export": ["export --shell"],
    "describe_vault": ["list --json"],
    "render_list": ["list"],
    "AccessLog.write": ["get a/B", "set a/B"],
    "Ledger.sign": ["get a/B"],
    "Keyholder.release": ["get a/B", "openclaw-provider"],
    "Reception.answer": ["get a/B"],
    "Reception.take_over": ["get a/B"],
    "Reporter.report": ["set a/B"],
    "Store.refresh": ["get a/B"],
    "Session.handle": ["get a/B"],
    "Session.send": ["get a/B"],
    "Session.frame": ["set a/B"],
    "Session.data_received": ["set a/B"],
    "Frames.feed": ["set a/B"],
    "check_value": ["set a/B", "import -"],
    "Vault.put": ["set a/B", "import -"],
    "Vault.copy": ["set a/B", "import -"],
    "Vault.to_json": ["set a/B"],
    "Store.write": ["set a/B"],
    "Keyholder.change": ["set a/B", "import -"],
    "split_vault": ["set a/B"],
    "seal_vault": ["set a/B"],
    "encrypt": ["set a/B"],
    "open_vault": ["set a/B"],
    "write_file": ["set a/B", "inject -i x.tmpl -o injected"],
    "Control.send": ["get a/B"],
    "Control.readable": ["get a/B"],
    "Supervisor.handle": ["get a/B"],
    "Supervisor.first_frame": ["get a/B"],
    "Warden.receive": ["set a/B"],
    "FastConnection.send": ["get a/B", "set a/B"],
    "FastConnection.receive": ["get a/B", "run -- true"],
    "fast_exchange": ["get a/B", "set a/B"],
    "from_json": ["get a/B"],
    "ask_daemon": ["run -- true", "export --format json --wait 1"],  # --wait: what the fast door leaves to the long way
    "put": ["export --format json --only a/B --wait 1"],
}
OPENING = [
    "GivenKey.get_key", "parse_keys", "Unlocking.unlock", "Opening.open", "Holding.begin", "Ratchet.turn",
    "Store.load", "open_vault", "decrypt", "open_nsec", "seal_nsec", "seal_keys", "Ledger.find_end", "read_unlock",
    "hold",
]  # fmt: skip
KINDS = ["RuntimeError", "KeyError", "ValueError", "OSError", "UnicodeDecodeError", "AttributeError", "RecursionError"]


def every(kinds: list[str]) -> list[tuple[str, str, str]]:
    """Kind of exception, function, command."""
    return [(kind, label, line) for kind in kinds for label, lines in TRAPS.items() for line in lines]


SNARE = """

def set_trap(label):
    import functools

    owner, _, name = label.rpartition(".")
    owner = globals()[owner] if owner else None
    inner = getattr(owner, name) if owner else globals()[name]

    @functools.wraps(inner)
    def trapped(*args, **more):
        try:
            with open(TRAP) as file:
                at, kind, text = file.read().split("\\0")
        except FileNotFoundError:
            return inner(*args, **more)
        if at != label:
            return inner(*args, **more)
        open(TRAP + ".sprung", "w").close()
        if kind == "OSError":
            raise OSError(5, "Input/output error", text)
        if kind == "UnicodeDecodeError":
            raise UnicodeDecodeError("utf-8", text.encode(), 0, 1, text)
        raise getattr(__import__("builtins"), kind)(text)

    if not owner:
        globals()[name] = trapped
    else:
        setattr(owner, name, staticmethod(trapped) if isinstance(vars(owner)[name], staticmethod) else trapped)


"""


class Trapped:
    """A machine with such a copy; `spring` has a command run into a trap, and gives what was said."""

    def __init__(self, machine: Machine, labels: Iterable[str], text: str, allow: Callable[[Path], Path]) -> None:
        self.machine, self.text = machine, text
        self.trap = allow(machine.top / "trap")
        here = machine.top / "trapped"
        here.mkdir()
        for module in Path(avault.__file__).parent.glob("avault*.py"):
            shutil.copy(module, here)
        source = d.SOURCE.read_text()
        early = [label for label in labels if label.partition(".")[0] in ("FastConnection", "fast_exchange", "from_json")]
        door = 'if __name__ == "__main__" or hasattr('
        for at, those in ((door, early), ('if __name__ == "__main__":\n    main()', [x for x in labels if x not in early])):
            assert source.count(at) == 1
            calls = f"TRAP = {str(self.trap)!r}\n{SNARE}" + "".join(f"set_trap({label!r})\n" for label in those)
            source = source.replace(at, f"{calls}\n\n{at}")
        (here / "avault.py").write_text(source)
        machine.command = imported_avault(here)

    def set(self, label: str, kind: str) -> None:
        self.trap.write_text(f"{label}\0{kind}\0{self.text}")

    def is_sprung(self) -> bool:
        """Whether somebody was caught."""
        return self.trap.with_suffix(".sprung").exists()

    def take_away(self) -> bool:
        """The same, and for the last time."""
        caught = self.is_sprung()
        for path in (self.trap, self.trap.with_suffix(".sprung")):
            path.unlink(missing_ok=True)
        return caught


@pytest.mark.long
def test_what_is_said_when_a_request_fails(machine: Machine, canary: Canary, allow: Callable[[Path], Path]) -> None:
    nsec = nostr_sdk.Keys.generate().secret_key().to_bech32()
    machine.init_unproven(NOSTR_NSEC=nsec)
    machine("set", "a/B", input=canary.value)
    machine("daemon", "stop", "--force")
    trapped = Trapped(machine, TRAPS, canary.value, allow)
    (machine.top / "x.tmpl").write_text("avault://a/B")
    allow(machine.top / "injected")
    provide = json.dumps({"protocolVersion": 1, "provider": "avault", "ids": ["a/B"]})
    inputs = {"set": canary.value, "import": f"B={canary.new('imported')}\n", "openclaw-provider": provide}
    daemon, keyholder, caught = None, 0, 0
    for kind, label, line in figures.pick(every(KINDS[:1])[::3], every(KINDS)):
        if not daemon or not os.path.exists(f"/proc/{keyholder}/fd"):
            machine("daemon", "stop", "--force")
            daemon = machine.start("daemon", "start", NOSTR_NSEC=nsec)
            keyholder = machine.wait_state("unlocked")["keyholder_pid"]
        words = [*line.split(), *(["--group", "a", "--replace"] if line.startswith("import") else [])]
        trapped.set(label, kind)
        client = machine.start(*words, input=inputs.get(words[0], ""))
        wait_until(lambda client=client: trapped.is_sprung() or client.process.poll() is not None, 60, f"{label}, {line}, {kind}")
        with contextlib.suppress(subprocess.TimeoutExpired):
            client.process.wait(1)
        if client.process.poll() is None:  # nobody will answer; the next has a new daemon
            client.kill()
            keyholder = 0
        assert trapped.take_away(), f"{line} does not come to {label}"
        for thread in client.threads:
            thread.join(5)
        said = [*client.stderr, *daemon.stdout, *daemon.stderr, *(client.stdout if client.process.returncode else [])]
        assert not list(hits("\n".join(said).encode(), forms(canary.mark))), (label, line, kind, said)
        assert "Traceback" not in "\n".join(said), (label, said)
        caught += 1
    figures.at_least("exceptions with a secret in their text, in requests, none of which told it", caught)


def test_what_is_said_when_opening_fails(machine: Machine, canary: Canary, allow: Callable[[Path], Path]) -> None:
    nsec = nostr_sdk.Keys.generate().secret_key().to_bech32()
    machine.init_unproven(NOSTR_NSEC=nsec)
    machine("set", "a/B", input=canary.value)
    machine("daemon", "stop", "--force")
    trapped = Trapped(machine, OPENING, canary.value, allow)
    caught = 0
    for kind in figures.pick(KINDS[:1], KINDS):
        for label in figures.pick(OPENING[::3], OPENING):
            trapped.set(label, kind)
            daemon = machine.start("daemon", "start", NOSTR_NSEC=nsec)
            wait_until(trapped.is_sprung, 60, label)
            status = json.dumps(wait_until(lambda: (now := machine.status()).get("state") != "waiting" and now, 60, label))
            assert trapped.take_away()
            machine("daemon", "stop", "--force")
            done = daemon.wait()
            said = f"{status}\n{done.stdout}\n{done.stderr}"
            assert not list(hits(said.encode(), forms(canary.mark))) and "Traceback" not in said, (label, kind, said)
            caught += 1
    figures.at_least("exceptions with a secret in their text, in opening, none of which told it", caught)


# What they hold in memory


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def cmdline(pid: int) -> bytes:
    """The arguments of a process; none of one that has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


class Gate:
    """Programs in PATH, or given by name, that wait while the gate is shut: git, and the command of --notify."""

    def __init__(self, machine: Machine) -> None:
        self.flag, place = machine.top / "shut", machine.top / "gate"
        place.mkdir()
        for name, then in (("git", f'exec {shutil.which("git")} "$@"'), ("notice", "exit 0")):
            (place / name).write_text(f"#!/bin/sh\nwhile [ -e {self.flag} ]; do sleep 0.05; done\n{then}\n")
            (place / name).chmod(0o755)
        self.notice = str(place / "notice")
        machine.env["PATH"] = f"{place}:{machine.env['PATH']}"

    def shut(self) -> None:
        self.flag.touch()

    def open(self) -> None:
        self.flag.unlink(missing_ok=True)


@contextlib.contextmanager
def at_its_end(machine: Machine, *words: str, input: str = "") -> Iterator[int]:
    """A command that has done all its work, held by strace where it would exit: its pid."""
    trace = machine.top / "end"
    command = machine.command
    hold = ["strace", "-qq", "-o", str(trace), "-e", "trace=exit_group", "-e", "inject=exit_group:delay_enter=120000000", "--"]
    machine.command = [*hold, *command]
    running = machine.start(*words, input=input)
    machine.command = command
    number = {"x86_64": "231", "aarch64": "94"}[os.uname().machine]

    def held() -> int | None:
        for each in descendants(running.process.pid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{each}/syscall").read_text().split(" ")[0] == number:
                    return each
        return None

    try:
        yield wait_until(held, 60, f"{words} to end")
    finally:
        for each in descendants(running.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        running.kill()


@pytest.mark.root
def test_memory_of_each_process(
    vault: Machine, canary: Canary, agent: nostr_sdk.Keys, operator: nostr_sdk.Keys, phone: Rogue, relay: Relay
) -> None:
    """The supervisor and its children never hold a secret, whatever is asked; of the clients, those that were given one do."""
    memory, gate = Memory(), Gate(vault)
    memory.want("value", canary.value)
    memory.want("imported", canary.new("imported"))
    memory.want_key("agent", agent)
    scanned = {"without": 0, "with": 0}

    def clean(pid: int, what: str, least: int = 4 << 20) -> None:
        assert memory.found(pid, least) == set(), what
        scanned["without"] += 1

    def holds(pid: int, names: set[str]) -> None:
        """The positive control: the same scan."""
        assert memory.found(pid, 1 << 20) >= names
        scanned["with"] += 1

    def look(state: str) -> int | None:
        """Scan the supervisor and all its children but the keyholder, of which it gives the pid."""
        for key in unlock_keys(vault, agent, operator):
            memory.wanted |= {f"unlock key {key[:8]}": key.encode(), f"unlock key {key[:8]} (bytes)": bytes.fromhex(key)}
        status = vault.wait_state(state)
        clean(status["pid"], f"supervisor, {state}")
        for pid in {*descendants(status["pid"])} - {status["keyholder_pid"]}:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                clean(pid, f"{state}: {cmdline(pid)!r}", -1)
        return status["keyholder_pid"]

    gate.shut()
    phone.behave("nip44_decrypt", [{"honest": True, "wait": True}])
    vault("daemon", "start", "-b", "--notify", gate.notice)
    waiting = look("waiting")
    assert waiting
    clean(waiting, "the keyholder before the approval")
    phone.go()
    keyholder = look("unlocked")
    assert keyholder
    holds(keyholder, {"agent (bytes)"})

    places = avault.Places(str(vault.vault))
    places.socket = vault.status()["socket"]
    connection = avault.FastConnection(places)
    connection.send(json.dumps({"v": 1, "vault": places.id, "op": "set", "group": "a", "key": "B"}))
    assert "ready" in connection.receive()
    frame = json.dumps({"value": canary.value}).encode()
    connection.socket.sendall(len(frame).to_bytes(4, "big") + frame[:-1])  # all but the end: it lies there
    look("unlocked")
    connection.socket.sendall(frame[-1:])
    assert connection.receive() == '{"ok": true}'
    connection.socket.close()
    pid = vault.status()["pid"]
    wait_until(lambda: any(b"record" in cmdline(each) for each in descendants(pid)), what="git record")
    look("unlocked")  # git and the command of --notify wait at the gate
    (recorder,) = [each for each in descendants(pid) if b"\0git\0record\0" in cmdline(each)]
    clean(recorder, "git record")
    holds(keyholder, {"value", "agent (bytes)"})

    vault("import", "-", "--group", "b", input=f"C={canary.new('imported')}\n")
    look("unlocked")
    holds(keyholder, {"value", "imported"})
    gate.open()
    for words in [["list"], ["status"], *figures.pick([], [["list", "--names"], ["has", "a/B"], ["log"], ["sync"]])]:
        with at_its_end(vault, *words) as client:
            clean(client, " ".join(words))
    for words in [["export", "--shell"], ["get", "a/B"], *figures.pick([], [["scan", str(vault.home)]])]:
        vault(*words, code=None, secret=True)
        look("unlocked")
    running = vault.start("run", "--", "sh", "-c", "echo $$; sleep 60")
    wait_until(lambda: running.stdout)
    look("unlocked")
    holds(running.process.pid, {"value"})  # it masks what the command prints, so it knows what to look for
    holds(int(running.stdout[0]), {"value"})
    for each in descendants(running.process.pid):
        os.kill(each, signal.SIGKILL)
    assert running.process.wait(60)
    vault("openclaw-provider", input=json.dumps({"protocolVersion": 1, "provider": "avault", "ids": ["a/B"]}), secret=True)
    look("unlocked")
    vault("lock")
    assert look("locked") is None
    phone.behave("nip44_decrypt", [{"honest": True}])
    vault("unlock")
    look("unlocked")
    vault("daemon", "stop")
    figures.at_least("memory scans of processes that are to hold nothing", scanned["without"])
    figures.at_least("memory scans that find it where it is, as a control", scanned["with"])


# What they leave when they crash


def test_a_crash_leaves_no_core(machine: Machine, canary: Canary) -> None:
    """Not of the keyholder, and not of a `run` that is masking, though its user wants cores; an ordinary process leaves one."""
    crash = ["sh", "-c", "ulimit -c unlimited; kill -SEGV $$"]
    place = machine.top / "cores"
    place.mkdir()

    def ended(trace: Path, pid: int) -> str:
        return wait_until(lambda: re.findall(r"^\+\+\+ .*", Path(f"{trace}.{pid}").read_text(), re.MULTILINE))[-1]

    control = machine.top / "control"
    strace = ["strace", "-q", "-ff", "-e", "trace=exit_group", "-e", "signal=SEGV,ABRT", "-o"]
    subprocess.run([*strace, control, *crash], cwd=place, stdin=subprocess.DEVNULL, capture_output=True)
    (trace,) = machine.top.glob("control.*")
    assert "(core dumped)" in trace.read_text(), "this machine makes no cores: kernel.core_pattern, or a hard limit"
    for core in place.iterdir():
        core.unlink()

    machine.init_unproven(NOSTR_NSEC=HEX)
    machine("set", "a/B", input=canary.value)
    machine("daemon", "stop", "--force")
    traces, command = machine.top / "trace", machine.command
    for number in (signal.SIGSEGV, signal.SIGABRT):
        machine.command = ["sh", "-c", 'ulimit -c unlimited; exec "$@"', "sh", *strace, str(traces), *command]
        machine.start("daemon", "start", NOSTR_NSEC=HEX)
        machine.command = command
        keyholder = machine.wait_state("unlocked")["keyholder_pid"]
        os.kill(keyholder, number)
        assert ended(traces, keyholder) == f"+++ killed by {number.name} +++"
        said = f"the keyholder ended by signal {number:d}"
        wait_until(lambda said=said: said in json.dumps(machine.status()), what=said)
        machine("daemon", "stop", "--force")

    machine("daemon", "start", "-b", NOSTR_NSEC=HEX)
    machine.wait_state("unlocked")
    machine.command = ["sh", "-c", 'ulimit -c unlimited; exec "$@"', "sh", *strace, str(traces), *command]
    crashing = machine.start("run", "--", "sh", "-c", "cd cores; kill -SEGV $$")
    masking = machine.start("run", "--", "sh", "-c", "echo $$ $PPID; exec sleep 60")
    machine.command = command
    shell, run = map(int, wait_until(lambda: masking.stdout)[0].split())
    os.kill(run, signal.SIGSEGV)
    assert ended(traces, run) == "+++ killed by SIGSEGV +++", "what masks has all values"
    with contextlib.suppress(ProcessLookupError):  # what keeps the command ends it, too
        os.kill(shell, signal.SIGKILL)
    crashing.process.wait(60)
    texts = [path.read_text() for path in machine.top.glob("trace.*")]
    assert sum("+++ killed by SIGSEGV (core dumped) +++" in text for text in texts) == 1, "the command's own affair"
    shutil.rmtree(place)


# Who can read what

ATTACKER = r"""
import ctypes, json, os, socket, sys
told = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

def read(path):
    with open(path, "rb", buffering=0) as file:
        return bool(file.read(64))

def called(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return True

def memory(pid):
    address = told["addresses"][str(pid)]
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        file.seek(address)
        return bool(file.read(64))

def vm_read(pid):
    class Span(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
    here = ctypes.create_string_buffer(64)
    ours, theirs = Span(ctypes.addressof(here), 64), Span(told["addresses"][str(pid)], 64)
    return called(libc.process_vm_readv(pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0))

def attach(pid):
    called(libc.ptrace(16, pid, None, None))  # PTRACE_ATTACH
    os.waitpid(pid, 0x40000000)  # __WALL
    return called(libc.ptrace(17, pid, None, None))

def borrow(pid):
    handle = called(libc.syscall(434, pid, 0)) and libc.syscall(434, pid, 0)  # pidfd_open
    return called(libc.syscall(438, handle, 0, 0))  # pidfd_getfd: its standard input

def connect(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
    return True

def attempt(function, argument):
    try:
        return function(argument)
    except OSError:
        return False

processes = {
    "its arguments": lambda pid: read(f"/proc/{pid}/cmdline"),
    "its environment": lambda pid: read(f"/proc/{pid}/environ"),
    "its memory, by /proc": memory,
    "its memory, by process_vm_readv": vm_read,
    "a debugger": attach,
    "what its descriptors are": lambda pid: bool(os.listdir(f"/proc/{pid}/fd")) and bool(os.readlink(f"/proc/{pid}/fd/0")),
    "its descriptors, by pidfd_getfd": borrow,
}
outcomes = {f"{name}: {what}": attempt(do, pid) for name, pid in told["processes"].items() for what, do in processes.items()}
outcomes |= {name: attempt(connect if name.startswith("the socket") else read, path) for name, path in told["paths"].items()}
print(json.dumps(outcomes))
"""


def cells() -> dict[str, list[str]]:
    """The rows of security.md's table: for each thing, whether the same user, and another one, can have it."""
    part = d.read("references/security.md").partition("## Who can read what")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("| ")]
    return {what: rest for what, *rest in rows[1:]}


def an_address(pid: int) -> int:
    """Something mapped, of a process that can be looked at; for one that cannot, any number does."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/maps").read_text().partition("-")[0], 16)
    return 0x400000


@pytest.mark.parametrize("who", ["the same user", pytest.param("another user", marks=pytest.mark.root)])
def test_who_can_read_what(machine: Machine, canary: Canary, who: str) -> None:
    """Each cell of the table, tried. Root has no capabilities here: then it is a user as any other."""
    prefix, python = [], sys.executable
    if os.geteuid() == 0 and who == "the same user":
        prefix = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
        machine.command = [*prefix, AVAULT]
    machine.init_unproven(NOSTR_NSEC=HEX)
    machine("set", "a/B", input=canary.value)
    running = machine.start("run", "--as-file", "a/B", "--", "sh", "-c", 'echo $$ "$B_FILE"; exec sleep 60')
    command, file = wait_until(lambda: running.stdout)[0].split()
    status = machine.status()
    ours = {"supervisor": status["pid"], "keyholder": status["keyholder_pid"]}
    theirs = {"`avault run`": running.process.pid, "what `avault run` starts": int(command)}
    processes = ours | theirs
    paths = {
        "the socket, and so every secret": status["socket"],
        "the vault's files (ciphertext)": str(machine.vault / "avault.enc"),
        "the state directory (client key, access log)": str(state_directory(machine) / "unlock.json"),
        "a file of `avault run --as-file`": file,
    }
    addresses = {pid: an_address(pid) for pid in processes.values()}
    told = json.dumps({"processes": processes, "paths": paths, "addresses": addresses})
    if who == "another user":
        prefix, python = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], "/usr/bin/python3"
    for path in (machine.top, machine.top.parent):
        path.chmod(0o755)  # what is above is not what keeps others out
    done = subprocess.run([*prefix, python, "-c", ATTACKER, told], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    os.kill(int(command), signal.SIGKILL)
    column = ["the same user", "another user"].index(who)
    said = {what: answers[column] for what, answers in cells().items()}
    found: dict[str, set[str]] = {}
    for name, outcome in outcomes.items():
        process, _, what = name.partition(": ")
        group = "supervisor, keyholder" if process in ours else "`avault run`, and what it starts"
        found.setdefault(f"{group}: {what}" if what else name, set()).add("yes" if outcome else "no")
    with contextlib.suppress(FileNotFoundError):
        if Path("/proc/sys/kernel/yama/ptrace_scope").read_text() != "0\n":  # as the document says: then it is less
            said |= {what: "no" for what in said if re.search(r"memory|debugger|pidfd", what)}
    assert {what: "/".join(sorted(each)) for what, each in found.items()} == said
    name = "attempts to read, by the same user, that end as the table says"
    other = "attempts to read, by another user, that end as the table says"
    figures.at_least(other if column else name, len(outcomes))


# What our objects show of themselves


def test_objects_show_nothing(canary: Canary, agent: nostr_sdk.Keys) -> None:
    """In no repr, as a traceback with local variables or a log would have it; and nothing of ours packs them up."""
    text, secret = canary.value, agent.secret_key().to_hex()
    vault = avault.Vault("0" * 32, "", "", "n")
    vault.put("a", "B", text, 0, "m")
    given = avault.GivenKey(secret)
    pairing = avault.Pairing(agent, "", "", avault.public_hex(agent), [])
    unsigned = avault.Unsigned()
    unsigned.keys = agent
    injection = avault.Injection()
    injection.variables, injection.secrets = {"B": text}, {"a/B": [text]}
    patterns = avault.Patterns.of({"a/B": [text]})
    needles = avault.Needles([{"group": "a", "key": "B", "value": text, "conflicts": []}])
    frames = avault.Frames()
    frames.feed(text.encode())
    objects = [
        vault, vault.groups["a"], vault.secrets("a", "B")[0], vault.copy(), given, given.keys, agent, agent.secret_key(), pairing,
        unsigned, avault.Phone(pairing, avault.RemoteSigner.__new__(avault.RemoteSigner)), frames, injection, patterns,
        avault.Mask(patterns), needles, avault.Held([{"group": "a", "key": "B", "value": text, "conflicts": []}]),
    ]  # fmt: skip
    wanted = forms(canary.mark) | forms(secret) | forms(agent.secret_key().to_bech32())
    for each in objects:
        for shown in (repr(each), str(each), f"{each}", ascii(each)):
            assert not list(hits(shown.encode(), wanted)), type(each)
    packers = r"^\s*(?:import|from) (?:pickle|marshal|shelve|copyreg|copy|multiprocessing|logging|cgitb|faulthandler|traceback)\b"
    sources = [d.SOURCE, *(d.ROOT / "src" / "avault_extras").glob("*.py")]
    texts = {path.name: path.read_text() for path in sources}
    off = "logging.disable(logging.CRITICAL)"  # what the proxy's library would log has headers in it
    assert off in texts["proxy_engine.py"] and texts["proxy_engine.py"].replace(off, "").count("logging") == 1
    texts["proxy_engine.py"] = texts["proxy_engine.py"].replace("import logging\n", "")
    assert not [name for name, text in texts.items() if re.search(packers, text, re.MULTILINE)]
    figures.at_least("kinds of objects that hold a secret, and do not show it", len({type(each) for each in objects}))
