"""Checks of files: the vault, its recovery copy, the state directory, other vaults' remains."""

from __future__ import annotations

import binascii
import functools
import os
import shlex
import stat
from typing import TYPE_CHECKING

from avault.doctor.patient import Finding, Patient, bad
from avault.doctor.phone import load_pairing
from avault.errors import AvaultError, NotFound, Tampered
from avault.git.repository import Repository
from avault.nostr import parse_npub
from avault.places import Places, state_home, vault_id
from avault.process import lock_directory
from avault.service.unit import is_listening
from avault.systemd import NoDaemon
from avault.vault.files import read_file, sync_directory, write_file
from avault.vault.own_files import (
    FIELDS,
    OUR_FILES,
    clean_directory,
    complete_attributes,
    decode_file,
    encode_hints,
    read_hints,
)
from avault.vault.presence import read_sealed, read_vault
from avault.vault.recovery import check_recovery

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_vault_directory(patient: Patient) -> Iterator[Finding]:
    """The vault directory: private, and its files whole and of one vault."""
    places = patient.places
    if not patient.has_vault():
        yield Finding("bad", f"no vault in {places.dir}", "avault init, or name one with --dir")
        return
    yield from check_private(places.dir)
    identities = {}
    for name, read in NAME_READERS.items():
        try:
            identities[name] = read(places.file(name))
        except AvaultError as error:
            fix = (
                functools.partial(write_hints, patient)
                if name == "nip46.json" and can_write_hints(patient)
                else None
            )
            yield Finding(
                "bad",
                error.message,
                "avault doctor --fix" if fix else bring_back(places, name),
                fix,
            )
    try:
        check_payloads(places.file("avault.enc"), read_vault(places))
    except AvaultError as error:
        yield Finding(
            "bad",
            error.message,
            error.hint if error.hint == "avault sync" else bring_back(places, "avault.enc"),
        )
    # an open vault has looked itself
    if "nsec.enc" in identities and patient.has("unlock.json") and not patient.is_open():
        try:
            check_recovery(places)
        except AvaultError as error:
            yield Finding("warn", error.message, error.hint)
    if len(set(identities.values())) > 1:
        yield Finding("bad", f"{' and '.join(identities)} are of different vaults", FROM_BACKUP)
    yield from check_attributes(places)
    kind = filesystem_of(places.dir)
    if kind in NETWORKED:
        yield Finding(
            "warn",
            f"the vault is on {kind}, where other machines may write it, and where permissions may not hold",
            "keep it on a disk of this machine, and share it by git",
        )
    yield Finding("ok", f"{places.dir} is whole and private")


FROM_BACKUP = "take it from git history or from a backup"
LOOKS_BACK = 50  # commits of a file


def bring_back(places: Places, name: str) -> str:
    """The command that puts the latest whole version of a file back that git has; else where to look."""
    path = places.file(name)
    try:
        repository = Repository(places.dir)
        inside = repository.paths[name]
        for commit in (
            repository.run("rev-list", "-n", str(LOOKS_BACK), "HEAD", "--", inside).decode().split()
        ):
            found = repository.tree(commit).get(inside)
            if found and is_whole(name, path, repository.blob(found)):
                return f"git -C {shlex.quote(repository.top)} checkout {commit[:12]} -- {shlex.quote(inside)}"
    except AvaultError:
        pass
    return FROM_BACKUP


def is_whole(name: str, path: str, data: bytes) -> bool:
    """Whether these bytes can be that file of the vault."""
    try:
        if name == "avault.enc":
            check_payloads(path, data)
        else:
            decode_file({"nsec.enc": "nsec", "nip46.json": "hints"}[name], data, path)
    except AvaultError:
        return False
    return True


def can_write_hints(patient: Patient) -> bool:
    """Whether this machine knows what stands in nip46.json."""
    try:
        patient.sealed()
    except AvaultError:
        return False
    return load_pairing(patient) is not None and not os.path.islink(
        patient.places.file("nip46.json")
    )


def write_hints(patient: Patient) -> str:
    """Write nip46.json from what this machine knows; raises AvaultError."""
    content, pairing, path = (
        patient.sealed(),
        load_pairing(patient),
        patient.places.file("nip46.json"),
    )
    relays = pairing.relays if pairing else []
    write_file(
        path,
        encode_hints(
            parse_npub(content["agent"]), parse_npub(content["operator"]), relays, content["name"]
        ),
    )
    return f"wrote {path}"


def read_recovery_names(path: str) -> tuple[str, str]:
    """Agent and operator as nsec.enc names them; raises AvaultError."""
    content = read_sealed("nsec", path)
    return content["agent"], content["operator"]


