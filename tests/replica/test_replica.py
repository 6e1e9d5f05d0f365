"""Relays keep the vault (avault replica): what is put there, taken in from there, and said of relays that do not keep it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nostr_sdk
import peers
import pytest
from canary import Canary
from fickle import Event, Fickle
from git_helpers import AGENT, NSEC, clone, commits, get, git, lock, make, put, share, start, stop, unlock, values
from harness import Machine, wait_until

import avault

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forks")]

KEYS = avault.read_keys(NSEC)
REPLICA = avault.replica_keys(KEYS)
AUTHOR, AGENT_HEX = avault.public_hex(REPLICA), AGENT.public_key().to_hex()


@pytest.fixture
def fickle() -> Iterator[Fickle]:
    with Fickle() as relay:
        yield relay


@pytest.fixture
def open_vault(machine: Machine) -> Machine:
    """An open vault that needs no phone."""
    return make(machine)


def add(machine: Machine, *urls: str, code: int = 0) -> None:
    """Have relays keep the vault; and wait until the daemon has asked them by itself, as it does then, and not again soon."""
    machine("replica", "add", *urls, "--yes", code=code)
    wait_until(lambda: (machine.status()["replica"] or {}).get("asked"), what="the daemon's own look at the relays")


def push(machine: Machine, code: int = 0) -> Any:
    """`avault replica push`: of each relay, what it says."""
    told = machine("replica", "push", "--json", code=code).json
    return {row["url"]: row for row in told["relays"]} | {"": told}


def read_back(*urls: str) -> list[avault.Vault]:
    """The latest copies that these relays have whole, as another machine would find them."""

    def join(head: dict[str, Any], parts: list[str] | None) -> bytes | None:
        return None if parts is None else avault.join_copy(REPLICA, head, parts)

    async def find() -> list[bytes]:
        async with avault.Readers([*urls]) as readers:
            topic = avault.name_event(REPLICA, "heads")
            found = avault.merge_found(await readers.find_heads(AUTHOR, topic))
            heads = avault.choose_latest([avault.read_head(REPLICA, each.event) for each in found])
            copies = [join(head, await readers.find_copy(AUTHOR, head)) for head in heads]
            return [data for data in copies if data is not None]

    vaults = [avault.open_vault(data, KEYS) for data in asyncio.run(find())]
    return [*{json.dumps(vault.generation): vault for vault in vaults}.values()]


def kept(*urls: str) -> set[str]:
    """The values that are in the one copy that these relays have."""
    [vault] = read_back(*urls)
    return {secret.value for group in vault.groups.values() for found in group.keys.values() for secret in found}


def of_author(relay: Fickle, author: str) -> list[Event]:
    return [event for event in relay.events.values() if event["pubkey"] == author]


def large(canary: Canary, number: int = 8) -> str:
    """Secrets in a form that `import` takes: a vault of several parts."""
    return json.dumps({"big": {f"K{each}": canary.new(f"big {each}") + "x" * 20_000 for each in range(number)}})


# The events


@pytest.mark.parametrize("size", [1, 40_000, 40_959, 40_960, 90_000, 1_500_000, 2 << 20])
@pytest.mark.parametrize("machines", [1, 40])
def test_every_event_fits_where_64_kib_are_the_most(size: int, machines: int) -> None:
    data, generation = b"a" * size, {f"{number:016x}": 1_000_000 for number in range(machines)}
    events = avault.compose_copy(REPLICA, "0" * 16, generation, data, 1, 0)
    assert max(len(json.dumps(["EVENT", event])) for event in events) <= 65_536
    head = avault.read_head(REPLICA, events[-1])
    assert (head["size"], head["generation"], len(head["parts"])) == (size, generation, len(events) - 1)
    parts = [event["content"] for event in events[:-1]]
    assert avault.join_copy(REPLICA, head, parts) == data
    for wrong in ([*parts, *parts[:1]], parts[1:], [*parts[:-1], "x"], [None]) if parts else ():
        with pytest.raises(avault.Tampered):
            avault.join_copy(REPLICA, head, wrong)
    assert not [part for part in parts if part[:40] in data.decode() or data[:40].decode() in part], "it is encrypted once more"
    with pytest.raises(avault.Denied):
        avault.compose_copy(REPLICA, "0" * 16, generation, b"a" * ((2 << 20) + 1), 1, 0)


def test_addresses_as_the_document_says() -> None:
    """references/replica.md is enough to find and read a vault without avault."""
    secret = bytes.fromhex(KEYS.secret_key().to_hex())
    derived = hmac.digest(secret, b"avault replica", "sha256")
    assert REPLICA.secret_key().to_hex() == derived.hex()
    part = hmac.digest(derived, b"part\0" + b"0" * 16 + b"\x001\x002", "sha256").hex()[:32]
    assert avault.name_parts(REPLICA, "0" * 16, 1, 2)[1] == part
    assert avault.name_event(REPLICA, "heads") == hmac.digest(derived, b"heads", "sha256").hex()[:32]
    root = hashlib.sha256(b"avault root\0" + bytes.fromhex(AGENT_HEX)).hexdigest()[:32]
    assert avault.name_root(AGENT_HEX) == root


@pytest.mark.parametrize(
    "change",
    [{"type": "x"}, {"version": 2}, {"slot": 2}, {"count": -1}, {"count": 1000}, {"size": 0}, {"size": 3 << 20},
     {"generation": []}, {"generation": {"a": "b"}}, {"machine": "f" * 16}, {"slot": None}, {"hash": None, "count": "x"},
     {"epoch": None}, {"epoch": 1}],
)  # fmt: skip
def test_what_is_no_head(change: dict[str, Any]) -> None:
    told = {
        "type": "avault/head",
        "version": 1,
        "machine": "0" * 16,
        "epoch": 0,
        "slot": 0,
        "generation": {},
        "size": 1,
        "hash": "",
        "count": 0,
    }
    tags = [["d", avault.name_event(REPLICA, "head", "0" * 16)], ["t", avault.name_event(REPLICA, "heads")]]

    def make(told: Any) -> Any:
        return avault.compose_stored(REPLICA, tags, avault.encrypt(REPLICA, AUTHOR, json.dumps(told) + "\nx"), 1)

    assert avault.read_head(REPLICA, make(told))["first"] == "x"
    for wrong in (make({**told, **change}), make([]), make(7), {}, None, "x"):
        with pytest.raises(avault.Tampered):
            avault.read_head(REPLICA, wrong)


# What is put there


def test_nothing_is_published_unasked(open_vault: Machine, fickle: Fickle) -> None:
    done = open_vault("replica", "add", fickle.url, code=5)
    assert "for ever" in done.stderr
    assert "not confirmed" in done.stderr
    assert not fickle.received
    said = open_vault("replica", "status").stderr
    assert "no relay keeps this vault" in said and "hint: to keep copies on relays: avault replica add" in said


def test_what_is_to_be_written_down_is_said_when_it_is_switched_on(open_vault: Machine, fickle: Fickle) -> None:
    """And that one relay is too few; also where one of two does not answer."""
    done = open_vault("replica", "add", fickle.url, "--yes")
    profile = avault.render_profile(AGENT_HEX, [fickle.url])
    assert f"write this down, to get it back: avault recover --from-relays {profile}" in done.stderr
    assert "one relay alone can keep the newest copy back" in done.stderr
    done = open_vault("replica", "add", url := peers.closed(), "--yes", code=6)
    assert avault.render_profile(AGENT_HEX, sorted([fickle.url, url])) in done.stderr and "one relay alone" not in done.stderr


def test_it_is_put_there_and_only_ciphertext(open_vault: Machine, fickle: Fickle, canary: Canary) -> None:
    value = canary.new("replica")
    put(open_vault, "openai/API_KEY", value)
    add(open_vault, fickle.url)
    assert value in kept(fickle.url)
    text = json.dumps([*fickle.events.values()])
    whole = json.loads((open_vault.vault / "nsec.enc").read_text())
    names = [whole["operator"], open_vault.npub(), open_vault.operator.public_key().to_hex(), "openai", "test@machine", value]
    assert not [name for name in [*names, whole["vault"]] if name in text]
    [root] = of_author(fickle, AGENT_HEX)
    assert root["tags"] == [["d", avault.name_root(AGENT_HEX)]]
    assert json.loads(root["content"]).keys() == {"v", "envelope", "sealed"}
    [head] = of_author(fickle, AUTHOR)
    assert [tag[0] for tag in head["tags"]] == ["d", "t"]
    assert {event["kind"] for event in fickle.events.values()} == {30078}
    assert AGENT_HEX not in json.dumps(head)


def test_an_answer_to_the_root_opens_nothing_else(open_vault: Machine, fickle: Fickle) -> None:
    """Its unlock key is its own: neither nsec.enc nor unlock.json opens by it."""
    add(open_vault, fickle.url)
    [root] = of_author(fickle, AGENT_HEX)
    operator = avault.read_keys(open_vault.operator.secret_key().to_hex())
    answer = avault.decrypt(operator, AGENT_HEX, json.loads(root["content"])["envelope"])
    told, _ = avault.read_root(root, AGENT_HEX)
    keys, _ = avault.open_root(told, AGENT_HEX, avault.public_hex(operator), answer)
    assert avault.public_hex(keys) == AGENT_HEX
    for path in (open_vault.vault / "nsec.enc", open_vault.own / "unlock.json"):
        content = avault.decode_file(path.stem.removesuffix(".json"), path.read_bytes(), str(path))
        with pytest.raises(avault.Tampered):
            avault.open_nsec(content, answer)
    stranger = avault.make_keys()
    with pytest.raises(avault.Tampered):
        avault.open_root(told, AGENT_HEX, avault.public_hex(stranger), answer)


def test_two_slots_take_turns(open_vault: Machine, fickle: Fickle, canary: Canary) -> None:
    open_vault("import", "-", "--format", "json", input=large(canary))
    add(open_vault, fickle.url)
    slots = []
    for value in ("one", "two", "three"):
        put(open_vault, "a/B", value)
        begun = len(fickle.received)
        push(open_vault)
        assert value in kept(fickle.url)
        slots.append({dict(event["tags"])["d"] for event in fickle.received[begun:] if len(event["tags"]) == 1})
    assert slots[0] == slots[2]
    assert not slots[0] & slots[1]


def test_what_is_there_stays_whole_where_the_state_is_lost(open_vault: Machine, fickle: Fickle, canary: Canary) -> None:
    open_vault("import", "-", "--format", "json", input=large(canary))
    put(open_vault, "a/B", "old")
    add(open_vault, fickle.url)
    for value in ("one", "two", "three"):
        (open_vault.own / "replica.json").write_text("damaged")
        put(open_vault, "a/B", value)
        before = kept(fickle.url)
        fickle.reset(drop={0})
        push(open_vault, code=6)
        assert kept(fickle.url) == before
        fickle.reset()
        push(open_vault)
        assert value in kept(fickle.url)


def test_nothing_is_sent_twice(open_vault: Machine, fickle: Fickle) -> None:
    add(open_vault, fickle.url)
    begun = len(fickle.received)
    push(open_vault)
    push(open_vault)
    assert len(fickle.received) == begun


def test_what_is_too_large_is_said(open_vault: Machine, fickle: Fickle) -> None:
    add(open_vault, fickle.url)
    begun = len(fickle.received)
    text = json.dumps({"big": {f"K{each}": "x" * 250_000 for each in range(8)}})
    open_vault("import", "-", "--format", "json", input=text)
    told = push(open_vault, code=6)[""]
    assert "relays are given at most 2,097,152" in told["problem"]
    assert len(fickle.received) == begun
    with Fickle() as other:
        open_vault("replica", "remove", fickle.url)
        open_vault("replica", "add", other.url, "--yes", code=6)
        assert open_vault("replica", "status", "--json").json["nprofile"] == avault.render_profile(AGENT_HEX, [other.url])
        fickle.events.clear()
        begun = len(fickle.received)
        open_vault("delete", "big")
        assert push(open_vault).keys() == {other.url, ""}
        assert len(fickle.received) == begun
        assert other.events


def test_relays_are_few_and_have_one_spelling(open_vault: Machine, fickle: Fickle) -> None:
    add(open_vault, fickle.url)
    done = open_vault("replica", "add", fickle.url + "/", "--yes")
    assert "is in a private network" in done.stderr
    assert push(open_vault).keys() == {fickle.url, ""}
    many = [f"wss://relay{number}.example" for number in range(20)]
    assert "at most 20 relays" in open_vault("replica", "add", *many, "--yes", code=2).stderr
    assert push(open_vault).keys() == {fickle.url, ""}


def test_nothing_is_signed_for_a_far_future(open_vault: Machine, fickle: Fickle) -> None:
    """Whoever runs as this user could have made what no later event replaces."""
    add(open_vault, fickle.url)
    places = avault.Places(str(open_vault.vault))
    places.socket, places.state = open_vault.status()["socket"], str(open_vault.own)
    for fields in ({"action": "root", "agent": AGENT_HEX}, {"action": "copy", "slot": 0, "epoch": 0}):
        with pytest.raises(avault.Denied, match="yet to come"):
            avault.ask_daemon(places, "replica", after=int(time.time()) + 7200, **fields)
        assert avault.ask_daemon(places, "replica", after=int(time.time()) + 60, **fields)
    with pytest.raises(avault.Usage):
        avault.ask_daemon(places, "replica", action="root", agent="0" * 64, after=0)


def test_a_clock_that_was_ahead(open_vault: Machine, fickle: Fickle) -> None:
    """What comes then is at other addresses, and of its own time; that is said."""
    add(open_vault, fickle.url)
    path = open_vault.own / "replica.json"
    content = avault.decode_file("replica", path.read_bytes(), str(path))
    path.write_bytes(avault.encode_file("replica", {**content, "last": int(time.time()) + 365 * 86_400}))
    put(open_vault, "a/B", "one")
    wait_until(lambda: json.loads(path.read_text())["epoch"] == 1, what="other addresses")
    wait_until(lambda: "a clock was ahead" in open_vault("status").stdout, what="what is said of it")
    assert "a clock was ahead" in str(push(open_vault)[""]["problems"])
    assert not push(open_vault)[""]["problems"]
    assert kept(fickle.url) == {"one"}
    heads = [event for event in of_author(fickle, AUTHOR) if len(event["tags"]) == 2]
    assert len(heads) == 2
    assert max(event["created_at"] for event in heads) <= time.time() + 60


def test_a_relay_is_taken_away(open_vault: Machine, fickle: Fickle) -> None:
    add(open_vault, fickle.url)
    done = open_vault("replica", "remove", fickle.url)
    assert "for ever" in done.stderr
    open_vault("replica", "remove", fickle.url, code=4)
    begun = len(fickle.received)
    put(open_vault, "a/B", "one")
    push(open_vault)
    assert len(fickle.received) == begun


# By itself


def test_a_lock_sends_at_once(open_vault: Machine, fickle: Fickle) -> None:
    add(open_vault, fickle.url)
    put(open_vault, "a/B", "written just now")
    lock(open_vault)
    wait_until(lambda: "written just now" in kept(fickle.url), what="the last write on the relay")


def test_a_stop_sends_at_once(open_vault: Machine, fickle: Fickle) -> None:
    add(open_vault, fickle.url)
    put(open_vault, "a/B", "written just now")
    stop(open_vault)
    wait_until(lambda: "written just now" in kept(fickle.url), what="the last write on the relay")


def test_what_is_laid_ready_is_sent_without_a_key(open_vault: Machine) -> None:
    """The relay was away when it was written; the vault is locked, and the daemon gone, when it is back."""
    with peers.nostr_relay() as relay:
        add(open_vault, relay.url)
        relay.stop()
        put(open_vault, "a/B", "written meanwhile")
        assert "does not answer" in push(open_vault, code=6)[relay.url]["said"]
        stop(open_vault)
        relay.start()
        assert push(open_vault)[relay.url]["kept"]
        assert kept(relay.url) == {"written meanwhile"}


def test_a_relay_of_npm_that_answers_from_a_cache(open_vault: Machine, canary: Canary) -> None:
    """@nostr-relay: 100 answers to a REQ, each kept for a second, and OK to what it drops. Slots come from our own state."""

    def has(value: str) -> bool:
        try:
            return value in kept(relay.url)
        except ValueError:  # of a head from its cache, whose parts are gone
            return False

    with peers.npm_relay() as relay, peers.nostr_relay() as other:
        open_vault("import", "-", "--format", "json", input=large(canary, 24))
        add(open_vault, relay.url, other.url)
        for value in ("one", "two", "three", "four"):  # within a second: what it says is stale
            put(open_vault, "a/B", value)
            told = push(open_vault)
            assert told[relay.url]["kept"] and told[other.url]["kept"]
        wait_until(lambda: has("four"), what="its cache is over")
        relay.stop()
        relay.start()
        assert {"four"} < kept(relay.url)
        put(open_vault, "a/B", "five")
        assert push(open_vault)[relay.url]["kept"]
        relay.stop()  # cut off: the other has it, and this one gets it when it is back
        put(open_vault, "a/B", "six")
        assert "does not answer" in push(open_vault, code=6)[relay.url]["said"]
        relay.start()
        assert push(open_vault)[relay.url]["kept"]
        wait_until(lambda: has("six"), what="its cache is over")


def test_status_says_how_relays_are(open_vault: Machine, fickle: Fickle) -> None:
    add(open_vault, fickle.url, peers.closed(), code=6)
    text = wait_until(lambda: (said := open_vault("status").stdout) and "Replica: 1 of 2 relays" in said and said)
    assert "does not answer" in text
    row = next(row for row in open_vault.status()["replica"]["relays"] if not row["kept"])
    assert row["said"] == "does not answer"
    doctor = open_vault("doctor", "replica", code=None).stdout
    assert "does not keep the vault" in doctor
    table = open_vault("replica", "status").stdout
    assert "avault recover --from-relays nprofile1" in table
    assert avault.to_npub(AUTHOR) in table


def test_what_another_machine_has_put_there_comes_in_at_an_unlock(open_vault: Machine, fickle: Fickle, place: Any) -> None:
    add(open_vault, fickle.url)
    with Machine(place.top / "other") as other:
        told = copy_vault(open_vault, other)
        assert f"another machine has named a relay that keeps the vault: {fickle.url}" in told[""]["problems"]
        assert not push(open_vault)[""]["problems"], "it has named it itself"
        put(open_vault, "a/B", "one")
        push(open_vault)
        stop(other)
        start(other)
        wait_until(lambda: other("has", "a/B", code=None).returncode == 0, what="the other's secret")
        assert get(other, "a/B") == "one"


def copy_vault(machine: Machine, other: Machine) -> Any:
    """Another machine with a copy of the vault's files, open, whose work relays have too; what its push says."""
    other.vault.mkdir(parents=True)
    for path in machine.vault.iterdir():
        (other.vault / path.name).write_bytes(path.read_bytes())
    start(other)
    return push(other)


