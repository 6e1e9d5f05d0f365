"""Sessions of the proxy by a connection: begun, told of, held for as long as that is there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from avault.daemon.proxying import PROXY_CHOICE, ProxiedUses
from avault.daemon.wire import Session
from avault.errors import AvaultError, NotFound, Unavailable
from avault.keys.keyholder import Keyholder
from avault.protocol import refuse_unknown

if TYPE_CHECKING:
    from typing import Any

    from avault.daemon.broker_link import BrokerLink
    from avault.protocol import Message


PROXY_FIELDS = PROXY_CHOICE | {"tcp"}


async def serve_proxy(keyholder: Keyholder, session: Session, request: Message) -> Message:
    """A session of the proxy, for as long as the connection is there.

    Once it is there, the client is told in a frame that is `ready`; no answer comes after that.
    """
    refuse_unknown(request, PROXY_FIELDS)
    grant = session.grant
    try:
        proxied = ProxiedUses(keyholder, session, request, is_owner=not grant)
        need_something(proxied)
    except AvaultError as error:
        keyholder.release(session, {"op": "proxy"}, error.code)
        raise
    session.caller = session.caller or keyholder.identify(session)
    told, tcp = proxied.note_refused, bool(request.get("tcp"))
    # who is in a container has another network: the port is there, and a token needed in any case
    wish = {**proxied.to_broker(tcp and not grant), "login": tcp and bool(grant)}
    number, link, place = await keyholder.brokers.start(wish, proxied.use, told, grant)
    try:
        await hold_session(session, link, {**describe_session(proxied), **place})
    finally:
        keyholder.brokers.end(number)
        proxied.consent.end()
    return {}


def need_something(proxied: ProxiedUses) -> None:
    """Raise NotFound where nothing would go through a session."""
    if not proxied.placeholders and proxied.egress != "open":
        raise NotFound(
            "none of these keys goes to a host, so there is nothing to send through the proxy",
            "avault guard GROUP/KEY --host HOST, or avault run --proxy --host GROUP/KEY=HOST",
        )


async def hold_session(session: Session, link: BrokerLink, told: Message) -> None:
    """Wait until the client or the process is gone; raises Unavailable for the second."""
    client = asyncio.ensure_future(session.frame(**told))
    try:
        ends: list[asyncio.Future[Any]] = [client, link.ended]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        client.cancel()
    if link.ended.done():
        raise Unavailable(link.ended.result() or "the proxy's process has ended", "start it again")


def describe_session(proxied: ProxiedUses) -> Message:
    """What the client is told of a session: placeholders, and no value."""
    return {
        "names": proxied.variables,
        "placeholders": proxied.placeholders,
        "others": proxied.others,
        "rest": proxied.rest,
    }
