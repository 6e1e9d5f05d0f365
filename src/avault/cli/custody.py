"""avault custody: the other ways to open the vault than the phone.

The commands ask the daemon; no key passes through them, and no passphrase: a custodian's helper
asks at this terminal itself.
"""

from __future__ import annotations

import json
import os
import termios
from typing import TYPE_CHECKING

from avault.custody.kinds import EXTRA_KINDS, KINDS
from avault.errors import Denied, Usage, printable
from avault.keys.custodian import raise_outcome
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import confirm, put, put_table, say, warn
from avault.terminal.terminal import Terminal
from avault.vault.names import PHONE
from avault.vault.presence import need_vault

if TYPE_CHECKING:
    from typing import Any


class Person:
    """Where a custodian's helper asks the person: fields of a request, for the length of a `with`.

    The terminal is left as it was. `answers` is a file that answers instead.
    """

    def __init__(self, answers: str | None = None) -> None:
        self.fields: dict[str, Any] = {"directory": os.getcwd()}
        self.fd = next((each for each in (0, 2) if os.isatty(each)), None)
        if answers:
            warn(f"whoever reads {answers} has what it says")
            self.fields["answers"] = os.path.abspath(answers)

    def __enter__(self) -> dict[str, Any]:
        if self.fd is not None:
            self.modes = termios.tcgetattr(self.fd)
            self.fields["terminal"] = os.ttyname(self.fd)
        return self.fields

    def __exit__(self, *_: object) -> None:
        if self.fd is not None:
            termios.tcsetattr(self.fd, termios.TCSANOW, self.modes)


def manage(terminal: Terminal, action: str, answers: str | None = None, **fields: Any) -> Any:
    """What the daemon answers to an action on custodians."""
    if not terminal.is_running():
        need_vault(terminal.places)
        if action != "add":  # which needs an open vault
            terminal.need_daemon()
    with Person(answers) as person:
        return terminal.ask("custody", action=action, progress=show_code, **person, **fields)


def show_code(step: dict[str, Any]) -> None:
    """Say what the phone is asked: it shows the same code."""
    if step["progress"] == "asking":
        say(f"the phone is asked, code {step['code']}")


def show(terminal: Terminal, fields: dict[str, Any]) -> int:
    """Print an answer where JSON is wanted; the exit code of success."""
    if terminal.want_json:
        put(json.dumps(fields, indent=2, ensure_ascii=False) + "\n")
    return 0


def parse_settings(words: tuple[str, ...]) -> dict[str, str]:
    """SETTING=VALUE words; raises Usage."""
    pairs = [word.partition("=") for word in words]
    if wrong := next((name for name, mark, _ in pairs if not mark or not name), None):
        raise Usage(f"not SETTING=VALUE: {wrong}", "as in: avault custody add openbao key=avault")
    settings = {name.replace("_", "-"): value for name, _, value in pairs}
    if len(settings) < len(words):
        raise Usage("a setting is named twice")
    return settings


