"""Hostile sessions: what relays, and all who write to them, may do between a request and its answer.

A generator makes them from a seed, which a failure shows; AVAULT_TEST_SEED takes it again. Two levels: events for the
client's own ear, by the thousand, held against a model of what may end a wait; and unlocks and pairings of a whole avault
over real relays, with a man in the middle, a relay that lies, and a signer that does what no correct one does.
"""

import asyncio
import contextlib
import gc
import itertools
import json
import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import figures
import nostr_sdk
import peers
import pytest
from canary import Canary
from harness import Machine, wait_until
from peers import Relay, Rogue, misdeeds
from test_hostile_relay import OwnRelay, bunker, message
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection

import avault

pytestmark = [pytest.mark.proof, pytest.mark.usefixtures("forks"), pytest.mark.timeout(figures.pick(300, 7200))]

SEED = int(os.environ.get("AVAULT_TEST_SEED") or secrets.randbits(32))
Json = dict[str, Any]
NOTHING, OPENED, REFUSED, DOUBTED = "nothing", "opened", "refused", "doubted"  # a doubted refusal counts 5 s later


def public(keys: nostr_sdk.Keys) -> str:
    return str(keys.public_key().to_hex())


class World:
    """Who takes part in one asking: client, signer, a stranger; the request's id and its right answer."""

    def __init__(self, chance: random.Random, client: nostr_sdk.Keys, signer: nostr_sdk.Keys, ident: str, right: str) -> None:
        self.chance, self.client, self.signer, self.ident, self.right = chance, client, signer, ident, right
        self.stranger = nostr_sdk.Keys.generate()
        self.stale: list[Json] = []  # events of earlier askings
        self.answers: list[str] = []  # right once, or for somebody else
        self.is_told_by_content = False  # the right answer to an earlier request of the signer's is one to this too

    def event(self, text: str, author: nostr_sdk.Keys | None = None, **changes: Any) -> Json:
        """An event for the client, as the signer would send it, with other fields put over it."""
        return message(author or self.signer, public(self.client), text, age=self.chance.choice((0, 0, 5, -5))) | changes

    def signed(self, text: str, kind: int = avault.RPC_KIND, tags: list[list[str]] | None = None, age: int = 0) -> Json:
        """An event that is rightly signed by the signer, whatever its kind, tags and time."""
        content = avault.encrypt(self.signer, public(self.client), text)
        made = nostr_sdk.EventBuilder(nostr_sdk.Kind(kind), content)
        made = made.tags([nostr_sdk.Tag.parse(tag) for tag in ([["p", public(self.client)]] if tags is None else tags)])
        made = made.custom_created_at(nostr_sdk.Timestamp.from_secs(max(0, int(time.time()) - age)))
        return dict(json.loads(made.finalize(self.signer).as_json()))

    def answer(self, **fields: Any) -> str:
        return json.dumps({"id": self.ident, "result": self.right, **fields})

    # -- what somebody without the signer's key can send

    def forge(self) -> Json:
        """The right answer, or a refusal, from somebody else or broken."""
        chance, text = self.chance, self.chance.choice((self.answer(), self.answer(result="", error="user rejected")))
        right = self.event(text)
        match chance.randrange(8):
            case 0:
                return self.event(text, self.stranger)
            case 1:
                return self.event(text, self.client)  # who stole the pairing can encrypt for the signer, and no more
            case 2:
                return self.event(text, self.stranger, pubkey=right["pubkey"])
            case 3:
                return right | {"sig": self.event(text, self.stranger)["sig"]}
            case 4:
                return right | {"content": self.event(self.answer(result="", error="no"))["content"]}
            case 5:
                return right | {"created_at": right["created_at"] + chance.choice((-1, 1, 10**6, 2**40))}
            case 6:
                return right | {"kind": chance.choice((1, 4, 1059, 24132, 65535))}
            case _:
                field = chance.choice(("id", "pubkey", "sig"))
                digits = list(right[field])
                place = chance.randrange(len(digits))
                digits[place] = f"{int(digits[place], 16) ^ 1 << chance.randrange(4):x}"
                return right | {field: "".join(digits)}

    def replay(self) -> Json:
        """Something that was true in an earlier asking."""
        return self.chance.choice(self.stale) if self.stale else self.forge()

    # -- what a signer can send that is no answer to our request

    def stray(self) -> Json:
        """Rightly signed, with the right answer: of another kind, for somebody else, or to another request."""
        chance, mine = self.chance, public(self.client)
        other = public(self.stranger)
        tags: list[list[str]]
        match chance.randrange(5):
            case 0:
                return self.signed(self.answer(), kind=chance.choice((1, 4, 1059, 24132, 24134)))
            case 1:
                tags = chance.choice(
                    ([], [["p", other]], [["e", mine]], [["P", mine]], [["p", other, mine]], [["q", mine], ["p", other]])
                )
                return self.signed(self.answer(), tags=tags)
            case 2:
                near = (self.ident.upper() + "A", self.ident[:-1], self.ident + "0", " " + self.ident, "0" * 32)
                ident = chance.choice(near)
                return self.signed(self.answer(id=ident), age=chance.choice((0, 10**5, -(10**5), 10**9)))
            case 3:
                return self.signed(self.answer(id=chance.choice((None, 0, True, [self.ident], {"id": self.ident}))))
            case _:
                return self.signed(self.answer(), tags=[["p", other], ["e", mine]])

    def garble(self) -> Json:
        """Rightly signed, and not a NIP-44 payload any more, or one of what is not JSON-RPC."""
        chance, right = self.chance, self.signed(self.answer())
        answer = self.answer()
        if chance.randrange(2):
            texts = ("null", "[]", "0", '"x"', "{}", "[" * 5000, answer[:-1], answer + "}", "\ufeff" + answer, "1" * 5000)
            return self.signed(chance.choice(texts))
        content = chance.choice(("", "?", right["content"] + "?iv=AAAA", right["content"][: chance.randrange(1, 60)], "A" * 200))
        if chance.randrange(2):
            place = chance.randrange(len(right["content"]))
            content = right["content"][:place] + chance.choice("ABab01+/=") + right["content"][place + 1 :]
        made = nostr_sdk.EventBuilder(nostr_sdk.Kind(avault.RPC_KIND), content).tags(
            [nostr_sdk.Tag.public_key(self.client.public_key())]
        )
        return dict(json.loads(made.finalize(self.signer).as_json()))

    def mislead(self) -> Json:
        """To the right request, the wrong answer; or a page to look at."""
        chance, other = self.chance, nostr_sdk.Keys.generate()
        results = [
            "", "ack", "hello", "[]", "{}", "null", "true", '{"avault": null}', '{"avault": []}', '{"avault": ""}',
            *(json.dumps({"avault": key}) for key in (other.secret_key().to_hex(), "0" * 64, "f" * 64)),
            json.dumps({"avault": public(other)}), other.secret_key().to_bech32(), self.right[:-1], "\ud800", *self.answers,
        ]  # fmt: skip
        urls = [
            "javascript:alert(1)",
            "https://evil.example/\x1b]0;x\x07",
            "http://",
            7,
            None,
            ["https://x"],
            "file:///etc/passwd",
        ]
        match chance.randrange(4):
            case 0:
                return self.signed(self.answer(result="auth_url", error=chance.choice(urls)))
            case 1:
                return self.signed(self.answer(result=chance.choice((None, 0, True, [self.right], {"avault": 1}, 1e300))))
            case _:
                return self.signed(self.answer(result=chance.choice(results)))

    def mutate(self) -> Json:
        """The right answer's text with some letters changed, doubled, swapped or gone: whatever that means now."""
        chance, text = self.chance, list(self.answer(error=self.chance.choice((None, ""))))
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(text))
            match chance.randrange(4):
                case 0:
                    text[place] = chr(ord(text[place]) ^ 1 << chance.randrange(7)) or " "
                case 1:
                    del text[place]
                case 2:
                    text.insert(place, chance.choice(text))
                case _:
                    other = chance.randrange(len(text))
                    text[place], text[other] = text[other], text[place]
        return self.signed("".join(text) or "x")

    def hostile(self) -> Json:
        """One event that somebody might send."""
        kinds: tuple[Callable[[], Json], ...] = (self.forge, self.replay, self.stray, self.garble, self.mislead, self.mutate)
        return self.chance.choice(kinds)()

    def refusal(self) -> Json:
        words = self.chance.choice(("user rejected", "denied by user", {"code": -32000}, ["no"], "\x1b[31mno", 1))
        return self.signed(self.answer(result="", error=words))

    def doubtful(self) -> Json:
        return self.signed(
            self.answer(result="", error=self.chance.choice(("no permission", "Not authorized", "client NOT PAIRED")))
        )

    # -- the model

    def meaning(self, event: Json) -> str:
        """What an event may do to the wait, by NIP-46 and the design: from the signer, for us, to this request, or nothing."""
        try:
            heard = nostr_sdk.Event.from_json(json.dumps(event))
            true = heard.verify() and event["pubkey"] == public(self.signer) and event["kind"] == 24133
            if not true or ["p", public(self.client)] not in [tag[:2] for tag in event["tags"]]:
                return NOTHING
            said = json.loads(nostr_sdk.nip44_decrypt(self.client.secret_key(), self.signer.public_key(), event["content"]))
        except (ValueError, RecursionError, nostr_sdk.NostrSdkError):
            return NOTHING
        if not isinstance(said, dict) or said.get("result") == "auth_url":
            return NOTHING
        is_earlier = self.is_told_by_content and not said.get("error") and not isinstance(said.get("id"), list | dict)
        if said.get("id") != self.ident and not is_earlier:
            return NOTHING
        if error := said.get("error"):
            text = (error if isinstance(error, str) else json.dumps(error)).lower()
            return DOUBTED if any(words in text for words in ("no permission", "not paired", "not authorized")) else REFUSED
        try:
            key = nostr_sdk.Keys.parse(json.loads(said["result"])["avault"])
        except (ValueError, TypeError, KeyError, RecursionError, nostr_sdk.NostrSdkError):
            return NOTHING
        return OPENED if public(key) == public(nostr_sdk.Keys.parse(json.loads(self.right)["avault"])) else NOTHING