def read_hinted_names(path: str) -> tuple[str, str]:
    """Agent and operator as nip46.json names them; raises AvaultError."""
    content = read_hints(path)
    return content["agent_npub"], content["signer_npub"]


NAME_READERS = {"nsec.enc": read_recovery_names, "nip46.json": read_hinted_names}


def check_private(directory: str) -> Iterator[Finding]:
    """A directory that should be ours alone."""
    try:
        info = os.stat(directory)
    except OSError as error:
        yield Finding("bad", f"cannot look at {directory}: {error.strerror}")
        return
    if info.st_uid != os.getuid():
        is_home = os.path.realpath(directory).startswith(
            os.path.realpath(os.path.expanduser("~")) + os.sep
        )
        give_back = (
            f"sudo chown -R {os.getuid()} {shlex.quote(directory)}"
            if os.getuid() and is_home
            else None
        )
        yield Finding("bad", f"{directory} belongs to another user", give_back)
    elif mode := stat.S_IMODE(info.st_mode) & 0o077:
        text = f"others can enter {directory} ({stat.S_IMODE(info.st_mode):04o})"
        yield Finding(
            "bad",
            text,
            f"chmod 700 {shlex.quote(directory)}",
            functools.partial(make_private, directory, mode),
        )


def make_private(path: str, mode: int) -> str:
    """Take the rights of others away from a file or directory."""
    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) & ~mode)
    return f"made {path} private"


def check_payloads(path: str, data: bytes) -> None:
    """Raise Tampered unless avault.enc is made of NIP-44 v2 payloads, one a line: what can be told without the key."""
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        try:
            payload = binascii.a2b_base64(line, strict_mode=True)
        except binascii.Error:
            payload = b""
        if len(payload) < 99 or payload[0] != 2 or not data.endswith(b"\n"):
            what = (
                "holds a merge conflict of git's"
                if line.startswith((b"<<<<<<<", b"=======", b">>>>>>>"))
                else "is damaged"
            )
            hint = "avault sync" if "conflict" in what else FROM_BACKUP
            raise Tampered(f"{path} {what}, in line {number}", hint)


def check_attributes(places: Places) -> Iterator[Finding]:
    """.gitattributes, which keeps git from mixing two versions of a file line by line."""
    path = places.file(".gitattributes")
    try:
        wanted = complete_attributes(path)
        lines = read_file(path).splitlines() if os.path.lexists(path) else []
    except AvaultError as error:
        yield bad(error)
        return

    def add() -> str:
        write_file(path, wanted)
        return f"completed {path}"

    if [line for line in wanted.splitlines() if line not in lines and not line.startswith(b"#")]:
        yield Finding(
            "bad", f"{path} does not keep git from mixing ciphertexts", "avault doctor --fix", add
        )


JSON_KINDS = ("unlock", "pairing", "pin", "machine", "offered", "keychain", "recovery", "log")
STATE_KINDS = {f"{kind}.json": kind for kind in JSON_KINDS if kind in FIELDS}


def check_state(patient: Patient) -> Iterator[Finding]:
    """The state directory: this machine's own part, which is in no repository."""
    places = patient.places
    if not os.path.isdir(places.state):
        if patient.has_vault():
            yield Finding(
                "bad",
                f"this machine has never opened this vault: there is no {places.state}",
                "avault recover",
            )
        else:
            yield Finding("off", "no vault, no state")
        return
    yield from check_private(places.state)
    for name in sorted(os.listdir(places.state)):
        yield from check_own_file(places.own(name))
    try:
        ours, theirs = (
            read_sealed(*each)
            for each in (("unlock", places.own("unlock.json")), ("nsec", places.file("nsec.enc")))
        )
        if any(ours[name] != theirs[name] for name in ("vault", "agent", "operator")):
            yield Finding(
                "bad",
                f"{places.state} is of another vault than {places.dir}",
                "put the right directory back; if it is right now: avault forget, then avault recover",
            )
    except AvaultError:
        pass  # said already
    if filesystem_of(places.state) in ("tmpfs", "ramfs"):
        yield Finding(
            "warn",
            f"{places.state} is in memory: a reboot removes the pairing",
            "set XDG_STATE_HOME to a place on a disk",
        )
    yield Finding("ok", f"{places.state} is whole and private")


