"""`avault run`: what the command is given, what is masked of what it prints, and that a terminal stays one."""

import base64
import contextlib
import hashlib
import html
import itertools
import json
import os
import quopri
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import nostr_sdk
import pytest
from canary import Canary
from harness import AVAULT, Machine, Screen, children_of, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from test_processes import is_alive

import avault

pytestmark = pytest.mark.usefixtures("forks")

linux = pytest.mark.skipif(sys.platform != "linux", reason="this is Linux's")
PYTHON = [sys.executable, "-I", "-S", "-c"]
DIGESTS = (
    "import os, hashlib, json; print(json.dumps({k.decode(): hashlib.sha256(v).hexdigest() for k, v in os.environb.items()}))"
)


def digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def prepare(machine: Machine, canary: Canary) -> None:
    machine.init_unproven()
    for name in ("openai/API_KEY", "db/PASSWORD", "db/USER_NAME"):
        machine("set", name, input=canary.new(name.partition("/")[2].lower()))


@pytest.fixture
def vault(lend: Callable[..., Machine], canary: Canary) -> Machine:
    """An open vault with two groups; the values are `canary.new` of the key's name in lower case."""
    return lend(prepare, canary)


def environment(machine: Machine, *options: str, code: int = 0, **env: str) -> dict[str, str]:
    """The environment that a command gets: each variable with the digest of its value."""
    return dict(machine("run", *options, "--", *PYTHON, DIGESTS, code=code, **env).json)


def refuse(machine: Machine, *words: str, code: int, says: str, hint: str = "") -> None:
    """`avault run` that fails, and whose command is not started."""
    started = machine.top / "started"
    done = machine("run", *words, "touch", str(started), code=code)
    assert not started.exists()
    assert done.stdout == ""
    assert says in done.stderr, done.stderr
    assert hint in done.stderr.partition("avault: hint: ")[2], done.stderr


# What the command is given


@pytest.mark.parametrize("mask", [[], ["--no-mask"]])
def test_environment(vault: Machine, canary: Canary, mask: list[str]) -> None:
    """The secrets over what was there, and nothing else changed."""
    before = subprocess.run([*PYTHON, DIGESTS], env={**vault.env, "OTHER": "kept"}, capture_output=True, check=True).stdout
    found = environment(vault, *mask, OTHER="kept", API_KEY="to be replaced")
    expected = {name: digest(canary.new(name.lower())) for name in ("API_KEY", "PASSWORD", "USER_NAME")}
    assert found == {**json.loads(before), **expected}


@pytest.mark.parametrize("mask", [[], ["--no-mask"]])
@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--group", "db"], {"PASSWORD", "USER_NAME"}),
        (["--group", "db", "--group", "openai"], {"API_KEY", "PASSWORD", "USER_NAME"}),
        (["--only", "API_KEY,db/PASSWORD"], {"API_KEY", "PASSWORD"}),
        (["--only", "API_KEY", "--only", "USER_NAME"], {"API_KEY", "USER_NAME"}),
        (["--group", "db", "--only", "PASSWORD"], {"PASSWORD"}),
        (["--group=db", "--prefix"], {"DB_PASSWORD", "DB_USER_NAME"}),
    ],
)
def test_choice(vault: Machine, options: list[str], names: set[str], mask: list[str]) -> None:
    assert environment(vault, *options, *mask).keys() - vault.env.keys() - {"LC_CTYPE"} == names


def test_what_cannot_be_chosen(vault: Machine, canary: Canary) -> None:
    refuse(vault, "--group", "nothing", code=4, says="no group nothing", hint="avault list")
    refuse(vault, "--only", "NOTHING", code=4, says="no key NOTHING", hint="avault list")
    vault("set", "other/API_KEY", input=canary.value)
    refuse(vault, code=2, says="openai/API_KEY and other/API_KEY are both API_KEY", hint="--prefix")
    vault("run", "--prefix", "--", "true")
    vault("run", "--group", "other", "--", "true")


@pytest.mark.parametrize("mask", [[], ["--no-mask"]])
def test_dangerous_names(vault: Machine, canary: Canary, mask: list[str]) -> None:
    vault("set", "db/NODE_OPTIONS", input=canary.value)
    refuse(vault, *mask, code=5, says="NODE_OPTIONS would change what other programs do", hint="--allow NODE_OPTIONS")
    refuse(vault, *mask, "--allow", "PATH", code=5, says="NODE_OPTIONS")
    vault("run", *mask, "--only", "API_KEY", "--", "true")
    assert environment(vault, "--allow", "NODE_OPTIONS", *mask)["NODE_OPTIONS"] == digest(canary.value)


def test_what_is_asked_for(vault: Machine) -> None:
    """What was chosen, for the command; and all, for the masks. The access log says what for."""
    vault("run", "--only", "db/PASSWORD", "--", "true")
    lines = [json.loads(line) for line in (vault.own / "access.log").read_text().splitlines()]
    assert {(line["op"], line["for"], line["outcome"]) for line in lines[-2:]} == {
        ("export", "run", "ok"),
        ("reveal", "mask", "ok"),
    }


def test_arguments_of_the_command_are_its_own(vault: Machine) -> None:
    show = [*PYTHON, "import sys; print(sys.argv[1:])"]
    own = ["--json", "--dir", "x", "--group", "y", "--wait", "5", "--", "-h", "--help"]
    for options in (
        [],
        ["--"],
        ["--group", "db"],
        ["--prefix", "--"],
        ["--no-mask"],
        ["--no-mask", "--"],
        ["--wait"],
        ["--wait", "9", "--"],
    ):
        assert vault("run", *options, *show, *own).stdout == f"{own}\n"
    assert vault("run", "--", "echo", "--").stdout == "--\n"
    assert vault("run", "--dir", str(vault.vault), "--", "echo", "--dir").stdout == "--dir\n"


def test_wait_takes_a_duration_or_nothing(vault: Machine) -> None:
    for words in (
        ["--wait"],
        ["--wait", "5"],
        ["--wait=5m"],
        ["--wait", "--group", "db"],
        ["--wait", "--"],
        ["--wait", "3", "--"],
    ):
        assert vault("run", *words, "echo", "here").stdout == "here\n"
    vault("lock", "--force")
    assert "error: the vault did not open in time" in vault("run", "--wait", "0", "echo", "here", code=7).stderr


def test_no_command(vault: Machine) -> None:
    for words in ([], ["--"], ["--group", "db"], ["--wait"]):
        done = vault("run", *words, code=2)
        assert "avault: error: no command is named" in done.stderr


def test_closed(machine: Machine, canary: Canary) -> None:
    """No vault, no daemon, locked: clear, and nothing is started."""
    refuse(machine, code=4, says="no vault in", hint="avault init")
    machine.init_unproven()
    machine("set", "openai/API_KEY", input=canary.value)
    machine("lock", "--force")
    refuse(machine, code=3, says="the vault is locked", hint="avault pair")
    refuse(machine, "--no-mask", code=3, says="the vault is locked", hint="avault pair")
    machine("daemon", "stop")
    refuse(machine, code=6, says="no daemon is running", hint="avault daemon start")


# How the command ends


@pytest.mark.parametrize("mask", [[], ["--no-mask"]])
def test_exit_codes(vault: Machine, mask: list[str], tmp_path: Path) -> None:
    for code in (0, 1, 3, 125, 255):
        vault("run", *mask, "--", "sh", "-c", f"exit {code}", code=code)
    done = vault("run", *mask, "--", "no-such-command-anywhere", code=127)
    assert "error: cannot run" in done.stderr
    (tmp_path / "file").write_text("")
    vault("run", *mask, "--", str(tmp_path / "file"), code=126)
    vault("run", *mask, "--", str(tmp_path), code=126)
    (tmp_path / "file").chmod(0o755)
    (tmp_path / "file").write_bytes(b"\x00\x01")
    vault("run", *mask, "--", str(tmp_path / "file"), code=126)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may search every directory")
@pytest.mark.parametrize("mask", [[], ["--no-mask"]])
def test_directory_in_path_that_may_not_be_searched(vault: Machine, mask: list[str]) -> None:
    """It hides neither the command that is in the next one, nor what is wrong with that."""
    closed, later = vault.top / "closed", vault.top / "later"
    for directory in (closed, later):
        directory.mkdir()
    (later / "broken").write_bytes(b"\x00\x01")
    (later / "broken").chmod(0o755)
    (later / "closed").write_text("")
    closed.chmod(0)
    path = f"{closed}:{later}:{vault.env['PATH']}"
    assert vault("run", *mask, "--", "sh", "-c", "echo it runs", PATH=path).stdout == "it runs\n"
    assert "Exec format error" in vault("run", *mask, "--", "broken", PATH=path, code=126).stderr
    assert "Permission denied" in vault("run", *mask, "--", "closed", PATH=path, code=126).stderr
    vault("run", *mask, "--", "no-such-command-anywhere", PATH=path, code=127)
    closed.chmod(0o700)


