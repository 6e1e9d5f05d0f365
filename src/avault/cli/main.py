"""From a command line to a command, by way of click; and where the program starts."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

import click

from avault import __version__
from avault.cli.secrets import no_argument
from avault.daemon.key_opener import main_opener
from avault.daemon.start import main_supervisor
from avault.errors import AvaultError, Usage, complain
from avault.fronts.nostr_front import main_nostr_front
from avault.fronts.proxy_process import main_proxy
from avault.fronts.ssh_front import main_ssh_agent
from avault.hints import call, say_error
from avault.keys.helper import main_custodian
from avault.keys.life import main_keyholder
from avault.keys.trial import main_trial
from avault.places import NoPlace, Places, read_record
from avault.plain import write_all
from avault.running.runner import main_runner
from avault.signing.signing_process import main_signing
from avault.terminal.commands import COMMANDS, argument, command, option
from avault.terminal.help import HELP
from avault.terminal.talk import _has_put, put, say
from avault.terminal.terminal import Terminal
from avault.terminal.words import split_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn


MEANT = {  # what other tools call it: how it is called here
    "add": "set", "cat": "get", "close": "lock", "copy": "get", "create": "set", "del": "delete",
    "find": "list", "generate": "set", "grep": "scan", "info": "status", "insert": "set",
    "load": "export", "login": "unlock", "logout": "lock", "ls": "list", "move": "mv",
    "new": "set", "open": "unlock", "print": "get", "put": "set", "pull": "sync", "push": "sync",
    "read": "get", "remove": "delete", "rename": "mv",
    "reset": "daemon stop && avault daemon start -b",
    "restart": "daemon stop && avault daemon start -b", "rm": "delete",
    "search": "list", "seal": "lock", "setup": "init", "show": "get", "start": "daemon start -b",
    "state": "status", "stop": "daemon stop", "store": "set", "undo": "history",
    "unseal": "unlock", "update": "set", "write": "set",
}  # fmt: skip


def no_command(words: list[str], there: list[str], path: str) -> Usage:
    """What is said of a command that is none.

    Of what was typed only names are repeated, as the rest may be a secret.
    """
    import difflib

    word, *rest = words
    called = f": {word}" if word.isascii() and word.isalpha() and len(word) < 20 else ""
    if path != "avault":
        near = difflib.get_close_matches(word, there, 1, 0.6) or [
            f"{there[0]}, or one of: {', '.join(there)}"
        ]
        return Usage(f"no such command{called}", f"{path} {near[0]}")
    near = difflib.get_close_matches(word, [*there, *MEANT], 1, 0.7)
    meant = MEANT.get(word) or (MEANT.get(near[0], near[0]) if near else None)
    if not meant:
        return Usage(f"no such command{called}", "avault --help")
    names = [name for name in rest[: 2 if meant == "mv" else 1] if is_name(name, meant)]
    return Usage(f"no such command{called}", " ".join(["avault", meant, *names]))


def is_name(word: str, command: str) -> bool:
    """Whether a word is the name of a secret.

    Where a command takes secrets too, only a GROUP/KEY is taken for one.
    """
    try:
        _, key = split_name(word, None)
    except Usage:
        return False
    return command in ("list", "get", "delete", "mv") or (command == "set" and key is not None)


def build_commands(words: Iterable[str]) -> click.Group:
    """click's commands: those that `words` begin with; all where they name none."""
    chosen = {name for name in COMMANDS if name.partition(" ")[0] in words} or set(COMMANDS)

    class HandWritten(click.Command):
        """A command whose help is its function's docstring, as it stands there.

        What it refuses of a command line it does not repeat: it may be a secret.
        """

        def make_parser(self, context: click.Context) -> Any:
            parser = super().make_parser(context)
            parse = parser.parse_args

            def parse_once(
                args: list[str],
            ) -> tuple[dict[str, Any], list[str], list[click.Parameter]]:
                found, rest, order = parse(args)
                for each in order:
                    if (
                        isinstance(each, click.Option)
                        and not (each.multiple or each.is_flag)
                        and order.count(each) > 1
                    ):
                        raise click.UsageError(f"{each.opts[0]} is given more than once", context)
                return found, rest, order

            parser.parse_args = parse_once  # type: ignore[method-assign]
            return parser

        def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
            context.allow_extra_args = True
            try:
                super().parse_args(context, args)
            except click.UsageError as error:
                error.ctx = error.ctx or context
                raise
            if context.args and self.name == "set":
                raise no_argument()
            if context.args:
                raise click.UsageError("unexpected extra argument", context)
            return context.args

        def get_help(self, context: click.Context) -> str:
            import inspect

            # Python 3.13 and later take the indentation away themselves
            put(inspect.cleandoc(self.help or "") + "\n")
            context.exit()

    class Group(click.Group):
        """A group whose help is the page HELP of cli/terminal."""

        def get_help(self, context: click.Context) -> str:
            put(HELP if context.parent is None else self.list_pages())
            context.exit()

        def list_pages(self) -> str:
            """How each command of a group is called, and what it does."""
            shown = ""
            for each in self.commands.values():
                usage, _, prose = (each.help or "").partition("\n\n")
                about = " ".join(prose.split()).split(". ")[0].rstrip(".")
                shown += f"{usage}\n    {about}\n"
            return shown

        def resolve_command(self, context: click.Context, words: list[str]) -> Any:
            """The command of that name; raises Usage, which leads to the one that may be meant."""
            if words[0] in self.commands:
                return super().resolve_command(context, words)
            call.directory = context.find_root().params["dir"]
            there = list(self.commands)
            if context.parent is None:
                there = list(dict.fromkeys(name.partition(" ")[0] for name in COMMANDS))
            raise no_command(words, there, context.command_path)

    def remember(context: click.Context, directory: str | None) -> None:
        """Note how this command was called, for its hints."""
        import shlex

        call.directory, call.name = directory, context.command_path.removeprefix("avault ")
        for parameter in context.command.params:
            value, name = context.params.get(parameter.name or ""), parameter.opts[0]
            is_plain = (
                isinstance(parameter, click.Option)
                and not parameter.is_flag
                and name not in call.UNSAID
            )
            if (
                is_plain
                and value
                and context.get_parameter_source(parameter.name)
                is click.core.ParameterSource.COMMANDLINE
            ):
                values = value if isinstance(value, tuple) else [str(value)]
                call.options[name] = f" {name} ".join(map(shlex.quote, values))

    def run(name: str, function: Callable[..., int]) -> Callable[..., int]:
        def run_it(**settings: Any) -> int:
            context = click.get_current_context()
            parent = context.find_root().params
            directory = settings.pop("dir") or parent["dir"]
            want_json = settings.pop("json") or parent["json"]
            remember(context, directory)
            creating = name == "init" or bool(settings.get("from_relays"))
            code = function(Terminal(directory, want_json, creating), **settings)
            if want_json and code == 0 and not _has_put:
                put('{"ok": true}\n')
            return code

        return run_it

    everywhere = (option("--dir"), option("--json", is_flag=True))
    root = Group(
        "avault",
        params=[make() for make in everywhere],
        callback=lambda **_: None if click.get_current_context().invoked_subcommand else put(HELP),
        context_settings={"help_option_names": ["-h", "--help"]},
        invoke_without_command=True,
    )
    click.version_option(__version__, prog_name="avault", message="%(prog)s %(version)s")(root)
    for name in (each for each in COMMANDS if each in chosen):
        function, parameters, interspersed = COMMANDS[name]
        first, _, second = name.partition(" ")
        group = root
        if second:
            group = root.commands.setdefault(first, Group(first))  # type: ignore[assignment]
        made = [make() for make in (*parameters, *everywhere)]
        settings = {"allow_interspersed_args": interspersed}
        group.add_command(
            HandWritten(second or first, settings, run(name, function), made, help=function.__doc__)
        )
    return root


