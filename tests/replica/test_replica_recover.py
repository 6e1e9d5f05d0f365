"""A vault brought back on an empty machine (avault recover --from-relays): by npub, relays and phone; and against such relays."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator
from typing import Any

import nostr_sdk
import peers
import pytest
from canary import Canary
from fickle import Event, Fickle
from git_helpers import NSEC, get, make, put
from harness import Done, Machine, wait_until
from peers import Relay, Rogue, misdeeds
from test_custody import Owner, owner
from test_replica import AGENT_HEX, AUTHOR, add, copy_vault, kept, large, of_author, push

import avault

__all__ = ["owner"]  # a fixture

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forks")]

NPUB = avault.to_npub(AGENT_HEX)


@pytest.fixture
def old(machine: Machine) -> Machine:
    """The machine that will be gone; open."""
    make(machine)
    put(machine, "openai/API_KEY", "old")
    return machine


@pytest.fixture
def shelves() -> Iterator[tuple[Fickle, Fickle]]:
    with Fickle() as one, Fickle() as other:
        yield one, other


@pytest.fixture
def operator(old: Machine, relay: Relay) -> Iterator[Rogue]:
    """The operator's phone."""
    with peers.rogue([relay.url], nsec=old.operator.secret_key().to_bech32()) as phone:
        yield phone


@pytest.fixture
def new(machine: Machine) -> Iterator[Machine]:
    """A machine that has nothing. Its commands are processes of their own: they talk to relays, and start daemons."""
    with Machine(machine.top / "new") as new:
        new.may_fork = False
        yield new


def recover(new: Machine, phone: Rogue, *relays: str | Fickle, words: tuple[str, ...] = (), code: int = 0) -> Done:
    urls = [word for each in relays for word in ("--relay", each if isinstance(each, str) else each.url)]
    words = ("recover", "--from-relays", NPUB, *urls, "--no-drill", "--bunker", "-", *words)
    return new(*words, input=phone.uri, code=code, timeout=60)


def snapshot(relay: Fickle) -> dict[Any, Event]:
    return dict(relay.events)


def test_it_is_all_back(old: Machine, new: Machine, operator: Rogue, shelves: tuple[Fickle, Fickle]) -> None:
    add(old, *(each.url for each in shelves))
    [root] = of_author(shelves[0], AGENT_HEX)
    done = recover(new, operator, *shelves)
    assert f"agent: {NPUB}" in done.stderr
    assert f"operator: {old.npub()}" in done.stderr
    assert "2 of 2 relays agree" in done.stderr
    assert len(operator.requests("nip44_decrypt")) == 1, "one tap"
    assert get(new, "openai/API_KEY") == "old"
    assert {path.name for path in new.vault.iterdir()} == {path.name for path in old.vault.iterdir()}
    new("lock")
    operator.behave("nip44_decrypt", misdeeds.HONEST)
    new("unlock")
    for each in shelves:
        [fresh] = of_author(each, AGENT_HEX)
        assert fresh["created_at"] > root["created_at"]
        assert fresh["content"] != root["content"], "what the phone answered opens it no more"
    put(new, "openai/API_KEY", "new")
    push(new)
    push(old)
    assert get(old, "openai/API_KEY") == "new"


def test_by_an_nprofile(old: Machine, new: Machine, operator: Rogue, shelves: tuple[Fickle, Fickle]) -> None:
    add(old, *(each.url for each in shelves))
    profile = old("replica", "status", "--json").json["nprofile"]
    assert avault.parse_profile(profile) == (AGENT_HEX, sorted(each.url for each in shelves))
    new("recover", "--from-relays", profile, "--no-drill", "--bunker", "-", input=operator.uri)
    assert get(new, "openai/API_KEY") == "old"


