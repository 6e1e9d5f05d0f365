"""The README is short, has what a newcomer looks for, and does what it says: its transcript, its picture, the demo."""

from __future__ import annotations

import ast
import os
import pty
import re
import runpy
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import documents as d
import pytest
from amalgamate import fast_part
from harness import AVAULT, SOURCE, Machine, Screen, wait_until
from peers import local_relay, ndk
from test_processes import is_alive

import avault

README = (SOURCE.parent / "README.md").read_text()


# What is in it


def test_it_is_short() -> None:
    assert len(README.split()) <= 900


@pytest.mark.parametrize(
    "words",
    [
        "\n    python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/avault demo\n",
        "\n    python3 -m venv .venv && .venv/bin/pip install -q '.[test]' && .venv/bin/pytest -q\n",
        "\n    uv tool install .",
        "\n    uv run avault.py",
        "`eval $(avault export --shell)`",
        "[skill](SKILL.md)",
        "`avault service install`",
        "`avault openclaw install` adds a gateway hook",
        "**Let it ask for every request.**",
        f"This is version {avault.__version__}:",
    ],
)
def test_what_a_newcomer_looks_for(words: str) -> None:
    assert README.count(words) == 1


def test_what_it_does_not_protect_against_comes_early() -> None:
    headings = d.headings(README)
    assert headings.index("What it does not protect against") <= 3
    assert len(README.partition("## A day")[0].splitlines()) <= 48, "two screens of a terminal"


def test_ten_commands() -> None:
    [block] = re.findall(r"## Ten commands\n\n((?: {4}avault .*\n)+)", README)
    named = [name for name, _ in d.calls(block)]
    assert len(set(named)) == 10 == len(block.splitlines()) and set(named) <= d.commands().keys()


def test_picture() -> None:
    """It is what the script draws of the demo in screens.md; and that is the real one, see test_demo_at_a_terminal."""
    drawn = runpy.run_path(str(SOURCE.parent / "scripts" / "picture.py"))
    assert drawn["PICTURE"].read_text() == drawn["picture"](), "stale: python scripts/picture.py"
    assert "![" in README and f"]({drawn['PICTURE'].relative_to(SOURCE.parent)})" in README


@pytest.mark.parametrize("lacks", ["avault: unlocked", "clawd@demo asks: "])
def test_picture_of_another_demo(lacks: str) -> None:
    """A line that it shows and the demo has not is an error."""
    drawn = runpy.run_path(str(SOURCE.parent / "scripts" / "picture.py"))
    with pytest.raises(ValueError, match="the demo"):
        drawn["chosen"]([line for line in drawn["demo"]() if not line.startswith(lacks)])


# What it says


def transcript(name: str = "transcript") -> list[tuple[str, list[str]]]:
    """The commands of the README's transcript, each with what it prints."""
    [block] = re.findall(rf"<!-- {name} -->\n```console\n(.*?)```", README, re.DOTALL)
    return [(part.split("\n")[0], part.strip("\n").split("\n")[1:]) for part in block.split("$ ")[1:]]


CODE = r"on [\w-]+@[\w-]+, code \w{4}"


@pytest.mark.slow
def test_transcript(machine: Machine) -> None:
    """Line by line; the README leaves out lines of one machine (paths, npubs, warnings), and says nothing that is not so."""
    with local_relay() as relay, ndk([relay.url]) as phone:
        for command, lines in transcript():
            if command.startswith("avault init"):
                done = machine.operate(machine.start(*command.split()[1:], "--yes", "--relay", relay.url), phone)
            elif command == "avault unlock":
                running = machine.start("unlock")
                phone.answer(phone.wait_for("ask")["id"], True)
                done = running.wait()
            else:
                env = {**machine.env, "PATH": f"{Path(AVAULT).parent}:{os.environ['PATH']}"}
                done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=60)
            said = re.sub(r"code \w{4}", "code 7K3F", re.sub(CODE, "on alice@db1, code 7K3F", done.stderr + "\n" + done.stdout))
            printed = iter(said.split("\n"))
            for line in lines:
                assert line in printed, f"{command}: {line!r} is not in, or not in this place of\n{done.stderr}{done.stdout}"


