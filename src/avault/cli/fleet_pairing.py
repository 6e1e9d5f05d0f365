"""How a desk of a fleet and its operator's phone meet: by a code or a bunker URI, and the drill."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import sys
from typing import TYPE_CHECKING

from avault.cli.ceremony import SIGNER_SETTINGS, Ceremony, read_bunker, warn_if_quick
from avault.errors import Denied, TimedOut, Usage
from avault.fleet.desk_file import PAIR_ANEW, DeskFile, DeskLock
from avault.fleet.together import DeskSigner
from avault.keys.hardening import harden
from avault.keys.nostr import make_keys, parse_npub, public_hex, to_npub
from avault.keys.seal import make_envelope
from avault.signer.pairing import (
    DEFAULT_RELAYS,
    parse_bunker,
    shorten_key,
)
from avault.signer.question import (
    NOT_A_REFUSAL,
    accept_token,
    join_signer,
    says_any,
)
from avault.signer.remote import RemoteSigner
from avault.terminal.commands import command, option
from avault.terminal.talk import confirm, is_person, put, say
from avault.vault.own_files import check_name, check_relay

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.terminal.terminal import Terminal


MEETING = (  # the options of every command that may pair a desk
    option("--bunker"), option("--relay", "relays", multiple=True), option("--qr"),
    option("--label"), option("--no-drill", is_flag=True),
)  # fmt: skip
DESK_LIMIT = 120.0  # seconds for an approval
SCAN_LIMIT = 600.0  # seconds for a code to be scanned


class Meeting:
    """What was said of how a desk is paired, and its talk with the person; raises Usage."""

    def __init__(
        self,
        terminal: Terminal,
        bunker: str | None,
        relays: tuple[str, ...],
        qr: str | None,
        label: str | None,
        no_drill: bool,
    ) -> None:
        if bunker is not None and (relays or qr):
            raise Usage(
                "a bunker:// URI has relays of its own, and no code is shown for it",
                "leave out --bunker, or --relay and --qr",
            )
        self.terminal, self.qr, self.is_drilled = terminal, qr, not no_drill
        self.is_wanted = bunker is not None
        self.bunker = bunker
        self.relays = [check_relay(url) for url in relays] or DEFAULT_RELAYS
        self.label = check_name(label) if label is not None else None

    def show(self, uri: str) -> None:
        """The pairing code. With --json stdout is for the one object, so it goes beside it."""
        if self.terminal.want_json:
            sys.stderr.write(uri + "\n")
        else:
            Ceremony(self.terminal, self.qr).show_uri(uri)

    def pair(self, known: DeskFile | None, operators: set[str]) -> DeskFile:
        """Pair this desk, and save it; the keys of one that is `known` stay.

        `operators` (hex) are those of the machines that are meant. The phone of none of them would
        open nothing: it is refused. Raises AvaultError; then all is as it was.
        """
        label = self.label or (known.label if known else socket.gethostname().split(".")[0])
        desk = asyncio.run(
            meet_signer(read_bunker(self.bunker), self.relays, check_name(label), self.show)
        )
        say(f"operator: {to_npub(desk.operator)}")
        say(f"the app may show who asks as {shorten_key(public_hex(desk.keys))}")
        if known and known.groups:
            operators = {known.operator}
        if operators and desk.operator not in operators:
            wanted = " or ".join(sorted(map(to_npub, operators)))
            raise Denied(
                f"the signer answers for another operator than {wanted}, whose machines these are",
                f"choose that account in the signer, then: {PAIR_ANEW}",
            )
        # whoever saw the code first could answer it
        if not operators and is_person() and not confirm("avault: is that you, the operator?"):
            raise Denied("the operator was not confirmed; nothing was changed", PAIR_ANEW)
        if self.is_drilled:
            self.drill(desk)
        desk.groups = known.groups if known else {}
        desk.save()
        return desk

    def drill(self, desk: DeskFile) -> None:
        """Have the operator reject a request, again where a person changes a setting for it.

        Raises Denied for a signer that approves by itself: no desk is paired with it.
        """

        while True:
            say("a drill: REJECT the next request on the phone, without remembering it")
            is_refused, seconds = asyncio.run(ask_to_refuse(desk))
            if is_refused:
                say("the drill passed: no machine is opened without you")
                warn_if_quick(seconds)
                return
            sys.stderr.write(SIGNER_SETTINGS)
            is_there = sys.stdin.isatty() and not self.terminal.want_json
            if not is_there or not confirm("avault: change the setting, then try it again?"):
                raise Denied(
                    "the request to reject was approved: that signer would open all machines by"
                    " itself",
                    f"have it ask for every request, then: {PAIR_ANEW}",
                )


async def meet_signer(
    uri: str | None, relays: list[str], label: str, show: Callable[[str], None]
) -> DeskFile:
    """Connect a desk with the operator's signer, by a bunker URI or by a code that it scans.

    `show` is given that code. Whoever answers it first is the signer; a second one ends it.
    Raises AvaultError.
    """
    signer, secret, name = None, secrets.token_hex(16), f"desk {label}"
    if uri is not None:
        signer, relays, secret = parse_bunker(uri)
    keys = make_keys()
    remote = RemoteSigner(keys, relays, signer, lambda: None, PAIR_ANEW)
    say(f"connecting to {len(relays)} relay{'' if len(relays) == 1 else 's'}")
    await remote.open()
    try:
        async with asyncio.timeout(DESK_LIMIT if signer else SCAN_LIMIT):
            signer = await join_signer(remote, relays, secret, name, show)
            say("the signer is connected")
            operator = await remote.request("get_public_key", [], parse_npub, False)
    except TimeoutError:
        hint = f"open the signer app, then: {PAIR_ANEW}"
        raise TimedOut("the signer did not answer in time", hint) from None
    finally:
        await remote.close()
    return DeskFile(keys, signer, operator, relays, label)


async def ask_to_refuse(desk: DeskFile) -> tuple[bool, float]:
    """Whether the operator can refuse, and after how many seconds the answer came.

    One approval of an app that asks nobody would open all. What is no person's refusal raises
    Denied.
    """
    token, peer = secrets.token_hex(32), make_keys()
    said = "avault: this is a drill. REJECT this one."
    envelope = make_envelope(peer, desk.operator, "a drill: REJECT this one", said, token)
    async with DeskSigner(desk, DESK_LIMIT) as signer:
        try:
            await signer.ask(public_hex(peer), envelope, accept_token(token))
        except Denied as refused:
            if says_any(refused.message, NOT_A_REFUSAL):
                said = f"nobody refused: {refused.message.removeprefix('the signer refused: ')}"
                raise Denied(said, f"let the app ask each time, then: {PAIR_ANEW}") from None
            return True, signer.remote.answered_in or 0.0
        return False, signer.remote.answered_in or 0.0


@command("fleet pair", *MEETING)
def cmd_fleet_pair(terminal: Terminal, **how: Any) -> int:
    """usage: avault fleet pair [--relay URL]… [--qr FILE.png] [--bunker URI|-]
                         [--label NAME] [--no-drill]

    Pairs this desk with the operator's signer app, so that it can ask for one
    approval for many machines: see avault fleet enroll, which does this by itself
    the first time. Shows a QR code on a terminal, and prints the nostrconnect://
    URI on stdout: scan or paste it in the app. Or takes a bunker:// URI that the
    signer shows (- reads it from stdin, as it holds a secret). A drill follows:
    you reject a request. --label is how the phone names the desk.

    A desk that is paired is paired anew, with the same operator, as when the
    connection was deleted in the app: what it may open stays.

      avault fleet pair
      avault fleet pair --bunker -
    """
    with DeskLock():
        harden("avault-desk")
        desk = Meeting(terminal, **how).pair(DeskFile.load(), set())
        if terminal.want_json:
            told = {"ok": True, "label": desk.label, "operator": to_npub(desk.operator)}
            put(json.dumps(told) + "\n")
        elif not desk.groups:
            say("this desk is paired; it opens nothing yet: avault fleet enroll")
        else:
            say(f"this desk is paired; it opens {', '.join(sorted(desk.groups))} as before")
        return 0
