"""Where a vault is: its directory, state directory, socket and id.

Only modules that every interpreter has loaded or built in: the next room answers a `get` in the
time that Python itself needs to start.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


SANDBOX = "/run/avault-sandbox"  # in there, where what is ours is; outside, there is none


def sha256(data: bytes) -> bytes:
    """The SHA-256 digest of `data` (32 bytes), without loading OpenSSL."""
    if sys.version_info >= (3, 12):
        from _sha2 import sha256 as digest
    else:
        from _sha256 import sha256 as digest  # type: ignore[import-not-found,unused-ignore]
    return bytes(digest(data).digest())


def vault_id(directory: str) -> str:
    """The name of a vault directory in sockets, state and keychain entries.

    `avault1-` and the first 16 characters of base64url(sha256(realpath)).
    """
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    number = int.from_bytes(sha256(os.fsencode(os.path.realpath(directory)))[:12], "big")
    return "avault1-" + "".join(letters[number >> bits & 63] for bits in range(90, -1, -6))


class NoPlace(Exception):
    """There is nowhere to begin from: no home, or no current directory.

    It carries a message and a hint.
    """


def absolute(path: str) -> str:
    """An absolute path of one that a person typed, or that a variable has; raises NoPlace."""
    found = os.path.expanduser(path)
    if path[:1] == "~" and not os.path.isabs(found):
        home = os.environ.get("HOME")
        raise NoPlace(
            f"HOME is no absolute path: {home!a}" if home else "there is no HOME",
            "HOME=/home/NAME avault …",
        )
    try:
        return os.path.abspath(found)
    except FileNotFoundError:
        raise NoPlace(
            "the current directory is gone", "go to one that is there, as with: cd"
        ) from None


def usual_directories() -> list[str]:
    """Where a vault is looked for that nobody names."""
    return [absolute("~/clawd/.avault"), absolute("~/.openclaw/workspace/.avault")]


def usual_directory(creating: bool = False) -> str:
    """The first of the usual directories that holds a vault.

    When `creating`, the first whose parent exists.
    """
    usual = usual_directories()
    for directory in usual:
        wanted = os.path.dirname(directory) if creating else os.path.join(directory, "avault.enc")
        if os.path.exists(wanted):
            return directory
    return usual[0]


def named_directory(given: str | None = None) -> str | None:
    """The vault directory that is named.

    It is named by `given`, $AVAULT_DIR, or $WORKSPACE, whose .avault it is.

    The .avault in a directory is meant where that itself holds no vault.
    """
    named = given or os.environ.get("AVAULT_DIR")
    if not named and os.environ.get("WORKSPACE"):
        named = os.path.join(os.environ["WORKSPACE"], ".avault")
    if not named:
        return None
    directory = absolute(named)
    inner = os.path.join(directory, ".avault")
    is_outer = not os.path.lexists(f"{directory}/avault.enc") and os.path.lexists(
        f"{inner}/avault.enc"
    )
    return inner if is_outer else directory


def nearest_directory() -> str | None:
    """The .avault in the current directory, or above it, that this machine has opened before.

    No other: a repository that somebody cloned must not choose the vault, nor lead to another one
    by a link.
    """
    try:
        here = os.getcwd()
    except OSError:
        return None
    while True:
        directory = os.path.join(here, ".avault")
        if is_own_directory(directory) and os.path.lexists(
            os.path.join(state_home(), vault_id(directory), "unlock.json")
        ):
            return directory
        if here == (here := os.path.dirname(here)):
            return None


def vault_directory(given: str | None = None, creating: bool = False) -> str:
    """Where the vault is: one that is named, else one that is near, else in a usual place."""
    return named_directory(given) or nearest_directory() or usual_directory(creating)


def state_home() -> str:
    """$XDG_STATE_HOME/avault, or ~/.local/state/avault (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_STATE_HOME", "")
    return os.path.join(base if os.path.isabs(base) else absolute("~/.local/state"), "avault")


def unit_directory(system: bool) -> str:
    """Where the units of a manager of systemd's are kept (systemd.unit(5)).

    Those of the system's, or of the user's own.
    """
    if system:
        return "/etc/systemd/system"
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return os.path.join(base if os.path.isabs(base) else absolute("~/.config"), "systemd/user")


def is_own_directory(path: str, closed_to: int = 0) -> bool:
    """Whether `path` is a directory of ours, and no symlink.

    Others have none of these permissions for it.
    """
    try:
        info = os.lstat(path)
    except OSError:
        return False
    return info.st_mode & (0o170000 | closed_to) == 0o040000 and info.st_uid == os.getuid()


def is_private_directory(path: str) -> bool:
    """Whether `path` is a directory of ours that nobody else can enter, and no symlink."""
    return is_own_directory(path, 0o077)


def own_name(given: str | None) -> str:
    """`avault`, with the --dir that it was given: how a command in a hint begins."""
    if not given:
        return "avault"
    from shlex import quote

    return f"avault --dir {quote(given)}"


def read_record(path: str) -> str:
    """A path that is recorded in the state directory; "" where there is none.

    What is no regular file does not hold us up.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.fsdecode(os.read(fd, 4096))
    except OSError:
        return ""
    finally:
        os.close(fd)


GRANT = "grant.sock"  # what a grant's socket is called: who is led to it is led to nothing else


class Places:
    """The places of one vault: `dir`, `id`, `state`, `socket`, `pid_file`."""

    __slots__ = ("dir", "id", "pid_file", "socket", "state")

    def __init__(self, given: str | None = None, creating: bool = False) -> None:
        named = named_directory(given)
        self.dir = named or vault_directory(creating=creating)
        self.id = vault_id(self.dir)
        self.state = os.path.join(state_home(), self.id)
        is_usual = not named and self.dir == usual_directory(creating)
        name = "avault" if is_usual else "avault-" + self.id
        runtime = [os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{os.getuid()}"]
        beside = next((path for path in runtime if path and is_private_directory(path)), self.state)
        self.socket = absolute(
            os.environ.get("AVAULT_SOCKET") or os.path.join(beside, name + ".sock")
        )
        self.pid_file = absolute(
            os.environ.get("AVAULT_PID") or self.socket.removesuffix(".sock") + ".pid"
        )

    def file(self, name: str) -> str:
        """The path of a file in the vault directory."""
        return os.path.join(self.dir, name)

    def own(self, name: str) -> str:
        """The path of a file in the state directory."""
        return os.path.join(self.state, name)

    def unit(self, system: bool) -> str:
        """The path of this vault's unit, if `avault service install` has written one."""
        return os.path.join(unit_directory(system), f"avault-{self.id}.service")

    def is_grant(self) -> bool:
        """Whether the socket is a grant's: not all of the vault, and perhaps another user's."""
        return os.path.basename(self.socket) == GRANT

    def sockets(self) -> Iterator[str]:
        """Where the daemon may listen: the usual path, then the one that it recorded."""
        yield self.socket
        if self.is_grant():
            return
        if recorded := read_record(self.own("socket")):
            yield recorded
