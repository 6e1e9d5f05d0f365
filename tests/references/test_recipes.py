"""references/recipes.md: what can be run of it does what it says."""

import re
import subprocess

import documents as d
import pytest
from harness import Machine, wait_until

pytestmark = pytest.mark.usefixtures("forks")

TEXT = d.read("references/recipes.md")
NOTIFY = dict(re.findall(r"<!-- notify: (\w+) -->\n```sh\n(.*?)\n```", TEXT, re.DOTALL))
SAYS = {
    "ntfy": "test@machine waits for your phone",
    "telegram": "test@machine waits for your phone",
    "mail": "test@machine is waiting",
}


@pytest.mark.parametrize("name", sorted(NOTIFY))
def test_notify(proven: Machine, rogue, name: str) -> None:
    """The daemon runs it, with programs that only note how they are called; a phone that does not answer is waited for."""
    rogue.behave("nip44_decrypt", [{"do": "silence"}])
    called = proven.top / "called"
    for program in ("curl", "mail"):
        path = proven.home / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>{called}\n')
        path.chmod(0o700)
    usual = proven.env["PATH"]
    proven("daemon", "start", "-b", "--notify", NOTIFY[name], PATH=f"{proven.home / 'bin'}:{usual}")
    wait_until(lambda: called.exists() and SAYS[name] in called.read_text(), what=f"the message of {name}")


def test_every_notify_is_tried() -> None:
    assert NOTIFY.keys() == SAYS.keys()
    assert f"--notify '{NOTIFY['ntfy']}'" in TEXT


def test_direnv(machine: Machine) -> None:
    [script] = re.findall(r"## direnv\n.*?```sh\n(.*?)```", TEXT, re.DOTALL)
    machine.init_unproven()
    machine("set", "web/API_KEY", input="it's one\n")

    def source() -> str:
        done = subprocess.run(
            ["sh", "-c", f'{script}\nprintf "<%s>" "$API_KEY"'], env=machine.env, check=False, capture_output=True, text=True
        )
        return done.stdout

    assert source() == "<it's one>"
    machine("lock", "--force")
    assert source() == "<>"