# The client's own ear


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be put forward."""

    skipped = 0.0

    def time(self) -> float:
        return super().time() + self.skipped


class Stream:
    """What the library would hand to `listen`: events as notifications."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    async def next(self) -> Any:
        return await self.queue.get()

    async def send(self, event: Json) -> bool:
        """Hand over an event, and return when it was heard; False if the library itself would not take it for one."""
        try:
            heard = nostr_sdk.Event.from_json(json.dumps(event))
        except nostr_sdk.NostrSdkError:
            return False
        self.queue.put_nowait(SimpleNamespace(is_NEW_EVENT=lambda: True, event=heard))
        while not self.queue.empty():
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        return True


@contextlib.asynccontextmanager
async def listening(signer: avault.RemoteSigner) -> Any:
    """A signer's client with our stream instead of relays."""
    stream = Stream()
    task = asyncio.ensure_future(signer.relays.listen("ws://one", None, stream))
    yield stream
    assert not task.done(), task
    task.cancel()


def in_time_of_its_own(work: Any) -> Any:
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(work)


class Vault:
    """What the disk has for an unlock: a sealed key and an envelope; and the same of an earlier boot, and of another vault."""

    def __init__(self) -> None:
        self.agent, self.operator = nostr_sdk.Keys.generate(), nostr_sdk.Keys.generate()
        self.identity = secrets.token_hex(16)
        self.content, self.right = self.seal(self.agent, self.identity)
        self.others = [self.seal(self.agent, self.identity)[1], self.seal(nostr_sdk.Keys.generate(), secrets.token_hex(16))[1]]
        self.others += [self.content["envelope"], self.content["sealed"]]

    def seal(self, agent: nostr_sdk.Keys, identity: str) -> tuple[Json, str]:
        """A sealed copy, and the phone's answer to its envelope."""
        content = avault.seal_nsec(agent, identity, public(self.operator), "test@machine", "host")
        return content, avault.decrypt(agent, public(self.operator), content["envelope"])


