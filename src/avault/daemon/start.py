"""From a command to a daemon, and the beginning and end of the supervisor."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from avault.daemon.door import ANSWERS
from avault.daemon.supervisor import Supervisor
from avault.errors import AvaultError, Unavailable, complain
from avault.keys.hardening import harden
from avault.places import Places
from avault.plain import write_all
from avault.process import clean_environment, own_command
from avault.protocol import decode_frame, encode_frame
from avault.vault.files import make_private_directory
from avault.vault.presence import is_file_there, no_vault

if TYPE_CHECKING:
    from typing import Any, NoReturn


def main_supervisor(argv: list[str]) -> NoReturn:
    """The supervisor process: `avault.py supervisor OPTIONS`.

    The options are a JSON object of what `start_daemon` wants.
    """
    try:
        options = json.loads(argv[0])
        options["dir"], options["background"], options["ready"]
    except (IndexError, ValueError, TypeError, KeyError):
        sys.exit(
            "avault: error: the supervisor is not started by hand\n"
            "avault: hint: avault daemon start"
        )

    service = os.environ.pop("NOTIFY_SOCKET", "")  # of systemd, sd_notify(3); not for our children

    def say(text: str) -> None:
        if not options["background"]:
            write_all(2, f"avault: {text}\n".encode())

    def ready(answer: dict[str, Any]) -> None:
        if options["ready"] is not None:
            write_all(options["ready"], encode_frame(answer))
            os.close(options["ready"])
        if service and answer["ok"]:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.connect(service.replace("@", "\0", 1) if service[0] == "@" else service)
                manager.send(b"READY=1")

    async def run() -> None:
        places = Places(options["dir"])
        places.socket, places.pid_file = options["socket"], options["pid_file"]
        await Supervisor(places, options, ANSWERS, say).run(lambda: ready({"ok": True}))

    code = 0
    try:
        harden("avault")
        asyncio.run(run())
    except Exception as error:
        refused = complain(error)
        code = refused.exit_code
        if options["ready"] is not None:
            ready(refused.to_dict())
        else:
            write_all(2, f"avault: error: {refused.message}\n".encode())
            if refused.hint:
                write_all(2, f"avault: hint: {refused.hint}\n".encode())
    sys.exit(code)


def start_daemon(places: Places, background: bool, **wanted: Any) -> None:
    """Start the supervisor: in the background, and return when it listens; or become it.

    Either way it is a fresh process with a clean environment. NOSTR_NSEC goes into a socket that
    only a keyholder will read, and that /proc/PID/fd does not open. `wanted` is what is not as in
    `options` below. Raises what kept it from listening.
    """
    if not is_file_there(places.dir):
        raise no_vault(places)
    # a clone is not; and who can open a directory can hold its lock
    make_private_directory(places.dir)
    # after that: beside a vault of somebody else, root leaves nothing of its own
    make_private_directory(places.state)
    nsec = None
    if wanted.get("ask") and os.environ.get("NOSTR_NSEC"):
        mine, end = socket.socketpair()
        with end:
            end.sendall(os.environ["NOSTR_NSEC"].encode())
        nsec = mine.detach()
        os.set_inheritable(nsec, True)
    options = {
        "dir": places.dir,
        "socket": places.socket,
        "pid_file": places.pid_file,
        "background": background,
        "ready": None,
        "ask": False,
        "nsec": nsec,
        **dict.fromkeys(("timeout", "lock_after", "lock_idle", "notify")),
        "accept_rollback": False,
        **wanted,
    }
    if not background:
        command = own_command("supervisor", json.dumps(options))
        manager = {name: os.environ[name] for name in ("NOTIFY_SOCKET",) if name in os.environ}
        os.execve(command[0], command, clean_environment() | manager)  # noqa: S606
    listening, told = os.pipe()
    options["ready"] = told
    daemon = subprocess.Popen(
        own_command("supervisor", json.dumps(options)),
        pass_fds=(told, *([] if nsec is None else [nsec])),
        env=clean_environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    daemon.returncode = 0  # it outlives us, and nobody here waits for it
    os.close(told)
    if nsec is not None:
        os.close(nsec)
    with open(listening, "rb") as pipe:
        answer = pipe.read()
    if not answer:
        raise Unavailable(
            "the daemon ended before it listened",
            "run it in the foreground to see why: avault daemon start",
        )
    result = decode_frame(answer[4:])
    if not result["ok"]:
        raise AvaultError.from_dict(result)
