"""The canary search itself, which must not be the thing that fails silently."""

import base64
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path

import canary as birds
import pytest

HERE = Path(__file__).parent
SECRET = "n0t-marked/but watched? é"

WRITTEN = {
    "raw": lambda s: b"token = " + s.encode() + b";",
    "JSON": lambda s: json.dumps({"a": s}).encode(),
    "JSON, not ASCII": lambda s: json.dumps({"a": s}, ensure_ascii=False).encode(),
    "URL": lambda s: b"?q=" + urllib.parse.quote(s, safe="").encode(),
    "URL, plus": lambda s: b"?q=" + urllib.parse.quote_plus(s).encode(),
    "hex": lambda s: s.encode().hex().encode(),
    "HEX": lambda s: s.encode().hex().upper().encode(),
    "base64 at 0": lambda s: base64.b64encode(s.encode()),
    "base64 at 1": lambda s: base64.b64encode(b"{" + s.encode() + b"}"),
    "base64 at 2": lambda s: base64.b64encode(b"ab" + s.encode() + b"\xff\xff"),
    "base64 far in": lambda s: base64.b64encode(os.urandom(1000) + s.encode() + os.urandom(1000)),
    "base64 for URLs": lambda s: base64.urlsafe_b64encode(b"\xfb\xff" + s.encode()).rstrip(b"="),
    "base64 in lines": lambda s: base64.encodebytes(os.urandom(70) + s.encode() + os.urandom(70)),
    "base32 at 0": lambda s: base64.b32encode(s.encode()),
    "base32 at 3": lambda s: base64.b32encode(b"abc" + s.encode() + b"\xff\xff"),
    "UTF-16": lambda s: s.encode("utf-16"),
    "UTF-16, big-endian": lambda s: s.encode("utf-16-be"),
    "UTF-32": lambda s: s.encode("utf-32"),
    "gzip": lambda s: gzip.compress(s.encode()),
}


def search(directory: Path, mark: str, **entry: object) -> list[str]:
    return birds.search(mark, [{"root": str(directory)}, entry])


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("kind", ["mark", "watched"])
def test_every_form_is_found(tmp_path, form, kind):
    mark = birds.new_mark()
    file = tmp_path / "file"
    if kind == "mark":
        file.write_bytes(WRITTEN[form](f"{mark} and more"))
        assert search(tmp_path, mark)
    else:
        file.write_bytes(WRITTEN[form](SECRET))
        assert search(tmp_path, mark, watch=SECRET, directories=[str(tmp_path)])
        assert not search(tmp_path, mark, watch=SECRET, directories=[str(tmp_path / "elsewhere")])
    assert not search(tmp_path, birds.new_mark())


def test_allowed_hidden_and_odd_files(tmp_path):
    mark = birds.new_mark()
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    secret = deep / ".hidden"
    secret.write_text(mark)
    (tmp_path / "link").symlink_to(secret)
    os.mkfifo(tmp_path / "pipe")
    assert not search(tmp_path, mark, allow=str(secret))
    assert not search(tmp_path, mark, allow=str(deep))
    secret.chmod(0)
    deep.chmod(0)
    assert search(tmp_path, mark) == [f"{secret}: raw"]
    secret.rename(deep / mark).write_text("")
    assert search(tmp_path, mark) == [f"{deep / mark}: in the name, raw"]


@pytest.mark.parametrize("top", ["/tmp", "/var/tmp", "/dev/shm"])
def test_places_of_everybody(top, tmp_path):
    if not os.path.isdir(top):
        pytest.skip(f"no {top}")
    mark = birds.new_mark()
    with tempfile.NamedTemporaryFile("w", dir=top) as file:
        file.write(mark)
        file.flush()
        assert search(tmp_path, mark) == [f"{file.name}: raw"]