async def hear_session(chance: random.Random, vault: Vault, stale: list[Json]) -> tuple[int, str]:
    """One asking amid hostile events; how many there were, and how it ended."""
    client, signer_keys = nostr_sdk.Keys.generate(), nostr_sdk.Keys.generate()
    signer = avault.RemoteSigner(client, [], public(signer_keys), lambda: None)
    count, doubted, is_told_by_content = 0, False, chance.random() < 0.5
    async with listening(signer) as stream:
        asking = asyncio.ensure_future(
            signer.request(
                "nip44_decrypt",
                [],
                lambda result: avault.open_nsec(vault.content, result),
                is_told_by_content=is_told_by_content,
            )
        )
        await asyncio.sleep(0)
        assert signer.pending
        world = World(chance, client, signer_keys, signer.pending.id, vault.right)
        world.stale, world.answers = list(stale), vault.others
        world.is_told_by_content = is_told_by_content
        ends = chance.choice((world.event, world.event, world.event, world.refusal, world.doubtful))
        last = world.event(world.answer()) if ends == world.event else ends()
        events = [world.hostile() for _ in range(chance.randrange(12))] + [last]
        for event in events:
            taken = await stream.send(event)
            count += 1
            meaning = world.meaning(event) if taken else NOTHING
            doubted |= meaning == DOUBTED
            for _ in range(3):
                await asyncio.sleep(0)
            shown = json.dumps(signer.describe())
            assert json.loads(world.right)["avault"] not in shown
            assert (signer.remarks.error or "").isprintable() and (signer.remarks.auth_url or "https://").startswith(
                ("https://", "http://")
            )
            if meaning in (OPENED, REFUSED):
                break
            assert not asking.done(), f"ended by {event}"
            stale.append(event)
            del stale[:-50]
        if meaning == DOUBTED or (doubted and meaning == NOTHING):
            loop: Any = asyncio.get_running_loop()
            loop.skipped += 6
        try:
            keys = await asyncio.wait_for(asking, 60)
            assert meaning == OPENED and public(keys) == public(vault.agent)
        except avault.Denied:
            assert meaning == REFUSED or doubted
        for event in (events[0], last):  # too late to change anything
            await stream.send(event)
    return count, meaning