# Relays that do not do what they should


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("rate-limited: slow down there", "rate-limited"),
        ("blocked: you are not admitted", "refused (blocked: you are not admitted)"),
        ("invalid: event is too large", "too large for it"),
        ("restricted: we know only friends", "wants to know who writes"),
        ("auth-required: and it never asks who we are", "no answer"),  # NIP-42 has it send a challenge
        ("pow: difficulty 25", "refused (pow: difficulty 25)"),
    ],
)
def test_a_refusal_is_said_and_tried_again_later(open_vault: Machine, fickle: Fickle, said: str, meaning: str) -> None:
    with Fickle() as honest:
        fickle.reset(refuse=dict.fromkeys(range(100), said))
        add(open_vault, fickle.url, honest.url, code=6)
        path = open_vault.own / "replica.json"
        waits = []
        for _ in range(3):
            told = push(open_vault, code=6)
            assert meaning in told[fickle.url]["said"]
            assert told[honest.url]["kept"]
            about = json.loads(path.read_text())["relays"][fickle.url]
            waits.append(about["next"] - time.time())
        assert waits[0] < waits[1] < waits[2]
        begun = len(fickle.received)
        open_vault("replica", "keep", "--send")
        assert len(fickle.received) == begun, "its time has not come"
        fickle.reset()
        assert push(open_vault)[fickle.url]["kept"]


