"""Many machines over a real sshd: each failure is a row, no value is in a command line, and nobody revokes too early."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peers
import pytest
from fleet_hosts import SSHD, Doors, Silent
from harness import Done, Machine, Screen, wait_until
from peers import misdeeds
from ports import free_port

import avault

pytestmark = pytest.mark.skipif(not SSHD or not shutil.which("ssh"), reason="no OpenSSH here, or no sshd")


class Fleet:
    """A desk, from which the fleet is worked on; the doors; the machines behind them, and their operator's phone."""

    def __init__(self, top: Path, phone: peers.Rogue) -> None:
        self.top, self.phone = top, phone
        self.doors = Doors(top / "ssh")
        self.desk = Machine(top / "desk")
        self.desk.env["PATH"] = f"{self.doors.bin}:{self.desk.env['PATH']}"
        self.desk.env["XDG_CONFIG_HOME"] = str(top / "config")
        self.list = top / "config" / "avault" / "fleet"
        self.machines: dict[str, Machine] = {}

    def machine(self, name: str) -> Machine:
        """A machine with a vault that the phone has opened; open."""
        machine = self.machines[name] = Machine(self.top / name)
        machine("init", "--name", f"{name}@fleet", "--no-drill", "--bunker", "-", input=self.phone.uri)
        return machine

    def write(self, *lines: str) -> None:
        self.list.parent.mkdir(parents=True, exist_ok=True)
        self.list.write_text("".join(line + "\n" for line in lines))

    def __call__(self, *words: str, code: int | None = 0, **settings: Any) -> Done:
        return self.desk("fleet", *words, code=code, **settings)

    def words(self, *words: str, code: int | None = None, **settings: Any) -> dict[str, tuple[str, int]]:
        """Of each host: the word and the code."""
        rows = self(*words, "--json", code=code, **settings).json["hosts"]
        return {row["host"]: (row["word"], row["code"]) for row in rows}

    def close(self) -> None:
        for machine in self.machines.values():
            machine.end()
        self.phone.stop()
        self.doors.close()


@pytest.fixture(scope="module")
def made(relay: Any) -> Iterator[list[Fleet]]:
    """The fleet of this module, made by the first test that wants it."""
    made: list[Fleet] = []
    yield made
    for fleet in made:
        fleet.close()


@pytest.fixture
def fleet(made: list[Fleet], place: Any, relay: Any) -> Fleet:
    """Two machines, web1 and web2, in the list and open."""
    if not made:
        made.append(Fleet(Path(tempfile.mkdtemp(prefix="f", dir=place.top.parent)), peers.rogue([relay.url])))
        for name in ("one", "two"):
            made[0].machine(name)
    yard = made[0]
    yard.doors.aliases.clear()
    yard.doors.known("host_key")
    for host, machine in zip(("web1", "web2"), yard.machines.values(), strict=True):
        yard.doors.add(host, machine)
        if machine.status()["state"] != "unlocked":
            machine("unlock")
    yard.write("web1", "web2")
    return yard


def test_status_is_a_table(fleet: Fleet) -> None:
    done = fleet("status")
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["HOST", "STATE", "FOR", "SECRETS", "VERSION", "NOTE"]
    assert sorted(row.split()[:2] for row in rows) == [["web1", "unlocked"], ["web2", "unlocked"]]
    assert done.stderr == "avault: 2 unlocked\n"


def test_add_and_remove(fleet: Fleet) -> None:
    fleet.list.unlink()
    assert "no host is in the fleet yet" in fleet("status", code=4).stderr
    done = fleet("add", "web1", "web2", "web1")
    assert "2 of 3 added to " in done.stderr and done.stdout.count("unlocked") == 2
    assert "0 of 1 added" in fleet("add", "web1").stderr
    fleet("add", "odd", "--vault", "~/my vaüt", "--program", "~/.local/bin/avault")
    assert fleet.list.read_text().splitlines()[-1] == "odd 'vault=~/my vaüt' 'program=~/.local/bin/avault'"
    fleet.list.write_text("# mine\n" + fleet.list.read_text())
    fleet("remove", "web2", "odd:~/my vaüt")
    assert fleet.list.read_text().startswith("# mine\n") and "web1\n" in fleet.list.read_text()
    assert "not in the fleet: web2" in fleet("remove", "web2", code=4).stderr
    assert "no host is called nobody" in fleet("status", "--only", "nobody", code=4).stderr


