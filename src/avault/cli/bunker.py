"""avault bunker: who is invited to have a key sign for Nostr, a child agent or an app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avault.cli.custody import show
from avault.cli.key import name_key
from avault.cli.nostr_words import name_kinds, name_peers, split_words
from avault.daily import is_number
from avault.errors import AvaultError, Usage
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import put, put_table, say, warn
from avault.terminal.terminal import Terminal
from avault.terminal.words import parse_duration
from avault.vault.nostr_rules import ANY_PEER, TELLING_KINDS

if TYPE_CHECKING:
    from typing import Any


@command(
    "bunker invite",
    argument("name"),
    option("--key"),
    option("--kinds"),
    option("--methods"),
    option("--peer", "peers", multiple=True),
    option("--for", "duration", default="7d"),
    option("--rate"),
    option("--relay", "relays", multiple=True),
)
def cmd_bunker_invite(
    terminal: Terminal,
    name: str,
    key: str | None,
    kinds: str | None,
    methods: str | None,
    peers: tuple[str, ...],
    duration: str,
    rate: str | None,
    relays: tuple[str, ...],
) -> int:
    """usage: avault bunker invite NAME --key GROUP/KEY [--kinds K,…] [--methods M,…]
                            [--peer NPUB|any]… [--for D] [--rate N/min]
                            [--relay URL]… [--json]

    Invites a child agent or an app to have a key sign for Nostr (NIP-46), and prints
    its bunker:// address. The secret in it is good for one client, the first; after
    that it is the client's own key that counts. It never gets the key, and no more
    than is named here, of what the key's guard lets through: events of these kinds;
    texts that are encrypted or decrypted, by the methods nip44_encrypt,
    nip44_decrypt, nip04_encrypt and nip04_decrypt, with these peers. Nothing is
    encrypted for the agent or an operator, or decrypted from them, ever.

    Clients find it at a relay of avault's own, on this machine; --relay is for those
    elsewhere. --for is how long it is good (7d, at most 366d), --rate how many
    requests a minute (60).

      avault bunker invite writer --key nostr/WRITER --kinds 1,7 --for 7d
    """
    if not key:
        raise Usage("which key is to sign?", "as in: --key nostr/WRITER")
    fields: dict[str, Any] = {
        "name": name,
        **name_key(key),
        "kinds": name_kinds(kinds),
        "peers": name_peers(peers),
        "seconds": int(parse_duration(duration) or 0),
        "relays": list(relays),
    }
    if methods is not None:
        fields["methods"] = split_words(methods)
    if rate is not None:
        fields["rate"] = read_rate(rate)
    answer = terminal.ask("bunker", action="invite", **fields)
    told = answer["invitation"]
    for each in told["kinds"]:
        if each in TELLING_KINDS or 30_000 <= each < 40_000:
            what = TELLING_KINDS.get(each, "what takes the place of what was there")
            warn(f"kind {each} is more than a note: {what}")
    if ANY_PEER in peers and any(each.endswith("_decrypt") for each in told["methods"]):
        warn(f"{name} may read all private messages of that key: --peer any")
    look_at_relays(terminal)
    if terminal.want_json:
        return show(terminal, answer)
    put(answer["uri"] + "\n")
    say(f"{name} may ask until {told['until']}; the secret in this address is good once")
    return 0


def read_rate(text: str) -> int:
    """Requests a minute, of N or N/min; raises Usage."""
    number = text.removesuffix("/min")
    if not is_number(number) or not 0 < int(number) <= 600:
        raise Usage("--rate takes 1/min to 600/min")
    return int(number)


def look_at_relays(terminal: Terminal) -> None:
    """Wait until the relays are there, and say which are not."""
    try:
        relays = terminal.ask("nostr")["relays"]
    except AvaultError as error:
        warn(error.message, error.hint or "")
        return
    for each in relays:
        if not each["connected"]:
            warn(f"the relay {each['url']} is not there yet; it is tried again")


@command("bunker list")
def cmd_bunker_list(terminal: Terminal) -> int:
    """usage: avault bunker list [--json]

    Shows who is invited to have a key sign for Nostr, and for what.
    """
    found = terminal.ask("bunker", action="list")["invitations"]
    if terminal.want_json:
        return show(terminal, {"invitations": found})
    rows = []
    for each in found:
        kinds = f"kinds {', '.join(map(str, each['kinds']))}" if each["kinds"] else ""
        ciphers = ", ".join(method for method in each["methods"] if method != "sign_event")
        may = "; ".join(filter(None, [kinds, ciphers]))
        came = "connected" if each["client"] else "nobody came yet"
        limits = f"{each['rate']}/min, until {each['until']}"
        rows.append((each["name"], each["key"], may, limits, came))
    if rows:
        put_table(rows)
    else:
        say("nobody is invited")
    return 0


@command("bunker revoke", argument("name"))
def cmd_bunker_revoke(terminal: Terminal, name: str) -> int:
    """usage: avault bunker revoke NAME [--json]

    Takes an invitation back: who came by it is answered no more, at once.

      avault bunker revoke writer
    """
    terminal.ask("bunker", action="revoke", name=name)
    say(f"{name} is not invited any more")
    return show(terminal, {"ok": True})
