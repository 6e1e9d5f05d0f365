"""avault scan: the vault's own values where they should not be."""

from __future__ import annotations

import errno
import json
import os
import shlex
import stat
import subprocess
import sys
import typing
from typing import TYPE_CHECKING

from avault.errors import AvaultError, NotFound, Unavailable, Usage, printable
from avault.git.run import GIT_QUIET, NO_HOOKS, reason, start_git
from avault.keys.hardening import harden
from avault.process import own_command
from avault.running.forms import SHORTEST
from avault.running.looking import untold
from avault.running.search import (
    BATCH,
    INDEX,
    PATH_WIDTH,
    STDIN,
    Needles,
    Part,
    Progress,
    search_all,
    without_neighbours,
)
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import put, say, warn
from avault.terminal.terminal import Terminal
from avault.vault.files import read_file, write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import IO


class Blob:
    """The object that `git cat-file --batch` prints next, to be read like a file.

    Raises AvaultError if there is none.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        try:
            self.left = int(stream.readline().split(b" ")[2])
        except IndexError:
            raise AvaultError("git does not have all that is staged", "see: git fsck") from None

    def read(self, limit: int) -> bytes:
        """At most so many bytes; none at the end."""
        data = self.stream.read(min(limit, self.left))
        self.left -= len(data)
        return data


def cut_file(path: str, file: Blob | IO[bytes], overlap: int) -> Iterator[Part]:
    """A file in parts that can be held, which overlap by so many bytes."""
    line, data = 1, file.read(BATCH)
    while True:
        yield Part(path, line, data)
        more = file.read(BATCH)
        if not more:
            return
        kept = max(0, len(data) - overlap)
        line += data.count(b"\n", 0, kept)
        data = data[kept:] + more


def is_stream(path: str) -> bool:
    """Whether a path is a pipe or a device, as <(…) and /dev/stdin are.

    Such a one is read to its end, and once.
    """
    try:
        kind = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(kind) and not stat.S_ISDIR(kind) and not stat.S_ISSOCK(kind)


class Tree:
    """Files as they lie on the disk.

    Links are not followed. `unread` names what could not be read.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = paths
        self.unread: list[str] = []

    def read(self, overlap: int) -> Iterator[Part]:
        """What is in the files, in parts; raises NotFound for a path that is not there.

        `-` is stdin. A pipe that is named is read, one that lies in a directory is not: nobody may
        ever write to it.
        """
        for path in self.paths:
            if path == STDIN or is_stream(path):
                with open(0 if path == STDIN else path, "rb", closefd=path != STDIN) as stream:
                    yield from cut_file(path, stream, overlap)
                continue
            named = os.path.realpath(path) if os.path.islink(path) else path
            if not os.path.exists(named):
                raise NotFound(f"no file {printable(path, PATH_WIDTH)}", "see: avault scan --help")
            for each in self.files(named):
                try:
                    with open(
                        os.open(each, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK),
                        "rb",
                        buffering=0,
                    ) as file:
                        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                            yield from cut_file(each, file, overlap)
                except OSError as error:
                    # gone; a link; a socket
                    if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                        self.skip(each, error)

    def skip(self, path: str, error: OSError) -> None:
        """Say what cannot be read, and remember it."""
        warn(f"cannot read {printable(path, PATH_WIDTH)}: {error.strerror}")
        self.unread.append(path)

    def files(self, path: str) -> Iterator[str]:
        """The files of a path: itself, or what git knows there and would add, or all below it.

        A repository within the repository is looked into.
        """
        if os.path.islink(path) or not os.path.isdir(path):
            yield path
            return
        for name in known_to_git(path) or self.walk(path):
            yield from self.files(name if path == "." else os.path.join(path, name))

    def walk(self, directory: str) -> Iterator[str]:
        """All files below a directory, but git's own."""
        for top, inner, names in os.walk(
            directory, onerror=lambda error: self.skip(error.filename, error)
        ):
            inner[:] = sorted(name for name in inner if name != ".git")
            for name in sorted(names):
                if name != ".git":
                    yield os.path.relpath(os.path.join(top, name), directory)