# Each failure is a row


def fail(fleet: Fleet, silent: Silent) -> dict[str, tuple[str, int]]:
    """Hosts that fail, each in its way; and the word and code for each."""
    doors, one = fleet.doors, fleet.machines["one"]
    doors.known("other_key", file="changed")
    (doors.top / "nobody").write_text("")
    doors.add("refused", one, Port=str(free_port()))
    doors.add("silent", one, Port=str(silent.port))
    doors.add("hung", one, "sleep 60")
    doors.add("changed", one, UserKnownHostsFile=str(doors.top / "changed"))
    doors.add("unknown", one, UserKnownHostsFile=str(doors.top / "nobody"))
    doors.add("stranger", one, IdentityFile=str(doors.top / "stranger"))
    doors.add("nowhere", one, HostName="nowhere.invalid")
    doors.add("bare", one, "PATH=/nonexistent")
    old = ['case "$*" in *--json*) echo "Error: No such option: --json" >&2; exit 2;; esac', "echo unlocked"]
    doors.add("old", one, doors.program("old", *old))
    doors.add("garbage", one, doors.program("garbage", "printf '\\001\\033[2J{\"state\": 7}\\n{{{ nonsense\\n'"))
    doors.add("typed", one, doors.program("typed", 'echo \'{"state": "unlocked", "since": [], "warnings": 7, "git": 3}\''))
    doors.add("endless", one, doors.program("endless", "exec yes '{'"))
    doors.add("cut", one, "kill -9 $PPID")
    doors.add("novault", Machine(fleet.top / "novault"))
    doors.add(
        "stopped", fleet.machines["two"], f"export XDG_STATE_HOME={fleet.top}/elsewhere XDG_RUNTIME_DIR={fleet.top}/elsewhere"
    )
    doors.add("banner", one, "echo '{ Welcome to Debian'", 'echo \'{"state": "locked"}\'', "echo bye >&2")
    return {
        "refused": ("down", 6),
        "silent": ("no answer", 7),
        "hung": ("no answer", 7),
        "changed": ("host key changed", 8),
        "unknown": ("unknown host key", 8),
        "stranger": ("not let in", 5),
        "nowhere": ("no such host", 6),
        "bare": ("no avault", 6),
        "old": ("too old", 2),
        "garbage": ("no sense", 1),
        "typed": ("unlocked", 0),
        "endless": ("no answer", 7),
        "cut": ("down", 6),
        "novault": ("no vault", 4),
        "stopped": ("stopped", 6),
        "banner": ("unlocked", 0),
    }


@pytest.fixture
def silent() -> Iterator[Silent]:
    silent = Silent()
    yield silent
    silent.close()


@pytest.mark.slow
def test_each_failure_is_a_row_and_not_an_end(fleet: Fleet, silent: Silent) -> None:
    wanted = fail(fleet, silent)
    fleet.write("web1", *wanted, "web2")
    begun = time.monotonic()
    done = fleet("status", "--json", "--deadline", "8s", code=8)
    assert time.monotonic() - begun < 60
    rows = {row["host"]: row for row in done.json["hosts"]}
    assert {name: (row["word"], row["code"]) for name, row in rows.items()} == {
        "web1": ("unlocked", 0), **wanted, "web2": ("unlocked", 0),
    }  # fmt: skip
    assert list(rows) == ["web1", *wanted, "web2"]
    assert "\x1b" not in done.stdout + done.stderr
    assert "hint: host key changed: find out why" in done.stderr
    assert "hint: too old: update avault there" in done.stderr
    changed = (fleet.doors.top / "changed").read_text()
    fleet("status", "--deadline", "8s", code=8)
    assert (fleet.doors.top / "changed").read_text() == changed and not (fleet.doors.top / "nobody").read_text()


def test_failures_stand_last_in_the_table(fleet: Fleet) -> None:
    fleet.doors.add("refused", fleet.machines["one"], Port=str(free_port()))
    fleet.write("refused", "web1", "web2")
    done = fleet("status", code=6)
    last = done.stdout.splitlines()[-1]
    assert last.split()[:2] == ["refused", "down"] and "Connection refused" in last
    assert done.stderr.startswith("avault: error: 1 of 3: 1 down; the others: 2 unlocked\n")


