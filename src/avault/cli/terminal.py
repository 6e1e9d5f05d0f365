"""What commands have in common, and the page of help.

Data goes to stdout; talk goes to stderr, as `avault: …`, lower case, without a full stop. Each
command's docstring is its help, laid out by hand.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import click

from avault.client import ask_daemon
from avault.daemon.start import start_daemon
from avault.errors import AvaultError, Denied, Unavailable, Usage, printable
from avault.fast import FastConnection, call, write_all
from avault.places import Places
from avault.systemd import NoDaemon, explain_absence, hasten_service
from avault.vault.files import owner_of
from avault.vault.records import DIGITS, KEY_CHARACTERS, check_group, check_key
from avault.vault.store import need_vault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


HELP = """\
avault keeps an agent's secrets, and opens them with the operator's phone.

usage: avault [--dir DIR] [--json] COMMAND …

begin
  init          make a vault and the agent's key, and pair with the phone
  pair          pair this machine with a signer, and try the drill
  recover       open a copy of a vault on a new machine
  demo          see all of it in a minute, with a phone in the terminal

every day
  set           keep a secret          avault set openai --key API_KEY
  get           print a secret         avault get openai/API_KEY
  has           ask by exit code       avault has openai/API_KEY
  list          names, notes, times    avault list
  edit          change one by hand     avault edit openai/API_KEY
  mv            give another name      avault mv openai/KEY openai/API_KEY
  delete        take a secret away     avault delete openai/API_KEY
  export        all as variables       vars=$(avault export --shell --wait) && eval "$vars"
  run           a command with them    avault run --only API_KEY -- my-agent
  inject        fill in a template     avault inject -i config.tmpl -o config.json
  wait          until the vault is open

the daemon
  daemon start  serve; asks the phone  avault daemon start -b
  daemon stop   end it
  status        what it does           (also: avault daemon status)
  unlock        ask the phone, and wait for the operator
  lock          forget the secrets

getting in, looking after
  migrate       take the secrets out of ~/.profile
  import        take them from .env, JSON, CSV, ~/.aws/credentials, ~/.netrc, …
  audit         what still stands in clear in shell files, .env and units
  scan          the vault's values in a working tree, or in what is staged
  drill         see whether the phone asks you before it opens
  log           who got what, and when
  history       what changed, by commit
  restore       a secret as it was in a commit
  sync          fetch, merge and push the vault's repository
  doctor        what is wrong, and the command that mends it

this machine
  service install|uninstall|status     a systemd unit that asks at boot
  keychain enable|disable|status       open without the phone, by the login keychain
  completion    for bash, zsh and fish
  help          what a command does    avault help set
  version
  forget        remove all of this vault from this machine but the vault
  signer        a phone in a terminal: a NIP-46 bunker

openclaw and other agents
  openclaw plan|install|uninstall|status|unlock|chats
  openclaw-provider                    secrets by reference
  mcp           an MCP server: tools that use secrets, and never show one

exit codes: 0 done, 1 error, 2 usage, 3 locked, 4 not found, 5 denied,
6 no daemon or relay, 7 nobody answered, 8 damaged or rolled back

avault COMMAND --help says more. --dir names the vault directory; else
$AVAULT_DIR, $WORKSPACE/.avault, ~/clawd/.avault, ~/.openclaw/workspace/.avault.
"""

COMMANDS: dict[str, tuple[Callable[..., int], tuple[Callable[[], click.Parameter], ...], bool]] = {}
ELSEWHERE = {  # the first word of a command that is not here: avault_NAME.py has it
    "init": "pair", "pair": "pair", "drill": "pair", "recover": "pair", "run": "run", "inject": "inject", "migrate": "import",
    "import": "import", "audit": "import", "scan": "scan", "log": "log", "git": "git", "sync": "git", "history": "git",
    "restore": "git", "keychain": "keychain", "forget": "keychain", "service": "service", "doctor": "doctor",
    "completion": "completion", "signer": "signer", "demo": "demo", "openclaw": "openclaw",
    "openclaw-provider": "openclaw", "mcp": "mcp", "edit": "edit",
}  # fmt: skip


def command(
    name: str, *parameters: Callable[[], click.Parameter], interspersed: bool = True
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Register a function as a command; click sees it when a command is run.

    One that is not `interspersed` takes no option after its first argument, as that is somebody else's command.
    """

    def register(function: Callable[..., int]) -> Callable[..., int]:
        COMMANDS[name] = function, parameters, interspersed
        return function

    return register


def load_commands(words: Iterable[str]) -> None:
    """Import what has the commands of these names, from beside this file or from scripts/ there; raises Unavailable."""
    from importlib import import_module

    # this very file, when it is run by its path
    sys.modules.setdefault("avault", sys.modules[__name__])
    here = os.path.dirname(os.path.realpath(__file__))
    sys.path += [path for path in (here, os.path.join(here, "scripts")) if path not in sys.path]
    for name in dict.fromkeys(ELSEWHERE[word] for word in words if word in ELSEWHERE):
        try:
            import_module(f"avault_{name}")
        except ModuleNotFoundError as error:
            if error.name != f"avault_{name}":
                raise
            raise Unavailable(
                f"avault_{name}.py is not here", "keep scripts/ beside avault.py, or: pip install ."
            ) from None


