"""After a loss: machines on the vault's list and off it, and what is to be set anew."""

from __future__ import annotations

import json
from collections.abc import Iterator

import nostr_sdk
import peers
import pytest
from canary import Canary
from harness import Machine
from peers import Relay, misdeeds
from test_custody import Owner

import avault

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
