"""Relays, and all who can write to them, against avault: nothing that they send opens, ends or slows an unlock.

A signer of ours (`rogue`) speaks through relays that forge, drop, refuse, vanish, or never answer.
"""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

import nostr_sdk
import peers
import pytest
from harness import Machine, Running, wait_until
from peers import Relay, Rogue, misdeeds
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forks")]

WAITING: misdeeds.Steps = [{"wait": True, "honest": True}]


@pytest.fixture
def relay() -> Iterator[Relay]:
    with peers.local_relay(rate_limit={"max_reqs": 100, "notes_per_minute": 10_000}) as relay:
        yield relay


@pytest.fixture
def proxy(relay: Relay) -> Iterator[Relay]:
    with peers.proxy(relay.url) as proxy:
        yield proxy


def bunker(rogue: Rogue, *relays: str) -> str:
    """The signer's URI, with the relays that avault is to use."""
    secret = rogue.uri.rpartition("secret=")[2]
    return f"bunker://{rogue.signer}?" + "".join(f"relay={url}&" for url in relays) + f"secret={secret}"


def pair(machine: Machine, rogue: Rogue, *relays: str) -> None:
    """A vault that is paired over those relays, and locked."""
    machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=bunker(rogue, *relays))
    machine("lock")


def ask(machine: Machine, rogue: Rogue) -> tuple[Running, dict[str, Any]]:
    """An unlock that waits, and the request that the signer got."""
    seen = len(rogue.requests("nip44_decrypt"))
    rogue.behave("nip44_decrypt", WAITING)
    unlock = machine.start("unlock")
    return unlock, wait_until(lambda: rogue.requests("nip44_decrypt")[seen:])[0]


def message(author: nostr_sdk.Keys, to: str, text: str, p_tag: str | None = None, age: int = 0) -> dict[str, Any]:
    """A NIP-46 event."""
    peer = nostr_sdk.PublicKey.parse(to)
    content = nostr_sdk.nip44_encrypt(author.secret_key(), peer, text, nostr_sdk.Nip44Version.V2)
    tag = nostr_sdk.Tag.public_key(nostr_sdk.PublicKey.parse(p_tag or to))
    time_ = nostr_sdk.Timestamp.from_secs(int(time.time()) - age)
    event = nostr_sdk.EventBuilder(nostr_sdk.Kind(24133), content).tags([tag]).custom_created_at(time_).finalize(author)
    return dict(json.loads(event.as_json()))


def signer_keys(rogue: Rogue) -> nostr_sdk.Keys:
    return nostr_sdk.Keys.parse(rogue.config["key"])


def still_waits(machine: Machine, unlock: Running) -> None:
    time.sleep(0.5)
    assert machine.status()["state"] == "waiting"
    assert unlock.process.poll() is None


# Forgeries


@pytest.mark.parametrize("flow", ["bunker", "nostrconnect"])
def test_noise_before_the_answer(machine: Machine, rogue: Rogue, relay: Relay, flow: str) -> None:
    noise = [step for steps in misdeeds.NOISE.values() for step in steps]
    for method in ("connect", "get_public_key", "nip44_decrypt"):
        rogue.behave(method, noise + misdeeds.HONEST)
    if flow == "bunker":
        pair(machine, rogue, relay.url)
    else:
        init = machine.start("init", "--yes", "--name", "test@machine", "--no-drill", "--relay", relay.url)
        steps = misdeeds.ACK_FROM_STRANGER + misdeeds.WRONG_SECRET + [{"say": {"result": "ack"}}] + noise + misdeeds.HONEST
        rogue.nostrconnect(init.line("nostrconnect://"), steps=steps)
        assert init.wait().returncode == 0
        machine("lock")
    machine("unlock")
    assert "evil.example" not in json.dumps(machine.status())


def test_an_ack_pairs_nobody(machine: Machine, rogue: Rogue, relay: Relay) -> None:
    """Nor does another secret: the signer is who says the right one after them."""
    wrong = [*misdeeds.WRONG_SECRET, {"say": {"result": "0123456789abcdef"}}]
    with peers.rogue([relay.url]) as right:
        init = machine.start("init", "--yes", "--name", "test@machine", "--no-drill", "--relay", relay.url)
        uri = init.line("nostrconnect://")
        rogue.nostrconnect(uri, steps=[*misdeeds.ACK_FROM_STRANGER, *wrong, {"say": {"result": "ack"}}])
        right.nostrconnect(uri)
        assert init.wait().returncode == 0
        assert right.seen("request") and not rogue.seen("request")