def known_to_git(directory: str) -> list[str]:
    """The files below a directory that git tracks or would add.

    None outside of a repository, or where git ignores it.
    """
    try:
        listed = git(
            "ls-files", "-z", "--cached", "--others", "--exclude-standard", directory=directory
        )
    except AvaultError:
        return []
    names = (os.fsdecode(name).rstrip("/") for name in listed.split(b"\0"))
    # a submodule that is not filled contains itself
    return [name for name in dict.fromkeys(names) if name not in ("", ".")]


def git(
    *words: str, directory: str | None = None, settings: tuple[str, ...] = (NO_HOOKS,)
) -> bytes:
    """What git prints; raises AvaultError with what it complains of.

    In a directory that is named the environment's GIT_DIR and the like are not meant. Without one
    they are: a hook is given another index by `git commit FILE`.
    """
    keep = INDEX if directory is None else ()
    try:
        process = start_git(
            directory or ".", words, settings, keep, env=GIT_QUIET, stdin=subprocess.DEVNULL
        )
    except Unavailable as error:
        raise Unavailable(error.message, "without it: avault scan PATH…") from None
    output, errors = process.communicate()
    if process.returncode:
        raise AvaultError(f"git: {reason(errors)}", "in a directory without git: avault scan PATH…")
    return output


def read_staged(paths: Iterable[str], overlap: int) -> Iterator[Part]:
    """What the next commit would change: the index's own content, whatever the working tree holds.

    Raises AvaultError.
    """
    git("rev-parse", "--git-dir")  # outside of a repository `git diff` compares files
    words = (
        "diff",
        "--cached",
        "--raw",
        "-z",
        "--no-abbrev",
        "--no-renames",
        "--no-ext-diff",
        "--no-relative",
    )
    fields = git(*words, "--diff-filter=d", "--", *paths).split(b"\0")
    blobs = []
    for about, name in zip(fields[0::2], fields[1::2], strict=False):
        _, mode, _, blob, _ = about.split(b" ")
        # not a submodule's commit, nor a path that is not merged yet
        if mode != b"160000" and blob.strip(b"0"):
            blobs.append((os.fsdecode(name), blob))
    with start_git(
        ".", ("cat-file", "--batch"), keep=INDEX, env=GIT_QUIET, stderr=subprocess.DEVNULL
    ) as process:
        names, objects = typing.cast("tuple[IO[bytes], IO[bytes]]", (process.stdin, process.stdout))
        for path, blob in blobs:
            names.write(blob + b"\n")
            names.flush()
            yield from cut_file(path, Blob(objects), overlap)
            objects.read(1)  # the newline after each object


HOOKS = {
    "pre-commit": """\
#!/bin/sh
# avault: no commit carries a value of the vault
{command} scan --staged || {{
    echo 'avault: nothing was committed; to commit without looking: git commit --no-verify' >&2
    exit 1
}}
""",
    "commit-msg": """\
#!/bin/sh
# avault: no message of a commit carries a value of the vault;
# what `git commit -v` shows below the scissors is no part of it
sed '/^.* -\\{{8,\\}} >8 -\\{{8,\\}}$/,$d' "$1" | {command} scan - || {{
    echo 'avault: nothing was committed; the message is kept in' "$1" >&2
    exit 1
}}
""",
}
# the line for somebody's own hook
IN_OTHERS = {"pre-commit": "scan --staged || exit 1", "commit-msg": 'scan "$1" || exit 1'}


