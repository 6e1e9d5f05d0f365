"""x"""

import pytest
from git_helpers import by_hand, git, make, put
from harness import Machine

pytestmark = [pytest.mark.proof]


@pytest.mark.parametrize("where", [".", ".."])
def test_a_repository_within_the_vault_runs_nothing(machine: Machine, where: str) -> None:
    machine.vault = machine.home / "clawd" / "deep" / ".avault"
    machine.env["AVAULT_DIR"] = str(machine.vault)
    make(machine)
    top = machine.home / "clawd"
    git(machine, "init", "-q", cwd=top)
    put(machine, "g/K", "first")
    by_hand(machine)
    # pushed by the attacker, and pulled: ordinary files
    evil = machine.vault / where
    trace = machine.top / "pwned"
    script = machine.top / "evil.sh"
    script.write_text(f"#!/bin/sh\necho $0 $@ >> {trace}\nexit 1\n")
    script.chmod(0o755)
    (evil / "objects" / "x").mkdir(parents=True)
    (evil / "refs" / "heads").mkdir(parents=True)
    (evil / "HEAD").write_text("ref: refs/heads/main\n")
    (evil / "config").write_text(f"""[core]
 repositoryformatversion = 0
 bare = false
 worktree = {machine.vault}
 fsmonitor = {script}
 sshCommand = {script}
[remote "origin"]
 url = /tmp
 fetch = +refs/heads/*:refs/remotes/origin/*
 receivepack = {script}
 uploadpack = {script}
[branch "main"]
 remote = origin
 merge = refs/heads/main
""")

    print(by_hand(machine, code=None))
    put(machine, "g/K", "second")
    print(by_hand(machine, code=None))
    ref = evil / "refs/heads/main"
    if ref.exists():
        (evil / "refs/remotes/origin").mkdir(parents=True)
        (evil / "refs/remotes/origin/main").write_text(ref.read_text())
    put(machine, "g/K", "third")
    print(by_hand(machine, code=None))
    print(machine("sync", code=None))
    assert not trace.exists(), trace.read_text()
