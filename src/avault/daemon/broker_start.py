"""The processes of proxies, as the supervisor has them. It never sees what they are given.

Each session has a directory of its own, beside the daemon's socket; it goes when the process ends.
"""

from __future__ import annotations

import asyncio
import glob
import os
import secrets
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from avault.daemon.child import Child
from avault.daemon.errands import start_met
from avault.daemon.grant_sockets import grants_directory
from avault.errors import AvaultError, Locked, complain
from avault.places import Places
from avault.process import own_command

if TYPE_CHECKING:
    from avault.protocol import Message


STANDING = "proxy"  # in a grant's directory: that of its proxy
LONGEST_PATH = 107 if sys.platform == "linux" else 103  # bytes of a socket's path


def session_prefix(places: Places) -> str:
    """How the path of each session's directory begins."""
    return places.socket.removesuffix(".sock") + "-proxy-"


def sweep_sessions(places: Places) -> None:
    """Take away the directories of sessions that ended with a daemon that was killed."""
    of_grants = os.path.join(glob.escape(grants_directory(places)), "*", f"{STANDING}*")
    for path in [*glob.glob(glob.escape(session_prefix(places)) + "*"), *glob.glob(of_grants)]:
        if os.path.isdir(path) and not os.path.islink(path) and os.stat(path).st_uid == os.getuid():
            shutil.rmtree(path, ignore_errors=True)


def place_of_session(places: Places, grant: Message | None) -> tuple[str, int]:
    """Where the files of a session are, and the mode of that directory.

    Those of a grant are in its own directory, which others may have mounted; those of a proxy that
    stays are always at the same path.
    """
    if not grant:
        return session_prefix(places) + secrets.token_hex(4), 0o700
    name = STANDING if grant["standing"] else f"{STANDING}-{secrets.token_hex(4)}"
    place = os.path.join(grants_directory(places), str(grant["name"]), name)
    if len(os.fsencode(os.path.join(place, "proxy.sock"))) > LONGEST_PATH:
        raise AvaultError(f"the path is too long: {place}/proxy.sock", "choose a shorter name")
    return place, 0o711 if grant["shared"] else 0o700


async def make_place(directory: str) -> None:
    """Make it, once what was there before is gone; raises OSError."""
    for _ in range(50):
        if not os.path.lexists(directory):
            break
        await asyncio.sleep(0.1)
    os.mkdir(directory, 0o700)


async def run_broker(child: Child, places: Places, wish: Message) -> None:
    """Start one, give the keyholder the door to it, and see it end.

    It ends with the keyholder: see `Child.bury`; or when that says so: see `end_broker`. One that
    `stays` ends by itself, as it may have what nobody else has yet.
    """
    control, number, directory = child.control, str(wish["broker"]), ""
    stays = bool(wish.get("stays"))
    try:
        directory, mode = place_of_session(places, wish.get("grant_of"))
        await make_place(directory)
        os.chmod(directory, mode)
        process, door = start_met(own_command("proxy-session", directory), subprocess.DEVNULL)
    except (AvaultError, OSError) as error:
        if directory and not isinstance(error, FileExistsError):
            shutil.rmtree(directory, ignore_errors=True)
        if control and control is child.control:
            told = {"do": "broker", "number": number, "failed": complain(error).to_dict()["error"]}
            control.send(told)
        return
    if not stays:
        child.brokers[number] = process
    try:
        with door:
            told = {"do": "broker", "number": number, "pid": process.pid}
            if control and control is child.control:
                control.send(told, door.fileno())
            else:
                process.kill()
        while process.poll() is None:
            await asyncio.sleep(0.1)
    except Locked:
        process.kill()
        process.wait()
    finally:
        child.brokers.pop(number, None)
        shutil.rmtree(directory, ignore_errors=True)


def end_broker(child: Child, number: str) -> None:
    """End one whose session is over, also where it is stopped."""
    if process := child.brokers.get(number):
        process.kill()
