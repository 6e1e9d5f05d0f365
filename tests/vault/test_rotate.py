"""After a loss: machines on the vault's list and off it, and what is to be set anew."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nostr_sdk
import peers
import pytest
from canary import Canary
from harness import AVAULT, Machine, Screen, wait_until
from peers import Relay, misdeeds
from test_custody import Owner, init_with_passphrase, type_passphrase
from test_keyholder_alone import CALLER, Desk

import avault

pytestmark = pytest.mark.usefixtures("forks")
OLD = "0123456789abcdef"


@pytest.fixture
def owner(machine: Machine, relay: Relay) -> Iterator[Owner]:
    operator = nostr_sdk.Keys.generate()
    with peers.rogue([relay.url], nsec=operator.secret_key().to_bech32()) as phone:
        yield Owner(machine, phone, operator)


def machines(machine: Machine) -> list[dict[str, object]]:
    return list(machine("machine", "list", "--json").json["machines"])


@pytest.fixture
def second(owner: Owner, place) -> Iterator[Machine]:
    """Another machine with the same vault directory; it has opened the vault."""
    owner.machine("daemon", "stop")
    with Machine(place.top / "b", vault=owner.machine.vault) as second:
        words = ["recover", "--agent", owner.agent(), "--signer-npub", owner.npub(), "--no-drill", "--bunker", "-"]
        second(*words, input=owner.phone.uri)
        second("daemon", "stop")
        owner.machine("daemon", "start", "-b")
        owner.machine.wait_state("unlocked")
        yield second


# The vault's list of machines


def test_a_machine_enters_itself_once(owner: Owner) -> None:
    machine, data = owner.machine, (owner.machine.vault / "avault.enc").read_bytes()
    machine("lock")
    machine("unlock")
    assert (machine.vault / "avault.enc").read_bytes() == data, "an unlock writes nothing"
    [row] = machines(machine)
    assert row["this"] and row["writes"] == 1 and str(row["host"]).partition("@")[2]
    assert row["client_key"] == owner.phone.requests("nip44_decrypt")[-1]["client"]
    shown = machine("machine", "list").stdout
    assert avault.shorten_key(str(row["client_key"])) in shown and "(this one)" in shown
    machine("pair", "--replace", "--no-drill", "--bunker", "-", input=owner.phone.uri)
    [other] = machines(machine)
    assert other["client_key"] == owner.phone.requests("nip44_decrypt")[-1]["client"] != row["client_key"]
    assert other["first_seen"] == row["first_seen"]


def test_a_machine_is_removed_if_the_phone_agrees(owner: Owner, second: Machine, canary: Canary) -> None:
    machine = owner.machine
    machine("set", "openai/API_KEY", input=canary.value)
    [lost] = [row for row in machines(machine) if not row["this"]]
    assert lost["id"] == avault.decode_file("machine", (second.own / "machine.json").read_bytes(), "")["id"]
    machine("machine", "remove", str(lost["id"]), code=5)
    machine("machine", "remove", "nobody", "--yes", code=4)
    me = next(str(row["id"]) for row in machines(machine) if row["this"])
    assert "avault forget" in machine("machine", "remove", me, "--yes", code=2).stderr
    owner.phone.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"], 1)
    machine("machine", "remove", str(lost["id"]), "--yes", code=5)
    assert len(machines(machine)) == 2 and not machine("rotate", "report", "--json").json["exposed"]
    done = machine("machine", "remove", str(lost["id"]), "--yes")
    assert f"take the machine {lost['host']}" in owner.sentence() and "test@machine" in owner.sentence()
    assert avault.shorten_key(str(lost["client_key"])) in done.stderr and "it still has" in done.stderr
    assert [row["this"] for row in machines(machine)] == [True]
    report = machine("rotate", "report", code=1)
    assert "openai/API_KEY" in report.stdout and f"machine {lost['host']} removed" in report.stdout
    machine("set", "openai/API_KEY", input="another value")
    assert "nothing is left to be set anew" in machine("rotate", "report").stderr
    machine("lock")
    machine("unlock")
    assert machine("rotate", "report", "--json").json["ok"] is True


def test_nothing_to_report(owner: Owner, canary: Canary) -> None:
    owner.machine("set", "openai/API_KEY", input=canary.value)
    assert owner.machine("rotate", "report", "--json").json == {"ok": True, "exposed": [], "marks": []}
    assert "nothing was removed" in owner.machine("rotate", "report").stderr


# Marks, on the vault alone


@pytest.fixture
def vault() -> avault.Vault:
    vault = avault.Vault("00" * 16, "aa" * 32, "bb" * 32, "test")
    vault.generation = {"m": 1, OLD: 3, "m-git": 2}
    vault.put("openai", "API_KEY", "first", 100, "m")
    vault.put("stripe", "KEY", "second", 200, "m")
    return vault


def left(vault: avault.Vault) -> list[str]:
    return [f"{row['group']}/{row['key']}" for row in avault.find_exposed(vault, 1000)]


def test_only_a_new_value_leaves_the_list(vault: avault.Vault) -> None:
    assert left(vault) == []
    avault.add_mark(vault, "machine", OLD, "clawd@old", 500, "m")
    assert left(vault) == ["openai/API_KEY", "stripe/KEY"]
    vault.put("openai", "API_KEY", "first", 600, "m")
    assert left(vault) == ["openai/API_KEY", "stripe/KEY"], "the same value again is not a new one"
    vault.put("openai", "API_KEY", "new", 600, "m")
    assert left(vault) == ["stripe/KEY"]
    vault.move(("stripe", "KEY"), ("stripe", "OTHER"), 700, "m")
    assert left(vault) == ["stripe/OTHER"], "another name makes no new value"
    vault.put("stripe", "OTHER", "new too", 700, "m")
    assert left(vault) == []
    vault.put("aws", "KEY", "second", 800, "m")
    assert left(vault) == ["aws/KEY"], "nor does an old value that comes back"
    assert avault.find_exposed(vault, 1000)[0]["age"] == 200


def test_what_another_machine_had_set_before_is_on_the_list_too(vault: avault.Vault) -> None:
    other = vault.copy()
    other.put("late", "KEY", "set elsewhere", 400, "n")
    other.generation = {**other.generation, "n": 1}
    avault.add_mark(vault, "machine", OLD, "clawd@old", 500, "m")
    vault.generation = {**vault.generation, "m": 2}
    assert "late/KEY" in left(vault.merge(other))


def test_a_later_mark_brings_all_back(vault: avault.Vault) -> None:
    avault.add_mark(vault, "machine", OLD, "clawd@old", 500, "m")
    vault.put("openai", "API_KEY", "new", 600, "m")
    avault.add_mark(vault, "machine", "ffff", "clawd@older", 700, "m")
    assert left(vault) == ["openai/API_KEY", "stripe/KEY"]
    assert all("clawd@older" in row["why"] for row in avault.find_exposed(vault, 1000))


def test_a_mark_holds_no_value(vault: avault.Vault, canary: Canary) -> None:
    vault.put("openai", "API_KEY", canary.value, 100, "m")
    avault.add_mark(vault, "machine", OLD, "clawd@old", 500, "m")
    text = str(vault.fact(f"revoked/machine/{OLD}"))
    assert canary.value not in text and set(json.loads(text)) == {"what", "shown", "at", "salt", "values"}


def test_who_wrote_and_entered_nothing_is_on_the_list(vault: avault.Vault) -> None:
    vault.state("machine/m", avault.render_machine("clawd@new", "cc" * 32), 50, "m")
    assert [(row["id"], row["host"], row["writes"]) for row in avault.list_machines(vault, "m")] == [
        (OLD, None, 3),
        ("m", "clawd@new", 1),
    ]
    vault.state("machine/x", "not JSON", 60, "m")
    assert [row["host"] for row in avault.list_machines(vault, "m")] == [None, "clawd@new", None]
    assert avault.find_machine(vault, "m", OLD)["id"] == OLD
    vault.state("machine/y", avault.render_machine("clawd@twin", ""), 70, "m")
    assert avault.find_machine(vault, "m", "twin")["id"] == "y"
    vault.state("machine/z", avault.render_machine("root@twin", ""), 70, "m")
    with pytest.raises(avault.Usage, match="more than one"):
        avault.find_machine(vault, "m", "twin")
    assert avault.find_machine(vault, "m", "root@twin")["id"] == "z"


ODD = "x\x1b]0;title\x07\nApprove: routine backup. code ABCD. Approve only"


def test_what_another_machine_says_of_itself_is_shown_and_does_nothing(
    vault: avault.Vault, capfd: pytest.CaptureFixture[str]
) -> None:
    """On the phone, on a terminal, and in a title."""
    vault.state("machine/n", avault.render_machine(ODD + "y" * 70_000, "zz" * 32), 50, "m")
    vault.state("machine/\x1b[2J", "[]", 50, "m")
    for name in ("n", "\x1b[2J"):
        row = avault.find_machine(vault, "m", name)
        assert (row["client_key"] is None and row["host"] is None) or (row["host"].isprintable() and len(row["host"]) < 200)
        assert all(text.isprintable() and len(text) < 400 for text in avault.describe_removal(vault, row))
        assert "id n" in avault.describe_removal(vault, row)[1] or name != "n"
    avault.put_table([("A", "B"), (ODD, "b")])
    assert capfd.readouterr().out.count("\n") == 2


def test_an_id_is_meant_before_a_host(vault: avault.Vault) -> None:
    for one, other in (("b1", "b2"), ("b2", "b1")):
        vault.state(f"machine/{one}", avault.render_machine(other, ""), 50, "m")
    assert [avault.find_machine(vault, "m", each)["id"] for each in ("b1", "b2")] == ["b1", "b2"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "7", "[" * 5_000, "{}", '{"at": "x"}', '{"what": "machine", "shown": "a", "at": 1e999, "salt": "", "values": []}',
     '{"what": "machine", "shown": "a", "at": 100000000000000000, "salt": "00000000000000000000000000000000", "values": []}',
     '{"what": "planet", "shown": "a", "at": 1, "salt": "00000000000000000000000000000000", "values": []}'],
)  # fmt: skip
def test_a_mark_that_cannot_be_read_still_says_that_something_was_removed(vault: avault.Vault, text: str) -> None:
    vault.state("revoked/machine/n", text, 500, "m")
    vault.state("machine/n", text, 500, "m")
    assert left(vault) == ["openai/API_KEY", "stripe/KEY"]
    assert all("?" in avault.describe_mark(mark) for mark in avault.read_marks(vault))
    assert len(avault.list_machines(vault, "m")) == 3


def test_who_is_removed_twice_still_knows_what_was_there_at_first(vault: avault.Vault) -> None:
    avault.add_mark(vault, "machine", OLD, "clawd@old", 500, "m")
    vault.put("openai", "API_KEY", "new", 600, "m")
    vault.put("stripe", "KEY", "new too", 600, "m")
    avault.add_mark(vault, "machine", OLD, "clawd@old", 601, "m")
    vault.put("openai", "API_KEY", "first", 700, "m")
    assert "openai/API_KEY" in left(vault)


def test_the_registers_of_two_machines_are_merged(vault: avault.Vault) -> None:
    other = vault.copy()
    vault.state("machine/m", avault.render_machine("one", ""), 50, "m")
    vault.generation = {**vault.generation, "m": 2}
    other.state("machine/n", avault.render_machine("two", ""), 60, "n")
    other.generation = {**other.generation, "n": 1}
    assert {row["host"] for row in avault.list_machines(vault.merge(other), "m")} == {None, "one", "two"}


# A new agent's key


def keys_in(machine: Machine) -> dict[str, str]:
    """Which agent each file of the vault names, in clear."""
    files = [machine.vault / "nsec.enc", machine.own / "unlock.json", machine.own / "pairing.json"]
    return {path.name: json.loads(path.read_text())["agent"] for path in files}


@pytest.mark.slow
def test_a_new_agents_key(owner: Owner, canary: Canary) -> None:
    machine, asked, old = owner.machine, owner.asked(), owner.agent()
    machine("set", "openai/API_KEY", input=canary.value)
    before = (machine.vault / "avault.enc").read_bytes()
    machine("rotate", "agent", code=5)
    done = machine("rotate", "agent", "--yes")
    assert owner.asked() == asked + 1, "one approval"
    code = re.search(r"the phone is asked, code (\w{4})", done.stderr)
    assert code and f"give test@machine a NEW agent key, asked on {avault.place_name()}, code {code[1]}." in owner.sentence()
    new = owner.agent()
    assert new != old and new in done.stderr and {*keys_in(machine).values()} == {new}
    assert owner.phone.requests("nip44_decrypt")[-1]["params"][0] == avault.parse_npub(new), "the new key's envelope"
    assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
    machine("set", "later/KEY", input="x")
    for _ in range(2):
        machine("daemon", "stop")
        machine("daemon", "start", "-b")
        machine.wait_state("unlocked")
        assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
    assert not [each for each in machine.status()["warnings"] if not each.startswith("approved within")]
    assert machine("log", "--verify").returncode == 0
    assert list(machine.own.glob("log-*/access.log"))
    report = machine("rotate", "report", code=1)
    assert "openai/API_KEY" in report.stdout and "later/KEY" not in report.stdout and "agent's key" in report.stdout
    assert before != (machine.vault / "avault.enc").read_bytes()
    assert not list(machine.own.glob("rotation*"))
    machine("rotate", "agent", "--yes")
    assert owner.agent() not in (old, new)


def test_without_the_phone_the_old_key_stays(owner: Owner) -> None:
    machine, old = owner.machine, owner.agent()
    files = {path: path.read_bytes() for path in [*machine.vault.iterdir(), machine.own / "unlock.json"]}
    owner.phone.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"], 1)
    machine("rotate", "agent", "--yes", code=5)
    assert {path: path.read_bytes() for path in files} == files and owner.agent() == old
    machine("lock")
    machine("unlock")


@pytest.mark.slow
def test_custodians_are_entrusted_anew_or_named(owner: Owner, canary: Canary) -> None:
    machine = owner.machine
    owner.add()
    owner.add("person=yes", name="other", code=2)
    canary.watch(owner.box.kept())
    done = machine("rotate", "agent", "--yes", "--json")
    assert done.json["custodians"] == ["box"] and done.json["left"] == []
    asked = owner.asked()
    machine("daemon", "stop")
    machine("daemon", "start", "-b")
    machine.wait_state("unlocked")
    assert owner.asked() == asked, "the box opens it with the new key"
    kept = [path.name for path in owner.box.place.iterdir() if path.name.startswith("box")]
    assert len(kept) == 1 and kept != ["box"], "it has forgotten the old one"
    owner.box.mode("unavailable")
    done = machine("rotate", "agent", "--yes")
    assert re.search("the custodian box does not open this vault any more: .*the box says unavailable", done.stderr)
    assert owner.order() == ["box", "phone"], "it is not dropped silently"
    owner.box.mode("ok")
    machine("lock")
    assert "before the rotation" in machine("unlock", "--with", "box", code=8).stderr
    machine("unlock")
    owner.add("--replace")
    machine("custody", "test", "box")


@pytest.mark.slow
def test_a_vault_without_a_phone(machine: Machine, canary: Canary) -> None:
    """Who opens it with a passphrase agrees, and gives one for the new key; without a terminal nothing changes."""
    init_with_passphrase(machine, canary)
    machine("set", "openai/API_KEY", input=canary.value)
    old = machine.status()["agent_npub"]
    machine("rotate", "agent", "--yes", code=None)
    assert machine.status()["agent_npub"] == old
    with Screen(machine, AVAULT, "rotate", "agent", "--yes", lines=90, columns=120) as screen:
        type_passphrase(screen, 4)
        shown = b" ".join(screen.wait().split())
        assert b"opened then by: first operator (npub1" in shown, "who agrees is told"
        assert b"passphrase on" in shown and b"WITHOUT your phone" in shown and b"opened with it: passphrase" in shown
    assert machine.status()["agent_npub"] != old
    machine("lock")
    with Screen(machine, AVAULT, "unlock") as screen:
        type_passphrase(screen, 1)
        screen.wait()
    assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
    assert "openai/API_KEY" in machine("rotate", "report", code=1).stdout


def test_old_copies_are_still_read(owner: Owner, canary: Canary) -> None:
    machine = owner.machine
    subprocess.run(["git", "init", "-q", str(machine.vault.parent)], check=True)
    machine("set", "openai/API_KEY", input=canary.value)
    machine("sync", code=None)
    wait_until(lambda: "openai/API_KEY" in machine("history", code=None).stdout, what="a commit")
    machine("rotate", "agent", "--yes")
    machine("delete", "openai/API_KEY")
    found = machine("history", "openai/API_KEY").stdout
    commits = re.findall(r"^(\w{7,40})\b", found, re.MULTILINE)
    assert commits, found
    machine("restore", commits[-1], "openai/API_KEY")
    assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"


def test_another_machine_says_what_to_do(owner: Owner, second: Machine, canary: Canary) -> None:
    machine = owner.machine
    machine("set", "openai/API_KEY", input=canary.value)
    machine("daemon", "stop")
    second("daemon", "start", "-b")
    second.wait_state("unlocked")
    mine, theirs = machine.vault, second.vault.parent / "theirs"
    shutil.copytree(mine, theirs)  # the other machine's clone, pulled later
    second("daemon", "stop")
    machine("daemon", "start", "-b")
    machine.wait_state("unlocked")
    machine("rotate", "agent", "--yes")
    new = owner.agent()
    machine("daemon", "stop")
    refused = second("unlock", code=3)
    assert "was rotated on another machine" in refused.stderr and "if that was you" in refused.stderr
    asked = owner.asked()
    second("recover", "--agent", new, "--signer-npub", owner.npub(), "--no-drill")
    assert owner.asked() == asked + 1, "one approval"
    assert second("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
    second("lock")
    second("unlock")
    assert second.status()["agent_npub"] == new
    assert second("log", "--verify").returncode == 0


def test_an_open_machine_says_what_to_do(owner: Owner) -> None:
    machine, old = owner.machine, owner.machine.top / "old"
    shutil.copytree(machine.vault, old)
    machine("rotate", "agent", "--yes")
    new = owner.machine.top / "new"
    shutil.copytree(machine.vault, new)
    machine("rotate", "agent", "--yes")
    places = SimpleNamespace(file=lambda name: str(new / name))
    content = avault.decode_file("nsec", (old / "nsec.enc").read_bytes(), "")
    said = avault.find_successor(places, content["vault"], avault.parse_npub(content["agent"]))
    assert said and "was rotated" in said.message
    assert not avault.find_successor(SimpleNamespace(file=lambda name: str(old / name)), content["vault"], "ab" * 32)
    latest = SimpleNamespace(file=lambda name: str(machine.vault / name))
    assert avault.find_successor(latest, content["vault"], avault.parse_npub(content["agent"])), "over two rotations"
    assert not avault.find_successor(latest, content["vault"], "ab" * 32), "who is no agent of before"
    assert not avault.find_successor(latest, "00" * 16, avault.parse_npub(content["agent"])), "in another vault"


def test_a_recovery_copy_from_before_a_rotation_is_no_other_rotation(owner: Owner) -> None:
    """It is made anew, as any that does not open the vault: also over two rotations."""
    machine = owner.machine
    copies = [(machine.vault / "nsec.enc").read_bytes()]
    for _ in range(2):
        machine("rotate", "agent", "--yes")
        copies.append((machine.vault / "nsec.enc").read_bytes())
    agent = owner.agent()
    for old in copies[:2]:
        (machine.vault / "nsec.enc").write_bytes(old)
        wait_until(lambda: "was made anew" in str(machine.status()["warnings"]))
        assert json.loads((machine.vault / "nsec.enc").read_text())["agent"] == agent
    machine("lock")
    machine("unlock")


def lead(*steps: tuple[Any, Any]) -> list[str]:
    return [avault.make_statement(old, "00" * 16, avault.public_hex(new)) for old, new in steps]


def test_who_names_two_leads_nowhere(tmp_path: Path) -> None:
    """Whoever has a key that was rotated away signs for a key of theirs: an attack, whatever comes last."""
    k0, k1, k2, evil, operator = (avault.make_keys() for _ in range(5))
    straight, fork = avault.Locked, avault.Tampered
    for here, known, there, said, expected in (
        (k1, lead((k0, k1)), evil, lead((k0, evil)), fork),
        (k1, lead((k0, k1)), evil, lead((k0, k1), (k0, evil)), fork),
        (k1, lead((k0, k1)), k2, lead((k0, evil), (evil, k2)), fork),
        (k0, [], evil, lead((k0, k1), (k0, evil)), fork),
        (k0, [], k1, lead((k0, evil), (k0, k1)), fork),
        (k0, [], k2, lead((k0, k1), (k1, evil), (k1, k2)), fork),
        (k0, [], evil, lead((k0, k1), (k1, k2), (k1, evil)), fork),
        (k0, [], k2, lead((k0, k1), (k1, k2), (k0, k1)), straight),
        (k1, lead((k0, k1)), k2, lead((k0, evil), (k0, k1), (k1, k2)), straight),
        (k2, lead((k0, k1), (k1, k2)), k1, lead((k0, k1)), None),
        (k1, lead((k0, k1)), evil, lead((evil, k2)), None),
    ):
        content = avault.seal_nsec(there, "00" * 16, avault.public_hex(operator), "v", "h")
        data = avault.encode_file("nsec", {**content, "rotated": said})
        found = avault.explain_successor(data, "00" * 16, avault.public_hex(here), None, [*known])
        assert type(found) is (expected or type(None)), (known, said)
        npub = avault.to_npub(avault.public_hex(there))
        assert not found or (npub in str(found.hint)) == (expected is straight)


def test_nobody_crowds_out_what_leads_to_the_agent() -> None:
    """Who has a key just before it is rotated may add as many statements as he likes."""
    old, fresh = avault.make_keys(), avault.make_keys()
    vault = avault.Vault("00" * 16, avault.public_hex(fresh), "ab" * 32, "v")
    others = [(avault.make_keys(), avault.make_keys()) for _ in range(70)]
    wanted = lead((old, fresh))
    for author, [statement] in [*((each[0], lead(each)) for each in others), (old, wanted)]:
        vault.state(f"agent/{avault.to_npub(avault.public_hex(author))}", json.dumps({"statement": statement}), 1, "m")
    assert avault.statements_of(vault) == wanted


def test_the_operator_that_is_named_is_one_whom_the_copy_has() -> None:
    old, fresh, gone, operator = (avault.make_keys() for _ in range(4))
    content = avault.seal_nsec(fresh, "00" * 16, avault.public_hex(operator), "v", "h")
    data = avault.encode_file("nsec", {**content, "rotated": lead((old, fresh))})
    for given in (avault.to_npub(avault.public_hex(gone)), None, content["operator"]):
        found = avault.explain_successor(data, "00" * 16, avault.public_hex(old), given)
        assert found and f"--signer-npub {content['operator']} " in str(found.hint)


def test_a_key_that_was_rotated_away_leads_nobody_to_another_vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in a sync, which merges nothing and offers nothing to pull, nor by an operator whom the other has put there."""
    k0, k1, evil, operator = (avault.make_keys() for _ in range(4))

    def seal(kind: str, agent: Any, said: list[str], **more: Any) -> bytes:
        content = avault.seal_nsec(agent, "00" * 16, avault.public_hex(operator), "v", "h")
        return avault.encode_file(kind, {**content, **more, "rotated": said})

    places = SimpleNamespace(file=lambda name: str(tmp_path / name), own=lambda name: str(tmp_path / name))
    own, forged = tmp_path / "unlock.json", seal("nsec", evil, lead((k0, k1), (k0, evil)))
    own.write_bytes(seal("unlock", k1, lead((k0, k1)), proven=None, quick=0))
    (tmp_path / "nsec.enc").write_bytes(forged)
    npub = avault.to_npub(avault.public_hex(evil))

    def inspect(*_: object) -> None:
        raise avault.Tampered("not of this agent")

    monkeypatch.setattr(avault, "inspect", inspect)
    repository = SimpleNamespace(paths={"nsec.enc": "n"}, tree=lambda _: {"n": "blob"}, blob=lambda _: forged)
    with pytest.raises(avault.Tampered, match="an attack unless") as refused:
        avault.verify_incoming(repository, SimpleNamespace(name="origin/main", ref="r"), places, b"")
    hint = str(refused.value.hint)
    assert hint.startswith("nothing was merged") and not re.search(f"pull|recover|{npub}", hint)
    assert avault.read_unlock(places)[1], "its own is asked for"
    with pytest.raises(avault.Tampered, match="an attack unless"):
        avault.read_unlock(places, npub)
    own.rename(aside := tmp_path / "aside")
    aside.write_bytes(seal("unlock", k0, [], proven=None, quick=0))
    avault.let_go(places, str(aside))
    assert (tmp_path / "unlock-other.json").exists(), "it alone leads to what this machine has"


