"""Whether the proxy can work here, and what a client does with it: the command."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from avault.cli.custody import show
from avault.doctor.proxy import check_client, check_machine
from avault.errors import AvaultError, printable
from avault.terminal.commands import command
from avault.terminal.talk import put

if TYPE_CHECKING:
    from avault.terminal.terminal import Terminal


@command(
    "proxy doctor",
    lambda: click.Argument(["words"], nargs=-1, type=click.UNPROCESSED),
    interspersed=False,
)
def cmd_proxy_doctor(terminal: Terminal, words: tuple[str, ...]) -> int:
    """usage: avault proxy doctor [--json]
                               [-- CMD…]

    Whether the proxy can work here: its packages, the system's authorities, TLS,
    bubblewrap. With a command: whether it asks the proxy, and by which variable,
    whether it trusts the bundle, or goes around; and what to do. The command is run
    with the variables of a session, before a stand-in for the proxy, from which
    nothing goes out; it needs no vault. A word {} becomes the address to ask for;
    bun, curl, deno, git, node, python3 and wget may be named alone.

    Exit code: 0 where nothing is wrong, else 1.

      avault proxy doctor
      avault proxy doctor -- curl
      avault proxy doctor -- node my-agent.js {}
    """
    try:
        found = check_client(list(words)) if words else check_machine()
    except OSError as error:
        said = f"cannot run {printable(words[0])}: {os.strerror(error.errno or 0)}"
        raise AvaultError(said, "is it in the PATH?") from None
    if terminal.want_json:
        fields = ("state", "text", "hint")
        checks = [{each: getattr(one, each) for each in fields} for one in found]
        show(terminal, {"checks": checks})
    else:
        for each in found:
            put(f"{each.state:5} {printable(each.text, 1000)}\n")
            if each.hint:
                put(f"      {printable(each.hint, 1000)}\n")
    return int(any(each.state == "bad" for each in found))
