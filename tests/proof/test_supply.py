"""What avault is made of: dependencies by their hashes, a release made twice, an installation compared with it."""

import importlib.metadata
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import documents as d
import figures
import peers
import pytest
from packaging.requirements import Requirement
from test_skill import NOT_IN_A_CLONE, check

import avault

pytestmark = [pytest.mark.proof, pytest.mark.slow, pytest.mark.timeout(figures.pick(300, 7200))]

PINNED = d.ROOT / "references" / "requirements.txt"
PLATFORMS = [  # tags as pip takes them: of Linux each by itself, of macOS with all before it
    *[[f"manylinux_2_28_{cpu}", f"manylinux_2_17_{cpu}"] for cpu in ("x86_64", "aarch64")],
    ["macosx_11_0_arm64"],
    ["macosx_11_0_x86_64"],
]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


def pinned() -> dict[str, tuple[str, list[str]]]:
    """By name: the version, and the hashes."""
    found = re.findall(r"^([a-z0-9-]+)==(\S+) \\\n((?:    --hash=\S+(?: \\)?\n)+)", PINNED.read_text(), re.MULTILINE)
    return {name: (version, re.findall(r"--hash=sha256:([0-9a-f]{64})\b", rest)) for name, version, rest in found}


def declared() -> list[str]:
    return list(tomllib.loads(d.read("pyproject.toml"))["project"]["dependencies"])


def script(name: str) -> str:
    """The commands of security.md under that name."""
    found = re.search(rf"<!-- supply: {name} -->\n```sh\n(.*?)```", d.read("references/security.md"), re.DOTALL)
    assert found
    return found[1]


def sh(text: str, directory: Path, code: int = 0) -> str:
    """Run it in a shell, as a reader would, with the settings for pip that who runs the tests has."""
    words = ["sh", "-ec", text.replace("python3 -m venv", f"{sys.executable} -m venv")]
    done = subprocess.run(words, cwd=directory, env=peers.ENVIRON, capture_output=True, text=True)
    assert done.returncode == code, f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout + done.stderr


# The dependencies


def test_one_list_of_dependencies() -> None:
    """pyproject.toml, the head of avault.py and requirements.txt: the same packages, and versions that fit."""
    head = re.search(r"^# /// script\n(.*?)^# ///$", d.read("avault.py"), re.DOTALL | re.MULTILINE)
    assert head
    inline = tomllib.loads(re.sub("^# ?", "", head[1], flags=re.MULTILINE))
    project = tomllib.loads(d.read("pyproject.toml"))["project"]
    needed = [*declared(), *project["optional-dependencies"]["keychain"]]
    assert inline == {"requires-python": project["requires-python"], "dependencies": needed}
    wanted, closure = [Requirement(each) for each in declared()], set()
    while wanted:
        need = wanted.pop()
        if (need.marker is None or need.marker.evaluate({"extra": ""})) and need.name not in closure:
            version, hashes = pinned()[need.name]
            assert version in need.specifier and hashes
            closure.add(need.name)
            wanted += [Requirement(each) for each in importlib.metadata.requires(need.name) or []]
    assert closure == pinned().keys(), "what nothing needs"
    assert PINNED.read_text().count("--hash=") == sum(len(hashes) for _, hashes in pinned().values()), "a line that was not read"


def test_the_command_that_renews_it() -> None:
    """What stands in the document is what was run."""
    assert script("renew").splitlines()[0].replace(" --upgrade", "") == PINNED.read_text().splitlines()[1].strip("# ")


