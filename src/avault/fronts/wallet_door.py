"""The door of a wallet: JSON-RPC over HTTP on the loopback, for who knows the token in its path.

A web page is not let in: who sends an Origin is one, and so is who calls us by another name (DNS
rebinding); localhost may be another user's, on ::1. Who hangs up is noticed while an answer is
made; who sends more before it has the answer could hide that, and is taken for gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import select
from typing import TYPE_CHECKING

from avault.daemon.leaving import has_left

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    # the answer to a request, and whom to tell whether it was delivered
    Answered = tuple[dict[str, Any], Callable[[bool], None]]
    Handle = Callable[[dict[str, Any]], Awaitable[Answered]]


LONGEST_HEAD = 16_384  # bytes of a request's lines before its body
LONGEST_BODY = 1 << 20
MOST_AT_THE_DOOR = 32  # requests in one body
MOST_DOORS = 64  # connections
SLOW_TIME = 30.0  # seconds that a request has to come, or a connection to be used again
HTTP_STATUS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
}


class NotLetIn(Exception):
    """A request that is not answered, and by which status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class WalletDoor:
    """The server: `handle` answers a request; `token` stands in the path, `port` is its own."""

    def __init__(self, handle: Handle, token: str) -> None:
        self.handle, self.token, self.port = handle, token, 0
        # all connections; those that have not shown the token, the oldest first
        self.connections: set[asyncio.StreamWriter] = set()
        self.strangers: dict[asyncio.StreamWriter, None] = {}
        self.server: asyncio.Server | None = None

    async def open(self, port: int) -> None:
        """Listen on the loopback; raises OSError."""
        serve = self.serve
        self.server = await asyncio.start_server(serve, "127.0.0.1", port, limit=LONGEST_HEAD)
        self.port = int(self.server.sockets[0].getsockname()[1])

    def url(self) -> str:
        """Where clients reach it."""
        return f"http://127.0.0.1:{self.port}/{self.token}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection, one after the other.

        Of too many, the oldest ends that has not shown the token: any user here can connect.
        """
        self.connections.add(writer)
        self.strangers[writer] = None
        if len(self.connections) > MOST_DOORS:
            next(iter(self.strangers)).transport.abort()
        try:
            ahead = b""
            while True:
                async with asyncio.timeout(SLOW_TIME):
                    body, is_last = await self.read_request(reader, ahead)
                self.strangers.pop(writer, None)
                ahead = await self.answer_body(body, reader, writer, is_last)
                if is_last:
                    break
        except NotLetIn as refused:
            self.write(writer, refused.status, b"", True)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, EOFError):
            pass
        except (ValueError, asyncio.LimitOverrunError):
            self.write(writer, 400, b"", True)
        finally:
            self.connections.discard(writer)
            self.strangers.pop(writer, None)
            with contextlib.suppress(OSError):
                writer.close()

    async def read_request(self, reader: asyncio.StreamReader, ahead: bytes) -> tuple[bytes, bool]:
        """The body of the next request, and whether it is the last; raises NotLetIn, ValueError."""
        head = ahead + await reader.readuntil(b"\r\n\r\n")
        line, *rest = head[:-4].decode("ascii").split("\r\n")
        method, path, version = line.split(" ")
        headers: dict[str, str] = {}
        for each in rest:
            name, colon, value = each.partition(":")
            if not colon or name != name.strip() or name.lower() in headers:
                raise NotLetIn(400)
            headers[name.lower()] = value.strip()
        if method != "POST":
            raise NotLetIn(405)
        host = headers.get("host", "")
        if "origin" in headers or host != f"127.0.0.1:{self.port}":
            raise NotLetIn(403)
        if not hmac.compare_digest(path.encode(), f"/{self.token}".encode()):
            raise NotLetIn(404)
        size = headers.get("content-length", "")
        if "transfer-encoding" in headers or not size.isdigit() or int(size) > LONGEST_BODY:
            raise NotLetIn(400)
        if headers.get("expect"):
            raise NotLetIn(400)
        is_last = version != "HTTP/1.1" or headers.get("connection", "").lower() == "close"
        return await reader.readexactly(int(size)), is_last

    async def answer_body(
        self,
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        is_last: bool,
    ) -> bytes:
        """Answer what is in a body; who leaves meanwhile ends it. What came ahead of the next one.

        Raises NotLetIn, EOFError.
        """
        try:
            wanted = json.loads(body)
        except (ValueError, RecursionError):
            raise NotLetIn(400) from None
        several = wanted if isinstance(wanted, list) else [wanted]
        if not 0 < len(several) <= MOST_AT_THE_DOOR or not all(
            isinstance(e, dict) for e in several
        ):
            raise NotLetIn(400)
        loop = asyncio.get_running_loop()
        works = [loop.create_task(self.answer_one(each)) for each in several]
        left: asyncio.Task[bytes] = loop.create_task(reader.read(1))
        whole: asyncio.Future[Any] = asyncio.gather(*works, return_exceptions=True)
        both: list[asyncio.Future[Any]] = [whole, left]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        is_gone = left.done() or says_no_more(writer)
        if not is_gone:
            shown = [each[0] for each in await whole]
            answer = json.dumps(shown if isinstance(wanted, list) else shown[0]).encode()
            self.write(writer, 200, answer, is_last)
            with contextlib.suppress(OSError):
                await writer.drain()
            await asyncio.sleep(0)  # who left before it came is known by now
            is_gone = is_cut(writer)
            if not hasattr(select, "POLLRDHUP"):  # where the kernel does not tell, as of macOS
                is_gone = is_gone or (left.done() and not left.result())
        for work in works:
            if work.done() and not work.cancelled():
                work.result()[1](not is_gone)
            work.cancel()
        if is_gone:
            left.cancel()
            await asyncio.gather(*works, left, return_exceptions=True)
            raise EOFError
        if is_last:
            left.cancel()
            return b""
        return await left

    async def answer_one(self, request: dict[str, Any]) -> Answered:
        """The answer to a request."""
        return await self.handle(request)

    def write(self, writer: asyncio.StreamWriter, status: int, body: bytes, last: bool) -> None:
        """Send an answer."""
        head = [
            f"HTTP/1.1 {status} {HTTP_STATUS[status]}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"Connection: {'close' if last else 'keep-alive'}",
        ]
        with contextlib.suppress(OSError):
            writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)


def says_no_more(writer: asyncio.StreamWriter) -> bool:
    """Whether a client has closed its end, which the loop may not have looked at yet."""
    if writer.is_closing():
        return True
    poll, said = select.poll(), getattr(select, "POLLRDHUP", 0) | select.POLLHUP
    poll.register(writer.get_extra_info("socket").fileno(), said)
    return any(event & said for _, event in poll.poll(0))


def is_cut(writer: asyncio.StreamWriter) -> bool:
    """Whether a client closed its end before it had read all that was sent to it."""
    return writer.is_closing() or has_left(writer.get_extra_info("socket").fileno())