def test_a_relay_that_wants_to_know_who_asks(open_vault: Machine, fickle: Fickle) -> None:
    """NIP-42: it is told of the key under which the copies are, and with roots of one that is never seen again."""
    put(open_vault, "a/B", "kept")
    fickle.challenge = "who"
    add(open_vault, fickle.url)
    assert push(open_vault)[fickle.url]["kept"]
    told = [[event["pubkey"] for event in told] for told in fickle.introduced]
    assert all(len(keys) == 1 for keys in told), "once a connection"
    keys = [key for [key] in told]
    others = [key for key in keys if key != AUTHOR]
    assert AUTHOR in keys and AGENT_HEX not in keys and len({*others}) == len(others) > 0
    for event in [event for told in fickle.introduced for event in told]:
        assert sorted(event["tags"]) == [["challenge", "who"], ["relay", fickle.url]] and event["content"] == ""
    # of a locked vault nothing is said: the key is away; what was laid ready waits for the next unlock
    put(open_vault, "a/B", "later")
    lock(open_vault)
    fickle.introduced.clear()
    assert "does not say what it has: auth-required: who are you?" in push(open_vault, code=6)[fickle.url]["said"]
    assert AUTHOR not in {event["pubkey"] for told in fickle.introduced for event in told}
    unlock(open_vault)
    assert push(open_vault)[fickle.url]["kept"]
    fickle.challenge = ""
    assert kept(fickle.url) == {"later"}


