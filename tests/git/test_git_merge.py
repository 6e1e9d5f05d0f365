"""Machines that share a vault through git: pull, rebase, cherry-pick, stash, sync; conflicts; locked; what git shows of it."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from git_helpers import (
    AGENT,
    MESSAGE,
    by_hand,
    commits,
    get,
    git,
    git_run,
    is_committed,
    level,
    lock,
    make,
    put,
    recorded,
    start,
    stop,
    told,
    unlock,
    values,
)
from harness import SOURCE, Machine, wait_until

import avault

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forks")]  # two machines, and git between them


@pytest.fixture
def two(place) -> Iterator[list[Machine]]:
    """Two machines with one vault that has g/K = first, open and level; what they write is committed but not pushed."""
    with level(place.top, "a", "b") as machines:
        for machine in machines:
            git(machine, "config", "avault.push", "false")
        yield machines


def write(machine: Machine, *names: str) -> None:
    """Set keys to their own names, each in a commit of its own."""
    for name in names:
        put(machine, name, f"{name} of {machine.top.name}")
        recorded(machine)


def has(machine: Machine, *names: str) -> bool:
    """Whether keys that `write` set, each given as GROUP/KEY@MACHINE, are there."""
    return all(get(machine, name) == f"{name} of {whose}" for name, _, whose in (each.partition("@") for each in names))


def publish(machine: Machine) -> None:
    git(machine, "push", "-q", "origin", "HEAD:main")


def enc(machine: Machine) -> bytes:
    return (machine.vault / "avault.enc").read_bytes()


def is_calm(machine: Machine) -> None:
    """Nothing is left over: no warning, no conflict, nothing uncommitted, no copy in the state directory."""
    machine("list")
    status = machine.status()
    warnings = [text for text in status["warnings"] if "the phone opened nsec.enc" not in text]
    assert status["state"] == "unlocked" and warnings == []
    assert git(machine, "status", "--porcelain") == ""
    assert [path.name for path in machine.own.glob("copy-*")] == []


# Different keys


def test_pull(two):
    a, b = two
    write(a, "g/A", "new/A")
    write(b, "g/B", "g/B2")
    publish(a)
    git(b, "pull", "-q", "--no-rebase", "--no-edit")
    assert has(b, "g/A@a", "new/A@a", "g/B@b", "g/B2@b") and get(b, "g/K") == "first"
    publish(b)
    git(a, "pull", "-q", "--ff-only")
    assert has(a, "g/A@a", "new/A@a", "g/B@b", "g/B2@b")
    assert enc(a) == enc(b)
    for machine in two:
        is_calm(machine)
        write(machine, "g/AFTER")
        stop(machine)
        start(machine)
        assert has(machine, f"g/AFTER@{machine.top.name}", "g/B2@b")


def test_rebase_of_several_writes(two):
    """The driver is called once for each commit, with old states of our own vault: none may swallow a later write."""
    a, b = two
    write(a, "g/A", "g/A2", "g/A3")
    write(b, "g/B", "g/B2", "g/B3")
    b("delete", "g/B2")
    recorded(b)
    publish(a)
    git(b, "pull", "-q", "--rebase")
    assert len(git(b, "rev-list", "--merges", "HEAD")) == 0 and len(commits(b)) == len(set(git(b, "rev-list", "HEAD").split()))
    assert has(b, "g/A@a", "g/A2@a", "g/A3@a", "g/B@b", "g/B3@b")
    b("has", "g/B2", code=4)
    publish(b)
    git(a, "pull", "-q", "--ff-only")
    assert has(a, "g/B@b", "g/B3@b")
    write(a, "g/AFTER")
    write(b, "g/BEFORE")
    for machine in two:
        is_calm(machine)


def test_reads_in_the_middle_of_a_rebase(two):
    """Between two commits the work tree has a state that this machine never had; an agent that reads then disturbs nothing."""
    a, b = two
    write(a, "g/A")
    write(b, "g/B", "g/B2", "g/B3")
    publish(a)
    read = f"{b.command[0]} list --json"
    git(b, "fetch", "-q")
    git(b, "rebase", "-q", "--exec", read, "origin/main", XDG_STATE_HOME=str(b.state), XDG_RUNTIME_DIR=str(b.runtime))
    assert has(b, "g/A@a", "g/B@b", "g/B2@b", "g/B3@b")
    is_calm(b)


def test_writes_in_the_middle_of_a_rebase(two):
    """A write then changes the work tree, and git stops; an abort takes it away, and the open vault writes it again."""
    a, b = two
    write(a, "g/A")
    write(b, "g/B", "g/B2")
    publish(a)
    git(b, "fetch", "-q")
    assert git_run(b, "rebase", "-q", "--exec", f"printf x | {b.command[0]} set g/DURING", "origin/main").returncode
    assert told(b, "refused")["reason"] == "a rebase is under way"
    git(b, "rebase", "--abort")
    assert get(b, "g/DURING") == "x"
    recorded(b)
    assert not any("older" in text for text in b.status()["warnings"]) and commits(b)[0] == MESSAGE
    stop(b)
    start(b)
    assert get(b, "g/DURING") == "x" and has(b, "g/B@b", "g/B2@b")
    git(b, "merge", "-q", "--no-edit", "origin/main")
    assert get(b, "g/DURING") == "x" and has(b, "g/A@a", "g/B@b", "g/B2@b")
    write(b, "g/AFTER")
    is_calm(b)


@pytest.mark.parametrize("end", ["unread", "locked"])
def test_a_write_in_the_middle_of_a_merge_that_is_aborted(two, end):
    """It is there whether somebody has read meanwhile or the vault was locked."""
    a, b = two
    write(a, "g/A")
    write(b, "g/B")
    publish(a)
    git(b, "fetch", "-q")
    git(b, "merge", "-q", "--no-commit", "origin/main")
    put(b, "g/DURING", "x")
    git(b, "checkout", "-q", "HEAD", "--", "avault.enc")
    git(b, "merge", "--abort")
    if end == "locked":
        unlock(b)
    assert get(b, "g/DURING") == "x"
    put(b, "g/AFTER", "x")
    recorded(b)


def test_what_is_whole_again_is_noticed_at_once(two):
    a, _ = two
    write(a, "g/A")
    for command in ("status", "lock"):
        git(a, "checkout", "-q", "HEAD^", "--", "avault.enc")
        assert any("older" in warning for warning in a.status()["warnings"])
        git(a, "checkout", "-q", "HEAD", "--", "avault.enc")
        if command == "status":
            assert a.status()["warnings"] == []
    lock(a)
    assert not (a.own / "unsaved.enc").exists()


def test_rebase_in_another_order(two):
    """A state of the vault has all that came before it: the commit that comes too late is empty."""
    a, b = two
    write(a, "g/A")
    write(b, "g/B", "g/B2", "g/B3")
    publish(a)
    git(b, "fetch", "-q")
    editor = "sed -i '1{h;d};2{G}'"  # the second commit first
    git(b, "rebase", "-q", "-i", "--empty=drop", "origin/main", GIT_SEQUENCE_EDITOR=editor)
    assert has(b, "g/A@a", "g/B@b", "g/B2@b", "g/B3@b")
    is_calm(b)


def test_cherry_pick(two):
    a, b = two
    write(a, "g/A", "g/A2")
    publish(a)
    write(b, "g/B", "g/B2")
    git(b, "fetch", "-q")
    git(b, "cherry-pick", "origin/main")
    assert has(b, "g/B@b", "g/B2@b", "g/A2@a", "g/A@a"), "a state of the vault has all that came before it"
    git(b, "pull", "-q", "--no-rebase", "--no-edit")
    assert has(b, "g/B@b", "g/B2@b", "g/A2@a", "g/A@a")
    is_calm(b)


def test_stash(two):
    a, b = two
    write(a, "g/A")
    publish(a)
    git(b, "config", "avault.commit", "false")
    put(b, "g/B", "g/B of b")
    told(b, "off")
    git(b, "stash", "-q")
    assert get(b, "g/B") == "g/B of b", "an older file is not believed"
    git(b, "pull", "-q", "--ff-only")
    assert has(b, "g/A@a", "g/B@b"), "what was pulled is merged into what is served, and written"
    git(b, "config", "avault.commit", "true")
    write(b, "g/AFTER")
    git(b, "stash", "pop", "-q")
    assert has(b, "g/A@a", "g/B@b", "g/AFTER@b")
    is_calm(b)


def test_autostash(two):
    a, b = two
    write(a, "g/A")
    publish(a)
    git(b, "config", "avault.commit", "false")
    put(b, "g/B", "g/B of b")
    told(b, "off")
    git(b, "pull", "-q", "--rebase", "--autostash")
    assert has(b, "g/A@a", "g/B@b")


def test_a_merge_that_is_aborted_and_done_again(two):
    a, b = two
    write(a, "g/A")
    publish(a)
    write(b, "g/B")
    git(b, "fetch", "-q")
    before = enc(b)
    for read in (False, True):
        git(b, "merge", "-q", "--no-commit", "origin/main")
        if read:
            assert has(b, "g/A@a", "g/B@b")
        git(b, "merge", "--abort")
        assert enc(b) == before
    assert has(b, "g/A@a", "g/B@b"), "what was served once is served on"
    put(b, "g/C", "x", code=8)
    git(b, "pull", "-q", "--no-rebase", "--no-edit")
    write(b, "g/C")
    assert has(b, "g/A@a", "g/B@b", "g/C@b")
    stop(b)
    start(b)
    assert has(b, "g/A@a", "g/B@b", "g/C@b")
    is_calm(b)


def test_a_merge_that_is_aborted_and_forgotten(two):
    """Nobody looked at it: the machine goes on as if it had not been, and meets the other side later."""
    a, b = two
    write(a, "g/A")
    publish(a)
    write(b, "g/B")
    git(b, "fetch", "-q")
    git(b, "merge", "-q", "--no-commit", "origin/main")
    discarded = enc(b)
    git(b, "merge", "--abort")
    write(b, "g/B", "g/C")
    (b.vault / "avault.enc").write_bytes(discarded)
    assert has(b, "g/A@a", "g/B@b", "g/C@b"), "the merge that was thrown away does not know the later writes"
    recorded(b)
    git(b, "pull", "-q", "--no-rebase", "--no-edit")
    assert has(b, "g/A@a", "g/B@b", "g/C@b")
    is_calm(b)


def test_an_old_commit_under_a_running_daemon(two):
    a, _ = two
    write(a, "g/A", "g/B")
    git(a, "checkout", "-q", "HEAD^")
    assert has(a, "g/A@a", "g/B@a")
    put(a, "g/C", "x", code=8)
    assert any("older" in warning for warning in a.status()["warnings"])
    git(a, "checkout", "-q", "main")
    write(a, "g/C")
    is_calm(a)


def test_three_machines(place):
    """Round and round, by sync alone, until nobody has anything new."""
    with level(place.top, "a", "b", "c") as machines:
        for turn in range(2):
            for machine in machines:
                put(machine, f"g/{machine.top.name.upper()}{turn}", f"{turn}")
            for machine in machines[turn:] + machines[:turn]:
                machine("sync")
        for machine in machines:
            machine("sync")
        expected = {"K": "first"} | {f"{letter}{turn}": f"{turn}" for letter in "ABC" for turn in range(2)}
        for machine in machines:
            assert machine("get", "g", "--json", secret=True).json["values"] == expected
            is_calm(machine)
        assert len({enc(machine) for machine in machines}) == 1


def test_both_merge_the_same(two):
    """Each has the other's commit and merges it for itself: then the merges are merged."""
    a, b = two
    write(a, "g/A")
    write(b, "g/B")
    git(a, "push", "-q", "origin", "HEAD:refs/heads/a")
    git(b, "push", "-q", "origin", "HEAD:refs/heads/b")
    git(a, "pull", "-q", "--no-rebase", "--no-edit", "origin", "b")
    git(b, "pull", "-q", "--no-rebase", "--no-edit", "origin", "a")
    assert has(a, "g/A@a", "g/B@b") and has(b, "g/A@a", "g/B@b")
    write(a, "g/A2")
    write(b, "g/B2")
    publish(a)
    git(b, "pull", "-q", "--no-rebase", "--no-edit")  # criss-cross: two common ancestors
    publish(b)
    git(a, "pull", "-q", "--ff-only")
    for machine in two:
        assert has(machine, "g/A@a", "g/B@b", "g/A2@a", "g/B2@b")
        is_calm(machine)


