"""Has secrets put into a request, where their rules have them, before anything of it goes out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import avault
from avault import HEADER, SIGNING, AvaultError, Denied, fits_hosts, headers_for

if TYPE_CHECKING:
    from mitmproxy import http

    Uses = dict[str, list[str]]  # by a secret's name, where in a request it is to be
    Pairs = list[tuple[bytes, bytes]]

try:
    proxy_headers = avault.load_extra("proxy_headers", "proxy")
    proxy_places = avault.load_extra("proxy_places", "proxy")
    proxy_scrub = avault.load_extra("proxy_scrub", "proxy")
    proxy_sigv4 = avault.load_extra("proxy_sigv4", "proxy")
except AvaultError:
    raise


MOST_HELD = 64 << 20  # bytes of bodies that one session waits for at once
OVERRIDES = ("x-http-method-override", "x-http-method", "x-method-override")
REWRITES = ("x-original-url", "x-rewrite-url")  # as some APIs read another path (IIS, Symfony)


class Filling:
    """What a session's gate lets through gets its secrets here."""

    def __init__(self, gate: Any) -> None:
        self.gate = gate
        self.held: dict[tuple[str, str], int] = {}  # bytes, by client and request

    async def fill(self, flow: http.HTTPFlow, fields: Any, is_socket: bool) -> None:
        """Have a request as it goes out, with these headers; raises what keeps it from that.

        A body that may hold a placeholder is waited for, if it is short and says so; else it is
        filled as it goes by, and for that the secret is asked for whether it is there or not.
        """
        request, placeholders = flow.request, self.gate.placeholders
        uses = self.find_outside(flow, fields)
        allowed = headers_for(self.gate.targets[flow.client_conn.id].host)
        if signed := self.find_signed(flow):
            allowed |= {proxy_sigv4.SESSION}
        places = [
            None
            if signed and name.lower() == b"authorization"
            else proxy_headers.find_place(name.decode().lower(), value, placeholders, allowed)
            for name, value in fields
        ]
        for place in places:
            for name in place.names if place else ():
                uses.setdefault(name, []).append(HEADER)
        payload = find_payload(request, signed) if signed else None
        is_said = payload is not None
        how = None if is_socket or is_said else proxy_places.find_writing(request)
        bodily = self.texts_for(flow, "body") if how else {}
        is_held = bool(bodily) and proxy_places.is_short(request)
        is_held = is_held or (signed is not None and payload is None)
        for name in bodily if not is_held else ():
            uses.setdefault(name, []).append("body")
        values = await self.get_values(uses, flow)
        filled = [place.fill(values) if place else None for place in places]
        pairs = self.fill_target(request, uses, values)
        for place, new in zip(places, filled, strict=True):
            if place and new and place.pair:
                start = len(place.head)
                pairs.append((place.value[start:].rstrip(b"="), new[start:].rstrip(b"=")))
        if values or bodily or signed:
            kept = [
                (name, new or value)
                for (name, value), new in zip(fields, filled, strict=True)
                if name.lower() != b"accept-encoding"
            ]
            fields = (*kept, (b"accept-encoding", b"identity"))
        request.headers.fields = fields
        self.add_needles(flow, values, pairs)
        flow.metadata["passed"], flow.metadata["is_socket"] = True, is_socket
        if payload is not None:
            await self.sign(flow, signed, payload, payload)
        if is_held:
            self.hold(flow)
            flow.metadata["body"] = how, bodily, signed
        elif bodily:
            fill_stream(request, proxy_places.list_pairs(how, values, bodily))
        elif not is_socket:
            request.stream = True

    def find_outside(self, flow: http.HTTPFlow, fields: Any) -> Uses:
        """Where in a request's target secrets are to be; raises Denied, also where none is ever."""
        request, host = flow.request, self.gate.targets[flow.client_conn.id].host
        for each in (request.data.method, *(name for name, _ in fields)):
            for name in proxy_headers.find_placeholders(each, self.gate.placeholders):
                said = f"the placeholder of {name} is where no value goes, in a request to {host}"
                raise Denied(said)
        path, _, query = request.data.path.partition(b"?")
        uses: Uses = {}
        for place, part in (("path", path), ("query", query)):
            allowed = self.texts_for(flow, place)
            for name in proxy_places.find_in_target(place, part, host, self.gate.texts, allowed):
                uses.setdefault(name, []).append(place)
        return uses

    def texts_for(self, flow: http.HTTPFlow, place: str) -> dict[str, str]:
        """The placeholders, by name, that rules let into a place of requests to this host."""
        target = self.gate.targets[flow.client_conn.id]
        return {
            name: self.gate.texts[name]
            for name, sets in self.gate.sets.items()
            if fits_hosts(target.host, target.port, sets, place)
        }

    async def get_values(self, uses: Uses, flow: http.HTTPFlow) -> dict[str, str]:
        """Secrets, by name, for a request; raises what the keyholder says, and Denied."""
        target, request = self.gate.targets[flow.client_conn.id], flow.request
        path = request.data.path.partition(b"?")[0].decode("ascii", "backslashreplace")
        said = {"host": target.host, "port": target.port, "method": request.method, "path": path}
        for name, value in request.headers.items(multi=True):
            read = name.lower().replace("_", "-")  # as CGI and its like do (RFC 3875, 4.1.18)
            if read in REWRITES or (read in OVERRIDES and value.strip() != request.method):
                raise Denied("a header says another method, or path, than the request's own")
        said = flow.metadata.setdefault("said", said)  # as it came: later, a secret is in the path
        values = {}
        for name, places in uses.items():
            asked = {"name": name, **said, "in": [*dict.fromkeys(places)]}
            if name in self.gate.stale:
                self.gate.stale.discard(name)
                asked["refused"] = True
            flow.metadata.setdefault("names", []).append(name)
            values[name] = await self.gate.ask(asked)
            if proxy_headers.CONTROLS.search(values[name]):
                what = "line ends or control characters"
                raise Denied(f"{name} has {what}, so it goes into no request")
        return values

    def fill_target(self, request: Any, uses: Uses, values: dict[str, str]) -> Pairs:
        """Put secrets into path and query; gives what was replaced by what."""
        parts, replaced = list(request.data.path.partition(b"?")), list[tuple[bytes, bytes]]()
        for at, place in ((0, "path"), (2, "query")):
            there = {name: values[name] for name, places in uses.items() if place in places}
            pairs = proxy_places.list_pairs(place, there, self.gate.texts)
            parts[at] = proxy_scrub.replace_needles(parts[at], pairs)
            replaced += pairs
        request.data.path = b"".join(parts)
        return replaced

    async def fill_body(self, flow: http.HTTPFlow) -> None:
        """Put secrets into a body that is here, whole; raises what the keyholder says."""
        how, texts, signed = flow.metadata.get("body", (None, {}, None))
        content = came = flow.request.raw_content or b""
        if names := proxy_places.find_forms(content, texts):
            values = await self.get_values({name: ["body"] for name in names}, flow)
            pairs = proxy_places.list_pairs(how, values, texts)
            content = proxy_scrub.replace_needles(content, pairs)
            flow.request.raw_content = content
            flow.request.headers["content-length"] = str(len(content))
            self.add_needles(flow, values, pairs)
        if signed:
            await self.sign(flow, signed, *map(proxy_sigv4.hash_payload, (came, content)))

    def find_signed(self, flow: http.HTTPFlow) -> Any:
        """A request that is signed for AWS, if a secret of this session may have done it."""
        request = flow.request
        fields = add_host(request, request.headers.fields)
        found = proxy_sigv4.find_signature(fields)
        if not found or not (found[1] in self.gate.placeholders or self.texts_for(flow, SIGNING)):
            return None
        return proxy_sigv4.SignedRequest(request.method, request.data.path, fields, found)

    async def sign(self, flow: http.HTTPFlow, signed: Any, came: str, goes: str) -> None:
        """Have a request signed by the secret whose placeholder has signed it; raises Denied.

        `came` and `goes` are its body's hash, or what stands for it, before and now. What somebody
        else has signed goes as it is.
        """
        request = flow.request
        found = signed.find_signer(self.texts_for(flow, SIGNING), came)
        if not found:
            said = b" ".join(request.headers.get_all("authorization")[0].encode().split())
            if not proxy_headers.find_placeholders(said, self.gate.placeholders):
                return
            raise Denied(
                "the request is signed by no placeholder that a rule has sign for this host",
                "a secret that signs has a guard for that: avault guard GROUP/KEY --in sign",
            )
        name, reading = found
        own = self.gate.placeholders.get(signed.access.encode())
        uses = {name: [SIGNING], **({own: [HEADER]} if own else {})}
        if own and own not in self.texts_for(flow, HEADER):
            raise Denied(f"{own} is no id of a key, for which a rule has this host's headers")
        values = await self.get_values(uses, flow)
        access, fields = values.get(own, signed.access), request.headers.fields
        if not re.fullmatch("[A-Za-z0-9_+=.-]{1,128}", access):
            raise Denied(f"{own or name} is no id of a key of AWS")
        said = signed.sign(
            values[name], access, reading, request.data.path, add_host(request, fields), goes
        )
        request.headers.fields = tuple(
            (each, said if each.lower() == b"authorization" else value) for each, value in fields
        )
        theirs = signed.signature.encode()
        self.add_needles(flow, values, [(theirs, said[-len(theirs) :])])

    def hold(self, flow: http.HTTPFlow) -> None:
        """Have a body waited for, if no more is than a session may; raises Denied."""
        length = int(flow.request.headers.get("content-length", 0))
        if sum(self.held.values()) + length > MOST_HELD:
            raise Denied(
                "too many bodies are waited for at once", "try again when some are through"
            )
        self.held[flow.client_conn.id, flow.id] = length

    def let_go(self, client: Any, flow: Any = None) -> None:
        """A body is here, or does not come: that of one request, or all of a client's."""
        for each in [*self.held]:
            if each[0] == client.id and (flow is None or each[1] == flow.id):
                del self.held[each]

    def add_needles(self, flow: http.HTTPFlow, values: dict[str, str], pairs: Pairs) -> None:
        """Have answers looked through for secrets, also in the forms in which they went out."""
        known = flow.metadata.get("needles", [])
        found = [(new, old) for old, new in reversed(pairs)]
        for name, value in values.items():
            found += proxy_scrub.list_needles(value, self.gate.texts[name])
        if found:
            flow.metadata["needles"] = proxy_scrub.sort_needles([*known, *found])


