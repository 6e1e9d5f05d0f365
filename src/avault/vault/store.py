"""The loaded vault and its file: generations, pin, writing, noticing changes."""

from __future__ import annotations

import os
import secrets
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, NotFound, Tampered
from avault.nostr import to_npub
from avault.places import Places, sha256
from avault.vault.files import VAULT_LIMIT, FileChanged, read_file, refuse_foreign, write_file
from avault.vault.own_files import NAME_CHARACTERS, decode_file, encode_file
from avault.vault.records import Vault
from avault.vault.seal import open_vault, seal_vault

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.nostr import Keys


class Store:
    """The vault as it is loaded, and its file: one writer, and readers that notice a `git pull`.

    `vault` is served. `trouble` says why the file cannot be used although the
    loaded vault can: then reads go on and writes are refused, and what is served
    is kept, sealed, as unsaved.enc in the state directory. `warning` is what
    should be known about the pin.
    """

    def __init__(self, places: Places, keys: Keys, vault: Vault, digest: str) -> None:
        self.places, self.keys, self.vault, self.digest = places, keys, vault, digest
        self.machine = machine_id(places)
        self.seen: tuple[int, ...] | None = ()
        self.trouble: AvaultError | None = None
        self.kept = ""  # the hash of the avault.enc whose content is in unsaved.enc
        # `written`: the hash of what this process last wrote, or meant to
        self.warning = self.written = ""
        self.rollback = ""  # what was accepted, although the pin speaks against it
        # `counted`: the last count of a write of ours that anybody may have seen
        self.writing, self.counted = False, 0
        # whether the last write was made in the middle of a rebase or the like, whose end may undo
        # it
        self.amid_git = False
        # the highest count under which this machine has given a merge to git
        path = places.own("offered.json")
        self.offered: int = (
            decode_file("offered", read_file(path), path)["count"] if os.path.lexists(path) else 0
        )

    @staticmethod
    def create(places: Places, keys: Keys, vault: Vault) -> Store:
        """Write the first avault.enc of an empty vault; raises AvaultError."""
        store = Store(places, keys, vault, "")
        store.replace(vault.copy(), "")
        return store

    @staticmethod
    def read(places: Places, keys: Keys, content: dict[str, Any]) -> Store:
        """Open avault.enc; raises Tampered if it is not that of `content`, which is unlock.json's or nsec.enc's."""
        data = read_vault(places)
        vault = open_vault(data, keys)
        if (vault.identity, vault.name, to_npub(vault.operator)) != (
            content["vault"],
            content["name"],
            content["operator"],
        ):
            raise Tampered(
                "avault.enc belongs to another vault or another operator",
                "take it from git history or from a backup",
            )
        return Store(places, keys, vault, sha256(data).hex())

    @staticmethod
    def load(
        places: Places, keys: Keys, content: dict[str, Any], accept_rollback: bool = False
    ) -> Store:
        """Open avault.enc and hold it against the pin; raises Tampered.

        Where it cannot be used, unsaved.enc is served in its place, if there is one.
        """
        pin = read_pin(places)
        kept = Store.read_kept(places, keys, content, pin)
        try:
            store = Store.read(places, keys, content)
            refusal = store.compare(pin) if pin else None
            if kept and not refusal and not store.vault.is_after(kept.vault.generation):
                refusal = "avault.enc is older than what was served last"
            if refusal and not accept_rollback:
                raise Tampered(
                    refusal,
                    "get the latest (git pull), or take this one: avault unlock --accept-rollback",
                )
        except Tampered as error:
            if not kept:
                raise
            kept.seen, kept.trouble = kept.look(), error
            return kept
        store.forget_kept()
        vault = store.vault
        if refusal:
            # Under a new name: it claims to know no more than it does, so that what is missing comes back by a merge.
            os.unlink(places.own("machine.json"))
            store.machine = machine_id(places)
            draft = vault.copy()
            draft.sources = [store.digest]
            store.replace(draft, store.digest)
        elif not pin or pin["hash"] != store.digest:
            store.pin()
        store.rollback = refusal or ""
        if not pin:
            store.warning = (
                "no pin.json: whether this is an older copy of the vault could not be seen"
            )
        return store

    @staticmethod
    def read_kept(
        places: Places, keys: Keys, content: dict[str, Any], pin: dict[str, Any] | None
    ) -> Store | None:
        """The vault of unsaved.enc; None where there is none that is ours and as new as the pin."""
        path = places.own("unsaved.enc")
        if not os.path.lexists(path):
            return None
        try:
            vault = open_vault(read_file(path, VAULT_LIMIT), keys)
        except AvaultError:
            return None
        if (vault.identity, vault.name, to_npub(vault.operator)) != (
            content["vault"],
            content["name"],
            content["operator"],
        ):
            return None
        if len(vault.sources) != 1:  # an avault.enc that somebody has put here
            return None
        store = Store(places, keys, vault, vault.sources[0])
        store.kept = store.digest
        return None if pin and store.compare(pin) else store

    def keep(self) -> None:
        """Write what is served to unsaved.enc; raises AvaultError.

        Its one source is the avault.enc that the vault was loaded from or written to.
        """
        twin, digest = self.vault.copy(), self.digest
        twin.sources = [digest]

        def check(written: bytes) -> None:
            open_vault(written, self.keys)

        write_file(self.places.own("unsaved.enc"), seal_vault(twin, self.keys), check)
        self.kept = digest

    def forget_kept(self) -> None:
        """Remove unsaved.enc: avault.enc has all that is in it."""
        self.kept = ""
        if os.path.lexists(path := self.places.own("unsaved.enc")):
            os.unlink(path)

    def is_safe(self) -> bool:
        """Whether what is served is on the disk, in one file or the other."""
        return not self.trouble or self.kept == self.digest

    def put_back(self) -> bool:
        """Write what is served over an avault.enc that cannot be used, which stays as damaged.enc; whether it was needed.

        Raises AvaultError.
        """
        self.notice()
        if not self.trouble:
            return False
        path, over = self.places.file("avault.enc"), ""
        if os.path.lexists(path):
            found = read_file(path, VAULT_LIMIT)
            write_file(self.places.own("damaged.enc"), found)
            over = sha256(found).hex()
        draft = self.vault.copy()
        draft.sources = [self.digest]
        self.replace(draft, over)
        self.trouble = None
        self.forget_kept()
        return True

    def compare(self, pin: dict[str, Any]) -> str | None:
        """Why the vault on the disk cannot be what follows the pinned one; None if it can."""
        pinned, found, me = pin["generation"], self.vault.generation, self.machine
        if found == pinned:
            other = "avault.enc is not what this machine has seen, though of the same generation"
            return None if pin["hash"] == self.digest else other
        if not self.vault.is_after(pinned):
            if any(count > pinned.get(machine, 0) for machine, count in found.items()):
                return "avault.enc is another machine's, without the last writes of this one"
            return "avault.enc is older than what this machine has seen"
        if found.get(me, 0) > pinned.get(me, 0) and pin["hash"] not in self.vault.sources:
            return "another machine writes under this one's name: is one a clone of the other?"
        return None

    def look(self) -> tuple[int, ...] | None:
        """What tells one state of the file from another, without reading it."""
        return look_at(self.places.file("avault.enc"))

    def refresh(self) -> None:
        """Notice that another process changed the file: serve a later one, merge a concurrent one.

        Anything else sets `trouble` and is looked at again when the file changes.
        """
        if not self.writing:
            self.notice(is_reading=True)

    def notice(self, is_reading: bool = False) -> None:
        """`refresh`, for the one who is writing."""
        if (seen := self.look()) == self.seen:
            self.amid_git = self.amid_git and is_amid_git(self.places.dir)
            return
        self.seen = seen
        try:
            data = read_vault(self.places)
            self.trouble = None
            if sha256(data).hex() != self.digest:
                self.take(open_vault(data, self.keys), sha256(data).hex(), is_reading)
            if self.kept and self.seen:
                self.forget_kept()
        except AvaultError as error:
            self.trouble = error
            if not isinstance(error, Tampered):
                self.seen = ()  # a full disk, or the like: that ends without a change of the file

    def take(self, found: Vault, digest: str, is_reading: bool) -> None:
        """Go on from another state of the vault that was found on the disk; raises Tampered."""
        ours = self.vault
        if (found.identity, found.operator) != (ours.identity, ours.operator):
            raise Tampered(
                "avault.enc was replaced by that of another vault", "take it from git history"
            )
        if digest != self.written and found.generation.get(self.machine, 0) > ours.generation.get(
            self.machine, 0
        ):
            raise Tampered(
                "another machine writes under this one's name: is one a clone of the other?",
                "save what is served: avault export",
            )
        if found.generation == ours.generation or ours.is_after(found.generation):
            is_over = not is_amid_git(self.places.dir) and not is_git_at_work(self.places.dir)
            if self.amid_git and is_over:  # aborted: what was confirmed meanwhile is written again
                again = ours.copy()
                again.sources = sorted([self.digest, digest])
                self.replace(again, digest)
                return
            if self.amid_git:
                self.seen = ()  # it may end without another change of the file
            hint = "git pull, or avault restore --unsaved; to take the older one, lock, then: avault unlock --accept-rollback"
            raise Tampered("avault.enc was replaced by an older one", hint)
        if found.is_after(ours.generation):
            self.vault, self.digest = found, digest
            self.pin()
        elif is_reading and is_git_at_work(self.places.dir):
            # a rebase shows one side after the other, and stops at a file that changes meanwhile:
            # look again
            self.seen = ()
        else:
            merged = ours.merge(found)
            merged.sources = sorted([self.digest, digest])
            self.replace(merged, digest)

    def write(self, changes: list[Callable[[Vault], None]]) -> list[AvaultError | None]:
        """Apply changes and write them together: for each, None or why it was refused.

        Runs in a thread, while `writing` keeps readers from touching the file.
        """
        for _ in range(5):
            self.notice()
            if self.trouble:
                # git removes a file and then writes it anew: it may be whole in a moment
                time.sleep(0.1)
                continue
            draft = self.vault.copy()
            draft.generation[self.machine] = max(
                draft.generation.get(self.machine, 0), self.counted
            )
            draft.sources = [self.digest]
            results = [attempt_change(change, draft) for change in changes]
            if all(results):
                return results
            try:
                self.replace(draft, self.digest)
                self.notice()  # what came since is merged before anybody is told that it is written
                return results
            except (FileChanged, Tampered, NotFound):
                self.seen = ()  # a git pull came in between: apply the changes to what it brought
            except AvaultError as error:
                return [error] * len(changes)
        busy = self.trouble or AvaultError(
            "the vault's file keeps changing", "stop what else writes it, then try again"
        )
        return [busy] * len(changes)

    def replace(self, draft: Vault, over: str) -> None:
        """Write a vault as this machine's next generation over the file with that hash ("" for none).

        Raises FileChanged if another file is there, and AvaultError.
        """
        self.counted = max(draft.generation.get(self.machine, 0), self.counted) + 1
        draft.generation[self.machine] = self.counted
        draft.generation = dict(sorted(draft.generation.items()))
        data = seal_vault(draft, self.keys)
        self.written = sha256(data).hex()

        def check(written: bytes) -> None:
            if open_vault(written, self.keys).generation != draft.generation:
                raise AvaultError(
                    "the vault that was written does not open", "the file is as it was before"
                )

        write_file(self.places.file("avault.enc"), data, check, over)
        self.amid_git = is_amid_git(self.places.dir)
        # to be looked at: a pull may have come since
        self.vault, self.digest, self.seen = draft, self.written, ()
        self.pin()

    def open_copy(self, data: bytes) -> Vault:
        """Another copy of this vault, of any generation; raises Tampered."""
        vault = open_vault(data, self.keys)
        if (vault.identity, vault.operator) != (self.vault.identity, self.vault.operator):
            raise Tampered("that is a copy of another vault")
        return vault

    def offer(self, ours: bytes, theirs: bytes) -> tuple[bytes, Vault]:
        """Two copies merged, as the bytes of a new avault.enc for git to put in place; raises Tampered.

        A copy that has all of the other is the merge. Else the merge is counted under a name of its own, `<machine>-git`:
        git merges old commits too, as in a rebase, and what comes of them must not claim to know our later writes.
        """
        one, other = self.open_copy(ours), self.open_copy(theirs)
        if one.generation == other.generation and ours != theirs:
            raise Tampered(
                "two machines write under one name: is one a clone of the other?",
                "save what is served first",
            )
        if one.is_after(other.generation):
            return ours, one
        if other.is_after(one.generation):
            return theirs, other
        merged, name = one.merge(other), f"{self.machine}-git"
        merged.sources = sorted([sha256(ours).hex(), sha256(theirs).hex()])
        self.offered = max(merged.generation.get(name, 0), self.offered) + 1
        write_file(self.places.own("offered.json"), encode_file("offered", {"count": self.offered}))
        merged.generation = dict(sorted({**merged.generation, name: self.offered}.items()))
        return seal_vault(merged, self.keys), merged

    def absorb(self, draft: Vault, theirs: bytes) -> None:
        """Merge another copy into a draft of the next generation; raises Tampered."""
        other = self.open_copy(theirs)
        if other.generation.get(self.machine, 0) > draft.generation.get(self.machine, 0):
            raise Tampered(
                "that copy has writes of this machine that this one never made: is one a clone of the other?"
            )
        merged = draft.merge(other)
        draft.groups, draft.generation = merged.groups, merged.generation
        draft.sources = sorted({*draft.sources, sha256(theirs).hex()})

    def pin(self) -> None:
        """Remember the highest generation seen; nothing older is accepted again.

        What cannot be pinned is served all the same: the vault itself is written.
        """
        pin = {"generation": self.vault.generation, "hash": self.digest}
        try:
            write_file(self.places.own("pin.json"), encode_file("pin", pin))
            self.warning = ""
        except AvaultError as error:
            self.warning = f"an older copy of the vault would not be noticed: {error.message}"


