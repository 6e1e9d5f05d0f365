"""Whether this machine is in another network than before, or has slept."""

from __future__ import annotations

import socket
import time


def network() -> tuple[object, ...]:
    """What is another when the machine has moved to another network, or slept.

    Its addresses towards the world.
    """
    addresses: list[object] = []
    # for documentation: RFC 5737, 3849
    for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((address, 9))  # which sends nothing
                addresses.append(probe.getsockname()[0])
        except OSError:
            addresses.append(None)
    slept = (
        time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        if hasattr(time, "CLOCK_BOOTTIME")
        else 0.0
    )
    return *addresses, round(slept)
