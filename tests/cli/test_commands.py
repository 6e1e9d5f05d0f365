"""What a person types and what comes back: stdout, stderr, exit code. With a phone: see the tests of pairing."""

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

import documents as d
import nostr_sdk
import pytest
from canary import Canary
from harness import AVAULT, SOURCE, Machine, wait_until

import avault

pytestmark = pytest.mark.usefixtures("forks")

CLICK = [sys.executable, "-c", "import sys, avault; sys.exit(avault.run_command(sys.argv[1:]))"]
COMMANDS = [name.split() for name in d.commands()]


def prepare(machine: Machine) -> None:
    machine.init_unproven()
    machine("set", "openai/API_KEY", input="sk-1")
    machine("set", "db", "--key", "PASSWORD", "--note", "production", input="p w")
    machine("set", "db/HOST", input="localhost")


@pytest.fixture
def vault(lend: Callable[..., Machine]) -> Machine:
    """An open, unproven vault with some secrets."""
    return lend(prepare)


def check_error(stderr: str) -> None:
    """`avault: error: …`, then `avault: hint: …`: lower case, no full stop; warnings may stand before."""
    lines = stderr.splitlines()
    while lines and lines[0].startswith("avault: warning: "):
        lines = lines[2:] if lines[1].startswith("avault: hint: ") else lines[1:]
    assert lines, "an error says something"
    assert re.fullmatch(r"avault: error: \S.*[^.]", lines[0]), stderr
    first = lines[0].removeprefix("avault: error: ").split()[0]
    assert first[0].islower() or not first[0].isalpha() or first.isupper() or "_" in first, stderr
    for line in lines[1:]:
        assert re.fullmatch(r"avault: hint: \S.*[^.]", line), stderr


def refuse(machine: Machine, *words: str, code: int, says: str = "", hint: str = "", input: str | bytes = "", **env: str) -> None:
    """A command that fails with that code, those words, nothing on stdout, and the same as an object with --json."""
    done = machine(*words, input=input, code=code, **env)
    assert done.stdout == ""
    check_error(done.stderr)
    assert says in done.stderr
    assert hint in done.stderr.rpartition("avault: hint: ")[2]
    done = machine(*words, "--json", input=input, code=code, **env)
    check_error(done.stderr)
    error = done.json["error"]
    assert done.json["ok"] is False
    assert set(error) == {"code", "message", "hint"}
    assert f"avault: error: {error['message']}\n" in done.stderr
    names = {1: "error", **{kind.exit_code: kind.code for kind in avault.ERRORS}}
    assert error["code"] == names[code]


# Secrets


def test_get(vault: Machine) -> None:
    assert vault("get", "openai", "--key", "API_KEY").stdout == "sk-1\n"
    assert vault("get", "openai/API_KEY").stdout == "sk-1\n"
    assert vault("get", "db").stdout == "HOST=localhost\nPASSWORD=p w\n"
    assert vault("get", "openai/API_KEY", "--json").json == {"group": "openai", "key": "API_KEY", "value": "sk-1"}
    assert vault("get", "db", "--json").json == {
        "group": "db",
        "note": "production",
        "values": {"HOST": "localhost", "PASSWORD": "p w"},
    }
    vault("set", "db/CERT", input="one\ntwo\n\n")
    assert vault("get", "db/CERT").stdout == "one\ntwo\n\n"
    done = vault("get", "db", code=2)
    assert "error: db/CERT has more than one line\navault: hint: avault get db --json" in done.stderr
    assert vault("get", "db", "--json").json["values"]["CERT"] == "one\ntwo\n"


def test_get_of_what_is_not_there(vault: Machine) -> None:
    refuse(vault, "get", "nothing", code=4, says="no group nothing", hint="avault list")
    refuse(vault, "get", "db/NOTHING", code=4, says="no key NOTHING in group db", hint="avault list")
    refuse(vault, "delete", "nothing", code=4, says="no group nothing")
    refuse(vault, "delete", "db", "--key", "NOTHING", code=4)


def test_has(vault: Machine) -> None:
    for words, code in [("openai", 0), ("openai/API_KEY", 0), ("openai/NOTHING", 4), ("nothing", 4), ("nothing/AT_ALL", 4)]:
        done = vault("has", words, code=code)
        assert (done.stdout, done.stderr) == ("", ""), words
        assert vault("has", words, "--json", code=code).json == {"has": code == 0}


def test_list(vault: Machine) -> None:
    text = vault("list").stdout
    times = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    lines = ["db  # production", f"  HOST      {times}", f"  PASSWORD  {times}", "openai", f"  API_KEY  {times}"]
    assert re.fullmatch("\n".join(lines) + "\n", text)
    groups = vault("list", "--json").json["groups"]
    assert [(group["name"], group["note"], [key["name"] for key in group["keys"]]) for group in groups] == [
        ("db", "production", ["HOST", "PASSWORD"]),
        ("openai", "", ["API_KEY"]),
    ]
    for value in ("sk-1", "p w", "localhost"):
        assert value not in text + json.dumps(groups)


def test_list_of_nothing(machine: Machine) -> None:
    machine.init_unproven()
    assert machine("list").stdout == ""
    assert machine("list", "--json").json == {"groups": []}
    assert machine("export").stdout == ""


def test_delete(vault: Machine) -> None:
    done = vault("delete", "db/HOST")
    assert (done.stdout, done.stderr) == ("", "")
    assert vault("get", "db").stdout == "PASSWORD=p w\n"
    vault("delete", "db", "--key", "PASSWORD")
    vault("has", "db", code=4)
    vault("set", "db/A", input="1")
    vault("set", "db/B", input="2")
    vault("delete", "db")
    vault("has", "db", code=4)


def test_set_from_stdin(vault: Machine) -> None:
    for number, (given, kept) in enumerate([("x", "x"), ("x\n", "x"), ("x\n\n", "x\n"), (" \tx ", " \tx "), ("é🦄\n", "é🦄")]):
        done = vault("set", f"a/B{number}", input=given)
        assert (done.stdout, done.stderr) == ("", "")
        assert vault("get", f"a/B{number}", "--json").json["value"] == kept


def test_set_warns_of_a_carriage_return_that_stays(vault: Machine, tmp_path: Path) -> None:
    (tmp_path / "dos").write_bytes(b"one\r\ntwo\r\n")
    for words, given, kept in [(["a/B"], "x\r\n", "x\r"), (["a/C", "--file", str(tmp_path / "dos")], "", "one\r\ntwo\r\n")]:
        done = vault("set", *words, input=given)
        assert done.stderr.startswith("avault: warning: a carriage return stays in the value")
        assert f"avault: hint: tr -d '\\r' < FILE | avault set {words[0]}\n" in done.stderr
        assert vault("get", words[0], "--json").json["value"] == kept


def test_set_says_that_it_replaced(vault: Machine) -> None:
    """By the fast way and by the long one; and where nothing keeps what was there."""
    said = "avault: replaced openai/API_KEY\n"
    hint = "avault: hint: nothing keeps the value before; in a git repository each change is committed\n"
    for words, given in [
        (["openai/API_KEY"], "sk-2"),
        (["openai/API_KEY", "--value", "sk-3"], ""),
        (["openai/API_KEY", "--generate"], ""),
    ]:
        assert vault("set", *words, input=given).stderr.endswith(said + hint)
    vault("set", "a/B", input="x")
    assert vault("set", "a/B", input="x").stderr == ""
    (vault.vault.parent / ".git").mkdir()
    assert vault("set", "openai/API_KEY", input="sk-4").stderr == said
    assert vault("set", "openai/API_KEY", "--json", input="sk-5").stderr == said
    assert vault("get", "openai/API_KEY").stdout == "sk-5\n"


