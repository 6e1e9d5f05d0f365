"""The program behind a process: on whose behalf ssh, git and shells are at work."""

from __future__ import annotations

from avault.daemon.callers import read_stat

BETWEEN = frozenset(  # what asks an agent for somebody else
    {"ssh", "ssh-keygen", "scp", "sftp", "rsync", "git", "sh", "bash", "dash", "zsh", "fish", "env"}
)
HIGHEST = 8  # parents that are looked at


class Behind:
    """The program behind a process: its `name` and `pid`, and the pid where the search ended.

    That is what started it: the program, or the shell that a person has in a terminal.
    """

    __slots__ = ("name", "pid", "starter")

    def __init__(self, name: str, pid: int, starter: int) -> None:
        self.name, self.pid, self.starter = name, pid, starter


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
        nearest.starter = pid
        if not nearest.name or (name == "git" and nearest.name != "git"):
            nearest.name, nearest.pid = name, pid
        if name not in BETWEEN:
            return Behind(name, pid, pid)
        pid = int(parent)
        if is_in_terminal or pid <= 1:
            break
        found = look_at_process(pid)
    return nearest