def test_only_the_right_answer_ends_a_wait() -> None:
    """Thousands of sequences of real events, and a model of what each may do."""
    chance, vault = random.Random(SEED), Vault()
    stale: list[Json] = []
    events, ends = 0, {OPENED: 0, REFUSED: 0, DOUBTED: 0}

    async def run() -> None:
        nonlocal events
        for number in range(figures.pick(150, 10_000)):
            state = chance.getstate()
            try:
                count, end = await hear_session(chance, vault, stale)
            except BaseException:
                print(f"AVAULT_TEST_SEED={SEED}: session {number}, of {hash(state)}")
                raise
            events += count
            ends[end] += 1
            if not number % 100:
                gc.collect()

    gc.disable()  # else it may run at the bottom of a message that is nested too deep, where a finalizer finds no room
    try:
        in_time_of_its_own(run())
    finally:
        gc.enable()
    assert all(ends.values()), ends
    figures.at_least("sequences of events for the client's ear", sum(ends.values()))
    figures.at_least("hostile events in them", events - sum(ends.values()))


def echoes(client: nostr_sdk.Keys, event: Json, secret: str) -> bool:
    """Whether an event is the echo of the secret, from whoever knows it."""
    try:
        heard = nostr_sdk.Event.from_json(json.dumps(event))
        if not heard.verify() or event["kind"] != 24133 or ["p", public(client)] not in [tag[:2] for tag in event["tags"]]:
            return False
        said = json.loads(nostr_sdk.nip44_decrypt(client.secret_key(), heard.author(), event["content"]))
    except (ValueError, RecursionError, nostr_sdk.NostrSdkError):
        return False
    return isinstance(said, dict) and said.get("result") == secret


async def greet_session(chance: random.Random) -> int:
    """A signer that is to scan our code, amid others who have not: who echoes the secret is it, and nobody else."""
    client, phone, secret = nostr_sdk.Keys.generate(), nostr_sdk.Keys.generate(), secrets.token_hex(16)
    signer = avault.RemoteSigner(client, [], None, lambda: None)
    count = 0
    near = ["ack", "", secret[:-1], secret + "0", secret.upper() + "A", f" {secret}", "auth_url", "\ud800"]
    async with listening(signer) as stream:
        greeting = asyncio.ensure_future(signer.greet(secret))
        await asyncio.sleep(0)
        for _ in range(chance.randrange(10)):
            world = World(chance, client, nostr_sdk.Keys.generate(), secrets.token_hex(16), secret)
            wrong = [*near, [secret], {"result": secret}, None, True, 0]
            event = world.signed(
                world.answer(result=chance.choice(wrong), error=chance.choice((None, "https://x.example", secret)))
            )
            event = chance.choice((event, world.hostile()))
            if echoes(client, event, secret):
                continue  # from one who knows the secret: that is what pairs
            count += await stream.send(event)
            assert not greeting.done() and signer.signer is None and signer.remarks.auth_url is None, f"paired by {event}"
        world = World(chance, client, phone, secrets.token_hex(16), secret)
        await stream.send(world.event(world.answer()))
        await stream.send(world.event(world.answer(), world.stranger))
        assert await asyncio.wait_for(greeting, 60) == public(phone)
    return count


