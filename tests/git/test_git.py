"""`avault git record` in repositories of every kind: what it commits and pushes, what it leaves alone, what it never runs.

Most of it needs no daemon: to git the vault's files are bytes. Where one runs, the daemon itself runs `git record`.
"""

import errno
import fcntl
import http.server
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import stat
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import nostr_sdk
import pytest
from git_helpers import (
    AGENT,
    MESSAGE,
    OURS,
    by_hand,
    commits,
    git,
    git_run,
    is_committed,
    lock,
    make,
    put,
    recorded,
    share,
    stop,
    told,
    touched,
    vouched,
)
from harness import SOURCE, Machine, wait_until

import avault

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forks")]


HOOKS = """applypatch-msg pre-applypatch post-applypatch pre-commit pre-merge-commit prepare-commit-msg commit-msg post-commit
pre-rebase post-checkout post-merge pre-push post-rewrite push-to-checkout reference-transaction pre-auto-gc fsmonitor-watchman
post-index-change""".split()


ANYTHING = SimpleNamespace(check=lambda name, data: None)  # vouches for all that is on the disk


def fill(directory: Path) -> None:
    """A vault's files, as far as git can tell."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in OURS:
        (directory / name).write_bytes(secrets.token_hex(40).encode() + b"\n")
    (directory / ".gitattributes").write_bytes(avault.GITATTRIBUTES)


def change(machine: Machine) -> bytes:
    """As the keyholder writes: another file under the same name."""
    data = secrets.token_hex(40).encode() + b"\n"
    new = machine.vault / "new"
    new.write_bytes(data)
    new.replace(machine.vault / "avault.enc")
    return data


def in_head(machine: Machine, name: str = "avault.enc", revision: str = "HEAD") -> bytes:
    """A file of the vault's directory as a commit has it."""
    return git(machine, "cat-file", "blob", f"{revision}:./{name}").encode() + b"\n"


def state(machine: Machine) -> list[object]:
    """All that git knows, to be compared."""
    words = (("for-each-ref",), ("status", "--porcelain=v2", "--branch"), ("ls-files", "-s", "-v"), ("stash", "list"))
    return [git_run(machine, *each).stdout for each in words]


@pytest.fixture
def repository(machine: Machine) -> Machine:
    """A machine with a vault of bytes at the top of a repository without a commit."""
    config = "[user]\nname = Ada\nemail = ada@example.com\n[init]\ndefaultBranch = main\n"
    (machine.home / ".gitconfig").write_text(config)
    fill(machine.vault)
    git(machine, "init", "-q")
    return machine


@pytest.fixture
def below(machine: Machine) -> Machine:
    """The same in a directory below a repository that has a commit of the user's: README and src/main.py."""
    machine = Machine(machine.top, machine.home / "project" / "deep" / ".avault")
    config = "[user]\nname = Ada\nemail = ada@example.com\n[init]\ndefaultBranch = main\n"
    (machine.home / ".gitconfig").write_text(config)
    fill(machine.vault)
    top = machine.home / "project"
    git(machine, "init", "-q", str(top))
    (top / "src").mkdir()
    (top / "src" / "main.py").write_text("one\n")
    (top / "README").write_text("one\n")
    git(machine, "add", "README", "src", cwd=top)
    git(machine, "commit", "-qm", "the user's", cwd=top)
    return machine


# A daemon, and what it writes


def test_each_write_is_committed_by_itself(machine, canary):
    make(machine)
    git(machine, "init", "-q")
    put(machine, "openai/API_KEY", canary.value)
    recorded(machine)
    assert touched(machine) == OURS
    put(machine, "openai/ORG", "x")
    recorded(machine)
    head = git(machine, "rev-parse", "--short=12", "HEAD")
    said = wait_until(lambda: (last := told(machine, "committed"))["commit"] == head and last, what="word of the last commit")
    assert said["repository"] == str(machine.vault) and said["push"] == "none"
    machine("delete", "openai/ORG")
    recorded(machine)
    assert commits(machine) == [MESSAGE] * 3
    assert touched(machine) == ["avault.enc"]
    assert git(machine, "log", "-1", "--format=%an <%ae> %cn <%ce>") == "Ada <ada@example.com> Ada <ada@example.com>"
    assert git(machine, "status", "--porcelain") == ""
    assert in_head(machine) == (machine.vault / "avault.enc").read_bytes()
    assert "openai" not in git(machine, "log", "--format=%B%n%N", "--all") + git(machine, "reflog")


def test_init_in_a_repository_commits_and_sets_up(machine):
    config = "[user]\nname = Ada\nemail = ada@example.com\n"
    (machine.home / ".gitconfig").write_text(config)
    machine.vault.mkdir(parents=True)
    git(machine, "init", "-q")
    machine.init_unproven()
    recorded(machine)
    assert touched(machine) == OURS
    assert avault.is_set_up(avault.Repository(str(machine.vault)))


def test_nobody_waits_for_git(machine, canary):
    """A hanging git holds up neither a write nor a read, and what was written meanwhile is committed afterwards."""
    make(machine)
    stop(machine)
    git(machine, "init", "-q")
    gate = machine.top / "gate"
    os.mkfifo(gate)
    place = machine.top / "bin"
    place.mkdir()
    real = shutil.which("git")
    (place / "git").write_text(f'#!/bin/sh\n[ ! -p {gate} ] || cat {gate}\nexec {real} "$@"\n')
    (place / "git").chmod(0o755)
    nsec = avault_git_nsec()
    machine("daemon", "start", "-b", PATH=f"{place}:{os.environ['PATH']}", NOSTR_NSEC=nsec)
    for number in range(5):
        put(machine, f"g/K{number}", canary.value)
    assert machine("get", "g/K4", secret=True).stdout == canary.value + "\n"
    assert git_run(machine, "rev-parse", "HEAD").returncode, "git has not got to it"
    gate.rename(machine.top / "open")
    with (machine.top / "open").open("w"):
        pass
    recorded(machine)
    assert len(commits(machine)) < 5, "what was written meanwhile is one commit"


def avault_git_nsec() -> str:
    from git_helpers import NSEC

    return NSEC


def test_the_repository_gets_files_that_its_other_readers_can_read(machine, canary):
    """The daemon's own files are for nobody else, but those in .git are for whom the repository is for."""
    make(machine)
    old = os.umask(0o022)
    try:
        git(machine, "init", "-q")
    finally:
        os.umask(old)
    put(machine, "g/K", canary.value)
    recorded(machine)
    found = [path for path in (machine.vault / ".git" / "objects").rglob("*") if path.is_file()]
    assert len(found) >= 6 and all(path.stat().st_mode & 0o044 == 0o044 for path in found)


# What is committed


def test_what_the_user_has_staged_stays_staged(below):
    top = below.home / "project"
    (top / "README").write_text("staged\n")
    (top / "new").write_text("staged\n")
    git(below, "add", "README", "new", cwd=top)
    git(below, "rm", "-q", "--cached", "src/main.py", cwd=top)
    (top / "README").write_text("not staged\n")
    (top / "untracked").write_text("x\n")
    before = git(below, "status", "--porcelain", "--", ".", ":!deep", cwd=top)
    assert by_hand(below)["state"] == "committed"
    change(below)
    assert by_hand(below)["state"] == "committed"
    assert git(below, "status", "--porcelain", cwd=top) == before
    assert touched(below, "HEAD~1") == [f"deep/.avault/{name}" for name in OURS]
    assert touched(below) == ["deep/.avault/avault.enc"]
    assert git(below, "show", "HEAD:README") == "one" and git(below, "show", ":README") == "staged"
    assert by_hand(below)["state"] == "clean" and len(commits(below)) == 3