def install_hooks(terminal: Terminal, directory: str) -> int:
    """Make the hooks that look at each commit and its message.

    Raises AvaultError where there is another.
    """
    top = os.fsdecode(git("rev-parse", "--show-toplevel", directory=directory).removesuffix(b"\n"))
    place = os.fsdecode(
        git("rev-parse", "--git-path", "hooks", directory=top, settings=()).removesuffix(b"\n")
    )
    typed = os.path.abspath(sys.argv[0])
    words = (
        [typed]
        if os.path.basename(typed).startswith("avault") and os.access(typed, os.X_OK)
        else own_command()
    )
    line = shlex.join([*words, "--dir", terminal.places.dir])
    # knows core.hooksPath, and a worktree's repository
    paths = {name: os.path.join(top, place, name) for name in HOOKS}
    texts = {name: text.format(command=line) for name, text in HOOKS.items()}
    others = []
    try:
        for name, path in paths.items():
            there = read_file(path).decode(errors="replace") if os.path.lexists(path) else ""
            if not there or there.split("\n")[:2] == texts[name].split("\n")[:2]:
                install_hook(path, texts[name])
            elif f"{line} {IN_OTHERS[name]}" not in there:
                others.append((path, f"{line} {IN_OTHERS[name]}"))
    except OSError as error:
        raise AvaultError(
            f"cannot make the hooks in {place}: {error.strerror}", "see: git config core.hooksPath"
        ) from None
    for path, missing in others:
        raise AvaultError(f"there is another hook: {path}", f"add this line to it: {missing}")
    say(
        "they stop every commit while the vault is locked; "
        "to commit all the same: git commit --no-verify"
    )
    if terminal.want_json:
        put(json.dumps({"hooks": list(paths.values())}, indent=2) + "\n")
    return 0


def install_hook(path: str, hook: str) -> None:
    """Make one hook, unless it is there; raises OSError."""
    if os.path.lexists(path) and read_file(path) == hook.encode() and os.access(path, os.X_OK):
        say(f"the hook is there: {path}")
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write_file(path, hook.encode())
    os.chmod(path, 0o700)
    say(f"made the hook {path}")


@command(
    "scan",
    argument("paths", nargs=-1),
    option("--staged", is_flag=True),
    option("--install-hook", "hook", is_flag=True),
)
def cmd_scan(terminal: Terminal, paths: tuple[str, ...], staged: bool, hook: bool) -> int:
    """usage: avault scan [--staged] [PATH | -]…
           avault scan --install-hook [DIR]

    Looks for the vault's values in files: as they are, quoted, broken into
    lines, in UTF-16, and in base64, hex, URL, JSON, HTML form and more. Prints
    where, and which; never a value. Exit code 1: found one, or a file could not
    be read; 0: found none; 3: the vault is locked. PATH is a file, a directory
    (this one, if none is named), or - for stdin. Of a git repository it is what
    git tracks or would add; elsewhere every file. Values under 8 bytes are not
    looked for, and nothing is unpacked.
    --staged looks into what the next commit would change.
    --install-hook has git do that before each commit, and look at its message
    too, and stop one that carries a value. While the vault is locked it stops
    all: git commit --no-verify

      avault scan
      git diff main | avault scan -
      avault scan --install-hook ~/clawd
    """
    if hook:
        if staged or len(paths) > 1:
            raise Usage("--install-hook takes one directory", "avault scan --install-hook ~/clawd")
        return install_hooks(terminal, paths[0] if paths else ".")
    harden("avault scan")
    answer = terminal.ask("reveal", groups=[], only=[], **{"for": "scan"})
    needles, guarded = Needles(answer["secrets"]), answer.get("guarded", [])
    left_out = [*needles.left_out, *guarded]
    if guarded:
        say(f"not looked for, as they are guarded: {', '.join(guarded)}")
    if short := untold(terminal.places, "scan", needles.left_out):
        say(f"not looked for, as they are under {SHORTEST} bytes: {', '.join(short)}")
    tree, progress = Tree(paths or (".",)), Progress()
    parts = read_staged(paths, needles.overlap) if staged else tree.read(needles.overlap)
    found = without_neighbours(search_all(parts, needles, progress))
    if terminal.want_json:
        report = {"found": [each.to_dict() for each in found], "left_out": left_out}
        put(json.dumps({**report, "unread": tree.unread}, indent=2) + "\n")
    else:
        put("".join(f"{each}\n" for each in found))
    files = "1 file" if len(progress.files) == 1 else f"{len(progress.files):,} files"
    if found:
        say(f"values of the vault stand in {len({each.path for each in found}):,} of {files}")
    elif sys.stderr.isatty() and not staged:
        say(f"no value of the vault is in {files}")
    return 1 if found or tree.unread else 0