@pytest.mark.parametrize("mode", ["read", "write", "both"])
def test_a_relay_of_the_library_that_wants_to_know_it(open_vault: Machine, mode: str) -> None:
    with peers.local_relay(nip42=mode, rate_limit={"max_reqs": 1000, "notes_per_minute": 10_000}) as relay:
        put(open_vault, "a/B", "kept")
        add(open_vault, relay.url)
        assert push(open_vault)[relay.url]["kept"]
        assert kept(relay.url) == {"kept"}


def test_a_write_waits_for_no_relay(open_vault: Machine) -> None:
    with peers.hole("ws") as hole, peers.hole("tcp") as deaf:
        begun = time.monotonic()
        put(open_vault, "a/B", "before")
        usual = time.monotonic() - begun
        open_vault.start("replica", "add", hole.url, deaf.url, "--yes")
        wait_until((open_vault.own / "replica-outbox.json").exists)
        begun = time.monotonic()
        put(open_vault, "a/B", "after")
        assert time.monotonic() - begun < usual + 1


def test_one_that_keeps_nothing_is_found_out(open_vault: Machine, fickle: Fickle) -> None:
    fickle.reset(drop=range(100))
    add(open_vault, fickle.url, code=6)
    assert push(open_vault, code=6)[fickle.url]["said"] == "accepted, and does not keep it"
    fickle.reset()
    assert push(open_vault)[fickle.url]["kept"]