def test_the_first_commit_is_of_our_files_alone(repository):
    (repository.vault / "mine").write_text("x")
    git(repository, "add", "mine")
    assert by_hand(repository)["state"] == "committed"
    assert touched(repository) == OURS
    assert git(repository, "status", "--porcelain") == "A  mine"
    git(repository, "commit", "-qm", "mine")
    assert touched(repository) == ["mine"]


def test_what_is_staged_of_our_files_is_what_is_on_the_disk(repository):
    by_hand(repository)
    (repository.vault / "avault.enc").write_text("staged\n")
    git(repository, "add", "avault.enc")
    data = change(repository)
    by_hand(repository)
    assert git(repository, "status", "--porcelain") == "" and in_head(repository) == data


def test_attributes_that_say_more_are_the_users_to_commit(repository):
    path = repository.vault / ".gitattributes"
    path.write_bytes(avault.GITATTRIBUTES + b"*.py diff=python\n")
    by_hand(repository)
    assert touched(repository) == OURS[1:]
    assert git(repository, "status", "--porcelain") == "?? .gitattributes"
    path.write_bytes(avault.GITATTRIBUTES)
    by_hand(repository)
    assert touched(repository) == OURS[:1]


def test_what_is_gone_is_the_users_to_commit(repository):
    by_hand(repository)
    (repository.vault / "nip46.json").unlink()
    assert by_hand(repository)["state"] == "clean"
    change(repository)
    assert by_hand(repository)["state"] == "committed"
    assert touched(repository) == ["avault.enc"] and git(repository, "status", "--porcelain") == " D nip46.json"


def test_git_has_nothing_to_look_up_afterwards(repository):
    """Scripts that ask whether a tree is clean do so without refreshing the index (git-diff-index(1))."""
    by_hand(repository)
    for _ in range(2):
        git(repository, "diff-index", "--quiet", "HEAD", "--")
        git(repository, "diff-files", "--quiet")
        change(repository)
        by_hand(repository)


def test_a_directory_that_is_reached_by_a_link(repository):
    link = repository.top / "link"
    link.symlink_to(repository.vault)
    said = by_hand(repository, AVAULT_DIR=str(link))
    assert said["state"] == "committed" and said["repository"] == str(repository.vault)


def test_links_are_not_followed(repository):
    secret = repository.top / "elsewhere"
    secret.write_text("not for git\n")
    (repository.vault / "nip46.json").unlink()
    (repository.vault / "nip46.json").symlink_to(secret)
    by_hand(repository)
    assert touched(repository) == [".gitattributes", "avault.enc", "nsec.enc"]


def test_what_lies_around_is_not_read(repository):
    for number in range(3000):
        (repository.vault / f"untracked{number}").touch()
    os.mkfifo(repository.vault / "fifo")
    assert by_hand(repository)["state"] == "committed"
    assert git(repository, "ls-files").splitlines() == OURS


def test_the_users_commits_and_ours_at_the_same_time(below):
    """Both move the branch: neither loses a commit of the other, nor takes a file of the other along."""
    top = below.home / "project"
    done = []

    def user() -> None:
        for number in range(12):
            (top / f"file{number}").write_text("x\n")
            while git_run(below, "add", f"file{number}", cwd=top).returncode:
                pass
            while git_run(below, "commit", "-qm", f"user {number}", "--", f"file{number}", cwd=top).returncode:
                pass
        done.append(True)

    thread = threading.Thread(target=user)
    thread.start()
    written = []
    while thread.is_alive():
        written.append(change(below))
        by_hand(below, code=0)
    thread.join()
    by_hand(below)
    assert done and in_head(below) == written[-1] and git(below, "status", "--porcelain", cwd=top) == ""
    messages = git(below, "log", "--format=%H %s").splitlines()
    assert sum("user" in line for line in messages) == 13
    for line in messages:
        commit, _, message = line.partition(" ")
        ours = {name.startswith("deep/.avault/") for name in touched(below, commit)}
        assert ours == {message == MESSAGE}, line


# What is not as the daemon knows it


