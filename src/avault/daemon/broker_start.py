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

from avault.daemon.child import Child
from avault.daemon.errands import start_met
from avault.errors import AvaultError, Locked, complain
from avault.places import Places
from avault.process import own_command


def session_prefix(places: Places) -> str:
    """How the path of each session's directory begins."""
    return places.socket.removesuffix(".sock") + "-proxy-"


def sweep_sessions(places: Places) -> None:
    """Take away the directories of sessions that ended with a daemon that was killed."""
    for path in glob.glob(glob.escape(session_prefix(places)) + "*"):
        if os.path.isdir(path) and not os.path.islink(path) and os.stat(path).st_uid == os.getuid():
            shutil.rmtree(path, ignore_errors=True)


async def run_broker(child: Child, places: Places, number: str) -> None:
    """Start one, give the keyholder the door to it, and see it end.

    It ends with the keyholder: see `Child.bury`; or when that says so: see `end_broker`.
    """
    control, directory = child.control, session_prefix(places) + secrets.token_hex(4)
    try:
        os.mkdir(directory, 0o700)
        process, door = start_met(own_command("proxy-session", directory), subprocess.DEVNULL)
    except (AvaultError, OSError) as error:
        shutil.rmtree(directory, ignore_errors=True)
        if control and control is child.control:
            told = {"do": "broker", "number": number, "failed": complain(error).to_dict()["error"]}
            control.send(told)
        return
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