@command(
    "custody add",
    argument("kind", required=False),
    argument("settings", nargs=-1),
    option("--name"),
    option("--need"),
    option("--of"),
    option("--replace", is_flag=True),
    option("--shared", is_flag=True),
    option("--yes", is_flag=True),
    option("--passphrase-file"),
)
def cmd_custody_add(
    terminal: Terminal,
    kind: str | None,
    settings: tuple[str, ...],
    name: str | None,
    need: str | None,
    of: str | None,
    replace: bool,
    shared: bool,
    yes: bool,
    passphrase_file: str | None,
) -> int:
    """usage: avault custody add KIND [SETTING=VALUE]... [--name NAME] [--replace]
                          [--shared] [--need N --of KIND[:NAME],...]
                          [--passphrase-file FILE] [--yes]

    Lets a custodian open the vault on this machine: it keeps a key that is made
    for it, and never has the agent's key or a secret. The vault must be open. It
    asks first (--yes does not), then the phone has to agree; then the custodian
    is tried, and counts only if it opened the vault. --replace takes the place
    of one that has the name already. references/custody.md has the kinds, their
    settings, and who then opens the vault with what. --need and --of are settings
    of a quorum, and of paper. --shared is for all machines of the vault: it puts
    what the custodian opens into the vault directory, signed by the agent; other
    machines use it by: avault custody take, or avault recover --with NAME.

      avault custody add keychain
      avault custody add passphrase
      avault custody add openbao address=https://bao.example:8200 key=avault
      avault custody add aws-kms key=alias/fleet --shared
      avault custody add quorum --need 2 --of openbao,keychain,passphrase
    """
    given = {"need": need, "of": of}
    settings += tuple(f"{each}={value}" for each, value in given.items() if value is not None)
    if kind is None:
        raise Usage("which kind?", f"one of: {', '.join((*KINDS, *EXTRA_KINDS))}")
    name = name or kind
    where = "a copy of the vault's directory, as git has it," if shared else "this disk,"
    meaning = (
        f"{name} is to open this vault without the phone{' on EVERY machine' * shared}."
        f" Whoever has what it asks for, and {where} then opens the vault without you"
    )
    if not yes and not confirm(f"avault: {meaning}. Add it?"):
        raise Denied("not confirmed; nothing was changed", f"avault custody add {kind} --yes")
    say("asking the operator whether that is meant; then the custodian is tried")
    fields = {"kind": kind, "name": name, "settings": parse_settings(settings), "replace": replace}
    answer = manage(terminal, "add", passphrase_file, shared=shared, **fields)
    say(f"{name} opens this vault from now on{'' if answer['asks'] else ', and asks nobody'}")
    if shared:
        say(f"for all machines: {terminal.places.file(f'custody-{name}.json')}")
        say(f"hint: on another machine, once git has brought it: avault custody take {name}")
    return show(terminal, answer)


@command("custody list")
def cmd_custody_list(terminal: Terminal) -> int:
    """usage: avault custody list [--json]

    What may open this vault on this machine, in the order in which it is tried:
    whether it is shared with other machines, whether it is there now, whether it
    asks a person, and when it last opened the vault. Nobody is asked. Below that
    is what another machine has shared, and this one does not use. A phone is named
    with the npub of the operator whose it is.
    """
    answer = manage(terminal, "list")
    if terminal.want_json:
        return show(terminal, answer)
    rows = [("", "NAME", "KIND", "FOR", "ASKS", "LAST OPENED", "NOW")]
    for place, each in enumerate(answer["custodians"], 1):
        asks = {True: "a person", False: "nobody", None: "?"}[each["asks"]]
        now = each["said"] if each["outcome"] == "ok" else f"{each['outcome']}: {each['said']}"
        opened = each["opened"] or "never"
        where = "all machines" if each["shared"] else "here"
        if each.get("operator"):
            now = f"the phone of {each['operator'][:16]}…: {now}"
        rows.append((str(place), each["name"], each["kind"] or "?", where, asks, opened, now))
    for each in answer["offered"]:
        now = each["why"] or f"not used here; to use it: avault custody take {each['name']}"
        asks = {True: "a person", False: "nobody", None: "?"}[each.get("asks")]
        rows.append(("-", each["name"], each.get("kind") or "?", "all machines", asks, "", now))
    put_table(rows)
    return 0


@command("custody test", argument("name"), option("--passphrase-file"))
def cmd_custody_test(terminal: Terminal, name: str, passphrase_file: str | None) -> int:
    """usage: avault custody test NAME [--passphrase-file FILE]

    Opens the vault with a custodian, in a process of its own that is thrown away
    at once. What is open or locked stays so.
    """
    if name == PHONE:
        raise Usage("the phone is tried by: avault drill")
    answer = manage(terminal, "test", passphrase_file, name=name)
    say(f"{name} opens this vault")
    return show(terminal, answer)


def show_told(name: str, about: dict[str, Any]) -> None:
    """Say what a custodian is that another machine has shared, and what it is told."""
    say(f"{name} is a custodian of the kind {printable(about['kind'])}, and is told:")
    for setting, value in sorted(about["settings"].items()):
        say(f"  {printable(setting)}={printable(value, 10_000)}")