def test_spoofed_answers(machine: Machine, rogue: Rogue, proxy: Relay) -> None:
    """Whoever knows the request's id and the right answer, but not the signer's key."""
    pair(machine, rogue, proxy.url)
    unlock, request = ask(machine, rogue)
    client, peer, payload = request["client"], *request["params"]
    stranger, user = nostr_sdk.Keys.generate(), nostr_sdk.Keys.parse(rogue.config["nsec"])
    result = nostr_sdk.nip44_decrypt(user.secret_key(), nostr_sdk.PublicKey.parse(peer), payload)
    answer = json.dumps({"id": request["id"], "result": result})
    refusal = json.dumps({"id": request["id"], "result": "", "error": "user rejected"})
    right = message(signer_keys(rogue), client, answer)
    for forged in (
        message(stranger, client, answer),
        message(stranger, client, refusal),
        message(stranger, client, answer) | {"pubkey": rogue.signer},  # the signature and the id are wrong
        right | {"sig": message(stranger, client, answer)["sig"]},
        right | {"content": message(signer_keys(rogue), client, refusal)["content"]},
        right | {"kind": 1},
        message(signer_keys(rogue), client, answer, p_tag=stranger.public_key().to_hex()),
        message(signer_keys(rogue), client, refusal, p_tag=stranger.public_key().to_hex()),
        message(stranger, client, json.dumps({"id": "0" * 32, "result": result})),
        message(signer_keys(rogue), client, json.dumps({"id": "0" * 32, "result": "x"})),
        message(signer_keys(rogue), client, json.dumps({"id": "0" * 32, "result": "", "error": "user rejected"})),
    ):
        assert proxy.send("inject", event=forged)["subscribers"]
    still_waits(machine, unlock)
    late = message(signer_keys(rogue), client, json.dumps({"id": "0" * 32, "result": result}))
    proxy.send("inject", event=late)
    assert unlock.wait().returncode == 0, "the signer's own answer, to an earlier request for this envelope"


def test_a_forgery_does_not_keep_the_true_event_out(machine: Machine, rogue: Rogue, proxy: Relay) -> None:
    """A relay shows the answer with a broken signature first: its id must not count as seen."""
    pair(machine, rogue, proxy.url)
    unlock, _ = ask(machine, rogue)
    proxy.send("rule", dir="down", drop=True, count=1)
    begun = len(proxy.send("frames")["frames"])
    rogue.go()
    proxy.wait_for("dropped")
    frames = [json.loads(frame["text"]) for frame in proxy.send("frames")["frames"][begun:] if frame["dir"] == "down"]
    true = next(frame[-1] for frame in frames if frame[0] == "EVENT")
    proxy.send("inject", event=true | {"sig": "0" * 128})
    proxy.send("inject", event=true | {"sig": message(nostr_sdk.Keys.generate(), rogue.signer, "x")["sig"]})
    still_waits(machine, unlock)
    proxy.send("inject", event=true)
    assert unlock.wait().returncode == 0


def test_answers_that_belong_elsewhere(machine: Machine, rogue: Rogue, proxy: Relay) -> None:
    """From the signer itself, under the right id: another vault's envelope, its own words, and what is no envelope."""
    pair(machine, rogue, proxy.url)
    unlock, request = ask(machine, rogue)
    other = nostr_sdk.Keys.generate().secret_key().to_hex()
    for result in (json.dumps({"avault": other}), json.dumps({"avault": 7}), "hello", "", "[]", json.dumps({"avault": "0" * 64})):
        answer = json.dumps({"id": request["id"], "result": result})
        proxy.send("inject", event=message(signer_keys(rogue), request["client"], answer))
    still_waits(machine, unlock)
    assert machine.status()["waiting"]["error"]
    rogue.go()
    assert unlock.wait().returncode == 0


def test_replays(machine: Machine, rogue: Rogue, proxy: Relay) -> None:
    """All that was ever answered, again: to this asking it is no answer, right or wrong."""
    pair(machine, rogue, proxy.url)
    rogue.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"])
    machine("unlock", code=5)
    rogue.behave("nip44_decrypt", misdeeds.HONEST)
    machine("unlock")
    machine("lock")
    frames = proxy.send("frames")["frames"]
    answers = [frame["n"] for frame in frames if frame["dir"] == "down" and frame["text"].startswith('["EVENT"')]
    assert len(answers) == 5  # connect, whose key, the proof, the refusal, the approval
    unlock, _ = ask(machine, rogue)
    proxy.send("replay", frames=answers + answers)
    still_waits(machine, unlock)
    assert machine.status()["waiting"]["error"] is None
    rogue.go()
    assert unlock.wait().returncode == 0


