"""The process that signs, as the supervisor starts it; that never sees a key."""

from __future__ import annotations

import socket
import sys

from avault.daemon.child import Child
from avault.daemon.programs import start_own
from avault.errors import AvaultError, Locked, complain
from avault.keys.hardening import meet


async def start_signing(child: Child) -> None:
    """Start one, and give the keyholder a socket to it; or tell that why there is none.

    The socket is made by the process once it is hardened: see `meet`. There is one at a time: what
    came before hangs, or nobody has its other end. It ends with the keyholder: see `Child.bury`.
    """
    control = child.control
    await child.end_helper()
    door, end = socket.socketpair()
    with door:
        try:
            if sys.platform == "linux":  # who meets it is to know who speaks
                door.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            with end:
                process = child.helper = await start_own("signing", stdin=end.fileno())
            door.setblocking(False)
            with await meet(door, process.pid) as own:
                if control and control is child.control:
                    control.send({"do": "signing"}, own.fileno())
        except Locked:
            pass  # the keyholder is gone, and nobody waits
        except (AvaultError, OSError) as error:
            if control and control is child.control:
                control.send({"do": "signing", "failed": complain(error).to_dict()["error"]})
