"""The vault's file without a daemon: what a Store makes of each state in which it may find the file, the pin and itself."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nostr_sdk
import pytest

import avault

AGENT, OPERATOR = nostr_sdk.Keys.generate(), nostr_sdk.Keys.generate()
NPUB = avault.to_npub(avault.public_hex(AGENT))
CLONE = "another machine writes under this one's name"


class Desk:
    """One machine's view of the vault's directory: a state directory of its own, and a Store."""

    def __init__(self, vault: Path, state: Path) -> None:
        self.places = avault.Places(str(vault))
        self.places.state = str(state)
        for directory in (vault, state):
            directory.mkdir(exist_ok=True)
        self.path = vault / "avault.enc"
        names = {"agent": NPUB, "operator": avault.to_npub(avault.public_hex(OPERATOR))}
        self.content = {"vault": "00" * 16, "name": "test", **names}

    def create(self) -> avault.Store:
        vault = avault.Vault("00" * 16, avault.public_hex(AGENT), avault.public_hex(OPERATOR), "test")
        vault.put("g", "K", "first", 1, avault.machine_id(self.places))
        return avault.Store.create(self.places, AGENT, vault)

    def load(self, accept_rollback: bool = False) -> avault.Store:
        return avault.Store.load(self.places, AGENT, self.content, accept_rollback)

    def pin(self) -> dict:
        return avault.decode_file("pin", Path(self.places.own("pin.json")).read_bytes(), "")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "vault", tmp_path / "state")


@pytest.fixture
def store(desk: Desk) -> avault.Store:
    return desk.create()


def put(key: str, value: str = "x", machine: str = "m") -> Callable[[avault.Vault], None]:
    return lambda vault: vault.put("g", key, value, 1, machine)


def value(vault: avault.Vault, key: str) -> str:
    return vault.secrets("g", key)[0].value


def elsewhere(vault: avault.Vault, machine: str = "other", key: str = "E", by: int = 1, **changes: str) -> bytes:
    """The file as another machine makes it from this state of the vault."""
    draft = vault.copy()
    draft.put("g", key, f"from {machine}", 2, machine)
    draft.generation[machine] = draft.generation.get(machine, 0) + by
    for name, text in changes.items():
        setattr(draft, name, text)
    return avault.seal_vault(draft, AGENT)


# Making, loading, pinning


def test_an_avault_enc_is_no_unsaved_enc(desk, store):
    """Its content says which file it stands beside: the first one of a vault, put there, stands beside none."""
    Path(desk.places.own("unsaved.enc")).write_bytes(desk.path.read_bytes())
    assert value(desk.load().vault, "K") == "first"


def test_what_only_unsaved_enc_has_is_set_aside_and_offered(desk, store):
    """Also where an older avault.enc was taken on purpose: nothing is lost by that."""
    first = desk.path.read_bytes()
    store.write([put("L", "later", store.machine)])
    desk.path.unlink()
    store.notice()
    store.keep()
    desk.path.write_bytes(first)
    store = desk.load(accept_rollback=True)
    assert not os.path.exists(store.unsaved.path)
    assert "not in the vault: g/L; if that was you" in avault.describe_left(store)
    [copy] = avault.find_left(store).values()
    assert copy and value(copy, "L") == "later"


def test_what_lies_here_is_told_of_in_one_look_however_many_values_a_key_has(desk, store, monkeypatch: pytest.MonkeyPatch):
    """Who has a key before may write any copy of some megabytes: an unlock waits for what is said of it."""

    class Counted(dict[str, Any]):
        looked = 0

        def items(self) -> Any:
            Counted.looked += 1
            return super().items()

    old = store.vault.copy()
    old.agent, values = "cd" * 32, [avault.Secret(f"value {number}", 1, 1, f"m{number}", 1) for number in range(99)]
    known = avault.Secret("first", 1, 1, "another", 1)
    old.groups = Counted({"g": avault.Group({"K": [known], "L": [known, *values]}), "h": avault.Group({"M": [known]})})
    monkeypatch.setattr(avault, "find_left", lambda _: {"replaced.enc": old})
    assert "not in the vault: g/L, h/M; if that was you" in avault.describe_left(store)
    assert Counted.looked == 1 and avault.count_ranks(old) == 16


@pytest.mark.parametrize("is_whole", [True, False], ids=["with all that was known", "without"])
def test_what_was_known_under_the_key_before_may_be_lacking(desk, store, is_whole: bool):
    """The agent was rotated on another machine: whether this one's writes came along is told once, to who opens it."""
    name, before, known = store.machine, avault.to_npub("cd" * 32), desk.pin()["generation"]
    pin = {**desk.pin(), "agent": before, "generation": known if is_whole else {**known, "gone": 1}}
    Path(desk.places.own("pin.json")).write_bytes(avault.encode_file("pin", pin))
    draft = store.vault.copy()
    draft.state(f"agent/{before}", "", 1, "other")
    draft.generation["other"] = 1
    desk.path.write_bytes(avault.seal_vault(draft, AGENT))
    store = desk.load()
    assert store.remarks.lacks == ("" if is_whole else "the vault lacks writes that this machine knew under the key before")
    assert (store.machine == name) is is_whole, "it claims to know no more than it does"
    assert desk.pin()["agent"] == NPUB and not desk.load().remarks.lacks


