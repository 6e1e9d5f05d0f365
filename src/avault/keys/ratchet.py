"""The ratchet: after each unlock this machine's envelope is another one.

NIP-46 has no forward secrecy, and phones keep histories: what the phone answered last time is to
open nothing that is on the disk today.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

from avault.daemon.reporter import Reporter
from avault.errors import AvaultError, Locked
from avault.keys.nostr import parse_npub, public_hex, to_npub
from avault.keys.seal import seal_nsec
from avault.places import Places
from avault.signer.question import NOBODY_ASKED, QUICK_IN_A_ROW
from avault.vault.files import has_bytes, write_file
from avault.vault.kept_guards import known_guards, read_known
from avault.vault.own_files import encode_file
from avault.vault.times import render_time

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.nostr import Keys
    from avault.vault.store import Store


class Ratchet:
    """unlock.json of the open vault: `content` is what was written there last.

    `proven` says when the phone has last shown that it opens this vault, `quick` how many approvals
    in a row came faster than a person reads.
    """

    def __init__(self, places: Places, host: str, reporter: Reporter) -> None:
        self.places, self.host, self.reporter = places, host, reporter
        self.content: dict[str, Any] = {}
        self.agent: str | None = None  # whose key (hex) counts, once the vault is open
        self.proven: str | None = None
        self.quick = 0
        self.guards: dict[str, int] | None = None  # that are known, once the vault is open
        self.turning = asyncio.Lock()  # unlock.json is written by one at a time
        self.sealing = threading.Lock()  # also amid a change of the vault, in whichever thread

    def prove(self) -> None:
        """Note that the phone has just opened an envelope of this vault."""
        self.proven = render_time(time.time())

    def note_quickness(self, seconds: float | None, content: dict[str, Any]) -> None:
        """Remark on an approval that came faster than a person reads, after those in `content`.

        What the app does is known from the drill alone.
        """
        is_quick = seconds is not None and seconds < NOBODY_ASKED
        self.quick = content.get("quick", 0) + 1 if is_quick else 0
        warnings = self.reporter.warnings
        warnings.pop("quick", None)
        if self.quick >= QUICK_IN_A_ROW:
            warnings["quick"] = (
                f"{self.quick} approvals in a row came within {NOBODY_ASKED} s:"
                " see whether the app asks: avault drill"
            )
        elif self.quick:
            warnings["quick"] = (
                f"approved within {seconds:.1f} s; if that was not you, see whether the app asks:"
                " avault drill"
            )

    def forget_quickness(self) -> None:
        """The drill has told what the app does."""
        self.quick = 0
        self.reporter.warnings.pop("quick", None)

    async def turn(
        self, keys: Keys, content: dict[str, Any], recovery: dict[str, Any] | None = None
    ) -> None:
        """Replace the opened envelope by a fresh one, with a fresh sealed copy.

        They are for whom `content` names, which is of the open vault or of what has just been
        opened: never what the disk says by now. A `recovery` is a new content of nsec.enc.
        """
        async with self.turning:
            await self.write(keys, content, recovery)

    async def write(
        self, keys: Keys, content: dict[str, Any], recovery: dict[str, Any] | None = None
    ) -> None:
        """`turn`, for who holds `turning`.

        Raises Locked where the key is not that of the agent which the vault is open for.
        """
        agent = public_hex(keys)
        if self.agent not in (None, agent) or to_npub(agent) != content["agent"]:
            raise Locked("the agent's key was rotated meanwhile", "try again")
        if await asyncio.to_thread(self.seal, keys, content, recovery) and recovery:
            self.reporter.wrote()

    def seal(
        self, keys: Keys, content: dict[str, Any], recovery: dict[str, Any] | None = None
    ) -> bool:
        """Write it, with what is known of guards by then; whether that could be."""
        operator = parse_npub(content["operator"])
        names = content["vault"], operator, content["name"], self.host
        with self.sealing:
            known = read_known(keys, content) if self.guards is None else self.guards
            fresh = {
                **seal_nsec(keys, *names, known),
                "proven": self.proven,
                "quick": self.quick,
                **({"rotated": content["rotated"]} if "rotated" in content else {}),
            }
            try:
                if recovery:
                    write_file(self.places.file("nsec.enc"), encode_file("nsec", recovery))
                write_file(self.places.own("unlock.json"), encode_file("unlock", fresh))
            except AvaultError as error:
                self.reporter.warnings["ratchet"] = (
                    "the phone's last answer still opens unlock.json, as no fresh one could be"
                    f" written: {error.message}"
                )
                return False
            self.content = fresh
            self.reporter.warnings.pop("ratchet", None)
            return True

    def know(self, store: Store) -> None:
        """Seal what is known of guards too, where it is another than was sealed last."""
        guards = known_guards(store.vault)
        if guards != self.guards and self.agent == public_hex(store.keys):
            self.guards = guards
            self.seal(store.keys, self.content)

    async def restore(self, keys: Keys) -> None:
        """Write unlock.json anew where it is not what was written last; and say so."""
        async with self.turning:
            if self.agent != public_hex(keys):
                return
            is_turned = "ratchet" not in self.reporter.warnings
            own = self.places.own("unlock.json")
            if not is_turned or not has_bytes(own, encode_file("unlock", self.content)):
                await self.write(keys, self.content)
                if is_turned:
                    self.reporter.warn_of_a_change("unlock.json")
