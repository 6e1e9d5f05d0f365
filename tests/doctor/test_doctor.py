"""`avault doctor`: each check made to fail once, on purpose, and mended by --fix or by the command that it names."""

import ctypes
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peers
import pytest
from harness import SOURCE, Machine, wait_until

import avault

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forks")]


Row = dict[str, Any]
linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells where to look")


def examine(machine: Machine, *names: str, fix: bool = False, **env: str) -> dict[str, list[Row]]:
    """What doctor finds, by the name of the check; without names, by all of them, but the relays."""
    done = machine("doctor", "--json", *(["--fix"] if fix else []), *(names or ["--offline"]), code=None, **env)
    rows = done.json["checks"]
    assert list(dict.fromkeys(row["name"] for row in rows)) == [
        name for name in avault.CHECKS if name in (names or avault.CHECKS)
    ]
    assert all(row["state"] in ("ok", "warn", "bad", "off") and row["text"] for row in rows)
    assert not [row for row in rows if "could not be looked at" in row["text"]]
    assert done.returncode == any(row["state"] == "bad" for row in rows) == (not done.json["healthy"])
    return {row["name"]: [other for other in rows if other["name"] == row["name"]] for row in rows}


def states(machine: Machine, *names: str, fix: bool = False, **env: str) -> list[str]:
    """The states of all that some checks find."""
    return [row["state"] for rows in examine(machine, *names, fix=fix, **env).values() for row in rows]


def trouble(machine: Machine, name: str, text: str, state: str = "bad", **env: str) -> str:
    """The hint of the one finding of a check whose text is like that; it must be there, in that state."""
    rows = examine(machine, name, **env)[name]
    found = [row for row in rows if re.search(text, row["text"])]
    assert [row["state"] for row in found] == [state], rows
    return found[0]["hint"] or ""


def own(machine: Machine) -> Path:
    """The vault's state directory."""
    return machine.state / "avault" / avault.vault_id(str(machine.vault))


@pytest.fixture
def vault(machine: Machine) -> Machine:
    """A machine with an open vault that nobody has proven."""
    machine.init_unproven()
    return machine


class Paired:
    """A machine that was paired through a relay with a phone."""

    def __init__(self, machine: Machine, relay: peers.Relay, phone: peers.Phone) -> None:
        self.machine, self.relay, self.phone = machine, relay, phone
        machine.init(relay.url, phone=phone)


@pytest.fixture
def paired(machine: Machine) -> Iterator[Paired]:
    with peers.local_relay() as relay, peers.ndk([relay.url]) as phone:
        yield Paired(machine, relay, phone)


# As a whole


def test_all_is_well(paired: Paired) -> None:
    machine = paired.machine
    subprocess.run(["git", "init", "-q", machine.home / "clawd"], check=True)
    machine("set", "a/B", input="unimportant")
    wait_until(lambda: (machine.status()["git"] or {}).get("commit"), what="the commit")
    done = machine("doctor")
    lines = done.stdout.splitlines()
    assert {line[:5] for line in lines} <= {"ok   ", "warn ", "off  ", "     "}
    assert not [line for line in lines if line.startswith("warn") and not line.startswith("warn clock: ")]
    assert f"ok   relay: {paired.relay.url} takes a message and gives it back in " in done.stdout
    assert done.stderr == ""


def test_every_state(paired: Paired) -> None:
    """No daemon, locked, waiting, open, and one that does not answer: doctor works, and never asks the phone."""
    machine, phone = paired.machine, paired.phone
    said = {}

    def look(state: str) -> None:
        asked = {request["id"] for request in phone.seen("request")}
        (row,) = examine(machine)["daemon"]
        said[state] = ("bad" if row["state"] == "bad" else "well", row["hint"])  # that the clock is wrong may be said here, too
        assert {request["id"] for request in phone.seen("request")} == asked

    look("open")
    machine("lock")
    look("locked")
    phone.policy("ask")
    machine("daemon", "start", "-b")
    machine.wait_state("waiting")
    phone.wait_for("ask")
    look("waiting")
    pid = machine.status()["pid"]
    os.kill(pid, signal.SIGSTOP)
    look("silent")
    os.kill(pid, signal.SIGCONT)
    machine("daemon", "stop")
    look("stopped")
    assert [said[state][0] for state in ("open", "locked", "waiting", "silent", "stopped")] == [
        "well",
        "well",
        "well",
        "bad",
        "bad",
    ]
    assert said["stopped"][1] == "avault daemon start -b"
    machine(*shlex.split(said["stopped"][1])[1:])
    phone.wait_for("ask")
    look("started")
    assert said["started"][0] == "well"


