"""What an attacker can do with custodians: another vault's, old keys, programs in PATH, a state directory on another host.

Swapped files of one vault are in test_custody.py, those that git brings in test_shared.py, the disk and the same user in
proof/test_attackers.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import nostr_sdk
import peers
import pytest
from harness import Machine
from peers import Relay
from test_custody import Owner, own_file

pytestmark = pytest.mark.usefixtures("forks")


@pytest.fixture
def owner(machine: Machine, relay: Relay) -> Iterator[Owner]:
    operator = nostr_sdk.Keys.generate()
    with peers.rogue([relay.url], nsec=operator.secret_key().to_bech32()) as phone:
        yield Owner(machine, phone, operator)


def test_a_custodian_of_another_vault(owner: Owner) -> None:
    """Of the same operator, name and custodian: it opens the vault that it was made for, and no other."""
    machine = owner.machine
    owner.add()
    machine("lock")
    with Machine(machine.top / "other") as other:
        other("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=owner.phone.uri)
        other("custody", "add", "program", f"path={owner.box.path}", "--name", "box", "--yes")
        other("lock")
        mine = own_file(other).read_bytes()
        own_file(other).write_bytes(own_file(machine).read_bytes())
        assert "of another vault" in other("unlock", "--with", "box", code=8).stderr
        assert other.status()["state"] == "locked"
        own_file(other).write_bytes(mine)
        other("unlock", "--with", "box")


@pytest.mark.slow
def test_an_unlock_key_that_is_played_again(owner: Owner) -> None:
    """It opens the file that it was made for, while the agent's key is the same; and nothing that took its place."""
    machine = owner.machine
    owner.add()
    key, old = owner.box.kept(), own_file(machine).read_bytes()
    owner.add("--replace")
    [path] = owner.box.place.glob("box-*")
    fresh, new = path.read_text(), own_file(machine).read_bytes()
    machine("lock")
    path.write_text(key)
    machine("unlock", "--with", "box", code=8)
    (owner.box.place / "box").write_text(key)
    own_file(machine).write_bytes(old)
    machine("unlock", "--with", "box")  # the control: who kept both has the agent's key
    own_file(machine).write_bytes(new)
    path.write_text(fresh)
    machine("rotate", "agent", "--yes")
    machine("lock")
    own_file(machine).write_bytes(old)
    assert "before the rotation" in machine("unlock", "--with", "box", code=8).stderr
    assert machine.status()["state"] == "locked"


@pytest.mark.starts
@pytest.mark.slow
def test_a_program_of_that_name_in_the_path(owner: Owner, tmp_path: Path) -> None:
    """What is run was found when it was added, and is not looked for again."""
    machine, seen = owner.machine, tmp_path / "seen"
    machine("custody", "add", "command", "wrap=cat", "unwrap=cat", "--name", "cat", "--yes")
    owner.add()
    evil = tmp_path / "evil"
    evil.mkdir(mode=0o700)
    for name in ("cat", "avault-custodian-box", "box", "python3", "git", "sh", "env"):
        (evil / name).write_text(f'#!/bin/sh\n/bin/touch {seen}\nexec /usr/bin/env -i /bin/{name} "$@"\n')
        (evil / name).chmod(0o700)
    machine("daemon", "stop")
    path = f"{evil}:{machine.env['PATH']}"
    machine("daemon", "start", "-b", PATH=path)
    machine.wait_state("unlocked")
    for name in ("cat", "box"):
        machine("lock", PATH=path)
        machine("unlock", "--with", name, PATH=path)
        machine("custody", "test", name, PATH=path)
    assert not seen.exists()


def test_a_state_directory_on_another_host(owner: Owner) -> None:
    """Without what the custodian has there, it opens nothing; the phone is asked, and its answer is made for one host."""
    machine = owner.machine
    owner.add()
    machine("daemon", "stop")
    with Machine(machine.top / "thief") as thief:
        shutil.copytree(machine.vault, thief.vault)
        shutil.copytree(machine.own, thief.own, dirs_exist_ok=True)
        kept = owner.box.place / "box"
        kept.rename(machine.top / "kept")  # the other host has the program, and not what it keeps
        asked = owner.asked()
        thief("unlock", "--with", "box", code=1)
        assert thief.status()["state"] == "locked" and owner.asked() == asked
        owner.box.path.rename(machine.top / "program")
        thief("unlock", "--with", "box", code=6)
        assert thief.status()["state"] == "locked" and owner.asked() == asked
        (machine.top / "program").rename(owner.box.path)
        (machine.top / "kept").rename(kept)
    machine("daemon", "start", "-b")
    machine.wait_state("unlocked")