@pytest.mark.slow
def test_return_on_another_machine(machine: Machine) -> None:
    """The same, of a vault that relays keep, on a machine that has nothing."""
    limit = {"max_reqs": 100, "notes_per_minute": 1000}
    with local_relay(rate_limit=limit) as one, local_relay(rate_limit=limit) as other, ndk([one.url]) as phone:
        machine.operate(machine.start("init", "--yes", "--name", "clawd@db1", "--relay", one.url), phone)
        machine("set", "openai/API_KEY", input="sk-1234567890")
        machine("replica", "add", one.url, other.url, "--yes")
        profile = machine("replica", "status", "--json").json["nprofile"]
        with Machine(machine.top / "new") as new:
            [recover, *rest] = transcript("return")
            words = [profile if word == "nprofile1…" else word for word in recover[0].split()[1:]]
            phone.policy("ask")
            running = new.start(*words, "--no-drill", "--relay", one.url)
            phone.nostrconnect(running.line("nostrconnect://"))
            running.line("avault: 1. APPROVE")
            phone.answer(phone.wait_for("ask")["id"], True)
            said = running.wait().stderr
            said = re.sub(r"code \w{4}", "code 7K3F", re.sub(r"from \S+@\S+;", "from alice@db1;", said))
            said = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "2026-01-31T12:00:00Z", said)
            printed = iter(said.split("\n"))
            for line in recover[1]:
                assert line in printed, f"{line!r} is not in, or not in this place of\n{said}"
            for command, lines in rest:
                assert new(*command.split()[1:], secret=True).stdout.splitlines() == lines


@pytest.mark.slow
@pytest.mark.long
def test_demo_with_yes(machine: Machine) -> None:
    done = machine("demo", "--yes", timeout=120)
    for step in ("1. A vault", "2. Secrets", "3. Lock", "4. Unlock", "5. A shell", "6. A refusal", "Done"):
        assert f"== {step}" in done.stdout
    assert "the drill passed" in done.stderr and "exit code 5" in done.stdout
    assert "the shell has an API_KEY of 18 characters" in done.stdout
    [home] = re.findall(r"Everything was in (\S+), and is gone", done.stdout)
    assert not Path(home).exists()


WRITE = "AVAULT_TEST_WRITE" in os.environ  # a test gets another environment
SCREENS = SOURCE.parent / "references" / "screens.md"
VARIES = {
    r"as [0-9a-f]{8}…[0-9a-f]{8} or npub1\w+…\w+": "as 01234567…89abcdef or npub1……",
    r"npub1\w+": "npub1…",
    r"[0-9a-f]{64}": "…",
    r"secret=[0-9a-f]+": "secret=…",
    r"/[\w./-]*/avault-demo-\w+": "/tmp/avault-demo-…",
    r"avault1-[\w-]{16}": "avault1-…",
    r"(127\.0\.0\.1(:|%3A))\d+": r"\1…",
    r"PID \d+": "PID …",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ": "2026-01-01T00:00:00Z",
    CODE: "on USER@HOST, code 7K3F",
    r", code \w{4}": ", code 7K3F",
    r"(nostrconnect://)\S+…": r"\1…",
    r"(?m)^[ \u00a0█▀▄]+\n": "",
    r"(?m)^.*(is waited for|the system clock).*\n": "",  # of machines without NTP
    r"(?m)^avault: connecting to 1 relay\n": "",  # in an unlock only where that takes a while
    r"(?m)^avault: warning: it was refused within .*\n": "",  # on a busy machine what is asked is shown late
}


def steady(text: str) -> str:
    """A screen without what differs from run to run."""
    for pattern, replacement in VARIES.items():
        text = re.sub(pattern, replacement, text)
    return text


def pieces(text: str) -> list[str]:
    """The lines of a screen, sorted: two programs write to it, and who is first is chance."""
    lines = re.split(r"\n|(?<=\[y/n\] )", text)
    return sorted(line.strip() for line in lines if line.strip())


def shown(name: str, screen: str) -> str:
    """The screen of that name in the document; with AVAULT_TEST_WRITE=1 it is written there first."""
    pattern = rf"(<!-- screen: {name} -->\n```\n).*?(```\n<!-- /screen -->)"
    if WRITE:
        text = re.sub(
            pattern, lambda found: found[1] + screen.strip("\n") + "\n" + found[2], SCREENS.read_text(), flags=re.DOTALL
        )
        SCREENS.write_text(text)
    [block] = re.findall(pattern.replace(").*?(", ")(.*?)("), SCREENS.read_text(), re.DOTALL)
    return str(block[1])