@pytest.mark.parametrize("way", ["a pull", "a merge", "a restart"])
def test_a_first_operator_is_not_replaced_by_a_file(desk, store, way: str):
    """While the vault is open; who opens it then is told."""
    stranger = avault.public_hex(nostr_sdk.Keys.generate())
    draft = store.vault.copy()
    draft.state(avault.SUCCEEDED, stranger, 1, "other")
    draft.generation["other"] = 1
    data = avault.seal_vault(draft, AGENT)
    if way == "a merge":
        [refused] = store.write([lambda vault: store.absorb(vault, data)])
        assert refused and "another first operator" in refused.message and store.vault.operator == avault.public_hex(OPERATOR)
        return
    desk.path.write_bytes(data)
    if way == "a pull":
        store.refresh()
        assert store.trouble and avault.to_npub(stranger) in store.trouble.message
        assert store.vault.operator == avault.public_hex(OPERATOR)
        return
    for _ in range(2):  # until a person has opened it
        store = avault.Store.load(desk.places, AGENT, {**desk.content, "operator": None})
        assert (
            store.remarks.succeeded == f"the first operator is {avault.to_npub(stranger)} now, and was {desk.content['operator']}"
        )
        store.write([put("N", machine=store.machine)])
        assert desk.pin()["operator"] == desk.content["operator"]
    store.note_seen()
    assert desk.pin()["operator"] == avault.to_npub(stranger)
    assert not avault.Store.load(desk.places, AGENT, {**desk.content, "operator": None}).remarks.succeeded


def test_what_is_kept_opens_for_nobody_else(desk, store):
    """Who was removed could put an older file there: what is served then is for who it is for, too."""
    stranger = avault.to_npub(avault.public_hex(nostr_sdk.Keys.generate()))
    store.write([put("L", machine=store.machine)])
    store.keep()
    desk.path.unlink()
    with pytest.raises(avault.Tampered):
        avault.Store.load(desk.places, AGENT, {**desk.content, "operator": stranger})
    for operator in (None, desk.content["operator"]):
        assert value(avault.Store.load(desk.places, AGENT, {**desk.content, "operator": operator}).vault, "L") == "x"


def test_a_change_that_is_refused_leaves_nothing_of_it(desk, store):
    """Beside others in one write, which are confirmed."""

    def refuse(vault: avault.Vault) -> None:
        vault.put("g", "L", "of the refused", 1, store.machine)
        vault.put("g", "M", "of the refused", 1, store.machine)
        raise avault.Denied("no")

    done, refused = store.write([put("L", "confirmed", store.machine), refuse])
    assert done is None and type(refused) is avault.Denied
    vault = avault.open_vault(desk.path.read_bytes(), AGENT)
    assert value(vault, "L") == "confirmed" and sorted(vault.groups["g"].keys) == ["K", "L"]


def test_a_copy_under_a_key_before_covers_nothing(desk, store):
    """It may claim to know whatever there is: what was set since stays beside."""
    old = store.vault.copy()
    old.agent = "cd" * 32
    old.generation = {store.machine: 10**9, "thief": 10**9}
    old.groups = {"g": avault.Group({"K": [avault.Secret("stolen", 1, 1, "thief", 10**9)]})}
    draft = store.vault.copy()
    assert avault.recall(draft, old, 0, 2, store.machine) == ["g/K"]
    assert {each.value for each in draft.secrets("g", "K")} == {"first", "stolen"}


def test_the_first_file(desk, store):
    assert store.vault.generation == {store.machine: 1} and store.vault.sources == []
    assert desk.pin() == {
        "agent": NPUB,
        "operator": desk.content["operator"],
        "generation": {store.machine: 1},
        "hash": avault.sha256(desk.path.read_bytes()).hex(),
        "served": {store.machine: [f"1 {store.digest[:16]}"]},
    }
    assert value(avault.open_vault(desk.path.read_bytes(), AGENT), "K") == "first"
    loaded = desk.load()
    assert (loaded.warning, loaded.trouble, loaded.digest, loaded.machine) == ("", None, store.digest, store.machine)


def test_a_vault_is_made_over_no_other(desk, store):
    before = desk.path.read_bytes()
    with pytest.raises(avault.FileChanged):
        desk.create()
    assert desk.path.read_bytes() == before
    for name in ("avault.enc", "nsec.enc"):
        desk.path = desk.path.rename(desk.path.with_name(name))
        with pytest.raises(avault.AvaultError, match=f"there is a vault already.*{name}"):
            avault.refuse_to_overwrite(desk.places)
    desk.path.unlink()
    avault.refuse_to_overwrite(desk.places)


def test_without_a_pin_the_vault_is_pinned_and_said_to_be_unseen(desk, store):
    os.unlink(desk.places.own("pin.json"))
    assert "no pin.json" in desk.load().warning
    assert desk.pin()["hash"] == store.digest
    assert desk.load().warning == ""