def test_the_exit_code(fleet: Fleet) -> None:
    doors = fleet.doors
    doors.add("down1", None, Port=str(free_port()))
    doors.add("down2", None, Port=str(free_port()))
    doors.add("stranger", None, IdentityFile=str(doors.top / "stranger"))
    fleet.write("web1", "down1", "down2", "stranger")
    fleet("status", "--only", "web1", code=0)
    fleet("status", "--only", "down*", code=6)
    fleet("status", "--only", "down*,web1", code=6)
    fleet("status", "--only", "down1", "--only", "stranger", code=1)


# Locked, waiting


def test_lock_everywhere_and_the_proof_of_it(fleet: Fleet) -> None:
    fleet.doors.add("down", None, Port=str(free_port()))
    fleet.write("web1", "down", "web2")
    done = fleet("lock", code=6)
    assert done.stdout.splitlines()[-1].split()[:2] == ["down", "down"]
    assert [machine.status()["state"] for machine in fleet.machines.values()] == ["locked", "locked"]
    assert fleet.words("status", "--only", "web*", code=3) == {"web1": ("locked", 3), "web2": ("locked", 3)}
    assert fleet.words("lock", "--only", "web*", code=0) == {"web1": ("locked", 0), "web2": ("locked", 0)}


def test_a_lock_is_not_taken_for_granted(fleet: Fleet) -> None:
    """What says that it did and is open still is no lock."""
    state = json.dumps({"state": "unlocked", "warnings": []})
    fleet.doors.add("liar", fleet.machines["one"], fleet.doors.program("liar", f"case $1 in status) echo '{state}';; esac"))
    fleet.write("liar")
    assert fleet.words("lock", code=1) == {"liar": ("still unlocked", 1)}


@pytest.mark.slow
def test_an_unproven_vault_is_not_lost(fleet: Fleet) -> None:
    with Machine(fleet.top / "young") as young:
        young.init_unproven()
        fleet.doors.add("young", young)
        fleet.write("young")
        done = fleet("lock", "--json", code=5)
        assert done.json["hosts"][0]["word"] == "refused" and young.status()["state"] == "unlocked"


@pytest.mark.slow
def test_unlock_asks_one_after_another(fleet: Fleet) -> None:
    """The phone never has two questions at once; a refusal passes one host over, and no other."""
    fleet("lock")
    asked = len(fleet.phone.requests("nip44_decrypt"))
    fleet.phone.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"], requests=1)
    done = fleet("unlock", "--json", code=5)
    assert {row["host"]: row["word"] for row in done.json["hosts"]} == {"web1": "refused", "web2": "unlocked"}
    assert "1 of 2: approve web1 on the phone" in done.stderr and "2 of 2: approve web2 on the phone" in done.stderr
    assert done.stderr.count("the phone shows the code") == 2
    fleet.machines["one"].end_pause(("unlock",))
    fleet.machines["one"]("daemon", "stop")
    fleet.phone.behave("nip44_decrypt", [{"honest": True, "after_ms": 500}])
    done = fleet("unlock")
    assert done.stdout.count("unlocked") == 2 and "1 of 1: approve web1 on the phone" in done.stderr
    fleet("lock")
    fleet("unlock")
    fleet.phone.behave("nip44_decrypt", [{"honest": True}])
    requests = fleet.phone.requests("nip44_decrypt")[asked:]
    assert len({request["id"] for request in requests}) == 5
    first, second = sorted(request["at"] for request in requests)[-2:]
    assert second - first > 0.5, "the second is asked when the first has been answered"


@pytest.mark.slow
def test_who_stops_the_asking_has_no_more_asked(fleet: Fleet) -> None:
    """The host that asks goes on until its time is over; the others never begin."""
    fleet("lock")
    asked = len(fleet.phone.requests("nip44_decrypt"))
    fleet.phone.behave("nip44_decrypt", [{"wait": True, "honest": True}])
    running = fleet.desk.start("fleet", "unlock")
    running.line("avault: the phone shows the code")
    wait_until(lambda: len(fleet.phone.requests("nip44_decrypt")) > asked, what="the question on the phone")
    running.process.send_signal(signal.SIGINT)
    done = running.wait()
    assert done.returncode == 130 and "1 of 2: approve web1" in done.stderr and "2 of 2" not in done.stderr
    assert fleet.words("status") == {"web1": ("waiting", 3), "web2": ("locked", 3)}
    fleet.phone.behave("nip44_decrypt", [{"honest": True}])
    fleet.phone.go()
    fleet.machines["one"].wait_state("unlocked")


