"""The peers themselves: that each does what the tests of avault rely on."""

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import nostr_sdk as n
import peers
import pytest
from peers import misdeeds
from websockets.sync.client import connect

pytestmark = pytest.mark.slow


class Client:
    """The least client of a remote signer."""

    def __init__(self, url: str) -> None:
        self.url, self.keys, self.secret = url, n.Keys.generate(), secrets.token_hex(8)
        self.open()

    def open(self) -> None:
        self.socket = connect(self.url, proxy=None, compression=None).__enter__()
        self.socket.send(json.dumps(["REQ", "s", {"kinds": [24133], "#p": [self.keys.public_key().to_hex()]}]))
        assert json.loads(self.socket.recv(60)) == ["EOSE", "s"]

    def uri(self) -> str:
        query = f"relay={quote(self.url, safe='')}&secret={self.secret}&perms=get_public_key"
        return f"nostrconnect://{self.keys.public_key().to_hex()}?{query}"

    def send(self, signer: str, method: str, *params: str) -> str:
        request_id = secrets.token_hex(16)
        text = json.dumps({"id": request_id, "method": method, "params": params})
        to = n.PublicKey.parse(signer)
        content = n.nip44_encrypt(self.keys.secret_key(), to, text, n.Nip44Version.V2)
        event = n.EventBuilder(n.Kind(24133), content).tags([n.Tag.public_key(to)]).finalize(self.keys)
        self.socket.send(f'["EVENT",{event.as_json()}]')
        return request_id

    def hear(self, request_id: str | None = None) -> tuple[str, dict[str, Any]]:
        """The next message, or the next answer to that request, and who sent it."""
        while True:
            message = json.loads(self.socket.recv(60))
            if message[0] == "OK":
                assert message[2], message
            if message[0] != "EVENT":
                continue
            author = n.PublicKey.parse(message[2]["pubkey"])
            answer = json.loads(n.nip44_decrypt(self.keys.secret_key(), author, message[2]["content"]))
            if request_id in (None, answer["id"]):
                return author.to_hex(), answer

    def ask(self, signer: str, method: str, *params: str) -> dict[str, Any]:
        return self.hear(self.send(signer, method, *params))[1]


def envelope(user: str, text: str) -> tuple[str, str]:
    """The parameters of a nip44_decrypt that yields the text."""
    agent = n.Keys.generate()
    payload = n.nip44_encrypt(agent.secret_key(), n.PublicKey.parse(user), text, n.Nip44Version.V2)
    return agent.public_key().to_hex(), payload


@pytest.fixture(scope="module", params=["local_relay", "nostr_relay"])
def relay(request: pytest.FixtureRequest) -> Iterator[peers.Relay]:
    with getattr(peers, request.param)() as relay:
        yield relay


@pytest.mark.parametrize("start", [peers.ndk, peers.applesauce])
@pytest.mark.parametrize("flow", ["bunker", "nostrconnect"])
def test_phone(relay: peers.Relay, start: Callable[..., peers.Phone], flow: str) -> None:
    client = Client(relay.url)
    with start([relay.url]) as phone:
        if flow == "bunker":
            secret = phone.uri.rpartition("secret=")[2]
            answer = client.ask(phone.signer, "connect", phone.signer, secret, "get_public_key")
            assert answer["result"] in ("ack", secret)
        else:
            phone.nostrconnect(client.uri())
            author, answer = client.hear()
            assert (author, answer["result"]) == (phone.signer, client.secret)
        connected = phone.wait_for("connected", client=client.keys.public_key().to_hex())
        assert connected["perms"] == "get_public_key"
        assert client.ask(phone.signer, "get_public_key")["result"] == phone.user

        params = envelope(phone.user, "grün")
        assert client.ask(phone.signer, "nip44_decrypt", *params)["result"] == "grün"
        phone.policy("reject")
        assert client.ask(phone.signer, "nip44_decrypt", *params)["error"]
        phone.policy("ask")
        request_id = client.send(phone.signer, "nip44_decrypt", *envelope(phone.user, "gelb"))
        assert phone.wait_for("ask", id=request_id)["plaintext"] == "gelb"
        phone.answer(request_id, True)
        assert client.hear(request_id)[1]["result"] == "gelb"

        phone.policy("approve")
        phone.stop()
        phone.start()
        assert client.ask(phone.signer, "nip44_decrypt", *params)["result"] == "grün"
        connects = {event["event_id"] for event in phone.requests("connect")}
        assert len(connects) == (flow == "bunker")


