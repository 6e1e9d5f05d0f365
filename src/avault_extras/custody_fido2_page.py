"""A page at localhost on which a passkey is used: WebAuthn's PRF (level 3, section 10.1.4).

It is shown once, at a path that nobody can guess, and takes one answer, from the browser that it
was shown to. It can be reached from this machine alone, or through a port that SSH forwards.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import html
import http.server
import json
import secrets
import socket
import socketserver
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import avault
from avault import AvaultError, Denied, Errand, Unavailable, printable

if TYPE_CHECKING:
    from avault_extras import custody_fido2_html
else:
    custody_fido2_html = avault.load_extra("custody_fido2_html", "fido2")

LONGEST = 8192  # bytes of an answer; a credential's id has at most 1,023
SLOWEST = 10.0  # seconds for which a client may be silent
SAID = 2000  # characters of what is asked for
PORTS = 20  # tries to find a port that is free for both of localhost's addresses

# What a browser may say (WebAuthn, DOMException), and what it means; anything else is an error by
# its name
MEANINGS: dict[str, tuple[type[AvaultError], str]] = {
    "NotAllowedError": (
        Denied,
        (
            "the browser says no: it was refused, the person was not verified,"
            " or it has no such passkey"
        ),
    ),
    "AbortError": (Denied, "it was cancelled in the browser"),
    "NoPrf": (Unavailable, "that passkey can make no keys (WebAuthn PRF); take another kind"),
    "NotSupportedError": (Unavailable, "that browser can make no such passkey"),
    "NoWebAuthn": (Unavailable, "that browser knows no passkeys"),
}


def bind(port: int) -> tuple[socket.socket, socket.socket | None]:
    """A listening socket at 127.0.0.1, and one that keeps ::1 for us, which listens to nobody.

    A browser may try either of localhost's addresses: were the other free, another user could take
    it, and show a page of their own. Raises Unavailable.
    """
    for _ in range(1 if port else PORTS):
        own = socket.socket(socket.AF_INET)
        try:
            if (
                port
            ):  # after an errand that ended a moment ago; nobody who listens lets another in by it
                own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            own.bind(("127.0.0.1", port))
            other = keep_other(own.getsockname()[1])
            own.listen(16)
            return own, other
        except OSError as error:
            own.close()
            if port or error.errno != errno.EADDRINUSE:
                raise Unavailable(f"port {port} of localhost: {error.strerror}") from None
    raise Unavailable("no port of localhost is free")


def keep_other(port: int) -> socket.socket | None:
    """The same port of ::1, or None where there is no such address.

    Raises OSError where it is taken.
    """
    try:
        other = socket.socket(socket.AF_INET6)
    except OSError:
        return None
    try:
        other.bind(("::1", port))
    except OSError as error:
        other.close()
        if error.errno == errno.EADDRINUSE:
            raise
        return None
    return other


class Refused(Exception):
    """A request that is not answered: its status."""


class Page:
    """The page, and the answer to it: shown once, answered once. It says the `purpose`, if any."""

    def __init__(self, ask: dict[str, Any], label: str, purpose: str = "") -> None:
        self.purpose = purpose
        self.path, self.once = "/" + secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self.ask, self.label = {**ask, "label": label, "once": self.once}, label
        self.lock = threading.Lock()
        self.is_shown, self.is_answered = False, threading.Event()
        self.answer: dict[str, Any] = {}

    def show(self) -> bytes:
        """The page; raises Refused the second time: somebody else may have it."""
        with self.lock:
            if self.is_shown:
                raise Refused(HTTPStatus.GONE)
            self.is_shown = True
        sentence, button = custody_fido2_html.WORDS["credential" not in self.ask]
        return custody_fido2_html.PAGE.format(
            style=custody_fido2_html.STYLE,
            script=custody_fido2_html.SCRIPT,
            label=html.escape(self.label),
            purpose=html.escape(self.purpose),
            sentence=sentence,
            button=button,
            ask=html.escape(json.dumps(self.ask)),
        ).encode()

    def take(self, body: bytes) -> None:
        """The answer, from whom the page was shown to; raises Refused."""
        try:
            answer = json.loads(body)
            once = answer.pop("once")
            is_ours = secrets.compare_digest(once.encode(), self.once.encode())
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
            raise Refused(HTTPStatus.BAD_REQUEST) from None
        if not is_ours:
            raise Refused(HTTPStatus.FORBIDDEN)
        with self.lock:
            if self.answer:
                raise Refused(HTTPStatus.CONFLICT)
            self.answer = answer or {"error": "nothing"}


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """The page's server; a client that says nothing keeps nobody waiting."""

    daemon_threads = True

    def __init__(self, sock: socket.socket, page: Page) -> None:
        super().__init__(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket, self.page = sock, page
        self.host = f"localhost:{sock.getsockname()[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that went away."""


class Handler(http.server.BaseHTTPRequestHandler):
    """One request: the page, or the answer to it."""

    server: Server
    timeout = SLOWEST
    server_version, sys_version = "avault", ""

    def do_GET(self) -> None:
        """Show the page, if asked for by its path, and not fetched before anybody looks at it."""
        self.answer(self.get)

    def do_POST(self) -> None:
        """Take the answer, from the page itself."""
        self.answer(self.post)

    def answer(self, do: Any) -> None:
        """What `do` gives, or its refusal."""
        try:
            if self.headers.get_all("Host") != [self.server.host]:
                raise Refused(HTTPStatus.MISDIRECTED_REQUEST)
            if not secrets.compare_digest(self.path.encode(), self.server.page.path.encode()):
                raise Refused(HTTPStatus.NOT_FOUND)
            self.send(HTTPStatus.OK, do())
        except Refused as refused:
            self.send(refused.args[0], b"")

    def get(self) -> bytes:
        """The page; raises Refused."""
        if self.headers.get("Origin", self.origin) != self.origin:
            raise Refused(HTTPStatus.FORBIDDEN)
        if self.headers.get("Sec-Purpose") or self.headers.get("Purpose"):
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE)
        return self.server.page.show()

    def post(self) -> bytes:
        """Nothing, once the answer is taken; raises Refused."""
        if self.headers.get_all("Origin") != [self.origin]:
            raise Refused(HTTPStatus.FORBIDDEN)
        if self.headers.get("Content-Type") != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal() and len(length) < 6):
            raise Refused(HTTPStatus.LENGTH_REQUIRED)
        if int(length) > LONGEST:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        self.server.page.take(self.rfile.read(int(length)))
        return b""

    @property
    def origin(self) -> str:
        """Where the page is from."""
        return f"http://{self.server.host}"

    def send(self, status: HTTPStatus, body: bytes) -> None:
        """The answer, with the headers that all have."""
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in custody_fido2_html.HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        if self.command == "POST" and status == HTTPStatus.OK:
            self.server.page.is_answered.set()

    def log_message(self, *_: object) -> None:
        """Nothing: its path is a secret."""


