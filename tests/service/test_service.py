"""`avault service`: the unit as systemd reads it, what it runs; and, as root, a systemd of our own that runs it."""

import contextlib
import json
import os
import plistlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import peers
import pytest
from booted import ALICE, Booted, UserManager
from harness import Done, Machine, wait_until
from hypothesis import given
from hypothesis import strategies as st

import avault

pytestmark = pytest.mark.usefixtures("forks")
REFERENCE = Path(__file__).resolve().parents[2] / "references" / "service.md"
booted = pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="would change this machine's own systemd")
needs_analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
linux = pytest.mark.skipif(sys.platform != "linux", reason="systemd is for Linux")


# A second reader of unit files, from the manual pages systemd.syntax(7), systemd.unit(5) and systemd.service(5).


def read_unit(text: str) -> dict[str, list[tuple[str, str]]]:
    """The sections of a unit file, with their assignments in order."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for line in text.split("\n"):
        if line.startswith("["):
            section = sections.setdefault(line[1:-1], [])
        elif line and line[0] not in "#;":
            assert not line.endswith("\\"), "goes on in the next line"
            name, equals, value = line.partition("=")
            assert equals
            section.append((name, value.strip(" \t")))
    return sections


def values(text: str, name: str) -> list[str]:
    """The words of all assignments to a directive, with quotes and specifiers resolved."""
    found = [value for assignments in read_unit(text).values() for each, value in assignments if each == name]
    return [word for value in found for word in split_words(value)]


def split_words(value: str) -> list[str]:
    """Words: quotes may stand at their beginning, backslashes escape, %% is a percent sign."""
    words: list[str] = []
    rest = value
    while rest := rest.lstrip(" \t"):
        word, quote = "", ""
        if rest[0] in "\"'":
            quote, rest = rest[0], rest[1:]
        while rest and rest[0] not in (quote or " \t"):
            if rest[0] == "\\":
                assert rest[1] in "\\\"'", "an escape that paths do not have"
                rest = rest[1:]
            elif rest[0] == "%":
                assert rest[1] == "%", "a specifier"
                rest = rest[1:]
            word, rest = word + rest[0], rest[1:]
        if quote:
            assert rest[0] == quote and rest[1:2] in ("", " "), "a quote that does not end"
            rest = rest[1:]
        words.append(word)
    return words


def command_line(text: str) -> list[str]:
    """The words of ExecStart=, as they come to the program: $$ is a dollar sign."""
    words = values(text, "ExecStart")
    assert not [word for word in words if re.search(r"\$(?!\$)", word.replace("$$", ""))], "a variable"
    return [word.replace("$$", "$") for word in words]


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)


@given(st.lists(texts, min_size=1))
def test_words_come_back(words: list[str]) -> None:
    assert split_words(" ".join(avault.quote(word) for word in words)) == words
    line = avault.quote_command(["/usr/bin/python3", *words])
    assert command_line(f"[Service]\nExecStart={line}\n") == ["/usr/bin/python3", *words]
    assert not line.startswith(("-", "@", ":", "+", "!", "|"))


@given(st.text("\0\n\r\t\x1b\x7f\udcff", min_size=1, max_size=3), texts)
def test_what_a_unit_cannot_hold_is_refused(bad: str, good: str) -> None:
    with pytest.raises(avault.AvaultError, match="control characters"):
        avault.quote(good + bad)


@pytest.mark.parametrize("python", ['/opt/a"b/python', "/opt/$x/python", "/opt/a\\b/python"])
def test_a_program_that_systemd_cannot_start(python: str) -> None:
    with pytest.raises(avault.AvaultError, match="systemd starts no program with such a path"):
        avault.quote_command([python, "-P"])


# The unit


def unit(machine: Machine, *words: str, **env: str) -> str:
    """What `install` would write."""
    return machine("service", "install", "--print", *words, **env).stdout


@pytest.fixture
def vault(machine: Machine) -> Machine:
    """A machine with a vault that nobody has proven, and no daemon."""
    machine.init_unproven()
    machine("daemon", "stop", "--force")
    return machine


@linux
def test_the_unit_starts_this_vault_and_asks(vault: Machine) -> None:
    text = unit(vault, "--lock-after", "8h", "--lock-idle", "90", "--notify", "notify-send \"$AVAULT_STATE\" '50%'")
    python, *words = command_line(text)
    assert words == [
        *("-s", "-P", os.path.realpath(sysconfig.get_path("purelib") + "/avault.py")),  # nothing that this user put into Python
        *("daemon", "start", "--dir", str(vault.vault)),
        *("--lock-after", "8h", "--lock-idle", "90", "--notify", "notify-send \"$AVAULT_STATE\" '50%'"),
    ]
    assert os.path.samefile(python, sys.executable)
    assert values(text, "Environment") == [f"XDG_STATE_HOME={vault.state}"]
    assert values(text, "UnsetEnvironment") == ["NOSTR_NSEC"]
    assert values(text, "WantedBy") == ["default.target"]
    assert unit(vault) == vault("service", "install", "--dry-run").stdout
    found = vault("service", "install", "--print", "--json").json
    assert (found["unit"], Path(found["path"]).parent) == (unit(vault), vault.home / ".config/systemd/user")


@linux
@pytest.mark.parametrize("name", ["plain", "white space", "per%cent %h", "$HOME ${HOME}", "quo\"te's", "back\\slash", "ünï;#é"])
@pytest.mark.slow
def test_odd_directories(place, name: str) -> None:
    with Machine(place.top, vault=place.top / name / ".avault") as machine:
        machine.init_unproven()
        words = command_line(unit(machine))
        assert words[words.index("--dir") + 1] == str(machine.vault)
        assert values(unit(machine, "--system"), "ReadWritePaths")[0] == str(machine.vault)


@linux
def test_the_state_is_found_where_it_is_now(vault: Machine) -> None:
    text = unit(vault, AVAULT_SOCKET=f"{vault.runtime}/my %socket")
    assert values(text, "Environment") == [f"AVAULT_SOCKET={vault.runtime}/my %socket", f"XDG_STATE_HOME={vault.state}"]
    assert "NOSTR_NSEC" not in unit(vault, NOSTR_NSEC="nsec1…").replace("UnsetEnvironment=NOSTR_NSEC", "")


@linux
def test_a_repository_can_be_written_to(vault: Machine) -> None:
    """The system's unit: the vault's directory, its state, and where git keeps the repository around it."""
    state = vault.state / "avault" / avault.vault_id(str(vault.vault))
    assert values(unit(vault, "--system"), "ReadWritePaths") == [str(vault.vault), str(state), "/tmp"]  # all below /tmp, here
    repository, tree = vault.top / "repository", vault.home / "clawd"
    subprocess.run(["git", "init", "-q", "--separate-git-dir", repository, tree], check=True)
    assert values(unit(vault, "--system"), "ReadWritePaths")[2:-1] == [str(repository)]


@linux
def test_what_runs_javascript_may_compile_it(vault: Machine) -> None:
    assert values(unit(vault), "MemoryDenyWriteExecute") == ["yes"]
    assert not values(unit(vault, "--notify", "node notify.js"), "MemoryDenyWriteExecute")


@linux
@pytest.mark.parametrize("words", [("--lock-after", "soon"), ("--lock-idle", "-1"), ("--user", "nobody")])
def test_bad_options_are_refused(vault: Machine, words: tuple[str, str]) -> None:
    vault("service", "install", "--print", *words, code=2)


def test_no_vault(machine: Machine) -> None:
    assert "no vault" in machine("service", "install", "--print", code=4).stderr


@linux
@needs_analyze
@pytest.mark.parametrize("options", [[], ["--notify", "true"]])
@pytest.mark.parametrize("scope", [[], ["--system"]])
def test_systemd_approves(vault: Machine, scope: list[str], options: list[str]) -> None:
    """`systemd-analyze verify` has nothing to say, and `security` counts no more exposure than is known."""
    # 10 is a service without any limits. Measured with systemd 252: 6.7 for a user's, 2.5 for the system's, 3.2 as root.
    bound = 6.9 if not scope else 2.7 if os.getuid() else 3.4
    found = vault("service", "install", "--print", "--json", *scope, *options).json
    path = vault.top / Path(found["path"]).name
    path.write_text(found["unit"])
    manager = "--system" if scope else "--user"
    said = subprocess.run(["systemd-analyze", "verify", manager, "--man=no", path], env=vault.env, capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (0, "")
    analyze = ["systemd-analyze", "security", manager, "--offline=yes", "--no-pager", path]
    level = subprocess.run(analyze, env={**vault.env, "LC_ALL": "C"}, capture_output=True, text=True).stdout
    assert float(level.rpartition("level for")[2].split()[1]) <= bound, level
    path.write_text(found["unit"].replace("LimitCORE", "LimitKERN"))
    assert subprocess.run(["systemd-analyze", "verify", manager, "--man=no", path], env=vault.env, capture_output=True).stderr


# What it runs


@pytest.mark.parametrize("name", ["run/notify", "@avault-test"])
@pytest.mark.slow
def test_what_the_unit_runs(machine: Machine, canary, name: str) -> None:
    """Run as systemd would: ready when it listens, asking the phone, and whatever key the manager's environment holds."""
    address = name if name[0] == "@" else str(machine.top / name)
    address += str(os.getpid()) if name[0] == "@" else ""
    with peers.local_relay() as relay, peers.ndk([relay.url]) as phone:
        machine.init(relay.url, phone=phone)
        machine("set", "openai/API_KEY", input=canary.value)
        machine("daemon", "stop")
        text = unit(machine, "--notify", f"env >{machine.top}/told")
        environment = {"HOME": machine.env["HOME"], "XDG_RUNTIME_DIR": str(machine.runtime), "PATH": "/usr/bin:/bin"}
        environment |= {"NOSTR_NSEC": "not even a key", "NOTIFY_SOCKET": address}
        environment |= dict(each.split("=", 1) for each in values(text, "Environment"))
        for each in values(text, "UnsetEnvironment"):
            environment.pop(each, None)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(address.replace("@", "\0", 1) if address[0] == "@" else address)
            manager.settimeout(60)
            daemon = subprocess.Popen(command_line(text), env=environment, cwd="/", stderr=subprocess.PIPE)
            try:
                assert b"READY=1" in manager.recv(4096).split(b"\n")
                assert machine.status()["pid"] == daemon.pid  # it listens by now
                phone.answer(phone.wait_for("ask")["id"], True)
                machine.wait_state("unlocked")
                assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
                told = wait_until(lambda: "AVAULT_STATE=unlocked" in (text := (machine.top / "told").read_text()) and text)
                assert "NOTIFY_SOCKET" not in told and "NOSTR_NSEC" not in told
                daemon.send_signal(signal.SIGTERM)
                assert daemon.wait(60) == 0
            finally:
                daemon.kill()
                daemon.communicate()


