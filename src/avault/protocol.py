"""The socket protocol: its requests, and its frames.

Four bytes of length, big-endian, then JSON. references/protocol.md lists every field.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from avault.errors import Usage, printable
from avault.plain import MAX_FRAME

if TYPE_CHECKING:
    import socket
    from typing import Any

    Limits = tuple[float | None, float | None]
    Message = dict[str, Any]


# answered by the supervisor
DOOR = {
    "status",
    "unlock",
    "lock",
    "limit",
    "wait",
    "stop",
    "custody",
    "desk",
    "rotate",
    "unguard",
    "record",
    "ssh",
    "message",
    "nostr",
}
SESSIONS = {"init", "open", "pair", "drill", "recover"}  # answered by the keyholder, locked or not
VALUES = {  # answered by the keyholder while it is unlocked
    "get", "has", "list", "export", "reveal", "provide", "set", "delete", "move", "import",
    "inspect", "merge", "restore", "verify_log", "verify", "machines", "exposed", "replica",
    "guard", "guards", "key", "keys", "sign", "bunker", "word", "grant", "grants", "revoke",
    "proxy", "proxy_start", "proxies", "proxy_stop",
}  # fmt: skip
GRANTED = {  # of these, what may be asked through a grant; what is not in here may not
    "get", "has", "list", "export", "reveal", "provide", "keys", "sign", "proxy",
}  # fmt: skip
RELEASING = GRANTED - {"has", "list", "keys"}  # what gives something out, or uses it
FIRST_FRAME = 1 << 16  # bytes; the first frame of a connection never carries a value
NESTED = 100  # levels of objects and lists in a frame
FIRST_FRAME_TIME = 10.0  # seconds that a client has for it


def encode_frame(message: dict[str, Any]) -> bytes:
    """One frame."""
    data = json.dumps(message).encode()
    return len(data).to_bytes(4, "big") + data


def decode_frame(data: bytes | bytearray, deepest: int = NESTED) -> dict[str, Any]:
    """The message in a frame's JSON; raises Usage, also for more than `deepest` levels.

    How deep is not left to the room on a stack: who passes a frame on may have more of it.
    """
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise Usage("not a JSON object")
    if data.count(b"[") + data.count(b"{") > deepest and is_deeper(message, deepest):
        raise Usage("nested too deep")
    return message


def is_deeper(message: object, limit: int) -> bool:
    """Whether what JSON gave has more than so many levels of objects and lists."""
    level = [message]
    for _ in range(limit):
        inner = [each for each in level if isinstance(each, dict | list)]
        level = [part for each in inner for part in (each.values() if type(each) is dict else each)]
    return any(isinstance(each, dict | list) for each in level)


def refuse_unknown(request: Message, known: frozenset[str]) -> None:
    """Raise Usage for a field that a request does not have: it may have been meant to ask for less.

    Which vault, which version and which request is told with every one.
    """
    if unknown := sorted({*request} - known - {"v", "vault", "op"}):
        raise Usage(f"no such field: {printable(unknown[0], 40)}", "see references/protocol.md")


def read_limit(request: dict[str, Any], field: str = "timeout") -> float | None:
    """The `timeout` of a request, or another limit, in seconds; None for none."""
    limit = request.get(field)
    # NaN is not above 0
    return float(min(max(0.0, limit), 1e9)) if isinstance(limit, (int, float)) else None


async def receive_frame(sock: socket.socket, limit: int) -> bytes | None:
    """The JSON of exactly one frame, and no byte of what follows; None where the other end left.

    Raises Usage for a frame of more than `limit` bytes.
    """
    data, wanted = b"", 4
    while len(data) < wanted:
        piece = await asyncio.get_running_loop().sock_recv(sock, wanted - len(data))
        if not piece:
            return None
        data += piece
        if wanted == 4 == len(data):
            wanted += int.from_bytes(data, "big")
            if wanted > 4 + limit:
                raise Usage(f"a frame of {wanted - 4:,} bytes; the limit is {limit:,}")
    return data[4:]


class Frames:
    """Cuts a stream of bytes into frames; raises Usage for one that is too long."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self.buffer = bytearray()
        self.limit = limit

    def feed(self, data: bytes) -> None:
        """Take bytes as they come."""
        self.buffer += data

    def next(self) -> bytes | None:
        """The JSON of the next whole frame; None until it is there."""
        if len(self.buffer) < 4:
            return None
        size = int.from_bytes(self.buffer[:4], "big")
        if size > self.limit:
            raise Usage(f"a frame of {size:,} bytes; the limit is {self.limit:,}")
        if len(self.buffer) < 4 + size:
            return None
        frame = bytes(self.buffer[4 : 4 + size])
        del self.buffer[: 4 + size]
        return frame
