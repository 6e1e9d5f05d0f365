"""Proxies that stay, each for one grant: started, shown, ended. They end with it, and with a lock.

Only the vault's owner has them: none of these requests may be made through a grant.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from avault.daemon.grant import Grant, check_grant_name
from avault.daemon.proxy_consent import ProxyCaller
from avault.daemon.proxy_sessions import describe_session, need_something, serve_proxy
from avault.daemon.proxying import PROXY_CHOICE, ProxiedUses
from avault.daemon.wire import Session
from avault.errors import Denied, NotFound, Usage
from avault.keys.keyholder import Keyholder
from avault.protocol import refuse_unknown
from avault.tasks import spawn
from avault.vault.times import render_time

if TYPE_CHECKING:
    from typing import Any

    from avault.daemon.broker_link import BrokerLink
    from avault.keys.keyholder import Serve
    from avault.protocol import Message


START_FIELDS = (PROXY_CHOICE - {"also", "everything"}) | {"grant", "port"}


class StandingProxy:
    """A proxy that stays: what it may use, since when (Unix seconds), its process and its files."""

    def __init__(self, proxied: ProxiedUses, number: str, link: BrokerLink, place: Message) -> None:
        self.proxied, self.number, self.link, self.place = proxied, number, link, place
        self.since = time.time()

    def describe(self, grant: Grant) -> Message:
        """What `proxies` shows of it: no token."""
        return {
            "grant": grant.name,
            "since": render_time(self.since),
            "requests": self.proxied.count,
            "hosts": sorted(self.proxied.reached),
            "secrets": sorted(self.proxied.placeholders),
            "egress": self.proxied.egress,
            "directory": self.place["directory"],
            "port": self.place.get("port"),
        }


def find_grant(keyholder: Keyholder, request: Message) -> Grant:
    """The grant that a request names; raises Usage, NotFound."""
    name = check_grant_name(request.get("grant"))
    keyholder.open_store()
    keyholder.grants.end_over()
    if name not in keyholder.grants.known:
        raise NotFound(f"no grant {name}", f"avault grant {name} --can proxy --group GROUP")
    return keyholder.grants.known[name]


async def serve_proxy_start(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """Start the proxy of a grant, which stays; where it listens, and what its caller is to set."""
    refuse_unknown(request, START_FIELDS)
    port = request.get("port")
    if port is not None and (type(port) is not int or not 0 <= port <= 65535):
        raise Usage("not a port", "--port 0 takes one that is free")
    grant = find_grant(keyholder, request)
    if "proxy" not in grant.share.can:
        shown = grant.share.describe_uses()
        raise Denied(f"the grant {grant.name} is only to {shown}", "avault grant NAME --can proxy")
    standing = keyholder.brokers.standing
    if grant in standing:
        raise Denied(f"{grant.name} has a proxy already", f"avault proxy stop {grant.name}")
    standing[grant] = None  # until it is there: nobody else starts one meanwhile
    try:
        return await start_standing(keyholder, session, request, grant)
    finally:
        if not standing.get(grant):
            standing.pop(grant, None)


async def start_standing(
    keyholder: Keyholder, session: Session, request: Message, grant: Grant
) -> Message:
    """Raises AvaultError."""
    uid = next(iter(grant.uids)) if len(grant.uids) == 1 else None
    nobody = {"pid": None, "uid": uid, "exe": None, "name": None, "parent": None}
    caller = ProxyCaller({**nobody, "grant": grant.name}, grant)
    wanted: dict[str, Any] = {name: each for name, each in request.items() if name in PROXY_CHOICE}
    proxied = ProxiedUses(keyholder, caller, wanted)
    need_something(proxied)
    named = {"op": "proxy_start", "for": grant.name, "only": sorted(proxied.placeholders)}
    keyholder.release(session, named)
    wish = {**proxied.to_broker(request.get("port") is not None), "port": request.get("port") or 0}
    brokers, told = keyholder.brokers, proxied.note_refused
    number, link, place = await brokers.start(wish, proxied.use, told, grant, is_standing=True)
    found = brokers.standing[grant] = StandingProxy(proxied, number, link, place)
    spawn(keyholder.tasks, see_end(keyholder, grant, found))
    return {"ok": True, **found.describe(grant), **describe_session(proxied), **place}


async def see_end(keyholder: Keyholder, grant: Grant, found: StandingProxy) -> None:
    """When its process is gone, whoever ended it, nothing is left of it."""
    try:
        await found.link.ended
    finally:
        end_standing(keyholder, grant, found)


def end_standing(keyholder: Keyholder, grant: Grant, found: StandingProxy) -> None:
    """End one: what is open through it is cut."""
    keyholder.brokers.end(found.number)
    found.proxied.consent.end()
    if keyholder.brokers.standing.get(grant) is found:
        del keyholder.brokers.standing[grant]


def serve_proxies(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """The proxies that stay; with the format `names` the names of their grants, a line each."""
    refuse_unknown(request, frozenset({"format"}))
    keyholder.open_store()
    keyholder.grants.end_over()
    standing = keyholder.brokers.standing
    found = {each.name: proxy.describe(each) for each, proxy in standing.items() if proxy}
    if request.get("format") == "names":
        return {"ok": True, "output": "".join(f"{each}\n" for each in sorted(found))}
    return {"ok": True, "proxies": [found[each] for each in sorted(found)]}


def serve_proxy_stop(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """End the proxy of a grant, or all (no `grant`); the grants stay."""
    refuse_unknown(request, frozenset({"grant"}))
    keyholder.open_store()
    named = find_grant(keyholder, request) if request.get("grant") else None
    there = {
        each: proxy
        for each, proxy in keyholder.brokers.standing.items()
        if proxy and named in (None, each)
    }
    if named and not there:
        raise NotFound(f"{named.name} has no proxy", "see which there are: avault proxy status")
    keyholder.release(session, {"op": "proxy_stop", "for": named.name if named else "all"})
    for each, proxy in there.items():
        end_standing(keyholder, each, proxy)
    return {"ok": True, "stopped": sorted(each.name for each in there)}


PROXY_REQUESTS: dict[str, Serve] = {
    "proxy": serve_proxy,
    "proxy_start": serve_proxy_start,
    "proxies": serve_proxies,
    "proxy_stop": serve_proxy_stop,
}
