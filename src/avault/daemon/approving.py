"""The operator's word for the first use of a grant that wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.daemon.grant import ASK_MAKER, Grant
from avault.daemon.grants import Grants
from avault.daemon.restraint import ASK_PAUSES, describe_who
from avault.daemon.wire import Session
from avault.errors import AvaultError, Denied, Locked, TimedOut
from avault.keys.entrusting import ask_operator
from avault.keys.holding import Holding
from avault.process import uptime

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


SHOWN_IN_GRANT = 8  # names that the phone is shown
APPROVAL_TITLE = "the first use of a grant"


def describe_grant(grant: Grant) -> str:
    """What a grant is for, in the words of the phone."""
    names = [f"all of {each}" for each in sorted(grant.share.groups)] + sorted(grant.share.only)
    shown = ", ".join(names[:SHOWN_IN_GRANT])
    more = len(names) - SHOWN_IN_GRANT
    return shown + (f" and {more} more" if more > 0 else "")


async def approve_grant(
    holding: Holding,
    grants: Grants,
    session: Session,
    grant: Grant,
    note: Callable[[str], None],
) -> None:
    """Have the operator agree to the first use, unless that was done; raises AvaultError.

    What keeps the caller from it is noted, by its code. What a person refuses stays refused: the
    grant ends.
    """
    try:
        await ask_for_grant(holding, session, grant, session.caller or {})
    except BaseException as error:
        note(error.code if isinstance(error, AvaultError) else TimedOut.code)
        if grant.is_ended:
            if isinstance(error, AvaultError):  # who asked is told, before it is cut with the rest
                session.send(error.to_dict())
            grants.end([grant])
        raise


async def ask_for_grant(
    holding: Holding, session: Session, grant: Grant, caller: dict[str, Any]
) -> None:
    """One question at a time; after one in vain the phone is left alone, ever longer.

    A grant that is refused has ended. Raises AvaultError.
    """
    pause = grant.pause
    async with pause.asking:
        grant.check_request("get")
        if not grant.asks:
            return
        if (left := pause.until - uptime()) > 0:
            raise Denied(f"the phone was asked in vain; it is asked again in {left:.0f} s", "wait")
        store = holding.store
        if not store or not holding.contact.find(store):
            raise Locked("the phone cannot be asked", ASK_MAKER)
        pause.in_vain += 1
        pause.until = uptime() + ASK_PAUSES[min(pause.in_vain, len(ASK_PAUSES)) - 1]
        sentence = (
            f"avault: {describe_who(caller)} on {holding.host} wants to begin using the grant"
            f" {grant.name} of {store.vault.name}, for {describe_grant(grant)}"
        )

        def tell(code: str) -> None:
            session.send({"progress": "asking", "code": code})

        try:
            await ask_operator(holding, store, {}, APPROVAL_TITLE, sentence, tell)
        except Denied:
            grant.is_ended = True
            raise
        except TimeoutError:
            raise TimedOut("nobody approved in time", "is the signer app open?") from None
        grant.check_request("get")
        grant.asks, pause.in_vain, pause.until = False, 0, 0.0