def check_own_file(path: str) -> Iterator[Finding]:
    """A file of the state directory: private, and whole. One that is gone meanwhile was somebody's temporary file."""
    name = os.path.basename(path)
    try:
        mode = os.lstat(path).st_mode
        if (open_to := stat.S_IMODE(mode) & 0o077) and not stat.S_ISLNK(mode):
            yield Finding(
                "bad",
                f"others may read {path}",
                f"chmod go= {shlex.quote(path)}",
                functools.partial(make_private, path, open_to),
            )
        if name in STATE_KINDS:
            decode_file(STATE_KINDS[name], read_file(path), path)
    except (FileNotFoundError, NotFound):
        return
    except AvaultError as error:
        yield bad(error)


def check_leftovers(patient: Patient) -> Iterator[Finding]:
    """Temporary files that a killed write left behind; while a daemon runs, they may be its own."""
    places = patient.places
    found = [
        os.path.join(directory, name)
        for directory in (places.dir, places.state)
        if os.path.isdir(directory)
        for name in sorted(os.listdir(directory))
        if name.endswith(".tmp") and name[:-21] in {f".{each}" for each in OUR_FILES}
    ]

    def clean() -> str:
        fd = lock_directory(places.dir)
        try:
            for directory in (places.dir, places.state):
                if os.path.isdir(directory):
                    clean_directory(directory)
        finally:
            os.close(fd)
        return "removed what killed writes left behind"

    if found and isinstance(patient.silence, NoDaemon):
        yield Finding("warn", f"a killed write left {found[0]}", f"rm {shlex.join(found)}", clean)
    else:
        yield Finding("ok", "no write left anything behind")


def check_orphans(patient: Patient) -> Iterator[Finding]:
    """State of this vault under another name: a directory that was moved or restored has a new id."""
    places, home = patient.places, state_home()
    try:
        identity = read_sealed("nsec", places.file("nsec.enc"))["vault"]
    except AvaultError:
        identity = None
    is_new = not patient.has("unlock.json") and not patient.has("pairing.json")
    for name in sorted(os.listdir(home)) if identity and os.path.isdir(home) else []:
        other = os.path.join(home, name)
        if name == places.id or not is_state_of(other, identity) or is_in_use(other):
            continue
        if is_new:
            text = f"{other} is this vault's state, from where the directory was before"
            yield Finding(
                "bad",
                text,
                "avault doctor --fix",
                functools.partial(take_over, other, places.state),
            )
            is_new = False
        else:
            text = f"{other} is of another copy of this vault"
            yield Finding("warn", text, f"if that copy is no more: rm -r {shlex.quote(other)}")
    yield Finding(
        "ok" if identity else "off",
        "no state of this vault under another name" if identity else "no vault to compare with",
    )


def is_state_of(directory: str, identity: str) -> bool:
    """Whether a state directory is that of a vault."""
    try:
        return bool(
            read_sealed("unlock", os.path.join(directory, "unlock.json"))["vault"] == identity
        )
    except AvaultError:
        return False


def is_in_use(directory: str) -> bool:
    """Whether a state directory is that of a vault in one of the usual places, or of a daemon that runs."""
    usual = map(os.path.expanduser, ("~/clawd/.avault", "~/.openclaw/workspace/.avault"))
    if os.path.basename(directory) in {vault_id(path) for path in usual if os.path.isdir(path)}:
        return True
    try:
        return is_listening([os.fsdecode(read_file(os.path.join(directory, "socket")))])
    except AvaultError:
        return False


def take_over(other: str, own: str) -> str:
    """Make another state directory ours: renamed, or where ours was begun already, file by file, unlock.json last."""
    if not os.path.isdir(own):
        os.rename(other, own)
    else:
        for name in sorted(os.listdir(other), key=lambda name: name == "unlock.json"):
            os.replace(os.path.join(other, name), os.path.join(own, name))
        os.rmdir(other)
    sync_directory(os.path.dirname(own))
    return f"took {other} over as {own}"


NETWORKED = {
    "9p", "afs", "ceph", "cifs", "drvfs", "fuse.glusterfs", "fuse.rclone", "fuse.sshfs", "nfs", "nfs4", "prl_fs", "smb3", "smbfs",
    "vboxsf", "virtiofs",
}  # fmt: skip


def filesystem_of(path: str, mounts: str = "/proc/self/mountinfo") -> str | None:
    """The type of the file system that a path is on (proc_pid_mountinfo(5)); None where nobody says."""
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.split(" ") for line in file]
    except OSError:
        return None
    real, longest = os.path.realpath(path), ""
    kind = None
    for line in lines:
        point = line[4].encode().decode("unicode_escape") if "\\" in line[4] else line[4]
        if len(point) >= len(longest) and (real + "/").startswith(point.rstrip("/") + "/"):
            longest, kind = point, line[line.index("-", 6) + 1]
    return kind