@pytest.mark.slow
def test_who_waits_for_the_phone_is_not_shown_as_open(fleet: Fleet) -> None:
    fleet.machines["two"]("lock")
    fleet.phone.behave("nip44_decrypt", [{"wait": True, "honest": True}])
    running = fleet.machines["two"].start("unlock")
    code = fleet.machines["two"].wait_state("waiting")["code"]
    done = fleet("status", "--only", "web2", code=3)
    assert f"waiting           for the phone, code {code}, since 20" in done.stdout
    fleet.phone.behave("nip44_decrypt", [{"honest": True}])
    fleet.phone.go()
    assert running.wait().returncode == 0


# A value


def test_set_gives_it_once_and_looks(fleet: Fleet, canary: Any) -> None:
    done = fleet("set", "web/KEY", input=canary.value)
    assert done.stdout.count("has it") == 2 and done.stderr == "avault: 2 have it\n"
    for machine in fleet.machines.values():
        assert machine("get", "web/KEY", secret=True).stdout == canary.value + "\n"
    generations = [machine("list", "--json").json for machine in fleet.machines.values()]
    again = fleet("set", "web/KEY", input=canary.value)
    assert again.stdout.count("it had it already") == 2
    assert [machine("list", "--json").json for machine in fleet.machines.values()] == generations, "nothing was written"


@pytest.mark.slow
@pytest.mark.parametrize("which", ["odd", "long", "lines"])
def test_a_value_comes_over_as_it_is(fleet: Fleet, canary: Any, which: str) -> None:
    value = canary.new("\r\n two lines \n\n") if which == "lines" else getattr(canary, which)
    fleet("set", "web", "--key", which.upper(), "--only", "web1", input=value + "\n")
    got = fleet.machines["one"]("get", f"web/{which.upper()}", "--json", secret=True).json
    assert got["value"] == value


@pytest.mark.slow
def test_no_value_is_in_a_command_line_or_an_environment(fleet: Fleet, canary: Any) -> None:
    """Looked for in each process of the machine while it goes over, both sides of ssh among them."""
    seen, ended = set[bytes](), threading.Event()
    own = f"argv-{secrets.token_hex(8)}"  # other tests' processes beside this one have the mark too
    mark = own.encode()

    def watch() -> None:
        while not ended.is_set():
            for pid in filter(str.isdigit, os.listdir("/proc")):
                for name in ("cmdline", "environ"):
                    with contextlib.suppress(OSError):
                        data = Path("/proc", pid, name).read_bytes()
                        seen.update({b"ssh"} if data.startswith(b"ssh\0") or b"/ssh\0" in data else set())
                        assert mark not in data or int(pid) == os.getpid(), data

    failed: list[BaseException] = []

    def run() -> None:
        try:
            watch()
        except AssertionError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        fleet("rotate", "web/ARGV", input=canary.new(own), code=4)
        fleet("set", "web/ARGV", input=canary.new(own))
        fleet("rotate", "web/ARGV", "--restart", "true", input=canary.new(f"next-{own}"))
    finally:
        ended.set()
        thread.join()
    assert not failed and seen == {b"ssh"}
    assert canary.mark not in "".join((machine.own / "access.log").read_text() for machine in fleet.machines.values())


@pytest.mark.slow
def test_set_on_what_is_not_ready_writes_nothing_there(fleet: Fleet, canary: Any) -> None:
    fleet.machines["two"]("lock")
    assert fleet.words("set", "web/READY", input=canary.value, code=3) == {"web1": ("has it", 0), "web2": ("locked", 3)}
    fleet.machines["two"]("unlock")
    again = fleet("set", "web/READY", input=canary.value, code=0)
    assert again.stdout.count("it had it already") == 1, "the same command again gives it to who has it not"


@pytest.mark.slow
def test_what_is_cut_off_after_a_write_is_unknown(fleet: Fleet, canary: Any) -> None:
    """The value may be there: the same command again looks first."""
    cut = 'case "$SSH_ORIGINAL_COMMAND" in *" set "*) eval "$SSH_ORIGINAL_COMMAND"; kill -9 $PPID; exit;; esac'
    fleet.doors.add("cut", fleet.machines["one"], cut)
    hung = 'case "$SSH_ORIGINAL_COMMAND" in *" set "*) sleep 30;; esac'
    fleet.doors.add("hung", fleet.machines["two"], hung)
    fleet.write("cut", "hung")
    done = fleet("set", "web/CUT", "--deadline", "8s", input=canary.value, code=7)
    assert done.stdout.count("unknown") == 2 and "it may have been done: look" in done.stdout
    assert fleet.words("set", "web/CUT", "--only", "cut", input=canary.value, code=0) == {"cut": ("has it", 0)}


