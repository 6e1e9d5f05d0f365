"""avault git record, git merge, git diff, sync, history, restore: the vault in a git repository.

After every write the supervisor runs `avault git record`: our files, and no others, are committed and pushed. A commit
is made with git's plumbing, of which no hook, filter, signing program, editor or pager runs, and beside the index, so
that what the user has staged stays staged. A push goes the way of the user's own `git push`: remotes, ssh and credential
helpers are the repository's settings, and git itself refuses a repository of somebody else's (safe.directory).

Git merges avault.enc through the keyholder, by key, and compares its names instead of its bytes. It is told to in
.git/config and .git/info/attributes, which no clone gets: there the .gitattributes that we commit makes it a conflict.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import shlex
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

from avault_run_git import NO_HOOKS, reason, run_git, watch_git

from avault import (
    GITATTRIBUTES,
    VAULT_LIMIT,
    AvaultError,
    Fields,
    Locked,
    NotFound,
    Places,
    Tampered,
    Terminal,
    TimedOut,
    Unavailable,
    Usage,
    argument,
    ask_daemon,
    command,
    context,
    decode_file,
    explain_absence,
    find_git,
    need_vault,
    once,
    option,
    own_command,
    printable,
    put,
    read_file,
    read_pin,
    read_verified,
    render_time,
    say,
    sha256,
    split_name,
    write_file,
)

VAULT, RECOVERY, HINTS, ATTRIBUTES = "avault.enc", "nsec.enc", "nip46.json", ".gitattributes"
NAMES = (VAULT, RECOVERY, HINTS, ATTRIBUTES)
MESSAGE = "avault: update the vault"  # tells nothing; with what a commit touches, it tells which commits are ours
MERGE_MESSAGE = "avault: merge"
NOBODY = {"name": "avault", "email": "avault@localhost"}  # who commits where git knows no user
PATIENCE = 5.0  # seconds to wait for another git's index.lock

OPERATIONS = {
    "MERGE_HEAD": "a merge",
    "CHERRY_PICK_HEAD": "a cherry-pick",
    "REVERT_HEAD": "a revert",
    "rebase-merge": "a rebase",
    "rebase-apply": "a rebase",
    "sequencer": "a cherry-pick or revert",
}


UNDER_WAY_HINT = "finish or abort it; see: git status"  # neither loses what is confirmed: an open vault writes it again


class NoRepository(NotFound):
    """The vault is in no work tree of git's."""


class Refused(AvaultError):
    """The repository is in a state in which we leave it alone."""


class Conflict(AvaultError):
    """Git left a conflict in our files that needs a person, or the vault open."""


# What may be committed


class Verified:
    """Which bytes of our files may be committed: those that the daemon serves, or has verified.

    `given` are the hashes that it knew when it asked for the commit. For others it is asked; a vault that is locked has the
    pin, which is the hash of what was served last.
    """

    def __init__(self, places: Places, given: dict[str, str] | None = None) -> None:
        self.places, self.hashes = places, [given or {}]
        self.is_asked = False

    def check(self, name: str, data: bytes) -> None:
        """Raise Tampered for bytes that nobody vouches for; a file that opens nothing is not looked at."""
        if name not in (VAULT, RECOVERY):
            return
        if not self.knows(name, data) and not self.is_asked:
            self.is_asked = True
            self.hashes.append(self.ask())
        if not self.knows(name, data):
            if "pin" in self.hashes[-1]:
                raise Locked(f"nobody has verified {name} on the disk, so it is not committed", "avault unlock")
            if name == RECOVERY:
                raise Tampered(f"{name} on the disk does not open the vault, so it is not committed", "see: avault status")
            raise Tampered(f"{name} on the disk is not what is served, so it is not committed", "see: avault status")

    def knows(self, name: str, data: bytes) -> bool:
        """Whether these bytes were vouched for."""
        return any(found.get(name) == sha256(data).hex() for found in self.hashes)

    def ask(self) -> dict[str, str]:
        """The hashes that the daemon knows now; of a locked vault the one of its pin, and `pin`."""
        try:
            return dict(ask_daemon(self.places, "verify")["verified"])
        except (Locked, Unavailable):
            with contextlib.suppress(AvaultError):
                if pin := read_pin(self.places):
                    return {VAULT: pin["hash"], RECOVERY: read_verified(self.places), "pin": pin["hash"]}
            return {"pin": ""}


# The repository


class Head(Fields, frozen=True, order=True):
    """The branch that is checked out, and its commit; None before the first."""

    branch: str
    commit: str | None


class Upstream(Fields, frozen=True, order=True):
    """Where a branch is published: git's own copy of it here, its name for people, the remote, and its name there."""

    ref: str
    name: str
    remote: str
    branch: str


class Entry(Fields, frozen=True, order=True):
    """A line of the index: `tag` as in `git ls-files -v`, the object, and the stage, 0 for a path without a conflict."""

    tag: str
    object: str
    stage: int