@pytest.mark.slow
def test_demo_at_a_terminal(machine: Machine) -> None:
    """A person answers y, n, y, n when asked."""
    answers = list("ynyn")
    child, terminal = pty.fork()
    if child == 0:
        os.execve(AVAULT, [AVAULT, "demo"], machine.env)
    seen = b""

    def read() -> bool:
        nonlocal seen
        try:
            seen += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            return True
        if answers and seen.count(b"approve? [y/n] ") > 4 - len(answers):
            time.sleep(avault.NOBODY_ASKED)  # a person reads
            os.write(terminal, answers.pop(0).encode() + b"\n")
        return False

    wait_until(read, 120, "the end of the demo")
    text = seen.decode().replace("\r\n", "\n")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, text
    assert not answers
    assert re.findall(r"approve\? \[y/n\] (.*)", text) == list("ynyn"), "nothing is said into a question"
    screen = steady(text)
    assert pieces(shown("demo", screen)) == pieces(screen)


@pytest.mark.slow
def test_demo_that_is_left(machine: Machine) -> None:
    """What is neither yes nor no is asked again; no QR code is missed; and with its terminal all of the demo goes."""
    with Screen(machine, AVAULT, "demo", columns=120) as screen:
        screen.expect(r"approve\? \[y/n\] ")
        screen.type("maybe\n")
        screen.expect(r"approve\? \[y/n\] ")
        assert b"rejected" not in screen.shown and b"QR code needs" not in screen.shown
        [home] = {Path(os.fsdecode(each)) for each in re.findall(rb"(\S+avault-demo-\w+)", screen.shown)}
        daemon = int((home / "avault.pid").read_text())
        screen.close()
        wait_until(lambda: not home.exists() and not is_alive(daemon), what="the end of the demo")


@pytest.mark.parametrize(("lines", "columns", "fits"), [(24, 80, False), (60, 40, False), (60, 80, True)])
@pytest.mark.slow
def test_qr_code_and_the_size_of_the_terminal(machine: Machine, relay, lines: int, columns: int, fits: bool) -> None:
    """It is shown where all of it can be seen, and else as soon as it can."""
    block = "▀" * 40
    words = ["init", "--relay", relay.url, "--name", "x"]
    with Screen(machine, AVAULT, *words, lines=lines, columns=columns) as screen:
        if fits:
            screen.expect(block)
        else:
            screen.expect(rf"the QR code needs \d+ columns and \d+ lines, and here are {columns} and {lines}")
            assert not re.search(block, screen.shown.decode(errors="replace"))
            screen.resize(60, 100)
            os.kill(screen.process.pid, signal.SIGWINCH)
            screen.expect(block)
        screen.type("\x03")
        assert b"avault: stopped; nothing was made" in screen.wait(130)
    assert not machine.vault.parent.exists() and not list(machine.state.rglob("avault*")), "no empty directories"


def test_qr_code() -> None:
    """On a terminal, in half blocks, dark on light."""
    uri = avault.nostrconnect_uri("ab" * 32, ["wss://relay.example.com"], "cd" * 16, "clawd@db1")
    code = "\n".join(avault.qr_lines(uri))
    assert shown("qr", code).strip() == code.strip()


def test_demo_without_a_terminal(machine: Machine) -> None:
    assert "avault demo --yes" in machine("demo", code=2).stderr


def test_script_metadata() -> None:
    """PEP 723: `uv run avault.py` gets what the package gets, and the keychain."""
    project = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text())["project"]
    [block] = re.findall(r"^# /// script\n(.*?)^# ///\n", SOURCE.read_text(), re.DOTALL | re.MULTILINE)
    metadata = tomllib.loads(block.replace("# ", ""))
    needed = project["dependencies"] + project["optional-dependencies"]["keychain"]
    assert metadata == {"requires-python": project["requires-python"], "dependencies": needed}


def test_what_answers_daily_commands_is_the_top_of_the_file() -> None:
    """What the build cuts out has all that a daily command needs, and imports nothing."""
    top = fast_part(SOURCE.read_text())
    about = ast.get_docstring(ast.parse(top), clean=False) or ""  # each room has a line in it, and costs nothing
    assert SOURCE.read_text().startswith(top) and len(top) - len(about) < 42_000
    names: dict[str, object] = {"__name__": "avault_fast"}
    exec(compile(top, "avault_fast", "exec"), names)
    assert names["fast_door"](["status"]) is None  # type: ignore[operator]