def test_a_vault_of_many_parts(two):
    a, b = two
    secrets = {f"K{number}": "x" * 60 for number in range(3000)}
    for machine in two:
        prefix = machine.top.name.upper()
        rows = json.dumps({f"{prefix}{key}": value for key, value in secrets.items()})
        (machine.top / "secrets.json").write_text(rows)
        machine("import", str(machine.top / "secrets.json"), "--format", "json", "--group", "many")
        recorded(machine)
        assert enc(machine).count(b"\n") > 3
    publish(a)
    git(b, "pull", "-q", "--no-rebase", "--no-edit")
    b("list")
    assert b.status()["secrets"] == 6001
    is_calm(b)


# The same key


def collide(a: Machine, b: Machine) -> None:
    """Both set g/K and a key of their own; a has published."""
    write(a, "g/K", "g/A")
    write(b, "g/K", "g/B")
    publish(a)


BOTH = {"g/K of a", "g/K of b"}


def test_a_conflict_is_named_and_both_values_are_there(two):
    a, b = two
    collide(a, b)
    done = git_run(b, "pull", "-q", "--no-rebase", "--no-edit")
    assert done.returncode == 1
    assert "avault: conflict: two machines set g/K; the vault has both values" in done.stderr
    assert "g/A" not in done.stderr and "g/B" not in done.stderr
    assert git(b, "diff", "--name-only", "--diff-filter=U") == "avault.enc"
    assert values(b, "g/K") == BOTH and has(b, "g/A@a", "g/B@b")
    assert "K  " in b("list").stdout and "conflict: two machines set it" in b("list").stdout
    assert by_hand(b)["state"] == "conflict"
    put(b, "g/K", "chosen")
    said = told(b, "merged")
    assert (said["reason"], said["hint"]) == ("a merge is under way; the vault is merged in it", "avault sync")
    assert git(b, "diff", "--name-only", "--diff-filter=U") == ""
    git(b, "commit", "-q", "--no-edit")
    publish(b)
    git(a, "pull", "-q", "--ff-only")
    for machine in two:
        assert values(machine, "g/K") == {"chosen"} and has(machine, "g/A@a", "g/B@b")
        is_calm(machine)


