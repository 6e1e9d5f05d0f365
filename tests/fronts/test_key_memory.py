"""Keys that sign for money, Nostr and files: who has one in memory, while clients use them all at once, and after the lock."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nostr_sdk
import pytest
from harness import Machine, name_children, wait_until
from rpc_node import RpcNode
from test_processes import Memory, linux

import avault

pytest.importorskip("cryptography", reason="needs cryptography (extra `sign`)")
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

NSEC = nostr_sdk.Keys.generate().secret_key().to_bech32()
RAW = serialization.Encoding.Raw
BOB = "0x" + "b0" * 20
RULES = {
    "evm": f"chain 31337 token COIN to {BOB}:Bob tx 3 day 20 fee 0.01",
    "solana": "cluster localnet mint SOL to any tx 1 day 2 fee 0.005",
}
CLIENT = """
import avault, base64, hashlib, json, sys, time, urllib.request
told = json.loads(sys.argv[1])
made = dict(to=told["to"], value="0x1", nonce="0x0", gas="0x5208", maxFeePerGas="0x1", maxPriorityFeePerGas="0x1")
body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_signTransaction", "params": [made]}).encode()
answer = urllib.request.urlopen(urllib.request.Request(told["url"], body, {"Content-Type": "application/json"})).read()
print(json.loads(answer)["result"]["raw"][:4])
print(len(avault.sign("pay", "SOL", "sol-tx", base64.b64decode(told["message"]))) > 80)
event = {"kind": 1, "content": "hello", "tags": [], "created_at": int(time.time())}
print(json.loads(avault.sign("nostr", "KEY", "nostr-event", json.dumps(event).encode()))["kind"])
texts = (b"file", b"", b"sha512", hashlib.sha512(b"x").digest())
data = b"SSHSIG" + b"".join(len(each).to_bytes(4, "big") + each for each in texts)
print(avault.sign("ops", "KEY", "sshsig", data)[:4], flush=True)
sys.stdin.read()
"""


class Chain(RpcNode):
    """A node that says which chain it is of, and nothing more."""

    def answer(self, method: str, params: list[Any]) -> dict[str, Any]:
        return {"result": hex(31337)}


@pytest.fixture
def chain() -> Iterator[Chain]:
    chain = Chain()
    yield chain
    chain.end()


def prepare(machine: Machine) -> None:
    machine.init_unproven(NOSTR_NSEC=NSEC)


@pytest.fixture
def vault(lend: Callable[..., Machine]) -> Machine:
    """An open vault."""
    return lend(prepare)


def want_bytes(memory: Memory, name: str, secret: bytes) -> None:
    """As bytes of either order, in hex, in base58, and as Python has a number: 30 bits in each 32."""
    digits = [int.from_bytes(secret, "big") >> at & ((1 << 30) - 1) for at in range(0, 256, 30)]
    memory.want(f"{name}: bytes", secret)
    memory.want(f"{name}: reversed", secret[::-1])
    memory.want(f"{name}: number", b"".join(each.to_bytes(4, "little") for each in digits))
    memory.want(f"{name}: hex", secret.hex())


def transfer(us: bytes) -> bytes:
    """A message of Solana's, legacy: one lamport to somebody (System, 2)."""
    head = b"\1\0\1\3" + us + b"\7" * 32 + bytes(32) + b"\x09" * 32
    return head + b"\1\2\2\0\1\x0c" + (2).to_bytes(4, "little") + (1).to_bytes(8, "little")


@linux
@pytest.mark.root
@pytest.mark.slow
def test_memory_of_keys_of_each_kind(vault: Machine, chain: Chain) -> None:
    """The supervisor, each front end and the client that had all four sign have none; the two that have them are the control."""
    memory, clear = Memory(), serialization.NoEncryption()
    money, file = (ec.generate_private_key(curve) for curve in (ec.SECP256K1(), ec.SECP256R1()))
    coin = ed25519.Ed25519PrivateKey.generate()
    seed = coin.private_bytes(RAW, serialization.PrivateFormat.Raw, clear)
    us = coin.public_key().public_bytes(RAW, serialization.PublicFormat.Raw)
    note = nostr_sdk.Keys.generate()
    secrets = {
        "evm": money.private_numbers().private_value.to_bytes(32, "big"),
        "solana": seed,
        "nostr": bytes.fromhex(note.secret_key().to_hex()),
        "ecdsa": file.private_numbers().private_value.to_bytes(32, "big"),
    }
    for kind, secret in secrets.items():
        want_bytes(memory, kind, secret)
    memory.want("solana: base58", avault.encode_base58(seed + us))
    memory.want("nostr: nsec", note.secret_key().to_bech32())

    vault("key", "import", "-", "pay/EVM", "--kind", "evm", "--wallet", RULES["evm"], input=secrets["evm"].hex())
    vault("key", "import", "-", "pay/SOL", "--kind", "solana", "--wallet", RULES["solana"], input=avault.encode_base58(seed + us))
    vault("key", "import", "-", "nostr/KEY", "--kind", "nostr", "--kinds", "1", input=note.secret_key().to_hex())
    pem = file.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, clear).decode()
    vault("key", "import", "-", "ops/KEY", "--namespace", "file", input=pem)
    vault("bunker", "invite", "writer", "--key", "nostr/KEY", "--kinds", "1")
    vault("ssh", "--print-env")
    served = vault.start("wallet", "serve", "pay/EVM", "--rpc", chain.url)
    told = {"url": served.line("http://").strip(), "to": BOB, "message": avault.encode_base64(transfer(us))}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, json.dumps(told)], env=vault.env, stdin=pipe, stdout=pipe, text=True
    ) as client:
        assert client.stdout and client.stdin
        assert [client.stdout.readline().strip() for _ in range(4)] == ["0x02", "True", "1", "AAAA"]
        status = vault.status()
        found = name_children(status["pid"])
        without = {"supervisor": status["pid"], "client": client.pid, "wallet serve": served.process.pid}
        without |= {name: found[name] for name in ("avault-ssh", "avault-nostr", "avault-relay") if name in found}
        assert {"avault-ssh", "avault-nostr"} <= {*without}
        assert {name: memory.found(pid) for name, pid in without.items()} == {name: set() for name in without}
        signing, keyholder = memory.found(found["avault-signing"]), memory.found(status["keyholder_pid"])
        for kind in secrets:
            assert any(name.startswith(f"{kind}: ") for name in signing), "what signs has it, as a control"
        assert {"evm: hex", "solana: base58", "nostr: hex"} <= keyholder, "so has the keyholder"
        vault("lock", "--force")
        wait_until(lambda: not Path(f"/proc/{found['avault-signing']}").exists(), what="what signs has ended with the lock")
        assert {name: memory.found(pid) for name, pid in without.items()} == {name: set() for name in without}
        client.stdin.close()