def damage(path: Path, how: str) -> bytes:
    """Damage a file: the bytes that it has then."""
    data = bytearray(path.read_bytes())
    if how == "a bit":
        data[len(data) // 2] ^= 1
    bad = {"a bit": bytes(data), "cut": bytes(data[:-9]), "junk": b"x\n", "empty": b""}[how]
    path.write_bytes(bad)
    return bad


@pytest.mark.parametrize("how", ["a bit", "cut", "junk", "empty"])
def test_a_damaged_vault_is_neither_committed_nor_pushed(machine, canary, how):
    make(machine)
    put(machine, "g/K", canary.value)
    share(machine, machine.top / "origin")
    good = (machine.vault / "avault.enc").read_bytes()
    damage(machine.vault / "avault.enc", how)
    machine("list")  # at which the daemon notices it, and has git told
    said = told(machine, "refused")
    assert said["reason"] == "avault.enc on the disk is not what is served, so it is not committed"
    assert "is not what is served" in machine("sync", code=8).stderr
    lock(machine)
    assert machine("git", "record").json["state"] == "refused", "a vault that is locked has its pin"
    assert "nobody has verified avault.enc" in machine("sync", code=3).stderr
    assert git(machine, "cat-file", "blob", "main:avault.enc", cwd=machine.top / "origin").encode() + b"\n" == good
    git(machine, "checkout", "-q", "avault.enc")
    assert machine("git", "record").json["state"] == "clean"


def test_an_older_vault_is_not_committed(machine, canary):
    make(machine)
    put(machine, "g/K", canary.value)
    git(machine, "init", "-q")
    machine("git", "record")
    old = (machine.vault / "avault.enc").read_bytes()
    put(machine, "g/K2", canary.value)
    recorded(machine)
    (machine.vault / "avault.enc").write_bytes(old)
    assert machine("git", "record").json["state"] == "refused"


@pytest.mark.parametrize("how", ["a bit", "another's", "gone"])
def test_a_recovery_copy_that_does_not_open_is_made_anew(machine, canary, how):
    """Nobody opens it until all else is lost; so the daemon looks, and what it would not open is not published."""
    make(machine)
    git(machine, "init", "-q")
    machine("git", "record")
    path = machine.vault / "nsec.enc"
    before = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "a bit":
        damage(path, how)
    else:
        keys, content = nostr_sdk.Keys.generate(), avault.decode_file("nsec", before, "nsec.enc")
        foreign = {name: avault.encrypt(keys, avault.public_hex(keys), "{}") for name in ("envelope", "sealed")}
        path.write_bytes(avault.encode_file("nsec", {**content, **foreign}))
    put(machine, "g/K", canary.value)
    wait_until(lambda: path.exists() and is_committed(machine), what="a commit")
    data = path.read_bytes()
    assert data != before and in_head(machine, "nsec.enc") == data
    content = avault.decode_file("nsec", data, "nsec.enc")
    answer = avault.decrypt(machine.operator, AGENT.public_key().to_hex(), content["envelope"])
    assert avault.open_nsec(content, answer) == AGENT, "the operator's phone opens it"
    assert any("was made anew" in text for text in machine.status()["warnings"])


def test_what_nobody_has_verified_is_not_committed(repository):
    """Without a daemon, and without a pin."""
    said = repository("git", "record").json
    assert (said["state"], said["hint"]) == ("refused", "avault unlock")
    assert git_run(repository, "rev-parse", "HEAD").returncode
    for words in (["--verified", "[]"], ["--verified", "{"]):
        repository("git", "record", *words, code=2)


# Before the first commit


def test_sync_makes_the_first_commit(machine, canary):
    make(machine)
    put(machine, "g/K", canary.value)
    git(machine, "init", "-q")
    assert "no commit yet" in machine("history", code=4).stderr
    done = machine("sync")
    assert done.stderr == "avault: committed: there is no remote to be level with\n" and touched(machine) == OURS
    assert machine("sync", "--json").json["upstream"] is None
    git(machine, "remote", "add", "origin", str(machine.top / "origin"))
    assert "avault: hint: git push -u origin main" in machine("sync", code=1).stderr


def test_the_first_commit_goes_to_an_empty_remote(machine, canary):
    git(machine, "init", "-q", "--bare", "-b", "main", str(machine.top / "origin"), cwd=machine.top)
    machine.vault.parent.mkdir(parents=True)
    git(machine, "clone", "-q", str(machine.top / "origin"), str(machine.vault), cwd=machine.top)
    make(machine)
    assert machine("sync", "--json").json["pushed"] == 1
    put(machine, "g/K", canary.value)
    wait_until(lambda: told(machine)["push"] == "pushed", what="a push")


def test_where_there_is_no_vault(machine):
    for words in (("sync",), ("history",), ("restore", "HEAD", "g/K")):
        assert "no vault in /none" in machine(*words, AVAULT_DIR="/none", code=4).stderr


# Nothing to do


def test_no_repository(machine, canary):
    make(machine)
    put(machine, "g/K", canary.value)
    said = by_hand(machine)
    assert said["state"] == "no_repository" and said["repository"] is None
    assert machine.status()["git"] in (None, said)


def test_no_git(repository):
    empty = repository.top / "empty"
    empty.mkdir()
    assert by_hand(repository, PATH=str(empty))["state"] == "no_repository"
    assert "git is not installed" in by_hand(repository, PATH=str(empty))["reason"]


@pytest.mark.parametrize("where", ["the directory", "the files", "for the user", "here only"])
def test_ignored(below, where):
    top = below.home / "project"
    path, text = {
        "the directory": (top / ".gitignore", ".avault/\n"),
        "the files": (top / "deep" / ".gitignore", "*.enc\n"),
        "for the user": (below.home / ".config" / "git" / "ignore", ".avault\n"),
        "here only": (top / ".git" / "info" / "exclude", "/deep\n"),
    }[where]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    before, config = state(below), (top / ".git" / "config").read_bytes()
    assert by_hand(below)["state"] == "ignored"
    assert state(below) == before
    assert (top / ".git" / "config").read_bytes() == config and not (top / ".git" / "info" / "attributes").exists()
    assert below("sync", code=1).stderr.startswith("avault: error: the repository ignores avault.enc")
    assert avault.examine_repository(str(below.vault))["ignored"] is True


def test_tracked_is_not_ignored(repository):
    by_hand(repository)
    (repository.vault / ".gitignore").write_text("*\n")
    data = change(repository)
    assert by_hand(repository)["state"] == "committed" and in_head(repository) == data


def test_switched_off(repository):
    git(repository, "config", "avault.commit", "false")
    before = state(repository)
    assert by_hand(repository)["state"] == "off"
    assert state(repository) == before
    git(repository, "config", "avault.commit", "perhaps")
    said = by_hand(repository, code=1)
    assert said["state"] == "failed" and said["hint"] == "git config avault.commit true"
    git(repository, "config", "avault.commit", "yes")
    assert by_hand(repository)["state"] == "committed"


def test_a_bare_repository_and_git_s_own_directory(repository):
    shutil.copytree(repository.vault / ".git", repository.home / "bare.git")
    for top in (repository.home / "bare.git", repository.vault / ".git"):
        git(repository, "config", "core.bare", str(top.name == "bare.git").lower(), cwd=top)
        fill(top / "vault")
        assert by_hand(repository, AVAULT_DIR=str(top / "vault"))["state"] == "no_repository"


# Where the vault is


ODD = [
    "a b",
    " lead",
    "trail ",
    "ü🦄",
    "*[x]?",
    "two\nlines",
    ":(top)x",
    "-dash",
    'quo"te',
    "back\\slash",
    "%P %A",
    "#hash",
    "!bang",
]
ODD += ["$(touch canary)", "'", "tab\tbed", "\x01"]


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_odd_names(machine, name):
    config = "[user]\nname = Ada\nemail = ada@example.com\n"
    (machine.home / ".gitconfig").write_text(config)
    top = machine.home / name
    machine.vault = top / name
    machine.env["AVAULT_DIR"] = str(machine.vault)
    fill(machine.vault)
    fill(top / "other")
    git(machine, "init", "-q", str(top))
    assert by_hand(machine)["state"] == "committed"
    names = git(machine, "ls-tree", "-r", "-z", "--name-only", "--full-tree", "HEAD").split("\0")[:-1]
    assert names == [f"{name}/{each}" for each in OURS]
    data = change(machine)
    assert by_hand(machine)["state"] == "committed" and in_head(machine) == data
    assert avault.is_set_up(avault.Repository(str(machine.vault)))
    attributes = git(machine, "check-attr", "-z", "merge", "--", "../other/avault.enc").split("\0")
    assert attributes[2] == "unset", "what is not this vault's is merged as it says itself"


def test_two_vaults_in_one_repository(below):
    other = Machine(below.top, below.home / "project" / "other" / ".avault")
    fill(other.vault)
    for machine in (below, other, below):
        by_hand(machine)
        change(machine)
    for machine in (below, other):
        assert avault.is_set_up(avault.Repository(str(machine.vault)))
        by_hand(machine)
        assert len({name.split("/")[0] for name in touched(machine)}) == 1


def test_a_submodule(below):
    """The innermost repository is the vault's; the one around it is left alone."""
    origin = below.top / "module"
    git(below, "init", "-q", "-b", "main", str(origin))
    fill(origin)
    git(below, "add", "-A", cwd=origin)
    git(below, "commit", "-qm", "x", cwd=origin)
    top = below.home / "project"
    git(below, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(origin), "sub", cwd=top)
    git(below, "commit", "-qm", "with a submodule", cwd=top)
    inner = Machine(below.top, top / "sub")
    data = change(inner)
    outer = git(below, "rev-parse", "HEAD", cwd=top)
    assert by_hand(inner)["state"] == "committed" and in_head(inner) == data
    assert git(below, "rev-parse", "HEAD", cwd=top) == outer
    assert avault.is_set_up(avault.Repository(str(inner.vault))) and avault.Repository(str(inner.vault)).top == str(inner.vault)
    git(inner, "checkout", "-q", "--detach")
    change(inner)
    assert by_hand(inner)["state"] == "refused"


def test_a_linked_work_tree(below):
    by_hand(below)
    tree = below.home / "tree"
    git(below, "worktree", "add", "-q", "-b", "side", str(tree))
    linked = Machine(below.top, tree / "deep" / ".avault")
    data = change(linked)
    assert by_hand(linked)["state"] == "committed"
    assert in_head(linked) == data and git(linked, "symbolic-ref", "--short", "HEAD") == "side"
    assert git(below, "log", "--format=%s", "main").splitlines() == [MESSAGE, "the user's"]
    assert avault.is_set_up(avault.Repository(str(linked.vault))) and avault.is_set_up(avault.Repository(str(below.vault)))
    git(below, "switch", "-q", "-c", "other")
    (linked.vault.parent.parent / "README").write_text("changed\n")
    git(linked, "commit", "-qam", "x", cwd=tree)
    git(below, "merge", "-q", "--no-edit", "side")
    assert (below.vault / "avault.enc").read_bytes() == data


def test_a_sparse_checkout(below):
    by_hand(below)
    top = below.home / "project"
    git(below, "sparse-checkout", "set", "--cone", "--sparse-index", "deep", cwd=top)
    assert not (top / "src").exists()
    data = change(below)
    assert by_hand(below)["state"] == "committed" and in_head(below) == data
    assert touched(below) == ["deep/.avault/avault.enc"]
    git(below, "sparse-checkout", "disable", cwd=top)
    assert (top / "src" / "main.py").exists() and git(below, "status", "--porcelain", cwd=top) == ""


@pytest.mark.parametrize("kind", ["shallow", "partial", "split index", "sha256"])
def test_other_kinds(below, kind):
    by_hand(below)
    change(below)
    by_hand(below)
    top = below.home / "project"
    machine = below
    if kind in ("shallow", "partial"):
        git(below, "config", "uploadpack.allowFilter", "true")
        words = {"shallow": ["--depth=1"], "partial": ["--filter=blob:none"]}[kind]
        git(below, "clone", "-q", *words, f"file://{top}", str(below.home / "clone"))
        machine = Machine(below.top, below.home / "clone" / "deep" / ".avault")
    elif kind == "sha256":
        shutil.rmtree(top / ".git")
        git(below, "init", "-q", "--object-format=sha256", str(top))
    else:
        git(below, "update-index", "--split-index")
    (machine.vault.parent / "mine").write_text("x\n")
    git(machine, "add", "../mine")
    before = git(machine, "status", "--porcelain", "--", "../mine")
    for _ in range(2):
        data = change(machine)
        assert by_hand(machine)["state"] == "committed" and in_head(machine) == data
    assert touched(machine) == ["deep/.avault/avault.enc"]
    assert git(machine, "status", "--porcelain", "--", "../mine") == before
    git(machine, "fsck", "--strict")


# Who it is by


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("", "avault <avault@localhost>"),
        ("[user]\nname = Ada\n", "Ada <avault@localhost>"),
        ("[user]\nemail = ada@example.com\n", "avault <ada@example.com>"),
        ("[user]\nuseConfigOnly = true\n", "avault <avault@localhost>"),
        ("[user]\nname = Ada\nemail = ada@example.com\n", "Ada <ada@example.com>"),
    ],
)
def test_a_name_only_where_there_is_none(repository, config, expected):
    (repository.home / ".gitconfig").write_text(config)
    assert by_hand(repository)["state"] == "committed"
    assert git(repository, "log", "-1", "--format=%an <%ae>") == expected
    assert git(repository, "log", "-1", "--format=%cn <%ce>") == expected