def test_only_the_echo_of_the_secret_pairs() -> None:
    chance = random.Random(SEED)

    async def run() -> int:
        return sum([await greet_session(chance) for _ in range(figures.pick(60, 4_000))])

    print(f"AVAULT_TEST_SEED={SEED}")
    figures.at_least("hostile events before a signer scans the code", in_time_of_its_own(run()))


# Over relays


class Liar(OwnRelay):
    """A relay that lies, as `mode` says; to one that asks for nothing it hands on nothing."""

    MODES = ("silent", "ok", "refuse", "limit", "closed", "notice", "auth", "garbage", "binary", "hang up", "eose", "forge")

    def __init__(self) -> None:
        self.mode = "ok"
        self.forgeries: list[Json] = []
        self.said = 0
        super().__init__()

    def attend(self, client: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed, ValueError):
            while True:
                kind, *rest = json.loads(client.recv())
                for answer in self.answers(kind, rest):
                    client.send(answer if isinstance(answer, str | bytes) else json.dumps(answer))
                    self.said += 1
                if self.mode == "hang up":
                    return

    def answers(self, kind: str, rest: list[Any]) -> list[Any]:
        """What it says to a message."""
        name, forged = (rest[0] if kind == "REQ" else "avault"), [["EVENT", "avault", event] for event in self.forgeries]
        ident = rest[0]["id"] if kind == "EVENT" else "0" * 64
        return {
            "silent": [],
            "ok": [["OK", ident, True, ""], ["EOSE", name]],
            "refuse": [["OK", ident, False, "blocked: \x1b[2Jpay first"]],
            "limit": [["OK", ident, False, "rate-limited: slow down"], ["NOTICE", "rate-limited"]],
            "closed": [["CLOSED", name, "error: gone"], ["OK", ident, True, ""]] * 3,
            "notice": [["NOTICE", "\x1b]0;x\x07" * 50], ["NOTICE", 7], ["NOTICE"]] * 20,
            "auth": [
                ["AUTH", "challenge"],
                ["OK", ident, False, "auth-required: who are you"],
                ["CLOSED", name, "auth-required: x"],
            ],
            "garbage": ["", "{}", "[]", "[1]", '["EVENT"]', "[" * 5000, '["OK"]', '["EVENT", "avault", {"kind": "x"}]'],
            "binary": [b"\0\xff" * 100, b""],
            "hang up": [],
            "eose": [["EOSE", name], ["EOSE", "other"], ["EOSE"]] * 10,
            "forge": [*forged, ["OK", ident, True, ""]],
        }[self.mode]


