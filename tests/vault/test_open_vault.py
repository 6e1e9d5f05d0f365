"""What an open vault knows, the disk does not tell it otherwise: what differs there is said, and mended from what is open."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import nostr_sdk
import pytest
from canary import Canary
from git_helpers import git
from harness import Machine, wait_until
from peers import Rogue

import avault

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forks")]


@pytest.fixture
def opened(proven: Machine) -> Machine:
    """A machine whose phone has opened the vault."""
    proven("daemon", "start", "-b")
    proven.wait_state("unlocked")
    return proven


def rewrite(path: Path, kind: str, **changes: object) -> None:
    """Change a file of ours, checksum and all."""
    content = avault.decode_file(kind, path.read_bytes(), str(path))
    path.write_bytes(avault.encode_file(kind, {**content, **changes}))


def swap_recovery(machine: Machine) -> bytes:
    """An nsec.enc with the right names, whose envelope and sealed key open nothing."""
    junk = nostr_sdk.Keys.generate()
    payload = avault.encrypt(junk, junk.public_key().to_hex(), "{}")
    rewrite(machine.vault / "nsec.enc", "nsec", envelope=payload, sealed=payload)
    return (machine.vault / "nsec.enc").read_bytes()


def warnings(machine: Machine, words: str) -> list[str]:
    return [text for text in machine.status()["warnings"] if words in text]


# The recovery copy


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)


def link(path: Path) -> None:
    shutil.move(path, path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


DAMAGES = {
    "one bit": flip,
    "cut": lambda path: os.truncate(path, 300),
    "gone": lambda path: path.unlink(),
    "another operator's": lambda path: rewrite(path, "nsec", operator=nostr_sdk.Keys.generate().public_key().to_bech32()),
    "another name": lambda path: rewrite(path, "nsec", name="newsletter"),
}


def test_status_mends_the_recovery_copy(machine: Machine) -> None:
    machine.init_unproven()
    path = machine.vault / "nsec.enc"

    def is_whole() -> bool:
        """Whether the operator's key opens it; a busy daemon's status may be told before it has looked."""
        machine.status()
        try:
            content = avault.read_sealed("nsec", str(path))
            answer = avault.decrypt(machine.operator, avault.parse_npub(content["agent"]), content["envelope"])
            is_open = avault.open_nsec(content, answer).public_key().to_bech32() == content["agent"]
        except (avault.AvaultError, nostr_sdk.NostrSdkError):
            return False
        return is_open and content["name"] == "test@machine" and not path.is_symlink()

    for name, damage in DAMAGES.items():
        damage(path)
        wait_until(is_whole, what=name)
        wait_until(lambda: warnings(machine, "was made anew: "), what=name)
    link(path)
    wait_until(lambda: warnings(machine, "nor can it be made anew: "), what="a link, which is not written over")
    assert path.is_symlink()
    path.unlink()
    wait_until(is_whole, what="made anew where the link is away")


def test_a_vault_that_is_taken_away_is_not_followed(machine: Machine) -> None:
    """As a checkout of a branch without it does: no file is made there."""
    machine.init_unproven()
    away = machine.top / "away"
    away.mkdir()
    for name in ("avault.enc", "nsec.enc"):
        shutil.move(machine.vault / name, away / name)
    wait_until(lambda: warnings(machine, "avault.enc is gone"))
    assert not (machine.vault / "nsec.enc").exists()
    for name in ("avault.enc", "nsec.enc"):
        shutil.move(away / name, machine.vault / name)
    wait_until(lambda: machine.status()["warnings"] == [])


def test_forget_needs_a_recovery_copy_that_opens(opened: Machine, rogue: Rogue, canary: Canary) -> None:
    machine, agent, operator = opened, *(opened.status()[name] for name in ("agent_npub", "signer_npub"))
    machine("set", "g/K", input=canary.value)
    machine("lock")
    bad = swap_recovery(machine)
    assert warnings(machine, "has changed since it was last seen to open this vault")
    assert "may be the only way into the vault" in machine("forget", "--yes", code=5).stderr
    assert "has changed since" in machine("doctor", "--offline", "vault", code=None).stdout
    assert (machine.own / "unlock.json").exists()
    machine("unlock")
    assert (machine.vault / "nsec.enc").read_bytes() != bad
    swap_recovery(machine)
    machine("forget", "--yes")  # the open vault has mended it before
    words = ("--agent", agent, "--signer-npub", operator, "--no-drill")
    machine("recover", *words, "--bunker", "-", input=rogue.uri)
    assert machine("get", "g/K", secret=True).stdout == canary.value + "\n"


# This machine's own files


def evil() -> str:
    return nostr_sdk.Keys.generate().public_key().to_hex()


OTHERS = {  # of the same form, as anybody of this user can write them
    "unlock.json": lambda path: rewrite(path, "unlock", name="newsletter"),
    "pairing.json": lambda path: rewrite(path, "pairing", signer=evil(), relays=["wss://evil.example"]),
    "pin.json": lambda path: rewrite(path, "pin", generation={}, hash="0" * 64),
}


@pytest.mark.parametrize("name", OTHERS)
def test_own_files_are_put_back(name: str, opened: Machine, rogue: Rogue) -> None:
    path = opened.own / name
    before = path.read_bytes()

    def is_put_back(last: dict[str, Any]) -> bool:
        """An unlock.json is a fresh one: what the phone has answered opens nothing."""
        opened.status()
        try:
            content = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            return False
        if name == "unlock.json":
            return content["envelope"] != last["envelope"] and content["name"] == "test@machine"
        return path.read_bytes() == before

    for change in (lambda path: path.unlink(), lambda path: os.truncate(path, 99), OTHERS[name]):
        last = json.loads(path.read_bytes())
        change(path)
        wait_until(lambda last=last: is_put_back(last))
        wait_until(lambda: warnings(opened, f"{name} was changed while the vault was open"))
    asked = len(rogue.requests("nip44_decrypt"))
    opened("lock")
    opened("unlock")
    assert len(rogue.requests("nip44_decrypt")) == asked + 1


def test_a_pairing_that_others_have_begun_is_not_gone_on_with(opened: Machine, rogue: Rogue) -> None:
    """The open vault knows by whom it was opened, and what it has begun itself."""
    before = (opened.own / "pairing.json").read_bytes()
    planted = opened.own / avault.UNPROVEN
    planted.write_bytes(before)
    rewrite(planted, "pairing", client_key=nostr_sdk.Keys.generate().secret_key().to_hex())
    assert "this machine is paired already" in opened("pair", "--no-drill", code=2).stderr
    assert (opened.own / "pairing.json").read_bytes() == before


def test_files_that_nobody_touched_are_not_written(opened: Machine) -> None:
    names = ("unlock.json", "pairing.json", "pin.json", "recovery.json", "machine.json")
    before = [(opened.own / name).stat().st_mtime_ns for name in names]
    for _ in range(3):
        assert not [text for text in opened.status()["warnings"] if "changed" in text]
    assert [(opened.own / name).stat().st_mtime_ns for name in names] == before


def test_a_record_that_is_no_file_holds_nobody_up(machine: Machine) -> None:
    machine.init_unproven()
    record = machine.own / "socket"
    record.unlink()
    os.mkfifo(record)
    assert avault.read_record(str(record)) == ""
    other = str(machine.top / "other.sock")
    assert "no daemon" in machine("get", "g/K", code=6, AVAULT_SOCKET=other, timeout=60).stderr


# A file that is whole again


@pytest.mark.parametrize("where", ["in a repository", "elsewhere"])
def test_a_file_that_is_whole_again_is_noticed(where: str, opened: Machine) -> None:
    if where == "in a repository":
        git(opened, "init", "-q")
    path = opened.vault / "avault.enc"
    whole = path.read_bytes()
    for words, state in ((["status"], "unlocked"), (["lock"], "locked"), (["daemon", "stop"], "stopped")):
        path.write_bytes(whole[:-9])
        wait_until(lambda: warnings(opened, "avault.enc is damaged"))
        path.write_bytes(whole)
        if state == "unlocked":
            wait_until(lambda: not warnings(opened, "avault.enc"))
        else:
            opened(*words)
            assert opened.status()["state"] == state
            opened("unlock")