@pytest.mark.parametrize("line", [
    "openai/API_KEY MARK", "openai --key API_KEY MARK", "openai API_KEY MARK", "openai/API_KEY --vaule MARK",
    "openai/API_KEY=MARK", "openai --key=API_KEY=MARK", "openai API_KEY=MARK", "openai/API_KEY --generate MARK",
    "openai/API_KEY -----BEGIN\nMARK\n-----END", "openai/API_KEY --MARK", "openai/API_KEY --key API_KEY MARK",
    "openai/MARK-", "openai --key MARK-", "openai:MARK", "MARK", "openai/MARK/API_KEY", "MARK:/API_KEY",
])  # fmt: skip
def test_set_repeats_no_value(vault: Machine, canary, line: str) -> None:
    """A value that a person typed among the words is in no answer: that the canary search would find."""
    for options in ([], ["--json"]):
        done = vault("--dir", str(vault.vault), *options, "set", *line.replace("MARK", canary.mark).split(" "), code=2)
        check_error(done.stderr)
        assert canary.mark not in done.stdout + done.stderr
        assert re.search("set GROUP|set --help|--generate 32|set openai --key API_KEY", done.stderr)


def test_others_repeat_no_word_that_is_too_much(vault: Machine, canary) -> None:
    for words in (["get", "db/HOST"], ["has", "db/HOST"], ["delete", "db/HOST"]):
        refuse(vault, "--dir", str(vault.vault), *words, canary.value, code=2, says="the key is named twice")
    for words in (["get", "db"], ["has", "db"], ["delete", "db"]):
        refuse(vault, *words, f"{canary.value}-", code=2, says="the second word is no key's name", hint="avault get db/KEY")
    for line in (
        "get db/MARK-",
        "get db/x:MARK",
        "get MARK:",
        "mv db/HOST db/MARK-",
        "export --as HOST=MARK",
        "export --as MARK",
    ):
        words = ["--dir", str(vault.vault), *line.replace("MARK", canary.value).split()]
        refuse(vault, *words, code=2, says="not ")
    refuse(vault, "recover", "--operator-key", canary.value, code=2, says="a key on the command line")
    for words in (["export"], ["import", "-"]):
        refuse(
            vault,
            "--dir",
            str(vault.vault),
            *words,
            canary.value,
            code=2,
            says="unexpected extra argument\n",
            hint=f"avault {words[0]} --help",
        )
    vault("has", "db/HOST")


def test_an_option_that_is_given_twice(vault: Machine) -> None:
    """Nobody knows which one is meant."""
    for line in (
        "get db --key HOST --key PASSWORD", "set db --key=A --key=B", "has db --key HOST --key X", "delete db --key HOST --key X",
        "import - --group a --group b",
    ):  # fmt: skip
        words = line.split()
        option = next(word.partition("=")[0] for word in words if word.startswith("--"))
        refuse(vault, *words, code=2, says=f"{option} is given more than once", hint=f"avault {words[0]} --help", input="x")
    assert vault("export", "--format", "json", "--format", "dotenv", code=2).stdout == ""
    assert (
        vault("export", "--group", "db", "--group", "openai", "--only", "HOST", "--only", "API_KEY").stdout
        == "HOST=localhost\nAPI_KEY=sk-1\n"
    )


def test_an_option_without_its_value_hints_at_its_own_command(vault: Machine) -> None:
    refuse(vault, "set", "x", "--key", code=2, says="requires an argument", hint="avault set --help")
    refuse(vault, "daemon", "start", "--timeout", code=2, says="requires an argument", hint="avault daemon start --help")
    refuse(vault, "get", "--none", "x", code=2, says="no such option", hint="avault get --help")


def test_set_from_a_file(vault: Machine, tmp_path: Path) -> None:
    path = tmp_path / "value"
    path.write_bytes(b"keeps its newline\n")
    vault("set", "a/B", "--file", str(path))
    assert vault("get", "a/B").stdout == "keeps its newline\n\n"
    (vault.home / "value").write_text("at home")
    vault("set", "a/B", "--file", "~/value")
    assert vault("get", "a/B").stdout == "at home\n"
    path.write_text("x" * 262_144)
    vault("set", "a/B", "--file", str(path))
    for size in (262_145, 262_146, 262_147, 1 << 21):
        path.write_text("x" * size)
        refuse(vault, "set", "a/B", "--file", str(path), code=2, says="262,144")
    refuse(vault, "set", "a/B", "--file", str(tmp_path / "nothing"), code=4, says="no file")
    refuse(vault, "set", "a/B", "--file", str(tmp_path), code=1, says="cannot read")


def test_set_generates(vault: Machine) -> None:
    seen = set()
    for words, size in [(["--generate"], 32), (["--generate", "40"], 40), (["--generate=1"], 1), (["--generate", "4096"], 4096)]:
        done = vault("set", "a", "--key", "B", *words)
        value = vault("get", "a/B").stdout
        assert done.stdout == "" and (size < 8 or value.strip() not in done.stderr)
        assert re.fullmatch(rf"[A-Za-z0-9]{{{size}}}\n", value)
        seen.add(value)
    assert len(seen) == 4
    for bad in ("0", "4097", "x", "-1", "²", "٣", "9" * 5000, "1.5"):
        refuse(vault, "set", "a/B", f"--generate={bad}", code=2)
    assert vault("get", "a/B").stdout in seen


def test_set_with_the_value_as_an_argument(vault: Machine) -> None:
    done = vault("set", "a/B", "--value", "on the line")
    assert done.stderr.startswith("avault: warning: ")
    assert done.stdout == ""
    assert vault("get", "a/B").stdout == "on the line\n"
    vault("set", "a/B", "--value", "-dash")
    assert vault("get", "a/B").stdout == "-dash\n"


def test_set_keeps_the_note(vault: Machine) -> None:
    def note() -> str:
        return str(vault("get", "db", "--json").json["note"])

    vault("set", "db/HOST", input="other")
    assert note() == "production"
    vault("set", "db/HOST", "--note", "é 🦄", input="other")
    assert note() == "é 🦄"
    for bad in ("\x1b[31m", "two\nlines", "n" * 1001):
        refuse(vault, "set", "db/HOST", "--note", bad, code=2, input="other", says="a note is")
    assert note() == "é 🦄"
    vault("set", "db/HOST", "--note", "", input="other")
    assert note() == ""


