"""Completion in real shells: what each offers for a line that somebody types."""

import os
import pty
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Machine, wait_until

import avault

ZSH = r"""
autoload -Uz compinit && compinit -u -D
source $SCRIPT
compadd() {  # zsh shows matches on the screen only; here they also go to a file
    if [[ ${@[1,(i)(-|--)]} != *-(O|A|D)\ * ]]; then
        local -a matches
        builtin compadd -A matches "$@"
        print -rl -- $matches >> $OFFERED
    fi
    builtin compadd "$@"
}
done-completing() { print -r -- "$BUFFER" > $TYPED.new; mv $TYPED.new $TYPED; BUFFER= }
zle -N done-completing
bindkey '^X' done-completing '^I' complete-word
unsetopt list_beep
setopt no_always_last_prompt
LISTMAX=10000
print ready > $OFFERED.ready
"""


class Shell:
    """Completes a line as one shell does; a set of words, without what --option= or a comma stands before them."""

    def __init__(self, name: str, machine: Machine) -> None:
        if not shutil.which(name):
            pytest.skip(f"{name} is not installed")
        self.name, self.machine = name, machine
        self.script = machine.top / f"completion.{name}"
        self.script.write_text(machine("completion", name).stdout)
        self.env = {**machine.env, "TERM": "dumb", "SCRIPT": str(self.script)}

    def __call__(self, line: str) -> set[str]:
        words = {"bash": self.bash, "zsh": self.zsh, "fish": self.fish}[self.name](line)
        return {word.split("=", 1)[-1].split(",")[-1].rstrip("/ ") for word in words if word}

    def run(self, *argv: str) -> list[str]:
        done = subprocess.run(argv, env=self.env, cwd=self.machine.top, capture_output=True, text=True, timeout=60)
        assert done.stderr == ""
        return done.stdout.split("\n")

    def bash(self, line: str) -> list[str]:
        words = line.replace("=", " = ").split(" ")  # as bash does it
        program = 'source "$SCRIPT"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _avault; printf "%s\n" "${COMPREPLY[@]}"'
        return self.run("bash", "--noprofile", "--norc", "-c", program, "bash", *words)

    def fish(self, line: str) -> list[str]:
        return [
            each.partition("\t")[0] for each in self.run("fish", "--no-config", "-c", "source $SCRIPT; complete -C $argv", line)
        ]

    def zsh(self, line: str) -> list[str]:
        return self.type_zsh(line)[0]

    def type_zsh(self, line: str) -> tuple[list[str], str]:
        """What zsh offers on a terminal, and the line it makes of it."""
        offered, typed, rc = (self.machine.top / name for name in ("offered", "typed", "rc"))
        for path in (offered, typed, Path(f"{offered}.ready")):
            path.unlink(missing_ok=True)
        rc.write_text(ZSH)
        leader, follower = pty.openpty()
        env = {**self.env, "OFFERED": str(offered), "TYPED": str(typed)}
        with subprocess.Popen(
            ["zsh", "-f", "-i"],
            env=env,
            cwd=self.machine.top,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
        ) as shell:
            os.close(follower)
            os.set_blocking(leader, False)
            self.screen = b""

            def look(path: Path) -> bool:
                try:
                    self.screen += os.read(leader, 1 << 16)
                except OSError:
                    pass
                return path.exists()

            os.write(leader, f"source {rc}\n".encode())
            wait_until(lambda: look(Path(f"{offered}.ready")), what="zsh")
            os.write(leader, line.encode() + b"\t\x18")
            wait_until(lambda: look(typed), what=f"completion of {line!r}: {self.screen!r}")
            shell.kill()
        os.close(leader)
        return (offered.read_text().split("\n") if offered.exists() else []), typed.read_text().rstrip("\n")