def test_sync_stops_at_a_conflict_and_goes_on(two):
    a, b = two
    collide(a, b)
    done = b("sync", code=1)
    assert "conflict: two machines set g/K" in done.stderr and "avault set" in done.stderr
    for _ in range(2):
        again = b("sync", code=1)
        assert "a key was set on two machines; both values are in the vault" in again.stderr
    put(b, "g/K", "chosen")
    told(b, "merged")
    done = b("sync", "--json")
    assert done.json["conflicts"] == [] and done.json["pushed"] == 3 and "level with origin/main" not in done.stdout
    a("sync")
    for machine in two:
        assert values(machine, "g/K") == {"chosen"}
        is_calm(machine)


def test_the_conflict_may_be_committed_as_it_is(two):
    """`git add` says that the person has seen it: both values go to everybody, until somebody chooses."""
    a, b = two
    collide(a, b)
    git(b, "pull", "-q", "--no-rebase", "--no-edit", code=1)
    git(b, "add", "avault.enc")
    git(b, "commit", "-q", "--no-edit")
    publish(b)
    git(a, "pull", "-q", "--ff-only")
    assert values(a, "g/K") == BOTH
    write(a, "g/A2")
    write(b, "g/B2")
    publish(a)
    git(b, "pull", "-q", "--no-rebase", "--no-edit"), "a conflict that both sides know is not told again"
    assert values(b, "g/K") == BOTH
    put(b, "g/K", "chosen")
    recorded(b)
    publish(b)
    git(a, "pull", "-q", "--ff-only")
    assert values(a, "g/K") == {"chosen"}