def pip(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pip", *words], env=peers.ENVIRON, capture_output=True, text=True)


def test_every_supported_platform(tmp_path: Path) -> None:
    """Each has a wheel among the hashes, on each Python; in every run only this one's (see below)."""
    count = 0
    for platform in figures.pick([], PLATFORMS):
        tags = [word for tag in platform for word in ("--platform", tag)]
        for python in PYTHONS:
            words = ["--only-binary", ":all:", "-r", PINNED, "--python-version", python, *tags]
            done = pip("download", "-q", "--require-hashes", *words, "-d", tmp_path / f"{platform[0]}-{python}")
            assert done.returncode == 0, f"{platform}, {python}: {done.stderr[-1000:]}"
            count += 1
    figures.at_least("platforms and Pythons whose dependencies all have a pinned wheel", count)


def test_a_file_with_another_hash_is_not_installed(tmp_path: Path) -> None:
    wrong = tmp_path / "requirements.txt"
    version, hashes = pinned()["click"]
    wrong.write_text(f"click=={version} --hash=sha256:{'0' * 64}\n")
    done = pip("download", "-q", "--no-deps", "--require-hashes", "-r", wrong, "-d", tmp_path / "to")
    assert done.returncode and "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr and not list(tmp_path.glob("to/*"))
    wrong.write_text(f"click=={version} --hash=sha256:{hashes[0]} --hash=sha256:{hashes[-1]}\n")
    assert pip("download", "-q", "--no-deps", "--require-hashes", "-r", wrong, "-d", tmp_path / "to").returncode == 0


# The release, from its making to its use; one test, as each step needs those before

STRAYS = ("build/lib/avault.py", "scripts/avault_stray.txt", "hooks/avault-unlock/notes.md", "avault.egg-info/SOURCES.txt")


@pytest.mark.long
def test_a_release(tmp_path: Path) -> None:
    release, again = make_twice(tmp_path)
    look_at_the_bytes(release, again)
    look_at_the_sums(release)
    look_at_the_source_archive(release, tmp_path / "unpacked")
    here = Path(shutil.copytree(release, tmp_path / "here"))
    said = sh(script("install"), here)
    assert "FAILED" not in said and "avault.py: OK" in said and ".whl: OK" in said
    look_at_the_packages(here)
    (site,) = here.glob(".venv/lib/python3*/site-packages")
    change_each_file(here, site)
    plant_a_compiled_file(here, site / "avault.py", tmp_path / "avault.py")


def make_twice(top: Path) -> list[Path]:
    """A release; and another from a copy of the sources with other times, modes, umask and files about."""
    source = shutil.copytree(d.ROOT, top / "source", ignore=shutil.ignore_patterns(*NOT_IN_A_CLONE))
    other = shutil.copytree(source, top / "elsewhere", copy_function=shutil.copyfile)
    for path in other.rglob("*.py"):
        os.utime(path, (1, 1))
    for stray in STRAYS:
        (other / stray).parent.mkdir(parents=True, exist_ok=True)
        (other / stray).write_text("not released")

    def make(source: Path, umask: str) -> Path:
        words = f'umask {umask}; exec "{sys.executable}" "{source}/scripts/release.py" "{source}.release"'
        check(["sh", "-c", words], env=peers.ENVIRON)
        return Path(f"{source}.release")

    with ThreadPoolExecutor() as pool:
        return list(pool.map(make, [source, other], ["022", "077"]))


def look_at_the_bytes(release: Path, again: Path) -> None:
    one, other = ({path.name: path.read_bytes() for path in place.iterdir()} for place in (release, again))
    version = avault.__version__
    archives = {f"avault_nostr-{version}-py3-none-any.whl", f"avault_nostr-{version}.tar.gz", f"avault-skill-{version}.zip"}
    assert one.keys() == other.keys() == {"SHA256SUMS", "avault.py", "requirements.txt", *archives}
    assert [name for name in one if one[name] != other[name]] == []
    assert one["avault.py"] == d.SOURCE.read_bytes() and one["requirements.txt"] == PINNED.read_bytes()
    figures.at_least("files of a release that come out the same twice", len(one))


def look_at_the_sums(release: Path) -> None:
    """They are of each module of the wheel; the command and the metadata are pip's to write."""
    named = {line.split("  ", 1)[1] for line in (release / "SHA256SUMS").read_text().splitlines()}
    with zipfile.ZipFile(next(release.glob("*.whl"))) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert {"avault.py", "avault_fast.py"} <= inside & named
    assert inside - named == {f"avault_nostr-{avault.__version__}.data/scripts/avault"}
    assert named - inside | {"avault.py"} == {path.name for path in release.iterdir()} - {"SHA256SUMS"}


def look_at_the_source_archive(release: Path, to: Path) -> None:
    """The wheel is made of what it holds, and its name and metadata are those that installers read."""
    packed = next(release.glob("*.tar.gz"))
    with tarfile.open(packed) as archive:
        assert {(each.uid, each.gid, each.mtime, each.isfile()) for each in archive.getmembers()} == {(0, 0, 0, True)}
    to.mkdir()
    sh(f"tar -xzf {packed}", to)  # by another's hand; and tarfile's own safe way came with Python 3.11.4
    source = to / f"avault_nostr-{avault.__version__}"
    assert f"Name: avault-nostr\nVersion: {avault.__version__}\n" in (source / "PKG-INFO").read_text()
    with zipfile.ZipFile(next(release.glob("*.whl"))) as wheel:
        for name in {name for name in wheel.namelist() if name.endswith(".py")} - {"avault_fast.py"}:
            assert wheel.read(name) == (source / ("." if name == "avault.py" else "src") / name).read_bytes()


def look_at_the_packages(here: Path) -> None:
    """It runs, in a clean environment, beside no package but those that are pinned."""
    assert sh("env -i .venv/bin/avault --version", here) == f"avault {avault.__version__}\n"
    there = dict(re.findall(r"^([\w-]+)==(\S+)$", sh(".venv/bin/python -m pip list --format freeze", here), re.MULTILINE))
    wanted = {name: version for name, (version, _) in pinned().items()} | {"avault-nostr": avault.__version__}
    assert {name: there[name] for name in there if name not in ("pip", "setuptools", "wheel")} == wanted
    figures.at_least("packages of others that are installed, each by its hash", len(wanted) - 1)


def change_each_file(here: Path, site: Path) -> None:
    """Compared as the document says: each of our files, changed by one byte, is named, and no other."""
    ours = re.findall("^(.*): OK$", sh(script("compare"), here), re.MULTILINE)
    assert {"avault.py", "avault_fast.py", "avault_extras/mcp.py"} <= set(ours)
    for name in ours:
        whole = (site / name).read_bytes()
        (site / name).write_bytes(whole[:-2] + b" " + whole[-1:])
        said = sh(script("compare"), here, code=1)
        assert re.findall("^(.*): FAILED$", said, re.MULTILINE) == [name]
        (site / name).write_bytes(whole)
    figures.at_least("installed files of avault that one changed byte gives away", len(ours))
    commands = [(place / "avault").read_text().partition("\n")[2] for place in (here / ".venv/bin", d.ROOT / "scripts")]
    assert commands[0] == commands[1]


def plant_a_compiled_file(here: Path, source: Path, changed: Path) -> None:
    """It is run in place of a source that is right in every byte: why the document removes it."""
    changed.write_bytes(source.read_bytes().replace(avault.__version__.encode(), b"6.6.6", 1))
    shutil.copystat(source, changed)
    cached = source.parent / "__pycache__" / f"avault.{sys.implementation.cache_tag}.pyc"
    py_compile.compile(str(changed), str(cached), dfile=str(source), doraise=True)
    assert sh(".venv/bin/avault --version", here) == "avault 6.6.6\n", "the attack works"
    assert "avault.py: OK" in sh(script("compare"), here)
    assert sh(".venv/bin/avault --version", here) == f"avault {avault.__version__}\n"
