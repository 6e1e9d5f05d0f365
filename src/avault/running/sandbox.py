"""A command in a sandbox (Linux, bubblewrap): no network, and neither the vault nor us in sight.

    avault run -- outside -- bwrap -- (its process 1) -- inside -- the command
       |                                                   |
       '--------------------- orders ----------------------'

What starts and obeys is in the sandbox with the command (`inside`), so that keys, jobs and exit
codes are as without one. `outside` only waits: it gives the command its time when we are killed.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Unavailable, printable
from avault.places import SANDBOX
from avault.plain import write_all
from avault.running.inside import COPIED_AT_ONCE, PROXY_URL, SESSION, TYPED, inside_command
from avault.running.job import Job
from avault.running.keeper import Keeper, prctl
from avault.running.process import (
    GRACE,
    PR_SET_PDEATHSIG,
    CannotRun,
    allow_cores,
    passed_signals,
    terminal_signals,
)
from avault.running.proxy_variables import INHERITED, proxy_variables
from avault.running.sight import Sight
from avault.running.terminal_job import TerminalJob
from avault.running.terminals import is_typed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import NoReturn

    from avault.places import Places
    from avault.running.masks import Patterns

PROGRAMS = "/usr/bin:/bin:/usr/local/bin:/run/current-system/sw/bin"  # where bwrap may be
FILES = f"{SANDBOX}/files"
# root keeps capabilities in its own namespace, and could unmount what hides the vault
ISOLATED = ("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL")
LEFT_BEHIND = (  # variables that lead to what is outside
    "AVAULT_", "DBUS_", "SSH_A", "GPG_AGENT", "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_",
    "CREDENTIALS_DIRECTORY", "NOSTR_NSEC", "XDG_RUNTIME_DIR", "SESSION_MANAGER", "DISPLAY",
    "WAYLAND_", "XAUTHORITY", "TMUX", "STY", "DOCKER_HOST", "CONTAINER_HOST", "VSCODE_IPC",
    "VSCODE_GIT", "KITTY_LISTEN", "SWAYSOCK", "I3SOCK", "PULSE_", "PIPEWIRE_", "TMPDIR",
)  # fmt: skip
REMEDIES = {  # what bubblewrap says, and what helps
    "Unknown option": "it is too old: bubblewrap 0.5 or newer",
    "Can't mount proc": "in a container: it hides parts of /proc; run avault outside of it,"
    " or let the container have all of /proc",
    "namespace": "user namespaces are off: sysctl user.max_user_namespaces; a container has to"
    " allow them (Docker: its seccomp profile)",
}
APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"


def find_bubblewrap() -> str:
    """The path of bwrap(1), where the system has it; raises Unavailable."""
    if sys.platform != "linux":
        raise Unavailable("--sandbox needs Linux", "without it: avault run, in a container")
    if found := shutil.which("bwrap", path=PROGRAMS):
        return found
    raise Unavailable("--sandbox needs bubblewrap, which is not here", "apt install bubblewrap")


def own_environment(variables: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Of the caller's variables, those that lead to nothing outside the sandbox."""
    return {
        name: value
        for name, value in variables.items()
        if not os.fsdecode(name).startswith(LEFT_BEHIND)
    }


