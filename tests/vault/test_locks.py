"""Secrets that are sealed for themselves: what opens them, and what does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import avault

NOW = 1_700_000_000


class Secrets:
    """A vault with a secret that asks, and its operator; `old` is what the phone's answer opens."""

    def __init__(self) -> None:
        self.agent, self.operator, self.other = avault.make_keys(), avault.make_keys(), avault.make_keys()
        self.vault = avault.Vault("00" * 16, avault.public_hex(self.agent), avault.public_hex(self.operator), "clawd")
        self.operators = [avault.public_hex(self.operator), avault.public_hex(self.other)]
        self.vault.state("operator/other", self.operators[1], NOW, "m")
        self.vault.put("stripe", "KEY", "a value", NOW, "m")

    def make(self, place: str = "stripe/KEY", old: dict[str, Any] | None = None) -> dict[str, object]:
        return avault.make_lock((self.vault.identity, "clawd"), place, self.operators, old or avault.make_secret(place))

    def ask(self) -> None:
        """Guard it, and seal it."""
        avault.add_guard(self.vault, "stripe/KEY", {"ask": 0}, NOW, "m")
        avault.seal_loose(self.vault, {"stripe/KEY": self.make()}, ["stripe/KEY"], "m")

    def sealed(self) -> str:
        return self.vault.secrets("stripe", "KEY")[0].value

    def unlock(self, who: avault.Keys | None = None) -> str:
        """What a phone answers to the envelope of the lock that counts."""
        who = who or self.operator
        peer, envelope = avault.find_lock(self.vault, self.sealed())["envelopes"][avault.public_hex(who)]
        return avault.decrypt(who, peer, envelope)


@pytest.fixture
def secrets() -> Secrets:
    return Secrets()


@pytest.mark.parametrize("value", ["a", "äöü€😀" * 3, "x" * 16_000, "€" * 16_001, "y" * 262_144])
def test_a_value_is_sealed_and_opened(value: str) -> None:
    keys = avault.make_keys()
    sealed = avault.seal_value(avault.public_hex(keys), value)
    assert avault.is_sealed(sealed) and avault.sealed_to(sealed) == avault.public_hex(keys)
    assert value not in sealed or len(value) == 1
    assert avault.open_value(keys, sealed) == value
    with pytest.raises(avault.Tampered):
        avault.open_value(avault.make_keys(), sealed)
    parts = json.loads(sealed[1:])
    if len(parts["parts"]) > 1:
        for wrong in (parts["parts"][:-1], parts["parts"][::-1], parts["parts"] * 2):
            with pytest.raises(avault.Tampered):
                avault.open_value(keys, avault.SEAL_MARK + json.dumps({**parts, "parts": wrong}))


@pytest.mark.parametrize("text", ["", "\0", "\0{}", "\0[]", "\0null", '\0{"to": 1, "from": "", "parts": []}', "plain"])
def test_what_is_no_sealed_value(text: str) -> None:
    with pytest.raises(avault.Tampered):
        avault.sealed_to(text)


def test_each_operators_phone_opens_it_and_nothing_that_is_kept_does(secrets: Secrets) -> None:
    secrets.ask()
    assert "a value" not in secrets.vault.to_json()
    for who in (secrets.operator, secrets.other):
        lock = avault.find_lock(secrets.vault, secrets.sealed())
        unlock = avault.accept_unlock_key(lock["opens"])(secrets.unlock(who))
        found = avault.open_lock(lock, unlock, secrets.vault.identity)
        assert found["place"] == "stripe/KEY"
        assert avault.open_value(avault.read_keys(found["key"]), secrets.sealed()) == "a value"
    for peer, envelope in lock["envelopes"].values():
        with pytest.raises(ValueError, match="not a payload"):
            avault.decrypt(secrets.agent, peer, envelope)
    with pytest.raises(avault.Tampered):
        avault.open_lock(lock, unlock, "11" * 16)


def test_the_phone_reads_which_secret_and_no_key(secrets: Secrets) -> None:
    secrets.ask()
    event = json.loads(secrets.unlock())
    assert event["content"].startswith("avault: open stripe/KEY of clawd for one use, code ")
    assert event["avault"] not in event["content"] + json.dumps(event["tags"])


