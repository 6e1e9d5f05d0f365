"""The process in front of a command in a sandbox: its parent there, and its way to the proxy.

Started by bubblewrap with this file and Python's standard library, and nothing else of ours. The
command runs as the same user beside it, and may end it or take it over: it has no more than the
command has.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING

from avault.places import SANDBOX
from avault.running.keeper import FAILED, Keeper, prctl
from avault.running.process import PR_SET_PDEATHSIG
from avault.running.terminal_job import Leader

if TYPE_CHECKING:
    from typing import NoReturn

PROXY_PORT = (
    61080  # of the proxy in there, where no other port is taken; above what kernels give out
)
PROXY_URL = f"http://127.0.0.1:{PROXY_PORT}"
TYPED = 192  # added to a signal that keys have sent
SESSION = f"{SANDBOX}/session"
COPIED_AT_ONCE = 1 << 16  # bytes copied at once


class GroupKeeper(Keeper):
    """The parent of a command on pipes: it has a process group, as in another session no key does.

    What keys have sent goes to all of it, and so does that it is to go on.
    """

    def enter(self, foreground: bool) -> None:
        os.setpgid(0, 0)

    def obey(self, order: int) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                if order > TYPED or order == signal.SIGCONT:
                    os.killpg(self.pid, order % TYPED)
                else:
                    os.kill(self.pid, order)


class ScreenKeeper(Leader):
    """The leader of the command's session, which is in the sandbox with it."""

    def close(self, stdout: int, stderr: int) -> None:
        super().close(stdout, stderr)
        let_go_of(0)


def let_go_of(*descriptors: int) -> None:
    """Put nothing in the place of descriptors that others are to see the end of."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in descriptors:
        os.dup2(null, fd)
    os.close(null)


def main_inside(argv: list[str]) -> NoReturn:
    """Start a command and obey: the descriptors of orders and of variables, flags, the command.

    The flags: whether it has a terminal (t), is in its foreground (f), and has a proxy (p).
    """
    orders, given, flags, *command = argv
    own = socket.socket(fileno=int(orders))
    own.set_inheritable(False)
    with open(int(given), "rb") as file:
        bound = json.loads(file.readline())
        pairs = (pair.partition(b"=") for pair in file.read().split(b"\0") if pair)
        environment = {name: value for name, _, value in pairs if name}
    if not all(is_still(path, *identity) for path, identity in bound.items()):
        own.send(bytes((FAILED, errno.ESTALE)))
        os._exit(1)
    if "p" in flags:
        start_forwarder(own)
    out, errors = os.dup(1), os.dup(2)
    if "t" in flags and os.isatty(2) and os.fstat(1).st_rdev == os.fstat(2).st_rdev:
        os.close(errors)
        errors = out
    let_go_of(1, 2)
    kind = ScreenKeeper if "t" in flags else GroupKeeper
    kind(own, command, environment).lead(out, errors, "f" in flags)


def is_still(path: str, device: int, inode: int) -> bool:
    """Whether that file is at a path (stat(2)): what was looked at outside is what is bound."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (device, inode)


def start_forwarder(
    orders: socket.socket | None = None,
    port: int = PROXY_PORT,
    path: str = f"{SESSION}/proxy.sock",
) -> int:
    """Listen where clients look for the proxy, and fork the process that passes them on: the port.

    It ends with us.
    """
    listener = socket.create_server(("127.0.0.1", port), backlog=256)
    parent, port = os.getpid(), int(listener.getsockname()[1])
    if os.fork():
        listener.close()
        return port
    try:
        if orders:
            orders.close()
        let_go_of(0, 1, 2)
        os.setpgid(0, 0)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        while os.getppid() == parent:
            with contextlib.suppress(OSError):  # of one client, or for want of descriptors
                client, _ = listener.accept()
                threading.Thread(target=pass_on, args=(client, path), daemon=True).start()
    finally:
        os._exit(0)


def pass_on(client: socket.socket, path: str) -> None:
    """Copy bytes between a client and the proxy, each way to its end.

    Where nobody listens, the client is sent away: the proxy may be there for the next one.
    """
    with client, socket.socket(socket.AF_UNIX) as proxy:
        try:
            proxy.connect(path)
        except OSError:
            return
        back = threading.Thread(target=copy_bytes, args=(proxy, client), daemon=True)
        back.start()
        copy_bytes(client, proxy)
        back.join()


def copy_bytes(source: socket.socket, sink: socket.socket) -> None:
    """Copy until the source ends, and say so; where the sink has gone, so has all of it."""
    try:
        while data := source.recv(COPIED_AT_ONCE):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def inside_command(orders: int, given: int, flags: str, command: list[str]) -> list[str]:
    """The command line by which the sandbox starts with `main_inside`."""
    program = f"import sys; sys.path.insert(0, {SANDBOX!r}); import avault; "
    program += "del sys.path[0]; avault.main_inside(sys.argv[1:])"
    python = os.path.realpath(sys.executable)
    return [python, "-I", "-S", "-c", program, str(orders), str(given), flags, *command]
