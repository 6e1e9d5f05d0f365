"""What signs for a keyholder that is tried alone: the same code, in a thread in place of its process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import avault


@contextmanager
def signing_for(keyholder: avault.Keyholder) -> Iterator[avault.KeySigner]:
    """Give a keyholder one that signs; it ends with the block."""
    signer = avault.open_key_signer()
    assert isinstance(signer, avault.KeySigner)
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=serve, args=(theirs, signer), daemon=True)
    thread.start()
    keyholder.signing.take({"do": "signing"}, ours.detach())
    try:
        yield signer
    finally:
        if keyholder.signing.link:
            keyholder.signing.link.close()
        thread.join(10)
        assert not thread.is_alive()


def serve(sock: socket.socket, signer: avault.KeySigner) -> None:
    with sock:
        avault.serve_signing(sock, signer)
