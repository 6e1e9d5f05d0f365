"""`avault inject`: values into a template, and nothing else changed; a file that only its owner can read."""

# ruff: noqa: E501

import json
import os
import shutil
import stat
import subprocess
import tomllib
import xml.etree.ElementTree
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import dotenv
import pytest
from canary import Canary
from harness import AVAULT, Machine
from hypothesis import given, settings
from hypothesis import strategies as st

import avault

pytestmark = pytest.mark.usefixtures("forks")

MULTILINE = "one\n\ttwo 'and' \"three\" \\ $HOME é\n"


def prepare(machine: Machine, canary: Canary) -> None:
    machine.init_unproven()
    machine("set", "api/TOKEN", input=canary.value)
    machine("set", "db.main/PASS_WORD", "--file", "/dev/stdin", input=canary.mark + MULTILINE)


@pytest.fixture
def vault(lend: Callable[..., Machine], canary: Canary) -> Machine:
    return lend(prepare, canary)


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
        (b"avault://db.main/PASS_WORD\n", password + b"\n"),  # alone, there is nothing to break
        (b'{"a": "avault://api/TOKEN/path?x=1"}', b'{"a": "' + token + b'/path?x=1"}'),
        (b"none", b"none"),
        (b"", b""),
        (b"avault:/ avault api/TOKEN AVAULT://api/TOKEN", b"avault:/ avault api/TOKEN AVAULT://api/TOKEN"),
    ]:
        assert inject(vault, template) == expected
    assert inject(vault, b"://avault://db.main/PASS_WORD-x\n", "--for", "text") == b"://" + password + b"-x\n"


def test_the_rest_stays_as_it_is(vault: Machine, canary: Canary) -> None:
    """Byte for byte, also what is no text; and more than a pipe holds."""
    before, after = bytes(range(256)) * 5000 + b"\xff\r\n", b"\0\r\n\xfe" + os.urandom(500_000)
    assert inject(vault, before + b"avault://api/TOKEN" + after) == before + canary.value.encode() + after


@given(st.binary(max_size=60), st.binary(max_size=60), st.text(max_size=20), st.text(max_size=20))
@pytest.mark.slow
def test_any_rest_stays(before: bytes, after: bytes, one: str, other: str) -> None:
    """A value is not looked into, even if a reference stands there."""
    template = before + b"avault://a/B " + after + b"avault://c.d-e/_F1"
    if b"avault://" in before + after:
        return
    assert avault.find_references(template, "template") == {"a/B", "c.d-e/_F1"}
    secrets = {"a/B": [one + "avault://c.d-e/_F1", "in conflict"], "c.d-e/_F1": [other]}
    assert avault.resolve(template, secrets) == before + f"{one}avault://c.d-e/_F1 ".encode() + after + other.encode()


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
    refuse(vault, "-o", "no/such/directory", code=4, says=f"no directory {vault.top}/no/such")
    (vault.top / "template").write_text("x avault://api/TOKEN")
    refuse(vault, "-i", "template", "-o", "template", code=5, says=f"{vault.top}/template is the template")
    refuse(vault, "-i", "template", "-o", "directory/../template", code=5, says=" is the template")


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


# Forms


@pytest.mark.parametrize(("name", "form"), [
    ("config.json", "json"), ("a/b.json.tmpl", "json"), ("config.tmpl.json", "json"), ("x.yaml.j2", "yaml"), ("c.yml", "yaml"),
    (".env", "dotenv"), (".env.production", "dotenv"), ("prod.env.example", "dotenv"), (".env.tmpl", "dotenv"), ("x.toml.in", "toml"),
    ("a.XML", "xml"), ("run.sh.tpl", "shell"), (".envrc", "shell"), ("id.pem", "text"), ("x.conf", None), ("config.tmpl", None),
    ("json", None), (None, None), ("-", None), (".tmpl", None),
])  # fmt: skip
def test_the_form_that_a_name_tells(name: str | None, form: str | None) -> None:
    assert avault.form_of_name(name) == form


