"""A local API with TLS: HTTP/1.1 as bytes, HTTP/2 by the library h2. It keeps what reached it, as it was."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import h2.config
import h2.connection
import h2.events
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NAMES = ("api.localhost", "other.localhost", "a.wild.localhost", "evil.localhost", "localhost")


def make_certificates(top: Path) -> tuple[Path, Path]:
    """An authority's certificate, and a server's with its key, for NAMES and 127.0.0.1."""
    now, keys = datetime.datetime.now(datetime.UTC), [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAMES[0])])
    made = []
    for name, key, is_ca in ((issuer, keys[0], True), (subject, keys[1], False)):
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False)
        )
        if not is_ca:
            names: list[x509.GeneralName] = [x509.DNSName(each) for each in NAMES]
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = keys[1].private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    ours, server = top / "authority.pem", top / "server.pem"
    ours.write_bytes(made[0])
    server.write_bytes(made[1] + private)
    return ours, server


class Api:
    """Listens on 127.0.0.1; `heads` are the requests as they came, `bodies` what came with them."""

    def __init__(self, top: Path, is_newer: bool = False, certificate: Path | None = None) -> None:
        self.roots, self.server = make_certificates(top)
        server = certificate or self.server  # a certificate of another API's authority
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(server)
        if is_newer:
            self.context.set_alpn_protocols(["h2"])
        self.is_newer = is_newer
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.proceed = threading.Event()  # a test lets an answer go on
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError, EOFError), self.context.wrap_socket(sock, server_side=True) as tls:
            if self.is_newer:
                self.serve_newer(tls)
            else:
                stream = tls.makefile("rb")
                while self.answer(tls, stream):
                    pass

    # HTTP/1.1

    def answer(self, tls: ssl.SSLSocket, stream) -> bool:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = stream.readline()
            if not line:
                return False
            head += line
        body = self.read_body(head.lower(), stream)
        self.heads.append(head)
        self.bodies.append(body)
        path = head.split()[1].decode("latin-1").partition("?")[0]
        if b"\nupgrade: websocket" in head.lower() and self.talk(path, head, tls, stream):
            return False
        if b"\nexpect:" in head.lower():
            tls.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.3)  # the next request is under way by then
        for piece in self.pieces(path, head, body):
            tls.sendall(piece)
        return path != "/until-close"

    def talk(self, path: str, head: bytes, tls: ssl.SSLSocket, stream) -> bool:
        """Whether a WebSocket was begun, and is over; here none is."""
        return False

    def read_body(self, head: bytes, stream) -> bytes:
        if b"transfer-encoding: chunked" in head:
            body = b""
            while size := int(stream.readline(), 16):
                body += stream.read(size)
                stream.readline()
            stream.readline()
            return body
        length = head.partition(b"content-length:")[2].split(b"\r\n")[0].strip()
        wanted, body = int(length or 0), b""
        if wanted > 1 << 20:  # only its length
            while wanted:
                wanted -= len(stream.read(min(wanted, 1 << 16)))
            return length
        return stream.read(wanted)

    def pieces(self, path: str, head: bytes, body: bytes) -> Iterator[bytes]:
        """The answer to a path; `said` is the Authorization that came, as an upstream that echoes has it."""
        said = head.lower().find(b"authorization: ")
        credential = head[said + 15 :].split(b"\r\n")[0].split(b" ")[-1] if said >= 0 else b"none"
        if path == "/echo":
            yield respond(head + body, b"X-Echo: " + credential)
        elif path.startswith("/repo.git") and said < 0:  # git says who it is when it is asked
            yield b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n'
        elif path == "/split":
            half = len(credential) // 2
            yield chunked_head()
            for piece in (b"<", credential[:half], credential[half:], b">"):
                yield chunk(piece)
                time.sleep(0.05)
            yield b"0\r\n\r\n"
        elif path == "/gzip":
            yield respond(gzip.compress(credential), b"Content-Encoding: gzip")
        elif path == "/gzip-for-the-way":
            yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
            yield chunk(gzip.compress(credential)) + b"0\r\n\r\n"
        elif path == "/redirect":
            yield b"HTTP/1.1 302 Found\r\nLocation: https://other.localhost/?k=%s\r\nContent-Length: 0\r\n\r\n" % credential
        elif path == "/sse":
            yield chunked_head(b"text/event-stream")
            for number in range(3):
                yield chunk(b"data: %d %s\n\n" % (number, credential))
                self.proceed.wait(60)
            yield b"0\r\n\r\n"
        elif path == "/hold":
            yield chunked_head()
            yield chunk(b"began\n")
            self.proceed.wait(60)
            yield b"0\r\n\r\n"
        elif path == "/part":  # what the test put into the body, and then nothing until it says so
            yield chunked_head()
            yield chunk(body)
            self.proceed.wait(60)
            yield b"0\r\n\r\n"
        elif path in ("/100", "/102", "/103"):  # what nobody asked for, and then the answer
            yield b"HTTP/1.1 %s Early\r\nX-Echo: %s\r\n\r\n" % (path[1:].encode(), credential)
            time.sleep(0.3)
            yield respond(head + body)
        elif path == "/101":
            yield b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
            time.sleep(0.3)
            yield respond(head + body)
        elif path == "/big":
            yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 << 20)
            for _ in range(64):
                yield b"x" * (1 << 20)
        else:
            yield respond(b"ok")

    # HTTP/2

    def serve_newer(self, tls: ssl.SSLSocket) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        connection.initiate_connection()
        tls.sendall(connection.data_to_send())
        heads: dict[int, bytes] = {}
        bodies: dict[int, bytes] = {}
        while data := tls.recv(1 << 16):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    heads[event.stream_id] = b"".join(b"%s: %s\n" % each for each in event.headers)
                    bodies[event.stream_id] = b""
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    number = event.stream_id
                    self.heads.append(heads[number])
                    self.bodies.append(bodies[number])
                    connection.send_headers(number, [(":status", "200"), ("content-type", "text/plain")])
                    connection.send_data(number, heads[number] + bodies[number])
                    connection.send_headers(number, [("x-trailer", heads[number].split(b"Bearer ")[-1].split(b"\n")[0])], True)
            tls.sendall(connection.data_to_send())

    def close(self) -> None:
        self.proceed.set()
        self.listener.close()


def respond(body: bytes, *headers: bytes) -> bytes:
    head = [b"HTTP/1.1 200 OK", b"Content-Type: text/plain", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*head, b"", body])


def chunked_head(kind: bytes = b"text/plain") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n" % kind


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
