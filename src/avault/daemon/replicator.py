"""Having relays given what was written, and other machines' work fetched from them."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from avault.daemon.programs import hear_program, start_program
from avault.places import Places
from avault.process import own_command, uptime
from avault.tasks import spawn

if TYPE_CHECKING:
    from typing import Any

    from avault.daemon.keeper import Warden

NEVER = 1e18  # uptime that is not reached


class Replicator:
    """Runs `replica keep`, which is given no key. `said` is its last word.

    What was written is laid ready after a second, and sent 30 s after the last write, at most every
    5 minutes; when the vault locks, at once. What others have sent is looked for at each unlock,
    and every 15 minutes.
    """

    STAGE, SEND, EVERY, LOOK = 1.0, 30.0, 300.0, 900.0  # seconds
    PATIENCE = 3.0  # seconds that a lock waits for what was written to be laid ready
    LONGEST = 900.0  # seconds that one look at the relays may take

    def __init__(self, places: Places) -> None:
        self.places = places
        self.said: dict[str, Any] | None = None
        self.due = dict.fromkeys(("stage", "take", "send"), NEVER)
        self.sent = self.first = -NEVER  # when it was last sent, and first written since
        self.is_unsent = False
        self.planned = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self.warden: Warden | None = None
        self.staging, self.keeping = asyncio.Lock(), asyncio.Lock()

    def is_on(self) -> bool:
        """Whether relays keep this vault, as far as is known."""
        if self.warden and self.warden.condition.state == "unlocked":
            return bool(self.warden.condition.report.get("replicas")) or self.was_on()
        return self.was_on()

    def was_on(self) -> bool:
        """Whether something was laid ready for relays."""
        return os.path.lexists(self.places.own("replica-outbox.json"))

    def plan(self, what: str, when: float) -> None:
        """Do something at that time (see `uptime`), if nothing has it done before."""
        self.due[what] = when
        self.planned.set()

    def note(self) -> None:
        """Something was written."""
        if self.is_on():
            now, self.is_unsent = uptime(), True
            if self.due["send"] == NEVER:
                self.first = now
            self.plan("stage", min(self.due["stage"], now + self.STAGE))
            calm = min(now + self.SEND, self.first + self.EVERY)
            self.plan("send", max(calm, self.sent + self.EVERY))

    async def run(self, warden: Warden) -> None:
        """Do what is due, for ever."""
        self.warden = warden
        if self.was_on():
            self.plan("send", uptime())  # what was not sent before
        spawn(self.tasks, self.watch(warden))
        while True:
            self.planned.clear()
            due = [what for what, when in self.due.items() if when <= uptime()]
            self.due |= dict.fromkeys(due, NEVER)
            if self.keeping.locked() and {"take", "send"} & {*due}:
                soon = uptime() + self.STAGE  # one is at it
                self.due |= {what: soon for what in due if what != "stage"}
                due = [what for what in due if what == "stage"]
            if "take" in due or "send" in due:
                spawn(self.tasks, self.keep("take" in due, "send" in due))
            elif due:
                spawn(self.tasks, self.stage())
            wait = min(self.due.values()) - uptime()
            try:  # the loop's clock stands still while the machine sleeps
                async with asyncio.timeout(min(max(wait, 0.0), 60.0)):
                    await self.planned.wait()
            except TimeoutError:
                pass

    async def watch(self, warden: Warden) -> None:
        """Plan what a change of the vault's state asks for."""
        before: tuple[str, object] = ("", None)
        while True:
            changed, report = warden.condition.changed, warden.condition.report
            now = warden.condition.state, (report.get("replicas"), report.get("writes"))
            if now != before and now[0] == "unlocked" and self.is_on():
                self.plan("take", uptime())
                self.plan("send", uptime())
            elif now[0] != "unlocked" and before[0] == "unlocked" and self.due["send"] < NEVER:
                self.plan("send", uptime())
            before = now if now[0] == "unlocked" else (now[0], before[1])
            await changed.wait()

    async def keep(self, takes: bool, sends: bool) -> None:
        """Bring vault and relays level; one process at a time, which has an end."""
        async with self.keeping:
            words = [*(["--take"] if takes else []), *(["--send"] if sends else [])]
            self.sent = uptime() if sends else self.sent
            unsent, self.is_unsent = self.is_unsent, self.is_unsent and not sends
            try:
                said = await self.ask(*words)
            except asyncio.CancelledError:
                self.is_unsent = unsent
                raise
        if "relays" in said:
            self.said = said
        elif sends:  # it failed, or was ended: what was laid ready is sent another time
            self.is_unsent = True
            self.plan("send", min(self.due["send"], uptime() + self.EVERY))
        if takes and self.warden and self.warden.condition.state == "unlocked" and self.is_on():
            self.plan("take", uptime() + self.LOOK)
        wait = said.get("wait")
        if isinstance(wait, (int, float)):
            self.plan("send", min(self.due["send"], uptime() + max(wait, self.SEND)))

    async def stage(self) -> None:
        """Have what was written laid ready."""
        async with self.staging:
            told = await self.ask()
        if "relays" in told:
            look = self.said or told
            problems = [*dict.fromkeys([*look["problems"], *told["problems"]])]
            self.said = told | {name: look[name] for name in ("asked", "taken")}
            self.said["problems"] = problems

    async def ask(self, *words: str) -> dict[str, Any]:
        """What `replica keep` says; one that takes too long is ended, and says nothing."""
        process = start_program(own_command("replica", "keep", *words, *self.where()))
        try:
            async with asyncio.timeout(self.LONGEST):
                return await hear_program(process)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await asyncio.to_thread(process.wait)
            return {}

    def where(self) -> list[str]:
        """Which vault is meant."""
        return ["--dir", self.places.dir]

    async def settle(self) -> None:
        """Before the vault locks: have laid ready what was written just now.

        What is at it already may not be ready before the vault is locked: it is waited for.
        """
        if self.due["stage"] < NEVER or self.staging.locked() or self.keeping.locked():
            self.due["stage"] = NEVER
            try:
                async with asyncio.timeout(self.PATIENCE):
                    await self.stage()
            except TimeoutError:
                pass

    def leave(self) -> None:
        """The daemon ends: what is laid ready is sent by a process that outlives it."""
        if self.is_unsent:
            start_program(own_command("replica", "keep", "--send", *self.where()))
