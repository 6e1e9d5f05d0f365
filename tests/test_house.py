"""The rules of the house, each held to by a check that fails when it is broken: how src/avault/ becomes avault.py."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import amalgamate
import click
import pytest
from where_keys_pass import Handlers, find_keys, find_signs

import avault

ROOMS = {path.relative_to(amalgamate.SOURCE).with_suffix("").as_posix(): path for path in amalgamate.SOURCE.rglob("*.py")}
EXTRAS = {path.name: path for path in (amalgamate.ROOT / "src" / "avault_extras").glob("*.py")}
LINES = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in (ROOMS | EXTRAS).items()}

LONGEST = 350  # lines of a room
WIDEST = 100  # columns of a line
ATTRIBUTES = 12  # of a class: one with more is two
MORE = {  # those that still have more: a number here may only become smaller
    "Broker": 13,
    "Gate": 17,  # of the proxy
}
KEY_LINES = 2_500  # of keys/ together: what a person can read in an afternoon
ONE_PLACE = {  # what is done in one place, and the rooms that do it; a list here may only become shorter
    "nostr_sdk, whose every release breaks calls": (
        r"^import nostr_sdk",
        "keys/nostr signer/relays signer/stored",
    ),
    "connections to relays": (r"nostr_sdk\.ClientBuilder", "signer/relays signer/stored"),
    "frames; `plain` for who has no asyncio, and SSH's own": (
        r"to_bytes\(4, \"big\"\)|(buffer\[:4\]|take\(4\)|\bdata), \"big\"",
        "plain protocol ssh_wire",
    ),
    "running git": (r"\[\"git\",", "git/run"),
    "running openclaw": (r"which\(\"openclaw\"\)", "openclaw/program"),
    "the forms in which a value may show": (r"quote_plus|b32encode|b16encode", "running/forms"),
    "merging two copies of a vault": (r"merge_secrets\(", "vault/records"),
}


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
    assert not {name: count for name, count in LINES.items() if count > LONGEST}, "cut it in two"


def test_lines_are_not_wider_than_a_page() -> None:
    lines = ((name, line) for name, path in (ROOMS | EXTRAS).items() for line in path.read_text(encoding="utf-8").splitlines())
    assert not [(name, line) for name, line in lines if len(line) > WIDEST]


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    paths = ROOMS | {f"avault_extras/{name}": path for name, path in EXTRAS.items()}
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in paths.items()}


def attributes(of: ast.ClassDef) -> set[str]:
    """What an object of a class has: what is assigned to `self`, and a dataclass's fields."""
    own = (node for node in ast.walk(of) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    names = {node.attr for node in own if isinstance(node.value, ast.Name) and node.value.id == "self"}
    fields = (node.target for node in of.body if isinstance(node, ast.AnnAssign))
    return names | {target.id for target in fields if isinstance(target, ast.Name)}


def test_a_class_of_more_than_a_dozen_attributes_is_two(trees: dict[str, ast.Module]) -> None:
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    counts = dict(
        sorted(((each.name, len(attributes(each))) for each in classes), key=lambda each: each[1])
    )  # the larger of a name
    assert not {name: count for name, count in counts.items() if count > MORE.get(name, ATTRIBUTES)}, "cut it in two"
    assert {name: counts.get(name) for name in MORE} == MORE, "write the smaller number into MORE, or take the class out of it"


def test_what_is_called_is_found_in_tables() -> None:
    """Never by the name of a function or method, which is for its readers."""
    by_name = re.compile(r"\.__name__\s*(==|!=|in\b)|\[[\w.]+\.__name__\]|getattr\(\w+, f\"")
    others = {name: path for name, path in ROOMS.items() if name != "lazy"}  # that one knows modules by their names
    assert not [name for name, path in others.items() if by_name.search(path.read_text(encoding="utf-8"))]


def test_what_touches_a_key_can_be_read_in_an_afternoon() -> None:
    assert sum(count for name, count in LINES.items() if name.startswith("keys/")) <= KEY_LINES


@pytest.fixture(scope="module")
def handlers(trees: dict[str, ast.Module]) -> Handlers:
    return Handlers(trees)


def listed_elsewhere() -> list[str]:
    """The rooms that security.md names as other places that a key passes through."""
    text = (amalgamate.ROOT / "references" / "security.md").read_text(encoding="utf-8")
    table = text.partition("<!-- keys elsewhere -->")[2].partition("<!-- /keys elsewhere -->")[0]
    rows = [row.split("|")[1:-1] for row in table.splitlines() if row.startswith("| `")]
    assert all(len(row) == 3 and all(map(str.strip, row)) for row in rows), "each with what passes there, and why"
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row[0])]


