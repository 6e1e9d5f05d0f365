"""What a proxy's process asks for, for one request: which secrets, where in it, and where to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.errors import Usage
from avault.vault.proxy_rules import canonical_host
from avault.vault.rule_members import HEADER, PLACES, SIGNING

if TYPE_CHECKING:
    from avault.protocol import Message

    Wanted = dict[str, list[str]]  # where in a request each secret is to be, by its name


def read_asked(message: Message) -> Message:
    """What a request asks for, as the log and the rules have it; raises Usage."""
    port = message.get("port")
    if type(port) is not int or not all(
        isinstance(message.get(each), str) for each in ("host", "method", "path")
    ):
        raise Usage("not a request of the proxy")
    return {
        "host": canonical_host(message["host"]),
        "port": port,
        "method": message["method"],
        "path": message["path"],
    }


def read_wanted(message: Message) -> Wanted:
    """Where in a request each secret is to be, by its name; raises Usage."""
    wanted, known = message.get("names"), (HEADER, *PLACES, SIGNING)
    is_known = isinstance(wanted, dict) and all(
        isinstance(places, list) and places and all(each in known for each in places)
        for places in wanted.values()
    )
    if not wanted or not is_known:
        raise Usage("not a request of the proxy")
    return dict(wanted)


def describe_proxied(wanted: Wanted, asked: Message) -> Message:
    """A request and its secrets, as the log and the phone have them."""
    noted: Message = {**asked, "only": sorted(wanted)}
    if len(wanted) == 1:
        noted["groups"], noted["only"] = ([each] for each in noted["only"][0].split("/"))
    places = dict.fromkeys(each for where in wanted.values() for each in where)
    return {**noted, "place": " and ".join(places)} if [*places] != [HEADER] else noted


def name_places(where: list[str]) -> str:
    """Where in a request a secret is to be, as it is agreed to; "" for a header alone."""
    places = sorted({*where})
    return f" ({' and '.join(places)})" if places != [HEADER] else ""
