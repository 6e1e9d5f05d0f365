"""Ports of the loopback for servers that have to be told theirs, and for what is to be found shut."""

from __future__ import annotations

import secrets
import socket

OWN = range(10_240, 32_768)  # below those that systems give out: no connection, and no server without a port, comes by one


def free_port(much: int = 1) -> int:
    """The first of so many ports, one after the other, that nobody listens on.

    One that the system gives out may be another's before it is used.
    """
    while True:
        port = secrets.choice(OWN[:-much])
        if all(is_free(port + number) for number in range(much)):
            return port


def is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
