"""Custodians: what opens a vault besides the phone. The kinds have files of their own; this is about the seam.

The custodian here is a program of ours, `avault-custodian-box`, which also does what a good one never would.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nostr_sdk
import peers
import pytest
from box import Box
from canary import Canary
from harness import AVAULT, Machine, Screen, files_with, wait_until
from peers import Relay, Rogue, misdeeds

import avault

pytestmark = pytest.mark.usefixtures("forks")


class Owner:
    """A machine whose phone has opened its vault, which is open; and the box."""

    def __init__(self, machine: Machine, phone: Rogue, operator: nostr_sdk.Keys) -> None:
        self.machine, self.phone, self.operator, self.box = machine, phone, operator, Box(machine.top)
        machine("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=phone.uri)

    def sentence(self) -> str:
        """What the phone was asked last, in words."""
        agent, envelope = self.phone.requests("nip44_decrypt")[-1]["params"]
        text = nostr_sdk.nip44_decrypt(self.operator.secret_key(), nostr_sdk.PublicKey.parse(agent), envelope)
        return str(json.loads(text)["content"])

    def asked(self) -> int:
        return len(self.phone.requests("nip44_decrypt"))

    def agent(self) -> str:
        return str(self.machine.status()["agent_npub"])

    def npub(self) -> str:
        return str(self.operator.public_key().to_bech32())

    def add(self, *words: str, name: str = "box", code: int = 0) -> Any:
        path = f"path={self.box.path}"
        return self.machine("custody", "add", "program", path, *words, "--name", name, "--yes", code=code)

    def order(self) -> list[str]:
        return list(self.machine.status()["custodians"])


@pytest.fixture
def owner(machine: Machine, relay: Relay) -> Iterator[Owner]:
    operator = nostr_sdk.Keys.generate()
    with peers.rogue([relay.url], nsec=operator.secret_key().to_bech32()) as phone:
        yield Owner(machine, phone, operator)


def own_file(machine: Machine, name: str = "box") -> Path:
    return machine.own / f"custody-{name}.json"


# Adding, and opening


@pytest.mark.slow
def test_a_custodian_opens_the_vault_and_nobody_is_asked(owner: Owner, canary: Canary) -> None:
    machine, asked = owner.machine, owner.asked()
    machine("set", "openai/API_KEY", input=canary.value)
    assert "box opens this vault from now on, and asks nobody" in owner.add().stderr
    assert owner.asked() == asked + 1, "the phone agreed, once"
    canary.watch(owner.box.kept())
    assert own_file(machine).stat().st_mode & 0o777 == 0o600
    assert owner.order() == ["box", "phone"]
    for _ in range(2):
        machine("daemon", "stop")
        machine("daemon", "start", "-b")
        status = machine.wait_state("unlocked")
        assert "the custodian box opens this vault: nobody was asked" in status["warnings"]
        assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
    assert owner.asked() == asked + 1
    lines = [json.loads(line) for line in machine("log", "--json").stdout.splitlines()]
    assert {"add box, program", "the custodian box"} <= {line.get("for") for line in lines}
    machine("custody", "remove", "box", "--yes")
    assert not own_file(machine).exists() and not (owner.box.place / "box").exists()
    machine("lock")
    machine("unlock")
    assert owner.asked() == asked + 2


def test_the_phone_is_asked_in_words_of_its_own(owner: Owner) -> None:
    done = owner.add()
    sentence = owner.sentence()
    where = re.escape(avault.printable(str(owner.box.path), 60))
    said = rf"avault: let box \(program\) at {where} open test@machine on \S+ WITHOUT anybody, always, code (\w{{4}})\."
    found = re.match(said, sentence)
    assert found and f"the phone is asked, code {found[1]}\n" in done.stderr, "the terminal shows the same code"
    owner.add("person=yes", name="other", code=2)


def test_what_the_phone_refuses_is_not_added(owner: Owner) -> None:
    owner.phone.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"])
    owner.add(code=5)
    assert owner.order() == ["phone"] and not own_file(owner.machine).exists()
    assert not (owner.box.place / "box").exists()


@pytest.mark.slow
def test_one_that_does_not_open_the_vault_does_not_count(owner: Owner) -> None:
    owner.box.mode("lies")
    done = owner.add(code=8)
    assert "the custodian has its key, and does not open the vault" in done.stderr
    assert owner.order() == ["phone"]
    owner.machine("unlock", "--with", "box", code=None)
    assert not own_file(owner.machine).exists() and not (owner.box.place / "box").exists(), "nothing is left of it"
    owner.box.mode("ok")
    owner.add()
    assert owner.order() == ["box", "phone"]
    before = own_file(owner.machine).read_bytes()
    owner.box.mode("lies")
    owner.add("--replace", code=8)
    assert own_file(owner.machine).read_bytes() == before
    owner.box.mode("ok")
    owner.machine("custody", "test", "box")
    owner.add("--replace")
    assert own_file(owner.machine).read_bytes() != before
    owner.machine("custody", "test", "box")


@pytest.mark.parametrize(
    ("mode", "code"), [("denied", 5), ("not_found", 4), ("unavailable", 6), ("error", 1), ("garbage", 1), ("dies", 1)]
)
@pytest.mark.slow
def test_what_is_not_ok_gives_way_to_the_phone(owner: Owner, mode: str, code: int) -> None:
    """Said, and never silently another one; by its name it is the only one that is tried."""
    machine = owner.machine
    owner.add()
    machine("lock")
    owner.box.mode(mode)
    asked = owner.asked()
    done = machine("unlock", "--with", "box", code=code)
    assert owner.asked() == asked and machine.status()["state"] == "locked"
    assert "avault: error: " in done.stderr
    machine("unlock")
    assert owner.asked() == asked + 1
    assert any(text.startswith("the custodian box did not open the vault: ") for text in machine.status()["warnings"])
    shown = machine("custody", "list", "--json").json["custodians"][0]
    assert (shown["name"], shown["outcome"]) == ("box", {"garbage": "error", "dies": "error"}.get(mode, mode))
    machine("custody", "test", "box", code=code)


@pytest.mark.long
@pytest.mark.slow
def test_one_that_hangs_gives_way(owner: Owner) -> None:
    owner.add()
    owner.machine("lock")
    owner.box.mode("hangs")
    asked = owner.asked()
    owner.machine("unlock")
    assert owner.asked() == asked + 1


@pytest.mark.slow
def test_a_caller_that_leaves_takes_the_helper_with_it(owner: Owner) -> None:
    owner.add()
    machine = owner.machine
    machine("lock")
    owner.box.mode("hangs")
    running = machine.start("unlock", "--with", "box")

    def boxes() -> list[Path]:
        found = []
        for each in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if str(owner.box.path).encode() in each.read_bytes():
                    found.append(each)
            except OSError:
                continue
        return found

    wait_until(lambda: len(boxes()) == 1, what="the program")
    running.process.send_signal(signal.SIGINT)
    running.wait()
    wait_until(lambda: not boxes(), what="its end")
    assert machine.status()["state"] == "locked"


# Trying


def test_a_trial_opens_the_vault_and_leaves_it_locked(owner: Owner) -> None:
    machine = owner.machine
    owner.add()
    machine("lock")
    before = {path: path.read_bytes() for path in machine.own.iterdir() if path.is_file() and path.name != "custodians.json"}
    assert "box opens this vault" in machine("custody", "test", "box").stderr
    assert machine.status()["state"] == "locked" and machine.status()["keyholder_pid"] is None
    assert before == {path: path.read_bytes() for path in before}, "it writes nothing"
    owner.box.mode("lies")
    machine("custody", "test", "box", code=8)
    machine("custody", "test", "nobody", code=4)
    assert "avault drill" in machine("custody", "test", "phone", code=2).stderr


# The order


@pytest.mark.slow
def test_the_order_is_what_was_said(owner: Owner) -> None:
    machine = owner.machine
    owner.add()
    owner.add(name="other")
    assert owner.order() == ["box", "other", "phone"]
    machine("custody", "order", "other", "phone", "box")
    assert owner.order() == ["other", "phone", "box"]
    for words in (["box"], ["box", "other", "phone", "phone"], ["box", "other", "fone"], []):
        assert "each of them once" in machine("custody", "order", *words, code=2).stderr
    owner.box.mode("unavailable")
    machine("lock")
    asked = owner.asked()
    machine("unlock")
    assert owner.asked() == asked + 1, "other was not there, and what stands behind the phone is not tried"
    owner.box.mode("ok")
    machine("lock")
    machine("unlock", "--with", "box")
    machine("lock")
    machine("unlock", "--with", "phone")
    assert owner.asked() == asked + 2
    shown = machine("custody", "list").stdout.splitlines()
    assert [line.split()[:3] for line in shown[1:]] == [
        ["1", "other", "program"],
        ["2", "phone", "phone"],
        ["3", "box", "program"],
    ]
    assert owner.machine("doctor", code=None).stdout.count("opens the vault without a person") == 2


def test_a_person_is_asked_only_where_one_is(owner: Owner) -> None:
    """And what a person says no to is over: nothing comes after it."""
    machine = owner.machine
    with Screen(machine, AVAULT, "custody", "add", "program", f"path={owner.box.path}", "person=yes", "--name", "box") as screen:
        screen.expect(r"Add it\? \[y/N\] ")
        screen.type("y\n")
        screen.wait()
    assert owner.order() == ["phone", "box"], "behind the phone"
    machine("custody", "order", "box", "phone")
    machine("lock")
    owner.box.mode("denied")
    asked = owner.asked()
    machine("unlock")
    assert owner.asked() == asked + 1, "no terminal: it is not tried"
    machine("lock")
    with Screen(machine, AVAULT, "unlock") as screen:
        assert b"the box says denied" in screen.wait(5)
    assert owner.asked() == asked + 1 and machine.status()["state"] == "locked"
    owner.box.mode("unavailable")
    with Screen(machine, AVAULT, "unlock") as screen:
        screen.wait()
    assert owner.asked() == asked + 2, "not there is no refusal"


# Taking away


def test_the_phone_has_to_agree_to_be_taken_out(owner: Owner) -> None:
    machine = owner.machine
    assert "nothing but the phone opens this vault" in machine("custody", "remove", "phone", "--yes", code=5).stderr
    owner.add()
    owner.phone.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"])
    machine("custody", "remove", "phone", "--yes", code=5)
    assert owner.order() == ["box", "phone"]
    owner.phone.behave("nip44_decrypt", [{"honest": True}])
    machine("custody", "remove", "phone", "--yes")
    assert owner.order() == ["box"]
    assert owner.sentence().startswith("avault: from now on your phone does NOT open test@machine on ")
    asked = owner.asked()
    assert "is the last that opens this vault" in machine("custody", "remove", "box", "--yes", code=5).stderr
    machine("lock")
    machine("unlock")
    owner.box.mode("unavailable")
    machine("lock")
    machine("unlock", code=6)
    assert owner.asked() == asked, "the phone is out"
    owner.box.mode("ok")
    machine("unlock")
    machine("pair", "--replace", "--no-drill", "--bunker", "-", input=owner.phone.uri)
    assert owner.order() == ["box", "phone"], "and in again"


def test_what_a_custodian_does_not_forget_is_said(owner: Owner) -> None:
    owner.add()
    owner.box.mode("unavailable")
    done = owner.machine("custody", "remove", "box", "--yes", code=6)
    assert "box opens nothing any more, but still has its key" in done.stderr
    assert owner.order() == ["phone"] and not own_file(owner.machine).exists()


def test_moving_adds_before_it_removes(owner: Owner) -> None:
    machine = owner.machine
    owner.add()
    words = ("custody", "move", "box", "program", f"path={owner.box.path}", "--name", "second", "--yes")
    owner.phone.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"])
    machine(*words, code=5)
    assert owner.order() == ["box", "phone"], "the old one stays"
    owner.phone.behave("nip44_decrypt", [{"honest": True}])
    machine(*words)
    assert owner.order() == ["second", "phone"] and not own_file(machine).exists()
    assert "no custodian box" in machine(*words, code=2).stderr
    assert "one name" in machine("custody", "move", "second", "program", "--name", "second", "--yes", code=2).stderr


# What is wrong


def test_bad_words(owner: Owner) -> None:
    machine = owner.machine
    for words, says in (
        (("custody", "add", "--yes"), "which kind?"),
        (("custody", "add", "nonsense", "--yes"), "no custodian of the kind nonsense"),
        (("custody", "add", "program", "path", "--yes"), "not SETTING=VALUE: path"),
        (("custody", "add", "program", "path=a", "path=b", "--yes"), "named twice"),
        (("custody", "add", "program", f"path={owner.box.path}", "--name", "phone", "--yes"), "the phone's of this machine"),
        (("custody", "add", "program", f"path={owner.box.path}", "--name", "../x", "--yes"), "not a name"),
        (("custody", "add", "passphrase", "--yes"), "asks a person, and there is no terminal"),
        (("custody", "remove", "../x", "--yes"), "not a name"),
    ):
        assert says in machine(*words, code=2).stderr, words
    owner.add()
    assert "there is a custodian box already" in owner.add(code=2).stderr
    assert "not confirmed" in machine("custody", "add", "passphrase", code=5).stderr
    assert owner.order() == ["box", "phone"]


def test_a_locked_or_unproven_vault_gets_no_custodian(owner: Owner) -> None:
    owner.machine("lock")
    owner.add(code=3)
    with Machine(owner.machine.top / "second") as other:
        other.init_unproven()
        words = ("custody", "add", "program", f"path={owner.box.path}", "--yes")
        assert "nobody has shown yet that the phone opens this vault" in other(*words, code=5).stderr
        assert other.status()["custodians"] == ["phone"]


@pytest.mark.parametrize("swap", ["file", "sealed", "kept", "vault"])
@pytest.mark.slow
def test_files_that_were_swapped_open_nothing(owner: Owner, swap: str) -> None:
    """What is sealed names its custodian: one's copy is not opened by another's key, whatever lies where."""
    machine = owner.machine
    owner.add(name="a")
    owner.add(name="b")
    machine("lock")
    contents = {name: avault.decode_file("custody", own_file(machine, name).read_bytes(), name) for name in ("a", "b")}
    changed = dict(contents["a"])
    if swap == "file":
        changed = contents["b"]
    elif swap == "vault":
        changed["agent"] = str(nostr_sdk.Keys.generate().public_key().to_bech32())
    elif swap == "sealed":
        changed["sealed"] = contents["b"]["sealed"]
        (owner.box.place / "a").write_text(owner.box.kept("b"))
    else:
        changed["kind"] = "passphrase"
    own_file(machine, "a").write_bytes(avault.encode_file("custody", changed))
    machine("unlock", "--with", "a", code=4 if swap == "kept" else 8)
    assert machine.status()["state"] == "locked"
    machine("unlock", "--with", "b")


def test_a_damaged_register_is_the_phone_alone(owner: Owner) -> None:
    machine = owner.machine
    owner.add()
    machine("lock")
    (machine.own / "custodians.json").write_text("{}")
    asked = owner.asked()
    machine("unlock")
    assert owner.asked() == asked + 1 and owner.order() == ["phone"]
    assert "custodians.json is damaged" in machine("doctor", code=None).stdout
    machine("custody", "list", code=8)


def test_a_program_that_others_can_change_is_not_run(owner: Owner) -> None:
    owner.add()
    owner.machine("lock")
    owner.box.path.chmod(0o722)
    asked = owner.asked()
    owner.machine("unlock", "--with", "box", code=5)
    owner.machine("unlock")
    assert owner.asked() == asked + 1


# Consent: the phone's, wherever there is one


def test_a_pairing_that_is_moved_away_is_no_way_round_the_phone(owner: Owner) -> None:
    """A custodian that asks nobody opens the vault; it does not agree to another in the phone's place."""
    machine = owner.machine
    owner.add()
    machine("daemon", "stop")
    pairing = (machine.own / "pairing.json").read_bytes()
    for is_open in (True, False):
        machine("daemon", "stop")
        if not is_open:
            (machine.own / "pairing.json").unlink()
        machine("daemon", "start", "-b")
        machine.wait_state("unlocked")
        (machine.own / "pairing.json").unlink(missing_ok=True)
        asked = owner.asked()
        owner.phone.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"])
        owner.add(name="evil", code=5)
        assert owner.asked() - asked == is_open, "an open vault knows its pairing"
        assert owner.order() == ["box", "phone"]
        owner.phone.behave("nip44_decrypt", [{"honest": True}])
        (machine.own / "pairing.json").write_bytes(pairing)


