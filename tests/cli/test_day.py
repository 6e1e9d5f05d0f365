"""What a day brings besides get and set: waiting, locking by itself, being noticed, running a command, Python programs."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import nostr_sdk
import pytest
from canary import Canary
from harness import AVAULT, SOURCE, Machine, wait_until
from peers import Rogue
from test_commands import in_terminal

import avault

pytestmark = pytest.mark.usefixtures("forks")


@pytest.fixture
def vault(machine: Machine) -> Machine:
    machine.init_unproven()
    return machine


# Waiting


def test_wait_returns_when_it_is_open(proven: Machine) -> None:
    waiting = [proven.start("wait"), proven.start("wait", "--timeout", "60")]
    proven("wait", "--timeout", "1", code=7)
    assert all(each.process.poll() is None for each in waiting), "there is no daemon yet"
    proven("daemon", "start", "-b")
    assert [each.wait().returncode for each in waiting] == [0, 0]
    proven("wait", "--timeout", "0")


def test_wait_asks_nobody(proven: Machine, rogue: Rogue) -> None:
    proven("daemon", "start", "-b")
    proven.wait_state("unlocked")
    proven("lock")
    before = len(rogue.requests("nip44_decrypt"))
    done = proven("wait", "--timeout", "1", code=7)
    assert "avault: error: the vault did not open in time" in done.stderr
    assert proven.status()["state"] == "locked"
    assert len(rogue.requests("nip44_decrypt")) == before


# Locking by itself


@pytest.mark.slow
def test_lock_after(proven: Machine, canary: Canary) -> None:
    proven("daemon", "start", "-b", "--lock-after", "1h")
    status = proven.wait_state("unlocked")
    assert (status["locks_after"], status["locks_idle"]) == (3600, None)
    assert status["since"] < status["until"] <= avault.render_time(time.time() + 3600)
    after = int(time.time() - datetime.fromisoformat(status["since"]).timestamp()) + 3
    proven("lock", "--after", f"{after}s")
    while proven("set", "a/B", input=canary.value, code=None).returncode == 0:  # use does not prolong it
        assert time.time() < datetime.fromisoformat(status["since"]).timestamp() + after + 60
    locked = proven.wait_state("locked")
    assert locked["keyholder_pid"] is None
    assert locked["until"] is None
    assert locked["error"]["message"] == f"it locked by itself after {after} s"
    assert f"Reason: it locked by itself after {after} s\n" in proven("status", code=3).stdout
    done = proven("get", "a/B", code=3)
    assert "avault: hint: ask the phone with: avault unlock" in done.stderr
    proven("lock", "--after", "1s")
    assert re.search(r"unlocked: \d secret\(s\), until ", proven("unlock").stderr), "the next time too"
    proven.wait_state("locked")


@pytest.mark.slow
def test_lock_idle(proven: Machine, canary: Canary) -> None:
    proven("daemon", "start", "-b", "--lock-idle", "1h")
    proven.wait_state("unlocked")
    proven("set", "a/B", input=canary.value)
    ends = set()

    def use() -> int:
        proven("get", "a/B", secret=True)
        ends.add(proven.status()["until"])
        return len(ends)

    wait_until(lambda: use() > 2, what="every use moves the end")
    end = max(ends)
    time.sleep(1.1)  # times are told in seconds
    proven("list")
    assert proven.status()["until"] == end, "to ask for status, or for names, does not"
    proven("lock", "--idle", "2s")
    begun = time.monotonic()
    while proven.status()["state"] == "unlocked":
        proven("list", code=None)
        assert time.monotonic() < begun + 60
    assert proven.status()["keyholder_pid"] is None


@pytest.mark.slow
def test_limits_of_a_running_daemon(proven: Machine) -> None:
    """They are changed without another tap; and --for is for this time only."""
    proven("daemon", "start", "-b", "--lock-after", "8h")
    proven.wait_state("unlocked")
    assert "change them: avault lock --after 1h --idle 2h" in (
        proven("daemon", "start", "-b", "--lock-after", "1h", "--lock-idle", "2h", code=2).stderr
    )
    done = proven("lock", "--idle", "30m")
    assert "it locks 8 h after an unlock and after 30 min without a use; this time at " in done.stderr
    done = proven("lock", "--after", "never", "--idle", "never", "--json")
    assert (done.json["ok"], proven.status()["until"]) == (True, None)
    status = proven.status()
    assert (status["locks_after"], status["locks_idle"], status["state"]) == (None, None, "unlocked")
    for words in (["--after", "0"], ["--idle", "soon"]):
        proven("lock", *words, code=2)
    begun = time.time()
    assert "unlocked: 0 secret(s), until " in proven("unlock", "--for", "1h").stderr
    until = proven.status()["until"]
    assert avault.render_time(begun + 3598) <= until <= avault.render_time(time.time() + 3602)
    proven("lock", "--after", "1s")
    locked = proven.wait_state("locked")
    assert locked["error"]["message"] == "it locked by itself after 1 s"
    assert (locked["locks_after"], locked["until"]) == (1, None)
    proven("lock", "--after", "never")
    proven("unlock", "--for", "2s")
    proven.wait_state("locked")
    proven("unlock")
    assert proven.status()["until"] is None, "that was for one time"


async def test_an_unproven_vault_does_not_lock_by_itself(vault: Machine) -> None:
    """Else nothing could open it again."""
    places = avault.Places(str(vault.vault))
    ours, theirs = socket.socketpair()
    with theirs:
        keyholder = avault.Keyholder(places, ours, (1.0, 1.0))
        holding = keyholder.holding
        holding.autolock.opened = holding.autolock.used = 0.0
        holding.store = avault.Store(places, nostr_sdk.Keys.generate(), avault.Vault("", "", "", ""), "")
        holding.ratchet.proven = None
        assert holding.time_left() == float("inf")
        holding.ratchet.proven = "2026-01-31T12:00:00Z"
        assert holding.time_left() < 0
        keyholder.unlocking.talking = True
        assert holding.time_left() < 0, "a pairing that is never ended keeps no vault open"
        keyholder.control.close()


def test_the_clock_of_locks_counts_sleep() -> None:
    """CLOCK_BOOTTIME goes on while the machine is suspended, and nobody can set it (clock_gettime(2))."""
    if sys.platform == "linux":
        assert abs(avault.uptime() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 5
    assert avault.uptime() <= avault.uptime()


@pytest.mark.parametrize("option", ["--lock-after", "--lock-idle"])
def test_bad_limits(machine: Machine, option: str) -> None:
    done = machine("daemon", "start", option, "soon", code=2)
    assert "avault: error: not a duration: 'soon'" in done.stderr


# Being noticed


def test_notify(proven: Machine, rogue: Rogue, canary: Canary) -> None:
    told = proven.top / "told"
    script = f'env > "{told}.$AVAULT_STATE.tmp"; mv "{told}.$AVAULT_STATE.tmp" "{told}.$AVAULT_STATE"'
    rogue.behave("nip44_decrypt", [{"do": "silence"}])
    proven("daemon", "start", "-b", "--notify", script, SOME_TOKEN=canary.value)
    wait_until(lambda: Path(f"{told}.waiting").exists(), what="told that it waits")
    variables = dict(line.split("=", 1) for line in Path(f"{told}.waiting").read_text().splitlines())
    assert variables["AVAULT_STATE"] == "waiting"
    assert variables["AVAULT_NAME"] == "test@machine"
    assert variables["AVAULT_DIR"] == str(proven.vault)
    assert "SOME_TOKEN" not in variables, "the daemon's environment is clean"


def test_notify_of_each_change(proven: Machine) -> None:
    told = proven.top / "told"
    proven("daemon", "start", "-b", "--notify", f'echo "$AVAULT_STATE" >> "{told}"')
    proven.wait_state("unlocked")
    wait_until(lambda: "unlocked" in (told.read_text() if told.exists() else ""))
    proven("lock")
    wait_until(lambda: told.read_text().split()[-1] == "locked")
    states = told.read_text().split()
    assert all(one != other for one, other in itertools.pairwise(states)), states


def test_notify_that_fails_or_stays_harms_nothing(proven: Machine) -> None:
    proven("daemon", "start", "-b", "--notify", "exec sleep 20")
    proven.wait_state("unlocked")
    proven("list")
    proven("lock")
    proven("unlock")


@pytest.mark.slow
def test_the_status_line(machine: Machine, proven: Machine, rogue: Rogue) -> None:
    """On a terminal one line that is redrawn; nothing of it in a pipe."""
    rogue.behave("nip44_decrypt", [{"do": "silence"}])
    proven.env["TERM"] = "xterm"
    shown, code = in_terminal(proven, ["unlock", "--timeout", "8"], [])  # it is asked by then
    assert code == 7
    assert re.search(r"\r\x1b\[Kasked 1 of 1 relays, waiting for approval, 0:\d\d", shown)
    assert "\n" not in shown[shown.index("\r\x1b[Kasked") : shown.rindex("\r\x1b[Kasked")], "in place"
    assert shown.rstrip().endswith("avault: hint: is the signer app open? See: avault status")
    done = proven("unlock", "--timeout", "2", code=7)
    assert "asked 1 of" not in done.stderr
    assert "\x1b" not in done.stderr
    proven.env["TERM"] = "dumb"
    assert "\x1b" not in in_terminal(proven, ["unlock", "--timeout", "2"], [])[0]


# A command with the secrets, the fast way


def test_run_takes_the_place_of_avault(vault: Machine, canary: Canary) -> None:
    """No parent stays: the process that was avault is the command."""
    vault("set", "openai/API_KEY", input=canary.value)
    script = 'echo $$; test -n "$API_KEY" && echo "has it"; tr "\\0" " " </proc/$PPID/cmdline'
    process = subprocess.Popen(
        [AVAULT, "run", "--no-mask", "--only", "API_KEY", "--", "sh", "-c", script],
        env=vault.env, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines = process.communicate()[0].splitlines()
    assert process.returncode == 0
    assert int(lines[0]) == process.pid
    assert lines[1] == "has it"
    assert "run --no-mask" not in lines[2]


def test_run_gives_exact_values_over_those_that_are_there(vault: Machine, canary: Canary) -> None:
    value = canary.make(" '\"$`\\\n\t =ü€ ") if hasattr(canary, "make") else canary.value + " '\"$`\\\n\t =ü€ x"
    vault("set", "a/B", input=value + "\n")
    vault("set", "b/C", input=canary.value)
    done = vault("run", "--no-mask", "--group", "a", "env", "-0", B="old", C="mine", secret=True)
    variables = dict(pair.split("=", 1) for pair in done.stdout.split("\0") if pair)
    assert variables["B"] == value
    assert variables["C"] == "mine"
    assert "AVAULT_COMMAND" not in variables
    assert vault("run", "--no-mask", "--prefix", "sh", "-c", "env | cut -d= -f1", secret=True).stdout.count("A_B\n") == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["true"], 0),
        (["false"], 1),
        (["sh", "-c", "exit 42"], 42),
        (["nonsense-of-avault"], 127),
        (["/"], 126),
        (["/etc/passwd"], 126),
    ],
    ids=str,
)
def test_run_exit_codes(vault: Machine, words: list[str], code: int) -> None:
    done = vault("run", "--no-mask", *words, code=code)
    if code > 100:
        assert done.stderr.startswith(f"avault: error: cannot run '{words[0]}': ")


@pytest.mark.slow
def test_run_refuses_before_it_runs(vault: Machine, canary: Canary) -> None:
    made = vault.top / "made"
    vault("set", "a/PATH", input=canary.value)
    vault("set", "a/B", input=canary.value)
    vault("set", "b/B", input=canary.value)
    for words, code in (([], 2), (["--only", "a/PATH"], 5), (["--group", "nothing"], 4)):
        vault("run", "--no-mask", *words, "--", "touch", str(made), code=code)
        assert not made.exists()
    vault("run", "--no-mask", "--only", "a/PATH", "--allow", "PATH", "/bin/sh", "-c", f"/bin/touch {made}")
    assert made.exists()
    vault("lock", "--force")
    made.unlink()
    vault("run", "--no-mask", "touch", str(made), code=3)
    assert not made.exists()


def test_run_hands_on_no_ignored_signal(vault: Machine) -> None:
    """Python ignores SIGPIPE; its child must not, or `yes | head` never ends."""
    done = subprocess.run(
        [AVAULT, "run", "--no-mask", "--", "grep", "SigIgn", "/proc/self/status"], env=vault.env, capture_output=True, text=True
    )
    assert int(done.stdout.split()[1], 16) & 1 << signal.SIGPIPE - 1 == 0


# Python programs


def python(machine: Machine, code: str, isolated: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *isolated, "-c", code], env=machine.env, cwd=machine.top, capture_output=True, text=True, check=False
    )


def test_a_program_gets_secrets(vault: Machine, canary: Canary) -> None:
    vault("set", "openai/API_KEY", input=canary.value)
    vault("set", "openai/ORG", input="acme-corp")
    check = f"""
