"""avault replica: relays that keep the vault's ciphertext."""

from __future__ import annotations

import ipaddress
import json
import os
import time

from avault.cli.custody import show
from avault.cli.status import render_age
from avault.errors import AvaultError, Denied, Unavailable, printable
from avault.keys.nostr import to_npub
from avault.replica.keeping import bring_replica_level
from avault.replica.progress import Outbox, ReplicaProgress
from avault.replica.sending import describe_relays
from avault.signer.stored import render_profile
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import confirm, put, put_table, say, warn
from avault.terminal.terminal import Terminal
from avault.vault.own_files import normalise_relay

MEANING_OF_RELAYS = """\
  Relays get the vault's ciphertext, and an envelope that your phone opens. What they get is
  public, and copied for ever: nobody can take it back. They learn, and so does who asks them:
    that this agent's npub has an avault root, when that was made anew, and which npub took its
    place, if its key is rotated. Anybody can list all agents that have one on a relay;
    of another key: how many machines write, how large the vault is, and when each write was.
    Times and sizes link that key to the agent, and to a public git of the same vault;
    and, a relay alone: your address, at which both come in unless you hide it, and when machines
    of the vault are unlocked.
  Whoever may have your key open things unasked (nip44_decrypt, as other apps that you let into
  your signer) opens the vault with it, from any relay. Use a key made for avault alone.
  Whoever has the envelope, and also what your phone answered to it, has the agent's key. It is
  answered only by: avault recover --from-relays; then a new one takes its place. An old one may
  live on: then only a new agent's key ends it (avault rotate agent). Whoever has a key that was
  rotated away can still publish under its npub: go by the npub that rotate agent shows.
"""


@command("replica add", argument("relay", nargs=-1, required=True), option("--yes", is_flag=True))
def cmd_replica_add(terminal: Terminal, relay: tuple[str, ...], yes: bool) -> int:
    """usage: avault replica add RELAY… [--yes]

    Has Nostr relays keep the vault's ciphertext, beside git or instead of it: so
    that a new machine needs the agent's npub, a relay and the phone. It says what
    relays and who watches them learn, and asks; --yes does not. All machines of
    the vault know of it. The vault has to be open.

      avault replica add wss://relay.example.com wss://nos.lol
    """
    urls = [normalise_relay(url) for url in relay]
    terminal.ask("replica", action="about")  # raises what is wrong, where it is not open
    for line in MEANING_OF_RELAYS.splitlines():
        say(line)
    for url in urls:
        if is_private(url):
            warn(f"{url} is in a private network", "other machines of the vault may not reach it")
    if not yes and not confirm(f"avault: publish the ciphertext to {', '.join(urls)}?"):
        raise Denied("not confirmed; nothing was published", "avault replica add RELAY… --yes")
    terminal.ask("replica", action="add", relays=urls)
    try:
        code = push_to_relays(terminal)
    except AvaultError:
        tell_way_back(terminal)
        raise
    tell_way_back(terminal)
    return code


@command("replica remove", argument("relay", nargs=-1, required=True))
def cmd_replica_remove(terminal: Terminal, relay: tuple[str, ...]) -> int:
    """usage: avault replica remove RELAY…

    Gives relays nothing any more, from any machine of the vault. What they have
    they may keep for ever.

      avault replica remove wss://relay.example.com
    """
    urls = [normalise_relay(url) for url in relay]
    terminal.ask("replica", action="remove", relays=urls)
    told = bring_replica_level(terminal.places)
    say(f"nothing more goes to {', '.join(urls)}")
    warn("what it has it may keep for ever", "a new agent's key ends its use: avault rotate agent")
    return show(terminal, {"ok": True, **told})


@command("replica push")
def cmd_replica_push(terminal: Terminal) -> int:
    """usage: avault replica push [--json]

    Brings vault and relays level, now: takes in what other machines have put
    there, sends what is missing, and reads it again. The daemon does this by
    itself; this waits for no pause, and says what each relay says. Of a locked
    vault what was laid ready before is sent. Exit code 6 if not all keep it.
    """
    return push_to_relays(terminal)


def is_private(url: str) -> bool:
    """Whether a relay's URL leads into a private network, or to this machine."""
    host = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host.endswith((".local", ".internal", ".lan")) or "." not in host


def take_before_rotation(terminal: Terminal) -> None:
    """Take in what relays have under the key that goes: nothing comes in under it after that."""
    if not Outbox.load(terminal.places).relays:
        return
    say("asking relays for what other machines have written")
    try:
        told = bring_replica_level(terminal.places, take=True)
    except AvaultError as error:
        told = {"problems": [error.message]}
    for problem in told["problems"]:
        warn(printable(problem), "what is not taken in stays under the old key")


