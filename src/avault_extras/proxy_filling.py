"""Has secrets put into a request, where their rules have them, before anything of it goes out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import avault
from avault import HEADER, SIGNING, AvaultError, Denied, fits_hosts

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


class Plan:
    """What is to be put into a request, whose headers are `fields`.

    `uses` says where each secret goes; `places` is what of each header is replaced. A body is
    written as `how` says, by the placeholders `bodily`; `signed` is what AWS signs of it.
    """

    def __init__(self, fields: Any, uses: Uses, is_socket: bool) -> None:
        self.fields, self.uses, self.is_socket = fields, uses, is_socket
        self.places: Any = []
        self.how: str | None = None
        self.bodily: dict[str, str] = {}
        self.signed: Any = None

    def drop_expectation(self) -> None:
        """The body has come: mitmproxy has answered an Expect (RFC 9110, 10.1.1) by itself."""
        kept = [
            (field, place)
            for field, place in zip(self.fields, self.places, strict=True)
            if field[0].lower() != b"expect"
        ]
        self.fields, self.places = (tuple(each) for each in zip(*kept, strict=True))


class Filling:
    """What a session's gate lets through gets its secrets here."""

    def __init__(self, gate: Any) -> None:
        self.gate = gate
        self.held: dict[tuple[str, str], int] = {}  # bytes, by client and request

    async def fill(self, flow: http.HTTPFlow, fields: Any, is_socket: bool) -> None:
        """Have a request as it goes out, with these headers; raises what keeps it from that.

        All its secrets are asked for at once: that is one use. So a body that may hold a
        placeholder is waited for, if it is short and says so; else it is filled as it goes by, and
        for that the secret is asked for whether it is there or not.
        """
        request = flow.request
        plan = Plan(fields, self.find_outside(flow, fields), is_socket)
        plan.signed = self.find_signed(flow)
        plan.places = self.find_fields(flow, fields, plan.signed is not None)
        for place in plan.places:
            for name in place.names if place else ():
                plan.uses.setdefault(name, []).append(HEADER)
        payload = find_payload(request, plan.signed) if plan.signed else None
        is_said = payload is not None
        plan.how = None if is_socket or is_said else proxy_places.find_writing(request)
        plan.bodily = self.texts_for(flow, "body") if plan.how else {}
        is_held = bool(plan.bodily) and proxy_places.is_short(request)
        if is_held or (plan.signed is not None and payload is None):
            self.hold(flow)
            request.headers.fields = fields
            flow.metadata["plan"] = plan
            return
        for name in plan.bodily:
            plan.uses.setdefault(name, []).append("body")
        values = await self.put_in(flow, plan, payload, payload)
        if plan.bodily:
            there = {name: values[name] for name in plan.bodily}
            fill_stream(request, proxy_places.list_pairs(plan.how, there, plan.bodily))
        elif not is_socket:
            request.stream = True

    async def fill_body(self, flow: http.HTTPFlow) -> None:
        """Put secrets into a request whose body is here, whole; raises what keeps it from that."""
        plan = flow.metadata.pop("plan", None)
        if plan is None:
            return
        plan.drop_expectation()
        content = came = flow.request.raw_content or b""
        for name in proxy_places.find_forms(content, plan.bodily):
            plan.uses.setdefault(name, []).append("body")

        def write(values: dict[str, str]) -> str:
            nonlocal content
            there = {name: values[name] for name in values if "body" in plan.uses[name]}
            pairs = proxy_places.list_pairs(plan.how, there, plan.bodily)
            content = proxy_scrub.replace_needles(came, pairs)
            if content is not came:
                flow.request.raw_content = content
                flow.request.headers["content-length"] = str(len(content))
            self.add_needles(flow, {}, pairs)
            return str(proxy_sigv4.hash_payload(content))

        await self.put_in(flow, plan, proxy_sigv4.hash_payload(came), write)

    async def put_in(
        self, flow: http.HTTPFlow, plan: Plan, came: str | None, goes: Any
    ) -> dict[str, str]:
        """Ask for a request's secrets, and put them into its head: the secrets, by their names.

        `came` is its body's hash, or what stands for it, where it is signed; `goes` the same as it
        goes out, or what puts secrets into the body, and gives that.
        """
        request = flow.request
        signer = self.find_signer(flow, plan, came)
        values = await self.get_values(plan.uses, flow)
        filled = [place.fill(values) if place else None for place in plan.places]
        pairs = self.fill_target(request, plan.uses, values)
        for place, new in zip(plan.places, filled, strict=True):
            if place and new and place.pair:
                start = len(place.head)
                pairs.append((place.value[start:].rstrip(b"="), new[start:].rstrip(b"=")))
        fields = plan.fields
        if values or plan.bodily or plan.signed:
            kept = [
                (name, new or value)
                for (name, value), new in zip(fields, filled, strict=True)
                if name.lower() != b"accept-encoding"
            ]
            fields = (*kept, (b"accept-encoding", b"identity"))
        request.headers.fields = fields
        self.add_needles(flow, values, pairs)
        flow.metadata["passed"], flow.metadata["is_socket"] = True, plan.is_socket
        hashed = goes(values) if callable(goes) else goes
        if signer:
            self.sign(flow, plan.signed, signer, values, hashed)
        return values

    def find_fields(self, flow: http.HTTPFlow, fields: Any, is_signed: bool) -> list[Any]:
        """Where each header has placeholders, None for one that has none; raises Denied."""
        allowed = self.gate.targets[flow.client_conn.id].headers
        if is_signed:
            allowed |= {proxy_sigv4.SESSION}
        return [
            None
            if is_signed and name.lower() == b"authorization"
            else proxy_headers.find_place(
                name.decode().lower(), value, self.gate.placeholders, allowed
            )
            for name, value in fields
        ]

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
        if place not in target.texts:
            target.texts[place] = {
                name: self.gate.texts[name]
                for name, sets in self.gate.sets.items()
                if fits_hosts(target.host, target.port, sets, place)
            }
        found: dict[str, str] = target.texts[place]
        return found

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
        if not uses:
            return {}
        names = {name: [*dict.fromkeys(places)] for name, places in uses.items()}
        refused = sorted(self.gate.stale & {*names})
        self.gate.stale -= {*refused}
        flow.metadata.setdefault("names", []).extend(names)
        values: dict[str, str] = await self.gate.ask({"names": names, **said, "refused": refused})
        for name, value in values.items():
            if proxy_headers.CONTROLS.search(value):
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

    def find_signed(self, flow: http.HTTPFlow) -> Any:
        """A request that is signed for AWS, if a secret of this session may have done it."""
        request = flow.request
        fields = add_host(request, request.headers.fields)
        found = proxy_sigv4.find_signature(fields)
        if not found or not (found[1] in self.gate.placeholders or self.texts_for(flow, SIGNING)):
            return None
        return proxy_sigv4.SignedRequest(request.method, request.data.path, fields, found)

    def find_signer(
        self, flow: http.HTTPFlow, plan: Plan, came: str | None
    ) -> tuple[str, str | None, int] | None:
        """By whom a request is to be signed anew, and its key's id, if a secret: put into the uses.

        And by which reading. None where it is not signed, or by somebody else: that goes as it is.
        Raises Denied.
        """
        signed = plan.signed
        if not signed:
            return None
        found = signed.find_signer(self.texts_for(flow, SIGNING), came)
        if not found:
            said = b" ".join(flow.request.headers.get_all("authorization")[0].encode().split())
            if not proxy_headers.find_placeholders(said, self.gate.placeholders):
                return None
            raise Denied(
                "the request is signed by no placeholder that a rule has sign for this host",
                "a secret that signs has a guard for that: avault guard GROUP/KEY --in sign",
            )
        name, reading = found
        own = self.gate.placeholders.get(signed.access.encode())
        if own and own not in self.texts_for(flow, HEADER):
            raise Denied(f"{own} is no id of a key, for which a rule has this host's headers")
        plan.uses.setdefault(name, []).append(SIGNING)
        if own:
            plan.uses.setdefault(own, []).append(HEADER)
        return name, own, reading

    def sign(
        self,
        flow: http.HTTPFlow,
        signed: Any,
        signer: tuple[str, str | None, int],
        values: dict[str, str],
        goes: str | None,
    ) -> None:
        """Have a request signed by the secret whose placeholder has signed it; raises Denied.

        `goes` is its body's hash, or what stands for it, as it goes out.
        """
        request, (name, own, reading) = flow.request, signer
        access = values[own] if own else signed.access
        fields = request.headers.fields
        if not re.fullmatch("[A-Za-z0-9_+=.-]{1,128}", access):
            raise Denied(f"{own or name} is no id of a key of AWS")
        said = signed.sign(
            values[name], access, reading, request.data.path, add_host(request, fields), goes
        )
        request.headers.fields = tuple(
            (each, said if each.lower() == b"authorization" else value) for each, value in fields
        )
        theirs = signed.signature.encode()
        self.add_needles(flow, {}, [(theirs, said[-len(theirs) :])])

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