def connect(machine: Machine) -> avault.Places:
    places = avault.Places(str(machine.vault))
    places.socket = machine.status()["socket"]
    return places


@pytest.mark.slow
def test_a_phone_that_is_out_is_not_asked_to_open(owner: Owner) -> None:
    """Not for a second caller either, while the first one is at a custodian."""
    machine = owner.machine
    owner.add()
    machine("custody", "remove", "phone", "--yes")
    machine("lock")
    owner.box.mode("hangs")
    asked = owner.asked()
    first = machine.start("unlock", "--timeout", "20s")
    wait_until(lambda: machine.status()["keyholder_pid"], what="the first caller's keyholder")
    second = machine.start("unlock", "--timeout", "3s")
    assert second.wait().returncode != 0
    assert owner.asked() == asked
    owner.box.mode("ok")
    first.process.send_signal(signal.SIGINT)
    first.wait()
    machine("unlock")
    assert owner.asked() == asked
    owner.add(name="other")
    assert owner.asked() == asked + 1, "it still agrees to changes"


@pytest.mark.slow
@pytest.mark.long
def test_who_waits_at_a_prompt_keeps_nobody_from_the_phone(owner: Owner) -> None:
    machine = owner.machine
    owner.add()
    machine("lock")
    owner.box.mode("hangs")
    asked = owner.asked()
    first = machine.start("unlock", "--with", "box")
    wait_until(lambda: machine.status()["keyholder_pid"], what="the first caller's keyholder")
    machine("unlock", "--with", "phone", "--timeout", "60s")
    assert owner.asked() == asked + 1
    assert first.process.poll() is None, "it still waits"