class Repository:
    """The work tree that a vault directory is in: `top`, `git_dir`, and the `paths` of our files from the top.

    Raises NoRepository, and Refused for one that git itself will not touch.
    """

    def __init__(self, directory: str) -> None:
        self.directory = os.path.realpath(directory)
        try:
            found = run_git(self.directory, "rev-parse", "--is-inside-work-tree", "--show-cdup", "--absolute-git-dir")
        except Unavailable as error:
            raise NoRepository(error.message, error.hint) from None
        if b"dubious ownership" in found.stderr:
            raise Refused(
                "the repository belongs to another user, and git does not trust it",
                f"if you do: git config --global --add safe.directory {shlex.quote(self.directory)}",
            )
        if found.returncode and b"not a git repository" not in found.stderr:
            raise AvaultError(f"git: {reason(found.stderr)}", "see: git status")
        if not found.stdout.startswith(b"true\n"):
            raise NoRepository(
                f"{directory} is in no git repository's work tree",
                f"to have its history kept: git -C {shlex.quote(os.path.dirname(self.directory))} init; then: avault sync",
            )
        _, up, git_dir = os.fsdecode(found.stdout).split("\n", 2)
        self.top = os.path.realpath(os.path.join(self.directory, up))
        self.git_dir = git_dir.removesuffix("\n")
        # Whoever can push could make the vault's directory look like a bare repository, whose settings name programs.
        if os.path.realpath(self.git_dir) != os.path.realpath(find_git(self.directory) or ""):
            raise Refused(
                f"git would take {printable(self.git_dir)} for a repository of its own, and its settings with it",
                "who put HEAD and config there? Take them out of it",
            )
        self.paths = {name: os.path.relpath(os.path.join(self.directory, name), self.top) for name in NAMES}

    def run(self, *words: str, data: bytes = b"", index: str | None = None, settings: tuple[str, ...] = ()) -> bytes:
        """What git prints; raises AvaultError with what it says."""
        done = run_git(self.top, *words, data=data, index=index, settings=(NO_HOOKS, *settings))
        if done.returncode:
            raise AvaultError(f"git {words[0]}: {reason(done.stderr)}", "see: git status")
        return done.stdout

    def line(self, *words: str) -> str | None:
        """The one line that git prints; None if it says no, or nothing."""
        done = run_git(self.top, *words)
        return os.fsdecode(done.stdout).removesuffix("\n") or None if not done.returncode else None

    @once
    def scoped_settings(self) -> list[tuple[str, str, str]]:
        """What git is set to: scope, name and value, the last that is said of a name being the one that counts."""
        words = os.fsdecode(self.run("config", "-z", "--show-scope", "--list")).split("\0")[:-1]
        pairs = ((scope, entry.partition("\n")) for scope, entry in zip(words[::2], words[1::2], strict=True))
        return [(scope, name, value if mark else "true") for scope, (name, mark, value) in pairs if scope != "command"]

    @once
    def settings(self) -> dict[str, str]:
        """What git is set to, here and for the user."""
        return {name: value for _, name, value in self.scoped_settings}

    def is_on(self, name: str, default: str = "true") -> bool:
        """Whether a setting is true; raises AvaultError for neither true nor false."""
        value = self.settings.get(name, default).lower()
        if value in ("true", "yes", "on", "1"):
            return True
        if value in ("false", "no", "off", "0", ""):
            return False
        raise AvaultError(f"git config {name} is neither true nor false", f"git config {name} true")

    def resolve(self, *names: str) -> list[str | None]:
        """The objects that these names are of, None for those that are of none."""
        told = self.run("cat-file", "--batch-check=%(objectname)", data=os.fsencode("".join(name + "\n" for name in names)))
        lines = os.fsdecode(told).splitlines()
        return [None if line == f"{name} missing" else line for name, line in zip(names, lines, strict=True)]

    def head(self) -> Head:
        """What is checked out; raises Refused for a commit that is on no branch, where the next one would be lost."""
        branch = self.line("symbolic-ref", "-q", "HEAD")
        if not branch:
            raise Refused("no branch is checked out (detached HEAD)", "git switch BRANCH")
        return Head(branch, *self.resolve(branch))

    def operation(self) -> str | None:
        """What git is in the middle of: a merge, a rebase and the like (gitrepository-layout(5))."""
        refs = [name for name in OPERATIONS if name.isupper()]
        found = [name for name, commit in zip(refs, self.resolve(*refs), strict=True) if commit]
        found += [name for name in OPERATIONS if name not in refs and os.path.lexists(os.path.join(self.git_dir, name))]
        return OPERATIONS[found[0]] if found else None

    @once
    def ignored(self) -> set[str]:
        """Those of our files that the repository ignores and does not have."""
        asked = {"./" + path: path for path in self.paths.values()}  # a path that begins with : would be something else
        words = ("--no-literal-pathspecs", "check-ignore", "-z", "--stdin")
        done = run_git(self.top, *words, data=os.fsencode("\0".join(asked) + "\0"))
        if done.returncode > 1:
            raise AvaultError(f"git check-ignore: {reason(done.stderr)}", "see: git status")
        return {asked[name] for name in os.fsdecode(done.stdout).split("\0")[:-1]}

    def index(self) -> dict[str, list[Entry]]:
        """What the index has of our files."""
        entries: dict[str, list[Entry]] = {}
        listed = self.run("ls-files", "-z", "-s", "-v", "--", *self.paths.values())
        for line in os.fsdecode(listed).split("\0")[:-1]:
            place, _, path = line.partition("\t")
            tag, _, name, stage = place.split(" ")
            entries.setdefault(path, []).append(Entry(tag, name, int(stage)))
        return entries

    def tree(self, commit: str | None) -> dict[str, str]:
        """The objects of our files in a commit."""
        if not commit:
            return {}
        listed = os.fsdecode(self.run("ls-tree", "-z", "--full-tree", commit, "--", *self.paths.values()))
        lines = [line.partition("\t") for line in listed.split("\0")[:-1]]
        return {path: place.split(" ")[2] for place, _, path in lines}

    def is_file(self, commit: str, path: str) -> bool:
        """Whether a path is a file in a commit, and no link, directory or submodule."""
        return self.run("ls-tree", "-z", "--full-tree", commit, "--", path).startswith(b"100")

    def blob(self, name: str) -> bytes:
        """The content of an object; raises AvaultError."""
        return self.run("cat-file", "blob", name)

    def files(self, keep: bool = True) -> dict[str, str]:
        """Our files as they are on the disk, by path, each an object's name; git has that object now if it is to `keep` it.

        No filter touches them. A .gitattributes that says more than ours is the user's to commit.
        """
        names = [name for name in NAMES if os.path.lexists(path := os.path.join(self.directory, name)) and is_regular(path)]
        if ATTRIBUTES in names and read_file(os.path.join(self.directory, ATTRIBUTES)) != GITATTRIBUTES:
            names.remove(ATTRIBUTES)
        names = [name for name in names if self.paths[name] not in self.ignored]
        if not names:
            return {}
        paths = [self.paths[name] for name in names]
        objects = self.run("hash-object", *(["-w"] if keep else []), "--no-filters", "--", *paths).decode().split()
        return dict(zip(paths, objects, strict=True))

    # -- a commit

    def commit(self, verified: Verified) -> str | None:
        """Commit our files, and no others, as they are on the disk: the commit, or None if it has them.

        Raises Refused where the repository is to be left alone, Tampered and Locked for what is not `verified`, and AvaultError.
        """
        for _ in range(3):
            if operation := self.operation():
                raise Refused(f"{operation} is under way", UNDER_WAY_HINT)
            head, files = self.head(), self.files()
            self.refuse_marked(self.index())
            files = dict(files.items() - self.tree(head.commit).items())
            for name in NAMES:
                if self.paths[name] in files:  # as git has it now, whatever becomes of the file
                    verified.check(name, self.blob(files[self.paths[name]]))
            if not files:
                return None
            commit = self.make_commit(head, files)
            self.stage(files)
            moved = run_git(self.top, "update-ref", "-m", MESSAGE, head.branch, commit, head.commit or "0" * len(commit))
            if not moved.returncode:
                return commit
        raise Refused(f"the branch could not be moved: {reason(moved.stderr)}", "see: git status")

    def refuse_marked(self, index: dict[str, list[Entry]]) -> None:
        """Raise Refused where the user has told git not to look at our files, or where they are in conflict."""
        for path, entries in index.items():
            if any(entry.stage for entry in entries):
                raise Refused(f"{path} is in conflict", "see: git status")
            if entries[0].tag.islower() or entries[0].tag == "S":
                mark = "skip-worktree" if entries[0].tag in "Ss" else "assume-unchanged"
                raise Refused(f"{path} is marked {mark}", f"git update-index --no-{mark} {shlex.quote(path)}")

    def make_commit(self, head: Head, files: dict[str, str]) -> str:
        """A commit of these files on top of the head, that no branch has yet; made in an index of its own."""
        with tempfile.TemporaryDirectory(prefix="avault-") as place:
            index, alone = os.path.join(place, "index"), ("core.splitIndex=false",)
            if head.commit:
                self.run("read-tree", head.commit, index=index, settings=alone)
            lines = "".join(f"100644 {name}\t{path}\0" for path, name in files.items())
            self.run("update-index", "-z", "--index-info", data=os.fsencode(lines), index=index, settings=alone)
            tree = self.run("write-tree", "--missing-ok", index=index, settings=alone).decode().strip()
        changed = ("diff-tree", "-r", "-z", "--no-renames", "--name-only", head.commit, tree) if head.commit else ()
        names = self.run(*(changed or ("ls-tree", "-r", "-z", "--full-tree", "--name-only", tree)))
        if others := files.keys() ^ set(os.fsdecode(names).split("\0")[:-1]):
            raise Refused(f"a commit of the vault would change {printable(min(others))}", "see: git status")
        parents = ("-p", head.commit) if head.commit else ()
        words = ("commit-tree", *(["-S"] if self.signs() else []), tree, *parents, "-m", MESSAGE)
        done = run_git(self.top, *words, settings=(NO_HOOKS, *self.identity()))
        if done.returncode and self.signs():
            hint = "is the key at hand? Then: avault sync. To leave ours unsigned: git config avault.sign false"
            raise AvaultError(f"the commit could not be signed: {reason(done.stderr)}", hint)
        if done.returncode:
            raise AvaultError(f"git commit-tree: {reason(done.stderr)}", "see: git status")
        return done.stdout.decode().strip()

    def signs(self) -> bool:
        """Whether our commits are signed: as git config avault.sign says, else as commit.gpgSign does."""
        return self.is_on("avault.sign" if "avault.sign" in self.settings else "commit.gpgsign", default="false")

    def identity(self) -> tuple[str, ...]:
        """Settings with which git commits even where it does not know the user's name, and signs if that is wanted.

        What signs is the user's choice, in the user's or the system's configuration: a repository names no program.
        """
        settings = tuple(f"user.{name}={value}" for name, value in NOBODY.items() if not self.settings.get(f"user.{name}"))
        if not self.signs():
            return settings
        own = {name: value for scope, name, value in self.scoped_settings if scope in ("system", "global")}
        gpg = own.get("gpg.openpgp.program") or own.get("gpg.program") or "gpg"
        programs = {
            "gpg.program": gpg,
            "gpg.openpgp.program": gpg,
            "gpg.x509.program": own.get("gpg.x509.program", "gpgsm"),
            "gpg.ssh.program": own.get("gpg.ssh.program", "ssh-keygen"),
            "gpg.ssh.defaultKeyCommand": own.get("gpg.ssh.defaultkeycommand", "false"),
        }
        return (*settings, "commit.gpgSign=true", *(f"{name}={value}" for name, value in programs.items()))

    def stage(self, paths: Iterable[str]) -> None:
        """Put files of ours into the index, before the branch has them: a commit of the user's must not take them back.

        Waits a little for another git's lock, and never removes it; raises Refused. Whoever writes an index compares files
        that have just been changed, whosesoever they are, and runs their filters: here they have none, and git looks again.
        """
        filters = [name for name in self.settings if re.fullmatch(r"filter\..*\.(clean|process|required)", name, re.DOTALL)]
        settings = (NO_HOOKS, *(f"{name}=" for name in filters))
        data = os.fsencode("".join(path + "\0" for path in paths))
        end = time.monotonic() + PATIENCE
        while (done := run_git(self.top, "update-index", "--add", "-z", "--stdin", data=data, settings=settings)).returncode:
            if b"index.lock': File exists" not in done.stderr:
                raise AvaultError(f"git update-index: {reason(done.stderr)}", "see: git status")
            if time.monotonic() > end:
                lock = os.path.join(self.git_dir, "index.lock")
                raise Refused("another git holds the repository (index.lock)", f"if none is running: rm {shlex.quote(lock)}")
            time.sleep(0.1)

    # -- publishing

    def upstream(self, branch: str) -> Upstream:
        """Where a branch is published; raises Refused if nowhere."""
        fields = "%(upstream)%00%(upstream:short)%00%(upstream:remotename)%00%(upstream:remoteref)%00%(push:remotename)"
        short = branch.removeprefix("refs/heads/")
        found = self.run("for-each-ref", f"--format={fields}", branch).decode().strip("\n")
        if not found:
            raise Refused(f"the branch {short} has no commit yet", "avault sync")
        ref, name, remote, there, push = found.split("\0")
        if not ref or not there or remote == ".":
            remotes = self.run("remote").decode().split()
            likely = "origin" if "origin" in remotes else shlex.quote(remotes[0]) if remotes else None
            hint = f"git push -u {likely} {shlex.quote(short)}" if likely else "git remote add origin URL"
            raise Refused(f"the branch {short} has no upstream", hint)
        if push and push != remote:
            raise Refused(f"the branch {short} is pushed elsewhere than it is pulled from", "git push")
        return Upstream(ref, name, remote, there)

    def is_fetched(self, upstream: Upstream) -> bool:
        """Whether there is an upstream's branch here: not before the first fetch, and not as long as its remote is empty."""
        return bool(self.line("rev-parse", "-q", "--verify", f"{upstream.ref}^{{commit}}"))

    def new_commits(self, upstream: Upstream, commit: str) -> list[str]:
        """The commits that a push of `commit` would publish."""
        without = [f"^{upstream.ref}"] if self.is_fetched(upstream) else []
        return self.run("rev-list", commit, *without, "--").decode().split()

    def are_ours(self, commits: list[str]) -> bool:
        """Whether commits are ours, all of them: with our message, of one parent, touching nothing but our files."""
        names = "".join(commit + "\n" for commit in commits).encode()  # git drops a line without an end
        stream = self.run("cat-file", "--batch", data=names)
        for _ in commits:
            header, _, stream = stream.partition(b"\n")
            size = int(header.split()[2])
            head, _, message = stream[:size].partition(b"\n\n")
            if message != MESSAGE.encode() + b"\n" or head.count(b"\nparent ") > 1:
                return False
            stream = stream[size + 1 :]
        touched = self.run(
            "diff-tree", "--stdin", "-r", "-z", "--root", "--no-renames", "--no-commit-id", "--name-only", data=names
        )
        return set(os.fsdecode(touched).split("\0")) <= {*self.paths.values(), ""}

    def push(self) -> dict[str, str | None]:
        """Push the branch if all that would be published is ours; what became of it: push, push_reason, hint."""
        if not self.is_on("avault.push"):
            return {"push": "off", "push_reason": "git config avault.push is false"}
        try:
            head = self.head()
            upstream = self.upstream(head.branch)
            if not self.is_fetched(upstream):
                raise Refused(f"{upstream.name} was never fetched", "avault sync")
        except Refused as error:
            return {"push": "none", "push_reason": error.message, "hint": error.hint if self.run("remote") else None}
        commits = self.new_commits(upstream, head.commit) if head.commit else []
        if not commits or not head.commit:
            return {"push": "clean"}
        if not self.are_ours(commits):
            why = f"commits that are not avault's would be published with it to {upstream.name}"
            return {"push": "refused", "push_reason": why, "hint": "avault sync"}
        ssh = () if "core.sshcommand" in self.settings else ("core.sshCommand=ssh -o BatchMode=yes",)
        words = push_words(upstream, head.commit)
        try:
            done = run_git(self.top, *words, settings=(NO_HOOKS, *ssh))
        except TimedOut as error:
            return {"push": "failed", "push_reason": error.message, "hint": "avault sync"}
        if not done.returncode:
            return {"push": "pushed"}
        if is_behind(done.stdout):
            return {"push": "rejected", "push_reason": f"{upstream.name} has commits that are not here", "hint": "avault sync"}
        refused = re.search(rb"^!\t[^\t]*\t(.*)", done.stdout, re.MULTILINE)
        why = printable(refused[1].decode(errors="replace")) if refused else reason(done.stderr)
        return {"push": "failed", "push_reason": why, "hint": "avault sync"}

    # -- the merge driver and the diff filter

    def expected_settings(self) -> dict[str, str]:
        """What .git/config is to say: how avault.enc is merged and compared, whatever $PATH is."""
        merge, diff = (shlex.join(own_command("git", word, "--")) for word in ("merge", "diff"))
        return {
            "merge.avault.name": "avault: by key, through the daemon",
            "merge.avault.driver": merge.replace("%", "%%") + " %O %A %B %P",
            "merge.avault.recursive": "binary",
            "diff.avault.textconv": diff,
            "diff.avault.cachetextconv": "false",
        }

    def is_set_up(self) -> bool:
        """Whether git merges and compares our files as we want it to, and filters them by nothing."""
        expected = self.expected_settings()
        if not all(is_same_command(self.settings.get(name, ""), value) for name, value in expected.items()):
            return False
        raw = {"text": "unset", "filter": "unset", "ident": "unset", "working-tree-encoding": "unspecified"}
        rules = {(path, name, value) for path in self.paths.values() for name, value in raw.items()}
        rules |= {(self.paths[name], "merge", "avault") for name in (VAULT, RECOVERY, HINTS)}
        rules |= {(self.paths[VAULT], "diff", "avault")}
        asked = self.run("check-attr", "-z", *raw, "merge", "diff", "--", *self.paths.values())
        words = os.fsdecode(asked).split("\0")[:-1]
        return rules <= set(zip(words[::3], words[1::3], words[2::3], strict=True))

    def set_up(self) -> None:
        """Tell git how our files are merged and compared; other lines of its files stay. Raises AvaultError.

        The settings come first: for a driver that it does not know, git merges line by line.
        """
        for name, value in self.expected_settings().items():
            self.run("config", "--local", "--replace-all", name, value)
        for name in ("scoped_settings", "settings"):
            self.__dict__.pop(name, None)  # they are others now
        path = os.path.realpath(os.path.join(self.top, self.line("rev-parse", "--git-path", "info/attributes") or ""))
        # `-working-tree-encoding` would be an error (gitattributes(5)).
        rules = {name: quote_pattern(self.paths[name]) + b" -text -filter -ident !working-tree-encoding" for name in NAMES}
        kinds = {VAULT: b" merge=avault diff=avault", RECOVERY: b" merge=avault", HINTS: b" merge=avault", ATTRIBUTES: b""}
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            mode = stat.S_IMODE(os.stat(path).st_mode) if os.path.exists(path) else 0o644
            before = read_file(path).splitlines() if os.path.exists(path) else []
            lines = [line for line in before if not line.startswith(tuple(rules.values()))]
            lines += [rules[name] + kinds[name] for name in NAMES]  # the last line that fits is the one that counts
            write_file(path, b"".join(line + b"\n" for line in lines))
            os.chmod(path, mode)
        except OSError as error:
            raise AvaultError(f"cannot write {path}: {error.strerror}", "whose file is it?") from None
        if not self.is_set_up():
            raise AvaultError("git merges the vault by other rules than avault's", f"look into {path} and .git/config")

    # -- what git left unmerged

    def settle(self, places: Places) -> bool:
        """Resolve conflicts that git has left in our files: True if there were some. Raises Conflict.

        Both sides of avault.enc are merged into the vault that is served, which is in the work tree.
        """
        index = self.index()
        stages = {name: {entry.stage: entry.object for entry in index.get(self.paths[name], [])} for name in NAMES[:3]}
        stages = {name: found for name, found in stages.items() if found.keys() - {0}}
        for name, found in stages.items():
            path = self.paths[name]
            if 2 not in found or 3 not in found:
                raise Conflict(f"{path} was deleted on one side", "keep it: git add; or let it go: git rm")
            ours, theirs = self.blob(found[2]), self.blob(found[3])
            if name == VAULT:
                settle_vault(places, ours, theirs)
            else:
                merge_public(name, ours, theirs)
            resolved = self.files().get(path)
            if name != VAULT and resolved not in found.values():
                raise Conflict(f"{path} is of neither side", f"when it is right: git add {shlex.quote(path)}")
            self.stage([path])
        return bool(stages)


