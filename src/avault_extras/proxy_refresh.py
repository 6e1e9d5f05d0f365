"""Asks a server for a new token, in a process that has nothing else, and seals what it answers.

From the moment that it asks, the process ends only when the answer is on the disk, or the time is
over: whoever else ends meanwhile, the old token may be worth nothing already.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import http.client
import io
import json
import os
import re
import signal
import ssl
import sys
import threading
import time
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from avault import Denied, Unavailable, read_expiry, seal_value, sync_directory, write_file

if TYPE_CHECKING:
    from collections.abc import Callable

ASK_TIME = 15.0  # seconds for the server
LOOK = 0.1  # seconds between two looks at whether it is our turn
LONGEST_ANSWER = 256 << 10  # bytes
SHORTEST = 10  # seconds for which a token is good, if that is to be believed
ROOM = 256 << 10  # bytes that are kept free on the disk for an answer, before anybody is asked
LATEST = 10 * 365 * 86_400  # seconds for which a token may be good
STAYS = threading.Event()  # this process is not to end


async def ask_for_token(job: dict[str, Any], find_roots: Callable[[], str]) -> None:
    """Have the answer to a job in its file; raises AvaultError. See `ask_server` in the daemon.

    Who asks while another one does, as after a crash of the keyholder, waits for that one's answer:
    a token that a server sees twice is taken for stolen.
    """
    turn, place = await take_turn(f"{job['kept']}.lock"), f"{job['kept']}.room"
    try:
        if os.path.exists(job["kept"]):
            return
        room = keep_room(place)
        STAYS.set()
        outlive_others()
        status, body = await post(job, find_roots())
        write_answer(job, read_answer(job["host"], status, body), room)
    except TimeoutError:
        raise Unavailable(f"{job['host']} does not answer", "try again") from None
    except OSError as error:
        said = "its certificate is not trusted" if isinstance(error, ssl.SSLError) else "no answer"
        raise Unavailable(f"{job['host']} gives no new token: {said}", "try again") from None
    finally:
        STAYS.clear()
        with contextlib.suppress(OSError):  # an answer was written there, or nobody was asked
            os.unlink(place)
        os.close(turn)


async def take_turn(path: str) -> int:
    """A descriptor with the lock on a file, which ends with the process; raises Unavailable."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    for _ in range(int(2 * ASK_TIME / LOOK)):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            await asyncio.sleep(LOOK)
    raise Unavailable("another process asks for that token, and does not end", "try again")


def keep_room(path: str) -> int:
    """A descriptor of a file with room for an answer, on the disk; raises Unavailable.

    What a server has answered could be written nowhere else. As it is written into this very file,
    nobody else can take the room meanwhile.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
        if os.pwrite(fd, bytes(ROOM), 0) == ROOM:
            os.fsync(fd)
            return fd
        os.close(fd)
    except OSError:
        pass
    raise Unavailable("there is no room on the disk for a new token", "make room, and try again")


def outlive_others() -> None:
    """Stay when the daemon is stopped: for the seconds that this takes."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG


async def post(job: dict[str, Any], roots: str) -> tuple[int, bytes]:
    """Status and body of the server's answer; raises OSError, TimeoutError.

    It ends where it says so, though the connection does not (RFC 9112, 6.3). What has come before
    an error, or the end of the time, is looked at as well: that token may be there only once.
    """
    if job["json"]:
        kind, body = "application/json", json.dumps(job["fields"]).encode()
    else:
        kind, body = "application/x-www-form-urlencoded", urlencode(job["fields"]).encode()
    host = job["host"] if job["port"] == 443 else f"{job['host']}:{job['port']}"
    head = (
        f"POST {job['path']} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nAccept: application/json\r\n"
        "Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
    )
    context = ssl.create_default_context(cafile=roots)
    data, writer = b"", None
    try:
        async with asyncio.timeout(ASK_TIME):
            reader, writer = await asyncio.open_connection(job["host"], job["port"], ssl=context)
            writer.write(head.encode("ascii") + body)
            await writer.drain()
            while len(data) < LONGEST_ANSWER and (piece := await reader.read(1 << 16)):
                data += piece
                if read_response(data)[2]:
                    break
    except OSError:  # a TimeoutError is one
        if b"\r\n\r\n" not in data:
            raise
    finally:
        if writer:
            writer.close()
    status, answered, _ = read_response(data)
    if not status:
        raise ConnectionError
    return status, answered


