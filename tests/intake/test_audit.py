"""`avault audit`: what stands in clear, wherever a shell, a service or an agent would read it; names and places, never values."""

# ruff: noqa: E501

import json
import os
import random
import shutil
import string
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_export import VALUES

import avault

pytestmark = pytest.mark.usefixtures("forks")

VALUE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


# What looks like a secret


def letters(alphabet: str, count: int) -> str:
    """Random letters; no token of anybody's."""
    return "".join(random.Random(alphabet + str(count)).choices(alphabet, k=count))


ANY, HEX = string.ascii_letters + string.digits, string.hexdigits[:16]
BECH32 = "023456789acdefghjklmnpqrstuvwxyz"
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@pytest.mark.parametrize(("name", "value"), [
    *[(name, "correct horse") for name in ("API_KEY", "OPENAI_API_KEY", "GITHUB_TOKEN", "DB_PASSWORD", "db_pass", "clientSecret", "NSEC", "MY_PASSPHRASE", "SENTRY_DSN", "PIN")],
    *[("X", value) for value in (
        "sk-" + letters(ANY, 40), "sk-proj-" + letters(ANY, 40), "sk-ant-api03-" + letters(ANY, 40), "ghp_" + letters(ANY, 36), "github_pat_" + letters(ANY, 60),
        "xoxb-" + letters(string.digits, 24), "AKIA" + letters(ANY, 16).upper(), "AIza" + letters(ANY, 35), "nsec1" + letters(BECH32, 58), "glpat-" + letters(ANY, 20),
        "hf_" + letters(ANY, 34), "gsk_" + letters(ANY, 52), "npm_" + letters(ANY, 36), "sk_live_" + letters(ANY, 24), letters(string.digits, 10) + ":" + letters(ANY, 35),
        "eyJ" + letters(ANY, 20) + ".eyJ" + letters(ANY, 20) + "." + letters(ANY, 43), "postgres://user:" + letters(ANY, 8) + "@host/db",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n", "AGE-SECRET-KEY-1" + letters(ANY, 58).upper(), letters(ANY, 32), letters(ANY + "+/", 43) + "=", letters(HEX, 64), letters(HEX, 40),
        "0x" + letters(HEX, 64), json.dumps([7] * 64), letters(BASE58, 88), " ".join(["abandon"] * 11 + ["about"]), " ".join(["legal"] * 24),
        *(json.dumps({"kty": kind, "d": "A" * 43, **more}) for kind, more in (("RSA", {"n": "A"}), ("EC", {"crv": "P-384"}), ("OKP", {"crv": "Ed25519"}))),
        json.dumps({"kty": "oct", "k": "A" * 43}),
        json.dumps({"kty": "RSA", "d": "A" * 43, "oth": [{"r": "A", "d": "A", "t": "A"}]}),
    )],
])  # fmt: skip
def test_secrets(name: str, value: str) -> None:
    assert avault.is_secret(name, value)


@pytest.mark.parametrize(("name", "value"), [
    ("EDITOR", "vim"), ("LANG", "en_US.UTF-8"), ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"), ("SSH_AUTH_SOCK", "/run/user/1000/keyring/ssh"), ("SSH_KEY", "/home/u/.ssh/id_ed25519"),
    ("KEY_FILE", "key.pem"), ("PUBLIC_KEY", "abc"), ("KEYBOARD", "us"), ("API_KEY", ""), ("USE_AUTH", "true"), ("API_KEY", "avault://openai/API_KEY"), ("API_KEY", "op://v/i/f"),
    ("PWD", "/x"), ("AWS_ACCESS_KEY_ID", "x"), ("TOKEN_TTL", "3600"), ("JAVA_HOME", "/usr/lib/jvm/java-17-openjdk-amd64"), ("PROJECT", "my-project-name-for-2024-production"),
    ("ID", "123e4567-e89b-12d3-a456-426614174000"), ("LS_COLORS", "rs=0:di=01;34:ln=01;36:mh=00:pi=40;33"), ("URL", "https://example.org/a/b?c=d"), ("X", "disk-encryption-helper-thing"),
    ("X", "the quick brown fox jumps over the lazy dog 42"), ("X", "a" * 64), ("X", "00000000000000000000000000000000"),
    ("X", "[1, 2, 3]"), ("X", "0x" + "00" * 20), ("X", "the quick brown fox jumps over the lazy dog and runs away now"),
])  # fmt: skip
def test_no_secrets(name: str, value: str) -> None:
    assert not avault.is_secret(name, value)


# What fish, systemd and pam_env read


def variables(found: list) -> dict[str, str | None]:
    return {each.name: each.value for each in found}


