"""`avault bunker`, with clients that others wrote, each a process of its own, over a relay of avault's own and over another's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import nostr_sdk
import peers
import pytest
from harness import Machine, name_children, wait_until
from test_processes import Memory, linux

NSEC = nostr_sdk.Keys.generate().secret_key().to_bech32()
FRIEND = nostr_sdk.Keys.parse("01" * 32)
NPUB, HEX = FRIEND.public_key().to_bech32(), FRIEND.public_key().to_hex()
CIPHERS = "nip44_encrypt,nip44_decrypt"
LIBRARIES = ("nostr-tools", "ndk", "applesauce", "welshman", "nostr_sdk")
V2 = nostr_sdk.Nip44Version.V2
pytestmark = [pytest.mark.usefixtures("forks")]


def prepare(machine: Machine) -> None:
    machine.init_unproven(NOSTR_NSEC=NSEC)


@pytest.fixture
def vault(lend: Callable[..., Machine]) -> Machine:
    """An open vault, with a key that may sign notes and reactions, and write with a friend."""
    machine = lend(prepare)
    machine("key", "generate", "nostr", "nostr/CHILD", "--kinds", "1,7", "--ciphers", CIPHERS, "--peer", NPUB)
    return machine


def public(vault: Machine) -> str:
    [group] = [each for each in json.loads(vault("list", "--json").stdout)["groups"] if each["name"] == "nostr"]
    return str(nostr_sdk.PublicKey.parse(group["keys"][0]["signs"]["public"]).to_hex())


def invite(vault: Machine, name: str, *words: str) -> str:
    """The address of who is invited to sign notes."""
    return vault("bunker", "invite", name, "--key", "nostr/CHILD", "--kinds", "1", *words).stdout.strip()


def note(kind: int = 1) -> dict[str, Any]:
    return {"kind": kind, "content": "by a child", "tags": [["t", "x"]], "created_at": int(time.time())}


def check(event: Any, key: str) -> None:
    assert event["pubkey"] == key and event["content"] == "by a child"
    fields = ("id", "pubkey", "created_at", "kind", "tags", "content", "sig")
    assert nostr_sdk.Event.from_json(json.dumps({each: event[each] for each in fields})).verify()


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_client_gets_what_it_was_invited_to_and_goes_on_behind_a_lock(vault: Machine, library: str) -> None:
    key, uri = public(vault), invite(vault, "writer", "--methods", f"sign_event,{CIPHERS}", "--peer", NPUB)
    mine = nostr_sdk.PublicKey.parse(key)
    with peers.client(library) as client:
        assert "refused" not in client.send("connect", uri=uri)
        assert client.send("pubkey")["result"] == key
        check(client.send("sign", event=note())["result"], key)
        assert "may not sign an event of kind 7" in client.send("sign", event=note(7))["refused"]
        sealed = client.send("cipher", method="nip44_encrypt", peer=HEX, text="for you")["result"]
        assert nostr_sdk.nip44_decrypt(FRIEND.secret_key(), mine, sealed) == "for you"
        theirs = nostr_sdk.nip44_encrypt(FRIEND.secret_key(), mine, "for me", V2)
        assert client.send("cipher", method="nip44_decrypt", peer=HEX, text=theirs)["result"] == "for me"
        agent = json.loads(vault("status", "--json").stdout)["agent_npub"]
        peer = nostr_sdk.PublicKey.parse(agent).to_hex()
        for method, text in (("nip44_encrypt", "x"), ("nip44_decrypt", theirs)):
            assert "refused" in client.send("cipher", method=method, peer=peer, text=text)
        vault("lock", "--force")
        vault("unlock", NOSTR_NSEC=NSEC)
        vault("bunker", "list")
        time_after = int(time.time()) + 1
        wait_until(lambda: time.time() > time_after, 5)  # no request counts of the second in which the log had its last line
        check(client.send("sign", event=note())["result"], key)
        vault("bunker", "revoke", "writer")
    log = vault("log").stdout
    assert "writer: sign a note (kind 1) with nostr/CHILD" in log


@pytest.mark.slow
def test_a_spent_secret_and_who_is_revoked(vault: Machine) -> None:
    """With the client that is a Python, which needs no npm."""
    uri = invite(vault, "writer")
    with peers.client("nostr_sdk") as client, peers.client("nostr_sdk") as thief:
        assert client.send("connect", uri=uri)["result"] == public(vault)
        assert "invalid secret" in thief.send("connect", uri=uri)["refused"]
        check(client.send("sign", event=note())["result"], public(vault))
    assert "connected" in vault("bunker", "list").stdout
    vault("bunker", "revoke", "writer")
    assert "nobody is invited" in vault("bunker", "list").stderr


@pytest.mark.slow
def test_a_client_elsewhere_comes_over_another_relay(vault: Machine) -> None:
    with peers.local_relay() as relay, peers.client("nostr_sdk") as client:
        uri = invite(vault, "far", "--relay", relay.url)
        assert client.send("connect", uri=uri)["result"] == public(vault)
        check(client.send("sign", event=note())["result"], public(vault))


@linux
@pytest.mark.slow
def test_a_front_end_that_is_killed_is_started_anew_at_the_same_relay(vault: Machine) -> None:
    uri = invite(vault, "writer")
    with peers.client("nostr_sdk") as client:
        client.send("connect", uri=uri)
        os.kill(front := find_front(vault), signal.SIGKILL)
        invite(vault, "other")
        assert find_front(vault) != front
    with peers.client("nostr_sdk") as other:
        assert "invalid secret" in other.send("connect", uri=uri)["refused"]


@linux
@pytest.mark.root
@pytest.mark.slow
def test_memory_of_what_signs_for_nostr(vault: Machine) -> None:
    """Supervisor and front end have neither the key nor that of an invitation; the two that have it are the control."""
    keys, memory = nostr_sdk.Keys.generate(), Memory()
    memory.want_key("key", keys)
    vault("key", "import", "-", "nostr/KNOWN", "--kind", "nostr", "--kinds", "1", input=keys.secret_key().to_bech32())
    uri = vault("bunker", "invite", "writer", "--key", "nostr/KNOWN", "--kinds", "1").stdout.strip()
    with peers.client("nostr_sdk") as client:
        client.send("connect", uri=uri)
        check(client.send("sign", event=note())["result"], keys.public_key().to_hex())
    status = vault.status()
    for pid in (status["pid"], find_front(vault)):
        assert memory.found(pid) == set()
    assert memory.found(status["keyholder_pid"])


def find_front(vault: Machine) -> int:
    """The front end's process."""
    return name_children(vault.status()["pid"])["avault-nostr"]