class Sandbox:
    """What one command is put into; `session` is a directory with proxy.sock and bundle.pem.

    Raises Denied, NotFound, Unavailable.
    """

    def __init__(
        self,
        places: Places,
        writable: Iterable[str] = (),
        readable: Iterable[str] = (),
        session: str | None = None,
    ) -> None:
        self.program = find_bubblewrap()
        self.sight = Sight(places, writable, readable)
        self.session = session
        self.files: dict[str, int] = {}  # what is in memory: a name, and where to read it
        self.argv: list[str] = []  # how bubblewrap is called
        self.gone, self.lasting = os.pipe()  # its end is seen when all in there has ended

    def environment(self, given: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """The command's variables: the caller's as far as they go, the proxy's, and those given."""
        found = own_environment(os.environb)
        if self.session:
            found = {name: found[name] for name in found if os.fsdecode(name) not in INHERITED}
            proxy = proxy_variables(PROXY_URL, f"{SESSION}/bundle.pem")
            found |= {name.encode(): value.encode() for name, value in proxy.items()}
        return {**found, b"PWD": os.fsencode(self.sight.here), **given}

    def add_file(self, name: str, value: str) -> str:
        """Have a value as a file in there, in memory, for the command alone; its path."""
        fd = os.memfd_create("avault")
        write_all(fd, value.encode())
        self.files[name] = fd
        return f"{FILES}/{name}"

    def arguments(self) -> list[str]:
        """The options of bwrap(1)."""
        found = [self.program, *ISOLATED, *self.sight.arguments()]
        source = os.path.realpath(__file__)
        compiled = importlib.util.cache_from_source(source)
        found += ["--ro-bind", source, f"{SANDBOX}/avault.py"]
        if os.path.exists(compiled):  # else each start takes a second longer
            name = os.path.basename(compiled)
            found += ["--ro-bind", compiled, f"{SANDBOX}/__pycache__/{name}"]
        for name, fd in self.files.items():
            os.lseek(fd, 0, os.SEEK_SET)
            found += ["--perms", "0400", "--file", str(fd), f"{FILES}/{name}"]
        if self.session:
            found += ["--ro-bind", self.session, SESSION]
        found += ["--sync-fd", str(self.lasting), "--chdir", self.sight.here]
        return found

    def kept(self) -> list[int]:
        """Descriptors that bubblewrap reads or holds."""
        return [self.lasting, *self.files.values()]

    def explain(self) -> Unavailable:
        """Why there is no sandbox: what bubblewrap says when it is to do nothing in one."""
        try:
            done = subprocess.run(
                [*self.argv, "--", "/usr/bin/env", "true"],
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                pass_fds=self.kept(),
                timeout=30,
                env={},
            )
            words = done.stderr.decode(errors="replace").strip().removeprefix("bwrap: ")
        except subprocess.TimeoutExpired:
            words = "bubblewrap does not start"
        said = printable(words, 300)
        hint = next((hint for part, hint in REMEDIES.items() if part in said), None)
        with contextlib.suppress(OSError), open(APPARMOR, encoding="ascii") as file:
            if file.read().strip() == "1":
                hint = "AppArmor keeps bwrap from it: references/sandbox.md has a profile"
        return Unavailable(
            f"no sandbox here: {said or 'it ended at once'}",
            hint or "a command is never run without one where --sandbox is given",
        )

    def end(self, keeper: int | None) -> None:
        """Wait until all in there has ended; what bubblewrap had to make outside is removed.

        Whoever has taken over the parent in there may report an end, and stay: then `keeper`, the
        process outside, is killed, and with it bubblewrap and all that it holds.
        """
        os.close(self.lasting)
        if not select.select([self.gone], [], [], 2 * GRACE + 1)[0] and keeper:
            with contextlib.suppress(ProcessLookupError):
                os.kill(keeper, signal.SIGKILL)
            select.select([self.gone], [], [], 2 * GRACE)
        self.sight.end()

    def job(self, command: list[str], environment: dict[bytes, bytes], patterns: Patterns) -> Job:
        """The command in it, on a terminal of its own where stdout is one."""
        kind = SandboxedTerminalJob if os.isatty(1) else SandboxedJob
        self.argv = self.arguments()
        found = kind(command, environment, patterns)
        found.sandbox = self
        return found


class Outside(Keeper):
    """The process that starts bubblewrap, and waits for its end; when we are killed, not for long.

    It is in a session of its own, so that nothing in there has our terminal.
    """

    sandbox: Sandbox
    has_terminal = False

    def lead(self, stdout: int, stderr: int, foreground: bool) -> NoReturn:
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (*passed_signals(), signal.SIGCHLD):
                if number == signal.SIGCHLD or signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, signal.SIG_DFL)
            watched = {signal.SIGCHLD, signal.SIGTERM}
            signal.pthread_sigmask(signal.SIG_BLOCK, watched)
            prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            pid = os.fork()
            if pid == 0:
                self.become_sandbox(stdout, stderr, foreground, watched)
            self.orders.close()
            for fd in self.sandbox.kept():
                os.close(fd)
            self.close(stdout, stderr)
            while signal.sigwait(watched) == signal.SIGCHLD:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    os._exit(0)
            # Its own parent in there sees that nobody gives orders any more, and ends it.
            end = time.monotonic() + 2 * GRACE + 1
            while not os.waitpid(pid, os.WNOHANG)[0] and time.monotonic() < end:
                signal.sigtimedwait({signal.SIGCHLD}, 1)
        finally:
            os._exit(0)

    def become_sandbox(
        self, stdout: int, stderr: int, foreground: bool, blocked: set[signal.Signals]
    ) -> NoReturn:
        """Execute bubblewrap in our place, with nothing open that it need not have."""
        try:
            if self.has_terminal and os.isatty(0):
                os.dup2(stdout, 0)  # so that our own terminal is nowhere in there
            elif stat.S_ISREG(os.fstat(0).st_mode):
                self.feed_stdin()
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            flags = "t" * self.has_terminal + "f" * foreground + "p" * bool(self.sandbox.session)
            given = self.open_given()
            words = inside_command(self.orders.fileno(), given, flags, self.command)
            argv = [*self.sandbox.argv, "--", *words]
            kept = sorted({self.orders.fileno(), given, *self.sandbox.kept()})
            # not the limit, below which what was open before it was lowered is not
            last = max(map(int, os.listdir("/proc/self/fd")))
            for begin, end in zip([2, *kept], [*kept, last + 1], strict=True):
                os.closerange(begin + 1, end)
            for fd in kept:
                os.set_inheritable(fd, True)
            allow_cores()
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
            os.execve(argv[0], argv, {})  # noqa: S606
        finally:
            os._exit(127)

    def open_given(self) -> int:
        """What is bound, and the command's variables, in memory, to be read in the sandbox.

        bubblewrap starts outside: a variable like LD_PRELOAD must not be one of its own.
        """
        fd = os.memfd_create("avault")
        pairs = (name + b"=" + value for name, value in self.environment.items())
        bound = json.dumps(self.sandbox.sight.bound).encode()
        write_all(fd, bound + b"\n" + b"\0".join(pairs))
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def feed_stdin(self) -> None:
        """Have a pipe for stdin, and a process that copies the file into it.

        Whoever has the file itself, only to read, can open it to write (/proc/self/fd/0).
        """
        source, sink = os.pipe()
        if os.fork():
            os.dup2(source, 0)
            os.close(source)
            os.close(sink)
            return
        try:
            os.dup2(sink, 1)
            os.closerange(2, max(map(int, os.listdir("/proc/self/fd"))) + 1)
            while data := os.read(0, COPIED_AT_ONCE):
                write_all(1, data)
        finally:
            os._exit(0)


