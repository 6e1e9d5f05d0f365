"""avault message: what the operator is told by private message, and the one word that is obeyed."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, NotFound, Unavailable, Usage
from avault.keys.nostr import parse_npub, to_npub
from avault.messages.delivery import find_inbox, put_event
from avault.messages.listening import listen_for_word
from avault.messages.notice import send_notice
from avault.signer.pairing import Pairing
from avault.terminal.commands import command, option
from avault.terminal.talk import confirm, put, say, warn
from avault.vault.messages import MessageSettings
from avault.vault.own_files import normalise_relay

if TYPE_CHECKING:
    from avault.terminal.terminal import Terminal

MEANING_OF_WORD = """\
  The word is `lock`, alone in a private message (NIP-17) to the agent's npub, from the key of an
  operator. It locks, and is answered. No other word is obeyed, and none opens anything.
  Relays keep, for all to read, that this agent's npub takes messages, and where. One that gives
  them to their receiver alone (NIP-42) has it signed that the agent is there, and sees where from.
  It is no safety net: nothing promises that a message arrives before its time is over (10
  minutes). The answer is the proof. What is sure: avault lock, over SSH.
"""


@command(
    "message on",
    option("--lock", is_flag=True),
    option("--notice", is_flag=True),
    option("--relay", multiple=True),
    option("--yes", is_flag=True),
)
def cmd_message_on(
    terminal: Terminal, lock: bool, notice: bool, relay: tuple[str, ...], yes: bool
) -> int:
    """usage: avault message on [--lock] [--notice] [--relay URL]… [--yes]

    --notice: where an unlock has waited for five minutes, the operator gets a
    private message (Nostr, NIP-17), one in an asking, with the vault's name and
    the code, and no link. It comes from the key by which this machine asks the
    phone: an app may show it as a request until it is accepted once.

    --lock: the operator writes the word lock to the agent's npub, from any app
    with private messages, and this machine locks, and answers. Nothing else is
    obeyed. It says what that makes public, and asks; --yes does not.

    --relay is where messages are taken and sent, if nobody has said yet where
    that is. What is not named here is off.

      avault message on --notice
      avault message on --lock --notice --relay wss://relay.example.com
    """
    if not (lock or notice):
        raise Usage("what is to be on?", "avault message on --notice, or --lock, or both")
    before = MessageSettings.load(terminal.places)
    settings = MessageSettings(lock, notice, [normalise_relay(url) for url in relay])
    settings.obeyed = before.obeyed
    pairing = Pairing.load(terminal.places)
    if notice and not pairing:
        raise NotFound("this machine is not paired with a signer", "avault pair")
    if lock:
        settings.relays = announce(terminal, settings.relays, pairing, yes)
    settings.save(terminal.places)
    return tell_daemon(terminal, settings)


def announce(
    terminal: Terminal, urls: list[str], pairing: Pairing | None, is_sure: bool
) -> list[str]:
    """Have relays say where the agent takes messages, and at which it does; raises AvaultError.

    Where the agent's key is in use elsewhere, and takes messages there, it stays so.
    """
    agent = parse_npub(str(terminal.ask("status")["agent_npub"]))
    usual = pairing.relays if pairing else []
    known = [] if urls else asyncio.run(find_inbox(agent, usual))
    if not urls and not known:
        raise Usage(
            "no relay says where the agent takes private messages",
            "name one that takes them (kind 1059): --relay wss://…",
        )
    for line in MEANING_OF_WORD.splitlines():
        say(line)
    where = ", ".join(urls or known)
    if not is_sure and not confirm(f"avault: take messages for {to_npub(agent)} at {where}?"):
        raise Denied("not confirmed; nothing was published", "avault message on --lock --yes")
    if known:
        return known
    event = terminal.ask("word", action="inbox", relays=urls)["event"]
    said = asyncio.run(put_event(event, [*urls, *usual]))
    refused = {url: why for url, why in said.items() if why != "accepted"}
    if not set(urls) - {*refused}:
        why = "; ".join(f"{url}: {refused[url]}" for url in urls)
        raise Unavailable(f"no relay takes it: {why}", "name another: --relay wss://…")
    for url, why in refused.items():
        warn(f"{url} did not take where the agent is found: {why}")
    return urls


def tell_daemon(terminal: Terminal, settings: MessageSettings) -> int:
    """Have the daemon go by it, and say what is on."""
    if terminal.is_running():
        terminal.ask("message")
    return show_settings(terminal, settings)


def show_settings(terminal: Terminal, settings: MessageSettings) -> int:
    """Say what is on."""
    if terminal.want_json:
        shown = {"lock": settings.lock, "notice": settings.notice, "relays": settings.relays}
        put(json.dumps({"ok": True, **shown}) + "\n")
        return 0
    at = f", at {', '.join(settings.relays)}" if settings.relays else ""
    put(f"the word lock: {'obeyed' + at if settings.lock else 'off'}\n")
    put(f"notice after five minutes: {'on' if settings.notice else 'off'}\n")
    return 0


@command("message off")
def cmd_message_off(terminal: Terminal) -> int:
    """usage: avault message off

    Sends and obeys no messages any more. Where relays say that the agent takes
    messages, they may say so for ever; if the vault is open, they are told that
    it does not.
    """
    before = MessageSettings.load(terminal.places)
    if before.lock and terminal.is_running():
        try:
            event = terminal.ask("word", action="inbox", relays=[])["event"]
            asyncio.run(put_event(event, before.relays))
        except AvaultError as error:
            warn(f"relays still say where the agent takes messages: {error.message}")
    settings = MessageSettings()
    settings.obeyed = before.obeyed
    settings.save(terminal.places)
    return tell_daemon(terminal, settings)


@command("message status")
def cmd_message_status(terminal: Terminal) -> int:
    """usage: avault message status [--json]

    Whether a notice is sent, whether the word lock is obeyed, and where. Whether
    it is heard at this moment: avault status.
    """
    return show_settings(terminal, MessageSettings.load(terminal.places))


@command("message listen", option("--agent", required=True))
def cmd_message_listen(terminal: Terminal, agent: str) -> int:
    """usage: avault message listen --agent NPUB

    Hears the word lock, and has the vault locked. The daemon runs this.
    """
    asyncio.run(listen_for_word(terminal.places, agent))
    return 0


@command(
    "message notice",
    option("--name", required=True),
    option("--since", required=True),
    option("--code", required=True),
)
def cmd_message_notice(terminal: Terminal, name: str, since: str, code: str) -> int:
    """usage: avault message notice --name NAME --since T --code CODE

    Tells the operator by private message that the vault waits. The daemon runs
    this.
    """
    try:
        told = asyncio.run(send_notice(terminal.places, name, since, code))
    except AvaultError as error:
        told = {"ok": False, "said": {}, "problem": error.message}
    put(json.dumps(told) + "\n")
    return 0
