"""What the client of an SSH agent is, by what the system says of its process: a claim, no proof.

Its arguments are its own to choose, and a pid is used again. No more of them is repeated than what
git asks ssh for: whole command lines hold secrets.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from typing import TYPE_CHECKING

from avault.daemon.callers import peer_pid, read_stat
from avault.late import regex
from avault.signing.ssh_words import LONGEST_CONTENT

if TYPE_CHECKING:
    from typing import Any


BETWEEN = frozenset(  # what asks an agent for somebody else
    {"ssh", "ssh-keygen", "scp", "sftp", "rsync", "git", "sh", "bash", "dash", "zsh", "fish", "env"}
)
HIGHEST = 8  # parents that are looked at
GIT_COMMAND = regex(
    r"git[- ](upload-pack|receive-pack|upload-archive) '?([A-Za-z0-9._/~-]{1,100})'?"
)
GIT_WORDS = {
    "upload-pack": "git fetch",
    "receive-pack": "git push",
    "upload-archive": "git archive",
}


def claim_of(sock: socket.socket) -> dict[str, Any]:
    """The `program` behind a connection, and what it says that it `does`; less, where not told."""
    pid = peer_pid(sock)
    began = look_at_process(pid)
    claim = {"program": find_program(pid, began), "does": find_git_errand(pid)}
    # another process may have come in its place meanwhile
    if not began or look_at_process(pid)[1:] != began[1:]:
        return {}
    return {name: found for name, found in claim.items() if found}


def look_at_process(pid: int) -> list[str]:
    """A process's name, parent and start time; "1" where it is what a terminal was opened for.

    Nothing where it is not told.
    """
    name, words = read_stat(pid)
    if len(words) < 20:
        return []
    leads = words[3] == str(pid).encode() and words[4] != b"0"
    return [name or "", words[1].decode(), words[19].decode(), "1" if leads else ""]


def find_program(pid: int, found: list[str]) -> str:
    """The program on whose behalf ssh, git and shells are at work; else git, or the nearest.

    `found` is what is read of the first. A shell that a person has in a terminal is nobody else's.
    """
    nearest = ""
    for _ in range(HIGHEST):
        if not found:
            break
        name, parent, _, is_in_terminal = found
        nearest = name if name == "git" else nearest or name
        if name not in BETWEEN:
            return name
        pid = int(parent)
        if is_in_terminal or pid <= 1:
            break
        found = look_at_process(pid)
    return nearest


def read_words(pid: int, program: bytes) -> list[bytes]:
    """The arguments of a process, where it says that it is this program; else none."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(1 << 16).rstrip(b"\0").split(b"\0")
    except OSError:
        return []
    return words if os.path.basename(words[0]) == program else []


def read_signed_file(sock: socket.socket) -> bytes:
    """What ssh-keygen signs, from the file that it names last; b"" where that cannot be read.

    Whether it is that, who signs finds out by its digest.
    """
    pid = peer_pid(sock)
    words = read_words(pid, b"ssh-keygen")
    if not words:
        return b""
    place = b"/proc/%d/%s" % (pid, b"root" if words[-1][:1] == b"/" else b"cwd/")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(place + words[-1], flags)
        try:
            found = os.fstat(fd)
            is_fit = stat.S_ISREG(found.st_mode) and found.st_size <= LONGEST_CONTENT
            return os.read(fd, LONGEST_CONTENT) if is_fit else b""
        finally:
            os.close(fd)
    except OSError:
        return b""


def find_git_errand(pid: int) -> str:
    """What ssh says that it does for git, from its last argument; "" for all else."""
    words = read_words(pid, b"ssh")
    if not words:
        return ""
    said = re.fullmatch(GIT_COMMAND.pattern, words[-1].decode(errors="replace"))
    return f"{GIT_WORDS[said[1]]} {said[2]}" if said else ""
