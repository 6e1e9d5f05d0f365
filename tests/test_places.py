"""Where things are: vault directory, vault id, socket, pid file; and that vaults on one machine never meet."""

import base64
import hashlib
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from harness import AVAULT, Machine, wait_until

import avault

pytestmark = pytest.mark.usefixtures("forks")

USUAL = ("clawd/.avault", ".openclaw/workspace/.avault")


def expected_id(directory: str) -> str:
    """The vault id as design and references/protocol.md define it, by other means than avault's."""
    return "avault1-" + base64.urlsafe_b64encode(hashlib.sha256(directory.encode()).digest()).decode()[:16]


# The vault id


@pytest.mark.parametrize(
    ("directory", "golden"),
    [
        ("/nonexistent/clawd/.avault", "avault1-rXLkVhjE9UBwKgm8"),
        ("/nonexistent/Wörk space/.avault", "avault1-crB-DeGGQRkZ94Lr"),
        ("/nonexistent/3", "avault1-4u6yXE-NdkZvi5j_"),  # both characters that base64url has for itself
    ],
)
def test_vault_id(directory: str, golden: str) -> None:
    assert avault.vault_id(directory) == golden == expected_id(directory)


def test_vault_id_is_of_the_real_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    real = os.path.realpath(tmp_path / "real")
    assert avault.vault_id(str(tmp_path / "link")) == avault.vault_id(real + "/../real/") == expected_id(real)


# The vault directory


def make_vault(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "avault.enc").touch()


def test_directory_that_is_named(place, monkeypatch: pytest.MonkeyPatch) -> None:
    make_vault(place.home / USUAL[0])
    monkeypatch.setenv("WORKSPACE", str(place.top / "work"))
    assert avault.vault_directory() == str(place.top / "work/.avault")
    monkeypatch.setenv("AVAULT_DIR", "~/named")
    assert avault.vault_directory() == str(place.home / "named")
    monkeypatch.chdir(place.top)
    assert avault.vault_directory("given/./here") == str(place.top / "given/here")
    monkeypatch.setenv("AVAULT_DIR", "")
    monkeypatch.setenv("WORKSPACE", "")
    assert avault.vault_directory("") == str(place.home / USUAL[0])


def test_directory_that_is_usual(place) -> None:
    assert avault.vault_directory() == str(place.home / USUAL[0])
    make_vault(place.home / USUAL[1])
    assert avault.vault_directory() == str(place.home / USUAL[1])
    (place.home / USUAL[0]).mkdir(parents=True)
    assert avault.vault_directory() == str(place.home / USUAL[1]), "an empty directory is no vault"
    (place.home / USUAL[0] / "avault.enc").touch()
    assert avault.vault_directory() == str(place.home / USUAL[0])


def test_directory_that_init_chooses(place) -> None:
    assert avault.vault_directory(creating=True) == str(place.home / USUAL[0])
    (place.home / ".openclaw/workspace").mkdir(parents=True)
    assert avault.vault_directory(creating=True) == str(place.home / USUAL[1])
    (place.home / "clawd").mkdir()
    assert avault.vault_directory(creating=True) == str(place.home / USUAL[0])


def test_directory_around_the_vault(place) -> None:
    """--dir ~/agent2 means ~/agent2/.avault, unless ~/agent2 is a vault itself."""
    make_vault(place.home / "agent2/.avault")
    assert avault.vault_directory("~/agent2") == str(place.home / "agent2/.avault")
    assert avault.Places("~/agent2").id == avault.vault_id(str(place.home / "agent2/.avault"))
    (place.home / "agent2/avault.enc").touch()
    assert avault.vault_directory("~/agent2") == str(place.home / "agent2")
    (place.home / "agent3/.avault").mkdir(parents=True)
    assert avault.vault_directory("~/agent3") == str(place.home / "agent3")


def know(directory: Path) -> None:
    """As if this machine had opened the vault."""
    state = Path(avault.state_home()) / avault.vault_id(str(directory))
    state.mkdir(parents=True, mode=0o700)
    (state / "unlock.json").touch()


