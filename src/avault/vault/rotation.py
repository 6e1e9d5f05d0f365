"""A rotation on the disk: files under the new key are staged, count at once, are put in place.

It is staged in rotation.new, in the state directory, and renamed to rotation: from then on it
counts. What is cut off after that is completed at the next start, where nobody has a key. So the
old agent's key signs what is staged: of another program's nothing is put in place.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

from avault.errors import AvaultError, NotFound, Tampered
from avault.nostr import parse_npub, read_signed, sign
from avault.places import Places, sha256
from avault.vault.files import VAULT_LIMIT, read_file, refuse_foreign, sync_directory, write_file
from avault.vault.machine import read_pin
from avault.vault.own_files import decode_file
from avault.vault.presence import read_sealed

if TYPE_CHECKING:
    from typing import Any

    from avault.nostr import Keys
    from avault.vault.records import Vault


STAGED, READY, DONE, REFUSED = "rotation.new", "rotation", "rotation.old", "rotation.refused"
MANIFEST = "manifest"
IN_VAULT = ("avault.enc", "nsec.enc", "nip46.json")
# the last of all, as it says which agent has to have signed
LAST = ("log.json", "pin.json", "pairing.json", "unlock.json")
LOGS = ("access.log", "refused.log")  # and the older ones, whose names begin so


class Stage(Places):
    """The places of a vault whose files are in one directory, to be put in their own later."""

    __slots__ = ("at",)

    def __init__(self, places: Places, name: str = STAGED) -> None:
        for each in Places.__slots__:
            setattr(self, each, getattr(places, each))
        self.at = places.own(name)

    def own(self, name: str) -> str:
        """The path of a staged file."""
        return os.path.join(self.at, name)

    def file(self, name: str) -> str:
        """The path of a staged file."""
        return self.own(name)


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
    """Take a directory of ours away, if it is there."""
    if os.path.islink(path):
        os.unlink(path)
    shutil.rmtree(path, ignore_errors=True)


def commit(stage: Stage, keys: Keys, vault: Vault, over: str) -> None:
    """Have what is staged count, by the signature of the old agent's `keys`.

    `over` is the hash of the avault.enc that it takes the place of. Raises AvaultError.
    """
    names = sorted(os.listdir(stage.at))
    for name in names:
        refuse_foreign(settled_path(stage, name))
    files = {name: hash_file(stage.own(name)) for name in names}
    what = {"type": "avault/rotation", "version": 1, "vault": vault.identity, "over": over}
    write_file(stage.own(MANIFEST), sign(keys, json.dumps({**what, "files": files})).encode())
    ready = os.path.join(stage.state, READY)
    try:
        os.rename(stage.at, ready)
        sync_directory(stage.state)
    except OSError as error:
        raise AvaultError(f"cannot write {ready}: {error.strerror}") from None


def settled_path(places: Places, name: str) -> str:
    """Where a file of a rotation belongs."""
    return os.path.join(places.dir if name in IN_VAULT else places.state, name)


def hash_file(path: str) -> str:
    """The SHA-256 of a file in hex; "" where there is none."""
    try:
        return sha256(read_file(path, VAULT_LIMIT)).hex()
    except NotFound:
        return ""


def complete_rotation(places: Places) -> str | None:
    """Put the files of a rotation that counts in their places, also if that was begun before.

    What was not made by this vault's agent is not: it is set aside, and that is what is given, as a
    sentence. Raises AvaultError where it cannot be completed.
    """
    for name in (STAGED, DONE):
        if os.path.lexists(places.own(name)):
            drop(places.own(name))
    ready = Stage(places, READY)
    if not os.path.lexists(ready.at):
        return None
    try:
        files, over, old = read_manifest(places, ready)
    except Tampered as error:
        drop(places.own(REFUSED))
        os.rename(ready.at, places.own(REFUSED))
        return f"{places.own(REFUSED)} is no rotation by this vault's agent: {error.message}"
    if hash_file(places.own("unlock.json")) != files["unlock.json"]:
        put_in_place(places, ready, files, over, old)
    os.rename(ready.at, places.own(DONE))
    drop(places.own(DONE))
    return None


def read_manifest(places: Places, ready: Stage) -> tuple[dict[str, str], str, str]:
    """What is staged, by hash; what it takes the place of; and the old agent. Raises Tampered.

    Only this vault's agent, as unlock.json names it, may have signed; and what is staged may not
    be older than what this machine has seen. AvaultError where that cannot be told.
    """
    try:
        if os.path.islink(ready.at) or os.stat(ready.at).st_uid != os.getuid():
            raise Tampered("it is not a directory of ours")
        author, text = read_signed(read_file(ready.own(MANIFEST)).decode())
        said: dict[str, Any] = json.loads(text)
        files = dict(said["files"])
        needed = {*IN_VAULT, *LAST} - {"pairing.json"}
        if said["type"] != "avault/rotation" or not needed <= {*files}:
            raise Tampered("it is not whole")
        names = {*os.listdir(ready.at)} - {MANIFEST}
    except (OSError, NotFound, ValueError, TypeError, KeyError, RecursionError):
        raise Tampered("it has no manifest that is signed") from None
    if names != {*files} or any(hash_file(ready.own(name)) != files[name] for name in files):
        raise Tampered("what is in it was changed")
    mine = read_sealed("unlock", places.own("unlock.json"))
    is_done = hash_file(places.own("unlock.json")) == files["unlock.json"]
    if (parse_npub(mine["agent"]) != author and not is_done) or said["vault"] != mine["vault"]:
        raise Tampered("another key has signed it")
    pin, path = read_pin(places), ready.own("pin.json")
    found = decode_file("pin", read_file(path), path)["generation"]
    seen = pin["generation"] if pin else {}
    if any(found.get(name, 0) < count for name, count in seen.items()):
        raise Tampered("it is older than what this machine has seen")
    return files, str(said["over"]), author


def put_in_place(places: Places, ready: Stage, files: dict[str, str], over: str, old: str) -> None:
    """Copy each file to where it belongs, if it is not there yet; the one that says so, last."""
    there = hash_file(places.file("avault.enc"))
    if there not in ("", over, files["avault.enc"]):  # git put it there since
        write_file(places.own("replaced.enc"), read_file(places.file("avault.enc"), VAULT_LIMIT))
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
            write_file(place, data)


def name_of_logs(places: Places, agent: str) -> str:
    """Where the access log is kept that was signed by an agent's key (hex) before this one."""
    return places.own(f"log-{agent[:16]}")


def set_logs_aside(places: Places, agent: str) -> None:
    """Move the access log that an agent's key (hex) has signed to a directory of its own."""
    aside = name_of_logs(places, agent)
    os.makedirs(aside, 0o700, exist_ok=True)
    for name in sorted(os.listdir(places.state)):
        if name.startswith(LOGS) or name == "log.json":
            os.rename(places.own(name), os.path.join(aside, name))