def test_one_that_has_forgotten_gets_it_again(open_vault: Machine) -> None:
    """LocalRelay keeps events in memory: a restart loses them. A later push looks, and sends what is missing."""
    with peers.local_relay() as relay:
        put(open_vault, "a/B", "one")
        add(open_vault, relay.url)
        relay.stop()
        relay.start()
        assert read_back(relay.url) == []
        assert push(open_vault)[relay.url]["kept"]
        assert kept(relay.url) == {"one"}


def test_one_that_keeps_it_over_a_restart(open_vault: Machine) -> None:
    with peers.nostr_relay() as relay:
        put(open_vault, "a/B", "one")
        add(open_vault, relay.url)
        relay.stop()
        relay.start()
        assert kept(relay.url) == {"one"}
        put(open_vault, "a/B", "two")
        assert push(open_vault)[relay.url]["kept"]
        assert kept(relay.url) == {"two"}


def test_rate_limits_are_got_through(open_vault: Machine, canary: Canary) -> None:
    """What a relay has taken is not sent again when its limit is over."""
    with peers.local_relay(rate_limit={"max_reqs": 100, "notes_per_minute": 4}) as relay:
        open_vault("import", "-", "--format", "json", input=large(canary, 12))
        add(open_vault, relay.url, code=6)
        about = json.loads((open_vault.own / "replica.json").read_text())["relays"][relay.url]
        assert "rate-limited" in about["said"]
        assert len(about["sent"]) == 4