def look_at(path: str) -> tuple[int, ...] | None:
    """What tells one state of a file from another, without reading it; None where there is none."""
    try:
        info = os.stat(path)
    except OSError:
        return None
    return (info.st_mtime_ns, info.st_size, info.st_ino, info.st_ctime_ns)


def attempt_change(change: Callable[[Vault], None], draft: Vault) -> AvaultError | None:
    """Apply one change; the error that refused it."""
    try:
        change(draft)
    except AvaultError as error:
        return error
    return None


def refuse_to_overwrite(places: Places) -> None:
    """Raise AvaultError where a vault's files are, or what is left of one: `init` makes none over them.

    An `init` that was cut off leaves hints and an unlock.json, and no pin: it may begin anew.
    """
    for name in ("avault.enc", "nsec.enc"):
        if is_file_there(places.file(name)):
            raise AvaultError(
                f"there is a vault already: {places.file(name)}",
                "use it, or choose another place with --dir",
            )
    refuse_foreign(places.file(".gitattributes"))
    if os.path.lexists(hints := places.file("nip46.json")):
        refuse_foreign(hints)
        decode_file("hints", read_file(hints), hints)
    if os.path.lexists(unlock := places.own("unlock.json")) and os.path.lexists(
        places.own("pin.json")
    ):
        hint = "put that vault back, from git or a backup; or choose another place with --dir"
        raise AvaultError(f"a vault was here, and {unlock} may be the last copy of its key", hint)


