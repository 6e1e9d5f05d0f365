"""avault.py alone, in an empty directory, under a Python that has its five packages and no avault: it is the whole tool."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import git_helpers
import nostr_sdk
import pytest
from canary import Canary
from harness import SOURCE, Machine
from packaging.requirements import Requirement
from peers import Rogue
from test_keychain import MISSING, Desktop

import avault

PACKAGES = ("nostr-sdk", "click", "qrcode", "pillow", "keyring")


def closure(names: tuple[str, ...]) -> Iterator[importlib.metadata.Distribution]:
    """The distributions of those names, and what they need."""
    wanted, seen = list(names), set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        found = importlib.metadata.distribution(name)
        yield found
        needs = map(Requirement, found.requires or ())
        wanted += [each.name for each in needs if each.marker is None or each.marker.evaluate({"extra": ""})]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A python3 that has these packages, and what they need, and nothing else."""
    top = tmp_path_factory.mktemp("lone") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", top], check=True)
    (site,) = top.glob("lib/python3*/site-packages")
    pieces = {str(each.locate_file(path.parts[0])) for each in closure(PACKAGES) for path in each.files or ()}
    for piece in pieces:
        if Path(piece).name not in ("..", "__pycache__"):
            (site / Path(piece).name).symlink_to(piece)
    python = top / "bin" / "python3"
    assert subprocess.run([python, "-P", "-c", "import avault"], capture_output=True).returncode, "there is another avault"
    return python


@pytest.fixture
def lone(place, python: Path) -> Iterator[Machine]:
    """A machine whose avault is a copy of the file, and nothing beside it."""
    directory = place.top / "alone"
    directory.mkdir()
    copy = shutil.copy(SOURCE, directory / "avault.py")
    with Machine(place.top, command=[str(python), str(copy)]) as machine:
        machine.env["PATH"] = f"{python.parent}:/usr/local/bin:/usr/bin:/bin"
        yield machine
    assert not {path.name for path in directory.iterdir()} - {"avault.py", "__pycache__"}


