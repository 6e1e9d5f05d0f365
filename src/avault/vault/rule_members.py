"""What a guard's fields can name: ways, hosts, servers, kinds of events; and how that is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.vault.names import DIGITS, LETTERS
from avault.vault.nostr_rules import ANY_PEER, CIPHERS, describe_peers, is_kind, is_peer
from avault.vault.pay_rules import describe_pay_rules, is_pay_rule
from avault.vault.ssh_rules import (
    WORDS_FOR_SERVERS,
    describe_servers,
    is_namespace,
    is_server,
    is_user,
)

if TYPE_CHECKING:
    from collections.abc import Iterable


WAYS = ("run", "proxy", "ssh", "sign", "wallet")  # what `only` can name
PLACES = ("path", "query", "body", "websocket")  # of a request, besides its headers
HEADER = "header"
RENEWAL = "refresh"  # in no request of anybody's, but of who renews a token by it
SIGNING = "sign"  # in no request at all: it signs them (AWS), and goes nowhere
ISSUERS = ("sts", "iam")  # services of AWS that give out credentials, good without us
PROXY_SETS = ("hosts", "methods", "paths")
SSH_SETS = ("servers", "users", "namespaces")
NOSTR_SETS = ("kinds", "ciphers", "peers")
WALLET_SETS = ("wallet",)
SETS_OF = {  # of a way, what is about it
    "proxy": PROXY_SETS,
    "ssh": SSH_SETS,
    "sign": NOSTR_SETS,
    "wallet": WALLET_SETS,
}
SETS = ("only", *PROXY_SETS, *SSH_SETS, *NOSTR_SETS, *WALLET_SETS)
NAMED_TO_LET = (  # sets that let nothing through where they are not named
    "hosts",
    "servers",
    "namespaces",
    "kinds",
    "ciphers",
    "peers",
    "wallet",
)
HOST_CHARACTERS = LETTERS | DIGITS | set(".-_")
PATH_CHARACTERS = frozenset(map(chr, range(0x21, 0x7F))) - set("?#")


def part_host(text: str) -> tuple[str, str]:
    """Of a member of `hosts`, the place in a request that it is about, and the host.

    PLACE@HOST, or HOST for headers: so that a place that a key may be in is never without a host,
    and of two guards which both count the one for headers alone leaves nothing else.
    """
    place, at, host = text.rpartition("@")
    return (place if at else HEADER), host


def is_host(text: str) -> bool:
    """Whether it is a host, perhaps with a port: api.example.com, *.example.com, localhost:8080.

    A place in requests may stand before it: path@api.example.com.
    """
    place, host = part_host(text)
    if "@" in text and place not in (*PLACES, RENEWAL, SIGNING):
        return False
    text = host
    name, colon, port = text.removeprefix("*.").partition(":")
    labels = name.split(".")
    return (
        0 < len(name) <= 253
        and name == name.lower()
        and set(name) <= HOST_CHARACTERS
        and all(0 < len(each) <= 63 and each[0] != "-" for each in labels)
        and (not text.startswith("*.") or len(labels) > 1)
        and (not colon or is_port(port))
    )


def find_hosts_fault(hosts: Iterable[str]) -> str | None:
    """Why members of `hosts` are not for one guard, in words; None where they are.

    What signs goes nowhere itself: an API that is sent it, too, can be had to say it.
    """
    parted = [part_host(each) for each in hosts]
    if len({place == SIGNING for place, _ in parted}) > 1:
        return "a key that signs goes into no other place"
    if any(place == SIGNING and is_issuer(host) for place, host in parted):
        return f"no key signs for {' or '.join(ISSUERS)}, which give out credentials"
    return None


def is_issuer(host: str) -> bool:
    """Whether a host is by its name of a service that gives out credentials, as AWS names them."""
    labels = host.partition(":")[0].split(".")
    return any(each.removesuffix("-fips") in ISSUERS for each in labels)


def is_port(text: str) -> bool:
    """Whether it is the number of a port, as it is written."""
    return text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536 and text[0] != "0"


def is_method(text: str) -> bool:
    """Whether it is a method of HTTP, in capitals."""
    return 0 < len(text) <= 20 and set(text) <= LETTERS | {"-"} and text == text.upper()


def is_path(text: str) -> bool:
    """Whether it is a path, perhaps with * in it: /v1/*."""
    return text.startswith("/") and len(text) <= 300 and set(text) <= PATH_CHARACTERS


MEMBERS = {
    "only": WAYS.__contains__,
    "hosts": is_host,
    "methods": is_method,
    "paths": is_path,
    "servers": is_server,
    "users": is_user,
    "namespaces": is_namespace,
    "kinds": is_kind,
    "ciphers": CIPHERS.__contains__,
    "peers": is_peer,
    "wallet": is_pay_rule,
}
EXAMPLES = {
    "only": f"one of: {', '.join(WAYS)}",
    "hosts": "as in api.example.com, *.example.com, localhost:8080 or path@api.example.com",
    "methods": "as in GET or POST",
    "paths": "as in /v1/charges or /v1/*, without a query",
    "servers": f"NAME=SHA256:… of a host key, or one of: {', '.join(WORDS_FOR_SERVERS)}",
    "users": "as in git",
    "namespaces": "as in git or file",
    "kinds": "a number, as in 1 or 30023",
    "ciphers": f"one of: {', '.join(CIPHERS)}",
    "peers": f"64 hex digits of a public key, or {ANY_PEER}",
    "wallet": "as in chain 8453 token ETH to any tx 0.01 day 0.05 fee 0.001",
}
SAID = {  # the word before what a set has
    "hosts": "to",
    "methods": "by",
    "paths": "at",
    "servers": "to",
    "users": "as the user",
    "namespaces": "signing for",
    "kinds": "signing events of kind",
    "ciphers": "for",
    "peers": "with",
    "wallet": "spending",
}
USERS_OF = {  # of a way, for whom what is about it is
    "proxy": "the proxy",
    "ssh": "keys that sign for SSH",
    "sign": "keys that sign for Nostr",
    "wallet": "keys that pay",
}


def describe_members(name: str, members: frozenset[str]) -> str:
    """Members of a set, in words."""
    if name == "servers":
        return describe_servers(members)
    if name == "peers":
        return describe_peers(members)
    if name == "hosts":
        return " or ".join(map(describe_host, sorted(members)))
    if name == "wallet":
        return describe_pay_rules(members)
    return " or ".join(sorted(members, key=int if name == "kinds" else None))


def describe_host(text: str) -> str:
    """A host in words, with the place if it is another than a header."""
    place, host = part_host(text)
    if place == SIGNING:
        return f"{host} (to sign, itself it goes nowhere)"
    if place == RENEWAL:
        return f"{host} (to renew a token)"
    return host if place == HEADER else f"{host} (in the {place})"
