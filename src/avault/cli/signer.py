"""avault signer: the other side of NIP-46, a phone in a terminal.

For an operator without a phone, for tests, and for the demo. It keeps the operator's key in memory,
and asks for each decrypt. Run it on another machine than the agent's, or it protects nothing.
"""

from __future__ import annotations

import asyncio
import os
import sys

from avault.errors import Usage
from avault.keys.hardening import harden
from avault.keys.nostr import public_hex, to_npub
from avault.places import state_home
from avault.signer.bunker import Bunker, Pairings, make_operator, read_operator
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import put, say
from avault.terminal.terminal import Terminal
from avault.vault.files import write_file
from avault.vault.own_files import check_relay


@command(
    "signer",
    argument("uri", required=False),
    option("--new", "is_new", is_flag=True),
    option("--nsec-file"),
    option("--relay", "relays", multiple=True),
    option("--state"),
    option("--yes", is_flag=True),
    option("--passphrase-file"),
)
def cmd_signer(
    terminal: Terminal,
    uri: str | None,
    is_new: bool,
    nsec_file: str | None,
    relays: tuple[str, ...],
    state: str | None,
    yes: bool,
    passphrase_file: str | None,
) -> int:
    """usage: avault signer --nsec-file F [--relay URL]… [--state DIR] [--yes]
                     [--passphrase-file F] [URI]
       avault signer --new [--nsec-file F] [--passphrase-file F]

    A NIP-46 bunker in a terminal: the phone, for an operator without one. It
    prints its bunker:// URI, or answers a nostrconnect:// URI, and asks for each
    decrypt. F holds an nsec or an ncryptsec (NIP-49). --state keeps its pairings
    (default: in the state directory). --yes approves everything: for tests.
    Run it on another machine than the agent's, or it protects nothing.

    --new makes an operator's key, writes it to F, or to stdout, and ends; with
    --passphrase-file it is an ncryptsec. Nothing that exists is overwritten.

      avault signer --new --nsec-file operator.nsec
      avault signer --nsec-file operator.nsec 'nostrconnect://…'
    """
    if is_new:
        return write_operator(nsec_file, passphrase_file)
    if not nsec_file:
        raise Usage(
            "no operator's key is named",
            "avault signer --nsec-file FILE; make one with: avault signer --new --nsec-file FILE",
        )
    harden("avault-phone")
    keys = read_operator(nsec_file, passphrase_file)
    state = (
        os.path.abspath(os.path.expanduser(state))
        if state
        else os.path.join(state_home(), f"signer-{public_hex(keys)[:16]}")
    )
    chosen = [check_relay(url) for url in relays]

    async def approve(client: str, sentence: str) -> bool:
        put(f"{client} asks: {sentence}\n")
        if yes:
            put("approved, as --yes says\n")
            return True
        if sys.stdin.isatty():
            import termios

            # what was typed before the question is no answer to it
            termios.tcflush(0, termios.TCIFLUSH)
        words = {"y": True, "yes": True, "n": False, "no": False}
        answer = ""
        while answer not in words:
            put("approve? [y/n] ")
            line = await asyncio.to_thread(sys.stdin.readline)
            if not line:
                put("\nnobody is here to say; that is not answered\n")
                os._exit(1)
            answer = line.strip().lower()
        approved = words[answer]
        put(("approved" if approved else "rejected") + "\n")
        return approved

    async def run() -> None:
        pairings = Pairings(state, chosen)
        bunker = Bunker(keys, pairings, approve, lambda text: put(text + "\n"))
        operator = to_npub(public_hex(keys))
        await bunker.run(uri, lambda: put(f"operator: {operator}\n{pairings.uri()}\n"))

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        os._exit(130)  # a thread may still wait for a line
    return 0


def write_operator(path: str | None, passphrase_file: str | None) -> int:
    """Make an operator's key, in a file (0600) or on stdout; raises Usage where the file exists."""
    if path and os.path.lexists(path := os.path.abspath(os.path.expanduser(path))):
        raise Usage(
            f"{path} is there already, and is not overwritten", "name another file, or use that one"
        )
    harden("avault-phone")
    text, npub = make_operator(passphrase_file)
    if path:
        write_file(path, f"{text}\n".encode())
        say(
            f"wrote {path}; whoever has it opens every vault that is made for it: "
            "keep a copy off line"
        )
    else:
        put(f"{text}\n")
    say(f"operator: {npub}")
    return 0
