"""What is laid ready is put on each relay, and looked at there: it may not keep what it accepts."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Unavailable
from avault.places import Places
from avault.replica.introducing import introduce_by
from avault.replica.progress import (
    Outbox,
    ReplicaProgress,
    change_progress,
    is_far,
    name_of,
    note_relay,
)
from avault.replica.reading import find_latest
from avault.replica.roots import find_roots, is_in_place, refuse_rotated_root
from avault.signer.stored import StoringRelay

if TYPE_CHECKING:
    from typing import Any

    from avault.signer.stored import StoredEvent

WEEK = 7 * 86_400  # seconds after which it is looked whether a relay still keeps what it had
STALE = WEEK + 86_400  # seconds after which nobody knows that
BUDGET = 240.0  # seconds that one relay is given at a time
RELAY_PAUSES = (30, 3600)  # seconds before a relay is tried again: at first, and at most
REFUSALS_OF_RELAYS = (  # what relays say (NIP-01), and what it comes to
    (("rate", "slow down", "too many"), "rate-limited"),
    (("size", "large", "length", "too big"), "too large for it"),
    (("auth-required", "restricted"), "wants to know who writes"),
    (("timeout", "not connected"), "no answer"),
)


def explain_no_of_relay(text: str, size: int) -> str:
    """What a relay's refusal of an event of so many bytes comes to."""
    for words, meaning in REFUSALS_OF_RELAYS:
        if any(word in text.lower() for word in words):
            told = f"to an event of {size:,} bytes" if meaning == "no answer" else f"({text})"
            return f"{meaning} {told}"
    return f"refused ({text})"


def pause_after(failures: int) -> int:
    """Seconds before a relay is tried again that has failed so often in a row."""
    first, most = RELAY_PAUSES
    return min(first << min(failures - 1, 20), most)


async def send_all(places: Places, insist: bool) -> bool:
    """Bring each relay up to what is laid ready; `insist`: also those that are to be left alone.

    What a relay says is noted, and keeps nothing from the others. Gives whether something else is
    to be laid ready first.
    """
    outbox, progress = Outbox.load(places), ReplicaProgress.load(places)
    if outbox.machine != progress.content["machine"]:
        return False
    deliveries = [Delivery(places, url, outbox, insist) for url in outbox.relays]
    due = [delivery for delivery in deliveries if delivery.is_due()]
    if any(delivery.looks() for delivery in due):
        roots = await find_roots(outbox)
        for delivery in due:
            delivery.roots = roots
    await asyncio.gather(*(delivery.run() for delivery in due))
    return any(delivery.lacks for delivery in due)


