"""Vaults in git repositories: git as a person types it, with settings of the test's own, and machines that share a remote.

    git(machine, "pull")                          # in the vault's repository; the exit code must be 0
    with level(place.top, "a", "b") as (a, b):    # two machines with one vault, both open and level with a remote
    recorded(machine)                             # wait until what is on the disk is committed
    by_hand(machine)                              # `avault git record`, and what it says

Where a daemon runs, it records by itself after every write: what `by_hand` says then may be that nothing is left to do.
"""

import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nostr_sdk
from canary import record
from harness import Done, Machine, machines, wait_until

AGENT = nostr_sdk.Keys.generate()
NSEC = AGENT.secret_key().to_bech32()
MESSAGE = "avault: update the vault"
OURS = [".gitattributes", "avault.enc", "nip46.json", "nsec.enc"]


def make(machine: Machine) -> Machine:
    """A vault that opens without a phone, and a git that knows the machine's user, who is at ~/.gitconfig."""
    config = "[user]\nname = Ada\nemail = ada@example.com\n[init]\ndefaultBranch = main\n[advice]\ndetachedHead = false\n"
    (machine.home / ".gitconfig").write_text(config)
    machine.init_unproven(NOSTR_NSEC=NSEC)
    return machine


def start(machine: Machine, code: int = 0) -> None:
    """Open the vault without a phone."""
    machine("daemon", "start", "-b", NOSTR_NSEC=NSEC, code=code)


def stop(machine: Machine) -> None:
    machine("daemon", "stop", "--force")


def lock(machine: Machine) -> None:
    machine("lock", "--force")


def unlock(machine: Machine) -> None:
    """Open it again: a daemon of its own, as NOSTR_NSEC is taken at its start."""
    stop(machine)
    start(machine)


def put(machine: Machine, name: str, value: str, code: int = 0) -> None:
    machine("set", name, input=value, code=code)


def get(machine: Machine, name: str) -> str:
    return machine("get", name, secret=True).stdout.removesuffix("\n")


def values(machine: Machine, name: str) -> set[str]:
    """The value of a key, and those in conflict with it."""
    found = machine("get", name, "--json", secret=True).json
    return {found["value"], *found.get("conflicts", [])}


def git_run(machine: Machine, *words: str, cwd: Path | None = None, input: str | None = None, **env: str) -> Done:
    """git, as somebody types it there, without the settings of the machine that runs the tests."""
    settings = {"GIT_CONFIG_SYSTEM": os.devnull, "GIT_TERMINAL_PROMPT": "0", "GIT_EDITOR": "true", "LC_ALL": "C"}
    argv = ["git", *words]
    ended = subprocess.run(
        argv, cwd=cwd or machine.vault, env={**machine.env, **settings, **env}, input=input, capture_output=True, text=True
    )
    record(" ".join(argv), ended.stdout + ended.stderr)
    return Done(argv, ended.returncode, ended.stdout, ended.stderr)


def git(machine: Machine, *words: str, code: int | None = 0, cwd: Path | None = None, **env: str) -> str:
    """What git prints on stdout; its exit code must be `code`."""
    done = git_run(machine, *words, cwd=cwd, **env)
    assert code is None or done.returncode == code, f"{words}: {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout.rstrip("\n")


def commits(machine: Machine, revision: str = "HEAD") -> list[str]:
    """The messages, the latest first."""
    return git(machine, "log", "--format=%s", revision).splitlines()


def touched(machine: Machine, commit: str = "HEAD") -> list[str]:
    """The files that a commit changed, from the top."""
    return git(machine, "show", "--format=", "--name-only", commit).splitlines()


def is_committed(machine: Machine) -> bool:
    """Whether the last commit and the index have what is on the disk."""
    done = git_run(machine, "status", "--porcelain", "--", *(name for name in OURS if (machine.vault / name).exists()))
    return done.returncode == 0 and not done.stdout and git_run(machine, "rev-parse", "HEAD:./avault.enc").returncode == 0


def recorded(machine: Machine) -> dict[str, Any]:
    """What `avault git record` said, once it has recorded what is on the disk now."""
    wait_until(lambda: is_committed(machine), what="a commit", every=0.1)
    return told(machine)


def told(machine: Machine, *states: str) -> dict[str, Any]:
    """What `avault git record` said last, once it has said one of these states, or anything."""

    def find() -> dict[str, Any] | None:
        found = machine.status()["git"]
        return found if found and (not states or found["state"] in states) else None

    return dict(wait_until(find, what=f"git: {states}"))


def by_hand(machine: Machine, code: int = 0, **env: str) -> dict[str, Any]:
    """`avault git record`, as the daemon runs it that has just written what is on the disk."""
    return dict(machine("git", "record", *vouched(machine), code=code, **env).json)


def vouched(machine: Machine) -> list[str]:
    """The words with which the daemon vouches for what is on the disk."""
    files = {name: machine.vault / name for name in ("avault.enc", "nsec.enc")}
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if path.is_file()}
    return ["--verified", json.dumps(hashes)]


def share(machine: Machine, origin: Path) -> None:
    """Put a machine's vault into a repository with a bare remote, and publish it."""
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", origin], check=True, env=machine.env)
    git(machine, "init", "-q")
    git(machine, "remote", "add", "origin", str(origin))
    by_hand(machine)
    git(machine, "push", "-q", "-u", "origin", "main")


def clone(machine: Machine, origin: Path) -> None:
    """Open a clone of a vault on another machine."""
    machine.vault.parent.mkdir(parents=True, exist_ok=True)
    (machine.home / ".gitconfig").write_text("[user]\nname = Bob\nemail = bob@example.com\n")
    git(machine, "clone", "-q", str(origin), str(machine.vault), cwd=machine.home)
    start(machine)
    recorded(machine)


@contextlib.contextmanager
def level(top: Path, *names: str) -> Iterator[list[Machine]]:
    """Machines with one vault that has g/K = first, all open, level with the remote between them, and set up."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(machine) for machine in machines(top, *names)]
        first, *others = found
        make(first)
        put(first, "g/K", "first")
        share(first, top / "origin")
        for other in others:
            clone(other, top / "origin")
            wait_until(lambda other=other: not git(other, "rev-list", "origin/main..HEAD"), what="a push", every=0.1)
        for machine in found:
            git(machine, "pull", "-q", "--ff-only")
            machine("list")
        yield found