@pytest.mark.slow
def test_what_is_printed_and_what_is_refused(vault: Machine) -> None:
    uri = invite(vault, "writer", "--rate", "10/min", "--for", "2h")
    assert uri.startswith("bunker://") and "relay=ws%3A%2F%2F127.0.0.1%3A" in uri
    [told] = json.loads(vault("bunker", "list", "--json").stdout)["invitations"]
    assert told["rate"] == 10 and told["client"] is None and "secret" not in json.dumps(told)
    refused = vault("bunker", "invite", "more", "--key", "nostr/CHILD", "--kinds", "0", code=5).stderr
    assert "is guarded, and does less" in refused and "avault guard nostr/CHILD --kinds 0" in refused
    assert "which key" in vault("bunker", "invite", "x", code=2).stderr
    assert "--rate takes" in vault("bunker", "invite", "x", "--key", "nostr/CHILD", "--rate", "0", code=2).stderr
    assert "not a kind of event" in vault("bunker", "invite", "x", "--key", "nostr/CHILD", "--kinds", "one", code=2).stderr
    assert vault("bunker", "revoke", "nobody", code=4)
    assert vault("get", "nostr/CHILD", code=5)


def test_a_program_signs_by_the_same_rules(vault: Machine) -> None:
    event = {"kind": 1, "content": "by a child", "tags": [["t", "x"]]}
    check(json.loads(vault("sign", "nostr/CHILD", "--as", "nostr-event", input=json.dumps(event)).stdout), public(vault))
    refused = vault("sign", "nostr/CHILD", "--as", "nostr-event", input=json.dumps({**event, "kind": 0}), code=5).stderr
    assert "nostr/CHILD may not sign an event of kind 0" in refused
    mine = nostr_sdk.PublicKey.parse(public(vault))
    sealed = vault("sign", "nostr/CHILD", "--as", "nip44-encrypt", "--peer", NPUB, input="for you").stdout.strip()
    assert nostr_sdk.nip44_decrypt(FRIEND.secret_key(), mine, sealed) == "for you"
    theirs = nostr_sdk.nip44_encrypt(FRIEND.secret_key(), mine, "for me", V2)
    assert vault("sign", "nostr/CHILD", "--as", "nip44-decrypt", "--peer", NPUB, input=theirs).stdout == "for me"
    for words in ((), ("--as", "raw"), ("--as", "nip44-encrypt"), ("--as", "ssh-sig")):
        assert vault("sign", "nostr/CHILD", *words, code=2).stderr
    code = "import avault, json, sys; print(avault.sign('nostr', 'CHILD', 'nostr-event', sys.argv[1].encode()))"
    words = [sys.executable, "-c", code, json.dumps(note())]
    done = subprocess.run(words, env=vault.env, cwd=vault.top, capture_output=True, text=True, check=True, timeout=60)
    check(json.loads(done.stdout), public(vault))


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen here")
def test_a_file_is_signed_as_ssh_keygen_does(vault: Machine) -> None:
    pytest.importorskip("cryptography", reason="needs cryptography (extra `sign`)")
    line = vault("key", "generate", "ed25519", "ops/FILES", "--namespace", "file").stdout
    (vault.top / "allowed").write_text(f"me {' '.join(line.split()[:2])}\n")
    made = vault("sign", "ops/FILES", "--as", "ssh-sig", "--namespace", "file", input="data\n").stdout
    (vault.top / "sig").write_text(made)
    words = ["ssh-keygen", "-Y", "verify", "-f", "allowed", "-I", "me", "-n", "file", "-s", "sig"]
    done = subprocess.run(words, cwd=vault.top, input="data\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Good" in done.stdout, done.stderr
    refused = vault("sign", "ops/FILES", "--as", "ssh-sig", "--namespace", "git", input="data\n", code=5).stderr
    assert "ops/FILES may not sign for the namespace git" in refused
