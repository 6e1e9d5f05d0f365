"""avault init, pair, drill: by which a vault, a machine and the operator's phone meet.

The talk with the operator is cli/ceremony's, and the work itself the keyholder's (daemon/talks).
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys

from avault.cli.ceremony import Ceremony, read_bunker
from avault.cli.custody import manage, parse_settings
from avault.cli.daemon import end
from avault.cli.kit import check_sheet
from avault.custody.custodians import check_custodian
from avault.custody.prompt import closed_terminal
from avault.daemon.start import start_daemon
from avault.errors import AvaultError, Unavailable, Usage
from avault.hints import call
from avault.keys.nostr import parse_npub, to_npub
from avault.terminal.commands import command, option
from avault.terminal.talk import confirm, say, warn
from avault.terminal.terminal import Terminal
from avault.terminal.words import parse_duration
from avault.vault.files import make_private_directory
from avault.vault.own_files import NAME_CHARACTERS, check_name, check_relay
from avault.vault.presence import read_sealed, refuse_to_overwrite

PAIRING = (
    option("--bunker"),
    option("--relay", "relays", multiple=True),
    option("--qr"),
    option("--timeout", default="10m"),
    option("--no-drill", is_flag=True),
)


@command(
    "init",
    option("--signer-npub"),
    option("--name"),
    option("--yes", is_flag=True),
    option("--with", "custodian"),
    option("--setting", "settings", multiple=True),
    option("--kit"),
    *PAIRING,
)
def cmd_init(
    terminal: Terminal,
    signer_npub: str | None,
    name: str | None,
    yes: bool,
    custodian: str | None,
    settings: tuple[str, ...],
    kit: str | None,
    bunker: str | None,
    relays: tuple[str, ...],
    qr: str | None,
    timeout: str,
    no_drill: bool,
) -> int:
    """usage: avault init [--signer-npub NPUB | --yes] [--bunker URI|-] [--relay URL]…
                   [--name NAME] [--qr FILE.png] [--timeout D] [--no-drill]
           avault init --with KIND [--setting SETTING=VALUE]… [--name NAME]
                   [--kit FILE.html]

    Makes the agent's key and the vault's files, and starts the daemon, open.
    It pairs with the phone first (see: avault pair --help), and takes the
    operator from there: it shows the npub and asks whether it is yours, as
    whoever sees the code first could answer it. --yes does not ask. With
    --signer-npub it does not pair: do that later, and before the first restart.
    NAME is what the phone shows. NOSTR_NSEC, if it is set, becomes the agent's
    key. Nothing that exists is overwritten.

    --with makes a vault without a phone, which a custodian opens (see: avault
    custody add --help). The operator's key is then made here, shown once, as a
    recovery kit to write down, and kept nowhere. --kit also writes it as a page
    to print, which nobody else can read, into a file that is not there yet: print
    it, and remove it.

      avault init
      avault init --with passphrase
      avault init --signer-npub npub1… --name clawd@db1
    """
    places = terminal.places
    refuse_to_overwrite(places)
    if terminal.is_running():
        raise Unavailable(
            f"a daemon is running for {places.dir}, where no vault is",
            "if it is open, save first: avault export; then: avault daemon stop --force",
        )
    host = socket.gethostname().split(".")[0]
    usual = f"{os.path.basename(os.path.dirname(places.dir))}@{host}"
    name = check_name(
        name or "".join(c if c in NAME_CHARACTERS else "-" for c in usual)[:64].strip()
    )
    for url in relays:
        check_relay(url)
    confirmed = yes or signer_npub is not None or custodian is not None
    if custodian is not None:
        if signer_npub or bunker:
            raise Usage("a vault without a phone has no signer", "leave out --signer-npub")
        if not sys.stdin.isatty():
            raise Usage("the recovery kit is shown at a terminal, and there is none")
        if not os.access(os.ttyname(0), os.R_OK | os.W_OK):
            raise closed_terminal(os.ttyname(0))
        check_custodian(custodian)
        wanted = parse_settings(settings)
    if kit is not None:
        if custodian is None:
            raise Usage("only a vault without a phone has a recovery kit", "with it: --with KIND")
        kit = check_sheet(kit, places.dir)
    if not confirmed and not bunker and not sys.stdin.isatty():
        raise Usage(
            "nobody is here to say whether the operator is the right one",
            "in a terminal: avault init; in a script: --signer-npub NPUB, and then avault pair; "
            "or --yes",
        )
    new = [path for path in (places.dir, places.state) for path in missing(path)]
    call.farewell = "stopped; nothing was made"
    talk = Ceremony(terminal, qr, sheet=kit)
    try:
        make_private_directory(places.dir)
        start_daemon(places, background=True)
        fields = {
            "name": name,
            "relays": list(relays),
            "signer_npub": signer_npub,
            "timeout": parse_duration(timeout),
            "kit": custodian is not None,
        }
        fields["confirm"] = not confirmed and sys.stdin.isatty()
        private = {"nsec": os.environ.get("NOSTR_NSEC"), "bunker": read_bunker(bunker)}
        answer = talk.request("init", private, **fields)
    except BaseException as error:
        if os.path.lexists(places.file("avault.enc")):
            made = "the vault is made and open, but nobody has shown yet that the phone opens it"
            call.farewell = f"stopped; {made}: avault pair"
            if isinstance(error, AvaultError):
                say(made)
                say(f"operator: {read_sealed('nsec', places.file('nsec.enc'))['operator']}")
                error.hint = "if that operator is you, before the daemon ends: avault pair"
        else:
            if terminal.is_running():
                end("stop", terminal, force=True)
            remove_made(new)
        raise
    say("the vault is open; keep a secret with: avault set GROUP --key KEY")
    say(f"agent: {answer['agent_npub']}")
    say(f"operator: {answer['signer_npub']}")
    if custodian is not None:
        return add_first(terminal, custodian, wanted, answer["ticket"])
    if not answer["paired"]:
        warn(
            "nobody has shown yet that the phone opens this vault: if the daemon ends now, its "
            "key is lost",
            "pair it now: avault pair",
        )
    elif not no_drill:
        talk.drill()
    return 0


def add_first(terminal: Terminal, kind: str, settings: dict[str, str], ticket: str | None) -> int:
    """Let a first custodian open a vault that has no phone; `ticket` says we are the operator."""
    while True:
        try:
            answer = manage(
                terminal,
                "add",
                kind=kind,
                name=kind,
                settings=settings,
                ticket=ticket,
                replace=True,
            )
        except AvaultError as error:
            if not confirm(f"avault: {error.message}. Try again?"):
                error.message = (
                    f"the vault is open, and nothing but the kit opens it again: {error.message}"
                )
                error.hint = (
                    "lock it and begin with the kit: avault recover --operator-key - --with KIND"
                )
                raise
        else:
            say(f"{answer['name']} opens this vault from now on: avault unlock")
            return 0


@command("pair", option("--replace", is_flag=True), option("--operator"), *PAIRING)
def cmd_pair(
    terminal: Terminal,
    replace: bool,
    operator: str | None,
    bunker: str | None,
    relays: tuple[str, ...],
    qr: str | None,
    timeout: str,
    no_drill: bool,
) -> int:
    """usage: avault pair [--bunker URI|-] [--relay URL]… [--replace] [--qr FILE.png]
                   [--operator NPUB] [--timeout D] [--no-drill]

    Pairs this machine with the operator's signer app. Shows a QR code on a
    terminal, and prints the nostrconnect:// URI on stdout: scan or paste it in
    Amber, nsec.app, Primal or any NIP-46 signer. Or takes a bunker:// URI that
    the signer shows (- reads it from stdin, as it holds a secret).

    Then the phone opens this vault once, to prove that it can, and the drill
    follows: you reject a request. An app that approves by itself cannot.
    --operator names another operator of the vault (see: avault operator --help),
    whose phone this machine asks from then on.

      avault pair
      avault pair --bunker -
      avault pair --replace --relay wss://relay.example.com
    """
    terminal.need_daemon()
    call.farewell = "stopped; this machine is paired as it was before"
    talk = Ceremony(terminal, qr)
    fields = {"relays": list(relays), "replace": replace, "timeout": parse_duration(timeout)}
    if operator:
        fields["operator"] = to_npub(parse_npub(operator))
    talk.request("pair", {"bunker": read_bunker(bunker)}, **fields)
    return 0 if no_drill else talk.drill()


@command("drill")
def cmd_drill(terminal: Terminal) -> int:
    """usage: avault drill

    Asks the phone for something that you reject: an app that approves by itself
    cannot. It opens nothing. Pairing ends with it; do it again when the app was
    changed, or when an approval came faster than you can tap.
    """
    return Ceremony(terminal, None, number="").drill(is_alone=True)


def missing(path: str) -> list[str]:
    """The directories that are to be made for a path, the innermost first."""
    found = []
    while not os.path.lexists(path):
        found.append(path)
        path = os.path.dirname(path)
    return found


def remove_made(directories: list[str]) -> None:
    """Remove directories that were made for nothing, unless more is in them than a daemon notes."""
    for directory in directories:
        for name in ("place", "python", "socket"):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(directory, name))
        with contextlib.suppress(OSError):
            os.rmdir(directory)
