"""The vault's git repository, and how a commit is made.

Our files, and no others, are committed. A commit is made with git's plumbing, of which no hook,
filter, signing program, editor or pager runs, and beside the index, so that what the user has
staged stays staged. A push goes the way of the user's own `git push`: remotes, ssh and credential
helpers are the repository's settings, and git itself refuses a repository of somebody else's
(safe.directory).
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import tempfile
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, TimedOut, Unavailable, printable
from avault.git.committed import (
    ATTRIBUTES,
    HINTS,
    LOCK_PATIENCE,
    MESSAGE,
    NAMES,
    NOBODY,
    OPERATIONS,
    RECOVERY,
    UNDER_WAY_HINT,
    VAULT,
    Conflict,
    NoRepository,
    Refused,
    Verified,
    quote_pattern,
)
from avault.git.run import NO_HOOKS, reason, run_git
from avault.git.settling import merge_public, settle_vault
from avault.late import Fields, once
from avault.places import Places
from avault.process import own_command
from avault.vault.files import read_file, write_file
from avault.vault.own_files import GITATTRIBUTES
from avault.vault.store import find_git

if TYPE_CHECKING:
    from collections.abc import Iterable


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


class IndexEntry(Fields, frozen=True, order=True):
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
            found = run_git(
                self.directory,
                "rev-parse",
                "--is-inside-work-tree",
                "--show-cdup",
                "--absolute-git-dir",
            )
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
        self.paths = {
            name: os.path.relpath(os.path.join(self.directory, name), self.top) for name in NAMES
        }

    def run(
        self,
        *words: str,
        data: bytes = b"",
        index: str | None = None,
        settings: tuple[str, ...] = (),
    ) -> bytes:
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
        pairs = (
            (scope, entry.partition("\n"))
            for scope, entry in zip(words[::2], words[1::2], strict=True)
        )
        return [
            (scope, name, value if mark else "true")
            for scope, (name, mark, value) in pairs
            if scope != "command"
        ]

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
        told = self.run(
            "cat-file",
            "--batch-check=%(objectname)",
            data=os.fsencode("".join(name + "\n" for name in names)),
        )
        lines = os.fsdecode(told).splitlines()
        return [
            None if line == f"{name} missing" else line
            for name, line in zip(names, lines, strict=True)
        ]

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
        found += [
            name
            for name in OPERATIONS
            if name not in refs and os.path.lexists(os.path.join(self.git_dir, name))
        ]
        return OPERATIONS[found[0]] if found else None

    @once
    def ignored(self) -> set[str]:
        """Those of our files that the repository ignores and does not have."""
        # a path that begins with : would be something else
        asked = {"./" + path: path for path in self.paths.values()}
        words = ("--no-literal-pathspecs", "check-ignore", "-z", "--stdin")
        done = run_git(self.top, *words, data=os.fsencode("\0".join(asked) + "\0"))
        if done.returncode > 1:
            raise AvaultError(f"git check-ignore: {reason(done.stderr)}", "see: git status")
        return {asked[name] for name in os.fsdecode(done.stdout).split("\0")[:-1]}

    def index(self) -> dict[str, list[IndexEntry]]:
        """What the index has of our files."""
        entries: dict[str, list[IndexEntry]] = {}
        listed = self.run("ls-files", "-z", "-s", "-v", "--", *self.paths.values())
        for line in os.fsdecode(listed).split("\0")[:-1]:
            place, _, path = line.partition("\t")
            tag, _, name, stage = place.split(" ")
            entries.setdefault(path, []).append(IndexEntry(tag, name, int(stage)))
        return entries

    def tree(self, commit: str | None) -> dict[str, str]:
        """The objects of our files in a commit."""
        if not commit:
            return {}
        listed = os.fsdecode(
            self.run("ls-tree", "-z", "--full-tree", commit, "--", *self.paths.values())
        )
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
        names = [
            name
            for name in NAMES
            if os.path.lexists(path := os.path.join(self.directory, name)) and is_regular(path)
        ]
        if (
            ATTRIBUTES in names
            and read_file(os.path.join(self.directory, ATTRIBUTES)) != GITATTRIBUTES
        ):
            names.remove(ATTRIBUTES)
        names = [name for name in names if self.paths[name] not in self.ignored]
        if not names:
            return {}
        paths = [self.paths[name] for name in names]
        objects = (
            self.run("hash-object", *(["-w"] if keep else []), "--no-filters", "--", *paths)
            .decode()
            .split()
        )
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
            moved = run_git(
                self.top,
                "update-ref",
                "-m",
                MESSAGE,
                head.branch,
                commit,
                head.commit or "0" * len(commit),
            )
            if not moved.returncode:
                return commit
        raise Refused(f"the branch could not be moved: {reason(moved.stderr)}", "see: git status")

    def refuse_marked(self, index: dict[str, list[IndexEntry]]) -> None:
        """Raise Refused where the user has told git not to look at our files, or where they are in conflict."""
        for path, entries in index.items():
            if any(entry.stage for entry in entries):
                raise Refused(f"{path} is in conflict", "see: git status")
            if entries[0].tag.islower() or entries[0].tag == "S":
                mark = "skip-worktree" if entries[0].tag in "Ss" else "assume-unchanged"
                raise Refused(
                    f"{path} is marked {mark}", f"git update-index --no-{mark} {shlex.quote(path)}"
                )

    def make_commit(self, head: Head, files: dict[str, str]) -> str:
        """A commit of these files on top of the head, that no branch has yet; made in an index of its own."""
        with tempfile.TemporaryDirectory(prefix="avault-") as place:
            index, alone = os.path.join(place, "index"), ("core.splitIndex=false",)
            if head.commit:
                self.run("read-tree", head.commit, index=index, settings=alone)
            lines = "".join(f"100644 {name}\t{path}\0" for path, name in files.items())
            self.run(
                "update-index",
                "-z",
                "--index-info",
                data=os.fsencode(lines),
                index=index,
                settings=alone,
            )
            tree = (
                self.run("write-tree", "--missing-ok", index=index, settings=alone).decode().strip()
            )
        changed = (
            ("diff-tree", "-r", "-z", "--no-renames", "--name-only", head.commit, tree)
            if head.commit
            else ()
        )
        names = self.run(*(changed or ("ls-tree", "-r", "-z", "--full-tree", "--name-only", tree)))
        if others := files.keys() ^ set(os.fsdecode(names).split("\0")[:-1]):
            raise Refused(
                f"a commit of the vault would change {printable(min(others))}", "see: git status"
            )
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
        return self.is_on(
            "avault.sign" if "avault.sign" in self.settings else "commit.gpgsign", default="false"
        )

    def identity(self) -> tuple[str, ...]:
        """Settings with which git commits even where it does not know the user's name, and signs if that is wanted.

        What signs is the user's choice, in the user's or the system's configuration: a repository names no program.
        """
        settings = tuple(
            f"user.{name}={value}"
            for name, value in NOBODY.items()
            if not self.settings.get(f"user.{name}")
        )
        if not self.signs():
            return settings
        own = {
            name: value
            for scope, name, value in self.scoped_settings
            if scope in ("system", "global")
        }
        gpg = own.get("gpg.openpgp.program") or own.get("gpg.program") or "gpg"
        programs = {
            "gpg.program": gpg,
            "gpg.openpgp.program": gpg,
            "gpg.x509.program": own.get("gpg.x509.program", "gpgsm"),
            "gpg.ssh.program": own.get("gpg.ssh.program", "ssh-keygen"),
            "gpg.ssh.defaultKeyCommand": own.get("gpg.ssh.defaultkeycommand", "false"),
        }
        return (
            *settings,
            "commit.gpgSign=true",
            *(f"{name}={value}" for name, value in programs.items()),
        )

    def stage(self, paths: Iterable[str]) -> None:
        """Put files of ours into the index, before the branch has them: a commit of the user's must not take them back.

        Waits a little for another git's lock, and never removes it; raises Refused. Whoever writes an index compares files
        that have just been changed, whosesoever they are, and runs their filters: here they have none, and git looks again.
        """
        filters = [
            name
            for name in self.settings
            if re.fullmatch(r"filter\..*\.(clean|process|required)", name, re.DOTALL)
        ]
        settings = (NO_HOOKS, *(f"{name}=" for name in filters))
        data = os.fsencode("".join(path + "\0" for path in paths))
        end = time.monotonic() + LOCK_PATIENCE
        while (
            done := run_git(
                self.top, "update-index", "--add", "-z", "--stdin", data=data, settings=settings
            )
        ).returncode:
            if b"index.lock': File exists" not in done.stderr:
                raise AvaultError(f"git update-index: {reason(done.stderr)}", "see: git status")
            if time.monotonic() > end:
                lock = os.path.join(self.git_dir, "index.lock")
                raise Refused(
                    "another git holds the repository (index.lock)",
                    f"if none is running: rm {shlex.quote(lock)}",
                )
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
            likely = (
                "origin" if "origin" in remotes else shlex.quote(remotes[0]) if remotes else None
            )
            hint = (
                f"git push -u {likely} {shlex.quote(short)}"
                if likely
                else "git remote add origin URL"
            )
            raise Refused(f"the branch {short} has no upstream", hint)
        if push and push != remote:
            raise Refused(
                f"the branch {short} is pushed elsewhere than it is pulled from", "git push"
            )
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
        # git drops a line without an end
        names = "".join(commit + "\n" for commit in commits).encode()
        stream = self.run("cat-file", "--batch", data=names)
        for _ in commits:
            header, _, stream = stream.partition(b"\n")
            size = int(header.split()[2])
            head, _, message = stream[:size].partition(b"\n\n")
            if message != MESSAGE.encode() + b"\n" or head.count(b"\nparent ") > 1:
                return False
            stream = stream[size + 1 :]
        touched = self.run(
            "diff-tree",
            "--stdin",
            "-r",
            "-z",
            "--root",
            "--no-renames",
            "--no-commit-id",
            "--name-only",
            data=names,
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
            return {
                "push": "none",
                "push_reason": error.message,
                "hint": error.hint if self.run("remote") else None,
            }
        commits = self.new_commits(upstream, head.commit) if head.commit else []
        if not commits or not head.commit:
            return {"push": "clean"}
        if not self.are_ours(commits):
            why = f"commits that are not avault's would be published with it to {upstream.name}"
            return {"push": "refused", "push_reason": why, "hint": "avault sync"}
        ssh = (
            () if "core.sshcommand" in self.settings else ("core.sshCommand=ssh -o BatchMode=yes",)
        )
        words = push_words(upstream, head.commit)
        try:
            done = run_git(self.top, *words, settings=(NO_HOOKS, *ssh))
        except TimedOut as error:
            return {"push": "failed", "push_reason": error.message, "hint": "avault sync"}
        if not done.returncode:
            return {"push": "pushed"}
        if is_behind(done.stdout):
            return {
                "push": "rejected",
                "push_reason": f"{upstream.name} has commits that are not here",
                "hint": "avault sync",
            }
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
        if not all(
            is_same_command(self.settings.get(name, ""), value) for name, value in expected.items()
        ):
            return False
        raw = {
            "text": "unset",
            "filter": "unset",
            "ident": "unset",
            "working-tree-encoding": "unspecified",
        }
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
        path = os.path.realpath(
            os.path.join(self.top, self.line("rev-parse", "--git-path", "info/attributes") or "")
        )
        # `-working-tree-encoding` would be an error (gitattributes(5)).
        rules = {
            name: quote_pattern(self.paths[name]) + b" -text -filter -ident !working-tree-encoding"
            for name in NAMES
        }
        kinds = {
            VAULT: b" merge=avault diff=avault",
            RECOVERY: b" merge=avault",
            HINTS: b" merge=avault",
            ATTRIBUTES: b"",
        }
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            mode = stat.S_IMODE(os.stat(path).st_mode) if os.path.exists(path) else 0o644
            before = read_file(path).splitlines() if os.path.exists(path) else []
            lines = [line for line in before if not line.startswith(tuple(rules.values()))]
            # the last line that fits is the one that counts
            lines += [rules[name] + kinds[name] for name in NAMES]
            write_file(path, b"".join(line + b"\n" for line in lines))
            os.chmod(path, mode)
        except OSError as error:
            raise AvaultError(
                f"cannot write {path}: {error.strerror}", "whose file is it?"
            ) from None
        if not self.is_set_up():
            raise AvaultError(
                "git merges the vault by other rules than avault's",
                f"look into {path} and .git/config",
            )

    # -- what git left unmerged

    def settle(self, places: Places) -> bool:
        """Resolve conflicts that git has left in our files: True if there were some. Raises Conflict.

        Both sides of avault.enc are merged into the vault that is served, which is in the work tree.
        """
        index = self.index()
        stages = {
            name: {entry.stage: entry.object for entry in index.get(self.paths[name], [])}
            for name in NAMES[:3]
        }
        stages = {name: found for name, found in stages.items() if found.keys() - {0}}
        for name, found in stages.items():
            path = self.paths[name]
            if 2 not in found or 3 not in found:
                raise Conflict(
                    f"{path} was deleted on one side", "keep it: git add; or let it go: git rm"
                )
            ours, theirs = self.blob(found[2]), self.blob(found[3])
            if name == VAULT:
                settle_vault(places, ours, theirs)
            else:
                merge_public(name, ours, theirs)
            resolved = self.files().get(path)
            if name != VAULT and resolved not in found.values():
                raise Conflict(
                    f"{path} is of neither side", f"when it is right: git add {shlex.quote(path)}"
                )
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
    return found == wanted or (
        found[1:] == wanted[1:] != [] and os.path.isabs(found[0]) and os.access(found[0], os.X_OK)
    )


def is_set_up(directory: str) -> bool:
    """Whether git merges and compares the vault in a directory through avault; raises NoRepository, Refused."""
    return Repository(directory).is_set_up()


def set_up(directory: str) -> None:
    """Have git merge and compare the vault in a directory through avault; raises NoRepository, Refused, AvaultError."""
    Repository(directory).set_up()
