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
from avault.keys.hardening import harden, introduce_helper
from avault.keys.nostr import public_hex
from avault.protocol import Frames, decode_frame, encode_frame
from avault.signing.evm_uses import EVM_USES, decode_evm
from avault.signing.nostr_keys import NostrKeys, make_nostr_key, take_nostr_key
from avault.signing.nostr_uses import decode_nostr
from avault.signing.solana_uses import SOLANA_USES, decode_solana
from avault.signing.ssh_uses import LONGEST_SSH, decode_use, describe_binds, read_binds
from avault.signing.word_trees import are_words
from avault.ssh_wire import decode_base64, encode_base64
from avault.vault.nostr_rules import NOSTR_USES
from avault.vault.signing_keys import KINDS_NAMED, is_evm_key, is_nostr_key, is_solana_key

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
        self.evm: Any = None
        self.solana: Any = None

    @property
    def made(self) -> Any:
        """What signs for SSH; raises Unavailable where its package is not installed."""
        if isinstance(self.extra, AvaultError):
            raise self.extra
        return self.extra

    def open_evm(self) -> Any:
        """What signs for Ethereum, from its first use on; raises Unavailable."""
        made = load_extra("evm", "sign")
        self.evm = self.evm or made.EvmKeys()
        return made

    def open_solana(self) -> Any:
        """What signs for Solana, from its first use on; raises Unavailable."""
        made = load_extra("solana_keys", "sign")
        self.solana = self.solana or made.SolanaKeys()
        return made

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
            if kind == "evm":
                return {"value": self.open_evm().make_evm_key()}
            if kind == "solana":
                return {"value": self.open_solana().make_solana_key()}
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
        """The key in a file, as it is kept; or that it wants a passphrase, or a path."""
        passphrase, path, value = message.get("passphrase"), message.get("path"), None
        file, kind = str(message.get("file")), message.get("kind")
        try:
            if kind == "nostr":
                value = take_nostr_key(file, passphrase, path)
            elif kind == "solana":
                value = self.open_solana().take_solana_key(file, passphrase, path)
            elif kind == "evm" and are_words(file):
                value = self.take_words(file, passphrase, path)
            elif are_words(file):
                which = ", ".join(KINDS_NAMED)
                raise Usage("words are a tree of keys", f"say which: --kind, with one of: {which}")
            elif path is not None:
                raise Usage("a path is for words", "leave --path out")
            elif kind == "evm":
                value = self.open_evm().take_evm_key(file, passphrase)
            else:
                value = self.made.take_key(file.encode(), passphrase)
        except NeedsPassphrase:
            pass
        if isinstance(value, dict):
            return {"paths": value}
        return {"needs_passphrase": True} if value is None else {"value": value}

    def take_words(self, words: str, passphrase: str | None, path: str | None) -> str | None:
        """The key for Ethereum of words at a path, as it is kept; None without a passphrase."""
        if passphrase is None:
            return None
        made, tree = self.open_evm(), load_extra("word_keys", "sign")
        return str(
            made.keep_evm_key(made.load_secret(tree.take_evm_words(words, passphrase, path)))
        )

    def sign(self, message: Message) -> str:
        """A signature of what is understood; raises Usage, Denied."""
        is_nostr, is_evm = (message.get("as") in each for each in (NOSTR_USES, EVM_USES))
        is_solana = message.get("as") in SOLANA_USES
        if is_evm:
            use = decode_evm(message)
        elif is_solana:
            use = decode_solana(message)
        else:
            use = decode_nostr(message) if is_nostr else decode_use(message, self.made.verify)
        if encode_base64(self.public(message)) != message["public"]:
            raise Denied("that is for another key")
        if is_nostr:
            return self.nostr.sign(message["key"], use)
        if is_evm:
            return str(self.evm.sign(message["key"], use))
        payload = decode_base64(message["payload"], LONGEST_SSH)
        if is_solana:
            self.open_solana()
            return str(self.solana.sign(message["key"], payload))
        return encode_base64(self.made_keys().sign(message["key"], payload, message["flags"]))

    def made_keys(self) -> Any:
        """The keys that sign for SSH; raises Unavailable."""
        return self.keys if self.made else None

    def find_keys(self, value: str) -> Any:
        """Those among which a key belongs, by its form; raises Unavailable."""
        if is_evm_key(value):
            self.open_evm()
            return self.evm
        if is_solana_key(value):
            self.open_solana()
            return self.solana
        return self.nostr if is_nostr_key(value) else self.made_keys()

    def public(self, message: Message) -> bytes:
        """The public half of the key that a message is about, and may bring; raises Usage."""
        value = message.get("value")
        if value is not None:
            self.find_keys(value).take(value)
        if self.evm and message["key"] in self.evm.loaded:
            return bytes(self.evm.public(message["key"]))
        if message["key"] in self.nostr.loaded:
            return bytes.fromhex(public_hex(self.nostr.find(message["key"])))
        if self.solana and message["key"] in self.solana.loaded:
            return bytes(self.solana.public(message["key"]))
        return bytes(self.made_keys().public(message["key"]))

    def forget(self, identities: list[str]) -> Message:
        """Have these no more."""
        for each in identities:
            self.nostr.loaded.pop(each, None)
            if self.evm:
                self.evm.loaded.pop(each, None)
            if self.solana:
                self.solana.loaded.pop(each, None)
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