def test_several_machines_work(old: Machine, new: Machine, operator: Rogue, shelves: tuple[Fickle, Fickle]) -> None:
    """Two that had not seen each other's last writes: both are there, merged."""
    add(old, *(each.url for each in shelves))
    with Machine(old.top / "third") as third:
        copy_vault(old, third)
        put(old, "a/OLD", "one")
        put(third, "a/THIRD", "two")
        for each in (old, third):
            each("replica", "keep", "--send")
        heads = [event for event in of_author(shelves[0], AUTHOR) if len(event["tags"]) == 2]
        assert len(heads) == 2
    recover(new, operator, *shelves)
    assert (get(new, "a/OLD"), get(new, "a/THIRD")) == ("one", "two")
    assert kept(shelves[0].url) == {"old", "one", "two"}


def test_many_secrets(old: Machine, new: Machine, operator: Rogue, shelves: tuple[Fickle, Fickle], canary: Canary) -> None:
    old("import", "-", "--format", "json", input=large(canary, 40))
    add(old, *(each.url for each in shelves))
    assert len(of_author(shelves[0], AUTHOR)) > 15
    recover(new, operator, *shelves)
    assert new("status").stdout.count("Vault: 41 secret(s)")


# What ends it


def test_no_relay_answers(old: Machine, new: Machine, operator: Rogue) -> None:
    assert "no relay answers" in recover(new, operator, peers.closed(), code=6).stderr
    new("recover", "--from-relays", NPUB, code=2)
    new("recover", "--from-relays", "npub1nobody", "--relay", "ws://127.0.0.1:1", code=2)


def test_nothing_is_there(old: Machine, new: Machine, operator: Rogue, shelves: tuple[Fickle, Fickle]) -> None:
    assert "no vault of that agent" in recover(new, operator, *shelves, code=4).stderr
    add(old, *(each.url for each in shelves))
    for each in shelves:
        each.answer = lambda events: [event for event in events if event["pubkey"] == AGENT_HEX]
    assert "the root and nothing else" in recover(new, operator, *shelves, code=4).stderr


def test_a_vault_that_is_there_stays(old: Machine, operator: Rogue, shelves: tuple[Fickle, Fickle]) -> None:
    add(old, *(each.url for each in shelves))
    before = (old.vault / "avault.enc").read_bytes()
    assert recover(old, operator, *shelves, code=1).stderr
    assert (old.vault / "avault.enc").read_bytes() == before


def test_the_phone_refuses_or_is_silent(old: Machine, new: Machine, operator: Rogue, shelves: tuple[Fickle, Fickle]) -> None:
    add(old, *(each.url for each in shelves))
    operator.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"])
    recover(new, operator, *shelves, code=5)
    assert not (new.vault / "avault.enc").exists()
    operator.behave("nip44_decrypt", misdeeds.SILENCE)
    recover(new, operator, *shelves, words=("--timeout", "3s"), code=7)
    assert not (new.vault / "avault.enc").exists()
    operator.behave("nip44_decrypt", misdeeds.HONEST)
    recover(new, operator, *shelves)
    assert get(new, "openai/API_KEY") == "old"


def test_anothers_phone_opens_nothing(old: Machine, new: Machine, rogue: Rogue, shelves: tuple[Fickle, Fickle]) -> None:
    add(old, *(each.url for each in shelves))
    recover(new, rogue, *shelves, code=5)
    assert not (new.vault / "avault.enc").exists()
    recover(new, rogue, *shelves, words=("--signer-npub", old.npub()), code=5)


# Relays that are against it, and what a new machine can tell: the table in references/replica.md


def test_one_relay_alone_vouches_for_nothing(old: Machine, new: Machine, operator: Rogue, shelves: tuple[Fickle, Fickle]) -> None:
    """It serves an old generation, whole: accepted only by who insists."""
    one, _ = shelves
    add(old, one.url)
    then = snapshot(one)
    put(old, "openai/API_KEY", "latest")
    push(old)
    one.events = dict(then)
    done = recover(new, operator, one, code=8)
    assert "could keep a newer one back" in done.stderr
    assert not (new.vault / "avault.enc").exists()
    assert of_author(one, AGENT_HEX) != [event for event in then.values() if event["pubkey"] == AGENT_HEX], (
        "what the phone answered opens nothing, though nothing was taken"
    )
    recover(new, operator, one, words=("--accept-rollback",))
    assert get(new, "openai/API_KEY") == "old"