# Without systemd


@booted
def test_no_systemd(vault: Machine) -> None:
    done = vault("service", "install", code=6)
    assert "systemd does not run this machine" in done.stderr and "references/service.md" in done.stderr
    assert not (vault.home / ".config").exists()
    assert vault("service", "install", "--json", code=6).json["error"]["code"] == "unavailable"
    assert vault("service", "uninstall").stderr == "avault: no service is installed\n"


@booted
def test_status_without_systemd(vault: Machine) -> None:
    """What can be seen on the disk is told; what only systemd knows is not made up."""
    none = vault("service", "status", "--json", code=4).json
    assert (none["installed"], none["enabled"], none["active"], none["systemd"]) == (False, False, None, False)
    found = vault("service", "install", "--print", "--json", "--lock-after", "8h").json
    path = Path(found["path"])
    (path.parent / "default.target.wants").mkdir(parents=True)
    path.write_text(found["unit"])
    some = vault("service", "status", "--json", code=6).json
    assert (some["installed"], some["current"], some["enabled"], some["active"]) == (True, True, False, None)
    (path.parent / "default.target.wants" / path.name).symlink_to(path)
    assert vault("service", "status", "--json", code=6).json["enabled"]
    path.write_text(found["unit"].replace("LimitCORE=0\n", ""))
    done = vault("service", "status", code=6)
    assert "Outdated: " in done.stdout and "Active: unknown" in done.stdout
    vault("service", "uninstall")
    assert not list((vault.home / ".config").rglob("avault*"))


