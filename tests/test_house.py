"""The rules of the house, each held to by a check that fails when it is broken: how src/avault/ becomes avault.py."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import amalgamate
import pytest

ROOMS = {path.relative_to(amalgamate.SOURCE).with_suffix("").as_posix(): path for path in amalgamate.SOURCE.rglob("*.py")}
LINES = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in ROOMS.items()}

LONGEST = 350  # lines of a room
LONGER: dict[str, int] = {  # those that are still longer: a number here may only become smaller
}
WIDEST = 100  # columns of a line
WIDER = 20  # lines that are still wider; it may only become smaller
KEYS = re.compile(  # what touches a key; of the kinds of custodians, each has one unlock key, in a process of its own
    r"custody/(custodian|custodians|helper|obtaining|prompt|trial)$|"
    r"daemon/(answers|asked|changes|consent|contact|entrusting|gate|holding|keyholder|log|openers?|pairing|ratchet|releasing)$|"
    r"daemon/(replicating|requests|rotating|talks|unlocking)$|vault/(kept_guards|locks|older|recovery|seal)$|signer/replica$|nostr$|process$"
)
KEY_LINES = 6_630  # of these together: what a person can read in an afternoon; it may only become smaller
NOSTR = 4  # rooms that know nostr_sdk, whose every release breaks calls; it may only become smaller


@pytest.fixture(scope="module", autouse=True)
def rooms_are_read_once() -> Iterator[None]:
    """A room whose text is as it was is not parsed again: a fault is in one of them, and the others stay as they are."""
    read, known = amalgamate.Room, dict[tuple[str, str], amalgamate.Room]()

    def read_once(source: Path, path: Path) -> amalgamate.Room:
        key = path.relative_to(source).as_posix(), path.read_text(encoding="utf-8")
        if key not in known:
            known[key] = read(source, path)
        return known[key]

    with mock.patch.object(amalgamate, "Room", read_once):
        yield


def test_rooms_are_not_corridors() -> None:
    wrong = {name: count for name, count in LINES.items() if count > LONGER.get(name, LONGEST)}
    assert not wrong, "cut it in two"
    loose = {name: LINES.get(name, 0) for name, limit in LONGER.items() if LINES.get(name, 0) < limit - 10}
    assert not loose, "write the smaller number into LONGER, or take the room out of it"


def test_lines_are_not_wider_than_a_page() -> None:
    wide = [line for path in ROOMS.values() for line in path.read_text(encoding="utf-8").splitlines() if len(line) > WIDEST]
    assert len(wide) <= WIDER


def test_what_touches_a_key_can_be_read_in_an_afternoon() -> None:
    assert sum(count for name, count in LINES.items() if KEYS.match(name)) <= KEY_LINES


def test_few_rooms_know_the_library() -> None:
    known = [name for name, path in ROOMS.items() if re.search(r"^import nostr_sdk", path.read_text(), re.MULTILINE)]
    assert len(known) <= NOSTR


def test_each_room_says_what_is_in_it() -> None:
    """In its first line, which the top of avault.py lists."""
    rooms = amalgamate.read_rooms(amalgamate.SOURCE)
    assert not [room.name for room in rooms if not room.about() or len(room.about()[0]) > 100]


def test_avault_py_is_what_the_source_gives() -> None:
    assert amalgamate.TARGET.read_text(encoding="utf-8") == amalgamate.render(amalgamate.SOURCE)


# What the generator refuses: each on a copy of the source with one fault


@pytest.fixture
def source(tmp_path: Path) -> Path:
    copy = tmp_path / "avault"
    shutil.copytree(amalgamate.SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def test_a_copy_gives_the_same(source: Path) -> None:
    assert amalgamate.render(source) == amalgamate.TARGET.read_text(encoding="utf-8")


def add(source: Path, room: str, *lines: str) -> None:
    """Put lines behind the imports of a room."""
    path = source / f"{room}.py"
    head, future, rest = path.read_text(encoding="utf-8").partition("from __future__ import annotations\n")
    path.write_text("".join([head, future, *(line + "\n" for line in lines), rest]), encoding="utf-8")


@pytest.mark.parametrize(
    ("room", "line", "says"),
    [
        ("vault/seal", "from avault.cli.pair import cmd_init", "cli/pair is above vault/seal"),
        ("errors", "from avault.vault.records import Vault", "vault/records is above errors"),
        ("vault/records", "from avault.vault.seal import encrypt", "a circle: "),
        ("vault/records", "from avault.vault.nowhere import x", "there is no src/avault/vault/nowhere.py"),
        ("errors", "from avault.places import Places as Where", "what is imported keeps its name"),
        ("errors", "from avault.places import *", "what is imported keeps its name"),
        ("errors", "from json import dumps", "import the whole module"),
        ("errors", "import json as j", "a module has one name"),
        ("errors", "from typing import Any", "belongs under TYPE_CHECKING"),
        ("errors", "class Places: ...", "Places is defined by places and by errors"),
        ("vault/records", "def signal(): ...", "signal is defined by the module signal and by vault/records"),
        ("errors", "print('x')", "nothing happens at top level"),
        ("errors", "for x in (): pass", "nothing happens at top level"),
        ("errors", "x = open('/dev/null')", "open would be called at once"),
        ("errors", "import json\nx = json.dumps", "json would be imported at once"),
        ("errors", "import functools\n@functools.cache\ndef x(): ...", "functools would be imported at once"),
        ("errors", "import signal\ndef x(number=signal.SIGTERM): ...", "signal would be imported at once"),
        ("errors", "import click\nclass X(click.Option): ...", "click would be imported at once"),
        ("doctor/patient", "x = Finding('ok', 'x')", "Finding would be called at once"),
    ],
)
def test_refused(source: Path, room: str, line: str, says: str) -> None:
    add(source, room, line)
    with pytest.raises(amalgamate.Refused, match=re.escape(says)):
        amalgamate.render(source)


def test_a_folder_without_a_place_is_refused(source: Path) -> None:
    (source / "odd").mkdir()
    (source / "odd" / "room.py").write_text('"""A room."""\nX = 1\n')
    with pytest.raises(amalgamate.Refused, match="src/avault/odd/ has no place"):
        amalgamate.render(source)


def test_check_notices_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "avault.py"
    other.write_text(amalgamate.TARGET.read_text(encoding="utf-8") + "\n")
    monkeypatch.setattr(amalgamate, "TARGET", other)
    monkeypatch.setattr("sys.argv", ["amalgamate.py", "--check"])
    assert amalgamate.main() == 1
    assert "avault.py is not what src/avault gives" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["amalgamate.py"])
    assert amalgamate.main() == 0
    assert other.read_text(encoding="utf-8") == amalgamate.render(amalgamate.SOURCE)


def test_each_dangerous_fault_still_has_its_place() -> None:
    """`measure_mutants` puts them into avault.py, in the slow part: that each can be put there shows here at once."""
    tests = Path(__file__).parent
    text, names = amalgamate.TARGET.read_text(encoding="utf-8"), list[str]()
    for node in ast.parse((tests / "measure_mutants.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DANGEROUS":
            for old, _, test in ast.literal_eval(node.value):
                assert text.count(old) == 1, old
                names.append(test)
    assert names
    for file, name in {tuple(re.split(r"::|\[", test)[:2]) for test in names}:
        assert f"def {name}" in (tests / file).read_text(encoding="utf-8")