def test_set_refuses(vault: Machine, tmp_path: Path) -> None:
    refuse(vault, "set", "a", code=2, says="no key is named", hint="avault set GROUP --key API_KEY")
    refuse(vault, "set", "a/B", code=2, says="the value is empty", hint="avault delete")
    refuse(vault, "set", "a/B", code=2, input="\n", says="the value is empty")
    refuse(vault, "set", "a/B", code=2, input=b"\xff\xfe", says="binary", hint="base64")
    refuse(vault, "set", "a/B", code=2, input="a\0b", says="binary", hint="base64")
    refuse(vault, "set", "a/B", "--value", os.fsdecode(b"\xff"), code=2, says="binary", hint="base64")
    refuse(vault, "set", "a/B", code=2, input="x" * 262_145, says="262,144")
    refuse(vault, "set", "a/B", "--value", "x", "--generate", code=2, says="exclude each other")
    refuse(vault, "set", "a/B", "--key", "C", code=2, input="x")
    refuse(vault, "set", "a/B", "--note", "n" * 1001, code=2, input="x", says="note")
    refuse(vault, "set", "a/B", "--note", os.fsdecode(b"\xff"), code=2, input="x", says="note")
    vault("has", "a", code=4)
    vault("list", "--json")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "a/",
        "/B",
        "-a",
        ".a",
        "_a",
        "a b",
        "a\nb",
        "é",
        "a" * 65,
        "a/1",
        "a/B-C",
        "a/é",
        "a/b/c",
        "a/" + "B" * 129,
        "a\x1b[1m",
    ],
)
def test_bad_names(vault: Machine, name: str) -> None:
    for words in (["get"], ["has"], ["delete"], ["set", "--key", "X"] if "/" not in name else ["set"]):
        refuse(vault, *words, "--", name, code=2, input="x")


def test_good_names(vault: Machine) -> None:
    for name in ("0", "a.b_c-d", "A" * 64, "z/_", "z/" + "a1_" * 42 + "xy"):
        vault("set", name if "/" in name else f"{name}/K", input="x")
        assert vault("get", name).stdout in ("x\n", "K=x\n")


def test_huge_stdin_is_not_read_to_its_end(vault: Machine) -> None:
    """`set < /dev/zero` ends."""
    with open("/dev/zero", "rb") as zeros:
        script = ["sh", "-c", 'ulimit -v 2000000; exec "$0" "$@"', AVAULT, "set", "a/B"]
        done = subprocess.run(script, env=vault.env, stdin=zeros, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    check_error(done.stderr)


# Options, before and after


def test_dir_and_json_anywhere(vault: Machine) -> None:
    env = {**vault.env}
    there = str(vault.vault)
    vault("daemon", "stop", "--force")
    wait_until(lambda: vault("status", code=None).returncode == 6)
    nsec = nostr_sdk.Keys.generate().secret_key().to_bech32()
    other = vault.top / "other" / ".avault"
    vault("init", "--signer-npub", vault.npub(), "--dir", str(other), NOSTR_NSEC=nsec)
    try:
        vault("--dir", str(other), "set", "a/B", input="x")
        for words in (
            ["--dir", str(other), "get", "a/B"],
            ["get", "--dir", str(other), "a/B"],
            ["get", "a/B", "--dir", str(other)],
            ["get", "a/B", f"--dir={other}"],
        ):
            assert vault(*words).stdout == "x\n"
        for words in (
            ["--json", "--dir", str(other), "get", "a/B"],
            ["--dir", str(other), "get", "a/B", "--json"],
            ["get", "--json", "a/B", "--dir", str(other)],
            ["--json", "daemon", "status", "--dir", str(other)],
            ["daemon", "status", "--json", "--dir", str(other)],
        ):
            assert isinstance(vault(*words).json, dict), words
        assert vault("get", "a/B", code=6).stderr
        assert vault.env == env
        assert there != str(other)
    finally:
        vault("daemon", "stop", "--force", "--dir", str(other))


def test_version(machine: Machine) -> None:
    assert machine("--version").stdout == f"avault {avault.__version__}\n"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help(machine: Machine, words: list[str]) -> None:
    done = machine(*words, "--help")
    name = "status" if words == ["daemon", "status"] else " ".join(words)  # one command, two names
    assert done.stdout.startswith(f"usage: avault {name}")
    assert machine(*words, "-h").stdout == done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())
    assert not done.stdout.endswith("\n\n")
    assert done.stderr == ""


def test_help_of_all(machine: Machine) -> None:
    done = machine("--help")
    assert "usage: avault [--dir DIR] [--json] COMMAND" in done.stdout
    for words in COMMANDS:
        assert words[-1] in done.stdout
    assert machine("-h").stdout == machine().stdout == done.stdout


@pytest.mark.parametrize(
    "words",
    [["nonsense"], ["get"], ["get", "a", "b", "c"], ["get", "a", "--nonsense"], ["get", "a", "--key"], ["daemon", "nonsense"],
     ["--dir"], ["daemon", "start", "--timeout", "soon"], ["unlock", "--timeout", "1w"], ["export", "--wait", "-5"],
     ["export", "--shell", "csh"], ["export", "--format", "xml"], ["export", "--shell", "sh", "--format", "json"], ["signer"],
     ["init", "--relay", "http://x"], ["init", "--name", "x" * 65], ["init", "--signer-npub", "npub1x"]],
    ids=" ".join,
)  # fmt: skip
def test_bad_usage(machine: Machine, words: list[str]) -> None:
    done = machine(*words, code=2)
    assert done.stdout == ""
    check_error(done.stderr)
    assert not machine.vault.exists()


@pytest.mark.parametrize("words", [[], ["x"], ["{"], ["{}"], ["3", "/nonexistent"]], ids=" ".join)
@pytest.mark.parametrize("name", ["keyholder", "supervisor"])
def test_own_processes_by_hand(machine: Machine, name: str, words: list[str]) -> None:
    done = machine(name, *words, code=None, timeout=60)
    assert done.returncode != 0
    check_error(done.stderr)


# Status, start, stop, lock


def test_status(vault: Machine) -> None:
    lines = vault("status").stdout.splitlines()
    status = vault.status()
    assert lines[0] == f"Daemon: running (PID {status['pid']})"
    assert lines[1] == f"Agent: {status['agent_npub']}"
    assert re.fullmatch("npub1[a-z0-9]{58}", status["agent_npub"])
    assert "Vault: 3 secret(s)" in lines
    assert any(line.startswith("State: unlocked") for line in lines)
    assert vault("daemon", "status").stdout.splitlines()[:2] == lines[:2]
    assert (status["groups"], status["secrets"], status["proven"], status["state"]) == (2, 3, False, "unlocked")
    assert status["signer_npub"] == vault.npub()
    assert (status["dir"], status["name"]) == (str(vault.vault), "test@machine")
    assert status["signer_approves_by_itself"] is None
    assert status["waiting"] is None


def test_status_when_locked_and_when_stopped(vault: Machine) -> None:
    fields = set(vault.status())
    agent = vault.status()["agent_npub"]
    vault("lock", "--force")
    done = vault("status", code=3)
    assert f"Agent: {agent}" in done.stdout
    locked = vault.status()
    assert (locked["state"], locked["secrets"], locked["groups"], locked["keyholder_pid"]) == ("unpaired", None, None, None)
    vault("daemon", "stop", "--force")
    wait_until(lambda: vault("status", code=None).returncode == 6)
    done = vault("status", code=6)
    assert done.stdout.startswith("Daemon: stopped\n")
    assert f"Agent: {agent}" in done.stdout
    stopped = vault.status()
    assert set(stopped) == fields == set(locked)
    assert (stopped["state"], stopped["pid"], stopped["agent_npub"], stopped["name"]) == ("stopped", None, agent, "test@machine")