@pytest.mark.slow
def test_a_changed_host_key_is_not_hidden_by_a_live_master(fleet: Fleet, canary: Any, tmp_path: Path) -> None:
    """Reading goes through it, as ssh does; a value never."""
    path = Path("/tmp") / f"avf-{os.getpid()}"
    fleet.doors.add("muxed", fleet.machines["one"], ControlPath=str(path), ControlMaster="auto", ControlPersist="60")
    fleet.write("muxed")
    ssh = str(fleet.doors.bin / "ssh")
    try:
        subprocess.run([ssh, "-o", "BatchMode=yes", "muxed", "true"], check=True, stdin=subprocess.DEVNULL)
        assert path.exists()
        fleet.doors.known("other_key")
        assert fleet.words("status") == {"muxed": ("unlocked", 0)}, "the master is alive"
        for words in (("set", "web/MUX"), ("rotate", "web/MUX"), ("lock",), ("unlock",), ("run", "--", "true")):
            rest = ("--json", *words[1:]) if words[0] == "run" else (*words[1:], "--json")
            done = fleet(words[0], *rest, input=canary.value, code=8)
            assert done.json["hosts"][0]["word"] == "host key changed", words
    finally:
        subprocess.run([ssh, "-O", "exit", "muxed"], check=False, capture_output=True)
    assert "web/MUX" not in fleet.machines["one"]("list", "--names").stdout


@pytest.mark.slow
def test_a_control_socket_that_hangs_is_a_row(fleet: Fleet, canary: Any) -> None:
    """Behind a master that is stuck ssh waits for ever, as ConnectTimeout does not cover it; a value does not go there."""
    path = Path("/tmp") / f"avs-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(str(path))
        stuck.listen()
        fleet.doors.add("stuck", fleet.machines["one"], ControlPath=str(path))
        fleet.write("stuck", "web2")
        begun = time.monotonic()
        said = fleet.words("status", "--deadline", "8s", code=7)
        assert said == {"stuck": ("no answer", 7), "web2": ("unlocked", 0)} and time.monotonic() - begun < 60
        assert fleet.words("set", "web/STUCK", input=canary.value, code=0)["stuck"] == ("has it", 0)
    path.unlink()


# Rotating


@pytest.mark.slow
def test_rotate_says_when_to_revoke(fleet: Fleet, canary: Any) -> None:
    fleet("set", "stripe/KEY", input=canary.new("old"))
    for machine in fleet.machines.values():
        (machine.home / "restarted").unlink(missing_ok=True)
    done = fleet("rotate", "stripe/KEY", "--restart", "echo $$ > ~/restarted", input=canary.new("new"))
    assert done.stdout.splitlines()[-1] == "2 of 2 have it: revoke the old one"
    assert all((machine.home / "restarted").exists() for machine in fleet.machines.values())
    for machine in fleet.machines.values():
        assert machine("get", "stripe/KEY", secret=True).stdout == canary.new("new") + "\n"
    unrestarted = fleet("rotate", "stripe/KEY", input=canary.new("newer"))
    assert "programs that run have the old value until they are restarted" in unrestarted.stderr


def test_rotate_changes_nothing_unless_all_are_ready(fleet: Fleet, canary: Any) -> None:
    fleet("set", "stripe/KEY", input=canary.new("old"))
    fleet.machines["two"]("lock")
    done = fleet("rotate", "stripe/KEY", input=canary.new("new"), code=1)
    assert done.stdout.splitlines()[-1] == "nothing was changed, as 1 of 2 are not ready: DO NOT revoke"
    assert fleet.machines["one"]("get", "stripe/KEY", secret=True).stdout == canary.new("old") + "\n"


@pytest.mark.slow
def test_rotate_that_fails_half_way(fleet: Fleet, canary: Any) -> None:
    fleet("set", "stripe/KEY", input=canary.new("old"))
    done = fleet("rotate", "stripe/KEY", "--restart", 'test "$FLEET_HOST" = web1', input=canary.new("new"), code=1)
    assert done.stdout.splitlines()[-1] == "1 of 2 have it, 1 does not: DO NOT revoke the old one"
    assert "it has it; the restart ended with 1" in done.stdout
    assert fleet("rotate", "stripe/KEY", "--restart", "true", input=canary.new("new")).stdout.endswith(
        "2 of 2 have it: revoke the old one\n"
    )