@pytest.mark.parametrize(("text", "form"), [
    ('{"a": "avault://a/B"}', "json"), (' [avault://a/B, "x"]\n', "json"), ("{not json avault://a/B}", None), ("<?xml version='1.0'?>", "xml"),
    ("<!DOCTYPE x>", "xml"), ("<a>", "xml"), ("#!/bin/sh\n", "shell"), ("#!/usr/bin/env bash\n", "shell"), ("a: avault://a/B", None), ("", None),
])  # fmt: skip
def test_the_form_that_a_text_shows(text: str, form: str | None) -> None:
    assert avault.form_of_text(text) == form


def filled(form: str, template: str, value: str) -> str | None:
    """A template with a value; None where that would break it."""
    try:
        return avault.fill(template.encode(), form, {"a/B": [value], "x/N": ["5432"]}, "t").decode()
    except avault.Usage as error:
        said = error.message
    assert "a/B would break it: it " in said and (value not in said or len(value) < 4)
    return None


def of_shell(shell: str) -> Callable[[str], object]:
    def read(text: str) -> object:
        argv = [shutil.which(shell) or pytest.skip(f"no {shell}"), "-c", text + '\nprintf "%s\\0%s" "$V" "$NEXT"']
        done = subprocess.run(argv, capture_output=True, env={"PATH": "/usr/bin:/bin"}, check=True)
        value, following = done.stdout.decode().split("\0")
        assert following == "5432" and not done.stderr
        return value

    return read


def of_yaml(text: str) -> object:
    found = pytest.importorskip("yaml").safe_load(text)
    assert found["next"] in (5432, "5432")
    value = found["v"]
    return value[0] if isinstance(value, list) else value["w"] if isinstance(value, dict) else value


def of_toml(text: str) -> object:
    found = tomllib.loads(text)
    assert found["next"] == 5432
    return found["v"][0] if isinstance(found["v"], list) else found["v"]


def of_json(text: str) -> object:
    found = json.loads(text)
    assert found["next"] == 5432
    return found["v"]


def of_xml(text: str) -> object:
    found = xml.etree.ElementTree.fromstring(text)
    assert [each.tag for each in found] == ["next"] and found[0].text == "5432"
    return found.get("v") or found.text


def of_dotenv(text: str) -> object:
    found, theirs = avault.read_dotenv(text)[0], dotenv.dotenv_values(stream=StringIO(text), interpolate=False)
    assert found["NEXT"] == theirs["NEXT"] == "5432"
    assert of_shell("sh")(text) == found["V"]
    return found["V"]


