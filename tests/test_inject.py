"""`avault inject`: values into a template, and nothing else changed; a file that only its owner can read."""

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from canary import Canary
from harness import AVAULT, Machine
from hypothesis import given
from hypothesis import strategies as st

import avault

avault.load_commands(["run"])
import avault_run  # noqa: E402

MULTILINE = "one\n\ttwo 'and' \"three\" \\ $HOME é\n"


@pytest.fixture
def vault(machine: Machine, canary: Canary) -> Machine:
    machine.init_unproven()
    machine("set", "api/TOKEN", input=canary.value)
    machine("set", "db.main/PASS_WORD", "--file", "/dev/stdin", input=canary.mark + MULTILINE)
    return machine


def inject(machine: Machine, template: bytes, *words: str) -> bytes:
    """What comes out, as bytes."""
    done = subprocess.run(
        [AVAULT, "inject", *words], env=machine.env, cwd=machine.top, input=template, capture_output=True, check=True, timeout=30
    )
    assert done.stderr == b""
    return done.stdout


def test_references(vault: Machine, canary: Canary) -> None:
    token, password = canary.value.encode(), (canary.mark + MULTILINE).encode()
    for template, expected in [
        (b"avault://api/TOKEN", token),
        (b"a avault://api/TOKEN, (avault://api/TOKEN)", b"a " + token + b", (" + token + b")"),
        (b"://avault://db.main/PASS_WORD-x\n", b"://" + password + b"-x\n"),
        (b'{"a": "avault://api/TOKEN/path?x=1"}', b'{"a": "' + token + b'/path?x=1"}'),
        (b"none", b"none"),
        (b"", b""),
        (b"avault:/ avault api/TOKEN AVAULT://api/TOKEN", b"avault:/ avault api/TOKEN AVAULT://api/TOKEN"),
    ]:
        assert inject(vault, template) == expected


def test_the_rest_stays_as_it_is(vault: Machine, canary: Canary) -> None:
    """Byte for byte, also what is no text; and more than a pipe holds."""
    before, after = bytes(range(256)) * 5000 + b"\xff\r\n", b"\0\r\n\xfe" + os.urandom(500_000)
    assert inject(vault, before + b"avault://api/TOKEN" + after) == before + canary.value.encode() + after


@given(st.binary(max_size=60), st.binary(max_size=60), st.text(max_size=20), st.text(max_size=20))
def test_any_rest_stays(before: bytes, after: bytes, one: str, other: str) -> None:
    """A value is not looked into, even if a reference stands there."""
    template = before + b"avault://a/B " + after + b"avault://c.d-e/_F1"
    if b"avault://" in before + after:
        return
    assert avault_run.find_references(template, "template") == {"a/B", "c.d-e/_F1"}
    secrets = {"a/B": [one + "avault://c.d-e/_F1", "in conflict"], "c.d-e/_F1": [other]}
    assert avault_run.resolve(template, secrets) == before + f"{one}avault://c.d-e/_F1 ".encode() + after + other.encode()


def test_files(vault: Machine, canary: Canary, allow: Callable[[Path], Path]) -> None:
    template, target = vault.top / "config.tmpl", allow(vault.top / "config")
    template.write_bytes(b"token = avault://api/TOKEN\n")
    expected = f"token = {canary.value}\n"
    assert vault("inject", "-i", str(template), secret=True).stdout == expected
    assert vault("inject", "-i", str(template), "-o", str(target)).stdout == ""
    assert target.read_text() == expected
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    vault("inject", "--input", "config.tmpl", "--output", "config")  # relative, and over what is there
    assert inject(vault, b"avault://api/TOKEN", "-i", "-") == canary.value.encode()
    done = vault("inject", "-i", str(template), "-o", str(target), "--json")
    assert done.json == {"file": str(target), "references": ["api/TOKEN"]}
    assert sorted(os.listdir(vault.top)) == sorted({*os.listdir(vault.top), "config"}) and not list(vault.top.glob(".config*"))


@pytest.mark.parametrize("mode", [0o644, 0o777, 0o400])
def test_the_file_is_private_whatever_was_there(vault: Machine, allow: Callable[[Path], Path], mode: int) -> None:
    """It is another file under the name: who has the old one open, or a hard link to it, does not get it."""
    target, link = allow(vault.top / "config"), vault.top / "link"
    target.write_text("old")
    target.chmod(mode)
    link.hardlink_to(target)
    subprocess.run(
        ["sh", "-c", f"umask 0; exec {AVAULT} inject -o config"],
        env=vault.env,
        cwd=vault.top,
        input=b"avault://api/TOKEN",
        check=True,
    )
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert link.read_text() == "old"


