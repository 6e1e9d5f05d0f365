"""What is to be signed by a key that pays, decoded strictly and whole: what is not is refused.

A use is a dictionary with `as`, and what it `does`: pay, approve, call, typed, sign-in or message.
`moves` are what it moves, or lets others move: (token, to whom, amount), where the token b"" is the
chain's own coin; `fee` is the most that the transaction costs besides, `chain` its number, None
where it is for any. `digest` is what is signed, and `made` what it was decoded to.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from avault.errors import Usage
from avault.late import regex
from avault.signing.evm_transactions import Transaction, describe_transaction
from avault.signing.evm_typed import TypedData, understand_typed
from avault.ssh_wire import decode_base64
from avault.vault.evm_address import keccak256, parse_address
from avault.vault.names import DIGITS, LETTERS

if TYPE_CHECKING:
    from typing import Any


EVM_USES = ("evm-tx", "evm-typed", "evm-message")  # of a request's `as`
LONGEST_EVM = 40_000  # bytes of what is to be signed: a request's first frame has it, in base64
SIGN_IN = regex(  # ERC-4361, whole, but for resources: one may hand on rights (ERC-5573)
    r"(?:[a-z][a-z0-9+.-]*://)?([A-Za-z0-9.:\[\]-]{1,80})"
    r" wants you to sign in with your Ethereum account:\n(0x[0-9a-fA-F]{40})\n\n"
    r"(?:([^\n]{1,200})\n)?\nURI: [a-z][a-z0-9+.-]*://([^\n/?#]++)[^\n]*\nVersion: 1\n"
    r"Chain ID: ([0-9]{1,15})\nNonce: ([A-Za-z0-9]{8,40})\nIssued At: [^\n]+"
    r"(?:\nExpiration Time: [^\n]+)?(?:\nNot Before: [^\n]+)?(?:\nRequest ID: [^\n]*)?"
)
# of a text of 32 bytes: a digest has only these letters once in 2^58
OF_TEXTS = LETTERS | DIGITS | set(" .,:-_/!?'")
DIGEST_BYTES = 32
SIGN_IN_WORDS = "wants you to sign in with your"


def decode_evm(request: dict[str, Any]) -> dict[str, Any]:
    """What a request wants signed; raises Usage.

    It has `as`, `payload` (in base64), and `public` (the key's address of 20 bytes, in base64).
    """
    what = request.get("as")
    if what not in EVM_USES:
        raise Usage(f"as is one of: {', '.join(EVM_USES)}", "what is not understood is not signed")
    try:
        own = decode_base64(request.get("public"), 20)
        payload = decode_base64(request.get("payload"), LONGEST_EVM)
        if len(own) != 20:
            raise ValueError("no address")
        if what == "evm-message":
            return {"as": what, **decode_message(payload, own)}
        given = json.loads(payload.decode())
        if not isinstance(given, dict):
            raise ValueError("not an object")
        if what == "evm-typed":
            data = TypedData(given)
            return {"as": what, **understand_typed(data, own), "digest": data.digest, "made": data}
        if given.get("from") is not None and parse_address(given["from"]) != own:
            raise ValueError("it is from another account")
        tx = Transaction(given)
        return {"as": what, **describe_transaction(tx, own), "digest": tx.digest(), "made": tx}
    except (ValueError, RecursionError, TypeError) as error:
        raise Usage(f"not understood, so not signed: {error}") from None


def decode_message(data: bytes, own: bytes) -> dict[str, Any]:
    """A text as personal_sign has it (ERC-191); raises ValueError for what people cannot read."""
    text = data.decode()
    if not text.strip() or not all(each.isprintable() or each in "\n\t" for each in text):
        raise ValueError("a message that is no text, so nobody could say what it is")
    is_digest = len(data) == DIGEST_BYTES and not {*text} <= OF_TEXTS
    if is_digest:  # as a Safe has its owners sign (eth_sign)
        raise ValueError("a message that could be the digest of something else")
    digest = keccak256(b"\x19Ethereum Signed Message:\n%d" % len(data) + data)
    about: dict[str, Any] = {
        "chain": None,
        "fee": 0,
        "value": 0,
        "moves": [],
        "digest": digest,
        "made": text,
    }
    if SIGN_IN_WORDS not in text:
        return {**about, "does": "message"}
    return {**about, "does": "sign-in", **read_sign_in(text, own)}


def read_sign_in(text: str, own: bytes) -> dict[str, Any]:
    """The domain, statement, chain and nonce of a sign-in with Ethereum (ERC-4361).

    Raises ValueError for one of another form, for another account, or for what another has.
    """
    found = SIGN_IN.fullmatch(text)
    if not found or parse_address(found[2]) != own:
        raise ValueError("it says that it is a sign-in, and has not its form, or not this account")
    domain, statement, host, chain, nonce = found.group(1, 3, 4, 5, 6)
    if host.lower() != domain.lower():
        raise ValueError("a sign-in to one domain for what another has")
    return {"domain": domain, "statement": statement or "", "nonce": nonce, "chain": int(chain)}
