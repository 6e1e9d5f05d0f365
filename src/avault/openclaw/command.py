"""The file that OpenClaw may execute as a provider.

Its rules: absolute, regular, no symlink, ours (root's does not count), and writable by nobody else.
Ours: it names its interpreter, as a gateway's PATH leads anywhere.
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
from typing import TYPE_CHECKING

from avault.errors import AvaultError
from avault.places import Places, usual_directory
from avault.vault.files import read_file, write_file

if TYPE_CHECKING:
    from typing import Any


LAUNCHER = """\
#!/bin/sh
# Written by `avault openclaw install`, so that OpenClaw finds a file that is yours.
# `avault openclaw uninstall` removes it.
exec {python} -P {program} "$@"
"""


def refusal(path: str) -> str | None:
    """Why OpenClaw would refuse to execute this file as a provider; None if it would not."""
    if not os.path.isabs(path):
        return "the path is not absolute"
    try:
        info = os.lstat(path)
    except OSError as error:
        return str(error.strerror)
    if stat.S_ISLNK(info.st_mode):
        return "it is a symlink"
    if not stat.S_ISREG(info.st_mode):
        return "it is not a regular file"
    if info.st_uid != os.geteuid():
        return "it belongs to another user"
    if info.st_mode & 0o022:
        return "others can write to it"
    return None if os.access(path, os.X_OK) else "it is not executable"


def launcher_path() -> str:
    """$XDG_DATA_HOME/avault/avault, or ~/.local/share/avault/avault."""
    base = os.environ.get("XDG_DATA_HOME", "")
    return os.path.join(
        base if os.path.isabs(base) else os.path.expanduser("~/.local/share"), "avault", "avault"
    )


def own_script() -> str | None:
    """The script that runs us, if OpenClaw can use it as it is.

    Not one that looks for its interpreter on the PATH.
    """
    path = os.path.realpath(sys.argv[0])
    if os.path.basename(path) not in ("avault", "avault.py") or refusal(path):
        return None
    with open(path, "rb") as script:
        interpreter = script.readline(256).removeprefix(b"#!").split()
    return (
        path
        if interpreter and interpreter[0].startswith(b"/") and interpreter[0] != b"/usr/bin/env"
        else None
    )


def launcher_text() -> bytes:
    """The launcher for this interpreter and this avault.py."""
    program = shlex.quote(os.path.realpath(__file__))
    return LAUNCHER.format(python=shlex.quote(sys.executable), program=program).encode()


def find_command(writing: bool) -> str:
    """The path that OpenClaw is to execute.

    Our script, else the launcher, which is written if need be.

    Raises AvaultError where OpenClaw would refuse it.
    """
    if path := own_script():
        return path
    path = os.path.realpath(launcher_path())
    if writing and not is_launcher(path):
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        write_file(path, launcher_text())
        os.chmod(path, 0o755)  # noqa: S103  a program
    if (why := refusal(path)) and (writing or os.path.lexists(path)):
        raise AvaultError(
            f"OpenClaw will not execute {path}: {why}",
            f"mend that, or remove it: rm {shlex.quote(path)}",
        )
    return path


def is_launcher(path: str) -> bool:
    """Whether the launcher is there as it should be."""
    try:
        return (
            not os.path.islink(path)
            and read_file(path) == launcher_text()
            and os.access(path, os.X_OK)
        )
    except AvaultError:
        return False


def name_vault(places: Places) -> list[str]:
    """The options with which avault finds this vault from a gateway's environment."""
    usual = (
        usual_directory
        if not (os.environ.get("AVAULT_DIR") or os.environ.get("WORKSPACE"))
        else None
    )
    return [] if usual and places.dir == usual() else ["--dir", places.dir]


def fixed_environment() -> dict[str, str]:
    """What of our environment leads to this vault's daemon, and is not a gateway's by itself."""
    return {
        name: os.environ[name]
        for name in ("XDG_STATE_HOME", "AVAULT_SOCKET")
        if os.environ.get(name)
    }


def describe_provider(places: Places, program: str) -> dict[str, Any]:
    """The entry of `secrets.providers` in openclaw.json."""
    found: dict[str, Any] = {
        "source": "exec",
        "command": program,
        "args": [*name_vault(places), "openclaw-provider"],
        "passEnv": ["HOME", "PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"],
        "timeoutMs": 120_000,  # OpenClaw's maximum
        "noOutputTimeoutMs": 120_000,
        "maxOutputBytes": 20 << 20,
        "jsonOnly": True,
    }
    if fixed := fixed_environment():
        found["env"] = fixed
    return found
