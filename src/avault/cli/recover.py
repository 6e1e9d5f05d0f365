"""avault recover: a copy of a vault, opened on a machine that never had it."""

from __future__ import annotations

import os
import sys

from avault.cli.ceremony import Ceremony, read_bunker
from avault.cli.custody import Person, parse_settings, show_told
from avault.cli.pair import PAIRING, add_first
from avault.cli.retrieve import recover_from_relays
from avault.client import ask_daemon
from avault.custody.prompt import Prompt
from avault.custody.shared import Shared
from avault.errors import AvaultError, Denied, NotFound, Tampered, Usage
from avault.keys.nostr import parse_npub, to_npub
from avault.places import Places
from avault.terminal.commands import command, option
from avault.terminal.talk import confirm, say
from avault.terminal.terminal import Terminal
from avault.terminal.waiting import Waiting
from avault.terminal.words import parse_duration
from avault.vault.presence import as_operator, is_file_there, read_sealed
from avault.vault.statements import succeed_known


@command(
    "recover",
    option("--agent"),
    option("--signer-npub"),
    option("--operator-key"),
    option("--from-relays"),
    option("--accept-rollback", is_flag=True),
    option("--with", "custodian"),
    option("--setting", "settings", multiple=True),
    option("--passphrase-file"),
    *PAIRING,
)
def cmd_recover(
    terminal: Terminal,
    agent: str | None,
    signer_npub: str | None,
    operator_key: str | None,
    from_relays: str | None,
    accept_rollback: bool,
    custodian: str | None,
    settings: tuple[str, ...],
    passphrase_file: str | None,
    bunker: str | None,
    relays: tuple[str, ...],
    qr: str | None,
    timeout: str,
    no_drill: bool,
) -> int:
    """usage: avault recover [--agent NPUB --signer-npub NPUB] [--bunker URI|-] [--relay URL]…
                      [--qr FILE.png] [--timeout D] [--no-drill]
           avault recover [--agent NPUB --signer-npub NPUB] --with NAME
                      [--passphrase-file FILE] [--timeout D]
           avault recover [--agent NPUB --signer-npub NPUB] --operator-key -
                      [--with KIND [--setting SETTING=VALUE]…]
           avault recover --from-relays NPUB|NPROFILE|- [--relay URL]… [--bunker URI|-]
                      [--signer-npub NPUB] [--accept-rollback] [--qr FILE.png]
                      [--timeout D] [--no-drill]

    Opens a copy of a vault directory on a machine that never had it: pairs, has
    the phone open nsec.enc, and writes what this machine needs from then on.
    Compare the two npubs with what you know: this machine has nothing to
    compare them with. --operator-key - reads the operator's own key instead,
    from the terminal or stdin: the one of a recovery kit. It also opens a vault
    that this machine knows, and whose custodian is gone; --with lets another one
    open it from then on. Without --operator-key, --with opens the vault with a
    custodian that another machine has shared (see: avault custody add --help), and
    shows what it is before it asks. Where another machine has rotated the agent's key, this one
    goes over to the new key, by the pairing that it has.

    --from-relays needs no copy: it fetches the vault of the agent with that npub
    (`-` reads it from stdin) from relays that keep it (see: avault replica --help),
    shows whose it is and how new, and has the phone open it. The signer is met on
    the relays of --relay too. Where one relay alone has the newest copy it asks
    whether to take that; --accept-rollback takes it, and an older copy where the
    newest is not whole. Where another machine has rotated the agent's key, and relays have that
    signed, this one goes over to the new key so too, by the pairing that it has.

      git clone … ~/clawd && avault recover
      avault recover --from-relays nprofile1…
    """
    if operator_key not in (None, "-"):
        raise Usage(
            "a key on the command line stands in the process list", "type it: --operator-key -"
        )
    if from_relays is not None:
        if agent or operator_key or custodian:
            raise Usage("--from-relays goes with none of those", "avault recover --help")
        pairing = (bunker, qr, timeout, no_drill)
        return recover_from_relays(
            terminal, from_relays, relays, *pairing, accept_rollback, signer_npub
        )
    if accept_rollback:
        raise Usage("--accept-rollback goes with --from-relays", "avault unlock --accept-rollback")
    places = terminal.places
    path = places.file("nsec.enc")
    if not is_file_there(path):
        raise NotFound(
            f"no vault in {places.dir}", "copy or clone one there, or name another with --dir"
        )
    whole = read_sealed("nsec", path)
    wanted = to_npub(parse_npub(signer_npub)) if signer_npub else whole["operator"]
    content = as_operator(whole, wanted) or whole
    own = places.own("unlock.json")
    if operator_key is None and os.path.lexists(own):
        successor = succeed_known(places, read_sealed("unlock", own))
        if not successor:
            raise AvaultError(
                "this machine knows the vault already",
                "open it with: avault unlock, or pair anew with: avault pair --replace",
            )
        if agent is None and isinstance(successor, Tampered):
            raise successor  # showing the other's npub and asking is not enough: it is typed
    say(f"agent:    {content['agent']}")
    say(f"operator: {content['operator']}")
    if custodian is not None and operator_key is None:
        show_shared(places, custodian, content["agent"])
    if not os.path.lexists(places.own("unlock.json")):
        say(
            "this machine has never opened this vault: no pin exists yet that would show an older "
            "copy, or another one"
        )
    if (agent is None) != (signer_npub is None):
        raise Usage("--agent and --signer-npub go together")
    if agent is None and not confirm("avault: are these your agent and your operator?"):
        raise Denied(
            "not confirmed", "compare, then: avault recover --agent NPUB --signer-npub NPUB"
        )
    given = (to_npub(parse_npub(agent)), wanted) if agent is not None else None
    if given not in (None, (content["agent"], content["operator"])):
        raise Denied(
            "the vault is of another agent or operator",
            "nothing was asked; is this the right copy?",
        )
    terminal.need_daemon()
    if operator_key is not None:
        told = parse_settings(settings)
        key = {"operator_nsec": read_kit()}
        answer = ask_daemon(places, "open", value=key, private=True)
        if custodian is not None:
            return add_first(terminal, custodian, told, answer["ticket"])
        say(
            "the vault is open; pair it with your phone: avault pair, or see: avault recover --help"
        )
        return 0
    if custodian is not None:
        return open_with(terminal, custodian, content["agent"], timeout, passphrase_file)
    talk = Ceremony(terminal, qr)
    fields = {
        "relays": list(relays),
        "agent": content["agent"],
        "operator": content["operator"],
        "timeout": parse_duration(timeout),
    }
    talk.request("recover", {"bunker": read_bunker(bunker)}, **fields)
    return 0 if no_drill else talk.drill()


