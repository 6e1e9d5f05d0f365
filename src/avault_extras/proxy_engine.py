"""mitmproxy as a library: no files, no options of the user's, an authority of its own in memory."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import importlib.util
import ipaddress
import json
import logging
import os
import socket
import ssl
import sys
import types
from typing import TYPE_CHECKING, Any

import avault
from avault import AvaultError, Unavailable, is_near

if TYPE_CHECKING:
    from collections.abc import Callable


def import_lightly() -> None:
    """Keep mitmproxy.addons from importing each of its addons, with Flask and tornado."""
    found = importlib.util.find_spec("mitmproxy")
    if found and found.submodule_search_locations and "mitmproxy.addons" not in sys.modules:
        package = types.ModuleType("mitmproxy.addons")
        package.__path__ = [os.path.join(found.submodule_search_locations[0], "addons")]
        sys.modules["mitmproxy.addons"] = package


import_lightly()

from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from mitmproxy import certs, options  # noqa: E402
from mitmproxy.addons.core import Core  # noqa: E402
from mitmproxy.addons.disable_h2c import DisableH2C  # noqa: E402
from mitmproxy.addons.next_layer import NextLayer  # noqa: E402
from mitmproxy.addons.proxyserver import Proxyserver  # noqa: E402
from mitmproxy.addons.tlsconfig import TlsConfig  # noqa: E402
from mitmproxy.master import Master  # noqa: E402
from mitmproxy.proxy import mode_servers  # noqa: E402
from mitmproxy.proxy.layers import websocket  # noqa: E402
from mitmproxy.proxy.layers.http import _http1, _http2  # noqa: E402

proxy_bounds = avault.load_extra("proxy_bounds", "proxy")
proxy_hooks = avault.load_extra("proxy_hooks", "proxy")
proxy_sockets = avault.load_extra("proxy_sockets", "proxy")
proxy_streams = avault.load_extra("proxy_streams", "proxy")

LIFE = datetime.timedelta(days=90)  # of the authority, which ends with the process long before
YOUNG = 5_000  # objects that are made until it is looked which of them are gone
ROOTS = (  # where systems keep the authorities that they trust, as one file
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
)
OPTIONS = {
    "mode": [],
    "connection_strategy": "lazy",  # else it connects before it is decided
    "upstream_cert": False,
    "rawtcp": False,
    "validate_inbound_headers": True,
    "store_streamed_bodies": False,
    "ssl_insecure": False,
    "confdir": "/nonexistent",  # nothing is written there, nor read
    "tls_version_server_min": "TLS1_2",
    "tls_version_client_min": "TLS1_2",
}


def find_roots() -> str:
    """The file of the authorities that upstreams' certificates come from; raises Unavailable.

    The system's, or what the daemon was started with in AVAULT_ROOTS.
    """
    given = os.environ.get("AVAULT_ROOTS")
    places = [given] if given else [ssl.get_default_verify_paths().cafile or "", *ROOTS]
    for path in places:
        if path and os.path.isfile(path):
            return path
    raise Unavailable(
        "no file with the system's authorities was found", "install the package ca-certificates"
    )


class Authority:
    """A certificate authority for some hosts, which lives in this process alone.

    No client takes from it a certificate for another host: its name constraints are critical
    (RFC 5280, 4.2.1.10). What is *.NAME, and NAME, lets all below it: constraints know no more.
    """

    def __init__(self, hosts: list[str]) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [x509.NameAttribute(x509.NameOID.COMMON_NAME, f"avault {os.urandom(4).hex()}")]
        )
        names, addresses = list[x509.GeneralName](), list[x509.GeneralName]()
        for host in sorted({*hosts}):
            try:
                addresses.append(x509.IPAddress(ipaddress.ip_network(host)))
            except ValueError:
                names.append(x509.DNSName(host.removeprefix("*.")))
        if not names:  # a kind of which nothing is permitted is permitted as a whole
            names.append(x509.DNSName("none.invalid"))
        permitted, excluded = names + addresses, list[x509.GeneralName]()
        if not addresses:
            excluded = [
                x509.IPAddress(ipaddress.ip_network(each)) for each in ("0.0.0.0/0", "::/0")
            ]
        now = datetime.datetime.now(datetime.UTC)
        public = self.key.public_key()
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.KeyUsage(
                    key_cert_sign=True, crl_sign=True, digital_signature=False,
                    content_commitment=False, key_encipherment=False, data_encipherment=False,
                    key_agreement=False, encipher_only=False, decipher_only=False,
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.NameConstraints(permitted, excluded or None), critical=True)
            .sign(self.key, hashes.SHA256())
        )  # fmt: skip

    def to_pem(self) -> bytes:
        """The certificate, for the bundle."""
        return bytes(self.certificate.public_bytes(serialization.Encoding.PEM))


class Greeter(TlsConfig):  # type: ignore[misc]
    """TLS with clients by our authority, for the one host that a client was connected to."""

    def __init__(self, authority: Authority, gate: Any) -> None:
        self.gate = gate
        self.certstore = certs.CertStore(
            authority.key, certs.Cert(authority.certificate), None, b"", None
        )

    def running(self) -> None:
        """Nothing is read from a directory."""

    def configure(self, updated: Any) -> None:
        """Nor made in one."""

    def request(self, flow: Any) -> None:
        """No list of revoked certificates is served."""

    def tls_start_client(self, tls_start: Any) -> None:
        """Without a context, mitmproxy ends the connection."""
        if self.gate.may_greet(tls_start.context.client):
            super().tls_start_client(tls_start)

    def get_cert(self, conn_context: Any) -> Any:
        """A certificate for the host of the connection."""
        host = self.gate.targets[conn_context.client.id].host
        try:
            name: Any = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        is_named = isinstance(name, x509.DNSName)
        return self.certstore.get_cert(host if is_named else None, [name], None, None)


class Loop(asyncio.SelectorEventLoop):
    """An event loop that finds for a name only what is of the internet, unless a rule names it.

    Looking up and connecting is one step, so that no name is another address in between. What is
    under `localhost` is this machine (RFC 6761, 6.3). `is_let` says whether a rule names a host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_let: Callable[[str, int], bool] = lambda host, port: False

    async def getaddrinfo(self, host: Any, port: Any, **known: Any) -> Any:
        """What is found, without what no rule lets through; raises OSError where none is left."""
        name = str(host).lower().removesuffix(".")
        is_ours = is_near(name) and self.is_let(name, int(port))
        if name.rpartition(".")[2] == "localhost":
            host = "127.0.0.1"
        found = await super().getaddrinfo(host, port, **known)
        left = [each for each in found if is_ours or is_global(str(each[4][0]))]
        if not left:
            raise socket.gaierror(socket.EAI_NONAME, "no address of the internet")
        return left


