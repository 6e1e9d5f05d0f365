"""Messages to and from the operator, as the supervisor has them sent and heard.

The programs that do it hold no secret of the vault: the one that sends a notice reads the key by
which this machine asks the phone, as every unlock does.
"""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING

from avault.daemon.programs import run_program, start_own
from avault.errors import AvaultError, Usage, complain
from avault.places import Places
from avault.process import own_command, uptime
from avault.protocol import decode_frame
from avault.tasks import spawn
from avault.vault.messages import MessageSettings

if TYPE_CHECKING:
    from typing import Any

    from avault.daemon.keeper import Warden


class Messenger:
    """Has one program hear the word `lock` while the vault is open, and another send a notice.

    A notice is sent once in an asking, when that has lasted five minutes.
    """

    WAIT = 300.0  # seconds
    ENDING = 30.0  # seconds that the answer to a word may take, once the vault is locked
    AGAIN = 10.0  # seconds until a program that ended by itself is started again

    def __init__(self, places: Places) -> None:
        self.places = places
        self.relays: list[Any] = []  # as the program that hears has them
        self.noticed: float | None = None  # the asking of which the operator was told
        self.notice: dict[str, Any] | None = None  # what came of that
        self.is_hearing = False
        self.process: asyncio.subprocess.Process | None = None
        self.planned = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()

    def settings(self) -> MessageSettings:
        """What is on; nothing where that cannot be read."""
        try:
            return MessageSettings.load(self.places)
        except AvaultError:
            return MessageSettings()

    def describe(self) -> dict[str, Any] | None:
        """What `status` shows; None where nothing is on."""
        settings = self.settings()
        if not (settings.lock or settings.notice):
            return None
        shown = {"lock": settings.lock, "notice": settings.notice, "relays": self.relays}
        return {**shown, "last_notice": self.notice}

    async def run(self, warden: Warden) -> None:
        """Follow the vault's state, for ever."""
        while True:
            self.planned.clear()
            changed, wait = warden.condition.changed, self.follow(warden)
            events = (changed.wait(), self.planned.wait())
            waiting = [asyncio.ensure_future(each) for each in events]
            await asyncio.wait(waiting, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            for each in waiting:
                each.cancel()

    def follow(self, warden: Warden) -> float | None:
        """Do what the state asks for; in how many seconds to look again, None if not by itself."""
        settings, asked = self.settings(), warden.question.begun
        if warden.condition.state == "unlocked" and settings.lock:
            if not self.is_hearing:
                self.is_hearing = True
                spawn(self.tasks, self.hear(str(warden.condition.report["agent_npub"])))
        else:
            self.end_hearing()
        if (
            warden.condition.state != "waiting"
            or not settings.notice
            or asked in (None, self.noticed)
        ):
            return None
        left = asked + self.WAIT - uptime()
        if left <= 0:
            self.noticed = asked
            spawn(self.tasks, self.tell(dict(warden.condition.report)))
            return None
        return min(left, 60.0)  # the loop's clock stands still while the machine sleeps

    def look(self) -> None:
        """What is on has changed."""
        self.end_hearing()
        self.planned.set()

    def end_hearing(self) -> None:
        """Tell the program that hears to end, which may answer a word before; and see to it."""
        process, self.process = self.process, None
        if process and process.stdin and process.returncode is None:
            process.stdin.close()
            asyncio.get_running_loop().call_later(self.ENDING, end_process, process)

    async def hear(self, agent: str) -> None:
        """Run the program that hears, and take what it says of relays, until it ends."""
        try:
            await self.run_listener(agent)
        except OSError:
            await asyncio.sleep(self.AGAIN)
        finally:
            self.is_hearing, self.relays = False, []
            self.planned.set()

    async def run_listener(self, agent: str) -> None:
        """Run it once; raises OSError."""
        words = ("message", "listen", "--agent", agent, "--dir", self.places.dir)
        pipe = subprocess.PIPE
        process = self.process = await start_own(*words, stdin=pipe, stdout=pipe)
        while process.stdout and (line := await process.stdout.readline()):
            try:
                self.relays = decode_frame(line)["relays"]
            except (Usage, KeyError):
                pass  # no word of ours
        await process.wait()
        if self.process is process:  # by itself
            self.process, self.relays = None, []
            await asyncio.sleep(self.AGAIN)

    async def tell(self, report: dict[str, Any]) -> None:
        """Have the notice sent."""
        said = ["--name", report["name"], "--since", report["waiting"]["since"]]
        said += ["--code", report["code"], "--dir", self.places.dir]
        try:
            self.notice = await run_program(own_command("message", "notice", *said))
        except OSError as error:
            self.notice = {"ok": False, "said": {}, "problem": complain(error).message}


def end_process(process: asyncio.subprocess.Process) -> None:
    """Kill a program that has not ended in time."""
    if process.returncode is None:
        process.kill()
