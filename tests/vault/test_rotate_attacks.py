"""A rotation, where somebody has the old key, or writes to the disk beside it: nothing of his comes under the new one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nostr_sdk
import peers
import pytest
from box import Box
from canary import Canary
from git_helpers import git_run
from harness import Machine
from peers import Relay
from test_custody import Owner

import avault

pytestmark = pytest.mark.usefixtures("forks")
THIEF = "f" * 16  # the machine as which he writes


@pytest.fixture
def owner(machine: Machine, relay: Relay) -> Iterator[Owner]:
    operator = nostr_sdk.Keys.generate()
    with peers.rogue([relay.url], nsec=operator.secret_key().to_bech32()) as phone:
        yield Owner(machine, phone, operator)


def decode(kind: str, path: Path) -> dict[str, Any]:
    return dict(avault.decode_file(kind, path.read_bytes(), str(path)))


def steal(owner: Owner) -> nostr_sdk.Keys:
    """The agent's key, as the operator's key opens nsec.enc."""
    content = decode("nsec", owner.machine.vault / "nsec.enc")
    answer = avault.decrypt(owner.operator, avault.parse_npub(content["agent"]), content["envelope"])
    return avault.open_nsec(content, answer)


def push(machine: Machine, keys: nostr_sdk.Keys, change: Callable[[avault.Vault], None]) -> None:
    """What who has the agent's key puts into the vault's directory, as a `git pull` would."""
    path = machine.vault / "avault.enc"
    vault = avault.open_vault(path.read_bytes(), keys)
    draft = vault.copy()
    draft.sources = [avault.sha256(path.read_bytes()).hex()]
    change(draft)
    draft.generation = dict(sorted({**draft.generation, THIEF: draft.generation.get(THIEF, 0) + 1}.items()))
    new = path.with_name("new")
    new.write_bytes(avault.seal_vault(draft, keys))
    new.rename(path)


def custodian(owner: Owner, name: str, kind: str, settings: dict[str, str], asks: bool = False) -> Path:
    """A custodian's file that somebody else wrote."""
    unlock = decode("unlock", owner.machine.own / "unlock.json")
    names = {each: unlock[each] for each in ("vault", "name", "agent", "operator")}
    about = {"custodian": name, "kind": kind, "account": name, "asks": asks, "settings": settings}
    path = owner.machine.own / f"custody-{name}.json"
    path.write_bytes(avault.encode_file("custody", {**about, "kept": None, **names, "sealed": "x", "agreed": "00" * 32}))
    path.chmod(0o600)
    return path


# Custodians


def test_one_that_nobody_agreed_to_gets_nothing(owner: Owner) -> None:
    machine = owner.machine
    custodian(owner, "evil", "program", {"path": str(owner.box.path), "options": "", "person": "no"})
    done = machine("rotate", "agent", "--yes")
    assert "evil does not open this vault any more: it is not as it was agreed to" in done.stderr
    assert not [each for each in owner.box.place.iterdir() if each.name.startswith("evil")]


@pytest.mark.parametrize("field", ["path", "kind", "asks"])
def test_one_that_was_changed_since_gets_nothing(owner: Owner, field: str) -> None:
    machine = owner.machine
    owner.add()
    (machine.top / "other").mkdir()
    evil = Box(machine.top / "other")
    before = sorted(evil.place.iterdir())
    path = machine.own / "custody-box.json"
    content = decode("custody", path)
    changes = {
        "path": {"settings": {**content["settings"], "path": str(evil.path)}},
        "kind": {"kind": "command"},
        "asks": {"asks": not content["asks"]},
    }
    path.write_bytes(avault.encode_file("custody", {**content, **changes[field]}))
    done = machine("rotate", "agent", "--yes", "--json")
    assert done.json["custodians"] == [] and [each["name"] for each in done.json["left"]] == ["box"]
    assert sorted(evil.place.iterdir()) == before


def test_the_operator_is_told_who_opens_it(owner: Owner) -> None:
    machine, alice = owner.machine, nostr_sdk.Keys.generate().public_key().to_bech32()
    owner.add()
    machine("operator", "add", alice, "--name", "alice", "--yes")
    machine("rotate", "agent", "--yes")
    box = f"box (program) at {owner.box.path} on {avault.place_name()} WITHOUT anybody, always"
    assert f"Besides you it is opened by: alice ({alice[:19]}…); {box}. Approve" in owner.sentence()
    assert machine.status()["operators"] == {"alice": alice}
    machine("rotate", "agent", "--yes")  # what was agreed to then is agreed to under the new key
    assert owner.order() == ["box", "phone"]


