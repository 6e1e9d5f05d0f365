"""A vault brought back where nothing of it is, by npub, relays and phone: avault recover."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING

from avault.cli.ceremony import Ceremony, read_bunker
from avault.cli.daemon import end
from avault.cli.pair import missing, remove_made
from avault.client import ask_daemon
from avault.errors import AvaultError, NotFound, Tampered, Unavailable, Usage, printable
from avault.git.copies import copies
from avault.keys.nostr import parse_npub, to_npub
from avault.places import Places
from avault.replica.keeping import bring_replica_level
from avault.replica.progress import Outbox, change_progress
from avault.replica.reading import (
    Readers,
    choose_latest,
    count_hosts,
    merge_found,
)
from avault.replica.taking import join
from avault.signer.replica import MOST_HEADS, name_root, read_farewell, read_root
from avault.signer.stored import StoringRelay, parse_profile
from avault.terminal.talk import confirm, say, warn
from avault.terminal.terminal import Terminal
from avault.terminal.words import parse_duration
from avault.vault.files import make_private_directory
from avault.vault.generations import is_after, maximum
from avault.vault.own_files import normalise_relay
from avault.vault.presence import read_sealed, refuse_to_overwrite
from avault.vault.statements import STATEMENTS
from avault.vault.times import render_time

if TYPE_CHECKING:
    from typing import Any

    from avault.signer.stored import StoredEvent

BUDGET_OF_ROOT = 30.0  # seconds that a relay is given for the root that takes another's place


class Retrieval:
    """What is fetched for the keyholder, which has the key and fetches nothing."""

    def __init__(self, terminal: Terminal, agent: str, urls: list[str], accepts: bool) -> None:
        self.places, self.agent, self.urls, self.accepts = terminal.places, agent, urls, accepts
        self.author = ""
        self.fresh = 0  # the time of the root that has taken the opened one's place
        self.answered: dict[str, list[StoredEvent]] = {}
        self.heads: list[dict[str, Any]] = []  # of all copies that relays have
        self.taken: list[dict[str, Any]] = []  # of those that are taken, the latest first
        self.others: list[tuple[dict[str, Any], list[str]]] = []  # what is merged with the latest

    async def find_root(self) -> StoredEvent:
        """The latest root, and how many relays have it; raises Unavailable, NotFound, Tampered."""
        async with Readers(self.urls) as readers:
            found = await readers.find_roots(self.agent, name_root(self.agent))
        refuse_silence(self.urls, found)
        roots = merge_found(found)
        refuse_rotated(roots, self.agent)
        root = next(iter(roots), None)
        if not root:
            raise NotFound(
                f"{count_relays(len(found))} asked, and no vault of that agent is there",
                "is it the agent's npub, and not the operator's? Other relays: --relay URL",
            )
        read_root(root.event, self.agent)
        having = sum(any(each.id == root.id for each in events) for events in found.values())
        say(f"root: of {render_time(root.time)}, on {having} of {count_relays(len(self.urls))}")
        return root

    async def find_farewells(self, agent: str) -> list[dict[str, Any]]:
        """What agents have signed of who takes their place, from one (hex) on to this vault's.

        None where that is not known. Raises Tampered where one has named two.
        """
        found: list[dict[str, Any]] = []
        async with Readers(self.urls) as readers:
            while agent != self.agent and len(found) < STATEMENTS:
                answers = await readers.find_roots(agent, name_root(agent))
                said = {
                    read_farewell(each.event, agent): each.event
                    for events in answers.values()
                    for each in events
                }
                said.pop(None, None)
                if len(said) > 1:
                    raise Tampered(
                        f"relays have it signed that {to_npub(agent)} was rotated to two",
                        "whoever has a key that was rotated away can make this; go by git, or begin"
                        " anew: avault forget, then this again",
                    )
                if not said:
                    return []
                (named, event), *_ = said.items()
                agent = str(named)
                found.append(event)
        return found

    def replace_root(self, event: dict[str, Any]) -> dict[str, Any]:
        """Put another root in the place of the one that the phone has opened, on all relays."""

        async def replace(url: str) -> bool:
            with contextlib.suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(BUDGET_OF_ROOT), StoringRelay(url) as relay:
                    await relay.send(event)
                    return bool(await relay.fetch(self.agent, ids=[event["id"]]))
            return False

        async def replace_all() -> list[bool]:
            return await asyncio.gather(*(replace(url) for url in self.urls))

        kept = asyncio.run(replace_all())
        self.fresh = event["created_at"]
        told = f"a new root is on {sum(kept)} of {count_relays(len(kept))}"
        if all(kept):
            say(told)
        else:
            warn(told, "the root that the phone opened may be on the others")
        return {"replaced": all(kept)}

    def give_heads(self, where: dict[str, str]) -> dict[str, Any]:
        """All heads that relays have."""
        self.author = where["author"]

        async def find() -> None:
            async with Readers(self.urls) as readers:
                self.answered = await readers.find_heads(self.author, where["topic"])

        asyncio.run(find())
        refuse_silence(self.urls, self.answered)
        heads = merge_found(self.answered)[:MOST_HEADS]
        if not heads:
            raise NotFound("relays have the root and nothing else of the vault", "avault status")
        return {"heads": [each.event for each in heads]}

    def give_copy(self, heads: list[dict[str, Any]]) -> dict[str, Any]:
        """The copy that is to be taken: head and parts; others are merged with it later."""
        self.heads = heads
        found = asyncio.run(self.collect(heads))
        found.sort(key=lambda pair: -int(pair[0]["time"]))
        self.taken = [head for head, _ in found]
        events = {each.id: each.event for some in self.answered.values() for each in some}
        self.others = [(events[head["id"]], parts) for head, parts in found[1:]]
        return {"head": found[0][0]["id"], "parts": found[0][1]}

    def merge_others(self) -> None:
        """What several machines had written without knowing of each other is in one vault then."""
        data = [join(self.places, head, parts) for head, parts in self.others]
        with copies(self.places, *data) as names:
            for name in names:
                ask_daemon(self.places, "merge", theirs=name)

    async def collect(self, heads: list[dict[str, Any]]) -> list[tuple[dict[str, Any], list[str]]]:
        """The latest copies, heads and parts, whole; raises Tampered where one is not."""
        async with Readers(self.urls) as readers:
            while heads:
                whole: dict[str, tuple[dict[str, Any], list[str]]] = {}
                latest = choose_latest(heads)
                for head in latest:
                    generation = json.dumps(head["generation"])
                    parts = await readers.find_copy(self.author, head)
                    if parts is not None and generation not in whole:
                        whole[generation] = head, parts
                missing = [each for each in latest if json.dumps(each["generation"]) not in whole]
                if not missing:
                    return list(whole.values())
                when = render_time(missing[0]["time"])
                if not self.accepts:
                    raise Tampered(
                        f"the newest copy, of {when}, is not whole on any relay",
                        "name more relays: --relay URL; or take an older copy: --accept-rollback",
                    )
                warn(f"the newest copy, of {when}, is not whole, and is left out")
                heads = [each for each in heads if each not in missing]
        raise NotFound("no relay has a whole copy of the vault", "name more relays: --relay URL")

    def agreeing(self) -> int:
        """How many relays have all that is taken: who has nothing, or less, vouches for nothing."""
        taken = maximum(*(head["generation"] for head in self.taken))

        def has_it(events: list[StoredEvent]) -> bool:
            ids = {each.id for each in events}
            mine = [head["generation"] for head in self.heads if head["id"] in ids]
            return bool(mine) and is_after(maximum(*mine), taken)

        return count_hosts(url for url, events in self.answered.items() if has_it(events))

    def confirm(self, found: dict[str, Any]) -> dict[str, Any]:
        """Show how new it is; where one relay alone has it, nobody vouches for that: ask."""
        head, agreeing = self.taken[0], self.agreeing()
        host = found["hosts"].get(head["machine"]) or head["machine"]
        say(f"vault: {printable(found['name'])}, {found['secrets']} secret(s)")
        say(
            f"newest copy: {render_time(head['time'])}, from {printable(host)}; "
            f"{agreeing} of {count_relays(count_hosts(self.urls))} agree"
        )
        if agreeing > 1 or self.accepts:
            return {"confirmed": True}
        say("one relay alone has this copy: it could keep a newer one back, and nobody would know")
        if confirm("avault: take this copy?"):
            return {"confirmed": True}
        raise Tampered(
            "nobody vouches that this copy is the newest",
            "name more relays: --relay URL; or take it: --accept-rollback",
        )


def refuse_rotated(roots: list[StoredEvent], agent: str) -> None:
    """Raise Tampered where the agent itself has said that another takes its place.

    However new another root is: whoever has a key that was rotated away can still publish one.
    """
    named = {read_farewell(each.event, agent) for each in roots} - {None}
    if named:
        npubs = " and ".join(sorted(to_npub(str(each)) for each in named))
        raise Tampered(
            f"the key of this agent was rotated: its vault goes on under {npubs}",
            "take the npub from what avault rotate agent has shown, as whoever has the old key can"
            " name another: avault recover --from-relays NPUB",
        )


def refuse_silence(urls: list[str], found: dict[str, list[StoredEvent]]) -> None:
    """Raise Unavailable where no relay has answered; say which have not."""
    if not found:
        raise Unavailable("no relay answers", "check the network, or name others: --relay URL")
    for url in urls:
        if url not in found:
            warn(f"{url} does not answer")


def count_relays(number: int) -> str:
    """So many relays."""
    return f"{number} relay{'' if number == 1 else 's'}"


def recover_from_relays(
    terminal: Terminal,
    source: str,
    relays: tuple[str, ...],
    bunker: str | None,
    qr: str | None,
    timeout: str,
    no_drill: bool,
    accept_rollback: bool,
    signer_npub: str | None,
) -> int:
    """Fetch the root, have the phone open it, and take the newest copy; the exit code."""
    places = terminal.places
    if source == "-":
        source = read_source(bunker)
    agent, urls = parse_profile(source)
    before = find_before(places)
    if not before:
        refuse_to_overwrite(places, agent)
    given = [normalise_relay(url) for url in relays]
    urls = list(dict.fromkeys([*urls, *given, *(Outbox.load(places).relays if before else [])]))
    if not urls:
        raise Usage("an npub names no relay", "say where to look: --relay URL, or an nprofile1…")
    say(f"agent: {to_npub(agent)}")
    retrieval = Retrieval(terminal, agent, urls, accept_rollback)
    farewells = asyncio.run(retrieval.find_farewells(before)) if before else []
    if not farewells:
        refuse_to_overwrite(places, agent)
    root = asyncio.run(retrieval.find_root())
    new = [path for path in (places.dir, places.state) for path in missing(path)]
    talk = Ceremony(terminal, qr)
    talk.answers = {
        "root": retrieval.replace_root,
        "heads": retrieval.give_heads,
        "copy": retrieval.give_copy,
        "found": retrieval.confirm,
    }
    fields = {
        "relays": given,
        "agent": to_npub(agent),
        "operator": to_npub(parse_npub(signer_npub)) if signer_npub else None,
        "timeout": parse_duration(timeout),
    }
    private = {"bunker": read_bunker(bunker), "root": root.event, "farewells": farewells}
    try:
        make_private_directory(places.dir)
        terminal.need_daemon()
        talk.request("recover", private, **fields)
        retrieval.merge_others()
    except BaseException:
        if not os.path.lexists(places.file("avault.enc")):
            if terminal.is_running():
                end("stop", terminal, force=True)
            remove_made(new)
        raise
    bring_relays_level(terminal, agent, retrieval.fresh)
    return 0 if no_drill else talk.drill()


def find_before(places: Places) -> str:
    """The agent (hex) under whose key this machine knows the vault; "" where it knows none."""
    path = places.own("unlock.json")
    return parse_npub(read_sealed("unlock", path)["agent"]) if os.path.lexists(path) else ""


def read_source(bunker: str | None) -> str:
    """The npub or nprofile, a line of stdin: it finds the vault, and is in no process list then."""
    if bunker == "-":
        raise Usage("one line of stdin is one thing", "avault recover --from-relays - --bunker URI")
    if sys.stdin.isatty():
        say("type the npub1… or nprofile1…, then Enter")
    return sys.stdin.buffer.readline(8192).decode(errors="replace").strip()


def bring_relays_level(terminal: Terminal, agent: str, fresh: int) -> None:
    """Have the vault's relays keep it from this machine, and no root older than the fresh one."""
    try:
        with change_progress(terminal.places) as progress:
            progress.know_root(agent, fresh)
        told = bring_replica_level(terminal.places, take=True, send=True, insist=True)
    except AvaultError as error:
        told = {"relays": [], "problem": error.message}
    kept = [row for row in told["relays"] if row["kept"]]
    if told["problem"] or len(kept) < len(told["relays"]):
        why = (
            told["problem"] or f"{len(kept)} of {count_relays(len(told['relays']))} keep the vault"
        )
        warn(printable(why), "it is tried again; see: avault replica status")
