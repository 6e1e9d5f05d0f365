"""The loaded vault and its file: generations, pin, writing, noticing changes."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from avault.errors import AvaultError, Locked, NotFound, Tampered
from avault.keys.nostr import to_npub
from avault.keys.seal import open_vault, seal_vault
from avault.places import Places, sha256
from avault.vault.doubts import Doubter, last_write_of
from avault.vault.files import VAULT_LIMIT, FileChanged, look_at, read_file, write_file
from avault.vault.kept_guards import KeptGuards, lacks_guards
from avault.vault.last_seen import LastSeen, LoadRemarks
from avault.vault.machine import Machine, keep_retired, read_pin
from avault.vault.presence import is_of, read_vault, refuse_other, refuse_successor
from avault.vault.records import Vault, attempt
from avault.vault.statements import succeed_known, succeed_vault
from avault.vault.unsaved import Unsaved
from avault.vault.work_tree import is_amid_git, is_git_at_work

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.keys.nostr import Keys


class Store(Doubter):
    """The vault as it is loaded, and its file: one writer, and readers that notice a `git pull`.

    `vault` is served. `trouble` says why the file cannot be used although the loaded vault can:
    then reads go on and writes are refused, and what is served is kept, sealed, as unsaved.enc in
    the state directory. `warning` is what should be known about the pin.
    """

    def __init__(self, places: Places, keys: Keys, vault: Vault, digest: str) -> None:
        self.places, self.keys, self.vault, self.digest = places, keys, vault, digest
        self.me = Machine(places)
        self.file, self.remarks = LastSeen(), LoadRemarks()
        self.trouble: AvaultError | None = None
        self.unsaved = Unsaved(places, keys)
        self.kept_guards = KeptGuards(places, keys)
        self.know: Callable[[Store], None] = lambda _: None  # seals what is known of guards
        self.writing = False

    @property
    def machine(self) -> str:
        """This machine's name in generations."""
        return self.me.name

    @property
    def warning(self) -> str:
        """What should be known about the pin, and what is kept beside it."""
        return self.me.warning or self.kept_guards.warning

    @staticmethod
    def create(places: Places, keys: Keys, vault: Vault) -> Store:
        """Write the first avault.enc of an empty vault; raises AvaultError."""
        store = Store(places, keys, vault, "")
        store.replace(vault.copy(), "")
        return store

    @staticmethod
    def read(places: Places, keys: Keys, content: dict[str, Any]) -> Store:
        """Open avault.enc; raises Tampered, Denied if it is not that of unlock.json's content."""
        data = read_vault(places)
        vault = open_vault(data, keys)
        refuse_other(vault, content)
        return Store(places, keys, vault, sha256(data).hex())

    @staticmethod
    def load(
        places: Places, keys: Keys, content: dict[str, Any], accept_rollback: bool = False
    ) -> Store:
        """Open avault.enc and hold it against the pin; raises Tampered.

        Where it cannot be used, unsaved.enc is served in its place, if it is for who opens it too.
        """
        pin = read_pin(places)
        kept = Store.read_kept(places, keys, content, pin)
        try:
            store = Store.read(places, keys, content)
            draft = store.kept_guards.join(store.vault, content)
            refusal = store.compare(pin) if pin else None
            if kept and not refusal and not store.vault.is_after(kept.vault.generation):
                refusal = "avault.enc is older than what was served last"
            hint = "get the latest (git pull), or take this one: avault unlock --accept-rollback"
            if refusal and not accept_rollback:
                raise Tampered(refusal, hint)
        except Tampered as error:
            if not kept or not is_of(kept.vault, content):
                raise succeed_known(places, content) or error from None
            kept.file.state, kept.trouble = kept.look(), succeed_vault(places, kept.vault) or error
            return kept
        vault = store.vault
        store.unsaved.forget(vault)
        if pin and store.me.is_followed(pin, vault) and not vault.is_after(pin["generation"]):
            store.me.rename()  # it is not known here what that has written
            lacks = "the vault lacks writes that this machine knew under the key before"
            store.remarks.lacks = lacks
        before, first = (pin or {}).get("operator"), to_npub(vault.operator)
        if before not in (None, first):
            store.me.seen = str(before)
            store.remarks.succeeded = f"the first operator is {first} now, and was {before}"
        if refusal:
            store.rename(draft, (pin or {}).get("since"))  # what is missing comes by a merge
            keep_retired(draft, pin or {}, store.machine)
        if refusal or lacks_guards(vault, draft):
            draft.sources = [store.digest]
            store.replace(draft, store.digest)
        elif not pin or not {"agent", "operator"} <= {*pin} or pin["hash"] != store.digest:
            store.pin()
        store.kept_guards.keep(store.vault)
        if refusal:
            store.remarks.rollback, store.remarks.accepted = refusal, store.digest
        if not pin:
            store.me.warning = (
                "no pin.json: whether this is an older copy of the vault could not be seen"
            )
        return store

    @staticmethod
    def read_kept(
        places: Places, keys: Keys, content: dict[str, Any], pin: dict[str, Any] | None
    ) -> Store | None:
        """The vault of unsaved.enc; None where there is none that is ours and as new as the pin."""
        vault = Unsaved(places, keys).read(content["vault"])
        if not vault or not pin:
            return None
        store = Store(places, keys, vault, vault.sources[0])
        store.unsaved.digest = store.digest
        try:
            store.vault = store.kept_guards.join(vault, content)
        except Tampered:
            return None
        return None if store.compare(pin) else store

    def keep(self) -> None:
        """Write what is served to unsaved.enc; raises AvaultError."""
        self.unsaved.keep(self.vault, self.digest)

    def is_safe(self) -> bool:
        """Whether what is served is on the disk, in one file or the other."""
        return not self.trouble or self.unsaved.digest == self.digest

    def put_back(self) -> bool:
        """Write what is served over an avault.enc that cannot be used, which stays as damaged.enc.

        Whether it was needed; raises AvaultError.
        """
        self.notice()
        if not self.trouble:
            return False
        if self.doubted:
            return self.go_on()
        if isinstance(self.trouble, Locked):  # the key was rotated: this would undo it
            raise self.trouble
        path, over = self.places.file("avault.enc"), ""
        if os.path.lexists(path):
            found = read_file(path, VAULT_LIMIT)
            write_file(self.places.own("damaged.enc"), found)
            over = sha256(found).hex()
        draft = self.vault.copy()
        draft.sources = [self.digest]
        self.replace(draft, over)
        self.trouble = None
        self.unsaved.forget(self.vault)
        return True

    def compare(self, pin: dict[str, Any]) -> str | None:
        """Why the vault on the disk cannot be what follows the pinned one; None if it can."""
        return self.me.compare(pin, self.vault, self.digest)

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
        if self.doubted or (seen := self.look()) == self.file.state:
            self.file.amid_git = self.file.amid_git and is_amid_git(self.places.dir)
            return
        self.file.state = seen
        try:
            data = read_vault(self.places)
            self.trouble = None
            if sha256(data).hex() != self.digest:
                self.take(open_vault(data, self.keys), sha256(data).hex(), is_reading)
            if self.unsaved.digest and self.file.state:
                self.unsaved.forget(self.vault)
        except AvaultError as error:
            self.trouble = succeed_vault(self.places, self.vault) or error
            if not isinstance(error, Tampered | Locked):
                self.file.state = ()  # a full disk or the like: that ends without a change of it

    def take(self, found: Vault, digest: str, is_reading: bool) -> None:
        """Go on from another state of the vault that was found on the disk; raises Tampered."""
        ours = self.vault
        if not found.is_of(ours):
            raise Tampered(
                "avault.enc was replaced by that of another vault", "take it from git history"
            )
        me = self.machine
        is_ours = digest == self.file.written
        if not is_ours and found.generation.get(me, 0) > ours.generation.get(me, 0):
            raise Tampered(
                "another machine writes under this one's name: is one a clone of the other?",
                "save what is served: avault export",
            )
        if found.generation == ours.generation or ours.is_after(found.generation):
            is_over = not is_amid_git(self.places.dir) and not is_git_at_work(self.places.dir)
            if self.file.amid_git and is_over:  # aborted: what was confirmed is written again
                again = ours.copy()
                again.sources = sorted([self.digest, digest])
                self.replace(again, digest)
                return
            if self.file.amid_git:
                self.file.state = ()  # it may end without another change of the file
            raise Tampered(
                "avault.enc was replaced by an older one",
                "git pull, or avault restore --unsaved; "
                "to take the older one, lock, then: avault unlock --accept-rollback",
            )
        is_whole = found.is_after(ours.generation) and not lacks_guards(found, ours)
        merged = found if is_whole else ours.merge(found)
        refuse_successor(ours, merged)
        if merged is found:
            self.vault, self.digest = found, digest
            self.pin()
        elif is_reading and is_git_at_work(self.places.dir):
            # a rebase shows one side after the other, and stops at a file that changes meanwhile:
            # look again
            self.file.state = ()
        else:
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
            self.me.keep_up(draft)
            draft.sources = [self.digest]
            results = [attempt(change, draft) for change in changes]
            if all(results):
                return results
            try:
                self.replace(draft, self.digest)
                self.notice()  # what came since is merged before anybody is told that it is written
                return results
            except (FileChanged, Tampered, NotFound):
                self.file.state = ()  # a git pull came in between: apply them to what it brought
            except AvaultError as error:
                return [error] * len(changes)
        busy = self.trouble or AvaultError(
            "the vault's file keeps changing", "stop what else writes it, then try again"
        )
        return [busy] * len(changes)

    def replace(self, draft: Vault, over: str) -> None:
        """Write a vault as this machine's next generation, over the file with that hash ("": none).

        Raises FileChanged if another file is there, and AvaultError.
        """
        self.me.count(draft)
        data = seal_vault(draft, self.keys)
        self.file.written = sha256(data).hex()

        def check(written: bytes) -> None:
            if open_vault(written, self.keys).generation != draft.generation:
                raise AvaultError(
                    "the vault that was written does not open", "the file is as it was before"
                )

        write_file(self.places.file("avault.enc"), data, check, over)
        self.file.amid_git = is_amid_git(self.places.dir)
        # to be looked at: a pull may have come since
        self.vault, self.digest, self.file.state = draft, self.file.written, ()
        self.pin()

    def open_copy(self, data: bytes) -> Vault:
        """Another copy of this vault, of any generation; raises Tampered."""
        vault = open_vault(data, self.keys)
        if not vault.is_of(self.vault):
            raise Tampered("that is a copy of another vault")
        return vault

    def offer(self, ours: bytes, theirs: bytes) -> tuple[bytes, Vault]:
        """Two copies merged, as the bytes of a new avault.enc for git to put in place.

        A copy that has all of the other is the merge, else it is counted as git's; raises Tampered.
        """
        if self.doubted:
            raise self.doubted
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
        merged = one.merge(other)
        merged.sources = sorted([sha256(ours).hex(), sha256(theirs).hex()])
        self.me.count_offer(merged)
        return seal_vault(merged, self.keys), merged

    def absorb(self, draft: Vault, theirs: bytes) -> None:
        """Merge another copy into a draft of the next generation; raises Tampered."""
        other = self.open_copy(theirs)
        self.doubt(other.generation, last_write_of(other, self.machine))
        merged = draft.merge(other)
        refuse_successor(draft, merged)
        draft.take(merged)
        draft.sources = sorted({*draft.sources, sha256(theirs).hex()})

    def pin(self) -> None:
        """Remember what is served, before anybody is told: nothing older is accepted again."""
        self.me.pin(self.vault, self.digest)
        self.kept_guards.keep(self.vault)
        self.know(self)

    def note_seen(self) -> None:
        """A person has opened the vault, and is told who its first operator is: pin that one."""
        if self.me.seen:
            self.me.seen = ""
            self.pin()
