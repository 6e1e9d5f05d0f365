"""A node of Solana's, as avault sign --send asks it; and what is signed for Solana on stdin."""

from __future__ import annotations

import binascii
import json
import sys
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, TimedOut, Unavailable, Usage, printable
from avault.signing.solana_messages import SIGNATURE_BYTES, SolanaMessage, put_blockhash
from avault.signing.solana_uses import LONGEST_SOLANA
from avault.ssh_wire import encode_base64
from avault.vault.solana_text import decode_base58

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    # asks the daemon to sign; is given what answers that it may go on
    AskToSign = Callable[[Callable[[dict[str, Any]], dict[str, Any]]], dict[str, Any]]


LONGEST_RESULT = 1 << 20  # bytes of a node's
SOLANA_NODE_TIME = 20.0  # seconds for an answer
LOOK_FIRST = "it may still be taken: look before you pay again"
TAKEN_TIME, TAKEN_PAUSE = 90.0, 1.0  # seconds: a blockhash lives about 60


class SolanaNode:
    """Answers by JSON-RPC over HTTP, at a URL; raises Usage for what is none."""

    def __init__(self, url: str) -> None:
        from urllib.parse import urlsplit

        try:
            self.parts = urlsplit(url)
            self.port = self.parts.port
        except ValueError:
            self.parts = urlsplit("")
        if self.parts.scheme not in ("http", "https") or not self.parts.hostname:
            raise Usage(
                "that is no node of Solana's", "as in: --send https://api.devnet.solana.com"
            )

    def call(self, method: str, *params: object) -> Any:
        """The result of a method; raises Unavailable, and AvaultError with what the node says."""
        import http.client

        is_safe, host = self.parts.scheme == "https", str(self.parts.hostname)
        kind = http.client.HTTPSConnection if is_safe else http.client.HTTPConnection
        connection = kind(host, self.port, timeout=SOLANA_NODE_TIME)
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": [*params]}
        path = f"{self.parts.path or '/'}{f'?{self.parts.query}' if self.parts.query else ''}"
        headers = {"Content-Type": "application/json"}
        try:
            connection.request("POST", path, json.dumps(request), headers)
            answer = json.loads(connection.getresponse().read(LONGEST_RESULT))
        except (OSError, ValueError, RecursionError, http.client.HTTPException):
            raise Unavailable(f"the node at {printable(host, 80)} does not answer") from None
        finally:
            connection.close()
        if not isinstance(answer, dict) or "result" not in answer:
            error = answer.get("error") if isinstance(answer, dict) else None
            said = error.get("message") if isinstance(error, dict) else None
            raise AvaultError(f"the node says: {printable(str(said or 'nothing'), 200)}")
        return answer["result"]

    def fresh_blockhash(self) -> str:
        """One that is good for about a minute; raises Unavailable."""
        found = self.call("getLatestBlockhash", {"commitment": "confirmed"})
        try:
            text = found["value"]["blockhash"]
            decode_base58(text, 32)
        except (KeyError, TypeError, ValueError):
            raise Unavailable("the node has no blockhash", "try another one") from None
        return str(text)

    def wait(self, signature: str) -> None:
        """Until a transaction is confirmed; raises AvaultError where it failed, or TimedOut."""
        until = time.monotonic() + TAKEN_TIME
        while time.monotonic() < until:
            found = self.call("getSignatureStatuses", [signature])
            [status] = found["value"] if isinstance(found, dict) and found.get("value") else [None]
            if isinstance(status, dict):
                if status.get("err"):
                    raise AvaultError(f"the transaction {signature} failed", "its fee is paid")
                if status.get("confirmationStatus") in ("confirmed", "finalized"):
                    return
            time.sleep(TAKEN_PAUSE)
        raise TimedOut(
            f"nobody has confirmed {signature} yet",
            LOOK_FIRST,
        )


def read_message() -> bytes:
    """The message of a transaction on stdin, of that or of the whole, in base64; raises Usage."""
    try:
        text = sys.stdin.buffer.read(4 * LONGEST_SOLANA).decode()
        content = binascii.a2b_base64("".join(text.split()), strict_mode=True)
        return find_message(content)
    except ValueError as error:
        said = printable(str(error), 80)
        raise Usage(
            f"what is on stdin is no transaction: {said}", "its message in base64, or the whole"
        ) from None


def find_message(content: bytes) -> bytes:
    """The message of a transaction, of that or of the whole; raises ValueError."""
    count = content[0] if content else 0
    rest = content[1 + count * SIGNATURE_BYTES :]
    try:
        if rest and len(SolanaMessage(rest).signers) == count:
            return rest
    except ValueError:
        pass
    SolanaMessage(content)
    return content


def sign_and_send(ask: AskToSign, node: SolanaNode, content: bytes) -> dict[str, Any]:
    """Have a message signed with a blockhash from after the approval, and give it to a node.

    Raises AvaultError. Once it is given, it may be taken, whatever the node says.
    """
    if len(SolanaMessage(content).signers) != 1:
        raise Usage("others sign it, too, so it is not sent from here", "leave --send out")
    made = [content]
    node.fresh_blockhash()  # nobody is asked for what cannot be sent then

    def go_on(_: dict[str, Any]) -> dict[str, Any]:
        blockhash = node.fresh_blockhash()
        made[0] = put_blockhash(content, decode_base58(blockhash, 32))
        return {"go": True, "blockhash": blockhash}

    answer = ask(go_on)
    signature = str(answer["signature"])
    whole = b"\1" + decode_base58(signature, SIGNATURE_BYTES) + made[0]
    try:
        node.call("sendTransaction", encode_base64(whole), {"encoding": "base64"})
        node.wait(signature)
    except AvaultError as error:
        if signature not in error.message:
            error.message += f"; signed, and perhaps taken, is {signature}"
            error.hint = LOOK_FIRST
        raise
    return answer