@command(
    "custody take",
    argument("name"),
    option("--passphrase-file"),
    option("--yes", is_flag=True),
)
def cmd_custody_take(terminal: Terminal, name: str, passphrase_file: str | None, yes: bool) -> int:
    """usage: avault custody take NAME [--passphrase-file FILE] [--yes]

    Shows what it is, and asks (--yes does not). Then this machine uses a custodian
    that another has shared, and git brought: if the vault's agent has signed it,
    and it opens the vault. Until then git has no say in what opens it here; nor
    later, as this machine has its own copy. Do it again where `custody list` says
    that another has taken its place.

      avault custody take aws-kms
    """
    for each in manage(terminal, "list")["offered"]:
        if each["name"] == name and not each["why"]:
            show_told(name, each)
    if not yes and not confirm(f"avault: {name} is to open this vault on this machine. Use it?"):
        raise Denied("not confirmed; nothing was changed", f"avault custody take {name} --yes")
    answer = manage(terminal, "take", passphrase_file, name=name)
    say(f"{name} opens this vault from now on{'' if answer['asks'] else ', and asks nobody'}")
    return show(terminal, answer)


@command("custody order", argument("names", nargs=-1))
def cmd_custody_order(terminal: Terminal, names: tuple[str, ...]) -> int:
    """usage: avault custody order NAME...

    In which order the custodians are tried; each has to be named once, the phone
    as well. What stands behind the phone is tried only by name: avault unlock
    --with NAME.

      avault custody order openbao phone passphrase
    """
    return show(terminal, manage(terminal, "order", order=list(names)))


@command(
    "custody remove",
    argument("name"),
    option("--here", is_flag=True),
    option("--yes", is_flag=True),
)
def cmd_custody_remove(terminal: Terminal, name: str, here: bool, yes: bool) -> int:
    """usage: avault custody remove NAME [--here] [--yes]

    Takes away a custodian's key, and what that opens. The last one that opens
    the vault stays. To take the phone out, the phone has to agree, and another
    custodian has to open the vault. A shared one goes for all machines, if the
    phone agrees: the vault knows it then, and others leave it at their next unlock.
    git history keeps what was in the vault directory. --here has only this machine
    use it no more, and asks nobody.
    """
    if not yes and not confirm(f"avault: {name} is to open this vault no more. Remove it?"):
        raise Denied("not confirmed; nothing was changed", f"avault custody remove {name} --yes")
    answer = manage(terminal, "remove", name=name, here=here)
    if answer.get("shared") and not here:
        warn(
            f"git history keeps what {name} opened: whoever has that, and what {name} asks for,"
            " has the agent's key, also tomorrow",
            "end its key there; a new agent's key ends it here: avault rotate agent",
        )
    if answer.get("outcome") not in ("ok", "not_found"):
        say(f"removed: {name}")
        message = f"{name} opens nothing any more, but still has its key: {{}}"
        hint = "take it away there" + ("" if answer.get("shared") else "; it is worth nothing")
        raise_outcome(answer, message, hint)
    say(f"removed: {name}")
    return show(terminal, answer)


@command(
    "custody move",
    argument("old"),
    argument("kind"),
    argument("settings", nargs=-1),
    option("--name"),
    option("--shared", is_flag=True),
    option("--yes", is_flag=True),
    option("--passphrase-file"),
)
def cmd_custody_move(
    terminal: Terminal,
    old: str,
    kind: str,
    settings: tuple[str, ...],
    name: str | None,
    shared: bool,
    yes: bool,
    passphrase_file: str | None,
) -> int:
    """usage: avault custody move OLD KIND [SETTING=VALUE]... [--name NAME] [--shared]
                           [--yes] [--passphrase-file FILE]

    Puts a custodian in the place of another: the new one is added, and has
    opened the vault, before the old one goes. Cut off at any point, one of the
    two opens it.

      avault custody move keychain openbao address=https://bao.example:8200 key=avault
    """
    if (name or kind) == old:
        raise Usage("both would have one name", "name the new one: --name NAME")
    names = [each["name"] for each in manage(terminal, "list")["custodians"]]
    if old not in names:
        raise Usage(f"there is no custodian {old}", f"these are: {' '.join(names)}")
    cmd_custody_add(terminal, kind, settings, name, None, None, False, shared, yes, passphrase_file)
    return cmd_custody_remove(terminal, old, False, True)
