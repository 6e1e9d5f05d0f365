"""The ratchet: what the phone answered at an unlock opens nothing that is on the disk after it.

The attacker here has what the design grants him: the disk, with the client key in pairing.json, and every event that
crossed the relay. He uses nostr_sdk as anybody could; nothing of avault's own code runs in his part.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nostr_sdk
import peers
import pytest
from canary import Canary
from harness import Machine
from peers import Relay, Rogue

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forks")]

HEX_KEY = re.compile(r"\b[0-9a-f]{64}\b")
PAYLOAD = re.compile(r"[A-Za-z0-9+/]{130,}={0,2}")  # the shortest NIP-44 v2 payload has 132 letters
NSEC = re.compile(r"nsec1[a-z0-9]{58}")


class Attacker:
    """Keys and ciphertexts that were found, and what they give together."""

    def __init__(self, disk: Path) -> None:
        self.texts = [path.read_text(errors="replace") for path in sorted(disk.rglob("*")) if path.is_file()]
        self.payloads = {payload for text in self.texts for payload in PAYLOAD.findall(text)}
        self.publics = set(HEX_KEY.findall(" ".join(self.texts)))
        self.publics |= {to_hex(npub) for text in self.texts for npub in re.findall(r"npub1[a-z0-9]{58}", text)}
        self.keys: dict[str, nostr_sdk.Keys] = {}
        self.plaintexts: set[str] = set()

    def learn(self, text: str) -> None:
        """Whatever in a text may be a secret key."""
        for found in HEX_KEY.findall(text) + NSEC.findall(text):
            keys = nostr_sdk.Keys.parse(found)
            self.keys[keys.public_key().to_hex()] = keys

    def listen(self, frames: list[dict[str, Any]]) -> list[str]:
        """Decrypt what crossed the relay with the client key; the results that the signer gave."""
        client = nostr_sdk.Keys.parse(next(json.loads(text)["client_key"] for text in self.texts if '"client_key"' in text))
        results = []
        for frame in frames:
            heard = json.loads(frame["text"])
            if frame["dir"] == "down" and heard[0] == "EVENT":
                author = nostr_sdk.PublicKey.parse(heard[2]["pubkey"])
                answer = json.loads(nostr_sdk.nip44_decrypt(client.secret_key(), author, heard[2]["content"]))
                results.append(str(answer["result"]))
        return results

    def open_everything(self) -> None:
        """Every key with every public key on every ciphertext, until nothing new comes out."""
        tried: set[str] = set()
        while new := self.keys.keys() - tried:
            tried |= new
            for public in new:
                for peer in self.publics | {public}:
                    for payload in self.payloads:
                        try:
                            text = nostr_sdk.nip44_decrypt(
                                self.keys[public].secret_key(), nostr_sdk.PublicKey.parse(peer), payload
                            )
                        except nostr_sdk.NostrSdkError:
                            continue
                        self.plaintexts.add(text)
                        self.learn(text)


def to_hex(npub: str) -> str:
    return str(nostr_sdk.PublicKey.parse(npub).to_hex())


@pytest.fixture
def proxy() -> Iterator[Relay]:
    with peers.local_relay() as relay, peers.proxy(relay.url) as proxy:
        yield proxy


@pytest.fixture
def rogue(proxy: Relay) -> Iterator[Rogue]:
    with peers.rogue([proxy.config["upstream"]]) as rogue:
        yield rogue


def copy_disk(machine: Machine, name: str) -> Path:
    """The vault directory and the state directory, as a thief would take them."""
    copy = machine.top / "stolen" / name
    shutil.copytree(machine.vault, copy / "vault")
    shutil.copytree(machine.own, copy / "state")
    return copy


def attack(disk: Path, frames: list[dict[str, Any]]) -> Attacker:
    attacker = Attacker(disk)
    for result in attacker.listen(frames):
        attacker.learn(result)
    for text in attacker.texts:
        attacker.learn(text)  # the client key, and whatever else may lie about
    attacker.open_everything()
    return attacker


def unlock_and_record(machine: Machine, proxy: Relay) -> list[dict[str, Any]]:
    proxy.send("frames", clear=True)
    machine("unlock")
    return list(proxy.send("frames")["frames"])


def test_the_answer_opens_nothing_afterwards(machine: Machine, proxy: Relay, rogue: Rogue, canary: Canary) -> None:
    uri = rogue.uri.replace(rogue.uri.partition("relay=")[2].partition("&")[0], proxy.url)
    machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=uri)
    machine("set", "openai/API_KEY", input=canary.value)
    pairing = proxy.send("frames")["frames"]
    machine("lock")
    before = copy_disk(machine, "before")
    agent = to_hex(machine.status()["agent_npub"])

    frames = unlock_and_record(machine, proxy)
    results = Attacker(before).listen(frames)
    assert len(results) == 1, "the reply of this unlock"
    key = json.loads(results[0])["avault"]
    assert key not in (path.read_text() for path in before.rglob("*.json"))

    # The control: the same attack on the disk as it was before that unlock gives all there is.
    opened = attack(before, frames)
    assert agent in opened.keys, "the nsec"
    assert any(canary.value in text for text in opened.plaintexts), "and what is in avault.enc"

    # The claim: on the disk as it is while the vault is open, and after it was locked, it gives nothing.
    open_disk = copy_disk(machine, "open")
    machine("lock")
    after = copy_disk(machine, "after")
    for disk in (open_disk, after):
        assert Attacker(disk).payloads, "there is something to attack"
        closed = attack(disk, frames)
        assert agent not in closed.keys
        assert not closed.plaintexts
        closed = attack(disk, pairing + frames)  # and all that came before
        assert agent not in closed.keys
        assert not closed.plaintexts
    old, new = (json.loads((disk / "state" / "unlock.json").read_text()) for disk in (before, after))
    assert old["envelope"] != new["envelope"] and old["sealed"] != new["sealed"]


def test_each_unlock_has_a_key_of_its_own(machine: Machine, proxy: Relay, rogue: Rogue) -> None:
    uri = rogue.uri.replace(rogue.uri.partition("relay=")[2].partition("&")[0], proxy.url)
    machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=uri)
    machine("lock")
    keys = set()
    for _ in range(3):
        frames = unlock_and_record(machine, proxy)
        machine("lock")
        keys.add(json.loads(Attacker(machine.own).listen(frames)[0])["avault"])
    assert len(keys) == 3


def test_recovery_turns_it_too(machine: Machine, proxy: Relay, rogue: Rogue, canary: Canary) -> None:
    """`recover` has the phone open nsec.enc: afterwards that answer opens neither the new nsec.enc nor unlock.json."""
    uri = rogue.uri.replace(rogue.uri.partition("relay=")[2].partition("&")[0], proxy.url)
    machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=uri)
    machine("set", "openai/API_KEY", input=canary.value)
    status = machine.status()
    with Machine(machine.top / "other") as other:
        shutil.copytree(machine.vault, other.vault)
        before = machine.top / "stolen" / "before"
        shutil.copytree(other.vault, before)
        proxy.send("frames", clear=True)
        words = ("--agent", status["agent_npub"], "--signer-npub", status["signer_npub"], "--no-drill")
        other("recover", *words, "--bunker", "-", input=uri)
        frames = proxy.send("frames")["frames"]
        other("lock")
        after = copy_disk(other, "after")
        (before / "pairing.json").write_text((after / "state" / "pairing.json").read_text())  # it knows the client key
        agent = to_hex(status["agent_npub"])
        assert agent in attack(before, frames).keys
        closed = attack(after, frames)
        assert agent not in closed.keys
        assert not closed.plaintexts


def test_a_refused_or_unanswered_unlock_leaves_the_disk_as_it_was(machine: Machine, proxy: Relay, rogue: Rogue) -> None:
    """The phone's approval is what turns it: an envelope that nobody opened stays good."""
    uri = rogue.uri.replace(rogue.uri.partition("relay=")[2].partition("&")[0], proxy.url)
    machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=uri)
    machine("lock")
    before = (machine.own / "unlock.json").read_bytes()
    rogue.behave("nip44_decrypt", [{"say": {"result": "", "error": "user rejected"}}], requests=1)
    machine("unlock", code=5)
    rogue.behave("nip44_decrypt", [])
    machine("unlock", "--timeout", "1s", code=7)
    assert (machine.own / "unlock.json").read_bytes() == before
