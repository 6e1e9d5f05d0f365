"""avault init, pair, drill, recover: by which a vault, a machine and the operator's phone meet.

What is said to the operator; the work itself is the keyholder's (daemon/talks, daemon/pairing).
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from avault.cli.daemon import end
from avault.client import ask_daemon
from avault.daemon.start import start_daemon
from avault.errors import AvaultError, Denied, NotFound, Unavailable, Usage
from avault.hints import call
from avault.nostr import parse_npub, to_npub
from avault.plain import write_all
from avault.signer.pairing import parse_bunker, shorten_key
from avault.signer.question import NOBODY_ASKED
from avault.terminal.commands import command, option
from avault.terminal.talk import confirm, put, say, warn
from avault.terminal.terminal import Terminal
from avault.terminal.words import parse_duration
from avault.vault.files import make_private_directory, write_file
from avault.vault.own_files import NAME_CHARACTERS, check_name, check_relay
from avault.vault.presence import is_file_there, read_sealed, refuse_to_overwrite

if TYPE_CHECKING:
    from typing import Any


SIGNER_SETTINGS = """\
  Amber     Connections, this one, Permissions: "Manually approve each permission"
  nsec.app  Clear all permissions; untick "Remember my decision" every time
  Primal    trust level Low
  Clave     client details: NIP-44 Decrypt off
  others    no standing permission for nip44_decrypt
