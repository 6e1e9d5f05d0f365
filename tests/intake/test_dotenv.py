r"""The one reader of .env files: what it says of each, that `import` and `run --env-file` say the same, and who else does.

The judges are python-dotenv and npm's dotenv, and what `avault export` and python-dotenv write.
"""

# ruff: noqa: E501

import json
import os
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import dotenv
import dotenv_readers
import pytest
from canary import Canary
from harness import Machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peers import node, node_modules
from test_export import VALUES

import avault

pytestmark = pytest.mark.usefixtures("forks")

VALUE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
ODD = st.text(st.sampled_from("ab0 \t\n\r\\'\"$`!*?[]{}()<>|&;#~%=+-@^,.:/é🦄\x01\x7f\x1b\u2028\xa0"), min_size=1, max_size=12)
FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


# What stands in a .env file


@pytest.mark.parametrize(("text", "variables"), [
    ("A=1\n export B = 2 \n# c\n\nC=3 # c\nD='4' # c\nE=\"5\"#c", {"A": "1", "B": "2", "C": "3", "D": "4", "E": "5"}),
    ("A='x\ny'\nB=\"x\ny\\nz\"\nC=`x'\"`", {"A": "x\ny", "B": "x\ny\nz", "C": "x'\""}),
    ("A=a b c\nB=x=y\nC=a'b\"c\nD=a\\nb", {"A": "a b c", "B": "x=y", "C": "a'b\"c", "D": "a\\nb"}),
    ("A='$X ${X} \\n'\nB=\"\\$X \\${X} \\` \\\" \\\\n\"", {"A": "$X ${X} \\n", "B": "$X ${X} ` \" \\n"}),
    ("A=a#b\nB= # c\nC=\nD=#x\nE=a$b", {"A": "a#b", "B": "", "C": "", "D": "#x", "E": "a$b"}),
    ("A=1\nexport A\nA=2", {"A": "2"}),
    ("\ufeffA=1\r\nB='x\r\ny'\r\nC=2 # c\r\n", {"A": "1", "B": "x\ny", "C": "2"}),
    ("A='x\r\ny'\nB=1\r\n", {"A": "x\r\ny", "B": "1"}),
])  # fmt: skip
def test_dotenv(text: str, variables: dict[str, str]) -> None:
    assert {each.name: each.value for each in avault.parse_dotenv(text)} == variables


@pytest.mark.parametrize(
    "line", ["x", "=x", "A", "A:x", "A-B=x", "a.b=x", "1A=x", "'A'=x", "A='x", 'A="x', "A='x'y", 'A="x" y', "é=x", "A B=x"]
)
def test_lines_of_a_dotenv_file_that_are_none(line: str) -> None:
    found = avault.parse_dotenv(f"FIRST=1\n{line}\nLAST=2\n")
    assert [(each.line, each.name) for each in found if not each.problem] == [(1, "FIRST"), (3, "LAST")]
    assert [(each.line, each.value) for each in found if each.problem] == [(2, None)]


@FEW
@given(values=st.lists(VALUE | ODD, min_size=20, max_size=40))
def test_what_export_prints_is_read_back(values: list[str]) -> None:
    variables = {f"V{number}": value for number, value in enumerate(values)}
    found = avault.parse_dotenv(avault.render_export("dotenv", variables))
    assert {each.name: each.value for each in found} == variables
    assert not [each for each in found if each.problem]


def test_all_that_export_is_tested_with_is_read_back() -> None:
    found = avault.parse_dotenv(avault.render_export("dotenv", VALUES))
    assert {each.name: each.value for each in found} == VALUES
    one_by_one = {
        value: [each.value for each in avault.parse_dotenv(avault.quote_dotenv("V", value))] for value in VALUES.values()
    }
    assert one_by_one == {value: [value] for value in VALUES.values()}


