"""Commands of avault, without the start of a Python for each: a process has avault imported, and forks for a command.

That runs the installed avault.py from where the installed script has imported it, with an environment, a directory and
descriptors of its own. What a Python reads when it starts, and who it is to others, is as it was: what is about that is for
the command itself. Files whose tests may have it say so: `usefixtures("forks")`, and a test of theirs that may not has the mark
`starts`. A daemon that such a command starts is forked from it, and so are the processes of avault's own that this starts; other
programs are started as ever. The peers that are written in Python (peers/) are forked from it too: each is a script of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn
from unittest import mock

READ_AT_START = ("LANG", "LC_", "PYTHON")


def of_start(env: dict[str, str]) -> dict[str, str]:
    """The variables that a Python reads when it starts."""
    return {name: value for name, value in env.items() if name.startswith(READ_AT_START)}


class Child:
    """A forked command, with what the tests use of subprocess.Popen."""

    stdin: IO[str]
    stdout: IO[str]
    stderr: IO[str]

    def __init__(self, argv: list[str], pid: int, answer: socket.socket) -> None:
        self.args, self.pid, self.answer = argv, pid, answer
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.answer.settimeout(timeout)
            try:
                self.returncode = int(self.answer.recv(64))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self.answer.close()
        return self.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forked:
    """The process, as tests have it."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.lock, self.start = threading.Lock(), of_start(dict(os.environ))
        with theirs:
            command = [sys.executable, "-P", __file__, str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        atexit.register(self.end)

    def fork(self, argv: list[str], env: dict[str, str], cwd: Path, fds: list[int], script: Path | None = None) -> Child:
        """A command, or a script, with those descriptors as stdin, stdout and stderr; they are closed here."""
        answer, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)  # two words, each by itself
        its = [*fds, theirs.detach()]
        request = {"argv": argv, "env": env, "cwd": str(cwd), "script": script and str(script)}
        with tempfile.TemporaryFile(dir="/tmp") as file:
            file.write(json.dumps(request).encode())
            file.flush()
            with self.lock:
                socket.send_fds(self.socket, [b"."], [*its, file.fileno()])
        for fd in its:
            os.close(fd)
        return Child(argv, int(answer.recv(64)), answer)

    def begin(
        self, argv: list[str], env: dict[str, str], cwd: Path, stderr: int | None = None, script: Path | None = None
    ) -> Child:
        """As Popen with pipes of text; `stderr` may be a descriptor."""
        (its_in, our_in), (our_out, its_out) = os.pipe(), os.pipe()
        our_err, its_err = os.pipe() if stderr is None else (os.open(os.devnull, os.O_RDONLY), os.dup(stderr))
        child = self.fork(argv, env, cwd, [its_in, its_out, its_err], script)
        pipes = ((our_in, "w"), (our_out, "r"), (our_err, "r"))
        child.stdin, child.stdout, child.stderr = (open(fd, mode, encoding="utf-8") for fd, mode in pipes)
        return child

    def run(
        self, argv: list[str], env: dict[str, str], cwd: Path, input: bytes | socket.socket, timeout: float
    ) -> subprocess.CompletedProcess[bytes]:
        """What subprocess.run gives for a command whose output is captured; `input` is what it reads, or its stdin."""
        pipes = [os.pipe() for _ in range(3)]
        (its_in, our_in), (our_out, its_out), (our_err, its_err) = pipes
        given = b"" if isinstance(input, socket.socket) else input
        if isinstance(input, socket.socket):
            os.dup2(input.fileno(), its_in, inheritable=False)
        child = self.fork(argv, env, cwd, [its_in, its_out, its_err])
        found: dict[int, bytes] = {}
        threads = [start(give, our_in, given), start(take, our_out, found), start(take, our_err, found)]
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
        for thread in threads:
            thread.join(timeout)
            if thread.is_alive():  # somebody else holds the pipe
                raise subprocess.TimeoutExpired(argv, timeout)
        return subprocess.CompletedProcess(argv, code, found[our_out], found[our_err])

    def end(self) -> None:
        self.socket.close()
        self.process.wait(10)


@functools.cache
def forked() -> Forked:
    """The process that forks for this one; made when it is first wanted."""
    return Forked()


def start(work: Callable[..., None], *given: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=given, daemon=True)
    thread.start()
    return thread


