"""What signs for a keyholder that is tried alone: the same code, in a thread in place of its process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import avault


@contextmanager
def signing_for(keyholder: avault.Keyholder) -> Iterator[None]:
    """Give a keyholder one that signs; it ends with the block."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=serve, args=(theirs,), daemon=True)
    thread.start()
    keyholder.signing.take({"do": "signing"}, ours.detach())
    try:
        yield
    finally:
        if keyholder.signing.link:
            keyholder.signing.link.close()
        thread.join(10)
        assert not thread.is_alive()


def serve(sock: socket.socket) -> None:
    with sock:
        avault.serve_signing(sock, avault.open_key_signer())