def is_regular(path: str) -> bool:
    """Whether a path is a file, and no link."""
    return stat.S_ISREG(os.lstat(path).st_mode)


def push_words(upstream: Upstream, commit: str) -> tuple[str, ...]:
    """The push of this very commit, whatever the branch has become meanwhile."""
    return ("push", "--porcelain", "--", upstream.remote, f"{commit}:{upstream.branch}")


def is_behind(output: bytes) -> bool:
    """Whether a push was rejected because the other side has more."""
    return b"[rejected]" in output


def is_same_command(text: str, expected: str) -> bool:
    """Whether a setting is what is expected, by whatever name it calls an interpreter that is there."""
    try:
        found, wanted = shlex.split(text), shlex.split(expected)
    except ValueError:
        return False
    return found == wanted or (found[1:] == wanted[1:] != [] and os.path.isabs(found[0]) and os.access(found[0], os.X_OK))


def quote_pattern(path: str) -> bytes:
    """A path from the top as gitattributes(5) reads it: no wildcards, and quoted where it must be."""
    plain = os.fsencode("/" + re.sub(r"([*?\[\\])", r"\\\1", path))
    if not re.search(rb'[\x00-\x20"\x7f]', plain):
        return plain
    return b'"' + re.sub(rb'[\x00-\x1f"\\\x7f]', lambda found: b"\\%03o" % ord(found[0]), plain) + b'"'