def give(fd: int, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), open(fd, "wb", buffering=0) as pipe:
        while data:
            data = data[pipe.write(data) :]


def take(fd: int, found: dict[int, bytes]) -> None:
    with open(fd, "rb") as pipe:
        found[fd] = pipe.read()


# The process


def serve(control: socket.socket) -> None:
    """Fork for each request; say the process's number, and its exit code as subprocess has it."""
    answers: dict[int, socket.socket] = {}
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if control in ready:
            data, fds, _, _ = socket.recv_fds(control, 1, 5)
            if not data:
                return
            if (pid := os.fork()) == 0:
                for each in (control, woken, waker, *answers.values()):
                    each.close()
                work(fds)
            answers[pid] = socket.socket(fileno=fds.pop(3))
            answers[pid].sendall(str(pid).encode())
            for fd in fds:
                os.close(fd)
        if woken in ready:
            woken.recv(4096)
            with contextlib.suppress(ChildProcessError):
                while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                    with answers.pop(ended[0]) as answer, contextlib.suppress(OSError):
                        answer.sendall(str(os.waitstatus_to_exitcode(ended[1])).encode())


def work(fds: list[int]) -> NoReturn:
    """Be the command: as its script, once that has imported avault."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with open(fds[4], "rb") as file:
        file.seek(0)
        request = json.loads(file.read())
    os.close(fds[3])
    for number, fd in enumerate(fds[:3]):
        os.dup2(fd, number)
        os.close(fd)
    if request["script"]:
        become_script(request["script"], request["argv"], request["env"], request["cwd"])
    with mock.patch("subprocess._fork_exec", fork_or_exec):
        become(request["argv"], request["env"], request["cwd"])


def become_script(path: str, argv: list[str], env: dict[str, str], cwd: str) -> NoReturn:
    """Be a Python that runs that script."""
    try:
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        sys.argv, sys.path[:0] = argv, [str(Path(path).parent)]
        runpy.run_path(path, run_name="__main__")
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(1)


def become(argv: list[str], env: dict[str, str], cwd: str) -> NoReturn:
    """Be avault with that command line, from its first line to the end of the process."""
    import avault

    code: Any = 1
    try:
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        sys.argv = argv
        avault.enter()
        avault.main()
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


# What a process forks, to which subprocess gives what it gives to execve(2)


def fork_or_exec(argv: list[str], programs: Any, *given: Any) -> int:
    """In place of subprocess's own: the process id of avault's daemon, forked, or of another program."""
    import avault

    words = [os.fsdecode(word) for word in argv]
    own = avault.own_command()
    if words[: len(own)] != own or (*words, "")[len(own)] not in ("supervisor", "keyholder", "custodian", "trial", "git"):
        return exec_program(argv, programs, *given)
    _, kept, cwd, env, its_in, _, _, its_out, _, its_err, _, told, _, is_session, *_ = given
    if pid := os.fork():
        return pid
    try:
        gc.freeze()  # what the parent has open is closed once, and by number: the numbers have new owners here
        atexit._clear()
        asyncio._set_running_loop(None)
        forget_signals()
        if is_session:
            os.setsid()
        for number, fd in enumerate((its_in, its_out, its_err)):
            if fd != -1:
                os.dup2(fd, number)
        below = 3
        for fd in [*sorted(set(kept) - {told}), os.sysconf("SC_OPEN_MAX")]:
            os.closerange(below, fd)
            below = fd + 1
        sys.stdin, sys.stdout, sys.stderr = (open(fd, mode, closefd=False) for fd, mode in enumerate("rww"))
        names = (entry.partition(b"=") for entry in env)
        become(["-c", *words[len(own) :]], {os.fsdecode(name): os.fsdecode(value) for name, _, value in names}, cwd or ".")
    finally:
        os._exit(70)


def forget_signals() -> None:
    """As after execve(2), and the start of a Python."""
    signal.set_wakeup_fd(-1)
    for each in signal.valid_signals():
        if callable(signal.getsignal(each)):
            signal.signal(each, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


exec_program = subprocess._fork_exec  # type: ignore[attr-defined]

if __name__ == "__main__":
    import click  # noqa: F401  what commands import, once
    import nostr_sdk  # noqa: F401
    import websockets.asyncio.client
    import websockets.asyncio.server  # noqa: F401  what peers import

    import avault  # noqa: F401

    with socket.socket(fileno=int(sys.argv[1])) as control:
        serve(control)