@pytest.mark.parametrize("name", ["avault.enc", "nsec.enc"])
def test_command_that_brings_a_file_back(vault: Machine, name: str) -> None:
    """From the latest commit in which it is whole, also where damage was committed after that."""
    vault("set", "a/B", input="unimportant")
    vault("daemon", "stop", "--force")  # which would mend some of it
    git = ["git", "-C", str(vault.vault), "-c", "user.name=x", "-c", "user.email=x@example.com"]
    path = vault.vault / name
    for content in (path.read_bytes(), b"damaged\n", b"damaged again\n"):
        path.write_bytes(content)
        for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
            subprocess.run([*git, *words], check=True)
    path.unlink()
    [row] = [row for row in examine(vault, "vault")["vault"] if name in row["text"]]
    assert row["state"] == "bad" and row["hint"].startswith(f"git -C {vault.vault} checkout ")
    subprocess.run(shlex.split(row["hint"]), check=True)
    assert examine(vault, "vault")["vault"][0]["state"] == "ok"
    shutil.rmtree(vault.vault / ".git")
    path.write_bytes(b"damaged\n")
    assert "take it from" in next(row["hint"] for row in examine(vault, "vault")["vault"] if name in row["text"])


def test_hints_that_are_written_anew(paired: Paired) -> None:
    machine = paired.machine
    path = machine.vault / "nip46.json"
    before = path.read_bytes()
    for damage in (path.unlink, lambda: path.write_text("{}")):
        damage()
        assert examine(machine, "vault")["vault"][0]["hint"] == "avault doctor --fix"
        machine("doctor", "vault", "--fix")
        assert path.read_bytes() == before


def test_a_check_that_there_is_not(vault: Machine) -> None:
    assert "vault, state, leftovers" in vault("doctor", "fault", code=2).stderr


def test_no_vault(machine: Machine) -> None:
    found = examine(machine)
    assert [name for name, rows in found.items() if rows[0]["state"] == "bad"] == ["vault"]
    assert found["vault"][0]["hint"].startswith("avault init")
    done = machine("doctor", code=1)
    assert f"bad  vault: no vault in {machine.vault}\n     hint: avault init" in done.stdout


def test_a_clone(vault: Machine, place) -> None:
    """A machine that has never opened the vault is told to recover it."""
    with Machine(place.top / "other", vault=place.top / "clone") as clone:
        shutil.copytree(vault.vault, clone.vault)
        found = examine(clone, "state", "pairing")
        assert [(rows[0]["state"], rows[0]["hint"]) for rows in found.values()] == [("bad", "avault recover")] * 2


# Files


def test_others_may_enter(vault: Machine) -> None:
    for directory, name in ((vault.vault, "vault"), (own(vault), "state")):
        directory.chmod(0o755)
        hint = trouble(vault, name, "others can enter")
        subprocess.run(["sh", "-c", hint], check=True)
        assert states(vault, name) == ["ok"]
        directory.chmod(0o750)
        assert states(vault, name, fix=True) == ["ok"]
        assert directory.stat().st_mode & 0o777 == 0o700


def test_others_may_read(vault: Machine) -> None:
    path = own(vault) / "unlock.json"
    path.chmod(0o644)
    subprocess.run(["sh", "-c", trouble(vault, "state", "others may read")], check=True)
    assert states(vault, "state") == ["ok"]
    path.chmod(0o640)
    done = vault("doctor", "--fix", "--offline", "--json", code=None)
    assert done.json["fixed"] == [f"made {path} private"] and f"fixed: made {path} private" in done.stderr
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("name", "check"),
    [("nsec.enc", "vault"), ("nip46.json", "vault"), ("avault.enc", "vault")]
    + [(name, "state") for name in ("unlock.json", "pin.json", "machine.json")],
)
def test_damaged_files(vault: Machine, name: str, check: str) -> None:
    vault("daemon", "stop", "--force")
    path = (vault.vault if check == "vault" else own(vault)) / name
    whole = path.read_bytes()
    for data in (whole[:-20], b"", whole[:40] + b"%" + whole[41:]):
        path.write_bytes(data)
        assert trouble(vault, check, "damaged")
    path.write_bytes(whole)
    assert states(vault, check) == ["ok"]
    path.unlink()
    os.mkfifo(path)
    trouble(vault, check, "not a regular file")
    path.unlink()
    if check == "vault":
        assert trouble(vault, check, "no file|is gone")


