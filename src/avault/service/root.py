"""What root may run to change the system's units: nothing that others than root can write."""

from __future__ import annotations

import importlib.util
import os
import shlex
import stat
import sys
from typing import TYPE_CHECKING

from avault.errors import Denied
from avault.service.unit import Service

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def need_root(service: Service, verb: str, options: list[str]) -> None:
    """Raise Denied for a change of the system's units without root, or by files of others.

    The hint does it with root's own programs: root is never to run what the agent can change.
    """
    if not service.system:
        return
    me = os.path.abspath(sys.argv[0])
    install = [me, "service", "install", "--system", "--user", service.user]
    printed = shlex.join([*install, "--dir", service.places.dir, *options, "--print"])
    path, name = shlex.quote(service.path), shlex.quote(service.name)
    hint = {
        "install": f"{printed} | sudo tee {path} >/dev/null && sudo systemctl enable --now {name}",
        "uninstall": f"sudo systemctl disable --now {name}; sudo rm -f {path}; "
        "sudo systemctl daemon-reload",
    }[verb]
    if os.getuid() != 0:
        raise Denied("the system's units belong to root", hint)
    if theirs := find_writable(own_files()):
        raise Denied(
            f"root does not run what others can change: {theirs}", f"as {service.user}: {hint}"
        )


def find_writable(paths: Iterable[str]) -> str | None:
    """The first of these paths, or of those above them, that others than root can change."""
    good: set[str] = set()
    for path in paths:
        for named in (os.path.abspath(path), os.path.realpath(path)):
            place = named
            while place not in good:
                if not is_roots_alone(place):
                    return place
                good.add(place)
                place = os.path.dirname(place)
    return None


def own_files() -> Iterator[str]:
    """What runs where avault runs: its files, Python, packages, and where those are looked for."""
    yield from (os.path.abspath(sys.argv[0]), sys.executable, sys.prefix, *sys.path)
    here = os.path.dirname(__file__)
    tops = [os.path.join(here, name) for name in os.listdir(here) if name.startswith("avault")]
    specs = map(importlib.util.find_spec, ("nostr_sdk", "click", "qrcode", "PIL"))
    tops += [os.path.dirname(spec.origin) for spec in specs if spec and spec.origin]
    for top in tops:
        yield top
        for place, _, files in os.walk(top):
            yield from (place, *(os.path.join(place, name) for name in files))


def is_roots_alone(path: str) -> bool:
    """Whether only root can change a file, or what a directory's names stand for.

    For what is not there, its directory decides.
    """
    try:
        info = os.lstat(path)
    except OSError:
        return True
    is_shared = (
        info.st_mode & 0o022 and not stat.S_ISLNK(info.st_mode) and not info.st_mode & stat.S_ISVTX
    )
    return info.st_uid == 0 and not is_shared
