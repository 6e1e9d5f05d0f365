"""avault ssh: an agent for OpenSSH, git and rsync, whose keys stay in the vault."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from avault.errors import Denied, Usage
from avault.running.process import become_command
from avault.terminal.commands import command, option
from avault.terminal.talk import put, warn
from avault.vault.formats import quote_sh

if TYPE_CHECKING:
    from avault.terminal.terminal import Terminal


def check_own_place(directory: str) -> None:
    """Raise Denied where another user could put a socket in place of ours, which ssh would take."""
    found = os.stat(directory)
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise Denied(
            f"others can write to {directory}, where the agent's socket is",
            "have AVAULT_SOCKET in a directory of your own",
        )


@command(
    "ssh",
    option("--print-env", is_flag=True),
    lambda: click.Argument(["words"], nargs=-1, type=click.UNPROCESSED),
    interspersed=False,
)
def cmd_ssh(terminal: Terminal, print_env: bool, words: tuple[str, ...]) -> int:
    """usage: avault ssh [--print-env | [--] CMD…]

    Runs a command with an SSH agent whose keys are in the vault, for ssh, git,
    rsync and all that asks an agent: it gets signatures, and never a key. Which
    keys, for which servers, is said when they are made: avault key generate.
    A server proves which it is to the agent, if the client is OpenSSH 8.9 or
    later; only the keys that fit it are offered.

    The agent listens as long as the daemon runs. While the vault is locked, it
    has no keys. Why something was not signed, ssh is not told: see avault log.
    --print-env prints the variable for a shell, in which it is then for all.

      avault ssh -- git push
      eval "$(avault ssh --print-env)"
    """
    if print_env == bool(words):
        raise Usage("no command is named", "avault ssh -- git push; or: avault ssh --print-env")
    terminal.need_daemon()
    found = terminal.ask("ssh")
    path = str(found["path"])
    check_own_place(os.path.dirname(path))
    if found["state"] != "unlocked":
        warn("the vault is locked: until it is open, the agent has no keys", "avault unlock")
    if words:
        become_command(list(words), {**os.environb, b"SSH_AUTH_SOCK": os.fsencode(path)})
    put(quote_sh("SSH_AUTH_SOCK", path))
    return 0