def test_a_conflict_in_a_rebase(two):
    """The rebase may go on with both values, and somebody chooses afterwards."""
    a, b = two
    collide(a, b)
    done = git_run(b, "pull", "-q", "--rebase")
    assert "conflict: two machines set g/K" in done.stderr and "hint: git add avault.enc, and go on" in done.stderr
    git(b, "add", "avault.enc")
    git(b, "rebase", "--continue")
    assert values(b, "g/K") == BOTH and has(b, "g/A@a", "g/B@b")
    put(b, "g/K", "chosen")
    recorded(b)
    assert values(b, "g/K") == {"chosen"}
    is_calm(b)


def test_a_conflict_in_a_rebase_that_is_settled_at_once(two):
    a, b = two
    collide(a, b)
    git(b, "pull", "-q", "--rebase", code=1)
    put(b, "g/K", "chosen")
    wait_until(lambda: not git(b, "diff", "--name-only", "--diff-filter=U"), what="the conflict is settled in git's index")
    git(b, "rebase", "--continue")
    assert values(b, "g/K") == {"chosen"} and has(b, "g/A@a", "g/B@b")
    recorded(b)
    is_calm(b)


def test_one_deletes_what_the_other_sets(two):
    a, b = two
    write(a, "g/K")
    b("delete", "g/K")
    recorded(b)
    publish(a)
    git(b, "pull", "-q", "--no-rebase", "--no-edit")
    assert values(b, "g/K") == {"g/K of a"}, "what was set was not seen by who deleted"


# Locked


@pytest.mark.parametrize("how", ["locked", "stopped"])
def test_locked_the_driver_changes_nothing_and_the_next_unlock_merges(two, how):
    a, b = two
    write(a, "g/A")
    write(b, "g/B")
    publish(a)
    (lock if how == "locked" else stop)(b)
    before = enc(b), sorted(path.name for path in b.own.iterdir() if path.name != "access.log")
    done = git_run(b, "pull", "-q", "--no-rebase", "--no-edit")
    assert done.returncode == 1
    assert "avault: avault.enc is left in conflict, with both sides in git, as it could not be merged" in done.stderr
    assert "avault: hint: avault unlock, which merges it" in done.stderr
    assert (enc(b), sorted(path.name for path in b.own.iterdir() if path.name != "access.log")) == before
    if how == "locked":
        assert by_hand(b)["state"] == "conflict"
    assert "the next unlock merges it" in b("sync", code=1).stderr
    unlock(b)
    said = told(b, "merged")
    assert said["hint"] == "avault sync"
    assert has(b, "g/A@a", "g/B@b")
    assert git(b, "diff", "--name-only", "--diff-filter=U") == ""
    b("sync")
    a("sync")
    for machine in two:
        assert has(machine, "g/A@a", "g/B@b")
        is_calm(machine)


def test_locked_and_the_same_key(two):
    a, b = two
    collide(a, b)
    lock(b)
    git(b, "pull", "-q", "--no-rebase", "--no-edit", code=1)
    unlock(b)
    assert told(b, "conflict")["reason"] == "a key was set on two machines; both values are in the vault"
    assert values(b, "g/K") == BOTH and has(b, "g/A@a", "g/B@b")
    put(b, "g/K", "chosen")
    told(b, "merged")
    b("sync")
    is_calm(b)


def test_locked_in_a_rebase(two):
    """There the work tree has the other side, which does not open here: it is begun again."""
    a, b = two
    write(a, "g/A")
    write(b, "g/B", "g/B2")
    publish(a)
    lock(b)
    done = git_run(b, "pull", "-q", "--rebase")
    assert done.returncode == 1 and "avault: hint: abort what you began (git rebase --abort), then avault unlock" in done.stderr
    git(b, "rebase", "--abort")
    unlock(b)
    git(b, "pull", "-q", "--rebase")
    assert has(b, "g/A@a", "g/B@b", "g/B2@b")
    is_calm(b)


def test_sync_asks_for_an_open_vault_before_it_begins(two):
    a, b = two
    write(a, "g/A")
    write(b, "g/B")
    publish(a)
    lock(b)
    before = git(b, "rev-parse", "HEAD")
    done = b("sync", code=3)
    assert "avault unlock, then avault sync" in done.stderr
    assert git(b, "rev-parse", "HEAD") == before and git(b, "status", "--porcelain") == ""
    unlock(b)
    b("sync")
    assert has(b, "g/A@a", "g/B@b")


def test_locked_sync_fetches_what_is_not_the_vault(two):
    a, b = two
    (a.vault / "mine").write_text("x\n")
    git(a, "add", "mine")
    git(a, "commit", "-qm", "the user's")
    publish(a)
    lock(b)
    assert b("sync", "--json").json["merged"] == 1
    write(a, "g/A")
    publish(a)
    b("sync", code=3)
    unlock(b)
    b("sync")
    assert has(b, "g/A@a")


