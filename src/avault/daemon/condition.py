"""What the supervisor knows of the vault: its state, and why it is locked."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from avault.daemon.custody import Custody
from avault.errors import AvaultError, Denied, Locked
from avault.places import Places
from avault.signer.pairing import shorten_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Condition:
    """The vault's state, as the supervisor sees it.

    `state` is unlocked, waiting or locked; `report` is what the keyholder last said of itself.
    `say` is told of another state.
    """

    def __init__(self, places: Places, custody: Custody, say: Callable[[str], None]) -> None:
        self.places, self.custody, self.say = places, custody, say
        self.state = "locked"
        self.report: dict[str, Any] = {}
        # why the vault is locked, if it was not for being asked to
        self.failure: AvaultError | None = None
        self.changed = asyncio.Event()  # replaced at every change of state

    def current_state(self) -> str:
        """unlocked, waiting, locked or unpaired: without a phone, and without a custodian."""
        if self.state == "locked" and not self.custody.has_phone() and not self.custody.has_any():
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
        how = "ask the phone with" if self.custody.has_phone() else "open it with"
        return Locked(f"the vault is locked{because}", f"{how}: avault unlock")

    def waiting_hint(self) -> str:
        """What the operator is to do while the phone is asked."""
        again = (self.report.get("waiting") or {}).get("next")
        when = f" (the question comes again at {again})" if again else ""
        return f"open the signer app and approve there{when}; see: avault status"

    def pairing_hint(self) -> str:
        """How this machine gets a signer."""
        if os.path.lexists(self.places.own("pairing.json")):
            return "prove it with: avault pair --replace"
        is_known = os.path.lexists(self.places.own("unlock.json"))
        return f"pair it with: avault {'pair' if is_known else 'recover'}"

    def turn(self, state: str) -> None:
        """Enter a state, and wake those who wait for a change."""
        if state != self.state:
            key = (self.report.get("waiting") or {}).get("client_key")
            shown = f", which may show who asks as {shorten_key(key)}" if key else ""
            self.say(f"waiting for the phone{shown}" if state == "waiting" else state)
        self.state = state
        self.changed.set()
        self.changed = asyncio.Event()

    def refuse_to_lose(self, request: dict[str, Any]) -> None:
        """Refuse to end a keyholder that alone has a vault's key, or its content; raises Denied."""
        if self.state != "unlocked" or request.get("force"):
            return
        if self.report.get("unsaved"):
            hint = (
                "put the file back (git checkout), or write what is served:"
                " avault restore --unsaved; or insist with --force"
            )
            raise Denied(
                "avault.enc on the disk is not what is served: to lock now may lose it", hint
            )
        if not self.report.get("proven"):
            lost = (
                "nobody has shown yet that the phone opens this vault: to lock it now may lose it"
            )
            raise Denied(lost, f"{self.pairing_hint()}, or insist with --force")