def test_a_persons_refusal_ends_it(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = owner.machine
    (machine.top / "second").mkdir()
    asks, answers = Box(machine.top / "second"), machine.top / "answers"
    answers.write_text("x\n" * 9)
    answers.chmod(0o600)
    words = ("program", f"path={asks.path}", "person=yes", "--name", "asks", "--passphrase-file", str(answers), "--yes")
    machine("custody", "add", *words)
    asks.mode("denied")
    before = owner.agent()
    for name, value in machine.env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(avault.Denied):
        avault.ask_daemon(avault.Places(), "rotate", action="agent", answers=str(answers))
    assert machine.status()["agent_npub"] == owner.agent() == before


# Operators, and what else is a fact


def test_an_operator_whom_the_thief_put_there_is_named(owner: Owner, canary: Canary) -> None:
    """A person who is told of him refuses; here it is agreed to, so that the sentence can be looked at."""
    machine, thief = owner.machine, nostr_sdk.Keys.generate()
    push(machine, steal(owner), lambda vault: vault.state("operator/zed", avault.public_hex(thief), 1, THIEF))
    machine("list")
    machine("rotate", "agent", "--yes")
    assert f"zed ({thief.public_key().to_bech32()[:19]}…)" in owner.sentence()


def test_who_came_after_the_operator_agreed_is_not_carried_over(owner: Owner) -> None:
    """The rotation is for those of whom the operator was told."""
    keys, first, thief = (nostr_sdk.Keys.generate() for _ in range(3))
    vault = avault.Vault("00" * 16, avault.public_hex(keys), avault.public_hex(first), "test")
    store = avault.Store(avault.Places(), keys, vault, "")
    told = {"": avault.public_hex(first)}
    vault.state("operator/zed", avault.public_hex(thief), 1, THIEF)
    vault.state("operator/x y/z", avault.public_hex(thief), 1, THIEF)
    draft = avault.renew_vault(store, nostr_sdk.Keys.generate(), told)
    assert draft.operators() == [avault.public_hex(first)] and not draft.facts_of("operator")
    shown, hidden = (nostr_sdk.Keys.generate() for _ in range(2))
    values = ((shown, 2, "a" * 16), (hidden, 1, THIEF))
    vault.facts["operator/bob"] = [avault.Secret(avault.public_hex(each), 1, at, machine, 1) for each, at, machine in values]
    told["bob"] = avault.public_hex(shown)
    draft = avault.renew_vault(store, nostr_sdk.Keys.generate(), told)
    assert [each.value for each in draft.facts["operator/bob"]] == [told["bob"]], "no merge brings up another"
    vault.state(avault.SUCCEEDED, avault.public_hex(thief), 1, THIEF)
    with pytest.raises(avault.Denied, match="changed meanwhile"):
        avault.renew_vault(store, nostr_sdk.Keys.generate(), told)


def test_a_recovery_copy_that_leads_to_another_branch_is_made_anew(owner: Owner) -> None:
    """Who has a key that was rotated away makes one; the vault beside it is the agent's as before."""
    machine, old, evil = owner.machine, steal(owner), nostr_sdk.Keys.generate()
    machine("rotate", "agent", "--yes")
    path = machine.vault / "nsec.enc"
    identity = decode("nsec", path)["vault"]
    content = avault.seal_nsec(evil, identity, avault.public_hex(owner.operator), "test@machine", "h")
    said = [avault.make_statement(old, identity, avault.public_hex(evil))]
    path.write_bytes(avault.encode_file("nsec", {**content, "rotated": said}))
    warnings = " ".join(machine.status()["warnings"])
    assert "was made anew: one agent's key of this vault was rotated to two" in warnings
    assert decode("nsec", path)["agent"] == owner.agent()
    machine("lock")
    machine("unlock")


NO_POINT = "05" * 31 + "01"


@pytest.mark.parametrize(
    ("fact", "text"),
    [
        ("agent/poison", "zz"), ("agent/poison", '{"statement": 1}'), ("agent/poison", "[]"), ("operator/poison", "zz"),
        ("operator/poison", NO_POINT), ("operator/phone", "point"), ("operator/x y/z", "point"), ("operator/", "point"),
        (avault.SUCCEEDED, "zz"), (avault.SUCCEEDED, NO_POINT),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_what_can_be_no_fact_harms_nothing(owner: Owner, canary: Canary, fact: str, text: str) -> None:
    machine, old = owner.machine, owner.agent()
    machine("set", "openai/API_KEY", input=canary.value)
    said = nostr_sdk.Keys.generate().public_key().to_hex() if text == "point" else text
    push(machine, steal(owner), lambda vault: vault.state(fact, said, 1, THIEF))
    assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
    machine("lock")
    machine("unlock")
    machine("rotate", "agent", "--yes")
    assert owner.agent() != old and machine.status()["operators"] == {}


def test_points_of_the_curve() -> None:
    """As the library sees it: what it can encrypt to."""
    me = nostr_sdk.Keys.generate()
    texts = [NO_POINT, "00" * 32, "ff" * 32, "zz" * 32, "", "01" * 32, "02" * 32, "aa" * 32, "bb" * 32]
    texts += [nostr_sdk.Keys.generate().public_key().to_hex() for _ in range(8)]
    texts += [os.urandom(32).hex() for _ in range(64)]
    for text in texts:
        can_be = False
        with contextlib.suppress(nostr_sdk.NostrSdkError):
            avault.encrypt(me, text, "text")
            can_be = True
        assert avault.is_public_key(text) == can_be, text
    assert not avault.is_public_key(me.public_key().to_hex().upper())


# The old key, by git


@pytest.mark.slow
def test_sync_does_not_undo_it(owner: Owner, place, canary: Canary) -> None:
    machine, remote = owner.machine, place.top / "remote.git"
    config = "[user]\nname = Ada\nemail = ada@example.com\n[init]\ndefaultBranch = main\n"
    (machine.home / ".gitconfig").write_text(config)
    git_run(machine, "init", "-q", "--bare", str(remote))
    git_run(machine, "init", "-q")
    git_run(machine, "config", "avault.push", "false")
    git_run(machine, "remote", "add", "origin", str(remote))
    machine("set", "openai/API_KEY", input=canary.value)
    machine("git", "record")
    git_run(machine, "push", "-q", "-u", "origin", "main")
    with Machine(place.top / "c", vault=place.top / "c" / "vault") as other:
        (other.home / ".gitconfig").write_text(config)
        git_run(machine, "clone", "-q", str(remote), str(other.vault))
        git_run(other, "config", "avault.push", "false")
        words = ["recover", "--agent", owner.agent(), "--signer-npub", owner.npub(), "--no-drill", "--bunker", "-"]
        other(*words, input=owner.phone.uri)
        other("sync")
        machine("sync")
        machine("rotate", "agent", "--yes")
        machine("set", "later/KEY", input=canary.new("later"))
        machine("sync")
        refused = other("sync", code=3).stderr
        assert "was rotated on another machine" in refused and f"avault recover --agent {owner.agent()}" in refused
        git_run(other, "merge", "-q", "-s", "ours", "--no-edit", "origin/main")
        git_run(other, "push", "-q", "origin", "HEAD:main")
        before = (machine.vault / "avault.enc").read_bytes()
        assert "does not open" in machine("sync", code=8).stderr
        assert (machine.vault / "avault.enc").read_bytes() == before
        assert machine("get", "later/KEY", secret=True).stdout == canary.new("later") + "\n"


# A phone of nobody


def test_a_phone_that_cannot_be_taken_away_does_not_keep_the_vault_from_locking(owner: Owner) -> None:
    machine, own = owner.machine, owner.machine.own
    npub = nostr_sdk.Keys.generate().public_key().to_bech32()
    machine("lock")
    custodian(owner, "alice", "phone", {"operator": npub, "relays": "ws://127.0.0.1:9", "bunker": "no"}, asks=True)
    (own / "elsewhere.json").write_bytes(avault.encode_file("custodians", {"order": ["phone", "alice"], "opened": {}}))
    with contextlib.suppress(FileNotFoundError):
        (own / "custodians.json").unlink()
    (own / "custodians.json").symlink_to(own / "elsewhere.json")
    machine("unlock")
    status = machine.status()
    assert status["state"] == "unlocked"
    machine("lock")
    with pytest.raises(ProcessLookupError):
        os.kill(status["keyholder_pid"], 0)
