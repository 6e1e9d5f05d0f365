"""avault completion: what a shell needs to complete avault's commands, options and names.

Commands and options stand in the script (completion/). Names are asked for while somebody types, by
`avault list --names`; a locked vault has none, and says nothing.

Not click's own completion (click.shell_completion). At each Tab it starts the program with click,
which takes four times as long as `list --names`, for options too. It needs bash 4.4, and macOS
has 3.2. And what follows `avault run --` it cannot hand to the completion of that command.
"""

from __future__ import annotations

import json

from avault.completion.bash import bash
from avault.completion.fish import fish
from avault.completion.words import all_words
from avault.completion.zsh import zsh
from avault.errors import Usage, printable
from avault.terminal.commands import argument, command
from avault.terminal.talk import put
from avault.terminal.terminal import Terminal


@command("completion", argument("shell"))
def cmd_completion(terminal: Terminal, shell: str) -> int:
    """usage: avault completion bash|zsh|fish

    Prints what the shell needs to complete commands, options and the names of
    groups and keys. Names come from the daemon; while the vault is locked there
    are none.

      source <(avault completion bash)        in ~/.bashrc
      source <(avault completion zsh)         in ~/.zshrc, after compinit
      avault completion fish > ~/.config/fish/completions/avault.fish
    """
    shells = {"bash": bash, "zsh": zsh, "fish": fish}
    if shell not in shells:
        raise Usage(
            f"no completion for {printable(shell)!r}", "one of: avault completion bash, zsh, fish"
        )
    script = shells[shell](all_words())
    put(
        json.dumps({"shell": shell, "script": script}, indent=2) + "\n"
        if terminal.want_json
        else script
    )
    return 0