@pytest.mark.parametrize("field", ["vault", "name", "operator"])
def test_the_file_is_that_of_the_key(desk, store, field):
    desk.content[field] = {"vault": "11" * 16, "name": "another", "operator": avault.to_npub(avault.public_hex(AGENT))}[field]
    with pytest.raises(avault.Tampered, match="another vault or another operator"):
        desk.load()


@pytest.mark.parametrize(
    ("pinned", "found", "refusal"),
    [
        ({"me": 2}, {"me": 2}, "of the same generation"),
        ({"me": 2}, {"me": 1}, "older than"),
        ({"me": 2, "b": 1}, {"me": 2}, "older than"),
        ({"me": 2}, {"me": 1, "b": 9}, "another machine's"),
        ({"me": 2}, {"b": 1}, "another machine's"),
        ({"me": 2}, {"me": 3}, CLONE),
        ({"b": 2}, {"b": 2, "me": 1}, CLONE),
        ({"me": 2}, {"me": 2, "b": 1}, None),
        ({"me": 2, "b": 1}, {"me": 2, "b": 2}, None),
    ],
)
def test_what_may_follow_the_pin(store, pinned, found, refusal):
    store.me.name, store.vault.generation, store.vault.sources = "me", found, ["s"]
    said = store.compare({"generation": pinned, "hash": "p"})
    assert said is None if refusal is None else refusal in said
    assert store.compare({"generation": found, "hash": store.digest}) is None
    if refusal == CLONE:  # our own write after the pin, which there was no time to pin
        assert store.compare({"generation": pinned, "hash": "s"}) is None


def test_a_rollback_is_accepted_under_a_new_name(desk, store):
    older = desk.path.read_bytes()
    assert store.write([put("L")]) == [None]
    desk.path.write_bytes(older)
    with pytest.raises(avault.Tampered, match="older than"):
        desk.load()
    assert desk.path.read_bytes() == older
    accepted = desk.load(accept_rollback=True)
    assert accepted.machine != store.machine and accepted.machine == avault.machine_id(desk.places)
    assert accepted.vault.generation == dict(sorted({store.machine: 1, accepted.machine: 1}.items()))
    assert accepted.vault.sources == [avault.sha256(older).hex()]
    assert (again := desk.load()).digest == accepted.remarks.accepted and not again.remarks.accepted
    desk.path.write_bytes(older)
    assert desk.load(accept_rollback=True).remarks.accepted not in ("", accepted.remarks.accepted), "which each time is another"
    assert value(accepted.vault.merge(store.vault), "L") == "x", "what was rolled back comes again by a merge"


def test_a_rollback_brings_no_custodian_back_that_was_taken_away(desk, store):
    """What became of it a merge brings back, and the pin goes on knowing it."""
    older, fact = desk.path.read_bytes(), f"retired/{'ab' * 32}"
    assert store.write([lambda vault: vault.state(fact, "removed", 5, store.machine)]) == [None]
    desk.path.write_bytes(older)
    accepted = desk.load(accept_rollback=True)
    assert fact in accepted.vault.facts and desk.pin()["retired"] == ["ab" * 32]
    assert fact in desk.load().vault.facts
    for merged in (accepted.vault.merge(store.vault), store.vault.merge(accepted.vault)):
        assert merged.fact(fact) == "removed"


def test_a_rollback_forgets_no_custodian_that_was_given_to_all(desk, store):
    """Else any file of that name, which the agent has signed, would do."""
    older, fact = desk.path.read_bytes(), f"given/{'ab' * 32}"
    told = json.dumps({"custodian": "box", "kind": "command", "settings": {}, "agent": NPUB}, sort_keys=True)
    assert store.write([lambda vault: vault.state(fact, told, 5, store.machine)]) == [None]
    assert desk.pin()["given"] == {"ab" * 32: told}
    desk.path.write_bytes(older)
    accepted = desk.load(accept_rollback=True)
    assert accepted.vault.fact(fact) == told and desk.pin()["given"] == {"ab" * 32: told}


def test_a_rollback_that_is_none_changes_no_name(desk, store):
    before = desk.path.read_bytes()
    assert desk.load(accept_rollback=True).machine == store.machine
    assert desk.path.read_bytes() == before


def test_a_later_file_is_pinned_when_it_is_loaded(desk, store):
    desk.path.write_bytes(elsewhere(store.vault))
    loaded = desk.load()
    assert value(loaded.vault, "E") == "from other" and loaded.warning == ""
    assert desk.pin() == {
        "agent": NPUB,
        "operator": desk.content["operator"],
        "generation": loaded.vault.generation,
        "hash": loaded.digest,
        "served": {store.machine: [f"1 {store.digest[:16]}", f"1 {loaded.digest[:16]}"]},
    }


@pytest.mark.parametrize("count", [True, "1", 1.0, None])
def test_a_pin_counts_in_whole_numbers(desk, store, count):
    Path(desk.places.own("pin.json")).write_bytes(avault.encode_file("pin", {"generation": {"m": count}, "hash": ""}))
    with pytest.raises(avault.Tampered, match=r"pin\.json is damaged"):
        avault.read_pin(desk.places)


