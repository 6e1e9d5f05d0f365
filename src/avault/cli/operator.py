"""avault operator: who may approve for a vault, besides the one that it was made for."""

from __future__ import annotations

from avault.cli.custody import manage, show
from avault.errors import Denied
from avault.keys.nostr import parse_npub, to_npub
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import confirm, put, say
from avault.terminal.terminal import Terminal


@command("operator list")
def cmd_operator_list(terminal: Terminal) -> int:
    """usage: avault operator list [--json]

    Who may approve for this vault, and whether this machine asks their phones.
    The vault has to be open.
    """
    terminal.ask("list")  # raises what is wrong, where it is not open
    status = terminal.ask("status")
    operators = {None: status["first_operator"], **status["operators"]}
    mine, custodians = status["signer_npub"], status["custodians"]
    rows = [
        {"name": name, "npub": npub, "asked_here": npub == mine or name in custodians}
        for name, npub in operators.items()
    ]
    if terminal.want_json:
        return show(terminal, {"operators": rows})
    for each in rows:
        here = "asked here" if each["asked_here"] else "not asked here"
        put(f"{each['name'] or '(first)'}  {each['npub']}  {here}\n")
    return 0


@command("operator add", argument("npub"), option("--name"), option("--yes", is_flag=True))
def cmd_operator_add(terminal: Terminal, npub: str, name: str | None, yes: bool) -> int:
    """usage: avault operator add NPUB --name NAME [--yes]

    Lets another person approve for this vault: nsec.enc gets an envelope of
    theirs too, so that they can recover it, and each machine may ask their phone
    beside yours. It asks first (--yes does not), then your phone has to agree.
    Then pair their phone with each machine that is to ask it.

      avault operator add npub1… --name alice
      avault custody add phone --name alice operator=npub1…
    """
    npub = to_npub(parse_npub(npub))
    name = name or npub[5:13]
    meaning = f"{name} is to open this vault as you do, wherever it is, and can recover it"
    if not yes and not confirm(f"avault: {meaning}. Add {npub}?"):
        raise Denied("not confirmed; nothing was changed", f"avault operator add {npub} --yes")
    answer = manage(terminal, "admit", name=name, npub=npub)
    say(f"{name} is an operator of this vault")
    say(f"hint: pair their phone: avault custody add phone --name {name} operator={npub}")
    return show(terminal, answer)


@command("operator remove", argument("name"), option("--yes", is_flag=True))
def cmd_operator_remove(terminal: Terminal, name: str, yes: bool) -> int:
    """usage: avault operator remove NAME [--yes]

    Has a person approve no more, on any machine. Your phone has to agree. What
    that person has opened once, they may have kept: an old nsec.enc, from git,
    still opens for them. Only a new agent key shuts them out.
    """
    if not yes and not confirm(f"avault: {name} is to approve for this vault no more. Go on?"):
        raise Denied("not confirmed; nothing was changed", f"avault operator remove {name} --yes")
    answer = manage(terminal, "dismiss", name=name)
    say(f"{name} approves no more; an old nsec.enc still opens for them, and with it what is there")
    return show(terminal, answer)