def test_a_conflict_of_gits(vault: Machine) -> None:
    path = vault.vault / "avault.enc"
    whole = path.read_bytes()
    path.write_bytes(b"<<<<<<< HEAD\n" + whole + b"=======\n" + whole + b">>>>>>> theirs\n")
    assert trouble(vault, "vault", "merge conflict") == "avault sync"


def test_files_of_another_vault(vault: Machine, place) -> None:
    with Machine(place.top / "other") as other:
        other.init_unproven()
        vault("daemon", "stop", "--force")  # an open vault puts its own back
        for name in ("nsec.enc", "nip46.json"):
            mine = (vault.vault / name).read_bytes()
            shutil.copy(other.vault / name, vault.vault / name)
            assert trouble(vault, "vault", "different vaults")
            if name == "nsec.enc":
                assert "avault forget" in trouble(vault, "state", "is of another vault")
            (vault.vault / name).write_bytes(mine)
        assert states(vault, "vault") == ["ok"]


def test_attributes(vault: Machine) -> None:
    path = vault.vault / ".gitattributes"
    whole = path.read_bytes()
    path.write_bytes(b"*.md text")
    assert trouble(vault, "vault", "gitattributes") == "avault doctor --fix"
    assert states(vault, "vault", fix=True) == ["ok"]
    assert path.read_bytes() == b"*.md text\n" + whole
    path.unlink()
    assert states(vault, "vault", fix=True) == ["ok"]
    assert path.read_bytes() == whole


def test_leftovers(vault: Machine) -> None:
    path, not_ours = vault.vault / f".avault.enc.{'0' * 16}.tmp", vault.vault / ".notes.tmp"
    path.write_bytes(b"half a vault")
    assert states(vault, "leftovers", fix=True) == ["ok"] and path.exists()  # the daemon may be writing it
    vault("daemon", "stop", "--force")
    assert trouble(vault, "leftovers", "a killed write", state="warn")
    assert states(vault, "leftovers", fix=True) == ["ok"] and not path.exists()
    not_ours.write_bytes(b"")
    assert states(vault, "leftovers", fix=True) == ["ok"] and not_ours.exists()


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_vault_that_was_moved(paired: Paired, is_begun: bool) -> None:
    """Its state is found under the old name, and taken over: the phone opens it there without a new pairing."""
    machine, phone = paired.machine, paired.phone
    machine("daemon", "stop")
    old = own(machine)
    machine.vault = machine.vault.rename(machine.home / "moved")
    machine.env["AVAULT_DIR"] = str(machine.vault)
    if is_begun:
        machine("daemon", "start", "-b")
        machine("daemon", "stop")
        assert own(machine).is_dir()
    assert states(machine, "pairing") == ["bad"]
    assert trouble(machine, "orphans", re.escape(str(old))) == "avault doctor --fix"
    assert states(machine, "orphans", "pairing", "drill", "proven", fix=True) == ["ok"] * 4
    assert not old.exists()
    phone.policy("approve")
    machine("unlock")
    assert states(machine, "state") == ["ok"]


def test_two_copies_of_a_vault(vault: Machine, place) -> None:
    """The state of a copy that is in use is not offered; what seems to be left of one is named, and left."""
    copy = Machine(place.top, vault=place.top / "copy")
    shutil.copytree(vault.vault, copy.vault)
    assert states(copy, "orphans") == ["ok"]  # the other is in a usual place
    vault("daemon", "stop", "--force")
    shutil.copytree(own(vault), own(copy))
    vault.vault.rename(place.top / "elsewhere")
    assert trouble(copy, "orphans", "another copy", state="warn") == f"if that copy is no more: rm -r {own(vault)}"
    assert own(vault).exists()