def test_two_honest_relays_and_the_newest_wins(
    old: Machine, new: Machine, operator: Rogue, shelves: tuple[Fickle, Fickle]
) -> None:
    hostile, honest = shelves
    with Fickle() as third:
        add(old, hostile.url, honest.url, third.url)
        then = snapshot(hostile)
        put(old, "openai/API_KEY", "latest")
        push(old)
        hostile.events = then
        assert "1 of 2 relays agree" in recover(new, operator, hostile, honest, code=8).stderr
        assert not (new.vault / "avault.enc").exists()
        assert "2 of 3 relays agree" in recover(new, operator, hostile, honest, third).stderr
        assert get(new, "openai/API_KEY") == "latest"


def test_one_that_has_nothing_vouches_for_nothing(
    old: Machine, new: Machine, operator: Rogue, shelves: tuple[Fickle, Fickle]
) -> None:
    """Nor one that says nothing, nor the same one under another name."""
    evil, empty = shelves
    add(old, evil.url)
    then = snapshot(evil)
    put(old, "openai/API_KEY", "latest")
    push(old)
    evil.events = then
    others = [evil.url + "/", evil.url + "/again", evil.url.replace("//", "//me@")]
    for more in ([empty], others):
        done = recover(new, operator, evil, *more, code=8)
        assert "1 of " in done.stderr and "could keep a newer one back" in done.stderr
        assert not (new.vault / "avault.enc").exists()
    empty.ends = False
    done = recover(new, operator, evil, empty, code=8)
    assert f"{empty.url} does not answer" in done.stderr and "1 of 2 relays agree" in done.stderr


def test_many_old_heads_put_no_machine_away(old: Machine, new: Machine, operator: Rogue, shelves: tuple[Fickle, Fickle]) -> None:
    """A relay that gives sixty old ones of one machine: what another machine wrote is there all the same."""
    add(old, *(each.url for each in shelves))
    with Machine(old.top / "third") as third:
        copy_vault(old, third)
        put(third, "a/THIRD", "two")
        push(third)
    now, [mine, other] = (
        int(time.time()),
        sorted(
            (event for event in of_author(shelves[0], AUTHOR) if len(event["tags"]) == 2), key=lambda event: event["created_at"]
        ),
    )
    keys = avault.replica_keys(avault.read_keys(NSEC))

    def at(event: Event, made: int) -> Event:
        return avault.compose_stored(keys, event["tags"], event["content"], made)

    for shelf in shelves:
        [key] = [key for key, event in shelf.events.items() if event["id"] == other["id"]]
        shelf.events[key] = at(other, now - 1000)
        crowd = [at(mine, now - 500 + number) for number in range(60)]
        shelf.answer = lambda events, crowd=crowd: [*(crowd if any(len(each["tags"]) == 2 for each in events) else []), *events]
    recover(new, operator, *shelves)
    assert get(new, "a/THIRD") == "two"


@pytest.mark.parametrize("deed", ["withholds parts", "leaves a byte out", "old parts under the new head"])
def test_parts_that_are_not_right(
    old: Machine, new: Machine, operator: Rogue, shelves: tuple[Fickle, Fickle], canary: Canary, deed: str
) -> None:
    hostile, honest = shelves
    old("import", "-", "--format", "json", input=large(canary))
    add(old, hostile.url, honest.url)
    then = {key: event for key, event in hostile.events.items() if len(event["tags"]) == 1 and event["pubkey"] == AUTHOR}
    put(old, "openai/API_KEY", "latest")
    push(old)

    def spoil(events: list[Event]) -> list[Event]:
        parts = [event for event in events if len(event["tags"]) == 1 and event["pubkey"] == AUTHOR]
        others = [event for event in events if event not in parts]
        if deed == "withholds parts":
            return others
        if deed == "leaves a byte out":
            return others + [event | {"content": event["content"][:-9] + event["content"][-8:]} for event in parts]
        return [*others, *then.values()]

    hostile.answer = spoil
    done = recover(new, operator, hostile, hostile.url.replace("127.0.0.1", "localhost"), code=8)
    assert "is not whole on any relay" in done.stderr
    recover(new, operator, hostile, honest)
    assert get(new, "openai/API_KEY") == "latest"