# Signed


@pytest.fixture
def signer(repository: Machine) -> Machine:
    """A user who signs commits, with a key of ssh's."""
    if not shutil.which("ssh-keygen"):
        pytest.skip("no ssh-keygen here")
    key = repository.home / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    for name, value in (("gpg.format", "ssh"), ("user.signingKey", f"{key}.pub"), ("commit.gpgSign", "true")):
        git(repository, "config", "--global", name, value)
    return repository


def is_signed(machine: Machine, commit: str = "HEAD") -> bool:
    return "\ngpgsig " in git(machine, "cat-file", "commit", commit)


def test_commits_are_signed_where_git_is_to_sign_them(signer):
    git(signer, "init", "-q", "--bare", "-b", "main", str(signer.top / "origin"))
    git(signer, "remote", "add", "origin", str(signer.top / "origin"))
    assert by_hand(signer)["state"] == "committed" and is_signed(signer)
    git(signer, "push", "-q", "-u", "origin", "main")
    change(signer)
    assert by_hand(signer)["push"] == "pushed" and is_signed(signer, "origin/main"), "a signed commit is ours too"
    git(signer, "config", "avault.sign", "false")
    change(signer)
    assert by_hand(signer)["state"] == "committed" and not is_signed(signer)
    git(signer, "config", "--global", "commit.gpgSign", "false")
    git(signer, "config", "avault.sign", "true")
    change(signer)
    assert by_hand(signer)["state"] == "committed" and is_signed(signer)


def test_a_signature_that_cannot_be_made(signer):
    (signer.home / "key").unlink()
    said = by_hand(signer, code=1)
    assert said["state"] == "failed" and said["reason"].startswith("the commit could not be signed: ")
    assert said["hint"].endswith("git config avault.sign false")
    assert git_run(signer, "rev-parse", "HEAD").returncode


# Hostile


@pytest.fixture
def trap(tmp_path):
    """A program that leaves a trace, and a look whether it did."""
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "$0 $*" >> {tmp_path}/trace\ncat\n')
    program.chmod(0o755)

    class Trap:
        path = str(program)

        def trace(self) -> str:
            return (tmp_path / "trace").read_text() if (tmp_path / "trace").exists() else ""

    return Trap()


def hostile_settings(program: str, hooks: Path) -> dict[str, str]:
    """What git can be told to run, in a repository's own configuration."""
    settings = dict.fromkeys(
        """core.fsmonitor core.editor core.pager core.askPass core.sshCommand core.gitProxy core.alternateRefsCommand
        sequence.editor gpg.program gpg.ssh.program gpg.x509.program filter.evil.clean filter.evil.smudge
        filter.evil.process diff.external diff.evil.command diff.evil.textconv merge.evil.driver merge.tool
        credential.helper alias.commit alias.hash-object alias.update-index alias.commit-tree alias.rev-parse
        interactive.diffFilter pager.log gc.recentObjectsHook remote.origin.uploadpack remote.origin.receivepack""".split(),
        program,
    )
    more = {
        "core.hooksPath": str(hooks),
        "avault.sign": "false",
        "commit.gpgSign": "true",
        "tag.gpgSign": "true",
        "log.showSignature": "true",
    }
    return {**settings, **more, "filter.evil.required": "true", "merge.default": "evil", "user.signingKey": "x"}


def test_nothing_of_the_repository_s_runs(below, trap):
    top = below.home / "project"
    hooks = top / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in HOOKS:
        shutil.copy(trap.path, hooks / name)
    for name, value in hostile_settings(trap.path, hooks).items():
        git(below, "config", name, value)
    attributes = "* filter=evil diff=evil merge=evil ident text eol=crlf\n"
    for path in (top / ".gitattributes", top / "deep" / ".gitattributes", top / ".git" / "info" / "attributes"):
        path.write_text(attributes)
    data = change(below)
    said = by_hand(below)
    assert (said["state"], said["reason"]) == ("committed", None)
    data = change(below)
    assert by_hand(below)["state"] == "committed"
    assert avault.examine_repository(str(below.vault))["committed"] is True
    assert trap.trace() == ""
    shutil.rmtree(hooks)
    assert in_head(below) == data, "as it is, through no filter"
    assert b"gpgsig" not in git(below, "cat-file", "commit", "HEAD").encode()
    kept = (top / ".git" / "info" / "attributes").read_text()
    assert kept.startswith(attributes) and kept.count("\n") == 6
    git_run(below, "status")
    assert trap.trace(), "the trap works"