@pytest.mark.slow
def test_rotate_counts_what_only_leaves_out(fleet: Fleet, canary: Any) -> None:
    fleet("set", "stripe/KEY", input=canary.new("old"))
    done = fleet("rotate", "stripe/KEY", "--only", "web1", input=canary.new("new"), code=1)
    assert done.stdout.splitlines()[-1] == "1 of 2 have it, 1 does not, 1 of them left out: DO NOT revoke the old one"


@pytest.mark.slow
def test_rotate_gives_it_to_nobody_who_never_had_it(fleet: Fleet, canary: Any) -> None:
    fleet("set", "stripe/ONE", "--only", "web1", input=canary.new("old"))
    done = fleet("rotate", "stripe/ONE", input=canary.new("new"))
    assert done.stdout.splitlines()[-1] == "1 of 1 have it: revoke the old one" and "has none" in done.stdout
    assert "stripe/ONE" not in fleet.machines["two"]("list", "--names").stdout
    assert "no host has stripe/NO" in fleet("rotate", "stripe/NO", input=canary.value, code=4).stderr


@pytest.mark.slow
def test_rotate_that_is_stopped_says_not_to_revoke(fleet: Fleet, canary: Any) -> None:
    """And nothing of it runs here any more."""
    fleet("set", "stripe/KEY", input=canary.new("old"))
    begun = [machine.home / "begun" for machine in fleet.machines.values()]
    for path in begun:
        path.unlink(missing_ok=True)
    running = fleet.desk.start("fleet", "rotate", "stripe/KEY", "--restart", "touch ~/begun; sleep 60", input=canary.new("new"))
    wait_until(lambda: all(path.exists() for path in begun))
    running.process.send_signal(signal.SIGINT)
    done = running.wait()
    assert done.returncode == 130
    assert done.stdout.splitlines()[-1] == "stopped; 0 of 2 are known to have it: DO NOT revoke the old one"
    wanted = f"-F\0{fleet.doors.top / 'config'}\0".encode()

    def clients() -> list[str]:
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                found += [pid] if wanted in Path("/proc", pid, "cmdline").read_bytes() else []
        return found

    wait_until(lambda: not clients())


@pytest.mark.slow
def test_a_value_that_the_phone_is_asked_for_is_set_and_not_compared(fleet: Fleet, canary: Any) -> None:
    one = fleet.machines["one"]
    one("set", "asked/KEY", input=canary.new("old"))
    one("guard", "asked/KEY", "--ask")
    wait_until(lambda: one("list", "asked", "--json").json["groups"][0]["keys"][0]["sealed"], every=0.3)
    done = fleet("set", "asked/KEY", "--only", "web1", input=canary.new("new"))
    assert "kept; sealed for the phone, so it was not compared" in done.stdout


# Looking at many


@pytest.mark.slow
def test_doctor(fleet: Fleet) -> None:
    wrong = fleet.doors.program("late", 'exec avault-real "$@"')
    del wrong
    fleet.doors.add("late", fleet.machines["one"], "date() { echo 1000000000; }")
    fleet.write("web1", "late")
    done = fleet("doctor", "--json", code=None)
    rows = {row["host"]: row for row in done.json["hosts"]}
    assert rows["web1"]["clock"] == 0 and rows["late"]["clock"] < -(10**8)
    assert "clock" in rows["late"]["note"] and "behind" in rows["late"]["note"]
    assert rows["web1"]["version"] == avault.__version__


@pytest.mark.slow
def test_log_is_merged_by_time(fleet: Fleet, canary: Any) -> None:
    fleet("set", "log/KEY", input=canary.value)
    for name in ("one", "two", "one"):
        fleet.machines[name]("get", "log/KEY", secret=True)
    done = fleet("log", code=0)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {line[0] for line in lines} == {"web1", "web2"}
    assert [line[1] for line in lines] == sorted(line[1] for line in lines)
    assert done.stderr == "avault: 2 whole\n"
    fleet.machines["two"]("lock")
    assert "web2: not verified" in fleet("log").stderr
    log = fleet.machines["one"].own / "access.log"
    kept = log.read_bytes()
    try:
        log.write_bytes(kept.replace(b'"op"', b'"oq"', 1))
        assert fleet.words("log", "--only", "web1", code=8) == {"web1": ("tampered", 8)}
    finally:
        log.write_bytes(kept)