# What is staged: cut off anywhere, and by others


class Staged:
    """A vault whose rotation counts, and is not in place yet: as a keyholder leaves it that is killed then."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.places, self.fresh = desk.places, avault.make_keys()
        self.before = self.files()
        assert desk.holding.store
        desk.keyholder.orders.rotating.operators = {"": desk.holding.store.vault.operator}
        stage = avault.begin_stage(self.places)
        desk.keyholder.orders.rotating.stage_all(stage, desk.holding.store, self.fresh, avault.Pairing.load(self.places))
        self.ready = Path(self.places.own("rotation"))

    def files(self) -> dict[str, bytes]:
        tops = (Path(self.places.dir), Path(self.places.state))
        return {path.name: path.read_bytes() for top in tops for path in top.iterdir() if path.suffix in (".enc", ".json")}

    def opens(self, keys: Any) -> str:
        """What is in the vault on the disk, opened with unlock.json's agent."""
        content, own = avault.read_unlock(self.places)
        assert own and content["agent"] == avault.to_npub(avault.public_hex(keys))
        return avault.Store.load(self.places, keys, content).vault.secrets("openai", "API_KEY")[0].value


@pytest.fixture
async def staged(tmp_path: Path, place) -> AsyncIterator[Staged]:
    desk = Desk(tmp_path)
    await desk.open()
    yield Staged(desk)
    desk.close()


