"""set, get, has, list, mv, delete, export, wait."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from avault.daily import FORMS, is_number
from avault.errors import NotFound, Usage, printable
from avault.fast import tell_of_replaced
from avault.plain import MAX_VALUE, read_stdin
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import put, say, warn
from avault.terminal.terminal import Terminal
from avault.terminal.waiting import wait_open
from avault.terminal.words import parse_duration, split_name
from avault.vault.files import read_file
from avault.vault.names import check_group, check_value

if TYPE_CHECKING:
    from typing import Any


@command(
    "set", argument("group"), option("--key"), option("--value"), option("--file"),
    option("--generate", is_flag=False, flag_value="32"), option("--note"),
)  # fmt: skip
def cmd_set(
    terminal: Terminal,
    group: str,
    key: str | None,
    value: str | None,
    file: str | None,
    generate: str | None,
    note: str | None,
) -> int:
    """usage: avault set GROUP --key KEY [--file F | --generate [N] | --value V] [--note TEXT]

    Keeps a secret. The value comes from stdin, or from a prompt without echo;
    one trailing newline is taken off. --file keeps its bytes as they are.
    --generate makes N (32) characters of A-Z a-z 0-9 and does not print them.
    Another value that is there is replaced, which is said; git keeps it.
    --value works, but stands in `ps` and in the shell's history.
    --note is about the group. GROUP/KEY is short for GROUP --key KEY.

      avault set openai --key API_KEY
      pass show openai | avault set openai/API_KEY
      avault set database/PASSWORD --generate 40 --note "production, read only"
    """
    if "=" in group + (key or ""):
        raise no_argument()
    group, key = split_name(group, key)
    if key is None:
        raise Usage("no key is named", "avault set GROUP --key API_KEY")
    if sum(given is not None for given in (value, file, generate)) > 1:
        raise Usage("--value, --file and --generate exclude each other")
    fields: dict[str, Any] = {"group": group, "key": key, "note": note}
    if generate is not None:
        if not is_number(generate):
            raise Usage(
                "--generate takes a number of characters", f"avault set {group}/{key} --generate 32"
            )
        answer = terminal.ask("set", **fields, generate=int(generate))
    else:
        if value is not None:
            warn(
                "the value stands in the process list and in the shell's history",
                f"leave --value out: avault set {group}/{key}",
            )
        if value is None and file is None and sys.stdin.isatty():
            # a locked vault says so before a person has typed
            terminal.ask("has", group=group, key=key)
        value = check_value(read_value(group, key, value, file))
        answer = terminal.ask("set", **fields, value={"value": value})
        if "\r" in value:
            warn(
                "a carriage return stays in the value, as in files from Windows",
                f"tr -d '\\r' < FILE | avault set {group}/{key}",
            )
    if answer.get("replaced"):
        tell_of_replaced(terminal.places.dir, group, key)
    elif sys.stderr.isatty():
        say(f"kept {group}/{key}")
    return 0


def no_argument() -> Usage:
    """The refusal of a value that stands among the words of a command line.

    It does not repeat it.
    """
    return Usage(
        "a value is not taken as an argument, where `ps` and the shell's history have it",
        "avault set GROUP/KEY asks for it, or takes it from a pipe: "
        'printf %s "$VALUE" | avault set GROUP/KEY',
    )


def read_value(group: str, key: str, value: str | None, file: str | None) -> str:
    """The value of `set`: given, from a file, from a pipe, or from a prompt."""
    if value is not None:
        return value
    if file is not None:
        data = read_file(os.path.expanduser(file), MAX_VALUE, only_regular=False)
    elif sys.stdin.isatty():
        from getpass import getpass

        return getpass(f"{group}/{key}: ")
    else:
        data = read_stdin().removesuffix(b"\n")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Usage(
            "the value is binary",
            f"keep it as text: base64 -w0 FILE | avault set {group} --key {key}",
        ) from None


@command("get", argument("group"), argument("word", required=False), option("--key"))
def cmd_get(terminal: Terminal, group: str, word: str | None, key: str | None) -> int:
    """usage: avault get GROUP [KEY | --key KEY] [--json]

    Prints a secret and a newline. Without a key: the group, as KEY=value lines.
    An agent had better use it without seeing it, from the environment.

      avault get openai --key API_KEY
      avault get openai/API_KEY
      avault get openai --json
    """
    group, key = split_name(group, key, word)
    put(
        terminal.ask("get", group=group, key=key, format="json" if terminal.want_json else "text")[
            "output"
        ]
    )
    return 0


@command("has", argument("group"), argument("word", required=False), option("--key"))
def cmd_has(terminal: Terminal, group: str, word: str | None, key: str | None) -> int:
    """usage: avault has GROUP [KEY | --key KEY]

    Prints nothing. Exit code 0: it is there; 4: it is not; 3: the vault is locked.

      avault has openai/API_KEY || echo "ask the operator for a key"
    """
    group, key = split_name(group, key, word)
    found = terminal.ask("has", group=group, key=key)["has"]
    if terminal.want_json:
        put(json.dumps({"has": found}) + "\n")
    return 0 if found else NotFound.exit_code


@command("list", argument("groups", nargs=-1), option("--names", is_flag=True))
def cmd_list(terminal: Terminal, groups: tuple[str, ...], names: bool) -> int:
    """usage: avault list [--names] [--json] [GROUP]…

    Groups with their keys, notes and times, or those that are named. Never
    values. --names prints GROUP/KEY, a line each.
    """
    form = "names" if names else "json" if terminal.want_json else "text"
    put(
        terminal.ask("list", format=form, groups=[check_group(group) for group in groups])["output"]
    )
    return 0


@command("mv", argument("old"), argument("new"))
def cmd_mv(terminal: Terminal, old: str, new: str) -> int:
    """usage: avault mv OLD NEW

    Gives a secret another name, or a group: OLD is GROUP/KEY or GROUP, and so
    is NEW; a GROUP alone, for a secret, keeps its key's name. Nothing that is
    there is replaced.

      avault mv openai/KEY openai/API_KEY
      avault mv openai/API_KEY old
      avault mv openai azure
    """
    (group, key), (to_group, to_key) = split_name(old, None), split_name(new, None)
    terminal.ask(
        "move", group=group, key=key, to_group=to_group, to_key=key if to_key is None else to_key
    )
    if sys.stderr.isatty():
        say(f"{old} is {new if key is None or to_key else f'{new}/{key}'} from now on")
    return 0


@command("delete", argument("group"), argument("word", required=False), option("--key"))
def cmd_delete(terminal: Terminal, group: str, word: str | None, key: str | None) -> int:
    """usage: avault delete GROUP [KEY | --key KEY]

    Takes a key out of the vault; without one, the whole group. What git
    already has stays in its history: revoke a leaked key where it was issued.

      avault delete openai/API_KEY
    """
    group, key = split_name(group, key, word)
    terminal.ask("delete", group=group, key=key)
    if sys.stderr.isatty():
        say(f"deleted {group}" + (f"/{key}" if key else ""))
    return 0


@command(
    "export", option("--shell", is_flag=False, flag_value="sh"), option("--format", "form"),
    option("--group", "groups", multiple=True), option("--only", multiple=True),
    option("--as", "named", multiple=True), option("--prefix", is_flag=True),
    option("--wait", is_flag=False, flag_value=""), option("--allow", multiple=True),
)  # fmt: skip
def cmd_export(
    terminal: Terminal,
    shell: str | None,
    form: str | None,
    only: list[str],
    named: list[str],
    wait: str | None,
    **given: Any,
) -> int:
    """usage: avault export [--shell [sh|fish] | --format dotenv|json|systemd|docker|github|k8s]
                     [--group G]… [--only KEY,…] [--as NAME=GROUP/KEY]…
                     [--prefix] [--wait [D]] [--allow NAME]…

    Prints secrets as variables: dotenv lines, or with --shell statements for
    eval, in sh, dash, bash, zsh, busybox or fish. What some readers of dotenv
    files would read otherwise is named; --format docker is what docker's own
    reads, which knows no quotes, github is for $GITHUB_ENV, k8s a Secret for
    kubectl. A value that a form cannot carry is refused.
    Two groups with the same key are an error; --group chooses, --as names one
    (OPENAI_API_KEY=openai/API_KEY), --prefix tells all apart (DATABASE_PASSWORD).
    PATH, LD_*, BASH_ENV and their like are refused without --allow NAME.
    --wait waits until the vault is open (at most D: 90, 90s, 5m, 8h); it asks nobody.
    Locked: nothing on stdout, exit code 3.

      vars=$(avault export --shell --wait) && eval "$vars"    fails closed
      eval "$(avault export --shell --only API_KEY)"
      avault export --shell fish | source
      (umask 077; avault export --format systemd > /run/agent.env)
      docker run --env-file <(avault export --format docker --group web) IMAGE
      avault export --format k8s --group web | kubectl apply -f -
    """
    if shell is not None and form is not None:
        raise Usage("--shell and --format exclude each other")
    if shell not in (None, "sh", "fish"):
        raise Usage(
            f"no shell {printable(shell)!r}",
            "--shell sh serves sh, dash, bash, zsh and busybox; --shell fish the other one",
        )
    if form not in (None, *FORMS):
        raise Usage(f"no format {printable(form)!r}", f"one of: {', '.join(FORMS)}")
    if wait is not None:
        wait_open(terminal, parse_duration(wait or None))
    chosen = "json" if terminal.want_json and not shell and not form else shell or form or "dotenv"
    names = [name for each in only for name in each.split(",")]
    answer = terminal.ask("export", format=chosen, only=names, **{"as": list(named)}, **given)
    put(answer["output"])
    if "warning" in answer:
        warn(answer["warning"])
    return 0


@command("wait", option("--timeout"))
def cmd_wait(terminal: Terminal, timeout: str | None) -> int:
    """usage: avault wait [--timeout D]

    Returns when the vault is open; waits for a daemon too, and asks nobody.

      avault wait --timeout 10m && exec my-agent
    """
    wait_open(terminal, parse_duration(timeout))
    return 0
