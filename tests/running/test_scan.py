"""`avault scan`: the vault's values are found wherever and however they stand, and nothing else is."""

import base64
import contextlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from canary import record
from harness import AVAULT, Machine, wait_until

import avault

pytestmark = pytest.mark.usefixtures("forks")

PEM = "-----BEGIN PRIVATE KEY-----\n{0}{1}\n{0}{2}\n-----END PRIVATE KEY-----\n"


def prepare(machine: Machine, canary) -> None:
    machine.init_unproven()
    machine("set", "openai/API_KEY", input=canary.value)


@pytest.fixture
def machine(lend: Callable[..., Machine], canary) -> Machine:
    return lend(prepare, canary)


@pytest.fixture
def tree(machine: Machine, allow) -> Path:
    """A directory that may hold values, on a machine whose vault is open and holds one."""
    tree = machine.top / "tree"
    tree.mkdir()
    return allow(tree)


@pytest.fixture
def repository(tree: Path, machine: Machine) -> Path:
    git(machine, tree, "init", "-q", "-b", "main")
    return tree


def git(machine: Machine, directory: Path, *words: str, code: int = 0, **env: str) -> str:
    """Run git as on that machine; what it prints. Hooks find avault by the path that was installed."""
    argv = ["git", "-c", "user.name=agent", "-c", "user.email=agent@example.com", "-C", str(directory), *words]
    done = subprocess.run(argv, env={**machine.env, **env}, capture_output=True, text=True, timeout=60)
    record("git " + words[0], done.stdout + done.stderr)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def needles(**values: str) -> Any:
    return avault.Needles([{"group": "g", "key": key, "value": value, "conflicts": []} for key, value in values.items()])


def found_in(data: bytes, looked_for: Any) -> set[tuple[int, str, str]]:
    """Line, name and form of what is in these bytes."""
    return {(each.line, each.name, each.kind) for each in avault.search(avault.Part("f", 1, data), looked_for)}


# Forms


def test_a_value_is_found_where_it_stands(machine: Machine, tree: Path, canary) -> None:
    (tree / "notes.md").write_text(f"one\ntwo {canary.value}, three\n\n{canary.value}{canary.value}\n")
    (tree / "binary").write_bytes(b"\0\xff\n\0" + canary.value.encode() + b"\0")
    (tree / "other").write_text("nothing")
    done = machine("scan", "tree", code=1)
    assert done.stdout == "tree/binary:2: openai/API_KEY\ntree/notes.md:2: openai/API_KEY\ntree/notes.md:4: openai/API_KEY\n"
    assert done.stderr == "avault: values of the vault stand in 2 of 3 files\n"
    assert machine("scan", "tree/other").stdout == ""
    answer = machine("scan", "tree/notes.md", "--json", code=1).json
    assert answer["found"][0] == {"path": "tree/notes.md", "line": 2, "group": "openai", "key": "API_KEY", "form": "plain"}
    assert (answer["left_out"], answer["unread"]) == ([], [])


def encoded(value: str) -> Iterator[tuple[str, bytes]]:
    """A value as other programs would write it, between other bytes."""
    raw = value.encode()
    for before in range(5):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield "base64", encode(b"x" * before + raw + b"y" * (before % 3))
    for text in (raw.hex(), raw.hex().upper()):
        yield "hex", b"00" + text.encode() + b"ff"
    for quote in (urllib.parse.quote, urllib.parse.quote_plus):
        for safe in ("", "/"):
            text = quote(value, safe=safe)
            yield "url", f"?a={text}&b".encode()
            yield "url", f"?a={re_lower(text)}&b".encode()
    yield "json", json.dumps({"a": [value + "z"]}).encode()
    yield "json", json.dumps({"a": [value + "z"]}, ensure_ascii=False).encode()


def re_lower(text: str) -> str:
    first, *rest = text.split("%")
    return "%".join([first, *(each[:2].lower() + each[2:] for each in rest)])


@pytest.mark.parametrize(
    "value", ["p4$$ w/rd+é", "postgres://u:p%40ss@h/d?a=b&c", "~a b~c/d+e f=g?h&i", "\x7f\\\"'quoted'\" \\", "ü" * 40]
)
def test_a_value_is_found_in_every_form(value: str) -> None:
    for kind, text in encoded(value):
        found = {each for _, _, each in found_in(b"line\n" + text, needles(A=value))}
        assert found & ({kind, "plain"} if kind in ("url", "json") else {kind}), (kind, text)