def type_line(machine: Machine, line: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A line of shell, as it is typed in the directory of the copy."""
    there = Path(machine.command[1]).parent
    done = subprocess.run(["sh", "-c", line], cwd=there, env=machine.env, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, (line, done)
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.long
@pytest.mark.slow
def test_what_people_type(lone: Machine, rogue: Rogue, canary: Canary, allow) -> None:
    """Word for word, as people do who know the tool from elsewhere."""
    key, url = f"sk-{canary.new('key')}", f"postgres://a:{canary.new('url')}@db/x"
    allow(lone.home / ".profile").write_text(f"export ANTHROPIC_API_KEY={canary.new('profile')}\n")
    npub = nostr_sdk.PublicKey.parse(rogue.user).to_bech32()
    type_line(lone, f"python3 avault.py init --signer-npub {npub}")
    lone("pair", "--bunker", "-", "--no-drill", input=rogue.uri)  # else `daemon stop` asks, as nothing would open it again
    type_line(lone, f'python3 avault.py set openai --key API_KEY --value {key} --note "GPT-4 access"')
    lone("set", "database/URL", input=url)
    type_line(lone, "python3 avault.py migrate")
    type_line(lone, "python3 avault.py daemon start")
    listed = type_line(lone, "python3 avault.py list").stdout
    assert "GPT-4 access" in listed and "ANTHROPIC_API_KEY" in listed and "database" in listed
    assert type_line(lone, "python3 avault.py get openai --key API_KEY").stdout == key + "\n"
    assert url in type_line(lone, "python3 avault.py get database").stdout
    line = 'eval $(python3 avault.py export --shell); printf %s "$API_KEY"'
    assert type_line(lone, line).stdout == key
    assert ".profile" in type_line(lone, "python3 avault.py audit", code=1).stdout
    type_line(lone, "python3 avault.py unlock")
    type_line(lone, "python3 avault.py delete database")
    assert "unlocked" in type_line(lone, "python3 avault.py daemon status").stdout
    type_line(lone, "python3 avault.py daemon stop")
    assert lone.status()["state"] == "stopped"


@pytest.mark.long
@pytest.mark.slow
def test_a_day(lone: Machine, canary: Canary) -> None:
    """Each command of the README's table that asks nobody."""
    lone.init_proven()
    lone("set", "openai/API_KEY", input=canary.value)
    lone("mv", "openai/API_KEY", "lab/API_KEY")
    lone("has", "lab/API_KEY")
    assert lone("run", "--only", "API_KEY", "--", "sh", "-c", 'echo "$API_KEY"').stdout == "<avault:lab/API_KEY>\n"
    assert lone("inject", input="x avault://lab/API_KEY\n", secret=True).stdout == f"x {canary.value}\n"
    lone("wait")
    assert "lab/API_KEY" in lone("log").stdout
    lone("scan", str(lone.home / "clawd"))
    lone("status")
    for shell in ("bash", "zsh", "fish"):
        assert "avault" in lone("completion", shell).stdout
    for words in (["help"], ["help", "set"], ["version"], ["--version"], ["openclaw", "--help"], ["service", "--help"]):
        assert lone(*words).stdout
    found = {each["name"] for each in lone("doctor", "--offline", "--json", code=None).json["checks"]}
    assert {"vault", "state", "git"} <= found
    lone("keychain", "status", code=None)
    assert "asks: " in lone("demo", "--yes", timeout=120).stdout


@pytest.mark.slow
def test_git(lone: Machine, canary: Canary) -> None:
    """Each write is committed, and published."""
    git_helpers.make(lone)
    remote = lone.top / "remote.git"
    git_helpers.git(lone, "init", "-q", "--bare", str(remote))
    git_helpers.git(lone, "init", "-q")
    git_helpers.git(lone, "remote", "add", "origin", str(remote))
    git_helpers.put(lone, "a/B", canary.value)
    git_helpers.recorded(lone)
    git_helpers.git(lone, "push", "-q", "-u", "origin", "main")
    git_helpers.put(lone, "a/C", canary.value)
    lone("sync")
    assert "added" in lone("history", "--json").stdout
    assert git_helpers.git(lone, "ls-remote", "origin")
    git_helpers.stop(lone)


@pytest.mark.skipif(sys.platform != "linux", reason="gnome-keyring is Linux's")
@pytest.mark.skipif(bool(MISSING), reason=f"no {' and no '.join(MISSING)}")
def test_keychain(lone: Machine, place, rogue: Rogue) -> None:
    """It opens the vault without the phone, by the package keyring."""
    with Desktop(place.top) as desktop:
        desktop.login()
        lone.env["DBUS_SESSION_BUS_ADDRESS"] = desktop.address
        lone("init", "--name", "test@machine", "--no-drill", "--bunker", "-", input=rogue.uri)
        lone("keychain", "enable", "--yes")
        asked = len(rogue.requests("nip44_decrypt"))
        lone("daemon", "stop")
        lone("daemon", "start", "-b")
        assert lone.wait_state("unlocked")["custodians"] == ["keychain", "phone"]
        assert len(rogue.requests("nip44_decrypt")) == asked
        lone("daemon", "stop")


@pytest.mark.slow
def test_the_command_that_needs_more_says_so(lone: Machine) -> None:
    done = lone("mcp", code=6)
    assert "avault_extras/mcp.py is not beside " in done.stderr and "pip install '.[mcp]'" in done.stderr


@pytest.mark.slow
def test_no_version_takes_the_others_parts(lone: Machine, place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed in the same Python is another's; and so is what lies in a directory on the way to it."""
    strange = place.top / "strange" / "avault_extras"
    strange.mkdir(parents=True)
    (strange / "__init__.py").touch()
    (strange / "mcp.py").write_text("raise SystemExit('taken')\n")
    (strange.parent / "avault_fast.py").write_text("raise SystemExit('taken')\n")
    for words in (["mcp"], ["status"], ["get", "a/B"]):
        done = lone(*words, code=None, PYTHONPATH=str(strange.parent))
        assert "taken" not in done.stdout + done.stderr
    beside = Path(lone.command[1]).parent / "src" / "avault_extras"
    beside.mkdir(parents=True)
    (beside / "mcp.py").write_text("raise SystemExit('its own')\n")
    assert "its own" in lone("mcp", code=None).stderr, "the control"
    shutil.rmtree(beside.parent)
    installed = Path(avault.__file__).parent
    assert os.path.realpath(installed / "avault_extras" / "mcp.py") != os.path.realpath(SOURCE.parent / "src")
