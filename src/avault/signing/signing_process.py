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
from avault.process import harden, introduce_helper
from avault.protocol import Frames, decode_frame, encode_frame
from avault.signing.ssh_uses import LONGEST_SSH, decode_use, describe_binds, read_binds
from avault.ssh_wire import decode_base64, encode_base64

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from avault.protocol import Message


MOST_TIME = 20.0  # seconds of a processor for one answer: to make an RSA key takes a few


class NeedsPassphrase(Exception):
    """A key's file is encrypted, and no passphrase came with it."""


class KeySigner:
    """Does what the keyholder says, with keys that it gives. `made` is avault_extras/signing."""

    def __init__(self, made: Any) -> None:
        self.made, self.keys = made, made.Keys()

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
            self.keys.forget(message.get("keys", []))
            return {}
        if what == "make":
            return {"value": self.made.make_key(str(message.get("kind")))}
        if what == "take":
            data = str(message.get("file")).encode()
            try:
                return {"value": self.made.take_key(data, message.get("passphrase"))}
            except NeedsPassphrase:
                return {"needs_passphrase": True}
        raise Usage("no such thing to do")

    def sign(self, message: Message) -> str:
        """A signature of what is understood; raises Usage, Denied."""
        decode_use(message, self.made.verify)
        if encode_base64(self.public(message)) != message["public"]:
            raise Denied("that is for another key")
        payload = decode_base64(message["payload"], LONGEST_SSH)
        return encode_base64(self.keys.sign(message["key"], payload, message["flags"]))

    def public(self, message: Message) -> bytes:
        """The public half of the key that a message is about, and may bring; raises Usage."""
        if "value" in message:
            self.keys.take(message["value"])
        return bytes(self.keys.public(message["key"]))


def answer_signing(signer: KeySigner | AvaultError, message: Message) -> Message:
    """The answer to one message, whatever comes of it."""
    try:
        if isinstance(signer, AvaultError):
            raise signer
        answer: Message = {"ok": True, **signer.do(message)}
    except Exception as error:  # its text may carry what it was about
        answer = complain(error).to_dict()
    return {"id": message.get("id"), **answer}


def open_key_signer() -> KeySigner | AvaultError:
    """Who does the work, or why nobody can: the package is not installed.

    Nothing besides comes along: cryptography would take bcrypt, where it is there.
    """
    sys.modules.setdefault("bcrypt", None)  # type: ignore[arg-type]
    try:
        return KeySigner(load_extra("signing", "sign"))
    except AvaultError as error:
        return error


def serve_signing(sock: socket.socket, signer: KeySigner | AvaultError, most: float = 0.0) -> None:
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