def add_host(request: Any, fields: Any) -> Any:
    """A request's headers, with the host that HTTP/2 says elsewhere (RFC 9113, 8.3.1)."""
    is_said = any(name.lower() == b"host" for name, _ in fields)
    return fields if is_said else (*fields, (b"host", request.authority.encode()))


def find_payload(request: Any, signed: Any) -> str | None:
    """What is signed of a request's body: its hash, or what stands for it; None until it is here.

    Raises Denied for one that is too long to be waited for.
    """
    if signed.payload is not None:
        return str(signed.payload)
    length = request.headers.get("content-length", "")
    is_chunked = "transfer-encoding" in request.headers
    is_known = not request.is_http2 or request.method in proxy_places.BODILESS
    if not is_chunked and int(length or not is_known) == 0:
        return str(proxy_sigv4.hash_payload(b""))
    if not length or int(length) > proxy_sigv4.LONGEST_SIGNED:
        raise Denied(
            "a signed body of that length, or of none, is too long to be signed anew",
            f"have its hash, or UNSIGNED-PAYLOAD, in the header {proxy_sigv4.PAYLOAD}",
        )
    return None


def fill_stream(request: Any, pairs: Pairs) -> None:
    """Put secrets into a body as it goes by, whose length may not stay the same."""
    request.stream = proxy_scrub.Scrubber(pairs)
    is_same = all(len(old) == len(new) for old, new in pairs)
    if not is_same and "content-length" in request.headers:
        del request.headers["content-length"]
        if not request.is_http2:
            request.headers["transfer-encoding"] = "chunked"
