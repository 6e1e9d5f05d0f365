"""One approval for many machines, over a real sshd: enrolled, opened, turned, cut off at each step, and left."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet_hosts import SSHD
from harness import wait_until
from peers import misdeeds
from test_fleet import Fleet, fleet, made  # noqa: F401

import avault

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SSHD or not shutil.which("ssh"), reason="no OpenSSH here, or no sshd"),
]
DESK = "desk-fleet"


def desk_file(fleet: Fleet) -> Path:  # noqa: F811
    return Path(fleet.desk.env["XDG_STATE_HOME"]) / "avault" / "desk" / "desk.json"


def keys_of(fleet: Fleet) -> list[dict[str, Any]]:  # noqa: F811
    return list(json.loads(desk_file(fleet).read_text())["groups"].get("fleet", []))


def machine_file(machine: Any) -> dict[str, Any]:
    return dict(json.loads((machine.own / f"custody-{DESK}.json").read_text()))


def asked(fleet: Fleet) -> int:  # noqa: F811
    """How often the phone was asked to decrypt."""
    return len({each["id"] for each in fleet.phone.requests("nip44_decrypt")})


@pytest.fixture
def together(fleet: Fleet) -> Iterator[Fleet]:  # noqa: F811
    """Both machines are open, and in the group of the desk."""
    fleet.phone.behave("nip44_decrypt", [{"honest": True}])
    words = ("enroll", "--bunker", "-", "--label", "laptop", "--no-drill", "--yes")
    done = fleet(*words, input=fleet.phone.uri)
    assert "ONE approval on the phone then opens all machines" in done.stderr
    assert done.stdout.count("enrolled") == 2
    yield fleet
    for machine in fleet.machines.values():
        machine("custody", "remove", DESK, "--yes", code=None)
    desk_file(fleet).unlink(missing_ok=True)


def lock_all(fleet: Fleet) -> None:  # noqa: F811
    for machine in fleet.machines.values():
        machine("lock")


def test_one_approval_opens_all_and_the_key_turns(together: Fleet) -> None:
    one, two = together.machines.values()
    before = [machine_file(machine) for machine in (one, two)]
    lock_all(together)
    count = asked(together)
    done = together("unlock", "--together")
    assert done.stdout.count("unlocked") == 2 and asked(together) == count + 1
    assert all("together with others" in str(each.status()["warnings"]) for each in (one, two))
    assert f"the custodian {DESK}" in one("log").stdout
    after = [machine_file(machine) for machine in (one, two)]
    [key] = keys_of(together)
    assert [each["settings"]["key"] for each in after] == [key["hosts"][name]["key"] for name in ("web1", "web2")]
    assert all(old["sealed"] != new["sealed"] and old["kept"] != new["kept"] for old, new in zip(before, after, strict=True))
    # once more: by the next key
    lock_all(together)
    assert together("unlock", "--together").stdout.count("unlocked") == 2
    assert asked(together) == count + 2 and keys_of(together)[0] != key


def test_desk_stands_among_the_custodians_and_leaves(together: Fleet) -> None:
    one, _ = together.machines.values()
    row = next(each for each in one("custody", "list", "--json").json["custodians"] if each["name"] == DESK)
    assert (row["kind"], row["shared"], row["asks"]) == ("desk", False, True)
    assert "only its desk opens it" in one("custody", "test", DESK, code=6).stderr
    assert "avault fleet enroll" in one("custody", "add", "desk", "--shared", "--yes", code=2).stderr
    assert "avault fleet leave --group fleet --only web1" in together("remove", "web1", code=5).stderr
    assert together("leave", "--yes").stdout.count("left") == 2
    assert keys_of(together) == [] and not (one.own / f"custody-{DESK}.json").exists()
    assert "avault fleet enroll" in together("unlock", "--together", code=4).stderr


def write_groups(fleet: Fleet, keys: list[dict[str, Any]]) -> None:  # noqa: F811
    """Have the desk remember these keys of the group, as if it had been killed then."""
    content = json.loads(desk_file(fleet).read_text())
    for name in ("type", "version", "checksum"):
        del content[name]
    content["groups"] = {"fleet": keys}
    desk_file(fleet).write_bytes(avault.encode_file("desk", content))


def test_cut_off_at_each_step_it_still_opens(together: Fleet) -> None:
    """Killed, the desk may remember a key that no machine has yet, or that all have: the machines say which."""
    one, two = together.machines.values()
    [first] = keys_of(together)
    files = [(machine.own / f"custody-{DESK}.json").read_bytes() for machine in (one, two)]
    lock_all(together)
    together("unlock", "--together")
    [second] = keys_of(together)

    def cut_off(*turned: bool) -> None:
        """The desk has noted the next key; of the machines, those have it."""
        lock_all(together)
        for machine, old, new in zip((one, two), files, turned, strict=True):
            if not new:
                (machine.own / f"custody-{DESK}.json").write_bytes(old)
        write_groups(together, [second, first])

    cut_off(True, True)
    count = asked(together)
    assert together("unlock", "--together").stdout.count("unlocked") == 2
    assert asked(together) == count + 1 and len(keys_of(together)) == 1
    # from here on the machines have a third key; go back to where they had the first and second
    lock_all(together)
    (one.own / f"custody-{DESK}.json").write_bytes(files[0])
    (two.own / f"custody-{DESK}.json").write_bytes(files[1])
    write_groups(together, [second, first])
    count = asked(together)
    assert together("unlock", "--together").stdout.count("unlocked") == 2
    assert asked(together) == count + 1 and len(keys_of(together)) == 1


def test_a_machine_that_was_away_keeps_the_key_before(together: Fleet) -> None:
    """It is asked for separately, until none is left; doctor names it."""
    one, two = together.machines.values()
    lock_all(together)
    together.doors.add("web2", two, Port="9")
    done = together("unlock", "--together", code=6)
    assert done.stdout.count("unlocked") == 1 and "down" in done.stdout
    assert "an older key opens 1 of them" in done.stderr and "web2" in done.stderr
    assert "an older key of this desk may open web2" in together("doctor", code=None).stderr
    assert len(keys_of(together)) == 2
    together.doors.add("web2", two)
    one("lock")
    count = asked(together)
    done = together("unlock", "--together")
    assert done.stdout.count("unlocked") == 2
    assert asked(together) == count + 2, "one for each key"
    assert "1 of 2: approve 1 of fleet" in done.stderr and "2 of 2: approve 1 of fleet" in done.stderr
    assert len(keys_of(together)) == 1


def test_a_refusal_opens_nothing_and_turns_nothing(together: Fleet) -> None:
    before = desk_file(together).read_bytes()
    lock_all(together)
    together.phone.behave("nip44_decrypt", misdeeds.REFUSALS["amber, clave"], requests=1)
    done = together("unlock", "--together", code=5)
    assert done.stdout.count("the signer refused") == 2 and desk_file(together).read_bytes() == before
    assert all(machine.status()["state"] == "locked" for machine in together.machines.values())
    together.phone.behave("nip44_decrypt", [{"honest": True}])
    assert together("unlock", "--together").stdout.count("unlocked") == 2


def test_a_desk_that_is_killed_while_it_asks_has_changed_nothing(together: Fleet) -> None:
    before = desk_file(together).read_bytes()
    lock_all(together)
    count = asked(together)
    together.phone.behave("nip44_decrypt", [{"wait": True, "honest": True}])
    running = together.desk.start("fleet", "unlock", "--together")
    wait_until(lambda: asked(together) > count, what="the question on the phone")
    running.kill()
    together.phone.behave("nip44_decrypt", [{"honest": True}])
    together.phone.go()
    assert desk_file(together).read_bytes() == before
    assert all(machine.status()["state"] == "locked" for machine in together.machines.values())
    assert together("unlock", "--together").stdout.count("unlocked") == 2


def test_a_host_whose_key_changed_gets_nothing(together: Fleet) -> None:
    one, two = together.machines.values()
    lock_all(together)
    together.doors.known("other_key", file="changed")
    together.doors.add("web2", two, UserKnownHostsFile=str(together.doors.top / "changed"))
    done = together("unlock", "--together", code=8)
    assert "host key changed" in done.stdout and done.stdout.count("unlocked") == 1
    assert two.status()["state"] == "locked" and one.status()["state"] == "unlocked"


def test_another_operators_machines_are_not_let_in(together: Fleet, relay: Any) -> None:
    import peers

    together("leave", "--yes")
    desk_file(together).unlink()
    with peers.rogue([relay.url]) as other:
        words = ("enroll", "--bunker", "-", "--label", "laptop", "--no-drill", "--yes")
        done = together(*words, code=5, input=other.uri)
        assert "another operator than" in done.stderr and not desk_file(together).exists()
        # nor by a desk that is paired with that operator already
        together("pair", "--bunker", "-", "--label", "laptop", "--no-drill", input=other.uri)
        assert together("enroll", "--yes", code=5).stdout.count("another operator's phone opens it") == 2
        assert keys_of(together) == []


def test_a_signer_that_cannot_refuse_pairs_with_no_desk(together: Fleet) -> None:
    together("leave", "--yes")
    desk_file(together).unlink()
    done = together("enroll", "--bunker", "-", "--yes", code=5, input=together.phone.uri)
    assert "would open all machines by itself" in done.stderr and not desk_file(together).exists()


def test_the_first_time_the_desk_is_paired_by_a_code(together: Fleet, relay: Any) -> None:
    """Enrolling shows it, if a machine is open that can be let in; that needs no phone to be found out."""
    together("leave", "--yes")
    desk_file(together).unlink()
    words = ("enroll", "--yes", "--no-drill", "--label", "laptop", "--relay", relay.url)
    running = together.desk.start("fleet", *words)
    together.phone.nostrconnect(running.line("nostrconnect://"))
    done = running.wait()
    assert done.returncode == 0 and done.stdout.count("enrolled") == 2, done.stderr
    lock_all(together)
    assert together("unlock", "--together").stdout.count("unlocked") == 2
    together("leave", "--yes")
    desk_file(together).unlink()
    lock_all(together)
    done = together(*words, code=3)
    assert "2 of 2: 2 locked" in done.stderr and "hint: locked: avault fleet unlock" in done.stderr
    assert "nostrconnect" not in done.stdout and not desk_file(together).exists()
    for machine in together.machines.values():
        machine("unlock")


def test_no_key_is_in_a_command_line(together: Fleet) -> None:
    """Of the desk, of ssh, or of a machine: looked at while the machines are opened."""
    lock_all(together)
    running = together.desk.start("fleet", "unlock", "--together")
    seen: set[bytes] = set()
    while running.process.poll() is None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.add(path.read_bytes())
            except OSError:
                continue
    assert running.wait().returncode == 0
    lines = [line for line in seen if b"desk" in line]
    assert [line for line in lines if b"open" in line] and not [line for line in lines if re.search(rb"[0-9a-f]{64}", line)]