@pytest.mark.parametrize("form", ["openpgp", "x509", "ssh"])
def test_no_repository_names_what_signs(repository, trap, form):
    programs = ("gpg.program", "gpg.openpgp.program", "gpg.x509.program", "gpg.ssh.program", "gpg.ssh.defaultKeyCommand")
    for name in programs:
        git(repository, "config", name, trap.path)
    for name, value in (("commit.gpgSign", "true"), ("gpg.format", form)):
        git(repository, "config", name, value)
    if form != "ssh":  # there a command may name the key
        git(repository, "config", "user.signingKey", "x")
    assert by_hand(repository, code=1)["state"] == "failed" and trap.trace() == ""
    for name in programs:
        git(repository, "config", "--global", name, trap.path)
    by_hand(repository, code=None)
    assert trap.trace(), "what the user has chosen is asked"


def make_partial(machine: Machine, top: Path, program: str) -> None:
    """Have git run a program for whatever the repository lacks: a partial clone fetches it."""
    settings = {
        "core.repositoryformatversion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.promisor": "true",
        "remote.origin.url": str(top),
        "remote.origin.uploadpack": f"{program} </dev/null; false",
        "remote.origin.partialclonefilter": "blob:none",
    }
    for name, value in settings.items():
        git(machine, "config", name, value, cwd=top)


def remove_object(machine: Machine, top: Path, name: str) -> None:
    found = git(machine, "rev-parse", name, cwd=top)
    (top / ".git" / "objects" / found[:2] / found[2:]).unlink()


def test_what_a_partial_clone_lacks_is_not_fetched(below, trap):
    """A work tree that was unpacked is no clone of the user's: what its configuration names is not to run."""
    top = below.home / "project"
    by_hand(below)
    make_partial(below, top, trap.path)
    remove_object(below, top, "HEAD^{tree}")
    change(below)
    for words in (("git", "record"), ("history",), ("sync",), ("doctor", "git", "--offline"), ("restore", "HEAD", "g/K")):
        below(*words, code=None)
        assert trap.trace() == "", words
    assert avault.examine_repository(str(below.vault))["problems"]
    git_run(below, "ls-tree", "HEAD", cwd=top)
    assert trap.trace(), "the trap works"


def test_one_function_runs_git():
    """All else goes through it, and no test of what it keeps git from is needed twice."""
    rooms = (SOURCE.parent / "src").rglob("*.py")
    assert [room.name for room in rooms if re.search(r"""\[\s*["']git["']\s*,""", room.read_text())] == ["run.py"]


def test_no_filter_comes_near_our_files_later(below, trap):
    """git runs filters whenever it compares a file; for ours it has been told not to."""
    top = below.home / "project"
    git(below, "config", "filter.evil.clean", f"{trap.path} %f")
    git(below, "config", "filter.evil.smudge", f"{trap.path} %f")
    (top / ".gitattributes").write_text("* filter=evil\n")
    by_hand(below)
    data = change(below)
    by_hand(below)
    for path in (*(below.vault / name for name in OURS), top / "README"):
        os.utime(path, (1, 1))
    git(below, "diff", "--exit-code", "--", ".")
    git(below, "checkout", "-q", "HEAD^", "--", "avault.enc")
    git(below, "checkout", "-q", "HEAD", "--", "avault.enc")
    git(below, "status")
    assert (below.vault / "avault.enc").read_bytes() == data
    assert "README" in trap.trace() and ".avault" not in trap.trace()


def test_a_filter_gets_nothing_where_it_cannot_be_switched_off(below, trap):
    """The attributes cannot be written; what is committed is what is on the disk all the same."""
    git(below, "config", "filter.evil.clean", f"{trap.path} %f")
    (below.home / "project" / ".gitattributes").write_text("* filter=evil\n")
    (below.home / "project" / ".git" / "info" / "attributes").mkdir(parents=True)
    data = change(below)
    said = by_hand(below)
    assert said["state"] == "committed" and said["reason"].startswith("no merge driver: ")
    assert in_head(below) == data and ".avault" not in trap.trace()


def test_no_index_of_ours_is_left(below):
    """A split index leaves its shared part in the repository: not ours, which nobody needs afterwards."""
    git(below, "config", "core.splitIndex", "true")
    git(below, "config", "splitIndex.maxPercentChange", "100")
    by_hand(below)
    git(below, "update-index", "--force-write-index")
    before = sorted((below.home / "project" / ".git").glob("sharedindex.*"))
    change(below)
    by_hand(below)
    assert sorted((below.home / "project" / ".git").glob("sharedindex.*")) == before != []


def test_git_s_variables_lead_nowhere(repository, trap):
    other = repository.top / "other"
    git(repository, "init", "-q", str(other))
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    variables = {
        "GIT_DIR": str(other / ".git"),
        "GIT_WORK_TREE": str(other),
        "GIT_INDEX_FILE": str(other / ".git" / "index"),
        "GIT_OBJECT_DIRECTORY": str(other / ".git" / "objects"),
        "GIT_COMMON_DIR": str(other / ".git"),
        "GIT_NAMESPACE": "other",
        "GIT_PREFIX": "other",
        "GIT_CEILING_DIRECTORIES": str(repository.vault.parent),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "avault.commit",
        "GIT_CONFIG_VALUE_0": "false",
        "GIT_CONFIG_PARAMETERS": "'avault.commit=false'",
        "GIT_AUTHOR_NAME": "Mallory",
        "GIT_AUTHOR_DATE": "2001-01-01T00:00:00Z",
        "GIT_EXTERNAL_DIFF": trap.path,
        "GIT_PAGER": trap.path,
        "GIT_TRACE": str(repository.top / "trace"),
        "GIT_EXEC_PATH": str(repository.top),
    }
    said = by_hand(repository, **variables)
    assert said["state"] == "committed" and said["repository"] == str(repository.vault)
    assert git(repository, "log", "-1", "--format=%an") == "Ada"
    assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file()} == before
    assert not (repository.top / "trace").exists() and trap.trace() == ""


@pytest.mark.root
def test_another_user_s_repository(repository):
    os.chown(repository.vault, 12345, 12345)
    for path in repository.vault.rglob("*"):
        os.chown(path, 12345, 12345)
    said = by_hand(repository)
    assert said["state"] == "refused" and "another user" in said["reason"]
    assert said["hint"] == f"if you do: git config --global --add safe.directory {repository.vault}"
    assert avault.examine_repository(str(repository.vault))["problems"][0]["hint"] == said["hint"]
    assert "another user" in repository("sync", code=1).stderr
    git(repository, "config", "--global", "--add", "safe.directory", str(repository.vault), cwd=repository.home)
    assert by_hand(repository)["state"] == "committed"
    for path in (repository.vault, *repository.vault.rglob("*")):
        os.chown(path, os.getuid(), os.getgid())  # the end of the test asks the vault's daemon, as who owns it


# Locks, and things under way


def hold_for_a_while(repository, monkeypatch, name):
    """A lock of another git's that goes while somebody here waits for the third time: how long they waited."""
    lock = repository.vault / ".git" / name
    lock.touch()
    waited = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            lock.unlink()

    monkeypatch.setenv("HOME", str(repository.home))
    monkeypatch.setattr(avault, "time", SimpleNamespace(sleep=wait, monotonic=time.monotonic))
    return waited