class Delivery:
    """One relay, brought up to what is laid ready.

    `lacks` says whether the keyholder is to sign something else for it.
    """

    def __init__(self, places: Places, url: str, outbox: Outbox, insist: bool) -> None:
        self.places, self.url, self.outbox, self.insist = places, url, outbox, insist
        progress = ReplicaProgress.load(places)
        self.about, self.seen = progress.relay(url), {*progress.content["seen"]}
        self.known: dict[str, int] = progress.content["roots"]
        self.put_before = {*progress.content["put"]}
        self.roots: dict[str, list[StoredEvent]] = {}  # that all relays have
        self.lacks = False

    def is_due(self) -> bool:
        """Whether it is to be tried now; a time that is yet to come was noted by a wrong clock."""
        about, now = self.about, time.time()
        is_whole = about["hash"] == self.outbox.hash and about["root"] and not about["said"]
        waits = now < about["next"] <= now + RELAY_PAUSES[1]
        is_fresh = is_young(about["checked"]) and is_young(about["looked"])
        return self.insist or not (waits or (bool(is_whole) and is_fresh))

    def looks(self) -> bool:
        """Whether it is to be looked which roots it has."""
        about, before = self.about, {*self.outbox.names} - {self.outbox.agent}
        is_known = bool(about["root"]) and {*about["farewells"]} >= before
        return self.insist or not (is_known and is_young(about["looked"])) or self.is_replaced()

    async def run(self) -> None:
        """Do it, and note what came of it."""
        if self.about["sent_of"] != self.outbox.hash:
            self.about |= {"sent": [], "sent_of": self.outbox.hash}
        before = len(self.about["sent"])
        try:
            async with asyncio.timeout(BUDGET):
                async with StoringRelay(self.url, introduce_by(self.places)) as relay:
                    await self.send_copy(relay)
                async with StoringRelay(self.url) as relay:  # another: that they belong together
                    await self.send_roots(relay)  # is not said by this
            self.about |= {"failures": 0, "next": 0, "said": None, "checked": int(time.time())}
        except TimeoutError:
            self.fail(f"did not take it all in {BUDGET:.0f} s", before)
        except AvaultError as error:
            self.fail(error.message.removeprefix(f"{self.url} "), before)
        self.note()

    def fail(self, said: str, before: int) -> None:
        """Note why it is not done; where some of it is, the next try is soon."""
        is_moving = len(self.about["sent"]) > before
        self.about["failures"] = 1 if is_moving else self.about["failures"] + 1
        wait = pause_after(self.about["failures"])
        self.about |= {"said": said, "next": int(time.time()) + wait}

    def note(self) -> None:
        """Write down what is known of the relay."""
        note_relay(self.places, self.url, **self.about)

    async def send_copy(self, relay: StoringRelay) -> None:
        """Parts first, then the head that names them; only what is read again counts."""
        about, outbox = self.about, self.outbox
        if not outbox.hash:
            return
        await self.settle(relay)
        if about["slot"] is None:
            await self.find_live(relay)
        slot = 0 if about["slot"] is None else about["slot"]
        is_kept = about["head"] == outbox.slots[slot][-1]["id"]
        if not is_kept and about["slot"] is not None:
            slot = 1 - slot
        *parts, head = outbox.slots[slot]
        if is_kept:
            about["sent"] = await self.find(relay, [*parts, head])
        elif about["head"]:
            await self.look_at_live(relay)
        await self.put(relay, parts)
        live = {"slot": slot, "head": head["id"], "hash": outbox.hash, "time": head["created_at"]}
        if not is_kept:
            about["trying"] = live
            self.note()
        await self.put(relay, [head])
        about |= {**live, "trying": None}
        self.note()

    async def settle(self, relay: StoringRelay) -> None:
        """Where it is not known whether a head was taken, look: its parts may be what is live."""
        if trying := self.about["trying"]:
            if await relay.fetch(self.outbox.author, ids=[trying["head"]]):
                self.about |= trying
            self.about["trying"] = None
            self.note()

    async def look_at_live(self, relay: StoringRelay) -> None:
        """Look whether the head that is there is still the one known; raises Unavailable."""
        heads = [events[-1] for events in self.outbox.slots]
        found = await relay.fetch(self.outbox.author, names=[name_of(heads[0])])
        live = find_latest(found).get(name_of(heads[0]))
        ours = {self.about["head"], *(head["id"] for head in heads)}
        if live and live.time > self.about["time"] and live.id not in ours:
            self.refuse_unknown(live, heads)

    def refuse_unknown(self, live: StoredEvent, heads: list[dict[str, Any]]) -> None:
        """Put no head of ours away that we do not know, or that is later than what is laid ready.

        The state may be lost, or from a backup, and what is there nowhere else. One is known that
        the keyholder has read; what is laid ready is made later, then. Raises Unavailable.
        """
        is_known = live.id in self.seen
        if is_known and live.time < min(head["created_at"] for head in heads):
            return
        if is_known:
            with change_progress(self.places) as progress:
                progress.content["last"] = max(progress.content["last"], live.time)
                progress.content["anew"] = self.lacks = True
        raise Unavailable("has a later copy of this machine")

    async def find_live(self, relay: StoringRelay) -> None:
        """The slot that a head of ours names, where it is not known: the head tells, or its parts.

        Parts have the time of the head that names them. Nobody was asked for a name that is made
        here, so the answer is not one that was given before.
        """
        about, outbox = self.about, self.outbox
        heads = [events[-1] for events in outbox.slots]
        firsts = [name_of(events[0]) for events in outbox.slots]
        names = [name_of(heads[0]), *dict.fromkeys(firsts), secrets.token_hex(16)]
        latest = find_latest(await relay.fetch(outbox.author, names=names))
        live = latest.get(name_of(heads[0]))
        if not live:
            return
        for slot, head in enumerate(heads):
            if live.id == head["id"]:
                about |= {"slot": slot, "head": live.id, "hash": outbox.hash, "time": live.time}
                return
        self.refuse_unknown(live, heads)
        times = [latest[name].time if name in latest else 0 for name in firsts]
        about["slot"] = times.index(live.time) if live.time in times else None

    async def put(self, relay: StoringRelay, events: list[dict[str, Any]]) -> None:
        """Put events on a relay, and read them again; raises Unavailable."""
        for event in events:
            if event["id"] not in self.about["sent"]:
                said = await relay.send(event)
                if said != "accepted":
                    size = len(event["content"])
                    raise Unavailable(explain_no_of_relay(said, size))
                self.about["sent"].append(event["id"])
        kept = await self.find(relay, events)
        lost = {event["id"] for event in events} - {*kept}
        self.about["sent"] = [each for each in self.about["sent"] if each not in lost]
        if lost:
            raise Unavailable("accepted, and does not keep it")

    async def find(self, relay: StoringRelay, events: list[dict[str, Any]]) -> list[str]:
        """Which of these a relay has: asked by id, as it may answer anything else from a cache."""
        ids = [event["id"] for event in events]
        if not ids:
            return []
        found = await relay.fetch(events[0]["pubkey"], ids=ids)
        return [each.id for each in found]

    async def send_roots(self, relay: StoringRelay) -> None:
        """See to it that a root is there, no older than any; and of agents before, a farewell."""
        if not self.looks():
            return
        agents = [self.outbox.agent, *({*self.outbox.names} - {self.outbox.agent})]
        self.about |= {"root": "", "farewells": []}
        there = {agent: await self.see_to_root(relay, agent) for agent in agents}
        self.about["root"] = there[self.outbox.agent]
        self.about["farewells"] = [agent for agent in agents[1:] if there[agent]]
        if not all(there.values()):
            raise Unavailable("has no root yet")
        self.about["looked"] = int(time.time())

    def is_replaced(self) -> bool:
        """Whether a root is laid ready that counts, and is not the one that is there."""
        ours = self.outbox.roots.get(self.outbox.agent)
        if not ours or ours["created_at"] < self.known.get(self.outbox.agent, 0):
            return False
        return bool(ours["id"] not in {self.about["root"], *self.put_before})

    async def see_to_root(self, relay: StoringRelay, agent: str) -> str:
        """The id of an agent's root that is there, and as late as any; put there, if need be.

        What another relay has is put where it lacks, as it is. One that a later one has followed is
        never sent again: the phone may have opened it. So one of ours that was sent, and is on no
        relay, is not either. Where another is to be signed, the id is "".
        """
        name, is_before = self.outbox.names[agent], agent != self.outbox.agent
        there = find_latest(await relay.fetch(agent, names=[name])).get(name)
        everywhere = [*self.roots.get(agent, []), *([there] if there else [])]
        if not is_before:
            refuse_rotated_root(there, everywhere, agent)
        right = [each for each in everywhere if is_in_place(each, agent, self.outbox)]
        latest = find_latest([each for each in right if not is_far(each.time)]).get(name)
        known = max(self.known.get(agent, 0), latest.time if latest else 0)
        if there and there in right and there.time >= known:
            self.note_root(agent, there.event)
            return there.id
        chosen = latest.event if latest and latest.time >= known else self.find_ours(agent, known)
        after = there.time if there and not is_far(there.time) else 0
        if chosen and chosen["created_at"] > after:
            await self.put(relay, [chosen])
            self.note_root(agent, chosen, is_sent=True)
            return str(chosen["id"])
        with change_progress(self.places) as progress:
            progress.want_root(agent, max(known, after))
            self.lacks = True
        return ""

    def find_ours(self, agent: str, known: int) -> dict[str, Any] | None:
        """What is laid ready for an agent's place, and may be sent."""
        ours = self.outbox.roots.get(agent)
        if not ours or ours["created_at"] < known or is_far(ours["created_at"]):
            return None
        is_sent = agent == self.outbox.agent and ours["id"] in self.put_before
        return None if is_sent else ours

    def note_root(self, agent: str, event: dict[str, Any], is_sent: bool = False) -> None:
        """Note what an agent's latest root is, as far as is known."""
        is_ours = event["id"] == (self.outbox.roots.get(agent) or {}).get("id")
        with change_progress(self.places) as progress:
            progress.note_root(agent, event, is_sent and is_ours)


def is_young(looked: int, most: int = WEEK) -> bool:
    """Whether it was looked lately; a time that is yet to come was noted by a wrong clock."""
    return 0 <= time.time() - looked < most


def describe_relays(places: Places) -> dict[str, Any]:
    """How the relays are: for each whether it keeps the latest, and when the next try is due."""
    outbox, progress = Outbox.load(places), ReplicaProgress.load(places)
    rows, tries = [], []
    for url in outbox.relays:
        about = progress.relay(url)
        is_kept = bool(outbox.hash) and about["hash"] == outbox.hash
        is_kept = is_kept and bool(about["root"]) and is_young(about["looked"], STALE)
        row = {"url": url, "kept": is_kept, "time": about["time"] or None}
        rows.append({**row, "said": about["said"], "checked": about["checked"] or None})
        if about["said"]:
            tries.append(about["next"])
        elif about["checked"]:
            tries.append(min(about["checked"], about["looked"]) + WEEK)
    return {"relays": rows, "next": min(tries, default=None)}