@pytest.mark.parametrize("fault", ["drop", "cut", "keep_cut", "refuse"])
def test_an_event_that_is_lost(open_vault: Machine, fickle: Fickle, canary: Canary, fault: str) -> None:
    """Whichever it is: what was there stays whole until all that is new is, and the next try completes it."""
    open_vault("import", "-", "--format", "json", input=large(canary))
    put(open_vault, "a/B", "old")
    add(open_vault, fickle.url)
    count = len(of_author(fickle, AUTHOR))
    assert count > 3
    for number in range(count):
        value = f"{fault} {number}"
        put(open_vault, "a/B", value)
        before = kept(fickle.url)
        fickle.reset(**{fault: {number: "error: out of order"} if fault == "refuse" else {number}})
        told = push(open_vault, code=6)[fickle.url]
        assert not told["kept"]
        now = kept(fickle.url)
        assert now == before or (value in now and number == count - 1)
        fickle.reset()
        assert push(open_vault)[fickle.url]["kept"]
        assert value in kept(fickle.url)


def test_answers_doubled_and_in_any_order(open_vault: Machine, fickle: Fickle, canary: Canary) -> None:
    open_vault("import", "-", "--format", "json", input=large(canary))
    put(open_vault, "a/B", "old")
    add(open_vault, fickle.url)
    old = [*fickle.events.values()]
    put(open_vault, "a/B", "new")
    fickle.answer = lambda events: [*reversed(events), *events]
    assert push(open_vault)[fickle.url]["kept"]
    assert "new" in kept(fickle.url)
    fickle.answer = lambda events: [*(each for each in old if not events or each["pubkey"] == events[0]["pubkey"]), *events]
    assert "new" in kept(fickle.url), "what was not asked for, and is older, is left out"


