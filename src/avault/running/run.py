"""avault run: secrets for one command, without holding them."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import click

from avault.daily import PROJECT_FILE
from avault.errors import Usage
from avault.running.forms import SHORTEST, is_short
from avault.running.job import Job
from avault.running.looking import Secrets, untold
from avault.running.masks import Patterns
from avault.running.process import allow_cores, become_command, forbid_cores
from avault.running.proxied import Proxied
from avault.running.sandbox import Sandbox
from avault.running.secrets import Injection, read_env_file, read_project_file, reveal_for_masks
from avault.running.stores import Stores
from avault.running.terminal_job import TerminalJob
from avault.terminal.commands import command, option
from avault.terminal.talk import say, warn
from avault.terminal.terminal import Terminal
from avault.terminal.waiting import wait_open
from avault.terminal.words import parse_duration

if TYPE_CHECKING:
    from typing import Any


def optional_duration(name: str) -> click.Option:
    """--wait [D]: a next word that is no duration is not its value, but begins the command."""

    class OptionalDuration(click.Option):
        """An option that gives back a word that is not for it."""

        def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
            super().add_to_parser(parser, ctx)
            entry = parser._long_opt[self.opts[0]]
            process = entry.process

            def process_duration(value: Any, state: Any) -> None:
                if isinstance(value, str) and not re.fullmatch(r"(\d+[smhd]?)?", value):
                    state.rargs.insert(0, value)
                    value = ""
                process(value, state)

            entry.process = process_duration

    return OptionalDuration([name], is_flag=False, flag_value="")


@command(
    "run",
    option("--group", "groups", multiple=True),
    option("--only", multiple=True),
    option("--as", "named", multiple=True),
    option("--all", "everything", is_flag=True),
    option("--env-file"),
    option("--prefix", is_flag=True),
    lambda: optional_duration("--wait"),
    option("--no-mask", is_flag=True),
    option("--allow", multiple=True),
    option("--as-file", "files", multiple=True),
    option("--sandbox", is_flag=True),
    option("--bind", "writable", multiple=True),
    option("--bind-ro", "readable", multiple=True),
    option("--proxy", is_flag=True),
    option("--egress"),
    option("--host", "hosts", multiple=True),
    option("--ask", is_flag=True),
    option("--store", "stores", multiple=True),
    lambda: click.Argument(["words"], nargs=-1, type=click.UNPROCESSED),
    interspersed=False,
)
def cmd_run(
    terminal: Terminal,
    groups: tuple[str, ...],
    only: tuple[str, ...],
    named: tuple[str, ...],
    everything: bool,
    env_file: str | None,
    prefix: bool,
    wait: str | None,
    no_mask: bool,
    allow: tuple[str, ...],
    files: tuple[str, ...],
    sandbox: bool,
    writable: tuple[str, ...],
    readable: tuple[str, ...],
    proxy: bool,
    egress: str | None,
    hosts: tuple[str, ...],
    ask: bool,
    stores: tuple[str, ...],
    words: tuple[str, ...],
) -> int:
    """usage: avault run [--group G]… [--only KEY,…] [--as NAME=GROUP/KEY]… [--env-file F]
                  [--all] [--prefix] [--wait [D]] [--no-mask] [--allow NAME]…
                  [--as-file KEY]… [--sandbox [--bind PATH]… [--bind-ro PATH]…]
                  [--proxy [--host GROUP/KEY=HOST]… [--egress rules|open] [--ask]
                           [--store CLIENT[=GROUP[/KEY]]]…]
                  [--] CMD…

    Runs a command with secrets in its environment, over what is there: those
    that --group, --only (KEY or GROUP/KEY), --as and --env-file choose. That file
    has lines NAME=value; avault://GROUP/KEY in a value is replaced. Without any
    of these: what avault.env in this directory names, by lines like
    OPENAI_API_KEY=avault://openai/API_KEY; and without that file, or with --all,
    all secrets, each by its key. --prefix tells groups apart (DATABASE_PASSWORD).
    PATH, LD_*, BASH_ENV and their like are refused without --allow NAME, in
    files too.
    --wait waits until the vault is open (at most D: 90, 90s, 5m, 8h); it asks nobody.

    What the command prints is masked, <avault:openai/API_KEY> in place of the
    value, for all secrets of the vault, also in base64, hex, URL, JSON form and
    more; on a terminal it has one of its own. That is best effort: it keeps a
    value out of a log or a chat, not from a command that means to tell it.
    Values under 8 bytes are not masked. If avault is killed, the command ends.
    --no-mask executes the command in avault's place: nothing is in between.

    --as-file KEY puts the path of a file in memory into KEY_FILE, and KEY not
    into the environment. It can be read as long as the command runs (Linux).

    --sandbox runs it without a network, and with neither the vault, nor its
    state, nor its sockets, nor other processes in sight (Linux, bubblewrap).
    It can write to this directory and below, and read /usr and /etc; more of
    your files it gets by --bind PATH, only to read them by --bind-ro PATH. What
    it starts ends with it. Where no sandbox can be had, the command is not run.

    --proxy has the command's HTTPS go through a proxy of avault's own (Linux,
    Python 3.12 or later), and gives it placeholders for those keys that a guard, or
    --host, names hosts for: of the same form, and worth nothing. On the way to these
    hosts, in the header for keys, the value takes a placeholder's place; in the
    answer it is taken out again.
    Other keys it gets as without --proxy, but only those that --group, --only,
    --as, --env-file or --all name. Other hosts are refused; with --egress open
    they are reached, and nothing is put in. --ask has the phone asked before a key
    first goes to a host, with method, host and path. It ends with the command, and
    with the lock. What --proxy is for, and what not: references/proxy.md

    --store has a client that looks for its key in a file of its own find a
    placeholder in one: claude, codex, gh, aws; the key is in the group of that name,
    or in GROUP. The client's own file is not touched; the file with the placeholder
    is deleted when the command ends.

    Exit code: the command's; 128 + n if signal n ended it; 126 it cannot be
    executed, 127 it is not there.

      avault run -- my-agent --port 80
      avault run --as OPENAI_API_KEY=openai/API_KEY --wait 5m -- python3 agent.py
      avault run --env-file .env -- docker compose up
      avault run --proxy --host openai/API_KEY=api.openai.com -- python3 agent.py
      avault run --sandbox --bind ~/.cache/tool -- tool --offline
      avault run --as-file tls/CERT -- sh -c 'openssl x509 -in "$CERT_FILE" -subject'
    """
    if not words:
        raise Usage("no command is named", "avault run -- my-agent")
    if (writable or readable) and not sandbox:
        raise Usage("--bind and --bind-ro are for a sandbox", "avault run --sandbox --bind PATH …")
    timeout = parse_duration(wait or None)
    names = [name for each in only for name in each.split(",")]
    if everything and (groups or names or named):
        raise Usage("--all excludes --group, --only and --as", "leave it out")
    if not proxy and (hosts or egress or ask or stores):
        said = "--host, --egress, --ask and --store are for --proxy"
        raise Usage(said, "avault run --proxy -- my-agent")
    if proxy and no_mask:
        raise Usage("--proxy excludes --no-mask: it ends with us", "leave --no-mask out")
    variables = None if env_file is None else read_env_file(env_file)
    if not (groups or names or named or everything) and variables is None:
        variables = read_project_file()
        if variables is not None:
            given = (
                f"{name}={value.removeprefix('avault://')}" for name, value in variables.items()
            )
            say(f"{PROJECT_FILE} gives {', '.join(given) or 'nothing'}")
    if wait is not None:
        wait_open(terminal, timeout)
    # what it looks at may change: as late as can be
    kept = Stores(stores)
    click.get_current_context().call_on_close(kept.end)
    writable += (kept.directory,) if kept.directory else ()
    room = Sandbox(terminal.places, writable, readable) if sandbox else None
    forbid_cores()
    injection = Injection()
    if proxy:
        choice = {"groups": list(groups), "only": names, "as": list(named), "prefix": prefix}
        proxied = Proxied(
            terminal,
            {
                **choice,
                "everything": everything,
                "allow": list(allow),
                "hosts": list(hosts),
                "ask": ask,
            },
            egress or "rules",
            kept,
        )
        is_asked = env_file is not None
        proxied.give(terminal, injection, variables, is_asked, tcp=not room)
        if room:
            room.session = proxied.session.directory
    elif groups or names or named or everything or variables is None:
        injection.take(terminal, list(groups), names, list(named), prefix, list(allow))
    if variables is not None and not proxy:
        injection.set(terminal, variables, list(allow))
    for word in files:
        injection.move_to_file(terminal, word, prefix, list(allow))
    if room:
        environment = room.environment(injection.given(room.add_file))
    else:
        environment = injection.environment()
        if proxy:
            environment = proxied.environment(environment, injection)
    others = kept.others() - injection.variables.keys()
    for name in others:
        environment.pop(name.encode(), None)
    patterns = None
    if not no_mask:
        hidden = reveal_for_masks(terminal, injection.secrets)
        patterns = Patterns.of({**hidden, **(proxied.masks() if proxy else {})})
        warn_of_short(terminal, injection.secrets)
    if patterns is None and not room:
        allow_cores()
        become_command(list(words), environment)
    try:
        if room:
            return room.job(list(words), environment, patterns or Patterns({})).run()
        kind = TerminalJob if os.isatty(1) else Job
        return kind(list(words), environment, patterns or Patterns({})).run()
    finally:
        if proxy:
            proxied.session.end()


def warn_of_short(terminal: Terminal, secrets: Secrets) -> None:
    """Name the secrets that no mask can stand for, once each."""
    short = sorted(place for place, values in secrets.items() if any(map(is_short, values)))
    if new := untold(terminal.places, "run", short):
        warn(f"too short to be masked (under {SHORTEST} bytes): {', '.join(new)}")