@pytest.mark.parametrize("start", [peers.ndk, peers.applesauce, peers.rogue])
def test_signers_come_back_with_their_relay(start: Callable[..., peers.Signer]) -> None:
    with peers.local_relay() as relay, start([relay.url], secret=None) as signer:
        signer.wait_for("listening")
        client, url = Client(relay.url), relay.url
        client.ask(signer.signer, "connect", signer.signer)
        relay.kill()
        relay.start()
        assert relay.url == url
        signer.wait_for("listening")
        client.open()
        assert client.ask(signer.signer, "get_public_key")["result"] == signer.user


def test_proxy() -> None:
    with peers.local_relay() as relay, peers.proxy(relay.url) as proxy, peers.rogue([relay.url]) as signer:
        client = Client(proxy.url)
        assert client.ask(signer.signer, "ping")["result"] == "pong"
        frames = proxy.send("frames")["frames"]
        assert [json.loads(frame["text"])[0] for frame in frames if frame["dir"] == "up"] == ["REQ", "EVENT"]
        request, answer = (frame["n"] for frame in frames if json.loads(frame["text"])[0] == "EVENT")

        assert proxy.send("replay", frames=[answer, request])["replies"][0][2]
        assert client.hear()[1]["result"] == "pong"
        signer.wait_for("request")
        assert signer.wait_for("request")["event_id"] == json.loads(frames[request]["text"])[1]["id"]

        proxy.send("rule", dir="down", drop=True, count=1)
        client.send(signer.signer, "ping")
        proxy.wait_for("dropped", dir="down")
        proxy.send("rule", dir="down", copies=2)
        kept = client.send(signer.signer, "ping")
        assert [client.hear()[1]["id"] for _ in range(2)] == [kept, kept]
        proxy.send("rule", dir="down")

        proxy.send("rule", dir="up", reorder=True)
        first, second = (client.send(signer.signer, "ping") for _ in range(2))
        assert [client.hear()[1]["id"] for _ in range(2)] == [second, first]
        proxy.send("rule", dir="up")

        proxy.send("refuse", text="blocked: no")
        with pytest.raises(AssertionError, match="blocked: no"):
            client.ask(signer.signer, "ping")
        proxy.send("refuse")

        event = json.loads(frames[answer]["text"])[-1] | {"content": "forged"}
        assert proxy.send("inject", event=event)["subscribers"] == 1
        assert json.loads(client.socket.recv(60))[2]["content"] == "forged"

        proxy.send("cut", stay=True)
        with pytest.raises(OSError):
            Client(proxy.url)
        proxy.send("back")
        client.open()
        assert client.ask(signer.signer, "ping")["result"] == "pong"


def test_rogue() -> None:
    with peers.local_relay() as relay, peers.rogue([relay.url]) as signer:
        client = Client(relay.url)
        for refusal in misdeeds.REFUSALS.values():
            signer.behave("nip44_decrypt", refusal, requests=1)
            assert client.ask(signer.signer, "nip44_decrypt", "", "")["error"]
        for success in misdeeds.SUCCESSES.values():
            signer.behave("ping", success, requests=1)
            request_id = client.send(signer.signer, "ping")
            while (answer := client.hear(request_id)[1]).get("error"):
                pass
            assert answer["result"] == "pong"
        signer.behave("ping", misdeeds.AUTH_URL)
        request_id = client.send(signer.signer, "ping")
        assert client.hear(request_id)[1]["result"] == "auth_url"
        signer.go()
        assert client.hear(request_id)[1]["result"] == "pong"
        for noise in misdeeds.NOISE.values():
            signer.send("tell", to=client.keys.public_key().to_hex(), steps=noise)
            assert json.loads(client.socket.recv(60))[0] == "EVENT"
        signer.nostrconnect(client.uri(), steps=misdeeds.ACK_FROM_STRANGER + misdeeds.HONEST)
        heard = [(author, answer["result"]) for author, answer in (client.hear(), client.hear())]
        assert heard == [(signer.ready["stranger"], "ack"), (signer.signer, client.secret)]


def test_relays_that_refuse() -> None:
    with peers.local_relay(refuse="no") as relay, pytest.raises(AssertionError, match="no"):
        Client(relay.url).ask(n.Keys.generate().public_key().to_hex(), "ping")
    with peers.hole("tcp") as hole, pytest.raises(OSError):
        connect(hole.url, proxy=None, open_timeout=0.3)
    with peers.hole("ws") as hole:
        socket = connect(hole.url, proxy=None).__enter__()
        socket.send("hello")
        hole.wait_for("swallowed", text="hello")
    with pytest.raises(ConnectionRefusedError):
        Client(peers.closed())