def test_a_forged_event_is_nobodys(open_vault: Machine, fickle: Fickle) -> None:
    put(open_vault, "a/B", "true")
    add(open_vault, fickle.url)
    stranger = nostr_sdk.Keys.generate()
    [head] = [event for event in of_author(fickle, AUTHOR) if len(event["tags"]) == 2]
    later = avault.compose_stored(stranger, head["tags"], head["content"], head["created_at"] + 10)
    for forged in (later, later | {"pubkey": AUTHOR}, head | {"created_at": head["created_at"] + 10}, head | {"content": "x"}):
        fickle.answer = lambda events, forged=forged: [forged, *events]
        assert kept(fickle.url) == {"true"}


def test_an_older_copy_changes_nothing(open_vault: Machine, fickle: Fickle) -> None:
    put(open_vault, "a/B", "old")
    add(open_vault, fickle.url)
    old = dict(fickle.events)
    put(open_vault, "a/B", "new")
    push(open_vault)
    fickle.events = old
    path = open_vault.own / "replica.json"
    content = avault.decode_file("replica", path.read_bytes(), str(path))
    path.write_bytes(avault.encode_file("replica", {**content, "seen": []}))
    push(open_vault)
    assert get(open_vault, "a/B") == "new"
    assert kept(fickle.url) == {"new"}, "it has the latest again"


# Several machines


