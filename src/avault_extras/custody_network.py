"""What custodians on the network share: TLS, addresses, limits of time, credentials in files."""

from __future__ import annotations

import os
import re
import shlex
import sys
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import avault
from avault import AvaultError, Unavailable, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from avault import Errand

SHARE = 0.8  # of an errand's limit; what is left is ours, to say that it was too slow
CREDENTIAL = 64 << 10  # bytes of a file with a token


def allow_tls() -> None:
    """Undo what `harden` does to processes that need no TLS: they are kept from importing ssl."""
    if sys.modules.get("ssl", sys) is None:
        del sys.modules["ssl"]


def within(errand: Errand, do: Callable[[], Any], whom: str) -> Any:
    """What `do` gives; raises Unavailable where that takes longer than the errand may.

    Timeouts of sockets do not do it: a name may be looked up for minutes, and an answer that comes
    byte by byte is never late. What still waits ends with the process, which ends with its answer.
    """
    came: list[tuple[bool, Any]] = []
    seconds = errand.limit * SHARE

    def work() -> None:
        try:
            came.append((True, do()))
        except BaseException as error:  # it is raised where it is waited for
            came.append((False, error))

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(seconds)
    if not came:
        raise Unavailable(f"{whom} does not answer in {seconds:g} s")
    good, value = came[0]
    if not good:
        raise value
    return value


def check_address(url: str, name: str) -> str:
    """An address as https://HOST:PORT; raises Usage.

    Without TLS only this very machine is asked.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise Usage(f"{name} is not an address like https://HOST:PORT") from None
    more = "@" in parts.netloc or parts.path not in ("", "/") or parts.query or parts.fragment
    if more or not re.fullmatch(r"[A-Za-z0-9.:-]+", host):
        raise Usage(f"{name} is not an address like https://HOST:PORT")
    here = host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host)
    if parts.scheme != "https" and not (parts.scheme == "http" and here):
        raise Usage(f"{name} has to begin with https://, as it is not on this machine")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port else "")


def read_credential(path: str, private: bool) -> str:
    """A token that lies in a file; raises NotFound, AvaultError.

    `private` is one that nobody but us uses, and that so has to be closed to others. What
    Kubernetes puts into a container is open in there.
    """
    text = avault.read_file(path, CREDENTIAL).decode("ascii", "replace").strip()
    if not re.fullmatch(r"[!-~]+", text):
        raise AvaultError(f"{path} does not hold a token: one line without spaces")
    if private and os.stat(path).st_mode & 0o004:
        raise AvaultError(f"everybody can read {path}", f"chmod 600 {shlex.quote(path)}")
    return text
