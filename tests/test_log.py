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


def fill(machine: Machine, count: int, size: int = 1000) -> None:
    """So many releases, each with a long line in the log, over one connection."""
    places = avault.Places(str(machine.vault))
    places.socket = machine.status()["socket"]
    connection = avault.Connection(places)
    for _ in range(count):
        connection.request("reveal", groups=[], only=["openai/API_KEY"] * size, **{"for": "test"})
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
    found = list(dict.fromkeys((e["op"], e["for"], e["group"], ",".join(e["keys"] or []), e["outcome"]) for e in lines))
    runs = [each for each in found if each[1] == "run"]
    assert runs and {each[2:] for each in runs} == {("openai", "", "ok")}
    assert [each for each in found if each not in runs] == [
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
    open_machine("get", "openai/API_KEY", secret=True)
    open_machine("get", "openai/NOTHING", code=4)
    open_machine("scan", str(open_machine.home))
    open_machine("export", "--only", "API_KEY,openai/ORG", secret=True)
    *_, get, missing, _, scan, export = open_machine("log").stdout.splitlines()
    last = entries(open_machine)[-1]
    who = f"by {os.path.basename(last['exe'] or '?')} ({last['pid']})"
    if last["parent"]:
        who += f" in {os.path.basename(last['parent']['exe'])} ({os.getpid()})"
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
    for path in own.glob("access.log*"):
        path.unlink()
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
    assert machine.status()["state"] == "unlocked"


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
    assert answer == {"intact": True, "lines": len(whole), "files": 1}
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


# Rotation


@pytest.mark.slow
def test_rotation(open_machine: Machine) -> None:
    """Five files, read in order; lines are missing from none, and only the oldest go."""
    fill(open_machine, 1700)
    own = open_machine.own
    files = sorted(path.name for path in own.glob("access.log*"))
    assert files == ["access.log", *(f"access.log.{age}" for age in range(1, 5))]
    assert all(
        path.stat().st_size <= avault.AccessLog.LIMIT + (64 << 10) and path.stat().st_mode & 0o777 == 0o600
        for path in own.glob("access.log*")
    )
    numbers = [each["n"] for each in entries(open_machine)]
    assert numbers == list(range(numbers[0], numbers[-1] + 1)) and numbers[0] > 1
    assert open_machine("log", "--verify", "--json").json["files"] == 5
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
    fill(open_machine, 700)
    assert (open_machine.own / "access.log.1").exists()
    last = first + 701
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