def refuse(machine: Machine, *words: str, code: int, says: str, input: str = "x avault://api/TOKEN") -> None:
    """An error that says that; nothing on stdout."""
    before = {path: path.lstat().st_mtime_ns for path in machine.top.glob("*") if path.name != "transcript"}
    done = machine("inject", *words, input=input, code=code)
    assert done.stdout == "" and says in done.stderr, done.stderr
    assert {path: path.lstat().st_mtime_ns for path in machine.top.glob("*") if path.name != "transcript"} == before


def test_never_through_a_symlink(vault: Machine) -> None:
    (vault.top / "real").write_text("as it was")
    for name, target in (("link", "real"), ("dangling", "nothing"), ("stdout", "/dev/stdout"), ("directory", ".")):
        (vault.top / name).symlink_to(target)
        refuse(vault, "-o", name, code=5, says=f"{vault.top / name} is a symlink")
    assert (vault.top / "real").read_text() == "as it was"
    assert not (vault.top / "nothing").exists()


def test_never_in_place_of_something_else(vault: Machine) -> None:
    os.mkfifo(vault.top / "fifo")
    (vault.top / "directory").mkdir()
    for name in ("fifo", "directory", "/dev/null"):
        refuse(vault, "-o", name, code=5, says="is not a regular file")
    refuse(vault, "-o", "no/such/directory", code=1, says="cannot write")


def test_below_a_directory_that_is_a_link(vault: Machine, canary: Canary, allow: Callable[[Path], Path]) -> None:
    allow(vault.top / "real").mkdir()
    (vault.top / "link").symlink_to("real")
    vault("inject", "-o", "link/config", input="avault://api/TOKEN")
    assert (vault.top / "real" / "config").read_text() == canary.value


def test_references_to_what_is_not_there(vault: Machine) -> None:
    """Nothing is written, not even the part before."""
    for words in ((), ("-o", "config")):
        refuse(vault, *words, code=4, says="no key api/NOTHING", input="avault://api/TOKEN\navault://api/NOTHING")
        refuse(
            vault,
            *words,
            code=4,
            says="no key nothing/AT_ALL, nothing/MORE",
            input="avault://nothing/MORE avault://nothing/AT_ALL",
        )
        for bad in ("avault://", "avault://api", "avault://api/", "avault://api/-", "avault:///TOKEN", "avault://-/TOKEN"):
            refuse(vault, *words, code=2, says="stdin, line 3: a reference without group and key", input=f"a\nb\nc {bad} d\n")
    assert not (vault.top / "config").exists()


def test_no_template(vault: Machine) -> None:
    refuse(vault, "-i", "nothing", code=4, says="no file nothing")
    refuse(vault, "-i", "/", code=1, says="cannot read /")
    refuse(vault, "more", code=2, says="unexpected extra argument")


def test_closed(vault: Machine) -> None:
    vault("lock", "--force")
    refuse(vault, code=3, says="locked")
    refuse(vault, "-o", "config", code=3, says="locked")
    assert vault("inject", input="without a reference nothing is asked for").stdout == "without a reference nothing is asked for"
    vault("daemon", "stop")
    refuse(vault, code=6, says="no daemon is running")


def test_the_reader_goes_away(vault: Machine, tmp_path: Path) -> None:
    (tmp_path / "template").write_bytes(bytes(1 << 20))
    line = f"{AVAULT} inject -i {tmp_path}/template | head -c 1 | wc -c; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], env=vault.env, capture_output=True, timeout=30)
    assert done.stdout.split() == [b"1", b"141"] and done.stderr == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk(vault: Machine) -> None:
    done = subprocess.run(
        ["bash", "-c", f"echo avault://api/TOKEN | {AVAULT} inject > /dev/full"], env=vault.env, capture_output=True, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr.startswith(b"avault: error: cannot write the output: No space left on device")


def test_what_the_log_says(vault: Machine) -> None:
    inject(vault, b"avault://api/TOKEN")
    last = (vault.own / "access.log").read_text().splitlines()[-1]
    assert '"op": "reveal"' in last and '"for": "inject"' in last