def test_what_javascript_makes_of_a_url() -> None:
    from peers import node

    value = "a b(c)*d!e'f~g/h?i&j=k+l%m"
    program = "console.log([encodeURIComponent(v), encodeURI(v), new URLSearchParams([['a', v]])].join('\\n'))"
    done = subprocess.run([*node(), "-e", f"const v = {json.dumps(value)}; {program}"], capture_output=True, check=True)
    assert len(done.stdout.splitlines()) == 3
    for line in done.stdout.splitlines():
        assert found_in(line, needles(A=value)) == {(1, "g/A", "url")}, line


@pytest.mark.parametrize("width", [48, 60, 64, 76])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n        "])
def test_a_form_that_is_broken_into_lines(width: int, end: str) -> None:
    """As base64(1), PEM, MIME, YAML and xxd -p write it; at every place that the break can have."""
    value = "correct-horse-battery-staple-0123456789"
    for before in range(width):
        for kind, text in (
            ("base64", base64.b64encode(b"x" * before + value.encode() + b"y" * 90).decode()),
            ("hex", (b"x" * before + value.encode()).hex()),
        ):
            data = end.join(text[place : place + width] for place in range(0, len(text), width))
            assert {each[1:] for each in found_in(data.encode(), needles(A=value))} == {("g/A", kind)}, (before, kind)


def test_the_line_of_a_broken_form_is_where_it_begins() -> None:
    text = base64.b64encode(b"x" * 50 + b"correct-horse-battery-staple-0123456789")
    data = b"first\n" + text[:76] + b"\n" + text[76:]
    assert found_in(data, needles(A="correct-horse-battery-staple-0123456789")) == {(2, "g/A", "base64")}


def test_a_value_of_several_lines(machine: Machine, tree: Path, canary) -> None:
    """Each line is looked for too, as there may be a copy of a few; a copy is reported once, where it begins."""
    letters = [f"{canary.mark}{'AbCd' * 10}{number}" for number in (1, 2)]
    machine("set", "tls/KEY", input=PEM.format("", *letters))
    (tree / "key.pem").write_text("\n" + PEM.format("", *letters) + "\n" + PEM.format("", *letters))
    (tree / "values.yaml").write_text("key: |\n" + PEM.format("    ", *letters))
    (tree / "one.py").write_text(f"KEY = (\n  '{letters[1]}'\n)\n")
    (tree / "one.json").write_text(json.dumps({"key": PEM.format("", *letters)}))
    (tree / "base64").write_bytes(base64.encodebytes(PEM.format("", *letters).encode()))
    (tree / "other.pem").write_text(PEM.format("", "MIIB", "MIIC"))
    assert machine("scan", "tree", code=1).stdout.splitlines() == [
        "tree/base64:1: tls/KEY (base64)",
        "tree/key.pem:2: tls/KEY",
        "tree/key.pem:7: tls/KEY",
        "tree/one.json:1: tls/KEY (json)",
        "tree/one.py:2: tls/KEY (a line of it)",
        "tree/values.yaml:2: tls/KEY",
    ]


def test_short_values_are_left_out_with_a_word(machine: Machine, tree: Path, canary) -> None:
    machine("set", "door/PIN", input="1234567")
    (tree / "numbers").write_text("1234567")
    done = machine("scan", "tree")
    assert done.stderr == "avault: not looked for, as they are under 8 bytes: door/PIN\n"
    assert machine("scan", "tree").stderr == ""  # once
    assert machine("scan", "tree", "--json").json["left_out"] == ["door/PIN"]
    machine("set", "door/PIN", input=canary.mark[-8:])
    (tree / "numbers").write_text(canary.mark[-8:])
    assert "numbers:1: door/PIN" in machine("scan", "tree", code=1).stdout