def test_a_custodian_that_goes_while_it_is_committed_goes_from_the_next_commit(repository, monkeypatch):
    monkeypatch.setenv("HOME", str(repository.home))
    by_hand(repository)
    file, stage = repository.vault / "custody-box.json", avault.Repository.stage
    file.write_bytes(b"{}\n")

    def stage_late(self, paths):
        file.unlink()
        stage(self, paths)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(avault.Repository, "stage", stage_late)
        assert avault.commit_files(avault.Repository(str(repository.vault)), ANYTHING)
    assert in_head(repository, file.name) == b"{}\n"
    assert avault.commit_files(avault.Repository(str(repository.vault)), ANYTHING)
    assert not git(repository, "status", "--porcelain") and git_run(repository, "rev-parse", f"HEAD:./{file.name}").returncode


def test_another_git_s_lock_is_waited_for(repository, monkeypatch):
    by_hand(repository)
    data = change(repository)
    waited = hold_for_a_while(repository, monkeypatch, "index.lock")
    assert avault.commit_files(avault.Repository(str(repository.vault)), ANYTHING)
    assert len(waited) == 3 and in_head(repository) == data


def test_the_lock_of_its_settings_is_waited_for(repository, monkeypatch):
    """Two that set the merge driver up at once: git waits for no lock of its own."""
    waited = hold_for_a_while(repository, monkeypatch, "config.lock")
    avault.set_up(avault.Repository(str(repository.vault)))
    assert len(waited) == 3 and avault.is_set_up(avault.Repository(str(repository.vault)))


@pytest.mark.parametrize("words", [("sync",), ("git", "record")])
def test_one_avault_at_a_time(repository, words):
    """What the daemon records and `sync` wait for each other, and not for ever."""
    by_hand(repository)
    change(repository)
    place = os.open(repository.vault / ".git", os.O_RDONLY)
    fcntl.flock(place, fcntl.LOCK_EX)
    words = words if words == ("sync",) else ("git", "record", *vouched(repository))
    running = repository.start(*words)
    with pytest.raises(subprocess.TimeoutExpired):
        running.process.wait(1)
    assert len(commits(repository)) == 1
    os.close(place)
    running.process.wait(60)
    assert words == ("sync",) or len(commits(repository)) == 2


def test_a_file_system_without_locks(repository, monkeypatch):
    def refuse(fd: int) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(avault, "take_lock", refuse)
    with avault.Repository(str(repository.vault)).hold():
        pass


def test_a_lock_that_stays_is_never_removed(repository):
    by_hand(repository)
    lock = repository.vault / ".git" / "index.lock"
    lock.touch()
    data = change(repository)
    before = state(repository)
    said = by_hand(repository)
    assert said["state"] == "refused" and said["hint"] == f"if none is running: rm {lock}"
    assert lock.exists() and state(repository) == before
    subprocess.run(["/bin/sh", "-c", said["hint"].partition(": ")[2]], check=True)
    assert by_hand(repository)["state"] == "committed" and in_head(repository) == data


@pytest.mark.parametrize("name", ["refs/heads/main.lock", "HEAD.lock", "config.lock"])
def test_other_locks(repository, name):
    """A branch that is held is not moved; settings that cannot be written keep nothing from being committed."""
    by_hand(repository)
    if name == "config.lock":
        git(repository, "config", "--remove-section", "merge.avault")
    lock = repository.vault / ".git" / name
    lock.touch()
    data = change(repository)
    said = by_hand(repository)
    if name == "config.lock":
        assert said["state"] == "committed" and said["reason"].startswith("no merge driver: ")
    elif name == "HEAD.lock":
        assert said["state"] in ("committed", "refused")
    else:
        assert said["state"] == "refused" and len(commits(repository)) == 1
    lock.unlink()
    by_hand(repository)
    assert in_head(repository) == data and git(repository, "status", "--porcelain") == ""
    assert avault.is_set_up(avault.Repository(str(repository.vault)))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_repository_that_cannot_be_written(repository):
    by_hand(repository)
    change(repository)
    objects = repository.vault / ".git" / "objects"
    for path in (objects, *objects.iterdir()):
        path.chmod(0o500)
    said = by_hand(repository, code=1)
    assert said["state"] == "failed" and "hash-object" in said["reason"]
    for path in (objects, *objects.iterdir()):
        path.chmod(0o700)
    assert by_hand(repository)["state"] == "committed"


def diverge(machine: Machine) -> None:
    """A branch `side` and a branch `main` whose README collide; main is checked out, and has the vault."""
    by_hand(machine)
    top = machine.home / "project"
    for branch in ("side", "main"):
        git(machine, "switch", "-q", *(["-c"] if branch == "side" else []), branch, cwd=top)
        (top / "README").write_text(branch + "\n")
        git(machine, "commit", "-qam", branch, cwd=top)


UNDER_WAY = {
    "a merge": ("merge", "side"),
    "a rebase": ("rebase", "side"),
    "a cherry-pick": ("cherry-pick", "side"),
    "a revert": ("revert", "--no-edit", "HEAD~1"),
}


@pytest.mark.parametrize("what", UNDER_WAY)
def test_what_is_under_way_is_left_alone(below, what):
    diverge(below)
    top = below.home / "project"
    if what == "a revert":
        (top / "README").write_text("once more\n")
        git(below, "commit", "-qam", "once more", cwd=top)
    git(below, *UNDER_WAY[what], code=1, cwd=top)
    before = state(below)
    data = change(below)
    said = by_hand(below)
    assert said["state"] == "refused" and said["reason"] == f"{what} is under way"
    assert state(below)[0] == before[0] and [line for line in str(before[1]).splitlines() if line.startswith(("u", "#"))] == [
        line for line in str(state(below)[1]).splitlines() if line.startswith(("u", "#"))
    ]
    assert avault.examine_repository(str(below.vault))["operation"] == what
    assert (f"{what} is under way" if what != "a merge" else "no upstream") in below("sync", code=1).stderr
    (top / "README").write_text("resolved\n")
    git(below, "add", "README", cwd=top)
    if what == "a rebase":  # it does not go on while a file is changed
        (below.vault / "avault.enc").rename(below.top / "kept")
        git(below, "checkout", "avault.enc")
    git(below, UNDER_WAY[what][0], "--continue", cwd=top)
    if what == "a rebase":
        (below.top / "kept").rename(below.vault / "avault.enc")
    assert (below.vault / "avault.enc").read_bytes() == data
    assert by_hand(below)["state"] == "committed" and in_head(below) == data
    assert touched(below) == ["deep/.avault/avault.enc"]


def test_on_no_branch(repository):
    by_hand(repository)
    change(repository)
    by_hand(repository)
    git(repository, "checkout", "-q", "HEAD^")
    change(repository)
    before = state(repository)
    said = by_hand(repository)
    assert said["state"] == "refused" and said["reason"] == "no branch is checked out (detached HEAD)"
    assert state(repository) == before
    assert "detached HEAD" in repository("sync", code=1).stderr
    git(repository, "switch", "-qc", "kept")
    assert by_hand(repository)["state"] == "committed"


@pytest.mark.parametrize("mark", ["assume-unchanged", "skip-worktree"])
def test_files_that_git_was_told_not_to_look_at(repository, mark):
    by_hand(repository)
    git(repository, "update-index", f"--{mark}", "avault.enc")
    data = change(repository)
    before = state(repository)
    said = by_hand(repository)
    assert said["state"] == "refused" and said["reason"] == f"avault.enc is marked {mark}"
    assert state(repository) == before
    git(repository, *shlex.split(said["hint"])[1:])
    assert by_hand(repository)["state"] == "committed" and in_head(repository) == data


