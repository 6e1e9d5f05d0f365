"""Custodians that are for all machines of a vault: what git brings is nobody's word, until a person names it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nostr_sdk
import peers
import pytest
from box import Box
from canary import Canary
from git_helpers import git, share
from harness import Machine, wait_until
from peers import Relay, misdeeds
from test_custody import PHRASE, Owner, init_with_passphrase
from test_seal import Example

import avault

pytestmark = pytest.mark.usefixtures("forks")


class Fleet:
    """A machine whose vault is in a repository with a remote, and another that can clone it."""

    def __init__(self, owner: Owner, second: Machine) -> None:
        self.owner, self.machine, self.second, self.box = owner, owner.machine, second, owner.box
        self.origin = second.top.parent / "origin"
        for each in (self.machine, second):
            (each.home / ".gitconfig").write_text("[user]\nname = Ada\nemail = ada@example.com\n[init]\ndefaultBranch = main\n")
        share(self.machine, self.origin)

    def file(self, machine: Machine | None = None, name: str = "box") -> Path:
        return (machine or self.machine).vault / f"custody-{name}.json"

    def own(self, machine: Machine, name: str = "box") -> Path:
        return machine.own / f"custody-{name}.json"

    def publish(self) -> None:
        wait_until(lambda: not git(self.machine, "status", "--porcelain"), what="a commit of all", every=0.1)
        self.machine("sync")
        assert not git(self.machine, "rev-list", "origin/main..HEAD")

    def clone(self) -> None:
        self.second.vault.parent.mkdir(parents=True, exist_ok=True)
        git(self.second, "clone", "-q", str(self.origin), str(self.second.vault), cwd=self.second.home)

    def names(self) -> list[str]:
        return ["--agent", self.owner.agent(), "--signer-npub", self.owner.npub()]

    def recover(self, code: int = 0) -> Any:
        return self.second("recover", *self.names(), "--with", "box", code=code)

    def pair_second(self) -> None:
        """The other machine has opened the vault by the phone."""
        words = ["recover", *self.names(), "--no-drill", "--bunker", "-"]
        self.second(*words, input=self.owner.phone.uri)

    def shown(self, machine: Machine) -> dict[str, Any]:
        return dict(machine("custody", "list", "--json").json)


@pytest.fixture
def fleet(machine: Machine, relay: Relay, place) -> Iterator[Fleet]:
    operator = nostr_sdk.Keys.generate()
    with peers.rogue([relay.url], nsec=operator.secret_key().to_bech32()) as phone, Machine(place.top / "second") as second:
        yield Fleet(Owner(machine, phone, operator), second)


def change(path: Path, **fields: Any) -> None:
    """Write a custodian's file as whoever can push may: whole, but not signed."""
    content = avault.decode_file("custody", path.read_bytes(), str(path))
    path.write_bytes(avault.encode_file("custody", {**content, **fields}))