def is_set_up(directory: str) -> bool:
    """Whether git merges and compares the vault in a directory through avault; raises NoRepository, Refused."""
    return Repository(directory).is_set_up()


def set_up(directory: str) -> None:
    """Have git merge and compare the vault in a directory through avault; raises NoRepository, Refused, AvaultError."""
    Repository(directory).set_up()


# What happens by itself


def record(places: Places, given: dict[str, str] | None = None) -> dict[str, Any]:
    """Commit and push what was written, and merge what git could not while the vault was locked: what became of it.

    `state` is committed, clean, merged (only the merge's own commit is missing), conflict, ignored, off, no_repository,
    refused or failed; `push` is pushed, clean, none, off, refused, rejected or failed.
    """
    told: dict[str, Any] = dict.fromkeys(("repository", "state", "reason", "commit", "push", "push_reason", "hint"))
    try:
        repository = Repository(places.dir)
        told["repository"] = repository.top
        os.umask(0o777 & ~stat.S_IMODE(os.stat(repository.git_dir).st_mode) & 0o077)  # objects for those who read the others
        if repository.paths[VAULT] in repository.ignored:
            return told | {"state": "ignored", "reason": "the repository ignores avault.enc"}
        told |= set_up_quietly(repository)
        settled = repository.settle(places)
        operation = repository.operation()
        if operation and (settled or (operation == "a merge" and not repository.run("ls-files", "-z", "-u"))):
            hint = "avault sync" if operation == "a merge" else "git status says how to go on"
            return told | {"state": "merged", "reason": f"{operation} is under way; the vault is merged in it", "hint": hint}
        if not repository.is_on("avault.commit"):
            return told | {"state": "off", "reason": "git config avault.commit is false"}
        commit = repository.commit(Verified(places, given))
        told |= {"state": "committed" if commit else "clean", "commit": commit and commit[:12]}
        told |= repository.push()
        if commit:
            with contextlib.suppress(TimedOut):
                run_git(repository.top, "maintenance", "run", "--auto", "--quiet")  # as `git commit` does
    except NoRepository as error:
        told |= {"state": "no_repository", "reason": error.message}
    except AvaultError as error:
        state = {Refused: "refused", Conflict: "conflict", Tampered: "refused", Locked: "refused"}.get(type(error), "failed")
        told |= {"state": state, "reason": error.message, "hint": error.hint}
    return told


