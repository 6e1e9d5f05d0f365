"""The process that decodes and signs: `avault.py signing`. It ends with who gives it keys.

Stdin is a socket, by which it is met once it is hardened (see `introduce_helper`). Then frames:
{"id", "do", …} from the keyholder, and for each one answer with that id. It has no key until the
keyholder gives it one, with the first thing to sign, and it decodes what it signs itself.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Denied, Usage, complain
from avault.extras import load_extra
from avault.nostr import public_hex
from avault.process import harden, introduce_helper
from avault.protocol import Frames, decode_frame, encode_frame
from avault.signing.nostr_keys import NostrKeys, make_nostr_key, take_nostr_key
from avault.signing.nostr_uses import decode_nostr
from avault.signing.ssh_uses import LONGEST_SSH, decode_use, describe_binds, read_binds
from avault.ssh_wire import decode_base64, encode_base64
from avault.vault.nostr_rules import NOSTR_USES
from avault.vault.signing_keys import is_nostr_key

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from avault.protocol import Message


MOST_TIME = 20.0  # seconds of a processor for one answer: to make an RSA key takes a few


class NeedsPassphrase(Exception):
    """A key's file is encrypted, and no passphrase came with it."""


class KeySigner:
    """Does what the keyholder says, with keys that it gives.

    `made` is avault_extras/signing, or why it is not there: for Nostr nothing of it is needed.
    """

    def __init__(self, made: Any) -> None:
        self.extra, self.nostr = made, NostrKeys()
        self.keys = None if isinstance(made, AvaultError) else made.Keys()

    @property
    def made(self) -> Any:
        """What signs for SSH; raises Unavailable where its package is not installed."""
        if isinstance(self.extra, AvaultError):
            raise self.extra
        return self.extra

    def do(self, message: Message) -> Message:
        """The answer to one message; raises AvaultError."""
        what = message.get("do")
        if what == "decode":
            return {"use": decode_use(message, self.made.verify)}
        if what == "binds":
            return describe_binds(read_binds(message.get("binds", []), self.made.verify))
        if what == "sign":
            return {"signature": self.sign(message)}
        if what == "prove":
            return {"public": encode_base64(self.public(message))}
        if what == "forget":
            return self.forget(message.get("keys", []))
        if what == "make":
            kind = str(message.get("kind"))
            return {"value": make_nostr_key() if kind == "nostr" else self.made.make_key(kind)}
        if what == "take":
            return self.take(message)
        if what == "open":
            self.public(message)
            return self.nostr.open(message["key"], message.get("event"))
        if what == "seal":
            self.public(message)
            return {"event": self.nostr.seal(message["key"], message["peer"], message["text"])}
        raise Usage("no such thing to do")

    def take(self, message: Message) -> Message:
        """The key in a file, as it is kept; or that it wants a passphrase."""
        passphrase, value = message.get("passphrase"), None
        try:
            if message.get("kind") == "nostr":
                value = take_nostr_key(str(message.get("file")), passphrase)
            else:
                value = self.made.take_key(str(message.get("file")).encode(), passphrase)
        except NeedsPassphrase:
            pass
        return {"needs_passphrase": True} if value is None else {"value": value}

    def sign(self, message: Message) -> str:
        """A signature of what is understood; raises Usage, Denied."""
        is_nostr = message.get("as") in NOSTR_USES
        use = decode_nostr(message) if is_nostr else decode_use(message, self.made.verify)
        if encode_base64(self.public(message)) != message["public"]:
            raise Denied("that is for another key")
        if is_nostr:
            return self.nostr.sign(message["key"], use)
        payload = decode_base64(message["payload"], LONGEST_SSH)
        return encode_base64(self.made_keys().sign(message["key"], payload, message["flags"]))

    def made_keys(self) -> Any:
        """The keys that sign for SSH; raises Unavailable."""
        return self.keys if self.made else None

    def public(self, message: Message) -> bytes:
        """The public half of the key that a message is about, and may bring; raises Usage."""
        value = message.get("value")
        if value is not None:
            (self.nostr if is_nostr_key(value) else self.made_keys()).take(value)
        if message["key"] in self.nostr.loaded:
            return bytes.fromhex(public_hex(self.nostr.find(message["key"])))
        return bytes(self.made_keys().public(message["key"]))

    def forget(self, identities: list[str]) -> Message:
        """Have these no more."""
        for each in identities:
            self.nostr.loaded.pop(each, None)
        if self.keys:
            self.keys.forget(identities)
        return {}


def answer_signing(signer: KeySigner, message: Message) -> Message:
    """The answer to one message, whatever comes of it."""
    try:
        answer: Message = {"ok": True, **signer.do(message)}
    except Exception as error:  # its text may carry what it was about
        answer = complain(error).to_dict()
    return {"id": message.get("id"), **answer}


def open_key_signer() -> KeySigner:
    """Who does the work. For SSH nobody can where the package for that is not installed.

    Nothing besides comes along: cryptography would take bcrypt, where it is there.
    """
    sys.modules.setdefault("bcrypt", None)  # type: ignore[arg-type]
    try:
        return KeySigner(load_extra("signing", "sign"))
    except AvaultError as error:
        return KeySigner(error)


def serve_signing(sock: socket.socket, signer: KeySigner, most: float = 0.0) -> None:
    """Answer what comes, until nothing does any more.

    What takes `most` seconds of a processor ends this process, whatever it is at (SIGPROF).
    """
    frames = Frames()
    while piece := sock.recv(1 << 16):
        frames.feed(piece)
        while (frame := frames.next()) is not None:
            signal.setitimer(signal.ITIMER_PROF, most)
            answer = answer_signing(signer, decode_frame(frame))
            signal.setitimer(signal.ITIMER_PROF, 0)
            sock.sendall(encode_frame(answer))


def main_signing(argv: list[str]) -> NoReturn:
    """Serve, and end by _exit: the keys go with it."""
    try:
        harden("avault-signing", die_with_parent=True)
        with introduce_helper(0) as own:
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            serve_signing(own, open_key_signer(), MOST_TIME)
    finally:
        os._exit(0)