@command("help", argument("words", nargs=-1))
def cmd_help(terminal: Terminal, words: tuple[str, ...]) -> int:
    """usage: avault help [CMD]…

    All commands, or what one of them does, as --help says it.

      avault help daemon start
    """
    build_commands(words).main([*words, "--help"], "avault", standalone_mode=False)
    return 0


def run_command(argv: list[str]) -> int:
    """Run a command through click; its exit code, errors said as they should be."""
    own = own_words(argv)
    use_right_interpreter(argv, own)
    want_json = "--json" in own
    try:
        try:
            return int(build_commands(own).main(argv, "avault", standalone_mode=False) or 0)
        except click.exceptions.NoArgsIsHelpError as error:
            put(error.format_message() + "\n")
            return Usage.exit_code
        except click.ClickException as error:
            text = error.format_message().rstrip(".")
            if isinstance(error, click.NoSuchOption) and not error.possibilities:
                # it is not like one that there is, and may be a secret that begins with a -
                text = "no such option"
            where = (
                error.ctx.command_path
                if isinstance(error, click.UsageError) and error.ctx
                else "avault"
            )
            raise Usage(text[:1].lower() + text[1:], f"{where} --help") from None
        except (KeyboardInterrupt, click.Abort):
            if call.farewell:
                say(call.farewell)
            return 130
        except Exception as error:
            raise complain(error) from None
    except AvaultError as error:
        want_json = want_json and not error.message.startswith("cannot write the output")
        say_error(error.code, error.message, error.hint, want_json)
        return error.exit_code  # of a command that cannot be run, a shell's