def test_a_pin_that_cannot_be_written_is_said_until_it_can(desk, store):
    pin = Path(desk.places.own("pin.json"))
    pin.unlink()
    pin.mkdir()
    assert store.write([put("L")]) == [None]
    assert "an older copy of the vault would not be noticed" in store.warning
    pin.rmdir()
    assert store.write([put("M")]) == [None]
    assert store.warning == "" and desk.pin()["hash"] == store.digest


def test_a_machine_keeps_its_name_and_its_image_gets_another(desk, monkeypatch):
    name = avault.machine_id(desk.places)
    assert len(name) == 16 and avault.machine_id(desk.places) == name
    path, host = Path(desk.places.own("machine.json")), Path("/etc/machine-id")
    written = avault.decode_file("machine", path.read_bytes(), "")
    assert written == {"id": name, "host": avault.sha256(host.read_bytes()).hex() if host.exists() else ""}
    path.write_bytes(avault.encode_file("machine", {"id": name, "host": "another"}))
    image = avault.machine_id(desk.places)
    assert image != name and avault.machine_id(desk.places) == image
    monkeypatch.setattr(os.path, "exists", lambda path: False)  # a system without such a name
    assert avault.machine_id(desk.places) != image
    assert avault.decode_file("machine", path.read_bytes(), "")["host"] == ""


# Writing


def test_changes_are_written_together_and_each_is_answered(desk, store):
    before = store.digest
    done, refused, also = store.write([put("L"), lambda vault: vault.remove("g", "NONE"), put("M")])
    assert (done, also) == (None, None) and isinstance(refused, avault.NotFound)
    found = avault.open_vault(desk.path.read_bytes(), AGENT)
    assert (value(found, "L"), value(found, "M")) == ("x", "x")
    assert found.generation == {store.machine: 2} and found.sources == [before]
    assert store.digest != before
    assert desk.pin() == {
        "agent": NPUB,
        "operator": desk.content["operator"],
        "generation": {store.machine: 2},
        "hash": store.digest,
        "served": {store.machine: [f"1 {before[:16]}", f"2 {store.digest[:16]}"]},
    }


def test_changes_that_are_all_refused_write_nothing(desk, store):
    before = avault.look_at(str(desk.path))
    assert [type(each) for each in store.write([lambda vault: vault.remove("g", "NONE")] * 2)] == [avault.NotFound] * 2
    assert avault.look_at(str(desk.path)) == before and store.vault.generation == {store.machine: 1}


