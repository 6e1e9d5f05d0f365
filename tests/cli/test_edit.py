"""`avault edit`: the value goes into an editor and back, and is at no time on a disk."""

import os
import signal
import stat
import sys
from pathlib import Path

import pytest
from canary import Canary
from harness import AVAULT, Machine, Screen, wait_until

import avault

pytestmark = [
    pytest.mark.usefixtures("forks"),
    pytest.mark.skipif(
        sys.platform != "linux" or not avault.is_in_memory("/dev/shm"), reason="there is no /dev/shm in memory here"
    ),
]


@pytest.fixture
def vault(machine: Machine, canary: Canary) -> Machine:
    machine.init_unproven()
    machine("set", "a/B", input=canary.value)
    return machine


def editor(machine: Machine, script: str) -> str:
    """A program that is called as an editor is: the file is "$1"."""
    path = machine.top / "editor"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return str(path)


def edit(machine: Machine, script: str, code: int = 0, name: str = "a/B") -> str:
    with Screen(machine, AVAULT, "edit", name, EDITOR=editor(machine, script)) as screen:
        return screen.wait(code).decode()


def test_edit(vault: Machine, canary: Canary) -> None:
    seen = vault.top / "seen"
    look = f'stat -f -c %T "$1" >{seen}; stat -c %a "$1" "${{1%/*}}" >>{seen}; echo "$1" "$TMPDIR" >>{seen}'
    assert "kept a/B" in edit(vault, f'{look}; printf "%s\\n" "$(cat "$1")-more" >"$1.new"; mv "$1.new" "$1"')
    assert vault("get", "a/B", secret=True).stdout == canary.value + "-more\n"
    kind, file_mode, mode, where = seen.read_text().splitlines()
    path, temporary = where.split()
    assert (kind, file_mode, mode, temporary) == ("tmpfs", "600", "700", os.path.dirname(path))
    assert not Path(temporary).exists()


@pytest.mark.slow
def test_what_is_written_back(vault: Machine, canary: Canary) -> None:
    before = canary.value + "\n"
    assert "unchanged: a/B" in edit(vault, ":")
    assert "the editor failed: nothing was written" in edit(vault, 'echo other >"$1"; exit 3', code=1)
    assert "the value is empty" in edit(vault, ': >"$1"', code=2)
    assert "the value is binary" in edit(vault, 'printf "\\377" >"$1"', code=2)
    assert "was changed by somebody else" in edit(vault, f'echo mine >"$1"; echo theirs | {AVAULT} set a/B', code=5)
    assert vault("get", "a/B").stdout == "theirs\n"
    assert "kept c/NEW" in edit(vault, 'test ! -s "$1" && echo new >"$1"', name="c/NEW")
    assert vault("get", "c/NEW").stdout == "new\n"
    assert before not in vault("list").stdout
    vault("set", "a/LINES", input="one\ntwo\n\n")
    edit(vault, 'sed -i s/two/three/ "$1"', name="a/LINES")
    assert vault("get", "a/LINES", "--json").json["value"] == "one\nthree\n"


def test_an_editor_that_is_left(vault: Machine) -> None:
    """The terminal goes, and the file with it; the value is as it was."""
    seen = vault.top / "seen"
    script = f'echo "$1" >{seen}.new; mv {seen}.new {seen}; exec sleep 60'
    with Screen(vault, AVAULT, "edit", "a/B", EDITOR=editor(vault, script)) as screen:
        wait_until(seen.exists)
        path = Path(seen.read_text().strip())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        os.kill(screen.process.pid, signal.SIGHUP)
        wait_until(lambda: not path.parent.exists())


def test_what_edit_refuses(vault: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "an editor needs a terminal" in vault("edit", "a/B", code=2).stderr
    assert "no key is named" in vault("edit", "a", code=2).stderr
    with Screen(vault, AVAULT, "edit", "a/B", EDITOR="no-such-editor") as screen:
        assert "no editor no-such-editor" in screen.wait(2).decode()
    monkeypatch.setattr(avault, "IN_MEMORY", ())  # as on a machine where everything is on a disk
    with pytest.raises(avault.Unavailable, match="no place that is only in memory"), avault.file_in_memory("x", b""):
        pass
    assert not avault.is_in_memory(str(vault.top)), "what is on a disk is told from what is not"
