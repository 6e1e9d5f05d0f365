"""A secret whose guard asks, with the processes that there are: who has it in memory, when; and what the commands say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import nostr_sdk
import peers
import pytest
from canary import Canary
from harness import AVAULT, Machine, daemon_processes, files_with, wait_until
from peers import Relay, misdeeds
from test_guard_commands import Office
from test_processes import Memory, linux

HONEST_WAIT = [{"honest": True, "wait": True}]
REFUSED = misdeeds.REFUSALS["amber, clave"]


@pytest.fixture
def office(machine: Machine, relay: Relay, canary: Canary) -> Iterator[Office]:
    keys = nostr_sdk.Keys.generate()
    with peers.rogue([relay.url], nsec=keys.secret_key().to_bech32()) as phone:
        office = Office(machine, phone, keys)
        done = machine("guard", "stripe/KEY", "--ask")
        assert "stripe/KEY is guarded: the phone is asked for each use" in done.stderr
        machine("set", "stripe/KEY", input=canary.value)
        yield office


def openers(machine: Machine) -> list[int]:
    """The processes that open secrets for a machine."""
    return daemon_processes(machine, "avault-opener")


@pytest.mark.slow
def test_it_is_asked_for_by_every_command_that_names_it(office: Office, canary: Canary) -> None:
    machine = office.machine
    asked = len(office.sentences())
    assert machine("get", "stripe/KEY", secret=True).stdout == canary.value + "\n"
    first, second = office.sentences()[asked:]
    assert "wants stripe/KEY of test@machine, to get it; question 1 of 2, code " in first and "(pid " in first
    assert second.startswith("avault: open stripe/KEY of test@machine on ") and "for one use, code " in second
    got = machine("get", "stripe/KEY", "--json", secret=True)
    assert got.json["value"] == canary.value and "avault: asking the phone, code " in got.stderr
    ran = machine("run", "--only", "stripe/KEY", "--", "sh", "-c", 'test -n "$KEY" && echo "it is $KEY"')
    assert ran.stdout == "it is <avault:stripe/KEY>\n"
    assert "wants stripe/KEY of test@machine, to export it (as it says, for a command)" in office.sentences()[-2]
    exported = machine("export", "--only", "stripe/KEY", "--format", "dotenv", secret=True)
    assert canary.value in exported.stdout
    count = len(office.sentences())
    assert count == asked + 8
    assert "left out, as guarded: stripe/KEY" in machine("export", "--format", "dotenv").stderr
    assert len(office.sentences()) == count
    machine("lock")
    machine("unlock")
    assert machine("get", "stripe/KEY", secret=True).stdout == canary.value + "\n"


@pytest.mark.slow
def test_a_refusal_and_its_pause(office: Office) -> None:
    machine, phone = office.machine, office.phone
    phone.behave("nip44_decrypt", REFUSED, requests=1)
    assert "refused" in machine("get", "stripe/KEY", code=5).stderr
    count = len(office.sentences())
    assert "it is not asked again for" in machine("get", "stripe/KEY", code=5).stderr
    assert len(office.sentences()) == count


@pytest.mark.slow
def test_status_and_list_say_what_is_asked(office: Office) -> None:
    machine, phone = office.machine, office.phone
    machine("set", "free/KEY", input="free of guards")
    assert machine.status()["asks"] == ["stripe/KEY"]
    shown = machine("status").stdout
    assert "Asks the phone: stripe/KEY\n" in shown and "Asked now" not in shown and "Pause" not in shown
    listed = machine("list").stdout
    assert "guarded: the phone is asked for each use" in listed and "sealed:" not in listed
    groups = machine("list", "--json").json["groups"]
    assert [each["keys"][0]["sealed"] for each in groups] == [False, True]
    phone.behave("nip44_decrypt", HONEST_WAIT)
    process = machine.start("get", "stripe/KEY")
    wait_until(lambda: machine.status()["questions"])
    [question] = machine.status()["questions"]
    assert question["names"] == ["stripe/KEY"] and "), started by " in question["by"]
    assert f"Asked now: stripe/KEY, by {question['by']}, code {question['code']}, since " in machine("status").stdout
    phone.behave("nip44_decrypt", REFUSED)
    phone.go()
    assert process.wait().returncode == 5
    assert machine.status()["questions"] == []
    *_, pause = machine.status()["pauses"]
    assert pause["name"] == "stripe/KEY" and pause["program"].startswith("python")
    assert f"Pause: {pause['program']} may ask for stripe/KEY again at {pause['until']}\n" in machine("status").stdout
    phone.behave("nip44_decrypt", [{"honest": True}])
    machine("unguard", "stripe/KEY", "--yes")
    assert "sealed: its next use asks the phone" in machine("list").stdout and machine.status()["asks"] == ["stripe/KEY"]
    machine("lock")
    assert [machine.status()[name] for name in ("asks", "questions", "pauses")] == [None, None, None]


@pytest.mark.slow
def test_who_does_not_wait_for_a_phone_is_told(office: Office, canary: Canary, allow: Callable[[Path], Path]) -> None:
    machine, asked = office.machine, len(office.sentences())
    told = machine("openclaw-provider", input=json.dumps({"protocolVersion": 1, "provider": "avault", "ids": ["stripe/KEY"]}))
    assert "the phone is asked for each use" in json.loads(told.stdout)["errors"]["stripe/KEY"]["message"]
    (leak := allow(machine.top / "leak.env")).write_text(f"KEY={canary.value}\n")
    assert "not compared, as they are guarded: stripe/KEY" in machine("audit", "--file", str(leak), code=None).stderr
    assert "not looked for, as they are guarded: stripe/KEY" in machine("scan", str(leak), code=None).stderr
    (leak.parent / "new.env").write_text("KEY=another value of it\n")
    machine("import", str(leak.parent / "new.env"), "--group", "stripe", "--replace")
    assert len(office.sentences()) == asked
    assert machine("get", "stripe/KEY").stdout == "another value of it\n"


@pytest.mark.slow
def test_it_is_in_no_file_and_every_copy_opens_to_a_sealed_value(office: Office, canary: Canary) -> None:
    machine = office.machine
    machine("get", "stripe/KEY", secret=True)
    assert not files_with(canary.value, machine.home, machine.state, machine.runtime)


@pytest.mark.slow
def test_a_program_that_is_killed_gets_nothing(office: Office) -> None:
    machine, phone = office.machine, office.phone
    phone.behave("nip44_decrypt", HONEST_WAIT)
    before = len(phone.requests("nip44_decrypt"))
    process = subprocess.Popen([AVAULT, "get", "stripe/KEY"], env=machine.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: len(phone.requests("nip44_decrypt")) > before)
    assert openers(machine)
    process.kill()
    assert process.communicate()[0] == b""
    wait_until(lambda: not openers(machine), what="the process that asked has ended")
    phone.go()


@linux
@pytest.mark.root
@pytest.mark.slow
def test_memory_of_what_is_asked_for(machine: Machine, canary: Canary) -> None:
    """Until the phone has agreed, nobody has it, and afterwards who got it; the process that opened it, as a control, has it."""
    keys, memory = nostr_sdk.Keys.generate(), Memory()
    memory.want("free", canary.new("free"))
    memory.want("asked", canary.value)

    with peers.local_relay() as relay, peers.rogue([relay.url], nsec=keys.secret_key().to_bech32()) as phone:
        office = Office(machine, phone, keys)
        machine("set", "free/KEY", input=canary.new("free"))
        machine("guard", "stripe", "--ask", "15m")
        machine("set", "stripe/KEY", input=canary.value)

        def held(pid: int) -> set[str]:
            return {name for name in memory.found(pid) if "," not in name}

        def daemon() -> list[int]:
            status = machine.wait_state("unlocked")
            return [status["pid"], status["keyholder_pid"]]

        supervisor, keyholder = daemon()
        assert (held(supervisor), held(keyholder)) == (set(), {"free"}), "what is set is sealed before it is here"
        wait_until(lambda: not openers(machine), what="the process that sealed it has ended")
        phone.behave("nip44_decrypt", HONEST_WAIT)

        def questions() -> int:
            return len({each["id"] for each in phone.requests("nip44_decrypt")})

        asked = questions()
        running = subprocess.Popen([AVAULT, "get", "stripe/KEY"], env=machine.env, stdout=subprocess.PIPE)
        wait_until(lambda: questions() == asked + 1)
        assert [held(pid) for pid in (keyholder, *openers(machine))] == [{"free"}, set()], "the first question is out"
        phone.go()
        phone.behave("nip44_decrypt", HONEST_WAIT)  # for the second, however long it takes to look through all
        wait_until(lambda: questions() == asked + 2)
        assert [held(pid) for pid in (keyholder, *openers(machine))] == [{"free"}, set()], "the second question is out"
        assert running.poll() is None
        phone.go()
        assert running.communicate()[0] == canary.value.encode() + b"\n"
        assert [held(pid) for pid in (keyholder, *openers(machine))] == [{"free"}, {"asked"}], "it stays for a time"
        assert office.sentences()[-2].endswith("Approve only if you expect it.")
        os.kill(openers(machine)[0], signal.SIGKILL)
        wait_until(lambda: not openers(machine), what="the process has ended")
        assert (held(supervisor), held(keyholder)) == (set(), {"free"}), "with that process it is gone"
        phone.behave("nip44_decrypt", [{"honest": True}])
        assert machine("get", "stripe/KEY", secret=True).stdout == canary.value + "\n"
        machine("lock")
        wait_until(lambda: not openers(machine), what="the lock ends it")
