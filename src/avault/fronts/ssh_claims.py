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

from avault.daemon.behind import find_program, look_at_process
from avault.daemon.callers import count_seconds, peer_pid, read_proc
from avault.late import regex
from avault.signing.ssh_words import LONGEST_CONTENT

if TYPE_CHECKING:
    from typing import Any


GIT_COMMAND = regex(
    r"git[- ](upload-pack|receive-pack|upload-archive) '?([A-Za-z0-9._/~-]{1,100})'?"
)
GIT_WORDS = {
    "upload-pack": "git fetch",
    "receive-pack": "git push",
    "upload-archive": "git archive",
}


def claim_of(sock: socket.socket, since: float, is_file: bool = False) -> dict[str, Any]:
    """The `program` behind a connection, and what it says that it `does`; less, where not told.

    Who has a file signed does nothing for git over the network.
    Its `pid`, and `since` when the connection is there, are no claim: the system has told them.
    """
    pid = peer_pid(sock)
    began = look_at_process(pid)
    does = "" if is_file else find_git_errand(pid)
    claim = {"program": find_program(pid, began).name, "does": does}
    known: dict[str, Any] = {"pid": pid, "since": since}
    # a pid is given again: one that was started behind the connection is another's
    if not began or count_seconds(began[2].encode()) > since:
        return known
    return {**known, **{name: found for name, found in claim.items() if found}}


def read_words(pid: int, program: bytes) -> list[bytes]:
    """The arguments of a process, where it says that it is this program; else none."""
    try:
        words = read_proc(pid, "cmdline", 1 << 16).rstrip(b"\0").split(b"\0")
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
