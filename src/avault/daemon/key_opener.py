"""The process that opens a key which signs, when the phone has agreed, signs with it, and ends.

It is the one that opens secrets (`avault.py opener`): the key is here and nowhere else, for one
approval's uses. Each is decoded here again, and for this key, before it is signed.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from avault.daemon.opener import Opener
from avault.keys.hardening import harden, introduce_helper
from avault.keys.nostr import read_keys
from avault.process import report_quietly
from avault.signing.signing_process import MOST_TIME, answer_signing, open_key_signer
from avault.vault.locks import sealed_to
from avault.vault.sealing import open_value, seal_value
from avault.vault.signing_keys import identify_key

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable
    from typing import NoReturn

    from avault.protocol import Message
    from avault.signing.signing_process import KeySigner


ONCE_TIME = 30.0  # seconds that the uses of one approval may take, where it is good for no longer


class KeyOpener(Opener):
    """One that signs, too: with the key that the phone has opened, and with no other."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.signer: KeySigner | None = None
        self.value = ""

    def jobs(self) -> dict[str, Callable[[Message, int | None], Awaitable[Message]]]:
        """What it can be told to do."""
        return {**super().jobs(), "key": self.open_key, "use": self.use_key}

    async def take(self, job: Message, fd: int | None) -> Message:
        """A value that is sealed; or a key that is made here, and that nobody has seen."""
        if kind := job.get("kind"):
            value = str(open_key_signer().do({"do": "make", "kind": kind})["value"])
            return {"sealed": seal_value(job["to"], value)}
        return await super().take(job, fd)

    async def open_key(self, job: Message, fd: int | None) -> Message:
        """Ask, and have the key here, for what was agreed to."""
        self.signer = open_key_signer()
        if job["needs"] == "ssh":
            self.signer.made_keys()  # what cannot be signed here is not asked for
        if not await self.obtain(job):
            return {"ended": True}
        key = self.opened[sealed_to(job["sealed"])].secret["key"]
        self.value = open_value(read_keys(key), job["sealed"])
        later = asyncio.get_running_loop().call_later
        later(job["stay"] or ONCE_TIME, self.ended.set)
        return {"sent": True, "stays": True}

    async def use_key(self, job: Message, fd: int | None) -> Message:
        """A signature; what takes too much of a processor ends this process (SIGPROF)."""
        said = {**job["said"], "id": job["id"], "do": "sign", "key": identify_key(self.value)}
        if not (self.signer and self.value):
            raise AssertionError("unreachable")
        signal.setitimer(signal.ITIMER_PROF, MOST_TIME)
        answer = answer_signing(self.signer, {**said, "value": self.value})
        signal.setitimer(signal.ITIMER_PROF, 0)
        values = dict.fromkeys(self.thawed, self.value)
        return {"used": answer, "values": values, "stays": True}


async def open_secrets(sock: socket.socket) -> None:
    """The life of the process; its keyholder is at the other end of the socket."""
    asyncio.get_running_loop().set_exception_handler(report_quietly)
    opener = KeyOpener(sock)
    await opener.ended.wait()


def main_opener(argv: list[str]) -> NoReturn:
    """Do one job, and end by _exit: what it knew goes with it."""
    try:
        harden("avault-opener", die_with_parent=True)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        asyncio.run(open_secrets(introduce_helper(0)))
    finally:
        os._exit(0)
