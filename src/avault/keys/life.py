"""The life of the keyholder's process: closed before it has a key, and ended with what it knew."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import TYPE_CHECKING

from avault.daemon.reception import Reception
from avault.daemon.requests import REQUESTS
from avault.daemon.talks import TALKS
from avault.keys.hardening import harden
from avault.keys.keyholder import Keyholder
from avault.places import Places
from avault.plain import write_all
from avault.process import report_quietly

if TYPE_CHECKING:
    from typing import NoReturn

    from avault.protocol import Limits


async def hold(places: Places, fd: int, limits: Limits) -> None:
    """The keyholder's life; its control stream is the file descriptor `fd`."""
    asyncio.get_running_loop().set_exception_handler(report_quietly)
    keyholder = Keyholder(places, socket.socket(fileno=fd), limits)
    Reception(keyholder, TALKS, REQUESTS)
    await keyholder.run()


def main_keyholder(argv: list[str]) -> NoReturn:
    """The keyholder process: `avault.py keyholder FD DIR LIMITS`.

    It ends by _exit: what it knew goes with it.
    """
    code = 0
    try:
        harden("avault-keys", die_with_parent=True)
        asyncio.run(hold(Places(argv[1]), int(argv[0]), json.loads(argv[2])))
    except BaseException as error:
        code = 70  # EX_SOFTWARE; no traceback: its text may carry what it was about
        write_all(2, f"avault: error: the keyholder failed: {type(error).__name__}\n".encode())
    finally:
        os._exit(code)