def test_two_machines_at_once(open_vault: Machine, fickle: Fickle, place: Any) -> None:
    add(open_vault, fickle.url)
    with Machine(place.top / "other") as other:
        copy_vault(open_vault, other)
        push(open_vault)
        put(open_vault, "a/HERE", "here")
        put(other, "a/THERE", "there")
        put(open_vault, "a/BOTH", "one")
        put(other, "a/BOTH", "two")
        push(open_vault)
        push(other)
        push(open_vault)
        for each in (open_vault, other):
            assert values(each, "a/BOTH") == {"one", "two"}
            assert (get(each, "a/HERE"), get(each, "a/THERE")) == ("here", "there")
        before = (open_vault.vault / "avault.enc").read_bytes()
        push(other)
        push(open_vault)
        push(other)
        assert (open_vault.vault / "avault.enc").read_bytes() == before == (other.vault / "avault.enc").read_bytes(), (
            "they are level"
        )


def stop_when_all_is_sent(machine: Machine) -> None:
    """No process of the vault's is left then."""
    begun = int(time.time())
    lock(machine)
    wait_until(lambda: ((machine.status()["replica"] or {}).get("asked") or 0) >= begun, what="what a lock sends")
    stop(machine)


def is_removed(directory: Path) -> bool:
    """Whether a directory is gone by now, with all that is in it."""
    shutil.rmtree(directory, ignore_errors=True)
    return not directory.exists()


@pytest.mark.parametrize(("finder", "way"), [("push", "restore"), ("daemon", "restore"), ("daemon", "unlock")])
def test_a_machine_that_was_restored_from_a_backup(
    open_vault: Machine, fickle: Fickle, place: Any, finder: str, way: str
) -> None:
    """It writes nothing more once it, or a person, has found its own later work, sends nothing, and goes on under another name.

    As many writes as it has lost are made again by then, and what it had noted of relays is lost.
    """
    put(open_vault, "a/OLD", "old")
    add(open_vault, fickle.url)
    stop_when_all_is_sent(open_vault)
    there = {"vault": open_vault.vault, "own": open_vault.own}
    for name, directory in there.items():
        shutil.copytree(directory, place.top / f"night-{name}")
    start(open_vault)
    put(open_vault, "a/TODAY", "today")
    push(open_vault)
    stop_when_all_is_sent(open_vault)
    for name, directory in there.items():
        wait_until(lambda directory=directory: is_removed(directory), what="the end of what still writes there")
        shutil.copytree(place.top / f"night-{name}", directory)
    (open_vault.own / "replica.json").unlink()
    fickle.ends = False  # away, as it were
    start(open_vault)
    put(open_vault, "a/MEANWHILE", "meanwhile")
    if finder == "daemon":
        stop(open_vault)
    fickle.ends = True
    if finder == "push":
        assert "never made" in push(open_vault, code=6)[""]["problem"]
    else:
        start(open_vault)
    wait_until(lambda: "never made" in str(open_vault.status()["warnings"]), what="what is wrong")
    assert "restore --unsaved" in open_vault("set", "a/MORE", input="x", code=8).stderr
    assert kept(fickle.url) == {"old", "today"}
    if way == "restore":
        open_vault("restore", "--unsaved")
    else:
        stop(open_vault)
        start(open_vault, code=8)
        stop(open_vault)
        open_vault("daemon", "start", "-b", "--accept-rollback", NOSTR_NSEC=NSEC)
    push(open_vault)
    assert (get(open_vault, "a/TODAY"), get(open_vault, "a/MEANWHILE"), get(open_vault, "a/OLD")) == ("today", "meanwhile", "old")
    assert kept(fickle.url) == {"old", "today", "meanwhile"}


def test_git_and_relays_at_once(open_vault: Machine, fickle: Fickle, place: Any) -> None:
    share(open_vault, place.top / "origin.git")
    add(open_vault, fickle.url)
    with Machine(place.top / "other") as other:
        wait_until(lambda: not git(open_vault, "status", "--porcelain", "--", "avault.enc"))
        open_vault("sync")
        clone(other, place.top / "origin.git")
        put(open_vault, "a/HERE", "here")
        put(other, "a/THERE", "there")
        push(other)
        push(open_vault)
        open_vault("sync")
        other("sync")
        push(other)
        push(open_vault)
        for each in (open_vault, other):
            assert (get(each, "a/HERE"), get(each, "a/THERE")) == ("here", "there")
        assert kept(fickle.url) == {"here", "there"}
        assert commits(open_vault)
