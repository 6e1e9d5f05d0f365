"""avault as people run it: the installed command, on a machine with a home of its own, and the operator's hand.

    machine = Machine(place.top)                    # or Machine(place.top / "b", vault=…) for a second computer
    machine.init_unproven()                         # open at once, without a phone
    machine("set", "openai/API_KEY", input=canary.value)
    machine.init(relay.url, phone=ndk([relay.url])) # through a signer: pairing, approval, drill

Everything that a command prints is recorded for the canary search, unless `secret=True` says that it is to carry a value.
Machines end their daemons when the test ends (fixture `machine`, or `with`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from unittest import mock

import nostr_sdk
from canary import record
from forked import forked, of_start
from peers import Phone, Signer

import avault

AVAULT = str(Path(sys.executable).parent / "avault")
SOURCE = Path(__file__).resolve().parents[2] / "avault.py"


def imported_avault(directory: Path) -> list[str]:
    """The command that is the avault.py there, imported as what is installed is: a script would be compiled each time."""
    program = "AVAULT_COMMAND = True; import sys; sys.path.insert(0, sys.argv.pop(1)); import avault; avault.main()"
    return [sys.executable, "-P", "-c", program, str(directory)]


def wait_until(condition: Callable[[], Any], timeout: float = 60, what: str = "", every: float = 0.02) -> Any:
    """What `condition` gives as soon as it is true; fails the test when it does not come true.

    One that starts a program is asked less often, so that the wait itself takes nothing from what is waited for.
    """
    end = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < end, f"not in {timeout} s: {what or condition}"
        time.sleep(every)
    return found


class Done(subprocess.CompletedProcess):  # type: ignore[type-arg]
    """A command that ended: returncode, stdout and stderr as text."""

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


class Running:
    """A command under way; `stdout` and `stderr` are lists of lines that grow."""

    def __init__(self, argv: list[str], env: dict[str, str], cwd: Path, input: str | None, may_fork: bool) -> None:
        self.argv = argv
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process: Any = (
            forked().begin(argv, env, cwd) if may_fork else subprocess.Popen(argv, env=env, cwd=cwd, text=True, **pipes)
        )
        assert self.process.stdin
        if input is not None:
            self.process.stdin.write(input)
        self.process.stdin.close()
        self.threads = [
            threading.Thread(target=self._read, args=(pipe, lines), daemon=True)
            for pipe, lines in ((self.process.stdout, self.stdout), (self.process.stderr, self.stderr))
        ]
        for thread in self.threads:
            thread.start()

    def _read(self, pipe: Any, lines: list[str]) -> None:
        for line in pipe:
            lines.append(line.rstrip("\n"))  # noqa: PERF401  as they come
        pipe.close()

    def line(self, start: str, timeout: float = 60) -> str:
        """The first line on stdout or stderr that begins so."""

        def find() -> str | None:
            return next((line for line in [*self.stdout, *self.stderr] if line.startswith(start)), None)

        wait_until(lambda: find() or not any(thread.is_alive() for thread in self.threads), timeout, f"a line {start!r}")
        if line := find():
            return line
        raise AssertionError(f"no line {start!r} from {self.argv}: {self.stdout} {self.stderr}")

    def wait(self, timeout: float = 60) -> Done:
        """The command when it has ended."""
        code = self.process.wait(timeout)
        for thread in self.threads:
            thread.join(60)
        done = Done(self.argv, code, "\n".join(self.stdout), "\n".join(self.stderr))
        record(" ".join(self.argv), done.stdout + "\n" + done.stderr)
        return done

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


class Machine:
    """A computer: home, state and runtime directories below `top`, and a vault directory (default: ~/clawd/.avault)."""

    may_fork = False  # whether a command may come from `forked`, where it makes no difference; see the fixture `forks`

    def __init__(self, top: Path, vault: Path | None = None, command: list[str] | None = None) -> None:
        self.top, self.command = top, command or [AVAULT]
        self.home, self.state, self.runtime = top / "home", top / "state", top / "run"
        for directory in (self.home, self.state, self.runtime):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.vault = vault or self.home / "clawd" / ".avault"
        self.env = {**os.environ, "HOME": str(self.home), "XDG_STATE_HOME": str(self.state), "XDG_RUNTIME_DIR": str(self.runtime)}
        usable = [place for place in os.environ["PATH"].split(":") if os.access(place, os.X_OK)]  # not root's, of another user
        self.env["PATH"] = ":".join([str(Path(AVAULT).parent), *usable])  # as for who has installed it
        if vault:
            self.env["AVAULT_DIR"] = str(vault)
        self.running: list[Running] = []
        self.is_person = True
        self.operator = nostr_sdk.Keys.generate()

    def __call__(
        self,
        *words: str,
        input: str | bytes | None = "",
        code: int | None = 0,
        secret: bool = False,
        timeout: float = 300,
        **env: str,
    ) -> Done:
        """Run avault; the exit code must be `code` (None: any).

        There is no terminal, so that avault takes it for a program's; but `unlock` is typed by a person here, who waits for no
        pause. A program's is `as_program`.
        """
        self.end_pause(words)
        argv = [*self.command, *words]
        data = input.encode() if isinstance(input, str) else input
        env = {**self.env, **env}
        if data is not None and self.can_fork(words, env):
            ended = forked().run(argv, env, self.top, data, timeout)
        else:
            ended = subprocess.run(argv, check=False, env=env, cwd=self.top, input=data, capture_output=True, timeout=timeout)
        done = Done(argv, ended.returncode, ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace"))
        record(" ".join(words[:2]), done.stderr if secret else done.stdout + done.stderr)
        assert code is None or done.returncode == code, (
            f"{argv} gave {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
        assert "Traceback" not in done.stderr
        return done

    def can_fork(self, words: tuple[str, ...], env: dict[str, str]) -> bool:
        """Whether it makes no difference how the command starts. `run` is about processes."""
        is_plain = self.command == [AVAULT] and "run" not in words
        return self.may_fork and is_plain and of_start(env) == forked().start

    def start(self, *words: str, input: str | None = None, **env: str) -> Running:
        """Start avault and go on; `unlock` is a person's, as above."""
        self.end_pause(words)
        env = {**self.env, **env}
        running = Running([*self.command, *words], env, self.top, input, self.can_fork(words, env))
        self.running.append(running)
        return running

    def end_pause(self, words: tuple[str, ...]) -> None:
        """Before an `unlock`, as if a person had typed it: what was in vain before is forgotten."""
        if self.is_person and words[:1] == ("unlock",):
            for path in (self.state / "avault").glob("*/pauses.json"):
                path.unlink()

    def as_program(self, *words: str, **settings: Any) -> Done:
        """Run avault as a program that asks on its own."""
        self.is_person = False
        try:
            return self(*words, **settings)
        finally:
            self.is_person = True

    def status(self) -> dict[str, Any]:
        """What `avault status --json` prints, whatever its exit code."""
        if status := self.look():
            record("status", json.dumps(status))
            return status
        return dict(self("status", "--json", code=None).json)

    def look(self) -> dict[str, Any] | None:
        """The same without a process for it; None where the command is not the installed one, or has only an error to say."""
        with mock.patch.dict(os.environ, self.env, clear=True), contextlib.suppress(avault.AvaultError):
            return {"ok": True, **avault.look(avault.Places())} if self.command == [AVAULT] else None
        return None

    def wait_state(self, state: str, timeout: float = 60) -> dict[str, Any]:
        """The status, once it has that state."""
        return dict(wait_until(lambda: (now := self.status())["state"] == state and now, timeout, f"state {state}"))

    @property
    def own(self) -> Path:
        """This vault's state directory."""
        return self.state / "avault" / self.status()["vault_id"]

    def npub(self) -> str:
        """The operator's npub, where this machine plays the operator (init_unproven)."""
        return str(self.operator.public_key().to_bech32())

    def init_unproven(self, *words: str, **env: str) -> None:
        """A vault without a phone: open, not proven, not paired."""
        self("init", "--signer-npub", self.npub(), "--name", "test@machine", *words, **env)

    def init_proven(self) -> None:
        """A vault as if the phone had opened it on this machine; open. Nobody is asked; `self.nsec` opens it again."""
        self.nsec = nsec = str(nostr_sdk.Keys.generate().secret_key().to_bech32())
        self.init_unproven(NOSTR_NSEC=nsec)
        self("daemon", "stop", "--force")
        path = self.own / "unlock.json"
        content = avault.decode_file("unlock", path.read_bytes(), str(path))
        path.write_bytes(avault.encode_file("unlock", {**content, "proven": "2026-01-31T12:00:00Z"}))
        self("daemon", "start", "-b", NOSTR_NSEC=nsec)
        self.wait_state("unlocked")

    def init(self, *relays: str, phone: Phone, words: tuple[str, ...] = ()) -> Done:
        """A vault through a signer, which scans the URI, approves and then rejects in the drill."""
        options = [word for url in relays for word in ("--relay", url)]
        return self.operate(self.start("init", "--yes", "--name", "test@machine", *options, *words), phone)

    def reboot(self, phone: Signer) -> int:
        """End the daemon and start it, as a boot does: the vault opens, and nobody was asked. How often the phone ever was."""
        asked = len(phone.requests("nip44_decrypt"))
        self("daemon", "stop")
        self("daemon", "start", "-b")
        self.wait_state("unlocked")
        assert len(phone.requests("nip44_decrypt")) == asked
        return asked

    def operate(self, running: Running, phone: Phone, scan: bool = True, code: int = 0) -> Done:
        """Be the operator of a pairing command: scan, approve, reject. Ends with the phone asking."""
        phone.policy("ask")
        if scan:
            phone.nostrconnect(running.line("nostrconnect://"))
        running.line("avault: 1. APPROVE")
        phone.answer(phone.wait_for("ask")["id"], True)
        if "--no-drill" not in running.argv:
            running.line("avault: 2. a drill")
            phone.answer(phone.wait_for("ask")["id"], False)
        done = running.wait()
        assert done.returncode == code, done.stderr
        return done

    def end(self) -> None:
        """End what runs here, whatever its state."""
        for running in self.running:
            running.kill()
        if (status := self.look()) and status["pid"]:  # as a service manager would, which costs less than asking
            with contextlib.suppress(ProcessLookupError, AssertionError):
                os.kill(status["pid"], signal.SIGTERM)
                wait_until(lambda: (now := self.look()) and now["state"] == "stopped", 5)
        for _ in range(3):
            status = self.look() or json.loads(
                subprocess.run([*self.command, "status", "--json"], check=False, env=self.env, capture_output=True).stdout
            )
            if status["state"] == "stopped":
                return
            subprocess.run(
                [*self.command, "daemon", "stop", "--force"], check=False, env=self.env, capture_output=True, timeout=60
            )
        for pid in (status["keyholder_pid"], status["pid"]):
            if pid:
                os.kill(pid, signal.SIGKILL)
        raise AssertionError("the daemon did not stop")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class Shelf:
    """Machines that tests have left as they were, for the next one that wants the same: to make a vault takes a second."""

    def __init__(self) -> None:
        self.kept: dict[Callable[..., None], tuple[Machine, tuple[Any, ...], Any]] = {}

    @contextlib.contextmanager
    def lend(self, top: Path, prepare: Callable[..., None], *given: Any) -> Iterator[Machine]:
        """A machine on which `prepare` has been called with that, and for which `top` is the directory that commands run in."""
        machine, before_given, before = self.kept.pop(prepare, (None, given, None))
        if machine and before_given != given:  # as another port of a server that the module has begun anew
            machine.end()
            machine = before = None
        machine = machine or Machine(top)
        is_same = False
        try:
            if before is None:
                prepare(machine, *given)
                before = describe(machine)
            machine.top = top
            yield machine
            for running in machine.running:
                running.kill()
            machine.running.clear()
            is_same = describe(machine) == before
        finally:
            if is_same:
                self.kept[prepare] = machine, given, before
            else:
                machine.end()

    def end(self) -> None:
        """End them all."""
        for machine, _, _ in self.kept.values():
            machine.end()