def test_a_change_that_was_not_written_is_not_served(desk, store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(avault, "exchange", lambda *_: False)
    monkeypatch.setattr(os, "rename", full)
    before = desk.path.read_bytes(), store.digest
    assert ["No space left" in each.message for each in store.write([put("L"), put("M")])] == [True, True]
    assert (desk.path.read_bytes(), store.digest) == before
    with pytest.raises(avault.NotFound):
        store.vault.secrets("g", "L")


def test_a_vault_that_does_not_open_replaces_nothing(desk, store, monkeypatch):
    before, stale = desk.path.read_bytes(), store.vault.copy()
    store.refresh()
    monkeypatch.setattr(avault, "open_vault", lambda data, keys: stale)
    [refused] = store.write([put("L")])
    assert "does not open" in refused.message
    assert desk.path.read_bytes() == before


@pytest.mark.parametrize("there", [None, b"half of it"], ids=["gone", "half"])
def test_a_write_waits_for_a_file_that_git_is_writing_anew(desk, store, monkeypatch, there):
    data, pauses = desk.path.read_bytes(), []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            desk.path.write_bytes(data)

    monkeypatch.setattr("time.sleep", pause)
    desk.path.unlink()
    if there:
        desk.path.write_bytes(there)
    assert store.write([put("L")]) == [None]
    assert len(pauses) == 2
    desk.path.unlink()
    [refused] = store.write([put("M")])
    assert isinstance(refused, avault.Tampered) and len(pauses) == 7


def test_a_count_that_may_have_been_seen_is_not_used_again(desk, store, monkeypatch):
    """Git can take what is withdrawn, before it is: another write under its count would be lost there."""
    real, seen, before = avault.exchange, [], desk.path.read_bytes()

    def exchange(one, other):
        if not seen:
            desk.path.write_bytes(before[:-9])
        done = real(one, other)
        seen.append(desk.path.read_bytes())
        return done

    monkeypatch.setattr(avault, "exchange", exchange)
    [refused] = store.write([put("L", "withdrawn", store.machine)])
    assert refused and "damaged" in refused.message
    desk.path.write_bytes(before)
    assert store.write([put("M", "kept", store.machine)]) == [None]
    there = avault.open_vault(seen[0], AGENT)
    there.put("g", "E", "x", 1, "other")
    there.generation["other"] = 1
    merged = there.merge(store.vault)
    assert {key: value(merged, key) for key in merged.groups["g"].keys} == {"E": "x", "K": "first", "M": "kept"}


def test_what_comes_just_after_a_write_is_merged_before_it_is_answered(desk, store, monkeypatch):
    real, pulled = avault.exchange, elsewhere(store.vault)

    def exchange(one, other):
        monkeypatch.setattr(avault, "exchange", real)
        done = real(one, other)
        desk.path.write_bytes(pulled)
        return done

    monkeypatch.setattr(avault, "exchange", exchange)
    assert store.write([put("L", "ours")]) == [None]
    found = avault.open_vault(desk.path.read_bytes(), AGENT)
    assert (value(found, "E"), value(found, "L")) == ("from other", "ours")


def test_writes_give_up_on_a_file_that_never_rests(desk, store, monkeypatch):
    real, rounds = avault.seal_vault, []

    def seal(vault, keys):
        number = len(rounds)
        rounds.append(number)
        theirs = store.vault.copy()
        theirs.put("g", f"E{number}", "x", 2, f"m{number}")
        theirs.generation[f"m{number}"] = 1
        desk.path.write_bytes(real(theirs, keys))
        return real(vault, keys)

    monkeypatch.setattr(avault, "seal_vault", seal)
    assert ["keeps changing" in each.message for each in store.write([put("L"), put("M")])] == [True, True]
    assert len(rounds) == 5
    monkeypatch.undo()
    assert store.write([put("L")]) == [None]
    assert [value(store.vault, f"E{number}") for number in range(5)] == ["x"] * 5, "and none of theirs is lost"


# Noticing


def test_a_file_that_did_not_change_is_not_read_again(store, monkeypatch):
    store.refresh()
    monkeypatch.setattr(avault, "read_vault", lambda places: pytest.fail("read again"))
    store.refresh()
    assert store.trouble is None


def test_a_later_file_is_served_and_pinned(desk, store):
    before = store.digest
    desk.path.write_bytes(elsewhere(store.vault))
    store.refresh()
    assert value(store.vault, "E") == "from other" and store.digest == avault.sha256(desk.path.read_bytes()).hex()
    assert desk.pin() == {
        "agent": NPUB,
        "operator": desk.content["operator"],
        "generation": store.vault.generation,
        "hash": store.digest,
        "served": {store.machine: [f"1 {before[:16]}", f"1 {store.digest[:16]}"]},
    }


def test_generations_are_written_in_order(desk, store):
    desk.path.write_bytes(elsewhere(store.vault, "ffffffffffffffff0"))
    assert store.write([put("L", machine=store.machine)]) == [None]
    later = store.vault.copy()
    later.generation = dict(reversed(later.generation.items()))
    store.replace(later, store.digest)
    written = avault.open_vault(desk.path.read_bytes(), AGENT)
    assert list(written.generation) == sorted(written.generation)


def test_who_has_never_written_takes_what_another_wrote(desk, store, tmp_path):
    reader = Desk(desk.path.parent, tmp_path / "reader").load()
    desk.path.write_bytes(elsewhere(store.vault))
    reader.refresh()
    assert reader.trouble is None and value(reader.vault, "E") == "from other" and reader.machine not in reader.vault.generation


def test_who_has_never_written_begins_with_one(desk, store, tmp_path):
    reader = Desk(desk.path.parent, tmp_path / "reader").load()
    assert reader.write([put("L", machine=reader.machine)]) == [None]
    [secret] = reader.vault.secrets("g", "L")
    assert reader.vault.generation[reader.machine] == secret.count == 1


def test_who_has_never_written_is_no_clone_of_itself(desk, store, tmp_path):
    reader = Desk(desk.path.parent, tmp_path / "reader").load()
    before = reader.vault
    desk.path.write_bytes(elsewhere(store.vault, reader.machine))
    reader.refresh()
    assert reader.trouble and CLONE in reader.trouble.message and reader.vault is before


def test_nothing_is_noticed_in_the_middle_of_a_write(desk, store):
    desk.path.write_bytes(elsewhere(store.vault))
    store.writing = True
    store.refresh()
    assert "other" not in store.vault.generation
    store.writing = False
    store.refresh()
    assert "other" in store.vault.generation


def test_both_sides_of_a_concurrent_file_are_kept(desk, store):
    theirs = elsewhere(store.vault)
    assert store.write([put("L", "ours")]) == [None]
    digests = sorted([store.digest, avault.sha256(theirs).hex()])
    desk.path.write_bytes(theirs)
    store.refresh()
    found = avault.open_vault(desk.path.read_bytes(), AGENT)
    assert (value(found, "E"), value(found, "L")) == ("from other", "ours")
    assert found.generation == {store.machine: 3, "other": 1} and found.sources == digests
    assert store.trouble is None and desk.pin()["generation"] == found.generation


@pytest.mark.parametrize("sign", ["index.lock", "rebase-merge", "rebase-apply"])
def test_while_git_works_a_concurrent_file_is_left_alone_unless_we_write(desk, store, sign):
    theirs = elsewhere(store.vault)
    store.write([put("L", "ours")])
    desk.path.write_bytes(theirs)
    (desk.path.parent / ".git").mkdir()
    (desk.path.parent / ".git" / sign).touch()
    store.refresh()
    assert desk.path.read_bytes() == theirs and store.trouble is None
    store.refresh()
    assert desk.path.read_bytes() == theirs
    assert store.write([put("M")]) == [None]
    assert {"E", "L", "M"} <= set(store.vault.group("g").keys)


def test_when_git_is_done_a_concurrent_file_is_merged(desk, store):
    theirs = elsewhere(store.vault)
    store.write([put("L", "ours")])
    desk.path.write_bytes(theirs)
    lock = desk.path.parent / ".git" / "index.lock"
    lock.parent.mkdir()
    lock.touch()
    store.refresh()
    lock.unlink()
    store.refresh()
    assert {"E", "L"} <= set(store.vault.group("g").keys)


def bad_files(store: avault.Store) -> dict[str, tuple[bytes, str]]:
    later = store.vault.copy()
    later.generation = {store.machine: later.generation[store.machine] + 1}
    older = store.vault.copy()
    older.generation = {store.machine: 1}
    same = store.vault.copy()
    same.put("g", "K", "changed", 9, "x")
    return {
        "half": (Path(store.places.file("avault.enc")).read_bytes()[:-9], "damaged"),
        "another vault": (elsewhere(store.vault, identity="11" * 16), "another vault"),
        "another operator": (elsewhere(store.vault, made_for=avault.public_hex(AGENT)), "another vault"),
        "a clone": (avault.seal_vault(later, AGENT), CLONE),
        "older": (avault.seal_vault(older, AGENT), "older one"),
        "of the same generation": (avault.seal_vault(same, AGENT), "older one"),
    }


@pytest.mark.parametrize("kind", ["half", "another vault", "another operator", "a clone", "older", "of the same generation"])
def test_what_cannot_be_taken_is_trouble_and_harms_nothing(desk, store, kind):
    store.write([put("L")])
    good, (bad, said) = desk.path.read_bytes(), bad_files(store)[kind]
    desk.path.write_bytes(bad)
    store.refresh()
    assert said in store.trouble.message and value(store.vault, "L") == "x"
    pin = desk.pin()
    [refused] = store.write([put("M")])
    assert refused is store.trouble and desk.path.read_bytes() == bad and desk.pin() == pin
    desk.path.write_bytes(good)
    store.refresh()
    assert store.trouble is None and store.write([put("M")]) == [None]


def test_a_file_that_is_gone_is_trouble_until_it_is_back(desk, store):
    data = desk.path.read_bytes()
    desk.path.unlink()
    store.refresh()
    assert isinstance(store.trouble, avault.Tampered) and "is gone" in store.trouble.message
    desk.path.write_bytes(data)
    store.refresh()
    assert store.trouble is None


def test_trouble_that_is_not_the_files_is_looked_at_again(desk, store, monkeypatch):
    def busy(places):
        raise avault.AvaultError("too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(avault, "read_vault", busy)
        store.refresh()
        assert "too many" in store.trouble.message
    store.refresh()
    assert store.trouble is None


# What git merges


def test_git_is_given_the_copy_that_has_all(desk, store):
    ours = desk.path.read_bytes()
    theirs = elsewhere(store.vault)
    assert store.offer(ours, theirs)[0] == store.offer(theirs, ours)[0] == theirs
    assert store.offer(ours, ours)[0] == ours
    assert not os.path.exists(desk.places.own("offered.json"))


def test_git_is_given_a_merge_that_claims_nothing(desk, store):
    one, other = elsewhere(store.vault, "a", "A"), elsewhere(store.vault, "b", "B")
    name = f"{store.machine}-git"
    for count in (1, 2):
        data, merged = store.offer(one, other)
        assert merged.generation == {store.machine: 1, "a": 1, "b": 1, name: count}
        assert merged.sources == sorted(avault.sha256(each).hex() for each in (one, other))
        assert (value(merged, "A"), value(merged, "B")) == ("from a", "from b")
        assert avault.open_vault(data, AGENT).to_json() == merged.to_json()
        assert list(merged.generation) == sorted(merged.generation)
    again = avault.Store(desk.places, AGENT, store.vault, store.digest)
    assert again.offer(one, other)[1].generation[name] == 3, "also after a lock"
    ahead = elsewhere(merged, name, "G", by=9)
    assert again.offer(ahead, elsewhere(store.vault, "c", "C"))[1].generation[name] == 12, "and after what another clone offered"


def test_what_git_may_not_merge(store):
    ours = elsewhere(store.vault, "a", "A")
    with pytest.raises(avault.Tampered, match="two machines write under one name"):
        store.offer(ours, elsewhere(store.vault, "a", "B"))
    for changes in ({"identity": "11" * 16}, {"made_for": avault.public_hex(AGENT)}):
        stranger = elsewhere(store.vault, **changes)
        for pair in ((ours, stranger), (stranger, ours)):
            with pytest.raises(avault.Tampered, match="copy of another vault"):
                store.offer(*pair)
        with pytest.raises(avault.Tampered, match="copy of another vault"):
            store.absorb(store.vault.copy(), stranger)


def test_a_copy_is_absorbed_by_a_draft(store):
    theirs, draft = elsewhere(store.vault), store.vault.copy()
    draft.sources = [store.digest]
    draft.put("g", "L", "ours", 1, store.machine)
    store.absorb(draft, theirs)
    assert (value(draft, "E"), value(draft, "L")) == ("from other", "ours")
    assert draft.generation == {store.machine: 1, "other": 1}
    assert draft.sources == sorted([store.digest, avault.sha256(theirs).hex()])
    with pytest.raises(avault.Tampered, match="never made"):
        store.absorb(draft, elsewhere(store.vault, store.machine))


def test_who_has_never_written_absorbs_another_and_no_clone(desk, store, tmp_path):
    reader = Desk(desk.path.parent, tmp_path / "reader").load()
    draft = reader.vault.copy()
    reader.absorb(draft, elsewhere(store.vault))
    assert value(draft, "E") == "from other" and reader.machine not in draft.generation
    with pytest.raises(avault.Tampered, match="never made"):
        reader.absorb(draft, elsewhere(store.vault, reader.machine))


def test_where_git_keeps_its_own(tmp_path):
    tree = tmp_path / "tree"
    below = tree / "a" / "b"
    below.mkdir(parents=True)
    assert avault.find_git(str(below)) is None and not avault.is_git_at_work(str(below))
    (tree / ".git").mkdir()
    assert avault.find_git(str(below)) == str(tree / ".git")
    (tree / ".git").rmdir()
    for written, meant in (("gitdir: ../ox\n", tree / "../ox"), (f"gitdir: {tmp_path}/own\n", tmp_path / "own")):
        (tree / ".git").write_text(written)
        assert avault.find_git(str(below)) == str(meant)
    (tmp_path / "own").mkdir()
    assert not avault.is_git_at_work(str(below))
    (tmp_path / "own" / "rebase-merge").mkdir()
    assert avault.is_git_at_work(str(below))


# What the phone is to be asked for


@pytest.mark.parametrize("name", ["avault.enc", "nsec.enc"])
def test_either_file_is_a_vault(desk, name):
    with pytest.raises(avault.NotFound, match="no vault in"):
        avault.need_vault(desk.places)
    desk.path.with_name(name).touch()
    avault.need_vault(desk.places)


def test_the_own_envelope_comes_first_and_the_recovery_copy_else(desk):
    with pytest.raises(avault.NotFound, match="no vault in"):
        avault.read_unlock(desk.places)
    sealed = avault.seal_nsec(AGENT, "00" * 16, avault.public_hex(OPERATOR), "test", "host")
    Path(desk.places.file("nsec.enc")).write_bytes(avault.encode_file("nsec", sealed))
    assert avault.read_unlock(desk.places) == (sealed, False)
    own = {**sealed, "proven": None, "quick": 0}
    Path(desk.places.own("unlock.json")).write_bytes(avault.encode_file("unlock", own))
    assert avault.read_unlock(desk.places) == (own, True)


def test_the_recovery_copy_is_read_as_that_of_one_operator(desk):
    """What the others open is not in it; who is a stranger to it reads the first one's, which it cannot open."""
    first, second, stranger = (avault.public_hex(each) for each in (OPERATOR, *(nostr_sdk.Keys.generate() for _ in range(2))))
    sealed, their = (avault.seal_nsec(AGENT, "00" * 16, each, "test", "host") for each in (first, second))
    other = {name: their[name] for name in ("operator", "envelope", "sealed")}
    Path(desk.places.file("nsec.enc")).write_bytes(avault.encode_file("nsec", {**sealed, "others": [other]}))
    assert avault.read_unlock(desk.places, avault.to_npub(first)) == (sealed, False)
    assert avault.read_unlock(desk.places, avault.to_npub(second)) == ({**sealed, **other}, False)
    assert avault.read_unlock(desk.places, avault.to_npub(stranger)) == (sealed, False)


def test_hints_that_name_something_else_are_doubted(desk, store):
    """nip46.json is public, and anybody who can push may write it."""
    agent, operator, path = avault.public_hex(AGENT), avault.public_hex(OPERATOR), Path(desk.places.file("nip46.json"))
    for names, is_right in (
        ((agent, operator, "test"), True),
        (("ab" * 32, operator, "test"), False),
        ((agent, "ab" * 32, "test"), False),
        ((agent, operator, "another"), False),
    ):
        path.write_bytes(avault.encode_hints(*names[:2], ["ws://one"], names[2]))
        assert ("it is not believed" in avault.doubt_hints(desk.places, store.vault)) is not is_right, names
    path.write_bytes(b"{}")
    assert "damaged" in avault.doubt_hints(desk.places, store.vault)


@pytest.mark.parametrize("field", ["agent", "operator", "name"])
def test_what_people_are_shown_is_plain(desk, field):
    sealed = avault.seal_nsec(AGENT, "00" * 16, avault.public_hex(OPERATOR), "test", "host")
    for wrong in {"agent": ["npub1\x1b[2J", "nsec1x", "npub1é", "", "xnpub1"]}.get(field) or ["a\nb", "\x1b[2J", "é"]:
        Path(desk.places.file("nsec.enc")).write_bytes(avault.encode_file("nsec", {**sealed, field: wrong}))
        with pytest.raises(avault.Tampered, match="names nobody"):
            avault.read_unlock(desk.places)


# Writes of this machine that it never made: its disk is one from a backup, or there is a clone


@pytest.fixture
def restored(tmp_path: Path) -> tuple[Desk, avault.Store, bytes, bytes]:
    """A machine as it was last night; what it has written today lies elsewhere, and what another has made of that."""
    desk = Desk(tmp_path / "vault", tmp_path / "state")
    store = desk.create()
    assert store.write([at("base", 50), at("gone", 51)]) == [None, None]
    for name in ("vault", "state"):
        shutil.copytree(tmp_path / name, tmp_path / f"night {name}")
    assert store.write([at("today", 100)]) == [None]
    assert store.write([lambda vault: vault.remove("g", "gone"), at("today2", 101)]) == [None, None]
    mine = desk.path.read_bytes()
    for name in ("vault", "state"):
        shutil.rmtree(tmp_path / name)
        shutil.copytree(tmp_path / f"night {name}", tmp_path / name)
    return desk, desk.load(), mine, elsewhere(store.vault)


def at(key: str, when: int) -> Callable[[avault.Vault], None]:
    """A write of the machine's own at that time."""

    def change(vault: avault.Vault) -> None:
        machine = next(iter(vault.generation))
        vault.put("g", key, "x", when, machine)

    return change


def absorb(store: avault.Store, theirs: bytes) -> list[avault.AvaultError | None]:
    return store.write([lambda vault: store.absorb(vault, theirs)])


def names(store: avault.Store) -> set[str]:
    return {*store.vault.groups["g"].keys}


@pytest.mark.parametrize("whose", ["its own", "another's"])
@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_machine_from_a_backup_writes_nothing_more_and_loses_nothing(restored, whose: str, writes: int) -> None:
    """Nor what it has written before it saw that; under another name it takes in all."""
    desk, store, mine, theirs = restored
    for number in range(writes):
        assert store.write([at(f"after{number}", 200 + number)]) == [None]
    seen = store.open_copy(mine if whose == "its own" else theirs)
    before = store.machine
    if seen.generation[before] <= store.vault.generation[before]:
        seen.generation[before] += 2  # it has written more than is counted again here
    with pytest.raises(avault.Tampered, match="restored from a backup"):
        store.doubt(seen.generation, 150)
    for _ in range(2):
        [refused] = store.write([put("more")])
        assert isinstance(refused, avault.Tampered)
        os.utime(desk.path)  # no change of the file ends it
    with pytest.raises(avault.Tampered):
        store.offer(mine, theirs)
    with pytest.raises(avault.Tampered):
        desk.load()
    assert store.put_back()
    assert store.machine != before and not store.trouble
    for copy in (mine, theirs):
        assert absorb(store, copy) == [None]
    assert names(store) == {"K", "base", "today", "today2", "E", *(f"after{number}" for number in range(writes))}
    assert not [found for found in store.vault.groups["g"].keys.values() if len(found) > 1]


def test_a_copy_with_such_writes_is_taken_in_from_nowhere(restored) -> None:
    _, store, mine, _ = restored
    [refused] = absorb(store, mine)
    assert isinstance(refused, avault.Tampered) and store.trouble is refused


def test_such_a_machine_goes_on_after_a_restart_too(restored) -> None:
    """By an accepted rollback: what it had written is under its next name then."""
    desk, store, mine, _ = restored
    assert store.write([at("after", 200)]) == [None]
    with pytest.raises(avault.Tampered):
        store.doubt({store.machine: 9}, 150)
    again = desk.load(accept_rollback=True)
    assert again.machine != store.machine
    assert absorb(again, mine) == [None]
    assert names(again) == {"K", "base", "today", "today2", "after"}


@pytest.mark.parametrize("restarts", [False, True])
def test_a_copy_of_no_more_writes_that_was_not_made_here(restored, restarts: bool) -> None:
    """As many, or fewer, were counted here again."""
    desk, store, mine, _ = restored
    for number in range(3):
        assert store.write([at(f"after{number}", 200 + number)]) == [None]
    with pytest.raises(avault.Tampered):
        store.doubt(store.open_copy(mine).generation, 150, avault.sha256(mine).hex())
    if restarts:
        with pytest.raises(avault.Tampered):
            desk.load()
        store = desk.load(accept_rollback=True)
    else:
        assert store.put_back()
    assert absorb(store, mine) == [None]
    assert names(store) == {"K", "base", "today", "today2", "after0", "after1", "after2"}


def test_an_ordinary_copy_makes_no_doubt(store) -> None:
    generation = {**store.vault.generation, "other": 9}
    store.doubt(generation, 1)
    assert store.write([put("more")]) == [None]