def test_every_other_place_that_a_key_passes_through_is_listed(trees: dict[str, ast.Module]) -> None:
    found = {name: signs for name, signs in find_keys(trees).items() if not name.startswith("keys/")}
    listed = listed_elsewhere()
    assert not {name: signs for name, signs in found.items() if name not in listed}, "list it in references/security.md"
    assert not [name for name in listed if name not in found], "no key passes there: take it off the list"
    assert len({*listed}) == len(listed)


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("git/merge", "def x(keys: Keys): ..."),
        ("git/merge", "x: Keys | None = None"),
        ("git/merge", "from avault.keys.nostr import read_keys\nx = lambda text: read_keys(text)"),
        ("git/merge", "from avault.keys.nostr import decrypt\nx = lambda: to_thread(decrypt, 1, 2, 3)"),
        ("daemon/status", "x = lambda pairing: RemoteSigner(pairing.keys, [], None, None)"),
        ("daemon/status", "x = lambda keyholder: json.dumps(keyholder.open_store().keys)"),
        ("daemon/status", "x = lambda store: store.find().secret_key()"),
        ("daemon/status", "async def x(way): await way.get_key({})"),
        ("cli/log", "x = lambda: os.environ.get('NOSTR_NSEC')"),
        ("cli/log", "x = lambda terminal, key: terminal.ask('init', value={'nsec': key})"),
        ("custody/stale", "def x(secret: str): ..."),
        ("avault_extras/mcp.py", "x = lambda text: avault.parse_keys(text)"),
        ("avault_extras/custody_fido2_html.py", "def x(secret: bytes): ..."),
    ],
)
def test_a_key_that_passes_elsewhere_is_noticed(room: str, line: str, trees: dict[str, ast.Module], handlers: Handlers) -> None:
    assert not [*find_signs(room, trees[room], handlers)]
    faulty = ast.Module([*trees[room].body, *ast.parse(line).body], [])
    assert [*find_signs(room, faulty, handlers)]


@pytest.mark.parametrize("what", ONE_PLACE)
def test_one_rule_has_one_place(what: str) -> None:
    pattern, rooms = ONE_PLACE[what]
    found = [name for name, path in ROOMS.items() if re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)]
    assert sorted(found) == rooms.split()


def test_the_fast_way_takes_options_as_click_does() -> None:
    """`daily` has its table without click; each row is an option of the command, of the same kind."""
    kinds = {bool: (True, False, False), list: (False, True, False), str: (False, False, False)}
    for name, options in avault.FAST.items():
        made = [make() for make in avault.COMMANDS[name][1]]
        known = {"--json": click.Option(["--json"], is_flag=True)}  # of every command
        known |= {each: one for one in made if isinstance(one, click.Option) for each in one.opts}
        for option, kind in options.items():
            found = known[option]
            shape = found.is_flag, found.multiple, found._flag_needs_value
            assert shape == kinds.get(kind, (False, False, True)), (name, option)
            assert not isinstance(kind, str) or found.flag_value == kind, (name, option)


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
        ("vault/files", "from avault.cli.pair import cmd_init", "cli/pair is above vault/files"),
        ("keys/seal", "from avault.cli.pair import cmd_init", "cli/pair is above keys/seal"),
        ("keys/seal", "from avault.daemon.autolock import AutoLock", "it stands on daemon/"),
        (
            "vault/placeholders",
            "from avault.keys.holding import Holding",
            "keys/holding is above vault/placeholders: it stands on daemon/",
        ),
        ("errors", "from avault.vault.records import Vault", "vault/records is above errors"),
        ("vault/records", "from avault.keys.seal import encrypt", "a circle: "),
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


def test_tests_are_sorted_like_the_source() -> None:
    """What several of them use is in tools/, and what is no room of ours has a folder that says so."""
    tests = Path(__file__).parent
    files = [path.relative_to(tests) for path in tests.rglob("*.py") if path.name != "__init__.py"]
    names = [path.name for path in files]
    assert len({*names}) == len(names), "all of them are found by their name alone"
    folders = {path.parts[0] for path in files if len(path.parts) > 1}
    assert folders <= {*amalgamate.FOLDERS, "extras", "proof", "references", "tools"}
    shared = [path for path in files if path.parts[0] not in ("tools", "proof") and not path.name.startswith("test_")]
    assert shared == [Path("conftest.py")]


def test_no_test_says_what_is_always_so() -> None:
    always = re.compile(r"^\s*assert .*(\bin \((True, False|False, True)\)|\b(len|count)\(.*\) >= 0\b|\bor True\b)", re.MULTILINE)
    files = [path for path in Path(__file__).parent.rglob("*.py") if path != Path(__file__)]
    assert not [(path.name, found[0]) for path in files for found in always.finditer(path.read_text(encoding="utf-8"))]


def test_each_dangerous_fault_still_has_its_place() -> None:
    """`measure_mutants` puts them into avault.py, in the slow part: that each can be put there shows here at once."""
    tests = Path(__file__).parent
    text, names = amalgamate.TARGET.read_text(encoding="utf-8"), list[str]()
    for node in ast.parse((tests / "tools" / "measure_mutants.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DANGEROUS":
            for old, _, test in ast.literal_eval(node.value):
                assert text.count(old) == 1, old
                names.append(test)
    assert names
    for file, name in {tuple(re.split(r"::|\[", test)[:2]) for test in names}:
        assert f"def {name}" in (tests / file).read_text(encoding="utf-8")