def test_a_directory_where_the_user_has_a_file(below):
    """What git has under the name of the vault's directory would go with our commit: it is not made."""
    top = below.home / "project"
    kept = below.top / "kept"
    below.vault.rename(kept)
    below.vault.write_text("a file\n")
    git(below, "add", "-A", cwd=top)
    git(below, "commit", "-qm", "a file", cwd=top)
    below.vault.unlink()
    kept.rename(below.vault)
    said = by_hand(below)
    assert said["state"] == "refused" and "deep/.avault" in said["reason"]
    assert commits(below)[0] == "a file"


# Pushing


@pytest.fixture
def published(below) -> Machine:
    """A vault below a repository with a bare remote, and its branch's upstream there."""
    git(below, "init", "-q", "--bare", "-b", "main", str(below.top / "origin"))
    git(below, "remote", "add", "origin", str(below.top / "origin"))
    by_hand(below)
    git(below, "push", "-q", "-u", "origin", "main")
    return below


def remote(machine: Machine, revision: str = "main") -> str:
    return git(machine, "rev-parse", revision, cwd=machine.top / "origin")


def test_what_is_ours_is_pushed(published):
    for _ in range(2):
        change(published)
        said = by_hand(published)
        assert (said["state"], said["push"], said["hint"]) == ("committed", "pushed", None)
        assert remote(published) == git(published, "rev-parse", "HEAD") == git(published, "rev-parse", "origin/main")
    assert by_hand(published)["push"] == "clean"


def test_what_is_not_ours_is_not_pushed(published):
    before = remote(published)
    (published.vault.parent / "mine").write_text("x\n")
    git(published, "add", "../mine")
    git(published, "commit", "-qm", "mine")
    change(published)
    said = by_hand(published)
    assert (said["state"], said["push"], said["hint"]) == ("committed", "refused", "avault sync")
    assert remote(published) == before
    problems = avault.examine_repository(str(published.vault))["problems"]
    assert problems == [{"problem": "2 commit(s) are not published to origin/main", "hint": "avault sync"}]
    git(published, "push", "-q")
    change(published)
    assert by_hand(published)["push"] == "pushed"


@pytest.mark.parametrize("why", ["another message", "another file", "another author is no reason", "a merge", "an empty one"])
def test_what_counts_as_ours(published, why):
    change(published)
    words = ["commit", "-q", "-m", MESSAGE, "--", "avault.enc"]
    if why == "another message":
        words[3] = MESSAGE + "\n\nand more"
    elif why == "another file":
        (published.vault / "mine").write_text("x\n")
        git(published, "add", "mine")
        words += ["mine"]
    elif why == "another author is no reason":
        words[1:1] = ["--author", "Mallory <mallory@example.com>"]
    git(published, *words)
    if why == "a merge":
        git(published, "switch", "-q", "-c", "side", "HEAD^")
        git(published, "commit", "-q", "--allow-empty", "-m", MESSAGE)
        git(published, "switch", "-q", "main")
        git(published, "merge", "-q", "--no-ff", "-m", MESSAGE, "side")
    elif why == "an empty one":
        git(published, "commit", "-q", "--allow-empty", "-m", MESSAGE)
    change(published)
    ours = why in ("another author is no reason", "an empty one")
    assert by_hand(published)["push"] == ("pushed" if ours else "refused")


def test_the_other_side_has_more(published):
    clone = published.top / "clone"
    git(published, "clone", "-q", str(published.top / "origin"), str(clone))
    (clone / "theirs").write_text("x\n")
    git(published, "add", "theirs", cwd=clone)
    git(published, "commit", "-qm", "theirs", cwd=clone)
    git(published, "push", "-q", cwd=clone)
    before = remote(published)
    change(published)
    said = by_hand(published)
    assert (said["push"], said["hint"]) == ("rejected", "avault sync") and "origin/main has commits" in said["push_reason"]
    assert remote(published) == before
    assert by_hand(published)["push"] == "rejected", "tried again, and said again"


def test_where_it_is_not_pushed(published):
    before = remote(published)
    git(published, "config", "avault.push", "false")
    change(published)
    assert by_hand(published)["push"] == "off"
    git(published, "config", "--unset", "avault.push")
    git(published, "config", "branch.main.pushRemote", "fork")
    git(published, "remote", "add", "fork", str(published.top / "fork"))
    assert by_hand(published)["push"] == "none"
    git(published, "config", "--unset", "branch.main.pushRemote")
    git(published, "switch", "-q", "-c", "local", "--track", "main")
    change(published)
    assert by_hand(published)["push"] == "none", "the upstream is a branch here"
    git(published, "branch", "-q", "--unset-upstream")
    said = by_hand(published)
    assert (said["push"], said["hint"]) == ("none", "git push -u origin local")
    assert remote(published) == before


def test_the_upstream_has_another_name(published):
    git(published, "switch", "-q", "-c", "here")
    git(published, "push", "-q", "-u", "origin", "here:there")
    git(published, "config", "push.default", "current")
    git(published, "config", "remote.origin.push", "refs/heads/*:refs/heads/wrong/*")
    git(published, "config", "push.followTags", "true")
    git(published, "tag", "-a", "-m", "x", "secret-tag")
    change(published)
    assert by_hand(published)["push"] == "pushed"
    refs = git(published, "for-each-ref", "--format=%(refname)", cwd=published.top / "origin").splitlines()
    assert refs == ["refs/heads/main", "refs/heads/there"]
    assert remote(published, "there") == git(published, "rev-parse", "HEAD")


def test_a_remote_that_says_no(published):
    hook = published.top / "origin" / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho not today >&2\nexit 1\n")
    hook.chmod(0o755)
    change(published)
    said = by_hand(published)
    assert (said["push"], said["push_reason"]) == ("failed", "[remote rejected] (pre-receive hook declined)")


def test_a_remote_that_is_gone(published):
    shutil.rmtree(published.top / "origin")
    change(published)
    said = by_hand(published)
    assert (said["state"], said["push"], said["hint"]) == ("committed", "failed", "avault sync")
    assert "does not appear to be a git repository" in said["push_reason"]


def test_no_password_of_a_url_is_said(published):
    git(published, "remote", "set-url", "origin", "https://ada:hunter2@127.0.0.1:1/x.git")
    change(published)
    said = by_hand(published)
    assert said["push"] == "failed" and "127.0.0.1" in said["push_reason"] and "hunter2" not in json.dumps(said)
    assert avault.reason(b"fatal: no 'https://ada:hunter2@example.com/x'.\n") == "no 'https://example.com/x'"


