"""A keyholder that is killed between what it has reserved and what it would have signed: with its real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator

import nostr_sdk
import pytest
from harness import Machine, wait_until
from test_processes import is_alive

import avault

pytest.importorskip("cryptography", reason="needs cryptography (extra `sign`)")
pytestmark = [pytest.mark.slow]

BOB = "0x" + "b0" * 20
PAY = {"to": BOB, "value": hex(15 * 10**18), "gas": "0x5208", "gasPrice": "0x1", "chainId": hex(31337), "nonce": "0x0"}


def frames(client: socket.socket) -> Iterator[dict[str, object]]:
    """What the daemon says, until it is gone."""
    got = avault.Frames()
    while data := client.recv(1 << 16):
        got.feed(data)
        while (frame := got.next()) is not None:
            yield avault.decode_frame(frame)


def test_what_was_reserved_stays_spent(machine: Machine) -> None:
    """The caller has agreed to nothing yet, and nothing is signed: it may have been, for all that the next one knows."""
    nsec = nostr_sdk.Keys.generate().secret_key().to_bech32()
    machine.init_unproven(NOSTR_NSEC=nsec)
    machine("key", "generate", "evm", "shop/PAY", "--wallet", f"chain 31337 token COIN to {BOB} tx 15 day 20 fee 0.01")
    status = machine.status()
    request = {"v": 1, "vault": status["vault_id"], "op": "sign", "as": "evm-tx", "group": "shop", "key": "PAY", "confirm": True}
    request["payload"] = avault.encode_base64(json.dumps(PAY).encode())
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(60)
        client.connect(status["socket"])
        client.sendall(avault.encode_frame(request))
        told = frames(client)
        assert next(told)["ready"], "reserved, and asked whether anybody waits"
        os.kill(status["keyholder_pid"], signal.SIGKILL)
        assert not [*told], "no signature, and no word"
    wait_until(lambda: not is_alive(status["keyholder_pid"]))
    machine("unlock", NOSTR_NSEC=nsec)
    [limit] = json.loads(machine("wallet", "limits", "--json").stdout)["keys"][0]["limits"]
    assert limit["spent"].startswith("15.00") and limit["left"].startswith("4.99")
    refused = machine("sign", "shop/PAY", "--as", "evm-tx", input=json.dumps({**PAY, "value": hex(5 * 10**18)}), code=5)
    assert "over the day's limit" in refused.stderr
    assert machine("sign", "shop/PAY", "--as", "evm-tx", input=json.dumps({**PAY, "value": "0x1"})).stdout.startswith("0x")
