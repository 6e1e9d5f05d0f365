"""The access log: who got what is written before it is released, and nobody changes it unnoticed."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import nostr_sdk
import pytest
from harness import AVAULT, Machine, wait_until

import avault

pytestmark = pytest.mark.usefixtures("forks")

linux = pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell this")


@pytest.fixture
def open_machine(machine: Machine, canary) -> Machine:
    """A machine with an open vault that holds openai/API_KEY and openai/ORG."""
    machine.init_unproven()
    machine("set", "openai/API_KEY", input=canary.value)
    machine("set", "openai/ORG", input=canary.value)
    return machine


@pytest.fixture
def nsec(canary) -> str:
    """An agent's key, for a vault that opens again without a phone."""
    key = nostr_sdk.Keys.generate().secret_key()
    canary.watch(key.to_hex())
    return str(canary.watch(key.to_bech32()))


def log_file(machine: Machine) -> Path:
    return machine.own / "access.log"


def entries(machine: Machine) -> list[dict[str, Any]]:
    return [json.loads(line) for line in machine("log", "--json").stdout.splitlines()]


def connect(machine: Machine) -> avault.Connection:
    places = avault.Places(str(machine.vault))
    places.socket = machine.status()["socket"]
    return avault.Connection(places)


def fill(machine: Machine, count: int) -> None:
    """So many releases, each with a long line in the log, over one connection."""
    group, keys = "g" * 64, ["K" * 120 + str(number) for number in range(100)]
    connection = connect(machine)
    connection.request("import", value={"secrets": [[group, key, "a value"] for key in keys]})
    for _ in range(count - 1):
        connection.request("reveal", only=[f"{group}/{key}" for key in keys], **{"for": "test"})
    connection.close()


def refuse(machine: Machine, count: int, **request: Any) -> None:
    """So many requests that are refused, over one connection."""
    connection = connect(machine)
    connection.request("has", group="openai")  # only the first frame of a connection has to be short
    for _ in range(count):
        with pytest.raises(avault.AvaultError):
            connection.request(**request)
    connection.close()


# What is in it