class InSandbox(Job):
    """What is different for a job whose command is in a sandbox."""

    sandbox: Sandbox

    def make_keeper(self) -> Keeper:
        keeper = Outside(self.keeper_end, self.command, self.environment)
        keeper.sandbox = self.sandbox
        keeper.has_terminal = isinstance(self, TerminalJob)
        return keeper

    def start_keeper(self, keeper: Keeper, stdout: int, stderr: int, foreground: bool) -> None:
        try:
            super().start_keeper(keeper, stdout, stderr, foreground)
        except CannotRun as error:
            if error.exit_code == 127:
                error.hint = "is it in the sandbox? What lies elsewhere: --bind-ro DIR"
            elif os.strerror(errno.ESTALE) in str(error):
                error.hint = "what was to be bound has been replaced meanwhile: run it again"
            raise
        except AvaultError:
            raise self.sandbox.explain() from None

    def forward(self, number: int, frame: object) -> None:
        """Pass a signal on: no key has sent it to the command, which is in another session."""
        if number in terminal_signals():
            super().forward(number, frame)
        elif is_typed(number) and not isinstance(self, TerminalJob):
            self.order(TYPED + number)
        else:
            self.order(number)

    def run(self) -> int:
        """As always; but the sandbox ends with the command, and all that it has started there."""
        try:
            return super().run()
        finally:
            self.orders.close()
            self.sandbox.end(self.keeper)

    def leave_behind(self) -> None:
        """Nothing is left that could still write."""


class SandboxedJob(InSandbox, Job):
    """A command in a sandbox, on pipes."""


class SandboxedTerminalJob(InSandbox, TerminalJob):
    """A command in a sandbox, on a terminal of its own."""
