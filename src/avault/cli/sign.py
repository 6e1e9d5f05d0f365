"""avault sign: what a key signs of stdin, by the same rules as for everybody."""

from __future__ import annotations

import binascii
import hashlib
import json
import sys
import time
from typing import TYPE_CHECKING

from avault.cli.custody import show
from avault.cli.key import name_key
from avault.cli.nostr_words import name_peers
from avault.cli.solana_node import SolanaNode, read_message, sign_and_send
from avault.errors import Usage
from avault.signing.evm_uses import EVM_USES
from avault.signing.nostr_uses import LONGEST_NOSTR
from avault.signing.solana_uses import SOLANA_USES
from avault.signing.ssh_uses import SSHSIG_MAGIC
from avault.ssh_wire import SshReader, encode_base64, ssh_string
from avault.terminal.commands import argument, command, option
from avault.terminal.talk import put
from avault.terminal.terminal import Terminal
from avault.vault.nostr_rules import NOSTR_USES

if TYPE_CHECKING:
    from typing import Any


SIGNED_AS = ("ssh-sig", *NOSTR_USES, *EVM_USES, *SOLANA_USES)
SSHSIG_VERSION = b"\0\0\0\1"  # PROTOCOL.sshsig of OpenSSH
ARMOR_WIDTH = 70  # PROTOCOL.sshsig of OpenSSH


@command(
    "sign",
    argument("group"),
    option("--as", "form"),
    option("--namespace"),
    option("--peer"),
    option("--send"),
)
def cmd_sign(
    terminal: Terminal,
    group: str,
    form: str | None,
    namespace: str | None,
    peer: str | None,
    send: str | None,
) -> int:
    """usage: avault sign GROUP/KEY --as ssh-sig --namespace NS [--json] < FILE
           avault sign GROUP/KEY --as nostr-event [--json] < EVENT
           avault sign GROUP/KEY --as nip44-encrypt|nip44-decrypt|… --peer NPUB < TEXT
           avault sign GROUP/KEY --as evm-tx|evm-typed|evm-message [--json] < FILE
           avault sign GROUP/KEY --as sol-tx [--send URL] [--json] < TRANSACTION
           avault sign GROUP/KEY --as sol-text [--json] < TEXT

    Signs what is on stdin by a key of the vault, as far as the key's guard lets it,
    and prints the signature: of a file as ssh-keygen -Y sign does, for a namespace;
    of a Nostr event (JSON with kind, content and tags; created_at is now if it is not
    there) the whole event. nip44-encrypt, nip44-decrypt, nip04-encrypt and
    nip04-decrypt are for texts, with a peer. Of a payment it is a transaction with
    its chainId, gas, fees and nonce, or typed data, as JSON; or a text. What is not
    understood is not signed: there is no raw. Why something was not, says avault log.

    sol-tx is a transaction of Solana's, or its message, in base64; its signature is in
    base58. Its blockhash lives about a minute: with --send a fresh one is put in once
    the phone has agreed, and it is given to the node at URL, and waited for.

      avault sign ops/GITHUB --as ssh-sig --namespace file < release.tar.gz
    """
    if form not in SIGNED_AS:
        raise Usage("what is it to be signed as?", f"--as, with one of: {', '.join(SIGNED_AS)}")
    named = name_key(group)
    if form == "ssh-sig":
        return sign_file(terminal, named, namespace)
    if form in SOLANA_USES:
        return sign_solana(terminal, {"as": form, **named}, send)
    text = read_text()
    fields: dict[str, Any] = {"as": form, **named, "payload": encode_base64(text.encode())}
    if form == "nostr-event":
        fields["payload"] = encode_base64(date_event(text).encode())
    elif form in EVM_USES and not peer:
        pass
    elif peer:
        [fields["peer"]] = name_peers((peer,))
    else:
        raise Usage("with whom?", "as in: --peer NPUB")
    answer = terminal.ask("sign", **fields)
    if terminal.want_json:
        return show(terminal, answer)
    put(answer["signature"] + ("\n" if form != "nip44-decrypt" else ""))
    return 0


def sign_solana(terminal: Terminal, fields: dict[str, Any], url: str | None) -> int:
    """Sign what is on stdin for Solana; with a URL, send it to the node there."""
    if fields["as"] == "sol-text":
        content = read_text().encode()
    else:
        content = read_message()
    if url is None:
        answer = terminal.ask("sign", **fields, payload=encode_base64(content))
    elif fields["as"] != "sol-tx":
        raise Usage("only a transaction can be sent", "leave --send out")
    else:

        def ask(go_on: Any) -> dict[str, Any]:
            asked = {**fields, "payload": encode_base64(content), "confirm": True}
            return terminal.ask("sign", value=go_on, **asked)

        answer = sign_and_send(ask, SolanaNode(url), content)
    if terminal.want_json:
        return show(terminal, answer)
    put(f"{answer['signature']}\n")
    return 0


def read_text() -> str:
    """The text on stdin; raises Usage."""
    data = sys.stdin.buffer.read(LONGEST_NOSTR + 1)
    try:
        if len(data) > LONGEST_NOSTR:
            raise ValueError
        return data.decode()
    except ValueError:
        hint = f"at most {LONGEST_NOSTR} bytes of UTF-8"
        raise Usage("what is on stdin is no such text", hint) from None


def date_event(text: str) -> str:
    """An event with a time, which is now where it says none; else as it is."""
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(event, dict):
        event = {"created_at": int(time.time()), "tags": [], **event}
    return json.dumps(event)


def sign_file(terminal: Terminal, named: dict[str, Any], namespace: str | None) -> int:
    """Sign the file on stdin for a namespace, as OpenSSH does (PROTOCOL.sshsig)."""
    if not namespace:
        raise Usage("for which namespace?", "as in: --namespace file")
    hashed = hashlib.sha512()
    while piece := sys.stdin.buffer.read(1 << 20):
        hashed.update(piece)
    about = ssh_string(namespace.encode()) + ssh_string(b"") + ssh_string(b"sha512")
    payload = encode_base64(SSHSIG_MAGIC + about + ssh_string(hashed.digest()))
    answer = terminal.ask("sign", **{"as": "sshsig", **named, "payload": payload})
    if terminal.want_json:
        return show(terminal, answer)
    public = binascii.a2b_base64(answer["public"])
    made = binascii.a2b_base64(answer["signature"])
    SshReader(made).text()  # a signature, or nothing is printed
    whole = SSHSIG_MAGIC + SSHSIG_VERSION + ssh_string(public) + about + ssh_string(made)
    text = encode_base64(whole)
    lines = [text[at : at + ARMOR_WIDTH] for at in range(0, len(text), ARMOR_WIDTH)]
    begin, end = (f"-----{word} SSH SIGNATURE-----" for word in ("BEGIN", "END"))
    put("\n".join([begin, *lines, end]) + "\n")
    return 0