@FEW
@given(values=st.lists(VALUE | ODD, min_size=20, max_size=40), mode=st.sampled_from(["always", "auto", "never"]))
def test_what_python_dotenv_writes_is_read_back(values: list[str], mode: str, tmp_path: Path) -> None:
    """As far as python-dotenv itself reads it back: not a CR, nor much of what "never" leaves unquoted; but for npm's backticks."""
    for number, value in enumerate(values):
        path = tmp_path / "env"
        path.write_text("")
        dotenv.set_key(path, "V", value, quote_mode=mode, export=bool(number % 2))
        if mode == "never" and value[0] == "`":
            continue
        if dotenv.dotenv_values(path, interpolate=False) == {"V": value} and "${" not in value and "\r" not in value:
            assert [(each.name, each.value) for each in avault.parse_dotenv(path.read_bytes().decode())] == [("V", value)]
        else:
            assert mode != "always" or "\r" in value or "${" in value


def lines_by_chance(count: int) -> list[str]:
    """What people write into .env files, and what they had better not."""
    chance = random.Random(count)
    pieces = [
        "a",
        "b c",
        "1",
        "#",
        " #",
        " # ",
        "'",
        '"',
        "`",
        "\\n",
        "\\",
        "\\\\",
        "\\'",
        '\\"',
        "\\t",
        "$A",
        "${A}",
        "=",
        ":",
        " ",
        "\t",
        "é",
        "\nx",
    ]
    lines = []
    for _ in range(count):
        body = "".join(chance.choices(pieces, k=chance.randrange(6)))
        quote = chance.choice(["", "", "'", '"', "`"])
        lines.append(
            chance.choice(["", "export "])
            + "A"
            + chance.choice(["=", "=", " = "])
            + quote
            + body
            + quote
            + chance.choice(["", " ", " # c"])
        )
    return lines


def test_what_is_taken_without_a_remark_is_what_the_readers_of_dotenv_files_read(tmp_path: Path) -> None:
    module = node_modules() / "dotenv" / "lib" / "main.js"
    if not module.exists():
        pytest.skip("no npm dotenv")
    lines = lines_by_chance(1500)
    (tmp_path / "lines").write_text(json.dumps(lines))
    script = """const [m, f] = process.argv.slice(1), d = require(m)
        console.log(JSON.stringify(JSON.parse(require("fs").readFileSync(f)).map(t => d.parse(t))))"""
    theirs = json.loads(
        subprocess.run([*node(), "-e", script, module, tmp_path / "lines"], capture_output=True, check=True).stdout
    )
    agreed = 0
    for line, npm in zip(lines, theirs, strict=True):
        found = avault.parse_dotenv(line)
        if any(each.problem for each in found):
            continue
        (tmp_path / "env").write_text(line)
        read = dotenv.dotenv_values(tmp_path / "env", interpolate=False)
        if not any(each.remark for each in found):
            assert {each.name: each.value for each in found} == read == npm, line
            agreed += 1
    assert agreed > 150


# What is taken, left and refused


@pytest.mark.parametrize(("text", "variables", "told"), [
    ("A=\nB=''\nC=\"\"\nD= \nE= # none", dict.fromkeys("ABCDE", ""), [(number, name, avault.EMPTY) for number, name in enumerate("ABCDE", 1)]),
    ("A=1\nA=2", {"A": "2"}, [(2, "A", avault.BEFORE)]),
    ("A=\nA=2", {"A": "2"}, [(1, "A", avault.EMPTY), (2, "A", avault.BEFORE)]),
    ("A=1\nB=x${A}\nC='${A}'", {"A": "1", "C": "${A}"}, [(2, "B", avault.REFERS), (3, "C", avault.QUOTED_REFERENCE)]),
    ("BARE_NAME\nexport A=1 B=2\nexport B", {"A": "1 B=2"}, [(1, "BARE_NAME", avault.NO_VALUE), (2, "A", avault.TWO_EXPORTS)]),
    ("hunter2\nJBSWY3DPEHPK3PXP\nMIIEvQIBADANBgkq\nc2VjcmV0\n", {}, [(number, "", avault.NO_VALUE) for number in range(1, 5)]),
    ("WITH-DASH=x\nspring.datasource.url=x\n1A=x\nq7Zk-x9=x\n", {}, [(1, "WITH-DASH", avault.NO_KEY), (2, "spring.datasource.url", avault.NO_KEY), (3, "", avault.NO_KEY), (4, "", avault.NO_KEY)]),
    ("A=`x`\nB='it\\'s'\nC=\"\\$x\"\nD=$x\nE=a#b", {"A": "x", "B": "it's", "C": "$x", "D": "$x", "E": "a#b"},
     [(1, "A", avault.BACKTICKS), (2, "B", avault.SINGLE_ESCAPES), (3, "C", avault.DOUBLE_ESCAPES), (4, "D", avault.DOLLAR), (5, "E", avault.HASH)]),
    ("A=1\rB=2\r", {"A": "1", "B": "2"}, []),
    ("A=1\rB=2\n", {"A": "1\rB=2"}, [(1, "A", avault.CARRIAGE_RETURN)]),
])  # fmt: skip
def test_what_is_taken_and_what_is_told(text: str, variables: dict, told: list[tuple]) -> None:
    found = avault.read_dotenv(text)
    assert found[0] == variables
    assert [(each.line, each.name, each.problem or each.remark) for each in found[1]] == told
    assert all(each.value is None for each in found[1])