def no_vault(places: Places) -> NotFound:
    """What is said where no vault is."""
    return NotFound(
        f"no vault in {places.dir}", "make one with: avault init, or name one with --dir"
    )


def has_vault(places: Places) -> bool:
    """Whether there is anything of a vault; raises AvaultError where we may not look."""
    return any(is_file_there(places.file(name)) for name in ("avault.enc", "nsec.enc"))


def is_file_there(path: str) -> bool:
    """Whether there is a file, or a link; raises AvaultError where we may not look: that is not the same as none."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        closed = os.path.dirname(path)
        raise AvaultError(
            f"cannot look into {closed}: {error.strerror}", f"whose is it? ls -ld {closed}"
        ) from None
    return True


def need_vault(places: Places) -> None:
    """Raise NotFound where there is nothing of a vault."""
    if not has_vault(places):
        raise no_vault(places)


def read_vault(places: Places) -> bytes:
    """The bytes of avault.enc; raises Tampered where it is gone."""
    try:
        return read_file(places.file("avault.enc"), VAULT_LIMIT)
    except NotFound:
        raise Tampered(
            f"{places.file('avault.enc')} is gone", "put it back, from git or from a backup"
        ) from None


def find_git(directory: str) -> str | None:
    """Git's own directory for the work tree that a directory is in; None where there is none (gitrepository-layout(5))."""
    while not os.path.lexists(found := os.path.join(directory, ".git")):
        if directory == (directory := os.path.dirname(directory)):
            return None
    if not os.path.isfile(found):
        return found
    return os.path.join(
        directory, os.fsdecode(read_file(found)).removeprefix("gitdir: ").rstrip("\n")
    )