def set_up_quietly(repository: Repository) -> dict[str, str | None]:
    """Set up the merge driver where it is not; why it cannot be must not keep anything from being committed."""
    try:
        if not repository.is_set_up():
            repository.set_up()
    except AvaultError as error:
        return {"reason": f"no merge driver: {error.message}", "hint": error.hint}
    return {}


@command("git record", option("--verified", default="{}"))
def cmd_record(terminal: Terminal, verified: str) -> int:
    """usage: avault git record [--verified HASHES]

    Commits and pushes the vault's files, and says in JSON what became of it.
    The daemon runs this after every write; `avault status` shows what it said.

    Only avault.enc, nsec.enc, nip46.json and .gitattributes are committed, with a
    constant message; what else is staged stays so. Pushed is only what is ours.
    avault.enc and nsec.enc are committed only as the daemon has verified them: by
    the HASHES that it gives (a JSON object of file and SHA-256), or when asked.
    To switch it off: git config avault.commit false; git config avault.push false
    """
    os.nice(10)  # nobody waits for it
    remove_old_copies(terminal.places)
    try:
        given = {str(name): str(value) for name, value in json.loads(verified).items()}
    except (ValueError, AttributeError):
        raise Usage("--verified takes a JSON object", "see: avault git record --help") from None
    told = record(terminal.places, given)
    put(json.dumps(told) + "\n")
    return AvaultError.exit_code if told["state"] == "failed" else 0


def examine(directory: str) -> dict[str, Any]:
    """What `doctor` says about git: facts, and a list of problems, each with what is wrong and what mends it.

    `repository` is None where there is none; then, and where it ignores the vault, nothing is wrong. Changes nothing.
    """
    names = "repository ignored branch operation committed commit push upstream unpublished merge_driver"
    facts: dict[str, Any] = dict.fromkeys(names.split())
    problems: list[AvaultError] = []
    try:
        repository = Repository(directory)
        facts["repository"] = repository.top
        facts["ignored"] = repository.paths[VAULT] in repository.ignored
        facts["commit"], facts["push"] = repository.is_on("avault.commit"), repository.is_on("avault.push")
        if not facts["ignored"]:
            examine_commits(repository, facts, problems)
    except NoRepository:
        pass
    except AvaultError as error:
        problems.append(error)
    return {**facts, "problems": [{"problem": error.message, "hint": error.hint} for error in problems]}


def examine_commits(repository: Repository, facts: dict[str, Any], problems: list[AvaultError]) -> None:
    """What `examine` says of a repository that keeps the vault; raises what keeps it from keeping it."""
    facts["merge_driver"] = repository.is_set_up()
    if not facts["merge_driver"]:
        problems.append(AvaultError("git does not merge the vault by key", "avault doctor --fix"))
    if operation := repository.operation():
        facts["operation"] = operation
        raise Refused(f"{operation} is under way, so nothing is committed", UNDER_WAY_HINT)
    head = repository.head()
    facts["branch"] = head.branch.removeprefix("refs/heads/")
    repository.refuse_marked(repository.index())
    facts["committed"] = repository.files(keep=False).items() <= repository.tree(head.commit).items()
    if facts["commit"] and not facts["committed"]:
        problems.append(AvaultError("what is on the disk is not committed", "avault sync"))
    if facts["push"] and repository.run("remote"):
        upstream = repository.upstream(head.branch)
        facts["upstream"] = upstream.name
        facts["unpublished"] = len(repository.new_commits(upstream, head.commit)) if head.commit else 0
        if facts["unpublished"]:
            problems.append(AvaultError(f"{facts['unpublished']} commit(s) are not published to {upstream.name}", "avault sync"))


# Asking the keyholder about copies