def test_a_candidate_of_an_add_that_was_cut_off_goes(owner: Owner) -> None:
    machine = owner.machine
    owner.add()
    candidate = machine.own / "custody-box2.new.json"
    content = avault.decode_file("custody", own_file(machine).read_bytes(), "box")
    candidate.write_bytes(avault.encode_file("custody", {**content, "custodian": "box2", "account": "box2"}))
    (owner.box.place / "box2").write_text("left over")
    owner.add(name="box2")
    assert not candidate.exists() and owner.box.kept("box2") != "left over"
    candidate.write_bytes(avault.encode_file("custody", {**content, "custodian": "gone", "account": "gone"}))
    candidate.rename(machine.own / "custody-gone.new.json")
    (owner.box.place / "gone").write_text("left over")
    machine("forget", "--yes")
    assert not [path.name for path in owner.box.place.iterdir() if path.name in ("box", "box2", "gone")]


def test_two_programs_do_not_keep_their_keys_in_one_place(owner: Owner) -> None:
    """The one would overwrite the other's, and what replaces it would be deleted with it."""
    machine = owner.machine
    place = owner.box.place / "place"
    scripts = {}
    for name, text in (("wrap", f"cat >{place}"), ("unwrap", f"cat {place}"), ("delete", f"rm {place}")):
        scripts[name] = owner.box.place / name
        scripts[name].write_text(f"#!/bin/sh\n{text}\n")
        scripts[name].chmod(0o700)
    settings = [f"{name}={path}" for name, path in scripts.items()]
    machine("custody", "add", "command", *settings, "--yes")
    for words in (["--replace"], ["--name", "other"]):
        assert (
            "keeps its key in that very place" in machine("custody", "add", "command", *settings, *words, "--yes", code=2).stderr
        )
    machine("custody", "test", "command")
    machine("custody", "remove", "command", "--yes")
    assert not place.exists()


