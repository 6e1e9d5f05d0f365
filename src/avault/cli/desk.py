"""avault desk: what a desk has this machine do that opens many together; it comes over ssh.

Keys and statements come on stdin, in a process that is hardened before, and go to the keyholder.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from avault.custody.custodians import Custodians
from avault.custody.desk import find_desk
from avault.errors import Usage
from avault.keys.hardening import harden
from avault.terminal.commands import argument, command
from avault.terminal.talk import put
from avault.vault.presence import need_vault

if TYPE_CHECKING:
    from typing import Any

    from avault.keys.nostr import KeyText
    from avault.terminal.terminal import Terminal


def read_for_desk() -> str:
    """The one line of stdin, for a process that others cannot look into; raises Usage."""
    harden("avault-desk")
    if sys.stdin.isatty():
        raise Usage("a desk does this, over ssh", "at the desk: avault fleet enroll --help")
    return sys.stdin.buffer.readline(8192).decode(errors="replace").strip()


def say_desk(found: dict[str, Any]) -> int:
    """Say as JSON what the desk is to know; the exit code of success."""
    put(json.dumps(found) + "\n")
    return 0


@command("desk show", argument("name"))
def cmd_desk_show(terminal: Terminal, name: str) -> int:
    """usage: avault desk show NAME

    Which key of a desk opens this machine, as JSON: the public half.
    """
    need_vault(terminal.places)
    if name not in Custodians(terminal.places).order():
        return say_desk({"ok": True, "desk": name, "key": None})
    content = find_desk(terminal.places, name)
    return say_desk({"ok": True, "desk": name, "key": content["settings"].get("key")})


@command("desk join", argument("name"))
def cmd_desk_join(terminal: Terminal, name: str) -> int:
    """usage: avault desk join NAME < STATEMENT

    Lets a desk open this vault together with others, if the phone agrees. `avault
    fleet enroll` runs this, with what the desk's key for this machine has signed on
    stdin: how the desk is called, and which operator approves on its phone.
    """
    statement = read_for_desk()
    return say_desk(terminal.ask("desk", action="join", name=name, statement=statement))


@command("desk open", argument("name"))
def cmd_desk_open(terminal: Terminal, name: str) -> int:
    """usage: avault desk open NAME < KEY

    Opens this vault with a desk's key for it. A desk runs this, where it opens a
    group together.
    """
    key: KeyText = read_for_desk()
    need_vault(terminal.places)
    terminal.need_daemon()
    terminal.ask("open", value={"desk": name, "key": key}, private=True)
    return say_desk({"ok": True, "desk": name})


@command("desk turn", argument("name"))
def cmd_desk_turn(terminal: Terminal, name: str) -> int:
    """usage: avault desk turn NAME < STATEMENT

    Seals anew for the key that the desk has from now on, which its present one has
    signed: what the phone answered last opens nothing here any more. A desk runs
    this, after it has opened a group together.
    """
    statement = read_for_desk()
    return say_desk(terminal.ask("desk", action="turn", name=name, statement=statement))