def seal(old: Machine, made: int) -> Event:
    """A root as another machine makes it."""
    keys, whole = avault.read_keys(NSEC), json.loads((old.vault / "nsec.enc").read_text())
    content = avault.seal_root(keys, whole["vault"], avault.parse_npub(whole["operator"]), whole["name"])
    return avault.compose_root(keys, content, made - 1)


def test_two_roots_of_one_time(old: Machine, new: Machine, operator: Rogue, shelves: tuple[Fickle, Fickle]) -> None:
    """Two machines have made them: that of the lower id is taken (NIP-01). A stranger's is none."""
    add(old, *(each.url for each in shelves))
    made = int(time.time()) + 100
    two = sorted((seal(old, made), seal(old, made)), key=lambda event: event["id"])
    for shelf, event in zip(shelves, reversed(two), strict=True):
        shelf.keep(event)
    stranger = nostr_sdk.Keys.generate()
    later = avault.compose_stored(stranger, two[0]["tags"], two[0]["content"], made + 5)
    shelves[1].answer = lambda events: [later, later | {"pubkey": AGENT_HEX}, *events]
    recover(new, operator, *shelves)
    asked = operator.requests("nip44_decrypt")[-1]["params"][1]
    assert asked == json.loads(two[0]["content"])["envelope"]
    for shelf in shelves:
        [fresh] = of_author(shelf, AGENT_HEX)
        assert fresh["created_at"] > made and fresh not in two, "it takes the place of one that is ahead"
    assert get(new, "openai/API_KEY") == "old"


def test_the_phone_is_told_what_it_is_asked(old: Machine, new: Machine, operator: Rogue, shelves: tuple[Fickle, Fickle]) -> None:
    """It is not the sentence of an unlock, names no host, and terminal and phone say the same."""
    add(old, *(each.url for each in shelves))
    said = recover(new, operator, *shelves).stderr
    agent, envelope = operator.requests("nip44_decrypt")[-1]["params"]
    keys = old.operator.secret_key()
    told = json.loads(nostr_sdk.nip44_decrypt(keys, nostr_sdk.PublicKey.parse(agent), envelope))
    code = said.partition("from relays, code ")[2][:4]
    assert told["content"] == (
        f"avault: bring test@machine back on ANOTHER machine, from relays, code {code}. Approve only if you typed avault recover."
    )
    assert f"bring a vault back on ANOTHER machine, from relays, code {code}" in said
    assert "a new root is on 2 of 2 relays" in said


def test_a_root_that_a_relay_does_not_take_is_not_counted(
    old: Machine, new: Machine, operator: Rogue, shelves: tuple[Fickle, Fickle]
) -> None:
    add(old, *(each.url for each in shelves))
    shelves[1].reset(drop=range(100))
    done = recover(new, operator, *shelves)
    assert "a new root is on 1 of 2 relays" in done.stderr
    assert "until another is in its place" in str(new.status()["warnings"])


def test_one_that_was_cut_off_before_the_vault_was_there(
    old: Machine, new: Machine, operator: Rogue, shelves: tuple[Fickle, Fickle]
) -> None:
    """It leaves hints and an nsec.enc of that agent: then it may be done again."""
    add(old, *(each.url for each in shelves))
    new.vault.mkdir(parents=True)
    for name in ("nip46.json", "nsec.enc"):
        (new.vault / name).write_bytes((old.vault / name).read_bytes())
    recover(new, operator, *shelves)
    assert get(new, "openai/API_KEY") == "old"


def test_the_npub_comes_by_stdin(old: Machine, new: Machine, operator: Rogue, shelves: tuple[Fickle, Fickle]) -> None:
    add(old, *(each.url for each in shelves))
    profile = old("replica", "status", "--json").json["nprofile"]
    new("recover", "--from-relays", "-", "--bunker", "-", input=profile, code=2)
    new("recover", "--from-relays", "-", "--no-drill", "--bunker", operator.uri, input=profile + "\n")
    assert get(new, "openai/API_KEY") == "old"