def is_git_at_work(directory: str) -> bool:
    """Whether git is at work in the work tree that a directory is in, so that a file there may be another in a moment."""
    return has_git(directory, "index.lock", "rebase-merge", "rebase-apply")


def is_amid_git(directory: str) -> bool:
    """Whether git waits for a person to finish or abort something (gitrepository-layout(5))."""
    return has_git(
        directory, "rebase-merge", "rebase-apply", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD"
    )


def has_git(directory: str, *names: str) -> bool:
    """Whether git's own directory has one of these files."""
    found = find_git(os.path.realpath(directory)) or directory
    return any(os.path.lexists(os.path.join(found, name)) for name in names)


def read_pin(places: Places) -> dict[str, Any] | None:
    """The highest generation that this machine has seen, and its hash; None at first. Raises Tampered."""
    path = places.own("pin.json")
    try:
        pin = decode_file("pin", read_file(path), path)
    except NotFound:  # and nothing else: a disk that fails is not a machine that has seen nothing
        return None
    if any(type(count) is not int for count in pin["generation"].values()):
        raise Tampered(f"{path} is damaged")
    return pin


def machine_id(places: Places) -> str:
    """This machine's random name in generations, made when it is first asked for.

    A machine made from the image of another gets a name of its own, if
    /etc/machine-id tells them apart (machine-id(5)).
    """
    path, host = places.own("machine.json"), ""
    if os.path.exists("/etc/machine-id"):
        host = sha256(read_file("/etc/machine-id")).hex()
    content = decode_file("machine", read_file(path), path) if os.path.lexists(path) else {}
    if content.get("host") != host:
        content = {"id": secrets.token_hex(8), "host": host}
        write_file(path, encode_file("machine", content))
    return str(content["id"])


def read_unlock(places: Places) -> tuple[dict[str, Any], bool]:
    """What the phone is to be asked for, and whether it is this machine's own.

    unlock.json, or nsec.enc where there is none. Raises NotFound, Tampered.
    """
    try:
        return read_sealed("unlock", places.own("unlock.json")), True
    except NotFound:
        pass
    if not is_file_there(places.file("nsec.enc")):
        raise no_vault(places)
    return read_sealed("nsec", places.file("nsec.enc")), False


def read_sealed(kind: str, path: str) -> dict[str, Any]:
    """The content of nsec.enc or unlock.json, which people are shown; raises Tampered."""
    content = decode_file(kind, read_file(path), path)
    npubs = [content["agent"], content["operator"]]
    if (
        all(npub.startswith("npub1") and npub.isalnum() and npub.isascii() for npub in npubs)
        and set(content["name"]) <= NAME_CHARACTERS
    ):
        return content
    raise Tampered(f"{path} names nobody", "take it from a backup or from git history")
