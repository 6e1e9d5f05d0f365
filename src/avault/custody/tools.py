"""Programs that a custodian runs: looked at before each use, bounded in time and output.

No shell, and no search in PATH when one is used. What a program complains about goes nowhere: it
may hold what it was given.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import shutil
import signal
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, Unavailable, Usage, printable
from avault.process import clean_environment

if TYPE_CHECKING:
    from typing import ClassVar

    from avault.keys.custodian import Errand


TOOL_OUTPUT = 64 << 10  # bytes that a program may print
TOOL_SHARE = 0.9  # of the errand's time, so that it is still said which program took too long


class Tool:
    """What custodians that run a program have in common: they are told whether it asks a person."""

    needs_person: ClassVar[bool] = False

    def __init__(self, errand: Errand) -> None:
        self.errand = errand

    @staticmethod
    def asks(settings: dict[str, str]) -> bool:
        """Whether somebody has to be there when it opens the vault, by its settings."""
        return settings.get("person") == "yes"

    def read_person(self) -> str:
        """The setting `person`, yes or no; raises Usage."""
        person = self.errand.settings.get("person") or "no"
        if person not in ("yes", "no"):
            raise Usage("person is yes or no")
        return person


def find_changeable(path: str) -> str | None:
    """What of a path others than root and us can change: the file, or a directory above it.

    Both by its name and where its links lead. A directory for all with the sticky bit, as /tmp, is
    none: what is ours there is ours.
    """
    for named in (os.path.abspath(path), os.path.realpath(path)):
        place = named
        while True:
            info = os.lstat(place)
            is_shared = info.st_mode & 0o022 and not stat.S_ISLNK(info.st_mode)
            if stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX:
                is_shared = False
            if is_shared or info.st_uid not in (0, os.getuid()):
                return place
            if place == os.path.dirname(place):
                break
            place = os.path.dirname(place)
    return None


def check_tool(path: str) -> str:
    """`path`, if it is a program that nobody else can change; raises Unavailable, Denied."""
    if not os.path.isabs(path):
        raise Denied(f"{printable(path)} is not the whole path of a program")
    try:
        theirs = find_changeable(path)
    except OSError:
        raise Unavailable(f"there is no {printable(path)}") from None
    if theirs:
        raise Denied(
            f"{printable(path)} is not run: others can change {printable(theirs)}",
            "it has to be yours or root's, and nobody else may write it: chmod go-w, chown",
        )
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise Unavailable(f"{printable(path)} is no program that we may run")
    return path


def safe_path() -> str:
    """PATH without what is relative, is not there, or can be changed by others."""
    kept = []
    for place in os.environ.get("PATH", os.defpath).split(os.pathsep):
        try:
            if os.path.isabs(place) and not find_changeable(place):
                kept.append(place)
        except OSError:
            pass
    return os.pathsep.join(kept)


def find_tool(word: str, errand: Errand) -> str:
    """The whole path of a program that a person named; raises Unavailable, Denied.

    A name is looked for in PATH, also where others can change it: the one that the person means is
    refused then, and no other is taken instead.
    """
    path = errand.path(word) if os.sep in word else shutil.which(word)
    if not path:
        raise Unavailable(f"there is no program {printable(word)} in PATH")
    return check_tool(os.path.abspath(path))


def tool_environment(errand: Errand) -> dict[str, str]:
    """What a program is told: as the daemon, a PATH of safe places, and the person's terminal."""
    told = {**clean_environment(), "PATH": safe_path()}
    return {**told, "GPG_TTY": errand.prompt.path} if errand.prompt.path else told


def run_tool(argv: list[str], secret: bytes, errand: Errand, person: bool = False) -> bytes:
    """What a program prints that is given a secret on stdin.

    Raises Unavailable or Denied where it may not be run or took too long (Denied where it asked a
    `person`), AvaultError where it failed. It is ended with us, and those of its group with it.
    """
    name = os.path.basename(check_tool(argv[0]))
    limit = errand.limit * TOOL_SHARE
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=tool_environment(errand),
            start_new_session=True,
            # PR_SET_PDEATHSIG, SIGKILL: killed with the thread that starts it
            preexec_fn=(lambda: prctl(1, 9, 0, 0, 0)) if prctl else None,  # noqa: PLW1509
        )
    except OSError as error:
        raise Unavailable(f"{printable(name)} does not start: {error.strerror}") from None
    try:
        printed = talk(process, secret, time.monotonic() + limit)
    except TimeoutError:
        late = f"{printable(name)} did not end in {limit:g} s"
        raise (Denied if person else Unavailable)(late) from None
    except OverflowError:
        raise AvaultError(f"{printable(name)} prints more than {TOOL_OUTPUT:,} bytes") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode < 0:
        raise AvaultError(f"{printable(name)} was killed by signal {-process.returncode}")
    if process.returncode:
        failed = f"{printable(name)} failed, with exit code {process.returncode}"
        raise (Denied if person else AvaultError)(failed)
    return printed


def talk(process: subprocess.Popen[bytes], secret: bytes, end: float) -> bytes:
    """Write and read until the program has ended; raises TimeoutError, OverflowError."""
    if not process.stdin or not process.stdout:
        raise AssertionError("unreachable")
    printed = bytearray()
    left = memoryview(secret)
    with selectors.DefaultSelector() as selector, process.stdin, process.stdout:
        os.set_blocking(process.stdin.fileno(), False)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.get_map():
            if (wait := end - time.monotonic()) <= 0:
                raise TimeoutError
            for key, _ in selector.select(wait):
                if key.fileobj is process.stdout:
                    piece = os.read(process.stdout.fileno(), 1 << 16)
                    printed += piece
                    if len(printed) > TOOL_OUTPUT:
                        raise OverflowError
                    if not piece:
                        selector.unregister(process.stdout)
                    continue
                try:
                    left = left[os.write(process.stdin.fileno(), left) :]
                except BrokenPipeError:
                    left = left[:0]  # it reads no more: its exit code says whether that was enough
                if not left:
                    selector.unregister(process.stdin)
                    process.stdin.close()
        try:
            process.wait(max(end - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
    return bytes(printed)