@pytest.mark.parametrize("name", ["TERM", "KILL", "INT", "HUP", "USR1", "SEGV"])
def test_exit_code_of_a_signal(vault: Machine, name: str) -> None:
    vault("run", "--", "sh", "-c", f"ulimit -c 0; kill -{name} $$", code=128 + getattr(signal, f"SIG{name}"))


def test_json_errors_are_for_avault_only(vault: Machine) -> None:
    done = vault("run", "--json", "--group", "nothing", "--", "true", code=4)
    assert done.json["error"]["code"] == "not_found"
    assert vault("run", "--json", "--", "no-such-command-anywhere", code=127).json["error"]["message"].startswith("cannot run")


@pytest.mark.parametrize(
    "name", ["TERM", "INT", "HUP", "QUIT", "USR1", "WINCH", "CONT", "TSTP", "TTIN", "TTOU", "ALRM", "IO", "URG", "ABRT", "RTMIN"]
)
def test_signals_go_to_the_command(vault: Machine, name: str) -> None:
    script = f"trap 'echo got it; exit 7' {name}; echo ready; while :; do sleep 0.05; done"
    running = vault.start("run", "--", "bash", "-c", script, input="")
    running.line("ready")
    running.process.send_signal(getattr(signal, f"SIG{name}"))
    done = running.wait()
    assert (done.returncode, done.stdout) == (7, "ready\ngot it")


TREE = "import subprocess, sys; print(subprocess.Popen(['sleep', '99']).pid, flush=True); sys.stdin.read()"


@pytest.mark.parametrize("how", ["avault run", "all of its processes"])
def test_a_killed_run_ends_the_command(vault: Machine, how: str) -> None:
    """Also one that ignores what it is told, and what it has started itself."""
    script = f"trap '' TERM HUP; echo $$; {shlex.join([*PYTHON, TREE])}; sleep 98"
    with subprocess.Popen(
        [AVAULT, "run", "--", "bash", "-c", script], env=vault.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        command, below = int(process.stdout.readline()), int(process.stdout.readline())
        if how == "avault run":
            process.kill()
            wait_until(lambda: not is_alive(below))
        else:
            os.kill(children_of(process.pid)[0], signal.SIGKILL)  # the keeper, as `pkill -9 avault` would
            process.kill()
            os.kill(below, signal.SIGKILL)  # nobody is left who would
        wait_until(lambda: not is_alive(command))


@linux
def test_orphans_are_taken_care_of(vault: Machine) -> None:
    """As process 1 of a container must: nothing stays a zombie."""
    script = 'setsid -f sh -c "sleep 0.1"; echo ready; until [ -e seen ]; do sleep 0.05; done'
    running = vault.start("run", "--", "bash", "-c", script)
    running.line("ready")
    [keeper] = wait_until(lambda: children_of(running.process.pid))
    wait_until(lambda: len(children_of(keeper)) <= 1)
    (vault.top / "seen").touch()
    assert running.wait().returncode == 0


def test_the_path_is_searched_as_execvp_does(vault: Machine, tmp_path: Path) -> None:
    """Past what is not a program; a script without a first line is sh's; and what is wrong is said."""
    for name in ("locked", "first", "second"):
        (tmp_path / name).mkdir()
    (tmp_path / "locked").chmod(0)
    (tmp_path / "first" / "tool").write_text("not for execution")
    (tmp_path / "second" / "tool").write_text("echo a script $1\n")
    (tmp_path / "second" / "tool").chmod(0o755)
    path = f"{tmp_path}/locked:{tmp_path}/none:{tmp_path}/first:{tmp_path}/second:{os.environ['PATH']}"
    for mask in ([], ["--no-mask"]):
        assert vault("run", *mask, "--", "tool", "here", PATH=path).stdout == "a script here\n"
        short = path.replace(f"{tmp_path}/second:", "")
        assert "Permission denied" in vault("run", *mask, "--", "tool", code=126, PATH=short).stderr
        vault("run", *mask, "--", "no-such-tool", code=127, PATH=path)
        said = vault("run", *mask, "--", "echo", "x" * 130_000, code=0).stdout
        assert len(said) == 130_001
    (tmp_path / "second" / "tool").write_text("#!/no/such/program\n")
    assert "has to be there" in vault("run", "--", "tool", code=126, PATH=path).stderr


def test_names_of_ones_own(vault: Machine, canary: Canary) -> None:
    vault("set", "other/API_KEY", input=canary.new("other"))
    refuse(vault, code=2, says="are both API_KEY", hint="--as OTHER_API_KEY=other/API_KEY")
    for mask in ([], ["--no-mask"]):
        found = environment(vault, *mask, "--as", "OTHER_KEY=other/API_KEY", "--as=OPENAI_API_KEY=openai/API_KEY")
        assert found["OTHER_KEY"] == digest(canary.new("other")) and found["OPENAI_API_KEY"] == digest(canary.new("api_key"))
        assert "API_KEY" not in found and "PASSWORD" not in found
        assert environment(vault, *mask, "--group", "db", "--as", "OTHER_KEY=other/API_KEY").keys() >= {"OTHER_KEY", "PASSWORD"}
        refuse(vault, *mask, "--as", "PATH=other/API_KEY", code=5, says="PATH would change")
        refuse(vault, *mask, "--as", "KEY=other/NOTHING", code=4, says="no key NOTHING")
        refuse(vault, *mask, "--as", "other/API_KEY", code=2, says="not NAME=GROUP/KEY")
        refuse(vault, *mask, "--as", "K=db/PASSWORD", "--as", "K=other/API_KEY", code=2, says="K is named twice")
    done = vault("export", "--as", "OTHER_KEY=other/API_KEY", secret=True)
    assert done.stdout.startswith("OTHER_KEY=") and done.stdout.count("\n") == 1
    lines = [json.loads(line) for line in (vault.own / "access.log").read_text().splitlines()]
    assert lines[-1]["keys"] == ["OTHER_KEY=other/API_KEY"]


@pytest.mark.slow
def test_the_file_of_a_project(vault: Machine, canary: Canary, tmp_path: Path) -> None:
    """avault.env chooses where nothing else does, and has no values of its own."""
    (vault.top / "avault.env").write_text("# ours\nDB_PASS=avault://db/PASSWORD\n")
    for mask in ([], ["--no-mask"]):
        done = vault("run", *mask, "--", *PYTHON, DIGESTS)
        assert done.json["DB_PASS"] == digest(canary.new("password")) and "API_KEY" not in done.json
        assert done.stderr == "avault: avault.env gives DB_PASS=db/PASSWORD\n"
        assert "DB_PASS" not in environment(vault, *mask, "--only", "API_KEY")
        assert environment(vault, *mask, "--all").keys() >= {"API_KEY", "PASSWORD"}
    refuse(vault, "--all", "--only", "API_KEY", code=2, says="--all excludes")
    for text, code, says in (
        ("A=value\n", 2, "A is no reference to a secret"),
        ("A=x-avault://db/PASSWORD\n", 2, "A is no reference"),
        ("LD_PRELOAD=avault://db/PASSWORD\n", 5, "LD_PRELOAD would change"),
        ("A=avault://db/NOTHING\n", 4, "no key"),
    ):
        (vault.top / "avault.env").write_text(text)
        refuse(vault, code=code, says=says)
        refuse(vault, "--no-mask", code=code, says=says)
    (vault.top / "avault.env").unlink()
    (vault.top / "avault.env").symlink_to("nowhere")
    for mask in ([], ["--no-mask"]):
        refuse(vault, *mask, code=1, says="cannot read avault.env")
    (vault.top / "avault.env").unlink()
    (vault.top / "avault.env").write_text("A=avault://db/PASSWORD\n")
    (vault.top / "avault.env").chmod(0o666)
    refuse(vault, code=5, says="others can write it", hint="--all")


@pytest.mark.slow
def test_ignored_signals_stay_ignored(vault: Machine) -> None:
    """As under nohup, and SIGPIPE as it was before Python started."""
    show = "from signal import *; print(*(int(getsignal(each) == SIG_IGN) for each in (SIGHUP, SIGINT, SIGTERM)))"
    pipes = "yes | head -1; echo ${PIPESTATUS[0]}"
    for mask in ([], ["--no-mask"]):
        words = shlex_join([AVAULT, "run", *mask, "--", *PYTHON, show])
        done = subprocess.run(
            ["sh", "-c", f"trap '' HUP INT; {words}"], env=vault.env, capture_output=True, text=True, timeout=90
        )
        assert done.stdout == "1 1 0\n", done.stderr
        assert vault("run", *mask, "--", "bash", "-c", pipes).stdout.split() == ["y", "141"]


def shlex_join(words: list[str]) -> str:
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)


