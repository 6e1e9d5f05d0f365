"""How avault runs git: every git that it starts is started here.

A repository's own configuration names programs: to watch files, to sign, to convert and to
compare them, to reach a remote. Nobody has to have agreed to them: a work tree may come out of an
archive. So git runs here without hooks, pagers, editors and prompts, and reaches no remote unless
it is told to fetch or to push: in a partial clone any command fetches what it lacks, by a program
that the configuration names (gitremote-helpers(7), partial clone in git's documentation).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import typing
from typing import TYPE_CHECKING

from avault.errors import TimedOut, Unavailable, printable

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import IO, Any


LIMIT = 60.0  # seconds for one run of git that nobody watches

# Git is to ask nobody, to run nothing that a repository names, to look nowhere else, and to say it
# in English.
ALWAYS = {
    "LC_ALL": "C",
    "GIT_EDITOR": ":",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",  # what is looked at is what is pushed
    "GIT_OPTIONAL_LOCKS": "0",
}
GIT_QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "SSH_ASKPASS_REQUIRE": "never"}
REMOTE = {"fetch", "push"}  # the commands that may reach another repository
# what all others are given; git 2.44 knows the second
OFFLINE = {"GIT_ALLOW_PROTOCOL": "", "GIT_NO_LAZY_FETCH": "1"}
GIT_SETTINGS = (
    "core.fsmonitor=false",
    "core.pager=cat",
    "commit.gpgSign=false",
    "push.gpgSign=false",
    "push.followTags=false",
    "push.recurseSubmodules=no",
    "fetch.recurseSubmodules=no",
    "submodule.recurse=false",
    "merge.autoStash=false",
    "merge.verifySignatures=false",
    "protocol.ext.allow=never",
    "i18n.commitEncoding=UTF-8",
    "i18n.logOutputEncoding=UTF-8",
)
# where the user's own settings are
OWN = frozenset({"GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM"})
NO_HOOKS = "core.hooksPath=/dev/null"
# how the user gets in, when the user watches
KEPT = frozenset({"GIT_SSH", "GIT_SSH_COMMAND", "GIT_ASKPASS"})


def start_git(
    directory: str,
    words: tuple[str, ...],
    settings: tuple[str, ...] = (NO_HOOKS,),
    keep: Collection[str] = (),
    **more: Any,
) -> subprocess.Popen[bytes]:
    """Start git in a directory; raises Unavailable where there is none.

    Of the environment's GIT_ variables those stay that say where the user's own settings are, and
    those to `keep`. `more` is for Popen; `env` in it adds variables.
    """
    kept = OWN.union(keep)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name in kept
    }
    environment |= ALWAYS | more.pop("env", {})
    if next(word for word in words if not word.startswith("-")) not in REMOTE:
        environment |= OFFLINE
    # By variables and not by -c, which takes `filter.a=b.clean=` for `filter.a` (git-config(1),
    # git 2.31 and newer).
    environment |= {"GIT_CONFIG_COUNT": str(len(GIT_SETTINGS) + len(settings))}
    for number, setting in enumerate((*GIT_SETTINGS, *settings)):
        name, _, value = (
            setting.rpartition("=") if setting.startswith("filter.") else setting.partition("=")
        )
        environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    try:
        return subprocess.Popen(["git", *words], cwd=directory, env=environment, **pipes)
    except FileNotFoundError:
        if not os.path.isdir(directory):
            raise Unavailable(
                f"there is no directory {printable(directory)}", "see: avault status"
            ) from None
        raise Unavailable(
            "git is not installed", "install git, or go on without: the vault does not need it"
        ) from None


def run_git(
    directory: str,
    *words: str,
    data: bytes = b"",
    index: str | None = None,
    settings: tuple[str, ...] = (NO_HOOKS,),
    **more: Any,
) -> subprocess.CompletedProcess[bytes]:
    """Run git in a directory, with nobody to watch it.

    Raises Unavailable where there is no git, TimedOut.

    It has a minute; then it and all that it has started is ended.
    """
    environment = GIT_QUIET | ({"GIT_INDEX_FILE": index} if index else {})
    process = start_git(directory, words, settings, env=environment, start_new_session=True, **more)
    try:
        output, errors = process.communicate(data, LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # git takes its locks with it
        try:
            process.communicate(timeout=2)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        raise TimedOut(
            f"git {words[0]} did not end within {LIMIT:.0f} s", "try it by hand, to see why"
        ) from None
    return subprocess.CompletedProcess(words, process.returncode, output, errors)


def watch_git(
    directory: str, *words: str, settings: tuple[str, ...] = (NO_HOOKS,)
) -> subprocess.CompletedProcess[bytes]:
    """Run git with the user watching.

    What it says goes to stderr, and it may ask on a terminal for a password.

    It asks at the terminal itself (/dev/tty), not on stderr, which may carry what a remote says.
    """
    quiet = {
        name: value
        for name, value in GIT_QUIET.items()
        if name not in KEPT or name not in os.environ
    }
    environment = {} if sys.stdin.isatty() else quiet
    process = start_git(directory, words, settings, KEPT, env=environment, stdin=None)
    echo = threading.Thread(target=tell_git, args=(process.stderr,))
    echo.start()
    output = typing.cast("IO[bytes]", process.stdout).read()
    process.wait()
    echo.join()
    return subprocess.CompletedProcess(words, process.returncode, output, b"")


def tell_git(stream: IO[bytes]) -> None:
    """Show what git says, line by line and escaped.

    Without its hints, which know nothing of ours.
    """
    with stream:
        for line in stream:
            text = line.decode(errors="backslashreplace").rstrip().expandtabs()
            if not text.startswith("hint: "):
                print(
                    "\n".join(printable(each, 1000) for each in text.split("\r")),
                    file=sys.stderr,
                    flush=True,
                )


def leave_user(word: re.Match[str]) -> str:
    """A word, without what stands before the host of the URL in it."""
    head, begins, rest = word[0].partition("://")
    return head + begins + rest.rpartition("@")[2]


def reason(errors: bytes) -> str:
    """What git says on stderr that it could not do, in a line.

    Without a password that a URL may carry.
    """
    lines = [line for line in os.fsdecode(errors).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("warning: ", "hint: ", "To "))] or [
        "it does not say why"
    ]
    text = re.sub("^(fatal|error): ", "", re.sub(r"[^\s'\"]+", leave_user, lines[0]))
    return printable(text.rstrip("."))