def test_a_lock_that_was_turned_is_opened_by_no_answer_before(secrets: Secrets) -> None:
    secrets.ask()
    first, answer = avault.find_lock(secrets.vault, secrets.sealed()), secrets.unlock()
    found = avault.open_lock(first, json.loads(answer)["avault"], secrets.vault.identity)
    avault.keep_lock(secrets.vault, secrets.make("tmp/KEY", found), NOW, "m")
    lock = avault.find_lock(secrets.vault, secrets.sealed())
    with pytest.raises(avault.Tampered):
        avault.accept_unlock_key(lock["opens"])(answer)
    with pytest.raises(avault.Tampered):
        avault.open_lock(lock, json.loads(answer)["avault"], secrets.vault.identity)
    event = json.loads(secrets.unlock())
    assert "open tmp/KEY, which is or was stripe/KEY, of clawd" in event["content"]
    again = avault.open_lock(lock, event["avault"], secrets.vault.identity)
    assert again["key"] == found["key"] and again["place"] == "stripe/KEY"


def test_two_machines_that_used_it_have_one_secret(secrets: Secrets) -> None:
    secrets.ask()
    secrets.vault.generation = {"m": 1}
    twins = []
    for name in ("a", "b"):
        twin, lock = secrets.vault.copy(), avault.find_lock(secrets.vault, secrets.sealed())
        found = avault.open_lock(lock, json.loads(secrets.unlock())["avault"], twin.identity)
        avault.keep_lock(twin, secrets.make(old=found), NOW, name)
        twin.generation[name] = 1
        twins.append(twin)
    merged = twins[0].merge(twins[1])
    assert merged.to_json() == twins[1].merge(twins[0]).to_json()
    assert len(merged.secrets("stripe", "KEY")) == 1
    secrets.vault = merged
    lock = avault.find_lock(merged, secrets.sealed())
    found = avault.open_lock(lock, json.loads(secrets.unlock())["avault"], merged.identity)
    assert avault.open_value(avault.read_keys(found["key"]), secrets.sealed()) == "a value"


def test_what_is_to_be_sealed_waits_for_its_lock(secrets: Secrets) -> None:
    avault.add_guard(secrets.vault, "stripe", {"ask": 60}, NOW, "m")
    secrets.vault.put("stripe", "OTHER", "another value", NOW, "m")
    with pytest.raises(avault.Unsealed) as unsealed:
        avault.seal_loose(secrets.vault, {"stripe/KEY": secrets.make()}, avault.find_unsealed(secrets.vault), "m")
    assert unsealed.value.names == ["stripe/OTHER"]
    assert secrets.sealed() == "a value"
    locks = {name: secrets.make(name) for name in ("stripe/KEY", "stripe/OTHER")}
    avault.seal_loose(secrets.vault, locks, avault.find_unsealed(secrets.vault), "m")
    assert avault.find_unsealed(secrets.vault) == [] and "value" not in secrets.vault.to_json()


def test_a_value_that_is_set_anew_has_another_lock(secrets: Secrets) -> None:
    """Who has opened the lock before, or has it from git, does not open the later value."""
    secrets.ask()
    before, copy = avault.sealed_to(secrets.sealed()), secrets.vault.copy()
    copy.move(("stripe", "KEY"), ("tmp", "KEY"), NOW, "other")
    copy.generation["other"] = 1
    secrets.vault.put("stripe", "KEY", "a later value", NOW, "m")
    with pytest.raises(avault.Unsealed):
        avault.seal_loose(secrets.vault, {}, ["stripe/KEY"], "m")
    avault.seal_loose(secrets.vault, {"stripe/KEY": secrets.make()}, ["stripe/KEY"], "m")
    secrets.vault.generation["m"] = 1
    after = avault.sealed_to(secrets.sealed())
    assert after != before and [*secrets.vault.facts_of("lock")] == [after[:32]], "the one before is dropped"
    merged = secrets.vault.merge(copy)
    assert merged.to_json() == copy.merge(secrets.vault).to_json()
    assert avault.find_lock(merged, merged.secrets("tmp", "KEY")[0].value)["to"] == before, "a merge drops none"


