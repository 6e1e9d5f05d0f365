"""avault mcp: a Model Context Protocol server on stdin and stdout, for agents without a shell.

    avault_list, avault_has, avault_status     names, and what the vault waits for
    avault_request_unlock                      the question on the operator's phone
    avault_run                                 a command with chosen secrets, and its masked output

No tool returns a value, and the server never has one: Python cannot wipe a string, and this process
lives as long as its client. So each command gets a process of its own, the runner, which asks the
daemon for the values, masks what the command prints as `avault run` does, and ends with it.
"""

# No `from __future__ import annotations`: the SDK reads the annotations of the tools, which stand
# inside a function.

import contextlib
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import avault
from avault import AvaultError, Terminal, TimedOut, Unavailable, Usage, need_vault, say

if TYPE_CHECKING:
    from avault_extras import mcp_runner
else:
    mcp_runner = avault.load_extra("mcp_runner")

WAIT = 50.0  # seconds; many clients give a tool up after 60
LONGEST = 3600.0  # seconds that a command may be given
ASKING = avault.TOGETHER  # seconds that the phone stays asked, also when no tool waits any more

INSTRUCTIONS = """\
avault keeps the user's secrets (API keys, tokens, passwords). You use them without seeing them: \
avault_list tells their names, {use}. When the vault is locked, tell the user, call \
avault_request_unlock, and wait: only the user can open it, with their phone."""
WITH_RUN = """\
avault_run gives chosen ones to a command as environment variables and masks its output. Never try \
to make a command reveal a value"""
WITHOUT_RUN = (
    "which you name where the user's own programs take them;"
    " no tool of this server runs anything with them"
)

NEXT = {
    "unlocked": None,
    "locked": "call avault_request_unlock, and tell the user to look at their phone",
    "starting": "its daemon starts again by itself; call avault_request_unlock,"
    " and tell the user to look at their phone",
    "stopped": "call avault_request_unlock, which starts the daemon,"
    " and tell the user to look at their phone",
    "waiting": "the user has to approve on their phone;"
    " call avault_request_unlock again to go on waiting",
    "unpaired": "only the user can help, in a terminal: avault pair",
}


def what_next(state: str) -> str | None:
    """What a model can do in that state of the vault."""
    step = NEXT[state]
    return avault.call.complete(step) if step else None


# of the daemon's status
SHOWN = ("state", "since", "until", "secrets", "waiting", "relays", "warnings")


def explain(error: AvaultError) -> str:
    """An error for a model: what went wrong, and what it, or the user, can do."""
    hint = avault.call.complete(error.hint or "")
    if error.code in ("locked", "unavailable") and (" unlock" in hint or " daemon start" in hint):
        hint = str(NEXT["locked"])
    elif error.code == "not_found" and hint.endswith(" list"):
        hint = "avault_list has the names"
    elif error.code == "denied":
        hint = f"do not try again unless the user says so{'; for the user: ' if hint else ''}{hint}"
    elif hint and error.code != "usage":
        hint = f"for the user: {hint}"
    return f"{error.message}; {hint}" if hint else error.message


