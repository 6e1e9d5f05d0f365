"""The clients that programs have, unchanged, with a wallet: web3.py, ethers, viem and cast, on a chain of anvil's.

The chain is Foundry's anvil, from npm; nothing leaves the loopback.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import nostr_sdk
import peers
import pytest
from harness import Machine
from ports import free_port

pytest.importorskip("cryptography", reason="needs cryptography (extra `sign`)")
pytestmark = [pytest.mark.slow]

NSEC = nostr_sdk.Keys.generate().secret_key().to_bech32()
BOB, EVE, TOKEN = ("0x" + each * 20 for each in ("b0", "e1", "dc"))
RULES = [
    f"chain 31337 token {TOKEN}:USDC:6 to {BOB}:Bob tx 5 day 1000",
    f"chain 31337 token COIN to {BOB}:Bob tx 3 day 20 fee 0.01",
]
TRANSFER = "0xa9059cbb" + BOB[2:].rjust(64, "0") + f"{10**6:064x}"
ETHER = 10**18


def foundry(name: str) -> str:
    """A program of Foundry's, of an npm package."""
    found = peers.node_modules("wallet") / f"@foundry-rs/{name}-linux-amd64/bin/{name}"
    if not found.exists():
        pytest.skip(f"npm has no {name} for this machine")
    found.chmod(0o755)
    return str(found)


