"""A new agent's key: the phone opens an envelope of it before anything is sealed anew.

The steps are the supervisor's, as custodians' helpers are. Until the last one nothing that counts
has changed, and the new key is here alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

from avault.custody.custodians import Custodians
from avault.custody.shared import state_given
from avault.daemon.log import AccessLog
from avault.daemon.phones import renew_phones
from avault.daemon.sentences import describe_openers
from avault.errors import AvaultError, Denied, Locked, Tampered, Unavailable, Usage, complain
from avault.keys.entrusting import explain_change, give_key, tell_of_change
from avault.keys.hardening import meet
from avault.keys.holding import Holding
from avault.keys.nostr import make_keys, public_hex, to_npub
from avault.keys.obtaining import AGREED, mark_agreed
from avault.keys.seal import (
    make_envelope,
    open_nsec,
    open_vault,
    request_code,
    seal_keys,
    seal_nsec,
    seal_vault,
)
from avault.places import Places
from avault.vault.files import read_file, write_file
from avault.vault.kept_guards import known_guards
from avault.vault.machine import describe_pin
from avault.vault.marks import add_mark
from avault.vault.names import PHONE
from avault.vault.older import keep_old_key
from avault.vault.own_files import encode_file, encode_hints, read_hints
from avault.vault.presence import read_sealed
from avault.vault.records import SUCCEEDED
from avault.vault.recovery import Recovery, carry, seal_recovery
from avault.vault.rotation import (
    Stage,
    begin_stage,
    commit,
    complete_rotation,
    drop,
    name_of_logs,
)
from avault.vault.store import Store
from avault.vault.times import render_time
from avault.vault.work_tree import is_amid_git, is_git_at_work

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.nostr import Keys
    from avault.keys.unlocking import Unlocking
    from avault.protocol import Message
    from avault.signer.pairing import Pairing
    from avault.vault.records import Vault


class Rotating:
    """A rotation of the agent's key that is under way: `fresh` is the new one, until it counts.

    `operators` and `custodians` are those whom the operator was told of when agreeing to it. Who
    has the old key, or writes to the disk, can have put others there since.
    """

    def __init__(self, holding: Holding, unlocking: Unlocking) -> None:
        self.holding, self.unlocking = holding, unlocking
        self.fresh: Keys | None = None
        self.operators: dict[str, str] = {}
        self.custodians: list[Message] = []

    async def step(self, message: Message, fd: int | None) -> None:
        """One of the steps, by the message's `step`; tell what came of it."""
        came, failed = None, None
        try:
            if message["step"] == "begin":
                came = await self.begin(message)
            elif message["step"] == "entrust" and fd is not None:
                with socket.socket(fileno=fd) as door:
                    came = await self.entrust(self.key(message), message, door)
            else:
                came = await self.turn_over(self.key(message), message["files"])
        except Exception as error:
            failed = explain_change(error)
        tell_of_change(self.holding, message, came, failed)

    def key(self, message: Message) -> Keys:
        """The new key that a step is about; raises Locked where it is gone, or another."""
        if not self.fresh or to_npub(public_hex(self.fresh)) != message["agent"]:
            raise Locked("the vault was locked meanwhile", "rotate again: avault rotate agent")
        return self.fresh

    def need_store(self) -> Store:
        """The open vault, whole on the disk; raises Denied, Locked, Unavailable."""
        store = self.holding.store
        if not store or not self.holding.log:
            raise Locked("the vault was locked meanwhile", "ask again with: avault unlock")
        store.notice()
        if store.trouble:
            raise Denied(
                f"the vault is not whole on the disk: {store.trouble.message}",
                "mend it first: avault status",
            )
        if is_amid_git(store.places.dir) or is_git_at_work(store.places.dir):
            raise Unavailable("git is at work in the vault's directory", "let it end, then again")
        return store

    def refuse_amid_talk(self) -> None:
        """Raise Usage while somebody talks with the operator, by what is replaced."""
        if self.unlocking.talking:
            raise Usage("a pairing or a drill is under way", "let it end, then rotate again")

    async def begin(self, message: Message) -> dict[str, Any]:
        """Make the new key and have the phone open an envelope of it; what custodians need then."""
        store, holding = self.need_store(), self.holding
        self.refuse_amid_talk()
        if holding.log:
            holding.log.write({"op": "rotate", "for": "agent"}, message["caller"], "ok")
        fresh, offered = make_keys(), list(message["custodians"])
        custodians = [each for each in offered if each["agreed"] == mark_agreed(store.keys, each)]
        operators = {"": store.vault.operator, **store.vault.other_operators()}
        if {name: to_npub(each) for name, each in operators.items()} != message["operators"]:
            raise Denied("the operators were changed meanwhile", "see: avault operator list")
        await self.prove(store, fresh, message, custodians)
        holding.need(store)
        self.fresh, self.operators, self.custodians = fresh, operators, custodians
        stage = begin_stage(store.places)
        write_file(
            stage.file("avault.enc"), seal_vault(renew_vault(store, fresh, operators), fresh)
        )
        write_file(stage.own("unlock.json"), self.make_unlock(store, fresh))
        changed = [each["custodian"] for each in offered if each not in custodians]
        return {"agent": to_npub(public_hex(fresh)), "changed": changed}

    async def prove(
        self, store: Store, fresh: Keys, message: Message, custodians: list[Message]
    ) -> None:
        """Have the operator agree by opening an envelope of the new key, which yields that key."""
        holding, vault = self.holding, store.vault
        pairing = holding.contact.find(store)
        if not pairing:
            if not holding.consent.take(str(message["ticket"])):
                raise Denied(
                    "only a paired vault can ask whether that is meant", "pair it with: avault pair"
                )
            return
        asked = to_npub(pairing.operator)
        openers = describe_openers(message["operators"], custodians, holding.host, asked)
        besides = f" Besides you it is opened by: {openers}." if openers else ""
        unlock, content = seal_keys(fresh, vault.identity, pairing.operator, vault.name)
        code = request_code(content["sealed"])
        sentence = (
            f"avault: give {vault.name} a NEW agent key, asked on {holding.host}, code {code}."
            f" The old one opens it no more.{besides} Approve only if you want that."
        )
        title = f"a new agent key for {vault.name}"
        envelope = make_envelope(fresh, pairing.operator, title, sentence, unlock)
        holding.reporter.control.send({"asking": code, "ticket": message["ticket"]})
        connected = holding.contact.connect(pairing, pairing.signer)
        params = [public_hex(fresh), envelope]
        async with asyncio.timeout(300), connected as signer:
            await signer.request("nip44_decrypt", params, lambda said: open_nsec(content, said))

    def make_unlock(
        self, store: Store, fresh: Keys, rotated: dict[str, list[str]] | None = None
    ) -> bytes:
        """unlock.json under the new key, with what the agents before have said."""
        holding, vault = self.holding, store.vault
        is_asked = bool(holding.contact.pairing or holding.contact.seen)
        proven = render_time(time.time()) if is_asked else holding.ratchet.proven
        pairing = holding.contact.find(store)
        operator = pairing.operator if pairing else vault.operator
        names = vault.identity, operator, vault.name, holding.host
        content = {
            **seal_nsec(fresh, *names, known_guards(store.vault)),
            "proven": proven,
            "quick": 0,
            **(rotated or {}),
        }
        return encode_file("unlock", content)

    async def entrust(self, fresh: Keys, message: Message, door: socket.socket) -> dict[str, Any]:
        """`give_key` with the new one, to a custodian that the operator was told of."""
        what = {each: message[each] for each in AGREED}
        if what not in [{each: known[each] for each in AGREED} for known in self.custodians]:
            raise Denied("that is not the custodian that was agreed to")
        store = self.need_store()
        with await meet(door, message["helper"]) as helper:
            return give_key(self.holding, fresh, store.vault, message, helper)

    async def turn_over(self, fresh: Keys, files: dict[str, str]) -> dict[str, Any]:
        """Have the new key count: stage all that is sealed with it, commit that, and serve it.

        `files` are staged already. Once it counts there is no way back: where the rest fails, this
        process ends, and the next start completes it.
        """
        holding = self.holding
        async with self.unlocking.opening.serving, holding.ratchet.turning:
            await holding.writer.finish()
            # from here to the end nothing else runs in this process
            self.refuse_amid_talk()
            if holding.log:
                holding.log.settle(at_once=True)
                holding.log.save()
            store, pairing = self.need_store(), holding.contact.find(self.holding.store)
            stage, log = Stage(store.places), name_of_logs(store.places, store.vault.agent)
            stage.files |= files
            try:
                pairing = self.stage_all(stage, store, fresh, pairing)
                if refused := complete_rotation(store.places):
                    raise Tampered(refused)
                self.serve_anew(store.places, fresh, pairing)
            except BaseException as error:
                raise self.give_up(stage, error) from None
            self.fresh = None
        holding.reporter.report()
        holding.reporter.wrote()
        return {"log": os.path.basename(log)}

    def give_up(self, stage: Stage, error: BaseException) -> BaseException:
        """Leave all as it was; or serve nothing any more, where the new key counts already."""
        if not stage.counts:
            drop(stage.at)
            return error
        said = complain(error) if isinstance(error, Exception) else AvaultError("it was cut off")
        told = AvaultError(
            f"the new key counts, and is not in place yet: {said.message}",
            "mend that, then: avault unlock, which completes it",
        )
        self.holding.store = self.holding.log = None
        self.holding.reporter.report()
        self.holding.reporter.fail(told)
        self.unlocking.ended.set()
        return told

    def stage_all(
        self, stage: Stage, store: Store, fresh: Keys, pairing: Pairing | None
    ) -> Pairing | None:
        """Write all files under the agent's key, beside the custodians', and commit them.

        What is given is the pairing for that key.
        """
        store.pin()  # by which it is known what this goes on from
        if store.warning:
            raise AvaultError(store.warning)
        draft = renew_vault(store, fresh, self.operators, self.holding.unsigned.signed)
        sealed = seal_vault(draft, fresh)

        def check(written: bytes) -> None:
            if open_vault(written, fresh).generation != draft.generation:
                raise Denied("the vault that was written does not open", "all is as it was before")

        host, phoneless = self.holding.host, self.holding.consent.phoneless
        stage.put("avault.enc", sealed, check)
        stage.put("nsec.enc", encode_file("nsec", seal_recovery(fresh, draft, host)))
        stage_phones(stage, store)
        stage.files |= renew_phones(stage, fresh, draft, host, phoneless)
        relays, operator = hinted_relays(store.places), draft.operator
        if pairing:
            relays, operator = pairing.relays, pairing.operator
            pairing = pairing.of_agent(draft.agent)
            stage.put("pairing.json", pairing.encode())
        stage.put("nip46.json", encode_hints(draft.agent, operator, relays, draft.name))
        seen = {"hash": stage.files["nsec.enc"]}
        stage.put("recovery.json", encode_file("recovery", seen))
        stage.put("unlock.json", self.make_unlock(store, fresh, carry(draft)))
        pin = describe_pin(draft, stage.files["avault.enc"])
        stage.put("pin.json", encode_file("pin", pin))
        log = AccessLog(stage.at, fresh, is_new=True)  # whose files, empty ones, go again
        stage.put("log.json", log.encode())
        log.close()
        commit(stage, store.keys, draft, store.digest)
        return pairing

    def serve_anew(self, places: Places, keys: Keys, pairing: Pairing | None) -> None:
        """Go on with what is on the disk, which is the new agent's."""
        holding = self.holding
        content = read_sealed("unlock", places.own("unlock.json"))
        store = Store.load(places, keys, content)
        holding.contact.pairing = pairing if holding.contact.pairing else None
        holding.contact.seen = None if holding.contact.pairing else pairing
        holding.contact.begun = None
        if holding.log:
            holding.log.close()
        holding.ratchet.proven = content["proven"]
        holding.recovery = Recovery(places, holding.host)
        holding.begin(store, content, "rotation", is_new=False)
        holding.recovery.verify(store.keys, store.vault)
        holding.reporter.warnings.pop("hints", None)


