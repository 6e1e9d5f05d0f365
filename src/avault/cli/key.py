"""avault key: keys that sign, made or taken in."""

from __future__ import annotations

import getpass
import os
import sys
from typing import TYPE_CHECKING

from avault.cli.custody import show
from avault.cli.nostr_words import NOSTR_OPTIONS, name_nostr_uses
from avault.cli.openssh_file import need_terminal, open_key_file
from avault.cli.servers import name_uses_of
from avault.cli.wallet_words import WALLET_OPTIONS, name_wallet_uses
from avault.client import Connection
from avault.errors import AvaultError, Denied, NotFound, Usage, printable
from avault.systemd import NoDaemon
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import put, say, warn
from avault.terminal.terminal import Terminal
from avault.terminal.words import parse_duration, split_name
from avault.vault.signing_keys import KINDS_MADE, KINDS_NAMED, way_of_kind

if TYPE_CHECKING:
    from typing import Any


LONGEST_KEY_FILE = 65_536
LETTING = {  # of a way: the fields that let a key sign, an example, and what is said without
    "ssh": (("servers", "namespaces"), "--server NAME", "no --server and no --namespace"),
    "sign": (("kinds", "ciphers"), "--kinds 1", "no --kinds and no --ciphers"),
    "wallet": (("wallet",), "--wallet RULE", "no --wallet"),
}
USES = (
    option("--ask", is_flag=False, flag_value="each"),
    option("--server", "servers", multiple=True),
    option("--user", "users", multiple=True),
    option("--namespace", "namespaces", multiple=True),
    *NOSTR_OPTIONS,
    *WALLET_OPTIONS,
)


@command("key generate", argument("kind"), argument("group"), *USES)
def cmd_key_generate(terminal: Terminal, kind: str, group: str, **uses: Any) -> int:
    """usage: avault key generate KIND GROUP/KEY [--server SERVER]… [--user USER]…
                          [--namespace NS]… [--ask [D]] [--json]
           avault key generate nostr GROUP/KEY [--kinds K,…] [--ciphers C,…]
                          [--peer NPUB|any]… [--ask [D]] [--json]
           avault key generate evm|solana GROUP/KEY [--wallet RULE]… [--json]

    Makes a key that signs, and prints its public half. Nobody ever sees the private
    one: it is guarded from the first, and leaves the vault in no other way than by
    signing. What is not named, it does not sign: to let it sign more later, the
    phone has to agree (avault guard).

    Of the kind ed25519, ecdsa-p256 or rsa it is for SSH (avault ssh): it signs in to
    the servers that --server names, as any user or those of --user, and signs files
    and commits for the namespaces of --namespace (git, file). A server is
    NAME=SHA256:…, the fingerprint of its host key; or NAME alone, whose keys are
    looked up in known_hosts, and shown. Or one of: any (every server that proves
    which it is), unproven (also for clients that have no server prove it: not
    OpenSSH's), forwarded (also through a forwarded agent).

    Of the kind nostr it signs events of the kinds of --kinds, and encrypts or
    decrypts texts with the --peer named, by the --ciphers named: nip44_encrypt,
    nip44_decrypt, nip04_encrypt, nip04_decrypt (avault bunker, avault sign).

    With --ask the phone is asked before it signs: for each use, or once in a time
    (--ask 5m) for the same program and destination. The key is in no process until
    then: it is made sealed, and opened in one that ends with the use.

    Of the kind evm it pays on Ethereum and chains like it, of the kind solana on
    Solana, within the rules of --wallet (avault wallet): how much of what, to whom, at
    once and in a day.

      avault key generate ed25519 ops/GITHUB --server github.com --user git --namespace git
      avault key generate nostr nostr/WRITER --kinds 1,7
      avault key generate evm shop/PAY --wallet 'chain 8453 token ETH day 0.01 fee 0.001'
    """
    if kind not in KINDS_MADE:
        raise Usage(
            f"no such kind of key: {printable(kind, 40)}", f"one of: {', '.join(KINDS_MADE)}"
        )
    fields = {"action": "generate", "kind": kind, **name_key(group)}
    return show_key(terminal, terminal.ask("key", **fields, **name_all_uses(**uses)))


def name_all_uses(
    kinds: str | None,
    ciphers: str | None,
    peers: tuple[str, ...],
    wallet: tuple[str, ...],
    ask: str | None = None,
    **uses: tuple[str, ...],
) -> dict[str, Any]:
    """The fields of a request that say what a key may sign; raises Usage."""
    nostr = name_nostr_uses(kinds, ciphers, peers)
    named = {**name_uses_of(**uses), **nostr, **name_wallet_uses(wallet)}
    return named if ask is None else {**named, "ask": read_ask(ask)}


def read_ask(ask: str) -> int:
    """For how many seconds an approval is good, as --ask says it; raises Usage."""
    return 0 if ask == "each" else int(parse_duration(ask) or 0)