def test_a_line_for_each_release(open_machine: Machine) -> None:
    """Who asked: the process, its executable, and the one that started it."""
    before = entries(open_machine)
    argv = [AVAULT, "get", "openai/API_KEY"]
    with subprocess.Popen(argv, env=open_machine.env, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.read()
    entry = entries(open_machine)[-1]
    assert len(entries(open_machine)) == len(before) + 1  # and to read the log is no release
    expected = {"n": before[-1]["n"] + 1, "op": "get", "for": None, "group": "openai", "keys": ["API_KEY"], "uid": os.getuid()}
    assert {name: entry[name] for name in expected} == expected
    assert (entry["pid"], entry["outcome"], entry["after"]) == (process.pid, "ok", before[-1]["mac"])
    if sys.platform == "linux":
        assert entry["exe"] == os.path.realpath(f"/proc/{os.getpid()}/exe")
        assert entry["parent"] == {"pid": os.getpid(), "exe": entry["exe"]}
    assert open_machine("log", "--verify").stdout == f"the access log is whole: {len(before) + 1} lines\n"


def test_every_way_out_is_written_down(open_machine: Machine) -> None:
    before = len(entries(open_machine))
    open_machine("get", "openai", secret=True)
    open_machine("export", "--only", "API_KEY,openai/ORG", secret=True)
    open_machine("export", "--group", "openai", "--shell", secret=True)
    open_machine("get", "openai/NOTHING", code=4)
    open_machine("get", "nobody", code=4)
    open_machine("scan", str(open_machine.home))
    open_machine("run", "--group", "openai", "--", "true")
    open_machine("set", "openai/ORG", input="other-value")
    open_machine("delete", "openai/ORG")
    open_machine("has", "openai/API_KEY")
    open_machine("list")
    open_machine("status")
    lines = entries(open_machine)[before:]
    found = [(e["op"], e["for"], e["group"], ",".join(e["keys"] or []), e["outcome"]) for e in lines]
    runs = [each for each in found if each[1] == "run"]
    assert runs and {each[2:] for each in runs} == {("openai", "", "ok")}
    masks = [each for each in found if each[1] == "mask"]
    assert masks == [("reveal", "mask", None, "", "ok")], "a process that masks holds all values, and that is written down too"
    runs += masks
    assert [each for each in found if each not in runs] == [  # each once
        ("get", None, "openai", "", "ok"),
        ("export", None, None, "API_KEY,openai/ORG", "ok"),
        ("export", None, "openai", "", "ok"),
        ("get", None, "openai", "NOTHING", "not_found"),
        ("get", None, "nobody", "", "not_found"),
        ("reveal", "scan", None, "", "ok"),
        ("set", None, "openai", "ORG", "ok"),
        ("delete", None, "openai", "ORG", "ok"),
    ]


def test_for_a_person(open_machine: Machine) -> None:
    open_machine.may_fork = False  # who asks is a line of it
    open_machine("get", "openai/API_KEY", secret=True)
    open_machine("get", "openai/NOTHING", code=4)
    open_machine("scan", str(open_machine.home))
    open_machine("export", "--only", "API_KEY,openai/ORG", secret=True)
    *_, get, missing, scan, export = open_machine("log").stdout.splitlines()
    last = entries(open_machine)[-1]
    who = f"by {os.path.basename(last['exe'] or '?')} ({last['pid']})"
    if last["parent"]:  # avault itself says nothing: who started it does
        assert last["name"] == "avault"
        who = f"by {os.path.basename(last['parent']['exe'])} ({os.getpid()})"
    assert export == f"{last['time']} export API_KEY, openai/ORG {who}: ok"
    assert " get openai/API_KEY by " in get and get.endswith(": ok")
    assert " get openai/NOTHING by " in missing and missing.endswith(": not_found")
    assert " reveal for scan everything by " in scan


def test_it_can_be_read_while_the_vault_is_locked(open_machine: Machine) -> None:
    open_machine("get", "openai/API_KEY", secret=True)
    before = open_machine("log").stdout
    open_machine("lock", "--force")
    assert open_machine("log").stdout == before
    assert open_machine("log", "--verify", code=3).stdout == ""
    open_machine("daemon", "stop", "--force")
    assert open_machine("log").stdout == before
    open_machine("log", "--verify", code=6)


def test_without_a_log_or_without_a_vault(machine: Machine) -> None:
    assert "no vault in" in machine("log", code=4).stderr
    assert machine("log", "--json", code=4).json["error"]["code"] == "not_found"
    machine.init_unproven()
    own = machine.own
    machine("daemon", "stop", "--force")
    take_all(own)
    done = machine("log")
    assert done.stdout == "" and "nothing has been released yet" in done.stderr
    machine("log", "-f", "--verify", code=2)


def test_nothing_in_the_file_drives_the_terminal(open_machine: Machine) -> None:
    """Lines that somebody else wrote: escaped, cut short, of another shape, not even text."""
    line = json.loads(log_file(open_machine).read_bytes().splitlines()[-1])
    odd = [
        b"\x1b]0;title\x07 \x9b31m",
        b"\xff\xfe",
        b"[1, 2]",
        b"{}",
        b"[" * 100_000,
        b"",
        json.dumps({**line, "op": "\x1b[2J", "exe": 5}).encode(),
        json.dumps({**line, "op": "\x1b[2J", "group": "\u202e\x07", "parent": {}}).encode(),
        json.dumps({**line, "op": "\x1b[2J", "group": "\u202e\x07"}).encode(),
        json.dumps({**line, "keys": {"a": 1}, "outcome": ["\r"]}, ensure_ascii=False).encode(),
        json.dumps({**line, "op": None, "for": {"\x1b": 1}, "time": 5}, ensure_ascii=False).encode(),
    ]
    with log_file(open_machine).open("ab") as file:
        file.write(b"\n".join(odd) + b"\nhalf a line")
    for words in (["log"], ["log", "--json"]):
        shown = open_machine(*words).stdout
        assert len(shown.splitlines()) == len(log_file(open_machine).read_bytes().split(b"\n"))
        assert shown.replace("\n", "").isprintable()
    assert "half a line" in shown
    assert open_machine("log").stdout.count("not a line of the log: ") >= 7


def test_json_is_the_file_as_it_stands(open_machine: Machine) -> None:
    assert open_machine("log", "--json").stdout.encode() == log_file(open_machine).read_bytes()


@pytest.mark.parametrize("kind", ["directory", "fifo", "link"])
def test_a_log_that_is_no_file(kind: str, open_machine: Machine, canary) -> None:
    """It is not read, and nothing is released."""
    path = log_file(open_machine)
    path.unlink()
    {"directory": path.mkdir, "fifo": lambda: os.mkfifo(path), "link": lambda: path.symlink_to("elsewhere")}[kind]()
    done = open_machine("get", "openai/API_KEY", code=1)
    assert done.stdout == "" and "the access log cannot be written" in done.stderr
    assert not (path.parent / "elsewhere").exists()
    if kind != "link":
        open_machine("log", code=None if kind == "directory" else 8)


# It cannot be written


def refused(machine: Machine, *words: str) -> None:
    """Nothing comes out, and why."""
    done = machine(*words, code=1)
    assert done.stdout == "" and "the access log cannot be written: " in done.stderr and "nothing is released" in done.stderr


def test_no_log_no_release(open_machine: Machine, canary) -> None:
    """Every way out is shut while the log cannot be written, and open again afterwards."""
    path = log_file(open_machine)
    aside = path.with_name("aside")
    path.rename(aside)
    path.mkdir()
    listed = open_machine("list").stdout
    refused(open_machine, "get", "openai/API_KEY")
    refused(open_machine, "export")
    refused(open_machine, "export", "--shell")
    refused(open_machine, "scan", ".")
    refused(open_machine, "run", "--", "echo", "ran")
    refused(open_machine, "delete", "openai/API_KEY")
    assert open_machine("set", "openai/NEW", input=canary.value, code=1).stdout == ""
    answer = open_machine("get", "openai/API_KEY", "--json", code=1).json
    assert answer["error"]["code"] == "error" and "value" not in answer
    assert open_machine("list").stdout == listed  # nothing was changed either
    path.rmdir()
    aside.rename(path)
    assert open_machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
    assert open_machine("log", "--verify").returncode == 0


@linux
def test_a_full_disk(open_machine: Machine, canary) -> None:
    """The line does not fit: what was written of it is taken back, nothing is released, and the log stays whole."""
    path, keyholder = log_file(open_machine), open_machine.status()["keyholder_pid"]
    before = path.read_bytes()
    for room in (0, 1, 100):
        resource.prlimit(keyholder, resource.RLIMIT_FSIZE, (len(before) + room, resource.RLIM_INFINITY))
        refused(open_machine, "get", "openai/API_KEY")
        assert path.read_bytes() == before
    resource.prlimit(keyholder, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    open_machine("get", "openai/API_KEY", secret=True)
    assert path.read_bytes().startswith(before) and open_machine("log", "--verify").returncode == 0


def test_a_vault_does_not_open_without_its_log(machine: Machine, nsec: str) -> None:
    machine.init_unproven(NOSTR_NSEC=nsec)
    log = log_file(machine)
    machine("daemon", "stop", "--force")
    aside = log.rename(log.with_name("aside"))
    log.mkdir()
    machine("daemon", "start", "-b", NOSTR_NSEC=nsec, code=None)
    assert machine.status()["state"] != "unlocked"
    machine("daemon", "stop", "--force")
    log.rmdir()
    aside.rename(log)
    machine("daemon", "start", "-b", NOSTR_NSEC=nsec)
    machine.wait_state("unlocked")


# Changes are noticed


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def change_line(lines: list[bytes]) -> None:
    lines[3] = lines[3].replace(b'"openai"', b'"harmless"')


def change_outcome(lines: list[bytes]) -> None:
    lines[-1] = lines[-1].replace(b'"ok"', b'"not_found"')


def respell_line(lines: list[bytes]) -> None:
    """The same content to a JSON parser, another text to everybody else."""
    lines[3] = lines[3].replace(b'"op": ', b'"op": "list", "op": ')


def add_blanks(lines: list[bytes]) -> None:
    lines[3] = lines[3].replace(b", ", b",  ")


def delete_first(lines: list[bytes]) -> None:
    del lines[0]


def delete_line(lines: list[bytes]) -> None:
    del lines[3]


def cut_end(lines: list[bytes]) -> None:
    del lines[-2:]


def cut_last_line(lines: list[bytes]) -> None:
    lines[-1] = lines[-1][:50]


def swap_lines(lines: list[bytes]) -> None:
    lines[3], lines[4] = lines[4], lines[3]


def repeat_line(lines: list[bytes]) -> None:
    lines.insert(3, lines[3])


def add_blank_line(lines: list[bytes]) -> None:
    lines.insert(3, b"\n")


def forge_line(lines: list[bytes]) -> None:
    """A line of the right shape, chained as it should be, by somebody without the key."""
    last = json.loads(lines[-1])
    entry = {**last, "n": last["n"] + 1, "group": "innocent", "after": last["mac"]}
    lines.append(json.dumps({**entry, "mac": "0" * 64}).encode() + b"\n")


def forge_middle(lines: list[bytes]) -> None:
    lines.insert(3, json.dumps({**json.loads(lines[3]), "mac": json.loads(lines[2])["mac"]}).encode() + b"\n")


def drop_mac(lines: list[bytes]) -> None:
    entry = json.loads(lines[3])
    del entry["mac"]
    lines[3] = json.dumps(entry).encode() + b"\n"


def odd_mac(lines: list[bytes]) -> None:
    lines[3] = json.dumps({**json.loads(lines[3]), "mac": "é"}).encode() + b"\n"


def empty(lines: list[bytes]) -> None:
    lines.clear()


CHANGES = [
    change_line, change_outcome, respell_line, add_blanks, delete_first, delete_line, cut_end, cut_last_line, swap_lines,
    repeat_line, add_blank_line, forge_line, forge_middle, drop_mac, odd_mac, empty,
]  # fmt: skip


def test_every_change_is_noticed(open_machine: Machine) -> None:
    for _ in range(5):
        open_machine("get", "openai/API_KEY", secret=True)
    answer = open_machine("log", "--verify", "--json").json
    path = log_file(open_machine)
    whole = lines_of(path)
    assert answer == {"intact": True, "lines": len(whole), "begins": 1, "refused": 0, "files": 2}
    passed = []
    for change in CHANGES:
        changed = list(whole)
        change(changed)
        assert changed != whole
        path.write_bytes(b"".join(changed))
        done = open_machine("log", "--verify", code=None)
        if done.returncode != 8 or "the access log was changed: " not in done.stderr or done.stdout:
            passed.append((change.__name__, done))
        open_machine("log")
    assert not [name for name, _ in passed]
    path.write_bytes(b"".join(whole))
    assert open_machine("log", "--verify").returncode == 0
    path.unlink()
    assert open_machine("log", "--verify", "--json", code=8).json["error"]["code"] == "tampered"


def test_a_front_that_is_cut_off(open_machine: Machine) -> None:
    """An empty file in the oldest place is no rotation; nor are files that hold what they should not."""
    for _ in range(3):
        open_machine("get", "openai/API_KEY", secret=True)
    path = log_file(open_machine)
    whole = path.read_bytes()
    for age in range(1, 5):
        path.write_bytes(whole.splitlines(keepends=True)[-1])
        oldest = path.with_name(f"access.log.{age}")
        oldest.touch()
        last = len(whole.splitlines())
        assert f"lines 1 to {last - 1} are missing" in open_machine("log", "--verify", code=8).stderr
        oldest.write_bytes(whole.splitlines(keepends=True)[0])
        open_machine("log", "--verify", code=8)
        oldest.unlink()
    path.write_bytes(whole)
    assert open_machine("log", "--verify").returncode == 0


def test_a_change_stays_noticed_when_more_is_written(open_machine: Machine) -> None:
    path = log_file(open_machine)
    lines = lines_of(path)
    cut_end(lines)
    path.write_bytes(b"".join(lines))
    open_machine("get", "openai/API_KEY", secret=True)
    open_machine("log", "--verify", code=8)


def test_the_chain_goes_on_over_a_lock(machine: Machine, canary, nsec: str) -> None:
    """The next keyholder begins with "unlock" where the last one ended."""
    machine.init_unproven(NOSTR_NSEC=nsec)
    machine("set", "openai/API_KEY", input=canary.value)
    machine("daemon", "stop", "--force")
    machine("daemon", "start", "-b", NOSTR_NSEC=nsec)
    machine("get", "openai/API_KEY", secret=True)
    found = entries(machine)
    assert [each["n"] for each in found] == list(range(1, len(found) + 1))
    assert [each["op"] for each in found].count("unlock") == 2 and found[-2]["op"] == "unlock"
    assert machine("log", "--verify").returncode == 0
    machine("daemon", "stop", "--force")
    lines = lines_of(log_file(machine))
    log_file(machine).write_bytes(b"".join([*lines[:2], *lines[3:]]))
    machine("daemon", "start", "-b", NOSTR_NSEC=nsec)
    machine("log", "--verify", code=8)  # what was changed in the meantime


def take_all(own: Path) -> None:
    for path in [*own.glob("*.log*"), own / "log.json"]:
        path.unlink(missing_ok=True)


def take_log(own: Path) -> None:
    (own / "access.log").unlink()


def take_bounds(own: Path) -> None:
    (own / "log.json").unlink()


def cut_log(own: Path) -> None:
    (own / "access.log").write_bytes(b"".join(lines_of(own / "access.log")[:-2]))


def empty_log(own: Path) -> None:
    (own / "access.log").write_bytes(b"")


def forge_bounds(own: Path) -> None:
    """The log cut, and log.json changed so that it fits; its checksum anybody can make, its mac not."""
    content = avault.decode_file("log", (own / "log.json").read_bytes(), "log.json")
    last = json.loads(lines_of(own / "access.log")[-3])
    content["ledgers"]["access.log"] |= {"number": last["n"], "mac": last["mac"]}
    (own / "log.json").write_bytes(avault.encode_file("log", content))
    cut_log(own)


@pytest.mark.parametrize("change", [take_all, take_log, take_bounds, cut_log, empty_log, forge_bounds])
@pytest.mark.slow
def test_what_is_taken_while_the_vault_is_locked(change: Any, machine: Machine, canary, nsec: str) -> None:
    """The next keyholder knows where the log ended, or that it should know."""
    machine.init_unproven(NOSTR_NSEC=nsec)
    machine("set", "openai/API_KEY", input=canary.value)
    for _ in range(3):
        machine("get", "openai/API_KEY", secret=True)
    own = machine.own
    machine("daemon", "stop", "--force")
    change(own)
    machine("daemon", "start", "-b", NOSTR_NSEC=nsec)
    machine("get", "openai/API_KEY", secret=True)
    assert "the access log was changed" in machine("log", "--verify", code=8).stderr
    machine("daemon", "stop", "--force")
    machine("daemon", "start", "-b", NOSTR_NSEC=nsec)
    machine("log", "--verify", code=8)  # and it is not forgotten


@pytest.mark.slow
@linux
def test_lines_cut_off_after_a_kill(machine: Machine, canary, nsec: str) -> None:
    """Where the log ends is written down while the vault is open, not only when it is locked."""
    machine.init_unproven(NOSTR_NSEC=nsec)
    machine("set", "openai/API_KEY", input=canary.value)
    bounds = machine.own / "log.json"
    before = bounds.read_bytes()
    machine("get", "openai/API_KEY", secret=True)
    wait_until(lambda: bounds.read_bytes() != before, what="the log's new end")
    os.kill(machine.status()["keyholder_pid"], signal.SIGKILL)
    machine.wait_state("unpaired")
    cut_log(machine.own)
    machine("unlock", NOSTR_NSEC=nsec)
    machine("log", "--verify", code=8)


# Refusals


def test_refusals_cannot_displace_releases(open_machine: Machine) -> None:
    """A flood of long refused requests: few short lines, in a file of their own, and the number of the others."""
    for _ in range(3):
        open_machine("get", "openai/API_KEY", secret=True)
    before = log_file(open_machine).read_bytes()
    names = ["Z" * 199 + str(number) for number in range(4_700)]
    refuse(open_machine, 40, op="export", only=names)
    refuse(open_machine, 40, op="delete", group="nobody")
    refuse(open_machine, 40, op="get", group="\U0001f600" * 5_000, key=["\x1b" * 900] * 90)
    assert log_file(open_machine).read_bytes() == before
    refused = open_machine.own / "refused.log"
    assert 29 <= len(lines_of(refused)) <= 35
    assert max(len(line) for line in lines_of(refused)) < 8_000
    answer = open_machine("log", "--verify", "--json").json
    assert answer["refused"] >= 120 > answer["lines"]
    assert open_machine("log").stdout.count("get openai/API_KEY") == 3
    open_machine("lock", "--force")
    last = json.loads(lines_of(refused)[-1])
    assert last["op"] == "get" and last["skipped"] > 80
    assert f", and {last['skipped']} more before it\n" in open_machine("log").stdout


REFUSED = [
    (["get", "openai/NOTHING"], 4),
    (["get", "nobody"], 4),
    (["get", "nobody", "--json"], 4),
    (["export", "--only", "NOTHING"], 4),
    (["export", "--shell", "--group", "nobody"], 4),
    (["run", "--no-mask", "--only", "NOTHING", "--", "true"], 4),
    (["run", "--only", "NOTHING", "--", "true"], 4),
    (["delete", "nobody"], 4),
    (["delete", "openai/NOTHING"], 4),
    (["inject", "-i", "template", "-o", "-"], 4),
]


def test_a_refused_request_is_made_once(open_machine: Machine) -> None:
    """It stands once in the log, whichever way the command went; and not among what was released."""
    (open_machine.top / "template").write_text("avault://openai/NOTHING")
    before = log_file(open_machine).read_bytes()
    twice = []
    for count, (words, code) in enumerate(REFUSED, 1):
        open_machine(*words, code=code)
        if len(lines_of(open_machine.own / "refused.log")) != count:
            twice.append(words)
    assert not twice
    assert log_file(open_machine).read_bytes() == before


def test_refusals_are_verified_too(open_machine: Machine) -> None:
    refuse(open_machine, 3, op="get", group="nobody")
    refused = open_machine.own / "refused.log"
    whole = lines_of(refused)
    for lines in (whole[1:], whole[:-1], [whole[0], whole[2]], [whole[0].replace(b"nobody", b"openai"), *whole[1:]], []):
        refused.write_bytes(b"".join(lines))
        assert "refused.log: " in open_machine("log", "--verify", code=8).stderr
    refused.write_bytes(b"".join(whole))
    open_machine("log", "--verify")
    log_file(open_machine).write_bytes(b"".join(whole))  # signed, but for another file
    open_machine("log", "--verify", code=8)


def test_a_refusal_stands_where_it_happened(open_machine: Machine) -> None:
    for name in ("API_KEY", "NO_1", "ORG", "NO_2", "NO_3", "API_KEY"):
        open_machine("get", f"openai/{name}", secret=True, code=None)
    shown = [line.split(" by ")[0].split("get ")[1] for line in open_machine("log").stdout.splitlines()[-6:]]
    assert shown == [f"openai/{name}" for name in ("API_KEY", "NO_1", "ORG", "NO_2", "NO_3", "API_KEY")]
    found = entries(open_machine)[-6:]
    assert [(each["n"], each.get("follows")) for each in found[1:4]] == [
        (1, found[0]["n"]),
        (found[0]["n"] + 1, None),
        (2, found[2]["n"]),
    ]


def test_a_line_names_a_hundred(open_machine: Machine) -> None:
    fill(open_machine, 2)
    connection = connect(open_machine)
    connection.request("import", value={"secrets": [["more", f"K{number}", "a value"] for number in range(142)]})
    connection.request("reveal", only=["openai/ORG"] * 500)
    connection.close()
    many, few = entries(open_machine)[-2:]
    assert (len(many["keys"]), many["more"]) == (100, 42)
    assert (few["keys"], few["more"]) == (["openai/ORG"], 0)
    assert "more/K99 and 42 more by " in open_machine("log").stdout


# Rotation


@pytest.mark.slow
def test_rotation(open_machine: Machine) -> None:
    """Five files, read in order; lines are missing from none, and only the oldest go."""
    fill(open_machine, 1_200)
    own = open_machine.own
    files = sorted(path.name for path in own.glob("access.log*"))
    assert files == ["access.log", *(f"access.log.{age}" for age in range(1, 5))]
    assert all(
        path.stat().st_size <= avault.AccessLog.FILES[0][1] + (64 << 10) and path.stat().st_mode & 0o777 == 0o600
        for path in own.glob("access.log*")
    )
    numbers = [each["n"] for each in entries(open_machine)]
    assert numbers == list(range(numbers[0], numbers[-1] + 1)) and numbers[0] > 1
    answer = open_machine("log", "--verify", "--json").json
    assert (answer["files"], answer["begins"]) == (6, numbers[0])
    assert f"; it begins at {numbers[0]:,}, what was before has rotated away\n" in open_machine("log", "--verify").stdout
    oldest = (own / "access.log.4").read_bytes()
    for cut in (b"", oldest[oldest.index(b"\n") + 1 :]):
        (own / "access.log.4").write_bytes(cut)
        open_machine("log", "--verify", code=8)
    (own / "access.log.4").write_bytes(oldest)
    (own / "access.log.3").rename(own / "aside")
    open_machine("log", "--verify", code=8)
    (own / "access.log.2").rename(own / "access.log.3")
    (own / "aside").rename(own / "access.log.2")
    open_machine("log", "--verify", code=8)


@pytest.mark.slow
def test_following_over_rotations(open_machine: Machine) -> None:
    """-f prints each line once, in order, whatever the files are called meanwhile; Ctrl-C ends it."""
    first = entries(open_machine)[-1]["n"]
    following = open_machine.start("log", "-f", "--json")
    wait_until(lambda: len(following.stdout) == first, what="what was there")
    open_machine("get", "openai/API_KEY", secret=True)
    wait_until(lambda: len(following.stdout) == first + 1, what="a line that was added")
    fill(open_machine, 500)
    assert (open_machine.own / "access.log.2").exists()
    last = first + 501
    wait_until(lambda: len(following.stdout) >= last, what="all lines")
    assert [json.loads(line)["n"] for line in following.stdout] == list(range(1, last + 1))
    following.process.send_signal(signal.SIGINT)
    assert following.wait().returncode == 130


def test_following_from_before_the_first_line(open_machine: Machine) -> None:
    """There is no log yet; and half a line is not shown before its other half."""
    own = open_machine.own
    open_machine("daemon", "stop", "--force")
    log = own / "access.log"
    line = lines_of(log)[0]
    log.unlink()
    following = open_machine.start("log", "-f")
    following.line("avault: nothing has been released yet")
    with log.open("wb", buffering=0) as file:
        file.write(line + line[:40])
        wait_until(lambda: len(following.stdout) == 1, what="the first line")
        file.write(line[40:])
        wait_until(lambda: len(following.stdout) == 2, what="the second line")
    assert following.stdout[0] == following.stdout[1]
    log.rename(own / "access.log.1")
    log.write_bytes(b"another\n")
    wait_until(lambda: following.stdout[2:] == ["not a line of the log: another"], what="the new file")


# Others of the same user write to the files too


@pytest.fixture
def log(tmp_path: Path) -> avault.AccessLog:
    return avault.AccessLog(str(tmp_path), nostr_sdk.Keys.generate(), is_new=True)


def release(log: avault.AccessLog) -> None:
    log.write({"op": "get", "group": "openai", "key": "API_KEY"}, {"pid": 1})


def test_what_others_add_turns_no_page(log: avault.AccessLog) -> None:
    """Else who fills the file, and cleans up behind, has every older line forgotten for the price of a few of his own."""
    path = Path(log.releases.path)
    for _ in range(3):
        release(log)
    for _ in range(6):
        good = path.read_bytes()
        path.write_bytes(good + b"x" * log.releases.limit + b"\n")
        release(log)
        line = path.read_bytes().splitlines(keepends=True)[-1]
        path.write_bytes(good + line)
    found = log.verify()
    assert (found["lines"], found["begins"], found["files"], found["intact"]) == (9, 1, 2, True)


def test_a_page_that_cannot_be_turned_forgets_nothing(log: avault.AccessLog) -> None:
    release(log)
    log.releases.limit = 10
    (Path(log.releases.path + ".4") / "in the way").mkdir(parents=True)
    Path(log.releases.path + ".3").touch()
    for _ in range(6):
        with pytest.raises(avault.AvaultError, match="cannot be written"):
            release(log)
    assert log.releases.starts == [1]
