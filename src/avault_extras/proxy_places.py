"""Where in a request, besides headers, a placeholder may stand; and how a secret is written."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import avault
from avault import AvaultError, Denied

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    proxy_headers = avault.load_extra("proxy_headers", "proxy")
    proxy_scrub = avault.load_extra("proxy_scrub", "proxy")
except AvaultError:
    raise

BODILESS = ("GET", "HEAD", "OPTIONS", "DELETE")
LONGEST_HELD = 1 << 20  # bytes of a body that is looked at whole
WRITE: dict[str, Callable[[str], str]] = {
    # RFC 3986, 3.3: what may stand in a path as it is; without ";", which some take for its end
    "path": lambda value: quote(value, safe="-._~!$&'()*+,=:@"),
    "query": lambda value: quote(value, safe="-._~"),
    "form": quote_plus,
    "json": lambda value: json.dumps(value)[1:-1],
    "text": str,
}


def list_forms(placeholder: str) -> list[str]:
    """How clients write a placeholder: as it is, or by %, which few need (Telegram's colon)."""
    percent = quote(placeholder, safe="")
    lower = re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), percent)
    return [*dict.fromkeys((placeholder, percent, lower))]


def find_forms(data: bytes, texts: dict[str, str]) -> list[str]:
    """The names of secrets whose placeholders are in some bytes, as they are put in there."""
    return [
        name
        for name, text in texts.items()
        if any(each.encode() in data for each in list_forms(text))
    ]


def list_pairs(
    how: str, values: dict[str, str], texts: dict[str, str]
) -> list[tuple[bytes, bytes]]:
    """What is replaced by what: each form of a placeholder, the secret as it is written there."""
    return list(
        proxy_scrub.sort_needles(
            [
                (form.encode(), WRITE[how](value).encode())
                for name, value in values.items()
                for form in list_forms(texts[name])
            ]
        )
    )


def find_in_target(
    place: str, part: bytes, host: str, texts: dict[str, str], allowed: dict[str, str]
) -> list[str]:
    """The names of secrets that belong into the path or the query of a request; raises Denied.

    `texts` are the placeholders of all secrets by name, `allowed` those of the ones that may be
    there.
    """
    names = find_forms(part, allowed)
    rest = part
    for name in names:
        for form in list_forms(allowed[name]):
            rest = rest.replace(form.encode(), b" ")
    others = {text.encode(): name for name, text in texts.items()}
    pieces = [rest, *rest.split(b"/")]  # base64 has slashes, too, and begins anew after some
    hidden = [name for each in pieces for name in proxy_headers.find_placeholders(each, others)]
    for name in hidden:
        if name in allowed:
            said = f"the placeholder of {name} is in the {place} in a form that is not put in"
            raise Denied(said, "it has to stand there as it is")
        raise Denied(
            f"the placeholder of {name} is in the {place} of a request to {host}, where no rule"
            " lets it",
            f"a key goes into a header, else: avault guard {name} --host {host} --in {place}",
        )
    return names


def find_writing(request: Any) -> str | None:
    """How a secret is written in a request's body, by its type; None for one not looked at.

    JSON (RFC 8259) and forms (WHATWG URL, 5); nothing that is packed, and no request without one.
    """
    get = request.headers.get
    length = get("content-length", "0" if request.method in BODILESS else "")
    if length == "0" and "transfer-encoding" not in request.headers:
        return None
    if get("content-encoding", "").strip().lower() not in ("", "identity"):
        return None
    kind = get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        return "form"
    is_json = re.fullmatch(r"application/(?:(?:[a-z0-9.-]+\+)?json|x-ndjson|jsonl)", kind)
    return "json" if is_json else None


def is_short(request: Any) -> bool:
    """Whether a body is short enough, and says so, to be looked at whole."""
    length = request.headers.get("content-length", "")
    return length.isdigit() and int(length) <= LONGEST_HELD