@linux
def test_state_in_memory(place) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        machine = Machine(place.top)
        machine.env["XDG_STATE_HOME"], machine.state = memory, Path(memory)
        with machine:
            machine.init_unproven()
            assert "XDG_STATE_HOME" in trouble(machine, "state", "is in memory", state="warn")


def test_file_systems(tmp_path: Path) -> None:
    """The mount that a path is on, by the kernel's table: the longest that is a directory above it, the last of equals."""
    (table := tmp_path / "mountinfo").write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "31 22 0:40 / /home rw - nfs4 server:/home rw\n"
        "32 31 0:41 / /home/a\\040b rw - tmpfs tmpfs rw\n"
        "33 31 0:42 / /home/a\\040b rw master:1 propagate_from:2 - fuse.sshfs x rw\n"
    )
    found = {path: avault.filesystem_of(path, str(table)) for path in ("/", "/homes", "/home", "/home/c/d", "/home/a b/c")}
    assert found == {"/": "ext4", "/homes": "ext4", "/home": "nfs4", "/home/c/d": "nfs4", "/home/a b/c": "fuse.sshfs"}
    assert {"nfs4", "fuse.sshfs"} <= avault.NETWORKED
    assert avault.filesystem_of("/", str(tmp_path / "none")) is None


# The daemon


def test_the_sockets_place(vault: Machine, place) -> None:
    vault("daemon", "stop", "--force")
    assert "AVAULT_SOCKET" in trouble(vault, "socket", "longer than", AVAULT_SOCKET=str(place.top / ("x" * 110)))
    (shared := place.top / "shared").mkdir()
    shared.chmod(0o777)
    assert "AVAULT_SOCKET" in trouble(vault, "socket", "only we can write", AVAULT_SOCKET=str(shared / "s"))
    shared.chmod(0o700)
    (shared / "s").touch()
    hint = trouble(vault, "socket", "is no socket", AVAULT_SOCKET=str(shared / "s"))
    subprocess.run(["sh", "-c", hint.partition(",")[0]], check=True)
    assert states(vault, "socket", AVAULT_SOCKET=str(shared / "s")) == ["ok"]


def test_a_socket_that_was_recorded(vault: Machine) -> None:
    (row,) = examine(vault, "socket", XDG_RUNTIME_DIR="")["socket"]
    assert row["state"] == "ok" and "recorded" in row["text"]


def test_what_troubles_the_daemon(paired: Paired) -> None:
    machine, phone = paired.machine, paired.phone
    (machine.vault / "nip46.json").write_text("{}")
    machine("lock")
    phone.policy("approve")
    machine("unlock")
    assert trouble(machine, "daemon", "nip46.json", state="warn") == ""
    os.kill(machine.status()["keyholder_pid"], signal.SIGKILL)
    machine.wait_state("locked")
    hint = trouble(machine, "daemon", "^locked: ")
    assert "avault unlock" in hint
    machine("unlock")
    assert "bad" not in states(machine, "daemon")


def test_a_daemon_of_another_version(vault: Machine, place) -> None:
    """As after an upgrade: the daemon that runs is the old one."""
    vault("daemon", "stop", "--force")
    (old := place.top / "old").mkdir()
    shutil.copytree(SOURCE.parent / "scripts", old / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (old / "avault.py").write_text(SOURCE.read_text().replace('\n__version__ = "', '\n__version__ = "0.0.0-'))
    with Machine(place.top, command=[sys.executable, str(old / "avault.py")]) as before:
        before("daemon", "start", "-b")
        hint = trouble(vault, "daemon", "the daemon is avault 0.0.0-")
        for each in hint.split(" && "):
            vault(*shlex.split(each)[1:])
        assert states(vault, "daemon") == ["ok"]


def test_another_protocol(vault: Machine) -> None:
    """Something else listens: it is said, not waited for."""
    vault("daemon", "stop", "--force")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(vault.runtime / "avault.sock"))
        listener.listen()
        assert trouble(vault, "daemon", "gives no answer")