class Theatre:
    """A machine whose relays are two men in the middle and a liar, and the signer behind them."""

    def __init__(self, machine: Machine, rogue: Rogue, proxies: list[Relay], liar: Liar, chance: random.Random) -> None:
        self.machine, self.rogue, self.proxies, self.liar, self.chance = machine, rogue, proxies, liar, chance
        self.signer = nostr_sdk.Keys.parse(rogue.config["key"])
        self.user = nostr_sdk.Keys.parse(rogue.config["nsec"])
        self.stale: list[Json] = []
        self.answers: list[str] = []
        self.hostile = 0
        self.number = itertools.count()
        self.urls = [*(proxy.url for proxy in proxies), liar.url]

    def prepare(self) -> None:
        """The vault, paired over all relays."""
        uri = bunker(self.rogue, *self.urls)
        self.machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=uri)
        self.places = avault.Places(str(self.machine.vault))
        status = self.machine.status()
        self.places.socket, self.places.state = status["socket"], str(self.machine.own)
        self.ask("lock")

    def ask(self, op: str, **fields: Any) -> Json:
        return avault.ask_daemon(self.places, op, **fields)

    def state(self) -> str:
        return str(self.ask("status")["state"])

    def calm(self) -> None:
        """The men in the middle do nothing any more."""
        for proxy in self.proxies:
            for way in ("up", "down"):
                proxy.send("rule", dir=way)
            proxy.send("refuse")

    def trouble(self) -> None:
        """Each man in the middle does something to every message; one of them lets it pass in the end."""
        chance = self.chance
        self.liar.mode = chance.choice(Liar.MODES)
        fates = [{"drop": True}, {"drop": "ok"}, {"delay_ms": chance.randrange(300)}, {"copies": 4}, {}]
        worse, better = chance.sample(self.proxies, 2)
        for way in ("up", "down"):
            worse.send("rule", dir=way, **chance.choice([*fates, {"reorder": True}]))
            better.send("rule", dir=way, **chance.choice(fates[2:]))
        if chance.randrange(4) == 0:
            worse.send("refuse", text=chance.choice(("blocked: no", "rate-limited: \x1b[31m", "duplicate: not true", "error: ")))

    def inject(self, event: Json) -> None:
        """Send an event to avault's subscriptions, through both men in the middle."""
        for proxy in self.proxies:
            proxy.send("inject", event=event)
        self.hostile += 1

    def barrier(self, world: World) -> None:
        """Return when avault has heard all that was sent: a page that the signer wants to be opened shows in its status."""
        page = f"https://signer.example/{next(self.number)}"

        def shown() -> bool:
            for proxy in self.proxies:  # a subscription may be on its way
                proxy.send("inject", event=world.signed(world.answer(result="auth_url", error=page)))
            waiting = self.ask("status")["waiting"]
            return bool(waiting and waiting["auth_url"] == page)

        wait_until(shown, 100, "that avault hears")

    def unlock(self, end: int) -> None:
        """One unlock: what is hostile, then a refusal (end 0), or the right answer by another's hand (1) or the signer's own."""
        chance, seen = self.chance, len(self.rogue.requests("nip44_decrypt"))
        noise = [step for steps in chance.sample(list(misdeeds.NOISE.values()), 3) for step in steps]
        self.rogue.behave("nip44_decrypt", [*noise, {"wait": True, "honest": True, "copies": chance.choice((1, 3))}])
        self.trouble()
        before = (self.machine.own / "unlock.json").read_bytes()
        ended: list[Any] = []

        def ask() -> None:
            try:
                ended.append(self.ask("unlock", person=True))  # a program would pause after a refusal
            except avault.AvaultError as error:
                ended.append(error)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        request = wait_until(lambda: self.rogue.requests("nip44_decrypt")[seen:], 60, "a request")[0]
        peer, payload = request["params"]
        right = nostr_sdk.nip44_decrypt(self.user.secret_key(), nostr_sdk.PublicKey.parse(peer), payload)
        client = nostr_sdk.Keys.parse(
            avault.decode_file("pairing", (self.machine.own / "pairing.json").read_bytes(), "")["client_key"]
        )
        assert public(client) == request["client"]
        world = World(chance, client, self.signer, request["id"], right)
        world.stale, world.answers = self.stale[-100:], self.answers[-5:]
        world.is_told_by_content = True  # as every unlock is
        self.liar.forgeries = [world.forge() for _ in range(5)]
        for _ in range(chance.randrange(4, 16)):
            event = world.hostile()
            if world.meaning(event) == NOTHING:
                self.inject(event)
                self.stale.append(event)
        if chance.randrange(3) == 0:
            chance.choice(self.proxies).send("cut")
        self.barrier(world)
        assert self.state() == "waiting" and not ended, ended
        match end:
            case 0:  # refused, by the signer itself
                self.inject(refusal := world.refusal())
                self.stale.append(refusal)
                asking.join(30)
                assert isinstance(ended[0], avault.Denied), ended
                assert self.state() == "locked"
            case 1:  # the right answer comes late, from somebody who held it back
                answer = world.event(world.answer())
                self.inject(answer)
                self.stale.append(answer)
                self.opened(asking, ended, before)
            case _:
                self.calm()
                self.rogue.go()
                self.opened(asking, ended, before)
        self.answers.append(right)
        self.calm()

    def opened(self, asking: threading.Thread, ended: list[Any], before: bytes) -> None:
        """The unlock has succeeded, and the answer opens nothing any more."""
        asking.join(60)
        assert ended and isinstance(ended[0], dict) and ended[0]["state"] == "unlocked", ended
        assert (self.machine.own / "unlock.json").read_bytes() != before
        self.unlocks += 1

    unlocks = 0

    def pair(self, by_bunker: bool) -> None:
        """One pairing: others answer first, and do not pair; then the signer does."""
        chance, self.liar.mode = self.chance, self.chance.choice(Liar.MODES)
        noise = [step for steps in chance.sample(list(misdeeds.NOISE.values()), 4) for step in steps]
        for method in ("connect", "get_public_key", "nip44_decrypt"):
            self.rogue.behave(method, [*chance.sample(noise, 2), {"honest": True, "copies": chance.choice((1, 2))}])
        if by_bunker:
            fate = chance.choice(({"copies": 3}, {"delay_ms": 200}))
            chance.choice(self.proxies).send("rule", dir=chance.choice(("up", "down")), **fate)
            uri = bunker(self.rogue, *self.urls)
            self.machine("pair", "--replace", "--no-drill", "--bunker", "-", input=uri)
        else:
            relays = [word for url in self.urls for word in ("--relay", url)]
            pairing = self.machine.start("pair", "--replace", "--no-drill", *relays)
            uri = pairing.line("nostrconnect://")
            client, secret = uri[15:79], parse_qs(urlsplit(uri).query)["secret"][0]
            for _ in range(chance.randrange(4, 12)):
                event = self.greeting(client, secret)
                self.inject(event)
            uri = uri.replace(f"relay={quote(self.liar.url, safe='')}&", "")  # the signer would wait for it
            near = [{"say": {"result": wrong}} for wrong in (secret[:-1], "ack", "", None)]
            self.rogue.nostrconnect(uri, steps=[*misdeeds.ACK_FROM_STRANGER, *misdeeds.WRONG_SECRET, *near, *noise])
            assert pairing.process.poll() is None and "avault: the signer is connected" not in pairing.stderr
            self.rogue.nostrconnect(uri)
            done = pairing.wait(60)
            assert done.returncode == 0, done.stderr
        self.calm()
        assert self.machine.own.joinpath("pairing.json").read_text().count(self.rogue.signer) == 1

    def greeting(self, client: str, secret: str) -> Json:
        """An event for one who waits for a signer, from one who has not seen its secret; or its echo, spoilt."""
        chance, author = self.chance, self.chance.choice((self.signer, nostr_sdk.Keys.generate()))
        wrong = chance.choice(("ack", secret[:-1], secret + "0", "", [secret], None, "auth_url"))
        text = json.dumps({"id": secrets.token_hex(4), "result": wrong, "error": chance.choice((None, "https://evil.example"))})
        right = message(author, client, json.dumps({"id": "1", "result": secret}))
        spoilt = ({"sig": "0" * 128}, {"kind": 1}, {"created_at": 1}, {"tags": []}, {"pubkey": public(nostr_sdk.Keys.generate())})
        return chance.choice((message(author, client, text), right | chance.choice(spoilt)))