def test_every_message_many_times(machine: Machine, rogue: Rogue, proxy: Relay) -> None:
    for way in ("up", "down"):
        proxy.send("rule", dir=way, copies=3)
    pair(machine, rogue, proxy.url)
    machine("unlock")
    assert len({request["event_id"] for request in rogue.requests("nip44_decrypt")}) == 2


# Relays that fail


@pytest.mark.parametrize("bad", ["closed", "tcp", "ws"])
def test_a_dead_relay_beside_a_live_one(machine: Machine, relay: Relay, rogue: Rogue, bad: str) -> None:
    dead = peers.closed() if bad == "closed" else peers.hole(bad)
    url = dead if isinstance(dead, str) else dead.url
    with Machine(machine.top / "alone") as alone:
        begun = time.monotonic()
        pair(alone, rogue, relay.url)
        usual_pairing = time.monotonic() - begun
        usual = min(unlock_time(alone, rogue) for _ in range(3))
    begun = time.monotonic()
    pair(machine, rogue, url, relay.url)
    assert time.monotonic() - begun < usual_pairing + 12, "pairing, of three requests; to wait for an OK takes 5 s each"
    wait_until(lambda: unlock_time(machine, rogue) < usual + 0.5, what="an unlock that is not slowed")
    said = {each["url"]: each["said"] for each in machine.status()["relays"]}
    assert said[relay.url] == "accepted" != said[url]
    if not isinstance(dead, str):
        dead.stop()


def unlock_time(machine: Machine, rogue: Rogue) -> float:
    """Seconds from the command to the end of an unlock that the signer approves at once; it starts from a locked vault."""
    machine("lock")
    rogue.behave("nip44_decrypt", misdeeds.HONEST)
    begun = time.monotonic()
    machine("unlock")
    return time.monotonic() - begun


def test_a_relay_that_goes_and_comes_back(machine: Machine, relay: Relay, rogue: Rogue) -> None:
    pair(machine, rogue, relay.url)
    unlock, _ = ask(machine, rogue)
    url = relay.url
    heard = len(rogue.seen("listening"))
    relay.kill()
    wait_until(lambda: machine.status()["relays"][0]["connected"] is False)
    time.sleep(1)
    assert machine.status()["state"] == "waiting"
    relay.start()
    assert relay.url == url
    wait_until(lambda: len(rogue.seen("listening")) > heard)
    wait_until(lambda: machine.status()["relays"][0]["connected"])
    rogue.go()
    assert unlock.wait().returncode == 0


def test_a_relay_that_comes_after_the_question(machine: Machine, relay: Relay, rogue: Rogue) -> None:
    pair(machine, rogue, relay.url)
    relay.kill()
    unlock = machine.start("unlock")
    machine.wait_state("waiting")
    still_waits(machine, unlock)
    relay.start()
    begun = time.monotonic()
    wait_until(lambda: unlock.process.poll() is not None or machine.status()["relays"][0]["said"] == "accepted")
    assert time.monotonic() - begun < 14, "before it is sent again, every 15 s"
    assert unlock.wait().returncode == 0, "then at the latest, where the signer came back after it"


def test_a_broken_connection_while_the_answer_comes(machine: Machine, rogue: Rogue, proxy: Relay) -> None:
    """The answer was lost with the connection: the same question, again, brings it once more."""
    pair(machine, rogue, proxy.url)
    rogue.behave("nip44_decrypt", misdeeds.SILENCE, requests=1)
    unlock = machine.start("unlock")
    wait_until(lambda: len(rogue.requests("nip44_decrypt")) == 2)
    proxy.send("cut")
    assert unlock.wait().returncode == 0
    assert len({request["event_id"] for request in rogue.requests("nip44_decrypt")}) == 2


def test_a_relay_that_refuses(machine: Machine, rogue: Rogue, proxy: Relay, relay: Relay) -> None:
    pair(machine, rogue, proxy.url)
    proxy.send("refuse", text="blocked: pay first \x1b[31m")
    unlock = machine.start("unlock")
    proxy.wait_for("refused")
    said = wait_until(lambda: machine.status()["relays"][0]["said"])
    assert said.startswith("blocked: pay first ")
    assert "\x1b" not in said
    assert "blocked: pay first" in machine("status", code=3).stdout
    still_waits(machine, unlock)
    proxy.send("refuse")
    assert unlock.wait().returncode == 0, "it is tried again"


