"""What io, json and socket do, for a few plain uses: importing them takes longer than a `get`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from avault.places import Places

if TYPE_CHECKING:
    from typing import Any


MAX_FRAME = 4 << 20  # bytes of JSON in one frame
MAX_VALUE = 256 << 10  # bytes of UTF-8 in one secret
_stdin: bytes | None = None


def read_stdin() -> bytes:
    """Standard input, to its end or to more than can be kept.

    Read once, and there for whoever asks next.
    """
    global _stdin
    if _stdin is None:
        read = bytearray()
        while len(read) <= MAX_FRAME and (piece := os.read(0, 1 << 16)):
            read += piece
        _stdin = bytes(read)
    return _stdin


def write_all(fd: int, data: bytes) -> None:
    """Write every byte of `data` to a blocking file descriptor."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def to_json(value: object) -> str:
    """JSON for the few types that a fast request is made of."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{to_json(name)}: {to_json(item)}" for name, item in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(to_json, value)) + "]"
    text = str(value)
    if isinstance(value, int) or (
        text.isascii() and text.isprintable() and not set(text) & {'"', "\\"}
    ):
        return text if isinstance(value, int) else f'"{text}"'
    from _json import encode_basestring_ascii

    return encode_basestring_ascii(text)


def from_json(text: str, start: int) -> tuple[str, str]:
    """The JSON string whose text begins at `start`, and what follows it.

    Most are of one line, and need no parser.
    """
    plain = text[start:-4]
    if text.endswith('\\n"}') and "\\" not in plain:
        return plain + "\n", ""
    from _json import scanstring

    found, end = scanstring(text, start)
    return found, text[end:]


def peer_uid(connection: Any) -> int:
    """The uid of who has connected a Unix socket, or listens (SO_PEERCRED, LOCAL_PEERCRED)."""
    if sys.platform == "linux":
        peer = connection.getsockopt(1, 17, 12)  # SOL_SOCKET, SO_PEERCRED: pid, uid, gid
    else:
        # SOL_LOCAL, LOCAL_PEERCRED: struct xucred: version, uid
        peer = connection.getsockopt(0, 1, 76)
    return int.from_bytes(peer[4:8], sys.byteorder)


def is_same_user(connection: Any) -> bool:
    """Whether the peer of a Unix socket runs under our uid."""
    return peer_uid(connection) == os.getuid()


def is_own_socket(path: str, uid: int) -> bool:
    """Whether a socket is another user's own, and nobody else could have put it at its path.

    Each directory that leads there, also behind links, is that user's, root's or ours, and others
    cannot write to it, or not to what is others' (as in /tmp).
    """
    whose = {uid, os.getuid(), 0}
    try:
        if os.lstat(path).st_uid != uid:
            return False
        for place in (path, os.path.realpath(path)):
            while place != (place := os.path.dirname(place)):
                info = os.lstat(place)
                is_closed = info.st_mode & 0o170000 == 0o120000 or (
                    not info.st_mode & 0o022 or info.st_mode & 0o1000
                )
                if info.st_uid not in whose or not is_closed:
                    return False
    except OSError:
        return False
    return True


ASK_FOR_GRANT = "ask whoever made it, who sees it by: avault grants"


def explain_grant(path: str) -> str:
    """Why nobody answers where a grant is to be, as far as that can be told."""
    return (
        f"no grant answers at {path}: it has ended (with a lock, its time, a revoke), is not for"
        " this user, or others can write to where it is"
    )


def may_be_socket(path: str) -> bool:
    """Whether there is a socket at a path that we may not use, or nobody lets us see.

    What else refuses us is no daemon.
    """
    import stat

    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except PermissionError:
        return True
    except (OSError, ValueError):  # a damaged record may have a NUL in it
        return False


class FastConnection:
    """A connection to the daemon made of built-in modules.

    Raises OSError, PermissionError for somebody else's.
    """

    def __init__(self, places: Places) -> None:
        import _socket

        error = OSError(places.socket)
        for path in places.sockets():
            self.socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            try:
                self.socket.connect(path)
                uid = peer_uid(self.socket)
                if uid == os.getuid() or (places.is_grant() and is_own_socket(path, uid)):
                    return
                error = PermissionError(path)
            except PermissionError:
                if may_be_socket(path):
                    error = PermissionError(path)
            except OSError:
                pass
            self.socket.close()
        raise error

    def send(self, text: str) -> None:
        """Send one frame: four bytes of length, big-endian, then the JSON."""
        data = text.encode()
        self.socket.sendall(len(data).to_bytes(4, "big") + data)

    def receive(self) -> str:
        """Read one frame; '' when the daemon went away."""
        data = bytearray()
        wanted = 4
        while len(data) < wanted:
            piece = self.socket.recv(wanted - len(data))
            if not piece:
                return ""
            data += piece
            if wanted == 4 == len(data):
                wanted += int.from_bytes(data, "big")
        return data[4:].decode()
