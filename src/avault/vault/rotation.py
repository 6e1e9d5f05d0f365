"""A rotation on the disk: files under the new key are staged, count at once, are put in place.

It is staged in rotation.new, in the state directory, and renamed to rotation: from then on it
counts, and there is no way back. What is cut off after that is completed at the next start, where
nobody has a key. So the old agent's key signs what is staged: of another program's nothing is put
in place.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from typing import TYPE_CHECKING

from avault.errors import AvaultError, NotFound, Tampered
from avault.keys.nostr import parse_npub, read_signed, sign_text, to_npub
from avault.places import Places, sha256
from avault.vault.files import (
    VAULT_LIMIT,
    find_free,
    hash_file,
    read_file,
    refuse_foreign,
    sync_directory,
    write_file,
)
from avault.vault.machine import read_pin
from avault.vault.presence import read_sealed

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from avault.keys.nostr import Keys
    from avault.vault.records import Vault


STAGED, READY, DONE, REFUSED = "rotation.new", "rotation", "rotation.old", "rotation.refused"
MANIFEST = "manifest"
IN_VAULT = ("avault.enc", "nsec.enc", "nip46.json")
SHARED = "shared-"  # how the custodians' files begin that belong there too
# the last of all, as it says which agent has to have signed
LAST = ("log.json", "pin.json", "pairing.json", "unlock.json")
LOGS = ("access.log", "refused.log")  # and the older ones, whose names begin so


class Stage(Places):
    """The places of a vault whose files are in one directory, to be put in their own later.

    `files` has the SHA-256 (hex) of each that is to be there, as it was meant: the disk is not
    asked. `counts` says whether there is no way back.
    """

    __slots__ = ("at", "counts", "files")

    def __init__(self, places: Places, name: str = STAGED) -> None:
        for each in Places.__slots__:
            setattr(self, each, getattr(places, each))
        self.at, self.counts = places.own(name), False
        self.files: dict[str, str] = {}

    def own(self, name: str) -> str:
        """The path of a staged file."""
        return os.path.join(self.at, name)

    def file(self, name: str) -> str:
        """The path of a staged file, of which the state directory may have one of that name."""
        return self.own(SHARED + name if name.startswith("custody-") else name)

    def put(self, name: str, data: bytes, check: Callable[[bytes], None] | None = None) -> None:
        """Stage a file; raises AvaultError."""
        write_file(self.own(name), data, check)
        self.files[name] = sha256(data).hex()


def begin_stage(places: Places) -> Stage:
    """An empty directory for the files of a rotation."""
    stage = Stage(places)
    drop(stage.at)
    try:
        os.mkdir(stage.at, 0o700)
    except OSError as error:
        raise AvaultError(f"cannot make {stage.at}: {error.strerror}") from None
    return stage


def drop(path: str) -> None:
    """Take away what is at a path of ours, whatever it is, as far as that can be done."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        os.unlink(path)


def commit(stage: Stage, keys: Keys, vault: Vault, over: str) -> None:
    """Have what is staged count, by the signature of the old agent's `keys`.

    `vault` is the new agent's, and goes on from the avault.enc whose hash is `over`. Raises
    AvaultError; where the stage counts all the same, it is what comes after that has failed.
    """
    for name in {*os.listdir(stage.at)} - {*stage.files}:
        drop(stage.own(name))
    for name, digest in stage.files.items():
        refuse_foreign(settled_path(stage, name))
        if hash_file(stage.own(name)) != digest:
            raise Tampered(f"{stage.own(name)} is not what was staged", "nothing has changed")
    what = {"type": "avault/rotation", "version": 1, "vault": vault.identity, "over": over}
    what |= {"agent": to_npub(vault.agent), "files": dict(sorted(stage.files.items()))}
    write_file(stage.own(MANIFEST), sign_text(keys, json.dumps(what)).encode())
    ready = os.path.join(stage.state, READY)
    try:
        os.rename(stage.at, ready)
        stage.counts = True
        sync_directory(stage.state)
    except OSError as error:
        raise AvaultError(f"cannot write {ready}: {error.strerror}") from None


def settled_path(places: Places, name: str) -> str:
    """Where a file of a rotation belongs."""
    if name.startswith(SHARED):
        return os.path.join(places.dir, name.removeprefix(SHARED))
    return os.path.join(places.dir if name in IN_VAULT else places.state, name)


def is_at(path: str, digest: str) -> bool:
    """Whether the file with this SHA-256 is there; raises AvaultError where that is not known."""
    try:
        return hash_file(path) == digest
    except Tampered:  # a directory, or the like
        return False


def is_committed(places: Places, agent: str) -> bool:
    """Whether a rotation to that agent (an npub) counts, be it in place or not.

    Where that cannot be told, it may.
    """
    ready = Stage(places, READY)
    try:
        mine = read_sealed("unlock", places.own("unlock.json"))["agent"]
        if mine == agent or not os.path.lexists(ready.at):
            return bool(mine == agent)
        author, said = read_manifest(ready)
        return author == parse_npub(mine) and said["agent"] == agent
    except Tampered:
        return False
    except AvaultError:
        return True


def complete_rotation(places: Places) -> str | None:
    """Put the files of a rotation that counts in their places, also if that was begun before.

    What was not made by this vault's agent is not: it is set aside, and that is what is given, as a
    sentence. So is one that does not go on from what this machine has seen last, unless it is in
    place in part: that one is completed, or nothing is. Raises AvaultError where it cannot be.
    """
    for name in (STAGED, DONE):
        drop(places.own(name))
    if not os.path.lexists(places.own(READY)):
        return None
    try:
        return settle_rotation(places, Stage(places, READY))
    except OSError as error:
        raise AvaultError(
            f"a rotation cannot be completed: {error.filename}: {error.strerror}",
            "mend that, then: avault unlock",
        ) from None