def push_after_rotation(terminal: Terminal) -> None:
    """Have relays keep the vault under the new agent's key, and say what to write down now."""
    try:
        told = bring_replica_level(terminal.places, send=True, insist=True)
    except AvaultError as error:
        told = {"relays": [], "problem": error.message}
    outbox = Outbox.load(terminal.places)
    if not outbox.relays:
        return
    profile = render_profile(outbox.agent, outbox.relays)
    warn(
        "what you wrote down to get it back leads to the old vault, which who has the old key can"
        " write",
        f"write down instead: {profile}",
    )
    kept = [row for row in told["relays"] if row["kept"]]
    if told["problem"] or len(kept) < len(outbox.relays):
        why = told["problem"] or f"{len(kept)} of {len(outbox.relays)} relays keep the new one"
        warn(printable(why), "it is tried again by itself; see: avault replica status")


def push_to_relays(terminal: Terminal) -> int:
    """Bring vault and relays level, and say how they are."""
    told = bring_replica_level(terminal.places, take=True, send=True, insist=True)
    if terminal.want_json:
        put(json.dumps({"ok": True, **told}, indent=2) + "\n")
    else:
        tell_relays(told)
    kept = [row for row in told["relays"] if row["kept"]]
    if len(kept) < len(told["relays"]) or told["problem"]:
        why = told["problem"] or f"{len(kept)} of {len(told['relays'])} relays keep the vault"
        if terminal.want_json:
            return Unavailable.exit_code
        raise Unavailable(why, "it is tried again by itself; see: avault replica status")
    return 0


def tell_way_back(terminal: Terminal) -> None:
    """Say what gets the vault back on a new machine, to be written down now."""
    outbox = Outbox.load(terminal.places)
    if len(outbox.relays) == 1:
        warn(
            "one relay alone can keep the newest copy back, and nobody would know",
            "add one that other people run: avault replica add RELAY",
        )
    if outbox.agent and outbox.relays:
        profile = render_profile(outbox.agent, outbox.relays)
        say(f"write this down, to get it back: avault recover --from-relays {profile}")


def tell_relays(told: dict[str, object]) -> None:
    """What relays keep, as a table; and what is wrong."""
    rows = [("RELAY", "KEEPS IT", "SINCE", "SAID")]
    relays = told["relays"]
    for row in relays if isinstance(relays, list) else []:
        age = render_age(time.time() - row["time"]) + " ago" if row["time"] else "-"
        rows.append((row["url"], "yes" if row["kept"] else "no", age, row["said"] or "-"))
    if len(rows) > 1:
        put_table(rows)
    else:
        say("no relay keeps this vault")
    taken, problems = told.get("taken"), told.get("problems")
    if taken:
        say(f"taken in: {taken} copy(s) of other machines")
    for problem in problems if isinstance(problems, list) else []:
        warn(printable(problem))


@command("replica status")
def cmd_replica_status(terminal: Terminal) -> int:
    """usage: avault replica status [--json]

    Which relays keep the vault, since when, and what they said; and what to write
    down, to get it back on a new machine. For relays that admit by key, the npub
    under which the ciphertext is there. It asks no relay.
    """
    told = (
        bring_replica_level(terminal.places)
        if terminal.is_running()
        else describe_relays(terminal.places)
    )
    outbox, progress = Outbox.load(terminal.places), ReplicaProgress.load(terminal.places)
    urls = [row["url"] for row in told["relays"]]
    author = progress.content["author"]
    profile = render_profile(outbox.agent, urls) if outbox.agent and urls else None
    fields = {
        "agent_npub": to_npub(outbox.agent) if outbox.agent else None,
        "replica_npub": to_npub(author) if author else None,
        "nprofile": profile,
    }
    if terminal.want_json:
        return show(terminal, {"ok": True, **fields, **told})
    tell_relays(told)
    if not urls:
        say("hint: to keep copies on relays: avault replica add RELAY RELAY")
    if told.get("problem"):
        warn(printable(told["problem"]))
    if profile:
        put(f"\nCiphertext under: {fields['replica_npub']}\n")
        put(f"To get it back:   avault recover --from-relays {profile}\n")
    return 0


@command("replica keep", option("--take", is_flag=True), option("--send", is_flag=True))
def cmd_replica_keep(terminal: Terminal, take: bool, send: bool) -> int:
    """usage: avault replica keep [--take] [--send]

    Lays ready what relays are to have, takes in what they have, sends; and says
    in JSON how the relays are. The daemon runs this; `avault status` shows what
    it said.
    """
    os.nice(10)  # nobody waits for it
    told = bring_replica_level(terminal.places, take, send)
    wait = None if told["next"] is None else max(told["next"] - time.time(), 0.0)
    put(json.dumps({**told, "wait": wait}) + "\n")
    return 0
