"""The vault's state as the supervisor sees it, and the question to the operator."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import TYPE_CHECKING

from avault.daemon.asking import Caller, Question
from avault.daemon.child import Child
from avault.daemon.helper import open_keychain, refuse_other_pairing
from avault.daemon.programs import hear_program, run_program, start_program
from avault.errors import AvaultError, Denied, Locked, TimedOut
from avault.places import Places
from avault.process import own_command, uptime
from avault.signer.pairing import shorten_key
from avault.vault.files import write_file
from avault.vault.own_files import encode_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.protocol import Limits, Message


class Guard:
    """The vault's state, seen from the supervisor, and the question that the keyholder may ask.

    `state` is unlocked, waiting or locked; `report` is what the keyholder last said of itself.
    `say` is told what happens.
    """

    def __init__(
        self,
        places: Places,
        lock_fd: int,
        say: Callable[[str], None],
        wrote: Callable[[], None],
        limits: Limits,
    ) -> None:
        self.places, self.say, self.wrote = places, say, wrote
        self.child = Child(places, lock_fd, limits, self.receive, self.lost)
        self.state = "locked"
        self.report: dict[str, Any] = {}
        # why the vault is locked, if it was not for being asked to
        self.failure: AvaultError | None = None
        # what a keychain's unlock key opens, until the keychain has that
        self.sealed: dict[str, Any] | None = None
        self.changed = asyncio.Event()  # replaced at every change of state
        self.question = Question(places)
        self.staying: asyncio.Task[None] | None = None  # the daemon's own wait for the answer

    def current_state(self) -> str:
        """unlocked, waiting, locked or unpaired."""
        if self.state == "locked" and not os.path.lexists(self.places.own("pairing.json")):
            return "unpaired"
        return self.state

    def locked(self) -> AvaultError:
        """Why there are no secrets now, and what to do."""
        state = self.current_state()
        if state == "waiting":
            return Locked("the vault waits for the operator's approval", self.waiting_hint())
        if state == "unpaired":
            return Locked(
                "the vault is locked, and this machine is not paired with a signer",
                self.pairing_hint(),
            )
        because = f" ({self.failure.message})" if self.failure else ""
        return Locked(f"the vault is locked{because}", "ask the phone with: avault unlock")

    def waiting_hint(self) -> str:
        """What the operator is to do while the phone is asked."""
        again = (self.report.get("waiting") or {}).get("next")
        when = f" (the question comes again at {again})" if again else ""
        return f"open the signer app and approve there{when}; see: avault status"

    def pairing_hint(self) -> str:
        """How this machine gets a signer."""
        if os.path.lexists(self.places.own("pairing.json")):
            return "prove it with: avault pair --replace"
        return "pair it with: " + (
            "avault pair" if os.path.lexists(self.places.own("unlock.json")) else "avault recover"
        )

    def turn(self, state: str) -> None:
        """Enter a state, and wake those who wait for a change."""
        if state != self.state:
            key = (self.report.get("waiting") or {}).get("client_key")
            shown = f", which may show who asks as {shorten_key(key)}" if key else ""
            self.say(
                {
                    "unlocked": "unlocked",
                    "waiting": f"waiting for the phone{shown}",
                    "locked": "locked",
                }[state]
            )
        self.state = state
        self.changed.set()
        self.changed = asyncio.Event()

    async def start(self) -> None:
        """Start a keyholder, if there is none."""
        await self.child.leave()
        if not self.child.control:
            self.report, self.failure = {}, None
            await self.child.start()

    def receive(self, message: Message) -> None:
        """A message from the keyholder."""
        if "report" in message:
            self.report = message["report"]
            if self.report["state"] == "unlocked" and self.state != "unlocked":
                self.wrote()  # what git could not merge while it was locked can be merged now
                self.question.succeed()
            is_waited_for = self.question.callers or self.report["talking"]
            self.turn(
                "locked"
                if self.report["state"] == "waiting" and not is_waited_for
                else self.report["state"]
            )
        elif "wrote" in message:
            self.wrote()
        elif "sealed" in message:
            self.sealed = message["sealed"]
        elif "failed" in message:
            self.failure = AvaultError.from_dict({"error": message["failed"]})

    def lost(self, code: int) -> None:
        """The keyholder is gone: locked, with the reason."""
        if code and not self.failure:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self.failure = AvaultError(f"the keyholder ended by {how}")
        if self.failure:
            self.say(self.failure.message)
            if self.failure.code == Denied.code:
                self.question.close(refused=True)
        self.turn("locked")

    async def look(self) -> None:
        """Have the keyholder look at the disk, before its state is told or ended."""
        if self.state == "unlocked":
            await self.child.look()

    async def ask(self, caller: Caller, nsec: int | None = None) -> None:
        """Ask for the key until the vault is open: one question, shared by all who wait.

        Raises TimedOut, and what ended it.
        """
        if self.state == "unlocked":
            return
        keychain = nsec is None and os.path.lexists(self.places.own("keychain.json"))
        if nsec is None and not keychain and not os.path.lexists(self.places.own("pairing.json")):
            raise self.locked()
        keychain = keychain and not self.question.callers  # who comes later shares the one question
        is_new = self.question.join(caller, asks_phone=nsec is None and not keychain)
        if len(self.question.callers) == 1:
            self.failure = None
        self.stay(caller)
        try:
            async with asyncio.timeout(self.question.patience(caller)):
                await self.start()
                if self.child.control and keychain:
                    nsec = open_keychain(self.keychain_command("get"))
                if self.child.control:
                    # who goes on waiting, again and again, makes no more cards
                    at_once = caller.stay is None
                    wish: dict[str, Any] = {
                        "accept_rollback": caller.accept_rollback,
                        "keychain": keychain,
                    }
                    wish |= {
                        "anew": is_new,
                        "at_once": at_once,
                        "unattended": not caller.is_attended,
                    }
                    self.child.control.send({"do": "unlock", **wish}, nsec)
                    if keychain and nsec is not None:
                        os.close(nsec)
                while self.state != "unlocked":
                    if not self.child.control:
                        raise self.failure or Locked(
                            "the vault was locked meanwhile", "ask again with: avault unlock"
                        )
                    if caller not in self.question.callers:
                        raise Locked(
                            "the vault was locked meanwhile", "ask again with: avault unlock"
                        )
                    await self.changed.wait()
        except TimeoutError:
            raise TimedOut(
                "nobody approved in time", "is the signer app open? See: avault status"
            ) from None
        finally:
            self.question.leave(caller)
            self.turn(self.state)  # those who wait for a settled state look again
            if not self.question.callers:
                self.rest()

    def stay(self, caller: Caller) -> None:
        """Where a caller wants that, wait for the answer as long as it may come.

        Also when the caller is gone.
        """
        if caller.stay is None or (self.staying and not self.staying.done()):
            return
        daemon = Caller(None, caller.accept_rollback, stay=caller.stay)

        async def wait() -> None:
            try:
                await self.ask(daemon)
            except AvaultError:
                pass  # those who asked are told

        self.staying = asyncio.get_running_loop().create_task(wait())

    def rest(self) -> None:
        """Nobody waits for the question: have the keyholder ask no more, and listen."""
        if self.state == "unlocked":
            return
        if self.child.control:
            self.child.control.send(
                {"do": "rest", "opens_for": max(self.question.wanted_until - uptime(), 0.0)}
            )
        if self.state == "waiting" and not self.report.get("talking"):
            self.turn("locked")

    async def lock(self) -> None:
        """Lock; a keyholder whose phone has a question stays, without a secret, and listens."""
        if self.state == "unlocked" or self.report.get("talking"):
            await self.child.end()
        else:
            self.question.give_up()
            self.rest()
            self.turn(self.state)

    def ask_again(self) -> None:
        """Have the phone's question go out at once, if there is one."""
        if self.state == "waiting" and self.child.control:
            self.child.control.send({"do": "ask"})

    def keychain_command(self, action: str) -> list[str]:
        """The process that asks the platform's keychain."""
        name = self.report.get("name") or os.path.basename(os.path.dirname(self.places.dir))
        label = f"avault: unlock key of {name} ({self.places.dir})"
        return own_command("keychain", action, f"{self.places.id}:unlock-key", label)

    async def fill_keychain(self, caller: dict[str, Any]) -> dict[str, Any]:
        """Have the keyholder ask the phone and make an unlock key, and the keychain keep it.

        What the keychain's process said.
        """
        if self.state != "unlocked" or not self.child.control:
            raise self.locked()
        if not self.report.get("proven"):
            raise Denied(
                "nobody has shown yet that the phone opens this vault", self.pairing_hint()
            )
        refuse_other_pairing(self.places, self.report)
        found = await run_program(self.keychain_command("look"))
        if found.get("outcome") == "unavailable":
            return found  # nobody is asked for what cannot be
        door, end = socket.socketpair()
        with door, end:
            if sys.platform == "linux":
                # the keyholder is to know who speaks
                door.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            process = start_program(self.keychain_command("set"), stdin=end.fileno())
            self.failure = self.sealed = None
            self.child.control.send(
                {"do": "keychain", "caller": caller, "helper": process.pid}, door.fileno()
            )
        answer = await hear_program(process)
        if self.failure:
            raise self.failure
        if answer.get("outcome") == "ok" and self.sealed:
            write_file(self.places.own("keychain.json"), encode_file("keychain", self.sealed))
        return answer

    def refuse_to_lose(self, request: dict[str, Any]) -> None:
        """Refuse to end a keyholder that alone has a vault's key, or its content; raises Denied."""
        if self.state == "unlocked" and self.report.get("unsaved") and not request.get("force"):
            hint = (
                "put the file back (git checkout), or write what is served:"
                " avault restore --unsaved; or insist with --force"
            )
            raise Denied(
                "avault.enc on the disk is not what is served: to lock now may lose it", hint
            )
        if self.state == "unlocked" and not self.report.get("proven") and not request.get("force"):
            hint = f"{self.pairing_hint()}, or insist with --force"
            raise Denied(
                "nobody has shown yet that the phone opens this vault: to lock it now may lose it",
                hint,
            )