class Passkey:
    """A passkey in the browser of the person, who is told where its page is."""

    def __init__(self, errand: Errand, port: int) -> None:
        self.errand, self.port = errand, port

    def make(self, salt: bytes) -> tuple[bytes, bytes]:
        """A new passkey's credential id, and what it makes of the salt."""
        return self.serve({"salt": encode(salt)})

    def use(self, credential: bytes, salt: bytes) -> bytes:
        """What the passkey makes of the salt."""
        return self.serve({"salt": encode(salt), "credential": encode(credential)})[1]

    def serve(self, ask: dict[str, Any]) -> tuple[bytes, bytes]:
        """What the page is answered, within the errand's limit.

        Raises what the browser's error means.
        """
        ask = {**ask, "timeout": int(self.errand.limit * 1000)}
        prompt = self.errand.prompt
        purpose, prompt.purpose = prompt.purpose, None
        page = Page(ask, printable(self.errand.names.label), printable(purpose or "", SAID))
        own, other = bind(self.port)
        with Server(own, page) as server, other or contextlib.nullcontext():
            port = own.getsockname()[1]
            self.errand.prompt.tell(f"open http://{server.host}{page.path}")
            self.errand.prompt.tell(
                f"from another machine, first there: ssh -L {port}:localhost:{port}"
                f" {avault.place_name()}"
            )
            threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
            if not page.is_answered.wait(self.errand.limit):
                raise Denied("the page was not used in time")
            server.shutdown()
        return read_answer(page.answer)


def encode(data: bytes) -> str:
    """Bytes, as JSON can carry them."""
    return base64.b64encode(data).decode()


def read_answer(answer: dict[str, Any]) -> tuple[bytes, bytes]:
    """A credential's id, and what it made; raises what the browser's error means."""
    name = answer.get("error")
    if name is not None:
        kind, reason = MEANINGS.get(
            str(name), (AvaultError, f"the browser failed: {printable(str(name)[:40])}")
        )
        raise kind(reason)
    try:
        credential, made = (
            base64.b64decode(answer[each], validate=True) for each in ("credential", "made")
        )
    except (KeyError, ValueError, TypeError):
        raise AvaultError("the page answered something else") from None
    if not 0 < len(credential) <= 1023 or len(made) != 32:
        raise AvaultError("the page answered something else")
    return credential, made
