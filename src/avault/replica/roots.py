"""What relays have in the places of roots, where a machine without the vault begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.errors import AvaultError, Unavailable
from avault.keys.nostr import to_npub
from avault.places import Places
from avault.replica.progress import Outbox, ReplicaProgress, change_progress
from avault.replica.reading import Readers
from avault.signer.replica import read_farewell, read_root
from avault.vault.statements import read_successor

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


async def note_rotated(places: Places) -> None:
    """Note who takes this vault's agent's place, as any relay has it signed by that agent.

    What was once seen stays: whoever has the old key can have a relay put it away.
    """
    outbox = Outbox.load(places)
    async with Readers(outbox.relays) as readers:
        answers = await readers.find_roots(outbox.agent, outbox.names.get(outbox.agent, ""))
    events = [each.event for found in answers.values() for each in found]
    named = {read_farewell(event, outbox.agent) for event in events} - {None}
    if named:
        with change_progress(places) as progress:
            before = progress.content["rotated"]
            progress.content["rotated"] = sorted({*before, *(to_npub(str(each)) for each in named)})


def explain_rotated(places: Places) -> list[str]:
    """What a person is told of that, and what to do; no npub, as a forger may be the first seen."""
    named = ReplicaProgress.load(places).content["rotated"]
    if not named:
        return []
    said = (
        "another machine has rotated the agent's key, as relays have it signed; if that was you:"
        " avault lock; avault recover --from-relays NPUB, the npub that rotate agent has shown on"
        " the other machine"
    )
    if len(named) > 1:
        said = (
            "relays have it signed that the agent's key was rotated to several keys, which whoever"
            " has a key that was rotated away can make: go by the npub that rotate agent has shown"
        )
    return [said]


def is_in_place(event: StoredEvent, agent: str, outbox: Outbox) -> bool:
    """Whether an event is what is to be in a root's place: of an agent before, a farewell.

    It names whom this vault's own statement names: who has that agent's key can name another.
    """
    if agent != outbox.agent:
        named = read_successor(outbox.statements.get(agent), agent)
        return named is not None and read_farewell(event.event, agent) == named
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