def test_what_is_not_ours_stays(vault: Machine) -> None:
    path = Path(vault("service", "install", "--print", "--json").json["path"])
    path.parent.mkdir(parents=True)
    path.write_text("[Service]\nExecStart=/bin/true\n")
    for verb in ("status", "uninstall"):
        assert "is not avault's" in vault("service", verb, code=1).stderr
    assert path.exists()


def examples(kind: str) -> list[str]:
    """The fenced blocks of the reference."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_launchd_example() -> None:
    (text,) = examples("xml")
    job = plistlib.loads(text.encode())
    assert job["RunAtLoad"] is True and job["ProgramArguments"][1:3] == ["daemon", "start"]
    assert job["KeepAlive"] == {"SuccessfulExit": False} and job["HardResourceLimits"] == {"Core": 0}


def test_the_other_examples_are_shell() -> None:
    scripts = [text for text in examples("sh") if text.startswith("#!")]
    assert len(scripts) == 2
    for text in scripts:
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)
        assert "avault daemon start" in text or 'command_args="daemon start' in text


# With a systemd of our own


@contextlib.contextmanager
def top(place) -> Iterator[Path]:
    """A directory for a machine: services do not see the /tmp of others. Its end is where canaries are searched for."""
    directory = Path(tempfile.mkdtemp(prefix="avt", dir="/var"))
    try:
        yield directory
    finally:
        shutil.move(directory, place.top / "system")


@pytest.fixture
def system(place) -> Iterator[Booted]:
    with top(place) as directory, Booted(directory) as system:
        yield system


@pytest.fixture
def user(place) -> Iterator[UserManager]:
    with top(place) as directory, UserManager(directory) as user:
        yield user


@pytest.mark.root
@pytest.mark.parametrize(("user", "of_system"), [("alice", False), ("alice", True), ("root", True)])
def test_a_day_with_the_service(system: Booted, canary, user: str, of_system: bool) -> None:
    """Installed, it asks the phone and serves; installed again, nothing happens; uninstalled, nothing is left."""
    with system.machine(user) as machine, peers.local_relay() as relay, peers.ndk([relay.url]) as phone:
        if not of_system:
            system.run("loginctl", "enable-linger", "alice", check=True)

        def service(*words: str, code: int = 0) -> Done:
            words = ("service", *words)
            return system.as_root(machine, *words, "--system", code=code) if of_system else machine(*words, code=code)

        machine.init(relay.url, phone=phone)
        machine("set", "openai/API_KEY", input=canary.value)
        machine("daemon", "stop")
        subprocess.run([*machine.command[:-1], "git", "init", "-q", str(machine.vault.parent)], env=machine.env, check=True)

        installed = service("install", "--json").json
        assert (installed["changed"], installed["enabled"], installed["active"]) == (True, True, "active")
        assert installed["lingering"] in (None, True)
        machine.wait_state("waiting")
        phone.answer(phone.wait_for("ask")["id"], True)
        status = machine.wait_state("unlocked")
        assert status["pid"] == installed["pid"]
        assert machine("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
        released = [json.loads(line) for line in machine("log", "--json").stdout.splitlines()]
        assert "python" in next(line["exe"] for line in released if line["op"] == "get"), "the daemon does not see its callers"
        machine("set", "openai/OTHER", input=canary.value)
        wait_until(lambda: (machine.status()["git"] or {}).get("commit"), what="a commit, inside the limits")
        assert service("status", "--json").json["active"] == "active"

        for pid in (status["pid"], status["keyholder_pid"]):
            lines = dict(line.split(":", 1) for line in system.read(f"/proc/{pid}/status").splitlines())
            assert (lines["NoNewPrivs"].strip(), lines["Seccomp"].strip()) == ("1", "2")
            if of_system:
                assert int(lines["CapBnd"], 16) == (1 << 19 if machine.env["USER"] == "root" else 0)  # CAP_SYS_PTRACE
                enter = ["nsenter", "-t", str(pid), "-m", "touch"]
                assert "Read-only file system" in system.run(*enter, str(machine.home / "new")).stderr
                assert "Read-only file system" in system.run(*enter, "/etc/new").stderr
                assert system.run(*enter, str(machine.vault / "new")).returncode == 0
                if not sys.prefix.startswith("/tmp/"):
                    assert not system.run("nsenter", "-t", str(pid), "-m", "ls", "/tmp").stdout
        assert system.show(installed["name"], "MemorySwapMax", "LimitCORE", user=None if of_system else machine) == {
            "MemorySwapMax": "0",
            "LimitCORE": "0",
        }

        again = service("install", "--json").json
        assert (again["changed"], again["pid"]) == (False, status["pid"])
        other = service("install", "--lock-idle", "8h", "--json")
        assert (other.json["changed"], other.json["pid"]) == (True, status["pid"])
        assert f"restart {installed['name']}" in other.stderr
        assert service("status", "--json").json["current"]

        assert service("uninstall", "--json").json["removed"]
        assert machine.status()["state"] == "stopped"
        assert not system.run("find", "/etc/systemd/system", str(machine.home), "-name", "avault-*").stdout
        service("status", code=4)


@pytest.mark.root
def test_a_crash_and_a_stop(system: Booted) -> None:
    """A daemon that dies comes back after a pause; one that was stopped stays stopped."""
    with system.machine("root") as machine:
        machine.init_unproven()
        slowly = f"while [ ! -e {system.top}/go ]; do sleep 0.1; done; touch {machine.vault}/done"
        assert "a daemon runs already" in machine("service", "install", "--system", "--notify", slowly).stderr
        name = machine("service", "status", "--system", "--json", code=6).json["name"]
        machine("daemon", "stop", "--force")
        system.run("systemctl", "start", name, check=True)
        assert "the key is lost" in machine("service", "uninstall", "--system", code=5).stderr
        system.run("kill", "-KILL", str(machine.status()["pid"]), check=True)
        wait_until(lambda: system.show(name, "SubState")["SubState"] == "auto-restart", what="a restart")
        system.run("systemctl", "start", name, check=True)
        machine("daemon", "stop", "--force")
        wait_until(lambda: system.show(name, "ActiveState")["ActiveState"] == "inactive", what="the end")
        assert not (machine.vault / "done").exists()
        (system.top / "go").touch()  # what the daemon had begun, as a commit, is left to end
        wait_until((machine.vault / "done").exists, what="the command of --notify")
        machine("service", "uninstall", "--system")


@pytest.mark.root
def test_another_daemon_is_not_asked_again_and_again(system: Booted) -> None:
    """The unit's daemon finds another at work and ends; systemd leaves it at that."""
    with system.machine("root") as machine:
        machine.init_unproven()
        machine("service", "install", "--system")
        name = machine("service", "status", "--system", "--json", code=6).json["name"]
        assert system.run("systemctl", "start", name).returncode
        assert system.show(name, "ActiveState", "Result", "SubState") == {
            "ActiveState": "failed",
            "Result": "protocol",
            "SubState": "failed",
        }


