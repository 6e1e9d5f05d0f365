"""The process of a proxy's session: `avault.py proxy-session DIRECTORY`. It ends with the session.

Stdin is a socket, by which it is met once it is hardened (see `introduce_helper`). What it does is
in avault_extras/proxy_broker, on mitmproxy.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from avault.errors import Unavailable, complain
from avault.extras import load_extra
from avault.keys.hardening import harden, introduce_helper
from avault.protocol import encode_frame

if TYPE_CHECKING:
    from typing import NoReturn


LEAST_PYTHON = (3, 12)  # that mitmproxy runs on, in the version that is taken


def need_python() -> None:
    """Raise Unavailable where this Python is too old for the proxy."""
    if sys.version_info < LEAST_PYTHON:
        least, this = (".".join(map(str, each[:2])) for each in (LEAST_PYTHON, sys.version_info))
        raise Unavailable(
            f"the proxy needs Python {least} or later, and the daemon runs on {this}",
            "install avault with a later one, and start the daemon by that: pip install '.[proxy]'",
        )


def main_proxy(argv: list[str]) -> NoReturn:
    """Serve a session, or say why not, and end by _exit."""
    try:
        harden("avault-proxy", die_with_parent=True)
        if sys.modules.get("ssl", sys) is None:
            del sys.modules["ssl"]  # which `harden` keeps out of what needs none
        [directory] = argv
        own = introduce_helper(0)
        try:
            need_python()
            broker = load_extra("proxy_broker", "proxy")
        except Exception as error:  # also of what mitmproxy itself needs
            told = encode_frame({"failed": complain(error).to_dict()["error"]})
            own.sendall(told)
            own.recv(1)  # until it is read, and the other end is closed
            os._exit(1)
        broker.serve_proxy_session(own, directory)
    finally:
        os._exit(0)
