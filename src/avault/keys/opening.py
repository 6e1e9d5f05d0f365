"""How the vault is opened, with a key that a custodian obtains."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from avault.daemon.following import leave_logs
from avault.daemon.phones import Renewal
from avault.errors import AvaultError, Locked, Tampered
from avault.keys.holding import Holding
from avault.keys.nostr import decrypt, parse_npub, public_hex, to_npub
from avault.keys.obtaining import GivenKey, KeptKey, OperatorKey, Phone
from avault.keys.seal import open_nsec, seal_nsec
from avault.places import Places
from avault.signer.pairing import shorten_hex
from avault.vault.kept_guards import read_known
from avault.vault.machine import SET_ASIDE
from avault.vault.machines import knows_phone
from avault.vault.presence import is_of, read_unlock
from avault.vault.recovery import is_for_several, seal_recovery
from avault.vault.store import Store

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from avault.keys.nostr import Keys

    Way: TypeAlias = "GivenKey | KeptKey | OperatorKey | Phone"


class Opening:
    """How a vault comes to be held: one key at a time."""

    def __init__(self, holding: Holding) -> None:
        self.holding = holding
        self.renewal = Renewal(holding.places, holding.host, holding.reporter)
        self.serving = asyncio.Lock()

    async def open(
        self, custodian: Way, accept_rollback: bool = False, is_late: bool = False
    ) -> None:
        """Obtain the key and serve the vault; see `serve`."""
        found = await obtain_key(self.holding.places, custodian)
        await self.serve(custodian, *found, accept_rollback, is_late)

    async def serve(
        self,
        custodian: Way,
        keys: Keys,
        content: dict[str, Any],
        own: bool,
        accept_rollback: bool,
        is_late: bool = False,
    ) -> None:
        """Serve the vault with its key, if nobody does yet.

        One whose key `is_late` is not opened any more: raises Locked. Whatever the vault says, the
        answer must open nothing tomorrow.
        """
        async with self.serving:
            if self.holding.store:
                await self.take_answer(self.holding.store, custodian, keys, content)
            elif is_late:
                is_phoneless = isinstance(custodian, KeptKey) and custodian.phoneless
                await self.use_up(keys, content, own, is_phoneless, custodian.proves)
                raise Locked(
                    "the phone approved when nobody waited any more: nothing was opened",
                    "ask again with: avault unlock",
                )
            else:
                await self.load(custodian, keys, content, own, accept_rollback)

    async def use_up(
        self,
        keys: Keys,
        content: dict[str, Any],
        own: bool,
        is_phoneless: bool = False,
        proves: bool = True,
    ) -> None:
        """Turn the ratchet by an answer that opens nothing, unless the vault is open meanwhile."""
        holding, ratchet = self.holding, self.holding.ratchet
        if not holding.store:
            ratchet.proven = content.get("proven")
            if proves:
                ratchet.prove()
            recovery = None if own else self.seal_recovery(keys, content)
            await ratchet.turn(keys, content, recovery)
            await self.renewal.renew(holding.store, keys, content, is_phoneless)

    async def renew_own_phones(self) -> None:
        """Make what the other operators' phones open anew, as one of them was asked in a trial."""
        if store := self.holding.store:
            is_phoneless = self.holding.consent.phoneless
            await self.renewal.renew(store, store.keys, self.holding.ratchet.content, is_phoneless)

    def seal_recovery(self, keys: Keys, content: dict[str, Any]) -> dict[str, Any] | None:
        """What nsec.enc is to have: for all operators.

        If the vault does not open, these are not known: one that is there stays as it is.
        """
        holding = self.holding
        try:
            store = holding.store or Store.read(holding.places, keys, content)
        except AvaultError:
            if is_for_several(holding.places):
                holding.reporter.warnings["recovery"] = (
                    "what the phone has answered opens nsec.enc, which stays as it is until"
                    " the vault opens"
                )
                return None
            operator = parse_npub(content["operator"])
            return seal_nsec(keys, content["vault"], operator, content["name"], holding.host)
        return seal_recovery(keys, store.vault, holding.host)

    async def take_answer(
        self, store: Store, custodian: Way, keys: Keys, content: dict[str, Any]
    ) -> None:
        """Turn the ratchet of a vault that is open already, by an answer that is about it.

        Raises Tampered for another.
        """
        is_others = bool(custodian.operator) and not is_of(store.vault, content)
        if public_hex(keys) != store.vault.agent or is_others:
            raise Tampered("the answer opens another vault than the one that is open")
        ratchet = self.holding.ratchet
        if custodian.proves:
            ratchet.prove()
        if isinstance(custodian, Phone):
            ratchet.note_quickness(custodian.signer.answered_in, ratchet.content)
        await ratchet.turn(store.keys, ratchet.content)

    async def load(
        self,
        custodian: Way,
        keys: Keys,
        content: dict[str, Any],
        own: bool,
        accept_rollback: bool,
    ) -> None:
        """Load the vault; turn the ratchet even if it cannot be, but where all has to stay."""
        holding, ratchet = self.holding, self.holding.ratchet
        ratchet.proven, ratchet.guards = content.get("proven"), read_known(keys, content)
        if custodian.proves or (isinstance(custodian, KeptKey) and not own):  # see `Shared`
            ratchet.prove()
        name = custodian.custodian if isinstance(custodian, KeptKey) else None
        holding.consent.custodian = name
        way = f"the custodian {name}" if name else type(custodian).__name__
        if isinstance(custodian, Phone):
            ratchet.note_quickness(custodian.signer.answered_in, content)
            way += f", asked as {shorten_hex(custodian.signer.me)}"
        named = {**content, "operator": custodian.operator and content["operator"]}
        named["guards"] = ratchet.guards
        try:
            store = await asyncio.to_thread(
                Store.load, holding.places, keys, named, accept_rollback
            )
            if not (custodian.operator or is_of(store.vault, content)):  # another is in that place
                content = {**content, "operator": to_npub(store.vault.operator)}
            if isinstance(custodian, KeptKey):
                custodian.check(store.vault, keys)
            leave_logs(holding.places)
            holding.begin(store, content, way, is_new=not own)
            if custodian.proves:
                store.note_seen()
        finally:
            is_aside = os.path.lexists(holding.places.own(SET_ASIDE))
            is_left = is_aside or not (own or custodian.operator)
            if holding.store or not is_left:
                await self.use(custodian, keys, content, own)
        await holding.note_left()
        if not own and not isinstance(custodian, KeptKey):
            holding.reporter.warnings["recovery"] = (
                "the phone opened nsec.enc, which git keeps: who recorded its answer and gets this"
                " machine's pairing.json has the key; against that: avault pair --replace"
                " (from the next unlock on, this machine has its own envelope)"
            )
        await holding.verify_recovery()
        holding.note_hints()
        if not isinstance(custodian, GivenKey):
            await holding.register()
        holding.reporter.report()

    async def use(self, custodian: Way, keys: Keys, content: dict[str, Any], own: bool) -> None:
        """Turn the ratchet by what has obtained the key, and keep the pairing that it came by."""
        holding = self.holding
        is_told = not own and not isinstance(custodian, KeptKey)
        is_lost = is_told or not os.path.lexists(holding.places.file("nsec.enc"))
        recovery = self.seal_recovery(keys, content) if is_lost else None
        await holding.ratchet.turn(keys, content, recovery)
        if isinstance(custodian, Phone):
            holding.contact.keep(custodian.pairing)
        self.note_consent(custodian)
        await self.renewal.renew(holding.store, keys, content, holding.consent.phoneless)

    def note_consent(self, custodian: Way) -> None:
        """Who agrees to changes from now on: the phone, where this machine is paired."""
        holding = self.holding
        holding.contact.note_seen(holding.store)
        if holding.contact.is_paired():
            holding.consent.end()
        elif isinstance(custodian, OperatorKey) and holding.store:
            holding.consent.begin()
        elif isinstance(custodian, KeptKey) and holding.store:
            # also where another machine has been paired since it was entrusted
            is_known = knows_phone(holding.store.vault)
            holding.consent.phoneless = custodian.phoneless and not is_known


async def obtain_key(places: Places, custodian: Way) -> tuple[Keys, dict[str, Any], bool]:
    """The agent's key, the content that it was obtained by, and whether that is this machine's.

    What was read before the phone was asked counts to the end: meanwhile others may write to
    the disk, and ask too. Raises AvaultError.
    """
    content, own = read_unlock(places, custodian.operator)
    keys = await custodian.get_key(content)
    # The envelope binds agent and operator: before anything is sealed for an operator, it must
    # be the one.
    operator = parse_npub(content["operator"])
    try:
        bound = open_nsec(content, decrypt(keys, operator, content["envelope"]))
    except ValueError:
        bound = None
    if not bound or public_hex(bound) != public_hex(keys):
        raise Tampered(
            "the vault's files name another operator than they were made for",
            "take them from git history",
        )
    return keys, content, own