# A key that was rotated away


def test_a_rotated_key_leads_to_no_vault(owner: Owner, new: Machine, shelves: tuple[Fickle, Fickle]) -> None:
    """Whoever has it can publish under its npub, and is not followed; what to write down instead is said."""
    machine, before = owner.machine, owner.agent()
    put(machine, "openai/API_KEY", "old")
    add(machine, *(each.url for each in shelves))
    theirs = [snapshot(each) for each in shelves]
    done = machine("rotate", "agent", "--yes")
    after = owner.agent()
    profile = machine("replica", "status", "--json").json["nprofile"]
    assert f"write down instead: {profile}" in done.stderr
    assert avault.parse_profile(profile)[0] == avault.parse_npub(after)
    for each in shelves:
        [said] = of_author(each, avault.parse_npub(before))
        assert avault.read_farewell(said, avault.parse_npub(before)) == avault.parse_npub(after)
    thief = theirs[0]  # what is there, as if written later
    for key, event in thief.items():
        shelves[0].events[key] = event
    urls = [word for each in shelves for word in ("--relay", each.url)]
    words = ("--no-drill", "--bunker", "-", *urls)
    done = new("recover", "--from-relays", before, *words, input=owner.phone.uri, code=8)
    assert after in done.stderr
    assert not (new.vault / "avault.enc").exists()
    new("recover", "--from-relays", profile, "--no-drill", "--bunker", "-", input=owner.phone.uri)
    assert get(new, "openai/API_KEY") == "old"


def test_an_older_copy_that_was_taken_stays(owner: Owner, shelves: tuple[Fickle, Fickle]) -> None:
    """Until a person has relays asked again; also after a restart."""
    machine = owner.machine
    put(machine, "a/B", "old")
    add(machine, *(each.url for each in shelves))
    then = (machine.vault / "avault.enc").read_bytes()
    put(machine, "a/NEW", "new")
    push(machine)
    machine("daemon", "stop")
    (machine.vault / "avault.enc").write_bytes(then)
    machine("daemon", "start", "-b")
    machine("unlock", code=8)
    machine("unlock", "--accept-rollback")
    for _ in range(2):
        wait_until(lambda: "an older copy was taken" in str(machine.status()["replica"]), what="that nothing comes in")
        machine("has", "a/NEW", code=4)
        machine("daemon", "stop")
        machine("daemon", "start", "-b")
        machine("unlock")
    push(machine)
    assert get(machine, "a/NEW") == "new"


def kill_at(left: list[int], running: list[Any], events: list[Event]) -> list[Event]:
    """Kill a command when a relay is asked so often."""
    left[0] -= 1
    if not left[0] and running:
        running[0].kill()
    return events


def test_cut_off_anywhere_it_begins_anew(old: Machine, new: Machine, operator: Rogue, shelves: tuple[Fickle, Fickle]) -> None:
    """The command is killed while it asks relays: the machine has nothing, or all; and the next try is as the first."""
    add(old, *(each.url for each in shelves))
    for asked in (1, 2, 3):
        running: list[Any] = []
        left = [asked]
        shelves[0].answer = functools.partial(kill_at, left, running)
        with Machine(new.top / f"cut{asked}") as cut:
            cut.may_fork = False
            urls = [word for each in shelves for word in ("--relay", each.url)]
            words = ("recover", "--from-relays", NPUB, *urls, "--no-drill", "--bunker", "-")
            running.append(cut.start(*words, input=operator.uri))
            running[0].process.wait(60)
            shelves[0].answer = lambda events: events
            if not (cut.vault / "avault.enc").exists():
                recover(cut, operator, *shelves)
                assert get(cut, "openai/API_KEY") == "old"


# Another machine has rotated the key, and relays are all that both know


@pytest.fixture
def both(owner: Owner, shelves: tuple[Fickle, Fickle]) -> Iterator[tuple[Machine, Machine]]:
    """Two machines of one vault, which relays keep; both are paired with the operator's phone, and open."""
    machine = owner.machine
    put(machine, "openai/API_KEY", "old")
    add(machine, *(each.url for each in shelves))
    with Machine(machine.top / "second") as second:
        second.may_fork = False
        urls = [word for each in shelves for word in ("--relay", each.url)]
        words = ("recover", "--from-relays", owner.agent(), *urls, "--no-drill", "--bunker", "-")
        second(*words, input=owner.phone.uri)
        push(machine)
        yield machine, second


