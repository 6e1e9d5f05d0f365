"""What relays have in the places of roots, where a machine without the vault begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.errors import AvaultError, Unavailable
from avault.replica.progress import Outbox
from avault.replica.reading import Readers
from avault.signer.replica import read_farewell, read_root

if TYPE_CHECKING:
    from avault.signer.stored import StoredEvent


async def find_roots(outbox: Outbox) -> dict[str, list[StoredEvent]]:
    """What all relays have in the places of the roots, by agent: one alone may have lost it."""
    found: dict[str, list[StoredEvent]] = {}
    async with Readers(outbox.relays) as readers:
        for agent, name in outbox.names.items():
            answers = await readers.find_roots(agent, name)
            found[agent] = [each for events in answers.values() for each in events]
    return found


def is_in_place(event: StoredEvent, agent: str, is_before: bool) -> bool:
    """Whether an event is what is to be in a root's place: of an agent before, a farewell."""
    if is_before:
        return read_farewell(event.event, agent) is not None
    try:
        read_root(event.event, agent)
    except AvaultError:
        return False
    return True


def refuse_rotated_root(
    there: StoredEvent | None, everywhere: list[StoredEvent], agent: str
) -> None:
    """Raise Unavailable where an agent's key was rotated, as it has signed itself."""
    if there and read_farewell(there.event, agent):
        raise Unavailable("says that the agent's key was rotated")
    if any(read_farewell(each.event, agent) for each in everywhere):
        raise Unavailable("gets no root: another relay says that the agent's key was rotated")