def ask(url: str, method: str, *params: object, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """What a server answers to a request of JSON-RPC."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    connection.request("POST", parts.path or "/", body, {"Content-Type": "application/json", **(headers or {})})
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return dict(json.loads(data)) if response.status == 200 else {"status": response.status}


@pytest.fixture(scope="module")
def chain() -> Iterator[str]:
    """A chain; a token on it whose every call succeeds."""
    port = free_port()
    anvil = subprocess.Popen([foundry("anvil"), "--port", str(port), "--silent"])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                if ask(url, "anvil_setCode", TOKEN, "0x60015f5260205ff3").get("jsonrpc"):
                    break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        anvil.kill()
        anvil.wait()


def prepare(machine: Machine) -> None:
    machine.init_unproven(NOSTR_NSEC=NSEC)


@pytest.fixture
def vault(lend: Callable[..., Machine], chain: str) -> Machine:
    """An open vault, with a key that pays."""
    machine = lend(prepare)
    rules = [word for rule in RULES for word in ("--wallet", rule)]
    machine("key", "generate", "evm", "shop/PAY", *rules)
    ask(chain, "anvil_setBalance", address(machine), hex(100 * ETHER))
    return machine


def address(machine: Machine) -> str:
    return machine("wallet", "address", "shop/PAY").stdout.strip()


@pytest.fixture
def url(vault: Machine, chain: str) -> Iterator[str]:
    """Where the wallet is served."""
    served = vault.start("wallet", "serve", "shop/PAY", "--rpc", chain)
    yield served.line("http://")
    served.kill()


def spent(machine: Machine) -> dict[str, str]:
    [key] = json.loads(machine("wallet", "limits", "--json").stdout)["keys"]
    return {each["symbol"]: each["spent"] for each in key["limits"]}


def by_node(library: str, url: str, what: str, **fields: Any) -> dict[str, Any]:
    script = peers.node_modules("wallet").parent / "pay.mjs"
    done = subprocess.run(
        [*peers.node(), script, library, url, what, json.dumps(fields)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("library", ["ethers", "viem"])
def test_clients_of_javascript(vault: Machine, url: str, library: str) -> None:
    for fields in ({"to": BOB, "value": str(ETHER)}, {"to": TOKEN, "data": TRANSFER}):
        found = by_node(library, url, "send", **fields)
        assert found.get("status") == 1 and found["from"].lower() == address(vault).lower(), found
    assert spent(vault)["USDC"] == "1"
    refused = by_node(library, url, "send", to=EVE, value="1")
    assert {"ethers": "ACTION_REJECTED", "viem": "UserRejectedRequestError"}[library] in refused["failed"], refused
    assert "no rule lets it pay that address COIN" in refused["text"]
    refused = by_node(library, url, "message")
    assert "no rule lets it sign messages" in refused["text"]
    refused = by_node(library, url, "typed", to=TOKEN)
    assert "no rule lets it sign typed data" in refused["text"]


def test_web3_py(vault: Machine, url: str) -> None:
    web3 = pytest.importorskip("web3", reason="needs web3.py (extra `test-wallet`)")
    client = web3.Web3(web3.HTTPProvider(url, request_kwargs={"timeout": 300}))
    [account] = client.eth.accounts
    checked = web3.Web3.to_checksum_address(BOB)
    sent = client.eth.send_transaction({"from": account, "to": checked, "value": ETHER})
    assert client.eth.wait_for_transaction_receipt(sent)["status"] == 1
    signed = client.eth.sign_transaction(
        {"from": account, "to": checked, "value": 1, "gas": 21_000, "gasPrice": 10**9, "nonce": 99}
    )
    assert signed["raw"]
    sent = client.eth.send_transaction({"from": account, "to": checked, "value": 1})
    assert client.eth.wait_for_transaction_receipt(sent)["status"] == 1, "a caller's own nonce leaves no gap"
    with pytest.raises(web3.exceptions.Web3RPCError, match="User denied"):
        client.eth.send_transaction({"from": account, "to": web3.Web3.to_checksum_address(EVE), "value": 1})


def test_cast(vault: Machine, url: str) -> None:
    words = [foundry("cast"), "send", "--unlocked", "--from", address(vault), "--rpc-url", url, "--json"]
    done = subprocess.run([*words, BOB, "--value", "1ether"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and json.loads(done.stdout)["status"] == "0x1", done.stderr
    done = subprocess.run([*words, EVE, "--value", "1ether"], capture_output=True, text=True, timeout=120)
    assert done.returncode and "User denied" in done.stderr


def test_twenty_at_once_on_a_chain(vault: Machine, chain: str, url: str) -> None:
    """Of twenty equal payments of 3 against 20 a day, six go out, all are mined, and the money is gone six times."""
    before = int(ask(chain, "eth_getBalance", BOB, "latest")["result"], 16)
    wanted = {"from": address(vault), "to": BOB, "value": hex(3 * ETHER), "gas": hex(21_000)}
    with ThreadPoolExecutor(20) as pool:
        found = [*pool.map(lambda _: ask(url, "eth_sendTransaction", wanted), range(20))]
    sent = {each["result"] for each in found if "result" in each}
    assert len(sent) == 6
    assert {each["error"]["code"] for each in found if "error" in each} == {4001}
    for each in sent:
        assert ask(chain, "eth_getTransactionReceipt", each)["result"]["status"] == "0x1"
    assert int(ask(chain, "eth_getBalance", BOB, "latest")["result"], 16) - before == 18 * ETHER


def test_whoever_is_not_meant_is_not_let_in(vault: Machine, url: str) -> None:
    port = urllib.parse.urlsplit(url).port
    assert ask(url, "eth_accounts") == {"jsonrpc": "2.0", "id": 1, "result": [address(vault)]}
    assert ask(url, "eth_accounts", headers={"Origin": "https://evil.example"}) == {"status": 403}
    assert ask(url, "eth_accounts", headers={"Origin": "null"}) == {"status": 403}
    assert ask(url, "eth_accounts", headers={"Host": f"evil.example:{port}"}) == {"status": 403}
    assert ask(f"http://127.0.0.1:{port}/", "eth_accounts") == {"status": 404}
    assert ask(url[:-1], "eth_accounts") == {"status": 404}
    for method in (
        "eth_sign",
        "eth_sendRawTransaction",
        "debug_traceCall",
        "anvil_setBalance",
        "wallet_addEthereumChain",
        "personal_unlockAccount",
    ):
        assert ask(url, method, BOB)["error"]["code"] == 4200
    assert ask(url, "personal_sign", "0x61", EVE)["error"]["code"] == 4100
    wrong = {"to": BOB, "value": "0x1", "chainId": "0x1"}
    assert "is on the chain 31337" in ask(url, "eth_sendTransaction", wrong)["error"]["message"]
    assert "authorizationList" in ask(url, "eth_sendTransaction", {"to": BOB, "authorizationList": []})["error"]["message"]


def test_a_locked_vault_and_the_same_wallet_after_it(vault: Machine, url: str) -> None:
    vault("lock", "--force")
    wanted = {"to": BOB, "value": "0x1"}
    assert ask(url, "eth_sendTransaction", wanted)["error"]["code"] == 4900
    assert ask(url, "eth_chainId")["result"] == "0x7a69"
    vault("unlock", NOSTR_NSEC=NSEC)
    assert ask(url, "eth_sendTransaction", wanted)["result"].startswith("0x")


def test_a_node_of_another_chain_is_refused(vault: Machine, chain: str) -> None:
    done = vault("wallet", "serve", "shop/PAY", "--rpc", chain, "--chain", "1", code=5)
    assert "the node is on a chain for tests (31337), and the key is to pay on Ethereum (1)" in done.stderr