def test_fish() -> None:
    text = """set -gx A 'it\\'s'
if true; set -x B "a \\"b\\" \\$c"; end
set --export --global C a\\ b\\n\\x41
set -Ux D $HOME
set -gx E (pass show x)
export F=g   # comment
set -gx G a#b # comment
set -e H
set -gx I 'two
lines'
echo set -gx J k
"""
    assert variables(avault.parse_fish(text)) == {
        "A": "it's", "B": 'a "b" $c', "C": "a b\nA", "D": None, "E": None, "F": "g", "G": "a#b", "I": "two\nlines",
    }  # fmt: skip
    assert [each.line for each in avault.parse_fish(text)] == [1, 2, 3, 4, 5, 6, 7, 9]
    assert variables(avault.parse_fish(avault.render_export("fish", VALUES))) == VALUES


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(values=st.lists(VALUE, min_size=20, max_size=40))
def test_what_fish_writes_is_read_back(values: list[str], tmp_path: Path) -> None:
    """By `string escape`, and as universal variables. (Beyond Unicode's private characters, in which fish keeps bytes.)"""
    fish = shutil.which("fish") or pytest.skip("no fish")
    values = [value for value in values if not any(0xE000 <= ord(c) < 0xF900 or ord(c) > 0xEFFFF for c in value)]
    given_values = {f"V{number}": value for number, value in enumerate(values)}
    script = "for name in (string split ' ' $NAMES); set -U U$name $$name; echo set -gx $name (string escape -- $$name); end"
    env = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "HOME": str(tmp_path),
        "NAMES": " ".join(given_values),
        **given_values,
    }
    written = subprocess.run([fish, "--no-config", "-c", script], env=env, capture_output=True, check=True).stdout.decode()
    assert variables(avault.parse_fish(written)) == given_values


def test_universal_variables_of_fish(tmp_path: Path) -> None:
    fish = shutil.which("fish") or pytest.skip("no fish")
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(tmp_path), "V": "a b\n$x 'é' \\ #"}
    subprocess.run([fish, "-c", "set -Ux A $V; set -U B x y"], env=env, check=True)
    text = (tmp_path / ".config" / "fish" / "fish_variables").read_text()
    assert variables(avault.parse_fish_variables(text)).items() >= {"A": env["V"], "B": "x y"}.items()


def test_units_and_pam_env() -> None:
    unit = '[Service]\nEnvironment=A=1 "B=two words" \'C=x"y\' D=50%%\n# Environment=E=5\n Environment = F=a\\x41 \\\n  "G=g"\nPassEnvironment=H\n'
    assert variables(avault.parse_unit(unit)) == {"A": "1", "B": "two words", "C": 'x"y', "D": "50%", "F": "aA", "G": "g"}
    assert [each.line for each in avault.parse_unit(unit)] == [2, 2, 2, 2, 4, 5]
    assert variables(avault.parse_pam('A DEFAULT=1\n#B DEFAULT=2\nC  OVERRIDE="two words"\nD DEFAULT=${HOME}\n')) == {
        "A": "1",
        "C": "two words",
        "D": None,
    }
    assert variables(avault.parse_pam("A=1\n")) == {"A": "1"}


# The command


def prepare(machine: Machine, canary) -> None:
    machine.init_unproven()
    machine("set", "openai/API_KEY", input=canary.new("openai"))
    machine("set", "db/PASSWORD", input=canary.new("db"))


@pytest.fixture
def opened(lend: Callable[..., Machine], canary) -> Machine:
    """A vault that holds openai/API_KEY and db/PASSWORD."""
    return lend(prepare, canary)


def audit(machine: Machine, *words: str, code: int) -> list[tuple]:
    """The findings: file below the home directory, line, variable, state, secrets."""
    found = machine("audit", *words, "--json", code=code).json
    assert found["clean"] is (code == 0) is (not found["findings"])
    for each in found["findings"]:
        assert list(each) == ["file", "line", "variable", "state", "secrets"]
        assert each["file"] in found["files"]
    return [(os.path.relpath(each["file"], machine.home), *list(each.values())[1:]) for each in found["findings"]]


def test_audit(opened: Machine, canary, allow: Callable[[Path], Path]) -> None:
    assert audit(opened, code=0) == []
    profile = allow(opened.home / ".profile")
    profile.write_text(f"""# old: export OPENAI_API_KEY={canary.new("openai")}
export EDITOR=vim HARMLESS={canary.new("db")}
if x; then export PASSWORD='{canary.new("other")}'; fi
export OPENAI_API_KEY={canary.new("other")}
STRIPE_TOKEN={canary.new("stripe")}
export FROM_VAULT=$(avault get db/PASSWORD) REFERENCE_TOKEN=avault://db/PASSWORD
curl -H "Authorization: Bearer {canary.new("openai")}" https://example.org
""")
    expected = [
        (".profile", 1, None, "same", ["openai/API_KEY"]),
        (".profile", 2, "HARMLESS", "same", ["db/PASSWORD"]),
        (".profile", 3, "PASSWORD", "differs", ["db/PASSWORD"]),
        (".profile", 4, "OPENAI_API_KEY", "differs", ["openai/API_KEY"]),
        (".profile", 5, "STRIPE_TOKEN", "missing", []),
        (".profile", 7, None, "same", ["openai/API_KEY"]),
    ]
    assert audit(opened, code=1) == expected
    done = opened("audit", code=1)
    assert (
        done.stdout
        == f"""\
{profile}:1  (in the text)  in the vault too: openai/API_KEY
{profile}:2  HARMLESS  in the vault too: db/PASSWORD
{profile}:3  PASSWORD  differs from db/PASSWORD
{profile}:4  OPENAI_API_KEY  differs from openai/API_KEY
{profile}:5  STRIPE_TOKEN  not in the vault
{profile}:7  (in the text)  in the vault too: openai/API_KEY
"""
    )
    assert "avault: in clear in 1 file: 1 not in the vault, 2 with another value, 3 in both\n" in done.stderr
    assert "avault: hint: avault migrate --remove" in done.stderr and done.stderr.endswith("then: rm FILE\n")