@pytest.mark.slow
def test_run_masks_there(fleet: Fleet, canary: Any) -> None:
    fleet("set", "run/TOKEN", input=canary.new("token"))  # another than that of other tests, by whose name it would be masked
    done = fleet("run", "--group", "run", "--", "sh", "-c", 'echo "$TOKEN is $FLEET_HOST"; echo "it\'s" >&2')
    assert sorted(done.stdout.splitlines()) == [f"web{n}  <avault:run/TOKEN> is web{n}" for n in (1, 2)]
    assert "web1  it's" in done.stderr and canary.mark not in done.stdout + done.stderr
    failed = fleet("run", "--group", "run", "--", "sh", "-c", "exit 9", code=1)
    assert "web1: failed: exit code 9" in failed.stderr
    fleet.machines["two"]("lock")
    assert "web2: locked" in fleet("run", "--group", "run", "--only", "web2", "--", "true", code=3).stderr
    done = fleet("run", "--group", "run", "--json", "--only", "web1", "--", "echo", "--json")
    assert done.json["hosts"][0]["stdout"] == "--json\n"


@pytest.mark.slow
def test_words_are_quoted_for_the_shell_there(fleet: Fleet, canary: Any) -> None:
    """ssh joins its words by spaces."""
    fleet("set", "run/TOKEN", "--only", "web1", input=canary.value)
    odd = "a b;$(touch ~/gone) 'c\" *"
    done = fleet("run", "--group", "run", "--only", "web1", "--", "printf", "%s", odd)
    assert done.stdout == f"web1  {odd}\n" and not (fleet.machines["one"].home / "gone").exists()


@pytest.mark.slow
def test_a_program_and_a_vault_that_the_list_names(fleet: Fleet) -> None:
    one = fleet.machines["one"]
    place = one.home / ".local" / "bin"
    place.mkdir(parents=True, exist_ok=True)
    real = shutil.which("avault", path=one.env["PATH"])
    (place / "avault").unlink(missing_ok=True)
    (place / "avault").symlink_to(real or "")
    fleet.doors.add("hidden", one, "PATH=/usr/bin:/bin")
    fleet.write("hidden")
    assert fleet.words("status") == {"hidden": ("no avault", 6)}
    fleet.write("hidden program=~/.local/bin/avault", "hidden program=~/.local/bin/avault vault=~/clawd/.avault")
    assert fleet.words("status", code=0) == {"hidden": ("unlocked", 0), "hidden:~/clawd/.avault": ("unlocked", 0)}


@pytest.mark.slow
def test_local(fleet: Fleet, canary: Any) -> None:
    """The vaults of this machine: their state directories say where they are, also of one that is stopped."""
    desk = fleet.desk
    with Machine(desk.top, desk.home / "a" / ".avault") as first, Machine(desk.top, desk.home / "b" / ".avault") as second:
        for machine in (first, second):
            machine.vault.parent.mkdir(exist_ok=True)
            machine.init_unproven()
        assert fleet.words("status", "--local") == {"~/a/.avault": ("unlocked", 0), "~/b/.avault": ("unlocked", 0)}
        assert fleet("set", "x/KEY", "--local", input=canary.value).stdout.count("has it") == 2
        second("daemon", "stop", "--force")
        assert fleet.words("status", "--local") == {"~/a/.avault": ("unlocked", 0), "~/b/.avault": ("stopped", 6)}
        (desk.home / "b").rename(desk.home / "c")
        assert fleet.words("status", "--local") == {"~/a/.avault": ("unlocked", 0)}
        (desk.home / "c").rename(desk.home / "b")


@pytest.mark.slow
def test_a_door_that_is_shut_is_tried_again(fleet: Fleet) -> None:
    """sshd drops whom it cannot serve at once (MaxStartups): nothing was run, so it may be repeated."""
    narrow = Doors(fleet.top / f"narrow{time.monotonic_ns()}", MaxStartups="3:100:3")
    try:
        fleet.doors.aliases.clear()
        for number in range(16):
            fleet.doors.add(f"n{number}", fleet.machines["one"], Port=str(narrow.port), IdentityFile=str(narrow.top / "id"))
        for path in (fleet.doors.top / "hosts").iterdir():
            shutil.copy(path, narrow.top / "hosts")
        shutil.copy(narrow.top / "host_key.pub", fleet.doors.top / "narrow_key.pub")
        fleet.doors.known("narrow_key")
        fleet.write(*(f"n{number}" for number in range(16)))
        said = fleet.words("status")
        assert sum(word == "unlocked" for word, _ in said.values()) >= 12, said
        assert {word for word, _ in said.values()} <= {"unlocked", "shut out"}
        log = (narrow.top / "log").read_text()
        assert "MaxStartups" in log, "the door was shut"
    finally:
        narrow.close()
        (fleet.doors.top / "narrow_key.pub").unlink()