"""

PAIRING = (
    option("--bunker"),
    option("--relay", "relays", multiple=True),
    option("--qr"),
    option("--timeout", default="10m"),
    option("--no-drill", is_flag=True),
)


@command("init", option("--signer-npub"), option("--name"), option("--yes", is_flag=True), *PAIRING)
def cmd_init(
    terminal: Terminal,
    signer_npub: str | None,
    name: str | None,
    yes: bool,
    bunker: str | None,
    relays: tuple[str, ...],
    qr: str | None,
    timeout: str,
    no_drill: bool,
) -> int:
    """usage: avault init [--signer-npub NPUB | --yes] [--bunker URI|-] [--relay URL]…
                   [--name NAME] [--qr FILE.png] [--timeout D] [--no-drill]

    Makes the agent's key and the vault's files, and starts the daemon, open.
    It pairs with the phone first (see: avault pair --help), and takes the
    operator from there: it shows the npub and asks whether it is yours, as
    whoever sees the code first could answer it. --yes does not ask. With
    --signer-npub it does not pair: do that later, and before the first restart.
    NAME is what the phone shows. NOSTR_NSEC, if it is set, becomes the agent's
    key. Nothing that exists is overwritten.

      avault init
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
    confirmed = yes or signer_npub is not None
    if not confirmed and not bunker and not sys.stdin.isatty():
        raise Usage(
            "nobody is here to say whether the operator is the right one",
            "in a terminal: avault init; in a script: --signer-npub NPUB, and then avault pair; or --yes",
        )
    new = [path for path in (places.dir, places.state) for path in missing(path)]
    call.farewell = "stopped; nothing was made"
    talk = Ceremony(terminal, qr)
    try:
        make_private_directory(places.dir)
        start_daemon(places, background=True)
        fields = {
            "name": name,
            "relays": list(relays),
            "signer_npub": signer_npub,
            "timeout": parse_duration(timeout),
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
    if not answer["paired"]:
        warn(
            "nobody has shown yet that the phone opens this vault: if the daemon ends now, its key is lost",
            "pair it now: avault pair",
        )
    elif not no_drill:
        talk.drill()
    return 0


@command("pair", option("--replace", is_flag=True), *PAIRING)
def cmd_pair(
    terminal: Terminal,
    replace: bool,
    bunker: str | None,
    relays: tuple[str, ...],
    qr: str | None,
    timeout: str,
    no_drill: bool,
) -> int:
    """usage: avault pair [--bunker URI|-] [--relay URL]… [--replace] [--qr FILE.png]
                   [--timeout D] [--no-drill]

    Pairs this machine with the operator's signer app. Shows a QR code on a
    terminal, and prints the nostrconnect:// URI on stdout: scan or paste it in
    Amber, nsec.app, Primal or any NIP-46 signer. Or takes a bunker:// URI that
    the signer shows (- reads it from stdin, as it holds a secret).

    Then the phone opens this vault once, to prove that it can, and the drill
    follows: you reject a request. An app that approves by itself cannot.

      avault pair
      avault pair --bunker -
      avault pair --replace --relay wss://relay.example.com
    """
    terminal.need_daemon()
    call.farewell = "stopped; this machine is paired as it was before"
    talk = Ceremony(terminal, qr)
    fields = {"relays": list(relays), "replace": replace, "timeout": parse_duration(timeout)}
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


@command("recover", option("--agent"), option("--signer-npub"), *PAIRING)
def cmd_recover(
    terminal: Terminal,
    agent: str | None,
    signer_npub: str | None,
    bunker: str | None,
    relays: tuple[str, ...],
    qr: str | None,
    timeout: str,
    no_drill: bool,
) -> int:
    """usage: avault recover [--agent NPUB --signer-npub NPUB] [--bunker URI|-] [--relay URL]…
                      [--qr FILE.png] [--timeout D] [--no-drill]

    Opens a copy of a vault directory on a machine that never had it: pairs, has
    the phone open nsec.enc, and writes what this machine needs from then on.
    Compare the two npubs with what you know: this machine has nothing to
    compare them with.

      git clone … ~/clawd && avault recover
    """
    places = terminal.places
    path = places.file("nsec.enc")
    if not is_file_there(path):
        raise NotFound(
            f"no vault in {places.dir}", "copy or clone one there, or name another with --dir"
        )
    content = read_sealed("nsec", path)
    if os.path.lexists(places.own("unlock.json")):
        raise AvaultError(
            "this machine knows the vault already",
            "open it with: avault unlock, or pair anew with: avault pair --replace",
        )
    say(f"agent:    {content['agent']}")
    say(f"operator: {content['operator']}")
    say(
        "this machine has never opened this vault: no pin exists yet that would show an older copy, or another one"
    )
    if (agent is None) != (signer_npub is None):
        raise Usage("--agent and --signer-npub go together")
    if agent is None and not confirm("avault: are these your agent and your operator?"):
        raise Denied(
            "not confirmed", "compare, then: avault recover --agent NPUB --signer-npub NPUB"
        )
    if signer_npub is not None and agent is not None:
        wanted = (to_npub(parse_npub(agent)), to_npub(parse_npub(signer_npub)))
        if wanted != (content["agent"], content["operator"]):
            raise Denied(
                "the vault is of another agent or operator",
                "nothing was asked; is this the right copy?",
            )
    terminal.need_daemon()
    talk = Ceremony(terminal, qr)
    fields = {
        "relays": list(relays),
        "agent": content["agent"],
        "operator": content["operator"],
        "timeout": parse_duration(timeout),
    }
    talk.request("recover", {"bunker": read_bunker(bunker)}, **fields)
    return 0 if no_drill else talk.drill()


def missing(path: str) -> list[str]:
    """The directories that are to be made for a path, the innermost first."""
    found = []
    while not os.path.lexists(path):
        found.append(path)
        path = os.path.dirname(path)
    return found


def remove_made(directories: list[str]) -> None:
    """Remove directories that were made for nothing, unless something is in them; what a daemon notes of itself is not."""
    for directory in directories:
        for name in ("python", "socket"):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(directory, name))
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def read_bunker(uri: str | None) -> str | None:
    """The bunker:// URI of --bunker, a line of stdin for `-`; raises Usage."""
    if uri == "-":
        if sys.stdin.isatty():
            say("paste the bunker:// URI, then Enter")
        uri = sys.stdin.buffer.readline(8192).decode(errors="replace").strip()
    elif uri is not None:
        warn(
            "the bunker:// URI holds a secret, which stands in the process list now",
            "better: --bunker -",
        )
    if uri is not None:
        parse_bunker(uri)
    return uri