def prepare(machine: Machine, canary) -> None:
    machine.init_unproven()
    for path, text in (
        (machine.home / ".config" / "avault" / "fleet", "# all of them\nweb1\n  web2 vault=~/x\n\ndeploy@db1\n"),
        (machine.home / ".ssh" / "config", "Host web-of-ssh *.example.com\n  User web\n"),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    for name in ("openai/API_KEY", "openai/ORG", "data.base-1/PASSWORD", "ai/OTHER"):
        machine("set", name, input=canary.value)
    for name in ("web", "worker", "other"):
        machine("grant", name, "--group", "ai")


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request: pytest.FixtureRequest, lend: Callable[..., Machine], canary) -> Shell:
    return Shell(request.param, lend(prepare, canary))


LINES = [
    ("avault g", {"get", "guard", "grant", "grants"}),
    ("avault revoke w", {"web", "worker"}),
    ("avault grant web --can ", {"get", "run", "proxy", "sign"}),
    ("avault grant web --only openai/A", {"openai/API_KEY"}),
    ("avault daemon sto", {"stop"}),
    ("avault daemon ", {"start", "status", "stop"}),
    ("avault get op", {"openai", "openai/API_KEY", "openai/ORG"}),
    ("avault get openai/A", {"openai/API_KEY"}),
    ("avault get nothing", set()),
    ("avault get openai --key ", {"API_KEY", "ORG"}),
    ("avault get openai --key=A", {"API_KEY"}),
    ("avault set data.base-1 --key P", {"PASSWORD"}),
    ("avault get ai --key ", {"OTHER"}),
    ("avault get --key ", {"API_KEY", "ORG", "OTHER", "PASSWORD"}),
    ("avault restore HEAD~2 op", {"openai", "openai/API_KEY", "openai/ORG"}),
    ("avault restore HEAD~2 openai --key ", {"API_KEY", "ORG"}),
    ("avault history op", {"openai", "openai/API_KEY", "openai/ORG"}),
    ("avault guard openai/A", {"openai/API_KEY"}),
    ("avault guard openai --only ", {"run", "proxy", "ssh", "sign", "wallet"}),
    ("avault guard openai --as", {"--ask"}),
    ("avault unguard op", {"openai", "openai/API_KEY", "openai/ORG"}),
    ("avault get --ke", {"--key"}),
    ("avault get --json openai/O", {"openai/ORG"}),
    ("avault export --group ", {"ai", "openai", "data.base-1"}),
    ("avault export --only API_KEY,OR", {"ORG"}),
    ("avault export --only openai/", {"openai/API_KEY", "openai/ORG"}),
    ("avault export --allow P", {"PASSWORD"}),
    ("avault export --format ", {"dotenv", "json", "systemd", "docker", "github", "k8s"}),
    ("avault export --shell --pre", {"--prefix"}),
    ("avault completion f", {"fish"}),
    ("avault scan ho", {"home"}),
    ("avault scan --staged ho", {"home"}),
    ("avault set openai/X --file ho", {"home"}),
    ("avault fleet rem", {"remove"}),
    ("avault fleet remove we", {"web1", "web2", "web-of-ssh"}),
    ("avault fleet status --only ", {"web1", "web2", "deploy@db1"}),
    ("avault fleet add web", {"web1", "web2", "web-of-ssh"}),
    ("avault git", set()),
    ("avault --dir /nowhere get op", set()),
    ("avault --dir=/nowhere get op", set()),
    ("avault get --dir /nowhere op", set()),
    ("avault --json get op", {"openai", "openai/API_KEY", "openai/ORG"}),
]


@pytest.mark.slow
def test_offers(shell: Shell) -> None:
    assert {line: shell(line) for line, _ in LINES} == dict(LINES)


@pytest.mark.slow
def test_another_programs_command_line(shell: Shell) -> None:
    """`avault run` completes commands, then files."""
    program = shell.machine.top / "bin" / "frobnicate-the-agent"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    shell.env["PATH"] = f"{program.parent}:{shell.env['PATH']}"
    for line in ("avault run frobn", "avault run -- frobn", "avault run --group openai frobn", "avault run --only ORG -- frobn"):
        assert shell(line) == {"frobnicate-the-agent"}, line
    assert shell("avault run --gro") == {"--group"}
    assert shell("avault run --group open") == {"openai"}
    assert "home" in shell("avault run -- cat ho")