@pytest.mark.parametrize(("text", "value", "is_told"), [
    ("A='x\ny'\n", "x\ny", False),
    ("A='x\r\ny'\r\nB=1\n", "x\ny", False),  # a file of two halves: a line that ends in CR LF was written so
    ("B=1\nA=\"x\r\ny\" # z\r\n", "x\ny", False),
    ("A='x\r\ny'", "x\ny", False),
    ("B=1\nA='x\r\ny'", "x\r\ny", True),
    ("A='x\r\ny'\n", "x\r\ny", True),  # as `avault export` writes a value that has it
    ("A=`x\r\ny`\nB=1\r\n", "x\r\ny", True),
    ("A='x\ry'\r\n", "x\ry", True),
    ("A=\"x\\r\\ny\"\n", "x\r\ny", False),  # an escape is an escape to all
])  # fmt: skip
def test_line_ends(text: str, value: str, is_told: bool) -> None:
    variables, told = avault.read_dotenv(text)
    assert variables["A"] == value
    assert [each.remark for each in told if each.name == "A"] == [avault.CARRIAGE_RETURN] * is_told


def test_all_bad_lines_at_once() -> None:
    with pytest.raises(avault.Usage) as refused:
        avault.read_dotenv(
            "A=1\nhunter2 x\nB='hunter2\nC='x'hunter2\nD=op://hunter2/x\nE=-----BEGIN RSA PRIVATE KEY-----\nWITH-DASH=\nBARE"
        )
    assert refused.value.message == (
        "line 2: not KEY=value; line 3: text after the closing quote; line 5, D: it is a reference to 1Password; "
        "line 6: a value of several lines needs quotes"
    )
    with pytest.raises(avault.Usage, match=r"(line \d+: not KEY=value; ){20}and 980 more"):
        avault.read_dotenv("x y\n" * 1000)


@pytest.mark.parametrize(
    "value",
    [
        "op://v/i/f",
        "encrypted:x",
        "ENC[AES256_GCM,data:x]",
        "pass://v/i/f",
        "ref+vault://x",
        "vault:secret/data/x#y",
        "{{ op://v/i/f }}",
    ],
)
def test_references_and_ciphertext_of_others_are_no_values(value: str) -> None:
    for takes_references in (True, False):
        with pytest.raises(avault.Usage, match="line 1, A: "):
            avault.read_dotenv(f"A='{value}'", takes_references)


def test_a_reference_to_a_vault_is_for_run_alone() -> None:
    assert avault.read_dotenv("A=avault://g/K", takes_references=True) == ({"A": "avault://g/K"}, [])
    with pytest.raises(avault.Usage, match="a reference to a vault"):
        avault.read_dotenv("A=avault://g/K")


@given(text=st.lists(st.sampled_from(
    ["A", "B", "=", "=", "\n", "\r\n", "\r", " ", "#", "'", '"', "`", "\\", "$", "${A}", "export ", "x", "y z", "op://", "-"]), max_size=30).map("".join))  # fmt: skip
