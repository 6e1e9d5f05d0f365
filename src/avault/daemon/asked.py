"""Secrets of which the phone is asked at each use, in the keyholder: it never has them.

Who wants one has to be there until the answer: a caller that dies takes its question with it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avault.daemon.gate import Passage
from avault.daemon.leaving import ClientWatch
from avault.daemon.openers import bind_locks
from avault.daemon.releasing import Release, describe_answer
from avault.daemon.restraint import which_asks, who_asks
from avault.daemon.wire import Session
from avault.daemon.wishing import count_again, describe_wish
from avault.errors import AvaultError, Denied, TimedOut
from avault.keys.keyholder import Keyholder
from avault.process import uptime
from avault.protocol import read_limit
from avault.vault.had import is_asked
from avault.vault.locks import find_lock
from avault.vault.secret import is_sealed

if TYPE_CHECKING:
    from collections.abc import Callable

    from avault.protocol import Message
    from avault.vault.locks import Lock

    Admit = Callable[[], "Passage"]


ASK_TIME = 300.0  # seconds for which a caller waits, if it does not say less
SPARE_TIME = 30.0  # seconds that the process has besides
TAKE_TIME = 45.0  # seconds for a value that a client sends
LARGEST_BODY = 2 << 20  # bytes of what an answer is made of


class Sealed:
    """A value that was sealed before it was here: its `lock`, and this machine's own on the key."""

    def __init__(self, value: str, lock: Lock, own: list[Lock]) -> None:
        self.value, self.lock, self.own = value, lock, own


async def serve_asked(
    keyholder: Keyholder, session: Session, request: Message, admit: Admit
) -> Message:
    """Release secrets that the phone opens. The answer is sent by the process that opened them.

    `admit` is what may go out at the moment: it may be another when it is this one's turn.
    """
    keyholder.identify(session)
    try:
        names = sorted(admit().asked)
        with ClientWatch(session, keyholder.askings.given):
            await obtain(keyholder, session, request, admit, names)
    except AvaultError as error:
        keyholder.release(session, request, error.code)
        raise
    except asyncio.CancelledError:
        keyholder.release(session, request, TimedOut.code)
        raise
    except TimeoutError:
        keyholder.release(session, request, TimedOut.code)
        raise TimedOut(
            "others are asked for, and it was not its turn in time", "try again"
        ) from None
    return {}


async def obtain(
    keyholder: Keyholder, session: Session, request: Message, admit: Admit, names: list[str]
) -> None:
    """Give what is open for this caller yet, or have the phone asked; raises AvaultError.

    Raises TimeoutError where it was not its turn in time.
    """
    if await serve_again(keyholder, session, request, admit()):
        return
    restraint, who = keyholder.askings.restraint, who_asks(session.caller or {})
    restraint.check(who, names)
    limit = min(read_limit(request) or ASK_TIME, ASK_TIME)
    async with asyncio.timeout(limit) as waiting, keyholder.askings.alone(who, names):
        await keyholder.openers.settle(keyholder.open_store(), names)
        who = who_asks(keyholder.identify(session))  # it may have ended while it waited
        restraint.check(who, names)  # it may have been refused to another one
        passage = admit()
        if sorted(passage.asked) != names:
            raise Denied("the guards have changed meanwhile", "ask again")
        job = describe_job(keyholder, session, request, passage)
        through = session.grant.name if session.grant else None
        is_full = keyholder.openers.is_full(through=through)
        job["overheard"] = keyholder.askings.end_late(names, is_full, through)
        opener = await keyholder.openers.start(through=through)
        client = session.transport.get_extra_info("socket").fileno()
        found = Release(keyholder, session, request, passage, opener)
        await release(found, job, waiting, client)
        restraint.forgive(who, names)


async def release(
    found: Release, job: Message, waiting: asyncio.Timeout, client: int | None
) -> None:
    """Have a process ask, open and answer, in the time that is left; raises AvaultError."""
    job["limit"] = max((waiting.when() or 0.0) - asyncio.get_running_loop().time(), 0.0)
    waiting.reschedule(None)  # the process looks at it
    found.assignment.questions = job["overheard"] + job["questions"]
    try:
        found.assignment.send(job, client)
        async with asyncio.timeout(job["limit"] + SPARE_TIME):
            await asyncio.shield(found.outcome)
    except TimeoutError:
        found.assignment.end()
        raise TimedOut("nobody approved in time", "is the signer app open?") from None
    finally:
        found.leave()


