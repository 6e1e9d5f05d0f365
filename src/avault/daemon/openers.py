"""The processes that open secrets, as the keyholder has them; the supervisor starts them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from typing import TYPE_CHECKING

from avault.daemon.opener_link import OpenerLink
from avault.errors import AvaultError, Denied, Unavailable
from avault.keys.hardening import meet
from avault.keys.holding import Holding
from avault.vault.locks import read_lock
from avault.vault.own_locks import OwnLocks
from avault.vault.sealing import Unsealed, find_clear, find_unsealed, seal_loose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from avault.protocol import Message
    from avault.signer.pairing import Pairing
    from avault.vault.locks import Lock
    from avault.vault.records import Vault
    from avault.vault.store import Store


LOCKS_AT_ONCE = 100  # locks in one answer
SEAL_TIME = 60.0  # seconds for them
ROUNDS = 16  # values of one key that are sealed one after the other: so many machines have set it
LEFT_TIME = 3_600.0  # seconds for which a value is left to the machine that has set it


class Openers:
    """How the keyholder comes by such processes, and what it has them do without the phone."""

    MOST = 8  # at once that ask the phone, and as many that seal; each takes 40 MB
    MOST_OF_GRANT = 2  # of those that ask, for one grant; and half of them for all grants
    MOST_STAYING = 8  # besides, that have opened something for a time
    START_TIME = 15.0  # seconds

    def __init__(self, holding: Holding) -> None:
        self.holding, self.own = holding, OwnLocks(holding.places)
        self.keeping = asyncio.Lock()  # locks.json is written by one at a time
        self.settling = asyncio.Lock()
        # whether they are to ask, and through which grant
        self.starting: list[tuple[bool, str | None]] = []
        self.wanted: dict[str, asyncio.Future[tuple[int, socket.socket]]] = {}
        self.assigned: set[OpenerLink] = set()
        self.looked: Vault | None = None  # that has nothing which is to be sealed, or cannot be

    def take(self, message: Message, fd: int) -> None:
        """The supervisor has started one: its pid, and the door to it."""
        door = socket.socket(fileno=fd)
        wanted = self.wanted.pop(str(message["number"]), None)
        if wanted and not wanted.done():
            wanted.set_result((message["pid"], door))
        else:
            door.close()

    def is_full(self, is_asking: bool = True, through: str | None = None) -> bool:
        """Whether there are as many as may be, of those that ask or of those that seal.

        Through a grant fewer may be, so that nobody's programs keep the phone from the owner's.
        """
        there = [(each.is_asking, each.through) for each in self.assigned if not each.is_staying]
        found = [grant for asks, grant in there + self.starting if asks == is_asking]
        is_much = found.count(through) >= self.MOST_OF_GRANT
        is_much = is_much or sum(each is not None for each in found) >= self.MOST // 2
        return len(found) >= self.MOST or (through is not None and is_much)

    async def start(self, is_asking: bool = True, through: str | None = None) -> OpenerLink:
        """One that is hardened; raises AvaultError."""
        if self.is_full(is_asking, through):
            what = "wait for the phone" if is_asking else "values are set at once"
            raise Unavailable(f"too many {what}", "try again in a while")
        number = secrets.token_hex(8)
        self.starting.append((is_asking, through))
        wanted = self.wanted[number] = asyncio.get_running_loop().create_future()
        try:
            self.holding.reporter.control.send({"opener": number})
            async with asyncio.timeout(self.START_TIME):
                pid, door = await wanted
        except TimeoutError:
            raise Unavailable("no process could be started that opens it", "try again") from None
        finally:
            self.wanted.pop(number, None)
            self.starting.remove((is_asking, through))
        with door:
            own = await meet(door, pid)
        found = OpenerLink(own, self.assigned.discard, is_asking, through)
        self.assigned.add(found)
        return found

    async def keep_own(self, store: Store, locks: list[Lock]) -> None:
        """Have these locks of this machine in place of those before; raises AvaultError."""
        async with self.keeping:
            used = {
                lock["to"] for lock in map(read_lock, store.vault.facts_of("lock").values()) if lock
            }
            await asyncio.to_thread(self.own.keep, locks, used)

    async def keep_made(self, store: Store, locks: list[Lock]) -> None:
        """Have these locks of this machine, if that can be: else the vault's are opened."""
        with contextlib.suppress(AvaultError):
            await self.keep_own(store, locks)

    def need_pairing(self, store: Store) -> Pairing:
        """The operator's phone; raises Denied where there is none."""
        pairing = self.holding.contact.find(store)
        if not pairing:
            raise Denied("only a paired vault can ask for each use", "pair it with: avault pair")
        return pairing

    async def make_locks(
        self, store: Store, places: list[str]
    ) -> tuple[dict[str, Lock], list[Lock]]:
        """New locks for secrets, by name, and this machine's own on the same keys.

        No key of theirs is ever here, and nobody is asked.
        """
        pairing = self.holding.contact.find(store)
        job = {
            "do": "make",
            "operator": pairing.operator if pairing else None,
            **bind_locks(store.vault, self.holding.host),
        }
        made: dict[str, Lock] = {}
        own: list[Lock] = []
        found = await self.start(is_asking=False)
        try:
            for first in range(0, len(places), LOCKS_AT_ONCE):
                found.send({**job, "places": places[first : first + LOCKS_AT_ONCE]})
                answer = await found.hear_answer(SEAL_TIME)
                made |= answer["made"]
                own += answer["own"]
        finally:
            found.end()
        return made, own

    async def change(
        self, store: Store, function: Callable[[Vault], None], also: frozenset[str] = frozenset()
    ) -> None:
        """Have a change written, with what a guard asks for sealed; raises what refused it.

        Of what was in clear before, only what is named by `also`: the rest is left to `settle`.
        """
        made: dict[str, Lock] = {}
        own: list[Lock] = []

        def change(vault: Vault) -> None:
            before = {*find_unsealed(vault)} - also
            function(vault)
            loose = [name for name in find_unsealed(vault) if name not in before]
            seal_loose(vault, made, loose, store.machine)

        for _ in range(3):
            try:
                await self.holding.writer.change(store, change)
                break
            except Unsealed as unsealed:
                more, mine = await self.make_locks(store, unsealed.names)
                made |= more
                own += mine
        else:
            raise AvaultError("what is to be sealed keeps changing", "try again")
        if own:
            await self.keep_made(store, own)

    async def settle(self, store: Store, wanted: Iterable[str] = ()) -> None:
        """Seal what came in clear: from a merge, or from an avault that does not know of it.

        What another machine has just set is left to that one, but for what is `wanted` here: two
        that seal one value make two of it.
        """
        reporter = self.holding.reporter
        async with self.settling:
            if self.looked is store.vault or store.trouble:
                return
            before = reporter.warnings.pop("unsealed", None)
            for _ in range(ROUNDS):
                looked, loose = store.vault, find_unsealed(store.vault)
                self.looked = None if loose else looked  # else it looks again
                names = [each for each in loose if each in wanted or is_left_to(store, each)]
                if not names:
                    break
                try:
                    await self.change(store, lambda vault: None, frozenset(names))
                except AvaultError as error:
                    shown = ", ".join(names[:5])
                    reporter.warnings["unsealed"] = (
                        f"not sealed, though the guard on it asks: {shown}: {error.message}"
                    )
                    break
            if before != reporter.warnings.get("unsealed"):
                reporter.report()


def is_left_to(store: Store, name: str) -> bool:
    """Whether this machine is to seal a value: its own, or one that another has not sealed."""
    group, _, key = name.partition("/")
    secret = find_clear(store.vault.groups[group].keys[key])
    return not secret or secret.machine == store.machine or secret.updated < time.time() - LEFT_TIME


def bind_locks(vault: Vault, host: str) -> dict[str, Any]:
    """What a lock says: the vault's identity and name, this machine's, and whose phones open it."""
    said = [vault.identity, vault.name]
    return {"vault": said, "host": host, "operators": vault.operators()}