@pytest.mark.root
def test_the_hint_for_sudo_works(system: Booted) -> None:
    with system.machine("alice") as alice:
        alice.init_unproven()
        alice("daemon", "stop", "--force")
        error = alice("service", "install", "--system", "--lock-idle", "8h", "--json", code=5).json["error"]
        unit, for_root = error["hint"].split(" | ")
        words = shlex.split(unit)
        assert words[0] == alice.command[-1] and "--print" in words and "avault " not in for_root
        text = subprocess.run([*alice.command[:-1], *words], env=alice.env, capture_output=True, text=True, check=True).stdout
        before = [*alice.command[:2], str(system.pid), "-a", "sh", "-c", for_root.replace("sudo ", "")]
        done = subprocess.run(before, input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        status = alice.wait_state("unpaired")
        assert system.read(f"/proc/{status['pid']}/status").split("Uid:")[1].split()[0] == str(ALICE)
        other = system.as_root(alice, "service", "install", "--system", "--user", "root", "--dir", str(alice.vault), code=2)
        assert "does not belong to root" in other.stderr
        for words in (["status"], ["doctor"], ["doctor", "--fix"], ["list"]):
            done = system.as_root(alice, *words, "--dir", str(alice.vault), code=5)
            assert "is alice's, and its daemon answers nobody else" in done.stderr
            assert "as alice: avault" in done.stderr and "chown" not in done.stdout + done.stderr
        assert alice.vault.stat().st_uid == ALICE
        again = [
            *shlex.split(alice("service", "uninstall", "--system", code=5).stderr.partition("hint: ")[2].replace("sudo ", ""))
        ]
        assert again[:2] == ["systemctl", "disable"] and "avault" not in again[0]


@pytest.mark.root
def test_root_does_not_run_what_others_can_change(system: Booted) -> None:
    """Neither avault, nor its Python or a package, nor a directory on the way there."""
    with system.machine("root") as machine:
        machine.init_unproven()
        (site,) = (system.top / "venv").glob("lib/python3*/site-packages")
        for path in (site / "avault.py", site / "click", site / "qrcode" / "util.py", system.top / "venv"):
            os.chown(path, ALICE, ALICE)
            for verb in ("install", "uninstall"):
                done = machine("service", verb, "--system", code=5)
                assert f"root does not run what others can change: {path}\n" in done.stderr
            os.chown(path, 0, 0)
        mode = site.stat().st_mode
        site.chmod(0o777)
        machine("service", "install", "--system", code=5)
        site.chmod(mode)
        machine("service", "uninstall", "--system")


@pytest.mark.root
def test_lingering_is_turned_on_where_that_is_allowed(system: Booted) -> None:
    """After `su`, no manager of the user's runs: it is started, and stays. As for everybody, polkit decides."""
    with system.machine("alice") as alice:
        alice.init_unproven()
        alice("daemon", "stop", "--force")
        if system.run("systemctl", "start", "polkit").returncode:
            assert "sudo loginctl enable-linger" in alice("service", "install", code=6).stderr
        else:
            assert alice("service", "install", "--json").json["lingering"]
            assert alice.status()["pid"]


@pytest.mark.root
def test_what_systemd_makes_of_words(system: Booted) -> None:
    """The quoting again, read by systemd itself, in a command line, in a variable and in a path."""
    words = ["a b", "%h %n %%", "$HOME ${HOME} $$", "quo\"te's", "back\\slash\\n", "ünï;#é", ";", "-", "", "@x", "|"]
    directory = system.top / "ro ot"
    paths = [directory / word for word in words if word not in ("", "-")]
    for path in paths:
        path.mkdir(parents=True)
    writable = "[os.access(path, os.W_OK) for path in words]"
    program = f"import json, os, sys; words = sys.argv[1:]; json.dump([words, os.environ['V'], {writable}], sys.stdout)"
    line = avault.quote_command([os.path.realpath("/usr/bin/python3"), "-c", program, *words, *map(str, paths), "/etc"])
    text = (
        f"[Service]\nType=oneshot\nExecStart={line}\nProtectSystem=strict\nEnvironment={avault.quote('V=' + ' '.join(words))}\n"
        f"ReadWritePaths={' '.join(avault.quote(str(path)) for path in paths)}\nStandardOutput=file:{system.top}/out\n"
    )
    file = system.top / "words.service"
    file.write_text(text)
    system.run("cp", str(file), "/run/units", check=True)
    done = system.run("systemctl", "start", "words.service")
    assert done.returncode == 0, done.stderr
    argv, variable, writable = json.loads((system.top / "out").read_text())
    assert argv == [*words, *map(str, paths), "/etc"]
    assert variable == " ".join(words)
    assert writable[len(words) :] == [True] * len(paths) + [False]


@pytest.mark.root
def test_what_doctor_says_of_services(system: Booted) -> None:
    """Each trouble once, and the command that mends it."""

    def trouble(name: str) -> list[tuple[str, str | None]]:
        rows = alice("doctor", "--json", name, code=None).json["checks"]
        return [(row["state"], row["hint"]) for row in rows]

    with system.machine("alice") as alice:
        alice.init_unproven()
        alice("daemon", "stop", "--force")
        assert trouble("service") == [("off", "avault service install")]
        system.run("loginctl", "enable-linger", "alice", check=True)
        wait_until(lambda: system.show(f"user@{ALICE}.service", "SubState")["SubState"] == "running", what="alice's systemd")
        alice("service", "install")
        assert [trouble(name) for name in ("service", "lingering")] == [[("ok", None)]] * 2
        name = alice("service", "status", "--json").json["name"]
        alice("daemon", "stop", "--force")
        wait_until(lambda: system.show(name, "ActiveState", user=alice)["ActiveState"] == "inactive", what="the end")
        ((state, hint),) = trouble("service")
        assert (state, hint) == ("bad", f"systemctl --user start {name}")
        subprocess.run([*alice.command[:-1], *shlex.split(hint or "")], env=alice.env, check=True)
        assert trouble("service") == [("ok", None)]
        system.run("rm", "/var/lib/systemd/linger/alice", check=True)
        assert trouble("lingering") == [("bad", "sudo loginctl enable-linger alice")]
        system.as_root(alice, "service", "install", "--system")
        assert ("bad", "avault service uninstall") in trouble("service")
        alice("service", "uninstall", "--force")
        assert ("bad", "avault service uninstall") not in trouble("service")


# A user's manager alone


@pytest.mark.long
@pytest.mark.root
def test_a_users_service_from_boot_to_boot(user: UserManager, canary) -> None:
    """Whatever ended the daemon, systemd starts it, it asks the phone, and opens with the approval; until it is uninstalled."""
    with user.machine("alice") as alice, peers.local_relay() as relay, peers.ndk([relay.url]) as phone:

        def opens(after: int | None) -> int:
            status = wait_until(lambda: (now := alice.status())["state"] == "waiting" and now["pid"] != after and now)
            assert user.show(name, "MainPID", "SubState", user=alice) == {"MainPID": str(status["pid"]), "SubState": "running"}
            phone.answer(phone.wait_for("ask")["id"], True)
            alice.wait_state("unlocked")
            assert alice("get", "openai/API_KEY", secret=True).stdout == canary.value + "\n"
            return int(status["pid"])

        alice.init(relay.url, phone=phone)
        alice("set", "openai/API_KEY", input=canary.value)
        alice("daemon", "stop")
        done = alice("service", "install", "--json")
        name, found = done.json["name"], done.json
        assert (found["changed"], found["enabled"], found["active"], found["lingering"]) == (True, True, "active", True)
        assert "lingering is off" not in done.stderr
        assert user.show(name, "Type", "Result", user=alice) == {"Type": "notify", "Result": "success"}
        pid = opens(None)
        user.reboot()
        pid = opens(pid)
        user.cut_power()
        pid = opens(pid)
        assert not user.systemctl("restart", name).returncode
        pid = opens(pid)
        keyholder = alice.status()["keyholder_pid"]
        user.run("kill", "-KILL", str(pid), check=True)
        wait_until(lambda: user.run("test", "-e", f"/proc/{keyholder}").returncode, what="the end of the secrets' process")
        opens(pid)
        assert alice("service", "uninstall", "--json").json["removed"]
        assert alice.status()["state"] == "stopped"
        assert user.show(name, "LoadState", user=alice) == {"LoadState": "not-found"}
        assert not list(alice.home.rglob("avault-*.service"))
        user.reboot()
        assert alice.status()["state"] == "stopped"


def pause_long(directory: Path) -> None:
    """As `systemctl edit` would: systemd waits long enough for a busy machine before it starts the daemon again."""
    directory.mkdir()
    (directory / "override.conf").write_text("[Service]\nRestartSec=10min\n")


@pytest.mark.root
def test_while_systemd_waits_to_start_it_again(user: UserManager) -> None:
    """It is said, by every command; none takes the vault's lock from the service, and `daemon stop` ends the waiting."""

    def crash() -> int:
        pid = int(alice.status()["pid"])
        user.run("kill", "-KILL", str(pid), check=True)
        wait_until(lambda: user.show(name, "SubState", user=alice)["SubState"] == "auto-restart", what="systemd's pause")
        return pid

    with user.machine("alice") as alice:
        alice.init_unproven()
        alice("daemon", "stop", "--force")
        name = alice("service", "install", "--json").json["name"]
        pause_long(Path(f"{alice.home}/.config/systemd/user/{name}.d"))
        assert not user.systemctl("daemon-reload").returncode
        at_once = f"at once with: systemctl --user restart {name}"
        reason = "it ended (signal), and systemd starts it again after a pause"

        crash()
        status = alice("status", "--json", code=6).json
        assert (status["state"], status["error"]["message"], status["hint"]) == ("starting", reason, at_once)
        shown = alice("status", code=6).stdout
        assert "Daemon: stopped\n" in shown and f"Reason: {reason}\n" in shown and f"Next: {at_once}\n" in shown
        assert alice("status", "--short", code=6).stdout == "starting\n"
        assert "daemon start -b" not in shown
        for words in (["get", "openai/API_KEY"], ["list"], ["lock", "--idle", "1h"]):
            done = alice(*words, code=6)
            assert f"no daemon is running for {alice.vault}: {reason}" in done.stderr and f"hint: {at_once}\n" in done.stderr
        (row,) = alice("doctor", "--json", "daemon", code=None).json["checks"]
        assert (row["state"], row["hint"]) == ("bad", f"systemctl --user restart {name}")

        for words in (["daemon", "start", "-b"], ["unlock"]):
            alice(*words, code=None)
            status = alice.status()
            assert user.show(name, "MainPID", "SubState", user=alice) == {"MainPID": str(status["pid"]), "SubState": "running"}
            crash()
        assert "systemd does not start it again" in alice("daemon", "stop").stderr
        assert user.show(name, "ActiveState", user=alice) == {"ActiveState": "inactive"}
        status = alice.status()
        assert (status["state"], status["hint"]) == ("stopped", f"start it with: systemctl --user start {name}")
        assert alice("status", "--short", code=6).stdout == "stopped\n"

        for _ in range(3):  # with the two above, five starts in ten minutes; daemon-reload has begun to count anew
            assert not user.systemctl("restart", name).returncode  # `start` would wait for the end of the pause
            crash()
        done = alice("daemon", "start", "-b", code=6)
        hint = f"start it with: systemctl --user reset-failed {name} && systemctl --user start {name}"
        assert "its service has failed (signal)" in done.stderr and f"hint: {hint}\n" in done.stderr
        assert alice.status()["hint"] == hint
        assert not user.systemctl("reset-failed", name).returncode
        alice("service", "uninstall")


@pytest.mark.root
def test_only_root_may_start_the_systems_service(system: Booted) -> None:
    """While systemd waits with one of the system's, another account is told what root types, and starts nothing itself."""
    with system.machine("alice") as alice:
        alice.init_unproven()
        alice("daemon", "stop", "--force")
        system.as_root(alice, "service", "install", "--system")
        name = f"avault-{alice.status()['vault_id']}.service"
        pause_long(Path(f"/proc/{system.pid}/root/etc/systemd/system/{name}.d"))
        system.run("systemctl", "daemon-reload", check=True)
        system.run("kill", "-KILL", str(alice.status()["pid"]), check=True)
        wait_until(lambda: system.show(name, "SubState")["SubState"] == "auto-restart", what="systemd's pause")
        for words, hint in (
            (["daemon", "start", "-b"], f"at once with: sudo systemctl restart {name}"),
            (["unlock"], f"at once with: sudo systemctl restart {name}"),
            (["daemon", "stop"], f"to stop it: sudo systemctl stop {name}"),
        ):
            assert f"hint: {hint}\n" in alice(*words, code=6).stderr
        assert alice.status()["state"] == "starting"
        system.as_root(alice, "service", "uninstall", "--system", "--force")


def test_what_root_may_run_is_every_file_of_avault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of a package beside it."""
    extra = tmp_path / "avault_extras" / "deep" / "part.py"
    extra.parent.mkdir(parents=True)
    extra.touch()
    monkeypatch.setattr(avault, "__file__", str(tmp_path / "avault.py"))
    assert {str(extra), str(extra.parent), str(tmp_path / "avault_extras")} <= {*avault.own_files()}