def find_processes(word: str, where: Path) -> list[int]:
    """Those with that word among their arguments, and with one that names the directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if word.encode() in words and any(os.fsencode(where) in each for each in words):
                found.append(int(path.parent.name))
    return found


def children_of(pid: int) -> list[int]:
    """The processes that one has started."""
    found = []
    for each in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended
            found += [int(word) for word in each.read_text().split()]
    return found


def name_children(pid: int) -> dict[str, int]:
    """The same by their names, each of which is of one."""
    found = {}
    for each in children_of(pid):
        with contextlib.suppress(OSError):  # as git's, which have ended meanwhile
            found[Path(f"/proc/{each}/comm").read_text().strip()] = each
    return found


def daemon_processes(machine: Machine, name: str) -> list[int]:
    """Those that the machine's daemon has started, by the beginning of their name: other tests' run beside them."""
    found, seen = [], [machine.status()["pid"]]
    for pid in seen:
        with contextlib.suppress(OSError):
            seen += children_of(pid)
            found += [pid] if Path(f"/proc/{pid}/comm").read_text().startswith(name) else []
    return found


def files_below(*places: Path) -> Iterator[Path]:
    """All that is there, directories too; what goes meanwhile is left out, which Path.rglob takes for an error."""
    for place in places:
        for directory, names, others in os.walk(place):
            yield from (Path(directory, name) for name in (*names, *others))


def files_with(text: str, *places: Path) -> list[Path]:
    """The files in which that stands."""
    found = []
    for path in files_below(*places):
        with contextlib.suppress(FileNotFoundError):
            found += [path] if stat.S_ISREG(path.lstat().st_mode) and text.encode() in path.read_bytes() else []
    return found


def describe(machine: Machine) -> Any:
    """What a test may have changed: files, but for logs; what the daemon says of itself; and how the machine is used."""
    files = {}
    for path in files_below(machine.home, machine.state, machine.runtime):
        with contextlib.suppress(FileNotFoundError):  # one that is written beside, and takes another's place
            about = path.lstat()
            is_log = path.name.startswith(("access.log", "refused.log", "log.json"))
            data = path.read_bytes() if stat.S_ISREG(about.st_mode) and not is_log else None
            files[path] = about.st_mode, data
    status = machine.status()
    said = {name: status[name] for name in ("state", "keyholder_pid", "since", "locks_after", "locks_idle", "warnings", "git")}
    return files, said, dict(machine.env), list(machine.command), machine.may_fork


ON_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(1, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"


class Screen:
    """A terminal, and a command in a session of its own on it: what it shows, and keys for it."""

    def __init__(self, machine: Machine, *argv: str, lines: int = 24, columns: int = 80, **env: str) -> None:
        self.fd, end = os.openpty()
        self.resize(lines, columns)
        self.modes = termios.tcgetattr(end)
        self.shown, self.seen, self.is_closed = bytearray(), 0, False
        variables = {**machine.env, "TERM": "xterm", "PS1": "$ ", "HISTFILE": "", "AVAULT": AVAULT, **env}
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_TERMINAL, *argv],
            env=variables,
            cwd=machine.top,
            stdin=end,
            stdout=end,
            stderr=end,
            start_new_session=True,
        )
        os.close(end)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self) -> None:
        with contextlib.suppress(OSError):
            while not self.is_closed:
                if select.select([self.fd], [], [], 0.05)[0]:
                    self.shown += os.read(self.fd, 65536)

    def close(self) -> None:
        """The terminal goes away."""
        self.is_closed = True
        self.thread.join()
        os.close(self.fd)

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def expect(self, pattern: str, timeout: float = 60) -> re.Match[bytes]:
        """Wait until that is shown, after what was expected before."""
        end = time.monotonic() + timeout
        while not (found := re.compile(pattern.encode(), re.DOTALL).search(bytes(self.shown), self.seen)):
            assert time.monotonic() < end, f"no {pattern!r} in {bytes(self.shown[self.seen :])!r}"
            time.sleep(0.01)
        self.seen = found.end()
        return found

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def wait(self, code: int | None = 0) -> bytes:
        """The command ends; all that was shown."""
        ended = self.process.wait(60)
        assert code is None or ended == code, (ended, bytes(self.shown))
        self.thread.join(60)  # the end of the screen
        return bytes(self.shown)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        record("screen", bytes(self.shown))
        if not self.is_closed:
            self.close()  # a shell ends its jobs, and itself
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.process.kill()
        self.process.wait()


def machines(top: Path, *names: str) -> Iterator[Machine]:
    """Machines with those names, below `top`."""
    for name in names:
        yield Machine(top / name)
