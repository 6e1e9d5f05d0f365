"""The repository is the skill: the reference validator takes it, the real OpenClaw lists it as ready, and what it says is so."""

import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import documents as d
import peers
import pytest
from canary import Canary
from harness import Machine
from openclaw_gateway import Claw, Model

import avault

pytestmark = pytest.mark.slow

SKILL = d.read("SKILL.md")
NOT_IN_A_CLONE = (".git", ".venv*", "__pycache__", "*.egg-info", "build", "dist", ".hypothesis", ".*_cache", "node_modules")


def check(command: list[str | Path], **settings: Any) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, **settings)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone named avault of this checkout as it is now, so that what git ignores is missing."""
    top = tmp_path_factory.mktemp("clone")
    shutil.copytree(d.ROOT, top / "checkout", ignore=shutil.ignore_patterns(*NOT_IN_A_CLONE))
    git = ["git", "-C", str(top / "checkout"), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    check([*git, "init", "-q"])
    check([*git, "add", "-A"])
    check([*git, "commit", "-q", "--no-gpg-sign", "-m", "all"])
    check(["git", "clone", "-q", top / "checkout", top / "avault"])
    return Path(top, "avault")


@pytest.fixture(scope="module")
def archive(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "skill.zip"
    check([sys.executable, clone / "scripts" / "skill_zip.py", path])
    return path


def unpack(archive: Path, into: Path) -> Path:
    """As people do it, with the modes that stand in it."""
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            opened.extract(entry, into)
            (into / entry.filename).chmod(entry.external_attr >> 16)
    return into / "avault"


def validate(skill: Path) -> None:
    """With the reference validator of the format."""
    check([Path(sys.executable).parent / "agentskills", "validate", skill])


# OpenClaw


@pytest.fixture
def claw(machine: Machine) -> Iterator[Claw]:
    """OpenClaw on a machine, with a workspace that has no skills yet."""
    with Model() as model:
        claw = Claw(machine, model)
        workspace_skills(claw).mkdir(parents=True)
        yield claw


def workspace_skills(claw: Claw) -> Path:
    return claw.state / "workspace" / "skills"


def ready(claw: Claw) -> str:
    """Where the skill avault is, as `openclaw skills` has it; it must be ready, with nothing missing."""
    info = claw("skills", "info", "avault", "--json").json
    assert info["eligible"] and info["modelVisible"] and info["userInvocable"], info
    assert not info["disabled"] and not info["always"] and not any(info["missing"].values()), info
    assert info["requirements"]["bins"] == ["python3"] and info["requirements"]["os"] == ["linux", "darwin"]
    return str(info["baseDir"])


@pytest.mark.timeout(600)
def test_clone(clone: Path, claw: Claw) -> None:
    """Cloned into skills/avault of the workspace."""
    skill = workspace_skills(claw) / "avault"
    check(["git", "clone", "-q", clone, skill])
    validate(skill)
    assert ready(claw) == str(skill)
    (listed,) = [each for each in claw("skills", "list", "--json").json["skills"] if each["name"] == "avault"]
    assert listed["eligible"] and listed["source"] == "openclaw-workspace"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("words", [["{}"], ["git:file://{}"], ["--global", "git:file://{}"]])
def test_install(clone: Path, claw: Claw, words: list[str]) -> None:
    """By OpenClaw itself, from a folder and from git; what it has put there works."""
    claw("skills", "install", *(word.format(clone) for word in words))
    skill = (claw.state / "skills" if "--global" in words else workspace_skills(claw)) / "avault"
    assert ready(claw) == str(skill)
    if words[0].startswith("git:"):  # as references/openclaw.md says it of a clone
        assert not {".git", ".venv"} & set(os.listdir(skill))
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # its python3 has the packages
    assert check([skill / "avault.py", "--version"], env=env) == f"avault {avault.__version__}\n"


@pytest.mark.timeout(600)
def test_archive_in_openclaw(archive: Path, claw: Claw) -> None:
    skill = unpack(archive, workspace_skills(claw))
    validate(skill)
    assert ready(claw) == str(skill)


# The archive

HOOK = {"hooks/avault-unlock/HOOK.md", "hooks/avault-unlock/handler.ts"}
TO_INSTALL = {
    "README.md",
    "MANIFEST.in",
    "pyproject.toml",
    "references/requirements.txt",
    "references/demo.svg",
    "scripts/avault",
    "scripts/amalgamate.py",
    "scripts/build.py",
}


def test_archive_is_the_skill(archive: Path, clone: Path) -> None:
    """Exactly these files: no test, no cache, nothing of git."""
    extras = {f"src/avault_extras/{path.name}" for path in (d.ROOT / "src" / "avault_extras").glob("*.py")}
    references = {name for name in d.documents() if name.startswith("references/")}
    wanted = {"SKILL.md", "LICENSE", "avault.py", *extras, *references, *HOOK, *TO_INSTALL}
    with zipfile.ZipFile(archive) as opened:
        entries = opened.infolist()
        assert {entry.filename for entry in entries} == {f"avault/{name}" for name in wanted}
        assert len(entries) == len(wanted)
        for entry in entries:
            assert opened.read(entry) == (clone / entry.filename.removeprefix("avault/")).read_bytes()


def test_archive_is_reproducible(archive: Path, clone: Path, tmp_path: Path) -> None:
    """From another place, with other times, modes and umask, the same bytes."""
    other = shutil.copytree(clone, tmp_path / "other", copy_function=shutil.copyfile)
    for path in other.rglob("*.md"):
        os.utime(path, (1, 1))
    check(["sh", "-c", 'umask 077; exec "$0" "$@"', sys.executable, other / "scripts" / "skill_zip.py", tmp_path / "again.zip"])
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    with zipfile.ZipFile(archive) as opened:
        names = [entry.filename for entry in opened.infolist()]
        assert names == sorted(names)
        programs = [entry.filename for entry in opened.infolist() if entry.external_attr >> 16 & stat.S_IXUSR]
        assert programs == ["avault/avault.py", "avault/scripts/avault"]


def test_archive_fails_without_a_part(clone: Path, tmp_path: Path) -> None:
    shutil.copytree(clone, tmp_path / "broken", ignore=shutil.ignore_patterns(".git", "HOOK.md"))
    done = subprocess.run([sys.executable, tmp_path / "broken/scripts/skill_zip.py", tmp_path / "x.zip"], capture_output=True)
    assert done.returncode != 0 and b"HOOK.md" in done.stderr


# What it says


def test_head() -> None:
    """What the validator and OpenClaw do not look at."""
    head, body = SKILL.removeprefix("---\n").split("\n---\n", 1)
    assert f'version: "{avault.__version__}"' in head
    description = re.search("^description: (.*)$", head, re.MULTILINE)
    assert description and len(description[1]) <= 200 and "Use when" in description[1]
    assert "relays" in head, "its use of the network is declared"
    assert len(body.splitlines()) < 120


def test_words() -> None:
    """Registries hold back skills that seem to handle other kinds of keys."""
    assert not re.findall(r"wallet|crypto(?!graph)|private key|nsec|seed phrase|blockchain", SKILL, re.IGNORECASE)


def test_every_command_has_its_place() -> None:
    """Each is in one row of the table: for any time, when asked, or for the operator alone."""
    rows = re.findall(r"^\| (any time|when the operator[^|]*|only the operator[^|]*) \| (.*) \|$", SKILL, re.MULTILINE)
    assert len(rows) == 3
    named = [words for _, cells in rows for words in re.findall("`([^`]+)`", cells)]
    assert len(named) == len(set(named))
    hidden = {name for name in d.commands() if name.startswith("git ")} | {"openclaw-provider", "openclaw unlock"}  # for programs
    hidden |= {name for name in d.commands() if name.startswith("wallet ")}  # see test_words
    assert {words for words in named if " -" not in words or words in d.commands()} | {
        "daemon start"
    } == d.commands().keys() - hidden
    dangerous = re.findall("`([^`]+)`", rows[2][1])
    assert {"init", "pair", "recover", "delete", "forget", "keychain enable", "daemon stop", "signer"} <= set(dangerous)
    assert {"migrate --remove", "unlock --accept-rollback", "run --no-mask"} <= set(dangerous)
    assert {"get", "export"} <= set(re.findall("`([^`]+)`", rows[1][1]))


def without_packages() -> str:
    """The interpreter of this virtual environment, without the environment."""
    python = os.path.realpath(sys.executable)
    lacks = subprocess.run([python, "-I", "-c", "import click, nostr_sdk"], capture_output=True)
    if not lacks.returncode:
        pytest.skip("the system's own Python has avault's dependencies")
    return python


def test_from_the_folder(clone: Path, machine: Machine, canary: Canary) -> None:
    """`python3 avault.py`, with a Python that has no packages: `init` has noted one that has them."""
    machine.init_unproven()
    machine("set", "openai/API_KEY", input=canary.value)
    agent = Machine(machine.top, command=[without_packages(), str(clone / "avault.py")])
    assert agent("list", "--names").stdout == "openai/API_KEY\n"
    agent("has", "openai/API_KEY")
    agent("status")
    done = agent("run", "--only", "openai/API_KEY", "--", "sh", "-c", 'echo "$API_KEY"')
    assert done.stdout == "<avault:openai/API_KEY>\n"


def test_from_the_folder_before_anything_is_set_up(clone: Path, machine: Machine) -> None:
    agent = Machine(machine.top, command=[without_packages(), str(clone / "avault.py")])
    done = agent("status", code=1)
    assert "this Python has no click or no nostr-sdk" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_install_from_the_archive(archive: Path, tmp_path: Path) -> None:
    """Its folder has what `pip install .` needs; the dependencies are those of every installation."""
    skill = unpack(archive, tmp_path)
    check(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path / "to", "."],
        cwd=skill,
        env=peers.ENVIRON,
    )
    installed = {path.name for path in (tmp_path / "to").iterdir() if path.suffix != ".dist-info"} - {"__pycache__"}
    assert installed == {"avault.py", "avault_extras", "avault_fast.py", "bin"}