def describe_job(
    keyholder: Keyholder, session: Session, request: Message, passage: Passage
) -> Message:
    """What a process needs that asks for what was let out, opens it, and gives it to the caller."""
    answer = describe_answer(request, passage)
    if len(answer["body"]) > LARGEST_BODY:
        raise Denied("that is too much to be asked for at once", "name fewer of them")
    values = {}
    for name in sorted(passage.asked):
        group, _, key = name.partition("/")
        values[name] = [each.value for each in passage.vault.groups[group].keys[key]]
    vault, host = keyholder.open_store().vault, keyholder.holding.host
    return {
        "do": "release",
        **describe_questions(keyholder, values),
        "sentence": describe_wish(vault.name, host, session, request, passage),
        "stay": count_again(session, passage),
        **answer,
    }


def describe_questions(keyholder: Keyholder, values: dict[str, list[str]]) -> Message:
    """What a process needs that has the phone open these, by their names; raises Denied."""
    store, openers = keyholder.open_store(), keyholder.openers
    pairing, own = openers.need_pairing(store), openers.own.read()
    questions = []
    for name, found in values.items():
        for value in found:
            if not is_sealed(value):
                raise Denied(f"{name} could not be sealed yet, so nobody gets it", "avault status")
            shared = find_lock(store.vault, value)
            locks = [
                each
                for each in (own.get(shared["to"]), shared)
                if each and pairing.operator in each["envelopes"]
            ]
            if not locks:
                raise Denied(
                    f"{name} was sealed for other operators than this machine's",
                    f"one of them has to use it once; or set it anew: avault set {name}",
                )
            # the vault's is made anew with its own, where others are to open it
            is_shared = {*shared["envelopes"]} != {*store.vault.operators()}
            questions.append({"name": name, "locks": locks, "anew": is_shared})
    return {
        **bind_locks(store.vault, keyholder.holding.host),
        "operator": pairing.operator,
        "client_key": pairing.keys.secret_key().to_hex(),
        "signer": pairing.signer,
        "relays": pairing.relays,
        "questions": questions,
    }


async def serve_again(
    keyholder: Keyholder, session: Session, request: Message, passage: Passage
) -> bool:
    """Give a caller what was opened for it a while ago, where its guard allows that."""
    now, caller = uptime(), which_asks(session.caller or {}, session.grant)
    keyholder.askings.end_stale(keyholder.open_store().vault)
    for (who, names), found in keyholder.askings.staying.items():
        is_there = caller and who == caller and {*passage.asked} <= {*names}
        if is_there and now < found.opened_at + min(passage.asked.values()):
            return bool(await found.give_again(session, request, passage))
    return False


async def take_sealed(
    keyholder: Keyholder, session: Session, place: str, size: int | None
) -> Sealed | None:
    """A value for a secret whose guard asks, sealed before it is here, and the lock on it.

    The client sends it to a process that ends with that; or it is generated there. None where it
    is not to be sealed, or where the client has sent it already.
    """
    openers, store = keyholder.openers, keyholder.open_store()
    if not is_asked(keyholder.gate.look(store.vault), place):
        return None
    session.transport.pause_reading()
    try:
        if session.inflow.frames.buffer:  # it is here in clear
            return None
        with keyholder.askings.take_from(which_asks(keyholder.identify(session))):
            made, own = await openers.make_locks(store, [place])
            assignment = await openers.start(is_asking=False)
            try:
                client = session.transport.get_extra_info("socket").fileno()
                assignment.send({"do": "take", "to": made[place]["to"], "generate": size}, client)
                found = await assignment.hear_answer(TAKE_TIME)
                return Sealed(str(found["sealed"]), made[place], own)
            finally:
                assignment.end()
    finally:
        if not session.inflow.is_paused and not session.transport.is_closing():
            session.transport.resume_reading()