@pytest.fixture
def theatre(machine: Machine) -> Iterator[Theatre]:
    """The whole of avault amid hostile relays."""
    with (
        peers.local_relay(rate_limit={"max_reqs": 1_000, "notes_per_minute": 1_000_000}) as relay,
        peers.proxy(relay.url) as one,
        peers.proxy(relay.url) as other,
        peers.rogue([relay.url]) as rogue,
        Liar() as liar,
    ):
        yield Theatre(machine, rogue, [one, other], liar, random.Random(SEED))


def test_unlocks_amid_hostile_relays(theatre: Theatre, canary: Canary) -> None:
    """Session after session on one daemon: it opens by the right answer to its own request, and by nothing else."""
    print(f"AVAULT_TEST_SEED={SEED}")
    theatre.prepare()
    sessions = figures.pick(5, 300)
    for number in range(sessions):
        print(f"session {number}")
        theatre.unlock(number % 4)
        if theatre.state() == "unlocked":
            theatre.machine("set", "g/K", input=canary.value)
            assert theatre.machine("get", "g/K", secret=True).stdout == canary.value + "\n"
            theatre.ask("lock")
    figures.at_least("unlock sessions amid hostile relays", sessions)
    figures.at_least("of them opened by the right answer", theatre.unlocks)
    figures.at_least("hostile events injected into them", theatre.hostile)


def test_pairings_amid_hostile_relays(theatre: Theatre) -> None:
    """By a code that is scanned, and by a bunker's: only the right secret's echo pairs, and the phone must open the vault."""
    print(f"AVAULT_TEST_SEED={SEED}")
    theatre.prepare()
    sessions = figures.pick(2, 60)
    for number in range(sessions):
        print(f"pairing {number}")
        theatre.pair(by_bunker=bool(number % 2))
        theatre.ask("lock")
    figures.at_least("pairings amid hostile relays", sessions)
