"""What there is of a service: on the disk, at the manager, at its socket."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from avault.service.accounts import is_lingering, linger
from avault.service.unit import Service
from avault.systemd import NoManager, is_booted

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


def look_at_service(service: Service) -> dict[str, Any]:
    """What the disk says of a service, and what systemd says: None where it does not run."""
    installed = service.installed_options() is not None
    found: dict[str, Any] = {
        "scope": "system" if service.system else "user",
        "name": service.name,
        "path": service.path,
        "installed": installed,
        "current": installed and service.is_current(),
        "enabled": service.is_enabled(),
        "systemd": is_booted(),
        "active": None,
        "pid": None,
        "lingering": None if service.system else is_lingering(service.user),
    }
    if not found["systemd"]:
        return found
    try:
        shown = service.show()
    except NoManager:
        return {**found, "systemd": False}
    return {
        **found,
        "active": shown.get("ActiveState"),
        "pid": int(shown.get("MainPID") or 0) or None,
    }


def reach_manager(service: Service) -> None:
    """Return when the manager answers; start a user's that does not run, as after `su`.

    Raises NoManager.
    """
    end = time.monotonic() + 10
    while True:
        try:
            service.ask("show-environment")
            return
        except NoManager:
            if service.system or not linger(service.user) or time.monotonic() > end:
                raise
        time.sleep(0.1)


def is_listening(paths: Iterable[str]) -> bool:
    """Whether a daemon listens at one of these places, also one that does not talk to us (root)."""
    import socket

    for path in paths:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            try:
                sock.connect(path)
            except OSError:
                continue
            return True
    return False