@settings(deadline=None)
def test_nothing_is_told_that_is_not_a_name(text: str) -> None:
    """Whatever stands in a file, the reading ends, and what is told of it has no value."""
    try:
        said = [f"line {each.line}, {each.name}: {each.problem or each.remark}" for each in avault.read_dotenv(text)[1]]
    except avault.Usage as error:
        said = error.message.split("; ")
    names = "[ABx]+|export" if "x=" in text else "[AB]+|export"  # where x is a name itself
    assert all(
        re.fullmatch(rf"line \d+(, ({names})?)?: [^:=]+", each.replace("KEY=value", "").replace(r"\\", "")) for each in said
    ), said


@pytest.fixture
def opened(machine: Machine) -> Machine:
    machine.init_unproven()
    return machine


def test_import_and_run_read_a_file_alike(opened: Machine, canary: Canary, allow: Callable[[Path], Path]) -> None:
    """The same values, the same words about the rest, and the same refusal."""
    path = allow(opened.top / "mixed.env")
    one = canary.new("one")
    text = f"""\
PEM="{one}\r
second line"\r
PORT=8080
BACK=`{one}`
REF=x${{PORT}}
DOLLAR="\\${one}"
HASH={one}#1
BARE
WITH-DASH=1
export A={one} B=2
PORT=8081
"""
    path.write_bytes(text.encode())
    names = ["PEM", "PORT", "BACK", "DOLLAR", "HASH", "A"]
    imported = opened("import", str(path), "--group", "g")
    script = "import os, json, sys; print(json.dumps({name: os.environ.get(name) for name in sys.argv[1:]}))"
    ran = opened("run", "--env-file", str(path), "--no-mask", "--", "python3", "-c", script, *names, "REF", "BARE", secret=True)
    values = opened("get", "g", "--json", secret=True).json["values"]
    assert ran.json == {**values, "REF": None, "BARE": None} and set(values) == set(names)
    assert values["PEM"] == f"{one}\nsecond line" and values["PORT"] == "8081"
    said = [line.replace(f"{path}, ", "") for line in ran.stderr.splitlines()]
    assert said == [line for line in imported.stderr.splitlines() if " line " in line] and len(said) == 8, said
    path.write_text(f"A=1\n{one} x\nB=op://{one}\n")
    words = "line 2: not KEY=value; line 3, B: it is a reference to 1Password\n"
    assert opened("import", str(path), code=2).stderr.startswith(f"avault: error: {words}")
    assert opened("run", "--env-file", str(path), "--", "true", code=2).stderr.startswith(f"avault: error: {path}, {words}")


def test_what_export_prints_is_what_run_reads(opened: Machine, canary: Canary, allow: Callable[[Path], Path]) -> None:
    """A value with CR LF, as from Windows, stays what it is."""
    path = allow(opened.top / "e.env")
    value = f"{canary.value}\r\ntwo"
    opened("set", "g/K", input=value)
    path.write_bytes(opened("export", secret=True).stdout.encode())
    done = opened("run", "--env-file", str(path), "--no-mask", "--", "printenv", "K", secret=True)
    assert done.stdout == value + "\n"


# Who reads what


@pytest.mark.parametrize("name", dotenv_readers.READERS)
def test_each_column_of_the_table_is_what_its_reader_reads(name: str) -> None:
    """Stale: python tests/tools/dotenv_readers.py --write."""
    read, column = dotenv_readers.READERS[name], dotenv_readers.columns()
    assert column["line"] == [dotenv_readers.shown(line) for line in dotenv_readers.LINES]
    if name == "sh" and not os.path.realpath("/bin/sh").endswith("dash"):
        pytest.skip("sh is not dash")
    try:
        assert column[name] == [read(line) for line in dotenv_readers.LINES]
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_what_is_taken_without_a_warning_is_what_both_readers_of_dotenv_files_read() -> None:
    column = dotenv_readers.columns()
    plain = [index for index, cell in enumerate(column["avault"]) if cell not in ("left", "refused") and "warning" not in cell]
    assert len(plain) > 10
    for index in plain:
        assert column["avault"][index] == column["python-dotenv"][index] == column["npm's dotenv"][index], column["line"][index]