def test_another_relay_suffices(machine: Machine, rogue: Rogue, proxy: Relay, relay: Relay) -> None:
    pair(machine, rogue, proxy.url, relay.url)
    proxy.send("refuse", text="rate-limited: slow down")
    machine("unlock", timeout=14)  # before it is sent again, every 15 s
    relays = {each["url"]: each["said"] for each in machine.status()["relays"]}
    assert relays == {proxy.url: "rate-limited: slow down", relay.url: "accepted"}


def test_a_relay_that_says_ok_and_drops(machine: Machine, rogue: Rogue, proxy: Relay, relay: Relay) -> None:
    pair(machine, rogue, proxy.url, relay.url)
    proxy.send("rule", dir="up", drop="ok")
    proxy.send("rule", dir="down", drop=True)
    machine("unlock", timeout=14)  # before it is sent again, every 15 s


def test_a_relay_that_wants_to_know_who_asks(machine: Machine) -> None:
    """NIP-42: the client's key is what it authenticates with."""
    with peers.local_relay() as relay, peers.rogue([relay.url]) as rogue:
        pair(machine, rogue, relay.url)
        relay.kill()
        relay.start(nip42="write")
        unlock = machine.start("unlock")
        said = wait_until(lambda: machine.status()["relays"][0]["said"])
        assert said == "accepted"
        unlock.kill()


class OwnRelay:
    """A relay in a thread of ours; `attend` is what it does with a client."""

    def __init__(self) -> None:
        self.server = serve(self.attend, "127.0.0.1", 0, compression=None)
        self.url = f"ws://127.0.0.1:{self.server.socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()

    def attend(self, client: ServerConnection) -> None:
        raise NotImplementedError


class OddRelay(OwnRelay):
    """A relay that takes every event and hands it on, but says so only while `confirms`; it can close subscriptions."""

    def __init__(self) -> None:
        self.confirms = True
        self.subscriptions: dict[ServerConnection, tuple[str, str]] = {}  # name, p-tag
        super().__init__()

    def attend(self, client: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                match json.loads(client.recv()):
                    case ["REQ", name, query]:
                        self.subscriptions[client] = name, query["#p"][0]
                        client.send(json.dumps(["EOSE", name]))
                    case ["EVENT", event]:
                        for other, (name, peer) in list(self.subscriptions.items()):
                            if ["p", peer] in event["tags"]:
                                other.send(json.dumps(["EVENT", name, event]))
                        if self.confirms:
                            client.send(json.dumps(["OK", event["id"], True, ""]))
        self.subscriptions.pop(client, None)

    def close_subscriptions(self, peer: str) -> None:
        for client, (name, whose) in list(self.subscriptions.items()):
            if whose == peer:
                del self.subscriptions[client]
                client.send(json.dumps(["CLOSED", name, "error: idle for too long"]))


def test_a_closed_subscription_is_opened_again(machine: Machine) -> None:
    """Else avault would be deaf on a relay that looks connected, until the connection breaks."""
    with OddRelay() as relay, peers.rogue([relay.url]) as rogue:
        pair(machine, rogue, relay.url)
        unlock, request = ask(machine, rogue)
        relay.close_subscriptions(request["client"])
        wait_until(lambda: request["client"] in {peer for _, peer in relay.subscriptions.values()}, what="a new subscription")
        rogue.go()
        assert unlock.wait().returncode == 0


def test_a_relay_without_a_word_does_not_hide_that_nobody_was_asked(machine: Machine) -> None:
    with OddRelay() as relay, peers.rogue([relay.url]) as rogue:
        relay.confirms = False
        pair(machine, rogue, relay.url)

        def is_said() -> bool:
            machine("lock")
            return "approved within" in machine("unlock").stderr

        wait_until(is_said, what="an answer that comes as quickly as it was given")


# Clocks


@pytest.mark.parametrize("age", [5 * 3600, -5 * 3600])
def test_an_answer_from_another_time(machine: Machine, rogue: Rogue, relay: Relay, age: int) -> None:
    rogue.behave("connect", [{"honest": True, "age": age}])
    rogue.behave("get_public_key", [{"honest": True, "age": age}])
    rogue.behave("nip44_decrypt", [{"honest": True, "age": age}])
    pair(machine, rogue, relay.url)
    done = machine("unlock")
    assert "differ by" in done.stderr
    assert any("differ by" in warning for warning in machine.status()["warnings"]), "and afterwards"