def show_shared(places: Places, name: str, agent: str) -> None:
    """Say what a shared custodian is, and what it is told; raises NotFound, Tampered, Usage."""
    if os.path.lexists(places.own("unlock.json")):
        raise Usage(
            "this machine knows another agent's key, and its phone has to follow",
            "avault recover; or begin anew: avault forget, then this again",
        )
    show_told(name, Shared(places).load(name, agent))


def open_with(
    terminal: Terminal, name: str, agent: str, timeout: str, passphrase_file: str | None
) -> int:
    """Open the vault with a shared custodian, which this machine uses from then on."""
    fields = {"with": name, "agent": agent, "person": True, "timeout": parse_duration(timeout)}
    with Person(passphrase_file) as person, Waiting() as waiting:
        status = ask_daemon(terminal.places, "unlock", progress=waiting, **fields, **person)
    say(f"{name} has opened the vault, and does so from now on: {status['secrets']} secret(s)")
    say("hint: to have the phone asked here too: avault pair")
    return 0


def read_kit() -> str:
    """The key of a recovery kit, from the terminal, where it is not echoed, or from stdin."""
    if sys.stdin.isatty():
        with Person() as person:
            return Prompt(person["terminal"]).ask("the key of the recovery kit (nsec1…)")
    return sys.stdin.buffer.readline(8192).decode(errors="replace").strip()
