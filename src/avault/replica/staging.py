"""What relays are to have is signed by the keyholder, at once after a write, and laid ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.client import ask_daemon
from avault.errors import AvaultError
from avault.places import Places
from avault.replica.progress import Outbox, ReplicaProgress, change_progress

if TYPE_CHECKING:
    from typing import Any


def stage(places: Places) -> tuple[dict[str, Any], AvaultError | None]:
    """Lay ready what relays are to have of the open vault: what is known of it, and what failed.

    For both slots, as which one is next depends on the relay, and may change while this is sent.
    What a person should know of it is noted. Where the vault is too large, or the keyholder signs
    something not for another reason, the rest is laid ready even so. Raises Locked, AvaultError.
    """
    about = ask_daemon(places, "replica", action="about")
    refused: AvaultError | None = None
    with change_progress(places) as progress:
        progress.belong(about["machine"], about["author"])
        note_rollback(progress, about)
        content = progress.content
        content["relays"] = {
            url: found for url, found in content["relays"].items() if url in about["relays"]
        }
        outbox = Outbox.load(places)
        for url in {*about["relays"]} - {*outbox.relays}:
            if about["named"][url] != about["machine"]:
                progress.note(f"another machine has named a relay that keeps the vault: {url}")
        if (outbox.machine, outbox.author) != (about["machine"], about["author"]):
            outbox = Outbox({})
        before = dict(vars(outbox))
        content["last"] = max(content["last"], outbox.latest())
        progress.move_on()
        if outbox.operator not in ("", about["operator"]):  # a root is for one operator
            progress.want_root(about["agent"])
        outbox.machine, outbox.author = about["machine"], about["author"]
        outbox.agent, outbox.operator = about["agent"], about["operator"]
        outbox.names, outbox.relays = about["roots"], about["relays"]
        outbox.statements = about["statements"]
        if about["relays"]:
            for sign in (sign_roots, sign_copies):
                try:
                    sign(places, about, progress, outbox)
                except AvaultError as error:
                    refused = refused or error
        if vars(outbox) != before:
            outbox.save(places)
    return about, refused


def note_rollback(progress: ReplicaProgress, about: dict[str, Any]) -> None:
    """An older copy was taken on purpose: what relays have is not to undo that by itself."""
    content = progress.content
    if about["rollback"] and about["rollback"] != content["rollback"]:
        content["holds"] = True
    content["rollback"] = about["rollback"]


def sign_roots(
    places: Places, about: dict[str, Any], progress: ReplicaProgress, outbox: Outbox
) -> None:
    """Have the keyholder sign the roots that are wanted, each later than what is known of.

    One that another machine has made is judged first: it may be for an operator before.
    """
    content, agent = progress.content, outbox.agent
    latest = content["latest"].get(agent)
    if latest and latest["id"] not in (*content["put"], content["judged"]):
        asked = {"after": content["roots"].get(agent, 0), "latest": latest, "judge": True}
        answer = ask_daemon(places, "replica", action="root", agent=agent, **asked)
        content["judged"] = latest["id"]
        if answer["event"]:
            keep_root(progress, outbox, agent, answer["event"])
    content["wants"] = [agent for agent in content["wants"] if agent in about["roots"]]
    for agent in [*content["wants"]]:
        after = content["roots"].get(agent, 0)
        fields = {"after": after, "latest": content["latest"].get(agent)}
        answer = ask_daemon(places, "replica", action="root", agent=agent, **fields)
        keep_root(progress, outbox, agent, answer["event"])


def keep_root(progress: ReplicaProgress, outbox: Outbox, agent: str, event: dict[str, Any]) -> None:
    """Lay a root ready that the keyholder has signed."""
    outbox.roots = {**outbox.roots, agent: event}
    progress.content["wants"] = [each for each in progress.content["wants"] if each != agent]
    progress.know_root(agent, event["created_at"])


def sign_copies(
    places: Places, about: dict[str, Any], progress: ReplicaProgress, outbox: Outbox
) -> None:
    """Have the keyholder sign the vault as it is now, for both slots; no two have one time."""
    content = progress.content
    if outbox.hash == about["digest"] and not content["anew"]:
        return
    slots, digests = [], set()
    for slot in (0, 1):
        where = {"slot": slot, "epoch": content["epoch"], "after": content["last"]}
        answer = ask_daemon(places, "replica", action="copy", **where)
        slots.append(answer["events"])
        digests.add(answer["digest"])
        content["last"] = max(content["last"], answer["events"][-1]["created_at"])
    if len(digests) == 1:  # else it was written meanwhile, and is laid ready again
        outbox.slots, outbox.hash, content["anew"] = slots, digests.pop(), False
