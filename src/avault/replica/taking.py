"""What other machines have put on relays comes into the vault, as by a `git pull`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avault.client import ask_daemon
from avault.errors import AvaultError, Locked, Tampered, Unavailable
from avault.git.copies import copies, inspect
from avault.places import Places
from avault.replica.progress import ReplicaProgress, change_progress
from avault.replica.reading import Readers, find_latest, is_after, merge_found
from avault.signer.replica import MOST_HEADS
from avault.vault.files import FileChanged, write_file
from avault.vault.work_tree import is_amid_git, is_git_at_work

if TYPE_CHECKING:
    from typing import Any

    from avault.signer.stored import StoredEvent

BUDGET_OF_TAKING = 120.0  # seconds


async def take_in(places: Places, about: dict[str, Any]) -> dict[str, Any]:
    """Fetch what is new on the vault's relays, and take it in: how many copies, and what is wrong.

    Raises Locked where the vault is.
    """
    taken, problems = 0, []
    async with Readers(about["relays"]) as readers:
        found = merge_found(await readers.find_heads(about["author"], about["heads"]))
        events = {each.id: each.event for each in found}
        heads = ask_of_heads(places, [*find_latest(found).values()])
        heads.sort(key=lambda head: -sum(head["generation"].values()))
        for head in heads:
            now = ask_daemon(places, "replica", action="about")
            if not is_after(now["generation"], head["generation"]):
                parts = await readers.find_copy(about["author"], head)
                if parts is None:
                    problems.append(
                        f"a copy of machine {head['machine']} is not whole on any relay"
                    )
                    continue
                try:
                    take_copy(places, now, head, join(places, events[head["id"]], parts))
                    taken += 1
                except (Tampered, FileChanged) as error:
                    problems.append(error.message)
                    continue
            with change_progress(places) as progress:
                progress.see(head["id"])
    return {"taken": taken, "problems": problems}


def ask_of_heads(places: Places, found: list[StoredEvent]) -> list[dict[str, Any]]:
    """The heads that may have something new, as the keyholder reads them: some at a time."""
    seen = {*ReplicaProgress.load(places).content["seen"]}
    unseen, heads, known = [each for each in found if each.id not in seen], [], []
    for start in range(0, len(unseen), MOST_HEADS):
        value = {"events": [each.event for each in unseen[start : start + MOST_HEADS]]}
        answer = ask_daemon(places, "replica", action="heads", value=value)
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
    if described.generation.get(me, 0) > ours.get(me, 0):
        raise Tampered("relays have writes of this machine that it never made: is there a clone?")
    if not is_after(described.generation, ours):
        with copies(places, data) as [name]:
            ask_daemon(places, "merge", theirs=name)
        return
    if is_git_at_work(places.dir) or is_amid_git(places.dir):
        raise FileChanged("git is at work around the vault")
    write_file(places.file("avault.enc"), data, over=about["digest"])
    ask_daemon(places, "replica", action="about")  # which has it noticed


async def try_to_take(places: Places, about: dict[str, Any]) -> dict[str, Any]:
    """`take_in`, where what fails is told and nothing more; it has an end, as sending waits."""
    try:
        async with asyncio.timeout(BUDGET_OF_TAKING):
            return await take_in(places, about)
    except TimeoutError:
        said = f"relays did not give what other machines have in {BUDGET_OF_TAKING:.0f} s"
        return {"taken": 0, "problems": [said]}
    except (Locked, Unavailable):
        return {"taken": 0, "problems": []}
    except AvaultError as error:
        return {"taken": 0, "problems": [error.message]}