def settle_rotation(places: Places, ready: Stage) -> str | None:
    """`complete_rotation`, for one that is there; raises OSError too."""
    unlock = places.own("unlock.json")
    mine, is_begun = read_sealed("unlock", unlock), False
    try:
        author, said = read_manifest(ready)
        files = said["files"]
        is_done = hash_file(unlock) == files["unlock.json"]
        if (parse_npub(mine["agent"]) != author and not is_done) or said["vault"] != mine["vault"]:
            raise Tampered("another key has signed it")
        places_of = {name: settled_path(places, name) for name in files}
        is_begun = any(is_at(path, files[name]) for name, path in places_of.items())
        if not is_done:
            check_whole(places, ready, files, str(said["over"]))
    except Tampered as error:
        if is_begun:
            hint = f"it is in place in part, so the key before opens nothing: look at {ready.at}"
            raise Tampered(f"a rotation cannot be completed: {error.message}", hint) from None
        drop(places.own(REFUSED))
        os.rename(ready.at, places.own(REFUSED))
        return f"{places.own(REFUSED)} is no rotation by this vault's agent: {error.message}"
    if not is_done:
        put_in_place(places, ready, files, str(said["over"]), author)
    os.rename(ready.at, places.own(DONE))
    drop(places.own(DONE))
    return None


def read_manifest(ready: Stage) -> tuple[str, dict[str, Any]]:
    """Who has signed a rotation (hex), and what its manifest says; raises Tampered."""
    try:
        is_directory = os.path.isdir(ready.at) and not os.path.islink(ready.at)
        if not is_directory or os.stat(ready.at).st_uid != os.getuid():
            raise Tampered("it is not a directory of ours")
        author, text = read_signed(read_file(ready.own(MANIFEST)).decode())
        said: dict[str, Any] = json.loads(text)
        needed = {*IN_VAULT, *LAST} - {"pairing.json"}
        if said["type"] != "avault/rotation" or not needed <= {*said["files"]}:
            raise Tampered("it is not whole")
        if any(os.path.basename(name) != name for name in said["files"]):
            raise Tampered("it has files that belong elsewhere")
        return author, {"agent": "", **said, "files": dict(said["files"])}
    except (NotFound, ValueError, TypeError, KeyError, RecursionError):
        raise Tampered("it has no manifest that is signed") from None


def check_whole(places: Places, ready: Stage, files: dict[str, str], over: str) -> None:
    """Raise Tampered unless all that is not in place yet is there, and the time is the right one.

    That is the exact state of the vault that was rotated, the last that this machine has seen.
    """
    for name, digest in files.items():
        if not (is_at(ready.own(name), digest) or is_at(settled_path(places, name), digest)):
            raise Tampered("what is in it was changed")
    pin = read_pin(places)
    if pin and pin["hash"] not in (over, files["avault.enc"]):
        raise Tampered("it goes on from another state of the vault than this machine has seen last")


def put_in_place(places: Places, ready: Stage, files: dict[str, str], over: str, old: str) -> None:
    """Copy each file to where it belongs, if it is not there yet; the one that says so, last."""
    there = hash_file(places.file("avault.enc"))
    if there not in ("", over, files["avault.enc"]):  # git put it there since
        found = read_file(places.file("avault.enc"), VAULT_LIMIT)
        write_file(find_free(places.own("replaced"), ".enc"), found)
    if hash_file(places.own("log.json")) != files["log.json"]:
        set_logs_aside(places, old)
    others = sorted({*files} - {*IN_VAULT, *LAST})
    for name in (each for each in (*IN_VAULT, *others, *LAST) if each in files):
        place = settled_path(places, name)
        if hash_file(place) != files[name]:
            data = read_file(ready.own(name), VAULT_LIMIT)
            if sha256(data).hex() != files[name]:
                raise Tampered(
                    f"{ready.own(name)} was changed meanwhile", "start again: avault unlock"
                )
            write_file(place, data, over=there if name == "avault.enc" else None)


def find_logs(places: Places) -> list[str]:
    """The names of the access log's files."""
    return sorted(
        name for name in os.listdir(places.state) if name.startswith(LOGS) or name == "log.json"
    )


def name_of_logs(places: Places, agent: str) -> str:
    """Where the access log belongs that an agent's key (hex) has signed: a directory, or none yet.

    One that was begun is gone on with.
    """
    logs, stem, number = {*find_logs(places)}, f"log-{agent[:16]}", 1
    path = places.own(stem)
    while os.path.lexists(path):
        is_ours = os.path.isdir(path) and not os.path.islink(path)
        if is_ours and not logs & {*os.listdir(path)}:
            break
        number += 1
        path = places.own(f"{stem}-{number}")
    return path


def set_logs_aside(places: Places, agent: str) -> None:
    """Move the access log that an agent's key (hex) has signed to a directory of its own.

    Raises AvaultError.
    """
    aside = name_of_logs(places, agent)
    try:
        os.makedirs(aside, 0o700, exist_ok=True)
        for name in find_logs(places):
            os.rename(places.own(name), os.path.join(aside, name))
    except OSError as error:
        raise AvaultError(f"cannot move the access log to {aside}: {error.strerror}") from None