def test_a_rotation_that_was_cut_off_is_completed(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each write, rename and directory it may be killed; begun again, it comes to the same."""
    places, calls, limit = staged.places, 0, 0

    def counted(real: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > limit:
                raise KeyboardInterrupt
            return real(*given, **named)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(avault, "write_file", counted(avault.write_file))
        patch.setattr(os, "rename", counted(os.rename))
        patch.setattr(os, "makedirs", counted(os.makedirs))
        while staged.ready.exists():
            calls, limit = 0, limit + 1
            with contextlib.suppress(KeyboardInterrupt):
                avault.complete_rotation(places)
            assert limit < 100
    assert limit > 5 and avault.complete_rotation(places) is None
    assert staged.opens(staged.fresh) == "a value"
    assert not [path for path in Path(places.state).iterdir() if path.name.startswith("rotation")]
    [aside] = Path(places.state).glob("log-*")
    assert (aside / "access.log").exists() and not Path(places.own("access.log")).exists()


def test_before_it_counts_the_old_key_opens_the_vault(staged: Staged) -> None:
    staged.ready.rename(staged.places.own("rotation.new"))
    assert avault.complete_rotation(staged.places) is None
    assert staged.files() == staged.before and staged.opens(staged.desk.example.agent) == "a value"
    assert not Path(staged.places.own("rotation.new")).exists()


def sign_anew(staged: Staged, keys: Any, **changed: Any) -> None:
    manifest = staged.ready / "manifest"
    said = json.loads(avault.read_signed(manifest.read_text())[1])
    said["files"] = {name: avault.hash_file(str(staged.ready / name)) for name in said["files"]}
    manifest.write_text(avault.sign_text(keys, json.dumps({**said, **changed})))


def write_more(staged: Staged) -> None:
    """The vault goes on under the old key: what was staged once is older then."""
    store = staged.desk.holding.store
    assert store
    store.write([lambda vault: vault.put("more", "KEY", "x", 1, store.machine)] * 2)
    store.write([lambda vault: vault.put("more", "KEY", "y", 1, store.machine)])
    staged.before = staged.files()


def link(staged: Staged) -> None:
    staged.ready.rename(staged.ready.with_name("elsewhere"))
    staged.ready.symlink_to(staged.ready.with_name("elsewhere"))


def be_a_file(staged: Staged) -> None:
    shutil.rmtree(staged.ready)
    staged.ready.write_bytes(b"")


FORGERIES: dict[str, Callable[[Staged], None]] = {
    "signed by a stranger": lambda staged: sign_anew(staged, avault.make_keys()),
    "signed by the new key alone": lambda staged: sign_anew(staged, staged.fresh),
    "of another vault": lambda staged: sign_anew(staged, staged.desk.example.agent, vault="00" * 16),
    "a file changed": lambda staged: (staged.ready / "pairing.json").write_bytes(b"{}") and None,
    "a file less": lambda staged: (staged.ready / "pin.json").unlink(),
    "not signed": lambda staged: (staged.ready / "manifest").write_bytes(b"{}") and None,
    "no manifest": lambda staged: (staged.ready / "manifest").unlink(),
    "from before": write_more,
    "a link": link,
    "a file": be_a_file,
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_what_others_have_staged_is_not_put_in_place(staged: Staged, forgery: str) -> None:
    FORGERIES[forgery](staged)
    said = avault.complete_rotation(staged.places)
    assert said and "is no rotation by this vault's agent" in said
    assert staged.files() == staged.before and not os.path.lexists(staged.ready)
    assert staged.opens(staged.desk.example.agent) == "a value"
    assert avault.complete_rotation(staged.places) is None


def test_what_git_has_put_there_meanwhile_is_kept(staged: Staged) -> None:
    pulled = b"another copy\n"
    Path(staged.places.file("avault.enc")).write_bytes(pulled)
    Path(staged.places.own("replaced.enc")).write_bytes(b"what an earlier one has left")
    assert avault.complete_rotation(staged.places) is None
    assert Path(staged.places.own("replaced-2.enc")).read_bytes() == pulled
    assert Path(staged.places.own("replaced.enc")).read_bytes() == b"what an earlier one has left"
    assert staged.opens(staged.fresh) == "a value"


def test_a_file_more_is_not_put_in_place(staged: Staged) -> None:
    (staged.ready / "socket").write_bytes(b"/tmp/x")
    assert avault.complete_rotation(staged.places) is None
    assert staged.opens(staged.fresh) == "a value" and not os.path.exists(staged.places.own("socket"))


def test_what_is_in_place_in_part_is_never_set_aside(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key before opens nothing then: it is completed, or said to be half done."""
    shutil.copyfile(staged.ready / "avault.enc", staged.places.file("avault.enc"))
    good = (staged.ready / "pin.json").read_bytes()
    (staged.ready / "pin.json").write_bytes(b"{}")
    for _ in range(2):
        with pytest.raises(avault.Tampered, match="cannot be completed") as raised:
            avault.complete_rotation(staged.places)
        assert str(staged.ready) in str(raised.value.hint)
    (staged.ready / "pin.json").write_bytes(good)
    real = avault.read_file

    def refuse(path: str, *given: Any, **named: Any) -> bytes:
        if path == staged.places.file("avault.enc"):
            raise avault.AvaultError(f"cannot read {path}: Input/output error")
        return real(path, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(avault, "read_file", refuse)
        with pytest.raises(avault.AvaultError, match="Input/output error"):
            avault.complete_rotation(staged.places)
    assert avault.complete_rotation(staged.places) is None and staged.opens(staged.fresh) == "a value"


def test_what_a_disk_refuses_is_said(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, *_: object) -> None:
        raise OSError(28, "No space left on device", source)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(avault.AvaultError, match="No space left on device"):
            avault.complete_rotation(staged.places)
    assert avault.complete_rotation(staged.places) is None and staged.opens(staged.fresh) == "a value"


@pytest.mark.parametrize("name", ["rotation.old", "rotation.new", "log-{}", "rotation.refused"])
def test_a_file_where_a_directory_belongs_keeps_nobody_out(staged: Staged, name: str) -> None:
    """Put there by another program: rotation.old, or what the log is to be moved to."""
    planted = Path(staged.places.own(name.format(avault.public_hex(staged.desk.example.agent)[:16])))
    planted.write_bytes(b"")
    if name == "rotation.refused":
        (staged.ready / "manifest").unlink()
        said = avault.complete_rotation(staged.places)
        assert said and staged.opens(staged.desk.example.agent) == "a value" and planted.is_dir()
        return
    assert avault.complete_rotation(staged.places) is None and staged.opens(staged.fresh) == "a value"
    assert not planted.exists() or name.startswith("log")
    [aside] = [path for path in Path(staged.places.state).glob("log-*") if path.is_dir()]
    assert (aside / "access.log").exists()


def test_the_pin_names_the_agent(staged: Staged) -> None:
    def pin() -> dict[str, Any]:
        path = staged.places.own("pin.json")
        return avault.decode_file("pin", Path(path).read_bytes(), path)

    assert pin()["agent"] == avault.to_npub(avault.public_hex(staged.desk.example.agent))
    old = {name: Path(staged.places.file(name)).read_bytes() for name in ("avault.enc", "nsec.enc")}
    unlock = staged.before["unlock.json"]
    avault.complete_rotation(staged.places)
    assert pin()["agent"] == avault.to_npub(avault.public_hex(staged.fresh))
    for name, data in old.items():
        Path(staged.places.file(name)).write_bytes(data)
    Path(staged.places.own("unlock.json")).write_bytes(unlock)
    with pytest.raises(avault.Tampered, match="another agent's key"):
        staged.opens(staged.desk.example.agent)


# A turn over that fails, or meets something else that is under way


@pytest.fixture
async def turning(tmp_path: Path, place, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Turning]:
    turning = Turning(Desk(tmp_path), monkeypatch)
    await turning.desk.open()
    yield turning
    turning.desk.close()


class Turning:
    """An open vault whose agent's key is about to be turned over."""

    def __init__(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.desk, self.places, self.fresh, self.monkeypatch = desk, desk.places, avault.make_keys(), monkeypatch
        self.old = desk.example.agent

    async def turn(self, is_full: Callable[[str, bool], bool] = lambda path, counts: False) -> dict[str, Any] | None:
        """Turn over, on a disk that is full for some files before or after it counts; what failed."""
        rotating, real, ready = self.desk.keyholder.orders.rotating, avault.write_file, self.places.own("rotation")
        self.fresh = rotating.fresh = avault.make_keys()
        rotating.operators = {"": avault.public_hex(self.desk.example.operator)}
        avault.begin_stage(self.places)

        def write(path: str, *given: Any, **named: Any) -> None:
            if is_full(path, os.path.lexists(ready)):
                raise avault.AvaultError(f"cannot write {path}: No space left on device")
            real(path, *given, **named)

        with self.monkeypatch.context() as patch:
            patch.setattr(avault, "write_file", write)
            agent = avault.to_npub(avault.public_hex(self.fresh))
            await rotating.step({"step": "turn over", "agent": agent, "files": {}, "ticket": "t", "caller": CALLER}, None)
        return next(each for each in reversed(self.desk.told) if "changed" in each)["failed"]

    def agents(self) -> set[str]:
        """Whose the files are that name it: the old agent's, or the new one's."""
        names = {avault.to_npub(avault.public_hex(self.old)): "old", avault.to_npub(avault.public_hex(self.fresh)): "new"}
        files = (self.places.file("nsec.enc"), self.places.own("unlock.json"), self.places.own("pairing.json"))
        return {names[json.loads(Path(path).read_text())["agent"]] for path in files}

    def value(self, keys: Any) -> str:
        content, _ = avault.read_unlock(self.places)
        return avault.Store.load(self.places, keys, content).vault.secrets("openai", "API_KEY")[0].value


@pytest.mark.parametrize("name", ["", "avault.enc", "nsec.enc", "pin.json", "log.json", "unlock.json"])
async def test_where_it_counts_and_the_disk_is_full_the_keyholder_ends(turning: Turning, name: str) -> None:
    """Else the key before would be written on with, and nobody would have what was confirmed then."""
    failed = await turning.turn(lambda path, counts: counts and path.endswith(name))
    assert failed and "the new key counts" in failed["message"] and "No space left" in failed["message"]
    desk = turning.desk
    assert desk.keyholder.ended.is_set() and not desk.holding.store and not desk.holding.log
    with pytest.raises(avault.Locked):
        await desk.serve("set", "a new value", group="later", key="KEY")
    assert avault.is_committed(turning.places, avault.to_npub(avault.public_hex(turning.fresh)))
    await desk.keyholder.run()
    await desk.holding.look()
    assert avault.complete_rotation(turning.places) is None
    assert turning.agents() == {"new"} and turning.value(turning.fresh) == "a value"


async def test_what_fails_when_all_is_in_place_ends_the_keyholder(turning: Turning, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*_: object, **__: object) -> None:
        raise avault.AvaultError("cannot write access.log: No space left on device")

    monkeypatch.setattr(avault.Holding, "begin", begin)
    assert await turning.turn()
    await turning.desk.holding.look()
    assert turning.desk.keyholder.ended.is_set() and turning.agents() == {"new"}
    assert avault.complete_rotation(turning.places) is None and turning.value(turning.fresh) == "a value"


@pytest.mark.parametrize("name", ["pin.json", "nip46.json", "manifest"])
async def test_before_it_counts_a_full_disk_changes_nothing(turning: Turning, name: str) -> None:
    failed = await turning.turn(lambda path, counts: not counts and path.endswith(name))
    assert failed and not os.path.lexists(turning.places.own("rotation.new")), "what was staged is gone"
    assert not avault.is_committed(turning.places, avault.to_npub(avault.public_hex(turning.fresh)))
    assert not turning.desk.keyholder.ended.is_set() and turning.agents() == {"old"}
    assert (await turning.desk.serve("set", "a new value", group="later", key="KEY"))["ok"]
    assert turning.value(turning.old) == "a value"


async def test_what_another_program_puts_into_the_stage_is_not_signed(turning: Turning, monkeypatch: pytest.MonkeyPatch) -> None:
    real = avault.stage_phones

    def plant(stage: Any, store: Any) -> None:
        Path(stage.own("socket")).write_bytes(b"/tmp/elsewhere")
        real(stage, store)

    monkeypatch.setattr(avault, "stage_phones", plant)
    assert await turning.turn() is None
    assert not os.path.exists(turning.places.own("socket"))

    def change(stage: Any, store: Any) -> None:
        Path(stage.own("nsec.enc")).write_bytes(b"{}")

    monkeypatch.setattr(avault, "stage_phones", change)
    turning.old = turning.fresh
    failed = await turning.turn()
    assert failed and "is not what was staged" in failed["message"] and turning.agents() == {"old"}


async def test_hints_that_are_gone_are_no_matter(turning: Turning) -> None:
    os.unlink(turning.places.file("nip46.json"))
    os.unlink(turning.places.own("pairing.json"))
    turning.desk.holding.contact.pairing = turning.desk.holding.contact.seen = None
    assert await turning.turn() is None
    assert avault.read_hints(turning.places.file("nip46.json"))["relays"] == []


async def test_a_pairing_that_goes_away_meanwhile_is_put_back(turning: Turning) -> None:
    """The one that opened the vault counts, not what is on the disk by then."""
    contact = turning.desk.holding.contact
    before = contact.pairing = avault.Pairing.load(turning.places)
    os.unlink(turning.places.own("pairing.json"))
    assert await turning.turn() is None
    found = avault.Pairing.load(turning.places)
    assert before and found and found.agent == avault.public_hex(turning.fresh) and found.keys == before.keys
    assert contact.pairing and contact.pairing.is_same(found) and before.agent == avault.public_hex(turning.old)


async def test_a_rotation_keeps_no_descriptor(turning: Turning) -> None:
    await turning.turn()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(4):
        assert await turning.turn() is None
    assert len(os.listdir("/proc/self/fd")) == before


async def test_no_key_is_turned_over_amid_a_drill(turning: Turning) -> None:
    turning.desk.unlocking.begin_talk()
    failed = await turning.turn()
    assert failed and "under way" in failed["message"] and turning.agents() == {"old"}
    turning.desk.unlocking.end_talk()
    assert await turning.turn() is None


async def test_a_talk_that_began_before_ends_and_writes_nothing(turning: Turning) -> None:
    """Else it would put the key before back, and the pairing for it."""
    desk = turning.desk
    drill = asyncio.ensure_future(avault.TALKS["drill"](desk.keyholder, desk.session, {"op": "drill"}, {}))
    change = asyncio.ensure_future(
        avault.ask_operator(desk.holding, desk.holding.store, {"ticket": "u"}, "a title", "a sentence")  # type: ignore[arg-type]
    )
    pairing = avault.Pairing.load(turning.places)
    assert pairing
    content = dict(desk.holding.ratchet.content)
    pair = asyncio.ensure_future(avault.ask_for_proof(desk.keyholder, desk.session, pairing, content, False))
    while desk.phone.asked < 3:
        await asyncio.sleep(0)
    assert await turning.turn() is None
    desk.phone.may.set()
    for task in (drill, change, pair):
        with pytest.raises(avault.Locked, match="rotated meanwhile"):
            await task
    with pytest.raises(avault.Locked, match="rotated meanwhile"):
        await avault.ask_for_proof(desk.keyholder, desk.session, pairing, content, False)
    await desk.holding.look()
    assert turning.agents() == {"new"}


async def test_the_ratchet_turns_for_no_key_before(turning: Turning) -> None:
    ratchet = turning.desk.holding.ratchet
    content = dict(ratchet.content)
    with pytest.raises(avault.Locked, match="rotated meanwhile"):
        await ratchet.turn(avault.make_keys(), content)
    assert await turning.turn() is None
    with pytest.raises(avault.Locked, match="rotated meanwhile"):
        await ratchet.turn(turning.old, content)
    await ratchet.restore(turning.old)
    assert turning.agents() == {"new"}


# What the other machines have


def clone(owner: Owner, place: Any) -> Machine:
    """Another machine with a copy of its own of the vault's directory, which it has opened."""
    other = Machine(place.top / "c", vault=place.top / "c" / "vault")
    shutil.copytree(owner.machine.vault, other.vault)
    other(*recover(owner), "--bunker", "-", input=owner.phone.uri)
    return other


def recover(owner: Owner) -> list[str]:
    return ["recover", "--agent", owner.agent(), "--signer-npub", owner.npub(), "--no-drill"]


def pull(source: Machine, to: Machine, *names: str) -> None:
    for name in names or ("avault.enc", "nip46.json", "nsec.enc"):
        new = to.vault / "pulled"
        shutil.copyfile(source.vault / name, new)
        new.rename(to.vault / name)


@pytest.mark.slow
def test_what_only_another_machine_had_is_kept_and_offered(owner: Owner, place) -> None:
    machine = owner.machine
    machine("set", "openai/API_KEY", input="x")
    with clone(owner, place) as other:
        other("set", "only/HERE", input="written and confirmed on the other")
        machine("rotate", "agent", "--yes")
        pull(machine, other)
        assert "was rotated on another machine" in str(other.status()["warnings"])
        assert "was rotated" in other("restore", "--unsaved", code=3).stderr, "it would undo the rotation"
        other("lock")
        other(*recover(owner))
        assert other("get", "openai/API_KEY").stdout == "x\n"
        said = str(other.status()["warnings"])
        assert "not in the vault: only/HERE;" in said and "the vault lacks writes" in said
        assert "only/HERE" in other("restore", "--unsaved").stderr
        assert other("get", "only/HERE").stdout == "written and confirmed on the other\n"
        assert not list(other.own.glob("unsaved*")) and "only/HERE" not in str(other.status()["warnings"])
        assert "nothing to write back" in other("restore", "--unsaved").stderr
        other("lock")
        other("unlock")
        assert other("log", "--verify").returncode == 0


@pytest.mark.slow
def test_two_machines_that_rotate_at_once_leave_the_choice(owner: Owner, place) -> None:
    """Neither writes its recovery copy over the other's, open or locked."""
    machine = owner.machine
    machine("set", "openai/API_KEY", input="x")
    with clone(owner, place) as other:
        for each in (machine, other):
            each("rotate", "agent", "--yes")
        other("set", "only/HERE", input="set on the other after its rotation")
        pull(machine, other)
        theirs = (machine.vault / "nsec.enc").read_bytes()
        assert "an attack unless two people rotated at once" in str(other.status()["warnings"])
        assert other("get", "only/HERE").stdout == "set on the other after its rotation\n"
        other("lock")
        other("unlock")
        assert other("get", "only/HERE").stdout == "set on the other after its rotation\n", "it can be saved"
        other("lock")
        (other.own / "unsaved.enc").rename(other.own / "kept")
        done = other("unlock", code=8)
        assert "an attack unless two people rotated at once" in done.stderr
        assert "recover --agent NPUB" in done.stderr and owner.agent() not in done.stderr
        done = other("recover", code=8, input="y\n")
        assert "an attack unless" in done.stderr and owner.agent() not in done.stderr, "the npub is to be typed"
        (other.own / "kept").rename(other.own / "unsaved.enc")
        assert (other.vault / "nsec.enc").read_bytes() == theirs
        other(*recover(owner))
        assert other("get", "openai/API_KEY").stdout == "x\n" and other.status()["agent_npub"] == owner.agent()
        assert list(other.own.glob("unlock-other.json")) and list(other.own.glob("unsaved-before.enc"))
        assert "unsaved-before.enc does not open" in str(other.status()["warnings"])
        other("lock")
        other("unlock")


@pytest.mark.slow
def test_half_a_pull_takes_nothing_away(owner: Owner, place) -> None:
    """nsec.enc has come, avault.enc has not: what opens that stays."""
    machine = owner.machine
    machine("set", "openai/API_KEY", input="x")
    with clone(owner, place) as other:
        other("lock")
        before = {name: (other.own / name).read_bytes() for name in ("unlock.json", "pairing.json", "log.json")}
        machine("rotate", "agent", "--yes")
        pull(machine, other, "nsec.enc")
        other(*recover(owner), code=8)
        assert {name: (other.own / name).read_bytes() for name in before} == before
        assert not list(other.own.glob("*before*")) and not list(other.own.glob("log-*"))
        pull(machine, other)
        other(*recover(owner))
        assert other("get", "openai/API_KEY").stdout == "x\n"


@pytest.mark.slow
def test_a_recover_that_is_refused_or_killed_leaves_all_as_it_was(owner: Owner, place) -> None:
    machine = owner.machine
    machine("set", "openai/API_KEY", input="x")
    with clone(owner, place) as other:
        other("lock")
        before = {path: path.read_bytes() for path in (*other.vault.iterdir(), other.own / "unlock.json", other.own / "log.json")}
        machine("rotate", "agent", "--yes")
        pull(machine, other)
        owner.phone.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"], 1)
        other(*recover(owner), code=5)
        assert not list(other.own.glob("log-*")), "the log stays too"
        owner.phone.behave("nip44_decrypt", [], 1)
        running = other.start(*recover(owner))
        wait_until((other.own / "unlock-before.json").exists, what="what this machine had is aside")
        os.kill(other.status()["keyholder_pid"], signal.SIGKILL)
        running.wait()
        for path, data in before.items():  # it was not us: the operator takes back what was pulled
            if path.parent == other.vault:
                path.write_bytes(data)
        other("unlock")
        assert not (other.own / "unlock-before.json").exists()
        assert other("log", "--verify").returncode == 0


@pytest.mark.skipif(os.getuid() == 0, reason="root writes where nobody may")
def test_a_custodian_forgets_also_where_it_was_cut_off(owner: Owner) -> None:
    """The old unlock key goes once the new key has opened the vault; the staged one, where nothing counts."""
    machine = owner.machine
    owner.add()
    before = sorted(path.name for path in owner.box.place.iterdir())
    (machine.own / "nothing").mkdir()
    machine.vault.chmod(0o500)
    try:
        assert "the new key counts" in machine("rotate", "agent", "--yes", code=1).stderr
    finally:
        machine.vault.chmod(0o700)
    assert machine.status()["state"] == "locked" and set(before) < {path.name for path in owner.box.place.iterdir()}
    machine("unlock")
    wait_until(lambda: not (machine.own / "forget.json").exists(), what="it has forgotten")
    kept = {path.name for path in owner.box.place.iterdir()}
    assert len(kept) == len(before) and kept != set(before)
    machine("custody", "test", "box")


async def test_an_open_keyholder_leaves_the_new_recovery_copy(staged: Staged) -> None:
    """The other machine, when git brings it what was rotated: it serves what it has, and mends nothing."""
    desk, store = staged.desk, staged.desk.holding.store
    assert store
    for name in ("avault.enc", "nsec.enc"):
        Path(staged.places.file(name)).write_bytes((staged.ready / name).read_bytes())
    now = staged.files()
    await desk.holding.look()
    assert store.trouble and "was rotated on another machine" in store.trouble.message
    assert "avault recover --agent" in str(store.trouble.hint)
    assert {name: staged.files()[name] for name in ("avault.enc", "nsec.enc")} == {
        name: now[name] for name in ("avault.enc", "nsec.enc")
    }
    assert store.vault.secrets("openai", "API_KEY")[0].value == "a value"
    with pytest.raises(avault.Locked, match="was rotated"):
        avault.read_unlock(staged.places)