def renew_vault(
    store: Store, fresh: Keys, operators: dict[str, str], given: dict[str, Any] | None = None
) -> Vault:
    """The open vault as the new agent's, for these operators, with the old key kept in it.

    It knows of the shared custodians among those `given` that the new agent has signed.
    Raises Denied where another came in the place of the first one meanwhile.
    """
    draft, now = store.vault.copy(), int(time.time())
    if draft.operator != operators[""]:
        raise Denied("the operator was changed meanwhile", "see: avault operator list")
    known, draft.made_for = draft.other_operators(), draft.operator
    store.me.keep_up(draft)
    for name in [each for each in draft.facts if each.startswith(("operator/", SUCCEEDED))]:
        draft.state(name, None, now, store.machine)
    for name, public in known.items():
        if operators.get(name) == public:  # with no other beside it, which a merge could bring up
            draft.state(f"operator/{name}", public, now, store.machine)
    state_given(draft, given or {}, to_npub(public_hex(fresh)), now, store.machine)
    old = to_npub(draft.agent)
    draft.agent, draft.sources = public_hex(fresh), [store.digest]
    add_mark(draft, "agent", old, f"{old[:16]}…", now, store.machine)
    keep_old_key(draft, store.keys, now, store.machine)
    draft.generation[store.machine] = draft.generation.get(store.machine, 0) + 1
    draft.generation = dict(sorted(draft.generation.items()))
    return draft


def hinted_relays(places: Places) -> list[str]:
    """The relays of nip46.json, which is only a hint: none where it is gone, or damaged."""
    with contextlib.suppress(AvaultError):
        return [str(url) for url in read_hints(places.file("nip46.json"))["relays"]]
    return []


def stage_phones(stage: Stage, store: Store) -> None:
    """Stage what the other operators' phones open, which is made anew without asking anybody."""
    custodians = Custodians(store.places)
    for name in custodians.names():
        with contextlib.suppress(Tampered):
            if custodians.load(name)["kind"] == PHONE:
                data = read_file(custodians.path_of(name))
                write_file(Custodians(stage).path_of(name), data)