def test_locks_that_no_operator_opens_any_more_are_found(secrets: Secrets) -> None:
    secrets.ask()
    assert avault.find_closed(secrets.vault, secrets.operators) == avault.find_closed(secrets.vault, secrets.operators[1:]) == []
    stranger = avault.public_hex(avault.make_keys())
    assert avault.find_closed(secrets.vault, [stranger]) == ["stripe/KEY"]
    secrets.vault.groups["stripe"].keys["KEY"][0].value = "\0damaged"
    assert avault.find_closed(secrets.vault, [stranger]) == []


def test_of_two_locks_the_one_for_more_operators_counts(secrets: Secrets) -> None:
    """Another machine may use one later, that has not heard of who came: nobody is shut out by that."""
    secrets.ask()
    both = avault.find_lock(secrets.vault, secrets.sealed())
    found = avault.open_lock(both, json.loads(secrets.unlock())["avault"], secrets.vault.identity)
    secrets.operators.pop()
    alone, stranger = secrets.make(old=found), avault.public_hex(avault.make_keys())
    secrets.operators.append(stranger)
    strange = secrets.make(old=found)
    name, text = avault.name_lock(both["to"]), json.dumps(both, sort_keys=True)
    for other in (alone, strange):
        said = json.dumps(other, sort_keys=True)
        for first, last in ((text, said), (said, text)):
            secrets.vault.facts[name] = [avault.Secret(first, NOW, NOW + 9, "a", 1), avault.Secret(last, NOW, NOW, "b", 1)]
            assert avault.find_lock(secrets.vault, secrets.sealed()) == both
    secrets.vault.state("operator/other", None, NOW, "m")
    said = json.dumps(alone, sort_keys=True)
    secrets.vault.facts[name] = [avault.Secret(text, NOW, NOW + 9, "a", 1), avault.Secret(said, NOW, NOW, "b", 1)]
    assert avault.find_lock(secrets.vault, secrets.sealed()) == alone, "and of as many, the one for nobody else"
    assert avault.find_closed(secrets.vault, [secrets.operators[0]]) == []


def test_a_lock_for_fewer_operators_takes_the_place_of_none_for_more(secrets: Secrets) -> None:
    """A question may be out for minutes: who became an operator meanwhile stays one."""
    secrets.ask()
    both = avault.find_lock(secrets.vault, secrets.sealed())
    found = avault.open_lock(both, json.loads(secrets.unlock())["avault"], secrets.vault.identity)
    secrets.operators.pop()
    avault.keep_lock(secrets.vault, secrets.make(old=found), NOW, "m")
    assert avault.find_lock(secrets.vault, secrets.sealed()) == both


def test_a_merge_keeps_all_locks_on_what_either_side_has(secrets: Secrets) -> None:
    secrets.ask()
    name = avault.name_lock(avault.sealed_to(secrets.sealed()))
    both = secrets.vault.facts[name][0].value
    found = avault.open_lock(json.loads(both), json.loads(secrets.unlock())["avault"], secrets.vault.identity)
    one, other = secrets.vault.copy(), secrets.vault.copy()
    secrets.operators.pop()
    alone = json.dumps(secrets.make(old=found), sort_keys=True)
    one.facts[name] = [avault.Secret(alone, NOW, NOW + 9, "a", 1)]
    other.facts[name] = [avault.Secret(both, NOW, NOW, "b", 1)]
    for each in (one, other):  # each has seen the other's, and has its own all the same
        each.generation = {"a": 1, "b": 1}
    merged = one.merge(other)
    assert merged.to_json() == other.merge(one).to_json()
    assert json.dumps(avault.find_lock(merged, secrets.sealed()), sort_keys=True) == both


@pytest.mark.parametrize("agent", ["the same", "one before"])
def test_a_lock_of_a_copy_is_taken_where_it_is_better_and_the_copy_is_sure(secrets: Secrets, agent: str) -> None:
    secrets.ask()
    name, value = avault.name_lock(avault.sealed_to(secrets.sealed())), secrets.sealed()
    copy, both = secrets.vault.copy(), secrets.vault.facts[name][0].value
    found = avault.open_lock(json.loads(both), json.loads(secrets.unlock())["avault"], secrets.vault.identity)
    if agent != "the same":
        copy.agent = avault.public_hex(avault.make_keys())
    secrets.operators.pop()
    alone = json.dumps(secrets.make(old=found), sort_keys=True)
    secrets.vault.state(name, alone, NOW, "m")
    avault.adopt_locks(secrets.vault, copy, [value], NOW, "m")
    assert secrets.vault.fact(name) == (both if agent == "the same" else alone)
    secrets.vault.state(name, None, NOW, "m")
    avault.adopt_locks(secrets.vault, copy, [value], NOW, "m")
    assert secrets.vault.fact(name) == both, "where there is none, any is better"
    secrets.vault.state(name, both, NOW, "m")
    copy.state(name, alone, NOW, "m")
    avault.adopt_locks(secrets.vault, copy, [value], NOW, "m")
    assert secrets.vault.fact(name) == both
    for wrong in ("{}", both.replace(avault.sealed_to(value), "00" * 32)):
        secrets.vault.state(name, None, NOW, "m")
        copy.state(name, wrong, NOW, "m")
        avault.adopt_locks(secrets.vault, copy, [value], NOW, "m")
        assert secrets.vault.fact(name) is None