class Ceremony:
    """The talk with the operator while a signer is paired."""

    def __init__(self, terminal: Terminal, qr: str | None, number: str = "2. ") -> None:
        self.terminal, self.qr, self.number = terminal, qr, number
        self.pages: set[str] = set()  # and notices, which were shown

    def request(self, op: str, private: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """A pairing request, with what it says and asks on the way."""

        def reply(ready: dict[str, Any]) -> dict[str, Any]:
            if "operator" not in ready:
                return private
            say(f"the signer answers for {ready['operator']}")
            return {"confirmed": confirm("avault: is that you, the operator?")}

        is_private = any(private.values())
        return ask_daemon(
            self.terminal.places,
            op,
            progress=self.progress,
            value=reply,
            private=is_private,
            **fields,
        )

    def progress(self, step: dict[str, Any]) -> None:
        """Tell the operator what happened, and what to do."""
        kind = step["progress"]
        if kind == "wrote":
            put(f"wrote {step['path']}\n")
        elif kind == "uri":
            self.show_uri(step["uri"])
        elif kind == "page" and step["url"] not in self.pages:
            self.pages.add(step["url"])
            say(f"open this page to approve: {step['url']}")
        elif kind == "relays":
            say(f"by this machine's own relays: {', '.join(step['relays'])}")
            warn(
                f"nip46.json names others: {', '.join(step['hinted'])}",
                "if those are meant, name each with --relay",
            )
        elif kind == "connecting":
            say(f"connecting to {step['relays']} relay{'' if step['relays'] == 1 else 's'}")
        elif kind == "resumed":
            say(
                "the signer was connected before: going on from there; to pair anew: avault pair --replace"
            )
            say(f"the app may show who asks as {shorten_key(step['client_key'])}")
        elif kind == "connected":
            say("the signer is connected")
            say(f"the app may show who asks as {shorten_key(step['client_key'])}")
        elif kind == "notice" and step["text"] not in self.pages:
            self.pages.add(step["text"])
            say(step["text"])
        elif kind == "approve":
            say(f"1. APPROVE the request on the phone: {step['sentence']}")
        elif kind == "proven":
            say("the phone opens this vault")
        elif kind == "reject":
            say(
                f"{self.number}a drill: REJECT the next request on the phone, without remembering it"
            )

    def show_uri(self, uri: str) -> None:
        """The pairing URI as a QR code, as a picture, and as a line."""
        if self.qr:
            save_qr(uri, self.qr)
            say(f"the QR code is in {self.qr}")
        say(
            "scan this in the signer app (Amber, Primal, …) or paste the line; let it ask for every request"
        )
        say('Amber: choose "Manually approve each permission". Primal: trust level Low')
        put(uri + "\n")
        if sys.stderr.isatty():
            self.show_qr(uri)

    def show_qr(self, uri: str) -> None:
        """The QR code, now or as soon as the terminal is large enough for it."""
        code = qr_lines(uri)
        rows, columns = len(code) + 1, len(code[0])

        def fit(*_: object) -> None:
            size = os.get_terminal_size(2)
            # 0: nobody knows
            if not size.columns or (size.columns >= columns and size.lines >= rows):
                signal.signal(signal.SIGWINCH, signal.SIG_DFL)
                # not by sys.stderr, in whose midst a signal may come
                write_all(2, "\n".join([*code, ""]).encode())

        signal.signal(signal.SIGWINCH, fit)
        fit()
        if signal.getsignal(signal.SIGWINCH) == fit:
            size = os.get_terminal_size(2)
            say(
                f"the QR code needs {columns} columns and {rows} lines, and here are {size.columns} and {size.lines}"
            )
            say(
                "hint: make the window larger, or its letters smaller (Ctrl and -); or paste the line; or --qr FILE.png"
            )

    def drill(self, is_alone: bool = False) -> int:
        """Have the operator reject a request; repeat while somebody is there to change a setting.

        A pairing that it ends has worked, whatever it shows; alone, what it shows is its exit code.
        """
        while True:
            answer = self.request("drill", {}, timeout=600)
            seconds = answer["seconds"]
            if answer["refused"]:
                say("the drill passed: nothing is opened without you")
                if seconds < NOBODY_ASKED:
                    warn(
                        f"it was refused within {seconds:.1f} s; if that was not you, the app remembers a refusal"
                    )
                return 0
            warn(
                f"the request to reject was approved after {seconds:.1f} s: if that was not you, the signer approves by itself"
            )
            sys.stderr.write(SIGNER_SETTINGS)
            if not sys.stdin.isatty() or not confirm(
                "avault: change the setting, then try the drill again?"
            ):
                if is_alone:
                    raise AvaultError(
                        "the drill did not pass: the signer approves by itself",
                        "change the setting, then: avault drill",
                    )
                say("paired, but the drill did not pass; try it again with: avault drill")
                return 0


def qr_lines(text: str) -> list[str]:
    """The lines of a QR code, light on dark, in half blocks: of a pairing URI without the picture, which makes it too big."""
    import qrcode

    code = qrcode.QRCode(border=2, error_correction=qrcode.constants.ERROR_CORRECT_L)
    code.add_data(text.partition("&image=")[0])
    shown = io.StringIO()
    code.print_ascii(out=shown, invert=True)
    return shown.getvalue().rstrip("\n").split("\n")


def save_qr(text: str, path: str) -> None:
    """A QR code as a PNG file (0600); raises AvaultError."""
    import qrcode

    picture = io.BytesIO()
    qrcode.make(text).save(picture, "PNG")
    write_file(os.path.abspath(os.path.expanduser(path)), picture.getvalue())