@context
def copies(places: Places, *contents: bytes) -> Iterator[list[str]]:
    """Ciphertexts as files in the state directory, where the keyholder reads them, for the length of a `with`.

    Raises NoDaemon where there was never one, and AvaultError.
    """
    paths = [places.own(f"copy-{secrets.token_hex(8)}.enc") for _ in contents]
    try:
        for path, content in zip(paths, contents, strict=True):
            write_copy(places, path, content)
        yield [os.path.basename(path) for path in paths]
    finally:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def write_copy(places: Places, path: str, content: bytes) -> None:
    """Write a file that is not there yet (0600); raises NoDaemon where its directory is not, and AvaultError."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
    except FileNotFoundError:
        raise explain_absence(places) from None
    except OSError as error:
        raise AvaultError(f"cannot write {path}: {error.strerror}", "see: df, ls -ld") from None


def remove_old_copies(places: Places) -> None:
    """Remove copies that a killed command has left behind."""
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(places.state):
            if re.fullmatch(r"copy-[0-9a-f]{16}\.enc", entry.name) and time.time() - entry.stat().st_mtime > 3600:
                os.unlink(entry.path)


class Described(Fields, frozen=True, order=True):
    """What is in a copy of the vault: the groups, the generation, and the version of each GROUP/KEY."""

    groups: list[dict[str, Any]]
    generation: dict[str, int]
    versions: dict[str, str]
    conflicts: list[str]


def inspect(places: Places, data: bytes) -> Described:
    """Names, times and versions in a copy of the vault; raises Tampered, Locked, Unavailable."""
    with copies(places, data) as [name]:
        answer = ask_daemon(places, "inspect", file=name)
    keys = [(f"{group['name']}/{key['name']}", key) for group in answer["groups"] for key in group["keys"]]
    return Described(
        answer["groups"],
        answer["generation"],
        {name: key["version"] for name, key in keys},
        [name for name, key in keys if key["conflict"]],
    )


def has_all(vault: Described, other: Described) -> bool:
    """Whether a copy of the vault has everything that another has."""
    return all(vault.generation.get(machine, 0) >= count for machine, count in other.generation.items())


# Merging


@command("git merge", argument("base"), argument("ours"), argument("theirs"), argument("path"))
def cmd_merge(terminal: Terminal, base: str, ours: str, theirs: str, path: str) -> int:
    """usage: avault git merge %O %A %B %P

    The merge driver, as git calls it (gitattributes(5)): merges the other side's
    vault into OURS, by key, through the daemon. No base is needed: each secret
    says which machine wrote it when. Exit code 1, and the names: a key was set on
    both sides, and both values are in the vault. Any other: nothing was changed.
    """
    directory, name = os.path.split(os.path.abspath(path))
    mine, others = read_file(ours, VAULT_LIMIT), read_file(theirs, VAULT_LIMIT)
    if name != VAULT:
        merge_public(name, mine, others)
        return 0
    places = Places(directory)
    try:
        with copies(places, mine, others) as [one, other]:
            answer = ask_daemon(places, "merge", ours=one, theirs=other)
        known = {*inspect(places, mine).conflicts, *inspect(places, others).conflicts} if answer["conflicts"] else set()
    except AvaultError as error:
        say(f"{path} is left in conflict, with both sides in git, as it could not be merged")
        if isinstance(error, (Locked, Unavailable)):
            error.hint = after_failure(places, mine)
        raise
    with open(ours, "wb") as file:
        file.write(answer["merged"].encode())
    conflicts = [each for each in answer["conflicts"] if each not in known]
    tell_conflicts(conflicts, Repository(directory).operation() if conflicts else None)
    return 1 if conflicts else 0


def tell_conflicts(names: list[str], operation: str | None = None) -> None:
    """Name the keys that were set on two machines, and how each is settled.

    In the middle of a rebase the daemon leaves the work tree alone, and serves what it had.
    """
    for name in names:
        say(f"conflict: two machines set {name}; the vault has both values")
    if names and operation:
        say(f"hint: git add avault.enc, and go on; then look: avault get {names[0]} --json; settle it: avault set {names[0]}")
    elif names:
        say(f"hint: look: avault get {names[0]} --json; settle it: avault set {names[0]}; then: avault sync")


def after_failure(places: Places, ours: bytes) -> str:
    """What brings the merge about that just failed as the vault was locked.

    In a merge the work tree has what this machine has seen last, so that the next unlock can merge the other side into
    it. In a rebase it has the other side, without our last writes, which does not open here.
    """
    with contextlib.suppress(AvaultError):
        pin = read_pin(places)
        if pin and pin["hash"] == sha256(ours).hex():
            return "avault unlock, which merges it"
    return "abort what you began (git rebase --abort), then avault unlock, then begin again"


def merge_public(name: str, ours: bytes, theirs: bytes) -> None:
    """Merge nsec.enc or nip46.json, which needs no key: ours stays, if both sides are for the same agent and operator.

    Each machine that recovers or pairs anew writes its own, and the operator's phone opens either. Raises Conflict.
    """
    fields = {RECOVERY: ("vault", "agent", "operator", "name"), HINTS: ("agent_npub", "signer_npub", "name")}
    kinds = {RECOVERY: "nsec", HINTS: "hints"}
    if name not in kinds:
        raise Usage(f"not a file of the vault: {printable(name)}")
    one, other = (decode_file(kinds[name], data, name) for data in (ours, theirs))
    if differing := [field for field in fields[name] if one[field] != other[field]]:
        raise Conflict(
            f"{name} is another on both sides: {', '.join(differing)}", f"choose one: git checkout --ours or --theirs {name}"
        )


def settle_vault(places: Places, ours: bytes, theirs: bytes) -> None:
    """Merge both sides of a conflict into the vault that is served; raises Conflict while it is locked or keys collide."""
    try:
        for side in (ours, theirs):
            served = inspect(places, read_file(places.file(VAULT), VAULT_LIMIT))
            if not has_all(served, inspect(places, side)):
                with copies(places, side) as [name]:
                    ask_daemon(places, "merge", theirs=name)
        conflicts = inspect(places, read_file(places.file(VAULT), VAULT_LIMIT)).conflicts
    except (Locked, Unavailable) as error:
        raise Conflict(f"avault.enc is in conflict, and {error.message}", "the next unlock merges it: avault unlock") from None
    if conflicts:
        many = "a key was" if len(conflicts) == 1 else f"{len(conflicts)} keys were"
        raise Conflict(f"{many} set on two machines; both values are in the vault", "see: avault list; settle with: avault set")


@command("git diff", argument("file"))
def cmd_diff(terminal: Terminal, file: str) -> int:
    """usage: avault git diff FILE

    The diff filter, as git calls it (textconv in gitattributes(5)): a line for
    each key of a copy of the vault, with its times. Names, never values.
    """
    data = read_file(file, VAULT_LIMIT)
    problem = AvaultError("in no repository")
    for places in vaults_here():
        try:
            put("".join(line + "\n" for line in render_copy(inspect(places, data))))
            return 0
        except AvaultError as error:
            problem = error
    put(f"# avault: {printable(problem.message)}\nsha256 {sha256(data).hex()}\n")
    return 0


def vaults_here() -> list[Places]:
    """The vaults in the work tree that git has made the current directory."""
    listed = run_git(".", "--no-literal-pathspecs", "ls-files", "-z", "--", f":(glob)**/{VAULT}").stdout
    return [Places(os.path.dirname(os.path.abspath(path))) for path in os.fsdecode(listed).split("\0")[:-1]]


def render_copy(vault: Described) -> list[str]:
    """Lines that tell one state of the vault from another, each by itself; two writes in one second are two too."""
    lines = []
    for group in vault.groups:
        if group["note"]:
            lines.append(f"{group['name']}  # {printable(group['note'])}")
        for key in group["keys"]:
            mark = "  conflict: two machines set it" if key["conflict"] else ""
            write = sha256(key["version"].encode())[:4].hex()
            lines.append(
                f"{group['name']}/{key['name']}  created {key['created']}  updated {key['updated']}  write {write}{mark}"
            )
    return lines


# Fetch, merge, push


@command("sync")
def cmd_sync(terminal: Terminal) -> int:
    """usage: avault sync [--json]

    Brings the vault's repository level with its upstream: commits the vault,
    fetches, merges and pushes. Commits that are not avault's are pushed with it,
    past your pre-push hook. What two machines have set is merged by key; needs
    the vault open if both have. Where both set the same key it stops and names
    it: settle it (avault set) and sync again. Your own changes stay as they are;
    if they are in the way of the merge, git says so and nothing is merged.

      avault sync
    """
    need_vault(terminal.places)
    repository = Repository(terminal.places.dir)
    if repository.paths[VAULT] in repository.ignored:
        raise Refused("the repository ignores avault.enc", "see: git check-ignore -v avault.enc")
    operation = repository.operation()
    if operation and operation != "a merge":
        raise Refused(f"{operation} is under way", UNDER_WAY_HINT)
    if not repository.is_set_up():
        repository.set_up()
    told: dict[str, Any] = {"repository": repository.top, "upstream": None, "commit": None, "merged": 0, "pushed": 0}
    repository.settle(terminal.places)
    conclude_merge(repository)
    if repository.is_on("avault.commit"):
        commit = repository.commit(Verified(terminal.places))
        told["commit"] = commit and commit[:12]
    if repository.run("remote"):
        upstream = repository.upstream(repository.head().branch)
        told["upstream"] = upstream.name
        exchange(repository, upstream, terminal.places, told)
    told["conflicts"] = served_conflicts(terminal)
    with contextlib.suppress(AvaultError):
        terminal.ask("record")  # so that `status` says how it is now
    tell_conflicts(told["conflicts"])
    if terminal.want_json:
        put(json.dumps(told, indent=2) + "\n")
    elif told["upstream"]:
        done = [f"{word} {told[word]} commit(s)" for word in ("merged", "pushed") if told[word]]
        say(f"{' and '.join(done) or 'nothing to do'}: level with {printable(told['upstream'])}")
    else:
        say(f"{'committed' if told['commit'] else 'nothing to do'}: there is no remote to be level with")
    return 0


def exchange(repository: Repository, upstream: Upstream, places: Places, told: dict[str, Any]) -> None:
    """Fetch, merge and push until both sides have the same, and count it; raises Unavailable, and what merging raises."""
    for _ in range(3):
        if watch_git(repository.top, "fetch", "--no-recurse-submodules", "--", upstream.remote).returncode:
            raise Unavailable(f"cannot fetch from {upstream.remote}", "git says why above; the vault itself is written")
        if repository.is_fetched(upstream):  # an empty remote has nothing to merge
            told["merged"] += merge_upstream(repository, upstream, places)
        pushed = publish(repository, upstream)
        if pushed is not None:
            told["pushed"] = pushed
            return
    raise Unavailable(f"{upstream.name} changes faster than it can be merged", "try again: avault sync")


def conclude_merge(repository: Repository) -> None:
    """Commit a merge of the upstream in which nothing is in conflict any more; raises Refused for anything else."""
    other = repository.line("rev-parse", "-q", "--verify", "MERGE_HEAD")
    if not other:
        return
    upstream = repository.upstream(repository.head().branch)
    is_upstreams = not run_git(repository.top, "merge-base", "--is-ancestor", other, upstream.ref).returncode
    unmerged = repository.run("ls-files", "-z", "-u")
    if not is_upstreams or unmerged:
        raise Refused("a merge is under way", UNDER_WAY_HINT)
    words = ("commit", "-q", "--no-edit", "--no-verify")
    done = watch_git(repository.top, *words, settings=(NO_HOOKS, *repository.identity()))
    if done.returncode:
        raise AvaultError("the merge could not be committed", "see: git status")


def merge_upstream(repository: Repository, upstream: Upstream, places: Places) -> int:
    """Merge what was fetched: how many commits there were. Raises Locked, Conflict and AvaultError."""
    count = int(repository.run("rev-list", "--count", f"HEAD..{upstream.ref}", "--"))
    if not count:
        return 0
    base = repository.line("merge-base", "HEAD", upstream.ref)
    vault = repository.paths[VAULT]
    before, ours, theirs = (repository.tree(commit).get(vault) for commit in (base, "HEAD", upstream.ref))
    if len({before, ours, theirs}) == 3 and ask_daemon(places, "status")["state"] != "unlocked":
        raise Locked("both sides have written to the vault, which is locked", "avault unlock, then avault sync")
    if before and ours and not repository.is_file(upstream.ref, vault):
        raise Tampered(
            f"{upstream.name} has no avault.enc any more, and yours would go with it",
            f"nothing was merged. To keep yours: git merge -s ours {shlex.quote(upstream.name)}; then: avault sync",
        )
    if theirs and theirs != ours:
        verify_incoming(repository, upstream, places, repository.blob(theirs))
    words = ("merge", "-q", "--no-edit", "--no-stat", "--ff", "--no-verify", "-m", MERGE_MESSAGE, upstream.ref)
    done = watch_git(repository.top, *words, settings=(NO_HOOKS, *repository.identity()))
    if done.returncode:
        unmerged = os.fsdecode(repository.run("diff", "-z", "--name-only", "--diff-filter=U")).split("\0")[:-1]
        if others := [path for path in unmerged if path not in repository.paths.values()]:
            named = printable(", ".join(others))
            raise Conflict(f"conflicts in file(s) of yours: {named}", "resolve them, git add, git commit, then: avault sync")
        if not unmerged:
            for line in os.fsdecode(done.stdout).splitlines():
                say(printable(line, 1000))
            raise AvaultError(f"git could not merge {upstream.name}", "git says why above; nothing was changed")
        repository.settle(places)
        conclude_merge(repository)
    return count


def verify_incoming(repository: Repository, upstream: Upstream, places: Places, data: bytes) -> None:
    """Open the vault of the other side before it takes the place of one that works; raises Tampered and Locked.

    What this machine has opened before works. Without that there is nothing to lose, and nothing to open the other with.
    """
    try:
        inspect(places, data)
    except (Locked, Unavailable):
        pin = read_pin(places)
        path = places.file(VAULT)
        if pin and os.path.lexists(path) and pin["hash"] == sha256(read_file(path, VAULT_LIMIT)).hex():
            raise Locked(
                "what the other side has written is to be verified, and the vault is locked", "avault unlock, then avault sync"
            ) from None
    except Tampered as error:
        raise Tampered(
            f"the avault.enc of {upstream.name} does not open: {error.message}",
            f"nothing was merged. To keep yours: git merge -s ours {shlex.quote(upstream.name)}; then: avault sync",
        ) from None


def publish(repository: Repository, upstream: Upstream) -> int | None:
    """Push the branch: how many commits that were; None if the other side has more again. Raises Unavailable."""
    head = repository.head()
    commits = repository.new_commits(upstream, head.commit) if head.commit else []
    if not commits or not head.commit:
        return 0
    settings = (NO_HOOKS,) if repository.are_ours(commits) else ()
    done = watch_git(repository.top, *push_words(upstream, head.commit), settings=settings)
    if is_behind(done.stdout):
        return None
    if done.returncode:
        raise Unavailable(f"cannot push to {upstream.name}", "git says why above; what was merged is committed here")
    return len(commits)


def served_conflicts(terminal: Terminal) -> list[str]:
    """The keys that two machines set, once the daemon has looked at what was merged; none while it is locked."""
    try:
        groups = terminal.ask("list")["groups"]
    except (Locked, Unavailable):
        return []
    return [f"{group['name']}/{key['name']}" for group in groups for key in group["keys"] if key["conflict"]]


# Looking back


KINDS = {"added": "+", "changed": "~", "deleted": "-", "conflicts": "!"}


class Change(Fields, frozen=True, order=True):
    """A commit that changed the vault: the keys that it changed, of each of KINDS, or why that cannot be told."""

    commit: str
    time: str
    author: str
    is_merge: bool
    keys: dict[str, list[str]]
    problem: str | None

    def about(self, group: str, key: str | None) -> Change | None:
        """What of it is about one group, or one key of it; None if nothing is."""

        def is_meant(name: str) -> bool:
            return name == f"{group}/{key}" if key else name.startswith(group + "/")

        keys = {kind: [name for name in names if is_meant(name)] for kind, names in self.keys.items()}
        return dataclasses.replace(self, keys=keys) if any(keys.values()) else None

    def render(self) -> str:
        """It, for a person."""
        lines = [f"{self.commit[:12]}  {self.time}  {printable(self.author)}" + ("  (merge)" if self.is_merge else "")]
        lines += [f"  {KINDS[kind]} {name}" for kind, names in self.keys.items() for name in names]
        lines += [f"    {self.problem}"] if self.problem else []
        return "".join(line + "\n" for line in lines)

    def to_dict(self) -> dict[str, Any]:
        """It, as --json prints it."""
        about = {"commit": self.commit, "time": self.time, "author": self.author, "merge": self.is_merge}
        return {**about, **self.keys, "problem": self.problem}


class History:
    """The commits of a repository that changed its vault, read through the keyholder, the latest first."""

    def __init__(self, repository: Repository, places: Places) -> None:
        self.repository, self.places = repository, places
        self.known: dict[str, Described | AvaultError] = {}  # by commit

    def changes(self) -> Iterator[Change]:
        """Each commit with what it changed; raises Locked, Unavailable, NotFound where there is no commit."""
        if not self.repository.line("rev-parse", "-q", "--verify", "HEAD^{commit}"):
            raise NotFound("the repository has no commit yet", "the first is made by: avault sync")
        path = self.repository.paths[VAULT]
        listed = self.repository.run("rev-list", "--parents", "--format=%ct %an", "HEAD", "--", path)
        lines = iter(listed.decode("utf-8", "replace").split("\n")[:-1])
        for line in lines:
            _, commit, *parents = line.split(" ")
            seconds, _, author = next(lines).partition(" ")
            yield Change(commit, render_time(int(seconds)), author, len(parents) > 1, *self.compare(commit, parents))

    def compare(self, commit: str, parents: list[str]) -> tuple[dict[str, list[str]], str | None]:
        """What a commit did that none of its parents had, of each of KINDS; or the problem."""
        keys: dict[str, list[str]] = {kind: [] for kind in KINDS}
        vault = self.describe(commit)
        if isinstance(vault, AvaultError):
            return keys, vault.message
        before = [found for parent in parents if not isinstance(found := self.describe(parent), AvaultError)]
        if len(before) < len(parents):
            return keys, "what was before does not open, so what changed is unknown"
        for name in sorted({name for found in (vault, *before) for name in found.versions}):
            old, new = [found.versions.get(name) for found in before], vault.versions.get(name)
            if new and not any(old):
                keys["added"].append(name)
            elif new and new not in old:
                keys["changed"].append(name)
            elif not new and all(old):
                keys["deleted"].append(name)
            if name in vault.conflicts and not any(name in found.conflicts for found in before):
                keys["conflicts"].append(name)
        return keys, None

    def describe(self, commit: str) -> Described | AvaultError:
        """What is in the vault of a commit, or why it does not open."""
        if commit not in self.known:
            found = self.repository.tree(commit).get(self.repository.paths[VAULT])
            try:
                self.known[commit] = inspect(self.places, self.repository.blob(found)) if found else Described([], {}, {}, [])
            except (Locked, Unavailable):
                raise
            except AvaultError as error:
                self.known[commit] = error
        return self.known[commit]


def need_directory(places: Places) -> None:
    """Raise NotFound where no vault can be; what git has checked out may be without one."""
    if not os.path.isdir(places.dir):
        need_vault(places)


@command("history", argument("group", required=False), option("-n", "--limit", type=int))
def cmd_history(terminal: Terminal, group: str | None, limit: int | None) -> int:
    """usage: avault history [GROUP[/KEY]] [-n N] [--json]

    What changed in the vault, by commit, the latest first: + added, ~ changed,
    - deleted, ! set on two machines. Names and times, never values; the vault
    has to be open. A version that does not open is named, and does not stop it.

      avault history openai
    """
    need_directory(terminal.places)
    about = split_name(group, None) if group is not None else None
    shown: list[Change] = []
    for change in History(Repository(terminal.places.dir), terminal.places).changes():
        if limit is not None and len(shown) >= limit:
            break
        part = change.about(*about) if about else change
        if part:
            shown.append(part)
            if not terminal.want_json:
                put(part.render())
    if group and not shown:
        raise NotFound(f"no commit changed {group}", "see: avault history")
    if terminal.want_json:
        put(json.dumps({"commits": [change.to_dict() for change in shown]}, indent=2, ensure_ascii=False) + "\n")
    return 0


def restore_unsaved(terminal: Terminal) -> int:
    """Have what is served written over an avault.enc that cannot be used."""
    if not terminal.ask("restore", unsaved=True)["needed"]:
        say("avault.enc is whole: there is nothing to write back")
    else:
        say(f"{terminal.places.file('avault.enc')} is what is served; what was there is {terminal.places.own('damaged.enc')}")
    return 0


@command(
    "restore", argument("commit", required=False), argument("group", required=False), option("--key"),
    option("--unsaved", is_flag=True),
)  # fmt: skip
def cmd_restore(terminal: Terminal, commit: str | None, group: str | None, key: str | None, unsaved: bool) -> int:
    """usage: avault restore COMMIT GROUP [--key KEY] [--json]
           avault restore --unsaved

    Sets a key, or all keys of a group, to what they were in a commit. That is a
    new write: what is there now stays in git's history, and keys that the group
    has got since stay. GROUP/KEY is short for GROUP --key KEY.
    --unsaved is for an avault.enc that is damaged, gone or too old while the vault
    is open: writes what is served in its place. What was there stays in the state
    directory, as damaged.enc.

      avault history openai
      avault restore 3f2a91c openai/API_KEY
    """
    if unsaved:
        if commit is not None:
            raise Usage("--unsaved is about the whole vault, as it is served", "avault restore --unsaved")
        return restore_unsaved(terminal)
    if commit is None:
        raise Usage("COMMIT and GROUP are missing", "see: avault history, then: avault restore COMMIT GROUP")
    if group is None:
        if re.fullmatch("[0-9a-f]{4,64}|HEAD.*", commit):
            raise Usage("GROUP is missing", f"avault restore {commit} GROUP, or GROUP/KEY")
        meant, _ = split_name(commit, key)
        raise Usage(f"COMMIT is missing: as of when is {printable(commit)} to be restored?", f"avault history {meant}")
    need_directory(terminal.places)
    group, key = split_name(group, key)
    repository = Repository(terminal.places.dir)
    found = repository.line("rev-parse", "-q", "--verify", "--end-of-options", f"{commit}^{{commit}}")
    name = repository.tree(found).get(repository.paths[VAULT])
    if not found or not name:
        what = "has no vault" if found else "is no commit"
        raise NotFound(f"{printable(commit)} {what}", "see: avault history")
    with copies(terminal.places, repository.blob(name)) as [file]:
        try:
            restored = terminal.ask("restore", file=file, group=group, key=key)["restored"]
        except NotFound as error:
            raise NotFound(f"{error.message} in {found[:12]}", f"see: avault history {group}") from None
        except Tampered as error:
            raise Tampered(
                f"the vault of {found[:12]} does not open: {error.message}", "choose another: avault history"
            ) from None
    if terminal.want_json:
        put(json.dumps({"commit": found, "restored": restored}, indent=2) + "\n")
    else:
        say(f"restored {', '.join(restored)} as of {found[:12]}")
    return 0
