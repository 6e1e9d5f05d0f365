"""avault ssh: an agent for OpenSSH, git and rsync, whose keys stay in the vault."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from avault.cli.log import Reader, in_order, render_line
from avault.daemon.log import AccessLog
from avault.errors import Denied, Usage
from avault.fronts.ssh_front import start_agent
from avault.running.process import become_command
from avault.terminal.commands import command, option
from avault.terminal.talk import put, say, warn
from avault.vault.formats import quote_sh

if TYPE_CHECKING:
    from typing import NoReturn

    from avault.terminal.terminal import Terminal


SHOWN_REFUSED = 5  # lines of the access log


def check_own_place(directory: str) -> None:
    """Raise Denied where another user could put a socket in place of ours, which ssh would take."""
    found = os.stat(directory)
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise Denied(
            f"others can write to {directory}, where the agent's socket is",
            "have AVAULT_SOCKET in a directory of your own",
        )


def run_with_agent(words: tuple[str, ...], path: str) -> NoReturn:
    """Become a command that has the agent at this path; raises CannotRun."""
    become_command(list(words), {**os.environb, b"SSH_AUTH_SOCK": os.fsencode(path)})


def show_refused(terminal: Terminal) -> int:
    """Print the last lines of the access log that say why something was not signed."""
    if terminal.places.is_grant():
        raise Usage("the access log is of who made the grant", "ask there, for: avault ssh --why")
    readers = [Reader(terminal.places.own(name), older) for name, _, older in AccessLog.FILES]
    found = [line for line in in_order(readers, are_ended=True) if is_refused_signature(line)]
    if not found:
        say("no signature was refused")
    put("".join(render_line(line) + "\n" for line in found[-SHOWN_REFUSED:]))
    return 0


def is_refused_signature(line: bytes) -> bool:
    """Whether a line of the access log says that something was not signed."""
    try:
        entry = json.loads(line)
        return bool(entry["op"] == "sign" and entry["outcome"] != "ok")
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


@command(
    "ssh",
    option("--print-env", is_flag=True),
    option("--why", is_flag=True),
    lambda: click.Argument(["words"], nargs=-1, type=click.UNPROCESSED),
    interspersed=False,
)
def cmd_ssh(terminal: Terminal, print_env: bool, why: bool, words: tuple[str, ...]) -> int:
    """usage: avault ssh [--print-env | --why | [--] CMD…]

    Runs a command with an SSH agent whose keys are in the vault, for ssh, git,
    rsync and all that asks an agent: it gets signatures, and never a key. Which
    keys, for which servers, is said when they are made: avault key generate.
    A server proves which it is to the agent, if the client is OpenSSH 8.9 or
    later; only the keys that fit it are offered.

    The agent listens as long as the daemon runs. While the vault is locked, it
    has no keys. --print-env prints the variable for a shell, in which it is for all.
    Why something was not signed, ssh is not told: --why prints the last signatures
    that were refused, with the reason, as avault log has them.
    By a grant (AVAULT_SOCKET) the command has an agent of its own, with the keys
    of the grant, which ends with it.

      avault ssh -- git push
      eval "$(avault ssh --print-env)"
    """
    if print_env + why + bool(words) != 1:
        raise Usage("no command is named", "avault ssh -- git push; or: avault ssh --print-env")
    if why:
        return show_refused(terminal)
    terminal.need_daemon()
    if terminal.places.is_grant():
        if print_env:
            raise Usage(
                "a grant has no agent that stays: the command has one of its own",
                "avault ssh -- CMD; or a shell: avault ssh -- bash",
            )
        run_with_agent(words, start_agent(terminal.places))
    found = terminal.ask("ssh")
    path = str(found["path"])
    check_own_place(os.path.dirname(path))
    if found["state"] != "unlocked":
        warn("the vault is locked: until it is open, the agent has no keys", "avault unlock")
    if words:
        run_with_agent(words, path)
    put(quote_sh("SSH_AUTH_SOCK", path))
    return 0
