"""Where in a request a placeholder stands, and the secret in its place: whole, or not at all."""

from __future__ import annotations

import base64
import re
from typing import Any
from urllib.parse import unquote_to_bytes

from avault import Denied

PLAIN = re.compile(rb'((?:[A-Za-z][A-Za-z0-9_-]{0,31} ++)?(?:token=)?)("?)([^"]+)("?)')
BASIC = re.compile(rb"([Bb][Aa][Ss][Ii][Cc] +)([A-Za-z0-9+/_-]+=*)")
ENCODED = re.compile(rb"[A-Za-z0-9+/_-]{16,}=*")
CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
HOP = {"connection", "proxy-connection", "proxy-authorization", "proxy-authenticate", "keep-alive"}
FRAMING = {"host", "content-length", "transfer-encoding", "authorization", "te"}

Fields = tuple[tuple[bytes, bytes], ...]


def decode_base64(text: bytes) -> bytes:
    """What base64 of either alphabet says, with or without its end; b"" for what says nothing."""
    plain = text.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except ValueError:
        return b""


def list_readings(data: bytes) -> list[bytes]:
    """What those who receive some bytes may read in them: as they are, and decoded, also twice."""
    readings = [data]
    for _ in range(2):
        if b"%" in readings[-1]:
            readings.append(unquote_to_bytes(readings[-1]))
    encoded = [found[0] for each in readings for found in ENCODED.finditer(each)]
    return readings + [found for each in encoded if (found := decode_base64(each))]


def find_placeholders(data: bytes, placeholders: dict[bytes, str]) -> list[str]:
    """The names of secrets whose placeholders are in some bytes, in whatever form."""
    if len(data) < min(map(len, placeholders), default=0):
        return []  # no form of one is shorter
    readings = [each.lower() for each in list_readings(data)]  # by h2, names are in lower case
    return [
        name
        for placeholder, name in placeholders.items()
        if any(placeholder.lower() in each for each in readings)
    ]


class Place:
    """A header's value that has a placeholder as a whole: what is around it, and which it is."""

    def __init__(self, value: bytes, placeholders: dict[bytes, str]) -> None:
        self.value, self.placeholders = value, placeholders
        self.names: list[str] = []
        self.pair: tuple[bytes, bytes] | None = None
        basic, plain = BASIC.fullmatch(value), PLAIN.fullmatch(value)
        if basic and b":" in (pair := decode_base64(basic[2])):
            user, _, password = pair.partition(b":")
            self.head, self.pair = basic[1], (user, password)
            self.names = [placeholders[each] for each in self.pair if each in placeholders]
        elif plain and plain[3] in placeholders and plain[2] == plain[4]:
            self.head, self.quote = plain[1], plain[2]
            self.names = [placeholders[plain[3]]]

    def fill(self, values: dict[str, str]) -> bytes:
        """The header's value with secrets in it, by their names; raises Denied."""
        for name in self.names:
            if CONTROLS.search(values[name]):
                raise Denied(f"{name} has line ends or control characters, so no header carries it")
        if self.pair is None:
            return self.head + self.quote + values[self.names[0]].encode() + self.quote
        user, password = (
            values[self.placeholders[each]].encode() if each in self.placeholders else each
            for each in self.pair
        )
        if b":" in user:
            raise Denied("a name with a colon in it cannot go into Basic", "see RFC 7617")
        return self.head + base64.b64encode(user + b":" + password)


def find_place(
    header: str, value: bytes, placeholders: dict[bytes, str], allowed: frozenset[str]
) -> Place | None:
    """Where a header's value has placeholders; None where it has none. Raises Denied."""
    found = find_placeholders(value, placeholders)
    if not found:
        return None
    if header not in allowed:
        raise Denied(
            f"the placeholder of {found[0]} is in the header {header[:40]}, where no key belongs",
            f"here it may be in: {', '.join(sorted(allowed)[:6])}",
        )
    place = Place(value, placeholders)
    if {*place.names} != {*found}:
        raise Denied(
            f"the placeholder of {found[0]} is in the header {header[:40]} among other text",
            "it has to stand there by itself, as in Authorization: Bearer KEY",
        )
    return place


def strip_hops(fields: Fields, method: str) -> tuple[Fields, bool]:
    """Headers without what is for a proxy, or for one connection; whether it is a WebSocket's.

    Raises Denied for a Connection that names what says where a request goes, or ends (RFC 9110,
    7.6.1); for a WebSocket's beginning with a body, which would be waited for, whole; and for an
    Expect in another form than the one that mitmproxy answers by itself (10.1.1): the upstream's
    100 would be taken for its answer.
    """
    text = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in fields]
    named = {
        each.strip().lower()
        for name, value in text
        if name in ("connection", "proxy-connection")
        for each in value.split(",")
    }
    if named & FRAMING - {"te"}:
        raise Denied("Connection names a header that is none of a connection's")
    expected = [value.lower() for name, value in text if name == "expect"]
    if expected and expected != ["100-continue"]:
        raise Denied("Expect may be 100-continue here, once, and nothing else")
    upgrades = [value.strip().lower() for name, value in text if name == "upgrade"]
    is_socket = upgrades == ["websocket"] and "upgrade" in named and method == "GET"
    if is_socket and any(
        name == "transfer-encoding" or (name == "content-length" and value.strip("0 "))
        for name, value in text
    ):
        raise Denied("what begins a WebSocket has no body")
    dropped = HOP | named | {"upgrade"}
    kept = [
        field
        for field, (name, value) in zip(fields, text, strict=True)
        if (name == "te" and value.strip().lower() == "trailers") or name not in dropped | {"te"}
    ]
    if is_socket:
        kept += [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    return tuple(kept), is_socket


def is_field(field: tuple[bytes, bytes]) -> bool:
    """Whether it is a header as all read it: its name a token, no line's end in it (RFC 9110)."""
    name, value = field
    return bool(re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}", name)) and not re.search(
        rb"[\x00-\x08\x0a-\x1f\x7f]", value
    )


def has_one_end(request: Any) -> bool:
    """Whether all read the same end of a request's body (RFC 9112, 6.3)."""
    lengths = request.headers.get_all("content-length")
    codings = request.headers.get_all("transfer-encoding")
    if codings:
        return (
            not request.is_http2
            and not lengths
            and [each.lower() for each in codings] == ["chunked"]
        )
    return len(lengths) < 2 and all(re.fullmatch("[0-9]{1,18}", each) for each in lengths)


def is_whole(request: Any) -> bool:
    """Whether all read the same in a request's head."""
    return has_one_end(request) and all(map(is_field, request.headers.fields))