# Without us


def test_a_clone_without_the_driver_gets_a_conflict_and_no_mixture(two):
    a, b = two
    write(a, "g/A")
    publish(a)
    git(b, "config", "--remove-section", "merge.avault")
    (b.vault / ".git" / "info" / "attributes").unlink()
    git(b, "config", "avault.commit", "false")
    put(b, "g/B", "g/B of b")
    told(b, "off")
    stop(b)
    git(b, "config", "--remove-section", "merge.avault", code=None)
    (b.vault / ".git" / "info" / "attributes").unlink(missing_ok=True)
    git(b, "commit", "-qam", "by hand")
    ours = enc(b)
    git(b, "pull", "-q", "--no-rebase", "--no-edit", code=1)
    assert enc(b) == ours
    git(b, "config", "avault.commit", "true")
    start(b)
    told(b, "merged")
    git(b, "commit", "-q", "--no-edit")
    assert has(b, "g/A@a", "g/B@b") and avault.is_set_up(avault.Repository(str(b.vault)))
    is_calm(b)


def test_the_driver_needs_nothing_of_the_environment(two):
    """A GUI starts git with a poor PATH and little else."""
    a, b = two
    write(a, "g/A")
    publish(a)
    write(b, "g/B")
    program = str(shutil.which("git"))
    directory = b.top / "bin"
    directory.mkdir()
    (directory / "git").symlink_to(program)
    (directory / "sh").symlink_to("/bin/sh")
    poor = {"HOME": b.env["HOME"], "XDG_STATE_HOME": b.env["XDG_STATE_HOME"], "PATH": str(directory)}
    b.env, kept = poor, b.env
    git(b, "pull", "-q", "--no-rebase", "--no-edit")
    assert "g/A  created" in git(b, "show", "HEAD", "-m", "--", "avault.enc")
    b.env = kept
    assert has(b, "g/A@a", "g/B@b")


ODD = ["a b", "*[x]?", "two\nlines", "-dash", 'quo"te', "back\\slash", "%P %A", "$(touch canary)", "'"]


def merge_a_side(machine: Machine, top: Path) -> None:
    """A repository around a vault, in it a branch of another machine's, merged; and what git shows of it."""
    git(machine, "init", "-q", str(top))
    put(machine, "g/K", "first")
    recorded(machine)
    vault = avault.open_vault(enc(machine), AGENT)
    vault.put("g", "SIDE", "of the side", 1, "other")
    vault.generation = dict(sorted({**vault.generation, "other": 1}.items()))
    side = avault.seal_vault(vault, AGENT)
    git(machine, "branch", "side")
    put(machine, "g/MAIN", "of main")
    recorded(machine)
    stop(machine)
    git(machine, "switch", "-q", "side")
    (machine.vault / "avault.enc").write_bytes(side)
    git(machine, "commit", "-qam", "side")
    git(machine, "switch", "-q", "main")
    start(machine)
    git(machine, "merge", "-q", "--no-edit", "side", cwd=top)
    assert (get(machine, "g/SIDE"), get(machine, "g/MAIN")) == ("of the side", "of main")
    assert "+g/MAIN  created" in git(machine, "log", "-p", cwd=top)
    assert "g/SIDE" in machine("history").stdout


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_odd_names(place, name):
    """The path goes through git's configuration and a shell."""
    with Machine(place.top, place.top / "home" / name / ".avault") as machine:
        make(machine)
        merge_a_side(machine, machine.vault.parent)
        assert not list(place.top.rglob("canary"))


def test_avault_itself_is_in_an_odd_place(place):
    odd = place.top / "50%O off 'it' $(touch canary)"
    odd.mkdir()
    shutil.copy(SOURCE, odd)
    with Machine(place.top, command=[sys.executable, str(odd / "avault.py")]) as machine:
        make(machine)
        merge_a_side(machine, machine.vault)
        assert "/50%%O off " in git(machine, "config", "merge.avault.driver"), "git would put a file's name there"
        assert not list(place.top.rglob("canary"))


# nsec.enc and nip46.json


def test_both_machines_turned_their_recovery_copy(two):
    a, b = two
    before = (a.vault / "nsec.enc").read_bytes()
    for machine in two:
        own = machine.own
        stop(machine)
        (own / "unlock.json").unlink()
        start(machine)
        recorded(machine)
    mine, theirs = ((machine.vault / "nsec.enc").read_bytes() for machine in (b, a))
    assert len({before, mine, theirs}) == 3
    publish(a)
    git(b, "pull", "-q", "--no-rebase", "--no-edit")
    assert (b.vault / "nsec.enc").read_bytes() == mine
    is_calm(b)


@pytest.mark.parametrize("name", ["nsec.enc", "nip46.json"])
def test_public_files_of_another_operator_are_not_chosen_between(two, name):
    a, b = two
    kind, field = {"nsec.enc": ("nsec", "operator"), "nip46.json": ("hints", "signer_npub")}[name]
    for machine in two:
        lock(machine)  # an open vault mends its recovery copy
        path = machine.vault / name
        content = avault.decode_file(kind, path.read_bytes(), name)
        if machine is a:
            content[field] = content["agent" if name == "nsec.enc" else "agent_npub"]
        else:
            content["envelope" if name == "nsec.enc" else "relay"] += "x"
        path.write_bytes(avault.encode_file(kind, content))
        by_hand(machine)
        assert is_committed(machine)
    mine = (b.vault / name).read_bytes()
    publish(a)
    done = git_run(b, "pull", "-q", "--no-rebase", "--no-edit")
    assert done.returncode == 1 and f"{name} is another on both sides: {field}" in done.stderr
    assert (b.vault / name).read_bytes() == mine
    said = by_hand(b)
    assert said["state"] == "conflict" and said["hint"] == f"choose one: git checkout --ours or --theirs {name}"