def test_where_audit_looks(opened: Machine, canary, allow: Callable[[Path], Path]) -> None:
    """Also at what systemd units name; at a file once, by whatever names; not deep, and not at examples or directories."""
    config, value = opened.home / ".config", canary.new("openai")
    line = f"export TOKEN='{canary.new('x')}'\n"
    files = {
        ".bash_profile": line, ".bashrc": line, ".zshenv": line, ".zshrc": line, ".zprofile": line,
        ".pam_environment": f"TOKEN DEFAULT={canary.new('x')}\n", ".env": f"TOKEN={value}\n", ".env.production": f"TOKEN={value}\n", ".envrc": line,
        "clawd/.env": f"TOKEN={value}\n", ".openclaw/.env": f"TOKEN={value}\n",
        ".config/environment.d/10-keys.conf": f"TOKEN={value}\n", ".config/fish/config.fish": f"set -gx TOKEN {value}\n",
        ".config/fish/fish_variables": f"SETUVAR --export TOKEN:{value}\n",
        ".config/systemd/user/agent.service": f"[Service]\nEnvironment=A=b \"TOKEN={value}\"\nEnvironmentFile=-%h/secrets/agent.env\nEnvironmentFile=-/none\n",
        ".config/systemd/user/agent.service.d/10.conf": f"[Service]\nEnvironment=TOKEN={value}\n",
        "secrets/agent.env": f"TOKEN={value}\n",
    }  # fmt: skip
    never = {".env.example": line, "deep/.env": line, "other.env": line, ".config/systemd/user/agent.timer": f"X={value}\n"}
    for name, text in (files | never).items():
        (opened.home / name).parent.mkdir(parents=True, exist_ok=True)
        allow(opened.home / name).write_text(text)
    (opened.home / ".profile").symlink_to(".bash_profile")
    (opened.top / ".env").mkdir()  # here is another directory: a Python environment may be called so
    found = audit(opened, code=1)
    assert {file for file, *_ in found} == files.keys() - {".bash_profile"} | {".profile"}
    assert len(found) == len(files) and {variable for _, _, variable, *_ in found} == {"TOKEN"}
    lines = {file: line for file, line, *_ in found}
    assert lines[".config/systemd/user/agent.service"] == 2
    elsewhere = opened.top / "xdg"
    shutil.copytree(config / "environment.d", allow(elsewhere) / "environment.d")
    moved = opened("audit", "--json", code=1, XDG_CONFIG_HOME=str(elsewhere)).json["files"]
    assert str(elsewhere / "environment.d" / "10-keys.conf") in moved and not any(".config" in file for file in moved)


def test_audit_of_a_named_file(opened: Machine, canary, allow: Callable[[Path], Path]) -> None:
    allow(opened.home / ".profile").write_text(f"export TOKEN={canary.value}\n")
    file = allow(opened.home / "some file.env")
    file.write_text("\ufeffnot a line\n" + avault.quote_dotenv("TOKEN", canary.odd) + f"broken='\nSECRET={canary.value}\n")
    assert audit(opened, "--file", str(file), code=1) == [
        ("some file.env", 2, "TOKEN", "missing", []),
        ("some file.env", 5, "SECRET", "missing", []),
    ]
    assert opened("audit", "--file", "~/none", code=4).stdout == ""
    (opened.home / "binary").write_bytes(b"\0\xff")
    assert "is not a text file" in opened("audit", "--file", str(opened.home / "binary"), code=2).stderr


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_looked_at(
    opened: Machine, canary, allow: Callable[[Path], Path]
) -> None:
    (opened.home / ".profile").write_bytes(b"\0")
    os.mkfifo(opened.home / ".zshrc")
    allow(opened.home / ".bashrc").write_bytes(b"# caf\xe9\nexport TOKEN=" + canary.value.encode() + b" X=caf\xe9\n")
    done = opened("audit", code=1)
    assert done.stdout == f"{opened.home}/.bashrc:2  TOKEN  not in the vault\n"
    assert f"avault: warning: {opened.home}/.profile is not a text file\n" in done.stderr


def test_audit_of_a_locked_vault_or_none(opened: Machine) -> None:
    opened("lock", "--force")
    done = opened("audit", code=3)
    assert done.stdout == "" and "avault: hint: " in done.stderr
    opened("daemon", "stop", "--force")
    assert opened("audit", code=6).stdout == ""


def test_audit_is_in_the_access_log(opened: Machine) -> None:
    opened("audit")
    last = (opened.own / "access.log").read_text().splitlines()[-2:]
    assert any('"for": "audit"' in line or '"for":"audit"' in line for line in last)