def read_response(data: bytes) -> tuple[int, bytes, bool]:
    """Status and body of what has come, and whether that is all; raises ConnectionError.

    What a server says before its answer is none (RFC 9110, 15.2). A body may be packed, unasked.
    """
    while data.startswith((b"HTTP/1.1 1", b"HTTP/1.0 1")):
        data = data.partition(b"\r\n\r\n")[2]
    response = http.client.HTTPResponse(Came(data))  # type: ignore[arg-type]
    has_end = b"\r\n\r\n" in data
    try:
        response.begin()
        has_end &= data.endswith(b"\r\n\r\n") if response.chunked else response.length is not None
        return response.status, unpack(response, response.read()), has_end
    except http.client.IncompleteRead as cut:
        return response.status, unpack(response, cut.partial), False
    except http.client.HTTPException:
        if has_end:
            raise ConnectionError from None
        return 0, b"", False


def unpack(response: http.client.HTTPResponse, body: bytes) -> bytes:
    """A body as it was before it was packed, no longer than any answer."""
    if response.getheader("Content-Encoding", "").strip().lower() not in ("gzip", "x-gzip"):
        return body
    try:
        return zlib.decompressobj(31).decompress(body, LONGEST_ANSWER)
    except zlib.error:
        return body


class Came:
    """What has come by a connection, as `http.client` reads it."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, mode: str) -> io.BytesIO:
        """As of a socket."""
        return io.BytesIO(self.data)


def read_answer(host: str, status: int, body: bytes) -> dict[str, Any]:
    """The tokens that a server gives (RFC 6749, 5.1); raises Denied for what it refuses (5.2)."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    found = found if isinstance(found, dict) else {}
    if not 200 <= status < 300:  # some say 201
        said = found.get("error")
        why = said if isinstance(said, str) and re.fullmatch("[a-z_]{1,40}", said) else "no reason"
        if 400 <= status < 500 and status != 429:
            hint = "log in anew with the program whose tokens these are, and: avault import FILE"
            raise Denied(f"{host} gives no new token ({status}: {why})", hint)
        raise Unavailable(f"{host} gives no new token ({status})", "try again")
    access, refresh, seconds = (
        found.get(each) for each in ("access_token", "refresh_token", "expires_in")
    )
    refresh = refresh or None  # some say "", where it stays the same
    if not is_token(access) or not (refresh is None or is_token(refresh)):
        raise Unavailable(f"{host} answers, and gives no token")
    now = time.time()
    try:
        expires = now + float(seconds)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):  # perhaps the token says it
        expires = float(read_expiry(str(access))[:20] or 0)
    known = int(expires) if SHORTEST <= expires - now < LATEST else 0
    return {"access": access, "refresh": refresh, "expires": known}


def is_token(found: Any) -> bool:
    """Whether it is a token, as they are written (RFC 6749, A.12)."""
    return isinstance(found, str) and re.fullmatch("[\x20-\x7e]{1,65536}", found) is not None


def write_answer(job: dict[str, Any], answer: dict[str, Any], room: int) -> None:
    """Have it on the disk, sealed to the agent, in the room that is kept; raises AvaultError."""
    kept = str(job["kept"])
    told = seal_value(job["to"], json.dumps({**answer, "was": job["was"], "over": job["over"]}))
    sealed = told.encode()
    try:
        if os.pwrite(room, sealed, 0) != len(sealed):
            raise OSError
        os.ftruncate(room, len(sealed))
        os.fsync(room)
        os.rename(f"{kept}.room", kept)
        sync_directory(os.path.dirname(kept))
    except OSError:
        write_file(kept, sealed)  # perhaps elsewhere on the disk
    finally:
        os.close(room)