# sync


def test_sync_does_it_all(two):
    a, b = two
    (a.vault / "mine").write_text("x\n")
    git(a, "add", "mine")
    git(a, "commit", "-qm", "the user's")
    write(a, "g/A")
    git(a, "config", "avault.push", "true")
    assert by_hand(a)["push"] == "refused"
    done = a("sync", "--json")
    assert (done.json["merged"], done.json["pushed"]) == (0, 2)
    wait_until(lambda: told(a)["push"] == "clean", what="status says how it is now")
    write(b, "g/B")
    (b.vault / "unstaged").write_text("x\n")
    (b.vault / "staged").write_text("x\n")
    done = b("sync")
    assert "avault: merged 2 commit(s) and pushed 2 commit(s): level with origin/main" in done.stderr
    assert "level" in a("sync").stderr
    assert "nothing to do: level with origin/main" in a("sync").stderr
    for machine in two:
        assert has(machine, "g/A@a", "g/B@b") and (machine.vault / "mine").exists()
    assert git(b, "status", "--porcelain") == "?? staged\n?? unstaged"


def test_sync_without_the_user_s_name(two):
    a, b = two
    write(a, "g/A")
    write(b, "g/B")
    publish(a)
    (b.home / ".gitconfig").unlink()
    b("sync")
    assert git(b, "log", "-1", "--format=%an %s") == "avault avault: merge"


def test_sync_leaves_work_in_progress_alone(two):
    """Where it is in the way, git says so, and nothing was done."""
    a, b = two
    for text in ("one\n", "two\n"):
        (a.vault / "shared").write_text(text)
        git(a, "add", "shared")
        git(a, "commit", "-qm", text.strip())
        publish(a)
        git(b, "pull", "-q", "--ff-only") if text == "one\n" else None
    write(b, "g/B")
    (b.vault / "shared").write_text("in progress\n")
    head = git(b, "rev-parse", "HEAD")
    for stage in (False, True):
        if stage:
            git(b, "add", "shared")
        done = b("sync", code=1)
        assert "git could not merge origin/main" in done.stderr and "would be overwritten by merge" in done.stderr
        assert (b.vault / "shared").read_text() == "in progress\n" and git(b, "rev-parse", "HEAD") == head
    git(b, "commit", "-qm", "done")
    done = b("sync", code=1)
    assert "conflicts in file(s) of yours: shared" in done.stderr and "fix conflicts" not in done.stderr
    (b.vault / "shared").write_text("both\n")
    assert "a merge is under way" in b("sync", code=1).stderr
    git(b, "add", "shared")
    b("sync")
    is_calm(b)


def test_sync_verifies_what_it_brings(two):
    """A vault that does not open takes the place of none that works; the other side's may come from anybody who can push."""
    a, b = two
    bad = bytearray(enc(a))
    bad[len(bad) // 2] ^= 1
    lock(a)
    (a.vault / "avault.enc").write_bytes(bytes(bad))
    git(a, "commit", "-qam", "avault: update the vault")
    publish(a)
    before = enc(b)
    for state, code, text in (("open", 8, "the avault.enc of origin/main does not open"), ("locked", 3, "is to be verified")):
        if state == "locked":
            lock(b)
        done = b("sync", code=code)
        assert text in done.stderr and enc(b) == before and git_run(b, "rev-parse", "-q", "--verify", "MERGE_HEAD").returncode
        if state == "open":
            hint = done.stderr.split("To keep yours: ")[1].split(";")[0]
    unlock(b)
    write(b, "g/B")
    assert "does not open" in b("sync", code=8).stderr, "also where both have written"
    git(b, *shlex.split(hint)[1:])
    b("sync")
    stop(a)
    git(a, "pull", "-q", "--ff-only")
    start(a)
    assert has(a, "g/B@b") and enc(a) == enc(b)


@pytest.mark.parametrize("instead", ["nothing", "a link"])
def test_sync_takes_no_vault_away(two, instead):
    """Who can push can delete the file, or have the same bytes be the target of a link."""
    a, b = two
    lock(a)
    if instead == "nothing":
        git(a, "rm", "-q", "avault.enc")
    else:
        blob = git_run(a, "rev-parse", "HEAD:avault.enc").stdout.strip()
        git(a, "update-index", "--cacheinfo", f"120000,{blob},avault.enc")
    git(a, "commit", "-qm", "avault: update the vault")
    publish(a)
    before = enc(b)
    for change in (lambda: None, lambda: lock(b)):
        change()
        assert "has no avault.enc any more" in b("sync", code=8).stderr
        assert enc(b) == before and (b.vault / "avault.enc").is_file() and not (b.vault / "avault.enc").is_symlink()


def test_a_recovery_copy_of_anybody_s_is_replaced(two):
    """Whoever can push can swap nsec.enc for one with the right names that opens nothing: who syncs mends it for all."""
    a, b = two
    content = avault.decode_file("nsec", (a.vault / "nsec.enc").read_bytes(), "nsec.enc")
    bad = avault.encode_file("nsec", {**content, "sealed": content["envelope"]})
    lock(a)
    (a.vault / "nsec.enc").write_bytes(bad)
    git(a, "commit", "-qam", "avault: update the vault")
    publish(a)
    git(b, "config", "avault.push", "true")
    b("sync")
    wait_until(lambda: git(b, "cat-file", "blob", "origin/main:nsec.enc").encode() != bad.rstrip(), what="a good one upstream")
    assert (b.vault / "nsec.enc").read_bytes() != bad


def test_sync_runs_the_hook_only_for_what_is_not_ours(two):
    a, _ = two
    hook = a.vault / ".git" / "hooks" / "pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {a.top}/ran\nexit 1\n")
    hook.chmod(0o755)
    write(a, "g/A")
    a("sync")
    assert not (a.top / "ran").exists()
    git(a, "commit", "-q", "--allow-empty", "-m", "the user's")
    assert "cannot push to origin/main" in a("sync", code=6).stderr
    assert (a.top / "ran").exists()


