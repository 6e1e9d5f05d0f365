"""What becomes of each connection and request of a session: an addon of mitmproxy.

A request gets a secret from the keyholder, by `ask`, which decides; here it is only seen to that
the request is what it says, that the secret goes where it was decided, and comes not back.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import re
from typing import TYPE_CHECKING, Any

from mitmproxy import http
from mitmproxy.proxy.layers import TCPLayer

import avault
from avault import (
    AvaultError,
    Denied,
    canonical_host,
    complain,
    fits_hosts,
    headers_for,
    is_address,
    read_authority,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

try:
    proxy_answers = avault.load_extra("proxy_answers", "proxy")
    proxy_filling = avault.load_extra("proxy_filling", "proxy")
    proxy_headers = avault.load_extra("proxy_headers", "proxy")
    proxy_places = avault.load_extra("proxy_places", "proxy")
    proxy_sockets = avault.load_extra("proxy_sockets", "proxy")
    proxy_waiting = avault.load_extra("proxy_waiting", "proxy")
except AvaultError:
    raise

SILENCE = 30.0  # seconds that a client has until its first request
LONGEST_REFUSED = 1 << 20  # bytes of a body that is read for its sender to see why it is refused
STATUS = {"denied": 403, "locked": 503, "unavailable": 503, "timed_out": 504}


class Target:
    """What a client has asked to be connected to, as it is compared.

    `headers` are those in which that host takes keys; `texts` is for what is found out of a host
    once: the placeholders that go there, by place.
    """

    def __init__(self, host: str, port: int, is_tunnel: bool) -> None:
        self.host, self.port, self.is_tunnel = host, port, is_tunnel
        self.headers = headers_for(host)
        self.texts: dict[str, dict[str, str]] = {}


class Gate:
    """Decides on connections and requests of one session.

    `session` is what the keyholder says of it: its `secrets`, each with `name`, `placeholder` and
    `hosts`, and `egress`. `ask` gets the secrets of a request, `tell` notes what was refused.
    """

    def __init__(
        self,
        session: dict[str, Any],
        token: str,
        ask: Callable[[dict[str, Any]], Awaitable[dict[str, str]]],
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self.ask, self.tell, self.token = ask, tell, token
        self.is_open = session["egress"] == "open"
        self.rules = [
            [frozenset(each) for each in secret["hosts"]] for secret in session["secrets"]
        ]
        self.placeholders = {
            secret["placeholder"].encode(): str(secret["name"]) for secret in session["secrets"]
        }
        self.sets = {
            str(each["name"]): rules
            for each, rules in zip(session["secrets"], self.rules, strict=True)
        }
        self.texts = {name: each.decode() for each, name in self.placeholders.items()}
        self.targets: dict[str, Target] = {}
        self.stale: set[str] = set()  # secrets that an upstream did not take (401)
        self.heard: set[str] = set()  # clients from which something sensible has come
        self.cut: Callable[[Any], None] = lambda client: None  # ends a client's connection
        self.limit: Callable[[Any], None] = lambda client: None  # of what is read of it
        self.waiters = proxy_waiting.Waiters(lambda client: False)  # on its connection
        self.answers = proxy_answers.Answers(self)
        self.talks = proxy_sockets.Talks(self)
        self.filling = proxy_filling.Filling(self)

    def is_ruled(self, host: str, port: int) -> bool:
        """Whether a rule of this session names a host."""
        return any(fits_hosts(host, port, sets) for sets in self.rules)

    # -- connections

    def http_connect(self, flow: http.HTTPFlow) -> None:
        """A client names where it wants to; refused, tunnelled, or looked into."""
        try:
            self.connect(flow)
        except AvaultError as error:
            self.note(flow, error)
            flow.response = self.answer(error)
        except Exception as error:
            flow.response = self.answer(Denied(f"not understood: {type(error).__name__}"))

    def connect(self, flow: http.HTTPFlow) -> None:
        """Raises Denied."""
        if not self.is_known(flow):
            flow.response = http.Response.make(
                407, b"", {"Proxy-Authenticate": 'Basic realm="avault"', "Content-Length": "0"}
            )
            return
        if flow.client_conn.id in self.targets:
            raise Denied("one connection is for one host")
        try:
            host, port = canonical_host(flow.request.host), flow.request.port
        except ValueError:
            raise Denied("that is no host") from None
        is_ruled = self.is_ruled(host, port)
        if not is_ruled and is_address(host):
            raise Denied(
                f"{host} is an address, and none that a rule names", "go there by a host's name"
            )
        if not is_ruled and not self.is_open:
            raise Denied(
                f"no rule names {host}:{port}, and nothing else goes out",
                f"avault guard GROUP/KEY --host {host}; or let all out: --egress open",
            )
        flow.request.host = host
        self.targets[flow.client_conn.id] = Target(host, port, not is_ruled)

    def is_known(self, flow: http.HTTPFlow) -> bool:
        """Whether it is a client of this session, once for each connection.

        By the Unix socket it is: whoever connects there was looked at. Else it has the token.
        """
        if flow.client_conn.peername[1] <= 0:
            return True
        scheme, _, said = flow.request.headers.get("proxy-authorization", "").partition(" ")
        wanted = base64.b64encode(f"avault:{self.token}".encode())
        given = said.strip().encode("utf-8", "replace")
        return scheme.lower() == "basic" and hmac.compare_digest(given, wanted)

    def next_layer(self, nextlayer: Any) -> None:
        """Within a tunnel, nothing is looked at."""
        target = self.targets.get(nextlayer.context.client.id)
        if target and target.is_tunnel and len(nextlayer.context.layers) > 1:
            self.heard.add(nextlayer.context.client.id)
            nextlayer.layer = TCPLayer(nextlayer.context, ignore=True)

    def is_named(self, client: Any) -> bool:
        """Whether a client names in its TLS the host that it was connected to."""
        target = self.targets.get(client.id)
        if not target or target.is_tunnel:
            return False
        try:
            return client.sni is not None and canonical_host(client.sni) == target.host
        except ValueError:
            return False

    def may_greet(self, client: Any) -> bool:
        """Whether TLS goes on. For an address no name is given (RFC 6066, 3)."""
        target = self.targets.get(client.id)
        is_literal = bool(target and is_address(target.host) and not client.sni)
        return self.is_named(client) or is_literal

    def client_connected(self, client: Any) -> None:
        """Who says nothing that is a request, or asks for a tunnel, is not waited for long.

        Nor is much read of it before it is known: others of this machine can connect, too.
        """
        self.limit(client)
        asyncio.get_running_loop().call_later(SILENCE, self.end_silence, client)

    def end_silence(self, client: Any) -> None:
        """The time for that is over."""
        if client.id not in self.heard:
            self.cut(client)

    def server_connect(self, data: Any) -> None:
        """We connect: to what was named, and to what proves that it is that."""
        target = self.targets.get(data.client.id)
        if not target or data.server.address != (target.host, target.port):
            data.server.error = "not what was asked for"
        elif not target.is_tunnel:
            data.server.sni = target.host

    def client_disconnected(self, client: Any) -> None:
        """It is gone."""
        self.heard.discard(client.id)
        self.targets.pop(client.id, None)
        self.filling.let_go(client)

    def error(self, flow: http.HTTPFlow) -> None:
        """A request or its answer was cut off."""
        self.filling.let_go(flow.client_conn, flow)

    def tls_failed_client(self, data: Any) -> None:
        """Most do not trust us: said in the log, as the client often hides it."""
        target = self.targets.get(data.context.client.id)
        if target:
            said = "TLS with the client failed: it names another host, or does not trust the bundle"
            self.tell({"host": target.host, "why": said, "code": "denied"})

    # -- requests

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Let a request go on, with a secret where one belongs; or refuse it.

        Who is not of this session gets no answer, and is in no log: it could fill that.
        """
        if flow.client_conn.id not in self.targets and not self.is_known(flow):
            flow.kill()
            self.cut(flow.client_conn)
            return
        self.heard.add(flow.client_conn.id)
        try:
            await self.waiters.hold(flow, self.admit(flow))
        except Exception as error:
            self.refuse(flow, understand(error))

    async def admit(self, flow: http.HTTPFlow) -> None:
        """Raises AvaultError."""
        request = flow.request
        self.check(flow)
        fields, is_socket = proxy_headers.strip_hops(request.headers.fields, request.method)
        await self.filling.fill(flow, fields, is_socket)

    def check(self, flow: http.HTTPFlow) -> None:
        """Raises Denied where a request says several things of where it goes, or none."""
        request, client = flow.request, flow.client_conn
        target = self.targets.get(client.id)
        is_clear = client.tls_version is None or request.data.scheme == b"http"
        if not target or target.is_tunnel or is_clear:
            raise Denied("nothing goes out in clear", "use https://")
        if not self.may_greet(client):
            raise Denied("TLS names another host than the connection")
        method = request.data.method  # as it came: mitmproxy shows it in capitals
        if method in (b"TRACE", b"TRACK", b"CONNECT") or not re.fullmatch(b"[A-Z-]{1,20}", method):
            raise Denied("that method does not go through")
        if not proxy_headers.is_whole(request):
            raise Denied("the request can be read in more than one way")
        is_newer = client.alpn == b"h2"  # what a request says of itself, anybody may say
        if request.data.http_version != (b"HTTP/2.0" if is_newer else b"HTTP/1.1"):
            raise Denied("only HTTP/1.1 goes through, and HTTP/2")
        if not re.match(rb"/(?!/)", request.data.path) and request.data.path != b"/":
            raise Denied("the request's target is not a path")
        if not re.fullmatch(rb"[\x21-\x7e]+", request.data.path) or b"#" in request.data.path:
            raise Denied("what stands in the request's path or query belongs in none")
        if not is_newer and request.data.authority:
            raise Denied("the request's target is not a path, but a whole address")
        named = request.headers.get_all("host")
        named += [request.authority] if is_newer and request.authority else []
        try:
            same = {read_authority(each) for each in named}
        except ValueError:
            same = set()
        if same != {(target.host, target.port)} or (not is_newer and len(named) != 1):
            raise Denied("the request names another host than its connection, or more than one")

    async def request(self, flow: http.HTTPFlow) -> None:
        """One that has ended, and was not let go on before that: nothing of it has gone out.

        By HTTP/2 it may say a length of what does not come (RFC 9113, 8.1.1).
        """
        content, length = flow.request.raw_content, flow.request.headers.get("content-length")
        if flow.response is not None or content is None:
            return
        try:
            if length is not None and int(length) != len(content):
                raise Denied("the request ends before its length")
            if "plan" in flow.metadata:
                await self.waiters.hold(flow, self.filling.fill_body(flow))
        except Exception as error:
            self.refuse(flow, understand(error))
        finally:
            self.filling.let_go(flow.client_conn, flow)

    def refuse(self, flow: http.HTTPFlow, error: AvaultError) -> None:
        """Answer with the reason; where too much comes with the request, end it."""
        self.note(flow, error)
        flow.metadata["refused"] = True
        headers = flow.request.headers
        length = headers.get(
            "content-length", "0" if flow.request.method in proxy_places.BODILESS else ""
        )
        is_short = length.isdigit() and int(length) <= LONGEST_REFUSED
        if is_short and "transfer-encoding" not in headers:
            flow.response = self.answer(error)
        else:
            flow.kill()
            if flow.client_conn.alpn != b"h2":  # else the other requests go on
                self.cut(flow.client_conn)

    def note(self, flow: http.HTTPFlow, error: AvaultError) -> None:
        """Have a refusal in the log."""
        target = self.targets.get(flow.client_conn.id)
        host = target.host if target else str(flow.request.host)
        if not getattr(error, "is_noted", False):
            method = "CONNECT" if flow.request.method == "CONNECT" else flow.request.method
            self.tell({"host": host, "method": method, "why": error.message, "code": error.code})

    def answer(self, error: AvaultError) -> http.Response:
        """A refusal as a response."""
        return http.Response.make(
            STATUS.get(error.code, 403),
            proxy_answers.render_refusal(error),
            {"Content-Type": "application/json", "Cache-Control": "no-store"},
        )


def understand(error: Exception) -> AvaultError:
    """What is said of an error; of one of ours what it says, of others nothing but its kind."""
    if isinstance(error, AvaultError):
        return complain(error)
    return Denied(f"not understood: {type(error).__name__}")