class Unauthorized(http.server.BaseHTTPRequestHandler):
    """A remote that wants a password."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_nobody_is_asked_for_a_password(published, trap):
    """Not by a window that a helper would open, nor on a terminal, which nobody watches."""
    git(published, "config", "core.askPass", trap.path)
    with http.server.HTTPServer(("127.0.0.1", 0), Unauthorized) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        git(published, "remote", "set-url", "origin", f"http://127.0.0.1:{server.server_port}/x.git")
        change(published)
        said = by_hand(published, GIT_ASKPASS=trap.path, SSH_ASKPASS=trap.path)
        server.shutdown()
    assert said["push"] == "failed" and "could not read Username" in said["push_reason"] and trap.trace() == ""


def test_ssh_is_not_to_ask_either(published):
    ssh = published.top / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$*" > {published.top}/words\nexit 255\n')
    ssh.chmod(0o755)
    git(published, "remote", "set-url", "origin", "ada@localhost:x")
    change(published)
    path = f"{published.top}:{os.environ['PATH']}"
    assert by_hand(published, PATH=path, GIT_SSH_COMMAND="false")["push"] == "failed"
    assert (published.top / "words").read_text().startswith("-o BatchMode=yes ada@localhost git-receive-pack")
    git(published, "config", "core.sshCommand", f"{ssh} --mine")
    assert by_hand(published)["push"] == "failed"
    assert (published.top / "words").read_text().startswith("--mine ada@localhost"), "the user's own way in is the user's"


def test_a_push_that_hangs_is_ended_with_all_it_started(published, monkeypatch):
    """ssh stands for whatever hangs; its child holds the pipe, and must go too."""
    ssh = published.top / "ssh"
    ssh.write_text(
        f"#!/bin/sh\nsh -c 'echo $$ > {published.top}/pid.new; mv {published.top}/pid.new {published.top}/pid; sleep 600'\n"
    )
    ssh.chmod(0o755)
    git(published, "remote", "set-url", "origin", "ada@localhost:x")
    git(published, "config", "core.sshCommand", str(ssh))
    change(published)
    monkeypatch.setenv("HOME", str(published.home))
    repository = avault.Repository(str(published.vault))
    assert avault.commit_files(repository, ANYTHING)
    monkeypatch.setattr(avault, "LIMIT", 4.0)
    said = avault.push_commits(repository)
    assert said["push"] == "failed" and "did not end" in str(said["push_reason"])
    pid = int((published.top / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        wait_until(lambda: os.kill(pid, 0))


def test_what_a_remote_says_does_not_drive_the_terminal(machine, canary):
    make(machine)
    share(machine, machine.top / "origin")
    git(machine, "config", "avault.push", "false")
    hook = machine.top / "origin" / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nprintf 'a\\033]0;title\\007b\\rhint: c\\n' >&2\nexit 1\n")
    hook.chmod(0o755)
    put(machine, "g/K", canary.value)
    said = machine("sync", code=6).stderr
    assert "\x1b" not in said and "\x07" not in said and r"remote: a\x1b]0;title\x07b" in said
    assert "\nhint: " not in said


def test_status_says_what_became_of_it(machine, canary):
    make(machine)
    git(machine, "init", "-q")
    git(machine, "init", "-q", "--bare", str(machine.top / "origin"))
    git(machine, "remote", "add", "origin", str(machine.top / "origin"))
    put(machine, "g/K", canary.value)
    assert recorded(machine)["push"] == "none"
    git(machine, "push", "-q", "-u", "origin", "main")
    put(machine, "g/K", canary.new("another"))
    wait_until(lambda: told(machine)["push"] == "pushed")
    assert remote(machine) == git(machine, "rev-parse", "HEAD")


# The merge driver and the diff filter are set up


def test_other_lines_stay(repository):
    info = repository.vault / ".git" / "info"
    info.mkdir(exist_ok=True)
    (info / "attributes").write_text("# mine\n*.py diff=python\n/avault.enc merge=mine -diff\n")
    (info / "attributes").chmod(0o640)
    git(repository, "config", "diff.python.textconv", "cat")
    by_hand(repository)
    lines = (info / "attributes").read_text().splitlines()
    assert lines[:3] == ["# mine", "*.py diff=python", "/avault.enc merge=mine -diff"] and len(lines) == 8
    assert avault.is_set_up(avault.Repository(str(repository.vault)))
    assert stat.S_IMODE((info / "attributes").stat().st_mode) == 0o640
    assert git(repository, "config", "diff.python.textconv") == "cat"
    before = (info / "attributes").read_bytes(), (repository.vault / ".git" / "config").read_bytes()
    change(repository)
    by_hand(repository)
    assert ((info / "attributes").read_bytes(), (repository.vault / ".git" / "config").read_bytes()) == before


DAMAGE = {
    "no driver": lambda machine: git(machine, "config", "--unset", "merge.avault.driver"),
    "no section": lambda machine: git(machine, "config", "--remove-section", "diff.avault"),
    "another program": lambda machine: git(machine, "config", "merge.avault.driver", "true"),
    "twice": lambda machine: git(machine, "config", "--add", "merge.avault.driver", "true"),
    "no attributes": lambda machine: (machine.vault / ".git" / "info" / "attributes").unlink(),
    "a later line": lambda machine: append(machine.vault / ".git" / "info" / "attributes", "*.enc -merge filter=x\n"),
}


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_set_up_right_is_mended(repository, damage):
    by_hand(repository)
    directory = str(repository.vault)
    assert avault.is_set_up(avault.Repository(directory)) and avault.examine_repository(directory)["problems"] == []
    DAMAGE[damage](repository)
    assert not avault.is_set_up(avault.Repository(directory))
    assert avault.examine_repository(directory)["problems"][0]["hint"] == "avault doctor --fix"
    avault.set_up(avault.Repository(directory))
    assert avault.is_set_up(avault.Repository(directory))
    DAMAGE[damage](repository)
    by_hand(repository)
    assert avault.is_set_up(avault.Repository(directory))


def test_committed_attributes_do_without_us(repository):
    """What a clone has without avault: neither converted, nor merged line by line."""
    by_hand(repository)
    clone = repository.top / "clone"
    git(repository, "clone", "-q", str(repository.vault), str(clone))
    said = git(repository, "check-attr", "text", "merge", "diff", "--", "avault.enc", cwd=clone).splitlines()
    assert said == ["avault.enc: text: unset", "avault.enc: merge: unset", "avault.enc: diff: unspecified"]


def test_examine_looks_and_touches_nothing(published):
    change(published)
    top = published.home / "project"
    before = {path: path.read_bytes() for path in (top / ".git").rglob("*") if path.is_file() and path.name != "index"}
    facts = avault.examine_repository(str(published.vault))
    assert facts["problems"] == [{"problem": "what is on the disk is not committed", "hint": "avault sync"}]
    assert {path: path.read_bytes() for path in (top / ".git").rglob("*") if path.is_file() and path.name != "index"} == before
    by_hand(published)
    facts = avault.examine_repository(str(published.vault))
    assert facts == {
        "repository": str(top), "ignored": False, "branch": "main", "operation": None, "committed": True, "commit": True,
        "push": True, "upstream": "origin/main", "unpublished": 0, "merge_driver": True, "problems": [],
    }  # fmt: skip
    assert avault.examine_repository(str(published.home))["repository"] is None


def test_what_a_killed_command_left_is_removed(repository):
    own = avault.Places(str(repository.vault)).state
    os.makedirs(own)
    old, new, other = (Path(own, name) for name in ("copy-0123456789abcdef.enc", "copy-fedcba9876543210.enc", "copy-mine.enc"))
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (time.time() - 7200,) * 2)
    os.environ["XDG_STATE_HOME"] = str(repository.state)
    by_hand(repository)
    assert [path.exists() for path in (old, new, other)] == [False, True, True]


def test_ended_while_it_waits_it_leaves_no_lock(repository):
    by_hand(repository)
    lock = repository.vault / ".git" / "index.lock"
    lock.touch()
    data = change(repository)
    running = repository.start("git", "record", *vouched(repository))
    wait_until(lambda: git_run(repository, "cat-file", "-e", git(repository, "hash-object", "avault.enc")).returncode == 0)
    running.process.send_signal(signal.SIGTERM)
    running.wait()
    lock.unlink()
    assert [path.name for path in (repository.vault / ".git").rglob("*.lock")] == []
    assert by_hand(repository)["state"] == "committed" and in_head(repository) == data
