"""The helpers of custodians, as the supervisor starts them. It never sees an unlock key."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from avault.daemon.child import Child
from avault.keys.custodian import bind, read_answer, read_whole
from avault.keys.hardening import meet
from avault.places import Places
from avault.process import clean_environment, own_command
from avault.protocol import encode_frame

if TYPE_CHECKING:
    from typing import Any, ClassVar


class Reach:
    """How the person is reached who waits for the vault: a terminal, or a file that answers.

    `directory` is where that person stands.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        names = ("terminal", "answers", "directory")
        self.fields = {name: str(request[name]) for name in names if request.get(name)}

    def is_there(self) -> bool:
        """Whether there is anybody to answer."""
        return bool(self.fields.get("terminal") or self.fields.get("answers"))


def start_met(command: list[str], stdout: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a process of ours, and give the door by which it is met (see `meet`)."""
    door, end = socket.socketpair()
    if sys.platform == "linux":
        # who meets it is to know who speaks
        door.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with end:
        process = subprocess.Popen(
            command,
            stdin=end.fileno(),
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=clean_environment(),
            start_new_session=True,
        )
    return process, door


async def run_opener(child: Child, number: str) -> None:
    """Start a process that opens a secret, give the keyholder the door to it, and see it end.

    Else it would stay as a zombie.
    """
    process, door = start_met(own_command("opener"), subprocess.DEVNULL)
    with door:
        if child.control:
            told = {"do": "opener", "number": number, "pid": process.pid}
            child.control.send(told, door.fileno())
    while process.poll() is None:
        await asyncio.sleep(0.5)


def asks_phones(content: dict[str, Any]) -> bool:
    """Whether a custodian reaches people by their phones, wherever they are."""
    members = content["settings"].get("of", "") if content["kind"] == "quorum" else ""
    return content["kind"] == "phone" or any(
        word.startswith("phone:") for word in members.split(",")
    )


class Helper:
    """A custodian's helper on its errand: a process, and the `door` to it."""

    PERSON_TIME, TIME = 120.0, 30.0  # seconds for an errand with a person, and without
    # kinds whose person prints and types, or that ask several
    LONGER: ClassVar[dict[str, float]] = {"paper": 1800.0, "quorum": 600.0, "phone": 3600.0}

    def __init__(
        self,
        places: Places,
        action: str,
        content: dict[str, Any],
        reach: Reach,
        stdout: int,
        purpose: str = "",
        agrees: bool = False,
    ) -> None:
        name, agent = content["custodian"], content["agent"]
        account = str(content.get("account") or name)
        person_time = self.LONGER.get(content["kind"], self.PERSON_TIME)
        request = {
            **{each: content.get(each) for each in ("settings", "kept")},
            "name": name,
            "bound": bind(content["vault"], agent, name),
            "account": account if ":" in account else f"{places.id}:{account}",
            "purpose": purpose,
            "agrees": agrees,
            "title": content["name"],
            "label": f"avault: unlock key of {content['name']} ({places.dir})",
            "limit": person_time if reach.is_there() or asks_phones(content) else self.TIME,
            **reach.fields,
        }
        self.limit = float(request["limit"])
        command = own_command("custodian", action, content["kind"])
        self.process, self.door = start_met(command, stdout)
        self.door.sendall(encode_frame(request))

    def tell(self, is_wanted: bool) -> None:
        """Let it know whether anybody waits for its answer."""
        try:
            self.door.send(b"1" if is_wanted else b"0")
        except OSError:
            pass  # it has ended

    def end(self) -> None:
        """Let it go; where it still works, it is stopped, and leaves the terminal as it was."""
        self.door.close()
        if self.process.poll() is None:
            self.process.terminate()
            asyncio.get_running_loop().call_later(2.0, self.kill)

    def kill(self) -> None:
        """End one that did not end when it was told to."""
        if self.process.poll() is None:
            self.process.kill()


async def read_end(end: socket.socket, limit: float) -> dict[str, Any]:
    """A helper's answer."""
    return read_answer(await read_whole(end, limit))


async def run_errand(
    places: Places, action: str, content: dict[str, Any], reach: Reach
) -> dict[str, Any]:
    """The answer of a helper whose errand gives no unlock key."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            helper = Helper(places, action, content, reach, theirs.fileno())
        try:
            return await read_end(ours, helper.limit)
        finally:
            helper.end()


async def try_custodian(
    places: Places, content: dict[str, Any], reach: Reach, which: str = ""
) -> dict[str, Any]:
    """Whether a custodian opens the vault, in a process that is thrown away: its answer.

    A "candidate" is one whose file does not count yet, as is one that is "taken" in; a "staged" one
    is of a key that does not.
    The unlock key passes from helper to trial through a socket that the trial makes when it is
    hardened: what it is started with, others of the same user could take before (see `meet`).
    """
    command = own_command("trial", places.dir, content["custodian"], which)
    ours, theirs = socket.socketpair()
    with theirs:
        trial, door = start_met(command, theirs.fileno())
    with ours, door:
        helper = None
        try:
            with await meet(door, trial.pid) as key:
                helper = Helper(places, "get", content, reach, key.fileno(), "to try it")
            return await read_end(ours, helper.limit)
        finally:
            if helper:
                helper.end()
            if trial.poll() is None:
                trial.kill()