def test_status_of_a_damaged_vault(vault: Machine) -> None:
    vault("daemon", "stop", "--force")
    wait_until(lambda: vault("status", code=None).returncode == 6)
    for path in (vault.vault / "nsec.enc", *vault.state.glob("avault/*/unlock.json")):
        path.write_text("{")
    done = vault("status", code=6)
    assert done.stdout.startswith("Daemon: stopped\n")
    assert vault.status()["state"] == "stopped"


def test_nothing_to_do_is_done(vault: Machine) -> None:
    vault("daemon", "start")  # runs, and does not stay in the foreground
    vault("daemon", "start", "-b")
    vault("lock", "--force")
    vault("lock")
    vault("lock", "--force")
    vault("daemon", "stop")
    wait_until(lambda: vault("status", code=None).returncode == 6)
    vault("daemon", "stop")
    vault("lock")
    vault("daemon", "stop", "--force")


@pytest.mark.parametrize("words", [["lock"], ["daemon", "stop"]], ids=" ".join)
def test_unproven_vault_is_not_lost(vault: Machine, words: list[str]) -> None:
    refuse(vault, *words, code=5, hint="--force")
    assert vault.status()["state"] == "unlocked"
    for answer, code in [("n", 5), ("", 5), ("y", 0)]:
        output, ended = in_terminal(vault, words, [("[y/N] ", answer + "\n")])
        assert ended == code, output
        assert (vault("status", code=None).returncode == 0) == (code != 0)


def test_init(machine: Machine) -> None:
    done = machine("init", "--signer-npub", machine.npub(), "--name", "n")
    wrote = {line.removeprefix("wrote ") for line in done.stdout.splitlines()}
    files = {str(machine.vault / name) for name in ("avault.enc", "nsec.enc", "nip46.json", ".gitattributes")}
    assert wrote == files | {str(machine.own / "unlock.json")}
    assert all(Path(path).is_file() for path in wrote)
    assert f"agent: {machine.status()['agent_npub']}" in done.stderr
    assert "avault: hint: pair it now: avault pair" in done.stderr
    hints = json.loads((machine.vault / "nip46.json").read_text())
    assert (hints["agent_npub"], hints["signer_npub"]) == (machine.status()["agent_npub"], machine.npub())
    assert hints["relay"] == hints["relays"][0]
    assert len(hints["relays"]) == 3
    assert not (machine.vault / ".git").exists()
    assert not (machine.vault.parent / ".git").exists()
    before = {path: path.read_bytes() for path in machine.vault.iterdir()}
    refuse(machine, "init", "--signer-npub", machine.npub(), code=1, says="there is a vault already")
    assert {path: path.read_bytes() for path in machine.vault.iterdir()} == before
    machine("set", "a/B", input="works at once")


def test_init_writes_over_nothing_of_others(machine: Machine) -> None:
    """What was there stays: lines in .gitattributes, files that are not avault's, links, the key of a lost vault."""
    machine.vault.mkdir(parents=True)
    attributes, hints = machine.vault / ".gitattributes", machine.vault / "nip46.json"
    outside = machine.home / "private"
    outside.write_text("not avault's")
    words = ("init", "--signer-npub", machine.npub())
    for path in (attributes, hints):
        path.symlink_to(outside)
        refuse(machine, *words, code=8, says="not a regular file of ours")
        path.unlink()
    hints.write_text("{}")
    refuse(machine, *words, code=8, says="is damaged")
    assert outside.read_text() == "not avault's" and hints.read_text() == "{}"
    hints.unlink()
    attributes.write_text("*.png binary")
    machine(*words)
    assert attributes.read_bytes() == b"*.png binary\n" + avault.GITATTRIBUTES
    unlock = machine.own / "unlock.json"
    machine("daemon", "stop", "--force")
    before = unlock.read_bytes()
    for name in ("avault.enc", "nsec.enc"):
        (machine.vault / name).unlink()
    refuse(machine, *words, code=1, says="may be the last copy of its key")
    refuse(machine, "get", "a", code=4, says=", where one was", hint="put that vault back")
    assert "\nNext: put that vault back, from git" in machine("status", code=4).stdout
    assert unlock.read_bytes() == before


def test_init_with_a_key_of_ones_own(machine: Machine) -> None:
    keys = nostr_sdk.Keys.generate()
    machine.init_unproven(NOSTR_NSEC=keys.secret_key().to_bech32())
    assert machine.status()["agent_npub"] == keys.public_key().to_bech32()


def test_init_that_fails_leaves_nothing(machine: Machine) -> None:
    keys = nostr_sdk.Keys.generate()
    own, npub = keys.secret_key().to_bech32(), keys.public_key().to_bech32()
    refuse(machine, "init", "--signer-npub", npub, code=2, says="the agent's own key", NOSTR_NSEC=own)
    refuse(machine, "init", "--signer-npub", machine.npub(), code=2, says="not a Nostr secret key", NOSTR_NSEC="nonsense")
    refuse(machine, "init", "--signer-npub", own, code=2, says="not a Nostr public key", hint="secret key")
    assert not machine.vault.exists()
    machine("status", code=4)
    machine.init_unproven()


