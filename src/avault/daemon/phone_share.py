"""Those for whom the keyholder itself asks the phone: counted with the processes that ask it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.daemon.wire import Session
from avault.errors import Unavailable
from avault.keys.keyholder import Keyholder
from avault.late import context

if TYPE_CHECKING:
    from collections.abc import Iterator


@context
def share_phone(keyholder: Keyholder, session: Session) -> Iterator[None]:
    """Be one of those who have the phone asked, for the length of a `with`.

    They are counted with the processes that ask it; raises Unavailable where there are too many.
    """
    openers, through = keyholder.openers, session.grant.name if session.grant else None
    if openers.is_full(through=through):
        raise Unavailable("too many wait for the phone", "try again in a while")
    openers.starting.append((True, through))
    try:
        yield
    finally:
        openers.starting.remove((True, through))