def test_what_is_set_for_other_operators_has_another_lock(secrets: Secrets) -> None:
    secrets.ask()
    before = avault.sealed_to(secrets.sealed())
    secrets.vault.state("operator/other", None, NOW, "m")
    secrets.operators.pop()
    secrets.vault.put("stripe", "KEY", "a later value", NOW, "m")
    with pytest.raises(avault.Unsealed):
        avault.seal_loose(secrets.vault, {}, avault.find_unsealed(secrets.vault), "m")
    avault.seal_loose(secrets.vault, {"stripe/KEY": secrets.make()}, avault.find_unsealed(secrets.vault), "m")
    assert avault.sealed_to(secrets.sealed()) != before
    assert {*avault.find_lock(secrets.vault, secrets.sealed())["envelopes"]} == {*secrets.operators}


def test_doctor_knows_locks_that_open_nothing(secrets: Secrets, tmp_path: Path) -> None:
    path, lock = tmp_path / "locks.json", secrets.make()
    for locks, states in (({lock["to"]: lock}, []), ({lock["to"]: {**lock, "sealed": 1}}, ["bad"])):
        avault.write_file(str(path), avault.encode_file("locks", {"locks": locks}))
        assert [found.state for found in avault.check_own_file(str(path))] == states
    path.write_text("{}")
    assert [found.state for found in avault.check_own_file(str(path))] == ["bad"]


def test_what_is_recalled_comes_with_its_lock(secrets: Secrets) -> None:
    """Of a copy that is dropped then: nothing else opens the value."""
    secrets.ask()
    copy = secrets.vault.copy()
    copy.groups["stripe"].keys["NEW"] = [avault.Secret(copy.secrets("stripe", "KEY")[0].value, 1, 1, "other", 1)]
    draft = avault.Vault(copy.identity, copy.agent, copy.made_for, copy.name)
    assert set(avault.recall(draft, copy, 0, NOW, "m")) == {"stripe/KEY", "stripe/NEW"}
    assert avault.find_lock(draft, draft.secrets("stripe", "NEW")[0].value)["to"]


def test_a_move_and_a_reading_keep_it_sealed(secrets: Secrets) -> None:
    secrets.ask()
    secrets.vault.move(("stripe", "KEY"), ("tmp", "KEY"), NOW, "m")
    assert avault.is_sealed(secrets.vault.secrets("tmp", "KEY")[0].value)
    read = avault.open_vault(avault.seal_vault(secrets.vault, secrets.agent), secrets.agent)
    assert read.to_json() == secrets.vault.to_json()
    assert avault.version_of(read.facts) == 2


@pytest.mark.parametrize("value", ["with\0nul", "\0begins"])
def test_nobody_sets_what_looks_sealed(value: str) -> None:
    with pytest.raises(avault.Usage):
        avault.check_value(value)


def test_what_asks_less_often_is_less() -> None:
    each, some, none = avault.Rules(ask=0), avault.Rules(ask=900), avault.Rules()
    assert each.asks_at_least(some) and some.asks_at_least(none) and not some.asks_at_least(each)
    assert not none.asks_at_least(some) and (each & some).ask == 0
    assert str(each) == "the phone is asked for each use" and str(some) == "the phone is asked once in 15m by each caller"
    assert avault.check_rules({"ask": 0}, NOW) == {"ask": 0}
    for wrong in (-1, 86_401, True, "15m"):
        with pytest.raises(avault.Usage):
            avault.check_rules({"ask": wrong}, NOW)
