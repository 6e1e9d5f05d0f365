"""What other machines have put on relays comes into the vault, as by a `git pull`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avault.client import ask_daemon
from avault.errors import AvaultError, Locked, Tampered, Unavailable
from avault.git.copies import copies, inspect
from avault.places import Places
from avault.replica.introducing import introduce_by
from avault.replica.progress import Outbox, ReplicaProgress, change_progress, name_of
from avault.replica.reading import Readers, find_latest, merge_found
from avault.replica.roots import note_rotated
from avault.signer.replica import MOST_HEADS
from avault.vault.files import FileChanged, write_file
from avault.vault.generations import is_after
from avault.vault.work_tree import is_amid_git, is_git_at_work

if TYPE_CHECKING:
    from typing import Any

    from avault.signer.stored import StoredEvent

BUDGET_OF_TAKING = 300.0  # seconds
BUDGET_OF_COPY = 120.0  # of these, for the parts of one
MOST_LATE = 100  # heads that are remembered


async def take_in(places: Places, about: dict[str, Any], told: dict[str, Any]) -> None:
    """Fetch what is new on the vault's relays, and take it in: how many copies, and what is wrong.

    Those whose parts did not come the last time are the last. Raises Locked where the vault is.
    """
    async with Readers(about["relays"], introduce_by(places)) as readers:
        answers = await readers.find_heads(about["author"], about["heads"])
        events = {each.id: each.event for found in answers.values() for each in found}
        heads = ask_of_heads(places, answers)
        late = ReplicaProgress.load(places).content["late"]
        heads.sort(key=lambda head: (head["id"] in late, -sum(head["generation"].values())))
        for head in heads:
            now = ask_daemon(places, "replica", action="about")
            if not is_after(now["generation"], head["generation"]):
                parts = await find_parts(readers, about["author"], head)
                note_late(places, head["id"], parts is None)
                if parts is None:
                    told["problems"].append(
                        f"a copy of machine {head['machine']} is not whole on any relay"
                    )
                    continue
                try:
                    take_copy(places, now, head, join(places, events[head["id"]], parts))
                    told["taken"] += 1
                except (Tampered, FileChanged, Locked) as error:
                    ask_daemon(places, "replica", action="about")  # raises what ends it all
                    told["problems"].append(error.message)
                    continue
            with change_progress(places) as progress:
                progress.see(head["id"])


async def find_parts(readers: Readers, author: str, head: dict[str, Any]) -> list[str] | None:
    """The contents of a head's parts, as far as they come in time."""
    try:
        async with asyncio.timeout(BUDGET_OF_COPY):
            return await readers.find_copy(author, head)
    except TimeoutError:
        return None


def note_late(places: Places, head: str, is_late: bool) -> None:
    """Note whether a head's parts did not come: next time others have their turn first."""
    with change_progress(places) as progress:
        others = [each for each in progress.content["late"] if each != head]
        progress.content["late"] = [*others, *([head] if is_late else [])][-MOST_LATE:]


def ask_of_heads(places: Places, answers: dict[str, list[StoredEvent]]) -> list[dict[str, Any]]:
    """The heads that may have something new, as the keyholder reads them: some at a time.

    Of other machines the latest; of this one what each relay has, as nothing unknown is put away.
    """
    progress, outbox = ReplicaProgress.load(places), Outbox.load(places)
    ours = {name_of(slot[-1]) for slot in outbox.slots if slot}
    live = [each for found in answers.values() for each in find_latest(found).values()]
    found = {each.id: each for each in live if each.name in ours}
    found |= {each.id: each for each in find_latest(merge_found(answers)).values()}
    unseen = [each for each in found.values() if each.id not in progress.content["seen"]]
    heads: list[dict[str, Any]] = []
    known: list[str] = []
    for start in range(0, len(unseen), MOST_HEADS):
        some = [each.event for each in unseen[start : start + MOST_HEADS]]
        answer = ask_daemon(places, "replica", action="heads", value={"events": some})
        heads += answer["heads"]
        known += answer["known"]
    if known:
        with change_progress(places) as progress:
            for identity in known:
                progress.see(identity)
    return heads


def join(places: Places, head: dict[str, Any], parts: list[str]) -> bytes:
    """The avault.enc of a head (an event) and its parts, as the keyholder reads them."""
    value = {"event": head, "parts": parts}
    answer = ask_daemon(places, "replica", action="join", value=value)
    return str(answer["copy"]).encode()


def take_copy(places: Places, about: dict[str, Any], head: dict[str, Any], data: bytes) -> None:
    """Take in one copy: a later one in the file's place, another as a merge, which is a write.

    Raises Tampered, FileChanged, Locked, AvaultError.
    """
    described, ours, me = inspect(places, data), about["generation"], about["machine"]
    if described.generation != head["generation"]:
        raise Tampered(f"a copy of machine {head['machine']} is not what its head says")
    is_doubtful = described.generation.get(me, 0) > ours.get(me, 0)  # as the keyholder says then
    if is_doubtful or not is_after(described.generation, ours):
        with copies(places, data) as [name]:
            ask_daemon(places, "merge", theirs=name)
        return
    if is_git_at_work(places.dir) or is_amid_git(places.dir):
        raise FileChanged("git is at work around the vault")
    write_file(places.file("avault.enc"), data, over=about["digest"])
    ask_daemon(places, "replica", action="about")  # which has it noticed


async def try_to_take(places: Places, about: dict[str, Any]) -> dict[str, Any]:
    """`take_in`, where what fails is told and nothing more; it has an end, as sending waits."""
    told: dict[str, Any] = {"taken": 0, "problems": []}
    try:
        async with asyncio.timeout(BUDGET_OF_TAKING):
            await note_rotated(places)
            await take_in(places, about, told)
    except TimeoutError:
        said = f"relays did not give all that other machines have in {BUDGET_OF_TAKING:.0f} s"
        told["problems"].append(said)
    except (Locked, Unavailable, Tampered):  # which the vault's state is then, and told as such
        pass
    except AvaultError as error:
        told["problems"].append(error.message)
    return told