def test_a_new_machine_opens_the_vault_with_it(fleet: Fleet, canary: Canary, allow: Callable[[Path], Path]) -> None:
    machine, second = fleet.machine, fleet.second
    machine("set", "openai/API_KEY", input=canary.value)
    done = fleet.owner.add("--shared")
    assert f"for all machines: {fleet.file()}" in done.stderr
    assert "open test@machine on EVERY machine WITHOUT anybody, always" in fleet.owner.sentence()
    assert fleet.file().read_bytes() == fleet.own(machine).read_bytes()
    assert fleet.file().stat().st_mode & 0o777 == 0o600
    [box, phone] = fleet.shown(machine)["custodians"]
    assert box["shared"] is True and phone["shared"] is False and fleet.shown(machine)["offered"] == []
    assert "all machines" in machine("custody", "list").stdout
    fleet.publish()
    account = json.loads(fleet.file().read_text())["account"].partition(":")[2]
    allow(fleet.box.place / account)
    canary.watch(fleet.box.kept(account))
    asked = fleet.owner.asked()
    fleet.clone()
    done = fleet.recover()
    assert "box is a custodian of the kind program" in done.stderr and f"path={fleet.box.path}" in done.stderr
    assert second("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
    assert fleet.owner.asked() == asked, "the phone is not asked"
    assert second.status()["proven"] and second.status()["custodians"] == ["box", "phone"]
    assert not [text for text in second.status()["warnings"] if "nsec.enc" in text]
    assert "nsec.enc" not in git(second, "status", "--porcelain"), "the recovery copy stays as it is"
    second("daemon", "stop")
    fleet.file(second).unlink()
    second("daemon", "start", "-b")
    second.wait_state("unlocked")


@pytest.mark.slow
def test_git_talks_no_machine_into_anything(fleet: Fleet) -> None:
    """A machine that knows the vault lists what came, and uses it where a person names it."""
    second = fleet.second
    fleet.publish()
    fleet.clone()
    fleet.pair_second()
    fleet.owner.add("--shared")
    fleet.publish()
    second("sync")
    assert second.status()["custodians"] == ["phone"]
    assert [(each["name"], each["why"]) for each in fleet.shown(second)["offered"]] == [("box", None)]
    assert "not used here; to use it: avault custody take box" in second("custody", "list").stdout
    second("lock")
    asked = fleet.owner.asked()
    second("unlock")
    assert fleet.owner.asked() == asked + 1
    second("lock")
    second("unlock", "--with", "box")
    assert fleet.owner.asked() == asked + 1
    assert second.status()["custodians"] == ["phone"] and not fleet.own(second).exists(), "that was for once"
    second("lock")
    fleet.box.mode("unavailable")
    second("custody", "take", "box", "--yes", code=6)
    assert second.status()["custodians"] == ["phone"] and not [*second.own.glob("custody-box*")]
    fleet.box.mode("ok")
    second("custody", "take", "box", "--yes")
    assert second.status()["custodians"] == ["box", "phone"] and second.status()["state"] == "locked"
    second("unlock")
    assert fleet.owner.asked() == asked + 1
    assert fleet.shown(second)["offered"] == [] and fleet.shown(second)["custodians"][0]["shared"]


SWAPS: dict[str, Callable[[Fleet], None]] = {
    "another program": lambda fleet: change(fleet.file(fleet.second), settings={"path": "/bin/false", "person": "no"}),
    "asks nobody": lambda fleet: change(fleet.file(fleet.second), asks=True),
    "another's sealed copy": lambda fleet: change(fleet.file(fleet.second), sealed="A" * 200),
    "what a program is given": lambda fleet: change(fleet.file(fleet.second), kept="sops: another server"),
    "what was agreed to": lambda fleet: change(fleet.file(fleet.second), agreed="00" * 32),
    "unsigned": lambda fleet: change(fleet.file(fleet.second), signed=""),
    "signed by another": lambda fleet: change(fleet.file(fleet.second), **sign_as_another(fleet.file(fleet.second))),
    "another name": lambda fleet: change(fleet.file(fleet.second), custodian="boss"),
    "spaces in the signature": lambda fleet: respace(fleet.file(fleet.second)),
}


def sign_as_another(path: Path) -> dict[str, str]:
    content = avault.decode_file("custody", path.read_bytes(), str(path))
    unsigned = avault.Unsigned()
    unsigned.expect(avault.make_keys(), content)
    return unsigned.sign(content)


def respace(path: Path) -> None:
    signed = avault.decode_file("custody", path.read_bytes(), str(path))["signed"]
    change(path, signed=signed.replace(",", ", ", 1))


@pytest.mark.slow
def test_what_was_swapped_is_not_even_started(fleet: Fleet) -> None:
    """Neither on a machine that knows the agent, nor on one that was told who it is."""
    fleet.owner.add("--shared")
    fleet.publish()
    fleet.clone()
    path = fleet.file(fleet.second)
    good = path.read_bytes()
    assert "recover" in fleet.second("unlock", "--with", "box", code=5).stderr, "it has never opened this vault"
    for name, swap in SWAPS.items():
        path.write_bytes(good)
        swap(fleet)
        assert "signed" in fleet.recover(code=8).stderr or name == "another name", name
    fleet.pair_second()
    for name, swap in SWAPS.items():
        path.write_bytes(good)
        swap(fleet)
        for words in (("unlock", "--with", "box"), ("custody", "take", "box", "--yes")):
            fleet.second("lock")
            done = fleet.second(*words, code=None)
            assert done.returncode == 8, (name, done)
        [offered] = fleet.shown(fleet.second)["offered"]
        assert offered["why"] and "kind" not in offered, name
        assert not fleet.own(fleet.second).exists(), name


@pytest.mark.slow
def test_what_wraps_something_else_is_given_to_nobody(fleet: Fleet, canary: Canary) -> None:
    """What a custodian keeps goes to a program or a server: it is signed too."""
    machine, second = fleet.machine, fleet.second
    settings = ["wrap=cat", "unwrap=cat"]
    machine("custody", "add", "command", *settings, "--name", "box", "--shared", "--yes")
    fleet.publish()
    fleet.clone()
    content = avault.decode_file("custody", fleet.file(second).read_bytes(), "")
    bound = avault.bind(content["vault"], content["agent"], "box")
    other = avault.binascii.b2a_base64(f"{bound}\n{'01' * 32}\n".encode(), newline=False).decode()
    change(fleet.file(second), kept=other)
    assert "not signed by this vault's agent" in fleet.recover(code=8).stderr
    change(fleet.file(second), kept=content["kept"])
    fleet.recover()
    assert second.status()["state"] == "unlocked"


def test_a_swap_after_it_was_taken_in_changes_nothing(fleet: Fleet) -> None:
    second = fleet.second
    fleet.owner.add("--shared")
    fleet.publish()
    fleet.clone()
    fleet.recover()
    second("daemon", "stop")
    before = fleet.own(second).read_bytes()
    change(fleet.file(second), settings={"path": "/bin/false", "person": "no"})
    second("daemon", "start", "-b")
    second.wait_state("unlocked")
    assert fleet.own(second).read_bytes() == before
    assert "not signed by this vault's agent" in second("git", "record", code=None).json["reason"]
    assert "not signed" in fleet.shown(second)["offered"][0]["why"]


@pytest.mark.slow
def test_it_is_removed_for_all_and_git_keeps_what_was(fleet: Fleet) -> None:
    machine, second = fleet.machine, fleet.second
    fleet.owner.add("--shared")
    fleet.publish()
    old = git(machine, "rev-parse", "HEAD")
    fleet.clone()
    fleet.recover()
    done = machine("custody", "remove", "box", "--yes")
    assert "git history keeps what box opened" in done.stderr and "avault rotate agent" in done.stderr
    assert not fleet.file().exists() and not [*fleet.box.place.glob("box-*")]
    fleet.publish()
    assert git(machine, "log", "--format=", "--diff-filter=D", "--name-only").split() == ["custody-box.json"]
    git(machine, "cat-file", "-e", f"{old}:custody-box.json")
    second("sync")
    assert not fleet.file(second).exists() and fleet.own(second).exists()
    [row, _] = fleet.shown(second)["custodians"]
    assert row["shared"] is False and row["said"] == "the box is empty"


@pytest.mark.slow
def test_one_machine_stops_using_it(fleet: Fleet) -> None:
    second = fleet.second
    fleet.owner.add("--shared")
    fleet.publish()
    fleet.clone()
    fleet.pair_second()
    second("custody", "take", "box", "--yes")
    second("custody", "remove", "box", "--here", "--yes")
    assert second.status()["custodians"] == ["phone"] and fleet.file(second).exists()
    second("custody", "remove", "box", "--here", "--yes", code=2)
    fleet.machine("custody", "test", "box")
    second("forget", "--yes")
    fleet.machine("custody", "test", "box")


@pytest.mark.slow
def test_a_new_agents_key_is_shared_anew(fleet: Fleet, canary: Canary) -> None:
    """A machine that follows to the new key has its custodian with it."""
    machine, second = fleet.machine, fleet.second
    machine("set", "openai/API_KEY", input=canary.value)
    fleet.owner.add("--shared")
    fleet.owner.add("--shared", name="other")
    fleet.publish()
    fleet.clone()
    fleet.pair_second()
    second("custody", "take", "box", "--yes")
    machine("custody", "remove", "other", "--here", "--yes")
    second("sync")
    machine("sync")
    old, before = fleet.owner.agent(), fleet.file().read_bytes()
    done = machine("rotate", "agent", "--yes", "--json").json
    assert done["custodians"] == ["box"] and [each["name"] for each in done["left"]] == ["other"]
    assert fleet.owner.agent() != old and fleet.file().read_bytes() != before
    assert fleet.file().read_bytes() == fleet.own(machine).read_bytes()
    assert [each["name"] for each in fleet.shown(machine)["offered"]] == ["other"]
    assert "not signed by this vault's agent" in fleet.shown(machine)["offered"][0]["why"]
    fleet.publish()
    machine("lock")
    machine("unlock", "--with", "box")
    second("daemon", "stop")
    git(second, "pull", "-q", "--ff-only")
    second("recover", *fleet.names(), "--no-drill", "--bunker", "-", input=fleet.owner.phone.uri)
    assert fleet.own(second).read_bytes() == fleet.file(second).read_bytes()
    second("lock")
    second("unlock", "--with", "box")
    assert second("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"


@pytest.mark.slow
def test_two_machines_files_are_merged(fleet: Fleet) -> None:
    """Of two names both stay; of one name ours, and each machine goes on with its own."""
    machine, second = fleet.machine, fleet.second
    fleet.publish()
    fleet.clone()
    fleet.pair_second()
    fleet.owner.add("--shared", name="first")
    fleet.owner.add("--shared")
    fleet.publish()
    path = f"path={fleet.box.path}"
    second("custody", "add", "program", path, "--name", "second", "--shared", "--yes")
    second("custody", "add", "program", path, "--name", "box", "--shared", "--yes")
    wait_until(lambda: not git(second, "status", "--porcelain"), what="a commit of all", every=0.1)
    second("sync")
    ours = fleet.file(second).read_bytes()
    assert ours == fleet.own(second).read_bytes()
    machine("sync")
    assert fleet.file().read_bytes() == ours != fleet.own(machine).read_bytes()
    assert [each["name"] for each in fleet.shown(machine)["offered"]] == ["box", "second"]
    for each in (machine, second):
        each("custody", "test", "box")
    machine("custody", "take", "box", "--yes")
    assert [each["name"] for each in fleet.shown(machine)["offered"]] == ["second"]


@pytest.mark.slow
def test_what_is_of_one_machine_is_not_shared(fleet: Fleet) -> None:
    machine = fleet.machine
    for kind in ("keychain", "systemd"):
        assert "cannot be shared" in machine("custody", "add", kind, "--shared", "--yes", code=None).stderr
    with pytest.raises(avault.Usage, match="systemd cannot be shared"):
        avault.refuse_local("quorum", {"of": "aws-kms,systemd:disk"})
    fleet.owner.add("--shared")
    fleet.publish()
    fleet.clone()
    fleet.pair_second()
    path = f"path={fleet.box.path}"
    words = ["custody", "add", "program", path, "--name", "box", "--shared", "--yes"]
    assert "avault custody take box" in fleet.second(*words, code=2).stderr
    fleet.second("custody", "add", "program", path, "--name", "box", "--yes")
    fleet.second("custody", "take", "box", "--yes", code=2)


@pytest.mark.slow
def test_its_replacement_is_taken_in_by_a_person(fleet: Fleet) -> None:
    machine, second = fleet.machine, fleet.second
    fleet.owner.add("--shared")
    fleet.publish()
    fleet.clone()
    fleet.recover()
    fleet.owner.add("--shared", "--replace")
    fleet.publish()
    second("sync")
    [row, _], [offered] = fleet.shown(second)["custodians"], fleet.shown(second)["offered"]
    assert row["said"] == "the box is empty" and not row["shared"] and offered["name"] == "box"
    assert "avault custody take box" in second("doctor", code=None).stdout
    second("custody", "take", "box", "--yes")
    assert fleet.shown(second)["offered"] == [] and fleet.own(second).read_bytes() == fleet.file().read_bytes()
    machine("custody", "test", "box")


@pytest.mark.slow
def test_git_is_told_of_their_files(fleet: Fleet) -> None:
    machine = fleet.machine
    path = machine.vault / ".gitattributes"
    path.write_bytes(path.read_bytes().replace(b"custody-*.json -text -merge\n", b""))
    fleet.owner.add("--shared")
    assert path.read_bytes().endswith(b"custody-*.json -text -merge\n")
    fleet.publish()
    for name in ("custody-box.json", "custody-none.json"):
        said = git(machine, "check-attr", "merge", "text", "filter", "--", name)
        assert said.splitlines() == [f"{name}: merge: avault", f"{name}: text: unset", f"{name}: filter: unset"]


@pytest.mark.slow
def test_a_phoneless_vault_on_a_new_machine(machine: Machine, place, canary: Canary, allow: Callable[[Path], Path]) -> None:
    """The passphrase that opens it there opens it here too, and whoever types it agrees to changes."""
    init_with_passphrase(machine, canary)
    answers = allow(machine.top / "answers")
    answers.write_text(PHRASE + "\n")
    words = ["custody", "add", "passphrase", "log-n=16", "--name", "any", "--shared", "--yes"]
    machine(*words, "--passphrase-file", str(answers))
    status = machine.status()
    with Machine(place.top / "second") as second:
        shutil.copytree(machine.vault, second.vault, dirs_exist_ok=True)
        names = ["--agent", status["agent_npub"], "--signer-npub", status["signer_npub"]]
        second("recover", *names, "--with", "any", "--passphrase-file", str(answers))
        assert second.status()["custodians"] == ["any"]
        second("lock")
        second("unlock", "--with", "any", "--passphrase-file", str(answers))
        box = Box(second.top)
        words = ["custody", "add", "program", f"path={box.path}", "--name", "box", "--yes"]
        second(*words, "--passphrase-file", str(answers))


def test_no_more_is_signed_than_was_agreed_to() -> None:
    """Once, and as it was; what it keeps is known only then."""
    keys = avault.make_keys()
    content = dict.fromkeys(avault.STATED, "x")
    content["agent"] = avault.to_npub(avault.public_hex(keys))
    unsigned = avault.Unsigned()
    with pytest.raises(avault.Denied):
        unsigned.sign(content)
    for name in set(avault.STATED) - {"kept"}:
        unsigned.expect(keys, content)
        with pytest.raises(avault.Denied):
            unsigned.sign({**content, name: "another"})
        with pytest.raises(avault.Denied):
            unsigned.sign(content)
    unsigned.expect(keys, content)
    done = {**content, "kept": "wrapped"}
    done |= unsigned.sign(done)
    assert avault.is_shared(done) and not avault.is_shared({**done, "kept": "another"})
    assert not avault.is_shared({**done, "agent": avault.to_npub(avault.public_hex(avault.make_keys()))})


def test_where_another_machine_has_a_phone_no_custodian_agrees() -> None:
    vault = avault.Vault("00" * 16, "aa" * 32, "bb" * 32, "test")
    vault.state("machine/one", avault.render_machine("ada@one", ""), 1, "m")
    assert not avault.knows_phone(vault)
    vault.state("machine/two", avault.render_machine("ada@two", "cd" * 32), 1, "m")
    assert avault.knows_phone(vault)


class Desk:
    """A supervisor's part of a vault that no keyholder has open, and custodians that its agent has signed."""

    def __init__(self, example: Example) -> None:
        self.places, self.agent, self.writes = example.places, example.agent, 0
        self.custody = avault.Custody(self.places, None)  # type: ignore[arg-type]
        self.condition = avault.Condition(self.places, self.custody, lambda line: None)
        self.shared = avault.Shared(self.places)

    def wrote(self) -> None:
        self.writes += 1

    def sign(self, keys: nostr_sdk.Keys | None = None, **fields: Any) -> dict[str, Any]:
        keys = keys or self.agent
        content = {**dict.fromkeys(avault.STATED, "x"), "asks": False, "settings": {}, "custodian": "box", "kind": "command"}
        content |= {"agent": avault.to_npub(avault.public_hex(keys)), **fields}
        return {**content, "signed": avault.sign_text(keys, avault.state_custodian(content))}

    def retire(self, content: dict[str, Any], became: str, *given: dict[str, Any]) -> None:
        known = {avault.digest_shared(each): avault.describe_given(each) for each in given}
        self.custody.report = lambda: {"retired": {avault.digest_shared(content): became}, "given": known}

    def remove(self, **fields: Any) -> Any:
        return asyncio.run(avault.remove_custodian(self, {"name": "box", **fields}, {}))  # type: ignore[arg-type]


@pytest.fixture
def alone(tmp_path: Path) -> Desk:
    return Desk(Example(tmp_path))


@pytest.mark.parametrize("case", ["changed", "unsigned", "damaged", "of a key before", "of a key before, and used here"])
def test_what_was_swapped_is_not_said_to_be_taken_away(alone: Desk, case: str) -> None:
    """The true file would open the vault again, and nobody was asked."""
    content = alone.sign(nostr_sdk.Keys.generate() if "before" in case else None)
    if case == "unsigned":
        del content["signed"]
    alone.shared.save({**content, "kept": "y"} if case == "changed" else content)
    if case == "damaged":
        Path(alone.shared.path_of("box")).write_text("{}")
    if "used" in case:
        alone.shared.drop("box")
        alone.custody.custodians.save(content)
    with pytest.raises(avault.Tampered, match="its true file is not here"):
        alone.remove()
    assert alone.writes == 0 and ("used" in case or alone.shared.names() == ["box"])
    if "used" in case:
        alone.remove(here=True)
        assert not alone.custody.custodians.is_there("box")


def test_an_old_file_that_is_back_is_taken_away_again(alone: Desk) -> None:
    """And the agent's own, of a vault that is locked, is not."""
    alone.shared.save(content := alone.sign())
    with pytest.raises(avault.Locked):
        alone.remove()
    alone.retire(content, avault.REMOVED, content)
    alone.remove()
    assert alone.writes == 1 and alone.shared.names() == []


@pytest.mark.parametrize("became", [avault.REMOVED, avault.REPLACED])
def test_an_old_file_says_nothing_of_what_took_its_place(alone: Desk, became: str) -> None:
    """Who can push puts it there: where the vault knows of no other, nobody says that none is left."""
    alone.shared.save(old := alone.sign(kept="first"))
    alone.retire(old, became)
    with pytest.raises(avault.Tampered, match="an old file of box is taken away; whether another took its place is not known"):
        alone.remove()
    assert alone.writes == 1 and alone.shared.names() == []


@pytest.mark.parametrize("case", ["an old one", "a forged one", "one that the vault never knew"])
def test_what_the_vault_knows_is_taken_away_whatever_file_is_there(alone: Desk, case: str) -> None:
    old, new, other = (alone.sign(kept=each) for each in ("first", "second", "third"))
    there = {"an old one": old, "a forged one": {**new, "kept": "forged"}, "one that the vault never knew": other}[case]
    alone.custody.custodians.save(alone.sign(custodian="beside"))
    alone.custody.custodians.write(["phone", "beside"])
    alone.shared.save(there)
    alone.retire(old, avault.REPLACED, old, new)
    alone.condition.state, alone.condition.report = "unlocked", {"consent": "phone", "proven": True}
    alone.child = SimpleNamespace(control=True)  # type: ignore[attr-defined]
    wishes: list[dict[str, Any]] = []

    async def change(_: str, wish: dict[str, Any]) -> None:
        wishes.append(wish)

    alone.custody.change = change  # type: ignore[method-assign, assignment]
    why = {"an old one": "its old file is back", "a forged one": "not signed"}.get(
        case, "another than the one that this vault knows"
    )
    with pytest.raises(avault.Tampered, match=why):
        alone.custody.find_shared("box", None)
    told = alone.remove()
    [wish] = wishes
    assert wish["do"] == "retire" and wish["given"] is None and avault.digest_shared(new) in wish["digests"]
    assert (wish["custodian"], wish["kind"]) == ("box", "command") and told["shared"] and alone.shared.names() == []


@pytest.mark.parametrize("became", [None, avault.REMOVED, avault.REPLACED])
def test_a_machine_follows_to_no_custodian_that_is_used_no_more(alone: Desk, became: str | None) -> None:
    """After a rotation on another machine, which has shared it under the new key."""
    alone.custody.custodians.save(before := alone.sign(nostr_sdk.Keys.generate()))
    alone.shared.save(after := alone.sign())
    if became:
        alone.retire(after, became)
    alone.custody.follow(after["agent"])
    assert alone.custody.custodians.load("box") == (before if became else after)


@pytest.mark.slow
def test_it_is_taken_away_for_all_if_the_operator_agrees(fleet: Fleet) -> None:
    """As it was added for all. Other machines leave it at their next unlock, and no old file brings it back."""
    machine, second, owner = fleet.machine, fleet.second, fleet.owner
    owner.add("--shared")
    fleet.publish()
    fleet.clone()
    fleet.pair_second()
    second("custody", "take", "box", "--yes")
    second("lock")
    asked, before = owner.asked(), fleet.file().read_bytes()
    machine("lock")
    assert "locked" in machine("custody", "remove", "box", "--yes", code=3).stderr
    machine("unlock")
    owner.phone.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"])
    machine("custody", "remove", "box", "--yes", code=5)
    assert "opens test@machine NO MORE, on EVERY machine" in owner.sentence()
    assert fleet.file().read_bytes() == before == fleet.own(machine).read_bytes()
    owner.phone.behave("nip44_decrypt", misdeeds.HONEST)
    machine("custody", "remove", "box", "--yes")
    assert owner.asked() == asked + 2 and not fleet.file().exists()
    fleet.publish()
    second("unlock", "--with", "phone")
    second("sync")
    second("lock")
    second("unlock", "--with", "phone")
    assert second.status()["custodians"] == ["phone"] and not fleet.own(second).exists()


@pytest.mark.parametrize("became", [avault.REMOVED, avault.REPLACED])
@pytest.mark.parametrize("has_phone", [True, False])
def test_what_was_taken_away_opens_nothing_from_the_state_directory_either(alone: Desk, became: str, has_phone: bool) -> None:
    """Whoever writes the disk puts it there, and in the order. What was replaced goes on; and so does what no phone is beside."""
    vault, content = avault.Vault("v", avault.public_hex(alone.agent), avault.public_hex(alone.agent), "n"), alone.sign()
    vault.state(f"retired/{avault.digest_shared(content)}", became, 1, "m")
    vault.state("machine/m", avault.render_machine("db1", "ab" * 32 if has_phone else ""), 1, "m")
    kept = avault.KeptKey("box", content, b"", False)
    if became == avault.REMOVED and has_phone:
        with pytest.raises(avault.Tampered, match="was taken away"):
            kept.check(vault, alone.agent)
    else:
        kept.check(vault, alone.agent)
    with pytest.raises(avault.Tampered, match="not as it was agreed to"):  # whose signature was taken off
        avault.KeptKey("box", {**content, "signed": ""}, b"", False).check(vault, alone.agent)


def test_what_is_locked_knows_what_was_given_to_all(alone: Desk) -> None:
    """By its pin: a file of that name that the agent has signed, and nobody was given, is not even tried."""
    mine, other = alone.sign(kept="first"), alone.sign(kept="second")
    given = {avault.digest_shared(mine): json.dumps(avault.describe_given(mine))}
    pin = {"generation": {"m": 1}, "hash": "x", "retired": [], "given": given}
    Path(alone.places.own("pin.json")).write_bytes(avault.encode_file("pin", pin))
    alone.shared.save(mine)
    assert alone.custody.find_shared("box", None) == mine
    alone.shared.save(other)
    with pytest.raises(avault.Tampered, match="another than the one that this vault knows"):
        alone.custody.find_shared("box", None)


@pytest.mark.parametrize("case", ["given", "not given", "retired", "not shared"])
def test_an_add_for_all_that_was_cut_off_is_completed(alone: Desk, case: str) -> None:
    """The vault knew of it, and no machine had it: the one before was used no more, and nobody could take the new one."""
    before, content = alone.sign(kept="first"), alone.sign(kept="second")
    if case == "not shared":
        content["signed"] = ""
    alone.custody.custodians.save(before)
    alone.shared.save(before)
    alone.custody.custodians.save(content, candidate=True)
    alone.retire(content if case == "retired" else before, avault.REPLACED, *([content] if case != "not given" else []))
    alone.custody.complete_shared()
    wanted = content if case == "given" else before
    assert alone.shared.read("box") == alone.custody.custodians.load("box") == wanted
    assert (alone.custody.custodians.names(candidate=True) == []) == (case == "given")


@pytest.mark.parametrize("case", ["the client leaves", "the vault is locked", "the disk is full"])
async def test_what_the_vault_knows_is_in_a_file_whatever_ends_the_add(
    alone: Desk, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """The one before is used no more from the moment at which the vault knows the new one: nobody else has that."""
    before, content = alone.sign(kept="first"), alone.sign(kept="second")
    alone.custody.custodians.save(before)
    alone.shared.save(before)
    alone.condition.state, alone.condition.report = (
        "unlocked",
        {"consent": "phone", "proven": True, **dict.fromkeys(("identity", "name", "agent_npub"), "x")},
    )
    alone.child = SimpleNamespace(control=SimpleNamespace(send=lambda wish: None))  # type: ignore[attr-defined]
    known, may_end = asyncio.Event(), asyncio.Event()
    errands: list[str] = []

    async def change(_: str, wish: dict[str, Any]) -> None:
        assert wish["given"] == avault.digest_shared(content)
        alone.retire(before, avault.REPLACED, before, content)
        known.set()
        if case == "the vault is locked":
            raise avault.Locked("meanwhile")
        await may_end.wait()

    async def give(value: Any) -> Any:
        return value

    def fill(_: str, data: bytes, **__: Any) -> None:
        raise avault.Unavailable("the disk is full")

    alone.custody.change = change  # type: ignore[method-assign, assignment]
    monkeypatch.setattr(avault, "settle_custodian", lambda *_: give({"settings": {}, "asks": False}))
    monkeypatch.setattr(avault, "entrust_to", lambda *_: give(content))
    monkeypatch.setattr(avault, "try_custodian", lambda *_: give({"outcome": "ok"}))
    monkeypatch.setattr(avault, "run_errand", lambda _, action, *__: give({"outcome": errands.append(action) or "ok"}))
    request = {"kind": "command", "name": "box", "shared": True, "replace": True}
    adding = asyncio.create_task(avault.add_custodian(alone, request, {}))  # type: ignore[arg-type]
    await known.wait()
    if case == "the client leaves":
        adding.cancel()
        await asyncio.sleep(0)
    write = avault.write_file
    if case == "the disk is full":
        monkeypatch.setattr(avault, "write_file", fill)
    may_end.set()
    with pytest.raises((asyncio.CancelledError, avault.AvaultError)):
        await adding
    if case == "the client leaves":
        assert alone.shared.read("box") == content and errands == ["delete"]
    else:
        assert alone.shared.read("box") == before and errands == []
        if case == "the disk is full":
            with pytest.raises(avault.Unavailable):
                await avault.drop_candidate(alone, "box")  # type: ignore[arg-type]
        monkeypatch.setattr(avault, "write_file", write)
        await avault.drop_candidate(alone, "box")  # type: ignore[arg-type]
    assert alone.shared.read("box") == alone.custody.custodians.load("box") == content
    assert alone.custody.custodians.names(candidate=True) == []


@pytest.mark.parametrize("same", [True, False])
async def test_what_counts_keeps_its_key_where_its_add_was_cut_off(
    alone: Desk, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    """Between two writes it is there twice: the next add takes one away, and not the key of both."""
    forgotten: list[str] = []

    async def note(_: Any, action: str, content: dict[str, Any], *__: Any) -> dict[str, Any]:
        forgotten.append(f"{action} {content['account']}")
        return {"outcome": "ok"}

    monkeypatch.setattr(avault, "run_errand", note)
    content = {**alone.sign(account="box-1"), "signed": ""}
    alone.custody.custodians.save(content)
    alone.custody.custodians.save(content if same else {**content, "account": "box-2"}, candidate=True)
    await avault.drop_candidate(alone, "box")  # type: ignore[arg-type]
    assert forgotten == ([] if same else ["delete box-2"])
    assert alone.custody.custodians.names(candidate=True) == [] and alone.custody.custodians.names() == ["box"]


@pytest.mark.slow
def test_an_old_file_that_is_pushed_back_opens_nothing(fleet: Fleet) -> None:
    """Neither one that was replaced, nor one that was removed: not offered, not taken, not on a new machine."""
    machine, second, place = fleet.machine, fleet.second, fleet.owner.machine.top
    settings = ["wrap=cat", "unwrap=cat"]  # what is deleted there may still open
    words = ("custody", "add", "command", *settings, "--name", "box", "--shared", "--yes")
    machine(*words)
    old = fleet.file().read_bytes()
    machine(*words, "--replace")
    new = fleet.file().read_bytes()
    machine("custody", "remove", "box", "--yes")
    assert json.loads((machine.own / "pin.json").read_text())["retired"] == sorted(map(digest_of, (old, new)))
    fleet.publish()
    fleet.clone()
    fleet.pair_second()
    for content in (old, new):
        for each in (machine, second):
            fleet.file(each).write_bytes(content)
            for state in ("open", "locked"):
                [offered] = fleet.shown(each)["offered"]
                assert "its old file is back" in offered["why"], state
                assert "its old file is back" in each("custody", "take", "box", "--yes", code=8).stderr
                assert "its old file is back" in each("doctor", code=None).stdout
                if state == "open":
                    each("lock")
            assert "its old file is back" in each("unlock", "--with", "box", code=8).stderr
            fleet.file(each).unlink()
            each("unlock")
    with Machine(place / "third") as third:
        shutil.copytree(machine.vault, third.vault, dirs_exist_ok=True)
        fleet.file(third).write_bytes(old)
        done = third("recover", *fleet.names(), "--with", "box", code=8)
        assert "its old file is back" in done.stderr and third.status()["state"] != "unlocked"
        third("recover", *fleet.names(), "--no-drill", "--bunker", "-", input=fleet.owner.phone.uri)


@pytest.mark.slow
def test_what_is_replaced_or_taken_away_over_a_swapped_file_opens_nothing(fleet: Fleet) -> None:
    """The vault knows what it gave to all: neither a forged file nor an old one hides which that is."""
    machine = fleet.machine
    words = ("custody", "add", "command", "wrap=cat", "unwrap=cat", "--name", "box", "--shared", "--yes")
    machine(*words)
    old = fleet.file().read_bytes()
    machine("custody", "remove", "box", "--yes", "--here")
    change(fleet.file(), kept="forged")
    machine(*words, "--replace")
    new = fleet.file().read_bytes()
    retired = lambda: json.loads((machine.own / "pin.json").read_text())["retired"]  # noqa: E731
    assert retired() == [digest_of(old)]
    machine("custody", "remove", "box", "--yes", "--here")
    fleet.file().write_bytes(old)
    assert "its old file is back" in machine("custody", "take", "box", "--yes", code=8).stderr
    done = machine("custody", "remove", "box", "--yes", code=8)  # its key cannot be taken away: the old file does not say which
    assert "opens nothing any more, but still has its key" in done.stderr and "worth nothing" not in done.stderr
    assert "opens test@machine NO MORE, on EVERY machine" in fleet.owner.sentence()
    assert retired() == sorted(map(digest_of, (old, new)))
    fleet.file().write_bytes(new)
    machine("lock")
    assert "its old file is back" in machine("unlock", "--with", "box", code=8).stderr


def digest_of(data: bytes) -> str:
    return avault.digest_shared(avault.decode_file("custody", data, ""))


@pytest.mark.slow
def test_where_the_vault_on_the_disk_knows_more_than_the_pin(fleet: Fleet) -> None:
    """Git has brought both while it was locked: what the vault says, once it is open, counts."""
    machine, second = fleet.machine, fleet.second
    words = ("custody", "add", "command", "wrap=cat", "unwrap=cat", "--name", "box", "--shared", "--yes")
    machine(*words)
    fleet.publish()
    fleet.clone()
    fleet.pair_second()
    old = fleet.file().read_bytes()
    second("daemon", "stop")
    machine("custody", "remove", "box", "--yes")
    fleet.publish()
    git(second, "pull", "-q", "--ff-only")
    fleet.file(second).write_bytes(old)
    for words in (("unlock", "--with", "box"), ("custody", "take", "box", "--yes")):
        assert "its old file is back" in second(*words, code=8).stderr
        assert second.status()["state"] == "locked" and not fleet.own(second).exists()
