"""What a guard says of requests by the proxy: to which hosts, by which methods, at which paths."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from avault.vault.names import DIGITS, LETTERS
from avault.vault.rule_members import HEADER, SIGNING, is_issuer, part_host
from avault.vault.services import SERVICES

if TYPE_CHECKING:
    from collections.abc import Iterable

    Hosts = list[frozenset[str]]


HTTPS = 443
SPELLED = LETTERS | DIGITS | set("-_.:")
AUTHORIZATION = "authorization"  # the header of credentials: RFC 9110, 11.6.2
KEY_HEADERS = frozenset(  # those in which services take keys, besides; none that says anything else
    {
        "api-key", "apikey", "x-api-key", "x-apikey", "x-api-token", "x-auth-token", "x-auth-key",
        "x-access-token", "x-goog-api-key", "xi-api-key", "private-token", "job-token",
        "x-subscription-token", "x-shopify-access-token", "x-vault-token", "x-figma-token",
        "x-functions-key", "ocp-apim-subscription-key", "dd-api-key", "dd-application-key",
        "circle-token", "x-n8n-api-key", "x-typesense-api-key", "x-algolia-api-key",
        "x-rapidapi-key", "x-master-key", "x-secret-key", "x-token",
    }
)  # fmt: skip


def canonical_host(name: str) -> str:
    """A host as names are compared: in lower case, without a dot at its end, in A-labels.

    Raises ValueError for what is no name, and no address. IPv6 without brackets.
    """
    name = name.removeprefix("[").removesuffix("]") if name.startswith("[") else name
    if not name.isascii():
        name = name.encode("idna").decode()  # raises UnicodeError, which is a ValueError
    name = name.lower().removesuffix(".")
    if not 0 < len(name) <= 253 or set(name) - SPELLED or ".." in name or name[0] == ".":
        raise ValueError("not a host")
    if ":" in name:
        name = ipaddress.IPv6Address(name).compressed
    return name


def read_authority(text: str) -> tuple[str, int]:
    """Host and port of HOST or HOST:PORT, as compared; raises ValueError. The port is 443 else."""
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:@/\s\[\]]+)(?::([1-9][0-9]{0,4}))?", text)
    if not found or int(found[2] or HTTPS) > 65535:
        raise ValueError("not a host")
    return canonical_host(found[1]), int(found[2] or HTTPS)


def is_address(host: str) -> bool:
    """Whether a host is written as an address, or as what a resolver takes for one.

    0x7f.1, 2130706433 and the like: inet_aton(3).
    """
    last = host.rpartition(".")[2]
    return ":" in host or last.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last) is not None


def is_near(host: str) -> bool:
    """Whether a name is by its form one of this machine or of a house, and not of the internet.

    RFC 6761, 6762, 8375; `internal` by ICANN's word of 2024.
    """
    return is_address(host) or host.rpartition(".")[2] in (
        "localhost", "local", "internal", "lan", "test",
    ) or host.endswith(".home.arpa")  # fmt: skip


def fits_host(host: str, port: int, pattern: str, place: str | None = None) -> bool:
    """Whether a host as it is compared is what HOST, *.HOST (of one label), or either :PORT names.

    A resolver's odd forms of addresses fit nothing but themselves. `place` is where in a request,
    None for anywhere.
    """
    where, pattern = part_host(pattern)
    if place not in (None, where):
        return False
    name, _, number = pattern.partition(":")
    if port != int(number or HTTPS):
        return False
    if name.startswith("*."):
        first, _, rest = host.partition(".")
        return bool(first) and rest == name[2:] and not is_address(host)
    return host == name


def is_host_within(narrow: str, wide: str) -> bool:
    """Whether a host of a guard, perhaps with a * or a port, is among what another one names."""
    place, host = part_host(narrow)
    name, _, number = host.partition(":")
    return fits_host(name, int(number or HTTPS), wide, place)


def fits_hosts(host: str, port: int, sets: Hosts, place: str | None = None) -> bool:
    """Whether a host is in each of these sets, of which there has to be one; for that place."""
    return bool(sets) and all(
        any(fits_host(host, port, each, place) for each in one) for one in sets
    )


def fits_path(path: str, glob: str) -> bool:
    """Whether a path is as one with * in it says, each of which stands for anything."""
    first, *rest = glob.split("*")
    if not rest or not path.startswith(first):
        return path == glob
    *rest, last = rest
    at = len(first)
    for each in rest:  # the first place of each leaves most for those after it
        at = path.find(each, at) + len(each)
        if at < len(each):
            return False
    return path.endswith(last) and at <= len(path) - len(last)


def is_plain_path(path: str) -> bool:
    """Whether a path is the same to all who read it: no dots to go up, nothing hidden by %.

    Nor a % that is one only once it is decoded, or what some take for an end, or as no ASCII.
    """
    lower = path.lower()
    odd = ("//", "\\", "%2e", "%2f", "%5c", "%00", ";")
    is_up = any(each in (".", "..") for each in lower.split("/"))
    is_hidden = re.search("%(?:25|3f|23|0[9ad]|20|u|[89a-f])", lower) is not None
    is_odd = is_hidden or any(each in lower for each in odd)
    return not is_up and not is_odd and path.startswith("/")


def find_proxy_fault(
    host: str,
    port: int,
    method: str,
    path: str,
    hosts: Hosts,
    methods: list[frozenset[str]],
    paths: list[frozenset[str]],
    places: Iterable[str] = (HEADER,),
) -> str | None:
    """Why a request may not have a secret, in words; None where it may.

    `host` is as it is compared, `path` without a query, `places` are all that it is to be in.
    """
    if not fits_hosts(host, port, hosts):
        return f"go to {host}" + (f":{port}" if port != HTTPS else "")
    for place in places:
        if place == SIGNING and is_issuer(host):
            return f"sign for {host}, which gives out credentials"
        if not fits_hosts(host, port, hosts, place):
            if place == SIGNING:
                return f"sign requests to {host}"
            return f"be in the {place} of a request to {host}"
    if any(method not in each for each in methods):
        return f"be used by {method}"
    if paths and not is_plain_path(path):
        return "be used at a path that can be read in more than one way"
    if any(not any(fits_path(path, glob) for glob in each) for each in paths):
        return "be used at this path"
    return None


def headers_for(host: str) -> frozenset[str]:
    """The headers, in lower case, in which a host takes keys.

    Those that the table of services names for it; of one that it does not know, the usual ones.
    """
    named = {
        header.partition(":")[0].lower()
        for hosts, header, _ in SERVICES.values()
        if any(fits_host(host, HTTPS, each) for each in hosts) and ": " in header
    }
    return frozenset({AUTHORIZATION, *(named or KEY_HEADERS)})