# On a terminal


@pytest.mark.slow
def test_the_table_fits_a_narrow_terminal(fleet: Fleet) -> None:
    fleet.doors.add("refused-by-a-host-with-a-long-name", None, Port=str(free_port()))
    fleet.write("web1", "refused-by-a-host-with-a-long-name")
    with Screen(fleet.desk, "avault", "fleet", "status", columns=40) as screen:
        shown = screen.wait(6).decode()
    last = [piece.rpartition("\r\x1b[K")[2] for piece in shown.replace("\r\n", "\n").split("\n")]
    plain = [piece.replace("\x1b[32m", "").replace("\x1b[31m", "").replace("\x1b[0m", "") for piece in last]
    table = plain[: next(i for i, line in enumerate(plain) if line.startswith("avault:"))]
    assert max(map(len, table)) <= 40 and any("Connection refused" in " ".join(table).replace("  ", " ") for _ in "x")
    with Screen(fleet.desk, "avault", "fleet", "status", columns=100, NO_COLOR="1") as screen:
        assert b"\x1b[3" not in screen.wait(6)


@pytest.mark.slow
def test_watch_shows_it_again_when_it_changes(fleet: Fleet) -> None:
    running = fleet.desk.start("fleet", "status", "--watch", "--json")
    wait_until(lambda: running.stdout)
    fleet.machines["two"]("lock")
    wait_until(lambda: len(running.stdout) > 1)
    running.process.terminate()
    first, second = (json.loads(line)["hosts"] for line in running.stdout[:2])
    assert [row["word"] for row in first] == ["unlocked", "unlocked"]
    assert [row["word"] for row in second] == ["unlocked", "locked"]


@pytest.mark.slow
def test_watch_on_a_terminal_ends_with_ctrl_c(fleet: Fleet) -> None:
    with Screen(fleet.desk, "avault", "fleet", "status", "--watch", columns=100) as screen:
        screen.expect(r"web1  unlocked.*web2  unlocked")
        fleet.machines["two"]("lock")
        screen.expect(r"web1  unlocked.*web2  locked")
        screen.type("\x03")
        assert b"Traceback" not in screen.wait(130)


# Fifty


@pytest.mark.long
@pytest.mark.slow
def test_fifty_hosts_with_every_failure(fleet: Fleet, silent: Silent, canary: Any) -> None:
    """The table names each, the deadline holds, and a value reaches whom it can."""
    wanted = fail(fleet, silent)
    machines = list(fleet.machines.values())
    many = [fleet.doors.add(f"bot{number:02}", machines[number % 2]) for number in range(50 - len(wanted))]
    fleet.write(*wanted, *many)
    begun, asked = time.monotonic(), len(fleet.phone.requests("nip44_decrypt"))
    said = fleet.words("status", "--deadline", "12s", code=8)
    assert time.monotonic() - begun < 60
    assert said == {**wanted, **dict.fromkeys(many, ("unlocked", 0))}
    said = fleet.words("set", "many/KEY", "--deadline", "12s", input=canary.value, code=8)
    assert {said[name] for name in many} == {("has it", 0)} and said["changed"] == ("host key changed", 8)
    done = fleet("rotate", "many/KEY", "--deadline", "12s", input=canary.new("next"), code=8)
    assert done.stdout.endswith("are not ready: DO NOT revoke\n")
    done = fleet("rotate", "many/KEY", "--only", "bot*", "--hosts", str(fleet.list), input=canary.new("next"), code=1)
    assert f"{len(many)} of 50 have it, {len(wanted)} do not" in done.stdout
    fleet.write(*many)
    done = fleet("rotate", "many/KEY", input=canary.new("last"))
    assert done.stdout.endswith(f"{len(many)} of {len(many)} have it: revoke the old one\n")
    assert len(fleet.phone.requests("nip44_decrypt")) == asked, "a vault that is open asks nobody for any of it"