def test_directory_that_is_near(place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that this machine has opened, and no other: a cloned repository must not choose the vault."""
    usual, near = place.home / USUAL[0], place.top / "project/.avault"
    make_vault(usual)
    make_vault(near)
    (place.top / "project/deep/down").mkdir(parents=True)
    monkeypatch.chdir(place.top / "project/deep/down")
    assert avault.vault_directory() == str(usual)
    know(near)
    assert avault.vault_directory() == avault.vault_directory(creating=True) == str(near)
    assert avault.Places().socket == str(place.runtime / f"avault-{avault.vault_id(str(near))}.sock")
    monkeypatch.chdir(place.top / "project")
    assert avault.vault_directory() == str(near)
    monkeypatch.setenv("AVAULT_DIR", str(usual))
    assert avault.vault_directory() == str(usual)
    monkeypatch.delenv("AVAULT_DIR")

    (place.top / "clone").mkdir()
    (place.top / "clone/.avault").symlink_to(near)  # what a repository can hold: a way to a vault that was opened
    monkeypatch.chdir(place.top / "clone")
    assert avault.vault_directory() == str(usual)
    monkeypatch.chdir(place.top)
    assert avault.vault_directory() == str(usual)


def test_directory_that_is_near_and_usual(place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps its socket, wherever one stands."""
    make_vault(place.home / USUAL[0])
    know(place.home / USUAL[0])
    monkeypatch.chdir(place.home / "clawd")
    assert avault.Places().socket == str(place.runtime / "avault.sock")


def test_no_home(machine: Machine) -> None:
    for words in (["list"], ["status"], ["init"], ["has", "a"]):
        done = machine(*words, HOME="relative/home", code=1)
        assert "error: HOME is no absolute path: 'relative/home'\navault: hint: " in done.stderr, words


def test_current_directory_that_is_gone(machine: Machine) -> None:
    machine.init_unproven()
    gone = machine.top / "gone"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        gone.mkdir()
        script = 'rmdir "$PWD"; exec "$@"'
        return subprocess.run(
            ["sh", "-c", script, "sh", AVAULT, *words], env=machine.env, cwd=gone, check=False, capture_output=True, text=True
        )

    assert run("list").returncode == 0
    assert run("status").returncode == 0
    for words in (["list", "--dir", "v"], ["audit"]):
        done = run(*words)
        assert "avault: error: the current directory is gone\navault: hint: " in done.stderr, (words, done.stderr)
        assert done.returncode == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_home_that_cannot_be_written(machine: Machine) -> None:
    machine.home.chmod(0o500)
    machine.vault = machine.top / "v"
    done = machine("init", "--dir", "v", "--signer-npub", machine.npub(), XDG_STATE_HOME="", code=1)
    assert "error: cannot make the directory" in done.stderr
    assert "XDG_STATE_HOME=DIR" in done.stderr
    assert not machine.vault.exists()
    machine.home.chmod(0o700)


# The socket


def test_state_directory(place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # the specification: to be ignored
    assert avault.Places("/nonexistent/3").state == str(place.home / ".local/state/avault/avault1-4u6yXE-NdkZvi5j_")
    monkeypatch.setenv("XDG_STATE_HOME", str(place.state))
    assert avault.Places("/nonexistent/3").state == str(place.state / "avault/avault1-4u6yXE-NdkZvi5j_")


def test_socket_names(place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert avault.Places().socket == str(place.runtime / "avault.sock")
    assert avault.Places().pid_file == str(place.runtime / "avault.pid")
    named = avault.Places("/nonexistent/3")
    assert named.socket == str(place.runtime / "avault-avault1-4u6yXE-NdkZvi5j_.sock")
    assert named.pid_file == str(place.runtime / "avault-avault1-4u6yXE-NdkZvi5j_.pid")
    for name in ("AVAULT_DIR", "WORKSPACE"):
        monkeypatch.setenv(name, str(place.top))
        places = avault.Places()
        assert places.socket == str(place.runtime / f"avault-{places.id}.sock")
        monkeypatch.delenv(name)


def test_socket_and_pid_file_that_are_named(place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.top)
    monkeypatch.setenv("AVAULT_SOCKET", "tmp/a.sock")
    assert avault.Places("/nonexistent/3").socket == str(place.top / "tmp/a.sock")
    assert avault.Places().pid_file == str(place.top / "tmp/a.pid")
    monkeypatch.setenv("AVAULT_PID", "tmp/b.pid")
    assert avault.Places().pid_file == str(place.top / "tmp/b.pid")


@pytest.mark.parametrize("wrong", ["absent", "group can enter", "others can read", "symlink", "file", "not ours"])
def test_runtime_directory_that_is_not_private(place, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    real = place.runtime
    if wrong == "absent":
        real.rmdir()
    elif wrong == "group can enter":
        real.chmod(0o710)
    elif wrong == "others can read":
        real.chmod(0o704)
    elif wrong == "symlink":
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(place.top / "link"))
        (place.top / "link").symlink_to(real)
    elif wrong == "file":
        real.rmdir()
        real.touch(0o600)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 54321)
    places = avault.Places()
    assert not places.socket.startswith(os.environ["XDG_RUNTIME_DIR"])
    if not avault.is_private_directory(f"/run/user/{os.getuid()}"):
        assert places.socket == places.own("avault.sock")


def test_socket_in_the_state_directory(place) -> None:
    place.runtime.chmod(0o755)
    with Machine(place.top) as machine:
        machine.init_unproven()
        path = Path(machine.status()["socket"])
        if not avault.is_private_directory(f"/run/user/{os.getuid()}"):
            assert path == machine.own / "avault.sock"
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_socket_that_the_daemon_recorded(machine: Machine) -> None:
    machine.init_unproven(AVAULT_SOCKET=str(machine.top / "elsewhere.sock"))
    assert not (machine.runtime / "avault.sock").exists()
    assert machine.status()["socket"] == str(machine.top / "elsewhere.sock")
    machine("set", "a/B", input="x")
    assert machine("get", "a/B").stdout == "x\n"


def test_socket_path_that_is_too_long(machine: Machine) -> None:
    directory = machine.top / ("x" * 100)
    directory.mkdir(mode=0o700)
    done = machine("init", "--signer-npub", machine.npub(), AVAULT_SOCKET=f"{directory}/a.sock", code=1)
    assert "too long" in done.stderr
    assert "hint: choose a shorter one with AVAULT_SOCKET" in done.stderr
    assert not (machine.vault / "avault.enc").exists()


@pytest.mark.parametrize("mode", [0o1777, 0o770, 0o702])
def test_socket_where_others_can_write(machine: Machine, mode: int) -> None:
    shared = machine.top / "shared"
    shared.mkdir()
    shared.chmod(mode)
    done = machine("init", "--signer-npub", machine.npub(), AVAULT_SOCKET=str(shared / "a.sock"), code=1)
    assert "is not a directory that only we can write to" in done.stderr
    assert list(shared.iterdir()) == []


def test_socket_behind_a_link(machine: Machine) -> None:
    (machine.top / "link").symlink_to(machine.runtime)
    machine("init", "--signer-npub", machine.npub(), AVAULT_SOCKET=str(machine.top / "link/a.sock"), code=1)
    assert list(machine.runtime.iterdir()) == []


def test_stale_socket_is_replaced(machine: Machine) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(machine.runtime / "avault.sock"))
    machine.init_unproven()
    assert machine.status()["socket"] == str(machine.runtime / "avault.sock")


def test_socket_that_another_listens_at(machine: Machine) -> None:
    path = machine.runtime / "avault.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        before = path.stat().st_ino
        done = machine("init", "--signer-npub", machine.npub(), code=6)
        assert "avault: hint: " in done.stderr
        assert path.stat().st_ino == before
    path.unlink()


def test_what_is_no_socket_is_not_removed(machine: Machine) -> None:
    path = machine.top / "notes.txt"
    path.write_text("precious")
    machine("init", "--signer-npub", machine.npub(), AVAULT_SOCKET=str(path), code=1)
    assert path.read_text() == "precious"


def test_pid_file(machine: Machine) -> None:
    machine.init_unproven()
    path = machine.runtime / "avault.pid"
    assert path.read_text() == f"{machine.status()['pid']}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    machine("daemon", "stop", "--force")
    wait_until(lambda: not path.exists())


def test_pid_file_that_is_relative(machine: Machine) -> None:
    machine.init_unproven(AVAULT_PID="daemon.pid")
    assert (machine.top / "daemon.pid").read_text() == f"{machine.status()['pid']}\n"


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
def test_path_that_is_not_utf8(machine: Machine) -> None:
    """A recorded socket whose path is any bytes that a file name may have."""
    directory = os.fsencode(machine.top) + b"/r\xff"
    os.mkdir(directory, 0o700)
    path = os.fsdecode(directory + b"/a.sock")
    machine.init_unproven(AVAULT_SOCKET=path)
    machine("set", "a/B", input="x")
    assert machine("get", "a/B").stdout == "x\n"
    assert machine("status").stdout.startswith("Daemon: running")


# Many vaults


def test_three_vaults_never_meet(machine: Machine) -> None:
    names = ("one", "two", "three")
    vaults = {name: machine.top / name / ".avault" for name in names}
    seen = {}
    try:
        for name, vault in vaults.items():
            machine("--dir", str(vault), "init", "--signer-npub", machine.npub(), "--name", name)
            machine("set", "a/B", "--dir", str(vault), input=f"of {name}")
        for name, vault in vaults.items():
            assert machine("get", "a/B", "--dir", str(vault)).stdout == f"of {name}\n"
            assert machine("get", "a/B", AVAULT_DIR=str(vault)).stdout == f"of {name}\n"
            seen[name] = json.loads(machine("status", "--json", "--dir", str(vault)).stdout)
            assert seen[name]["vault_id"] == expected_id(os.path.realpath(vault))
        for field in ("vault_id", "socket", "pid", "keyholder_pid", "agent_npub", "dir", "name"):
            assert len({status[field] for status in seen.values()}) == 3, field

        # a socket that leads to another vault's daemon
        for words in (["get", "a/B"], ["set", "a/B"], ["list"], ["export"], ["delete", "a"], ["unlock"], ["lock"]):
            done = machine(*words, "--dir", str(vaults["one"]), AVAULT_SOCKET=seen["two"]["socket"], input="new", code=None)
            assert (done.returncode, done.stdout) == (6, ""), words
        done = machine("get", "a/B", "--dir", str(vaults["one"]), AVAULT_SOCKET=seen["two"]["socket"], code=6)
        assert str(vaults["two"]) in done.stderr
        for name, vault in vaults.items():
            assert machine("get", "a/B", "--dir", str(vault)).stdout == f"of {name}\n"

        machine("daemon", "stop", "--force", "--dir", str(vaults["one"]))
        machine("get", "a/B", "--dir", str(vaults["one"]), code=6)
        machine("get", "a/B", "--dir", str(vaults["two"]))
    finally:
        for vault in vaults.values():
            machine("daemon", "stop", "--force", "--dir", str(vault), code=None)


def test_custodians_are_found_wherever_the_state_is(tmp_path):
    """A directory's name that is a pattern to a shell is a name."""
    places = avault.Places(str(tmp_path / "vault"))
    places.state = str(tmp_path / "a[b]*")
    os.mkdir(places.state)
    for name in ("custody-box.json", "custody-other.new.json"):
        (tmp_path / "a[b]*" / name).touch()
    custodians = avault.Custodians(places)
    assert custodians.names() == ["box"] and custodians.names(candidate=True) == ["other"]
    assert custodians.order() == ["box", "phone"]


def test_a_custodian_that_is_taken_away_leaves_no_file_to_be_tried(tmp_path):
    """An add that was cut off leaves two: who finds the other has a custodian, whole."""
    places = avault.Places(str(tmp_path / "vault"))
    places.state = str(tmp_path)
    for name in ("custody-box.json", "custody-box.new.json"):
        (tmp_path / name).touch()
    custodians = avault.Custodians(places)
    custodians.forget("box")
    assert custodians.names() == custodians.names(candidate=True) == [] and custodians.order() == ["phone"]