def test_without_a_register_all_are_tried(owner: Owner) -> None:
    machine = owner.machine
    owner.add()
    (machine.own / "custodians.json").write_text("{}")
    assert "move it away, then: avault custody list" in machine("custody", "list", code=8).stderr
    (machine.own / "custodians.json").unlink()
    assert owner.order() == ["box", "phone"]
    machine("lock")
    asked = owner.asked()
    machine("unlock")
    assert owner.asked() == asked


def test_a_pairing_that_only_lay_there_is_not_written(owner: Owner) -> None:
    """A custodian opened the vault: by the pairing on the disk the operator is asked, but it has opened nothing."""
    machine = owner.machine
    owner.add()
    machine("lock")
    path = machine.own / "pairing.json"
    genuine = path.read_bytes()
    content = avault.decode_file("pairing", genuine, "pairing")
    path.write_bytes(avault.encode_file("pairing", {**content, "relays": ["wss://evil.example"]}))
    machine("unlock")
    path.write_bytes(genuine)
    machine.status()
    assert path.read_bytes() == genuine


@pytest.mark.skipif(sys.platform != "linux", reason="pidfd_getfd(2)")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may take every descriptor")
@pytest.mark.starts
@pytest.mark.slow
def test_what_a_trial_is_started_with_gives_no_key(owner: Owner, canary: Canary, allow: Callable[[Path], Path]) -> None:
    """Its descriptors, copied before it is hardened: the unlock key comes through none of them."""
    machine = owner.machine
    owner.add()
    key = owner.box.kept()
    canary.watch(key)
    allow(owner.box.place / "box")
    libc = ctypes.CDLL(None, use_errno=True)
    taken: list[int] = []
    done = threading.Event()

    def take() -> None:
        while not done.is_set():
            for each in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    if b"\0trial\0" + str(machine.vault).encode() in each.read_bytes():
                        pidfd = os.pidfd_open(int(each.parent.name))
                        found = [libc.syscall(438, pidfd, number, 0) for number in (0, 1)]  # pidfd_getfd
                        os.close(pidfd)
                        taken.extend(fd for fd in found if fd >= 0)
                except (OSError, ValueError):
                    continue

    thief = threading.Thread(target=take)
    thief.start()
    try:
        for _ in range(4):
            machine("custody", "test", "box")
    finally:
        done.set()
        thief.join()
    said = b""
    for fd in taken:
        with socket.socket(fileno=fd) as stolen, contextlib.suppress(OSError):
            stolen.setblocking(False)
            while piece := stolen.recv(4096):
                said += piece
    assert taken, "the control: some were had"
    assert key.encode() not in said


