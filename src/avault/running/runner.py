"""A command whose secrets the process that wants its output never has: for `avault mcp`.

It has its own session, so that it can be ended with all that it started. Its outputs are pipes to
the server; a third one is for what kept it from starting the command, as exit codes are the
command's.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from avault.errors import Denied, Usage, complain
from avault.plain import write_all
from avault.running.forms import SHORTEST, is_short
from avault.running.job import Job
from avault.running.masks import Patterns
from avault.running.secrets import Injection, reveal_for_masks
from avault.terminal.terminal import Terminal

if TYPE_CHECKING:
    from typing import Any, NoReturn


def main_runner(argv: list[str]) -> NoReturn:
    """The runner: its arguments are the request, as JSON, and the descriptor of the third pipe."""
    request, told = json.loads(argv[0]), int(argv[1])
    os.set_inheritable(told, False)  # the command does not inherit it
    try:
        code = run_masked(request)
    except Exception as error:
        write_all(told, json.dumps(complain(error).to_dict()).encode())
        code = 1
    sys.exit(code)


def run_masked(request: dict[str, Any]) -> int:
    """Run a command with its secrets; its exit code. Raises what keeps it from starting.

    Masked is every value of the vault, chosen or not: the command can ask the daemon for the
    others. One that is too short to be masked everywhere is not given, and masked where it stands
    alone.
    """

    class QuietJob(Job):
        """A command that nobody watches.

        It writes nothing any more when it has ended, whatever it left running.
        """

        def open_output(self, sink: int) -> int:
            end = super().open_output(sink)
            self.outputs[-1].quiet = None
            return end

        def leave_behind(self) -> None:
            for output in self.outputs:
                output.pending = memoryview(output.mask.end())
                while output.pending:
                    output.write()

    terminal, injection = Terminal(request["dir"], False), Injection()
    named = [each for each in request["secrets"] if "=" in each]
    injection.take(
        terminal,
        [],
        [each for each in request["secrets"] if each not in named],
        named,
        request["prefix"],
        [],
    )
    found = injection.secrets.items()
    if short := [place for place, values in found if any(map(is_short, values))]:
        limit = f"under {SHORTEST} bytes"
        raise Denied(
            f"too short to be masked ({limit}): {', '.join(sorted(short))}",
            "avault run, in a terminal",
        )
    patterns = Patterns.of(reveal_for_masks(terminal, injection.secrets), with_short=True)
    if not patterns:
        raise Usage("no secret is named", "avault_list has the names")
    return QuietJob(request["command"], injection.environment(), patterns).run()