def test_the_python_that_is_gone(vault: Machine) -> None:
    vault("daemon", "stop", "--force")
    (own(vault) / "python").write_text("/opt/gone/bin/python3")
    hint = trouble(vault, "python", "is gone")
    vault(*shlex.split(hint)[1:])
    assert states(vault, "python") == ["ok"]


def test_another_nostr_sdk(vault: Machine, place) -> None:
    (old := place.top / "old").mkdir()
    (old / "avault.py").write_text(SOURCE.read_text().replace("nostr-sdk==", "nostr-sdk==9.", 1))
    with Machine(place.top, command=[sys.executable, str(old / "avault.py")]) as other:
        assert "pip install nostr-sdk==9." in trouble(other, "python", "avault needs 9.")


@linux
def test_the_clock(vault: Machine) -> None:
    """As the kernel says (adjtimex(2)): a test cannot change it for everybody."""
    is_off = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024)) == 5
    (row,) = examine(vault, "clock")["clock"]
    assert (row["state"], row["hint"]) == (("warn", "timedatectl set-ntp true") if is_off else ("ok", None))


# The phone


def test_not_paired_then_paired(vault: Machine) -> None:
    found = examine(vault, "pairing", "drill", "proven")
    assert [rows[0]["state"] for rows in found.values()] == ["bad", "off", "bad"]
    assert found["pairing"][0]["hint"] == found["proven"][0]["hint"] == "avault pair"
    with peers.local_relay() as relay, peers.ndk([relay.url], nsec=vault.operator.secret_key().to_hex()) as phone:
        phone.policy("approve", delay_ms=2_600)  # as a person would, who has to read
        running = vault.start("pair", "--relay", relay.url, "--no-drill")
        phone.nostrconnect(running.line("nostrconnect://"))
        assert running.wait().returncode == 0
        assert states(vault, "pairing", "drill", "proven") == ["ok", "warn", "ok"]
        assert trouble(vault, "drill", "nobody has tried", state="warn") == "avault drill"
        vault.operate(vault.start("pair", "--replace", "--relay", relay.url), phone)
        assert states(vault, "drill") == ["ok"]


def test_a_phone_that_asks_nobody(machine: Machine) -> None:
    with peers.local_relay() as relay, peers.ndk([relay.url]) as phone:
        phone.policy("approve")
        running = machine.start("init", "--yes", "--name", "test@machine", "--relay", relay.url)
        phone.nostrconnect(running.line("nostrconnect://"))
        running.wait()
        assert "avault drill" in trouble(machine, "drill", "approves by itself")


def test_a_damaged_pairing(paired: Paired, place) -> None:
    machine = paired.machine
    machine("daemon", "stop")  # an open vault would put it back
    path = own(machine) / "pairing.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    assert states(machine, "state", "pairing", "drill") == ["bad", "bad", "off"]
    path.write_bytes(whole)
    with Machine(place.top / "other") as other:
        other.init_unproven()
        for name in ("nsec.enc", "avault.enc", "nip46.json"):
            shutil.copy(other.vault / name, machine.vault / name)
        shutil.copy(own(other) / "unlock.json", own(machine) / "unlock.json")
        assert "avault pair --replace" in trouble(machine, "pairing", "another agent")


# Relays


def use_relays(machine: Machine, *urls: str) -> None:
    """Have the pairing name these relays. (An open vault believes its own memory.)"""
    machine("daemon", "stop")
    places = avault.Places(str(machine.vault))
    places.state = str(own(machine))
    pairing = avault.Pairing.load(places)
    assert pairing
    pairing.relays = list(urls)
    pairing.save(places)