def own_words(argv: list[str]) -> list[str]:
    """The words of a command line that are avault's; after `run` they are another command's.

    So they are after the `--` of others.
    """
    for index, word in enumerate(argv):
        if word[:1] != "-" and argv[index - 1 : index] != ["--dir"]:
            if word not in ("run", "grant", "fleet", "proxy"):
                return argv
            end = index + 1 if word == "run" else len(argv)
            return argv[: argv.index("--") if "--" in argv else end]
    return argv


def use_right_interpreter(argv: list[str], own: list[str]) -> None:
    """Go on under the interpreter that `init` recorded, where this one lacks what avault needs."""
    from importlib.util import find_spec

    if all(find_spec(name) for name in ("click", "nostr_sdk")):
        return
    words = [word for argument in own for word in argument.split("=", 1)]
    given = next(
        (words[index + 1] for index, word in enumerate(words[:-1]) if word == "--dir"), None
    )
    try:
        python = read_record(Places(given).own("python"))
        if python and python != sys.executable:
            os.execv(python, [python, "-P", os.path.realpath(__file__), *argv])  # noqa: S606
    except (OSError, ValueError, NoPlace):  # what is recorded is no program, or no path
        pass
    write_all(2, b"avault: error: this Python has no click or no nostr-sdk\n")
    write_all(2, b"avault: hint: pip install . in its folder, or uv run\n")
    os._exit(AvaultError.exit_code)


def leave(code: int) -> NoReturn:
    """End this process: at once, where the Nostr library is.

    Its callbacks can crash an interpreter that ends in the usual way.
    """
    if "nostr_sdk" in sys.modules:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def main() -> NoReturn:
    """What the room `fast` left: one of our own processes, or a command by way of click."""
    argv = sys.argv[1:]
    if argv[:1] == ["custodian"]:
        main_custodian(argv[1:])
    if argv[:1] == ["trial"]:
        main_trial(argv[1:])
    if argv[:1] == ["signing"]:
        main_signing(argv[1:])
    if argv[:1] == ["ssh-agent"]:
        main_ssh_agent(argv[1:])
    if argv[:1] == ["nostr"]:
        main_nostr_front(argv[1:])
    if argv[:1] == ["proxy-session"]:
        main_proxy(argv[1:])
    if argv[:1] == ["runner"]:
        main_runner(argv[1:])
    if argv[:1] == ["opener"]:
        main_opener(argv[1:])
    if argv[:1] == ["keyholder"]:
        main_keyholder(argv[1:])
    if argv[:1] == ["supervisor"]:
        main_supervisor(argv[1:])
    leave(run_command(argv))


if __name__ == "__main__":
    main()