def test_sync_says_why_not(two):
    a, _ = two
    assert b"usage: avault sync" in a("sync", "--help").stdout.encode()
    origin = a.top.parent / "origin"
    origin.rename(origin.with_name("away"))
    done = a("sync", code=6)
    assert "cannot fetch from origin" in done.stderr and "does not appear to be a git repository" in done.stderr
    origin.with_name("away").rename(origin)
    git(a, "branch", "--unset-upstream")
    done = a("sync", code=1)
    assert "the branch main has no upstream" in done.stderr and "git push -u origin main" in done.stderr
    error = json.loads(a("sync", "--json", code=1).stdout)["error"]
    assert error["hint"] == "git push -u origin main"
    shutil.move(a.vault / ".git", a.top / "gone")
    said = a("sync", code=4).stderr
    assert "in no git repository" in said
    hint = re.search(r"its history kept: (git -C .* init); then: avault sync", said)
    assert hint and hint[1] == f"git -C {a.vault.parent} init", "it works in whatever directory it is typed"


def test_a_merge_of_the_user_s_is_the_user_s_to_commit(two):
    a, _ = two
    git(a, "switch", "-q", "-c", "side")
    git(a, "commit", "-q", "--allow-empty", "-m", "side")
    git(a, "switch", "-q", "main")
    write(a, "g/A")
    git(a, "merge", "-q", "--no-commit", "--no-ff", "side")
    before = git(a, "rev-parse", "HEAD")
    assert "a merge is under way" in a("sync", code=1).stderr
    assert git(a, "rev-parse", "HEAD") == before
    git(a, "commit", "-q", "--no-edit")
    a("sync")


def test_unrelated_histories_are_not_joined(two):
    _, b = two
    other = b.top / "unrelated"
    git(b, "init", "-q", "-b", "main", str(other))
    git(b, "commit", "-q", "--allow-empty", "-m", "another", cwd=other)
    git(b, "remote", "set-url", "origin", str(other))
    before = git(b, "rev-parse", "HEAD")
    assert "refusing to merge unrelated histories" in b("sync", code=1).stderr
    assert git(b, "rev-parse", "HEAD") == before


# What git shows


def test_differences_are_names_and_times_never_values(two, canary):
    a, _ = two
    write(a, "g/A")
    put(a, "openai/API_KEY", canary.value)
    recorded(a)
    a("set", "openai/API_KEY", "--note", "production\x41, read only", input=canary.new("another"))
    a("delete", "g/A")
    recorded(a)
    text = git(a, "log", "-p", "--", "avault.enc")
    for line in ("+openai/API_KEY  created ", "-openai/API_KEY  created ", "-g/A  created ", "+openai  # productionA, read only"):
        assert line in text
    assert canary.value not in text and "g/A of a" not in text
    assert "g/A  created" in git(a, "show", "HEAD")
    a("set", "openai/ORG", input="x")
    shown = [line for line in git(a, "diff", "HEAD~1", "--", "avault.enc").splitlines() if line.startswith("+openai/ORG")]
    assert shown or is_committed(a)


@pytest.mark.parametrize("how", ["locked", "stopped"])
def test_differences_while_it_is_locked(two, how):
    a, _ = two
    (lock if how == "locked" else stop)(a)
    text = git(a, "log", "-p", "--", "avault.enc")
    assert "+# avault: " in text and "+sha256 " in text and "created" not in text
    assert git(a, "diff", "HEAD") == ""


def test_a_version_that_does_not_open(two):
    a, _ = two
    (a.vault / "avault.enc").write_text("damaged\n")
    git(a, "commit", "-qam", "damaged")
    text = git(a, "log", "-p", "-1", "--", "avault.enc")
    assert "+# avault: avault.enc is damaged, or not this agent's" in text and "-g/K  created" in text
    assert "damaged, or not this agent's" in a("history").stdout


# history and restore