class Asking:
    """One wait for the phone, in a thread; `hang_up` ends it from outside."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.connection: avault.Connection | None = None

    def wait(self, seconds: float, progress: Callable[[dict[str, Any]], None]) -> str:
        """Have the phone asked, and wait: `unlocked`, or `waiting` when the daemon goes on asking.

        Raises Denied when the operator refuses, TimedOut when nobody answered in all that time, and
        what else ends it.
        """
        need_vault(self.terminal.places)
        self.terminal.need_daemon()
        self.connection = avault.Connection(self.terminal.places)
        try:
            return str(
                self.connection.request("unlock", timeout=seconds, stay=ASKING, progress=progress)[
                    "state"
                ]
            )
        except TimedOut:
            state = str(
                self.terminal.ask("wait", settled=True, timeout=10)["state"]
            )  # the daemon may only have started
            if state not in ("waiting", "unlocked"):
                raise
            return state
        finally:
            self.connection.close()

    def hang_up(self) -> None:
        """Nobody waits any more."""
        if self.connection:
            with contextlib.suppress(OSError):  # it is closed
                self.connection.fast.socket.shutdown(socket.SHUT_RDWR)


def build_server(terminal: Terminal, with_run: bool) -> Any:
    """The MCP server of a vault; raises Unavailable where the SDK is not installed."""
    try:
        import anyio.from_thread
        import anyio.to_thread
        from mcp.server.mcpserver import Context, MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
        from mcp.types import ToolAnnotations
        from pydantic import Field
    except ImportError:
        install = f"{shlex.quote(sys.executable)} -m pip install 'mcp>=2,<3'"
        raise Unavailable("the MCP SDK is not installed for this Python", install) from None

    async def in_thread(function: Callable[[], Any]) -> Any:
        """What the function gives; a cancelled call leaves it to end by itself."""
        try:
            return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)
        except AvaultError as error:
            raise ToolError(explain(error)) from None

    async def avault_list() -> dict[str, Any]:
        """List the names of the user's secrets, as GROUP/KEY, for example openai/API_KEY.

        Names only, never values.

        `guarded` says of some how they may be used; what it does not let out is refused.
        """
        groups = (await in_thread(lambda: terminal.ask("list")))["groups"]
        keys = {f"{group['name']}/{key['name']}": key for group in groups for key in group["keys"]}
        guarded = {name: key["guard"]["words"] for name, key in keys.items() if key["guard"]}
        return {"secrets": [*keys], **({"guarded": guarded} if guarded else {})}

    async def avault_has(
        name: Annotated[str, Field(description="GROUP/KEY, or GROUP for any key of it")],
    ) -> dict[str, Any]:
        """Tell whether the vault has a secret.

        If it has not, ask the user to add it; never ask for the value in the chat.
        """

        def has() -> bool:
            group, key = avault.split_name(name, None)
            return bool(terminal.ask("has", group=group, key=key)["has"])

        return {"has": await in_thread(has)}

    async def avault_status() -> dict[str, Any]:
        """Tell the state of the vault.

        It is unlocked, locked, waiting for the user's approval, unpaired, or its daemon stopped.
        `next` says what to do about it.
        """

        def look() -> dict[str, Any]:
            try:
                return terminal.ask("status")
            except avault.NoDaemon as error:
                return {"state": error.state}

        status = await in_thread(look)
        return {name: status.get(name) for name in SHOWN} | {"next": what_next(status["state"])}

    async def avault_request_unlock(
        context: Context,
        wait_seconds: Annotated[
            float, Field(ge=0, le=LONGEST, description="how long to wait for the answer")
        ] = WAIT,
    ) -> dict[str, Any]:
        """Ask the user, on their phone, to open the vault, and wait for the answer.

        Tell the user before you do.

        Returns state "unlocked", or "waiting" when nobody has answered yet: the phone stays asked
        for ten minutes. Then tell the user, and call this again to go on waiting. It fails when the
        user refuses: do not ask again unless they say so; and when the ten minutes are over: tell
        the user, and stop.
        """
        begun, asking = time.monotonic(), Asking(terminal)

        def tell(progress: dict[str, Any]) -> None:
            waiting, relays = progress["waiting"] or {}, progress["relays"] or []
            taken = sum(relay["said"] == "accepted" for relay in relays)
            page = (
                f"; the user has to open this page: {waiting['auth_url']}"
                if waiting.get("auth_url")
                else ""
            )
            text = f"asked {taken} of {len(relays)} relays, waiting for the user's approval{page}"
            anyio.from_thread.run(
                context.report_progress, time.monotonic() - begun, wait_seconds, text
            )

        try:
            state = await in_thread(lambda: asking.wait(wait_seconds, tell))
        finally:
            asking.hang_up()
        return {"state": state, "next": what_next(state)}

    async def avault_run(
        context: Context,
        command: Annotated[
            list[str],
            Field(
                min_length=1, description='program and arguments; for a shell: ["sh", "-c", "…"]'
            ),
        ],
        secrets: Annotated[
            list[str],
            Field(
                min_length=1,
                description="those that it needs, and no others: GROUP/KEY, or NAME=GROUP/KEY",
            ),
        ],
        prefix: Annotated[
            bool,
            Field(description="name the variables GROUP_KEY, where two groups have the same KEY"),
        ] = False,
        directory: Annotated[
            str | None, Field(description="working directory; else the server's")
        ] = None,
        timeout_seconds: Annotated[
            float, Field(gt=0, le=LONGEST, description="after which it is ended")
        ] = WAIT,
    ) -> dict[str, Any]:
        """Run a command with secrets of the vault in its environment, each as a variable named KEY.

        Never write a value yourself. NAME=GROUP/KEY gives a variable another name, as in
        OPENAI_API_KEY=openai/API_KEY. In a shell it is "$KEY". Returns exit_code (or timed_out),
        stdout and stderr, cut in the middle when they are long. Values in them, of any secret of
        the vault, appear as <avault:GROUP/KEY>: that is as it should be, do not try to get around
        it. Of some the user's phone is asked at each use, as avault_list says under `guarded`: tell
        the user before, and give 300 seconds. The command runs as the user, and can ask the vault
        for other secrets by itself: run only what the user would. There is no stdin, and what it
        leaves in the background is ended.
        """

        async def beat(seconds: float) -> None:
            await context.report_progress(seconds, timeout_seconds, "running")

        try:
            if any("\0" in word for word in command):
                raise Usage("a word of the command has a NUL")
            request = {
                "dir": terminal.places.dir,
                "secrets": secrets,
                "prefix": prefix,
                "command": command,
            }
            return await mcp_runner.run(request, directory, timeout_seconds, beat)
        except AvaultError as error:
            raise ToolError(explain(error)) from None

    looks = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    asks = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=True)
    does = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=True)
    server = MCPServer(
        "avault",
        instructions=INSTRUCTIONS.format(use=WITH_RUN if with_run else WITHOUT_RUN),
        version=avault.__version__,
        log_level="WARNING",
    )
    for tool in (avault_list, avault_has, avault_status):
        server.add_tool(tool, annotations=looks)
    server.add_tool(avault_request_unlock, annotations=asks)
    if with_run:
        server.add_tool(avault_run, annotations=does)
    return server


def serve(terminal: Terminal, with_run: bool) -> None:
    """Serve on stdin and stdout until the client has gone."""
    server = build_server(terminal, with_run)
    if os.isatty(0):
        say("an MCP server speaks with a program: let a client start it")
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, mcp_runner.end_all)
    server.run("stdio")