def option(*names: str, **settings: Any) -> Callable[[], click.Parameter]:
    """An option, to be made when click is there."""
    return lambda: click.Option(names, **settings)


def argument(name: str, **settings: Any) -> Callable[[], click.Parameter]:
    """An argument, to be made when click is there."""
    return lambda: click.Argument([name], **settings)


def say(text: str) -> None:
    """Talk to the person, on stderr."""
    print(f"avault: {call.complete(text)}", file=sys.stderr, flush=True)


def warn(text: str, hint: str | None = None) -> None:
    """Say what should not be so, and what to do about it."""
    say(f"warning: {text}")
    if hint:
        say(f"hint: {hint}")


_has_put = False


def put(text: str) -> None:
    """Write data to stdout, at once; raises AvaultError."""
    global _has_put
    _has_put = True
    try:
        write_all(1, text.encode("utf-8", "backslashreplace"))
    except BrokenPipeError:
        sys.exit(141)  # what a shell reports for SIGPIPE
    except OSError as error:
        raise AvaultError(f"cannot write the output: {error.strerror}") from None


def parse_duration(text: str | None) -> float | None:
    """Seconds of `90`, `90s`, `5m`, `8h` or `7d`; None for None. Raises Usage."""
    if text is None:
        return None
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    if (
        not number.isascii()
        or not number.isdigit()
        or len(number) > 9
        or int(number) * unit > 10**9
    ):
        raise Usage(f"not a duration: {printable(text)!r}", "as in 90, 90s, 5m, 8h, 7d")
    return float(int(number) * unit)


def split_name(group: str, key: str | None, word: str | None = None) -> tuple[str, str | None]:
    """GROUP and KEY of `GROUP --key KEY`, `GROUP/KEY`, or of `GROUP KEY`, where `word` is that KEY; raises Usage."""
    name, slash, rest = group.partition("/")
    if sum(map(bool, (slash, key is not None, word is not None))) > 1:
        raise Usage(
            "the key is named twice",
            f"avault {call.name or 'get'} {printable(group)}, or with --key alone",
        )
    if word is not None and (word[0] in DIGITS or not set(word) <= KEY_CHARACTERS):
        raise Usage("the second word is no key's name", f"avault get {printable(name)}/KEY")
    key = rest if slash else key if word is None else word
    return check_group(name), None if key is None else check_key(key)


def confirm(question: str) -> bool:
    """Ask on a terminal; without one the answer is no."""
    if not sys.stdin.isatty():
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def find_owner(directory: str) -> str | None:
    """The account that a directory belongs to, if that is not ours; under sudo, of one that is not there, who called it."""
    place = directory
    while True:
        try:
            is_ours = os.stat(place).st_uid == os.getuid()
            return (
                None
                if is_ours or (place != directory and owner_of(place) == "root")
                else owner_of(place)
            )
        except PermissionError:
            place = os.path.dirname(place)
        except FileNotFoundError:
            return os.environ.get("SUDO_USER") if os.getuid() == 0 else None
        except OSError:
            return None


def refuse_elses(places: Places) -> None:
    """Raise Denied where the vault is another account's, as under sudo: its daemon answers that one alone."""
    if owner := find_owner(places.dir):
        raise Denied(
            f"{places.dir} is {owner}'s, and its daemon answers nobody else",
            f"as {owner}: avault status",
        )


def is_person() -> bool:
    """Whether somebody types this at a terminal: a matter of manners, which secures nothing."""
    return sys.stdin.isatty() and sys.stderr.isatty()


class Terminal:
    """What every command is given: the places, and whether `--json` was asked for."""

    def __init__(self, directory: str | None, want_json: bool, creating: bool = False) -> None:
        self.places = Places(directory, creating)
        self.want_json = want_json

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """One request to the daemon; says so where there is no vault at all."""
        try:
            return ask_daemon(self.places, op, **fields)
        except NoDaemon:
            raise self.no_daemon() from None

    def no_daemon(self) -> AvaultError:
        """Why nobody listens: there is no vault, we may not look, or the daemon does not run."""
        try:
            if os.path.isdir(self.places.dir):
                refuse_elses(self.places)
            need_vault(self.places)
        except AvaultError as reason:
            return reason
        return explain_absence(self.places)

    def is_running(self) -> bool:
        """Whether a daemon listens."""
        try:
            FastConnection(self.places).socket.close()
        except OSError:
            return False
        return True

    def need_daemon(self) -> None:
        """Start a daemon that asks nobody, unless one runs, or systemd is about to start its own."""
        try:
            if not self.is_running() and not hasten_service(self.places):
                start_daemon(self.places, background=True)
        except Unavailable as error:
            self.wait_daemon(error)

    def wait_daemon(self, error: Unavailable) -> None:
        """Wait for a daemon that somebody else starts just now; raises the error of our own start if none comes."""
        end = time.monotonic() + 5
        while not self.is_running():
            if time.monotonic() > end:
                raise error
            time.sleep(0.05)