def test_relays_one_by_one(paired: Paired) -> None:
    """One that works, one for those who say who they are; none there, full, silent at two depths, and deaf: all at once."""
    with (
        peers.local_relay(nip42="both") as closed_group,
        peers.local_relay(refuse="blocked: not you") as refusing,
        peers.hole("tcp") as mute,
        peers.hole("ws") as swallowing,
        peers.proxy(paired.relay.url) as deaf,
    ):
        deaf.send("rule", dir="down", drop=True)
        urls = [paired.relay.url, closed_group.url, peers.closed(), refusing.url, mute.url, swallowing.url, deaf.url]
        use_relays(paired.machine, *urls)
        rows = examine(paired.machine, "relay")["relay"]
        assert [row["url"] for row in rows] == urls
        assert [row["state"] for row in rows] == ["ok", "ok", *["warn"] * 5]
        assert all(0 < row["ms"] < 10_000 for row in rows[:2])
        said = [row["text"].removeprefix(row["url"] + " ").partition(" (os error")[0] for row in rows[2:]]
        assert said[0] == "does not answer: Connection refused"
        assert said[1].startswith("takes no message: blocked: ") and said[1].endswith("blocked: not you")
        assert said[2].startswith("does not answer")
        assert said[3:] == ["takes no subscription", "does not deliver what it takes"]
        assert all(row["ms"] is None for row in rows[2:])


def test_no_relay_works(paired: Paired) -> None:
    use_relays(paired.machine, peers.closed())
    (row,) = examine(paired.machine, "relay")["relay"]
    assert row["state"] == "bad" and "avault pair --replace --relay URL" in row["hint"]
    (row,) = examine(paired.machine, "relay", "--offline")["relay"]
    assert (row["state"], row["text"]) == ("off", "not looked at, as --offline says")


def test_relays_before_pairing(machine: Machine) -> None:
    """They are taken from the vault's hints."""
    with peers.local_relay() as relay:
        machine.init_unproven("--relay", relay.url)
        (row,) = examine(machine, "relay")["relay"]
        assert (row["url"], row["state"]) == (relay.url, "ok")


# Around the vault


def test_a_custodian(paired: Paired) -> None:
    """One that asks nobody is said; one that is not there: that, too."""
    machine, status = paired.machine, paired.machine.status()
    names = {"vault": "0" * 32, "name": "x", "agent": status["agent_npub"], "operator": status["signer_npub"], "sealed": ""}
    about = {"custodian": "box", "kind": "keychain", "account": "box", "asks": False, "settings": {}, "kept": None}
    for name, kind, content in (
        ("custody-box.json", "custody", about | names),
        ("custodians.json", "custodians", {"order": ["box", "phone"], "opened": {}}),
    ):
        path = own(machine) / name
        path.write_bytes(avault.encode_file(kind, content))
        path.chmod(0o600)
    assert trouble(machine, "custody", "does not: ") == "avault custody test box"
    machine("daemon", "stop")
    machine("custody", "remove", "box", "--yes", code=None)
    assert states(machine, "custody") == ["off"]


def test_a_gitattributes_that_leads_elsewhere(vault: Machine) -> None:
    """A pushed link would have --fix copy what it names into the repository."""
    path, outside = vault.vault / ".gitattributes", vault.home / "id_ed25519"
    outside.write_text("a private key\n")
    path.unlink()
    path.symlink_to(outside)
    for words in ((), ("--fix",)):
        vault("doctor", "--offline", *words, code=1)
        assert path.is_symlink() and outside.read_text() == "a private key\n"
    assert "not a regular file of ours" in vault("doctor", "--offline", code=1).stdout


@pytest.fixture
def repository(vault: Machine) -> Path:
    """The git repository of an open vault, with one commit."""
    top = vault.home / "clawd"
    subprocess.run(["git", "init", "-q", top], check=True)
    vault("set", "a/B", input="unimportant")
    wait_until(lambda: (vault.status()["git"] or {}).get("commit"), what="the commit")
    return top


def git(repository: Path, *words: str) -> None:
    subprocess.run(["git", "-C", repository, "-c", "user.name=x", "-c", "user.email=x@example.com", *words], check=True)


def test_the_merge_driver(vault: Machine, repository: Path) -> None:
    assert states(vault, "git") == ["ok"]
    attributes = repository / ".git" / "info" / "attributes"
    attributes.write_text("")
    assert trouble(vault, "git", "does not merge") == "avault doctor --fix"
    assert states(vault, "git", fix=True) == ["ok"]
    assert "avault" in attributes.read_text()


