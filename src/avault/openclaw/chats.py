"""avault openclaw chats, which finds where the operator can be told that the phone waits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.openclaw.program import OpenClaw, reach, read_json5
from avault.openclaw.undo import find_own_references
from avault.terminal.commands import command, option
from avault.terminal.talk import put
from avault.terminal.terminal import Terminal
from avault.vault.files import read_file

if TYPE_CHECKING:
    from typing import Any


def find_chats(config: dict[str, Any]) -> list[tuple[str, str]]:
    """The operator's chats, by channel and target, that work without the vault.

    No reference into it stands in the channel.
    """
    owners = reach(config, ["commands", "ownerAllowFrom"])
    default = reach(config, ["secrets", "defaults", "exec"])
    found = []
    for owner in owners if isinstance(owners, list) else ():
        channel, _, target = str(owner).partition(":")
        settings = reach(config, ["channels", channel])
        if (
            target
            and isinstance(settings, dict)
            and not any(find_own_references(settings, "", default))
        ):
            found.append((channel, target))
    return found


@command("openclaw chats", option("--config"))
def cmd_chats(terminal: Terminal, config: str | None) -> int:
    """usage: avault openclaw chats [--config FILE] [--json]

    Where the operator can be told that the phone waits: those of OpenClaw's
    commands.ownerAllowFrom whose channel has no token in the vault, a line each.
    The hook avault-unlock uses the first that works. FILE is openclaw.json; without
    it OpenClaw is asked where that is.
    """
    content = (
        read_json5(read_file(config, 16 << 20).decode("utf-8-sig", "replace"))
        if config
        else OpenClaw().config
    )
    chats = find_chats(content)
    if terminal.want_json:
        put(
            json.dumps(
                {
                    "ok": True,
                    "chats": [{"channel": channel, "target": target} for channel, target in chats],
                }
            )
            + "\n"
        )
    else:
        put("".join(f"{channel} {target}\n" for channel, target in chats))
    return 0