def test_where_no_vault_is(machine: Machine) -> None:
    for words in (["get", "a"], ["set", "a/B"], ["list"], ["export"], ["delete", "a"], ["has", "a"]):
        refuse(machine, *words, code=4, input="x", says="no vault in", hint="avault init")
    assert "no vault in" in machine("run", "true", code=4).stderr
    for line in ("daemon start -b", "daemon stop", "lock", "wait", "unlock", "recover", "log", "drill", "scan", "audit"):
        refuse(machine, *line.split(), code=4, says="no vault in")
    status = machine("status", code=4).stdout
    assert status.startswith("Daemon: stopped\n")
    assert "Vault: none" in status and "Next: make one with: avault init" in status
    assert not machine.vault.exists()
    assert not list(machine.state.rglob("unlock.json"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_where_we_may_not_look(vault: Machine) -> None:
    """That is not the same as no vault, and nobody is told to make one there."""
    vault("daemon", "stop", "--force")
    vault.vault.parent.chmod(0)
    try:
        for words in (["get", "a"], ["list"], ["status"], ["lock"], ["wait"], ["unlock"], ["daemon", "start", "-b"], ["recover"]):
            done = vault(*words, code=1)
            assert f"error: cannot look into {vault.vault}: Permission denied\n" in done.stderr, words
            assert "init" not in done.stderr + done.stdout
    finally:
        vault.vault.parent.chmod(0o700)


def test_hints_keep_the_directory(machine: Machine) -> None:
    """As it was given; and nothing is added where none was."""
    directory = ["--dir", "other place"]
    said = machine(*directory, "init", "--signer-npub", machine.npub()).stderr
    said += machine(*directory, "get", "nothing", code=4).stderr + machine("get", "a/B", *directory, code=4).stderr
    said += machine(*directory, "lock", code=5).stderr + machine(*directory, "status").stdout
    said += machine(*directory, "doctor", "--offline", code=1).stdout
    machine(*directory, "lock", "--force")
    said += machine(*directory, "list", code=3).stderr + machine(*directory, "status", code=3).stdout
    said += machine(*directory, "export", code=3).stderr + machine(*directory, "service", "status", code=4).stdout
    assert "avault --dir 'other place' " in machine(*directory, "get", "a", "--json", code=3).json["error"]["hint"]
    assert "avault --dir 'other place' " in machine(*directory, "status", "--json", code=3).json["hint"]
    machine(*directory, "daemon", "stop", "--force")
    said += machine(*directory, "status", code=6).stdout + machine(*directory, "list", code=6).stderr
    found = re.findall(r"avault (?=--dir|[a-z])(?!is |\d)[^,;\n]*", "\n".join(re.findall(r"(?:hint|Next|open): ?(.*)", said)))
    assert len(found) > 8
    assert not [each for each in found if not each.startswith("avault --dir 'other place' ")]

    assert "hint: make one with: avault init, or" in machine("list", code=4).stderr
    assert "hint: start it with: avault daemon start -b" in machine("list", AVAULT_DIR="other place", code=6).stderr


def test_commands_that_are_about_a_vault() -> None:
    words = {name.split()[0] for name in d.commands()}
    assert avault.VAULT_COMMANDS - {"desk", "git"} == words - {"completion", "demo", "fleet", "help", "signer", "version"}


def test_hints_keep_the_options(vault: Machine) -> None:
    """Where a hint is the same command again; but no flags, which may be what is to be left out, and no secrets."""
    hint = vault("set", "a", "--note", "for me", "--value", "sk-2", code=2).stderr.rpartition("hint: ")[2]
    assert hint == "avault set --note 'for me' GROUP --key API_KEY\n"
    call = avault.Call()
    call.name, call.directory, call.options = "pair", "/x y", {"--relay": "wss://a --relay wss://b", "--timeout": "5m"}
    again = "avault --dir '/x y' pair --relay wss://a --relay wss://b --timeout 5m --replace"
    assert call.complete("pair anew: avault pair --replace, or not") == f"pair anew: {again}, or not"
    assert call.complete("avault pair --timeout 1m") == ("avault --dir '/x y' pair --relay wss://a --relay wss://b --timeout 1m")
    assert call.complete("cat F | avault pair --replace") == "cat F | avault --dir '/x y' pair --replace"
    assert call.complete("avault init, or name one with --dir") == "avault --dir '/x y' init, or name one with --dir"
    assert call.complete("avault audit --dir /z; avault lock") == "avault audit --dir /z; avault --dir '/x y' lock"
    both = "avault --dir '/x y' daemon stop && avault --dir '/x y' daemon start -b"
    assert call.complete("avault daemon stop && avault daemon start -b") == both
    for same in ("avault keeps it", "sudo /bin/avault service install", "avault demo --yes", "/run/avault lock", "no hint"):
        assert call.complete(same) == same


def test_locked(vault: Machine) -> None:
    vault("lock", "--force")
    for words in (["get", "openai"], ["set", "a/B"], ["list"], ["export", "--shell"], ["delete", "db"], ["has", "openai"]):
        refuse(vault, *words, code=3, input="x", says="locked")


def test_unlock_with_nsec(vault: Machine) -> None:
    keys = nostr_sdk.Keys.generate()
    nsec, other = keys.secret_key().to_bech32(), nostr_sdk.Keys.generate().secret_key().to_bech32()
    directory = str(vault.top / "n" / ".avault")
    env = {"AVAULT_DIR": directory, "NOSTR_NSEC": nsec}
    vault("init", "--signer-npub", vault.npub(), **env)
    try:
        vault("set", "a/B", input="x", **env)
        vault("daemon", "stop", "--force", **env)
        wait_until(lambda: vault("status", code=None, **env).returncode == 6)
        done = vault("unlock", **env)
        assert "1 secret(s)" in done.stderr
        assert "no daemon runs" in done.stderr
        vault("status", code=6, **env)
        refuse(vault, "unlock", code=8, says="NOSTR_NSEC", **{**env, "NOSTR_NSEC": other})
        refuse(vault, "unlock", code=2, says="not a Nostr secret key", **{**env, "NOSTR_NSEC": "nsec1x"})
        done = vault("daemon", "start", "-b", **env)
        assert "avault: warning: the key comes from NOSTR_NSEC" in done.stderr
        assert "the vault is open" in done.stderr
        assert vault("get", "a/B", **env).stdout == "x\n"
        vault("lock", "--force", **env)
        done = vault("daemon", "stop", **env)
        wait_until(lambda: vault("status", code=None, **env).returncode == 6)
        done = vault("daemon", "start", "-b", **{**env, "NOSTR_NSEC": other}, code=8)
        assert "the daemon listens" in done.stderr
    finally:
        vault("daemon", "stop", "--force", AVAULT_DIR=directory)


# Export; its quoting is proven elsewhere


def test_export(vault: Machine) -> None:
    assert vault("export").stdout == "HOST=localhost\nPASSWORD='p w'\nAPI_KEY=sk-1\n"
    assert vault("export", "--format", "dotenv").stdout == vault("export").stdout
    assert vault("export", "--format", "json").json == vault("export", "--json").json
    assert vault("export", "--json").json == {"HOST": "localhost", "PASSWORD": "p w", "API_KEY": "sk-1"}
    assert vault("export", "--group", "openai").stdout == "API_KEY=sk-1\n"
    assert vault("export", "--only", "HOST,API_KEY").stdout == "HOST=localhost\nAPI_KEY=sk-1\n"
    assert vault("export", "--only", "HOST", "--only", "API_KEY").stdout == "HOST=localhost\nAPI_KEY=sk-1\n"
    assert vault("export", "--only", "db/HOST").stdout == "HOST=localhost\n"
    assert vault("export", "--prefix", "--group", "openai").stdout == "OPENAI_API_KEY=sk-1\n"
    script = f'set -e; vars=$("{AVAULT}" export --shell --wait) && eval "$vars"; echo "$PASSWORD"'
    done = subprocess.run(["sh", "-c", script], env=vault.env, capture_output=True, text=True, check=True)
    assert done.stdout == "p w\n"
    refuse(vault, "export", "--group", "nothing", code=4)
    refuse(vault, "export", "--only", "NOTHING", code=4)


def test_export_refuses_two_of_one_name(vault: Machine) -> None:
    vault("set", "other/HOST", input="x")
    refuse_text = vault("export", code=2).stderr
    assert "db/HOST" in refuse_text
    assert "other/HOST" in refuse_text
    assert "--group" in refuse_text
    assert "--prefix" in refuse_text
    assert "OTHER_HOST=x\n" in vault("export", "--prefix").stdout
    assert vault("export", "--group", "other").stdout == "HOST=x\n"


def test_export_refuses_dangerous_names(vault: Machine) -> None:
    for name in ("PATH", "LD_PRELOAD", "BASH_ENV", "IFS", "PYTHONPATH", "NODE_OPTIONS", "GIT_SSH_COMMAND"):
        vault("set", f"bad/{name}", input="x")
        refuse(vault, "export", "--shell", "--group", "bad", code=5, says=name, hint=f"--allow {name}")
        assert vault("export", "--group", "bad", "--allow", name).stdout == f"{name}=x\n"
        vault("delete", "bad")


def test_export_waits(vault: Machine) -> None:
    vault("lock", "--force")
    begun = time.monotonic()
    done = vault("export", "--shell", "--wait", "1s", code=7, timeout=60)
    assert (done.stdout, time.monotonic() - begun > 0.9) == ("", True)
    vault("daemon", "stop", "--force")
    wait_until(lambda: vault("status", code=None).returncode == 6)
    assert vault("export", "--wait=1", code=7, timeout=60).stdout == ""


# Both ways in: the fast door must give what the long way gives


SAME: list[tuple[list[str], str | bytes]] = [
    (words, given)
    for words, given in [
        (["get", "openai/API_KEY"], ""),
        (["get", "openai", "--key", "API_KEY"], ""),
        (["get", "--key", "API_KEY", "openai"], ""),
        (["get", "openai", "--key=API_KEY"], ""),
        (["get", "openai", "--key="], ""),
        (["get", "openai", "--key", ""], ""),
        (["get", "openai/API_KEY", "--key", "API_KEY"], ""),
        (["get", "openai", "--key", "X", "--key", "API_KEY"], ""),
        (["get", "openai/"], ""),
        (["get", "openai/API_KEY/x"], ""),
        (["get", ""], ""),
        (["get", "--", "openai"], ""),
        (["get", "openai", "--json"], ""),
        (["get", "openai", "--json", "--json"], ""),
        (["get", "openai", "--json=1"], ""),
        (["--json", "get", "openai"], ""),
        (["get", "nothing"], ""),
        (["get", "nothing", "--json"], ""),
        (["get", "a", "b"], ""),
        (["get"], ""),
        (["get", "--key", "K", os.fsdecode(b"\xff")], ""),
        (["has", "openai"], ""),
        (["has", "openai/NO"], ""),
        (["has", "openai", "--json"], ""),
        (["has", "not a name"], ""),
        (["list"], ""),
        (["list", "--json"], ""),
        (["list", "x"], ""),
        (["list", "--help"], ""),
        (["export"], ""),
        (["export", "--shell"], ""),
        (["export", "--shell", "sh"], ""),
        (["export", "--shell=fish"], ""),
        (["export", "--shell", "fish", "--prefix"], ""),
        (["export", "--shell", "bash"], ""),
        (["export", "--shell", "--format", "json"], ""),
        (["export", "--format", "systemd"], ""),
        (["export", "--format", "sh"], ""),
        (["export", "--format"], ""),
        (["export", "--json"], ""),
        (["export", "--group", "db", "--group", "openai"], ""),
        (["export", "--group", "db", "--only", "HOST"], ""),
        (["export", "--only", "HOST,API_KEY"], ""),
        (["export", "--only", "HOST", "--only", "API_KEY"], ""),
        (["export", "--only", ""], ""),
        (["export", "--only", "HOST,"], ""),
        (["export", "--allow", "PATH"], ""),
        (["export", "--wait"], ""),
        (["export", "--wait", "5"], ""),
        (["set", "a/B"], "one\n"),
        (["set", "a", "--key", "B"], "two"),
        (["set", "a/B", "--note", "n"], "three"),
        (["set", "a/B", "--note", "n", "--note", "m"], "three"),
        (["set", "a/B"], ""),
        (["set", "a/B"], b"\xff"),
        (["set", "a/B"], "a\0b"),
        (["set", "a/B"], "x" * 262_144),
        (["set", "a/B"], "x" * 262_145),
        (["set", "a"], "x"),
        (["set", "a", "B"], "x"),
        (["set", "a/B", "--generate=x"], ""),
        (["set", "a/B", "--generate", "x"], ""),
        (["set", "a/B", "--generate=²"], ""),
        (["set", "a/B", "--generate=0"], ""),
        (["set", "--generate", "a/B"], ""),
        (["set", "a/B", "--generate", "--value", "x"], ""),
    ]
]


@pytest.mark.long
@pytest.mark.slow
def test_fast_door_and_long_way_agree(vault: Machine) -> None:
    def state() -> object:
        return vault("get", "a", "--json", code=None).stdout

    differences = []
    for words, given in SAME:
        seen = []
        for command in ([AVAULT], CLICK):
            vault("delete", "a", code=None)
            vault.command = command
            done = vault(*words, input=given, code=None, timeout=60)
            vault.command = [AVAULT]
            seen.append((done.returncode, done.stdout, done.stderr, state()))
        if seen[0] != seen[1]:
            differences.append(f"{words} {given[:20]!r}\n  fast {str(seen[0])[:400]}\n  long {str(seen[1])[:400]}")
    assert not differences, "\n".join(differences)


# Terminals, pipes, closed streams


Answer = str | Callable[[str], None]


def in_terminal(machine: Machine, words: list[str], dialogue: list[tuple[str, Answer]], timeout: float = 120) -> tuple[str, int]:
    """Run a command on a terminal: for each prompt, type an answer or do something. What it showed, and the exit code."""
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(machine.top)
        os.execve(machine.command[0], [*machine.command, *words], machine.env)
    shown, end = b"", time.monotonic() + timeout
    rest = list(dialogue)
    try:
        while time.monotonic() < end:
            if rest and rest[0][0].encode() in shown:
                time.sleep(0.05)
                answer = rest.pop(0)[1]
                if callable(answer):
                    answer(shown.decode(errors="replace").replace("\r\n", "\n"))
                else:
                    os.write(fd, answer.encode())
            if select.select([fd], [], [], 0.1)[0]:
                try:
                    piece = os.read(fd, 4096)
                except OSError:  # the other side is gone (Linux)
                    break
                if not piece:
                    break
                shown += piece
        else:
            os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"{words} waits: {shown!r}")
    finally:
        os.close(fd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert not rest, f"never asked {rest}: {shown!r}"
    return shown.decode(), code


def test_a_locked_vault_asks_for_no_value(vault: Machine) -> None:
    vault("lock", "--force")
    shown, code = in_terminal(vault, ["set", "a/B"], [])
    assert code == 3 and "the vault is locked" in shown and "a/B:" not in shown


def test_prompt_without_echo(vault: Machine, canary) -> None:
    shown, code = in_terminal(vault, ["set", "a/B"], [("a/B: ", canary.value + "\n")])
    assert code == 0, shown
    assert canary.mark not in shown
    assert "kept a/B" in shown
    assert vault("get", "a/B", secret=True).stdout == canary.value + "\n"
    shown, code = in_terminal(vault, ["set", "a/C"], [("a/C: ", "\n")])
    assert code == 2
    assert "the value is empty" in shown
    shown, code = in_terminal(vault, ["set", "a/C"], [("a/C: ", "\x03")])
    assert code == 130
    assert "Traceback" not in shown
    vault("has", "a/C", code=4)


def shell(machine: Machine, script: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    env = {**machine.env, "A": AVAULT}
    return subprocess.run(
        ["bash", "-c", script], env=env, cwd=machine.top, check=False, capture_output=True, text=True, timeout=timeout
    )


def test_closed_streams(vault: Machine) -> None:
    """Descriptors 0 to 2 that are closed at the start: the socket must not take their place, nor errors go to stdout."""
    done = shell(vault, '"$A" get nothing 2>&-')
    assert (done.returncode, done.stdout) == (4, "")
    done = shell(vault, '"$A" daemon start -b 2>&-')
    assert (done.returncode, done.stdout) == (0, "")
    done = shell(vault, '"$A" get openai/API_KEY <&-')
    assert (done.returncode, done.stdout) == (0, "sk-1\n")
    done = shell(vault, '"$A" get openai/API_KEY >&-')
    assert done.returncode in (0, 1)
    done = shell(vault, '"$A" set a/B <&-')
    assert done.returncode == 2
    check_error(done.stderr)
    done = shell(vault, '"$A" lock <&-')
    assert done.returncode == 5
    check_error(done.stderr)
    assert shell(vault, '"$A" set a/B --generate <&- >&- 2>&-').returncode == 0
    assert shell(vault, '"$A" status <&- >&- 2>&-').returncode in (0, 1)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    "words", ["get openai/API_KEY", "list", "export --wait", "status", "status --json", "--help", "has openai --json"]
)
def test_full_disk_behind_stdout(vault: Machine, words: str) -> None:
    done = shell(vault, f'"$A" {words} >/dev/full')
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    check_error(done.stderr)


@pytest.mark.parametrize("words", ["get db", "export --wait", "list", "status", "--help"])
def test_reader_that_leaves(vault: Machine, words: str) -> None:
    vault("set", "db/BIG", input="x" * 200_000)
    done = shell(vault, f'"$A" {words} | true; echo "${{PIPESTATUS[0]}}"')
    assert done.stdout in ("0\n", "141\n")
    assert done.stderr == ""


def is_connected(pid: int) -> bool:
    """Whether a command has a socket; its own streams are pipes."""
    with contextlib.suppress(FileNotFoundError):  # one that it has closed meanwhile
        return any(os.readlink(each).startswith("socket:") for each in Path(f"/proc/{pid}/fd").iterdir())
    return False


@pytest.mark.starts  # a forked one has the sockets of who forks it, for a moment
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_interrupt(vault: Machine) -> None:
    vault("lock", "--force")
    running = vault.start("export", "--wait")
    wait_until(lambda: is_connected(running.process.pid))
    running.process.send_signal(signal.SIGINT)
    done = running.wait()
    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr


# Other ways to run it


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [[sys.executable, str(SOURCE)], [str(SOURCE)], [sys.executable, "-m", "avault"]], ids=" ".join
)
def test_ways_to_run(machine: Machine, command: list[str]) -> None:
    if command == [str(SOURCE)]:
        machine.env["PATH"] = f"{Path(sys.executable).parent}:{machine.env['PATH']}"
    machine.command = command
    machine.init_unproven()
    machine("set", "a/B", input="x")
    assert machine("get", "a/B").stdout == "x\n"
    assert machine("get", "a/B", "--json").json["value"] == "x"
    assert machine("status").stdout.startswith("Daemon: running")


@pytest.fixture
def bare(tmp_path: Path) -> list[str]:
    """avault.py under a Python that has none of its dependencies."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    copy = shutil.copy(SOURCE, tmp_path / "avault.py")
    python = tmp_path / "bare" / "bin" / "python3"
    assert subprocess.run([python, "-c", "import click"], check=False, capture_output=True).returncode == 1
    return [str(python), str(copy)]


@pytest.mark.slow
def test_python_without_the_dependencies(vault: Machine, bare: list[str]) -> None:
    keys = nostr_sdk.Keys.generate()
    vault.command = bare
    assert vault("get", "openai/API_KEY").stdout == "sk-1\n"
    assert vault("get", "nothing", code=4).stderr.startswith("avault: error: no group nothing\n")
    assert vault("status").stdout.startswith("Daemon: running")
    vault("daemon", "stop", "--force")
    wait_until(lambda: vault("status", code=None).returncode == 6)
    done = vault("daemon", "start", "-b", code=None)
    assert "the daemon listens" in done.stderr
    assert vault.status()["state"] == "unpaired"
    assert keys


@pytest.mark.slow
def test_python_without_the_dependencies_and_dir(vault: Machine, bare: list[str]) -> None:
    """The recorded interpreter is that of the vault that --dir names, in each of its forms."""
    vault.command = bare
    directory = str(vault.vault)
    for words in (
        ["--dir", directory, "status"],
        ["status", "--dir", directory],
        [f"--dir={directory}", "status"],
        ["status", f"--dir={directory}"],
    ):
        done = vault(*words, code=None, HOME=str(vault.top / "nowhere"))
        assert "no click" not in done.stderr, words


def test_python_without_the_dependencies_and_no_vault(machine: Machine, bare: list[str]) -> None:
    machine.command = bare
    done = subprocess.run([*bare, "status"], env=machine.env, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "avault: hint: pip install . in its folder" in done.stderr
    machine.command = [AVAULT]


@pytest.mark.slow
def test_warnings_as_errors(machine: Machine) -> None:
    strict = [sys.executable, "-W", "error", "-X", "dev"]
    machine.command = [*strict, str(SOURCE)]  # which is compiled each time
    machine("version")
    machine.command = [*strict, AVAULT]
    machine.init_unproven()
    for words in (
        ["set", "a/B"],
        ["get", "a/B"],
        ["get", "a/B", "--json"],
        ["list"],
        ["export", "--shell"],
        ["status"],
        ["has", "no"],
    ):
        done = machine(*words, input="x", code=None)
        assert "Warning" not in done.stderr, words
        assert done.returncode in (0, 4), words


def test_import_has_no_effects() -> None:
    script = "import sys; before = set(sys.modules); import avault; print(*sorted(set(sys.modules) - before - {'avault'}))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    heavy = {"click", "asyncio", "socket", "json", "nostr_sdk", "subprocess", "re", "typing", "keyring", "qrcode"}
    assert not heavy & set(done.stdout.split()), done.stdout


def test_fast_door_imports_only_what_is_built_in(vault: Machine) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", AVAULT, "get", "openai/API_KEY"],
        env=vault.env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "sk-1\n"
    names = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    after = set(names[names.index("site") + 1 :]) if "site" in names else set(names)
    heavy = {"click", "asyncio", "socket", "json", "nostr_sdk", "subprocess", "re", "typing", "enum", "functools"}
    assert not heavy & after, after


# Places that refuse


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_vault(vault: Machine) -> None:
    vault.vault.chmod(0o500)
    try:
        refuse(vault, "set", "a/B", code=1, input="x", says="cannot write")
        assert vault("get", "openai/API_KEY").stdout == "sk-1\n"
    finally:
        vault.vault.chmod(0o700)
    vault("set", "a/B", input="x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_state(machine: Machine) -> None:
    machine.state.chmod(0o500)
    try:
        refuse(machine, "init", "--signer-npub", machine.npub(), code=1, says="cannot make the directory")
        assert not (machine.vault / "avault.enc").exists()
    finally:
        machine.state.chmod(0o700)


def test_file_in_the_way(machine: Machine) -> None:
    (machine.home / "clawd").write_text("not a directory")
    refuse(machine, "init", "--signer-npub", machine.npub(), code=1, says="cannot make the directory")
    machine("status", code=4)
    machine("get", "a", code=4)
    (machine.home / "clawd").unlink()


def test_vault_that_vanishes(vault: Machine) -> None:
    """The loaded vault is served on; nothing is written where nothing is."""
    shutil.rmtree(vault.vault)
    assert vault("get", "openai/API_KEY").stdout == "sk-1\n"
    done = vault("set", "a/B", input="x", code=None)
    assert done.returncode != 0
    check_error(done.stderr)
    assert vault("status", code=None).stdout.startswith("Daemon: running")


@pytest.mark.slow
def test_no_tracebacks(vault: Machine) -> None:
    """Words in any order: an error of ours, or success; never a traceback or a failure that we did not foresee."""
    words = ["get", "set", "export", "--key", "--json", "--dir", "a/B", "", "=", "--", "-", "--shell", "--generate"]
    for first in words:
        for second in words:
            done = vault("--json", first, second, "a/B", input="x", code=None, timeout=60)
            assert done.returncode in (0, 2, 3, 4, 6), (first, second, done.stderr)
            assert "should not happen" not in done.stderr


# Other words for it


def test_key_as_a_word(vault: Machine) -> None:
    assert vault("get", "openai", "API_KEY").stdout == "sk-1\n"
    vault("has", "openai", "API_KEY")
    vault("has", "openai", "NOTHING", code=4)
    refuse(vault, "get", "openai/API_KEY", "API_KEY", code=2, says="the key is named twice")
    refuse(vault, "get", "openai", "API_KEY", "--key", "API_KEY", code=2, says="the key is named twice")
    vault("delete", "db", "HOST")
    vault("has", "db/HOST", code=4)
    vault("has", "db/PASSWORD")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ls openai", "avault list openai"),
        ("rm openai/API_KEY", "avault delete openai/API_KEY"),
        ("show openai/API_KEY", "avault get openai/API_KEY"),
        ("add openai/API_KEY", "avault set openai/API_KEY"),
        ("find", "avault list"),
        ("start", "avault daemon start -b"),
        ("restart", "avault daemon stop && avault daemon start -b"),
        ("rename a/B c/D", "avault mv a/B c/D"),
        ("unlok", "avault unlock"),
        ("daemon stat", "avault daemon sta"),
        ("service remove", "avault service "),
        ("xyzzy", "avault --help"),
    ],
)
def test_words_that_lead_to_a_command(vault: Machine, typed: str, meant: str) -> None:
    refuse(vault, *typed.split(), code=2, says="no such command", hint=meant)
    hint = vault("--dir", str(vault.vault), *typed.split(), code=2).stderr.rpartition("hint: ")[2]
    assert hint.startswith(f"avault --dir {vault.vault} ") or "--help" in hint or "daemon" in typed or "service" in typed
    vault("has", "openai/API_KEY")


def test_what_may_be_a_secret_is_not_repeated(vault: Machine, canary: Canary) -> None:
    for words in (["add", "openai/API_KEY", canary.value], ["add", canary.value], [canary.value]):
        done = vault("--dir", str(vault.vault), *words, code=2)  # what it prints is searched
        assert "avault: error: " in done.stderr


def test_help_and_version(machine: Machine) -> None:
    assert machine("help").stdout == machine("--help").stdout == avault.HELP
    for words in (["set"], ["daemon", "start"], ["run"]):
        assert machine("help", *words).stdout == machine(*words, "--help").stdout
    assert machine("version").stdout == machine("--version").stdout


@pytest.mark.parametrize("group", ["daemon", "service", "keychain", "openclaw"])
def test_group_without_a_command(machine: Machine, group: str) -> None:
    """Its own commands, and not the whole page."""
    text = machine(group, code=None).stdout + machine(group, "--help").stdout
    assert "usage: avault init" not in text and avault.HELP not in text
    names = [name for name in d.commands() if name.startswith(f"{group} ")]
    for name in names:
        assert f"usage: avault {'status' if name == 'daemon status' else name}" in text


def test_list_of_a_group(vault: Machine) -> None:
    assert vault("list", "db", "--names").stdout == "db/HOST\ndb/PASSWORD\n"
    assert vault("list", "openai").stdout.splitlines()[0] == "openai"
    assert "db" not in vault("list", "openai").stdout
    assert [group["name"] for group in vault("list", "--json", "openai", "db").json["groups"]] == ["db", "openai"]
    refuse(vault, "list", "nothing", code=4, says="no group nothing")


def test_mv(vault: Machine) -> None:
    before = {key["name"]: key for key in vault("list", "db", "--json").json["groups"][0]["keys"]}
    vault("mv", "db/HOST", "db/SERVER")
    assert vault("get", "db").stdout == "PASSWORD=p w\nSERVER=localhost\n"
    after = {key["name"]: key for key in vault("list", "db", "--json").json["groups"][0]["keys"]}
    assert after["SERVER"]["created"] == before["HOST"]["created"]
    vault("mv", "db/SERVER", "net")
    assert vault("get", "net/SERVER").stdout == "localhost\n"
    vault("mv", "db", "database")
    assert vault("list", "--names").stdout == "database/PASSWORD\nnet/SERVER\nopenai/API_KEY\n"
    assert vault("get", "database", "--json").json["note"] == "production"
    log = vault("log").stdout
    assert "move db/HOST, db/SERVER" in log and "move db/PASSWORD, database/PASSWORD" in log


def test_mv_replaces_nothing(vault: Machine) -> None:
    refuse(vault, "mv", "db/HOST", "db/PASSWORD", code=5, says="there is a db/PASSWORD already", hint="avault delete db/PASSWORD")
    refuse(vault, "mv", "db/HOST", "db/HOST", code=2, says="that is no move")
    refuse(vault, "mv", "db", "openai/API_KEY", code=2, says="that is no move")
    refuse(vault, "mv", "db/NOTHING", "db/HOST", code=4, says="no key NOTHING")
    refuse(vault, "mv", "nothing", "db", code=4, says="no group nothing")
    vault("set", "openai/HOST", input="other")
    refuse(vault, "mv", "db", "openai", code=5, says="there is a openai/HOST already")
    assert vault("get", "db").stdout == "HOST=localhost\nPASSWORD=p w\n", "whole, or not at all"


def test_short_status(vault: Machine) -> None:
    for words in (["status", "--short"], ["daemon", "status", "--short"]):
        assert vault(*words).stdout == "unlocked\n"
    vault("lock", "--force")
    assert vault("status", "--short", code=3).stdout == "unpaired\n"
    vault("daemon", "stop")
    assert vault("status", "--short", code=6).stdout == "stopped\n"
    assert vault("status", "--short", "--dir", "nowhere", code=4).stdout == "stopped\n"


def test_watched_status(vault: Machine) -> None:
    watching = vault.start("status", "--watch", "--short")
    watching.line("unlocked")
    vault("lock", "--force")
    watching.line("unpaired")
    watching.process.send_signal(signal.SIGINT)
    assert watching.wait().stdout == "unlocked\nunpaired"


def test_status_of_a_clone(vault: Machine, tmp_path: Path) -> None:
    """A vault that this machine has never opened: nothing that could ask the phone."""
    shutil.copytree(vault.vault, tmp_path / "clone", ignore=shutil.ignore_patterns("*.lock"))
    done = vault("status", "--dir", str(tmp_path / "clone"), code=6)
    assert f"Next: this machine has never opened this vault; open it with: avault --dir {tmp_path}/clone recover" in done.stdout
    doctor = vault("doctor", "daemon", "state", "--dir", str(tmp_path / "clone"), code=1).stdout
    assert doctor.count("recover\n") == 2 and "daemon start" not in doctor
