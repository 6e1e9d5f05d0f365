"""avault edit: a secret in the operator's editor, by way of a file that is only in memory."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, NotFound, Unavailable, Usage, printable
from avault.keys.hardening import harden
from avault.late import context
from avault.plain import MAX_VALUE, write_all
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import say
from avault.terminal.terminal import Terminal
from avault.terminal.words import split_name
from avault.vault.files import read_file
from avault.vault.names import check_value

if TYPE_CHECKING:
    from collections.abc import Iterator


IN_MEMORY = (0x01021994, 0x858458F6)  # TMPFS_MAGIC and RAMFS_MAGIC of statfs(2)
# vim keeps nothing of what it shows
VIM_SETTINGS = "set noswapfile nobackup nowritebackup noundofile viminfo= history=0"


@command("edit", argument("group"), argument("word", required=False), option("--key"))
def cmd_edit(terminal: Terminal, group: str, word: str | None, key: str | None) -> int:
    """usage: avault edit GROUP [KEY | --key KEY]

    Opens a secret in $VISUAL or $EDITOR, and keeps what was saved; one that is
    not there yet begins empty. One newline at the end is taken off, unless it
    was there. The file lies in memory (tmpfs), for this user alone, and goes
    with the editor; where there is no such place, nothing is opened. What your
    editor itself keeps elsewhere (a clipboard, plugins) is its own affair.

      avault edit google/SERVICE_ACCOUNT
    """
    group, key = split_name(group, key, word)
    if key is None:
        raise Usage("no key is named", f"avault edit {group}/API_KEY")
    if not sys.stdin.isatty():
        raise Usage("an editor needs a terminal", f"without one: avault set {group}/{key}")
    harden("avault edit")
    editor = find_editor()
    before = current_value(terminal, group, key)
    with file_in_memory(f"{key}.txt", (before or "").encode()) as path:
        run_editor(editor, path)
        edited = read_file(path, MAX_VALUE + 1).removesuffix(
            b"" if before and before.endswith("\n") else b"\n"
        )
    try:
        value = edited.decode()
    except UnicodeDecodeError:
        raise Usage("the value is binary", "keep it as text, in base64") from None
    if value == (before or ""):
        say(f"unchanged: {group}/{key}")
        return 0
    if current_value(terminal, group, key) != before:
        raise Denied(
            f"{group}/{key} was changed by somebody else meanwhile",
            f"look, and begin again: avault edit {group}/{key}",
        )
    terminal.ask("set", group=group, key=key, note=None, value={"value": check_value(value)})
    say(f"kept {group}/{key}")
    return 0


def current_value(terminal: Terminal, group: str, key: str) -> str | None:
    """The value as the vault has it; None for none."""
    try:
        return str(terminal.ask("get", group=group, key=key)["value"])
    except NotFound:
        terminal.ask("list")  # no vault is another matter
        return None


def find_editor() -> list[str]:
    """The editor's command line; raises Usage."""
    words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
    words = words or next(([name] for name in ("nano", "vim", "vi") if shutil.which(name)), [])
    program = shutil.which(words[0]) if words else None
    if not program:
        raise Usage(
            f"no editor {printable(words[0])}" if words else "no editor is named",
            "EDITOR=nano avault edit …",
        )
    is_vim = os.path.basename(os.path.realpath(program)).startswith(("vim", "nvim"))
    return [*words, "-n", "-i", "NONE", "--cmd", VIM_SETTINGS] if is_vim else words


def run_editor(editor: list[str], path: str) -> None:
    """Run the editor until it ends; raises AvaultError where it failed."""
    environment = {**os.environ, "TMPDIR": os.path.dirname(path)}
    try:
        code = subprocess.run([*editor, path], check=False, env=environment).returncode
    except OSError as error:
        raise AvaultError(
            f"cannot run {printable(editor[0])}: {error.strerror}", "EDITOR=nano avault edit …"
        ) from None
    if code:
        raise AvaultError("the editor failed: nothing was written", None)


@context
def file_in_memory(name: str, content: bytes) -> Iterator[str]:
    """A file in a directory of ours, in memory.

    Both are gone at the end, also when we are told to end.
    """
    places = ("/dev/shm", os.environ.get("XDG_RUNTIME_DIR", ""))  # noqa: S108
    place = next(filter(is_in_memory, places), None)
    if not place:
        raise Unavailable(
            "there is no place that is only in memory here", "avault set writes no file"
        )
    directory = tempfile.mkdtemp(prefix="avault-", dir=place)  # 0700
    told = {
        number: signal.signal(number, leave_editor) for number in (signal.SIGHUP, signal.SIGTERM)
    }
    told[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the editor's
    try:
        path = os.path.join(directory, name)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, content)
        finally:
            os.close(fd)
        yield path
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        for number, handler in told.items():
            signal.signal(number, handler)


def leave_editor(number: int, frame: object) -> None:
    """Told to end."""
    raise SystemExit(128 + number)


def is_in_memory(directory: str) -> bool:
    """Whether a directory that we can write to is on a file system without a disk (statfs(2))."""
    if (
        sys.platform != "linux"
        or not os.path.isabs(directory)
        or not os.access(directory, os.W_OK | os.X_OK)
    ):
        return False
    answer = (ctypes.c_long * 32)()  # struct statfs, which begins with the type
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(directory), answer):
        return False
    return answer[0] & 0xFFFFFFFF in IN_MEMORY