def test_git_that_keeps_nothing(vault: Machine, repository: Path) -> None:
    git(repository, "checkout", "-q", "--detach")
    assert trouble(vault, "git", "detached") == "git switch BRANCH"
    git(repository, "checkout", "-q", "-")
    assert states(vault, "git") == ["ok"]
    git(repository, "remote", "add", "origin", str(vault.top / "nowhere"))
    assert trouble(vault, "git", "upstream|published")
    git(repository, "config", "avault.push", "false")
    vault("set", "a/C", input="unimportant")
    wait_until(lambda: (vault.status()["git"] or {}).get("push") == "off", what="the next commit")
    assert states(vault, "git") == ["ok"]


def test_where_git_has_no_part(vault: Machine) -> None:
    assert states(vault, "git") == ["off"]
    top = vault.home / "clawd"
    subprocess.run(["git", "init", "-q", top], check=True)
    (top / ".gitignore").write_text(".avault/\n")
    assert states(vault, "git") == ["off"]


@linux
def test_the_service(vault: Machine) -> None:
    """What can be seen without systemd; the rest is in test_service.py."""
    assert states(vault, "service") == ["off"]
    unit = vault("service", "install", "--print", "--json").json
    path = Path(unit["path"])
    (path.parent / "default.target.wants").mkdir(parents=True)
    path.write_text(unit["unit"])
    assert trouble(vault, "service", "not enabled") == "avault service install"
    (path.parent / "default.target.wants" / path.name).symlink_to(path)
    assert states(vault, "service") == ["ok"]
    path.write_text(unit["unit"].replace("LimitCORE=0", "LimitCORE=infinity"))
    assert trouble(vault, "service", "not as avault would write it", state="warn") == "avault service install"


def test_secrets_in_clear(vault: Machine, canary, allow) -> None:
    vault("set", "openai/API_KEY", input=canary.value)
    profile = allow(vault.home / ".profile")
    profile.write_text(f"export OTHER='{canary.value}'\n")
    assert "avault audit" in trouble(vault, "plaintext", re.escape(str(profile)))
    vault("lock", "--force")
    assert states(vault, "plaintext") == ["ok"]  # nothing in its name says that it is one
    profile.write_text(f"export API_KEY='{canary.value}'\n")
    assert trouble(vault, "plaintext", "judged by what they look like", state="warn")
    profile.write_text("export EDITOR=vi\n")
    assert states(vault, "plaintext") == ["ok"]


def test_swap(tmp_path: Path) -> None:
    """By the kernel's table and its tree of devices: a partition, a file on an encrypted disk, zram, LVM on both kinds."""
    (tmp_path / "swaps").write_text(
        "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n/home/a\\040swap file 1 0 -3\n"
    )
    assert avault.swap_areas(str(tmp_path / "swaps")) == ["/dev/sda2", "/home/a swap"]
    devices = {name: tmp_path / "devices" / name for name in ("sda2", "dm-0", "dm-1", "dm-2", "zram0")}
    for device in devices.values():
        device.mkdir(parents=True)
    for name, uuid in (("dm-0", "CRYPT-LUKS2-1\n"), ("dm-1", "LVM-1\n"), ("dm-2", "LVM-2\n")):
        (devices[name] / "dm").mkdir()
        (devices[name] / "dm" / "uuid").write_text(uuid)
    for name, parts in (("dm-1", ["dm-0"]), ("dm-2", ["dm-0", "sda2"])):
        for part in parts:
            (devices[name] / "slaves").mkdir(exist_ok=True)
            (devices[name] / "slaves" / part).symlink_to(devices[part])
    found = {name: avault.is_encrypted(str(path)) for name, path in devices.items()}
    assert found == {"sda2": False, "dm-0": True, "dm-1": True, "dm-2": False, "zram0": True}
    assert not avault.is_sealed_off(str(tmp_path / "swaps"), str(tmp_path))  # a file on a device that sysfs does not know


def test_a_check_that_fails_is_a_finding(vault: Machine) -> None:
    """Whatever a check meets, the others go on."""
    if os.getuid() == 0:
        pytest.skip("root may read everything")
    own(vault).chmod(0)
    try:
        rows = json.loads(vault("doctor", "--json", "--offline", code=1).stdout)["checks"]
    finally:
        own(vault).chmod(0o700)
    assert {row["name"] for row in rows} == set(avault.CHECKS)
    assert "bad" in [row["state"] for row in rows if row["name"] == "state"]