SHELL_TEMPLATES = [
    ("# it's\nV=avault://a/B\nNEXT=avault://x/N\n", "", ""),
    ("V='<avault://a/B>' NEXT='avault://x/N'\n", "<", ">"),
    ('V="<avault://a/B>"; NEXT=avault://x/N # "\n', "<", ">"),
    ("V=x-avault://a/B-y\nNEXT='avault://x/N'\n", "x-", "-y"),
]
# A form, a template, what stands before and after the value in it, its reader, and whether every value of text fits.
PLACES = [
    ("json", '{"k": 1, "v": "avault://a/B", "next": avault://x/N}', "", "", of_json, True),
    ("json", '{"v": "<avault://a/B>", "next": avault://x/N}', "<", ">", of_json, True),
    ("yaml", 'v: "avault://a/B"\nnext: avault://x/N\n', "", "", of_yaml, True),
    ("yaml", "v: avault://a/B # it's a comment\nnext: avault://x/N\n", "", "", of_yaml, True),
    ("yaml", "# it's \"one\nv:\n  - avault://a/B\nnext: 'avault://x/N'\n", "", "", of_yaml, True),
    ("yaml", "v: {w: avault://a/B, z: [1]}\nnext: avault://x/N\n", "", "", of_yaml, True),
    ("yaml", "v: 'avault://a/B'\nnext: avault://x/N\n", "", "", of_yaml, False),
    ("yaml", "v: pre-avault://a/B-post\nnext: avault://x/N\n", "pre-", "-post", of_yaml, False),
    ("yaml", "v: Bearer avault://a/B\nnext: avault://x/N\n", "Bearer ", "", of_yaml, False),
    ("yaml", "v: |-\n  avault://a/B\nnext: avault://x/N\n", "", "", of_yaml, False),
    ("yaml", "a:\n  - |\n   b: avault://x/N\nv: |-\n    x avault://a/B y\n    z\nnext: avault://x/N\n", "x ", " y\nz", of_yaml, False),
    ("yaml", "v: >-\n  avault://a/B\nnext: avault://x/N\n", "", "", of_yaml, False),
    ("toml", 'v = "avault://a/B"\nnext = avault://x/N # it\'s\n', "", "", of_toml, True),
    ("toml", 'v = """avault://a/B"""\nnext = avault://x/N\n', "", "", of_toml, True),
    ("toml", "v = avault://a/B\nnext = avault://x/N\n", "", "", of_toml, True),
    ("toml", "# \"\nv = [avault://a/B, 'x']\nnext = avault://x/N\n", "", "", of_toml, True),
    ("toml", "v = 'avault://a/B'\nnext = avault://x/N\n", "", "", of_toml, False),
    ("toml", "v = '''avault://a/B'''\nnext = avault://x/N\n", "", "", of_toml, False),
    ("xml", '<a v="avault://a/B"><next>avault://x/N</next></a>', "", "", of_xml, False),
    ("xml", "<!-- it's > avault://x/N --><a v='avault://a/B' w=\"x\"><next>avault://x/N</next></a>", "", "", of_xml, False),
    ("xml", "<a>x avault://a/B y<next>avault://x/N</next></a>", "x ", " y", of_xml, False),
    ("xml", "<a><![CDATA[avault://a/B]]><next>avault://x/N</next></a>", "", "", of_xml, False),
    ("dotenv", "V=avault://a/B\nNEXT=avault://x/N\n", "", "", of_dotenv, False),
    ("dotenv", "# it's\nexport V='avault://a/B'\nNEXT=\"avault://x/N\"\n", "", "", of_dotenv, False),
    ("dotenv", 'V="<avault://a/B>" # c\nNEXT=avault://x/N', "<", ">", of_dotenv, False),
    ("dotenv", "V=x-avault://a/B-y # c\nNEXT=avault://x/N\n", "x-", "-y", of_dotenv, False),
    *(("shell", *each, of_shell(shell), True) for shell in ("dash", "bash") for each in SHELL_TEMPLATES),
    ("shell", "V=$(cat <<EOF\nx avault://a/B y\nEOF\n); NEXT=avault://x/N\n", "x ", " y", of_shell("bash"), False),
    ("shell", 'V="x $(echo "avault://a/B")"\nNEXT=avault://x/N\n', "x ", "", of_shell("bash"), False),
    ("shell", 'W="$(echo "x")"; X="`id`"\nV="avault://a/B"; NEXT=avault://x/N', "", "", of_shell("bash"), True),
    ("shell", "V=`echo avault://a/B`\nNEXT=avault://x/N\n", "", "", of_shell("bash"), False),
]  # fmt: skip
HARD = [
    'quote"', "it's", "back\\slash", "end\\", "a: b", "a #b", "#x", "- x", "{a}", "a,b", "[x]", "$HOME", "`id`", "$(id)", "<&>", "]]>", "--", "-->",
    "é🦄", "two\nlines\n", "\n", "\ttab", " x ", "%s", "null", "true", "yes", "0x1F", "1e5", "007", "5432", "-1", "2024-01-01", "12:30", "~", "!x",
    "&x", "*x", "|", ">", "@x", "a:", "?", "\x85", "\u2028", "\ufeff", "\x7f", "\x1b[0m", "a\rb", "=", "<<", "\\n", "''", '""', "'''", '"""',
    "x" * 5000, "-----BEGIN KEY-----\nab+/=\n-----END KEY-----\n",
]  # fmt: skip


