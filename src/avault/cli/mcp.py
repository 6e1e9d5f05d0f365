"""avault mcp: the command of avault_extras/mcp.py, a Model Context Protocol server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.extras import load_extra
from avault.terminal.commands import command, option

if TYPE_CHECKING:
    from avault.terminal.terminal import Terminal


@command("mcp", option("--no-run", is_flag=True))
def cmd_mcp(terminal: Terminal, no_run: bool) -> int:
    """usage: avault mcp [--no-run]

    A Model Context Protocol server on stdin and stdout, for agents: they see the
    names of secrets and the vault's state, can have the phone asked, and run
    commands with secrets that they choose, whose output is masked. No tool
    returns a value. --no-run leaves the commands out.

    Needs the MCP SDK: pip install 'mcp>=2,<3'. In a client's configuration:

      {"mcpServers": {"avault": {"command": "avault", "args": ["mcp"]}}}
    """
    load_extra("mcp").serve(terminal, with_run=not no_run)
    return 0