def test_the_reader_goes_away(vault: Machine) -> None:
    """The command gets SIGPIPE, as it would without us."""
    words = shlex_join([AVAULT, "run", "--", "yes"])
    done = subprocess.run(
        ["bash", "-c", f"{words} | head -n 1; echo ${{PIPESTATUS[0]}}"], env=vault.env, capture_output=True, text=True, timeout=90
    )
    assert done.stdout == "y\n141\n"


def test_no_process_stays_without_a_mask(vault: Machine) -> None:
    running = vault.start("run", "--no-mask", "--", "sh", "-c", "echo $$; exec sleep 60", input="")
    wait_until(lambda: running.stdout)
    assert int(running.stdout[0]) == running.process.pid
    running.kill()


def test_what_stays_in_the_background_goes_on_writing(vault: Machine, canary: Canary, tmp_path: Path) -> None:
    """The command's end is the end of `avault run`; its output is open, and masked, as long as something writes."""
    script = 'echo first; (while [ ! -e "$1" ]; do sleep 0.05; done; echo "second $API_KEY") & exit 4'
    running = vault.start("run", "--", "sh", "-c", script, "sh", str(tmp_path / "go"), input="")
    assert running.process.wait(60) == 4
    assert running.line("first") and running.stdout == ["first"]
    (tmp_path / "go").touch()
    done = running.wait()
    assert done.stdout == "first\nsecond <avault:openai/API_KEY>"


def test_a_flood_in_the_background(vault: Machine) -> None:
    """The end of the command is the end of avault run, though the output goes on."""
    line = f"{AVAULT} run -- sh -c 'yes & exit 3' | head -c 5000000 | wc -c; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], env=vault.env, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["5000000", "3"]


def test_inherited_descriptors(vault: Machine) -> None:
    """`diff <(…) <(…)`, a jobserver, a socket from systemd."""
    read, write = os.pipe()
    os.write(write, b"through")
    os.close(write)
    with os.fdopen(read) as file:
        done = subprocess.run(
            [AVAULT, "run", "--", "cat", f"/dev/fd/{file.fileno()}"],
            env=vault.env,
            pass_fds=[file.fileno()],
            capture_output=True,
            timeout=90,
        )
    assert done.stdout == b"through", done.stderr


def test_order_of_stdout_and_stderr_into_one_file(vault: Machine, tmp_path: Path) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do echo out $i; echo err $i >&2; done"
    with (tmp_path / "both").open("wb") as file:
        subprocess.run([AVAULT, "run", "--", "sh", "-c", script], env=vault.env, stdout=file, stderr=file, check=True, timeout=90)
    assert (tmp_path / "both").read_text() == "".join(f"out {i}\nerr {i}\n" for i in range(1, 10))


