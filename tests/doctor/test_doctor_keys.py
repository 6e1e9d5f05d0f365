"""`avault doctor`, about who and what may open the vault: machines, operators, custodians' files, what a rotation left."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import nostr_sdk
import peers
import pytest
from harness import Machine
from peers import Relay
from test_custody import Owner, connect, own_file
from test_doctor import examine, states, trouble

import avault

pytestmark = pytest.mark.usefixtures("forks")


@pytest.fixture
def owner(machine: Machine, relay: Relay) -> Iterator[Owner]:
    operator = nostr_sdk.Keys.generate()
    with peers.rogue([relay.url], nsec=operator.secret_key().to_bech32()) as phone:
        yield Owner(machine, phone, operator)


def rewrite(machine: Machine, what: str, name: str, /, **fields: object) -> None:
    path = machine.own / name
    content = avault.decode_file(what, path.read_bytes(), str(path))
    path.write_bytes(avault.encode_file(what, {**content, **fields}))


def test_a_vault_with_a_phone(owner: Owner) -> None:
    machine = owner.machine
    found = examine(machine, "custodians", "machines", "operators", "rotation")
    assert [rows[0]["state"] for rows in found.values()] == ["off", "ok", "ok", "ok"]
    machine("lock")
    assert states(machine, "machines", "operators") == ["off", "off"]


def test_a_machine_that_is_listed_as_another(owner: Owner) -> None:
    """An open vault puts pairing.json right itself: so it is asked what the list says, and what lies there."""
    [me] = owner.machine("machine", "list", "--json").json["machines"]
    places = connect(owner.machine)

    def look(**changed: object) -> list[tuple[str, str]]:
        answers = {"machines": {"machines": [{**me, **changed}]}, "exposed": {"exposed": []}}
        patient: Any = SimpleNamespace(places=places, is_open=lambda: True, ask=answers.__getitem__)
        return [(each.state, each.text) for each in avault.check_machines(patient)]

    assert [state for state, _ in look()] == ["ok"]
    other, mine = "ab" * 32, avault.shorten_key(str(me["client_key"]))
    said = f"this machine is on the vault's list as {avault.shorten_key(other)}, and is {mine}"
    assert look(client_key=other)[0] == ("warn", said)
    assert "is not on the vault's list" in look(host=None)[0][1]


def test_what_was_removed_knows_values(owner: Owner) -> None:
    machine = owner.machine
    machine("set", "openai/API_KEY", input="a value")
    machine("rotate", "agent", "--yes")
    assert trouble(machine, "machines", r"1 value\(s\) were known", "warn") == "avault rotate report"


def test_a_phone_of_who_is_no_operator(owner: Owner) -> None:
    """An operator whose phone is not asked here is no trouble."""
    machine = owner.machine
    alice, bob = (str(nostr_sdk.Keys.generate().public_key().to_bech32()) for _ in range(2))
    machine("operator", "add", alice, "--name", "alice", "--yes")
    [row] = examine(machine, "operators")["operators"]
    assert row["state"] == "ok" and "alice (not asked here)" in row["text"]
    owner.add()
    rewrite(machine, "custody", "custody-box.json", kind="phone", settings={"operator": bob})
    assert trouble(machine, "operators", "the phone of box") == "avault custody remove box"


def test_custodians_files_that_open_nothing(owner: Owner) -> None:
    machine = owner.machine
    owner.add()
    owner.add(name="other")
    assert states(machine, "custodians") == ["ok"]
    other = str(nostr_sdk.Keys.generate().public_key().to_bech32())
    rewrite(machine, "custody", "custody-box.json", agent=other)
    assert "--replace" in trouble(machine, "custodians", "the custodian box opens another agent's key", "warn")
    assert [text for text in machine.status()["warnings"] if "the custodian box opens another agent's key" in text]
    rewrite(machine, "custody", "custody-box.json", agent=owner.agent(), vault="00" * 16)
    assert trouble(machine, "custodians", "of another vault", "warn") == "avault custody remove box"
    machine("custody", "remove", "box", "--yes")
    own_file(machine, "spare").write_bytes(own_file(machine, "other").read_bytes().replace(b"other", b"spare"))
    rewrite_whole(machine, "spare")
    hint = trouble(machine, "custodians", "custody-spare.json is of no custodian that is tried", "warn")
    (machine.own / "custody-spare.json").rename(machine.own / "custody-spare.new.json")
    assert "avault custody add" in trouble(machine, "custodians", "cut off", "warn")
    assert "rm " in hint


def rewrite_whole(machine: Machine, name: str) -> None:
    """Give a file that was edited its checksum again."""
    path = own_file(machine, name)
    content = json.loads(path.read_bytes())
    for field in ("type", "version", "checksum"):
        del content[field]
    path.write_bytes(avault.encode_file("custody", content))


def test_a_shared_custodian_that_nobody_signed(owner: Owner) -> None:
    machine = owner.machine
    owner.add("--shared")
    assert states(machine, "custodians") == ["ok"]
    path = machine.vault / "custody-box.json"
    content = avault.decode_file("custody", path.read_bytes(), str(path))
    path.write_bytes(avault.encode_file("custody", {**content, "settings": {"path": "/bin/false"}}))
    assert "git log custody-box.json" in trouble(machine, "custodians", "not signed by this vault's agent")


def test_what_a_rotation_left(owner: Owner) -> None:
    machine, own = owner.machine, owner.machine.own
    machine("daemon", "stop")
    for name in ("rotation.new", "rotation.refused", "log-0123456789abcdef"):
        (own / name).mkdir(mode=0o700)
    (own / "rotation.new" / "nsec.enc").write_text("half")
    (own / "replaced.enc").write_text("what git had")
    found = examine(machine, "rotation")["rotation"]
    assert [row["state"] for row in found] == ["warn", "warn", "warn"]
    assert trouble(machine, "rotation", "cut off, and counts for nothing", "warn") == "avault daemon start, which takes it away"
    assert examine(machine, "rotation", fix=True) and not (own / "rotation.new").exists()
    hint = trouble(machine, "rotation", "put there by somebody else", "warn")
    subprocess.run(shlex.split(hint.partition("Then: ")[2]), check=True)
    hint = trouble(machine, "rotation", "a copy of the vault that was set aside", "warn")
    subprocess.run(shlex.split(hint.partition("or: ")[2]), check=True)
    [row] = examine(machine, "rotation")["rotation"]
    assert row["state"] == "ok" and "log-0123456789abcdef" in row["text"]
    (own / "rotation").mkdir()
    assert trouble(machine, "rotation", "counts, and is not in place yet") == "avault unlock, which completes it"


def test_a_custodians_write_that_was_cut_off(owner: Owner) -> None:
    machine = owner.machine
    machine("daemon", "stop")
    left = machine.own / f".custody-box.json.{'0' * 16}.tmp"
    left.write_text("half")
    assert trouble(machine, "leftovers", "a killed write left", "warn").startswith("rm ")
    examine(machine, "leftovers", fix=True)
    assert not left.exists()