def test_a_rotation_is_learnt_by_relay(owner: Owner, both: tuple[Machine, Machine]) -> None:
    """It says what to do: one approval, by the pairing that it has. What only it had written can be taken over."""
    machine, second = both
    before = owner.agent()
    machine("rotate", "agent", "--yes")
    after = owner.agent()
    push(machine)
    put(second, "only/HERE", "mine")
    words = "avault recover --from-relays NPUB, the npub that rotate agent has shown on the other machine"
    second("lock")
    second("unlock")  # when it looks by itself
    wait_until(lambda: words in second("status").stdout, what="that it is said")
    for done in (second("replica", "status", code=None), second("doctor", code=None)):
        assert words in done.stdout + done.stderr
    assert words in second("replica", "push", code=None).stderr
    assert second.status()["agent_npub"] == before
    assert "the vault is open" in second("recover", "--from-relays", after, "--no-drill", code=5).stderr
    second("lock")
    asked = owner.asked()
    done = second("recover", "--from-relays", after, "--no-drill")
    assert "connect" not in done.stderr and owner.asked() == asked + 1, "one tap"
    assert second.status()["agent_npub"] == after
    assert get(second, "openai/API_KEY") == "old"
    assert "only/HERE" in str(second.status()["warnings"])
    second("restore", "--unsaved")
    assert get(second, "only/HERE") == "mine"
    push(second)
    push(machine)
    assert get(machine, "only/HERE") == "mine"
    assert words not in second("replica", "status", code=None).stdout
    second("lock")
    second("unlock")


def test_a_rotation_that_is_refused_changes_nothing(owner: Owner, both: tuple[Machine, Machine]) -> None:
    machine, second = both
    machine("rotate", "agent", "--yes")
    after = owner.agent()
    push(machine)
    second("lock")
    files = {path: path.read_bytes() for path in (second.own / "unlock.json", second.vault / "avault.enc")}
    owner.phone.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"])
    second("recover", "--from-relays", after, "--no-drill", code=5)
    assert {path: path.read_bytes() for path in files} == files
    owner.phone.behave("nip44_decrypt", misdeeds.HONEST)
    second("unlock")
    assert get(second, "openai/API_KEY") == "old"


def test_no_stranger_leads_a_machine_away(owner: Owner, both: tuple[Machine, Machine]) -> None:
    """Nobody has signed that: another vault is not taken for this one."""
    _, second = both
    other = avault.to_npub(avault.public_hex(avault.make_keys()))
    second("lock")
    assert "there is a vault already" in second("recover", "--from-relays", other, "--no-drill", code=1).stderr


def test_who_leads_a_machine_to_another_key(old: Machine) -> None:
    """Its own agent, and who takes its place, one after another. The daemon takes no client's word for it."""
    places = avault.Places(str(old.vault))
    places.state = str(old.own)
    agent, one, two = avault.parse_keys(NSEC), avault.make_keys(), avault.make_keys()

    def say(by: nostr_sdk.Keys, named: nostr_sdk.Keys) -> Event:
        statement = avault.make_statement(by, "00" * 16, avault.public_hex(named))
        return dict(avault.compose_farewell(by, statement, int(time.time())))

    def leads(events: object, to: nostr_sdk.Keys) -> bool:
        return avault.know_before(places, events, avault.public_hex(to)) is not None

    assert leads([say(agent, one)], one) and leads([say(agent, one), say(one, two)], two)
    assert not leads([say(agent, one)], two)
    assert not leads([say(one, two)], two), "a stranger's word"
    assert not leads([say(one, two), say(agent, one)], two)
    assert not leads([], agent) and not leads(None, agent) and not leads(["?"], one)
    forged = {**say(one, two), "pubkey": avault.public_hex(agent)}
    assert not leads([forged], two)