import avault, sys
assert avault.get("openai", "API_KEY") == {canary.value!r}
assert avault.env("openai") == {{"API_KEY": {canary.value!r}, "ORG": "acme-corp"}}
for names, kind in (("openai", "NONE"), avault.NotFound), (("none", "KEY"), avault.NotFound), (("-", "KEY"), avault.Usage):
    try:
        avault.get(*names)
        sys.exit("no error")
    except avault.AvaultError as error:
        assert type(error) is kind, error
"""
    assert python(vault, check).stderr == ""
    vault("lock", "--force")
    raised = 'import avault\ntry: avault.get("a", "B")\nexcept avault.Locked as error: print(error.exit_code, error.hint)'
    assert python(vault, raised).stdout.startswith("3 ")
    vault("daemon", "stop")
    assert python(vault, raised.replace("Locked", "Unavailable")).stdout == "6 start it with: avault daemon start -b\n"


def test_importing_avault_is_cheap_and_quiet(vault: Machine) -> None:
    """It loads nothing heavy, starts nothing and takes no argument."""
    code = """
import sys
before = set(sys.modules)
sys.argv = ["program", "get", "openai/API_KEY"]
import avault
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(new))
"""
    done = python(vault, code, isolated=("-S",))  # what site loads is not ours
    if done.returncode:  # an installed copy is out of sight then
        done = subprocess.run(
            [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(SOURCE.parent)!r}); {code}"],
            env=vault.env, capture_output=True, text=True, check=True,
        )  # fmt: skip
    loaded = set(json.loads(done.stdout.replace("'", '"')))
    heavy = {"asyncio", "click", "json", "nostr_sdk", "socket", "ssl", "subprocess", "typing", "re", "logging", "hmac"}
    assert "avault" in loaded
    assert not loaded & heavy


# --json


@pytest.mark.parametrize(
    "words",
    [["set", "a/C", "--generate"], ["delete", "a/B"], ["wait"], ["lock", "--force"], ["daemon", "stop", "--force"]],
    ids=" ".join,
)
def test_json_says_that_it_is_done(vault: Machine, canary: Canary, words: list[str]) -> None:
    vault("set", "a/B", input=canary.value)
    assert vault(*words, "--json").json == {"ok": True}


def test_names(vault: Machine, canary: Canary) -> None:
    for name in ("openai/ORG", "db/PASSWORD", "openai/API_KEY"):
        vault("set", name, input=canary.value)
    assert vault("list", "--names").stdout == "db/PASSWORD\nopenai/API_KEY\nopenai/ORG\n"


# The access log is written by the process that holds the secrets, whoever takes the file away


def test_the_log_file_is_made_anew_when_it_is_gone(vault: Machine, canary: Canary) -> None:
    vault("set", "a/B", input=canary.value)
    log = vault.own / "access.log"
    log.unlink()
    vault("get", "a/B", secret=True)
    entry = json.loads(log.read_text().splitlines()[-1])
    assert (entry["op"], entry["group"], entry["keys"], entry["uid"]) == ("get", "a", ["B"], os.getuid())
    assert entry["exe"] == os.path.realpath(sys.executable)
    log.unlink()
    log.mkdir()
    done = vault("get", "a/B", code=1)
    assert done.stdout == ""
    assert "the access log cannot be written" in done.stderr
    vault("set", "a/C", input=canary.value, code=1)
    log.rmdir()
    vault("get", "a/B", secret=True)
    vault("has", "a/C", code=4)


def test_a_client_cannot_write_the_log_through_its_words(vault: Machine) -> None:
    """Names in a request are the client's: no control character and no length of theirs gets into the log."""
    places = socket.socket(socket.AF_UNIX)
    places.connect(vault.status()["socket"])
    request = {
        "v": 1,
        "vault": vault.status()["vault_id"],
        "op": "get",
        "group": "a\n\x1b[31m" + "x" * 5000,
        "key": ["y"],
        "for": "\n",
    }
    places.sendall(avault.encode_frame(request))
    assert places.recv(4)
    entry = json.loads((vault.own / "refused.log").read_text().splitlines()[-1])
    assert entry["outcome"] == "usage"
    assert len(entry["group"]) < 200
    assert all(c.isprintable() for c in entry["group"] + entry["for"])
    places.close()