def is_global(address: str) -> bool:
    """Whether an address is one of the internet, also within what maps IPv4 into IPv6."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if any(found in ipaddress.ip_network(each) for each in ("64:ff9b::/96", "::/96")):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if (inner is not None and not inner.is_global) or found.is_site_local:
            return False
    return found.is_global and not found.is_multicast


def send_with_end(self: Any, event: Any) -> Any:
    """Send a request of HTTP/2 by HTTP/1.1, so that its end shows: mitmproxy adds nothing to it.

    A body of no length goes in chunks (RFC 9112, 7.1), and no other request after it. In the place
    of the `send` of mitmproxy's Http1Client.
    """
    if isinstance(event, _http1.RequestHeaders) and event.request.is_http2:
        request = event.request = event.request.copy()
        if not event.end_stream and "content-length" not in request.headers:
            request.headers["transfer-encoding"] = "chunked"
        request.headers["connection"] = "close"
    yield from SEND(self, event)


SEND = _http1.Http1Client.send


class Peer:
    """A stream's writer that says who the client is, where the socket has no address to tell.

    The port is 0 or less for one whose user was looked at, and then each has another.
    """

    def __init__(self, writer: asyncio.StreamWriter, number: int) -> None:
        self.writer, self.number = writer, number

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of a stream's writer."""
        if name == "peername":
            return ("127.0.0.1", -self.number)
        if name == "sockname":
            return ("127.0.0.1", 0)
        return self.writer.get_extra_info(name, default)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.writer, name)


def render_error(status: int, message: str) -> bytes:
    """What mitmproxy says by itself of a connection; not what was sent."""
    said = "the upstream's certificate is not trusted" if "erify" in message else "it failed"
    error = AvaultError(f"the proxy could not do that ({status}): {said}")
    return json.dumps(error.to_dict()).encode() + b"\n"


class Engine:
    """mitmproxy with a gate before it; `serve` is given each connection."""

    def __init__(self, gate: Any, authority: Authority, roots: str, loop: Any) -> None:
        logging.disable(logging.CRITICAL)  # it logs headers; ours are the keyholder's lines
        for module in (_http1, _http2):
            module.format_error = render_error
        _http1.Http1Client.send = send_with_end
        proxy_hooks.trust_types()
        proxy_sockets.SparingWebSocket.talks = gate.talks
        websocket.WebsocketConnection = proxy_sockets.SparingWebSocket
        loop.is_let = gate.is_ruled
        self.master = Master(options.Options(), loop)
        self.proxies = Proxyserver()
        ends = proxy_bounds.Ends()
        proxy_bounds.bound_connections(ends)
        streams = proxy_streams.Streams(self.proxies, gate, ends)
        hooks = proxy_hooks.Hooks(self.master.addons.chain)
        self.master.addons.handle_lifecycle = hooks.call
        proxy_hooks.watch_streams(gate.waiters, hooks)
        self.master.addons.add(
            Core(),
            gate,
            gate.answers,
            gate.talks,
            self.proxies,
            streams,
            ends,
            DisableH2C(),
            NextLayer(),
            Greeter(authority, gate),
        )
        wanted = {**OPTIONS, "ssl_verify_upstream_trusted_ca": roots}
        known = self.master.options.keys()
        self.master.options.update(**{name: wanted[name] for name in wanted if name in known})
        self.instance = mode_servers.ServerInstance.make("regular", self.proxies)
        self.count = 0
        gate.cut, gate.limit, gate.waiters.has_left = self.cut, streams.limit, self.has_left
        self.gate = gate
        gc.collect()
        gc.freeze()  # what is here stays: it need not be looked through again and again
        gc.set_threshold(YOUNG, 5, 3)

    def cut(self, client: Any) -> None:
        """End a client's connection, whatever it still sends."""
        handler = self.proxies.connections.get(client.id)
        found = handler.transports.get(client) if handler else None
        if found and found.writer:
            found.writer.transport.abort()

    def has_left(self, client: Any) -> bool:
        """Whether a client has said its last."""
        handler = self.proxies.connections.get(client.id)
        found = handler.transports.get(client) if handler else None
        if not (found and found.reader and found.writer):
            return True
        # what it has sent may lie here unread, and its end behind that
        return bool(found.reader.at_eof()) or proxy_bounds.is_closed(
            found.writer.get_extra_info("socket")
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection, until it ends."""
        with contextlib.suppress(OSError):
            await self.instance.handle_stream(reader, writer)

    async def serve_checked(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """A connection of whom we know that it is of our user."""
        self.count += 1
        await self.serve(reader, Peer(writer, self.count))  # type: ignore[arg-type]