def test_git(tmp_path, place):
    """What git stored and then forgot to show: loose, then packed, also as a delta."""
    mark = birds.new_mark()

    def git(*args: str) -> None:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@y", *args]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    file, lines = tmp_path / "file", [f"line {i} {os.urandom(9).hex()}" for i in range(500)]
    for text in (lines, [*lines[:250], mark, *lines[250:]], lines):
        file.write_text("\n".join(text))
        git("add", "file")
        git("commit", "-q", "-m", "x")
    assert [re.sub(r".*: ", "", x) for x in search(tmp_path, mark)] == ["in a git object, raw"]
    git("gc", "-q", "--prune=now")
    assert [re.sub(r".*: ", "", x) for x in search(tmp_path, mark)] == ["in a git pack, raw"]


# Whole runs


def run(tmp_path: Path, test: str, *options: str) -> tuple[int, str]:
    """pytest by itself, over a file with one test and copies of what it needs."""
    for name in ("conftest.py", "canary.py", "figures.py", "order.py"):
        (tmp_path / name).write_bytes(next(path for path in (HERE / name, HERE.parent / name) if path.exists()).read_bytes())
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {HERE.parents[1] / 'scripts'}\n")
    (tmp_path / "test_it.py").write_text(f"import sys\nfrom canary import record\n\n{test}\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "xdist", "-p", "no:cacheprovider", f"--basetemp={tmp_path}/base"]
    done = subprocess.run([*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    for kept in re.findall(r"directories are kept in (.*)", done.stdout):
        shutil.rmtree(kept)
    return done.returncode, done.stdout + done.stderr


CLEAN = """
def test_clean(canary, allow, tmp_path, place):
    allow(tmp_path / "input").write_text(canary.value + canary.odd + canary.long)
    (place.home / "watched").write_text(canary.watch("0123456789abcdef")[:8])
    record("stderr", b"all is well")
"""
LEAKS = {
    "a file": "(tmp_path / 'x').write_text(canary.value)",
    "a socket's directory": "(place.runtime / 'x').write_text(canary.odd)",
    "a record": "record('stderr of set', 'refused: ' + canary.value)",
    "stdout": "print(canary.odd)",
    "a log": "import logging; logging.warning(canary.value)",
    "watched, printed": "print(canary.watch('0123456789abcdef'))",
    "watched": "(place.home / 'x').write_text('key=' + canary.watch('0123456789abcdef'))",
}


@pytest.mark.parametrize("options", [("-n0",), ("-n2",)], ids=" ".join)
@pytest.mark.slow
def test_a_clean_run_passes(tmp_path, options):
    code, out = run(tmp_path, CLEAN, *options)
    assert code == 0, out
    assert "1 passed" in out


def test_a_leak_fails_the_run(tmp_path):
    """Each of them; and all name the test, which itself has passed. The closing line is red all the same."""
    tests = [f"def test_leaky_{number}(canary, tmp_path, place):\n    {leak}\n" for number, leak in enumerate(LEAKS.values())]
    code, out = run(tmp_path, "\n".join(tests), "-n0")
    assert code == 1, out
    assert "A canary got out" in out
    assert not [kind for number, kind in enumerate(LEAKS) if f"test_leaky_{number}" not in out], out
    assert f"{len(LEAKS)} passed, 1 error" in out


def test_a_leak_in_a_worker_fails_the_run(tmp_path):
    test = f"def test_leaky(canary, tmp_path):\n    {LEAKS['a file']}\n\ndef test_other(): pass"
    code, out = run(tmp_path, test, "-n2")
    assert code == 1, out
    assert "2 passed, 1 error" in out


# The environment


def test_the_environment_is_clean(monkeypatch, place):
    names = [x for x in os.environ if x.startswith(("AVAULT_", "GIT_"))]
    assert [*names, *(x for x in ("WORKSPACE", "NOSTR_NSEC", "DBUS_SESSION_BUS_ADDRESS") if x in os.environ)] == []
    assert Path.home() == place.home
    for name in ("HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "TMPDIR"):
        directory = Path(os.environ[name])
        assert directory.stat().st_mode & 0o777 == 0o700
        assert list(directory.iterdir()) == []
    socket = place.state / "avault" / f"avault1-{'x' * 16}" / f"avault-avault1-{'x' * 16}.sock"
    assert len(str(socket)) < 104  # macOS's limit
