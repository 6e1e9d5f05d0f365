"""The program behind a process: on whose behalf ssh, git and shells are at work."""

from __future__ import annotations

import os

from avault.daemon.callers import read_stat

BETWEEN = frozenset(  # what asks an agent for somebody else
    {"ssh", "ssh-keygen", "scp", "sftp", "rsync", "git", "sh", "bash", "dash", "zsh", "fish", "env"}
    | {"busybox"}
)
SYSTEM_BIN = ("/bin", "/usr/bin", "/usr/local/bin", "/usr/lib/git-core", "/usr/libexec/git-core")
HIGHEST = 8  # parents that are looked at


class Behind:
    """The program behind a process: its `name` and `pid`, and the pid where the search ended.

    That is what started it: the program, or the shell that a person has in a terminal.
    """

    __slots__ = ("name", "pid", "starter")

    def __init__(self, name: str, pid: int, starter: int) -> None:
        self.name, self.pid, self.starter = name, pid, starter


def read_between(pid: int) -> str:
    """Which of those in BETWEEN a process runs, by its executable; "" for all else.

    The name of a process is its own to choose. So the file has to be the system's, which root alone
    writes; and the one that has this path here: a process may have mounts of its own.
    """
    try:
        place, path = f"/proc/{pid}/exe", os.readlink(f"/proc/{pid}/exe")
        top, name = os.path.split(path)
        if name not in BETWEEN or top not in SYSTEM_BIN:
            return ""
        found = os.stat(place)
        is_system = found.st_uid == 0 and not found.st_mode & 0o022
        return name if is_system and os.path.samestat(found, os.stat(path)) else ""
    except OSError:
        return ""


def look_at_process(pid: int) -> list[str]:
    """A process's name, parent and start time; "1" where it is what a terminal was opened for.

    Nothing where it is not told.
    """
    name, words = read_stat(pid)
    if len(words) < 20:
        return []
    leads = words[3] == str(pid).encode() and words[4] != b"0"
    return [name or "", words[1].decode(), words[19].decode(), "1" if leads else ""]


def find_program(pid: int, found: list[str]) -> Behind:
    """The program on whose behalf ssh, git and shells are at work; else git, or the nearest.

    `found` is what is read of the first. A shell that a person has in a terminal is nobody else's.
    """
    nearest = Behind("", pid, pid)
    for _ in range(HIGHEST):
        if not found:
            break
        name, parent, _, is_in_terminal = found
        nearest.starter, between = pid, read_between(pid)
        if not between:
            return Behind(name, pid, pid)
        if not nearest.name or (between == "git" and nearest.name != "git"):
            nearest.name, nearest.pid = between, pid
        pid = int(parent)
        if is_in_terminal or pid <= 1:
            break
        found = look_at_process(pid)
    return nearest
