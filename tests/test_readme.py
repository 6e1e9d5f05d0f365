"""The README does what it says: its transcript, its first command, and the metadata for `uv run avault.py`."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from harness import AVAULT, SOURCE, Machine, wait_until
from peers import local_relay, ndk

README = (SOURCE.parent / "README.md").read_text()


def transcript() -> list[tuple[str, list[str]]]:
    """The commands of the README's transcript, each with what it prints."""
    [block] = re.findall(r"<!-- transcript -->\n```console\n(.*?)```", README, re.DOTALL)
    return [(part.split("\n")[0], part.strip("\n").split("\n")[1:]) for part in block.split("$ ")[1:]]


def test_transcript(machine: Machine) -> None:
    """Line by line; the README leaves out lines of one machine (paths, npubs, warnings), and says nothing that is not so."""
    with local_relay() as relay, ndk([relay.url]) as phone:
        for command, lines in transcript():
            if command.startswith("avault init"):
                done = machine.operate(machine.start(*command.split()[1:], "--relay", relay.url), phone)
            elif command == "avault unlock":
                running = machine.start("unlock")
                phone.answer(phone.wait_for("ask")["id"], True)
                done = running.wait()
            else:
                env = {**machine.env, "PATH": f"{Path(AVAULT).parent}:{os.environ['PATH']}"}
                done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=60)
            printed = iter((done.stderr + "\n" + done.stdout).split("\n"))
            for line in lines:
                assert line in printed, f"{command}: {line!r} is not in, or not in this place of\n{done.stderr}{done.stdout}"


def test_demo_with_yes(machine: Machine) -> None:
    done = machine("demo", "--yes", timeout=120)
    for step in ("1. A vault", "2. Secrets", "3. Lock", "4. Unlock", "5. A shell", "6. A refusal", "Done"):
        assert f"== {step}" in done.stdout
    assert "the drill passed" in done.stderr and "exit code 5" in done.stdout
    assert "the shell has an API_KEY of 18 characters" in done.stdout
    [home] = re.findall(r"Everything was in (\S+), and is gone", done.stdout)
    assert not Path(home).exists()


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
            os.write(terminal, answers.pop(0).encode() + b"\n")
        return False

    wait_until(read, 120, "the end of the demo")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, seen.decode(errors="replace")
    assert not answers and b"== Done" in seen


def test_demo_without_a_terminal(machine: Machine) -> None:
    assert "avault demo --yes" in machine("demo", code=2).stderr


def test_script_metadata() -> None:
    """PEP 723: `uv run avault.py` gets what the package gets."""
    project = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text())["project"]
    [block] = re.findall(r"^# /// script\n(.*?)^# ///\n", SOURCE.read_text(), re.DOTALL | re.MULTILINE)
    metadata = tomllib.loads(block.replace("# ", ""))
    assert metadata == {"requires-python": project["requires-python"], "dependencies": project["dependencies"]}


def test_door_is_the_top_of_the_file() -> None:
    """What the build cuts out has all that a daily command needs, and imports nothing."""
    sys.path.insert(0, str(SOURCE.parent / "scripts"))
    try:
        from door import END
    finally:
        del sys.path[0]
    top, found, _ = SOURCE.read_text().partition(END)
    assert found
    names: dict[str, object] = {"__name__": "avault_door"}
    exec(compile(top, "avault_door", "exec"), names)
    assert names["fast_door"](["status"]) is None  # type: ignore[operator]