def test_very_long_values(machine: Machine, tree: Path, canary) -> None:
    value = "".join(f"{canary.mark}{number}" for number in range(12_000))
    machine("set", "big/BLOB", input=value)
    (tree / "plain").write_text("a\n" + value)
    (tree / "base64").write_bytes(base64.encodebytes(b"a\nb" + value.encode()))
    (tree / "half").write_text(value[: len(value) // 2])
    assert machine("scan", "tree", code=1).stdout == "tree/base64:1: big/BLOB (base64)\ntree/plain:2: big/BLOB\n"


def test_values_in_conflict_are_looked_for_too() -> None:
    both = avault.Needles([{"group": "g", "key": "A", "value": "value-of-one", "conflicts": ["value-of-other"]}])
    assert found_in(b"value-of-other\nvalue-of-one", both) == {(1, "g/A", "plain"), (2, "g/A", "plain")}


# The search


def by_hand(data: bytes, looked_for: Any) -> dict[str, set[int]]:
    """The lines that each value touches, without any cleverness."""
    lines: dict[str, set[int]] = {}
    for text, forms in looked_for.meanings.items():
        for place in range(len(data)):
            if data.startswith(text, place):
                for form in forms:
                    lines.setdefault(form.place, set()).add(data.count(b"\n", 0, place) + 1)
    return lines


@pytest.mark.parametrize("seed", [*range(10), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(10, 40))])
def test_values_that_overlap(seed: int) -> None:
    """Values that are a part of each other, or begin with what another ends with, next to and in each other."""
    choose = random.Random(seed)
    stem = "".join(choose.choices("ab", k=30))
    values = {f"V{n}": stem[(a := choose.randrange(0, 20)) : a + choose.randrange(8, 30)] for n in range(6)}
    values["LONG"] = stem * 3
    values = {name: value for name, value in values.items() if len(value) >= 8}
    looked_for = needles(**values)
    others = [*(base64.b64encode(value.encode()).decode() for value in values.values()), stem, "a", "b", "%"]
    for _ in range(20):
        data = "|\n".join("_".join(choose.choices([*values.values(), *others], k=3)) for _ in range(9)).encode()
        found: dict[str, set[int]] = {}
        for line, name, _ in found_in(data, looked_for):
            found.setdefault(name, set()).add(line)
        assert found == by_hand(data, looked_for), (data, values)


@pytest.mark.slow
def test_a_file_that_is_read_in_parts(machine: Machine, tree: Path, canary) -> None:
    """A value over the end of a part, and the right line; nothing is found twice."""
    part, value = avault.BATCH, canary.value.encode()
    data = bytearray(b"0123456789abcde\n" * (5 * part // 32))
    places = [0, part - len(value) // 2, part + 100, 2 * part - 1, len(data) - len(value)]
    for place in places:
        data[place : place + len(value)] = value
    (tree / "big").write_bytes(data)
    wanted = [f"tree/big:{bytes(data[:place]).count(10) + 1}: openai/API_KEY" for place in places]
    assert machine("scan", "tree", code=1).stdout.splitlines() == wanted


def test_many_small_files_in_one_batch(machine: Machine, tree: Path, canary) -> None:
    for number in range(500):
        (tree / f"{number:03}").write_text(
            f"line\n{canary.value}" if number % 100 == 7 else canary.value[: number % len(canary.value)]
        )
    found = machine("scan", "tree", code=1).stdout.splitlines()
    assert found == [f"tree/{number:03}:2: openai/API_KEY" for number in range(7, 500, 100)]


# Trees


def test_in_a_repository_what_git_knows_or_would_add(machine: Machine, repository: Path, canary) -> None:
    (repository / ".gitignore").write_text("ignored\nbuild/\n")
    for name in ("tracked", "untracked", "ignored", "gone", "build/x", "sub/deep", ".hidden"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text(canary.value)
    git(machine, repository, "add", "tracked", "gone")
    (repository / "gone").unlink()
    (repository / ".git" / "description").write_text(canary.value)

    def names(*words: str) -> list[str]:
        return [line.split(":")[0] for line in machine("scan", *words, code=None).stdout.splitlines()]

    assert names("tree") == ["tree/.hidden", "tree/sub/deep", "tree/tracked", "tree/untracked"]
    assert names("tree/sub") == ["tree/sub/deep"]
    assert names("tree/ignored", "tree/tracked") == ["tree/ignored", "tree/tracked"]  # a file that is named
    assert names("tree/build") == ["tree/build/x"]  # and a directory that git has nothing to say about
    done = subprocess.run([AVAULT, "scan"], env=machine.env, cwd=repository / "sub", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "deep:1: openai/API_KEY\n")


def test_repositories_within_a_repository(machine: Machine, repository: Path, canary) -> None:
    for name in ("submodule", "nested"):
        (machine.top / name).mkdir()
        inner = repository / name
        git(machine, repository, "init", "-q", str(inner))
        (inner / "file").write_text(canary.value)
        (inner / ".gitignore").write_text("ignored\n")
        (inner / "ignored").write_text(canary.value)
    git(machine, repository / "submodule", "add", ".gitignore")
    git(machine, repository / "submodule", "commit", "-q", "-m", "first")
    git(machine, repository, "add", "submodule")
    found = machine("scan", "tree", code=1).stdout
    assert found == "tree/nested/file:1: openai/API_KEY\ntree/submodule/file:1: openai/API_KEY\n"
    for each in (repository / "submodule").iterdir():  # a submodule that was never filled
        subprocess.run(["rm", "-rf", str(each)], check=True)
    assert machine("scan", "tree", code=1).stdout == "tree/nested/file:1: openai/API_KEY\n"


def test_what_is_not_a_file_of_the_tree(machine: Machine, tree: Path, canary, allow) -> None:
    """Links are not followed, a FIFO and a socket hold nobody up, .git is git's."""
    outside = allow(machine.top / "outside")
    outside.mkdir()
    (outside / "file").write_text(canary.value)
    (tree / "to file").symlink_to(outside / "file")
    (tree / "to directory").symlink_to(outside)
    (tree / "to nothing").symlink_to("nothing")
    (tree / "loop").symlink_to("loop")
    os.mkfifo(tree / "fifo")
    (tree / "sub" / ".git").mkdir(parents=True)
    (tree / "sub" / ".git" / "config").write_text(canary.value)
    done = machine("scan", "tree")
    assert (done.stdout, done.stderr) == ("", "")
    assert "no file tree/to nothing" in machine("scan", "tree/to nothing", code=4).stderr
    assert machine("scan", "tree/to directory", code=1).stdout.endswith("outside/file:1: openai/API_KEY\n")  # it was named


def test_odd_names(machine: Machine, repository: Path, canary) -> None:
    names = [b"-f", b"a\nb", b"\x1b]0;x\x07", b"\xff\xfe", "é ü".encode(), b"a:1: b", b"'\"$(id)", b"*", b":(top)x"]
    for name in names:
        Path(os.fsdecode(os.fsencode(repository) + b"/" + name)).write_text(canary.value)
    lines = machine("scan", "tree", code=1).stdout.splitlines()
    assert len(lines) == len(names)
    assert (
        "\x1b" not in "".join(lines)
        and r"tree/a\nb:1: openai/API_KEY" in lines
        and r"tree/\udcff\udcfe:1: openai/API_KEY" in lines
    )
    assert len(machine("scan", "tree", "--json", code=1).json["found"]) == len(names)
    git(machine, repository, "add", "-A")
    assert len(machine_in(machine, repository, "scan", "--staged", code=1)[0].splitlines()) == len(names)


def test_what_the_index_names_and_git_lacks_is_fetched_from_nowhere(machine: Machine, repository: Path) -> None:
    """A partial clone fetches what it lacks, by a program that its own configuration names; this one came in an archive."""
    missing, trace = "1234567890" * 4, machine.top / "trace"
    git(machine, repository, "update-index", "--add", "--cacheinfo", f"100644,{missing},staged")
    git(machine, repository, "update-index", "--add", "--cacheinfo", f"100644,{missing},.gitignore")
    git(machine, repository, "update-index", "--skip-worktree", ".gitignore")
    settings = {
        "core.repositoryformatversion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.promisor": "true",
        "remote.origin.url": str(repository),
        "remote.origin.uploadpack": f"touch {trace};",
    }
    for name, value in settings.items():
        git(machine, repository, "config", name, value)
    machine("scan", "tree")
    _, said = machine_in(machine, repository, "scan", "--staged", code=1)
    assert "git does not have all that is staged" in said and not trace.exists()
    git(machine, repository, "cat-file", "blob", missing, code=128)
    assert trace.exists(), "the trap works"


def machine_in(machine: Machine, directory: Path, *words: str, code: int = 0, **env: str) -> tuple[str, str]:
    """Run avault there; its stdout and stderr."""
    done = subprocess.run([AVAULT, *words], env={**machine.env, **env}, cwd=directory, capture_output=True, text=True, timeout=60)
    record("avault " + words[0], done.stdout + done.stderr)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that nobody can read")
def test_a_file_that_cannot_be_read_is_not_passed_over(machine: Machine, tree: Path) -> None:
    done = machine("scan", "/proc/self/mem", "tree", code=1)
    assert "warning: cannot read /proc/self/mem" in done.stderr and done.stdout == ""
    assert machine("scan", "--json", "/proc/self/mem", code=1).json["unread"] == ["/proc/self/mem"]


def test_a_hostile_repository_runs_nothing(machine: Machine, repository: Path, canary) -> None:
    trap = machine.top / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {machine.top}/pwned\n")
    trap.chmod(0o700)
    (repository / ".gitattributes").write_text("* diff=trap filter=trap\n")
    (repository / "file").write_text(canary.value)
    git(machine, repository, "add", "-A")
    for name in ("core.fsmonitor", "diff.external", "diff.trap.command", "diff.trap.textconv", "core.pager", "core.sshCommand"):
        git(machine, repository, "config", name, str(trap))
    for name in ("diff.relative", "diff.renames", "diff.noprefix"):
        git(machine, repository, "config", name, "true")
    machine("scan", "tree", code=1)
    (repository / "sub").mkdir()
    assert machine_in(machine, repository / "sub", "scan", "--staged", code=1)[0] == "file:1: openai/API_KEY\n"
    assert not (machine.top / "pwned").exists()


def test_the_tree_of_a_path_not_of_the_environment(machine: Machine, repository: Path, canary) -> None:
    """Called by a hook of another repository, with GIT_DIR set."""
    (repository / "file").write_text(canary.value)
    git(machine, machine.top, "init", "-q", "other")
    machine("scan", "tree", code=1, GIT_DIR=str(machine.top / "other" / ".git"), GIT_WORK_TREE=str(machine.top / "other"))


def test_locked_stopped_and_missing(machine: Machine, tree: Path) -> None:
    assert "no file nowhere" in machine("scan", "nowhere", code=4).stderr
    machine("lock", "--force")
    machine("scan", "tree", code=3)
    assert machine("scan", "tree", "--json", code=3).json["error"]["code"] == "locked"
    machine("daemon", "stop", "--force")
    machine("scan", "tree", code=6)


def test_without_git(machine: Machine, repository: Path, canary) -> None:
    """The tree is read as any other; --staged says what is missing."""
    (repository / "file").write_text(canary.value)
    (machine.top / "bin").mkdir()
    (machine.top / "bin" / "python3").symlink_to(sys.executable)
    assert machine("scan", "tree", code=1, PATH=str(machine.top / "bin")).stdout == "tree/file:1: openai/API_KEY\n"
    assert "git is not installed" in machine("scan", "--staged", code=6, PATH=str(machine.top / "bin")).stderr
    assert "not a git repository" in machine("scan", "--staged", code=1).stderr


# What is staged


@pytest.mark.slow
def test_what_is_staged(machine: Machine, repository: Path, canary) -> None:
    """The index's content, not that of the working tree; what is taken out or was there before does not count."""

    def scan(*words: str) -> list[str]:
        done = subprocess.run(
            [AVAULT, "scan", "--staged", *words], env=machine.env, cwd=repository, capture_output=True, text=True
        )
        record("scan", done.stdout + done.stderr)
        assert done.returncode == (1 if done.stdout else 0), done.stderr
        return done.stdout.splitlines()

    file = repository / "file"
    assert scan() == []  # before the first commit, and with nothing staged
    file.write_text("a\n" + canary.value)
    assert scan() == []
    git(machine, repository, "add", "file")
    file.write_text("clean")
    assert scan() == ["file:2: openai/API_KEY"]
    git(machine, repository, "add", "file")
    file.write_text(canary.value)
    assert scan() == []
    git(machine, repository, "add", "file")
    git(machine, repository, "commit", "-q", "-m", "it is out")
    assert scan() == []
    git(machine, repository, "mv", "file", "moved")
    assert scan() == ["moved:1: openai/API_KEY"]  # a new name, the old secret
    git(machine, repository, "rm", "-q", "--cached", "moved")
    assert scan() == []
    (repository / "moved").unlink()
    (repository / "link").symlink_to(canary.value)
    (repository / "other").write_text(base64.b64encode(canary.value.encode()).decode())
    git(machine, repository, "add", "-A")
    git(machine, repository, "add", "-N", ".")
    assert scan() == ["link:1: openai/API_KEY", "other:1: openai/API_KEY (base64)"]
    assert scan("other") == ["other:1: openai/API_KEY (base64)"]
    (repository / "huge").write_bytes(b"\n" * (avault.BATCH - 3) + canary.value.encode())
    (repository / "empty").touch()
    git(machine, repository, "add", "huge", "empty")
    assert scan("huge", "empty") == [f"huge:{avault.BATCH - 2}: openai/API_KEY"]


def test_a_merge_in_progress(machine: Machine, repository: Path, canary) -> None:
    """A path that is not merged has nothing staged; the others are looked at."""

    def commit(text: str) -> None:
        (repository / "file").write_text(text)
        git(machine, repository, "add", "file")
        git(machine, repository, "commit", "-q", "-m", text[:5])

    commit("first")
    git(machine, repository, "checkout", "-q", "-b", "other")
    commit(canary.value)
    git(machine, repository, "checkout", "-q", "main")
    commit("second")
    git(machine, repository, "merge", "other", code=1)
    (repository / "second").write_text(canary.value)
    git(machine, repository, "add", "second")
    assert machine_in(machine, repository, "scan", "--staged", code=1)[0] == "second:1: openai/API_KEY\n"


# The hook


@pytest.mark.slow
def test_the_hook_stops_a_commit_that_carries_a_value(machine: Machine, repository: Path, canary) -> None:
    said = machine_in(machine, repository, "scan", "--install-hook")[1]
    hook = repository / ".git" / "hooks" / "pre-commit"
    assert f"made the hook {hook}" in said and "while the vault is locked" in said
    (repository / "clean").write_text("nothing\n")
    (repository / "file").write_text(canary.value)
    git(machine, repository, "add", "clean")
    git(machine, repository, "commit", "-m", "fine")
    git(machine, repository, "add", "file")
    said = git(machine, repository, "commit", "-m", "not so fine", code=1)
    assert "file:1: openai/API_KEY" in said and "git commit --no-verify" in said
    assert git(machine, repository, "log", "--format=%s") == "fine\n"
    (repository / "clean").write_text("more\n")
    git(machine, repository, "commit", "-m", "only this", "clean")  # git gives the hook an index of its own
    git(machine, repository, "commit", "-m", "all", "-a", code=1)
    git(machine, repository, "rm", "-q", "--cached", "clean")
    git(machine, repository, "commit", "-m", "only that", "file", code=1)
    git(machine, repository, "commit", "-q", "--no-verify", "-m", "all the same")
    assert git(machine, repository, "log", "--format=%s") == "all the same\nonly this\nfine\n"


def test_the_hook_fails_closed(machine: Machine, repository: Path) -> None:
    """Locked, without a daemon, or with avault gone: no commit, and the way to make it all the same."""
    machine("scan", "--install-hook", "tree")
    (repository / "clean").write_text("nothing\n")
    git(machine, repository, "add", "clean")
    machine("lock", "--force")
    said = git(machine, repository, "commit", "-m", "locked", code=1)
    assert "avault: hint: " in said and "avault: nothing was committed; to commit without looking: git commit --no-verify" in said
    machine("daemon", "stop", "--force")
    assert "--no-verify" in git(machine, repository, "commit", "-m", "stopped", code=1)
    hook = repository / ".git" / "hooks" / "pre-commit"
    hook.write_text(hook.read_text().replace(AVAULT, AVAULT + "-that-was-removed"))
    assert "--no-verify" in git(machine, repository, "commit", "-m", "gone", code=1)
    git(machine, repository, "commit", "-q", "--no-verify", "-m", "all the same")


def test_a_second_run_changes_nothing_and_another_hook_stays(machine: Machine, repository: Path) -> None:
    hook = repository / ".git" / "hooks" / "pre-commit"
    path = machine("scan", "--install-hook", "tree", "--json").json["hooks"][0]
    assert Path(path) == hook
    before = hook.stat()
    assert "the hook is there" in machine("scan", "--install-hook", "tree").stderr
    after = hook.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    hook.chmod(0o600)  # git passes over a hook that it cannot execute
    machine("scan", "--install-hook", "tree")
    assert os.access(hook, os.X_OK)
    hook.write_text(hook.read_text().replace(AVAULT, "/old/avault"))  # ours, of an avault that was elsewhere
    machine("scan", "--install-hook", "tree")
    assert AVAULT in hook.read_text()
    hook.write_text("#!/bin/sh\necho mine\n")
    said = machine("scan", "--install-hook", "tree", code=1).stderr
    assert f"there is another hook: {hook}" in said and "add this line to it" in said
    assert hook.read_text() == "#!/bin/sh\necho mine\n"


@pytest.mark.slow
def test_the_line_to_add_to_another_hook_works(machine: Machine, repository: Path, canary) -> None:
    hook = repository / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o700)
    said = machine("scan", "--install-hook", "tree", code=1).stderr
    line = next(line for line in said.splitlines() if "hint: " in line).partition("to it: ")[2]
    hook.write_text(f"#!/bin/sh\n{line}\nexit 0\n")
    (repository / "file").write_text(canary.value)
    git(machine, repository, "add", "file")
    git(machine, repository, "commit", "-m", "stopped", code=1)
    (repository / "file").write_text("nothing")
    git(machine, repository, "commit", "-q", "-a", "-m", "goes on")


@pytest.mark.parametrize("where", ["absolute", "relative", "home"])
def test_hooks_that_are_elsewhere(where: str, machine: Machine, repository: Path, canary) -> None:
    hooks = {"absolute": machine.top / "h o'oks", "relative": repository / ".githooks", "home": machine.home / "hooks"}[where]
    git(
        machine,
        repository,
        "config",
        "core.hooksPath",
        {"absolute": str(hooks), "relative": ".githooks", "home": "~/hooks"}[where],
    )
    (repository / "sub").mkdir()
    machine_in(machine, repository / "sub", "scan", "--install-hook")
    assert os.access(hooks / "pre-commit", os.X_OK)
    (repository / "file").write_text(canary.value)
    git(machine, repository, "add", "file")
    assert "file:1: openai/API_KEY" in git(machine, repository, "commit", "-m", "no", code=1)


def test_hooks_that_are_switched_off(machine: Machine, repository: Path) -> None:
    git(machine, repository, "config", "core.hooksPath", "/dev/null")
    assert "cannot" in machine("scan", "--install-hook", "tree", code=1).stderr


def test_a_worktree_has_the_hooks_of_its_repository(machine: Machine, repository: Path, canary, allow) -> None:
    (repository / "clean").write_text("nothing")
    git(machine, repository, "add", "clean")
    git(machine, repository, "commit", "-q", "-m", "first")
    worktree = allow(machine.top / "work tree")
    git(machine, repository, "worktree", "add", "-q", "-b", "second", str(worktree))
    machine("scan", "--install-hook", str(worktree))
    assert (repository / ".git" / "hooks" / "pre-commit").exists()
    for directory in (worktree, repository):
        (directory / "file").write_text(canary.value)
        git(machine, directory, "add", "file")
        assert "file:1: openai/API_KEY" in git(machine, directory, "commit", "-m", "no", code=1)


def test_paths_that_need_quoting(canary, allow, place) -> None:
    vault = place.top / 'it\'s a "vault" $(id)'
    repository = allow(place.top / "re po'")
    with Machine(place.top / "m", vault) as machine:
        machine.init_unproven()
        machine("set", "openai/API_KEY", input=canary.value)
        git(machine, place.top, "init", "-q", str(repository))
        machine("scan", "--install-hook", str(repository))
        (repository / "file").write_text(canary.value)
        git(machine, repository, "add", "file")
        elsewhere = {name: value for name, value in machine.env.items() if name != "AVAULT_DIR"}
        machine.env = elsewhere  # the hook names the vault that it was installed for
        assert "file:1: openai/API_KEY" in git(machine, repository, "commit", "-m", "no", code=1)
        machine.env = {**elsewhere, "AVAULT_DIR": str(vault)}
    assert shlex.quote(str(vault)) in (repository / ".git" / "hooks" / "pre-commit").read_text()


def test_usage(machine: Machine, tree: Path) -> None:
    machine("scan", "--install-hook", "--staged", code=2)
    machine("scan", "--install-hook", "tree", "tree", code=2)
    assert "not a git repository" in machine("scan", "--install-hook", "tree", code=1).stderr


@pytest.fixture
def scanning(machine: Machine, tree: Path) -> Iterator["Scanning"]:
    with Scanning(machine) as scanning:
        yield scanning


class Scanning:
    """A scan of its input, on a terminal, that has drawn how much it has read."""

    def __init__(self, machine: Machine) -> None:
        leader, follower = os.openpty()
        self.screen = open(leader, "rb", buffering=0)
        os.set_blocking(leader, False)
        argv = [AVAULT, "scan", "-"]
        self.child = subprocess.Popen(
            argv, env=machine.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=follower, start_new_session=True
        )
        os.close(follower)
        self.seen = b""

    def __enter__(self) -> Self:
        wait_until(self.is_drawn, what="the line")
        return self

    def is_drawn(self) -> bool:
        """Give it more to read, and look."""
        assert self.child.stdin
        self.child.stdin.write(b"0" * avault.BATCH)
        self.look()
        return b"\r\x1b[Kavault: 1 file" in self.seen

    def look(self) -> None:
        try:
            while piece := self.screen.read(1 << 16):
                self.seen += piece
        except OSError:  # EIO: the last who held the terminal is gone
            return

    def end(self) -> tuple[int, bytes]:
        """Its exit code, and what it printed."""
        assert self.child.stdout
        code = self.child.wait(60)
        self.look()
        return code, self.child.stdout.read()

    def __exit__(self, *_: object) -> None:
        self.child.kill()
        self.child.wait()
        for stream in (self.child.stdin, self.child.stdout, self.screen):
            with contextlib.suppress(BrokenPipeError):  # what it has not read
                stream.close()


def test_progress_on_a_terminal(scanning: Scanning) -> None:
    """A line in place, taken away at the end; nothing of it in a pipe."""
    assert scanning.child.stdin
    scanning.child.stdin.close()
    assert scanning.end() == (0, b"")
    assert scanning.seen.rstrip().endswith(b"\r\x1b[Kavault: no value of the vault is in 1 file")


def test_ctrl_c(scanning: Scanning) -> None:
    os.killpg(scanning.child.pid, signal.SIGINT)
    assert scanning.end() == (130, b"")


def test_forms_are_made_once() -> None:
    """A token that nobody quotes has one plain form, and the usual encodings are few."""
    kinds = list(avault.forms_of("sk-0123456789abcdefghij", rare=False).values())
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"plain": 1, "hex": 2, "base64": 6}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_text_of_other_widths(encoding: str) -> None:
    for value in ("tok-Zx81kkQ0aa77LmPqRs", "pässwörd-Zx81", "日本語のひみつ"):
        data = b"one\n" + f"key: {value}\n".encode(encoding)
        assert {name for _, name, _ in found_in(data, needles(A=value))} == {"g/A"}, value


def test_parts_of_structured_values() -> None:
    url = "postgres://app_user1:p%40ss-Zx81kk@db.example.com/app"
    account = json.dumps({"type": "service_account", "private_key_id": "0a1b2c3d4e5f", "token_uri": "https://oauth2.example.com"})
    looked_for = needles(URL=url, BOTH="deploy-bot:Zx81kkQ0aa77", ACCOUNT=account)
    for text, name in [
        ("the password is p@ss-Zx81kk", "g/URL"),
        ("PGPASSWORD=p%40ss-Zx81kk", "g/URL"),
        ("user app_user1", "g/URL"),
        ("Zx81kkQ0aa77", "g/BOTH"),
        ("id: 0a1b2c3d4e5f", "g/ACCOUNT"),
    ]:
        assert {found for _, found, _ in found_in(text.encode(), looked_for)} == {name}, text
    assert not found_in(b"a service_account of postgres at https://oauth2.example.com", looked_for)


def test_stdin_and_pipes(machine: Machine, tree: Path, canary) -> None:
    assert machine("scan", "-", input=f"one\n{canary.value}\n", code=1).stdout == "-:2: openai/API_KEY\n"
    assert machine("scan", "-", input="nothing").stdout == ""
    words = f"{shlex.quote(AVAULT)} scan <(echo {shlex.quote(canary.value)})"
    done = subprocess.run(["bash", "-c", words], env=machine.env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout.endswith(":1: openai/API_KEY\n")
    assert machine("scan", "/dev/stdin", input=canary.value, code=1).stdout == "/dev/stdin:1: openai/API_KEY\n"


def test_the_hook_looks_at_the_message(machine: Machine, repository: Path, canary) -> None:
    """But not at what `git commit -v` shows below it: a value may be taken out of a file."""
    (repository / "file").write_text(canary.value)
    git(machine, repository, "add", "file")
    git(machine, repository, "commit", "-q", "-m", "before there was a hook")
    machine("scan", "--install-hook", "tree")
    said = git(machine, repository, "commit", "--allow-empty", "-m", f"use {canary.value}", code=1)
    assert "-:1: openai/API_KEY" in said and "nothing was committed" in said
    (repository / "file").write_text("nothing")
    git(machine, repository, "commit", "-q", "-a", "-v", "-m", "taken out", "--edit", GIT_EDITOR="true")
    assert git(machine, repository, "log", "-1", "--format=%s") == "taken out\n"