def test_history(two):
    a, b = two
    write(a, "g/A", "h/GONE")
    b("delete", "g/K")
    recorded(b)
    write(b, "openai/ORG")
    a("delete", "h/GONE")
    recorded(a)
    publish(a)
    git(b, "pull", "-q", "--no-rebase", "--no-edit")
    b("delete", "g/A")
    recorded(b)
    write(b, "openai/ORG")
    found = b("history", "--json").json["commits"]
    about = [{kind: names for kind, names in each.items() if kind in avault.CHANGE_SIGNS and names} for each in found]
    assert about[:3] == [{"changed": ["openai/ORG"]}, {"deleted": ["g/A"]}, {}]
    expected = [
        {"added": ["g/A"]},
        {"added": ["h/GONE"]},
        {"added": ["openai/ORG"]},
        {"deleted": ["g/K"]},
        {"deleted": ["h/GONE"]},
    ]
    assert sorted(about[3:8], key=str) == expected
    assert {"added": ["g/K"]} in about[8:]
    assert [each["merge"] for each in found[:4]] == [False, False, True, False]
    listed = git(b, "rev-list", "HEAD", "--", "avault.enc").split()
    assert sorted(each["commit"] for each in found) == sorted(listed)  # those of one second come in any order
    assert {each["author"] for each in found} == {"Ada", "Bob"}
    assert all(len(each["time"]) == 20 and each["problem"] is None for each in found)
    lines = b("history", "openai").stdout.splitlines()
    assert len(lines) == 4 and lines[0].endswith("Z  Bob") and lines[1::2] == ["  ~ openai/ORG", "  + openai/ORG"]
    assert b("history", "openai/ORG").stdout.splitlines() == lines
    assert len(b("history", "-n", "2", "--json").json["commits"]) == 2
    assert "no commit changed openai/NONE" in b("history", "openai/NONE", code=4).stderr
    assert "no commit changed nothing" in b("history", "nothing", code=4).stderr
    lock(b)
    assert "locked" in b("history", code=3).stderr


def test_a_conflict_stands_in_the_history(two):
    a, b = two
    collide(a, b)
    git(b, "pull", "-q", "--no-rebase", "--no-edit", code=1)
    git(b, "commit", "-qam", "both")
    first = b("history", "-n", "1").stdout.splitlines()
    assert first[0].endswith("  (merge)") and first[1:] == ["  ~ g/K", "  ! g/K"]


def test_history_with_versions_that_do_not_open(two):
    a, _ = two
    good = enc(a)
    for text in ("damaged\n", ""):
        (a.vault / "avault.enc").write_text(text)
        git(a, "commit", "-qam", "damaged")
    (a.vault / "avault.enc").write_bytes(good)
    git(a, "commit", "-qam", "mended")
    write(a, "g/A")
    found = a("history", "--json").json["commits"]
    assert found[0]["added"] == ["g/A"]
    assert [bool(each["problem"]) for each in found[:4]] == [False, True, True, True]
    assert "so what changed is unknown" in found[1]["problem"] and "damaged" in found[2]["problem"]
    assert found[-1]["added"] in ([], ["g/K"])


def test_restore(two, canary):
    a, b = two
    put(a, "g/K", canary.value)
    put(a, "g/L", canary.new("l"))
    recorded(a)
    old = git(a, "rev-parse", "--short", "HEAD")
    put(a, "g/K", "second")
    a("delete", "g/L")
    put(a, "g/M", "kept")
    recorded(a)
    done = a("restore", old, "g/K")
    assert done.stderr.startswith("avault: restored g/K as of ") and done.stdout == ""
    assert get(a, "g/K") == canary.value
    a("has", "g/L", code=4)
    assert a("restore", old, "g", "--json").json["restored"] == ["g/K", "g/L"]
    assert get(a, "g/L") == canary.new("l") and get(a, "g/M") == "kept"
    recorded(a)
    publish(a)
    git(b, "pull", "-q", "--ff-only")
    assert get(b, "g/L") == canary.new("l"), "a restored value is a write like any other"
    is_calm(a)


def test_restore_says_why_not(two):
    a, _ = two
    write(a, "g/A")
    for words, code, text in (
        (("HEAD^", "g/A"), 4, "no key A in group g in "),
        (("HEAD^", "h"), 4, "no group h in "),
        (("nothing", "g"), 4, "nothing is no commit"),
        (("--", "--output=x", "g"), 4, "--output=x is no commit"),
        (("--", "-x", "g"), 4, "-x is no commit"),
        (("HEAD:avault.enc", "g"), 4, "HEAD:avault.enc is no commit"),
        (("HEAD", "g/A", "--key", "A"), 2, "the key is named twice"),
        (("g/A",), 2, "COMMIT is missing: as of when is g/A to be restored?\navault: hint: avault history g\n"),
        (("g",), 2, "COMMIT is missing"),
        (("HEAD^",), 2, "GROUP is missing"),
    ):
        assert text in a("restore", *words, code=code).stderr, words
    git(a, "switch", "-q", "--orphan", "empty")
    git(a, "commit", "-q", "--allow-empty", "-m", "empty")
    assert "empty has no vault" in a("restore", "empty", "g", code=4).stderr
    git(a, "switch", "-q", "main")
    (a.vault / "avault.enc").write_text("damaged\n")
    git(a, "commit", "-qam", "damaged")
    assert "does not open" in a("restore", "HEAD", "g/A", code=8).stderr
    git(a, "reset", "-q", "--hard", "HEAD^")
    lock(a)
    a("restore", "HEAD", "g/A", code=3)
    assert [path.name for path in a.own.glob("copy-*")] == []