def is_same(form: str, template: str, found: object, expected: str) -> bool:
    """Whether a reader found the value; but for what a template says itself: a number without quotes, a block's |-."""
    if form == "yaml" and "|-" in template:
        return found == expected.removesuffix("\n")
    return found == expected or (isinstance(found, (int, bool)) and str(found).lower() == expected)


@pytest.mark.parametrize("number", range(len(PLACES)))
def test_a_value_comes_out_of_the_file_as_it_went_in(number: int) -> None:
    """By the form's own reader, with the rest of the file as it was; or it is refused."""
    form, template, before, after, read, fits_all = PLACES[number]
    words, refused = ["plain-Value_1.2", *HARD], []
    for value in words:
        text = filled(form, template, value)
        if text is None:
            refused.append(value)
        else:
            found = read(text)
            assert is_same(form, template, found, before + value + after), (value, text, found)
    assert not (fits_all and refused), refused
    assert words[0] not in refused


@given(
    value=st.text(st.sampled_from("ab0 \n\t'\"\\$`#:,-[]{}&<>!=|?~"), min_size=1, max_size=8),
    number=st.integers(0, len(PLACES) - 1),
)
@settings(deadline=None, max_examples=400)
def test_any_value(value: str, number: int) -> None:
    form, template, before, after, read, _ = PLACES[number]
    text = filled(form, template, value)
    if text is not None and form not in ("shell", "dotenv"):  # where a look takes a process
        assert is_same(form, template, read(text), before + value + after), (text, read(text))


@pytest.mark.parametrize("value", ["two\nlines", 'quote"', "it's", "back\\slash", "a b", "$x", "a#b", "<x>", "\x1b", "\u2028x"])
def test_where_nothing_tells_the_form_what_could_break_it_is_refused(value: str) -> None:
    for template in ("x = avault://a/B", 'x "avault://a/B"', "machine h password avault://a/B\n", "a: avault://a/B"):
        with pytest.raises(
            avault.Usage, match="t, line 1: a/B would break it: it has characters that may mean something"
        ) as refused:
            avault.fill(template.encode(), None, {"a/B": [value]}, "t")
        assert "--for json, yaml" in str(refused.value.hint) and value not in refused.value.message
        expected = template.replace("avault://a/B", value).encode()
        assert avault.fill(template.encode(), "text", {"a/B": [value]}, "t") == expected
    assert avault.fill(b"avault://a/B\n", None, {"a/B": [value]}, "t") == f"{value}\n".encode()
    harmless = b"p!@(x)*%^|~?,./:=+_-"
    assert avault.fill(b"x avault://a/B y\n", None, {"a/B": [harmless.decode()]}, "t") == b"x " + harmless + b" y\n"


def test_by_name_and_by_option(vault: Machine, canary: Canary, allow: Callable[[Path], Path]) -> None:
    """The template's name counts more than the output's; --for more than both."""
    value = canary.mark + MULTILINE
    (vault.top / "config.tmpl").write_text('{"a": "avault://db.main/PASS_WORD"')  # not whole: only a name can tell
    for words in (["-o", "config.json"], ["-o", "x", "--for", "json"]):
        target = allow(vault.top / words[1])
        vault("inject", "-i", "config.tmpl", *words)
        assert json.loads(target.read_text() + "}") == {"a": value}
    (vault.top / "c.yaml.tmpl").write_text("a: |\n  avault://db.main/PASS_WORD\n")
    target = allow(vault.top / "y.json")
    vault("inject", "-i", "c.yaml.tmpl", "-o", "y.json")
    assert target.read_text() == "a: |\n  " + value.rstrip("\n").replace("\n", "\n  ") + "\n"
    assert json.loads(inject(vault, b'{"a": "avault://db.main/PASS_WORD"}')) == {"a": value}
    refuse(vault, code=2, says="stdin, line 2: db.main/PASS_WORD would break it", input="a\nb avault://db.main/PASS_WORD\n")
    refuse(vault, "--for", "ini", code=2, says="no form 'ini'")


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
