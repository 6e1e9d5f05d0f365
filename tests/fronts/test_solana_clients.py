"""Paying on Solana from programs: avault sign --send, and the signer that references/solana.md has for solana-keychain.

The node is a stand-in that answers in a node's words: behind it LiteSVM takes, or refuses, each transaction.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Machine
from rpc_node import RpcNode

import avault

pytest.importorskip("cryptography", reason="needs cryptography (extra `sign`)")
pytest.importorskip("solders", reason="needs solders (extra `test-wallet`)")
from solders.hash import Hash
from solders.litesvm import LiteSVM
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction
from test_solana_uses import BOB, pay

SOL = 10**9
NSEC = avault.make_keys().secret_key().to_bech32()
ROOT = Path(__file__).resolve().parents[2]


class Node(RpcNode):
    """A node: `sent` are the transactions that it took; `says` an error in place of taking one."""

    def __init__(self) -> None:
        self.cluster, self.sent, self.says = LiteSVM(), list[str](), ""
        super().__init__()

    def answer(self, method: str, params: list[Any]) -> dict[str, Any]:
        if method == "getLatestBlockhash":
            self.cluster.expire_blockhash()
            return {"result": {"value": {"blockhash": str(self.cluster.latest_blockhash())}}}
        if method == "getSignatureStatuses":
            known = params[0][0] in self.sent
            return {"result": {"value": [{"err": None, "confirmationStatus": "confirmed"} if known else None]}}
        if self.says:
            return {"error": {"code": -32002, "message": self.says}}
        made = VersionedTransaction.from_bytes(base64.b64decode(params[0]))
        done = self.cluster.send_transaction(made)
        if hasattr(done, "err"):
            return {"error": {"code": -32002, "message": str(done.err())}}
        self.sent.append(str(made.signatures[0]))
        return {"result": self.sent[-1]}


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.end()


def prepare(machine: Machine) -> None:
    machine.init_unproven(NOSTR_NSEC=NSEC)


@pytest.fixture
def vault(lend: Callable[..., Machine]) -> Machine:
    return lend(prepare)


def make_key(vault: Machine, *rules: str) -> Pubkey:
    mine = rules or [f"cluster localnet mint SOL to {BOB}:Bob tx 1 day 2 fee 0.005"]
    words = [each for rule in mine for each in ("--wallet", rule)]
    return Pubkey.from_string(vault("key", "generate", "solana", "pay/SOL", *words).stdout.split()[0])


def payment(us: Pubkey, amount: int = SOL) -> bytes:
    return to_bytes_versioned(MessageV0.try_compile(us, [pay(amount, us)], [], Hash.default()))


def encoded(content: bytes) -> str:
    return base64.encodebytes(content).decode()


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_a_payment_is_signed_and_sent_with_a_fresh_blockhash(vault: Machine, node: Node) -> None:
    us = make_key(vault)
    assert str(us) in vault("list").stdout
    node.cluster.airdrop(us, 10 * SOL)
    for text in (encoded(payment(us)), encoded(b"\1" + bytes(64) + payment(us, SOL // 2))):
        done = vault("sign", "pay/SOL", "--as", "sol-tx", "--send", node.url, input=text)
        assert done.stdout.strip() == node.sent[-1]
    assert node.cluster.get_balance(BOB) == SOL * 3 // 2
    assert f"pay 0.5 SOL to {BOB} on" in vault("log").stdout
    refused = vault("sign", "pay/SOL", "--as", "sol-tx", "--send", node.url, input=encoded(payment(us)), code=5)
    assert "over the day's limit" in refused.stderr and len(node.sent) == 2
    for url, code, says in (("ftp://x", 2, "no node"), ("http://127.0.0.1:9", 6, "does not answer")):
        done = vault("sign", "pay/SOL", "--as", "sol-tx", "--send", url, input=encoded(payment(us)), code=code)
        assert says in done.stderr
    done = vault("sign", "pay/SOL", "--as", "sol-tx", input="AAAA", code=2)
    assert "no transaction" in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_the_signer_of_the_documents_fits_solana_keychain(vault: Machine, node: Node, tmp_path: Path) -> None:
    """It is run as it stands there, with the real package, in a process that has never had the key."""
    pytest.importorskip("solana_keychain", reason="needs solana-keychain (extra `test-wallet`)")
    us = make_key(vault)
    node.cluster.airdrop(us, 10 * SOL)
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "references" / "solana.md").read_text(), re.DOTALL)
    code = f"""{example}
import base64, json, sys

async def main():
    signer = AvaultSigner("pay", "SOL", sys.argv[1])
    assert await signer.is_available()
    transaction = VersionedTransaction.from_bytes(base64.b64decode(sys.argv[2]))
    done = await signer.sign_transaction(transaction)
    refused = []
    too_much = VersionedTransaction.from_bytes(base64.b64decode(sys.argv[3]))
    for form, what in ((signer.sign_message, b"text"), (signer.sign_transaction, too_much)):
        try:
            await form(what)
        except SignerError as error:
            refused.append(str(error.__cause__))
    print(json.dumps([done.encoded_transaction, done.is_complete, refused]))

asyncio.run(main())
"""
    file = tmp_path / "signer.py"
    file.write_text(code)
    fresh = node.cluster.latest_blockhash()
    messages = [MessageV0.try_compile(us, [pay(amount, us)], [], fresh) for amount in (SOL, SOL + 1)]
    good, bad = (bytes(VersionedTransaction.populate(each, [Signature.default()])) for each in messages)
    words = [sys.executable, str(file), str(us), base64.b64encode(good).decode(), base64.b64encode(bad).decode()]
    whole, is_complete, refused = json.loads(
        subprocess.run(words, env=vault.env, cwd=vault.top, capture_output=True, text=True, check=True, timeout=60).stdout
    )
    assert is_complete and len(refused) == 2
    assert "no rule lets it sign messages" in refused[0] and "more than the 1" in refused[1]
    assert not hasattr(node.cluster.send_transaction(VersionedTransaction.from_bytes(base64.b64decode(whole))), "err")
    assert node.cluster.get_balance(BOB) == SOL