def test_a_full_pipe_holds_up_only_itself(vault: Machine) -> None:
    """Nobody reads stdout; stderr comes all the same."""
    script = "import os, threading; threading.Thread(target=os.write, args=(1, bytes(3 << 20))).start(); os.write(2, b'ready')"
    with subprocess.Popen(
        [AVAULT, "run", "--", *PYTHON, script], env=vault.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        assert process.stderr.read(5) == b"ready"
        assert len(process.stdout.read()) == 3 << 20


def test_a_pipe_that_does_not_block(vault: Machine) -> None:
    """As node makes those that it shares; nothing is lost where it is full."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with (
        os.fdopen(read, "rb") as file,
        subprocess.Popen([AVAULT, "run", "--", "head", "-c", "2000000", "/dev/zero"], env=vault.env, stdout=write),
    ):
        os.close(write)
        assert len(file.read()) == 2_000_000


# Values are nowhere else


@linux
def test_only_the_command_has_the_values(vault: Machine, canary: Canary) -> None:
    """Not in the arguments of any process; in the environment of none but the command and what it starts."""
    mine = f"of-this-test-{secrets.token_hex(8)}"  # the mark is the whole run's: another worker's command has it too
    vault("set", "openai/API_KEY", input=canary.new(mine))
    running = vault.start("run", "--", "sh", "-c", "echo $$; sleep 60; true", input="")
    wait_until(lambda: running.stdout)
    shell = int(running.stdout[0])
    (sleep,) = wait_until(lambda: [pid for pid in children_of(shell) if Path(f"/proc/{pid}/comm").read_text() == "sleep\n"])
    holders = set()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            assert mine.encode() not in (path / "cmdline").read_bytes()
            if mine.encode() in (path / "environ").read_bytes():
                holders.add(int(path.name))
    assert holders == {shell, sleep}
    assert running.process.pid not in holders
    running.kill()
    for pid in holders:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# --env-file


@pytest.mark.parametrize("mask", [[], ["--no-mask"]])
def test_env_file(vault: Machine, canary: Canary, mask: list[str]) -> None:
    """It chooses, alone or beside --group and --only; and counts more than they do."""
    path = vault.top / "env"
    path.write_text(
        "MODE='production'\nKEY=avault://openai/API_KEY\nURL=\"postgres://avault://db/USER_NAME:avault://db/PASSWORD@host/db\"\nAPI_KEY=plain\n"
    )
    expected = {
        "MODE": digest("production"),
        "KEY": digest(canary.new("api_key")),
        "URL": digest(f"postgres://{canary.new('user_name')}:{canary.new('password')}@host/db"),
        "API_KEY": digest("plain"),
    }
    before = {**vault.env, "LC_CTYPE": ""}
    found = environment(vault, "--env-file", str(path), *mask)
    assert {name: value for name, value in found.items() if name not in before} == expected
    found = environment(vault, "--env-file", str(path), "--group", "openai", "--only", "API_KEY", *mask)
    assert {name: value for name, value in found.items() if name not in before} == expected
    found = environment(vault, "--env-file", str(path), "--only", "PASSWORD", *mask)
    assert {name: value for name, value in found.items() if name not in before} == expected | {
        "PASSWORD": digest(canary.new("password"))
    }


def test_env_file_masks_what_it_refers_to(vault: Machine) -> None:
    path = vault.top / "env"
    path.write_text("URL=postgres://me:avault://db/PASSWORD@host\nPLAIN=not-a-secret-at-all\n")
    done = vault("run", "--env-file", str(path), "--", "sh", "-c", 'echo "$URL $PLAIN"')
    assert done.stdout == "postgres://me:<avault:db/PASSWORD>@host not-a-secret-at-all\n"


def test_bad_env_files(vault: Machine, canary: Canary, allow: Callable[[Path], Path]) -> None:
    path = allow(vault.top / "env")

    def file(text: str | bytes) -> list[str]:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return ["--env-file", str(path)]

    refuse(vault, "--env-file", str(path), code=4, says=f"no file {path}")
    refuse(vault, *file(f"A=b\n{canary.value}\n"), code=2, says=f"{path}, line 2: not KEY=value")
    refuse(vault, *file(b"A=\xff"), code=2, says="not text in UTF-8")
    refuse(vault, *file("A=avault://db/NOTHING"), code=4, says="no key db/NOTHING")
    refuse(vault, *file("A=avault://nothing/AT_ALL"), code=4, says="no key nothing/AT_ALL")
    refuse(
        vault, *file("B=\nA=x avault://db\n"), code=2, says="A: a reference without group and key", hint="avault://openai/API_KEY"
    )
    refuse(vault, *file("PATH=/tmp"), code=5, says="PATH would change", hint="--allow PATH")
    refuse(vault, *file("BASH_ENV=avault://db/PASSWORD"), "--no-mask", code=5, says="BASH_ENV would change")
    assert environment(vault, *file("BASH_ENV=x"), "--allow", "BASH_ENV")["BASH_ENV"] == digest("x")


def test_env_file_from_a_pipe(vault: Machine) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{AVAULT} run --env-file <(echo A=avault://db/PASSWORD) -- sh -c 'echo $A'"],
        env=vault.env,
        capture_output=True,
        timeout=90,
    )
    assert done.stdout == b"<avault:db/PASSWORD>\n", done.stderr


# --as-file

OPEN = "import os, sys; sys.stdout.write(open(os.environ['PASSWORD_FILE']).read())"


@linux
@pytest.mark.parametrize("mask", [[], ["--no-mask"]])
@pytest.mark.slow
def test_as_file(vault: Machine, canary: Canary, mask: list[str]) -> None:
    run = ["run", *mask, "--as-file", "db/PASSWORD", "--"]
    shown = "<avault:db/PASSWORD>" if not mask else canary.new("password")
    assert vault(*run, *PYTHON, OPEN, secret=True).stdout == shown
    assert vault(*run, *PYTHON, OPEN + "; " + OPEN, secret=True).stdout == 2 * shown
    script = f"import subprocess, sys; subprocess.run([*{PYTHON!r}, {OPEN!r}], close_fds=True)"
    assert vault(*run, *PYTHON, script, secret=True).stdout == shown, "what the command starts reads it, without the descriptor"
    assert vault(*run, "bash", "-c", 'cat < "$PASSWORD_FILE"', secret=True).stdout == shown
    assert "PASSWORD" not in environment(vault, *mask, "--as-file", "db/PASSWORD")
    assert vault(*run, "sh", "-c", 'echo "x" > "$PASSWORD_FILE" || echo refused').stdout == "refused\n"
    assert vault(*run, "stat", "-L", "-c", "%a %F", vault_path := "/dev/stdin", input=b"").returncode == 0 and vault_path
    script = 'stat -L -c "%a %F" "$PASSWORD_FILE"; readlink "$PASSWORD_FILE"'
    assert vault(*run, "sh", "-c", script).stdout == "400 regular file\n/memfd:avault (deleted)\n"


@linux
@pytest.mark.slow
def test_as_file_names(vault: Machine, canary: Canary) -> None:
    """KEY, GROUP/KEY, a variable of the dotenv file; among what is chosen, or beside it."""
    path = vault.top / "env"
    path.write_text("CERT=avault://db/PASSWORD\n")

    def files(*options: str) -> set[str]:
        found = environment(vault, *options)
        return {name for name in found if name not in {**vault.env, "LC_CTYPE": ""}}

    assert files("--as-file", "PASSWORD") == {"PASSWORD_FILE", "API_KEY", "USER_NAME"}
    assert files("--only", "API_KEY", "--as-file", "PASSWORD") == {"PASSWORD_FILE", "API_KEY"}
    assert files("--group", "db", "--prefix", "--as-file", "db/PASSWORD") == {"DB_PASSWORD_FILE", "DB_USER_NAME"}
    assert files("--group", "openai", "--prefix", "--as-file", "db/PASSWORD") == {"DB_PASSWORD_FILE", "OPENAI_API_KEY"}
    assert files("--env-file", str(path), "--as-file", "CERT") == {"CERT_FILE"}
    assert files("--as-file", "PASSWORD", "--as-file", "openai/API_KEY") == {"PASSWORD_FILE", "API_KEY_FILE", "USER_NAME"}
    refuse(vault, "--as-file", "NOTHING", code=4, says="no key NOTHING")
    vault("set", "other/PASSWORD", input=canary.value)
    refuse(
        vault,
        "--group",
        "openai",
        "--as-file",
        "PASSWORD",
        code=2,
        says="PASSWORD is in more than one group: db/PASSWORD, other/PASSWORD",
    )
    vault("set", "tls/SSL_CERT", input=canary.value)
    refuse(
        vault,
        "--group",
        "openai",
        "--as-file",
        "tls/SSL_CERT",
        code=5,
        says="SSL_CERT_FILE would change",
        hint="--allow SSL_CERT_FILE",
    )
    vault("set", "openai/API_KEY_FILE", input=canary.value)
    refuse(vault, "--group", "openai", "--as-file", "API_KEY", code=2, says="API_KEY_FILE is a variable already")


@linux
def test_as_file_takes_what_no_environment_takes(vault: Machine, canary: Canary) -> None:
    large = canary.new("x" * 200_000)
    vault("set", "db/LARGE", input=large)
    for mask in ([], ["--no-mask"]):
        done = vault("run", *mask, "--", "true", code=126)
        assert "Argument list too long" in done.stderr
        assert mask or "--as-file" in done.stderr
        script = "import hashlib, os; print(hashlib.sha256(open(os.environ['LARGE_FILE'], 'rb').read()).hexdigest())"
        assert vault("run", *mask, "--as-file", "LARGE", "--", *PYTHON, script).stdout == digest(large) + "\n"


# Masks, against a reference that is slow and plain

STRIDES = [(8, 14), (15, 22), (23, 40)]  # lengths of which the search takes different steps


def feed(patterns: avault.Patterns, data: bytes, cuts: list[int]) -> bytes:
    """What comes out of a stream that is cut there."""
    mask, places = avault.Mask(patterns), sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return b"".join(mask.feed(data[start:end]) for start, end in itertools.pairwise(places)) + mask.end()


def expected(masks: dict[bytes, bytes], data: bytes) -> str:
    """A regular expression: what no string covers, as it is; masks for the rest, the first one for what begins there."""
    covered = bytearray(len(data))
    for start in range(len(data)):
        for pattern in masks:
            if data.startswith(pattern, start):
                covered[start : start + len(pattern)] = b"\1" * len(pattern)
    pieces, start = [], 0
    for run in re.finditer(b"\1+|\0+", bytes(covered)):
        text = data[run.start() : run.end()]
        if covered[run.start()]:
            first = max((pattern for pattern in masks if data.startswith(pattern, run.start())), key=len)
            pieces.append(re.escape(masks[first].decode()) + r"(<\d+>)*")
        else:
            pieces.append(re.escape(text.decode()))
        start = run.end()
    assert start == len(data)
    return "".join(pieces)


@st.composite
def streams(draw: st.DrawFn) -> tuple[dict[bytes, bytes], bytes]:
    """Strings that overlap and begin each other, and a stream made of them and of their parts."""
    least, most = draw(st.sampled_from(STRIDES))
    string = st.text(st.sampled_from("ab"), min_size=least, max_size=most).map(str.encode)
    patterns = draw(st.lists(string, min_size=1, max_size=5, unique=True))
    patterns += [pattern + b"a" * extra for pattern in patterns for extra in draw(st.sets(st.integers(1, 9), max_size=1))]
    part = st.builds(lambda pattern, a, b: pattern[a:b], st.sampled_from(patterns), st.integers(0, 9), st.integers(0, 50))
    pieces = st.lists(st.one_of(st.sampled_from(patterns), part, st.sampled_from([b"x", b"xyz" * 9, b"a"])), max_size=12)
    return {pattern: b"<%d>" % number for number, pattern in enumerate(dict.fromkeys(patterns))}, b"".join(draw(pieces))


@given(streams(), st.lists(st.integers(0, 1000), max_size=20))
@settings(deadline=None)
def test_mask(stream: tuple[dict[bytes, bytes], bytes], cuts: list[int]) -> None:
    """No byte of a string comes out, wherever the stream is cut; and every other byte does."""
    masks, data = stream
    found = feed(avault.Patterns(masks), data, cuts)
    assert re.fullmatch(expected(masks, data), found.decode()), (data, found)
    assert found == feed(avault.Patterns(masks), data, [])


@given(streams())
@settings(deadline=None)
def test_mask_of_single_bytes(stream: tuple[dict[bytes, bytes], bytes]) -> None:
    masks, data = stream
    found = feed(avault.Patterns(masks), data, list(range(len(data))))
    assert re.fullmatch(expected(masks, data), found.decode())


def test_masks_of_neighbours() -> None:
    patterns = avault.Patterns({b"abcdefgh": b"<1>", b"ghijklmn": b"<2>", b"abcdefghijk": b"<3>", b"00000000": b"<0>"})
    for data, shown in [
        (b"abcdefghabcdefgh", b"<1><1>"),
        (b"abcdefghijklmn", b"<3><2>"),  # none of the second one's bytes is left
        (b"abcdefghij", b"<1>ij"),
        (b"xabcdefghijkx", b"x<3>x"),
        (b"0" * 50, b"<0>"),
        (b"1" + b"0" * 16 + b"1", b"1<0>1"),
        (b"abcdefg", b"abcdefg"),
        (b"", b""),
    ]:
        assert feed(patterns, data, []) == feed(patterns, data, list(range(50))) == shown


LONG = b"abcdefghijklmnopqrstuvwxyz"


@given(
    st.lists(st.sampled_from([LONG, LONG[:5], LONG[:12], LONG[3:], b"xx", b"abxabc", b"|"]), max_size=8).map(b"".join),
    st.lists(st.booleans(), min_size=1, max_size=40),
    st.integers(1, 9),
)
@settings(deadline=None)
def test_mask_with_silences(data: bytes, silences: list[bool], size: int) -> None:
    """After a silence all is out but the beginning of a string of eight bytes and more; what was let out still counts."""
    mask, shown = avault.Mask(avault.Patterns({LONG: b"<0>"})), b""
    for number, start in enumerate(range(0, len(data), size)):
        shown += mask.feed(data[start : start + size])
        if silences[number % len(silences)]:
            shown += mask.pause()
            so_far = data[: start + size]
            held = next((n for n in range(len(LONG) - 1, 7, -1) if so_far.endswith(LONG[:n])), 0)
            assert re.fullmatch(visible(so_far[: len(so_far) - held], rest=held > 0), shown)
    assert re.fullmatch(visible(data), shown + mask.end())


def visible(data: bytes, rest: bool = False) -> bytes:
    """A regular expression: at most seven bytes before the mask, as at most so many can have been let out before."""
    beginning = b"".join(b"(?:%c" % letter for letter in LONG[:7]) + b")?" * 7
    return (beginning + b"<0>").join(map(re.escape, data.split(LONG))) + (beginning if rest else b"")


PEM = (
    "-----BEGIN PRIVATE KEY-----\n"
    + "\n".join(hashlib.sha256(b"%d" % n).hexdigest() for n in range(3))
    + "\n-----END PRIVATE KEY-----\n"
)


def is_solid(value: str) -> bool:
    """Whether enough of a value is left without what quoting and line breaks are made of."""
    return len(avault.solid(value.encode())) >= 8


VALUES = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=4, max_size=80),
    st.text(st.sampled_from("abcXYZ019-_+/=.~ %&<>\"'\\"), min_size=8, max_size=200),
    st.just(PEM),
).map(lambda value: value.replace("\1", "").replace("\x1b", "").strip("\0\\'\" \t\n\r\v\f")).filter(is_solid)  # fmt: skip
ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "on a terminal": lambda value: value.replace("\n", "\r\n"),
    "JSON": json.dumps,
    "JSON in UTF-8": lambda value: json.dumps(value, ensure_ascii=False),
    "JSON, slashes escaped": lambda value: json.dumps(value).replace("/", "\\/"),
    "URL": urllib.parse.quote,
    "URL component": lambda value: urllib.parse.quote(value, safe=""),
    "URL component, as browsers have it": lambda value: urllib.parse.quote(value, safe="-_.!~*'()"),
    "URL, lower case": lambda value: re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), urllib.parse.quote(value)),
    "form": urllib.parse.quote_plus,
    "query": lambda value: urllib.parse.urlencode({"a": "b", "key": value}),
    "hex": lambda value: value.encode().hex(),
    "HEX": lambda value: value.encode().hex().upper(),
    "base64": lambda value: base64.b64encode(value.encode()).decode(),
    "base64url": lambda value: base64.urlsafe_b64encode(value.encode()).decode().rstrip("="),
    "base64, in lines": lambda value: base64.encodebytes(value.encode()).decode(),
    "base64 of base64": lambda value: base64.b64encode(base64.b64encode(value.encode())).decode(),
    "JSON in JSON": lambda value: json.dumps(json.dumps(json.dumps(value))),
    "JSON, escapes in upper case": lambda value: re.sub(r"(?<=\\u)....", lambda found: found[0].upper(), json.dumps(value)),
    "repr": repr,
    "repr of bytes": lambda value: repr(value.encode())[1:],
    "quoted for a shell": shlex.quote,
    "URL, twice": lambda value: urllib.parse.quote(urllib.parse.quote(value)),
    "URL, each byte": lambda value: "".join(f"%{byte:02x}" for byte in value.encode()),
    "HTML": html.escape,
    "HTML, by numbers": lambda value: "".join(f"&#{ord(c)};" for c in value),
    "hex with colons": lambda value: value.encode().hex(":"),
    "hex in groups": lambda value: value.encode().hex(" ", 2),
    "hex of C": lambda value: ", ".join(f"0x{byte:02x}" for byte in value.encode()),
    "base32": lambda value: base64.b32encode(value.encode()).decode(),
    "numbers": lambda value: json.dumps([*value.encode()]),
    "quoted-printable": lambda value: quopri.encodestring(value.encode()).decode(),
    "in lines of 20": lambda value: "\n    ".join(value[start : start + 20] for start in range(0, len(value), 20)),
    "coloured": lambda value: "".join(f"\x1b[38;5;{n % 256}m{c}\x1b[0m" for n, c in enumerate(value) if c != "\x1b"),
}


AROUND = {  # what is no part of the value, less what quoting and line breaks are made of
    "query": "a=b&key=%s",
    "repr of bytes": "%s",
    "HTML, by numbers": "(?:&#)?%s;?",
    "URL, each byte": "%?%s",
    "numbers": r"\[%s\]",
    "base32": "%s[A-Z2-7]?=*",
    "base64 of base64": "%s[A-Za-z0-9+/]{0,2}=*",
    "coloured": r"(?:\x1b\[[0-9;]*m)*%s(?:\x1b\[[0-9;]*m)*",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(value=VALUES, before=st.text(max_size=9), after=st.text(max_size=9), cuts=st.lists(st.integers(0, 999), max_size=5))
@settings(max_examples=20, deadline=None)
def test_encodings(encoding: str, value: str, before: str, after: str, cuts: list[int]) -> None:
    if encoding == "quoted-printable" and re.search("[ \t]$", value, re.MULTILINE):
        return  # it is encoded at the end of a line only
    patterns = avault.Patterns.of({"group/KEY": [value]})
    assert patterns
    found = feed(patterns, f"{before}\1{ENCODINGS[encoding](value)}\1{after}".encode(), cuts)
    left, _, right = AROUND.get(encoding, "%s").partition("%s")
    shown = avault.solid(found.split(b"\1")[before.count("\1") + 1])
    assert re.fullmatch(rf"{left}(<avault:group/KEY>)+{right}".encode(), shown), shown


@given(VALUES, st.binary(max_size=20), st.binary(max_size=20), st.booleans(), st.lists(st.integers(0, 999), max_size=5))
def test_base64_within_more(value: str, before: bytes, after: bytes, urlsafe: bool, cuts: list[int]) -> None:
    """At any of the three alignments: what is left of the value is less than a byte at either end."""
    patterns = avault.Patterns.of({"group/KEY": [value]})
    assert patterns
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    found = feed(patterns, encode(before + value.encode() + after), cuts)
    assert b"<avault:group/KEY>" in found
    left, _, right = found.partition(b"<avault:group/KEY>")
    assert len(left) <= -(-len(before) * 8 // 6)
    assert len(right.replace(b"<avault:group/KEY>", b"").rstrip(b"=")) <= -(-len(after) * 8 // 6) + 1


def test_short_values_have_no_forms() -> None:
    assert avault.Patterns.of({"a/B": ["seven77"], "c/D": ["  seven77 \n"]}) is None
    assert avault.Patterns.of({"a/B": ["seven77", "eight888"]}) is not None  # one in conflict


def test_two_keys_with_one_value() -> None:
    patterns = avault.Patterns.of({"b/KEY": ["the same value"], "a/KEY": ["the same value"]})
    assert patterns and feed(patterns, b"the same value", []) == b"<avault:a/KEY>"


# Masks, in what commands print


def test_masked_output(vault: Machine, canary: Canary) -> None:
    script = 'echo "out $API_KEY."; echo "err $PASSWORD" >&2; env | grep -c API_KEY'
    done = vault("run", "--", "sh", "-c", script)
    assert (done.stdout, done.stderr) == ("out <avault:openai/API_KEY>.\n1\n", "err <avault:db/PASSWORD>\n")


TOOLS = {
    "base64": 'printf %s "$V" | base64',
    "base64, with a newline": 'echo "$V" | base64',
    "base64, in one line": 'printf %s "$V" | base64 | tr -d "\\n"',
    "base64, basic authentication": 'printf "user:%s" "$V" | base64 | tr -d "\\n"',
    "openssl base64": 'printf %s "$V" | openssl base64',
    "xxd -p": 'printf %s "$V" | xxd -p',
    "jq": 'printf %s "$V" | jq -R .',
    "jq, URL": 'printf %s "$V" | jq -sRr @uri',
    "node": 'node -e "const v = process.env.V; console.log(JSON.stringify({v}), encodeURIComponent(v), encodeURI(v))"',
    "node, hex": "node -e \"console.log(Buffer.from(process.env.V).toString('hex'))\"",
    "node, base64": "node -e \"console.log(Buffer.from(process.env.V).toString('base64url'))\"",
    "env": "env",
    "export": "export -p",
    "set -x": 'set -x; : "$V"',
    "dd, in pieces": 'printf %s "$V" | dd bs=3 2>/dev/null',
    "fold": 'echo "key: $V" | fold -w 10',
    "grep in colour": 'echo "$V" | grep --color=always "${V:5:4}"',
    "%q": 'printf %q "$V"',
    "declare": "declare -p V",
    "xxd": 'echo "the value: $V" | xxd',
    "xxd -i": 'printf %s "$V" | xxd -i',
    "hexdump": 'echo "the value: $V" | hexdump -C; echo "$V" | hexdump',
    "od": 'echo "$V" | od -c; echo "$V" | od -tx1z; echo "$V" | od; echo "$V" | od -An -tx1',
    "UTF-16": 'echo "$V" | iconv -t UTF-16',
    "python": "python3 -c 'import os; v = os.environ[\"V\"]; print([v], v.encode())'",
}


@pytest.mark.parametrize("kind", ["value", "token"])
@pytest.mark.slow
def test_tools(machine: Machine, canary: Canary, kind: str) -> None:
    """The search for canaries looks at what is left: as it is, in JSON, URL, hex, and base64 at any alignment."""
    machine.init_unproven()
    machine("set", "tool/V", input={"value": canary.value, "token": canary.new("x/y+z=" * 30)}[kind])
    for name, script in TOOLS.items():
        if all(shutil.which(tool) for tool in ("jq", "node", "openssl", "xxd", "hexdump", "iconv") if tool in script):
            done = machine("run", "--", "bash", "-c", script)
            assert "<avault:tool/V>" in done.stdout + done.stderr, name


@pytest.mark.slow
def test_several_lines(machine: Machine, canary: Canary) -> None:
    lines = [canary.new(f"line-{number}-of-a-key") for number in range(3)]
    pem = "-----BEGIN KEY-----\n" + "\n".join(lines) + "\n-----END KEY-----\n"
    machine.init_unproven()
    machine("set", "tls/KEY", "--file", "/dev/stdin", input=pem)
    assert machine("run", "--", "sh", "-c", 'printf %s "$KEY"').stdout == "<avault:tls/KEY>\n"
    done = machine("run", "--", "sh", "-c", 'echo "$KEY" | sed "s/^/    /"')
    assert done.stdout == "    <avault:tls/KEY>\n    \n"
    done = machine("run", "--", "sh", "-c", 'echo "$KEY" | grep line')
    assert done.stdout == 3 * "<avault:tls/KEY>\n"
    assert (
        machine("run", "--", *PYTHON, "import os, json; print(json.dumps(os.environ['KEY']))").stdout == '"<avault:tls/KEY>\\n"\n'
    )


def test_values_in_conflict(machine: Machine, canary: Canary) -> None:
    """Two machines set the key: the command gets one value, and none of them is shown."""
    agent = nostr_sdk.Keys.generate()
    machine.init_unproven(NOSTR_NSEC=canary.watch(agent.secret_key().to_bech32()))
    other = avault.open_vault((machine.vault / "avault.enc").read_bytes(), agent)
    other.put("openai", "API_KEY", canary.new("theirs"), 1, "other")
    other.generation["other"] = 1
    machine("set", "openai/API_KEY", input=canary.new("ours"))
    avault.write_file(str(machine.vault / "avault.enc"), avault.seal_vault(other, agent))
    found = machine("get", "openai/API_KEY", "--json", secret=True).json
    assert {found["value"], *found["conflicts"]} == {canary.new("ours"), canary.new("theirs")}
    done = machine("run", "--", "cat", input=f"{canary.new('ours')}\n{canary.new('theirs')}\n")
    assert done.stdout == 2 * "<avault:openai/API_KEY>\n"


def test_short_values_are_named_once(vault: Machine) -> None:
    vault("set", "db/PIN", input="1234567")
    vault("set", "db/CODE", input="abc")
    done = vault("run", "--", "sh", "-c", "echo $PIN")
    assert done.stdout == "1234567\n"
    assert done.stderr == "avault: warning: too short to be masked (under 8 bytes): db/CODE, db/PIN\n"
    assert vault("run", "--", "true").stderr == ""
    vault("set", "db/NEW", input="new")
    assert vault("run", "--", "true").stderr == "avault: warning: too short to be masked (under 8 bytes): db/NEW\n"


@pytest.mark.slow
def test_split_over_writes(vault: Machine) -> None:
    """Also where the pieces come slowly: then at most seven bytes are shown."""
    script = "import os, sys, time\nfor c in os.environb[b'API_KEY']: os.write(1, bytes([c])); time.sleep(float(sys.argv[1]))"
    assert vault("run", "--", *PYTHON, script, "0").stdout.endswith("<avault:openai/API_KEY>")
    assert re.fullmatch(r".{0,7}<avault:openai/API_KEY>", vault("run", "--", *PYTHON, script, "0.04").stdout)


def test_prompts_appear_at_once(vault: Machine, canary: Canary) -> None:
    """Also one that ends as a value begins; the command then waits for the answer."""
    script = 'printf "Password: %s" "$1"; read answer; echo "answer $answer"'
    for ending in ("", canary.mark[:1], canary.mark[:7]):
        with subprocess.Popen(
            [AVAULT, "run", "--", "sh", "-c", script, "sh", ending], env=vault.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdin and process.stdout
            prompt = f"Password: {ending}".encode()
            assert process.stdout.read(len(prompt)) == prompt
            process.stdin.write(b"blue\n")
            process.stdin.close()
            assert process.stdout.read() == b"answer blue\n"


def test_binary_output_is_left_alone(vault: Machine, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "data").write_bytes(data)
    done = subprocess.run([AVAULT, "run", "--", "cat", tmp_path / "data"], env=vault.env, capture_output=True, timeout=60)
    assert done.stdout == data


# Terminals


def on_screen(machine: Machine, *words: str, **options: int) -> Screen:
    return Screen(machine, AVAULT, "run", "--", *words, **options)


TTYS = "import os, sys; print(*map(os.isatty, (0, 1, 2)), file=open(sys.argv[1], 'w'))"


def test_a_terminal_stays_a_terminal(vault: Machine) -> None:
    script = "import os; print(*map(os.isatty, (0, 1, 2)), os.get_terminal_size(), os.ttyname(0) == os.ttyname(1))"
    with on_screen(vault, *PYTHON, script, lines=33, columns=111) as screen:
        screen.wait()
        assert screen.shown == b"True True True os.terminal_size(columns=111, lines=33) True\r\n"


@linux  # the BSDs' ls has no --color
def test_colours_on_a_terminal(vault: Machine, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with on_screen(vault, "ls", "--color=auto", str(tmp_path)) as screen:
        assert re.search(rb"\x1b\[[0-9;]+mdirectory\x1b\[0m", screen.wait())


def test_masks_on_a_terminal(vault: Machine, canary: Canary) -> None:
    lines = [canary.new(f"line-{number}-of-a-key") for number in range(3)]
    vault("set", "tls/KEY", input="\n".join(lines))
    with on_screen(
        vault, "sh", "-c", 'echo "$API_KEY"; echo "$KEY"; echo "$PASSWORD" >&2; echo "$USER_NAME" >/dev/tty'
    ) as screen:
        masks = [b"<avault:openai/API_KEY>", b"<avault:tls/KEY>", b"<avault:db/PASSWORD>", b"<avault:db/USER_NAME>"]
        assert screen.wait() == b"".join(mask + b"\r\n" for mask in masks)


def test_the_size_of_a_terminal_changes(vault: Machine) -> None:
    script = "trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done"
    with on_screen(vault, "bash", "-c", script) as screen:
        screen.expect("ready")
        screen.resize(50, 132)
        screen.expect("50 132\r\n")
        screen.wait(5)


@pytest.mark.parametrize(
    ("key", "code"),
    [("\x03", 130), ("\x1c", 131)],
)
def test_keys_that_are_signals(vault: Machine, key: str, code: int) -> None:
    # exec: a key that comes while dash starts a command is lost on it (its handler does nothing in a vfork)
    with on_screen(vault, "sh", "-c", "ulimit -c 0; echo ready; exec sleep 60") as screen:
        screen.expect("ready")
        screen.type(key)
        screen.wait(code)
        assert termios.tcgetattr(screen.fd) == screen.modes


def test_ctrl_c_for_a_command_that_handles_it(vault: Machine) -> None:
    """Once, and avault stays until the command ends."""
    script = "n=0; trap 'n=$((n + 1)); echo caught $n' INT; echo ready; read line; echo $line; exit 9"
    with on_screen(vault, "bash", "-c", script) as screen:
        screen.expect("ready")
        screen.type("\x03")
        screen.expect("caught 1\r\n")
        screen.type("go on\r")
        screen.expect("go on\r\n.*go on\r\n")
        assert b"caught 2" not in screen.wait(9)


def test_end_of_input_on_a_terminal(vault: Machine) -> None:
    with on_screen(vault, "cat") as screen:
        screen.type("one\r")
        screen.expect("one\r\none\r\n")
        screen.type("\x04")
        screen.wait()


@pytest.mark.parametrize("end", ["exit 0", "kill -KILL $$", "stty raw -echo; exit 3"])
def test_the_modes_of_the_terminal_come_back(vault: Machine, end: str) -> None:
    with on_screen(vault, "sh", "-c", f"echo ready; read line; {end}") as screen:
        screen.expect("ready")
        wait_until(lambda: termios.tcgetattr(screen.fd)[3] != screen.modes[3])
        screen.type("\r")
        screen.wait(None)
        assert termios.tcgetattr(screen.fd) == screen.modes


def test_a_password_is_asked_for(vault: Machine, canary: Canary) -> None:
    """Without echo; and what is echoed and is a value is masked."""
    script = (
        'read -rsp "Password: " one; echo; read -rp "Again: " two; [ "$one" = "$API_KEY" ] && [ "$two" = "$one" ] && echo right'
    )
    with on_screen(vault, "bash", "-c", script) as screen:
        screen.expect("Password: $")
        screen.type(canary.new("api_key") + "\r")
        screen.expect("\r\nAgain: $")
        screen.type(canary.new("api_key") + "\r")
        screen.expect("<avault:openai/API_KEY>\r\nright\r\n")
        assert screen.wait().startswith(b"Password: \r\nAgain: ")


CURSES = """
import curses
def main(window):
    curses.curs_set(0)
    window.addstr(3, 5, "size %d %d" % window.getmaxyx(), curses.A_BOLD)
    while True:
        key = window.getch()
        window.addstr(5, 5, "key " + curses.keyname(key).decode() + " ")
        window.refresh()
        if key == ord("q"):
            return
curses.wrapper(main)
print("left")
"""


def test_a_full_screen_program(vault: Machine) -> None:
    with on_screen(vault, sys.executable, "-c", CURSES, lines=20, columns=70) as screen:
        screen.expect("size 20 70")
        screen.type("\x1b[A")
        screen.expect("KEY_UP|\\^\\[")
        screen.type("\x03")  # a key like others: curses has set cbreak only, so this one still interrupts
        screen.wait(None)
        assert termios.tcgetattr(screen.fd) == screen.modes
    with on_screen(vault, sys.executable, "-c", CURSES) as screen:
        screen.expect("size")
        screen.type("xq")
        screen.expect("left\r\n")
        screen.wait()


@pytest.mark.skipif(not shutil.which("vim"), reason="no vim")
def test_vim(vault: Machine, tmp_path: Path) -> None:
    with on_screen(vault, "vim", "-u", "NONE", "-N", str(tmp_path / "file")) as screen:
        screen.expect("~.*~")
        screen.type("ihello\x1b:wq\r")
        screen.wait()
        assert (tmp_path / "file").read_text() == "hello\n"


@pytest.mark.skipif(not shutil.which("less"), reason="no less")
def test_a_pager_whose_input_is_a_pipe(vault: Machine) -> None:
    """It takes its keys from the terminal itself."""
    with Screen(vault, "bash", "-c", "seq 1000 | $AVAULT run -- less; echo left", LESS="", lines=10) as screen:
        screen.expect("9\r?\n:")
        screen.type("G")
        screen.expect("1000\r\n")
        screen.type("q")
        screen.expect("left\r\n")
        screen.wait()


def test_a_password_is_asked_for_while_the_input_is_a_pipe(vault: Machine) -> None:
    script = "import getpass; print(input(), getpass.getpass('Secret? '))"
    with Screen(vault, "bash", "-c", f"echo piped | $AVAULT run -- {shlex_join([sys.executable, '-c', script])}") as screen:
        screen.expect("Secret\\? ")
        wait_until(lambda: not termios.tcgetattr(screen.fd)[3] & termios.ECHO)
        screen.type("blue\r")
        screen.expect("piped blue\r\n")
        screen.wait()


def test_keys_for_another_command_of_a_pipeline(vault: Machine) -> None:
    """What stands before us in the pipe reads the terminal; we leave it alone."""
    with Screen(vault, "bash", "-c", "head -n 2 | $AVAULT run -- sed 's/^/: /'; echo left") as screen:
        screen.type("one\r")
        screen.expect("one\r\n")
        screen.type("two\r")
        screen.expect(": one\r\n: two\r\nleft\r\n")
        screen.wait()


@pytest.mark.parametrize("key", ["\x03", "\x1c"])
@pytest.mark.parametrize("line", ["sleep 60 | $AVAULT run -- {}", "$AVAULT run -- {} | cat", "$AVAULT run -- {} > /dev/null"])
def test_keys_that_are_signals_in_a_pipeline(vault: Machine, tmp_path: Path, line: str, key: str) -> None:
    """The command gets one signal, whoever sends it, and all of the pipeline ends."""
    script = tmp_path / "script"
    signals = tmp_path / "signals"
    script.write_text(f"trap 'echo x >> {signals}; exit 3' INT QUIT\ntouch {tmp_path}/ready\nwhile :; do sleep 0.05; done\n")
    with Screen(vault, "bash", "--norc", "-i") as screen:
        screen.expect("\\$ ")
        screen.type(f"ulimit -c 0; {line.format(f'bash {script}')}; echo over $?\r")
        wait_until((tmp_path / "ready").exists)
        screen.type(key)
        wait_until(signals.exists)
        screen.type("\recho do''ne\r")
        screen.expect("done\r\n")
        assert signals.read_text() == "x\n"


def test_outputs_of_different_kinds(vault: Machine, tmp_path: Path) -> None:
    """Each looks to the command like what it is."""
    file, other = tmp_path / "kinds", tmp_path / "other"
    command = f"{shlex_join([*PYTHON, TTYS, str(file)])}"
    for line, kinds in [
        (f"$AVAULT run -- {command} 2> {other}", "True True False\n"),
        (f"$AVAULT run -- {command} > {other}", "True False True\n"),
        (f"$AVAULT run -- {command} > {other} 2>&1", "True False False\n"),
        (f"$AVAULT run -- {command} < /dev/null", "False True True\n"),
        (f"$AVAULT run -- {command} < /dev/null 2> {other}", "False True False\n"),
        (f"$AVAULT run -- {command} < /dev/null > {other}", "False False True\n"),
    ]:
        with Screen(vault, "bash", "-c", line) as screen:
            screen.wait()
            assert file.read_text() == kinds, line
    for redirect in (f"2> {other}", f"> {other}"):
        line = """$AVAULT run -- bash -c 'echo "$API_KEY"; echo "$PASSWORD" >&2' """ + redirect
        with Screen(vault, "bash", "-c", line) as screen:
            shown = screen.wait().decode() + other.read_text()
        assert sorted(shown.split()) == ["<avault:db/PASSWORD>", "<avault:openai/API_KEY>"], redirect


def test_stderr_on_the_terminal_keeps_its_lines(vault: Machine) -> None:
    """A terminal that is only for output: the real one ends the lines, and its size is told, also when it changes."""
    script = "trap 'stty size <&2 >&2; exit 5' WINCH; printf 'one\\ntwo\\n' >&2; while :; do sleep 0.05; done"
    with Screen(vault, "bash", "-c", f"$AVAULT run -- bash -c {shlex_join([script])} > /dev/null") as screen:
        screen.expect("^one\r\ntwo\r\n")
        screen.resize(20, 99)
        screen.expect("20 99\r\n")
        screen.wait(5)


# Job control


@pytest.fixture
def shell(vault: Machine) -> Iterator[Screen]:
    """bash, as somebody uses it."""
    with Screen(vault, "bash", "--norc", "-i") as screen:
        screen.expect("\\$ ")
        screen.type("unset HISTFILE; bind 'set enable-bracketed-paste off'\r")
        screen.expect("\\$ ")
        yield screen


COUNT = "trap 'echo interrupted; exit 1' INT; echo ready; while read line; do echo got $line; done; echo end"


def test_stop_and_go_on(shell: Screen) -> None:
    shell.type(f"$AVAULT run -- bash -c {shlex_join([COUNT])}\r")
    shell.expect("\nready")
    shell.type("one\r")
    shell.expect("got one")
    for word in ("two", "three"):
        shell.type("\x1a")
        shell.expect("Stopped.*\\$ ")
        assert termios.tcgetattr(shell.fd)[3] & termios.ISIG, "the terminal is the shell's"
        shell.type("echo $((40 + 2))\r")
        shell.expect("\n42\r\n.*\\$ ")
        shell.type("fg\r")
        shell.expect("run")
        shell.type(f"{word}\r")
        shell.expect(f"got {word}")
    shell.type("\x04")
    shell.expect("\nend\r\n.*\\$ ")
    shell.type("echo code $?, jobs:$(jobs)\r")
    shell.expect("\ncode 0, jobs:\r\n")


def test_a_stopped_job_in_the_background(shell: Screen, tmp_path: Path) -> None:
    """`bg`: it goes on, writes, and stops when it reads; `fg` gives it the keys."""
    script = f"echo ready; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo working; read line; echo got $line"
    shell.type(f"$AVAULT run -- bash -c {shlex_join([script])}\r")
    shell.expect("\nready")
    shell.type("\x1a")
    shell.expect("Stopped.*\\$ ")
    shell.type("bg\r")
    shell.expect("run.*&")
    (tmp_path / "go").touch()
    shell.expect("working\r\n")
    wait_until(lambda: "Stopped" in jobs(shell))
    shell.type("fg\r")
    shell.expect("run")
    shell.type("word\r")
    shell.expect("got word\r\n.*\\$ ")


def jobs(shell: Screen) -> str:
    """What the shell says of its jobs."""
    shell.type("echo beg''in; jobs; echo en''d\r")
    return shell.expect("\nbegin(.*?)\nend\r\n")[1].decode()


def test_started_in_the_background(shell: Screen) -> None:
    shell.type("$AVAULT run -- bash -c 'echo working; read line; echo got $line' &\r")
    shell.expect("working\r\n")
    wait_until(lambda: "Stopped" in jobs(shell))
    shell.type("fg\r")
    shell.expect("run")
    shell.type("word\r")
    shell.expect("got word\r\n.*\\$ ")


def test_signals_from_the_shell(shell: Screen) -> None:
    shell.type("$AVAULT run -- bash -c 'trap \"echo ended; exit 5\" TERM; echo working; while :; do sleep 0.05; done' &\r")
    shell.expect("working\r\n")
    shell.type("kill %1; wait %1; echo code $?\r")
    shell.expect("\nended")
    shell.expect("\ncode 5")


@pytest.mark.skipif(not shutil.which("vim"), reason="no vim")
def test_vim_is_stopped(shell: Screen) -> None:
    """It treats Ctrl-Z as a key and stops itself, after it has cleaned up the screen."""
    shell.type("$AVAULT run -- vim -u NONE -N\r")
    shell.expect("~.*~")
    shell.type("\x1a")
    shell.expect("Stopped.*\\$ ")
    shell.type("fg\r")
    shell.expect("~.*~")
    shell.type(":echo 6*7\r")
    shell.expect("42")
    shell.type(":q!\r")
    shell.expect("\\$ ")


def test_stop_in_a_pipeline(shell: Screen) -> None:
    """All of it stops and goes on."""
    for line in ("$AVAULT run -- bash -c {} | sed 's/^/: /'", "cat | $AVAULT run -- bash -c {}"):
        script = "trap 'echo back' CONT; echo ready; while read line; do echo got $line; done"
        shell.type(line.format(shlex_join([script])) + "\r")
        shell.expect("\n(: )?ready")  # from the command: the line that was typed has the word too
        shell.type("\x1a")
        shell.expect("Stopped.*\\$ ")
        shell.type("fg\r")
        shell.expect("run")
        shell.type("one\r")
        shell.expect("got one")
        shell.type("\x04")
        shell.expect("\\$ ")


def test_an_interactive_shell_inside(vault: Machine) -> None:
    with Screen(vault, AVAULT, "run", "--", "bash", "--norc", "-i") as screen:
        screen.expect("\\$ ")
        assert b"job control" not in screen.shown
        # not by a sh, as dash's vfork would hang in a child that is stopped before its exec
        screen.type("bind 'set enable-bracketed-paste off'; (echo started; exec sleep 60)\r")
        screen.expect("started\r\n")
        screen.type("\x1a")
        screen.expect("Stopped.*\\$ ")
        screen.type("kill %1; wait %1; echo $API_KEY\r")
        screen.expect("<avault:openai/API_KEY>\r\n")
        screen.type("exit 7\r")
        screen.wait(7)


def test_within_another(vault: Machine) -> None:
    with on_screen(vault, AVAULT, "run", "--", "sh", "-c", 'stty size; read line; echo "$line $API_KEY"; exit 6') as screen:
        screen.expect("24 80\r\n")
        screen.type("word\r")
        screen.expect("word <avault:openai/API_KEY>\r\n")
        screen.wait(6)


# The end of a terminal


def test_what_stays_in_the_background_of_a_terminal(vault: Machine, tmp_path: Path) -> None:
    """It is not hung up, and what it writes comes, masked."""
    script = f'(while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo "late $API_KEY"; touch {tmp_path}/done) & echo early'
    with Screen(
        vault, "bash", "-c", f"$AVAULT run -- sh -c {shlex_join([script])}; echo code $?; touch {tmp_path}/go; sleep 60"
    ) as screen:
        screen.expect("early\r\n.*code 0\r\n")
        screen.expect("late <avault:openai/API_KEY>\r\n")
        wait_until((tmp_path / "done").exists)


def test_a_service_that_is_left_behind(vault: Machine, tmp_path: Path) -> None:
    """It has closed what it had of the terminal; the end of the command is not its end."""
    script = f"(while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; touch {tmp_path}/done) < /dev/null > /dev/null 2>&1 &"
    with on_screen(vault, "sh", "-c", script) as screen:
        screen.wait()
    (tmp_path / "go").touch()
    wait_until((tmp_path / "done").exists)


@pytest.mark.parametrize("who", ["avault", "terminal"])
def test_hangup(vault: Machine, tmp_path: Path, who: str) -> None:
    """avault is killed, or the terminal goes away: the command gets SIGHUP."""
    script = f"trap 'touch {tmp_path}/hung-up; exit' HUP; echo ready; while :; do sleep 0.05; done"
    with on_screen(vault, "bash", "-c", script) as screen:
        screen.expect("ready")
        if who == "avault":
            screen.process.kill()
        else:
            screen.close()
        wait_until((tmp_path / "hung-up").exists)


def test_errors_on_a_terminal(vault: Machine) -> None:
    for words, code in ((["no-such-command-anywhere"], 127), (["/"], 126)):
        with on_screen(vault, *words) as screen:
            assert screen.wait(code).startswith(b"avault: error: cannot run ")
            assert termios.tcgetattr(screen.fd) == screen.modes


def test_without_a_mask_the_terminal_is_the_real_one(vault: Machine) -> None:
    with Screen(vault, AVAULT, "run", "--no-mask", "--", "sh", "-c", "tty; echo $$; stty -g") as screen:
        shown = screen.wait().decode()
        assert f"{screen.process.pid}\r\n" in shown


@pytest.mark.parametrize(
    "piece", ["x", "ab", "a:", "@", "://", "a@", "x://a@a@", "-----BEGIN ", "%41", "&#65;", "\\u0041", " z", "l\n"]
)
def test_forms_of_a_large_value_that_repeats_itself(piece: str) -> None:
    """In a time that grows with its length, and not with the square of it: that would be hours."""
    value = (piece * 262_144)[:262_144]
    assert not avault.solid(value.encode()).strip() or "plain" in avault.forms_of(value).values()
