"""What a client does with a proxy: a stand-in for one, which lets nothing out, and what came to it.

It has an authority as a session has one, for one host that there is nowhere.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import secrets
import signal
import ssl
import tempfile
from typing import TYPE_CHECKING, Any

from cryptography import x509

import avault
from avault import AvaultError

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    proxy_engine = avault.load_extra("proxy_engine", "proxy")
except AvaultError:
    raise

PROBED = "probe.avault.test"  # no name of the internet: RFC 6761, 6.2
FOREIGN = "elsewhere.avault.test"  # what our authority may not vouch for
CLIENT_TIME = 60.0  # seconds that the command has
HEAD = b"\r\n\r\n"
REFUSED = b'{"ok": false, "error": {"code": "denied", "message": "nothing goes out of a probe"}}'


def sign_host(authority: Any, host: str) -> tuple[bytes, bytes]:
    """A certificate of a session's authority for a host, with what it comes from, and its key."""
    engine = proxy_engine
    store = engine.certs.CertStore(
        authority.key, engine.certs.Cert(authority.certificate), None, b"", None
    )
    found = store.get_cert(host, [x509.DNSName(host)], None, None)
    key = found.privatekey.private_bytes(
        engine.serialization.Encoding.PEM,
        engine.serialization.PrivateFormat.PKCS8,
        engine.serialization.NoEncryption(),
    )
    return found.cert.to_pem(), key


def serve_as(authority: Any, host: str, directory: str) -> ssl.SSLContext:
    """TLS as that host, for one that trusts the authority. The key is of this moment alone."""
    path = os.path.join(directory, "host.pem")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(b"".join(sign_host(authority, host)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    os.unlink(path)
    return context


def keeps_constraints() -> bool:
    """Whether this Python's TLS refuses what our authority may not vouch for, and takes the rest.

    RFC 5280, 4.2.1.10.
    """
    authority = proxy_engine.Authority([PROBED])
    with tempfile.TemporaryDirectory() as directory:
        return shake_hands(authority, PROBED, directory) and not shake_hands(
            authority, FOREIGN, directory
        )


def shake_hands(authority: Any, host: str, directory: str) -> bool:
    """Whether a client that trusts the authority takes its certificate for a host."""
    trusting = ssl.create_default_context(cadata=authority.to_pem().decode())
    here, there = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(here, there, server_hostname=host)
    server = serve_as(authority, host, directory).wrap_bio(there, here, server_side=True)
    try:
        for _ in range(4):
            for each in (client, server):
                with contextlib.suppress(ssl.SSLWantReadError):
                    each.do_handshake()
        return client.version() is not None and client.getpeercert() is not None
    except ssl.SSLError:
        return False


class Probe:
    """A proxy that answers for one host by itself, and for no other.

    `ways` are the variables by which clients came, `hosts` what they asked for, `trusted` how
    many asked something of the host, `mistrust` why the others did not.
    """

    def __init__(self, directory: str) -> None:
        self.directory, self.token = directory, secrets.token_urlsafe(32)
        self.authority = proxy_engine.Authority([PROBED])
        self.tls = serve_as(self.authority, PROBED, directory)
        self.ways: list[str] = []
        self.hosts: list[str] = []
        self.trusted, self.plain = 0, False
        self.mistrust: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection, until it ends."""
        with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError, ValueError):
            await self.talk(reader, writer)
        writer.close()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hear what is asked for, once the client has said who it is, as a session wants it."""
        while True:
            method, target, login = read_head(await reader.readuntil(HEAD))
            way = self.read_login(login)
            if way:
                break
            writer.write(
                b'HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm="avault"\r\n'
                b"Content-Length: 0\r\n\r\n"
            )
            await writer.drain()
        self.ways.append(way)
        self.plain = self.plain or method != "CONNECT"
        self.hosts.append(target.rpartition(":")[0] if method == "CONNECT" else target)
        if self.hosts[-1] != PROBED or method != "CONNECT":
            writer.write(
                b"HTTP/1.1 403 No\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
                % (len(REFUSED), REFUSED)
            )
            await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            await writer.start_tls(self.tls)
            await reader.readuntil(HEAD)
        except (ssl.SSLError, OSError, EOFError) as error:
            self.mistrust.append(getattr(error, "reason", None) or "it hung up")
            return
        self.trusted += 1
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n"
            b"Content-Type: application/json\r\n\r\n{}"
        )
        await writer.drain()

    def read_login(self, login: str) -> str:
        """By which variable a client came, of the name that it says; "" for none of ours."""
        scheme, _, said = login.partition(" ")
        if scheme.lower() != "basic":
            return ""
        name, _, token = (
            base64.b64decode(said.strip() + "==").decode(errors="replace").partition(":")
        )
        return name if secrets.compare_digest(token.encode(), self.token.encode()) else ""


def read_head(data: bytes) -> tuple[str, str, str]:
    """Method and target of a request, and its Proxy-Authorization; raises ValueError."""
    first, *lines = data.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    fields = (line.partition(":") for line in lines)
    login = next(
        (text.strip() for name, _, text in fields if name.lower() == "proxy-authorization"), ""
    )
    return method, target, login


async def run_client(
    probe: Probe, words: list[str], environment: Callable[[int], dict[str, str]]
) -> int | None:
    """Run a command beside the probe; its exit code, None where it took too long.

    `environment` is its variables, by the port that the probe is at. What it prints is for people.
    """
    server = await asyncio.start_server(probe.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *words,
        env=environment(port),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=2,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(CLIENT_TIME):
            return await process.wait()
    except TimeoutError:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        server.close()


def examine_client(
    words: list[str], environment: Callable[[int, str, str], dict[str, str]], variables: list[str]
) -> dict[str, Any]:
    """What a command does with a session's variables; raises OSError where it cannot be run.

    `environment` is given a port, a token and the directory that has a bundle for each of the
    `variables` that name one: which of them was read, the times of the files say.
    """
    with tempfile.TemporaryDirectory() as directory:
        probe = Probe(directory)
        roots = proxy_engine.find_roots()
        with open(roots, "rb") as file:
            bundle = file.read() + b"\n" + probe.authority.to_pem()
        paths = {name: os.path.join(directory, f"{name}.pem") for name in variables}
        for path in paths.values():
            with open(path, "wb") as copy:
                copy.write(bundle)
            os.utime(path, (1, os.stat(path).st_mtime))  # so that a look at it shows (mount(8))

        def given(port: int) -> dict[str, str]:
            return environment(port, probe.token, directory)

        code = asyncio.run(run_client(probe, words, given))
        looked = [name for name, path in paths.items() if os.stat(path).st_atime > 1]
    return {
        "code": code,
        "ways": sorted({*probe.ways}),
        "hosts": sorted({*probe.hosts}),
        "trusted": probe.trusted,
        "mistrust": sorted({*probe.mistrust}),
        "plain": probe.plain,
        "looked": looked,
    }