# Without a phone

KIT = r"key +(nsec1[0-9a-z]{58})"
PHRASE = "six words drawn by dice"


def type_passphrase(screen: Screen, times: int, phrase: str = PHRASE) -> None:
    for _ in range(times):
        screen.expect(r"(passphrase|once more)[^:\n]*: ")
        screen.type(phrase + "\n")


@contextlib.contextmanager
def making_with_passphrase(machine: Machine, canary: Canary) -> Iterator[tuple[Screen, str]]:
    """The terminal where a vault is made that a passphrase is to open, once the kit is written down; and the kit's key."""
    canary.watch(PHRASE)
    with Screen(machine, AVAULT, "init", "--with", "passphrase", "--setting", "log-n=16", lines=90, columns=120) as screen:
        kit = screen.expect(KIT)[1].decode()
        screen.expect(r"is it written down\? \[y/N\] ")
        screen.type("y\n")
        yield screen, kit


def init_with_passphrase(machine: Machine, canary: Canary) -> str:
    """A vault that a passphrase opens; the key of its recovery kit."""
    with making_with_passphrase(machine, canary) as (screen, kit):
        type_passphrase(screen, 3)
        screen.expect("passphrase opens this vault from now on: avault unlock")
        screen.wait()
    return kit


@pytest.mark.slow
def test_a_vault_without_a_phone(machine: Machine, relay: Relay, canary: Canary, allow: Callable[[Path], Path]) -> None:
    kit = init_with_passphrase(machine, canary)
    assert machine.status()["custodians"] == ["passphrase"] and machine.status()["proven"] is True
    machine("set", "openai/API_KEY", input=canary.value)
    machine("lock")
    assert machine.status()["state"] == "locked"
    assert "open it with: avault unlock" in machine("get", "openai/API_KEY", code=3).stderr
    assert "asks a person, and there is no terminal" in machine("unlock", code=3).stderr
    with Screen(machine, AVAULT, "unlock") as screen:
        type_passphrase(screen, 1, "not that one, but long")
        assert b"the passphrase is wrong" in screen.wait(5)
    with Screen(machine, AVAULT, "unlock") as screen:
        type_passphrase(screen, 1)
        shown = screen.wait()
    assert PHRASE.encode() not in shown, "it is not echoed"
    assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
    assert not [path for word in (kit, PHRASE) for path in files_with(word, machine.own, machine.vault)]
    phrase = machine.top / "phrase"
    phrase.write_text(PHRASE + "\n")
    phrase.chmod(0o600)
    machine("lock")
    done = machine("unlock", "--with", "passphrase", "--passphrase-file", str(phrase))
    assert "whoever reads" in done.stderr
    phrase.unlink()

    with Machine(machine.top / "second") as other:
        other.vault.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(machine.vault, other.vault)
        status = machine.status()
        names = ("--agent", status["agent_npub"], "--signer-npub", status["signer_npub"])
        wrong = str(nostr_sdk.Keys.generate().secret_key().to_bech32())
        done = other("recover", *names, "--operator-key", "-", input=wrong, code=8)
        assert "not the key of this vault's operator" in done.stderr
        box = Box(other.top)
        words = ("--operator-key", "-", "--with", "program", "--setting", f"path={box.path}")
        other("recover", *names, *words, input=kit)
        assert other("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
        other("custody", "add", "program", f"path={box.path}", "--name", "box", "--yes")
        with peers.rogue([relay.url], nsec=kit) as phone:
            other("pair", "--no-drill", "--bunker", "-", input=phone.uri)
            phone.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"])
            other("custody", "add", "program", f"path={box.path}", "--name", "evil", "--yes", code=5)
            other("custody", "remove", "phone", "--yes", code=5)
        canary.watch(box.kept())
        allow(box.place / "box")
        other("lock")
        other("unlock")


@pytest.mark.slow
def test_only_who_made_it_adds_the_first_custodian(machine: Machine, canary: Canary) -> None:
    """A vault without a phone is open, and its passphrase was not typed well: another program adds nothing meanwhile."""
    box = Box(machine.top)
    with making_with_passphrase(machine, canary) as (screen, kit):
        type_passphrase(screen, 1)
        type_passphrase(screen, 1, "something else")
        screen.expect(r"are not the same\. Try again\? \[y/N\] ")
        words = ("custody", "add", "program", f"path={box.path}", "--yes")
        assert "nobody can agree to that" in machine(*words, code=5).stderr
        request = {"action": "add", "kind": "program", "name": "box", "settings": {"path": str(box.path)}}
        with pytest.raises(avault.Denied):
            avault.ask_daemon(connect(machine), "custody", **request, ticket="00" * 16)
        assert not list(machine.own.glob("custody-*")) and not (box.place / "box").exists()
        screen.type("y\n")
        type_passphrase(screen, 3)
        screen.wait()
    machine("daemon", "stop")
    (machine.own / "custody-passphrase.json").unlink()  # and the custodian is gone
    status = machine.status()
    names = ("--agent", status["agent_npub"], "--signer-npub", status["signer_npub"], "--operator-key", "-")
    machine("recover", *names, "--with", "program", "--setting", f"path={box.path}", input=kit)
    canary.watch(box.kept("program"))
    machine("lock")
    machine("unlock")
    machine("custody", "remove", "program", "--yes", code=5)
    (box.place / "program").unlink()


@pytest.mark.slow
def test_a_kit_that_is_not_kept_makes_nothing(machine: Machine) -> None:
    with Screen(machine, AVAULT, "init", "--with", "passphrase", lines=90, columns=120) as screen:
        screen.expect(KIT)
        screen.expect(r"is it written down\? \[y/N\] ")
        screen.type("n\n")
        assert b"nothing was made" in screen.wait(5)
    assert not machine.vault.exists()
    assert "there is none" in machine("init", "--with", "passphrase", code=2).stderr


def test_when_the_phone_last_opened_it_is_known(owner: Owner) -> None:
    machine, before = owner.machine, "2026-01-31T12:00:00Z"
    owner.add()
    machine("daemon", "stop")
    path = machine.own / "unlock.json"
    content = avault.decode_file("unlock", path.read_bytes(), str(path))
    path.write_bytes(avault.encode_file("unlock", {**content, "proven": before}))
    machine("daemon", "start", "-b")
    machine.wait_state("unlocked")

    def shown() -> str:
        [_, phone] = machine("custody", "list", "--json").json["custodians"]
        assert phone["operator"] == owner.npub() and phone["opened"] == machine.status()["phone_opened"]
        assert f"Phone: it last opened this vault at {phone['opened']}\n" in machine("status").stdout
        assert f"the phone of {owner.npub()[:16]}…" in machine("custody", "list").stdout
        return str(phone["opened"])

    assert shown() == before, "the box has opened it since"
    machine("lock")
    machine("unlock", "--with", "phone")
    assert shown() > before


@pytest.mark.slow
def test_a_kit_as_a_sheet(machine: Machine, canary: Canary) -> None:
    """It is written once, where nothing was; and goes again with a vault that is not made."""
    path = machine.top / "kit.html"
    words = [AVAULT, "init", "--with", "passphrase", "--setting", "log-n=16", "--kit", str(path)]
    with Screen(machine, *words, lines=90, columns=120) as screen:
        screen.expect(r"is it written down, or printed\? \[y/N\] ")
        assert path.stat().st_mode & 0o777 == 0o600
        screen.type("n\n")
        screen.wait(5)
    assert not path.exists() and not machine.vault.exists()
    with Screen(machine, *words, lines=90, columns=120) as screen:
        kit = screen.expect(KIT)[1].decode()
        screen.expect("whoever reads .*kit.html has that key")
        screen.expect(r"is it written down, or printed\? \[y/N\] ")
        screen.type("y\n")
        type_passphrase(screen, 3)
        screen.wait()
    page = path.read_text()
    pieces = re.findall("<li>(.*)", page)
    assert "".join(pieces) == kit and kit not in page, "in pieces, and as a QR code"
    status = machine.status()
    assert status["signer_npub"] in page and f"Recovery kit of {status['name']}" in page
    assert "<code>avault recover --operator-key - --with passphrase</code>" in page
    path.unlink()


@pytest.mark.parametrize("where", ["there", "in the vault", "in a work tree", "nowhere", "with a phone"])
def test_where_no_kit_is_written(machine: Machine, where: str) -> None:
    path = {
        "there": machine.top / "kit.html",
        "in the vault": machine.vault / "kit.html",
        "in a work tree": machine.top / "notes" / "kit.html",
        "nowhere": machine.top / "none" / "kit.html",
        "with a phone": machine.top / "other.html",
    }[where]
    (machine.top / "kit.html").write_text("a file of mine")
    machine.vault.mkdir(parents=True, exist_ok=True)
    (machine.top / "notes" / ".git").mkdir(parents=True)
    words = ["--signer-npub", machine.npub()] if where == "with a phone" else ["--with", "passphrase"]
    with Screen(machine, AVAULT, "init", *words, "--kit", str(path), lines=90, columns=120) as screen:
        screen.wait(2)
    assert (machine.top / "kit.html").read_text() == "a file of mine" and not (machine.vault / "avault.enc").exists()


@pytest.mark.slow
def test_the_terminal_is_left_as_it_was(machine: Machine, canary: Canary) -> None:
    """Ctrl-C at the question, and a helper that is killed: the echo is back."""
    init_with_passphrase(machine, canary)
    machine("lock")
    shell = shlex.join([AVAULT, "unlock"]) + "; stty -a"
    with Screen(machine, "sh", "-c", f"trap : INT; {shell}") as screen:
        screen.expect("the vault's passphrase: ")
        assert not termios.tcgetattr(screen.fd)[3] & termios.ECHO
        screen.type("\x03")
        screen.expect(r"[^-]echo ")
        screen.wait(None)
    assert machine.status()["state"] == "locked"
