"""avault machine: the machines that a vault is on."""

from __future__ import annotations

from avault.cli.custody import Person, show, show_code
from avault.errors import Denied, printable
from avault.signer.pairing import shorten_key
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import confirm, put_table, say, warn
from avault.terminal.terminal import Terminal


@command("machine list")
def cmd_machine_list(terminal: Terminal) -> int:
    """usage: avault machine list [--json]

    The machines that this vault is on: what each calls itself, the client key of
    its pairing as signer apps show it, when it was first seen, how often it has
    written, and which one is this. It is the vault's own list: a machine enters
    itself when it opens the vault. One that never did, or was given the agent's
    key, is not in it.
    """
    answer = terminal.ask("machines")
    if terminal.want_json:
        return show(terminal, {"ok": True, "machines": answer["machines"]})
    rows = [("HOST", "ID", "FIRST SEEN", "WRITES", "CLIENT KEY")]
    for each in answer["machines"]:
        host = f"{each['host'] or '?'}{' (this one)' if each['this'] else ''}"
        key = shorten_key(each["client_key"]) if each["client_key"] else "not paired"
        rows.append((host, each["id"], each["first_seen"] or "?", str(each["writes"]), key))
    put_table(rows)
    return 0


@command("machine remove", argument("name"), option("--yes", is_flag=True))
def cmd_machine_remove(terminal: Terminal, name: str, yes: bool) -> int:
    """usage: avault machine remove NAME [--yes]

    Takes a machine off the vault's list, by its host or its id: one that was lost,
    or sold. The phone has to agree. It says which connection to delete in the
    signer app, without which the machine asks the phone as before. What it has
    read it still has: avault rotate report lists that.

      avault machine remove clawd@old-laptop
    """
    warning = "what it has read, and a copy of the vault, it still has"
    if not yes and not confirm(f"avault: {name} is to go from this vault; {warning}. Remove it?"):
        raise Denied("not confirmed; nothing was changed", f"avault machine remove {name} --yes")
    say("asking the operator whether that is meant")
    with Person() as person:
        answer = terminal.ask("rotate", action="remove", name=name, progress=show_code, **person)
    say(f"removed: {printable(answer['host'] or answer['id'])}")
    if key := answer["client_key"]:
        say(f"delete its connection in the signer app, shown as {shorten_key(key)}")
    else:
        say("it has no pairing that this vault knows; look for its connection in the signer app")
    warn(
        "what it has read it still has; new values make the old ones worthless",
        "which these are: avault rotate report",
    )
    return show(terminal, {"ok": True, **answer})