@command(
    "key import",
    argument("file"),
    argument("group"),
    option("--kind"),
    option("--path"),
    option("--no-passphrase", is_flag=True),
    *USES,
)
def cmd_key_import(
    terminal: Terminal,
    file: str,
    group: str,
    kind: str | None,
    path: str | None,
    no_passphrase: bool,
    **uses: Any,
) -> int:
    """usage: avault key import FILE|- GROUP/KEY [--server SERVER]… [--user USER]…
                        [--namespace NS]… [--ask [D]] [--json]
           avault key import FILE|- GROUP/KEY --kind nostr [--kinds K,…]
                        [--ciphers C,…] [--peer NPUB|any]… [--ask [D]] [--json]
           avault key import FILE|- GROUP/KEY --kind nostr|evm|solana [--path PATH]
                        [--no-passphrase] [--wallet RULE]… [--json]

    Takes a private key from a file, as ssh-keygen or openssl writes one, or a JWK of
    Ed25519 or P-256, and prints its public half. A passphrase is asked for once, and
    not kept: the vault's protection is in its place. With --kind nostr it is an nsec,
    its hex, or an ncryptsec; the agent's and an operator's are refused. With --kind evm it is
    64 hex digits, or a keystore's JSON; with --kind solana solana-keygen's id.json, or
    base58 of 64 bytes, as wallets write it.

    All three can be taken from 12 to 24 words (BIP-39, English): the one key that
    --path leads to, which is m/44'/1237'/0'/0/0 for nostr and m/44'/60'/0'/0/0 for evm
    where it is not named. Of the same words wallets and solana-keygen take different
    keys: both addresses are shown, and --path says which. The words are not kept. Their
    passphrase is asked for, and may be empty; --no-passphrase says that there is none.

    The rest is as with a key that is made here: see avault key generate --help. The
    file stays: delete it when the key has signed.

      avault key import ~/.ssh/id_ed25519 ops/GITHUB --server github.com
      avault key import words.txt pay/SOL --kind solana --path "m/44'/501'/0'/0'"
    """
    if kind not in (None, *KINDS_NAMED):
        hint = f"one of: {', '.join(KINDS_NAMED)}; for SSH keys and JWKs leave --kind out"
        raise Usage("no such kind of key to import", hint)
    text = open_key_file(read_key_file(file))
    fields = {"action": "import", **name_key(group), **name_all_uses(**uses)}
    fields |= {name: each for name, each in (("kind", kind), ("path", path)) if each}

    def send(passphrase: str | None) -> dict[str, Any]:
        try:
            connection = Connection(terminal.places)
        except NoDaemon:
            raise terminal.no_daemon() from None
        try:
            return connection.request("key", {"file": text, "passphrase": passphrase}, **fields)
        finally:
            connection.close()

    answer = send("" if no_passphrase else None)
    if answer.get("needs_passphrase") and not no_passphrase:
        answer = send(ask_passphrase())
    if answer.get("needs_passphrase"):
        raise Denied("the key has a passphrase, and it is not empty", "try again")
    if found := answer.get("paths"):
        raise choose_path(found)
    code = show_key(terminal, answer)
    if file != "-":
        say(f"{printable(file)} has the key still: once it signs from here, delete it")
    return code


def choose_path(found: dict[str, str]) -> AvaultError:
    """What says that words give several keys: their addresses, by path."""
    shown = ", or ".join(f'{public} (--path "{path}")' for path, public in found.items())
    return Usage("the same words give more than one key: say which with --path", shown)


def name_key(name: str) -> dict[str, Any]:
    """GROUP and KEY of a name; raises Usage."""
    group, key = split_name(name, None)
    if key is None:
        raise Usage("a key needs a name of its own", "as in: ops/GITHUB")
    return {"group": group, "key": key}


def read_key_file(path: str) -> str:
    """The text of a key's file, or of stdin; raises NotFound, Usage."""
    try:
        if path == "-":
            data = sys.stdin.buffer.read(LONGEST_KEY_FILE + 1)
        else:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as opened:
                data = opened.read(LONGEST_KEY_FILE + 1)
        if len(data) > LONGEST_KEY_FILE:
            raise ValueError
        return data.decode()
    except (ValueError, IsADirectoryError):
        raise Usage("that is no private key", "as ssh-keygen or openssl writes one") from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise NotFound(f"cannot read {printable(path)}: {why}", "name the key's file") from None


def ask_passphrase() -> str:
    """The passphrase of a key's file, from the terminal; raises Usage where there is none."""
    need_terminal(
        "the key may have a passphrase, and there is no terminal to ask for it",
        "words without one: --no-passphrase; of a file, take it off: ssh-keygen -p -f COPY",
    )
    return getpass.getpass("avault: the key's passphrase: ")


def show_key(terminal: Terminal, answer: dict[str, Any]) -> int:
    """Print a key's public half, and say what it signs."""
    if terminal.want_json:
        return show(terminal, answer)
    put(f"{answer['public']} {answer['name']}\n")
    way = way_of_kind(answer["kind"])
    if way == "ssh":
        say(f"{answer['name']} is {answer['kind']} {answer['fingerprint']}")
    say(f"{answer['name']} is guarded: {answer['guard']['words']}")
    sets, example, lacks = LETTING[way]
    if not any(any(answer["guard"].get(each) or [[]]) for each in sets):
        again = f"avault guard {answer['name']} {example}"
        warn(f"it signs nothing yet: {lacks} is named", again)
    return 0
