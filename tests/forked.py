"""Commands of avault, without the start of a Python for each: a process has avault imported, and forks for a command.

That runs the installed avault.py from where the installed script has imported it, with an environment, a directory and
descriptors of its own. What a Python reads when it starts, and who it is to others, is as it was: what is about that is for
the command itself. Files whose tests may have it say so: `usefixtures("forks")`, and a test of theirs that may not has the mark
`starts`. A daemon that such a command starts is forked from it, and so are the processes of avault's own that this starts; other
programs are started as ever.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

READ_AT_START = ("LANG", "LC_", "PYTHON")


def of_start(env: dict[str, str]) -> dict[str, str]:
    """The variables that a Python reads when it starts."""
    return {name: value for name, value in env.items() if name.startswith(READ_AT_START)}


class Forked:
    """The process, as tests have it."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.lock, self.start = threading.Lock(), of_start(dict(os.environ))
        with theirs:
            command = [sys.executable, "-P", __file__, str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        atexit.register(self.end)

    def run(
        self, argv: list[str], env: dict[str, str], cwd: Path, input: bytes | socket.socket, timeout: float
    ) -> subprocess.CompletedProcess[bytes]:
        """What subprocess.run gives for a command whose output is captured; `input` is what it reads, or its stdin."""
        answer, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)  # two words, each by itself
        pipes = [os.pipe() for _ in range(3)]
        (its_in, our_in), (our_out, its_out), (our_err, its_err) = pipes
        given = b"" if isinstance(input, socket.socket) else input
        if isinstance(input, socket.socket):
            os.dup2(input.fileno(), its_in, inheritable=False)
        its = [its_in, its_out, its_err, theirs.detach()]
        with tempfile.TemporaryFile(dir="/tmp") as request, answer:
            request.write(json.dumps({"argv": argv, "env": env, "cwd": str(cwd)}).encode())
            request.flush()
            with self.lock:
                socket.send_fds(self.socket, [b"."], [*its, request.fileno()])
            for fd in its:
                os.close(fd)
            pid = int(answer.recv(64))
            found: dict[int, bytes] = {}
            threads = [start(give, our_in, given), start(take, our_out, found), start(take, our_err, found)]
            answer.settimeout(timeout)
            try:
                code = int(answer.recv(64))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(argv, timeout) from None
            for thread in threads:
                thread.join(timeout)
                if thread.is_alive():  # somebody else holds the pipe
                    raise subprocess.TimeoutExpired(argv, timeout)
        return subprocess.CompletedProcess(argv, code, found[our_out], found[our_err])

    def end(self) -> None:
        self.socket.close()
        self.process.wait(10)


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
    with mock.patch("subprocess._fork_exec", fork_or_exec):
        become(request["argv"], request["env"], request["cwd"])


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
    if words[: len(own)] != own or (*words, "")[len(own)] not in ("supervisor", "keyholder", "custodian", "trial"):
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

    import avault  # noqa: F401

    with socket.socket(fileno=int(sys.argv[1])) as control:
        serve(control)