@pytest.mark.slow
def test_a_locked_vault_has_no_names_and_makes_no_noise(shell: Shell) -> None:
    shell.machine("lock", "--force")
    assert shell("avault get op") == set()  # and nothing on stderr
    assert shell("avault ge") == {"get"}
    shell.machine("daemon", "stop", "--force")
    assert shell("avault get op") == set()


def test_no_words_that_are_not_for_people(machine: Machine) -> None:
    for name in ("bash", "zsh", "fish"):
        script = machine("completion", name).stdout
        assert "git merge" not in script
        assert "keyholder" not in script.split()


def test_every_command_and_option_is_in_the_script(machine: Machine) -> None:
    """The script for bash names all that --help knows."""
    script = machine("completion", "bash").stdout
    for words in avault.all_words():
        for name in words.name.split():
            assert name in script
        assert words.about
        for option in words.options:
            assert option.takes != "VALUE", f"the usage of {words.name} does not say what {option.names} takes"


def test_other_shells_and_json(machine: Machine) -> None:
    assert "no completion for 'tcsh'" in machine("completion", "tcsh", code=2).stderr
    machine("completion", code=2)
    answer = machine("completion", "fish", "--json").json
    assert answer["script"] == machine("completion", "fish").stdout and answer["shell"] == "fish"


def test_zsh_finishes_the_word(machine: Machine, canary) -> None:
    """The line that is on the terminal afterwards, not only what was offered."""
    machine.init_unproven()
    machine("set", "openai/API_KEY", input=canary.value)
    shell = Shell("zsh", machine)
    assert shell.type_zsh("avault get openai/")[1] == "avault get openai/API_KEY "
    assert shell.type_zsh("avault get openai --key=A")[1] == "avault get openai --key=API_KEY "
    assert shell.type_zsh("avault export --only ORG,A")[1].rstrip(" ,") == "avault export --only ORG,API_KEY"


@pytest.mark.slow
def test_bash_finishes_the_word(machine: Machine, canary) -> None:
    machine.init_unproven()
    machine("set", "openai/API_KEY", input=canary.value)
    shell = Shell("bash", machine)
    typed = machine.top / "typed"
    (machine.top / "a file.txt").touch()
    (machine.top / "rc").write_text("""
        source "$SCRIPT"
        finish() { printf '%s' "$READLINE_LINE" > "$TYPED.new"; mv "$TYPED.new" "$TYPED"; READLINE_LINE=; }
        bind -x '"\\C-x\\C-f": finish'
        PS1='ready> '
    """)

    def complete(line: str) -> str:
        typed.unlink(missing_ok=True)
        leader, follower = pty.openpty()
        env = {**shell.env, "TYPED": str(typed)}
        with subprocess.Popen(
            ["bash", "--noprofile", "--rcfile", "rc", "-i"],
            env=env,
            cwd=machine.top,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
        ) as process:
            os.close(follower)
            os.set_blocking(leader, False)
            screen = b""

            def look() -> bytes:
                nonlocal screen
                try:
                    screen += os.read(leader, 1 << 16)
                except OSError:
                    pass
                return screen

            wait_until(lambda: b"ready> " in look(), what="bash")
            os.write(leader, line.encode() + b"\t\x18\x06")
            wait_until(lambda: look() and typed.exists(), what=f"completion of {line!r}")
            process.kill()
        os.close(leader)
        return typed.read_text()

    assert complete("avault get openai/") == "avault get openai/API_KEY "
    assert complete("avault get openai --key=A") == "avault get openai --key=API_KEY "
    assert complete("avault export --only ORG,A") == "avault export --only ORG,API_KEY "
    assert complete("avault set openai/X --file a") == "avault set openai/X --file a\\ file.txt "
    assert complete("avault get a") == "avault get a"
